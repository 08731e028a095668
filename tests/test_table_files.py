"""The rows of a task's files, and the errors of what cannot be read."""

import csv
import hashlib
import tracemalloc

from conftest import read_examples, write_rows
import pytest

from bert_classifier import csv_files, table_files
from bert_classifier.catalogue import ColaProcessor, MrpcProcessor
from bert_classifier.errors import UserError
from bert_classifier.table_files import Table
from bert_classifier.tasks import DataProcessor, TaskData


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_line_ends_and_byte_order_marks_are_no_text(tmp_path, end, start):
  rows = ["a\t1\t\tx y", "", "b\t0\t\tz"]
  write_rows(tmp_path / "train.tsv", *rows, end=end, start=start)
  found = read_examples(ColaProcessor(), tmp_path)
  assert [(e.text_a, e.guid) for e in found] == [
    ("x y", "train-0"),
    ("z", "train-1"),
  ]


@pytest.mark.parametrize(
  "text",
  [
    'an "open quote',
    "a lone\rreturn",
    "a\0NUL",
    "lines\u2028or \u2029paragraphs\u0085 or\x0b\x0c\x1c",
    "x" * 140_000,
    "é" * (1 << 20),
  ],
  ids=["quote", "return", "nul", "separators", "long", "over blocks"],
)
def test_any_text_is_read_as_it_is(tmp_path, text):
  write_rows(tmp_path / "train.tsv", ["a", "1", "", text], "b\t0\t\tz")
  assert [e.text_a for e in read_examples(ColaProcessor(), tmp_path)] == [
    text,
    "z",
  ]


def test_rows_are_those_of_the_csv_module(golden_task):
  with open(f"{golden_task}/data/dev.tsv", newline="", encoding="utf-8") as f:
    rows = list(csv.reader(f, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
  found = read_examples(MrpcProcessor(), f"{golden_task}/data", "dev")
  assert [(e.label, e.text_a, e.text_b) for e in found] == [
    (row[0], row[3], row[4]) for row in rows
  ]


BAD = {
  "a\t1\t\tx\n\nshort\t1\n": "train.tsv:3: 2 columns separated by tabs, but at"
  " least 4 are needed; the row begins 'short",
  "a\t1\t\tx\r\nb\t2\t\ty\r\n": "train.tsv:2: in column 1, counted from 0,"
  " the label '2' is not one of '0', '1'; correct the row or take it out",
  b"a\t1\t\tx\n" * 2 + b"a\t1\t\tcaf\xe9\n": "train.tsv:3: the byte 0xe9 is not"
  " UTF-8; save the file in that encoding",
  "": "train.tsv: the file is empty",
  "\n\r\n": "train.tsv: the file is empty",
}


@pytest.mark.parametrize(("content", "sentence"), BAD.items())
def test_what_cannot_be_read_is_named_with_its_line(
  tmp_path, content, sentence
):
  data = content if isinstance(content, bytes) else content.encode()
  (tmp_path / "train.tsv").write_bytes(data)
  with pytest.raises(ValueError) as error:
    read_examples(ColaProcessor(), tmp_path)
  assert str(error.value).startswith(f"{tmp_path}/{sentence}")


class Named(DataProcessor):
  labels = ("bad", "good")
  tables = {
    "train": Table("train.tsv", header=True, text_a="text", label="verdict"),
    "test": Table("train.tsv", header=True, text_a="text", row_id="number"),
    "dev": Table("train.tsv", header=False, text_a="text", label=0),
  }


def test_columns_may_be_named_as_in_the_header(tmp_path):
  write_rows(tmp_path / "train.tsv", "verdict\tnumber\ttext", "good\t7\tyes")
  (example,) = read_examples(Named(), tmp_path)
  assert (example.text_a, example.label) == ("yes", "good")
  (example,) = read_examples(Named(), tmp_path, "test")
  assert (example.text_a, example.row_id) == ("yes", "7")


def test_a_row_that_lacks_its_own_id_is_told(tmp_path):
  write_rows(tmp_path / "train.tsv", "text\tverdict\tnumber", "yes\tgood")
  with pytest.raises(UserError, match="train.tsv:2: 2 columns .* at least 3"):
    read_examples(Named(), tmp_path, "test")


def test_a_name_that_is_not_in_the_header_is_told(tmp_path):
  path = tmp_path / "train.tsv"
  write_rows(path, "verdict\tnumber\tline", "good\t7\tyes")
  said = f"{path}:1: there is no column 'text', .* the header has 'verdict', "
  with pytest.raises(UserError, match=said):
    read_examples(Named(), tmp_path)
  with pytest.raises(UserError, match="says that the file has no header"):
    read_examples(Named(), tmp_path, "dev")


@pytest.mark.parametrize("header", [True, False])
def test_a_table_may_say_that_its_rows_are_ragged(tmp_path, header):
  class Ragged(DataProcessor):
    labels = ("0", "1")
    tables = {"train": Table("train.tsv", header, 0, label=1, ragged=True)}

  write_rows(tmp_path / "train.tsv", "a\t1", "b\t0\tmore", "c\t1")
  found = [e.text_a for e in read_examples(Ragged(), tmp_path)]
  assert found == ["a", "b", "c"][header:]


def test_texts_whose_quote_never_closes_are_warned_of_once(tmp_path, info):
  rows = ["a\t1\t\tx", 'b\t0\t\t"begun', 'c\t0\t\tended"', 'd\t1\t\t"so"'] * 2
  write_rows(tmp_path / "train.tsv", *rows, *["e\t1\t\tplain"] * 40)
  data = TaskData(ColaProcessor(), str(tmp_path))
  assert data.count("train") == len(list(data.examples("train"))) == 48
  (said,) = info.messages
  assert said.startswith(
    f"{tmp_path}/train.tsv:2: a text begins with a quote that never closes,"
    " and so for 1 more. Quotes"
  )


def test_a_row_that_a_program_divided_within_quotes_is_told(tmp_path):
  write_rows(tmp_path / "dev.tsv", "a\t1\t\tx", 'b\t0\t"so', 'on"\tno')
  with pytest.raises(UserError, match="dev.tsv:2: 3 .*; a quote in it never"):
    TaskData(ColaProcessor(), str(tmp_path)).count("dev")


def test_texts_in_quotes_are_warned_of_where_they_are_many(tmp_path, info):
  rows = ['a\t1\t\t"x ""y"""', "b\t0\t\tz"]
  write_rows(tmp_path / "train.tsv", *rows)
  assert TaskData(ColaProcessor(), str(tmp_path)).count("train") == 2
  (said,) = info.messages
  assert "train.tsv:1: a text is in quotes. Quotes" in said


def test_a_table_may_say_that_texts_begin_with_quotes(tmp_path, info):
  header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
  write_rows(tmp_path / "train.tsv", header, '1\t5\t6\t"A.\t"B.')
  assert TaskData(MrpcProcessor(), str(tmp_path)).count("train") == 1
  assert info.messages == []


class FromEnd(DataProcessor):
  labels = ("0", "1")
  tables = {
    "train": Table("train.tsv", header=False, text_a=-2, label=-1),
    "dev": Table("train.tsv", header=False, text_a=-1, label=-2),
  }


def test_columns_may_be_counted_from_the_end(tmp_path):
  write_rows(tmp_path / "train.tsv", "7\tyes\t1", "8\tno\t0")
  found = read_examples(FromEnd(), tmp_path)
  assert [(e.text_a, e.label) for e in found] == [("yes", "1"), ("no", "0")]


@pytest.mark.parametrize(
  ("rows", "said"),
  [
    (["yes\t1", "no"], ":2: 1 column .* at least 2 are needed"),
    (["a\tyes\t1", "no\t0"], ":2: 2 columns .* the first row has 3"),
  ],
)
def test_a_row_too_short_to_count_from_its_end_is_told(tmp_path, rows, said):
  write_rows(tmp_path / "train.tsv", *rows)
  with pytest.raises(UserError, match=said):
    read_examples(FromEnd(), tmp_path)


def test_a_wrong_label_is_named_with_its_column_from_the_end(tmp_path):
  write_rows(tmp_path / "train.tsv", "2\tyes")
  said = "in column -2, counted from the end, the label '2'"
  with pytest.raises(UserError, match=said):
    read_examples(FromEnd(), tmp_path, "dev")


def test_a_cell_in_quotes_may_be_long_and_the_limit_fits_windows(tmp_path):
  write_rows(tmp_path / "a.tsv", f'"{"x" * 140_000}\ty"\tz')
  rows = csv_files.read_quoted_tsv(str(tmp_path / "a.tsv"), '"')
  assert rows == [["x" * 140_000 + "\ty", "z"]]
  assert csv.field_size_limit() < 1 << 31


def test_a_file_that_is_separated_by_commas_is_told(tmp_path):
  write_rows(tmp_path / "train.tsv", "a,1,,text")
  with pytest.raises(UserError, match="tsv:1: 1 column .* by commas"):
    read_examples(ColaProcessor(), tmp_path)


def test_a_header_that_is_taken_for_a_row_is_told(tmp_path):
  write_rows(tmp_path / "train.tsv", "source\tlabel\tauthor\tsentence")
  said = "tsv:1: in column 1, .* the label 'label' .* give .* header=True"
  with pytest.raises(UserError, match=said):
    read_examples(ColaProcessor(), tmp_path)


def test_reading_needs_no_more_memory_for_more_rows(tmp_path):
  write_rows(tmp_path / "train.tsv", *["a\t1\t\t" + "x" * 1000] * 20_000)
  examples = TaskData(ColaProcessor(), str(tmp_path)).examples("train")
  tracemalloc.start()
  assert sum(1 for _ in examples) == 20_000
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 8 << 20  # the file has 20 MB


def test_a_label_that_the_target_refuses_is_named_with_its_column(tmp_path):
  write_rows(tmp_path / "train.tsv", "verdict\tnumber\ttext", "fine\t7\tyes")
  said = (
    "tsv:2: in column 'verdict', the label 'fine' is not one of 'bad', 'good';"
  )
  with pytest.raises(UserError, match=said):
    read_examples(Named(), tmp_path)


def test_the_digest_of_a_reading_is_that_of_the_file(tmp_path):
  write_rows(
    tmp_path / "a.tsv", "h\ti", "a\tb", "", "c\td", start=b"\xef\xbb\xbf"
  )
  sha256 = hashlib.sha256()
  rows = list(table_files.read_tsv(str(tmp_path / "a.tsv"), sha256))
  assert rows == [(1, ["h", "i"]), (2, ["a", "b"]), (4, ["c", "d"])]
  content = (tmp_path / "a.tsv").read_bytes()
  assert sha256.digest() == hashlib.sha256(content).digest()
