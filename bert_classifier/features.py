"""Features: examples as ids in fixed length.

An example becomes `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`, segment 0 up to
the first [SEP] and 1 from there on, padded with zeros to S positions:

  tokens       [CLS] the dog is hairy . [SEP] [PAD] [PAD]
  input_ids      101 ...                  102     0     0
  input_mask       1   1   1  1     1 1     1     0     0
  segment_ids      0   0   0  0     0 0     0     0     0

The label's features beside them are those of the task's target; see `targets`.
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
)
from bert_classifier.examples import PaddingInputExample
from bert_classifier.records import RecordEncoder, serialize
import tokenization

LOGGED_EXAMPLES = 5
# Examples with [UNK] that are searched for unknown words. A search takes as
# long as several conversions.
_SEARCHED_EXAMPLES = 1000
# Key of a tally: how often a word was found unknown.
_UnknownWord = collections.namedtuple("_UnknownWord", "word")
# The label of the files of 2018: one class, whatever its names.
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
    truncation: see `truncate`.
    remember_words: whether to remember the ids of words, which pays for many
      examples only: the memory begins with a look at the whole vocabulary.

  Attributes:
    tally: `collections.Counter` of "records", "truncated" (examples that lost
      tokens), "truncated_tokens" (tokens lost), "tokens" (those in the records,
      special ones included), "unknown" (those of them that are [UNK]) and
      "longest" (tokens of the longest example before it was cut). What of the
      words it has is for `commonest_unknown_words`.
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
    remember_words=True,
  ):
    self.target, self.max_seq_length = target, max_seq_length
    self.tokenizer, self._truncation = tokenizer, truncation
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
      first, second = truncate(
        first, second, self.max_seq_length, self._truncation
      )
    ids = [self.cls, *first, self.sep]
    in_first = len(ids)
    if second:
      ids += second
      ids.append(self.sep)
    tally["tokens"] += len(ids)
    if self._unknown in ids:
      tally["unknown"] += ids.count(self._unknown)
      self._search_unknown_words(text_a, text_b)
    return ids, in_first, value

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


def truncate(first, second, max_seq_length, truncation=choice_options.HEAD):
  """Cuts a pair, or a single text, to fit between the special tokens.

  A single text keeps its first S - 2 tokens. Of a pair the longer loses its
  last token, the second on a tie, until both fit in S - 3. A second text that
  loses everything leaves the single form.

    >>> truncate([1, 2, 3, 4], [5, 6], 7)
    ([1, 2], [5, 6])
    >>> truncate([1, 2, 3, 4], [], 5)
    ([1, 2, 3], [])
    >>> truncate([1, 2, 3, 4], [], 5, "tail")
    ([2, 3, 4], [])
    >>> truncate([1, 2, 3, 4, 5], [], 6, "head_tail")
    ([1, 3, 4, 5], [])

  Args:
    first, second: lists of tokens.
    max_seq_length: S.
    truncation: which tokens of a text stay, as many as said above: "head" the
      first, "tail" the last, "head_tail" 128 of each 510, rounded down, from
      its beginning and the others from its end.

  Returns:
    The two lists.
  """
  of_first, of_second = _count_kept(len(first), len(second), max_seq_length)
  return (
    _keep(first, of_first, truncation),
    _keep(second, of_second, truncation),
  )


# Of 512 positions, as the paper of --truncation has it.
_HEAD_TOKENS, _ALL_TOKENS = 128, 510


def count_head(number, truncation):
  """Returns how many of the tokens that stay are from a text's beginning.

  Args:
    number: of tokens that stay of a text that is cut, an int or <int32>[...].
    truncation: see `truncate`.
  """
  return {
    choice_options.HEAD: number,
    choice_options.TAIL: number * 0,
    choice_options.HEAD_TAIL: number * _HEAD_TOKENS // _ALL_TOKENS,
  }[truncation]


def _keep(tokens, number, truncation):
  """Returns so many of a text's tokens; see `truncate`."""
  if number >= len(tokens):
    return tokens
  of_head = count_head(number, truncation)
  return tokens[:of_head] + tokens[len(tokens) - number + of_head :]


def _count_kept(first, second, max_seq_length):
  """Returns how many tokens of a pair stay; see `truncate`.

  Args:
    first, second: how many there are.
    max_seq_length: S.
  """
  if not second:
    return min(first, max_seq_length - 2), 0
  excess = first + second - (max_seq_length - 3)
  if excess <= 0:
    return first, second
  # Even out the two, then take from both in turn, the second first.
  uneven = first - second
  from_longer = min(excess, abs(uneven))
  from_first, from_second = (from_longer, 0) if uneven > 0 else (0, from_longer)
  rest = excess - from_longer
  from_second += (rest + 1) // 2
  from_first += rest // 2
  return first - from_first, second - from_second


def log_example(example, features, tokenizer):
  """Logs an example and its features, so that a person can check them.

  Args:
    example: `InputExample` or `PaddingInputExample`.
    features: its `InputFeatures`.
    tokenizer: the tokens are logged if it has `convert_ids_to_tokens`.
  """
  shown = [("guid", getattr(example, "guid", "padding"))]
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
  """Returns the `InputFeatures` of an example, and logs them."""
  features = converter(example)
  log_example(example, features, converter.tokenizer)
  return features
