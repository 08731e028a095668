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
from typing import Optional

import tensorflow.compat.v1 as tf

import files


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

  Columns count from 0, from the end where negative.

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
    row_id, gold: names in the header of the columns of a test file's own id
      and of the label that it gives away; looked up, none need be there.
  """

  file: str
  header: bool
  text_a: int
  text_b: Optional[int] = None
  label: Optional[int] = None
  guid: Optional[int] = None
  name: Optional[str] = None
  language: Optional[int] = None
  row_id: Optional[str] = None
  gold: Optional[str] = None

  def columns(self):
    """The columns that every row must have."""
    named = (self.text_a, self.text_b, self.label, self.guid, self.language)
    return [column for column in named if column is not None]


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
      return files.digest(self._existing(data_dir, split))
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

  def _examples_of_table(self, data_dir, split):
    path = self._existing(data_dir, split)
    table = self.tables[split]
    labels = self.get_labels()
    languages = collections.Counter()
    found = 0
    for where, number, header, row in _rows(path, table):
      if table.language is not None:
        languages[row[table.language]] += 1
        if row[table.language] != self.language:
          continue
      found += 1
      name = table.name or split
      yield self._example(table, labels, name, where, number, header, row)
    if not found:
      others = ", ".join(sorted(languages))
      raise ValueError(
        f"{path}: no row of the language {self.language!r}; there are rows"
        f" of {others}"
        if others
        else f"{path}: no row beside the header"
        if table.header and tf.io.gfile.stat(path).length
        else f"{path}: the file is empty"
      )

  def _example(self, table, labels, name, where, number, header, row):
    key = number if table.guid is None else row[table.guid]
    label = gold = None
    if table.label is not None:
      label = self._label(row[table.label], labels, where, table.label)
    if table.gold in header:
      gold = row[header.index(table.gold)]
      gold = self.synonyms.get(gold, gold)
    return InputExample(
      guid=f"{name}-{key}",
      text_a=row[table.text_a],
      text_b=None if table.text_b is None else row[table.text_b],
      label=label,
      row_id=row[header.index(table.row_id)]
      if table.row_id in header
      else None,
      gold=gold,
    )

  def _label(self, text, labels, where, column):
    """The label in its own spelling."""
    label = self.synonyms.get(text, text)
    if label not in labels:
      place = "the last column" if column < 0 else f"column {column + 1}"
      raise ValueError(
        f"{where}: the label {text[:80]!r} in {place} is not one of"
        f" {', '.join(labels)}; correct the row or take it out"
      )
    return label

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
    if example.text_a.strip():
      yield example
    elif tally is not None:
      tally["blank"] += 1


def _rows(path, table):
  """Yields ("file:line", row number from 0, header, row), header row excluded.

  Raises:
    ValueError: a row lacks a column.
  """
  header = []
  columns = table.columns()
  needed = 1 + max(columns)
  from_end = min(columns) < 0
  for number, (line_number, line) in enumerate(files.read_lines(path)):
    row = line.split("\t")
    if number == 0 and table.header:
      header = row
      continue
    where = f"{path}:{line_number}"
    if len(row) < needed or (from_end and header and len(row) != len(header)):
      raise ValueError(
        f"{where}: {len(row)} column{'s' * (len(row) != 1)} separated by"
        f" tabs, but "
        + (
          f"the header has {len(header)}"
          if from_end and header
          else f"at least {needed} are needed"
        )
        + f"; the row begins {line[:60]!r}"
      )
    yield where, number, header, row


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
