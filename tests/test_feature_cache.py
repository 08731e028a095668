"""The cache of features: what is reused, and what is made anew and why."""

import dataclasses
import json
import os
from pathlib import Path
import random
import shutil

from conftest import read_records, write_rows
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import conversion, feature_cache, features, files
from bert_classifier.catalogue import PROCESSORS, MrpcProcessor
from bert_classifier.errors import UserError
from bert_classifier.record_index import RecordReader
from bert_classifier.table_files import Table
from bert_classifier.tasks import DataProcessor, InputExample
import run_classifier

SPLITS = [("train", "train"), ("dev", "eval"), ("test", "predict")]
PREVIOUS = Path(__file__).parent / "previous" / "features"


class Unusable:
  """A tokenizer for where nothing may be tokenized."""

  def convert_tokens_to_ids(self, tokens):
    return [0] * len(tokens)

  def tokenize(self, text):
    raise AssertionError("tokenized again")


@pytest.mark.quick
@pytest.mark.parametrize(("split", "name"), SPLITS)
def test_records_equal_the_originals(cache, golden_task, split, name):
  ours = read_records(cache().features(split).path)
  theirs = read_records(f"{golden_task}/{name}.tf_record")
  assert ours == theirs and len(ours) > 10


def test_the_first_five_examples_are_logged(cache, info):
  cache().features("dev")
  guids = [m for m in info.messages if m.startswith("guid: ")]
  assert guids == [f"guid: dev-{number}" for number in range(1, 6)]
  assert "label: 1 (id = 1)" in info.messages
  assert any(m.startswith("tokens: [CLS] p ##e ##x") for m in info.messages)


def test_a_second_run_does_not_tokenize_and_says_so(cache, info):
  first = cache().features("dev")
  again = cache(tokenizer=Unusable())
  assert again.count("dev") == 21 and again.features("dev") == first
  assert f"dev: 21 examples, converted before, in {first.path}" in info.messages


def test_the_manifest_says_what_the_records_were_made_of(cache, golden_task):
  path = Path(cache().features("dev").path)
  assert path.name.startswith("cached_dev_24_mrpc_")
  manifest = json.loads(path.with_suffix(".json").read_text())
  assert manifest["inputs"] == {
    "source": files.hash_file(f"{golden_task}/data/dev.tsv"),
    "vocabulary": "v",
    "do_lower_case": True,
    "max_seq_length": 24,
    "labels": ["0", "1"],
    "language": None,
    "task": "mrpc",
    "split": "dev",
    "format_version": feature_cache.FORMAT_VERSION,
  }
  lengths = [sum(record["input_mask"]) for record in read_records(str(path))]
  assert manifest["records"] == len(lengths) == 21
  assert manifest["truncated"] == 20 == lengths.count(24)
  assert manifest["truncated_tokens"] == 306 and manifest["blank"] == 0


class ThreeLabels(MrpcProcessor):
  labels = ("0", "1", "2")


@pytest.mark.parametrize(
  ("changed", "named"),
  [
    (dict(vocabulary="w"), "vocabulary"),
    (dict(do_lower_case=False), "do_lower_case"),
    (dict(processor=ThreeLabels()), "examples, labels, synonyms, table"),
    (
      dict(processor=ThreeLabels(), vocabulary="w"),
      "examples, labels, synonyms, table, vocabulary",
    ),
  ],
)
def test_a_changed_input_makes_a_new_file_and_is_named(
  cache, info, changed, named
):
  old = cache().features("dev").path
  new = cache(**changed).features("dev").path
  assert new != old and os.path.exists(old)
  manifest = old.replace(".tf_record", ".json")
  reason = f"dev: not the features of {manifest}, for these differ: {named}"
  assert reason in info.messages


def test_a_file_is_read_for_its_digest_once(cache, monkeypatch):
  calls, digest = [], files.hash_file
  monkeypatch.setattr(
    files, "hash_file", lambda path: calls.append(path) or digest(path)
  )
  one = cache()
  one.lookup("dev"), one.count("dev"), one.features("dev")
  assert sum(path.endswith("dev.tsv") for path in calls) == 1


def test_another_length_or_source_makes_a_new_file(
  cache, golden_task, tmp_path, monkeypatch, info
):
  paths = {cache(length=n).features("dev").path for n in (24, 23)}
  shutil.copy(f"{golden_task}/data/dev.tsv", tmp_path)
  with open(tmp_path / "dev.tsv", "a") as file:
    file.write("1\t5\t6\tA.\tB.\n")
  paths.add(cache(folder=tmp_path).features("dev").path)
  monkeypatch.setattr(
    feature_cache, "FORMAT_VERSION", feature_cache.FORMAT_VERSION + 1
  )
  paths.add(cache().features("dev").path)
  assert len(paths) == 4 and "these differ: the data file" in info.text


def spoil(path, how):
  with open(path, "r+b") as file:
    if how == "cut off":
      file.truncate(os.path.getsize(path) - 1)
    else:  # one byte in the middle
      file.seek(os.path.getsize(path) // 2)
      file.write(b"\xff")


@pytest.mark.parametrize("how", ["cut off", "damaged"])
def test_a_spoilt_file_is_found_and_made_anew(cache, golden_task, info, how):
  path = cache().features("dev").path
  spoil(path, how)
  again = cache()
  assert again.count("dev") == 21 and again.features("dev").path == path
  assert read_records(path) == read_records(f"{golden_task}/eval.tf_record")
  warned = [m for m in info.messages if "damaged" in m]
  assert len(warned) == 1 and path in warned[0]


@pytest.mark.parametrize(
  "content", [None, "", "{", "[]", '{"records": 21}', "[" * 200_000]
)
def test_a_spoilt_manifest_makes_the_records_anew(cache, content):
  manifest = Path(cache().features("dev").path).with_suffix(".json")
  manifest.unlink()
  if content is not None:
    manifest.write_text(content)
  assert cache().features("dev").records == 21
  assert json.loads(manifest.read_text())["records"] == 21


def test_an_error_while_converting_leaves_nothing(cache, tmp_path):
  with pytest.raises(AssertionError, match="tokenized again"):
    cache(tokenizer=Unusable()).features("dev")
  assert os.listdir(tmp_path) == []


def test_a_cache_of_the_version_before_is_reused(
  cache, golden_task, tmp_path, info
):
  (before,) = PREVIOUS.glob("*.tf_record")
  for path in PREVIOUS.iterdir():
    shutil.copy(path, tmp_path)
  digest = files.hash_file(f"{golden_task}/vocab.txt")
  again = cache(tokenizer=Unusable(), vocabulary=digest)
  found = again.features("dev")
  assert found[:3] == (f"{tmp_path}/{before.name}", 21, 497)
  index = again.indexed("dev").index
  assert RecordReader(found.path, index).num_records == 21
  said = f"dev: 21 examples, converted before, in {tmp_path}/{before.name}"
  assert said in info.messages


def test_records_are_those_of_the_version_before_to_the_byte(
  cache, golden_task, tokenizer
):
  (before,) = PREVIOUS.glob("*.tf_record")
  digest = files.hash_file(f"{golden_task}/vocab.txt")
  path = Path(cache(vocabulary=digest).features("dev").path)
  assert path.read_bytes() == before.read_bytes()
  manifest = json.loads(path.with_suffix(".json").read_text())
  # That the version before did not count.
  (unknown,) = tokenizer.convert_tokens_to_ids(["[UNK]"])
  ids = [
    record["input_ids"].count(unknown) for record in read_records(str(path))
  ]
  assert manifest.pop("unknown") == sum(ids) == 3
  assert len(manifest.pop("unknown_words")) in (1, 2, 3)
  assert len(manifest.pop("sha256 of the other lines")) == 64
  assert manifest == json.loads(before.with_suffix(".json").read_text())


CHANGES = [
  {"records": 20},
  {"records": None},
  {"tokens": "many"},
  {"tokens": 3},
  {"unknown": None},
  {"unknown_words": 5},
  {"inputs": None},
  {"sha256 of the other lines": None},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_a_manifest_with_other_numbers_is_not_believed(cache, info, changes):
  first = cache().features("dev")
  path = Path(first.path).with_suffix(".json")
  whole = json.loads(path.read_text())
  path.write_text(json.dumps({**whole, **changes}))
  assert cache().features("dev") == first
  assert not any("converted before" in message for message in info.messages)
  assert json.loads(path.read_text()) == whole


@pytest.mark.parametrize("ending", [".json", ".tf_record"])
def test_a_dangling_link_in_the_cache_is_passed_over(cache, ending):
  path = Path(cache().features("dev").path).with_suffix(ending)
  path.unlink()
  path.symlink_to("nowhere")
  assert cache().features("dev").records == 21
  assert path.is_file()


@pytest.mark.parametrize("ending", [".json", ".tf_record"])
def test_a_folder_in_the_place_of_a_cached_file_is_named(cache, ending):
  path = Path(cache().features("dev").path).with_suffix(ending)
  path.unlink()
  path.mkdir()
  with pytest.raises(UserError, match=f"{path} is a folder.*--cache_dir"):
    cache().features("dev")
  assert cache(length=20).features("dev").records == 21  # another file


def test_brackets_in_paths_are_no_pattern(graph, golden_task, cache, tmp_path):
  folder = shutil.copytree(f"{golden_task}/data", tmp_path / "data[1]*?{a}")
  features = cache(folder=folder, cache_dir=folder).features("dev")
  assert Path(features.path).parent == folder
  batch = run_classifier.file_based_input_fn_builder(
    features.path, 24, False, False
  )({"batch_size": 30})
  with tf.Session() as session:
    found = session.run(tf.data.make_one_shot_iterator(batch).get_next())
  assert len(found["input_ids"]) == 21
  assert cache(folder=folder, cache_dir=folder).count("dev") == 21


@pytest.mark.parametrize(
  "changes", [{"records": 20}, {"records": None}, {"tokens": -1}], ids=str
)
def test_a_manifest_of_the_version_before_is_counted(
  cache, golden_task, tmp_path, changes
):
  for path in PREVIOUS.iterdir():
    shutil.copy(path, tmp_path)
  (path,) = tmp_path.glob("*.json")
  whole = json.loads(path.read_text())
  path.write_text(json.dumps({**whole, **changes}))
  digest = files.hash_file(f"{golden_task}/vocab.txt")
  found = cache(vocabulary=digest).features("dev")
  assert (found.records, found.tokens) == (21, 497)


class Own(DataProcessor):
  """In the manner of 2018."""

  def get_labels(self):
    return ["no", "yes"]

  def get_train_examples(self, data_dir):
    yield InputExample("dev-1", "t", "u", "yes")
    yield InputExample("dev-2", "t", None, "no")


# Names that the version before gave to the features of these files.
MNLI_HEADER = (
  "index\tpromptID\tpairID\tgenre\ts1\ts2\ts3\ts4\tsentence1\tsentence2"
  "\tlabel1\tgold_label"
)
MNLI = [MNLI_HEADER, "\t".join("3bcdefghABk") + "\tneutral"]
FINGERPRINTS = {
  "cola": ("train.tsv", ["a\t1\t\tp"], "ec7f1f794f0a"),
  "mnli": ("train.tsv", MNLI, "62d571cc2ac6"),
  "mrpc": (
    "train.tsv",
    ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", "1\t5\t6\tA.\tB."],
    "704d6a3df429",
  ),
  "xnli": (
    "multinli/multinli.train.zh.tsv",
    ["premise\thypo\tlabel", "A\tB\tcontradictory"],
    "e8bbde829a29",
  ),
  "own": ("none.tsv", [], "4483af081da9"),
}


@pytest.mark.parametrize("task", FINGERPRINTS)
def test_fingerprints_are_those_of_the_version_before(cache, tmp_path, task):
  file, rows, fingerprint = FINGERPRINTS[task]
  write_rows(tmp_path / file, *rows)
  processor = {**PROCESSORS, "own": Own}[task]()
  path = cache(processor, task=task, folder=tmp_path).features("train").path
  assert os.path.basename(path) == (
    f"cached_train_24_{task}_{fingerprint}.tf_record"
  )


ROWS = [[str(n), "1", "", f"p{n} " + "x" * 100_000] for n in range(30)]


def test_a_file_that_changed_since_it_was_counted_leaves_no_cache(
  cache, tmp_path
):
  one = cache(PROCESSORS["cola"](), folder=tmp_path / "data")
  write_rows(tmp_path / "data" / "train.tsv", *ROWS)
  assert one.count("train") == 30
  write_rows(tmp_path / "data" / "train.tsv", *ROWS[::-1])
  with pytest.raises(UserError, match=r"data/train\.tsv changed while it was"):
    one.features("train")
  assert os.listdir(tmp_path) == ["data"]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_file_that_changes_while_it_is_converted_leaves_no_cache(
  cache, tokenizer, tmp_path, monkeypatch, processes
):
  monkeypatch.setattr(conversion, "EXAMPLES_ALONE", 0)
  path, plain = tmp_path / "data" / "train.tsv", tokenizer.tokenize

  def tokenize(text):
    if text.startswith("p2 "):  # in place, behind what was read by now
      with open(path, "r+b") as file:
        file.seek(-50, os.SEEK_END)
        file.write(b"y")
    return plain(text)

  tokenizer.tokenize = tokenize
  write_rows(path, *ROWS)
  changing = cache(
    PROCESSORS["cola"](), folder=path.parent, processes=processes
  )
  with pytest.raises(UserError, match=r"data/train\.tsv changed while it was"):
    changing.features("train")
  assert os.listdir(tmp_path) == ["data"]


@pytest.fixture
def converted(cache, golden_task, tmp_path):
  """Returns the converted cache of a copy of the test set, and its path."""
  (tmp_path / "data").mkdir()
  path = Path(shutil.copy(f"{golden_task}/data/test.tsv", tmp_path / "data"))
  one = cache(folder=tmp_path / "data")
  assert one.features("test").records == 13
  return one, path


@pytest.mark.parametrize("known", [True, False], ids=["same run", "next run"])
def test_texts_are_those_that_were_converted(converted, cache, known):
  one, path = converted
  if not known:
    one = cache(folder=path.parent, tokenizer=Unusable())
  header, *lines = path.read_text().splitlines()
  found = [[e.text_a, e.text_b] for e in one.converted_examples("test")]
  assert found == [line.split("\t")[3:5] for line in lines]


CHANGES = {
  "reversed": lambda lines: lines[::-1],
  "longer": lambda lines: [*lines, lines[0]],
  "shorter": lambda lines: lines[:-1],
  "broken": lambda lines: [*lines[:5], "short", *lines[5:]],
}


@pytest.mark.parametrize("change", CHANGES)
def test_texts_that_are_not_those_converted_are_an_error(converted, change):
  one, path = converted
  header, *lines = path.read_text().splitlines()
  path.write_text("\n".join([header, *CHANGES[change](lines), ""]))
  with pytest.raises(UserError, match=r"data/test\.tsv changed while it was"):
    # As a writer of predictions asks: it has 13, and may stop there.
    for _, _ in zip(one.converted_examples("test"), range(13)):
      pass


class Shuffled(MrpcProcessor):
  def get_test_examples(self, data_dir):
    examples = super().get_test_examples(data_dir)
    random.shuffle(examples)
    return examples


def test_texts_of_an_unseeded_shuffle_are_in_the_order_of_the_records(
  cache, tokenizer
):
  one = cache(Shuffled())
  records = read_records(one.features("test").path)
  for _ in range(2):
    converted = [
      features.convert_single_example(9, example, ["0", "1"], 24, tokenizer)
      for example in one.converted_examples("test")
    ]
    assert [example.as_dict() for example in converted] == records


class Answers(DataProcessor):
  labels = ("0", "1")
  tables = {"train": Table("train.tsv", header=True, text_a="a", label="y")}


def change(**columns):
  """Returns the task with other columns in its table."""
  processor = Answers()
  table = dataclasses.replace(Answers.tables["train"], **columns)
  processor.tables = {"train": table}
  return processor


def reworded():
  processor = Answers()
  processor.synonyms = {"1": "0"}
  return processor


CHANGED_TASKS = {
  "text_a": (lambda: change(text_a="b"), "examples, table"),
  "text_b": (lambda: change(text_b="b"), "examples, table"),
  "label": (lambda: change(label="z"), "examples, table"),
  "synonyms": (reworded, "examples, synonyms"),
}


@pytest.mark.parametrize("what", CHANGED_TASKS)
def test_an_own_task_that_changed_is_converted_anew(
  cache, tmp_path, info, what
):
  folder = tmp_path / "data"
  write_rows(folder / "train.tsv", "a\tb\ty\tz", "p\tx\t1\t0")
  make, differing = CHANGED_TASKS[what]
  old = cache(Answers(), folder=folder).features("train")
  assert cache(Answers(), folder=folder).lookup("train") == old
  new = cache(make(), folder=folder).features("train")
  assert read_records(new.path) != read_records(old.path)
  assert f"for these differ: {differing}" in info.text


def test_what_a_task_makes_of_its_file_is_in_the_fingerprint(cache, tmp_path):
  class Filtered(Answers):
    def get_train_examples(self, data_dir):
      return super().get_train_examples(data_dir)[1:]

  folder = tmp_path / "data"
  write_rows(folder / "train.tsv", "a\ty", "p\t1", "x\t0")
  assert cache(Answers(), folder=folder).features("train").records == 2
  assert cache(Filtered(), folder=folder).features("train").records == 1


def test_unknown_words_are_counted_warned_of_and_kept(cache, tmp_path, info):
  folder = tmp_path / "data"
  write_rows(folder / "train.tsv", "a\ty", "p 天 天\t1", "p 地 x\t0")
  one = cache(Answers(), folder=folder).features("train")
  manifest = json.loads(Path(one.path).with_suffix(".json").read_text())
  assert manifest["unknown"] == 3 and manifest["tokens"] == 10
  assert manifest["unknown_words"] == ["天", "地"]
  said = "train: 30.0% of the 10 tokens are [UNK]: "
  assert cache(Answers(), folder=folder).lookup("train") == one
  warned = [r for r in info.records if r.getMessage().startswith(said)]
  assert [r.levelname for r in warned] == ["WARNING", "WARNING"]
  assert "Commonest among them: 天 地. " in warned[0].getMessage()


def test_a_vocabulary_that_fits_is_said_without_a_warning(cache, info):
  cache().features("dev")
  said = "dev: 0.60% of the 497 tokens are [UNK]"
  (found,) = [r for r in info.records if r.getMessage() == said]
  assert found.levelname == "INFO"


class Number:
  """A target that this project does not have: what of it a cache needs."""

  def settings(self):
    return {"labels": [], "kind": "number"}

  def feature_spec(self):
    return {"number": tf.FixedLenFeature([], tf.float32)}

  def encode(self, label):
    return 0.0 if label is None else float(label)

  def features(self, value):
    return {"number": [value]}

  def doubt(self, values):
    return f"{len(values)} values" if values[1.25] else None


class Numbers(MrpcProcessor):
  def get_target(self):
    return Number()


def test_a_target_of_floats_is_cached_under_a_name_of_its_own(
  cache, golden_task, tmp_path, info
):
  rows = [
    ["Quality", "b", "c", "#1 String", "#2 String"],
    ["1.25", *"xyAB"],
    ["-3", *"xyCD"],
  ]
  write_rows(tmp_path / "data" / "train.tsv", *rows)
  path = cache(Numbers(), folder=tmp_path / "data").features("train").path
  assert [record["number"] for record in read_records(path)] == [[1.25], [-3.0]]
  cache(Numbers(), folder=tmp_path / "data").features("train")
  # When it is converted, and when it is found converted.
  assert info.messages.count("2 values") == 2
  write_rows(tmp_path / "data" / "train.tsv", *rows, ["many", *"xyEF"])
  with pytest.raises(
    UserError, match="train.tsv:4: in column 'Quality', could"
  ):
    cache(Numbers(), folder=tmp_path / "data").count("train")
  assert cache(Numbers()).features("test").path != cache().features("test").path


def test_tokens_and_unknown_ones_are_counted_by_example(cache, tokenizer):
  made = cache()
  tokens, unknown = made.count_tokens("dev")
  records = read_records(made.features("dev").path)
  unknown_id = tokenizer.vocab["[UNK]"]
  assert tokens.tolist() == [sum(r["input_mask"]) for r in records]
  assert unknown.tolist() == [r["input_ids"].count(unknown_id) for r in records]
  assert len(tokens) == made.count("dev") and unknown.sum() > 0
