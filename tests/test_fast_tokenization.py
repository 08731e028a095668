"""Remembered words, against the figures of 2018 and the plain stages."""

import doctest
import json
import pickle
import random
import unicodedata

from conftest import GOLDEN
import pytest

from bert_classifier import fast_tokenization
import tokenization

pytestmark = pytest.mark.quick

VOCAB = str(GOLDEN / "unicode" / "vocab.txt")


@pytest.fixture(scope="module")
def tokenizers():
  return {
    lower: tokenization.FullTokenizer(VOCAB, do_lower_case=lower)
    for lower in (True, False)
  }


def test_fast_ids_equal_the_original(tokenizers):
  caches = {
    lower: fast_tokenization.WordCache(tokenizer)
    for lower, tokenizer in tokenizers.items()
  }
  path = GOLDEN / "unicode" / "tokenization.jsonl"
  with open(path, encoding="utf-8") as file:
    rows = [json.loads(line) for line in file]
  compared = 0
  for row in rows:
    if all(unicodedata.category(char) != "Cn" for char in row["text"]):
      assert caches[row["do_lower_case"]].ids(row["text"]) == row["ids"]
      compared += 1
  assert compared > 800


def write(folder, content):
  path = folder / "vocab.txt"
  path.write_bytes(content)
  return str(path)


# Characters that vanish, split, decompose, combine or are lower-cased by where
# they stand, between letters and spaces that make words of them.
ODD = (
  "\0\x07\x0b\x0c\x1c\x1d\x1e\x1f\x7f\x85\u00a0\u00ad\u180e\u200b\u200d\u2028"
  "\u2029\u202f\u3000\ufeff\ufffd\u03a3\u03c3\u0130\u0131\u1e9e\u037e\u1fef"
  "\u226f\u302e\u302f\u0301\u0323\U0001d165\U0001d16d\u00c5\u212b\ufa0e\u4e2d"
  "\U0002f81a\uac00\u1100\u0e33\u0958\ud800\ue000\u2126$#[]',.!-"
)


def random_text(rng):
  pools = (
    lambda: rng.choice(ODD),
    lambda: chr(rng.randrange(128)),
    lambda: chr(rng.randrange(0x3000)),
    lambda: chr(rng.randrange(0x110000)),
    lambda: rng.choice("aeinost \u4e2d\u6587AEINOST"),
  )
  chosen = rng.sample(pools, rng.randint(1, len(pools)))
  return "".join(rng.choice(chosen)() for _ in range(rng.randrange(60)))


def tokenizer_that_knows(folder, texts, *settings):
  """Returns a tokenizer with pieces for most characters and pairs of them."""
  basic = tokenization.BasicTokenizer(*settings)
  words = [word for text in texts for word in basic.tokenize(text)]
  pieces = {word[n : n + 1] for word in words for n in range(len(word))}
  pieces |= {word[n : n + 2] for word in words[::7] for n in range(len(word))}
  pieces = sorted(pieces)
  del pieces[::20]
  tokens = [*tokenization.REQUIRED_TOKENS, *pieces, *("##" + p for p in pieces)]
  content = "\n".join(tokens).encode("utf-8", "ignore")
  return tokenization.FullTokenizer(write(folder, content), *settings)


def differing(tokenizer, texts):
  """Returns the texts whose fast ids are not those of the three stages."""
  cache = fast_tokenization.WordCache(tokenizer)
  return [
    ascii(text)
    for text in texts
    if cache.ids(text)
    != tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))
  ]


@pytest.mark.parametrize("lower", [True, False])
def test_fast_ids_equal_the_plain_stages_on_random_unicode(tmp_path, lower):
  rng = random.Random(42)
  texts = [random_text(rng) for _ in range(5000)]
  tokenizer = tokenizer_that_knows(tmp_path, texts, lower)
  assert differing(tokenizer, texts) == []
  cache = fast_tokenization.WordCache(tokenizer)
  unknown = [cache.ids(text).count(0) for text in texts]
  assert 0.01 < sum(unknown) / sum(len(t) for t in texts) < 0.2


@pytest.mark.parametrize(
  "settings",
  [(True, False), (False, True), (True, None, False), (False, True, False)],
)
def test_fast_ids_equal_the_plain_stages_under_other_settings(
  tmp_path, settings
):
  rng = random.Random(43)
  texts = [random_text(rng) for _ in range(3000)]
  tokenizer = tokenizer_that_knows(tmp_path, texts, *settings)
  assert differing(tokenizer, texts) == []
  codes = range(0, 0x10000, 7)
  texts = [f"A{chr(code)}\u4e2dN {chr(code)}\u0301" for code in codes]
  assert differing(tokenizer, texts) == []


@pytest.mark.parametrize("lower", [True, False])
def test_fast_ids_equal_the_plain_stages_on_characters(tmp_path, lower):
  # All of the first 12,000 and of the full-width forms, some of the others up
  # to the private planes; beside a sigma, lower-cased by what is before it.
  codes = [*range(0x3000), *range(0x3000, 0x30000, 29), *range(0xFF00, 0xFF60)]
  codes += range(0xE0000, 0xE0200)
  texts = [f"a{chr(code)}N {chr(code)}" for code in codes]
  texts += [f"a{chr(code)}\u03a3" for code in codes]
  tokenizer = tokenizer_that_knows(tmp_path, texts, lower)
  assert differing(tokenizer, texts) == []


def test_a_very_long_word_is_unknown_though_it_is_in_the_vocabulary(tmp_path):
  content = f"[UNK]\n[CLS]\n[SEP]\n{'a' * 200}\n{'a' * 201}\n".encode()
  tokenizer = tokenization.FullTokenizer(write(tmp_path, content))
  text = f"{'a' * 200} {'a' * 201} {'A' * 200}, \u00e1{'a' * 200}"
  cache = fast_tokenization.WordCache(tokenizer)
  assert cache.ids(text) == [3, 0, 3, 0, 0]
  assert differing(tokenizer, [text]) == []


def test_memory_makes_a_value_once_and_keeps_no_long_key():
  asked = []

  def make(key):
    asked.append(key)
    return key.upper()

  memory = fast_tokenization.Memory(make, max_entries=9, longest_key=3)
  made = [memory[key] for key in ("abc", "abc", "abcd", "abcd")]
  assert made == ["ABC", "ABC", "ABCD", "ABCD"]
  assert asked == ["abc", "abcd", "abcd"]
  assert memory == {"abc": "ABC"}


def test_the_examples_of_the_docstrings_hold():
  tried = doctest.testmod(fast_tokenization)
  assert tried.attempted and not tried.failed


def test_memory_of_the_fast_way_is_bounded(tokenizers, monkeypatch):
  cache = fast_tokenization.WordCache(tokenization.FullTokenizer(VOCAB))
  remembered = cache.remembered
  for memory in (remembered.of_chunk, remembered.of_word):
    monkeypatch.setattr(memory, "max_entries", 100)
  rng = random.Random(7)
  for _ in range(1000):
    text = f"{rng.random()} {'long' * 20}{rng.random()}"
    expected = tokenizers[True].convert_tokens_to_ids(
      tokenizers[True].tokenize(text)
    )
    assert cache.ids(text) == expected
  assert len(remembered.of_chunk) <= 100
  assert len(remembered.of_word) <= 100
  assert max(map(len, remembered.of_chunk)) <= remembered.LONGEST_CHUNK


def test_a_tokenizer_and_its_cache_can_be_sent_to_another_process(tokenizers):
  cache = fast_tokenization.WordCache(tokenizers[True])
  cache.ids("a word")
  sent = pickle.loads(pickle.dumps(cache))
  for text in ("a word", "a new word", TEXT):
    assert sent.ids(text) == plain_ids(tokenizers[True], text)


@pytest.mark.parametrize("text", [None, 3, ["a"]])
def test_what_is_no_text_is_refused(tokenizers, text):
  with pytest.raises(ValueError, match="a text must be str or bytes"):
    fast_tokenization.WordCache(tokenizers[True]).ids(text)


# ---------------------------------------------------------------------------
# Parts that other programs replace

TEXT = "Na\u00efve a-b \u4e2d"


def plain_ids(tokenizer, text):
  return tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))


REPLACED = {
  "tokenize": lambda text: ["[UNK]"] * 3,
  "convert_tokens_to_ids": lambda tokens: [7] * len(tokens),
  "basic_tokenizer.tokenize": lambda text: ["a"],
  "basic_tokenizer._clean_text": lambda text: "a",
  "basic_tokenizer._tokenize_chinese_chars": lambda text: text + " a",
  "basic_tokenizer._is_chinese_char": lambda cp: chr(cp) in "ab",
  "basic_tokenizer._run_strip_accents": lambda text: text + "a",
  "basic_tokenizer._run_split_on_punc": lambda text: ["[SEP]", text],
  "wordpiece_tokenizer.tokenize": lambda text: ["a"],
}


@pytest.mark.parametrize("name", REPLACED)
def test_a_method_replaced_in_an_object_has_its_way(tokenizers, name):
  untouched = fast_tokenization.WordCache(tokenizers[True]).ids(TEXT)
  tokenizer = tokenization.FullTokenizer(VOCAB)
  *owners, method = name.split(".")
  owner = getattr(tokenizer, owners[0]) if owners else tokenizer
  setattr(owner, method, REPLACED[name])
  cache = fast_tokenization.WordCache(tokenizer)
  assert cache.ids(TEXT) == plain_ids(tokenizer, TEXT) != untouched


@pytest.mark.parametrize("name", REPLACED)
def test_a_method_replaced_in_a_subclass_has_its_way(tokenizers, name):
  untouched = fast_tokenization.WordCache(tokenizers[True]).ids(TEXT)
  *owners, method = name.split(".")
  kinds = {
    "basic_tokenizer": tokenization.BasicTokenizer(),
    "wordpiece_tokenizer": tokenization.WordpieceTokenizer(
      tokenizers[True].vocab
    ),
  }
  whole = tokenization.FullTokenizer(VOCAB)
  part = kinds[owners[0]] if owners else whole
  own = {method: staticmethod(REPLACED[name])}
  part.__class__ = type("Own", (type(part),), own)
  if owners:
    setattr(whole, owners[0], part)
  ids = fast_tokenization.WordCache(whole).ids(TEXT)
  assert ids == plain_ids(whole, TEXT) != untouched


@pytest.mark.parametrize("part", ["basic_tokenizer", "wordpiece_tokenizer"])
def test_another_stage_has_its_way(part):
  class Letters:
    def tokenize(self, text):
      return list("ab")

  tokenizer = tokenization.FullTokenizer(VOCAB)
  untouched = fast_tokenization.WordCache(tokenizer).ids(TEXT)
  setattr(tokenizer, part, Letters())
  cache = fast_tokenization.WordCache(tokenizer)
  assert cache.ids(TEXT) == plain_ids(tokenizer, TEXT) != untouched


def test_a_setting_that_changes_has_its_way():
  tokenizer = tokenization.FullTokenizer(VOCAB)
  untouched = fast_tokenization.WordCache(tokenizer).ids(TEXT)
  tokenizer.wordpiece_tokenizer.max_input_chars_per_word = 1
  cache = fast_tokenization.WordCache(tokenizer)
  assert cache.ids(TEXT) == plain_ids(tokenizer, TEXT) != untouched


def test_anything_that_tokenizes_will_do():
  class Own:
    def tokenize(self, text):
      return text.split()

    def convert_tokens_to_ids(self, tokens):
      return tuple(map(len, tokens))

  assert fast_tokenization.WordCache(Own()).ids("a dog") == [1, 3]
