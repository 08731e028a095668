"""Several runs: a killed sweep goes on, each run is an ordinary one, the best
one and the ensemble predict."""

import gc
import json
from pathlib import Path
import shutil
from typing import NamedTuple

from conftest import (
  ALONE,
  read_checkpoint,
  read_results,
  read_table,
  write_text,
)
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import history
import run_classifier

SWEEP = "learning_rate=1e-3,3e-3"
NAMES = [f"learning_rate={rate},seed=42" for rate in ("0.001", "0.003")]
ADDED = "learning_rate=0.003,seed=43"


@pytest.fixture(scope="module")
def flags(training):
  return dict(
    training,
    do_eval=True,
    num_train_epochs=2,
    learning_rate=None,
    eval_report=True,
  )


class Watch:
  """Sees what is computed, and ends a command where it is told to.

  Attributes:
    calls: list of (folder of a run, what is done).
    graphs: how many graphs there are at each of these calls.
    killed_in: (folder, what) that ends a command; what is a step or a call.
  """

  def __init__(self, patch):
    self.calls, self.graphs, self.killed_in = [], [], None
    for name in ("train", "evaluate", "predict"):
      self._watch(
        patch,
        run_classifier,
        name,
        lambda e, run, *_, name=name: (run.options.run.output_dir, name),
      )
    self._watch(
      patch,
      history,
      "append",
      lambda path, entry: (Path(path).parent, entry["step"]),
    )

  def _watch(self, patch, module, name, identify):
    before = getattr(module, name)

    def watch(*args):
      folder, what = identify(*args)
      place = Path(folder).name, what
      if not isinstance(what, int):
        self.calls.append(place)
        self.graphs.append(
          sum(isinstance(one, tf.Graph) for one in gc.get_objects())
        )
      if place == self.killed_in:
        raise KeyboardInterrupt
      return before(*args)

    patch.setattr(module, name, watch)


class Swept(NamedTuple):
  """Two runs, killed twice before they were done, and a third one added.

  Attributes:
    folder: output_dir.
    outcomes: of the commands.
    calls: what each of them computed.
    graphs: how many graphs there were each time.
    tables: runs.tsv after each.
  """

  folder: Path
  outcomes: list
  calls: list
  graphs: list
  tables: list


@pytest.fixture(scope="module")
def swept(classify, flags, tmp_path_factory):
  folder = tmp_path_factory.mktemp("swept")
  found = Swept(folder, [], [], [], [])
  sweep = dict(sweep=SWEEP)
  seeds = dict(sweep="learning_rate=3e-3", num_runs=2, ensemble=True)
  with pytest.MonkeyPatch.context() as patch:
    watch = Watch(patch)
    for kill, runs in (
      ((NAMES[1], 6), sweep),
      ((NAMES[1], "evaluate"), sweep),
      (None, sweep),
      (None, seeds),
    ):
      watch.calls, watch.graphs, watch.killed_in = [], [], kill
      outcome = classify(
        "--do_predict", **dict(flags, output_dir=folder, **runs)
      )
      found.outcomes.append(outcome)
      found.calls.append(watch.calls)
      found.graphs.append(watch.graphs)
      found.tables.append(read_table(folder / "runs.tsv"))
      for path in list_predictions(folder):
        shutil.copy(path, f"{path}.{len(found.calls)}")
  return found


def list_predictions(folder):
  names = "test_results.tsv", "test_predictions.tsv", "test_results.txt"
  return [folder / name for name in names if (folder / name).exists()]


def list_calls(name, *kinds):
  return [(name, kind) for kind in kinds]


def test_a_killed_sweep_goes_on_and_does_nothing_twice(swept):
  assert [outcome.status for outcome in swept.outcomes] == [130, 130, 0, 0]
  first, second, third, last = swept.calls
  in_training = list_calls(NAMES[1], "train")
  assert first == list_calls(NAMES[0], "train", "evaluate") + in_training
  assert second == list_calls(NAMES[1], "train", "evaluate")
  assert third[:-1] == list_calls(NAMES[1], "evaluate")
  assert third[-1][1] == "predict"
  assert last == [
    *list_calls(ADDED, "train", "evaluate"),
    *list_calls(NAMES[1], "predict"),
    *list_calls(ADDED, "predict"),
  ]


def test_the_end_says_what_is_done_and_where_it_goes_on(swept):
  log = swept.outcomes[0].log
  assert "run 2 of 2, 1 of which are done, and not done again" in log
  assert f"goes on from step 4, the last checkpoint in {swept.folder}" in log
  assert [row[0] for row in swept.tables[0][1:]] == NAMES[:1]


def test_a_run_is_what_an_ordinary_command_gives(
  swept, classify, flags, tmp_path
):
  alone = dict(flags, output_dir=tmp_path, learning_rate=3e-3)
  assert classify(**alone).status == 0
  folder = swept.folder / "runs" / NAMES[1]  # killed in training
  expected, found = read_checkpoint(tmp_path), read_checkpoint(folder)
  assert expected.keys() == found.keys()
  for name, value in expected.items():
    np.testing.assert_array_equal(found[name], value, err_msg=name)
  for name in ("eval_results.txt", "run_manifest.json"):
    assert (folder / name).read_text() == (tmp_path / name).read_text()


def shorten_dev_set(golden_task, folder):
  data = shutil.copytree(f"{golden_task}/data", folder / "data")
  lines = (data / "dev.tsv").read_text().splitlines(keepends=True)
  (data / "dev.tsv").write_text("".join(lines[:-1]))
  return data


@pytest.mark.parametrize("change", ["metrics", "dev set"])
def test_what_would_give_other_results_is_evaluated_again(
  swept, classify, flags, golden_task, tmp_path, monkeypatch, change
):
  command = dict(flags, output_dir=swept.folder, sweep=SWEEP)
  if change == "metrics":
    command["metrics"] = "recall"
  else:
    command["data_dir"] = shorten_dev_set(golden_task, tmp_path)
  watch = Watch(monkeypatch)
  watch.killed_in = NAMES[0], "evaluate"
  assert classify(**command).status == 130
  assert watch.calls == list_calls(NAMES[0], "evaluate")


def test_the_table_holds_the_results_of_each_run(swept):
  for table, names in zip(swept.tables[2:], (NAMES, [NAMES[1], ADDED])):
    header, *rows = table
    assert [row[0] for row in rows] == names
    for row in rows:
      cells = dict(zip(header, row))
      folder = swept.folder / "runs" / row[0]
      results = read_results(folder / "eval_results.txt")
      assert {name: float(cells[name]) for name in results} == results
      named = "learning_rate={learning_rate},seed={seed}".format(**cells)
      assert row[0] == named


def test_the_best_run_on_the_dev_set_predicts(swept):
  header, *rows = swept.tables[2]
  figures = [float(row[header.index("eval_f1")]) for row in rows]
  best = NAMES[int(np.argmax(figures))]
  assert [row[0] for row in rows if row[-1] == "yes"] == [best]
  assert f"best run: {swept.folder}/runs/{best}" in swept.outcomes[2].log
  for path in list_predictions(swept.folder / "runs" / best):
    copy = swept.folder / f"{path.name}.3"
    assert copy.read_bytes() == path.read_bytes()


def test_the_ensemble_is_the_mean_of_the_runs_probabilities(swept):
  _, *rows = swept.tables[-1]
  assert [row[-1] for row in rows] == ["yes", "yes"]
  expected = np.mean(
    [
      np.loadtxt(swept.folder / "runs" / name / "test_results.tsv")
      for name in (NAMES[1], ADDED)
    ],
    axis=0,
  )
  found = np.loadtxt(swept.folder / "test_results.tsv")
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  header, *rows = read_table(swept.folder / "test_predictions.tsv")
  cells = [dict(zip(header, row)) for row in rows]
  decided = [int(one["label"]) for one in cells]
  assert decided == list(expected.argmax(axis=1))
  gold = np.array([int(one["gold"]) for one in cells])
  results = read_results(swept.folder / "test_results.txt")
  assert results["global_step"] == 9  # of both
  right = np.mean(decided == gold)
  assert results["test_accuracy"] == pytest.approx(right)
  losses = -np.log(expected[np.arange(len(gold)), gold])
  assert results["test_loss"] == pytest.approx(losses.mean(), rel=1e-5)


def test_graphs_of_runs_that_are_done_are_freed(swept):
  *_, last = swept.graphs
  assert last[-1] <= last[0]


def test_the_report_is_the_best_runs_with_all_runs_in_it(swept):
  report = json.loads((swept.folder / "eval_report.json").read_text())
  runs = report["runs"]
  own = swept.folder / "runs" / runs["best_run"]
  for name, value in json.loads((own / "eval_report.json").read_text()).items():
    if name != "findings":
      assert report[name] == value
  assert runs["swept"] == ["learning_rate"]
  assert sum(one["is_best"] for one in runs["settings"]) == 1
  page = (swept.folder / "eval_report.html").read_text()
  assert "chosen among 2 by these very examples" in page
  assert 'aria-label="F1' in page
  errors = "eval_errors.tsv"
  assert (swept.folder / errors).read_text() == (own / errors).read_text()


@pytest.mark.parametrize(
  ("changes", "sentence"),
  [
    (dict(num_runs=2, init_checkpoint=None), "would begin with random weights"),
    (dict(label_smoothing=0.1), "label_smoothing was 0.0 and is 0.1"),
    (dict(output_dir="{run}"), "holds a run by itself"),
  ],
)
def test_runs_that_do_not_go_together_are_refused(
  swept, classify, flags, changes, sentence
):
  command = dict(flags, output_dir=swept.folder, sweep=SWEEP)
  run = swept.folder / "runs" / NAMES[0]
  changes = {
    name: value.format(run=run) if isinstance(value, str) else value
    for name, value in changes.items()
  }
  outcome = classify(**{**command, **changes})
  assert outcome.status == 1
  assert sentence in outcome.log


def test_the_folder_of_runs_says_that_it_holds_runs(swept, classify):
  outcome = classify("--do_eval", **dict(ALONE, output_dir=swept.folder))
  assert outcome.status == 1
  assert "holds several runs: give the folder of one of them" in outcome.log


def test_a_run_that_knows_the_dev_set_is_refused(classify, flags, tmp_path):
  rows = "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(20))
  own = write_text(tmp_path / "train.csv", f"text,label\n{rows}")
  known = tmp_path / "runs" / "seed=42"
  known.mkdir(parents=True)
  (known / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-8"\n')
  split = {"dev_fraction": 0.2, "seed": 42}
  (known / "run_manifest.json").write_text(
    json.dumps({"settings": {"data": {"dev_split": split}}})
  )
  changes = dict(task_name=None, data_dir=None, train_file=own, seed=41)
  command = {**flags, **changes, "output_dir": tmp_path, "dev_fraction": 0.2}
  outcome = classify(**command, num_runs=2)
  assert outcome.status == 1
  assert "seed=42 was trained with the dev set of" in outcome.log
  assert "so it knows some of the examples" in outcome.log


def test_where_the_metric_is_undefined_no_run_is_chosen(
  swept, classify, flags, tmp_path
):
  folder = shutil.copytree(swept.folder, tmp_path / "copy")
  for name in NAMES:
    path = folder / "runs" / name / "eval_results.txt"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(one for one in lines if "eval_f1" not in one))
  command = dict(flags, output_dir=folder, sweep=SWEEP)
  assert classify(**command).status == 0
  outcome = classify("--do_predict", **command)
  assert outcome.status == 1
  assert "No setting is chosen: eval_f1 is undefined" in outcome.log
  assert "no run can be chosen to go on with" in outcome.log
  assert "not done again" in outcome.log  # nothing is computed


def test_the_best_of_runs_predicts_where_training_was_to_be_packed(
  swept, classify, flags, tmp_path
):
  folder = shutil.copytree(swept.folder, tmp_path / "copy")
  command = dict(flags, output_dir=folder, sweep=SWEEP, pack_sequences=True)
  outcome = classify("--do_predict", **command)
  assert outcome.status == 0, outcome.log
  assert f"best run: {folder}" in outcome.log
  assert "test: predictions: " in outcome.log


def test_a_dry_run_tells_of_all_runs(swept, classify, flags, tmp_path, capsys):
  before = sorted(swept.folder.rglob("*"))
  path = tmp_path / "report.json"
  more = dict(sweep=f"{SWEEP},1e-2,3e-2", dry_run_file=path)
  command = dict(flags, output_dir=swept.folder, **more)
  assert classify("--dry_run", **command).status == 0
  report = json.loads(path.read_text())
  assert report["runs"]["shown"] == "learning_rate=0.01,seed=42"
  parts = report["time"]
  starts = [parts[name]["seconds to start"] for name in ("train", "dev")]
  assert min(starts) > parts["train"]["seconds a batch"]  # of a small model
  assert report["runs"]["seconds"] == pytest.approx(
    2 * (parts["train"]["seconds"] + parts["dev"]["seconds"] + 2 * sum(starts))
  )
  size = (swept.folder / "runs" / NAMES[0]).glob("model.ckpt-9.data*")
  (size,) = (one.stat().st_size for one in size)
  # Two runs of 9 steps keep one checkpoint, and one more while it is saved.
  assert report["files"]["disk"] == pytest.approx(2 * 2 * size, rel=0.1)
  text = " ".join(capsys.readouterr().out.split())
  assert "runs 4, 4 settings of 1 seed, 2 of them trained before" in text
  assert "together, with the start of each, they take about" in text
  assert sorted(swept.folder.rglob("*")) == before


def test_a_run_keeps_its_best_weights_and_may_be_judged_by_them(
  classify, flags, tmp_path, monkeypatch
):
  command = dict(flags, output_dir=tmp_path, save_checkpoints_steps=None)
  command.update(sweep="learning_rate=1e-3", eval_every_steps=3)
  outcome = classify("--use_best", **command)
  assert outcome.status == 0, outcome.log
  (run,) = (tmp_path / "runs").iterdir()
  entries = history.read(str(run / "history.jsonl"))
  figures = [
    (entry["eval_f1"], -entry["step"]) for entry in entries if "split" in entry
  ]
  assert len(figures) == 3  # of 9 steps
  results = read_results(run / "eval_results.txt")
  assert (results["eval_f1"], -results["global_step"]) == max(figures)
  watch = Watch(monkeypatch)
  assert classify("--use_best", **command).status == 0
  assert not watch.calls
  watch.killed_in = run.name, "evaluate"
  assert classify(**command).status == 130  # judged by the last ones, anew
  assert watch.calls == list_calls(run.name, "evaluate")
