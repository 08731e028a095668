"""Tasks to examples, and that every reading gives the same ones."""

import collections
import random
from types import SimpleNamespace

from conftest import read_examples, write_rows
import numpy as np
import pytest

from bert_classifier import files
from bert_classifier.catalogue import ColaProcessor
from bert_classifier.errors import MissingFileError, UserError
from bert_classifier.table_files import Table
from bert_classifier.tasks import DataProcessor, InputExample, TaskData


def test_texts_of_white_space_are_left_out_of_training_only(tmp_path):
  rows = ["a\t1\t\tx", "a\t1\t\t", "a\t1\t\t \u3000", "a\t0\t\ty"]
  for name in ("train.tsv", "dev.tsv"):
    write_rows(tmp_path / name, *rows)
  tally = collections.Counter()
  data = TaskData(ColaProcessor(), str(tmp_path))
  train = list(data.examples("train", tally))
  assert [e.guid for e in train] == ["train-0", "train-3"]
  assert tally["blank"] == 2 and data.count("train") == 2
  assert len(ColaProcessor().get_train_examples(str(tmp_path))) == 2
  assert len(read_examples(ColaProcessor(), tmp_path, "dev")) == 4


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
  write_rows(tmp_path / "mine.tsv", 'a "b\tyes', "", " \tno", "c\tno")
  found = read_examples(In2018Manner(), tmp_path)
  assert [(e.guid, e.text_a) for e in found] == [
    ("train-0", 'a "b'),
    ("train-2", "c"),
  ]
  with pytest.raises(UserError, match="nor a method get_dev_examples"):
    read_examples(In2018Manner(), tmp_path, "dev")


def test_a_subclass_may_override_one_reader_and_the_labels(tmp_path):
  class Mine(ColaProcessor):
    def get_labels(self):
      return ["0", "1", "2"]

    def get_train_examples(self, data_dir):
      return super().get_train_examples(data_dir)[1:]

  write_rows(tmp_path / "train.tsv", "a\t1\t\tx", "a\t2\t\ty")
  assert [e.text_a for e in read_examples(Mine(), tmp_path)] == ["y"]
  before = TaskData(Mine(), str(tmp_path)).source_digest("train")
  write_rows(tmp_path / "train.tsv", "a\t1\t\tx", "a\t2\t\tz")
  assert TaskData(Mine(), str(tmp_path)).source_digest("train") != before


PAIR = [[str(n), "1", "", f"text {n}"] for n in range(9)]


def test_a_file_in_another_order_is_not_what_was_read(tmp_path):
  data = TaskData(ColaProcessor(), write_rows(tmp_path / "train.tsv", *PAIR))
  assert data.count("train") == 9
  assert len(list(data.examples("train"))) == 9
  write_rows(tmp_path / "train.tsv", *PAIR[::-1])
  with pytest.raises(UserError, match=r"/train\.tsv changed while it was in"):
    list(data.examples("train"))
  with pytest.raises(UserError, match=r"/train\.tsv changed while it was in"):
    data.count("train")


def test_the_first_reading_may_be_for_the_digest(tmp_path):
  data = TaskData(ColaProcessor(), write_rows(tmp_path / "train.tsv", *PAIR))
  assert data.source_digest("train") == files.hash_file(data.path("train"))
  write_rows(tmp_path / "train.tsv", *PAIR, *PAIR)
  with pytest.raises(UserError, match=r"/train\.tsv changed"):
    data.count("train")


def test_a_change_of_the_file_is_told_rather_than_what_it_led_to(tmp_path):
  data = TaskData(ColaProcessor(), write_rows(tmp_path / "train.tsv", *PAIR))
  assert data.count("train") == 9
  write_rows(tmp_path / "train.tsv", *PAIR, "short")
  with pytest.raises(UserError, match=r"/train\.tsv changed"):
    list(data.examples("train"))
  (tmp_path / "train.tsv").unlink()
  with pytest.raises(MissingFileError, match=r"/train\.tsv: no such file"):
    list(data.examples("train"))


class Shuffled(DataProcessor):
  """Gives its test set in an order that is new each time."""

  labels = ("no", "yes")
  calls = 0

  def get_test_examples(self, data_dir):
    self.calls += 1
    examples = [InputExample(f"test-{n}", f"text {n}") for n in range(40)]
    random.Random(self.calls).shuffle(examples)
    return examples


class Generated(Shuffled):
  def get_test_examples(self, data_dir):
    yield from super().get_test_examples(data_dir)


def test_an_own_list_is_asked_for_once(tmp_path):
  data = TaskData(Shuffled(), str(tmp_path))
  first = [e.guid for e in data.examples("test")]
  assert data.count("test") == 40 and data.source_digest("test")
  assert [e.guid for e in data.examples("test")] == first
  assert data.processor.calls == 1


def test_a_list_that_was_freed_is_asked_for_again_and_compared(tmp_path):
  data = TaskData(Shuffled(), str(tmp_path))
  assert data.count("test") == 40
  data.release("test")
  with pytest.raises(UserError, match="Shuffled.get_test_examples gave other"):
    list(data.examples("test"))


def test_a_generator_is_asked_again_and_must_give_the_same(tmp_path):
  data = TaskData(Generated(), str(tmp_path))
  assert len(list(data.examples("test"))) == 40
  data.processor.calls = 0
  assert len(list(data.examples("test"))) == 40
  with pytest.raises(UserError, match="Generated.get_test_examples gave other"):
    list(data.examples("test"))


def test_the_default_target_is_one_of_the_labels():
  target = Shuffled().get_target()
  assert target.labels == ("no", "yes") and target.encode("yes") == 1


class Own(DataProcessor):
  """Gives for every split the examples that it was made with."""

  labels = ("no", "yes")

  def __init__(self, examples):
    self.examples = examples

  def get_train_examples(self, data_dir):
    return self.examples

  get_dev_examples = get_test_examples = get_train_examples
  get_dev_mismatched_examples = get_train_examples


EVALUATED = ["train", "dev", "dev_mismatched"]


@pytest.mark.parametrize("split", EVALUATED)
def test_only_a_test_set_may_lack_labels(split):
  example = InputExample("g-7", "text")
  (found,) = read_examples(Own([example]), "", "test")
  assert found.label is None
  said = rf"Own.get_{split}_examples gave 'g-7' without a label"
  with pytest.raises(UserError, match=said):
    read_examples(Own([InputExample("g", "t", None, "no"), example]), "", split)


class Unlabelled(DataProcessor):
  labels = ("no", "yes")
  tables = dict.fromkeys(
    [*EVALUATED, "test"], Table("file.tsv", header=False, text_a=0)
  )


@pytest.mark.parametrize("split", EVALUATED)
@pytest.mark.parametrize("ask", ["count", "source_digest", "examples"])
def test_only_the_table_of_a_test_set_may_lack_labels(tmp_path, split, ask):
  data = TaskData(Unlabelled(), write_rows(tmp_path / "file.tsv", "text"))
  assert data.count("test") == 1
  said = rf"file\.tsv: the Table of Unlabelled.tables\['{split}'\] names no lab"
  with pytest.raises(UserError, match=said):
    list(getattr(data, ask)(split))


@pytest.mark.parametrize("nothing", [[], None, iter(())])
@pytest.mark.parametrize("split", ["train", "dev", "test", "dev_mismatched"])
def test_an_own_method_must_give_examples(split, nothing):
  said = f"Own.get_{split}_examples gave no examples"
  with pytest.raises(UserError, match=said):
    read_examples(Own(nothing), "", split)


def test_a_training_set_needs_a_text(tmp_path):
  blank = InputExample("g", " ", None, "no")
  with pytest.raises(UserError, match="train_examples gave no examples with a"):
    read_examples(Own([blank]), "")
  write_rows(tmp_path / "train.tsv", "a\t1\t\t", "a\t1\t\t ")
  data = TaskData(ColaProcessor(), str(tmp_path))
  with pytest.raises(
    UserError, match="train.tsv: no example has a text: 2 are"
  ):
    data.count("train")


Named = collections.namedtuple("Named", ["guid", "text_a", "text_b", "label"])


@pytest.mark.parametrize("kind", [Named, SimpleNamespace])
def test_an_example_may_be_of_a_class_of_its_own(kind):
  facts = dict(guid="g-1", text_a="t", text_b="u", label="yes")
  (found,) = read_examples(Own([kind(**facts)]), "")
  assert vars(found) == {**facts, "row_id": None, "gold": None}


def test_what_is_no_example_is_told():
  with pytest.raises(
    UserError, match="get_dev_examples gave a tuple, but must"
  ):
    read_examples(Own([("g-1", "t", None, "no")]), "", "dev")


def test_an_attribute_that_is_not_ours_is_no_part_of_the_digest():
  def digest(**more):
    example = InputExample("g-1", "t", "u", "yes", row_id="7", gold="no")
    vars(example).update(more)
    return TaskData(Own([example]), "").source_digest("dev")

  assert digest(words={"t", "u"}, origin=object()) == digest()


def test_a_method_may_give_a_second_evaluation_set():
  data = TaskData(Own([InputExample("g-1", "t", None, "no")]), "")
  assert data.has_split("dev_mismatched") and data.count("dev_mismatched") == 1
  assert not data.has_split("test_mismatched")


class Given(DataProcessor):
  """Gives the same examples for every split."""

  labels = ("0", "1")

  def __init__(self, *given):
    self.given = [SimpleNamespace(guid="g", **values) for values in given]

  def get_dev_examples(self, data_dir):
    return self.given

  get_test_examples = get_train_examples = get_dev_examples


@pytest.mark.parametrize(
  ("text", "label"),
  [("7", "1"), (7, 1), (np.str_("7"), np.int64(1)), (b"7", b"1")],
)
@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_what_plainly_is_text_is_taken_for_it(split, text, label):
  given = Given(dict(text_a=text, text_b=text, label=label))
  (example,) = read_examples(given, ".", split)
  found = example.text_a, example.text_b, example.label
  assert found == ("7", "7", "1") and set(map(type, found)) == {str}
  plain = TaskData(Given(dict(text_a="7", text_b="7", label="1")), ".")
  ours = TaskData(given, ".").source_digest(split)
  assert ours == plain.source_digest(split)


@pytest.mark.parametrize("split", ["train", "dev", "test"])
@pytest.mark.parametrize(
  ("values", "words"),
  [
    (
      dict(text_a=float("nan")),
      r"text_a is nan \(float\), but must be a str;",
    ),
    (dict(text_a=None), "text_a is None, but must be a str"),
    (dict(text_b=0.5), r"text_b is 0.5 \(float\), but must be a str"),
    (dict(text_a=["a"]), r"text_a is \['a'\] \(list\), but must be a str"),
    (dict(text_a=b"\xff"), r"text_a is b'\\xff' \(bytes\), but must be a str"),
    (dict(label=float("nan")), r"the label nan \(float\) is not one of '0'"),
    (dict(label=True), r"the label True \(bool\) is not one of '0', '1'"),
    (dict(label="1\ufeff"), r"the label '1\\ufeff' is not one of '0', '1'"),
  ],
)
def test_what_is_no_text_is_named_with_its_type(split, values, words):
  good = dict(text_a="a", text_b=None, label="1")
  name = f"Given.get_{split}_examples gave 'g', example 2: "
  with pytest.raises(UserError, match=name + words):
    read_examples(Given(good, {**good, **values}), ".", split)


@pytest.mark.parametrize(
  ("labels", "words"),
  [
    ({"a", "b"}, "are a set, whose order is another one in each run"),
    (frozenset("ab"), "are a frozenset, whose order"),
    (None, "are None, but must be a list of str"),
    (iter("ab"), "are a str_ascii_iterator, which gives them once only"),
  ],
)
def test_labels_in_no_order_are_refused(labels, words):
  class Mine(DataProcessor):
    pass

  class Override(DataProcessor):
    def get_labels(self):
      return labels

  Mine.labels = labels
  for processor in (Mine(), Override()):
    with pytest.raises(UserError, match=f"{type(processor).__name__} {words}"):
      processor.get_target()


def test_a_method_of_the_user_that_fails_is_named_with_its_line(tmp_path):
  class Mine(DataProcessor):
    def get_dev_examples(self, data_dir):
      yield InputExample("a", "b", None, "0")
      {}["label"]

    def get_labels(self):
      return list(self.labels.values())

  Mine.labels = {0: "0", 1: "1"}
  with pytest.raises(UserError) as error:
    TaskData(Mine(), str(tmp_path)).count("dev")
  line = Mine.get_dev_examples.__code__.co_firstlineno + 2
  assert str(error.value) == (
    f"Mine.get_dev_examples failed at {__file__}:{line}: KeyError: 'label'"
  )
  Mine.labels = 3
  with pytest.raises(
    UserError, match="Mine.get_labels failed at .*: Attribute"
  ):
    Mine().get_target()
