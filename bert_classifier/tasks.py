"""Tasks: files, columns and labels, and how they become examples.

A task is data: a subclass of `DataProcessor` that names its labels and, for
each split, a `Table`. Reading, headers, blank lines and errors live once, in
`TaskData` and `table_files`.

  for example in TaskData(MrpcProcessor(), "glue/MRPC").examples("train"):
    print(example.guid, example.text_a, example.text_b, example.label)
"""

import collections
import contextlib
import functools
import hashlib
import heapq
import os
import random

from absl import logging
import tensorflow.compat.v1 as tf

from bert_classifier import (
  csv_files,
  errors,
  files,
  plain_texts,
  progress,
  table_files,
  targets,
)
from bert_classifier.examples import (
  InputExample,
  PaddingInputExample,  # noqa: F401 - for importers
  copy_example,
  failures_named,
)


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
    trained_on: name of the task whose models predict this one, where it has no
      training set.
    submissions: by test split, the name of the file that GLUE takes.
    number_range: the least and the largest number that GLUE takes, or None.
    language: which files and rows to take, where a task has several.
  """

  labels = ()
  tables = {}
  kind = None
  threshold = 0.5
  metric = None
  synonyms = {}
  trained_on = None
  submissions = {}
  number_range = None
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
    target, labels = targets.KINDS[kind], ()
    if target.has_classes:
      with failures_named(f"{type(self).__name__}.get_labels"):
        labels = self.get_labels()
    return target.make(self._list_labels(labels), self.threshold)

  def check_target(self, target):
    """Raises a UserError where the labels are not usable."""
    target.check(type(self).__name__)

  def explain_labels(self):
    """Returns what an error says of where the labels are from."""
    return ""

  def _list_labels(self, labels):
    """Returns labels as a list of str.

    Raises:
      UserError: they are in no order.
    """
    try:
      return plain_texts.list_labels(labels, type(self).__name__)
    except ValueError as error:
      raise errors.UserError(str(error)) from error

  def expects_pairs(self):
    """Returns whether examples have a second text; None where some may."""
    kinds = {table.text_b is not None for table in self.tables.values()}
    return kinds.pop() if len(kinds) == 1 else None

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
    return csv_files.read_quoted_tsv(input_file, quotechar)


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
    max_train_examples: size of the random part of the training set that stands
      for it; None for all of it.
  """

  def __init__(self, processor, data_dir, max_train_examples=None):
    self.processor, self._data_dir = processor, data_dir
    self.max_train_examples, self._drawn = max_train_examples, None
    self._kept, self._digests, self._example_digests = {}, {}, {}
    self._checked_quotes, self._strata = set(), {}

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
    if split == "train" and self.max_train_examples:
      return self._drawn_examples(tally)
    return self._all_examples(split, tally)

  def _all_examples(self, split, tally=None):
    """Returns an iterator of the examples of a split, drawn or not."""
    method = self._own_method(split)
    if method is None:
      return self.table_examples(split, tally)
    return self._own_examples(split, method, tally)

  def _drawn_examples(self, tally):
    """Yields the examples of the training set that were drawn.

    Reads to the end, where it is found out that the file changed.
    """
    if self._drawn is None:
      total = self._count_all("train")
      self._drawn = draw(total, self.max_train_examples)
      logging.info(
        "train: --max_train_examples=%d: %d of %s",
        self.max_train_examples,
        len(self._drawn),
        plain_texts.count(total),
      )
    for number, example in enumerate(self._all_examples("train", tally)):
      if number in self._drawn:
        yield example

  def table_examples(self, split, tally=None):
    """Reads the file of a split, whatever methods the processor has.

    Args, result and errors as of `examples`.
    """
    synonyms = self.processor.synonyms
    with self._open_table(split, tally) as (file, rows):
      table = file.table
      start = f"{table.name or split}-"
      text_a, text_b, guid = table.text_a, table.text_b, table.guid
      row_id, gold = table.row_id, table.gold
      read_gold = None if gold is None else file.gold_reader(gold)
      for number, cells, label in rows:
        true_label = read_gold and read_gold(cells)
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
    if split == "train" and self.max_train_examples:
      return sum(1 for _ in self.examples(split))
    return self._count_all(split)

  def _count_all(self, split):
    """Returns the number of the examples of a split, drawn or not."""
    counter = progress.Counter("checked")
    if self._own_method(split):
      checked = self._all_examples(split)
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
    """Compares the digest of a reading with that of the first.

    A file that is divided among splits must be the same for all of them.
    """
    self._digests.setdefault(split, digest)
    table = self.processor.tables.get(split)
    parts = {split, "train", "dev"} if table and table.share else {split}
    if {self._digests.get(part, digest) for part in parts} != {digest}:
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
    sha256, example = hashlib.sha256(), None
    name, encode = self._name_method(split), self.processor.get_target().encode
    for number, given in enumerate(self._call_own_method(split, method), 1):
      copy = copy_example(
        given, number, name, encode, may_lack_label=_may_lack_labels(split)
      )
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

  def _call_own_method(self, split, method):
    """Yields what the processor's own method gives."""
    with failures_named(self._name_method(split)):
      found = self._kept.get(split)
      if found is None:
        found = method(self._data_dir)
        if found is None:
          found = ()
        if not isinstance(found, collections.abc.Iterator):
          self._kept[split] = found
      yield from found

  @contextlib.contextmanager
  def _open_table(self, split, tally=None):
    """Yields the `TableFile` of a split, and its examples' rows.

    They are read within the context; at its end the digest of what was read is
    compared with that of the first reading.
    """
    path = self._existing(split)
    table = self.processor.tables[split]
    if table.share is not None and path not in self._strata:
      self._strata[path] = self._count_strata(split, path)
    sha256 = hashlib.sha256()
    try:
      file = table_files.open_table(path, table, sha256)
      yield file, self._choose_rows(file, split, tally)
    except ValueError:
      # A change of the file explains more than what it led to.
      self._hold(split, files.hash_file(path))
      raise
    self._hold(split, sha256.hexdigest())

  def _count_strata(self, split, path):
    """Returns the Counter of the labels of all examples of a split's file."""
    encode, sha256 = self._stratum_encoder(), hashlib.sha256()
    table = self.processor.tables[split]
    file = table_files.open_table(path, table, sha256)
    rows = self._labelled_rows(file, file.table.text_a, collections.Counter())
    counter = progress.Counter("divided")
    rows = progress.count_examples(rows, counter)
    counts = collections.Counter(encode(label) for _, _, _, label in rows)
    self._hold(split, sha256.hexdigest())
    return counts

  def _stratum_encoder(self):
    """Returns a function from a label to what a dev split is balanced by."""
    target = self.processor.get_target()
    if not target.labels:  # numbers are split as they come
      return lambda label: None
    return functools.lru_cache(maxsize=1024)(target.encode)

  def _choose_rows(self, file, split, tally):
    """Yields (row number, cells, label) of the rows that are examples.

    They are those of the task's language, in a training set those with a text,
    and of a shared file those of the split.

    Args:
      file: `table_files.TableFile`.
      split, tally: see `examples`.
    """
    table, found = file.table, False
    must_have_text = split == "train" or table.share is not None
    left_out = collections.Counter()
    if table.share is not None:
      is_of_split = table.share.chooser(self._strata[file.path])
      stratum = self._stratum_encoder()
    # Their quotes are looked at in the first reading.
    is_first = split not in self._checked_quotes
    has_plain_quotes = is_first and table.format == "tsv"
    text_columns = table.text_columns() if has_plain_quotes else []
    quotes, number = table_files.Quotes(), 0
    for line, number, cells, label in self._labelled_rows(
      file, table.text_a if must_have_text else None, left_out
    ):
      if table.share is not None and not is_of_split(stratum(label)):
        continue
      found = True
      for column in text_columns:
        if cells[column][:1] == '"':
          quotes.add(line, cells[column])
      yield number, cells, label
    if is_first:
      quotes.warn(file, number + 1)
      file.warn_of_left_out(split)
      self._checked_quotes.add(split)
    blank = left_out.pop("blank", 0)
    if tally is not None and blank:
      tally["blank"] += blank
    if not found:
      has_header = table.header and file.header
      reason = table_files.explain_nothing(
        has_header, blank, left_out, self.processor.language
      )
      raise errors.UserError(f"{file.path}: {reason}")

  def _labelled_rows(self, file, text_column, left_out):
    """Yields (line, row number, cells, label) of the rows with a label.

    Args:
      file: `table_files.TableFile`.
      text_column: number of the column without whose text a row is left out, or
        None.
      left_out: `collections.Counter` of the rows without a text, as "blank",
        and of those of another language by ("language", its name).
    """
    read_label, read_cell = self._label_reader(), None
    table, language = file.table, self.processor.language
    if table.label is not None:
      read_cell = file.label_reader(table.label)
    label = None
    for line, number, cells in file.rows:
      if table.language is not None and cells[table.language] != language:
        left_out["language", cells[table.language]] += 1
        continue
      if read_cell is not None:
        try:
          cell = read_cell(cells)
          if cell == table.no_label and cell is not None:
            file.left_out[f"the label {cell!r}, which is none"] += 1
            continue
          label = read_label(cell)
        except ValueError as error:
          reason = str(error)
          if isinstance(error, targets.UnknownLabelError):
            reason += self.processor.explain_labels()
          raise table_files.wrong_label(file, line, number, reason) from error
      if text_column is not None and not cells[text_column].strip():
        left_out["blank"] += 1
        continue
      yield line, number, cells, label

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
      if self.processor.trained_on:
        raise errors.UserError(
          f"{owner} is only predicted (--do_predict), by a model that was"
          f" trained on {self.processor.trained_on}: it has no {split} set"
        )
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
      problem = "a folder, not a file"
      if not tf.io.gfile.exists(path):
        problem = "no such file"
      raise errors.MissingFileError(
        f"{path}: {problem}; it should hold the {split} set of the task"
        f"{self._explain_folder()}"
      )
    return path

  def _explain_folder(self):
    """Returns what is wrong with data_dir itself, "" if nothing."""
    folder = self._data_dir
    if not folder or tf.io.gfile.isdir(folder):
      return ""
    if tf.io.gfile.exists(folder):
      return f". --data_dir={folder} is a file: give the folder that it is in"
    return f". --data_dir={folder} is not there: there is no such folder"


def draw(total, most):
  """Returns the set of the numbers of some of `total` examples.

  They are a function of the two numbers; those of a smaller `most` are among
  those of a larger one.
  """
  generator = random.Random(0)
  keys = ((generator.random(), number) for number in range(total))
  return {number for _, number in heapq.nsmallest(most, keys)}


def _may_lack_labels(split):
  """Returns whether a split is predicted only, not trained or measured on."""
  return split.startswith("test")
