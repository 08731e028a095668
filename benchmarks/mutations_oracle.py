"""What is right for a command in a world: an independent reading.

`read` says what a command must compute, or raises `Refused` where there is
nothing sensible to compute: a file that cannot be read, or files that do not
belong together by what they themselves say.
"""

import hashlib
import math
import re
from typing import NamedTuple

from mutations_reading import (
  TASKS,
  Refused,
  Tokenizer,
  newest_checkpoint,
  read_bytes,
  read_checkpoint,
  read_examples,
  read_object,
  read_safetensors,
  read_text,
  read_vocabulary,
  rename_tensor,
)
import numpy as np


def _words(text):
  return tuple(text.split())


class Reading(NamedTuple):
  """What a command must compute.

  Attributes:
    flags: dictionary of the flags' values, as strings.
    labels: names of the classes.
    config: dictionary of a BERT configuration.
    weights: {name: array} that the run begins with, slots included.
    first_step, steps: where training begins and ends; equal without training.
    examples: dictionary from split to list of `Example`.
    order: among how many examples a training that goes on shuffles, or None.
  """

  flags: dict
  labels: tuple
  config: dict
  weights: dict
  first_step: int
  steps: int
  examples: dict
  order: object

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
    variables = list_shapes(self.config, len(self.labels))
    for name in sorted(self.weights):
      if name not in variables and not re.search(r"adam_|global_step", name):
        continue
      # Wide enough for every type: a cast that keeps the value is none.
      value = np.asarray(self.weights[name])
      is_real = value.dtype.kind == "f"
      value = value.astype(np.float64) if is_real else value
      sha256.update(f"{name} {value.shape}".encode() + value.tobytes())
    return sha256.hexdigest()


_DECISIVE = _words(
  "do_train do_eval do_predict max_seq_length train_batch_size"
  " learning_rate num_train_epochs warmup_proportion seed eval_batch_size"
  " shuffle_buffer_size task_name"
)
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
_SWITCHES = _words(
  "do_train do_eval do_predict do_lower_case resume overwrite_output_dir"
  " allow_partial_init reinit_head skip_padding"
)
_STRINGS = _words(
  "task_name data_dir cache_dir init_checkpoint bert_config_file vocab_file"
  " output_dir xnli_language"
)

# ---------------------------------------------------------------------------
# Flags


def read_flags(world, arguments):
  """Returns {name: value} of a command, flagfiles included.

  Raises:
    Refused: a flag that there is not, or a value of another type or range.
  """
  flags = dict(_DEFAULTS)
  words = [word for a in arguments for word in _expand(world, a)]
  while words:
    word = words.pop(0)
    if word == "--" and not words:
      break
    name, equals, value = word[2 if word.startswith("--") else 1 :].partition(
      "="
    )
    if not word.startswith("-") or word == "--":
      raise Refused(f"the word {word!r}")
    if name in _SWITCHES and not equals:
      value = "true"
    elif name.startswith("no") and name[2:] in _SWITCHES and not equals:
      name, value = name[2:], "false"
    elif not equals:
      if not words:
        raise Refused(f"{word} has no value")
      value = words.pop(0)
    flags[name] = _parse_flag(name, value)
  _check_flags(flags)
  return flags


_WHAT = {"train": "train", "eval": "dev", "predict": "test"}


def _expand(world, word, above=()):
  """Returns the words that a word stands for: those of a flagfile."""
  name, _, file = word.partition("=")
  if name not in ("--flagfile", "-flagfile"):
    return [word]
  if file in above:
    return []  # it is read already
  lines = [line.strip() for line in read_text(world / file).splitlines()]
  return [
    inner
    for line in lines
    if line and not line.startswith(("#", "//"))
    for inner in _expand(world, line, (*above, file))
  ]


def _parse_flag(name, value):
  """Returns a value as all ways to write it are read."""
  try:
    if name in _WHOLE:
      return str(int(value, 16 if value.lower().startswith("0x") else 10))
    if name in _REAL:
      return str(float(value))
    if name in _SWITCHES:
      if value.lower() not in ("true", "t", "1", "false", "f", "0"):
        raise ValueError("no switch")
      return "true" if value.lower() in ("true", "t", "1") else "false"
    if name not in _STRINGS:
      raise ValueError("no such flag")
  except ValueError as error:
    raise Refused(f"--{name}={value}: {error}") from error
  return value


def _check_flags(flags):
  for name, low in _WHOLE.items():
    if name in flags and not low <= int(flags[name]) < 2**31:
      raise Refused(f"--{name}={flags[name]}")
  for name in _REAL:
    value = float(flags[name])
    share = name == "warmup_proportion"
    if not (0 <= value <= 1 if share else 0 < value < math.inf):
      raise Refused(f"--{name}={value}")
  for name in ("task_name", "data_dir", "output_dir"):
    if not flags.get(name):
      raise Refused(f"--{name} is missing")
  if not any(is_on(flags, f"do_{what}") for what in _WHAT):
    raise Refused("nothing to do")


def is_on(flags, name):
  return flags.get(name) == "true"


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
  labels = TASKS[task][0]
  out = world / flags["output_dir"]
  trained = newest_checkpoint(out)
  begin = flags.get("init_checkpoint")
  source, weights, beside = _open(world, begin)
  kind = "huggingface" if source and source.suffix == ".safetensors" else None
  manifest = _read_manifest(out) if trained else _read_manifest_of(source)
  config_name = "config.json" if kind else "bert_config.json"
  config_path = _choose(world, flags, "bert_config_file", beside, config_name)
  vocab_path = _choose(world, flags, "vocab_file", beside, "vocab.txt")
  config = read_config(config_path, kind)
  vocabulary = read_vocabulary(vocab_path)
  _check_vocabulary(vocab_path, vocabulary, config)
  tokenizer = _choose_tokenizer(vocabulary, beside, manifest, flags)
  if trained:
    weights = read_checkpoint(trained)
  else:
    head = _compare_head(beside, kind, labels, weights)
    weights = _take_head(head, weights, flags)
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
  settings = {
    "task_name": task,
    "labels": list(labels),
    "do_lower_case": tokenizer.lower,
    "vocabulary (SHA-256)": hashlib.sha256(read_bytes(vocab_path)).hexdigest(),
    **{key: config[key] for key in _CONFIG},
  }
  if trained:  # else it may differ
    settings["max_seq_length"] = length
  _compare_manifest(manifest.get("model", {}), settings)
  steps = first
  if is_on(flags, "do_train"):
    steps = _count_steps(flags, examples["train"])
    if trained:
      _compare_manifest(
        manifest.get("training", {}),
        _training_settings(flags, source, data, manifest),
      )
  goes_on = trained and steps > first
  order = _read_order(manifest, examples) if goes_on else None
  return Reading(flags, labels, config, weights, first, steps, examples, order)


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
    name, is_kernel = rename_tensor(name)
    weights[name] = value.T if is_kernel else value
  return path, weights, path.parent


def _read_manifest_of(checkpoint):
  """Returns the manifest beside a run's own checkpoint, {} of any other."""
  if checkpoint and re.fullmatch(r"model\.ckpt-\d+", checkpoint.name):
    return _read_manifest(checkpoint.parent)
  return {}


def _take_head(head, weights, flags):
  """Returns the weights, with the head that is computed with, if any.

  Args:
    head: what `_compare_head` gives.

  Raises:
    Refused: it is of another task, and nothing is trained.
  """
  if head == "another":
    if not is_on(flags, "do_train"):
      raise Refused("the head is of another task")
    return {n: w for n, w in weights.items() if not n.startswith("output")}
  if head:
    names = ("output_weights", "output_bias")
    return {**weights, **{name: weights[name][head] for name in names}}
  return weights


def _choose(world, flags, flag, beside, name):
  if flags.get(flag):
    return world / flags[flag]
  if beside and (beside / name).exists():
    return beside / name
  # A run's own folder has copies under the names of a released one.
  name = "bert_config.json" if name == "config.json" else name
  return world / flags["output_dir"] / name


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
  given = read_object(path)
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
    said = read_object(beside / "tokenizer_config.json")
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
  config = read_object(beside / "config.json")
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
  if not path.exists():
    return {}
  settings = read_object(path).get("settings")
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


def _read_order(manifest, examples):
  """Returns among how many examples in memory a training goes on, or None.

  None for a training that shuffles the whole set, which it does not hold.
  """
  order = manifest.get("order", {})
  if repr(order.get("permutation", 1)) != "1":
    raise Refused(f"the manifest says permutation {order['permutation']!r}")
  number = order.get("buffer_rows")
  if number is None:
    return None
  if not isinstance(number, int) or isinstance(number, bool) or number < 1:
    raise Refused(f"the manifest says buffer_rows {number!r}")
  return min(number, len(examples["train"]))


def _training_settings(flags, source, data, manifest):
  """Returns the settings of a training that goes on, as the manifest has it."""
  settings = {
    name: float(flags[name]) if name in _REAL else int(flags[name])
    for name in (*_REAL, "train_batch_size", "seed")
  }
  before = manifest.get("training", {}).get("num_train_epochs", 0)
  if isinstance(before, (int, float)) and settings["num_train_epochs"] > before:
    del settings["num_train_epochs"]
  train = hashlib.sha256(read_bytes(data / "train.tsv")).hexdigest()
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
