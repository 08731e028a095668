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

  A column is known by its number among those of the header, or of the first
  object of JSON lines: a header may have a name twice.

  Args:
    data: `data_options.DataOptions`.
    path: the file, or None.
    split: "train", "dev" or "test".
    names: names by role of the training set's columns, preferred where flags
      say nothing.
    kind: of the target, see `targets.KINDS`.

  Attributes:
    table: `Table`.
    names: name by role of what was found.
    flags: by name of a flag that says a column, what says the same of other
      files of its kind: the name where there is one.

  Raises:
    UserError: the file is not there or no table; a column is not there, or is
      unclear.
  """

  def __init__(self, data, path, split, names, kind):
    _check_file(data, path, split)
    self._data, self._path, self._split = data, path, split
    self._format = _find_format(data, path)
    has_header = self._format != "jsonl" and not data.no_header
    self._has_names = has_header or self._format == "jsonl"
    self._all, separator, line = table_files.read_header(
      path, self._format, has_header
    )
    self._place = f"{path}:{line}"
    self._remembered, self._kind = names, kind
    is_test = split == "test"
    label = self._find_label(is_needed=not is_test)
    row_id = self._find("id", _IDS)
    text_a, text_b = self._find_texts([*_as_tuple(label), row_id])
    if is_test and {text_a, text_b} & {*_as_tuple(label)}:
      label = None  # that of the training set, counted from the end
    self._check_pairs(text_b)
    found = {"text": text_a, "text_b": text_b, "label": label, "id": row_id}
    self._check_different(found)
    self.names = {
      role: self._all[column]
      for role, column in found.items()
      if isinstance(column, int)
    }
    self.flags = self._list_flags(found)
    self.table = Table(
      path.replace("{", "{{").replace("}", "}}"),
      has_header,
      self._in_table(text_a),
      self._in_table(text_b),
      **{"gold" if is_test else "label": self._in_table(label)},
      row_id=self._in_table(row_id),
      format=self._format,
    )
    self._log(found, separator)

  def _list_flags(self, found):
    """Returns `flags` of the columns that were found, by role."""
    flags = {}
    for role, column in found.items():
      names = [self._all[one] for one in _as_tuple(column)]
      is_clear = not any(
        "," in name or self._all.count(name) > 1 for name in names
      )
      if self._flag(role) and names and is_clear:
        flags[f"{role}_column"] = ",".join(names)
    return flags

  def _log(self, found, separator):
    """Says what was taken for what."""
    by = ""
    if self._format == "csv" and separator != ",":
      by = f" (columns separated by {csv_files.describe_separator(separator)})"
    roles = [
      f"{role} {', '.join(map(self._show, _as_tuple(column)))}"
      for role, column in found.items()
      if column is not None
    ]
    logging.info(
      "%s: %s%s: columns: %s", self._split, self._path, by, ", ".join(roles)
    )

  def _show(self, column):
    """Returns the name of a column, and its number where that is needed."""
    name = self._all[column]
    return f"{name!r}" + f" ({column})" * (self._all.count(name) > 1)

  def _in_table(self, column):
    """Returns what a `Table` calls a column: its number, or its key."""
    if column is None:
      return None
    if isinstance(column, tuple):
      return tuple(map(self._in_table, column))
    return self._all[column] if self._format == "jsonl" else column

  def _flag(self, role):
    return getattr(self._data, f"{role}_column")

  def _match(self, name):
    """Returns the columns of a name, spaces at its ends and case aside.

    The nearest spelling that there is counts.
    """
    for spell in (str, str.strip, lambda one: one.strip().casefold()):
      found = [
        column
        for column, one in enumerate(self._all)
        if spell(one) == spell(name)
      ]
      if found:
        return found
    return []

  def _find_given(self, role, name):
    """Returns the column of a name or, of a table, a number; None if absent.

    Raises:
      UserError: it is there twice.
    """
    found = self._match(name)
    if len(found) > 1:
      raise self._repeated(role, found)
    if found:
      return found[0]
    is_number = re.fullmatch(r"-?\d+", name) and self._format != "jsonl"
    if is_number and -len(self._all) <= int(name) < len(self._all):
      return int(name) % len(self._all)
    return None

  def _find_needed(self, role, name):
    """Returns the column that a flag names.

    Raises:
      UserError: it is not there, or twice.
    """
    column = self._find_given(role, name)
    if column is not None:
      return column
    raise errors.UserError(
      f"{self._place}: there is no column {name!r} (--{role}_column);"
      f" {self._there_is()}{plain_texts.suggest(name, self._all)}"
    )

  def _repeated(self, role, columns):
    """Returns the error of columns of one name."""
    mend = "rename all but one"
    if self._format != "jsonl":
      mend += f", or say which by its number, --{role}_column={columns[0]}"
    numbers = " and ".join(map(str, columns))
    return errors.UserError(
      f"{self._place}: the header has {self._all[columns[0]]!r}"
      f" {len(columns)} times, columns {numbers} counted from 0: {mend}"
    )

  def _there_is(self):
    """Returns the sentence that names the columns."""
    names = table_files.list_names(self._all)
    if not self._has_names:
      return f"with --no_header they are numbers: {names}"
    if len(self._all) > 1:
      return f"the columns are {names}"
    hint = ""
    if self._format != "jsonl":
      hint = table_files.suggest_separator(self._all, self._format)
    return f"there is only {names}{hint}"

  def _suggest_no_header(self):
    """Returns a hint for a file whose first row may be no header."""
    if self._format == "jsonl" or not self._has_names or len(self._all) == 1:
      return ""
    return "; if that is an example and no header, give --no_header"

  def _fitting(self, known):
    """Returns the columns whose names are known."""
    return [
      column
      for column, name in enumerate(self._all)
      if name.strip().lower() in known
    ]

  def _find(self, role, known):
    """Returns the column of a role, by flag, training set or name, or None.

    Raises:
      UserError: two fit.
    """
    if self._flag(role):
      return self._find_needed(role, self._flag(role))
    remembered = self._find_remembered(role)
    if remembered is not None:
      return remembered
    return self._choose(role, self._fitting(known))

  def _find_remembered(self, role):
    """Returns the column that had a role in the training set, or None."""
    name = self._remembered.get(role)
    return None if name is None else self._find_given(role, name)

  def _choose(self, role, fitting):
    """Returns the only column that fits a role, None where none does.

    Raises:
      UserError: several fit.
    """
    if len(fitting) <= 1:
      return fitting[0] if fitting else None
    if len({self._all[column] for column in fitting}) == 1:
      raise self._repeated(role, fitting)
    raise self._unclear(role, fitting)

  def _unclear(self, role, fitting):
    """Returns the error of columns that fit a role alike."""
    names = [self._all[column] for column in fitting]
    return errors.UserError(
      f"{self._place}: {' and '.join(map(repr, names))} may be the {role}: say"
      f" which by --{role}_column={names[0]}"
    )

  def _find_label(self, is_needed):
    """Returns the column of the label, a tuple of several, or None."""
    flag, known = self._flag("label"), _LABELS
    if self._kind == "regression":
      known += _NUMBERS
    label = None
    if flag and "," in flag and not self._match(flag):
      label = self._find_labels(flag, is_needed)
    elif flag and not is_needed:
      label = self._find_given("label", flag)
    elif flag:
      label = self._find_needed("label", flag)
    else:
      label = self._find_remembered("label")
    if label is None:
      label = self._choose("label", self._fitting(known))
    if label is None and is_needed:
      raise errors.UserError(
        f"{self._place}: none of the columns is called label, class or the"
        f" like: name it by --label_column; {self._there_is()}"
        f"{self._suggest_no_header()}"
      )
    return label

  def _find_labels(self, flag, is_needed):
    """Returns the columns of several labels, None where one is absent.

    Raises:
      UserError: one that is needed is absent; a column is there twice; an
        example has one label or a number.
    """
    if self._kind != "multi_label":
      raise errors.UserError(
        f"--label_column={flag} names several columns, which have 0 or 1 for a"
        " label each: give --multi_label, or name one column"
      )
    find = self._find_needed if is_needed else self._find_given
    columns = tuple(find("label", name.strip()) for name in flag.split(","))
    if len(set(columns)) < len(columns) and None not in columns:
      raise errors.UserError(f"--label_column={flag} names a column twice")
    return None if None in columns else columns

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
    text_a = self._find_remembered("text")
    if text_a is not None:
      return text_a, self._find_remembered("text_b")
    fitting = self._fitting(_TEXTS)
    pairs = dict.fromkeys(fitting)
    for pair in _PAIRS:
      found = [self._choose("text", self._fitting([one])) for one in pair]
      if None not in found:
        pairs.update([found])
    text_a = self._choose("text", [*fitting, *set(pairs).difference(fitting)])
    if text_a is not None:
      return text_a, pairs[text_a]
    left = [column for column in range(len(self._all)) if column not in others]
    is_alone = len(self._all) == 1
    if len(left) != 1 or not (self._has_names or is_alone):
      raise self._without_text()
    if is_alone and self._has_names and self._format != "jsonl":
      logging.warning(
        "%s: the only column is taken for the text, and %r for its header; if"
        " that is an example, give --no_header",
        self._place,
        self._all[0],
      )
    return left[0], None

  def _check_pairs(self, text_b):
    """Raises a UserError where the training set had pairs and this has not."""
    if "text" not in self._remembered:
      return
    had = self._remembered.get("text_b")
    if had is not None and text_b is None:
      raise errors.UserError(
        f"{self._place}: the model was trained on pairs of texts, but there is"
        f" no second text, {had!r} there: name it by --text_b_column;"
        f" {self._there_is()}"
      )
    if had is None and text_b is not None:
      raise errors.UserError(
        f"{self._place}: the model was trained on single texts, but here"
        f" {self._all[text_b]!r} is a second one: name the text by"
        " --text_column"
      )

  def _without_text(self):
    return errors.UserError(
      f"{self._place}: none of the columns is called text, sentence, review or"
      f" the like: name it by --text_column; {self._there_is()}"
      f"{self._suggest_no_header()}"
    )

  def _check_different(self, found):
    """Raises a UserError where a column has two roles."""
    roles = {}
    for role, columns in found.items():
      for column in _as_tuple(columns):
        if roles.setdefault(column, role) != role:
          raise errors.UserError(
            f"{self._place}: the column {self._all[column]!r} is both"
            f" {roles[column]} and {role}: name others by --{role}_column or"
            f" --{roles[column]}_column"
          )


def _as_tuple(column):
  """Returns the columns of a role as a tuple, () for None."""
  if column is None:
    return ()
  return column if isinstance(column, tuple) else (column,)


def _check_file(data, path, split):
  """Raises a UserError where the file of a split is not there."""
  if path is None:
    needs = {
      "train": "--do_train needs a training set: give --train_file",
      "dev": "--do_eval needs a dev set: give --dev_file, or --dev_fraction=0.1"
      " to keep a tenth of the training set for it",
      "test": "--do_predict and --do_embed need a test set: give --test_file",
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
