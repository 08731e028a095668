"""What is right for a command in a world: an independent reading.

Reads the files again by the rules that the documentation states, in its own
way and with Python and NumPy alone, TensorFlow's checkpoints aside, whose
checksums TensorFlow verifies. `read` says what a command must compute, or raises
`Refused` where there is nothing sensible to compute. `check` holds what the
program wrote against that: the training features it used, steps, how far the
weights moved, and every number of the results, by a BERT in NumPy.

Axis letters: B batch, S sequence, H hidden, N heads, L labels.
"""

import hashlib
import json
import math
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


class Reading(NamedTuple):
  """What a command must compute.

  Attributes:
    flags: dictionary of the flags' values, as strings.
    labels: names of the classes.
    config: dictionary of a BERT configuration.
    weights: {name: array} that the run begins with, slots included.
    first_step, steps: where training begins and ends; equal without training.
    examples: dictionary from split to list of `Example`.
    order: what the manifest of a run that goes on says of the order.
    unsure: reasons why a refusal would be right as well.
  """

  flags: dict
  labels: tuple
  config: dict
  weights: dict
  first_step: int
  steps: int
  examples: dict
  order: object
  unsure: list

  def meaning(self):
    """Returns a digest of all that decides the results."""
    sha256 = hashlib.sha256()
    decisive = {k: v for k, v in self.flags.items() if k in _DECISIVE}
    config = {k: self.config.get(k) for k in _CONFIG}
    examples = {
      split: [e if split != "train" else e[:3] for e in examples]
      for split, examples in self.examples.items()
    }
    said = (decisive, self.labels, config, self.first_step, self.steps)
    sha256.update(repr((said, examples, self.order)).encode())
    for name in sorted(self.weights):
      sha256.update(name.encode() + self.weights[name].tobytes())
    return sha256.hexdigest()


_DECISIVE = (
  "do_train do_eval do_predict max_seq_length train_batch_size learning_rate"
  " num_train_epochs warmup_proportion seed eval_batch_size"
  " shuffle_buffer_size task_name"
).split()
_DEFAULTS = dict(
  max_seq_length="128",
  train_batch_size="32",
  learning_rate="5e-5",
  num_train_epochs="3.0",
  warmup_proportion="0.1",
  seed="42",
  eval_batch_size="8",
  predict_batch_size="8",
  do_train="false",
  do_eval="false",
  do_predict="false",
  do_lower_case="true",
  num_threads="0",
)
_WHOLE = {
  **dict(max_seq_length=3, train_batch_size=1, eval_batch_size=1, seed=0),
  **dict(predict_batch_size=1, num_threads=0, save_checkpoints_steps=1),
  **dict(keep_checkpoint_max=0, log_steps=1, shuffle_buffer_size=1),
}
_REAL = ("learning_rate", "num_train_epochs", "warmup_proportion")
_SWITCHES = (
  "do_train do_eval do_predict do_lower_case resume overwrite_output_dir"
  " allow_partial_init reinit_head skip_padding"
).split()
_STRINGS = (
  "task_name data_dir cache_dir init_checkpoint bert_config_file vocab_file"
  " output_dir xnli_language"
).split()

# ---------------------------------------------------------------------------
# Flags


def read_flags(world, arguments):
  """Returns {name: value} of a command, flagfiles included.

  Raises:
    Refused: a flag that there is not, or a value of another type or range.
  """
  flags, given = dict(_DEFAULTS), {}
  words = [word for a in arguments for word in _expand(world, a)]
  while words:
    word = words.pop(0)
    name, equals, value = word.lstrip("-").partition("=")
    if not word.startswith("-"):
      raise Refused(f"the word {word!r}")
    if name in _SWITCHES and not equals:
      value = "true"
    elif name.startswith("no") and name[2:] in _SWITCHES and not equals:
      name, value = name[2:], "false"
    elif not equals:
      if not words:
        raise Refused(f"{word} has no value")
      value = words.pop(0)
    given[name] = _checked_flag(name, value)
  flags.update(given)
  for name in ("task_name", "data_dir", "output_dir"):
    if not flags.get(name):
      raise Refused(f"--{name} is missing")
  if not any(is_on(flags, f"do_{what}") for what in _WHAT):
    raise Refused("nothing to do")
  return flags


_WHAT = {"train": "train", "eval": "dev", "predict": "test"}


def _expand(world, word):
  if not word.startswith("--flagfile="):
    return [word]
  path = world / word.partition("=")[2]
  lines = _text(path).splitlines()
  return [
    line.strip()
    for line in lines
    if line.strip() and not line.strip().startswith(("#", "//"))
  ]


def _checked_flag(name, value):
  try:
    if name in _WHOLE:
      if int(value) < _WHOLE[name]:
        raise ValueError("too small")
    elif name in _REAL:
      number = float(value)
      high = 1 if name == "warmup_proportion" else math.inf
      if not 0 <= number <= high or number == math.inf:
        raise ValueError("out of range")
      if not number and name != "warmup_proportion":
        raise ValueError("zero")
    elif name in _SWITCHES:
      if value.lower() not in ("true", "t", "1", "false", "f", "0"):
        raise ValueError("no switch")
      return "true" if value.lower() in ("true", "t", "1") else "false"
    elif name not in _STRINGS:
      raise ValueError("no such flag")
  except ValueError as error:
    raise Refused(f"--{name}={value}: {error}") from error
  return value


def is_on(flags, name):
  return flags.get(name) == "true"


# ---------------------------------------------------------------------------
# Files


def _bytes(path):
  try:
    return Path(path).read_bytes()
  except OSError as error:
    raise Refused(f"{path}: {error}") from error


def _text(path):
  try:
    return _bytes(path).decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise Refused(f"{path}: {error}") from error


def _lines(path):
  """Returns the lines of a text, without their ends."""
  text = _text(path)
  if "\n" not in text:
    text = text.replace("\r", "\n")
  return [re.sub(r"\r$", "", line) for line in text.split("\n")]


def _json(path):
  try:
    value = json.loads(_text(path))
  except (ValueError, RecursionError) as error:
    raise Refused(f"{path}: {error}") from error
  if not isinstance(value, dict):
    raise Refused(f"{path}: no object")
  return value


def read_vocabulary(path):
  """Returns {token: id}: of repeated lines the last counts."""
  text = _text(path)
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


def read_examples(path, task, split, tokenizer, length):
  """Returns the list of `Example`s of a file.

  Raises:
    Refused: the file is not what the documentation allows.
  """
  labels, *tables = TASKS[task]
  header, *columns = tables[split == "test"]
  rows = [line.split("\t") for line in _lines(path) if line]
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
    if label is not None and row[label] not in labels:
      raise Refused(f"{path}: the label {row[label]!r}")
    if split == "train" and not row[text_a].strip():
      continue
    texts = [row[text_a], "" if text_b is None else row[text_b]]
    shown = (
      f"{split}-{number}" if row_id is None else row[row_id],
      *texts,
      *([] if gold is None else [row[gold]]),
    )
    ids, segments = encode(texts, tokenizer, length)
    value = 0 if label is None else labels.index(row[label])
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
  data = _bytes(path)
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


def _rename(name):
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

  Raises:
    Refused: the state file names none although there are some.
  """
  there = sorted(folder.glob("model.ckpt-*.index"))
  if not (folder / "checkpoint").exists() and not there:
    return None
  found = re.match(
    r'\s*model_checkpoint_path: "([^"\n]*)"\s*($|all_model|\n)',
    _text(folder / "checkpoint"),
  )
  if not found:
    raise Refused(f"{folder}/checkpoint is damaged")
  prefix = folder / found[1].rpartition("/")[2]
  if not Path(f"{prefix}.index").exists():
    raise Refused(f"{prefix} is not there")
  return prefix


# ---------------------------------------------------------------------------
# A command


def read(world, arguments):
  """Returns the `Reading` of a command.

  Args:
    world: `Path` of the folder that it runs in.
    arguments: its flags.

  Raises:
    Refused: it must end with an error.
  """
  flags = read_flags(world, arguments)
  task = flags["task_name"].lower()
  if task not in TASKS:
    raise Refused(f"there is no task {task}")
  labels, unsure = TASKS[task][0], []
  out = world / flags["output_dir"]
  trained = newest_checkpoint(out)
  begin = flags.get("init_checkpoint")
  source, weights, beside = _open(world, begin)
  kind = "huggingface" if source and source.suffix == ".safetensors" else None
  manifest = {}
  if trained:
    manifest = _read_manifest(out)
  elif source and re.fullmatch(r"model\.ckpt-\d+", source.name):
    manifest = _read_manifest(source.parent)
  config_name = "config.json" if kind else "bert_config.json"
  config_path = _choose(world, flags, "bert_config_file", beside, config_name)
  vocab_path = _choose(world, flags, "vocab_file", beside, "vocab.txt")
  config = read_config(config_path, kind)
  vocabulary = read_vocabulary(vocab_path)
  _check_vocabulary(vocab_path, vocabulary, config)
  tokenizer = _choose_tokenizer(vocabulary, beside, manifest, flags)
  if trained:
    weights = read_checkpoint(trained)
  head = None if trained else _compare_head(beside, kind, labels, weights)
  if head == "another" and not is_on(flags, "do_train"):
    raise Refused("the head is of another task")
  if head == "another":
    weights = {n: w for n, w in weights.items() if not n.startswith("output")}
  elif head:
    for name in ("output_weights", "output_bias"):
      weights[name] = weights[name][head]
  _check_weights(weights, config, len(labels), flags, trained, source)
  length = int(flags["max_seq_length"])
  if length > config["max_position_embeddings"]:
    raise Refused("the length is over max_position_embeddings")
  if length < 5 and task != "cola":
    raise Refused("too short for pairs")
  data = world / flags["data_dir"]
  examples = {
    split: read_examples(data / f"{split}.tsv", task, split, tokenizer, length)
    for what, split in _WHAT.items()
    if is_on(flags, f"do_{what}")
  }
  first = int(trained.name.rpartition("-")[2]) if trained else 0
  settings = dict(
    task_name=task,
    labels=list(labels),
    max_seq_length=length,
    do_lower_case=tokenizer.lower,
    **{"vocabulary (SHA-256)": hashlib.sha256(_bytes(vocab_path)).hexdigest()},
    **{key: config[key] for key in _CONFIG},
  )
  if not trained:
    del settings["max_seq_length"]  # which may differ
  _compare_manifest(manifest.get("model", {}), settings)
  steps = first
  if is_on(flags, "do_train"):
    steps = _count_steps(flags, examples["train"])
    if trained:
      _compare_manifest(
        manifest.get("training", {}),
        _training_settings(flags, source, data, manifest),
      )
  order = manifest.get("order") if steps > first and trained else None
  return Reading(
    flags, labels, config, weights, first, steps, examples, order, unsure
  )


def _open(world, begin):
  """Returns path, {name: array} and folder of init_checkpoint."""
  if not begin:
    return None, {}, None
  path = world / begin
  if path.is_dir():
    for name in ("bert_model.ckpt", "model.safetensors"):
      if list(path.glob(f"{name}*")):
        path = path / name
        break
    else:
      path = newest_checkpoint(path)
      if path is None:
        raise Refused(f"{begin} holds no checkpoint")
  if path.suffix != ".safetensors":
    return path, read_checkpoint(path), path.parent
  weights = {}
  for name, value in read_safetensors(path).items():
    name, is_kernel = _rename(name)
    weights[name] = value.T if is_kernel else value
  return path, weights, path.parent


def _choose(world, flags, flag, beside, name):
  if flags.get(flag):
    return world / flags[flag]
  if beside and (beside / name).exists():
    return beside / name
  return world / flags["output_dir"] / name.replace("config.json", _OURS)


_OURS = "bert_config.json"


_CONFIG = {
  "vocab_size": None,
  "hidden_size": 768,
  "num_hidden_layers": 12,
  "num_attention_heads": 12,
  "intermediate_size": 3072,
  "hidden_act": "gelu",
  "hidden_dropout_prob": 0.1,
  "attention_probs_dropout_prob": 0.1,
  "max_position_embeddings": 512,
  "type_vocab_size": 16,
  "initializer_range": 0.02,
}
_ACTIVATIONS = ("gelu", "gelu_erf", "gelu_new", "relu", "tanh", "linear")


def read_config(path, kind):
  """Returns the configuration, defaults filled in, its activation by kind."""
  given = _json(path)
  config = {key: given.get(key, value) for key, value in _CONFIG.items()}
  for key, value in config.items():
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if key == "hidden_act":
      if value is None:
        config[key] = value = "linear"
      if not isinstance(value, str) or value.lower() not in (
        *_ACTIVATIONS,
        "none",
        "",
      ):
        raise Refused(f"{path}: {key} {value!r}")
    elif key.endswith("prob"):
      if not is_number or not 0 <= value < 1:
        raise Refused(f"{path}: {key} {value!r}")
    elif key == "initializer_range":
      if not is_number or not 0 <= value < math.inf:
        raise Refused(f"{path}: {key} {value!r}")
    elif not is_number or isinstance(value, float) or value < 0:
      raise Refused(f"{path}: {key} {value!r}")
  for key, value in (
    ("model_type", "bert"),
    ("position_embedding_type", "absolute"),
    ("is_decoder", False),
  ):
    if given.get(key, value) != value:
      raise Refused(f"{path}: {key} {given[key]!r}")
  heads = config["num_attention_heads"]
  if not heads or config["hidden_size"] % heads:
    raise Refused(f"{path}: {heads} heads")
  is_theirs = kind == "huggingface" or kind is None and "model_type" in given
  if config["hidden_act"].lower() == "gelu" and is_theirs:
    config["hidden_act"] = "gelu_erf"
  config["layer_norm_eps"] = given.get("layer_norm_eps", 1e-12)
  return config


def _check_vocabulary(path, vocabulary, config):
  if max(vocabulary.values()) >= config["vocab_size"]:
    raise Refused(f"{path}: more tokens than vocab_size")


def _choose_tokenizer(vocabulary, beside, manifest, flags):
  """Returns the `Tokenizer`: the manifest decides, or the tokenizer's file."""
  said = manifest.get("model", {})
  if not manifest and beside and (beside / "tokenizer_config.json").exists():
    said = _json(beside / "tokenizer_config.json")
  names = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")
  values = [
    said.get(name, default)
    for name, default in zip(names, (is_on(flags, names[0]), None, True))
  ]
  for name, value in zip(names, values):
    allowed = value is None and name == "strip_accents"
    if not isinstance(value, bool) and not allowed:
      raise Refused(f"{name} is {value!r}")
  return Tokenizer(vocabulary, *values)


def _compare_head(beside, kind, labels, weights):
  """Returns None, "another", or the rows of a head in the labels' order."""
  if kind != "huggingface" or "output_weights" not in weights:
    return None
  config = _json(beside / "config.json")
  kinds = config.get("architectures") or []
  if not isinstance(kinds, list):
    raise Refused("architectures is no list")
  if kinds and not any("ForSequenceClassification" in str(k) for k in kinds):
    return "another"
  if config.get("problem_type", "single_label_classification") not in (
    None,
    "single_label_classification",
  ):
    return "another"
  names = config.get("id2label")
  if names is None and isinstance(config.get("label2id"), dict):
    names = {row: label for label, row in config["label2id"].items()}
  if not names:
    return None
  try:
    names = {int(row): str(label).casefold() for row, label in names.items()}
    names = [names[row] for row in range(len(names))]
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise Refused(f"id2label: {error!r}") from error
  if all(re.fullmatch(r"label_\d+", name) for name in names):
    return None
  if len(set(names)) < len(names):
    raise Refused("id2label has a name twice")
  if sorted(names) != sorted(label.casefold() for label in labels):
    return "another"
  return [names.index(label.casefold()) for label in labels]


def list_shapes(config, labels):
  """Returns {name: shape} of the variables of a model."""
  h, f = config["hidden_size"], config["intermediate_size"]
  shapes = {
    "bert/embeddings/word_embeddings": (config["vocab_size"], h),
    "bert/embeddings/position_embeddings": (
      config["max_position_embeddings"],
      h,
    ),
    "bert/embeddings/token_type_embeddings": (config["type_vocab_size"], h),
    "bert/embeddings/LayerNorm/beta": (h,),
    "bert/embeddings/LayerNorm/gamma": (h,),
    "bert/pooler/dense/kernel": (h, h),
    "bert/pooler/dense/bias": (h,),
    "output_weights": (labels, h),
    "output_bias": (labels,),
  }
  for layer in range(min(config["num_hidden_layers"], 100)):
    scope = f"bert/encoder/layer_{layer}/"
    for name, wide, out in (
      *((f"attention/self/{n}", h, h) for n in ("query", "key", "value")),
      ("attention/output/dense", h, h),
      ("intermediate/dense", h, f),
      ("output/dense", f, h),
    ):
      shapes[f"{scope}{name}/kernel"] = (wide, out)
      shapes[f"{scope}{name}/bias"] = (out,)
    for name in ("attention/output", "output"):
      shapes[f"{scope}{name}/LayerNorm/beta"] = (h,)
      shapes[f"{scope}{name}/LayerNorm/gamma"] = (h,)
  return shapes


def _check_weights(weights, config, labels, flags, trained, source):
  shapes = list_shapes(config, labels)
  if math.prod(map(float, shapes["bert/embeddings/word_embeddings"])) > 1e9:
    raise Refused("vocab_size is beyond the memory")
  size = max(config["hidden_size"], config["intermediate_size"])
  size = max(size, config["max_position_embeddings"], config["type_vocab_size"])
  if size > 1e8 or config["num_hidden_layers"] > 99:
    raise Refused("the sizes are beyond the memory")
  if not trained and not source:
    if not is_on(flags, "do_train"):
      raise Refused("no weights")
    return
  for name, shape in shapes.items():
    is_head = name.startswith("output_")
    if name not in weights:
      if is_head and is_on(flags, "do_train") and not trained:
        continue
      raise Refused(f"the weights lack {name}")
    if weights[name].shape != shape:
      raise Refused(f"{name} is {weights[name].shape}, not {shape}")
  layers = [re.search(r"encoder/layer_(\d+)/", name) for name in weights]
  deepest = max([int(found[1]) for found in layers if found], default=-1)
  if deepest >= config["num_hidden_layers"]:
    raise Refused("the weights have more layers")


def _read_manifest(folder):
  path = folder / "run_manifest.json"
  if not path.exists() and not path.is_symlink():
    return {}
  settings = _json(path).get("settings")
  if not isinstance(settings, dict):
    raise Refused(f"{path}: no settings")
  for phase in settings.values():
    if not isinstance(phase, dict):
      raise Refused(f"{path}: {phase!r}")
  return settings


def _compare_manifest(said, right):
  for name, value in right.items():
    if said.get(name, value) != value:
      raise Refused(f"the manifest says {name} {said[name]!r}")


def _training_settings(flags, source, data, manifest):
  """Returns the settings of a training that goes on, as the manifest has it."""
  settings = {
    name: float(flags[name]) if name in _REAL else int(flags[name])
    for name in (*_REAL, "train_batch_size", "seed")
  }
  before = manifest.get("training", {}).get("num_train_epochs", 0)
  if isinstance(before, (int, float)) and settings["num_train_epochs"] > before:
    del settings["num_train_epochs"]
  train = hashlib.sha256(_bytes(data / "train.tsv")).hexdigest()
  settings["training data (SHA-256)"] = train
  if source:
    settings["init_checkpoint"] = str(source.resolve())
  return settings


def _count_steps(flags, examples):
  batch, epochs = int(flags["train_batch_size"]), flags["num_train_epochs"]
  steps = int(len(examples) / batch * float(epochs))
  if not steps:
    raise Refused("less than one step")
  return steps
