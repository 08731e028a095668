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
import re
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
  files,
  machine,
  plain_texts,
  record_index,
)
from bert_classifier.features import (
  Converter,
  commonest_unknown_words,
  unknown_id,
  write_records,
)

# Raise it when the same inputs give other records than before.
FORMAT_VERSION = 1
# Share of [UNK] from which on the vocabulary is not that of the language. Of
# English texts in the English vocabularies less than one token in 1000 is.
MANY_UNKNOWN = 0.03
_RECORDS_AT_A_TIME = 1024
_MOST_PROCESSES = 4  # what more would gain was not measured
_ON_CPU = tf.ConfigProto(device_count={"GPU": 0})


class Features(NamedTuple):
  """A split's features on disk.

  Attributes:
    path: the TFRecord file.
    records: number of examples in it.
    tokens: number of real tokens in them.
    sha256: of the file, in hexadecimal digits; "" before it is made.
    index: path of its index, see `record_index`; None where none was asked for.
  """

  path: str
  records: int
  tokens: int
  sha256: str = ""
  index: Optional[str] = None

  @classmethod
  def from_manifest(cls, base, manifest):
    """Returns the features of a split by its manifest.

    Args:
      base: path of both files without ending.
      manifest: dictionary with `records` and `tokens`.
    """
    path = f"{base}.tf_record"
    return cls(
      path, manifest["records"], manifest["tokens"], manifest["sha256"]
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
    truncation: see `features.truncate`.
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
  ):
    self._read_only = read_only
    self._data, self._task, self._cache_dir = data, task, cache_dir
    self._target = data.processor.get_target()
    self._max_seq_length, self._truncation = max_seq_length, truncation
    self._tokenizer_inputs = tokenizer_inputs
    self._tokenizer, self._num_processes = tokenizer, num_processes
    self._known, self._counts = {}, {}

  def count(self, split):
    """Returns the number of a split's examples that have or get a record.

    Reads and checks every example of a split that is not converted yet.

    Raises:
      UserError: what is wrong with the task's file.
    """
    cached = self.lookup(split)
    if cached is not None:
      return cached.records
    if split not in self._counts:
      self._counts[split] = self._data.count(split)
    return self._counts[split]

  def lookup(self, split):
    """Returns the `Features` of a split, or None if they are not cached."""
    if split not in self._known:
      base, _ = self._base_and_inputs(split)
      manifest = _usable_manifest(base)
      if manifest is None and self._read_only:
        base = os.path.join(self._read_only, os.path.basename(base))
        manifest = _usable_manifest(base)
      known = manifest and Features.from_manifest(base, manifest)
      if known is not None:
        logging.info(
          "%s: %s, converted before, in %s",
          split,
          plain_texts.count(known.records),
          known.path,
        )
        _report_unknown(manifest)
        _report_doubt(manifest)
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
      _explain(base, inputs)
      converter = Converter(
        self._target, self._max_seq_length, self._tokenizer, self._truncation
      )
      examples = self._data.examples(split, converter.tally)
      records = conversion.make_records(
        examples, converter, self._num_processes
      )
      manifest = _write_to_cache(
        records, converter, base, inputs, self._counts.get(split)
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
    """Returns the tokens of each record: <uint16>[n], as of `count_tokens`.

    They are kept in a file once they are counted.
    """
    features = self.features(split)
    path = self._find_or_make(
      features,
      record_index.LENGTHS,
      features.records,
      lambda: [self.count_tokens(split)[0]],
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
    """Returns how many tokens the records of a split have, and [UNK]s.

    Both are <int32>[n], in the order of the examples. Special tokens are
    counted, padding is not.
    """
    path, length = self.features(split).path, self._max_seq_length
    unknown = unknown_id(self._tokenizer)
    sequence = tf.FixedLenFeature([length], tf.int64)
    with tf.Graph().as_default(), tf.Session(config=_ON_CPU) as session:
      records = tf.data.TFRecordDataset(path).batch(_RECORDS_AT_A_TIME)
      record = tf.data.make_one_shot_iterator(records).get_next()
      values = tf.io.parse_example(
        record, {"input_ids": sequence, "input_mask": sequence}
      )
      mask = tf.not_equal(values["input_mask"], 0)
      is_unknown = tf.equal(
        values["input_ids"], -1 if unknown is None else unknown
      )
      counts = [
        tf.reduce_sum(tf.cast(tokens, tf.int32), axis=-1)
        for tokens in (mask, mask & is_unknown)
      ]
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
    records = self.features(split).records
    for number, example in enumerate(self._data.examples(split), 1):
      if number > records:
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
  num_threads = machine.threads(options.device.num_threads)
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
  if inputs["split"] == "train":
    manifest["doubt"] = converter.target.doubt(converter.label_values)
  manifest[_OWN_DIGEST] = _hash_manifest(manifest)
  files.write_json(f"{base}.json", manifest)
  _report(manifest, path, time.monotonic() - began)
  return manifest


def _refuse_folders(*paths):
  """Raises a UserError where a folder has the name of a file to be written."""
  for path in filter(tf.io.gfile.isdir, paths):
    raise errors.UserError(
      f"{path} is a folder, where the file of that name is to be written:"
      " remove or rename it, or give another --cache_dir"
    )


_OWN_DIGEST = "sha256 of the other lines"


def _hash_manifest(manifest):
  """Returns the SHA-256 of a manifest without its own digest."""
  rest = {key: manifest[key] for key in manifest if key != _OWN_DIGEST}
  return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _report(manifest, path, seconds):
  """Logs how many examples were converted, cut and left out."""
  split = manifest["inputs"]["split"]
  records, truncated = manifest["records"], manifest["truncated"]
  logging.info(
    "%s: converted %s in %.1f s into %s",
    split,
    plain_texts.count(records),
    seconds,
    path,
  )
  if truncated:
    logging.info(
      "%s: %d of %s had over %d tokens (the longest %d) and lost %d in all",
      split,
      truncated,
      plain_texts.count(records),
      manifest["inputs"]["max_seq_length"],
      manifest["longest"],
      manifest["truncated_tokens"],
    )
  if manifest["blank"]:
    logging.info(
      "%s: %s left out for want of a text",
      split,
      plain_texts.count(manifest["blank"]),
    )
  _report_unknown(manifest)
  _report_doubt(manifest)


def _report_doubt(manifest):
  """Warns of what is odd about the labels of a training set."""
  if manifest.get("doubt"):
    logging.warning("%s", manifest["doubt"])


def _report_unknown(manifest):
  """Logs the share of [UNK] of a split, as a warning where it is large."""
  unknown, tokens = manifest.get("unknown"), manifest["tokens"]
  if unknown is None:  # a cache of the version before
    return
  split = manifest["inputs"]["split"]
  if unknown < MANY_UNKNOWN * tokens:
    share = 100 * unknown / max(tokens, 1)
    logging.info("%s: %.2f%% of the %d tokens are [UNK]", split, share, tokens)
  else:
    warn_of_unknown(split, unknown, tokens, manifest["unknown_words"])


def warn_of_unknown(name, unknown, tokens, words):
  """Warns where many tokens are [UNK].

  Args:
    name: of the texts.
    unknown, tokens: numbers of them.
    words: list of the commonest words that became [UNK].
  """
  if not unknown or unknown < MANY_UNKNOWN * tokens:
    return
  logging.warning(
    "%s: %.1f%% of the %d tokens are [UNK]: the model cannot tell these words"
    " apart. Commonest among them: %s. Are --vocab_file and --do_lower_case"
    " those of a model of this language?",
    name,
    100 * unknown / tokens,
    tokens,
    " ".join(words),
  )


def _usable_manifest(base):
  """Returns the manifest of a cached file; None where it is not usable."""
  manifest = _read_manifest(f"{base}.json")
  if manifest is None:
    return None
  path = f"{base}.tf_record"
  if not tf.io.gfile.exists(path) or tf.io.gfile.isdir(path):
    return None
  size = tf.io.gfile.stat(path).length
  if size != manifest["bytes"] or files.hash_file(path) != manifest["sha256"]:
    logging.warning(
      "%s is damaged (%s): converting anew",
      path,
      "its content changed"
      if size == manifest["bytes"]
      else f"{size} bytes, {manifest['bytes']} were written",
    )
    return None
  if manifest.get(_OWN_DIGEST) != _hash_manifest(manifest) and not (
    _is_of_the_version_before(manifest, path)
  ):
    logging.warning("%s.json is damaged: converting anew", base)
    return None
  return manifest


def _is_of_the_version_before(manifest, path):
  """Returns True for a manifest that has no digest, but numbers that are right.

  Args:
    manifest: the manifest.
    path: the records, which are whole.
  """
  numbers = ("records", "tokens", "blank", "truncated", "bytes")
  return (
    _OWN_DIGEST not in manifest
    and all(type(manifest[n]) is int and manifest[n] >= 0 for n in numbers)
    and manifest["records"] == _count_records(path)
  )


def _count_records(path):
  """Returns the number of records in a whole TFRecord file.

  The end of the last is among the offsets.
  """
  return sum(map(len, record_index.scan_offsets(path))) - 1


def _read_manifest(path):
  """Returns a manifest, or None where it is missing or broken."""
  keys = {"inputs", "records", "tokens", "blank", "truncated"}
  keys |= {"bytes", "sha256"}
  try:
    manifest = files.read_json(path)
  except tf.errors.OpError:  # another user's, or a folder
    return None
  if not isinstance(manifest, dict) or not keys <= manifest.keys():
    return None
  return manifest if isinstance(manifest["inputs"], dict) else None


# Inputs whose keys in the manifest say too little to a reader of the log.
_IN_WORDS = {"source": "the data file"}


def _explain(base, inputs):
  """Logs which inputs differ from those of the newest file of the same name."""
  folder, name = os.path.split(base)
  pattern = re.escape(name.rpartition("_")[0]) + r"_[0-9a-f]{12}\.json"
  paths = files.list_matching(folder, pattern)
  others = [(_modified(p), p) for p in paths if tf.io.gfile.exists(p)]
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
        "%s: not the features of %s, for these differ: %s",
        inputs["split"],
        path,
        ", ".join(_IN_WORDS.get(key, key) for key in differing),
      )
    return


def _modified(path):
  """Returns the time of a file's last change, in nanoseconds."""
  return tf.io.gfile.stat(path).mtime_nsec
