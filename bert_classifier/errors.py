"""What ends a run with a sentence, and what is a bug.

A user's mistake is a `UserError`, raised where it is found. Mishaps of the
machine, such as a full disk, are known by their type and become a sentence
here. Anything else is a bug: it keeps its traceback.
"""

import contextlib
import errno
import importlib.util
import os
import re
import threading
import traceback

from absl import logging

from bert_classifier import process

# Exit status of a process of several whose others are gone, so that all are to
# be started again: EX_TEMPFAIL of sysexits.h.
GONE = 75


class UserError(ValueError):
  """A mistake of the user, as a sentence: what, where, and how to mend it."""


class MissingFileError(UserError, FileNotFoundError):
  """A file that the user named, or that belongs to one, is not there."""


def require_packages(what, packages, install=None, otherwise=""):
  """Makes sure that packages are installed.

  Args:
    what: words for what needs them.
    packages: {name of a module: name of the package that brings it}.
    install: names of the packages to install together where one is missing;
      those that are missing where not given.
    otherwise: what else to do, the end of the sentence.

  Raises:
    UserError: one is not.
  """
  missing = [
    package
    for module, package in packages.items()
    if not importlib.util.find_spec(module)
  ]
  if missing:
    raise UserError(
      f"{what} needs {' and '.join(missing)}, which this Python does not have:"
      f" pip install {' '.join(install or missing)}{otherwise}"
    )


class NotFiniteError(UserError):
  """Training came to NaN or infinity.

  Attributes:
    updates: global step of the weights that lead there.
  """

  def __init__(self, sentence, updates):
    super().__init__(sentence)
    self.updates = updates


# How TensorFlow ends the message of what the system reported, whichever of its
# types that is: a file that grew too large is an OutOfRangeError.
_SYSTEM_ERROR = re.compile(
  f"; ({'|'.join(re.escape(os.strerror(n)) for n in errno.errorcode)})$"
)
_MAKE_ROOM = (
  "make room there, or write to another disk (--output_dir, --cache_dir), and"
  " give the same command again"
)
_REMEDIES = {
  errno.ENOSPC: _MAKE_ROOM,
  errno.EDQUOT: _MAKE_ROOM,
  errno.EACCES: "change its permissions, or give another",
  errno.EROFS: "write to another folder (--output_dir, --cache_dir)",
}
# An OSError of a Python function that a graph calls, and its traceback.
_RAISED_IN_PYTHON = re.compile(
  r"(?:OSError|FileNotFoundError|PermissionError): (.*)\nTraceback "
)
# Errors of TensorFlow that a file system or exhausted memory causes, and what
# the message of each has where a bug in a graph does.
_MISHAPS = {
  "AlreadyExistsError": r"^Resource ",
  "DataLossError": None,
  "FailedPreconditionError": r"initialized",
  "NotFoundError": r"^Key |^Could not find|^Container ",
  "PermissionDeniedError": None,
  "ResourceExhaustedError": None,
  "UnavailableError": None,
  "UnimplementedError": r"^(?!File system scheme)",
}


def describe(error):
  """Returns an error as a sentence for the user, or None where it is a bug.

  Args:
    error: an exception.
  """
  if isinstance(error, UserError):
    return str(error)
  if isinstance(error, OSError):
    return _add_remedy(str(error))
  if isinstance(error, MemoryError):
    return f"{_OUT_OF_MEMORY}{f' ({error})' if str(error) else ''}"
  if isinstance(error, UnicodeEncodeError):
    return _describe_undecoded(error)
  message = getattr(error, "message", None)
  if type(error) is RuntimeError:
    # As the writer of events for TensorBoard reports the system's error, with
    # how many events are lost on a second line.
    message = str(error).partition("\n")[0]
  if message is None:
    return None
  # The sentence stands between the graph's node and its own traceback.
  text = re.sub(r"(?s)^.*\nNode: \S+\n", "", message)
  text = text.partition("[[")[0].strip()
  if raised := _RAISED_IN_PYTHON.search(text):
    return _add_remedy(raised[1])
  if not (_SYSTEM_ERROR.search(text) or _is_mishap(error)):
    return None
  if type(error).__name__ == "DataLossError":
    return f"{text}: the file is damaged; copy or download it again"
  if text.startswith("OOM"):
    return f"{_OUT_OF_MEMORY} ({text})"
  return _add_remedy(text)


def _add_remedy(text):
  """Returns a message of the system, and what to do where that is known."""
  for number, remedy in _REMEDIES.items():
    if os.strerror(number) in text:
      return f"{text}: {remedy}"
  return text


def _describe_undecoded(error):
  """Returns a sentence on bytes of a path that are no UTF-8, or None."""
  # Python keeps such bytes of a command line as surrogates.
  if not re.search("[\udc80-\udcff]", error.object):
    return None
  shown = os.fsencode(error.object)
  return (
    f"{shown!r}: bytes that are not UTF-8 are not possible in paths and flags:"
    " give the file or folder another name"
  )


_OUT_OF_MEMORY = (
  "the memory is exhausted: give a smaller --train_batch_size or"
  " --eval_batch_size, or a smaller --max_seq_length"
)


def _is_mishap(error):
  """Returns whether an error is one of TensorFlow's, but no bug."""
  name = type(error).__name__
  if name not in _MISHAPS:
    return False
  bug = _MISHAPS[name]
  return bug is None or not re.search(bug, error.message)


@contextlib.contextmanager
def _event_writers_hand_on():
  """Shows no traceback of a mishap that ends TensorFlow's writer of events.

  Its thread hands the error on to who writes the next event, and logs it.
  """
  show = threading.excepthook

  def pass_over(failure):
    name = failure.thread and failure.thread.name
    if name != "EventLoggerThread" or describe(failure.exc_value) is None:
      show(failure)

  threading.excepthook = pass_over
  try:
    yield
  finally:
    threading.excepthook = show


@contextlib.contextmanager
def exit_with_a_sentence():
  """Ends the program where an error leaves the block.

  With 1 after a sentence for a mistake or a mishap, 130 after Ctrl-C and 143
  after SIGTERM, whose KeyboardInterrupt may carry advice, and 70 after the
  traceback of a bug. Of processes that a launcher has started, one speaks;
  each shows its bugs.
  """
  try:
    with _event_writers_hand_on():
      yield
  except KeyboardInterrupt as interruption:
    status, sentence = process.describe_end(interruption)
    if process.takes_last_word():
      logging.error("%s", sentence)
    process.exit_with(status)
  except Exception as error:
    sentence = describe(error)
    if process.takes_last_word() or sentence is None:
      _say(sentence)
    process.exit_with(70 if sentence is None else 1)


def _say(sentence):
  """Logs why the program ends; None is a bug, which is being handled."""
  if sentence is None:
    logging.error("this is a bug: please report it with these lines")
    traceback.print_exc()
  else:
    logging.error("%s", sentence)
