"""Several runs: a killed sweep goes on, each run is an ordinary one, the best
one and the ensemble predict."""

import gc
from pathlib import Path
from typing import NamedTuple

from conftest import read_checkpoint, read_results, read_table
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import history
import run_classifier

SWEEP = "learning_rate=1e-3,3e-3"
NAMES = [
  f"learning_rate={rate},seed={seed}"
  for rate in ("0.001", "0.003")
  for seed in (42, 43)
]


@pytest.fixture(scope="module")
def flags(training):
  return dict(training, do_eval=True, num_train_epochs=2, learning_rate=None)


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
  """A sweep that was killed twice, and went on.

  Attributes:
    folder: output_dir.
    outcomes: of the three commands.
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
  kills = (NAMES[1], 6), (NAMES[2], "evaluate"), None
  with pytest.MonkeyPatch.context() as patch:
    watch = Watch(patch)
    for kill in kills:
      watch.calls, watch.graphs, watch.killed_in = [], [], kill
      found.outcomes.append(
        classify(
          "--do_predict",
          "--ensemble",
          **dict(flags, output_dir=folder, num_runs=2, sweep=SWEEP),
        )
      )
      found.calls.append(watch.calls)
      found.graphs.append(watch.graphs)
      found.tables.append(read_table(folder / "runs.tsv"))
  return found


def list_calls(name):
  return [(name, "train"), (name, "evaluate")]


def test_a_killed_sweep_goes_on_and_does_nothing_twice(swept):
  assert [outcome.status for outcome in swept.outcomes] == [130, 130, 0]
  first, second, last = swept.calls
  assert first == [*list_calls(NAMES[0]), (NAMES[1], "train")]
  assert second == [*list_calls(NAMES[1]), *list_calls(NAMES[2])]
  assert last[:3] == [(NAMES[2], "evaluate"), *list_calls(NAMES[3])]
  assert {what for _, what in last[3:]} == {"predict"}


def test_the_end_says_what_is_done_and_where_it_goes_on(swept):
  log = swept.outcomes[0].log
  assert "1 of 4 runs are done, and not done again" in log
  assert f"goes on from step 4, the last checkpoint in {swept.folder}" in log
  assert [row[0] for row in swept.tables[0][1:]] == NAMES[:1]
  assert [row[0] for row in swept.tables[1][1:]] == NAMES[:2]


def test_a_run_is_what_an_ordinary_command_gives(
  swept, classify, flags, tmp_path
):
  alone = dict(flags, output_dir=tmp_path, learning_rate=1e-3, seed=43)
  assert classify(**alone).status == 0
  folder = swept.folder / "runs" / NAMES[1]  # killed in training
  expected, found = read_checkpoint(tmp_path), read_checkpoint(folder)
  assert expected.keys() == found.keys()
  for name, value in expected.items():
    np.testing.assert_array_equal(found[name], value, err_msg=name)
  for name in ("eval_results.txt", "run_manifest.json"):
    assert (folder / name).read_text() == (tmp_path / name).read_text()


def test_the_table_holds_the_results_of_each_run(swept):
  header, *rows = swept.tables[-1]
  assert [row[0] for row in rows] == NAMES
  for row in rows:
    cells = dict(zip(header, row))
    results = read_results(swept.folder / "runs" / row[0] / "eval_results.txt")
    assert {name: float(cells[name]) for name in results} == results
    assert row[0] == "learning_rate={learning_rate},seed={seed}".format(**cells)


def test_the_best_setting_has_the_highest_mean_on_the_dev_set(swept):
  header, *rows = swept.tables[-1]
  column = header.index("eval_f1")  # that counts for MRPC
  means = np.mean(
    [[float(r[column]) for r in rows[i : i + 2]] for i in (0, 2)], 1
  )
  best = int(np.argmax(means))
  chosen = [row[0] for row in rows if row[-1] == "yes"]
  assert chosen == NAMES[2 * best : 2 * best + 2]
  assert f"with {means[best]:.4f}, the mean of 2 runs" in swept.outcomes[-1].log


def test_the_ensemble_is_the_mean_of_the_runs_probabilities(swept):
  header, *rows = swept.tables[-1]
  chosen = [row[0] for row in rows if row[-1] == "yes"]
  expected = np.mean(
    [
      np.loadtxt(swept.folder / "runs" / name / "test_results.tsv")
      for name in chosen
    ],
    axis=0,
  )
  found = np.loadtxt(swept.folder / "test_results.tsv")
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  header, *rows = read_table(swept.folder / "test_predictions.tsv")
  cells = [dict(zip(header, row)) for row in rows]
  assert [int(one["label"]) for one in cells] == list(expected.argmax(axis=1))


def test_graphs_of_runs_that_are_done_are_freed(swept):
  graphs = swept.graphs[-1]
  assert max(graphs) <= graphs[0] + 1


def test_without_an_ensemble_the_best_run_predicts(swept, classify, flags):
  command = dict(flags, output_dir=swept.folder, num_runs=2, sweep=SWEEP)
  outcome = classify("--do_predict", "--eval_report", **command)
  assert outcome.status == 0
  assert outcome.log.count("it is done, and not done again") == 0
  header, *rows = read_table(swept.folder / "runs.tsv")
  ((best, *_),) = (row for row in rows if row[-1] == "yes")
  figures = {row[0]: float(row[header.index("eval_f1")]) for row in rows}
  assert figures[best] == max(figures.values())
  for name in ("test_results.tsv", "test_predictions.tsv", "test_results.txt"):
    own = swept.folder / "runs" / best / name
    assert (swept.folder / name).read_bytes() == own.read_bytes()
