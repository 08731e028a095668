"""Which positions the layers compute, and how attention puts them in rows.

The layers of the encoder see a matrix with a row for each token. A layout says
which positions [B, S] are rows of it, and computes what needs to know where a
token stands: position embeddings, the first token, attention.

`EveryPosition` keeps all B * S of them, in static shapes, as a TPU and XLA
want it. `RealTokens` keeps those that the mask shows, T of them, and cuts
attention at the longest sequence: at 128 positions CoLA's sentences have 11
tokens, so that nine tenths of the work was padding. The README has the times.

Axis letters: B batch, S sequence, T real tokens, M rows of the matrix (B * S
or T), H hidden, N heads, D head width, Q queries, K keys, G rows of a group.
"""

import tensorflow.compat.v1 as tf

import fast_ops

_CLOSED = -10000.0  # added to a score, leaves a weight that rounds to 0


class EveryPosition:
  """All positions are rows, batch by batch.

  Args:
    input_mask: <int32>[B, S], 1 where attention may go; any 0/1 mask is valid.
      Where a mask is all zeros, attention goes to every position alike.
    shape: B and S, numbers where they are static.
    heads: N.
  """

  def __init__(self, input_mask, shape, heads):
    self._batch, self._length = shape
    self._heads = heads
    closed = 1.0 - tf.cast(input_mask, tf.float32)  # [B, S]
    self._mask = closed[:, tf.newaxis, tf.newaxis, :] * _CLOSED

  def rows(self, values):
    """<int32>[B, S] to <int32>[M]."""
    return tf.reshape(values, [-1])

  def add_positions(self, rows, table):
    """Adds to each row <float32>[M, H] the embedding of its position."""
    moved = self.at_positions(rows) + table[: self._length]  # [B, S, H]
    return tf.reshape(moved, [-1, rows.shape.as_list()[-1]])

  def first(self, rows):
    """The row of each sequence's first token: <float32>[B, H]."""
    return self.at_positions(rows)[:, 0]

  def at_positions(self, rows):
    """<float32>[M, H] back to <float32>[B, S, H]."""
    return tf.reshape(
      rows, [self._batch, self._length, rows.shape.as_list()[-1]]
    )

  def attend(self, query, key, value, draw_kept, only_first):
    """Attention of each head within each sequence.

    Args:
      query: <float32>[M, H]; [B, H], that of the first tokens, where
        `only_first`.
      key, value: <float32>[M, H].
      draw_kept: function from the shape of the scores to what dropout keeps of
        them, see `fast_ops.attention`.
      only_first: whether only the first tokens look around.

    Returns:
      <float32>, the shape of `query`.
    """
    # Scaled after the product, as in the original: next to -10000 a score
    # keeps three decimals, and which they are depends on the order.
    scale = (query.shape.as_list()[-1] // self._heads) ** -0.5
    query = self._split(query, 1 if only_first else self._length)
    key, value = (self._split(rows, self._length) for rows in (key, value))
    context = fast_ops.attention(
      query,
      key,
      value,
      self._mask,
      draw_kept(_scores_shape(query, key)),
      scale,
    )  # [B, N, Q, D]
    width = self._heads * context.shape.as_list()[-1]
    return tf.reshape(tf.transpose(context, [0, 2, 1, 3]), [-1, width])

  def _split(self, rows, length):
    """<float32>[B * Q, H] to <float32>[B, N, Q, D]."""
    width = rows.shape.as_list()[-1] // self._heads
    apart = tf.reshape(rows, [self._batch, length, self._heads, width])
    return tf.transpose(apart, [0, 2, 1, 3])


class RealTokens:
  """The rows are the tokens that the mask shows, and each sequence's first.

  The first is kept whatever its mask, for the pooler reads it. Of a sequence
  whose mask is all zeros every position is kept: -10000 on all of its scores
  cancels in the softmax, so that attention goes to all of them. For attention
  the sequences are put, by length, into two groups, each as wide as its
  longest, divided where the least is left to compute.

  Args:
    input_mask: <int32>[B, S], 1 where attention may go; any 0/1 mask is valid.
    shape: B and S.
    heads: N.
  """

  def __init__(self, input_mask, shape, heads):
    self._shape, self._heads = shape, heads
    batch, length = shape
    real = tf.concat([tf.ones([batch, 1], tf.int32), input_mask[:, 1:]], 1)
    shown = tf.reduce_max(input_mask, 1, keepdims=True)  # [B, 1]
    real = tf.maximum(real, 1 - shown)  # [B, S]
    places = tf.where(tf.reshape(real > 0, [-1]))[:, 0]
    self._places = tf.cast(places, tf.int32)  # [T], in B * S
    self._lengths = tf.reduce_sum(real, 1)  # [B]
    self._starts = tf.cumsum(self._lengths, exclusive=True)  # [B], in T
    self._open = tf.gather(tf.reshape(input_mask, [-1]), self._places)  # [T]
    self._group(batch)

  def rows(self, values):
    return tf.gather(tf.reshape(values, [-1]), self._places)  # [T]

  def add_positions(self, rows, table):
    length = self._shape[1]
    # Sliced first: the gradient of a slice is dense, as the original's is.
    return rows + tf.gather(table[:length], self._places % length)  # [T, H]

  def first(self, rows):
    return tf.gather(rows, self._starts)  # [B, H]

  def at_positions(self, rows):
    """<float32>[T, H] to <float32>[B, S, H], zeros where there is no token."""
    batch, length = self._shape
    width = rows.shape.as_list()[-1]
    spread = tf.scatter_nd(
      self._places[:, tf.newaxis], rows, [batch * length, width]
    )  # [B * S, H]
    return tf.reshape(spread, [batch, length, width])

  def attend(self, query, key, value, draw_kept, only_first):
    """See `EveryPosition.attend`."""
    if only_first:
      split, merge, back = (
        self._split_first,
        self._split_first,
        self._back_first,
      )
    else:
      split, merge, back = self._split, self._merge, self._back
    query *= (query.shape.as_list()[-1] // self._heads) ** -0.5
    queries = fast_ops.split_heads(query, split, back)
    keys = fast_ops.split_heads(key, self._split, self._back)
    values = fast_ops.split_heads(value, self._split, self._back)
    contexts = [
      fast_ops.attention(q, k, v, mask, draw_kept(_scores_shape(q, k)))
      for q, k, v, mask in zip(queries, keys, values, self._masks)
    ]  # [G, N, Q, D] each
    return fast_ops.merge_heads(contexts, merge, back)

  def _group(self, batch):
    """Makes the indices that put heads into groups and back, and the masks.

    Of each group `_split`, `_merge` <int32>[G, N, K], `_split_first`
    <int32>[G, N, 1] and `_masks` <float32>[G, 1, 1, K]; of all `_back`
    <int32>[T, N] and `_back_first` <int32>[B, N]. See `fast_ops.split_heads`.

    With sequences of 3 tokens and of 1, and two heads, of which head h of token
    t is row 2 t + h, the shorter sequence, token 3, is a group by itself:

      _split  [[[6], [7]]] and [[[0, 2, 4], [1, 3, 5]]]
      _back   [[2, 5], [3, 6], [4, 7], [0, 1]]

    for one after the other the groups have the rows 6, 7, 0, 2, 4, 1, 3, 5, and
    the heads of token 0 come third and sixth.
    """
    order = tf.argsort(self._lengths, stable=True)  # [B]
    shorter = _division(tf.gather(self._lengths, order), batch)
    head = tf.range(self._heads)  # [N]
    rank = tf.math.invert_permutation(order)[:, tf.newaxis]  # [B, 1]
    self._split_first = [
      (group[:, tf.newaxis] * self._heads + head)[:, :, tf.newaxis]
      for group in (order[:shorter], order[shorter:])
    ]  # [G, N, 1] each
    self._back_first = rank * self._heads + head  # [B, N]
    self._split, self._merge, self._masks = [], [], []
    rows_before, back = 0, []
    for begin, group in ((0, order[:shorter]), (shorter, order[shorter:])):
      longest = tf.reduce_max(tf.gather(self._lengths, group))
      longest = tf.maximum(longest, 1)  # of no sequences there is no longest
      self._index(group, longest)
      row = rows_before + (rank - begin) * self._heads * longest  # [B, 1]
      back.append(row + head * longest)  # [B, N]
      rows_before = tf.size(group) * self._heads * longest
    back = tf.where_v2(rank < shorter, *back)  # [B, N], of a sequence's token 0
    sequence = self._places // self._shape[1]  # [T]
    inside = tf.range(tf.size(sequence)) - tf.gather(self._starts, sequence)
    self._back = tf.gather(back, sequence) + inside[:, tf.newaxis]  # [T, N]

  def _index(self, group, longest):
    """Indices and mask of one group of sequences <int32>[G]."""
    tokens = tf.size(self._places)
    step = tf.range(longest)  # [K]
    real = step < tf.gather(self._lengths, group)[:, tf.newaxis]  # [G, K]
    token = tf.gather(self._starts, group)[:, tf.newaxis] + step  # [G, K]
    token = tf.where_v2(real, token, tokens)
    rows = (
      token[:, tf.newaxis, :] * self._heads
      + tf.range(self._heads)[:, tf.newaxis]
    )  # [G, N, K]
    end = tokens * self._heads
    self._split.append(tf.minimum(rows, end - 1))
    self._merge.append(tf.minimum(rows, end))
    is_open = tf.gather(tf.pad(self._open, [[0, 1]]), token) > 0  # [G, K]
    mask = tf.where_v2(is_open, 0.0, _CLOSED)
    self._masks.append(mask[:, tf.newaxis, tf.newaxis, :])  # [G, 1, 1, K]


def _division(lengths, batch):
  """How many of the sorted sequences <int32>[B] go into the shorter group.

  Attention computes longest^2 scores for each sequence of a group; the division
  is the one that makes the fewest. With a single group a training step of the
  6-layer model takes 1.23 times as long on MNLI (benchmarks/speed.py --forms).
  """
  count = tf.range(1, batch + 1)  # [B]
  scores = count * lengths**2 + (batch - count) * lengths[-1] ** 2
  return tf.argmin(scores, output_type=tf.int32) + 1


def _scores_shape(query, key):
  """Of <float32>[B, N, Q, D] and [B, N, K, D]: [B, N, Q, K]."""
  static = [*query.shape.as_list()[:3], key.shape.as_list()[2]]
  if None not in static:
    return static
  return tf.concat([tf.shape(query)[:3], tf.shape(key)[2:3]], 0)
