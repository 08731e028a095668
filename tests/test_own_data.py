"""Own data by flags: files, columns, labels, split, and what is remembered."""

import collections
import csv
import json
import re

from conftest import (
  list_texts,
  prepare_own_data,
  read_results,
  read_table,
  write_text,
)
import pytest

from bert_classifier import (
  options,
  own_data,
  table_files,
  targets,
  task_choice,
  tasks,
)
from bert_classifier.errors import MissingFileError, UserError

REVIEWS = 'Label,Review\ngood,"fine, ""really"""\nbad,"dull\nand long"\n'


def test_a_csv_file_is_a_task(tmp_path, info):
  path = write_text(tmp_path / "train.csv", REVIEWS)
  task = prepare_own_data(train_file=path, do_train=True)
  assert task.name == "own_data" and task.target.labels == ("bad", "good")
  assert list_texts(task) == [
    ('fine, "really"', None, "good"),
    ("dull\nand long", None, "bad"),
  ]
  said = f"train: {path}: columns: text 'Review', label 'Label'"
  assert said in info.messages


def test_labels_are_sorted_as_numbers_where_all_are(tmp_path):
  rows = "".join(f"t,{label}\n" for label in ("10", "9", "-1", "10"))
  path = write_text(tmp_path / "a.csv", f"text,label\n{rows}")
  assert prepare_own_data(train_file=path, do_train=True).target.labels == (
    *("-1", "9", "10"),
  )
  path = write_text(tmp_path / "b.csv", f"text,label\n{rows}t,x\n")
  assert prepare_own_data(train_file=path, do_train=True).target.labels == (
    *("-1", "10", "9", "x"),
  )


def test_a_number_needs_no_labels(tmp_path):
  path = write_text(tmp_path / "a.csv", "text,score\na,1.5\nb,-2\n")
  task = prepare_own_data(train_file=path, do_train=True, regression=True)
  assert task.target.problem_type == "regression"
  assert [label for _, _, label in list_texts(task)] == ["1.5", "-2"]


def test_a_test_set_needs_no_label_and_may_have_one(tmp_path):
  train = write_text(tmp_path / "train.csv", "text,label\na,x\nb,y\n")
  test = write_text(tmp_path / "test.jsonl", '{"text": "c"}\n')
  other = write_text(tmp_path / "other.csv", "label,text\ny,d\n")
  for path, gold in ((test, None), (other, "y")):
    task = prepare_own_data(train_file=train, test_file=path, do_predict=True)
    assert [e.gold for e in task.data.examples("test")] == [gold]


def test_files_are_found_in_data_dir(tmp_path):
  write_text(tmp_path / "train.csv", "text,label\na,x\nb,y\n")
  write_text(tmp_path / "dev.tsv", "text\tlabel\nc\tx\n")
  flags = dict(data_dir=str(tmp_path), do_train=True)
  task = prepare_own_data(task_name="own_data", do_eval=True, **flags)
  assert list_texts(task, "dev") == [("c", None, "x")]
  with pytest.raises(
    UserError, match="--dev_file, or --dev_fraction=0.1 .* no"
  ):
    prepare_own_data(task_name="CSV", do_eval=True, **flags)


def test_a_fraction_without_a_task_is_no_fault_of_a_task():
  asked = options.make_options(data_dir="d", dev_fraction=0.3)
  assert not own_data.names_own_data(asked.data, ["cola"])
  asked = options.make_options(task_name="cola", dev_fraction=0.3)
  with pytest.raises(UserError, match="the task cola has a dev set"):
    own_data.names_own_data(asked.data, ["cola"])


# ---------------------------------------------------------------------------
# The split, and what a trained folder remembers


def write_numbered(path, count=100):
  rows = "".join(f"text {i},{'xyz'[i % 10 % 3]}\n" for i in range(count))
  return write_text(path, f"text,label\n{rows}")


@pytest.mark.parametrize("regression", [False, True])
def test_a_dev_split_divides_the_training_file(tmp_path, regression):
  path = write_numbered(tmp_path / "a.csv")
  if regression:
    path = write_text(
      tmp_path / "b.csv",
      "text,score\n" + "".join(f"text {i},{i}\n" for i in range(100)),
    )
  flags = dict(train_file=path, dev_fraction=0.2, regression=regression)
  task = prepare_own_data(do_train=True, do_eval=True, **flags)
  train, dev = list_texts(task), list_texts(task, "dev")
  assert (len(train), len(dev)) == (80, 20)
  assert task.data.count("dev") == 20
  assert not set(train) & set(dev)
  if not regression:
    labels = [label for _, _, label in dev]
    assert [labels.count(label) for label in "xyz"] == [8, 6, 6]
  again = prepare_own_data(do_train=True, do_eval=True, **flags)
  assert list_texts(again, "dev") == dev
  other = prepare_own_data(do_train=True, do_eval=True, seed=7, **flags)
  assert list_texts(other, "dev") != dev
  assert task.data.examples_digest("dev") != task.data.examples_digest("train")


def test_examples_are_drawn_of_what_the_dev_split_leaves(tmp_path):
  path = write_numbered(tmp_path / "a.csv")
  flags = dict(do_train=True, do_eval=True, train_file=path, dev_fraction=0.2)
  whole = prepare_own_data(**flags)
  few = prepare_own_data(**flags)
  few = few._replace(data=tasks.TaskData(few.processor, "", 7))
  assert list_texts(few, "dev") == list_texts(whole, "dev")
  drawn = list_texts(few)
  assert len(drawn) == few.data.count("train") == 7
  assert set(drawn) < set(list_texts(whole))


def test_blank_texts_are_in_neither_part(tmp_path):
  path = write_text(tmp_path / "a.csv", "text,label\n" + "a,x\n ,y\nb,y\n" * 10)
  task = prepare_own_data(
    train_file=path, dev_fraction=0.2, do_train=True, do_eval=True
  )
  tally = collections.Counter()
  assert len(list(task.data.examples("train", tally))) == 16
  assert tally["blank"] == 10
  dev = [text for text, _, _ in list_texts(task, "dev")]
  assert sorted(dev) == ["a", "a", "b", "b"]


def test_a_file_that_changes_while_it_is_divided_is_told(tmp_path):
  path = write_numbered(tmp_path / "a.csv")
  flags = dict(train_file=path, dev_fraction=0.2, label_list="x,y,z,w")
  task = prepare_own_data(do_train=True, do_eval=True, **flags)
  assert task.data.count("train") == 80
  write_text(tmp_path / "a.csv", "text,label\n" + "a,w\n" * 30)
  for split in ("train", "dev"):
    with pytest.raises(UserError, match="a.csv changed while it was in use"):
      list_texts(task, split)


def remember(task, path, **flags):
  """The manifest's settings of a training."""
  asked = options.make_options(train_file=path, **flags)
  return {
    "model": {"labels": list(task.target.labels)},
    "data": json.loads(
      json.dumps(own_data.describe_settings(asked.data, task.processor))
    ),
    "training": {"training data (SHA-256)": task.data.source_digest("train")},
  }


def test_a_trained_folder_has_the_split_that_it_was_trained_with(tmp_path):
  path = write_numbered(tmp_path / "a.csv")
  flags = dict(train_file=path, dev_fraction=0.2)
  task = prepare_own_data(do_train=True, do_eval=True, seed=7, **flags)
  trained = remember(task, path, dev_fraction=0.2)
  again = prepare_own_data(trained, do_eval=True, **flags)
  assert list_texts(again, "dev") == list_texts(task, "dev")
  flags["dev_fraction"] = 0.3
  with pytest.raises(UserError, match=r"0\.3, but out was trained with 0\.2"):
    prepare_own_data(trained, do_eval=True, **flags)
  del trained["data"]["dev_split"]
  with pytest.raises(UserError, match="was trained with none, so it knows"):
    prepare_own_data(trained, do_eval=True, **flags)


def test_the_dev_split_of_another_file_is_refused(tmp_path):
  path = write_numbered(tmp_path / "a.csv")
  flags = dict(train_file=path, dev_fraction=0.2)
  task = prepare_own_data(do_train=True, do_eval=True, **flags)
  trained = remember(task, path, dev_fraction=0.2)
  write_numbered(tmp_path / "a.csv", 99)
  with pytest.raises(UserError, match="a.csv is not the file that out was tra"):
    prepare_own_data(trained, do_eval=True, **flags)


def test_labels_and_columns_of_the_training_are_remembered(tmp_path):
  path = write_text(tmp_path / "a.csv", "review,label\na,x\nb,y\n")
  trained = remember(prepare_own_data(train_file=path, do_train=True), path)
  (tmp_path / "a.csv").unlink()
  test = write_text(tmp_path / "b.csv", "text,review\nc,d\n")
  task = prepare_own_data(
    trained, train_file=path, test_file=test, do_predict=True
  )
  assert task.target.labels == ("x", "y")
  assert list_texts(task, "test") == [("d", None, None)]


def test_columns_that_flags_number_are_remembered_by_name(tmp_path):
  path = write_text(tmp_path / "a.csv", "no,review,stars\n1,a,x\n2,b,y\n")
  flags = dict(text_column="1", label_column="-1", id_column="no")
  task = prepare_own_data(train_file=path, do_train=True, **flags)
  trained = remember(task, path, **flags)
  remembered = {n: v for n, v in trained["data"].items() if "_column" in n}
  assert remembered == {"text_column": "review", "label_column": "stars"}
  test = write_text(tmp_path / "b.csv", "lang,Stars,Review\nen,y,c\n")
  task = prepare_own_data(
    trained, test_file=test, do_predict=True, **remembered
  )
  (example,) = task.data.examples("test")
  assert (example.text_a, example.gold) == ("c", "y")


@pytest.mark.parametrize(
  ("flags", "paths", "data"),
  [
    (dict(task_name="CSV"), {"train_file": "/a", "data_dir": "/b"}, True),
    (dict(data_dir="/c"), {"data_dir": "/b"}, True),
    (dict(task_name="mrpc"), {"data_dir": "/b"}, False),
  ],
)
def test_files_are_forgotten_where_others_are_asked_for(flags, paths, data):
  trained = {
    "paths": {"train_file": "/a", "data_dir": "/b"},
    "data": {"dev_fraction": 0.1},
  }
  assert own_data.forget_files(trained, options.make_options(**flags)) == {
    "paths": paths,
    "data": trained["data"] if data else {},
  }


def test_labels_and_columns_are_those_of_the_folder_of_the_weights(
  tmp_path,
):
  settings = {
    "settings": {
      "model": {"labels": ["x", "y"]},
      "data": {"columns": {"text": "body"}},
    }
  }
  write_text(tmp_path / "run" / "run_manifest.json", json.dumps(settings))
  test = write_text(tmp_path / "b.csv", "text,body\nc,d\n")
  task = prepare_own_data(
    test_file=test, do_predict=True, init_checkpoint=str(tmp_path / "run")
  )
  assert task.target.labels == ("x", "y")
  assert list_texts(task, "test") == [("d", None, None)]


@pytest.mark.parametrize("kind", ["multi_label", "regression", "single_label"])
def test_the_kind_is_that_of_the_folder_of_the_weights(tmp_path, kind):
  target = targets.KINDS[kind]
  model = {"problem_type": target.problem_type, "labels": ["x", "y"]}
  settings = {"model": model}
  if kind == "multi_label":
    settings["prediction"] = {"threshold": 0.25}
  write_text(
    tmp_path / "run" / "run_manifest.json", json.dumps({"settings": settings})
  )
  test = write_text(tmp_path / "b.csv", "text\nc\n")
  flags = dict(test_file=test, do_predict=True)
  flags["init_checkpoint"] = str(tmp_path / "run")
  found = prepare_own_data(**flags).target
  assert type(found) is target
  if kind == "multi_label":
    assert found.threshold == 0.25
    asked = prepare_own_data(threshold=0.75, **flags)
    assert asked.target.threshold == 0.75
  # A flag that says otherwise is heard, and the head is held against it.
  asked = prepare_own_data(regression=True, **flags)
  assert asked.target.problem_type == "regression"


# ---------------------------------------------------------------------------
# Mistakes

BAD_ROWS = [
  ("", " the file is empty"),
  ("text,label\n", " there is no row with a text and a label"),
  ("text,label\n ,x\n", " there is no row with a text and a label"),
  ("text,label\na,x\nb,\n", "3: in column 'label', the label is missing"),
  ("text,label\na,x\nb,c,y\n", "3: 3 columns separated by commas, .* quotes"),
  ('text,label\na,x\n"b,y\nc,y\n', "3: a quote that opens .* never closes"),
]


@pytest.mark.parametrize(("text", "said"), BAD_ROWS)
def test_a_file_that_has_no_such_rows_is_told(tmp_path, text, said):
  path = write_text(tmp_path / "a.csv", text)
  with pytest.raises(UserError, match=f"{path}:{said}"):
    prepare_own_data(train_file=path, do_train=True)


def test_a_label_that_training_lacks_is_told(tmp_path):
  train = write_text(tmp_path / "train.csv", "text,label\na,x\nb,y\n")
  dev = write_text(tmp_path / "dev.csv", "text,label\na,x\nb,z\n")
  task = prepare_own_data(
    train_file=train, dev_file=dev, do_train=True, do_eval=True
  )
  said = f"{dev}:3: in column 'label', the label 'z' is not one of 'x', 'y' .*"
  with pytest.raises(UserError, match=said + "those of the training set"):
    task.data.count("dev")
  task = prepare_own_data(train_file=train, label_list="x,z", do_train=True)
  said = f"{train}:3: .* 'y' is not one of 'x', 'z' .* of --label_list"
  with pytest.raises(UserError, match=said):
    task.data.count("train")


@pytest.mark.parametrize("text", [",", '["a", 1]', "[1", "a,,b"])
def test_a_list_of_labels_must_be_one(tmp_path, text):
  path = write_text(tmp_path / "train.csv", REVIEWS)
  with pytest.raises(UserError, match="is no list of labels: separate them"):
    prepare_own_data(train_file=path, label_list=text, do_train=True)


def test_labels_may_have_commas_in_a_json_list(tmp_path):
  path = write_text(tmp_path / "a.csv", 'text,label\na,"x,y"\nb,z\n')
  task = prepare_own_data(
    train_file=path, label_list='["z", "x,y"]', do_train=True
  )
  assert task.target.labels == ("z", "x,y") and task.data.count("train") == 2


def test_a_single_label_is_warned_of_loudly(tmp_path, info):
  path = write_text(tmp_path / "a.csv", "text,label\na,x\nb,x\n")
  assert prepare_own_data(train_file=path, do_train=True).target.labels == (
    "x",
  )
  assert any("THERE IS ONE LABEL ONLY, 'x'" in line for line in info.messages)


@pytest.mark.parametrize(
  ("labels", "said"),
  [
    (("Yes", "yes"), "'Yes' and 'yes' .* although they differ in case only"),
    (("1", "1.0"), "'1' and '1.0' .* although they are the same number"),
  ],
)
def test_labels_that_look_the_same_are_warned_of(tmp_path, info, labels, said):
  rows = "".join(f"a,{label}\n" for label in labels)
  path = write_text(tmp_path / "a.csv", f"text,label\n{rows}")
  assert (
    prepare_own_data(train_file=path, do_train=True).target.labels == labels
  )
  assert any(re.search(said, line) for line in info.messages)


def test_spaces_around_labels_make_no_other_labels(tmp_path):
  rows = "a, x\nb,x \nc,y\n"
  path = write_text(tmp_path / "a.csv", f"text, label\n{rows}")
  task = prepare_own_data(train_file=path, test_file=path, do_train=True)
  assert task.target.labels == ("x", "y")
  encoded = [task.target.encode(label) for _, _, label in list_texts(task)]
  assert encoded == [0, 0, 1]
  assert task.target.show_label(" x") == "x"


@pytest.mark.parametrize(
  ("flags", "said"),
  [
    (dict(), "--do_train needs a training set: give --train_file"),
    (dict(train_file="{folder}"), "is a folder: give the file in it"),
    (dict(train_file="{folder}/none.csv"), "none.csv: no such file"),
    (
      dict(train_file="a.csv", data_dir="{folder}"),
      "/a.csv is there: give that",
    ),
    (dict(train_file="{folder}/a.txt"), "the ending does not say the format"),
    (
      dict(train_file="{folder}/a.csv", task_name="jsonl"),
      "=jsonl contradicts",
    ),
    (
      dict(train_file="{folder}/a.csv", dev_file="x", dev_fraction=0.1),
      "but there is a dev set, x: take one",
    ),
  ],
)
def test_files_that_cannot_be_taken_are_told(tmp_path, flags, said):
  for name in ("a.csv", "a.txt"):
    write_text(tmp_path / name, REVIEWS)
  flags = {
    name: value.format(folder=tmp_path) if isinstance(value, str) else value
    for name, value in flags.items()
  }
  with pytest.raises((UserError, MissingFileError), match=said):
    prepare_own_data(do_train=True, **flags)


def test_labels_that_nobody_knows_are_asked_for(tmp_path):
  path = write_text(tmp_path / "a.csv", "text\na\n")
  with pytest.raises(
    UserError, match="labels of your data are not known: give"
  ):
    prepare_own_data(test_file=path, do_predict=True)


@pytest.mark.parametrize(
  ("flags", "is_own"),
  [
    (dict(task_name="csv"), True),
    (dict(task_name="JSONL"), True),
    (dict(train_file="a.csv"), True),
    (dict(task_name="own_data"), True),
    (dict(task_name="mrpc"), False),
    ({}, False),
  ],
)
def test_formats_and_files_name_own_data(flags, is_own):
  data = options.make_options(**flags).data
  assert own_data.names_own_data(data, ["MRPC"]) == is_own
  assert not own_data.names_own_data(
    options.make_options(task_name="csv").data, ["csv"]
  )


@pytest.mark.parametrize(
  ("flags", "said"),
  [
    (dict(multi_label=True, regression=True), "contradict each other"),
    (dict(label_list="1,2", regression=True), "--label_list=1,2 names classes"),
  ],
)
def test_flags_of_two_kinds_contradict_each_other(flags, said):
  data = options.make_options(**flags).data
  with pytest.raises(UserError, match=said):
    task_choice.check_task_flags(data, is_own_data=True, reads_data=False)


@pytest.mark.parametrize("flag", [dict(test_file="a"), dict(dev_fraction=0.1)])
def test_a_task_with_files_of_its_own_takes_none(flag):
  data = options.make_options(task_name="mrpc", **flag).data
  with pytest.raises(UserError, match="is for own data"):
    own_data.names_own_data(data, ["mrpc"])


# ---------------------------------------------------------------------------
# From the file to the predictions


def write_task(golden_task, path, *, labelled=True):
  """Writes the golden task's dev set as a file of own data."""
  rows = read_table(f"{golden_task}/data/dev.tsv")[1:]
  names = ["uid", "sentence1", "sentence2", *["label"] * labelled]
  rows = [
    [number, row[3] + "\n.", row[4], ["no", "yes"][int(row[0])]]
    for number, row in enumerate(rows)
  ]
  with open(path, "w", newline="", encoding="utf-8") as file:
    if path.suffix == ".csv":
      writer = csv.writer(file, delimiter=";")
      writer.writerow(names)
      writer.writerows(row[: len(names)] for row in rows)
    else:
      for row in rows:
        file.write(json.dumps(dict(zip(names, row))) + "\n")
  return rows


def test_a_folder_that_was_trained_by_flags_needs_no_more(
  classify, training, golden_task, tmp_path
):
  rows = write_task(golden_task, tmp_path / "train.csv")
  write_task(golden_task, tmp_path / "test.jsonl", labelled=False)
  nothing = dict.fromkeys(classify.defaults)
  own = dict(task_name=None, data_dir=None, cache_dir=None)
  out = tmp_path / "out"
  outcome = classify(
    "--do_eval",
    train_file=tmp_path / "train.csv",
    dev_fraction=0.25,
    id_column="uid",
    output_dir=out,
    **{**training, **own, "num_train_epochs": 1, "eval_report": False},
  )
  assert outcome.status == 0, outcome.log
  assert len(list(out.glob("cached_*.tf_record"))) == 2
  results = read_results(out / "eval_results.txt")
  outcome = classify("--do_eval", **{**nothing, "output_dir": out})
  assert outcome.status == 0, outcome.log
  assert read_results(out / "eval_results.txt") == pytest.approx(results)
  (tmp_path / "train.csv").unlink()
  outcome = classify(
    "--do_predict",
    **{
      **nothing,
      "output_dir": out,
      "test_file": tmp_path / "test.jsonl",
    },
  )
  assert outcome.status == 0, outcome.log
  header, *predictions = read_table(out / "test_predictions.tsv")
  assert header[:4] == ["id", "text_a", "text_b", "label"]
  assert [cells[:3] for cells in predictions] == [
    [str(number), text_a.replace("\n", " "), text_b]
    for number, text_a, text_b, _ in rows
  ]
  assert {cells[3] for cells in predictions} <= {"no", "yes"}


def test_every_format_has_an_ending():
  assert set(table_files.FORMATS) == set(table_files.ENDINGS.values())
