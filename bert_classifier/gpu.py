"""A GPU: why there is none, what is taken of one, and what leaves it when."""

import contextlib
import ctypes
import glob
import os

from absl import logging
import tensorflow.compat.v1 as tf

from bert_classifier import machine

# A tensor that hooks feed: whether the numbers of the step are looked at.
WANTED = "numbers_are_wanted"
_HOST = "/device:CPU:0"
_READING = "Identity", "Const", "AddV2"


def send_where_wanted(number):
  """Returns a number of the GPU on the host: 0 where it is not wanted.

  There it is not sent, for the host would wait until the GPU has come to it. It
  is wanted where nothing else is fed for `WANTED`.

  Args:
    number: <any>[].

  Returns:
    The same dtype, [].
  """
  wanted = find_wanted()
  with tf.device(_HOST):
    if wanted is None:
      wanted = tf.placeholder_with_default(True, [], WANTED)
    zero, _ = tf.raw_ops.Switch(data=tf.zeros([], number.dtype), pred=wanted)
  _, sent = tf.raw_ops.Switch(data=number, pred=wanted)
  with tf.device(_HOST):
    value, _ = tf.raw_ops.Merge(inputs=[tf.identity(sent), zero])
  return value


def read_counter_on_host(op):
  """Returns the device of an operation: a RunConfig's device_fn.

  The Estimator reads the global step for its hooks in every step, and adds 0 to
  it. The variable and its own read must not be said to be on the host, or it
  would be in a second file of every checkpoint; it is where it is read.
  """
  of_counter = op.name.startswith(f"{tf.GraphKeys.GLOBAL_STEP}/")
  return _HOST if of_counter and op.type in _READING else op.device


def find_wanted():
  """Returns the tensor `WANTED` of the graph, None where it has none."""
  try:
    return tf.get_default_graph().get_tensor_by_name(f"{WANTED}:0")
  except KeyError:
    return None


# ---------------------------------------------------------------------------
# What is taken of one that is there


def list_gpus():
  """Returns TensorFlow's GPUs of this machine."""
  return tf.config.list_physical_devices("GPU")


def choose_for_process(number, grows):
  """Says which GPUs this process may have, and how it takes their memory.

  A session's configuration says the same, but comes second: an Estimator that
  builds its graph starts TensorFlow's eager context, which by default takes
  nearly all memory of every GPU, for good.

  Args:
    number: of GPUs, the first ones; None for all.
    grows: whether memory is taken as it is needed.
  """
  gpus = list_gpus()
  # A process that has started the context, for a run before, keeps its choice.
  with contextlib.suppress(RuntimeError):
    for device in gpus:
      tf.config.experimental.set_memory_growth(device, grows)
    tf.config.set_visible_devices(gpus[:number], "GPU")


# ---------------------------------------------------------------------------
# Why there is no GPU

_DRIVER, _MANAGEMENT = "libcuda.so.1", "libnvidia-ml.so.1"
# What the driver must know, as cuDriverGetVersion tells it: a program made with
# CUDA 12 runs with every driver of CUDA 12.0 or later.
_OLDEST_CUDA, _OLDEST_DRIVER = 12000, "525"
_NO_DEVICE = 100  # cuda.h: CUDA_ERROR_NO_DEVICE
# Names of the libraries that a build with CUDA 12 opens; cuDNN's number is the
# build's own.
_LIBRARIES = (
  "libcudart.so.12",
  "libcublas.so.12",
  "libcublasLt.so.12",
  "libcufft.so.11",
  "libcusolver.so.11",
  "libcusparse.so.12",
  "libcudnn.so.{cudnn}",
)
_CONTAINER = "in a container, start it with --gpus all"


def warn_where_missing():
  """Warns where a TensorFlow that was built for GPUs sees none."""
  if tf.test.is_built_with_cuda() and not list_gpus():
    logging.warning("the CPU computes: %s", explain_missing())


def explain_missing():
  """Returns why TensorFlow sees no GPU, most likely, and what to do."""
  if not tf.test.is_built_with_cuda():
    return (
      "TensorFlow sees no GPU, for this one is built without CUDA. Install"
      " requirements-gpu.txt in an environment of its own (docs/gpu.md)"
    )
  cause, mend = _find_cause(tf.sysconfig.get_build_info())
  return f"TensorFlow sees no GPU, for {cause}. {mend} (docs/gpu.md)"


def _find_cause(build):
  """Returns the first thing that is not as a GPU needs it, and how to mend it.

  Args:
    build: what `tf.sysconfig.get_build_info` returns.
  """
  visible = os.environ.get(machine.VISIBLE_GPUS)
  if visible is not None and not machine.list_gpus():
    return (
      f"{machine.VISIBLE_GPUS}={visible!r} hides every one",
      f"Unset it, or name one: {machine.VISIBLE_GPUS}=0",
    )
  try:
    driver = open_library(_DRIVER)
  except OSError as error:
    return (
      f"{_DRIVER}, a part of NVIDIA's driver, cannot be opened ({error})",
      f"Install the driver, {_OLDEST_DRIVER} or later, and see that nvidia-smi"
      f" lists the GPU; {_CONTAINER}; in WSL, put /usr/lib/wsl/lib on"
      " LD_LIBRARY_PATH",
    )
  return (
    _find_cause_in_driver(driver)
    or _find_unopened(build)
    or (
      "nothing that this program knows of: driver and libraries are there",
      "TensorFlow's own lines above may say more; it computes on GPUs of"
      f" {' '.join(build.get('cuda_compute_capabilities', ['?']))} or later",
    )
  )


def _find_cause_in_driver(driver):
  """Returns what is wrong with a driver, and how to mend it, or None.

  Args:
    driver: libcuda as ctypes opens it.
  """
  version = ctypes.c_int(0)
  driver.cuDriverGetVersion(ctypes.byref(version))
  major, minor = version.value // 1000, version.value % 1000 // 10
  if version.value < _OLDEST_CUDA:
    return (
      f"the driver knows CUDA up to {major}.{minor}, and this TensorFlow needs"
      f" {_OLDEST_CUDA // 1000}.0",
      f"Install a driver of version {_OLDEST_DRIVER} or later",
    )
  try:
    open_library(_MANAGEMENT)
  except OSError as error:
    return (
      f"{_MANAGEMENT}, a part of NVIDIA's driver, cannot be opened ({error})",
      "In a container, set NVIDIA_DRIVER_CAPABILITIES=compute,utility, for it"
      " belongs to utility; elsewhere, install the driver again",
    )
  code = driver.cuInit(0)
  if code == _NO_DEVICE:
    return (
      "the driver finds none in this machine (cuInit: 100)",
      f"See that nvidia-smi lists it; {_CONTAINER}",
    )
  if code:
    return (
      f"the driver does not start (cuInit: {code})",
      "See what nvidia-smi says; a driver that was just updated needs a"
      " restart of the machine",
    )
  return None


def _find_unopened(build):
  """Returns which of CUDA's libraries cannot be opened, and what to do."""
  missing = []
  for name in _LIBRARIES:
    name = name.format(cudnn=build.get("cudnn_version", "9"))
    try:
      open_library(name)
    except OSError as error:
      missing.append(f"{name} ({error})")
  if not missing:
    return None
  return (
    f"libraries of CUDA cannot be opened: {', '.join(missing)}",
    "Install them: pip install -r requirements-gpu.txt",
  )


def open_library(name):
  """Opens a shared library, where the system or NVIDIA's packages have it.

  Raises:
    OSError: it is not there, or cannot be opened.
  """
  packages = os.path.dirname(tf.sysconfig.get_lib())
  paths = glob.glob(os.path.join(packages, "nvidia", "*", "lib", name))
  return ctypes.CDLL(paths[0] if paths else name)
