"""CSV rows against Python's csv module, separators, and broken quotes."""

import csv
import io
import random
import tracemalloc

import pytest

from bert_classifier import csv_files
from bert_classifier.errors import UserError


def write(path, text, encoding="utf-8"):
  path.write_bytes(text.encode(encoding))
  return str(path)


def read(path, separator=","):
  return list(csv_files.read_csv(path, separator))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_rows_of_hostile_cells_are_those_of_the_csv_module(
  tmp_path, separator, end
):
  draw = random.Random(7)
  parts = ['"', '""', ",", ";", "\t", " ", "a", "é", "中", "'", "#", "x"]
  parts += ["\n"] * (end != "\r")  # a file ends lines in CR that has no LF
  rows = [
    ["".join(draw.choices(parts, k=draw.randrange(6))) for _ in range(3)]
    for _ in range(300)
  ]
  text = io.StringIO()
  csv.writer(text, delimiter=separator, lineterminator=end).writerows(rows)
  path = write(tmp_path / "a.csv", text.getvalue())
  expected = csv.reader(
    io.StringIO(text.getvalue(), newline=""), delimiter=separator
  )
  found = [cells for _, cells in read(path, separator)]
  assert found == [cells for cells in expected if any(cells)]


def test_a_row_is_numbered_by_the_line_that_it_begins_in(tmp_path):
  text = '\ufeffa,b\r\n"1\n\n2",x\r\n\r\n,\r\n3,"y\r\nz"\r\n4,w'
  found = read(write(tmp_path / "a.csv", text))
  assert found == [
    (1, ["a", "b"]),
    (2, ["1\n\n2", "x"]),
    (7, ["3", "y\r\nz"]),
    (9, ["4", "w"]),
  ]


def test_an_empty_cell_in_quotes_is_a_row_of_a_single_column(tmp_path):
  assert read(write(tmp_path / "a.csv", 'text\n""\n\nb\n')) == [
    (1, ["text"]),
    (2, [""]),
    (4, ["b"]),
  ]


def test_nul_and_a_lone_return_within_a_line_are_no_end(tmp_path):
  found = read(write(tmp_path / "a.csv", 'a\rb,"c\0d"\n'))
  assert found == [(1, ["a b", "c\ufffdd"])]


def test_a_cell_may_be_long(tmp_path):
  cell = "x," * 300_000
  assert read(write(tmp_path / "a.csv", f'"{cell}",1\n')) == [(1, [cell, "1"])]


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ('a,b\n1,2\n"3,4\n5,6\n', r"a\.csv:3: a quote that opens .* never closes"),
    (
      'a,b\n"1" x,2\n',
      r"a\.csv:2: text follows a quote that closes, where",
    ),
    ('a,b\n"1\n2"x,2\n', r"a\.csv:3: text follows .* row begins in line 2\)"),
    ('a,b\n"1,2\n' + "long,line\n" * 2_000_000, r"a\.csv:2: a quote .* never"),
  ],
)
def test_broken_quotes_are_told_with_their_line(tmp_path, text, said):
  with pytest.raises(UserError, match=said):
    read(write(tmp_path / "a.csv", text))


@pytest.mark.parametrize(
  ("text", "has_header", "separator"),
  [
    ("text,label\na;b;c;d,1\n", True, ","),
    ("text;label\na, b, c;1\n", True, ";"),
    ('text\tlabel\n"a,b\tc"\t1\n', True, "\t"),
    ('"text;one",label\na,b\n', True, ","),
    ("text\na, b\n", True, ","),
    ("sep=;\r\ntext;label\r\na,b,c;1\r\n", True, ";"),
    ("a, b;1\nc;2\n", False, ";"),
    ("a;b,1\nc,2\n", False, ","),
    ("a; b, c;1\nd;2\n", False, ";"),
    ("sep=|\ntext|label\na,b,c|1\n", True, "|"),
    ('"sep=\t"\ntext\tlabel\n', True, "\t"),
    ("a\nb\n", False, ","),
  ],
)
def test_the_separator_is_found(tmp_path, text, has_header, separator):
  path = write(tmp_path / "a.csv", text)
  assert csv_files.find_separator(path, has_header) == separator


def test_a_row_that_is_broken_hides_no_separator(tmp_path):
  path = write(tmp_path / "a.csv", 'text\tlabel\n"a dog\t0\ncat" x\t1\n')
  assert csv_files.find_separator(path, True) == "\t"
  with pytest.raises(UserError, match="a.csv:3: text follows a quote"):
    read(path, "\t")


def test_the_line_that_names_the_separator_is_no_row(tmp_path):
  path = write(tmp_path / "a.csv", "sep=;\r\ntext;label\r\n")
  assert read(path, ";") == [(2, ["text", "label"])]


def test_reading_needs_no_more_memory_for_more_rows(tmp_path):
  row = f'"a ""b""\n{"c" * 1000}",1\n'
  rows = csv_files.read_csv(write(tmp_path / "a.csv", row * 20_000), ",")
  tracemalloc.start()
  assert sum(1 for _ in rows) == 20_000
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 8 << 20  # the file has 20 MB
