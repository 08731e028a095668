"""Class weights: --class_weights, and what it makes of the training set.

The loss of a training example counts as many times as the weight of its label
says; of several labels each place of the label vector has a weight, by whether
the label holds. Only their proportions are given: their mean over the training
set is 1, so that loss, clipping and learning rate keep their size. It is not
made 1 in each batch: the weights are the same in every part of a batch, so that
the mean of the parts' losses is that of the whole.

Axis letters: n examples, L labels.
"""

import collections
import itertools
import json
import math

import numpy as np

from bert_classifier import plain_texts, targets
from bert_classifier.errors import UserError

BALANCED = "balanced"
_MOST_SHOWN = 20


def parse(text, labels):
  """Returns {label: weight} of --class_weights, None for `balanced`.

  Labels that it does not name have the weight 1.

  Args:
    text: the flag's value.
    labels: names of the task's labels.

  Raises:
    UserError: it names another label, or a weight is no number over 0.
  """
  if text.strip() == BALANCED:
    return None
  weights = dict.fromkeys(labels, 1.0)
  for label, weight in _list_pairs(text):
    if label not in weights:
      raise _mistake(
        text,
        f"{label!r} is none of the labels {plain_texts.show_labels(labels)}",
      )
    try:
      weights[label] = float(weight)
    except (TypeError, ValueError):
      weights[label] = math.nan
    if not 0 < weights[label] < math.inf:
      raise _mistake(
        text,
        f"the weight {weight!r:.80} of {label!r} is not a finite number over 0",
      )
  return weights


def _list_pairs(text):
  """Returns the pairs of label and weight in a flag's value."""
  if text.strip().startswith("{"):
    try:
      return json.loads(text).items()
    except (RecursionError, ValueError) as error:
      raise _mistake(text, f"no JSON object: {error}") from error
  pairs = [part.rpartition("=") for part in text.split(",")]
  for part, (label, sign, _) in zip(text.split(","), pairs):
    if not (sign and label.strip()):
      raise _mistake(text, f"{part!r} is no LABEL=WEIGHT")
  return [(label.strip(), weight) for label, _, weight in pairs]


def _mistake(text, problem):
  return UserError(
    f"--class_weights={text}: {problem}. Give {BALANCED}, or weights by label,"
    ' such as positive=2,negative=1 or {"positive": 2, "negative": 1}'
  )


def make_weights(text, target, examples):
  """Returns the weights that the training loss has.

  Args:
    text: --class_weights.
    target: see `targets`; one of classes.
    examples: those of the training set, an iterable of `InputExample`s.

  Returns:
    <float32>[L], by the label of an example; of several labels <float32>[L, 2],
    where the label does not hold and where it does.

  Raises:
    UserError: as `parse`.
  """
  named = parse(text, target.labels)
  values = collections.Counter(target.encode(one.label) for one in examples)
  times = np.array(list(values.values()), np.float64)
  given = named and np.array([named[label] for label in target.labels])
  if targets.find_kind(target.problem_type) == "multi_label":
    held = times @ np.array(list(values))
    counts = np.stack([times.sum() - held, held], axis=-1)
    if given is not None:
      given = np.stack([np.ones(len(given)), given], axis=-1)
      return _scale(given, counts).astype(np.float32)
    # Each label is a choice of its own between two.
    rows = [_scale(_invert(row), row) for row in counts]
    return np.float32(rows)
  counts = np.bincount(list(values), times, target.width)
  weights = _invert(counts) if given is None else given
  return _scale(weights, counts).astype(np.float32)


def describe(weights, labels):
  """Returns the weights by label, for the log.

  Args:
    weights: what `make_weights` gives.
    labels: names of the labels.
  """
  if weights.ndim == 1:
    named = (f"{name} {w:.4g}" for name, w in zip(labels, weights))
  else:
    named = (
      f"{name} {on:.4g}, without it {off:.4g}"
      for name, (off, on) in zip(labels, weights)
    )
  shown = "; ".join(itertools.islice(named, _MOST_SHOWN))
  more = len(labels) - _MOST_SHOWN
  return shown + (f"; and {more} more" if more > 0 else "")


def _invert(counts):
  """Returns the inverse of counts, 1 in the place of that of 0."""
  return 1 / np.maximum(counts, 1)


def _scale(weights, counts):
  """Returns weights of which the mean over what was counted is 1."""
  return weights * counts.sum() / (weights * counts).sum()
