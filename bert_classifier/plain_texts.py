"""Texts and labels as people write them in Python, and for people to read.

Examples and labels of an own task may come from NumPy, pandas or lines of a
file. What they plainly mean is taken; what they do not is named with its type.
"""

import collections.abc
import difflib
import numbers

# What a label in a file or in code seems not to have: line ends, tabs, the
# non-breaking and the zero-width space, joiners, byte-order mark.
_INVISIBLE = (
  "\t\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029\xa0\u200b\u200c\u200d\u2060\ufeff"
)
_MOST_LABELS = 10  # in an error


def read_text(value):
  """Returns a text as str: str, bytes of UTF-8 or a whole number.

  >>> read_text("a"), read_text(b"a"), read_text(7)
  ('a', 'a', '7')

  Raises:
    ValueError: it is nothing of these.
  """
  text = read_label(value)
  if isinstance(text, str):
    return text
  advice = (
    "; pandas has it for an empty cell: fill it, as by fillna(''), or leave the"
    " example out"
    if value != value  # NaN
    else ""
  )
  raise ValueError(f"{describe(value)}, but must be a str{advice}")


def read_label(value):
  """Returns a label as str where it plainly is one, else as it is.

  >>> read_label(0), read_label("no"), read_label(0.5), read_label(None)
  ('0', 'no', 0.5, None)
  """
  if isinstance(value, str):
    return str(value)  # of NumPy's own str, too
  if isinstance(value, bytes):
    try:
      return value.decode("utf-8")
    except UnicodeDecodeError:
      return value
  if isinstance(value, numbers.Integral) and not isinstance(value, bool):
    return str(int(value))
  return value


def list_labels(labels, owner):
  """Returns the labels of a task as a list, each as `read_label` has it.

  Args:
    labels: what the task gives: an iterable in an order of its own; a lone
      string is one label.
    owner: name of the task, for the error.

  Raises:
    ValueError: they are None, in no order, or there only once.
  """
  if isinstance(labels, (set, frozenset)):
    raise ValueError(
      f"the labels of {owner} are a {type(labels).__name__}, whose order is"
      " another one in each run, so that no trained model could be used again:"
      f" sort them, as by sorted(...)"
    )
  if isinstance(labels, collections.abc.Iterator):
    raise ValueError(
      f"the labels of {owner} are a {type(labels).__name__}, which gives them"
      " once only: make a list of them, as by list(...)"
    )
  if labels is None or isinstance(labels, numbers.Number):
    raise ValueError(
      f"the labels of {owner} are {describe(labels)}, but must be a list of str"
    )
  if isinstance(labels, (str, bytes)):
    labels = [labels]
  return [read_label(label) for label in labels]


def strip_invisible(label):
  """Returns a label without invisible characters at its ends but spaces."""
  return label.strip(_INVISIBLE)


def show_labels(labels):
  """Returns the labels for an error, of many the first ten and their number.

  >>> show_labels(["no", "yes"])
  "'no', 'yes'"
  """
  labels = list(labels)
  shown = ", ".join(f"{repr(label):.80}" for label in labels[:_MOST_LABELS])
  if len(labels) > _MOST_LABELS:
    shown += f" and {len(labels) - _MOST_LABELS} more ({len(labels)} in all)"
  return shown


def count(number, noun="example"):
  """Returns a number of things in words.

  >>> count(1), count(2)
  ('1 example', '2 examples')
  """
  return f"{number} {noun}{'s' * (number != 1)}"


def show_bytes(count):
  """Returns an amount of memory in words.

  >>> show_bytes(3 << 20), show_bytes(5 << 28)
  ('3 MiB', '1.25 GiB')
  """
  if count < 1 << 30:
    return f"{count / (1 << 20):.0f} MiB"
  return f"{count / (1 << 30):.2f} GiB"


def suggest(name, names):
  """Returns "; did you mean ...?" with the nearest of some names, or "".

  >>> suggest("mrcp", ["cola", "mrpc"]), suggest("sentiment", ["cola", "mrpc"])
  ("; did you mean 'mrpc'?", '')
  """
  nearest = difflib.get_close_matches(str(name), names, n=1)
  return f"; did you mean {nearest[0]!r}?" if nearest else ""


def describe(value):
  """Returns a value with its type, for an error.

  >>> describe(float("nan"))
  'nan (float)'
  """
  if value is None:
    return "None"
  return f"{repr(value):.80} ({type(value).__name__})"
