"""Weights from elsewhere into variables: TensorFlow and Hugging Face.

Every source becomes the prefix of a TensorFlow checkpoint, since that is what
`tf.train.init_from_checkpoint`, distribution strategies and a TPU's scaffold_fn
read. What it covers is told by names and shapes, before a weight is read:

  checkpoint = open_checkpoint("uncased_L-12_H-768_A-12")
  coverage = checkpoint.coverage(model_variables(config, num_labels=2))
  coverage = coverage.accept()              # or a ValueError that says why not
  coverage.log()
  prefix = checkpoint.as_tensorflow(folder)
  tf.train.init_from_checkpoint(prefix, ...)  # for names in coverage.loaded

`VARIABLES` is the one place that knows both names of a variable.

Axis letters: V vocabulary, P positions, Y token types, H hidden, F
feed-forward, L labels.
"""

import atexit
import dataclasses
import functools
import json
import os
import re
import shutil
import tempfile
from typing import NamedTuple, Optional

from absl import logging
import numpy as np
import tensorflow.compat.v1 as tf

# ---------------------------------------------------------------------------
# The variables under both of their names


class Variable(NamedTuple):
  """One variable: `{}` in its names stands for the number of the layer.

  Kernels have their axes the other way round at Hugging Face.
  """

  name: str
  hugging_face: str
  axes: str

  @property
  def is_transposed(self):
    return self.name.endswith("/kernel")

  def in_layer(self, number):
    return Variable(
      self.name.format(number), self.hugging_face.format(number), self.axes
    )


def _rows(scope, hugging_face_scope, table):
  rows = (line.split() for line in table.strip().splitlines())
  return [
    Variable(scope + name, hugging_face_scope + other, axes)
    for name, other, axes in rows
  ]


VARIABLES = (
  *_rows(
    "bert/embeddings/",
    "bert.embeddings.",
    """
    word_embeddings          word_embeddings.weight          VH
    position_embeddings      position_embeddings.weight      PH
    token_type_embeddings    token_type_embeddings.weight    YH
    LayerNorm/beta           LayerNorm.bias                  H
    LayerNorm/gamma          LayerNorm.weight                H
    """,
  ),
  *_rows(
    "bert/encoder/layer_{}/",
    "bert.encoder.layer.{}.",
    """
    attention/self/query/kernel       attention.self.query.weight        HH
    attention/self/query/bias         attention.self.query.bias          H
    attention/self/key/kernel         attention.self.key.weight          HH
    attention/self/key/bias           attention.self.key.bias            H
    attention/self/value/kernel       attention.self.value.weight        HH
    attention/self/value/bias         attention.self.value.bias          H
    attention/output/dense/kernel     attention.output.dense.weight      HH
    attention/output/dense/bias       attention.output.dense.bias        H
    attention/output/LayerNorm/beta   attention.output.LayerNorm.bias    H
    attention/output/LayerNorm/gamma  attention.output.LayerNorm.weight  H
    intermediate/dense/kernel         intermediate.dense.weight          HF
    intermediate/dense/bias           intermediate.dense.bias            F
    output/dense/kernel               output.dense.weight                FH
    output/dense/bias                 output.dense.bias                  H
    output/LayerNorm/beta             output.LayerNorm.bias              H
    output/LayerNorm/gamma            output.LayerNorm.weight            H
    """,
  ),
  *_rows(
    "bert/pooler/dense/",
    "bert.pooler.dense.",
    """
    kernel    weight    HH
    bias      bias      H
    """,
  ),
  *_rows(
    "",
    "classifier.",
    """
    output_weights    weight    LH
    output_bias       bias      L
    """,
  ),
)
HEAD = ("output_weights", "output_bias")

_BY_NAME = {row.name: row for row in VARIABLES}
_BY_HUGGING_FACE = {row.hugging_face: row for row in VARIABLES}
_CONFIG_KEYS = {
  "V": "vocab_size",
  "P": "max_position_embeddings",
  "Y": "type_vocab_size",
  "H": "hidden_size",
  "F": "intermediate_size",
}
_LAYER_NUMBER = re.compile(r"(?<=\blayer[_.])\d+")


def variable_table(num_hidden_layers):
  """The rows of `VARIABLES` for that many layers, numbers filled in."""
  return [
    row.in_layer(number)
    for row in VARIABLES
    for number in (range(num_hidden_layers) if "{}" in row.name else [None])
  ]


def model_variables(config, num_labels):
  """{name: shape} of every variable of encoder, pooler and head.

  Args:
    config: an object with the attributes of `modeling.BertConfig`.
    num_labels: L.
  """
  sizes = {axis: getattr(config, key) for axis, key in _CONFIG_KEYS.items()}
  sizes["L"] = num_labels
  return {
    row.name: tuple(sizes[axis] for axis in row.axes)
    for row in variable_table(config.num_hidden_layers)
  }


def _look_up(name, table):
  """The row of that name, its layer filled in; None for a foreign name."""
  number = _LAYER_NUMBER.search(name)
  row = table.get(_LAYER_NUMBER.sub("{}", name, count=1))
  return row.in_layer(number.group()) if row and number else row


def _from_hugging_face(name):
  """The row for a name in their files, in whichever of its forms; or None."""
  if not name.startswith(("bert.", "classifier.")):
    name = "bert." + name  # files of a bare encoder
  name = name.replace("LayerNorm.gamma", "LayerNorm.weight")
  name = name.replace("LayerNorm.beta", "LayerNorm.bias")
  return _look_up(name, _BY_HUGGING_FACE)


# ---------------------------------------------------------------------------
# What a checkpoint holds, and what of it a model takes

_SLOT = re.compile(
  r"/(adam_m|adam_v|Adam|Adam_1)$"
  r"|^(global_step|beta[12]_power|current_loss_scale|good_steps)$"
)


def is_optimizer_slot(name):
  """Whether the variable is the optimizer's or the run's, not the model's."""
  return _SLOT.search(name) is not None


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """Names and shapes in a file of weights; made by `open_checkpoint`.

  Attributes:
    path: prefix of a TensorFlow checkpoint, or the safetensors file.
    kind: "tensorflow" or "huggingface".
    shapes: {name: shape}, under TensorFlow's name and in its order of axes;
      under its own name what is no variable of this model.
    config_file, vocab_file: the ones that lie beside it, or None.
  """

  path: str
  kind: str
  shapes: dict
  config_file: Optional[str] = None
  vocab_file: Optional[str] = None
  _sources: dict = dataclasses.field(default_factory=dict, repr=False)

  def coverage(self, variables):
    """Compares with {name: shape} of a model: a `Coverage`."""
    here = {name: tuple(shape) for name, shape in variables.items()}
    there = self.shapes
    shared = [name for name in here if name in there]
    return Coverage(
      checkpoint=self,
      loaded=tuple(n for n in shared if there[n] == here[n]),
      missing=tuple(n for n in here if n not in there),
      unused=tuple(n for n in there if n not in here),
      mismatched=tuple(
        (n, there[n], here[n]) for n in shared if there[n] != here[n]
      ),
    )

  def as_tensorflow(self, folder):
    """The prefix of a TensorFlow checkpoint with these weights.

    A TensorFlow checkpoint is its own. Of any other, the variables of the
    model are written as float32 to `converted.ckpt` in `folder`, which is made
    if need be; memory holds the file once.
    """
    if self.kind == "tensorflow":
      return self.path
    tf.io.gfile.makedirs(folder)
    prefix = os.path.join(folder, "converted.ckpt")
    # Read inside the graph: as constants the weights could not pass 2 GB, and
    # fed they would be held twice. A GPU would be claimed for nothing.
    on_cpu = tf.ConfigProto(device_count={"GPU": 0})
    with tf.Graph().as_default(), tf.Session(config=on_cpu) as session:
      readers = [
        functools.partial(_read_weight, *source)
        for source in self._sources.values()
      ]
      tensors = [tf.numpy_function(read, [], tf.float32) for read in readers]
      save = tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=list(self._sources),
        shape_and_slices=[""] * len(tensors),
        tensors=tensors,
      )
      session.run(save)
    return prefix


@dataclasses.dataclass(frozen=True)
class Coverage:
  """What of a model's variables a checkpoint initializes.

  Attributes:
    checkpoint: the `Checkpoint`.
    loaded: names that it initializes.
    missing: names that it lacks, which start fresh.
    unused: names in it that the model lacks.
    mismatched: (name, shape there, shape here), which start fresh too.
    left_out: names of a head that is in it, but starts fresh nevertheless.
  """

  checkpoint: Checkpoint
  loaded: tuple
  missing: tuple
  unused: tuple
  mismatched: tuple
  left_out: tuple = ()

  @property
  def fresh(self):
    """Names of all variables that start fresh."""
    mismatched = tuple(name for name, _, _ in self.mismatched)
    return self.missing + mismatched + self.left_out

  @property
  def encoder_complete(self):
    return all(name in HEAD for name in self.fresh)

  @property
  def head_complete(self):
    return not any(name in HEAD for name in self.fresh)

  def without_head(self):
    """The same with the head left out, so that it starts fresh."""
    return dataclasses.replace(
      self,
      loaded=tuple(name for name in self.loaded if name not in HEAD),
      mismatched=tuple(m for m in self.mismatched if m[0] not in HEAD),
      left_out=tuple(
        name
        for name in HEAD
        if name in self.loaded + self.fresh and name not in self.missing
      ),
    )

  def report(self):
    """One to three lines on what is loaded, what is fresh, what is unused."""
    total = len(self.loaded) + len(self.fresh)
    path = self.checkpoint.path
    lines = [f"{len(self.loaded)} of {total} variables are loaded from {path}"]
    if self.fresh:
      lines.append(f"start fresh: {self._fresh_in_words()}")
    if self.unused:
      lines.append(f"not used of it: {_brief(self.unused)}")
    return lines

  def _fresh_in_words(self):
    shapes = [
      f"{name} {list(there)} there, {list(here)} here"
      for name, there, here in self.mismatched
    ]
    reasons = (
      (self.missing, "not in it"),
      (shapes, "of another shape"),
      (self.left_out, "left out"),
    )
    phrases = [f"{_brief(names)} ({why})" for names, why in reasons if names]
    return "; ".join(phrases)

  def log(self):
    """Writes the report to the log."""
    for line in self.report():
      logging.info("%s", line)

  def accept(
    self, *, allow_partial_init=False, reinit_head=False, trained_needed=False
  ):
    """Refuses what would give other results than the user thinks.

    Args:
      allow_partial_init: an encoder that is only partly covered will do.
      reinit_head: leave the head out; it starts fresh.
      trained_needed: nothing will be trained, so nothing may start fresh.

    Returns:
      The coverage to initialize from: this one, or `without_head`.

    Raises:
      ValueError: says what does not fit, and the flag that lets it pass.
    """
    usable = self.without_head() if reinit_head else self
    encoder_fits = any(name not in HEAD for name in usable.loaded)
    differences = usable._size_differences()
    there = self.checkpoint.shapes
    has_head = any(name in there for name in HEAD)
    if differences and not allow_partial_init:
      raise ValueError(usable._sizes_differ(differences))
    if not encoder_fits and not usable.encoder_complete:
      raise ValueError(usable._nothing_fits(differences))
    if trained_needed and usable.fresh:
      raise ValueError(usable._would_be_random())
    if not usable.encoder_complete and not allow_partial_init:
      raise ValueError(usable._encoder_incomplete())
    if has_head and not usable.head_complete and not reinit_head:
      raise ValueError(usable._head_differs())
    return usable

  def _size_differences(self):
    """What the shapes say against the configuration, a phrase for each key."""
    phrases = {}
    for name, there, here in self.mismatched:
      row = _look_up(name, _BY_NAME)
      if row and len(there) == len(here):
        for axis, size, wanted in zip(row.axes, there, here):
          if size != wanted and axis in _CONFIG_KEYS:
            key = _CONFIG_KEYS[axis]
            phrase = f"{name} is {list(there)} there, but {key} is {wanted}"
            phrases.setdefault(key, phrase)
    there = _number_of_layers(self.checkpoint.shapes)
    here = _number_of_layers(self.loaded + self.fresh)
    if there and there != here:
      phrases["num_hidden_layers"] = (
        f"it has {there} encoder layers, but num_hidden_layers is {here}"
      )
    return list(phrases.values())

  def _sizes_differ(self, differences):
    beside = self.checkpoint.config_file
    return (
      f"{self.checkpoint.path} is of another size than the model:"
      f" {'; '.join(differences)} in the configuration. Take the"
      " configuration that belongs to this checkpoint"
      + (f" (--bert_config_file={beside})" if beside else "")
      + ", or give --allow_partial_init to start fresh what does not fit"
    )

  def _nothing_fits(self, differences):
    names = [n for n in self.checkpoint.shapes if not is_optimizer_slot(n)]
    reason = (
      f"{'; '.join(differences)} in the configuration"
      if differences
      else f"it holds {_brief(names) or 'nothing'}"
    )
    return (
      f"{self.checkpoint.path} has not one variable that fits the model's"
      f" encoder: {reason}. Give a BERT checkpoint that belongs to"
      " --bert_config_file, or none to train from scratch"
    )

  def _encoder_incomplete(self):
    fresh = [name for name in self.fresh if name not in HEAD]
    return (
      f"{self.checkpoint.path} does not cover the whole encoder: it lacks"
      f" {_brief(fresh)}. Give a complete BERT checkpoint, or"
      " --allow_partial_init to start fresh what is missing"
    )

  def _head_differs(self):
    found = ", ".join(
      f"{name} {list(self.checkpoint.shapes[name])}"
      for name in HEAD
      if name in self.checkpoint.shapes
    )
    wanted = [(name, here) for name, _, here in self.mismatched]
    wanted = ", ".join(f"{n} {list(s)}" for n, s in wanted if n in HEAD)
    return (
      f"the classifier's head in {self.checkpoint.path} does not fit this"
      f" task: it has {found}, the task needs"
      f" {wanted or ' and '.join(HEAD)}. Give --reinit_head to leave it out"
      " and start a fresh one"
    )

  def _would_be_random(self):
    return (
      f"{self.checkpoint.path} does not hold a trained classifier for this"
      " task; without training, the results would come from random numbers in"
      f" {self._fresh_in_words()}. Add --do_train, or give a checkpoint that"
      " was fine-tuned on this task as --init_checkpoint or in --output_dir"
    )


def _number_of_layers(names):
  matches = [
    _LAYER_NUMBER.search(name) for name in names if _look_up(name, _BY_NAME)
  ]
  return max((int(match.group()) + 1 for match in matches if match), default=0)


def _brief(names):
  """A list of names for a log line: long ones by scope, as `cls/* (7)`."""
  slots = [name for name in names if is_optimizer_slot(name)]
  others = [name for name in names if name not in set(slots)]
  if len(others) > 4:
    groups = {}
    for name in others:
      groups.setdefault(_scope(name), []).append(name)
    others = [
      members[0] if len(members) == 1 else f"{scope} ({len(members)})"
      for scope, members in groups.items()
    ]
    if len(others) > 6:
      others[5:] = [f"and {len(others) - 5} more"]
  if slots:
    others.append(f"optimizer slots ({len(slots)})")
  return ", ".join(others)


def _scope(name):
  """`cls/*` of cls/..., `bert/encoder/layer_3/*` of what is in that layer."""
  outer = r"\w+[/.]"
  inner = r"(?:\w+[/.])?" if name.startswith("bert") else ""
  scope = re.match(rf"{outer}{inner}(?:layer[_.]\d+[/.])?", name)
  return scope.group() + "*" if scope else name


# ---------------------------------------------------------------------------
# Finding it

_PART_OF_CHECKPOINT = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")
_SAFETENSORS = "model.safetensors"
_SHARDED = "model.safetensors.index.json"
_PICKLE_FILE = re.compile(r"\.(bin|pt|pth|pkl)$")
_PICKLE_START = (b"\x80", b"PK\x03\x04")  # bare, and in a zip as PyTorch does
_KERAS_FILE = re.compile(r"\.(h5|hdf5|keras)$")


def open_checkpoint(path):
  """Finds the checkpoint that a path means, and reads its names and shapes.

  Args:
    path: of TensorFlow, a checkpoint's prefix, any of its files, or its
      folder; of Hugging Face, a model's folder, its model.safetensors, or the
      model.safetensors.index.json of one in several files. `~` and gs:// work.

  Raises:
    FileNotFoundError: nothing is there, or only a part of it.
    ValueError: it is damaged, ambiguous, or of a kind that is not read.
  """
  path = os.path.expanduser(os.fspath(path))
  if tf.io.gfile.exists(path + ".index"):
    return _open_tensorflow(path)
  if tf.io.gfile.isdir(path):
    return _open_folder(path)
  if _PART_OF_CHECKPOINT.search(path):
    return _open_tensorflow(_PART_OF_CHECKPOINT.sub("", path))
  if not tf.io.gfile.exists(path):
    return _open_tensorflow(path)  # which says what is not there
  folder, name = os.path.split(path)
  if name == "checkpoint":
    return _open_folder(folder or ".")
  if name.endswith((".safetensors", ".safetensors.index.json")):
    return _open_hugging_face(path)
  raise ValueError(_refusal(path))


def _open_folder(folder):
  names = sorted(tf.io.gfile.listdir(folder))
  index = [name for name in names if name.endswith(".index")]
  prefixes = [name[: -len(".index")] for name in index]
  latest = _latest(folder, prefixes) if "checkpoint" in names else None
  if latest is None and len(prefixes) > 1:
    raise ValueError(
      f"{folder} holds {len(prefixes)} checkpoints; give one of them:"
      f" {', '.join(os.path.join(folder, prefix) for prefix in prefixes)}"
    )
  if latest or prefixes:
    return _open_tensorflow(os.path.join(folder, latest or prefixes[0]))
  for name in (_SAFETENSORS, _SHARDED):
    if name in names:
      return _open_hugging_face(os.path.join(folder, name))
  for refused in (_PICKLE_FILE, _KERAS_FILE):
    for name in filter(refused.search, names):
      raise ValueError(_refusal(os.path.join(folder, name)))
  raise FileNotFoundError(
    f"{folder} holds no checkpoint: neither *.index with its data (TensorFlow)"
    f" nor {_SAFETENSORS} (Hugging Face); it has {_brief(names) or 'no files'}"
  )


def _latest(folder, prefixes):
  """The name that the state file gives; None where it says nothing."""
  state = tf.train.get_checkpoint_state(folder)
  if state is None or not state.model_checkpoint_path:
    return None
  # By its last part: a folder that was moved still names its old place.
  name = os.path.basename(state.model_checkpoint_path)
  if name not in prefixes:
    there = ", ".join(prefixes) or "no other one"
    raise FileNotFoundError(
      f"the state file {os.path.join(folder, 'checkpoint')} names {name}, but"
      f" {name}.index is not in that folder; there is {there}"
    )
  return name


def _refusal(path):
  """Why a file that is there is not read, and what to do."""
  with tf.io.gfile.GFile(path, "rb") as reader:
    start = reader.read(4)
  if _PICKLE_FILE.search(path) or start.startswith(_PICKLE_START):
    new = os.path.join(os.path.dirname(path), _SAFETENSORS)
    return (
      f"{path} is a pickle, and loading one executes whatever code is in it, so"
      " it is not read. Convert it where PyTorch is installed: python -c"
      ' "import torch, safetensors.torch as s; s.save_file({k: v.clone() for'
      f" k, v in torch.load('{path}', weights_only=True).items()}}, '{new}')\""
    )
  if _KERAS_FILE.search(path):
    return (
      f"{path} is a Keras file, which is not read; take the {_SAFETENSORS} or"
      " the TensorFlow checkpoint (bert_model.ckpt) of the same model"
    )
  return (
    f"{path} is no checkpoint: give the prefix of a TensorFlow checkpoint, such"
    f" as bert_model.ckpt, or a {_SAFETENSORS}, or the folder of either"
  )


def _beside(path, name):
  """The file of that name in the same folder, or None."""
  beside = os.path.join(os.path.dirname(path), name)
  return beside if tf.io.gfile.exists(beside) else None


# ---------------------------------------------------------------------------
# TensorFlow


def _open_tensorflow(prefix):
  data = _data_files(prefix)
  try:
    reader = tf.train.NewCheckpointReader(prefix)
    shapes = reader.get_variable_to_shape_map()
  except (tf.errors.OpError, ValueError) as error:
    raise ValueError(
      f"{prefix}.index is damaged or cut off; copy or download the checkpoint"
      f" again ({error})"
    ) from error
  dtypes = reader.get_variable_to_dtype_map()
  needed = sum(
    int(np.prod(shape)) * dtypes[name].size
    for name, shape in shapes.items()
    if dtypes[name] != tf.string
  )
  found = sum(tf.io.gfile.stat(path).length for path in data)
  if found < needed:
    raise ValueError(
      f"the data of {prefix} are cut off: {', '.join(data)} hold {found} bytes,"
      f" its variables {needed}; copy or download the checkpoint again"
    )
  return Checkpoint(
    path=prefix,
    kind="tensorflow",
    shapes={name: tuple(shapes[name]) for name in sorted(shapes)},
    config_file=_beside(prefix, "bert_config.json"),
    vocab_file=_beside(prefix, "vocab.txt"),
  )


def _data_files(prefix):
  """Paths of the data of a checkpoint, index and all parts found to be there.

  Raises:
    FileNotFoundError: one is missing.
  """
  folder, name = os.path.split(prefix)
  folder = folder or "."
  names = tf.io.gfile.listdir(folder) if tf.io.gfile.isdir(folder) else []
  part = re.compile(re.escape(name) + r"\.data-\d{5}-of-(\d{5})")
  parts = list(filter(None, map(part.fullmatch, sorted(names))))
  if name + ".index" not in names:
    raise FileNotFoundError(_no_index(prefix, folder, names, parts))
  wanted = int(parts[0].group(1)) if parts else 1
  if len(parts) < wanted:
    raise FileNotFoundError(
      f"half a checkpoint: {prefix}.index is there, but only {len(parts)} of"
      f" {wanted} files {name}.data-?????-of-{wanted:05} beside it; copy them"
      " there too"
    )
  return [os.path.join(folder, match.group()) for match in parts]


def _no_index(prefix, folder, names, parts):
  if parts:
    return (
      f"half a checkpoint: {parts[0].group()} is in {folder}, but not"
      f" {os.path.basename(prefix)}.index; copy it there too"
    )
  others = [name for name in sorted(names) if name.endswith(".index")]
  return (
    f"there is no checkpoint at {prefix}: no such file or folder, and no"
    f" {prefix}.index" + (f"; {folder} has {_brief(others)}" if others else "")
  )


# ---------------------------------------------------------------------------
# Hugging Face

_FLOATS = ("F64", "F32", "F16", "BF16")


def _safetensors():
  try:
    import safetensors
  except ImportError as error:
    raise ValueError(
      "reading a .safetensors file needs the library safetensors: pip install"
      " safetensors"
    ) from error
  return safetensors


def _open_hugging_face(path):
  shapes, sources = {}, {}
  for shard in _shards(path):
    local = _local(shard)
    for name, shape, dtype in _headers(shard, local):
      row = _from_hugging_face(name)
      if row is None or row.name in shapes:
        shapes[name] = shape
        continue
      if dtype not in _FLOATS:
        raise ValueError(
          f"{shard}: {name} is of the type {dtype}; weights must be one of"
          f" {', '.join(_FLOATS)}: take the model as it was before quantization"
        )
      shapes[row.name] = shape[::-1] if row.is_transposed else shape
      sources[row.name] = (local, name, row.is_transposed)
  return Checkpoint(
    path=path,
    kind="huggingface",
    shapes=shapes,
    config_file=_beside(path, "config.json"),
    vocab_file=_beside(path, "vocab.txt"),
    _sources=sources,
  )


def _shards(path):
  """The safetensors files of a model: the path itself, or those it lists."""
  if not path.endswith(".json"):
    return [path]
  try:
    with tf.io.gfile.GFile(path, "rb") as reader:
      listed = sorted(set(json.loads(reader.read())["weight_map"].values()))
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(
      f"{path} is not the index of a model in several safetensors files: its"
      " JSON must map names to files under weight_map"
    ) from error
  shards = [os.path.join(os.path.dirname(path), name) for name in listed]
  for shard in shards:
    if not tf.io.gfile.exists(shard):
      raise FileNotFoundError(
        f"half a checkpoint: {path} lists {shard}, which is not there"
      )
  return shards


def _local(path):
  """A path that the library can open: the file, or a temporary copy of it."""
  if "://" not in path:
    return path
  folder = tempfile.mkdtemp()
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  copy = os.path.join(folder, os.path.basename(path))
  tf.io.gfile.copy(path, copy)
  return copy


def _headers(path, local):
  """List of (name, shape, type) of the tensors; the weights stay unread."""
  library = _safetensors()
  try:
    with library.safe_open(local, framework="np") as tensors:
      names = tensors.keys()
      slices = [(name, tensors.get_slice(name)) for name in names]
      return [(n, tuple(s.get_shape()), s.get_dtype()) for n, s in slices]
  except library.SafetensorError as error:
    raise ValueError(
      f"{path} is damaged, cut off or no safetensors file; copy or download it"
      f" again ({error})"
    ) from error


def _read_weight(local, name, is_transposed):
  """<float32>[...]: one tensor, its axes in TensorFlow's order."""
  with _safetensors().safe_open(local, framework="np") as tensors:
    weight = tensors.get_tensor(name)
  weight = weight.T if is_transposed else weight
  return np.ascontiguousarray(weight, np.float32)
