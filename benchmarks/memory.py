"""Holds the memory that --dry_run estimates against the peak of real runs.

  python benchmarks/memory.py --task_name=mrpc --data_dir=glue/MRPC \\
    --init_checkpoint=uncased_L-12_H-768_A-12 --num_train_epochs=0.1

Every flag but --vary is run_classifier.py's. Each variation is trained once,
and its peak of resident memory, as the system counts it, is printed beside the
estimate, with the quotient of the two.

  --vary="--train_batch_size=8 --max_seq_length=64" adds a variation
"""

import json
import os
from pathlib import Path
import subprocess
import sys
import tempfile

_SCRIPT = Path(__file__).resolve().parent.parent / "run_classifier.py"
_MEBIBYTE = 1 << 20
_VARY = "--vary="


def run(flags):
  """Trains; returns its bytes at the peak, its processor time, its log."""
  process = subprocess.Popen(
    [sys.executable, str(_SCRIPT), "--do_train", *flags],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )
  log = process.stderr.read()
  _, status, usage = os.wait4(process.pid, 0)
  if status:
    sys.exit(log)
  return 1024 * usage.ru_maxrss, usage.ru_utime + usage.ru_stime, log


def compare(flags):
  """Prints the estimate and the peak of one training."""
  with tempfile.TemporaryDirectory() as folder:
    report = Path(folder, "dry_run.json")
    flags = [*flags, f"--output_dir={folder}/output", f"--cache_dir={folder}"]
    run([*flags, "--dry_run", f"--dry_run_file={report}"])
    found = json.loads(report.read_text())
    peak, *_ = run(flags)
  memory = {n: size for n, size in found["memory"].items() if n != "gpu"}
  print(
    *(f"{name} {memory[name] / _MEBIBYTE:.0f}" for name in sorted(memory)),
    f"tried {found['peak memory measured'] / _MEBIBYTE:.0f}",
    f"peak {peak / _MEBIBYTE:.0f}",
    f"estimate / peak {memory['total'] / peak:.2f}",
    flush=True,
  )


def main():
  """Compares the command and its variations."""
  words = sys.argv[1:]
  flags = [word for word in words if not word.startswith(_VARY)]
  variations = [
    word[len(_VARY) :].split() for word in words if word.startswith(_VARY)
  ]
  for variation in variations or [[]]:
    print(" ".join(variation) or "as given", end=": ")
    compare([*flags, *variation])


if __name__ == "__main__":
  main()
