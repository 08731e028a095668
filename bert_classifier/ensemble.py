"""The predictions of several runs as one: the mean of their probabilities.

Of numbers, the mean of the numbers. The mean of the probabilities of networks
that differ in their seed alone is better calibrated, and mostly better, than
one of them (Lakshminarayanan et al. 2017, https://arxiv.org/abs/1612.01474).
"""

import contextlib
import os

from absl import logging
import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import files, output_dir, plain_texts, predictions


def write_mean(run, folders, steps):
  """Writes the mean of the predictions of runs into the run's output_dir.

  Args:
    run: `preparation.Run` with features of the test sets.
    folders: output_dir of each run.
    steps: of the weights of each. Where they differ, as those of the best may,
      the results are of no one step, and have no global_step.

  Returns:
    List of a line for each file or pair of files written.
  """
  lines, own = [], run.options.run.output_dir
  step = steps[0] if len(set(steps)) == 1 else None
  if step is None:
    logging.info(
      "the ensemble's weights are those of steps %s, in the order of the seeds",
      ", ".join(map(str, steps)),
    )
  for split in run.splits("test"):
    files.announce_replacement(output_dir.prediction_paths(own, split))
    paths = [
      output_dir.prediction_paths(folder, split)[0] for folder in folders
    ]
    lines += predictions.write_split(
      run,
      split,
      map(run.task.target.outputs_of, average(paths)),
      plain_texts.count(len(folders), "run"),
      step,
    )
  return lines


def average(paths):
  """Yields the mean of each line's numbers over files: <float32>[cells].

  Args:
    paths: of files of as many lines, of numbers separated by tabs.
  """
  with contextlib.ExitStack() as stack:
    readers = [
      stack.enter_context(tf.io.gfile.GFile(path, "r")) for path in paths
    ]
    for lines in zip(*readers):
      numbers = [np.float32(line.split("\t")) for line in lines]
      yield np.mean(numbers, axis=0, dtype=np.float64).astype(np.float32)


def copy_predictions(run, folder):
  """Copies the predictions of a run, and how good they were, to a folder.

  Args:
    run: `preparation.Run`, which has predicted.
    folder: where to.

  Returns:
    List of a line for each test set.
  """
  lines, own = [], run.options.run.output_dir
  for split in run.splits("test"):
    paths = list(output_dir.prediction_paths(own, split))
    paths.append(output_dir.results_path(own, split))
    name = run.task.processor.submissions.get(split)
    if run.options.inference.glue_submission and name:
      paths.append(output_dir.submission_path(own, name))
    copies = [os.path.join(folder, os.path.basename(path)) for path in paths]
    files.announce_replacement(copies)
    written = [
      copy
      for path, copy in zip(paths, copies)
      if files.copy_or_remove(path, copy)
    ]
    lines.append(f"{split}: predictions: {' '.join(written)}")
  return lines
