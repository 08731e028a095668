"""Which tokens of a batch are computed, and where their heads go for attention.

`lay_out` makes the indices from a batch's mask: in the graph of a step, or
ahead of it in the input pipeline (`add_to`), where steps need not wait for
them.

Axis letters: B batch, S sequence, T real tokens, N heads, K keys, G sequences
of a group.
"""

import functools
from typing import NamedTuple

import tensorflow.compat.v1 as tf

import modeling

FEATURE = "real_tokens"  # what a batch's features have a layout under
CLOSED = -10000.0  # added to a score, leaves a weight that rounds to 0


class Layout(NamedTuple):
  """The tokens of a batch as rows of a matrix, and the two groups of attention.

  The tuples have an entry for each group; see `fast_modeling.split_heads`. With
  sequences of 3 tokens and of 1, and two heads, of which head h of token t is
  row 2 t + h, the shorter sequence, token 3, is a group by itself:

    split  ([[[6], [7]]], [[[0, 2, 4], [1, 3, 5]]])
    back   [[2, 5], [3, 6], [4, 7], [0, 1]]

  for one after the other the groups have the rows 6, 7, 0, 2, 4, 1, 3, 5, and
  the heads of token 0 come third and sixth.

  Attributes:
    places: <int32>[T], the tokens' places in B * S.
    starts: <int32>[B], in T, each sequence's first token.
    split, merge: <int32>[G, N, K], where the heads of the groups come from;
      of `merge` T * N where there is only padding.
    split_first: <int32>[G, N, 1], the same of the first tokens alone.
    back: <int32>[T, N], where they go.
    back_first: <int32>[B, N].
    masks: <float32>[G, 1, 1, K], added to the scores.
  """

  places: tf.Tensor
  starts: tf.Tensor
  split: tuple
  merge: tuple
  split_first: tuple
  back: tf.Tensor
  back_first: tf.Tensor
  masks: tuple


def add_to(features, num_heads):
  """Returns the features of a batch with its layout.

  Args:
    features: dictionary with `input_mask` <int32>[B, S].
    num_heads: N.
  """
  layout = lay_out(features["input_mask"], num_heads)
  return {**features, FEATURE: layout._asdict()}


def lay_out(input_mask, num_heads):
  """Returns the `Layout` of a batch.

  Kept are the tokens that the mask shows and each sequence's first, whatever
  its mask, for the pooler reads it. Of a sequence whose mask is all zeros every
  position is kept: -10000 on all of its scores cancels in the softmax, so that
  attention goes to all of them. For attention the sequences are put, by length,
  into two groups, each as wide as its longest, divided where the least is left
  to compute.

  Args:
    input_mask: <int32>[B, S], 1 where attention may go; any 0/1 mask is valid.
    num_heads: N.
  """
  batch, size = modeling.get_shape_list(input_mask)
  real = tf.concat([tf.ones([batch, 1], tf.int32), input_mask[:, 1:]], 1)
  shown = tf.reduce_max(input_mask, 1, keepdims=True)  # [B, 1]
  real = tf.maximum(real, 1 - shown)  # [B, S]
  places = tf.where(tf.reshape(real > 0, [-1]))[:, 0]
  places = tf.cast(places, tf.int32)  # [T], in B * S
  lengths = tf.reduce_sum(real, 1)  # [B]
  starts = tf.cumsum(lengths, exclusive=True)  # [B], in T
  is_open = tf.gather(tf.reshape(input_mask, [-1]), places)  # [T]
  order = tf.argsort(lengths, stable=True)  # [B]
  shorter = _division(tf.gather(lengths, order), batch)
  head = tf.range(num_heads)  # [N]
  rank = tf.math.invert_permutation(order)[:, tf.newaxis]  # [B, 1]
  groups = (0, order[:shorter]), (shorter, order[shorter:])
  index = functools.partial(_index, lengths, starts, is_open, num_heads)
  indices, backs, rows_before = [], [], 0
  for begin, group in groups:
    longest = tf.reduce_max(tf.gather(lengths, group))
    longest = tf.maximum(longest, 1)  # of no sequences there is no longest
    indices.append(index(group, longest))
    row = rows_before + (rank - begin) * num_heads * longest  # [B, 1]
    backs.append(row + head * longest)  # [B, N]
    rows_before = tf.size(group) * num_heads * longest
  back = tf.where_v2(rank < shorter, *backs)  # [B, N], of each one's token 0
  sequence = places // size  # [T]
  inside = tf.range(tf.size(sequence)) - tf.gather(starts, sequence)
  split, merge, masks = zip(*indices)
  return Layout(
    places=places,
    starts=starts,
    split=split,
    merge=merge,
    split_first=tuple(
      (group[:, tf.newaxis] * num_heads + head)[:, :, tf.newaxis]
      for _, group in groups
    ),
    back=tf.gather(back, sequence) + inside[:, tf.newaxis],
    back_first=rank * num_heads + head,
    masks=masks,
  )


def _index(lengths, starts, is_open, num_heads, group, longest):
  """Returns split, merge and mask of one group of sequences <int32>[G].

  Args:
    lengths, starts: <int32>[B].
    is_open: <int32>[T], 0 where attention may not go to a token.
    num_heads: N.
    group: the sequences.
    longest: <int32>[], K.
  """
  tokens = tf.size(is_open)
  step = tf.range(longest)  # [K]
  real = step < tf.gather(lengths, group)[:, tf.newaxis]  # [G, K]
  token = tf.gather(starts, group)[:, tf.newaxis] + step  # [G, K]
  token = tf.where_v2(real, token, tokens)
  rows = (
    token[:, tf.newaxis, :] * num_heads + tf.range(num_heads)[:, tf.newaxis]
  )  # [G, N, K]
  end = tokens * num_heads
  shown = tf.gather(tf.pad(is_open, [[0, 1]]), token) > 0  # [G, K]
  mask = tf.where_v2(shown, 0.0, CLOSED)
  return (
    tf.minimum(rows, end - 1),
    tf.minimum(rows, end),
    mask[:, tf.newaxis, tf.newaxis, :],  # [G, 1, 1, K]
  )


def _division(lengths, batch):
  """Counts those of the sorted sequences <int32>[B] in the shorter group.

  Attention computes longest^2 scores for each sequence of a group; the division
  is the one that makes the fewest. With a single group a training step of the
  6-layer model takes 1.23 times as long on MNLI (benchmarks/speed.py --forms).
  """
  count = tf.range(1, batch + 1)  # [B]
  scores = count * lengths**2 + (batch - count) * lengths[-1] ** 2
  return tf.argmin(scores, output_type=tf.int32) + 1
