"""The process: its standard streams, its signals, the form of its log's lines.

Nothing here imports TensorFlow, which takes seconds: a mistake in a flag, and
Ctrl-C, need not wait for it.
"""

import contextlib
import logging
import os
import re
import signal
import sys
import threading
import traceback


class Terminated(KeyboardInterrupt):
  """SIGTERM: the end of a job's time, or somebody's kill."""


def open_standard_streams():
  """Opens those of stdin, stdout and stderr that are closed, to no effect.

  Else the next file that is opened, a checkpoint perhaps, would get the number
  of stderr, and with it what libraries write there.
  """
  for number, name in enumerate(("stdin", "stdout", "stderr")):
    if getattr(sys, name) is not None:
      continue
    null = os.open(os.devnull, os.O_RDWR)
    if null != number:
      os.dup2(null, number)
      os.close(null)
    mode = "r" if name == "stdin" else "w"
    setattr(sys, name, os.fdopen(number, mode, encoding="utf-8"))


# ---------------------------------------------------------------------------
# Lines of the log


class LogFormatter(logging.Formatter):
  """Puts time and level, in five letters, before each line.

  Args:
    speaker: name of this process, where several write to one log.
  """

  LEVELS = {"WARNING": "WARN ", "CRITICAL": "FATAL"}

  def __init__(self, speaker=""):
    super().__init__("%(asctime)s [%(level)s] %(speaker)s%(message)s")
    self._speaker = f"{speaker}: " if speaker else ""

  def format(self, record):
    record.speaker = self._speaker
    record.level = self.LEVELS.get(record.levelname, f"{record.levelname:5}")
    return super().format(record)


def format_line(sentence, level="ERROR"):
  """Returns a line of the log, for where there is no log yet."""
  values = dict(levelname=level, msg=sentence)
  return LogFormatter().format(logging.makeLogRecord(values))


def print_to_the_end(text):
  """Prints a text; a reader that stops reading, as `head` does, is no error.

  Returns:
    Whether there is a reader.
  """
  try:
    print(text, flush=True)
    return True
  except OSError as error:
    # Python flushes stdout once more when it ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if not isinstance(error, BrokenPipeError):
      raise
    return False


# ---------------------------------------------------------------------------
# Signals

_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
BEGINS_AGAIN = "the same command begins again"


def describe_end(interruption):
  """Returns exit status and sentence for a KeyboardInterrupt that ends a run.

  Args:
    interruption: a KeyboardInterrupt, which may carry advice, or `Terminated`.
  """
  is_terminated = isinstance(interruption, Terminated)
  number = signal.SIGTERM if is_terminated else signal.SIGINT
  advice = str(interruption) or BEGINS_AGAIN
  return 128 + number, f"{_WORDS[number]}; {advice}"


# Environment variable that `launcher` gives to the processes of one command:
# the number of a file that has one byte for all of them.
LAST_WORD = "BERT_CLASSIFIER_LAST_WORD"
# What one of them starts lacks the file, so it must not find the number.
_last_word = os.environ.pop(LAST_WORD, None)


def takes_last_word():
  """Returns whether this process says what ends it.

  Of several that a launcher has started, the first does: the others have the
  same mistake or the same signal, or are ended because of it.
  """
  return _last_word is None or bool(os.read(int(_last_word), 1))


_skips_cleanup = False


def skip_cleanup():
  """Lets `exit_with` end the process at once.

  For a process whose TensorFlow would wait, when Python cleans up, for others
  that wait for this one to end.
  """
  global _skips_cleanup
  _skips_cleanup = True


def exit_with(status):
  """Ends the process."""
  if _skips_cleanup:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
  sys.exit(status)


def end_at_signals():
  """Lets Ctrl-C and SIGTERM end the process at once, without a traceback.

  For the time of the imports, where an exception could be lost in a library.
  """

  _handle(dict.fromkeys(_WORDS, _end))


def _end(number, frame):
  """Ends the process at a signal, with a sentence."""
  del frame
  sentence = f"{_WORDS[number]}; {BEGINS_AGAIN}"
  if takes_last_word():
    os.write(2, f"{format_line(sentence)}\n".encode())
  os._exit(128 + number)


def explain_interrupted_import(module):
  """Lets Ctrl-C and SIGTERM during a module's import end with a sentence.

  For the scripts of tasks, which import run_classifier and TensorFlow with it.
  Nothing changes where the KeyboardInterrupt is caught, or comes later, or
  where the importer handles SIGTERM itself.

  Args:
    module: its `__name__`.

  Returns:
    The function to call when the import is done.
  """
  show = sys.excepthook
  before = {}
  if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
    before = _handle({signal.SIGTERM: _end})

  def explain(kind, error, trace):
    within = [
      frame.f_globals.get("__name__")
      for frame, _ in traceback.walk_tb(trace)
      if frame.f_code.co_name == "<module>"
    ]
    if issubclass(kind, KeyboardInterrupt) and module in within:
      _, sentence = describe_end(error)
      sys.stderr.write(f"{format_line(sentence)}\n")
    else:
      show(kind, error, trace)

  sys.excepthook = explain
  return lambda: _handle(before)


@contextlib.contextmanager
def signals_as_exceptions():
  """Raises KeyboardInterrupt at Ctrl-C, and `Terminated` at SIGTERM, inside."""

  def terminate(number, frame):
    raise Terminated

  before = _handle(
    {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: terminate}
  )
  try:
    yield
  finally:
    _handle(before)


@contextlib.contextmanager
def signals_in_sight():
  """Raises the exception of a signal where a library's has taken its place.

  pybind11 does so where a signal comes while it makes an exception of an error.
  """
  try:
    yield
  except RuntimeError as error:
    hidden = re.search(r"\bREPLACED BY (\w+)", str(error))
    for kind in (KeyboardInterrupt, Terminated):
      if hidden and hidden[1] == kind.__name__:
        raise kind from error
    raise


def _handle(handlers):
  """Sets what handles signals; returns what did before, by number.

  A signal that is ignored, as in a job that nohup started, stays so. Threads
  other than the first cannot handle signals.
  """
  if threading.current_thread() is not threading.main_thread():
    return {}
  before = {number: signal.getsignal(number) for number in handlers}
  for number, handler in handlers.items():
    # None is a handler that is not Python's.
    if handler is not None and before[number] != signal.SIG_IGN:
      signal.signal(number, handler)
  return before
