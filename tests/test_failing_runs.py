"""Runs that end early: interrupted, numbers that are not finite, bugs."""

from types import SimpleNamespace

from conftest import (
  read_checkpoint,
  write_checkpoint,
)
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import (
  advice,
  errors,
  preparation,
  progress,
)
import run_classifier


@pytest.mark.parametrize(
  ("changes", "step", "words"),
  [
    ({}, 6, "the same command goes on from step 4"),
    ({"overwrite_output_dir": True}, 6, "without --overwrite_output_dir goes"),
    ({}, 2, "the same command begins again"),
    ({"do_train": False, "do_eval": True}, 0, "the same command begins again"),
  ],
)
def test_ctrl_c_says_what_comes_next(
  training, classify, tmp_path, monkeypatch, changes, step, words
):
  def interrupt(*_):
    raise KeyboardInterrupt

  def interrupt_at_step(self, run_context, run_values):
    self.steps_seen = getattr(self, "steps_seen", 0) + 1
    if self.steps_seen == step:
      raise KeyboardInterrupt

  if step:
    hook = progress.ProgressHook
    monkeypatch.setattr(hook, "after_run", interrupt_at_step)
  else:
    monkeypatch.setattr(run_classifier, "make_estimator", interrupt)
  flags = {**training, **changes}
  outcome = classify(output_dir=tmp_path / "out", **flags)
  assert outcome.status == 130
  assert words in outcome.log.splitlines()[-1]


def test_a_loss_that_is_no_number_ends_with_advice(
  training, classify, tmp_path
):
  flags = dict(training, learning_rate=1e30, output_dir=tmp_path / "out")
  outcome = classify(**flags)
  assert outcome.status == 1
  assert "--learning_rate=1e+30 is too high: train from" in outcome.log
  assert tf.train.latest_checkpoint(flags["output_dir"]).endswith("ckpt-0")


def test_an_update_that_explodes_in_the_last_step_is_not_saved(
  training, classify, tmp_path
):
  flags = dict(training, learning_rate=3e38, num_train_epochs=0.25)
  outcome = classify(output_dir=tmp_path, **flags)  # a single step
  assert outcome.status == 1 and "trained up to" not in outcome.log
  said = outcome.log.splitlines()[-1]
  assert "after step 1 these variables hold NaN or infinity: bert/" in said
  assert "--learning_rate=3e+38 is too high" in said
  assert f"stays {tmp_path}/model.ckpt-0" in said
  assert [p.name for p in tmp_path.glob("*.index")] == ["model.ckpt-0.index"]


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e38])
def test_weights_that_give_no_number_are_named_before_any_step(
  training, classify, tmp_path, number
):
  variables = read_checkpoint(training["init_checkpoint"] / "bert_model.ckpt")
  for name in ("query", "key"):  # 1e38 is finite, but no product of it
    kernel = f"bert/encoder/layer_0/attention/self/{name}/kernel"
    variables[kernel][0] = number
  (tmp_path / "weights").mkdir()
  write_checkpoint(tmp_path / "weights" / "model.ckpt", variables)
  flags = {**training, "init_checkpoint": tmp_path / "weights"}
  outcome = classify(output_dir=tmp_path / "out", **flags)
  assert outcome.status == 1 and "step 2/" not in outcome.log
  said = outcome.log.splitlines()[-1]
  assert (
    f"Nothing was trained yet: that is what the weights of {tmp_path}/wei"
    in said
  )
  assert "learning_rate" not in said


@pytest.mark.parametrize(
  ("updates", "warmup_steps", "blamed"),
  [(0, 0, "weights"), (1, 5, "weights"), (1, 0, "rate"), (2, 5, "rate")],
)
def test_a_rate_is_blamed_only_for_updates_that_it_made(
  updates, warmup_steps, blamed
):
  run = SimpleNamespace(
    first_step=0,
    found=SimpleNamespace(checkpoint=None),
    weights=SimpleNamespace(init_checkpoint=SimpleNamespace(path="a/b")),
    schedule=SimpleNamespace(warmup_steps=warmup_steps),
    options=SimpleNamespace(training=SimpleNamespace(learning_rate=1.0)),
  )
  words = {"weights": "the weights of a/b give", "rate": "1.0 is too high"}
  with (
    pytest.raises(errors.UserError, match=words[blamed]),
    advice.explain_not_finite(run),
  ):
    raise errors.NotFiniteError("the loss is nan", updates)


@pytest.mark.parametrize("place", ["prepare_task", "make_schedule"])
def test_a_bug_keeps_its_traceback_and_exits_with_70(
  training, classify, tmp_path, monkeypatch, capsys, place
):
  monkeypatch.setattr(preparation, place, lambda *_: [].index(3))
  outcome = classify(output_dir=tmp_path / "out", **training)
  assert outcome.status == 70
  assert "this is a bug" in outcome.log
  assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("error", "status", "words"),
  [
    (ValueError("3 is not in list"), 70, "this is a bug"),
    (errors.UserError("give another"), 1, "give another"),
    (OSError(28, "No space left on device"), 1, "No space left on device"),
    (MemoryError(), 1, "memory free is exhausted: 8 examples"),
    (tf.errors.DataLossError(None, None, "truncated"), 1, "truncated"),
  ],
)
def test_errors_while_training_are_told_apart(
  training, classify, tmp_path, monkeypatch, capsys, error, status, words
):
  def fail(*_):
    raise error

  monkeypatch.setattr(progress.ProgressHook, "after_run", fail)
  outcome = classify(output_dir=tmp_path / "out", **training)
  assert outcome.status == status
  assert words in outcome.log.splitlines()[-1]
  assert ("Traceback" in capsys.readouterr().err) == (status == 70)
