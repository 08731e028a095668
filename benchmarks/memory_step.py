"""Measures what accumulation and checkpointing save of memory, and cost.

  python benchmarks/memory_step.py --task_name=mrpc --data_dir=glue/MRPC \\
    --init_checkpoint=uncased_L-12_H-768_A-12 --num_train_epochs=0.1

Every flag but --vary is run_classifier.py's. Each variation is trained once, in
a process of its own. A line has its peak of resident memory as the system
counts it, what a dry run estimates, the processor time of the training without
the start (two trainings, one of twice as many steps, have the same start), and
the loss of the last step that both log.

  --vary="--precision=mixed_bfloat16" adds a variation to the usual four
"""

import json
from pathlib import Path
import sys
import tempfile
from typing import NamedTuple

from memory import run

_MEBIBYTE = 1 << 20
_VARY = "--vary="
_EPOCHS = "--num_train_epochs="
USUAL = (
  [],
  ["--gradient_accumulation_steps=4"],
  ["--gradient_checkpointing"],
  ["--gradient_accumulation_steps=4", "--gradient_checkpointing"],
)


def read_losses(folder):
  """Returns {step: loss} of a training."""
  lines = Path(folder, "history.jsonl").read_text().splitlines()
  return {entry["step"]: entry["loss"] for entry in map(json.loads, lines)}


class Measured(NamedTuple):
  """What a training took.

  Attributes:
    peak: bytes of resident memory.
    seconds: of the processor, a step, without the start.
    losses: {step: loss} of the shorter of two trainings.
    log: of the same.
  """

  peak: int
  seconds: float
  losses: dict
  log: str


def measure(flags, epochs, cache):
  """Trains so many epochs and twice as many; returns the `Measured`."""
  flags = [*flags, f"--cache_dir={cache}", "--log_steps=1"]
  with tempfile.TemporaryDirectory() as folder:
    once = [f"{_EPOCHS}{epochs}", f"--output_dir={folder}/once"]
    peak, short, log = run([*flags, *once])
    twice = [f"{_EPOCHS}{2 * epochs}", f"--output_dir={folder}/twice"]
    longer_peak, long, _ = run([*flags, *twice])
    losses = read_losses(f"{folder}/once")
    steps = len(read_losses(f"{folder}/twice")) - len(losses)
  seconds = (long - short) / steps
  return Measured(max(peak, longer_peak), seconds, losses, log)


def estimate(flags, epochs, cache):
  """Returns the bytes at the peak that a dry run estimates."""
  with tempfile.TemporaryDirectory() as folder:
    report = Path(folder, "dry_run.json")
    asked = ["--dry_run", f"--dry_run_file={report}", f"--output_dir={folder}"]
    run([*flags, *asked, f"{_EPOCHS}{epochs}", f"--cache_dir={cache}"])
    return json.loads(report.read_text())["memory"]["total"]


def show(flags, epochs, cache):
  """Prints the line of one variation."""
  expected = estimate(flags, epochs, cache)
  found = measure(flags, epochs, cache)
  last = max(found.losses)
  print(
    f"peak {found.peak / _MEBIBYTE:.0f} MiB,"
    f" estimate {expected / _MEBIBYTE:.0f} MiB,"
    f" processor time {found.seconds:.2f} s a step,"
    f" loss of step {last} {found.losses[last]:.6f}",
    flush=True,
  )


def main():
  """Measures the command with each of the variations."""
  words = sys.argv[1:]
  flags = [w for w in words if not w.startswith((_VARY, _EPOCHS))]
  epochs = [w[len(_EPOCHS) :] for w in words if w.startswith(_EPOCHS)]
  added = [w[len(_VARY) :].split() for w in words if w.startswith(_VARY)]
  with tempfile.TemporaryDirectory() as cache:
    for variation in [*USUAL, *added]:
      print(" ".join(variation) or "as given", end=": ", flush=True)
      show([*flags, *variation], float(epochs[-1]) if epochs else 3.0, cache)


if __name__ == "__main__":
  main()
