"""A sweep of windows that keeps the best, killed in and between its runs.

By kill -9, again and again: every file equals that of one undisturbed.
"""

import json

from conftest import (
  assert_equal_variables,
  list_lines,
  list_names,
  read_results,
  read_table,
)
from kills import run_killed
import pytest

NAMES = [f"learning_rate={rate},seed=42" for rate in ("0.001", "0.005")]
WAYS = """
# In the training of the first run, after its first evaluation.
(history, "append", lambda number, path, entry: entry["step"] == 6),
# Between the runs: the first is done, and the table is not written.
(comparison, "write_table", lambda number, *_: number == 1),
# In its last one, at which it ends early.
(history, "add_evaluation",
  lambda number, path, split, results: results["global_step"] == 12),
# When its results are written, and not yet that it is done.
(runs, "_keep_done", lambda *_: True),
"""


@pytest.fixture(scope="module")
def flags(training):
  return dict(
    training,
    learning_rate=None,
    sweep="learning_rate=1e-3,5e-3",
    do_eval=True,
    do_predict=True,
    use_best=True,
    num_train_epochs=1,
    stride=8,
    save_checkpoints_steps=None,
    eval_every_steps=4,
    early_stopping_patience=1,
  )


@pytest.fixture(scope="module")
def undisturbed(classify, flags, tmp_path_factory):
  """Returns the folder of the sweep, and its log."""
  folder = tmp_path_factory.mktemp("undisturbed")
  done = classify(output_dir=folder, **flags)
  assert done.status == 0, done.log
  return folder, done.log


def test_patience_ends_each_run_of_a_sweep_by_itself(undisturbed):
  folder, log = undisturbed
  assert "trained up to step 12 of 13, where 1 evaluation in a row" in log
  steps = [
    sorted(
      e["step"] for e in list_lines(folder / "runs" / name) if "split" in e
    )
    for name in NAMES
  ]
  assert steps[1] == [4, 8, 12] and steps[0][-1] == 13
  header, *rows = read_table(folder / "runs.tsv")
  for name, row in zip(NAMES, rows):
    found = dict(zip(header, row))
    by_best = read_results(folder / "runs" / name / "eval_results.txt")
    assert found["run"] == name
    assert float(found["eval_f1"]) == by_best["eval_f1"]


def test_one_class_is_warned_of_once_a_run_and_not_on_the_way(undisturbed):
  _, log = undisturbed
  assert log.count("21 of 21 predictions are '1'") == 1  # of several


def test_a_sweep_killed_in_and_between_runs_ends_as_one_undisturbed(
  classify, flags, undisturbed, tmp_path
):
  expected, _ = undisturbed
  out = tmp_path / "out"
  run_killed(WAYS, dict(classify.defaults, **flags, output_dir=out))
  done = classify(output_dir=out, **flags)
  assert done.status == 0, done.log
  assert done.log.count("it is done, and not done again") == 1
  assert "NOT TRAINING" not in done.log
  names = list_names(expected)
  assert list_names(out) == names
  for name in names:
    if name.endswith(("results.txt", ".tsv", "run_manifest.json")):
      assert (out / name).read_text() == (expected / name).read_text(), name
    if name.endswith("run_done.json"):
      found, wanted = (
        json.loads((folder / name).read_text()) for folder in (out, expected)
      )
      assert found == wanted
  for run in NAMES:
    folders = out / "runs" / run, expected / "runs" / run
    assert list_lines(folders[0]) == list_lines(folders[1])
    for place in ("", "best"):
      assert_equal_variables(*(folder / place for folder in folders))
