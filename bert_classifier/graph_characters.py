"""What characters become, in tables for a graph; see `graph_tokenization`.

The tables are made by asking `tokenization.BasicTokenizer` about each of
Unicode's characters. Only a capital sigma and marks that combine depend on
their neighbours.

Axis letter: N elements of a vector.
"""

import functools
import re
import unicodedata

import numpy as np
import tensorflow.compat.v1 as tf

import tokenization

# Elements of a vector that are no characters: the end of a text, a place where
# marks are not put in order, and from there on tokens, by their ids.
END = 0x110000
_BREAK = END + 1
FIRST_TOKEN = END + 2
SPACE = ord(" ")
_SELF = -1  # stands for the character itself, in what a character becomes
_SIGMA, _FINAL_SIGMA = 0x3A3, 0x3C2


class _Table:
  """A number for each code point, in blocks, of which most are the same.

  Args:
    numbers: array [END + 1]; the last is that of all that is no character.
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
    codes = tf.minimum(codes, END)
    block = tf.gather(tf.constant(self._which), codes // self._BLOCK)
    index = block * self._BLOCK + codes % self._BLOCK
    return tf.gather(tf.constant(self._blocks), index)


@functools.cache  # as what follows: a second or two
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
    for code in range(END)
    if code in ideographs
    or unicodedata.category(chr(code)) not in ("Cn", "Co", "Cs")
  ]


@functools.cache
def make_characters(aim, *settings):
  """Returns the `_Characters` of a `BasicTokenizer` with some settings.

  Args:
    aim: "normalize" to do what its `normalize` does, "split" to have spaces
      between all words, too.
    settings: arguments of `BasicTokenizer`.
  """
  basic, characters = tokenization.BasicTokenizer(*settings), _list_characters()
  neighbours = _find_neighbours(*settings)
  if aim == "normalize":
    return _Characters(basic.normalize, [_SELF], neighbours, characters)

  def make_words(char):
    text = "".join(
      f" {part} " if tokenization._is_punctuation(part) else part
      for part in basic.normalize(char)
    )
    return re.sub(r"\s", " ", text)  # U+2028, too

  apart = [SPACE, _SELF, SPACE]
  return _Characters(make_words, apart, neighbours, characters)


@functools.cache
def _find_neighbours(*settings):
  """Returns the `_Neighbours` of a `BasicTokenizer` with some settings."""
  basic = tokenization.BasicTokenizer(*settings)
  return _Neighbours(basic, _list_characters())


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
      self._kinds = tabulate(characters, lambda char: self._kind(basic, char))
    if basic.drops_accents:
      self._orders = tabulate(
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


def tabulate(characters, number_of):
  """Returns the `_Table` of a function from character to number, else 0."""
  numbers = np.zeros(END + 1, np.int32)
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

    table = np.zeros(END + 1, np.int32)
    for char in characters:
      table[ord(char)] = number_of(char)
    table[END] = numbers.setdefault(tuple(others), len(numbers))
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
