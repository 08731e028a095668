"""Tasks: which files, columns and labels, and how they become examples.

A task is data: a subclass of `DataProcessor` that names its labels and, for
each split, a `Table`. Reading, headers, blank lines and errors live once, in
`TaskData` and `table_files`.

  for example in TaskData(MrpcProcessor(), "glue/MRPC").examples("train"):
    print(example.guid, example.text_a, example.text_b, example.label)
"""

import collections
import dataclasses
import hashlib
import os
from typing import Optional, Union

import tensorflow.compat.v1 as tf

from bert_classifier import errors, files, table_files, targets


class InputExample:
  """One text, or pair of texts, and what is known of it.

  Args and attributes:
    guid: name of the example, unique in its split.
    text_a: the text, or the first of the pair.
    text_b: the second text, or None.
    label: one of the task's labels; None in a test set.
    row_id: the file's own id of the example, or None.
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

  A TPU computes batches of one size only; this has weight 0 in every metric
  and is left out of every output.
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
    """Returns the table with a number for each column that is named.

    Args:
      header: the names of the columns; empty where the file has none.
      path: the file, for the error.

    Raises:
      UserError: the header lacks a name.
    """
    numbers = {}
    for role in (*_NEEDED_COLUMNS, *_OTHER_COLUMNS):
      column = getattr(self, role)
      if column in header:
        numbers[role] = header.index(column)
      elif isinstance(column, str):
        if role in _NEEDED_COLUMNS:
          raise errors.UserError(
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
    """Returns the list of the columns that every row must have."""
    roles = (*_NEEDED_COLUMNS, *_OTHER_COLUMNS)
    columns = (getattr(self, role) for role in roles)
    return [column for column in columns if column is not None]


_NEEDED_COLUMNS = ("text_a", "text_b", "label", "guid", "language")
_OTHER_COLUMNS = ("row_id", "gold")


class DataProcessor:
  """A task. Subclasses give `labels` and `tables`, and what else differs.

  A subclass in the manner of 2018, which gives `get_labels` and the three
  `get_..._examples` instead, or some of them, works as well: `TaskData` asks
  these methods.

  Attributes:
    labels: the labels, in the order of their ids.
    tables: a `Table` for each split: train, dev, test, and where there is a
      second evaluation set dev_mismatched and test_mismatched.
    metric: the metric beside accuracy: "matthews_correlation", "f1" or None.
    synonyms: other spellings of labels in the files.
    language: which files and rows to take, where a task has several.
  """

  labels = ()
  tables = {}
  metric = None
  synonyms = {}
  language = None

  def get_train_examples(self, data_dir):
    """Returns the list of `InputExample`s to train on."""
    return list(TaskData(self, data_dir).table_examples("train"))

  def get_dev_examples(self, data_dir):
    """Returns the list of `InputExample`s to evaluate on."""
    return list(TaskData(self, data_dir).table_examples("dev"))

  def get_test_examples(self, data_dir):
    """Returns the list of `InputExample`s to predict."""
    return list(TaskData(self, data_dir).table_examples("test"))

  def get_labels(self):
    """Returns the list of the labels, in the order of their ids."""
    # A lone string is one label, not its letters.
    labels = self.labels
    return [labels] if isinstance(labels, str) else list(labels)

  def get_target(self):
    """Returns what is predicted: see `targets`."""
    return targets.OneClass(self.get_labels())

  def has_pairs(self):
    """Returns whether an example may have a second text."""
    return not self.tables or any(
      table.text_b is not None for table in self.tables.values()
    )

  @classmethod
  def _read_tsv(cls, input_file, quotechar=None):
    """Returns the list of a file's rows, each a list of its cells."""
    if quotechar is None:
      return [cells for _, cells in table_files.read_tsv(input_file)]
    return table_files.read_quoted_tsv(input_file, quotechar)


class TaskData:
  """The examples of a task in a folder.

  Every reading of a split gives the same examples, or ends with an error: what
  is read is digested as it goes and held against what was read before. So
  texts, features and predictions belong together, although a file is read
  anew each time and never held.

  What a processor's own get_..._examples returns is kept, and asked for once,
  so that an order that is new every time does no harm. An iterator cannot be
  kept: the method is asked again, and must give the same examples.

  Args:
    processor: `DataProcessor`.
    data_dir: folder of the task's files.
  """

  def __init__(self, processor, data_dir):
    self.processor, self._data_dir = processor, data_dir
    self._kept, self._digests = {}, {}

  def path(self, split):
    """Returns the file of a split, or None where the task has no table."""
    processor = self.processor
    table = processor.tables.get(split)
    if table is None:
      return None
    name = table.file.format(language=processor.language)
    return os.path.join(self._data_dir, name)

  def has_split(self, split):
    """Returns whether the split has a table and its file is there."""
    path = self.path(split)
    return path is not None and tf.io.gfile.exists(path)

  def source_digest(self, split):
    """Returns the SHA-256 of what the examples are made of.

    That is the bytes of the file, or the examples that the processor's own
    method gives. It is that of the first reading in a run.

    Raises:
      UserError: as `examples`.
    """
    if split not in self._digests:
      if self._own_method(split):
        collections.deque(self.examples(split), maxlen=0)
      else:
        self._hold(split, files.hash_file(self._existing(split)))
    return self._digests[split]

  def examples(self, split, tally=None):
    """Reads the examples of a split one by one, in the file's order.

    Args:
      split: a key of the processor's `tables`, or what stands in the name of
        its own get_..._examples.
      tally: a `collections.Counter` in which to count, as "blank", the
        examples of the training set that are left out for an empty text_a. In
        other splits they stay, so that results keep to their examples.

    Yields:
      `InputExample`s.

    Raises:
      MissingFileError: the file is not there.
      UserError: a row is too short, has an unknown label or is not UTF-8, or
        there is no row; names file and line. At the end: these are not the
        examples that were read before; names file or method.
    """
    method = self._own_method(split)
    if method is None:
      return self.table_examples(split, tally)
    return self._own_examples(split, method, tally)

  def table_examples(self, split, tally=None):
    """Reads the file of a split, whatever methods the processor has.

    Args, result and errors as of `examples`.
    """
    return _with_text(self._examples_of_rows(split), split, tally)

  def count(self, split):
    """Returns the number of `examples`: all are checked, and none is kept.

    Raises:
      UserError: as `examples`.
    """
    if self._own_method(split):
      return sum(1 for _ in self.examples(split))
    rows = self._rows(split)
    if split != "train":
      return sum(1 for _ in rows)
    return sum(
      1 for table, row, _ in rows if _has_text(row.cells[table.text_a])
    )

  def release(self, split):
    """Lets go of the examples of a split that were kept."""
    self._kept.pop(split, None)

  def changed(self, split):
    """Returns the error that a split is not what was read of it before."""
    if self._own_method(split):
      return errors.UserError(
        f"{type(self.processor).__name__}.get_{split}_examples gave other"
        " examples when it was asked again: return a list, which is asked for"
        " once, or yield the same examples in the same order"
      )
    return errors.UserError(
      f"{self.path(split)} changed while it was in use: it no longer holds what"
      " was read before. Give the command again when nothing writes to it"
    )

  def _hold(self, split, digest):
    """Holds the digest of a reading against that of the first."""
    if self._digests.setdefault(split, digest) != digest:
      raise self.changed(split)

  def _own_method(self, split):
    """Returns the processor's own get_..._examples, or None."""
    name = f"get_{split}_examples"
    ours = getattr(DataProcessor, name, None)
    theirs = getattr(type(self.processor), name, None)
    return None if theirs is ours else getattr(self.processor, name)

  def _own_examples(self, split, method, tally):
    """Yields the examples that the processor's own method gives."""
    found = self._kept.get(split)
    if found is None:
      found = method(self._data_dir)
      if not isinstance(found, collections.abc.Iterator):
        self._kept[split] = found
    sha256 = hashlib.sha256()
    for example in _with_text(found, split, tally):
      sha256.update(repr(sorted(vars(example).items())).encode())
      yield example
    self._hold(split, sha256.hexdigest())

  def _examples_of_rows(self, split):
    synonyms = self.processor.synonyms
    for table, row, label in self._rows(split):
      key = row.number if table.guid is None else row.cells[table.guid]
      gold = row.cell(table.gold)
      yield InputExample(
        guid=f"{table.name or split}-{key}",
        text_a=row.cells[table.text_a],
        text_b=row.cell(table.text_b),
        label=label,
        row_id=row.cell(table.row_id),
        gold=synonyms.get(gold, gold),
      )

  def _rows(self, split):
    """Yields of each example its `Table`, columns by number, row and label."""
    path = self._existing(split)
    sha256 = hashlib.sha256()
    try:
      yield from self._labelled_rows(path, split, sha256)
    except ValueError:
      # A change of the file explains more than what it led to.
      self._hold(split, files.hash_file(path))
      raise
    self._hold(split, sha256.hexdigest())

  def _labelled_rows(self, path, split, sha256):
    """Yields as `_rows`, of the rows of the task's language."""
    processor = self.processor
    header, table, rows = table_files.open_table(
      path, processor.tables[split], sha256
    )
    encode = processor.get_target().encode
    languages = collections.Counter()
    label, found = None, False
    for row in rows:
      if table.language is not None:
        language = row.cells[table.language]
        languages[language] += 1
        if language != processor.language:
          continue
      if table.label is not None:
        label = row.cells[table.label]
        label = processor.synonyms.get(label, label)
        try:
          encode(label)
        except ValueError as error:
          raise table_files.wrong_label(
            path, row, table, header, error
          ) from error
      found = True
      yield table, row, label
    if not found:
      reason = _why_nothing(header, languages, processor.language)
      raise errors.UserError(f"{path}: {reason}")

  def _existing(self, split):
    path = self.path(split)
    if path is None:
      raise errors.UserError(
        f"{type(self.processor).__name__} has neither a table {split!r} nor a"
        f" method get_{split}_examples"
      )
    if not tf.io.gfile.exists(path) or tf.io.gfile.isdir(path):
      raise errors.MissingFileError(
        f"{path}: no such file; it should hold the {split} set of the task"
      )
    return path


def _with_text(examples, split, tally=None):
  """Yields the examples, but of the training set those alone with a text."""
  for example in examples:
    if split != "train" or _has_text(example.text_a):
      yield example
    elif tally is not None:
      tally["blank"] += 1


def _has_text(text_a):
  """Returns whether there is anything to train on."""
  return bool(text_a.strip())


def _why_nothing(header, languages, language):
  """Returns why a file gave no example, for an error."""
  if languages:
    others = ", ".join(sorted(languages))
    return f"no row of the language {language!r}; there are rows of {others}"
  return "no row beside the header" if header else "the file is empty"
