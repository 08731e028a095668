"""This machine: threads, memory, and what the driver says of its GPUs.

Nothing here imports TensorFlow.
"""

import ctypes
import functools
import itertools
import os
import re
import subprocess

from bert_classifier import containers

VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"  # an environment variable
_NAMES_GPU = re.compile(r"\d|GPU-|MIG-")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


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


@functools.cache  # the tool may take its ten seconds
def query_nvidia_smi():
  """Returns name, memory and free memory of each GPU; [] without a driver."""
  query = "--query-gpu=name,memory.total,memory.free"
  try:
    lines = subprocess.run(
      ["nvidia-smi", query, "--format=csv,noheader"],
      capture_output=True,
      check=True,
      text=True,
      timeout=10,
    ).stdout.splitlines()
  except (OSError, subprocess.SubprocessError, ValueError):
    return []
  rows = [line.split(", ") for line in lines]
  return rows if all(len(row) == 3 for row in rows) else []


def find_free_gpu_memory():
  """Returns the free bytes of the only GPU, None where unknown."""
  rows = query_nvidia_smi()
  free = re.fullmatch(r"(\d+) MiB", rows[0][-1]) if len(rows) == 1 else None
  return int(free[1]) << 20 if free else None


def list_gpus():
  """Returns the numbers, as text, of the GPUs that this process may use.

  Of a list of them those before the first that names none, such as -1: as
  CUDA reads it.
  """
  visible = os.environ.get(VISIBLE_GPUS)
  if visible is not None:
    numbers = map(str.strip, visible.split(","))
    return list(itertools.takewhile(_NAMES_GPU.match, numbers))
  return [str(number) for number in range(len(query_nvidia_smi()))]


def count_threads(num_threads):
  """Returns how many threads compute: those asked for, or one a usable core."""
  return num_threads or _count_usable_cores()


def _count_usable_cores():
  if hasattr(os, "sched_getaffinity"):
    cores = len(os.sched_getaffinity(0))
  else:
    cores = os.cpu_count() or 1
  return min(cores, containers.count_cores() or cores)


def find_free_memory():
  """Returns the bytes of memory that may still be used, None where unknown.

  It is the smaller of what the machine has left and what a container allows.
  """
  free = [read_available_memory(), containers.find_free_memory()]
  return min((amount for amount in free if amount is not None), default=None)


def find_total_memory():
  """Returns the bytes of memory that a process may ever use, None if unknown.

  It is the smaller of what the machine has and what a container allows.
  """
  try:
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  except (AttributeError, OSError, ValueError):
    machine = None
  amounts = [machine, containers.find_memory_limit()]
  return min((amount for amount in amounts if amount is not None), default=None)


def read_linux_figure(path, name):
  """Returns the bytes that a file of Linux's /proc gives by a name, or None."""
  try:
    with open(path, encoding="ascii") as reader:
      for line in reader:
        if line.startswith(name):
          return int(line.split()[1]) * 1024
  except OSError:
    pass
  return None


def read_available_memory():
  """Returns the bytes that the system calls available, None where unknown."""
  available = read_linux_figure("/proc/meminfo", "MemAvailable:")
  if available is not None:
    return available
  try:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  except (AttributeError, OSError, ValueError):
    return None
