"""Which flags the tests give to the command, told by their sources.

A new flag is to be used by a test end to end: given to `run_classifier.main`
(`classify`, `run_killed`) or to the script in a process (`run_script`).
"""

import ast
import re

from conftest import ROOT
import pytest

from bert_classifier import options

# Calls whose keywords are flags, or are collected for one that takes flags.
TAKES_FLAGS = {"classify", "run_script", "start", "dict", "update", "answer"}
# A file without one of them gives no flags to the command.
RUNS = re.compile(r"\b(classify|run_script|run_killed|run_classifier\.py)\b")


def read_words(node):
  """Yields the flags of a string that is a word or words of a command."""
  if isinstance(node, ast.JoinedStr) and node.values:
    node = node.values[0]
  if isinstance(node, ast.Constant) and isinstance(node.value, str):
    words = node.value.split()
    if all(word.startswith("--") for word in words):
      for word in words:
        yield re.match(r"--(\w*)", word)[1]


def read_flags(source):
  """Returns the names that a test's source gives to a command.

  >>> sorted(read_flags('classify("--a", f"--b={c}", d=1, **{"e": 2})'))
  ['a', 'b', 'd', 'e']
  """
  found = set()
  if not RUNS.search(source):
    return found
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Call):
      name = getattr(node.func, "id", getattr(node.func, "attr", None))
      if name in TAKES_FLAGS:
        found.update(word.arg for word in node.keywords if word.arg)
    elif isinstance(node, ast.Subscript):
      found.add(getattr(node.slice, "value", None))
    elif isinstance(node, ast.Dict):
      found.update(getattr(key, "value", None) for key in node.keys)
    else:
      found.update(read_words(node))
  return found


@pytest.fixture(scope="module")
def given():
  """Returns the names of all flags that tests give, and those of the sample."""
  found = set(read_words(ast.Constant(read_sample())))
  for path in (ROOT / "tests").glob("*.py"):
    if path.name == "test_bad_input.py":
      continue  # gives values that are refused
    found |= read_flags(path.read_text(encoding="utf-8"))
  return found


def read_sample():
  """Returns the flags of the sample's flagfile, which a test runs."""
  lines = (ROOT / "sample" / "run.flags").read_text().splitlines()
  return " ".join(line for line in lines if line.startswith("--"))


@pytest.mark.parametrize("field", options.all_flags(), ids=lambda f: f.name)
def test_a_flag_is_given_to_the_command_by_a_test(given, field):
  assert {field.name, f"no{field.name}"} & given
