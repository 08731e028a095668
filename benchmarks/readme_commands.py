"""Runs README.md's two commands with each Python, and prints the table.

  python benchmarks/readme_commands.py                      3.9 to 3.13
  python benchmarks/readme_commands.py --pythons 3.9 3.13   of these alone

Each Python gets an empty folder with the files of the last commit in it, and a
PATH on which it is `python3`: nothing else is there, as on a bare machine. The
first command trains, evaluates and predicts the sample, the second runs all
tests; between them `pip check` looks at what requirements.txt installed. The
interpreters are those of pyenv, or pythonX.Y on the PATH. Takes some six
minutes and 2 GB a Python; the folder goes afterwards. Standard library only.
"""

import argparse
import itertools
import os
from pathlib import Path
import re
import subprocess
import sys
import tempfile
import time

from versions import ROOT, interpreter, results

PYTHONS = ("3.9", "3.10", "3.11", "3.12", "3.13")
HEAD = ["Python", "TensorFlow", "sample accuracy", "pip check", "tests"]
HEAD += ["seconds, first command and second"]


def commands():
  """Returns the two shell commands of README.md."""
  text = (ROOT / "README.md").read_text()
  section = re.search(r"(?s)## Two commands\n.*?\n## ", text + "\n## ").group()
  found = re.findall(r"(?s)```sh\n(.*?)```", section)[:2]
  if len(found) != 2:
    sys.exit("README.md has no two commands under `## Two commands`")
  return found


def shell(command, folder, path):
  """Runs a command in a folder; what it printed, and the seconds it took."""
  keep = {"HOME": os.environ["HOME"], "PATH": path}
  pip = {n: v for n, v in os.environ.items() if n.startswith("PIP_")}
  began = time.monotonic()
  done = subprocess.run(
    ["bash", "-euo", "pipefail", "-c", command],
    cwd=folder,
    env={**keep, **pip},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  if done.returncode:
    print(f"{command}\nfailed:\n{done.stdout[-3000:]}", file=sys.stderr)
  return done, time.monotonic() - began


def row(python):
  """Returns what the commands gave with one Python."""
  with tempfile.TemporaryDirectory() as folder:
    bare = Path(folder, "bin")
    bare.mkdir()
    (bare / "python3").symlink_to(interpreter(python))
    path = f"{bare}:/usr/bin:/bin"
    copy = Path(folder, "copy")
    archive = f'git -C "{ROOT}" archive --prefix=copy/ HEAD | tar -x'
    subprocess.run(["bash", "-c", archive], cwd=folder, check=True)
    sample, tests = commands()
    first, seconds = shell(sample, copy, path)
    if first.returncode:
      return [python, None, "failed", None, None, None]
    accuracy = results(copy / "sample/output")["eval_accuracy"]
    pip = copy / ".venv/bin/pip"
    checked = shell(f"{pip} check", copy, path)[0].stdout.strip()
    listed = shell(f"{pip} list --format=freeze", copy, path)[0].stdout
    tensorflow = re.search(r"(?m)^tensorflow(_cpu|-cpu)?==(\S+)", listed)[2]
    second, more = shell(tests, copy, path)
    return [
      python,
      tensorflow,
      f"{accuracy:.2%}",
      checked.splitlines()[0],
      re.sub(r" in .*|=+ ", "", second.stdout.strip().splitlines()[-1]),
      f"{seconds:.0f} and {more:.0f}",
    ]


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--pythons", nargs="+", default=PYTHONS)
  pythons = parser.parse_args().pythons
  rows = itertools.chain([HEAD, ["---"] * len(HEAD)], map(row, pythons))
  for cells in rows:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
  main()
