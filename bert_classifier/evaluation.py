"""Metrics, and the files of results and predictions.

The metrics are made in the graph, a batch at a time, so that evaluation needs
no memory for the set, and runs on the host of a TPU as well.
"""

import contextlib
import itertools

import tensorflow.compat.v1 as tf

from bert_classifier import files


def metric_fn(
  per_example_loss,
  label_ids,
  logits,
  is_real_example,
  *,
  num_labels,
  metric=None,
  loss_rows=None,
):
  """The metrics of a classifier, in the form that EstimatorSpec takes.

  Args:
    per_example_loss: <float32>[B].
    label_ids: <int32>[B].
    logits: <float32>[B, L].
    is_real_example: <int32>[B], 0 for rows that only fill a batch; they count
      for nothing.
    num_labels: L.
    metric: a key of `METRICS`, or None.
    loss_rows: the rows of a batch as `loss` sees it, a divisor of B save in
      the last batch. None: `loss` is not among the metrics.

  Returns:
    Dictionary of pairs (value, update): `eval_accuracy`, `eval_loss`, which
    weighs examples, the task's own, and `mean_of_batches` for `loss`, the mean
    of the means of `loss_rows` rows.
  """
  predictions = tf.argmax(logits, axis=-1, output_type=tf.int32)  # [B]
  weights = tf.cast(is_real_example, tf.float32)  # [B]
  metrics = {
    "eval_accuracy": tf.metrics.accuracy(label_ids, predictions, weights),
    "eval_loss": tf.metrics.mean(per_example_loss, weights),
  }
  if loss_rows:
    batch = tf.range(tf.size(per_example_loss)) // loss_rows  # [B]
    means = tf.math.segment_mean(per_example_loss, batch)  # [B / loss_rows]
    metrics["mean_of_batches"] = tf.metrics.mean(means)
  if metric:
    confusion, update = confusion_matrix(
      label_ids, predictions, weights, num_labels
    )
    value = tf.cast(METRICS[metric](confusion), tf.float32)
    metrics[f"eval_{metric}"] = value, update
  return metrics


def confusion_matrix(label_ids, predictions, weights, num_labels):
  """Counts of (label, prediction) over all batches.

  Args:
    label_ids, predictions: <int32>[B].
    weights: <float32>[B].
    num_labels: L.

  Returns:
    <float64>[L, L], labels down and predictions across, and its update.
  """
  total = tf.Variable(
    # A function, for on a TPU's host this runs inside a loop of the graph.
    lambda: tf.zeros([num_labels, num_labels], tf.float64),
    trainable=False,
    collections=[tf.GraphKeys.LOCAL_VARIABLES, tf.GraphKeys.METRIC_VARIABLES],
    name="confusion_matrix",
    use_resource=True,
    synchronization=tf.VariableSynchronization.ON_READ,
    aggregation=tf.VariableAggregation.SUM,
  )
  batch = tf.math.confusion_matrix(
    label_ids, predictions, num_labels, tf.float64, weights=weights
  )
  return total.read_value(), total.assign_add(batch)


def matthews_correlation(confusion):
  """Matthews' coefficient, for any number of classes; 0 where undefined.

  Gorodkin's R_K (https://doi.org/10.1016/j.compbiolchem.2004.09.006), which
  for two classes is the phi coefficient.

  Args:
    confusion: <float64>[L, L], labels down and predictions across.

  Returns:
    <float64>[], in [-1, 1].
  """
  count = tf.reduce_sum(confusion)
  correct = tf.linalg.trace(confusion)
  labels = tf.reduce_sum(confusion, axis=1)  # [L]
  predictions = tf.reduce_sum(confusion, axis=0)  # [L]
  covariance = correct * count - tf.reduce_sum(labels * predictions)
  spread = (count**2 - tf.reduce_sum(labels**2)) * (
    count**2 - tf.reduce_sum(predictions**2)
  )
  return tf.math.divide_no_nan(covariance, tf.sqrt(spread))


def f1(confusion):
  """F1 of the class with id 1: <float64>[] in [0, 1]; 0 where undefined.

  Args:
    confusion: <float64>[L, L], labels down and predictions across.
  """
  hits = confusion[1, 1]
  labels = tf.reduce_sum(confusion[1, :])
  predictions = tf.reduce_sum(confusion[:, 1])
  return tf.math.divide_no_nan(2.0 * hits, labels + predictions)


METRICS = {"matthews_correlation": matthews_correlation, "f1": f1}


def tidy_results(results):
  """Results as they are written: `loss` is the mean over batches of rows.

  Args:
    results: what `estimator.evaluate` gives.
  """
  results = dict(results)
  if "mean_of_batches" in results:
    results["loss"] = results.pop("mean_of_batches")
  return results


def write_results(path, results):
  """Writes sorted lines `key = value`; numbers as `str` prints a float32."""
  lines = (f"{key} = {results[key]!s}\n" for key in sorted(results))
  files.write_text(path, lines)


def write_predictions(
  examples, probabilities, labels, results_path, predictions_path
):
  """Writes the predictions of a test set, row by row in its order.

  `results_path` gets the probabilities of the classes, separated by tabs, and
  nothing else; `predictions_path` has a header and says what was predicted of
  what. Both appear whole or not at all.

  Args:
    examples: iterable of `tasks.InputExample`.
    probabilities: iterable of <float32>[L], one for each example.
    labels: the labels, in the order of their ids.

  Raises:
    OSError: there are more or fewer predictions than rows.
  """
  examples = iter(examples)
  first = next(examples, None)
  has_gold = first is not None and first.gold is not None
  header = ["id", "text_a", "text_b", *["gold"] * has_gold, "label"]
  header += ["probability", *(f"probability_{label}" for label in labels)]
  with contextlib.ExitStack() as stack:
    results, predictions = (
      stack.enter_context(
        tf.io.gfile.GFile(stack.enter_context(files.atomic_write(path)), "w")
      )
      for path in (results_path, predictions_path)
    )
    predictions.write("\t".join(header) + "\n")
    pairs = itertools.zip_longest(
      itertools.chain([first], examples), probabilities
    )
    for number, (example, row) in enumerate(pairs):
      if example is None or row is None:
        raise OSError(
          f"{number} rows were read of the test set and predicted, then one of"
          " the two had more: did its file change meanwhile?"
        )
      printed = [str(probability) for probability in row]
      results.write("\t".join(printed) + "\n")
      best = row.argmax()
      cells = [
        example.guid if example.row_id is None else example.row_id,
        example.text_a,
        example.text_b or "",
        *[example.gold] * has_gold,
        labels[best],
        printed[best],
        *printed,
      ]
      predictions.write("\t".join(map(_cell, cells)) + "\n")


def _cell(text):
  """Text without what would end a cell or a row."""
  return " ".join(str(text).splitlines()).replace("\t", " ")
