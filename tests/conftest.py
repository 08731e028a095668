"""What the test files share."""

import os

# Before the first import of TensorFlow: its start-up banners are no warnings.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

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
