"""The features of a task's splits: kept in a folder, converted when needed.

The records of a split are in a file whose name holds a fingerprint of all that
they are made of, with a manifest beside it:

  cached_train_128_mrpc_0a1b2c3d4e5f.tf_record
  cached_train_128_mrpc_0a1b2c3d4e5f.json

and, where they are trained on, an index, by which they are read in any order:

  cached_train_128_mrpc_0a1b2c3d4e5f.index
"""

import contextlib
import hashlib
import json
import os
import time
from typing import NamedTuple, Optional

from absl import logging
import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import (
  catalogue,
  choice_options,
  conversion,
  errors,
  feature_manifest,
  files,
  machine,
  progress,
  record_index,
  windows,
)
from bert_classifier.features import (
  Converter,
  commonest_unknown_words,
  feature_spec,
  unknown_id,
  write_records,
)
from bert_classifier.records import NUM_WINDOWS

# Raise it when the same inputs give other records than before.
FORMAT_VERSION = 1
_RECORDS_AT_A_TIME = 1024
_MOST_PROCESSES = 4  # what more would gain was not measured
_ON_CPU = tf.ConfigProto(device_count={"GPU": 0})


class Features(NamedTuple):
  """A split's features on disk.

  Attributes:
    path: the TFRecord file.
    records: number of records in it.
    tokens: number of real tokens in them.
    examples: number of examples that they are of; more records are windows.
    sha256: of the file, in hexadecimal digits; "" before it is made.
    index: path of its index, see `record_index`; None where none was asked for.
  """

  path: str
  records: int
  tokens: int
  examples: int
  sha256: str = ""
  index: Optional[str] = None

  @classmethod
  def from_manifest(cls, base, manifest):
    """Returns the features of a split by its manifest.

    Args:
      base: path of both files without ending.
      manifest: dictionary with `records`, `tokens` and, where there are
        windows, `examples`.
    """
    records = manifest["records"]
    return cls(
      f"{base}.tf_record",
      records,
      manifest["tokens"],
      manifest.get("examples", records),
      manifest["sha256"],
    )


class FeatureCache:
  """The features of a task's splits.

  Args:
    data: `tasks.TaskData`.
    task: name of the task.
    cache_dir: folder of the features.
    read_only: another folder whose features are used, or None.
    max_seq_length: S.
    tokenizer_inputs: dictionary of all that the tokens depend on (digest of
      the vocabulary, casing).
    tokenizer: a `tokenization.FullTokenizer`.
    num_processes: worker processes for a large set; see `conversion`.
    truncation, stride: see `features.Converter`.
  """

  def __init__(
    self,
    data,
    task,
    *,
    cache_dir,
    max_seq_length,
    tokenizer_inputs,
    tokenizer,
    num_processes=1,
    read_only=None,
    truncation=choice_options.HEAD,
    stride=0,
  ):
    self._read_only = read_only
    self._data, self._task, self._cache_dir = data, task, cache_dir
    self._target = data.processor.get_target()
    self._max_seq_length = max_seq_length
    self._truncation, self._stride = truncation, stride
    self._tokenizer_inputs = tokenizer_inputs
    self._tokenizer, self._num_processes = tokenizer, num_processes
    self._known, self._counts, self._windows = {}, {}, {}

  def count(self, split):
    """Returns the number of a split's examples that have or get a record.

    Reads and checks every example of a split that is not converted yet.

    Raises:
      UserError: what is wrong with the task's file.
    """
    cached = self.lookup(split)
    if cached is not None:
      return cached.examples
    if split not in self._counts:
      self._counts[split] = self._data.count(split)
    return self._counts[split]

  def count_records(self, split):
    """Returns the number of a split's records.

    Windows are counted by converting examples that are not cached yet.

    Raises:
      UserError: what is wrong with the task's file.
    """
    cached = self.lookup(split)
    if cached is not None:
      return cached.records
    if not self._stride:
      return self.count(split)
    if split not in self._windows:
      converter = self._make_converter()
      counter = progress.Counter("counted windows of", self.count(split))
      examples = self._data.examples(split)
      for one in progress.count_examples(examples, counter):
        converter.records(converter.inputs(one))
      self._windows[split] = converter.tally["records"]
    return self._windows[split]

  def _make_converter(self):
    """Returns a `features.Converter` that has counted nothing yet."""
    return Converter(
      self._target,
      self._max_seq_length,
      self._tokenizer,
      self._truncation,
      stride=self._stride,
    )

  def lookup(self, split):
    """Returns the `Features` of a split, or None if they are not cached."""
    if split not in self._known:
      base, _ = self._base_and_inputs(split)
      manifest = feature_manifest.read(base)
      if manifest is None and self._read_only:
        base = os.path.join(self._read_only, os.path.basename(base))
        manifest = feature_manifest.read(base)
      known = manifest and Features.from_manifest(base, manifest)
      if known is not None:
        feature_manifest.report_found(manifest, known.path)
      self._known[split] = known
    return self._known[split]

  def features(self, split):
    """Returns the `Features` of a split, converted if they are not cached.

    Raises:
      UserError: what is wrong with the task's file, or that it changed.
    """
    cached = self.lookup(split)
    if cached is None:
      base, inputs = self._base_and_inputs(split)
      feature_manifest.explain_difference(base, inputs)
      converter = self._make_converter()
      examples = self._data.examples(split, converter.tally)
      records = conversion.make_records(
        examples, converter, self._num_processes
      )
      known = self._windows if self._stride else self._counts
      manifest = _write_to_cache(
        records, converter, base, inputs, known.get(split)
      )
      cached = Features.from_manifest(base, manifest)
      self._known[split] = cached
    if split == "train":  # whose texts are not needed again
      self._data.release(split)
    return cached

  def indexed(self, split):
    """Returns the `Features` of a split with an index, made if need be."""
    features = self.features(split)
    path = self._find_or_make(
      features,
      record_index.OFFSETS,
      features.records + 1,
      lambda: record_index.scan_offsets(features.path),
    )
    return features._replace(index=path)

  def lengths(self, split):
    """Returns the tokens of each record: <uint16>[R].

    They are kept in a file once they are counted.
    """
    features = self.features(split)
    path = self._find_or_make(
      features,
      record_index.LENGTHS,
      features.records,
      lambda: [self._count_tokens(split)[0]],
    )
    return record_index.read_array(path, record_index.LENGTHS)

  def _find_or_make(self, features, kind, count, make):
    """Returns the path of a file of numbers about records, made if need be.

    It is beside the records; of records in the folder that is only read it is
    made in the other. Arguments as of `record_index.find_or_make`.
    """
    base, _ = os.path.splitext(features.path)
    beside = f"{base}.{kind.ending}"
    own = os.path.join(self._cache_dir, os.path.basename(beside))
    return record_index.find_or_make(
      [beside, own], kind, features.sha256, count, make
    )

  def count_tokens(self, split):
    """Returns how many tokens the examples of a split have, and [UNK]s.

    Both are <int32>[n], in the order of the examples. Special tokens are
    counted, padding is not; of an example in windows the tokens of all of them,
    so that those which two windows share count twice.
    """
    *counts, num_windows = self._count_tokens(split)
    if self._stride:
      starts = windows.find_starts(num_windows)
      counts = [np.add.reduceat(count, starts) for count in counts]
    return tuple(counts)

  def _count_tokens(self, split):
    """Returns tokens, [UNK]s and `num_windows` of the records: <int32>[R]."""
    path, length = self.features(split).path, self._max_seq_length
    unknown = unknown_id(self._tokenizer)
    spec = feature_spec(length, self._target, in_windows=True)
    names = "input_ids", "input_mask", NUM_WINDOWS
    with tf.Graph().as_default(), tf.Session(config=_ON_CPU) as session:
      tf.set_random_seed(0)  # which --deterministic asks for in any graph
      records = tf.data.TFRecordDataset(path).batch(_RECORDS_AT_A_TIME)
      record = tf.data.make_one_shot_iterator(records).get_next()
      values = tf.io.parse_example(record, {name: spec[name] for name in names})
      mask = tf.not_equal(values["input_mask"], 0)
      is_unknown = tf.equal(
        values["input_ids"], -1 if unknown is None else unknown
      )
      counts = [
        tf.reduce_sum(tf.cast(tokens, tf.int32), axis=-1)
        for tokens in (mask, mask & is_unknown)
      ]
      counts.append(tf.cast(values[NUM_WINDOWS], tf.int32))
      parts = []
      with contextlib.suppress(tf.errors.OutOfRangeError):
        while True:
          parts.append(session.run(counts))
    return tuple(map(np.concatenate, zip(*parts)))

  def converted_examples(self, split):
    """Yields the examples that the records of a split were made of, in order.

    A change of the file may be found only at its end: read to the end.

    Raises:
      UserError: the examples are no longer those; names the file.
    """
    examples = self.features(split).examples
    for number, example in enumerate(self._data.examples(split), 1):
      if number > examples:
        raise self._data.changed(split)
      yield example

  def _inputs(self, split):
    """Returns the dictionary of all that decides the records of a split.

    The fingerprint is made of it, and the manifest keeps it. Choices that were
    not made are left out, so that caches from before there were any are still
    used.
    """
    choices = {}
    if self._truncation != choice_options.HEAD:
      choices["truncation"] = self._truncation
    if self._stride:
      choices["stride"] = self._stride
    if split == "train" and self._data.max_train_examples:
      choices["max_train_examples"] = self._data.max_train_examples
    return {
      "format_version": FORMAT_VERSION,
      "task": self._task,
      "split": split,
      "source": self._data.source_digest(split),
      **catalogue.describe_examples(self._data, split),
      "language": self._data.processor.language,
      "max_seq_length": self._max_seq_length,
      **self._target.settings(),
      **self._tokenizer_inputs,
      **choices,
    }

  def _base_and_inputs(self, split):
    """Returns the path of a split's files without ending, and `_inputs`."""
    inputs = self._inputs(split)
    canonical = json.dumps(inputs, sort_keys=True).encode()
    fingerprint = hashlib.sha256(canonical).hexdigest()[:12]
    name = f"cached_{split}_{self._max_seq_length}_{self._task}_{fingerprint}"
    return os.path.join(self._cache_dir, name), inputs


def prepare_cache(options, placement, task, model):
  """Returns the cache of features, in the first folder that can be written.

  Args:
    options: `options.Options`.
    placement: see `devices`.
    task: `task_choice.Task`.
    model: `model_files.Model`.
  """
  folder, read_only = options.data.cache_dir, None
  if not folder:
    data_dir = options.data.data_dir
    dry = options.run.dry_run
    can_write = files.seems_writable if dry else files.is_writable
    reachable = placement.shares_folders and data_dir
    usable = reachable and can_write(data_dir)
    folder = data_dir if usable else options.run.output_dir
    # Features that were made there when it could be written are still good.
    read_only = data_dir if reachable and not usable else None
    if not usable and data_dir and tf.io.gfile.isdir(data_dir):
      logging.info(
        "features are kept in --output_dir=%s, because --data_dir=%s %s;"
        " --cache_dir names another folder",
        folder,
        data_dir,
        "cannot be written"
        if placement.shares_folders
        else "may be out of the device's reach",
      )
  num_threads = machine.count_threads(options.device.num_threads)
  return FeatureCache(
    task.data,
    task.name,
    cache_dir=folder,
    read_only=read_only,
    max_seq_length=options.model.max_seq_length,
    tokenizer_inputs={
      "vocabulary": model.vocab_digest,
      **_select_tokenizer_inputs(model.tokenizer_settings),
    },
    tokenizer=model.tokenizer,
    num_processes=min(_MOST_PROCESSES, num_threads),
    truncation=options.model.truncation,
    stride=options.model.stride,
  )


def _select_tokenizer_inputs(settings):
  """Returns the settings of a tokenizer that its cached features depend on.

  Those that leave the original's rule as it is are left out, so that caches
  made before there were others are still used.

  Args:
    settings: `model_files.Model.tokenizer_settings`.
  """
  usual = {
    "strip_accents": None,
    "tokenize_chinese_chars": True,
    "whole_tokens": [],
  }
  return {
    name: value
    for name, value in settings.items()
    if name not in usual or value != usual[name]
  }


def _write_to_cache(records, converter, base, inputs, total):
  """Writes the records, then a manifest, which makes them valid.

  Args:
    records: generator of bytes.
    converter: `features.Converter`, whose counts are complete when the
      generator has ended.
    base: path of both files without ending.
    inputs: what the records are made of.
    total: number of records expected; None where it is unknown.

  Returns:
    The manifest.
  """
  path = f"{base}.tf_record"
  _refuse_folders(path, f"{base}.json")
  tf.io.gfile.makedirs(os.path.dirname(base) or ".")
  files.remove_abandoned(os.path.dirname(base), "cached_.*")
  began = time.monotonic()
  with files.atomic_write(path) as temporary:
    write_records(records, temporary, total)
    size = tf.io.gfile.stat(temporary).length
    digest = files.hash_file(temporary)
  tally = converter.tally
  manifest = {
    "inputs": inputs,
    "records": tally["records"],
    "blank": tally["blank"],
    "truncated": tally["truncated"],
    "truncated_tokens": tally["truncated_tokens"],
    "longest": tally["longest"],
    "tokens": tally["tokens"],
    "unknown": tally["unknown"],
    "unknown_words": commonest_unknown_words(tally),
    "bytes": size,
    "sha256": digest,
  }
  if "stride" in inputs:
    manifest["examples"] = tally["records"] - tally["added"]
    manifest["windowed"] = tally["windowed"]
  if inputs["split"] == "train":
    manifest["doubt"] = converter.target.doubt(converter.label_values)
  feature_manifest.write(manifest, base)
  feature_manifest.report(manifest, path, time.monotonic() - began)
  return manifest


def _refuse_folders(*paths):
  """Raises a UserError where a folder has the name of a file to be written."""
  for path in filter(tf.io.gfile.isdir, paths):
    raise errors.UserError(
      f"{path} is a folder, where the file of that name is to be written:"
      " remove or rename it, or give another --cache_dir"
    )
