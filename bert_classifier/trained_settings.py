"""Trained settings: what a trained folder says of flags that are not given."""

import os

from absl import logging

from bert_classifier import checkpoints, heads, output_dir, own_data
from bert_classifier.options import CUTTING, make_options


def find_output_dir(options):
  """Returns the options, output_dir filled in where nothing is written there.

  To answer or to export, the folder of --init_checkpoint is enough, which may
  be that of a training.

  Args:
    options: `options.Options`.
  """
  run, weights = options.run, options.model.init_checkpoint
  is_only_read = run.uses_head and not run.fills_folder
  if run.output_dir or not (is_only_read and weights):
    return options
  folder = os.path.dirname(checkpoints.open_checkpoint(weights).path) or "."
  return make_options(**{**options.given_values(), "output_dir": folder})


def read(options):
  """Returns the settings of the checkpoint in output_dir that is kept.

  Args:
    options: `run_options.RunOptions`.

  Returns:
    Dictionary by phase; {} where no checkpoint is there, or it is to be
    overwritten.

  Raises:
    UserError: its manifest is damaged.
  """
  found = output_dir.inspect(output_dir.trained_folder(options))
  if options.overwrite_output_dir or not found.checkpoint:
    return {}
  return found.settings


def fill_in(options, trained):
  """Returns the options, those not given as output_dir was trained with.

  Args:
    options: `options.Options`.
    trained: what `read` gives.
  """
  phases = {"model", "paths", "prediction", "data"}
  if options.run.do_train:
    phases.add("training")
  trained = own_data.forget_files(trained, options)
  options, found = options.fill_in(trained, phases)
  if found:
    logging.info(
      "flags that are not given are as in %s: %s",
      os.path.join(options.run.output_dir, output_dir.MANIFEST),
      " ".join(f"--{name}={value}" for name, value in found.items()),
    )
  return options


def fill_in_cutting(options):
  """Returns the options, texts cut as those that init_checkpoint learned from.

  Where --max_seq_length or --truncation is not given, and a manifest beside the
  weights has it.

  Args:
    options: `options.Options`.

  Raises:
    UserError: the weights cannot be opened, or their manifest is damaged.
  """
  named = options.model.init_checkpoint
  if not named or options.given.issuperset(CUTTING):
    return options
  manifest = heads.read_manifest(checkpoints.open_checkpoint(named))
  cutting = {name: manifest[name] for name in manifest if name in CUTTING}
  options, found = options.fill_in({"model": cutting}, {"model"})
  for name, value in found.items():
    logging.info("--%s=%s, with which %s was trained", name, value, named)
  return options
