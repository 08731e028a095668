"""recomputation.py: what a layer keeps, and when it is computed again."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import recomputation
import modeling


def test_a_layer_keeps_what_it_reads_and_is_computed_once_its_gradient_is_due(
  graph,
):
  built = []

  def build(tokens, dropout):
    kernel = tf.get_variable("kernel", initializer=np.eye(3, dtype="f"))
    product = tf.matmul(tokens, kernel)
    built.append((product, tf.tanh(dropout(product, 0.5))))
    return built[-1][-1]

  key = modeling.dropout_key(1, tf.constant(3), 0)
  tokens = tf.constant([[1.0, 2.0, 3.0]] * 9)
  upstream = tf.placeholder(tf.float32, [9, 3])
  output = recomputation.recompute(build, tokens, modeling.Dropout(key))
  gradients = tf.gradients(
    output, [tokens, tf.trainable_variables()[0]], upstream
  )
  (_, once), (product, again) = built
  due = {upstream: np.ones([9, 3])}
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    kept = session.run(once)
    for early in (product, again):  # nothing of it is held before
      with pytest.raises(tf.errors.InvalidArgumentError, match="must feed"):
        session.run(early)
    np.testing.assert_array_equal(session.run(again, due), kept)
    assert 0 < (kept == 0).sum() < kept.size
    found = session.run(gradients, due)
    # What the layer computed at first is not needed any more.
    forgotten = session.run(gradients, {**due, once: np.zeros([9, 3])})
  assert all(np.abs(gradient).max() > 0 for gradient in found)
  for ours, theirs in zip(found, forgotten):
    np.testing.assert_array_equal(ours, theirs)
