"""Metrics of an evaluation, and the file of its results.

An evaluation collects what it computes of every example. The metrics are
computed from that, by scikit-learn, when the last batch is done: they are
results of the Estimator like any other, for its log, for TensorBoard and for
exporters.
"""

from typing import NamedTuple

from absl import logging
import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import (
  files,
  output_dir,
  windows,
)
from bert_classifier.errors import UserError
from bert_classifier.metrics import METRICS, UndefinedError, measure
from bert_classifier.records import NUM_WINDOWS
import estimator_bridge  # noqa: F401 - tf.estimator

# The result that is written as `loss`, of which name the Estimator has its own.
MEAN_OF_BATCHES = "mean_of_batches"
# Share of the predictions from which on they are nearly all of one class, and
# the least number of examples that this is said of.
_NEARLY_ALL, _LEAST_EXAMPLES = 0.98, 20


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
    pooling: of the logits of a text's windows, see `windows.pool`; None where
      no text is cut into windows.
  """

  def __init__(self, target, metrics=(), loss_batch_size=8, pooling=None):
    self.target, self._pooling = target, pooling
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
      judge(self.target, self.join_batches())

  def change_target(self, target):
    """Goes on with another target; returns the metrics that it gives.

    Args:
      target: that of before, with other probabilities.

    Returns:
      Dictionary by the names of results.
    """
    self.target = target
    results = compute_results(
      self.join_batches(), target, self._metrics, self._loss_batch_size
    )
    return {
      f"eval_{name}": results[name] for name in self._metrics if name in results
    }

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
    tensors = [losses, logits, labels, real]
    if self._pooling:
      tensors.append(features[NUM_WINDOWS])
    return self._metric_fn, tensors

  def _metric_fn(self, *tensors):
    """Returns {name: (value, update)}; the tensors are those of `add`.

    A value that is undefined is an empty tensor, which the Estimator writes
    nowhere as a number, and `tidy_results` leaves out. The mean of batches is
    <float32>[1] for the same reason: TensorBoard need not show it.
    """
    names = [f"eval_{name}" for name in ("loss", *self._metrics)]
    names.append(MEAN_OF_BATCHES)
    update = tf.numpy_function(self.add, tensors, tf.float32)
    *values, mean = tf.numpy_function(
      self.compute, [], [tf.float32] * len(names)
    )
    values.append(tf.reshape(mean, [1]))
    return {name: (value, update) for name, value in zip(names, values)}

  def add(self, losses, logits, labels, is_real_example, *num_windows):
    """Adds a batch, less the examples that only fill it up; returns 0.

    Args:
      losses: <float32>[B].
      logits: <float32>[B, width].
      labels: [B] or [B, ...].
      is_real_example: <int32>[B].
      num_windows: <int32>[B], of the text of each, where there are windows.
    """
    real = is_real_example != 0
    columns = losses, logits, labels, *num_windows
    self._batches.append([column[real] for column in columns])
    return np.float32(0)

  def join_batches(self):
    """Returns the `Evaluated` of all batches so far, of texts in windows, too.

    The loss of such a text is that of its pooled logits.
    """
    columns = list(map(np.concatenate, zip(*self._batches)))
    if not self._pooling:
      return Evaluated(*columns)
    losses, logits, labels, num_windows = columns
    starts = windows.find_starts(num_windows)
    several = num_windows[starts] > 1
    logits = windows.pool(logits, starts, self._pooling)
    losses, labels = losses[starts], labels[starts]
    losses[several] = self.target.losses(logits[several], labels[several])
    return Evaluated(losses, logits, labels)

  def compute(self):
    """Returns the results in the order of `_metric_fn`.

    Each is <float32>[], or <float32>[0] where it is undefined.
    """
    results = compute_results(
      self.join_batches(), self.target, self._metrics, self._loss_batch_size
    )
    undefined = np.zeros([0], np.float32)
    names = ("loss", *self._metrics, MEAN_OF_BATCHES)
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
  results = {"loss": mean, MEAN_OF_BATCHES: mean_of_batches}
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


def judge(target, evaluated):
  """Logs what is right beside what one answer for all gives.

  Args:
    target: see `targets`.
    evaluated: `Evaluated`.
  """
  if not np.isfinite(evaluated.logits).all():
    return  # `check_finite` says so, and nothing is decided
  decided = target.decide(evaluated.logits)
  logging.info("%s", target.judge(evaluated.labels, decided))


def warn_of_one_answer(target, evaluated):
  """Warns where nearly all predictions are of one class, and the labels not.

  For the end: on the way, when training begins, it is often so.

  Args:
    target: see `targets`.
    evaluated: `Evaluated` of numbers that are finite.
  """
  labels, decided = evaluated.labels, target.decide(evaluated.logits)
  there_are = target.count_classes(labels)
  if there_are and max(there_are.values()) < _NEARLY_ALL * len(labels):
    warn_of_one_class(target.count_classes(decided))


def warn_of_one_class(predicted):
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
# Results


def tidy_results(results):
  """Returns results as they are written: `loss` is the mean over batches.

  Those that are undefined are left out.

  Args:
    results: what `estimator.evaluate` returns.
  """
  results = {key: results[key] for key in results if np.size(results[key])}
  if MEAN_OF_BATCHES in results:
    (results["loss"],) = results.pop(MEAN_OF_BATCHES)
  return results


def format_results(results):
  """Returns sorted lines `key = value`; numbers as `str` prints a float32."""
  # An f-string would print the digits of a double.
  return [f"{key} = {results[key]!s}" for key in sorted(results)]


def read_results(path):
  """Returns {name: text of the number} of a file of `format_results`."""
  lines = files.read_text(path).splitlines()
  return dict(line.split(" = ", 1) for line in lines if " = " in line)


def describe_results(split, results, path):
  """Returns the results of a split and where they are, in a line."""
  line = ", ".join(format_results(results)).replace(" = ", " ")
  return f"{split}: {line}: {path}"


def log_results(results):
  """Writes results to the log."""
  for line in format_results(results):
    logging.info("  %s", line)


def inference_spec(make_spec, mode, model, features, collector):
  """Returns the TPUEstimatorSpec of an evaluation or a prediction.

  Args:
    make_spec: function that makes it of what it has beside the mode.
    mode: of `tf.estimator.ModeKeys`, EVAL or PREDICT.
    model: `modeling.BertForSequenceClassification`.
    features: dictionary of the batch.
    collector: `Collector`.
  """
  logits = model.logits(features)
  if mode == tf.estimator.ModeKeys.PREDICT:
    outputs = collector.target.outputs(logits)
    return make_spec(predictions=windows.keep_number(features, outputs))
  losses = collector.target.per_example_loss(logits, features)
  return make_spec(
    loss=tf.reduce_mean(losses),
    eval_metrics=collector.eval_metrics(losses, logits, features),
    evaluation_hooks=[collector],
  )


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
      f"eval_loss is {results['eval_loss']}: {explain_no_use(checkpoint)}"
    )


def explain_no_use(checkpoint):
  """Returns a sentence on weights that give numbers that are not finite."""
  return (
    f"the weights of {checkpoint} give numbers that are not finite. Take other"
    " weights, or if they were trained here, train from the start with a lower"
    " --learning_rate (--overwrite_output_dir)"
  )
