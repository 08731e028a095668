"""run_classifier.py, whose training is clocked; for whole_script.py.

Takes the script's flags, of which --log_steps is the number of steps to pass
over. Prints what the steps after them took, as JSON: `seconds`, of these the
seconds `in_session`, that is in the calls of the session that compute steps,
and `processor` seconds; and `input`, the processor seconds that as many batches
take when nothing but the input is computed.
"""

import functools
import json
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # as the script does
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from absl import app, flags
import tensorflow.compat.v1 as tf

from bert_classifier import progress
import run_classifier

in_session = 0.0
marks = []  # of each step: seconds, seconds in the session, processor seconds
input_fns = []


def clocked(function):
  """Calls Session.run; adds up what the calls take that compute a step."""

  @functools.wraps(function)
  def run(self, fetches, *args, **kwargs):
    global in_session
    began = time.perf_counter()
    try:
      return function(self, fetches, *args, **kwargs)
    finally:
      # What a MonitoredSession's caller wants, and hooks beside it; hooks call
      # the session for themselves as well.
      if isinstance(fetches, dict) and "caller" in fetches:
        in_session += time.perf_counter() - began

  return run


def kept(function):
  """Returns a function that gives input_fns and keeps them."""

  @functools.wraps(function)
  def make(*args, **kwargs):
    input_fns.append(function(*args, **kwargs))
    return input_fns[-1]

  return make


class MarkingHook(progress.ProgressHook):
  """Marks the time once a step, always at the same place among the hooks."""

  def after_run(self, run_context, run_values):
    super().after_run(run_context, run_values)
    marks.append((time.perf_counter(), in_session, time.process_time()))


def input_alone(input_fn, batch_size, steps):
  """Returns the processor seconds of so many batches."""
  with tf.Graph().as_default(), tf.Session() as session:
    rows = input_fn({"batch_size": batch_size})
    following = rows.make_one_shot_iterator().get_next()
    session.run(following)  # fills what is shuffled
    began = time.process_time()
    for _ in range(steps):
      session.run(following)
    return time.process_time() - began


def main(argv):
  run_classifier.main(argv)
  counted = marks[flags.FLAGS.log_steps - 1 :]
  steps = len(counted) - 1
  told = [last - first for first, last in zip(counted[0], counted[-1])]
  told.append(input_alone(input_fns[0], flags.FLAGS.train_batch_size, steps))
  names = ("seconds", "in_session", "processor", "input")
  print(json.dumps(dict(zip(names, told))))


tf.Session.run = clocked(tf.Session.run)
run_classifier.input_fn_for = kept(run_classifier.input_fn_for)
progress.ProgressHook = MarkingHook
app.run(main, flags_parser=run_classifier.parse_flags)
