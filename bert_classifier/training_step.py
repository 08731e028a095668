"""A training step: the loss of a batch's parts, its gradients, the update."""

import functools
from typing import NamedTuple

import tensorflow.compat.v1 as tf

from bert_classifier import batches, devices, progress
from bert_classifier.choices import Choices
from bert_classifier.loss_scale import LossScale
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
    options: `step_options.StepOptions`.
    choices: `choices.Choices`.
    num_layers: of the model.
  """

  schedule: tuple
  optimizer_class: type
  placement: devices.Placement
  options: StepOptions
  choices: Choices
  num_layers: int

  def add(self, model, target, features, step, key, model_dir):
    """Adds the step to the graph.

    Loss and rate get the names that hooks ask for.

    Args:
      model: `modeling.BertForSequenceClassification`.
      target: see `targets`.
      features: dictionary of the batch.
      step, key: as `read_step` gives them.
      model_dir: where a TPU writes summaries.

    Returns:
      Dictionary of `loss`, `train_op` and `host_call`, as of TPUEstimatorSpec.
    """
    with self.placement.on_host():
      rate = optimization.learning_rate_schedule(
        *self.schedule, step, self.choices.options.lr_schedule
      )
      tf.identity(rate, progress.ProgressHook.RATE)
    scale = LossScale() if self.options.scales_loss else None

    def count_updates():
      return step if scale is None else step - scale.skipped_steps

    with self.placement.on_host():
      changes = self.choices.optimizer_changes(self.num_layers, count_updates)
      optimizer = optimization.make_optimizer(
        rate, self.optimizer_class, **changes
      )
    parts = self.options.gradient_accumulation_steps
    loss_of_part = functools.partial(
      compute_loss,
      model,
      self.choices.loss(target),
      self.placement,
      features,
      key,
      parts=parts,
    )
    loss, gradients = optimization.compute_gradients(
      loss_of_part, optimizer, parts, scale
    )
    tf.identity(self.placement.mean(loss), progress.ProgressHook.LOSS)
    train_op = optimization.update_step(
      gradients,
      optimizer,
      tf.train.get_global_step(),
      self.placement.reduce,
      scale,
    )
    host_call = self.placement.host_call(loss, rate, step, model_dir)
    shown = self.placement.show(loss if scale is None else scale.hide_nan(loss))
    return dict(loss=shown, train_op=train_op, host_call=host_call)


def read_step(placement, seed):
  """Returns the global step <int64>[], as it is before, and its dropout's key.

  Read once, so that nothing sees the count that the update ends with.

  Args:
    placement: see `devices`.
    seed: of dropout.
  """
  with placement.on_host():  # a variable is where it is read
    step = tf.train.get_or_create_global_step().read_value()
    return step, modeling.dropout_key(seed, step, placement.replica_id())


def compute_loss(
  model, per_example_loss, placement, features, key, number, parts
):
  """Returns the loss of one of the parts of a training batch: <float32>[].

  Args:
    model: `modeling.BertForSequenceClassification`.
    per_example_loss: function of logits and features that gives <float32>[B].
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
  return tf.reduce_mean(per_example_loss(logits, part))
