"""Reads the files of a world independently of the program.

By the rules that the documentation states, with Python and NumPy alone;
TensorFlow reads its own checkpoints, whose checksums it verifies.
"""

import json
from pathlib import Path
import re
import struct
from typing import NamedTuple
import unicodedata

import numpy as np
import tensorflow.compat.v1 as tf


class Refused(Exception):
  """There is nothing sensible to compute: says why."""


class Example(NamedTuple):
  """An example of a set: its ids, segments and label, and what is shown."""

  ids: tuple
  segments: tuple
  label: int
  shown: tuple  # of test_predictions.tsv: id, texts, perhaps gold


# ---------------------------------------------------------------------------
# Files


def read_bytes(path):
  try:
    return Path(path).read_bytes()
  except OSError as error:
    raise Refused(f"{path}: {error}") from error


def read_text(path):
  try:
    return read_bytes(path).decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise Refused(f"{path}: {error}") from error


def read_rows(path):
  """Returns the lines of a text, without their ends."""
  text = read_text(path)
  if "\n" not in text:
    text = text.replace("\r", "\n")
  return [re.sub(r"\r$", "", line) for line in text.split("\n")]


def read_object(path):
  try:
    value = json.loads(read_text(path))
  except (ValueError, RecursionError) as error:
    raise Refused(f"{path}: {error}") from error
  if not isinstance(value, dict):
    raise Refused(f"{path}: no object")
  return value


def read_vocabulary(path):
  """Returns {token: id}: of repeated lines the last counts."""
  text = read_text(path)
  lines = text.split("\n" if "\n" in text else "\r")
  if lines and not lines[-1]:
    lines.pop()
  vocabulary = {line.strip(): n for n, line in enumerate(lines)}
  for token in ("[UNK]", "[CLS]", "[SEP]"):
    if token not in vocabulary:
      raise Refused(f"{path} lacks {token}")
  return vocabulary


# ---------------------------------------------------------------------------
# Tokens and examples


class Tokenizer(NamedTuple):
  """WordPiece, as the documentation of the 2018 release describes it."""

  vocabulary: dict
  lower: bool = True
  strip_accents: object = None
  chinese: bool = True

  def ids(self, text):
    """Returns the list of the ids of a text."""
    return [
      self.vocabulary[piece]
      for word in self._words(text)
      for piece in self._pieces(word)
    ]

  def _words(self, text):
    cleaned = []
    for char in text:
      if char in "\t\n\r\u2028\u2029" or unicodedata.category(char) == "Zs":
        cleaned.append(" ")
      elif char in "\0\ufffd" or unicodedata.category(char) in ("Cc", "Cf"):
        continue
      elif self.chinese and _is_ideograph(ord(char)):
        cleaned.append(f" {char} ")
      else:
        cleaned.append(char)
    for word in "".join(cleaned).split(" "):
      if self.lower:
        word = word.lower()
      strip = self.strip_accents
      if self.lower if strip is None else strip:
        word = unicodedata.normalize("NFD", word)
        word = "".join(c for c in word if unicodedata.category(c) != "Mn")
      yield from re.sub(r"(.)", _set_apart, word, flags=re.DOTALL).split(" ")

  def _pieces(self, word):
    if not word:
      return []
    pieces, rest = [], word
    while rest and len(word) <= 200:
      prefix = "##" if pieces else ""
      for end in range(len(rest), 0, -1):
        if prefix + rest[:end] in self.vocabulary:
          pieces.append(prefix + rest[:end])
          rest = rest[end:]
          break
      else:
        break
    return ["[UNK]"] if rest else pieces


def _set_apart(match):
  char = match[0]
  ascii_symbol = 33 <= ord(char) <= 126 and not char.isalnum()
  if ascii_symbol or unicodedata.category(char).startswith("P"):
    return f" {char} "
  return char


def _is_ideograph(code):
  return (
    0x4E00 <= code <= 0x9FFF
    or 0x3400 <= code <= 0x4DBF
    or 0x20000 <= code <= 0x2CEAF
    and code != 0x2A6FF
    or 0xF900 <= code <= 0xFAFF
    or 0x2F800 <= code <= 0x2FA1F
  )


# For each task its labels and, for a training or dev set and for a test set,
# whether there is a header and the columns of text_a, text_b, label, id, gold.
_HASH = ("#1 String", "#2 String")
TASKS = {
  "cola": (
    ("0", "1"),
    (False, 3, None, 1, None, None),
    (True, "sentence", None, None, "index", None),
  ),
  "mrpc": (
    ("0", "1"),
    (True, *_HASH, "Quality", None, None),
    (True, *_HASH, None, "index", "Quality"),
  ),
  "own": (
    ("no", "maybe", "yes"),
    (True, "premise", "hypothesis", "answer", None, None),
    (True, "premise", "hypothesis", None, "id", "answer"),
  ),
}


def _show_label(cell, labels):
  """Returns the label of a cell: spaces around it do not count."""
  stripped = cell.strip(" ")
  return stripped if stripped in labels else cell


def read_examples(path, task, split, tokenizer, length):
  """Returns the list of `Example`s of a file.

  Raises:
    Refused: the file is not what the documentation allows.
  """
  labels, *tables = TASKS[task]
  header, *columns = tables[split == "test"]
  rows = [line.split("\t") for line in read_rows(path) if line]
  width = len(rows[0]) if rows else 0
  if header:
    names = rows.pop(0) if rows else []
    columns = _number_columns(path, names, columns)
  text_a, text_b, label, row_id, gold = columns
  needed = 1 + max(c for c in columns if c is not None)
  examples = []
  for number, row in enumerate(rows, start=header):
    if len(row) < needed or len(row) > width or not header and len(row) < width:
      raise Refused(f"{path}: a row of {len(row)} cells: {row!r:.60}")
    if label is not None and _show_label(row[label], labels) not in labels:
      raise Refused(f"{path}: the label {row[label]!r}")
    if split == "train" and not row[text_a].strip():
      continue
    texts = [row[text_a], "" if text_b is None else row[text_b]]
    shown = (
      f"{split}-{number}" if row_id is None else row[row_id],
      *texts,
      *([] if gold is None else [_show_label(row[gold], labels)]),
    )
    ids, segments = encode(texts, tokenizer, length)
    value = (
      0 if label is None else labels.index(_show_label(row[label], labels))
    )
    examples.append(Example(ids, segments, value, shown))
  if not examples:
    raise Refused(f"{path}: no examples")
  return examples


def _number_columns(path, names, columns):
  numbers = []
  for role, column in enumerate(columns):
    if column is not None and names.count(column) != 1:
      if names.count(column) or role < 3:
        raise Refused(f"{path}: {names.count(column)} columns {column!r}")
      column = None
    numbers.append(None if column is None else names.index(column))
  return numbers


def encode(texts, tokenizer, length):
  """Returns the ids and segments, unpadded, of a text or a pair."""
  first, second = map(tokenizer.ids, texts)
  if second:
    while len(first) + len(second) > length - 3:
      (first if len(first) > len(second) else second).pop()
  if not second:
    first = first[: length - 2]
  start, end = (tokenizer.vocabulary[t] for t in ("[CLS]", "[SEP]"))
  ids = [start, *first, end]
  segments = [0] * len(ids)
  if second:
    ids += [*second, end]
    segments += [1] * (len(second) + 1)
  return tuple(ids), tuple(segments)


# ---------------------------------------------------------------------------
# Weights


def read_safetensors(path):
  """Returns {their name: array}, by the format's own description."""
  data = read_bytes(path)
  try:
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size].decode())
    rest = data[8 + size :]
    tensors = {}
    used = 0
    for name, entry in header.items():
      if name == "__metadata__":
        continue
      begin, end = entry["data_offsets"]
      raw = rest[begin:end]
      used += end - begin
      tensors[name] = _tensor(raw, entry["dtype"], entry["shape"])
    if used != len(rest):
      raise ValueError("the data are longer or shorter")
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise Refused(f"{path}: {error!r}") from error
  except (struct.error, RecursionError) as error:
    raise Refused(f"{path}: {error!r}") from error
  return tensors


def _tensor(raw, kind, shape):
  if kind == "BF16":
    wide = np.frombuffer(raw, "<u2").astype(np.uint32) << 16
    return wide.view(np.float32).reshape(shape)
  types = dict(F64="<f8", F32="<f4", F16="<f2")
  if kind not in types:
    raise ValueError(f"the type {kind}")
  return np.frombuffer(raw, types[kind]).reshape(shape)


def rename_tensor(name):
  """Returns our name of a tensor of theirs, and whether it is transposed."""
  if name.startswith("classifier."):
    return {"classifier.weight": "output_weights"}.get(name, "output_bias"), 0
  if not name.startswith("bert."):
    name = f"bert.{name}"
  name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
  name = name.replace("LayerNorm.bias", "LayerNorm.beta")
  name = re.sub(r"(_embeddings)\.weight", r"\1", name)
  is_kernel = name.endswith(".weight")
  name = re.sub(r"\.weight$", ".kernel", name).replace("layer.", "layer_")
  return name.replace(".", "/"), is_kernel


def read_checkpoint(prefix):
  """Returns {name: array} of a checkpoint; TensorFlow checks its checksums."""
  try:
    reader = tf.train.load_checkpoint(str(prefix))
    names = reader.get_variable_to_shape_map()
    return {name: reader.get_tensor(name) for name in names}
  except Exception as error:  # TensorFlow raises many kinds
    raise Refused(f"{prefix}: {error!r:.200}") from error


def newest_checkpoint(folder):
  """Returns the prefix of a folder's newest checkpoint, None if there is none.

  A damaged state file does no harm beside a single checkpoint.

  Raises:
    Refused: the state file names none although there are some.
  """
  there = sorted(folder.glob("model.ckpt-*.index"))
  if not (folder / "checkpoint").exists() and not there:
    return None
  try:
    found = re.match(
      r'\s*model_checkpoint_path: "([^"\n]*)"\s*($|all_model|\n)',
      read_text(folder / "checkpoint"),
    )
  except Refused:
    found = None
  if not found and len(there) == 1:
    return there[0].with_suffix("")
  if not found:
    raise Refused(f"{folder}/checkpoint is damaged")
  prefix = folder / found[1].rpartition("/")[2]
  if not Path(f"{prefix}.index").exists():
    raise Refused(f"{prefix} is not there")
  return prefix
