"""The tasks' files to examples."""

import collections
import csv
import tracemalloc

import pytest

from bert_classifier.tasks import (
  ColaProcessor,
  DataProcessor,
  InputExample,
  MnliProcessor,
  MrpcProcessor,
  Table,
  XnliProcessor,
)

PAIRS = ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"]
MNLI = "index\tpromptID\tpairID\tgenre\ts1\ts2\ts3\ts4\tsentence1\tsentence2"
XNLI = (
  "language\tgold_label\tx\ty\tz\tw\tsentence1\tsentence2\tpromptID\tpairID"
)


def write(path, *rows, end="\n", start=b""):
  """Writes rows, each a list of columns or a string, and gives the folder."""
  lines = (row if isinstance(row, str) else "\t".join(row) for row in rows)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(start + "".join(line + end for line in lines).encode())
  return str(path.parent)


def read(processor, folder, split="train"):
  return list(processor.examples(str(folder), split))


def facts(example):
  return example.guid, example.text_a, example.text_b, example.label


def test_cola_has_no_header_but_in_its_test_set(tmp_path):
  write(tmp_path / "train.tsv", "gj04\t1\t\tA b.", "gj04\t0\t*\tB a.")
  write(tmp_path / "dev.tsv", "gj04\t0\t*\tC.")
  write(tmp_path / "test.tsv", "index\tsentence", "7\tD.")
  train, second = read(ColaProcessor(), tmp_path)
  assert facts(train) == ("train-0", "A b.", None, "1")
  assert facts(second) == ("train-1", "B a.", None, "0")
  (dev,) = read(ColaProcessor(), tmp_path, "dev")
  assert facts(dev) == ("dev-0", "C.", None, "0")
  (test,) = read(ColaProcessor(), tmp_path, "test")
  assert facts(test) == ("test-1", "D.", None, None) and test.row_id == "7"


def test_mrpc_has_pairs_and_keeps_what_its_test_file_gives_away(tmp_path):
  for name in ("train.tsv", "test.tsv"):
    write(tmp_path / name, *PAIRS, "1\t5\t6\tA.\tB.")
  (train,) = read(MrpcProcessor(), tmp_path)
  assert facts(train) == ("train-1", "A.", "B.", "1")
  (test,) = read(MrpcProcessor(), tmp_path, "test")
  assert facts(test) == ("test-1", "A.", "B.", None) and test.gold == "1"


@pytest.mark.parametrize(
  ("split", "name", "guid", "label"),
  [
    ("train", "train.tsv", "train-31", "neutral"),
    ("dev", "dev_matched.tsv", "dev_matched-31", "neutral"),
    ("dev_mismatched", "dev_mismatched.tsv", "dev_mismatched-31", "neutral"),
    ("test", "test_matched.tsv", "test-31", None),
    ("test_mismatched", "test_mismatched.tsv", "test_mismatched-31", None),
  ],
)
def test_mnli_takes_its_guid_from_the_file(tmp_path, split, name, guid, label):
  row = ["31", *"bcdefgh", "A.", "B."]
  header = MNLI
  if label:
    row, header = [*row, "neutral", label], f"{MNLI}\tlabel1\tgold_label"
  write(tmp_path / name, header, row)
  (example,) = read(MnliProcessor(), tmp_path, split)
  assert facts(example) == (guid, "A.", "B.", label)
  assert example.row_id == "31"


def test_xnli_trains_on_the_file_of_its_language(tmp_path):
  header = "premise\thypo\tlabel"
  path = tmp_path / "multinli" / "multinli.train.zh.tsv"
  write(path, header, "甲\t乙\tcontradictory", "丙\t丁\tneutral")
  first, second = read(XnliProcessor(), tmp_path)
  assert facts(first) == ("train-1", "甲", "乙", "contradiction")
  assert facts(second) == ("train-2", "丙", "丁", "neutral")


@pytest.mark.parametrize(
  ("language", "guids"), [("zh", ["1", "3"]), ("de", ["2"])]
)
def test_xnli_takes_the_rows_of_its_language(tmp_path, language, guids):
  rows = [
    [code, "entailment", *"cdef", "A", "B", "p", f"id{number}"]
    for number, code in enumerate(["zh", "de", "zh"], 1)
  ]
  for split in ("dev", "test"):
    write(tmp_path / f"xnli.{split}.tsv", XNLI, *rows)
    found = read(XnliProcessor(language), tmp_path, split)
    assert [e.guid for e in found] == [f"{split}-{number}" for number in guids]
  assert found[0].row_id == f"id{guids[0]}" and found[0].gold == "entailment"


def test_xnli_names_the_languages_that_there_are(tmp_path):
  row = ["de", "neutral", *"cdef", "A", "B", "p", "i"]
  write(tmp_path / "xnli.dev.tsv", XNLI, row)
  with pytest.raises(ValueError, match=r"'fr'; there are rows of de"):
    read(XnliProcessor("fr"), tmp_path, "dev")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_line_ends_and_byte_order_marks_are_no_text(tmp_path, end, start):
  rows = ["a\t1\t\tx y", "", "b\t0\t\tz"]
  write(tmp_path / "train.tsv", *rows, end=end, start=start)
  found = read(ColaProcessor(), tmp_path)
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
  write(tmp_path / "train.tsv", ["a", "1", "", text], "b\t0\t\tz")
  assert [e.text_a for e in read(ColaProcessor(), tmp_path)] == [text, "z"]


def test_rows_are_those_of_the_csv_module(golden_task):
  with open(f"{golden_task}/data/dev.tsv", newline="", encoding="utf-8") as f:
    rows = list(csv.reader(f, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
  found = read(MrpcProcessor(), f"{golden_task}/data", "dev")
  assert [(e.label, e.text_a, e.text_b) for e in found] == [
    (row[0], row[3], row[4]) for row in rows
  ]


def test_texts_of_white_space_are_left_out_of_training_only(tmp_path):
  rows = ["a\t1\t\tx", "a\t1\t\t", "a\t1\t\t \u3000", "a\t0\t\ty"]
  for name in ("train.tsv", "dev.tsv"):
    write(tmp_path / name, *rows)
  tally = collections.Counter()
  train = list(ColaProcessor().examples(str(tmp_path), "train", tally))
  assert [e.guid for e in train] == ["train-0", "train-3"]
  assert tally["blank"] == 2
  assert len(ColaProcessor().get_train_examples(str(tmp_path))) == 2
  assert len(read(ColaProcessor(), tmp_path, "dev")) == 4


BAD = {
  "a\t1\t\tx\n\nshort\t1\n": "train.tsv:3: 2 columns separated by tabs, but at"
  " least 4 are needed; the row begins 'short",
  "a\t1\t\tx\r\nb\t2\t\ty\r\n": "train.tsv:2: the label '2' in column 1,"
  " counted from 0, is not one of 0, 1; correct the row or take it out",
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
    read(ColaProcessor(), tmp_path)
  assert str(error.value).startswith(f"{tmp_path}/{sentence}")


def test_a_header_alone_and_a_row_unlike_its_header_are_named(tmp_path):
  write(tmp_path / "train.tsv", *PAIRS)
  with pytest.raises(ValueError, match="train.tsv: no row beside the header"):
    read(MrpcProcessor(), tmp_path)
  write(tmp_path / "train.tsv")
  with pytest.raises(ValueError, match="train.tsv: the file is empty"):
    read(MrpcProcessor(), tmp_path)
  header = f"{MNLI}\tlabel1\tgold_label"
  write(tmp_path / "train.tsv", header, [*"abcdefghij", "neutral"])
  with pytest.raises(ValueError, match=r"tsv:2: 11 columns .*header has 12"):
    read(MnliProcessor(), tmp_path)


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"/dev\.tsv: no such file"):
    read(MrpcProcessor(), tmp_path, "dev")


class In2018Manner(DataProcessor):
  def get_train_examples(self, data_dir):
    return self._create(self._read_tsv(f"{data_dir}/mine.tsv"), "train")

  def get_labels(self):
    return ["no", "yes"]

  def _create(self, rows, split):
    return [
      InputExample(
        guid=f"{split}-{i}", text_a=row[0], text_b=None, label=row[1]
      )
      for i, row in enumerate(rows)
    ]


def test_a_processor_in_the_manner_of_2018_works(tmp_path):
  write(tmp_path / "mine.tsv", 'a "b\tyes', "", " \tno", "c\tno")
  found = read(In2018Manner(), tmp_path)
  assert [(e.guid, e.text_a) for e in found] == [
    ("train-0", 'a "b'),
    ("train-2", "c"),
  ]
  with pytest.raises(ValueError, match="nor a method get_dev_examples"):
    read(In2018Manner(), tmp_path, "dev")


def test_a_subclass_may_override_one_reader_and_the_labels(tmp_path):
  class Mine(ColaProcessor):
    def get_labels(self):
      return ["0", "1", "2"]

    def get_train_examples(self, data_dir):
      return super().get_train_examples(data_dir)[1:]

  write(tmp_path / "train.tsv", "a\t1\t\tx", "a\t2\t\ty")
  assert [e.text_a for e in read(Mine(), tmp_path)] == ["y"]
  before = Mine().source_digest(str(tmp_path), "train")
  write(tmp_path / "train.tsv", "a\t1\t\tx", "a\t2\t\tz")
  assert Mine().source_digest(str(tmp_path), "train") != before


class Named(DataProcessor):
  labels = ("bad", "good")
  tables = {
    "train": Table("train.tsv", header=True, text_a="text", label="verdict"),
    "test": Table("train.tsv", header=True, text_a="text", row_id="number"),
    "dev": Table("train.tsv", header=False, text_a="text", label=0),
  }


def test_columns_may_be_named_as_in_the_header(tmp_path):
  write(tmp_path / "train.tsv", "verdict\tnumber\ttext", "good\t7\tyes")
  (example,) = read(Named(), tmp_path)
  assert (example.text_a, example.label) == ("yes", "good")
  (example,) = read(Named(), tmp_path, "test")
  assert (example.text_a, example.row_id) == ("yes", "7")


def test_a_row_that_lacks_its_own_id_is_told(tmp_path):
  write(tmp_path / "train.tsv", "text\tverdict\tnumber", "yes\tgood")
  with pytest.raises(ValueError, match="train.tsv:2: 2 columns .* at least 3"):
    read(Named(), tmp_path, "test")


def test_a_name_that_is_not_in_the_header_is_told(tmp_path):
  path = tmp_path / "train.tsv"
  write(path, "verdict\tnumber\tline", "good\t7\tyes")
  said = f"{path}:1: there is no column 'text', .* the header has 'verdict', "
  with pytest.raises(ValueError, match=said):
    read(Named(), tmp_path)
  with pytest.raises(ValueError, match="says that the file has no header"):
    read(Named(), tmp_path, "dev")


def test_a_file_that_is_separated_by_commas_is_told(tmp_path):
  write(tmp_path / "train.tsv", "a,1,,text")
  with pytest.raises(ValueError, match="tsv:1: 1 column .* by commas"):
    read(ColaProcessor(), tmp_path)


def test_a_header_that_is_taken_for_a_row_is_told(tmp_path):
  write(tmp_path / "train.tsv", "source\tlabel\tauthor\tsentence")
  said = "tsv:1: the label 'label' in column 1, .* give .* header=True"
  with pytest.raises(ValueError, match=said):
    read(ColaProcessor(), tmp_path)


def test_reading_needs_no_more_memory_for_more_rows(tmp_path):
  write(tmp_path / "train.tsv", *["a\t1\t\t" + "x" * 1000] * 20_000)
  examples = ColaProcessor().examples(str(tmp_path), "train")
  tracemalloc.start()
  assert sum(1 for _ in examples) == 20_000
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 8 << 20  # the file has 20 MB
