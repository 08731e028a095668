"""Rate, AdamW and the training step, against 2018's figures and NumPy."""

import functools
import re

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import batches, fast_modeling, fast_optimization
import modeling
import optimization

pytestmark = [pytest.mark.quick, pytest.mark.usefixtures("graph")]

# ---------------------------------------------------------------------------
# Equal to the original


FORMS = {
  "plain": (modeling.PLAIN, optimization.AdamWeightDecayOptimizer),
  "real tokens": (
    fast_modeling.forms(skip_padding=True),
    fast_optimization.FusedAdamWeightDecayOptimizer,
  ),
  "every position": (
    fast_modeling.forms(skip_padding=False),
    fast_optimization.FusedAdamWeightDecayOptimizer,
  ),
}


LOOKUPS = {"gather": False, "onehot": True}


@pytest.fixture(scope="module")
def golden_training(golden, golden_config, golden_checkpoint):
  """Trains on the golden batch by a form and a lookup; each once.

  Returns the norms of the clipped and of the whole gradients before the first
  step, the latter also as hooks find it, the loss before each, and the
  variables after the last, by name.
  """

  names = ("input_ids", "input_mask", "segment_ids", "label_ids")

  def build(form, lookup, parts):
    """Returns the norms, the loss and the training operation of a graph."""
    forms, optimizer_class = FORMS[form]
    config = modeling.BertConfig.from_json_file(golden_config)
    features = {name: tf.constant(golden[name]) for name in names}
    model = modeling.BertForSequenceClassification(
      config, 3, use_one_hot_embeddings=LOOKUPS[lookup], forms=forms
    )

    def loss_of_part(number):
      return model(batches.take_part(features, number, parts))["loss"]

    named = f"{optimization.GRADIENT_NORM}:0"
    steps, warmup, rate = golden["trajectory_T_W_LR"]
    step = tf.train.get_or_create_global_step()
    schedule = optimization.learning_rate_schedule(rate, steps, warmup, step)
    optimizer = optimization.make_optimizer(schedule, optimizer_class)
    if parts > 1:
      loss, pairs = optimization.compute_gradients(
        loss_of_part, optimizer, parts
      )
      return [named], loss, optimization.update_step(pairs, optimizer, step)
    loss = loss_of_part(0)
    gradients = tf.gradients(loss, tf.trainable_variables())
    norms = [
      tf.linalg.global_norm(optimization.clip(gradients)),
      tf.linalg.global_norm(gradients),
      named,
    ]
    if form == "plain":
      return (
        norms,
        loss,
        optimization.create_optimizer(
          loss, rate, int(steps), int(warmup), use_tpu=False
        ),
      )
    return norms, loss, optimization.training_step(loss, optimizer, step)

  @functools.cache
  def train(form, lookup, parts=1):
    with tf.Graph().as_default(), tf.Session() as session:
      norms, loss, train_op = build(form, lookup, parts)
      variables = tf.trainable_variables()
      session.run(tf.global_variables_initializer())
      tf.train.Saver(variables).restore(session, golden_checkpoint)
      steps = int(golden["trajectory_T_W_LR"][0])
      seen = [session.run([norms, loss, train_op]) for _ in range(steps)]
      final = session.run({v.name[:-2]: v for v in variables})
    return seen[0][0], [loss for _, loss, _ in seen], final

  return train


@pytest.mark.parametrize("lookup", LOOKUPS)
@pytest.mark.parametrize("form", FORMS)
def test_training_equals_the_original(golden, golden_training, lookup, form):
  _, losses, final = golden_training(form, lookup)
  np.testing.assert_allclose(losses, golden[f"loss_{lookup}"], rtol=1e-4)
  for name, value in final.items():
    expected = golden[f"final_{lookup}/{name}"]
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(
  ("form", "lookup"),
  [
    ("plain", "gather"),
    ("real tokens", "gather"),
    ("every position", "onehot"),
  ],
)
def test_training_in_parts_equals_the_original(
  golden, golden_training, form, lookup
):
  (norm,), losses, final = golden_training(form, lookup, parts=3)
  assert norm == pytest.approx(golden[f"grad_norm_{lookup}"], rel=1e-4)
  np.testing.assert_allclose(losses, golden[f"loss_{lookup}"], rtol=1e-4)
  _, whole_losses, whole = golden_training(form, lookup)
  np.testing.assert_allclose(losses, whole_losses, rtol=1e-5)
  for name, value in final.items():
    np.testing.assert_allclose(
      value, whole[name], rtol=0, atol=1e-5, err_msg=name
    )


@pytest.mark.parametrize("lookup", LOOKUPS)
@pytest.mark.parametrize("form", FORMS)
def test_norm_of_the_gradients_equals_the_original(
  golden, golden_training, lookup, form
):
  (clipped, norm, named), _, _ = golden_training(form, lookup)
  assert norm == pytest.approx(golden[f"grad_norm_{lookup}"], rel=1e-4)
  assert named == pytest.approx(norm, rel=1e-6)
  assert clipped == pytest.approx(1.0, rel=1e-5)


def test_learning_rate_equals_the_original(golden, run):
  step = tf.placeholder(tf.int64, [None])
  schedules = [name for name in golden if name.startswith("lr_")]
  assert len(schedules) == 5
  for name in schedules:
    total, warmup = map(int, re.fullmatch(r"lr_T(\d+)_W(\d+)", name).groups())
    rate = optimization.learning_rate_schedule(5e-5, total, warmup, step)
    rates = run(rate, {step: np.arange(total + 1)})
    np.testing.assert_allclose(rates, golden[name], rtol=0, atol=1e-9)


def test_rate_stays_zero_after_the_last_step(run):
  rate = optimization.learning_rate_schedule(1.0, 10, None, tf.constant(12))
  assert run(rate) == 0


# ---------------------------------------------------------------------------
# AdamW, against NumPy in float64


def adamw(value, gradients, rate, decay, b1=0.9, b2=0.999, epsilon=1e-6):
  """Value and moments after a step for each of the gradients."""
  value = value.astype(np.float64)
  m, v = np.zeros_like(value), np.zeros_like(value)
  for gradient in gradients:
    m = b1 * m + (1 - b1) * gradient
    v = b2 * v + (1 - b2) * gradient**2
    value = value - rate * (m / (np.sqrt(v) + epsilon) + decay * value)
  return value, m, v


NAMES = ["a/kernel", "a/bias", "a/LayerNorm/gamma", "layer_norm/x", "table"]


def test_update_equals_numpy(graph):
  numbers = np.random.RandomState(4)
  start = numbers.normal(size=[len(NAMES), 6, 5]).astype(np.float32)
  gradients = numbers.normal(size=[4, len(NAMES), 6, 5]).astype(np.float32)
  variables = [tf.get_variable(n, [6, 5]) for n in NAMES]
  feed = tf.placeholder(tf.float32, start.shape)
  optimizer = optimization.AdamWeightDecayOptimizer(
    0.1, 0.3, exclude_from_weight_decay=["LayerNorm", "layer_norm", "bias"]
  )
  step = optimizer.apply_gradients(zip(tf.unstack(feed), variables))
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    for variable, value in zip(variables, start):
      variable.load(value, session)
    for gradient in gradients:
      session.run(step, {feed: gradient})
    values = {v.name[:-2]: session.run(v) for v in tf.global_variables()}
  for i, name in enumerate(NAMES):
    decay = 0.3 if name in ("a/kernel", "table") else 0
    expected = adamw(start[i], gradients[:, i], 0.1, decay)
    for end, array in zip(("", "/adam_m", "/adam_v"), expected):
      # 1 - 0.999 in float32 is off by 5e-5, and so is the second moment.
      np.testing.assert_allclose(
        values[name + end], array, rtol=1e-4, atol=2e-5, err_msg=name + end
      )


@pytest.mark.parametrize("use_resource", [False, True])
@pytest.mark.parametrize("dtype", [tf.float16, tf.float32, tf.float64])
def test_variable_of_every_kind_is_updated(run, use_resource, dtype):
  start = np.array([[0.5, -1.0, 2.0]])
  gradients = [np.array([[1.0, -2.0, 0.5]]), np.array([[-1.0, 3.0, 4.0]])]
  variable = tf.get_variable(
    "w", dtype=dtype, initializer=tf.constant(start, dtype),
    use_resource=use_resource,
  )  # fmt: skip
  assert hasattr(variable, "handle") == use_resource
  feed = tf.placeholder(dtype, [1, 3])
  optimizer = optimization.AdamWeightDecayOptimizer(0.1, 0.3)
  step = optimizer.apply_gradients([(feed, variable)])
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    for gradient in gradients:
      session.run(step, {feed: gradient})
    values = session.run({v.name: v for v in tf.global_variables()})
  tolerance = 2e-2 if dtype == tf.float16 else 1e-4
  for name, expected in zip(
    ("w:0", "w/adam_m:0", "w/adam_v:0"), adamw(start, gradients, 0.1, 0.3)
  ):
    assert values[name].dtype == dtype.as_numpy_dtype
    np.testing.assert_allclose(values[name], expected, rtol=tolerance)


def test_gradients_are_reduced_before_they_are_clipped(graph):
  variable = tf.get_variable("w", initializer=[3.0, 4.0])
  seen = []

  def halved(gradients):
    seen.append(gradients)
    return [gradient / 2 for gradient in gradients]

  class Watching(optimization.AdamWeightDecayOptimizer):
    def apply_gradients(self, grads_and_vars, global_step=None, name=None):
      grads_and_vars = list(grads_and_vars)
      seen.append([gradient for gradient, _ in grads_and_vars])
      return super().apply_gradients(grads_and_vars, global_step, name)

  step = tf.train.create_global_step()
  loss = tf.reduce_sum(variable * [0.6, 0.8]) * 1.5
  optimizer = optimization.make_optimizer(0.1, Watching)
  optimization.training_step(loss, optimizer, step, reduce=halved)
  (given,), (applied,) = seen
  with tf.Session() as session:
    given, applied = session.run([given, applied])
  np.testing.assert_allclose(given, [0.9, 1.2], rtol=1e-6)
  # Of norm 1.5 before it was halved: clipped first it would be [0.3, 0.4].
  np.testing.assert_allclose(applied, [0.45, 0.6], rtol=1e-6)


def test_gradient_rows_of_one_word_are_summed(run):
  table = tf.get_variable("t", [4, 2], initializer=tf.zeros_initializer())
  rows = tf.IndexedSlices(
    tf.constant([[1.0, 2], [3, 4], [5, 6]]), tf.constant([2, 0, 2]), [4, 2]
  )
  optimizer = optimization.AdamWeightDecayOptimizer(0.1)
  update = optimizer.apply_gradients([(rows, table)])
  with tf.control_dependencies([update]):
    value = table.read_value()
  dense = np.array([[3.0, 4], [0, 0], [6, 8], [0, 0]])
  expected, _, _ = adamw(np.zeros([4, 2]), [dense], 0.1, 0)
  np.testing.assert_allclose(run(value), expected, rtol=1e-5)


def test_variable_without_a_gradient_is_left_alone(graph):
  used, unused = tf.get_variable("used", [2]), tf.get_variable("unused", [2])
  optimizer = optimization.AdamWeightDecayOptimizer(0.1, 0.5)
  optimizer.apply_gradients([(tf.ones([2]), used), (None, unused)])
  names = {variable.name for variable in tf.global_variables()}
  assert names == {"used:0", "unused:0", "used/adam_m:0", "used/adam_v:0"}
  touching = [op for op in graph.get_operations() if "Assign" in op.type]
  readers = {op.inputs[0].op.name for op in touching if op.inputs}
  assert "used" in readers
  updated = [op for op in touching if op.inputs[0].op.name == "unused"]
  assert [op.name for op in updated] == ["unused/Assign"]  # its initializer


def test_slots_are_saved_and_not_trained():
  variable = tf.get_variable("net/w", [2, 3])
  optimization.create_optimizer(tf.reduce_sum(variable), 0.1, 5, 0, False)
  assert tf.trainable_variables() == [variable]
  shapes = {v.name: v.shape.as_list() for v in tf.global_variables()}
  assert shapes.pop("global_step:0") == []
  assert shapes == dict.fromkeys(
    ("net/w:0", "net/w/adam_m:0", "net/w/adam_v:0"), [2, 3]
  )


def test_constructor_defaults_are_those_of_2018():
  optimizer = optimization.AdamWeightDecayOptimizer(0.5)
  assert optimizer.learning_rate == 0.5
  assert optimizer.weight_decay_rate == 0.0
  assert (optimizer.beta_1, optimizer.beta_2) == (0.9, 0.999)
  assert optimizer.epsilon == 1e-6
  assert not optimizer.exclude_from_weight_decay
  assert optimizer.get_name() == "AdamWeightDecayOptimizer"


def test_apply_gradients_ignores_the_global_step():
  step = tf.train.get_or_create_global_step()
  variable = tf.get_variable("w", [2])
  optimizer = optimization.AdamWeightDecayOptimizer(0.1)
  update = optimizer.apply_gradients([(tf.ones([2]), variable)], step)
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    session.run(update)
    assert session.run(step) == 0


# ---------------------------------------------------------------------------
# Order within a step


def ancestors(op):
  """All operations that must have run before `op`."""
  found, left = set(), [op]
  while left:
    op = left.pop()
    before = {t.op for t in op.inputs} | set(op.control_inputs)
    left += before - found
    found |= before
  return found


OPTIMIZERS = pytest.mark.parametrize(
  ("optimizer_class", "changes"),
  [
    (optimization.AdamWeightDecayOptimizer, ["AssignSubVariableOp"]),
    (
      fast_optimization.FusedAdamWeightDecayOptimizer,
      ["AssignSubVariableOp", "ResourceApplyAdam"],  # the decay and the rest
    ),
  ],
  ids=["plain", "fused"],
)


def small_step(optimizer_class=optimization.AdamWeightDecayOptimizer):
  """Loss, rate and training operation of a model that reads `w` late."""
  step = tf.train.get_or_create_global_step()
  late = tf.random.uniform([100, 100])
  for _ in range(20):
    late = tf.tanh(tf.matmul(late, late))
  with tf.control_dependencies([late]):
    weight = tf.get_variable("w", [50, 50]).read_value()
  loss = tf.reduce_mean(weight**2) + tf.get_variable("other", []) ** 2
  loss += tf.reduce_mean(late) * 1e-20  # or it would not be computed
  rate = optimization.learning_rate_schedule(1.0, 200, 20, step)
  optimizer = optimization.make_optimizer(rate, optimizer_class)
  return loss, rate, optimization.training_step(loss, optimizer, step)


def test_rate_is_that_of_the_step_before_it_is_counted(graph):
  _, rate, train_op = small_step()
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    rates = [session.run([rate, train_op])[0] for _ in range(200)]
    assert session.run(tf.train.get_global_step()) == 200
  steps = np.arange(200)
  expected = np.where(steps < 20, steps / 20, 1 - steps / 200)
  np.testing.assert_allclose(rates, expected, atol=1e-6)


def operations(graph, kind, variable):
  """Operations of a kind that take a variable, the initializer's excluded."""
  return [
    op
    for op in graph.get_operations()
    if re.match(kind, op.type) and op.inputs[0].op.name == variable
  ]


@OPTIMIZERS
def test_step_is_counted_after_the_update_and_all_that_read_it(
  graph, optimizer_class, changes
):
  _, _, train_op = small_step(optimizer_class)
  (count,) = operations(graph, "AssignAdd", "global_step")
  assert count in {train_op, *ancestors(train_op)}
  before = ancestors(count)
  for name in ("w", "other"):
    (update,) = operations(graph, changes[-1], name)
    assert update in before
  reads = operations(graph, "ReadVariableOp", "global_step")
  used = [op for op in reads if op.outputs[0].consumers()]
  assert used
  assert all(op in before for op in used)


@OPTIMIZERS
def test_variable_is_read_before_it_decays_and_is_updated(
  graph, optimizer_class, changes
):
  small_step(optimizer_class)
  read = operations(graph, "ReadVariableOp", "w")
  (late,) = [op for op in read if op.control_inputs[:1] and is_late(op)]
  found = operations(graph, "AssignSub|ResourceApplyAdam", "w")
  assert [op.type for op in found] == changes
  assert all(late in ancestors(change) for change in found)


def is_late(op):
  return any(before.type == "Tanh" for before in op.control_inputs)


@OPTIMIZERS
def test_loss_is_that_of_the_variables_before_the_step(
  graph, optimizer_class, changes
):
  tf.set_random_seed(1)
  loss, _, train_op = small_step(optimizer_class)
  weights = tf.trainable_variables()
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    for _ in range(40):
      weight, other = session.run(weights)
      told, _ = session.run([loss, train_op])
      assert told == pytest.approx((weight**2).mean() + other**2, rel=1e-4)
