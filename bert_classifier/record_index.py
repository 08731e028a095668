"""Where each record of a TFRecord file begins, and reading records by number.

A file of n records has an index, of 8 bytes a record, and lengths, of 2 bytes.
Both are made in one pass when they are missing, and say which file they are of:

  numbers        little-endian: the beginning of each record, and the end of the
                 last, <uint64>[n + 1]; or the tokens of each, <uint16>[n]
  16 bytes       "record index 1" or "lengths 1", padded with zeros
  32 bytes       SHA-256 of the TFRecord file
  32 bytes       SHA-256 of the numbers
"""

import array
import hashlib
import os
import shutil
import struct
import tempfile
import threading
from typing import NamedTuple
import weakref

from absl import logging
import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import files
from bert_classifier.errors import UserError


class Kind(NamedTuple):
  """A kind of file: the type of its numbers, its ending, its name inside."""

  dtype: np.dtype
  ending: str
  name: bytes


OFFSETS = Kind(np.dtype("<u8"), "index", b"record index 1")
LENGTHS = Kind(np.dtype("<u2"), "lengths", b"lengths 1")
_FOOTER = struct.Struct("<16s32s32s")
_CHUNK_BYTES = 16 << 20
# A record stands between its length, of 8 bytes with a checksum of 4, and a
# checksum of 4.
_LENGTH = struct.Struct("<Q")
_BEFORE, _AFTER = 12, 4


def find_or_make(paths, kind, sha256, count, make):
  """Returns the path of a file of numbers, written if need be.

  Args:
    paths: where it may be, and as the last where it is made.
    kind: `OFFSETS` or `LENGTHS`.
    sha256: of the TFRecord file that it is of, in hexadecimal digits.
    count: of the numbers.
    make: function without arguments that gives the numbers, an iterable of
      arrays.
  """
  for path in paths:
    if _is_right(path, kind, sha256, count):
      return path
  with files.atomic_write(path) as temporary:
    _write(temporary, kind, sha256, make())
  return path


def _is_right(path, kind, sha256, count):
  """Returns True for a whole file of the kind, of the TFRecord file."""
  size = kind.dtype.itemsize * count
  try:
    if tf.io.gfile.stat(path).length != size + _FOOTER.size:
      return False
    digest = hashlib.sha256()
    with tf.io.gfile.GFile(path, "rb") as reader:
      for begin in range(0, size, _CHUNK_BYTES):
        digest.update(reader.read(min(_CHUNK_BYTES, size - begin)))
      footer = reader.read(_FOOTER.size)
  except tf.errors.NotFoundError:
    return False
  return footer == _footer(kind, sha256, digest)


def _write(path, kind, sha256, arrays):
  digest = hashlib.sha256()
  with tf.io.gfile.GFile(path, "wb") as writer:
    for numbers in arrays:
      content = np.array(numbers, kind.dtype).tobytes()
      writer.write(content)
      digest.update(content)
    writer.write(_footer(kind, sha256, digest))


def _footer(kind, sha256, digest):
  return _FOOTER.pack(kind.name, bytes.fromhex(sha256), digest.digest())


def read_array(path, kind):
  """Returns the numbers of a file: <kind.dtype>[count].

  Those of this machine's file are read from it where they are needed.
  """
  if files.is_remote(path):
    with tf.io.gfile.GFile(path, "rb") as reader:
      content = reader.read()
  else:
    content = np.memmap(path, np.uint8, "r")
  return np.frombuffer(content[: -_FOOTER.size], kind.dtype)


def scan_offsets(path):
  """Yields where the records of a whole TFRecord file begin, and its end.

  Each time an array of some more of the n + 1 offsets.
  """
  content, begin = b"", 0  # what is read and not passed yet, and where it is
  with tf.io.gfile.GFile(path, "rb") as reader:
    while chunk := reader.read(_CHUNK_BYTES):
      content += chunk
      offsets, place = array.array("Q"), 0
      while place + _LENGTH.size <= len(content):
        (length,) = _LENGTH.unpack_from(content, place)
        end = place + _BEFORE + length + _AFTER
        if end > len(content):
          break
        offsets.append(begin + place)
        place = end
      content, begin = content[place:], begin + place
      yield offsets
  yield array.array("Q", [begin])


class RecordReader:
  """Reads the records of a TFRecord file by their numbers.

  By an offset and a length a record, without a map of the file into memory,
  where every page that was read would count as this process's. Several threads
  may read at a time. A file that is not of this machine is copied into a
  temporary one first, for which the disk must have room.

  Args:
    path: the TFRecord file.
    index_path: its index.

  Raises:
    UserError: there is no room for the copy.
  """

  def __init__(self, path, index_path):
    self._path = path
    self._offsets = read_array(index_path, OFFSETS)
    if files.is_remote(path):
      self._file = _copy_here(path)
    else:
      self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    weakref.finalize(self, os.close, self._file)
    self._lock = threading.Lock()  # where there is no pread
    _announce_random_reading(self._file)

  @property
  def num_records(self):
    """Returns n, the number of records."""
    return len(self._offsets) - 1

  def read(self, numbers):
    """Returns the bytes of records: <object>[m].

    Args:
      numbers: <int64>[m], each under n.

    Raises:
      OSError: the file cannot be read, or is no longer what it was.
    """
    starts = self._offsets[numbers] + np.uint64(_BEFORE)
    ends = self._offsets[numbers + 1] - np.uint64(_AFTER)
    sizes = (ends - starts).tolist()
    records = self._read_pieces(starts.tolist(), sizes)
    if [*map(len, records)] != sizes:
      raise OSError(f"{self._path} changed while it was in use")
    return np.array(records, object)

  def _read_pieces(self, starts, sizes):
    """Returns the list of the bytes that are so many from where each begins."""
    if hasattr(os, "pread"):
      file = self._file
      return [os.pread(file, size, start) for start, size in zip(starts, sizes)]
    pieces = []
    with self._lock:  # under Windows
      for start, size in zip(starts, sizes):
        os.lseek(self._file, start, os.SEEK_SET)
        pieces.append(os.read(self._file, size))
    return pieces


def _copy_here(path):
  """Returns the descriptor of a temporary copy of another machine's file."""
  size, folder = tf.io.gfile.stat(path).length, tempfile.gettempdir()
  free = shutil.disk_usage(folder).free
  if size > free:
    raise UserError(
      f"{path} has {size} bytes, and {folder}, into which it is copied to be"
      f" read in the order of training, has {free} left: set TMPDIR to a folder"
      " with more room, or give --shuffle_buffer_size to read it where it is"
    )
  logging.info("copying %s, %.2f GB, into %s", path, size / 1e9, folder)
  with (
    tempfile.TemporaryFile() as copy,
    tf.io.gfile.GFile(path, "rb") as reader,
  ):
    shutil.copyfileobj(reader, copy, _CHUNK_BYTES)
    copy.flush()
    return os.dup(copy.fileno())


def _announce_random_reading(file):
  """Tells the system not to read ahead, or it reads the file many times."""
  if hasattr(os, "posix_fadvise"):
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
