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

import functools
import os

from bert_classifier import command_line

_WORDS, _end_import = command_line.begin(__name__, __doc__)

from absl import app, logging
import tensorflow.compat.v1 as tf

from bert_classifier import (
  advice,
  batches,
  calibration,
  checkpoints,
  clusters,
  device_choice,
  embeddings,
  errors,
  evaluation,
  fast_optimization,
  history,
  launcher,
  layouts,
  memory,
  options,
  output_dir,
  predictions,
  preparation,
  process,
  progress,
  report,
  runs,
  saving,
  schedule,
  selection,
  sharing,
  targets,
  training_step,
  uses,
)
from bert_classifier.catalogue import (  # noqa: F401 - the 2018 script's names
  PROCESSORS,
  ColaProcessor,
  MnliProcessor,
  MrpcProcessor,
  XnliProcessor,
)
from bert_classifier.choices import Choices
from bert_classifier.features import (  # noqa: F401 - the 2018 script's names
  ONE_CLASS,
  InputFeatures,
  convert_examples_to_features,
  convert_single_example,
  feature_spec,
  file_based_convert_examples_to_features,
  padding_features,
  serialize,
)
from bert_classifier.options import FLAGS  # noqa: F401 - for importers
from bert_classifier.original_interface import (  # noqa: F401 - for importers
  create_model,
  input_fn_builder,
)
from bert_classifier.table_files import Table  # noqa: F401 - for importers
from bert_classifier.tasks import (  # noqa: F401 - for importers
  DataProcessor,
  InputExample,
  PaddingInputExample,
)
import estimator_bridge
import modeling
import optimization

# ---------------------------------------------------------------------------
# Input


def file_based_input_fn_builder(
  input_file,
  seq_length,
  is_training,
  drop_remainder,
  *,
  target=ONE_CLASS,
  seed=None,
  shuffle_buffer_size=None,
  num_examples=None,
  start=0,
  end=None,
  make_ahead=None,
  index=None,
  in_windows=False,
):
  """Returns an input_fn over a TFRecord file of features.

  Training goes through the file again and again, each epoch in an order that
  is a function of seed and epoch, so that a resumed run sees the examples that
  one never stopped would have seen.

  Args:
    input_file: TFRecord file, or a list of them, read one after the other.
    seq_length: S.
    is_training: whether to shuffle and repeat.
    drop_remainder: whether every batch must be whole. In training the last
      incomplete one is dropped; otherwise it is filled with examples of weight
      0.
    target: what is predicted, see `targets`.
    seed: whole number that decides the order; where not given the order is a
      new one every time.
    shuffle_buffer_size: examples among which the next one is drawn; the whole
      file where not given.
    num_examples: examples in the file, needed for a `start`.
    start: examples that were trained on before, over all epochs.
    end: those after which, with an `index`, none comes; None where they go on.
    make_ahead: see `batches.parse`.
    index: path of the index of a single file, see `record_index`. Training then
      shuffles the whole file without holding it in memory, in another order
      than without an index, and begins at once wherever it resumes.
    in_windows: as of `feature_spec`.

  Returns:
    A function of `params`, whose "batch_size" is B, giving a `tf.data.Dataset`
    of dictionaries: `input_ids`, `input_mask`, `segment_ids` <int32>[B, S],
    `is_real_example` <int32>[B], the target's features, and what `make_ahead`
    adds.

  Raises:
    ValueError: `num_examples` is 0, or not given with a `start`.
  """
  spec = feature_spec(seq_length, target, in_windows=in_windows)
  if start and not num_examples:
    raise ValueError("start needs num_examples, the number of examples")
  if num_examples == 0:
    raise ValueError(f"{input_file} has no examples")

  def input_fn(params, input_context=None):
    if is_training and index:
      records = batches.read_shuffled(
        input_file,
        index,
        params["batch_size"],
        seed=seed,
        start=start,
        end=end,
        input_context=input_context,
      )
    else:
      records = batches.make_batches(
        tf.data.TFRecordDataset(input_file),
        params,
        is_training=is_training,
        drop_remainder=drop_remainder,
        padding=serialize(padding_features(seq_length, target)),
        seed=seed,
        buffer_size=shuffle_buffer_size or num_examples,
        num_examples=num_examples,
        start=start,
      )
      records = batches.take_share(records, input_context)
    return batches.prefetch(batches.parse(records, spec, make_ahead))

  return input_fn


# ---------------------------------------------------------------------------
# Model


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
  head_dropout=None,
  collector=None,
  fresh_variables=(),
  placement=None,
  forms=modeling.PLAIN,
  training_forms=None,
  optimizer_class=optimization.AdamWeightDecayOptimizer,
  step_options=None,
  choices=None,
):
  """Returns a model_fn for TPUEstimator.

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
    head_dropout: as of `modeling.BertForSequenceClassification`.
    collector: `evaluation.Collector`, which knows the target, too; by default
      that of one class of L.
    fresh_variables: names that are not to be taken from init_checkpoint.
    placement: see `devices`; by default that of `use_tpu`.
    forms: how the layers are computed, see `modeling.PLAIN`.
    training_forms: the same in training; `forms` where not given.
    optimizer_class: `optimization.AdamWeightDecayOptimizer` or a subclass.
    step_options: `step_options.StepOptions`; the default ones where not given.
    choices: `choices.Choices`; the default ones where not given.
  """
  make_model = functools.partial(
    modeling.BertForSequenceClassification,
    bert_config,
    num_labels,
    use_one_hot_embeddings=use_one_hot_embeddings,
    head_dropout=head_dropout,
  )
  model = make_model(forms=forms)
  trained = make_model(forms=training_forms or forms)
  collector = collector or evaluation.Collector(
    targets.OneClass(map(str, range(num_labels)))
  )
  placement = placement or device_choice.make_placement(
    options.DeviceOptions(use_tpu=use_tpu)
  )
  training = training_step.TrainingStep(
    (learning_rate, num_train_steps, num_warmup_steps),
    optimizer_class,
    placement,
    step_options or options.StepOptions(),
    choices or Choices(),
    bert_config.num_hidden_layers,
  )

  def model_fn(features, labels, mode, params, config=None):
    del labels, params
    if tf.get_default_graph().seed is None:  # --deterministic needs one
      tf.set_random_seed(seed)
    is_training = mode == tf.estimator.ModeKeys.TRAIN
    keep = config and config.keep_checkpoint_max
    saver = saving.Saver(keep) if is_training else None
    make_spec = functools.partial(
      tf.estimator.tpu.TPUEstimatorSpec,
      mode=mode,
      scaffold_fn=checkpoints.scaffold_fn_builder(
        init_checkpoint, fresh_variables, saver
      ),
    )
    step, key = training_step.read_step(placement, seed)
    if is_training:
      folder = config and config.model_dir
      return make_spec(
        **training.add(trained, collector.target, features, step, key, folder)
      )
    if mode == tf.estimator.ModeKeys.EVAL:
      placement.count_evaluation_on_host()
    return evaluation.inference_spec(
      make_spec, mode, model, features, collector
    )

  return model_fn


# ---------------------------------------------------------------------------
# The run. Everywhere `run` is a `preparation.Run`, and `init_checkpoint` the
# prefix of a TensorFlow checkpoint, or None.


def make_model_fn(run, init_checkpoint, placement, collector=None):
  """Returns the model_fn of a run.

  Args:
    placement: see `devices`.
    collector: `evaluation.Collector` where there are evaluations.
  """
  training, coverage = run.options.training, run.weights.coverage
  planned = run.schedule or schedule.NO_STEPS
  forms, training_forms = layouts.choose_forms(run, placement)
  return model_fn_builder(
    run.model.config,
    run.task.target.width,
    init_checkpoint,
    training.learning_rate,
    planned.steps,
    planned.warmup_steps,
    placement.use_tpu,
    placement.use_one_hot_embeddings,
    seed=training.seed,
    head_dropout=training.head_dropout,
    collector=collector or evaluation.Collector(run.task.target),
    fresh_variables=coverage.fresh if coverage else (),
    placement=placement,
    forms=forms,
    training_forms=training_forms,
    optimizer_class=fast_optimization.FusedAdamWeightDecayOptimizer,
    step_options=run.options.step,
    choices=run.choices,
  )


def make_estimator(run, model_fn):
  """Returns the TPUEstimator, which computes on CPU or GPU without a TPU."""
  training, placement = run.options.training, run.placement
  return tf.estimator.tpu.TPUEstimator(
    use_tpu=placement.use_tpu,
    eval_on_tpu=placement.use_tpu,
    model_fn=model_fn,
    config=placement.run_config(run.options.run.output_dir, training),
    params={},
    train_batch_size=placement.replica_batch_size(training.train_batch_size),
    eval_batch_size=run.eval_batch_size,
    predict_batch_size=run.predict_batch_size,
    export_to_tpu=False,
  )


def input_fn_for(run, *splits):
  """Returns the input_fn of a split, or of several, one after the other."""
  is_training = splits == ("train",)
  step = run.first_step if is_training else 0
  paths = [run.features[split].path for split in splits]
  return file_based_input_fn_builder(
    paths if len(paths) > 1 else paths[0],
    run.options.model.max_seq_length,
    is_training=is_training,
    drop_remainder=is_training or run.placement.needs_whole_batches,
    target=run.task.target,
    seed=run.options.training.seed,
    shuffle_buffer_size=run.schedule.buffer_size if is_training else None,
    num_examples=run.count_records(*splits),
    start=step * run.batch_size("train"),
    end=run.packed and run.schedule.steps * run.batch_size("train"),
    make_ahead=layouts.choose_addition(run, is_training),
    index=run.features["train"].index if is_training else None,
    in_windows=run.options.model.stride > 0,
  )


def train(estimator, run):
  """Trains up to the scheduled step, evaluating on the way where asked for.

  Returns:
    The results of the evaluation at the last step, or None.

  Raises:
    UserError: a number is not finite, or a checkpoint cannot be saved.
  """
  folder = run.options.run.output_dir
  output_dir.write_manifest(
    folder, run.settings, run.model.config, run.model.vocab_file
  )
  schedule.announce_training(run)
  memory.warn_if_short(run, "train")
  hook = progress.training_hook(run, output_dir.history_path(folder))
  exhausted = memory.explain_exhaustion(run, "train", hook)
  with advice.explain_not_finite(run), exhausted:
    return run_training(estimator, run, hook)


# Or a strategy rewrites all that the graph is made by, which takes seconds.
@tf.autograph.experimental.do_not_convert
def run_training(estimator, run, hook):
  """Does the steps; returns the last evaluation's results, or None."""
  input_fn, steps = input_fn_for(run, "train"), run.schedule.steps
  ending = selection.Ending(run)
  hooks = [hook, ending, *saving.make_hooks(run)]
  if not (run.placement.sees_every_step and run.options.run.do_eval):
    estimator.train(input_fn, max_steps=steps, hooks=hooks)
    return None
  results, _ = tf.estimator.train_and_evaluate(
    estimator,
    tf.estimator.TrainSpec(input_fn, steps, hooks=hooks),
    selection.make_spec(run, input_fn_for(run, "dev"), hook, ending),
  )
  return results


@tf.autograph.experimental.do_not_convert
def assist(run, init_checkpoint):
  """Computes a part of each step of a training that another process leads."""
  if not run.options.run.do_train or run.is_finished:
    return
  if not selection.share_end(run):
    model_fn = make_model_fn(run, init_checkpoint, run.placement)
    estimator = make_estimator(run, model_fn)
    with memory.explain_exhaustion(run, "train"):
      estimator.train(
        input_fn_for(run, "train"),
        max_steps=run.schedule.steps,
        hooks=[progress.training_hook(run), selection.Ending(run)],
      )


def evaluate(estimator, run, split, results=None):
  """Evaluates a split, where training has not done so, and writes the results.

  Args:
    results: what an evaluation of the final step gave, or None.

  Returns:
    The path of the results, and a dictionary of them.
  """
  if results is None:
    results = run_evaluation(estimator, run, split)
  results = evaluation.tidy_results(results)
  weights, _ = sharing.find_weights_in_use(run)
  evaluation.check_finite(results, weights)
  folder = run.options.run.output_dir
  path = evaluation.write_results(folder, split, results, weights)
  history.add_evaluation(
    output_dir.history_path(folder),
    split,
    results,
    replaces=run.options.run.do_train,
  )
  return path, results


def run_evaluation(estimator, run, split):
  """Returns what the Estimator gives of an evaluation."""
  progress.announce("evaluating", run, split)
  memory.warn_if_short(run, split)
  with memory.explain_exhaustion(run, split):
    return estimator.evaluate(
      input_fn_for(run, split),
      run.placement.evaluation_steps(
        run.count_records(split), run.eval_batch_size
      ),
      hooks=progress.evaluation_hooks(run, split),
      checkpoint_path=run.weights.to_read,
      name=output_dir.evaluation_name(split),
    )


def predict(estimator, run, splits, kind=predictions):
  """Predicts the splits in one session and writes a line for each example.

  Args:
    kind: the module that writes them: `predictions` or `embeddings`.

  Returns:
    List of a line for each file or pair of files written.
  """
  kind.announce(run, splits)
  memory.warn_if_short(run, splits[0])
  outputs = estimator.predict(
    input_fn_for(run, *splits),
    checkpoint_path=run.weights.to_read,
    yield_single_examples=False,
  )
  with memory.explain_exhaustion(run, splits[0]):
    return kind.write_of_run(
      run, splits, outputs, *sharing.find_weights_in_use(run)
    )


# ---------------------------------------------------------------------------
# The command line


def main(argv):
  """Runs the command line: prepares, trains, evaluates and predicts.

  Ends the process with 1 after a mistake or a mishap, 70 after a bug, 130
  after Ctrl-C and 143 after SIGTERM. Resource variables and the handling of
  big blocks of memory stay set for the process.
  """
  progress.set_up_logging()
  estimator_bridge.quiet()
  with errors.exit_with_a_sentence(), process.signals_as_exceptions():
    options.refuse_stray_words(argv)
    asked = options.read()
    if clusters.is_evaluator(os.environ.get(clusters.VARIABLE)):
      logging.info("this evaluator has nothing to do: the chief evaluates")
      return
    launcher.take_over(asked)  # of a script that imports this one
    with advice.explain_interruption(asked.run):
      plans = runs.plan(asked)
      run = preparation.prepare(runs.choose_first(asked, plans))
      run.placement.prepare_process()
      tf.enable_resource_variables()  # which XLA and strategies need
      with saving.sessions_end_at_errors():
        if asked.run.dry_run:
          runs.report_dry_run(run, asked, plans, make_model_fn)
        else:
          runs.carry_out(run, asked, plans, claim_and_carry_out)


def claim_and_carry_out(run):
  """Does what a run asks for, while its output_dir is kept from others."""
  with (
    sharing.claim_weights(run) as (run, init_checkpoint),
    run.placement.together(),
  ):
    carry_out(run, init_checkpoint)


def carry_out(run, init_checkpoint):
  """Trains, evaluates, predicts, exports and answers as far as asked for."""
  if not run.placement.is_chief:
    assist(run, init_checkpoint)
    return
  lines = []
  if run.options.run.reads_data:
    run, lines = compute_splits(run, init_checkpoint)
  lines += uses.write_exports(run, init_checkpoint, make_model_fn)
  for line in lines:
    logging.info("%s", line)
  if run.options.run.answers:
    uses.answer(run, init_checkpoint, make_model_fn)


def train_on(estimator, run):
  """Trains what is left to be trained, if that is asked for.

  Returns:
    The run, {split: results of the last step} of evaluations that were made,
    and the list of what to say at the end.
  """
  if not run.options.run.do_train:
    return run, {}, []
  was_finished = run.is_finished
  run, results = selection.catch_up(
    run, functools.partial(run_evaluation, estimator, run, "dev")
  )
  if not was_finished and not selection.share_end(run, run.record):
    results = train(estimator, run)
    return run, {"dev": results}, [selection.conclude(run)]
  return run, {"dev": results}, advice.conclude_without_training(run, results)


def compute_splits(run, init_checkpoint):
  """Trains, evaluates, predicts and embeds.

  Returns:
    The run, calibrated if that was asked for, and the list of what to say at
    the end.
  """
  collector = evaluation.Collector(
    run.task.target,
    run.task.metrics,
    run.options.inference.eval_batch_size,
    run.options.model.stride and run.options.model.window_pooling,
  )
  model_fn = make_model_fn(run, init_checkpoint, run.placement, collector)
  estimator = make_estimator(run, model_fn)
  run, known, last_lines = train_on(estimator, run)
  if run.options.run.do_train and run.options.run.use_best:
    run, known = calibration.apply(selection.choose_weights(run)), {}
    collector.target = run.task.target
  for split in run.splits("dev"):
    path, results = evaluate(estimator, run, split, known.get(split))
    evaluated = collector.join_batches()
    evaluation.warn_of_one_answer(run.task.target, evaluated)
    weights, _ = sharing.find_weights_in_use(run)
    if run.options.inference.calibrate and split == "dev":
      run, results = calibration.calibrate(run, collector, weights, results)
    last_lines.append(evaluation.describe_results(split, results, path))
    if run.options.inference.eval_report:
      page = report.write_of_run(run, split, results, evaluated, weights)
      last_lines.append(f"{split}: report: {page}")
  if run.options.run.do_predict:
    last_lines += predict(estimator, run, run.splits("test"))
  if run.options.run.do_embed:
    estimator = make_estimator(
      run, embeddings.model_fn_builder(run, init_checkpoint)
    )
    last_lines += predict(estimator, run, run.splits("test"), embeddings)
  return run, last_lines


def parse_flags(argv):
  """Reads the command line; a mistake ends the program with a sentence."""
  return options.parse_flags(argv, manual=__doc__)


if __name__ == "__main__":
  app.run(main, flags_parser=lambda _: _WORDS)
else:
  _end_import()
