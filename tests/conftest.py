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

from bert_classifier import feature_cache
from bert_classifier.catalogue import MrpcProcessor
from bert_classifier.tasks import TaskData
import tokenization

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


# ---------------------------------------------------------------------------
# Tasks, features and their cache


def write_rows(path, *rows, end="\n", start=b""):
  """Writes rows, each a list of cells or a string; returns the folder."""
  lines = (row if isinstance(row, str) else "\t".join(row) for row in rows)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(start + "".join(line + end for line in lines).encode())
  return str(path.parent)


def read_examples(processor, folder, split="train"):
  """Returns the list of a split's examples."""
  return list(TaskData(processor, str(folder)).examples(split))


def read_records(path):
  """Returns what a TFRecord file holds, a dictionary of lists an example."""
  parsed = []
  for record in tf.python_io.tf_record_iterator(path):
    by_name = tf.train.Example.FromString(record).features.feature
    parsed.append(
      {
        name: list(getattr(value, value.WhichOneof("kind")).value)
        for name, value in by_name.items()
      }
    )
  return parsed


@pytest.fixture
def info(caplog):
  """The log of a test, information included."""
  caplog.set_level(logging.INFO, "absl")
  return caplog


@pytest.fixture
def tokenizer(golden_task):
  return tokenization.FullTokenizer(f"{golden_task}/vocab.txt")


@pytest.fixture
def cache(golden_task, tokenizer, tmp_path):
  """Makes the cache of the golden task, with what a test has different."""

  def cache(
    processor=None,
    length=24,
    tokenizer=tokenizer,
    processes=1,
    task="mrpc",
    folder=f"{golden_task}/data",
    **inputs,
  ):
    return feature_cache.FeatureCache(
      TaskData(processor or MrpcProcessor(), str(folder)),
      task,
      cache_dir=str(tmp_path),
      max_seq_length=length,
      tokenizer_inputs={"vocabulary": "v", "do_lower_case": True, **inputs},
      tokenizer=tokenizer,
      num_processes=processes,
    )

  return cache
