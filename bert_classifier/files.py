"""Files: read line by line, written whole or not at all.

All through `tf.io.gfile`, so that gs:// works wherever a local path does.
"""

import codecs
import contextlib
import hashlib
import json
import os
import re
import socket

import tensorflow.compat.v1 as tf

_CHUNK_BYTES = 1 << 20


@contextlib.contextmanager
def appearing_whole(path):
  """Gives a temporary name beside `path`, renamed to it if all went well.

  What is written under the temporary name shows up under the real one complete
  or not at all, also when the process is killed or another one writes the same
  file. What a killed one left is taken away when the file is written again.
  """
  _remove_abandoned(path)
  temporary = f"{path}.tmp-{socket.gethostname()}-{os.getpid()}"
  try:
    yield temporary
    tf.io.gfile.rename(temporary, path, overwrite=True)
  except BaseException:
    if tf.io.gfile.exists(temporary):
      tf.io.gfile.remove(temporary)
    raise


def real_path(path):
  """A path that means the same from everywhere, links resolved."""
  return path if "://" in path else os.path.realpath(path)


def matching(folder, pattern):
  """Paths in a folder whose names match a regular expression as a whole.

  A glob would not find a folder with a name such as `runs[1]`.
  """
  names = tf.io.gfile.listdir(folder) if tf.io.gfile.isdir(folder) else []
  names = (name for name in names if re.fullmatch(pattern, name))
  return [os.path.join(folder, name) for name in sorted(names)]


def _remove_abandoned(path):
  """Removes temporary files that ended processes of this machine left."""
  folder, name = os.path.split(path)
  ours = re.escape(f"{name}.tmp-{socket.gethostname()}-") + r"\d+"
  for temporary in matching(folder or ".", ours):
    if not _is_running(temporary.rpartition("-")[2]):
      with contextlib.suppress(tf.errors.NotFoundError):  # another was faster
        tf.io.gfile.remove(temporary)


def _is_running(pid):
  """Whether a process of that number, in digits, is there; True if unsure."""
  if os.name != "posix":
    return True  # under Windows os.kill would end it
  try:
    os.kill(int(pid), 0)
  except ProcessLookupError:
    return False
  except (OSError, ValueError):
    return True
  return True


def is_writable(folder):
  """Whether a file can be made in a folder."""
  probe = os.path.join(
    folder, f".writable-{socket.gethostname()}-{os.getpid()}"
  )
  try:
    with tf.io.gfile.GFile(probe, "w") as writer:
      writer.write("")
    tf.io.gfile.remove(probe)
  except tf.errors.OpError:
    return False
  return True


def write_text(path, lines):
  """Writes an iterable of strings to a UTF-8 file that appears whole."""
  with (
    appearing_whole(path) as temporary,
    tf.io.gfile.GFile(temporary, "w") as writer,
  ):
    for line in lines:
      writer.write(line)


def read_text(path):
  """The whole of a file, byte for byte, as far as UTF-8 allows."""
  with tf.io.gfile.GFile(path, "rb") as reader:
    return reader.read().decode("utf-8")


def write_json(path, value):
  """Writes a value as JSON, keys sorted, to a file that appears whole."""
  write_text(path, [json.dumps(value, indent=2, sort_keys=True) + "\n"])


def read_json(path):
  """The value in a JSON file, or None where it is missing or broken."""
  try:
    with tf.io.gfile.GFile(path, "r") as reader:
      return json.loads(reader.read())
  except (tf.errors.OpError, ValueError):
    return None


def read_lines(path, sha256=None):
  """Yields (1-based line number, text) of a UTF-8 file, empty lines left out.

  Lines end in LF or CRLF; in CR only where the file has no LF. Memory stays
  bounded by the longest line.

  Args:
    sha256: a `hashlib` object to update with the bytes that are read; at the
      end of the file it holds what `digest` would give.

  Raises:
    ValueError: bytes that are not UTF-8; names file and line.
  """
  number = 1
  for block in _blocks_of_lines(path, sha256):
    try:
      text = block.decode("utf-8")
    except UnicodeDecodeError as error:
      line = number + block.count(b"\n", 0, error.start)
      raise ValueError(
        f"{path}:{line}: the byte 0x{block[error.start]:02x} is not UTF-8;"
        " save the file in that encoding"
      ) from error
    lines = text.split("\n")
    for line in lines:
      if line.endswith("\r"):
        line = line[:-1]
      if line:
        yield number, line
      number += 1


def _blocks_of_lines(path, sha256):
  """Yields the file in blocks of whole lines, each less its last LF."""
  with tf.io.gfile.GFile(path, "rb") as reader:
    only_cr = not any(b"\n" in chunk for chunk in _chunks(reader))
    reader.seek(0)
    rest = b""
    for index, chunk in enumerate(_chunks(reader)):
      if sha256:
        sha256.update(chunk)
      if index == 0:
        chunk = chunk.removeprefix(codecs.BOM_UTF8)
      if only_cr:
        chunk = chunk.replace(b"\r", b"\n")
      lines, newline, tail = chunk.rpartition(b"\n")
      if newline:
        yield rest + lines
        rest = tail
      else:
        rest += chunk
  if rest:
    yield rest


def _chunks(reader):
  while chunk := reader.read(_CHUNK_BYTES):
    yield chunk


def digest(path):
  """SHA-256 of a file's bytes, in hexadecimal."""
  sha256 = hashlib.sha256()
  with tf.io.gfile.GFile(path, "rb") as reader:
    for chunk in _chunks(reader):
      sha256.update(chunk)
  return sha256.hexdigest()
