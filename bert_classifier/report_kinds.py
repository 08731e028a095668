"""The kinds of target as a report sees them: what is a mistake, what is shown.

`KINDS` is the one table that tells them apart, by `problem_type`. A kind has

  labels, decided, scores   arrays of n examples as `metrics` takes them
  errors                    <float64>[n]: 0 or 1, or how far a number is off
  error_is                  words for the mean of errors
  errors_are_shares         whether it is a share
  worst_are                 the title of the list of the worst
  baseline(name)            decided, scores and words of one answer for all,
                            which a metric is held against, or None
  resample(name)            a metric <float64>[R] of resampled examples, or None
  resample_baseline(name)   that of the baseline of the same samples, or None
  sections()                parts of the report that the kind has, for JSON
  mistakes()                numbers of the examples that are wrong, worst first
  columns                   names of the cells of `mistake`
  mistake(number)           what is wrong with an example, a dictionary

Axis letters: n examples, L labels, R replicates.
"""

import functools

import numpy as np

from bert_classifier import report_statistics as statistics

_MOST_POINTS, _GRID = 800, 32  # of a scatter; beyond the points, cells a side
_MOST_CONFUSIONS = 10


class _Kind:
  """What all kinds have in common; by itself one that is not known.

  Args:
    evaluation: `report.Evaluation`.
  """

  error_is, errors_are_shares = "mean loss", False
  worst_are = "Most confident mistakes"
  columns = ("loss",)

  def __init__(self, evaluation):
    self.target = evaluation.target
    self.logits = evaluation.logits
    self.labels = evaluation.labels
    self.decided = self.target.decide(evaluation.logits)
    self.scores = self.target.scores(evaluation.logits)
    self.losses = self.errors = np.float64(evaluation.losses)

  def baseline(self, name):
    del name

  def resample(self, name):
    del name

  def resample_baseline(self, name):
    del name

  def sections(self):
    return {}

  def describe_calibration(self, of, select):
    """Returns how honest the scores are, and where they have one, how they were
    before the temperature.

    Args:
      of: what the confidences are of.
      select: function of scores that gives confidences, and what came true.
    """
    described = {"of": of, **statistics.calibrate(*select(self.scores))}
    temperature = getattr(self.target, "temperature", 1.0)
    if temperature == 1:
      return described
    plain = self.target.calibrated(1.0)
    before = statistics.calibrate(*select(plain.scores(self.logits)))
    losses = plain.losses(self.logits / temperature, self.labels)
    return {
      **described,
      "temperature": temperature,
      "loss": float(losses.mean(dtype=np.float64)),
      "before": {
        "error": before["error"],
        "mean_confidence": before["mean_confidence"],
        "loss": float(self.losses.mean()),
      },
    }

  def mistakes(self):
    return np.argsort(-self.errors, kind="stable")

  def mistake(self, number):
    return {"loss": _round(self.losses[number])}


class OneClass(_Kind):
  """One class of L."""

  error_is, errors_are_shares = "wrong examples", True
  columns = (
    "label",
    "predicted",
    "probability",
    "probability_of_label",
    "loss",
  )

  def __init__(self, evaluation):
    super().__init__(evaluation)
    self.errors = np.float64(self.labels != self.decided)
    width = self.target.width
    pairs = self.labels.astype(np.int64) * width + self.decided
    counts = np.bincount(pairs, minlength=width**2)
    self._confusion = counts.reshape(width, width)

  def baseline(self, name):
    del name
    frequencies, majority = self._confusion.sum(1), self._majority
    shape = len(self.labels), 1
    return (
      np.full(len(self.labels), majority),
      np.tile(frequencies / frequencies.sum(), shape),
      f"always {self.target.labels[majority]!r}",
    )

  @property
  def _majority(self):
    return self._confusion.sum(1).argmax()

  @functools.cached_property
  def _resampled(self):
    return statistics.resample_classes(self._confusion)

  def resample(self, name):
    compute = statistics.OF_CLASSES.get(name)
    return compute and compute(self._resampled)

  def resample_baseline(self, name):
    compute = statistics.OF_CLASSES.get(name)
    return compute and compute(
      statistics.answer_always(self._resampled, self._majority)
    )

  def sections(self):
    counts = statistics.count_classes(self._confusion)
    return {
      "classes": _describe_classes(self.target.labels, counts),
      "confusion": {
        "labels": list(self.target.labels),
        "counts": self._confusion.tolist(),
        "commonest": self._commonest_confusions(),
      },
      "calibration": self.describe_calibration(
        "predictions", lambda scores: (scores.max(-1), 1 - self.errors)
      ),
    }

  def _commonest_confusions(self):
    wrong = self._confusion - np.diag(np.diagonal(self._confusion))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CONFUSIONS]
    support = self._confusion.sum(1)
    return [
      {
        "label": self.target.labels[row],
        "predicted": self.target.labels[column],
        "count": int(wrong[row, column]),
        "of": int(support[row]),
      }
      for row, column in zip(*np.unravel_index(order, wrong.shape))
      if wrong[row, column]
    ]

  def mistakes(self):
    wrong = np.flatnonzero(self.errors)
    sureness = self.scores[wrong, self.decided[wrong]]
    return wrong[np.argsort(-sureness, kind="stable")]

  def mistake(self, number):
    label, decided = self.labels[number], self.decided[number]
    scores = self.scores[number]
    return {
      "label": self.target.labels[label],
      "predicted": self.target.labels[decided],
      "probability": _round(scores[decided]),
      "probability_of_label": _round(scores[label]),
      **super().mistake(number),
    }


class SeveralClasses(_Kind):
  """Any number of L classes."""

  error_is, errors_are_shares = "examples with a wrong label", True
  columns = ("label", "predicted", "missed", "too_many", "confidence", "loss")

  def __init__(self, evaluation):
    super().__init__(evaluation)
    self.labels = self.labels.astype(np.int64)
    self._wrong = self.labels != self.decided
    self.errors = self._wrong.any(-1).astype(np.float64)

  def baseline(self, name):
    shares = self.labels.mean(0)
    if name == "accuracy":
      found, counts = np.unique(self.labels, axis=0, return_counts=True)
      answer = found[counts.argmax()]
      words = f"always {self._join(answer) or 'no label'!r}"
    elif name == "hamming_loss":
      answer = (shares > 0.5).astype(np.int64)
      words = "each label as most examples have it"
    else:
      answer, words = self._best_of_f1(shares)
    shape = len(self.labels), 1
    return np.tile(answer, shape), np.tile(shares, shape), words

  def _best_of_f1(self, shares):
    """Returns the labels that for all examples have the best micro F1."""
    order = np.argsort(-shares, kind="stable")
    numbers = np.arange(1, len(shares) + 1)
    scores = 2 * shares[order].cumsum() / (shares.sum() + numbers)
    number = numbers[scores.argmax()]
    answer = np.zeros(len(shares), np.int64)
    answer[order[:number]] = 1
    words = f"the {number} commonest labels"
    if number == len(shares):
      words = "all labels"
    elif number == 1:
      words = repr(self.target.labels[order[0]])
    return answer, f"always {words}"

  @functools.cached_property
  def _resampled(self):
    return self._resample_counts(self.decided)

  def _resample_counts(self, decided):
    parts = [
      statistics.count_labels(self.labels, decided, weights)
      for weights in statistics.draw_weights(len(self.labels))
    ]
    *arrays, totals = zip(*parts)
    return statistics.Counts(*map(np.concatenate, arrays), totals[0])

  def resample(self, name):
    compute = statistics.OF_CLASSES.get(name)
    return compute and compute(self._resampled)

  def resample_baseline(self, name):
    compute = statistics.OF_CLASSES.get(name)
    return compute and compute(self._resample_counts(self.baseline(name)[0]))

  def sections(self):
    all_once = np.ones([1, len(self.labels)])
    counts = statistics.count_labels(self.labels, self.decided, all_once)
    counts = counts._replace(
      right=counts.right[0],
      support=counts.support[0],
      predicted=counts.predicted[0],
    )
    return {
      "classes": _describe_classes(self.target.labels, counts),
      "labels_per_example": {
        "true": float(self.labels.sum(-1).mean()),
        "predicted": float(self.decided.sum(-1).mean()),
      },
      "calibration": self.describe_calibration(
        "labels", lambda scores: (scores.ravel(), self.labels.ravel())
      ),
    }

  @functools.cached_property
  def _confidences(self):
    """Returns how sure the surest wrong decision of each example was, [n]."""
    sureness = np.where(self.decided == 1, self.scores, 1 - self.scores)
    return np.where(self._wrong, sureness, 0).max(-1)

  def mistakes(self):
    wrong = np.flatnonzero(self.errors)
    return wrong[np.argsort(-self._confidences[wrong], kind="stable")]

  def mistake(self, number):
    label, decided = self.labels[number], self.decided[number]
    return {
      "label": self._join(label),
      "predicted": self._join(decided),
      "missed": self._join(label > decided),
      "too_many": self._join(decided > label),
      "confidence": _round(self._confidences[number]),
      **super().mistake(number),
    }

  def _join(self, holds):
    return "|".join(name for name, one in zip(self.target.labels, holds) if one)


class Number(_Kind):
  """A number; each one is off by something."""

  error_is = "mean absolute error"
  worst_are = "Largest errors"
  columns = ("label", "predicted", "residual", "loss")

  def __init__(self, evaluation):
    super().__init__(evaluation)
    self.labels, self.decided = (
      np.float64(self.labels),
      np.float64(self.decided),
    )
    self._residuals = self.decided - self.labels
    self.errors = np.abs(self._residuals)

  def baseline(self, name):
    del name
    means = np.full(len(self.labels), self.labels.mean())
    return means, means, f"always the mean, {means[0]:.4g}"

  @functools.cached_property
  def _resampled(self):
    return self._resample_all(statistics.OF_NUMBERS, self.decided)

  def _resample_all(self, names, decided):
    parts = [
      [
        statistics.OF_NUMBERS[name](weights, self.labels, decided)
        for name in names
      ]
      for weights in statistics.draw_weights(len(self.labels))
    ]
    return dict(zip(names, np.concatenate(parts, axis=1)))

  def resample(self, name):
    return self._resampled.get(name)

  def resample_baseline(self, name):
    answer, _, _ = self.baseline(name)
    return self._resample_all([name], answer)[name]

  def sections(self):
    counts, edges = np.histogram(self._residuals, bins=21)
    return {
      "scatter": self._scatter(),
      "residuals": {
        "mean": float(self._residuals.mean()),
        "standard_deviation": float(self._residuals.std()),
        "counts": counts.tolist(),
        "edges": edges.tolist(),
      },
    }

  def _scatter(self):
    """Returns the points, or of many the counts of a grid's cells."""
    if len(self.labels) <= _MOST_POINTS:
      points = zip(self.labels, self.decided)
      return {"points": [[_round(x), _round(y)] for x, y in points]}
    columns, labels = _GRID, np.unique(self.labels)
    if 1 < len(labels) <= 2 * _GRID:  # a column for each
      between = (labels[1:] + labels[:-1]) / 2
      half = (labels[1] - labels[0]) / 2
      columns = [labels[0] - half, *between, labels[-1] + half]
    counts, x, y = np.histogram2d(
      self.labels, self.decided, bins=[columns, _GRID]
    )
    return {
      "counts": counts.astype(int).tolist(),
      "label_edges": x.tolist(),
      "predicted_edges": y.tolist(),
    }

  def mistake(self, number):
    return {
      "label": _round(self.labels[number]),
      "predicted": _round(self.decided[number]),
      "residual": _round(self._residuals[number]),
      **super().mistake(number),
    }


KINDS = {
  "single_label_classification": OneClass,
  "multi_label_classification": SeveralClasses,
  "regression": Number,
}


def kind_of(evaluation):
  """Returns the kind of an evaluation's target."""
  return KINDS.get(evaluation.target.problem_type, _Kind)(evaluation)


def _round(number):
  """Returns a number with the digits that it has as a float32."""
  return float(str(np.float32(number)))


def _describe_classes(names, counts):
  """Returns a dictionary for each class of its figures."""
  figures = {
    part: statistics.of_each_class(part, counts)
    for part in ("precision", "recall", "f1")
  }
  return [
    {
      "label": name,
      **{part: float(figures[part][i]) for part in figures},
      "support": int(counts.support[i]),
      "predicted": int(counts.predicted[i]),
    }
    for i, name in enumerate(names)
  ]
