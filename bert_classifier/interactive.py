"""Answers: predictions of texts that are in no split, while somebody waits.

--predict_text is one text; --predict_file is lines, each a text or a JSON
object with `text` and `text_b`. Line N of the answers, JSON objects on standard
output, belongs to line N of the texts:

  {"text": "a fine film", "label": "1", "probability": 0.98,
   "probabilities": {"0": 0.02, "1": 0.98}}
  {"error": "line 2: the text is empty"}

The model is loaded once. A line is answered before the next one is waited for,
so that a program at the other end of a pipe can write a line and read its
answer; lines that are there already are computed together.
"""

import codecs
import contextlib
import itertools
import json
import os
import sys

from absl import logging
import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import (
  devices,
  feature_manifest,
  files,
  plain_texts,
  predictions,
  process,
  progress,
  status_line,
  windows,
)
from bert_classifier.errors import MissingFileError, UserError
from bert_classifier.features import Converter, commonest_unknown_words
from bert_classifier.records import NUM_WINDOWS
from bert_classifier.tasks import InputExample

STANDARD_INPUT = "-"
_CHUNK_BYTES = 1 << 16
# What is computed at a time of the lines that are there already.
_MOST_EXAMPLES, _MOST_TOKENS = 32, 2048
_INPUTS = ("input_ids", "input_mask", "segment_ids")

# ---------------------------------------------------------------------------
# Requests


def check_request(options, task):
  """Makes sure that what is to be answered is a text or can be read.

  Args:
    options: `run_options.RunOptions`.
    task: `task_choice.Task`.

  Raises:
    UserError: the text is none, or the file is not there.
  """
  if options.predict_text is not None:
    try:
      make_example(options.predict_text, options.predict_text_b, task)
    except ValueError as error:
      raise UserError(f"--predict_text: {error}") from error
  path = options.predict_file
  if path in (None, STANDARD_INPUT):
    return
  if not tf.io.gfile.exists(path) or tf.io.gfile.isdir(path):
    raise MissingFileError(
      f"--predict_file={path}: no such file; give one with a text a line, or"
      f" {STANDARD_INPUT} for standard input"
    )


def make_example(text, text_b, task):
  """Returns the `InputExample` of a text, or a pair of texts.

  Raises:
    ValueError: the text is empty, or the task has pairs and this is none, or
      the reverse.
  """
  name, pairs = task.name, task.expects_pairs
  for value in (text, text_b):
    if not isinstance(value, (str, type(None))):
      raise ValueError(
        f"a text is {plain_texts.describe(value)}, but must be a string"
      )
    if value and any("\ud800" <= character <= "\udfff" for character in value):
      raise ValueError(f"{value!r:.80} has what is no UTF-8 in it")
  if not (text or "").strip():
    raise ValueError("the text is empty")
  if text_b is None and pairs:
    raise ValueError(
      f"the examples of {name} are pairs of texts, and the second is missing:"
      ' give --predict_text_b, or lines such as {"text": "...", "text_b":'
      ' "..."}'
    )
  if text_b is not None and pairs is False:
    raise ValueError(
      f"the examples of {name} are single texts: leave out text_b"
    )
  return InputExample("", text, text_b)


def read_request(line, task):
  """Returns the `InputExample` of a line.

  Args:
    line: bytes, without the line's end.
    task: `task_choice.Task`.

  Raises:
    ValueError: it is empty, no UTF-8, or begins with `{` and is no such object.
  """
  try:
    text = line.decode("utf-8").removesuffix("\r")
  except UnicodeDecodeError as error:
    byte = line[error.start]
    raise ValueError(f"the byte 0x{byte:02x} is not UTF-8") from error
  if not text.lstrip().startswith("{"):
    return make_example(text, None, task)
  try:
    request = json.loads(text)
  except (RecursionError, ValueError) as error:
    raise ValueError(
      f"a line that begins with {{ must be a JSON object: {error}"
    ) from error
  if "text" not in request:
    keys = ", ".join(map(repr, request)) or "nothing"
    raise ValueError(f'the JSON object lacks "text"; it has {keys:.200}')
  return make_example(request["text"], request.get("text_b"), task)


def read_lines(read):
  """Yields the whole lines that are there, a list, before it waits for more.

  Args:
    read: function that returns bytes as soon as there are some, b"" at the end.
  """
  parts, start = [], codecs.BOM_UTF8
  while chunk := read():
    *lines, rest = chunk.removeprefix(start).split(b"\n")
    start = b""
    if lines:
      lines[0] = b"".join([*parts, lines[0]])
      parts = []
      yield lines
    parts.append(rest)
  if last := b"".join(parts):
    yield [last]


@contextlib.contextmanager
def open_source(path):
  """Yields the function `read` of `read_lines` of a file, - for standard input.

  Local files are read by the system's own call, which, unlike gfile, returns
  what a pipe has.
  """
  if files.is_remote(path):
    with tf.io.gfile.GFile(path, "rb") as reader:
      yield lambda: reader.read(_CHUNK_BYTES)
    return
  is_standard = path == STANDARD_INPUT
  descriptor = 0 if is_standard else os.open(path, os.O_RDONLY)
  if os.isatty(descriptor):
    logging.info("a text a line, please; Ctrl-D ends")
  try:
    yield lambda: os.read(descriptor, _CHUNK_BYTES)
  finally:
    if not is_standard:
      os.close(descriptor)


# ---------------------------------------------------------------------------
# Answers


class Predictor:
  """The model in one session, for as many texts as there come.

  Args:
    run: `preparation.Run`.
    model_fn: see `run_classifier.model_fn_builder`.
    checkpoint: path of weights to restore; None where model_fn knows them.

  Attributes:
    converter: `features.Converter` of the texts.
  """

  def __init__(self, run, model_fn, checkpoint):
    options = run.options
    self.converter = Converter(
      run.task.target,
      options.model.max_seq_length,
      run.model.tokenizer,
      options.model.truncation,
      stride=options.model.stride,
      # Which pays for many texts only.
      remember_words=options.run.predict_file is not None,
    )
    self._target, self._pooling = run.task.target, options.model.window_pooling
    self._weights = checkpoint or run.weights.init_checkpoint.path
    config = devices.session_config(options.device)
    with tf.Graph().as_default():
      inputs = {
        name: tf.placeholder(tf.int32, [None, None], name) for name in _INPUTS
      }
      spec = model_fn(inputs, None, tf.estimator.ModeKeys.PREDICT, {})
      creator = tf.train.ChiefSessionCreator(
        spec.scaffold_fn(),
        config=config,
        checkpoint_filename_with_path=checkpoint,
      )
      self._session = creator.create_session()
      self._run = self._session.make_callable(
        spec.predictions, feed_list=list(inputs.values())
      )

  def close(self):
    """Ends the session."""
    self._session.close()

  def predict(self, examples):
    """Returns an iterator of what is predicted of each example.

    That is a dictionary of arrays.

    Args:
      examples: list of `InputExample`s.

    Raises:
      UserError: a number is not finite.
    """
    outputs = self._predict_windows(
      itertools.chain.from_iterable(map(self.converter.windows, examples))
    )
    return windows.pool_outputs(outputs, self._target, self._pooling)

  def _predict_windows(self, converted):
    """Yields what is predicted of each of some `InputFeatures`."""
    batch, longest = [], 0
    for features in converted:
      longest = max(longest, sum(features.input_mask))
      if batch and (len(batch) + 1) * longest > _MOST_TOKENS:
        yield from self._compute(batch)
        batch = []
      batch.append(features)
    yield from self._compute(batch)

  def _compute(self, batch):
    """Yields the outputs of a batch of `InputFeatures`, with their windows."""
    # Positions that are padding in the whole batch need not be there.
    length = max(sum(features.input_mask) for features in batch)
    arrays = [
      np.array([getattr(f, name)[:length] for f in batch], np.int32)
      for name in _INPUTS
    ]
    outputs = predictions.split_outputs(self._run(*arrays), self._weights)
    for features, output in zip(batch, outputs):
      yield {**output, NUM_WINDOWS: features.num_windows}


class Answers:
  """Answers requests on standard output, and counts them.

  Args:
    predictor: `Predictor`.
    task: `task_choice.Task`.
  """

  def __init__(self, predictor, task):
    self._predictor, self._task = predictor, task
    self.lines, self.mistakes, self.first_mistake = 0, 0, None
    self._ascii = (sys.stdout.encoding or "").lower() not in ("utf-8", "utf8")

  def answer_text(self, text, text_b):
    """Answers one text or pair; returns False where nobody reads any more."""
    return self._answer([make_example(text, text_b, self._task)])

  def answer_lines(self, read):
    """Answers lines until they end, or nobody reads the answers any more.

    Args:
      read: see `read_lines`.

    Returns:
      False where nobody reads any more.
    """
    counter = progress.Counter("answered", unit="line")
    for waiting in read_lines(read):
      for begin in range(0, len(waiting), _MOST_EXAMPLES):
        lines = waiting[begin : begin + _MOST_EXAMPLES]
        if not self._answer(list(map(self._read, lines))):
          return False
        # On a terminal the answers themselves are seen to come.
        if not sys.stdout.isatty():
          counter.add(len(lines))
    status_line.STATUS.clear()
    return True

  def _read(self, line):
    """Returns the example of a line, or a sentence on what is wrong with it."""
    self.lines += 1
    try:
      return read_request(line, self._task)
    except ValueError as error:
      self.mistakes += 1
      sentence = f"line {self.lines}: {error}"
      self.first_mistake = self.first_mistake or sentence
      return sentence

  def _answer(self, requests):
    """Writes the answers to examples, and sentences on lines that are none.

    Returns:
      False where nobody reads any more.
    """
    examples = [one for one in requests if isinstance(one, InputExample)]
    outputs = self._predictor.predict(examples) if examples else iter(())
    for request in requests:
      if isinstance(request, str):
        answer = {"error": request}
      else:
        answer = {"text": request.text_a}
        if request.text_b is not None:
          answer["text_b"] = request.text_b
        answer.update(self._task.target.answer(next(outputs)))
      line = json.dumps(answer, ensure_ascii=self._ascii)
      if not process.print_to_the_end(line):
        logging.info("nobody reads the answers any more")
        return False
    return True


def answer(options, task, predictor):
  """Answers what a command asks for, on standard output.

  Args:
    options: `run_options.RunOptions`.
    task: `task_choice.Task`.
    predictor: `Predictor`.

  Raises:
    UserError: lines were no texts; the others are answered. Or a prediction is
      not finite: nothing more is answered.
    KeyboardInterrupt: with the number of lines answered.
  """
  answers = Answers(predictor, task)
  if options.predict_text is not None and not (
    answers.answer_text(options.predict_text, options.predict_text_b)
  ):
    return
  if options.predict_file is None:
    _warn_of_unknown("--predict_text", predictor.converter)
    return
  try:
    with open_source(options.predict_file) as read:
      if not answers.answer_lines(read):
        return
  except KeyboardInterrupt as interruption:
    said = f"{plain_texts.count(answers.lines, 'line')} had been read"
    raise type(interruption)(said) from interruption
  tally = predictor.converter.tally
  logging.info(
    "answered %s, of which %d had over %d tokens and were cut%s",
    plain_texts.count(answers.lines - answers.mistakes, "line"),
    max(tally["truncated"], tally["windowed"]),
    predictor.converter.max_seq_length,
    " into windows" if tally["windowed"] else "",
  )
  _warn_of_unknown(
    f"--predict_file={options.predict_file}", predictor.converter
  )
  if answers.mistakes:
    raise UserError(
      f"{answers.mistakes} of {plain_texts.count(answers.lines, 'line')} were"
      f" no texts and got an error for an answer; {answers.first_mistake}"
    )


def _warn_of_unknown(name, converter):
  """Warns where many tokens of the texts that were answered are [UNK]."""
  tally = converter.tally
  feature_manifest.warn_of_unknown(
    name, tally["unknown"], tally["tokens"], commonest_unknown_words(tally)
  )
