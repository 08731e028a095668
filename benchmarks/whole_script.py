"""Measures what input, hooks and logging cost: the script against its step.

  python benchmarks/whole_script.py --data=glue --vocab=uncased/vocab.txt \\
      --tasks=CoLA,MNLI,MRPC --model=small

For each task it prints the examples/s that run_classifier.py tells in its log,
as a user runs it with --do_train, --do_eval and --do_predict, in percent of the
rate of the bare step: one call of the session on rows that lie in memory,
before and after, in a process of its own. The step of inference is that of
prediction, so that loss and metrics are the script's. Of training it prints as
well what share of the time passes outside of the session's calls, which is
hooks, logging and Python, and what share of the processor time the input takes:
both within one process, so that what others do on the machine weighs little.

Weights are random; dev files are repeated up to `--dev_rows`, or evaluation
would be over before its rate is known, and predicted as well. Numbers are
medians over the rounds, with the range.
"""

import collections
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile

from absl import app, flags, logging
from conversion import write_repeated
import speed

LINES = 5  # of progress that the rate of a training is taken from
BARE_STEPS = 40  # of inference
SCRIPT = speed.ROOT / "run_classifier.py"
CHILD = speed.ROOT / "benchmarks" / "whole_script_child.py"

speed.define_flags()
flags.DEFINE_integer("dev_rows", 4000, "Rows that are evaluated.")


def main(argv):
  del argv
  logging.set_verbosity(logging.ERROR)
  options = flags.FLAGS
  with tempfile.TemporaryDirectory() as folder:
    write_files(options, folder)
    options.data = folder
    for task in options.tasks:
      job = speed.prepare(options, task, folder)
      for mode in options.modes:
        measure(options, {**job, "mode": mode}, folder)


def write_files(options, folder):
  """Makes a folder of the tasks' files: train, longer dev, test of its rows."""
  from bert_classifier.catalogue import PROCESSORS
  from bert_classifier.tasks import TaskData

  for task in options.tasks:
    processor = PROCESSORS[task.lower()]()
    source, target = (os.path.join(f, task) for f in (options.data, folder))
    train = TaskData(processor, target).path("train")
    os.makedirs(os.path.dirname(train))
    shutil.copy(TaskData(processor, source).path("train"), train)
    write_repeated(processor, source, "dev", options.dev_rows, target)
    write_test_file(TaskData(processor, target))


def write_test_file(data):
  """Writes the rows of the dev file in the columns of the test file."""
  processor = data.processor
  table = processor.tables["test"]
  empty = [""] * (1 + max(table.columns()))
  lines = ["\t".join(f"column {number}" for number in range(len(empty)))]
  for example in data.examples("dev"):
    row = list(empty)
    row[table.text_a] = example.text_a
    if table.text_b is not None:
      row[table.text_b] = example.text_b
    if table.language is not None:
      row[table.language] = processor.language
    lines.append("\t".join(row))
  path = pathlib.Path(data.path("test"))
  path.write_text("\n".join([*lines, ""]), encoding="utf-8")


def measure(options, job, folder):
  """Prints the script's rates, in percent of the bare step's."""
  config = os.path.join(folder, "bert_config.json")
  pathlib.Path(config).write_text(json.dumps(job["model"]))
  training = job["mode"] == "training"
  script = training_shares if training else inference_rates
  job["steps"] = LINES * job["steps"] if training else BARE_STEPS
  job[job["mode"]].update(speed.write_batches(job, folder))
  bare = speed.Side("memory", job, sys.executable)
  found = collections.defaultdict(list)
  for _ in range(options.rounds):
    seconds = [bare.turn()["seconds"]]
    rates, shares = script(options, job, config, folder)
    seconds.append(bare.turn()["seconds"])
    rate = job["batch"] * job["steps"] / statistics.mean(seconds)
    for what, told in rates.items():
      found[f"{what}, of the bare step's rate"].append(100 * told / rate)
    for what, share in shares.items():
      found[what].append(100 * share)
  bare.stop()
  for what, percent in found.items():
    line = f"{options.model} {job['task']} {what}: {speed.spread(percent)} %"
    print(line, flush=True)


def training_shares(options, job, config, folder):
  """Rates in examples/s, and shares, of a training but for its first steps."""
  between = job["steps"] // LINES
  epochs = (
    (job["steps"] + between + 0.5) * job["batch"] / job["training"]["rows"]
  )
  with tempfile.TemporaryDirectory(dir=folder) as output_dir:
    log, clocks = told_by_script(
      options,
      job,
      f"--output_dir={output_dir}",
      f"--bert_config_file={config}",
      f"--num_train_epochs={epochs}",
      f"--log_steps={between}",
      "--do_train",
      script=CHILD,
    )
  told = re.findall(r"step .* ([\d.]+) examples/s", log)
  if len(told) != LINES + 1:
    sys.exit(f"the script did not train:\n{log}")
  clocks = json.loads(clocks)
  outside = 1 - clocks["in_session"] / clocks["seconds"]
  return (
    {"training": statistics.harmonic_mean(map(float, told[1:]))},
    {
      "training: hooks, logging and Python, of the time": outside,
      "training: input, of the processor time": (
        clocks["input"] / clocks["processor"]
      ),
    },
  )


def inference_rates(options, job, config, folder):
  """Returns examples/s of evaluation and prediction without the first batch."""
  output_dir = os.path.join(folder, f"trained_{job['task']}")
  common = [f"--output_dir={output_dir}", f"--bert_config_file={config}"]
  if not os.path.exists(output_dir):  # weights to evaluate, of one step
    epochs = 1.5 * job["batch"] / job["training"]["rows"]
    told_by_script(
      options, job, *common, f"--num_train_epochs={epochs}", "--do_train"
    )
  log, _ = told_by_script(options, job, *common, "--do_eval", "--do_predict")
  rates = {}
  for what, done in (("evaluation", "evaluated"), ("prediction", "predicted")):
    told = re.findall(rf"{done} .* ([\d.]+) examples/s", log)
    if not told:
      sys.exit(f"the script has not {done}:\n{log}")
    rates[what] = float(told[-1])
  return rates, {}


def told_by_script(options, job, *arguments, script=SCRIPT):
  """Returns what run_classifier.py logs and prints; it must succeed."""
  run = subprocess.run(
    [
      sys.executable,
      script,
      f"--task_name={job['task'].lower()}",
      f"--data_dir={os.path.join(options.data, job['task'])}",
      f"--cache_dir={os.path.dirname(job['training']['records'])}",
      f"--vocab_file={options.vocab}",
      f"--max_seq_length={job['length']}",
      f"--seed={speed.SEED}",
      f"--train_batch_size={job['batch']}",
      f"--eval_batch_size={job['batch']}",
      f"--predict_batch_size={job['batch']}",
      f"--num_threads={options.threads}",
      *arguments,
    ],
    capture_output=True,
    text=True,
  )
  if run.returncode:
    sys.exit(f"the script failed:\n{run.stderr}")
  return run.stderr, run.stdout


if __name__ == "__main__":
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  sys.path.insert(0, str(speed.ROOT))
  app.run(main)
