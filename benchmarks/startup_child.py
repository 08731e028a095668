"""run_classifier.py, clocked until its second training step; for startup.py.

Takes the script's flags. The environment variable BEGAN is the time at which
the process was started; prints {stage: seconds} as JSON.
"""

import time

started = time.time()

import functools  # noqa: E402
import importlib  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # as the script does
import tensorflow  # noqa: E402, F401

tensorflow_is_there = time.time()

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from absl import app  # noqa: E402

from bert_classifier import progress  # noqa: E402
import run_classifier  # noqa: E402

scripts_are_there = time.time()

# What is clocked: module and, in it, the function.
STAGES = {
  "checks, cache, names of the weights": (
    "bert_classifier.preparation prepare"
  ),
  "weights to TensorFlow's format": (
    "bert_classifier.checkpoints Checkpoint.convert_to_tensorflow"
  ),
  "graph: input": "run_classifier tf.estimator.tpu.TPUEstimator._call_input_fn",
  "graph: model": "modeling BertForSequenceClassification.logits",
  "graph: gradients and optimizer": (
    "bert_classifier.training_step TrainingStep.add"
  ),
  "graph: saver, summaries": "run_classifier tf.train.Scaffold.finalize",
  "graph.pbtxt and meta graph": (
    "tensorflow.python.training.basic_session_run_hooks"
    " CheckpointSaverHook.after_create_session"
  ),
  "session, initial values": (
    "run_classifier tf.train.SessionManager.prepare_session"
  ),
  "checkpoint of step 0": "run_classifier tf.train.Saver.save",
}
spent = {}
inner = []  # of each open stage, the seconds of the stages within it


def clock(stage, place):
  """Replaces a function by one that adds its seconds to those of a stage."""
  module, _, path = place.partition(" ")
  *owners, name = path.split(".")
  owner = functools.reduce(getattr, owners, importlib.import_module(module))
  function = getattr(owner, name)

  @functools.wraps(function)
  def clocked(*args, **kwargs):
    began = time.time()
    inner.append(0.0)
    try:
      return function(*args, **kwargs)
    finally:
      taken = time.time() - began
      spent[stage] = spent.get(stage, 0.0) + taken - inner.pop()
      if inner:
        inner[-1] += taken

  setattr(owner, name, clocked)


class TwoSteps(progress.ProgressHook):
  """Ends the process after two steps, with what was measured."""

  def before_run(self, run_context):
    self._began = time.time()
    return super().before_run(run_context)

  def after_run(self, run_context, run_values):
    now = time.time()
    if "step 1" not in spent:
      spent["step 1"] = now - self._began
      spent["to the end of step 1"] = now - float(os.environ["BEGAN"])
      return
    spent["step 2"] = now - self._began
    print(json.dumps(spent), flush=True)
    os._exit(0)


spent["Python"] = started - float(os.environ["BEGAN"])
spent["import TensorFlow"] = tensorflow_is_there - started
spent["import the scripts and Estimator"] = (
  scripts_are_there - tensorflow_is_there
)
for name, place in STAGES.items():
  clock(name, place)
progress.ProgressHook = TwoSteps
app.run(run_classifier.main, flags_parser=run_classifier.parse_flags)
