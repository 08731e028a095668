"""TensorFlow's checkpoints: names, types, and how they become our variables.

Checkpoints of 2018 name a variable as the model does and hold float32; those
are read as they are. Others are written anew: with the scope of a training
program before the names, of another floating type, or in TensorFlow 2's form,
which names variables by where they hang in an object.
"""

import dataclasses
import errno
import os

import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

from bert_classifier import errors, files, variables

_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_FLOATS = (tf.float32, tf.float16, tf.bfloat16, tf.float64)


@dataclasses.dataclass(frozen=True)
class Weights:
  """The variables in a checkpoint, their values not read yet.

  Attributes:
    prefix: of the checkpoint.
    shapes: {name: shape}, under the model's name; under its own name what is no
      variable of this model.
    keys: {name: name in the file} of the variables of this model.
    dtypes: {name: type} of the same.
    size: bytes of all values together.
  """

  prefix: str
  shapes: dict
  keys: dict
  dtypes: dict
  size: int

  @property
  def must_be_converted(self):
    """Returns whether a name or a type is not the model's own."""
    return any(name != key for name, key in self.keys.items()) or any(
      dtype != tf.float32 for dtype in self.dtypes.values()
    )

  def convert(self, prefix):
    """Writes the variables of the model as float32 to a new checkpoint.

    Memory holds them once.

    Args:
      prefix: of the new checkpoint; its folder is made if need be.
    """
    _copy(self.prefix, self.keys, self.dtypes, prefix, tf.float32)


def copy_variables(source, names, prefix):
  """Writes some variables of a checkpoint to a new one.

  Args:
    source, prefix: of the two checkpoints.
    names: of the variables.
  """
  dtypes = tf.train.NewCheckpointReader(source).get_variable_to_dtype_map()
  _copy(source, {name: name for name in names}, dtypes, prefix)


def _copy(source, keys, dtypes, prefix, to=None):
  """Writes variables to a new checkpoint; memory holds them once.

  Args:
    source, prefix: of the two checkpoints; the new one's folder is made.
    keys: {name: name in the source}.
    dtypes: {name: type} in the source.
    to: type to be written; that in the source where not given.
  """
  tf.io.gfile.makedirs(os.path.dirname(prefix) or ".")
  # A GPU would be claimed for nothing.
  on_cpu = tf.ConfigProto(device_count={"GPU": 0})
  unsliced = [""] * len(keys)
  with tf.Graph().as_default(), tf.Session(config=on_cpu) as session:
    values = tf.raw_ops.RestoreV2(
      prefix=source,
      tensor_names=list(keys.values()),
      shape_and_slices=unsliced,
      dtypes=[dtypes[name] for name in keys],
    )
    save = tf.raw_ops.SaveV2(
      prefix=prefix,
      tensor_names=list(keys),
      shape_and_slices=unsliced,
      tensors=[tf.cast(value, to or value.dtype) for value in values],
    )
    session.run(save)


def open_weights(prefix):
  """Returns the `Weights` of a checkpoint.

  Args:
    prefix: of a checkpoint whose files are there; may be remote.

  Raises:
    UserError: it is damaged, a variable's values are no numbers to compute
      with, or it is of TensorFlow 2 and nothing tells what is what.
  """
  files.refuse_pattern(prefix)
  try:
    reader = tf.train.NewCheckpointReader(prefix)
    shapes = reader.get_variable_to_shape_map()
  except (IndexError, RuntimeError, ValueError, tf.errors.OpError) as error:
    if os.strerror(errno.EACCES) in str(error):
      raise errors.UserError(f"{prefix} cannot be read: {error}") from error
    raise errors.UserError(
      f"{prefix}.index is damaged or cut off; copy or download the checkpoint"
      f" again ({error})"
    ) from error
  dtypes = reader.get_variable_to_dtype_map()
  size = sum(
    int(np.prod(shape)) * dtypes[key].size
    for key, shape in shapes.items()
    if dtypes[key] != tf.string
  )
  names = {key: key for key in sorted(shapes)}
  if _OBJECT_GRAPH in shapes:
    names.update(_read_object_graph(prefix, reader))
  found = Weights(prefix, {}, {}, {}, size)
  for key, name in names.items():
    _add(found, key, name, tuple(shapes[key]), dtypes[key])
  if _OBJECT_GRAPH in shapes and not found.keys:
    raise errors.UserError(_explain_object_graph(prefix))
  return found


def list_not_finite(prefix):
  """Returns the names in a checkpoint whose values hold NaN or infinity.

  Args:
    prefix: of a checkpoint whose files are there. All its values are read.
  """
  reader = tf.train.NewCheckpointReader(prefix)
  return [
    name
    for name, dtype in sorted(reader.get_variable_to_dtype_map().items())
    if dtype.is_floating
    and not np.isfinite(reader.get_tensor(name).astype(np.float32)).all()
  ]


def _add(weights, key, name, shape, dtype):
  """Adds what is in the file under a key, whose variable had that name."""
  variable = variables.find_variable(name)
  if variable is None:
    weights.shapes[key] = shape
    return
  if variable.name in weights.keys:
    raise errors.UserError(
      variables.explain_two_of_one(
        weights.prefix, variable, weights.keys[variable.name], key
      )
    )
  if dtype not in _FLOATS:
    allowed = ", ".join(kind.name for kind in _FLOATS)
    raise errors.UserError(
      f"{weights.prefix}: {key} is of the type {dtype.name}, but weights must"
      f" be one of {allowed}: take the model as it was before quantization, or"
      " the checkpoint that training wrote"
    )
  weights.shapes[variable.name] = shape
  weights.keys[variable.name] = key
  weights.dtypes[variable.name] = dtype


def _read_object_graph(prefix, reader):
  """Returns {key: name} of the variables that knew their names when saved."""
  graph = trackable_object_graph_pb2.TrackableObjectGraph()
  try:
    graph.ParseFromString(reader.get_tensor(_OBJECT_GRAPH))
  except (tf.errors.OpError, ValueError, TypeError) as error:
    raise errors.UserError(
      f"{prefix} is damaged: its {_OBJECT_GRAPH} cannot be read ({error})"
    ) from error
  return {
    attribute.checkpoint_key: attribute.full_name
    for node in graph.nodes
    for attribute in node.attributes
    if attribute.full_name and reader.has_tensor(attribute.checkpoint_key)
  }


def _explain_object_graph(prefix):
  return (
    f"{prefix} is a checkpoint in TensorFlow 2's object-based form, whose"
    " names say where a variable hangs in a Python object and not what it is,"
    " so it is not read. Take the same model in the form of 2018"
    " (bert_model.ckpt, whose variables are bert/embeddings/word_embeddings and"
    " so on) or in Hugging Face's (model.safetensors)"
  )
