"""The sample: what is committed is what its generator makes, and it learns."""

import filecmp
import os
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SAMPLE = os.path.join(ROOT, "sample")
DATA = ["data/train.tsv", "data/dev.tsv", "data/test.tsv", "vocab.txt"]


def sentences(split, column):
  with open(os.path.join(SAMPLE, "data", f"{split}.tsv")) as lines:
    return {line.rstrip("\n").split("\t")[column] for line in lines}


def test_generator_makes_the_committed_files(tmp_path):
  generator = os.path.join(SAMPLE, "make_sample.py")
  subprocess.run(
    [sys.executable, generator, f"--folder={tmp_path}"], check=True
  )
  for name in DATA:
    committed = os.path.join(SAMPLE, name)
    assert filecmp.cmp(committed, tmp_path / name, shallow=False), name


def test_no_sentence_of_dev_or_test_is_trained_on():
  train, dev = sentences("train", 3), sentences("dev", 3)
  test = sentences("test", 1)
  assert not train & dev and not train & test and not dev & test


@pytest.mark.quick
def test_sample_learns_from_scratch(tmp_path):
  flags = ["--flagfile=sample/run.flags", f"--output_dir={tmp_path}"]
  command = [sys.executable, "run_classifier.py", *flags]
  command.append(f"--cache_dir={tmp_path}")
  subprocess.run(command, cwd=ROOT, check=True)
  lines = (tmp_path / "eval_results.txt").read_text().splitlines()
  results = dict(line.split(" = ") for line in lines)
  assert float(results["eval_accuracy"]) >= 0.95
  assert results["global_step"] == "1875"
  predictions = (tmp_path / "test_predictions.tsv").read_text().splitlines()
  assert len(predictions) == 401
