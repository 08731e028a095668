"""What other programs take from modeling: tensors, layers, variables."""

import json

from conftest import small_config
import numpy as np
import pytest
import scipy.special
import tensorflow.compat.v1 as tf

import modeling
import optimization

pytestmark = pytest.mark.quick

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
