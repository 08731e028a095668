"""What ends a run with a sentence, and what is a bug.

A user's mistake is a `UserError`, raised where it is found. Mishaps of the
machine, such as a full disk, are known by their type and become a sentence
here. Anything else is a bug: it keeps its traceback.
"""

import re

import tensorflow.compat.v1 as tf


class UserError(ValueError):
  """A mistake of the user, as a sentence: what, where, and how to mend it."""


class MissingFileError(UserError, FileNotFoundError):
  """A file that the user named, or that belongs to one, is not there."""


# Of TensorFlow's errors, those that the machine or a file system causes.
_MISHAPS = (
  tf.errors.AlreadyExistsError,
  tf.errors.DataLossError,
  tf.errors.FailedPreconditionError,
  tf.errors.NotFoundError,
  tf.errors.PermissionDeniedError,
  tf.errors.ResourceExhaustedError,
  tf.errors.UnavailableError,
  tf.errors.UnimplementedError,  # a file system, such as s3://
)


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
  if isinstance(error, _MISHAPS):
    # The sentence stands between the graph's node and its own traceback.
    text = re.sub(r"(?s)^.*\nNode: \S+\n", "", error.message)
    return text.partition("[[")[0].strip()
  return None
