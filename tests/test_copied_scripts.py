"""The four plain scripts work when they are copied into another project."""

import json
import pathlib
import shutil
import subprocess
import sys

from conftest import GOLDEN, ROOT
import numpy as np
import pytest

SCRIPTS = ("modeling", "optimization", "tokenization", "estimator_bridge")

# Uses each script twice: copied alone into a folder, and in a package.
PROGRAM = """
import importlib, json, os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
import numpy as np
import tensorflow.compat.v1 as tf

golden_folder, results = sys.argv[1:]
golden = dict(np.load(golden_folder + "/model.npz"))
checkpoint = golden_folder + "/checkpoint/bert_model.ckpt"

def alone(name):
  sys.path.insert(0, "alone/" + name)
  module = importlib.import_module(name)
  sys.path.pop(0)
  del sys.modules[name]
  return module

def forward_and_step(modeling, optimization):
  config = modeling.BertConfig.from_json_file(
    golden_folder + "/checkpoint/bert_config.json")
  names = ("input_ids", "input_mask", "segment_ids", "label_ids")
  ids, mask, segments, labels = (tf.constant(golden[n]) for n in names)
  with tf.variable_scope("", reuse=tf.AUTO_REUSE):
    bert = modeling.BertModel(config, False, ids, mask, segments, scope="bert")
    outputs = modeling.BertForSequenceClassification(config, 3)(
      dict(zip(names, (ids, mask, segments, labels))))
  flow, = tf.gradients(bert.get_pooled_output(), bert.get_embedding_output())
  saver = tf.train.Saver(tf.trainable_variables())
  train = optimization.create_optimizer(outputs["loss"], 1e-3, 10, 0, False)
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    saver.restore(session, checkpoint)
    found = dict(
      sequence=session.run(bert.get_sequence_output()).tolist(),
      flow=float(np.abs(session.run(flow)).sum()),
      losses=[float(session.run([outputs["loss"], train])[0])
              for _ in range(3)])
  return found

def tokens(tokenization):
  full = tokenization.FullTokenizer(golden_folder + "/unicode/vocab.txt")
  basic = tokenization.BasicTokenizer()
  basic._run_strip_accents = lambda text: text
  ids = full.convert_tokens_to_ids(full.tokenize("a b"))
  return ids, basic.tokenize("\\u00c9")

def estimate(estimator_bridge):
  assert estimator_bridge.__doc__
  def model_fn(features, labels, mode):
    w = tf.get_variable("w", [])
    loss = (w - 3.0) ** 2
    step = tf.train.get_or_create_global_step()
    train_op = tf.train.GradientDescentOptimizer(0.5).minimize(loss, step)
    return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=train_op)
  estimator = tf.estimator.Estimator(model_fn)
  estimator.train(lambda: tf.data.Dataset.range(2), steps=1)
  return float(estimator.get_variable_value("w"))

found = {}
def in_package(name):
  return importlib.import_module("bert." + name)
for where, get in [("alone", alone), ("package", in_package)]:
  modules = [get(n) for n in ("modeling", "optimization", "tokenization",
                              "estimator_bridge")]
  modeling, optimization, tokenization, estimator_bridge = modules
  with tf.Graph().as_default():
    found[where] = forward_and_step(modeling, optimization)
  found[where]["tokens"] = tokens(tokenization)
  found[where]["w"] = estimate(estimator_bridge)
  found[where]["files"] = [m.__file__ for m in modules]
with open(results, "w") as writer:
  json.dump(found, writer)
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
  """Returns what the copies gave, by where they were."""
  folder = tmp_path_factory.mktemp("project")
  package = folder / "bert"
  package.mkdir()
  (package / "__init__.py").touch()
  for name in SCRIPTS:
    (folder / "alone" / name).mkdir(parents=True)
    shutil.copy(ROOT / f"{name}.py", folder / "alone" / name)
    shutil.copy(ROOT / f"{name}.py", package)
  (folder / "program.py").write_text(PROGRAM)
  # Without conftest's run_python, which puts the scripts on the path.
  subprocess.run(
    [sys.executable, "program.py", str(GOLDEN), "results.json"],
    cwd=folder,
    check=True,
    timeout=300,
  )
  return json.loads((folder / "results.json").read_text())


WHERE = pytest.mark.parametrize("where", ["alone", "package"])


@WHERE
def test_copies_are_what_was_used(found, where):
  folders = {pathlib.Path(path).parts[-3] for path in found[where]["files"]}
  assert folders == ({"alone"} if where == "alone" else {"project0"})


@WHERE
def test_copied_model_equals_the_original(found, golden, where):
  difference = np.abs(found[where]["sequence"] - golden["sequence_output"])
  assert difference.max() <= 1e-5


@WHERE
def test_gradients_flow_through_the_copied_model(found, where):
  assert found[where]["flow"] > 0


@WHERE
def test_copied_optimizer_trains(found, golden, where):
  first, *_, last = found[where]["losses"]
  assert first == pytest.approx(golden["loss"], abs=1e-5)
  assert last < first


@WHERE
def test_copied_tokenizer_lets_a_part_be_replaced(found, where):
  ids, tokens = found[where]["tokens"]
  assert len(ids) == 2
  assert tokens == ["\u00e9"]


@WHERE
def test_copied_bridge_trains_an_estimator(found, where):
  assert found[where]["w"] == pytest.approx(3.0)
