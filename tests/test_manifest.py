"""manifest.py: values that no run has written are refused."""

import copy
import json

import pytest

from bert_classifier import output_dir
from bert_classifier.errors import UserError

SETTINGS = {
  "model": {
    "task_name": "own",
    "language": None,
    "problem_type": "single_label_classification",
    "labels": ["no", "yes"],
    "do_lower_case": True,
    "strip_accents": None,
    "tokenize_chinese_chars": True,
    "whole_tokens": [["[A]", False, True]],
    "max_seq_length": 16,
    "vocabulary (SHA-256)": "0" * 64,
    "synonyms": {"ja": "yes"},
    "table of train": {"label": "answer"},
    "vocab_size": 30,
    "hidden_size": 16,
    "hidden_act": "gelu_erf",
    "hidden_dropout_prob": 0.1,
  },
  "training": {
    "init_checkpoint": None,
    "init_checkpoint (SHA-256)": None,
    "training data (SHA-256)": "1" * 64,
    "num_train_epochs": 3.0,
    "shuffle_buffer_size": None,
    "seed": 42,
  },
  "order": {"buffer_rows": 24},
  "paths": {"data_dir": "/data"},
  "prediction": {"threshold": 0.5},
  "data": {
    "columns": {"text": "review"},
    "dev_split": {"dev_fraction": 0.1, "seed": 42},
    "no_header": False,
    "label_column": None,
  },
  "of a later version": {"speed": []},
}


def inspect(folder, settings, **others):
  written = {"settings": settings, **others}
  (folder / "run_manifest.json").write_text(json.dumps(written))
  return output_dir.inspect(str(folder))


def test_what_a_run_writes_is_read(tmp_path):
  settings = copy.deepcopy(SETTINGS)
  settings["model"]["of a later version"] = [1]
  assert inspect(tmp_path, settings).settings == settings


@pytest.mark.parametrize(
  ("phase", "name", "value", "allowed"),
  [
    ("model", "strip_accents", "enoN", "true, false or null"),
    ("model", "do_lower_case", "false", "true or false"),
    ("model", "do_lower_case", None, "true or false"),
    ("model", "tokenize_chinese_chars", 0, "true or false"),
    ("model", "whole_tokens", [["[A]", 1, 1]], "a list of [text"),
    ("model", "max_seq_length", 2, "a whole number, at least 3"),
    ("model", "max_seq_length", 16.0, "a whole number"),
    ("model", "labels", "no", "a list of texts"),
    ("model", "labels", [0, 1], "a list of texts"),
    ("model", "problem_type", ["x"], "text"),
    ("model", "synonyms", {"ja": 1}, "an object of texts"),
    ("model", "table of train", "answer", "an object"),
    ("model", "vocabulary (SHA-256)", None, "text"),
    ("model", "hidden_size", "16", "a whole number"),
    ("model", "hidden_dropout_prob", None, "a number"),
    ("training", "num_train_epochs", "x", "a finite number over 0"),
    ("training", "num_train_epochs", float("nan"), "a finite number over 0"),
    ("training", "seed", True, "a whole number"),
    ("training", "init_checkpoint", 3, "text or null"),
    ("order", "buffer_rows", "24", "a whole number, at least 1"),
    ("order", "permutation", 2, "1, the order that this version has"),
    ("paths", "data_dir", ["/data"], "text"),
    ("data", "columns", {"text": 1}, "an object of texts"),
    ("data", "dev_split", {"seed": 42}, "an object with dev_fraction"),
    ("data", "no_header", None, "true or false"),
    ("data", "dev_fraction", 1.5, "over 0 and under 1"),
    ("prediction", "threshold", 7, "a number, from 0 to 1"),
  ],
)
def test_a_value_that_no_run_writes_is_named(
  tmp_path, phase, name, value, allowed
):
  settings = copy.deepcopy(SETTINGS)
  settings[phase][name] = value
  with pytest.raises(UserError) as error:
    inspect(tmp_path, settings)
  said = str(error.value)
  assert f"run_manifest.json is damaged: settings.{phase}.{name} is " in said
  assert f"{value!r}, but must be {allowed}" in said


def test_a_folder_in_its_place_is_called_damaged(tmp_path):
  (tmp_path / "run_manifest.json").mkdir()
  with pytest.raises(UserError, match="run_manifest.json is damaged"):
    output_dir.inspect(str(tmp_path))


def test_copies_that_are_no_names_are_refused(tmp_path):
  with pytest.raises(UserError, match="copies is 3, but must be a list"):
    inspect(tmp_path, SETTINGS, copies=3)
