"""The forms that the hand-written ones stand for, put together from operations.

The tests hold `fast_ops`, `layout` and `optimization` against them, gradients
by TensorFlow, and `benchmarks/speed.py` measures what the others gain. Where a
name is that of a function of `fast_ops`, it can take its place.

Axis letters: M rows, H width of a row, B batch, N heads, Q queries, K keys, D
head width.
"""

import math
import re

import tensorflow.compat.v1 as tf


def gelu(x):
  """x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))): <float>[...]."""
  inner = math.sqrt(2 / math.pi) * (x + 0.044715 * tf.pow(x, 3))
  return x * (0.5 * (1.0 + tf.tanh(inner)))


def normalize(x, gamma, beta):
  """Layer normalization of <float>[M, H] by its moments."""
  mean, variance = tf.nn.moments(x, [-1], keepdims=True)  # [M, 1] each
  return tf.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-12)


def attention(query, key, value, mask, kept=None, scale=None):
  """<float>[B, N, Q, D] from products, softmax and a product with `kept`."""
  scores = tf.matmul(query, key, transpose_b=True)  # [B, N, Q, K]
  if scale is not None:
    scores = scores * scale
  weights = tf.nn.softmax(scores + mask)
  if kept is not None:
    weights = weights * kept
  return tf.matmul(weights, value)


def split_heads(rows, to_heads, from_heads):
  """Pads by a gather of tokens; then reshape and transpose."""
  del from_heads
  groups = []
  for index in to_heads:
    heads = index.shape[1]
    width = rows.shape[-1] // heads
    padded = tf.gather(rows, index[:, 0] // heads)  # [B, Q, H]
    shape = [*_first_two(padded), heads, width]
    groups.append(tf.transpose(tf.reshape(padded, shape), [0, 2, 1, 3]))
  return groups


def merge_heads(groups, to_heads, from_heads):
  """Transpose and reshape; then each token is put where it belongs."""
  count = tf.shape(from_heads)[0]  # M
  merged = []
  for group, index in zip(groups, to_heads):
    heads = index.shape[1]
    token = index[:, 0] // heads  # [B, Q]; M where there is only padding
    apart = tf.transpose(group, [0, 2, 1, 3])  # [B, Q, N, D]
    rows = tf.reshape(apart, [*_first_two(apart), heads * group.shape[-1]])
    place = tf.where_v2(token < count, token, -1)  # -1 is left out
    merged.append(tf.math.unsorted_segment_sum(rows, place, count))
  return tf.add_n(merged)  # [M, H]


def _first_two(tensor):
  return tf.unstack(tf.shape(tensor)[:2])


def keep_mask(shape, seed, dropout_prob):
  """<float32>[shape] of 1 and 0 from a uniform number an element."""
  drawn = tf.random.stateless_uniform(shape, seed)
  return tf.cast(drawn >= dropout_prob, tf.float32)


def embedding_lookup(
  input_ids,
  vocab_size,
  embedding_size,
  initializer_range,
  name,
  use_one_hot_embeddings,
):
  """In place of `modeling.embedding_lookup`: words from the variable itself."""
  table = tf.get_variable(
    name,
    [vocab_size, embedding_size],
    initializer=tf.truncated_normal_initializer(stddev=initializer_range),
    use_resource=True,
  )
  if use_one_hot_embeddings:
    return tf.matmul(tf.one_hot(input_ids, vocab_size), table), table
  return tf.gather(table, input_ids), table


class Dropout:
  """In place of `modeling.Dropout`: `tf.nn.dropout`, new in every step."""

  def __init__(self, key=None):
    del key

  def __call__(self, input_tensor, dropout_prob):
    if not dropout_prob:
      return input_tensor
    return tf.nn.dropout(input_tensor, rate=dropout_prob)

  def mask(self, shape, dropout_prob):
    """1 / (1 - p) and 0, so that nothing is left for `scaled_up`."""
    return self(tf.ones(shape), dropout_prob) if dropout_prob else None

  def scaled_up(self, input_tensor, dropout_prob):
    del dropout_prob
    return input_tensor


def training_step(loss, optimizer, global_step, use_tpu=False):
  """A step as in 2018: moments, update and decay as operations of their own.

  Args and result as of `optimization.training_step`.
  """
  del use_tpu
  variables = tf.trainable_variables()
  gradients, _ = tf.clip_by_global_norm(tf.gradients(loss, variables), 1.0)
  updates = []
  for variable, gradient in zip(variables, gradients):
    if gradient is not None:
      updates += adamw(variable, gradient, optimizer.learning_rate)
  with tf.control_dependencies(updates):
    return tf.assign_add(global_step, 1).op


def adamw(variable, gradient, rate, decay=0.01, b1=0.9, b2=0.999, epsilon=1e-6):
  """The three assignments of a variable's update (no bias correction)."""
  name = variable.name.partition(":")[0]
  slots = {"shape": variable.shape, "trainable": False}
  slots["initializer"] = tf.zeros_initializer()
  m = tf.get_variable(f"{name}/adam_m", **slots)
  v = tf.get_variable(f"{name}/adam_v", **slots)
  gradient = tf.convert_to_tensor(gradient)
  next_m = b1 * m + (1.0 - b1) * gradient
  next_v = b2 * v + (1.0 - b2) * tf.square(gradient)
  update = next_m / (tf.sqrt(next_v) + epsilon)
  if not re.search("LayerNorm|layer_norm|bias", name):
    update += decay * variable
  return [
    variable.assign(variable - rate * update),
    m.assign(next_m),
    v.assign(next_v),
  ]
