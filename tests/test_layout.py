"""Real tokens only, against every position, on masks of all kinds."""

import itertools

import layout
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import modeling

pytestmark = pytest.mark.quick

LENGTH, VOCABULARY = 12, 40
# All positions of a row without a shown token are equal again: its scores lie
# next to -10000, where float32 keeps three decimals of them.
ROUNDING, NEXT_TO_CLOSED = 1e-5, 1e-3


def config():
  return modeling.BertConfig(
    VOCABULARY,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=32,
    max_position_embeddings=16,
    type_vocab_size=2,
    initializer_range=0.2,
  )


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
  """Placeholder-free inputs of random words; the padding has words too."""
  numbers = np.random.default_rng(len(mask))
  shape = mask.shape
  return {
    "input_ids": tf.constant(numbers.integers(0, VOCABULARY, shape), tf.int32),
    "input_mask": tf.constant(mask, tf.int32),
    "segment_ids": tf.constant(numbers.integers(0, 2, shape), tf.int32),
    "label_ids": tf.constant(numbers.integers(0, 3, shape[0]), tf.int32),
  }


def values_of(fetches):
  """Builds fetches in a graph of its own, whose variables have one seed."""
  with tf.Graph().as_default(), tf.Session() as session:
    tf.set_random_seed(3)
    built = fetches()
    session.run(tf.global_variables_initializer())
    return session.run(built)


def classifier(mask, skip_padding):
  """Logits, loss, norm of the gradients, and each of them, by name."""
  model = modeling.BertForSequenceClassification(
    config(), 3, skip_padding=skip_padding
  )
  outputs = model(features(mask))
  variables = tf.trainable_variables()
  gradients = tf.gradients(outputs["loss"], variables)
  found = {"logits": outputs["logits"], "loss": outputs["loss"]}
  # As `optimization.clip` sees them: rows of one word are not summed yet.
  found["norm"] = tf.linalg.global_norm(gradients)
  for variable, gradient in zip(variables, gradients):
    found[variable.name] = tf.convert_to_tensor(gradient)
  return found


def assert_close(ours, theirs, bound):
  assert ours.keys() == theirs.keys()
  for name, value in theirs.items():
    size = max(1.0, np.abs(value).max(initial=0.0))
    np.testing.assert_allclose(
      ours[name], value, rtol=0, atol=bound * size, err_msg=name
    )


@pytest.mark.parametrize("name", [*MASKS, *ZEROS])
def test_classifier_and_gradients_equal_those_of_every_position(name):
  mask = MASKS[name] if name in MASKS else ZEROS[name]
  ours = values_of(lambda: classifier(mask, skip_padding=True))
  theirs = values_of(lambda: classifier(mask, skip_padding=False))
  assert_close(ours, theirs, ROUNDING if name in MASKS else NEXT_TO_CLOSED)


def test_gradient_of_words_has_a_row_for_each_real_token(graph):
  with tf.Session() as session:
    mask = MASKS["holes"]
    model = modeling.BertForSequenceClassification(
      config(), 3, skip_padding=True
    )
    outputs = model(features(mask))
    table = next(v for v in tf.trainable_variables() if "word" in v.name)
    gradient = tf.gradients(outputs["loss"], table)[0]
    session.run(tf.global_variables_initializer())
    assert isinstance(gradient, tf.IndexedSlices)
    assert session.run(gradient.values).shape == (mask.sum(), 24)


def pooled(mask, skip_padding, only_pooled):
  """The pooled output and its gradients, by name."""
  inputs = features(mask)
  model = modeling.BertModel(
    config(),
    False,
    inputs["input_ids"],
    inputs["input_mask"],
    inputs["segment_ids"],
    skip_padding=skip_padding,
    only_pooled=only_pooled,
  )
  found = {"pooled": model.get_pooled_output()}
  variables = tf.trainable_variables()
  gradients = tf.gradients(tf.reduce_sum(found["pooled"] ** 3), variables)
  for variable, gradient in zip(variables, gradients):
    found[variable.name] = tf.convert_to_tensor(gradient)
  return found


@pytest.mark.parametrize("skip_padding", [True, False])
def test_first_tokens_alone_give_what_the_whole_layer_gives(skip_padding):
  mask = MASKS["holes"]
  alone = values_of(lambda: pooled(mask, skip_padding, only_pooled=True))
  whole = values_of(lambda: pooled(mask, skip_padding, only_pooled=False))
  assert_close(alone, whole, ROUNDING)


def test_positions_without_a_token_are_zeros(run):
  mask = MASKS["holes"]
  inputs = features(mask)
  ids, shown = inputs["input_ids"], inputs["input_mask"]
  model = modeling.BertModel(config(), False, ids, shown, skip_padding=True)
  sequence = run(model.get_sequence_output())
  assert not sequence[mask == 0].any()
  assert (np.abs(sequence[mask == 1]).max(-1) > 0).all()


@pytest.mark.parametrize("where", [layout.EveryPosition, layout.RealTokens])
def test_weights_that_dropout_keeps_are_scaled_up_once(run, where, monkeypatch):
  monkeypatch.setattr(
    modeling.Dropout, "mask", lambda _, shape, p: tf.ones(shape)
  )
  mask = MASKS["all positions"]
  positions = where(tf.constant(mask), mask.shape, 3)
  rows = tf.constant(np.random.default_rng(0).normal(size=(24, 24)), tf.float32)
  with tf.variable_scope("self", reuse=tf.AUTO_REUSE):
    kept, whole = (
      modeling.self_attention(rows, rows, positions, config(), dropout, False)
      for dropout in (modeling.Dropout(), modeling.no_dropout)
    )
  kept, whole = run([kept, whole])
  size = np.abs(whole).max()
  np.testing.assert_allclose(0.9 * kept, whole, rtol=1e-4, atol=1e-5 * size)


# ---------------------------------------------------------------------------
# Groups


def score_shapes(mask):
  """Shapes of the scores <float32>[G, N, Q, K] of each group."""
  shapes = []
  where = layout.RealTokens(tf.constant(mask), mask.shape, 3)
  rows = tf.ones([int(mask.sum()), 24])

  def no_dropout(shape):
    shapes.append(tf.convert_to_tensor(shape))

  where.attend(rows, rows, rows, no_dropout, only_first=False)
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
