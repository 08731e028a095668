"""Predictions in the form in which gluebenchmark.com takes them.

One file a test set, named as GLUE names it, with the columns index and
prediction; a zip archive of the files of all tasks is what is sent.
"""

import tensorflow.compat.v1 as tf

from bert_classifier import files, output_dir


def write_submission(folder, split, processor):
  """Writes the submission file of a test set by its test_predictions.tsv.

  The index is the test file's own, or, where it has none, counts from 0.

  Args:
    folder: output_dir.
    split: "test" or "test_mismatched".
    processor: `tasks.DataProcessor` with `submissions`; the numbers of one with
      a `number_range` are brought into it.

  Returns:
    The path of the file, None where the split has none.
  """
  name = processor.submissions.get(split)
  if name is None:
    return None
  path = output_dir.submission_path(folder, name)
  files.announce_replacement([path])
  _, predictions = output_dir.prediction_paths(folder, split)
  rows = (line.rstrip("\n").split("\t") for line in _lines(predictions))
  header = next(rows)
  column = header.index("label" if "label" in header else "value")
  with files.open_tsv(path) as write:
    write(["index", "prediction"])
    for number, cells in enumerate(rows):
      index = cells[0] if cells[0].isdigit() else number
      write([index, _format(cells[column], processor.number_range)])
  return path


def _lines(path):
  """Yields the lines of a file that this program wrote."""
  with tf.io.gfile.GFile(path, "r") as reader:
    yield from reader


def _format(prediction, number_range):
  """Returns a label as it is, a number within its range."""
  if number_range is None:
    return prediction
  low, high = number_range
  return f"{min(max(float(prediction), low), high):.3f}"
