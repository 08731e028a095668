"""Hugging Face's form of BERT: configurations and weights.

A file's header gives names and shapes before a weight is read:

  weights = open_weights("bert-base-uncased/model.safetensors")
  weights.shapes["bert/pooler/dense/kernel"]        # (768, 768)
  write_tensorflow_checkpoint(weights.sources, "converted.ckpt")
"""

import contextlib
import functools
import os
import tempfile
from typing import Callable, NamedTuple, Optional

import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import (
  errors,
  files,
  pickles,
  progress,
  status_line,
  variables,
)

# Names of the files in a model's folder.
CONFIG = "config.json"
SAFETENSORS = "model.safetensors"
# In the order in which they are looked for; an index lists several files.
WEIGHTS = (
  SAFETENSORS,
  f"{SAFETENSORS}.index.json",
  "pytorch_model.bin",
  "pytorch_model.bin.index.json",
)


# ---------------------------------------------------------------------------
# Configurations


def is_configuration(config, kind=None):
  """Returns True where a configuration's values mean what theirs mean.

  Args:
    config: `modeling.BertConfig`.
    kind: `checkpoints.Checkpoint.kind` of the weights it belongs to, which
      decides; None where there are none.
  """
  if kind is None:
    return hasattr(config, "model_type")
  return kind == "huggingface"


def adapt_configuration(config):
  """Changes the values of one of their configurations to what we call them.

  Their "gelu" is the exact form; ours is the tanh approximation.

  Args:
    config: `modeling.BertConfig`.
  """
  if isinstance(config.hidden_act, str) and config.hidden_act.lower() == "gelu":
    config.hidden_act = "gelu_erf"


def list_labels(config, path):
  """Returns the names of a head's labels in the order of its rows, or None.

  Args:
    config: dictionary of one of their configurations.
    path: of its file, for the error.

  Raises:
    UserError: id2label, or label2id in its absence, is not of labels by number.
  """
  labels = config.get("id2label")
  try:
    if labels is None and config.get("label2id"):
      labels = {row: label for label, row in config["label2id"].items()}
    if not labels:
      return None
    labels = {int(row): str(label) for row, label in labels.items()}
    return [labels[row] for row in range(len(labels))]
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise errors.UserError(
      f"{path}: id2label must map the numbers from 0 on to the names of the"
      f' labels, such as {{"0": "no", "1": "yes"}}, but is {labels!r:.80}'
    ) from error


# ---------------------------------------------------------------------------
# Weights in safetensors files, and in PyTorch's pickles

_FLOATS = ("F64", "F32", "F16", "BF16")


class Source(NamedTuple):
  """Where the weight of a variable is.

  Attributes:
    path: a safetensors file or a pickle, which may be remote.
    name: the tensor's name in it.
    is_transposed: True where its axes are in the opposite order.
    load: function from a local path of the file to the tensor's values.
    order: numbers of its rows in the order in which they are wanted; None where
      that is the order in the file.
  """

  path: str
  name: str
  is_transposed: bool
  load: Callable
  order: Optional[tuple] = None


class Weights(NamedTuple):
  """The tensors of a model, their values not read yet.

  Attributes:
    shapes: {name: shape}, under TensorFlow's name and in its order of axes;
      under its own name what is no variable of this model.
    sources: {name: `Source`} of the variables of this model.
  """

  shapes: dict
  sources: dict


def open_weights(path):
  """Returns the `Weights` of a model.

  Args:
    path: a safetensors file or a pickle, or the index of a model in several;
      may be remote.

  Raises:
    MissingFileError: the index lists a file that is not there.
    UserError: a file is damaged, weights are quantized, or the library
      safetensors is not installed.
  """
  shapes, sources = {}, {}
  for shard in _list_shards(path):
    for name, shape, dtype, load in _list_tensors(shard):
      variable = variables.find_variable_by_their_name(name)
      if variable is None:
        shapes[name] = shape
        continue
      if variable.name in sources:
        raise errors.UserError(
          variables.explain_two_of_one(
            path, variable, sources[variable.name].name, name
          )
        )
      if dtype not in (*_FLOATS, *pickles.FLOATS):
        allowed = ", ".join(_FLOATS)
        raise errors.UserError(
          f"{shard}: {name} is of the type {dtype}; weights must be one of"
          f" {allowed}: take the model as it was before quantization"
        )
      is_transposed = variable.is_transposed
      shapes[variable.name] = shape[::-1] if is_transposed else shape
      sources[variable.name] = Source(shard, name, is_transposed, load)
  return Weights(shapes, sources)


def _list_tensors(path):
  """Returns (name, shape, type, load) of each tensor; see `Source`."""
  if path.endswith(".safetensors"):
    return _read_header(path)
  with _local_copy(path) as local:
    tensors = pickles.list_tensors(local)
  return [
    (
      name,
      tensor.shape,
      tensor.dtype,
      functools.partial(pickles.read_tensor, tensor=tensor),
    )
    for name, tensor in tensors.items()
  ]


def write_tensorflow_checkpoint(sources, prefix):
  """Writes weights as float32 to a TensorFlow checkpoint.

  Memory holds the weights once; remote files are copied to this machine
  meanwhile.

  Args:
    sources: {name: `Source`}.
    prefix: of the checkpoint; its folder is made if need be.

  Raises:
    UserError: the values in a file are damaged.
  """
  tf.io.gfile.makedirs(os.path.dirname(prefix) or ".")
  # Read inside the graph: as constants the weights could not pass 2 GB, and
  # fed they would be held twice. A GPU would be claimed for nothing.
  on_cpu = tf.ConfigProto(device_count={"GPU": 0})
  with (
    contextlib.ExitStack() as copies,
    tf.Graph().as_default(),
    tf.Session(config=on_cpu) as session,
  ):
    local = {
      path: copies.enter_context(_local_copy(path))
      for path in {source.path for source in sources.values()}
    }
    mistakes = []
    counter = progress.Counter("converted", len(sources), unit="weight")
    readers = [
      functools.partial(
        _read_weight, source, local[source.path], mistakes, counter
      )
      for source in sources.values()
    ]
    tensors = [tf.numpy_function(read, [], tf.float32) for read in readers]
    save = tf.raw_ops.SaveV2(
      prefix=prefix,
      tensor_names=list(sources),
      shape_and_slices=[""] * len(tensors),
      tensors=tensors,
    )
    try:
      session.run(save)
    except tf.errors.OpError as error:
      # TensorFlow makes another error of one that a function raises.
      raise mistakes[0] if mistakes else error from None
    finally:
      status_line.STATUS.clear()


def list_not_finite(sources):
  """Returns the names of the weights that hold NaN or infinity; reads them all.

  Args:
    sources: {name: `Source`}.
  """
  with contextlib.ExitStack() as copies:
    local = {
      path: copies.enter_context(_local_copy(path))
      for path in {source.path for source in sources.values()}
    }
    return [
      name
      for name, source in sources.items()
      if not np.isfinite(np.float32(source.load(local[source.path]))).all()
    ]


def _import_safetensors():
  try:
    import safetensors
  except ImportError as error:
    raise errors.UserError(
      "reading a .safetensors file needs the library safetensors: pip install"
      " safetensors"
    ) from error
  return safetensors


def _list_shards(path):
  """Returns the safetensors files: the path itself, or those it lists."""
  if not path.endswith(".json"):
    return [path]
  try:
    listed = sorted(set(files.read_json(path)["weight_map"].values()))
    shards = [os.path.join(os.path.dirname(path), name) for name in listed]
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise errors.UserError(
      f"{path} is not the index of a model in several files: its"
      " JSON must map names to files under weight_map"
    ) from error
  for shard in shards:
    if not tf.io.gfile.exists(shard):
      raise errors.MissingFileError(
        f"half a checkpoint: {path} lists {shard}, which is not there"
      )
  return shards


@contextlib.contextmanager
def _local_copy(path, *, header_only=False):
  """Yields a path that the library can open, of a copy where need be.

  Args:
    path: a safetensors file.
    header_only: the copy needs no weights, only the length that they give it.
  """
  if not files.is_remote(path):
    yield path
    return
  with tempfile.TemporaryDirectory() as folder:
    copy = os.path.join(folder, os.path.basename(path))
    if header_only:
      _copy_header(path, copy)
    else:
      tf.io.gfile.copy(path, copy)
    yield copy


def _copy_header(path, copy):
  """Copies the header of a remote file; a hole takes the place of the rest."""
  length = tf.io.gfile.stat(path).length
  with tf.io.gfile.GFile(path, "rb") as reader, open(copy, "wb") as writer:
    start = reader.read(8)  # the length of the header
    writer.write(start)
    wanted = int.from_bytes(start, "little")
    writer.write(reader.read(min(wanted, length - len(start))))
    writer.truncate(length)


def _read_header(path):
  """Returns (name, shape, type, load) of each tensor of a safetensors file."""
  library = _import_safetensors()
  try:
    with (
      _local_copy(path, header_only=True) as local,
      library.safe_open(local, framework="np") as tensors,
    ):
      names = tensors.keys()
      slices = [(name, tensors.get_slice(name)) for name in names]
      return [
        (
          name,
          tuple(part.get_shape()),
          part.get_dtype(),
          functools.partial(_load_tensor, name=name),
        )
        for name, part in slices
      ]
  except library.SafetensorError as error:
    raise errors.UserError(
      f"{path} is damaged, cut off or no safetensors file; copy or download it"
      f" again ({error})"
    ) from error
  except OSError as error:  # of the library, which does not name the file
    raise errors.UserError(f"{path} cannot be read: {error}") from error


def _load_tensor(path, name):
  """Returns the values of a tensor in a safetensors file."""
  with _import_safetensors().safe_open(path, framework="np") as tensors:
    return tensors.get_tensor(name)


def _read_weight(source, path, mistakes, counter):
  """Returns <float32>[...], one tensor, its axes in TensorFlow's order.

  Args:
    source: `Source`.
    path: of its file on this machine.
    mistakes: list to which a UserError is added before it is raised.
    counter: `progress.Counter`.
  """
  try:
    weight = source.load(path)
    counter.add(1)
  except errors.UserError as error:
    mistakes.append(error)
    raise
  weight = weight.T if source.is_transposed else weight
  if source.order is not None:
    weight = weight[list(source.order)]
  return np.ascontiguousarray(weight, np.float32)
