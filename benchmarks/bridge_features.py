"""Runs each feature of tf.estimator with the bridge, and prints the table.

  python benchmarks/bridge_features.py [PYTHON ...]

Each PYTHON is an interpreter with a TensorFlow from 2.15 to 2.21,
tensorflow-estimator and, for the rows that need it, tf_keras. It runs every
feature below in three ways: as if tf_keras were not there, with it, and after
estimator_bridge.use_keras_2(). A cell says the least that a feature needs:

  yes       nothing
  tf_keras  the package tf_keras, installed
  Keras 2   estimator_bridge.use_keras_2()
  no        it fails in each way; what it raised is listed below the table

A feature is a function here whose docstring is its row. It trains, evaluates or
exports on a few rows, and fails unless the loss falls or the result is right.
What was found is kept in bridge_features.json beside this file, a TensorFlow
version each, so the interpreters need not be there at the same time. It takes
some two minutes of processor time each. The output is the table of
docs/bridge.md.
"""

import json
import os
from pathlib import Path
import subprocess
import sys
import tempfile

ROOT = Path(__file__).resolve().parent.parent
KEPT = Path(__file__).with_suffix(".json")
WAYS = {"plain": "yes", "tf_keras": "tf_keras", "use_keras_2": "Keras 2"}
FEATURES = {}


def feature(function):
  """Registers a function of a folder as a row of the table."""
  FEATURES[function.__name__] = function
  return function


# --- what the features share; imported TensorFlow stands in `tf`, `v1` --------


def rows():
  """Returns 64 rows of two features, and labels that x decides."""
  import numpy as np

  random = np.random.RandomState(0)
  x, z = random.randn(2, 64, 1).astype(np.float32)
  return {"x": x, "z": z}, (x > 0).astype(np.int64)


def batches():
  """Gives the rows for ever, in batches of 16."""
  return tf.data.Dataset.from_tensor_slices(rows()).repeat().batch(16)


def once():
  return batches().take(4)


def columns(namespace=None):
  """Returns the feature columns of the rows."""
  make = (namespace or tf).feature_column.numeric_column
  return [make("x"), make("z")]


def model_fn(features, labels, mode, params):
  """Logistic regression in variables of its own; no Keras."""
  x = tf.concat([features["x"], features["z"]], axis=1)
  weights = v1.get_variable("weights", [2, 1], initializer=v1.zeros_initializer)
  logits = tf.matmul(x, weights)
  if mode == v1.estimator.ModeKeys.PREDICT:
    return v1.estimator.EstimatorSpec(
      mode,
      predictions={"logits": logits},
      export_outputs={
        "serving_default": v1.estimator.export.PredictOutput(logits)
      },
    )
  return finish(mode, logits, labels)


def finish(mode, logits, labels):
  """Returns the EstimatorSpec of training and evaluation."""
  loss = v1.losses.sigmoid_cross_entropy(labels, logits)
  optimizer = v1.train.GradientDescentOptimizer(1.0)
  correct = v1.metrics.accuracy(labels, tf.cast(logits > 0, tf.int64))
  return v1.estimator.EstimatorSpec(
    mode,
    loss=loss,
    train_op=optimizer.minimize(loss, v1.train.get_or_create_global_step()),
    eval_metric_ops={"accuracy": correct},
  )


def learns(estimator, steps=40):
  """Trains and evaluates; the rows are easy, so the loss has to fall."""
  first = estimator.train(batches, steps=1).evaluate(once)
  then = estimator.train(batches, steps=steps).evaluate(once)
  loss = "loss" if "loss" in then else "average_loss"
  assert then[loss] < first[loss], (first, then)
  return then


def custom(folder, **config):
  settings = v1.estimator.RunConfig(model_dir=folder, **config)
  return v1.estimator.Estimator(model_fn, config=settings)


def receiver():
  """Returns what an exported model takes."""
  given = {n: v1.placeholder(tf.float32, [None, 1]) for n in ("x", "z")}
  return v1.estimator.export.ServingInputReceiver(given, given)


# --- the features -------------------------------------------------------------


@feature
def custom_model(folder):
  """Estimator with a model_fn: train, evaluate, predict"""
  estimator = custom(folder)
  assert learns(estimator)["accuracy"] > 0.9
  logits = [one["logits"][0] for one in estimator.predict(once)]
  assert len(logits) == 64


@feature
def train_and_evaluate(folder):
  """train_and_evaluate with an exporter and hooks"""
  estimator = custom(folder, save_checkpoints_steps=10)
  hook = v1.train.StepCounterHook(every_n_steps=5)
  metrics, exported = v1.estimator.train_and_evaluate(
    estimator,
    v1.estimator.TrainSpec(batches, max_steps=20, hooks=[hook]),
    v1.estimator.EvalSpec(
      once,
      steps=None,
      throttle_secs=0,
      exporters=v1.estimator.BestExporter("best", receiver),
    ),
  )
  assert metrics["global_step"] == 20 and exported


@feature
def early_stopping(folder):
  """early stopping"""
  estimator = custom(folder, save_checkpoints_steps=2)
  os.makedirs(estimator.eval_dir())
  stop = v1.estimator.experimental.make_early_stopping_hook(
    estimator, lambda: True, run_every_secs=None, run_every_steps=1
  )
  estimator.train(batches, max_steps=50, hooks=[stop])
  assert estimator.get_variable_value("global_step") < 50


@feature
def saved_model(folder):
  """export_saved_model, and the result loaded by TensorFlow 2"""
  estimator = custom(folder).train(batches, steps=1)
  path = estimator.export_saved_model(os.path.join(folder, "out"), receiver)
  served = tf.saved_model.load(path.decode()).signatures["serving_default"]
  features = {k: tf.constant(v) for k, v in rows()[0].items()}
  assert served(**features)["output"].shape == (64, 1)


@feature
def warm_start(folder):
  """warm start from another model's checkpoint"""
  first = custom(os.path.join(folder, "first"))
  first.train(batches, steps=20)
  second = v1.estimator.Estimator(
    model_fn,
    model_dir=os.path.join(folder, "second"),
    warm_start_from=first.model_dir,
  )
  assert second.train(batches, steps=1).evaluate(once)["accuracy"] > 0.9


@feature
def numpy_input(folder):
  """tf.compat.v1.estimator.inputs.numpy_input_fn"""
  features, labels = rows()
  input_fn = v1.estimator.inputs.numpy_input_fn(
    features, labels, batch_size=16, num_epochs=5, shuffle=True
  )
  custom(folder).train(input_fn)


@feature
def tpu_estimator(folder):
  """TPUEstimator on CPU or GPU"""

  def tpu_model_fn(features, labels, mode, params):
    spec = model_fn(features, labels, mode, params)
    return v1.estimator.tpu.TPUEstimatorSpec(
      mode, loss=spec.loss, train_op=spec.train_op
    )

  estimator = v1.estimator.tpu.TPUEstimator(
    tpu_model_fn,
    config=v1.estimator.tpu.RunConfig(model_dir=folder),
    use_tpu=False,
    train_batch_size=16,
    eval_batch_size=16,
  )
  estimator.train(lambda params: batches(), steps=5)
  assert estimator.evaluate(lambda params: once())["global_step"] == 5


@feature
def mirrored(folder):
  """MirroredStrategy, two devices"""
  with tf.Graph().as_default():
    strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
  estimator = custom(
    folder,
    train_distribute=strategy,
    session_config=v1.ConfigProto(
      device_count={"CPU": 2}, allow_soft_placement=True
    ),
  )
  tf.autograph.experimental.do_not_convert(estimator.train)(batches, steps=5)
  assert estimator.get_variable_value("global_step") == 5


@feature
def old_modules(folder):
  """tensorflow.python.estimator.* and the nested namespaces"""
  from tensorflow.python.estimator import estimator, keras, run_config
  from tensorflow.python.estimator.canned import head, metric_keys
  from tensorflow.python.estimator.inputs.queues import feeding_functions
  from tensorflow.python.util import tf_export

  assert estimator.Estimator is v1.estimator.Estimator.__mro__[0]
  assert run_config.RunConfig is v1.estimator.RunConfig
  assert all([keras, head, metric_keys, feeding_functions])
  for outer in (v1, tf.compat.v2):
    assert outer.compat.v1.estimator.Estimator is v1.estimator.Estimator
    assert outer.compat.v2.estimator.Estimator is tf.estimator.Estimator
  names = tf_export.get_v1_names(v1.estimator.Estimator)
  assert names == ["estimator.Estimator"], names


@feature
def baseline(folder):
  """BaselineClassifier, v1"""
  v1.estimator.BaselineClassifier(folder).train(batches, steps=5).evaluate(once)


@feature
def linear(folder):
  """LinearClassifier, LinearRegressor, v1"""
  learns(v1.estimator.LinearClassifier(columns(v1), folder))
  learns(v1.estimator.LinearRegressor(columns(v1), folder + "2"))


@feature
def linear_v2(folder):
  """LinearClassifier, LinearRegressor, v2"""
  learns(tf.estimator.LinearClassifier(columns(), folder))
  learns(tf.estimator.LinearRegressor(columns(), folder + "2"))


@feature
def dnn(folder):
  """DNNClassifier, DNNRegressor, v1"""
  learns(v1.estimator.DNNClassifier([8], columns(v1), folder))
  learns(v1.estimator.DNNRegressor([8], columns(v1), folder + "2"))


@feature
def dnn_v2(folder):
  """DNNClassifier, DNNRegressor, v2"""
  learns(tf.estimator.DNNClassifier([8], columns(), folder))
  learns(tf.estimator.DNNRegressor([8], columns(), folder + "2"))


@feature
def combined(folder):
  """DNNLinearCombinedClassifier, v1"""
  estimator = v1.estimator.DNNLinearCombinedClassifier(
    folder,
    linear_feature_columns=columns(v1),
    dnn_feature_columns=columns(v1),
    dnn_hidden_units=[8],
  )
  learns(estimator)


@feature
def combined_v2(folder):
  """DNNLinearCombinedClassifier, v2"""
  estimator = tf.estimator.DNNLinearCombinedClassifier(
    folder,
    linear_feature_columns=columns(),
    dnn_feature_columns=columns(),
    dnn_hidden_units=[8],
  )
  learns(estimator)


@feature
def heads(folder):
  """DNNEstimator with a MultiHead of two v2 heads"""
  head = tf.estimator.MultiHead(
    [
      tf.estimator.BinaryClassHead(name="first"),
      tf.estimator.RegressionHead(name="second"),
    ]
  )

  def both():
    return batches().map(lambda x, y: (x, {"first": y, "second": y}))

  estimator = tf.estimator.DNNEstimator(head, [8], columns(), folder)
  estimator.train(both, steps=5).evaluate(lambda: both().take(4))


@feature
def added_metrics(folder):
  """add_metrics with a metric of tf.compat.v1"""

  def more(labels, predictions):
    correct = v1.metrics.accuracy(labels, predictions["class_ids"])
    return {"again": correct}

  plain = v1.estimator.LinearClassifier(columns(v1), folder)
  estimator = v1.estimator.add_metrics(plain, more)
  assert "again" in estimator.train(batches, steps=5).evaluate(once)


@feature
def sdca(folder):
  """LinearSDCA"""
  optimizer = tf.estimator.experimental.LinearSDCA(
    "id", num_loss_partitions=1, symmetric_l2_regularization=1.0
  )

  def with_ids():
    features, labels = rows()
    features["id"] = [str(one) for one in range(64)]
    return tf.data.Dataset.from_tensor_slices((features, labels)).batch(64)

  estimator = tf.estimator.LinearClassifier(
    columns(), folder, optimizer=optimizer
  )
  estimator.train(lambda: with_ids().repeat(), steps=5)


@feature
def k_means(folder):
  """KMeansClustering"""

  def points():
    return tf.data.Dataset.from_tensor_slices(rows()[0]["x"]).batch(64).repeat()

  estimator = v1.estimator.experimental.KMeans(2, folder, use_mini_batch=False)
  estimator.train(points, steps=5)
  assert estimator.cluster_centers().shape == (2, 1)


@feature
def rnn(folder):
  """RNNClassifier"""
  column = tf.feature_column.sequence_numeric_column("s")

  def sequences():
    features, labels = rows()
    data = tf.data.Dataset.from_tensor_slices((features["x"], labels))
    return (
      data.map(lambda x, y: ({"s": tf.sparse.from_dense(x)}, y))
      .repeat()
      .batch(16)
    )

  estimator = tf.estimator.experimental.RNNClassifier(
    sequence_feature_columns=[column], units=[4], model_dir=folder
  )
  estimator.train(sequences, steps=3)


@feature
def model_to_estimator(folder):
  """model_to_estimator of a model of Keras 2"""
  try:
    import tf_keras as keras
  except ImportError:
    keras = tf.keras  # Keras 2 on TensorFlow 2.15 alone
  model = keras.Sequential(
    [keras.layers.Dense(1, input_shape=(1,), name="only", activation="sigmoid")]
  )
  model.compile(loss="binary_crossentropy", optimizer="sgd")

  def named():
    return batches().map(lambda x, y: ({"only_input": x["x"]}, y))

  keras.estimator.model_to_estimator(model, model_dir=folder).train(
    named, steps=5
  )


@feature
def layers(folder):
  """tf.compat.v1.layers in a model_fn"""

  def with_layers(features, labels, mode):
    x = tf.concat([features["x"], features["z"]], axis=1)
    return finish(mode, v1.layers.dense(x, 1), labels)

  learns(v1.estimator.Estimator(with_layers, folder))


@feature
def input_layer(folder):
  """tf.compat.v1.feature_column.input_layer in a model_fn"""

  def with_columns(features, labels, mode):
    x = v1.feature_column.input_layer(features, columns(v1))
    weights = v1.get_variable("weights", [2, 1])
    return finish(mode, tf.matmul(x, weights), labels)

  learns(v1.estimator.Estimator(with_columns, folder))


@feature
def dense_features(folder):
  """tf.keras.layers.DenseFeatures in a model_fn"""

  def with_columns(features, labels, mode):
    x = tf.keras.layers.DenseFeatures(columns())(features)
    weights = v1.get_variable("weights", [2, 1])
    return finish(mode, tf.matmul(x, weights), labels)

  learns(v1.estimator.Estimator(with_columns, folder))


@feature
def embedding(folder):
  """embedding tables on TPU (EmbeddingConfigSpec)"""
  v1.estimator.tpu.experimental.EmbeddingConfigSpec(
    feature_columns=columns(v1), optimization_parameters=None
  )


@feature
def remote_cluster(folder):
  """DistributeConfig(remote_cluster=...)"""
  from tensorflow.python.distribute.distribute_config import DistributeConfig

  with tf.Graph().as_default():
    strategy = tf.distribute.MirroredStrategy(["/cpu:0"])
  cluster = {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}
  distribute = DistributeConfig(strategy, None, cluster)
  v1.estimator.RunConfig(folder, experimental_distribute=distribute)


def run_features(way):
  """Prints a line of JSON: feature to "" or what it raised."""
  global tf, v1
  if way == "plain":
    sys.modules["tf_keras"] = None  # as if it were not installed
  import estimator_bridge

  if way == "use_keras_2":
    estimator_bridge.use_keras_2()
  import tensorflow as tf

  v1 = tf.compat.v1
  v1.logging.set_verbosity(v1.logging.ERROR)
  found = {}
  for name, function in FEATURES.items():
    with tempfile.TemporaryDirectory() as folder:
      try:
        function(os.path.join(folder, "model"))
        found[name] = ""
      except Exception as error:
        lines = f"{type(error).__name__}: {error}".splitlines()
        found[name] = " ".join(lines)[:400]
  print(json.dumps({"version": tf.__version__, "found": found}))


def measure(python):
  """Returns what one interpreter gave.

  Returns:
    (TensorFlow's version, `dict` with "needs", feature to the least that it
    needs, and "errors", feature to what it raised where it needs more).
  """
  needs, errors, version = {}, {}, None
  for way, word in WAYS.items():
    done = subprocess.run(
      [python, __file__, "--child", way],
      env={
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "CUDA_VISIBLE_DEVICES": "-1",
      },
      capture_output=True,
      text=True,
    )
    if done.returncode:
      reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
      sys.exit(f"{python}, {way}: {reason}")
    answer = json.loads(done.stdout.splitlines()[-1])
    version = answer["version"]
    for name, error in answer["found"].items():
      if error:
        errors[name] = error
      else:
        needs.setdefault(name, word)
  return version, {"needs": needs, "errors": errors}


def main():
  if sys.argv[1:2] == ["--child"]:
    return run_features(sys.argv[2])
  kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
  for python in sys.argv[1:]:
    version, found = measure(python)
    kept[version] = found
    KEPT.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
  print(f"| feature | {' | '.join(sorted(kept))} |")
  print("|---" * (1 + len(kept)) + "|")
  for name, function in FEATURES.items():
    cells = [kept[one]["needs"].get(name, "no") for one in sorted(kept)]
    print(f"| {function.__doc__} | {' | '.join(cells)} |")
  for version in sorted(kept):
    errors = kept[version]["errors"]
    for name in sorted(errors.keys() - kept[version]["needs"].keys()):
      print(f"\n{version}, {FEATURES[name].__doc__}: {errors[name]}")


if __name__ == "__main__":
  main()
