"""Precision: the dtype of the matrix products, and what a CPU makes of it.

The casts themselves stand in `modeling.Forms` and in `fast_modeling`, so that
they are the same on every device. Of each precision but float32 a run keeps the
variables, the gradients that are added up, LayerNorm, softmax and the loss in
float32: checkpoints do not tell in which one they were trained.
"""

import re

from absl import logging
import tensorflow.compat.v1 as tf

from bert_classifier.step_options import BFLOAT16, FLOAT16, FLOAT32

DTYPES = {FLOAT32: tf.float32, BFLOAT16: tf.bfloat16, FLOAT16: tf.float16}
# What Linux calls the instructions that multiply in a dtype.
_INSTRUCTIONS = {
  BFLOAT16: {"avx512_bf16", "amx_bf16"},
  FLOAT16: {"avx512_fp16", "amx_fp16"},
}
_CPU_INFO = "/proc/cpuinfo"


def warn_where_slower(precision, placement):
  """Warns where a CPU computes, and lacks instructions for the precision.

  Args:
    precision: a key of `DTYPES`.
    placement: see `devices`.
  """
  wanted = _INSTRUCTIONS.get(precision)
  if not wanted or not placement.on_cpu:
    return
  found = read_cpu_flags()
  if found is None or wanted & found:
    return
  logging.warning(
    "--precision=%s will be slower than float32: this CPU has none of the"
    " instructions for it (%s)",
    precision,
    ", ".join(sorted(wanted)),
  )


def read_cpu_flags(path=_CPU_INFO):
  """Returns the names of the instruction sets of this CPU, a set.

  None where the system does not tell.
  """
  try:
    with open(path, encoding="utf-8", errors="replace") as file:
      found = re.search(r"^flags\s*:(.*)$", file.read(), re.MULTILINE)
  except OSError:
    return None
  return set(found[1].split()) if found else None
