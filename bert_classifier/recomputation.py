"""Recomputation: a layer keeps what it reads, and is computed again.

The gradient of a layer needs what the layer computed on its way. To keep only
what each layer reads, and compute the rest again when its gradient is due,
takes the memory of one layer instead of all, for a third more work
(https://arxiv.org/abs/1604.06174).
"""

import tensorflow.compat.v1 as tf


def recompute(build, tokens, dropout):
  """Returns build(tokens, dropout), which is built again for its gradient.

  Both times the layer has the same variables and the same masks: they are a
  function of the dropout's key and of the number of the site.

  Args:
    build: function that adds a layer, its variables in the current scope.
    tokens: <float32>[..., H], what the layer reads.
    dropout: a `modeling.Dropout`.

  Returns:
    What `build` returns: a tensor.
  """
  scope = tf.get_variable_scope()
  same_masks = dropout.fork()
  weights = {}

  def remember(getter, name, *args, **kwargs):
    weights[name] = tf.convert_to_tensor(getter(name, *args, **kwargs))
    return weights[name]

  with tf.variable_scope(scope, custom_getter=remember):
    output = build(tokens, dropout)

  def recall(getter, name, *args, **kwargs):
    del getter, args, kwargs
    return weights[name]

  @tf.custom_gradient
  def core(tokens, *values):
    def gradient(upstream):
      again = _wait_for(upstream, tokens)
      # The masks read no tokens. Not all that is built waits: seeds and sizes
      # are the host's, which would have to wait for a GPU.
      masks = same_masks.fork(after=[upstream])
      with tf.variable_scope(scope, custom_getter=recall):
        rebuilt = build(again, masks)
      gradients = tf.gradients(rebuilt, [again, *values], upstream)
      return list(map(tf.convert_to_tensor, gradients))

    return tf.identity(output), gradient

  return core(tokens, *weights.values())


def _wait_for(upstream, tokens):
  """Returns the tokens once a gradient is there.

  XLA passes over control dependencies, and would take the second computation of
  a layer for the first: so it gets a sum with a zero that it cannot foresee.
  """
  first = tf.reshape(upstream, [-1])[0]
  zero = tf.minimum(tf.abs(first), 0.0)
  return tf.stop_gradient(tokens + zero)
