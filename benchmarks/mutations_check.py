"""Holds what a command wrote against an independent `Reading` of its files.

A BERT in NumPy computes every number of the results again, from the weights
that the results are of. Training is held against what is known without doing
it: the features that it was given, the number of steps, and that no weight
moved further from where it began than AdamW can move it.

Axis letters: B batch, S sequence, H hidden, N heads, D head width, L labels.
"""

import hashlib
import math
from pathlib import Path
import re
import struct

from mutations_oracle import is_on, list_shapes
from mutations_reading import Refused, read_checkpoint
import numpy as np
import tensorflow.compat.v1 as tf

# Of probabilities, between two orders of summation in float32. The world's
# predictions differ by a thousandth and more.
TOLERANCE = 1e-5
# The most that |m| / sqrt(v) of Adam can be with betas 0.9 and 0.999:
# (1 - b1) / sqrt((1 - b2) (1 - b1^2 / b2)), by the inequality of Cauchy and
# Schwarz.
LARGEST_UPDATE = 0.1 / math.sqrt(0.001 * (1 - 0.81 / 0.999))


class Wrong(Exception):
  """The program wrote something else than what is right: says what."""


class Shaky(Exception):
  """The numbers depend on rounding, so nothing can be said of them."""


# ---------------------------------------------------------------------------
# BERT


def _erf(x):
  return np.vectorize(math.erf, otypes=[np.float64])(x).astype(x.dtype)


def _gelu(x):
  return 0.5 * x * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x * x * x)))


ACTIVATIONS = {
  "gelu": _gelu,
  "gelu_new": _gelu,
  "gelu_erf": lambda x: 0.5 * x * (1 + _erf(x * math.sqrt(0.5))),
  "relu": lambda x: np.maximum(x, 0),
  "tanh": np.tanh,
}


def compute_logits(weights, config, ids, segments, dtype):
  """Returns the logits [L] of one example."""

  def get(name):
    return np.asarray(weights[name], dtype)

  def dense(x, scope):
    return x @ get(f"{scope}/kernel") + get(f"{scope}/bias")

  def normalize(x, scope):
    x = x - x.mean(-1, keepdims=True)
    variance = (x * x).mean(-1, keepdims=True)
    x = x / np.sqrt(variance + dtype(config["layer_norm_eps"]))
    return x * get(f"{scope}/gamma") + get(f"{scope}/beta")

  activation = ACTIVATIONS.get(config["hidden_act"].lower(), lambda x: x)
  heads = config["num_attention_heads"]
  x = get("bert/embeddings/word_embeddings")[list(ids)]
  x = x + get("bert/embeddings/token_type_embeddings")[list(segments)]
  x = x + get("bert/embeddings/position_embeddings")[: len(ids)]
  x = normalize(x, "bert/embeddings/LayerNorm")  # [S, H]
  for layer in range(config["num_hidden_layers"]):
    scope = f"bert/encoder/layer_{layer}"
    query, key, value = (
      dense(x, f"{scope}/attention/self/{name}")
      .reshape(len(ids), heads, -1)
      .transpose(1, 0, 2)
      for name in ("query", "key", "value")
    )  # [N, S, D]
    scores = query @ key.transpose(0, 2, 1) / dtype(math.sqrt(query.shape[-1]))
    attended = _softmax(scores) @ value
    attended = attended.transpose(1, 0, 2).reshape(len(ids), -1)
    attended = dense(attended, f"{scope}/attention/output/dense")
    x = normalize(x + attended, f"{scope}/attention/output/LayerNorm")
    wide = activation(dense(x, f"{scope}/intermediate/dense"))
    wide = dense(wide, f"{scope}/output/dense")
    x = normalize(x + wide, f"{scope}/output/LayerNorm")
  pooled = np.tanh(dense(x[0], "bert/pooler/dense"))
  return pooled @ get("output_weights").T + get("output_bias")


def _softmax(x):
  x = np.exp(x - x.max(-1, keepdims=True))
  return x / x.sum(-1, keepdims=True)


def compute_all(weights, config, examples):
  """Returns the logits <float64>[B, L] of examples.

  Raises:
    Shaky: float32 and float64 disagree.
    Refused: a number is not finite.
  """
  with np.errstate(all="ignore"):
    wide, narrow = (
      np.array(
        [
          compute_logits(weights, config, e.ids, e.segments, t)
          for e in examples
        ]
      )
      for t in (np.float64, np.float32)
    )
  if not np.isfinite(narrow).all():
    if np.isfinite(wide).all():
      raise Shaky("numbers that only float64 can hold")
    raise Refused("the weights give numbers that are not finite")
  if np.abs(_softmax(wide) - _softmax(narrow)).max() > TOLERANCE / 4:
    raise Shaky("float32 and float64 disagree")
  return wide


# ---------------------------------------------------------------------------
# Results


def check(world, reading, log):
  """Raises `Wrong` where the results are not those of a `Reading`.

  Args:
    world: `Path` of the folder that the command ran in.
    reading: `mutations_oracle.Reading` of it, before it ran.
    log: what the command printed.

  Raises:
    Refused: it should have ended with an error.
    Shaky: nothing can be said of the results.
  """
  out = world / reading.flags["output_dir"]
  weights, step = reading.weights, reading.first_step
  if reading.steps > reading.first_step:
    weights, step = _check_training(world, out, reading, log), reading.steps
  if is_on(reading.flags, "do_eval"):
    _check_evaluation(out, reading, weights, step)
  if is_on(reading.flags, "do_predict"):
    _check_prediction(out, reading, weights)


def _check_training(world, out, reading, log):
  """Returns the trained weights."""
  path = re.findall(r" train: .* in(?:to)? (\S+\.tf_record)", log)
  if not path:
    raise Wrong("the log names no features of the training set")
  length = int(reading.flags["max_seq_length"])
  _check_features(world / path[-1], reading.examples["train"], length)
  state = (out / "checkpoint").read_text()
  name = f"model.ckpt-{reading.steps}"
  if f'model_checkpoint_path: "{name}"' not in state:
    raise Wrong(f"the newest checkpoint is not {name}")
  try:
    trained = read_checkpoint(out / name)
  except Refused as error:
    raise Wrong(f"{name} cannot be read: {error}") from error
  rate = float(reading.flags["learning_rate"])
  most = LARGEST_UPDATE * rate * (reading.steps - reading.first_step)
  for variable in list_shapes(reading.config, len(reading.labels)):
    after, before = trained[variable], reading.weights.get(variable)
    if not np.isfinite(after).all():
      raise Refused("the weights became numbers that are not finite")
    if before is None:
      continue
    before = before.astype(np.float64)
    moved = np.abs(after - before).max()
    if moved > most + rate * 0.1 * (1 + np.abs(before).max()) + 1e-5:
      raise Wrong(
        f"{variable} moved by {moved}, but at most {most} is possible"
      )
  return trained


def _check_features(path, examples, length):
  records = list(_records(path))
  if len(records) != len(examples):
    raise Wrong(f"{path} has {len(records)} examples, not {len(examples)}")
  for number, (record, example) in enumerate(zip(records, examples)):
    features = tf.train.Example.FromString(record).features.feature
    found = {
      name: list(value.int64_list.value) for name, value in features.items()
    }
    rest = [0] * (length - len(example.ids))
    right = dict(
      input_ids=[*example.ids, *rest],
      input_mask=[1] * len(example.ids) + rest,
      segment_ids=[*example.segments, *rest],
      label_ids=[example.label],
      is_real_example=[1],
    )
    for name, value in right.items():
      if found.get(name) != value:
        raise Wrong(f"{path}: example {number}: {name} is {found.get(name)}")


def _records(path):
  """Yields the records of a TFRecord file: length, crc, data, crc."""
  data, place = Path(path).read_bytes(), 0
  while place < len(data):
    (size,) = struct.unpack_from("<Q", data, place)
    yield data[place + 12 : place + 12 + size]
    place += size + 16


def _check_evaluation(out, reading, weights, step):
  examples = reading.examples["dev"]
  logits = compute_all(weights, reading.config, examples)
  labels = np.array([example.label for example in examples])
  log_sums = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1))
  losses = log_sums + logits.max(-1) - logits[np.arange(len(labels)), labels]
  size = int(reading.flags["eval_batch_size"])
  batches = [losses[i : i + size].mean() for i in range(0, len(losses), size)]
  right = dict(eval_loss=losses.mean(), loss=np.mean(batches), global_step=step)
  ordered = np.sort(logits, -1)
  if (ordered[:, -1] - ordered[:, -2]).min() > 10 * TOLERANCE:
    right.update(_metrics(reading.flags["task_name"].lower(), labels, logits))
  found = {}
  for line in (out / "eval_results.txt").read_text().splitlines():
    name, value = line.split(" = ")
    found[name] = float(value)
  for name, value in right.items():
    scale = max(1, abs(value))
    if not abs(found.get(name, math.nan) - value) < 5 * TOLERANCE * scale:
      raise Wrong(f"{name} is {found.get(name)}, but {value} is right")


def _metrics(task, labels, logits):
  decided = logits.argmax(-1)
  metrics = dict(eval_accuracy=(decided == labels).mean())
  true, false = (((decided == 1) & (labels == label)).sum() for label in (1, 0))
  missed = ((decided != 1) & (labels == 1)).sum()
  rejected = len(labels) - true - false - missed
  if task == "mrpc":
    both = 2 * true + false + missed
    metrics["eval_f1"] = 2 * true / both if both else 0.0
  if task == "cola":
    product = float((true + false) * (true + missed) * (rejected + false)) * (
      rejected + missed
    )
    metrics["eval_matthews_correlation"] = (
      (true * rejected - false * missed) / math.sqrt(product)
      if product
      else 0.0
    )
  return metrics


def _check_prediction(out, reading, weights):
  examples = reading.examples["test"]
  right = _softmax(compute_all(weights, reading.config, examples))
  found = _table(out / "test_results.tsv")
  if len(found) != len(examples):
    raise Wrong(f"{len(found)} predictions of {len(examples)} examples")
  numbers = np.array(found, np.float64)
  difference = np.abs(numbers - right).max()
  if not difference < TOLERANCE:
    raise Wrong(f"the probabilities differ by up to {difference}")
  header, *rows = _table(out / "test_predictions.tsv")
  shown = ["id", "text_a", "text_b"]
  shown += ["gold"] * (len(examples[0].shown) > 3) + ["label", "probability"]
  if header != shown + [f"probability_{label}" for label in reading.labels]:
    raise Wrong(f"the header of test_predictions.tsv is {header}")
  if len(rows) != len(examples):
    raise Wrong(f"test_predictions.tsv has {len(rows)} rows")
  for row, example, cells in zip(rows, examples, found):
    best = int(np.argmax(np.array(cells, np.float64)))
    tidy = [re.sub(r"\s", " ", text) for text in example.shown]
    tidy += [reading.labels[best], cells[best], *cells]
    if [re.sub(r"\s", " ", cell) for cell in row] != tidy:
      raise Wrong(f"test_predictions.tsv has {row}, but {tidy} is right")


def _table(path):
  text = Path(path).read_bytes().decode()
  return [line.split("\t") for line in text.split("\n")[:-1]]


# ---------------------------------------------------------------------------
# What is in output_dir


RESULTS = ("eval_results.txt", "test_results.tsv", "test_predictions.tsv")


def collect_results(out):
  """Returns {name: text or digest} of what a command computed."""
  found = {
    name: (out / name).read_text() for name in RESULTS if (out / name).exists()
  }
  state = out / "checkpoint"
  newest = (
    re.search(r'path: "([^"]*)"', state.read_text())
    if (state.is_file())
    else None
  )
  if newest:
    variables = read_checkpoint(out / newest[1])
    sha256 = hashlib.sha256()
    for name in sorted(variables):
      sha256.update(name.encode() + variables[name].tobytes())
    found["checkpoint"] = f"{newest[1]} {sha256.hexdigest()}"
  return found
