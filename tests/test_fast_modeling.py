"""The fast forms of the model, against the plain ones and composed ones."""

import itertools

from conftest import form_config
import numpy as np
import pytest
import speed_forms
import tensorflow.compat.v1 as tf

from bert_classifier import fast_modeling
import modeling

pytestmark = pytest.mark.quick

LENGTH, VOCABULARY = 12, 40
# All positions of a row without a shown token are equal again: its scores lie
# next to -10000, where float32 keeps three decimals of them.
ROUNDING, NEXT_TO_CLOSED = 1e-5, 1e-3


def prefixes(lengths):
  """A mask <int32>[B, S] of sequences of such lengths."""
  return (np.arange(LENGTH) < np.array(lengths)[:, None]).astype(np.int32)


def drawn(seed):
  """A mask of any zeros and ones, but none without a one."""
  mask = np.random.default_rng(seed).integers(0, 2, (5, LENGTH))
  mask[:, 7] = 1
  return mask.astype(np.int32)


MASKS = {
  "lengths": prefixes([3, 12, 7, 1, 5, 5, 2]),
  "more lengths": prefixes(np.random.default_rng(4).integers(1, 13, 32)),
  "equal lengths": prefixes([6, 6, 6, 6]),
  "all positions": prefixes([12, 12]),
  "batch of one": prefixes([5]),
  "one token": prefixes([1]),
  "rows of one token": prefixes([1, 1, 1]),
  "first tokens masked": prefixes([4, 9, 2]) * (np.arange(LENGTH) > 0),
  "holes": prefixes([8, 12, 5]) * (np.arange(LENGTH) % 3 != 1),
  "end of the row": 1 - prefixes([8, 1, 5]),
  **{f"any mask, {seed}": drawn(seed) for seed in range(3)},
}
ZEROS = {
  "a row of zeros": prefixes([4, 0, 9]),
  "zeros alone": prefixes([0]),
}


def features(mask):
  """Inputs of random words; the padding has words too."""
  numbers = np.random.default_rng(len(mask))
  shape = mask.shape
  return {
    "input_ids": numbers.integers(0, VOCABULARY, shape).astype(np.int32),
    "input_mask": mask.astype(np.int32),
    "segment_ids": numbers.integers(0, 2, shape).astype(np.int32),
    "label_ids": numbers.integers(0, 3, shape[0]).astype(np.int32),
  }


def constants(mask):
  """The same inputs as tensors, shapes known."""
  return {name: tf.constant(value) for name, value in features(mask).items()}


def start_with_equal_variables(session):
  """Initializes variables, the same ones in every graph of one model."""
  numbers = np.random.default_rng(3)
  for variable in tf.trainable_variables():
    value = numbers.normal(scale=0.2, size=variable.shape)
    variable.load(value + ("gamma" in variable.name), session)


def values_of(fetches):
  """Builds fetches in a graph of its own and runs them."""
  with tf.Graph().as_default(), tf.Session() as session:
    built = fetches()
    start_with_equal_variables(session)
    return session.run(built)


FAST = {
  "real tokens": fast_modeling.forms(skip_padding=True),
  "every position": fast_modeling.forms(skip_padding=False),
}
FORMS = {**FAST, "plain": modeling.PLAIN}


def classifier(inputs, forms):
  """Logits, loss, norm of the gradients, and each of them, by name."""
  model = modeling.BertForSequenceClassification(
    form_config(VOCABULARY), 3, forms=forms
  )
  outputs = model(inputs)
  variables = tf.trainable_variables()
  gradients = tf.gradients(outputs["loss"], variables)
  found = {"logits": outputs["logits"], "loss": outputs["loss"]}
  # As `optimization.clip` sees them: rows of one word are not summed yet.
  found["norm"] = tf.linalg.global_norm(gradients)
  for variable, gradient in zip(variables, gradients):
    found[variable.name] = tf.convert_to_tensor(gradient)
  return found


@pytest.fixture(scope="module")
def classify_by():
  """Computes `classifier` for a mask by a form; one graph a form."""
  sessions = {}

  def classify(form, mask):
    if form not in sessions:
      with tf.Graph().as_default() as graph:
        inputs = {
          name: tf.placeholder(tf.int32, [None, *value.shape[1:]])
          for name, value in features(mask).items()
        }
        session = tf.Session(graph=graph)
        built = classifier(inputs, FORMS[form])
        start_with_equal_variables(session)
      sessions[form] = session, inputs, built
    session, inputs, built = sessions[form]
    given = features(mask)
    return session.run(built, {inputs[name]: given[name] for name in inputs})

  yield classify
  for session, _, _ in sessions.values():
    session.close()


def assert_close(ours, theirs, bound):
  assert ours.keys() == theirs.keys()
  for name, value in theirs.items():
    size = max(1.0, np.abs(value).max(initial=0.0))
    np.testing.assert_allclose(
      ours[name], value, rtol=0, atol=bound * size, err_msg=name
    )


@pytest.mark.parametrize("fast", FAST)
@pytest.mark.parametrize("name", [*MASKS, *ZEROS])
def test_classifier_and_gradients_equal_those_of_the_plain_form(
  classify_by, name, fast
):
  mask = MASKS[name] if name in MASKS else ZEROS[name]
  ours, theirs = classify_by(fast, mask), classify_by("plain", mask)
  assert_close(ours, theirs, ROUNDING if name in MASKS else NEXT_TO_CLOSED)


@pytest.mark.parametrize("fast", FAST)
def test_they_do_where_the_size_of_the_batch_is_known(classify_by, fast):
  mask = MASKS["holes"]
  ours = values_of(lambda: classifier(constants(mask), FORMS[fast]))
  assert_close(ours, classify_by("plain", mask), ROUNDING)


def test_gradient_of_words_has_a_row_for_each_real_token(graph):
  with tf.Session() as session:
    mask = MASKS["holes"]
    model = modeling.BertForSequenceClassification(
      form_config(VOCABULARY), 3, forms=FORMS["real tokens"]
    )
    outputs = model(constants(mask))
    table = next(v for v in tf.trainable_variables() if "word" in v.name)
    gradient = tf.gradients(outputs["loss"], table)[0]
    session.run(tf.global_variables_initializer())
    assert isinstance(gradient, tf.IndexedSlices)
    assert session.run(gradient.values).shape == (mask.sum(), 24)


def pooled(mask, forms, only_pooled):
  """The pooled output and its gradients, by name."""
  inputs = constants(mask)
  model = modeling.BertModel(
    form_config(VOCABULARY),
    False,
    inputs["input_ids"],
    inputs["input_mask"],
    inputs["segment_ids"],
    forms=forms,
    only_pooled=only_pooled,
  )
  found = {"pooled": model.get_pooled_output()}
  variables = tf.trainable_variables()
  gradients = tf.gradients(tf.reduce_sum(found["pooled"] ** 3), variables)
  for variable, gradient in zip(variables, gradients):
    found[variable.name] = tf.convert_to_tensor(gradient)
  return found


@pytest.mark.parametrize("form", FORMS)
def test_first_tokens_alone_give_what_the_whole_layer_gives(form):
  mask = MASKS["holes"]
  alone = values_of(lambda: pooled(mask, FORMS[form], only_pooled=True))
  whole = values_of(lambda: pooled(mask, FORMS[form], only_pooled=False))
  assert_close(alone, whole, ROUNDING)


def test_positions_without_a_token_are_zeros(run):
  mask = MASKS["holes"]
  inputs = constants(mask)
  ids, shown = inputs["input_ids"], inputs["input_mask"]
  model = modeling.BertModel(
    form_config(VOCABULARY), False, ids, shown, forms=FORMS["real tokens"]
  )
  sequence = run(model.get_sequence_output())
  assert not sequence[mask == 0].any()
  assert (np.abs(sequence[mask == 1]).max(-1) > 0).all()


@pytest.mark.parametrize("form", FORMS)
def test_weights_that_dropout_keeps_are_scaled_up_once(run, form, monkeypatch):
  for kind in (modeling.Dropout, fast_modeling.FastDropout):
    monkeypatch.setattr(kind, "mask", lambda _, shape, p: tf.ones(shape))
  mask = tf.constant(MASKS["all positions"])
  forms = FORMS[form].for_batch(mask, num_heads=3)
  numbers = np.random.default_rng(0).normal(size=(2, LENGTH, 24))
  tokens = tf.constant(numbers, tf.float32)
  if form != "plain":
    tokens = modeling.reshape_to_matrix(tokens)
  with tf.variable_scope("self", reuse=tf.AUTO_REUSE):
    kept, whole = (
      modeling.attention_layer(
        tokens,
        tokens,
        num_attention_heads=3,
        size_per_head=8,
        attention_probs_dropout_prob=0.1,
        forms=forms,
        dropout=dropout,
      )
      for dropout in (forms.dropout(), modeling.no_dropout)
    )
  kept, whole = run([kept, whole])
  size = np.abs(whole).max()
  np.testing.assert_allclose(0.9 * kept, whole, rtol=1e-4, atol=1e-5 * size)


@pytest.mark.parametrize("form", FAST)
def test_getters_of_the_fast_forms_give_the_same_tensor_every_time(graph, form):
  inputs = constants(MASKS["holes"])
  model = modeling.BertModel(
    form_config(VOCABULARY), False, inputs["input_ids"], forms=FORMS[form]
  )
  for get in (model.get_sequence_output, model.get_embedding_output):
    assert get() is get()
  assert model.get_all_encoder_layers()[-1] is model.sequence_output


# ---------------------------------------------------------------------------
# Groups


def score_shapes(mask):
  """Shapes of the scores <float32>[G, N, Q, K] of each group."""
  shapes = []
  batch = FORMS["real tokens"].for_batch(tf.constant(mask), 3)
  rows = tf.ones([int(mask.sum()), 24])

  class Watching(modeling.Dropout):
    def mask(self, shape, dropout_prob):
      shapes.append(tf.convert_to_tensor(shape))

  batch.attend(rows, rows, rows, None, 3, Watching(), 0.1)
  return shapes


def least_work(lengths):
  """Of all divisions into two groups, each as wide as its longest."""

  def work(rows):
    return len(rows) * max(rows, default=0) ** 2

  return min(
    work([n for n, one in zip(lengths, side) if one])
    + work([n for n, one in zip(lengths, side) if not one])
    for side in itertools.product([True, False], repeat=len(lengths))
  )


@pytest.mark.parametrize("batch", [1, 2, 5, 9])
@pytest.mark.parametrize("seed", range(4))
def test_groups_are_those_with_the_least_work(run, batch, seed):
  lengths = np.random.default_rng(seed).integers(1, LENGTH + 1, batch)
  shapes = run(score_shapes(prefixes(lengths)))
  assert len(shapes) == 2 and all((shape[1] == 3) for shape in shapes)
  assert sum(g * q * k for g, _, q, k in shapes) == least_work(list(lengths))


# ---------------------------------------------------------------------------
# Form by form, in float64: value and gradient

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
  agree(run, fast_modeling.gelu, modeling.gelu, [x], numbers, static=static)


def test_gelu_far_from_zero_is_x_or_nothing(run):
  x = tf.constant([-1e4, -30.0, 0.0, 30.0, 1e4])
  y = fast_modeling.gelu(x)
  value, slope = run([y, tf.gradients(y, x)[0]])
  np.testing.assert_array_equal(value, [0, 0, 0, 30, 1e4])
  np.testing.assert_array_equal(slope, [0, 0, 0.5, 1, 1])


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("shape", SHAPES[1:])
def test_normalize_equals_moments(run, numbers, shape, static):
  x = numbers.normal(3.0, 2.0, shape)
  gamma, beta = numbers.normal(size=(2, shape[1]))
  forms = [
    lambda *inputs, form=form: form.normalize(*inputs, 1e-12)
    for form in (fast_modeling, modeling.PLAIN)
  ]
  agree(run, *forms, [x, gamma, beta], numbers, static=static, bound=1e-8)


def test_normalize_of_equal_numbers_is_beta(run):
  x, gamma = tf.fill([4, 8], 2.0), tf.ones([8])
  beta = tf.range(8, dtype=tf.float32)
  normal = run(fast_modeling.normalize(x, gamma, beta))
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
    lambda *inputs: fast_modeling.attention(*inputs, *rest),
    lambda *inputs: speed_forms.attention(*inputs, *rest),
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

  forms = fast_modeling.split_heads, speed_forms.split_heads
  agree(run, *map(real_heads_of, forms), [rows], numbers)


@pytest.mark.parametrize(("lengths", "heads", "groups"), HEADS)
def test_heads_are_merged_as_by_transpose(run, numbers, lengths, heads, groups):
  _, merge, back = head_indices(lengths, heads, groups)
  values = [numbers.normal(size=[*index.shape, 4]) for index in merge]
  agree(
    run,
    lambda *groups: fast_modeling.merge_heads(groups, merge, back),
    lambda *groups: speed_forms.merge_heads(groups, merge, back),
    values,
    numbers,
  )


def test_merged_heads_are_the_rows_that_were_split(run, numbers):
  rows = numbers.normal(size=(8, 6))
  split, merge, back = head_indices([3, 1, 4], 2, [[0, 1], [2]])
  groups = fast_modeling.split_heads(tf.constant(rows), split, back)
  again = run(fast_modeling.merge_heads(groups, merge, back))
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
    return run(fast_modeling.keep_mask(given, seed, rate))

  return draw


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
def test_mask_keeps_the_share_that_it_should(keep_mask, rate):
  mask = keep_mask([1000, 400], rate)
  share = fast_modeling.kept_share(rate)
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
  assert 0 < fast_modeling.kept_share(rate) < 1e-4
