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

import collections
import contextlib
import difflib
import functools
import itertools
import os
import re
import sys
import textwrap
import types

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # no banner at the import

from absl import app, flags, logging
import numpy as np
import tensorflow.compat.v1 as tf

try:  # before anything that leans on TensorFlow's insides
  import estimator_bridge
except ImportError as error:
  sys.exit(str(error))

from tensorflow.python.ops import summary_ops_v2

from bert_classifier import (
  devices,
  evaluation,
  fast_modeling,
  fast_optimization,
  output_dir,
  preparation,
  progress,
)
from bert_classifier.features import (  # noqa: F401 - the 2018 script's names, for importers
  InputFeatures,
  convert_examples_to_features,
  convert_single_example,
  feature_spec,
  file_based_convert_examples_to_features,
  padding_features,
  serialize,
)
from bert_classifier.tasks import (  # noqa: F401 - the 2018 script's names, for importers
  PROCESSORS,
  ColaProcessor,
  DataProcessor,
  InputExample,
  MnliProcessor,
  MrpcProcessor,
  PaddingInputExample,
  Table,
  XnliProcessor,
)
import modeling
import optimization

FLAGS = flags.FLAGS
_GROUPS = {}


def _end_group(title):
  """Puts the flags that were defined since the last group under a title."""
  grouped = {flag for group in _GROUPS.values() for flag in group}
  own = FLAGS.get_key_flags_for_module(sys.modules[__name__])
  _GROUPS[title] = [flag for flag in own if flag not in grouped]


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
_end_group("The task and its files")

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
_end_group("The model")

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
_end_group("What to do, and where to")

flags.DEFINE_integer("train_batch_size", 32, "Examples a training step.")
flags.DEFINE_integer(
  "eval_batch_size",
  8,
  "Examples a batch of evaluation; decides what `loss` is the mean of. Where it"
  " is not given, more are computed at a time, and `loss` is the same.",
)
flags.DEFINE_integer(
  "predict_batch_size",
  8,
  "Examples a batch of prediction. Where it is not given, more are computed at"
  " a time.",
)
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
_end_group("Training")

flags.DEFINE_integer(
  "save_checkpoints_steps", 1000, "Steps between two checkpoints."
)
flags.DEFINE_integer(
  "keep_checkpoint_max", 1, "Newest checkpoints to keep; 0 keeps all."
)
flags.DEFINE_integer("log_steps", 100, "Steps between two lines of progress.")
flags.DEFINE_integer("num_threads", 0, "Threads to compute with; 0: all cores.")
flags.DEFINE_bool(
  "skip_padding",
  True,
  "Compute real tokens only; false computes all max_seq_length positions, as a"
  " TPU always does. Evaluation and prediction are the same within rounding;"
  " in training dropout falls on other elements.",
)
_end_group("The run")

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
_end_group("TPU")


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
    input_file: TFRecord file, or a list of them, read one after the other.
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

  Raises:
    ValueError: `records` is 0, or not given with a `start_row`.
  """
  spec = feature_spec(seq_length)
  if start_row and not records:
    raise ValueError("start_row needs records, the number of rows in the file")
  if records == 0:
    raise ValueError(f"{input_file} has no rows")

  def input_fn(params):
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
      zeros = serialize(padding_features(seq_length))
      rows = filled_up(rows, zeros, params)
    batches = rows.batch(params["batch_size"], drop_remainder=drop_remainder)
    parse = functools.partial(parse_batch, spec=spec)
    return prefetched(batches.map(parse, num_parallel_calls=_AHEAD))

  return input_fn


_AHEAD = 4  # batches, and as many are parsed at a time


def prefetched(batches):
  """The `tf.data.Dataset`, made ready while steps are computed.

  Autotuning is off: its thread now and then misses the end of the data set, and
  a session that closes waits up to a minute for it.
  """
  options = tf.data.Options()
  options.autotune.enabled = False
  return batches.prefetch(_AHEAD).with_options(options)


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
      buffer_size or tf.data.UNKNOWN_CARDINALITY,
      seed=epoch + (seed << 32),
      reshuffle_each_iteration=False,
    )

  epochs = tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max)
  return epochs.flat_map(epoch_in_order).skip(passed)


def filled_up(rows, zeros, params):
  """Adds rows of zeros, weight included, after which every step is whole.

  `batch(drop_remainder=True)` then drops nothing but rows of zeros. The cores
  of a TPU take their batches in turn, all of them in a step.

  Args:
    rows: `tf.data.Dataset`.
    zeros: such a row.
    params: what the input_fn was given.
  """
  cores = params["context"].num_replicas if "context" in params else 1
  step_rows = params["batch_size"] * cores
  padding = tf.data.Dataset.from_tensors(zeros).repeat(step_rows - 1)
  return rows.concatenate(padding)


def parse_batch(records, spec):
  """Serialized examples <string>[B] to int32 features by name.

  A file has int64, but a TPU computes int32 faster.
  """
  parsed = tf.io.parse_example(records, spec)
  return {
    name: tf.cast(value, tf.int32) if value.dtype == tf.int64 else value
    for name, value in parsed.items()
  }


def input_fn_builder(
  features, seq_length, is_training, drop_remainder, *, seed=None
):
  """An input_fn over a list of `InputFeatures` in memory.

  Args and result as of `file_based_input_fn_builder`.

  Raises:
    ValueError: the list is empty.
  """
  if not features:
    raise ValueError("there are no features: the list is empty")
  columns = {
    name: np.reshape(
      [row.as_dict()[name] for row in features], [-1, *spec.shape]
    ).astype(np.int32)
    for name, spec in feature_spec(seq_length).items()
  }

  def input_fn(params):
    rows = tf.data.Dataset.from_tensor_slices(columns)
    if is_training:
      rows = endless(rows, seed=seed, buffer_size=len(features))
    elif drop_remainder:
      zeros = {
        name: np.zeros_like(column[0]) for name, column in columns.items()
      }
      rows = filled_up(rows, zeros, params)
    return prefetched(
      rows.batch(params["batch_size"], drop_remainder=drop_remainder)
    )

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
  forms=modeling.PLAIN,
  optimizer_class=optimization.AdamWeightDecayOptimizer,
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
    forms: the `modeling.Forms` to compute with.
    optimizer_class: see `optimization.make_optimizer`.
  """
  model = modeling.BertForSequenceClassification(
    bert_config,
    num_labels,
    use_one_hot_embeddings=use_one_hot_embeddings,
    forms=forms,
  )
  metric_fn = functools.partial(
    evaluation.metric_fn,
    num_labels=num_labels,
    metric=metric,
    loss_rows=None if use_tpu else loss_rows,
  )

  def model_fn(features, labels, mode, params, config=None):
    del labels, params
    global_step = tf.train.get_or_create_global_step()
    # Read once, so that nothing sees the count that the update ends with.
    step = global_step.read_value()
    outputs = model(
      features,
      is_training=mode == tf.estimator.ModeKeys.TRAIN,
      dropout_key=modeling.dropout_key(seed, step, replica(use_tpu)),
    )
    make_spec = functools.partial(
      tf.estimator.tpu.TPUEstimatorSpec,
      mode=mode,
      scaffold_fn=scaffold_fn_builder(init_checkpoint, fresh_variables),
    )
    if mode == tf.estimator.ModeKeys.PREDICT:
      return make_spec(predictions={"probabilities": outputs["probabilities"]})
    loss = outputs["loss"]
    if mode == tf.estimator.ModeKeys.EVAL:
      tensors = metric_tensors(features, outputs)
      return make_spec(loss=loss, eval_metrics=(metric_fn, tensors))
    rate = optimization.learning_rate_schedule(
      learning_rate, num_train_steps, num_warmup_steps, step
    )
    train_op = training_op(loss, rate, global_step, use_tpu, optimizer_class)
    host_call = (
      summaries(loss, rate, step, config.model_dir) if use_tpu else None
    )
    return make_spec(loss=loss, train_op=train_op, host_call=host_call)

  return model_fn


def training_op(
  loss,
  rate,
  global_step,
  use_tpu,
  optimizer_class=optimization.AdamWeightDecayOptimizer,
):
  """A training step at a rate <float32>[]; loss and rate get their names."""
  tf.identity(loss, progress.ProgressHook.LOSS)
  tf.identity(rate, progress.ProgressHook.RATE)
  return optimization.training_step(
    loss,
    optimization.make_optimizer(rate, optimizer_class),
    global_step,
    optimization.mean_over_cores if use_tpu else None,
  )


def metric_tensors(features, outputs):
  """What `evaluation.metric_fn` is given, in the order of its arguments."""
  label_ids = features["label_ids"]
  real = features.get("is_real_example", tf.ones_like(label_ids))
  return [outputs["per_example_loss"], label_ids, outputs["logits"], real]


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
  """<int32>[], which of the copies of the model this is: a TPU's core."""
  if not use_tpu:
    return tf.distribute.get_replica_context().replica_id_in_sync_group
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
    with writer.as_default(), summary_ops_v2.record_if(True):
      summary_ops_v2.scalar("loss", tf.reduce_mean(loss), step=step[0])
      summary_ops_v2.scalar("learning_rate", rate[0], step=step[0])
      return tf.summary.all_v2_summary_ops()

  return write, [tf.reshape(value, [1]) for value in (loss, rate, step)]


# ---------------------------------------------------------------------------
# The run


def make_estimator(run, init_checkpoint):
  """The TPUEstimator, which computes on CPU or GPU where use_tpu is off.

  Args:
    run: `preparation.Run`.
    init_checkpoint: prefix of a TensorFlow checkpoint, or None.
  """
  options, schedule = run.options, run.schedule or preparation.NO_STEPS
  model_fn = model_fn_builder(
    run.model.config,
    len(run.processor.get_labels()),
    init_checkpoint,
    options.learning_rate,
    schedule.steps,
    schedule.warmup_steps,
    options.use_tpu,
    options.use_tpu,
    seed=options.seed,
    metric=run.processor.metric,
    loss_rows=options.eval_batch_size,
    fresh_variables=run.coverage.fresh if run.coverage else (),
    forms=fast_modeling.forms(options.skip_padding and not options.use_tpu),
    optimizer_class=fast_optimization.FusedAdamWeightDecayOptimizer,
  )
  return tf.estimator.tpu.TPUEstimator(
    use_tpu=options.use_tpu,
    eval_on_tpu=options.use_tpu,
    model_fn=model_fn,
    config=run_config(options, run.cluster),
    params={},
    train_batch_size=options.train_batch_size,
    eval_batch_size=run.eval_rows,
    predict_batch_size=run.predict_rows,
    export_to_tpu=False,
  )


@contextlib.contextmanager
def claimed_output_dir(run):
  """Keeps a second training out of output_dir; empties it where asked to.

  Raises:
    OSError: another command trains there, or has since it was looked at.
  """
  options = run.options
  if not options.do_train:
    yield
    return
  with output_dir.only_trainer(options.output_dir):
    if options.overwrite_output_dir:
      removed = output_dir.remove_own_files(options.output_dir)
      logging.info("removed %d files from %s", removed, options.output_dir)
    elif output_dir.inspect(options.output_dir) != run.found:
      raise OSError(
        f"another command has trained in {options.output_dir} meanwhile: the"
        " same command again goes on from there"
      )
    yield


@contextlib.contextmanager
def weights_to_begin_with(run):
  """Gives the prefix of init_checkpoint, converted where it must be, or None.

  What is converted lies in output_dir, where a TPU can read it too, as long as
  it is needed.
  """
  if run.coverage is None:
    yield None
    return
  run.coverage.log()
  weights = run.model.weights
  if weights.kind == "tensorflow":
    yield weights.path
    return
  folder = os.path.join(run.options.output_dir, "converted_weights")
  try:
    yield weights.as_tensorflow(folder)
  finally:
    output_dir.remove_own_files(run.options.output_dir, ["converted_weights"])


def run_config(options, cluster):
  """Where and how often the estimator saves and what it computes on."""
  return tf.estimator.tpu.RunConfig(
    cluster=cluster,
    master=None if cluster else options.master,
    model_dir=options.output_dir,
    tf_random_seed=options.seed,
    save_checkpoints_steps=options.save_checkpoints_steps,
    keep_checkpoint_max=options.keep_checkpoint_max or None,
    # Off TPU ProgressHook tells, and writes, more.
    log_step_count_steps=options.log_steps if options.use_tpu else None,
    save_summary_steps=100 if options.use_tpu else 0,
    session_config=devices.session_config(options.num_threads),
    tpu_config=tf.estimator.tpu.TPUConfig(
      iterations_per_loop=options.iterations_per_loop,
      num_shards=options.num_tpu_cores,
      per_host_input_for_training=(
        tf.estimator.tpu.InputPipelineConfig.PER_HOST_V2
      ),
    ),
  )


def input_fn_for(run, *splits):
  """The input_fn of a split, or of several, one after the other."""
  training = splits == ("train",)
  step = run.first_step if training else 0
  return file_based_input_fn_builder(
    [run.features[split].path for split in splits],
    run.options.max_seq_length,
    is_training=training,
    drop_remainder=training or run.options.use_tpu,
    seed=run.options.seed,
    shuffle_buffer_size=run.schedule.buffer_rows if training else None,
    records=rows_of(run, splits),
    start_row=step * run.options.train_batch_size,
  )


def splits_of(run, kind):
  """Those of a kind, "dev" or "test", that are to be computed."""
  return [split for split in run.features if split.startswith(kind)]


def rows_of(run, splits):
  """How many rows the splits have together."""
  return sum(run.features[split].records for split in splits)


def train(estimator, run):
  """Trains up to the scheduled step, evaluating on the way where asked for.

  Returns:
    The results of the evaluation at the last step, or None.
  """
  output_dir.record(
    run.options.output_dir, run.settings, run.model.config, run.model.vocab_file
  )
  schedule = run.schedule
  logging.info(
    "training on %d rows: steps %d to %d of %d examples, %d of warmup, on %s",
    schedule.rows,
    run.first_step + 1,
    schedule.steps,
    run.options.train_batch_size,
    schedule.warmup_steps,
    devices_in_words(run.options),
  )
  hook = progress.ProgressHook(
    schedule.steps,
    batch_size=run.options.train_batch_size,
    rows=schedule.rows,
    log_steps=run.options.log_steps,
    steps_per_run=run.options.iterations_per_loop if run.options.use_tpu else 1,
    summary_dir=None if run.options.use_tpu else run.options.output_dir,
  )
  input_fn = input_fn_for(run, "train")
  if run.options.use_tpu or not run.options.do_eval:
    estimator.train(input_fn, max_steps=schedule.steps, hooks=[hook])
    return None
  results, _ = tf.estimator.train_and_evaluate(
    estimator,
    tf.estimator.TrainSpec(input_fn, schedule.steps, hooks=[hook]),
    tf.estimator.EvalSpec(
      input_fn_for(run, "dev"),
      steps=None,
      hooks=evaluation_hooks(run, "dev", hook),
      exporters=[IntermediateResults()],
      start_delay_secs=10,
      throttle_secs=600,
    ),
  )
  return results


def evaluation_hooks(run, split, training=None):
  """What tells how far an evaluation is; a TPU takes all of it in one call."""
  if run.options.use_tpu:
    return []
  return [
    progress.EvaluationHook(
      rows=run.features[split].records,
      batch_size=run.eval_rows,
      training=training,
    )
  ]


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


def not_training(run):
  """Why nothing is trained, and what can be done about it."""
  return (
    f"NOT TRAINING: {run.options.output_dir} holds a checkpoint of step"
    f" {run.found.step}, and {run.schedule.steps} steps are asked for. Give"
    " another --output_dir, more --num_train_epochs to go on, or"
    " --overwrite_output_dir to train from the start"
  )


def devices_in_words(options):
  if options.use_tpu:
    return f"TPU {options.tpu_name}, {options.num_tpu_cores} cores"
  return devices.describe(options.num_threads)


def log_results(results):
  for key in sorted(results):
    logging.info("  %s = %s", key, results[key])


def one_line(results):
  """The results of an evaluation side by side."""
  # str() prints the 8 digits of a float32, an f-string those of a double.
  return ", ".join(f"{key} {results[key]!s}" for key in sorted(results))


def evaluate(estimator, run, split, results=None):
  """Evaluates a split, where training has not done so, and writes the results.

  Args:
    results: what an evaluation of the final step gave, or None.

  Returns:
    The path of the results, and a dictionary of them.
  """
  suffix = split[len("dev") :]
  rows = run.features[split].records
  if results is None:
    logging.info(
      "evaluating the %d rows of %s on %s",
      rows,
      split,
      devices_in_words(run.options),
    )
    steps = -(-rows // run.eval_rows) if run.options.use_tpu else None
    results = estimator.evaluate(
      input_fn_for(run, split),
      steps,
      hooks=evaluation_hooks(run, split),
      name=suffix[1:] or None,
    )
  results = evaluation.tidy_results(results)
  path = os.path.join(run.options.output_dir, f"eval_results{suffix}.txt")
  evaluation.write_results(path, results)
  logging.info("results of %s, in %s:", split, path)
  log_results(results)
  return path, results


def predict(estimator, run, splits):
  """Predicts the splits in one session and writes one line a row.

  Returns:
    For each split the paths written.
  """
  rows = rows_of(run, splits)
  logging.info(
    "predicting the %d rows of %s on %s",
    rows,
    " and ".join(splits),
    devices_in_words(run.options),
  )
  counter = progress.Counter("predicted", rows)
  batches = estimator.predict(
    input_fn_for(run, *splits), yield_single_examples=False
  )
  predicted = predicted_rows(batches, counter)
  written = {}
  for split in splits:
    suffix = split[len("test") :]
    written[split] = [
      os.path.join(run.options.output_dir, f"{name}{suffix}.tsv")
      for name in ("test_results", "test_predictions")
    ]
    evaluation.write_predictions(
      run.processor.examples(run.options.data_dir, split),
      itertools.islice(predicted, rows_of(run, [split])),
      run.processor.get_labels(),
      *written[split],
    )
  collections.deque(predicted, maxlen=0)  # lets the session end properly
  logging.info("%s", counter)
  return written


def predicted_rows(batches, counter):
  """Yields <float32>[L] of each row, while a `progress.Counter` counts them."""
  for batch in batches:
    probabilities = batch["probabilities"]
    counter.add(len(probabilities))
    yield from probabilities


# ---------------------------------------------------------------------------
# The command line


@contextlib.contextmanager
def telling_the_user(options, *mistakes):
  """Ends the program with a sentence, not a traceback, for these errors."""
  try:
    yield
  except KeyboardInterrupt:
    progress.STATUS.clear()
    logging.error("interrupted; %s", after_interruption(options))
    sys.exit(130)
  except mistakes as error:
    logging.error("%s", in_a_sentence(error, options))
    sys.exit(1)


def after_interruption(options):
  """What the same command would do after Ctrl-C."""
  if not options.do_train:
    return "the same command begins again"
  checkpoint = f"goes on from the last checkpoint in {options.output_dir}"
  if options.overwrite_output_dir:
    return f"the same command without --overwrite_output_dir {checkpoint}"
  return f"the same command {checkpoint}"


def in_a_sentence(error, options):
  """What an error says, without the graph's own traceback."""
  if isinstance(error, tf.train.NanLossDuringTrainingError):
    return (
      f"the loss became NaN at --learning_rate={options.learning_rate}: train"
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
  estimator_bridge.quiet()
  tf.enable_resource_variables()
  options = read_options()
  if options.use_tpu:  # whose loss only the Estimator can tell
    tf.get_logger().setLevel("INFO")
  with telling_the_user(options, *_MISTAKES):
    refuse_stray_words(argv)
    run = preparation.prepare(options)
  devices.reuse_big_blocks()
  with (
    telling_the_user(options, *_MISHAPS),
    claimed_output_dir(run),
    weights_to_begin_with(run) as init_checkpoint,
  ):
    estimator = make_estimator(run, init_checkpoint)
    last_lines = []
    known = {}  # results of training's own evaluation, by split
    if options.do_train and run.is_finished:
      last_lines.append(not_training(run))
      logging.warning(last_lines[0])
    elif options.do_train:
      known["dev"] = train(estimator, run)
      last_lines.append(
        f"trained up to step {run.schedule.steps}: {options.output_dir}"
      )
    for split in splits_of(run, "dev"):
      path, results = evaluate(estimator, run, split, known.get(split))
      last_lines.append(f"{split}: {one_line(results)}: {path}")
    if options.do_predict:
      written = predict(estimator, run, splits_of(run, "test"))
      for split, paths in written.items():
        last_lines.append(f"{split}: predictions: {' '.join(paths)}")
  for line in last_lines:
    logging.info("%s", line)


def read_options():
  """The flags as an object with a value for each, read here and nowhere else.

  Its `given` is the set of those that the user gave.
  """
  options = types.SimpleNamespace(**FLAGS.flag_values_dict())
  options.given = {f for f in FLAGS if not FLAGS[f].using_default_value}
  return options


def refuse_stray_words(argv):
  """Words that belong to no flag are mistakes.

  Raises:
    ValueError: names the first of them.
  """
  if len(argv) > 1:
    raise ValueError(
      f"{argv[1]!r} belongs to no flag: values are given as --flag=value,"
      " switches as --flag, --noflag or --flag=false"
    )


def show_help():
  """Prints what the script does and every flag, by group, with its default."""
  print(__doc__)
  for title, group in _GROUPS.items():
    print(f"\n{title}:")
    for flag in group:
      default = "" if flag.default is None else f"={flag.default_as_str}"
      print(f"  --{flag.name}{default.replace(chr(39), '')}")
      print(textwrap.fill(flag.help, 78, **_HELP_INDENT))
  print("\n--flagfile=FILE reads flags from a file, one a line.")


_HELP_INDENT = dict(initial_indent=" " * 6, subsequent_indent=" " * 6)


def parse_flags(argv):
  """Reads the command line; a mistake ends the program with a sentence."""
  if {"--help", "-help", "-h"} & set(argv):
    show_help()
    sys.exit(0)
  try:
    return FLAGS(argv)
  except flags.UnrecognizedFlagError as error:
    own = [flag.name for group in _GROUPS.values() for flag in group]
    own += ["flagfile", "help"]
    nearest = difflib.get_close_matches(error.flagname, own, n=1, cutoff=0.0)
    message = (
      f"there is no flag --{error.flagname}; the nearest is --{nearest[0]}"
    )
  except flags.Error as error:
    message = str(error)
  sys.exit(f"{message}. --help lists all flags")


if __name__ == "__main__":
  app.run(main, flags_parser=parse_flags)
