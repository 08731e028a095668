"""Measures what the import of TensorFlow takes: time, memory, disk.

  python benchmarks/imports.py .venv/bin/python .venv-tf215/bin/python

For each Python given, each with an environment of its own, prints the version
of TensorFlow, the processor seconds and the peak memory (resident) of a process
that imports it and does nothing else, median and range over `--rounds` in which
they take turns, and the size of the environment's packages. A first round,
which brings the files into the system's cache, is not counted.
"""

import argparse
import json
import pathlib
import subprocess
import sys

from speed import spread

CHILD = """
import json, os, resource, sysconfig
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps(dict(
  version=tensorflow.__version__,
  seconds=used.ru_utime + used.ru_stime,
  memory=used.ru_maxrss / 1024,
  packages=sysconfig.get_path("purelib"),
)))
"""


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("pythons", nargs="+", metavar="PYTHON")
  parser.add_argument("--rounds", type=int, default=5)
  args = parser.parse_args()
  rounds = [
    [imported(python) for python in args.pythons]
    for _ in range(args.rounds + 1)
  ]
  for turns in zip(*rounds[1:]):
    print(
      f"TensorFlow {turns[0]['version']}:"
      f" {spread(turn['seconds'] for turn in turns)} s,"
      f" {spread(turn['memory'] for turn in turns)} MiB,"
      f" {size(turns[0]['packages']):.0f} MiB on disk"
    )


def imported(python):
  """Returns what a process of that Python tells of its import of TensorFlow."""
  done = subprocess.run([python, "-c", CHILD], capture_output=True, text=True)
  if done.returncode:
    sys.exit(f"{python}: {done.stderr}")
  return json.loads(done.stdout.splitlines()[-1])


def size(folder):
  """Returns what the files of a folder occupy, in MiB."""
  files = (p for p in pathlib.Path(folder).rglob("*") if not p.is_symlink())
  return sum(p.stat().st_blocks * 512 for p in files) / 2**20


if __name__ == "__main__":
  main()
