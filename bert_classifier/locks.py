"""The lock by which one process at a time trains in a folder.

Nothing here imports TensorFlow.
"""

import contextlib
import os

from bert_classifier import errors

try:
  import fcntl
except ImportError:  # under Windows
  fcntl = None


@contextlib.contextmanager
def lock_for_training(folder):
  """Holds a lock that keeps other processes from training in a folder.

  It holds on this machine, and the system releases it when the process is
  gone, however it ended. There is none under Windows, on gs:// and where a file
  system has no locks.

  Yields:
    Whether there is a lock.

  Raises:
    UserError: another process trains there.
  """
  if fcntl is None or not os.path.isdir(folder):
    yield False
    return
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    yield _lock(descriptor, folder)
  finally:
    os.close(descriptor)


def check_unlocked(folder):
  """Makes sure that no other process trains in a folder.

  Raises:
    UserError: one does.
  """
  with lock_for_training(folder):
    pass


def _lock(descriptor, folder):
  """Locks an open folder until it is closed; returns whether that is possible.

  Raises:
    UserError: another process has locked it.
  """
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return True
  except BlockingIOError:
    raise errors.UserError(
      f"another command is training in {folder}: wait for its end, or give"
      " another --output_dir"
    ) from None
  except OSError:  # this file system has no locks
    return False
