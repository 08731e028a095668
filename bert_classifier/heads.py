"""Heads: what the head of given weights means, compared with a task.

Shapes say how many logits there are, not what they stand for. That is in a
file beside the weights: Hugging Face's config.json, or the manifest of a run of
this program. A head that means something else is never used.
"""

import os
import re
from typing import NamedTuple, Optional

from bert_classifier import (
  coverage,
  files,
  hugging_face,
  output_dir,
  plain_texts,
  targets,
)
from bert_classifier.errors import UserError

# Names that Hugging Face's library makes up where nobody gave any.
_MADE_UP = re.compile(r"LABEL_\d+", re.IGNORECASE)
_ARCHITECTURE = "ForSequenceClassification"


class Comparison(NamedTuple):
  """The head of given weights, compared with a task.

  Attributes:
    order: for each label of the task the number of its row in the head; None
      where the rows are in the task's order, or nothing says otherwise.
    contradiction: why the head is not of this task, naming the file that says
      so; None where nothing contradicts.
    remedy: what to do if the head is of this task all the same.
  """

  order: Optional[tuple] = None
  contradiction: Optional[str] = None
  remedy: str = ""

  def explain_refusal(self):
    """Returns why nothing is computed without training."""
    return (
      f"{self.contradiction}, so the results would mean nothing. Add"
      " --do_train, which starts a fresh head, or give a checkpoint that was"
      f" fine-tuned on this task{self.remedy}"
    )


def read_manifest(checkpoint):
  """Returns the model settings in the manifest of a run's own checkpoint.

  {} where there is none: no checkpoint, one of another program, or one that was
  taken away from its manifest.

  Args:
    checkpoint: `checkpoints.Checkpoint`, or None.

  Raises:
    UserError: the manifest is damaged.
  """
  if checkpoint is None or checkpoint.kind != "tensorflow":
    return {}
  folder, name = os.path.split(checkpoint.path)
  # A released folder that became an output_dir holds foreign weights too.
  if not re.fullmatch(r"model\.ckpt-\d+", name):
    return {}
  return output_dir.inspect(folder or ".").settings.get("model", {})


def compare_head(checkpoint, manifest, task):
  """Returns the `Comparison` of the head of given weights with a task.

  Args:
    checkpoint: `checkpoints.Checkpoint`.
    manifest: what `read_manifest` gives for it.
    task: `task_choice.Task`.

  Raises:
    UserError: the labels in a Hugging Face configuration cannot be read.
  """
  if not any(name in checkpoint.shapes for name in coverage.HEAD):
    return Comparison()
  if manifest:
    return _compare_with_manifest(checkpoint, manifest, task)
  if checkpoint.kind != "huggingface" or not checkpoint.config_file:
    return Comparison()
  config = files.read_json(checkpoint.config_file)
  if not isinstance(config, dict):
    return Comparison()  # reading it as a configuration says what is wrong
  return _compare_with_config(checkpoint, config, task)


def _compare_with_manifest(checkpoint, manifest, task):
  now = {
    "task_name": task.trained_name,
    "problem_type": task.target.problem_type,
    **task.target.settings(),
  }
  differing = [
    f"{name} {output_dir.shorten(manifest[name])}, not"
    f" {output_dir.shorten(value)}"
    for name, value in now.items()
    if manifest.get(name, value) != value
  ]
  if not differing:
    return Comparison()
  return Comparison(
    contradiction=(
      f"{checkpoint.path} was trained with {' and '.join(differing)}, as"
      f" {output_dir.MANIFEST} beside it says"
    ),
    remedy=_explain_kind(manifest.get("problem_type"), task),
  )


def _explain_kind(problem_type, task):
  """Returns by which flag the task becomes one of another kind."""
  kind = targets.find_kind(problem_type)
  if kind in (None, targets.find_kind(task.target.problem_type)):
    return ""
  if kind == "single_label":
    return "; for a head of one class leave out --multi_label and --regression"
  return f"; if the task is of the head's kind, give --{kind}"


def _compare_with_config(checkpoint, config, task):
  path, target = checkpoint.config_file, task.target
  kinds = config.get("architectures") or []
  if not isinstance(kinds, list):
    raise UserError(
      f"{path}: architectures is {kinds!r:.80}, but must be a list of names"
    )
  if kinds and not any(str(kind).endswith(_ARCHITECTURE) for kind in kinds):
    return Comparison(
      contradiction=f"the head of {checkpoint.path} is that of a"
      f" {', '.join(map(str, kinds))} (architectures in {path}), not of a"
      f" Bert{_ARCHITECTURE}"
    )
  problem = config.get("problem_type")
  if problem not in (None, target.problem_type):
    return Comparison(
      contradiction=f"the head of {checkpoint.path} was trained for the"
      f" problem_type {problem!r} ({path}), but the task {task.name} is of the"
      f" problem_type {target.problem_type!r}",
      remedy=_explain_kind(problem, task),
    )
  theirs = hugging_face.list_labels(config, path)
  if not target.labels and theirs and len(theirs) == target.width:
    return Comparison()  # a number, which they give a name
  if not theirs or all(map(_MADE_UP.fullmatch, theirs)):
    return Comparison()
  return _compare_labels(checkpoint, theirs, task)


def _compare_labels(checkpoint, theirs, task):
  """Returns the `Comparison` by names of labels, case aside."""
  path, ours = checkpoint.config_file, list(task.target.labels)
  if theirs == ours:
    return Comparison()
  rows = {label.casefold(): row for row, label in enumerate(theirs)}
  wanted = [label.casefold() for label in ours]
  if len(rows) < len(theirs):
    raise UserError(
      f"{path}: id2label has a label twice:"
      f" {plain_texts.show_labels(theirs)}; name each output of the head once"
    )
  if len(set(wanted)) < len(wanted) or set(wanted) != set(rows):
    may_mean_the_same = len(ours) == len(theirs)
    return Comparison(
      contradiction=f"the labels of the head of {checkpoint.path} are"
      f" {plain_texts.show_labels(theirs)} (id2label in {path}), those of the"
      f" task {task.name} {plain_texts.show_labels(ours) or 'a number'}",
      remedy=(
        "; if these labels mean the same, write the task's names into"
        f" id2label of {path}"
      )
      * may_mean_the_same,
    )
  order = tuple(rows[label] for label in wanted)
  return Comparison(None if order == tuple(range(len(order))) else order)
