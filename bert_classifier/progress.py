"""What a run says while it works: the form of the log, the progress line."""

import logging as python_logging
import sys
import time

from absl import logging
import tensorflow.compat.v1 as tf

_RENEW_SECONDS = 0.5  # on a terminal
_LOG_SECONDS = 10.0


class StatusLine:
  """One line at the bottom of a terminal that renews itself.

  Args:
    stream: where to write; nothing is written where it is no terminal.
  """

  def __init__(self, stream):
    self._stream = stream
    self.is_terminal = stream.isatty()
    self._shown = False

  def show(self, text):
    """Puts `text` in the place of what was shown, in one row of the terminal.

    Line wrap is off meanwhile: of a text that went on in a second row only that
    row could be taken away again. What is too long is cut.
    """
    self._stream.write(f"\r\x1b[K\x1b[?7l{text}\x1b[?7h")
    self._stream.flush()
    self._shown = True

  def clear(self):
    """Takes the line away, so that something else can be written."""
    if self._shown:
      self._stream.write("\r\x1b[K")
      self._stream.flush()
      self._shown = False


STATUS = StatusLine(sys.stderr)


def set_up_logging():
  """Log lines carry time and level, TensorFlow's warnings included.

  2026-01-31 12:00:00,000 [INFO ] text
  """
  handler = logging.get_absl_handler()
  handler.setFormatter(_Formatter("%(asctime)s [%(level)s] %(message)s"))
  handler.addFilter(_above_status_line)
  tensorflow = tf.get_logger()
  tensorflow.handlers.clear()
  tensorflow.propagate = True
  tensorflow.setLevel(python_logging.WARNING)


def _above_status_line(record):
  del record
  STATUS.clear()
  return True


_LEVELS = {"WARNING": "WARN ", "CRITICAL": "FATAL"}


class _Formatter(python_logging.Formatter):
  """Shortens the names of levels to five letters, so that texts line up."""

  def format(self, record):
    record.level = _LEVELS.get(record.levelname, f"{record.levelname:5}")
    return super().format(record)


def _tell(line):
  """Into the line that renews itself, or into the log."""
  if STATUS.is_terminal:
    STATUS.show(line)
  else:
    logging.info("%s", line)


class Counter:
  """Tells how many rows have been dealt with, how fast, and the time left.

  In a log every ten seconds; on a terminal in one line that renews itself.

  Args:
    done: what happens to a row: "converted".
    total: rows in all; None where nobody knows.
  """

  def __init__(self, done, total=None):
    self._done, self._total = done, total
    self._rows = self._first_rows = 0
    self._began = self._told = None

  def add(self, rows):
    """Counts `rows` more; any beyond the total only fill a batch.

    The rows of the first call, which has start-up in it, are not in the rate.
    """
    now = time.monotonic()
    self._rows += rows
    if self._total is not None:
      self._rows = min(self._rows, self._total)
    if self._began is None:
      self._began = self._told = now
      self._first_rows = self._rows
    elif now - self._told >= (
      _RENEW_SECONDS if STATUS.is_terminal else _LOG_SECONDS
    ):
      self._told = now
      _tell(str(self))

  def __str__(self):
    """Like "converted 2000 of 6000 rows, 1500.0 rows/s, 3 s left"."""
    seconds = time.monotonic() - self._began if self._began else 0.0
    of_all = f" of {self._total}" if self._total else ""
    text = f"{self._done} {self._rows}{of_all} rows"
    rows = self._rows - self._first_rows
    if not (rows and seconds):
      return text
    text += f", {rows / seconds:.1f} rows/s"
    if self._total and self._rows < self._total:
      left = (self._total - self._rows) * seconds / rows
      text += f", {duration(left)} left"
    return text


def counted(items, counter, rows=1000):
  """Yields the items, and tells a `Counter` whenever so many more are done."""
  try:
    for number, item in enumerate(items, 1):
      yield item
      if number % rows == 0:
        counter.add(rows)
  finally:
    STATUS.clear()


class ProgressHook(tf.train.SessionRunHook):
  """Tells step, epoch, loss, rate, speed and time left.

  In a log a line at the first step, then every `log_steps`; on a terminal one
  line that renews itself. At the same steps loss and rate are written for
  TensorBoard. Of a TPU, which runs many steps at a time, the Estimator logs the
  loss.

  Args:
    total_steps: N.
    batch_size: examples a step.
    rows: examples an epoch.
    log_steps: steps between two lines.
    steps_per_run: steps that one call of the session takes.
    summary_dir: folder of what is written for TensorBoard; None for nothing.
  """

  # Tensors that model_fn gives these names.
  LOSS = "training_loss"
  RATE = "training_rate"

  def __init__(
    self,
    total_steps,
    *,
    batch_size,
    rows,
    log_steps,
    steps_per_run=1,
    summary_dir=None,
  ):
    self._total, self._batch, self._rows = total_steps, batch_size, rows
    self._log_steps, self._steps_per_run = log_steps, steps_per_run
    self._summary_dir, self._writer = summary_dir, None
    self._fetches = {}

  def begin(self):
    if self._summary_dir:
      self._writer = tf.summary.FileWriterCache.get(self._summary_dir)
    graph = tf.get_default_graph()
    for name in (self.LOSS, self.RATE):
      try:
        self._fetches[name] = graph.get_tensor_by_name(f"{name}:0")
      except KeyError:  # inside the replicated function of a TPU
        self._fetches = {}
        break

  def after_create_session(self, session, coord):
    del coord
    step = tf.train.get_global_step()
    self._first = self._step = self._told_step = int(session.run(step))
    self._told_time = time.monotonic()

  def before_run(self, run_context):
    del run_context
    # The same in every step: for each set of fetches that it has not met, the
    # session prepares a graph, which takes a second.
    return tf.train.SessionRunArgs(self._fetches)

  def after_run(self, run_context, run_values):
    del run_context
    self._step = min(self._step + self._steps_per_run, self._total)
    is_due = self._is_due()
    if is_due and self._writer:
      self._summarize(run_values.results)
    if STATUS.is_terminal:
      is_due = time.monotonic() - self._told_time > _RENEW_SECONDS
    if is_due:
      self._tell(run_values.results)

  def end(self, session):
    del session
    STATUS.clear()
    if self._writer:
      self._writer.flush()

  def pause(self, seconds):
    """Leaves `seconds` spent elsewhere out of the next line's speed."""
    self._told_time += seconds

  def _is_due(self):
    first = self._first + self._steps_per_run
    return (
      self._step in (first, self._total)
      or self._step % self._log_steps < self._steps_per_run
    )

  def _summarize(self, values):
    tags = {self.LOSS: "loss", self.RATE: "learning_rate"}
    summary = tf.Summary(
      value=[
        tf.Summary.Value(tag=tags[name], simple_value=value)
        for name, value in values.items()
      ]
    )
    self._writer.add_summary(summary, self._step)

  def _tell(self, values):
    parts = [
      f"step {self._step}/{self._total}",
      f"epoch {self._step * self._batch / self._rows:.2f}",
    ]
    if values:
      parts.append(f"loss {values[self.LOSS]:.4f}")
      parts.append(f"learning rate {values[self.RATE]:.2e}")
    parts += self._speed()
    _tell(", ".join(parts))

  def _speed(self):
    """Examples a second since the last line, and the time that is left.

    Nothing at the first step, in which TensorFlow still prepares the graph.
    """
    now = time.monotonic()
    seconds, steps = now - self._told_time, self._step - self._told_step
    starting = self._told_step == self._first
    self._told_step, self._told_time = self._step, now
    if starting or not steps:
      return []
    left = (self._total - self._step) * seconds / steps
    return [
      f"{steps * self._batch / seconds:.1f} examples/s",
      f"{duration(left)} left",
    ]


class EvaluationHook(tf.train.SessionRunHook):
  """Tells how far an evaluation is.

  Args:
    rows: rows in all.
    batch_size: rows that one call of the session takes.
    training: the `ProgressHook` of a training that waits; the time from the
      evaluation's session to its end does not count as training's.
  """

  def __init__(self, *, rows, batch_size, training=None):
    self._rows, self._batch, self._training = rows, batch_size, training

  def begin(self):
    self._began = time.monotonic()
    self._counter = Counter("evaluated", self._rows)

  def after_run(self, run_context, run_values):
    del run_context, run_values
    self._counter.add(self._batch)

  def end(self, session):
    del session
    logging.info("%s", self._counter)
    if self._training:
      self._training.pause(time.monotonic() - self._began)


def duration(seconds):
  """A time in the two units that matter.

  >>> duration(8.4), duration(131), duration(3720)
  ('8 s', '2 min 11 s', '1 h 02 min')
  """
  seconds = round(seconds)
  if seconds < 60:
    return f"{seconds} s"
  if seconds < 3600:
    return f"{seconds // 60} min {seconds % 60:02} s"
  return f"{seconds // 3600} h {seconds // 60 % 60:02} min"
