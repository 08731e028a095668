"""Tasks: which files, columns and labels, and how rows become examples.

A task is data: a subclass of `DataProcessor` that names its labels and, for
each split, a `Table`. Reading, headers, blank lines and errors live once, in
the base class.

  for example in MrpcProcessor().examples("glue/MRPC", "train"):
    print(example.guid, example.text_a, example.text_b, example.label)

Files are UTF-8, one row a line, columns separated by tabs, quotes without a
meaning. A byte-order mark, CRLF, a NUL, a lone CR inside a field and fields of
any length are simply read. A line without any character is no row.
"""

import collections
import csv
import dataclasses
import functools
import hashlib
import os
import sys
from typing import NamedTuple, Optional, Union

import tensorflow.compat.v1 as tf

from bert_classifier import files


class InputExample:
  """One text, or pair of texts, and what is known of it.

  Args and attributes:
    guid: name of the example, unique in its split.
    text_a: the text, or the first of the pair.
    text_b: the second text, or None.
    label: one of the task's labels; None in a test set.
    row_id: the file's own id of the row, or None.
    gold: the label that a test file gives away, or None; never trained on.
  """

  def __init__(
    self, guid, text_a, text_b=None, label=None, *, row_id=None, gold=None
  ):
    self.guid, self.row_id = guid, row_id
    self.text_a, self.text_b = text_a, text_b
    self.label, self.gold = label, gold


class PaddingInputExample:
  """Stands for no example: fills the last batch where batches must be whole.

  A TPU computes batches of one size only; a row made of this has weight 0 in
  every metric and is left out of every output.
  """


@dataclasses.dataclass(frozen=True)
class Table:
  """Where a split's examples stand in a file.

  A column is given as its number, from 0, or from the end where negative, or as
  its name in the header.

  Attributes:
    file: name below data_dir; `{language}` stands for the task's language.
    header: whether the first row is a header.
    text_a: column of the text.
    text_b: column of the second text, None for single texts.
    label: column of the label, None where there is none to be trained or
      measured on.
    guid: column that makes the guid; the row's number where None.
    name: what the guid begins with; the split's name where None.
    language: column to hold against the task's language; rows of another one
      are passed over.
    row_id, gold: columns of a test file's own id and of the label that it gives
      away; a header need not have them.
  """

  file: str
  header: bool
  text_a: Union[int, str]
  text_b: Union[int, str, None] = None
  label: Union[int, str, None] = None
  guid: Union[int, str, None] = None
  name: Optional[str] = None
  language: Union[int, str, None] = None
  row_id: Union[int, str, None] = None
  gold: Union[int, str, None] = None

  def numbered(self, header, path):
    """The table with a number for each column that is given by name.

    Args:
      header: the names of the columns; empty where the file has none.
      path: the file, for the error.

    Raises:
      ValueError: the header lacks a name.
    """
    numbers = {}
    for role in (*_NEEDED_COLUMNS, *_OTHER_COLUMNS):
      column = getattr(self, role)
      if column in header:
        numbers[role] = header.index(column)
      elif isinstance(column, str):
        if role in _NEEDED_COLUMNS:
          raise ValueError(
            f"{path}:1: there is no column {column!r}, which the task's Table"
            f" names as its {role}; "
            + (
              f"the header has {', '.join(map(repr, header))}"
              if header
              else "the Table says that the file has no header"
            )
          )
        numbers[role] = None
    return dataclasses.replace(self, **numbers)

  def columns(self):
    """The columns that every row must have."""
    roles = (*_NEEDED_COLUMNS, *_OTHER_COLUMNS)
    columns = (getattr(self, role) for role in roles)
    return [column for column in columns if column is not None]


_NEEDED_COLUMNS = ("text_a", "text_b", "label", "guid", "language")
_OTHER_COLUMNS = ("row_id", "gold")


class DataProcessor:
  """A task. Subclasses give `labels` and `tables`, and what else differs.

  A subclass in the manner of 2018, which gives `get_labels` and the three
  `get_..._examples` instead, or some of them, works as well.

  Attributes:
    labels: the labels, in the order of their ids.
    tables: a `Table` for each split: train, dev, test, and where there is a
      second evaluation set dev_mismatched and test_mismatched.
    metric: the metric beside accuracy: "matthews_correlation", "f1" or None.
    synonyms: other spellings of labels in the files.
    language: which rows and files to take, where a task has several.
  """

  labels = ()
  tables = {}
  metric = None
  synonyms = {}
  language = None

  def get_train_examples(self, data_dir):
    """List of `InputExample`s to train on."""
    return list(_with_text(self._examples_of_table(data_dir, "train")))

  def get_dev_examples(self, data_dir):
    """List of `InputExample`s to evaluate on."""
    return list(self._examples_of_table(data_dir, "dev"))

  def get_test_examples(self, data_dir):
    """List of `InputExample`s to predict."""
    return list(self._examples_of_table(data_dir, "test"))

  def get_labels(self):
    """List of the labels, in the order of their ids."""
    return list(self.labels)

  def has_pairs(self):
    """Whether an example may have a second text."""
    return not self.tables or any(
      table.text_b is not None for table in self.tables.values()
    )

  def path(self, data_dir, split):
    """The file of a split, or None where the task has no tables."""
    table = self.tables.get(split)
    if table is None:
      return None
    return os.path.join(data_dir, table.file.format(language=self.language))

  def has_split(self, data_dir, split):
    """Whether the split is defined and its file is there."""
    path = self.path(data_dir, split)
    return path is not None and tf.io.gfile.exists(path)

  def source_digest(self, data_dir, split):
    """SHA-256 of what the examples are made of: the bytes of the file."""
    if self._own_reader(split) is None:
      return files.hash_file(self._existing(data_dir, split))
    digest = hashlib.sha256()
    for example in self.examples(data_dir, split):
      digest.update(repr(sorted(vars(example).items())).encode())
    return digest.hexdigest()

  def examples(self, data_dir, split, tally=None):
    """Reads the examples of a split one by one, in the file's order.

    Args:
      data_dir: folder of the task's files.
      split: a key of `tables`.
      tally: a `collections.Counter` in which to count, as "blank", the rows
        of the training set that are left out for an empty text_a. In other
        splits such rows stay, so that results keep to their rows.

    Yields:
      `InputExample`s.

    Raises:
      FileNotFoundError: the file is not there.
      ValueError: a row is too short, has an unknown label or is not UTF-8, or
        there is no row; names file and line.
    """
    reader = self._own_reader(split) or functools.partial(
      self._examples_of_table, split=split
    )
    found = reader(data_dir)
    yield from _with_text(found, tally) if split == "train" else found

  def _own_reader(self, split):
    """The subclass's own get_..._examples for a split, or None."""
    name = f"get_{split}_examples"
    ours = getattr(DataProcessor, name, None)
    theirs = getattr(type(self), name, None)
    return None if theirs is ours else getattr(self, name)

  def count(self, data_dir, split):
    """The number of `examples`: every row is read and checked, and none kept.

    Raises:
      FileNotFoundError, ValueError: as `examples`.
    """
    if self._own_reader(split) is not None:
      return sum(1 for _ in self.examples(data_dir, split))
    rows = self._rows_of_table(data_dir, split)
    if split != "train":
      return sum(1 for _ in rows)
    return sum(
      1 for table, row, _ in rows if _has_text(row.cells[table.text_a])
    )

  def _examples_of_table(self, data_dir, split):
    for table, row, label in self._rows_of_table(data_dir, split):
      key = row.number if table.guid is None else row.cells[table.guid]
      gold = _cell(row, table.gold)
      yield InputExample(
        guid=f"{table.name or split}-{key}",
        text_a=row.cells[table.text_a],
        text_b=_cell(row, table.text_b),
        label=label,
        row_id=_cell(row, table.row_id),
        gold=self.synonyms.get(gold, gold),
      )

  def _rows_of_table(self, data_dir, split):
    """Yields of each example its `Table`, columns by number, `_Row`, label."""
    path = self._existing(data_dir, split)
    header, table, rows = _open_table(path, self.tables[split])
    labels = self.get_labels()
    languages = collections.Counter()
    label, found = None, False
    for row in rows:
      if table.language is not None:
        language = row.cells[table.language]
        languages[language] += 1
        if language != self.language:
          continue
      if table.label is not None:
        label = row.cells[table.label]
        label = self.synonyms.get(label, label)
        if label not in labels:
          raise ValueError(_unknown_label(path, row, table, labels, header))
      found = True
      yield table, row, label
    if not found:
      raise ValueError(f"{path}: {self._why_nothing(header, languages)}")

  def _why_nothing(self, header, languages):
    """Why a file gave no example, for an error."""
    if languages:
      others = ", ".join(sorted(languages))
      return (
        f"no row of the language {self.language!r}; there are rows of {others}"
      )
    return "no row beside the header" if header else "the file is empty"

  def _existing(self, data_dir, split):
    path = self.path(data_dir, split)
    if path is None:
      raise ValueError(
        f"{type(self).__name__} has neither a table {split!r} nor a method"
        f" get_{split}_examples"
      )
    if not tf.io.gfile.exists(path) or tf.io.gfile.isdir(path):
      raise FileNotFoundError(
        f"{path}: no such file; it should hold the {split} set of the task"
      )
    return path

  @classmethod
  def _read_tsv(cls, input_file, quotechar=None):
    """All rows of a file, each a list of its columns."""
    lines = (line for _, line in files.read_lines(input_file))
    if quotechar is None:
      return [line.split("\t") for line in lines]
    csv.field_size_limit(sys.maxsize)
    return list(csv.reader(lines, delimiter="\t", quotechar=quotechar))


def _with_text(examples, tally=None):
  """Leaves out, and counts as "blank", what has an empty text_a."""
  for example in examples:
    if _has_text(example.text_a):
      yield example
    elif tally is not None:
      tally["blank"] += 1


def _has_text(text_a):
  """Whether a row of the training set is one to train on."""
  return bool(text_a.strip())


class _Row(NamedTuple):
  """A row of a file.

  Attributes:
    line: number of its line, from 1.
    number: how many rows precede it, the header among them.
    cells: what stands in its columns.
  """

  line: int
  number: int
  cells: list


def _open_table(path, table):
  """The header of a file, its table with columns by number, its `_Row`s."""
  lines = files.read_lines(path)
  header = []
  if table.header:
    first = next(lines, None)
    if first is None:
      return [], table, iter(())
    header = first[1].split("\t")
  table = table.numbered(header, path)
  return header, table, _rows(path, lines, table, header)


def _rows(path, lines, table, header):
  """Yields the `_Row`s of the (number, line) pairs behind the header.

  Raises:
    ValueError: a row lacks a column.
  """
  columns = table.columns()
  needed = 1 + max(columns)
  from_end = header and min(columns) < 0
  for number, (line_number, line) in enumerate(lines, start=bool(header)):
    row = _Row(line_number, number, line.split("\t"))
    if len(row.cells) < needed:
      raise ValueError(_miscounted(path, row, f"at least {needed} are needed"))
    if from_end and len(row.cells) != len(header):
      raise ValueError(_miscounted(path, row, f"the header has {len(header)}"))
    yield row


def _cell(row, column):
  return None if column is None else row.cells[column]


def _miscounted(path, row, expected):
  """The error of a row that has not the columns that are expected."""
  count = len(row.cells)
  line = "\t".join(row.cells)
  text = (
    f"{path}:{row.line}: {count} column{'s' * (count != 1)} separated by tabs,"
    f" but {expected}; the row begins {line[:60]!r}"
  )
  if count == 1 and ("," in line or ";" in line):
    text += (
      "; is the file separated by commas or semicolons? README.md says how to"
      " convert it"
    )
  return text


def _unknown_label(path, row, table, labels, header):
  """The error of a row whose label is none of the task's."""
  label = row.cells[table.label][:80]
  if header and table.label < len(header):
    place = f"column {header[table.label]!r}"
  elif table.label < 0:
    place = "the last column"
  else:
    place = f"column {table.label}, counted from 0,"
  text = (
    f"{path}:{row.line}: the label {label!r} in {place} is not one of"
    f" {', '.join(labels)}; correct the row or take it out"
  )
  if not header and not row.number:
    text += ", or, if it is a header, give the task's Table header=True"
  return text


class ColaProcessor(DataProcessor):
  """CoLA (GLUE): is a sentence acceptable English?"""

  labels = ("0", "1")
  metric = "matthews_correlation"
  tables = {
    "train": Table("train.tsv", header=False, text_a=3, label=1),
    "dev": Table("dev.tsv", header=False, text_a=3, label=1),
    "test": Table("test.tsv", header=True, text_a=1, row_id="index"),
  }


class MrpcProcessor(DataProcessor):
  """MRPC (GLUE): do two sentences say the same?"""

  labels = ("0", "1")
  metric = "f1"
  tables = {
    "train": Table("train.tsv", header=True, text_a=3, text_b=4, label=0),
    "dev": Table("dev.tsv", header=True, text_a=3, text_b=4, label=0),
    "test": Table(
      "test.tsv",
      header=True,
      text_a=3,
      text_b=4,
      row_id="index",
      gold="Quality",
    ),
  }


def _mnli(file, name=None, label=-1):
  return Table(
    file,
    header=True,
    text_a=8,
    text_b=9,
    label=label,
    guid=0,
    name=name,
    row_id="index",
    gold="gold_label" if label is None else None,
  )


class MnliProcessor(DataProcessor):
  """MultiNLI (GLUE): does the premise entail the hypothesis?"""

  labels = ("contradiction", "entailment", "neutral")
  tables = {
    "train": _mnli("train.tsv"),
    "dev": _mnli("dev_matched.tsv", "dev_matched"),
    "dev_mismatched": _mnli("dev_mismatched.tsv", "dev_mismatched"),
    "test": _mnli("test_matched.tsv", label=None),
    "test_mismatched": _mnli("test_mismatched.tsv", label=None),
  }


class XnliProcessor(DataProcessor):
  """XNLI: MultiNLI in other languages.

  Args:
    language: two letters, e.g. "zh": the translated training file and the rows
      of dev and test to take.
  """

  labels = ("contradiction", "entailment", "neutral")
  synonyms = {"contradictory": "contradiction"}
  tables = {
    "train": Table(
      "multinli/multinli.train.{language}.tsv",
      header=True,
      text_a=0,
      text_b=1,
      label=2,
    ),
    "dev": Table(
      "xnli.dev.tsv", header=True, text_a=6, text_b=7, label=1, language=0
    ),
    "test": Table(
      "xnli.test.tsv",
      header=True,
      text_a=6,
      text_b=7,
      language=0,
      row_id="pairID",
      gold="gold_label",
    ),
  }

  def __init__(self, language="zh"):
    self.language = language


PROCESSORS = dict(
  cola=ColaProcessor,
  mnli=MnliProcessor,
  mrpc=MrpcProcessor,
  xnli=XnliProcessor,
)
