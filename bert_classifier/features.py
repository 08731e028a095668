"""Features: examples as ids in fixed length, and the bytes of their records.

An example becomes `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`, segment 0 up to
the first [SEP] and 1 from there on, padded with zeros to S positions:

  tokens       [CLS] the dog is hairy . [SEP] [PAD] [PAD]
  input_ids      101 ...                  102     0     0
  input_mask       1   1   1  1     1 1     1     0     0
  segment_ids      0   0   0  0     0 0     0     0     0

What of the label stands beside them is for the task's target to say; see
`targets`.
"""

import collections
import contextlib
import itertools
import numbers
import struct

from absl import logging
import tensorflow.compat.v1 as tf

from bert_classifier import (
  errors,
  fast_tokenization,
  files,
  progress,
  targets,
)
from bert_classifier.tasks import PaddingInputExample
import tokenization

LOGGED_EXAMPLES = 5
# What the files of 2018 hold: one class, whatever the labels are.
ONE_CLASS = targets.OneClass(())


def feature_spec(seq_length, target=ONE_CLASS):
  """Returns the features of a record, by name: written, parsed and served.

  All but the label's are int64 in the file: `input_ids`, `input_mask` and
  `segment_ids` of `seq_length` values, `is_real_example` of one.

  Args:
    seq_length: S.
    target: see `targets`; says what the label's features are.
  """
  positions = tf.FixedLenFeature([seq_length], tf.int64)
  return {
    "input_ids": positions,
    "input_mask": positions,
    "segment_ids": positions,
    **target.feature_spec(),
    "is_real_example": tf.FixedLenFeature([], tf.int64),
  }


class InputFeatures:
  """One example as ids.

  Args and attributes:
    input_ids, input_mask, segment_ids: lists of S whole numbers.
    label_id: index of the label; 0 where the example has none. Of a target
      other than one class, the value that it makes of the label.
    is_real_example: False for what only fills a batch.
    target: what is predicted; see `targets`.
  """

  def __init__(
    self,
    input_ids,
    input_mask,
    segment_ids,
    label_id,
    is_real_example=True,
    *,
    target=ONE_CLASS,
  ):
    self.input_ids, self.input_mask = input_ids, input_mask
    self.segment_ids, self.label_id = segment_ids, label_id
    self.is_real_example, self.target = is_real_example, target

  def as_dict(self):
    """Returns lists of numbers by the names of `feature_spec`."""
    return {
      "input_ids": self.input_ids,
      "input_mask": self.input_mask,
      "segment_ids": self.segment_ids,
      **self.target.features(self.label_id),
      "is_real_example": [int(self.is_real_example)],
    }


class Converter:
  """Turns examples into features or records, and counts what it cut off.

  Args:
    target: what is predicted; see `targets`.
    max_seq_length: S, at least 3; a pair needs 5 to show both its texts.
    tokenizer: a `tokenization.FullTokenizer`, or anything with `tokenize` and
      `convert_tokens_to_ids`.

  Attributes:
    tally: counts by "records", "truncated" (examples that lost tokens),
      "truncated_tokens" (how many in all), "tokens" (how many the records have,
      the special ones included), and "longest" (the most of them that an
      example had before it was cut).
  """

  def __init__(self, target, max_seq_length, tokenizer):
    self.target, self.max_seq_length = target, max_seq_length
    self.tokenizer = tokenizer
    self.cls, self.sep = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])
    self.tally = collections.Counter()
    self._ids = fast_tokenization.WordCache(tokenizer).ids
    self._encode = _RecordEncoder(max_seq_length, target)

  def __call__(self, example):
    """Returns the `InputFeatures` of one example.

    Raises:
      UserError: a label that the target refuses.
    """
    inputs = self.inputs(example)
    if inputs is None:
      self.tally["records"] += 1
      return padding_features(self.max_seq_length, self.target)
    ids, in_first, value = self._numbers(inputs)
    padding = [0] * (self.max_seq_length - len(ids))
    return InputFeatures(
      ids + padding,
      [1] * len(ids) + padding,
      [0] * in_first + [1] * (len(ids) - in_first) + padding,
      value,
      target=self.target,
    )

  def inputs(self, example):
    """Returns what of an example is converted: (text_a, text_b, value).

    The value is what the target makes of the label. None stands for a
    `PaddingInputExample`.

    Raises:
      UserError: a label that the target refuses.
    """
    if isinstance(example, PaddingInputExample):
      return None
    try:
      value = self.target.encode(example.label)
    except ValueError as error:
      raise errors.UserError(f"{example.guid}: {error}") from error
    return example.text_a, example.text_b, value

  def record(self, inputs):
    """Returns the bytes of the `tf.train.Example` of `inputs`.

    They are those that `serialize` gives.
    """
    if inputs is None:
      self.tally["records"] += 1
      return serialize(padding_features(self.max_seq_length, self.target))
    return self._encode(*self._numbers(inputs))

  def _numbers(self, inputs):
    """Returns the ids, how many of them are of segment 0, and the value."""
    text_a, text_b, value = inputs
    first = self._ids(text_a)
    second = self._ids(text_b) if text_b else []
    length = len(first) + len(second) + (3 if second else 2)
    tally = self.tally
    tally["records"] += 1
    if length > tally["longest"]:
      tally["longest"] = length
    if length > self.max_seq_length:
      tally["truncated"] += 1
      tally["truncated_tokens"] += length - self.max_seq_length
      first, second = truncate(first, second, self.max_seq_length)
    ids = [self.cls, *first, self.sep]
    in_first = len(ids)
    if second:
      ids += second
      ids.append(self.sep)
    tally["tokens"] += len(ids)
    return ids, in_first, value


def padding_features(max_seq_length, target=ONE_CLASS):
  """Returns features of zeros that fill a batch and count for nothing."""
  zeros, value = [0] * max_seq_length, target.encode(None)
  return InputFeatures(zeros, zeros, zeros, value, False, target=target)


def truncate(first, second, max_seq_length):
  """Cuts a pair, or a single text, to what fits between the special tokens.

  A single text keeps its first S - 2 tokens. Of a pair the longer loses its
  last token, the second on a tie, until both fit in S - 3. A second text that
  loses everything leaves the single form.

    >>> truncate([1, 2, 3, 4], [5, 6], 7)
    ([1, 2], [5, 6])
    >>> truncate([1, 2, 3, 4], [], 5)
    ([1, 2, 3], [])

  Returns:
    The two lists.
  """
  if not second:
    return first[: max_seq_length - 2], []
  excess = len(first) + len(second) - (max_seq_length - 3)
  if excess <= 0:
    return first, second
  # Even out the two, then take from both in turn, the second first.
  uneven = len(first) - len(second)
  from_longer = min(excess, abs(uneven))
  from_first, from_second = (from_longer, 0) if uneven > 0 else (0, from_longer)
  rest = excess - from_longer
  from_second += (rest + 1) // 2
  from_first += rest // 2
  first = first[: len(first) - from_first]
  second = second[: len(second) - from_second]
  return first, second


def log_example(example, features, tokenizer):
  """Logs an example and its features, so that a person can check them."""
  shown = [
    ("guid", getattr(example, "guid", "padding")),
    (
      "tokens",
      " ".join(
        tokenization.printable_text(token)
        for token, real in zip(
          tokenizer.convert_ids_to_tokens(features.input_ids),
          features.input_mask,
        )
        if real
      ),
    ),
    ("input_ids", " ".join(map(str, features.input_ids))),
    ("input_mask", " ".join(map(str, features.input_mask))),
    ("segment_ids", " ".join(map(str, features.segment_ids))),
    (
      "label",
      f"{getattr(example, 'label', None)} (id = {features.label_id})",
    ),
  ]
  logging.info("*** Example ***")
  for name, value in shown:
    logging.info("%s: %s", name, value)


def convert_single_example(
  ex_index, example, label_list, max_seq_length, tokenizer
):
  """Returns the `InputFeatures` of one example; the first five are logged.

  Args:
    ex_index: index of the example in its set.
    example: `InputExample` or `PaddingInputExample`.
    label_list: the labels, in the order of their ids.
    max_seq_length: S.
    tokenizer: a `tokenization.FullTokenizer`.

  Raises:
    UserError: a label that is not in the list.
  """
  target = targets.OneClass(label_list)
  features = Converter(target, max_seq_length, tokenizer)(example)
  if ex_index < LOGGED_EXAMPLES:
    log_example(example, features, tokenizer)
  return features


def convert_examples_to_features(
  examples, label_list, max_seq_length, tokenizer
):
  """Returns the list of the `InputFeatures` of a list of examples."""
  target = targets.OneClass(label_list)
  converter = Converter(target, max_seq_length, tokenizer)
  examples = iter(examples)
  first = itertools.islice(examples, LOGGED_EXAMPLES)
  logged = (_convert_and_log(example, converter) for example in first)
  rest = map(converter, examples)
  counter = progress.Counter("converted")
  return list(progress.count_examples(itertools.chain(logged, rest), counter))


def file_based_convert_examples_to_features(
  examples, label_list, max_seq_length, tokenizer, output_file
):
  """Writes the features of `examples`, in order, to a TFRecord file.

  The file appears under its name only when it is whole.
  """
  target = targets.OneClass(label_list)
  converter = Converter(target, max_seq_length, tokenizer)
  with files.atomic_write(output_file) as temporary:
    write_records(make_records(examples, converter), temporary)


def make_records(examples, converter):
  """Yields the record of each example; the first five are logged.

  Args:
    examples: iterable of `InputExample` or `PaddingInputExample`.
    converter: `Converter`.
  """
  examples = iter(examples)
  for example in itertools.islice(examples, LOGGED_EXAMPLES):
    yield serialize(_convert_and_log(example, converter))
  yield from map(converter.record, map(converter.inputs, examples))


def write_records(records, path, total=None):
  """Writes a generator's records to a TFRecord file, and tells how far it is.

  Args:
    records: generator of bytes; it is closed, whatever happens.
    path: the file.
    total: how many are expected; None where nobody knows.
  """
  counter = progress.Counter("converted", total)
  with (
    contextlib.closing(records),
    tf.io.TFRecordWriter(path) as writer,
  ):
    for record in progress.count_examples(records, counter):
      writer.write(record)


def _convert_and_log(example, converter):
  features = converter(example)
  log_example(example, features, converter.tokenizer)
  return features


# ---------------------------------------------------------------------------
# Records: the bytes of tf.train.Example


def serialize(features):
  """Returns the bytes of the `tf.train.Example` of an `InputFeatures`.

  A list of whole numbers becomes an int64 list, any other a float list.
  """
  return _delimited(1, _features(features.as_dict()))


def _features(lists):
  """Returns the entries of tf.train.Features of lists of numbers by name."""
  return b"".join(_feature(name, *_packed(lists[name])) for name in lists)


def _packed(values):
  """Returns the number of a list's field in tf.train.Feature, its bytes."""
  if all(isinstance(value, numbers.Integral) for value in values):
    return 3, b"".join(map(_varint, values))
  return 2, struct.pack(f"<{len(values)}f", *values)


class _RecordEncoder:
  """Encodes records from parts that repeat; the same as `serialize` gives.

  But for ids and label, a record depends on two small numbers and S alone: it
  is put together from cuts of the same zeros and ones, and the bytes of ids
  and labels are kept. Lists that go through tf.train.Example took as long as
  all the rest of a conversion.
  """

  def __init__(self, seq_length, target):
    self.seq_length, self.target = seq_length, target
    self.zeros = bytes(seq_length)
    self.ones_and_zeros = b"\1" * seq_length + self.zeros
    self.bytes_of_id = _Remembered(_varint)
    self.head_of_size = _Remembered(self._head)
    self.end_of_value = _Remembered(self._end)
    self.mask_head = self._before_values("input_mask")
    self.segments_head = self._before_values("segment_ids")

  def __call__(self, ids, in_first, value):
    """Returns the record of ids, the first `in_first` of them of segment 0."""
    values = b"".join(map(self.bytes_of_id.__getitem__, ids))
    blank = self.seq_length - len(ids)
    mask = self.ones_and_zeros[blank : blank + self.seq_length]
    end = self.end_of_value[value]
    return b"".join(
      (
        self.head_of_size[len(values) + blank, len(end)],
        values,
        self.zeros[:blank],
        self.mask_head,
        mask,
        self.segments_head,
        self.zeros[:in_first],
        mask[in_first:],
        end,
      )
    )

  def _head(self, sizes):
    """Returns what precedes the ids' values, by their size and the end's."""
    size, end = sizes
    rest = 2 * self.seq_length + len(self.mask_head + self.segments_head) + end
    whole = _delimited(1, _feature("input_ids", 3, bytes(size)) + bytes(rest))
    return whole[: len(whole) - size - rest]

  def _before_values(self, name):
    """Returns what precedes the values of S numbers of one byte."""
    return _feature(name, 3, self.zeros)[: -self.seq_length]

  def _end(self, value):
    """Returns the features after those of S numbers."""
    return _features({**self.target.features(value), "is_real_example": [1]})


class _Remembered(dict):
  """What a function gives, by its argument; begins anew when it is large."""

  MOST = 1 << 18  # more than a vocabulary has

  def __init__(self, make):
    super().__init__()
    self.make = make

  def __missing__(self, key):
    if len(self) == self.MOST:
      self.clear()
    self[key] = value = self.make(key)
    return value


def _feature(name, kind, values):
  """Returns an entry of tf.train.Features.

  Args:
    name: of the feature.
    kind: number of the list's field in tf.train.Feature: 2 for floats of 4
      bytes, 3 for varints.
    values: bytes of the list's values.
  """
  packed = _delimited(kind, _delimited(1, values))
  return _delimited(1, _delimited(1, name.encode()) + _delimited(2, packed))


def _delimited(number, content):
  """Returns a field of a protocol buffer: its number, length and content."""
  return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(number):
  """Returns a whole number in groups of 7 bits, the lowest first.

  >>> _varint(5), _varint(300)
  (b'\\x05', b'\\xac\\x02')
  """
  number = int(number) & (1 << 64) - 1  # a negative one counts from 2**64
  groups = bytearray()
  while number > 127:
    groups.append(number & 127 | 128)
    number >>= 7
  groups.append(number)
  return bytes(groups)
