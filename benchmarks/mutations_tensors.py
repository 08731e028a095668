"""Mutations of weights: safetensors files and checkpoints of TensorFlow.

Functions as those of mutations_files.py.
"""

import json
import shutil
import struct

import mutations_world
import numpy as np
import tensorflow.compat.v1 as tf


def _change_tensors(change):
  """Returns a mutation of one tensor of a checkpoint or safetensors file."""

  def mutate(rng, path, world):
    is_checkpoint = path.suffix != ".safetensors"
    if is_checkpoint:
      if ".data-" not in path.name:
        return None
      prefix = path.with_name(path.name.partition(".data-")[0])
      reader = tf.train.load_checkpoint(str(prefix))
      names = sorted(reader.get_variable_to_shape_map())
      tensors = {name: reader.get_tensor(name) for name in names}
    else:
      from safetensors.numpy import load_file, save_file

      tensors = load_file(str(path))
    model = [n for n in sorted(tensors) if "adam" not in n and "step" not in n]
    name = rng.choice(model if rng.random() < 0.8 else sorted(tensors))
    said = change(rng, tensors, name)
    if said is None:
      return None
    if is_checkpoint:
      mutations_world.write_checkpoint(prefix, tensors)
    else:
      save_file(
        {k: np.ascontiguousarray(v) for k, v in tensors.items()}, str(path)
      )
    return f"{name}: {said}"

  mutate.__name__ = change.__name__
  return mutate


@_change_tensors
def drop_tensor(rng, tensors, name):
  del tensors[name]
  return "dropped"


@_change_tensors
def rename_tensor(rng, tensors, name):
  new = rng.choice([f"model.{name}", name[1:], name.upper(), f"{name}_1"])
  tensors[new] = tensors.pop(name)
  return f"renamed to {new}"


@_change_tensors
def swap_tensors(rng, tensors, name):
  shape = np.shape(tensors[name])
  alike = [n for n in sorted(tensors) if np.shape(tensors[n]) == shape]
  other = rng.choice(alike)
  tensors[name], tensors[other] = tensors[other], tensors[name]
  return f"swapped with {other}"


@_change_tensors
def reshape_tensor(rng, tensors, name):
  value = np.asarray(tensors[name])
  tensors[name] = rng.choice(
    [
      value[None],
      value.reshape(-1),
      value.T,
      value[:-1] if value.ndim else value,
    ]
  )
  return f"{value.shape} is {np.shape(tensors[name])}"


@_change_tensors
def cast_tensor(rng, tensors, name):
  if np.asarray(tensors[name]).dtype != np.float32:
    return None
  new = rng.choice(["float16", "float64", "int32", "int8"])
  tensors[name] = tensors[name].astype(new)
  return f"as {new}"


@_change_tensors
def cast_all(rng, tensors, name):
  new = rng.choice(["float16", "float64"])
  for other, value in tensors.items():
    if np.asarray(value).dtype == np.float32:
      tensors[other] = value.astype(new)
  return f"all as {new}"


@_change_tensors
def put_not_finite(rng, tensors, name):
  value = np.array(tensors[name])
  if value.dtype != np.float32 or not value.ndim:
    return None
  new = rng.choice([np.nan, np.inf, -np.inf])
  if rng.random() < 0.3:
    value[...] = new
  else:
    value.reshape(-1)[rng.randrange(value.size)] = new
  tensors[name] = value
  return f"{new} in it"


@_change_tensors
def put_zeros_or_large(rng, tensors, name):
  value = np.asarray(tensors[name])
  factor = rng.choice([0, -1, 1e4, 1e30])
  with np.errstate(all="ignore"):
    tensors[name] = (value * factor).astype(value.dtype)
  return f"times {factor}"


@_change_tensors
def add_tensor(rng, tensors, name):
  new = rng.choice(["extra", "bert/encoder/layer_1/output/dense/bias", "cls/x"])
  tensors[new] = np.zeros([16], np.float32)
  return f"{new} added"


def change_header(rng, path, world):
  """Changes the header of a safetensors file, its length corrected or not."""
  if path.suffix != ".safetensors":
    return None
  data = path.read_bytes()
  (size,) = struct.unpack("<Q", data[:8])
  header = json.loads(data[8 : 8 + size])
  name = rng.choice(sorted(header))
  entry = header[name]
  what = rng.randrange(6)
  if what == 0:
    entry["data_offsets"][rng.randrange(2)] += rng.choice([-4, 4, 10**12])
  elif what == 1:
    entry["dtype"] = rng.choice(["F16", "BF16", "I32", "X", "f32", None])
  elif what == 2:
    entry["shape"] = rng.choice([[], [1], [-1], [10**12, 10**12], None, "x"])
  elif what == 3:
    header["__metadata__"] = rng.choice([None, {"format": "pt"}, {"a": 1}])
  elif what == 4:
    size = rng.choice([0, size - 1, size + 1, 2**63, 2**40])
    path.write_bytes(struct.pack("<Q", size) + data[8:])
    return f"length of the header {size}"
  else:
    del entry["shape"]
  new = json.dumps(header).encode()
  start = 8 + struct.unpack("<Q", data[:8])[0]
  path.write_bytes(struct.pack("<Q", len(new)) + new + data[start:])
  return f"header of {name}: {entry}"


def swap_with_other_model(rng, path, world):
  """Takes the same file of a model of the same sizes."""
  other = world / "other" / path.name
  if not other.exists():
    return None
  shutil.copyfile(other, path)
  return f"replaced by that of other/{path.name}"


def swap_whole_checkpoint(rng, path, world):
  """Takes both files of another model's checkpoint."""
  if path.name.partition(".")[0] != "bert_model":
    return None
  for other in sorted((world / "other").glob("bert_model.ckpt.*")):
    shutil.copyfile(other, path.with_name(other.name))
  return "index and data replaced by those of other/"


TENSORS = [
  *[drop_tensor, rename_tensor, swap_tensors, reshape_tensor, cast_tensor],
  *[cast_all, put_not_finite, put_not_finite, put_zeros_or_large, add_tensor],
]


def edit_state(rng, path, world):
  """Changes the state file `checkpoint`."""
  if path.name != "checkpoint":
    return None
  text = path.read_text()
  new = rng.choice(
    [
      'model_checkpoint_path: ""\n',
      'model_checkpoint_path: "model.ckpt-99"\n',
      'model_checkpoint_path: "/nowhere/model.ckpt-6"\n',
      'model_checkpoint_path: "../bert/bert_model.ckpt"\n',
      text.replace('"', ""),
      text.replace('"', "'"),
      text.partition("\n")[0],
      text + text,
      "\n".join(reversed(text.splitlines())),
      text.replace("model.ckpt-6", "model.ckpt-06"),
      text + "unknown_field: 3\n",
    ]
  )
  path.write_text(new)
  return f"{new!r}"
