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
  modeling: """BertConfig BertModel gelu get_activation create_initializer
    get_assignment_map_from_checkpoint layer_norm dropout get_shape_list""",
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
    "config is_training input_ids input_mask token_type_ids"
    " use_one_hot_embeddings scope"
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


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda f: f.__name__)
def test_arguments_keep_their_order(function):
  wanted = SIGNATURES[function].split()
  parameters = inspect.signature(function).parameters.values()
  assert [p.name for p in parameters][: len(wanted)] == wanted
  added = list(parameters)[len(wanted) :]
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
