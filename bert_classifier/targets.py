"""Targets: what is predicted of a text: one class, several classes, a number.

A target says how wide the head is, how a label becomes numbers in a record,
what the loss is, and what of the logits is written. Whatever depends on the
kind of target asks an object of this interface:

  make(labels, threshold)      class method: the target of a task
  has_classes           of the class: whether its tasks have labels by name
  width                 logits of an example
  labels                names of the classes, () where there are none
  metrics               names in `metrics.METRICS` that are always computed
  headline              the one of them that counts where a task names no other
  check(owner)          raises a UserError where the labels are not usable, and
                        warns where they look like those of another kind
  problem_type          Hugging Face's name of this kind of target
  settings()            what records and head depend on, by name, for JSON: the
                        labels, and where it is not one class, the kind
  prediction_settings() what else decides a prediction, by name, for JSON; {}
                        where nothing does
  feature_spec()        the features of a record that hold the label
  encode(label)         text of a label to a value, hashable; None stands for
                        no label, in a test set and where a batch is filled
  features(value)       that value by the names of the features, a list each:
                        floats where the feature is one of floats
  label_feature         name of the feature that an evaluation collects
  doubt(values)         what is odd about the Counter of a training set's
                        values, a sentence; None if nothing is
  per_example_loss(logits, features)
  losses(logits, labels)       the same of NumPy arrays
  count_classes(values) Counter of the labels of NumPy values, of the label
                        feature or decided; empty where there are no classes
  scores(logits)        NumPy logits to probabilities, or to the number
  decide(logits)        NumPy logits to what metrics hold against the labels
  judge(labels, decided)       a sentence that holds what was decided against
                        the best that one answer for all examples gives
  outputs(logits)       the tensors of a prediction
  predicted_label(outputs)     that of one example; None where it is no class
  show_label(label)     the text of a label as predictions show it
  prediction_header()   columns of test_predictions.tsv behind the texts
  prediction_cells(outputs)    the cells of one example in these columns
  result_cells(outputs)        the cells of one example in test_results.tsv
  outputs_of(cells)     the outputs of one example by the numbers that its
                        `result_cells` show, <float32>[L] or [1]: with logits
                        that give these numbers
  answer(outputs)       what is predicted of one example by name, for JSON
  calibrated(temperature)      of classes alone: the same target, its logits
                        divided by that before they become probabilities

Axis letters: B batch, L labels; n examples in NumPy arrays.
"""

import collections
import copy
import json

from absl import logging
import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import label_texts, plain_texts
from bert_classifier.errors import UserError
from bert_classifier.number_target import Number, as_printed

NO_LABEL = "(no label)"
# As if a probability of 0 were this, where its logarithm is taken.
_LEAST_PROBABILITY = np.finfo(np.float32).tiny


class UnknownLabelError(ValueError):
  """A label is none of the task's."""


class _Classes:
  """What one class and several classes have in common.

  Args:
    labels: names of the classes, in the order of their ids.
  """

  has_classes = True
  temperature = 1.0

  def __init__(self, labels):
    self.labels = tuple(map(plain_texts.read_label, labels))
    self._ids = {label: index for index, label in enumerate(self.labels)}

  @property
  def width(self):
    """Returns L."""
    return len(self.labels)

  def prediction_settings(self):
    """Returns {}: the scores alone decide."""
    return {}

  def calibrated(self, temperature):
    """Returns this target with the probabilities of a temperature.

    Logits and losses are the same (https://arxiv.org/abs/1706.04599).
    """
    target = copy.copy(self)
    target.temperature = temperature
    return target

  def _temper(self, logits):
    """Returns logits divided by the temperature."""
    return logits if self.temperature == 1 else logits / self.temperature

  def judge(self, labels, decided):
    """Returns the accuracy beside that of the commonest answer, a sentence.

    Args:
      labels, decided: [n] or [n, L], as `count_classes` takes them.
    """
    right = (labels == decided).reshape(len(labels), -1).all(axis=1)
    ((majority, count),) = self.count_classes(labels).most_common(1)
    return (
      f"accuracy {np.mean(right):.4f} of {plain_texts.count(len(labels))}; to"
      f" predict {majority!r} for all of them gives {count / len(labels):.4f}"
    )

  def result_cells(self, outputs):
    """Returns the probability of each label as `str` prints a float32."""
    return [str(probability) for probability in outputs["probabilities"]]

  def outputs_of(self, cells):
    """Returns `probabilities` and `logits` <float32>[L] by probabilities."""
    return {"probabilities": cells, "logits": self._logits_of(cells)}

  def _named_probabilities(self, outputs):
    return dict(zip(self.labels, map(as_printed, outputs["probabilities"])))

  def _probability_columns(self):
    return [f"probability_{label}" for label in self.labels]

  def _check_names(self, owner):
    """Raises a UserError unless there are two or more different strings."""
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

  def _explain_unknown(self, label):
    """Returns the sentence about a label that is none of the task's."""
    shown = f"{label!r:.80}"
    if not isinstance(label, str):
      shown = plain_texts.describe(label)
    known = plain_texts.show_labels(self.labels)
    return f"the label {shown} is not one of {known}"


class OneClass(_Classes):
  """One class of L: softmax cross-entropy.

  Args:
    labels: names of the classes, in the order of their ids.
  """

  metrics = ("accuracy",)
  headline = "accuracy"
  label_feature = "label_ids"
  problem_type = "single_label_classification"

  @classmethod
  def make(cls, labels, threshold):
    """Returns the target of labels; there is no threshold."""
    del threshold
    return cls(labels)

  def check(self, owner):
    """Checks that the labels are two or more different strings.

    Warns of labels that look like several in one, or like numbers.

    Args:
      owner: name of the task, for the error.

    Raises:
      UserError: they are not.
    """
    self._check_names(owner)
    several = next(filter(self._names_several, self.labels), None)
    if several is not None:
      logging.warning(
        "the label %r of %s looks like several labels, but is taken as one"
        " class of its own; for texts that have several labels give"
        " --multi_label",
        several,
        owner,
      )
    elif label_texts.are_fractions(self.labels):
      logging.warning(
        "all %d labels of %s are numbers, such as %s, and are taken as classes"
        " that have no order; to predict a number give --regression",
        len(self.labels),
        owner,
        self.labels[0],
      )

  def _names_several(self, text):
    """Returns True for a text that is made of labels."""
    try:
      names = label_texts.split_labels(text)
    except ValueError:
      return False
    if not isinstance(text, str) or text.startswith("["):
      return bool(names)
    return len(names) > 1 and any(name in self._ids for name in names)

  def settings(self):
    """Returns the labels in their order."""
    return {"labels": list(self.labels)}

  def feature_spec(self):
    """Returns `label_ids`, a whole number."""
    return {"label_ids": tf.FixedLenFeature([], tf.int64)}

  def encode(self, label):
    """Returns the id of a label; 0 for None, the label of a test example.

    Spaces at its ends do not count, unless they make another label of it.

    Raises:
      UnknownLabelError: it is none of the labels.
    """
    try:
      return self._ids[label]
    except (KeyError, TypeError):  # TypeError of a list
      if label is None:
        return 0
    text = plain_texts.read_label(label)
    if isinstance(text, str):
      for name in (text, text.strip(" ")):
        if name in self._ids:
          return self._ids[name]
    reason = self._explain_unknown(text)
    if self._names_several(text):
      reason += "; it names several, which --multi_label reads"
    elif label_texts.are_fractions([*self.labels, text]):
      reason += "; to predict a number give --regression"
    raise UnknownLabelError(reason)

  def features(self, value):
    """Returns the values of `feature_spec` of what `encode` gave."""
    return {"label_ids": [value]}

  def doubt(self, values):
    """Returns a sentence where all training examples have one label."""
    if len(values) != 1:
      return None
    ((value, count),) = values.items()
    return (
      f"all {count} training examples have the label {self.labels[value]!r}:"
      " the model learns to predict nothing else. Is the column of the labels"
      " the right one?"
    )

  def per_example_loss(self, logits, features):
    """Returns the cross-entropy <float32>[B].

    Args:
      logits: <float32>[B, L].
      features: dictionary with `label_ids` <int32>[B].
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(
      labels=features["label_ids"], logits=logits
    )

  def losses(self, logits, labels):
    """Returns the cross-entropy <float32>[n] by logits [n, L], labels [n]."""
    shifted = _shift(logits)
    right = shifted[np.arange(len(labels)), labels]
    return np.float32(np.log(np.exp(shifted).sum(axis=-1)) - right)

  def scores(self, logits):
    """Returns the probabilities <float32>[n, L] by logits [n, L]."""
    exponents = np.exp(_shift(self._temper(logits)))
    return np.float32(exponents / exponents.sum(axis=-1, keepdims=True))

  def _logits_of(self, probabilities):
    """Returns logits whose softmax are the probabilities."""
    return np.log(np.maximum(probabilities, _LEAST_PROBABILITY))

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
    """Returns `probabilities` and `logits`, <float32>[B, L]."""
    probabilities = tf.nn.softmax(self._temper(logits))
    return {"probabilities": probabilities, "logits": logits}

  def predicted_label(self, outputs):
    """Returns the likeliest label.

    Args:
      outputs: dictionary with `probabilities` <float32>[L].
    """
    return self.labels[outputs["probabilities"].argmax()]

  def show_label(self, label):
    """Returns the name of a label; what is none stays as it is."""
    try:
      return self.labels[self.encode(label)]
    except ValueError:
      return label

  def prediction_header(self):
    """Returns the names of the columns of `prediction_cells`."""
    return ["label", "probability", *self._probability_columns()]

  def prediction_cells(self, outputs):
    """Returns the predicted label, its probability and that of each label.

    Args:
      outputs: dictionary with `probabilities` <float32>[L].
    """
    best = outputs["probabilities"].argmax()
    printed = self.result_cells(outputs)
    return [self.labels[best], printed[best], *printed]

  def answer(self, outputs):
    """Returns `label`, its `probability`, and the `probabilities` of all."""
    label = self.predicted_label(outputs)
    named = self._named_probabilities(outputs)
    return {
      "label": label,
      "probability": named[label],
      "probabilities": named,
    }


class SeveralClasses(_Classes):
  """Any number of L classes: the mean of L sigmoid cross-entropies.

  Each label holds or not, whatever the others do. The loss is that of Hugging
  Face's BertForSequenceClassification (torch's BCEWithLogitsLoss): the mean
  over the labels, so that its size does not depend on their number.

  Args:
    labels: names of the classes, in the order of their ids.
    threshold: probability from which on a label holds.
  """

  metrics = ("accuracy", "micro_f1", "macro_f1")
  headline = "micro_f1"
  label_feature = "label_vector"
  problem_type = "multi_label_classification"

  @classmethod
  def make(cls, labels, threshold):
    """Returns the target of labels and the threshold."""
    return cls(labels, threshold)

  def __init__(self, labels, threshold=0.5):
    super().__init__(labels)
    self.threshold = threshold
    self._join_by_bar = not any("|" in str(label) for label in self.labels)

  def check(self, owner):
    """Checks that the labels are two or more strings that a cell can hold.

    Args:
      owner: name of the task, for the error.

    Raises:
      UserError: they are not.
    """
    self._check_names(owner)
    for label in self.labels:
      if not label or label != label.strip():
        raise UserError(
          f"the label {label!r} of {owner} is empty, or has space at its ends,"
          " which is not read where a cell names several labels: strip it"
        )
      if set(map(str.strip, label.split(";"))) & set(self.labels) - {label}:
        logging.warning(
          "the label %r of %s looks like several labels, but is taken as one:"
          " | or commas separate labels",
          label,
          owner,
        )

  def settings(self):
    """Returns the labels in their order, and the kind."""
    return {"labels": list(self.labels), "problem_type": self.problem_type}

  def prediction_settings(self):
    """Returns the threshold."""
    return {"threshold": self.threshold}

  def feature_spec(self):
    """Returns `label_vector`, L floats."""
    return {"label_vector": tf.FixedLenFeature([self.width], tf.float32)}

  def encode(self, label):
    """Returns for each label whether it holds, 1.0 or 0.0, in a tuple.

    Args:
      label: names separated by `|`, or else by `,`; a JSON list of names; a
        list of them; "" and None, where none holds. The name of a label that
        contains a separator stands for that label where it stands alone.

    Raises:
      UnknownLabelError: one of the names is none of the labels.
      ValueError: a list of names cannot be read.
    """
    is_name = isinstance(label, str) and label.strip() in self._ids
    names = [label.strip()] if is_name else label_texts.split_labels(label)
    holds = [0.0] * self.width
    for name in names:
      if name not in self._ids:
        raise UnknownLabelError(self._explain_unknown(name))
      holds[self._ids[name]] = 1.0
    return tuple(holds)

  def features(self, value):
    """Returns the values of `feature_spec` of what `encode` gave."""
    return {"label_vector": list(value)}

  def doubt(self, values):
    """Returns a sentence where every example has one label, or a label none."""
    number = sum(values.values())
    if all(sum(value) == 1 for value in values):
      return (
        f"each of the {number} training examples has exactly one label: if one"
        " class is to be chosen of several, leave out --multi_label"
      )
    never = [
      label for label, held in zip(self.labels, zip(*values)) if not any(held)
    ]
    if never:
      return (
        f"of the labels {', '.join(never)} there is no training example, so"
        " they will hardly be predicted"
      )
    return None

  def per_example_loss(self, logits, features):
    """Returns the mean over the labels of the sigmoid cross-entropy.

    Args:
      logits: <float32>[B, L].
      features: dictionary with `label_vector` <float32>[B, L].

    Returns:
      <float32>[B].
    """
    by_label = tf.nn.sigmoid_cross_entropy_with_logits(
      labels=features["label_vector"], logits=logits
    )
    return tf.reduce_mean(by_label, axis=-1)

  def losses(self, logits, labels):
    """Returns the loss <float32>[n] by logits and labels [n, L]."""
    logits = np.float64(logits)
    by_label = np.logaddexp(0, logits) - logits * labels
    return np.float32(by_label.mean(axis=-1))

  def scores(self, logits):
    """Returns the probabilities <float32>[n, L] by logits [n, L]."""
    logits = self._temper(np.float64(logits))
    return np.float32(np.exp(-np.logaddexp(0, -logits)))

  def _logits_of(self, probabilities):
    """Returns logits whose sigmoid are the probabilities."""
    held, not_held = (
      np.log(np.maximum(p, _LEAST_PROBABILITY))
      for p in (np.float64(probabilities), 1 - np.float64(probabilities))
    )
    return np.float32(held - not_held)

  def decide(self, logits):
    """Returns which labels hold, <int64>[n, L] of 0 and 1, by logits [n, L]."""
    return np.int64(self.scores(logits) >= self.threshold)

  def count_classes(self, values):
    """Returns the Counter of the combinations of labels by vectors [n, L]."""
    rows, counts = np.unique(values, axis=0, return_counts=True)
    return collections.Counter(
      {
        self._join(row) or NO_LABEL: int(count)
        for row, count in zip(rows, counts)
      }
    )

  def outputs(self, logits):
    """Returns `probabilities` and `logits`, <float32>[B, L]."""
    probabilities = tf.nn.sigmoid(self._temper(logits))
    return {"probabilities": probabilities, "logits": logits}

  def predicted_label(self, outputs):
    """Returns the labels that hold, separated by `|`.

    Args:
      outputs: dictionary with `probabilities` <float32>[L].
    """
    return self._predicted(outputs) or NO_LABEL

  def show_label(self, label):
    """Returns the labels that hold as `prediction_cells` has them.

    A text that is no list of labels stays as it is.
    """
    try:
      return self._join(self.encode(label))
    except ValueError:
      return label

  def prediction_header(self):
    """Returns the names of the columns of `prediction_cells`."""
    return ["labels", *self._probability_columns()]

  def prediction_cells(self, outputs):
    """Returns the labels that hold, and the probability of each.

    Args:
      outputs: dictionary with `probabilities` <float32>[L].
    """
    return [self._predicted(outputs), *self.result_cells(outputs)]

  def answer(self, outputs):
    """Returns the list of the `labels` that hold, and all `probabilities`."""
    holds = outputs["probabilities"] >= self.threshold
    return {
      "labels": [label for label, one in zip(self.labels, holds) if one],
      "probabilities": self._named_probabilities(outputs),
    }

  def _predicted(self, outputs):
    return self._join(outputs["probabilities"] >= self.threshold)

  def _join(self, holds):
    """Returns the labels that hold as text that `encode` reads.

    They are separated by `|`, or form a JSON list where a label contains one.
    """
    names = [label for label, one in zip(self.labels, holds) if one]
    if self._join_by_bar or not names:
      return "|".join(names)
    return json.dumps(names, ensure_ascii=False)


# ---------------------------------------------------------------------------
# Kinds by name

# The names that a task's `kind` may have, as the flags of that name.
KINDS = {
  "single_label": OneClass,
  "multi_label": SeveralClasses,
  "regression": Number,
}


def find_kind(problem_type):
  """Returns the name in `KINDS` by Hugging Face's name of it, or None."""
  for kind, target in KINDS.items():
    if target.problem_type == problem_type:
      return kind
  return None


def _shift(logits):
  """Returns logits less the largest of each row, whose exp is finite."""
  return np.float64(logits) - logits.max(axis=-1, keepdims=True)
