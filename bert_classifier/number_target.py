"""A number as target, with the interface that `targets` lists.

Axis letters: B batch; n examples in NumPy arrays.
"""

import collections
import re

import numpy as np
import tensorflow.compat.v1 as tf

_LARGEST = float(np.finfo(np.float32).max)


class Number:
  """A number: squared error."""

  has_classes = False
  width = 1
  labels = ()
  metrics = ("pearson", "spearman", "rmse", "mae")
  headline = "pearson"
  label_feature = "label_value"
  problem_type = "regression"

  @classmethod
  def make(cls, labels, threshold):
    """Returns the target; there are no labels, and there is no threshold."""
    del labels, threshold
    return cls()

  def check(self, owner):
    """Accepts any task: there are no labels."""

  def settings(self):
    """Returns that there are no labels, and the kind."""
    return {"labels": [], "problem_type": self.problem_type}

  def prediction_settings(self):
    """Returns {}: the number is the prediction."""
    return {}

  def feature_spec(self):
    """Returns `label_value`, a float."""
    return {"label_value": tf.FixedLenFeature([], tf.float32)}

  def encode(self, label):
    """Returns a label as a number; 0.0 for None, the label of a test example.

    Raises:
      ValueError: it is no number, or not one that float32 holds.
    """
    if label is None:
      return 0.0
    try:
      number = float(label)
    except (TypeError, ValueError):
      if isinstance(label, str) and not label.strip():
        raise ValueError("the label is missing") from None
      raise ValueError(
        f"the label {label!r:.80} is not a number, such as 2.5, which"
        f" --regression predicts{_suggest_point(label)}"
      ) from None
    if not abs(number) <= _LARGEST:  # nor NaN
      raise ValueError(
        f"the label {label!r:.80} is not a finite number of 32 bits"
      )
    return number

  def features(self, value):
    """Returns the values of `feature_spec` of what `encode` gave."""
    return {"label_value": [value]}

  def doubt(self, values):
    """Returns a sentence where all numbers are equal, or far from 0."""
    number = sum(values.values())
    if len(values) == 1:
      (value,) = values
      return (
        f"all {number} training examples have the number {value:g}: the model"
        " learns to predict nothing else. Is the column of the labels the right"
        " one?"
      )
    largest = max(map(abs, values))
    if largest > 100:
      return (
        f"the numbers of the training set reach {largest:g}, but the model"
        " begins near 0 and learns in small steps: divide them so that most are"
        " between -10 and 10"
      )
    return None

  def per_example_loss(self, logits, features):
    """Returns the squared error <float32>[B].

    Args:
      logits: <float32>[B, 1].
      features: dictionary with `label_value` <float32>[B].
    """
    return tf.square(logits[:, 0] - features["label_value"])

  def losses(self, logits, labels):
    """Returns the squared error <float32>[n] by logits [n, 1], labels [n]."""
    return np.float32(np.square(logits[:, 0] - labels))

  def scores(self, logits):
    """Returns the numbers <float32>[n] by logits [n, 1]."""
    return logits[:, 0]

  def decide(self, logits):
    """Returns the numbers <float32>[n] by logits [n, 1]."""
    return logits[:, 0]

  def count_classes(self, values):
    """Returns an empty Counter."""
    del values
    return collections.Counter()

  def judge(self, labels, decided):
    """Returns the squared error beside that of the mean, a sentence.

    Args:
      labels, decided: [n].
    """
    labels = np.float64(labels)
    mean = labels.mean()
    return (
      f"mean squared error {np.mean(np.square(labels - decided)):.4f} of"
      f" {len(labels)} examples; to predict their mean, {mean:.4f}, for all of"
      f" them gives {np.mean(np.square(labels - mean)):.4f}"
    )

  def outputs(self, logits):
    """Returns `value` <float32>[B] and `logits` <float32>[B, 1]."""
    return {"value": logits[:, 0], "logits": logits}

  def predicted_label(self, outputs):
    """Returns None: there are no classes."""
    del outputs

  def show_label(self, label):
    """Returns the label itself."""
    return label

  def prediction_header(self):
    """Returns the name of the column of `prediction_cells`."""
    return ["value"]

  def prediction_cells(self, outputs):
    """Returns the number as `str` prints a float32."""
    return [str(outputs["value"])]

  result_cells = prediction_cells

  def outputs_of(self, cells):
    """Returns `value` <float32>[] and `logits` <float32>[1] by a number."""
    return {"value": cells[0], "logits": cells}

  def answer(self, outputs):
    """Returns the number as `value`."""
    return {"value": as_printed(outputs["value"])}


def _suggest_point(label):
  """Returns a hint where a number has a decimal comma, else ""."""
  if not re.fullmatch(r"\s*[-+]?[\d.\s]*,\d+\s*", str(label)):
    return ""
  return "; if its comma is a decimal one, write a point in the whole column"


def as_printed(number):
  """Returns a float32 as the float with the digits that `str` prints of it."""
  return float(str(number))
