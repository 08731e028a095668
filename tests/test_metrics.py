"""Metrics, against scikit-learn, SciPy and formulas; what is undefined."""

import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as skm
from sklearn.exceptions import UndefinedMetricWarning

from bert_classifier import metrics, targets
from bert_classifier.errors import UserError

RANDOM = np.random.default_rng(4)
# Labels and decisions of one class: random ones, and each way to lack a class.
CLASSES = {
  "two": (RANDOM.integers(0, 2, 53), RANDOM.integers(0, 2, 53)),
  "four": (RANDOM.integers(0, 4, 90), RANDOM.integers(0, 4, 90)),
  "perfect": ([0, 1, 1, 0], [0, 1, 1, 0]),
  "all wrong": ([0, 1, 1, 0], [1, 0, 0, 1]),
  "1 never predicted": ([0, 1, 1, 0, 0], [0] * 5),
  "1 never present": ([0] * 5, [0, 1, 1, 0, 0]),
  "1 nowhere": ([0] * 5, [0] * 5),
  "0 nowhere": ([1] * 5, [1] * 5),
  "one example": ([1], [0]),
  "a class of four is not there": ([0, 1, 3, 3], [3, 1, 0, 3]),
}
AVERAGED = {
  f"{average}_{name}": (f"{name}_score", average)
  for average in ("macro", "micro")
  for name in ("f1", "precision", "recall")
}
AVERAGED["weighted_f1"] = ("f1_score", "weighted")


def quietly(function, *arguments, **more):
  """Returns what scikit-learn gives, without its warnings."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    return function(*arguments, **more)


def measure(name, labels, decided, scores=None):
  labels, decided = np.array(labels), np.array(decided)
  scores = np.float32(decided) if scores is None else scores
  return metrics.measure(name, labels, decided, scores)


@pytest.mark.parametrize("case", CLASSES)
def test_metrics_of_one_class_equal_scikit_learn(case):
  labels, decided = CLASSES[case]
  expected = {
    name: quietly(
      getattr(skm, function), labels, decided, average=average, zero_division=0
    )
    for name, (function, average) in AVERAGED.items()
  }
  expected["accuracy"] = skm.accuracy_score(labels, decided)
  expected["balanced_accuracy"] = quietly(
    skm.balanced_accuracy_score, labels, decided
  )
  expected["matthews_correlation"] = quietly(
    skm.matthews_corrcoef, labels, decided
  )
  found = {name: measure(name, labels, decided) for name in expected}
  assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("case", [c for c in CLASSES if "four" not in c])
@pytest.mark.parametrize("name", ["f1", "precision", "recall"])
def test_metrics_of_two_classes_are_those_of_class_1(case, name):
  labels, decided = CLASSES[case]
  function = getattr(skm, f"{name}_score")
  (expected,) = quietly(
    function, labels, decided, labels=[1], average=None, zero_division=0
  )
  assert measure(name, labels, decided) == pytest.approx(expected)


def draw_vectors(examples, labels, seed=0):
  """Returns random labels, and logits that know something about them."""
  numbers = np.random.default_rng(seed)
  truth = (numbers.random([examples, labels]) < 0.3).astype(np.float32)
  logits = numbers.normal(size=truth.shape) + 2 * truth - 1
  return truth, logits.astype(np.float32)


VECTORS = {
  "random": draw_vectors(60, 5),
  "one example": draw_vectors(1, 3, 2),
  "nothing holds": (np.zeros([4, 3], np.float32), -np.ones([4, 3])),
  "all hold": (np.ones([4, 3], np.float32), np.ones([4, 3])),
  "nothing decided": (np.eye(3, dtype=np.float32), -np.ones([3, 3])),
}


@pytest.mark.parametrize("case", VECTORS)
def test_metrics_of_several_classes_equal_scikit_learn(case):
  truth, logits = VECTORS[case]
  target = targets.SeveralClasses([f"c{n}" for n in range(truth.shape[1])])
  decided = target.decide(logits)
  np.testing.assert_array_equal(decided, logits >= 0)
  expected = {
    name: quietly(
      getattr(skm, function), truth, decided, average=average, zero_division=0
    )
    for name, (function, average) in AVERAGED.items()
  }
  expected["accuracy"] = np.mean((truth == decided).all(axis=1))
  expected["hamming_loss"] = skm.hamming_loss(truth, decided)
  found = {name: measure(name, truth, decided) for name in expected}
  assert found == pytest.approx(expected, abs=1e-12)


def test_rankings_equal_scikit_learn():
  truth, logits = draw_vectors(80, 4)
  scores = targets.SeveralClasses("abcd").scores(logits)
  for name in ("roc_auc", "average_precision"):
    function = getattr(skm, f"{name}_score")
    assert measure(name, truth, scores, scores) == pytest.approx(
      function(truth, scores, average="macro")
    )
    ids = np.random.default_rng(1).integers(0, 2, 80)
    two = targets.OneClass("ab").scores(logits[:, :2])
    assert measure(name, ids, ids, two) == pytest.approx(
      function(ids, two[:, 1])
    )
  ids = np.random.default_rng(2).integers(0, 4, 80)
  scores = targets.OneClass("abcd").scores(logits)
  assert measure("roc_auc", ids, ids, scores) == pytest.approx(
    skm.roc_auc_score(ids, scores, multi_class="ovr")
  )


def test_metrics_of_numbers_equal_scipy_and_scikit_learn():
  labels, noise = np.random.default_rng(3).normal(size=[2, 70])
  labels[:9] = labels[9]  # ties
  predicted = np.float32(labels + noise)
  labels = np.float32(labels)
  expected = {
    "pearson": stats.pearsonr(labels, predicted)[0],
    "spearman": stats.spearmanr(labels, predicted)[0],
    "mse": skm.mean_squared_error(labels, predicted),
    "rmse": np.sqrt(skm.mean_squared_error(labels, predicted)),
    "mae": skm.mean_absolute_error(labels, predicted),
    "r2": skm.r2_score(labels, predicted),
  }
  found = {name: measure(name, labels, predicted) for name in expected}
  assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
  ("name", "labels", "scores", "reason"),
  [
    ("pearson", [1, 1, 1], [1, 2, 3], "all labels are 1"),
    ("spearman", [1, 2, 3], [0.5] * 3, "all predictions are 0.5"),
    ("pearson", [1], [2], "only one example"),
    ("spearman", [], [], "there are no examples"),
    ("rmse", [], [], "there are no examples"),
    ("r2", [2, 2], [1, 2], "all labels are 2"),
    ("mae", [1, 2], [1, np.nan], "numbers that are not finite"),
    ("cohen_kappa", [1, 1], [1, 1], "all of one class"),
    ("roc_auc", [1, 1], [[0.5, 0.5]] * 2, "there are no examples, or none"),
    (
      "average_precision",
      [0, 0],
      [[0.5, 0.5]] * 2,
      "there are no examples, or",
    ),
    ("accuracy", [], [], "there are no examples"),
  ],
)
def test_what_is_undefined_has_a_reason_and_is_never_nan(
  name, labels, scores, reason
):
  decided = labels if name in ("cohen_kappa", "roc_auc") else scores
  with pytest.raises(metrics.UndefinedError, match=reason):
    measure(name, labels, decided, np.float32(scores))


@pytest.mark.parametrize("name", metrics.METRICS)
def test_every_metric_is_finite_or_undefined_on_every_case(name):
  metric = metrics.METRICS[name]
  for target, logits, labels in (
    (targets.OneClass("ab"), np.eye(2)[[0, 1, 1]], np.array([0, 1, 0])),
    (targets.OneClass("ab"), np.eye(2)[[0, 0]], np.array([0, 0])),
    (targets.OneClass("abc"), np.eye(3)[[0, 2]], np.array([1, 0])),
    (
      targets.SeveralClasses("abc"),
      np.eye(3)[[0, 2]],
      np.float32([[1, 0, 1]] * 2),
    ),
    (targets.Number(), np.float32([[1], [1]]), np.float32([1, 2])),
    (targets.Number(), np.float32([[1], [1 + 1e-7]]), np.float32([1, 2])),
    (targets.Number(), np.float32([[3e38], [-3e38]]), np.float32([1, 2])),
  ):
    if not metric.fits(target):
      continue
    logits = np.float32(logits)
    try:
      value = metrics.measure(
        name, labels, target.decide(logits), target.scores(logits)
      )
    except metrics.UndefinedError:
      continue
    assert np.isfinite(value)


@pytest.mark.parametrize(
  ("name", "target", "said"),
  [
    ("macrof1", targets.OneClass("ab"), "did you mean 'macro_f1'"),
    (
      "mcc",
      targets.OneClass("ab"),
      "'mcc', which is no metric: give one of acc",
    ),
    (
      "f1",
      targets.OneClass("abc"),
      "of the second of two classes, but there are 3",
    ),
    (
      "pearson",
      targets.OneClass("ab"),
      r"for a number \(--regression\), not for one",
    ),
    (
      "f1",
      targets.SeveralClasses("ab"),
      "not for several classes .*, macro_f1",
    ),
    (
      "accuracy",
      targets.Number(),
      "give one of pearson, spearman, mse, rmse, ",
    ),
  ],
)
def test_a_metric_that_does_not_fit_is_told_with_those_that_do(
  name, target, said
):
  with pytest.raises(UserError, match=f"--metrics names .*{said}"):
    metrics.check_metric(name, target, "--metrics")


def test_a_kind_of_target_that_metrics_do_not_know_is_told_by_its_name():
  class Rank(targets.Number):
    problem_type = "ranking"

  with pytest.raises(UserError, match="'mae', .* not for ranking: give one of"):
    metrics.check_metric("mae", Rank(), "--metrics")


def test_the_metrics_of_a_target_fit_it():
  for target in (
    targets.OneClass("ab"),
    targets.OneClass("abc"),
    targets.SeveralClasses("abc"),
    targets.Number(),
  ):
    for name in (*target.metrics, target.headline):
      metrics.check_metric(name, target, "it")
  metrics.check_metric("f1", targets.OneClass("ab"), "it")


@pytest.mark.parametrize("case", CLASSES)
@pytest.mark.parametrize("name", ["f1", "precision", "recall"])
def test_a_zero_is_explained_where_scikit_learn_warns(case, name):
  labels, decided = (np.array(ids) for ids in CLASSES[case])
  reason = metrics.METRICS[name].explain_zero(labels, decided)
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    getattr(skm, f"{name}_score")(labels == 1, decided == 1)
  assert bool(reason) == any(
    issubclass(warning.category, UndefinedMetricWarning) for warning in caught
  )


@pytest.mark.parametrize("case", CLASSES)
def test_a_correlation_of_0_is_explained_where_its_formula_has_none(case):
  labels, decided = (np.array(ids) for ids in CLASSES[case])
  reason = metrics.METRICS["matthews_correlation"].explain_zero(labels, decided)
  assert bool(reason) == (np.std(labels) * np.std(decided) == 0)
