"""BERT as a TensorFlow graph: configuration, encoder and classifier.

The encoder of Devlin et al., "BERT: Pre-training of Deep Bidirectional
Transformers for Language Understanding" (https://arxiv.org/abs/1810.04805),
in the form, and under the variable names, of the released checkpoints. Reads
top to bottom: `BertConfig`, then `BertForSequenceClassification` and
`BertModel`, then the parts that they are made of. The nesting of variable
scopes spells the names in a checkpoint.

  config = BertConfig.from_json_file("bert_config.json")
  model = BertModel(config, is_training=False, input_ids=ids, input_mask=mask)
  pooled = model.get_pooled_output()       # <float32>[B, H]

Axis letters: B batch, S sequence, H hidden, N heads, D head width (H / N),
F feed-forward, L labels, V vocabulary, P positions, Y token types, and M rows
of the matrix that the layers work on (B * S: every position is a row).
"""

import copy
import difflib
import itertools
import json
import math
import numbers
import zlib

from absl import logging
import tensorflow.compat.v1 as tf

import fast_ops
import layout

# ---------------------------------------------------------------------------
# Configuration


def _integer(low):
  """A test for whole numbers from `low` on, and the words for it."""
  return (
    lambda value: (
      isinstance(value, numbers.Integral)
      and not isinstance(value, bool)
      and value >= low
    ),
    f"a whole number of at least {low}",
  )


def _real(low, high=math.inf):
  """A test for numbers in [low, high), and the words for it."""
  return (
    lambda value: (
      isinstance(value, numbers.Real)
      and not isinstance(value, bool)
      and low <= value < high
    ),
    f"a number from {low} up to, not including, {high}"
    if high < math.inf
    else f"a number of at least {low}",
  )


def _only(*allowed):
  """A test for the values this architecture computes with, and their list."""
  return (
    lambda value: value in allowed,
    " or ".join(map(repr, allowed)) + " (nothing else is computed here)",
  )


def _is_activation(value):
  if callable(value) or value is None:
    return True
  return isinstance(value, str) and value.lower() in _ACTIVATIONS


_ARCHITECTURE = {
  "vocab_size": _integer(1),
  "hidden_size": _integer(1),
  "num_hidden_layers": _integer(0),
  "num_attention_heads": _integer(1),
  "intermediate_size": _integer(1),
  "hidden_act": (
    _is_activation,
    "gelu, gelu_erf, relu, tanh, linear or a function",
  ),
  "hidden_dropout_prob": _real(0, 1),
  "attention_probs_dropout_prob": _real(0, 1),
  "max_position_embeddings": _integer(1),
  "type_vocab_size": _integer(1),
  "initializer_range": _real(0),
}

# Keys of the Chinese and multilingual releases that nothing here computes
# with: kept, written back, and named in `BertConfig`.
_RELEASED_UNUSED = (
  "directionality",
  "pooler_fc_size",
  "pooler_num_attention_heads",
  "pooler_num_fc_layers",
  "pooler_size_per_head",
  "pooler_type",
)

# Keys of Hugging Face configurations. Those that would change what is computed
# must have the one value that is computed here; the others are only kept.
_HUGGING_FACE_FIXED = {
  "model_type": _only("bert"),
  "layer_norm_eps": _only(1e-12),
  "position_embedding_type": _only("absolute"),
  "is_decoder": _only(False),
  "add_cross_attention": _only(False),
  "is_encoder_decoder": _only(False),
  "pruned_heads": _only({}, None),
}
_HUGGING_FACE_UNUSED = (
  "_name_or_path",
  "_attn_implementation_autoset",
  "architectures",
  "attn_implementation",
  "bos_token_id",
  "chunk_size_feed_forward",
  "classifier_dropout",
  "dtype",
  "eos_token_id",
  "finetuning_task",
  "gradient_checkpointing",
  "id2label",
  "label2id",
  "language",
  "name",
  "num_labels",
  "output_attentions",
  "output_hidden_states",
  "output_past",
  "pad_token_id",
  "problem_type",
  "return_dict",
  "sep_token_id",
  "tie_word_embeddings",
  "torch_dtype",
  "torchscript",
  "transformers_version",
  "use_bfloat16",
  "use_cache",
)


class BertConfig:
  """The sizes and rates of a BERT model.

  Args and attributes:
    vocab_size: V, rows of the word embedding table.
    hidden_size: H, width of every layer's output.
    num_hidden_layers: number of encoder layers.
    num_attention_heads: N; H must be a multiple of it (checked when a model
      is built).
    intermediate_size: F, width of the feed-forward layer.
    hidden_act: its activation: a function, or "gelu" (the tanh approximation
      of the released checkpoints), "gelu_erf" (the exact form, which
      Hugging Face calls "gelu"), "relu", "tanh" or "linear".
    hidden_dropout_prob: dropout after the embeddings and after every dense
      layer that ends in a residual, in [0, 1); off outside training.
    attention_probs_dropout_prob: dropout of the attention weights.
    max_position_embeddings: P, the longest sequence the model can take.
    type_vocab_size: Y, number of segment ids; the released models have 2.
    initializer_range: standard deviation of the truncated normal that every
      new weight matrix is drawn from.

  `from_dict` keeps further known keys as attributes, and `to_dict` writes
  them back. Of the Chinese and multilingual releases (none is used by this
  architecture, whose pooler is one dense layer over the first token):
    directionality: "bidi", which attention always is here.
    pooler_fc_size, pooler_num_attention_heads, pooler_num_fc_layers,
    pooler_size_per_head: sizes of a pooler that was never released.
    pooler_type: "first_token_transform", the pooler that is built.
  Of Hugging Face's files: `layer_norm_eps`, `position_embedding_type` and a
  few more must have BERT's own value, the rest describes their library.

  Raises:
    ValueError: a value of the wrong type or out of range; names key and value.
  """

  def __init__(
    self,
    vocab_size,
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=3072,
    hidden_act="gelu",
    hidden_dropout_prob=0.1,
    attention_probs_dropout_prob=0.1,
    max_position_embeddings=512,
    type_vocab_size=16,
    initializer_range=0.02,
  ):
    given = {key: value for key, value in locals().items() if key != "self"}
    for key, value in given.items():
      self._set(key, value, *_ARCHITECTURE[key])

  def _set(self, key, value, is_valid, allowed):
    if not is_valid(value):
      raise ValueError(f"{key} is {value!r}, but must be {allowed}")
    setattr(self, key, value)

  @classmethod
  def from_dict(cls, json_object):
    """Builds a configuration from a dictionary as `to_dict` gives it.

    A key that is not known is kept, unless it is the name of a method, with a
    warning that names the nearest one.

    Raises:
      ValueError: `vocab_size` is missing, or a value is not allowed.
    """
    if not isinstance(json_object, dict):
      raise ValueError(
        "a BERT configuration must be an object of keys and values, not"
        f" {type(json_object).__name__}"
      )
    if "vocab_size" not in json_object:
      raise ValueError(
        "the key vocab_size is missing: without it the size of the word"
        " embeddings is unknown"
      )
    known = {k: v for k, v in json_object.items() if k in _ARCHITECTURE}
    config = cls(**known)
    for key, value in json_object.items():
      if key not in known:
        config._set_other(key, value)
    return config

  def _set_other(self, key, value):
    if key in _HUGGING_FACE_FIXED:
      self._set(key, value, *_HUGGING_FACE_FIXED[key])
      return
    others = (*_RELEASED_UNUSED, *_HUGGING_FACE_UNUSED)
    if key not in others:
      names = [*_ARCHITECTURE, *_HUGGING_FACE_FIXED, *others]
      nearest = difflib.get_close_matches(key, names, n=1, cutoff=0.0)
      hint = f"; did you mean {nearest[0]}?" if nearest else ""
      logging.warning(
        "unknown key %r in the BERT configuration has no effect%s", key, hint
      )
    if not hasattr(type(self), key):  # a method keeps its name
      setattr(self, key, value)

  @classmethod
  def from_json_file(cls, json_file):
    """Reads a configuration; errors name the file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not JSON, or holds a value that is not allowed.
    """
    if not tf.io.gfile.exists(json_file) or tf.io.gfile.isdir(json_file):
      raise FileNotFoundError(f"there is no BERT configuration at {json_file}")
    try:
      with tf.io.gfile.GFile(json_file, "rb") as reader:
        return cls.from_dict(json.loads(reader.read().decode("utf-8-sig")))
    except ValueError as error:  # JSON and Unicode errors are ValueErrors too
      raise ValueError(f"{json_file}: {error}") from error

  def read_as_hugging_face(self):
    """Takes `hidden_act` as Hugging Face means it: "gelu" is the exact form."""
    if isinstance(self.hidden_act, str) and self.hidden_act.lower() == "gelu":
      self.hidden_act = "gelu_erf"

  def check_heads(self):
    """Raises a ValueError where the heads do not divide the hidden size."""
    if self.hidden_size % self.num_attention_heads:
      raise ValueError(
        f"hidden_size {self.hidden_size} is not a multiple of"
        f" num_attention_heads {self.num_attention_heads}; change one of them"
        " in the configuration"
      )

  def architecture(self):
    """The keys and values that decide what is computed."""
    return {key: getattr(self, key) for key in _ARCHITECTURE}

  def to_dict(self):
    """All keys and values, those that are only kept included."""
    return copy.deepcopy(self.__dict__)

  def to_json_string(self):
    """The same as JSON, keys sorted, ending in a newline."""
    return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"


# ---------------------------------------------------------------------------
# The classifier


class BertForSequenceClassification:
  """BERT, dropout, a linear layer and the softmax cross-entropy.

    model = BertForSequenceClassification(config, num_labels=2)
    outputs = model(features, is_training=True, dropout_key=key)

  Args:
    config: a `BertConfig`.
    num_labels: L.
    use_one_hot_embeddings: look words up by a product with a one-hot matrix,
      which is the fast way on a TPU.
    skip_padding: compute real tokens only, see `BertModel`.
  """

  # Set in the 2018 head, whatever the configuration says.
  HEAD_DROPOUT = 0.1
  HEAD_STDDEV = 0.02

  def __init__(
    self,
    config,
    num_labels,
    *,
    use_one_hot_embeddings=False,
    skip_padding=False,
  ):
    if num_labels < 1:
      raise ValueError(f"num_labels is {num_labels}, but must be at least 1")
    self.config = config
    self.num_labels = num_labels
    self.use_one_hot_embeddings = use_one_hot_embeddings
    self.skip_padding = skip_padding

  def __call__(self, features, *, is_training=False, dropout_key=None):
    """Adds the model to the graph.

    Args:
      features: dictionary of `input_ids` <int32>[B, S], and where wanted
        `input_mask`, `segment_ids` <int32>[B, S] and `label_ids` <int32>[B].
      is_training: whether dropout is applied.
      dropout_key: <int64>[2], see `Dropout`.

    Returns:
      Dictionary of `logits` and `probabilities` <float32>[B, L]; with
      `label_ids` also `per_example_loss` <float32>[B] and `loss` <float32>[],
      its mean.
    """
    dropout = Dropout(dropout_key) if is_training else no_dropout
    bert = BertModel(
      self.config,
      is_training=is_training,
      input_ids=features["input_ids"],
      input_mask=features.get("input_mask"),
      token_type_ids=features.get("segment_ids"),
      use_one_hot_embeddings=self.use_one_hot_embeddings,
      scope="bert",  # the same one where a graph has the model twice
      dropout=dropout,
      skip_padding=self.skip_padding,
      only_pooled=True,
    )
    pooled = dropout(bert.get_pooled_output(), self.HEAD_DROPOUT)  # [B, H]
    logits = self._head(pooled)  # [B, L]
    outputs = {"logits": logits, "probabilities": tf.nn.softmax(logits)}
    if "label_ids" in features:
      loss = tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels=features["label_ids"], logits=logits
      )
      outputs["per_example_loss"] = loss  # [B]
      outputs["loss"] = tf.reduce_mean(loss)  # []
    return outputs

  def _head(self, pooled):
    """<float32>[B, H] to <float32>[B, L]."""
    weights = new_matrix(
      "output_weights",
      [self.num_labels, self.config.hidden_size],
      self.HEAD_STDDEV,
    )
    bias = new_vector("output_bias", self.num_labels)
    return tf.nn.bias_add(tf.matmul(pooled, weights, transpose_b=True), bias)


# ---------------------------------------------------------------------------
# The encoder


class BertModel:
  """The BERT encoder and its pooler.

  Args:
    config: a `BertConfig`; it is left unchanged.
    is_training: whether dropout is applied.
    input_ids: <int32>[B, S].
    input_mask: <int32>[B, S], 1 where a token may be attended to and 0 where
      not; any such mask is valid. All ones where not given.
    token_type_ids: <int32>[B, S], segment of each token. Zeros where not given.
    use_one_hot_embeddings: look words up by a product with a one-hot matrix.
    scope: variable scope; "bert" where not given.
    dropout: a `Dropout` to share with the layers that follow; one of its own
      where not given.
    skip_padding: compute only the positions that the mask shows, in shapes
      that depend on the batch (not for a TPU); the others are zeros in what
      the getters return.
    only_pooled: compute only what the pooled output needs: of the last layer
      the first token, and its getters are not to be called.

  Raises:
    ValueError: the number of heads does not divide the hidden size, or the
      sequence is longer than the position embeddings.
  """

  def __init__(
    self,
    config,
    is_training,
    input_ids,
    input_mask=None,
    token_type_ids=None,
    use_one_hot_embeddings=False,
    scope=None,
    *,
    dropout=None,
    skip_padding=False,
    only_pooled=False,
  ):
    config.check_heads()
    shape = get_shape_list(input_ids, expected_rank=2)  # [B, S]
    if input_mask is None:
      input_mask = tf.ones(shape, tf.int32)
    input_mask = tf.cast(input_mask, tf.int32)
    if token_type_ids is None:
      token_type_ids = tf.zeros(shape, tf.int32)
    if not is_training:
      dropout = no_dropout
    elif dropout is None:
      dropout = Dropout()

    arrange = layout.RealTokens if skip_padding else layout.EveryPosition
    self._positions = arrange(input_mask, shape, config.num_attention_heads)
    self._only_pooled = only_pooled
    with tf.variable_scope(scope, default_name="bert"):
      with tf.variable_scope("embeddings"):
        _check_length(shape[1], config.max_position_embeddings)
        self._embeddings, self._table = embed(
          input_ids,
          token_type_ids,
          self._positions,
          config,
          dropout,
          use_one_hot_embeddings,
        )
      with tf.variable_scope("encoder"):
        self._layers = encode(
          self._embeddings, self._positions, config, dropout, only_pooled
        )
      with tf.variable_scope("pooler"):
        if only_pooled and self._layers:
          first = self._layers[-1]  # [B, H]
        else:
          first = self._positions.first([self._embeddings, *self._layers][-1])
        self._pooled = dense(
          first, config.hidden_size, config, "dense", tf.tanh
        )

  def get_pooled_output(self):
    """<float32>[B, H], tanh of a dense layer over the first token."""
    return self._pooled

  def get_sequence_output(self):
    """<float32>[B, S, H], the last layer, padded positions included."""
    layers = self.get_all_encoder_layers()
    return layers[-1] if layers else self.get_embedding_output()

  def get_all_encoder_layers(self):
    """The output of every layer, each <float32>[B, S, H].

    Raises:
      ValueError: the model was built with `only_pooled`.
    """
    if self._only_pooled:
      raise ValueError("with only_pooled the last layer is not all computed")
    return [self._positions.at_positions(layer) for layer in self._layers]

  def get_embedding_output(self):
    """<float32>[B, S, H], what the first layer reads."""
    return self._positions.at_positions(self._embeddings)

  def get_embedding_table(self):
    """<float32>[V, H], the variable of the word embeddings."""
    return self._table


def embed(
  input_ids, token_type_ids, positions, config, dropout, use_one_hot_embeddings
):
  """Sum of word, segment and position embeddings, normalized.

  Args:
    input_ids, token_type_ids: <int32>[B, S].
    positions: which of them to compute, see `layout`.
    config: a `BertConfig`.
    dropout: a `Dropout`.
    use_one_hot_embeddings: see `embedding_lookup`.

  Returns:
    <float32>[M, H] and the word embedding variable <float32>[V, H].
  """
  width, stddev = config.hidden_size, config.initializer_range
  words, table = embedding_lookup(
    positions.rows(input_ids),
    config.vocab_size,
    width,
    stddev,
    "word_embeddings",
    use_one_hot_embeddings,
  )  # [M, H]
  # The product with a one-hot matrix, whose gradient is dense, as the clipping
  # norm of the original wants it; with so few types it costs next to nothing.
  types, _ = embedding_lookup(
    positions.rows(token_type_ids),
    config.type_vocab_size,
    width,
    stddev,
    "token_type_embeddings",
    use_one_hot_embeddings=True,
  )  # [M, H]
  table_of_positions = new_matrix(
    "position_embeddings", [config.max_position_embeddings, width], stddev
  )  # [P, H]
  rows = positions.add_positions(words + types, table_of_positions)  # [M, H]
  return dropout(layer_norm(rows), config.hidden_dropout_prob), table


def _check_length(length, longest):
  if isinstance(length, int) and length > longest:
    raise ValueError(
      f"a sequence of {length} positions is longer than the"
      f" max_position_embeddings {longest} that the model was made for"
    )


def encode(rows, positions, config, dropout, only_pooled=False):
  """The stack of layers: list of <float32>[M, H], one for each layer.

  Args:
    rows: <float32>[M, H].
    positions: where the rows stand, see `layout`.
    config: a `BertConfig`.
    dropout: a `Dropout`.
    only_pooled: of the last layer compute the first tokens alone: [B, H]. To
      compute all of it takes a training step of the 6-layer model 1.23 times as
      long on MNLI (benchmarks/speed.py --forms).
  """
  layers = []
  for number in range(config.num_hidden_layers):
    only_first = only_pooled and number == config.num_hidden_layers - 1
    queries = positions.first(rows) if only_first else rows  # [M or B, H]
    with tf.variable_scope(f"layer_{number}"):
      with tf.variable_scope("attention"):
        with tf.variable_scope("self"):
          context = self_attention(
            queries, rows, positions, config, dropout, only_first
          )  # [M or B, H]
        with tf.variable_scope("output"):
          rows = residual(context, queries, config, dropout)  # [M or B, H]
      with tf.variable_scope("intermediate"):
        activation = get_activation(config.hidden_act)
        hidden = dense(
          rows, config.intermediate_size, config, "dense", activation
        )  # [M or B, F]
      with tf.variable_scope("output"):
        rows = residual(hidden, rows, config, dropout)  # [M or B, H]
    layers.append(rows)
  return layers


def residual(branch, rows, config, dropout):
  """LayerNorm(rows + dropout(dense(branch))): <float32>[M, H].

  Args:
    branch: <float32>[M, H or F].
    rows: <float32>[M, H].
    config: a `BertConfig`.
    dropout: a `Dropout`.
  """
  branch = dense(branch, config.hidden_size, config, "dense")  # [M, H]
  return layer_norm(rows + dropout(branch, config.hidden_dropout_prob))


def self_attention(queries, rows, positions, config, dropout, only_first):
  """Scaled dot-product attention of every head (arXiv:1706.03762, 3.2).

  Args:
    queries: <float32>[M, H], or [B, H] of the first tokens: what looks.
    rows: <float32>[M, H], what is looked at.
    positions: where the rows stand, see `layout`.
    config: a `BertConfig`.
    dropout: a `Dropout`.
    only_first: whether only the first tokens look.

  Returns:
    <float32>, the shape of `queries`, the heads side by side.
  """
  rate = config.attention_probs_dropout_prob
  query = dense(queries, config.hidden_size, config, "query")  # [M or B, H]
  key = dense(rows, config.hidden_size, config, "key")  # [M, H]
  value = dense(rows, config.hidden_size, config, "value")  # [M, H]
  return positions.attend(
    query,
    key,
    # Dropout's 1 / (1 - p) is put on the value, which is smaller than the
    # weights [B, N, Q, K]; the product is the same.
    dropout.scaled_up(value, rate),
    lambda shape: dropout.mask(shape, rate),
    only_first,
  )


# ---------------------------------------------------------------------------
# Layers and variables


def dense(rows, width, config, name, activation=None):
  """activation(rows . kernel + bias): <float32>[M, width].

  Args:
    rows: <float32>[M, any width].
    width: of the output.
    config: a `BertConfig`, which tells how the kernel is initialized.
    name: scope of the variables `kernel` and `bias`.
    activation: a function, or None.
  """
  with tf.variable_scope(name):
    shape = [_width(rows), width]
    kernel = new_matrix("kernel", shape, config.initializer_range)
    bias = new_vector("bias", width)
    output = tf.nn.bias_add(tf.matmul(rows, kernel), bias)
  return activation(output) if activation else output


def layer_norm(input_tensor, name=None):
  """Layer normalization over the last axis (https://arxiv.org/abs/1607.06450).

  Epsilon is 1e-12. Variables `beta` and `gamma` in the scope `name`, LayerNorm
  where not given.

  Args:
    input_tensor: <float32>[..., H].

  Returns:
    The same shape.
  """
  with tf.variable_scope(name or "LayerNorm"):
    width = _width(input_tensor)
    beta = new_vector("beta", width)
    gamma = new_vector("gamma", width, tf.ones_initializer())
    rows = tf.reshape(input_tensor, [-1, width])  # [M, H]
    normal = fast_ops.normalize(rows, gamma, beta)
    return tf.reshape(normal, get_shape_list(input_tensor))


def embedding_lookup(
  input_ids,
  vocab_size,
  embedding_size=128,
  initializer_range=0.02,
  word_embedding_name="word_embeddings",
  use_one_hot_embeddings=False,
):
  """Rows of a table: <float32>[..., H], and the table <float32>[V, H].

  Args:
    input_ids: <int32>[...].
    vocab_size: V.
    embedding_size: H.
    initializer_range: standard deviation of a new table.
    word_embedding_name: the table's variable.
    use_one_hot_embeddings: product with a one-hot matrix (dense gradient)
      instead of a gather (gradient as IndexedSlices, a row for each token).
  """
  table = new_matrix(
    word_embedding_name, [vocab_size, embedding_size], initializer_range
  )
  if not use_one_hot_embeddings:
    # Not from the variable itself, or TensorFlow would copy the whole table
    # before each update: a CoLA step of the 6-layer model with that copy takes
    # 1.06 times as long (benchmarks/speed.py --forms).
    return tf.gather(table.read_value(), input_ids), table  # [..., H]
  flat = tf.one_hot(tf.reshape(input_ids, [-1]), vocab_size)  # [M, V]
  rows = tf.matmul(flat, table)  # [M, H]
  return tf.reshape(rows, get_shape_list(input_ids) + [embedding_size]), table


def _width(tensor):
  """The static size of the last axis, a number also where v1 shapes are on."""
  return tensor.shape.as_list()[-1]


def new_matrix(name, shape, stddev):
  """The variable `name` in the current scope, drawn from a truncated normal."""
  full_name = f"{tf.get_variable_scope().name}/{name}"
  return tf.get_variable(
    name,
    shape,
    initializer=create_initializer(stddev, full_name),
    use_resource=True,
  )


def new_vector(name, width, initializer=None):
  """The variable `name` <float32>[width]; zeros where nothing else is given."""
  return tf.get_variable(
    name,
    [width],
    initializer=initializer or tf.zeros_initializer(),
    use_resource=True,
  )


def create_initializer(initializer_range=0.02, name=None):
  """Truncated normal of that standard deviation, cut at two of them.

  With `name` and a graph seed (`tf.set_random_seed`) the values are a function
  of the two, whatever else the graph holds.
  """
  seed = tf.get_default_graph().seed
  if name is None or seed is None:
    return tf.truncated_normal_initializer(stddev=initializer_range)

  def draw(shape, dtype=tf.float32, partition_info=None):
    del partition_info
    return tf.random.stateless_truncated_normal(
      shape, [seed, zlib.crc32(name.encode())], 0.0, initializer_range, dtype
    )

  return draw


class Dropout:
  """Dropout whose masks are a function of (key, site).

  A site is a place in the model where dropout is applied; sites are counted in
  the order they are built in. With a key made of seed and global step (see
  `dropout_key`) step n of a run has the same masks however the run came there.

  Args:
    key: <int64>[2]. Where not given, it is drawn anew in every step.
  """

  def __init__(self, key=None):
    if key is None:
      key = tf.random.uniform([2], maxval=2**62, dtype=tf.int64)
    self._key = key
    self._sites = itertools.count()

  def __call__(self, input_tensor, dropout_prob):
    """Zeroes elements with that probability and scales up the others.

    Args:
      input_tensor: <float32>[...].
      dropout_prob: in [0, 1); None is 0.

    Returns:
      The same shape.
    """
    kept = self.mask(_shape(input_tensor), dropout_prob)
    if kept is None:
      return input_tensor
    return self.scaled_up(input_tensor * kept, dropout_prob)

  def mask(self, shape, dropout_prob):
    """<float32>[shape] of 1 and 0, or None where everything is kept."""
    if not dropout_prob:
      return None
    seed = self._key + tf.constant([next(self._sites), 0], tf.int64)
    return fast_ops.keep_mask(shape, seed, dropout_prob)

  def scaled_up(self, input_tensor, dropout_prob):
    """What makes up for the elements that are lost."""
    if not dropout_prob:
      return input_tensor
    return input_tensor * (1.0 / fast_ops.kept_share(dropout_prob))


class _NoDropout(Dropout):
  """Stands in for a `Dropout` outside training."""

  def __init__(self):
    pass

  def mask(self, shape, dropout_prob):
    return None

  def scaled_up(self, input_tensor, dropout_prob):
    return input_tensor


no_dropout = _NoDropout()


def _shape(tensor):
  """A list of numbers where it is static, else <int32>[rank]."""
  static = tensor.shape.as_list()
  return tf.shape(tensor) if None in static else static


def dropout_key(seed, step, replica=0):
  """The key of a step's dropout: <int64>[2], for `Dropout`.

  It is (65536 seed, 65536 step + replica): sites of the model add their number
  to the first, so that no two steps, replicas or sites have a key in common.

  Args:
    seed: whole number.
    step: <int64>[], the global step.
    replica: <int32>[], which of the copies of the model this is.
  """
  step = tf.cast(step, tf.int64) * 65536 + tf.cast(replica, tf.int64)
  return tf.stack([tf.constant(seed * 65536, tf.int64), step])


def dropout(input_tensor, dropout_prob):
  """Dropout with a mask of its own in every step; see `Dropout`."""
  return Dropout()(input_tensor, dropout_prob)


# ---------------------------------------------------------------------------
# Activations


def gelu(x):
  """Gaussian error linear unit, tanh approximation: <float32>[...], any shape.

  0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), section 2 of
  https://arxiv.org/abs/1606.08415.
  """
  return fast_ops.gelu(x)


def gelu_erf(x):
  """The exact unit x Phi(x), Phi the normal distribution: same shape."""
  return 0.5 * x * (1.0 + tf.math.erf(x * math.sqrt(0.5)))


_ACTIVATIONS = {
  "gelu": gelu,
  "gelu_erf": gelu_erf,
  "gelu_new": gelu,  # as Hugging Face calls the approximation
  "relu": tf.nn.relu,
  "tanh": tf.tanh,
  "linear": None,
  "none": None,
  "": None,
}


def get_activation(activation_string):
  """The function of that name, in any case; None for linear.

  A function, or None, is returned as it is.

  Raises:
    ValueError: the name is not known.
  """
  if not isinstance(activation_string, str):
    return activation_string
  name = activation_string.lower()
  if name not in _ACTIVATIONS:
    raise ValueError(
      f"the activation {activation_string!r} is not one of"
      f" {', '.join(filter(None, _ACTIVATIONS))}"
    )
  return _ACTIVATIONS[name]


# ---------------------------------------------------------------------------
# Shapes and checkpoints


def get_shape_list(tensor, expected_rank=None, name=None):
  """The shape as a list: a number where it is static, a tensor where not.

  Args:
    tensor: any tensor.
    expected_rank: a rank, or several of which it must have one.
    name: what an error calls it.

  Raises:
    ValueError: the rank is not an expected one.
  """
  if expected_rank is not None:
    ranks = expected_rank
    ranks = [ranks] if isinstance(ranks, int) else list(ranks)
    if tensor.shape.rank not in ranks:
      raise ValueError(
        f"{name or tensor.name} has the shape {tensor.shape} of rank"
        f" {tensor.shape.rank}, but its rank must be"
        f" {' or '.join(map(str, ranks))}"
      )
  static = tensor.shape.as_list()
  if None not in static:
    return static
  dynamic = tf.shape(tensor)
  return [dynamic[i] if n is None else n for i, n in enumerate(static)]


def get_assignment_map_from_checkpoint(tvars, init_checkpoint):
  """Which variables a checkpoint can initialize, matched by name.

  Args:
    tvars: variables.
    init_checkpoint: prefix of a TensorFlow checkpoint.

  Returns:
    The map that `tf.train.init_from_checkpoint` takes, in the checkpoint's
    order, and a dictionary with the names found, each with and without ":0".
  """
  here = {variable.name.partition(":")[0] for variable in tvars}
  there = [name for name, _ in tf.train.list_variables(init_checkpoint)]
  found = {name: name for name in there if name in here}
  return found, {form: 1 for name in found for form in (name, name + ":0")}
