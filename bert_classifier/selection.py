"""Selection: the best checkpoint of a training, and where training may end.

Every evaluation that training makes on its way is a line of history.jsonl. With
--eval_every_steps there is one every so many steps, and best/ holds the weights
of the best: model.ckpt-STEP without what training alone needs, and copies of
manifest, configuration and vocabulary, so that it is a model by itself.

What is best, and whether training is over (--early_stopping_patience), is a
function of the lines and of the checkpoints that are there. Nothing of it is
kept in the process or the graph, so a training that is killed at any moment and
started again ends as one that was not; see `catch_up`.
"""

import os
from typing import NamedTuple, Optional

from absl import logging
import tensorflow.compat.v1 as tf

from bert_classifier import (
  checkpoints,
  errors,
  evaluation,
  files,
  flag_checks,
  history,
  metrics,
  options,
  output_dir,
  plain_texts,
  progress,
  saving,
)
import estimator_bridge  # noqa: F401 - tf.estimator

_SPLIT = "dev"
_GLOBAL_STEP = "global_step"
_THROTTLE_SECONDS = 600  # between evaluations that no flag asks for


class Record(NamedTuple):
  """The evaluations that a training has made, and the best of them.

  Attributes:
    metric: name in `metrics.METRICS` of what they are compared by.
    step: of the newest checkpoint.
    steps: those that were evaluated, in order.
    best: the step of the best one whose weights are there, None for none. Of
      several that are equal it is the earliest.
    value: its metric.
    gone: (step, value) of a better one whose weights are not, or None.
  """

  metric: str
  step: int
  steps: tuple = ()
  best: Optional[int] = None
  value: Optional[float] = None
  gone: Optional[tuple] = None

  @property
  def since(self):
    """Returns how many evaluations came after the best one."""
    best = self.step if self.best is None else self.best
    return sum(step > best for step in self.steps)

  def is_over(self, patience):
    """Returns whether training ends at the newest checkpoint.

    Args:
      patience: evaluations in a row that are no better than the best; None to
        go on in any case.
    """
    return bool(patience and self.step in self.steps and self.since >= patience)

  def describe(self):
    """Returns "step 8, eval_accuracy 0.75"."""
    return f"step {self.best}, eval_{self.metric} {self.value}"


def read(folder, metric, step):
  """Returns the `Record` of an output_dir.

  Args:
    folder: output_dir.
    metric: name in `metrics.METRICS`.
    step: that of the newest checkpoint; later lines do not count.
  """
  entries = {
    int(entry["step"]): entry
    for entry in history.read(output_dir.history_path(folder))
    if entry.get("split") == _SPLIT and 0 < int(entry["step"]) <= step
  }
  record = Record(metric, step, tuple(sorted(entries)))
  # One that is undefined is None; a file that was changed may hold anything.
  values = {at: entries[at].get(f"eval_{metric}") for at in record.steps}
  kept = _list_kept(folder)
  best = metrics.find_best(
    metric, {at: value for at, value in values.items() if at in kept}
  )
  if best is None:
    return record
  record = record._replace(best=best, value=values[best])
  best_of_all = metrics.find_best(metric, values)
  if metrics.is_better(metric, values[best_of_all], record.value):
    record = record._replace(gone=(best_of_all, values[best_of_all]))
  return record


def _list_kept(folder):
  """Returns the steps whose weights are in an output_dir or its best/."""
  paths = files.list_matching(folder, r"model\.ckpt-\d+\.index")
  best = find_best(folder)
  return {
    output_dir.step_of(path.removesuffix(".index"))
    for path in (*paths, *filter(None, [best]))
  }


def find_best(folder):
  """Returns the path of the weights in best/ of an output_dir, or None."""
  best = output_dir.best_path(folder)
  if not output_dir.is_of_runs(best):
    return None
  weights = checkpoints.read_state(best)
  return weights if weights and tf.io.gfile.exists(f"{weights}.index") else None


# ---------------------------------------------------------------------------
# Requests


def check_best(run):
  """Makes sure that there are, or will be, weights for --use_best.

  Args:
    run: `run_options.RunOptions`.

  Raises:
    UserError: there are none.
  """
  if run.use_best and not run.do_train and not find_best(run.output_dir):
    raise errors.UserError(
      f"--use_best: {output_dir.best_path(run.output_dir)} holds no weights."
      " Train with --do_eval and --eval_every_steps=N, which keeps them there,"
      " or leave out --use_best to use the last ones"
    )


def check_request(asked, placement):
  """Checks the flags of selection; returns the options, saving as they ask for.

  Args:
    asked: `options.Options`.
    placement: see `devices`.

  Raises:
    UserError: a flag is needed, or does not go with another.
  """
  flag_checks.check_selection(asked, placement.sees_every_step)
  every = asked.training.eval_every_steps
  if not asked.run.do_train:
    return asked
  if not every:
    _check_will_be_best(asked.run)
    return asked
  _check_folder(output_dir.best_path(asked.run.output_dir))
  values = {**asked.given_values(), "save_checkpoints_steps": every}
  return options.make_options(**values)


def _check_will_be_best(run):
  """Raises a UserError where --use_best would find nothing after training."""
  if run.use_best and (
    run.overwrite_output_dir or not find_best(run.output_dir)
  ):
    raise errors.UserError(
      "--use_best needs the best of several evaluations: give --do_eval and"
      " --eval_every_steps=N, or leave it out"
    )


def _check_folder(best):
  """Raises a UserError where a folder of that name is the user's own."""
  names = tf.io.gfile.listdir(best) if tf.io.gfile.isdir(best) else []
  if names and not output_dir.is_of_runs(best):
    raise errors.UserError(
      f"{best} is where --eval_every_steps keeps the best weights, but it holds"
      f" {names[0]}, which no run wrote there: move it, or give another"
      " --output_dir"
    )


def check_start(run, found):
  """Makes sure that a training from the start replaces no weights in best/.

  Args:
    run: `run_options.RunOptions`.
    found: `output_dir.OutputDir`.

  Raises:
    UserError: it would.
  """
  best = find_best(found.path) if run.do_train else None
  if best and not found.checkpoint:
    raise errors.UserError(
      f"{found.path} holds {best}, the best of an earlier training, but no"
      " checkpoint to go on from: give another --output_dir, or"
      " --overwrite_output_dir to remove it and train from the start"
    )


# ---------------------------------------------------------------------------
# While training


def keeps_best(run):
  """Returns whether a training keeps the best weights.

  Also where the flag is left out now and best/ is there, it is kept true.

  Args:
    run: `preparation.Run`.
  """
  asked = run.options.run
  return (
    asked.do_train
    and asked.do_eval
    and run.placement.sees_every_step
    and bool(
      run.options.training.eval_every_steps
      or not asked.overwrite_output_dir
      and find_best(asked.output_dir)
    )
  )


def count_evaluations(run):
  """Returns how often a command evaluates the dev set.

  Args:
    run: `preparation.Run`.
  """
  every, asked = run.options.training.eval_every_steps, run.options.run
  if not (asked.do_train and every) or run.is_finished:
    return 1
  left = run.schedule.steps - run.first_step
  return -(-left // every) + asked.use_best


def update(run, step):
  """Makes best/ hold the best weights so far; returns the `Record`.

  Args:
    run: `preparation.Run`.
    step: of the newest checkpoint.

  Raises:
    UserError: they cannot be written.
  """
  folder = run.options.run.output_dir
  record = read(folder, run.task.headline, step)
  best = output_dir.best_path(folder)
  if record.best is None:
    return record
  source = os.path.join(folder, f"model.ckpt-{record.best}")
  held = find_best(folder)
  try:
    if held and output_dir.step_of(held) == record.best:
      saving.remove_others(held)
    elif output_dir.is_of_runs(best):
      _write(run, source, best)
    else:
      with files.atomic_folder(best) as new:
        _write(run, source, new)
  except (OSError, tf.errors.OpError) as error:
    reason = errors.describe(error)
    if reason is None:
      raise
    raise errors.UserError(
      f"training ends, because the weights of step {record.best} cannot be"
      f" copied to {best}: {reason}. The same command goes on from here"
    ) from error
  return record


def _write(run, source, folder):
  """Writes the weights of a checkpoint into a folder, and what they need."""
  output_dir.write_manifest(
    folder, run.settings, run.model.config, run.model.vocab_file
  )
  saving.keep_weights(source, [*run.model.variables, _GLOBAL_STEP], folder)
  calibration = output_dir.calibration_path(folder)
  if tf.io.gfile.exists(calibration):  # it was of the weights before
    tf.io.gfile.remove(calibration)


class Ending(tf.train.SessionRunHook):
  """Ends a training at the step of an evaluation, in all of its processes.

  The evaluation is made inside of the step's hooks, so that the step is the
  last one.

  Args:
    run: `preparation.Run`.
  """

  def __init__(self, run):
    self._run, self._context = run, None
    self._step = run.first_step

  def before_run(self, run_context):
    self._context = run_context

  def after_run(self, run_context, run_values):
    """Does in another process than the chief what the chief says."""
    del run_context, run_values
    self._step += 1
    every = self._run.options.training.eval_every_steps
    if not every or self._run.placement.is_chief:
      return
    if (self._step - self._run.first_step) % every == 0:
      self.settle(self._step)

  def settle(self, step, record=None):
    """Ends the training after an evaluation where the chief's `Record` says so.

    Args:
      step: that was evaluated.
      record: None in another process than the chief.
    """
    is_last = step >= self._run.schedule.steps
    if not is_last and share_end(self._run, record):
      self._context.request_stop()


def share_end(run, record=None):
  """Returns, in every process of a run, whether the chief's training is over.

  Args:
    run: `preparation.Run`.
    record: the chief's `Record`; None in another process.
  """
  patience = run.options.training.early_stopping_patience
  if not patience:
    return False
  return run.placement.share(bool(record and record.is_over(patience)))


class Exporter(tf.estimator.Exporter):
  """Keeps every evaluation that training makes on its way, and the best one.

  Args:
    run: `preparation.Run`.
    ending: `Ending` of the training.
  """

  name = "selection"

  def __init__(self, run, ending):
    self._run, self._ending = run, ending
    self._keeps_best = keeps_best(run)

  def export(
    self,
    estimator,
    export_path,
    checkpoint_path,
    eval_result,
    is_the_final_export,
  ):
    del estimator, export_path, checkpoint_path
    results = evaluation.tidy_results(eval_result)
    # Those of the last weights are said at the end, unless others are used.
    if not is_the_final_export or self._run.options.run.use_best:
      evaluation.log_results(results)
    record = keep(self._run, results, self._keeps_best)
    if record:
      self._ending.settle(record.step, record)


def keep(run, results, keeps_best=True):
  """Adds an evaluation to the history, and keeps its weights if it is the best.

  Args:
    run: `preparation.Run`.
    results: dictionary of numbers.
    keeps_best: see the function of that name.

  Returns:
    The `Record`; None where no weights are kept.
  """
  path = output_dir.history_path(run.options.run.output_dir)
  history.add_evaluation(path, _SPLIT, results)
  if not keeps_best:
    return None
  record = update(run, int(results[_GLOBAL_STEP]))
  if record.best == record.step:
    logging.info("the best so far: %s", record.describe())
  elif record.best is not None:
    logging.info(
      "the best so far is %s, %s ago",
      record.describe(),
      plain_texts.count(record.since, "evaluation"),
    )
  return record


def make_spec(run, input_fn, training_hook, ending):
  """Returns the EvalSpec of the evaluations that training makes on its way.

  Args:
    run: `preparation.Run`.
    input_fn: of the dev set.
    training_hook: `progress.ProgressHook` of the training.
    ending: `Ending` of the training.
  """
  asked = run.options.training.eval_every_steps
  return tf.estimator.EvalSpec(
    input_fn,
    steps=None,
    hooks=progress.evaluation_hooks(run, _SPLIT, training_hook),
    exporters=[Exporter(run, ending)],
    start_delay_secs=10,
    throttle_secs=0 if asked else _THROTTLE_SECONDS,
  )


# ---------------------------------------------------------------------------
# Before and after training


def is_behind(run):
  """Returns whether an evaluation or a copy is to be made before training.

  Args:
    run: `preparation.Run` with the `Record` of its start.
  """
  best = find_best(run.options.run.output_dir)
  record = run.record
  return keeps_best(run) and (
    record.step not in record.steps
    or record.best != (best and output_dir.step_of(best))
  )


def catch_up(run, evaluate):
  """Makes up for an evaluation, and for a copy, that a kill took away.

  The Estimator does not evaluate the checkpoint that a training goes on from,
  nor that of its last step.

  Args:
    run: `preparation.Run`.
    evaluate: function that returns the results of the newest checkpoint.

  Returns:
    The run with its `Record`, and the results of an evaluation that was made,
    else None.
  """
  if not keeps_best(run):
    return run, None
  asked, results, record = run.options.training, None, run.record
  history.drop_after(
    output_dir.history_path(run.options.run.output_dir), run.first_step
  )
  if run.first_step and run.first_step not in record.steps:
    logging.info("step %d is still to be evaluated", run.first_step)
    results = evaluate()
    record = keep(run, evaluation.tidy_results(results))
  elif run.first_step:
    record = update(run, run.first_step)
    if record.best is not None:
      logging.info("the best so far: %s", record.describe())
  if record.gone:
    logging.warning(
      "step %d had eval_%s %s, but its weights are gone: the best is that of"
      " the others",
      record.gone[0],
      record.metric,
      record.gone[1],
    )
  if (asked.eval_every_steps or 0) > run.schedule.steps:
    logging.warning(
      "--eval_every_steps=%d, but the training has %s: its end alone is"
      " evaluated",
      asked.eval_every_steps,
      plain_texts.count(run.schedule.steps, "step"),
    )
  return run._replace(record=record), results


def conclude(run):
  """Returns a sentence on what a training has come to.

  Args:
    run: `preparation.Run` as it was before.

  Raises:
    UserError: training ended before its last step, and not by its evaluations.
  """
  folder, steps = run.options.run.output_dir, run.schedule.steps
  record = read(folder, run.task.headline, output_dir.inspect(folder).step)
  sentence = f"trained up to step {steps}: {folder}"
  if record.is_over(run.options.training.early_stopping_patience):
    sentence = (
      f"trained up to step {record.step} of {steps}, where"
      f" {plain_texts.count(record.since, 'evaluation')} in a row had been no"
      f" better than the best: {folder}"
    )
  else:
    output_dir.check_trained(folder, steps)
  if keeps_best(run) and record.best is not None:
    sentence += f"; best: {record.describe()}: {find_best(folder)}"
  return sentence


def explain_end(run):
  """Returns why a training that ended early does not go on, and how it would.

  Args:
    run: `preparation.Run` that does not train.
  """
  folder, record = run.options.run.output_dir, run.record
  return (
    f"NOT TRAINING: the training in {folder} ended early at step {record.step}"
    f" of {run.schedule.steps}: best is {record.describe()}, and"
    f" {plain_texts.count(record.since, 'evaluation')} since were no better."
    f" Give --early_stopping_patience={record.since + 1} or more to go on,"
    " another --output_dir, or --overwrite_output_dir to train from the start"
  )


def choose_weights(run):
  """Returns a run that has trained, with the best weights.

  Args:
    run: `preparation.Run`.

  Raises:
    UserError: there are none.
  """
  best = find_best(run.options.run.output_dir)
  if best is None:
    raise errors.UserError(
      f"--use_best: no evaluation had a defined eval_{run.task.headline}, so"
      " none was the best. Leave out --use_best to use the last weights"
    )
  logging.info("weights: %s, step %d", best, output_dir.step_of(best))
  return run._replace(weights=run.weights._replace(checkpoint=best))
