"""Small programs in the manner of those that import the 2018 scripts.

Each runs with the variables of TensorFlow 1 and with those of TensorFlow 2, and
once more in a process that begins with `tf.disable_v2_behavior()`. The last
tests are of the edits of `benchmarks/clients.py`.
"""

import operator
from pathlib import Path
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import estimator_bridge  # noqa: F401
import modeling
import optimization
import tokenization

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "benchmarks"))
import clients  # noqa: E402

NAMES = ("input_ids", "input_mask", "segment_ids")


@pytest.fixture(params=["reference variables", "resource variables"])
def session(request):
  """Yields a session on a graph of its own."""
  before = tf.resource_variables_enabled()
  if request.param == "reference variables":
    tf.disable_resource_variables()
  with tf.Graph().as_default() as graph, tf.Session(graph=graph) as session:
    tf.set_random_seed(1)
    yield session
  if before:
    tf.enable_resource_variables()


@pytest.fixture
def config(golden_config):
  return modeling.BertConfig.from_json_file(golden_config)


def constants(golden):
  return [tf.constant(golden[name].astype(np.int32)) for name in NAMES]


def load(session, checkpoint):
  """Initializes variables by `get_assignment_map_from_checkpoint`."""
  variables = tf.trainable_variables()
  assignments, _ = modeling.get_assignment_map_from_checkpoint(
    variables, checkpoint
  )
  tf.train.init_from_checkpoint(checkpoint, assignments)
  session.run(tf.global_variables_initializer())
  return assignments


def train(session, loss, steps=30):
  """Returns the losses of some steps."""
  train_op = optimization.create_optimizer(loss, 3e-3, 1000, 0, use_tpu=False)
  load_after = [
    v for v in tf.global_variables() if "adam" in v.name or "step" in v.name
  ]
  session.run(tf.variables_initializer(load_after))
  return [session.run([loss, train_op])[0] for _ in range(steps)]


def test_features_of_every_layer(session, golden, golden_checkpoint, config):
  # extract_features.py
  ids, mask, segments = constants(golden)
  model = modeling.BertModel(
    config=config,
    is_training=False,
    input_ids=ids,
    input_mask=mask,
    token_type_ids=segments,
    use_one_hot_embeddings=False,
  )
  layers = model.get_all_encoder_layers()
  assert len(load(session, golden_checkpoint)) == len(tf.trainable_variables())
  predictions = {f"layer_{n}": layers[n] for n in (-1, -2)}
  values = session.run(predictions)
  for index in (-1, -2):
    expected = golden[f"layer_{len(layers) + index}"]
    np.testing.assert_allclose(values[f"layer_{index}"], expected, atol=1e-5)


def test_masked_words(session, golden, golden_checkpoint, config):
  # run_pretraining.py
  model = modeling.BertModel(config, False, *constants(golden))
  sequence = model.get_sequence_output()
  batch, length, width = modeling.get_shape_list(sequence, expected_rank=3)
  positions = tf.constant([[1, 2]] * batch)
  starts = tf.reshape(tf.range(0, batch) * length, [-1, 1])
  flat = tf.reshape(sequence, [batch * length, width])
  chosen = tf.gather(flat, tf.reshape(positions + starts, [-1]))
  with tf.variable_scope("cls/predictions"):
    with tf.variable_scope("transform"):
      kernel = tf.get_variable(
        "kernel",
        [width, width],
        initializer=modeling.create_initializer(config.initializer_range),
      )
      activation = modeling.get_activation(config.hidden_act)
      chosen = modeling.layer_norm(activation(tf.matmul(chosen, kernel)))
    bias = tf.get_variable(
      "output_bias", [config.vocab_size], initializer=tf.zeros_initializer()
    )
  logits = tf.matmul(chosen, model.get_embedding_table(), transpose_b=True)
  loss = tf.reduce_mean(
    tf.nn.sparse_softmax_cross_entropy_with_logits(
      labels=tf.range(2 * batch), logits=logits + bias
    )
  )
  load(session, golden_checkpoint)
  losses = train(session, loss)
  assert losses[-1] < 0.8 * losses[0], losses


def test_answers_are_spans(session, golden, golden_checkpoint, config):
  # run_squad.py
  model = modeling.BertModel(
    config=config,
    is_training=True,
    input_ids=constants(golden)[0],
    use_one_hot_embeddings=True,
  )
  final = model.get_sequence_output()
  batch, length, width = modeling.get_shape_list(final, expected_rank=3)
  weights = tf.get_variable(
    "cls/squad/output_weights",
    [2, width],
    initializer=tf.truncated_normal_initializer(stddev=0.02),
  )
  logits = tf.matmul(tf.reshape(final, [-1, width]), weights, transpose_b=True)
  logits = tf.transpose(tf.reshape(logits, [batch, length, 2]), [2, 0, 1])
  starts, ends = tf.unstack(logits, axis=0)
  loss = sum(
    tf.reduce_mean(
      tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels=[place] * batch, logits=side
      )
    )
    for side, place in ((starts, 1), (ends, 3))
  )
  load(session, golden_checkpoint)
  losses = train(session, loss)
  assert losses[-1] < 0.8 * losses[0], losses


def test_names_in_texts(session, golden, golden_checkpoint, config):
  # BERT-NER: a tag for each token, a loss that the mask weighs
  ids, mask, segments = constants(golden)
  model = modeling.BertModel(config, True, ids, mask, segments)
  sequence = tf.nn.dropout(model.get_sequence_output(), rate=0.1)
  rows = modeling.reshape_to_matrix(sequence)
  tags = tf.get_variable("output_weights_of_tags", [5, config.hidden_size])
  logits = tf.matmul(rows, tags, transpose_b=True)
  shape = [*modeling.get_shape_list(ids), 5]
  logits = modeling.reshape_from_matrix(logits, shape)
  each = tf.nn.sparse_softmax_cross_entropy_with_logits(
    labels=ids % 5, logits=logits
  )
  weights = tf.cast(mask, tf.float32)
  loss = tf.reduce_sum(each * weights) / tf.reduce_sum(weights)
  load(session, golden_checkpoint)
  losses = train(session, loss)
  assert losses[-1] < 0.8 * losses[0], losses


def test_frozen_encoder(session, golden, golden_checkpoint, config):
  # bert-as-service: attributes, a pooled layer, a graph without variables
  ids, mask, segments = (
    tf.placeholder(tf.int32, [None, None], name) for name in NAMES
  )
  model = modeling.BertModel(config, False, ids, mask, segments)
  weights = tf.expand_dims(tf.cast(mask, tf.float32), -1)
  total = tf.reduce_sum(model.all_encoder_layers[-2] * weights, axis=1)
  pooled = tf.identity(total / tf.reduce_sum(weights, axis=1), "pooled")
  load(session, golden_checkpoint)
  feed = {f"{name}:0": golden[name] for name in NAMES}
  expected = session.run(pooled, feed)
  frozen = tf.graph_util.convert_variables_to_constants(
    session, session.graph_def, ["pooled"]
  )
  with tf.Graph().as_default() as graph, tf.Session(graph=graph) as other:
    tf.import_graph_def(frozen, name="")
    found = other.run("pooled:0", feed)
  np.testing.assert_allclose(found, expected, atol=1e-6)
  shown = golden["input_mask"][..., None]
  by_hand = (golden["layer_1"] * shown).sum(1) / shown.sum(1)
  np.testing.assert_allclose(found, by_hand, atol=1e-5)


def test_attacked_embeddings(session, golden, golden_checkpoint, config):
  # Adversarial training: the gradient moves the embeddings, which are fed
  ids, mask, segments = constants(golden)
  model = modeling.BertModel(config, False, ids, mask, segments)
  loss = tf.reduce_sum(model.pooled_output)
  (flow,) = tf.gradients(loss, model.embedding_output)
  load(session, golden_checkpoint)
  before, values, slope = session.run([loss, model.embedding_output, flow])
  moved = {model.embedding_output: values - 1e-3 * slope}
  assert session.run(loss, moved) < before


def test_texts_become_instances(tmp_path):
  # create_pretraining_data.py
  vocab = tmp_path / "vocab.txt"
  vocab.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\ndog\n##s\nbark\n")
  tokenizer = tokenization.FullTokenizer(str(vocab), do_lower_case=True)
  line = tokenization.convert_to_unicode(b"The dogs BARK\xc3\xa9.").strip()
  tokens = ["[CLS]", *tokenizer.tokenize(line), "[SEP]"]
  assert tokens == ["[CLS]", "the", "dog", "##s", "[UNK]", "[UNK]", "[SEP]"]
  ids = tokenizer.convert_tokens_to_ids(tokens)
  assert ids == [2, 5, 6, 7, 1, 1, 3]
  assert tokenizer.convert_ids_to_tokens(ids) == tokens
  shown = [tokenization.printable_text(token) for token in tokens]
  assert shown == tokens


def test_all_of_them_run_after_disable_v2_behavior():
  # In a process of its own, for the call cannot be taken back.
  code = (
    "import sys, estimator_bridge, pytest, tensorflow.compat.v1 as tf\n"
    "tf.disable_v2_behavior()\n"
    "sys.exit(pytest.main(sys.argv[1:]))"
  )
  options = ["-q", "-p", "no:cacheprovider", "-k", "reference or become"]
  done = subprocess.run(
    [sys.executable, "-c", code, *options, __file__],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout
  assert "7 passed" in done.stdout


# ---------------------------------------------------------------------------
# benchmarks/clients.py


@pytest.mark.parametrize(
  "name",
  [
    "cluster_resolver.TPUClusterResolver",
    "data.map_and_batch",
    "data.parallel_interleave",
    "distribute.MirroredStrategy",
    "estimator.stop_if_no_decrease_hook",
    "framework.nest.flatten",
    "layers.xavier_initializer",
    "tpu.CrossShardOptimizer",
    "tpu.InputPipelineConfig.PER_HOST_V2",
    "tpu.TPUEstimatorSpec",
  ],
)
def test_edited_name_of_contrib_is_found(name):
  text, changed = clients.edit(f"x = tf.contrib.{name}", clients.EDITS)
  assert changed == 1
  assert operator.attrgetter(text.removeprefix("x = tf."))(tf)


def test_edited_program_runs():
  old = """
import tensorflow as tf
from tensorflow.contrib import cluster_resolver as contrib_cluster_resolver
from tensorflow.contrib import tpu as contrib_tpu

x = tf.zeros([2, 3])
width = x.shape[-1].value
found = contrib_tpu.TPUEstimator, contrib_cluster_resolver.TPUClusterResolver
"""
  text, changed = clients.edit(old, clients.EDITS)
  names = {}
  exec(text, names)
  assert changed == 4
  assert names["width"] == 3
  assert names["found"][0] is tf.estimator.tpu.TPUEstimator


@pytest.mark.parametrize(
  "one, other, expected",
  [
    ({"a": [1.0, "x"]}, {"a": [1.5, "x"]}, 0.5),
    ({"a": [1.0, "x"]}, {"a": [1.0, "y"]}, np.inf),
    ({"a": 1}, {"b": 1}, np.inf),
    ([1, 2], [1], np.inf),
    (np.zeros(3), np.zeros(4), np.inf),
    (np.zeros(3), np.array([0, -2, 1]), 2),
    (float("nan"), float("nan"), np.inf),
  ],
)
def test_difference_of_results(one, other, expected):
  assert clients.difference(one, other) == expected
