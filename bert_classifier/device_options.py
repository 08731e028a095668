"""The flags of the devices."""

import dataclasses
from typing import Optional

from bert_classifier.flag_fields import Range, flag


@dataclasses.dataclass(frozen=True)
class DeviceOptions:
  """Devices"""

  num_threads: int = flag(0, "Threads to compute with; 0: all cores.", Range(0))
  skip_padding: bool = flag(
    True,
    "Compute real tokens only; false computes all max_seq_length positions, as"
    " a TPU always does. Evaluation and prediction are the same within"
    " rounding; in training dropout falls on other elements.",
  )
  use_xla: bool = flag(
    False,
    "Compile the graph by XLA, which takes a minute at its first step: all"
    " max_seq_length positions are computed, and dropout draws other masks.",
  )
  deterministic: bool = flag(
    False,
    "Compute on a GPU by operations alone that give the same to the bit every"
    " time; slower (docs/gpu.md). On a CPU --num_threads=1 does.",
    setting="training",
  )
  pack_sequences: bool = flag(
    False,
    "Train on several examples a row of max_seq_length, in as few rows as every"
    " batch of the training fits in: little padding in static shapes, as for a"
    " TPU and XLA. Losses are the same within rounding; dropout falls on other"
    " elements.",
  )
  num_gpus: Optional[int] = flag(
    None,
    "GPUs of this machine to compute on, each a part of the batch; 0: the CPU."
    " Default: the most of those there are that divide train_batch_size.",
    Range(0),
  )
  gpu_memory_growth: bool = flag(
    True,
    "Take memory of a GPU as it is needed; false takes nearly all of it at the"
    " start.",
  )
  num_workers: int = flag(
    1,
    "Processes of this machine that train together, each a part of the batch:"
    " starts, watches and restarts them. Machines are named by TF_CONFIG"
    " instead (docs/devices.md).",
    Range(1),
  )
  worker_timeout: float = flag(
    30.0,
    "Seconds without a sign of life of one worker after which the others end.",
    Range(1),
  )
  use_tpu: bool = flag(False, "Compute on a TPU.")
  tpu_name: Optional[str] = flag(
    None, "Name of the TPU; local for the one in this machine."
  )
  tpu_zone: Optional[str] = flag(
    None, "Google Cloud zone of the TPU, if not this machine's."
  )
  gcp_project: Optional[str] = flag(
    None, "Google Cloud project of the TPU, if not this machine's."
  )
  master: Optional[str] = flag(None, "Address of a TensorFlow master.")
  num_tpu_cores: int = flag(8, "Cores of the TPU.", Range(1))
  iterations_per_loop: int = flag(
    1000,
    "Training steps that a TPU takes between two reports to the host.",
    Range(1),
  )
