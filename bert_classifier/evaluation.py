"""Metrics of an evaluation, and the files of results and predictions.

An evaluation collects what it computes of every example. The metrics are
computed from that, by scikit-learn, when the last batch is done: they are
results of the Estimator like any other, for its log, for TensorBoard and for
exporters.
"""

import collections
import contextlib
import datetime
from typing import NamedTuple

from absl import logging
import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import files, output_dir, plain_texts
from bert_classifier.errors import UserError, describe
import estimator_bridge  # noqa: F401 - tf.estimator


class Evaluated(NamedTuple):
  """What an evaluation computed of n examples, in the order of their file.

  Attributes:
    losses: <float32>[n].
    logits: <float32>[n, width of the target].
    labels: the target's label feature, [n] or [n, ...].
  """

  losses: np.ndarray
  logits: np.ndarray
  labels: np.ndarray


class Collector(tf.train.SessionRunHook):
  """Collects what an evaluation computes and computes the metrics from it.

  As a hook of the evaluation it begins anew with each session.

  Args:
    target: see `targets`.
    metrics: names in `METRICS` beside those of the target.
    loss_batch_size: examples of a batch as `loss` sees it.
  """

  def __init__(self, target, metrics=(), loss_batch_size=8):
    self.target = target
    self._metrics = tuple(dict.fromkeys((*target.metrics, *metrics)))
    self._loss_batch_size = loss_batch_size
    self._batches = []

  def after_create_session(self, session, coord):
    del session, coord
    self._batches = []

  def end(self, session):
    """Logs what the accuracy is to be held against."""
    del session
    if self._batches:
      _, logits, labels = self.evaluated()
      _judge_accuracy(self.target, labels, self.target.decide(logits))

  def eval_metrics(self, losses, logits, features):
    """Returns the metric_fn and its tensors for TPUEstimatorSpec.

    Args:
      losses: <float32>[B].
      logits: <float32>[B, width of the target].
      features: dictionary of the batch; without `is_real_example` all are real.
    """
    real = features.get("is_real_example")
    if real is None:
      real = tf.ones(tf.shape(losses), tf.int32)
    labels = features[self.target.label_feature]
    return self._metric_fn, [losses, logits, labels, real]

  def _metric_fn(self, *tensors):
    """Returns {name: (value, update)}; the tensors are those of `add`."""
    names = ["eval_loss", _MEAN_OF_BATCHES]
    names += [f"eval_{name}" for name in self._metrics]
    update = tf.numpy_function(self.add, tensors, tf.float32)
    values = tf.numpy_function(self.compute, [], tf.float32)
    values = tf.unstack(tf.ensure_shape(values, [len(names)]))
    return {name: (value, update) for name, value in zip(names, values)}

  def add(self, losses, logits, labels, is_real_example):
    """Adds a batch, less the examples that only fill it up; returns 0.

    Args:
      losses: <float32>[B].
      logits: <float32>[B, width].
      labels: [B] or [B, ...].
      is_real_example: <int32>[B].
    """
    real = is_real_example != 0
    self._batches.append((losses[real], logits[real], labels[real]))
    return np.float32(0)

  def evaluated(self):
    """Returns the `Evaluated` of all batches so far."""
    return Evaluated(*map(np.concatenate, zip(*self._batches)))

  def compute(self):
    """Returns both losses, see `mean_losses`, and the metrics: <float32>[n]."""
    losses, logits, labels = self.evaluated()
    values = mean_losses(losses, self._loss_batch_size)
    decided = self.target.decide(logits)
    values += [METRICS[name](labels, decided) for name in self._metrics]
    return np.float32(values)


# Share of the predictions from which on they are nearly all of one class, and
# the least number of examples that this is said of.
_NEARLY_ALL, _LEAST_EXAMPLES = 0.98, 20


def _judge_accuracy(target, labels, decided):
  """Logs the majority's share, and warns where one class is predicted.

  Args:
    target: see `targets`.
    labels: [n] or [n, ...], of the target's label feature.
    decided: what the target decided, as `labels`.
  """
  there_are = target.count_classes(labels)
  if not there_are:
    return
  number = sum(there_are.values())
  ((majority, count),) = there_are.most_common(1)
  logging.info(
    "accuracy %.4f of %s; to predict %r for all of them gives %.4f",
    accuracy(labels, decided),
    plain_texts.count(number),
    majority,
    count / number,
  )
  if count < _NEARLY_ALL * number:
    _warn_of_one_class(target.count_classes(decided))


def _warn_of_one_class(predicted):
  """Warns where nearly all predictions are of one class.

  Args:
    predicted: Counter of labels.
  """
  number = sum(predicted.values())
  if number < _LEAST_EXAMPLES:
    return
  ((label, count),) = predicted.most_common(1)
  if count >= _NEARLY_ALL * number:
    logging.warning(
      "%d of %d predictions are %r: the model hardly tells the classes apart."
      " Likely causes: too few steps of training or too high a --learning_rate;"
      " weights that were not loaded (see the log of --init_checkpoint); a"
      " column that is not the text's; labels that do not belong to the texts",
      count,
      number,
      label,
    )


# The Estimator has a result of its own that is named `loss`.
_MEAN_OF_BATCHES = "mean_of_batches"


def mean_losses(losses, batch_size):
  """Returns the mean of all losses, and the mean of the means of batches.

  Args:
    losses: <float32>[n].
    batch_size: examples of a batch; the last one may have fewer.
  """
  starts = np.arange(0, len(losses), batch_size)
  sums = np.add.reduceat(losses, starts, dtype=np.float64)
  sizes = np.diff([*starts, len(losses)])
  return [np.mean(losses, dtype=np.float64), np.mean(sums / sizes)]


# ---------------------------------------------------------------------------
# Metrics: functions of labels and decisions, both as the target has them


def accuracy(labels, decided):
  """Returns the share of examples whose class is the right one."""
  from sklearn import metrics

  return metrics.accuracy_score(labels, decided)


def matthews_correlation(labels, decided):
  """Returns Matthews' coefficient for any number of classes; 0 if undefined.

  Gorodkin's R_K (https://doi.org/10.1016/j.compbiolchem.2004.09.006), which
  for two classes is the phi coefficient.
  """
  from sklearn import metrics

  if len(set(labels)) < 2 or len(set(decided)) < 2:
    return 0.0  # scikit-learn returns the same, with a warning
  return metrics.matthews_corrcoef(labels, decided)


def f1(labels, decided):
  """Returns the F1 of the class with id 1; 0 if undefined."""
  from sklearn import metrics

  return metrics.f1_score(labels == 1, decided == 1, zero_division=0)


METRICS = {
  "accuracy": accuracy,
  "matthews_correlation": matthews_correlation,
  "f1": f1,
}


def check_metric(name, owner):
  """Raises a UserError where a task names a metric that there is not."""
  if name is not None and name not in METRICS:
    raise UserError(
      f"the metric of {owner} is {name!r}, but must be None or one of"
      f" {', '.join(METRICS)}{plain_texts.suggest(name, METRICS)}"
    )


# ---------------------------------------------------------------------------
# Results and predictions


def tidy_results(results):
  """Returns results as they are written: `loss` is the mean over batches.

  Args:
    results: what `estimator.evaluate` returns.
  """
  results = dict(results)
  if _MEAN_OF_BATCHES in results:
    results["loss"] = results.pop(_MEAN_OF_BATCHES)
  return results


def format_results(results):
  """Returns sorted lines `key = value`; numbers as `str` prints a float32."""
  # An f-string would print the digits of a double.
  return [f"{key} = {results[key]!s}" for key in sorted(results)]


def log_results(results):
  """Writes results to the log."""
  for line in format_results(results):
    logging.info("  %s", line)


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
      log_results(tidy_results(eval_result))


def write_results(folder, split, results):
  """Writes and logs the results of a split; returns the path of their file."""
  path = output_dir.results_path(folder, split)
  files.write_text(path, (f"{line}\n" for line in format_results(results)))
  logging.info("results of %s, in %s:", split, path)
  log_results(results)
  return path


def check_finite(results, checkpoint):
  """Raises a UserError where the loss of an evaluation is not finite."""
  if not np.isfinite(results["eval_loss"]):
    raise UserError(
      f"eval_loss is {results['eval_loss']}: {_explain_no_use(checkpoint)}"
    )


def _explain_no_use(checkpoint):
  return (
    f"the weights of {checkpoint} give numbers that are not finite. Train from"
    " the start with a lower --learning_rate (--overwrite_output_dir), or take"
    " another checkpoint"
  )


def split_batches(batches, checkpoint, counter):
  """Yields the outputs of each example, and counts them.

  Args:
    batches: iterable of dictionaries of arrays, each [B, ...].
    checkpoint: path of the weights, for the error.
    counter: `progress.Counter`.

  Raises:
    UserError: a number is not finite.
  """
  for batch in batches:
    if not all(np.isfinite(values).all() for values in batch.values()):
      raise UserError(f"there is no prediction: {_explain_no_use(checkpoint)}")
    count = len(next(iter(batch.values())))
    counter.add(count)
    for i in range(count):
      yield {name: values[i] for name, values in batch.items()}


class TextsGoneError(UserError):
  """The texts cannot be read again as they were when they were converted."""


def write_predictions(folder, split, examples, outputs, target):
  """Writes the predictions of a test set, example by example in its order.

  test_results.tsv gets the numbers of the target, separated by tabs, and
  nothing else; test_predictions.tsv has a header and says what was predicted of
  what. Both are written whole or not at all. Where the texts cannot be read
  again as they were when they were converted, the first is written all the
  same, and of the second none stays, nor an earlier one.

  Args:
    folder: output_dir.
    split: "test", or a second test set.
    examples: iterable of `tasks.InputExample`, which raises a UserError where
      they are not those that were converted.
    outputs: iterable of what was predicted of each, a dictionary of arrays.
    target: see `targets`.

  Returns:
    The two paths.

  Raises:
    TextsGoneError: the texts cannot be read again.
  """
  paths = output_dir.prediction_paths(folder, split)
  results_path, predictions_path = paths
  predicted = collections.Counter()
  with _open_table(results_path) as write_result:

    def write_and_pass_on():
      for output in outputs:
        predicted[target.predicted_label(output)] += 1
        write_result(target.result_cells(output))
        yield output

    passed_on = write_and_pass_on()
    gone = None
    try:
      with _open_table(predictions_path) as write_prediction:
        for cells in _predictions(_guard(examples), passed_on, target):
          write_prediction(cells)
    except TextsGoneError as error:
      gone = error
      for _ in passed_on:  # the rest of the results
        pass
  if target.labels:
    _warn_of_one_class(predicted)
  if gone:
    if tf.io.gfile.exists(predictions_path):
      tf.io.gfile.remove(predictions_path)
    raise gone
  return paths


def announce_replacement(paths):
  """Warns that files of an earlier command will be replaced.

  Args:
    paths: of files that may be there.
  """
  for path in filter(tf.io.gfile.exists, paths):
    written = tf.io.gfile.stat(path).mtime_nsec / 1e9
    when = datetime.datetime.fromtimestamp(written).isoformat(" ", "seconds")
    logging.warning(
      "%s of an earlier command, written at %s, will be replaced", path, when
    )


def _guard(examples):
  """Yields the examples; an error in reading them becomes a TextsGoneError."""
  try:
    yield from examples
  except Exception as error:
    sentence = describe(error)
    if sentence is None:
      raise
    raise TextsGoneError(sentence) from error


def _predictions(examples, outputs, target):
  """Yields the header and the cells of each prediction."""
  number = 0
  for number, output in enumerate(outputs, 1):
    example = next(examples, None)
    if example is None:
      raise _miscounted(number - 1, "predictions")
    if number == 1:
      has_gold = example.gold is not None
      yield ["id", "text_a", "text_b", *["gold"] * has_gold] + (
        target.prediction_header()
      )
    yield [
      example.guid if example.row_id is None else example.row_id,
      example.text_a,
      example.text_b or "",
      *[example.gold] * has_gold,
      *target.prediction_cells(output),
    ]
  if next(examples, None) is not None:
    raise _miscounted(number, "examples")


def _miscounted(number, more):
  return TextsGoneError(
    f"the test set has other examples than were predicted: after {number} there"
    f" are more {more}. Did its file change meanwhile? Give the same command"
    " again"
  )


@contextlib.contextmanager
def _open_table(path):
  """Gives a function that writes a list of cells as a line of a TSV file."""
  with (
    files.atomic_write(path) as temporary,
    tf.io.gfile.GFile(temporary, "w") as writer,
  ):

    def write(cells):
      writer.write("\t".join(map(_clean_cell, cells)) + "\n")

    yield write


def _clean_cell(text):
  """Returns text without what would end a cell or a line."""
  return " ".join(str(text).splitlines()).replace("\t", " ")
