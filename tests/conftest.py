"""What the test files share."""

import io
import logging
import os
from typing import NamedTuple

# Before the first import of TensorFlow: its start-up banners are no warnings.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import logging as absl_logging
from absl.testing import flagsaver
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

GOLDEN = os.path.join(os.path.dirname(__file__), "golden")


@pytest.fixture(scope="session")
def golden():
  """Arrays measured on the 2018 model: inputs, outputs, training."""
  with np.load(os.path.join(GOLDEN, "model.npz")) as arrays:
    return dict(arrays)


@pytest.fixture(scope="session")
def golden_checkpoint():
  """Prefix of the checkpoint that the arrays were measured with."""
  return os.path.join(GOLDEN, "checkpoint", "bert_model.ckpt")


@pytest.fixture(scope="session")
def golden_config():
  """Path of the configuration that belongs to it."""
  return os.path.join(GOLDEN, "checkpoint", "bert_config.json")


@pytest.fixture
def graph():
  """A graph of its own for one test."""
  with tf.Graph().as_default() as graph:
    yield graph


@pytest.fixture
def run(graph):
  """Runs fetches, a new session each time, variables initialized."""

  def run(fetches, feed_dict=None):
    with tf.Session(graph=graph) as session:
      session.run(tf.global_variables_initializer())
      session.run(tf.local_variables_initializer())
      return session.run(fetches, feed_dict)

  return run


# ---------------------------------------------------------------------------
# The script itself, run in this process


@pytest.fixture(scope="session")
def golden_task():
  """Folder of the small MRPC-format task that the 2018 script was run on."""
  return os.path.join(GOLDEN, "end_to_end")


class Outcome(NamedTuple):
  """Exit status and log of a run of the script."""

  status: int
  log: str


@pytest.fixture(scope="session")
def classify(golden_task, tmp_path_factory):
  """Runs `run_classifier.main` by flags, over those of the golden task."""
  import run_classifier

  defaults = dict(
    task_name="mrpc",
    data_dir=f"{golden_task}/data",
    cache_dir=tmp_path_factory.mktemp("cache"),
    vocab_file=f"{golden_task}/vocab.txt",
    init_checkpoint=f"{golden_task}/checkpoint",
    max_seq_length=24,
    num_threads=1,
  )

  def classify(*arguments, **flags):
    flags = {**defaults, **flags}
    given = [f"--{n}={v}" for n, v in flags.items() if v is not None]
    log, status = io.StringIO(), 0
    handler = logging.StreamHandler(log)
    logging.getLogger().addHandler(handler)
    verbosity = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.INFO)
    try:
      with flagsaver.flagsaver():
        run_classifier.main(run_classifier.FLAGS(["run", *given, *arguments]))
    except SystemExit as exit_:
      status = exit_.code
    finally:
      absl_logging.set_verbosity(verbosity)
      logging.getLogger().removeHandler(handler)
    return Outcome(status, log.getvalue())

  classify.defaults = defaults
  return classify
