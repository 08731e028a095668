"""What a run computes on: one placement for each kind of device.

Here are those of one CPU or GPU and of a TPU; `replicas` has those of several
devices, and `device_choice` makes one from the flags. A placement knows the
batch sizes, the session's and the run's configuration, which copy of the model
this is, how gradients become those of one device, static or dynamic shapes,
paths that can be read, which process writes, and its own words for the log. No
other module asks which it is.
"""

import contextlib
import dataclasses
import os

from absl import logging
import tensorflow.compat.v1 as tf
from tensorflow.python.training import evaluation

from bert_classifier import gpu, machine, plain_texts
from bert_classifier.errors import UserError
from bert_classifier.options import DeviceOptions
import estimator_bridge  # noqa: F401 - tf.estimator
import optimization

_GIBIBYTE = 1 << 30

# Examples, and tokens, that are computed at a time where no flag says it. The
# 6-layer model on two cores, its time for an example in batches of 16, 64 and
# 128 divided by that in batches of 32: CoLA (11 tokens) 1.11, 0.91 and 0.91,
# MNLI (40 tokens) 1.08, 1.14 and 1.11, MRPC (54 tokens) 1.05, 1.21 and 1.08.
_MOST_EXAMPLES, _MOST_TOKENS = 64, 2048


class Placement:
  """The CPU of this machine, or its GPU where there is one.

  Args:
    options: `device_options.DeviceOptions`.

  Attributes:
    use_tpu: what TPUEstimator is told.
    use_one_hot_embeddings: whether words are looked up by a product.
    needs_whole_batches: whether evaluation and prediction fill up the last one.
    steps_per_call: training steps that one call of the session takes.
    sees_every_step: whether hooks are called, with its tensors, in every step.
    shares_folders: whether this machine's folders can be read and written.
    is_chief: whether this process writes checkpoints, results and the log.
    replicas: copies of the model that compute a training step together.
    processes_here: of the run, on this machine.
    strategy: what makes them one, for the log; None for one alone.
    device: words for the one that computes, where it is not the CPU.
    reads_here: whether this process reads the examples.
  """

  use_tpu = False
  use_one_hot_embeddings = False
  steps_per_call = 1
  sees_every_step = True
  shares_folders = True
  is_chief = True
  replicas = 1
  processes_here = 1
  reads_here = True
  strategy = None
  device = "the GPU"

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
    return self.options.num_gpus == 0 or not gpu.list_gpus()

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

  def check_batches(self, sizes, is_training):
    """Raises a UserError where the device cannot take batches of some sizes.

    Args:
      sizes: {flag: examples}.
      is_training: whether there are training steps.
    """

  def check(self):
    """Warns where a GPU was to be expected and is not seen."""
    if self.options.num_gpus != 0:
      gpu.warn_where_missing()

  def prepare_process(self):
    """Sets what holds for the whole process."""
    machine.reuse_big_blocks()
    gpu.choose_for_process(
      self.options.num_gpus, self.options.gpu_memory_growth
    )
    if self.options.deterministic:
      tf.compat.v2.config.experimental.enable_op_determinism()
    # The Estimator trains otherwise where it is set, even for one machine.
    os.environ.pop("TF_CONFIG", None)

  def join(self):
    """Joins the other processes, or the TPU, that compute the run.

    Raises:
      UserError: they are not there.
    """

  @contextlib.contextmanager
  def together(self):
    """Computes a block with the other processes, and waits for their ends."""
    yield

  @contextlib.contextmanager
  def chief_first(self):
    """Lets the other processes do a block after the chief has done it."""
    yield

  def share(self, value):
    """Waits for all processes of the run; returns the chief's value on each.

    Args:
      value: what JSON can hold.
    """
    return value

  def replica_batch_size(self, examples):
    """Returns how many of a step's examples TPUEstimator gives a replica."""
    return examples

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
    return optimization.sum_over_replicas(gradients)

  def mean(self, value):
    """Returns the mean of a scalar over the replicas, where hooks see it."""
    replicas = tf.distribute.get_replica_context().num_replicas_in_sync
    if replicas == 1:
      return value
    (total,) = optimization.sum_over_replicas([value / replicas])
    return total

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
      **{
        **dict(
          model_dir=output_dir,
          tf_random_seed=training.seed,
          save_checkpoints_steps=training.save_checkpoints_steps,
          keep_checkpoint_max=training.keep_checkpoint_max or None,
          session_config=self.session_config(),
        ),
        **self._run_config(training),
      }
    )

  def session_config(self):
    """Returns the `tf.ConfigProto` of the sessions."""
    return session_config(self.options)

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
    return describe(self.options)

  def report(self, batch_size, precision, unit="example"):
    """Returns a line on what was found, what is used, and for how much.

    Args:
      batch_size: examples of a training step; None where nothing is trained.
      precision: as of `step_options.StepOptions`.
      unit: what a batch is of.
    """
    by = f" by {self.strategy}" if self.strategy else ""
    line = f"found {self._found()}; using {self._used()}{by}, {precision}"
    if batch_size is None:
      return line
    line += f"; {plain_texts.count(batch_size, unit)} a training step"
    if self.replicas == 1:
      return line
    return f"{line}, {batch_size // self.replicas} on each device"

  def _found(self):
    no_gpu = "" if gpu.list_gpus() else ", no GPU"
    return (
      describe(DeviceOptions(num_threads=self.options.num_threads)) + no_gpu
    )

  def _used(self):
    return "the CPU" if self.on_cpu else "GPU:0"

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
  strategy = "TPUEstimator"
  device = "a core of the TPU"

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

  def check_batches(self, sizes, is_training):
    del is_training  # TPUEstimator wants all of them in any case
    self.options.check_tpu_batches(sizes)

  def check(self):
    pass  # `flag_checks` does, by the flags alone

  def join(self):
    self._cluster = tpu_cluster(
      self.options.tpu, self.options.tpu_zone, self.options.gcp_project
    )

  @property
  def reads_here(self):
    return self.options.tpu == "local"

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

  def mean(self, value):
    return value  # which nobody sees

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
    return f"TPU {self.options.tpu}, {self.options.num_tpu_cores} cores"

  def _found(self):
    return f"TPU {self.options.tpu}"

  def _used(self):
    return f"{self.options.num_tpu_cores} cores"

  def of_this_machine(self):
    return Placement(self.options)


# ---------------------------------------------------------------------------
# Sessions, and the words for their devices


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


def session_config(options):
  """Returns the `tf.ConfigProto` of a session on this machine.

  Args:
    options: `device_options.DeviceOptions`.
  """
  threads = machine.count_threads(options.num_threads)
  config = tf.ConfigProto(
    intra_op_parallelism_threads=threads,
    inter_op_parallelism_threads=threads,
    allow_soft_placement=True,
  )
  if options.use_xla:
    optimizer = config.graph_options.optimizer_options
    optimizer.global_jit_level = tf.OptimizerOptions.ON_2
  config.gpu_options.allow_growth = options.gpu_memory_growth
  if options.num_gpus == 0:
    config.device_count["GPU"] = 0
  elif options.num_gpus is not None:  # leave the rest to other programs
    visible = map(str, range(options.num_gpus))
    config.gpu_options.visible_device_list = ",".join(visible)
  return config


def describe(options):
  """Returns a few words on TensorFlow's devices and their memory.

  Args:
    options: `device_options.DeviceOptions`.
  """
  gpus = gpu.list_gpus()
  if gpus and options.num_gpus != 0:
    return _describe_gpus(gpus)
  count = machine.count_threads(options.num_threads)
  words = f"CPU, {count} thread{'s' * (count != 1)}"
  free = machine.find_free_memory()
  return words + (
    f", {free / _GIBIBYTE:.1f} GiB of memory free" if free else ""
  )


def _describe_gpus(gpus):
  """Returns the names of the GPUs, and their memory where it is known."""
  rows = machine.query_nvidia_smi()
  # The tool names all of the machine's, of which fewer may be visible here.
  if len(rows) == len(gpus):
    return ", ".join(
      f"GPU:{i} ({name}, {free} of {total} of memory free at the start)"
      for i, (name, total, free) in enumerate(rows)
    )
  details = map(tf.config.experimental.get_device_details, gpus)
  names = [detail.get("device_name", "unnamed") for detail in details]
  return ", ".join(f"GPU:{i} ({name})" for i, name in enumerate(names))


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
