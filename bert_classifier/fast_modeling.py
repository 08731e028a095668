"""The model's parts in the forms that are fastest, first of all on a CPU.

`forms(skip_padding)` gives what `modeling.BertModel` takes as `forms`:

  RealTokens     computes the positions that the mask shows, T of them, and cuts
                 attention at the longest sequence. At 128 positions CoLA's
                 sentences have 11 tokens, so that nine tenths of the work was
                 padding. Its shapes depend on the batch.
  EveryPosition  computes all B * S positions, in static shapes, as a TPU and
                 XLA want it. The plain forms need 1.4 to 1.6 times its memory.

TensorFlow runs an operation at a time, and each passes over its memory; these
forms save passes, mostly by gradients that keep and compute less than the
composed ones (and that a saved graph forgets: it cannot be trained again).
Every form equals the plain one within rounding, and `keep_mask`, which is
random, in its distribution. What each is worth is told beside it: how many
times as long a training step of the 6-layer model takes without it on MNLI
(benchmarks/speed.py --forms), to within a few hundredths. On CoLA, whose
tensors lie in the cache, no difference could be told from noise.

Axis letters: B batch, S sequence, T real tokens, M rows of the matrix (B * S or
T), H hidden, N heads, D head width, Q queries, K keys, G sequences of a group.
"""

import math

import tensorflow.compat.v1 as tf

from bert_classifier import recomputation
import modeling

_CLOSED = -10000.0  # added to a score, leaves a weight that rounds to 0
_GELU_SLOPE = 2.0 * math.sqrt(2.0 / math.pi)
_GELU_CUBIC = 0.044715
_PHILOX = 1  # TensorFlow's number for this random generator


def forms(skip_padding, on_cpu=True, dtype=tf.float32, recomputes=False):
  """Returns the `modeling.Forms` that are fastest.

  Args:
    skip_padding: whether to compute real tokens only.
    on_cpu: whether a CPU computes; see `_row_mean`.
    dtype: of the matrix products, as of `modeling.Forms`.
    recomputes: whether training keeps of a layer what it reads alone, and
      computes the rest again, see `recomputation`.
  """
  fast = _FastForms(RealTokens if skip_padding else EveryPosition, on_cpu)
  fast.dtype, fast.recomputes = dtype, recomputes
  return fast


class _FastForms(modeling.Forms):
  """The forms before they know their batch, and what both kinds share.

  Args:
    kind: `RealTokens` or `EveryPosition`.
    on_cpu: as of `forms`.

  Attributes:
    dtype, recomputes: as of `forms`.
  """

  recomputes = False

  def __init__(self, kind, on_cpu):
    self._kind, self._on_cpu = kind, on_cpu

  def for_batch(self, input_mask, num_heads):
    fast = self._kind(input_mask, num_heads, self._on_cpu)
    fast.dtype, fast.recomputes = self.dtype, self.recomputes
    return fast

  def layer(self, build, tokens, dropout):
    if not self.recomputes:
      return build(tokens, dropout)
    return recomputation.recompute(build, tokens, dropout)

  def lookup(self, table, ids):
    # Not from the variable itself, or TensorFlow would copy the whole table
    # before each update: a CoLA step of the 6-layer model with that copy takes
    # 1.06 times as long (benchmarks/speed.py --forms).
    return tf.gather(table.read_value(), ids)

  def normalize(self, x, gamma, beta, epsilon):
    return normalize(x, gamma, beta, epsilon, self._on_cpu)

  def activation(self, name):
    function = modeling.get_activation(name)
    return gelu if function is modeling.gelu else function

  def attention_mask(self, input_ids, input_mask):
    return None  # `attend` knows the mask of its batch

  def dropout(self, key=None):
    return FastDropout(key)


# ---------------------------------------------------------------------------
# All positions


class EveryPosition(_FastForms):
  """All positions are rows of a matrix, batch by batch.

  Args:
    input_mask: <int32>[B, S], 1 where attention may go; any 0/1 mask is valid.
      Where a mask is all zeros, attention goes to every position alike.
    num_heads: N.
    on_cpu: as of `forms`.
  """

  def __init__(self, input_mask, num_heads, on_cpu=True):
    self._on_cpu = on_cpu
    self._batch, self._length = modeling.get_shape_list(input_mask)
    self._heads = num_heads
    closed = 1.0 - tf.cast(input_mask, tf.float32)  # [B, S]
    self._mask = closed[:, tf.newaxis, tf.newaxis, :] * _CLOSED

  def arrange(self, values):
    """Reshapes <int32>[B, S] to [M]."""
    return tf.reshape(values, [-1])

  def add_positions(self, tokens, table):
    moved = self.as_batch(tokens) + table[: self._length]  # [B, S, H]
    return tf.reshape(moved, [-1, _width(tokens)])

  def first(self, tokens):
    """Returns the row of each sequence's first token: <float32>[B, H]."""
    return self.as_batch(tokens)[:, 0]

  def as_batch(self, tokens):
    """Reshapes <float32>[M, H] to [B, S, H]."""
    return tf.reshape(tokens, [self._batch, self._length, _width(tokens)])

  def attend(
    self, query, key, value, mask, num_heads, dropout, rate, only_first=False
  ):
    """Computes the attention of each head within each sequence.

    Args:
      query: <float32>[M, H]; [B, H], that of the first tokens, where
        `only_first`.
      key, value: <float32>[M, H].
      mask, num_heads: ignored, `for_batch` was given them.
      dropout: a `modeling.Dropout`, of the weights.
      rate: in [0, 1).
      only_first: whether only the first tokens look around.

    Returns:
      <float32>, the shape of `query`.
    """
    # Scaled after the product, as in the original: next to -10000 a score
    # keeps three decimals, and which they are depends on the order.
    scale = (_width(query) // self._heads) ** -0.5
    value = dropout.scaled_up(value, rate)  # smaller than the weights
    query = self._split(query, 1 if only_first else self._length)
    key, value = (self._split(rows, self._length) for rows in (key, value))
    kept = dropout.mask(_scores_shape(query, key), rate)
    context = attention(query, key, value, self._mask, kept, scale)
    width = self._heads * _width(context)
    context = tf.reshape(tf.transpose(context, [0, 2, 1, 3]), [-1, width])
    return tf.cast(context, tf.float32)

  def _split(self, rows, length):
    """Splits heads: <float32>[B * Q, H] to <dtype>[B, N, Q, D]."""
    width = _width(rows) // self._heads
    rows = tf.cast(rows, self.dtype)
    apart = tf.reshape(rows, [self._batch, length, self._heads, width])
    return tf.transpose(apart, [0, 2, 1, 3])


def _width(tensor):
  """Returns the static size of the last axis."""
  return tensor.shape.as_list()[-1]


def _scores_shape(query, key):
  """Returns [B, N, Q, K] for <float32>[B, N, Q, D] and [B, N, K, D]."""
  static = [*query.shape.as_list()[:3], key.shape.as_list()[2]]
  if None not in static:
    return static
  return tf.concat([tf.shape(query)[:3], tf.shape(key)[2:3]], 0)


# ---------------------------------------------------------------------------
# Real tokens only


class RealTokens(_FastForms):
  """The rows are the tokens that the mask shows, and each sequence's first.

  The first is kept whatever its mask, for the pooler reads it. Of a sequence
  whose mask is all zeros every position is kept: -10000 on all of its scores
  cancels in the softmax, so that attention goes to all of them. For attention
  the sequences are put, by length, into two groups, each as wide as its
  longest, divided where the least is left to compute.

  Args:
    input_mask: <int32>[B, S], 1 where attention may go; any 0/1 mask is valid.
    num_heads: N.
    on_cpu: as of `forms`.
  """

  def __init__(self, input_mask, num_heads, on_cpu=True):
    self._on_cpu = on_cpu
    self._shape = batch, _ = modeling.get_shape_list(input_mask)
    self._heads = num_heads
    real = tf.concat([tf.ones([batch, 1], tf.int32), input_mask[:, 1:]], 1)
    shown = tf.reduce_max(input_mask, 1, keepdims=True)  # [B, 1]
    real = tf.maximum(real, 1 - shown)  # [B, S]
    places = tf.where(tf.reshape(real > 0, [-1]))[:, 0]
    self._places = tf.cast(places, tf.int32)  # [T], in B * S
    self._lengths = tf.reduce_sum(real, 1)  # [B]
    self._starts = tf.cumsum(self._lengths, exclusive=True)  # [B], in T
    self._open = tf.gather(tf.reshape(input_mask, [-1]), self._places)  # [T]
    self._group(batch)

  def arrange(self, values):
    return tf.gather(tf.reshape(values, [-1]), self._places)  # [T]

  def add_positions(self, tokens, table):
    length = self._shape[1]
    # Sliced first: the gradient of a slice is dense, as the original's is.
    return tokens + tf.gather(table[:length], self._places % length)  # [T, H]

  def first(self, tokens):
    return tf.gather(tokens, self._starts)  # [B, H]

  def as_batch(self, tokens):
    """Spreads <float32>[T, H] over [B, S, H], zeros where there is no token."""
    batch, length = self._shape
    width = _width(tokens)
    spread = tf.scatter_nd(
      self._places[:, tf.newaxis], tokens, [batch * length, width]
    )  # [B * S, H]
    return tf.reshape(spread, [batch, length, width])

  def attend(
    self, query, key, value, mask, num_heads, dropout, rate, only_first=False
  ):
    """See `EveryPosition.attend`."""
    if only_first:
      split, merge, back = (
        self._split_first,
        self._split_first,
        self._back_first,
      )
    else:
      split, merge, back = self._split, self._merge, self._back
    query *= (_width(query) // self._heads) ** -0.5
    value = dropout.scaled_up(value, rate)  # smaller than the weights
    query, key, value = (
      tf.cast(rows, self.dtype) for rows in (query, key, value)
    )
    queries = split_heads(query, split, back)
    keys = split_heads(key, self._split, self._back)
    values = split_heads(value, self._split, self._back)
    contexts = [
      attention(q, k, v, group, dropout.mask(_scores_shape(q, k), rate))
      for q, k, v, group in zip(queries, keys, values, self._masks)
    ]  # [G, N, Q, D] each
    return tf.cast(merge_heads(contexts, merge, back), tf.float32)

  def _group(self, batch):
    """Makes the indices that put heads into groups and back, and the masks.

    Of each group `_split`, `_merge` <int32>[G, N, K], `_split_first`
    <int32>[G, N, 1] and `_masks` <float32>[G, 1, 1, K]; of all `_back`
    <int32>[T, N] and `_back_first` <int32>[B, N]. See `split_heads`.

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
    """Adds the indices and the mask of one group of sequences <int32>[G]."""
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
  """Counts those of the sorted sequences <int32>[B] in the shorter group.

  Attention computes longest^2 scores for each sequence of a group; the division
  is the one that makes the fewest. With a single group a training step of the
  6-layer model takes 1.23 times as long on MNLI (benchmarks/speed.py --forms).
  """
  count = tf.range(1, batch + 1)  # [B]
  scores = count * lengths**2 + (batch - count) * lengths[-1] ** 2
  return tf.argmin(scores, output_type=tf.int32) + 1


# ---------------------------------------------------------------------------
# Element by element


@tf.custom_gradient
def gelu(x):
  """Returns x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)): <float32>[M, H].

  The tanh form, for (1 + tanh(u)) / 2 = sigmoid(2 u). Without it a step takes
  1.04 times as long.
  """
  square = x * x
  gate = tf.sigmoid(x * (_GELU_SLOPE + _GELU_SLOPE * _GELU_CUBIC * square))
  output = x * gate

  def gradient(upstream):
    inner = _GELU_SLOPE + 3.0 * _GELU_SLOPE * _GELU_CUBIC * square
    return upstream * (gate + (output - output * gate) * inner)

  return output, gradient


def normalize(x, gamma, beta, epsilon=modeling.LAYER_NORM_EPSILON, on_cpu=True):
  """Returns gamma (x - mean) / sqrt(variance + epsilon) + beta over a row.

  Without it a step takes 1.06 times as long.

  Args:
    x: <float32>[M, H].
    gamma, beta: <float32>[H].
    epsilon: a number.
    on_cpu: whether a CPU computes; see `_row_mean`.

  Returns:
    <float32>[M, H].
  """
  # For a TPU and for XLA shapes are static.
  by_product = on_cpu and not x.shape.is_fully_defined()

  @tf.custom_gradient
  def core(x, gamma, beta):
    mean = _row_mean(x, by_product)  # [M, 1]
    centered = x - mean  # [M, H]
    scale = tf.math.rsqrt(
      _row_mean(centered * centered, by_product) + epsilon
    )  # [M, 1]
    normal = centered * scale  # [M, H]

    def gradient(upstream):
      product = upstream * normal  # [M, H]
      grad_normal = upstream * gamma  # [M, H]
      grad_x = scale * (
        grad_normal
        - _row_mean(upstream, by_product, gamma)
        - normal * _row_mean(product, by_product, gamma)
      )
      return (
        grad_x,
        _column_sum(product, by_product),
        _column_sum(upstream, by_product),
      )

    return normal * gamma + beta, gradient

  return core(x, gamma, beta)


def _row_mean(x, by_product, weights=None):
  """Returns the mean of each row <float32>[M, H], weighted by [H]: [M, 1].

  On a CPU by a product with a vector, which runs at the speed of a matrix
  product. Other devices multiply with fewer digits than they add.
  """
  if not by_product:
    x = x if weights is None else x * weights
    return tf.reduce_mean(x, axis=-1, keepdims=True)
  vector = tf.ones([_width(x)], x.dtype) if weights is None else weights
  return tf.matmul(x, tf.expand_dims(vector, 1)) * (1.0 / _width(x))


def _column_sum(x, by_product):
  """Returns the sum over the rows of <float32>[M, H]: [H]; see `_row_mean`."""
  if not by_product:
    return tf.reduce_sum(x, axis=0)
  return tf.matmul(tf.ones([1, tf.shape(x)[0]], x.dtype), x)[0]


def attention(query, key, value, mask, kept=None, scale=None):
  """Returns softmax(scale query . key + mask), times `kept`, times value.

  The gradient keeps the weights and what dropout left of them, nothing else.
  Without it a step takes 1.05 times as long.

  Args:
    query: <float>[B, N, Q, D].
    key, value: <float>[B, N, K, D]; the value already divided by dropout's
      share of kept weights.
    mask: <float32>[B, 1, 1, K], added to the scores.
    kept: <float32>[B, N, Q, K] of 0 and 1, or None for no dropout.
    scale: a number; None is 1 and saves a pass.

  Returns:
    <float>[B, N, Q, D], of the dtype of the arguments. What stands between the
    products is float32.
  """
  dtype = query.dtype

  def multiply_scores(a, b):
    return tf.cast(tf.matmul(a, b, transpose_b=True), tf.float32)

  @tf.custom_gradient
  def core(query, key, value):
    scores = multiply_scores(query, key)  # [B, N, Q, K]
    scores = scores if scale is None else scores * scale
    weights = tf.nn.softmax(scores + mask)
    left = tf.cast(weights if kept is None else weights * kept, dtype)

    def gradient(upstream):
      grad_value = tf.matmul(left, upstream, transpose_a=True)
      grad_left = multiply_scores(upstream, value)
      # Where nothing is kept, the gradient is 0.
      product = grad_left * tf.cast(left, tf.float32)
      total = tf.reduce_sum(product, axis=-1, keepdims=True)  # [B, N, Q, 1]
      grad_scores = product - weights * total
      grad_scores = grad_scores if scale is None else grad_scores * scale
      grad_scores = tf.cast(grad_scores, dtype)
      grad_query = tf.matmul(grad_scores, key)
      grad_key = tf.matmul(grad_scores, query, transpose_a=True)
      return grad_query, grad_key, grad_value

    return tf.matmul(left, value), gradient

  return core(query, key, value)


def split_heads(rows, to_heads, from_heads):
  """Splits rows of tokens into groups of heads, padded, by one gather a group.

  Without it and `merge_heads` a step takes 1.06 times as long.

  Args:
    rows: <float32>[M, H].
    to_heads: for each group <int32>[B, N, Q], the row of [M * N, D] that
      stands there; any row where there is only padding.
    from_heads: <int32>[M, N], where the groups' own rows, one group after the
      other, hold a head of a token.

  Returns:
    List of <float32>[B, N, Q, D].
  """

  @tf.custom_gradient
  def split(rows):
    apart = _head_rows(rows, from_heads)  # [M * N, D]
    groups = [tf.gather(apart, index) for index in to_heads]

    def gradient(*upstream):
      return _gather_rows(upstream, from_heads)

    return groups, gradient

  return split(rows)


def merge_heads(groups, to_heads, from_heads):
  """Merges heads: list of <float32>[B, N, Q, D] to [M, H].

  The way back from `split_heads`, with the same arguments. Padding gets a
  gradient of 0; `to_heads` must be M * N there.
  """

  @tf.custom_gradient
  def merge(*groups):
    def gradient(upstream):
      apart = _head_rows(upstream, from_heads)  # [M * N, D]
      with_zero = tf.pad(apart, [[0, 1], [0, 0]])  # [M * N + 1, D]
      return [tf.gather(with_zero, index) for index in to_heads]

    return _gather_rows(groups, from_heads), gradient

  return merge(*groups)


def _head_rows(rows, from_heads):
  """Reshapes <float32>[M, H] to [M * N, D]; `from_heads` is <int32>[M, N]."""
  heads = _width(from_heads)
  return tf.reshape(rows, [-1, _width(rows) // heads])


def _gather_rows(groups, from_heads):
  """Gathers each token's heads from all groups, side by side: [M, H]."""
  width = _width(groups[0])
  flat = tf.concat([tf.reshape(group, [-1, width]) for group in groups], 0)
  heads = _width(from_heads)
  return tf.reshape(tf.gather(flat, from_heads), [-1, heads * width])


# ---------------------------------------------------------------------------
# Dropout


class FastDropout(modeling.Dropout):
  """`modeling.Dropout` whose masks are drawn by `keep_mask`."""

  def mask(self, shape, dropout_prob):
    if not dropout_prob:
      return None
    return keep_mask(shape, self.next_seed(), dropout_prob)

  def scaled_up(self, input_tensor, dropout_prob):
    if not dropout_prob:
      return input_tensor
    return input_tensor * (1.0 / kept_share(dropout_prob))


def keep_mask(shape, seed, dropout_prob):
  """Draws what dropout keeps: 1 with probability `kept_share(p)`, else 0.

  Four decisions are drawn from one 64-bit number; without that a step takes
  1.06 times as long. With static shapes it is the plain form, which is the one
  that XLA compiles.

  Args:
    shape: of the mask: a list of numbers, or <int32>[rank].
    seed: <int64>[2].
    dropout_prob: p in [0, 1).

  Returns:
    <float32>[shape].
  """
  threshold = _threshold(dropout_prob)
  if isinstance(shape, list):
    drawn = tf.random.stateless_uniform(shape, seed)
    return tf.cast(drawn >= threshold / 65536, tf.float32)
  count = tf.reduce_prod(shape)
  key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
  drawn = tf.raw_ops.StatelessRandomUniformFullIntV2(
    shape=tf.expand_dims((count + 3) // 4, 0),
    key=key,
    counter=counter,
    alg=_PHILOX,
    dtype=tf.uint64,
  )
  quarters = tf.reshape(tf.bitcast(drawn, tf.uint16), [-1])[:count]
  kept = quarters >= tf.constant(threshold, tf.uint16)
  return tf.reshape(tf.cast(kept, tf.float32), shape)


def kept_share(dropout_prob):
  """Returns 1 - p, with p rounded to a multiple of 1 / 65536."""
  return 1.0 - _threshold(dropout_prob) / 65536


def _threshold(dropout_prob):
  """Returns how many of 65536 numbers mean that an element is lost."""
  return min(round(dropout_prob * 65536), 65535)
