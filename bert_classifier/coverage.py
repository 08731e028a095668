"""Coverage: the variables of a model that a checkpoint initializes.

It is decided by names and shapes, before a weight is read. What would give
other results than the user thinks is refused, with the reason.
"""

import dataclasses
import re
import shlex
from typing import Any

from absl import logging

from bert_classifier import errors
from bert_classifier.variables import find_variable, list_variables

# ---------------------------------------------------------------------------
# The variables of a model

HEAD = ("output_weights", "output_bias")
_CONFIG_KEYS = {
  "V": "vocab_size",
  "P": "max_position_embeddings",
  "Y": "type_vocab_size",
  "H": "hidden_size",
  "F": "intermediate_size",
}


def compute_shapes(config, num_labels):
  """Returns {name: shape} of every variable of encoder, pooler and head.

  Args:
    config: an object with the attributes of `modeling.BertConfig`.
    num_labels: L, logits of an example.
  """
  sizes = {axis: getattr(config, key) for axis, key in _CONFIG_KEYS.items()}
  sizes["L"] = num_labels
  return {
    variable.name: tuple(sizes[axis] for axis in variable.axes)
    for variable in list_variables(config.num_hidden_layers)
  }


# ---------------------------------------------------------------------------
# Coverage

# Variables of a run, and the scopes and names of optimizers.
_OF_RUN = re.compile(
  r"(^|/)(global_step|beta_?[12](_power)?|current_loss_scale|good_steps"
  r"|skipped_steps|save_counter|_CHECKPOINTABLE_OBJECT_GRAPH)(/|$)"
  r"|(^|/)(\w*optimizer|\w*adam\w*|lamb|lars|sgd|adagrad|rmsprop)(_\d+)?/"
  r"|\.OPTIMIZER_SLOT/",
  re.IGNORECASE,
)


def select_optimizer_state(names):
  """Returns those that are variables of the optimizer or the run, as a set.

  An optimizer names what it keeps of a variable `VARIABLE/adam_m`, whatever it
  calls it: what lies below a variable is its own.
  """
  everything = set(names)

  def is_state(name):
    scope = name.rpartition("/")[0]
    return _OF_RUN.search(name) or scope in everything or find_variable(scope)

  return set(filter(is_state, names))


# Inside the encoder in either form, save what Hugging Face's library keeps
# there beside the weights.
_OF_ENCODER = re.compile(
  r"^((module|_orig_mod|model|bert|ernie)[./])*"
  r"(embeddings|encoder[./]layer[._]\d+)[./](?!position_ids|token_type_ids)"
)


@dataclasses.dataclass(frozen=True)
class Coverage:
  """The variables of a model that a checkpoint initializes, and the others.

  Attributes:
    checkpoint: the `checkpoints.Checkpoint`.
    loaded: names that it initializes.
    missing: names that it lacks, which start fresh.
    unused: names in it that the model lacks.
    mismatched: (name, shape there, shape here), which start fresh too.
    left_out: names that are in it and start fresh all the same.
  """

  checkpoint: Any
  loaded: tuple
  missing: tuple
  unused: tuple
  mismatched: tuple
  left_out: tuple = ()

  @property
  def fresh(self):
    """Returns the names of all variables that start fresh."""
    mismatched = tuple(name for name, _, _ in self.mismatched)
    return self.missing + mismatched + self.left_out

  @property
  def encoder_complete(self):
    """Returns True where no variable of the encoder starts fresh."""
    return all(name in HEAD for name in self.fresh)

  @property
  def head_complete(self):
    """Returns True where no variable of the head starts fresh."""
    return not any(name in HEAD for name in self.fresh)

  def leave_out_head(self):
    """Returns this coverage with a head that starts fresh."""
    return dataclasses.replace(
      self,
      loaded=tuple(name for name in self.loaded if name not in HEAD),
      mismatched=tuple(m for m in self.mismatched if m[0] not in HEAD),
      left_out=tuple(
        name
        for name in HEAD
        if name in self.loaded + self.fresh and name not in self.missing
      ),
    )

  def leave_out(self, names):
    """Returns this coverage, those of the names that it loads left out."""
    left_out = tuple(name for name in self.loaded if name in set(names))
    return dataclasses.replace(
      self,
      loaded=tuple(name for name in self.loaded if name not in left_out),
      left_out=self.left_out + left_out,
    )

  def describe(self):
    """Returns one to three lines: what is loaded, fresh, unused."""
    total = len(self.loaded) + len(self.fresh)
    path = self.checkpoint.path
    lines = [f"{len(self.loaded)} of {total} variables are loaded from {path}"]
    if self.fresh:
      lines.append(f"start fresh: {self._describe_fresh()}")
    if self.unused:
      state = select_optimizer_state(self.unused)
      others = [name for name in self.unused if name not in state]
      slots = [f"optimizer slots ({len(state)})"] if state else []
      others = [shorten_names(others)] if others else []
      lines.append(f"not used: {', '.join(others + slots)}")
    return lines

  def _describe_fresh(self):
    shapes = [
      f"{name} {list(there)} in it, {list(here)} in the model"
      for name, there, here in self.mismatched
    ]
    reasons = (
      (self.missing, "not in it"),
      (shapes, "of another shape"),
      (self.left_out, "left out"),
    )
    phrases = [
      f"{shorten_names(names)} ({why})" for names, why in reasons if names
    ]
    return "; ".join(phrases)

  def log(self):
    """Writes `describe` to the log."""
    for line in self.describe():
      logging.info("%s", line)

  def accept(
    self,
    *,
    allow_partial_init=False,
    reinit_head=False,
    trained_needed=False,
    is_resumed=False,
    config_file=None,
  ):
    """Returns the coverage to initialize from, this one or `leave_out_head`.

    Refuses what would give other results than the user thinks.

    Args:
      allow_partial_init: accept an encoder that is only partly covered.
      reinit_head: leave the head out; it starts fresh.
      trained_needed: nothing will be trained, so nothing may start fresh.
      is_resumed: this is output_dir's own checkpoint, which replaces
        init_checkpoint, so nothing may start fresh either.
      config_file: path of the configuration that gave the sizes, for the error.

    Raises:
      UserError: says what does not fit, and the flag that lets it pass.
    """
    usable = self.leave_out_head() if reinit_head else self
    encoder_fits = any(name not in HEAD for name in usable.loaded)
    differences = usable._list_size_differences()
    there = self.checkpoint.shapes
    has_head = any(name in there for name in HEAD)
    if differences and not allow_partial_init:
      may_be_partial = not (trained_needed or is_resumed)
      sentence = usable._explain_sizes(differences, may_be_partial, config_file)
      raise errors.UserError(sentence)
    if is_resumed and usable.fresh:
      raise errors.UserError(usable._explain_other_model())
    if not encoder_fits and not usable.encoder_complete:
      raise errors.UserError(usable._explain_foreign(differences))
    if (parts := usable._list_foreign_parts()) and not allow_partial_init:
      raise errors.UserError(usable._explain_parts(parts))
    needs_head = any(name in HEAD for name in usable.loaded + usable.fresh)
    if trained_needed and usable.fresh and needs_head:
      raise errors.UserError(usable._explain_untrained())
    may_be_partial = not trained_needed
    if not usable.encoder_complete and not (
      may_be_partial and allow_partial_init
    ):
      raise errors.UserError(usable._explain_holes(may_be_partial))
    if has_head and not usable.head_complete and not reinit_head:
      raise errors.UserError(usable._explain_head())
    return usable

  def _list_size_differences(self):
    """Returns a phrase for each key of the configuration that differs."""
    phrases = {}
    for name, there, here in self.mismatched:
      variable = find_variable(name)
      if variable and len(there) == len(here):
        for axis, size, wanted in zip(variable.axes, there, here):
          if size != wanted and axis in _CONFIG_KEYS:
            key = _CONFIG_KEYS[axis]
            phrase = f"{name} is {list(there)} there, but {key} is {wanted}"
            phrases.setdefault(key, phrase)
    there = _count_layers(self.checkpoint.shapes)
    here = _count_layers(self.loaded + self.fresh)
    if there and there != here:
      phrases["num_hidden_layers"] = (
        f"it has {there} encoder layers, but num_hidden_layers is {here}"
      )
    return list(phrases.values())

  def _explain_sizes(self, differences, may_be_partial, config_file):
    beside = self.checkpoint.config_file
    advice = "Take the configuration that belongs to this checkpoint"
    if beside and beside == config_file:
      advice = (
        "The configuration lies beside it, but does not belong to it: one of"
        " the two was changed or exchanged. Copy both again from where the"
        " model came from, or correct the sizes"
      )
    elif beside:
      advice += f" (--bert_config_file={shlex.quote(beside)})"
    return (
      f"{self.checkpoint.path} is of another size than the model:"
      f" {'; '.join(differences)} in {config_file or 'the configuration'}."
      f" {advice}"
      + ", or give --allow_partial_init to start fresh what does not fit"
      * may_be_partial
    )

  def _list_foreign_parts(self):
    """Returns the names in its encoder that no BERT has."""
    state = select_optimizer_state(self.unused)
    inside = filter(_OF_ENCODER.match, self.unused)
    return [name for name in inside if name not in state]

  def _explain_parts(self, parts):
    return (
      f"the encoder in {self.checkpoint.path} has variables that BERT's has"
      f" not: {shorten_names(parts)}. It is of another architecture, or"
      " something was added to it: without them it is not the model that was"
      " trained. Take a model of BERT's own, or give --allow_partial_init to"
      " leave them out"
    )

  def _explain_other_model(self):
    return (
      f"{self.checkpoint.path} was trained for another task or model; of this"
      f" one it lacks {self._describe_fresh()}. Give the task and the"
      " configuration that it was trained with, or another --output_dir"
    )

  def _explain_foreign(self, differences):
    names = self.checkpoint.shapes
    names = sorted(set(names) - select_optimizer_state(names))
    reason = (
      f"{'; '.join(differences)} in the configuration"
      if differences
      else f"it holds {shorten_names(names) or 'nothing'}"
    )
    return (
      f"{self.checkpoint.path} has no variable that fits the model's"
      f" encoder: {reason}. Give a BERT checkpoint that belongs to"
      " --bert_config_file, or none to train from scratch"
    )

  def _explain_holes(self, may_be_partial):
    fresh = [name for name in self.fresh if name not in HEAD]
    return (
      f"{self.checkpoint.path} does not cover the whole encoder: it lacks"
      f" {shorten_names(fresh)}. Give a complete BERT checkpoint"
      + ", or --allow_partial_init to start fresh what is missing"
      * may_be_partial
    )

  def _explain_head(self):
    found = ", ".join(
      f"{name} {list(self.checkpoint.shapes[name])}"
      for name in HEAD
      if name in self.checkpoint.shapes
    )
    wanted = [(name, here) for name, _, here in self.mismatched]
    wanted = ", ".join(f"{n} {list(s)}" for n, s in wanted if n in HEAD)
    return (
      f"the classifier's head in {self.checkpoint.path} does not fit this"
      f" task: it has {found}, the task needs"
      f" {wanted or ' and '.join(HEAD)}. Give --reinit_head to leave it out"
      " and start a fresh one"
    )

  def _explain_untrained(self):
    return (
      f"{self.checkpoint.path} does not hold a trained classifier for this"
      " task; without training, the results would come from random numbers in"
      f" {self._describe_fresh()}. Add --do_train, or give a checkpoint that"
      " was fine-tuned on this task as --init_checkpoint or in --output_dir"
    )


def _count_layers(names):
  found = filter(None, map(find_variable, names))
  numbers = [variable.layer for variable in found if variable.layer is not None]
  return max(numbers, default=-1) + 1


def shorten_names(names):
  """Returns names as one line, many of them by scope, as `cls/* (7)`."""
  others = list(names)
  if len(others) > 4:
    groups = {}
    for name in others:
      groups.setdefault(_scope(name), []).append(name)
    others = [
      members[0] if len(members) == 1 else f"{scope} ({len(members)})"
      for scope, members in groups.items()
    ]
    if len(others) > 6:
      others[5:] = [f"and {len(others) - 5} more"]
  return ", ".join(others)


def _scope(name):
  """Returns `cls/*` of cls/..., `bert/encoder/layer_3/*` of that layer."""
  outer = r"\w+[/.]"
  inner = r"(?:\w+[/.])?" if name.startswith("bert") else ""
  scope = re.match(rf"{outer}{inner}(?:layer[_.]\d+[/.])?", name)
  return scope.group() + "*" if scope else name
