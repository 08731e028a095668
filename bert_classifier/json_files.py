"""Rows of JSON-lines files: an object a line, its keys the columns.

A column is a key, or a path of keys joined by dots: `review.text` is the key
text of the object under review. A text, a number, true or false is a cell as
it is written; null and NaN are an empty one.
"""

import json
import re

from bert_classifier import errors, files, plain_texts

_SURROGATES = re.compile("[\ud800-\udfff]")


def read_objects(path, sha256=None):
  """Yields (line number, dictionary) of each line of a file.

  Args:
    sha256: see `files.read_lines`.

  Raises:
    UserError: a line is no JSON object, or not UTF-8; names file and line.
  """
  for line, text in files.read_lines(path, sha256):
    if not text.strip():
      continue
    try:
      value = json.loads(text)
    except (ValueError, RecursionError) as error:
      raise _broken(path, line, text, error) from error
    if not isinstance(value, dict):
      raise _no_object(path, line, value)
    yield line, value


def _broken(path, line, text, error):
  """Returns the error of a line that is no JSON."""
  if text.lstrip().startswith("["):
    return _no_object(path, line, [])
  hint = ""
  if text.strip() == "{":
    hint = "; every object must be in one line of its own"
  if isinstance(error, json.JSONDecodeError):
    error = f"{error.msg} at character {error.colno}"
  return errors.UserError(
    f"{path}:{line}: the line is no JSON object: {error}; it begins"
    f" {text[:40]!r}{hint}"
  )


def _no_object(path, line, value):
  """Returns the error of a line that is JSON, but no object."""
  text = (
    f"{path}:{line}: each line must be a JSON object, such as"
    ' {"text": "...", "label": "..."},'
  )
  if isinstance(value, list):
    text += (
      " but here a list begins. Write a file that is one list of objects with a"
      " line for each: jq -c '.[]' OLD > NEW, or in Python"
      " pandas.read_json(old).to_json(new, orient='records', lines=True)"
    )
  else:
    text += f" but this is {plain_texts.describe(value)}"
  return errors.UserError(text)


def list_columns(row, prefix=""):
  """Returns the columns of an object, nested ones by their path.

  >>> list_columns({"id": 1, "review": {"text": "a", "stars": 5}})
  ['id', 'review.text', 'review.stars']
  """
  names = []
  for key, value in row.items():
    if isinstance(value, dict) and value:
      names += list_columns(value, f"{prefix}{key}.")
    else:
      names.append(f"{prefix}{key}")
  return names


def has_column(row, column):
  """Returns True where an object has a column, be it null."""
  return _find(row, column) is not _MISSING


_MISSING = object()


def _find(row, column):
  """Returns the value of a column, `_MISSING` where there is none."""
  if column in row:
    return row[column]
  value, rest = row, column
  while isinstance(value, dict):
    if rest in value:
      return value[rest]
    # A key may itself contain dots.
    parts = rest.split(".")
    for end in range(1, len(parts)):
      key = ".".join(parts[:end])
      if key in value:
        value, rest = value[key], ".".join(parts[end:])
        break
    else:
      return _MISSING
  return _MISSING


def read_cell(row, column, is_text):
  """Returns the cell of a column as text.

  A list is, of a text, its texts with spaces between, and else its JSON.

  Args:
    row: dictionary.
    column: key or path of keys.
    is_text: whether the column is one of a text.

  Returns:
    str; None where the row has no such key.

  Raises:
    ValueError: the value is an object, or a list of something else.
  """
  value = _find(row, column)
  if value is _MISSING:
    return None
  if value is None or value != value:  # NaN, which pandas has for nothing
    return ""
  if isinstance(value, str):
    return _SURROGATES.sub("\ufffd", value)  # halves of a character
  if isinstance(value, dict):
    inner = ", ".join(list_columns({column: value}))
    raise ValueError(f"is an object; name one of its keys: {inner}")
  if isinstance(value, list) and is_text:
    if not all(isinstance(text, str) for text in value):
      raise ValueError("is a list, but not one of texts")
    return _SURROGATES.sub("\ufffd", " ".join(value))
  return json.dumps(value, ensure_ascii=False)
