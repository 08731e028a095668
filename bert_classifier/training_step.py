"""A training step: the loss of a batch's parts, its gradients, the update."""

import functools
from typing import NamedTuple

import tensorflow.compat.v1 as tf

from bert_classifier import batches, devices, progress
from bert_classifier.step_options import StepOptions
import modeling
import optimization


class TrainingStep(NamedTuple):
  """How a step is taken, whatever the batch.

  Attributes:
    schedule: peak rate, steps and steps of warmup, as
      `optimization.learning_rate_schedule` takes them.
    optimizer_class: `optimization.AdamWeightDecayOptimizer` or a subclass.
    placement: see `devices`.
    options: `options.StepOptions`.
  """

  schedule: tuple
  optimizer_class: type
  placement: devices.Placement
  options: StepOptions

  def add(self, loss_of_part, step, model_dir):
    """Adds the step to the graph.

    Loss and rate get the names that hooks ask for.

    Args:
      loss_of_part: function of the number of a part, and of how many there are.
      step: <int64>[], the global step as it is before.
      model_dir: where a TPU writes summaries.

    Returns:
      Dictionary of `loss`, `train_op` and `host_call`, as of TPUEstimatorSpec.
    """
    with self.placement.on_host():
      rate = optimization.learning_rate_schedule(*self.schedule, step)
      tf.identity(rate, progress.ProgressHook.RATE)
    optimizer = optimization.make_optimizer(rate, self.optimizer_class)
    parts = self.options.gradient_accumulation_steps
    scale = optimization.LossScale() if self.options.scales_loss else None
    loss, gradients = optimization.compute_gradients(
      functools.partial(loss_of_part, parts=parts), optimizer, parts, scale
    )
    tf.identity(loss, progress.ProgressHook.LOSS)
    train_op = optimization.update_step(
      gradients,
      optimizer,
      tf.train.get_global_step(),
      self.placement.reduce,
      scale,
    )
    host_call = self.placement.host_call(loss, rate, step, model_dir)
    shown = self.placement.show(loss)
    return dict(loss=shown, train_op=train_op, host_call=host_call)


def compute_loss(model, target, placement, features, key, number, parts):
  """Returns the loss of one of the parts of a training batch: <float32>[].

  Args:
    model: `modeling.BertForSequenceClassification`.
    target: see `targets`.
    placement: see `devices`.
    features: of the whole batch.
    key: of its dropout, see `modeling.dropout_key`.
    number: of the part.
    parts: into how many the batch is divided.
  """
  part = batches.take_part(features, number, parts)
  with placement.on_host():
    key = modeling.dropout_key_of_part(key, number)
  logits = model.logits(part, is_training=True, dropout_key=key)
  return tf.reduce_mean(target.per_example_loss(logits, part))
