"""Which weights are used where several are named, and what they mean."""

from pathlib import Path
import shutil

from conftest import read_results
import pytest

from bert_classifier import catalogue


@pytest.fixture(scope="module")
def flags(small_model):
  return dict(
    small_model,
    train_batch_size=8,
    save_checkpoints_steps=4,
    learning_rate=1e-2,
  )


@pytest.fixture(scope="module")
def trained(classify, flags, tmp_path_factory):
  """A folder with all checkpoints of a training: steps 0, 4, 8, 12, 13."""
  out = tmp_path_factory.mktemp("trained") / "out"
  done = classify("--do_train", output_dir=out, keep_checkpoint_max=0, **flags)
  assert done.status == 0, done.log
  return out


@pytest.fixture
def out(trained, tmp_path):
  """A copy of that folder."""
  return Path(shutil.copytree(trained, tmp_path / "out"))


def evaluate(classify, flags, out, init_checkpoint):
  """Outcome and results of an evaluation with weights that are named."""
  flags = {**flags, "init_checkpoint": init_checkpoint}
  outcome = classify("--do_eval", output_dir=out, **flags)
  path = out / "eval_results.txt"
  return outcome, read_results(path) if path.exists() else None


def test_a_checkpoint_named_in_output_dir_is_the_one_that_is_used(
  classify, flags, out
):
  losses = set()
  for step in (4, 8, 13):
    path = out / f"model.ckpt-{step}"
    outcome, results = evaluate(classify, flags, out, path)
    assert outcome.status == 0, outcome.log
    assert f"weights: {path}, step {step}" in outcome.log
    assert results["global_step"] == step
    losses.add(results["eval_loss"])
  assert len(losses) == 3
  _, newest = evaluate(classify, flags, out, None)
  assert newest["global_step"] == 13 and newest["eval_loss"] in losses


def test_predictions_are_of_the_checkpoint_that_is_named(classify, flags, out):
  found = set()
  for step in (4, 13):
    named = {**flags, "init_checkpoint": out / f"model.ckpt-{step}"}
    assert classify("--do_predict", output_dir=out, **named).status == 0
    found.add((out / "test_results.tsv").read_text())
  assert len(found) == 2


def test_weights_that_training_began_with_give_way_to_trained_ones(
  classify, flags, out
):
  # They have a head of the task's size, so their shapes tell nothing.
  outcome, results = evaluate(classify, flags, out, flags["init_checkpoint"])
  assert outcome.status == 0 and results["global_step"] == 13


def test_a_trained_classifier_from_elsewhere_is_not_passed_over(
  classify, flags, out, trained
):
  named = trained / "model.ckpt-4"
  outcome, results = evaluate(classify, flags, out, named)
  assert outcome.status == 1 and results is None
  assert f"--init_checkpoint={named} is a trained classifier" in outcome.log
  assert "leave out --init_checkpoint to use that of" in outcome.log


def test_what_weights_mean_is_never_resumed_with_other_values(
  classify, flags, out, monkeypatch
):
  class Swapped(catalogue.MrpcProcessor):
    labels = ("1", "0")

  monkeypatch.setitem(catalogue.PROCESSORS, "mrpc", Swapped)
  for resume in ([], ["--resume"]):
    outcome = classify("--do_eval", *resume, output_dir=out, **flags)
    assert outcome.status == 1
    last = outcome.log.splitlines()[-1]
    assert "labels was ['0', '1'] and is ['1', '0']" in last
    assert "sort them" in last and "--resume" not in last


def test_another_length_can_be_resumed(classify, flags, out):
  longer = {**flags, "max_seq_length": 30}
  refused = classify("--do_eval", output_dir=out, **longer)
  assert refused.status == 1 and "or --resume to go on with" in refused.log
  assert classify("--do_eval", "--resume", output_dir=out, **longer).status == 0
