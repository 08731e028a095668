"""Features: examples as fixed-length rows of ids, in TFRecord files.

An example becomes `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`, segment 0 up to
the first [SEP] and 1 from there on, padded with zeros to S positions:

  tokens       [CLS] the dog is hairy . [SEP] [PAD] [PAD]
  input_ids      101 ...                  102     0     0
  input_mask       1   1   1  1     1 1     1     0     0
  segment_ids      0   0   0  0     0 0     0     0     0

`FeatureCache` keeps the rows of a split in a file whose name holds a
fingerprint of all that they are made of, with a manifest beside it:

  cached_train_128_mrpc_0a1b2c3d4e5f.tf_record
  cached_train_128_mrpc_0a1b2c3d4e5f.json
"""

import collections
from concurrent import futures
import contextlib
import gc
import hashlib
import itertools
import json
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from typing import NamedTuple
import warnings

from absl import logging
import tensorflow.compat.v1 as tf

from bert_classifier import fast_tokenization, files, progress
from bert_classifier.tasks import PaddingInputExample
import tokenization

# Raise it when the same inputs give other records than before.
FORMAT_VERSION = 1
LOGGED_EXAMPLES = 5
# Rows that are converted before other processes are asked to help. To begin
# takes them a tenth of a second: with two of them CoLA's 8 551 rows took 1.3
# times as long, 120 000 rows 0.7 (benchmarks/conversion.py, two cores).
ROWS_ALONE = 10000
# Rows that go to another process at a time.
CHUNK_ROWS = 512


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
  """Turns examples into features or records, and counts what it cut off.

  Args:
    label_list: the labels, in the order of their ids.
    max_seq_length: S, at least 3; a pair needs 5 to show both its texts.
    tokenizer: a `tokenization.FullTokenizer`, or anything with `tokenize` and
      `convert_tokens_to_ids`.

  Attributes:
    tally: counts by "records", "truncated" (examples that lost tokens),
      "truncated_tokens" (how many in all), "tokens" (how many the rows have,
      the special ones included), and "longest" (the most of them that an
      example had before it was cut).
  """

  def __init__(self, label_list, max_seq_length, tokenizer):
    self.labels = {label: index for index, label in enumerate(label_list)}
    self.max_seq_length = max_seq_length
    self.tokenizer = tokenizer
    self.cls, self.sep = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])
    self.tally = collections.Counter()
    self._ids = fast_tokenization.WordCache(tokenizer).ids
    self._encode = _RecordEncoder(max_seq_length)

  def __call__(self, example):
    """The `InputFeatures` of one example.

    Raises:
      ValueError: a label that is not in the list.
    """
    row = self.row(example)
    if row is None:
      self.tally["records"] += 1
      return padding_features(self.max_seq_length)
    ids, in_first, label_id = self._numbers(row)
    padding = [0] * (self.max_seq_length - len(ids))
    return InputFeatures(
      ids + padding,
      [1] * len(ids) + padding,
      [0] * in_first + [1] * (len(ids) - in_first) + padding,
      label_id,
    )

  def row(self, example):
    """What of an example is converted: (text_a, text_b, label id), or None.

    None stands for a `PaddingInputExample`.

    Raises:
      ValueError: a label that is not in the list.
    """
    if isinstance(example, PaddingInputExample):
      return None
    label = example.label
    if label is not None and label not in self.labels:
      raise ValueError(
        f"{example.guid}: the label {label!r} is not one of"
        f" {', '.join(self.labels)}"
      )
    label_id = 0 if label is None else self.labels[label]
    return example.text_a, example.text_b, label_id

  def record(self, row):
    """The bytes of the `tf.train.Example` of a `row`; see `serialize`."""
    if row is None:
      self.tally["records"] += 1
      return serialize(padding_features(self.max_seq_length))
    return self._encode(*self._numbers(row))

  def _numbers(self, row):
    """Of a row: its ids, how many of them are of segment 0, and its label's."""
    text_a, text_b, label_id = row
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
    return ids, in_first, label_id


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
  examples = iter(examples)
  first = itertools.islice(examples, LOGGED_EXAMPLES)
  logged = (_logged(example, converter) for example in first)
  rest = map(converter, examples)
  counter = progress.Counter("converted")
  return list(progress.counted(itertools.chain(logged, rest), counter))


def file_based_convert_examples_to_features(
  examples, label_list, max_seq_length, tokenizer, output_file
):
  """Writes the features of `examples`, in order, to a TFRecord file.

  The file appears under its name only when it is whole.
  """
  converter = Converter(label_list, max_seq_length, tokenizer)
  with files.appearing_whole(output_file) as temporary:
    _write_records(_records(examples, converter), temporary)


def _logged(example, converter):
  """The `InputFeatures` of an example, which is logged."""
  features = converter(example)
  log_example(example, features, converter.tokenizer)
  return features


def _write_records(records, path, total=None):
  counter = progress.Counter("converted", total)
  with (
    contextlib.closing(records),
    tf.io.TFRecordWriter(path) as writer,
  ):
    for record in progress.counted(records, counter):
      writer.write(record)


def _records(examples, converter, num_processes=1):
  """Yields the record of each example, in order."""
  examples = iter(examples)
  for example in itertools.islice(examples, LOGGED_EXAMPLES):
    yield serialize(_logged(example, converter))
  rows = map(converter.row, examples)
  if num_processes == 1 or sys.platform != "linux":
    yield from map(converter.record, rows)
  else:
    yield from map(converter.record, itertools.islice(rows, ROWS_ALONE))
    yield from _records_of_processes(rows, converter, num_processes)


# ---------------------------------------------------------------------------
# Records: the bytes of tf.train.Example


def serialize(features):
  """The bytes of the `tf.train.Example` that holds an `InputFeatures`."""
  entries = (
    _feature(name, b"".join(map(_varint, numbers)))
    for name, numbers in features.as_dict().items()
  )
  return _delimited(1, b"".join(entries))


class _RecordEncoder:
  """Encodes records from parts that repeat; the same as `serialize` gives.

  But for the ids, a record depends on three small numbers and S alone: it is
  put together from cuts of the same zeros and ones, and each id's bytes are
  kept. Lists that go through tf.train.Example took as long as all the rest of a
  row.
  """

  def __init__(self, seq_length):
    self.seq_length = seq_length
    self.zeros = bytes(seq_length)
    self.ones_and_zeros = b"\1" * seq_length + self.zeros
    self.bytes_of_id = _Remembered(_varint)
    self.head_of_size = _Remembered(self._head)
    self.end_of_label = _Remembered(self._end)
    self.mask_head = self._before_values("input_mask")
    self.segments_head = self._before_values("segment_ids")

  def __call__(self, ids, in_first, label_id):
    """The record of ids, the first `in_first` of them of segment 0."""
    values = b"".join(map(self.bytes_of_id.__getitem__, ids))
    blank = self.seq_length - len(ids)
    mask = self.ones_and_zeros[blank : blank + self.seq_length]
    end = self.end_of_label[label_id]
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
    """What precedes the values of the ids, by their size and the end's."""
    size, end = sizes
    rows = 2 * self.seq_length + len(self.mask_head + self.segments_head)
    whole = _delimited(
      1, _feature("input_ids", bytes(size)) + bytes(rows + end)
    )
    return whole[: len(whole) - size - rows - end]

  def _before_values(self, name):
    """What precedes the values of a feature of S numbers of one byte."""
    return _feature(name, self.zeros)[: -self.seq_length]

  def _end(self, label_id):
    """The features after those of S numbers."""
    return _feature("label_ids", _varint(label_id)) + _feature(
      "is_real_example", b"\1"
    )


class _Remembered(dict):
  """What a function gives, by its argument; for few arguments."""

  def __init__(self, make):
    super().__init__()
    self.make = make

  def __missing__(self, key):
    self[key] = value = self.make(key)
    return value


def _feature(name, values):
  """An entry of tf.train.Features: a name, and varints as an int64 list."""
  numbers = _delimited(3, _delimited(1, values))
  return _delimited(1, _delimited(1, name.encode()) + _delimited(2, numbers))


def _delimited(number, content):
  """A field of a protocol buffer: its number and type, length, content."""
  return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(number):
  """A whole number in groups of 7 bits, the lowest first.

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


# ---------------------------------------------------------------------------
# Several processes


def _records_of_processes(rows, converter, num_processes):
  """Yields the records of rows in order, converted in processes of their own.

  This process reads and writes. Few chunks are under way at a time, so that
  memory stays bounded whatever reads faster than it is converted.
  """
  chunks = iter(lambda: list(itertools.islice(rows, CHUNK_ROWS)), [])
  first = next(chunks, None)
  if first is None:
    return
  under_way = collections.deque()
  with _forked(converter, num_processes) as pool:
    for chunk in itertools.chain([first], chunks):
      under_way.append(pool.submit(_convert_chunk, chunk))
      if len(under_way) > 2 * num_processes:
        yield from _finished(under_way.popleft(), converter.tally)
    while under_way:
      yield from _finished(under_way.popleft(), converter.tally)


def _finished(future, tally):
  """The records of a chunk; its counts are added to the tally."""
  records, counts = future.result()
  longest = max(tally["longest"], counts["longest"])
  tally.update(counts)
  tally["longest"] = longest
  return records


@contextlib.contextmanager
def _forked(converter, num_processes):
  """A pool of processes that are copies of this one.

  A copy begins within milliseconds and knows the words met so far, where a new
  process would import TensorFlow first, for seconds. It lacks the threads of
  TensorFlow's runtime, so that it must not call TensorFlow, and never does.
  """
  before = multiprocessing.active_children()
  pool = futures.ProcessPoolExecutor(
    num_processes,
    multiprocessing.get_context("fork"),
    _begin_chunks,
    (converter, os.getpid()),
  )
  try:
    with warnings.catch_warnings():
      # Python warns of copying a process with threads; see above.
      warnings.simplefilter("ignore", DeprecationWarning)
      gc.freeze()  # so that no copy collects, and closes, a session of this one
      try:
        pool.submit(os.getpid).result()  # makes all of them
      finally:
        gc.unfreeze()
    logging.info("converting in %d more processes", num_processes)
    yield pool
  except BaseException:
    for process in set(multiprocessing.active_children()).difference(before):
      process.terminate()
    raise
  finally:
    pool.shutdown(cancel_futures=True)


_converter = None  # of a process that converts chunks


def _begin_chunks(converter, parent):
  global _converter
  _converter = converter
  # Ctrl-C reaches every process of the terminal: the parent deals with it, and
  # terminates this one.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.signal(signal.SIGTERM, signal.SIG_DFL)
  threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent):
  """Ends this process when its parent has, be it killed."""
  while os.getppid() == parent:
    time.sleep(0.5)
  os._exit(1)


def _convert_chunk(rows):
  """The records of rows, and the counts of them alone."""
  _converter.tally = collections.Counter()
  return list(map(_converter.record, rows)), _converter.tally


# ---------------------------------------------------------------------------
# The cache


class Features(NamedTuple):
  """A split's features on disk.

  Attributes:
    path: the TFRecord file.
    records: number of rows in it.
    tokens: number of real tokens in them.
  """

  path: str
  records: int
  tokens: int


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
    num_processes: processes that convert what comes after the first rows of a
      large set, beside this one, which reads and writes; 1, and where the
      system is not Linux: only this one. The file is the same to the byte.
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
    num_processes=1,
  ):
    self._processor = processor
    self._data_dir, self._cache_dir = data_dir, cache_dir
    self._tokenizer, self._num_processes = tokenizer, num_processes
    self._inputs = {
      "format_version": FORMAT_VERSION,
      "task": task,
      "max_seq_length": max_seq_length,
      "labels": list(processor.get_labels()),
      "language": processor.language,
      **tokenizer_inputs,
    }
    self._known, self._sources, self._counts = {}, {}, {}

  def source_digest(self, split):
    """The SHA-256 of the files that a split is made of.

    Raises:
      FileNotFoundError: one of them is missing.
    """
    if split not in self._sources:  # a digest reads the whole file
      self._sources[split] = self._processor.source_digest(
        self._data_dir, split
      )
    return self._sources[split]

  def count(self, split):
    """Rows of a split, blank ones of the training set excluded.

    Reads and checks every row of a file that is not converted yet.

    Raises:
      FileNotFoundError, ValueError: what is wrong with the task's file.
    """
    cached = self.lookup(split)
    if cached is not None:
      return cached.records
    if split not in self._counts:
      self._counts[split] = self._processor.count(self._data_dir, split)
    return self._counts[split]

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
      records = _records(examples, converter, self._num_processes)
      manifest = _write_to_cache(
        records, converter.tally, base, inputs, self._counts.get(split)
      )
      cached = self._known[split] = _features(base, manifest)
    return cached

  def _base_and_inputs(self, split):
    """The path of a split's files without ending, and what they depend on."""
    source = self.source_digest(split)
    inputs = {**self._inputs, "split": split, "source": source}
    canonical = json.dumps(inputs, sort_keys=True).encode()
    fingerprint = hashlib.sha256(canonical).hexdigest()[:12]
    length, task = inputs["max_seq_length"], inputs["task"]
    name = f"cached_{split}_{length}_{task}_{fingerprint}"
    return os.path.join(self._cache_dir, name), inputs


def _features(base, manifest):
  return Features(f"{base}.tf_record", manifest["records"], manifest["tokens"])


def _write_to_cache(records, tally, base, inputs, total):
  """Writes the records, then a manifest, which makes them valid.

  `total` is how many are expected, None where nobody has counted.
  """
  path = f"{base}.tf_record"
  tf.io.gfile.makedirs(os.path.dirname(base) or ".")
  began = time.monotonic()
  with files.appearing_whole(path) as temporary:
    _write_records(records, temporary, total)
    size = tf.io.gfile.stat(temporary).length
    digest = files.digest(temporary)
  manifest = {
    "inputs": inputs,
    "records": tally["records"],
    "blank": tally["blank"],
    "truncated": tally["truncated"],
    "truncated_tokens": tally["truncated_tokens"],
    "longest": tally["longest"],
    "tokens": tally["tokens"],
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
  keys = {"inputs", "records", "tokens", "blank", "truncated"}
  keys |= {"bytes", "sha256"}
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
