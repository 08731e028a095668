"""inspection.py, inspection_page.py, resources.py: --dry_run."""

import collections
import json
from pathlib import Path
import re
import types
from types import SimpleNamespace

from conftest import (
  read_checkpoint,
  small_config,
  write_checkpoint,
  write_rows,
)
import numpy as np
import pytest

from bert_classifier import (
  inspection,
  inspection_page,
  locks,
  machine,
  options,
  resources,
  targets,
)
from bert_classifier.model_files import Weights
import tokenization


@pytest.fixture(scope="module")
def report(classify, training, tmp_path_factory):
  """The report of a dry run over all splits, and what it printed."""
  folder = tmp_path_factory.mktemp("dry_run")
  path = folder / "report.json"
  phases = dict(do_eval=True, do_predict=True)
  flags = dict(output_dir=folder / "output", cache_dir=folder / "cache")
  outcome = classify(
    dry_run=True, dry_run_file=path, **training, **phases, **flags
  )
  assert outcome.status == 0, outcome.log
  assert list(folder.iterdir()) == [path]  # and nothing else is written
  return json.loads(path.read_text())


def read_mrpc(golden_task, split):
  """Returns (label, text, text_b) of each example, read by other means."""
  lines = Path(golden_task, "data", f"{split}.tsv").read_text().split("\n")[1:]
  rows = [line.split("\t") for line in lines if line]
  return [(row[0], row[3], row[4]) for row in rows]


@pytest.mark.parametrize("split", ["train", "dev"])
def test_data_are_described_as_they_are(report, golden_task, split):
  rows, found = read_mrpc(golden_task, split), report["splits"][split]
  assert found["examples"] == len(rows)
  assert found["labels"] == collections.Counter(label for label, _, _ in rows)
  tokenizer = tokenization.FullTokenizer(f"{golden_task}/vocab.txt")
  pairs = [[tokenizer.tokenize(text) for text in row[1:]] for row in rows]
  lengths = np.array([len(a) + len(b) + 3 for a, b in pairs])
  assert found["cut"] == (lengths > 24).sum()
  assert found["tokens lost"] == np.maximum(lengths - 24, 0).sum()
  for percent in (50, 90, 99, 100):
    length = found["tokens"][f"{percent}%"]
    assert (lengths <= length).mean() >= percent / 100 - 1e-9
    assert (lengths < length).mean() < percent / 100
  length = found["length that cuts 1%"]
  assert (lengths > length).mean() <= 0.01 < (lengths >= length).mean()
  texts = collections.Counter(row[1:] for row in rows)
  assert found["examples too many"] == len(rows) - len(texts)


def test_steps_are_those_of_the_training(report, golden_task):
  examples = len(read_mrpc(golden_task, "train"))
  steps = int(examples / 8 * 3.0)
  assert report["training"] == {
    "first step": 1,
    "steps": steps,
    "left": steps,
    "warmup steps": int(steps * 0.1),
    "batch": 8,
    "unit": "example",
  }
  assert report["time"]["train"]["batches measured"] == resources.TRIED_BATCHES
  seconds = report["time"]["train"]["seconds a batch"]
  assert report["time"]["train"]["seconds"] == pytest.approx(steps * seconds)
  assert report["model"]["source"][0].startswith("25 of 25 variables")


def test_what_would_be_written_is_named(report):
  names = {Path(path).name for path in report["files"]["written"]}
  assert names >= {"eval_results.txt", "test_results.tsv", "run_manifest.json"}
  assert report["files"]["removed"] == report["files"]["replaced"] == []


def test_labels_that_hold_and_numbers_are_counted():
  several = targets.SeveralClasses(("joy", "love", "rage"))
  number = targets.Number()
  for target, labels, expected in (
    (several, ["joy", "joy|love", "", ""], {"joy": 2, "love": 1, "rage": 0}),
    (number, ["3", "1", "2", "7", "2"], {"least": 1, "greatest": 7}),
  ):
    values = collections.Counter(map(target.encode, labels))
    converter = types.SimpleNamespace(target=target, label_values=values)
    found = inspection.count_labels(converter)
    if target is number:
      assert (found["quarter"], found["median"]) == (2, 2)
    else:
      assert found["(no label)"] == 2
    assert {name: found[name] for name in expected} == expected


def test_repeated_texts_are_counted_as_a_dictionary_counts_them():
  random = np.random.default_rng(5)
  texts = np.uint64(random.integers(0, 40, 60))
  labels = np.uint64(random.integers(0, 2, 60))
  by_text = collections.defaultdict(list)
  for text, label in zip(texts, labels):
    by_text[text].append(label)
  again = [held for held in by_text.values() if len(held) > 1]
  found = inspection.find_repeated(texts, labels)
  first, second = found.pop("first of them")
  assert found == {
    "texts that come again": len(again),
    "examples too many": 60 - len(by_text),
    "texts with different labels": sum(len(set(held)) > 1 for held in again),
  }
  assert texts[first - 1] == texts[second - 1]
  assert labels[first - 1] != labels[second - 1]


def test_leaks_and_contradictions_are_warned_of(classify, tmp_path, capsys):
  train = [["a", "0", "", "the dog"], ["b", "1", "", "the dog"]]
  train += [["c", "1", "", f"iphxv gg {n}"] for n in range(30)]
  write_rows(tmp_path / "train.tsv", *train)
  dev = [["d", "1", "", "gxw"], ["e", "0", "", "the dog"]]
  write_rows(tmp_path / "dev.tsv", *dev)
  outcome = classify(
    "--dry_run",
    "--do_train",
    "--do_eval",
    task_name="cola",
    data_dir=tmp_path,
    output_dir=tmp_path / "out",
  )
  assert outcome.status == 0, outcome.log
  lines = [" ".join(capsys.readouterr().out.split())][0]
  report, *warnings = lines.split("WARNING ")
  assert report.startswith("DRY RUN of cola")
  assert "32 examples of" in report
  assert (
    "1 text come" in report and "Labels: 1 31 (96.9%), 0 1 (3.1%)" in report
  )
  warnings = " ".join(warnings)
  assert "1 texts come with different labels (examples 1 and 2)" in warnings
  assert "50.0% of the examples of dev (1) have a text that is in train" in (
    warnings
  )
  assert not (tmp_path / "out").exists()


def test_what_training_refuses_is_refused_in_the_same_words(
  classify, training, tmp_path, monkeypatch
):
  write_rows(tmp_path / "train.tsv", ["a", "2", "", "text"])
  flags = dict(training, task_name="cola", data_dir=tmp_path)
  flags["output_dir"] = tmp_path / "out"
  dry, wet = classify("--dry_run", **flags), classify(**flags)
  assert dry.status == wet.status == 1
  assert dry.log == wet.log
  assert "train.tsv:1: " in dry.log


def test_a_folder_where_another_command_trains_is_refused(
  classify, training, tmp_path
):
  with locks.lock_for_training(str(tmp_path)):
    outcome = classify("--dry_run", output_dir=tmp_path, **training)
  assert outcome.status == 1
  assert "another command is training in" in outcome.log


def test_weights_that_are_not_finite_are_warned_of(tmp_path):
  path = tmp_path / "model.ckpt-7"
  write_checkpoint(path, {"output_bias": np.float32([0, np.nan])})
  run = SimpleNamespace(
    options=options.make_options(), weights=Weights(None, resumed=str(path))
  )
  (said,) = inspection.list_doubts(run, [])
  assert said.startswith(f"{path} holds NaN or infinity in output_bias, so")


def test_a_report_as_json_needs_a_dry_run(classify, tmp_path):
  outcome = classify(
    "--do_eval", dry_run_file=tmp_path / "x", output_dir=tmp_path
  )
  assert outcome.status == 1
  assert "--dry_run_file is nothing without --dry_run" in outcome.log


def test_a_place_of_the_json_that_is_not_there_is_told_at_once(
  classify, tmp_path
):
  for place, said in (
    (tmp_path / "none" / "x.json", f"there is no folder {tmp_path}/none"),
    (tmp_path, "is a folder: give a file in it"),
  ):
    outcome = classify(
      "--do_eval", "--dry_run", dry_run_file=place, output_dir=tmp_path / "out"
    )
    assert outcome.status == 1 and said in outcome.log
    assert "checked" not in outcome.log


def test_memory_of_weights_is_that_of_their_numbers(report, small_model):
  weights = read_checkpoint(small_model["init_checkpoint"] / "bert_model.ckpt")
  counted = sum(value.size for value in weights.values())
  assert report["model"]["weights"] == counted
  assert report["memory"]["weights"] == 4 * counted


def test_the_setting_that_is_advised_fits(
  classify, training, tmp_path, monkeypatch
):
  path = tmp_path / "report.json"

  def find_memory(free, **flags):
    monkeypatch.setattr(machine, "find_free_memory", lambda: free)
    given = {**training, **flags, "output_dir": tmp_path / "out"}
    outcome = classify(dry_run=True, dry_run_file=path, **given)
    assert outcome.status == 0, outcome.log
    report = json.loads(path.read_text())
    assert bool(report["time"]) == (report["memory"]["advice"] is None)
    return report["memory"], " ".join(report["warnings"])

  needs, said = find_memory(0)
  assert "are free, so no step was tried. Next, try a smaller --max_se" in said
  free = needs["total"] - needs["program"] - needs["activations"] // 3
  _, said = find_memory(free)
  (parts,) = re.findall(r"Next, try --gradient_accumulation_steps=(\d+)", said)
  memory, said = find_memory(free, gradient_accumulation_steps=int(parts))
  assert memory["advice"] is None and "Next, try" not in said


def test_a_gpu_holds_the_model_and_this_machine_the_rest():
  parts = resources.Memory(1 << 30, *[100 << 20] * 5, 50 << 20)
  assert parts.total() == sum(parts)
  assert parts.total(on_cpu=False) == (1 << 30) + (150 << 20)
  assert parts.on_device() == 500 << 20
  memory = {
    **parts._asdict(),
    "total": parts.total(on_cpu=False),
    "free": 1 << 30,
    "gpu": {
      "name": "the GPU",
      "total": parts.on_device(),
      "free": 400 << 20,
    },
  }
  assert inspection_page.list_lacks(memory) == [
    (500 << 20, 400 << 20, " on the GPU")
  ]
  memory["gpu"]["free"] = None  # two GPUs, or no driver that says it
  assert not inspection_page.list_lacks(memory)
  memory["free"] = 100 << 20
  assert inspection_page.list_lacks(memory) == [(150 << 20, 100 << 20, "")]


def test_memory_of_activations_grows_with_tokens_and_with_their_square():
  config = small_config(hidden_size=8, intermediate_size=8)

  def count(*lengths):
    return resources.count_activations(config, np.array(lengths), True)

  assert count(4, 4) == 2 * count(4)
  assert count(8) > 2 * count(4)
  # The shorter sequence is no wider for the longer one beside it.
  assert count(1, 100) == count(1) + count(100)
