"""sharing.py: lock, weights that are held, what killed processes left."""

import errno
import os
import re
import subprocess
import sys
import time
from types import SimpleNamespace

from conftest import GOLDEN, ROOT, read_results, write_checkpoint
import numpy as np
import pytest
from safetensors.numpy import save_file
import tensorflow.compat.v1 as tf

from bert_classifier import checkpoints, locks, output_dir, saving, sharing
from bert_classifier.errors import UserError


def test_one_process_trains_in_a_folder_at_a_time(tmp_path):
  with (
    locks.lock_for_training(str(tmp_path)),
    pytest.raises(UserError, match="another command is training in"),
    locks.lock_for_training(str(tmp_path)),
  ):
    pass
  with locks.lock_for_training(str(tmp_path)):
    pass


def test_commands_in_one_folder_convert_weights_apart(tmp_path):
  bias = np.arange(4, dtype=np.float32)
  weights = str(tmp_path / "model.safetensors")
  save_file({"bert.pooler.dense.bias": bias}, weights)
  checkpoint = checkpoints.open_checkpoint(weights)
  folder = tmp_path / "out"
  folder.mkdir()
  (folder / "eval_results.txt").write_text("")
  with sharing.convert_weights(str(folder), checkpoint) as first:
    with sharing.convert_weights(str(folder), checkpoint) as second:
      assert first != second
    read = tf.train.load_variable(first, "bert/pooler/dense/bias")
    np.testing.assert_array_equal(read, bias)
    assert not tf.train.checkpoint_exists(second)
  assert [p.name for p in folder.iterdir()] == ["eval_results.txt"]


def test_weights_in_tensorflows_form_are_used_where_they_are(tmp_path):
  golden = GOLDEN / "checkpoint"
  checkpoint = checkpoints.open_checkpoint(golden)
  with sharing.convert_weights(str(tmp_path), checkpoint) as prefix:
    assert prefix == str(golden / "bert_model.ckpt")
  with sharing.convert_weights(str(tmp_path), None) as prefix:
    assert prefix is None
  assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------
# Beside a training


def save_checkpoint(folder, step, number=0.0):
  """Does what a training that keeps one checkpoint does to its folder."""
  path = str(folder / f"model.ckpt-{step}")
  before = checkpoints.read_state(str(folder))
  write_checkpoint(path, {"w": np.float32([number])})
  saving.write_state([path])
  for part in saving.list_parts(before) if before else ():
    os.remove(part)
  return path


@pytest.mark.parametrize("links", [True, False])
def test_a_checkpoint_that_is_held_stays(tmp_path, monkeypatch, links):
  def refuse(*_):
    raise OSError(errno.EXDEV, "no links")

  if not links:
    monkeypatch.setattr(os, "link", refuse)
  first = save_checkpoint(tmp_path, 1, 1.0)
  hold = sharing.hold_checkpoint(str(tmp_path), first, newest=True)
  with hold as (path, held):
    save_checkpoint(tmp_path, 2, 2.0)
    assert path == first and not tf.io.gfile.exists(f"{first}.index")
    assert tf.train.load_variable(held, "w") == 1.0
    assert output_dir.step_of(held) == 1
  assert {p.name for p in tmp_path.iterdir()} == {
    *["checkpoint", "model.ckpt-2.index", "model.ckpt-2.data-00000-of-00001"]
  }


def test_the_newest_checkpoint_is_taken_where_it_was_replaced(tmp_path, info):
  first = save_checkpoint(tmp_path, 1, 1.0)
  found = output_dir.inspect(str(tmp_path))
  second = save_checkpoint(tmp_path, 2, 2.0)
  assert sharing.open_newest(found).path == second
  hold = sharing.hold_checkpoint(str(tmp_path), first, newest=True)
  with hold as (path, held):
    assert path == second and tf.train.load_variable(held, "w") == 2.0
  assert f"{first} was replaced by {second}, which is used" in info.text
  named = sharing.hold_checkpoint(str(tmp_path), first, newest=False)
  with pytest.raises(UserError, match="ckpt-1 is gone"), named:
    pass


def test_errors_name_given_weights_by_their_own_path(tmp_path):
  checkpoint = checkpoints.open_checkpoint(save_checkpoint(tmp_path, 1))
  weights = sharing.convert_weights(str(tmp_path / "out"), checkpoint)
  with pytest.raises(UserError, match=f"^{checkpoint.path}: bad"), weights as w:
    raise tf.errors.DataLossError(None, None, f"{w}: bad")
  assert w != checkpoint.path


def test_what_a_killed_run_left_goes_and_what_may_be_in_use_stays(tmp_path):
  digits = "0123456789abcdef" * 2
  left = [f"{n}.tmp{digits}" for n in ("graph.pbtxt", "model.ckpt-4.meta")]
  left += ["model.ckpt-4_temp/part", f"checkpoint.tmp{digits}"]
  old = ["converted_weights/converted.ckpt.index"]
  mine = ["graph.pbtxt.tmp", "model.ckpt-best_temp/part", "notes.tmp"]
  for name in left + old + mine:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("")

  def files_left():
    paths = (p for p in tmp_path.rglob("*") if p.is_file())
    return {str(path.relative_to(tmp_path)) for path in paths}

  sharing.remove_abandoned(str(tmp_path), is_locked=False)
  assert files_left() == {*left, *old, *mine}
  sharing.remove_abandoned(str(tmp_path), is_locked=True)
  assert files_left() == {*old, *mine}
  for path in (tmp_path / "converted_weights").rglob("*"):
    os.utime(path, (0, 0))
  os.utime(tmp_path / "converted_weights", (0, 0))
  sharing.remove_abandoned(str(tmp_path), is_locked=False)
  assert files_left() == {*mine}


def test_evaluations_beside_a_training_that_replaces_its_checkpoint(
  training, classify, small_model, tmp_path
):
  flags = {**classify.defaults, **training, "output_dir": tmp_path}
  flags.update(save_checkpoints_steps=1, log_steps=1000, num_train_epochs=1000)
  command = [f"--{name}={value}" for name, value in flags.items()]
  script = [sys.executable, ROOT / "run_classifier.py", *command]
  beside = subprocess.Popen(script, stderr=subprocess.DEVNULL)
  try:
    # Not step 2 alone: on a busy machine it may come and go unseen.
    while not any(
      re.search(r'-([2-9]|\d\d+)"', path.read_text())
      for path in tmp_path.glob("checkpoint")
    ):
      assert beside.poll() is None
      time.sleep(0.1)
    for _ in range(2):
      outcome = classify("--do_eval", output_dir=tmp_path, **small_model)
      assert outcome.status == 0, outcome.log
      step = int(read_results(tmp_path / "eval_results.txt")["global_step"])
      assert (
        f"results of dev with {tmp_path}/model.ckpt-{step}, in" in outcome.log
      )
    assert beside.poll() is None
    assert not (tmp_path / f"model.ckpt-{step}.index").exists()
  finally:
    beside.kill()
    beside.wait()
  assert not list(tmp_path.glob("held*"))


def test_answers_take_the_checkpoint_that_replaced_theirs(tmp_path):
  new, old = str(tmp_path / "model.ckpt-2"), str(tmp_path / "model.ckpt-1")
  write_checkpoint(new, {"w": np.float32([2])})
  saving.write_state([new])
  run = SimpleNamespace(
    options=SimpleNamespace(run=SimpleNamespace(do_train=False)),
    weights=SimpleNamespace(to_read=old),
  )

  def load(checkpoint):
    with tf.Graph().as_default(), tf.Session() as session:
      variable = tf.get_variable("w", 1)
      tf.train.Saver().restore(session, checkpoint)
      return session.run(variable).tolist()

  assert sharing.load_newest(run, load) == [2]

  def fail(_):
    raise ValueError("a bug")

  run.weights.to_read = new
  with pytest.raises(ValueError, match="^a bug$"):
    sharing.load_newest(run, fail)
