"""Gives TensorFlow 2.16 to 2.21 back its Estimator, TPUEstimator included.

  pip install "tensorflow>=2.15,<2.22" tensorflow-estimator==2.15.0

  import estimator_bridge  # noqa: F401  (before any use of tf.estimator)
  import tensorflow.compat.v1 as tf
  tf.estimator.tpu.TPUEstimator(...)

TensorFlow 2.15 was the last to carry tf.estimator. The package behind it,
tensorflow-estimator 2.15.0, still installs beside later versions (its
repository is archived: no other version will follow), but leans on pieces of
TensorFlow that 2.16 removed. Importing this file puts these back:

  missing since 2.16                         what stands in here
  -----------------------------------------  ----------------------------------
  tensorflow.python.util.tf_export:          the "estimator" entries of its
    ESTIMATOR_API_NAME, API_ATTRS[_V1],      two tables of API names
    get_v1_names, get_v2_names
  tensorflow.python.tpu.tpu_embedding        the seven classes that are looked
                                             up at import, empty
  tensorflow.python.tpu.                     an empty module
    tpu_embedding_gradient
  tensorflow.python.tpu.session_support      the shutdown hook that training on
                                             TPU asks for, doing nothing
  tensorflow.python.distribute.              its five functions: Estimator
    estimator_training                       under tf.distribute and TF_CONFIG
  tf.estimator, tf.compat.v1.estimator,      the package's own two namespaces,
    tf.compat.v2.estimator, nested ones      as attributes and as modules
  tensorflow.python.estimator.*              the package's modules
  tf.keras, which is Keras 3, in the         Keras 2, if tf_keras is installed,
    package's own modules                    else an error that says so

On 2.15 nothing is touched: there all of it is TensorFlow's own. The import
order does not matter, nor does importing twice or from two copies. What does
not come back: embedding tables on TPU (EmbeddingConfigSpec), the checkpoint
that a preempted TPU worker writes on its way out (training goes on from the
last regular one), and DistributeConfig's remote_cluster. Each says so when it
is asked for.

The canned estimators, their heads and model_to_estimator need Keras 2: pip
install --no-deps "tf_keras==2.21.*", or what TensorFlow's version is. The
user's tf.keras stays what it is. use_keras_2() makes it Keras 2 as well.

quiet() hides the messages that an Estimator's user can do nothing about; it is
not called by the import. TensorFlow's start-up banners are gone, but for two
lines of 2.18, with os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1") before
this file is imported and no import of TensorFlow before it. Where nobody sets
that variable, nothing of it is hidden.

Verified on the last release of each version from 2.15 to 2.21; any other is
refused rather than guessed at. This file needs nothing but TensorFlow and
tensorflow-estimator, so it can be copied into any project.
"""

from __future__ import annotations

import builtins
import contextlib
import copy
import ctypes
import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import inspect
import os
import re
import subprocess
import sys
import types
import warnings

# TensorFlow 2.21 says these two while its libraries are loaded, where the CPU
# has AVX-512: twice, at any TF_CPP_MIN_LOG_LEVEL, and before there is a way to
# tell it the level.
_BANNER = r"""
/^WARNING: All log messages before absl::InitializeLog() is called are /d
/^I[0-9]* .* port\.cc:[0-9]*\] oneDNN custom operations are on\./d
"""  # a program of sed's


@contextlib.contextmanager
def _without_banner():
  """Drops the lines of _BANNER from what this process writes to descriptor 2.

  Only if TF_CPP_MIN_LOG_LEVEL asks for less than everything and TensorFlow is
  not imported yet. Every other line passes at once, through a process of its
  own: it passes also where the import brings this process down.
  """
  level = os.environ.get("TF_CPP_MIN_LOG_LEVEL")
  asked = level in ("1", "2", "3") and "tensorflow" not in sys.modules
  if not asked or sys.platform != "linux":
    yield
    return
  try:
    kept = os.dup(2)
  except OSError:  # there is no descriptor 2
    yield
    return
  try:
    sed = subprocess.Popen(
      ["sed", "-u", _BANNER],
      stdin=subprocess.PIPE,
      stdout=kept,
      stderr=subprocess.DEVNULL,
      start_new_session=True,  # an interrupt from the keyboard is not for it
      env={**os.environ, "LC_ALL": "C"},  # lines are bytes
    )
  except OSError:  # there is no sed
    os.close(kept)
    yield
    return
  try:
    os.dup2(sed.stdin.fileno(), 2)
    yield
  finally:
    os.dup2(kept, 2)
    os.close(kept)
    sed.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
      sed.wait(timeout=5)  # in vain if a process of the import lives on


with _without_banner():
  import tensorflow as tf

FIRST, LAST = (2, 15), (2, 21)  # TensorFlow versions that are known to work
NATIVE = tf.__version__.startswith("2.15.")  # which has an Estimator itself
ESTIMATOR = "2.15.0"
PIP_LINE = (
  f'pip install "tensorflow>=2.{FIRST[1]},<2.{LAST[1] + 1}" '
  f"tensorflow-estimator=={ESTIMATOR}"
)


def check(tensorflow_version, estimator_version):
  """Refuses a pair of versions that this bridge does not know.

  Args:
    tensorflow_version: `str`, like tf.__version__.
    estimator_version: `str`, or None where the package is not installed.

  Raises:
    ImportError: with what is installed, what is supported and the pip line.
  """
  numbers = re.match(r"(\d+)\.(\d+)", tensorflow_version)
  known = numbers and FIRST <= tuple(map(int, numbers.groups())) <= LAST
  if known and estimator_version == ESTIMATOR:
    return
  raise ImportError(
    f"estimator_bridge found TensorFlow {tensorflow_version} with "
    f"tensorflow-estimator {estimator_version or '(not installed)'}, but "
    f"supports TensorFlow {FIRST[0]}.{FIRST[1]} to {LAST[0]}.{LAST[1]} with "
    f"tensorflow-estimator {ESTIMATOR}: {PIP_LINE}"
  )


def install():
  """Makes tf.estimator and tf.compat.v1.estimator be there; again is no harm.

  Raises:
    ImportError: see check; or TF_USE_LEGACY_KERAS=1 is in vain.
  """
  try:
    estimator_version = importlib.metadata.version("tensorflow-estimator")
  except importlib.metadata.PackageNotFoundError:
    estimator_version = None
  check(tf.__version__, estimator_version)
  if NATIVE and _wants_keras_2() and not importlib.util.find_spec("tf_keras"):
    raise ImportError(
      "TF_USE_LEGACY_KERAS=1 asks for the package tf_keras, which is not "
      f"installed. TensorFlow {tf.__version__} has Keras 2 anyway: unset the "
      'variable, or pip install --no-deps "tf_keras==2.15.*"'
    )
  if hasattr(tf.compat.v1, "estimator"):
    return  # TensorFlow 2.15, or bridged already
  _restore_export_registry()
  _mend_text_format()
  _stand_in(
    "tensorflow.python.tpu.tpu_embedding",
    {name: type(name, (_NoEmbedding,), {}) for name in _EMBEDDING_PARAMETERS},
  )
  _stand_in("tensorflow.python.tpu.tpu_embedding_gradient", {})
  _stand_in(
    "tensorflow.python.tpu.session_support",
    {
      "GracefulShutdownHook": _GracefulShutdownHook,
      "ResetComputation": _ResetComputation,
    },
  )
  _stand_in(
    "tensorflow.python.distribute.estimator_training",
    {
      "init_run_config": _init_run_config,
      "should_run_distribute_coordinator": _runs_in_cluster,
      "train_and_evaluate": _train_and_evaluate,
      "estimator_train": _refuse_lone_call,
      "estimator_evaluate": _refuse_lone_call,
    },
  )
  sys.meta_path[:0] = [_PackageFinder(), _OldNameFinder()]
  _publish()


def quiet():
  """Hides messages that nobody who uses Estimator can act upon.

  Those are the deprecation notices that advise tf.keras in Estimator's place;
  those about calls that TensorFlow or the package makes itself, about thirty in
  a run; two Python warnings about the same, known by how they begin; and on
  2.19 and 2.20 the messages that TF_CPP_MIN_LOG_LEVEL is there to hide. A
  notice about any other deprecated call in the user's own files still shows,
  and so does every other message. A second call changes nothing.
  """
  tf.get_logger().addFilter(_is_useful)
  for start in (
    # TensorFlow itself, for each input under a tf.distribute strategy.
    "To make it possible to preserve tf.data options across serialization",
    # protobuf 6, about the graph.pbtxt that TensorFlow 2.20 writes.
    "float_format is deprecated for text_format",
  ):
    warnings.filterwarnings("ignore", message=start)
  _heed_min_log_level()


# Where Abseil has to be told the level itself: the release of Abseil that is
# compiled into TensorFlow, which is part of every name in its library.
_ABSEIL = {"2.19": "20230802", "2.20": "20250127"}


def _heed_min_log_level():
  """Makes TF_CPP_MIN_LOG_LEVEL hold for TensorFlow 2.19 and 2.20 as well.

  These and 2.18 hand their C++ messages to Abseil and forget the variable: in
  spite of it the first session tells that an MLIR pass is not enabled, and that
  this was logged before absl::InitializeLog. Where the library does not export
  the function, or not to effect, as in 2.18, these lines stay.
  """
  level = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "")
  abseil = _ABSEIL.get(tf.__version__.rpartition(".")[0])
  if not abseil or level not in ("1", "2", "3"):
    return
  suffix = "2.dylib" if sys.platform == "darwin" else "so.2"
  name = f"_ZN4absl12lts_{abseil}14SetMinLogLevelENS0_18LogSeverityAtLeastE"
  try:
    library = ctypes.CDLL(
      os.path.join(tf.sysconfig.get_lib(), f"libtensorflow_framework.{suffix}")
    )
    getattr(library, name)(int(level))
  except (OSError, AttributeError):
    pass


def _is_useful(record):
  """Returns whether a LogRecord of TensorFlow's logger is to be shown."""
  notice, args = str(record.msg), record.args
  if notice == "Reraising captured error":  # whoever gets it says what it is
    return False
  # All notices share this form; where the call stands comes first, what to use
  # in its place last.
  if not (notice.startswith("From %s: ") and " is deprecated" in notice):
    return True
  place, advice = str(args[0]), str(args[-1])
  return not (
    place.startswith(_LIBRARIES)
    or advice == "Use tf.keras instead."
    or advice.startswith("tf.compat.v1.estimator.")
  )


_SITE_PACKAGES = os.path.dirname(os.path.dirname(os.path.abspath(tf.__file__)))
_LIBRARIES = tuple(
  os.path.join(_SITE_PACKAGES, name, "")
  for name in ("tensorflow", "tensorflow_estimator")
)


# --- tf_export: since 2.16 it no longer knows an API named "estimator" -------


def _restore_export_registry():
  """Registers the attributes in which estimator_export notes a symbol's names.

  The package's decorators look them up for every public class at import.
  """
  from tensorflow.python.util import tf_export

  name = "estimator"
  tf_export.ESTIMATOR_API_NAME = name
  for table, suffix in (
    (tf_export.API_ATTRS, ""),
    (tf_export.API_ATTRS_V1, "_v1"),
  ):
    entry = type(table[tf_export.TENSORFLOW_API_NAME])
    table[name] = entry(
      f"_{name}_api_names{suffix}", f"_{name}_api_constants{suffix}"
    )
  for version, table in (
    ("v1", tf_export.API_ATTRS_V1),
    ("v2", tf_export.API_ATTRS),
  ):
    function = f"get_{version}_names"
    known = getattr(tf_export, function)
    setattr(tf_export, function, _with_estimator(known, table[name].names))


def _with_estimator(get_names, attribute):
  """Returns get_v1_names or get_v2_names for Estimator's symbols as well."""

  @functools.wraps(get_names)
  def names(symbol):
    own = getattr(symbol, "__dict__", {}).get(attribute, ())
    return [*get_names(symbol), *own]

  return names


# --- protobuf 7: without an argument that TensorFlow 2.20 passes -------------


def _mend_text_format():
  """Lets TensorFlow write graph.pbtxt where MessageToString changed.

  TensorFlow 2.20 asks for float_format="", which means nothing, and accepts
  protobuf 7, which no longer takes the argument.
  """
  from google.protobuf import text_format
  from tensorflow.python.framework import graph_io

  convert = text_format.MessageToString
  if "float_format" in inspect.signature(convert).parameters:
    return

  def message_to_string(*args, float_format="", **kwargs):
    if float_format:
      raise TypeError(f"protobuf 7 has no float_format: {float_format!r}")
    return convert(*args, **kwargs)

  mended = types.ModuleType(text_format.__name__, text_format.__doc__)
  mended.__dict__.update(vars(text_format), MessageToString=message_to_string)
  graph_io.text_format = mended


# --- Keras: the package was written for Keras 2 ------------------------------


def _wants_keras_2():
  """Returns whether TensorFlow was told to take tf_keras for tf.keras."""
  return os.environ.get("TF_USE_LEGACY_KERAS") in ("1", "true", "True")


def use_keras_2():
  """Makes Keras 2 (the package tf_keras) the Keras of the whole program.

  For programs that use tf.layers, tf.keras or tf.feature_column.DenseFeatures
  in a model_fn, or hand Keras objects to Estimator. It has to be called before
  anything uses tf.keras; to set TF_USE_LEGACY_KERAS=1 before the first import
  of TensorFlow does the same. The canned estimators do not need it: they get
  tf_keras by themselves where it is installed.

  Raises:
    ImportError: if tf_keras is not installed.
    RuntimeError: if tf.keras is in use as Keras 3 already.
  """
  if NATIVE:
    return  # it is so already
  if not importlib.util.find_spec("tf_keras"):
    raise ImportError(_no_keras("use_keras_2()"))
  if _wants_keras_2():
    return
  v1, tensorflow = tf.compat.v1, sys.modules["tensorflow"]
  for part in (tensorflow.__dict__["keras"], v1.keras, v1.layers):
    # A loader; or the module itself, once somebody has used it.
    version = part.__dict__.get("_tfll_keras_version")
    if version == "keras_3" or not (
      _is_keras(part) or part.__name__.startswith("tf_keras")
    ):
      raise RuntimeError(
        "tf.keras is in use as Keras 3 already: call use_keras_2() right after "
        "the import of estimator_bridge, or set TF_USE_LEGACY_KERAS=1"
      )
  os.environ["TF_USE_LEGACY_KERAS"] = "1"
  # For `from tensorflow.keras import layers`, which looks for a folder.
  for module, names in (
    (tensorflow, ["_v2"]),
    (tf.compat.v2, ["_v2"]),
    (v1, ["_v1", "_v1.keras.__internal__.legacy"]),
    (v1.nn, ["_v1.keras.__internal__.legacy"]),
  ):
    for name in names:
      spec = importlib.util.find_spec(f"tf_keras.api.{name}")
      module.__path__ = [*spec.submodule_search_locations, *module.__path__]


def _is_keras(value):
  """Returns whether a member of a TensorFlow namespace is a part of Keras."""
  return type(value).__name__ == "KerasLazyLoader"


class _TensorFlow(types.ModuleType):
  """A namespace of TensorFlow, its Keras being Keras 2.

  The package's modules get it for their `tf`; everybody else's tf.keras is what
  TensorFlow gives. Every other attribute is looked up in the namespace itself,
  each time, so that what is replaced there is replaced here too.
  """

  def __init__(self, real):
    super().__init__(real.__name__, real.__doc__)
    self._real = real

  def __getattr__(self, name):
    value = getattr(self._real, name)
    if name == "keras" or _is_keras(value):
      # The module itself stands there once somebody has used tf.keras.
      mode = getattr(value, "_tfll_mode", None) or (
        "v1" if "v1" in self._real.__name__ else "v2"
      )
      return _keras_2(mode, getattr(value, "_tfll_submodule", None) or "")
    if name in ("compat", "v1", "v2", "nn"):
      value = self.__dict__[name] = _TensorFlow(value)
    return value

  def __dir__(self):
    return dir(self._real)


@functools.cache
def _keras_2(mode, submodule):
  """Returns a namespace of tf_keras, or one that says that it is missing.

  Args:
    mode: "v1" or "v2".
    submodule: `str`, the name below keras, or "".
  """
  name = f"tf_keras.api._{mode}.keras"
  try:
    return importlib.import_module(f"{name}.{submodule}".rstrip("."))
  except ImportError:
    keras = _Missing("keras", (), {})
    # The one part that an Estimator without Keras uses.
    keras.initializers = tf.compat.v1.initializers
    return functools.reduce(getattr, submodule.split("."), keras)


def _no_keras(what):
  """Returns the sentence for something that needs Keras 2."""
  minor = tf.__version__.rpartition(".")[0]
  return (
    f"{what} needs Keras 2, which TensorFlow {tf.__version__} does not have: "
    f'pip install --no-deps "tf_keras=={minor}.*"'
  )


class _Missing(type):
  """A class or a module of Keras 2 where tf_keras is not installed.

  The package's classes can inherit from it; to call it is an ImportError.
  """

  def __getattr__(cls, name):
    if name.startswith("__") and name != "__internal__":
      raise AttributeError(name)
    return _Missing(
      name, (), {"__module__": f"{cls.__module__}.{cls.__name__}"}
    )

  def __call__(cls, *args, **kwargs):
    raise ImportError(_no_keras(f"tf.estimator, for {cls.__name__},"))


class _PackageFinder(importlib.abc.MetaPathFinder):
  """Finds the package's modules for _PackageLoader."""

  def find_spec(self, name, path=None, target=None):
    if not name.startswith("tensorflow_estimator."):
      return None
    spec = importlib.machinery.PathFinder.find_spec(name, path, target)
    if spec and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
      spec.loader = _PackageLoader(spec.loader.name, spec.loader.path)
    return spec


class _PackageLoader(importlib.machinery.SourceFileLoader):
  """Loads a module in which `import tensorflow` gives a _TensorFlow."""

  def exec_module(self, module):
    module.__builtins__ = {**vars(builtins), "__import__": _import}
    super().exec_module(module)


def _import(name, globals=None, locals=None, fromlist=(), level=0):
  """Stands in for __import__ in the package's modules."""
  found = builtins.__import__(name, globals, locals, fromlist, level)
  plain = name.partition(".")[0] == "tensorflow" and not fromlist
  return _view(found) if plain else found


@functools.cache
def _view(tensorflow):
  return _TensorFlow(tensorflow)


# --- tensorflow.python.tpu: three modules gone since 2.16 --------------------


def _refuse_embedding(*args, **kwargs):
  """Stands for what puts embedding tables on a TPU.

  Raises:
    NotImplementedError: always.
  """
  raise NotImplementedError(
    "embedding tables on TPU (EmbeddingConfigSpec and its parameters) need "
    "tensorflow.python.tpu.tpu_embedding, which left TensorFlow with 2.16: "
    "they work on TensorFlow 2.15 only"
  )


class _NoEmbedding:
  """Base of the classes below."""

  __init__ = _refuse_embedding


# A TPUEstimator without embedding tables only lists these classes in a tuple.
_EMBEDDING_PARAMETERS = (
  "AdagradParameters",
  "AdamParameters",
  "FtrlParameters",
  "MomentumParameters",
  "ProximalAdagradParameters",
  "RMSPropParameters",
  "StochasticGradientDescentParameters",
)


class _ResetComputation:
  """What TPU training hands to the hook below by default; never called."""


class _GracefulShutdownHook(tf.compat.v1.train.SessionRunHook):
  """Takes the original hook's arguments and stays out of the way.

  The original saved a checkpoint when a TPU worker announced its end. Without
  it the session fails there, and training goes on from the last checkpoint.
  """

  def __init__(self, checkpoint_prefix, saver=None, on_shutdown_hooks=None):
    del checkpoint_prefix, saver, on_shutdown_hooks


# --- tensorflow.python.distribute.estimator_training: gone since 2.16 --------


def _init_run_config(config, tf_config):
  """Sets a RunConfig's place in the cluster where it names a strategy.

  Args:
    config: the RunConfig under construction, changed in place.
    tf_config: `dict`, the parsed TF_CONFIG.

  Raises:
    ValueError: if a strategy is given twice, or a remote cluster is asked for.
  """
  extra = config._experimental_distribute
  if extra and extra.remote_cluster:
    raise ValueError(
      "DistributeConfig(remote_cluster=...) needs TensorFlow 2.15; later "
      "versions take the cluster from TF_CONFIG, set for each worker"
    )
  for field in ("train_distribute", "eval_distribute") if extra else ():
    strategy = getattr(extra, field)
    if strategy and getattr(config, "_" + field):
      raise ValueError(f"{field} is set both directly and by DistributeConfig")
    if strategy:
      setattr(config, "_" + field, strategy)

  cluster = tf.train.ClusterSpec(tf_config.get("cluster", {}))
  in_cluster = bool(
    cluster and config._train_distribute and "master" not in cluster.jobs
  )
  # In a cluster each worker learns its own place later, from the coordinator
  # (_own_estimator); until then its settings are those of a single machine.
  config._init_distributed_setting_from_environment_var(
    {} if in_cluster else tf_config
  )
  config._distribute_coordinator_mode = None
  if in_cluster:
    from tensorflow.python.distribute import distribute_coordinator

    mode = distribute_coordinator.CoordinatorMode.INDEPENDENT_WORKER
    config._distribute_coordinator_mode = mode
    config._cluster_spec = cluster
  else:
    config._maybe_overwrite_session_config_for_distributed_training()


def _runs_in_cluster(config):
  """Returns whether train_and_evaluate has to go through the coordinator."""
  # A RunConfig without a strategy never passed through _init_run_config.
  mode = getattr(config, "_distribute_coordinator_mode", None)
  if not mode or not config.cluster_spec:
    return False
  from tensorflow.python.distribute import distribute_coordinator

  return mode == distribute_coordinator.CoordinatorMode.INDEPENDENT_WORKER


def _train_and_evaluate(estimator, train_spec, eval_spec, executor_cls):
  """Runs this process's task of the cluster: train, evaluate or serve.

  Args:
    estimator: the Estimator; every task works on a copy of its own.
    train_spec, eval_spec: the TrainSpec and the EvalSpec.
    executor_cls: the package's class whose objects follow a training run's
      checkpoints and evaluate each.
  """
  from tensorflow.python.distribute import distribute_coordinator

  def train(strategy):
    _own_estimator(estimator, "train", strategy).train(
      train_spec.input_fn,
      hooks=list(train_spec.hooks),
      max_steps=train_spec.max_steps,
    )

  def evaluate(strategy):
    executor = executor_cls(
      _own_estimator(estimator, "eval", strategy), train_spec, eval_spec
    )
    executor._start_continuous_evaluation()

  config = estimator.config
  distribute_coordinator.run_distribute_coordinator(
    train,
    config.train_distribute,
    eval_fn=evaluate,
    eval_strategy=config.eval_distribute,
    mode=config._distribute_coordinator_mode,
    session_config=config.session_config,
  )


def _own_estimator(estimator, role, strategy):
  """Returns a copy of an estimator that knows its task in the cluster.

  Args:
    estimator: the Estimator that the user built.
    role: "train" or "eval".
    strategy: the tf.distribute strategy, configured for this task, or None.
  """
  from tensorflow.python.distribute import (
    distribute_coordinator_context,
    multi_worker_util,
  )

  own = copy.deepcopy(estimator)
  setattr(own, f"_{role}_distribution", strategy)
  config = own._config
  setattr(config, f"_{role}_distribute", strategy)
  # train and evaluate are to do the work now, not to ask the coordinator again.
  config._distribute_coordinator_mode = None

  task = distribute_coordinator_context.get_current_worker_context()
  config._service = None
  config._task_type, config._task_id = task.task_type, task.task_id
  config._is_chief = task.is_chief
  config._master = config._evaluation_master = task.master_target
  if task.task_type == "evaluator":
    # It follows the checkpoints by itself and must not wait for the others.
    config._cluster_spec = tf.train.ClusterSpec({})
    config._num_ps_replicas = config._num_worker_replicas = 0
    config._global_id_in_cluster = None
    return own

  def count(job):
    return multi_worker_util.task_count(task.cluster_spec, job)

  config._cluster_spec = task.cluster_spec
  config._num_ps_replicas = count("ps")
  config._num_worker_replicas = count("chief") + count("worker")
  before = count("chief") if task.task_type == "worker" else 0
  config._global_id_in_cluster = before + (task.task_id or 0)
  return own


def _refuse_lone_call(estimator, run, hooks):
  """Stands for Estimator.train and .evaluate on several machines.

  Raises:
    ValueError: always, as TensorFlow 2.15 does with workers under TF_CONFIG.
  """
  del estimator, run, hooks
  raise ValueError(
    "Estimator.train and Estimator.evaluate work on one machine only: with a "
    "cluster in TF_CONFIG and a strategy call tf.estimator.train_and_evaluate"
  )


# --- putting it in place -----------------------------------------------------


def _stand_in(name, members):
  """Adds a module that TensorFlow no longer has.

  Args:
    name: `str`, the module's full name; nothing happens if it can be imported.
    members: `dict`, what the module holds; any other name is an
      AttributeError that says where it went.
  """
  try:
    importlib.import_module(name)
    return
  except ModuleNotFoundError:
    pass

  def missing(attribute):
    raise AttributeError(
      f"{name}.{attribute} left TensorFlow with 2.16 and estimator_bridge has "
      "nothing in its place: what needs it runs on TensorFlow 2.15 only"
    )

  module = types.ModuleType(name, "Put here by estimator_bridge.")
  module.__dict__.update(members, __getattr__=missing)
  sys.modules[name] = module
  parent, _, leaf = name.rpartition(".")
  setattr(importlib.import_module(parent), leaf, module)


# The module names under which TensorFlow 2.15 has the package's modules.
_OLD = "tensorflow.python.estimator"
_OLD_PACKAGES = {"", "canned", "export", "inputs", "inputs.queues"}
_OLD_MODULES = {
  *("estimator", "estimator_lib", "exporter", "gc", "keras", "model_fn"),
  *("run_config", "training", "util"),
  *("canned.baseline", "canned.dnn", "canned.dnn_linear_combined"),
  *("canned.head", "canned.linear", "canned.metric_keys", "canned.optimizers"),
  *("canned.parsing_utils", "canned.prediction_keys"),
  *("export.export", "export.export_lib", "export.export_output"),
  *("inputs.inputs", "inputs.numpy_io", "inputs.pandas_io"),
  *("inputs.queues.feeding_functions", "inputs.queues.feeding_queue_runner"),
}


# Which Python would load a second time and without Estimator: "import
# tensorflow.compat.v1.compat.v1" gives the namespace that is there.
_NESTED = re.compile(r"tensorflow\.compat\.v[12]\.compat\.v[12]")


class _OldNameFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
  """Imports the package's modules under TensorFlow's old names for them."""

  def find_spec(self, name, path=None, target=None):
    if _NESTED.fullmatch(name):
      return importlib.machinery.ModuleSpec(name, self, is_package=True)
    if name != _OLD and not name.startswith(f"{_OLD}."):
      return None
    below = name[len(_OLD) + 1 :]
    if below not in _OLD_PACKAGES | _OLD_MODULES:
      return None
    return importlib.machinery.ModuleSpec(
      name, self, is_package=below in _OLD_PACKAGES
    )

  def create_module(self, spec):
    return None  # Python makes a fresh one

  def exec_module(self, module):
    # From now on another module is what the name stands for.
    name = module.__name__
    below = name[len(_OLD) + 1 :]
    if _NESTED.fullmatch(name):
      sys.modules[name] = functools.reduce(
        getattr, name.split(".")[1:], sys.modules["tensorflow"]
      )
    elif below in _OLD_MODULES:
      below = "keras_lib" if below == "keras" else below
      sys.modules[name] = importlib.import_module(
        f"tensorflow_estimator.python.estimator.{below}"
      )


def _publish():
  """Puts the package's namespaces where TensorFlow 2.15 has them."""
  # What an import before the bridge left behind is not of one piece.
  for name in [*sys.modules]:
    if name.partition(".")[0] == "tensorflow_estimator":
      del sys.modules[name]
  # Python imports these two a second time, as modules of their own: what a
  # user calls tf.compat.v1 from then on is also what the package is to see.
  importlib.import_module("tensorflow.compat.v1")
  importlib.import_module("tensorflow.compat.v2")
  api = "tensorflow_estimator.python.estimator.api"
  v1 = importlib.import_module(f"{api}._v1.estimator")
  v2 = importlib.import_module(f"{api}._v2.estimator")
  embedding = importlib.import_module(
    "tensorflow_estimator.python.estimator.tpu._tpu_estimator_embedding"
  )
  embedding.EmbeddingConfigSpec.__new__ = _refuse_embedding

  def publish(path, namespace):
    for root in ("tensorflow", "tensorflow._api.v2"):
      sys.modules[f"{root}{path}.estimator"] = namespace
    parent = functools.reduce(
      getattr, path.split(".")[1:], sys.modules["tensorflow"]
    )
    parent.estimator = namespace

  publish("", v2)
  for version, namespace in (("v1", v1), ("v2", v2)):
    for outer in ("", ".compat.v1", ".compat.v2"):
      publish(f"{outer}.compat.{version}", namespace)
  sys.modules["tensorflow._api.v2.v2.estimator"] = v2


install()
