"""The flags of the devices, and which of them go with each other."""

import dataclasses
from typing import Optional

from bert_classifier.errors import UserError
from bert_classifier.flag_fields import Range, flag

# How to ask for one device, where what is asked for needs it.
ONE_GPU = "give --num_gpus=1"
ONE_PROCESS = (
  "train in one process, with --num_gpus=0 or 1, and without TF_CONFIG and"
  " --num_workers"
)
# Flags that may differ among machines that train together; that they have as
# many GPUs is looked at when those are known.
OF_ONE_MACHINE = {
  "num_threads",
  "num_gpus",
  "gpu_memory_growth",
  "num_workers",
  "worker_timeout",
}


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

  @property
  def tpu(self):
    """Returns the name of the TPU, or the address of its host."""
    return self.tpu_name or self.master

  def check_tpu(self, elsewhere, paths, do_eval):
    """Checks that a TPU is named, and can do what is asked for.

    Args:
      elsewhere: what names other devices than this process has, or None.
      paths: {flag: path or None}.
      do_eval: whether an evaluation is asked for.

    Raises:
      UserError: it is not, or cannot.
    """
    for other in (
      elsewhere,
      self.num_gpus and f"--num_gpus={self.num_gpus}",
      self.num_workers > 1 and f"--num_workers={self.num_workers}",
    ):
      if other:
        raise UserError(
          f"--use_tpu and {other} name different devices: leave one out"
        )
    refuse_local_paths(self.tpu, paths)
    if do_eval:
      refuse_remote_evaluation(self.tpu)

  def check_tpu_batches(self, sizes):
    """Checks that the cores of a TPU can share batches of some sizes.

    Args:
      sizes: {flag: examples}.

    Raises:
      UserError: they cannot.
    """
    for name, size in sizes.items():
      if size % self.num_tpu_cores:
        raise UserError(
          f"--{name} is {size}, but must be a multiple of"
          f" --num_tpu_cores={self.num_tpu_cores}: every core takes as many"
          " examples"
        )

  def check_several(self, used, ask_for_one, division=None):
    """Checks that several devices can compute what is asked for, as one.

    Args:
      used: words for the devices.
      ask_for_one: how to ask for one.
      division: examples of a training step and number of devices, or None.

    Raises:
      UserError: they cannot.
    """
    for flag_of_one in ("use_xla", "pack_sequences"):
      if getattr(self, flag_of_one):
        raise UserError(
          f"--{flag_of_one} is for one device, and {used} would compute:"
          f" leave it out, or {ask_for_one}"
        )
    if division and division[0] % division[1]:
      raise UserError(
        f"--train_batch_size is {division[0]}, but must be a multiple of"
        f" {division[1]}: it is divided among {used}"
      )


def name_devices(workers, gpus):
  """Returns the words for several devices: "2 workers with 4 GPUs each"."""
  if workers == 1:
    return f"{gpus} GPUs"
  return f"{workers} workers" + (f" with {gpus} GPUs each" if gpus else "")


def refuse_local_paths(tpu_name, paths):
  """Refuses local paths for a TPU on another host, which cannot read them.

  Args:
    tpu_name: "local" for the TPU in this machine, which can.
    paths: dictionary from flag to path, None where it was not given.

  Raises:
    UserError: a path that is not in Google Cloud Storage; names the flags.
      Or no name was given.
  """
  if not tpu_name:
    raise UserError(
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
    raise UserError(
      f"the TPU {tpu_name!r} cannot read {' and '.join(local)}: use gs://"
      " paths, or --tpu_name=local on the machine that holds the TPU"
    )


def refuse_remote_evaluation(tpu_name):
  """Refuses an evaluation by a TPU on another host.

  The metrics are computed in this process, where an evaluation's session cannot
  call them from there.

  Args:
    tpu_name: "local" for the TPU in this machine, which is no such TPU.

  Raises:
    UserError: the TPU is on another host; says where to evaluate.
  """
  if tpu_name != "local":
    raise UserError(
      f"--do_eval needs the TPU in this machine, but {tpu_name!r} is on another"
      " host: leave out --do_eval, and then give the same command with it and"
      " without --use_tpu; or run on the machine that holds the TPU, with"
      " --tpu_name=local"
    )
