"""Reads the rows of a task's files, with line numbers for errors.

Files are UTF-8, one row a line, columns separated by tabs, quotes without a
meaning. A byte-order mark, CRLF, a NUL, a lone CR inside a field and fields of
any length are simply read. A line without any character is no row.

A reader of another format is a function like `read_tsv`: it yields the line
that a row begins in and the row's cells, and digests what it reads.
"""

from collections.abc import Iterator
import csv
import dataclasses
import re
from typing import NamedTuple, Optional, Union

from absl import logging

from bert_classifier import errors, files

# The most that Windows takes, where a long has 32 bits.
_LONGEST_CELL = 2**31 - 1


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
  """

  path: str
  header: list
  table: Table
  rows: Iterator


def read_tsv(path, sha256=None):
  """Yields (line number, list of cells) of each row of a file.

  Args:
    sha256: see `files.read_lines`.

  Raises:
    ValueError: bytes that are not UTF-8; names file and line.
  """
  for line, text in files.read_lines(path, sha256):
    yield line, text.split("\t")


def read_quoted_tsv(path, quotechar):
  """Returns the list of all rows of a file whose cells may be in quotes."""
  csv.field_size_limit(_LONGEST_CELL)
  lines = (text for _, text in files.read_lines(path))
  return list(csv.reader(lines, delimiter="\t", quotechar=quotechar))


def open_table(path, table, sha256=None):
  """Returns the `TableFile` of a file that a `Table` describes.

  Args:
    path: the file.
    table: `Table`.
    sha256: see `files.read_lines`.

  Raises:
    UserError: the header lacks a name that the table has, or repeats it.
  """
  rows = read_tsv(path, sha256)
  header = []
  if table.header:
    _, header = next(rows, (1, []))
    if not header:
      return TableFile(path, header, table, iter(()))
  table = table.numbered(header, path)
  rows = _checked_rows(path, rows, table, header)
  return TableFile(path, header, table, rows)


def _checked_rows(path, rows, table, header):
  """Yields `TableFile.rows` of pairs (line number, cells).

  Args:
    table: `Table`, with a number for each column.
  """
  columns, is_strict = table.columns(), not table.ragged
  needed = max(1 + max(columns), -min(columns))
  # What is counted from the end is the same column in rows of one length only.
  is_exact = min(columns) < 0 or (is_strict and not header)
  width = len(header)
  for number, (line, cells) in enumerate(rows, start=bool(header)):
    if len(cells) < needed:
      expected = f"at least {needed} are needed"
      if header:
        expected += f", and the header has {width}"
      raise _miscounted(path, line, cells, expected)
    if len(cells) != width and (is_exact or (is_strict and len(cells) > width)):
      if width:
        first = "header" if header else "first row"
        expected = f"the {first} has {width}"
        if len(cells) > width:
          expected += "; is there a tab in a text? Make it a space"
        raise _miscounted(path, line, cells, expected)
      width = len(cells)
    yield line, number, cells


def _miscounted(path, line, cells, expected):
  """Returns the error of a row that has not the columns that are expected."""
  count, row = len(cells), "\t".join(cells)
  text = (
    f"{path}:{line}: {count} column{'s' * (count != 1)} separated by tabs,"
    f" but {expected}; the row begins {row[:60]!r}"
  )
  return errors.UserError(text + suggest_separator(cells))


def suggest_separator(cells):
  """Returns a hint where a row seems to be one of a CSV file, else "".

  Args:
    cells: list of the row's cells, as tabs separate them.
  """
  if len(cells) != 1 or not re.search("[,;]", cells[0]):
    return ""
  return (
    "; is the file separated by commas or semicolons? README.md says how to"
    " convert it"
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
      kinds.append((self._open, "begin with a quote that never closes"))
    if len(self._closed) > self.MANY * rows:
      kinds.append((self._closed, "are in quotes"))
    for lines, what in kinds:
      if lines:
        logging.warning(
          "%s:%d: here and in %d other texts: they %s. Quotes are read as"
          " ordinary characters, and a line end within them as the end of the"
          " row; write the file without quoting if a program added them",
          file.path,
          lines[0],
          len(lines) - 1,
          what,
        )


def wrong_label(file, line, number, reason):
  """Returns the error of a row whose label the task's target refuses.

  Args:
    file: `TableFile`.
    line, number: of the row; see `TableFile.rows`.
    reason: what the target says of the label.
  """
  header, column = file.header, file.table.label
  if header and column < len(header):
    place = f"column {header[column]!r}"
  elif column == -1:
    place = "the last column"
  else:
    place = f"column {column}, counted from {'0' if column >= 0 else 'the end'}"
  text = (
    f"{file.path}:{line}: in {place}, {reason}; correct the row or take it out"
  )
  if not header and not number:
    text += ", or, if it is a header, give the task's Table header=True"
  return errors.UserError(text)
