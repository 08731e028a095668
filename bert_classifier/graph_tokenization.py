"""Text to features in TensorFlow's own operations, for a saved model.

  encoder = TextEncoder(tokenizer, max_seq_length=128)
  features = encoder(text_a, text_b)  # <string>[B] each

equals what `features.Converter` makes of the texts with the same tokenizer. A
graph made so needs no Python and no library beside TensorFlow where it runs.

The texts of a batch are one vector of code points, text after text. Each step
works on all of them at once, and each is tables, made when the graph is built
by asking `tokenization` itself:

  characters  what BasicTokenizer makes of each of Unicode's characters; only a
              capital sigma and marks that combine depend on their neighbours
  pieces      a tree of the vocabulary's tokens, walked from every position, so
              that each knows the longest piece that begins there
  words       from the beginning of a word on, from piece to piece

A text that is no UTF-8 loses the bytes that are not, as by
`tokenization.convert_to_unicode`.

Axis letters: B batch, S sequence; N elements of a vector, code points mostly; P
pieces.
"""

import re
import unicodedata

import numpy as np
import tensorflow.compat.v1 as tf

import tokenization

# Elements of a vector that are no characters: the end of a text, a place where
# marks are not put in order, and from there on tokens, by their ids.
_END = 0x110000
_BREAK = _END + 1
_FIRST_TOKEN = _END + 2
_SPACE = ord(" ")
_SELF = -1  # stands for the character itself, in what a character becomes
_SIGMA, _FINAL_SIGMA = 0x3A3, 0x3C2


class TextEncoder:
  """Texts, or pairs of texts, to features.

  Args:
    tokenizer: `tokenization.FullTokenizer`.
    max_seq_length: as of `features.Converter`.
  """

  def __init__(self, tokenizer, max_seq_length):
    self._tokenizer = GraphTokenizer(tokenizer)
    self._max_seq_length = max_seq_length
    self._special = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])

  def __call__(self, text_a, text_b=None):
    """Returns the features of a batch, as wide as its longest example.

    Args:
      text_a, text_b: <string>[B], UTF-8. Without a text_b, and where it yields
        no token, an example has the form of a single text.

    Returns:
      Dictionary of `input_ids`, `input_mask`, `segment_ids` <int32>[B, S].
    """
    batch = tf.size(text_a)
    texts = text_a if text_b is None else tf.concat([text_a, text_b], 0)
    with tf.device("/cpu:0"):  # nothing here is for a GPU
      ids, rows = self._tokenizer.tokenize(texts)
      counts = _count(rows, tf.size(texts))
      starts = tf.cumsum(counts, exclusive=True)
      first = starts[:batch], counts[:batch]
      second = None if text_b is None else (starts[batch:], counts[batch:])
      return self._arrange(ids, first, second or (first[0], first[1] * 0))

  def _arrange(self, ids, first, second):
    """Returns the features.

    Args:
      ids: <int32>[P], of all texts.
      first, second: where the ids of each text begin in them, and how many
        they are, <int32>[B] each.
    """
    in_first, in_second = self._truncate(first[1], second[1])
    both = tf.cast(in_second > 0, tf.int32)
    length = in_first + in_second + 2 + both  # [B]
    width = tf.reduce_max(tf.concat([length, [2]], 0))
    place = tf.range(width)  # [S]
    cls, sep, pad = (tf.size(ids) + number for number in range(3))
    # What stands at a place: in the order of the places, the last that holds.
    index = tf.where_v2(
      place < _column(in_first + 1), _column(first[0] - 1) + place, sep
    )
    index = tf.where_v2(place < 1, cls, index)
    begin = _column(in_first + 2)
    from_second = _column(second[0]) + place - begin
    is_second = (place >= begin) & (place < begin + _column(in_second))
    index = tf.where_v2(is_second, from_second, index)
    real = place < _column(length)  # [B, S]
    index = tf.where_v2(real, index, pad)
    return {
      "input_ids": tf.gather(tf.concat([ids, [*self._special, 0]], 0), index),
      "input_mask": tf.cast(real, tf.int32),
      "segment_ids": tf.cast(real & (place >= begin), tf.int32),
    }

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
    characters = _list_characters()
    neighbours = _Neighbours(basic, characters)
    self._normalize = None
    if self._normalized:
      self._normalize = _Characters(
        basic.normalize, [_SELF], neighbours, characters
      )

    def make_words(char):
      text = "".join(
        f" {part} " if tokenization._is_punctuation(part) else part
        for part in basic.normalize(char)
      )
      return re.sub(r"\s", " ", text)  # U+2028, too

    apart = [_SPACE, _SELF, _SPACE]
    self._make_words = _Characters(make_words, apart, neighbours, characters)
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
  """Returns code points, `_END` behind each text's, and the texts they are of.

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
    tf.concat([decoded.char_values, [_END]], 0), tf.range(size) - rows
  )
  return tf.where_v2(is_end > 0, _END, codes), rows


# ---------------------------------------------------------------------------
# Tables of characters


class _Table:
  """A number for each code point, in blocks, of which most are the same.

  Args:
    numbers: array [_END + 1]; the last is that of all that is no character.
  """

  _BLOCK = 128

  def __init__(self, numbers):
    padded = np.pad(np.int32(numbers), (0, -len(numbers) % self._BLOCK))
    blocks, which = np.unique(
      padded.reshape(-1, self._BLOCK), axis=0, return_inverse=True
    )
    self._blocks, self._which = blocks.reshape(-1), np.int32(which.reshape(-1))

  def find(self, codes):
    """Returns the numbers of elements: <int32>[N] both."""
    codes = tf.minimum(codes, _END)
    block = tf.gather(tf.constant(self._which), codes // self._BLOCK)
    index = block * self._BLOCK + codes % self._BLOCK
    return tf.gather(tf.constant(self._blocks), index)


def _list_characters():
  """Returns all characters of which Unicode knows more than the number.

  Those that are not assigned, or for private use, stay as they are, unless they
  are in a block of ideographs.
  """
  ideographs = set()
  for first, last in tokenization.IDEOGRAPH_BLOCKS:
    ideographs.update(range(first, last + 1))
  return [
    chr(code)
    for code in range(_END)
    if code in ideographs
    or unicodedata.category(chr(code)) not in ("Cn", "Co", "Cs")
  ]


class _Neighbours:
  """What characters become by those beside them: sigmas, marks that combine.

  Args:
    basic: `tokenization.BasicTokenizer`.
    characters: see `_list_characters`.
  """

  # How a character matters to a sigma beside it. Those between it and the next
  # that is not transparent do not.
  _CASED, _TRANSPARENT = 1, 2

  def __init__(self, basic, characters):
    self._kinds = self._orders = None
    if basic.do_lower_case:
      self._kinds = _tabulate(characters, lambda char: self._kind(basic, char))
    if basic.drops_accents:
      self._orders = _tabulate(
        characters,
        lambda char: (
          unicodedata.combining(char) * (unicodedata.category(char) != "Mn")
        ),
      )

  def _kind(self, basic, char):
    char = basic._clean_text(char)
    if not char:
      return self._TRANSPARENT
    alone, after_a_letter = (
      f"{before}{char}\u03a3".lower().endswith("\u03c2") for before in ".A"
    )
    if alone:
      return self._CASED
    return self._TRANSPARENT * after_a_letter

  def choose_sigmas(self, codes):
    """Returns <int32>[N], a sigma at the end of a word as the final form."""
    if self._kinds is None:
      return codes
    kinds = self._kinds.find(codes)
    is_solid = tf.not_equal(kinds, self._TRANSPARENT)
    solid = tf.boolean_mask(kinds, is_solid)
    # With a text's end before the first and behind the last of them.
    is_cased = tf.equal(tf.pad(solid, [[1, 1]]), self._CASED)
    before = tf.cumsum(tf.cast(is_solid, tf.int32), exclusive=True)
    is_final = tf.gather(is_cased, before) & ~tf.gather(
      is_cased, tf.minimum(before + 2, tf.size(is_cased) - 1)
    )
    is_final &= tf.equal(codes, _SIGMA)
    return tf.where_v2(is_final, _FINAL_SIGMA, codes)

  def order_marks(self, codes):
    """Returns <int32>[N], marks beside each other in Unicode's order.

    Nearly all marks are dropped instead; some two dozen are not.
    """
    if self._orders is None:
      return codes
    orders = self._orders.find(codes)
    group = tf.cumsum(tf.cast(tf.equal(orders, 0), tf.int32))
    key = group * 256 + orders  # of the classes, which are below 256
    return tf.cond(
      tf.reduce_all(key[1:] >= key[:-1]),
      lambda: codes,
      lambda: tf.gather(codes, tf.argsort(key, stable=True)),
    )


def _tabulate(characters, number_of):
  """Returns the `_Table` of a function from character to number, else 0."""
  numbers = np.zeros(_END + 1, np.int32)
  for char in characters:
    numbers[ord(char)] = number_of(char)
  return _Table(numbers)


class _Characters:
  """Replaces characters by none, one or several.

  Args:
    become: function from a character to a text.
    others: list of what any element becomes that is no character.
    neighbours: `_Neighbours`.
    characters: those that may become something else.
  """

  def __init__(self, become, others, neighbours, characters):
    self._neighbours = neighbours
    numbers = {(_SELF,): 0}  # of what characters become

    def number_of(char):
      return numbers.setdefault(_describe(char, become(char)), len(numbers))

    table = np.zeros(_END + 1, np.int32)
    for char in characters:
      table[ord(char)] = number_of(char)
    table[_END] = numbers.setdefault(tuple(others), len(numbers))
    self._table = _Table(table)
    lengths = np.int32(list(map(len, numbers)))
    self._ends = np.cumsum(lengths, dtype=np.int32)
    self._starts = self._ends - lengths
    self._parts = np.int32([part for parts in numbers for part in parts])

  def replace(self, codes, rows):
    """Returns elements and their texts as they are after it.

    Args:
      codes, rows: <int32>[N].
    """
    codes = self._neighbours.choose_sigmas(codes)
    number = self._table.find(codes)
    places = tf.ragged.range(
      tf.gather(tf.constant(self._starts), number),
      tf.gather(tf.constant(self._ends), number),
    )
    source = places.value_rowids()
    parts = tf.gather(tf.constant(self._parts), places.flat_values)
    parts = tf.where_v2(tf.equal(parts, _SELF), tf.gather(codes, source), parts)
    parts = self._neighbours.order_marks(parts)
    stays = tf.not_equal(parts, _BREAK)
    rows = tf.boolean_mask(tf.gather(rows, source), stays)
    return tf.boolean_mask(parts, stays), rows


def _describe(char, text):
  """Returns what a character becomes as a tuple of elements.

  A mark that is dropped leaves a break where marks to its left and right are
  not put in order, as those around a character are not.
  """
  if not text and unicodedata.category(char) == "Mn":
    return () if unicodedata.combining(char) else (_BREAK,)
  return tuple(_SELF if part == char else ord(part) for part in text)


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
    is_word = tf.not_equal(codes, _SPACE) & tf.not_equal(codes, _END)
    begins = is_word & ~tf.pad(is_word, [[1, 0]])[:-1]
    roots = tf.where_v2(begins, self._tree.ROOT, self._inside)
    lengths, ids = self._tree.find_longest(codes, tf.cast(roots, tf.int64))
    is_whole = codes >= _FIRST_TOKEN
    lengths = tf.where_v2(is_whole, 1, lengths)
    ids = tf.where_v2(is_whole, codes - _FIRST_TOKEN, ids)
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
      self._letters = _tabulate(
        map(chr, range(_END)), lambda char: bool(re.match(r"\w", char))
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
    tokens = tf.gather(tf.constant(self._ids), number) + _FIRST_TOKEN
    codes = tf.where_v2(found, tokens, codes)
    stays = found | (place >= end)
    return tf.boolean_mask(codes, stays), tf.boolean_mask(rows, stays)
