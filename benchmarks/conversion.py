"""Measures conversion: examples/s from a task's file to cached records.

  pip install transformers    # here, or where --hf_python is
  python benchmarks/conversion.py --task=cola:glue/CoLA:uncased/vocab.txt \\
      --task=mnli:glue/MNLI:uncased/vocab.txt \\
      --task=xnli:XNLI:chinese/vocab.txt --hf_python=hf/bin/python

Three sides take turns on each task, none of them while another is at work, and
every one with a tokenizer that has seen nothing:

  ours      as run_classifier.py does it: the file is read once to check and
            count its examples (`FeatureCache.count`), then again to make
            ids, records, a TFRecord file and its digest; one process
  two       the same with `--processes` of them
  theirs    `BertTokenizerFast` on lists of the same texts, which it is given
            for nothing: `--batch` examples a call, cut and padded to the
            length, one thread; its lists are thrown away

For each task it prints examples/s by wall time, and ratios to `theirs` of each
round: the median and the range. Where others use the machine, wall time holds
their work too; `cpu`, the ratio by processor time, holds less of it and is the
one to trust. For `two` only wall time means something, and only where as many
cores are free.

The first round is not counted. The first 10 000 examples of a set are always
converted by one process, so `two` differs from `ours` on larger sets only:
`--examples` repeats a task's file up to that many. The more there are, the more
words are known already, as in a set of that size.

  --memory=10000,1000000   instead: the peak memory (resident) of a conversion
                           of so many examples, each with a word of its own, in
                           one process and in `--processes`; beside it the size
                           of the file
"""

import argparse
import functools
import gc
import itertools
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from speed import spread

SIDES = ("ours", "two", "theirs")


def arguments():
  """Returns the arguments of the command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "--task",
    action="append",
    required=True,
    metavar="NAME:DATA_DIR:VOCAB_FILE",
    help="a task's name, folder and vocabulary; may be repeated",
  )
  parser.add_argument(
    "--cased", action="store_true", help="keep case and accents, on all sides"
  )
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--length", type=int, default=128, help="positions, S")
  parser.add_argument("--examples", type=int, default=0, help="0: the file's")
  parser.add_argument(
    "--batch", type=int, default=1000, help="theirs, in examples"
  )
  parser.add_argument("--processes", type=int, default=2, help="of side two")
  parser.add_argument(
    "--hf_python", default=sys.executable, help="a Python with transformers"
  )
  parser.add_argument(
    "--memory",
    type=lambda text: [int(number) for number in text.split(",")],
    metavar="NUMBER,NUMBER",
    help="measure memory instead, with so many examples",
  )
  return parser.parse_args()


def main():
  args = arguments()
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  if args.memory:
    for task in args.task:
      measure_memory(args, *task.split(":"))
    return
  theirs = subprocess.Popen(
    [args.hf_python, __file__, "--theirs"],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
  )
  with theirs, tempfile.TemporaryDirectory() as folder:
    for task in args.task:
      measure(args, *task.split(":"), theirs, folder)
    theirs.stdin.close()


def measure(args, name, data_dir, vocab_file, theirs, folder):
  """Runs the rounds of a task and prints their rates and ratios."""
  from bert_classifier.catalogue import PROCESSORS
  from bert_classifier.tasks import TaskData

  processor = PROCESSORS[name]()
  if args.examples:
    write_repeated(processor, data_dir, "train", args.examples, folder)
    data_dir = folder
  texts = os.path.join(folder, "texts.json")
  with open(texts, "w") as file:
    examples = TaskData(processor, data_dir).examples("train")
    json.dump([(e.text_a, e.text_b) for e in examples], file)
  job = dict(texts=texts, vocab_file=vocab_file)
  job.update(length=args.length, batch=args.batch)
  job["do_lower_case"] = not args.cased
  rounds = {side: [] for side in SIDES}
  for number in range(args.rounds + 1):
    for side in SIDES[:: -1 if number % 2 else 1]:
      if side == "theirs":
        print(json.dumps(job), file=theirs.stdin, flush=True)
        measured = json.loads(theirs.stdout.readline() or sys.exit(1))
      else:
        processes = args.processes if side == "two" else 1
        measured = convert(processor, name, data_dir, job, processes)
      rounds[side].append(measured)
  report(name, {side: values[1:] for side, values in rounds.items()})


def write_repeated(
  processor, data_dir, split, num_examples, folder, own_words=False
):
  """Writes a task's file to `folder`, repeated or cut, and returns its path.

  Args:
    processor: `tasks.DataProcessor`.
    data_dir: folder of the task's files.
    split: whose file it is.
    num_examples: number of examples to write.
    folder: where to.
    own_words: whether each example gets a word in text_a that no other has.
  """
  from bert_classifier.tasks import TaskData

  table = processor.tables[split]
  source, target = (
    pathlib.Path(TaskData(processor, parent).path(split))
    for parent in (data_dir, folder)
  )
  target.parent.mkdir(parents=True, exist_ok=True)
  lines = source.read_text(encoding="utf-8").rstrip("\n").split("\n")
  header, body = lines[: table.header], lines[table.header :]
  repeated = itertools.islice(itertools.cycle(body), num_examples)
  with target.open("w", encoding="utf-8") as file:
    file.writelines(f"{line}\n" for line in header)
    for number, line in enumerate(repeated):
      if own_words:
        cells = line.split("\t")
        cells[table.text_a] += f" word{number}"
        line = "\t".join(cells)
      file.write(f"{line}\n")
  return target


def measure_memory(args, name, data_dir, vocab_file):
  """Prints the peak memory of conversions, each in a process of its own."""
  from bert_classifier.catalogue import PROCESSORS

  processor = PROCESSORS[name]()
  for num_examples in args.memory:
    with tempfile.TemporaryDirectory() as folder:
      written = write_repeated(
        processor, data_dir, "train", num_examples, folder, own_words=True
      )
      job = dict(name=name, data_dir=folder, vocab_file=vocab_file)
      job.update(length=args.length, do_lower_case=not args.cased)
      peaks = {}
      for job["processes"] in (1, args.processes):
        printed = subprocess.run(
          [sys.executable, __file__, "--peak", json.dumps(job)],
          stdout=subprocess.PIPE,
          check=True,
        ).stdout
        peaks[job["processes"]] = json.loads(printed)
      size = written.stat().st_size / 2**20
    print(
      f"{name}: {num_examples} examples, a file of {size:.0f} MiB", flush=True
    )
    for processes, (own, others) in peaks.items():
      beside = f", each of {processes} others {others:.0f}" * (processes > 1)
      print(f"  peak {own:.0f} MiB{beside}", flush=True)


def print_peak(job):
  """Converts in this process; prints its peak in MiB and its children's."""
  from bert_classifier.catalogue import PROCESSORS

  job = json.loads(job)
  processor = PROCESSORS[job["name"]]()
  convert(processor, job["name"], job["data_dir"], job, job["processes"])
  kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
  print([resource.getrusage(kind).ru_maxrss / 1024 for kind in kinds])


def convert(processor, name, data_dir, job, processes):
  """Converts once; returns the triple of `timed`."""
  from bert_classifier.feature_cache import FeatureCache
  from bert_classifier.tasks import TaskData
  import tokenization

  with tempfile.TemporaryDirectory() as cache_dir:
    cache = FeatureCache(
      TaskData(processor, data_dir),
      name,
      cache_dir=cache_dir,
      max_seq_length=job["length"],
      tokenizer_inputs={},
      tokenizer=tokenization.FullTokenizer(
        job["vocab_file"], job["do_lower_case"]
      ),
      num_processes=processes,
    )

    def work():
      cache.count("train")
      return cache.features("train").records

    return timed(work)


def timed(work):
  """Returns what `work` does, the number of examples; seconds; CPU seconds."""
  gc.collect()  # of what earlier turns left
  began, used = time.perf_counter(), sum(os.times()[:4])
  num_examples = work()
  return num_examples, time.perf_counter() - began, sum(os.times()[:4]) - used


def serve_theirs():
  """Answers jobs, one a line, as the side `theirs`."""
  from transformers import BertTokenizerFast

  for line in sys.stdin:
    job = json.loads(line)
    with open(job["texts"]) as file:
      texts = json.load(file)
    tokenizer = BertTokenizerFast(
      job["vocab_file"], do_lower_case=job["do_lower_case"]
    )
    work = functools.partial(tokenize, tokenizer, texts, job)
    print(json.dumps(timed(work)), flush=True)


def tokenize(tokenizer, texts, job):
  """Tokenizes all texts and returns their number."""
  first, second = map(list, zip(*texts))
  pairs = second[0] is not None
  for start in range(0, len(texts), job["batch"]):
    batch = slice(start, start + job["batch"])
    tokenizer(
      first[batch],
      second[batch] if pairs else None,
      padding="max_length",
      truncation=True,
      max_length=job["length"],
    )
  return len(texts)


def report(name, rounds):
  """Prints rates and ratios of a task."""
  num_examples = rounds["ours"][0][0]
  rates = {
    side: statistics.median(count / wall for count, wall, _ in values)
    for side, values in rounds.items()
  }
  print(
    f"{name}: {num_examples} examples;",
    ", ".join(f"{side} {rate:.0f} examples/s" for side, rate in rates.items()),
  )
  for side, against, clock in (
    ("ours", "theirs", "cpu"),
    ("ours", "theirs", "wall"),
    ("two", "theirs", "wall"),
    ("two", "ours", "wall"),
  ):
    index = ["examples", "wall", "cpu"].index(clock)
    ratios = (
      other[index] / own[index]
      for own, other in zip(rounds[side], rounds[against])
    )
    print(f"  {side} against {against}, {clock}: {spread(ratios)}", flush=True)


if __name__ == "__main__":
  sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
  if sys.argv[1:] == ["--theirs"]:
    serve_theirs()
  elif sys.argv[1:2] == ["--peak"]:
    print_peak(sys.argv[2])
  else:
    main()
