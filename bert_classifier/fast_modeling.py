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

import contextlib
import math
from typing import Callable, NamedTuple

import tensorflow.compat.v1 as tf

from bert_classifier import real_tokens, recomputation
import modeling

_GELU_SLOPE = 2.0 * math.sqrt(2.0 / math.pi)
_GELU_CUBIC = 0.044715
_PHILOX = 1  # TensorFlow's number for this random generator


class _How(NamedTuple):
  """How the forms compute, whatever the batch; see `forms`."""

  on_cpu: bool
  on_host: Callable
  dtype: tf.DType
  recomputes: bool


def forms(
  skip_padding,
  on_cpu=True,
  dtype=tf.float32,
  recomputes=False,
  on_host=contextlib.nullcontext,
  kind=None,
):
  """Returns the `modeling.Forms` that are fastest.

  Args:
    skip_padding: whether to compute real tokens only.
    on_cpu: whether a CPU computes; see `_row_mean`.
    dtype: of the matrix products, as of `modeling.Forms`.
    recomputes: whether training keeps of a layer what it reads alone, and
      computes the rest again, see `recomputation`.
    on_host: function that returns a context: for what is computed of whole
      numbers alone, seeds, indices and sizes. A GPU would compute them, wait,
      and send them back to the host, which reads them.
    kind: another arrangement of the batch in place of those two, a class with
      the arguments of `EveryPosition`.
  """
  how = _How(on_cpu, on_host, dtype, recomputes)
  return _WithoutBatch(skip_padding, how, kind=kind)


class _FastForms(modeling.Forms):
  """What the fast forms share.

  Args:
    how: `_How`.
  """

  def __init__(self, how):
    super().__init__(how.dtype)
    self._how = how

  def layer(self, build, tokens, dropout):
    if not self._how.recomputes:
      return build(tokens, dropout)
    return recomputation.recompute(build, tokens, dropout)

  def lookup(self, table, ids):
    # Not from the variable itself, or TensorFlow would copy the whole table
    # before each update: a CoLA step of the 6-layer model with that copy takes
    # 1.06 times as long (benchmarks/speed.py --forms).
    return tf.gather(table.read_value(), ids)

  def normalize(self, x, gamma, beta, epsilon):
    return normalize(x, gamma, beta, epsilon, self._how.on_cpu)

  def activation(self, name):
    function = modeling.get_activation(name)
    return gelu if function is modeling.gelu else function

  def attention_mask(self, input_ids, input_mask):
    return None  # `attend` knows the mask of its batch

  def dropout(self, key=None):
    return FastDropout(key, self._how.on_host)


class _WithoutBatch(_FastForms):
  """The forms before they know their batch.

  Args:
    skip_padding: as of `forms`.
    how: `_How`.
    layout: `real_tokens.Layout` of the batch where it was made ahead.
    kind: as of `forms`.
  """

  def __init__(self, skip_padding, how, layout=None, kind=None):
    super().__init__(how)
    self._skip_padding, self._made_ahead = skip_padding, layout
    self._kind = kind or (None if skip_padding else EveryPosition)

  def with_features(self, features):
    layout = features.get(real_tokens.FEATURE)
    if layout is None:
      return self
    layout = real_tokens.Layout(**layout)
    return _WithoutBatch(self._skip_padding, self._how, layout)

  def for_batch(self, input_mask, num_heads):
    if self._kind:
      return self._kind(input_mask, num_heads, self._how)
    layout = self._made_ahead
    if layout is None:
      with self._how.on_host():
        layout = real_tokens.lay_out(input_mask, num_heads)
    return RealTokens(input_mask, layout, self._how)


# ---------------------------------------------------------------------------
# All positions


class EveryPosition(_FastForms):
  """All positions are rows of a matrix, batch by batch.

  Args:
    input_mask: <int32>[B, S], 1 where attention may go; any 0/1 mask is valid.
      Where a mask is all zeros, attention goes to every position alike.
    num_heads: N.
    how: `_How`.
  """

  def __init__(self, input_mask, num_heads, how):
    super().__init__(how)
    self._batch, self._length = modeling.get_shape_list(input_mask)
    self._heads = num_heads
    closed = 1.0 - tf.cast(input_mask, tf.float32)  # [B, S]
    self._mask = closed[:, tf.newaxis, tf.newaxis, :] * real_tokens.CLOSED

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
  """The rows are the tokens that `real_tokens.lay_out` keeps.

  Args:
    input_mask: <int32>[B, S], 1 where attention may go; any 0/1 mask is valid.
    layout: `real_tokens.Layout` of the mask.
    how: `_How`.
  """

  def __init__(self, input_mask, layout, how):
    super().__init__(how)
    self._shape = modeling.get_shape_list(input_mask)
    self._layout = layout

  def arrange(self, values):
    with self._how.on_host():  # where the gradient asks for their number
      return tf.gather(tf.reshape(values, [-1]), self._layout.places)  # [T]

  def add_positions(self, tokens, table):
    length = self._shape[1]
    # Sliced first: the gradient of a slice is dense, as the original's is.
    positions = self._layout.places % length
    return tokens + tf.gather(table[:length], positions)  # [T, H]

  def first(self, tokens):
    return tf.gather(tokens, self._layout.starts)  # [B, H]

  def as_batch(self, tokens):
    """Spreads <float32>[T, H] over [B, S, H], zeros where there is no token."""
    batch, length = self._shape
    width = _width(tokens)
    spread = tf.scatter_nd(
      self._layout.places[:, tf.newaxis], tokens, [batch * length, width]
    )  # [B * S, H]
    return tf.reshape(spread, [batch, length, width])

  def attend(
    self, query, key, value, mask, num_heads, dropout, rate, only_first=False
  ):
    """See `EveryPosition.attend`."""
    layout = self._layout
    if only_first:
      split, merge, back = (
        layout.split_first,
        layout.split_first,
        layout.back_first,
      )
    else:
      split, merge, back = layout.split, layout.merge, layout.back
    query *= (_width(query) // num_heads) ** -0.5
    value = dropout.scaled_up(value, rate)  # smaller than the weights
    query, key, value = (
      tf.cast(rows, self.dtype) for rows in (query, key, value)
    )
    queries = split_heads(query, split, back)
    keys = split_heads(key, layout.split, layout.back)
    values = split_heads(value, layout.split, layout.back)
    contexts = [
      attention(q, k, v, group, dropout.mask(_scores_shape(q, k), rate))
      for q, k, v, group in zip(queries, keys, values, layout.masks)
    ]  # [G, N, Q, D] each
    return tf.cast(merge_heads(contexts, merge, back), tf.float32)


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
    products is at least float32.
  """
  dtype = query.dtype
  wide = dtype if dtype.size >= tf.float32.size else tf.float32

  def multiply_scores(a, b):
    return tf.cast(tf.matmul(a, b, transpose_b=True), wide)

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
      product = grad_left * tf.cast(left, wide)
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
  """`modeling.Dropout` whose masks are drawn by `keep_mask`.

  Args:
    key: as of `modeling.Dropout`.
    on_host: as of `forms`.
  """

  def __init__(self, key=None, on_host=contextlib.nullcontext):
    super().__init__(key)
    self._on_host = on_host

  def mask(self, shape, dropout_prob):
    if not dropout_prob:
      return None
    return keep_mask(
      shape, self.next_seed(), dropout_prob, self._on_host, self._after
    )

  def next_seed(self):
    with self._on_host():
      return super().next_seed()

  def scaled_up(self, input_tensor, dropout_prob):
    if not dropout_prob:
      return input_tensor
    return input_tensor * (1.0 / kept_share(dropout_prob))


def keep_mask(
  shape, seed, dropout_prob, on_host=contextlib.nullcontext, after=()
):
  """Draws what dropout keeps: 1 with probability `kept_share(p)`, else 0.

  Four decisions are drawn from one 64-bit number; without that a step takes
  1.06 times as long. With static shapes it is the plain form, which is the one
  that XLA compiles.

  Args:
    shape: of the mask: a list of numbers, or <int32>[rank].
    seed: <int64>[2].
    dropout_prob: p in [0, 1).
    on_host: as of `forms`.
    after: tensors that must be there before numbers are drawn.

  Returns:
    <float32>[shape].
  """
  threshold = _threshold(dropout_prob)
  if isinstance(shape, list):
    with tf.control_dependencies(after):
      drawn = tf.random.stateless_uniform(shape, seed)
    return tf.cast(drawn >= threshold / 65536, tf.float32)
  with on_host():
    count = tf.reduce_prod(shape)
  key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
  size = tf.expand_dims((count + 3) // 4, 0)
  with tf.control_dependencies(after):
    drawn = tf.raw_ops.StatelessRandomUniformFullIntV2(
      shape=size, key=key, counter=counter, alg=_PHILOX, dtype=tf.uint64
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
