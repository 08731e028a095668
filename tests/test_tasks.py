"""Tasks to examples, and that every reading gives the same ones."""

import collections

from conftest import read_examples, write_rows
import pytest

from bert_classifier.catalogue import ColaProcessor
from bert_classifier.errors import UserError
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
