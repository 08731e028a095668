"""The tasks that there are: their files, columns, labels and guids."""

from conftest import read_examples, write_rows
import pytest

from bert_classifier.catalogue import (
  PROCESSORS,
  ColaProcessor,
  MnliProcessor,
  MrpcProcessor,
  XnliProcessor,
  describe_tables,
  is_built_in,
)
from bert_classifier.errors import MissingFileError, UserError

PAIRS = ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"]
MNLI = "index\tpromptID\tpairID\tgenre\ts1\ts2\ts3\ts4\tsentence1\tsentence2"
XNLI = (
  "language\tgold_label\tx\ty\tz\tw\tsentence1\tsentence2\tpromptID\tpairID"
)


def facts(example):
  return example.guid, example.text_a, example.text_b, example.label


def test_cola_has_no_header_but_in_its_test_set(tmp_path):
  write_rows(tmp_path / "train.tsv", "gj04\t1\t\tA b.", "gj04\t0\t*\tB a.")
  write_rows(tmp_path / "dev.tsv", "gj04\t0\t*\tC.")
  write_rows(tmp_path / "test.tsv", "index\tsentence", "7\tD.")
  train, second = read_examples(ColaProcessor(), tmp_path)
  assert facts(train) == ("train-0", "A b.", None, "1")
  assert facts(second) == ("train-1", "B a.", None, "0")
  (dev,) = read_examples(ColaProcessor(), tmp_path, "dev")
  assert facts(dev) == ("dev-0", "C.", None, "0")
  (test,) = read_examples(ColaProcessor(), tmp_path, "test")
  assert facts(test) == ("test-1", "D.", None, None) and test.row_id == "7"


def test_mrpc_has_pairs_and_keeps_what_its_test_file_gives_away(tmp_path):
  for name in ("train.tsv", "test.tsv"):
    write_rows(tmp_path / name, *PAIRS, "1\t5\t6\tA.\tB.")
  (train,) = read_examples(MrpcProcessor(), tmp_path)
  assert facts(train) == ("train-1", "A.", "B.", "1")
  (test,) = read_examples(MrpcProcessor(), tmp_path, "test")
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
  write_rows(tmp_path / name, header, row)
  (example,) = read_examples(MnliProcessor(), tmp_path, split)
  assert facts(example) == (guid, "A.", "B.", label)
  assert example.row_id == "31"


def test_xnli_trains_on_the_file_of_its_language(tmp_path):
  header = "premise\thypo\tlabel"
  path = tmp_path / "multinli" / "multinli.train.zh.tsv"
  write_rows(path, header, "甲\t乙\tcontradictory", "丙\t丁\tneutral")
  first, second = read_examples(XnliProcessor(), tmp_path)
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
    write_rows(tmp_path / f"xnli.{split}.tsv", XNLI, *rows)
    found = read_examples(XnliProcessor(language), tmp_path, split)
    assert [e.guid for e in found] == [f"{split}-{number}" for number in guids]
  assert found[0].row_id == f"id{guids[0]}" and found[0].gold == "entailment"


def test_xnli_names_the_languages_that_there_are(tmp_path):
  row = ["de", "neutral", *"cdef", "A", "B", "p", "i"]
  write_rows(tmp_path / "xnli.dev.tsv", XNLI, row)
  with pytest.raises(UserError, match=r"'fr'; there are rows of de"):
    read_examples(XnliProcessor("fr"), tmp_path, "dev")


def test_a_header_alone_and_a_row_unlike_its_header_are_named(tmp_path):
  write_rows(tmp_path / "train.tsv", *PAIRS)
  with pytest.raises(UserError, match="train.tsv: no row beside the header"):
    read_examples(MrpcProcessor(), tmp_path)
  write_rows(tmp_path / "train.tsv")
  with pytest.raises(UserError, match="train.tsv: the file is empty"):
    read_examples(MrpcProcessor(), tmp_path)
  header = f"{MNLI}\tlabel1\tgold_label"
  write_rows(tmp_path / "train.tsv", header, [*"abcdefghij", "neutral"])
  with pytest.raises(UserError, match=r"tsv:2: 11 columns .*header has 12;"):
    read_examples(MnliProcessor(), tmp_path)


@pytest.mark.parametrize(
  ("processor", "split", "rows", "said"),
  [
    (
      ColaProcessor(),
      "test",
      ["7\tD.", "8\tE."],
      r"test\.tsv:1: there is no column 'sentence', .* header has '7', 'D\.'$",
    ),
    (
      ColaProcessor(),
      "test",
      ["gj04\t0\t*\tC.", "gj04\t1\t\tD."],
      r"no column 'sentence', .* header has 'gj04', '0', '\*', 'C\.'$",
    ),
    (
      ColaProcessor(),
      "test",
      ["index\tsentence", "7\tA.\tB."],
      r"test\.tsv:2: 3 columns .* header has 2; is there a tab in a text\?",
    ),
    (
      ColaProcessor(),
      "train",
      ["a\t1\t\tA.", "b\t0\t\tB.\tC."],
      r"train\.tsv:2: 5 columns .* first row has 4; is there a tab",
    ),
    (
      ColaProcessor(),
      "train",
      ["a\t1\t\tA.\tB.", "b\t0\t\tC."],
      r"train\.tsv:2: 4 columns .* but the first row has 5; the row",
    ),
    (
      MrpcProcessor(),
      "dev",
      [*PAIRS, "1\t5\t6\tA.\ta.\tB."],
      r"dev\.tsv:2: 6 columns .* but the header has 5; is there a tab",
    ),
    (
      MrpcProcessor(),
      "test",
      ["Quality\tQuality\t#2 ID\t#1 String\t#2 String", "1\t5\t6\tA.\tB."],
      r"test\.tsv:1: the header has the column 'Quality', .* gold, 2 times",
    ),
    (
      MrpcProcessor(),
      "train",
      ["Quality\t#1 ID\t#1 ID\t#1 String\t#1 String", "1\t5\t6\tA.\tB."],
      r"train\.tsv:1: the header has the column '#1 String', .* text_a, 2",
    ),
  ],
)
def test_a_file_unlike_its_task_is_told(tmp_path, processor, split, rows, said):
  write_rows(tmp_path / f"{split}.tsv", *rows)
  with pytest.raises(UserError, match=said):
    read_examples(processor, tmp_path, split)


def test_only_a_task_that_nobody_changed_is_built_in():
  class Mine(MrpcProcessor):
    pass

  changed = MrpcProcessor()
  changed.tables = {"train": MrpcProcessor.tables["dev"]}
  assert all(map(is_built_in, [kind() for kind in PROCESSORS.values()]))
  assert not is_built_in(changed) and not is_built_in(Mine())
  assert describe_tables(MrpcProcessor()) == {}
  assert describe_tables(changed) == {
    "table of train": {
      "text_a": "#1 String",
      "text_b": "#2 String",
      "label": "Quality",
      "language": None,
    },
    "synonyms": {},
  }


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(MissingFileError, match=r"/dev\.tsv: no such file"):
    read_examples(MrpcProcessor(), tmp_path, "dev")
