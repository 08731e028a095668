"""Preparation: from flags to a run that can only fail for want of resources.

`prepare` and `check` hold the order in which everything is checked: flags,
device, task, model, output_dir, weights and every example of the data, before
anything is computed or written. `convert` makes the features. What a user can
have got wrong is a UserError that says what to do.
"""

import json
import os
from typing import NamedTuple, Optional

from absl import logging
import tensorflow.compat.v1 as tf

from bert_classifier import (
  calibration,
  checkpoints,
  choices,
  class_weights,
  clusters,
  device_choice,
  devices,
  flag_checks,
  hugging_face_export,
  inspection,
  interactive,
  model_files,
  onnx_export,
  output_dir,
  own_data,
  packing,
  plain_texts,
  progress,
  report,
  run_settings,
  selection,
  sweep,
  trained_settings,
  windows,
)
from bert_classifier.catalogue import PROCESSORS
from bert_classifier.errors import UserError
from bert_classifier.feature_cache import FeatureCache, prepare_cache
from bert_classifier.options import (
  Options,
  all_flags,
  recorded_place,
)
from bert_classifier.schedule import (
  Schedule,
  announce_rate,
  find_epochs_needed,
  make_schedule,
)
from bert_classifier.task_choice import Task, check_task_flags, prepare_task

_CHECKPOINT = "newest checkpoint"  # one of the things machines agree on


class Run(NamedTuple):
  """All that a run needs, checked and ready.

  Attributes:
    options: `options.Options`.
    placement: see `devices`.
    task: `task_choice.Task`.
    model: `model_files.Model`.
    found: `output_dir.OutputDir`, as it was before, or will be once it has been
      overwritten.
    settings: see `run_settings.make_settings`.
    weights: `model_files.Weights`.
    schedule: `Schedule`, or None where nothing is trained.
    counts: dictionary from split to its number of examples.
    cache: `feature_cache.FeatureCache`, for the texts behind the features;
      None where no split is asked for.
    features: dictionary from split to `feature_cache.Features`; empty before
      they are made.
    eval_batch_size, predict_batch_size: examples computed at a time.
    choices: `choices.Choices` of the training.
    packed: `packing.Packing`; None where training does not pack.
    record: `selection.Record` of the training's evaluations so far; None where
      nothing is trained.
  """

  options: Options
  placement: devices.Placement
  task: Task
  model: model_files.Model
  found: output_dir.OutputDir
  settings: dict
  weights: model_files.Weights
  schedule: Optional[Schedule]
  counts: dict
  cache: Optional[FeatureCache]
  features: dict
  eval_batch_size: int
  predict_batch_size: int
  choices: choices.Choices
  packed: Optional[packing.Packing] = None
  record: Optional[selection.Record] = None

  @property
  def first_step(self):
    """Returns the step that training resumes from."""
    return self.found.step

  @property
  def is_finished(self):
    """Returns whether output_dir has all the steps that are asked for."""
    has_all = self.first_step >= self.schedule.steps or self.ended_early
    return bool(self.found.checkpoint and has_all)

  @property
  def ended_early(self):
    """Returns whether evaluations ended training before its last step."""
    patience = self.options.training.early_stopping_patience
    is_before = self.first_step < self.schedule.steps
    return is_before and self.record.is_over(patience)

  def splits(self, kind):
    """Returns those of a kind, "dev" or "test", that are to be computed."""
    return [split for split in self.counts if split.startswith(kind)]

  def count(self, *splits):
    """Returns how many examples the splits have together."""
    return sum(self.counts[split] for split in splits)

  def count_records(self, *splits):
    """Returns how many records the splits have: with windows, one for each."""
    return sum(self.features[split].records for split in splits)

  def describe_count(self, *splits):
    """Returns "3 examples", with --stride "3 examples in 7 windows"."""
    examples = plain_texts.count(self.count(*splits))
    if not self.options.model.stride:
      return examples
    records = self.count_records(*splits)
    return f"{examples} in {plain_texts.count(records, 'window')}"

  def batch_size(self, split):
    """Returns how many records of a split a step computes."""
    if split == "train":
      return self.options.training.train_batch_size
    is_dev = split.startswith("dev")
    return self.eval_batch_size if is_dev else self.predict_batch_size

  def with_features(self, features):
    """Returns the run with the features of its splits.

    Args:
      features: dictionary from split to `feature_cache.Features`.
    """
    return self._replace(
      features=features,
      counts={split: features[split].examples for split in features},
      eval_batch_size=choose_batch_size(
        "eval_batch_size", self.options, self.placement, features, "dev"
      ),
      predict_batch_size=choose_batch_size(
        "predict_batch_size", self.options, self.placement, features, "test"
      ),
    )


def prepare(options):
  """Returns the `Run` that the flags ask for, with its features.

  Args:
    options: `options.Options`.

  Raises:
    UserError: all that a user can have got wrong.
    OSError: a file cannot be read or written.
  """
  cluster = clusters.read(os.environ.get(clusters.VARIABLE))
  if cluster is not None:
    leave_log_to_chief(cluster, options.run)
  options = trained_settings.find_output_dir(options)
  flag_checks.check_run_options(options)
  check_there_is_a_model(options.run, options.model)
  selection.check_best(options.run)
  if options.run.fills_folder:
    output_dir.check_place(options.run.output_dir)
  if options.run.reads_data and options.data.cache_dir:
    output_dir.check_place(
      options.data.cache_dir, "cache_dir", is_read_only=True
    )
  device_choice.check_request(options, cluster)
  trained = trained_settings.read(options.run)
  options = trained_settings.fill_in(options, trained)
  options = trained_settings.fill_in_cutting(options)
  placement = device_choice.prepare_placement(options, cluster)
  options = selection.check_request(options, placement)
  placement.join()
  with placement.chief_first():
    run = check(options, trained, placement)
    if not run.options.run.dry_run:
      run.weights.log()
    if run.options.run.writes:
      run = convert(run)
  return agree_with_chief(run)


def check(options, trained, placement):
  """Returns the `Run` that the flags ask for, before features are made.

  Writes nothing.

  Args:
    options: `options.Options`, which go with each other.
    trained: what `trained_settings.read` gives.
    placement: see `devices`.

  Raises:
    UserError, OSError: as `prepare`.
  """
  task = choose_task(options, trained)
  model = model_files.open_model(
    options.model,
    output_dir.trained_folder(options.run),
    task,
    given=options.given,
    trained=trained.get("model"),
    is_training=options.run.do_train,
    frozen=options.choice.freeze_layers,
  )
  splits = choose_splits(options.run, task.data)
  cache = prepare_cache(options, placement, task, model) if splits else None
  return make_run(options, placement, task, model, cache)


def make_run(options, placement, task, model, cache):
  """Returns the `Run` of what is open already, before features are made.

  Writes nothing.

  Args:
    options: `options.Options`.
    placement: see `devices`.
    task, model, cache: as of `Run`.

  Raises:
    UserError, OSError: as `prepare`.
  """
  splits = choose_splits(options.run, task.data)
  settings = run_settings.make_settings(options, task, model)
  found = check_output_dir(options, model, settings, cache)
  weights = model_files.check_weights(options, model, found)
  if options.run.do_train:
    weights = choices.apply_to_weights(options.choice, weights, model, found)
  # Looks at every example of every file before anything is written.
  counts = {split: cache.count(split) for split in splits}
  schedule = record = windows_per_text = None
  if options.run.do_train:
    record = selection.read(found.path, task.headline, found.step)
    records = cache.count_records("train")
    if options.model.stride:
      windows_per_text = records / counts["train"]
    schedule = make_schedule(
      options.training,
      options.model.max_seq_length,
      records,
      found,
      options.choice.lr_schedule,
      placement.reads_here,
      options.model.unit,
    )
    settings.update(
      run_settings.describe_training(options.data, task, schedule)
    )
    if options.device.pack_sequences:
      packing.check_schedule(schedule)
    announce_rate(options.training, found, schedule)
  run = Run(
    options=options,
    placement=placement,
    task=task,
    model=model,
    found=found,
    settings=settings,
    weights=weights,
    schedule=schedule,
    counts=counts,
    cache=cache,
    features={},
    eval_batch_size=options.inference.eval_batch_size,
    predict_batch_size=options.inference.predict_batch_size,
    choices=choices.make_choices(options, task, windows_per_text),
    record=record,
  )
  return calibration.apply(run)


def convert(run):
  """Returns the run with its features, which are made if need be.

  Args:
    run: `Run`.

  Raises:
    UserError: a file changed since it was checked.
  """
  tf.io.gfile.makedirs(run.options.run.output_dir)
  features = {split: run.cache.features(split) for split in run.counts}
  trains = run.schedule and not run.is_finished
  if trains and run.schedule.buffer_size is None:
    features["train"] = run.cache.indexed("train")
  if trains and run.options.device.pack_sequences:
    run = run._replace(packed=packing.plan(run))
  return run.with_features(features)


def agree_with_chief(run):
  """Returns the run in the order of the chief, on each of several machines.

  Raises:
    UserError: this machine has another command, other software or GPUs, or
      sees another folder or other data.
  """
  seen = json.loads(json.dumps(list_agreed(run)))  # as it is told
  buffer_size = run.schedule and run.schedule.buffer_size
  told, buffer_size = run.placement.share([seen, buffer_size])
  for name in {**told, **seen}:  # another version may lack some, or have more
    value, own = told.get(name), seen.get(name)
    if name == _CHECKPOINT and value != own:
      raise UserError(
        f"the newest checkpoint of {run.found.path} is of step {own} as"
        f" this machine sees it, and of step {value} as the chief does: another"
        " command is training there, whose end is to be waited for; or it is"
        " not one folder that all machines share"
      )
    if value != own:
      here, there = map(output_dir.shorten, (own, value))
      raise UserError(
        f"{name}: {here} on this machine, {there} on the chief: all machines"
        " need the same program, command, TensorFlow, GPUs, data and"
        f" --output_dir={run.options.run.output_dir}, a folder that they share"
      )
  if run.schedule is None:
    return run
  return run._replace(schedule=run.schedule._replace(buffer_size=buffer_size))


def list_agreed(run):
  """Returns {name: value} of what several machines need alike to train as one.

  Flags but paths, which may differ, what the files there hold, and what else
  decides the steps.
  """
  settings = run.settings["model"], run.settings.get("training", {})
  flags = run.options.shared_values()
  return {
    # First, for flags that are not given are those of what is found there.
    _CHECKPOINT: run.found.step,
    **{f"--{name}": value for name, value in flags.items()},
    "TensorFlow": tf.version.VERSION,
    "devices of all machines": run.placement.replicas,
    "examples": run.counts,
    "steps": run.schedule and run.schedule.steps,
    "end": bool(run.schedule and run.ended_early),
    **{
      name: value
      for phase in settings
      for name, value in phase.items()
      if name not in {output_dir.WEIGHTS, *flags}
    },
  }


# ---------------------------------------------------------------------------
# Flags, device, task, splits


def leave_log_to_chief(cluster, options):
  """Leaves the log to the chief where this process is another.

  Args:
    cluster: `clusters.Cluster`.
    options: `run_options.RunOptions`.

  Raises:
    UserError: something else than a run is asked for.
  """
  if options.dry_run:
    raise UserError(
      "--dry_run describes a run of one machine: unset the environment variable"
      f" {clusters.VARIABLE}, which names {cluster.size}"
    )
  if not cluster.is_chief:
    name = f"worker {cluster.index}"
    logging.info(
      "%s: computes for %s, which writes the log", name, cluster.name(0)
    )
    progress.log_errors_only(name)


def check_there_is_a_model(run, model):
  """Makes sure that what is not trained may have been trained before.

  Args:
    run: `run_options.RunOptions`.
    model: `options.ModelOptions`.

  Raises:
    UserError: output_dir is not there or holds several runs, and no other
      weights are given.
  """
  folder = run.output_dir
  if run.do_train or model.init_checkpoint:
    return
  table = output_dir.runs_path(folder)
  if tf.io.gfile.exists(table) and not checkpoints.read_state(folder):
    raise UserError(
      f"--output_dir={folder} holds several runs: give the folder of one of"
      f" them, below {os.path.join(folder, sweep.FOLDER)}; {table} lists them"
    )
  if not tf.io.gfile.exists(folder):
    raise UserError(
      f"there are no trained weights: --output_dir={folder} is not there, and"
      " --init_checkpoint is not given. Give the folder of a training, or"
      " train with --do_train"
    )


def choose_task(options, trained):
  """Returns the `Task` that the flags name, held against the other flags.

  Args:
    options: `options.Options`.
    trained: what `trained_settings.read` gives.

  Raises:
    UserError: a flag is needed, or does not go with the task.
  """
  own = None
  if own_data.names_own_data(options.data, PROCESSORS):
    own = own_data.make_processor(options, trained)
  check_task_flags(
    options.data,
    is_own_data=own is not None,
    reads_data=options.run.reads_data,
  )
  task = prepare_task(
    options.data,
    options.model.max_seq_length,
    options.given,
    inference=options.inference,
    trained=trained.get("model"),
    own=own,
    max_train_examples=options.choice.max_train_examples,
  )
  if options.run.do_train:
    check_choices(options.choice, task)
  if options.inference.glue_submission and not options.run.do_predict:
    raise UserError(
      "--glue_submission is made of the predictions of the test set: add"
      " --do_predict, or leave it out"
    )
  report.check_request(options)
  windows.check_request(options.model, task)
  calibration.check_request(options.inference, options.run, task)
  interactive.check_request(options.run, task)
  hugging_face_export.check_request(options.run)
  onnx_export.check_request(options.run)
  inspection.check_request(options.run)
  return task


def check_choices(options, task):
  """Checks that training choices suit what is predicted.

  Args:
    options: `options.ChoiceOptions`.
    task: `Task`.

  Raises:
    UserError: they do not.
  """
  options.check_target(task.target.has_classes, task.name)
  if options.class_weights:
    class_weights.parse(options.class_weights, task.target.labels)


def choose_splits(options, data):
  """Returns the splits that `run_options.RunOptions` ask for.

  Second evaluation sets are among them where their files are there.
  """
  splits = [
    split
    for asked, split in (
      (options.do_train, "train"),
      (options.do_eval, "dev"),
      (options.do_predict or options.do_embed, "test"),
    )
    if asked
  ]
  second = [f"{split}_mismatched" for split in splits]
  return splits + [split for split in second if data.has_split(split)]


def choose_batch_size(flag, options, placement, features, kind):
  """Returns how many examples evaluation or prediction computes at a time.

  Args:
    flag: "eval_batch_size" or "predict_batch_size".
    features: dictionary from split to `feature_cache.Features`.
    kind: what the names of the splits begin with, "dev" or "test".
  """
  tokens = options.model.max_seq_length
  sets = [split for name, split in features.items() if name.startswith(kind)]
  if sets and placement.skip_padding:
    tokens = sum(s.tokens for s in sets) / sum(s.records for s in sets)
  asked = getattr(options.inference, flag)
  return placement.batch_size(asked, flag in options.given, tokens)


# ---------------------------------------------------------------------------
# Settings, output_dir


def check_output_dir(options, model, settings, cache):
  """Looks at output_dir and makes sure that the run may use it.

  Args:
    options: `options.Options`.
    model: `model_files.Model`.
    settings: what `make_settings` gives.
    cache: `feature_cache.FeatureCache`; None where no split is asked for.

  Returns:
    `output_dir.OutputDir`, as it is, or will be once it is overwritten.

  Raises:
    UserError: it was trained with other settings, or holds what must stay.
  """
  found = output_dir.inspect(output_dir.trained_folder(options.run))
  if options.run.overwrite_output_dir:
    weights = model.weights and model.weights.path
    output_dir.check_overwriting(found, weights)
    return found._replace(checkpoint=None, step=0, settings={})
  output_dir.check_no_release(
    found, options.run.do_train and model.weights is not None
  )
  output_dir.check_state_file(found)
  selection.check_start(options.run, found)

  def find_epochs():
    examples = cache.count_records("train")
    return find_epochs_needed(options.training, examples, found.step)

  run_settings.check_settings(
    found,
    settings,
    options.run.resume,
    flags={recorded_place(field): field.name for field in all_flags()},
    find_epochs=find_epochs if options.run.do_train else None,
  )
  run_settings.keep_origin(found, settings)
  return found
