"""Predictions: what is written of a test set, and how good they were.

test_results.tsv and test_predictions.tsv, example by example in the order of
the set; the results of a test set that has true labels.
"""

import array
import collections
import itertools

from absl import logging
import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import (
  evaluation,
  files,
  output_dir,
  progress,
  submissions,
  windows,
)
from bert_classifier.errors import UserError, describe


def announce(run, splits):
  """Logs what will be predicted, and which files that replaces.

  Args:
    run: `preparation.Run`.
    splits: "test", or several test sets.
  """
  folder = run.options.run.output_dir
  for split in splits:
    files.announce_replacement(
      (
        *output_dir.prediction_paths(folder, split),
        output_dir.results_path(folder, split),
      )
    )
  progress.announce("predicting", run, *splits)


def write_of_run(run, splits, batches, weights, step):
  """Writes the predictions of test sets, and measures them where it can.

  Args:
    run: `preparation.Run`.
    splits: the test sets, in the order of their predictions.
    batches: iterable of dictionaries of arrays, each [B, ...].
    weights: path of the weights that predict.
    step: of the training that they are from.

  Returns:
    List of a line for each file or pair of files written.

  Raises:
    TextsGoneError: the texts of a split cannot be read again; the other splits
      are written.
    UserError: a number is not finite.
  """
  counter = progress.Counter(
    "predicted", run.count_records(*splits), run.options.model.unit
  )
  outputs = split_batches(batches, weights, counter)
  if run.options.model.stride:
    outputs = windows.pool_outputs(
      outputs, run.task.target, run.options.model.window_pooling
    )
  lines, gone = [], []
  for split in splits:
    try:
      lines += write_split(run, split, outputs, weights, step)
    except TextsGoneError as error:
      gone.append(error)
      folder = run.options.run.output_dir
      evaluation.write_results(folder, split, {})  # removes earlier ones
  collections.deque(outputs, maxlen=0)  # lets the session end properly
  logging.info("%s", counter)
  if gone:
    raise gone[0]
  return lines


def write_split(run, split, outputs, weights, step):
  """Writes the predictions of a split, and measures them where it can.

  Args:
    run: `preparation.Run`.
    split: the test set.
    outputs: iterable of the outputs of each example, dictionaries of arrays.
    weights: of what weights they are, for the log.
    step: of the training that they are from; None of several.

  Returns:
    List of lines on what was written.

  Raises:
    TextsGoneError: the texts cannot be read again.
  """
  folder, task = run.options.run.output_dir, run.task
  truth = TrueLabels(task.target)
  paths = write_predictions(
    folder,
    split,
    run.cache.converted_examples(split),
    itertools.islice(outputs, run.count(split)),
    task.target,
    truth=truth,
  )
  lines = [f"{split}: predictions: {' '.join(paths)}"]
  if run.options.inference.glue_submission:
    path = submissions.write_submission(folder, split, task.processor)
    lines.append(f"{split}: for GLUE: {path}")
  results = truth.measure(task.metrics, run.options.inference.eval_batch_size)
  if results and step is not None:
    results["global_step"] = step
  path = evaluation.write_results(folder, split, results, weights)
  if results:
    lines.append(evaluation.describe_results(split, results, path))
  return lines


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
    reason = evaluation.explain_no_use(checkpoint)
    raise UserError(f"there is no prediction: {reason}")
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
    # Numbers without an object for each: there may be millions.
    self._values, self._logits = [], array.array("f")
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
    self._logits.extend(np.ravel(output["logits"]).tolist())

  def evaluated(self):
    """Returns the `evaluation.Evaluated` of the examples with a true label."""
    logits = np.float32(self._logits).reshape(-1, self._target.width)
    labels = np.array(self._values)
    if labels.dtype == np.float64:
      labels = np.float32(labels)
    losses = self._target.losses(logits, labels)
    return evaluation.Evaluated(losses, logits, labels)

  def measure(self, metrics, loss_batch_size):
    """Returns the results `test_...` and `loss`, and logs what they are worth.

    {} where no example has a true label.

    Args:
      metrics: names in `metrics.METRICS` beside those of the target.
      loss_batch_size: see `evaluation.mean_losses`.
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
    results = evaluation.compute_results(
      evaluated,
      self._target,
      evaluation.list_metrics(self._target, metrics),
      loss_batch_size,
    )
    loss = results.pop(evaluation.MEAN_OF_BATCHES)
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
    examples: iterable of `examples.InputExample`, which raises a UserError
      where they are not those that were converted.
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
  with files.open_tsv(results_path) as write_result:

    def write_and_pass_on():
      for output in outputs:
        predicted[target.predicted_label(output)] += 1
        write_result(target.result_cells(output))
        yield output

    passed_on = write_and_pass_on()
    gone = None
    try:
      with files.open_tsv(predictions_path) as write_prediction:
        for cells in _predictions(_guard(examples), passed_on, target, truth):
          write_prediction(cells)
    except TextsGoneError as error:
      gone = error
      for _ in passed_on:  # the rest of the results
        pass
  if target.labels:
    evaluation.warn_of_one_class(predicted)
  if gone:
    if tf.io.gfile.exists(predictions_path):
      tf.io.gfile.remove(predictions_path)
    raise gone
  return paths


def find_id(example):
  """Returns the id of an `InputExample`: its row's own, else its guid."""
  return example.guid if example.row_id is None else example.row_id


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
      find_id(example),
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
