"""Runs the five other scripts of google-research/bert on today's TensorFlow.

  git clone https://github.com/google-research/bert
  git -C bert checkout eedf571
  pip install --no-deps "tf_keras==2.21.*"   # of the TensorFlow's version
  python benchmarks/clients.py bert

create_pretraining_data, extract_features, run_pretraining, run_squad and
run_classifier run twice: with the modules of the checkout, and with
modeling.py, optimization.py and tokenization.py of this project in their place.
Both sides get the same mechanical edits (EDITS, below), the same TensorFlow,
and the same inputs, which are made here: a vocabulary, texts, pairs, questions
and a random checkpoint of two layers. Dropout is 0. Each pair runs with the
variables of TensorFlow 1 (`tf.disable_v2_behavior()`) and with those of
TensorFlow 2 (`tf.disable_eager_execution()`). The end is a table: client,
edited lines, result, and the largest difference of each result; "checkpoint"
stands for all variables after training, the optimizer's included.

  python benchmarks/clients.py bert --unit_tests      their unit tests instead
  python benchmarks/clients.py --carry_over PROJECT   EDITS, in your own project

tf_keras is what `tf.layers` needs since TensorFlow 2.16: the modules of the
checkout use it throughout, of the scripts only run_pretraining does. On
TensorFlow 2.15 nothing has to be installed.

What ran is kept in --output, so the same command goes on where it was stopped;
--redo runs afresh what has one of the given texts in its name. Ten minutes on
two cores.
"""

import argparse
from importlib.util import find_spec
import json
import os
from pathlib import Path
import random
import re
import shutil
import subprocess
import sys

from estimator_tests import read_report
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
MODULES = ("modeling.py", "optimization.py", "tokenization.py")

# Pattern and what stands in its place, in this order, for code of TensorFlow 1
# that imports the modules.
EDITS = (
  (
    r"^(\s*)import tensorflow(?:\.compat\.v1)? as tf\s*$",
    r"\1import estimator_bridge  # noqa: F401\n"
    r"\1import tensorflow.compat.v1 as tf",
  ),
  (
    r"^(\s*)from tensorflow\.contrib import tpu\b",
    r"\1from tensorflow.compat.v1.estimator import tpu",
  ),
  (
    r"^(\s*)from tensorflow\.contrib import cluster_resolver\b",
    r"\1from tensorflow.compat.v1.distribute import cluster_resolver",
  ),
  (r"\btf\.contrib\.tpu\.(CrossShardOptimizer|bfloat16\w*)", r"tf.tpu.\1"),
  (r"\btf\.contrib\.tpu\.", "tf.estimator.tpu."),
  (r"\btf\.contrib\.estimator\.", "tf.estimator.experimental."),
  (r"\btf\.contrib\.cluster_resolver\.", "tf.distribute.cluster_resolver."),
  (r"\btf\.contrib\.distribute\.", "tf.distribute."),
  (r"\btf\.contrib\.data\.AUTOTUNE\b", "tf.data.experimental.AUTOTUNE"),
  (r"\btf\.contrib\.data\.", "tf.data.experimental."),
  (
    r"\btf\.contrib\.layers\.xavier_initializer\b",
    "tf.glorot_uniform_initializer",
  ),
  (
    r"\btf\.contrib\.rnn\.(\w*RNN|\w*Cell|DropoutWrapper)\b",
    r"tf.nn.rnn_cell.\1",
  ),
  (r"\btf\.contrib\.framework\.nest\b", "tf.nest"),
  (r"([\w.]+\.shape\[-?\d+\])\.value\b", r"tf.dimension_value(\1)"),
)
# For the modules of the checkout alone, which are what is replaced.
MODULE_EDITS = (
  (r"\btf\.contrib\.layers\.layer_norm\b", "contrib_layers.layer_norm"),
  (r"^import tensorflow.compat.v1 as tf$", r"\g<0>\nimport contrib_layers"),
)
CONTRIB_LAYERS = '''
"""Layer normalization under the name and with the variables of tf.contrib."""

import tensorflow.compat.v1 as tf


def layer_norm(inputs, begin_norm_axis, begin_params_axis, scope):
  assert begin_norm_axis == begin_params_axis == -1
  with tf.variable_scope(scope, "LayerNorm"):
    width = inputs.shape[-1:]
    beta = tf.get_variable("beta", width, initializer=tf.zeros_initializer())
    gamma = tf.get_variable("gamma", width, initializer=tf.ones_initializer())
  mean, variance = tf.nn.moments(inputs, [-1], keepdims=True)
  return tf.nn.batch_normalization(inputs, mean, variance, beta, gamma, 1e-12)
'''
# So that two runs can be compared: the order of the training examples, and the
# one rate of dropout that is not in the configuration.
COMPARED = (
  (r"\b(contrib_)?tpu\.RunConfig\(", r"\g<0>tf_random_seed=1, "),
  (r"\bkeep_prob=0\.9\b", "keep_prob=1.0"),
)
# Variables of TensorFlow 1, or a graph with those of TensorFlow 2.
VARIABLES = {
  "reference": "tf.disable_v2_behavior()",
  "resource": "tf.disable_eager_execution()",
}
SIDES = ("own", "ours")
MODEL = (
  "--vocab_file={inputs}/vocab.txt --init_checkpoint={inputs}/bert_model.ckpt "
  "--bert_config_file={inputs}/bert_config.json"
)
TRAINING = (
  MODEL + " --output_dir={output} --do_train=true --train_batch_size=4 "
  "--learning_rate=1e-3"
)
# Client: flags, and the results that are compared.
CLIENTS = {
  "create_pretraining_data": (
    "--vocab_file={inputs}/vocab.txt --input_file={inputs}/text.txt "
    "--output_file={output}/examples.tf_record --max_seq_length=32 "
    "--max_predictions_per_seq=5 --dupe_factor=2",
    ("examples.tf_record",),
  ),
  "extract_features": (
    MODEL + " --input_file={inputs}/lines.txt --layers=-1,-2 "
    "--output_file={output}/features.jsonl --max_seq_length=24 --batch_size=4",
    ("features.jsonl",),
  ),
  "run_pretraining": (
    TRAINING.replace("--vocab_file={inputs}/vocab.txt ", "")
    + " --input_file={output}/../create_pretraining_data/examples.tf_record "
    "--do_eval=true --max_seq_length=32 --max_predictions_per_seq=5 "
    "--num_train_steps=12 --num_warmup_steps=3 --max_eval_steps=4",
    ("eval_results.txt", "checkpoint"),
  ),
  "run_squad": (
    TRAINING + " --train_file={inputs}/squad.json --do_predict=true "
    "--predict_file={inputs}/squad.json --max_seq_length=40 --doc_stride=8 "
    "--max_query_length=12 --version_2_with_negative=true "
    "--num_train_epochs=2",
    (
      "train.tf_record",
      "eval.tf_record",
      "predictions.json",
      "nbest_predictions.json",
      "null_odds.json",
      "checkpoint",
    ),
  ),
  "run_classifier": (
    TRAINING + " --task_name=MRPC --data_dir={inputs}/mrpc --do_eval=true "
    "--do_predict=true --max_seq_length=32 --num_train_epochs=3",
    ("train.tf_record", "eval_results.txt", "test_results.tsv", "checkpoint"),
  ),
}
UNIT_TESTS = ("modeling_test", "optimization_test", "tokenization_test")

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PIECES = ("##s", "##ed", "##er", ",", ".", "?", "'", "京", "東")
TEXT = (
  "the a dog cat river house bark sleep walk cross old red small cafe near "
  "under and while every who what where did it does not"
)
WORDS = TEXT.split()


# ---------------------------------------------------------------------------
# Inputs


def make_sentence(rng, length):
  """Returns a sentence of vocabulary words, a few of them not as they stand."""
  words = [
    rng.choice(WORDS) + rng.choice(["", "", "", "s", "ed", "er"])
    for _ in range(length)
  ]
  words[rng.randrange(length)] = rng.choice(["Café", "東京", "xylo", "dog's"])
  return " ".join(words).capitalize() + "."


def make_questions(rng):
  """Returns a dictionary in the format of SQuAD 2.0."""
  paragraphs = []
  for number in range(6):
    context = " ".join(make_sentence(rng, 7) for _ in range(5))
    words = context.split()
    first = rng.randrange(len(words) - 2)
    answer = {
      "text": " ".join(words[first : first + 2]),
      "answer_start": len(" ".join(words[:first])) + bool(first),
    }
    questions = [
      {
        "id": f"{number}-{impossible}",
        "question": make_sentence(rng, 5)[:-1] + "?",
        "is_impossible": impossible,
        "answers": [] if impossible else [answer],
      }
      for impossible in (False, True)
    ]
    paragraphs.append({"context": context, "qas": questions})
  return {"data": [{"title": "made", "paragraphs": paragraphs}]}


def write_texts(folder):
  """Writes vocabulary, texts, pairs and questions to a `Path`."""
  rng = random.Random(1)
  sentences = [make_sentence(rng, rng.randrange(4, 12)) for _ in range(60)]
  lines = [f"{a} ||| {b}" for a, b in zip(sentences[:5], sentences[5:])]
  header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
  pairs = [
    f"{rng.randrange(2)}\t{n}\t{n}\t{a}\t{b}"
    for n, (a, b) in enumerate(zip(sentences[:24], sentences[24:]))
  ]
  documents = ["\n".join(sentences[n : n + 10]) for n in range(0, 60, 10)]
  config = {
    "vocab_size": len((*SPECIAL, *PIECES, *WORDS)),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
  }
  texts = {
    "vocab.txt": "\n".join((*SPECIAL, *PIECES, *WORDS)),
    "text.txt": "\n\n".join(documents),
    "lines.txt": "\n".join([*lines, *sentences[10:14]]),
    "squad.json": json.dumps(make_questions(rng)),
    "bert_config.json": json.dumps(config),
    **{
      f"mrpc/{split}.tsv": "\n".join([header, *pairs])
      for split in ("train", "dev", "test")
    },
  }
  for name, text in texts.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text + "\n")


def write_checkpoint(folder):
  """Writes random weights for the encoder and for the heads of the scripts."""
  import tensorflow.compat.v1 as tf

  import modeling

  config = modeling.BertConfig.from_json_file(str(folder / "bert_config.json"))
  width = config.hidden_size
  heads = {
    "output_weights": [2, width],
    "output_bias": [2],
    "cls/squad/output_weights": [2, width],
    "cls/squad/output_bias": [2],
    "cls/predictions/output_bias": [config.vocab_size],
    "cls/predictions/transform/dense/kernel": [width, width],
    "cls/predictions/transform/dense/bias": [width],
    "cls/predictions/transform/LayerNorm/beta": [width],
    "cls/predictions/transform/LayerNorm/gamma": [width],
    "cls/seq_relationship/output_weights": [2, width],
    "cls/seq_relationship/output_bias": [2],
  }
  rng = np.random.default_rng(2)
  with tf.Graph().as_default(), tf.Session() as session:
    modeling.BertModel(config, False, tf.zeros([1, 4], tf.int32))
    for name, shape in heads.items():
      tf.get_variable(name, shape)
    for variable in tf.global_variables():
      value = rng.normal("gamma" in variable.name, 0.2, variable.shape)
      session.run(variable.assign(value))
    saver = tf.train.Saver()
    saver.save(session, str(folder / "bert_model.ckpt"), write_state=False)


# ---------------------------------------------------------------------------
# Edited copies


def edit(text, edits):
  """Returns a text with edits made, and how many of its lines they changed."""
  changed = 0
  lines = text.split("\n")
  for number, line in enumerate(lines):
    for pattern, replacement in edits:
      lines[number] = re.sub(
        pattern, replacement, lines[number], flags=re.MULTILINE
      )
    changed += lines[number] != line
  return "\n".join(lines), changed


def write_copy(checkout, folder, side, variables):
  """Writes an edited copy of the checkout's scripts.

  Args:
    checkout: `Path` of google-research/bert.
    folder: `Path` to write to.
    side: "own" for the modules of the checkout, "ours" for this project's.
    variables: "reference" or "resource".
  """
  folder.mkdir(parents=True, exist_ok=True)
  line = rf"\g<0>\n{VARIABLES[variables]}"
  last = (*COMPARED, (r"^import tensorflow.compat.v1 as tf$", line))
  for name in (*CLIENTS, *UNIT_TESTS):
    text = (checkout / f"{name}.py").read_text()
    (folder / f"{name}.py").write_text(edit(text, (*EDITS, *last))[0])
  for name in MODULES:
    if side == "ours":
      shutil.copy(ROOT / name, folder)
      continue
    text = (checkout / name).read_text()
    text, _ = edit(text, (*EDITS, *MODULE_EDITS, *last))
    (folder / name).write_text(text)
    (folder / "contrib_layers.py").write_text(CONTRIB_LAYERS)
  shutil.copy(ROOT / "estimator_bridge.py", folder)


def carry_over(project):
  """Makes the edits in the Python files of a folder; prints what it changed.

  The four plain scripts are not copied: where the project has the modules of
  2018, put them in their place.
  """
  left = re.compile(
    r"\btf\.contrib\.[\w.]+|^.*\btensorflow\.contrib\b.*$", re.M
  )
  for path in sorted(project.rglob("*.py")):
    if path.name in MODULES:
      continue
    text, changed = edit(path.read_bytes().decode(), EDITS)
    if changed:
      path.write_bytes(text.encode())
    remains = sorted(set(left.findall(text)))
    if changed or remains:
      print(f"{path}: {changed} lines", *remains, sep="  ")


# ---------------------------------------------------------------------------
# Runs


def run_script(folder, name, flags, report=None):
  """Runs an edited script; returns None, or the last line of what failed.

  Args:
    folder: `Path` of the edited copy.
    name: of the script, without ".py".
    flags: `list` of `str`.
    report: `Path` without which it failed, whatever its exit status; None for
      a script that tells by that status.
  """
  env = {
    **os.environ,
    **({"TF_USE_LEGACY_KERAS": "1"} if find_spec("tf_keras") else {}),
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "CUDA_VISIBLE_DEVICES": "-1",
  }
  done = subprocess.run(
    [sys.executable, f"{name}.py", *flags],
    cwd=folder,
    env=env,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
  )
  log = done.stdout.decode(errors="replace")
  (folder / f"{name}.log").write_text(log)
  if report.exists() if report else done.returncode == 0:
    return None
  lines = [
    line for line in log.splitlines() if re.match(r"[\w.]*Error\b", line)
  ]
  return (lines or log.strip().splitlines() or ["no output"])[-1][:300]


def run_client(folder, name, inputs, redo):
  """Runs a client, unless it ran before; returns the error, or None."""
  output = folder / "results" / name
  state = output / "state.json"
  if state.exists() and not redo:
    return json.loads(state.read_text())
  shutil.rmtree(output, ignore_errors=True)
  output.mkdir(parents=True)
  flags = CLIENTS[name][0].format(inputs=inputs, output=output)
  error = run_script(folder, name, flags.split())
  state.write_text(json.dumps(error))
  return error


def run_unit_test(folder, name, redo):
  """Runs a test file, unless it ran before; returns its outcomes by name."""
  report = folder / f"{name}.xml"
  if redo:
    report.unlink(missing_ok=True)
  if not report.exists():
    error = run_script(folder, name, [f"--xml_output_file={report}"], report)
    if error:
      return {"(file)": error}
  return read_report(report)


# ---------------------------------------------------------------------------
# Comparison


def read_result(path):
  """Returns what a result holds: nested lists, dictionaries, arrays, text."""
  import tensorflow.compat.v1 as tf

  if path.name == "checkpoint":
    reader = tf.train.load_checkpoint(str(path.parent))
    shapes = reader.get_variable_to_shape_map()
    return {name: reader.get_tensor(name) for name in shapes}
  if path.suffix == ".tf_record":
    records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    examples = map(tf.train.Example.FromString, records)
    return [
      {
        name: [*feature.int64_list.value, *feature.float_list.value]
        for name, feature in example.features.feature.items()
      }
      for example in examples
    ]
  text = path.read_text()
  if path.suffix == ".json":
    return json.loads(text)
  if path.suffix == ".jsonl":
    return list(map(json.loads, text.splitlines()))
  if path.suffix == ".tsv":
    return [list(map(float, line.split("\t"))) for line in text.splitlines()]
  pairs = (line.split(" = ") for line in text.splitlines())
  return {key: float(value) for key, value in pairs}


def difference(one, other):
  """Returns the largest difference of two results' numbers.

  It is infinite where anything else differs: text, keys, lengths, shapes.
  """
  if isinstance(one, dict) and isinstance(other, dict):
    if one.keys() != other.keys():
      return float("inf")
    return max((difference(one[k], other[k]) for k in one), default=0.0)
  if isinstance(one, list) and isinstance(other, list):
    if len(one) != len(other):
      return float("inf")
    return max(map(difference, one, other), default=0.0)
  if isinstance(one, str) or isinstance(other, str):
    return 0.0 if one == other else float("inf")
  one, other = (np.asarray(value, np.float64) for value in (one, other))
  if one.shape != other.shape or not np.isfinite([one, other]).all():
    return float("inf")
  return float(np.max(np.abs(one - other), initial=0.0))


def compare(folders, name):
  """Returns a client's differences: a `str` that names each result."""
  found = []
  for result in CLIENTS[name][1]:
    one, other = (
      read_result(folder / "results" / name / result) for folder in folders
    )
    found.append(f"{result} {difference(one, other):.1g}")
  return ", ".join(found)


# ---------------------------------------------------------------------------


def print_clients(args, copies):
  """Runs what did not run yet and prints the table of the clients."""
  inputs = (args.output / "inputs").resolve()
  if not (inputs / "bert_model.ckpt.index").exists():
    write_texts(inputs)
    write_checkpoint(inputs)
  print("| client | variables | edited lines | result | largest difference |")
  print("| --- | --- | --- | --- | --- |")
  for variables in VARIABLES:
    folders = [copies[side, variables] for side in SIDES]
    for name in CLIENTS:
      text = (args.checkout / f"{name}.py").read_text()
      errors = [
        run_client(
          folder, name, inputs, matches(f"{folder.name} {name}", args.redo)
        )
        for folder in folders
      ]
      failed = [f"{s}: {e}" for s, e in zip(SIDES, errors) if e]
      found = "" if failed else compare(folders, name)
      result = "; ".join(failed) or "both run"
      count = edit(text, EDITS)[1]
      print(
        f"| {name} | {variables} | {count} | {result} | {found} |", flush=True
      )


def print_unit_tests(args, copies):
  """Runs what did not run yet and prints the table of the unit tests."""
  print("| tests | modules | variables | passed | failed |")
  print("| --- | --- | --- | --- | --- |")
  for (side, variables), folder in copies.items():
    for name in UNIT_TESTS:
      redo = matches(f"{folder.name} {name}", args.redo)
      outcomes = run_unit_test(folder, name, redo)
      passed = sum(outcome == "passed" for outcome in outcomes.values())
      failed = "; ".join(
        f"{test}: {outcome.splitlines()[0][:100]}"
        for test, outcome in outcomes.items()
        if outcome not in ("passed", "skipped")
      )
      print(
        f"| {name} | {side} | {variables} | {passed} | {failed or 'none'} |"
      )


def matches(name, texts):
  """Tells whether a name holds one of the texts."""
  return any(text in name for text in texts)


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("checkout", type=Path, nargs="?")
  parser.add_argument("--output", type=Path, default=Path("clients_output"))
  parser.add_argument("--redo", nargs="*", default=[], metavar="TEXT")
  parser.add_argument("--unit_tests", action="store_true")
  parser.add_argument("--carry_over", type=Path, metavar="PROJECT")
  args = parser.parse_args()
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  if args.carry_over:
    carry_over(args.carry_over)
    return
  if not args.checkout or not (args.checkout / "run_squad.py").exists():
    parser.error(f"{args.checkout} is no checkout of google-research/bert")
  copies = {
    (side, variables): args.output / f"{side}-{variables}"
    for variables in VARIABLES
    for side in SIDES
  }
  for (side, variables), folder in copies.items():
    write_copy(args.checkout, folder, side, variables)
  (print_unit_tests if args.unit_tests else print_clients)(args, copies)


if __name__ == "__main__":
  main()
