"""The progress line, the form of the log, and the docstrings' examples."""

import doctest
import fcntl
import importlib
import io
import itertools
import logging
import os
import re
import select
import struct
import termios

from absl import logging as absl_logging
from conftest import ROOT, SCRIPTS
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import history, progress, status_line
from bert_classifier.errors import UserError
import optimization

MODULES = SCRIPTS + [
  f"bert_classifier.{p.stem}" for p in ROOT.glob("bert_classifier/*.py")
]


@pytest.mark.parametrize("name", sorted(MODULES))
def test_examples_in_docstrings_hold(name):
  assert doctest.testmod(importlib.import_module(name)).failed == 0


class Terminal(io.StringIO):
  def isatty(self):
    return True


@pytest.mark.parametrize(
  "seconds, words",
  [
    (0, "0 s"),
    (59.6, "1 min 00 s"),
    (3599.7, "1 h 00 min"),
    (90061, "25 h 01 min"),
  ],
)
def test_a_duration_is_given_in_its_two_largest_units(seconds, words):
  assert progress.format_duration(seconds) == words


def test_status_line_renews_itself_and_goes_away():
  stream = Terminal()
  status = status_line.StatusLine(stream)
  status.clear()
  assert stream.getvalue() == ""
  status.show("one")
  status.show("two")
  status.clear()
  status.clear()
  wrap_off, wrap_on, wipe = "\x1b[?7l", "\x1b[?7h", "\r\x1b[K"
  shown = [f"{wipe}{wrap_off}{word}{wrap_on}" for word in ("one", "two")]
  assert stream.getvalue() == "".join(shown) + wipe


def train(steps, log_steps, pass_second=None, first=0, **written):
  """Runs the hook over a session that counts, batches of 4 of 10 examples.

  Args:
    pass_second: called before each step.
    first: step that it goes on from.
    written: the hook's summary_dir and history_path.
  """
  loss = tf.identity(2.5, progress.ProgressHook.LOSS)
  rate = tf.identity(1e-4, progress.ProgressHook.RATE)
  tf.identity(3.5, optimization.GRADIENT_NORM)
  step = tf.train.get_or_create_global_step()
  begin, count = tf.assign(step, first), tf.assign_add(step, 1)
  scaffold = tf.train.Scaffold(init_fn=lambda _, session: session.run(begin))
  hook = progress.ProgressHook(
    steps,
    batch_size=4,
    examples=10,
    log_steps=log_steps,
    **written,
  )
  creator = tf.train.ChiefSessionCreator(scaffold)
  with tf.train.MonitoredSession(creator, [hook]) as session:
    for _ in range(first, steps):
      if pass_second:
        pass_second()
      session.run([count, loss, rate])


@pytest.fixture
def clock(monkeypatch):
  """The time that progress sees, in a list."""
  now = [100.0]
  monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
  return now


def tick(clock):
  """Returns a function that lets a second pass."""

  def pass_second():
    clock[0] += 1

  return pass_second


NUMBERS = {"loss": 2.5, "learning_rate": 1e-4, "gradient_norm": 3.5}


def test_tensorboard_gets_the_numbers_of_a_short_run_at_every_step(
  graph, tmp_path, clock
):
  train(
    steps=10, log_steps=4, pass_second=tick(clock), summary_dir=str(tmp_path)
  )
  (path,) = tmp_path.iterdir()
  written = {}
  for event in tf.train.summary_iterator(str(path)):
    for value in event.summary.value:
      written.setdefault(value.tag, {})[event.step] = value.simple_value
  for name, number in NUMBERS.items():
    assert written[name] == dict.fromkeys(range(1, 11), np.float32(number))
  # A second a step, of which the first line, with the start, tells no speed.
  assert written["global_step/sec"] == dict.fromkeys(range(2, 11), 1.0)
  assert written["examples/sec"] == dict.fromkeys(range(2, 11), 4.0)


@pytest.mark.parametrize(
  "log_steps, steps",
  [(100, [1, *range(2, 251, 2)]), (1, range(1, 251))],
)
def test_history_has_a_hundred_points_of_a_run_and_each_logged_step(
  graph, tmp_path, clock, log_steps, steps
):
  path = str(tmp_path / "history.jsonl")
  history.append(path, {"step": 4, "loss": 9.0})  # of a run that was killed
  train(
    steps=250, log_steps=log_steps, pass_second=tick(clock), history_path=path
  )
  entries = history.read(path)
  assert all(entry.pop("time") > 0 for entry in entries)
  speeds = [{}] + (len(steps) - 1) * [{"examples_per_second": 4.0}]
  assert entries == [
    {"step": step, "epoch": round(0.4 * step, 4), **NUMBERS, **speed}
    for step, speed in zip(steps, speeds)
  ]


def test_a_resumed_training_has_the_history_of_one_not_stopped(tmp_path):
  paths = [str(tmp_path / name) for name in ("whole", "resumed")]
  for path, firsts in zip(paths, ([0], [0, 102])):
    for first in firsts:
      with tf.Graph().as_default():
        train(steps=250, log_steps=100, first=first, history_path=path)
  whole, resumed = (
    [(entry["step"], entry["loss"]) for entry in history.read(path)]
    for path in paths
  )
  assert resumed == whole


def progress_lines(log):
  return [text for text in log.messages if text.startswith("step ")]


def test_line_comes_at_the_first_step_and_every_log_steps(graph, info):
  train(steps=10, log_steps=4)
  lines = progress_lines(info)
  assert [line.split(",")[0] for line in lines] == [
    "step 1/10",
    "step 4/10",
    "step 8/10",
    "step 10/10",
  ]
  assert re.fullmatch(
    r"step 4/10, epoch 1\.60, loss 2\.5000, learning rate 1\.00e-04,"
    r" [\d.]+ examples/s, \d+ s left",
    lines[1],
  )


def test_a_counter_tells_every_ten_seconds_the_first_apart(clock, info):
  counter = progress.Counter("predicted", 80)
  for _ in range(6):
    counter.add(10)
    clock[0] += 4
  told = ["predicted 40 of 80 examples, 2.5 examples/s, 16 s left"]
  assert info.messages == told
  counter = progress.Counter("converted")
  counted = progress.count_examples(range(5), counter, every=2)
  assert list(counted) == [0, 1, 2, 3, 4]
  assert str(counter) == "converted 4 examples"


def test_an_evaluation_tells_its_examples_and_no_filling(graph, clock, info):
  zero = tf.constant(0)
  hook = progress.EvaluationHook(examples=10, batch_size=4)
  with tf.train.MonitoredSession(hooks=[hook]) as session:
    for _ in range(3):
      session.run(zero)
      clock[0] += 1
  assert "evaluated 10 of 10 examples, 2.0 examples/s" in info.text


def test_an_evaluation_on_the_way_takes_no_time_of_training(graph, clock, info):
  step = tf.train.get_or_create_global_step()
  count = tf.assign_add(step, 1)
  hook = progress.ProgressHook(3, batch_size=4, examples=10, log_steps=1)
  with tf.train.MonitoredSession(hooks=[hook]) as session:
    for seconds in (1, 0.5, 0.5):
      clock[0] += seconds
      session.run(count)
      evaluation = progress.EvaluationHook(
        examples=4, batch_size=4, training_hook=hook
      )
      evaluation.begin()
      for _ in range(3):
        evaluation.after_run(None, None)
      clock[0] += 100
      evaluation.after_run(None, None)
      evaluation.end(None)
  assert [line.split(", ")[2:] for line in progress_lines(info)] == [
    [],
    ["8.0 examples/s", "0 s left"],
    ["8.0 examples/s", "0 s left"],
  ]


def test_an_evaluation_of_a_part_is_none():
  hook = progress.EvaluationHook(examples=9, batch_size=4)
  hook.begin()
  for _ in range(2):
    hook.after_run(None, None)
  with pytest.raises(UserError, match="ended after 8 of 9 examples"):
    hook.end(None)
  hook.after_run(None, None)
  hook.end(None)


def test_events_that_could_not_be_written_are_warned_of(
  graph, tmp_path, monkeypatch, info
):
  train(steps=2, log_steps=1, summary_dir=str(tmp_path / "whole"))
  assert "TensorBoard" not in info.text
  writer = tf.summary.FileWriterCache.get(str(tmp_path / "lost"))
  monkeypatch.setattr(writer, "add_summary", lambda *_: None)
  with tf.Graph().as_default():
    train(steps=2, log_steps=1, summary_dir=str(tmp_path / "lost"))
  assert "lacks the last steps for TensorBoard" in info.text


def test_terminal_has_no_lines_in_the_log(graph, info, monkeypatch):
  stream, seconds = Terminal(), itertools.count()
  monkeypatch.setattr(status_line, "STATUS", status_line.StatusLine(stream))
  monkeypatch.setattr(progress.time, "monotonic", lambda: next(seconds))
  train(steps=3, log_steps=1)
  assert not progress_lines(info)
  shown = re.findall(r"step (\d)/3", stream.getvalue())
  assert shown == ["1", "2", "3"]
  assert stream.getvalue().endswith("\r\x1b[K")


@pytest.fixture
def narrow_terminal():
  """What reads a terminal of 52 columns, and a stream that writes there."""
  reader, writer = os.openpty()
  fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 52, 0, 0))

  def read(end):
    """Reads up to a text that ends what was written, which may come late."""
    text = ""
    while not text.endswith(end) and select.select([reader], [], [], 10)[0]:
      text += os.read(reader, 4096).decode()
    return text

  with open(writer, "w") as stream:
    yield read, stream
  os.close(reader)


def test_a_narrow_terminal_shows_a_bar_that_a_log_line_erases(
  narrow_terminal, monkeypatch, clock
):
  read, stream = narrow_terminal
  status = status_line.StatusLine(stream)
  monkeypatch.setattr(status_line, "STATUS", status)
  counter = progress.Counter("read", 80)
  for _ in range(3):
    counter.add(10)
    clock[0] += 1
  shown = re.findall(r"\x1b\[\?7l(.*?)\x1b\[\?7h", read("5 s left\x1b[?7h"))
  assert shown[-1] == "[###.......]  38% read 30 of 80 examples, 5 s left"
  progress.set_up_logging()
  record = logging.LogRecord("absl", 20, "f.py", 1, "text", (), None)
  assert absl_logging.get_absl_handler().filter(record)
  assert read("\x1b[K") == "\r\x1b[K"


def test_log_line_has_time_and_level():
  progress.set_up_logging()
  handler = absl_logging.get_absl_handler()
  levels = {"INFO": "INFO ", "WARNING": "WARN ", "ERROR": "ERROR"}
  for level, shown in levels.items():
    number = getattr(logging, level)
    record = logging.LogRecord("absl", number, "f.py", 1, "text", (), None)
    line = handler.format(record)
    assert re.fullmatch(
      rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d,\d{{3}} \[{shown}\] text", line
    )
