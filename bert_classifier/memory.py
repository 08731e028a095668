"""Memory: a warning before it is short, a sentence when it is exhausted.

Both say what needs how much, and which setting to try next.
"""

import contextlib
import re

from absl import logging
import numpy as np

from bert_classifier import (
  errors,
  machine,
  plain_texts,
  resources,
)

# How TensorFlow, XLA and CUDA's libraries say that there is no memory left.
_EXHAUSTED = re.compile(
  r"\bOOM\b|out of memory|OUT_OF_MEMORY|failed to allocate|ALLOC_FAILED",
  re.IGNORECASE,
)
_COMPUTED = "weights", "gradients", "slots", "copies", "activations"


def warn_if_short(run):
  """Warns where training needs more memory than a CPU has free.

  Args:
    run: `preparation.Run`, with features.
  """
  if not (run.placement.on_cpu and run.placement.sees_every_step):
    return
  free = machine.free_memory()
  memory = estimate(run, "train")
  needed = memory.total() - memory.program
  if free is None or needed <= free:
    return
  logging.warning(
    "training needs about %s of memory, and %s are free: %s. The system may end"
    " it. %s",
    plain_texts.show_bytes(needed),
    plain_texts.show_bytes(free),
    _list_parts(memory),
    suggest(run, "train"),
  )


@contextlib.contextmanager
def explain_exhaustion(run, split, training_hook=None):
  """Says of exhausted memory where it went, and what to try next.

  Args:
    run: `preparation.Run`, with features.
    split: what is computed: "train", or as in `preparation.Run.splits`.
    training_hook: `progress.ProgressHook` of a training, which may wait for an
      evaluation of dev; or None.

  Raises:
    UserError: the memory is exhausted.
  """
  try:
    yield
  except Exception as error:
    message = str(getattr(error, "message", error))
    is_system = isinstance(error, MemoryError)
    # An error of TensorFlow has the number of a status.
    is_tensorflows = hasattr(error, "error_code")
    if not is_system and not (is_tensorflows and _EXHAUSTED.search(message)):
      raise
    if training_hook and training_hook.waits:
      split = "dev"
    lines = message.strip().split("\n")
    reason = next(filter(_EXHAUSTED.search, lines), lines[0])
    raise errors.UserError(
      f"the memory of {run.placement.describe()} is exhausted:"
      f" {describe_work(run, split)} {_list_parts(estimate(run, split))}."
      f" {suggest(run, split)}{f' ({reason:.300})' if reason else ''}"
    ) from error


def estimate(run, split):
  """Returns the `resources.Memory` of a batch of a split, about.

  The batch has one example as long as may be, and others of mean length.

  Args:
    run, split: as of `explain_exhaustion`.
  """
  features = run.features[split]
  mean = -(-features.tokens // max(features.records, 1))
  lengths = np.full(batch_size(run, split), mean)
  lengths[0] = run.options.model.max_seq_length
  return resources.estimate_memory(run, lengths, split == "train")


def batch_size(run, split):
  """Returns how many examples of a split are computed at a time.

  Of training, those that a device computes before it adds up gradients.
  """
  size = run.batch_size(split)
  if split != "train":
    return size
  parts = run.options.step.gradient_accumulation_steps
  return max(size // (parts * run.placement.replicas), 1)


def describe_work(run, split):
  """Returns what is computed at a time, and by which model."""
  weights = resources.count_weights(run.model.config, run.task.target.width)
  size = batch_size(run, split)
  return (
    f"{plain_texts.count(size, run.options.model.unit)} of {split} at a time,"
    f" of up to {run.options.model.max_seq_length} positions, and a model of"
    f" {weights / 1e6:.1f} million weights need about"
  )


def _list_parts(memory):
  return ", ".join(
    f"{plain_texts.show_bytes(getattr(memory, name))} for {name}"
    for name in _COMPUTED
    if getattr(memory, name)
  )


def suggest(run, split):
  """Returns the setting to try next, as a sentence.

  Args:
    run, split: as of `explain_exhaustion`.
  """
  size = batch_size(run, split)
  if split != "train":
    flag = "eval" if split.startswith("dev") else "predict"
    if size > 1:
      return f"Next, try --{flag}_batch_size={size // 2}."
  elif size > 1:
    parts = run.options.step.gradient_accumulation_steps
    more = next(n for n in range(2, size + 1) if size % n == 0) * parts
    at_a_time = plain_texts.count(size * parts // more, run.options.model.unit)
    return (
      f"Next, try --gradient_accumulation_steps={more}: the same update, by"
      f" {at_a_time} at a time."
    )
  elif not run.options.step.gradient_checkpointing:
    return (
      "Next, try --gradient_checkpointing: the same update, in a third more"
      " time."
    )
  return (
    "Next, try a smaller --max_seq_length, or a model with fewer or narrower"
    " layers."
  )
