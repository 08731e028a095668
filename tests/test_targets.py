"""Targets: one class of L, and a kind that only this test knows."""

import collections

from conftest import read_results, read_table
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import catalogue, evaluation, targets
from bert_classifier.errors import UserError
from bert_classifier.tasks import Table

LABELS = ("no", "yes", "perhaps")


def test_one_class_is_encoded_by_its_place():
  target = targets.OneClass(LABELS)
  assert target.width == 3
  assert [target.encode(label) for label in LABELS] == [0, 1, 2]
  assert target.encode(None) == 0
  with pytest.raises(ValueError, match="'maybe' is not one of 'no', 'yes', 'p"):
    target.encode("maybe")


def test_classes_are_counted_by_their_names():
  target = targets.OneClass(LABELS)
  counts = target.count_classes(np.array([2, 0, 2, 2]))
  assert counts == {"no": 1, "perhaps": 3}
  probabilities = np.float32([0.1, 0.7, 0.2])
  assert target.predicted_label({"probabilities": probabilities}) == "yes"


@pytest.mark.parametrize(
  "labels", [("a", "a"), ("a", "b", "a"), ("a",), (), ("a", None), (0.5, 1)]
)
def test_labels_are_two_or_more_different_strings(labels):
  with pytest.raises(UserError, match="labels of Mine .* different strings"):
    targets.OneClass(labels).check("Mine")
  targets.OneClass(("a", "b")).check("Mine")


@pytest.mark.parametrize(
  "labels", [(0, 1), np.array([0, 1]), np.array(["0", "1"]), [b"0", b"1"]]
)
def test_labels_that_plainly_are_text_are_taken_for_it(labels):
  target = targets.OneClass(labels)
  target.check("Mine")
  assert target.settings() == {"labels": ["0", "1"]}
  assert [type(label) for label in target.labels] == [str, str]
  assert [target.encode(label) for label in labels] == [0, 1]
  with pytest.raises(
    ValueError, match=r"label 1.0 \(float\) is not one of '0'"
  ):
    target.encode(1.0)
  with pytest.raises(ValueError, match=r"label \['0'\] \(list\) is not one"):
    target.encode(["0"])


@pytest.mark.parametrize(
  "label", ["1\n", "1\r\n", "\ufeff1", "1\xa0", "1\u200b", "\t1"]
)
def test_an_invisible_end_of_a_label_is_shown(label):
  with pytest.raises(UserError) as error:
    targets.OneClass(["0", label]).check("Mine")
  assert f"the label {label!r} of Mine begins or ends with" in str(error.value)
  with pytest.raises(ValueError) as error:
    targets.OneClass(["0", "1"]).encode(label)
  assert str(error.value) == f"the label {label!r} is not one of '0', '1'"


def test_of_many_labels_an_error_shows_ten():
  target = targets.OneClass(range(10000))
  with pytest.raises(ValueError) as error:
    target.encode("no")
  assert str(error.value).endswith("'9' and 9990 more (10000 in all)")


def test_the_loss_of_one_class_is_the_cross_entropy(run):
  logits = np.random.default_rng(3).normal(size=[5, 3])
  labels = np.array([0, 2, 1, 1, 0])
  target = targets.OneClass(LABELS)
  found, probabilities = run(
    [
      target.per_example_loss(
        tf.constant(logits), {"label_ids": tf.constant(labels)}
      ),
      target.outputs(tf.constant(logits))["probabilities"],
    ]
  )
  exponents = np.exp(logits)
  expected = exponents / exponents.sum(axis=1, keepdims=True)
  np.testing.assert_allclose(probabilities, expected, rtol=1e-12)
  expected = -np.log(expected[np.arange(5), labels])
  np.testing.assert_allclose(found, expected, rtol=1e-12)
  np.testing.assert_array_equal(target.decide(logits), logits.argmax(axis=1))


class Number:
  """A number, with the squared error."""

  width = 1
  labels = ()
  metrics = ("negated_error",)
  label_feature = "label_numbers"

  def check(self, owner):
    pass

  def settings(self):
    return {"labels": [], "kind": "number"}

  def feature_spec(self):
    return {"label_numbers": tf.FixedLenFeature([], tf.float32)}

  def encode(self, label):
    return 0.0 if label is None else float(label)

  def features(self, value):
    return {"label_numbers": [value]}

  def per_example_loss(self, logits, features):
    return tf.square(logits[:, 0] - features["label_numbers"])

  def decide(self, logits):
    return logits[:, 0]

  def count_classes(self, values):
    return collections.Counter()

  def predicted_label(self, outputs):
    return None

  def outputs(self, logits):
    return {"values": logits[:, 0]}

  def prediction_header(self):
    return ["value"]

  def prediction_cells(self, outputs):
    return [str(outputs["values"])]

  result_cells = prediction_cells


class Scores(catalogue.DataProcessor):
  """Texts with a number of their own."""

  tables = {
    split: Table(f"{split}.tsv", header=True, text_a="text", label="score")
    for split in ("train", "dev")
  }
  tables["test"] = Table("test.tsv", header=True, text_a="text", gold="score")

  def get_target(self):
    return Number()


@pytest.fixture
def scores(tmp_path):
  """Folder of the task's files; each word has a number."""
  numbers = {"caa": -1.5, "ikm": 0.25, "pex": 2.0}
  lines = [f"{word}\t{number}\n" for word, number in numbers.items()] * 16
  for split in ("train", "dev", "test"):
    (tmp_path / f"{split}.tsv").write_text("text\tscore\n" + "".join(lines))
  return tmp_path


def test_a_number_is_trained_evaluated_and_predicted(
  classify, small_model, scores, monkeypatch
):
  def negated_error(labels, decided):
    return -np.mean(np.abs(labels - decided))

  monkeypatch.setitem(evaluation.METRICS, "negated_error", negated_error)
  monkeypatch.setitem(catalogue.PROCESSORS, "scores", Scores)
  out = scores / "out"
  outcome = classify(
    "--do_train",
    "--do_eval",
    "--do_predict",
    "--reinit_head",
    task_name="scores",
    data_dir=scores,
    cache_dir=scores / "cache",
    output_dir=out,
    train_batch_size=8,
    num_train_epochs=20,
    learning_rate=1e-3,
    **small_model,
  )
  assert outcome.status == 0, outcome.log
  header, *cells = read_table(out / "test_predictions.tsv")
  assert header == ["id", "text_a", "text_b", "gold", "value"]
  truth, predicted = (np.float32([c[i] for c in cells]) for i in (3, 4))
  assert np.corrcoef(truth, predicted)[0, 1] > 0.9
  plain = (out / "test_results.tsv").read_text().split()
  assert plain == [c[4] for c in cells]
  found = read_results(out / "eval_results.txt")
  assert set(found) == {
    *["eval_loss", "eval_negated_error", "global_step", "loss"]
  }
  # The dev set is the test set.
  assert found["eval_loss"] == pytest.approx(
    np.mean((truth - predicted) ** 2), rel=1e-3
  )
  assert found["eval_negated_error"] == pytest.approx(
    -np.mean(np.abs(truth - predicted)), rel=1e-3
  )
