"""Training choices in the graph: what the flags of `choice_options` change.

The default ones change nothing: every operation of the graph is that of a
program that has no choices.
"""

import re
from typing import NamedTuple, Optional

from absl import logging
import numpy as np

from bert_classifier import class_weights, training_loss, windows
from bert_classifier.choice_options import ChoiceOptions


class Choices(NamedTuple):
  """What of a training step is to be other than BERT's.

  Attributes:
    options: `choice_options.ChoiceOptions`.
    class_weights: what `class_weights.make_weights` gives, or None.
    windows_per_text: mean number of windows of a text, see `windows.weigh`;
      None where texts are not cut into windows.
  """

  options: ChoiceOptions = ChoiceOptions()
  class_weights: Optional[np.ndarray] = None
  windows_per_text: Optional[float] = None

  def loss(self, target):
    """Returns the function that gives training's losses.

    Args:
      target: see `targets`.
    """
    loss = training_loss.choose_loss(
      target, self.options.label_smoothing, self.class_weights
    )
    if self.windows_per_text is None:
      return loss
    return windows.weigh(loss, self.windows_per_text)

  def optimizer_changes(self, num_layers, count_updates):
    """Returns what is to be changed of `optimization.make_optimizer`'s.

    Args:
      num_layers: of the model.
      count_updates: function that gives the number of updates before this one:
        <int64>[].
    """
    options, changes = self.options, {}
    default = ChoiceOptions()
    if options.weight_decay != default.weight_decay:
      changes["weight_decay_rate"] = options.weight_decay
    if options.adam_epsilon != default.adam_epsilon:
      changes["epsilon"] = options.adam_epsilon
    if options.bias_correction:
      changes["step"] = count_updates()
    if options.freeze_layers is not None or options.layerwise_lr_decay != 1:
      changes["rate_factor"] = lambda name: find_rate_factor(
        name, num_layers, options
      )
    return changes


def make_choices(options, task, windows_per_text):
  """Returns the `Choices` of a run; of one that does not train, the default.

  Args:
    options: `options.Options`.
    task: `task_choice.Task`.
    windows_per_text: see `Choices`.
  """
  text, weights = options.choice.class_weights, None
  if not options.run.do_train:
    return Choices()
  if text:
    target = task.target
    weights = class_weights.make_weights(
      text, target, task.data.examples("train")
    )
    logging.info(
      "--class_weights=%s: %s",
      text,
      class_weights.describe(weights, target.labels),
    )
  return Choices(options.choice, weights, windows_per_text)


def apply_to_weights(options, weights, model, found):
  """Returns the weights to train, without those that begin anew.

  Args:
    options: `choice_options.ChoiceOptions`.
    weights: `model_files.Weights`.
    model: `model_files.Model`.
    found: `output_dir.OutputDir`.

  Raises:
    UserError: layers are to be frozen, or to begin anew, that cannot.
  """
  layers = model.config.num_hidden_layers
  options.check_layers(layers, model.config_file)
  options.check_weights(weights.coverage is None and weights.resumed is None)
  if weights.resumed:
    options.check_resumed(found.settings.get("training", {}), found.path)
  if weights.coverage is None:
    return weights
  fresh = list_fresh(model.variables, layers, options)
  return weights._replace(coverage=weights.coverage.leave_out(fresh))


# ---------------------------------------------------------------------------
# Layers


def find_height(name, num_layers):
  """Returns how high above the embeddings a variable of the model is.

  Those of the embeddings are at 0, those of layer_0 at 1 and so on, pooler and
  head above all layers.

  Args:
    name: of the variable.
    num_layers: of the model.
  """
  if re.search(r"(^|/)embeddings/", name):
    return 0
  layer = re.search(r"/layer_(\d+)/", name)
  return int(layer[1]) + 1 if layer else num_layers + 1


def find_rate_factor(name, num_layers, options):
  """Returns the factor of a variable's learning rate, 0 where it is frozen.

  Args:
    name, num_layers: see `find_height`.
    options: `choice_options.ChoiceOptions`.
  """
  height = find_height(name, num_layers)
  if options.freeze_layers is not None and height <= options.freeze_layers:
    return 0.0
  return options.layerwise_lr_decay ** (num_layers + 1 - height)


def list_fresh(names, num_layers, options):
  """Returns which variables --reinit_layers starts from random values.

  They are those of the pooler and of the top layers; the head is no matter of
  this flag.

  Args:
    names: of the variables of the model.
    num_layers: of it.
    options: `choice_options.ChoiceOptions`.
  """
  if options.reinit_layers is None:
    return []
  lowest = num_layers - options.reinit_layers + 1
  return [
    name
    for name in names
    if name.startswith("bert/") and find_height(name, num_layers) >= lowest
  ]
