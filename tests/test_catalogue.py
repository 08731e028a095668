"""The tasks that there are: their files, columns, labels and guids."""

from conftest import read_examples, write_rows
import pytest

from bert_classifier import options, output_dir
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
from bert_classifier.task_choice import find_task, prepare_task

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
      r"test\.tsv:1: there is no column 'sentence', .* has '7', 'D\.': give",
    ),
    (
      ColaProcessor(),
      "test",
      ["gj04\t0\t*\tC.", "gj04\t1\t\tD."],
      r"no column 'sentence', .* header has 'gj04', '0', '\*', 'C\.': give",
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


SST2 = "sentence\tlabel"
QQP = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"
PAIR = "index\tsentence1\tsentence2"
STSB = "\t".join(
  ["index", "genre", "filename", "year", "old_index", "source1", "source2"]
  + ["sentence1", "sentence2"]
)
STSB_ROW = "7\tnews\tMSRvid\t2012\t0001\tnone\tnone\tA.\tB."
SNLI = '"sentence1": "A.", "sentence2": "B.", "annotator_labels": ["neutral"]'
TNEWS = '"label_desc": "news_car", "sentence": "甲", "keywords": ""'


# Header and a row as in the task's own file, then (text_a, text_b, label, row's
# own id) of the example.
FORMATS = [
  ("SST2", "train", "train.tsv", [SST2, "a b \t1"], ("a b ", None, "1", None)),
  ("SST-2", "dev", "dev.tsv", [SST2, "a b \t0"], ("a b ", None, "0", None)),
  (
    "sst_2",
    "test",
    "test.tsv",
    ["index\tsentence", "7\ta."],
    ("a.", None, None, "7"),
  ),
  (
    "QQP",
    "train",
    "train.tsv",
    [QQP, "9\t1\t2\tA?\tB?\t1"],
    ("A?", "B?", "1", None),
  ),
  (
    "qqp",
    "test",
    "test.tsv",
    ["id\tquestion1\tquestion2", '7\t"A?\tB?'],
    ('"A?', "B?", None, "7"),
  ),
  (
    "QNLI",
    "dev",
    "dev.tsv",
    ["index\tquestion\tsentence\tlabel", "7\tA?\tB.\tnot_entailment"],
    ("A?", "B.", "not_entailment", None),
  ),
  (
    "q-n-l-i",
    "test",
    "test.tsv",
    ["index\tquestion\tsentence", "7\tA?\tB."],
    ("A?", "B.", None, "7"),
  ),
  (
    "RTE",
    "train",
    "train.tsv",
    [f"{PAIR}\tlabel", "7\tA.\tB.\tentailment"],
    ("A.", "B.", "entailment", None),
  ),
  ("rte", "test", "test.tsv", [PAIR, "7\tA.\tB."], ("A.", "B.", None, "7")),
  (
    "WNLI",
    "dev",
    "dev.tsv",
    [f"{PAIR}\tlabel", "7\tA.\tB.\t1"],
    ("A.", "B.", "1", None),
  ),
  (
    "STS-B",
    "train",
    "train.tsv",
    [f"{STSB}\tscore", f"{STSB_ROW}\t3.800"],
    ("A.", "B.", "3.800", None),
  ),
  ("stsb", "test", "test.tsv", [STSB, STSB_ROW], ("A.", "B.", None, "7")),
  (
    "AX",
    "test",
    "diagnostic.tsv",
    [PAIR, "7\tA.\tB."],
    ("A.", "B.", None, "7"),
  ),
  (
    "snli",
    "dev",
    "snli_1.0_dev.jsonl",
    [
      f'{{"gold_label": "-", {SNLI}}}',
      f'{{"gold_label": "neutral", {SNLI}}}',
    ],
    ("A.", "B.", "neutral", None),
  ),
  (
    "TNEWS",
    "dev",
    "dev.json",
    [f'{{"label": "107", {TNEWS}}}'],
    ("甲", None, "107", None),
  ),
  (
    "tnews",
    "test",
    "test.json",
    ['{"id": 7, "sentence": "甲", "keywords": ""}'],
    ("甲", None, None, "7"),
  ),
  (
    "IFLYTEK",
    "train",
    "train.json",
    ['{"label": "11", "label_des": "乙", "sentence": "甲"}'],
    ("甲", None, "11", None),
  ),
  (
    "afqmc",
    "train",
    "train.json",
    ['{"sentence1": "甲", "sentence2": "乙", "label": "0"}'],
    ("甲", "乙", "0", None),
  ),
  (
    "ocnli",
    "train",
    "train.50k.json",
    [
      '{"level": "easy", "sentence1": "甲", "sentence2": "乙", "label": "-"}',
      '{"sentence1": "甲", "sentence2": "乙", "label": "neutral"}',
    ],
    ("甲", "乙", "neutral", None),
  ),
  (
    "CMNLI",
    "dev",
    "dev.json",
    ['{"sentence1": "甲", "sentence2": "乙", "label": "entailment"}'],
    ("甲", "乙", "entailment", None),
  ),
  (
    "csl",
    "dev",
    "dev.json",
    ['{"id": 7, "abst": "乙", "keyword": ["甲", "丙"], "label": "1"}'],
    ("甲 丙", "乙", "1", None),
  ),
  (
    "ChnSentiCorp",
    "train",
    "train.tsv",
    ["label\ttext_a", "1\t甲"],
    ("甲", None, "1", None),
  ),
  (
    "chn_senti_corp",
    "test",
    "test.tsv",
    ["qid\tlabel\ttext_a", "7\t1\t甲"],
    ("甲", None, None, "7"),
  ),
  (
    "LCQMC",
    "dev",
    "dev.tsv",
    ["text_a\ttext_b\tlabel", "甲\t乙\t0"],
    ("甲", "乙", "0", None),
  ),
]


@pytest.mark.parametrize(("name", "split", "file", "rows", "facts"), FORMATS)
def test_a_file_of_a_task_is_read(tmp_path, name, split, file, rows, facts):
  write_rows(tmp_path / file, *rows)
  processor = PROCESSORS[find_task(name)]()
  (found,) = read_examples(processor, tmp_path, split)
  assert (found.text_a, found.text_b, found.label, found.row_id) == facts
  target = processor.get_target()
  target.check(name)
  target.encode(found.label)


def test_every_task_has_a_row_of_its_format():
  elsewhere = {"cola", "mrpc", "mnli", "xnli"}
  assert {find_task(row[0]) for row in FORMATS} | elsewhere == set(PROCESSORS)


def test_rows_of_qqp_that_a_line_end_has_broken_are_left_out(tmp_path, info):
  rows = [QQP, "9\t1\t2\tA?\tB?\t1", "8\t1\t2\tC", "?\tD?\t0"]
  write_rows(tmp_path / "train.tsv", *rows)
  assert len(read_examples(PROCESSORS["qqp"](), tmp_path)) == 1
  assert info.messages == [
    f"{tmp_path}/train.tsv: 2 rows of train are left out: too few columns"
  ]


def test_pairs_whose_label_is_a_dash_are_counted(tmp_path, info):
  row = '{"sentence1": "甲", "sentence2": "乙", "label": "%s"}'
  write_rows(tmp_path / "dev.json", row % "-", row % "neutral", row % "-")
  (found,) = read_examples(PROCESSORS["cmnli"](), tmp_path, "dev")
  assert found.guid == "dev-1"
  assert info.messages == [
    f"{tmp_path}/dev.json: 2 rows of dev are left out: the label '-', which is"
    " none"
  ]


# gluebenchmark.com: the metrics of its leaderboard, beside accuracy.
GLUE = {
  "cola": "matthews_correlation",
  "sst-2": None,
  "mrpc": "f1",
  "qqp": "f1",
  "sts-b": "pearson",
  "mnli": None,
  "qnli": None,
  "rte": None,
  "wnli": None,
  "ax": "matthews_correlation",
}


def test_tasks_of_glue_have_its_metrics_and_its_files():
  glue = {name for name, kind in PROCESSORS.items() if kind.submissions}
  assert glue == set(GLUE)
  assert {name: PROCESSORS[name].metric for name in GLUE} == GLUE
  names = [
    file for name in GLUE for file in PROCESSORS[name].submissions.values()
  ]
  assert sorted(names) == sorted(output_dir.SUBMISSIONS)
  assert {"pearson", "spearman"} <= set(
    PROCESSORS["sts-b"]().get_target().metrics
  )


def test_the_diagnostic_set_is_predicted_only(tmp_path):
  with pytest.raises(UserError, match="trained on mnli: it has no dev set"):
    read_examples(PROCESSORS["ax"](), tmp_path, "dev")
  task = prepare_task(
    options.make_options(task_name="AX", data_dir="x").data, 8
  )
  assert task.trained_name == "mnli"
  assert task.target.labels == MnliProcessor.labels
