"""Text to ids by remembered words.

  ids = WordCache(tokenizer).ids(text)

equals `tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))`, and takes
that way where a part of the tokenizer was replaced.
"""

import itertools
import re
import unicodedata

import tokenization

# The methods whose results the cache reproduces, by class: whoever replaces one
# of them, in a subclass or in an object, gets the results of the replacement.
_KNOWN = {
  tokenization.FullTokenizer: (
    "tokenize",
    "_tokenize_words",
    "split_at_whole_tokens",
    "convert_tokens_to_ids",
  ),
  tokenization.BasicTokenizer: (
    "tokenize",
    "_clean_text",
    "_tokenize_chinese_chars",
    "_is_chinese_char",
    "_run_strip_accents",
    "_run_split_on_punc",
  ),
  tokenization.WordpieceTokenizer: ("tokenize", "_pieces", "_longest"),
}
_METHODS = {
  kind: {name: vars(kind)[name] for name in names}
  for kind, names in _KNOWN.items()
}


def _is_plain(part, kind):
  """Returns True where an object has all methods of `_KNOWN` unchanged."""
  return isinstance(part, kind) and all(
    getattr(type(part), name) is method and name not in vars(part)
    for name, method in _METHODS[kind].items()
  )


class WordCache:
  """Text to ids by dictionaries of chunks of text, words and characters.

  A chunk, what stands between two spaces, becomes the same ids whatever stands
  beside it, and so does a word in it; text repeats both. What a character
  becomes depends on its neighbours in two cases only, for which the tokenizer
  itself is asked.

  Args:
    tokenizer: a `tokenization.FullTokenizer`, or anything with `tokenize` and
      `convert_tokens_to_ids`. Where a part of it is replaced when the cache is
      made, it is asked for every text.

  Attributes:
    remembered: what is remembered, or None where the tokenizer is asked.
  """

  def __init__(self, tokenizer):
    self._tokenizer, self.remembered = tokenizer, None
    if not _is_plain(tokenizer, tokenization.FullTokenizer):
      return
    basic, pieces = tokenizer.basic_tokenizer, tokenizer.wordpiece_tokenizer
    if (
      _is_plain(basic, tokenization.BasicTokenizer)
      and _is_plain(pieces, tokenization.WordpieceTokenizer)
      and tokenizer.vocab is pieces.vocab
      and pieces.unk_token in pieces.vocab
    ):
      self.remembered = RememberedIds(basic, pieces)

  def ids(self, text):
    """Returns the ids of a text, as a list.

    Raises:
      ValueError: it is neither a string nor bytes.
      KeyError: a token that a tokenizer gives is not in its vocabulary.
    """
    if self.remembered is not None:
      if self._tokenizer.whole_tokens:
        return self._ids_around_whole_tokens(text)
      return self.remembered.ids(text)
    tokens = self._tokenizer.tokenize(text)
    return list(self._tokenizer.convert_tokens_to_ids(tokens))

  def _ids_around_whole_tokens(self, text):
    numbers = []
    for part, is_whole in self._tokenizer.split_at_whole_tokens(text):
      if is_whole:
        numbers.append(self._tokenizer.vocab[part])
      else:
        numbers.extend(self.remembered.ids(part))
    return numbers


class Memory(dict):
  """A dictionary that makes the values it lacks, and is emptied when full.

    >>> squares = Memory(lambda number: number**2, max_entries=2)
    >>> squares[3], squares[4], squares[5]
    (9, 16, 25)
    >>> squares
    {5: 25}

  Args:
    make: function from key to value.
    max_entries: the most entries that are kept.
    longest_key: length of the longest key that is kept; None where any is, and
      for keys without a length.
  """

  def __init__(self, make, max_entries, longest_key=None):
    super().__init__()
    self.make = make
    self.max_entries, self.longest_key = max_entries, longest_key

  def __missing__(self, key):
    value = self.make(key)
    if self.longest_key is None or len(key) <= self.longest_key:
      if len(self) >= self.max_entries:
        self.clear()
      self[key] = value
    return value


# Printable ASCII without a space: words and punctuation.
_ascii_words = re.compile(r"[0-9A-Za-z]+|[!-~]").findall

# Characters that are words whatever stands beside them: ideographs, and of the
# marks between them those that no rule of lower-casing looks through.
_LONE = "\u3001\u3002\uff01\uff0c\uff1f" + "".join(
  f"{chr(first)}-{chr(last)}" for first, last in tokenization.IDEOGRAPH_BLOCKS
)
_at_lone_characters = re.compile(f"([{_LONE}]+)").split


class RememberedIds:
  """The memory of a `WordCache`: dictionaries of chunks, words and characters.

  Args:
    basic: a `tokenization.BasicTokenizer`.
    pieces: a `tokenization.WordpieceTokenizer`.
  """

  # Of each dictionary; some 30 MB when full.
  MAX_ENTRIES = 1 << 17
  # Longer chunks, such as whole Chinese sentences, do not come again.
  LONGEST_CHUNK = 24
  # Stands for a character that the dictionary of characters cannot answer; that
  # of the text itself is dropped.
  NEIGHBOURS_MATTER = "\0"

  def __init__(self, basic, pieces):
    self.basic, self.vocab = basic, pieces.vocab
    self.unknown = (pieces.vocab[pieces.unk_token],)
    self.longest_word = pieces.max_input_chars_per_word
    self.longest_token = max(map(len, self.vocab))
    if self.longest_token > self.longest_word:
      # Words are looked up before their length is looked at: tokens longer than
      # a word may be must not be found.
      self.vocab = {
        token: number
        for token, number in self.vocab.items()
        if len(token) <= self.longest_word
      }
    self.of_chunk = Memory(self._chunk, self.MAX_ENTRIES, self.LONGEST_CHUNK)
    self.of_word = Memory(self._word, self.MAX_ENTRIES, self.LONGEST_CHUNK)
    self.of_lone = Memory(self._lone, self.MAX_ENTRIES)
    self.of_character = Memory(self._character, self.MAX_ENTRIES)

  def ids(self, text):
    """Returns the ids of a text, as a list."""
    if type(text) is not str:
      text = tokenization.convert_to_unicode(text)
    # str.split takes some control characters for spaces that BasicTokenizer
    # drops; none of them is printable.
    if not text.isprintable():
      return self._ids_of_words(self._words(text))
    chunks = map(self.of_chunk.__getitem__, text.split())
    return list(itertools.chain.from_iterable(chunks))

  def _chunk(self, chunk):
    """Returns the ids of printable text without a space."""
    if chunk.isascii():
      chunk = chunk.lower() if self.basic.do_lower_case else chunk
      if chunk.isalnum() and (number := self.vocab.get(chunk)) is not None:
        return (number,)
      return self._ids_of_words(_ascii_words(chunk))
    others, *parts = _at_lone_characters(chunk)
    if not (parts and self.basic.tokenize_chinese_chars):
      return self._ids_of_words(self._words(chunk))
    numbers = list(self.of_chunk[others])
    for lone, others in zip(parts[::2], parts[1::2]):
      numbers.extend(map(self.of_lone.__getitem__, lone))
      numbers.extend(self.of_chunk[others])
    return numbers

  def _lone(self, char):
    """Returns the id of a character that is a word."""
    (number,) = self._ids_of_words(self.basic.tokenize(char))
    return number

  def _words(self, text):
    """Returns the words of a text, as `BasicTokenizer` gives them."""
    text_of_words = text.translate(self.of_character)
    if self.NEIGHBOURS_MATTER in text_of_words:
      return self.basic.tokenize(text)
    return text_of_words.split()

  def _character(self, code_point):
    """Returns what a character becomes, for str.translate: words and spaces."""
    cleaned = self.basic._clean_text(chr(code_point))
    if self.basic.tokenize_chinese_chars:
      cleaned = self.basic._tokenize_chinese_chars(cleaned)
    if self.basic.do_lower_case:
      # A capital sigma is lower-cased by its place in the word.
      if code_point == 0x3A3:
        return self.NEIGHBOURS_MATTER
      cleaned = cleaned.lower()
    if self.basic.drops_accents:
      cleaned = self.basic._run_strip_accents(cleaned)
      # A mark that is kept, though it combines, is put in order with the marks
      # beside it.
      if any(map(unicodedata.combining, cleaned)):
        return self.NEIGHBOURS_MATTER
    return "".join(
      f" {char} " if tokenization._is_punctuation(char) else char
      for char in cleaned
    )

  def _ids_of_words(self, words):
    """Returns the ids of words, as a list."""
    numbers = []
    for word in words:
      number = self.vocab.get(word)
      if number is None:
        numbers.extend(self.of_word[word])
      else:
        numbers.append(number)
    return numbers

  def _word(self, word):
    """Returns the ids of the pieces that `WordpieceTokenizer` finds."""
    if len(word) > self.longest_word:
      return self.unknown
    numbers, rest, done = [], word, 0  # characters of rest before the piece
    while len(rest) > done:
      end = min(len(rest), self.longest_token)
      while (number := self.vocab.get(rest[:end])) is None:
        end -= 1
        if end <= done:
          return self.unknown
      numbers.append(number)
      rest, done = "##" + rest[end:], 2
    return tuple(numbers)
