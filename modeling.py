"""BERT as a TensorFlow graph: configuration, encoder and classifier.

The encoder of Devlin et al., "BERT: Pre-training of Deep Bidirectional
Transformers for Language Understanding" (https://arxiv.org/abs/1810.04805),
in the form, and under the variable names, of the released checkpoints. Reads
top to bottom: `BertConfig`, then `BertForSequenceClassification` and
`BertModel`, then the parts that they are made of, under the names and with the
arguments of 2018. The nesting of variable scopes spells the names in a
checkpoint.

  config = BertConfig.from_json_file("bert_config.json")
  model = BertModel(config, is_training=False, input_ids=ids, input_mask=mask)
  pooled = model.get_pooled_output()       # <float32>[B, H]

Axis letters: B batch, S sequence, H hidden, N heads, D head width (H / N),
Q queries, K keys, F feed-forward, L labels, V vocabulary, P positions, Y token
types, and M rows of a matrix.
"""

import copy
import difflib
import functools
import json
import math
import numbers
import re
import zlib

from absl import logging
import tensorflow.compat.v1 as tf

LAYER_NORM_EPSILON = 1e-12

# ---------------------------------------------------------------------------
# Configuration


_LARGEST = 2**31 - 1  # that ids, which are int32, can count


def _integer(low):
  """Returns a test for whole numbers from `low` on, and its description."""
  return (
    lambda value: (
      isinstance(value, numbers.Integral)
      and not isinstance(value, bool)
      and low <= value <= _LARGEST
    ),
    f"a whole number from {low} to {_LARGEST}",
  )


def _real(low, high=math.inf):
  """Returns a test for numbers in [low, high), and its description."""
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
  """Returns a test for the values that are computed, and its description."""
  return (
    lambda value: value in allowed,
    " or ".join(map(repr, allowed)) + " (nothing else is computed here)",
  )


def _never(reason):
  """Returns a test for a key that no BERT has, and its description."""
  return lambda value: value is None, f"left out: {reason}"


def _is_activation(value):
  """Returns True for what `get_activation` takes."""
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
  "layer_norm_eps": (
    lambda value: _real(0, 1)[0](value) and value > 0,
    "a number over 0 and under 1",
  ),
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

# Keys of Hugging Face configurations, and of BERT's descendants. Those that
# would change what is computed must have the one value that is computed here;
# the others are only kept. They are known in this file because its `to_dict`
# writes them back: a configuration that was saved must be read again, and
# checked, wherever this file is copied.
_MODEL_TYPE = (
  # ERNIE without task ids is BERT with another layer_norm_eps.
  _only("bert", "ernie")[0],
  "'bert', or 'ernie' without task ids: another architecture has other layers,"
  " which are not computed here; take a model of BERT's own",
)
_FIXED = {
  "position_embedding_type": _only("absolute"),
  "is_decoder": _only(False),
  "add_cross_attention": _only(False),
  "is_encoder_decoder": _only(False),
  "pruned_heads": _only({}, None),
  "use_task_id": _only(False, None),  # ERNIE 2 and 3
  "use_relative_position": _only(False, None),  # NEZHA
  "relative_attention": _only(False, None),  # DeBERTa
  "position_biased_input": _only(True, None),
  "feed_forward_type": _only("original", None),  # JinaBERT
  "alibi_starting_size": _never("MosaicBERT has no position embeddings"),
  "num_hidden_groups": _never("ALBERT's layers share their weights"),
  "use_bottleneck": _only(False, None),  # MobileBERT
  "normalization_type": _only("layer_norm", None),
  "quant_mode": _only(False, None),  # I-BERT
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
  "task_type_vocab_size",
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
    vocab_size: V, rows of the word embedding table; None until it is known,
      which must be before a model is built.
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
    layer_norm_eps: what LayerNorm adds to the variance; the released models
      have the default. `to_dict` gives it where it is another or `from_dict`
      was given it, so that files of 2018 stay as they were.

  `from_dict` keeps further known keys as attributes, and `to_dict` writes
  them back. Of the Chinese and multilingual releases (none is used by this
  architecture, whose pooler is one dense layer over the first token):
    directionality: "bidi", which attention always is here.
    pooler_fc_size, pooler_num_attention_heads, pooler_num_fc_layers,
    pooler_size_per_head: sizes of a pooler that was never released.
    pooler_type: "first_token_transform", the pooler that is built.
  Of Hugging Face's files: `model_type`, `position_embedding_type` and a few
  more must have BERT's own value, the rest describes their library.

  Raises:
    ValueError: values of the wrong type or out of range; names all of them.
  """

  layer_norm_eps = LAYER_NORM_EPSILON

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
    layer_norm_eps=LAYER_NORM_EPSILON,
  ):
    given = {key: value for key, value in locals().items() if key != "self"}
    problems = [
      _explain_value(key, value, *_ARCHITECTURE[key])
      for key, value in given.items()
      if not (key == "vocab_size" and value is None)
    ]
    if problems := list(filter(None, problems)):
      raise ValueError("; ".join(problems))
    if layer_norm_eps == LAYER_NORM_EPSILON:
      del given["layer_norm_eps"]
    vars(self).update(given)

  @classmethod
  def from_dict(cls, json_object):
    """Builds a configuration from a dictionary as `to_dict` gives it.

    A key that is not known is kept, unless it is the name of a method, with a
    warning that names the nearest one.

    Raises:
      ValueError: `vocab_size` is missing, values are not allowed, or a key is
        nearly one that is missing; names all of them.
    """
    if problems := _find_problems(json_object):
      raise ValueError("; ".join(text for _, text in problems))
    known = {k: v for k, v in json_object.items() if k in _ARCHITECTURE}
    config = cls(**known)
    for key, value in json_object.items():
      if key not in _known_keys():
        logging.warning(
          "unknown key %r in the BERT configuration has no effect%s",
          key,
          _suggest(key, _known_keys(), "; did you mean {}?"),
        )
      # A method keeps its name.
      if key in known or not hasattr(cls, key):
        setattr(config, key, value)
    return config

  @classmethod
  def from_json_file(cls, json_file):
    """Reads a configuration; errors name the file, and the line where known.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not JSON, or holds values that are not allowed.
    """
    if tf.io.gfile.isdir(json_file):
      raise FileNotFoundError(
        f"there is no BERT configuration at {json_file}, which is a folder:"
        " give the JSON file in it"
      )
    if not tf.io.gfile.exists(json_file):
      raise FileNotFoundError(f"there is no BERT configuration at {json_file}")
    with tf.io.gfile.GFile(json_file, "rb") as reader:
      content = reader.read()
    json_object = _parse_json(content, json_file)
    if problems := _find_problems(json_object):
      text = content.decode("utf-8-sig")
      places = [
        (f"{json_file}{_line_of(k, text)}", what) for k, what in problems
      ]
      raise ValueError("; ".join(f"{place}: {what}" for place, what in places))
    return cls.from_dict(json_object)

  def check_heads(self):
    """Raises a ValueError where the heads do not divide the hidden size."""
    if self.hidden_size % self.num_attention_heads:
      raise ValueError(
        f"hidden_size {self.hidden_size} is not a multiple of"
        f" num_attention_heads {self.num_attention_heads}; change one of them"
        " in the configuration"
      )

  def architecture(self):
    """Returns the keys and values that decide what is computed."""
    return {key: getattr(self, key) for key in _ARCHITECTURE}

  def to_dict(self):
    """Returns all keys and values, those that are only kept included."""
    return copy.deepcopy(self.__dict__)

  def to_json_string(self):
    """Returns the same as JSON, keys sorted, ending in a newline."""
    return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"


def _known_keys():
  return (
    *_ARCHITECTURE,
    "model_type",
    "embedding_size",
    *_FIXED,
    *_RELEASED_UNUSED,
    *_HUGGING_FACE_UNUSED,
  )


def _find_problems(json_object):
  """Returns what is wrong with a configuration: pairs of a key and a sentence.

  The key is None where it is nothing in particular. A model of another
  architecture has no other fault than that.
  """
  if not isinstance(json_object, dict):
    kind = type(json_object).__name__
    return [
      (
        None,
        "a BERT configuration must be an object of keys and values, not"
        f" {kind}",
      )
    ]
  if "model_type" in json_object:
    kind = json_object["model_type"]
    problem = _explain_value("model_type", kind, *_MODEL_TYPE)
    if problem:
      return [("model_type", problem)]
  tests = {**_ARCHITECTURE, **_FIXED}
  # Where it is another size, a matrix that BERT lacks leads to the hidden one.
  tests["embedding_size"] = _only(json_object.get("hidden_size", 768), None)
  problems = []
  if json_object.get("vocab_size") is None:
    problems.append(
      (
        None,
        "vocab_size is None or missing: without it the size of the word"
        " embeddings is unknown",
      )
    )
  for key, value in json_object.items():
    if key == "vocab_size" and value is None:
      continue
    if key in tests:
      problem = _explain_value(key, value, *tests[key])
    else:
      problem = _explain_misspelling(key, json_object)
    if problem:
      problems.append((key, problem))
  return problems


def _explain_value(key, value, is_valid, allowed):
  """Returns why a value is not allowed, None where it is."""
  if not is_valid(value):
    return f"{key} is {value!r:.80}, but must be {allowed}"
  return None


def _explain_misspelling(key, json_object):
  """Returns why an unknown key cannot pass, None where it can.

  One that is nearly a size or a rate, which itself is missing, would leave the
  default in its place.
  """
  missing = [name for name in _ARCHITECTURE if name not in json_object]
  if key in _known_keys():
    return None
  return _suggest(
    key, missing, f"there is no key {key!r}; did you mean {{}}?", 0.8
  )


def _suggest(key, names, sentence, cutoff=0.6):
  """Returns a sentence with the name that is nearest a key, "" for none."""
  nearest = difflib.get_close_matches(key, names, n=1, cutoff=cutoff)
  return sentence.format(*nearest) if nearest else ""


def _parse_json(content, path):
  """Returns the value in a JSON file's bytes; errors name file and line."""
  try:
    return json.loads(content.decode("utf-8-sig"))
  except UnicodeDecodeError as error:
    line = content.count(b"\n", 0, error.start) + 1
    raise ValueError(
      f"{path}:{line}: the byte 0x{content[error.start]:02x} is not UTF-8; save"
      " the file in that encoding"
    ) from error
  except json.JSONDecodeError as error:
    raise ValueError(
      f"{path}:{error.lineno}: no JSON, which a BERT configuration must be:"
      f" {error.msg} (column {error.colno})"
    ) from error
  except (RecursionError, ValueError) as error:
    raise ValueError(f"{path}: no BERT configuration: {error}") from error


def _line_of(key, text):
  """Returns `:LINE` where a key stands in a JSON text, "" where unknown."""
  found = key and re.search(rf'"{re.escape(key)}"\s*:', text)
  return f":{text.count(chr(10), 0, found.start()) + 1}" if found else ""


# ---------------------------------------------------------------------------
# Activations


def gelu(x):
  """Returns the Gaussian error linear unit of x, by its tanh approximation.

  0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) for <float>[...], section 2
  of https://arxiv.org/abs/1606.08415.
  """
  inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * (x * x * x))
  return 0.5 * x * (1.0 + tf.tanh(inner))


def gelu_erf(x):
  """Returns x Phi(x), the exact unit, Phi the normal distribution."""
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
  """Returns the function of that name, in any case; None for linear.

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
# Plain and fast


class Forms:
  """What can be computed in more than one way, here in the plain one.

  Every method is one line of textbook TensorFlow, or a function of this file.
  An object with the same methods can be handed to the model to compute faster.
  It may also arrange a batch in another way: tokens are <float32>[B, S, H]
  here, and may be <float32>[M, H] there.

  Args and attributes:
    dtype: of the matrix products of the encoder and its pooler: float32,
      bfloat16 or float16. Whatever it is, variables, their gradients and all
      that stands between two products are float32.
  """

  def __init__(self, dtype=tf.float32):
    self.dtype = dtype

  def with_features(self, features):
    """Returns the forms for a batch whose features may hold more for them."""
    del features
    return self

  def for_batch(self, input_mask, num_heads):
    """Returns the forms for a batch with the mask <int32>[B, S]."""
    del input_mask, num_heads
    return self

  def arrange(self, values):
    """Arranges <int32>[B, S] as the tokens are arranged."""
    return values

  def as_batch(self, tokens):
    """Arranges tokens as <float32>[B, S, H]."""
    return tokens

  def first(self, tokens):
    """Returns the first token of each sequence: <float32>[B, 1, H]."""
    return tokens[:, :1]

  def lookup(self, table, ids):
    """Returns the rows of <float32>[V, H] at <int32>[M]: [M, H]."""
    return tf.gather(table, ids)

  def add_positions(self, tokens, table):
    """Adds to each token its row of <float32>[P, H]."""
    length = get_shape_list(tokens)[1]
    return tokens + tf.convert_to_tensor(table)[:length]

  def normalize(self, x, gamma, beta, epsilon):
    """Returns gamma (x - mean) / sqrt(variance + epsilon) + beta."""
    mean, variance = tf.nn.moments(x, [-1], keepdims=True)  # [..., 1]
    return tf.nn.batch_normalization(x, mean, variance, beta, gamma, epsilon)

  def multiply(self, rows, kernel):
    """Returns the product of <float32>[M, any width] and a kernel: [M, H]."""
    rows, kernel = tf.cast(rows, self.dtype), tf.cast(kernel, self.dtype)
    return tf.cast(tf.matmul(rows, kernel), tf.float32)

  def activation(self, name):
    """Returns the function that `get_activation` has for a name."""
    return get_activation(name)

  def layer(self, build, tokens, dropout):
    """Returns what a layer of the encoder gives.

    Args:
      build: function of tokens and a `Dropout` that adds the layer.
      tokens: <float32>[B, S, H], what the layer reads.
      dropout: a `Dropout`.
    """
    return build(tokens, dropout)

  def attention_mask(self, input_ids, input_mask):
    """Returns the mask that `attend` is given."""
    return create_attention_mask_from_input_mask(input_ids, input_mask)

  def attend(
    self, query, key, value, mask, num_heads, dropout, rate, only_first=False
  ):
    """Returns what `dot_product_attention` does, whose arguments these are.

    Forms that know them from `for_batch` ignore `mask` and `num_heads`, which
    `attention_layer` takes from its caller, as in 2018.

    Args:
      only_first: whether the queries are those of the first tokens alone.
    """
    if only_first and mask is not None:
      mask = mask[:, :1]
    query, key, value = (
      tf.cast(tokens, self.dtype) for tokens in (query, key, value)
    )
    context = dot_product_attention(
      query, key, value, mask, num_heads, dropout, rate
    )
    return tf.cast(context, tf.float32)

  def dropout(self, key=None):
    """Returns a `Dropout`."""
    return Dropout(key)


PLAIN = Forms()


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
    forms: the `Forms` to compute with.
    head_dropout: dropout of the pooled output, in [0, 1); None for that of the
      2018 head.
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
    forms=PLAIN,
    head_dropout=None,
  ):
    if num_labels < 1:
      raise ValueError(f"num_labels is {num_labels}, but must be at least 1")
    self.config = config
    self.num_labels = num_labels
    self.use_one_hot_embeddings = use_one_hot_embeddings
    self.forms = forms
    self.head_dropout = head_dropout
    if head_dropout is None:
      self.head_dropout = self.HEAD_DROPOUT

  def __call__(self, features, *, is_training=False, dropout_key=None):
    """Adds the model to the graph, with its loss where there are labels.

    Args:
      features: as for `logits`, and where wanted `label_ids` <int32>[B].
      is_training, dropout_key: as for `logits`.

    Returns:
      Dictionary of `logits` and `probabilities` <float32>[B, L]; with
      `label_ids` also `per_example_loss` <float32>[B] and `loss` <float32>[],
      its mean.
    """
    logits = self.logits(
      features, is_training=is_training, dropout_key=dropout_key
    )  # [B, L]
    outputs = {"logits": logits, "probabilities": tf.nn.softmax(logits)}
    if "label_ids" in features:
      loss = tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels=features["label_ids"], logits=logits
      )
      outputs["per_example_loss"] = loss  # [B]
      outputs["loss"] = tf.reduce_mean(loss)  # []
    return outputs

  def logits(self, features, *, is_training=False, dropout_key=None):
    """Adds the model to the graph, up to the scores of the labels.

    Args:
      features: dictionary of `input_ids` <int32>[B, S], and where wanted
        `input_mask`, `segment_ids` <int32>[B, S].
      is_training: whether dropout is applied.
      dropout_key: <int64>[2], see `Dropout`.

    Returns:
      <float32>[B, L].
    """
    dropout = self.forms.dropout(dropout_key) if is_training else no_dropout
    bert = BertModel(
      self.config,
      is_training=is_training,
      input_ids=features["input_ids"],
      input_mask=features.get("input_mask"),
      token_type_ids=features.get("segment_ids"),
      use_one_hot_embeddings=self.use_one_hot_embeddings,
      scope="bert",  # the same one where a graph has the model twice
      forms=self.forms.with_features(features),
      dropout=dropout,
      only_pooled=True,
    )
    pooled = dropout(bert.get_pooled_output(), self.head_dropout)  # [B, H]
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
    forms: the `Forms` to compute with.
    dropout: a `Dropout` to share with the layers that follow; one of its own
      where not given.
    only_pooled: compute only what the pooled output needs: of the last layer
      the first token, so that the layers cannot be asked for.

  Attributes:
    embedding_table, embedding_output, all_encoder_layers, sequence_output,
      pooled_output: what the getters return. In the plain forms it is the
      tensor that the model itself goes on with: gradients flow through it, and
      what is fed in its place takes effect.

  Raises:
    ValueError: the number of heads does not divide the hidden size, the
      vocabulary size is None, or the sequence is longer than the position
      embeddings.
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
    forms=PLAIN,
    dropout=None,
    only_pooled=False,
  ):
    shape = get_shape_list(input_ids, expected_rank=2)  # [B, S]
    _check_buildable(config, shape[1])
    if input_mask is None:
      input_mask = tf.ones(shape, tf.int32)
    input_mask = tf.cast(input_mask, tf.int32)
    if token_type_ids is None:
      token_type_ids = tf.zeros(shape, tf.int32)
    dropout = (dropout or forms.dropout()) if is_training else no_dropout
    forms = forms.for_batch(input_mask, config.num_attention_heads)
    self._forms, self._only_pooled = forms, only_pooled
    self._computed_by = dict(
      forms=forms, dropout=dropout, layer_norm_eps=config.layer_norm_eps
    )

    with tf.variable_scope(scope, default_name="bert"):
      with tf.variable_scope("embeddings"):
        self.embedding_table, self._embedded = self._embed(
          config, input_ids, token_type_ids, use_one_hot_embeddings
        )
      with tf.variable_scope("encoder"):
        mask = forms.attention_mask(input_ids, input_mask)
        self._layers = self._encode(config, self._embedded, mask)
      with tf.variable_scope("pooler"):
        self.pooled_output = self._pool(config)

  def _embed(self, config, input_ids, token_type_ids, use_one_hot_embeddings):
    """Returns the table of the words and what the first layer reads."""
    arrange = self._forms.arrange
    words, table = embedding_lookup(
      arrange(input_ids),
      config.vocab_size,
      config.hidden_size,
      config.initializer_range,
      use_one_hot_embeddings=use_one_hot_embeddings,
      forms=self._forms,
    )
    embedded = embedding_postprocessor(
      words,
      True,
      arrange(token_type_ids),
      config.type_vocab_size,
      initializer_range=config.initializer_range,
      max_position_embeddings=config.max_position_embeddings,
      dropout_prob=config.hidden_dropout_prob,
      **self._computed_by,
    )
    return table, embedded

  def _encode(self, config, embedded, mask):
    """Returns the list of what the layers give."""
    return transformer_model(
      embedded,
      mask,
      config.hidden_size,
      config.num_hidden_layers,
      config.num_attention_heads,
      config.intermediate_size,
      self._forms.activation(config.hidden_act),
      config.hidden_dropout_prob,
      config.attention_probs_dropout_prob,
      config.initializer_range,
      do_return_all_layers=True,
      only_pooled=self._only_pooled,
      **self._computed_by,
    )

  def _pool(self, config):
    """Returns tanh of a dense layer over the first token: <float32>[B, H]."""
    if self._only_pooled and self._layers:
      first = self._layers[-1]
    else:
      first = self._forms.first([self._embedded, *self._layers][-1])
    return dense(
      reshape_to_matrix(first),  # [B, H]
      config.hidden_size,
      activation=tf.tanh,
      initializer_range=config.initializer_range,
      forms=self._forms,
    )

  # Made when they are first asked for: forms that arrange a batch in another
  # way must compute them.

  @functools.cached_property
  def embedding_output(self):
    """Returns what the first layer reads: <float32>[B, S, H]."""
    return self._forms.as_batch(self._embedded)

  @functools.cached_property
  def all_encoder_layers(self):
    """Returns the list of what every layer gives: <float32>[B, S, H] each."""
    if self._only_pooled:
      raise ValueError("with only_pooled the last layer is not all computed")
    return [self._forms.as_batch(layer) for layer in self._layers]

  @functools.cached_property
  def sequence_output(self):
    """Returns what the last layer gives: <float32>[B, S, H]."""
    return [self.embedding_output, *self.all_encoder_layers][-1]

  def get_embedding_table(self):
    """Returns the variable of the word embeddings: <float32>[V, H]."""
    return self.embedding_table

  def get_embedding_output(self):
    """Returns what the first layer reads: <float32>[B, S, H]."""
    return self.embedding_output

  def get_all_encoder_layers(self):
    """Returns the list of what every layer gives: <float32>[B, S, H] each.

    Raises:
      ValueError: the model was built with `only_pooled`.
    """
    return self.all_encoder_layers

  def get_sequence_output(self):
    """Returns what the last layer gives: <float32>[B, S, H]."""
    return self.sequence_output

  def get_pooled_output(self):
    """Returns tanh of a dense layer over the first token: <float32>[B, H]."""
    return self.pooled_output


def _check_buildable(config, length):
  """Raises a ValueError where no model has this configuration and length."""
  config.check_heads()
  if config.vocab_size is None:
    raise ValueError(
      "vocab_size is None: set it to the number of lines of the vocabulary"
      " before a model is built"
    )
  longest = config.max_position_embeddings
  if isinstance(length, int) and length > longest:
    raise ValueError(
      f"a sequence of {length} positions is longer than the"
      f" max_position_embeddings {longest} that the model was made for"
    )


# ---------------------------------------------------------------------------
# Embeddings


def embedding_lookup(
  input_ids,
  vocab_size,
  embedding_size=128,
  initializer_range=0.02,
  word_embedding_name="word_embeddings",
  use_one_hot_embeddings=False,
  *,
  forms=PLAIN,
):
  """Looks ids up in a table, which is made.

  Args:
    input_ids: <int32>[B, S], or [B, S, K] for K ids a position.
    vocab_size: V.
    embedding_size: H.
    initializer_range: standard deviation of a new table.
    word_embedding_name: the table's variable.
    use_one_hot_embeddings: product with a one-hot matrix (dense gradient)
      instead of a gather (gradient as IndexedSlices, a row for each token).
    forms: the `Forms` to compute with.

  Returns:
    <float32>[B, S, H], or [B, S, K * H] with the embeddings of a position side
    by side; and the variable <float32>[V, H].
  """
  table = new_matrix(
    word_embedding_name, [vocab_size, embedding_size], initializer_range
  )
  input_ids = tf.convert_to_tensor(input_ids)
  ids = reshape_to_vector(input_ids)  # [M]
  if use_one_hot_embeddings:
    rows = tf.matmul(tf.one_hot(ids, vocab_size), table)  # [M, H]
  else:
    rows = forms.lookup(table, ids)  # [M, H]
  if ids is input_ids:
    return rows, table
  shape = get_shape_list(input_ids)
  *leading, per_position = shape if len(shape) > 2 else [*shape, 1]
  return tf.reshape(rows, [*leading, per_position * embedding_size]), table


def embedding_postprocessor(
  input_tensor,
  use_token_type=False,
  token_type_ids=None,
  token_type_vocab_size=16,
  token_type_embedding_name="token_type_embeddings",
  use_position_embeddings=True,
  position_embedding_name="position_embeddings",
  initializer_range=0.02,
  max_position_embeddings=512,
  dropout_prob=0.1,
  *,
  forms=PLAIN,
  dropout=None,
  layer_norm_eps=LAYER_NORM_EPSILON,
):
  """Adds segment and position embeddings to words, normalizes, drops out.

  Args:
    input_tensor: <float32>[B, S, H], the words.
    use_token_type: whether to add segment embeddings.
    token_type_ids: <int32>[B, S], the segments; needed with use_token_type.
    token_type_vocab_size: Y.
    token_type_embedding_name: the variable of the segments, [Y, H].
    use_position_embeddings: whether to add position embeddings.
    position_embedding_name: the variable of the positions, [P, H].
    initializer_range: standard deviation of new tables.
    max_position_embeddings: P, at least S.
    dropout_prob: in [0, 1).
    forms: the `Forms` to compute with.
    dropout: a `Dropout`; one of its own where not given.
    layer_norm_eps: as of `BertConfig`.

  Returns:
    <float32>[B, S, H].

  Raises:
    ValueError: token_type_ids are needed and not given, or S exceeds P.
  """
  width = _width(input_tensor)
  output = input_tensor
  if use_token_type:
    if token_type_ids is None:
      raise ValueError("use_token_type is on, but token_type_ids is None")
    # By one-hot product, whose gradient is dense, as the clipping norm of the
    # original wants it; with so few types it costs next to nothing.
    types, _ = embedding_lookup(
      token_type_ids,
      token_type_vocab_size,
      width,
      initializer_range,
      token_type_embedding_name,
      use_one_hot_embeddings=True,
    )
    output += types
  if use_position_embeddings:
    table = new_matrix(
      position_embedding_name,
      [max_position_embeddings, width],
      initializer_range,
    )
    output = forms.add_positions(output, table)
  return layer_norm_and_dropout(
    output,
    dropout_prob,
    forms=forms,
    dropout=dropout,
    layer_norm_eps=layer_norm_eps,
  )


# ---------------------------------------------------------------------------
# The stack of layers


def transformer_model(
  input_tensor,
  attention_mask=None,
  hidden_size=768,
  num_hidden_layers=12,
  num_attention_heads=12,
  intermediate_size=3072,
  intermediate_act_fn=gelu,
  hidden_dropout_prob=0.1,
  attention_probs_dropout_prob=0.1,
  initializer_range=0.02,
  do_return_all_layers=False,
  *,
  forms=PLAIN,
  dropout=None,
  only_pooled=False,
  layer_norm_eps=LAYER_NORM_EPSILON,
):
  """Builds the stack of encoder layers (https://arxiv.org/abs/1706.03762).

    attention:     x <- LayerNorm(x + dropout(dense(attend(x))))
    feed-forward:  x <- LayerNorm(x + dropout(dense(activation(dense(x)))))

  Args:
    input_tensor: <float32>[B, S, H].
    attention_mask: [B, S, S] of 0 and 1, see `attention_layer`.
    hidden_size: H.
    num_hidden_layers: number of layers.
    num_attention_heads: N.
    intermediate_size: F.
    intermediate_act_fn: the activation, a function or None.
    hidden_dropout_prob: of the two dense layers that end in a sum.
    attention_probs_dropout_prob: of the attention weights.
    initializer_range: standard deviation of new kernels.
    do_return_all_layers: whether to return a list of every layer's output.
    forms: the `Forms` to compute with.
    dropout: a `Dropout`; one of its own where not given.
    only_pooled: of the last layer compute the first tokens alone.
    layer_norm_eps: as of `BertConfig`.

  Returns:
    <float32>[B, S, H], the last layer's output, or the list of all.

  Raises:
    ValueError: H is not the width of the input, or N does not divide it.
  """
  assert_rank(input_tensor, [2, 3], "input_tensor")
  if hidden_size % num_attention_heads:
    raise ValueError(
      f"hidden_size {hidden_size} is not a multiple of num_attention_heads"
      f" {num_attention_heads}"
    )
  if _width(input_tensor) != hidden_size:
    raise ValueError(
      f"the input is {_width(input_tensor)} wide, but hidden_size is"
      f" {hidden_size}: every layer adds its input to its output"
    )
  dropout = dropout or forms.dropout()
  block = functools.partial(
    encoder_block,
    attend=functools.partial(
      attention_layer,
      attention_mask=attention_mask,
      num_attention_heads=num_attention_heads,
      size_per_head=hidden_size // num_attention_heads,
      attention_probs_dropout_prob=attention_probs_dropout_prob,
      initializer_range=initializer_range,
      forms=forms,
    ),
    project=functools.partial(
      dense, initializer_range=initializer_range, forms=forms
    ),
    normalize=functools.partial(
      layer_norm, forms=forms, layer_norm_eps=layer_norm_eps
    ),
    intermediate_size=intermediate_size,
    intermediate_act_fn=intermediate_act_fn,
    hidden_dropout_prob=hidden_dropout_prob,
    forms=forms,
  )
  tokens, layers = input_tensor, []
  for number in range(num_hidden_layers):
    only_first = only_pooled and number == num_hidden_layers - 1
    with tf.variable_scope(f"layer_{number}"):
      tokens = forms.layer(
        functools.partial(block, only_first=only_first), tokens, dropout
      )
    layers.append(tokens)
  return layers if do_return_all_layers else tokens


def encoder_block(
  tokens,
  dropout,
  *,
  only_first,
  attend,
  project,
  normalize,
  intermediate_size,
  intermediate_act_fn,
  hidden_dropout_prob,
  forms,
):
  """Builds one encoder layer: attention, then feed-forward.

  Args:
    tokens: <float32>[..., H].
    dropout: a `Dropout`.
    only_first: whether to compute the first token of each example alone.
    attend: `attention_layer` without queries, tokens, dropout, `only_first`.
    project: `dense` without input, width, name and activation.
    normalize: `layer_norm` without input.
    intermediate_size, intermediate_act_fn, hidden_dropout_prob, forms: as of
      `transformer_model`.

  Returns:
    <float32> of the shape of `tokens`, or of its first tokens.
  """

  def add_and_norm(branch, residual):
    branch = dropout(project(branch, _width(residual)), hidden_dropout_prob)
    return normalize(residual + branch)

  queries = forms.first(tokens) if only_first else tokens
  with tf.variable_scope("attention"):
    with tf.variable_scope("self"):
      context = attend(queries, tokens, dropout=dropout, only_first=only_first)
    with tf.variable_scope("output"):
      attended = add_and_norm(context, queries)
  with tf.variable_scope("intermediate"):
    wide = project(attended, intermediate_size, "dense", intermediate_act_fn)
  with tf.variable_scope("output"):
    return add_and_norm(wide, attended)


def attention_layer(
  from_tensor,
  to_tensor,
  attention_mask=None,
  num_attention_heads=1,
  size_per_head=512,
  query_act=None,
  key_act=None,
  value_act=None,
  attention_probs_dropout_prob=0.0,
  initializer_range=0.02,
  do_return_2d_tensor=False,
  batch_size=None,
  from_seq_length=None,
  to_seq_length=None,
  *,
  forms=PLAIN,
  dropout=None,
  only_first=False,
):
  """Computes multi-head attention from one tensor to another.

  Args:
    from_tensor: <float32>[B, Q, any width], or [B * Q, width].
    to_tensor: <float32>[B, K, any width], or [B * K, width].
    attention_mask: [B, Q, K], 1 where a query may attend to a key, else 0.
    num_attention_heads: N.
    size_per_head: D.
    query_act, key_act, value_act: activations of the three dense layers.
    attention_probs_dropout_prob: in [0, 1).
    initializer_range: standard deviation of new kernels.
    do_return_2d_tensor: whether to return a matrix.
    batch_size, from_seq_length, to_seq_length: B, Q, K; needed for matrices.
    forms: the `Forms` to compute with.
    dropout: a `Dropout`; one of its own where not given.
    only_first: whether from_tensor holds the first tokens alone.

  Returns:
    <float32>[B, Q, N * D], or as a matrix [B * Q, N * D].

  Raises:
    ValueError: the tensors differ in rank, or are matrices of which B, Q or K
      is not given.
  """
  rank = from_tensor.shape.rank
  assert_rank(from_tensor, [2, 3], "from_tensor")
  assert_rank(to_tensor, rank, "to_tensor")
  width = num_attention_heads * size_per_head

  def project(tensor, length, name, activation):
    tokens = dense(
      tensor, width, name, activation, initializer_range, forms=forms
    )
    if rank == 2 and None not in (batch_size, length):
      return tf.reshape(tokens, [batch_size, length, width])
    return tokens

  context = forms.attend(
    project(from_tensor, from_seq_length, "query", query_act),
    project(to_tensor, to_seq_length, "key", key_act),
    project(to_tensor, to_seq_length, "value", value_act),
    attention_mask,
    num_attention_heads,
    dropout or forms.dropout(),
    attention_probs_dropout_prob,
    only_first,
  )
  return reshape_to_matrix(context) if do_return_2d_tensor else context


def dot_product_attention(query, key, value, mask, num_heads, dropout, rate):
  """Returns softmax(Q K^T / sqrt(D)) V, head by head.

  Section 3.2 of https://arxiv.org/abs/1706.03762.

  Args:
    query: <float>[B, Q, H].
    key, value: <float>[B, K, H].
    mask: [B, Q, K] of 0 and 1, or None. A closed key gets a score that is
      10000 lower; where all of a query are closed, all are open alike.
    num_heads: N, H = N * D.
    dropout: a `Dropout`, of the weights.
    rate: in [0, 1).

  Returns:
    <float>[B, Q, H], the heads side by side. The softmax is float32 at least.
  """
  shape = get_shape_list(
    query, 3, "a query without batch_size and sequence lengths"
  )
  head_width = shape[-1] // num_heads

  def heads(tokens):
    apart = [*get_shape_list(tokens)[:2], num_heads, head_width]
    return tf.transpose(tf.reshape(tokens, apart), [0, 2, 1, 3])

  query, key, value = heads(query), heads(key), heads(value)  # [B, N, Q|K, D]
  scores = tf.matmul(query, key, transpose_b=True)  # [B, N, Q, K]
  if scores.dtype.size < 4:
    scores = tf.cast(scores, tf.float32)
  scores *= 1.0 / math.sqrt(head_width)
  if mask is not None:
    closed = 1.0 - tf.cast(mask, scores.dtype)
    scores += tf.expand_dims(closed, 1) * -10000.0
  weights = dropout(tf.nn.softmax(scores), rate)  # [B, N, Q, K]
  context = tf.matmul(tf.cast(weights, value.dtype), value)
  context = tf.transpose(context, [0, 2, 1, 3])
  return tf.reshape(context, shape)  # from [B, Q, N, D]


def create_attention_mask_from_input_mask(from_tensor, to_mask):
  """Repeats a mask of keys for every query.

  Args:
    from_tensor: [B, Q] or [B, Q, any width]; its values do not count.
    to_mask: <int32>[B, K], 1 where a key may be attended to.

  Returns:
    <float32>[B, Q, K].
  """
  batch, queries = get_shape_list(from_tensor, [2, 3], "from_tensor")[:2]
  keys = get_shape_list(to_mask, 2, "to_mask")[1]
  row = tf.reshape(tf.cast(to_mask, tf.float32), [batch, 1, keys])
  return tf.ones([batch, queries, 1]) * row


# ---------------------------------------------------------------------------
# Layers and variables


def dense(
  input_tensor,
  width,
  name="dense",
  activation=None,
  initializer_range=0.02,
  *,
  forms=PLAIN,
):
  """Returns activation(x . kernel + bias): <float32>[..., width].

  Args:
    input_tensor: <float32>[..., any width].
    width: of the output.
    name: scope of the variables `kernel` and `bias`.
    activation: a function, or None.
    initializer_range: standard deviation of a new kernel.
    forms: the `Forms` to compute with.
  """
  with tf.variable_scope(name):
    kernel = new_matrix(
      "kernel", [_width(input_tensor), width], initializer_range
    )
    bias = new_vector("bias", width)
    rows = reshape_to_matrix(input_tensor)
    output = tf.nn.bias_add(forms.multiply(rows, kernel), bias)  # [M, width]
    if rows is not input_tensor:
      output = reshape_from_matrix(output, get_shape_list(input_tensor))
    return activation(output) if activation else output


def layer_norm(
  input_tensor, name=None, *, forms=PLAIN, layer_norm_eps=LAYER_NORM_EPSILON
):
  """Normalizes over the last axis (https://arxiv.org/abs/1607.06450).

  Args:
    input_tensor: <float32>[..., H].
    name: scope of the variables `beta` and `gamma` <float32>[H]; where not
      given it is LayerNorm, and LayerNorm_1 where that is taken.
    forms: the `Forms` to compute with.
    layer_norm_eps: as of `BertConfig`.

  Returns:
    The same shape.
  """
  with tf.variable_scope(name, default_name="LayerNorm"):
    width = _width(input_tensor)
    beta = new_vector("beta", width)
    gamma = new_vector("gamma", width, tf.ones_initializer())
    return forms.normalize(input_tensor, gamma, beta, layer_norm_eps)


def layer_norm_and_dropout(
  input_tensor,
  dropout_prob,
  name=None,
  *,
  forms=PLAIN,
  dropout=None,
  layer_norm_eps=LAYER_NORM_EPSILON,
):
  """Returns dropout(layer_norm(x)), of the same shape.

  Args:
    input_tensor, name, forms, layer_norm_eps: as of `layer_norm`.
    dropout_prob: in [0, 1).
    dropout: a `Dropout`; one of its own where not given.
  """
  dropout = dropout or forms.dropout()
  normal = layer_norm(
    input_tensor, name, forms=forms, layer_norm_eps=layer_norm_eps
  )
  return dropout(normal, dropout_prob)


def new_matrix(name, shape, stddev):
  """Returns the variable `name`, drawn from a truncated normal."""
  full_name = f"{tf.get_variable_scope().name}/{name}"
  return tf.get_variable(
    name, shape, initializer=create_initializer(stddev, full_name)
  )


def new_vector(name, width, initializer=None):
  """Returns the variable `name` <float32>[width]; zeros where not said."""
  return tf.get_variable(
    name, [width], initializer=initializer or tf.zeros_initializer()
  )


def create_initializer(initializer_range=0.02, name=None):
  """Returns a truncated normal initializer, cut at two standard deviations.

  With `name` and a graph seed (`tf.set_random_seed`) the values are a function
  of the two, whatever else the graph holds.
  """
  seed = tf.get_default_graph().seed
  if name is None or seed is None:
    return tf.truncated_normal_initializer(stddev=initializer_range)
  key = [int(seed), zlib.crc32(name.encode())]

  def draw(shape, dtype=tf.float32, partition_info=None):
    whole = partition_info.full_shape if partition_info else shape
    values = tf.random.stateless_truncated_normal(
      whole, key, 0.0, initializer_range, dtype
    )
    if partition_info:  # one part of a variable that a partitioner divides
      values = tf.slice(values, partition_info.var_offset, shape)
    return values

  return draw


# ---------------------------------------------------------------------------
# Dropout


class Dropout:
  """Dropout whose masks are a function of (key, site).

  A site is a place in the model where dropout is applied; sites are counted in
  the order they are built in. With a key made of seed and global step (see
  `dropout_key`) step n of a run has the same masks however the run came there.

  Args:
    key: <int64>[2]. Where not given, it is drawn anew in every step.
  """

  def __init__(self, key=None):
    self._key = key
    self._site = 0
    self._after = ()

  def fork(self, after=()):
    """Returns a dropout whose next masks are the next ones of this one.

    Each of the two goes on by itself.

    Args:
      after: tensors that must be there before the fork draws a mask.
    """
    self._ensure_key()
    other = copy.copy(self)
    other._after = after
    return other

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
    kept = tf.cast(kept, input_tensor.dtype)
    return self.scaled_up(input_tensor * kept, dropout_prob)

  def mask(self, shape, dropout_prob):
    """Returns <float32>[shape] of 1 and 0, or None where all is kept."""
    if not dropout_prob:
      return None
    seed = self.next_seed()
    with tf.control_dependencies(self._after):
      drawn = tf.random.stateless_uniform(shape, seed)
    return tf.cast(drawn >= dropout_prob, tf.float32)

  def scaled_up(self, input_tensor, dropout_prob):
    """Scales a tensor up for the elements that are lost."""
    if not dropout_prob:
      return input_tensor
    return input_tensor * (1.0 / (1.0 - dropout_prob))

  def next_seed(self):
    """Returns the seed of the next site: <int64>[2]."""
    self._ensure_key()
    site, self._site = self._site, self._site + 1
    return self._key + tf.constant([site, 0], tf.int64)

  def _ensure_key(self):
    if self._key is None:
      self._key = tf.random.uniform([2], maxval=2**62, dtype=tf.int64)


class _NoDropout(Dropout):
  """Stands in for a `Dropout` outside training."""

  def mask(self, shape, dropout_prob):
    return None

  def scaled_up(self, input_tensor, dropout_prob):
    return input_tensor


no_dropout = _NoDropout()


def _shape(tensor):
  """Returns the shape: a list of numbers where static, else <int32>[rank]."""
  static = tensor.shape.as_list()
  return tf.shape(tensor) if None in static else static


def dropout_key(seed, step, replica=0):
  """Returns the key of a step's dropout: <int64>[2], for `Dropout`.

  It is (65536 seed, 65536 step + replica): sites of the model add their number
  to the first, so that no two steps, replicas or sites have a key in common.

  Args:
    seed: whole number.
    step: <int64>[], the global step.
    replica: <int32>[], which of the copies of the model this is.
  """
  step = tf.cast(step, tf.int64) * 65536 + tf.cast(replica, tf.int64)
  return tf.stack([tf.constant(seed * 65536, tf.int64), step])


def dropout_key_of_part(key, number):
  """Returns the key of one of the parts that a batch is computed in.

  The number stands above the 48 bits that seed and sites take, so that each
  part draws masks of its own. The key of part 0 is that of the batch.

  Args:
    key: <int64>[2], what `dropout_key` returns.
    number: an int or <int32>[], under 32768.
  """
  if isinstance(number, int) and not number:
    return key
  above = tf.bitwise.left_shift(tf.cast(number, tf.int64), 48)
  return key + tf.stack([above, tf.zeros_like(above)])


def dropout(input_tensor, dropout_prob):
  """Applies dropout with a new mask in every step; see `Dropout`."""
  return Dropout()(input_tensor, dropout_prob)


# ---------------------------------------------------------------------------
# Shapes and checkpoints


def get_shape_list(tensor, expected_rank=None, name=None):
  """Returns the shape as a list: numbers where static, tensors where not.

  Args:
    tensor: any tensor.
    expected_rank: a rank, or several of which it must have one.
    name: what an error calls it.

  Raises:
    ValueError: the rank is not an expected one.
  """
  if expected_rank is not None:
    assert_rank(tensor, expected_rank, name)
  static = tensor.shape.as_list()
  if None not in static:
    return static
  dynamic = tf.shape(tensor)
  return [dynamic[i] if n is None else n for i, n in enumerate(static)]


def assert_rank(tensor, expected_rank, name=None):
  """Raises a ValueError where a tensor has another rank.

  Args:
    tensor: any tensor.
    expected_rank: a rank, or several of which it must have one.
    name: what an error calls it.
  """
  ranks = expected_rank
  ranks = [ranks] if isinstance(ranks, int) else list(ranks)
  if tensor.shape.rank not in ranks:
    raise ValueError(
      f"{name or tensor.name} has the shape {tensor.shape} of rank"
      f" {tensor.shape.rank}, but its rank must be"
      f" {' or '.join(map(str, ranks))}"
    )


def reshape_to_matrix(input_tensor):
  """Reshapes [..., width] to [M, width]; a matrix is returned as it is.

  Raises:
    ValueError: the rank is under 2.
  """
  rank = input_tensor.shape.rank
  if rank < 2:
    raise ValueError(f"{input_tensor.shape} cannot become a matrix")
  if rank == 2:
    return input_tensor
  return tf.reshape(input_tensor, [-1, _width(input_tensor)])


def reshape_from_matrix(output_tensor, orig_shape_list):
  """Reshapes [M, width] to the leading axes of a shape: [..., width]."""
  if len(orig_shape_list) == 2:
    return output_tensor
  return tf.reshape(
    output_tensor, [*orig_shape_list[:-1], _width(output_tensor)]
  )


def reshape_to_vector(values):
  """Reshapes [...] to [M]; a vector is returned as it is."""
  return values if values.shape.rank == 1 else tf.reshape(values, [-1])


def _width(tensor):
  """Returns the last axis's static size, a number also with v1 shapes."""
  return tensor.shape.as_list()[-1]


def get_assignment_map_from_checkpoint(tvars, init_checkpoint):
  """Matches variables by name with those of a checkpoint.

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
