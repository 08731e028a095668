"""Metrics, against scikit-learn and NumPy; the files of results."""

from pathlib import Path
import shutil
import tracemalloc
import warnings
import weakref

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics
import tensorflow.compat.v1 as tf

from bert_classifier import evaluation, predictions, progress, targets
from bert_classifier.errors import UserError
from bert_classifier.tasks import InputExample
import run_classifier

pytestmark = pytest.mark.usefixtures("graph")


def evaluate(batches, target, *, metrics=(), loss_batch_size=8):
  """Results over batches of (losses, logits, labels, weights).

  Args:
    target: see `targets`, or the number of classes of which one is right.
  """
  if isinstance(target, int):
    target = targets.OneClass(map(str, range(target)))
  (feature,) = target.feature_spec().values()
  is_float = feature.dtype == tf.float32
  feeds = [
    tf.placeholder(tf.float32, [None]),
    tf.placeholder(tf.float32, [None, target.width]),
    tf.placeholder(
      tf.float32 if is_float else tf.int32, [None, *feature.shape]
    ),
    tf.placeholder(tf.int32, [None]),
  ]
  collector = evaluation.Collector(target, metrics, loss_batch_size)
  losses, logits, labels, real = feeds
  features = {target.label_feature: labels, "is_real_example": real}
  metric_fn, tensors = collector.eval_metrics(losses, logits, features)
  pairs = metric_fn(*tensors)
  with tf.Session() as session:
    for batch in batches:
      session.run([u for _, u in pairs.values()], dict(zip(feeds, batch)))
    values = session.run({name: value for name, (value, _) in pairs.items()})
  return evaluation.tidy_results({"loss": 0.0, **values})


def batches_of(size, losses, labels, logits, weights):
  """Slices of `size` examples."""
  return [
    [
      column[start : start + size]
      for column in (losses, logits, labels, weights)
    ]
    for start in range(0, len(labels), size)
  ]


def draw_examples(labels, predictions, num_labels, seed=0):
  """Columns for `batches_of`: random losses, logits with that argmax."""
  numbers = np.random.RandomState(seed)
  logits = numbers.uniform(-1, 0, [len(labels), num_labels])
  logits[np.arange(len(labels)), predictions] += 2
  return [
    numbers.uniform(0, 3, len(labels)).astype(np.float32),
    np.asarray(labels),
    logits,
    np.ones(len(labels), np.int32),
  ]


RANDOM = np.random.RandomState(5)
CASES = {
  "random": (RANDOM.randint(0, 2, 53), RANDOM.randint(0, 2, 53)),
  "perfect": ([0, 1, 1, 0], [0, 1, 1, 0]),
  "all wrong": ([0, 1, 1, 0], [1, 0, 0, 1]),
  "1 never predicted": ([0, 1, 1, 0, 0], [0] * 5),
  "0 never predicted": ([0, 1, 1, 0, 0], [1] * 5),
  "1 never present": ([0] * 5, [0, 1, 1, 0, 0]),
  "0 never present": ([1] * 5, [0, 1, 1, 0, 0]),
  "1 nowhere": ([0] * 5, [0] * 5),
  "one example": ([1], [0]),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
  "metric, oracle",
  [
    ("f1", lambda y, p: metrics.f1_score(y, p, zero_division=0)),
    ("matthews_correlation", metrics.matthews_corrcoef),
  ],
)
def test_metrics_of_two_classes_equal_scikit_learn(case, metric, oracle):
  labels, predictions = CASES[case]
  batches = batches_of(7, *draw_examples(labels, predictions, 2))
  results = evaluate(batches, 2, metrics=[metric])
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of a class that is not there
    expected = oracle(labels, predictions)
  assert results[f"eval_{metric}"] == pytest.approx(expected, abs=1e-6)
  expected = metrics.accuracy_score(labels, predictions)
  assert results["eval_accuracy"] == pytest.approx(expected, abs=1e-6)


def test_matthews_correlation_of_many_classes_equals_scikit_learn():
  labels, predictions = np.random.RandomState(6).randint(0, 4, [2, 90])
  labels[:40] = predictions[:40]
  batches = batches_of(16, *draw_examples(labels, predictions, 4))
  results = evaluate(batches, 4, metrics=["matthews_correlation"])
  expected = metrics.matthews_corrcoef(labels, predictions)
  assert results["eval_matthews_correlation"] == pytest.approx(
    expected, abs=1e-6
  )


def test_examples_of_weight_zero_count_for_nothing():
  labels, predictions = np.random.RandomState(7).randint(0, 2, [2, 40])
  columns = draw_examples(labels, predictions, 2)
  real = np.arange(40) < 29
  columns[-1] = real.astype(np.int32)
  results = evaluate(batches_of(8, *columns), 2, metrics=["f1"])
  expected = {
    "eval_accuracy": metrics.accuracy_score(labels[real], predictions[real]),
    "eval_loss": columns[0][real].mean(),
    "eval_f1": metrics.f1_score(labels[real], predictions[real]),
    "loss": np.mean(
      [columns[0][real][i : i + 8].mean() for i in range(0, 29, 8)]
    ),
  }
  assert results == pytest.approx(expected, rel=1e-5)


def draw(target, count, seed=0):
  """Columns for `batches_of`: random logits and labels, every third fills."""
  numbers = np.random.RandomState(seed)
  logits = numbers.normal(size=[count, target.width]).astype(np.float32)
  labels = np.float32(logits + numbers.normal(size=logits.shape) > 0)
  if isinstance(target, targets.Number):
    labels = np.float32(logits[:, 0] + numbers.normal(size=count))
  real = (np.arange(count) % 3 > 0).astype(np.int32)
  return [target.losses(logits, labels), labels, logits, real]


@pytest.mark.parametrize("size", [1, 7, 40])
def test_several_classes_in_batches_equal_scikit_learn(size):
  target = targets.SeveralClasses("abcd", 0.4)
  columns = draw(target, 40)
  results = evaluate(
    batches_of(size, *columns), target, metrics=["roc_auc", "micro_f1"]
  )
  losses, labels, logits, _ = (column[columns[-1] == 1] for column in columns)
  decided = logits >= np.log(0.4 / 0.6)
  expected = {
    "eval_accuracy": np.mean((labels == decided).all(axis=1)),
    "eval_micro_f1": metrics.f1_score(labels, decided, average="micro"),
    "eval_macro_f1": metrics.f1_score(labels, decided, average="macro"),
    "eval_roc_auc": metrics.roc_auc_score(labels, logits),
    "eval_loss": losses.mean(),
    "loss": np.mean([losses[i : i + 8].mean() for i in range(0, 26, 8)]),
  }
  assert results == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("size", [1, 7, 40])
def test_numbers_in_batches_equal_scipy(size):
  target = targets.Number()
  columns = draw(target, 40)
  results = evaluate(batches_of(size, *columns), target, metrics=["mse"])
  losses, labels, logits, _ = (column[columns[-1] == 1] for column in columns)
  expected = {
    "eval_pearson": stats.pearsonr(labels, logits[:, 0])[0],
    "eval_spearman": stats.spearmanr(labels, logits[:, 0])[0],
    "eval_mse": metrics.mean_squared_error(labels, logits[:, 0]),
    "eval_rmse": np.sqrt(losses.mean()),
    "eval_mae": metrics.mean_absolute_error(labels, logits[:, 0]),
    "eval_loss": losses.mean(),
    "loss": np.mean([losses[i : i + 8].mean() for i in range(0, 26, 8)]),
  }
  assert results == pytest.approx(expected, rel=1e-5)


def test_what_is_undefined_is_left_out_of_results_and_said(info):
  target = targets.Number()
  columns = draw(target, 12)
  columns[2][:] = 0.5
  results = evaluate(batches_of(5, *columns), target)
  assert set(results) == {"eval_rmse", "eval_mae", "eval_loss", "loss"}
  said = [r.getMessage() for r in info.records if r.levelname == "WARNING"]
  assert said == [
    f"{name} is undefined and left out: all predictions are 0.5"
    for name in ("pearson", "spearman")
  ]


def true_labels(target, golds, logits):
  truth = predictions.TrueLabels(target)
  for gold, row in zip(golds, np.float32(logits)):
    truth.add(gold, {"logits": row})
  return truth


def test_true_labels_of_several_classes_are_measured_as_in_an_evaluation():
  target = targets.SeveralClasses("ab")
  losses, labels, logits, real = draw(target, 20)
  golds = ["|".join(np.array(["a", "b"])[row == 1]) for row in labels]
  batches = batches_of(9, losses, labels, logits, real**0)
  assert_measured_alike(target, golds, logits, batches)


def test_true_numbers_are_measured_as_in_an_evaluation():
  target = targets.Number()
  losses, labels, logits, real = draw(target, 20)
  batches = batches_of(9, losses, labels, logits, real**0)
  assert_measured_alike(target, map(str, labels), logits, batches)


def assert_measured_alike(target, golds, logits, batches):
  found = true_labels(target, golds, logits).measure([], 8)
  expected = {
    key.replace("eval_", "test_"): value
    for key, value in evaluate(batches, target).items()
  }
  assert found == pytest.approx(expected, rel=1e-5)


def test_true_labels_that_are_none_are_counted_and_left_out(info):
  golds = ["yes", "-", "", "no", "-", None]
  logits = [[0, 1], [1, 0], [1, 0], [0, 1], [1, 0], [1, 0]]
  results = true_labels(TARGET, golds, logits).measure(["f1"], 8)
  cross_entropy = np.log(1 + np.exp([-1, 1]))
  assert results == pytest.approx(
    {
      "test_accuracy": 0.5,
      "test_f1": 2 / 3,
      "test_loss": cross_entropy.mean(),
      "loss": cross_entropy.mean(),
    }
  )
  assert (
    "3 of 5 true labels of the test set are none of the task's, such as"
    in (info.messages[0])
  )
  assert "'-'" in info.messages[0]
  assert info.messages[1].startswith("accuracy 0.5000 of 2 examples")
  assert true_labels(TARGET, ["-", None], logits).measure([], 8) == {}


def test_results_of_a_test_set_without_true_labels_do_not_stay(tmp_path):
  path = evaluation.write_results(
    str(tmp_path), "test_mismatched", {"test_accuracy": np.float32(0.1)}
  )
  assert path == str(tmp_path / "test_results_mismatched.txt")
  assert Path(path).read_text() == "test_accuracy = 0.1\n"
  for _ in range(2):
    evaluation.write_results(str(tmp_path), "test_mismatched", {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("computed", [8, 16, 24, 64])
def test_loss_is_the_mean_of_means_of_eight_examples(computed):
  columns = draw_examples([0] * 53, [0] * 53, 2)
  results = evaluate(batches_of(computed, *columns), 2, loss_batch_size=8)
  means = [columns[0][i : i + 8].mean() for i in range(0, 53, 8)]
  assert results["loss"] == pytest.approx(np.mean(means), rel=1e-5)
  assert results["eval_loss"] == pytest.approx(columns[0].mean(), rel=1e-5)
  assert set(results) == {"eval_accuracy", "eval_loss", "loss"}


def judge(labels, decided):
  """Lets a collector log what it says of labels and decisions."""
  collector = evaluation.Collector(targets.OneClass(("no", "yes")))
  logits = np.eye(2, dtype=np.float32)[decided]
  collector.add(np.ones(len(labels)), logits, np.array(labels), np.ones(50))
  collector.end(None)
  return collector


def test_the_accuracy_is_logged_beside_the_share_of_the_majority(info):
  judge([0] * 20 + [1] * 30, [0] * 15 + [1] * 35)
  assert info.messages == [
    "accuracy 0.9000 of 50 examples; to predict 'yes' for all of them gives"
    " 0.6000"
  ]


@pytest.mark.parametrize("others", [0, 1])
def test_predictions_of_nearly_one_class_are_warned_of(info, others):
  collector = judge([0, 1] * 25, [1] * (50 - others) + [0] * others)
  assert {r.levelname for r in info.records} == {"INFO"}  # nothing on the way
  evaluation.warn_of_one_answer(collector.target, collector.join_batches())
  warned = [r.getMessage() for r in info.records if r.levelname == "WARNING"]
  assert len(warned) == 1
  assert warned[0].startswith(f"{50 - others} of 50 predictions are 'yes': ")


@pytest.mark.parametrize(
  ("labels", "decided"),
  [([0, 1] * 25, [1] * 48 + [0] * 2), ([1] * 50, [1] * 50)],
  ids=["two of another class", "labels of one class"],
)
def test_ordinary_predictions_are_not_warned_of(info, labels, decided):
  collector = judge(labels, decided)
  evaluation.warn_of_one_answer(collector.target, collector.join_batches())
  assert [r.levelname for r in info.records] == ["INFO"]


def test_decisions_by_numbers_that_are_not_finite_are_not_judged(info):
  collector = evaluation.Collector(targets.SeveralClasses(("a", "b")))
  logits = np.full([30, 2], np.nan, np.float32)
  truth = np.array([[0, 1], [1, 0]] * 15)
  collector.add(np.ones(30), logits, truth, np.ones(30))
  collector.end(None)
  assert not [said for said in info.messages if "predict" in said]


def test_written_predictions_of_one_class_are_warned_of(tmp_path, info):
  outputs = [{"probabilities": np.float32([0.4, 0.6])}] * 30
  examples = [InputExample(f"test-{n}", "t") for n in range(30)]
  target = targets.OneClass(("no", "yes"))
  predictions.write_predictions(
    str(tmp_path), "test", iter(examples), outputs, target
  )
  (said,) = info.messages
  assert said.startswith("30 of 30 predictions are 'yes': ")


def test_a_collector_begins_anew_with_each_session():
  collector = evaluation.Collector(TARGET)
  for _ in range(2):
    collector.after_create_session(None, None)
    columns = draw_examples([0, 1], [0, 0], 2)
    losses, labels, logits, real = columns
    collector.add(losses, logits, labels, real)
    assert len(collector.join_batches().losses) == 2


def test_results_keep_their_loss_where_no_other_was_measured():
  assert evaluation.tidy_results({"loss": 0.5}) == {"loss": 0.5}


def test_results_are_sorted_lines_with_numbers_of_eight_digits(tmp_path):
  path = evaluation.write_results(
    str(tmp_path),
    "dev",
    {
      "loss": np.float32(1.1),
      "global_step": np.int64(343),
      "eval_accuracy": np.float32(0.845588),
    },
    "out/model.ckpt-343",
  )
  assert Path(path).read_text() == (
    "eval_accuracy = 0.845588\nglobal_step = 343\nloss = 1.1\n"
  )


TARGET = targets.OneClass(["no", "yes"])


def outputs(probabilities):
  return ({"probabilities": each} for each in np.float32(probabilities))


def write_predictions(tmp_path, examples, probabilities, target=TARGET):
  """Returns the two files' lines, split into cells."""
  paths = predictions.write_predictions(
    str(tmp_path), "test", examples, outputs(probabilities), target
  )
  return [
    [line.split("\t") for line in Path(path).read_text().split("\n")[:-1]]
    for path in paths
  ]


def test_predictions_say_of_what_they_are(tmp_path):
  examples = [
    InputExample("test-1", "a", "b", row_id="77", gold="yes"),
    InputExample("test-2", "c\td", None, gold="no"),
  ]
  results, predictions = write_predictions(
    tmp_path, examples, [[0.1, 0.9], [0.7, 0.3]]
  )
  assert results == [["0.1", "0.9"], ["0.7", "0.3"]]
  assert predictions == [
    ["id", "text_a", "text_b", "gold", "label", "probability"]
    + ["probability_no", "probability_yes"],
    ["77", "a", "b", "yes", "yes", "0.9", "0.1", "0.9"],
    ["test-2", "c d", "", "no", "no", "0.7", "0.7", "0.3"],
  ]


def measure_writing(folder, count):
  """Writes so many predictions; returns peak bytes, most outputs alive."""
  alive, most = weakref.WeakSet(), 0

  class Output(dict):
    __hash__ = object.__hash__

  def examples():
    for i in range(count):
      yield InputExample(f"test-{i}", "a" * 100, None)

  def split():
    nonlocal most
    batch = np.full([8, 2], 0.5, np.float32)
    for _ in range(count // 8):
      for output in predictions.split_outputs({"probabilities": batch}, "w"):
        output = Output(output)
        alive.add(output)
        most = max(most, len(alive))
        yield output

  tracemalloc.start()
  predictions.write_predictions(
    str(folder), "test", examples(), split(), TARGET
  )
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  return peak, most


def test_predictions_are_written_in_constant_memory(tmp_path):
  measure_writing(tmp_path, 80)  # what is imported and kept once
  few, _ = measure_writing(tmp_path, 800)
  many, alive = measure_writing(tmp_path, 8000)
  # 7,200 examples and outputs that were held would be over 3 MB.
  assert many - few < 100_000
  assert alive <= 16


def test_no_id_text_or_label_breaks_a_line_of_predictions(tmp_path):
  odd = "a\tb\nc\r\nd\x85e\u2028f\n"
  example = InputExample(odd, odd, odd, row_id=odd, gold=odd)
  target = targets.OneClass(["no", "y\te\ns"])
  _, (header, *lines) = write_predictions(
    tmp_path, [example], [[0.1, 0.9]], target
  )
  assert header[-2:] == ["probability_no", "probability_y e s"]
  assert lines == [["a b c d e f"] * 4 + ["y e s", "0.9", "0.1", "0.9"]]


def test_predictions_have_no_gold_column_where_the_file_has_none(tmp_path):
  _, predictions = write_predictions(
    tmp_path, [InputExample("test-1", "a\u2028b\rc")], [[0.5, 0.5]]
  )
  assert "gold" not in predictions[0]
  assert predictions[1][:4] == ["test-1", "a b c", "", "no"]


@pytest.mark.parametrize(
  "number, count, words",
  [(2, 1, "after 1 there are more exam"), (2, 3, "after 2 there are more pre")],
)
def test_predictions_of_other_examples_are_kept_without_texts(
  tmp_path, number, count, words
):
  examples = [InputExample(f"test-{i}", "a") for i in range(number)]
  with pytest.raises(UserError, match=words):
    write_predictions(tmp_path, examples, [[0.25, 0.75]] * count)
  (path,) = tmp_path.iterdir()
  assert path.name == "test_results.tsv"
  assert path.read_text() == "0.25\t0.75\n" * count


@pytest.mark.parametrize(
  "error", [UserError("test.tsv changed"), OSError("test.tsv changed")]
)
def test_texts_that_changed_leave_the_results_alone(tmp_path, error):
  def changed():
    yield InputExample("test-1", "a")
    raise error

  (tmp_path / "test_predictions.tsv").write_text("of an earlier run")
  with pytest.raises(UserError, match="test.tsv changed"):
    write_predictions(tmp_path, changed(), [[0.25, 0.75]] * 3)
  (path,) = tmp_path.iterdir()
  assert path.name == "test_results.tsv"
  assert path.read_text() == "0.25\t0.75\n" * 3


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_no_results(number):
  with pytest.raises(UserError, match="model.ckpt-7 give numbers that are not"):
    evaluation.check_finite({"eval_loss": np.float32(number)}, "model.ckpt-7")
  batch = {"probabilities": np.float32([[0.5, 0.5], [number, 0.5]])}
  counter = progress.Counter("predicted", 2)
  with pytest.raises(UserError, match="no prediction: the weights of model.c"):
    list(predictions.split_batches([batch], "model.ckpt-7", counter))


def test_predictions_that_fail_leave_no_file(tmp_path):
  def failing():
    yield from outputs([[0.4, 0.6]])
    raise RuntimeError("out of memory")

  examples = [InputExample(f"test-{i}", "a") for i in range(2)]
  with pytest.raises(RuntimeError):
    predictions.write_predictions(
      str(tmp_path), "test", examples, failing(), TARGET
    )
  assert not list(tmp_path.iterdir())


def test_a_test_set_reversed_during_the_run_gives_results_without_texts(
  classify, golden_task, tmp_path, monkeypatch
):
  data = tmp_path / "data"
  shutil.copytree(f"{golden_task}/data", data)
  predict = run_classifier.predict

  def reverse_and_predict(*arguments):
    header, *lines = (data / "test.tsv").read_text().splitlines()
    (data / "test.tsv").write_text("\n".join([header, *lines[::-1]]) + "\n")
    return predict(*arguments)

  monkeypatch.setattr(run_classifier, "predict", reverse_and_predict)
  out = tmp_path / "out"
  flags = dict(data_dir=data, cache_dir=tmp_path / "cache", output_dir=out)
  outcome = classify("--do_predict", **flags)
  assert outcome.status == 1
  assert f"{data}/test.tsv" in outcome.log.splitlines()[-1]
  assert not (out / "test_predictions.tsv").exists()
  found, expected = (
    np.loadtxt(folder / "test_results.tsv")
    for folder in (out, Path(golden_task))
  )
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
