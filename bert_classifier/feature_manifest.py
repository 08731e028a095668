"""The manifest of a split's features: of what they are made, and how many.

It is written after the records and makes them valid. It has all that they were
made of, their numbers, their digest and its own, so that features are used
again only if they are whole and what a run would make.
"""

import hashlib
import json
import os
import re

from absl import logging
import tensorflow.compat.v1 as tf

from bert_classifier import files, plain_texts, record_index

# Share of [UNK] from which on the vocabulary is not that of the language. Of
# English texts in the English vocabularies less than one token in 1000 is.
MANY_UNKNOWN = 0.03
_OWN_DIGEST = "sha256 of the other lines"


def _hash_manifest(manifest):
  """Returns the SHA-256 of a manifest without its own digest."""
  rest = {key: manifest[key] for key in manifest if key != _OWN_DIGEST}
  return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def write(manifest, base):
  """Writes a manifest, which makes the records beside it valid.

  Args:
    manifest: dictionary, which gets the digest of itself.
    base: path of both files without ending.
  """
  manifest[_OWN_DIGEST] = _hash_manifest(manifest)
  files.write_json(f"{base}.json", manifest)


def report_found(manifest, path):
  """Logs that records were there, and what is odd about them.

  Args:
    manifest: theirs.
    path: of the records.
  """
  logging.info(
    "%s: %s, converted before, in %s",
    manifest["inputs"]["split"],
    _describe_examples(manifest),
    path,
  )
  _report_unknown(manifest)
  _report_doubt(manifest)


def report(manifest, path, seconds):
  """Logs how many examples were converted, cut and left out."""
  split = manifest["inputs"]["split"]
  truncated = manifest["truncated"]
  examples = manifest.get("examples", manifest["records"])
  logging.info(
    "%s: converted %s in %.1f s into %s",
    split,
    _describe_examples(manifest),
    seconds,
    path,
  )
  if manifest.get("windowed"):
    logging.info(
      "%s: %d of %s had over %d tokens (the longest %d) and are in windows",
      split,
      manifest["windowed"],
      plain_texts.count(examples),
      manifest["inputs"]["max_seq_length"],
      manifest["longest"],
    )
  if truncated:
    logging.info(
      "%s: %d of %s had over %d tokens (the longest %d) and lost %d in all",
      split,
      truncated,
      plain_texts.count(examples),
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


def _describe_examples(manifest):
  """Returns the numbers of examples and, where there are some, of windows."""
  records = manifest["records"]
  if "examples" not in manifest:
    return plain_texts.count(records)
  examples = plain_texts.count(manifest["examples"])
  return f"{examples}, {plain_texts.count(records, 'window')}"


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


def read(base):
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


def explain_difference(base, inputs):
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
