"""Metrics: functions of labels, decisions and scores, by scikit-learn.

A metric is an entry of `METRICS`, with the kinds of target that it fits:

  labels    <int>[n] ids of one class, <float32>[n, L] of 0 and 1 of several
            classes, <float32>[n] numbers
  decided   the same, as the target's `decide` gives it
  scores    <float32>[n, L] probabilities, or the numbers again

Axis letters: n examples, L labels.
"""

import functools
import math
from typing import Callable, NamedTuple
import warnings

import numpy as np

from bert_classifier import plain_texts
from bert_classifier.errors import UserError
from bert_classifier.targets import Number, OneClass, SeveralClasses


class UndefinedError(Exception):
  """A metric has no value for these examples; the message says why."""


class Metric(NamedTuple):
  """A metric.

  Attributes:
    compute: function of labels, decided and scores to a number; raises an
      `UndefinedError`.
    problem_types: those of the targets that it fits.
    higher_is_better: False for an error.
    two_classes: whether it is that of the class with id 1 of two.
    explain_zero: function of labels and decided; returns why the metric is
      undefined, where it counts as 0 then, else None.
  """

  compute: Callable
  problem_types: tuple
  higher_is_better: bool = True
  two_classes: bool = False
  explain_zero: Callable = lambda labels, decided: None

  def fits(self, target):
    """Returns whether it can be computed of a target, see `targets`."""
    return target.problem_type in self.problem_types and (
      not self.two_classes or target.width == 2
    )


def measure(name, labels, decided, scores):
  """Returns the value of a metric, a finite number.

  Args:
    name: a key of `METRICS`.
    labels, decided, scores: arrays of n examples, see above.

  Raises:
    UndefinedError: it has none, and never NaN.
  """
  if not len(labels):
    raise UndefinedError("there are no examples")
  if not np.isfinite(scores).all():
    raise UndefinedError("the model gives numbers that are not finite")
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what is not defined: known from below
    value = float(METRICS[name].compute(labels, decided, scores))
  if not np.isfinite(value):
    raise UndefinedError(f"it comes out as {value}")
  return value


def is_better(name, value, other):
  """Returns whether one value of a metric is better than another."""
  return value > other if METRICS[name].higher_is_better else value < other


def find_best(name, values):
  """Returns the first key whose value none is better than, None of none.

  Args:
    name: of the metric.
    values: {key: value}; those that are no finite numbers do not count.
  """
  best = None
  for key, value in values.items():
    if not isinstance(value, (int, float)) or not math.isfinite(value):
      continue
    if best is None or is_better(name, value, values[best]):
      best = key
  return best


def check_metric(name, target, owner):
  """Checks that there is a metric, and that it fits a target.

  Args:
    name: the metric.
    target: see `targets`.
    owner: what names it, for the error: "--metrics".

  Raises:
    UserError: names those that fit.
  """
  metric = METRICS.get(name)
  if metric is not None and metric.fits(target):
    return
  reason = "no metric"
  if metric is not None and target.problem_type in metric.problem_types:
    reason = f"that of the second of two classes, but there are {target.width}"
  elif metric is not None:
    kinds = " and ".join(map(_name_kind, metric.problem_types))
    reason = f"for {kinds}, not for {_name_kind(target.problem_type)}"
  fitting = [other for other in METRICS if METRICS[other].fits(target)]
  raise UserError(
    f"{owner} names {name!r}, which is {reason}: give one of"
    f" {', '.join(fitting)}{plain_texts.suggest(name, fitting)}"
  )


_KINDS = {
  OneClass.problem_type: "one class (the default)",
  SeveralClasses.problem_type: "several classes (--multi_label)",
  Number.problem_type: "a number (--regression)",
}


def _name_kind(problem_type):
  """Returns the words for a kind of target; of an unknown one its name."""
  return _KINDS.get(problem_type, problem_type)


# ---------------------------------------------------------------------------
# Classes


def accuracy(labels, decided, scores):
  """Returns the share of examples of which everything is right.

  Of several classes that is the share of examples whose every label is.
  """
  del scores
  from sklearn import metrics

  return metrics.accuracy_score(labels, decided)


def balanced_accuracy(labels, decided, scores):
  """Returns the mean over the classes that there are of their recall."""
  del scores
  from sklearn import metrics

  return metrics.recall_score(
    labels, decided, labels=np.unique(labels), average="macro", zero_division=0
  )


def _find_one_class(labels, decided):
  """Returns that all are of one class, where they are, else None."""
  for what, ids in (("labels", labels), ("predictions", decided)):
    if len(set(ids)) < 2:
      return f"all {what} are of one class"
  return None


def matthews_correlation(labels, decided, scores):
  """Returns Matthews' coefficient for any number of classes; 0 if undefined.

  Gorodkin's R_K (https://doi.org/10.1016/j.compbiolchem.2004.09.006), which
  for two classes is the phi coefficient.
  """
  del scores
  from sklearn import metrics

  if _find_one_class(labels, decided):
    return 0.0  # scikit-learn returns the same, with a warning
  return metrics.matthews_corrcoef(labels, decided)


def cohen_kappa(labels, decided, scores):
  """Returns Cohen's kappa.

  Raises:
    UndefinedError: labels and decisions are all of one class.
  """
  del scores
  from sklearn import metrics

  if len({*labels, *decided}) < 2:
    raise UndefinedError("labels and predictions are all of one class")
  return metrics.cohen_kappa_score(labels, decided)


def hamming_loss(labels, decided, scores):
  """Returns the share of labels that are wrongly said to hold or not."""
  del scores
  return np.mean(labels != decided)


def _of_class_1(function, labels, decided, scores):
  """Returns f1_score or the like of the class with id 1; 0 if undefined."""
  del scores
  from sklearn import metrics

  return getattr(metrics, function)(labels == 1, decided == 1, zero_division=0)


def _find_none_of_class_1(part, labels, decided):
  """Returns what there is none of, where nothing can be divided by it."""
  is_label, is_prediction = (labels == 1).any(), (decided == 1).any()
  if part == "recall_score" and not is_label:
    return "no example is of the class"
  if part == "precision_score" and not is_prediction:
    return "no example is predicted to be of the class"
  if not (is_label or is_prediction):
    return "no example is of the class, and none is predicted to be"
  return None


def _averaged(function, average, labels, decided, scores):
  """Returns f1_score or the like over all classes; those undefined are 0.

  Args:
    function: name in sklearn.metrics.
    average: "macro", "micro" or "weighted"; as there, "macro" counts the
      classes of which there is a label or a decision, of several classes all.
  """
  del scores
  from sklearn import metrics

  return getattr(metrics, function)(
    labels, decided, average=average, zero_division=0
  )


def _ranking(function, labels, decided, scores):
  """Returns roc_auc_score or the like of probabilities.

  Of two classes it is that of the class with id 1, of more the mean over them,
  each against the rest.

  Raises:
    UndefinedError: a class has no example, or no other.
  """
  del decided
  from sklearn import metrics

  if labels.ndim == 1:
    labels = np.eye(scores.shape[1])[labels]
    if labels.shape[1] == 2:
      labels, scores = labels[:, 1:], scores[:, 1:]
  held = labels.sum(axis=0)
  if not held.all() or (held == len(labels)).any():
    raise UndefinedError(
      "for some class there are no examples, or none of another"
    )
  return getattr(metrics, function)(labels, scores, average="macro")


# ---------------------------------------------------------------------------
# Numbers


def _correlation(function, labels, decided, scores):
  """Returns a correlation of scipy.stats by name.

  Raises:
    UndefinedError: there is one example, or all numbers of a side are equal.
  """
  del scores
  from scipy import stats

  if len(labels) < 2:
    raise UndefinedError("there is only one example")
  for numbers, what in ((labels, "labels"), (decided, "predictions")):
    if np.ptp(numbers) == 0:
      raise UndefinedError(f"all {what} are {numbers[0]:g}")
  correlation, _ = getattr(stats, function)(
    np.float64(labels), np.float64(decided)
  )
  return correlation


def mse(labels, decided, scores):
  """Returns the mean squared error."""
  del scores
  return np.mean(np.square(np.float64(labels) - decided))


def rmse(labels, decided, scores):
  """Returns the root of the mean squared error, in the labels' unit."""
  return np.sqrt(mse(labels, decided, scores))


def mae(labels, decided, scores):
  """Returns the mean absolute error, in the labels' unit."""
  del scores
  return np.mean(np.abs(np.float64(labels) - decided))


def r2(labels, decided, scores):
  """Returns the share of the labels' variance that is predicted.

  Raises:
    UndefinedError: all labels are equal.
  """
  del scores
  from sklearn import metrics

  if np.ptp(labels) == 0:
    raise UndefinedError(f"all labels are {labels[0]:g}")
  return metrics.r2_score(labels, decided)


# ---------------------------------------------------------------------------
# All of them

_ONE, _CLASSES, _NUMBER = (
  (OneClass.problem_type,),
  (OneClass.problem_type, SeveralClasses.problem_type),
  (Number.problem_type,),
)


def _two(function):
  return Metric(
    functools.partial(_of_class_1, function),
    _ONE,
    two_classes=True,
    explain_zero=functools.partial(_find_none_of_class_1, function),
  )


def _mean(function, average):
  return Metric(functools.partial(_averaged, function, average), _CLASSES)


def _ranked(function):
  return Metric(functools.partial(_ranking, function), _CLASSES)


def _correlated(function):
  return Metric(functools.partial(_correlation, function), _NUMBER)


METRICS = {
  "accuracy": Metric(accuracy, _CLASSES),
  "balanced_accuracy": Metric(balanced_accuracy, _ONE),
  "matthews_correlation": Metric(
    matthews_correlation, _ONE, explain_zero=_find_one_class
  ),
  "cohen_kappa": Metric(cohen_kappa, _ONE),
  "f1": _two("f1_score"),
  "precision": _two("precision_score"),
  "recall": _two("recall_score"),
  "macro_f1": _mean("f1_score", "macro"),
  "macro_precision": _mean("precision_score", "macro"),
  "macro_recall": _mean("recall_score", "macro"),
  "micro_f1": _mean("f1_score", "micro"),
  "micro_precision": _mean("precision_score", "micro"),
  "micro_recall": _mean("recall_score", "micro"),
  "weighted_f1": _mean("f1_score", "weighted"),
  "roc_auc": _ranked("roc_auc_score"),
  "average_precision": _ranked("average_precision_score"),
  "hamming_loss": Metric(
    hamming_loss, (SeveralClasses.problem_type,), higher_is_better=False
  ),
  "pearson": _correlated("pearsonr"),
  "spearman": _correlated("spearmanr"),
  "mse": Metric(mse, _NUMBER, higher_is_better=False),
  "rmse": Metric(rmse, _NUMBER, higher_is_better=False),
  "mae": Metric(mae, _NUMBER, higher_is_better=False),
  "r2": Metric(r2, _NUMBER),
}
