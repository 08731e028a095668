"""Files: atomic writes, reading line by line, digests.

All access goes through `tf.io.gfile`, so that gs:// works wherever a local path
does.
"""

import codecs
import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import socket
import time

import tensorflow.compat.v1 as tf

from bert_classifier import errors

_CHUNK_BYTES = 1 << 20
_SECONDS_A_DAY = 24 * 60 * 60


@contextlib.contextmanager
def atomic_write(path):
  """Yields a temporary path in the same folder, then renames it to `path`.

  A reader finds the old file or the whole new one, also when the process is
  killed or another one writes the same file. A local file is on the disk before
  it is renamed, so that a power cut leaves no empty one. An exception removes
  the temporary file; that of a killed process is removed by a later write,
  from a day on.
  """
  temporary = _make_temporary_path(path)
  try:
    yield temporary
    sync(temporary)
    tf.io.gfile.rename(temporary, path, overwrite=True)
  except BaseException:
    if tf.io.gfile.exists(temporary):
      tf.io.gfile.remove(temporary)
    raise
  sync_folder(os.path.dirname(path))


@contextlib.contextmanager
def temporary_folder(path):
  """Yields the path of a folder beside `path`, and removes it in the end.

  It is not made yet. That of a killed process is removed by a later call of the
  same `path`, from a day on.
  """
  folder = _make_temporary_path(path)
  try:
    yield folder
  finally:
    if tf.io.gfile.isdir(folder):
      tf.io.gfile.rmtree(folder)


def _make_temporary_path(path):
  """Returns a path beside `path` that no other process uses."""
  _remove_abandoned(path)
  # Containers may share host name and process id: hence the random part.
  return f"{_name_temporary(path)}{os.getpid()}-{secrets.token_hex(4)}"


def _name_temporary(path):
  return f"{path}.tmp-{socket.gethostname()}-"


def _is_remote(path):
  return "://" in path


def sync(path, flags=os.O_RDWR):
  """Returns when a file is on the disk; at once where it is a remote one."""
  if _is_remote(path):
    return
  descriptor = os.open(path, flags)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def sync_folder(folder):
  """Makes the names in a folder last, where the system can."""
  if os.name != "posix":
    return  # Windows opens no folder
  try:
    sync(folder or ".", os.O_RDONLY)
  except OSError as error:
    if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems
      raise


def resolve_path(path):
  """Returns a path that means the same from everywhere, links resolved."""
  return path if _is_remote(path) else os.path.realpath(path)


def list_matching(folder, pattern):
  """Returns the paths in a folder whose whole names match a regular expression.

  A glob would not find a folder with a name such as `runs[1]`.
  """
  names = tf.io.gfile.listdir(folder) if tf.io.gfile.isdir(folder) else []
  names = (name.rstrip("/") for name in names)  # gs:// marks folders so
  names = (name for name in names if re.fullmatch(pattern, name))
  return [os.path.join(folder, name) for name in sorted(names)]


def _remove_abandoned(path):
  """Removes what ended processes of this machine left, a day or more ago.

  A host name may be that of several containers with one storage, in each of
  which other processes run: hence the day.
  """
  folder, name = os.path.split(path)
  start = _name_temporary(name)
  # Names without a random part are those of the version before.
  ours = re.escape(start) + r"\d+(-[0-9a-f]+)?"
  for temporary in list_matching(folder or ".", ours):
    process = os.path.basename(temporary)[len(start) :].partition("-")[0]
    # Another process may be faster, or the file may be another user's.
    with contextlib.suppress(tf.errors.OpError):
      if not _is_running(process) and _is_a_day_old(temporary):
        remove(temporary)


def _is_running(pid):
  """Returns False where no process has that number, True if unsure."""
  if os.name != "posix":
    return True  # under Windows os.kill would end it
  try:
    os.kill(int(pid), 0)
  except ProcessLookupError:
    return False
  except (OSError, ValueError):
    return True
  return True


def _is_a_day_old(path):
  """Returns True where nothing was written to a file or folder for a day."""
  paths = [path]
  if tf.io.gfile.isdir(path):
    paths += list_matching(path, ".*")
  written = max(tf.io.gfile.stat(path).mtime_nsec for path in paths) / 1e9
  return time.time() - written > _SECONDS_A_DAY


def remove(path):
  """Removes a file, or a folder with all that it holds."""
  if tf.io.gfile.isdir(path):
    tf.io.gfile.rmtree(path)
  else:
    tf.io.gfile.remove(path)


def is_writable(folder):
  """Returns True where a file can be made in a folder."""
  probe = os.path.join(folder, f".writable-{secrets.token_hex(8)}")
  try:
    with tf.io.gfile.GFile(probe, "w") as writer:
      writer.write("")
    tf.io.gfile.remove(probe)
  except tf.errors.OpError:
    return False
  return True


def write_text(path, lines):
  """Writes an iterable of strings to a UTF-8 file, atomically."""
  with (
    atomic_write(path) as temporary,
    tf.io.gfile.GFile(temporary, "w") as writer,
  ):
    for line in lines:
      writer.write(line)


def read_text(path):
  """Returns the text of a UTF-8 file, its line ends as they are."""
  with tf.io.gfile.GFile(path, "rb") as reader:
    return reader.read().decode("utf-8")


def write_json(path, value):
  """Writes a value as JSON, keys sorted, atomically."""
  write_text(path, [json.dumps(value, indent=2, sort_keys=True) + "\n"])


def read_json(path):
  """Returns the value in a JSON file, None where it is missing or broken.

  Raises:
    tf.errors.OpError: it is there, but cannot be read.
  """
  try:
    with tf.io.gfile.GFile(path, "r") as reader:
      return json.loads(reader.read())
  except (tf.errors.NotFoundError, ValueError):
    return None


def read_lines(path, sha256=None):
  """Yields (1-based line number, text) of a UTF-8 file, empty lines left out.

  Lines end in LF or CRLF; in CR only where the file has no LF. Memory stays
  bounded by the longest line.

  Args:
    sha256: a `hashlib` object to update with the bytes that are read; at the
      end of the file it holds what `hash_file` would return.

  Raises:
    UserError: bytes that are not UTF-8; names file and line.
  """
  number = 1
  for block in _blocks_of_lines(path, sha256):
    try:
      text = block.decode("utf-8")
    except UnicodeDecodeError as error:
      line = number + block.count(b"\n", 0, error.start)
      raise errors.UserError(
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
  """Yields the file in blocks of whole lines, each without its last LF."""
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


def hash_file(path):
  """Returns the SHA-256 of a file's bytes, in hexadecimal."""
  sha256 = hashlib.sha256()
  with tf.io.gfile.GFile(path, "rb") as reader:
    for chunk in _chunks(reader):
      sha256.update(chunk)
  return sha256.hexdigest()
