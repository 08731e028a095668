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

from bert_classifier import files, history, output_dir
from bert_classifier.errors import UserError, describe
from bert_classifier.metrics import METRICS, UndefinedError, measure
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
    metrics: names in `metrics.METRICS` beside those of the target.
    loss_batch_size: examples of a batch as `loss` sees it.
  """

  def __init__(self, target, metrics=(), loss_batch_size=8):
    self.target = target
    self._metrics = list_metrics(target, metrics)
    self._loss_batch_size = loss_batch_size
    self._batches = []

  def after_create_session(self, session, coord):
    del session, coord
    self._batches = []

  def end(self, session):
    """Logs what the results are to be held against."""
    del session
    if self._batches:
      judge(self.target, self.evaluated())

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
    """Returns {name: (value, update)}; the tensors are those of `add`.

    A value that is undefined is an empty tensor, which the Estimator writes
    nowhere as a number, and `tidy_results` leaves out. The mean of batches is
    <float32>[1] for the same reason: TensorBoard need not show it.
    """
    names = [f"eval_{name}" for name in ("loss", *self._metrics)]
    names.append(_MEAN_OF_BATCHES)
    update = tf.numpy_function(self.add, tensors, tf.float32)
    *values, mean = tf.numpy_function(
      self.compute, [], [tf.float32] * len(names)
    )
    values.append(tf.reshape(mean, [1]))
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
    """Returns the results in the order of `_metric_fn`.

    Each is <float32>[], or <float32>[0] where it is undefined.
    """
    results = compute_results(
      self.evaluated(), self.target, self._metrics, self._loss_batch_size
    )
    undefined = np.zeros([0], np.float32)
    names = ("loss", *self._metrics, _MEAN_OF_BATCHES)
    return [results.get(name, undefined) for name in names]


def list_metrics(target, metrics):
  """Returns the names of a target's metrics and of others, each once."""
  return tuple(dict.fromkeys((*target.metrics, *metrics)))


def compute_results(evaluated, target, metrics, loss_batch_size):
  """Returns losses and metrics by their names, each np.float32.

  A metric that is undefined is left out, and the log says why.

  Args:
    evaluated: `Evaluated` of one example or more.
    target: see `targets`.
    metrics: names in `metrics.METRICS`.
    loss_batch_size: see `mean_losses`.
  """
  losses, logits, labels = evaluated
  mean, mean_of_batches = mean_losses(losses, loss_batch_size)
  results = {"loss": mean, _MEAN_OF_BATCHES: mean_of_batches}
  decided, scores = target.decide(logits), target.scores(logits)
  for name in metrics:
    try:
      results[name] = measure(name, labels, decided, scores)
    except UndefinedError as error:
      logging.warning("%s is undefined and left out: %s", name, error)
      continue
    reason = METRICS[name].explain_zero(labels, decided)
    if reason:
      logging.warning("%s is undefined and counts as 0: %s", name, reason)
  return {name: np.float32(value) for name, value in results.items()}


# Share of the predictions from which on they are nearly all of one class, and
# the least number of examples that this is said of.
_NEARLY_ALL, _LEAST_EXAMPLES = 0.98, 20


def judge(target, evaluated):
  """Logs what one answer for all gives, and warns where it is the prediction.

  Args:
    target: see `targets`.
    evaluated: `Evaluated`.
  """
  labels, decided = evaluated.labels, target.decide(evaluated.logits)
  logging.info("%s", target.judge(labels, decided))
  there_are = target.count_classes(labels)
  if there_are and max(there_are.values()) < _NEARLY_ALL * len(labels):
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
# Results and predictions


def tidy_results(results):
  """Returns results as they are written: `loss` is the mean over batches.

  Those that are undefined are left out.

  Args:
    results: what `estimator.evaluate` returns.
  """
  results = {key: results[key] for key in results if np.size(results[key])}
  if _MEAN_OF_BATCHES in results:
    (results["loss"],) = results.pop(_MEAN_OF_BATCHES)
  return results


def format_results(results):
  """Returns sorted lines `key = value`; numbers as `str` prints a float32."""
  # An f-string would print the digits of a double.
  return [f"{key} = {results[key]!s}" for key in sorted(results)]


def describe_results(split, results, path):
  """Returns the results of a split and where they are, in a line."""
  line = ", ".join(format_results(results)).replace(" = ", " ")
  return f"{split}: {line}: {path}"


def log_results(results):
  """Writes results to the log."""
  for line in format_results(results):
    logging.info("  %s", line)


class IntermediateResults(tf.estimator.Exporter):
  """Logs every evaluation that training makes on its way, and keeps it.

  Args:
    history_path: file of the run's history.
    split: what is evaluated.
  """

  name = "results"

  def __init__(self, history_path, split):
    self._history_path, self._split = history_path, split

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
      results = tidy_results(eval_result)
      log_results(results)
      history.add_evaluation(self._history_path, self._split, results)


def write_results(folder, split, results, weights=None):
  """Writes and logs the results of a split; returns the path of their file.

  Args:
    folder: output_dir.
    split: of dev, or of test where it has true labels.
    results: dictionary; where it is empty, there is no file, and an earlier one
      is removed.
    weights: path of the weights that they are of, where there are any.
  """
  path = output_dir.results_path(folder, split)
  if not results:
    if tf.io.gfile.exists(path):
      tf.io.gfile.remove(path)
    return path
  files.write_text(path, (f"{line}\n" for line in format_results(results)))
  logging.info("results of %s with %s, in %s:", split, weights, path)
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
    f"the weights of {checkpoint} give numbers that are not finite. Take other"
    " weights, or if they were trained here, train from the start with a lower"
    " --learning_rate (--overwrite_output_dir)"
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
    outputs = split_outputs(batch, checkpoint)
    counter.add(len(outputs))
    yield from outputs


def split_outputs(batch, checkpoint):
  """Returns the list of the outputs of each example, dictionaries of arrays.

  Args:
    batch: dictionary of arrays, each [B, ...].
    checkpoint: path of the weights, for the error.

  Raises:
    UserError: a number is not finite.
  """
  if not all(np.isfinite(values).all() for values in batch.values()):
    raise UserError(f"there is no prediction: {_explain_no_use(checkpoint)}")
  count = len(next(iter(batch.values())))
  return [
    {name: values[i] for name, values in batch.items()} for i in range(count)
  ]


class TrueLabels:
  """Collects the true labels that a test set gives, and the logits beside them.

  Args:
    target: see `targets`.
  """

  def __init__(self, target):
    self._target = target
    self._values, self._logits = [], []
    self._others = collections.Counter()

  def add(self, gold, output):
    """Adds an example.

    Args:
      gold: text of its true label; None where the set has none.
      output: dictionary with `logits` <float32>[width of the target].
    """
    if gold is None:
      return
    try:
      value = self._target.encode(gold)
    except ValueError:
      self._others[str(gold)] += 1
      return
    self._values.append(value)
    self._logits.append(output["logits"])

  def evaluated(self):
    """Returns the `Evaluated` of the examples with a true label."""
    logits = np.float32(self._logits).reshape(-1, self._target.width)
    labels = np.array(self._values)
    if labels.dtype == np.float64:
      labels = np.float32(labels)
    return Evaluated(self._target.losses(logits, labels), logits, labels)

  def measure(self, metrics, loss_batch_size):
    """Returns the results `test_...` and `loss`, and logs what they are worth.

    {} where no example has a true label.

    Args:
      metrics: names in `metrics.METRICS` beside those of the target.
      loss_batch_size: see `mean_losses`.
    """
    others = sum(self._others.values())
    if others:
      logging.warning(
        "%d of %d true labels of the test set are none of the task's, such as"
        " %r: these examples are predicted, but not measured",
        others,
        others + len(self._values),
        self._others.most_common(1)[0][0],
      )
    if not self._values:
      return {}
    evaluated = self.evaluated()
    decided = self._target.decide(evaluated.logits)
    logging.info("%s", self._target.judge(evaluated.labels, decided))
    results = compute_results(
      evaluated,
      self._target,
      list_metrics(self._target, metrics),
      loss_batch_size,
    )
    loss = results.pop(_MEAN_OF_BATCHES)
    return {
      **{f"test_{name}": value for name, value in results.items()},
      "loss": loss,
    }


class TextsGoneError(UserError):
  """The texts cannot be read again as they were when they were converted."""


def write_predictions(folder, split, examples, outputs, target, *, truth=None):
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
    truth: `TrueLabels` that collects those of the examples, or None.

  Returns:
    The two paths.

  Raises:
    TextsGoneError: the texts cannot be read again.
  """
  paths = output_dir.prediction_paths(folder, split)
  results_path, predictions_path = paths
  predicted = collections.Counter()
  with open_table(results_path) as write_result:

    def write_and_pass_on():
      for output in outputs:
        predicted[target.predicted_label(output)] += 1
        write_result(target.result_cells(output))
        yield output

    passed_on = write_and_pass_on()
    gone = None
    try:
      with open_table(predictions_path) as write_prediction:
        for cells in _predictions(_guard(examples), passed_on, target, truth):
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


def _predictions(examples, outputs, target, truth):
  """Yields the header and the cells of each prediction; fills `truth`."""
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
    if truth is not None:
      truth.add(example.gold, output)
    yield [
      example.guid if example.row_id is None else example.row_id,
      example.text_a,
      example.text_b or "",
      *[target.show_label(example.gold)] * has_gold,
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
def open_table(path):
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
