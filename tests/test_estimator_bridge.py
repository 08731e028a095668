"""tf.estimator on the installed TensorFlow, whichever of 2.15 to 2.21 it is."""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import re
import socket
import subprocess
import sys

from conftest import run_code
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import estimator_bridge

pytestmark = [
  pytest.mark.quick,
  pytest.mark.filterwarnings(
    # TensorFlow's own code under a strategy; protobuf 6 under TensorFlow 2.20.
    "ignore:To make it possible to preserve tf.data options",
    "ignore:float_format is deprecated",
  ),
]

NATIVE = tf.__version__.startswith("2.15.")
ROWS = np.random.RandomState(0).randn(64, 3).astype(np.float32)
TARGETS = ROWS @ np.array([1.0, -2.0, 0.5], np.float32)


def input_fn(params):
  """Batches of `<float32>[B, 3]` and `<float32>[B]`, in order, for ever."""
  rows = tf.data.Dataset.from_tensor_slices((ROWS, TARGETS)).repeat()
  return rows.batch(params["batch_size"], drop_remainder=True)


def once(params):
  """Returns the same rows, a single time."""
  return input_fn(params).take(len(ROWS) // params["batch_size"])


def model_fn(features, labels, mode, params):
  """Returns the spec of a linear regression by gradient descent."""
  del params
  weights = tf.get_variable("weights", [3], initializer=tf.zeros_initializer())
  outputs = tf.linalg.matvec(features, weights)
  if mode == tf.estimator.ModeKeys.PREDICT:
    return tf.estimator.tpu.TPUEstimatorSpec(mode, {"outputs": outputs})
  loss = tf.reduce_mean(tf.square(outputs - labels))
  optimizer = tf.train.GradientDescentOptimizer(0.1)
  step = tf.train.get_or_create_global_step()
  return tf.estimator.tpu.TPUEstimatorSpec(
    mode,
    loss=loss,
    train_op=optimizer.minimize(loss, global_step=step),
    eval_metrics=(
      lambda x, y: {"error": tf.metrics.mean_squared_error(y, x)},
      [outputs, labels],
    ),
  )


def estimator(folder, batch_size=16, use_tpu=False, **config):
  return tf.estimator.tpu.TPUEstimator(
    model_fn=model_fn,
    config=tf.estimator.tpu.RunConfig(model_dir=str(folder), **config),
    params={},
    use_tpu=use_tpu,
    eval_on_tpu=use_tpu,
    export_to_tpu=False,
    train_batch_size=batch_size,
    eval_batch_size=batch_size,
    predict_batch_size=batch_size,
  )


def set_cluster(monkeypatch, index=0, **cluster):
  """Makes this process, and those that it starts, a worker of a cluster."""
  task = {"type": "worker", "index": index}
  monkeypatch.setenv(
    "TF_CONFIG", json.dumps({"cluster": cluster, "task": task})
  )


def descended(steps, batch_size=16):
  """Returns the weights after so many steps, by NumPy: `<float32>[3]`."""
  weights = np.zeros(3, np.float32)
  for step in range(steps):
    start = step * batch_size % len(ROWS)
    rows = ROWS[start : start + batch_size]
    error = rows @ weights - TARGETS[start : start + batch_size]
    weights -= 0.1 * 2 / batch_size * error @ rows
  return weights


def test_tpu_estimator_trains_evaluates_exports_and_predicts(tmp_path):
  tiny = estimator(tmp_path, save_checkpoints_steps=10)
  exporter = tf.estimator.LatestExporter(
    "latest",
    lambda: tf.estimator.export.TensorServingInputReceiver(
      *[tf.placeholder(tf.float32, [None, 3])] * 2
    ),
  )
  metrics, exported = tf.estimator.train_and_evaluate(
    tiny,
    tf.estimator.TrainSpec(input_fn, max_steps=20),
    tf.estimator.EvalSpec(
      once, steps=None, throttle_secs=0, exporters=exporter
    ),
  )
  weights = descended(20)
  assert metrics["global_step"] == 20
  assert metrics["error"] == pytest.approx(
    np.mean((ROWS @ weights - TARGETS) ** 2), rel=1e-3
  )
  predicted = [row["outputs"] for row in tiny.predict(once)]
  np.testing.assert_allclose(predicted, ROWS @ weights, rtol=1e-4, atol=1e-5)
  assert tf.saved_model.contains_saved_model(tf.compat.as_str(exported[0]))


def test_early_stopping_stops(tmp_path):
  tiny = estimator(tmp_path, save_checkpoints_steps=2)
  os.makedirs(tiny.eval_dir())
  stop = tf.estimator.experimental.make_early_stopping_hook(
    tiny, lambda: True, run_every_secs=None, run_every_steps=1
  )
  tiny.train(input_fn, max_steps=50, hooks=[stop])
  assert tiny.get_variable_value("global_step") < 50


# Under a strategy AutoGraph rewrites the package's source first, some 5 s.
fast = tf.autograph.experimental.do_not_convert


def mirrored(*devices):
  """Returns a MirroredStrategy that leaves the eager devices alone."""
  with tf.Graph().as_default():
    return tf.distribute.MirroredStrategy(devices)


def test_two_mirrored_replicas_equal_one_with_the_whole_batch(tmp_path):
  two = estimator(
    tmp_path,
    batch_size=8,  # a replica's
    train_distribute=mirrored("/cpu:0", "/cpu:1"),
    session_config=tf.ConfigProto(
      device_count={"CPU": 2}, allow_soft_placement=True
    ),
  )
  fast(two.train)(input_fn, max_steps=6)
  np.testing.assert_allclose(
    two.get_variable_value("weights"), descended(6), rtol=1e-4
  )


CLUSTER_JOB = """
import sys
import estimator_bridge
import tensorflow.compat.v1 as tf
tf.disable_eager_execution()
from test_estimator_bridge import estimator, fast, input_fn, once
strategy = tf.distribute.experimental.MultiWorkerMirroredStrategy()
fast(tf.estimator.train_and_evaluate)(
  estimator(sys.argv[1], train_distribute=strategy),
  tf.estimator.TrainSpec(input_fn, max_steps=6),
  tf.estimator.EvalSpec(once, steps=None),
)
"""


def free_addresses(count):
  """Addresses of this machine on which nothing listens."""
  with contextlib.ExitStack() as stack:
    sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
    for one in sockets:
      one.bind(("127.0.0.1", 0))
    return [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]


@pytest.mark.parametrize("workers", [1, 2])
def test_multi_worker_mirrored_trains_a_cluster(tmp_path, monkeypatch, workers):
  addresses = free_addresses(workers)
  here = os.path.dirname(os.path.abspath(__file__))
  monkeypatch.setenv("PYTHONPATH", here + os.pathsep + os.path.dirname(here))
  command = [sys.executable, "-c", CLUSTER_JOB, str(tmp_path)]
  running = []
  for index in range(workers):
    set_cluster(monkeypatch, index, worker=addresses)
    running.append(subprocess.Popen(command))
  try:
    assert [one.wait(timeout=120) for one in running] == [0] * workers
  finally:
    for one in running:
      one.kill()
  # Every worker has the same batches, so their mean gradient is one's own.
  reader = tf.train.load_checkpoint(str(tmp_path))
  np.testing.assert_allclose(
    reader.get_tensor("weights"), descended(6), rtol=1e-4
  )


def test_train_alone_is_refused_in_a_cluster(tmp_path, monkeypatch):
  set_cluster(monkeypatch, worker=["127.0.0.1:1", "127.0.0.1:2"])
  one = estimator(tmp_path, train_distribute=mirrored("/cpu:0"))
  with pytest.raises(ValueError, match="train"):
    one.train(input_fn, max_steps=1)


class _Stop(Exception):
  """Raised once a graph is built."""


class _Built(tf.train.SessionRunHook):
  def begin(self):
    self.ops = {op.type for op in tf.get_default_graph().get_operations()}
    raise _Stop


def test_the_tpu_graph_builds(tmp_path):
  one_core = tf.estimator.tpu.TPUConfig(num_shards=1, iterations_per_loop=2)
  tiny = estimator(tmp_path, use_tpu=True, tpu_config=one_core)
  hook = _Built()
  with pytest.raises(_Stop):
    tiny.train(input_fn, max_steps=2, hooks=[hook])
  assert "TPUReplicateMetadata" in hook.ops


@pytest.mark.parametrize(
  "versions",
  [
    ("2.14.1", "2.15.0"),
    ("2.22.0-rc0", "2.15.0"),
    ("3.0.0", "2.15.0"),
    ("unknown", "2.15.0"),
    ("2.15.1", "2.14.0"),
    ("2.21.0", None),
  ],
)
def test_unknown_versions_are_refused_in_one_sentence(versions):
  with pytest.raises(ImportError) as refusal:
    estimator_bridge.check(*versions)
  message = str(refusal.value)
  assert f"TensorFlow {versions[0]} " in message and "\n" not in message
  assert f"{versions[1] or '(not installed)'}" in message
  assert "2.15 to 2.21" in message
  assert message.endswith(
    'pip install "tensorflow>=2.15,<2.22" tensorflow-estimator==2.15.0'
  )


def test_the_installed_versions_are_what_is_checked(monkeypatch):
  monkeypatch.setattr(tf, "__version__", "2.15.0")  # a look-alike only
  tensorflow = sys.modules["tensorflow"]
  monkeypatch.setattr(tensorflow, "__version__", "2.99.0")
  with pytest.raises(ImportError, match=r"TensorFlow 2\.99\.0"):
    estimator_bridge.install()


def test_a_missing_package_is_named(monkeypatch):
  def version(name):
    raise importlib.metadata.PackageNotFoundError(name)

  monkeypatch.setattr(importlib.metadata, "version", version)
  with pytest.raises(ImportError, match=r"tensorflow-estimator \(not inst"):
    estimator_bridge.install()


def test_keras_2_that_is_asked_for_but_not_there_is_named(monkeypatch):
  monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  monkeypatch.setattr(estimator_bridge, "NATIVE", True)  # TensorFlow 2.15
  with pytest.raises(ImportError, match="tf_keras, which is not installed"):
    estimator_bridge.install()
  monkeypatch.setattr(estimator_bridge, "NATIVE", False)
  estimator_bridge.install()
  with pytest.raises(ImportError, match=r"use_keras_2\(\) needs Keras 2"):
    estimator_bridge.use_keras_2()


def test_a_second_copy_changes_nothing():
  import tensorflow

  before = tensorflow.estimator, tf.estimator, tf.estimator.tpu.TPUEstimator
  spec = importlib.util.find_spec("estimator_bridge")
  spec.loader.exec_module(importlib.util.module_from_spec(spec))
  assert before == (
    tensorflow.estimator,
    tf.estimator,
    tf.estimator.tpu.TPUEstimator,
  )
  assert tensorflow.estimator.Estimator is not tf.estimator.Estimator


@pytest.mark.skipif(NATIVE, reason="TensorFlow 2.15 has tf.estimator itself")
def test_what_has_no_stand_in_says_so():
  from tensorflow.python.tpu import tpu_embedding

  with pytest.raises(AttributeError, match="TensorFlow 2.15 only"):
    tpu_embedding.TPUEmbedding  # noqa: B018
  from tensorflow.estimator import Estimator

  assert Estimator is sys.modules["tensorflow"].estimator.Estimator


def test_the_module_names_of_2_15_are_there():
  packages = "canned export inputs inputs.queues"
  modules = (
    "estimator estimator_lib exporter gc keras model_fn run_config training"
    " util canned.baseline canned.dnn canned.dnn_linear_combined canned.head"
    " canned.linear canned.metric_keys canned.optimizers canned.parsing_utils"
    " canned.prediction_keys export.export export.export_lib"
    " export.export_output inputs.inputs inputs.numpy_io inputs.pandas_io"
    " inputs.queues.feeding_functions inputs.queues.feeding_queue_runner"
  )
  for name in f"{packages} {modules}".split():
    importlib.import_module(f"tensorflow.python.estimator.{name}")
  from tensorflow.python.estimator import estimator, keras
  from tensorflow.python.estimator.canned import head

  assert estimator.Estimator is tf.estimator.Estimator
  assert callable(keras.model_to_estimator) and head.LossSpec
  with pytest.raises(ModuleNotFoundError):
    importlib.import_module("tensorflow.python.estimator.mine")


def test_the_nested_namespaces_have_it_too():
  import tensorflow
  import tensorflow.compat.v1.compat.v1 as nested

  v1, v2 = tf.estimator.Estimator, tensorflow.estimator.Estimator
  assert v1 is not v2
  for outer in (tf, tensorflow, tensorflow.compat.v2):
    assert outer.compat.v1.estimator.Estimator is v1
    assert outer.compat.v2.estimator.Estimator is v2
  assert nested.estimator.Estimator is v1


def test_the_package_sees_what_a_user_replaces_in_tensorflow(monkeypatch):
  from tensorflow_estimator.python.estimator import estimator

  monkeypatch.setattr(tf.train, "latest_checkpoint", lambda folder: "mine")
  assert estimator.tf.compat.v1.train.latest_checkpoint("") == "mine"
  assert estimator.tf.compat.v1.logging is tf.logging


def test_estimators_have_their_names_in_the_api():
  import tensorflow
  from tensorflow.python.util import tf_export

  v1, v2 = tf.estimator, tensorflow.estimator
  name = ["estimator.DNNClassifier"]
  assert tf_export.get_v1_names(v1.DNNClassifier) == name
  assert tf_export.get_v2_names(v2.DNNClassifier) == name
  assert tf_export.get_v1_names(v2.DNNClassifier) == []
  assert "Session" in tf_export.get_v1_names(tf.Session)


@pytest.mark.skipif(NATIVE, reason="TensorFlow 2.15 has these tables")
def test_embedding_tables_on_tpu_say_why_not():
  from tensorflow.python.tpu import tpu_embedding

  column = tf.feature_column.numeric_column("x")
  for call in (
    lambda: tpu_embedding.AdagradParameters(0.1),
    lambda: tf.estimator.tpu.experimental.EmbeddingConfigSpec([column]),
  ):
    with pytest.raises(NotImplementedError, match="TensorFlow 2.15 only"):
      call()


keras_2_is_missing = pytest.mark.skipif(
  NATIVE, reason="TensorFlow 2.15 has Keras 2 itself"
)


def labelled():
  """Batches of a feature and the class that its sign decides, for ever."""
  data = ({"x": ROWS[:, :1]}, (ROWS[:, 0] > 0).astype(np.int64))
  return tf.data.Dataset.from_tensor_slices(data).repeat().batch(16)


def canned(tmp_path, v2=False):
  """Returns a DNNClassifier of tf.compat.v1, or of v2, on that feature."""
  api = sys.modules["tensorflow"] if v2 else tf
  column = api.feature_column.numeric_column("x")
  return api.estimator.DNNClassifier([4], [column], str(tmp_path))


@keras_2_is_missing
def test_without_keras_2_a_canned_estimator_names_the_pip_line(tmp_path):
  run_code(
    """
    import sys
    sys.modules["tf_keras"] = None  # as where it is not installed
    import estimator_bridge
    import tensorflow as tf2
    import tensorflow.compat.v1 as tf

    def refusal(call):
      try:
        call()
      except ImportError as error:
        return str(error)

    minor = tf.__version__.rpartition(".")[0]
    line = f'pip install --no-deps "tf_keras=={minor}.*"'
    for api in (tf, tf2):
      column = api.feature_column.numeric_column("x")
      make = lambda: api.estimator.DNNClassifier([4], [column], sys.argv[1])
      data = lambda: tf2.data.Dataset.from_tensors(({"x": [[1.0]]}, [[1]]))
      said = refusal(lambda: make().train(data, steps=1))
      assert said.endswith(line), said
    assert "tf_keras" in refusal(estimator_bridge.use_keras_2)
    """,
    str(tmp_path),
  )


@keras_2_is_missing
@pytest.mark.parametrize("v2", [False, True])
def test_canned_estimators_get_keras_2_and_nobody_else(tmp_path, v2):
  classifier = canned(tmp_path, v2)
  first, then = (
    classifier.train(labelled, max_steps=steps).evaluate(labelled, steps=4)
    for steps in (1, 40)
  )
  assert then["average_loss"] < first["average_loss"]
  assert sys.modules["tensorflow"].keras.__version__.startswith("3.")
  with pytest.raises(RuntimeError, match="in use as Keras 3"):
    estimator_bridge.use_keras_2()


@keras_2_is_missing
def test_use_keras_2_gives_it_to_the_whole_program():
  run_code("""
    import estimator_bridge
    estimator_bridge.use_keras_2()
    import tensorflow as tf
    from tensorflow.keras.layers import Dense
    from tensorflow.compat.v1.keras.layers import Dense as V1Dense
    assert Dense is V1Dense is tf.keras.layers.Dense
    assert Dense.__module__.startswith("tf_keras.")
    assert callable(tf.compat.v1.layers.dense)
    estimator_bridge.use_keras_2()
  """)


def test_the_wheel_is_made_of_this_file_and_the_version_it_checks():
  root = os.path.dirname(estimator_bridge.__file__)
  with open(os.path.join(root, "bridge", "pyproject.toml")) as file:
    project = file.read()
  path = re.search(r'"(.*)" = "estimator_bridge.py"', project).group(1)
  assert os.path.samefile(
    os.path.join(root, "bridge", path), estimator_bridge.__file__
  )
  assert f"tensorflow-estimator=={estimator_bridge.ESTIMATOR}" in project


def test_the_table_of_features_is_what_was_measured():
  root = os.path.dirname(estimator_bridge.__file__)
  table = subprocess.run(
    [sys.executable, os.path.join(root, "benchmarks", "bridge_features.py")],
    capture_output=True,
    text=True,
    check=True,
  ).stdout.partition("\n\n")[0]
  with open(os.path.join(root, "docs", "bridge.md")) as page:
    assert table.strip() in page.read()


@pytest.mark.skipif(not NATIVE, reason="there is nothing native to leave")
def test_the_native_estimator_is_left_alone():
  run_code("""
    import importlib
    import os
    import tensorflow as tf
    from tensorflow.python.util import tf_export
    names = ["distribute.estimator_training", "tpu.session_support",
             "tpu.tpu_embedding", "tpu.tpu_embedding_gradient"]
    names = ["tensorflow.python." + name for name in names]
    def seen():
      modules = [*map(importlib.import_module, names), tf.estimator,
                 tf.compat.v1.estimator, tf.compat.v2.estimator]
      tables = [tf_export.API_ATTRS, tf_export.API_ATTRS_V1]
      return modules, [dict(vars(module)) for module in modules], tables
    before = seen()
    assert all(os.path.isfile(module.__file__) for module in before[0][:3])
    import estimator_bridge
    assert seen() == before
  """)


@pytest.fixture
def shown():
  """Yields what TensorFlow's logger lets through after quiet()."""
  records = []
  handler = logging.Handler()
  handler.emit = lambda record: records.append(record.getMessage())
  logger = tf.get_logger()
  before = list(logger.filters)
  logger.addHandler(handler)
  estimator_bridge.quiet()
  yield records
  logger.removeHandler(handler)
  logger.filters[:] = before


def test_quiet_hides_only_what_nobody_can_change(shown, tmp_path, monkeypatch):
  from tensorflow.python.util import deprecation

  # Each notice is given once a process, and other tests ran before this one.
  monkeypatch.setattr(deprecation, "_PRINTED_WARNING", {})
  tf.logging.set_verbosity(tf.logging.WARN)
  estimator(tmp_path).train(input_fn, max_steps=1)
  assert shown == []
  tf.logging.warning("%s is deprecated", "mine")
  with tf.Graph().as_default():
    tf.train.input_producer(tf.zeros([3]))  # deprecated, with a way out
  assert shown[0] == "mine is deprecated"
  assert len(shown) == 2 and "input_producer" in shown[1]
