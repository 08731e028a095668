"""The learning rate's course and AdamW, as BERT was trained with.

A step has four parts, each a function of its own, so that devices can come
between them: gradients, their mean over the replicas, clipping, the update.

  rate = learning_rate_schedule(5e-5, 343, 34, tf.train.get_global_step())
  optimizer = make_optimizer(rate)
  train_op = training_step(loss, optimizer, tf.train.get_global_step())

`create_optimizer` is all three, with the 2018 signature.
"""

import re

import tensorflow.compat.v1 as tf
from tensorflow.python.tpu import tpu_function

CLIP_NORM = 1.0


def create_optimizer(loss, init_lr, num_train_steps, num_warmup_steps, use_tpu):
  """The training operation: one step of AdamW that also counts itself.

  Args:
    loss: <float32>[], mean over the examples of this replica.
    init_lr: peak learning rate.
    num_train_steps: N, the step at which the rate would reach 0.
    num_warmup_steps: steps of linear warmup, 0 or None for none.
    use_tpu: whether the step is compiled for the cores of a TPU.

  Returns:
    An operation; it leaves the global step one higher.
  """
  global_step = tf.train.get_or_create_global_step()
  rate = learning_rate_schedule(
    init_lr, num_train_steps, num_warmup_steps, global_step
  )
  return training_step(loss, make_optimizer(rate), global_step, use_tpu)


def learning_rate_schedule(
  init_lr, num_train_steps, num_warmup_steps, global_step
):
  """The rate of a step: linear up, then linear down.

  For step s of N with W steps of warmup and peak p:

    s < W:   p s / W          (0 in the first step)
    s >= W:  p (1 - s / N)    (the line that began at step 0, so that the rate
                               drops by W / N of the peak where warmup ends)

  Args:
    init_lr: p.
    num_train_steps: N.
    num_warmup_steps: W, 0 or None for none.
    global_step: <int64>[], s; read once, here.

  Returns:
    <float32>[].
  """
  step = tf.cast(global_step, tf.float32)
  peak = tf.constant(init_lr, tf.float32)
  down = peak * (1.0 - tf.minimum(step, num_train_steps) / num_train_steps)
  if not num_warmup_steps:
    return down
  return tf.where(
    step < num_warmup_steps, peak * (step / num_warmup_steps), down
  )


def make_optimizer(learning_rate):
  """AdamW as BERT was trained with: decay 0.01, save for LayerNorm and biases.

  Args:
    learning_rate: <float32>[].
  """
  return AdamWeightDecayOptimizer(
    learning_rate=learning_rate,
    weight_decay_rate=0.01,
    exclude_from_weight_decay=["LayerNorm", "layer_norm", "bias"],
  )


def training_step(loss, optimizer, global_step, use_tpu=False):
  """Gradients, reduced, clipped, applied; then the step is counted.

  Args:
    loss: <float32>[].
    optimizer: a `tf.train.Optimizer` whose rate was read from the global step
      as it is before.
    global_step: the variable <int64>[] to count.
    use_tpu: whether to reduce over the cores of a TPU.

  Returns:
    An operation.
  """
  pairs = optimizer.compute_gradients(loss, tf.trainable_variables())
  gradients, variables = zip(*pairs)
  if use_tpu:
    gradients = mean_over_cores(gradients)
  update = optimizer.apply_gradients(zip(clip(gradients), variables))
  # Everything that reads the step (rate, dropout) feeds the update, so that
  # after the update no reader is left that could see the new count.
  with tf.control_dependencies([update]):
    return tf.assign_add(global_step, 1).op


def mean_over_cores(gradients):
  """The mean of each gradient over the cores of a TPU, so that all agree.

  Reduced before they are clipped, so that one core, eight cores and a GPU take
  the same step. The 2018 code clipped on each core and summed afterwards.

  Args:
    gradients: list of <float32> tensors, or None.
  """
  cores = tpu_function.get_tpu_context().number_of_shards
  if not cores or cores == 1:
    return gradients
  return [
    None if g is None else tf.tpu.cross_replica_sum(g / cores)
    for g in map(_as_tensor, gradients)
  ]


def clip(gradients):
  """Scales gradients down to a global norm of at most 1.0.

  An embedding gradient that is still IndexedSlices enters the norm row by row,
  rows of one word not summed, as in the original; to make it dense earlier
  would change training (golden figures grad_norm_gather, grad_norm_onehot).
  """
  clipped, _ = tf.clip_by_global_norm(gradients, CLIP_NORM)
  return clipped


def _as_tensor(gradient):
  """A dense tensor; rows of IndexedSlices that name one index are summed."""
  return None if gradient is None else tf.convert_to_tensor(gradient)


class AdamWeightDecayOptimizer(tf.train.Optimizer):
  """Adam without bias correction and with decoupled weight decay.

  For a gradient g at rate r (https://arxiv.org/abs/1711.05101, less the bias
  correction of Adam):

    m <- beta_1 m + (1 - beta_1) g
    v <- beta_2 v + (1 - beta_2) g^2
    p <- p - r (m / (sqrt(v) + epsilon) + decay p)

  Slots are the variables `<name>/adam_m` and `<name>/adam_v`.

  Args:
    learning_rate: r, a number or <float32>[].
    weight_decay_rate: decay.
    beta_1, beta_2: decay rates of the two moments.
    epsilon: added to the root.
    exclude_from_weight_decay: regular expressions; a variable whose name
      contains a match is not decayed.
    name: name of the operations.
  """

  def __init__(
    self,
    learning_rate,
    weight_decay_rate=0.0,
    beta_1=0.9,
    beta_2=0.999,
    epsilon=1e-6,
    exclude_from_weight_decay=None,
    name="AdamWeightDecayOptimizer",
  ):
    super().__init__(use_locking=False, name=name)
    self.learning_rate, self.epsilon = learning_rate, epsilon
    self.beta_1, self.beta_2 = beta_1, beta_2
    self.weight_decay_rate = weight_decay_rate
    self.exclude_from_weight_decay = exclude_from_weight_decay or []

  def apply_gradients(self, grads_and_vars, global_step=None, name=None):
    """Updates the variables; those without a gradient are left alone.

    Args:
      grads_and_vars: pairs of gradient (<float32>, IndexedSlices or None) and
        variable.
      global_step: ignored, as in the original, whose callers count for
        themselves; `training_step` is what counts here.
      name: name of the operation.

    Returns:
      An operation.

    Raises:
      ValueError: a variable of the kind that TensorFlow 1 made by default.
    """
    del global_step
    pairs = [
      (variable, _as_tensor(gradient))
      for gradient, variable in grads_and_vars
      if gradient is not None and variable is not None
    ]
    dtypes = {variable.dtype.base_dtype for variable, _ in pairs}
    numbers = {dtype: self._numbers(dtype) for dtype in dtypes}
    updates = [
      self._update(variable, gradient, *numbers[variable.dtype.base_dtype])
      for variable, gradient in pairs
    ]
    return tf.group(*updates, name=name or self._name)

  def _numbers(self, dtype):
    """The scalars <dtype>[] of an update, which all variables share.

    Returns:
      r * decay, and arguments of `ResourceApplyAdam`.
    """
    rate = tf.cast(self.learning_rate, dtype)
    numbers = dict(
      beta1_power=0.0,
      beta2_power=0.0,
      beta1=self.beta_1,
      beta2=self.beta_2,
      epsilon=self.epsilon,
    )
    scalars = {name: tf.constant(n, dtype) for name, n in numbers.items()}
    return rate * self.weight_decay_rate, dict(scalars, lr=rate)

  def _update(self, variable, gradient, decay, scalars):
    """One variable's step, the decay first.

    The moments do not read the variable, so that decaying it before is exact.
    TensorFlow's Adam kernel passes over the memory once; beta powers of 0 turn
    its bias correction into a factor of 1. With an operation for each term, as
    in 2018, a step of the 6-layer model on CoLA takes 1.2 times as long.

    The decay cannot be had in the same pass. ResourceScatterMul would do it in
    place, but TensorFlow copies a variable that it has touched at every read,
    which cost more than it saved.
    """
    if not hasattr(variable, "handle"):
      raise ValueError(
        f"{variable.name} is a reference variable, which cannot be updated in"
        " one pass; call tf.enable_resource_variables() before it is made"
      )
    name = variable.name.partition(":")[0]
    m = _slot(variable, f"{name}/adam_m")
    v = _slot(variable, f"{name}/adam_v")
    before = [gradient]
    if self._decays(name):
      # Not before the gradient is there: until then the model reads, and
      # would see, now and then, a variable that has decayed already.
      with tf.control_dependencies(before):
        before = [variable.assign_sub(decay * variable, read_value=False)]
    with tf.control_dependencies(before):
      return tf.raw_ops.ResourceApplyAdam(
        var=variable.handle,
        m=m.handle,
        v=v.handle,
        grad=gradient,
        **scalars,
      )

  def _decays(self, name):
    if not self.weight_decay_rate:
      return False
    return not any(
      re.search(pattern, name) for pattern in self.exclude_from_weight_decay
    )


def _slot(variable, name):
  """A zero variable of the same shape that is saved but not trained."""
  return tf.get_variable(
    name=name,
    shape=variable.shape,
    dtype=variable.dtype.base_dtype,
    trainable=False,
    initializer=tf.zeros_initializer(),
    use_resource=True,
  )
