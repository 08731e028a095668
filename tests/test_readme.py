"""README.md: what it says of flags and files is so."""

import csv
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys

import pytest

import run_classifier

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def own_flags():
  return [flag for group in run_classifier._GROUPS.values() for flag in group]


@pytest.mark.parametrize("flag", own_flags(), ids=lambda flag: flag.name)
def test_every_flag_is_listed_with_its_default(flag):
  row = re.search(
    rf"^\| `--{flag.name}` \| `?([^`|]*)`? \| (.*) \|$", README, re.M
  )
  default = "" if flag.default is None else flag.default_as_str.strip("'")
  assert row and row.group(1).strip() == default
  assert row.group(2) == flag.help


def test_every_file_at_the_top_is_in_the_tour():
  # A user's own files may lie beside the scripts: none of ours imports them.
  loaded = [getattr(one, "__file__", None) for one in [*sys.modules.values()]]
  top = {Path(file) for file in loaded if file and Path(file).parent == ROOT}
  assert ROOT / "run_classifier.py" in top
  for path in [*top, *ROOT.glob("bert_classifier/[a-z]*.py")]:
    name = path.relative_to(ROOT).as_posix()
    assert f"| `{name}` |" in README, name


def blocks(language):
  """The code blocks of a language, in order."""
  return re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)


def test_an_own_task_runs_from_a_csv_file_to_predictions(tmp_path, golden_task):
  convert, own_task = blocks("python")
  rows = [line for block in blocks("csv") for line in block.splitlines()]
  (tmp_path / "train.csv").write_text("\n".join([*rows, *rows[1:]]))
  (tmp_path / "convert.py").write_text(convert)
  (tmp_path / "my_task.py").write_text(own_task)
  model = f"{golden_task}/checkpoint"
  flags = (
    f"--task_name=reviews --data_dir=. --output_dir=out --do_train --do_eval"
    f" --do_predict --bert_config_file={model}/bert_config.json"
    f" --vocab_file={golden_task}/vocab.txt --train_batch_size=4"
    " --max_seq_length=8 --num_train_epochs=1"
  ).split()

  def python(*arguments):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.run(
      command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True
    )

  assert python("convert.py").returncode == 0
  for split in ("dev", "test"):
    shutil.copy(tmp_path / "train.tsv", tmp_path / f"{split}.tsv")
  done = python("my_task.py", *flags)
  assert done.returncode == 0, done.stderr
  header, *lines = (
    (tmp_path / "out" / "test_predictions.tsv").read_text().splitlines()
  )
  *told, last = header.split("\t")
  assert all(f"`{name}`" in README for name in told)
  assert last == "probability_positive"
  with open(tmp_path / "train.csv", newline="") as file:
    texts = [row["review"] for row in csv.DictReader(file)]
  assert [line.split("\t")[1] for line in lines] == texts


def test_files_and_flags_that_commands_name_are_there():
  for name in re.findall(r"(?<=[ =])(?:\w+/)*\w+\.(?:py|txt|flags)\b", README):
    if name.startswith(("requirements", "tests/", "sample/", "run_")):
      assert (ROOT / name).exists(), name
  known = {flag.name for flag in own_flags()} | {"flagfile", "help", "no"}
  for name in re.findall(r"^\s+--(\w+)", README, re.M):
    assert name in known, name
