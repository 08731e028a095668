"""benchmarks/speed.py: what its sides compute is the same."""

import contextlib
from unittest import mock

import numpy as np
import pytest
import speed
import speed_forms
import tensorflow.compat.v1 as tf

import modeling
import optimization

JOB = dict(
  mode="training",
  labels=3,
  model=dict(
    vocab_size=50,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=32,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
  ),
)


def after_a_step(name, weights=None):
  """Weights before a step of a side, and all variables after it."""
  numbers = np.random.default_rng(0)
  lengths = numbers.integers(2, 13, 8)
  mask = np.arange(12) < lengths[:, np.newaxis]
  features = {
    "input_ids": numbers.integers(1, 50, [8, 12]) * mask,
    "input_mask": mask,
    "segment_ids": numbers.integers(0, 2, [8, 12]) * mask,
    "label_ids": numbers.integers(0, 3, 8),
  }
  patches, parts = speed_forms.changes(name)
  with contextlib.ExitStack() as stack:
    stack.enter_context(tf.Graph().as_default())
    session = stack.enter_context(tf.Session())
    tf.set_random_seed(1)
    for target, attribute, form in patches:
      stack.enter_context(mock.patch.object(target, attribute, form))
    inputs = {
      column: tf.placeholder_with_default(
        values.astype(np.int32), [None, *values.shape[1:]]
      )
      for column, values in features.items()
    }
    step = speed.step_of(JOB, inputs, **parts)
    session.run(tf.global_variables_initializer())
    trained = {v.name: v for v in tf.trainable_variables()}
    for key, value in (weights or {}).items():
      trained[key].load(value, session)
    before = session.run(trained)
    session.run(step)
    return before, session.run({v.name: v for v in tf.global_variables()})


@pytest.fixture(scope="module")
def ours():
  """Our side's weights and variables; no dropout and a fixed rate for all."""
  with pytest.MonkeyPatch.context() as patch:
    head = modeling.BertForSequenceClassification
    patch.setattr(head, "HEAD_DROPOUT", 0)
    patch.setattr(
      optimization, "learning_rate_schedule", lambda *args: tf.constant(1e-3)
    )
    yield after_a_step("ours")


@pytest.mark.parametrize("side", ["original", "embedding_lookup", "optimizer"])
def test_2018s_way_takes_the_step_that_ours_takes(side, ours):
  weights, expected = ours
  moved = [np.abs(expected[name] - weights[name]).max() for name in weights]
  assert np.median(moved) > 1e-4
  _, found = after_a_step(side, weights)
  assert found.keys() == expected.keys()
  for name, values in expected.items():
    np.testing.assert_allclose(found[name], values, 1e-4, 1e-6, err_msg=name)
