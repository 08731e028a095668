"""Targets: what is predicted of a text, for now one class of L.

A target says how wide the head is, how a label becomes a number in a record,
what the loss is, and what of the logits is written. Whatever depends on the
kind of target asks an object of this interface:

  width                 logits of an example
  labels                names of the classes, () where there are none
  metrics               names in `evaluation.METRICS` that are always computed
  check(owner)          raises a UserError where the labels are not usable
  problem_type          Hugging Face's name of this kind of target
  settings()            what records and head depend on, by name, for JSON: the
                        labels, and where it is not one class, the kind
  feature_spec()        the features of a record that hold the label
  encode(label)         text of a label to a value, hashable; None stands for
                        no label, in a test set and where a batch is filled
  features(value)       that value by the names of the features, a list each:
                        floats where the feature is one of floats
  label_feature         name of the feature that an evaluation collects
  per_example_loss(logits, features)
  count_classes(values) Counter of the labels of NumPy values, of the label
                        feature or decided; empty where there are no classes
  decide(logits)        NumPy logits to what metrics hold against the labels
  outputs(logits)       the tensors of a prediction
  predicted_label(outputs)     that of one example; None where it is no class
  prediction_header()   columns of test_predictions.tsv behind the texts
  prediction_cells(outputs)    the cells of one example in these columns
  result_cells(outputs)        the cells of one example in test_results.tsv

Axis letters: B batch, L labels.
"""

import collections

import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import plain_texts
from bert_classifier.errors import UserError


class OneClass:
  """One class of L: softmax cross-entropy.

  Args:
    labels: names of the classes, in the order of their ids.
  """

  metrics = ("accuracy",)
  label_feature = "label_ids"
  problem_type = "single_label_classification"

  def __init__(self, labels):
    self.labels = tuple(map(plain_texts.read_label, labels))
    self._ids = {label: index for index, label in enumerate(self.labels)}

  @property
  def width(self):
    """Returns L."""
    return len(self.labels)

  def check(self, owner):
    """Checks that the labels are two or more different strings.

    Args:
      owner: name of the task, for the error.

    Raises:
      UserError: they are not.
    """
    if (
      not all(isinstance(label, str) for label in self.labels)
      or len(self.labels) < 2
      or len(set(self.labels)) < len(self.labels)
    ):
      raise UserError(
        f"the labels of {owner} are {plain_texts.show_labels(self.labels)}, but"
        ' must be two or more different strings, such as ("0", "1")'
      )
    for label in self.labels:
      if label != plain_texts.strip_invisible(label):
        raise UserError(
          f"the label {label!r} of {owner} begins or ends with a character that"
          " nobody sees: strip it, as by"
          f" {plain_texts.strip_invisible(label)!r}; lines of a file end in one"
        )

  def settings(self):
    """Returns the labels in their order."""
    return {"labels": list(self.labels)}

  def feature_spec(self):
    """Returns `label_ids`, a whole number."""
    return {"label_ids": tf.FixedLenFeature([], tf.int64)}

  def encode(self, label):
    """Returns the id of a label; 0 for None, the label of a test example.

    Raises:
      ValueError: it is none of the labels.
    """
    try:
      return self._ids[label]
    except (KeyError, TypeError):  # TypeError of a list
      if label is None:
        return 0
    text = plain_texts.read_label(label)
    if not isinstance(text, str):
      text = plain_texts.describe(label)
    elif text in self._ids:
      return self._ids[text]
    else:
      text = f"{text!r:.80}"
    known = plain_texts.show_labels(self.labels)
    raise ValueError(f"the label {text} is not one of {known}")

  def features(self, value):
    """Returns the values of `feature_spec` of what `encode` gave."""
    return {"label_ids": [value]}

  def per_example_loss(self, logits, features):
    """Returns the cross-entropy <float32>[B].

    Args:
      logits: <float32>[B, L].
      features: dictionary with `label_ids` <int32>[B].
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(
      labels=features["label_ids"], logits=logits
    )

  def decide(self, logits):
    """Returns the id of the likeliest label <int64>[n] by logits [n, L]."""
    return logits.argmax(axis=-1)

  def count_classes(self, values):
    """Returns the Counter of the labels by their ids [n]."""
    ids, counts = np.unique(values, return_counts=True)
    return collections.Counter(
      {self.labels[i]: int(count) for i, count in zip(ids, counts)}
    )

  def outputs(self, logits):
    """Returns `probabilities` <float32>[B, L]."""
    return {"probabilities": tf.nn.softmax(logits)}

  def predicted_label(self, outputs):
    """Returns the likeliest label.

    Args:
      outputs: dictionary with `probabilities` <float32>[L].
    """
    return self.labels[outputs["probabilities"].argmax()]

  def prediction_header(self):
    """Returns the names of the columns of `prediction_cells`."""
    return [
      "label",
      "probability",
      *(f"probability_{label}" for label in self.labels),
    ]

  def prediction_cells(self, outputs):
    """Returns the predicted label, its probability and that of each label.

    Args:
      outputs: dictionary with `probabilities` <float32>[L].
    """
    best = outputs["probabilities"].argmax()
    printed = self.result_cells(outputs)
    return [self.labels[best], printed[best], *printed]

  def result_cells(self, outputs):
    """Returns the probability of each label as `str` prints a float32."""
    return [str(probability) for probability in outputs["probabilities"]]
