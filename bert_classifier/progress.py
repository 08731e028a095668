"""Progress of a run: the log is set up; counters and hooks that report."""

import contextlib
import logging as python_logging
import math
import sys
import time

from absl import logging
import tensorflow.compat.v1 as tf

from bert_classifier import (
  errors,
  files,
  gpu,
  history,
  options,
  plain_texts,
  process,
  status_line,
)
from bert_classifier.loss_scale import LossScale
import optimization

_RENEW_SECONDS = 0.5  # on a terminal
_LOG_SECONDS = 10.0
_LEAST_POINTS = 100  # of the curve of a run that has as many steps


def set_up_logging():
  """Puts time and level before each line of the log, TensorFlow's included.

  2026-01-31 12:00:00,000 [INFO ] text
  """
  logging.use_absl_handler()  # app.run does, a notebook does not
  if not options.is_verbosity_set():
    logging.set_verbosity(logging.INFO)
  handler = logging.get_absl_handler()
  if handler.python_handler.stream is None:  # absl was imported without one
    handler.python_handler.stream = sys.stderr
  handler.setFormatter(process.LogFormatter())
  handler.addFilter(_clear_status_line)
  tensorflow = tf.get_logger()
  tensorflow.handlers.clear()
  tensorflow.propagate = True
  tensorflow.setLevel(python_logging.WARNING)


def log_errors_only(speaker):
  """Leaves the log to another process, unless --verbosity is given.

  Args:
    speaker: name of this process, before each of its lines.
  """
  logging.get_absl_handler().setFormatter(process.LogFormatter(speaker))
  if not options.is_verbosity_asked_for():
    logging.set_verbosity(logging.ERROR)


def _clear_status_line(record):
  del record
  status_line.STATUS.clear()
  return True


class Counter:
  """Reports how many examples are done, how fast, and the time left.

  Every ten seconds in the log; on a terminal in the status line.

  Args:
    done: what happens to an example: "converted".
    total: number of examples; None where it is not known.
    unit: what is counted, where it is no example.
  """

  def __init__(self, done, total=None, unit="example"):
    self._done, self._total, self._unit = done, total, unit
    self._count = self._first_count = 0
    self._began = self._reported = None

  def add(self, examples):
    """Counts `examples` more; any beyond the total only fill a batch.

    Those of the first call, which has start-up in it, are not in the rate.
    """
    now = time.monotonic()
    self._count += examples
    if self._total is not None:
      self._count = min(self._count, self._total)
    if self._began is None:
      self._began = self._reported = now
      self._first_count = self._count
    elif now - self._reported >= (
      _RENEW_SECONDS if status_line.STATUS.is_terminal else _LOG_SECONDS
    ):
      self._reported = now
      status_line.report(
        self._parts(), self._total and self._count / self._total
      )

  def __str__(self):
    """Returns "converted 20 of 60 examples, 10.0 examples/s, 4 s left"."""
    return ", ".join(self._parts().values())

  def _parts(self):
    seconds = time.monotonic() - self._began if self._began else 0.0
    text = f"{self._done} {plain_texts.count(self._count, self._unit)}"
    if self._total:
      of_all = plain_texts.count(self._total, self._unit)
      text = f"{self._done} {self._count} of {of_all}"
    counted = self._count - self._first_count
    if not (counted and seconds):
      return {"done": text}
    speed = f"{counted / seconds:.1f} {self._unit}s/s"
    parts = {"done": text, "speed": speed}
    if self._total and self._count < self._total:
      left = (self._total - self._count) * seconds / counted
      parts["left"] = f"{format_duration(left)} left"
    return parts


def count_examples(examples, counter, every=1000):
  """Yields the examples; after `every` of them a `Counter` counts them."""
  try:
    for number, example in enumerate(examples, 1):
      yield example
      if number % every == 0:
        counter.add(every)
  finally:
    status_line.STATUS.clear()


class _Speed:
  """Measures steps a second since it was last asked.

  Args:
    step: the global step at the start.
  """

  def __init__(self, step):
    self._first = self._step = step
    self._time = time.monotonic()

  def pause(self, seconds):
    """Leaves `seconds` out of what is measured."""
    self._time += seconds

  def measure(self, step):
    """Returns the steps a second up to `step`.

    None at the first step, in which TensorFlow still prepares the graph.
    """
    now = time.monotonic()
    seconds, steps = now - self._time, step - self._step
    starting = self._step == self._first
    self._step, self._time = step, now
    return None if starting or not (steps and seconds) else steps / seconds


class ProgressHook(tf.train.SessionRunHook):
  """Reports step, epoch, loss, rate, speed and time left.

  In the log at the first step, then every `log_steps`; on a terminal in the
  status line. The numbers are written for TensorBoard and into the history at
  least as often, and so often that a short run has a curve too. On a TPU,
  which runs many steps at a time, the Estimator logs the loss. Where a
  GPU holds the numbers back (`gpu.send_where_wanted`), they are fetched, and
  looked at for NaN, in the steps alone whose numbers are kept or shown.

  Args:
    total_steps: N.
    batch_size: examples a step.
    examples: examples an epoch, or with another `unit` of these.
    log_steps: steps between two lines.
    steps_per_run: steps that one call of the session takes.
    summary_dir: folder of the events for TensorBoard; None for none.
    history_path: file of the history, see `history`; None for none.
    show: function from a number of the device to one that is fetched.

  Attributes:
    history_path: as given.
    waits: whether an evaluation on the way computes meanwhile.
  """

  # Tensors that model_fn gives these names.
  LOSS = "training_loss"
  RATE = "training_rate"
  # Names of the tensors' values in the history and for TensorBoard.
  _NUMBERS = {
    LOSS: "loss",
    RATE: "learning_rate",
    optimization.GRADIENT_NORM: "gradient_norm",
    LossScale.SCALE: "loss_scale",
    LossScale.SKIPPED: "skipped_steps",
  }

  def __init__(
    self,
    total_steps,
    *,
    batch_size,
    examples,
    log_steps,
    steps_per_run=1,
    summary_dir=None,
    history_path=None,
    show=lambda number: number,
    unit="example",
  ):
    self._total = total_steps
    self._batch, self._examples, self._unit = batch_size, examples, unit
    self._log_steps, self._steps_per_run = log_steps, steps_per_run
    most = max(1, min(log_steps, total_steps // _LEAST_POINTS))
    divisors = (n for n in range(1, most + 1) if log_steps % n == 0)
    self._kept_steps = max(divisors)
    self._summary_dir, self._writer = summary_dir, None
    self._summarized = None
    self.history_path, self.waits = history_path, False
    self._fetches, self._show, self._skipped = {}, show, 0
    self._wanted, self._is_wanted = None, True

  def begin(self):
    if self._summary_dir:
      self._writer = tf.summary.FileWriterCache.get(self._summary_dir)
    graph = tf.get_default_graph()
    for tensor, name in self._NUMBERS.items():
      # None is there inside the replicated function of a TPU.
      with contextlib.suppress(KeyError):
        number = graph.get_tensor_by_name(f"{tensor}:0")
        # The rate is the host's own.
        self._fetches[name] = (
          number if tensor == self.RATE else self._show(number)
        )
    self._wanted = gpu.find_wanted()

  def after_create_session(self, session, coord):
    del coord
    self._first = self._step = int(session.run(tf.train.get_global_step()))
    if "skipped_steps" in self._fetches:
      self._skipped = session.run(f"{LossScale.SKIPPED}:0")
    self._reported_time = time.monotonic()
    self._shown_speed, self._kept_speed = _Speed(self._step), _Speed(self._step)
    if self.history_path:
      history.drop_after(self.history_path, self._step)

  def before_run(self, run_context):
    del run_context
    # The same in every step: for each set of fetches that it has not met, the
    # session prepares a graph, which takes a second.
    if self._wanted is None:
      return tf.train.SessionRunArgs(self._fetches)
    due = self._is_kept(self._next()) or self._is_logged(self._next())
    self._is_wanted = due or self._is_late()
    feeds = {self._wanted: self._is_wanted}
    return tf.train.SessionRunArgs(self._fetches, feeds)

  def after_run(self, run_context, run_values):
    del run_context
    before = self._step
    self._step = self._next()
    self._check_finite(run_values.results, before)
    if self._is_kept(self._step):
      self._keep(run_values.results)
    is_due = self._is_logged(self._step)
    if status_line.STATUS.is_terminal:
      is_due = self._is_wanted and self._is_late()
    if is_due:
      self._reported_time = time.monotonic()
      self._report(run_values.results)

  def _check_finite(self, numbers, before):
    """Raises a NotFiniteError where training cannot go on.

    A step of float16 is skipped meanwhile, as long as the loss scale can fall.
    """
    scale = numbers.get("loss_scale")
    if scale is not None and scale > 1:
      return
    watched, advice = ["loss"], ""
    if scale is not None:
      watched.append("gradient_norm")
      before -= int(numbers.get("skipped_steps", 0) - self._skipped)
      advice = (
        ", and the loss scale cannot fall under 1. bfloat16 and float32 have"
        " the range that float16 lacks: give --precision=mixed_bfloat16 or"
        " --precision=float32"
      )
    for name in watched:
      if not math.isfinite(numbers.get(name, 0.0)):
        raise errors.NotFiniteError(
          f"the {name.replace('_', ' ')} of step {self._step} is"
          f" {numbers[name]}{advice}",
          updates=before,
        )

  def end(self, session):
    del session
    status_line.STATUS.clear()
    if self._writer:
      self._writer.flush()
      self._check_events()

  def _check_events(self):
    """Warns where what TensorBoard reads is not all there.

    TensorFlow passes over every error in writing it.
    """
    paths = files.list_matching(
      self._summary_dir, r"events\.out\.tfevents\..*(?<!\.v2)"
    )
    path, last = paths[-1] if paths else self._summary_dir, None
    if paths:
      with contextlib.suppress(tf.errors.OpError):
        for event in tf.train.summary_iterator(path):
          last = event.step
    if self._summarized not in (None, last):
      logging.warning(
        "%s lacks the last steps for TensorBoard: they could not be written",
        path,
      )

  def pause(self, seconds):
    """Leaves `seconds` out of the next speeds."""
    self._shown_speed.pause(seconds)
    self._kept_speed.pause(seconds)

  def _next(self):
    """Returns the global step after the next call of the session."""
    return min(self._step + self._steps_per_run, self._total)

  def _is_kept(self, step):
    """Returns whether the numbers of a step are written.

    Which they are does not depend on where a training was stopped and resumed.
    """
    return self._is_due(step, self._kept_steps, self._steps_per_run)

  def _is_logged(self, step):
    """Returns whether there is a line of the log for a step."""
    first = self._first + self._steps_per_run
    return self._is_due(step, self._log_steps, first)

  def _is_due(self, step, every, first):
    """Returns whether a step is the first, or of those every so many steps."""
    return step in (first, self._total) or step % every < self._steps_per_run

  def _is_late(self):
    """Returns whether a terminal is to show another line."""
    waited = time.monotonic() - self._reported_time
    return status_line.STATUS.is_terminal and waited > _RENEW_SECONDS

  @property
  def _epoch(self):
    return self._step * self._batch / self._examples

  def _keep(self, numbers):
    """Writes the numbers of a step for TensorBoard and into the history."""
    numbers = dict(numbers)
    steps_per_second = self._kept_speed.measure(self._step)
    if self.history_path:
      entry = {"step": self._step, "epoch": round(self._epoch, 4), **numbers}
      if steps_per_second:
        speed = steps_per_second * self._batch
        entry["examples_per_second"] = round(speed, 2)
      entry["time"] = round(time.time(), 3)
      history.append(self.history_path, entry)
    if self._writer:
      if steps_per_second:  # under the names that the Estimator gives them
        numbers["global_step/sec"] = steps_per_second
        numbers["examples/sec"] = steps_per_second * self._batch
      values = [
        tf.Summary.Value(tag=name, simple_value=value)
        for name, value in numbers.items()
      ]
      self._writer.add_summary(tf.Summary(value=values), self._step)
      self._summarized = self._step

  def _report(self, numbers):
    parts = {
      "done": f"step {self._step}/{self._total}",
      "epoch": f"epoch {self._epoch:.2f}",
    }
    if "loss" in numbers:
      parts["loss"] = f"loss {numbers['loss']:.4f}"
    if "learning_rate" in numbers:
      rate = numbers["learning_rate"]
      parts["learning rate"] = f"learning rate {rate:.2e}"
    if numbers.get("skipped_steps"):
      skipped = plain_texts.count(int(numbers["skipped_steps"]), "step")
      parts["skipped"] = f"{skipped} skipped for the range of float16"
    steps_per_second = self._shown_speed.measure(self._step)
    if steps_per_second:
      left = (self._total - self._step) / steps_per_second
      speed = steps_per_second * self._batch
      parts["speed"] = f"{speed:.1f} {self._unit}s/s"
      parts["left"] = f"{format_duration(left)} left"
    status_line.report(parts, self._step / self._total)


class EvaluationHook(tf.train.SessionRunHook):
  """Reports the progress of an evaluation.

  Args:
    examples: number of examples.
    batch_size: examples that one call of the session takes.
    training_hook: `ProgressHook` of a training that waits, or None; the time
      that the evaluation's session takes is left out of its speed.
  """

  def __init__(
    self, *, examples, batch_size, training_hook=None, unit="example"
  ):
    self._examples, self._batch, self._unit = examples, batch_size, unit
    self._training_hook = training_hook

  def begin(self):
    self._began = time.monotonic()
    self._counter = Counter("evaluated", self._examples, self._unit)
    self._batches = 0
    if self._training_hook:
      self._training_hook.waits = True

  def after_run(self, run_context, run_values):
    del run_context, run_values
    self._counter.add(self._batch)
    self._batches += 1

  def end(self, session):
    """Reports the whole; raises a UserError where a part was evaluated."""
    del session
    logging.info("%s", self._counter)
    if self._batches * self._batch < self._examples:
      # TensorFlow takes some errors of a file system for the end of the data.
      raise errors.UserError(
        f"the evaluation ended after {self._batches * self._batch} of"
        f" {self._examples} {self._unit}s: the file of features cannot be read"
      )
    if self._training_hook:
      self._training_hook.waits = False
      self._training_hook.pause(time.monotonic() - self._began)


def announce(verb, run, *splits):
  """Logs what will be done with which splits, and by which device.

  Args:
    verb: such as "evaluating".
    run: `preparation.Run`.
    splits: names of splits.
  """
  logging.info(
    "%s the %s of %s on %s",
    verb,
    run.describe_count(*splits),
    " and ".join(splits),
    run.placement.describe(),
  )


def training_hook(run, history_path=None):
  """Returns the `ProgressHook` of a training.

  Args:
    run: `preparation.Run`.
    history_path: file of the run's history; None where another process writes
      it, and what TensorBoard reads.
  """
  training, placement = run.options.training, run.placement
  writes_events = placement.sees_every_step and history_path is not None
  return ProgressHook(
    run.schedule.steps,
    batch_size=training.train_batch_size,
    examples=run.schedule.examples,
    log_steps=training.log_steps,
    steps_per_run=placement.steps_per_call,
    summary_dir=run.options.run.output_dir if writes_events else None,
    history_path=history_path,
    show=placement.show,
    unit=run.options.model.unit,
  )


def evaluation_hooks(run, split, training_hook=None):
  """Returns the hooks that report the progress of an evaluation.

  Args:
    run: `preparation.Run`.
    training_hook: `ProgressHook` of a training that waits, or None.
  """
  if not run.placement.sees_every_step:
    return []
  return [
    EvaluationHook(
      examples=run.count_records(split),
      unit=run.options.model.unit,
      batch_size=run.eval_batch_size,
      training_hook=training_hook,
    )
  ]


def format_duration(seconds):
  """Returns a time in its two largest units.

  >>> format_duration(8.4), format_duration(131), format_duration(3720)
  ('8 s', '2 min 11 s', '1 h 02 min')
  """
  seconds = round(seconds)
  if seconds < 60:
    return f"{seconds} s"
  if seconds < 3600:
    return f"{seconds // 60} min {seconds % 60:02} s"
  return f"{seconds // 3600} h {seconds // 60 % 60:02} min"
