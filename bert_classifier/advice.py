"""Advice: what to do next where a run does not train, or ends early."""

import contextlib

from absl import logging
import tensorflow.compat.v1 as tf

from bert_classifier import errors, output_dir, process, schedule, selection


def explain_not_training(run):
  """Returns why nothing is trained, and what can be done about it."""
  if run.ended_early:
    return selection.explain_end(run)
  epochs = schedule.find_epochs_needed(
    run.options.training, run.schedule.examples, run.found.step
  )
  return (
    f"NOT TRAINING: {run.options.run.output_dir} holds a checkpoint of step"
    f" {run.found.step}, and {run.schedule.steps} steps are asked for. Give"
    f" another --output_dir, --num_train_epochs={epochs} or more to go on, or"
    " --overwrite_output_dir to train from the start"
  )


def conclude_without_training(run, results):
  """Says why nothing is trained; returns the list of what to say at the end.

  It is no warning where all that was missing of a training was its last
  evaluation, as after a kill in it.

  Args:
    run: `preparation.Run` with the `selection.Record` of its evaluations.
    results: of an evaluation that was made up for, or None.
  """
  if results is not None and run.first_step <= run.schedule.steps:
    logging.info(
      "nothing was left to train, and the evaluation of the last step, %d, is"
      " made up for",
      run.first_step,
    )
    return [selection.conclude(run)]
  sentence = explain_not_training(run)
  logging.warning("%s", sentence)
  # After the lines of other splits it would be overlooked.
  return [sentence] * (len(run.counts) > 1)


@contextlib.contextmanager
def explain_interruption(asked):
  """Gives a KeyboardInterrupt the advice what the same command would do.

  One that says more already keeps what it says.

  Args:
    asked: `run_options.RunOptions`.
  """
  try:
    with process.signals_in_sight():
      yield
  except KeyboardInterrupt as interruption:
    if str(interruption):
      raise
    advice = process.BEGINS_AGAIN
    found = output_dir.inspect(asked.output_dir) if asked.do_train else None
    if found and found.step:
      without = " without --overwrite_output_dir" * asked.overwrite_output_dir
      advice = (
        f"the same command{without} goes on from step {found.step}, the last"
        f" checkpoint in {asked.output_dir}"
      )
    raise type(interruption)(advice) from interruption


@contextlib.contextmanager
def explain_not_finite(run):
  """Says of NaN and infinity in training where they come from.

  Raises:
    UserError: names the weights that training began with, or the learning rate.
  """
  try:
    yield
  except (errors.NotFiniteError, tf.train.NanLossDuringTrainingError) as error:
    # TensorFlow's own says less; it comes on a TPU.
    updates = getattr(error, "updates", None)
    # Warmup begins with a rate of 0: after one update the weights are the same.
    untrained = range(1 + bool(run.schedule.warmup_steps))
    if updates == run.first_step or updates in untrained:
      advice = (
        f"Nothing was trained yet: that is what {weights_to_train(run)} give."
        " Take other weights"
      )
    else:
      advice = (
        f"--learning_rate={run.options.training.learning_rate} is too high:"
        " train from the start with a lower one (--overwrite_output_dir), or a"
        " longer --warmup_proportion"
      )
    raise errors.UserError(f"{error}. {advice}") from error


def weights_to_train(run):
  """Returns a phrase on the weights that training begins with."""
  if run.found.checkpoint:
    return f"the weights of {run.found.checkpoint}"
  if run.weights.init_checkpoint:
    return f"the weights of {run.weights.init_checkpoint.path}"
  spread = run.model.config.initializer_range
  return f"random weights with initializer_range {spread}"
