"""Checkpoints: finding one, and comparing it with a model.

Any source of weights becomes the prefix of a TensorFlow checkpoint, which is
what `tf.train.init_from_checkpoint`, distribution strategies and a TPU's
scaffold_fn read. What it covers is decided by names and shapes, before a weight
is read:

  checkpoint = open_checkpoint("uncased_L-12_H-768_A-12")
  coverage = checkpoint.compare_with(compute_shapes(config, num_labels=2))
  coverage = coverage.accept()       # or a UserError that says why not
  coverage.log()
  prefix = checkpoint.convert_to_tensorflow("converted.ckpt")
  tf.train.init_from_checkpoint(prefix, ...)  # of the names in coverage.loaded
"""

import dataclasses
import os
import re
from typing import Optional

from absl import logging
import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import errors, hugging_face
import modeling

# ---------------------------------------------------------------------------
# The variables of a model

HEAD = ("output_weights", "output_bias")
_CONFIG_KEYS = {
  "V": "vocab_size",
  "P": "max_position_embeddings",
  "Y": "type_vocab_size",
  "H": "hidden_size",
  "F": "intermediate_size",
}


def compute_shapes(config, num_labels):
  """Returns {name: shape} of every variable of encoder, pooler and head.

  Args:
    config: an object with the attributes of `modeling.BertConfig`.
    num_labels: L, logits of an example.
  """
  sizes = {axis: getattr(config, key) for axis, key in _CONFIG_KEYS.items()}
  sizes["L"] = num_labels
  return {
    variable.name: tuple(sizes[axis] for axis in variable.axes)
    for variable in hugging_face.list_variables(config.num_hidden_layers)
  }


# ---------------------------------------------------------------------------
# Coverage: the variables of a model that a checkpoint initializes

_SLOT = re.compile(
  r"/(adam_m|adam_v|Adam|Adam_1)$"
  r"|^(global_step|beta[12]_power|current_loss_scale|good_steps)$"
)


def is_optimizer_slot(name):
  """Returns True for a variable of the optimizer or the run, not the model."""
  return _SLOT.search(name) is not None


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """Names and shapes of the weights in a file; made by `open_checkpoint`.

  Attributes:
    path: prefix of a TensorFlow checkpoint, or the safetensors file.
    kind: "tensorflow" or "huggingface".
    shapes: {name: shape}, under TensorFlow's name and in its order of axes;
      under its own name what is no variable of this model.
    config_file, vocab_file: paths of those beside it, or None.
  """

  path: str
  kind: str
  shapes: dict
  config_file: Optional[str] = None
  vocab_file: Optional[str] = None
  _sources: dict = dataclasses.field(default_factory=dict, repr=False)

  def compare_with(self, variables):
    """Returns the `Coverage` of a model's variables, {name: shape}."""
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

  def reorder_head(self, order):
    """Returns this checkpoint, the rows of its head in another order.

    Args:
      order: numbers of the rows as they are now. Hugging Face weights only.
    """
    sources = dict(self._sources)
    for name in sources.keys() & HEAD:
      sources[name] = sources[name]._replace(order=order)
    return dataclasses.replace(self, _sources=sources)

  def convert_to_tensorflow(self, prefix):
    """Returns the prefix of a TensorFlow checkpoint with these weights.

    A TensorFlow checkpoint is its own. Of any other, the variables of the
    model are written as float32.

    Args:
      prefix: where to write, if need be; the folder is made.
    """
    if self.kind == "tensorflow":
      return self.path
    hugging_face.write_tensorflow_checkpoint(self._sources, prefix)
    return prefix


@dataclasses.dataclass(frozen=True)
class Coverage:
  """The variables of a model that a checkpoint initializes, and the others.

  Attributes:
    checkpoint: the `Checkpoint`.
    loaded: names that it initializes.
    missing: names that it lacks, which start fresh.
    unused: names in it that the model lacks.
    mismatched: (name, shape there, shape here), which start fresh too.
    left_out: names of a head that is in it and starts fresh all the same.
  """

  checkpoint: Checkpoint
  loaded: tuple
  missing: tuple
  unused: tuple
  mismatched: tuple
  left_out: tuple = ()

  @property
  def fresh(self):
    """Returns the names of all variables that start fresh."""
    mismatched = tuple(name for name, _, _ in self.mismatched)
    return self.missing + mismatched + self.left_out

  @property
  def encoder_complete(self):
    """Returns True where no variable of the encoder starts fresh."""
    return all(name in HEAD for name in self.fresh)

  @property
  def head_complete(self):
    """Returns True where no variable of the head starts fresh."""
    return not any(name in HEAD for name in self.fresh)

  def leave_out_head(self):
    """Returns this coverage with a head that starts fresh."""
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

  def describe(self):
    """Returns one to three lines: what is loaded, fresh, unused."""
    total = len(self.loaded) + len(self.fresh)
    path = self.checkpoint.path
    lines = [f"{len(self.loaded)} of {total} variables are loaded from {path}"]
    if self.fresh:
      lines.append(f"start fresh: {self._describe_fresh()}")
    if self.unused:
      lines.append(f"not used: {_shorten(self.unused)}")
    return lines

  def _describe_fresh(self):
    shapes = [
      f"{name} {list(there)} in it, {list(here)} in the model"
      for name, there, here in self.mismatched
    ]
    reasons = (
      (self.missing, "not in it"),
      (shapes, "of another shape"),
      (self.left_out, "left out"),
    )
    phrases = [f"{_shorten(names)} ({why})" for names, why in reasons if names]
    return "; ".join(phrases)

  def log(self):
    """Writes `describe` to the log."""
    for line in self.describe():
      logging.info("%s", line)

  def accept(
    self,
    *,
    allow_partial_init=False,
    reinit_head=False,
    trained_needed=False,
    is_resumed=False,
  ):
    """Returns the coverage to initialize from, this one or `leave_out_head`.

    Refuses what would give other results than the user thinks.

    Args:
      allow_partial_init: accept an encoder that is only partly covered.
      reinit_head: leave the head out; it starts fresh.
      trained_needed: nothing will be trained, so nothing may start fresh.
      is_resumed: this is output_dir's own checkpoint, which replaces
        init_checkpoint, so nothing may start fresh either.

    Raises:
      UserError: says what does not fit, and the flag that lets it pass.
    """
    usable = self.leave_out_head() if reinit_head else self
    encoder_fits = any(name not in HEAD for name in usable.loaded)
    differences = usable._list_size_differences()
    there = self.checkpoint.shapes
    has_head = any(name in there for name in HEAD)
    if differences and not allow_partial_init:
      may_be_partial = not (trained_needed or is_resumed)
      sentence = usable._explain_sizes(differences, may_be_partial)
      raise errors.UserError(sentence)
    if is_resumed and usable.fresh:
      raise errors.UserError(usable._explain_other_model())
    if not encoder_fits and not usable.encoder_complete:
      raise errors.UserError(usable._explain_foreign(differences))
    if trained_needed and usable.fresh:
      raise errors.UserError(usable._explain_untrained())
    if not usable.encoder_complete and not allow_partial_init:
      raise errors.UserError(usable._explain_holes())
    if has_head and not usable.head_complete and not reinit_head:
      raise errors.UserError(usable._explain_head())
    return usable

  def _list_size_differences(self):
    """Returns a phrase for each key of the configuration that differs."""
    phrases = {}
    for name, there, here in self.mismatched:
      variable = hugging_face.find_variable(name)
      if variable and len(there) == len(here):
        for axis, size, wanted in zip(variable.axes, there, here):
          if size != wanted and axis in _CONFIG_KEYS:
            key = _CONFIG_KEYS[axis]
            phrase = f"{name} is {list(there)} there, but {key} is {wanted}"
            phrases.setdefault(key, phrase)
    there = _count_layers(self.checkpoint.shapes)
    here = _count_layers(self.loaded + self.fresh)
    if there and there != here:
      phrases["num_hidden_layers"] = (
        f"it has {there} encoder layers, but num_hidden_layers is {here}"
      )
    return list(phrases.values())

  def _explain_sizes(self, differences, may_be_partial):
    beside = self.checkpoint.config_file
    return (
      f"{self.checkpoint.path} is of another size than the model:"
      f" {'; '.join(differences)} in the configuration. Take the"
      " configuration that belongs to this checkpoint"
      + (f" (--bert_config_file={beside})" if beside else "")
      + ", or give --allow_partial_init to start fresh what does not fit"
      * may_be_partial
    )

  def _explain_other_model(self):
    return (
      f"{self.checkpoint.path} was trained for another task or model; of this"
      f" one it lacks {self._describe_fresh()}. Give the task and the"
      " configuration that it was trained with, or another --output_dir"
    )

  def _explain_foreign(self, differences):
    names = [n for n in self.checkpoint.shapes if not is_optimizer_slot(n)]
    reason = (
      f"{'; '.join(differences)} in the configuration"
      if differences
      else f"it holds {_shorten(names) or 'nothing'}"
    )
    return (
      f"{self.checkpoint.path} has no variable that fits the model's"
      f" encoder: {reason}. Give a BERT checkpoint that belongs to"
      " --bert_config_file, or none to train from scratch"
    )

  def _explain_holes(self):
    fresh = [name for name in self.fresh if name not in HEAD]
    return (
      f"{self.checkpoint.path} does not cover the whole encoder: it lacks"
      f" {_shorten(fresh)}. Give a complete BERT checkpoint, or"
      " --allow_partial_init to start fresh what is missing"
    )

  def _explain_head(self):
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

  def _explain_untrained(self):
    return (
      f"{self.checkpoint.path} does not hold a trained classifier for this"
      " task; without training, the results would come from random numbers in"
      f" {self._describe_fresh()}. Add --do_train, or give a checkpoint that"
      " was fine-tuned on this task as --init_checkpoint or in --output_dir"
    )


def _count_layers(names):
  found = filter(None, map(hugging_face.find_variable, names))
  numbers = [variable.layer for variable in found if variable.layer is not None]
  return max(numbers, default=-1) + 1


def _shorten(names):
  """Returns names as one line, many of them by scope, as `cls/* (7)`."""
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
  """Returns `cls/*` of cls/..., `bert/encoder/layer_3/*` of that layer."""
  outer = r"\w+[/.]"
  inner = r"(?:\w+[/.])?" if name.startswith("bert") else ""
  scope = re.match(rf"{outer}{inner}(?:layer[_.]\d+[/.])?", name)
  return scope.group() + "*" if scope else name


# ---------------------------------------------------------------------------
# Finding a checkpoint

_PART_OF_CHECKPOINT = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")
_PICKLE_FILE = re.compile(r"\.(bin|pt|pth|pkl)$")
_PICKLE_START = (b"\x80", b"PK\x03\x04")  # bare, and in a zip as PyTorch does
_KERAS_FILE = re.compile(r"\.(h5|hdf5|keras)$")


def open_checkpoint(path):
  """Returns the `Checkpoint` that a path means.

  Args:
    path: of TensorFlow, a checkpoint's prefix, any of its files, or its
      folder; of Hugging Face, a model's folder, its model.safetensors, or the
      model.safetensors.index.json of one in several files. `~` and gs:// work.

  Raises:
    MissingFileError: nothing is there, or only a part of it.
    UserError: it is damaged, ambiguous, or of a kind that is not read.
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
  raise errors.UserError(_explain_refusal(path))


def _open_folder(folder):
  names = sorted(tf.io.gfile.listdir(folder))
  index = [name for name in names if name.endswith(".index")]
  prefixes = [name[: -len(".index")] for name in index]
  latest = _read_latest(folder, prefixes) if "checkpoint" in names else None
  if latest is None and len(prefixes) > 1:
    raise errors.UserError(
      f"{folder} holds {len(prefixes)} checkpoints; give one of them:"
      f" {', '.join(os.path.join(folder, prefix) for prefix in prefixes)}"
    )
  if latest or prefixes:
    return _open_tensorflow(os.path.join(folder, latest or prefixes[0]))
  for name in (hugging_face.SAFETENSORS, hugging_face.SAFETENSORS_INDEX):
    if name in names:
      return _open_hugging_face(os.path.join(folder, name))
  for refused in (_PICKLE_FILE, _KERAS_FILE):
    for name in filter(refused.search, names):
      raise errors.UserError(_explain_refusal(os.path.join(folder, name)))
  raise errors.MissingFileError(
    f"{folder} holds no checkpoint: neither *.index with its data (TensorFlow)"
    f" nor {hugging_face.SAFETENSORS} (Hugging Face); it has"
    f" {_shorten(names) or 'no files'}"
  )


def read_state(folder):
  """Returns the path of a folder's newest checkpoint as its state file has it.

  None where the state file is missing or damaged.
  """
  try:
    state = tf.train.get_checkpoint_state(folder)
  except ValueError:  # it is empty, as a power cut may leave it
    return None
  return state.model_checkpoint_path if state else None


def _read_latest(folder, prefixes):
  """Returns the name that the state file gives; None where it gives none."""
  latest = read_state(folder)
  if latest is None:
    return None
  # By its last part: a folder that was moved still names its old place.
  name = os.path.basename(latest)
  if name not in prefixes:
    there = ", ".join(prefixes) or "no other one"
    raise errors.MissingFileError(
      f"the state file {os.path.join(folder, 'checkpoint')} names {name}, but"
      f" {name}.index is not in that folder; there is {there}"
    )
  return name


def _explain_refusal(path):
  """Returns why a file that is there is not read, and what to do."""
  with tf.io.gfile.GFile(path, "rb") as reader:
    start = reader.read(4)
  if _PICKLE_FILE.search(path) or start.startswith(_PICKLE_START):
    new = os.path.join(os.path.dirname(path), hugging_face.SAFETENSORS)
    return (
      f"{path} is a pickle, and loading one executes whatever code is in it, so"
      " it is not read. Convert it where PyTorch is installed: python -c"
      ' "import torch, safetensors.torch as s; s.save_file({k: v.clone() for'
      f" k, v in torch.load('{path}', weights_only=True).items()}}, '{new}')\""
    )
  if _KERAS_FILE.search(path):
    return (
      f"{path} is a Keras file, which is not read; take the"
      f" {hugging_face.SAFETENSORS} or the TensorFlow checkpoint"
      " (bert_model.ckpt) of the same model"
    )
  return (
    f"{path} is no checkpoint: give the prefix of a TensorFlow checkpoint, such"
    f" as bert_model.ckpt, or a {hugging_face.SAFETENSORS}, or the folder of"
    " either"
  )


def _find_beside(path, name):
  """Returns the path of that name in the same folder, None if not there."""
  beside = os.path.join(os.path.dirname(path), name)
  return beside if tf.io.gfile.exists(beside) else None


# ---------------------------------------------------------------------------
# Opening it


def _open_hugging_face(path):
  weights = hugging_face.open_weights(path)
  return Checkpoint(
    path=path,
    kind="huggingface",
    shapes=weights.shapes,
    config_file=_find_beside(path, hugging_face.CONFIG),
    vocab_file=_find_beside(path, "vocab.txt")
    or _find_beside(path, hugging_face.TOKENIZER),
    _sources=weights.sources,
  )


def _open_tensorflow(prefix):
  data = _list_data_files(prefix)
  try:
    reader = tf.train.NewCheckpointReader(prefix)
    shapes = reader.get_variable_to_shape_map()
  except (tf.errors.OpError, ValueError) as error:
    raise errors.UserError(
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
    raise errors.UserError(
      f"the data of {prefix} are cut off: {', '.join(data)} hold {found} bytes,"
      f" its variables {needed}; copy or download the checkpoint again"
    )
  return Checkpoint(
    path=prefix,
    kind="tensorflow",
    shapes={name: tuple(shapes[name]) for name in sorted(shapes)},
    config_file=_find_beside(prefix, "bert_config.json"),
    vocab_file=_find_beside(prefix, "vocab.txt"),
  )


def _list_data_files(prefix):
  """Returns the paths of a checkpoint's data.

  Raises:
    MissingFileError: one of them or the index is not there.
  """
  folder, name = os.path.split(prefix)
  folder = folder or "."
  names = tf.io.gfile.listdir(folder) if tf.io.gfile.isdir(folder) else []
  part = re.compile(re.escape(name) + r"\.data-\d{5}-of-(\d{5})")
  parts = list(filter(None, map(part.fullmatch, sorted(names))))
  if name + ".index" not in names:
    raise errors.MissingFileError(
      _explain_no_index(prefix, folder, names, parts)
    )
  wanted = int(parts[0].group(1)) if parts else 1
  if len(parts) < wanted:
    raise errors.MissingFileError(
      f"half a checkpoint: {prefix}.index is there, but only {len(parts)} of"
      f" {wanted} files {name}.data-?????-of-{wanted:05} beside it; copy them"
      " there too"
    )
  return [os.path.join(folder, match.group()) for match in parts]


def _explain_no_index(prefix, folder, names, parts):
  if parts:
    return (
      f"half a checkpoint: {parts[0].group()} is in {folder}, but not"
      f" {os.path.basename(prefix)}.index; copy it there too"
    )
  others = [name for name in sorted(names) if name.endswith(".index")]
  return (
    f"there is no checkpoint at {prefix}: no such file or folder, and no"
    f" {prefix}.index"
    + (f"; {folder} has {_shorten(others)}" if others else "")
  )


# ---------------------------------------------------------------------------
# Reading it


def scaffold_fn_builder(init_checkpoint, fresh_variables):
  """Returns a scaffold_fn that initializes the graph from a checkpoint.

  Called once the model is built, on a TPU outside the replicated part; None
  where there is no checkpoint.
  """
  if not init_checkpoint:
    return None

  def scaffold_fn():
    variables = [
      variable
      for variable in tf.trainable_variables()
      if variable.name.partition(":")[0] not in fresh_variables
    ]
    assignments, _ = modeling.get_assignment_map_from_checkpoint(
      variables, init_checkpoint
    )
    tf.train.init_from_checkpoint(init_checkpoint, assignments)
    return tf.train.Scaffold()

  return scaffold_fn
