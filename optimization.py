"""The learning-rate schedule and the AdamW that BERT was trained with.

A step has four stages, each a function of its own, so that devices can come
between them: gradients, their mean over the replicas, clipping, the update.

  rate = learning_rate_schedule(5e-5, 343, 34, tf.train.get_global_step())
  optimizer = make_optimizer(rate)
  train_op = training_step(loss, optimizer, tf.train.get_global_step())

`create_optimizer` is all three, with the 2018 signature. A batch that is too
large for the memory is computed in parts:

  loss, gradients = compute_gradients(loss_of_part, optimizer, parts=4)
  train_op = update_step(gradients, optimizer, tf.train.get_global_step())
"""

import math
import re
from typing import NamedTuple

import tensorflow.compat.v1 as tf
from tensorflow.python.tpu import tpu_function

CLIP_NORM = 1.0
GRADIENT_NORM = "gradient_norm"  # the tensor's name, for hooks


def create_optimizer(loss, init_lr, num_train_steps, num_warmup_steps, use_tpu):
  """Makes the training operation: one step of AdamW that counts itself.

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
  reduce = mean_over_cores if use_tpu else sum_over_replicas
  return training_step(loss, make_optimizer(rate), global_step, reduce)


def learning_rate_schedule(
  init_lr, num_train_steps, num_warmup_steps, global_step, shape="linear"
):
  """Returns the rate of a step: linear up, then linear down.

  For step s of N with W steps of warmup and peak p:

    s < W:   p s / W          (0 in the first step)
    s >= W:  p (1 - s / N)    (the line that began at step 0, so that the rate
                               drops by W / N of the peak where warmup ends)

  Of the other shapes the second line is

    cosine:    p (1 + cos(pi (s - W) / (N - W))) / 2
    constant:  p

  Args:
    init_lr: p.
    num_train_steps: N.
    num_warmup_steps: W, 0 or None for none.
    global_step: <int64>[], s; read once, here.
    shape: "linear", "cosine" or "constant".

  Returns:
    <float32>[].
  """
  step = tf.cast(global_step, tf.float32)
  peak = tf.constant(init_lr, tf.float32)
  if shape == "constant":
    down = peak * tf.ones_like(step)
  elif shape == "cosine":
    warmup = num_warmup_steps or 0
    share = (step - warmup) / max(num_train_steps - warmup, 1)
    share = tf.clip_by_value(share, 0.0, 1.0)
    down = peak * (0.5 + 0.5 * tf.cos(math.pi * share))
  else:
    down = peak * (1.0 - tf.minimum(step, num_train_steps) / num_train_steps)
  if not num_warmup_steps:
    return down
  return tf.where(
    step < num_warmup_steps, peak * (step / num_warmup_steps), down
  )


class AdamWeightDecayOptimizer(tf.train.Optimizer):
  """Adam without bias correction and with decoupled weight decay.

  For a gradient g at rate r (https://arxiv.org/abs/1711.05101, less the bias
  correction of Adam):

    m <- beta_1 m + (1 - beta_1) g
    v <- beta_2 v + (1 - beta_2) g^2
    p <- p - r (c m / (sqrt(v) + epsilon) + decay p)

  c is 1. With the bias correction it is, in the t-th step,

    c = sqrt(1 - beta_2^t) / (1 - beta_1^t)

  as in the last lines of section 2 of https://arxiv.org/abs/1412.6980, where
  epsilon is what they call epsilon hat.

  Slots are the variables `<name>/adam_m` and `<name>/adam_v`.

  Args:
    learning_rate: r, a number or <float32>[].
    weight_decay_rate: decay.
    beta_1, beta_2: decay rates of the two moments.
    epsilon: added to the root.
    exclude_from_weight_decay: regular expressions; a variable whose name
      contains a match is not decayed.
    name: name of the operations.
    step: <int64>[], t - 1; None for no bias correction.
    rate_factor: function from a variable's name to a factor of its r; one of
      factor 0 is left alone, and has no slots. None for 1.
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
    step=None,
    rate_factor=None,
  ):
    super().__init__(use_locking=False, name=name)
    self.learning_rate, self.epsilon = learning_rate, epsilon
    self.beta_1, self.beta_2 = beta_1, beta_2
    self.weight_decay_rate = weight_decay_rate
    self.exclude_from_weight_decay = exclude_from_weight_decay or []
    self.rate_factor = rate_factor
    self.correction = None if step is None else self._correct(step)

  def _correct(self, step):
    """Returns c of the step after so many: <float32>[]."""
    number = tf.cast(step, tf.float32) + 1.0
    # Of 1 - beta^t, which rounding spoils where beta^t is near 1.
    first, second = (
      -tf.math.expm1(number * math.log(beta))
      for beta in (self.beta_1, self.beta_2)
    )
    return tf.sqrt(second) / first

  def compute_gradients(self, loss, var_list=None, *args, **kwargs):
    """Returns pairs of gradient and variable, see `tf.train.Optimizer`.

    Those of the variables that are left alone are not among them.
    """
    if self.rate_factor:
      variables = tf.trainable_variables() if var_list is None else var_list
      var_list = [v for v in variables if self.rate_factor(_name_of(v))]
    return super().compute_gradients(loss, var_list, *args, **kwargs)

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
    """
    del global_step
    pairs = [
      (variable, _as_tensor(gradient))
      for gradient, variable in grads_and_vars
      if gradient is not None and variable is not None
    ]
    variables = [variable for variable, _ in pairs]
    steps = [(*pair, rate) for pair, rate in zip(pairs, self._rates(variables))]
    # Of all replicas together: each updates its own copy of every variable.
    return tf.distribute.get_replica_context().merge_call(
      self._update_all, args=(steps, name or self._name)
    )

  def _update_all(self, strategy, steps, name):
    """Updates the variables on all replicas of a strategy.

    Args:
      strategy: `tf.distribute.Strategy`; outside of any it is TensorFlow's
        default, of one replica.
      steps: triples of variable, gradient and rate.
      name: name of the operation.
    """
    updates = [
      strategy.extended.update(
        variable, self.update, args=(gradient, *self.slots(variable), rate)
      )
      for variable, gradient, rate in steps
    ]
    return tf.group(*updates, name=name)

  def _rates(self, variables):
    """Returns the rate of each variable, in its dtype; equal ones are one."""
    find_factor = self.rate_factor or (lambda name: 1)
    kinds = [
      (variable.dtype.base_dtype, find_factor(_name_of(variable)))
      for variable in variables
    ]
    dtypes = dict.fromkeys(dtype for dtype, _ in kinds)
    rates = {dtype: tf.cast(self.learning_rate, dtype) for dtype in dtypes}
    of_kind = {
      (dtype, factor): rates[dtype] if factor == 1 else rates[dtype] * factor
      for dtype, factor in dict.fromkeys(kinds)
    }
    return [of_kind[kind] for kind in kinds]

  def slots(self, variable):
    """Makes m and v: zeros of the variable's shape, saved but not trained."""
    name = _name_of(variable)
    with tf.variable_scope(tf.get_variable_scope()) as scope:
      scope.set_partitioner(None)  # a part of a variable is not divided again
      m, v = (
        tf.get_variable(
          f"{name}/{slot}",
          variable.shape,
          variable.dtype.base_dtype,
          initializer=tf.zeros_initializer(),
          trainable=False,
        )
        for slot in ("adam_m", "adam_v")
      )
    return m, v

  def update(self, variable, gradient, m, v, rate):
    """Takes one variable's step.

    Args:
      variable, m, v: variables of one shape and dtype.
      gradient: a tensor of that shape.
      rate: r, of that dtype.

    Returns:
      An operation.
    """
    next_m = self.beta_1 * m + (1.0 - self.beta_1) * gradient
    next_v = self.beta_2 * v + (1.0 - self.beta_2) * tf.square(gradient)
    step = next_m / (tf.sqrt(next_v) + self.epsilon)
    if self.correction is not None:
      step *= tf.cast(self.correction, step.dtype)
    if self.decays(variable):
      step += self.weight_decay_rate * variable
    return tf.group(
      variable.assign_sub(rate * step), m.assign(next_m), v.assign(next_v)
    )

  def decays(self, variable):
    """Returns whether weight decay applies to a variable."""
    name = _name_of(variable)
    return bool(self.weight_decay_rate) and not any(
      re.search(pattern, name) for pattern in self.exclude_from_weight_decay
    )


def make_optimizer(
  learning_rate, optimizer_class=AdamWeightDecayOptimizer, **changes
):
  """Makes BERT's AdamW: decay 0.01, save for LayerNorm and biases.

  Args:
    learning_rate: <float32>[].
    optimizer_class: `AdamWeightDecayOptimizer`, or a class with its arguments.
    changes: arguments that are to be others than BERT's.
  """
  arguments = dict(
    learning_rate=learning_rate,
    weight_decay_rate=0.01,
    exclude_from_weight_decay=["LayerNorm", "layer_norm", "bias"],
  )
  return optimizer_class(**{**arguments, **changes})


def training_step(loss, optimizer, global_step, reduce=None):
  """Computes gradients, reduces, clips and applies them; counts the step.

  Args:
    loss: <float32>[].
    optimizer, global_step, reduce: as of `update_step`.

  Returns:
    An operation.
  """
  pairs = optimizer.compute_gradients(loss, tf.trainable_variables())
  return update_step(pairs, optimizer, global_step, reduce)


def compute_gradients(loss_of_part, optimizer, parts=1, loss_scale=None):
  """Computes the gradients of a batch, in equal parts one after the other.

  The activations of one part are held at a time. Dense gradients are summed.
  The rows of IndexedSlices are put side by side, not summed, so that they enter
  the norm of `clip` as those of the whole batch do.

  Args:
    loss_of_part: function from the number of a part, an int or <int32>[], to
      its loss <float32>[], the mean over its examples.
    optimizer: a `tf.train.Optimizer`.
    parts: into how many the batch is divided.
    loss_scale: object that scales the loss in float16, with methods
      `multiply(loss)`, `divide(gradients)`, `hold_back(gradients, optimizer)`
      and `update()`; None for none.

  Returns:
    The loss of the whole batch <float32>[], and the list of pairs of gradient
    and variable that `tf.train.Optimizer.compute_gradients` gives.
  """

  def compute(number):
    loss = loss_of_part(number)
    loss = loss if parts == 1 else loss / parts
    scaled = loss if loss_scale is None else loss_scale.multiply(loss)
    return loss, optimizer.compute_gradients(scaled, tf.trainable_variables())

  loss, pairs = compute(0)
  if parts == 1:
    return loss, pairs
  # What was made so far is never run: it makes the variables, which a loop
  # cannot do, and tells the kind of each gradient. A loop, because a graph of
  # all parts side by side takes as many times as long to prepare.
  sums = [_Sum(gradient, v.shape, parts) for gradient, v in pairs]

  def add(number, loss, *so_far):
    with tf.variable_scope(tf.get_variable_scope(), reuse=True):
      part_loss, part_pairs = compute(number)
    return (
      number + 1,
      loss + part_loss,
      *(
        s.add(before, gradient, number)
        for s, before, (gradient, _) in zip(sums, so_far, part_pairs)
      ),
    )

  _, loss, *totals = tf.while_loop(
    lambda number, *_: number < parts,
    add,
    [0, 0.0, *(s.start() for s in sums)],
    parallel_iterations=1,  # or the activations of several parts are held
    back_prop=False,
  )
  return loss, [
    (s.result(total), variable)
    for s, total, (_, variable) in zip(sums, totals, pairs)
  ]


class _Sum:
  """The sum of a variable's gradients over parts, as variables of a loop.

  Args:
    example: the gradient of a part: a tensor, IndexedSlices or None.
    shape: of the variable.
    parts: number of parts.
  """

  def __init__(self, example, shape, parts):
    self._example, self._shape, self._parts = example, shape, parts

  def start(self):
    """Returns what the sum of no part is."""
    if self._example is None:
      return ()
    if not isinstance(self._example, tf.IndexedSlices):
      return tf.zeros(self._shape, self._example.dtype)
    return [
      tf.TensorArray(
        tensor.dtype,
        self._parts,
        infer_shape=False,  # parts may have different numbers of rows
        element_shape=[None, *tensor.shape[1:]],
      )
      for tensor in (self._example.values, self._example.indices)
    ]

  def add(self, before, gradient, number):
    """Returns the sum `before`, with the gradient of part `number`."""
    if gradient is None:
      return ()
    if not isinstance(gradient, tf.IndexedSlices):
      gradient.set_shape(before.shape)  # which a loop's variable must keep
      return before + gradient
    tensors = gradient.values, gradient.indices
    return [
      array.write(number, tensor) for array, tensor in zip(before, tensors)
    ]

  def result(self, total):
    """Returns the gradient of the whole batch."""
    if self._example is None:
      return None
    if not isinstance(self._example, tf.IndexedSlices):
      return total
    values, indices = (array.concat() for array in total)
    return tf.IndexedSlices(values, indices, self._example.dense_shape)


def update_step(pairs, optimizer, global_step, reduce=None, loss_scale=None):
  """Reduces, clips and applies gradients; counts the step.

  Args:
    pairs: pairs of gradient and variable.
    optimizer: a `tf.train.Optimizer` whose rate was read from the global step
      as it is before.
    global_step: the variable <int64>[] to count.
    reduce: function from the list of gradients to the list that is clipped,
      such as `mean_over_cores` or `sum_over_replicas`; None leaves them as they
      are.
    loss_scale: as of `compute_gradients`.

  Returns:
    An operation.
  """
  gradients, variables = zip(*pairs)
  if loss_scale:
    gradients = loss_scale.divide(gradients)
  if reduce:
    gradients = reduce(gradients)
  gradients = clip(gradients)
  if loss_scale:
    gradients = loss_scale.hold_back(gradients, optimizer)
  update = optimizer.apply_gradients(zip(gradients, variables))
  if loss_scale:
    with tf.control_dependencies([update]):
      update = loss_scale.update()
  # Everything that reads the step (rate, dropout) feeds the update, so that
  # after the update no reader is left that could see the new count.
  with tf.control_dependencies([update]):
    return tf.assign_add(global_step, 1).op


def mean_over_cores(gradients):
  """Returns the mean of each gradient over the cores of a TPU.

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


class SummedRows(NamedTuple):
  """An embedding gradient made dense, which the norm still sees row by row.

  Attributes:
    gradient: the dense tensor.
    squares: scalar, sum of the squares of the rows that it was summed from.
  """

  gradient: tf.Tensor
  squares: tf.Tensor

  @classmethod
  def of(cls, slices):
    """Returns those of `tf.IndexedSlices`."""
    return cls(_as_tensor(slices), tf.reduce_sum(tf.square(slices.values)))


def sum_over_replicas(gradients):
  """Returns the sum of each gradient over the replicas of a strategy.

  The loss of each was divided by their number when the gradients were computed
  (`tf.train.Optimizer.compute_gradients`, under an Estimator), so that the sum
  is the gradient of the whole batch. Under no strategy, or one of one replica,
  the gradients are returned as they are.

  They are added up dense: the rows of IndexedSlices are as many as the tokens
  of a batch, and a collective keeps the shape of its first step.

  Args:
    gradients: list of tensors, IndexedSlices, `SummedRows` or None.

  Returns:
    List of tensors, `SummedRows` or None.
  """
  context = tf.distribute.get_replica_context()
  if context.num_replicas_in_sync == 1:
    return gradients
  dense = [
    SummedRows.of(g) if isinstance(g, tf.IndexedSlices) else g
    for g in gradients
  ]
  parts = [part for part in tf.nest.flatten(dense) if part is not None]
  sums = iter(context.merge_call(_add_up, args=(parts,)))
  return tf.nest.map_structure(
    lambda part: None if part is None else next(sums), dense
  )


def _add_up(strategy, values):
  """Returns the sums over all replicas of a list of values that each has."""
  return strategy.extended.batch_reduce_to(
    tf.distribute.ReduceOp.SUM, [(value, value) for value in values]
  )


def clip(gradients):
  """Scales gradients down to a global norm of at most 1.0.

  An embedding gradient that is still IndexedSlices enters the norm row by row,
  rows of one word not summed, as in the original; to make it dense earlier
  would change training (golden figures grad_norm_gather, grad_norm_onehot).
  The norm before clipping gets the name `GRADIENT_NORM`.
  """
  norm = tf.global_norm(
    [tf.sqrt(g.squares) if isinstance(g, SummedRows) else g for g in gradients]
  )
  tf.identity(norm, GRADIENT_NORM)
  gradients = [
    g.gradient if isinstance(g, SummedRows) else g for g in gradients
  ]
  clipped, _ = tf.clip_by_global_norm(gradients, CLIP_NORM, use_norm=norm)
  return clipped


def _name_of(variable):
  """Returns the name of a variable, as checkpoints have it."""
  return variable.name.partition(":")[0]


def _as_tensor(gradient):
  """Returns a gradient made dense: rows that name one index are summed."""
  return None if gradient is None else tf.convert_to_tensor(gradient)
