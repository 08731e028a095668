"""The words of a command line, each --flagfile replaced by what it holds."""

import os
import re
import sys

from bert_classifier.errors import UserError


def leave_out_kernel(argv):
  """Returns a command line without what starts the kernel of a notebook.

  Args:
    argv: -f connection.json is among it.
  """
  if "ipykernel" not in sys.modules:
    return argv
  line = "\n".join(argv)
  line = re.sub(r"\n(-f\n|-f=|--f=)[^\n]+\.json(?=\n|$)", "", line)
  return line.split("\n")


def expand(argv, within=()):
  """Returns a command line, each --flagfile replaced by the flags in it.

  As absl does, but for the encoding: UTF-8 with or without a byte-order mark.
  Lines that are blank or begin with # or // are left out.

  Args:
    argv: words.
    within: paths of the flagfiles that they are from.

  Raises:
    UserError: a file cannot be read, is not UTF-8, or includes itself.
  """
  words, rest = [], iter(argv)
  for word in rest:
    name, _, path = word.partition("=")
    if word == "--":
      return [*words, word, *rest]
    if name not in ("--flagfile", "-flagfile"):
      words.append(word)
      continue
    path = os.path.expanduser(path if "=" in word else next(rest, ""))
    if path in within:
      raise UserError(f"the flagfile {path} includes itself")
    lines = [line.strip() for line in _read_flagfile(path).splitlines()]
    flags_in_it = [
      line for line in lines if line and not line.startswith(("#", "//"))
    ]
    words += expand(flags_in_it, (*within, path))
  return words


def _read_flagfile(path):
  """Returns the text of a flagfile."""
  try:
    with open(path, "rb") as file:
      content = file.read()
  except OSError as error:
    raise UserError(f"the flagfile cannot be read: {error}") from error
  try:
    return content.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    line = content.count(b"\n", 0, error.start) + 1
    raise UserError(
      f"{path}:{line}: the byte 0x{content[error.start]:02x} of the flagfile is"
      " not UTF-8; save it in that encoding"
    ) from error
