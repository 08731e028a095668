"""The scale of the loss, without which float16 makes small gradients 0."""

import tensorflow.compat.v1 as tf


class LossScale:
  """The factor that keeps gradients in float16 from becoming 0.

  The loss is multiplied by it, and the gradients are divided by it in float32
  (section 3.2 of https://arxiv.org/abs/1710.03740). A step whose gradients are
  not finite changes no variable but those here: it halves the scale, which may
  not fall under 1, and is counted. After 2000 steps in a row without one the
  scale doubles.

  Attributes:
    scale, good_steps, skipped_steps: variables, which are saved:
      `current_loss_scale` <float32>[], and `good_steps` and `skipped_steps`
      <int64>[], steps since the scale changed and those skipped in all.
  """

  VARIABLES = "current_loss_scale", "good_steps", "skipped_steps"
  # Names of tensors, for hooks: the scale of this step, and the steps skipped
  # before it.
  SCALE, SKIPPED = "loss_scale", "steps_skipped"
  FIRST, PATIENCE = 2.0**15, 2000

  def __init__(self):
    starts = (self.FIRST, tf.float32), (0, tf.int64), (0, tf.int64)
    self.scale, self.good_steps, self.skipped_steps = (
      tf.get_variable(
        name,
        [],
        dtype,
        initializer=tf.constant_initializer(start),
        trainable=False,
        # The gradients are reduced, so that all replicas agree.
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
      )
      for name, (start, dtype) in zip(self.VARIABLES, starts)
    )
    self._scale = self.scale.read_value()
    self._is_finite = None
    tf.identity(self._scale, self.SCALE)
    tf.identity(self.skipped_steps.read_value(), self.SKIPPED)

  def multiply(self, loss):
    """Returns the loss, scaled."""
    return loss * self._scale

  def hide_nan(self, loss):
    """Returns the loss for the Estimator, whose own check ends at NaN.

    A step is skipped where the forward pass leaves the range of float16, too.
    """
    return tf.where(tf.math.is_nan(loss), tf.zeros_like(loss), loss)

  def divide(self, gradients):
    """Returns the gradients as they would be without the scale.

    Args:
      gradients: list of <float32> tensors, IndexedSlices or None.
    """
    inverse = 1.0 / self._scale
    return [_map_values(lambda g: g * inverse, g) for g in gradients]

  def hold_back(self, gradients, optimizer):
    """Makes the step one that changes nothing, where it must be skipped.

    Rate 0, moments that keep all of what they were, and gradients of 0: so no
    operation is conditional, which suits XLA and every strategy.

    Args:
      gradients: list of what `optimization.clip` gives: where the norm is not
        finite, no element is.
      optimizer: `optimization.AdamWeightDecayOptimizer`, whose rates are
        replaced.

    Returns:
      List of the gradients.
    """
    some = next(g for g in gradients if g is not None)
    some = some.values if isinstance(some, tf.IndexedSlices) else some
    self._is_finite = tf.math.is_finite(tf.reshape(some, [-1])[0])
    factor = tf.cast(self._is_finite, tf.float32)
    optimizer.learning_rate *= factor
    optimizer.beta_1 = tf.where(self._is_finite, optimizer.beta_1, 1.0)
    optimizer.beta_2 = tf.where(self._is_finite, optimizer.beta_2, 1.0)
    return [
      _map_values(lambda g: tf.math.multiply_no_nan(g, factor), g)
      for g in gradients
    ]

  def update(self):
    """Returns the operation that counts the step and changes the scale.

    Of a step that `hold_back` was called for.
    """
    good = tf.where(
      self._is_finite, self.good_steps + 1, tf.zeros([], tf.int64)
    )
    is_long = good >= self.PATIENCE
    grown = tf.where(is_long, 2.0 * self._scale, self._scale)
    shrunk = tf.maximum(0.5 * self._scale, 1.0)
    skipped = tf.cast(tf.logical_not(self._is_finite), tf.int64)
    return tf.group(
      self.scale.assign(tf.where(self._is_finite, grown, shrunk)),
      self.good_steps.assign(tf.where(is_long, tf.zeros_like(good), good)),
      self.skipped_steps.assign(self.skipped_steps + skipped),
    )


def _map_values(function, gradient):
  """Applies a function to the values of a gradient, in whatever form it is."""
  if gradient is None:
    return None
  if not isinstance(gradient, tf.IndexedSlices):
    return function(gradient)
  return tf.IndexedSlices(
    function(gradient.values), gradient.indices, gradient.dense_shape
  )
