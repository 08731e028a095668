"""The fused optimizer, against the plain one."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import fast_optimization
import optimization

pytestmark = pytest.mark.quick


def updated(optimizer_class, steps=4):
  """Variables after some steps on a loss with a looked-up table."""
  with tf.Graph().as_default(), tf.Session() as session:
    table = tf.get_variable(
      "table", initializer=np.linspace(-1, 1, 40, dtype="f").reshape(10, 4)
    )
    bias = tf.get_variable("bias", initializer=np.full(4, 0.5, "f"))
    rows = tf.gather(table, [1, 3, 3, 7])
    loss = tf.reduce_sum(tf.square(rows * 3.0 + bias))
    rate = tf.constant(1e-3)
    optimizer = optimization.make_optimizer(rate, optimizer_class)
    train = optimization.training_step(
      loss, optimizer, tf.train.create_global_step()
    )
    session.run(tf.global_variables_initializer())
    before = session.run({v.name: v for v in tf.trainable_variables()})
    for _ in range(steps):
      session.run(train)
    return before, session.run({v.name: v for v in tf.global_variables()})


def test_fused_update_equals_separate_operations():
  before, ours = updated(fast_optimization.FusedAdamWeightDecayOptimizer)
  _, theirs = updated(optimization.AdamWeightDecayOptimizer)
  assert ours.keys() == theirs.keys() and ours["global_step:0"] == 4
  assert len(ours) == 7
  for name, value in theirs.items():
    np.testing.assert_allclose(ours[name], value, rtol=1e-5, atol=1e-6)
  for name, value in before.items():
    assert np.abs(ours[name] - value).max() > 1e-3


def test_variables_of_one_dtype_share_their_scalars(graph):
  variables = [tf.get_variable(f"v{n}", [2]) for n in range(3)]
  rate = tf.constant(1e-3)
  optimizer = optimization.make_optimizer(
    rate, fast_optimization.FusedAdamWeightDecayOptimizer
  )
  optimizer.apply_gradients([(tf.ones([2]), v) for v in variables])
  updates = [
    op for op in graph.get_operations() if op.type == "ResourceApplyAdam"
  ]
  assert len(updates) == 3
  assert len({tuple(i.name for i in op.inputs[3:9]) for op in updates}) == 1


def test_reference_variable_is_refused_with_what_takes_it(graph):
  variable = tf.get_variable("w", [2], use_resource=False)
  optimizer = fast_optimization.FusedAdamWeightDecayOptimizer(0.1)
  with pytest.raises(
    ValueError, match="w:0 is a reference .* optimization.Adam"
  ):
    optimizer.apply_gradients([(tf.ones([2]), variable)])
