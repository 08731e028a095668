"""Reads the rows of a task's files, with line numbers for errors.

Files are UTF-8, one row a line, columns separated by tabs, quotes without a
meaning. A byte-order mark, CRLF, a NUL, a lone CR inside a field and fields of
any length are simply read. A line without any character is no row.

A reader of another format is a function like `read_tsv`: it yields the line
that a row begins in and the row's cells, and digests what it reads.
"""

import csv
import sys
from typing import NamedTuple

from bert_classifier import errors, files


class Row(NamedTuple):
  """A row of a file.

  Attributes:
    line: number of its line, from 1.
    number: how many rows precede it, the header among them.
    cells: list of the texts in its columns.
  """

  line: int
  number: int
  cells: list

  def cell(self, column):
    """Returns the text in a column, given by its number; None for None."""
    return None if column is None else self.cells[column]


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
  csv.field_size_limit(sys.maxsize)
  lines = (text for _, text in files.read_lines(path))
  return list(csv.reader(lines, delimiter="\t", quotechar=quotechar))


def open_table(path, table, sha256=None):
  """Opens a file whose columns a `tasks.Table` describes.

  Args:
    path: the file.
    table: `tasks.Table`.
    sha256: see `files.read_lines`.

  Returns:
    The header, a list of names that is empty where there is none; the table
    with a number for each column; an iterator over the `Row`s behind the
    header, which raises a `UserError` for a row that lacks a column.

  Raises:
    UserError: the header lacks a name that the table has.
  """
  rows = read_tsv(path, sha256)
  header = []
  if table.header:
    _, header = next(rows, (1, []))
    if not header:
      return header, table, iter(())
  table = table.numbered(header, path)
  return header, table, _checked_rows(path, rows, table, header)


def _checked_rows(path, rows, table, header):
  """Yields the `Row`s of pairs (line number, cells) behind the header."""
  columns = table.columns()
  needed = 1 + max(columns)
  from_end = header and min(columns) < 0
  for number, (line, cells) in enumerate(rows, start=bool(header)):
    if len(cells) < needed:
      row = Row(line, number, cells)
      raise _miscounted(path, row, f"at least {needed} are needed")
    if from_end and len(cells) != len(header):
      row = Row(line, number, cells)
      raise _miscounted(path, row, f"the header has {len(header)}")
    yield Row(line, number, cells)


def _miscounted(path, row, expected):
  """Returns the error of a row that has not the columns that are expected."""
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
  return errors.UserError(text)


def wrong_label(path, row, table, header, reason):
  """Returns the error of a row whose label the task's target refuses.

  Args:
    path, row: where the label stands.
    table: `tasks.Table`, columns by number.
    header: list of the columns' names; empty where there is none.
    reason: what the target says of the label.
  """
  if header and table.label < len(header):
    place = f"column {header[table.label]!r}"
  elif table.label < 0:
    place = "the last column"
  else:
    place = f"column {table.label}, counted from 0"
  text = (
    f"{path}:{row.line}: in {place}, {reason}; correct the row or take it out"
  )
  if not header and not row.number:
    text += ", or, if it is a header, give the task's Table header=True"
  return errors.UserError(text)
