"""PyTorch's pickles: names, shapes and values, without PyTorch and its risk.

Loading a pickle executes whatever it names. Here it is read by an `Unpickler`
that knows the functions a tensor is made of and nothing else: whatever other
class or function a file names becomes an object that does nothing.

  tensors = list_tensors("pytorch_model.bin")
  read_tensor("pytorch_model.bin", tensors["bert.pooler.dense.bias"])

A file is a zip archive (from PyTorch 1.6 on, 2020) with the pickle and one
member for each storage, or (before) pickles one after the other and then the
storages. A tensor is a view of a storage: several may share one.
"""

import collections
import contextlib
import itertools
import math
import os
import pickle
import struct
from typing import NamedTuple
import zipfile

import numpy as np

from bert_classifier import errors

_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of a file of before 2020
_MEMBER = "data.pkl"  # in an archive

# NumPy's types of storages, by PyTorch's names of class and dtype. NumPy has no
# bfloat16: the upper half of a float32.
_BFLOAT16 = "bfloat16"
_TYPES = {
  "FloatStorage": "float32",
  "DoubleStorage": "float64",
  "HalfStorage": "float16",
  "BFloat16Storage": _BFLOAT16,
  "LongStorage": "int64",
  "IntStorage": "int32",
  "ShortStorage": "int16",
  "CharStorage": "int8",
  "ByteStorage": "uint8",
  "BoolStorage": "bool",
}
FLOATS = ("float32", "float64", "float16", _BFLOAT16)


class Tensor(NamedTuple):
  """Where a tensor is; what it counts is elements of its storage.

  Attributes:
    storage: key of the storage.
    dtype: a name in `_TYPES`' values, or what the file says.
    offset: of its first element.
    shape, strides: of its axes.
  """

  storage: str
  dtype: str
  offset: int
  shape: tuple
  strides: tuple


def list_tensors(path):
  """Returns {name: `Tensor`} of the model in a pickle.

  Args:
    path: a local file.

  Raises:
    UserError: it is damaged, or holds no weights, or those of several models.
  """
  with _damage_is_named(path), _open(path) as file:
    content = file.unpickle()
  return _find_state(content, path)


def read_tensor(path, tensor):
  """Returns the values of a `Tensor`, bfloat16 as float32.

  Raises:
    UserError: the file is damaged.
  """
  with _damage_is_named(path), _open(path) as file:
    data = file.read_storage(tensor.storage)
  dtype = np.dtype("uint16" if tensor.dtype == _BFLOAT16 else tensor.dtype)
  storage = np.frombuffer(data, dtype, len(data) // dtype.itemsize)
  last = tensor.offset + sum(
    (size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides)
  )
  negative = min((tensor.offset, *tensor.strides, *tensor.shape)) < 0
  if negative or (math.prod(tensor.shape) and last >= storage.size):
    raise errors.UserError(
      f"{path} is damaged: a tensor goes beyond its data; copy or download it"
      " again"
    )
  values = np.lib.stride_tricks.as_strided(
    storage[tensor.offset :],
    tensor.shape,
    [stride * dtype.itemsize for stride in tensor.strides],
    writeable=False,
  )
  if tensor.dtype == _BFLOAT16:
    return (values.astype(np.uint32) << 16).view(np.float32)
  return values


@contextlib.contextmanager
def _damage_is_named(path):
  """Makes a UserError of whatever a damaged or foreign file leads to."""
  try:
    yield
  except (errors.UserError, MemoryError, OSError):
    raise
  except Exception as error:  # a pickle can fail in any way
    raise errors.UserError(
      f"{path} cannot be read as a pickle of PyTorch: it is damaged, cut off or"
      " of another kind; copy or download it again, or save the model as"
      f" model.safetensors ({type(error).__name__}: {error})"
    ) from error


# ---------------------------------------------------------------------------
# Files


@contextlib.contextmanager
def _open(path):
  """Yields the file, of either form."""
  if zipfile.is_zipfile(path):
    with zipfile.ZipFile(path) as archive:
      yield _Archive(archive)
  else:
    with open(path, "rb") as reader:
      yield _Sequence(reader)


class _Archive:
  """A zip archive: PREFIX/data.pkl, and PREFIX/data/KEY for each storage."""

  def __init__(self, archive):
    self._archive = archive
    names = archive.namelist()
    self._pickle = next(n for n in names if os.path.basename(n) == _MEMBER)
    self._prefix = os.path.dirname(self._pickle)

  def unpickle(self):
    order = f"{self._prefix}/byteorder"
    is_said = order in self._archive.namelist()
    if is_said and self._archive.read(order) != b"little":
      raise ValueError("its numbers are big-endian")
    with self._archive.open(self._pickle) as reader:
      return _Unpickler(reader).load()

  def read_storage(self, key):
    return self._archive.read(f"{self._prefix}/data/{key}")


class _Sequence:
  """Pickles (magic number, version, system, content, keys), then storages."""

  def __init__(self, reader):
    self._reader = reader

  def unpickle(self):
    content, keys, sizes = self._read()
    for _, size in self._skip_to(keys, sizes):
      self._reader.seek(size, os.SEEK_CUR)
    end = self._reader.tell()
    if end > self._reader.seek(0, os.SEEK_END):
      raise EOFError("the data are cut off")
    return content

  def read_storage(self, key):
    _, keys, sizes = self._read()
    for name, size in self._skip_to(keys, sizes):
      if name == key:
        return self._reader.read(size)
      self._reader.seek(size, os.SEEK_CUR)
    raise KeyError(key)

  def _skip_to(self, keys, sizes):
    """Yields the key and the bytes of each storage, the reader before it."""
    for key in keys:
      (count,) = struct.unpack("<q", self._reader.read(8))
      yield key, count * sizes[key]

  def _read(self):
    """Returns content, keys in their order, and {key: bytes an element}."""
    if _Unpickler(self._reader).load() != _MAGIC:
      raise ValueError("it does not begin as PyTorch's files do")
    for _ in ("version", "system"):
      _Unpickler(self._reader).load()
    unpickler = _Unpickler(self._reader)
    content = unpickler.load()
    return content, _Unpickler(self._reader).load(), unpickler.element_sizes


# ---------------------------------------------------------------------------
# Unpickling


class _Storage(NamedTuple):
  key: str
  dtype: str
  offset: int  # where it is a view of another


class _Inert(dict):
  """Stands in for an object of any other class, and does nothing."""

  def __init__(self, *_, **__):
    super().__init__()

  def __setstate__(self, state):
    pass

  def __call__(self, *_, **__):
    return self

  def append(self, _):
    pass

  def extend(self, _):
    pass

  add = append

  def __hash__(self):
    return id(self)


def _make_tensor(storage, offset, shape, strides, *_):
  shape, strides = tuple(map(int, shape)), tuple(map(int, strides))
  return Tensor(
    storage.key, storage.dtype, storage.offset + offset, shape, strides
  )


def _make_typed_tensor(storage, offset, shape, strides, _, hooks, dtype, *__):
  """Makes a tensor whose storage is of bytes: the type is said beside it."""
  made = _make_tensor(storage, offset, shape, strides)
  return made._replace(dtype=str(dtype))


def _make_parameter(tensor, *_):
  return tensor


_KNOWN = {
  ("collections", "OrderedDict"): collections.OrderedDict,
  ("torch", "Size"): tuple,
  ("torch._utils", "_rebuild_tensor"): _make_tensor,
  ("torch._utils", "_rebuild_tensor_v2"): _make_tensor,
  ("torch._utils", "_rebuild_tensor_v3"): _make_typed_tensor,
  ("torch._utils", "_rebuild_parameter"): _make_parameter,
  ("torch._utils", "_rebuild_parameter_with_state"): _make_parameter,
}


class _Unpickler(pickle.Unpickler):
  """Makes tensors, dictionaries and lists; of anything else an `_Inert`.

  Attributes:
    element_sizes: {key of a storage: bytes an element}.
  """

  def __init__(self, reader):
    super().__init__(reader, encoding="utf-8")
    self.element_sizes = {}

  def find_class(self, module, name):
    if (module, name) in _KNOWN:
      return _KNOWN[module, name]
    if module == "torch" and (name in _TYPES or name in _TYPES.values()):
      return _TYPES.get(name, name)
    return type(name, (_Inert,), {})

  def persistent_load(self, pid):
    kind, dtype, key, _, _, *view = pid
    if kind != "storage":
      raise ValueError(f"it refers to a {kind!r:.80}")
    dtype = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", "?")
    size = 2 if dtype == _BFLOAT16 else 1
    if dtype in _TYPES.values() and dtype != _BFLOAT16:
      size = np.dtype(dtype).itemsize
    self.element_sizes[key] = size
    offset = view[0][1] if view and view[0] else 0
    return _Storage(key, dtype, offset)


# ---------------------------------------------------------------------------
# The model in what was saved

_WORDS = "embeddings.word_embeddings.weight"
# Dictionaries in dictionaries, as training programs save them, are shallow.
_DEEPEST = 4


def _find_state(content, path):
  """Returns the dictionary of tensors by name, however deep it is.

  Raises:
    UserError: there is none, or there are several models.
  """
  found = dict(_list_states(content, ()))
  models = {
    keys: state
    for keys, state in found.items()
    if any(name.endswith(_WORDS) for name in state)
  }
  if len(models) > 1:
    there = ", ".join(".".join(keys) or "the outermost" for keys in models)
    raise errors.UserError(
      f"{path} holds several models, under {there}: save the one that is to be"
      " used by itself"
    )
  if models or len(found) == 1:
    return next(iter((models or found).values()))
  if isinstance(content, _Inert):
    raise errors.UserError(
      f"{path} is a whole Python object, a {type(content).__name__}, whose code"
      " would have to be executed: save what its state_dict() gives, or the"
      " model as model.safetensors"
    )
  raise errors.UserError(
    f"{path} holds no weights of a BERT: there is no tensor whose name ends in"
    f" {_WORDS}"
  )


def _list_states(content, keys):
  """Yields (keys that lead to it, {name: Tensor}) of every dictionary."""
  if not isinstance(content, dict) or len(keys) > _DEEPEST:
    return
  state = {
    str(name): tensor
    for name, tensor in content.items()
    if isinstance(tensor, Tensor)
  }
  if state:
    yield keys, state
  inner = [
    _list_states(value, (*keys, str(key))) for key, value in content.items()
  ]
  yield from itertools.chain.from_iterable(inner)
