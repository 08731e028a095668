"""Compares the speed of two checkouts of this project, in turn.

  git worktree add ../before COMMIT
  python benchmarks/compare.py --before=../before --data=glue \\
    --vocab=uncased/vocab.txt --rounds=9

Each checkout's side `ours` of speed.py is a process of its own; they take
turns, none at work while the other is, on the same batches of a 6-layer model
(see speed.py). Prints for each task and mode the median and the range of the
ratios, this checkout's time of a turn over the other's, by wall clock and by
processor time, and the peak memory of each.
"""

import json
import os
from pathlib import Path
import statistics
import subprocess
import sys
import tempfile

from absl import app, flags
import speed

ROOT = Path(__file__).resolve().parent.parent
FLAGS = flags.FLAGS
flags.DEFINE_string("before", None, "The other checkout.", required=True)
flags.DEFINE_string("data", None, "Folder of the tasks.", required=True)
flags.DEFINE_string("vocab", None, "Uncased vocabulary.", required=True)
flags.DEFINE_list("tasks", ["CoLA", "MNLI", "MRPC"], "Which of them.")
flags.DEFINE_list("modes", ["training", "inference"], "Which of them.")
flags.DEFINE_integer("rounds", 9, "Turns of each side.")
flags.DEFINE_integer("steps", 10, "Steps of a turn.")

# Run by the other checkout: what a side must know of a task, for both.
PREPARE = """
import json, os, sys, types
root, options, task, folder = sys.argv[1:]
sys.path[:0] = [root, os.path.join(root, "benchmarks")]
import speed
job = speed.prepare(types.SimpleNamespace(**json.loads(options)), task, folder)
print("\\n" + json.dumps(job))
"""


def prepare(task, folder):
  """Returns the job of a task: sizes, records, batches."""
  options = dict(
    data=os.path.abspath(FLAGS.data),
    vocab=os.path.abspath(FLAGS.vocab),
    model="small",
    batch=32,
    length=128,
    threads=0,
    steps=FLAGS.steps,
  )
  done = subprocess.run(
    [
      *(sys.executable, "-c", PREPARE, os.path.abspath(FLAGS.before)),
      *(json.dumps(options), task, folder),
    ],
    stdout=subprocess.PIPE,
    check=True,
    text=True,
  )
  return json.loads(done.stdout.splitlines()[-1])


def compare(job):
  """Returns the turns of both sides: {"before": [...], "now": [...]}."""
  sides = {
    name: speed.Side(
      "ours", job, sys.executable, Path(root, "benchmarks", "speed.py")
    )
    for name, root in (("before", FLAGS.before), ("now", ROOT))
  }
  turns = {name: [] for name in sides}
  for number in range(FLAGS.rounds):
    for name in list(sides)[:: -1 if number % 2 else 1]:
      turns[name].append(sides[name].turn())
  for side in sides.values():
    side.stop()
  return turns


def describe(turns):
  """Returns the ratios and the memory as text."""
  parts = []
  for kind, key in (("wall", "seconds"), ("processor", "processor")):
    ratios = [now[key] / before[key] for before, now in zip(*turns.values())]
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    parts.append(f"{kind} {statistics.median(ratios):.3f} ({spread})")
  for name, side in turns.items():
    parts.append(f"{name} {max(turn['peak'] for turn in side) >> 20} MiB")
  return ", ".join(parts)


def main(argv):
  del argv
  with tempfile.TemporaryDirectory() as folder:
    for task in FLAGS.tasks:
      job = prepare(task, folder)
      for mode in FLAGS.modes:
        turns = compare({**job, "mode": mode})
        print(f"{task}, {mode}: {describe(turns)}", flush=True)


if __name__ == "__main__":
  app.run(main)
