"""Label texts: the names of several labels in a cell, and numbers."""

import json
import math

from bert_classifier import plain_texts


def split_labels(label):
  """Returns the list of the names in a label of several classes.

  >>> split_labels("joy | love"), split_labels("joy,love")
  (['joy', 'love'], ['joy', 'love'])
  >>> split_labels('["joy", "love"]'), split_labels("")
  (['joy', 'love'], [])

  Raises:
    ValueError: it is no text or list; a JSON list is broken.
  """
  label = plain_texts.read_label(label)
  if label is None:
    return []
  if isinstance(label, (list, tuple)):
    return [_read_name(name) for name in label]
  if not isinstance(label, str):
    raise ValueError(
      f"the label is {plain_texts.describe(label)}, but must be text or a list"
      " of names"
    )
  text = label.strip()
  if text.startswith("["):
    return _split_json(text)
  names = map(str.strip, text.split("|" if "|" in text else ","))
  return [name for name in names if name]


def _split_json(text):
  """Returns the list of the names in a JSON list."""
  try:
    names = json.loads(text)
  except (ValueError, RecursionError) as error:
    hint = ""
    if "'" in text:
      hint = "; names in it must be in double quotes"
    raise ValueError(
      f"the label {text!r:.80} begins as a JSON list, but is none: {error}"
      f"{hint}"
    ) from error
  return [_read_name(name) for name in names]


def _read_name(name):
  """Returns a name in a list: text, or a whole number as text."""
  text = plain_texts.read_label(name)
  if isinstance(text, str):
    return text.strip()
  raise ValueError(
    f"the list of labels has {plain_texts.describe(name)}, but must have names"
  )


def is_list(text):
  """Returns True for the text of a JSON list."""
  try:
    return text.startswith("[") and isinstance(json.loads(text), list)
  except (ValueError, RecursionError):
    return False


def is_number(text):
  """Returns True for the text of a finite number."""
  try:
    return math.isfinite(float(text))
  except (TypeError, ValueError):
    return False


def are_fractions(labels):
  """Returns True for numbers of which one at least is not whole."""
  return all(map(is_number, labels)) and not all(
    float(label).is_integer() for label in labels
  )
