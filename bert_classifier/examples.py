"""Examples, and what a task's own methods give, checked and copied.

These methods are the user's code: a failure of theirs is an error that names
their line.
"""

import contextlib
import traceback

import tensorflow.compat.v1 as tf

from bert_classifier import errors, plain_texts


class InputExample:
  """A text, or a pair of texts, with its label.

  Args and attributes:
    guid: name of the example, unique in its split.
    text_a: the text, or the first of the pair.
    text_b: the second text, or None.
    label: one of the task's labels; of a task of several classes those that
      hold, separated by `|`; of a number its text; None in a test set.
    row_id: the file's own id of the example, or None.
    gold: the label that a test file gives away, or None; never trained on.
  """

  def __init__(
    self, guid, text_a, text_b=None, label=None, *, row_id=None, gold=None
  ):
    self.guid, self.row_id = guid, row_id
    self.text_a, self.text_b = text_a, text_b
    self.label, self.gold = label, gold


class PaddingInputExample:
  """Fills the last batch where batches must be whole, and is no example.

  A TPU computes batches of one size only. A filling has weight 0 in every
  metric and is left out of every output.
  """


@contextlib.contextmanager
def failures_named(method):
  """Makes a UserError of what a task's own method fails with.

  It is the user's code: its line is named instead of a traceback.

  Args:
    method: its name.
  """
  try:
    yield
  except (errors.UserError, MemoryError, OSError, tf.errors.OpError):
    raise
  except Exception as error:
    frames = traceback.extract_tb(error.__traceback__)
    begun = [f for f in frames if method.endswith(f".{f.name}")] or frames
    at = [f for f in frames if f.filename == begun[0].filename][-1]
    raise errors.UserError(
      f"{method} failed at {at.filename}:{at.lineno}:"
      f" {type(error).__name__}: {error}"
    ) from error


def copy_example(given, number, method, encode, *, may_lack_label):
  """Returns an `InputExample` of what a processor's own method gives.

  That may be an object of any class, with attributes that this project does not
  know: they are no part of the example, nor of its digest.

  Args:
    given: the example.
    number: of the example among those given, from 1.
    method: the method's name.
    encode: of the task's target.
    may_lack_label: whether it may be without a label.

  Raises:
    UserError: it lacks an attribute of 2018's class, a text or a label.
  """
  try:
    example = InputExample(
      given.guid,
      given.text_a,
      given.text_b,
      given.label,
      row_id=getattr(given, "row_id", None),
      gold=getattr(given, "gold", None),
    )
  except AttributeError as error:
    raise errors.UserError(
      f"{method} gave a {type(given).__name__}, but must give InputExamples:"
      f" {error}"
    ) from error
  if example.label is None and not may_lack_label:
    raise errors.UserError(
      f"{method} gave {example.guid!r} without a label, which only a test set"
      " may leave out"
    )
  role = "text_a"
  try:
    example.text_a = plain_texts.read_text(example.text_a)
    if example.text_b is not None:
      role = "text_b"
      example.text_b = plain_texts.read_text(example.text_b)
    example.label, role = plain_texts.read_label(example.label), ""
    encode(example.label)
  except ValueError as error:
    raise errors.UserError(
      f"{method} gave {example.guid!r}, example {number}:"
      f" {role}{' is ' * bool(role)}{error}"
    ) from error
  return example
