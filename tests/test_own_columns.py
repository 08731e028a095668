"""The columns of own data: by name, by number, by flags and by themselves."""

import json

from conftest import list_texts, prepare_own_data, write_text
import pytest

from bert_classifier.errors import UserError

SEVERAL = 'text,label,joy,"anger"\na,joy|anger,1,1\nb,,0,0.0\nc,joy,TRUE,0\n'


@pytest.mark.parametrize(
  ("name", "text"),
  [
    ("a.csv", "id;SENTENCE1;sentence2;class\n7;a, b;c;x\n8;d;e;y\n"),
    ("a.csv", "id\tsentence1\tsentence2\tclass\n7\ta, b\tc\tx\n8\td\te\ty\n"),
    ("a.tsv", "id\tsentence1\tsentence2\tclass\n7\ta, b\tc\tx\n8\td\te\ty\n"),
    (
      "a.jsonl",
      '{"id": 7, "sentence1": "a, b", "sentence2": "c", "class": "x"}\n'
      '{"class": "y", "sentence1": "d", "sentence2": "e", "id": 8}\n',
    ),
  ],
)
def test_pairs_are_found_in_every_format(tmp_path, name, text):
  path = write_text(tmp_path / name, text)
  task = prepare_own_data(train_file=path, do_train=True)
  assert list_texts(task) == [("a, b", "c", "x"), ("d", "e", "y")]
  assert [e.row_id for e in task.data.examples("train")] == ["7", "8"]


@pytest.mark.parametrize(
  ("flags", "text", "found"),
  [
    (dict(text_column="b"), "a,b,label\n1,2,x\n3,4,y\n", ("2", None, "x")),
    (
      dict(text_column="1", label_column="-1", text_b_column="0"),
      "a,b,c\n1,2,x\n3,4,y\n",
      ("2", "1", "x"),
    ),
    (
      dict(no_header=True, text_column="1", label_column="0"),
      "x,1\ny,2\n",
      ("1", None, "x"),
    ),
    ({}, "label,body\nx,1\ny,2\n", ("1", None, "x")),
    (dict(label_column="1", text_column="t"), "1,t\nx,1\ny,2\n", None),
    # A name in another spelling, or twice.
    (dict(text_column="MY text"), " My Text,label\n1,x\n3,y\n", None),
    (dict(text_column="a"), "A,a,label\n2,1,x\n4,3,y\n", None),
    (dict(text_column="1"), "text,text,label\n2,1,x\n4,3,y\n", None),
    (dict(id_column="2"), "text,label,,\n1,x,7,8\n3,y,7,8\n", None),
    ({}, "sep=|\ntext|label\n1|x\n3|y\n", None),
  ],
)
def test_columns_are_names_or_numbers(tmp_path, flags, text, found):
  path = write_text(tmp_path / "a.csv", text)
  task = prepare_own_data(train_file=path, do_train=True, **flags)
  assert list_texts(task)[0] == (found or ("1", None, "x"))


def test_keys_are_nested_and_labels_are_any_values(tmp_path):
  rows = [
    {"data": {"body": "a", "n": None}, "stars": 10},
    {"data": {"body": "b"}, "stars": 2},
    {"data": {"body": "c"}, "stars": 2.5},
  ]
  path = write_text(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
  task = prepare_own_data(
    train_file=path,
    do_train=True,
    text_column="data.body",
    label_column="stars",
  )
  assert task.target.labels == ("2", "2.5", "10")
  assert [label for _, _, label in list_texts(task)] == ["10", "2", "2.5"]


@pytest.mark.parametrize("column", ["label", "joy,anger"])
def test_several_labels_are_a_cell_or_columns(tmp_path, column):
  path = write_text(tmp_path / "a.csv", SEVERAL)
  task = prepare_own_data(
    train_file=path, do_train=True, label_column=column, multi_label=True
  )
  encoded = {
    text: dict(zip(task.target.labels, task.target.encode(label)))
    for text, _, label in list_texts(task)
  }
  assert encoded == {
    "a": {"joy": 1, "anger": 1},
    "b": {"joy": 0, "anger": 0},
    "c": {"joy": 1, "anger": 0},
  }


def test_lists_of_labels_need_the_flag_of_several(tmp_path):
  rows = [{"text": "a", "labels": ["joy"]}, {"text": "b", "labels": []}]
  path = write_text(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
  said = """jsonl:1: in column 'labels', the label '."joy".' is a list, which"""
  with pytest.raises(UserError, match=f"{said} --multi_label reads"):
    prepare_own_data(train_file=path, do_train=True)
  path = write_text(tmp_path / "a.csv", "text,label\na,[sic]\nb,[1\n")
  task = prepare_own_data(train_file=path, do_train=True)
  assert task.target.labels == ("[1", "[sic]")


def test_columns_of_several_labels_need_the_flag_of_several(tmp_path):
  path = write_text(tmp_path / "a.csv", SEVERAL)
  flags = dict(train_file=path, do_train=True)
  with pytest.raises(
    UserError, match="names several columns, .* --multi_label"
  ):
    prepare_own_data(label_column="joy,anger", **flags)
  with pytest.raises(UserError, match="=joy,joy names a column twice"):
    prepare_own_data(label_column="joy,joy", multi_label=True, **flags)


@pytest.mark.parametrize("no_header", [False, True])
def test_a_test_set_may_be_a_column_of_texts(tmp_path, info, no_header):
  test = write_text(tmp_path / "b.tsv", "great film\ndull\n")
  task = prepare_own_data(
    test_file=test, label_list="x,y", do_predict=True, no_header=no_header
  )
  texts = [text for text, _, _ in list_texts(task, "test")]
  assert texts == ["great film", "dull"][not no_header :]
  said = "b.tsv:1: the only column is taken for the text, and 'great film' for"
  assert any(said in line for line in info.messages) != no_header


def test_a_test_set_may_have_its_labels_in_another_column(tmp_path):
  train = write_text(tmp_path / "a.csv", "text,joy,love\na,1,0\nb,1,1\n")
  test = write_text(tmp_path / "b.jsonl", '{"text": "c", "labels": ["love"]}\n')
  task = prepare_own_data(
    train_file=train,
    test_file=test,
    label_column="joy,love",
    multi_label=True,
    do_train=True,
    do_predict=True,
  )
  (example,) = task.data.examples("test")
  assert task.target.show_label(example.gold) == "love"


def test_a_label_counted_from_the_end_is_no_text_of_a_test_set(tmp_path):
  train = write_text(tmp_path / "a.csv", "a,x\nb,y\n")
  test = write_text(tmp_path / "b.csv", "c\n")
  flags = dict(no_header=True, text_column="0", label_column="-1")
  task = prepare_own_data(
    train_file=train, test_file=test, do_train=True, do_predict=True, **flags
  )
  assert [e.gold for e in task.data.examples("test")] == [None]


@pytest.mark.parametrize(
  ("first", "then", "said"),
  [
    ("sentence1,sentence2", "sentence1", "trained on pairs .* 'sentence2' th"),
    ("text_a,text_b", "text", "trained on pairs of texts, but there is no sec"),
    ("text", "text_a,text_b", "trained on single texts, but here 'text_b' is"),
  ],
)
def test_pairs_stay_pairs(tmp_path, first, then, said):
  train = write_text(tmp_path / "a.csv", f"{first},label\na,b,x\nc,d,y\n")
  if first == "text":
    write_text(tmp_path / "a.csv", "text,label\na,x\nc,y\n")
  dev = write_text(tmp_path / "b.csv", f"{then},label\na,b,x\n")
  with pytest.raises(UserError, match=said):
    prepare_own_data(
      train_file=train, dev_file=dev, do_train=True, do_eval=True
    )


def test_empty_cells_behind_the_last_column_are_none(tmp_path):
  path = write_text(tmp_path / "a.csv", "text,label\na,x,,\nb,y\n")
  task = prepare_own_data(train_file=path, do_train=True)
  assert list_texts(task) == [("a", None, "x"), ("b", None, "y")]


def test_a_cell_of_a_column_of_labels_must_be_0_or_1(tmp_path):
  path = write_text(tmp_path / "a.csv", "text,a,b\nx,1,2\n")
  task = prepare_own_data(
    train_file=path, do_train=True, label_column="a,b", multi_label=True
  )
  said = "a.csv:2: .* label 'b' is '2', but must be 0 or 1; correct the row"
  with pytest.raises(UserError, match=said):
    task.data.count("train")


BAD_COLUMNS = [
  (
    {},
    "body,label,more\n1,x,2\n",
    "1: none .* the columns are 'body', 'label'",
  ),
  ({}, "text,review,label\na,b,x\n", "1: 'text' and 'review' may be the text"),
  ({}, "text,label,Class\na,b,x\n", "1: 'label' and 'Class' may be the label"),
  (
    {},
    "text,label,text\na,x,b\n",
    "1: the header has 'text' 2 times, columns 0 and 2 .* --text_column=0",
  ),
  (
    {},
    "sentence1,sentence2,label,sentence2\na,b,x,c\n",
    "1: the header has 'sentence2' 2 times, columns 1 and 3",
  ),
  (
    {},
    "great film,pos\nbad film,neg\n",
    "1: none .* 'great film', 'pos'; if .* an example .* give --no_header",
  ),
  ({}, "sep=;\n\ntext;body\na;x\n", "3: none .* called label"),
  ({}, "text|label\na|x\n", r"1: none .* '\|' separate the .* sep=\| as the"),
  (
    {},
    "text,verdict,more\na,x,b\n",
    "1: none of the .* called label, .* 'text'",
  ),
  (
    dict(text_column="txt"),
    "text,label\na,x\n",
    r"1: there is no column 'txt' \(--text_column\); the columns are 'text', "
    "'label'; did you mean 'text'",
  ),
  (dict(label_column="2"), "text,label\na,x\n", "1: there is no column '2'"),
  (
    dict(text_column="label"),
    "text,label\na,x\n",
    "1: .* is both text and lab",
  ),
  (dict(no_header=True), "a,x\nb,y\n", "1: .* they are numbers: '0', '1'"),
]


@pytest.mark.parametrize(
  ("flags", "text", "said"),
  BAD_COLUMNS,
)
def test_columns_that_are_not_there_or_unclear_are_told(
  tmp_path, flags, text, said
):
  path = write_text(tmp_path / "a.csv", text)
  with pytest.raises(UserError, match=f"{path}:{said}"):
    prepare_own_data(train_file=path, do_train=True, **flags)
