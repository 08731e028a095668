"""Examples to features, and these to the bytes of records."""

import itertools
import random

from conftest import read_examples, read_records
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import features, targets
from bert_classifier.catalogue import MrpcProcessor
from bert_classifier.errors import UserError
from bert_classifier.features import convert_single_example, truncate
from bert_classifier.tasks import InputExample, PaddingInputExample
import tokenization

SPLITS = [("train", "train"), ("dev", "eval"), ("test", "predict")]


def cut_in_turn(first, second, room):
  """The 2018 rule, a token at a time."""
  first, second = list(first), list(second)
  while len(first) + len(second) > room:
    (first if len(first) > len(second) else second).pop()
  return first, second


def test_pairs_are_cut_as_token_by_token():
  source = random.Random(0)
  for _ in range(3000):
    first = list(range(source.randrange(30)))
    second = list(range(100, 100 + source.randrange(1, 30)))
    length = source.randrange(5, 40)
    expected = cut_in_turn(first, second, length - 3)
    assert truncate(first, second, length) == expected


def test_a_single_text_keeps_its_beginning(tokenizer):
  single = InputExample("g", "t " * 9)
  found = convert_single_example(9, single, [], 6, tokenizer)
  start, end, word = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", "t"])
  assert found.input_ids == [start, word, word, word, word, end]
  assert found.input_mask == [1] * 6 and found.segment_ids == [0] * 6


@pytest.mark.parametrize("text_b", [None, "", " \u200d", "\0"])
def test_a_second_text_without_tokens_is_none(tokenizer, text_b):
  example = InputExample("g", "t u", text_b, "b")
  found = convert_single_example(9, example, ["a", "b"], 8, tokenizer)
  assert found.input_mask == [1, 1, 1, 1, 0, 0, 0, 0]
  assert found.segment_ids == [0] * 8 and found.label_id == 1


def test_a_second_text_cut_to_nothing_leaves_the_single_form(tokenizer):
  pair = InputExample("g", "t", "t", None)
  found = convert_single_example(9, pair, [], 4, tokenizer)
  single = convert_single_example(9, InputExample("g", "t"), [], 4, tokenizer)
  assert found.as_dict() == single.as_dict()


def test_padding_is_zeros_of_no_weight(tokenizer):
  found = convert_single_example(9, PaddingInputExample(), ["a"], 3, tokenizer)
  assert set(itertools.chain(*found.as_dict().values())) == {0}


def test_an_unknown_label_is_named(tokenizer):
  example = InputExample("train-3", "t", None, "maybe")
  with pytest.raises(UserError, match="train-3: the label 'maybe' .* no, yes"):
    convert_single_example(9, example, ["no", "yes"], 8, tokenizer)


@pytest.mark.quick
@pytest.mark.parametrize(("split", "name"), SPLITS)
def test_lists_of_features_equal_the_originals_records(
  golden_task, tokenizer, tmp_path, split, name
):
  examples = read_examples(MrpcProcessor(), f"{golden_task}/data", split)
  arguments = (examples, ["0", "1"], 24, tokenizer)
  listed = features.convert_examples_to_features(*arguments)
  path = str(tmp_path / "made.tf_record")
  features.file_based_convert_examples_to_features(*arguments, path)
  theirs = read_records(f"{golden_task}/{name}.tf_record")
  assert [one.as_dict() for one in listed] == theirs == read_records(path)


def of_tensorflow(values):
  """Returns the tf.train.Example of a dictionary of lists."""
  example = tf.train.Example()
  for name, numbers in values.items():
    feature = example.features.feature[name]
    is_float = any(isinstance(number, float) for number in numbers)
    kind = feature.float_list if is_float else feature.int64_list
    kind.value.extend(numbers)
  return example


def test_serialized_is_what_tensorflow_parses():
  numbers = [0, 1, 127, 128, 2**14, 2**31, 2**63 - 1, -1, -(2**63)]
  found = features.InputFeatures(numbers, [1, 0, 1], [], 300, False)
  parsed = tf.train.Example.FromString(features.serialize(found))
  assert parsed == of_tensorflow(found.as_dict())


class Numbers:
  """A tokenizer of texts that are ids."""

  def convert_tokens_to_ids(self, tokens):
    return [{"[CLS]": 101, "[SEP]": 102}.get(t) or int(t) for t in tokens]

  def tokenize(self, text):
    return text.split()


@pytest.mark.parametrize("length", [5, 24, 128, 300])
def test_a_record_is_what_tensorflow_parses(length):
  source = random.Random(length)
  target = targets.OneClass(range(300))
  convert = features.Converter(target, length, Numbers())

  def text(shortest):
    ids = [
      source.randrange(2 ** source.randrange(1, 21)) for _ in range(length)
    ]
    return " ".join(map(str, ids[: source.randrange(shortest, length)]))

  for _ in range(300):
    label = source.randrange(300)
    example = InputExample("g", text(0), text(0), label)
    parsed = tf.train.Example.FromString(
      convert.record(convert.inputs(example))
    )
    assert parsed == of_tensorflow(convert(example).as_dict())


class Number:
  """A target that this project does not have: what of it a record needs."""

  def feature_spec(self):
    return {"number": tf.FixedLenFeature([2], tf.float32)}

  def encode(self, label):
    return 0.0 if label is None else float(label)

  def features(self, value):
    return {"number": [value, np.float32(value / 3)]}


NUMBERS = [
  None,
  "0",
  "-1.5",
  "3.3",
  "1e-40",
  "3e38",
  "inf",
  *map(str, range(9)),
]


def test_a_float_target_is_what_tensorflow_parses():
  convert = features.Converter(Number(), 8, Numbers())
  for label in NUMBERS:
    example = InputExample("g", "5 300", "7", label)
    found = convert(example)
    record = convert.record(convert.inputs(example))
    assert record == features.serialize(found)
    written = {
      n: list(map(float, v)) if n == "number" else v
      for n, v in found.as_dict().items()
    }
    assert tf.train.Example.FromString(record) == of_tensorflow(written)


def test_a_float_target_is_read_as_its_specification_says(run):
  convert = features.Converter(Number(), 8, Numbers())
  examples = [InputExample("g", "5", None, "1.5"), PaddingInputExample()]
  records = [features.serialize(convert(example)) for example in examples]
  spec = features.feature_spec(8, Number())
  parsed = run(tf.io.parse_example(records, spec))
  assert list(spec) == [
    "input_ids",
    "input_mask",
    "segment_ids",
    "number",
    "is_real_example",
  ]
  assert parsed["number"].tolist() == [[1.5, 0.5], [0, 0]]
  assert parsed["is_real_example"].tolist() == [1, 0]


def test_a_label_that_the_target_refuses_names_its_example():
  convert = features.Converter(Number(), 8, Numbers())
  with pytest.raises(UserError, match="dev-3: could not convert .* 'many'"):
    convert(InputExample("dev-3", "5", None, "many"))


class Reversing(tokenization.FullTokenizer):
  def tokenize(self, text):
    return super().tokenize(text)[::-1]


class Unknown(tokenization.FullTokenizer):
  def convert_tokens_to_ids(self, tokens):
    return [7] * len(tokens)


@pytest.mark.parametrize("kind", [Reversing, Unknown])
def test_a_subclass_has_its_way(golden_task, tokenizer, kind):
  own = kind(f"{golden_task}/vocab.txt")
  found = convert_single_example(9, InputExample("g", "t u"), [], 4, own)
  expected = own.convert_tokens_to_ids(own.tokenize("t u"))
  plain = convert_single_example(9, InputExample("g", "t u"), [], 4, tokenizer)
  assert found.input_ids[1:3] == expected != plain.input_ids[1:3]


def test_a_replaced_method_has_its_way(tokenizer):
  tokenizer.tokenize = lambda text: ["u"] * 2
  found = convert_single_example(9, InputExample("g", "t"), [], 4, tokenizer)
  assert found.input_ids[1:3] == tokenizer.convert_tokens_to_ids(["u", "u"])


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "of 2018"])
def test_files_are_read_example_by_example_in_order(cache, golden_task, ours):
  import run_classifier

  path = f"{golden_task}/eval.tf_record"
  build = run_classifier.file_based_input_fn_builder
  input_fn = build(
    cache().features("dev").path if ours else path, 24, False, False
  )
  with tf.Graph().as_default(), tf.Session() as session:
    batch = tf.data.make_one_shot_iterator(input_fn({"batch_size": 8}))
    batch = batch.get_next()
    batches = [session.run(batch) for _ in range(3)]
  for name in features.feature_spec(24):
    read = np.concatenate([b[name] for b in batches])
    expected = np.squeeze([example[name] for example in read_records(path)])
    assert read.dtype == np.int32 and (read == expected).all()
