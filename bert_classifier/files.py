"""Files: atomic writes, reading line by line, digests.

All access goes through `tf.io.gfile`, so that gs:// works wherever a local path
does.
"""

import codecs
import contextlib
import datetime
import errno
import hashlib
import json
import os
import re
import secrets
import socket
import time

from absl import logging
import tensorflow.compat.v1 as tf

from bert_classifier import errors, foreign_files

try:
  import fcntl
except ImportError:  # under Windows
  fcntl = None

_CHUNK_BYTES = 1 << 20
_SECONDS_A_DAY = 24 * 60 * 60


@contextlib.contextmanager
def atomic_write(path):
  """Yields a temporary path in the same folder, then renames it to `path`.

  A reader finds the old file or the whole new one, also when the process is
  killed or another one writes the same file. A local file is on the disk before
  it is renamed, so that a power cut leaves no empty one. An exception removes
  the temporary file; see `remove_abandoned` for that of a killed process.
  """
  with _locked_temporary(path, _make_file) as temporary:
    yield temporary
    sync(temporary)
    tf.io.gfile.rename(temporary, path, overwrite=True)
  sync_folder(os.path.dirname(path))


@contextlib.contextmanager
def atomic_folder(path):
  """Yields the path of an empty folder, which becomes `path` in the end.

  As `atomic_write`: it appears with all its files, on the disk, or not at all.

  Args:
    path: of a folder that is not there, or is empty; those above it are made.
  """
  path = path.rstrip("/")
  tf.io.gfile.makedirs(os.path.dirname(path) or ".")
  with temporary_folder(path) as temporary:
    yield temporary
    for folder, _, names in tf.io.gfile.walk(temporary):
      for name in names:
        sync(os.path.join(folder, name))
      sync_folder(folder)
    tf.io.gfile.rename(temporary, path, overwrite=True)
  sync_folder(os.path.dirname(path))


@contextlib.contextmanager
def temporary_folder(path):
  """Yields the path of a folder beside `path`, and removes it in the end.

  It is there, unless it is a remote one, where folders need not be made. See
  `remove_abandoned` for that of a killed process.
  """
  with _locked_temporary(path, tf.io.gfile.makedirs) as folder:
    yield folder


@contextlib.contextmanager
def _locked_temporary(path, make):
  """Yields a path that no other process uses, and removes what is there.

  Args:
    path: what it is to be beside.
    make: function of a path that makes a file or folder there.
  """
  folder, name = os.path.split(path)
  remove_abandoned(folder, re.escape(name))
  lock = None
  while lock is None:  # another process took it for an abandoned one
    # Containers may share host name and process id: hence the random part.
    temporary = (
      f"{path}.tmp-{socket.gethostname()}-{os.getpid()}-{_BOOT}"
      f"-{secrets.token_hex(4)}"
    )
    if not is_remote(path):
      make(temporary)
    lock = _lock(temporary)
  try:
    yield temporary
  finally:
    if tf.io.gfile.exists(temporary):
      remove(temporary)
    _unlock(lock)


def _make_file(path):
  with tf.io.gfile.GFile(path, "w") as writer:
    writer.write("")


def is_remote(path):
  """Returns True for a path such as gs://bucket/folder."""
  return "://" in path


def sync(path, flags=os.O_RDWR):
  """Returns when a file is on the disk; at once where it is a remote one."""
  if is_remote(path):
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
  return path if is_remote(path) else os.path.realpath(path)


def refuse_pattern(path):
  """Raises a UserError for a path of a checkpoint that is a pattern, too.

  TensorFlow would look for checkpoints that match it.
  """
  signs = re.findall(r"[\[*?]|\\" if os.name == "posix" else r"[\[*?]", path)
  if signs:
    raise errors.UserError(
      f"{path} has {' '.join(sorted(set(signs)))} in it, which TensorFlow takes"
      " for a pattern where it looks for checkpoints: give the folder another"
      " name"
    )


def list_matching(folder, pattern):
  """Returns the paths in a folder whose whole names match a regular expression.

  A glob would not find a folder with a name such as `runs[1]`.
  """
  names = tf.io.gfile.listdir(folder) if tf.io.gfile.isdir(folder) else []
  names = (name.rstrip("/") for name in names)  # gs:// marks folders so
  names = (name for name in names if re.fullmatch(pattern, name))
  return [os.path.join(folder, name) for name in sorted(names)]


# What a start of the system is known by, to all of its containers and to no
# other machine; random where it has no such name.
try:
  with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as _reader:
    _BOOT = _reader.read(8)
except OSError:
  _BOOT = secrets.token_hex(4)

_NO_LOCK = -1  # where a file system or a system has none


def remove_abandoned(folder, names):
  """Removes temporary files and folders of processes that have ended.

  A process holds a lock on what it writes. Where the system that runs has made
  it, the lock decides, whatever container the process was in. What others made
  is removed where a day has passed, no process of this machine has that number
  and nobody holds a lock: a lock may not reach from one machine to another.

  Args:
    folder: path.
    names: regular expression of the names that they were to get.
  """
  host = re.escape(socket.gethostname())
  here = re.compile(rf"({names})\.tmp-.+-\d+-{_BOOT}-[0-9a-f]{{8}}")
  # Of this host, but another start of it, or the versions before.
  earlier = re.compile(
    rf"({names})\.tmp-{host}-(?P<process>\d+)(-[0-9a-f]+){{,2}}"
  )
  for temporary in list_matching(folder or ".", ".*"):
    name = os.path.basename(temporary)
    is_here, found = here.fullmatch(name), earlier.fullmatch(name)
    # Another process may be faster, or the file may be another user's.
    with contextlib.suppress(tf.errors.OpError, OSError):
      lock = _lock(temporary) if is_here or found else None
      if lock is None:
        continue
      try:
        if (is_here and lock is not _NO_LOCK) or (
          found
          and not _is_running(found["process"])
          and is_a_day_old(temporary)
        ):
          remove(temporary)
      finally:
        _unlock(lock)


def _unlock(lock):
  if lock is not _NO_LOCK:
    os.close(lock)


def _lock(path):
  """Locks a file or folder; returns its descriptor.

  Returns:
    None where another process has the lock, or has removed the file;
    `_NO_LOCK` where there are no locks.
  """
  if fcntl is None or is_remote(path):
    return _NO_LOCK
  try:
    descriptor = os.open(path, os.O_RDONLY)
  except FileNotFoundError:
    return None
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if os.path.samestat(os.fstat(descriptor), os.stat(path)):
      return descriptor
  except (BlockingIOError, FileNotFoundError):
    pass
  except OSError:
    os.close(descriptor)
    return _NO_LOCK
  os.close(descriptor)
  return None


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


def is_a_day_old(path):
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


def seems_writable(folder):
  """Returns `is_writable` as far as it can be told without making a file."""
  return is_remote(folder) or os.access(folder, os.W_OK | os.X_OK)


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
    writer.write("")  # makes the file where there are no lines
    for line in lines:
      writer.write(line)


def copy_or_remove(source, path):
  """Copies a file, whole or not at all; removes `path` where there is none.

  Returns:
    Whether there is a copy.
  """
  if tf.io.gfile.exists(source):
    with atomic_write(path) as temporary:
      tf.io.gfile.copy(source, temporary, overwrite=True)
    return True
  if tf.io.gfile.exists(path):  # of an earlier command
    tf.io.gfile.remove(path)
  return False


def read_text(path):
  """Returns the text of a UTF-8 file, its line ends as they are."""
  with tf.io.gfile.GFile(path, "rb") as reader:
    return reader.read().decode("utf-8")


@contextlib.contextmanager
def open_tsv(path):
  """Gives a function that writes a list of cells as a line of a TSV file."""
  with (
    atomic_write(path) as temporary,
    tf.io.gfile.GFile(temporary, "w") as writer,
  ):

    def write(cells):
      writer.write("\t".join(map(clean_cell, cells)) + "\n")

    yield write


def clean_cell(text):
  """Returns text without what would end a cell or a line."""
  return " ".join(str(text).splitlines()).replace("\t", " ")


def announce_replacement(paths):
  """Warns that files of an earlier command will be replaced.

  Args:
    paths: of files that may be there.
  """
  for path in filter(tf.io.gfile.exists, paths):
    written = tf.io.gfile.stat(path).mtime_nsec / 1e9
    when = datetime.datetime.fromtimestamp(written).isoformat(" ", "seconds")
    logging.warning(
      "%s of an earlier command, written at %s, will be replaced", path, when
    )


def write_json(path, value):
  """Writes a value as JSON, keys sorted, atomically."""
  write_text(path, [json.dumps(value, indent=2, sort_keys=True) + "\n"])


def read_json(path):
  """Returns the value in a JSON file, None where it is missing or broken.

  The file is UTF-8, with or without a byte-order mark. One nested so deep that
  Python cannot read it is broken.

  Raises:
    tf.errors.OpError: it is there, but cannot be read.
  """
  try:
    with tf.io.gfile.GFile(path, "rb") as reader:
      return json.loads(reader.read().decode("utf-8-sig"))
  except (tf.errors.NotFoundError, RecursionError, ValueError):
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
  for text in _read_blocks(path, sha256):
    lines = text.split("\n")
    for line in lines:
      if line.endswith("\r"):
        line = line[:-1]
      if line:
        yield number, line
      number += 1


def read_every_line(path, sha256=None):
  """Yields every line of a UTF-8 file with its line end, CRLF as it is.

  Args and errors as of `read_lines`.
  """
  for text in _read_blocks(path, sha256):
    for line in text.split("\n"):
      yield f"{line}\n"


def _read_blocks(path, sha256):
  """Yields the text of a file in blocks of whole lines.

  Args and errors as of `read_lines`.
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
        f" ({foreign_files.suggest_encoding(block)})"
      ) from error
    yield text
    number += 1 + block.count(b"\n")


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
