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

from memory import run

_MEBIBYTE = 1 << 20
_VARY = "--vary="
_EPOCHS = "--num_train_epochs="
_USUAL = (
  [],
  ["--gradient_accumulation_steps=4"],
  ["--gradient_checkpointing"],
  ["--gradient_accumulation_steps=4", "--gradient_checkpointing"],
)


def read_losses(folder):
  """Returns {step: loss} of a training."""
  lines = Path(folder, "history.jsonl").read_text().splitlines()
  return {entry["step"]: entry["loss"] for entry in map(json.loads, lines)}


def measure(flags, epochs, cache):
  """Prints the line of one variation."""
  with tempfile.TemporaryDirectory() as folder:
    flags = [*flags, f"--cache_dir={cache}", "--log_steps=1"]
    once = [*flags, f"{_EPOCHS}{epochs}", f"--output_dir={folder}/once"]
    twice = [*flags, f"{_EPOCHS}{2 * epochs}", f"--output_dir={folder}/twice"]
    report = Path(folder, "dry_run.json")
    run([*once, "--dry_run", f"--dry_run_file={report}"])
    estimate = json.loads(report.read_text())["memory"]["total"]
    peak, short = run(once)
    longer_peak, long = run(twice)
    losses = read_losses(f"{folder}/once")
    steps = len(read_losses(f"{folder}/twice")) - len(losses)
  print(
    f"peak {max(peak, longer_peak) / _MEBIBYTE:.0f} MiB,"
    f" estimate {estimate / _MEBIBYTE:.0f} MiB,"
    f" processor time {(long - short) / steps:.2f} s a step,"
    f" loss of step {max(losses)} {losses[max(losses)]:.6f}",
    flush=True,
  )


def main():
  """Measures the command with each of the variations."""
  words = sys.argv[1:]
  flags = [w for w in words if not w.startswith((_VARY, _EPOCHS))]
  epochs = [w[len(_EPOCHS) :] for w in words if w.startswith(_EPOCHS)]
  added = [w[len(_VARY) :].split() for w in words if w.startswith(_VARY)]
  with tempfile.TemporaryDirectory() as cache:
    for variation in [*_USUAL, *added]:
      print(" ".join(variation) or "as given", end=": ", flush=True)
      measure([*flags, *variation], float(epochs[-1]) if epochs else 3.0, cache)


if __name__ == "__main__":
  main()
