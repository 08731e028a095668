"""Checkpoints: finding one, opening it, reading it.

Any source of weights becomes the prefix of a TensorFlow checkpoint, which is
what `tf.train.init_from_checkpoint`, distribution strategies and a TPU's
scaffold_fn read. What it covers is decided before a weight is read:

  checkpoint = open_checkpoint("uncased_L-12_H-768_A-12")
  variables = compute_shapes(config, num_labels=2)
  coverage = checkpoint.compare_with(variables)
  coverage = coverage.accept()       # or a UserError that says why not
  coverage.log()
  prefix = checkpoint.convert_to_tensorflow("converted.ckpt")
  tf.train.init_from_checkpoint(prefix, ...)  # of the names in coverage.loaded
"""

import contextlib
import dataclasses
import hashlib
import os
import re
import shlex
from typing import Callable, Optional

import tensorflow.compat.v1 as tf

from bert_classifier import (
  errors,
  files,
  hugging_face,
  tensorflow_weights,
  tokenizer_files,
)
from bert_classifier.coverage import HEAD, Coverage, shorten_names
import modeling


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
  _converter: Optional[Callable] = dataclasses.field(default=None, repr=False)

  @property
  def must_be_converted(self):
    """Returns whether TensorFlow cannot read it as the model's variables."""
    return self.kind != "tensorflow" or self._converter is not None

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

  def hash(self):
    """Returns a SHA-256 that other weights do not have, wherever these are.

    Of a TensorFlow checkpoint that of its index, which has a checksum of each
    tensor; of safetensors that of the files' own digests.
    """
    if self.kind == "tensorflow":
      return files.hash_file(f"{self.path}.index")
    shards = sorted({source.path for source in self._sources.values()})
    digests = "".join(map(files.hash_file, shards))
    return hashlib.sha256(digests.encode()).hexdigest()

  def list_not_finite(self):
    """Returns the names of the weights that hold NaN or infinity.

    Reads them all: a second or two for BERT-base.
    """
    if self.kind == "tensorflow":
      return tensorflow_weights.list_not_finite(self.path)
    return hugging_face.list_not_finite(self._sources)

  def convert_to_tensorflow(self, prefix):
    """Returns the prefix of a TensorFlow checkpoint with these weights.

    A TensorFlow checkpoint with the model's names and types is its own. Of any
    other, the variables of the model are written as float32.

    Args:
      prefix: where to write, if need be; the folder is made.
    """
    if not self.must_be_converted:
      return self.path
    if self._converter:
      self._converter(prefix)
    else:
      hugging_face.write_tensorflow_checkpoint(self._sources, prefix)
    return prefix


# ---------------------------------------------------------------------------
# Finding a checkpoint

_PART_OF_CHECKPOINT = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")
_PICKLE_FILE = re.compile(r"\.(bin|pt|pth|pkl|ckpt)$")
_PICKLE_START = (b"\x80", b"PK\x03\x04")  # bare, and in a zip as PyTorch does
# What training programs save beside the model.
_NO_MODEL = re.compile(
  r"(optimizer|scheduler|scaler|training_args|rng_state)", re.IGNORECASE
)
_PART_OF_MODEL = re.compile(r"-\d{5}-of-\d{5}(?=\.(bin|safetensors)$)")
_ARCHIVE = re.compile(r"\.(zip|tar|tar\.gz|tgz|tar\.bz2)$")
_MOST_BYTES_OF_A_CONFIGURATION = 1 << 20
_KERAS_FILE = re.compile(r"\.(h5|hdf5|keras)$")


def open_checkpoint(path):
  """Returns the `Checkpoint` that a path means.

  Args:
    path: of TensorFlow, a checkpoint's prefix, any of its files, or its
      folder; of Hugging Face, a model's folder, its model.safetensors, or the
      model.safetensors.index.json of one in several files; of PyTorch, the same
      with pytorch_model.bin. `~` and gs:// work.

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
  if name.endswith((".safetensors", ".index.json")) or _is_pickle(path):
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
  for name in hugging_face.WEIGHTS:
    if name in names:
      return _open_hugging_face(os.path.join(folder, name))
  pickled = [
    name
    for name in names
    if _PICKLE_FILE.search(name) and not _NO_MODEL.search(name)
  ]
  parts = [name for name in names if _PART_OF_MODEL.search(name)]
  if parts:
    raise errors.UserError(_explain_part(os.path.join(folder, parts[0])))
  if len(pickled) > 1:
    raise errors.UserError(
      f"{folder} holds {len(pickled)} pickles of PyTorch; give one of them:"
      f" {', '.join(os.path.join(folder, name) for name in pickled)}"
    )
  if pickled:
    return _open_hugging_face(os.path.join(folder, pickled[0]))
  for refused in (_KERAS_FILE, _ARCHIVE):
    for name in filter(refused.search, names):
      raise errors.UserError(_explain_refusal(os.path.join(folder, name)))
  raise errors.MissingFileError(
    f"{folder} holds no checkpoint: neither *.index with its data (TensorFlow)"
    f" nor {hugging_face.SAFETENSORS} or pytorch_model.bin (Hugging Face); it"
    f" has {shorten_names(names) or 'no files'}"
  )


def read_state(folder):
  """Returns the path of a folder's newest checkpoint as its state file has it.

  None where the state file is missing or damaged.

  Raises:
    OpError: it may not be read, which TensorFlow only warns of.
  """
  with (
    contextlib.suppress(
      tf.errors.NotFoundError, tf.errors.FailedPreconditionError
    ),
    tf.io.gfile.GFile(os.path.join(folder, "checkpoint"), "rb") as reader,
  ):
    reader.read(1)
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
    others = ", ".join(os.path.join(folder, prefix) for prefix in prefixes)
    remedy = f", or give one that is there: {others}" if others else ""
    raise errors.MissingFileError(
      f"the state file {os.path.join(folder, 'checkpoint')} names {name}, but"
      f" {name}.index is not in that folder: copy the files {name}.* there"
      f"{remedy}"
    )
  return name


def _is_pickle(path):
  """Returns True for a pickle, also one in an archive as PyTorch writes it."""
  if _ARCHIVE.search(path) or _KERAS_FILE.search(path):
    return False
  with tf.io.gfile.GFile(path, "rb") as reader:
    start = reader.read(4)
  return bool(_PICKLE_FILE.search(path)) or start.startswith(_PICKLE_START)


def _explain_refusal(path):
  """Returns why a file that is there is not read, and what to do."""
  if _ARCHIVE.search(path):
    return _explain_archive(path)
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


def _explain_archive(path):
  """Returns how to unpack a model that is still packed."""
  folder = _ARCHIVE.sub("", path)
  tool = "zipfile" if path.endswith(".zip") else "tarfile"
  return (
    f"{path} is an archive: unpack it (python -m {tool} -e {shlex.quote(path)}"
    f" {shlex.quote(folder)}), and give the folder in {folder} that holds the"
    " model"
  )


def _explain_part(path):
  """Returns what to do instead of giving one of several files of a model."""
  index = _PART_OF_MODEL.sub("", path) + ".index.json"
  remedy = f"give the file that lists them, {index}, or the folder"
  if not tf.io.gfile.exists(index):
    remedy = f"copy the file that lists them there, too: {index} is missing"
  return f"{path} is one part of a model in several files: {remedy}"


def _find_beside(path, *names):
  """Returns the path of the first of the names in its folder, or None."""
  paths = (os.path.join(os.path.dirname(path), name) for name in names)
  return next(filter(tf.io.gfile.exists, paths), None)


def _find_config(path, names):
  """Returns the path of the configuration beside weights, None if unknown.

  Args:
    path: of the weights.
    names: of a configuration, the likeliest first. Where there is none of them,
      the only one under another name is taken.
  """
  usual = _find_beside(path, *names)
  if usual:
    return usual
  others = list_configurations(path)
  return others[0] if len(others) == 1 else None


def list_configurations(path):
  """Returns the paths of the files beside weights that configure a BERT."""
  found = files.list_matching(os.path.dirname(path) or ".", r".*\.json")
  return [name for name in found if _is_configuration(name)]


def _is_configuration(path):
  # A vocabulary or an index may be large, a configuration is not.
  if tf.io.gfile.stat(path).length > _MOST_BYTES_OF_A_CONFIGURATION:
    return False
  values = files.read_json(path)
  return isinstance(values, dict) and {
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
  } <= set(values)


def _find_vocabulary(path):
  return _find_beside(path, "vocab.txt", tokenizer_files.TOKENIZER)


# ---------------------------------------------------------------------------
# Opening it


def _open_hugging_face(path):
  if _PART_OF_MODEL.search(path):
    raise errors.UserError(_explain_part(path))
  _check_file(path)
  weights = hugging_face.open_weights(path)
  return Checkpoint(
    path=path,
    kind="huggingface",
    shapes=weights.shapes,
    config_file=_find_config(path, (hugging_face.CONFIG, "bert_config.json")),
    vocab_file=_find_vocabulary(path),
    _sources=weights.sources,
  )


def _open_tensorflow(prefix):
  data = _list_data_files(prefix)
  for path in (f"{prefix}.index", *data):
    _check_file(path)
  try:
    weights = tensorflow_weights.open_weights(prefix)
    found = sum(tf.io.gfile.stat(path).length for path in data)
  except (errors.UserError, tf.errors.NotFoundError):
    _list_data_files(prefix)  # a training may have replaced it meanwhile
    raise
  if found < weights.size:
    raise errors.UserError(
      f"the data of {prefix} are cut off: {', '.join(data)} hold {found} bytes,"
      f" its variables {weights.size}; copy or download the checkpoint again"
    )
  return Checkpoint(
    path=prefix,
    kind="tensorflow",
    shapes=weights.shapes,
    config_file=_find_config(prefix, ("bert_config.json", hugging_face.CONFIG)),
    vocab_file=_find_vocabulary(prefix),
    _converter=weights.convert if weights.must_be_converted else None,
  )


def _check_file(path):
  """Raises a UserError for a folder or dangling link in a file's place."""
  if not tf.io.gfile.exists(path):
    raise errors.MissingFileError(
      f"{path} is gone, or a link to a file that is not there: copy the model"
      " again"
    )
  if tf.io.gfile.isdir(path):
    raise errors.UserError(
      f"{path} is a folder, where a file of weights belongs: give the file or"
      " the folder that holds the model, or copy the model again"
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
    + (f"; {folder} has {shorten_names(others)}" if others else "")
  )


# ---------------------------------------------------------------------------
# Reading it


def scaffold_fn_builder(init_checkpoint, fresh_variables, saver=None):
  """Returns a scaffold_fn that initializes the graph from a checkpoint.

  Called once the model is built, on a TPU outside the replicated part.

  Args:
    init_checkpoint: prefix of a TensorFlow checkpoint, or None.
    fresh_variables: names that are not to be taken from it.
    saver: `tf.train.Saver`, None for TensorFlow's own.
  """

  def scaffold_fn():
    variables = [
      variable
      for variable in tf.trainable_variables()
      if variable.name.partition(":")[0] not in fresh_variables
    ]
    if init_checkpoint:
      assignments, _ = modeling.get_assignment_map_from_checkpoint(
        variables, init_checkpoint
      )
      tf.train.init_from_checkpoint(init_checkpoint, assignments)
    return tf.train.Scaffold(saver=saver)

  return scaffold_fn
