"""The 2018 scripts' public names, signatures, flags and defaults are there."""

import inspect

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import run_classifier
from run_classifier import modeling, optimization
import tokenization

NAMES = {
  tokenization: """FullTokenizer BasicTokenizer WordpieceTokenizer load_vocab
    convert_to_unicode printable_text convert_by_vocab convert_tokens_to_ids
    convert_ids_to_tokens whitespace_tokenize validate_case_matches_checkpoint
    _is_whitespace _is_control _is_punctuation""",
  tokenization.BasicTokenizer: """tokenize _run_strip_accents _clean_text
    _run_split_on_punc _tokenize_chinese_chars _is_chinese_char""",
  modeling: """BertConfig BertModel gelu get_activation create_initializer
    get_assignment_map_from_checkpoint layer_norm dropout get_shape_list
    transformer_model embedding_postprocessor attention_layer embedding_lookup
    create_attention_mask_from_input_mask layer_norm_and_dropout assert_rank
    reshape_to_matrix reshape_from_matrix""",
  modeling.BertModel: """get_pooled_output get_sequence_output
    get_all_encoder_layers get_embedding_output get_embedding_table""",
  optimization: "create_optimizer AdamWeightDecayOptimizer",
  run_classifier: """InputExample PaddingInputExample InputFeatures
    DataProcessor XnliProcessor MnliProcessor MrpcProcessor ColaProcessor
    convert_single_example convert_examples_to_features create_model
    file_based_convert_examples_to_features file_based_input_fn_builder
    input_fn_builder model_fn_builder""",
}
SIGNATURES = {
  optimization.create_optimizer: (
    "loss init_lr num_train_steps num_warmup_steps use_tpu"
  ),
  optimization.AdamWeightDecayOptimizer: (
    "learning_rate weight_decay_rate=0.0 beta_1=0.9 beta_2=0.999 epsilon=1e-06"
    " exclude_from_weight_decay=None name='AdamWeightDecayOptimizer'"
  ),
  optimization.AdamWeightDecayOptimizer.apply_gradients: (
    "self grads_and_vars global_step=None name=None"
  ),
  run_classifier.create_model: (
    "bert_config is_training input_ids input_mask segment_ids labels"
    " num_labels use_one_hot_embeddings"
  ),
  run_classifier.model_fn_builder: (
    "bert_config num_labels init_checkpoint learning_rate num_train_steps"
    " num_warmup_steps use_tpu use_one_hot_embeddings"
  ),
  run_classifier.file_based_input_fn_builder: (
    "input_file seq_length is_training drop_remainder"
  ),
  run_classifier.convert_single_example: (
    "ex_index example label_list max_seq_length tokenizer"
  ),
  modeling.BertModel: (
    "config is_training input_ids input_mask=None token_type_ids=None"
    " use_one_hot_embeddings=False scope=None"
  ),
  modeling.embedding_lookup: (
    "input_ids vocab_size embedding_size=128 initializer_range=0.02"
    " word_embedding_name='word_embeddings' use_one_hot_embeddings=False"
  ),
  modeling.embedding_postprocessor: (
    "input_tensor use_token_type=False token_type_ids=None"
    " token_type_vocab_size=16"
    " token_type_embedding_name='token_type_embeddings'"
    " use_position_embeddings=True"
    " position_embedding_name='position_embeddings' initializer_range=0.02"
    " max_position_embeddings=512 dropout_prob=0.1"
  ),
  modeling.create_attention_mask_from_input_mask: "from_tensor to_mask",
  modeling.attention_layer: (
    "from_tensor to_tensor attention_mask=None num_attention_heads=1"
    " size_per_head=512 query_act=None key_act=None value_act=None"
    " attention_probs_dropout_prob=0.0 initializer_range=0.02"
    " do_return_2d_tensor=False batch_size=None from_seq_length=None"
    " to_seq_length=None"
  ),
  modeling.transformer_model: (
    "input_tensor attention_mask=None hidden_size=768 num_hidden_layers=12"
    " num_attention_heads=12 intermediate_size=3072 intermediate_act_fn=gelu"
    " hidden_dropout_prob=0.1 attention_probs_dropout_prob=0.1"
    " initializer_range=0.02 do_return_all_layers=False"
  ),
  modeling.layer_norm: "input_tensor name=None",
  modeling.layer_norm_and_dropout: "input_tensor dropout_prob name=None",
  modeling.dropout: "input_tensor dropout_prob",
  modeling.create_initializer: "initializer_range=0.02",
  modeling.get_shape_list: "tensor expected_rank=None name=None",
  modeling.assert_rank: "tensor expected_rank name=None",
  modeling.reshape_to_matrix: "input_tensor",
  modeling.reshape_from_matrix: "output_tensor orig_shape_list",
  modeling.get_assignment_map_from_checkpoint: "tvars init_checkpoint",
  modeling.gelu: "x",
  modeling.get_activation: "activation_string",
  tokenization.FullTokenizer: "vocab_file do_lower_case=True",
  tokenization.BasicTokenizer: "do_lower_case=True",
  tokenization.WordpieceTokenizer: (
    "vocab unk_token='[UNK]' max_input_chars_per_word=200"
  ),
}
FLAGS = dict(
  data_dir=None,
  bert_config_file=None,
  task_name=None,
  vocab_file=None,
  output_dir=None,
  init_checkpoint=None,
  do_lower_case=True,
  max_seq_length=128,
  do_train=False,
  do_eval=False,
  do_predict=False,
  train_batch_size=32,
  eval_batch_size=8,
  predict_batch_size=8,
  learning_rate=5e-5,
  num_train_epochs=3.0,
  warmup_proportion=0.1,
  save_checkpoints_steps=1000,
  iterations_per_loop=1000,
  use_tpu=False,
  tpu_name=None,
  tpu_zone=None,
  gcp_project=None,
  master=None,
  num_tpu_cores=8,
)


@pytest.mark.parametrize("module", NAMES, ids=lambda module: module.__name__)
def test_public_names_are_importable(module):
  missing = [
    name for name in NAMES[module].split() if not hasattr(module, name)
  ]
  assert not missing


def in_words(parameter):
  """Returns a parameter as SIGNATURES has it: its name and default."""
  default = parameter.default
  if default is inspect.Parameter.empty:
    return parameter.name
  return f"{parameter.name}={getattr(default, '__name__', repr(default))}"


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda f: f.__qualname__)
def test_arguments_keep_their_order_and_defaults(function):
  wanted = SIGNATURES[function].split()
  parameters = list(inspect.signature(function).parameters.values())
  assert [in_words(p) for p in parameters[: len(wanted)]] == wanted
  added = parameters[len(wanted) :]
  assert all(p.default is not inspect.Parameter.empty for p in added)


@pytest.mark.parametrize("name", FLAGS)
def test_flags_keep_their_defaults(name):
  assert run_classifier.FLAGS[name].default == FLAGS[name]


def test_create_model_gives_the_golden_loss(graph, golden, golden_checkpoint):
  config = modeling.BertConfig.from_json_file(
    golden_checkpoint.replace("bert_model.ckpt", "bert_config.json")
  )
  names = ("input_ids", "input_mask", "segment_ids", "label_ids")
  inputs = [tf.constant(golden[name].astype(np.int32)) for name in names]
  outputs = run_classifier.create_model(config, False, *inputs, 3, False)
  with tf.Session() as session:
    tf.train.Saver().restore(session, golden_checkpoint)
    loss, each, logits, probabilities = session.run(outputs)
  np.testing.assert_allclose(loss, golden["loss"], atol=1e-5)
  np.testing.assert_allclose(each, golden["per_example_loss"], atol=1e-5)
  np.testing.assert_allclose(logits, golden["logits"], atol=1e-5)
  np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-6)
