"""Text to features in TensorFlow's own operations, for a saved model.

  encoder = TextEncoder(tokenizer, max_seq_length=128)
  features = encoder(text_a, text_b)  # <string>[B] each

equals what `features.Converter` makes of the texts with the same tokenizer. A
graph made so needs no Python and no library beside TensorFlow where it runs.

The texts of a batch are one vector of code points, text after text. Each step
works on all of them at once, and each is tables, made when the graph is built
by asking `tokenization` itself:

  characters  what BasicTokenizer makes of each of Unicode's characters; see
              `graph_characters`
  pieces      a tree of the vocabulary's tokens, walked from every position, so
              that each knows the longest piece that begins there
  words       from the beginning of a word on, from piece to piece

A text that is no UTF-8 loses the bytes that are not, as by
`tokenization.convert_to_unicode`.

Axis letters: B batch, S sequence; N elements of a vector, code points mostly; P
pieces.
"""

import re

import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import truncation, windows
from bert_classifier.choice_options import HEAD
from bert_classifier.graph_characters import (
  END,
  FIRST_TOKEN,
  SPACE,
  make_characters,
  tabulate,
)


class TextEncoder:
  """Texts, or pairs of texts, to features.

  Args:
    tokenizer: `tokenization.FullTokenizer`.
    max_seq_length, truncation, stride: as of `features.Converter`.
  """

  def __init__(self, tokenizer, max_seq_length, truncation=HEAD, stride=0):
    self._tokenizer = GraphTokenizer(tokenizer)
    self._max_seq_length, self._truncation = max_seq_length, truncation
    self._stride = stride
    self._special = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])

  def __call__(self, text_a, text_b=None):
    """Returns the features of a batch, as wide as its longest example.

    Args:
      text_a, text_b: <string>[B], UTF-8. Without a text_b, and where it yields
        no token, an example has the form of a single text.

    Returns:
      Dictionary of `input_ids`, `input_mask`, `segment_ids` <int32>[B, S]. Of
      windows each is <int32>[W, S], and `windows.TEXT_OF_WINDOW` <int32>[W].
    """
    batch = tf.size(text_a)
    texts = text_a if text_b is None else tf.concat([text_a, text_b], 0)
    with tf.device("/cpu:0"):  # nothing here is for a GPU
      ids, rows = self._tokenizer.tokenize(texts)
      counts = _count(rows, tf.size(texts))
      starts = tf.cumsum(counts, exclusive=True)
      first = starts[:batch], counts[:batch]
      second = None if text_b is None else (starts[batch:], counts[batch:])
      second = second or (first[0], first[1] * 0)
      if self._stride:
        return self._arrange_windows(ids, first, second)
      kept = self._truncate(first[1], second[1])
      return self._arrange(ids, (*first, kept[0]), (*second, kept[1]))

  def _arrange_windows(self, ids, first, second):
    """Returns the features of windows; arguments as of `_arrange`."""
    text, *places = windows.lay_out(
      first[1], second[1], self._max_seq_length, self._stride
    )
    first, second = (
      (tf.gather(starts, text) + skipped, count, kept)
      for (starts, _), (skipped, count, kept) in zip((first, second), places)
    )
    return {
      **self._arrange(ids, first, second),
      windows.TEXT_OF_WINDOW: text,
    }

  def _arrange(self, ids, first, second):
    """Returns the features.

    Args:
      ids: <int32>[P], of all texts.
      first, second: where the ids of each text begin in them, how many they
        are, and how many of them stay, <int32>[B] each.
    """
    in_first, in_second = first[2], second[2]
    both = tf.cast(in_second > 0, tf.int32)
    length = in_first + in_second + 2 + both  # [B]
    width = tf.reduce_max(tf.concat([length, [2]], 0))
    place = tf.range(width)  # [S]
    cls, sep, pad = (tf.size(ids) + number for number in range(3))
    # What stands at a place: in the order of the places, the last that holds.
    index = tf.where_v2(
      place < _column(in_first + 1),
      self._find_ids(*first, place - 1),
      sep,
    )
    index = tf.where_v2(place < 1, cls, index)
    begin = _column(in_first + 2)
    from_second = self._find_ids(*second, place - begin)
    is_second = (place >= begin) & (place < begin + _column(in_second))
    index = tf.where_v2(is_second, from_second, index)
    real = place < _column(length)  # [B, S]
    index = tf.where_v2(real, index, pad)
    return {
      "input_ids": tf.gather(tf.concat([ids, [*self._special, 0]], 0), index),
      "input_mask": tf.cast(real, tf.int32),
      "segment_ids": tf.cast(real & (place >= begin), tf.int32),
    }

  def _find_ids(self, starts, counts, kept, number):
    """Returns where the ids of texts are that stay.

    Args:
      starts, counts: where the ids of each text begin, and how many they are,
        <int32>[B] each.
      kept: how many of them stay, <int32>[B].
      number: of an id among those that stay, <int32>[S] or <int32>[B, S].
    """
    found = _column(starts) + number
    if self._truncation == HEAD:
      return found
    is_behind = number >= _column(truncation.count_head(kept, self._truncation))
    return found + tf.where_v2(is_behind, _column(counts - kept), 0)

  def _truncate(self, first, second):
    """Returns how many ids of each text stay, as `features.truncate` has it."""
    room = self._max_seq_length - 2 - tf.cast(second > 0, tf.int32)
    excess = tf.maximum(first + second - room, 0)
    uneven = first - second
    from_longer = tf.minimum(excess, tf.abs(uneven))
    rest = excess - from_longer
    from_first = tf.where_v2(uneven > 0, from_longer, 0) + rest // 2
    return first - from_first, second - (excess - from_first)


class GraphTokenizer:
  """Texts to ids, in operations.

  Args:
    tokenizer: `tokenization.FullTokenizer`.
  """

  def __init__(self, tokenizer):
    basic, pieces = tokenizer.basic_tokenizer, tokenizer.wordpiece_tokenizer
    self._as_it_is = _make_finder(tokenizer, lambda text: text, False)
    self._normalized = _make_finder(tokenizer, basic.normalize, True)
    settings = (
      basic.do_lower_case,
      basic.strip_accents,
      basic.tokenize_chinese_chars,
    )
    self._normalize = None
    if self._normalized:
      self._normalize = make_characters("normalize", *settings)
    self._make_words = make_characters("split", *settings)
    self._pieces = _Pieces(pieces)

  def tokenize(self, texts):
    """Returns the ids of texts, one after the other.

    Args:
      texts: <string>[B], UTF-8.

    Returns:
      The ids, and the number of the text that each is of: <int32>[P] both.
    """
    codes, rows = _decode(texts)
    if self._as_it_is:
      codes, rows = self._as_it_is.mark(codes, rows)
    if self._normalized:
      codes, rows = self._normalize.replace(codes, rows)
      codes, rows = self._normalized.mark(codes, rows)
    codes, rows = self._make_words.replace(codes, rows)
    return self._pieces.split(codes, rows)


def _decode(texts):
  """Returns code points, `END` behind each text's, and the texts they are of.

  Args:
    texts: <string>[B], UTF-8.

  Returns:
    <int32>[N] both.
  """
  decoded = tf.raw_ops.UnicodeDecode(
    input=texts, input_encoding="UTF-8", errors="ignore", Tsplits=tf.int32
  )
  size = tf.size(decoded.char_values) + tf.size(texts)
  ends = decoded.row_splits[1:] + tf.range(tf.size(texts))
  is_end = tf.scatter_nd(_column(ends), tf.ones_like(ends), [size])
  rows = tf.cumsum(is_end, exclusive=True)
  codes = tf.gather(
    tf.concat([decoded.char_values, [END]], 0), tf.range(size) - rows
  )
  return tf.where_v2(is_end > 0, END, codes), rows


# ---------------------------------------------------------------------------
# Tokens


class _Tree:
  """A tree of tokens, in which a node is found by its parent and a character.

  Node n + 1 is at the end of edge n; the edges are sorted.

  Args:
    tokens: {text: number}.
  """

  ROOT = 0

  def __init__(self, tokens):
    root = {}
    for token, number in tokens.items():
      node = root
      for char in token:
        node = node.setdefault(char, {})
      node[""] = number
    nodes, edges, self._numbers = [root], [], [-1]
    for parent, node in enumerate(nodes):  # which grows meanwhile
      for char in sorted(filter(None, node)):
        edges.append(parent << 32 | ord(char))
        nodes.append(node[char])
        self._numbers.append(node[char].get("", -1))
    self._edges = np.int64(edges)

  def node_of(self, text):
    """Returns the node of a text; one without edges where there is none."""
    node = self.ROOT
    for char in text:
      edge = np.searchsorted(self._edges, node << 32 | ord(char))
      if edge == len(self._edges) or self._edges[edge] != (
        node << 32 | ord(char)
      ):
        return len(self._edges) + 1
      node = int(edge) + 1
    return node

  def find_longest(self, codes, roots):
    """Returns length and number of the longest token from each element on.

    Args:
      codes: <int32>[N], the last of them in no token.
      roots: <int64>[N], the node to begin at.

    Returns:
      <int32>[N] both, 0 and -1 where there is none.
    """
    edges = tf.constant(self._edges)
    numbers = tf.constant(self._numbers, tf.int32)

    def go_on(step, places, nodes, lengths, found):
      code = tf.cast(tf.gather(codes, places + step), tf.int64)
      key = nodes * (1 << 32) + code
      edge = tf.searchsorted(edges, key)
      there = tf.gather(edges, tf.minimum(edge, len(self._edges) - 1))
      is_there = tf.equal(there, key)
      places = tf.boolean_mask(places, is_there)
      node = tf.boolean_mask(edge, is_there) + 1
      number = tf.gather(numbers, node)
      is_end = number >= 0
      ends = tf.boolean_mask(places, is_end)
      step += 1
      lengths = tf.tensor_scatter_nd_update(
        lengths, ends[:, tf.newaxis], tf.fill(tf.shape(ends), step)
      )
      found = tf.tensor_scatter_nd_update(
        found, ends[:, tf.newaxis], tf.boolean_mask(number, is_end)
      )
      return step, places, tf.cast(node, tf.int64), lengths, found

    vector = tf.TensorShape([None])
    zeros = tf.zeros_like(codes)
    *_, lengths, found = tf.while_loop(
      lambda step, places, *_: tf.size(places) > 0,
      go_on,
      (0, tf.range(tf.size(codes)), roots, zeros, zeros - 1),
      shape_invariants=(tf.TensorShape([]), vector, vector, vector, vector),
    )
    return lengths, found


def _reach(starts, jumps):
  """Returns the places that are reached by jumping on and on: <bool>[N].

  Twice as many jumps are looked at in each step as in the one before.

  Args:
    starts: <bool>[N], where to begin.
    jumps: <int32>[N], the place to go to from each; itself to stay there.
  """

  def go_on(reached, jumps, _):
    places = tf.boolean_mask(jumps, reached)
    further = tf.tensor_scatter_nd_update(
      reached, places[:, tf.newaxis], tf.ones_like(places, tf.bool)
    )
    has_grown = tf.reduce_any(tf.not_equal(further, reached))
    return further, tf.gather(jumps, jumps), has_grown

  vector = tf.TensorShape([None])
  reached, *_ = tf.while_loop(
    lambda reached, jumps, has_grown: has_grown,
    go_on,
    (starts, jumps, tf.constant(True)),
    shape_invariants=(vector, vector, tf.TensorShape([])),
  )
  return reached


class _Pieces:
  """Splits words into pieces.

  Args:
    pieces: `tokenization.WordpieceTokenizer`.
  """

  def __init__(self, pieces):
    # No word has white space in it, so neither may a token that is found.
    tokens = {t: n for t, n in pieces.vocab.items() if t.split() == [t]}
    self._tree = _Tree(tokens)
    self._inside = self._tree.node_of("##")
    self._unknown = pieces.vocab[pieces.unk_token]
    self._longest_word = pieces.max_input_chars_per_word

  def split(self, codes, rows):
    """Returns the ids of the pieces of words, and their texts: <int32>[P].

    Args:
      codes, rows: <int32>[N]; words stand between spaces.
    """
    is_word = tf.not_equal(codes, SPACE) & tf.not_equal(codes, END)
    begins = is_word & ~tf.pad(is_word, [[1, 0]])[:-1]
    roots = tf.where_v2(begins, self._tree.ROOT, self._inside)
    lengths, ids = self._tree.find_longest(codes, tf.cast(roots, tf.int64))
    is_whole = codes >= FIRST_TOKEN
    lengths = tf.where_v2(is_whole, 1, lengths)
    ids = tf.where_v2(is_whole, codes - FIRST_TOKEN, ids)
    jumps = tf.range(tf.size(codes)) + lengths
    reached = _reach(begins, jumps) & is_word
    # By the number of the word, from 1 on.
    word = tf.cumsum(tf.cast(begins, tf.int32))
    words = tf.reduce_sum(tf.cast(begins, tf.int32)) + 1
    ends = tf.boolean_mask(word, reached & tf.equal(lengths, 0))
    is_unknown = (_count(ends, words) > 0) | (
      _count(tf.boolean_mask(word, is_word), words) > self._longest_word
    )
    is_unknown = tf.gather(is_unknown, word)
    ids = tf.where_v2(is_unknown, self._unknown, ids)
    shown = tf.where_v2(is_unknown, begins, reached)
    return tf.boolean_mask(ids, shown), tf.boolean_mask(rows, shown)


def _count(numbers, end):
  """Returns how often each number from 0 up to `end` is there: <int32>[end]."""
  return tf.math.unsorted_segment_sum(tf.ones_like(numbers), numbers, end)


def _column(vector):
  """Returns <int32>[B] as [B, 1]."""
  return vector[:, tf.newaxis]


# ---------------------------------------------------------------------------
# Whole tokens


def _make_finder(tokenizer, normalize, is_normalized):
  """Returns the `_Finder` of the whole tokens of a kind, None without any."""
  tokens = {
    normalize(token.content): token
    for token in tokenizer.whole_tokens
    if token.normalized == is_normalized
  }
  tokens.pop("", None)
  return _Finder(tokens, tokenizer.vocab) if tokens else None


class _Finder:
  """Finds tokens in a text, of several that begin there the longest.

  Args:
    tokens: {text to look for: `tokenization.WholeToken`}.
    vocab: dictionary from token to id.
  """

  def __init__(self, tokens, vocab):
    self._tree = _Tree({text: n for n, text in enumerate(tokens)})
    self._ids = [vocab[token.content] for token in tokens.values()]
    self._single = [bool(token.single_word) for token in tokens.values()]
    self._letters = None
    if any(self._single):
      self._letters = tabulate(
        map(chr, range(END)), lambda char: bool(re.match(r"\w", char))
      )

  def mark(self, codes, rows):
    """Returns elements, each token that is found one of them, and their texts.

    Args:
      codes, rows: <int32>[N].
    """
    roots = tf.fill(tf.shape(codes), tf.constant(self._tree.ROOT, tf.int64))
    lengths, number = self._tree.find_longest(codes, roots)
    place = tf.range(tf.size(codes))
    ends = place + tf.maximum(lengths, 1)
    jumps = tf.minimum(ends, tf.size(codes) - 1)
    found = _reach(tf.equal(place, 0), jumps) & (lengths > 0)
    number = tf.maximum(number, 0)
    if self._letters:
      is_letter = self._letters.find(codes) > 0
      beside = tf.pad(is_letter, [[1, 0]])[:-1] | tf.gather(is_letter, jumps)
      found &= ~(beside & tf.gather(tf.constant(self._single), number))
    # Where the token ends that was found last.
    last = tf.cumsum(tf.cast(found, tf.int32))
    end = tf.gather(tf.pad(tf.boolean_mask(ends, found), [[1, 0]]), last)
    tokens = tf.gather(tf.constant(self._ids), number) + FIRST_TOKEN
    codes = tf.where_v2(found, tokens, codes)
    stays = found | (place >= end)
    return tf.boolean_mask(codes, stays), tf.boolean_mask(rows, stays)
