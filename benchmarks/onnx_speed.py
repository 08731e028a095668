"""Holds an ONNX export against our SavedModel: numbers and time.

  python benchmarks/onnx_speed.py --saved=my_output/export/1795680000 \\
    --onnx=my_onnx --texts=glue/CoLA/dev.tsv

--saved is what --do_export wrote of the same weights, --onnx what --export_onnx
did; the last column of --texts is computed, by ids that are padded to the
longest of a batch. For batches of 1 and of 64 it prints the milliseconds of a
batch by the clock and of the processor, medians of --rounds passes in turn, and
the largest difference of an output. Both use --threads threads.
"""

import argparse
import os
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import onnxruntime
import tensorflow.compat.v1 as tf
import tokenizers

tf.get_logger().setLevel("ERROR")  # that loading in a session is deprecated

NAMES = ("input_ids", "input_mask", "segment_ids")


def open_saved(folder, threads):
  """Returns a function from {input: array} to {output: array}."""
  config = tf.ConfigProto(
    intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads
  )
  session = tf.Session(graph=tf.Graph(), config=config)
  with session.graph.as_default():
    loaded = tf.saved_model.load(session, ["serve"], folder)
  signature = loaded.signature_def["serving_default"]
  inputs = {name: info.name for name, info in signature.inputs.items()}
  outputs = {name: info.name for name, info in signature.outputs.items()}
  return lambda batch: session.run(
    outputs, {inputs[name]: batch[name] for name in NAMES}
  )


def open_onnx(folder, threads):
  """Returns the same of an ONNX export."""
  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = threads
  session = onnxruntime.InferenceSession(
    f"{folder}/model.onnx", options, providers=["CPUExecutionProvider"]
  )
  names = [output.name for output in session.get_outputs()]
  return lambda batch: dict(zip(names, session.run(names, batch)))


def make_batches(folder, texts, size):
  """Returns the list of {input: <int32>[size, S]}."""
  tokenizer = tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")
  tokenizer.enable_truncation(512)
  tokenizer.enable_padding()
  batches = []
  for start in range(0, len(texts) - size + 1, size):
    encoded = tokenizer.encode_batch(texts[start : start + size])
    columns = ("ids", "attention_mask", "type_ids")
    arrays = [np.int32([getattr(e, c) for e in encoded]) for c in columns]
    batches.append(dict(zip(NAMES, arrays)))
  return batches


def time_passes(sides, batches, rounds):
  """Returns {side: milliseconds of a batch, by the clock and of processor}."""
  found = {name: [] for name in sides}
  for _ in range(rounds + 1):
    for name, compute in sides.items():
      began, used = time.perf_counter(), time.process_time()
      for batch in batches:
        compute(batch)
      seconds = time.perf_counter() - began, time.process_time() - used
      found[name].append([1e3 * s / len(batches) for s in seconds])
  return {  # without the first pass
    name: [statistics.median(column) for column in zip(*passes[1:])]
    for name, passes in found.items()
  }


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--saved", help="folder of --do_export")
  parser.add_argument("--onnx", help="folder of --export_onnx")
  parser.add_argument("--texts", help="TSV file, its last column the text")
  parser.add_argument("--count", type=int, default=256, help="of these texts")
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--threads", type=int, default=os.cpu_count())
  asked = parser.parse_args()
  with open(asked.texts, encoding="utf-8") as file:
    lines = file.read().splitlines()[1 : asked.count + 1]
  texts = [line.split("\t")[-1] for line in lines]
  sides = {
    "ours": open_saved(asked.saved, asked.threads),
    "onnxruntime": open_onnx(asked.onnx, asked.threads),
  }
  for size in (1, 64):
    batches = make_batches(asked.onnx, texts, size)
    apart = max(
      np.abs(ours[name] - theirs[name]).max()
      for batch in batches
      for ours, theirs in [[compute(batch) for compute in sides.values()]]
      for name in ours
    )
    times = time_passes(sides, batches, asked.rounds)
    words = [
      f"{name} {clock:.1f} ms ({processor:.1f} of processor)"
      for name, (clock, processor) in times.items()
    ]
    print(f"{size} a batch:", *words, f"at most {apart:.1e} apart", sep="  ")


if __name__ == "__main__":
  main()
