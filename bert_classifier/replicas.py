"""Several devices that compute as one: GPUs of a machine, and machines.

By TensorFlow's own strategies: each device has a copy of the model and computes
its part of each batch, and the gradients are summed before they are clipped.
"""

import contextlib

import tensorflow.compat.v1 as tf
from tensorflow.python.framework import kernels

from bert_classifier import devices, process, workers
from bert_classifier.device_options import (
  ONE_GPU,
  ONE_PROCESS,
  name_devices,
)

_NCCL = "NcclAllReduce"  # the operation, which not every build has


class ReplicatedPlacement(devices.Placement):
  """Devices that each compute a part of the batch, as one; see `Placement`.

  Subclasses set `replicas` and make the `tf.distribute.Strategy`. Evaluation
  and prediction are those of one device.
  """

  def check_batches(self, sizes, is_training):
    division = sizes["train_batch_size"], self.replicas
    self.options.check_several(
      self._used(), self._ask_for_one, division if is_training else None
    )

  def replica_batch_size(self, examples):
    return examples // self.replicas

  def of_this_machine(self):
    return devices.Placement(self.options)

  def _run_config(self, training):
    # As in a program of TensorFlow 1, for an Estimator is one.
    with tf.Graph().as_default():
      strategy = self._make_strategy()
    return dict(super()._run_config(training), train_distribute=strategy)


class MirroredPlacement(ReplicatedPlacement):
  """Several devices of this machine; see `Placement`.

  Args:
    options: `device_options.DeviceOptions`.
    names: of the devices, such as "/gpu:0".
  """

  strategy = "MirroredStrategy"
  _ask_for_one = ONE_GPU

  def __init__(self, options, names):
    super().__init__(options)
    self._names, self.replicas = names, len(names)

  def _used(self):
    return " and ".join(name.strip("/").upper() for name in self._names)

  def _make_strategy(self):
    # Named, because TensorFlow's own choice takes all memory of the GPUs.
    reduction = tf.distribute.ReductionToOneDevice()
    if not self.on_cpu and kernels.get_registered_kernels_for_op(_NCCL).kernel:
      reduction = tf.distribute.NcclAllReduce()
    return tf.distribute.MirroredStrategy(self._names, reduction)

  def session_config(self):
    config = super().session_config()
    if self.on_cpu:  # else all replicas are on the first, and wait for ever
      config.device_count["CPU"] = self.replicas
    return config


class WorkersPlacement(ReplicatedPlacement):
  """One of several processes that each compute a part; see `Placement`.

  Args:
    options: `device_options.DeviceOptions`.
    cluster: `clusters.Cluster`.
    gpus: number of GPUs that each process computes on; 0 for its CPU.
  """

  strategy = "MultiWorkerMirroredStrategy"
  _ask_for_one = ONE_PROCESS

  def __init__(self, options, cluster, gpus):
    super().__init__(options)
    self._cluster, self._gpus, self._team = cluster, gpus, None
    self.replicas = cluster.size * max(1, gpus)
    self.is_chief = cluster.is_chief
    self.processes_here = cluster.count_on_host()

  def _used(self):
    return name_devices(self._cluster.size, self._gpus)

  def prepare_process(self):
    super().prepare_process()
    # The Estimator copies its strategy, which this one allows only so.
    tf.disable_eager_execution()

  def join(self):
    self._team = workers.Team(
      self._cluster, self.session_config(), self.options.worker_timeout
    )
    process.skip_cleanup()

  @contextlib.contextmanager
  def together(self):
    try:
      yield
    except tf.errors.OpError:
      self._team.end_without_others()
      raise
    self.share(None)  # after the chief's evaluation and prediction
    self._team.part()

  @contextlib.contextmanager
  def chief_first(self):
    if not self.is_chief:
      self.share(None)
    yield
    if self.is_chief:
      self.share(None)

  def share(self, value):
    return self._team.share(value)

  def _make_strategy(self):
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
      tf.train.ClusterSpec({workers.JOB: list(self._cluster.addresses)}),
      task_type=workers.JOB,
      task_id=self._cluster.index,
      num_accelerators={"GPU": self._gpus},
      rpc_layer="grpc",
    )
    ways = tf.distribute.experimental.CollectiveCommunication
    return tf.distribute.experimental.MultiWorkerMirroredStrategy(
      ways.NCCL if self._gpus else ways.RING, resolver
    )

  def session_config(self):
    with tf.Graph().as_default():
      return self._make_strategy().update_config_proto(super().session_config())

  def _run_config(self, training):
    config = dict(super()._run_config(training), master=self._team.target)
    if not self.is_chief:
      config.update(save_checkpoints_steps=None)
    return config
