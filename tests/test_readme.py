"""README.md and docs/: what they say of flags, files and commands is so."""

import csv
import json
from pathlib import Path
import re
import shlex
import shutil

from absl import app
from conftest import (
  ROOT,
  SCRIPTS,
  blocks,
  lengthen,
  read_table,
  run_python,
)
import pytest

from bert_classifier import options, own_data
from bert_classifier.table_files import Table
from bert_classifier.tasks import DataProcessor
import run_classifier

# Not a glob of the top, where notes of a user may lie.
PAGES = {
  path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
  for path in [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "sample" / "README.md",
    *ROOT.glob("docs/*.md"),
  ]
}
README = PAGES["README.md"]
OUTPUT, CONTRIBUTING = PAGES["docs/output.md"], PAGES["docs/contributing.md"]


# ---------------------------------------------------------------------------
# Flags, files and links


@pytest.mark.parametrize("page", PAGES)
def test_every_flag_that_a_page_names_is_a_flag(page):
  sources = "".join(
    path.read_text(encoding="utf-8")
    for folder in ("benchmarks", "sample")
    for path in ROOT.glob(f"{folder}/*.py")
  )
  known = {field.name for field in options.all_flags()} | {
    "flagfile",
    "help",
    "verbosity",
  }
  words = re.sub(r"(?m)^.*\b(pip|pytest|ruff|tensorboard) .*$", "", PAGES[page])
  # Of containers, Slurm and Google Cloud.
  words = re.sub(
    r"--gpus all|(?m:^ *(?:#SBATCH|srun) .*$)|--kill-on-bad-exit"
    r"|gcloud (?:[^\n]*\\\n)*[^\n]*",
    "",
    words,
  )
  for name in re.findall(r"(?<![\w-])--(\w+)", words):
    if name not in known and name.removeprefix("no") not in known:
      assert re.search(rf'"(--)?{name}"', sources), name


def test_the_tour_lists_every_module_and_nothing_else():
  modules = [f"{name}.py" for name in SCRIPTS] + [
    path.relative_to(ROOT).as_posix()
    for folder in ("bert_classifier", "benchmarks")
    for path in ROOT.glob(f"{folder}/*.py")
    if path.name != "__init__.py" and not path.stem.endswith("_child")
  ]
  listed = re.findall(r"^\| `([\w/]+\.py)` \|", CONTRIBUTING, re.M)
  assert set(listed) == set(modules)


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_is_there(page):
  folders = r"(?:bert_classifier|benchmarks|tests|docs|sample|\.ci)/"
  top = r"(?:requirements|run_classifier|estimator_bridge|modeling)"
  for name in re.findall(
    rf"(?<![\w./])({folders}[\w./-]*\w|{top}[\w-]*\.(?:py|txt))\b", PAGES[page]
  ):
    made = name.startswith(("sample/output", "sample/data/cached_"))
    assert made or (ROOT / name).exists(), name


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_page_and_its_heading(page):
  prose = re.sub(r"(?ms)^```.*?^```$", "", PAGES[page])
  for link in re.findall(r"\]\(([^)\s]+)\)", prose):
    if link.startswith("https://"):
      continue
    path, _, heading = link.partition("#")
    target = (ROOT / page).parent / path if path else ROOT / page
    assert target.exists(), link
    if heading:
      text = target.read_text(encoding="utf-8")
      assert heading in map(slug, re.findall(r"^#+ (.*)$", text, re.M)), link


def slug(heading):
  """Returns the name that a heading has in a link."""
  return re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")


# ---------------------------------------------------------------------------
# Commands


def test_the_first_command_needs_nothing_and_runs_the_sample():
  first = blocks(README, "sh")[0].splitlines()
  assert first == [
    "python3 -m venv .venv",
    ".venv/bin/pip install -q -r requirements.txt",
    ".venv/bin/python run_classifier.py --flagfile=sample/run.flags",
  ]


def test_the_test_command_stands_where_ci_looks_for_it():
  marked = r"<!-- test command -->\n```sh\n(.*?)^```$"
  command = re.search(marked, README, re.M | re.S)
  assert command.group(1) == blocks(README, "sh")[1]


# ---------------------------------------------------------------------------
# Own data


def printed_reviews():
  """Returns the header and the rows of the CSV file in README.md."""
  (lines,) = (block.splitlines() for block in blocks(README, "csv"))
  return lines[0], lines[1:]


def test_the_command_for_own_data_runs_as_printed(
  tmp_path, golden_task, small_model, classify, monkeypatch
):
  header, rows = printed_reviews()
  (tmp_path / "reviews.csv").write_text("\n".join([header, *rows * 14]))
  weights = tmp_path / "uncased_L-12_H-768_A-12"
  weights.mkdir()
  shutil.copy(f"{golden_task}/vocab.txt", weights)
  lengthen(small_model, weights, 128)
  (command,) = (
    block for block in blocks(README, "sh") if "--train_file" in block
  )
  program, script, *flags = shlex.split(command.replace("\\\n", ""))
  assert (program, script) == ("python", "run_classifier.py")
  monkeypatch.chdir(tmp_path)
  outcome = classify(*flags, **dict.fromkeys(classify.defaults))
  assert outcome.status == 0, outcome.log
  manifest = json.loads(Path("my_output", "run_manifest.json").read_text())
  assert manifest["settings"]["model"]["labels"] == ["negative", "positive"]
  assert "steps 1 to 3 of 32 examples" in outcome.log
  assert Path("my_output", "eval_report.html").exists()


def test_an_own_task_runs_from_csv_files_to_predictions(
  tmp_path, golden_task, small_model
):
  own_task, _, _ = blocks(PAGES["docs/data.md"], "python")
  header, rows = printed_reviews()
  for split in ("train", "dev", "test"):
    (tmp_path / f"{split}.csv").write_text("\n".join([header, *rows * 2]))
  (tmp_path / "my_task.py").write_text(own_task)
  flags = (
    "--task_name=reviews --data_dir=. --output_dir=out --do_train --do_eval"
    f" --do_predict --vocab_file={golden_task}/vocab.txt --train_batch_size=4"
    " --max_seq_length=8 --num_train_epochs=1"
  ).split()
  flags += [f"--{name}={value}" for name, value in small_model.items()]
  done = run_python("my_task.py", *flags, folder=tmp_path)
  assert done.returncode == 0, done.stderr
  header, *predictions = read_table(tmp_path / "out" / "test_predictions.tsv")
  columns = [re.sub("_(negative|positive)$", "_LABEL", name) for name in header]
  assert columns[-2:] == ["probability_LABEL"] * 2
  assert all(f"`{name}`" in OUTPUT for name in columns)
  with open(tmp_path / "train.csv", newline="") as file:
    texts = [example["review"] for example in csv.DictReader(file)]
  assert [cells[1] for cells in predictions] == texts


def test_the_task_of_pairs_reads_its_columns(tmp_path, monkeypatch):
  _, own_task, _ = blocks(PAGES["docs/data.md"], "python")
  monkeypatch.setattr(app, "run", lambda main, flags_parser: None)
  monkeypatch.setattr(
    run_classifier, "PROCESSORS", dict(run_classifier.PROCESSORS)
  )
  exec(own_task, {})
  (tmp_path / "test.tsv").write_text(
    "grade\tquestion\tanswer\nright\tWho?\tI.\nwrong\tWhere?\tNow.\n"
  )
  task = run_classifier.PROCESSORS["answers"]()
  examples = task.get_test_examples(str(tmp_path))
  assert [(e.text_a, e.text_b, e.label, e.gold) for e in examples] == [
    ("Who?", "I.", None, "right"),
    ("Where?", "Now.", None, "wrong"),
  ]


def test_the_task_of_several_labels_reads_its_example(tmp_path):
  _, _, own_task = blocks(PAGES["docs/data.md"], "python")
  names = dict(DataProcessor=DataProcessor, Table=Table)
  exec(own_task, names)
  (rows,) = [
    text
    for text in blocks(PAGES["docs/data.md"], "text")
    if text.startswith("text\tlabel\n")
  ]
  (tmp_path / "train.tsv").write_text(rows)
  task = names["Complaints"]()
  target = task.get_target()
  assert target.problem_type == "multi_label_classification"
  assert [
    target.encode(example.label)
    for example in task.get_train_examples(str(tmp_path))
  ] == [(1, 1, 0), (0, 0, 1), (0, 0, 0)]


def test_the_csv_example_of_several_labels_is_read(tmp_path):
  (rows,) = blocks(PAGES["docs/data.md"], "csv")
  (tmp_path / "train.csv").write_text(rows)
  asked = options.make_options(
    train_file=str(tmp_path / "train.csv"), do_train=True, multi_label=True
  )
  own = own_data.make_processor(asked, {})
  own.kind = "multi_label"
  target = own.get_target()
  assert target.labels == ("delivery", "packaging", "price")
  assert [
    target.encode(example.label) for example in own.get_train_examples("")
  ] == [(1, 1, 0), (0, 0, 1), (0, 0, 0)]
