"""Holds the tokenizer of exported graphs against tokenization.py; times it.

  python benchmarks/graph_tokenization.py [--vocab=vocab.txt] [--texts=FILE]
    [--golden=FILE ...] [--features=FILE] [--rounds=100] [--seed=1]

--rounds: batches of 1,000 random texts each, of assigned characters, for each
of six settings of the tokenizer, and of 1,000 strings of bytes. --golden: lines
of JSON with `text`, `do_lower_case` and `ids`; --features: with `text_a`,
`text_b`, `max_seq_length` and the three lists of ids, both as the 2018 script
gave them with --vocab; a line's `vocab` is the name of one beside it. --texts:
lines, whose tokenization is timed, one text at a time and 64. Prints a line for
each, with the number of differences.
"""

import argparse
import json
import os
import random
import sys
import time
import unicodedata

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier.graph_tokenization import GraphTokenizer, TextEncoder
import tokenization

SETTINGS = [
  (True, None, True),
  (False, None, True),
  (True, False, True),
  (False, True, True),
  (True, None, False),
  (False, None, False),
]
ASSIGNED = [
  char
  for char in map(chr, range(0x110000))
  if unicodedata.category(char) not in ("Cn", "Cs", "Co")
]
# Marks that lower-casing keeps, and what else depends on its neighbours.
NEIGHBOURS = [
  char
  for char in ASSIGNED
  if unicodedata.combining(char) and unicodedata.category(char) != "Mn"
] + list("\u03a3\u03a3\u03a3\u0301\u0323\u0488\xad.'")


class Session:
  """The ids of texts, computed by a graph."""

  def __init__(self, tokenizer):
    with tf.Graph().as_default():
      self._texts = tf.placeholder(tf.string, [None])
      self._outputs = GraphTokenizer(tokenizer).tokenize(self._texts)
      self._session = tf.Session()

  def ids(self, texts):
    """Returns the list of ids of each text, str or bytes."""
    ids, rows = self._session.run(self._outputs, {self._texts: texts})
    ends = np.searchsorted(rows, range(len(texts)), side="right")
    return [part.tolist() for part in np.split(ids, ends)[: len(texts)]]


def count_differences(session, tokenizer, texts):
  """Returns how many texts have other ids than by the tokenizer; shows one."""
  expected = [
    tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text)) for text in texts
  ]
  differing = [
    text
    for text, ours, theirs in zip(texts, session.ids(texts), expected)
    if ours != theirs
  ]
  if differing:
    print(f"  such as {ascii(differing[0])}")
  return len(differing)


def make_text(rng, alphabet):
  """Returns a random text: of any characters, few ones, some that matter."""
  pools = [ASSIGNED[:128], ASSIGNED[:3000], ASSIGNED, alphabet, NEIGHBOURS]
  pools = rng.sample(pools, rng.randint(1, len(pools)))
  return "".join(
    rng.choice(rng.choice(pools)) for _ in range(rng.randrange(60))
  )


def make_bytes(rng):
  """Returns bytes of which most are no UTF-8."""
  kinds = [range(256), range(0xC0, 0x100), range(0x80, 0xC0), b"\xed\xa0\xf4a "]
  return bytes(rng.choice(rng.choice(kinds)) for _ in range(rng.randrange(16)))


def compare_random(vocab, rounds, rng):
  """Prints the differences on random texts under each setting."""
  for settings in SETTINGS:
    tokenizer = tokenization.FullTokenizer(vocab, *settings)
    session = Session(tokenizer)
    alphabet = [token for token in tokenizer.vocab if len(token) == 1]
    differences = sum(
      count_differences(
        session, tokenizer, [make_text(rng, alphabet) for _ in range(1000)]
      )
      for _ in range(rounds)
    )
    print(f"random {settings}: {differences} of {1000 * rounds} differ")
  differences = sum(
    count_differences(
      session, tokenizer, [make_bytes(rng) for _ in range(1000)]
    )
    for _ in range(rounds)
  )
  print(f"bytes: {differences} of {1000 * rounds} differ", flush=True)


def read_lines(path):
  """Returns the values of a file of JSON lines."""
  with open(path, encoding="utf-8") as file:
    return [json.loads(line) for line in file]


def compare_golden(vocab, path):
  """Prints the differences from the ids of 2018."""
  rows = [
    row
    for row in read_lines(path)
    if all(unicodedata.category(c) not in ("Cn", "Cs") for c in row["text"])
  ]
  groups = {(row.get("vocab"), row["do_lower_case"]) for row in rows}
  for name, lower in sorted(groups):
    chosen = [
      row
      for row in rows
      if (row.get("vocab"), row["do_lower_case"]) == (name, lower)
    ]
    if name:
      vocab = os.path.join(os.path.dirname(vocab), name)
    session = Session(tokenization.FullTokenizer(vocab, lower))
    found = session.ids([row["text"] for row in chosen])
    differences = sum(a != row["ids"] for a, row in zip(found, chosen))
    print(
      f"{vocab}, {lower}: {differences} of {len(chosen)} differ", flush=True
    )


def compare_features(vocab, path):
  """Prints the differences from the features of 2018."""
  rows, differences = read_lines(path), 0
  tokenizer = tokenization.FullTokenizer(vocab)
  names = ("input_ids", "input_mask", "segment_ids")
  for length in sorted({row["max_seq_length"] for row in rows}):
    chosen = [row for row in rows if row["max_seq_length"] == length]
    with tf.Graph().as_default(), tf.Session() as session:
      texts = [
        tf.constant([row[name] or "" for row in chosen])
        for name in ("text_a", "text_b")
      ]
      found = session.run(TextEncoder(tokenizer, length)(*texts))
    width = found["input_ids"].shape[1]
    for number, row in enumerate(chosen):
      differences += any(
        found[name][number].tolist() != row[name][:width] for name in names
      ) or any(row["input_mask"][width:])
  print(f"{path}: {differences} of {len(rows)} differ", flush=True)


def measure(vocab, path):
  """Prints the processor time of a text."""
  with open(path, encoding="utf-8") as file:
    texts = [line.rstrip("\n") for line in file][:1024]
  begin = time.process_time()
  session = Session(tokenization.FullTokenizer(vocab))
  session.ids(texts[:1])
  print(f"made in {time.process_time() - begin:.2f} s of processor time")
  for size in (1, 64):
    session.ids(texts[:size])
    times = []
    for start in range(0, len(texts), size):
      begin = time.process_time()
      session.ids(texts[start : start + size])
      times.append((time.process_time() - begin) / size)
    milliseconds = 1000 * np.median(times)
    print(f"{size} at a time: {milliseconds:.3f} ms a text, processor time")


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--vocab", default="tests/golden/unicode/vocab.txt")
  parser.add_argument("--golden", action="append", default=[])
  parser.add_argument("--features")
  parser.add_argument("--texts")
  parser.add_argument("--rounds", type=int, default=100)
  parser.add_argument("--seed", type=int, default=1)
  args = parser.parse_args()
  for path in args.golden:
    compare_golden(args.vocab, path)
  if args.features:
    compare_features(args.vocab, args.features)
  if args.texts:
    measure(args.vocab, args.texts)
  compare_random(args.vocab, args.rounds, random.Random(args.seed))


if __name__ == "__main__":
  main()
