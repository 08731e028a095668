"""Tokenization: text to WordPiece tokens, tokens to ids.

Three stages (Wu et al. 2016, https://arxiv.org/abs/1609.08144, section 4.1, as
BERT uses it). The text is cleaned and split into words; each word is cut into
the longest pieces that the vocabulary knows; each piece has a number, the line
of the vocabulary file on which it stands:

  >>> text = "Jos\u00e9's dog is unaffable!"
  >>> words = BasicTokenizer(do_lower_case=True).tokenize(text)
  >>> words
  ['jose', "'", 's', 'dog', 'is', 'unaffable', '!']

  >>> lines = "[UNK] [CLS] [SEP] ' ! is s dog jose un ##aff ##able".split()
  >>> vocab = {token: number for number, token in enumerate(lines)}
  >>> wordpiece = WordpieceTokenizer(vocab)
  >>> tokens = [piece for word in words for piece in wordpiece.tokenize(word)]
  >>> tokens
  ['jose', "'", 's', 'dog', 'is', 'un', '##aff', '##able', '!']

  >>> convert_tokens_to_ids(vocab, tokens)
  [8, 3, 6, 7, 5, 9, 10, 11, 4]

`FullTokenizer` does the three for a vocabulary file.
"""

import collections
import functools
import itertools
import re
from typing import NamedTuple
import unicodedata

import tensorflow.compat.v1 as tf

UNKNOWN = "[UNK]"
# What a vocabulary must hold for any text to become a list of ids.
REQUIRED_TOKENS = (UNKNOWN, "[CLS]", "[SEP]")

# Unicode's blocks of ideographs that Chinese, Japanese and Korean share. Kana
# and Hangul are not among them: their words stand between spaces, or as one.
IDEOGRAPH_BLOCKS = (
  (0x4E00, 0x9FFF),  # unified ideographs
  (0x3400, 0x4DBF),  # extension A
  (0x20000, 0x2A6DF),  # extension B
  (0x2A700, 0x2B73F),  # extension C
  (0x2B740, 0x2B81F),  # extension D
  (0x2B820, 0x2CEAF),  # extension E
  (0xF900, 0xFAFF),  # compatibility ideographs
  (0x2F800, 0x2FA1F),  # compatibility supplement
)

# Folder names of the released models, by whether they were lower-cased.
_LOWER_CASED_RELEASES = (
  "uncased_L-12_H-768_A-12",
  "uncased_L-24_H-1024_A-16",
  "multilingual_L-12_H-768_A-12",
  "chinese_L-12_H-768_A-12",
)
_CASED_RELEASES = (
  "cased_L-12_H-768_A-12",
  "cased_L-24_H-1024_A-16",
  "multi_cased_L-12_H-768_A-12",
)


# ---------------------------------------------------------------------------
# Characters


def _is_whitespace(char):
  """Returns True for what becomes a space: tab, newline, return, Unicode's Zs.

  >>> [_is_whitespace(char) for char in "\\t\\u3000x"]
  [True, True, False]
  """
  return char in "\t\n\r" or unicodedata.category(char) == "Zs"


def _is_control(char):
  """Returns True for what is dropped: control (Cc) and format (Cf) characters.

  >>> [_is_control(char) for char in "\\x07\\u200d\\n"]
  [True, True, False]
  """
  return char not in "\t\n\r" and unicodedata.category(char) in ("Cc", "Cf")


def _is_punctuation(char):
  """Returns True for what is a word of its own: ASCII symbols, Unicode's P*.

  All of ASCII's symbols count, "$" and "^" as well, though Unicode has them
  elsewhere.

  >>> [_is_punctuation(char) for char in "$-\u3002a"]
  [True, True, True, False]
  """
  if char.isascii():
    return char.isprintable() and not (char.isalnum() or char == " ")
  return unicodedata.category(char).startswith("P")


# ---------------------------------------------------------------------------
# Text


def convert_to_unicode(text):
  """Returns a string as it is, bytes decoded from UTF-8, less what is not.

  >>> convert_to_unicode(b"caf\\xc3\\xa9 \\xff")
  'caf\u00e9 '

  Raises:
    ValueError: neither a string nor bytes.
  """
  if isinstance(text, str):
    return text
  if isinstance(text, bytes):
    return text.decode("utf-8", "ignore")
  raise ValueError(
    f"a text must be str or bytes, not {type(text).__name__}: {text!r}"
  )


def printable_text(text):
  """Returns a string for print and log; as `convert_to_unicode`."""
  return convert_to_unicode(text)


def whitespace_tokenize(text):
  """Returns the words between white space.

  >>> whitespace_tokenize("  a dog\\n")
  ['a', 'dog']
  """
  return text.split()


# ---------------------------------------------------------------------------
# Vocabulary


def load_vocab(vocab_file):
  """Reads a vocabulary: one token a line, its id the line's number from 0.

  White space around a token does not count. Blank and repeated lines take a
  number as well; a token that is repeated has the last of its numbers.

  Args:
    vocab_file: path of a UTF-8 text file.

  Returns:
    OrderedDict from token to id.

  Raises:
    FileNotFoundError: no such file.
    ValueError: a file that cannot be read or is not UTF-8; names the line.
  """
  if tf.io.gfile.isdir(vocab_file):
    raise ValueError(
      f"{vocab_file} is a folder, not a vocabulary file: give the vocab.txt in"
      " it"
    )
  try:
    with tf.io.gfile.GFile(vocab_file, "rb") as reader:
      content = reader.read()
  except tf.errors.NotFoundError as error:
    raise FileNotFoundError(
      f"{vocab_file}: there is no such vocabulary file; it is the vocab.txt"
      " that came with the checkpoint"
    ) from error
  except tf.errors.OpError as error:
    raise ValueError(
      f"{vocab_file}: cannot be read as a vocabulary file: {error.message}"
    ) from error
  try:
    text = content.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    line = error.object.count(b"\n", 0, error.start) + 1
    raise ValueError(
      f"{vocab_file}:{line}: the byte 0x{error.object[error.start]:02x} is not"
      " UTF-8; save the vocabulary in that encoding"
    ) from error
  lines = text.split("\n" if "\n" in text else "\r")
  if not lines[-1]:
    lines.pop()
  return collections.OrderedDict(
    (line.strip(), number) for number, line in enumerate(lines)
  )


def _check_required(vocab, vocab_file):
  """Raises ValueError where BERT's own tokens are not in a vocabulary."""
  missing = [token for token in REQUIRED_TOKENS if token not in vocab]
  if not vocab:
    raise ValueError(
      f"{vocab_file}:1: the vocabulary is empty; it is one token a line, the"
      " vocab.txt that came with the checkpoint"
    )
  if missing:
    raise ValueError(
      f"{vocab_file}:{max(vocab.values()) + 1}: the vocabulary ends without"
      f" {', '.join(missing)}; a BERT vocabulary has"
      f" {', '.join(REQUIRED_TOKENS)}, each on a line of its own"
    )


def convert_by_vocab(vocab, items):
  """Looks each of the items up in a vocabulary, or in its inverse.

  >>> convert_by_vocab({"a": 3, "dog": 5}, ["dog", "a"])
  [5, 3]

  Raises:
    KeyError: an item that is not in it.
  """
  try:
    return [vocab[item] for item in items]
  except KeyError as error:
    raise KeyError(
      f"{error.args[0]!r} is not in the vocabulary of {len(vocab)} entries"
    ) from None


def convert_tokens_to_ids(vocab, tokens):
  """Returns the ids of tokens, by a dictionary from token to id."""
  return convert_by_vocab(vocab, tokens)


def convert_ids_to_tokens(inv_vocab, ids):
  """Returns the tokens of ids, by a dictionary from id to token."""
  return convert_by_vocab(inv_vocab, ids)


# ---------------------------------------------------------------------------
# Casing


def validate_case_matches_checkpoint(do_lower_case, init_checkpoint):
  """Refuses a casing that is not that of a released model, known by its folder.

  Args:
    do_lower_case: whether text will be lower-cased.
    init_checkpoint: path `.../FOLDER/bert_model.ckpt`; any other, or None, is
      not judged.

  Raises:
    ValueError: a released model of the other casing.
  """
  found = re.search(r"([A-Za-z0-9_-]+)/bert_model\.ckpt", init_checkpoint or "")
  folder = found.group(1) if found else None
  if do_lower_case and folder in _CASED_RELEASES:
    raise ValueError(
      f"--init_checkpoint={init_checkpoint} is a cased model, but"
      " --do_lower_case is on; give --do_lower_case=False, or an uncased model"
    )
  if not do_lower_case and folder in _LOWER_CASED_RELEASES:
    raise ValueError(
      f"--init_checkpoint={init_checkpoint} is a lower-cased model, but"
      " --do_lower_case is off; give --do_lower_case=True, or a cased model"
    )


# ---------------------------------------------------------------------------
# Tokenizers


class WholeToken(NamedTuple):
  """A token that is looked for in a text before the text is split.

  Attributes:
    content: the token.
    normalized: whether it is looked for in the cleaned and, where that is so,
      lower-cased text; else in the text as it is.
    single_word: whether no letter or digit may stand beside it.
  """

  content: str
  normalized: bool = False
  single_word: bool = False


class FullTokenizer:
  """Text to tokens to ids, by a vocabulary file.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "vocab.txt")
    >>> with open(path, "w") as file:
    ...   _ = file.write("[UNK] [CLS] [SEP] a dog ##s ,".replace(" ", "\\n"))
    >>> tokenizer = FullTokenizer(path)
    >>> tokenizer.tokenize("A dog, dogs, cats")
    ['a', 'dog', ',', 'dog', '##s', ',', '[UNK]']
    >>> tokenizer.convert_tokens_to_ids(["dog", "##s"])
    [4, 5]
    >>> tokenizer.convert_ids_to_tokens([4, 5])
    ['dog', '##s']

  Args:
    vocab_file: path of the vocabulary, see `load_vocab`.
    do_lower_case: whether text loses case and accents, as it did for the model.
    strip_accents, tokenize_chinese_chars: see `BasicTokenizer`.
    whole_tokens: sequence of `WholeToken`s, or of their fields; those in the
      vocabulary stay whole wherever they stand in a text. The original has
      none: it cuts "[MASK]" in a text as any other word.

  Attributes:
    vocab: OrderedDict from token to id.
    inv_vocab: dictionary from id to token.

  Raises:
    FileNotFoundError: no such vocabulary.
    ValueError: a vocabulary that is empty, is not UTF-8, or lacks [UNK], [CLS]
      or [SEP]; names file and line.
  """

  def __init__(
    self,
    vocab_file,
    do_lower_case=True,
    strip_accents=None,
    tokenize_chinese_chars=True,
    whole_tokens=(),
  ):
    self.vocab = load_vocab(vocab_file)
    _check_required(self.vocab, vocab_file)
    self.inv_vocab = {number: token for token, number in self.vocab.items()}
    self.basic_tokenizer = BasicTokenizer(
      do_lower_case=do_lower_case,
      strip_accents=strip_accents,
      tokenize_chinese_chars=tokenize_chinese_chars,
    )
    self.wordpiece_tokenizer = WordpieceTokenizer(vocab=self.vocab)
    whole_tokens = (WholeToken(*token) for token in whole_tokens)
    self.whole_tokens = tuple(
      t for t in whole_tokens if t.content in self.vocab
    )

  def tokenize(self, text):
    """Returns the WordPiece tokens of a text, as a list."""
    if not self.whole_tokens:
      return self._tokenize_words(text)
    tokens = []
    for part, is_whole in self.split_at_whole_tokens(text):
      tokens.extend([part] if is_whole else self._tokenize_words(part))
    return tokens

  def _tokenize_words(self, text):
    return [
      token
      for word in self.basic_tokenizer.tokenize(text)
      for token in self.wordpiece_tokenizer.tokenize(word)
    ]

  def split_at_whole_tokens(self, text):
    """Yields the parts of a text: (a token, True) or (text between, False)."""
    text = convert_to_unicode(text)
    for part, token in self._as_it_is.split(text):
      if token is not None:
        yield token, True
      elif self._normalized:
        part = self.basic_tokenizer.normalize(part)
        for inner, token in self._normalized.split(part):
          yield token or inner, token is not None
      else:
        yield part, False

  @functools.cached_property
  def _as_it_is(self):
    found = [token for token in self.whole_tokens if not token.normalized]
    return _Finder({token.content: token for token in found})

  @functools.cached_property
  def _normalized(self):
    normalize = self.basic_tokenizer.normalize
    found = {
      normalize(token.content): token
      for token in self.whole_tokens
      if token.normalized
    }
    return _Finder(found) if found else None

  def convert_tokens_to_ids(self, tokens):
    """Returns the ids of tokens; KeyError for one not in the vocabulary."""
    return convert_tokens_to_ids(self.vocab, tokens)

  def convert_ids_to_tokens(self, ids):
    """Returns the tokens of ids; KeyError for one not in the vocabulary."""
    return convert_ids_to_tokens(self.inv_vocab, ids)


class _Finder:
  """Finds tokens in a text, of several that begin there the longest.

  Args:
    tokens: {text to look for: `WholeToken`}.
  """

  def __init__(self, tokens):
    self._tokens = tokens
    longest_first = sorted(filter(None, tokens), key=len, reverse=True)
    pattern = "|".join(map(re.escape, longest_first))
    self._pattern = re.compile(pattern or r"(?!)")

  def split(self, text):
    """Yields (text, None) and (text that was found, token) in turn."""
    end = 0
    for match in self._pattern.finditer(text):
      token = self._tokens[match.group()]
      if token.single_word and _is_in_a_word(match):
        continue
      if match.start() > end:
        yield text[end : match.start()], None
      yield match.group(), token.content
      end = match.end()
    if end < len(text):
      yield text[end:], None


def _is_in_a_word(match):
  """Returns True where a letter, a digit or _ stands beside a match."""
  before, after = match.string[: match.start()], match.string[match.end() :]
  return bool(re.search(r"\w\Z", before[-1:]) or re.match(r"\w", after[:1]))


class BasicTokenizer:
  """Text to words: cleaned, split at white space and around punctuation.

    >>> BasicTokenizer().tokenize("It's  a\\tna\u00efve\\x00 caf\u00e9-bar.")
    ['it', "'", 's', 'a', 'naive', 'cafe', '-', 'bar', '.']
    >>> BasicTokenizer(do_lower_case=False).tokenize("Na\u00efve!")
    ['Na\u00efve', '!']

  Ideographs stand alone, since no spaces tell their words apart:

    >>> BasicTokenizer().tokenize("\u6211\u559c\u6b22BERT\u3002")
    ['\u6211', '\u559c', '\u6b22', 'bert', '\u3002']

  Accents can be kept or dropped whatever the case:

    >>> BasicTokenizer(strip_accents=False).tokenize("Caf\u00e9")
    ['caf\u00e9']
    >>> BasicTokenizer(False, strip_accents=True).tokenize("Caf\u00e9")
    ['Cafe']

  Args:
    do_lower_case: whether to lower-case and, unless `strip_accents` says
      otherwise, to drop accents.
    strip_accents: whether to drop accents; None to follow `do_lower_case`.
    tokenize_chinese_chars: whether ideographs stand alone.
  """

  def __init__(
    self, do_lower_case=True, strip_accents=None, tokenize_chinese_chars=True
  ):
    self.do_lower_case = do_lower_case
    self.strip_accents = strip_accents
    self.tokenize_chinese_chars = tokenize_chinese_chars

  @property
  def drops_accents(self):
    """Returns whether accents are dropped."""
    if self.strip_accents is None:
      return self.do_lower_case
    return self.strip_accents

  def tokenize(self, text):
    """Returns the words of a text, as a list."""
    text = self._clean_text(convert_to_unicode(text))
    if self.tokenize_chinese_chars:
      text = self._tokenize_chinese_chars(text)
    words = []
    for word in whitespace_tokenize(text):
      if self.do_lower_case:
        word = word.lower()
      # Before punctuation: decomposing makes some, such as ";" of U+037E.
      if self.drops_accents:
        word = self._run_strip_accents(word)
      words.extend(self._run_split_on_punc(word))
    return whitespace_tokenize(" ".join(words))

  def normalize(self, text):
    """Returns a text cleaned, and without case and accents where that is so."""
    text = self._clean_text(text)
    if self.tokenize_chinese_chars:
      text = self._tokenize_chinese_chars(text)
    if self.do_lower_case:
      text = text.lower()
    return self._run_strip_accents(text) if self.drops_accents else text

  # Each of these can be replaced, in a subclass or in an object.

  def _clean_text(self, text):
    """Drops control characters; makes every kind of space a space.

    >>> BasicTokenizer()._clean_text("a\\tb\\x07\\ufffdc")
    'a bc'
    """
    kept = (c for c in text if not (c in "\0\ufffd" or _is_control(c)))
    return "".join(" " if _is_whitespace(char) else char for char in kept)

  def _tokenize_chinese_chars(self, text):
    """Puts spaces around every ideograph.

    >>> BasicTokenizer()._tokenize_chinese_chars("a\u732bb")
    'a \u732b b'
    """
    return "".join(
      f" {char} " if self._is_chinese_char(ord(char)) else char for char in text
    )

  def _is_chinese_char(self, cp):
    """Returns True where a code point is in one of `IDEOGRAPH_BLOCKS`."""
    return any(first <= cp <= last for first, last in IDEOGRAPH_BLOCKS)

  def _run_strip_accents(self, text):
    """Decomposes characters and drops their nonspacing marks.

    >>> BasicTokenizer()._run_strip_accents("\u00e9cole \u1f00\u03c1\u03ae")
    'ecole \u03b1\u03c1\u03b7'
    """
    decomposed = unicodedata.normalize("NFD", text)
    return "".join(c for c in decomposed if unicodedata.category(c) != "Mn")

  def _run_split_on_punc(self, text):
    """Splits a word around its punctuation.

    >>> BasicTokenizer()._run_split_on_punc("what?!")
    ['what', '?', '!']
    """
    words = []
    for is_punctuation, run in itertools.groupby(text, _is_punctuation):
      run = "".join(run)
      words.extend(run if is_punctuation else [run])
    return words


class WordpieceTokenizer:
  """Words to the longest pieces of a vocabulary, from the left.

  A piece that does not begin its word stands in the vocabulary behind `##`:

    >>> pieces = WordpieceTokenizer({"un", "##aff", "##able", "##a", "##ble"})
    >>> pieces.tokenize("unaffable")
    ['un', '##aff', '##able']

  A word whose rest has no piece is unknown as a whole, and so is a very long
  one, which would take time and mean little:

    >>> pieces.tokenize("unaffected un")
    ['[UNK]', 'un']
    >>> WordpieceTokenizer({"un"}, max_input_chars_per_word=1).tokenize("un")
    ['[UNK]']

  Args:
    vocab: the tokens: a dictionary from token to id, or a set.
    unk_token: what an unknown word becomes.
    max_input_chars_per_word: characters of the longest word that is looked at.
  """

  def __init__(self, vocab, unk_token=UNKNOWN, max_input_chars_per_word=200):
    self.vocab, self.unk_token = vocab, unk_token
    self.max_input_chars_per_word = max_input_chars_per_word

  def tokenize(self, text):
    """Returns the pieces of words that stand between white space, as a list."""
    words = whitespace_tokenize(convert_to_unicode(text))
    return [piece for word in words for piece in self._pieces(word)]

  def _pieces(self, word):
    """Returns the pieces of one word."""
    if len(word) > self.max_input_chars_per_word:
      return [self.unk_token]
    pieces, start = [], 0
    while start < len(word):
      piece, start = self._longest(word, start)
      if piece is None:
        return [self.unk_token]
      pieces.append(piece)
    return pieces

  def _longest(self, word, start):
    """Returns the longest piece from `start` on, or None; and its end."""
    prefix = "##" if start else ""
    for end in range(len(word), start, -1):
      if (piece := prefix + word[start:end]) in self.vocab:
        return piece, end
    return None, start
