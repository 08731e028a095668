"""The model card of an export: what the model is, how good, and how trained.

A README.md in the form of Hugging Face's library: a header that programs read,
then what a reader wants to know. Places of files on this machine are left out.
"""

import json
import os

import tensorflow.compat.v1 as tf

from bert_classifier import (
  choice_options,
  evaluation,
  output_dir,
  plain_texts,
  targets,
)

NAME = "README.md"
_HEADER = """\
---
library_name: transformers
pipeline_tag: text-classification
tags:
- bert
- text-classification
---
"""
_KINDS = {
  "single_label": "one class of {}",
  "multi_label": "any number of {} labels",
  "regression": "a number",
}
_SPLITS = ("dev", "dev_mismatched", "test", "test_mismatched")


def format_card(run, settings, step):
  """Returns the text of a model card.

  Args:
    run: `preparation.Run`.
    settings: those that the weights were trained with, by phase.
    step: of the training that the weights are from; None where it is unknown of
      which weights the results in output_dir are.
  """
  results = {}
  if step is not None:
    results = find_results(run.options.run.output_dir, step)
  parts = [
    _HEADER,
    _describe_task(run),
    _explain_use(run),
    _name_weights(step, run.options.run.use_best),
    _format_results(results),
    _format_settings(settings),
  ]
  return "\n".join(filter(None, parts))


def find_results(folder, step):
  """Returns {split: {name: text of the number}} of the results of a step.

  Args:
    folder: output_dir.
    step: those of another one are left out.
  """
  found = {}
  for split in _SPLITS:
    path = output_dir.results_path(folder, split)
    if tf.io.gfile.exists(path):
      results = evaluation.read_results(path)
      if results.pop("global_step", None) == str(step):
        found[split] = results
  return found


def _describe_task(run):
  target = run.task.target
  kind = targets.find_kind(target.problem_type)
  predicted = _KINDS[kind].format(len(target.labels))
  pairs = {True: "pairs of texts", False: "a text", None: "a text, or pairs"}
  lines = [
    f"# BERT for {run.task.name}",
    "",
    f"A BERT of {run.model.config.num_hidden_layers} layers of width"
    f" {run.model.config.hidden_size} that predicts {predicted} from"
    f" {pairs[run.task.expects_pairs]}.",
  ]
  if target.labels:
    lines += ["", "Labels, in the order of the logits:", ""]
    lines += _fence("json", json.dumps(list(target.labels), ensure_ascii=False))
  for name, value in target.prediction_settings().items():
    lines += ["", f"A label holds from a {name} of {value} on."]
  return "\n".join(lines) + "\n"


def _explain_use(run):
  """Returns the section with the lines of Python that use the model."""
  kind = targets.find_kind(run.task.target.problem_type)
  how = {"regression": 'function_to_apply="none"'}.get(kind, "top_k=None")
  text = '{"text": "A text."}'
  if run.task.expects_pairs:
    text = '{"text": "A text.", "text_pair": "Another."}'
  code = [
    "from transformers import pipeline",
    "",
    'classify = pipeline("text-classification", model="FOLDER")',
    f"classify({text}, truncation=True, {how})",
  ]
  model = run.options.model
  length = plain_texts.count(model.max_seq_length, "token")
  after = f"Texts are cut at {length}, as in training."
  if model.stride:
    after = (
      f"Texts are cut at {length}. In training, longer ones were in windows of"
      f" as many, each beginning {model.stride} after the one before; the"
      f" {model.window_pooling} of their logits is the prediction of a text."
    )
  elif model.truncation == choice_options.HEAD_TAIL:
    after = (
      f"Texts are cut at {length}, and their heads are kept, where the training"
      " kept heads and tails: cut long ones beforehand."
    )
  temperature = getattr(run.task.target, "temperature", 1.0)
  if temperature != 1.0:
    after += (
      " The probabilities here are not calibrated: those of the temperature"
      f" {temperature:g}, which was fitted to the dev set, are of the logits"
      " divided by it."
    )
  return "\n".join(
    ["## Use", "", *_fence("python", "\n".join(code)), "", after, ""]
  )


def _name_weights(step, is_best):
  """Returns the section on which weights of a training these are, or ""."""
  if not step:
    return ""
  sentence = f"Those of training step {step}."
  if is_best:
    sentence += (
      " They were chosen by the dev set, so its figures are optimistic."
    )
  return "\n".join(["## Weights", "", sentence, ""])


def _format_results(results):
  lines = ["## Results", ""]
  if not results:
    return "\n".join([*lines, "None were measured with these weights.", ""])
  lines += ["| split | result | value |", "| --- | --- | --- |"]
  for split, values in results.items():
    lines += [f"| {split} | {name} | {values[name]} |" for name in values]
  return "\n".join([*lines, ""])


def _format_settings(settings):
  """Returns the section with the settings, without those that are paths."""
  lines = ["## Settings", ""]
  if "training" not in settings:
    lines += ["How the weights were trained is not known.", ""]
  kept = {
    phase: dict(settings[phase])
    for phase in ("model", "training")
    if phase in settings
  }
  training = kept.get("training", {})
  weights = training.get(output_dir.WEIGHTS)
  if weights:
    # The folder's name says which model it was.
    training[output_dir.WEIGHTS] = os.path.join(*weights.split("/")[-2:])
  text = json.dumps(kept, indent=2, sort_keys=True, ensure_ascii=False)
  return "\n".join([*lines, *_fence("json", text), ""])


def _fence(language, text):
  """Returns the lines of a block of code."""
  return [f"```{language}", *text.split("\n"), "```"]
