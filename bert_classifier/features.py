"""Features: examples as ids in fixed length.

An example becomes `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`, segment 0 up to
the first [SEP] and 1 from there on, padded with zeros to S positions:

  tokens       [CLS] the dog is hairy . [SEP] [PAD] [PAD]
  input_ids      101 ...                  102     0     0
  input_mask       1   1   1  1     1 1     1     0     0
  segment_ids      0   0   0  0     0 0     0     0     0

The label's features beside them are those of the task's target; see `targets`.
With --stride an example that is too long becomes several; see `windows`.
"""

import collections
import contextlib
import itertools

from absl import logging
import tensorflow.compat.v1 as tf

from bert_classifier import (
  choice_options,
  errors,
  fast_tokenization,
  files,
  progress,
  targets,
  windows,
)
from bert_classifier.examples import PaddingInputExample
from bert_classifier.records import NUM_WINDOWS, RecordEncoder, serialize
from bert_classifier.truncation import truncate
import tokenization

LOGGED_EXAMPLES = 5
# Examples with [UNK] that are searched for unknown words. A search takes as
# long as several conversions.
_SEARCHED_EXAMPLES = 1000
# Key of a tally: how often a word was found unknown.
_UnknownWord = collections.namedtuple("_UnknownWord", "word")
# The label of the files of 2018: one class, whatever its names.
ONE_CLASS = targets.OneClass(())


def feature_spec(seq_length, target=ONE_CLASS, *, in_windows=False):
  """Returns the features of a record, by name: written, parsed and served.

  All but the label's are int64 in the file: `input_ids`, `input_mask` and
  `segment_ids` of `seq_length` values, `is_real_example` of one.

  Args:
    seq_length: S.
    target: see `targets`; says what the label's features are.
    in_windows: whether there is `num_windows`, too, 1 where a record lacks it;
      see `windows`.
  """
  positions = tf.FixedLenFeature([seq_length], tf.int64)
  number = tf.FixedLenFeature([], tf.int64, default_value=1)
  return {
    "input_ids": positions,
    "input_mask": positions,
    "segment_ids": positions,
    **target.feature_spec(),
    "is_real_example": tf.FixedLenFeature([], tf.int64),
    **({NUM_WINDOWS: number} if in_windows else {}),
  }


class InputFeatures:
  """One example as ids, or one of its windows.

  Args and attributes:
    input_ids, input_mask, segment_ids: lists of S whole numbers.
    label_id: index of the label; 0 where the example has none. Of a target
      other than one class, the value that it makes of the label.
    is_real_example: False for what only fills a batch.
    target: what is predicted; see `targets`.
    num_windows: of the example; see `windows`.
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
    num_windows=1,
  ):
    self.input_ids, self.input_mask = input_ids, input_mask
    self.segment_ids, self.label_id = segment_ids, label_id
    self.is_real_example, self.target = is_real_example, target
    self.num_windows = num_windows

  def as_dict(self):
    """Returns lists of numbers by the names of `feature_spec`.

    The number of windows is among them where there are several.
    """
    several = {NUM_WINDOWS: [self.num_windows]} if self.num_windows > 1 else {}
    return {
      "input_ids": self.input_ids,
      "input_mask": self.input_mask,
      "segment_ids": self.segment_ids,
      **self.target.features(self.label_id),
      "is_real_example": [int(self.is_real_example)],
      **several,
    }


class Converter:
  """Turns examples into features or records, and counts what it cut off.

  Args:
    target: what is predicted; see `targets`.
    max_seq_length: S, at least 3; a pair needs 5 to show both its texts.
    tokenizer: a `tokenization.FullTokenizer`, or anything with `tokenize` and
      `convert_tokens_to_ids`.
    truncation: see `truncation.truncate`.
    stride: tokens from one window of an example to the next, see `windows`; 0
      cuts off what is too long.
    remember_words: whether to remember the ids of words, which pays for many
      examples only: the memory begins with a look at the whole vocabulary.

  Attributes:
    tally: `collections.Counter` of "records", "windowed" (examples of several
      records), "added" (records beyond the first of each example), "truncated"
      (examples that lost tokens), "truncated_tokens" (tokens lost), "tokens"
      (those in the records, special ones included), "repeated" (those of them
      that are in a record of the same example before), "unknown" (those of
      "tokens" that are [UNK]) and "longest" (tokens of the longest example
      before it was cut). What of the words it has is for
      `commonest_unknown_words`.
    label_values: `collections.Counter` of what the target made of the labels of
      the examples that `inputs` was given.
  """

  def __init__(
    self,
    target,
    max_seq_length,
    tokenizer,
    truncation=choice_options.HEAD,
    *,
    stride=0,
    remember_words=True,
  ):
    self.target, self.max_seq_length = target, max_seq_length
    self.tokenizer, self._truncation = tokenizer, truncation
    self._stride = stride
    self.cls, self.sep = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])
    self.tally = collections.Counter()
    self.label_values = collections.Counter()
    self._unknown = unknown_id(tokenizer)
    self._searches_left = _SEARCHED_EXAMPLES
    if remember_words:
      self._ids = fast_tokenization.WordCache(tokenizer).ids
    else:
      self._ids = self._ids_of_tokens
    self._encode = RecordEncoder(max_seq_length, target)

  def __call__(self, example):
    """Returns the `InputFeatures` of one example, of which nothing is a window.

    Raises:
      UserError: a label that the target refuses.
    """
    (features,) = self.windows(example)
    return features

  def windows(self, example):
    """Returns the list of the `InputFeatures` of one example.

    There is one, but of an example in windows one for each.

    Raises:
      UserError: a label that the target refuses.
    """
    inputs = self.inputs(example)
    if inputs is None:
      return [self._padding()]
    parts, value = self._numbers(inputs)
    return [self._features(*part, value, len(parts)) for part in parts]

  def _padding(self):
    """Returns features that fill a batch, and counts them."""
    self.tally["records"] += 1
    return padding_features(self.max_seq_length, self.target)

  def _features(self, ids, in_first, value, num_windows):
    """Returns `InputFeatures`; arguments as of `records.RecordEncoder`."""
    padding = [0] * (self.max_seq_length - len(ids))
    return InputFeatures(
      ids + padding,
      [1] * len(ids) + padding,
      [0] * in_first + [1] * (len(ids) - in_first) + padding,
      value,
      target=self.target,
      num_windows=num_windows,
    )

  def _ids_of_tokens(self, text):
    """Returns the ids of a text, as a list."""
    tokenizer = self.tokenizer
    return list(tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text)))

  def inputs(self, example):
    """Returns (text_a, text_b, label value) of an example.

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
    self.label_values[value] += 1
    return example.text_a, example.text_b, value

  def records(self, inputs):
    """Returns the list of the bytes of the `tf.train.Example`s of `inputs`.

    They are those that `serialize` gives of the features of `windows`.
    """
    if inputs is None:
      return [serialize(self._padding())]
    parts, value = self._numbers(inputs)
    return [self._encode(*part, value, len(parts)) for part in parts]

  def _numbers(self, inputs):
    """Returns a list of a pair for each record, and the label's value.

    A pair is the ids, and how many of them are of segment 0.
    """
    text_a, text_b, value = inputs
    first = self._ids(text_a)
    second = self._ids(text_b) if text_b else []
    length = len(first) + len(second) + (3 if second else 2)
    if length > self.tally["longest"]:
      self.tally["longest"] = length
    if length <= self.max_seq_length:
      parts, unknown = self._arrange([(first, second)])
    else:
      texts, lost = self._cut(first, second, length)
      parts, unknown = self._arrange(texts)
      if lost:
        self.tally["truncated"] += 1
        self.tally["truncated_tokens"] += lost
      if len(parts) > 1:
        self.tally["windowed"] += 1
        self.tally["added"] += len(parts) - 1
        whole = length - lost
        self.tally["repeated"] += sum(len(ids) for ids, _ in parts) - whole
    if unknown:
      self._search_unknown_words(text_a, text_b)
    return parts, value

  def _cut(self, first, second, length):
    """Returns the pairs of lists that records are made of, and tokens lost.

    Args:
      first, second: lists of tokens.
      length: how many they are, with the special ones.
    """
    size, how = self.max_seq_length, self._truncation
    if self._stride:
      texts = windows.cut(first, second, size, self._stride, how)
      return texts, windows.count_lost(first, second, texts)
    return [truncate(first, second, size, how)], length - size

  def _arrange(self, texts):
    """Returns ids and their number in segment 0 for each pair, and [UNK]s.

    The tokens are counted.

    Args:
      texts: list of pairs of lists, the second empty of a single text.
    """
    parts, tokens, unknown = [], 0, 0
    for first, second in texts:
      ids = [self.cls, *first, self.sep]
      in_first = len(ids)
      if second:
        ids += second
        ids.append(self.sep)
      parts.append((ids, in_first))
      tokens += len(ids)
      if self._unknown in ids:
        unknown += ids.count(self._unknown)
    tally = self.tally
    tally["records"] += len(parts)
    tally["tokens"] += tokens
    if unknown:
      tally["unknown"] += unknown
    return parts, unknown

  def _search_unknown_words(self, *texts):
    """Counts the words of texts that become [UNK], in the first examples."""
    if not self._searches_left:
      return
    self._searches_left -= 1
    basic = getattr(self.tokenizer, "basic_tokenizer", None)
    split = str.split if basic is None else basic.tokenize
    for text in filter(None, texts):
      for word in split(tokenization.convert_to_unicode(text)):
        if self._unknown in self._ids(word):
          self.tally[_UnknownWord(word)] += 1


def unknown_id(tokenizer):
  """Returns the id of unknown words, None where the vocabulary has none."""
  pieces = getattr(tokenizer, "wordpiece_tokenizer", None)
  vocab = getattr(tokenizer, "vocab", {})
  return vocab.get(getattr(pieces, "unk_token", tokenization.UNKNOWN))


def commonest_unknown_words(tally, number=10):
  """Returns the list of the commonest unknown words of a converter's tally.

  They are those of the first examples that have one.
  """
  counts = collections.Counter(
    {
      key.word: count
      for key, count in tally.items()
      if isinstance(key, _UnknownWord)
    }
  )
  return [word for word, _ in counts.most_common(number)]


def padding_features(max_seq_length, target=ONE_CLASS):
  """Returns features of zeros that fill a batch and count for nothing."""
  zeros, value = [0] * max_seq_length, target.encode(None)
  return InputFeatures(zeros, zeros, zeros, value, False, target=target)


def log_example(example, features, tokenizer):
  """Logs an example and its features, so that a person can check them.

  Args:
    example: `InputExample` or `PaddingInputExample`.
    features: its `InputFeatures`, or those of its first window.
    tokenizer: the tokens are logged if it has `convert_ids_to_tokens`.
  """
  shown = [("guid", getattr(example, "guid", "padding"))]
  if features.num_windows > 1:
    shown.append(("windows", f"the first of {features.num_windows}"))
  if hasattr(tokenizer, "convert_ids_to_tokens"):
    ids = list(itertools.compress(features.input_ids, features.input_mask))
    tokens = tokenizer.convert_ids_to_tokens(ids)
    printable = map(tokenization.printable_text, tokens)
    shown.append(("tokens", " ".join(printable)))
  shown += [
    ("input_ids", " ".join(map(str, features.input_ids))),
    ("input_mask", " ".join(map(str, features.input_mask))),
    ("segment_ids", " ".join(map(str, features.segment_ids))),
    ("label", _describe_label(example, features)),
  ]
  logging.info("*** Example ***")
  for name, value in shown:
    logging.info("%s: %s", name, value)


def _describe_label(example, features):
  """Returns the label of an example and what became of it, for the log."""
  label = getattr(example, "label", None)
  return "none" if label is None else f"{label} ({_describe_value(features)})"


def _describe_value(features):
  """Returns what became of the label: `id = 1`, or the feature's numbers."""
  numbers = features.target.features(features.label_id)
  if "label_ids" in numbers:
    return f"id = {features.label_id}"
  return ", ".join(
    f"{name} = {' '.join(f'{number:g}' for number in numbers[name])}"
    for name in numbers
  )


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
  converter = Converter(target, max_seq_length, tokenizer, remember_words=False)
  features = converter(example)
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
  logged = (_convert_and_log(example, converter)[0] for example in first)
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
  """Yields the records of each example; the first five are logged.

  Args:
    examples: iterable of `InputExample` or `PaddingInputExample`.
    converter: `Converter`.
  """
  examples = iter(examples)
  for example in itertools.islice(examples, LOGGED_EXAMPLES):
    yield from map(serialize, _convert_and_log(example, converter))
  for inputs in map(converter.inputs, examples):
    yield from converter.records(inputs)


def write_records(records, path, total=None):
  """Writes a generator's records to a TFRecord file, and reports progress.

  Args:
    records: generator of bytes; it is closed, whatever happens.
    path: the file.
    total: number of records expected; None where it is unknown.
  """
  counter = progress.Counter("converted", total)
  with (
    contextlib.closing(records),
    tf.io.TFRecordWriter(path) as writer,
  ):
    for record in progress.count_examples(records, counter):
      writer.write(record)


def _convert_and_log(example, converter):
  """Returns the list of an example's `InputFeatures`; the first are logged."""
  features = converter.windows(example)
  log_example(example, features[0], converter.tokenizer)
  return features
