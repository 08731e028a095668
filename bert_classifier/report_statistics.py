"""The statistics of a report: intervals, calibration, errors by group.

Axis letters: n examples, L labels, R replicates of a bootstrap, G groups.
"""

from typing import NamedTuple

import numpy as np

REPLICATES, SEED, LEVEL = 1000, 20181011, 0.95
# Bins of a reliability diagram, as many as in the paper; see `calibrate`.
CALIBRATION_BINS = 15
_NORMAL_QUANTILE = 1.959964  # of the level
_MOST_NUMBERS = 1 << 22  # that a part of the bootstrap holds at a time


class Counts(NamedTuple):
  """What metrics of classes depend on, of one sample or of R of them.

  Attributes:
    right: <float64>[..., L] examples of a class that were predicted to be.
    support: <float64>[..., L] examples of a class.
    predicted: <float64>[..., L] examples predicted to be of a class.
    counted: <bool>[..., L] classes that a mean over classes counts.
    exact: <float64>[...] examples of which everything is right.
    total: number of examples.
  """

  right: np.ndarray
  support: np.ndarray
  predicted: np.ndarray
  counted: np.ndarray
  exact: np.ndarray
  total: int


def _divide(numerator, denominator):
  """Returns the quotient, 0 where the denominator is."""
  numerator, denominator = np.broadcast_arrays(numerator, denominator)
  quotient = np.zeros(denominator.shape)
  np.divide(numerator, denominator, out=quotient, where=denominator > 0)
  return quotient


# Parts of a metric: what is divided by what, for each class.
_PARTS = {
  "precision": lambda counts: (counts.right, counts.predicted),
  "recall": lambda counts: (counts.right, counts.support),
  "f1": lambda counts: (2 * counts.right, counts.support + counts.predicted),
}


def of_each_class(part, counts):
  """Returns precision, recall or F1 <float64>[..., L], 0 where undefined."""
  return _divide(*_PARTS[part](counts))


def _mean(values, weights):
  return _divide((values * weights).sum(-1), weights.sum(-1))


def _of_class_1(part):
  return lambda counts: of_each_class(part, counts)[..., 1]


def _macro(part):
  return lambda counts: _mean(of_each_class(part, counts), counts.counted)


def _micro(part):
  return lambda counts: _divide(*(n.sum(-1) for n in _PARTS[part](counts)))


def _accuracy(counts):
  return counts.exact / counts.total


def _balanced_accuracy(counts):
  return _mean(of_each_class("recall", counts), counts.support > 0)


def _weighted_f1(counts):
  return _mean(of_each_class("f1", counts), counts.support)


def _matthews_correlation(counts):
  right, total = counts.right.sum(-1), counts.total
  covariance = right * total - (counts.support * counts.predicted).sum(-1)
  spread = (total**2 - (counts.support**2).sum(-1)) * (
    total**2 - (counts.predicted**2).sum(-1)
  )
  return _divide(covariance, np.sqrt(np.maximum(spread, 0)))


def _cohen_kappa(counts):
  total = counts.total
  by_chance = (counts.support * counts.predicted).sum(-1) / total
  with np.errstate(divide="ignore", invalid="ignore"):
    return (counts.exact - by_chance) / (total - by_chance)


def _hamming_loss(counts):
  wrong = counts.support + counts.predicted - 2 * counts.right
  return wrong.mean(-1) / counts.total


# By the names of `metrics.METRICS`; the others are not functions of counts.
OF_CLASSES = {
  "accuracy": _accuracy,
  "balanced_accuracy": _balanced_accuracy,
  "matthews_correlation": _matthews_correlation,
  "cohen_kappa": _cohen_kappa,
  "hamming_loss": _hamming_loss,
  "weighted_f1": _weighted_f1,
  **{part: _of_class_1(part) for part in _PARTS},
  **{f"macro_{part}": _macro(part) for part in _PARTS},
  **{f"micro_{part}": _micro(part) for part in _PARTS},
}


def count_classes(confusion):
  """Returns the `Counts` of a confusion matrix [L, L], true classes in rows."""
  confusion = np.asarray(confusion, np.float64)
  return _count(
    np.diagonal(confusion), confusion.sum(1), confusion.sum(0), confusion.sum()
  )


def _count(right, support, predicted, total):
  # As scikit-learn: means go over the classes of a label or a prediction.
  counted = support + predicted > 0
  return Counts(right, support, predicted, counted, right.sum(-1), int(total))


def resample_classes(confusion, replicates=REPLICATES, seed=SEED):
  """Returns the `Counts` of R samples of as many examples.

  To draw n of the examples is to draw n of the matrix's cells, which takes no
  longer for more examples.

  Args:
    confusion: whole numbers [L, L], true classes in rows.
  """
  rows, columns = np.nonzero(confusion)
  numbers = confusion[rows, columns]
  total = int(numbers.sum())
  generator = np.random.default_rng(seed)
  drawn = generator.multinomial(total, numbers / total, replicates)
  drawn = drawn.astype(np.float64)
  classes = np.arange(len(confusion))
  of_row, of_column = rows[:, None] == classes, columns[:, None] == classes
  right = drawn @ (of_row & of_column)
  return _count(right, drawn @ of_row, drawn @ of_column, total)


def answer_always(counts, number):
  """Returns the `Counts` of predicting one class for all of the same examples.

  Args:
    counts: those of a sample, or of R of them.
    number: id of the class.
  """
  is_answer = np.arange(counts.support.shape[-1]) == number
  predicted = np.zeros(counts.support.shape) + counts.total * is_answer
  return _count(
    counts.support * is_answer, counts.support, predicted, counts.total
  )


def count_labels(labels, decided, weights):
  """Returns the `Counts` of several labels an example.

  Args:
    labels, decided: 0 or 1, [n, L].
    weights: how often each example is in each sample, <float64>[R, n].
  """
  labels, decided = labels.astype(bool), decided.astype(bool)
  right, support, predicted = (
    weights @ pairs.astype(np.float64)
    for pairs in (labels & decided, labels, decided)
  )
  exact = weights @ (labels == decided).all(-1).astype(np.float64)
  counted = np.ones(right.shape, bool)
  return Counts(right, support, predicted, counted, exact, len(labels))


def draw_weights(n, replicates=REPLICATES, seed=SEED):
  """Yields how often each example is drawn, <float64>[part of R, n]."""
  generator = np.random.default_rng(seed)
  part = max(1, _MOST_NUMBERS // n)
  for start in range(0, replicates, part):
    samples = range(start, min(start + part, replicates))
    yield np.float64(
      [np.bincount(generator.integers(n, size=n), minlength=n) for _ in samples]
    )


# ---------------------------------------------------------------------------
# Numbers


def _mse(weights, labels, values):
  return weights @ np.square(values - labels) / len(labels)


def _rmse(weights, labels, values):
  return np.sqrt(_mse(weights, labels, values))


def _mae(weights, labels, values):
  return weights @ np.abs(values - labels) / len(labels)


def _r2(weights, labels, values):
  labels, values = labels - labels.mean(), values - labels.mean()
  scale = np.abs(labels).max() or 1  # so that small units are no equal numbers
  labels, values = labels / scale, values / scale
  mean = weights @ labels / len(labels)
  spread = weights @ np.square(labels) / len(labels) - np.square(mean)
  return _divide_or_nan(spread - _mse(weights, labels, values), spread)


def _pearson(weights, labels, values):
  x, y = labels - labels.mean(), values - values.mean()
  x, y = (numbers / (np.abs(numbers).max() or 1) for numbers in (x, y))
  sums = weights @ np.stack([x, y, x * x, y * y, x * y], axis=1)
  x, y, xx, yy, xy = sums.T / len(labels)
  return _divide_or_nan(
    xy - x * y, np.sqrt(np.maximum((xx - x * x) * (yy - y * y), 0))
  )


def _spearman(weights, labels, values):
  """Returns Spearman's rho of each sample: Pearson's r of mean ranks."""
  x, y = _rank(weights, labels), _rank(weights, values)
  covariance, of_x, of_y = (
    np.einsum("rn,rn,rn->r", weights, one, other)
    for one, other in ((x, y), (x, x), (y, y))
  )
  return _divide_or_nan(covariance, np.sqrt(of_x * of_y))


def _rank(weights, x):
  """Returns the mean ranks of an example's copies, less their mean, [R, n]."""
  _, group, counts = np.unique(x, return_inverse=True, return_counts=True)
  order = np.argsort(group, kind="stable")
  starts = np.cumsum(counts) - counts
  sizes = np.add.reduceat(weights[:, order], starts, axis=1)
  ranks = sizes.cumsum(1) - sizes / 2 - len(x) / 2
  return ranks.take(group, axis=1)


def _divide_or_nan(numerator, denominator):
  quotient = np.full(denominator.shape, np.nan)
  np.divide(numerator, denominator, out=quotient, where=denominator > 1e-12)
  return quotient


# By the names of `metrics.METRICS`: functions of weights <float64>[R, n], and
# labels and values <float64>[n].
OF_NUMBERS = {
  "pearson": _pearson,
  "spearman": _spearman,
  "mse": _mse,
  "rmse": _rmse,
  "mae": _mae,
  "r2": _r2,
}


# ---------------------------------------------------------------------------
# Intervals


def take_interval(values):
  """Returns the ends of the 95% interval of a bootstrap, None if there is none.

  The percentile method (Efron and Tibshirani, An Introduction to the Bootstrap,
  1993, chapter 13).

  Args:
    values: <float64>[R] of the replicates, NaN where one is undefined.
  """
  values = np.asarray(values)[np.isfinite(values)]
  if not len(values):
    return None
  tail = (1 - LEVEL) / 2
  return [float(end) for end in np.quantile(values, [tail, 1 - tail])]


def estimate_share(count, total):
  """Returns Wilson's 95% interval of a share (JASA 22, 1927).

  >>> [round(end, 3) for end in estimate_share(1, 10)]
  [0.018, 0.404]
  """
  z = _NORMAL_QUANTILE
  share, scale = count / total, 1 + z**2 / total
  middle = (share + z**2 / (2 * total)) / scale
  half = z / scale * np.sqrt(share * (1 - share) / total + (z / 2 / total) ** 2)
  return [float(max(0, middle - half)), float(min(1, middle + half))]


def estimate_mean(values):
  """Returns Student's 95% interval of the mean of a sample of no negatives.

  None of one value, which says nothing of how far others are from it.
  """
  if len(values) < 2:
    return None
  from scipy import stats

  quantile = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)
  mean = np.mean(values)
  half = quantile * np.std(values, ddof=1) / np.sqrt(len(values))
  return [float(max(0, mean - half)), float(mean + half)]


# ---------------------------------------------------------------------------
# Groups


def calibrate(confidences, right, bins=CALIBRATION_BINS):
  """Compares how sure the model was with how often it was right.

  The expected calibration error is the mean of the distances of both in bins of
  equal width, each weighed by its share of the predictions (Guo et al. 2017,
  https://arxiv.org/abs/1706.04599, equation 3).

  Args:
    confidences: probabilities [n].
    right: whether what they stand for came true, [n].
    bins: number of bins over (0, 1]; each has its upper end.

  Returns:
    Dictionary with `error`, `mean_confidence`, `share_right` and `bins`, a list
    of dictionaries, of the bins that are not empty.
  """
  confidences = np.asarray(confidences, np.float64)
  right = np.asarray(right, np.float64)
  # Less a rounding, so that an end belongs to its bin.
  index = np.ceil(confidences * bins - 1e-9).astype(int) - 1
  index = np.clip(index, 0, bins - 1)
  found = []
  for number in np.unique(index):
    inside = index == number
    found.append(
      {
        "from": float(number / bins),
        "to": float((number + 1) / bins),
        "count": int(inside.sum()),
        "confidence": float(confidences[inside].mean()),
        "right": float(right[inside].mean()),
      }
    )
  gaps = (b["count"] * abs(b["confidence"] - b["right"]) for b in found)
  return {
    "error": sum(gaps) / len(confidences),
    "mean_confidence": float(confidences.mean()),
    "share_right": float(right.mean()),
    "bins": found,
  }


def group_by_size(sizes, most=8):
  """Divides examples by a whole number into groups of about equal size.

  Args:
    sizes: whole numbers [n].
    most: number of groups that are not exceeded.

  Returns:
    List of pairs: the words for a group, and the mask [n] of its examples.
  """
  ends = np.unique(
    np.quantile(sizes, np.arange(1, most + 1) / most, method="inverted_cdf")
  )
  groups, above = [], sizes.min() - 1
  for end in map(int, ends):
    inside = (sizes > above) & (sizes <= end)
    first = int(sizes[inside].min())
    groups.append((str(end) if first == end else f"{first}–{end}", inside))
    above = end
  return groups


_SHARES = (("0%", 0.0), ("to 2%", 0.02), ("2–5%", 0.05), ("5–10%", 0.1))


def group_by_share(shares):
  """Divides examples by a share into 0, up to 2, 5, 10% and more."""
  groups, above = [], -1.0
  for words, end in (*_SHARES, ("over 10%", np.inf)):
    inside = (shares > above) & (shares <= end)
    if inside.any():
      groups.append((words, inside))
    above = end
  return groups


def describe_groups(groups, errors, is_share):
  """Returns the mean error of each group, a list of dictionaries.

  Args:
    groups: pairs of words and mask.
    errors: <float64>[n].
    is_share: whether an error is 0 or 1.
  """
  described = []
  for words, inside in groups:
    found = errors[inside]
    interval = (
      estimate_share(found.sum(), len(found))
      if is_share
      else estimate_mean(found)
    )
    described.append(
      {
        "group": words,
        "count": len(found),
        "error": float(found.mean()),
        "interval": interval,
      }
    )
  return described
