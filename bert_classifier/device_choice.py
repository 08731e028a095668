"""The choice of a placement from flags, TF_CONFIG and the GPUs there are."""

from absl import logging

from bert_classifier import (
  devices,
  flag_checks,
  gpu,
  plain_texts,
  precision,
  replicas,
)
from bert_classifier.errors import UserError


def check_request(options, cluster):
  """Makes sure that the devices can read and do what is asked for.

  Args:
    options: `options.Options`, before output_dir has been looked at.
    cluster: `clusters.Cluster`, or None.

  Raises:
    UserError: they cannot.
  """
  device = options.device
  flag_checks.check_devices(options, cluster)
  if device.use_xla:  # before TensorFlow looks for devices
    devices.prepare_xla()
  make_placement(device, cluster).check()


def prepare_placement(options, cluster):
  """Returns the placement, held against the batches.

  Args:
    options: `options.Options`.
    cluster: `clusters.Cluster`, or None.

  Raises:
    UserError: the batches cannot be computed so.
  """
  batch_size = part = None
  if options.run.do_train:
    batch_size = options.training.train_batch_size
    part = batch_size // options.step.gradient_accumulation_steps
  placement = make_placement(options.device, cluster, part)
  check_batches(options, placement)
  precision.warn_where_slower(options.step.precision, placement)
  unit = options.model.unit
  logging.info("%s", placement.report(batch_size, options.step.precision, unit))
  return placement


def check_batches(options, placement):
  """Makes sure that a placement can compute the batches.

  Args:
    options: `options.Options`.
    placement: see `devices`.

  Raises:
    UserError: it cannot.
  """
  trains = options.run.do_train
  placement.check_batches(flag_checks.list_batch_sizes(options), trains)
  if trains:
    options.step.check_division(
      options.training.train_batch_size, placement.replicas
    )


def make_placement(options, cluster=None, batch_size=None):
  """Returns the placement that the options ask for.

  Args:
    options: `device_options.DeviceOptions`.
    cluster: `clusters.Cluster`; None for this machine alone.
    batch_size: examples that are divided among devices; None for one device.

  Raises:
    UserError: options do not go with each other, or with the GPUs there are.
  """
  if options.use_tpu:
    return devices.TpuPlacement(options)
  if cluster is not None:
    part = batch_size and batch_size // cluster.size
    return replicas.WorkersPlacement(
      options, cluster, count_gpus(options, part)
    )
  gpus = count_gpus(options, batch_size)
  if gpus > 1:
    return replicas.MirroredPlacement(
      options, [f"/gpu:{i}" for i in range(gpus)]
    )
  return devices.Placement(options)


def count_gpus(options, batch_size=None):
  """Returns how many GPUs of this machine compute.

  Args:
    options: `device_options.DeviceOptions`. Where they do not say it, it is the
      most of those there are that can divide a batch.
    batch_size: as of `make_placement`.

  Raises:
    UserError: there are fewer than are asked for.
  """
  asked, seen = options.num_gpus, len(gpu.list_gpus())
  if asked is not None and asked > seen:
    if not seen:
      raise UserError(f"--num_gpus is {asked}, but {gpu.explain_missing()}")
    raise UserError(
      f"--num_gpus is {asked}, but TensorFlow sees"
      f" {plain_texts.count(seen, 'GPU')} of this machine"
    )
  if batch_size is None:
    return min(1, seen if asked is None else asked)
  if asked is not None:
    return asked
  return max((n for n in range(1, seen + 1) if batch_size % n == 0), default=0)
