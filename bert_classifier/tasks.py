"""Tasks: files, columns and labels, and how they become examples.

A task is data: a subclass of `DataProcessor` that names its labels and, for
each split, a `Table`. Reading, headers, blank lines and errors live once, in
`TaskData` and `table_files`.

  for example in TaskData(MrpcProcessor(), "glue/MRPC").examples("train"):
    print(example.guid, example.text_a, example.text_b, example.label)
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import os
from typing import Optional, Union

import tensorflow.compat.v1 as tf

from bert_classifier import (
  errors,
  files,
  plain_texts,
  progress,
  table_files,
  targets,
)


class InputExample:
  """A text, or a pair of texts, with its label.

  Args and attributes:
    guid: name of the example, unique in its split.
    text_a: the text, or the first of the pair.
    text_b: the second text, or None.
    label: one of the task's labels; of a task of several classes those that
      hold, separated by `|`; of a number its text; None in a test set.
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
  """Fills the last batch where batches must be whole, and is no example.

  A TPU computes batches of one size only. A filling has weight 0 in every
  metric and is left out of every output.
  """


@dataclasses.dataclass(frozen=True)
class Table:
  """Describes the file and the columns of a split.

  A column is given as its number, from 0, or from the end where negative, or as
  its name in the header.

  Attributes:
    file: name below data_dir; `{language}` stands for the task's language.
    header: whether the first row is a header.
    text_a: column of the text.
    text_b: column of the second text, None for single texts.
    label: column of the label; None in a test set only.
    guid: column that makes the guid; the row's number where None.
    name: what the guid begins with; the split's name where None.
    language: column that is compared with the task's language; rows of another
      language are skipped.
    row_id, gold: columns of a test file's own id and of the label that it gives
      away; a header need not have them.
    ragged: whether rows may have more cells than the header, or other numbers
      of cells than the first row, as in SNLI's files.
    open_quotes: whether texts may begin with a quote that they never close, as
      in MRPC's files; else a warning counts them.
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
  ragged: bool = False
  open_quotes: bool = False

  def numbered(self, header, path):
    """Returns the table with a number for each column that is named.

    Args:
      header: the names of the columns; empty where the file has none.
      path: the file, for the error.

    Raises:
      UserError: the header lacks a name, or repeats it.
    """
    numbers = {}
    for role in (*_NEEDED_COLUMNS, *_OTHER_COLUMNS):
      column = getattr(self, role)
      if not isinstance(column, str):
        continue
      if header.count(column) > 1:
        raise errors.UserError(
          f"{path}:1: the header has the column {column!r}, the task's {role},"
          f" {header.count(column)} times; rename all but one"
        )
      if column not in header and role in _NEEDED_COLUMNS:
        raise _missing_column(path, column, role, header)
      numbers[role] = header.index(column) if column in header else None
    return dataclasses.replace(self, **numbers)

  def text_columns(self):
    """Returns the list of the columns of texts."""
    return [c for c in (self.text_a, self.text_b) if c is not None]

  def columns(self):
    """Returns the list of the columns that every row must have."""
    roles = (*_NEEDED_COLUMNS, *_OTHER_COLUMNS)
    columns = (getattr(self, role) for role in roles)
    return [column for column in columns if column is not None]

  def describe(self):
    """Returns the columns that decide the examples, by role, for JSON."""
    return {
      role: getattr(self, role)
      for role in ("label", "language", "text_a", "text_b")
    }


def _missing_column(path, column, role, header):
  """Returns the error of a header that lacks a column."""
  names = ", ".join(repr(name[:40]) for name in header)
  return errors.UserError(
    f"{path}:1: there is no column {column!r}, which the task's Table names as"
    f" its {role}; "
    + (
      f"the header has {names}"
      if header
      else "the Table says that the file has no header"
    )
    + table_files.suggest_separator(header)
  )


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
    kind: what is predicted: "single_label", "multi_label" or "regression"
      (which has no labels). None for what the flags say, one label if nothing.
    threshold: probability from which on one of several labels holds.
    metric: the metric that counts, one of `metrics.METRICS`; None for that of
      the kind.
    synonyms: other spellings of labels in the files.
    language: which files and rows to take, where a task has several.
  """

  labels = ()
  tables = {}
  kind = None
  threshold = 0.5
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
    return self._list_labels(self.labels)

  def get_target(self):
    """Returns what is predicted: see `targets`.

    Raises:
      UserError: there is no such kind.
    """
    kind = self.kind or "single_label"
    if kind not in targets.KINDS:
      raise errors.UserError(
        f"the kind of {type(self).__name__} is {kind!r}, but must be None or"
        f" one of {', '.join(targets.KINDS)}"
      )
    labels = () if kind == "regression" else self.get_labels()
    return targets.make_target(kind, self._list_labels(labels), self.threshold)

  def _list_labels(self, labels):
    """Returns labels as a list of str.

    Raises:
      UserError: they are in no order.
    """
    try:
      return plain_texts.list_labels(labels, type(self).__name__)
    except ValueError as error:
      raise errors.UserError(str(error)) from error

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

  Every reading of a split gives the same examples, or ends with an error: a
  digest of what is read is compared with that of the first reading. So texts,
  features and predictions belong together, although a file is read anew each
  time and never kept in memory.

  A processor's own get_..._examples is called once and its list kept, so that
  an order that is new every time does no harm. An iterator cannot be kept: the
  method is called again, and must give the same examples.

  Args:
    processor: `DataProcessor`.
    data_dir: folder of the task's files.
  """

  def __init__(self, processor, data_dir):
    self.processor, self._data_dir = processor, data_dir
    self._kept, self._digests, self._example_digests = {}, {}, {}
    self._checked_quotes = set()

  def path(self, split):
    """Returns the file of a split, or None where the task has no table."""
    processor = self.processor
    table = processor.tables.get(split)
    if table is None:
      return None
    name = table.file.format(language=processor.language)
    return os.path.join(self._data_dir, name)

  def has_split(self, split):
    """Returns whether the split can be read.

    That is: the processor has a method of its own for it, or a table whose file
    is there.
    """
    if self.has_own_method(split):
      return True
    path = self.path(split)
    return path is not None and tf.io.gfile.exists(path)

  def has_own_method(self, split):
    """Returns True where the processor's own method gives the examples."""
    return self._own_method(split) is not None

  def examples_digest(self, split):
    """Returns the SHA-256 of the texts and labels of a split.

    Raises:
      UserError: as `examples`.
    """
    if split not in self._example_digests:
      sha256 = hashlib.sha256()
      for example in self.examples(split):
        made_of = example.text_a, example.text_b, example.label
        sha256.update(repr(made_of).encode())
      self._example_digests[split] = sha256.hexdigest()
    return self._example_digests[split]

  def source_digest(self, split):
    """Returns the SHA-256 of a split's file, or of its examples.

    Of the examples where the processor's own method gives them. It is that of
    the first reading in a run.

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
        examples of the training set that are left out for an empty text_a.
        Other splits keep them, so that each example has its result.

    Yields:
      `InputExample`s.

    Raises:
      MissingFileError: the file is not there.
      UserError: a row is too short, has an unknown label or is not UTF-8;
        there is no example; one that is no test example has no label. Names
        file and line, or the processor's method. At the end: these are not the
        examples that were read before.
    """
    method = self._own_method(split)
    if method is None:
      return self.table_examples(split, tally)
    return self._own_examples(split, method, tally)

  def table_examples(self, split, tally=None):
    """Reads the file of a split, whatever methods the processor has.

    Args, result and errors as of `examples`.
    """
    synonyms = self.processor.synonyms
    with self._open_table(split, tally) as (table, rows):
      start = f"{table.name or split}-"
      text_a, text_b, guid = table.text_a, table.text_b, table.guid
      row_id, gold = table.row_id, table.gold
      for number, cells, label in rows:
        true_label = None if gold is None else cells[gold]
        yield InputExample(
          f"{start}{number if guid is None else cells[guid]}",
          cells[text_a],
          None if text_b is None else cells[text_b],
          label,
          row_id=None if row_id is None else cells[row_id],
          gold=synonyms.get(true_label, true_label),
        )

  def count(self, split):
    """Returns the number of `examples`: all are checked, and none is kept.

    Raises:
      UserError: as `examples`.
    """
    counter = progress.Counter("checked")
    if self._own_method(split):
      checked = self.examples(split)
      return sum(1 for _ in progress.count_examples(checked, counter))
    with self._open_table(split) as (_, rows):
      return sum(1 for _ in progress.count_examples(rows, counter))

  def release(self, split):
    """Frees the kept examples of a split."""
    self._kept.pop(split, None)

  def changed(self, split):
    """Returns the error that a split is not what was read of it before."""
    if self._own_method(split):
      return errors.UserError(
        f"{self._name_method(split)} gave other examples when it was asked"
        " again: return a list, which is asked for once, or yield the same"
        " examples in the same order"
      )
    return errors.UserError(
      f"{self.path(split)} changed while it was in use: it no longer holds what"
      " was read before. Give the command again when nothing writes to it"
    )

  def _hold(self, split, digest):
    """Compares the digest of a reading with that of the first."""
    if self._digests.setdefault(split, digest) != digest:
      raise self.changed(split)

  def _own_method(self, split):
    """Returns the processor's own get_..._examples, or None."""
    name = f"get_{split}_examples"
    ours = getattr(DataProcessor, name, None)
    theirs = getattr(type(self.processor), name, None)
    return None if theirs is ours else getattr(self.processor, name)

  def _name_method(self, split):
    """Returns the name of the processor's own get_..._examples."""
    return f"{type(self.processor).__name__}.get_{split}_examples"

  def _own_examples(self, split, method, tally):
    """Yields the examples that the processor's own method gives."""
    found = self._kept.get(split)
    if found is None:
      found = method(self._data_dir)
      if found is None:
        found = ()
      if not isinstance(found, collections.abc.Iterator):
        self._kept[split] = found
    sha256, example = hashlib.sha256(), None
    encode = self.processor.get_target().encode
    for number, given in enumerate(found, 1):
      copy = self._copy_example(split, number, given, encode)
      if split == "train" and not copy.text_a.strip():
        if tally is not None:
          tally["blank"] += 1
        continue
      example = copy
      sha256.update(repr(sorted(vars(example).items())).encode())
      yield example
    self._hold(split, sha256.hexdigest())
    if example is None:
      blank = " with a text" if split == "train" else ""
      raise errors.UserError(
        f"{self._name_method(split)} gave no examples{blank}"
      )

  def _copy_example(self, split, number, given, encode):
    """Returns an `InputExample` of what a processor's own method gives.

    That may be an object of any class, with attributes that this project does
    not know: they are no part of the example, nor of its digest.

    Args:
      split: that of the method.
      number: of the example among those given, from 1.
      given: the example.
      encode: of the task's target.

    Raises:
      UserError: it lacks an attribute of 2018's class, a text or a label.
    """
    try:
      example = InputExample(
        given.guid,
        given.text_a,
        given.text_b,
        given.label,
        row_id=getattr(given, "row_id", None),
        gold=getattr(given, "gold", None),
      )
    except AttributeError as error:
      raise errors.UserError(
        f"{self._name_method(split)} gave a {type(given).__name__}, but must"
        f" give InputExamples: {error}"
      ) from error
    if example.label is None and not _may_lack_labels(split):
      raise errors.UserError(
        f"{self._name_method(split)} gave {example.guid!r} without a label,"
        " which only a test set may leave out"
      )
    role = "text_a"
    try:
      example.text_a = plain_texts.read_text(example.text_a)
      if example.text_b is not None:
        role = "text_b"
        example.text_b = plain_texts.read_text(example.text_b)
      example.label, role = plain_texts.read_label(example.label), ""
      encode(example.label)
    except ValueError as error:
      raise errors.UserError(
        f"{self._name_method(split)} gave {example.guid!r}, example {number}:"
        f" {role}{' is ' * bool(role)}{error}"
      ) from error
    return example

  @contextlib.contextmanager
  def _open_table(self, split, tally=None):
    """Yields the `Table` of a split, columns by number, and its examples' rows.

    They are read within the context; at its end the digest of what was read is
    compared with that of the first reading.
    """
    path = self._existing(split)
    sha256 = hashlib.sha256()
    try:
      file = table_files.open_table(path, self.processor.tables[split], sha256)
      yield file.table, self._choose_rows(file, split, tally)
    except ValueError:
      # A change of the file explains more than what it led to.
      self._hold(split, files.hash_file(path))
      raise
    self._hold(split, sha256.hexdigest())

  def _choose_rows(self, file, split, tally):
    """Yields (row number, cells, label) of the rows that are examples.

    They are those of the task's language, in a training set those with a text.

    Args:
      file: `table_files.TableFile`.
      split, tally: see `examples`.
    """
    read_label = self._label_reader()
    table, language = file.table, self.processor.language
    text_column = table.text_a if split == "train" else None
    is_checked = split in self._checked_quotes  # by a reading before
    text_columns = [] if is_checked else table.text_columns()
    number = 0
    languages = collections.Counter()
    label, blank, found = None, 0, False
    quotes = table_files.Quotes()
    for line, number, cells in file.rows:
      if table.language is not None:
        languages[cells[table.language]] += 1
        if cells[table.language] != language:
          continue
      if table.label is not None:
        try:
          label = read_label(cells[table.label])
        except ValueError as error:
          raise table_files.wrong_label(file, line, number, error) from error
      if text_column is not None and not cells[text_column].strip():
        blank += 1
        continue
      found = True
      for column in text_columns:
        if cells[column][:1] == '"':
          quotes.add(line, cells[column])
      yield number, cells, label
    if not is_checked:
      quotes.warn(file, number + 1)
      self._checked_quotes.add(split)
    if tally is not None and blank:
      tally["blank"] += blank
    if not found:
      reason = _why_nothing(file.header, blank, languages, language)
      raise errors.UserError(f"{file.path}: {reason}")

  def _label_reader(self):
    """Returns a function from a cell to the label, checked by the target."""
    synonyms = self.processor.synonyms
    encode = self.processor.get_target().encode

    @functools.lru_cache(maxsize=1024)
    def read_label(cell):
      label = synonyms.get(cell, cell)
      encode(label)
      return label

    return read_label

  def _existing(self, split):
    """Returns the file of a split.

    Raises:
      MissingFileError: it is not there.
      UserError: the task has no table of the split, or one without a label
        where there must be one.
    """
    path = self.path(split)
    owner = type(self.processor).__name__
    if path is None:
      raise errors.UserError(
        f"{owner} has neither a table {split!r} nor a method"
        f" get_{split}_examples"
      )
    if self.processor.tables[split].label is None and not (
      _may_lack_labels(split)
    ):
      raise errors.UserError(
        f"{path}: the Table of {owner}.tables[{split!r}] names no label column,"
        " which only a test set may leave out"
      )
    if not tf.io.gfile.exists(path) or tf.io.gfile.isdir(path):
      raise errors.MissingFileError(
        f"{path}: no such file; it should hold the {split} set of the task"
        f"{self._explain_folder()}"
      )
    return path

  def _explain_folder(self):
    """Returns what is wrong with data_dir itself, "" if nothing."""
    folder = self._data_dir
    if tf.io.gfile.isdir(folder):
      return ""
    if tf.io.gfile.exists(folder):
      return f". --data_dir={folder} is a file: give the folder that it is in"
    return f". --data_dir={folder} is not there: there is no such folder"


def _may_lack_labels(split):
  """Returns whether a split is predicted only, not trained or measured on."""
  return split.startswith("test")


def _why_nothing(header, blank, languages, language):
  """Returns the reason why a file gave no example, for an error.

  Args:
    header: list of the names of the columns.
    blank: number of rows without a text.
    languages: names of the languages of the rows, where a column holds them.
    language: that of the task.
  """
  if blank:
    return f"no example has a text: {blank} are blank"
  if languages:
    others = ", ".join(sorted(languages))
    return f"no row of the language {language!r}; there are rows of {others}"
  return "no row beside the header" if header else "the file is empty"
