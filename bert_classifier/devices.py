"""What a run computes on: threads, memory, GPUs, the cores of a TPU."""

import ctypes
import os
import pathlib
import re
import subprocess

import tensorflow.compat.v1 as tf
from tensorflow.python.tpu import tpu_system_metadata

_GIBIBYTE = 1 << 30
_CONTROL_GROUP = pathlib.Path("/sys/fs/cgroup")


def session_config(num_threads):
  """Session settings.

  Args:
    num_threads: threads for and between operations; 0 for one a core.
  """
  config = tf.ConfigProto(
    intra_op_parallelism_threads=num_threads,
    inter_op_parallelism_threads=num_threads,
    allow_soft_placement=True,
  )
  config.gpu_options.allow_growth = True  # leave the rest to other programs
  return config


def reuse_big_blocks():
  """Makes malloc reuse freed blocks of over 32 MB instead of mapping new ones.

  By default glibc maps a block of over 32 MB afresh each time, and the system
  fills page after page of it with zeros: in every training step the gradient
  and the decay of the word table. Without this a training step of the 6-layer
  model, whose table has 47 MB, takes 1.18 times as long on CoLA
  (benchmarks/speed.py --forms). Blocks of over 64 MB are still mapped where a
  thread other than the first asks for them. Other C libraries have no such
  call.
  """
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (AttributeError, OSError, TypeError):
    return
  # glibc before 2.35 refuses so high a threshold; then all stays as it is.
  if mallopt(_M_MMAP_THRESHOLD, 2**31 - 1):
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def describe(num_threads):
  """A few words on the devices that TensorFlow will use, and their memory."""
  gpus = tf.config.list_physical_devices("GPU")
  if gpus:
    return _describe_gpus(gpus)
  count = threads(num_threads)
  words = f"CPU, {count} thread{'s' * (count != 1)}"
  free = free_memory()
  return words + (
    f", {free / _GIBIBYTE:.1f} GiB of memory free" if free else ""
  )


def _describe_gpus(gpus):
  """Names of the GPUs, and their memory where the driver's tool tells it."""
  told = _told_by_driver()
  # The tool names all of the machine's, of which fewer may be visible here.
  if len(told) == len(gpus):
    return ", ".join(
      f"GPU:{i} ({name}, {free} of {total} of memory free)"
      for i, (name, total, free) in enumerate(told)
    )
  details = map(tf.config.experimental.get_device_details, gpus)
  names = [detail.get("device_name", "of no name") for detail in details]
  return ", ".join(f"GPU:{i} ({name})" for i, name in enumerate(names))


def _told_by_driver():
  """Name, memory and free memory of each GPU, or [] where nobody tells."""
  query = "--query-gpu=name,memory.total,memory.free"
  try:
    told = subprocess.run(
      ["nvidia-smi", query, "--format=csv,noheader"],
      capture_output=True,
      check=True,
      text=True,
      timeout=10,
    ).stdout.splitlines()
  except (OSError, subprocess.SubprocessError, ValueError):
    return []
  rows = [line.split(", ") for line in told]
  return rows if all(len(row) == 3 for row in rows) else []


def threads(num_threads):
  """How many threads compute: as many as asked for, or one a usable core."""
  return num_threads or len(_usable_cores())


def _usable_cores():
  if hasattr(os, "sched_getaffinity"):
    return os.sched_getaffinity(0)
  return range(os.cpu_count() or 1)


def free_memory():
  """Bytes of memory that may still be used, or None where nobody can tell.

  The smaller of what the machine has left and what the control group (version
  2) of a container allows.
  """
  free = [_meminfo_available(), _control_group_left()]
  return min((amount for amount in free if amount is not None), default=None)


def _meminfo_available():
  try:
    with open("/proc/meminfo", encoding="ascii") as reader:
      for line in reader:
        if line.startswith("MemAvailable:"):
          return int(line.split()[1]) * 1024
  except OSError:
    pass
  try:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  except (AttributeError, OSError, ValueError):
    return None


def _control_group_left():
  try:
    limit, used = (
      int((_CONTROL_GROUP / name).read_text())
      for name in ("memory.max", "memory.current")
    )
    statistics = (_CONTROL_GROUP / "memory.stat").read_text()
  except (OSError, ValueError):  # not in a group, or "max": no limit
    return None
  # What was read of files is counted as used, but makes room for who needs it.
  cached = re.search(r"^inactive_file (\d+)$", statistics, re.MULTILINE)
  return max(0, limit - used + (int(cached[1]) if cached else 0))


def tpu_cluster(tpu_name, tpu_zone, gcp_project):
  """Finds a TPU; "local" is the one in this machine."""
  try:
    cluster = tf.distribute.cluster_resolver.TPUClusterResolver(
      tpu=tpu_name, zone=tpu_zone, project=gcp_project
    )
    cluster.cluster_spec()  # asks Google Cloud where the TPU is
    if tpu_name == "local":
      _require_local_tpu(cluster)
  except (OSError, RuntimeError, ValueError, tf.errors.OpError) as error:
    raise ValueError(
      f"there is no TPU {tpu_name!r}: {str(error).splitlines()[0]}. Check"
      " --tpu_name, --tpu_zone and --gcp_project, or leave out --use_tpu"
    ) from error
  return cluster


def _require_local_tpu(cluster):
  """Raises a RuntimeError where this machine has no TPU."""
  metadata = tpu_system_metadata._query_tpu_system_metadata(
    cluster.master(), cluster_def=None, query_topology=False
  )
  if not metadata.num_cores:
    raise RuntimeError("this machine has no TPU cores")


def refuse_local_paths(tpu_name, paths):
  """A TPU on another host cannot read this machine's files.

  Args:
    tpu_name: "local" for the TPU in this machine, which can.
    paths: dictionary from flag to path, None where it was not given.

  Raises:
    ValueError: a path that is not in Google Cloud Storage; names the flags.
      Or no name was given.
  """
  if not tpu_name:
    raise ValueError(
      "--use_tpu needs --tpu_name: the name of the TPU, or local for the one"
      " in this machine"
    )
  if tpu_name == "local":
    return
  local = [
    f"--{flag}={path}"
    for flag, path in paths.items()
    if path and not path.startswith("gs://")
  ]
  if local:
    raise ValueError(
      f"the TPU {tpu_name!r} cannot read {' and '.join(local)}: use gs://"
      " paths, or --tpu_name=local on the machine that holds the TPU"
    )
