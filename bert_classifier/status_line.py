"""The line at the bottom of a terminal that tells how far a run is.

Nothing here imports TensorFlow.
"""

import os
import sys

from absl import logging

_USUAL_COLUMNS = 80  # of a terminal that does not tell
_BARS = 20, 10  # columns of the bar; the second where there is less room
# What a line leaves out where the terminal is narrow, the first before others.
_DISPENSABLE = "learning rate", "epoch", "loss", "speed"


class StatusLine:
  """A line at the bottom of a terminal that is written over and over.

  Args:
    stream: where to write, `is_terminal` where that makes sense.
  """

  def __init__(self, stream):
    self._stream = stream
    self.is_terminal = stream.isatty()
    self._shown = False

  def show(self, text):
    """Replaces what was shown by `text`, cut to the width of the terminal.

    Line wrap is off meanwhile: of a text on two lines of the terminal only the
    second could be erased.
    """
    self._stream.write(f"\r\x1b[K\x1b[?7l{text}\x1b[?7h")
    self._stream.flush()
    self._shown = True

  def columns(self):
    """Returns the width of the terminal."""
    try:
      columns = os.get_terminal_size(self._stream.fileno()).columns
    except (OSError, ValueError):  # it is none, or tells nothing
      columns = 0
    return columns or _USUAL_COLUMNS

  def clear(self):
    """Erases the line, so that something else can be written."""
    if self._shown:
      self._stream.write("\r\x1b[K")
      self._stream.flush()
      self._shown = False


STATUS = StatusLine(sys.stderr)


def report(parts, share=None):
  """Writes to the status line on a terminal, else to the log.

  Args:
    parts: dictionary of phrases, in their order.
    share: of the whole that is done, None where that is unknown.
  """
  if STATUS.is_terminal:
    STATUS.show(fit(parts, share, STATUS.columns()))
  else:
    logging.info("%s", ", ".join(parts.values()))


def fit(parts, share, columns):
  """Returns what of a line of progress a terminal has room for.

  >>> parts = {"done": "step 5/10", "loss": "loss 0.1", "left": "3 s left"}
  >>> fit(parts, 0.5, 60)
  '[##########..........]  50% step 5/10, loss 0.1, 3 s left'
  >>> fit(parts, 0.5, 50)
  '[#####.....]  50% step 5/10, loss 0.1, 3 s left'
  >>> fit(parts, 0.5, 40)
  '[#####.....]  50% step 5/10, 3 s left'
  >>> fit(parts, None, 24)
  'step 5/10, 3 s left'

  Args:
    parts, share: as of `report`.
    columns: width of the terminal.
  """
  parts = dict(parts)

  def text(bar=0):
    line = ", ".join(parts.values())
    if share is None or not bar:
      return line
    done = int(share * bar)
    return f"[{'#' * done}{'.' * (bar - done)}] {share:4.0%} {line}"

  for name in _DISPENSABLE:
    if len(text(_BARS[-1])) > columns:
      parts.pop(name, None)
  lines = map(text, _BARS)
  return next((line for line in lines if len(line) <= columns), text())
