"""What flags can have wrong by themselves, found before TensorFlow's import.

The order of these checks; those of a group of flags stand with it. What a
trained folder, the task or the devices decide is checked later, by
`preparation`, which looks at these flags again for who calls it from Python.
"""

import os

from bert_classifier import clusters, sweep
from bert_classifier.device_options import (
  ONE_GPU,
  ONE_PROCESS,
  name_devices,
)
from bert_classifier.errors import UserError


def check(options):
  """Checks the flags of a command line.

  Args:
    options: `options.Options`.

  Raises:
    UserError: flags do not go with each other, or with TF_CONFIG.
  """
  text = os.environ.get(clusters.VARIABLE)
  if clusters.is_evaluator(text):
    return  # which does nothing
  cluster = clusters.read(text)
  check_run_options(options)
  check_devices(options, cluster)
  check_selection(options, sees_every_step=not options.device.use_tpu)
  sweep.plan_runs(options)  # raises where there is a mistake in it
  check_division(options, cluster)


def check_run_options(options):
  """Checks that what is asked for is complete, and something.

  Args:
    options: `options.Options`.

  Raises:
    UserError: a flag is needed, or does not go with another.
  """
  run = options.run
  if not (run.fills_folder or run.uses_head):
    raise UserError(
      "there is nothing to do: give at least one of --do_train, --do_eval,"
      " --do_predict, --do_export, --export_hf, --export_onnx, --do_embed,"
      " --predict_text, --predict_file"
    )
  for needing, needed in (
    ("dry_run_file", "dry_run"),
    ("predict_text_b", "predict_text"),
  ):
    is_given = getattr(run, needing) is not None
    if is_given and getattr(run, needed) in (None, False):
      raise UserError(f"--{needing} is nothing without --{needed}: give both")
  # To answer or to export, the folder of the weights is enough.
  has_folder = options.model.init_checkpoint and not run.fills_folder
  if not (run.output_dir or has_folder):
    raise UserError(
      "--output_dir is needed: the folder for checkpoints, results and"
      " predictions; to answer texts or to export, that of a training, or"
      " --init_checkpoint=TRAINED_CLASSIFIER"
    )
  if run.overwrite_output_dir and (run.resume or not run.do_train):
    raise UserError(
      "--overwrite_output_dir trains from the start: it needs --do_train and"
      " goes against --resume"
    )


def check_selection(options, sees_every_step):
  """Checks that a training can evaluate on the way as flags ask for.

  Args:
    options: `options.Options`.
    sees_every_step: see `devices.Placement`.

  Raises:
    UserError: a flag is needed, or does not go with another.
  """
  training, run = options.training, options.run
  every, patience = training.eval_every_steps, training.early_stopping_patience
  if not run.do_train:
    return
  if patience and not every:
    raise UserError(
      f"--early_stopping_patience={patience} counts the evaluations of"
      " --eval_every_steps=N: give it, and --do_eval, too"
    )
  if not every:
    return
  if not run.do_eval:
    raise UserError(
      f"--eval_every_steps={every} evaluates the dev set: add --do_eval, or"
      " leave it out"
    )
  saved = training.save_checkpoints_steps
  if "save_checkpoints_steps" in options.given and saved != every:
    raise UserError(
      f"--save_checkpoints_steps={saved} goes against"
      f" --eval_every_steps={every}: what is evaluated is a checkpoint, and"
      " each one is evaluated. Leave out --save_checkpoints_steps"
    )
  if not sees_every_step:
    raise UserError(
      f"--eval_every_steps={every} is not possible on a TPU, which leaves the"
      " training's session to this process only at its end: leave it out"
    )


def check_devices(options, cluster):
  """Checks that the flags of devices and steps name one way to compute.

  Args:
    options: `options.Options`.
    cluster: `clusters.Cluster`, or None.

  Raises:
    UserError: they do not.
  """
  device, run = options.device, options.run
  options.step.check_device(device)
  if cluster and device.num_workers > 1 and run.do_train:
    raise UserError(
      f"--num_workers={device.num_workers} starts processes on this machine"
      f" alone, but the environment variable {clusters.VARIABLE} names several:"
      " leave one out"
    )
  if device.pack_sequences:
    check_packing(run, options.training)
  if device.use_xla and device.skip_padding and "skip_padding" in options.given:
    raise UserError(
      "--skip_padding makes batches of many shapes, each of which XLA would"
      " compile anew: leave out --skip_padding or --use_xla"
    )
  if device.use_tpu:
    device.check_tpu(
      clusters.VARIABLE if cluster else None,
      paths={
        "output_dir": run.output_dir,
        "cache_dir": options.data.cache_dir,
        "init_checkpoint": options.model.init_checkpoint,
      },
      do_eval=run.do_eval,
    )


def check_packing(run, training):
  """Checks that there are batches whose examples are known beforehand.

  Args:
    run: `run_options.RunOptions`.
    training: `options.TrainingOptions`.

  Raises:
    UserError: there are not.
  """
  if not run.do_train:
    raise UserError(
      "--pack_sequences packs batches of training: add --do_train, or leave it"
      " out"
    )
  if training.shuffle_buffer_size:
    raise UserError(
      "--pack_sequences must know which examples come together, but"
      f" --shuffle_buffer_size={training.shuffle_buffer_size} draws each when"
      " it is needed: leave one out"
    )


def check_division(options, cluster):
  """Checks that the devices that flags name can divide the batches.

  Args:
    options, cluster: as of `check_devices`.

  Raises:
    UserError: they cannot.
  """
  device, trains = options.device, options.run.do_train
  sizes = list_batch_sizes(options)
  if trains and not _knows_batch(options):
    del sizes["train_batch_size"]
  size = sizes.get("train_batch_size")
  workers = cluster.size if cluster else device.num_workers
  replicas = workers * max(1, device.num_gpus or 1)
  if device.use_tpu:
    device.check_tpu_batches(sizes)
    replicas = device.num_tpu_cores
  elif trains and replicas > 1:
    device.check_several(
      name_devices(workers, device.num_gpus),
      ONE_PROCESS if workers > 1 else ONE_GPU,
      size and (size, replicas),
    )
  if trains and size:
    options.step.check_division(size, replicas)


def list_batch_sizes(options):
  """Returns {flag: examples} of the batches.

  Args:
    options: `options.Options`.
  """
  return {
    "train_batch_size": options.training.train_batch_size,
    "eval_batch_size": options.inference.eval_batch_size,
    "predict_batch_size": options.inference.predict_batch_size,
  }


def _knows_batch(options):
  """Returns whether flags say train_batch_size, and no trained folder does."""
  run = options.run
  folder = run.output_dir or ""
  return options.several.sweep is None and (
    "train_batch_size" in options.given
    or run.overwrite_output_dir
    or not ("://" in folder or os.path.exists(folder))
  )
