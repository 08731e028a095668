"""Reads the rows of a task's files, with line numbers for errors.

Files are UTF-8. In the format "tsv" a row is a line, columns are separated by
tabs, and quotes have no meaning; see `csv_files` and `json_files` for the
formats "csv" and "jsonl". A byte-order mark, CRLF, a NUL, a lone CR inside a
field and fields of any length are simply read. A line without any character is
no row.
"""

import collections
from collections.abc import Iterator
import dataclasses
import itertools
import json
import operator
import re
from typing import NamedTuple, Optional, Union

from absl import logging

from bert_classifier import (
  csv_files,
  errors,
  files,
  foreign_files,
  json_files,
)
from bert_classifier.dev_split import Share

# How the rows of a file are written, by the endings of its name.
ENDINGS = {
  "tsv": "tsv",
  "csv": "csv",
  "jsonl": "jsonl",
  "ndjson": "jsonl",
  "json": "jsonl",
}
FORMATS = tuple(dict.fromkeys(ENDINGS.values()))


@dataclasses.dataclass(frozen=True)
class Table:
  """Describes the file and the columns of a split.

  A column is given as its number, from 0, or from the end where negative, or as
  its name in the header; of JSON lines as a key, or keys joined by dots.

  Attributes:
    file: name below data_dir; `{language}` stands for the task's language.
    header: whether the first row is a header.
    text_a: column of the text.
    text_b: column of the second text, None for single texts.
    label: column of the label; None in a test set only. Several columns, in a
      tuple, have 0 or 1 each, by which the label of its name holds.
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
    format: one of `FORMATS`. JSON lines have no header.
    skip_short: whether rows that lack a needed column are left out and counted,
      as the few of QQP that a line end in a text has broken.
    no_label: text of a label that says that there is none, as "-" in SNLI; such
      rows are left out and counted.
    share: `dev_split.Share` of the file's examples; None for all.
  """

  file: str
  header: bool
  text_a: Union[int, str]
  text_b: Union[int, str, None] = None
  label: Union[int, str, tuple, None] = None
  guid: Union[int, str, None] = None
  name: Optional[str] = None
  language: Union[int, str, None] = None
  row_id: Union[int, str, None] = None
  gold: Union[int, str, tuple, None] = None
  ragged: bool = False
  open_quotes: bool = False
  format: str = "tsv"
  skip_short: bool = False
  no_label: Optional[str] = None
  share: Optional[Share] = None

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
      columns = getattr(self, role)
      found = [
        self._number(column, role, header, path)
        for column in _flatten([columns])
      ]
      if isinstance(columns, tuple):
        numbers[role] = None if None in found else tuple(found)
      elif columns is not None:
        (numbers[role],) = found
    return dataclasses.replace(self, **numbers)

  def _number(self, column, role, header, path):
    """Returns the number of a column; None where it need not be there."""
    if not isinstance(column, str):
      return column
    if header.count(column) > 1:
      raise errors.UserError(
        f"{path}:1: the header has the column {column!r}, the task's {role},"
        f" {header.count(column)} times; rename all but one"
      )
    if column in header:
      return header.index(column)
    if role in _NEEDED_COLUMNS:
      raise _missing_column(path, column, role, header)
    return None

  def text_columns(self):
    """Returns the list of the columns of texts."""
    return [c for c in (self.text_a, self.text_b) if c is not None]

  def needed_columns(self):
    """Returns the list of the columns without which there is no example."""
    return _flatten(getattr(self, role) for role in _NEEDED_COLUMNS)

  def columns(self):
    """Returns the list of the columns that every row must have."""
    others = _flatten(getattr(self, role) for role in _OTHER_COLUMNS)
    return [*self.needed_columns(), *others]

  def describe(self):
    """Returns the columns that decide the examples, by role, for JSON."""
    described = {
      role: getattr(self, role)
      for role in ("label", "language", "text_a", "text_b")
    }
    if isinstance(self.label, tuple):
      described["label"] = list(self.label)
    return described


def _flatten(columns):
  """Returns the list of columns, those in tuples too, without None."""
  lists = (one if isinstance(one, tuple) else (one,) for one in columns)
  return [column for one in lists for column in one if column is not None]


def _missing_column(path, column, role, header):
  """Returns the error of a header that lacks a column."""
  names = ", ".join(repr(name[:40]) for name in header)
  return errors.UserError(
    f"{path}:1: there is no column {column!r}, which the task's Table names as"
    f" its {role}; "
    + (
      f"the header has {names}: give the file the task's header, or correct the"
      " Table; --train_file and its like read files of any columns"
      if header
      else "the Table says that the file has no header"
    )
    + suggest_separator(header)
  )


_NEEDED_COLUMNS = ("text_a", "text_b", "label", "guid", "language")
_OTHER_COLUMNS = ("row_id", "gold")


class TableFile(NamedTuple):
  """A file of a task that is being read.

  Attributes:
    path: the file.
    header: list of the names of the columns; empty where there is none.
    table: `Table`, with a number for each column.
    rows: iterator over (line number from 1, number of rows that precede it, the
      header among them, list of cells) of each row behind the header. It raises
      a `UserError` for a row that lacks a column or is unlike the header.
    left_out: `collections.Counter` of the rows that were left out, by reason.
  """

  path: str
  header: list
  table: Table
  rows: Iterator
  left_out: collections.Counter

  def label_reader(self, columns):
    """Returns a function from a row's cells to the text of its label.

    Args:
      columns: `Table.label` or `Table.gold`, by number. Several give the JSON
        list of the names of those whose cell is 1.

    The function raises a ValueError for another cell than 0 and 1 there.
    """
    if not isinstance(columns, tuple):
      return operator.itemgetter(columns)
    names = self.label_names(columns)

    def read(cells):
      holds = [
        _read_holds(name, cells[column]) for name, column in zip(names, columns)
      ]
      return json.dumps(
        list(itertools.compress(names, holds)), ensure_ascii=False
      )

    return read

  def gold_reader(self, columns):
    """Returns `label_reader` of a test set, whose labels may be anything.

    Columns of several labels that have other cells than 0 and 1 are joined.
    """
    read_label = self.label_reader(columns)

    def read(cells):
      try:
        return read_label(cells)
      except ValueError:
        return "|".join(cells[column] for column in columns)

    return read

  def label_names(self, columns):
    """Returns the list of the labels that have a column each."""
    return [
      self.header[column] if self.header else str(column) for column in columns
    ]

  def warn_of_left_out(self, split):
    """Logs how many rows were left out, and why."""
    for reason, count in self.left_out.items():
      logging.warning(
        "%s: %d rows of %s are left out: %s",
        self.path,
        count,
        split,
        reason,
      )


_HOLDS = {"1": True, "0": False, "1.0": True, "0.0": False}
_HOLDS.update({"true": True, "false": False})


def _read_holds(name, cell):
  """Returns whether the label of a column holds, by its cell."""
  holds = _HOLDS.get(cell.strip().lower())
  if holds is None:
    raise ValueError(
      f"the cell of the label {name!r} is {cell!r:.80}, but must be 0 or 1"
    )
  return holds


def read_tsv(path, sha256=None):
  """Yields (line number, list of cells) of each row of a file.

  Args:
    sha256: see `files.read_lines`.

  Raises:
    ValueError: bytes that are not UTF-8; names file and line.
  """
  for line, text in files.read_lines(path, sha256):
    yield line, text.split("\t")


def open_table(path, table, sha256=None):
  """Returns the `TableFile` of a file that a `Table` describes.

  Args:
    path: the file.
    table: `Table`.
    sha256: see `files.read_lines`.

  Raises:
    UserError: the header lacks a name that the table has, or repeats it; the
      file is no text.
  """
  foreign_files.refuse(path)
  if table.format == "jsonl":
    return _open_json_lines(path, table, sha256)
  separator = "\t"
  if table.format == "csv":
    separator = csv_files.find_separator(path, table.header)
    rows = csv_files.read_csv(path, separator, sha256)
  else:
    rows = read_tsv(path, sha256)
  header = []
  if table.header:
    _, header = next(rows, (1, []))
    if not header:
      return TableFile(path, header, table, iter(()), collections.Counter())
  table = table.numbered(header, path)
  left_out = collections.Counter()
  rows = _checked_rows(path, rows, table, header, separator, left_out)
  return TableFile(path, header, table, rows, left_out)


def _open_json_lines(path, table, sha256):
  """Returns the `TableFile` of a file of JSON lines.

  Its header is that of the columns that the table names.
  """
  rows = json_files.read_objects(path, sha256)
  first = next(rows, None)
  header = list(dict.fromkeys(table.columns()))
  left_out = collections.Counter()
  if first is None:
    return TableFile(path, header, table, iter(()), left_out)
  others = [getattr(table, role) for role in _OTHER_COLUMNS]
  for column in _flatten(others):
    if not json_files.has_column(first[1], column):
      header.remove(column)
  numbered = table.numbered(header, path)
  rows = itertools.chain([first], rows)
  may_lack = set(_flatten(others)) - set(_flatten(table.needed_columns()))
  rows = _json_rows(path, rows, header, numbered.text_columns(), may_lack)
  return TableFile(path, header, numbered, rows, left_out)


def _json_rows(path, rows, header, text_columns, may_lack):
  """Yields `TableFile.rows` of pairs (line number, object).

  Args:
    header: the columns to read, in the order of the cells.
    text_columns: numbers of those that are texts.
    may_lack: columns that an object need not have.
  """
  for number, (line, row) in enumerate(rows):
    cells = []
    for index, column in enumerate(header):
      try:
        cell = json_files.read_cell(row, column, index in text_columns)
      except ValueError as error:
        raise errors.UserError(f"{path}:{line}: {column!r} {error}") from error
      if cell is None and column not in may_lack:
        raise errors.UserError(
          f"{path}:{line}: there is no key {column!r}; the line has"
          f" {list_names(json_files.list_columns(row))}"
        )
      cells.append(cell or "")
    yield line, number, cells


def read_header(path, format_name, has_header):
  """Returns the list of the columns of a file, the separator, and the line.

  Their names in the header or, of JSON lines, in the first line; of a file
  without a header their numbers as text. The separator is None where there is
  none.

  Raises:
    UserError: the file is empty or no text, or its first row cannot be read.
  """
  foreign_files.refuse(path)
  separator, first = None, None
  if format_name == "jsonl":
    line, row = next(json_files.read_objects(path), (0, {}))
    first = json_files.list_columns(row)
  elif format_name == "csv":
    separator = csv_files.find_separator(path, has_header)
    line, first = next(csv_files.read_csv(path, separator), (0, []))
  else:
    separator = "\t"
    line, first = next(read_tsv(path), (0, []))
  if not first:
    raise errors.UserError(f"{path}: the file is empty")
  if format_name != "jsonl" and not has_header:
    first = list(map(str, range(len(first))))
  return first, separator, line


def list_names(names):
  """Returns names as an error lists them, at most twenty."""
  shown = [repr(name[:40]) for name in names[:_MOST_NAMES]]
  more = len(names) - len(shown)
  return ", ".join([*shown, *[f"and {more} more"] * bool(more)])


_MOST_NAMES = 20


def _checked_rows(path, rows, table, header, separator, left_out):
  """Yields `TableFile.rows` of pairs (line number, cells).

  Args:
    table: `Table`, with a number for each column.
    separator: of the columns.
    left_out: `TableFile.left_out`.
  """
  columns, is_strict = table.columns(), not table.ragged
  needed = max(1 + max(columns), -min(columns))
  # What is counted from the end is the same column in rows of one length only.
  is_exact = min(columns) < 0 or (is_strict and not header)
  width = len(header)
  for number, (line, cells) in enumerate(rows, start=bool(header)):
    is_longer = header and separator != "\t" and len(cells) > width
    if is_longer and not any(cells[width:]):
      cells = cells[:width]  # a spreadsheet has written empty cells behind
    if len(cells) < needed:
      if table.skip_short:
        left_out["too few columns"] += 1
        continue
      expected = f"at least {needed} are needed"
      if header:
        expected += f", and the header has {width}"
      raise _miscounted(path, line, cells, expected, separator)
    if len(cells) != width and (is_exact or (is_strict and len(cells) > width)):
      if width:
        first = "header" if header else "first row"
        expected = f"the {first} has {width}"
        if len(cells) > width:
          expected += _explain_more(separator)
        raise _miscounted(path, line, cells, expected, separator)
      width = len(cells)
    yield line, number, cells


def _explain_more(separator):
  if separator == "\t":
    return "; is there a tab in a text? Make it a space"
  return f"; a text with {separator!r} in it must stand in quotes"


def _miscounted(path, line, cells, expected, separator):
  """Returns the error of a row that has not the columns that are expected."""
  count, row = len(cells), separator.join(cells)
  text = (
    f"{path}:{line}: {count} column{'s' * (count != 1)} separated by"
    f" {csv_files.describe_separator(separator)}, but {expected}; the row"
    f" begins {row[:60]!r}"
  )
  if separator == "\t":
    text += suggest_separator(cells)
    if any(cell.startswith('"') and cell.count('"') % 2 for cell in cells):
      text += (
        "; a quote in it never closes: quotes are read as ordinary characters,"
        " so write the file without quoting, each row on one line"
      )
  return errors.UserError(text)


def suggest_separator(cells, format_name="tsv"):
  """Returns a hint where a row seems to have other separators, else "".

  Args:
    cells: list of the row's cells.
    format_name: "tsv" or "csv".
  """
  if len(cells) != 1:
    return ""
  other = re.search(r"[|:^~]", cells[0])
  if format_name == "csv" and other:
    return (
      f"; do {other[0]!r} separate the columns? Write sep={other[0]} as the"
      " first line of the file"
    )
  if format_name == "csv" or not re.search("[,;]", cells[0]):
    return ""
  return (
    "; is the file separated by commas or semicolons? --task_name=csv with"
    " --train_file, --dev_file and --test_file reads such files"
  )


class Quotes:
  """Counts texts that begin with a quote, which has no meaning in these files.

  Programs that give it one write a text with a line end as two lines.
  """

  # Share of the rows from which on texts in quotes are not what was written.
  # MRPC, news in English, has 2%.
  MANY = 0.05

  def __init__(self):
    self._open, self._closed = [], []

  def add(self, line, text):
    """Adds a text that begins with a quote, and its line."""
    if text.count('"') % 2:
      self._open.append(line)
    elif len(text) > 1 and text[-1] == '"':
      self._closed.append(line)

  def warn(self, file, rows):
    """Logs what was found.

    Args:
      file: `TableFile`.
      rows: number of its rows.
    """
    kinds = []
    if not file.table.open_quotes:
      kinds.append((self._open, "begins with a quote that never closes"))
    if len(self._closed) > self.MANY * rows:
      kinds.append((self._closed, "is in quotes"))
    for lines, what in kinds:
      if lines:
        more = len(lines) - 1
        logging.warning(
          "%s:%d: a text %s%s. Quotes are read as ordinary characters, and a"
          " line end within them as the end of the row; write the file without"
          " quoting if a program added them (--task_name=csv reads quotes, also"
          " in files with tabs)",
          file.path,
          lines[0],
          what,
          f", and so for {more} more" if more else "",
        )


def wrong_label(file, line, number, reason):
  """Returns the error of a row whose label the task's target refuses.

  Args:
    file: `TableFile`.
    line, number: of the row; see `TableFile.rows`.
    reason: what the target says of the label.
  """
  header, column = file.header, file.table.label
  if isinstance(column, tuple):
    place = "one of the columns of labels"
  elif header and column < len(header):
    place = f"column {header[column]!r}"
  elif column == -1:
    place = "the last column"
  else:
    place = f"column {column}, counted from {'0' if column >= 0 else 'the end'}"
  text = (
    f"{file.path}:{line}: in {place}, {reason}; correct the row or take it out"
  )
  if not header and not number:
    text += (
      ", or, if it is a header, give the task's Table header=True, or leave out"
      " --no_header"
    )
  return errors.UserError(text)


def explain_nothing(has_header, blank, others, language):
  """Returns the reason why a file gave no example, for an error.

  Args:
    has_header: whether a header was read.
    blank: number of rows without a text.
    others: Counter of the rows by ("language", another language).
    language: that of the task.
  """
  if blank:
    return f"no example has a text: {blank} are blank"
  if others:
    names = ", ".join(sorted(name for _, name in others))
    return f"no row of the language {language!r}; there are rows of {names}"
  return "no row beside the header" if has_header else "the file is empty"
