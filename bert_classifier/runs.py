"""Several runs, one after the other in one process, and what they say together.

A run is what an ordinary command does in a folder of its own, below
output_dir/runs, and any later command can name that folder. Task, features,
model files and device are prepared once. What of a run is done is kept in its
run_done.json: where that is what would be done, it is not done again.

First all runs are trained and evaluated. Then the best is chosen by the dev
set, and it alone predicts the test set, exports or answers; with --ensemble all
seeds of the best setting predict, and the mean of their probabilities counts.
"""

import contextlib
import dataclasses
import gc
import os

from absl import logging
import tensorflow.compat.v1 as tf
from tensorflow.python.framework import ops

from bert_classifier import (
  advice,
  calibration,
  comparison,
  device_choice,
  ensemble,
  errors,
  evaluation,
  files,
  inspection,
  locks,
  output_dir,
  preparation,
  report,
  selection,
  sharing,
  sweep,
)
from bert_classifier.options import make_options
from bert_classifier.several_options import OF_ONE_MODEL

# Values of flags by what a run is to do.
TRAIN = dict.fromkeys(
  ("do_predict", *OF_ONE_MODEL, "predict_text_b", "glue_submission")
)
_USE = dict.fromkeys(
  ("do_train", "do_eval", "calibrate", "overwrite_output_dir", "resume")
)
_EVALUATE = {**TRAIN, **dict.fromkeys(("do_train", "overwrite_output_dir"))}
# Beginnings of flags that do not decide what a stage gives.
_WHEREABOUTS = "output_dir", "overwrite_", "resume"
_OF_PREDICTIONS = "predict_", "embed_", "glue_"
# What a training or an evaluation takes to start, as a multiple of its graph
# and first step: sessions, checkpoints and events took as much again, 3.5 s of
# processor time for both where graphs and first steps took 1.6 s.
_STARTS = 2

# ---------------------------------------------------------------------------
# Preparation


def plan(asked):
  """Returns the list of `sweep.Plan`s; [] where the command is a run itself.

  Args:
    asked: `options.Options`.

  Raises:
    UserError: flags make no sense, or output_dir is a run's own.
  """
  plans = sweep.plan_runs(asked)
  if asked.several.sweep is not None:
    sweep.log_overruled(asked)
  folder = asked.run.output_dir
  if plans and (found := output_dir.inspect(folder)).checkpoint:
    raise errors.UserError(
      f"{folder} holds a run by itself, {found.checkpoint}, and several runs"
      " need a folder that holds none: give another --output_dir"
    )
  return plans


def choose_first(asked, plans):
  """Returns the options of the first run, by which all are prepared.

  Args:
    asked: `options.Options`.
    plans: what `plan` gives; without any, the options are returned.
  """
  if not plans:
    return asked
  cache = {}
  if not (asked.data.cache_dir or asked.data.data_dir):
    cache["cache_dir"] = asked.run.output_dir  # or they are the first run's
  return plans[0].apply(asked, **cache)


def derive(run, options):
  """Returns the `preparation.Run` of another folder, setting or phase.

  Task, model files, device and cache are those that were prepared.

  Args:
    run: `preparation.Run`.
    options: `options.Options`; what decides those is the same in them.

  Raises:
    UserError, OSError: as `preparation.prepare`.
  """
  output_dir.check_place(options.run.output_dir)
  selection.check_best(options.run)
  options = selection.check_request(options, run.placement)
  device_choice.check_batches(options, run.placement)
  if options.run.do_train:
    preparation.check_choices(options.choice, run.task)
  return preparation.make_run(
    options, run.placement, run.task, run.model, run.cache
  )


def derive_all(prepared, plans):
  """Returns the `preparation.Run` of each plan, checked, without features.

  Args:
    prepared: `preparation.Run` of `choose_first`.
    plans: what `plan` gives.

  Raises:
    UserError: as `derive`, or runs that are there are not comparable.
  """
  for one in plans:
    _check_dev_set(one, prepared)
  runs = [
    derive(prepared, one.apply(prepared.options, **TRAIN)) for one in plans
  ]
  for run in runs:
    _check_origin(run, runs)
  return runs


def _check_origin(run, runs):
  """Raises a UserError where runs begin with different weights."""
  name = output_dir.WEIGHTS_DIGEST
  begun = run.settings["training"]
  for other in runs:
    other_begun = other.settings["training"]
    if other.found.checkpoint and other_begun[name] != begun[name]:
      weights = other_begun[output_dir.WEIGHTS]
      raise errors.UserError(
        f"{other.found.path} began with"
        f" {output_dir.WEIGHTS}={weights or 'random weights'}, but"
        f" {run.found.path} would begin with"
        f" {begun[output_dir.WEIGHTS] or 'random weights'}: runs are compared"
        " that begin with the same. Give"
        f" --init_checkpoint={weights} as before, or another --output_dir"
      )


def _check_dev_set(plan, prepared):
  """Raises a UserError where a run would be evaluated on what it learned."""
  found = output_dir.inspect(plan.folder)
  before, now = (
    settings.get("data", {}).get("dev_split")
    for settings in (found.settings, prepared.settings)
  )
  if found.checkpoint and before != now:
    raise errors.UserError(
      f"{plan.folder} was trained with {_name_dev_set(before)}, and these runs"
      f" have {_name_dev_set(now)}, all the same, so it knows some of the"
      " examples: give the first --seed and the --dev_fraction of before, or"
      " another --output_dir"
    )


def _name_dev_set(split):
  if split is None:
    return "a dev set of its own file"
  return "the dev set of --dev_fraction={dev_fraction}, seed {seed}".format(
    **split
  )


# ---------------------------------------------------------------------------
# Dry run


def report_dry_run(prepared, asked, plans, make_model_fn):
  """Inspects the first run that is to be trained; prints a report of all.

  Without plans it is the run that was prepared.

  Args:
    prepared, asked, plans: as of `carry_out`; without features.
    make_model_fn: as of `inspection.report_dry_run`.

  Raises:
    UserError: what a run would refuse.
  """
  if not plans:
    inspection.report_dry_run(prepared, make_model_fn)
    return
  folder = asked.run.output_dir
  locks.check_unlocked(folder)
  prepared = calibration.without(prepared)
  runs = derive_all(prepared, plans)
  left = [run for run in runs if not run.is_finished]
  shown = plans[runs.index(left[0]) if left else 0]
  phases = {} if left else {"do_train": None, "overwrite_output_dir": None}
  run = derive(prepared, shown.apply(prepared.options, **phases))

  def complete(report):
    report["runs"] = {
      "runs": len(runs),
      "settings": len({one.setting for one in plans}),
      "seeds": asked.several.num_runs,
      "trained": len(runs) - len(left),
      "folder": os.path.join(folder, sweep.FOLDER),
      "shown": shown.name,
      "seconds": _estimate_time(report["time"], left, asked),
    }
    report["files"]["disk"] = sum(map(inspection.estimate_disk, left))
    report["files"]["written"].insert(0, output_dir.runs_path(folder))

  inspection.report_dry_run(run, make_model_fn, complete)


def _estimate_time(times, left, asked):
  """Returns the seconds of all runs, None where nothing was measured.

  Each training, evaluation and prediction begins with a graph of its own, which
  takes longer than the batches of a small run.

  Args:
    times: what `inspection.measure` gives of one run, by split.
    left: list of the runs that are to be trained.
    asked: `options.Options` of the command.
  """
  if not times:
    return None
  seconds = 0
  if left:
    a_batch, batch = (times["train"][n] for n in ("seconds a batch", "batch"))
    for run in left:
      share = run.options.training.train_batch_size / batch
      steps = run.schedule.steps - run.first_step
      seconds += a_batch * share * steps
      seconds += _STARTS * times["train"]["seconds to start"]
  predicting = asked.several.num_runs if asked.several.ensemble else 1
  for split, part in times.items():
    if split != "train":
      often = len(left) if split.startswith("dev") else predicting
      seconds += often * part["seconds"]
      seconds += _STARTS * often * part["times"] * part["seconds to start"]
  return seconds


# ---------------------------------------------------------------------------
# Carrying out


def carry_out(prepared, asked, plans, do):
  """Trains and evaluates all runs, compares them, and lets the best predict.

  Without plans the run that was prepared does what it is asked for.

  Args:
    prepared: `preparation.Run` of `choose_first`, with features.
    asked: `options.Options` of the command.
    plans: what `plan` gives.
    do: function that does what a `preparation.Run` asks for.

  Raises:
    UserError: a run fails, or none can be chosen.
  """
  if not plans:
    do(prepared)
    return
  folder = asked.run.output_dir
  prepared = calibration.without(prepared)
  runs = derive_all(prepared, plans)
  tf.io.gfile.makedirs(folder)
  with locks.lock_for_training(folder) as is_locked:
    sharing.remove_abandoned(folder, is_locked)
    finished = []
    for number, (one, run) in enumerate(zip(plans, runs)):
      logging.info("run %d of %d: %s", number + 1, len(plans), one.folder)
      place = f"run {number + 1} of {len(plans)}, {number} of which are done"
      with _explain_end(run, place):
        finished.append(_train_and_evaluate(prepared, one, run, do))
      comparison.write_table(output_dir.runs_path(folder), finished)
    compared = comparison.compare(finished, prepared.task.headline)
    lines = comparison.format_table(compared)
    lines += comparison.describe_choice(compared)
    if compared.best is not None:
      chosen = [compared.best_run]
      if asked.several.ensemble:
        chosen = compared.best.runs
      comparison.write_table(output_dir.runs_path(folder), finished, chosen)
      lines += _use(prepared, asked, compared, chosen, do)
    for line in (*lines, f"all runs: {output_dir.runs_path(folder)}"):
      logging.info("%s", line)
    if compared.best is None and _asks_more(prepared.options.run):
      raise errors.UserError(
        f"no run can be chosen to go on with, for eval_{compared.metric} is"
        " undefined for a run of each setting, as the log says: give the folder"
        f" of a run as --output_dir. {output_dir.runs_path(folder)} lists them"
      )


def _asks_more(asked):
  """Returns whether more is asked for than training and evaluation.

  Args:
    asked: `run_options.RunOptions`.
  """
  return any(
    getattr(asked, name) not in (None, False)
    for name in ("do_predict", *OF_ONE_MODEL)
  )


def _train_and_evaluate(prepared, one, run, do):
  """Trains and evaluates a run as far as that is not done.

  Args:
    one: its `sweep.Plan`.
    run: its `preparation.Run`, without features.
    prepared, do: as of `carry_out`.

  Returns:
    `comparison.Finished`.
  """
  run = preparation.convert(run)
  stage = "evaluated"
  if run.is_finished and _is_done(run, stage):
    logging.info("it is done, and not done again")
  else:
    to_do = run
    # All but an evaluation at its end, which training itself makes up for where
    # it would decide what is best.
    if run.is_finished and not selection.is_behind(run):
      options = one.apply(prepared.options, **_EVALUATE)
      to_do = preparation.convert(derive(prepared, options))
    _do(to_do, do)
    _keep_done(run, stage)
  results = {
    split: evaluation.read_results(output_dir.results_path(one.folder, split))
    for split in run.splits("dev")
  }
  return comparison.Finished(one, results)


def _use(prepared, asked, compared, chosen, do):
  """Lets the chosen runs do what is asked for beside training.

  Args:
    compared: `comparison.Comparison`.
    chosen: list of `comparison.Finished`.
    prepared, asked, do: as of `carry_out`.

  Returns:
    List of lines on what was written, and by which run.
  """
  folder, best = asked.run.output_dir, compared.best_run.plan
  lines = [f"best run: {best.folder}"]
  if asked.inference.eval_report:
    pages = _write_reports(prepared, folder, best.folder, compared)
    lines += [f"report of it and of all runs: {page}" for page in pages]
  uses = [
    derive(prepared, one.plan.apply(prepared.options, **_USE)) for one in chosen
  ]
  asks = uses[0].options.run
  if not _asks_more(asks):
    return lines
  for number, run in enumerate(uses):
    with _explain_end(run, "all runs are trained"):
      uses[number] = _use_one(run, asked.several.ensemble, do)
  if asked.several.ensemble:
    options = {**prepared.options.given_values(), "output_dir": folder}
    lines += ensemble.write_mean(
      prepared._replace(options=make_options(**options)),
      [run.options.run.output_dir for run in uses],
      [run.found.step for run in uses],
    )
  elif asks.do_predict:
    lines += ensemble.copy_predictions(uses[0], folder)
  return lines


def _use_one(run, is_kept, do):
  """Lets a trained run do what it is asked for; returns it with its features.

  Args:
    run: `preparation.Run`, without features.
    is_kept: whether it only predicts, and not again where that is done.
    do: as of `carry_out`.
  """
  stage = "predicted"
  if run.options.run.fills_folder:
    run = preparation.convert(run)
  if is_kept and _is_done(run, stage):
    folder = run.options.run.output_dir
    logging.info("%s: predicted before, and not again", folder)
    return run
  _do(run, do)
  if is_kept:
    _keep_done(run, stage)
  return run


def _do(run, do):
  """Does what a run asks for, and frees what it held."""
  run.weights.log()
  registered = ops.gradient_registry._registry  # which has no way to forget
  before = set(registered)
  try:
    do(run)
  finally:
    # Those of tf.custom_gradient hold the graphs that they were made for.
    for name in set(registered) - before:
      if name.startswith("CustomGradient-"):
        del registered[name]
    # A writer of TensorBoard's events has a thread for each folder.
    tf.summary.FileWriterCache.clear()
    gc.collect()  # graphs refer to themselves


def _write_reports(prepared, folder, best, compared):
  """Writes the best run's reports into output_dir, with all runs in them.

  Args:
    folder: output_dir.
    best: the folder of the best run.
    prepared, compared: as of `_use`.

  Returns:
    List of the paths of the pages.
  """
  runs = comparison.describe(compared)
  return [
    report.write_with_runs(best, folder, split, runs)
    for split in prepared.splits("dev")
  ]


@contextlib.contextmanager
def _explain_end(run, place):
  """Says where several runs end early, and that what is done is kept.

  Args:
    run: `preparation.Run` of the one that is being done.
    place: which one it is, and what is done.
  """
  asked = run.options.run
  without = " without --overwrite_output_dir" * asked.overwrite_output_dir
  place += f", and not done again{without}"
  try:
    with advice.explain_interruption(asked):
      yield
  except KeyboardInterrupt as interruption:
    raise type(interruption)(f"{interruption} ({place})") from interruption
  except errors.UserError as error:
    error.args = (f"{asked.output_dir}: {error} ({place})",)
    raise


# ---------------------------------------------------------------------------
# What is done


def _is_done(run, stage):
  """Returns whether a stage of a run is done as it would be done now.

  Args:
    run: `preparation.Run` with features.
    stage: "evaluated" or "predicted".
  """
  folder = run.options.run.output_dir
  kept = _read_done(folder).get(stage)
  results = [output_dir.results_path(folder, s) for s in run.splits("dev")]
  for split in run.splits("test"):
    results += output_dir.prediction_paths(folder, split)
  if run.options.inference.eval_report:
    for split in run.splits("dev"):
      results += output_dir.report_paths(folder, split).values()
  return kept == _describe_stage(run, stage) and all(
    map(tf.io.gfile.exists, results)
  )


def _keep_done(run, stage):
  """Keeps that a stage of a run is done; args as of `_is_done`."""
  folder = run.options.run.output_dir
  stages = {**_read_done(folder), stage: _describe_stage(run, stage)}
  files.write_json(
    output_dir.done_path(folder), {"format_version": 1, "stages": stages}
  )


def _read_done(folder):
  """Returns {stage: what `_describe_stage` gave} of what is done in a folder.

  {} where nothing is, or the file is damaged: then it is done again.
  """
  try:
    kept = files.read_json(output_dir.done_path(folder))
  except errors.UserError:
    return {}
  stages = kept.get("stages") if isinstance(kept, dict) else None
  return stages if isinstance(stages, dict) else {}


def _describe_stage(run, stage):
  """Returns all that decides the files of a stage, for JSON.

  Settings of training are not among it: those of the folder are held against
  the run's before.

  Args:
    run, stage: as of `_is_done`.
  """
  left_out = _WHEREABOUTS
  if stage == "evaluated":
    left_out += _OF_PREDICTIONS
  flags = {
    name: value
    for group in (run.options.run, run.options.inference)
    for name, value in dataclasses.asdict(group).items()
    if not name.startswith(left_out)
  }
  return {
    "step": output_dir.inspect(run.options.run.output_dir).step,
    "steps": run.schedule and run.schedule.steps,
    "features": {
      split: features.sha256 for split, features in run.features.items()
    },
    "flags": flags,
    "temperature": getattr(run.task.target, "temperature", None),
  }
