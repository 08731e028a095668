"""Resources: the memory and the time that a run will take.

Memory is estimated from sizes, before anything is computed; a model that the
machine cannot hold is refused. Time is measured: a few real steps on real
examples, from random weights, which take as long as any others; nothing is
written.

Axis letters: B batch, S sequence, T computed tokens, H hidden, F feed-forward,
N heads.
"""

import itertools
import sys
import time
from typing import NamedTuple, Optional

import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import (
  batches,
  devices,
  machine,
  progress,
  schedule,
  status_line,
)
from bert_classifier.errors import UserError

try:
  import resource
except ImportError:  # under Windows
  resource = None

_BYTES_A_NUMBER, _GIBIBYTE = 4, 1 << 30
# Gradient, adam_m and adam_v. The graph of a layer, measured with ones of width
# 2.
_TRAINED_COPIES = 3
_BYTES_A_LAYER, _BYTES_A_TRAINED_LAYER = 1 << 20, 4 << 20
_SESSION_BYTES = 250 << 20  # of TensorFlow, once it computes
# Steps that are measured, and seconds after which no other one begins.
TRIED_BATCHES, _TRIED_SECONDS = 10, 10.0
# Numbers that a layer keeps for its gradient: of each token in widths H and F,
# and of each score of its attention. Fitted, as is _SESSION_BYTES, to the peaks
# of eight trainings of models of 2, 4 and 6 layers (benchmarks/memory.py).
_HIDDENS_A_TOKEN, _WIDES_A_TOKEN, _NUMBERS_A_SCORE = 13.4, 2.7, 2.0
# The same of the one layer at a time that is computed without gradients.
_PASSING_HIDDENS, _PASSING_WIDES, _PASSING_SCORES = 10, 3, 2


def count_weights(config, num_labels, frozen=None):
  """Returns the number of weights of encoder, pooler and head.

  Counted, not listed, for there may be more than any machine can hold.

  Args:
    config: `modeling.BertConfig`.
    num_labels: L.
    frozen: of how many lowest layers the weights are left out, and with them
      those of the embeddings; None to count all.
  """
  hidden, wide = config.hidden_size, config.intermediate_size
  rows = (
    config.vocab_size + config.max_position_embeddings + config.type_vocab_size
  )
  embeddings = (rows + 2) * hidden if frozen is None else 0
  layer = 4 * (hidden + 1) * hidden + 2 * hidden * wide + wide + 5 * hidden
  layers = _count_trained_layers(config, frozen)
  pooler_and_head = (hidden + 1) * (hidden + num_labels)
  return embeddings + layers * layer + pooler_and_head


def _count_trained_layers(config, frozen):
  return max(0, config.num_hidden_layers - (frozen or 0))


def compute_weights_size(config, num_labels):
  """Returns the bytes of a model's weights; args as of `count_weights`."""
  return _BYTES_A_NUMBER * count_weights(config, num_labels)


def compute_checkpoint_size(config, num_labels, frozen=None):
  """Returns the bytes of a checkpoint of training: weights and two slots.

  Args:
    config, num_labels, frozen: as of `count_weights`. Frozen ones have no
      slots.
  """
  slots = 2 * _BYTES_A_NUMBER * count_weights(config, num_labels, frozen)
  return compute_weights_size(config, num_labels) + slots


def check_memory(config, config_file, num_labels, is_training, frozen=None):
  """Makes sure that this machine could hold the model if it did nothing else.

  Args:
    config, config_file: `modeling.BertConfig` and its path.
    num_labels: L.
    is_training: whether gradients and slots are kept beside the weights.
    frozen: as of `count_weights`, of those without them.

  Raises:
    UserError: it could not; names the sizes.
  """
  total = machine.find_total_memory()
  layer = _BYTES_A_TRAINED_LAYER if is_training else _BYTES_A_LAYER
  weights = numbers = count_weights(config, num_labels)
  if is_training:
    numbers += _TRAINED_COPIES * count_weights(config, num_labels, frozen)
  needed = numbers * _BYTES_A_NUMBER + config.num_hidden_layers * layer
  if total is None or needed <= total:
    return
  sizes = ", ".join(
    f"{key} {getattr(config, key)}"
    for key in (
      "num_hidden_layers",
      "hidden_size",
      "intermediate_size",
      "vocab_size",
      "max_position_embeddings",
      "type_vocab_size",
    )
  )
  raise UserError(
    f"{config_file}: a model with {sizes} has {weights:.3g} weights; they"
    + " with their gradients and the optimizer's slots" * is_training
    + f" need {needed / _GIBIBYTE:.3g} GiB of memory, and this machine has"
    f" {total / _GIBIBYTE:.3g} GiB: correct the sizes, or take a smaller model"
  )


class Memory(NamedTuple):
  """Bytes of memory that a run needs at its peak.

  Attributes:
    program: Python, TensorFlow and its session without a model.
    weights, gradients, slots: of the model and its optimizer.
    copies: of weights, while they are converted, updated and saved.
    activations: what is kept of the largest batch, or computed of it.
    examples: those among which training draws the next one.
  """

  program: int
  weights: int
  gradients: int
  slots: int
  copies: int
  activations: int
  examples: int

  def total(self, on_cpu=True):
    """Returns the bytes of this machine: all of them where its CPU computes.

    Else it holds what is loaded and saved, and the device the rest.
    """
    on_device = 0 if on_cpu else self.on_device() - self.copies
    return sum(self) - on_device

  def on_device(self):
    """Returns the bytes of the device that computes."""
    return sum(self[1:]) - self.examples


def estimate_memory(run, lengths, is_training):
  """Returns the `Memory` of a run.

  Args:
    run: `preparation.Run`.
    lengths: tokens of the sequences that are computed at a time, <int32>[B].
    is_training: whether gradients are computed.
  """
  config, width = run.model.config, run.task.target.width
  frozen = run.options.choice.freeze_layers if is_training else None
  weights, trained = (
    _BYTES_A_NUMBER * count_weights(config, width, left_out)
    for left_out in (None, frozen)
  )
  size = run.options.model.max_seq_length
  plan = run.schedule or schedule.NO_STEPS
  buffer = min(plan.buffer_size or 0, plan.examples)
  if is_training and run.packed:
    rows = -(-len(lengths) * run.packed.rows // run.packed.examples)
    lengths = np.full(rows, size)
  elif not run.placement.skip_padding:
    lengths = np.full(len(lengths), size)
  step = run.options.step
  # Of parts, the sum so far is kept beside the gradients of the next.
  copies = 2 if step.gradient_accumulation_steps > 1 else 1
  numbers = count_activations(
    config, lengths, is_training, step.gradient_checkpointing, frozen
  )
  return Memory(
    program=(read_resident_memory() or 0) + _SESSION_BYTES,
    weights=weights,
    gradients=trained * copies * is_training,
    slots=2 * trained * is_training,
    copies=weights,
    activations=int(_BYTES_A_NUMBER * numbers),
    examples=buffer * schedule.bytes_a_record(size) * is_training,
  )


def count_activations(
  config, lengths, is_training, recomputes=False, frozen=None
):
  """Returns how many numbers a batch needs beside the weights, about.

  Of float32, whatever the precision: the 16-bit operands of products are kept
  beside what stands between them, and together measured as much.

  Args:
    config: `modeling.BertConfig`.
    lengths: computed tokens of each sequence, <int32>[B].
    is_training: whether all are kept for gradients, or those of one layer.
    recomputes: whether of the other layers what they read is kept alone.
    frozen: how many lowest layers have no gradients, and keep nothing for them.
  """
  tokens, scores = int(lengths.sum()), _count_scores(lengths)
  hidden, wide = config.hidden_size, config.intermediate_size
  scores *= config.num_attention_heads
  passing = (
    tokens * (_PASSING_HIDDENS * hidden + _PASSING_WIDES * wide)
    + _PASSING_SCORES * scores
  )
  if not is_training:
    return passing
  layer = (
    tokens * (_HIDDENS_A_TOKEN * hidden + _WIDES_A_TOKEN * wide)
    + _NUMBERS_A_SCORE * scores
  )
  layers = _count_trained_layers(config, frozen)
  kept = layers * layer
  if recomputes:
    kept = min(layers, 1) * layer + layers * tokens * hidden
  return max(kept, passing) if frozen else kept


def _count_scores(lengths):
  """Returns the scores of one head, in the two groups of `fast_modeling`."""
  ordered = np.sort(lengths.astype(np.int64))
  count = np.arange(1, len(ordered) + 1)
  return int(
    (count * ordered**2 + (len(ordered) - count) * ordered[-1] ** 2).min()
  )


def read_resident_memory():
  """Returns the bytes of memory that this process holds, None where unknown."""
  return machine.read_linux_figure("/proc/self/status", "VmRSS:")


def read_peak_memory():
  """Returns the most bytes that this process ever held, None where unknown."""
  if resource is None:
    return None
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == "darwin" else 1024 * peak


class Trial(NamedTuple):
  """What a few steps took.

  Attributes:
    start: seconds to build the graph and for the first step, in which
      TensorFlow prepares it.
    seconds: mean of a step.
    steps: number of steps that it is the mean of.
    peak: bytes that the process held at its peak so far, None where unknown.
  """

  start: float
  seconds: float
  steps: int
  peak: Optional[int]


def try_steps(run, model_fn, mode, converter, longest, sample, batch_size):
  """Returns the `Trial` of a few steps of training or prediction.

  The first step is of the longest examples, for the memory; TensorFlow prepares
  its graph meanwhile, so its time does not count.

  Args:
    run: `preparation.Run`.
    model_fn: see `run_classifier.model_fn_builder`.
    mode: of `tf.estimator.ModeKeys`, TRAIN or PREDICT.
    converter: `features.Converter`.
    longest, sample: lists of `InputExample`s.
    batch_size: B.
  """
  chosen = [
    *_convert(longest, converter, batch_size),
    *_convert(sample, converter, TRIED_BATCHES * batch_size),
  ]
  columns = batches.stack(
    chosen,
    run.options.model.max_seq_length,
    in_windows=run.options.model.stride > 0,
  )
  began = time.monotonic()
  with tf.Graph().as_default():
    tf.set_random_seed(run.options.training.seed)  # as an Estimator does
    dataset = tf.data.Dataset.from_tensor_slices(columns).batch(
      batch_size, drop_remainder=run.placement.needs_whole_batches
    )
    inputs = tf.data.make_one_shot_iterator(dataset).get_next()
    spec = model_fn(inputs, None, mode, {})
    fetches = spec.train_op
    if mode != tf.estimator.ModeKeys.TRAIN:
      fetches = spec.predictions
    config = devices.session_config(run.options.device)
    with tf.Session(config=config) as session:
      session.run(tf.global_variables_initializer())
      step = session.make_callable(fetches)
      step()
      start = time.monotonic() - began
      seconds, steps = _time_steps(step)
  return Trial(start, seconds, steps, read_peak_memory())


def _convert(examples, converter, number):
  """Returns so many features of examples, which are taken again and again."""
  converted = map(converter.windows, itertools.cycle(examples))
  return itertools.islice(itertools.chain.from_iterable(converted), number)


def _time_steps(step):
  """Calls a function some times; returns the mean of the seconds, and times."""
  counter = progress.Counter("tried", 1 + TRIED_BATCHES, unit="step")
  counter.add(1)
  began, steps = time.monotonic(), 0
  while steps < TRIED_BATCHES and (
    not steps or time.monotonic() - began < _TRIED_SECONDS
  ):
    step()
    steps += 1
    counter.add(1)
  status_line.STATUS.clear()
  return (time.monotonic() - began) / steps, steps
