"""Schedule: examples and epochs to steps, and among how many is shuffled."""

import math
from typing import NamedTuple, Optional

from absl import logging

from bert_classifier import choice_options, machine, plain_texts
from bert_classifier.errors import UserError
from bert_classifier.shuffled_epochs import PERMUTATION_VERSION

# In manifests: among how many examples a training shuffles (since the first of
# them); or the version of the order in which it takes the whole set.
BUFFER_SIZE, PERMUTATION = "buffer_rows", "permutation"
# Of a serialized example: three features of up to three bytes each; names, a
# tensor and its slot in the buffer.
_BYTES_A_POSITION, _BYTES_A_RECORD = 5, 400


class Schedule(NamedTuple):
  """How long training takes, and in what order.

  Attributes:
    examples: examples an epoch.
    steps: steps in all.
    warmup_steps: steps of warmup.
    buffer_size: examples among which the next one is drawn; None for all of
      them, of which none is held in memory (see `shuffled_epochs`).
    shape: of the rate, as `optimization.learning_rate_schedule` takes it.
  """

  examples: int
  steps: int
  warmup_steps: int
  buffer_size: Optional[int]
  shape: str = choice_options.LINEAR

  def describe_order(self):
    """Returns what a manifest says of the order of the examples."""
    if self.buffer_size is None:
      return {PERMUTATION: PERMUTATION_VERSION}
    return {BUFFER_SIZE: self.buffer_size}

  def share_of_peak(self, step):
    """Returns the learning rate after `step` steps, as a share of its peak.

    As `optimization.learning_rate_schedule` has it.
    """
    if step < self.warmup_steps:
      return step / self.warmup_steps
    if self.shape == choice_options.CONSTANT:
      return 1.0
    if self.shape == choice_options.COSINE:
      left = max(self.steps - self.warmup_steps, 1)
      return 0.5 + 0.5 * math.cos(math.pi * (step - self.warmup_steps) / left)
    return 1 - step / self.steps


NO_STEPS = Schedule(examples=0, steps=0, warmup_steps=0, buffer_size=0)


def make_schedule(
  options,
  max_seq_length,
  examples,
  found,
  shape,
  reads_here=True,
  unit="example",
):
  """Returns the `Schedule` of so many training examples.

  Args:
    options: `options.TrainingOptions`.
    max_seq_length: S.
    examples: number of training examples.
    found: `output_dir.OutputDir`.
    shape: see `Schedule`.
    reads_here: whether this process reads the examples.
    unit: what they are, "window" where texts are cut into windows.

  Raises:
    UserError: there are too few examples for a single step, or the order of a
      run that is resumed cannot be kept.
  """
  steps = count_steps(options, examples)
  if not steps:
    raise UserError(
      f"{plain_texts.count(examples, f'training {unit}')} in batches of"
      " --train_batch_size="
      f"{options.train_batch_size} over --num_train_epochs="
      f"{options.num_train_epochs} are less than one step: give a smaller batch"
      " or more epochs"
    )
  return Schedule(
    examples,
    steps,
    int(steps * options.warmup_proportion),
    choose_buffer_size(options, max_seq_length, examples, found, reads_here),
    shape,
  )


def count_steps(options, examples):
  """Returns N, the steps of training in all.

  Args:
    options: `options.TrainingOptions`.
    examples: number of training examples.
  """
  return int(examples / options.train_batch_size * options.num_train_epochs)


def announce_training(run):
  """Logs which steps will be trained.

  Args:
    run: `preparation.Run`.
  """
  batch_size = run.options.training.train_batch_size
  logging.info(
    "training on %s: steps %d to %d of %s, %d of warmup, on %s",
    run.describe_count("train"),
    run.first_step + 1,
    run.schedule.steps,
    plain_texts.count(batch_size, run.options.model.unit),
    run.schedule.warmup_steps,
    run.placement.describe(),
  )


def announce_rate(options, found, schedule):
  """Warns that the learning rate climbs where more epochs are asked for.

  Args:
    options: `options.TrainingOptions`.
    found: `output_dir.OutputDir`.
    schedule: `Schedule`.
  """
  before, step = found.settings.get("training", {}), found.step
  was, now = before.get("num_train_epochs"), options.num_train_epochs
  climbs = (
    found.checkpoint
    and isinstance(was, (int, float))
    and now > was
    and schedule.shape != choice_options.CONSTANT
  )
  if not climbs or not schedule.warmup_steps <= step < schedule.steps:
    return
  logging.warning(
    "num_train_epochs was %s and is %s: the learning rate climbs to %.2e at"
    " step %d, where training goes on, and falls to 0 after step %d",
    was,
    now,
    options.learning_rate * schedule.share_of_peak(step),
    step + 1,
    schedule.steps,
  )


def choose_buffer_size(options, max_seq_length, examples, found, reads_here):
  """Returns the examples among which the next one is drawn, or None for all.

  A run that is resumed keeps its order, also that of a version before, which
  drew among those in memory.

  Args, errors as of `make_schedule`.
  """
  if options.shuffle_buffer_size:
    return options.shuffle_buffer_size
  begun = found.settings.get("order", {}) if found.checkpoint else {}
  if BUFFER_SIZE in begun:
    return begun[BUFFER_SIZE]
  if reads_here:
    return None
  if PERMUTATION in begun:
    raise UserError(
      f"the training in {found.path} shuffles the whole set, of which it reads"
      " the examples by their place in a file; a TPU on another host cannot go"
      " on in this order. Train on where it began, or from the start with"
      " --overwrite_output_dir"
    )
  return fit_buffer_size(examples, max_seq_length)


def fit_buffer_size(examples, max_seq_length):
  """Returns how many examples a quarter of the free memory holds, or all."""
  free = machine.find_free_memory()
  record_bytes = bytes_a_record(max_seq_length)
  if free is None or examples * record_bytes <= free / 4:
    return examples
  buffer_size = max(1, int(free / 4 / record_bytes))
  logging.warning(
    "shuffling among %d of %d examples, which a quarter of the free memory"
    " holds; set --shuffle_buffer_size for another number",
    buffer_size,
    examples,
  )
  return buffer_size


def bytes_a_record(max_seq_length):
  """Returns about how many bytes an example takes in the buffer."""
  return _BYTES_A_POSITION * max_seq_length + _BYTES_A_RECORD


def find_epochs_needed(options, examples, step):
  """Returns the least epochs with a step beyond the one that is reached.

  Args:
    options: `options.TrainingOptions`.
    examples: number of training examples.
    step: the step that is reached.

  Returns:
    A number of two decimals; None where those asked for go beyond it.
  """
  if count_steps(options, examples) > step:
    return None
  epochs = math.ceil(100 * (step + 1) * options.train_batch_size / examples)
  return epochs / 100
