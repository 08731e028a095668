"""The history of a run: its numbers as it trains, a JSON object a line.

Training adds a line where it logs, an evaluation one at its end:

  {"step": 100, "epoch": 0.53, "loss": 0.552, "learning_rate": 0.000265, ...}
  {"step": 343, "split": "dev", "eval_accuracy": 0.86, "eval_loss": 0.33, ...}

There is one line of training for a step, and one for each split evaluated. A
line that a killed process did not finish is passed over.
"""

import contextlib
import json
import math

import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import errors, files


def read(path):
  """Returns the list of the dictionaries in the file, in its order.

  [] where there is no file. Of two of one step and split the later one counts.
  """
  if not tf.io.gfile.exists(path):
    return []
  with tf.io.gfile.GFile(path, "rb") as file:
    lines = file.read().decode("utf-8", "replace").split("\n")
  entries = {}
  for line in lines:
    try:
      entry = json.loads(line)
      key = _key(entry)
    # Torn, or no line of ours.
    except (KeyError, RecursionError, TypeError, ValueError):
      continue
    entries.pop(key, None)
    entries[key] = entry
  return list(entries.values())


def append(path, entry):
  """Appends the entry of a training step, without reading what is there.

  Args:
    path: path of the file.
    entry: dictionary with `step`. Numbers that are not finite are left out:
      JSON has none.
  """
  # Opened anew for each line, for an evaluation may have replaced the file.
  with _errors_are_mishaps(), tf.io.gfile.GFile(path, "a") as file:
    file.write(_line(entry))


def add_evaluation(path, split, results, *, replaces=True):
  """Adds the results of an evaluation, in the place of earlier ones.

  Args:
    path: path of the file.
    split: what was evaluated.
    results: dictionary of numbers, with `global_step`.
    replaces: whether a line of that step and split gives way. One that training
      wrote must stay when its weights are evaluated on other examples: by it
      the best weights are chosen.
  """
  others = dict(results)
  entry = {"step": int(others.pop("global_step")), "split": split, **others}
  before = read(path)
  kept = [other for other in before if _key(other) != _key(entry)]
  if len(kept) < len(before) and not replaces:
    return
  with _errors_are_mishaps():
    files.write_text(path, map(_line, [*kept, entry]))


@contextlib.contextmanager
def _errors_are_mishaps():
  """Makes a UserError of an OutOfRangeError, as of a file that may not grow.

  To the training that writes here it would be the end of the data.
  """
  try:
    yield
  except tf.errors.OutOfRangeError as error:
    raise errors.UserError(error.message) from error


def drop_after(path, step):
  """Drops the entries of later steps, which training is about to repeat."""
  if tf.io.gfile.exists(path):
    kept = [entry for entry in read(path) if entry["step"] <= step]
    files.write_text(path, map(_line, kept))


def _key(entry):
  return int(entry["step"]), entry.get("split")


def _number(value):
  """Returns a number of NumPy as Python's; a float keeps the digits it has."""
  if isinstance(value, np.floating):
    return float(str(value))
  return value.item() if isinstance(value, np.integer) else value


def _line(entry):
  """Returns an entry as a line of JSON, with the digits that a number has."""
  values = {name: _number(value) for name, value in entry.items()}
  finite = {
    name: value
    for name, value in values.items()
    if not isinstance(value, float) or math.isfinite(value)
  }
  return json.dumps(finite, ensure_ascii=False) + "\n"
