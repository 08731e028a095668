"""A sweep: from --num_runs and --sweep to a list of runs.

  --sweep="learning_rate=2e-5,3e-5;num_train_epochs=2,3" --num_runs=2

is four settings of two seeds each. A run has a folder of its own, whose name
says what is its own: learning_rate=2e-05,num_train_epochs=2,seed=42. Nothing of
TensorFlow: flags are read before it is imported.
"""

import dataclasses
import itertools
import os
from typing import NamedTuple
from urllib import parse

from absl import logging

from bert_classifier import clusters, plain_texts
from bert_classifier.choice_options import ChoiceOptions
from bert_classifier.errors import UserError
from bert_classifier.flag_fields import TYPES_IN_WORDS, kind_of
from bert_classifier.options import TrainingOptions, all_flags, make_options

FOLDER = "runs"  # in output_dir
_NONE = "none"  # the value that leaves a flag out which has no default
# Settings of training that decide which features there are, or are no setting
# to choose.
_FIXED = {
  "seed": "--num_runs=N takes the N seeds from --seed on",
  "max_train_examples": "all runs have the same training examples",
}


class Plan(NamedTuple):
  """One of several runs.

  Attributes:
    folder: its output_dir.
    values: tuple of the flags that are swept and their values.
    seed: its seed.
  """

  folder: str
  values: tuple
  seed: int

  @property
  def name(self):
    """Returns the name of its folder."""
    return os.path.basename(self.folder)

  @property
  def setting(self):
    """Returns what is swept as text, "" where nothing is."""
    return describe_values(self.values)

  def apply(self, options, **phases):
    """Returns the `options.Options` of this run: an ordinary command's.

    Args:
      options: `options.Options` of the command for all.
      phases: other values of flags.
    """
    values = options.given_values()
    for name in ("num_runs", "sweep", "ensemble"):
      values.pop(name, None)
    values.update(self.values, seed=self.seed, output_dir=self.folder, **phases)
    return make_options(
      **{name: value for name, value in values.items() if value is not None}
    )


def describe_values(values):
  """Returns pairs of flag and value as text: learning_rate=2e-05,seed=1."""
  return ",".join(f"{name}={show_value(value)}" for name, value in values)


def show_value(value):
  """Returns a value as a flag takes it.

  >>> show_value(3.0), show_value(2e-5), show_value(None), show_value(True)
  ('3', '2e-05', 'none', 'true')
  """
  if value is None:
    return _NONE
  if isinstance(value, bool):
    return str(value).lower()
  return str(value).removesuffix(".0")


def plan_runs(options):
  """Returns the list of `Plan`s of a command; [] of one that is a run itself.

  Args:
    options: `options.Options`.

  Raises:
    UserError: the flags make no sense, or do not go with others.
  """
  several = options.several
  elsewhere = "--use_tpu" if options.device.use_tpu else None
  if clusters.read(os.environ.get(clusters.VARIABLE)):
    elsewhere = clusters.VARIABLE
  several.check(options.run, elsewhere)
  if not several.are_asked:
    return []
  if not options.run.output_dir:
    raise UserError(
      "--output_dir is needed: the folder for the runs, their table and the"
      " predictions of the best"
    )
  swept = [] if several.sweep is None else parse_sweep(several.sweep)
  first, folder = options.training.seed, options.run.output_dir
  seeds = range(first, first + several.num_runs)
  names = [name for name, _ in swept]
  plans = []
  for combination in itertools.product(*(values for _, values in swept)):
    values = tuple(zip(names, combination))
    for seed in seeds:
      name = parse.quote(
        describe_values((*values, ("seed", seed))), safe="=,+ "
      )
      plans.append(Plan(os.path.join(folder, FOLDER, name), values, seed))
  for plan in plans:
    plan.apply(options)  # raises where a value is out of its range
  return plans


def log_overruled(options):
  """Logs the flags of a command that its sweep has other values of.

  Args:
    options: `options.Options`, with a sweep that `plan_runs` takes.
  """
  for name, values in parse_sweep(options.several.sweep):
    if name in options.given:
      logging.info(
        "--%s=%s gives way to --sweep, where it is %s",
        name,
        options.given_values()[name],
        ", ".join(map(show_value, values)),
      )


def list_swept():
  """Returns {name: field} of the flags that can be swept."""
  return {
    field.name: field
    for group in (TrainingOptions, ChoiceOptions)
    for field in dataclasses.fields(group)
    if field.metadata["setting"] == "training" and field.name not in _FIXED
  }


def parse_sweep(text):
  """Returns a list of the flags of --sweep, each with the list of its values.

  >>> parse_sweep("learning_rate=2e-5,3e-5;num_train_epochs=2")
  [('learning_rate', [2e-05, 3e-05]), ('num_train_epochs', [2.0])]

  Raises:
    UserError: a name or a value is none, or comes twice.
  """
  found = {}
  for part in text.split(";"):
    name, equals, values = (piece.strip() for piece in part.partition("="))
    if not equals:
      raise _mistake(
        text,
        f"{part.strip()!r} is not of the form FLAG=VALUE,VALUE, with ; between"
        " flags",
      )
    field = _find_flag(text, name.removeprefix("--"))
    name = field.name
    if name in found:
      raise _mistake(text, f"{name} comes twice: give all its values at once")
    found[name] = []
    for word in values.split(","):
      value = _read_value(text, field, word.strip())
      if value in found[name]:
        raise _mistake(text, f"{name} has the value {show_value(value)} twice")
      found[name].append(value)
  return list(found.items())


def _find_flag(text, name):
  """Returns the field of a flag that can be swept.

  Raises:
    UserError: there is none of that name; says which there are.
  """
  allowed = list_swept()
  if name in allowed:
    return allowed[name]
  listed = f"what can be swept: {', '.join(allowed)}"
  if name in _FIXED:
    raise _mistake(text, f"{name} cannot be swept: {_FIXED[name]}")
  if name in {field.name for field in all_flags()}:
    raise _mistake(
      text,
      f"{name} cannot be swept, for all runs have the same features, model and"
      f" device; {listed}",
    )
  near = plain_texts.suggest(name, list(allowed))
  raise _mistake(text, f"there is no flag {name!r}{near}; {listed}")


def _read_value(text, field, word):
  """Returns the value of a flag by a word, None for `none`.

  Raises:
    UserError: it is none of the flag's.
  """
  kind, allowed = kind_of(field), field.metadata["allowed"]
  if not word:
    raise _mistake(text, f"a value of {field.name} is empty")
  if word == _NONE and field.default is None:
    return None
  try:
    value = _read_bool(word) if kind is bool else kind(word)
  except ValueError:
    raise _mistake(
      text, f"{field.name} is {word}, but must be {TYPES_IN_WORDS[kind]}"
    ) from None
  if allowed is not None and value not in allowed:
    raise _mistake(text, f"{field.name} is {word}, but must be {allowed}")
  return value


def _read_bool(word):
  words = {"true": True, "false": False}
  if word.lower() not in words:
    raise ValueError(word)
  return words[word.lower()]


def _mistake(text, sentence):
  return UserError(f"--sweep={text}: {sentence}")
