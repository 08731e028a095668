"""What a run computes on: one placement for each kind of device.

`make_placement` chooses it from the flags. A placement knows the batch sizes,
the session's and the run's configuration, which copy of the model this is, how
gradients become those of one device, static or dynamic shapes, paths that can
be read, and its own words for the log. No other module asks which it is.
"""

import contextlib
import ctypes
import dataclasses
import functools
import json
import os
import pathlib
import re
import subprocess

from absl import logging
import tensorflow.compat.v1 as tf
from tensorflow.python.training import evaluation

from bert_classifier import gpu
from bert_classifier.errors import UserError
from bert_classifier.options import DeviceOptions
import estimator_bridge  # noqa: F401 - tf.estimator
import optimization

_GIBIBYTE = 1 << 30
CONTROL_GROUP = pathlib.Path("/sys/fs/cgroup")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h

# Examples, and tokens, that are computed at a time where no flag says it. The
# 6-layer model on two cores, its time for an example in batches of 16, 64 and
# 128 divided by that in batches of 32: CoLA (11 tokens) 1.11, 0.91 and 0.91,
# MNLI (40 tokens) 1.08, 1.14 and 1.11, MRPC (54 tokens) 1.05, 1.21 and 1.08.
_MOST_EXAMPLES, _MOST_TOKENS = 64, 2048


def check_cluster(text):
  """Makes sure that a run is not one of several that belong together.

  Args:
    text: value of TF_CONFIG, which clusters set; None where it is not set.

  Raises:
    UserError: it names several machines, or cannot be read.
  """
  if not (text or "").strip():
    return
  try:
    config = json.loads(text)
    if not isinstance(config, dict):
      raise TypeError("it is no JSON object")
    kind = (config.get("task") or {}).get("type")
    jobs = {
      job: _count_machines(hosts)
      for job, hosts in (config.get("cluster") or {}).items()
    }
  except (AttributeError, RecursionError, TypeError, ValueError) as error:
    raise UserError(
      f"the environment variable TF_CONFIG is {text!r:.200}, which does not"
      f" name the machines of a cluster in JSON ({error}): unset it, for this"
      " program computes on one machine"
    ) from error
  # An evaluator is no member of the cluster that it belongs to.
  if sum(jobs.values()) > 1 or (jobs and kind == "evaluator"):
    named = ", ".join(f"{count} {job}" for job, count in sorted(jobs.items()))
    raise UserError(
      f"the environment variable TF_CONFIG names several machines ({named};"
      f" this one is {kind}), but this program computes on one: start it on one"
      " alone, or unset TF_CONFIG"
    )


def _count_machines(hosts):
  """Returns the number of a job's machines: a list, or some by their number."""
  if not isinstance(hosts, (list, dict)):
    raise TypeError(f"{hosts!r:.80} is no list of machines")
  return len(hosts)


class Placement:
  """The CPU of this machine, or its GPU where there is one.

  Args:
    options: `options.DeviceOptions`.

  Attributes:
    use_tpu: what TPUEstimator is told.
    use_one_hot_embeddings: whether words are looked up by a product.
    needs_whole_batches: whether evaluation and prediction fill up the last one.
    steps_per_call: training steps that one call of the session takes.
    sees_every_step: whether hooks are called, with its tensors, in every step.
    shares_folders: whether this machine's folders can be read and written.
    replicas: copies of the model that share a training batch.
    reads_here: whether this process reads the examples.
  """

  use_tpu = False
  use_one_hot_embeddings = False
  steps_per_call = 1
  sees_every_step = True
  shares_folders = True
  replicas = 1
  reads_here = True

  def __init__(self, options=None):
    self.options = options or DeviceOptions()

  @property
  def needs_whole_batches(self):
    # One of another size would be compiled for itself.
    return self.options.use_xla

  @property
  def skip_padding(self):
    """Returns whether only real tokens are computed, in dynamic shapes."""
    return self.options.skip_padding and not self.options.use_xla

  @property
  def on_cpu(self):
    """Returns whether the CPU of this machine computes."""
    return not gpu.list_gpus()

  def on_host(self):
    """Returns a context whose operations are computed by the host's CPU.

    For what a GPU's host must know: it would wait for the GPU to send it.
    """
    return tf.device("/device:CPU:0")

  def show(self, number):
    """Returns a training step's number <float32>[] for the host to read.

    On a GPU it is 0 in steps whose numbers nobody looks at; see `gpu`.
    """
    if self.on_cpu or self.replicas > 1:
      return number
    return gpu.send_where_wanted(number)

  def count_evaluation_on_host(self):
    """Makes the counter of an evaluation's batches, which the host reads."""
    with self.on_host():
      evaluation._get_or_create_eval_step()

  def check_batches(self, sizes):
    """Raises a UserError where the device cannot take batches of some sizes.

    Args:
      sizes: {flag: examples}.
    """

  def check(self, paths, do_eval):
    """Raises a UserError where the device cannot do what is asked for.

    Args:
      paths: {flag: path or None}.
      do_eval: whether an evaluation is asked for.
    """
    del paths, do_eval
    gpu.warn_where_missing()

  def prepare_process(self):
    """Sets what holds for the whole process."""
    reuse_big_blocks()
    if self.options.deterministic:
      tf.compat.v2.config.experimental.enable_op_determinism()
    # The Estimator trains otherwise where it is set, even for one machine.
    os.environ.pop("TF_CONFIG", None)

  def batch_size(self, asked, is_given, tokens):
    """Returns how many examples evaluation or prediction computes at a time.

    Where no flag says it, the default of 2018 decides what `loss` is, and not
    how many are computed: a multiple of it, for few tokens at a time leave the
    processor waiting, and more than its cache holds make it wait as well.

    Args:
      asked: the flag's value.
      is_given: whether the user gave the flag.
      tokens: mean number of positions that an example computes.
    """
    if is_given:
      return asked
    examples = asked
    while examples < _MOST_EXAMPLES and 2 * examples * tokens <= _MOST_TOKENS:
      examples *= 2
    return examples

  def evaluation_steps(self, examples, batch_size):
    """Returns the steps of an evaluation, None for as many as there are."""
    if self.needs_whole_batches:
      return -(-examples // batch_size)
    return None

  def replica_id(self):
    """Returns <int32>[]: which of the copies of the model this is."""
    return tf.distribute.get_replica_context().replica_id_in_sync_group

  def reduce(self, gradients):
    """Returns the gradients as one device would have them."""
    return gradients

  def host_call(self, loss, rate, step, model_dir):
    """Returns what TPUEstimatorSpec takes to write summaries, or None."""
    del loss, rate, step, model_dir

  def run_config(self, output_dir, training):
    """Returns the RunConfig: where and how often is saved, on what is computed.

    Args:
      output_dir: folder of the checkpoints.
      training: `options.TrainingOptions`.
    """
    return tf.estimator.tpu.RunConfig(
      model_dir=output_dir,
      tf_random_seed=training.seed,
      save_checkpoints_steps=training.save_checkpoints_steps,
      keep_checkpoint_max=training.keep_checkpoint_max or None,
      session_config=session_config(
        self.options.num_threads, self.options.use_xla
      ),
      **self._run_config(training),
    )

  def _run_config(self, training):
    del training
    # ProgressHook reports, and writes, more than the Estimator would.
    return dict(
      master=self.options.master,
      device_fn=gpu.read_counter_on_host,
      log_step_count_steps=None,
      save_summary_steps=0,
    )

  def describe(self):
    """Returns a few words on the devices, for the log."""
    return describe(self.options.num_threads)

  def of_this_machine(self):
    """Returns the placement on this machine for batches of any size."""
    return Placement(dataclasses.replace(self.options, use_xla=False))


class TpuPlacement(Placement):
  """The cores of a TPU; see `Placement`.

  Static shapes, products with one-hot matrices, many steps a call.
  """

  use_tpu = True
  use_one_hot_embeddings = True
  needs_whole_batches = True
  sees_every_step = False
  shares_folders = False
  on_cpu = False
  skip_padding = False

  def __init__(self, options=None):
    super().__init__(options)
    self._cluster = None

  @property
  def replicas(self):
    return self.options.num_tpu_cores

  @property
  def steps_per_call(self):
    return self.options.iterations_per_loop

  def on_host(self):
    return contextlib.nullcontext()  # a TPU's host has no part in a step

  def show(self, number):
    return number

  def count_evaluation_on_host(self):
    pass  # it is there already

  def check_batches(self, sizes):
    cores = self.options.num_tpu_cores
    for name, size in sizes.items():
      if size % cores:
        raise UserError(
          f"--{name} is {size}, but must be a multiple of"
          f" --num_tpu_cores={cores}: every core takes as many examples"
        )

  def check(self, paths, do_eval):
    refuse_local_paths(self._name, paths)
    if do_eval:
      refuse_remote_evaluation(self._name)
    self._cluster = tpu_cluster(
      self._name, self.options.tpu_zone, self.options.gcp_project
    )

  @property
  def reads_here(self):
    return self._name == "local"

  @property
  def _name(self):
    return self.options.tpu_name or self.options.master

  def prepare_process(self):
    super().prepare_process()
    tf.get_logger().setLevel("INFO")  # only the Estimator can tell the loss

  def batch_size(self, asked, is_given, tokens):
    del is_given, tokens
    return asked

  def replica_id(self):
    # Loaded only for a TPU.
    from tensorflow.compiler.tf2xla.python import xla

    return xla.replica_id()

  def reduce(self, gradients):
    return optimization.mean_over_cores(gradients)

  def host_call(self, loss, rate, step, model_dir):
    """Returns a host_call that writes loss and rate for TensorBoard.

    Args:
      loss, rate: <float32>[].
      step: <int64>[].
      model_dir: where to write.
    """
    # Loaded only for a TPU.
    from tensorflow.python.ops import summary_ops_v2

    def write(loss, rate, step):
      """Runs on the host; each argument has a value for every core."""
      writer = summary_ops_v2.create_file_writer_v2(model_dir)
      with writer.as_default(), summary_ops_v2.record_if(True):
        summary_ops_v2.scalar("loss", tf.reduce_mean(loss), step=step[0])
        summary_ops_v2.scalar("learning_rate", rate[0], step=step[0])
        return tf.summary.all_v2_summary_ops()

    return write, [tf.reshape(value, [1]) for value in (loss, rate, step)]

  def _run_config(self, training):
    per_host_input = tf.estimator.tpu.InputPipelineConfig.PER_HOST_V2
    return dict(
      cluster=self._cluster,
      log_step_count_steps=training.log_steps,
      save_summary_steps=100,
      tpu_config=tf.estimator.tpu.TPUConfig(
        iterations_per_loop=self.options.iterations_per_loop,
        num_shards=self.options.num_tpu_cores,
        per_host_input_for_training=per_host_input,
      ),
    )

  def describe(self):
    return f"TPU {self._name}, {self.options.num_tpu_cores} cores"

  def of_this_machine(self):
    return Placement(self.options)


def make_placement(options):
  """Returns the placement that `options.DeviceOptions` ask for."""
  if options.use_xla:
    prepare_xla()
  return (TpuPlacement if options.use_tpu else Placement)(options)


# ---------------------------------------------------------------------------
# Threads, memory and names of this machine


_XLA_FLAGS, _XLA_FOR_CPU = "TF_XLA_FLAGS", "--tf_xla_cpu_global_jit"


def prepare_xla():
  """Lets sessions that ask for XLA have it on a CPU; says what to expect.

  TensorFlow reads the variable once, when it first looks for devices.
  """
  logging.info(
    "--use_xla: the first step takes about a minute longer, in which XLA"
    " compiles it; dropout draws other masks than without XLA"
  )
  flags = os.environ.get(_XLA_FLAGS, "")
  if _XLA_FOR_CPU not in flags:
    os.environ[_XLA_FLAGS] = f"{flags} {_XLA_FOR_CPU}".strip()


def session_config(num_threads, use_xla=False):
  """Returns the settings of a session.

  Args:
    num_threads: threads for and between operations; 0 for one a core.
    use_xla: whether XLA compiles what the session runs.
  """
  config = tf.ConfigProto(
    intra_op_parallelism_threads=num_threads,
    inter_op_parallelism_threads=num_threads,
    allow_soft_placement=True,
  )
  if use_xla:
    optimizer = config.graph_options.optimizer_options
    optimizer.global_jit_level = tf.OptimizerOptions.ON_2
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


def describe(num_threads):
  """Returns a few words on TensorFlow's devices and their memory."""
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
  """Returns the names of the GPUs, and their memory where it is known."""
  rows = query_nvidia_smi()
  # The tool names all of the machine's, of which fewer may be visible here.
  if len(rows) == len(gpus):
    return ", ".join(
      f"GPU:{i} ({name}, {free} of {total} of memory free at the start)"
      for i, (name, total, free) in enumerate(rows)
    )
  details = map(tf.config.experimental.get_device_details, gpus)
  names = [detail.get("device_name", "unnamed") for detail in details]
  return ", ".join(f"GPU:{i} ({name})" for i, name in enumerate(names))


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


def free_gpu_memory():
  """Returns the free bytes of the only GPU, None where unknown."""
  rows = query_nvidia_smi()
  free = re.fullmatch(r"(\d+) MiB", rows[0][-1]) if len(rows) == 1 else None
  return int(free[1]) << 20 if free else None


def threads(num_threads):
  """Returns how many threads compute: those asked for, or one a usable core."""
  return num_threads or len(_usable_cores())


def _usable_cores():
  if hasattr(os, "sched_getaffinity"):
    return os.sched_getaffinity(0)
  return range(os.cpu_count() or 1)


def free_memory():
  """Returns the bytes of memory that may still be used, None where unknown.

  It is the smaller of what the machine has left and what a container allows.
  """
  free = [free_in_machine(), free_in_container()]
  return min((amount for amount in free if amount is not None), default=None)


def total_memory():
  """Returns the bytes of memory that a process may ever use, None if unknown.

  It is the smaller of what the machine has and what a container allows.
  """
  try:
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  except (AttributeError, OSError, ValueError):
    machine = None
  amounts = [machine, limit_of_container()]
  return min((amount for amount in amounts if amount is not None), default=None)


def limit_of_container(group=CONTROL_GROUP):
  """Returns the bytes that a control group (version 2) allows, None for any.

  Args:
    group: pathlib.Path of its folder.
  """
  try:
    return int((group / "memory.max").read_text())
  except (OSError, ValueError):  # not in a group, or "max": no limit
    return None


def free_in_machine():
  """Returns the bytes that the system calls available, None where unknown."""
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


def free_in_container(group=CONTROL_GROUP):
  """Returns the bytes that a control group (version 2) leaves, None for any.

  Args:
    group: pathlib.Path of its folder.
  """
  try:
    limit, used = (
      int((group / name).read_text())
      for name in ("memory.max", "memory.current")
    )
    statistics = (group / "memory.stat").read_text()
  except (OSError, ValueError):  # not in a group, or "max": no limit
    return None
  # What was read of files is counted as used, but makes room for who needs it.
  cached = re.search(r"^inactive_file (\d+)$", statistics, re.MULTILINE)
  return max(0, limit - used + (int(cached[1]) if cached else 0))


# ---------------------------------------------------------------------------
# The TPU


def tpu_cluster(tpu_name, tpu_zone, gcp_project):
  """Returns the TPUClusterResolver of a TPU; "local" is this machine's.

  Raises:
    UserError: there is no such TPU.
  """
  try:
    cluster = tf.distribute.cluster_resolver.TPUClusterResolver(
      tpu=tpu_name, zone=tpu_zone, project=gcp_project
    )
    cluster.cluster_spec()  # asks Google Cloud where the TPU is
    if tpu_name == "local":
      _require_local_tpu(cluster)
  except (OSError, RuntimeError, ValueError, tf.errors.OpError) as error:
    raise UserError(
      f"there is no TPU {tpu_name!r}: {str(error).splitlines()[0]}. Check"
      " --tpu_name, --tpu_zone and --gcp_project, or leave out --use_tpu"
    ) from error
  return cluster


def _require_local_tpu(cluster):
  """Raises a RuntimeError where this machine has no TPU."""
  # Loaded only for a TPU.
  from tensorflow.python.tpu import tpu_system_metadata

  metadata = tpu_system_metadata._query_tpu_system_metadata(
    cluster.master(), cluster_def=None, query_topology=False
  )
  if not metadata.num_cores:
    raise RuntimeError("this machine has no TPU cores")


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
