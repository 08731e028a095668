"""Features: examples as fixed-length rows of ids, in TFRecord files.

An example becomes `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`, segment 0 up to
the first [SEP] and 1 from there on, padded with zeros to S positions:

  tokens       [CLS] the dog is hairy . [SEP] [PAD] [PAD]
  input_ids      101 ...                  102     0     0
  input_mask       1   1   1  1     1 1     1     0     0
  segment_ids      0   0   0  0     0 0     0     0     0

`FeatureCache` keeps the rows of a split in a file whose name holds a
fingerprint of all that they are made of, with a manifest beside it:

  cached_train_128_mrpc_0a1b2c3d.tf_record
  cached_train_128_mrpc_0a1b2c3d.json
"""

import collections
import hashlib
import json
import os
import re
import time
from typing import NamedTuple

from absl import logging
import tensorflow.compat.v1 as tf

import files
from tasks import PaddingInputExample
import tokenization

# Raise it when the same inputs give other records than before.
FORMAT_VERSION = 1
LOGGED_EXAMPLES = 5
PROGRESS_SECONDS = 10.0


def feature_spec(seq_length):
  """The features of a record, by name: what is written, parsed and served.

  All are int64 in the file: `input_ids`, `input_mask` and `segment_ids` of
  `seq_length` values, `label_ids` and `is_real_example` of one.
  """
  row = tf.FixedLenFeature([seq_length], tf.int64)
  one = tf.FixedLenFeature([], tf.int64)
  return {
    "input_ids": row,
    "input_mask": row,
    "segment_ids": row,
    "label_ids": one,
    "is_real_example": one,
  }


class InputFeatures:
  """One example as ids.

  Args and attributes:
    input_ids, input_mask, segment_ids: lists of S whole numbers.
    label_id: index of the label; 0 where the example has none.
    is_real_example: False for a row that only fills a batch.
  """

  def __init__(
    self, input_ids, input_mask, segment_ids, label_id, is_real_example=True
  ):
    self.input_ids, self.input_mask = input_ids, input_mask
    self.segment_ids, self.label_id = segment_ids, label_id
    self.is_real_example = is_real_example

  def as_dict(self):
    """Values by the names of `feature_spec`, each a list of whole numbers."""
    return {
      "input_ids": self.input_ids,
      "input_mask": self.input_mask,
      "segment_ids": self.segment_ids,
      "label_ids": [self.label_id],
      "is_real_example": [int(self.is_real_example)],
    }


class Converter:
  """Turns examples into features and counts what it cut off.

  Args:
    label_list: the labels, in the order of their ids.
    max_seq_length: S, at least 3; a pair needs 5 to show both its texts.
    tokenizer: a `tokenization.FullTokenizer`, or anything with `tokenize` and
      `convert_tokens_to_ids`.

  Attributes:
    tally: counts by "records", "truncated" (examples that lost tokens),
      "truncated_tokens" (how many in all), and "longest" (the most tokens that
      an example had, the special ones included).
  """

  def __init__(self, label_list, max_seq_length, tokenizer):
    self.labels = {label: index for index, label in enumerate(label_list)}
    self.max_seq_length = max_seq_length
    self.tokenizer = tokenizer
    self.cls, self.sep = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])
    self.tally = collections.Counter()

  def __call__(self, example):
    """The features of one example.

    Raises:
      ValueError: a label that is not in the list.
    """
    self.tally["records"] += 1
    if isinstance(example, PaddingInputExample):
      return padding_features(self.max_seq_length)
    first = self._ids(example.text_a)
    second = self._ids(example.text_b) if example.text_b else []
    length = len(first) + len(second) + (3 if second else 2)
    first, second = truncate(first, second, self.max_seq_length)
    ids = [self.cls, *first, self.sep]
    segments = [0] * len(ids)
    if second:
      ids += [*second, self.sep]
      segments += [1] * (len(second) + 1)
    self._count(length)
    padding = [0] * (self.max_seq_length - len(ids))
    return InputFeatures(
      ids + padding,
      [1] * len(ids) + padding,
      segments + padding,
      self._label_id(example),
    )

  def _ids(self, text):
    ids = getattr(self.tokenizer, "ids", None)
    if ids is not None:
      return list(ids(text))
    tokens = self.tokenizer.tokenize(text)
    return list(self.tokenizer.convert_tokens_to_ids(tokens))

  def _count(self, length):
    self.tally["longest"] = max(self.tally["longest"], length)
    if length > self.max_seq_length:
      self.tally["truncated"] += 1
      self.tally["truncated_tokens"] += length - self.max_seq_length

  def _label_id(self, example):
    if example.label is None:
      return 0
    if example.label not in self.labels:
      raise ValueError(
        f"{example.guid}: the label {example.label!r} is not one of"
        f" {', '.join(self.labels)}"
      )
    return self.labels[example.label]


def padding_features(max_seq_length):
  """A row of zeros that fills a batch and counts for nothing."""
  zeros = [0] * max_seq_length
  return InputFeatures(zeros, zeros, zeros, 0, is_real_example=False)


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
  """The `InputFeatures` of one example; the first five are logged.

  Args:
    ex_index: index of the example in its set.
    example: `InputExample` or `PaddingInputExample`.
    label_list: the labels, in the order of their ids.
    max_seq_length: S.
    tokenizer: a `tokenization.FullTokenizer`.
  """
  features = Converter(label_list, max_seq_length, tokenizer)(example)
  if ex_index < LOGGED_EXAMPLES:
    log_example(example, features, tokenizer)
  return features


def convert_examples_to_features(
  examples, label_list, max_seq_length, tokenizer
):
  """List of the `InputFeatures` of a list of examples."""
  converter = Converter(label_list, max_seq_length, tokenizer)
  return list(_convert(examples, converter))


def file_based_convert_examples_to_features(
  examples, label_list, max_seq_length, tokenizer, output_file
):
  """Writes the features of `examples`, in order, to a TFRecord file.

  The file appears under its name only when it is whole.
  """
  converter = Converter(label_list, max_seq_length, tokenizer)
  with files.appearing_whole(output_file) as temporary:
    _write_records(_convert(examples, converter), temporary)


def _convert(examples, converter):
  """Yields the features of examples, telling how far it has come."""
  began = told = time.monotonic()
  for index, example in enumerate(examples):
    features = converter(example)
    if index < LOGGED_EXAMPLES:
      log_example(example, features, converter.tokenizer)
    yield features
    if index % 1000 == 999 and time.monotonic() - told > PROGRESS_SECONDS:
      told = time.monotonic()
      rate = (index + 1) / (told - began)
      logging.info("converted %d rows, %.0f rows/s", index + 1, rate)


def _write_records(features, path):
  with tf.io.TFRecordWriter(path) as writer:
    for row in features:
      writer.write(serialize(row))


def serialize(features):
  """The bytes of the `tf.train.Example` that holds an `InputFeatures`."""
  values = {
    name: tf.train.Feature(int64_list=tf.train.Int64List(value=value))
    for name, value in features.as_dict().items()
  }
  example = tf.train.Example(features=tf.train.Features(feature=values))
  return example.SerializeToString()


# ---------------------------------------------------------------------------
# The cache


class Features(NamedTuple):
  """A split's features on disk.

  Attributes:
    path: the TFRecord file.
    records: number of rows in it.
    bytes: its size.
    blank: rows that were left out for an empty text.
    truncated: rows that lost tokens.
  """

  path: str
  records: int
  bytes: int
  blank: int
  truncated: int


class FeatureCache:
  """The features of a task's splits: kept in a folder, converted when needed.

  Args:
    processor: a `tasks.DataProcessor`.
    task: its name.
    data_dir: folder of the task's files.
    cache_dir: folder of the features.
    max_seq_length: S.
    tokenizer_inputs: dictionary of all that the tokens depend on (digest of
      the vocabulary, casing).
    tokenizer: a `tokenization.FullTokenizer`.
  """

  def __init__(
    self,
    processor,
    task,
    *,
    data_dir,
    cache_dir,
    max_seq_length,
    tokenizer_inputs,
    tokenizer,
  ):
    self._processor = processor
    self._data_dir, self._cache_dir = data_dir, cache_dir
    self._tokenizer = tokenizer
    self._inputs = {
      "format_version": FORMAT_VERSION,
      "task": task,
      "max_seq_length": max_seq_length,
      "labels": list(processor.get_labels()),
      "language": processor.language,
      **tokenizer_inputs,
    }
    self._known, self._sources = {}, {}

  def count(self, split):
    """Rows of a split, blank ones of the training set excluded.

    Reads and checks every row of a file that is not converted yet.

    Raises:
      FileNotFoundError, ValueError: what is wrong with the task's file.
    """
    cached = self.lookup(split)
    if cached is not None:
      return cached.records
    return sum(1 for _ in self._processor.examples(self._data_dir, split))

  def lookup(self, split):
    """The `Features` of a split if they are cached and whole, else None."""
    if split not in self._known:
      base, _ = self._base_and_inputs(split)
      manifest = _usable_manifest(base)
      known = _features(base, manifest) if manifest else None
      if known is not None:
        logging.info(
          "%s: %d rows, converted before, in %s",
          split,
          known.records,
          known.path,
        )
      self._known[split] = known
    return self._known[split]

  def features(self, split):
    """The `Features` of a split, converted now if they are not cached.

    Raises:
      FileNotFoundError, ValueError: what is wrong with the task's file.
    """
    cached = self.lookup(split)
    if cached is None:
      base, inputs = self._base_and_inputs(split)
      _explain(base, inputs)
      converter = Converter(
        inputs["labels"], inputs["max_seq_length"], self._tokenizer
      )
      examples = self._processor.examples(
        self._data_dir, split, converter.tally
      )
      manifest = _convert_to_cache(examples, converter, base, inputs)
      cached = self._known[split] = _features(base, manifest)
    return cached

  def _base_and_inputs(self, split):
    """The path of a split's files without ending, and what they depend on."""
    if split not in self._sources:  # a digest reads the whole file
      self._sources[split] = self._processor.source_digest(
        self._data_dir, split
      )
    inputs = {**self._inputs, "split": split, "source": self._sources[split]}
    canonical = json.dumps(inputs, sort_keys=True).encode()
    fingerprint = hashlib.sha256(canonical).hexdigest()[:12]
    length, task = inputs["max_seq_length"], inputs["task"]
    name = f"cached_{split}_{length}_{task}_{fingerprint}"
    return os.path.join(self._cache_dir, name), inputs


def _features(base, manifest):
  counts = [manifest[k] for k in ("records", "bytes", "blank", "truncated")]
  return Features(f"{base}.tf_record", *counts)


def _convert_to_cache(examples, converter, base, inputs):
  """Writes records and manifest; the manifest, last, makes them valid."""
  path = f"{base}.tf_record"
  tf.io.gfile.makedirs(os.path.dirname(base) or ".")
  began = time.monotonic()
  with files.appearing_whole(path) as temporary:
    _write_records(_convert(examples, converter), temporary)
    size = tf.io.gfile.stat(temporary).length
    digest = files.digest(temporary)
  tally = converter.tally
  manifest = {
    "inputs": inputs,
    "records": tally["records"],
    "blank": tally["blank"],
    "truncated": tally["truncated"],
    "truncated_tokens": tally["truncated_tokens"],
    "longest": tally["longest"],
    "bytes": size,
    "sha256": digest,
  }
  files.write_json(f"{base}.json", manifest)
  _report(manifest, path, time.monotonic() - began)
  return manifest


def _report(manifest, path, seconds):
  """Says what was converted, and what of it was cut or left out."""
  split = manifest["inputs"]["split"]
  records, truncated = manifest["records"], manifest["truncated"]
  logging.info(
    "%s: converted %d rows in %.1f s into %s", split, records, seconds, path
  )
  if truncated:
    logging.info(
      "%s: %d of %d rows were longer than %d tokens (the longest %d) and"
      " lost %d tokens in all",
      split,
      truncated,
      records,
      manifest["inputs"]["max_seq_length"],
      manifest["longest"],
      manifest["truncated_tokens"],
    )
  if manifest["blank"]:
    logging.info(
      "%s: %d rows without a text were left out", split, manifest["blank"]
    )


def _usable_manifest(base):
  """The manifest of a cached file that is there and whole, or None."""
  manifest = _read_manifest(f"{base}.json")
  if manifest is None:
    return None
  path = f"{base}.tf_record"
  if not tf.io.gfile.exists(path):
    return None
  size = tf.io.gfile.stat(path).length
  if size != manifest["bytes"] or files.digest(path) != manifest["sha256"]:
    logging.warning(
      "%s is damaged (%d bytes, %d were written): converting anew",
      path,
      size,
      manifest["bytes"],
    )
    return None
  return manifest


def _read_manifest(path):
  """A manifest as it was written, or None where it is missing or broken."""
  keys = {"inputs", "records", "blank", "truncated", "bytes", "sha256"}
  manifest = files.read_json(path)
  whole = isinstance(manifest, dict) and keys <= manifest.keys()
  return manifest if whole else None


def _explain(base, inputs):
  """Says which inputs differ from the newest cached file of the same name."""
  folder, name = os.path.split(base)
  pattern = re.escape(name.rpartition("_")[0]) + r"_[0-9a-f]{12}\.json"
  paths = files.matching(folder, pattern)
  others = [(_modified(path), path) for path in paths]
  for _, path in sorted(others, reverse=True):
    manifest = _read_manifest(path)
    if manifest is None:
      continue
    before = manifest["inputs"]
    differing = sorted(
      key
      for key in inputs.keys() | before.keys()
      if inputs.get(key) != before.get(key)
    )
    if differing:
      logging.info(
        "%s: not the rows of %s, for these differ: %s",
        inputs["split"],
        path,
        ", ".join(differing),
      )
    return


def _modified(path):
  return tf.io.gfile.stat(path).mtime_nsec
