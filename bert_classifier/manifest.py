"""The values that a run manifest may hold.

A manifest is believed: it says how texts are prepared and which labels the
weights stand for. A value that no run can have written is therefore a mistake,
never a setting.
"""

from typing import Callable, NamedTuple

from bert_classifier import errors, flag_fields, options
from bert_classifier.shuffled_epochs import PERMUTATION_VERSION
import modeling


class _Rule(NamedTuple):
  """What a value must be.

  Attributes:
    allows: function from a value to whether it may be.
    words: the same for an error.
  """

  allows: Callable
  words: str


def check(manifest, path):
  """Makes sure that a manifest holds what a run writes.

  Settings that are not known, as of a later version, may be anything.

  Args:
    manifest: dictionary with `settings`, a dictionary by phase.
    path: of the manifest, for the error.

  Raises:
    UserError: names file, setting, value and what is allowed.
  """
  settings, copies = manifest["settings"], manifest.get("copies", [])
  if not _is_list_of(_is_text)(copies):
    _refuse(path, f"copies is {copies!r:.80}, but must be a list of texts")
  for (phase, name), rule in _rules().items():
    values = settings.get(phase, {})
    if name in values and not rule.allows(values[name]):
      _refuse(
        path,
        f"settings.{phase}.{name} is {values[name]!r:.80}, but must be"
        f" {rule.words}",
      )
  model = settings.get("model", {})
  sizes = {name: model[name] for name in _SIZES if name in model}
  try:
    modeling.BertConfig(sizes.pop("vocab_size", None), **sizes)
  except ValueError as error:
    _refuse(path, f"settings.model.{error}")


def _refuse(path, problem):
  raise errors.UserError(
    f"{path} is damaged: {problem}. Correct the value or copy the file"
    " again; without the right one it is unknown how the model was trained"
  )


_SIZES = tuple(modeling.BertConfig(None).architecture())


def _rules():
  """Returns {(phase, name): `_Rule`} of all settings but the model's sizes."""
  rules = {
    options.recorded_place(field): _Rule(
      lambda value, field=field: flag_fields.is_allowed(field, value),
      flag_fields.describe_allowed(field),
    )
    for field in options.all_flags()
    if options.recorded_place(field)[0]
  }
  return {**rules, **_RULES}


def _is_text(value):
  return isinstance(value, str)


def _is_optional_text(value):
  return value is None or _is_text(value)


def _is_list_of(is_item):
  return lambda value: isinstance(value, list) and all(map(is_item, value))


def _is_whole_token(value):
  return isinstance(value, list) and [*map(type, value)] == [str, bool, bool]


def _is_object_of_texts(value):
  return isinstance(value, dict) and all(map(_is_text, value.values()))


def _is_dev_split(value):
  return (
    isinstance(value, dict)
    and type(value.get("seed")) is int
    and isinstance(value.get("dev_fraction"), float)
    and 0 < value["dev_fraction"] < 1
  )


_OPTIONAL_TEXT = _Rule(_is_optional_text, "text or null")
_TABLE = _Rule(
  lambda value: value is None or isinstance(value, dict), "an object or null"
)
_RULES = {
  ("model", "language"): _OPTIONAL_TEXT,
  # Of a target that a task defines it is any name.
  ("model", "problem_type"): _Rule(_is_text, "text"),
  ("model", "labels"): _Rule(_is_list_of(_is_text), "a list of texts"),
  ("model", "strip_accents"): _Rule(
    lambda value: value is None or isinstance(value, bool),
    "true, false or null",
  ),
  ("model", "tokenize_chinese_chars"): _Rule(
    lambda value: isinstance(value, bool), "true or false"
  ),
  ("model", "whole_tokens"): _Rule(
    _is_list_of(_is_whole_token), "a list of [text, true or false, the same]"
  ),
  ("model", "vocabulary (SHA-256)"): _Rule(_is_text, "text"),
  ("model", "synonyms"): _Rule(_is_object_of_texts, "an object of texts"),
  ("model", "table of train"): _TABLE,
  ("model", "table of dev"): _TABLE,
  ("model", "table of test"): _TABLE,
  ("training", "init_checkpoint"): _OPTIONAL_TEXT,
  ("training", "init_checkpoint (SHA-256)"): _OPTIONAL_TEXT,
  ("training", "training data (SHA-256)"): _Rule(_is_text, "text"),
  ("training", "training examples"): _OPTIONAL_TEXT,
  ("data", "columns"): _Rule(
    _is_object_of_texts, "an object of texts, the names of columns"
  ),
  ("data", "dev_split"): _Rule(
    _is_dev_split, "an object with dev_fraction, under 1, and a whole seed"
  ),
  ("order", "buffer_rows"): _Rule(
    lambda value: type(value) is int and value > 0,
    "a whole number, at least 1",
  ),
  ("order", "permutation"): _Rule(
    lambda value: type(value) is int and value == PERMUTATION_VERSION,
    f"{PERMUTATION_VERSION}, the order that this version has",
  ),
}
