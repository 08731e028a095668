"""Fine-tunes BERT to classify texts, evaluates it, and predicts with it.

Trains, evaluates and predicts MRPC from a released checkpoint:

  python run_classifier.py \\
    --task_name=mrpc --data_dir=glue/MRPC \\
    --init_checkpoint=uncased_L-12_H-768_A-12 \\
    --do_train --do_eval --do_predict \\
    --max_seq_length=128 --train_batch_size=32 --learning_rate=2e-5 \\
    --num_train_epochs=3 --output_dir=mrpc_output

Writes checkpoints, eval_results.txt, test_results.tsv and test_predictions.tsv
into output_dir. The same command again goes on where a killed run stopped.
"""

import contextlib
import functools
import os
import re
import sys
import tempfile
from typing import NamedTuple, Optional

from absl import app, flags, logging
import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow.python.ops import summary_ops_v2

import checkpoints
import devices
import evaluation
from features import (  # noqa: F401 - the 2018 script's names, for importers
  FeatureCache,
  InputFeatures,
  convert_examples_to_features,
  convert_single_example,
  feature_spec,
  file_based_convert_examples_to_features,
  padding_features,
  serialize,
)
import files
import modeling
import optimization
import progress
import run_state
from tasks import (  # noqa: F401 - the 2018 script's names, for importers
  PROCESSORS,
  ColaProcessor,
  DataProcessor,
  InputExample,
  MnliProcessor,
  MrpcProcessor,
  PaddingInputExample,
  XnliProcessor,
)
import tokenization

FLAGS = flags.FLAGS

# --- The task and its files
flags.DEFINE_string(
  "task_name", None, f"Task, in any case: {', '.join(PROCESSORS)}."
)
flags.DEFINE_string("data_dir", None, "Folder of the task's files.")
flags.DEFINE_string(
  "xnli_language", "zh", "Language of the XNLI rows, two letters."
)
flags.DEFINE_string(
  "cache_dir",
  None,
  "Folder of the converted features (TFRecord). Default: data_dir, or"
  " output_dir where that cannot be written or --use_tpu is on.",
)

# --- The model
flags.DEFINE_string(
  "init_checkpoint",
  None,
  "Weights to begin with: a TensorFlow checkpoint (prefix, folder or any of"
  " its files), a Hugging Face BERT folder or a model.safetensors.",
)
flags.DEFINE_string(
  "bert_config_file",
  None,
  "JSON file with the sizes of the model. Default: the one beside"
  " init_checkpoint.",
)
flags.DEFINE_string(
  "vocab_file",
  None,
  "WordPiece vocabulary, one token a line. Default: the one beside"
  " init_checkpoint.",
)
flags.DEFINE_bool(
  "do_lower_case",
  True,
  "Lower-case the texts and drop accents: true for uncased models.",
)
flags.DEFINE_integer(
  "max_seq_length",
  128,
  "Positions of a row: longer texts are cut, shorter ones padded. At least"
  " 3, or 5 for pairs.",
)
flags.DEFINE_bool(
  "allow_partial_init",
  False,
  "Let encoder variables that init_checkpoint lacks start from random values.",
)
flags.DEFINE_bool(
  "reinit_head",
  False,
  "Start the classifier's head from random values where that of"
  " init_checkpoint has another shape.",
)

# --- What to do, and where to
flags.DEFINE_string(
  "output_dir", None, "Folder of checkpoints, results and predictions."
)
flags.DEFINE_bool("do_train", False, "Train on the training set.")
flags.DEFINE_bool("do_eval", False, "Evaluate on the dev set.")
flags.DEFINE_bool("do_predict", False, "Predict the test set.")
flags.DEFINE_bool(
  "resume",
  False,
  "Go on from output_dir's checkpoint although settings differ.",
)
flags.DEFINE_bool(
  "overwrite_output_dir",
  False,
  "Train from the start: remove from output_dir the files that an earlier"
  " run wrote.",
)

# --- Training
flags.DEFINE_integer("train_batch_size", 32, "Examples a training step.")
flags.DEFINE_integer(
  "eval_batch_size",
  8,
  "Examples a batch of evaluation; decides what `loss` is the mean of.",
)
flags.DEFINE_integer("predict_batch_size", 8, "Examples a batch of prediction.")
flags.DEFINE_float("learning_rate", 5e-5, "Peak learning rate of AdamW.")
flags.DEFINE_float(
  "num_train_epochs", 3.0, "Passes over the training set; may be a fraction."
)
flags.DEFINE_float(
  "warmup_proportion",
  0.1,
  "Share of the steps in which the rate climbs to its peak, in [0, 1].",
)
flags.DEFINE_integer(
  "seed",
  42,
  "Decides the order of the rows, dropout and new weights. Runs of one seed"
  " agree to the bit with --num_threads=1.",
)
flags.DEFINE_integer(
  "shuffle_buffer_size",
  None,
  "Rows among which the next one is drawn. Default: the whole training set,"
  " or what a quarter of the free memory holds.",
)

# --- The run
flags.DEFINE_integer(
  "save_checkpoints_steps", 1000, "Steps between two checkpoints."
)
flags.DEFINE_integer(
  "keep_checkpoint_max", 1, "Newest checkpoints to keep; 0 keeps all."
)
flags.DEFINE_integer("log_steps", 100, "Steps between two lines of progress.")
flags.DEFINE_integer("num_threads", 0, "Threads to compute with; 0: all cores.")

# --- TPU
flags.DEFINE_bool("use_tpu", False, "Compute on a TPU.")
flags.DEFINE_string(
  "tpu_name", None, "Name of the TPU; local for the one in this machine."
)
flags.DEFINE_string(
  "tpu_zone", None, "Google Cloud zone of the TPU, if not this machine's."
)
flags.DEFINE_string(
  "gcp_project",
  None,
  "Google Cloud project of the TPU, if not this machine's.",
)
flags.DEFINE_string("master", None, "Address of a TensorFlow master.")
flags.DEFINE_integer("num_tpu_cores", 8, "Cores of the TPU.")
flags.DEFINE_integer(
  "iterations_per_loop",
  1000,
  "Training steps that a TPU takes between two reports to the host.",
)


# ---------------------------------------------------------------------------
# Input


def file_based_input_fn_builder(
  input_file,
  seq_length,
  is_training,
  drop_remainder,
  *,
  seed=None,
  shuffle_buffer_size=None,
  records=None,
  start_row=0,
):
  """An input_fn over a TFRecord file of features.

  Training goes through the file again and again, each epoch in an order that
  is a function of seed and epoch, so that a run taken up at a step goes on
  with the rows that one never stopped would have had there.

  Args:
    input_file: TFRecord file.
    seq_length: S.
    is_training: whether to shuffle and repeat.
    drop_remainder: whether every batch must be whole. In training the last
      incomplete one is dropped; otherwise it is filled with rows of weight 0.
    seed: whole number that decides the order; where not given the order is a
      new one every time.
    shuffle_buffer_size: rows among which the next one is drawn; the whole file
      where not given.
    records: rows of the file, needed for a `start_row`.
    start_row: rows that were trained on before, over all epochs.

  Returns:
    A function of `params`, whose "batch_size" is B, giving a `tf.data.Dataset`
    of dictionaries: `input_ids`, `input_mask`, `segment_ids` <int32>[B, S],
    `label_ids`, `is_real_example` <int32>[B].
  """
  spec = feature_spec(seq_length)

  def input_fn(params):
    batch_size = params["batch_size"]
    rows = tf.data.TFRecordDataset(input_file)
    if is_training:
      rows = endless(
        rows,
        seed=seed,
        buffer_size=shuffle_buffer_size or records,
        epoch_rows=records,
        start_row=start_row,
      )
    elif drop_remainder:
      rows = filled_up(rows, seq_length, batch_size)
    parse = functools.partial(parse_batch, spec=spec)
    return (
      rows.batch(batch_size, drop_remainder=drop_remainder)
      .map(parse, num_parallel_calls=tf.data.AUTOTUNE)
      .prefetch(tf.data.AUTOTUNE)
    )

  return input_fn


def endless(rows, *, seed, buffer_size, epoch_rows=None, start_row=0):
  """Repeats a dataset for ever, each epoch in an order of its own.

  Args:
    rows: `tf.data.Dataset` of one epoch.
    seed: whole number; None for orders that never come again.
    buffer_size: rows among which the next one is drawn; None for all.
    epoch_rows: number of rows, needed for a `start_row`.
    start_row: rows to pass over, over all epochs.
  """
  first_epoch, passed = divmod(start_row, epoch_rows) if start_row else (0, 0)
  if seed is None:
    seed = int.from_bytes(os.urandom(3), "little")

  def epoch_in_order(epoch):
    return rows.shuffle(
      buffer_size or _WHOLE_FILE,
      seed=epoch + (seed << 32),
      reshuffle_each_iteration=False,
    )

  epochs = tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max)
  return epochs.flat_map(epoch_in_order).skip(passed)


# More rows than a file that anyone shuffles in memory has.
_WHOLE_FILE = 1 << 24


def filled_up(rows, seq_length, batch_size):
  """Adds rows of zeros, weight included, after which every batch is whole.

  `batch(drop_remainder=True)` then drops nothing but rows of zeros.
  """
  zeros = serialize(padding_features(seq_length))
  padding = tf.data.Dataset.from_tensors(zeros).repeat(batch_size - 1)
  return rows.concatenate(padding)


def parse_batch(records, spec):
  """Serialized examples <string>[B] to int32 features by name.

  A file has int64, but a TPU computes int32 faster.
  """
  parsed = tf.io.parse_example(records, spec)
  return {name: tf.cast(value, tf.int32) for name, value in parsed.items()}


def input_fn_builder(
  features, seq_length, is_training, drop_remainder, *, seed=None
):
  """An input_fn over a list of `InputFeatures` in memory.

  Args and result as of `file_based_input_fn_builder`.
  """
  del seq_length  # the rows know their length
  columns = {
    name: np.array([row.as_dict()[name] for row in features], np.int32)
    for name in feature_spec(0)
  }
  for name in ("label_ids", "is_real_example"):
    columns[name] = columns[name][:, 0]

  def input_fn(params):
    rows = tf.data.Dataset.from_tensor_slices(columns)
    if is_training:
      rows = endless(rows, seed=seed, buffer_size=len(features))
    return rows.batch(params["batch_size"], drop_remainder=drop_remainder)

  return input_fn


# ---------------------------------------------------------------------------
# Model


def create_model(
  bert_config,
  is_training,
  input_ids,
  input_mask,
  segment_ids,
  labels,
  num_labels,
  use_one_hot_embeddings,
):
  """Adds the classifier to the graph.

  Args:
    bert_config: `modeling.BertConfig`.
    is_training: whether dropout is applied.
    input_ids, input_mask, segment_ids: <int32>[B, S].
    labels: <int32>[B].
    num_labels: L.
    use_one_hot_embeddings: look words up by a product with a one-hot matrix.

  Returns:
    loss <float32>[], per_example_loss <float32>[B], logits and probabilities
    <float32>[B, L].
  """
  model = modeling.BertForSequenceClassification(
    bert_config, num_labels, use_one_hot_embeddings=use_one_hot_embeddings
  )
  outputs = model(
    {
      "input_ids": input_ids,
      "input_mask": input_mask,
      "segment_ids": segment_ids,
      "label_ids": labels,
    },
    is_training=is_training,
  )
  names = ("loss", "per_example_loss", "logits", "probabilities")
  return tuple(outputs[name] for name in names)


def model_fn_builder(
  bert_config,
  num_labels,
  init_checkpoint,
  learning_rate,
  num_train_steps,
  num_warmup_steps,
  use_tpu,
  use_one_hot_embeddings,
  *,
  seed=0,
  metric=None,
  loss_rows=None,
  fresh_variables=(),
):
  """A model_fn for TPUEstimator.

  Args:
    bert_config: `modeling.BertConfig`.
    num_labels: L.
    init_checkpoint: prefix of a TensorFlow checkpoint, or None. It initializes
      the variables that it has; a checkpoint in the estimator's own folder
      comes before it.
    learning_rate, num_train_steps, num_warmup_steps: see
      `optimization.learning_rate_schedule`; not used outside training.
    use_tpu: whether the graph is made for the cores of a TPU.
    use_one_hot_embeddings: look words up by a product with a one-hot matrix.
    seed: of dropout.
    metric, loss_rows: see `evaluation.metric_fn`.
    fresh_variables: names that are not to be taken from init_checkpoint.
  """
  model = modeling.BertForSequenceClassification(
    bert_config, num_labels, use_one_hot_embeddings=use_one_hot_embeddings
  )

  def model_fn(features, labels, mode, params, config):
    del labels, params
    training = mode == tf.estimator.ModeKeys.TRAIN
    step = tf.train.get_or_create_global_step()
    key = (
      modeling.dropout_key(seed, step, replica(use_tpu)) if training else None
    )
    outputs = model(features, is_training=training, dropout_key=key)
    make_spec = functools.partial(
      tf.estimator.tpu.TPUEstimatorSpec,
      mode=mode,
      scaffold_fn=scaffold_fn_builder(init_checkpoint, fresh_variables),
    )
    if mode == tf.estimator.ModeKeys.PREDICT:
      return make_spec(predictions={"probabilities": outputs["probabilities"]})
    if mode == tf.estimator.ModeKeys.EVAL:
      return make_spec(
        loss=outputs["loss"], eval_metrics=eval_metrics(features, outputs)
      )
    rate = optimization.learning_rate_schedule(
      learning_rate, num_train_steps, num_warmup_steps, step
    )
    tf.identity(outputs["loss"], progress.ProgressHook.LOSS)
    tf.identity(rate, progress.ProgressHook.RATE)
    return make_spec(
      loss=outputs["loss"],
      train_op=optimization.training_step(outputs["loss"], rate, step, use_tpu),
      host_call=summaries(outputs["loss"], rate, step, config.model_dir)
      if use_tpu
      else None,
    )

  def eval_metrics(features, outputs):
    metric_fn = functools.partial(
      evaluation.metric_fn,
      num_labels=num_labels,
      metric=metric,
      loss_rows=None if use_tpu else loss_rows,
    )
    label_ids = features["label_ids"]
    real = features.get("is_real_example", tf.ones_like(label_ids))
    return metric_fn, [
      outputs["per_example_loss"],
      label_ids,
      outputs["logits"],
      real,
    ]

  return model_fn


def scaffold_fn_builder(init_checkpoint, fresh_variables):
  """A function that initializes the graph's variables from a checkpoint.

  Called once the model is built, on a TPU outside the replicated part; None
  where there is no checkpoint.
  """
  if not init_checkpoint:
    return None

  def scaffold_fn():
    variables = [
      variable
      for variable in tf.trainable_variables()
      if variable.name.partition(":")[0] not in fresh_variables
    ]
    assignments, _ = modeling.get_assignment_map_from_checkpoint(
      variables, init_checkpoint
    )
    tf.train.init_from_checkpoint(init_checkpoint, assignments)
    return tf.train.Scaffold()

  return scaffold_fn


def replica(use_tpu):
  """<int32>[], the core that this copy of the model runs on; 0 off TPU."""
  if not use_tpu:
    return 0
  from tensorflow.compiler.tf2xla.python import xla

  return xla.replica_id()


def summaries(loss, rate, step, model_dir):
  """A host_call that writes loss and rate for TensorBoard, from a TPU.

  Args:
    loss, rate: <float32>[]; `step`: <int64>[].
    model_dir: where to write.
  """

  def write(loss, rate, step):
    """Runs on the host; <float32>[cores], <float32>[cores], <int64>[cores]."""
    writer = summary_ops_v2.create_file_writer_v2(model_dir)
    with writer.as_default(step=step[0]), summary_ops_v2.record_if(True):
      summary_ops_v2.scalar_v2("loss", tf.reduce_mean(loss))
      summary_ops_v2.scalar_v2("learning_rate", rate[0])
      return tf.summary.all_v2_summary_ops()

  return write, [tf.reshape(value, [1]) for value in (loss, rate, step)]


# ---------------------------------------------------------------------------
# Preparation: all that can be wrong is found before anything is computed


def check_flags(argv):
  """Holds the flags against their ranges and each other.

  Raises:
    ValueError: says flag, value and what is allowed.
  """
  if len(argv) > 1:
    raise ValueError(
      f"{argv[1]!r} belongs to no flag: values are given as --flag=value,"
      " switches as --flag, --noflag or --flag=false"
    )
  if not (FLAGS.do_train or FLAGS.do_eval or FLAGS.do_predict):
    raise ValueError(
      "there is nothing to do: give at least one of --do_train, --do_eval,"
      " --do_predict"
    )
  for name in ("task_name", "data_dir", "output_dir"):
    if not FLAGS[name].value:
      raise ValueError(f"--{name} is needed: {FLAGS[name].help}")
  for name, least in _LEAST.items():
    value = FLAGS[name].value
    if value is not None and not value >= least:
      raise ValueError(f"--{name} is {value}, but must be at least {least}")
  if FLAGS.seed > _MAX_SEED:
    raise ValueError(f"--seed is {FLAGS.seed}, but must be at most {_MAX_SEED}")
  for name in ("learning_rate", "num_train_epochs"):
    if not 0 < FLAGS[name].value < float("inf"):
      raise ValueError(
        f"--{name} is {FLAGS[name].value}, but must be a finite number over 0"
      )
  if not 0 <= FLAGS.warmup_proportion <= 1:
    raise ValueError(
      f"--warmup_proportion is {FLAGS.warmup_proportion}, but must be from 0"
      " to 1"
    )
  if FLAGS.overwrite_output_dir and (FLAGS.resume or not FLAGS.do_train):
    raise ValueError(
      "--overwrite_output_dir trains from the start: it needs --do_train and"
      " goes against --resume"
    )


_LEAST = {
  "train_batch_size": 1,
  "eval_batch_size": 1,
  "predict_batch_size": 1,
  "max_seq_length": 3,
  "save_checkpoints_steps": 1,
  "keep_checkpoint_max": 0,
  "log_steps": 1,
  "num_threads": 0,
  "seed": 0,
  "shuffle_buffer_size": 1,
  "iterations_per_loop": 1,
  "num_tpu_cores": 1,
}
_MAX_SEED = 2**31 - 1


class Model(NamedTuple):
  """What a run computes with.

  Attributes:
    config: `modeling.BertConfig`.
    vocab_file: path of the vocabulary.
    tokenizer: `tokenization.FullTokenizer`.
    weights: `checkpoints.Checkpoint` to begin with, or None.
    variables: dictionary from name to shape.
  """

  config: modeling.BertConfig
  vocab_file: str
  tokenizer: tokenization.FullTokenizer
  weights: Optional[checkpoints.Checkpoint]
  variables: dict


def prepare_task():
  """The processor that the flags name.

  Raises:
    ValueError: there is no such task, or a length too short for its texts.
  """
  processors = {name.lower(): PROCESSORS[name] for name in PROCESSORS}
  name = FLAGS.task_name.lower()
  if name not in processors:
    raise ValueError(
      f"--task_name={FLAGS.task_name} is not one of {', '.join(processors)}"
    )
  if name == "xnli":
    processor = processors[name](FLAGS.xnli_language)
  else:
    processor = processors[name]()
  if processor.has_pairs() and FLAGS.max_seq_length < 5:
    raise ValueError(
      f"--max_seq_length={FLAGS.max_seq_length} leaves no room for the pairs"
      f" of texts of {name}: it must be at least 5"
    )
  return processor


def prepare_model(processor):
  """Reads configuration, vocabulary and the list of weights; compares sizes.

  Raises:
    FileNotFoundError, ValueError: a file is missing or broken, or two of them
      do not belong together.
  """
  weights = None
  if FLAGS.init_checkpoint:
    weights = checkpoints.open_checkpoint(FLAGS.init_checkpoint)
  config_file = _given_or_beside("bert_config_file", weights, "config_file")
  vocab_file = _given_or_beside("vocab_file", weights, "vocab_file")
  config = modeling.BertConfig.from_json_file(config_file)
  if (
    weights.kind == "huggingface" if weights else hasattr(config, "model_type")
  ):
    config.read_as_hugging_face()
  tokenizer = tokenization.FullTokenizer(vocab_file, FLAGS.do_lower_case)
  tokenization.validate_case_matches_vocab(FLAGS.do_lower_case, tokenizer.vocab)
  check_sizes(config, config_file, tokenizer, vocab_file, processor)
  num_labels = len(processor.get_labels())
  variables = checkpoints.model_variables(config, num_labels)
  return Model(config, vocab_file, tokenizer, weights, variables)


def _given_or_beside(flag, weights, attribute):
  """The path in a flag, or the file that lies beside init_checkpoint."""
  path = FLAGS[flag].value or (weights and getattr(weights, attribute))
  if not path:
    where = (
      f"there is none beside {weights.path}"
      if weights
      else ("there is no --init_checkpoint to take it from")
    )
    raise ValueError(f"--{flag} is needed: {where}")
  return path


def check_sizes(config, config_file, tokenizer, vocab_file, processor):
  """Compares vocabulary, configuration, length and task.

  Raises:
    ValueError: an id, a position or a segment would have no embedding.
  """
  size = max(tokenizer.vocab.values()) + 1
  if size > config.vocab_size:
    raise ValueError(
      f"{vocab_file} has {size} lines, but {config_file} has a vocab_size of"
      f" {config.vocab_size}: the two do not belong together"
    )
  if size < config.vocab_size:
    logging.warning(
      "%s has %d lines, fewer than the vocab_size %d of %s: do the two belong"
      " together?",
      vocab_file,
      size,
      config.vocab_size,
      config_file,
    )
  if FLAGS.max_seq_length > config.max_position_embeddings:
    raise ValueError(
      f"--max_seq_length={FLAGS.max_seq_length} is more than the"
      f" max_position_embeddings {config.max_position_embeddings} of"
      f" {config_file}"
    )
  if config.type_vocab_size < 2 and processor.has_pairs():
    raise ValueError(
      f"{config_file} has a type_vocab_size of {config.type_vocab_size}, but"
      " pairs of texts need 2"
    )
  if config.hidden_size % config.num_attention_heads:
    raise ValueError(
      f"{config_file}: hidden_size {config.hidden_size} is not a multiple of"
      f" num_attention_heads {config.num_attention_heads}"
    )


def prepare_settings(processor, model):
  """The settings that decide what is trained, by phase."""
  settings = {
    "model": {
      "task_name": FLAGS.task_name.lower(),
      "language": processor.language,
      "labels": list(processor.get_labels()),
      "max_seq_length": FLAGS.max_seq_length,
      "do_lower_case": FLAGS.do_lower_case,
      "vocabulary (SHA-256)": files.digest(model.vocab_file),
      **model.config.architecture(),
    }
  }
  if FLAGS.do_train:
    settings["training"] = {
      "training data (SHA-256)": processor.source_digest(
        FLAGS.data_dir, "train"
      ),
      **{name: FLAGS[name].value for name in _TRAINING_SETTINGS},
    }
  return settings


_TRAINING_SETTINGS = (
  "init_checkpoint",
  "train_batch_size",
  "learning_rate",
  "num_train_epochs",
  "warmup_proportion",
  "seed",
  "shuffle_buffer_size",
)


def prepare_weights(model, found):
  """Makes sure that there are weights for what is asked for.

  Args:
    model: `Model`.
    found: `run_state.OutputDir`.

  Returns:
    `checkpoints.Coverage` of init_checkpoint, or None where it is not used.

  Raises:
    ValueError: weights do not fit the model, or results would be those of
      random ones.
  """
  if found.checkpoint and not FLAGS.overwrite_output_dir:
    trained = checkpoints.open_checkpoint(found.checkpoint)
    trained.coverage(model.variables).accept(trained_needed=True)
    if model.weights:
      logging.info(
        "weights: %s (step %d), not init_checkpoint", trained.path, found.step
      )
    return None
  if model.weights is None:
    if not FLAGS.do_train:
      raise ValueError(
        f"there are no trained weights: {FLAGS.output_dir} holds no"
        " checkpoint and --init_checkpoint is not given. Train first, or"
        " give --init_checkpoint"
      )
    logging.warning("training from random weights: no --init_checkpoint")
    return None
  own = map(os.path.realpath, run_state.own_files(FLAGS.output_dir))
  if (
    FLAGS.overwrite_output_dir
    and os.path.realpath(f"{model.weights.path}.index") in own
  ):
    raise ValueError(
      f"--overwrite_output_dir would remove --init_checkpoint="
      f"{FLAGS.init_checkpoint}, which a run wrote into {FLAGS.output_dir}:"
      " give another --output_dir"
    )
  return model.weights.coverage(model.variables).accept(
    allow_partial_init=FLAGS.allow_partial_init,
    reinit_head=FLAGS.reinit_head,
    trained_needed=not FLAGS.do_train,
  )


def prepare_cache(processor, model):
  """The cache of features, in the first folder that can be written."""
  folder = FLAGS.cache_dir
  if not folder:
    usable = not FLAGS.use_tpu and files.is_writable(FLAGS.data_dir)
    folder = FLAGS.data_dir if usable else FLAGS.output_dir
  return FeatureCache(
    processor,
    FLAGS.task_name.lower(),
    data_dir=FLAGS.data_dir,
    cache_dir=folder,
    max_seq_length=FLAGS.max_seq_length,
    tokenizer_inputs={
      "vocabulary": files.digest(model.vocab_file),
      "do_lower_case": FLAGS.do_lower_case,
    },
    tokenizer=model.tokenizer,
  )


class Schedule(NamedTuple):
  """How long training takes: rows an epoch, steps in all, steps of warmup."""

  rows: int
  steps: int
  warmup_steps: int


def prepare_schedule(rows):
  """The steps that so many training rows make.

  Raises:
    ValueError: there are too few rows for a single step.
  """
  steps = int(rows / FLAGS.train_batch_size * FLAGS.num_train_epochs)
  if not steps:
    raise ValueError(
      f"{rows} training rows in batches of --train_batch_size="
      f"{FLAGS.train_batch_size} over --num_train_epochs="
      f"{FLAGS.num_train_epochs} make no step: a smaller batch or more"
      " epochs are needed"
    )
  return Schedule(rows, steps, int(steps * FLAGS.warmup_proportion))


class Run(NamedTuple):
  """All that a run needs, checked and ready.

  Attributes:
    processor: `tasks.DataProcessor`.
    model: `Model`.
    found: `run_state.OutputDir`, as it was before.
    settings: see `prepare_settings`.
    coverage: see `prepare_weights`.
    schedule: `Schedule`, or None where nothing is trained.
    features: dictionary from split to `features.Features`.
    cluster: a TPUClusterResolver, or None.
  """

  processor: DataProcessor
  model: Model
  found: run_state.OutputDir
  settings: dict
  coverage: Optional[checkpoints.Coverage]
  schedule: Optional[Schedule]
  features: dict
  cluster: Optional[object]

  def is_finished(self):
    """Whether output_dir has all the steps that are asked for."""
    if FLAGS.overwrite_output_dir:
      return False
    return bool(self.found.checkpoint) and (
      self.found.step >= self.schedule.steps
    )


def prepare(argv):
  """From flags to features; raises for all that a user can have got wrong."""
  check_flags(argv)
  cluster = prepare_tpu() if FLAGS.use_tpu else None
  processor = prepare_task()
  model = prepare_model(processor)
  found = run_state.inspect(FLAGS.output_dir)
  settings = prepare_settings(processor, model)
  if not (FLAGS.resume or FLAGS.overwrite_output_dir):
    run_state.check_settings(found, settings)
  coverage = prepare_weights(model, found)
  cache = prepare_cache(processor, model)
  # Looks at every row of every file before anything is written.
  counts = {split: cache.count(split) for split in wanted(processor)}
  schedule = prepare_schedule(counts["train"]) if FLAGS.do_train else None
  tf.io.gfile.makedirs(FLAGS.output_dir)
  features = {split: cache.features(split) for split in wanted(processor)}
  return Run(
    processor, model, found, settings, coverage, schedule, features, cluster
  )


def prepare_tpu():
  """Finds the TPU, after a look at its batches and the paths it would read."""
  for name in ("train_batch_size", "eval_batch_size", "predict_batch_size"):
    if FLAGS[name].value % FLAGS.num_tpu_cores:
      raise ValueError(
        f"--{name} is {FLAGS[name].value}, but must be a multiple of"
        f" --num_tpu_cores={FLAGS.num_tpu_cores}: every core takes as many rows"
      )
  paths = ("output_dir", "cache_dir", "init_checkpoint")
  devices.refuse_local_paths(
    FLAGS.tpu_name, {name: FLAGS[name].value for name in paths}
  )
  return devices.tpu_cluster(FLAGS.tpu_name, FLAGS.tpu_zone, FLAGS.gcp_project)


def wanted(processor):
  """The splits that the flags ask for, second evaluation sets where there."""
  splits = [
    split
    for asked, split in (
      (FLAGS.do_train, "train"),
      (FLAGS.do_eval, "dev"),
      (FLAGS.do_predict, "test"),
    )
    if asked
  ]
  second = [f"{split}_mismatched" for split in splits]
  return splits + [
    split for split in second if processor.has_split(FLAGS.data_dir, split)
  ]


# ---------------------------------------------------------------------------
# The run


def make_estimator(run, scratch):
  """The TPUEstimator, which computes on CPU or GPU where use_tpu is off.

  Args:
    run: `Run`.
    scratch: folder for weights that are converted first.
  """
  schedule = run.schedule or Schedule(0, 0, 0)
  init_checkpoint = None
  if run.coverage:
    remote = FLAGS.output_dir.startswith("gs://")
    folder = os.path.join(FLAGS.output_dir, "converted") if remote else scratch
    init_checkpoint = run.model.weights.as_tensorflow(folder)
    run.coverage.log()
  model_fn = model_fn_builder(
    run.model.config,
    len(run.processor.get_labels()),
    init_checkpoint,
    FLAGS.learning_rate,
    schedule.steps,
    schedule.warmup_steps,
    FLAGS.use_tpu,
    FLAGS.use_tpu,
    seed=FLAGS.seed,
    metric=run.processor.metric,
    loss_rows=FLAGS.eval_batch_size,
    fresh_variables=run.coverage.fresh if run.coverage else (),
  )
  return tf.estimator.tpu.TPUEstimator(
    use_tpu=FLAGS.use_tpu,
    eval_on_tpu=FLAGS.use_tpu,
    model_fn=model_fn,
    config=run_config(run.cluster),
    params={},
    train_batch_size=FLAGS.train_batch_size,
    eval_batch_size=FLAGS.eval_batch_size,
    predict_batch_size=FLAGS.predict_batch_size,
    export_to_tpu=False,
  )


def run_config(cluster):
  """Where and how often the estimator saves and what it computes on."""
  return tf.estimator.tpu.RunConfig(
    cluster=cluster,
    master=FLAGS.master,
    model_dir=FLAGS.output_dir,
    tf_random_seed=FLAGS.seed,
    save_checkpoints_steps=FLAGS.save_checkpoints_steps,
    keep_checkpoint_max=FLAGS.keep_checkpoint_max or None,
    log_step_count_steps=None,  # ProgressHook tells more
    session_config=devices.session_config(FLAGS.num_threads),
    tpu_config=tf.estimator.tpu.TPUConfig(
      iterations_per_loop=FLAGS.iterations_per_loop,
      num_shards=FLAGS.num_tpu_cores,
      per_host_input_for_training=(
        tf.estimator.tpu.InputPipelineConfig.PER_HOST_V2
      ),
    ),
  )


def input_fn_for(run, split):
  """The input_fn of a split."""
  features = run.features[split]
  training = split == "train"
  return file_based_input_fn_builder(
    features.path,
    FLAGS.max_seq_length,
    is_training=training,
    drop_remainder=training or FLAGS.use_tpu,
    seed=FLAGS.seed,
    shuffle_buffer_size=shuffle_buffer_size(features) if training else None,
    records=features.records,
    start_row=estimator_step(run) * FLAGS.train_batch_size,
  )


def shuffle_buffer_size(features):
  """Rows to shuffle among: all, or what a quarter of the free memory holds."""
  if FLAGS.shuffle_buffer_size:
    return FLAGS.shuffle_buffer_size
  free = devices.free_memory()
  row_bytes = features.bytes / features.records + _BUFFER_ROW_OVERHEAD
  if free is None or features.records * row_bytes <= free / 4:
    return features.records
  rows = max(1, int(free / 4 / row_bytes))
  logging.warning(
    "shuffling among %d of %d rows, which a quarter of the free memory"
    " holds; set --shuffle_buffer_size for another number",
    rows,
    features.records,
  )
  return rows


_BUFFER_ROW_OVERHEAD = 200  # bytes of a tensor and its slot in the buffer


def train(estimator, run):
  """Trains up to the scheduled step, evaluating on the way where asked for.

  Returns:
    The results of the evaluation at the last step, or None.
  """
  if FLAGS.overwrite_output_dir:
    removed = run_state.remove_own_files(FLAGS.output_dir)
    logging.info("removed %d files from %s", removed, FLAGS.output_dir)
  run_state.record(FLAGS.output_dir, run.settings)
  schedule = run.schedule
  logging.info(
    "training on %d rows: steps %d to %d of %d examples, %d of warmup, on %s",
    schedule.rows,
    estimator_step(run) + 1,
    schedule.steps,
    FLAGS.train_batch_size,
    schedule.warmup_steps,
    devices_in_words(),
  )
  hook = progress.ProgressHook(
    schedule.steps,
    FLAGS.train_batch_size,
    schedule.rows,
    FLAGS.log_steps,
    FLAGS.iterations_per_loop if FLAGS.use_tpu else 1,
  )
  input_fn = input_fn_for(run, "train")
  if FLAGS.use_tpu or not FLAGS.do_eval:
    estimator.train(input_fn, max_steps=schedule.steps, hooks=[hook])
    return None
  results, _ = tf.estimator.train_and_evaluate(
    estimator,
    tf.estimator.TrainSpec(input_fn, schedule.steps, hooks=[hook]),
    tf.estimator.EvalSpec(
      input_fn_for(run, "dev"),
      steps=None,
      exporters=[IntermediateResults()],
      start_delay_secs=10,
      throttle_secs=600,
    ),
  )
  return results


class IntermediateResults(tf.estimator.Exporter):
  """Logs every evaluation that training makes on its way."""

  name = "results"

  def export(
    self,
    estimator,
    export_path,
    checkpoint_path,
    eval_result,
    is_the_final_export,
  ):
    del estimator, export_path, checkpoint_path
    if not is_the_final_export:
      log_results(evaluation.tidy_results(eval_result))


def estimator_step(run):
  """The step that training goes on from."""
  return 0 if FLAGS.overwrite_output_dir else run.found.step


def devices_in_words():
  if FLAGS.use_tpu:
    return f"TPU {FLAGS.tpu_name}, {FLAGS.num_tpu_cores} cores"
  return devices.describe(FLAGS.num_threads)


def log_results(results):
  for key in sorted(results):
    logging.info("  %s = %s", key, results[key])


def evaluate(estimator, run, split, results=None):
  """Evaluates a split, where training has not done so, and writes the results.

  Args:
    results: what an evaluation of the final step gave, or None.

  Returns:
    The path of the results, and a line that sums them up.
  """
  suffix = split[len("dev") :]
  rows = run.features[split].records
  if results is None:
    logging.info(
      "evaluating the %d rows of %s on %s", rows, split, devices_in_words()
    )
    steps = -(-rows // FLAGS.eval_batch_size) if FLAGS.use_tpu else None
    results = estimator.evaluate(
      input_fn_for(run, split), steps, name=suffix[1:] or None
    )
  results = evaluation.tidy_results(results)
  path = os.path.join(FLAGS.output_dir, f"eval_results{suffix}.txt")
  evaluation.write_results(path, results)
  logging.info("results of %s, in %s:", split, path)
  log_results(results)
  return path, results


def predict(estimator, run, split):
  """Predicts a split and writes one line a row.

  Returns:
    The paths written.
  """
  suffix = split[len("test") :]
  rows = run.features[split].records
  logging.info(
    "predicting the %d rows of %s on %s", rows, split, devices_in_words()
  )
  batches = estimator.predict(
    input_fn_for(run, split), yield_single_examples=False
  )
  paths = [
    os.path.join(FLAGS.output_dir, f"{name}{suffix}.tsv")
    for name in ("test_results", "test_predictions")
  ]
  written = evaluation.write_predictions(
    run.processor.examples(FLAGS.data_dir, split),
    (row for batch in batches for row in batch["probabilities"]),
    run.processor.get_labels(),
    *paths,
  )
  logging.info("predictions of %d rows, in %s", written, " and ".join(paths))
  return paths


# ---------------------------------------------------------------------------
# The command line


@contextlib.contextmanager
def telling_the_user(*mistakes):
  """Ends the program with a sentence, not a traceback, for these errors."""
  try:
    yield
  except KeyboardInterrupt:
    progress.STATUS.clear()
    logging.error(
      "interrupted; the same command goes on from the last checkpoint in %s",
      FLAGS.output_dir,
    )
    sys.exit(130)
  except mistakes as error:
    logging.error("%s", in_a_sentence(error))
    sys.exit(1)


def in_a_sentence(error):
  """What an error says, without the graph's own traceback."""
  if isinstance(error, tf.train.NanLossDuringTrainingError):
    return (
      f"the loss became NaN at --learning_rate={FLAGS.learning_rate}: train"
      " from the start with a lower one (--overwrite_output_dir), or a longer"
      " --warmup_proportion"
    )
  if not isinstance(error, tf.errors.OpError):
    return str(error)
  text = re.sub(r"(?s)^.*\nNode: \S+\n", "", error.message)
  return text.partition("[[")[0].strip()


# What a user can get wrong before anything is computed, and what can happen
# to anybody while it is.
_MISTAKES = (ValueError, OSError, ImportError, tf.errors.OpError)
_MISHAPS = (
  OSError,
  tf.errors.ResourceExhaustedError,
  tf.errors.PermissionDeniedError,
  tf.errors.DataLossError,
  tf.train.NanLossDuringTrainingError,
)


def main(argv):
  progress.set_up_logging()
  with telling_the_user(*_MISTAKES):
    run = prepare(argv)
  with (
    telling_the_user(*_MISHAPS),
    tempfile.TemporaryDirectory() as scratch,
  ):
    estimator = make_estimator(run, scratch)
    last_lines = []
    results = None
    if FLAGS.do_train and run.is_finished():
      last_lines.append(not_training(run))
      logging.warning(last_lines[0])
    elif FLAGS.do_train:
      results = train(estimator, run)
      last_lines.append(
        f"trained up to step {run.schedule.steps}: {FLAGS.output_dir}"
      )
    for split in run.features:
      if split.startswith("dev"):
        path, results = evaluate(estimator, run, split, results)
        last_lines.append(f"{split}: {one_line(results)}: {path}")
        results = None
      elif split.startswith("test"):
        paths = predict(estimator, run, split)
        last_lines.append(f"{split}: predictions: {' '.join(paths)}")
  for line in last_lines:
    logging.info("%s", line)


def not_training(run):
  """Why nothing is trained, and what can be done about it."""
  return (
    f"NOT TRAINING: {FLAGS.output_dir} holds a checkpoint of step"
    f" {run.found.step}, and {run.schedule.steps} steps are asked for. Give"
    " another --output_dir, more --num_train_epochs to go on, or"
    " --overwrite_output_dir to train from the start"
  )


def one_line(results):
  """The results of an evaluation side by side."""
  # str() prints the 8 digits of a float32, an f-string those of a double.
  return ", ".join(f"{key} {results[key]!s}" for key in sorted(results))


if __name__ == "__main__":
  app.run(main)
