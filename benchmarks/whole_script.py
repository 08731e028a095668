"""Measures what input, hooks and logging cost: the script against its step.

  python benchmarks/whole_script.py --data=glue --vocab=uncased/vocab.txt \\
      --tasks=CoLA,MNLI,MRPC --model=small

For each task and mode it prints the examples/s that run_classifier.py tells in
its log, as a user runs it with --do_train or --do_eval, in percent of the rate
of the bare step: one call of the session on rows that lie in memory, before and
after, in a process of its own. The step of inference is that of prediction, so
that loss and metrics are the script's. Weights are random; dev files are
repeated up to `--dev_rows`, or evaluation would be over before its rate is
known. Numbers are medians over the rounds, with the range.
"""

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

speed.define_flags()
flags.DEFINE_integer("dev_rows", 4000, "Rows that are evaluated.")


def main(argv):
  del argv
  logging.set_verbosity(logging.ERROR)
  options = flags.FLAGS
  with tempfile.TemporaryDirectory() as folder:
    longer_dev_files(options, folder)
    options.data = folder
    for task in options.tasks:
      job = speed.prepare(options, task, folder)
      for mode in options.modes:
        measure(options, {**job, "mode": mode}, folder)


def longer_dev_files(options, folder):
  """Makes a folder of the tasks' train and dev files."""
  import tasks

  for task in options.tasks:
    processor = tasks.PROCESSORS[task.lower()]()
    source, target = (os.path.join(f, task) for f in (options.data, folder))
    train = processor.path(target, "train")
    os.makedirs(os.path.dirname(train))
    shutil.copy(processor.path(source, "train"), train)
    write_repeated(processor, source, "dev", options.dev_rows, target)


def measure(options, job, folder):
  """Prints the script's rate, in percent of the bare step's."""
  config = os.path.join(folder, "bert_config.json")
  pathlib.Path(config).write_text(json.dumps(job["model"]))
  training, batch = job["mode"] == "training", job["batch"]
  script = trained_rate if training else evaluated_rate
  job["steps"] = LINES * job["steps"] if training else BARE_STEPS
  job[job["mode"]].update(speed.write_batches(job, folder))
  bare = speed.Side("memory", job, sys.executable)
  shares = []
  for _ in range(options.rounds):
    rates = [batch * job["steps"] / bare.turn()["seconds"]]
    told = script(options, job, config, folder)
    rates.append(batch * job["steps"] / bare.turn()["seconds"])
    shares.append(100 * told / statistics.mean(rates))
  bare.stop()
  print(
    f"{options.model} {job['task']} {job['mode']}: the script computes at"
    f" {speed.spread(shares)} % of the bare step's rate",
    flush=True,
  )


def trained_rate(options, job, config, folder):
  """Examples/s over a training by the script, its first steps left out."""
  between = job["steps"] // LINES
  epochs = (
    (job["steps"] + between + 0.5) * job["batch"] / job["training"]["rows"]
  )
  with tempfile.TemporaryDirectory(dir=folder) as output_dir:
    told = told_by_script(
      options,
      job,
      f"--output_dir={output_dir}",
      f"--bert_config_file={config}",
      f"--num_train_epochs={epochs}",
      f"--log_steps={between}",
      "--do_train",
    )
  rates = re.findall(r"step .* ([\d.]+) examples/s", told)
  if len(rates) != LINES + 1:
    sys.exit(f"the script did not train:\n{told}")
  return statistics.harmonic_mean(map(float, rates[1:]))


def evaluated_rate(options, job, config, folder):
  """Rows/s of an evaluation by the script, its first batch left out."""
  output_dir = os.path.join(folder, f"trained_{job['task']}")
  common = [f"--output_dir={output_dir}", f"--bert_config_file={config}"]
  if not os.path.exists(output_dir):  # weights to evaluate, of one step
    epochs = 1.5 * job["batch"] / job["training"]["rows"]
    told_by_script(
      options, job, *common, f"--num_train_epochs={epochs}", "--do_train"
    )
  told = told_by_script(options, job, *common, "--do_eval")
  rates = re.findall(r"evaluated .* ([\d.]+) rows/s", told)
  if not rates:
    sys.exit(f"the script did not evaluate:\n{told}")
  return float(rates[-1])


def told_by_script(options, job, *arguments):
  """The log of run_classifier.py, which must succeed."""
  run = subprocess.run(
    [
      sys.executable,
      speed.ROOT / "run_classifier.py",
      f"--task_name={job['task'].lower()}",
      f"--data_dir={os.path.join(options.data, job['task'])}",
      f"--cache_dir={os.path.dirname(job['training']['records'])}",
      f"--vocab_file={options.vocab}",
      f"--max_seq_length={job['length']}",
      f"--seed={speed.SEED}",
      f"--train_batch_size={job['batch']}",
      f"--eval_batch_size={job['batch']}",
      f"--num_threads={options.threads}",
      *arguments,
    ],
    stderr=subprocess.PIPE,
    text=True,
  )
  if run.returncode:
    sys.exit(f"the script failed:\n{run.stderr}")
  return run.stderr


if __name__ == "__main__":
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  sys.path.insert(0, str(speed.ROOT))
  app.run(main)
