"""Measures how long the report of an evaluation takes to write.

Made-up evaluations of each kind of target, as large as MNLI's dev set, on which
a model of no use is right now and then; the first line is the time of the
imports that only a report needs.

  python benchmarks/report_speed.py [--examples=9815] [--keep=FOLDER]
"""

import argparse
import os
import pathlib
import sys
import tempfile
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from bert_classifier import metrics, report, targets
from bert_classifier.tasks import InputExample

_WORDS = [
  "the",
  "plot",
  "of",
  "this",
  "film",
  "is",
  "thin",
  "but",
  "its",
  "music",
] + ["and", "light", "are", "not"]


def make_evaluation(target, n, seed=0, sureness=2.0, **fields):
  """Returns a `report.Evaluation` of n made-up examples.

  Args:
    target: see `targets`.
    n: number of examples.
    seed: of everything in it.
    sureness: how much larger the logit of the true class is, on average.
    fields: what it has otherwise.
  """
  generator = np.random.default_rng(seed)
  noise = generator.normal(size=(n, target.width))
  if target.problem_type == "regression":
    labels = np.float32(generator.integers(0, 26, n) / 5)
    logits = np.float32(labels[:, None] + 0.7 * noise)
  elif target.problem_type == "multi_label_classification":
    labels = np.float32(generator.random((n, target.width)) < 0.3)
    logits = np.float32(sureness * (2 * labels - 1) + 1.5 * noise)
  else:
    labels = generator.zipf(1.3, n) % target.width
    true = np.eye(target.width)[labels]
    logits = np.float32(sureness * true + 1.2 * noise)
  tokens = generator.geometric(0.05, n).clip(1, 120) + 6
  unknown = generator.binomial(tokens, 0.01 * (generator.random(n) < 0.3))
  made = dict(
    split="dev",
    target=target,
    metric=target.headline,
    results=_measure(target, logits, labels),
    losses=target.losses(logits, labels),
    logits=logits,
    labels=labels,
    examples=_make_examples(tokens),
    tokens=np.int32(tokens),
    unknown=np.int32(unknown),
    history=_make_history(generator),
    settings={"model": {"max_seq_length": 128}, "training": {"seed": 42}},
    checkpoint="out/model.ckpt-343",
    facts={"task": "made up", "device": "CPU, 2 threads"},
  )
  return report.Evaluation(**{**made, **fields})


def _measure(target, logits, labels):
  arrays = labels, target.decide(logits), target.scores(logits)
  results = {
    "eval_loss": np.mean(target.losses(logits, labels)),
    "loss": np.mean(target.losses(logits, labels)),
    "global_step": np.int64(343),
  }
  for name in target.metrics:
    try:
      results[f"eval_{name}"] = np.float32(metrics.measure(name, *arrays))
    except metrics.UndefinedError:
      continue
  return results


def _make_examples(tokens):
  return [
    InputExample(
      f"dev-{i}", " ".join(_WORDS[(i + j) % len(_WORDS)] for j in range(n))
    )
    for i, n in enumerate(tokens)
  ]


def _make_history(generator):
  steps = [1, *range(10, 344, 10), 343]
  history = [
    {
      "step": step,
      "loss": float(0.2 + 0.5 * np.exp(-step / 90) + 0.05 * noise),
      "learning_rate": 5e-5 * min(step / 34, 1 - step / 343),
      "gradient_norm": float(1 + abs(noise)),
    }
    for step, noise in zip(steps, generator.normal(size=len(steps)))
  ]
  return [*history, {"step": 343, "split": "dev", "eval_loss": 0.33}]


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--examples", type=int, default=9815)
  parser.add_argument("--keep", help="folder of the reports, to look at them")
  given = parser.parse_args()
  began = time.perf_counter()
  import sklearn.metrics  # noqa: F401

  from bert_classifier import report_page  # noqa: F401

  print(f"imports: {time.perf_counter() - began:.2f} s")
  kinds = {
    "two": targets.OneClass(["0", "1"]),
    "mnli": targets.OneClass(["contradiction", "entailment", "neutral"]),
    "fifteen": targets.OneClass([f"class {i}" for i in range(15)]),
    "iflytek": targets.OneClass([f"class {i}" for i in range(119)]),
    "several": targets.SeveralClasses([f"label {i}" for i in range(28)]),
    "number": targets.Number(),
  }
  with tempfile.TemporaryDirectory() as temporary:
    for name, target in kinds.items():
      folder = os.path.join(given.keep or temporary, name)
      os.makedirs(folder, exist_ok=True)
      evaluation = make_evaluation(target, given.examples)
      began, computed = time.perf_counter(), time.process_time()
      page = report.write(folder, evaluation)
      seconds = time.perf_counter() - began
      computed = time.process_time() - computed
      size = os.path.getsize(page) / 1024
      print(
        f"{name}: {seconds:.2f} s, {computed:.2f} s of CPU time, page of"
        f" {size:.0f} KiB"
      )


if __name__ == "__main__":
  main()
