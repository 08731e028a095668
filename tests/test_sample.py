"""The sample: what is committed is what its generator makes, and it learns."""

import filecmp

from conftest import ROOT, foreign_lines, read_results, read_table, run_python
import pytest

SAMPLE = ROOT / "sample"
DATA = ["data/train.tsv", "data/dev.tsv", "data/test.tsv", "vocab.txt"]


def sentences(split, column):
  return {cells[column] for cells in read_table(SAMPLE / f"data/{split}.tsv")}


def test_generator_makes_the_committed_files(tmp_path):
  done = run_python(SAMPLE / "make_sample.py", f"--folder={tmp_path}")
  assert done.returncode == 0, done.stderr
  for name in DATA:
    assert filecmp.cmp(SAMPLE / name, tmp_path / name, shallow=False), name


def test_no_sentence_of_dev_or_test_is_trained_on():
  train, dev = sentences("train", 3), sentences("dev", 3)
  test = sentences("test", 1)
  assert not train & dev and not train & test and not dev & test


@pytest.mark.quick
def test_sample_learns_from_scratch(sample_run):
  folder, process = sample_run
  results = read_results(folder / "sample/output/eval_results.txt")
  assert results["eval_accuracy"] >= 0.95
  assert results["global_step"] == 1875
  assert len(read_table(folder / "sample/output/test_predictions.tsv")) == 401
  assert not foreign_lines(process)
