"""Hand-written forms against composed ones, in float64: value and gradient."""

import fast_ops
import numpy as np
import plain_forms
import pytest
import tensorflow.compat.v1 as tf

import optimization

pytestmark = pytest.mark.quick

SHAPES = [(1, 1), (7, 5), (13, 384), (64, 3)]


@pytest.fixture
def numbers():
  return np.random.default_rng(7)


def placeholder_of(value, static):
  """A float64 placeholder whose first axes are known or, but for H, not."""
  shape = value.shape if static else [None] * (value.ndim - 1)
  if not static:
    shape = [*shape, value.shape[-1]]
  return tf.placeholder(tf.float64, shape)


def agree(run, form, plain, values, numbers, *, static=True, bound=1e-9):
  """Asserts that two functions have equal values and gradients at `values`."""
  inputs = [placeholder_of(value, static) for value in values]
  feed = dict(zip(inputs, values))
  found = []
  for function in (form, plain):
    outputs = function(*inputs)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    if not found:
      upstream = [numbers.normal(size=o.shape) for o in run(outputs, feed)]
    gradients = tf.gradients(outputs, inputs, list(map(tf.constant, upstream)))
    dense = list(map(tf.convert_to_tensor, gradients))
    found.append(run([*outputs, *dense], feed))
  for ours, theirs in zip(*found):
    np.testing.assert_allclose(ours, theirs, rtol=bound, atol=bound)


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("shape", [*SHAPES, (2, 3, 4)])
def test_gelu_equals_the_tanh_form(run, numbers, shape, static):
  x = numbers.normal(scale=3.0, size=shape)
  agree(run, fast_ops.gelu, plain_forms.gelu, [x], numbers, static=static)


def test_gelu_far_from_zero_is_x_or_nothing(run):
  x = tf.constant([-1e4, -30.0, 0.0, 30.0, 1e4])
  y = fast_ops.gelu(x)
  value, slope = run([y, tf.gradients(y, x)[0]])
  np.testing.assert_array_equal(value, [0, 0, 0, 30, 1e4])
  np.testing.assert_array_equal(slope, [0, 0, 0.5, 1, 1])


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("shape", SHAPES[1:])
def test_normalize_equals_moments(run, numbers, shape, static):
  x = numbers.normal(3.0, 2.0, shape)
  gamma, beta = numbers.normal(size=(2, shape[1]))
  forms = fast_ops.normalize, plain_forms.normalize
  agree(run, *forms, [x, gamma, beta], numbers, static=static, bound=1e-8)


def test_normalize_of_equal_numbers_is_beta(run):
  x, gamma = tf.fill([4, 8], 2.0), tf.ones([8])
  beta = tf.range(8, dtype=tf.float32)
  normal = run(fast_ops.normalize(x, gamma, beta))
  np.testing.assert_array_equal(normal, np.tile(np.arange(8), (4, 1)))


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("scale", [None, 0.37])
@pytest.mark.parametrize("with_dropout", [True, False])
@pytest.mark.parametrize("sizes", [(2, 3, 5, 5, 4), (3, 2, 1, 7, 8), (1,) * 5])
def test_attention_equals_its_parts(
  run, numbers, sizes, with_dropout, scale, static
):
  batch, heads, queries, keys, width = sizes
  query = numbers.normal(size=(batch, heads, queries, width))
  key, value = numbers.normal(size=(2, batch, heads, keys, width))
  closed = numbers.integers(0, 2, (batch, 1, 1, keys)) * -10000.0
  kept = numbers.integers(0, 2, (batch, heads, queries, keys)) * 1.0
  rest = [closed, kept if with_dropout else None, scale]
  agree(
    run,
    lambda *inputs: fast_ops.attention(*inputs, *rest),
    lambda *inputs: plain_forms.attention(*inputs, *rest),
    [query, key, value],
    numbers,
    static=static,
  )


# ---------------------------------------------------------------------------
# Heads


def head_indices(lengths, heads, groups):
  """`to_heads` for split and for merge, and `from_heads`, of such lengths."""
  starts, tokens = np.cumsum([0, *lengths[:-1]]), sum(lengths)
  back, split, merge, before = np.zeros((tokens, heads), np.int32), [], [], 0
  for group in groups:
    longest = max(lengths[row] for row in group)
    index = np.full((len(group), heads, longest), tokens * heads, np.int32)
    for place, row in enumerate(group):
      for head in range(heads):
        token = starts[row] + np.arange(lengths[row])
        index[place, head, : lengths[row]] = token * heads + head
        at = before + (place * heads + head) * longest
        back[token, head] = at + np.arange(lengths[row])
    before += index.size
    split.append(tf.constant(np.minimum(index, tokens * heads - 1)))
    merge.append(tf.constant(index))
  return split, merge, tf.constant(back)


HEADS = [
  ([3, 1, 4], 2, [[0, 1], [2]]),
  ([2, 2], 3, [[1, 0]]),
  ([1], 1, [[0]]),
]


@pytest.mark.parametrize(("lengths", "heads", "groups"), HEADS)
def test_heads_are_split_as_by_transpose(run, numbers, lengths, heads, groups):
  rows = numbers.normal(size=(sum(lengths), heads * 4))
  split, merge, back = head_indices(lengths, heads, groups)
  real = [
    tf.cast(index < rows.shape[0] * heads, tf.float64)[..., tf.newaxis]
    for index in merge
  ]

  def real_heads_of(form):  # what stands in padding is nobody's
    return lambda rows: [
      group * shown for group, shown in zip(form(rows, split, back), real)
    ]

  forms = fast_ops.split_heads, plain_forms.split_heads
  agree(run, *map(real_heads_of, forms), [rows], numbers)


@pytest.mark.parametrize(("lengths", "heads", "groups"), HEADS)
def test_heads_are_merged_as_by_transpose(run, numbers, lengths, heads, groups):
  _, merge, back = head_indices(lengths, heads, groups)
  values = [numbers.normal(size=[*index.shape, 4]) for index in merge]
  agree(
    run,
    lambda *groups: fast_ops.merge_heads(groups, merge, back),
    lambda *groups: plain_forms.merge_heads(groups, merge, back),
    values,
    numbers,
  )


def test_merged_heads_are_the_rows_that_were_split(run, numbers):
  rows = numbers.normal(size=(8, 6))
  split, merge, back = head_indices([3, 1, 4], 2, [[0, 1], [2]])
  groups = fast_ops.split_heads(tf.constant(rows), split, back)
  again = run(fast_ops.merge_heads(groups, merge, back))
  np.testing.assert_array_equal(again, rows)


# ---------------------------------------------------------------------------
# Dropout


@pytest.fixture(params=["static", "dynamic"])
def keep_mask(request, run):
  """Draws a mask from a seed, its shape known beforehand or not."""

  def draw(shape, rate, seed=(3, 5)):
    shape = list(shape)
    given = shape if request.param == "static" else tf.constant(shape)
    seed = tf.constant(seed, tf.int64)
    return run(fast_ops.keep_mask(given, seed, rate))

  return draw


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
def test_mask_keeps_the_share_that_it_should(keep_mask, rate):
  mask = keep_mask([1000, 400], rate)
  share = fast_ops.kept_share(rate)
  assert set(np.unique(mask)) == {0.0, 1.0}
  assert abs(share - (1 - rate)) <= 0.5 / 65536
  assert abs(mask.mean() - share) < 5 * np.sqrt(rate * share / mask.size)


@pytest.mark.parametrize("apart", [1, 2, 3, 4, 8, 400])
def test_decisions_near_each_other_are_independent(keep_mask, apart):
  mask = keep_mask([400_000], 0.3)
  correlation = np.corrcoef(mask[:-apart], mask[apart:])[0, 1]
  assert abs(correlation) < 5 / np.sqrt(mask.size)


def test_mask_is_a_function_of_its_seed(keep_mask):
  one = keep_mask([11, 17], 0.5)
  np.testing.assert_array_equal(one, keep_mask([11, 17], 0.5))
  for other in ([3, 6], [4, 5]):
    same = (one == keep_mask([11, 17], 0.5, other)).mean()
    assert 0.3 < same < 0.7


@pytest.mark.parametrize("shape", [[1], [3], [2, 3, 7], [5, 1, 1, 13], [0, 4]])
def test_mask_has_its_shape_whatever_the_count(keep_mask, shape):
  assert keep_mask(shape, 0.1).shape == tuple(shape)


def test_rate_of_zero_keeps_everything(keep_mask):
  assert keep_mask([9, 9], 0.0).all()


def test_rate_next_to_one_leaves_a_share_to_divide_by(keep_mask):
  rate = 1 - 1e-6
  assert keep_mask([1000], rate).mean() < 0.1
  assert 0 < fast_ops.kept_share(rate) < 1e-4


# ---------------------------------------------------------------------------
# Optimizer


def updated(step, steps=4):
  """Variables after some steps on a loss with a looked-up table."""
  with tf.Graph().as_default(), tf.Session() as session:
    table = tf.get_variable(
      "table", initializer=np.linspace(-1, 1, 40, dtype="f").reshape(10, 4)
    )
    bias = tf.get_variable("bias", initializer=np.full(4, 0.5, "f"))
    rows = tf.gather(table, [1, 3, 3, 7])
    loss = tf.reduce_sum(tf.square(rows * 3.0 + bias))
    optimizer = optimization.make_optimizer(tf.constant(1e-3))
    train = step(loss, optimizer, tf.train.create_global_step())
    session.run(tf.global_variables_initializer())
    for _ in range(steps):
      session.run(train)
    return session.run({v.name: v for v in tf.global_variables()})


def test_fused_update_equals_separate_operations():
  ours = updated(optimization.training_step)
  theirs = updated(plain_forms.training_step)
  assert ours.keys() == theirs.keys() and ours["global_step:0"] == 4
  for name, value in theirs.items():
    np.testing.assert_allclose(ours[name], value, rtol=1e-5, atol=1e-6)
