"""Windows: --stride, texts of any length as examples that overlap.

A text that is too long becomes several examples of the model, its windows. Each
begins `stride` tokens after the one before, as in the original's run_squad.py,
and the last ends with the text. With a stride of 3 and 6 positions:

  text       1 2 3 4 5 6 7
  windows    [CLS] 1 2 3 4 [SEP]
                   [CLS] 4 5 6 7 [SEP]

Of a pair the longer text is cut, the second on a tie, and the other stands in
each window: whole, unless it would leave the longer one fewer than `stride`
tokens; then it loses some, by --truncation.

A window is a record of its own with the label of its text, and says how many
windows the text has; in a file they follow each other. In training a window is
an example, and its loss is weighed so that a text counts once (`weigh`). What
is evaluated and predicted is one again for each text (`pool`).

  R. Pappagari et al., "Hierarchical transformers for long document
  classification", 2019, https://arxiv.org/abs/1910.10781
  C. Sun et al., "How to fine-tune BERT for text classification?", 2019,
  https://arxiv.org/abs/1905.05583, section 5.3.1

Axis letters: n texts, R their windows, L logits; B texts, W windows of a batch.
"""

import itertools

import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import choice_options, truncation
from bert_classifier.errors import UserError
from bert_classifier.records import NUM_WINDOWS

# What a graph's windows have beside the model's inputs: the text of each.
TEXT_OF_WINDOW = "text_of_window"
_POOL = {
  choice_options.MEAN_LOGITS: np.add,
  choice_options.MAX_LOGITS: np.maximum,
}


def check_request(options, task):
  """Makes sure that windows leave no token out.

  Args:
    options: `options.ModelOptions`.
    task: `task_choice.Task`.

  Raises:
    UserError: they would, or a flag has no meaning beside the others.
  """
  stride, size = options.stride, options.max_seq_length
  if not stride:
    if options.window_pooling != choice_options.MEAN_LOGITS:
      raise UserError(
        f"--window_pooling={options.window_pooling} is nothing without"
        " --stride, which cuts texts into windows: give --stride, or"
        f" --window_pooling={choice_options.MEAN_LOGITS}"
      )
    return
  has_pairs = task.expects_pairs is not False
  most = size - (4 if has_pairs else 2)
  if stride > most:
    of_what = "the longer text of a pair" if has_pairs else "a text"
    raise UserError(
      f"--stride={stride} would leave out tokens between two windows:"
      f" --max_seq_length={size} has room for {most} tokens of {of_what} beside"
      " what else is there. Give a stride of about half of --max_seq_length, or"
      " more positions"
    )
  if not has_pairs and options.truncation != choice_options.HEAD:
    raise UserError(
      f"--truncation={options.truncation} says which tokens of a long text"
      f" stay, and with --stride={stride} all of them do: give"
      f" --truncation={choice_options.HEAD}, or --stride=0"
    )


def describe(options):
  """Returns how texts are cut into windows, text by name; {} if they are not.

  Args:
    options: `options.ModelOptions`.
  """
  if not options.stride:
    return {}
  return {
    "stride": str(options.stride),
    "window_pooling": options.window_pooling,
  }


# ---------------------------------------------------------------------------
# Cutting


def cut(first, second, max_seq_length, stride, how=choice_options.HEAD):
  """Returns the windows of a pair, or of a single text.

    >>> cut([1, 2, 3, 4, 5, 6, 7], [], 6, 3)
    [([1, 2, 3, 4], []), ([4, 5, 6, 7], [])]
    >>> cut([1, 2], [3, 4, 5, 6, 7], 8, 2)
    [([1, 2], [3, 4, 5]), ([1, 2], [5, 6, 7])]
    >>> cut([1, 2, 3], [4, 5, 6, 7], 8, 3)
    [([1, 2], [4, 5, 6]), ([1, 2], [7])]

  Args:
    first, second: lists of tokens.
    max_seq_length: S.
    stride: tokens from the beginning of a window to that of the next, at most
      S - 2 of single texts, S - 4 of pairs.
    how: as of `truncation.truncate`, of a text beside windows that leaves them
      fewer than `stride` tokens.

  Returns:
    List of pairs of lists.
  """
  room = max_seq_length - (3 if second else 2)
  if len(first) + len(second) <= room:
    return [(first, second)]
  cuts_first = len(first) > len(second)
  longer, other = (first, second) if cuts_first else (second, first)
  other = truncation.keep(other, max(room - stride, 0), how)
  room -= len(other)
  starts = range(0, len(longer) - room + stride, stride)
  parts = [longer[start : start + room] for start in starts]
  return [(part, other) if cuts_first else (other, part) for part in parts]


def count_lost(first, second, texts):
  """Returns how many tokens of a pair are in none of its windows.

  They are of the text beside the windows.

  Args:
    first, second: lists of tokens.
    texts: what `cut` gives of them.
  """
  if len(first) > len(second):
    return len(second) - len(texts[0][1])
  return len(first) - len(texts[0][0])


# ---------------------------------------------------------------------------
# Training


def weigh(per_example_loss, per_text):
  """Returns the function of training's losses by which a text counts once.

  The loss of a window is multiplied by (R / n) / w, where w windows are of its
  text: over an epoch the mean over all windows is the mean over the texts of
  the mean loss of their windows. R / n makes the mean factor 1, so that loss,
  clipping and learning rate keep their size. As of class weights, it is not
  made 1 in each batch: the mean of the parts of a batch is that of the whole.

  Args:
    per_example_loss: function of logits and features that gives <float32>[W].
    per_text: R / n, of the training set.
  """

  def weighed(logits, features):
    factors = per_text / tf.cast(features[NUM_WINDOWS], tf.float32)
    return per_example_loss(logits, features) * factors

  return weighed


# ---------------------------------------------------------------------------
# Pooling


def find_starts(num_windows):
  """Returns the place of the first window of each text: <int64>[n].

    >>> find_starts(np.array([1, 3, 3, 3, 2, 2]))
    array([0, 1, 4])

  Args:
    num_windows: <int>[R], of the text of each window.
  """
  numbers, starts, place = num_windows.tolist(), [], 0
  while place < len(numbers):
    starts.append(place)
    place += numbers[place]
  return np.array(starts, np.int64)


def pool(values, starts, pooling=choice_options.MEAN_LOGITS):
  """Returns what a text's windows give together: <float32>[n, ...].

  Args:
    values: <float32>[R, ...].
    starts: see `find_starts`.
    pooling: "mean", or "max" of each of the values.
  """
  pooled = _POOL[pooling].reduceat(np.float64(values), starts)
  if pooling == choice_options.MEAN_LOGITS:
    numbers = np.diff(starts, append=len(values))
    pooled /= numbers.reshape([-1, *[1] * (pooled.ndim - 1)])
  return np.float32(pooled)


def pool_one(values, pooling=choice_options.MEAN_LOGITS):
  """Returns what the windows of one text give together; see `pool`.

  Args:
    values: list of arrays, one for each window.
  """
  return pool(np.stack(values), np.zeros([1], np.int64), pooling)[0]


def pool_outputs(outputs, target, pooling):
  """Yields what is predicted of each text.

  Args:
    outputs: iterable of what is predicted of each window, dictionaries of
      arrays, `num_windows` among them.
    target: see `targets`.
    pooling: of the logits, of which the scores are computed anew.
  """
  for group in group_by_text(outputs):
    output = group[0]
    if len(group) > 1:
      logits = pool_one([one["logits"] for one in group], pooling)
      (scores,) = target.scores(logits[np.newaxis])
      pooled = {name: scores for name in output if name != NUM_WINDOWS}
      output = {**pooled, "logits": logits}
    yield output


def keep_number(features, outputs):
  """Returns a graph's outputs, and with windows their number beside them.

  Args:
    features: dictionary of the batch.
    outputs: dictionary of what is computed of it, [W, ...] each.
  """
  if NUM_WINDOWS not in features:
    return outputs
  return {**outputs, NUM_WINDOWS: features[NUM_WINDOWS]}


def group_by_text(outputs):
  """Yields the list of the outputs of each text's windows.

  Args:
    outputs: iterable of dictionaries of arrays, `num_windows` among them.
  """
  outputs = iter(outputs)
  for first in outputs:
    more = int(first[NUM_WINDOWS]) - 1
    yield [first, *itertools.islice(outputs, more)]


# ---------------------------------------------------------------------------
# The graph of an export


def lay_out(first, second, max_seq_length, stride):
  """Lays out the windows of a batch of texts as `cut` does.

  Args:
    first, second: <int32>[B], how many tokens each of two texts has; 0 of a
      second that there is not.
    max_seq_length, stride: see `cut`.

  Returns:
    The text of each window <int32>[W]; and of the first and of the second text
    in it a list of <int32>[W] each: the tokens before those in question, how
    many these are, and how many of them stay.
  """
  room = max_seq_length - 2 - tf.cast(second > 0, tf.int32)
  other = tf.minimum(first, second)
  kept = tf.where_v2(
    first + second > room,
    tf.minimum(other, tf.maximum(room - stride, 0)),
    other,
  )
  longer, room = tf.maximum(first, second), room - kept
  # Rounded up, for no window begins where the text has ended.
  numbers = 1 + (tf.maximum(longer - room, 0) + stride - 1) // stride  # [B]
  text = tf.repeat(tf.range(tf.size(numbers)), numbers)  # [W]
  begin = tf.gather(tf.cumsum(numbers, exclusive=True), text)
  skipped = (tf.range(tf.size(text)) - begin) * stride
  in_window = tf.gather(longer, text) - skipped
  in_window = tf.minimum(in_window, tf.gather(room, text))
  of_longer = skipped, in_window, in_window
  of_other = skipped * 0, tf.gather(other, text), tf.gather(kept, text)
  cuts_first = tf.gather(first > second, text)

  def choose(*of_both):
    return [tf.where_v2(cuts_first, *pair) for pair in zip(*of_both)]

  return text, choose(of_longer, of_other), choose(of_other, of_longer)


def pool_in_graph(logits, texts, number, pooling):
  """Returns the logits of texts: <float32>[B, L].

  Args:
    logits: <float32>[W, L].
    texts: the text of each window, <int32>[W].
    number: B, <int32>[].
    pooling: see `pool`.
  """
  reduce = {
    choice_options.MEAN_LOGITS: tf.math.unsorted_segment_mean,
    choice_options.MAX_LOGITS: tf.math.unsorted_segment_max,
  }[pooling]
  return reduce(logits, texts, number)
