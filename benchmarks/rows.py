"""Measures what a set of so many examples takes: memory and time by part.

  python benchmarks/rows.py --rows=200000 --work=rows_work
  python benchmarks/rows.py --rows=2000000 --work=rows_work
  python benchmarks/rows.py --rows=20000000 --work=rows_work --parts=make,...

It makes the rows itself: short texts of own data, of 3 to 12 words each, and a
model of one small layer, so that what is measured is what the examples need and
not what BERT does. Each part is a process of its own, whose peak memory is
printed with its wall and processor time:

  make     writes train.tsv, test.tsv, vocab.txt and bert_config.json
  convert  run_classifier.py --do_train for one step, which converts first
  first    the same again in another folder: features and index are there
  input    the input of a training alone: time to the first batch, then an
           epoch, or `--batches` of it
  resume   the same from nine tenths of the second epoch on
  buffer   as `input`, drawn from a buffer of all examples as before, whose
           memory grows with them
  predict  run_classifier.py --do_predict of as many rows

`--parts` chooses among them; the work folder keeps what earlier ones made, so
that a long measurement can be taken up. 20,000,000 rows need about 12 GB of
disk, and a machine that does nothing else.
"""

import argparse
import json
import os
import pathlib
import random
import re
import resource
import string
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PARTS = ("make", "convert", "first", "input", "resume", "buffer", "predict")
LENGTH, BATCH = 32, 32
CONFIG = {
  "vocab_size": 1005,
  "hidden_size": 8,
  "num_hidden_layers": 1,
  "num_attention_heads": 1,
  "intermediate_size": 8,
  "max_position_embeddings": LENGTH,
}


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--rows", type=int, default=200_000)
  parser.add_argument("--work", type=pathlib.Path, default="rows_work")
  parser.add_argument("--parts", default=",".join(PARTS))
  parser.add_argument("--batches", type=int, help="of the input; else an epoch")
  parser.add_argument("--test_labels", action="store_true", help="of test.tsv")
  parser.add_argument("--child", choices=PARTS, help=argparse.SUPPRESS)
  args = parser.parse_args()
  folder = args.work / str(args.rows)
  batches = args.batches or args.rows // BATCH
  if args.child:
    read_input(args.child, folder, args.rows, batches)
    return
  folder.mkdir(parents=True, exist_ok=True)
  print(f"{args.rows} rows of {LENGTH} positions, batches of {BATCH}")
  for part in args.parts.split(","):
    if part == "make":
      make(folder, args.rows, args.test_labels)
    elif part in ("input", "resume", "buffer"):
      child = ["--child", part, "--rows", args.rows, "--work", args.work]
      measure(part, [__file__, *child, "--batches", batches])
    else:
      measure(part, command(part, folder, args.rows))


def make(folder, rows, test_labels):
  """Writes the rows, the vocabulary and the configuration."""
  source = random.Random(0)
  letters = string.ascii_lowercase
  words = [f"{a}{b}{c}" for a in letters for b in letters for c in letters]
  words = source.sample(words, 1000)
  special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
  (folder / "vocab.txt").write_text("".join(f"{w}\n" for w in special + words))
  (folder / "bert_config.json").write_text(json.dumps(CONFIG))
  for name in ("train", "test"):
    # Of a test set with labels, labels and outputs are kept for figures.
    has_labels = name == "train" or test_labels
    with open(folder / f"{name}.tsv", "w") as file:
      file.write("text" + "\tlabel" * has_labels + "\n")
      for number in range(rows):
        text = " ".join(source.choices(words, k=source.randint(3, 12)))
        file.write(text + f"\t{number % 2}" * has_labels + "\n")


def command(part, folder, rows):
  """Returns the words of the command of a part."""
  flags = dict(
    vocab_file=folder / "vocab.txt",
    max_seq_length=LENGTH,
    train_batch_size=BATCH,
    cache_dir=folder,
    text_column="text",
    label_column="label",
    output_dir=folder / "out",
  )
  doing = "--do_predict"
  if part == "predict":
    flags["test_file"] = folder / "test.tsv"
  else:
    doing = "--do_train"
    flags.update(
      train_file=folder / "train.tsv",
      bert_config_file=folder / "bert_config.json",
      num_train_epochs=1.5 * BATCH / rows,  # one step
      warmup_proportion=0,
    )
    if part == "first":
      flags["output_dir"] = folder / "first"
    else:
      for path in folder.glob("cached_*"):
        path.unlink()
    doing += " --overwrite_output_dir"
  words = [f"--{name}={value}" for name, value in flags.items()]
  return [ROOT / "run_classifier.py", *doing.split(), *words]


def measure(part, words):
  """Runs a part as a process and prints what it took."""
  began = time.monotonic()
  process = subprocess.Popen(
    [sys.executable, *map(str, words)],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"},
  )
  first_step, output = None, []
  for line in process.stdout:
    output.append(line)
    if first_step is None and re.search(r"step \d+/\d+|trained up to", line):
      first_step = time.monotonic() - began
    if line.startswith("  "):
      print(line.rstrip())
  _, status, usage = os.wait4(process.pid, 0)
  process.returncode = os.waitstatus_to_exitcode(status)
  if process.returncode:
    sys.exit(f"{part} failed:\n{''.join(output[-20:])}")
  step = f", first step after {first_step:.1f} s" if first_step else ""
  print(
    f"{part}: wall {time.monotonic() - began:.1f} s, processor"
    f" {usage.ru_utime + usage.ru_stime:.1f} s, peak"
    f" {usage.ru_maxrss / 1024:.0f} MiB{step}",
    flush=True,
  )


def read_input(part, folder, rows, batches):
  """Reads batches of a training's input, and prints what they took."""
  import tensorflow.compat.v1 as tf

  import estimator_bridge  # noqa: F401 - TensorFlow's banner stays away
  import run_classifier

  tf.disable_eager_execution()
  (records,) = folder.glob("cached_train_*.tf_record")
  start = 0 if part != "resume" else rows + rows * 9 // 10
  began, before = time.monotonic(), processor_seconds()
  dataset = run_classifier.file_based_input_fn_builder(
    str(records),
    LENGTH,
    is_training=True,
    drop_remainder=True,
    seed=42,
    num_examples=rows,
    start=start,
    index=None if part == "buffer" else str(records.with_suffix(".index")),
  )({"batch_size": BATCH})
  following = tf.data.make_one_shot_iterator(dataset).get_next()
  with tf.Session() as session:
    read = session.make_callable(following)
    read()
    print(
      f"  first batch: wall {time.monotonic() - began:.2f} s, processor"
      f" {processor_seconds() - before:.2f} s"
    )
    began, before = time.monotonic(), processor_seconds()
    for _ in range(batches):
      read()
    wall, processor = time.monotonic() - began, processor_seconds() - before
  print(
    f"  {batches} batches: wall {wall:.1f} s, processor {processor:.1f} s,"
    f" {1e6 * processor / batches / BATCH:.1f} us an example"
  )


def processor_seconds():
  """Returns the processor time of this process so far."""
  usage = resource.getrusage(resource.RUSAGE_SELF)
  return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
  main()
