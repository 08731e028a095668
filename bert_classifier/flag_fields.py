"""What a flag is: a field of a group, with default, range and help.

A group is a frozen dataclass whose docstring is its title.
"""

import dataclasses
import math
import textwrap
from typing import NamedTuple


class Range(NamedTuple):
  """The numbers from `low` to `high`, both among them unless `is_open`.

  An open range lacks its ends: finite numbers over `low`, and under `high`. One
  without `has_high` lacks that end alone.
  """

  low: float
  high: float = math.inf
  is_open: bool = False
  has_high: bool = True

  def __contains__(self, number):
    if self.is_open:
      return self.low < number < self.high
    if not self.has_high:
      return self.low <= number < self.high
    return self.low <= number <= self.high

  def __str__(self):
    if self.is_open and self.high == math.inf:
      return f"a finite number over {self.low}"
    if self.is_open:
      return f"over {self.low} and under {self.high}"
    if not self.has_high:
      return f"at least {self.low} and under {self.high}"
    if self.high == math.inf:
      return f"at least {self.low}"
    return f"from {self.low} to {self.high}"


class Choice(tuple):
  """The values that a flag may have, all of them by name."""

  is_open = False

  def __str__(self):
    return f"one of {', '.join(self)}"


def flag(
  default,
  text,
  allowed=None,
  *,
  is_path=False,
  setting=None,
  recorded_as=None,
):
  """Returns the dataclass field of a flag.

  Args:
    default: its value where it is not given.
    text: its help.
    allowed: a `Range`, a `Choice` or None.
    is_path: whether `~` at its beginning stands for the home folder.
    setting: the phase, "model" or "training", whose results it decides: it is
      recorded in the run manifest, and a later command must agree with it.
    recorded_as: (phase, name) under which the manifest has it where the program
      works out what is recorded; see `Options.fill_in`.
  """
  if allowed is not None:
    text = f"{text} {str(allowed).capitalize()}."
  metadata = dict(help=text, allowed=allowed, is_path=is_path, setting=setting)
  metadata["recorded_as"] = recorded_as
  return dataclasses.field(default=default, metadata=metadata)


# Of the values of flags; those of any other type are text.
TYPES_IN_WORDS = {
  int: "a whole number",
  float: "a number",
  bool: "true or false",
}


def kind_of(field):
  """Returns the type of a flag's values: str, int, float or bool."""
  return getattr(field.type, "__args__", (field.type,))[0]  # of Optional


def is_allowed(field, value):
  """Returns True for a value, as JSON has it, that a flag may have."""
  if value is None:
    return field.default is None
  kind, allowed = kind_of(field), field.metadata["allowed"]
  kinds = (int, float) if kind is float else (kind,)
  return type(value) in kinds and (allowed is None or value in allowed)


def describe_allowed(field):
  """Returns in words which values a flag may have in JSON."""
  kind = TYPES_IN_WORDS.get(kind_of(field), "text")
  allowed = field.metadata["allowed"]
  if allowed is not None:
    kind = str(allowed) if allowed.is_open else f"{kind}, {allowed}"
  return kind + " or null" * (field.default is None)


def _default(field):
  if field.default is None:
    return ""
  return (
    str(field.default).lower() if field.type is bool else str(field.default)
  )


def describe_flags(groups):
  """Returns every flag with default and help, by group, for a terminal."""
  lines = []
  indent = dict(initial_indent=" " * 6, subsequent_indent=" " * 6)
  for group in groups:
    lines.append(f"\n{group.__doc__}:")
    for field in dataclasses.fields(group):
      default = _default(field)
      lines.append(f"  --{field.name}{default and f'={default}'}")
      lines.append(textwrap.fill(field.metadata["help"], 78, **indent))
  lines.append("\n--flagfile=FILE reads flags from a file, one a line.")
  return "\n".join(lines)


def describe_in_markdown(groups):
  """Returns the text of docs/flags.md."""
  lines = [
    "# Flags",
    "",
    "This page is made by `python -m bert_classifier.options > docs/flags.md`;"
    " `--help` prints the same. `--flagfile=FILE` reads flags from a file, one"
    " a line. The 25 of the original keep their names and defaults. `~` at the"
    " beginning of a path is the home folder.",
  ]
  for group in groups:
    lines += ["", f"## {group.__doc__}", "", "| flag | default | |"]
    lines.append("| --- | --- | --- |")
    for field in dataclasses.fields(group):
      default = _default(field)
      cells = f"`--{field.name}`", default and f"`{default}`"
      lines.append(f"| {' | '.join(cells)} | {field.metadata['help']} |")
  return "\n".join(lines)
