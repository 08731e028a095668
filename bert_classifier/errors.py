"""What ends a run with a sentence, and what is a bug.

A user's mistake is a `UserError`, raised where it is found. Mishaps of the
machine, such as a full disk, are known by their type and become a sentence
here. Anything else is a bug: it keeps its traceback.
"""

import contextlib
import re
import sys
import traceback

from absl import logging

from bert_classifier import progress


class UserError(ValueError):
  """A mistake of the user, as a sentence: what, where, and how to mend it."""


class MissingFileError(UserError, FileNotFoundError):
  """A file that the user named, or that belongs to one, is not there."""


# Errors of TensorFlow that the machine or a file system causes.
_MISHAPS = {
  "AlreadyExistsError",
  "DataLossError",
  "FailedPreconditionError",
  "NotFoundError",
  "PermissionDeniedError",
  "ResourceExhaustedError",
  "UnavailableError",
  "UnimplementedError",  # a file system that is not built in, such as s3://
}


def describe(error):
  """Returns an error as a sentence for the user, or None where it is a bug.

  Args:
    error: an exception.
  """
  if isinstance(error, (UserError, OSError)):
    return str(error)
  if isinstance(error, MemoryError):
    return (
      f"the memory is exhausted{f' ({error})' if str(error) else ''}: give a"
      " smaller batch, or a smaller --max_seq_length"
    )
  if type(error).__name__ in _MISHAPS and hasattr(error, "message"):
    # The sentence stands between the graph's node and its own traceback.
    text = re.sub(r"(?s)^.*\nNode: \S+\n", "", error.message)
    return text.partition("[[")[0].strip()
  return None


@contextlib.contextmanager
def exit_with_a_sentence(explain_interruption):
  """Ends the program where an error leaves the block.

  With 1 after a sentence for a mistake or a mishap, 130 after Ctrl-C, and 70
  after the traceback of a bug.

  Args:
    explain_interruption: function that returns what to do after Ctrl-C.
  """
  try:
    yield
  except KeyboardInterrupt:
    progress.STATUS.clear()
    logging.error("interrupted; %s", explain_interruption())
    sys.exit(130)
  except Exception as error:
    progress.STATUS.clear()
    sentence = describe(error)
    if sentence is None:
      traceback.print_exc()
      logging.error("this is a bug: please report it with the lines above")
      sys.exit(70)
    logging.error("%s", sentence)
    sys.exit(1)
