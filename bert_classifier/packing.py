"""Packing: the examples of a training batch in fewer rows than examples.

Of sentences of 11 tokens a batch of 32 fits into 4 rows of 128 positions:

  example     0 0 0 0 0 2 2 2 2 3 3 3      input_mask   1 1 1 1 1 3 3 3 3 4 4 4
              1 1 1 1 1 1 1 . . . . .                   2 2 2 2 2 2 2 0 0 0 0 0

The shapes are static, as a TPU and XLA want them, and nearly all of the padding
is gone. Every example attends to itself alone, has positions of its own, and
its [CLS] is what the pooler reads, so that losses and gradients are those of
the batch that is not packed, within rounding.

The number of rows is that of the batch of the whole training that needs most,
which is known before it begins: from the lengths of the examples, kept beside
their cache, and the order, which is a function of the seed (`shuffled_epochs`).

Where a batch is computed in parts (a core of a TPU, a part of an accumulated
step), each is packed by itself, and called a batch here.

Axis letters: B batch, S sequence, R rows, M rows of the matrix (R * S), H
hidden, N heads, D head width.
"""

import functools
from typing import NamedTuple

from absl import logging
import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import (
  fast_modeling,
  plain_texts,
  real_tokens,
  shuffled_epochs,
)
from bert_classifier.errors import UserError
import modeling

_BATCHES_AT_A_TIME = 4096


class Packing(NamedTuple):
  """How batches are packed.

  Attributes:
    examples: B.
    rows: R.
  """

  examples: int
  rows: int


# ---------------------------------------------------------------------------
# Layout


def count_rows(lengths, seq_length, batch_size, num_examples, seed):
  """Returns R, the rows that the batch needs that needs most of a training.

  Args:
    lengths: <int>[n], real tokens of each example of the set.
    seq_length: S.
    batch_size: B, of one device.
    num_examples: how many are trained on, over all epochs; B divides it.
    seed: of the order.
  """
  epochs = shuffled_epochs.ShuffledEpochs(seed, len(lengths))
  most, part = 1, _BATCHES_AT_A_TIME * batch_size
  for start in range(0, num_examples, part):
    examples = epochs.indices(start, min(part, num_examples - start))
    rows, _ = lay_out(
      np.reshape(lengths[examples], [-1, batch_size]), seq_length
    )
    most = max(most, 1 + int(rows.max()))
  return most


def lay_out(lengths, seq_length):
  """Lays examples into rows: each, the longest first, where it first fits.

  Args:
    lengths: <int>[n, B], tokens of the examples of n batches; one of none takes
      a row, for its positions are all alike.
    seq_length: S.

  Returns:
    The row of each example in its batch, and its first position there, both
    <int64>[n, B].
  """
  lengths = np.where(lengths == 0, seq_length, lengths).astype(np.int64)
  batch = np.arange(len(lengths))
  free = np.full(lengths.shape, seq_length)
  rows, starts = np.empty_like(lengths), np.empty_like(lengths)
  for example in np.argsort(-lengths, axis=1, kind="stable").T:  # [n]
    length = lengths[batch, example]
    row = np.argmax(free >= length[:, np.newaxis], axis=1)
    rows[batch, example] = row
    starts[batch, example] = seq_length - free[batch, row]
    free[batch, row] -= length
  return rows, starts


def add_to(features, packing):
  """Packs the batches of features: `make_ahead` of `batches.parse`.

  Args:
    features: dictionary with `input_ids`, `input_mask`, whose ones come first,
      and `segment_ids` <int32>[P * B, S], and others: of P batches, which are
      packed one by one.
    packing: `Packing`.

  Returns:
    The same with `input_ids`, `segment_ids` and `input_mask` <int32>[P * R, S];
    the mask has the number of the example in its batch, counted from 1, at each
    of its tokens, and 0 elsewhere. Others are left alone.
  """
  names = ("input_ids", "input_mask", "segment_ids")
  packed = tf.numpy_function(
    functools.partial(_pack_parts, packing),
    [features[name] for name in names],
    tf.int32,
  )
  examples, length = features["input_ids"].shape.as_list()
  rows = examples // packing.examples * packing.rows
  packed = tf.ensure_shape(packed, [len(names), rows, length])
  return {**features, **dict(zip(names, tf.unstack(packed)))}


def _pack_parts(packing, *arrays):
  """Packs <int32>[P * B, S] arrays, as `pack_arrays` does: [3, P * R, S]."""
  parts = len(arrays[0]) // packing.examples
  divided = zip(*(np.split(array, parts) for array in arrays))
  return np.concatenate(
    [pack_arrays(*part, packing.rows) for part in divided], axis=1
  )


def pack_arrays(input_ids, input_mask, segment_ids, num_rows):
  """Returns ids, mask and segments of `add_to`: <int32>[3, R, S].

  Args:
    input_ids, input_mask, segment_ids: <int32>[B, S].
    num_rows: R.
  """
  batch, width = input_ids.shape
  lengths = input_mask.sum(1)
  (rows,), (starts,) = lay_out(lengths[np.newaxis], width)
  lengths = np.where(lengths == 0, width, lengths)
  example = np.repeat(np.arange(batch), lengths)  # [T]
  inside = np.arange(len(example)) - np.repeat(
    np.cumsum(lengths) - lengths, lengths
  )
  places = rows[example] * width + starts[example] + inside
  packed = np.zeros([3, num_rows * width], np.int32)
  packed[0, places] = input_ids[example, inside]
  packed[1, places] = example + 1
  packed[2, places] = segment_ids[example, inside]
  return packed.reshape(3, num_rows, width)


# ---------------------------------------------------------------------------
# The form


def forms(batch_size, **how):
  """Returns the `modeling.Forms` for batches that `add_to` has packed.

  Args:
    batch_size: B.
    how: other arguments of `fast_modeling.forms`.
  """
  kind = functools.partial(PackedSequences, batch_size)
  return fast_modeling.forms(False, kind=kind, **how)


class PackedSequences(fast_modeling.EveryPosition):
  """All positions of the rows, of which each example sees its own.

  Args:
    batch_size: B.
    input_mask: <int32>[R, S], the number of the example of each token, from 1
      to B, and 0 where there is none.
    num_heads: N.
    how: as of `fast_modeling.EveryPosition`.
  """

  def __init__(self, batch_size, input_mask, num_heads, how):
    super().__init__(input_mask, num_heads, how)
    rows, length = modeling.get_shape_list(input_mask)
    number = tf.reshape(input_mask, [-1, 1])  # [M, 1]
    examples = tf.range(1, batch_size + 1)  # [B]
    is_of = tf.cast(tf.equal(number, examples), tf.int32)  # [M, B]
    self._starts = tf.argmax(is_of, 0, output_type=tf.int32)  # [B], in M
    start = tf.gather(self._starts, tf.maximum(number[:, 0] - 1, 0))  # [M]
    place = tf.range(rows * length) - start
    self._positions = tf.where_v2(number[:, 0] > 0, place, 0)  # [M]
    together = tf.equal(input_mask[:, :, tf.newaxis], input_mask[:, tf.newaxis])
    closed = 1.0 - tf.cast(together, tf.float32)  # [R, S, S]
    self._mask = closed[:, tf.newaxis] * real_tokens.CLOSED
    # How each example looks at the row that it is in.
    self._row = self._starts // length  # [B]
    own = tf.equal(tf.gather(input_mask, self._row), examples[:, tf.newaxis])
    self._of_first = fast_modeling.EveryPosition(
      tf.cast(own, tf.int32), num_heads, how
    )

  def add_positions(self, tokens, table):
    # Sliced first: the gradient of a slice is dense, as the original's is.
    return tokens + tf.gather(table[: self._length], self._positions)

  def first(self, tokens):
    return tf.gather(tokens, self._starts)  # [B, H]

  def attend(
    self, query, key, value, mask, num_heads, dropout, rate, only_first=False
  ):
    """See `fast_modeling.EveryPosition.attend`."""
    if only_first:
      key, value = map(self._rows_of_examples, (key, value))
      attend = self._of_first.attend
    else:
      attend = super().attend
    return attend(query, key, value, mask, num_heads, dropout, rate, only_first)

  def _rows_of_examples(self, tokens):
    """Repeats the row of each example: <float32>[M, H] to [B * S, H]."""
    rows = tf.gather(self.as_batch(tokens), self._row)  # [B, S, H]
    return modeling.reshape_to_matrix(rows)


# ---------------------------------------------------------------------------
# The run


def check_schedule(schedule):
  """Makes sure that a training that is to pack can.

  Args:
    schedule: `schedule.Schedule`.

  Raises:
    UserError: the order is not known before it begins.
  """
  if schedule.buffer_size is not None:
    raise UserError(
      "--pack_sequences must know which examples come together, but this"
      f" training draws the next one from a buffer of {schedule.buffer_size}:"
      " leave out --shuffle_buffer_size, begin anew what"
      " an earlier version began (--overwrite_output_dir), use a TPU only with"
      " --tpu_name=local; or leave out --pack_sequences"
    )


def plan(run):
  """Returns the `Packing` of a `preparation.Run`, and logs it."""
  training, length = run.options.training, run.options.model.max_seq_length
  parts = run.placement.replicas * run.options.step.gradient_accumulation_steps
  batch_size = training.train_batch_size // parts
  rows = count_rows(
    run.cache.lengths("train"),
    length,
    batch_size,
    run.schedule.steps * training.train_batch_size,
    training.seed,
  )
  logging.info(
    "every %s are packed into %d rows of %d positions",
    plain_texts.count(batch_size, run.options.model.unit),
    rows,
    length,
  )
  return Packing(batch_size, rows)
