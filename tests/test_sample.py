"""The sample: its generator makes it, a model learns it, the docs show it."""

import filecmp
from fnmatch import fnmatch
import json
import re

from conftest import (
  ROOT,
  blocks,
  foreign_lines,
  read_results,
  read_table,
  run_python,
  run_script,
)
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


@pytest.fixture(scope="module")
def sample_run(tmp_path_factory):
  """Runs README.md's first command; returns folder and CompletedProcess."""
  folder = tmp_path_factory.mktemp("sample_run")
  done = run_script(
    "--flagfile=sample/run.flags",
    "--eval_report",
    f"--output_dir={folder}/sample/output",
    f"--cache_dir={folder}/sample/data",
  )
  assert done.returncode == 0, done.stderr
  return folder, done


@pytest.mark.quick
def test_sample_learns_from_scratch(sample_run):
  folder, process = sample_run
  results = read_results(folder / "sample/output/eval_results.txt")
  assert results["eval_accuracy"] >= 0.95
  assert results["global_step"] == 1875
  assert len(read_table(folder / "sample/output/test_predictions.tsv")) == 401
  assert not foreign_lines(process)


def read_page(name):
  return (ROOT / name).read_text(encoding="utf-8")


def without_numbers(line):
  """Returns a log line, N for numbers, without the words on the device."""
  line = re.sub(r", on .*", "", line)
  line = re.sub(r"(_cola_)[0-9a-f]+", r"\1N", line)
  return re.sub(r"\d[\d.]*(e[-+]\d+)?", "N", line)


def test_the_log_to_expect_is_that_of_the_script(sample_run):
  folder, process = sample_run
  log = process.stderr.replace(f"{folder}/", "")
  printed = set(map(without_numbers, log.splitlines()))
  (expected,) = blocks(read_page("README.md"), "text")
  for line in expected.splitlines():
    assert without_numbers(line) in printed, line


def test_every_file_in_an_output_dir_is_listed(sample_run):
  rows = re.findall(r"^\| (`[^|]*) \|", read_page("docs/output.md"), re.M)
  listed = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
  listed = [re.sub(r"^\.|-N\.", "*.", name) for name in listed]
  for path in (sample_run[0] / "sample" / "output").iterdir():
    name = path.name + "/" * path.is_dir()
    assert any(fnmatch(name, pattern) for pattern in listed), name


def test_the_report_of_the_sample(sample_run):
  out = sample_run[0] / "sample" / "output"
  found = json.loads((out / "eval_report.json").read_text("utf-8"))
  results = read_results(out / "eval_results.txt")
  by_name = {metric["name"]: metric for metric in found["metrics"]}
  assert by_name["accuracy"]["value"] == pytest.approx(results["eval_accuracy"])
  low, high = by_name["accuracy"]["interval"]
  assert low <= results["eval_accuracy"] <= high
  assert found["history"][-1]["step"] == results["global_step"]
  facts = found["facts"]
  assert facts["evaluated"].endswith("dev.tsv")
  assert re.search(r"train\.tsv, [\d,]+ examples$", facts["trained on"])
  assert float(facts["learning_rate"]) > 0
  wrong = found["examples"] * (1 - results["eval_accuracy"])
  assert found["mistakes"]["count"] == pytest.approx(wrong)
  assert len(read_table(out / "eval_errors.tsv")) == 1 + round(wrong)
  assert "Learning curve" in (out / "eval_report.html").read_text("utf-8")
  assert str(out / "eval_report.html") in sample_run[1].stderr
