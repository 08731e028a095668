"""flag_checks.py: mistakes that flags show before TensorFlow's import."""

import json
import os
import subprocess
import sys

from conftest import LOG_LINE, ROOT
import pytest

from bert_classifier import flag_checks
from bert_classifier.errors import UserError
from bert_classifier.options import make_options

TRAIN = {"do_train": True, "output_dir": "nowhere"}
TPU = {"use_tpu": True, "tpu_name": "local"}
EVERY = {**TRAIN, "do_eval": True, "eval_every_steps": 4}
MISTAKES = [
  ({}, "there is nothing to do"),
  ({"do_eval": True}, "--output_dir is needed"),
  ({"do_eval": True, "output_dir": "o", "overwrite_output_dir": True}, "train"),
  ({**TRAIN, "gradient_accumulation_steps": 5}, "is 32, .* multiple of .*=5"),
  (
    {**TRAIN, "num_gpus": 2, "gradient_accumulation_steps": 32},
    "multiple of .*=32 times 2 devices",
  ),
  ({**TRAIN, "num_gpus": 5}, "multiple of 5: it is divided among 5 GPUs"),
  ({**TRAIN, "num_gpus": 2, "use_xla": True}, "--use_xla .* 2 GPUs would.*=1"),
  ({**TRAIN, "num_gpus": 2, "pack_sequences": True}, "--pack_seq.* one device"),
  ({**TRAIN, "use_xla": True, "skip_padding": True}, "leave out --skip_padd"),
  (
    {"do_predict": True, "output_dir": "o", "pack_sequences": True},
    "--pack_sequences packs batches of training: add --do_train",
  ),
  (
    {**TRAIN, "pack_sequences": True, "shuffle_buffer_size": 9},
    "but --shuffle_buffer_size=9 draws each .*: leave one out",
  ),
  ({**TRAIN, "use_tpu": True}, "needs --tpu_name"),
  ({**TRAIN, "use_tpu": True, "tpu_name": "a"}, "cannot read --output_dir=now"),
  ({**TRAIN, "early_stopping_patience": 2}, "=2 counts .*eval_every_steps=N"),
  ({**TRAIN, "eval_every_steps": 4}, "=4 evaluates the dev set: add --do_eval"),
  (
    {**EVERY, "save_checkpoints_steps": 3},
    "=3 goes against --eval_every",
  ),
  ({**EVERY, **TPU}, "--eval_every_steps=4 is not possible on a TPU"),
  ({**EVERY, "sweep": "learning_rate=fast"}, "learning_rate is fast, but must"),
  ({**EVERY, "ensemble": True}, "--num_runs is 1: give --num_runs=5"),
  ({**TRAIN, "num_runs": 2}, "give --do_train and --do_eval"),
  ({**TRAIN, **TPU, "num_gpus": 1}, "--use_tpu and --num_gpus=1 name diff"),
  ({**TRAIN, "use_tpu": True, "num_workers": 2}, "and --num_workers=2 name"),
  ({**TRAIN, "num_workers": 3}, "multiple of 3: it is divided among 3 workers"),
  ({"do_eval": True, "output_dir": "o", "pack_sequences": True}, "add --do_tr"),
  ({**TRAIN, **TPU, "precision": "mixed_float16"}, "cannot be had on a TPU"),
  ({**TRAIN, **TPU, "use_xla": True}, "a TPU compiles all"),
  ({**TRAIN, **TPU, "train_batch_size": 9}, "is 9, .* --num_tpu_cores=8"),
  ({**TRAIN, **TPU, "predict_batch_size": 1}, "--predict_batch_size is 1, but"),
]


@pytest.mark.parametrize(("flags", "words"), MISTAKES)
def test_flags_that_do_not_go_together_are_refused(flags, words):
  with pytest.raises(UserError, match=words):
    flag_checks.check(make_options(**flags))


def run(environment, *flags):
  """Runs the script where TensorFlow cannot be imported."""
  done = subprocess.run(
    [sys.executable, "run_classifier.py", *flags],
    cwd=ROOT,
    env={**os.environ, **environment},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1 and LOG_LINE.match(done.stderr), done.stderr
  return done.stderr


def test_the_command_refuses_them_without_tensorflow(tmp_path):
  (tmp_path / "tensorflow.py").write_text("raise ImportError('imported')")
  environment = {"PYTHONPATH": str(tmp_path)}
  train = "--do_train", "--output_dir=nowhere"
  # What is no mistake comes as far as the import.
  assert "imported" in run(environment, *train, "--use_xla")
  said = run(environment, *train, "--gradient_accumulation_steps=3")
  assert "multiple of --gradient_accumulation_steps=3" in said
  workers = {"cluster": {"worker": ["a:1", "b:1", "c:1"]}}
  task = {"type": "worker", "index": 0}
  environment["TF_CONFIG"] = json.dumps({**workers, "task": task})
  said = run(environment, *train)
  assert "must be a multiple of 3: it is divided among 3 workers" in said
  assert "TF_CONFIG names several" in run(
    environment, *train, "--num_workers=4"
  )


@pytest.mark.parametrize("known", ["given", "overwritten", "", "a sweep's"])
def test_a_batch_that_a_trained_folder_may_say_is_left_to_it(tmp_path, known):
  flags = {**TRAIN, "output_dir": str(tmp_path), "num_gpus": 3}
  if known == "given":
    flags["train_batch_size"] = 32
  elif known == "overwritten":
    flags["overwrite_output_dir"] = True
  elif known:
    sweep = {"do_eval": True, "sweep": "train_batch_size=3,6"}
    flags.update(output_dir="nowhere", **sweep)
  if known in ("given", "overwritten"):
    with pytest.raises(UserError, match="is 32, but must be a multiple of 3"):
      flag_checks.check(make_options(**flags))
  else:
    flag_checks.check(make_options(**flags))


def test_an_evaluator_has_nothing_to_check(monkeypatch):
  task = {"type": "evaluator", "index": 0}
  config = {"cluster": {"worker": ["a:1", "b:1", "c:1"]}, "task": task}
  monkeypatch.setenv("TF_CONFIG", json.dumps(config))
  flag_checks.check(make_options(**TRAIN))
