"""Flags: ranges, groups, the list in docs, paths."""

import dataclasses
import os
from pathlib import Path

import pytest

from bert_classifier import options
from bert_classifier.errors import UserError

DOCS = Path(__file__).resolve().parent.parent / "docs"


def test_docs_list_the_flags_that_there_are():
  page = (DOCS / "flags.md").read_text(encoding="utf-8")
  assert page == options.describe_flags_in_markdown() + "\n"


def test_a_flag_stands_in_one_group():
  names = [field.name for field in options.all_flags()]
  assert len(names) == len(set(names))


@pytest.mark.parametrize(
  ("name", "value", "allowed"),
  [
    ("train_batch_size", 0, "at least 1"),
    ("learning_rate", 0.0, "a finite number over 0"),
    ("learning_rate", float("nan"), "a finite number over 0"),
    ("num_train_epochs", float("inf"), "a finite number over 0"),
    ("warmup_proportion", 1.5, "from 0 to 1"),
    ("seed", 2**31, "from 0 to 2147483647"),
  ],
)
def test_a_value_out_of_its_range_is_named_with_it(name, value, allowed):
  with pytest.raises(UserError) as error:
    options.make_options(**{name: value})
  assert str(error.value) == f"--{name} is {value}, but must be {allowed}"


def test_the_ends_of_a_range_are_allowed():
  options.make_options(warmup_proportion=0.0, seed=2**31 - 1, max_seq_length=3)
  options.make_options(warmup_proportion=1.0, seed=0, shuffle_buffer_size=None)


def test_every_path_begins_at_home_where_it_says_so():
  paths = [f for f in options.all_flags() if f.metadata["is_path"]]
  assert {"data_dir", "vocab_file", "output_dir"} < {f.name for f in paths}
  values = options.make_options(**{f.name: "~/x" for f in paths})
  found = {
    getattr(group, f.name)
    for group in values[: len(options.GROUPS)]
    for f in dataclasses.fields(group)
    if f.metadata["is_path"]
  }
  assert found == {os.path.expanduser("~/x")}


def test_given_flags_are_told_from_defaults():
  assert options.make_options(eval_batch_size=8).given == {"eval_batch_size"}
  assert options.make_options().given == frozenset()


def test_groups_are_frozen():
  with pytest.raises(dataclasses.FrozenInstanceError):
    options.make_options().training.seed = 1


def test_settings_of_training_are_the_flags_that_decide_it():
  values = options.make_options(seed=7).settings("training")
  assert values["seed"] == 7 and "log_steps" not in values
  assert set(options.make_options().settings("model")) == {
    "max_seq_length",
    "do_lower_case",
  }
