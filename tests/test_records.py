"""The bytes of records, as TensorFlow parses them."""

import random

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import features, records, targets
from bert_classifier.tasks import InputExample, PaddingInputExample


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
  converted = features.InputFeatures(numbers, [1, 0, 1], [], 300, False)
  parsed = tf.train.Example.FromString(records.serialize(converted))
  assert parsed == of_tensorflow(converted.as_dict())


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
      convert.records(convert.inputs(example))[0]
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
    converted = convert(example)
    (record,) = convert.records(convert.inputs(example))
    assert record == records.serialize(converted)
    written = {
      n: list(map(float, v)) if n == "number" else v
      for n, v in converted.as_dict().items()
    }
    assert tf.train.Example.FromString(record) == of_tensorflow(written)


def test_a_float_target_is_read_as_its_specification_says(run):
  convert = features.Converter(Number(), 8, Numbers())
  examples = [InputExample("g", "5", None, "1.5"), PaddingInputExample()]
  serialized = [records.serialize(convert(example)) for example in examples]
  spec = features.feature_spec(8, Number())
  parsed = run(tf.io.parse_example(serialized, spec))
  assert list(spec) == [
    "input_ids",
    "input_mask",
    "segment_ids",
    "number",
    "is_real_example",
  ]
  assert parsed["number"].tolist() == [[1.5, 0.5], [0, 0]]
  assert parsed["is_real_example"].tolist() == [1, 0]
