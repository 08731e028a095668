"""The columns of own data: which is text, label and id.

Flags name them, by name or number; else their names are known, or the training
set had them.
"""

import os
import re

from absl import logging
import tensorflow.compat.v1 as tf

from bert_classifier import (
  csv_files,
  errors,
  foreign_files,
  plain_texts,
  table_files,
)
from bert_classifier.table_files import FORMATS, Table

# Names of columns that are known, case aside.
_TEXTS = ("text", "sentence", "review", "content", "comment", "message")
_PAIRS = (
  ("sentence1", "sentence2"),
  ("text_a", "text_b"),
  ("text1", "text2"),
  ("question1", "question2"),
  ("premise", "hypothesis"),
)
_LABELS = ("label", "labels", "class", "target", "sentiment", "category")
_NUMBERS = ("score", "value", "rating")  # with --regression
_IDS = ("id", "index", "guid", "idx")


class Columns:
  """The columns of a file by their roles.

  Args:
    data: `options.DataOptions`.
    path: the file, or None.
    split: "train", "dev" or "test".
    names: names by role of the training set's columns, preferred where flags
      say nothing.
    is_number: whether the label is a number.

  Attributes:
    table: `Table`.
    names: name by role of what was found.

  Raises:
    UserError: the file is not there or no table; a column is not there, or is
      unclear.
  """

  def __init__(self, data, path, split, names, is_number):
    _check_file(data, path, split)
    self._data, self._path, self._split = data, path, split
    self._format = _find_format(data, path)
    has_header = self._format != "jsonl" and not data.no_header
    self._has_names = has_header or self._format == "jsonl"
    self._all, separator = table_files.read_header(
      path, self._format, has_header
    )
    self._remembered = names
    is_test = split == "test"
    label = self._find_label(is_number, is_needed=not is_test)
    row_id = self._find("id", _IDS)
    text_a, text_b = self._find_texts([*_as_tuple(label), row_id])
    self._check_pairs(text_b)
    found = {"text": text_a, "text_b": text_b, "label": label, "id": row_id}
    self._check_different(found)
    self.names = {
      role: name for role, name in found.items() if isinstance(name, str)
    }
    self.table = Table(
      path.replace("{", "{{").replace("}", "}}"),
      has_header,
      self._number(text_a),
      self._number(text_b),
      **{"gold" if is_test else "label": self._number(label)},
      row_id=self._number(row_id),
      format=self._format,
    )
    self._log(found, separator)

  def _log(self, found, separator):
    """Says what was taken for what."""
    by = ""
    if self._format == "csv" and separator != ",":
      by = f" (columns separated by {csv_files.SEPARATORS[separator]})"
    roles = [
      f"{role} {self._show(name)}"
      for role, name in found.items()
      if name is not None
    ]
    logging.info(
      "%s: %s%s: columns: %s", self._split, self._path, by, ", ".join(roles)
    )

  def _show(self, name):
    return ", ".join(repr(one) for one in _as_tuple(name))

  def _number(self, name):
    """Returns what a `Table` calls a column: its number, or its key."""
    if name is None or self._format == "jsonl":
      return name
    if isinstance(name, tuple):
      return tuple(map(self._number, name))
    return self._all.index(name)

  def _flag(self, role):
    return getattr(self._data, f"{role}_column")

  def _find_given(self, role, name):
    """Returns the column that a flag names.

    Raises:
      UserError: it is not there, or twice.
    """
    if name in self._all:
      if self._all.count(name) > 1:
        raise self._repeated(name)
      return name
    stripped = [one for one in self._all if one.strip() == name.strip()]
    if len(stripped) == 1:
      return stripped[0]
    is_number = re.fullmatch(r"-?\d+", name) and self._format != "jsonl"
    if is_number and -len(self._all) <= int(name) < len(self._all):
      chosen = self._all[int(name)]
      return self._find_given(role, chosen)
    raise errors.UserError(
      f"{self._path}:1: there is no column {name!r} (--{role}_column);"
      f" {self._there_is()}{plain_texts.suggest(name, self._all)}"
    )

  def _repeated(self, name):
    return errors.UserError(
      f"{self._path}:1: the header has {name!r} {self._all.count(name)} times:"
      " rename all but one"
    )

  def _there_is(self):
    """Returns the sentence that names the columns."""
    names = table_files.list_names(self._all)
    if not self._has_names:
      return f"with --no_header they are numbers: {names}"
    if len(self._all) == 1:
      hint = ""
      if self._format == "tsv":
        hint = table_files.suggest_separator(self._all)
      return f"there is only {names}{hint}"
    return f"the columns are {names}"

  def _fitting(self, known):
    """Returns the columns whose names are known."""
    return [name for name in self._all if name.strip().lower() in known]

  def _find(self, role, known):
    """Returns the column of a role, by flag, training set or name, or None.

    Raises:
      UserError: two fit.
    """
    if self._flag(role):
      return self._find_given(role, self._flag(role))
    remembered = self._remembered.get(role)
    if remembered in self._all:
      return self._find_given(role, remembered)
    fitting = self._fitting(known)
    if len(fitting) > 1:
      raise self._unclear(role, fitting)
    return fitting[0] if fitting else None

  def _unclear(self, role, fitting):
    """Returns the error of columns that fit a role alike."""
    if len(set(fitting)) == 1:
      return self._repeated(fitting[0])
    shown = " and ".join(repr(name) for name in fitting)
    return errors.UserError(
      f"{self._path}:1: {shown} may be the {role}: say which by"
      f" --{role}_column={fitting[0]}"
    )

  def _find_label(self, is_number, is_needed):
    """Returns the column of the label, a tuple of several, or None."""
    flag = self._flag("label")
    if flag and flag not in self._all and "," in flag:
      names = [name.strip() for name in flag.split(",")]
      if not is_needed and not set(names) <= set(self._all):
        return None
      return tuple(self._find_given("label", name) for name in names)
    if flag and not is_needed:
      try:
        return self._find_given("label", flag)
      except errors.UserError:
        return None
    known = _LABELS + _NUMBERS if is_number else _LABELS
    label = self._find("label", known)
    if label is None and is_needed:
      raise errors.UserError(
        f"{self._path}:1: none of the columns is called label, class or the"
        f" like: name it by --label_column; {self._there_is()}"
      )
    return label

  def _find_texts(self, others):
    """Returns the columns of the text and of the second text, or None.

    Args:
      others: columns that are no texts.
    """
    if self._flag("text") or self._flag("text_b"):
      text_a = self._find("text", _TEXTS)
      text_b = self._find("text_b", ())
      if text_a is None:
        raise self._without_text()
      return text_a, text_b
    if self._remembered.get("text") in self._all:
      return self._find("text", ()), self._find("text_b", ())
    lower = [name.strip().lower() for name in self._all]
    fitting = [(name, None) for name in self._fitting(_TEXTS)]
    for pair in _PAIRS:
      if set(pair) <= set(lower):
        fitting.append(tuple(self._all[lower.index(one)] for one in pair))
    if len(fitting) > 1:
      raise self._unclear("text", [text_a for text_a, _ in fitting])
    if fitting:
      return fitting[0]
    left = [name for name in self._all if name not in others]
    if len(left) != 1 or not self._has_names:
      raise self._without_text()
    return left[0], None

  def _check_pairs(self, text_b):
    """Raises a UserError where the training set had pairs and this has not."""
    if "text" not in self._remembered:
      return
    had = self._remembered.get("text_b")
    if had is not None and text_b is None:
      raise errors.UserError(
        f"{self._path}:1: the model was trained on pairs of texts, but there is"
        f" no second text, {had!r} there: name it by --text_b_column;"
        f" {self._there_is()}"
      )
    if had is None and text_b is not None:
      raise errors.UserError(
        f"{self._path}:1: the model was trained on single texts, but here"
        f" {text_b!r} is a second one: name the text by --text_column"
      )

  def _without_text(self):
    return errors.UserError(
      f"{self._path}:1: none of the columns is called text, sentence, review or"
      f" the like: name it by --text_column; {self._there_is()}"
    )

  def _check_different(self, found):
    """Raises a UserError where a column has two roles."""
    roles = {}
    for role, names in found.items():
      for name in _as_tuple(names):
        if roles.setdefault(name, role) != role:
          raise errors.UserError(
            f"{self._path}:1: the column {name!r} is both {roles[name]} and"
            f" {role}: name others by --{role}_column or"
            f" --{roles[name]}_column"
          )


def _as_tuple(name):
  """Returns the columns of a role as a tuple, () for None."""
  if name is None:
    return ()
  return name if isinstance(name, tuple) else (name,)


def _check_file(data, path, split):
  """Raises a UserError where the file of a split is not there."""
  if path is None:
    needs = {
      "train": "--do_train needs a training set: give --train_file",
      "dev": "--do_eval needs a dev set: give --dev_file, or --dev_fraction=0.1"
      " to keep a tenth of the training set for it",
      "test": "--do_predict needs a test set: give --test_file",
    }[split]
    at = ""
    if data.data_dir:
      at = f"; in --data_dir={data.data_dir} there is no {split}.csv, .tsv or"
      at += " .jsonl"
    raise errors.UserError(needs + at)
  flag = f"--{split}_file={path}"
  if tf.io.gfile.isdir(path):
    raise errors.UserError(f"{flag} is a folder: give the file in it")
  if not tf.io.gfile.exists(path):
    hint = ""
    if data.data_dir:
      below = os.path.join(data.data_dir, path)
      if tf.io.gfile.exists(below):
        hint = f"; {below} is there: give that"
    raise errors.MissingFileError(f"{flag}: no such file{hint}")


def _find_format(data, path):
  """Returns the format of a file, by --task_name or its ending.

  Raises:
    UserError: neither says it, or they contradict each other.
  """
  ending = os.path.splitext(path)[1].lstrip(".").lower()
  by_ending = table_files.ENDINGS.get(ending)
  name = (data.task_name or "").lower()
  if name not in FORMATS:
    if by_ending is None:
      foreign_files.refuse(path)
      raise errors.UserError(
        f"{path}: the ending does not say the format: give --task_name=tsv, csv"
        " or jsonl"
      )
    return by_ending
  if by_ending and "jsonl" in (name, by_ending) and name != by_ending:
    raise errors.UserError(
      f"--task_name={data.task_name} contradicts {path}, which ends as JSON"
      " lines or a table do: leave it out, and the ending decides"
    )
  return name
