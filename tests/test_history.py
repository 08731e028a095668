"""The history of a run: lines of JSON that survive kills and resuming."""

import json
from pathlib import Path
import resource

import numpy as np
import pytest

from bert_classifier import history
from bert_classifier.errors import UserError


@pytest.fixture
def path(tmp_path):
  return str(tmp_path / "history.jsonl")


def lines(path):
  with open(path, encoding="utf-8") as file:
    return [json.loads(line) for line in file]


def test_a_float_keeps_the_digits_it_has_and_nan_is_left_out(path):
  history.append(
    path, {"step": 1, "loss": np.float32(0.1), "gradient_norm": np.nan}
  )
  assert lines(path) == [{"step": 1, "loss": 0.1}]


def test_an_evaluation_takes_the_place_of_an_earlier_one_of_its_split(path):
  history.append(path, {"step": 3, "loss": 1.0})
  for split, value in (("dev", 0.5), ("dev_mismatched", 0.6), ("dev", 0.7)):
    results = {"global_step": np.int64(3), "eval_accuracy": np.float32(value)}
    history.add_evaluation(path, split, results)
  assert lines(path) == [
    {"step": 3, "loss": 1.0},
    {"step": 3, "split": "dev_mismatched", "eval_accuracy": 0.6},
    {"step": 3, "split": "dev", "eval_accuracy": 0.7},
  ]


def test_what_a_kill_cut_is_dropped_and_later_steps_are_on_resuming(path):
  for step in (1, 4, 8):
    history.append(path, {"step": step, "loss": 1 / step})
  with open(path, "a", encoding="utf-8") as file:
    file.write('{"step": 12, "lo')
  assert [entry["step"] for entry in history.read(path)] == [1, 4, 8]
  history.drop_after(path, 4)
  history.append(path, {"step": 5, "loss": 0.2})
  assert [entry["step"] for entry in lines(path)] == [1, 4, 5]


def test_a_line_after_a_torn_one_is_read(path):
  history.append(path, {"step": 1, "loss": 1.0})
  with open(path, "a", encoding="utf-8") as file:
    file.write('{"step": 2')
  history.add_evaluation(path, "dev", {"global_step": 1, "eval_loss": 0.5})
  assert lines(path) == [
    {"step": 1, "loss": 1.0},
    {"step": 1, "split": "dev", "eval_loss": 0.5},
  ]


def test_what_training_found_stays_when_other_examples_are_evaluated(path):
  first, other = ({"global_step": 1, "eval_loss": loss} for loss in (0.5, 0.7))
  for results in (first, other):
    history.add_evaluation(path, "dev", results, replaces=False)
  assert lines(path) == [{"step": 1, "split": "dev", "eval_loss": 0.5}]


def test_a_line_that_is_nested_too_deep_is_dropped(path):
  Path(path).write_text("[" * 200_000 + '\n{"step": 1, "loss": 1.0}\n')
  assert history.read(path) == [{"step": 1, "loss": 1.0}]


def test_without_a_file_there_is_no_history(path, tmp_path):
  assert history.read(path) == []
  history.drop_after(path, 3)
  assert not list(tmp_path.iterdir())


def test_a_file_that_may_not_grow_is_no_end_of_the_data(path):
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
  try:
    for add in (
      lambda: history.append(path, {"step": 1, "loss": 1.0}),
      lambda: history.add_evaluation(path, "dev", {"global_step": 1}),
    ):
      with pytest.raises(UserError, match="; File too large"):
        add()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
