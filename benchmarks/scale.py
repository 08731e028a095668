"""Several devices held against one: agreement, and what they cost.

  python benchmarks/scale.py agreement

Trains the sample without dropout on one device, on two logical CPUs by
MirroredStrategy, and in two and four processes (--num_workers), and prints
for each the largest difference of losses, norms and variables from one device
after the first 30 steps, the median time of a later step, the examples a
second, the seconds to the first step, and the processor time of all processes.
It fails where a difference is over 1e-5.

All of them have --threads threads together, so that what is slower is the work
of being several: on one machine nothing can be won. Other flags are those of
run_classifier.py and replace the sample's:

  python benchmarks/scale.py agreement --init_checkpoint=uncased_L-12_H-768_A-12

Where its config has dropout, give one that has none: --bert_config_file.
"""

import argparse
import json
import os
from pathlib import Path
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
_STEPS, _CHECKED = 150, 30  # of a training, and up to which it is compared
_SAMPLE = ["--flagfile=sample/run.flags", "--nodo_eval", "--nodo_predict"]
_MOST = 1e-5  # of difference
# The script on logical CPUs, which no flag names: they compute as one.
_MIRRORED = """
import sys
import run_classifier
from bert_classifier import device_choice, replicas
names = [f"/cpu:{i}" for i in range(int(sys.argv.pop(1)))]
device_choice.make_placement = lambda options, *_: replicas.MirroredPlacement(
  options, names
)
run_classifier.main(run_classifier.FLAGS(sys.argv))
"""


def train(folder, command, flags):
  """Runs a training; returns when it began, and its processor time.

  Args:
    folder: output_dir.
    command: list of words that start the script.
    flags: list of its flags.
  """
  before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
  done = subprocess.run(
    [sys.executable, *command, *flags, f"--output_dir={folder}"],
    cwd=ROOT,
    env={**os.environ, "PYTHONPATH": str(ROOT)},
    stderr=subprocess.PIPE,
    text=True,
  )
  if done.returncode:
    sys.exit(done.stderr)
  after = resource.getrusage(resource.RUSAGE_CHILDREN)
  used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
  return began, used


def read_history(folder):
  """Returns the entries of the steps of a training."""
  lines = Path(folder, "history.jsonl").read_text().splitlines()
  return [entry for entry in map(json.loads, lines) if "split" not in entry]


def read_variables(folder):
  """Returns {name: array} of the checkpoint after the steps compared."""
  import tensorflow.compat.v1 as tf

  prefix = str(Path(folder, f"model.ckpt-{_CHECKED}"))
  reader = tf.train.load_checkpoint(prefix)
  return {n: reader.get_tensor(n) for n in reader.get_variable_to_shape_map()}


def compare(folder, expected):
  """Returns the largest differences of losses, of norms and of variables."""
  differences = []
  for name in ("loss", "gradient_norm"):
    found, right = (
      np.array([entry[name] for entry in read_history(path)[:_CHECKED]])
      for path in (folder, expected)
    )
    assert len(right) == _CHECKED
    differences.append(np.abs(found - right).max())
  found, right = read_variables(folder), read_variables(expected)
  assert found.keys() == right.keys()
  differences.append(max(np.abs(found[n] - right[n]).max() for n in right))
  return differences


def measure_agreement(threads, more_flags):
  """Trains in all ways; prints a line each. Returns whether all agree."""
  flags = [
    *_SAMPLE,
    "--do_train",
    "--head_dropout=0",
    "--log_steps=1",
    f"--save_checkpoints_steps={_CHECKED}",
    "--keep_checkpoint_max=0",
    f"--num_train_epochs={_STEPS * 32 / 6000 + 1e-4:.4f}",
    *more_flags,
  ]
  ways = [("1 device", ["run_classifier.py"], [f"--num_threads={threads}"])]
  ways.append(("2 mirrored", ["-c", _MIRRORED, "2"], ways[0][2]))
  for number in (2, 4):
    each = f"--num_threads={max(1, threads // number)}"
    script = ["run_classifier.py"]
    ways.append(
      (f"{number} workers", script, [f"--num_workers={number}", each])
    )
  print(
    f"{'':10} {'loss':>8} {'norm':>8} {'variable':>8} {'ms a step':>9}"
    f" {'examples/s':>10} {'first step, s':>13} {'processor, s':>12}"
  )
  agree = True
  with tempfile.TemporaryDirectory() as folder:
    flags.append(f"--cache_dir={folder}/cache")
    for name, command, own in ways:
      path = Path(folder, name.replace(" ", "_"))
      began, used = train(path, command, [*flags, *own])
      one = Path(folder, "1_device")
      differences = compare(path, one)
      agree = agree and max(differences[0], differences[2]) <= _MOST
      times = np.diff([entry["time"] for entry in read_history(path)])
      step = statistics.median(times[_CHECKED:])
      first = read_history(path)[0]["time"] - began
      print(
        f"{name:10} {differences[0]:8.1e} {differences[1]:8.1e}"
        f" {differences[2]:8.1e} {1000 * step:9.1f} {32 / step:10.0f}"
        f" {first:13.1f} {used:12.1f}",
        flush=True,
      )
  return agree


_PARTS = {"agreement": measure_agreement}


def main():
  """Measures a part."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("part", choices=_PARTS)
  parser.add_argument("--threads", type=int, default=2)
  options, flags = parser.parse_known_args()
  if not _PARTS[options.part](options.threads, flags):
    sys.exit(f"FAILED: a difference is over {_MOST}")
  print("PASSED")


if __name__ == "__main__":
  main()
