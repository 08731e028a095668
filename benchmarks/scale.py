"""Several devices held against one, and what a step needs: a table a part.

  python benchmarks/scale.py
  python benchmarks/scale.py --data=glue --init_checkpoint=uncased_L-12_H-768

  agreement  The sample without dropout on one device, on two logical CPUs by
             MirroredStrategy, in two and four processes (--num_workers): for
             each the largest difference of losses, norms and variables from one
             device after the first 30 steps, the median time of a later step,
             the examples a second, the seconds to the first step, and the
             processor time of all processes. It fails where a loss or a
             variable differs by more than 1e-5. All of them have --threads
             threads together, so that what is slower is the work of being
             several: on one machine nothing can be won.
  memory     Peak and processor time of a step, as it is, in four parts, with
             layers computed again, and both; of the last of --tasks.
  packing    Of each of --tasks: all positions, packed rows, real tokens.
  crossings  What a GPU's host waits for: benchmarks/crossings.py, which needs
             a CUDA build of TensorFlow.

--parts chooses among them. --data holds a folder for each of --tasks
(CoLA,MNLI,MRPC), of which memory and packing train on 320 examples, in batches
of 32 of 128 positions; without it they take the sample, which is small, and
shows little. Other flags are those of run_classifier.py for these two, such as
--init_checkpoint or a --bert_config_file with its --vocab_file.
"""

import argparse
import json
import os
from pathlib import Path
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import memory_step
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
_STEPS, _CHECKED = 150, 30  # of a training, and up to which it is compared
_SAMPLE = [
  "--task_name=cola",
  f"--data_dir={ROOT}/sample/data",
  f"--vocab_file={ROOT}/sample/vocab.txt",
  f"--bert_config_file={ROOT}/sample/bert_config.json",
  "--max_seq_length=16",
  "--train_batch_size=32",
]
_SCRIPT = str(ROOT / "run_classifier.py")
_MEBIBYTE = 1 << 20
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


def measure_agreement(options, more_flags):
  """Trains in all ways; prints a line each. Returns whether all agree."""
  del more_flags  # the sample's model has no dropout
  threads = options.threads
  flags = [
    *_SAMPLE,
    "--do_train",
    "--learning_rate=5e-4",
    "--head_dropout=0",
    "--log_steps=1",
    f"--save_checkpoints_steps={_CHECKED}",
    "--keep_checkpoint_max=0",
    f"--num_train_epochs={_STEPS * 32 / 6000 + 1e-4:.4f}",
  ]
  ways = [("1 device", [_SCRIPT], [f"--num_threads={threads}"])]
  ways.append(("2 mirrored", ["-c", _MIRRORED, "2"], ways[0][2]))
  for number in (2, 4):
    each = f"--num_threads={max(1, threads // number)}"
    ways.append(
      (f"{number} workers", [_SCRIPT], [f"--num_workers={number}", each])
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


def list_tasks(options):
  """Returns {name: flags} of the tasks that are trained on."""
  if options.data is None:
    return {"sample": _SAMPLE}
  return {
    name: [
      f"--task_name={name.lower()}",
      f"--data_dir={options.data}/{name}",
      "--max_seq_length=128",
      "--train_batch_size=32",
    ]
    for name in options.tasks.split(",")
  }


def show_variations(options, flags, variations):
  """Prints a table of a task's variations, a line each.

  Args:
    flags: of the task and its model.
    variations: {name: flags}.
  """
  threads = f"--num_threads={options.threads}"
  print(f"{'':34} {'peak, MiB':>9} {'processor, s a step':>19} {'loss':>9}")
  with tempfile.TemporaryDirectory() as cache:
    for name, more in variations.items():
      asked = [*flags, "--max_train_examples=320", threads, *more]
      found = memory_step.measure(asked, 1.0, cache)
      packed = re.search(r"every .* are packed into .*", found.log)
      print(
        f"{name:34} {found.peak / _MEBIBYTE:9.0f} {found.seconds:19.2f}"
        f" {found.losses[max(found.losses)]:9.5f}"
        + (f"  {packed[0]}" if packed else ""),
        flush=True,
      )


def measure_memory(options, more_flags):
  """Measures parts and recomputation."""
  name, flags = list(list_tasks(options).items())[-1]
  print(name)
  variations = {
    " ".join(way).replace("--gradient_", "") or "as it is": way
    for way in memory_step.USUAL
  }
  show_variations(options, [*flags, *more_flags], variations)
  return True


def measure_packing(options, more_flags):
  """Measures what packing leaves of the work of all positions."""
  for name, flags in list_tasks(options).items():
    print(name)
    variations = {
      "all positions": ["--noskip_padding"],
      "packed rows": ["--pack_sequences"],
      "real tokens": ["--skip_padding"],
    }
    show_variations(options, [*flags, *more_flags], variations)
  return True


def list_crossings(options, more_flags):
  """Prints what crosses between host and GPU, where TensorFlow knows it."""
  del options, more_flags
  script = str(ROOT / "benchmarks" / "crossings.py")
  done = subprocess.run([sys.executable, script], stderr=subprocess.PIPE)
  if done.returncode:
    print(f"not listed: {done.stderr.decode().strip().splitlines()[-1]}")
  return True


_PARTS = {
  "agreement": measure_agreement,
  "memory": measure_memory,
  "packing": measure_packing,
  "crossings": list_crossings,
}


def main():
  """Measures the parts."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--parts", default=",".join(_PARTS))
  parser.add_argument("--threads", type=int, default=2)
  parser.add_argument("--data", help="folder with a folder for each task")
  parser.add_argument("--tasks", default="CoLA,MNLI,MRPC")
  options, flags = parser.parse_known_args()
  failed = []
  for part in options.parts.split(","):
    print(f"{part}:", flush=True)
    if not _PARTS[part](options, flags):
      failed.append(part)
  if failed:
    sys.exit(f"FAILED: {', '.join(failed)}: a difference is over {_MOST}")
  print("PASSED")


if __name__ == "__main__":
  main()
