"""Calibration: the temperature against NumPy, kept with its weights."""

import json

from conftest import read_results, read_table
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import (
  calibration,
  evaluation,
  options,
  preparation,
  targets,
)
from bert_classifier.errors import UserError


def softmax(logits):
  return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def sigmoid(logits):
  return 1 / (1 + np.exp(-logits))


def loss_of_one_class(logits, labels):
  chosen = softmax(logits)[np.arange(len(labels)), labels]
  return -np.log(chosen).mean()


def loss_of_several_classes(logits, labels):
  return np.logaddexp(0, np.where(labels == 1, -logits, logits)).mean()


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
@pytest.mark.parametrize(
  ("target", "measure"),
  [
    (targets.OneClass("abc"), loss_of_one_class),
    (targets.SeveralClasses("abc"), loss_of_several_classes),
  ],
)
def test_no_other_temperature_has_a_lower_loss(target, measure, scale):
  numbers = np.random.RandomState(3)
  true_logits = numbers.normal(size=[400, 3]) * 2
  if target.label_feature == "label_vector":
    labels = np.float32(numbers.uniform(size=[400, 3]) < sigmoid(true_logits))
  else:
    labels = np.array([numbers.choice(3, p=p) for p in softmax(true_logits)])
  logits = np.float32(true_logits * scale)
  found = calibration.fit_temperature(target, logits, labels)
  tried = np.geomspace(0.05, 20, 4001)
  losses = [measure(np.float64(logits) / one, labels) for one in tried]
  assert found == pytest.approx(tried[np.argmin(losses)], rel=3e-3)
  assert found == pytest.approx(scale, rel=0.25)  # which made the logits


def test_where_all_is_right_the_temperature_is_the_lowest_that_is_tried():
  logits, labels = np.eye(3, dtype="f"), np.arange(3)
  found = calibration.fit_temperature(targets.OneClass("abc"), logits, labels)
  assert found == pytest.approx(calibration.LOWEST, rel=1e-3)


@pytest.mark.parametrize(
  ("target", "squash"),
  [
    (targets.OneClass("abc"), softmax),
    (targets.SeveralClasses("abc"), sigmoid),
  ],
)
def test_probabilities_use_the_temperature_and_logits_do_not(
  run, target, squash
):
  logits = np.random.RandomState(1).normal(size=[4, 3]).astype("f")
  hot = target.calibrated(2.5)
  outputs = run(hot.outputs(tf.constant(logits)))
  expected = squash(np.float64(logits) / 2.5)
  np.testing.assert_allclose(outputs["probabilities"], expected, rtol=1e-5)
  np.testing.assert_allclose(hot.scores(logits), expected, rtol=1e-5)
  np.testing.assert_array_equal(outputs["logits"], logits)
  assert target.temperature == 1
  np.testing.assert_allclose(target.scores(logits), squash(logits), rtol=1e-5)


def test_the_threshold_is_held_against_calibrated_probabilities():
  target = targets.SeveralClasses("ab", threshold=0.7)
  collector = evaluation.Collector(target)
  logits, labels = np.float32([[1.0, -1], [3, 3]]), np.float32([[0, 0], [1, 1]])
  collector.add(np.zeros(2, "f"), logits, labels, np.ones(2))
  # sigmoid(1) is 0.73, sigmoid(1 / 2) 0.62, sigmoid(3 / 2) 0.82.
  assert collector.change_target(target)["eval_accuracy"] == 0.5
  hot = target.calibrated(2.0)
  assert collector.change_target(hot)["eval_accuracy"] == 1.0


# ---------------------------------------------------------------------------
# The whole script


@pytest.fixture(scope="module")
def calibrated(classify, small_model, tmp_path_factory):
  """Returns the folders of a run without a temperature, and of one with it."""
  folder = tmp_path_factory.mktemp("calibrated")
  for name, flags in (
    ("plain", {}),
    ("hot", dict(do_eval=True, calibrate=True, eval_report=True)),
  ):
    done = classify(
      **small_model, **flags, do_predict=True, output_dir=folder / name
    )
    assert done.status == 0, done.log
  return folder / "plain", folder / "hot"


def prepare(classify, small_model, folder, **flags):
  """Returns the run that a later command prepares."""
  asked = {**classify.defaults, **small_model, "output_dir": folder, **flags}
  asked = {
    name: value if isinstance(value, (bool, int)) else str(value)
    for name, value in asked.items()
  }
  return preparation.prepare(options.make_options(do_predict=True, **asked))


def test_predictions_are_those_of_the_temperature(calibrated):
  plain, hot = calibrated
  kept = json.loads((hot / "calibration.json").read_text())
  assert kept["temperature"] != pytest.approx(1, abs=0.01)
  before, after = (
    np.float64(read_table(folder / "test_results.tsv")) for folder in calibrated
  )
  expected = softmax(np.log(before) / kept["temperature"])
  np.testing.assert_allclose(after, expected, rtol=1e-4)


def test_the_report_shows_before_and_after(calibrated):
  _, hot = calibrated
  kept = json.loads((hot / "calibration.json").read_text())
  found = json.loads((hot / "eval_report.json").read_text())["calibration"]
  loss = read_results(hot / "eval_results.txt")["eval_loss"]
  assert found["before"]["loss"] == pytest.approx(loss, rel=1e-5)
  assert found["loss"] == pytest.approx(kept["loss after"], rel=1e-5)
  assert found["loss"] < found["before"]["loss"]
  assert found["error"] != found["before"]["error"]
  text = " ".join((hot / "eval_report.txt").read_text().split())
  assert f"is {100 * found['error']:.1f}%, the loss was {loss:.4f}" in text
  page = (hot / "eval_report.html").read_text(encoding="utf-8")
  assert "1, before" in page and f"{kept['temperature']:.4g}, after" in page


def test_a_later_command_uses_the_temperature_of_these_weights(
  calibrated, classify, small_model, tmp_path, info
):
  _, hot = calibrated
  kept = json.loads((hot / "calibration.json").read_text())
  run = prepare(classify, small_model, hot)
  assert run.task.target.temperature == kept["temperature"]
  assert (
    prepare(
      classify, small_model, hot, do_eval=True, calibrate=True
    ).task.target.temperature
    == 1
  )
  assert (
    prepare(
      classify, small_model, hot, do_train=True, train_batch_size=8
    ).task.target.temperature
    == 1
  )
  kept["weights (SHA-256)"] = "0" * 64
  (tmp_path / "calibration.json").write_text(json.dumps(kept))
  run = prepare(classify, small_model, tmp_path)
  assert run.task.target.temperature == 1
  assert "was fitted to other weights" in info.text


def test_a_temperature_of_texts_cut_otherwise_is_not_used(
  calibrated, classify, small_model, info
):
  _, hot = calibrated
  kept = json.loads((hot / "calibration.json").read_text())
  assert kept["texts cut by"] == {
    "max_seq_length": 24,
    "truncation": "head",
    "stride": 0,
    "window_pooling": "mean",
  }
  for flags, words in (
    (dict(max_seq_length=20), "--max_seq_length=24, now 20. It is not used"),
    (dict(stride=5), "--stride=0, now 5. It is not used"),
    (dict(truncation="tail"), "--truncation=head, now tail. It is not used"),
  ):
    run = prepare(classify, small_model, hot, **flags)
    assert run.task.target.temperature == 1
    assert words in info.text


def test_a_temperature_from_before_the_flags_were_kept_is_used(
  calibrated, classify, small_model, tmp_path
):
  _, hot = calibrated
  kept = json.loads((hot / "calibration.json").read_text())
  del kept["texts cut by"]
  (tmp_path / "calibration.json").write_text(json.dumps(kept))
  run = prepare(classify, small_model, tmp_path, max_seq_length=20)
  assert run.task.target.temperature == kept["temperature"]


@pytest.mark.parametrize("value", ["{}", "nonsense", '{"temperature": -1}'])
def test_a_damaged_file_is_an_error(classify, small_model, tmp_path, value):
  (tmp_path / "calibration.json").write_text(value)
  with pytest.raises(UserError, match=r"calibration\.json is damaged"):
    prepare(classify, small_model, tmp_path)


def test_there_must_be_a_dev_set_to_calibrate_by(
  classify, small_model, tmp_path
):
  with pytest.raises(UserError, match="--calibrate fits .*: add --do_eval"):
    prepare(classify, small_model, tmp_path, calibrate=True)
