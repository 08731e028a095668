"""Rows of CSV files as RFC 4180 has them and as spreadsheets write them.

Cells may be in quotes, a quote within them doubled, and hold separators and
line ends. The separator is a comma, a semicolon (of spreadsheets where the
comma is decimal) or a tab, found by the first rows. Rows whose cells are all
empty are none.
"""

import contextlib
import csv
import itertools
import re

from bert_classifier import errors, files

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
# Excel's own first line, which says the separator: sep=; in quotes or not.
_SAYS_SEPARATOR = re.compile(r'"?sep=([^"\s\w]|\t)\s*"?\s*')

# The most that Windows takes, where a long has 32 bits.
_LONGEST_CELL = 2**31 - 1
# Characters of a row, from which on a quote in it was never meant to open.
_LONGEST_ROW = 1 << 24
_ROWS_TO_LOOK_AT = 50


def read_quoted_tsv(path, quotechar):
  """Returns the list of all rows of a file whose cells may be in quotes."""
  csv.field_size_limit(_LONGEST_CELL)
  lines = (text for _, text in files.read_lines(path))
  return list(csv.reader(lines, delimiter="\t", quotechar=quotechar))


def read_csv(path, separator, sha256=None):
  """Yields (line number, list of cells) of each row of a file.

  Args:
    separator: see `find_separator`.
    sha256: see `files.read_lines`.

  Raises:
    UserError: a quote that never closes, text behind a quote that closes,
      bytes that are not UTF-8; names file and line.
  """
  lines = _Lines(path, sha256)
  reader = csv.reader(lines, delimiter=separator, strict=True)
  csv.field_size_limit(_LONGEST_CELL)
  while True:
    first = lines.begin_row()
    try:
      cells = next(reader)
    except StopIteration:
      return
    except csv.Error as error:
      raise _broken(path, first, lines.number, separator, error) from error
    if any(cells) or cells == [""]:  # the row "" of a single column
      yield first, cells


class _Lines:
  """The lines of a file for `csv.reader`.

  Attributes:
    number: of the line that was read last, from 1; 0 before.
  """

  def __init__(self, path, sha256):
    self._path, self._lines = path, files.read_every_line(path, sha256)
    self.number = self._first = self._length = 0

  def begin_row(self):
    """Returns the number of the line that is read next."""
    self._first, self._length = self.number + 1, 0
    return self._first

  def __iter__(self):
    return self

  def __next__(self):
    line = next(self._lines)
    self.number += 1
    if self.number == 1 and _SAYS_SEPARATOR.fullmatch(line):
      line = "\n"
    self._length += len(line)
    if self._length > _LONGEST_ROW:
      raise _never_closed(self._path, self._first)
    if "\r" in line[:-2]:
      line = line[:-2].replace("\r", " ") + line[-2:]
    # csv of Python 3.9 and 3.10 takes no NUL, and the tokenizer drops both.
    return line.replace("\0", "\ufffd")


def _never_closed(path, line):
  return errors.UserError(
    f"{path}:{line}: a quote that opens in the row that begins here never"
    ' closes; write a quote that is text as "" within a cell in quotes'
  )


def _broken(path, first, last, separator, error):
  """Returns the error of a row that `csv` refuses.

  Args:
    first, last: lines of the row, as far as it was read.
    separator: of the columns.
    error: `csv.Error`.
  """
  if "end of data" in str(error):
    return _never_closed(path, first)
  began = f" (the row begins in line {first})" if last != first else ""
  return errors.UserError(
    f"{path}:{last}: text follows a quote that closes{began}, where"
    f" {separator!r} or the end of the row is expected; write a quote that is"
    ' text as "" within a cell in quotes'
  )


def find_separator(path, has_header):
  """Returns the separator of a file's columns; a comma where it has one only.

  It is that which a first line such as `sep=|` says, or else which gives the
  header the most columns or, of a file without one, the first rows the most
  columns of the same number.

  Args:
    has_header: whether the first row is a header.

  Raises:
    UserError: bytes that are not UTF-8.
  """
  _, first = next(files.read_lines(path), (1, ""))
  if said := _SAYS_SEPARATOR.fullmatch(first):
    return said[1]

  def count_columns(separator):
    rows = itertools.islice(read_csv(path, separator), _ROWS_TO_LOOK_AT)
    widths = []
    # A row that is broken is told when it is read by what the others say.
    with contextlib.suppress(errors.UserError):
      for _, cells in rows:
        widths += [len(cells)] if cells else []
    if not widths:
      return (0, 0)
    is_even = len(set(widths)) == 1 < widths[0]
    return (widths[0], is_even) if has_header else (is_even, widths[0])

  counted = {separator: count_columns(separator) for separator in _SEPARATORS}
  best = max(counted, key=counted.get)
  return best if max(counted[best]) > 1 else ","


def describe_separator(separator):
  """Returns the name of a separator, in the plural where it has one."""
  return _SEPARATORS.get(separator, repr(separator))
