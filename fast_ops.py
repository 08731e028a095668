"""The element-wise parts of the model in the form that a CPU computes fastest.

TensorFlow runs an operation at a time, and each passes over its memory; what
is written here saves passes, mostly by gradients that keep and compute less
than the composed ones. Every form equals the plain one of its name in the tests
within rounding, and `keep_mask`, which is random, in its distribution. What
each is worth is told beside it: how many times as long a training step of the
6-layer model takes without it on MNLI (benchmarks/speed.py --forms), to within
a few hundredths. On CoLA, whose tensors lie in the cache, no difference could
be told from noise.

Axis letters: M rows, H width of a row, B batch, N heads, Q queries, K keys, D
head width.
"""

import math

import tensorflow.compat.v1 as tf

_GELU_SLOPE = 2.0 * math.sqrt(2.0 / math.pi)
_GELU_CUBIC = 0.044715
_EPSILON = 1e-12


@tf.custom_gradient
def gelu(x):
  """x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)): <float32>[M, H].

  The tanh form, for (1 + tanh(u)) / 2 = sigmoid(2 u). Without it: 1.04.
  """
  square = x * x
  gate = tf.sigmoid(x * (_GELU_SLOPE + _GELU_SLOPE * _GELU_CUBIC * square))
  output = x * gate

  def gradient(upstream):
    inner = _GELU_SLOPE + 3.0 * _GELU_SLOPE * _GELU_CUBIC * square
    return upstream * (gate + (output - output * gate) * inner)

  return output, gradient


@tf.custom_gradient
def normalize(x, gamma, beta):
  """gamma (x - mean) / sqrt(variance + 1e-12) + beta over a row.

  Without it: 1.06.

  Args:
    x: <float32>[M, H].
    gamma, beta: <float32>[H].

  Returns:
    <float32>[M, H].
  """
  mean = _row_mean(x)  # [M, 1]
  centered = x - mean  # [M, H]
  scale = tf.math.rsqrt(_row_mean(centered * centered) + _EPSILON)  # [M, 1]
  normal = centered * scale  # [M, H]

  def gradient(upstream):
    product = upstream * normal  # [M, H]
    grad_normal = upstream * gamma  # [M, H]
    grad_x = scale * (
      grad_normal
      - _row_mean(upstream, gamma)
      - normal * _row_mean(product, gamma)
    )
    return grad_x, _column_sum(product), _column_sum(upstream)

  return normal * gamma + beta, gradient


def _row_mean(x, weights=None):
  """Mean of each row <float32>[M, H], its elements weighted by [H]: [M, 1].

  On a CPU a product with a vector, which runs at the speed of a matrix
  product. Other devices multiply with fewer digits than they add.
  """
  if not _sums_by_product(x):
    x = x if weights is None else x * weights
    return tf.reduce_mean(x, axis=-1, keepdims=True)
  width = x.shape.as_list()[-1]
  vector = tf.ones([width], x.dtype) if weights is None else weights
  return tf.matmul(x, tf.expand_dims(vector, 1)) * (1.0 / width)


def _column_sum(x):
  """Sum over the rows of <float32>[M, H]: [H]; see `_row_mean`."""
  if not _sums_by_product(x):
    return tf.reduce_sum(x, axis=0)
  return tf.matmul(tf.ones([1, tf.shape(x)[0]], x.dtype), x)[0]


def _sums_by_product(x):
  """Whether this is for a CPU: on a TPU, and under XLA, shapes are static."""
  static = x.shape.is_fully_defined()
  return not static and not tf.config.list_physical_devices("GPU")


def attention(query, key, value, mask, kept=None, scale=None):
  """softmax(scale query . key + mask), times `kept`, times value.

  The gradient keeps the weights and what dropout left of them, nothing else.
  Without it: 1.05.

  Args:
    query: <float32>[B, N, Q, D].
    key, value: <float32>[B, N, K, D]; the value already divided by dropout's
      share of kept weights.
    mask: <float32>[B, 1, 1, K], added to the scores.
    kept: <float32>[B, N, Q, K] of 0 and 1, or None for no dropout.
    scale: a number; None is 1 and saves a pass.

  Returns:
    <float32>[B, N, Q, D].
  """

  @tf.custom_gradient
  def core(query, key, value):
    scores = tf.matmul(query, key, transpose_b=True)  # [B, N, Q, K]
    scores = scores if scale is None else scores * scale
    weights = tf.nn.softmax(scores + mask)
    left = weights if kept is None else weights * kept

    def gradient(upstream):
      grad_value = tf.matmul(left, upstream, transpose_a=True)
      grad_left = tf.matmul(upstream, value, transpose_b=True)
      product = grad_left * left  # where nothing is kept, the gradient is 0
      total = tf.reduce_sum(product, axis=-1, keepdims=True)  # [B, N, Q, 1]
      grad_scores = product - weights * total
      grad_scores = grad_scores if scale is None else grad_scores * scale
      grad_query = tf.matmul(grad_scores, key)
      grad_key = tf.matmul(grad_scores, query, transpose_a=True)
      return grad_query, grad_key, grad_value

    return tf.matmul(left, value), gradient

  return core(query, key, value)


def split_heads(rows, to_heads, from_heads):
  """Rows of tokens to groups of heads, padded, in one gather.

  Without it and `merge_heads`: 1.06.

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
  """The way back: list of <float32>[B, N, Q, D] to <float32>[M, H].

  Padding gets a gradient of 0; `to_heads` must be M * N there.
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
  """<float32>[M, H] as <float32>[M * N, D]."""
  heads = from_heads.shape.as_list()[1]
  return tf.reshape(rows, [-1, rows.shape.as_list()[-1] // heads])


def _gather_rows(groups, from_heads):
  """Rows of all groups, one for each token and head, side by side: [M, H]."""
  width = groups[0].shape.as_list()[-1]
  flat = tf.concat([tf.reshape(group, [-1, width]) for group in groups], 0)
  return tf.reshape(
    tf.gather(flat, from_heads), [-1, from_heads.shape.as_list()[1] * width]
  )


def keep_mask(shape, seed, dropout_prob):
  """What dropout keeps: 1 with probability `kept_share(p)`, else 0.

  Four decisions are drawn from one 64-bit number; without that: 1.06. With
  static shapes it is the plain form, which is the one that XLA compiles.

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


_PHILOX = 1  # among the generators that TensorFlow numbers


def kept_share(dropout_prob):
  """1 - p, with p rounded to a multiple of 1 / 65536."""
  return 1.0 - _threshold(dropout_prob) / 65536


def _threshold(dropout_prob):
  """How many of the 65536 numbers of 16 bits mean that an element is lost."""
  return min(round(dropout_prob * 65536), 65535)
