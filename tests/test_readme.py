"""README.md: what it says of flags and files is so."""

from pathlib import Path
import re

import pytest

import run_classifier

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def own_flags():
  return [flag for group in run_classifier._GROUPS.values() for flag in group]


@pytest.mark.parametrize("flag", own_flags(), ids=lambda flag: flag.name)
def test_every_flag_is_listed_with_its_default(flag):
  row = re.search(
    rf"^\| `--{flag.name}` \| `?([^`|]*)`? \| (.*) \|$", README, re.M
  )
  default = "" if flag.default is None else flag.default_as_str.strip("'")
  assert row and row.group(1).strip() == default
  assert row.group(2) == flag.help


def test_every_file_at_the_top_is_in_the_tour():
  for path in ROOT.glob("*.py"):
    assert f"| `{path.name}` |" in README, path.name


def test_every_python_block_compiles():
  blocks = re.findall(r"^```python\n(.*?)^```$", README, re.M | re.S)
  assert blocks
  for block in blocks:
    compile(block, "README.md", "exec")


def test_files_and_flags_that_commands_name_are_there():
  for name in re.findall(r"(?<=[ =])(?:\w+/)*\w+\.(?:py|txt|flags)\b", README):
    if name.startswith(("requirements", "tests/", "sample/", "run_")):
      assert (ROOT / name).exists(), name
  known = {flag.name for flag in own_flags()} | {"flagfile", "help", "no"}
  for name in re.findall(r"^\s+--(\w+)", README, re.M):
    assert name in known, name
