"""Training choices: what papers propose in the place of BERT's own fine-tuning.

The flags of the group, all of them off by default, and which of them go with
the task and the model. docs/training.md says when to use which. Nothing of
TensorFlow: flags are read before it is imported.
"""

import dataclasses
from typing import Optional

from bert_classifier.errors import UserError
from bert_classifier.flag_fields import Choice, Range, flag

LINEAR, COSINE, CONSTANT = "linear", "cosine", "constant"
HEAD, TAIL, HEAD_TAIL = "head", "tail", "head_tail"
MEAN_LOGITS, MAX_LOGITS = "mean", "max"  # of a text's windows


@dataclasses.dataclass(frozen=True)
class ChoiceOptions:
  """Training choices"""

  class_weights: Optional[str] = flag(
    None,
    "Weights of the training loss by label: balanced, inverse to how often each"
    " occurs (King and Zeng 2001, https://doi.org/10.1093/oxfordjournals.pan"
    ".a004868), or LABEL=WEIGHT,LABEL=WEIGHT or a JSON object. Their mean over"
    " the training set is made 1.",
    setting="training",
  )
  label_smoothing: float = flag(
    0.0,
    "Share of each label's probability that training spreads evenly over all"
    " labels (Szegedy et al. 2016, https://arxiv.org/abs/1512.00567).",
    Range(0, 1, has_high=False),
    setting="training",
  )
  freeze_layers: Optional[int] = flag(
    None,
    "Keep the embeddings and this many of the lowest layers as they are (Lee et"
    " al. 2019, https://arxiv.org/abs/1911.03090); 0: the embeddings alone.",
    Range(0),
    setting="training",
  )
  layerwise_lr_decay: float = flag(
    1.0,
    "Factor of the learning rate from each layer to the one below it (Howard"
    " and Ruder 2018, https://arxiv.org/abs/1801.06146): pooler and head have"
    " the rate itself, the top layer the rate times it, and so on down to the"
    " embeddings.",
    Range(0.01, 1),
    setting="training",
  )
  bias_correction: bool = flag(
    False,
    "Correct the moments of Adam in the first steps, which BERT's own code does"
    " not (Mosbach et al. 2021, https://arxiv.org/abs/2006.04884).",
    setting="training",
  )
  reinit_layers: Optional[int] = flag(
    None,
    "Start the pooler and this many of the top layers from random values (Zhang"
    " et al. 2021, https://arxiv.org/abs/2006.05987); 0: the pooler alone.",
    Range(0),
    setting="training",
  )
  weight_decay: float = flag(
    0.01,
    "Decay of AdamW, of all weights but LayerNorm and biases (Loshchilov and"
    " Hutter 2019, https://arxiv.org/abs/1711.05101).",
    Range(0, 1),
    setting="training",
  )
  adam_epsilon: float = flag(
    1e-6,
    "Epsilon of Adam, outside the root (Kingma and Ba 2015,"
    " https://arxiv.org/abs/1412.6980).",
    Range(0, is_open=True),
    setting="training",
  )
  lr_schedule: str = flag(
    LINEAR,
    "The learning rate after warmup: linear as in Devlin et al. 2019"
    " (https://arxiv.org/abs/1810.04805), half a cosine down to 0 (Loshchilov"
    " and Hutter 2017, https://arxiv.org/abs/1608.03983), or constant.",
    Choice((LINEAR, COSINE, CONSTANT)),
    setting="training",
  )
  max_train_examples: Optional[int] = flag(
    None,
    "Train on this many examples, drawn at random: the same ones for every"
    " seed, and those of a smaller number among them (learning curves: Perlich"
    " et al. 2003, https://www.jmlr.org/papers/v4/perlich03a.html).",
    Range(1),
    setting="training",
  )

  def check_target(self, has_classes, task):
    """Checks that the choices suit what is predicted.

    Args:
      has_classes: whether the labels are names.
      task: its name, for the error.

    Raises:
      UserError: class weights or label smoothing of a number.
    """
    if has_classes:
      return
    for name, needed in (
      ("class_weights", self.class_weights),
      ("label_smoothing", self.label_smoothing),
    ):
      if needed:
        raise UserError(
          f"--{name}={needed} is for labels that are classes, but the label of"
          f" {task} is a number: leave it out"
        )

  def check_layers(self, layers, config_file):
    """Checks that the model has the layers that are frozen or begin anew.

    Args:
      layers: of the model.
      config_file: path of its configuration, for the error.

    Raises:
      UserError: it has not, or one is both.
    """
    frozen, fresh = self.freeze_layers, self.reinit_layers
    for name, number in (("freeze_layers", frozen), ("reinit_layers", fresh)):
      if number is not None and number > layers:
        raise UserError(
          f"--{name}={number}, but the model has {layers} layers"
          f" (num_hidden_layers in {config_file}): give {layers} or less"
        )
    if frozen is not None and frozen + (fresh or 0) > layers:
      raise UserError(
        f"--freeze_layers={frozen} and --reinit_layers={fresh} have layers in"
        f" common, for the model has {layers}: these would stay random; give"
        f" numbers of which the sum is at most {layers}"
      )

  def check_weights(self, are_random):
    """Checks that what is frozen was trained before.

    Args:
      are_random: whether training begins from random weights.

    Raises:
      UserError: it was not.
    """
    if are_random and self.freeze_layers is not None:
      raise UserError(
        f"--freeze_layers={self.freeze_layers} keeps weights as they are, but"
        " these are random: give --init_checkpoint, or leave it out"
      )

  def check_resumed(self, trained, folder):
    """Checks that a resumed training has the moments of what it trains.

    Args:
      trained: the training settings of its manifest, {} where nothing is
        resumed.
      folder: output_dir, for the error.

    Raises:
      UserError: layers were frozen, of which the checkpoint has no moments.
    """
    before, now = trained.get("freeze_layers"), self.freeze_layers
    if before is not None and (now is None or now < before):
      raise UserError(
        f"{folder} was trained with --freeze_layers={before}, so its checkpoint"
        " has no moments of Adam for the layers that were frozen: give"
        f" --freeze_layers={before}, or another --output_dir with"
        f" --init_checkpoint={folder} to train on from these weights"
      )
