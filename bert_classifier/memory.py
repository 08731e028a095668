"""Memory: a warning before it is short, a sentence when it is exhausted.

Both say what needs how much, and which setting to try next.
"""

import contextlib
import dataclasses
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


def warn_if_short(run, split):
  """Warns where a split needs more memory than a CPU has free.

  Args:
    run: `preparation.Run`, with features.
    split: as of `explain_exhaustion`.
  """
  if not (run.placement.on_cpu and run.placement.sees_every_step):
    return
  if split != "train" and run.options.run.do_train:
    return  # what the training held is free by then
  free = machine.find_free_memory()
  needed = estimate_need(run, split)
  if free is None or needed <= free:
    return
  memory, processes = estimate_split(run, split), run.placement.processes_here
  rest = needed // processes - sum(getattr(memory, part) for part in _COMPUTED)
  logging.warning(
    "%s needs about %s of memory%s, and %s are free: %s, %s for the program."
    " The system may end it. %s",
    "training" if split == "train" else f"computing {split}",
    plain_texts.show_bytes(needed),
    f" in {processes} processes, of which each has its own" * (processes > 1),
    plain_texts.show_bytes(free),
    _list_parts(memory),
    plain_texts.show_bytes(rest),
    suggest(run, split, lambda one: estimate_need(one, split) <= free),
  )


def estimate_need(run, split):
  """Returns the bytes that a split takes of this machine from now on, about.

  Args:
    run, split: as of `explain_exhaustion`.
  """
  held = resources.read_resident_memory() or 0
  return (
    estimate_split(run, split).total() - held
  ) * run.placement.processes_here


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
      f" {describe_work(run, split)} {_list_parts(estimate_split(run, split))}."
      f" {suggest(run, split)}{f' ({reason:.300})' if reason else ''}"
    ) from error


def estimate_split(run, split):
  """Returns the `resources.Memory` of a batch of a split, about.

  The batch has one example as long as may be, and others of mean length.

  Args:
    run, split: as of `explain_exhaustion`.
  """
  features = run.features[split]
  mean = -(-features.tokens // max(features.records, 1))
  lengths = np.full(find_batch_size(run, split), mean)
  lengths[0] = run.options.model.max_seq_length
  return resources.estimate_memory(run, lengths, split == "train")


def find_batch_size(run, split):
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
  size = find_batch_size(run, split)
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


def suggest(run, split, fits=lambda run: True):
  """Returns the setting to try next, as a sentence.

  Args:
    run, split: as of `explain_exhaustion`.
    fits: function of a `preparation.Run` with such a setting, whether the
      memory suffices for it.
  """
  if split != "train":
    flag = "eval" if split.startswith("dev") else "predict"
    size = find_batch_size(run, split)
    while size > 1:
      size //= 2
      smaller = run._replace(**{f"{flag}_batch_size": size})
      if fits(smaller):
        return f"Next, try --{flag}_batch_size={size}."
  else:
    for step in _list_smaller_steps(run):
      smaller = run._replace(options=run.options._replace(step=step))
      if fits(smaller):
        return _describe_step(run, smaller)
  return (
    "Next, try a smaller --max_seq_length, or a model with fewer or narrower"
    " layers."
  )


def _list_smaller_steps(run):
  """Returns the `StepOptions` of the same update for less memory at a time.

  Those that cost no time come first.
  """
  step = run.options.step
  parts, size = step.gradient_accumulation_steps, find_batch_size(run, "train")
  smaller = [
    dataclasses.replace(step, gradient_accumulation_steps=n * parts)
    for n in range(2, size + 1)
    if size % n == 0
  ]
  if step.gradient_checkpointing:
    return smaller
  last = smaller[-1] if smaller else step
  return [*smaller, dataclasses.replace(last, gradient_checkpointing=True)]


def _describe_step(run, smaller):
  """Returns the sentence that advises the step of another run."""
  step, flags, cost = smaller.options.step, [], ""
  parts = step.gradient_accumulation_steps
  if parts != run.options.step.gradient_accumulation_steps:
    flags.append(f"--gradient_accumulation_steps={parts}")
    size = plain_texts.count(
      find_batch_size(smaller, "train"), run.options.model.unit
    )
    cost = f", by {size} at a time"
  if step.gradient_checkpointing != run.options.step.gradient_checkpointing:
    flags.append("--gradient_checkpointing")
    cost += ", in a third more time"
  return f"Next, try {' '.join(flags)}: the same update{cost}."
