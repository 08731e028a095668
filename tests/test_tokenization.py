"""Tokens and ids, against the figures of the 2018 scripts."""

import collections
import doctest
import json
import os
import pickle
import random
import unicodedata

import pytest

import tokenization

pytestmark = pytest.mark.quick

GOLDEN = os.path.join(os.path.dirname(__file__), "golden", "unicode")
VOCAB = os.path.join(GOLDEN, "vocab.txt")


def assigned(text):
  return all(unicodedata.category(char) != "Cn" for char in text)


@pytest.fixture(scope="module")
def tokenizers():
  return {
    lower: tokenization.FullTokenizer(VOCAB, do_lower_case=lower)
    for lower in (True, False)
  }


@pytest.fixture(scope="module")
def golden():
  """The rows whose characters this Python's Unicode tables know."""
  with open(os.path.join(GOLDEN, "tokenization.jsonl"), encoding="utf-8") as f:
    rows = [json.loads(line) for line in f]
  return [row for row in rows if assigned(row["text"])]


def write(folder, content):
  path = folder / "vocab.txt"
  path.write_bytes(content)
  return str(path)


def test_the_rows_to_compare_are_hundreds(golden):
  assert len(golden) > 800
  assert sum(row["do_lower_case"] for row in golden) > 300


def test_tokens_and_ids_equal_the_original(golden, tokenizers):
  for row in golden:
    tokenizer = tokenizers[row["do_lower_case"]]
    assert tokenizer.tokenize(row["text"]) == row["tokens"]
    assert tokenizer.convert_tokens_to_ids(row["tokens"]) == row["ids"]
    assert tokenizer.convert_ids_to_tokens(row["ids"]) == row["tokens"]


def test_fast_ids_equal_the_original(golden, tokenizers):
  for row in golden:
    assert tokenizers[row["do_lower_case"]].ids(row["text"]) == row["ids"]


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


def tokenizer_that_knows(folder, texts, lower):
  """A tokenizer with a piece for most characters and pairs of the texts."""
  basic = tokenization.BasicTokenizer(lower)
  words = [word for text in texts for word in basic.tokenize(text)]
  pieces = {word[n : n + 1] for word in words for n in range(len(word))}
  pieces |= {word[n : n + 2] for word in words[::7] for n in range(len(word))}
  pieces = sorted(pieces)
  del pieces[::20]
  tokens = [*tokenization.REQUIRED_TOKENS, *pieces, *("##" + p for p in pieces)]
  content = "\n".join(tokens).encode("utf-8", "ignore")
  return tokenization.FullTokenizer(write(folder, content), lower)


def differing(tokenizer, texts):
  """The texts whose fast ids are not those of the plain three stages."""
  return [
    ascii(text)
    for text in texts
    if tokenizer.ids(text)
    != tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))
  ]


@pytest.mark.parametrize("lower", [True, False])
def test_fast_ids_equal_the_plain_stages_on_random_unicode(tmp_path, lower):
  rng = random.Random(42)
  texts = [random_text(rng) for _ in range(5000)]
  tokenizer = tokenizer_that_knows(tmp_path, texts, lower)
  assert differing(tokenizer, texts) == []
  unknown = [tokenizer.ids(text).count(0) for text in texts]
  assert 0.01 < sum(unknown) / sum(len(t) for t in texts) < 0.2


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
  assert tokenizer.ids(text) == [3, 0, 3, 0, 0]
  assert differing(tokenizer, [text]) == []


def test_memory_of_the_fast_way_is_bounded(tokenizers, monkeypatch):
  remembered = tokenization.FullTokenizer(VOCAB)._remembered
  for memory in (remembered.of_chunk, remembered.of_word):
    monkeypatch.setattr(memory, "size", 100)
  rng = random.Random(7)
  for _ in range(1000):
    text = f"{rng.random()} {'long' * 20}{rng.random()}"
    expected = tokenizers[True].convert_tokens_to_ids(
      tokenizers[True].tokenize(text)
    )
    assert remembered.ids(text) == expected
  assert len(remembered.of_chunk) <= 100
  assert len(remembered.of_word) <= 100
  assert max(map(len, remembered.of_chunk)) <= remembered.LONGEST_CHUNK


def test_a_tokenizer_can_be_sent_to_another_process(tokenizers):
  tokenizers[True].ids("a word")
  sent = pickle.loads(pickle.dumps(tokenizers[True]))
  assert sent.ids("a new word") == tokenizers[True].ids("a new word")


def test_every_line_of_a_vocabulary_takes_a_number(tmp_path):
  path = write(tmp_path, b"[UNK]\r\n\n  a \t\nb\nb\n\xe3\x80\x80c\n")
  vocab = tokenization.load_vocab(path)
  assert isinstance(vocab, collections.OrderedDict)
  assert list(vocab.items()) == [
    ("[UNK]", 0), ("", 1), ("a", 2), ("b", 4), ("c", 5)
  ]  # fmt: skip


def test_a_byte_order_mark_and_lone_returns_are_simply_read(tmp_path):
  path = write(tmp_path, b"\xef\xbb\xbf[PAD]\r[UNK]\r")
  assert tokenization.load_vocab(path) == {"[PAD]": 0, "[UNK]": 1}


@pytest.mark.parametrize(
  ("content", "said"),
  [
    (b"", "vocab.txt:1: the vocabulary is empty"),
    (b"[UNK]\n[CLS]\na\n", r"vocab.txt:3: .* without \[SEP\];"),
    (b"a\n", r"vocab.txt:1: .* without \[UNK\], \[CLS\], \[SEP\];"),
    (b"[UNK]\n[CLS]\n\xff\n", "vocab.txt:3: the byte 0xff is not UTF-8"),
    (b"\xef\xbb\xbf[UNK]\n\xe4\n", "vocab.txt:2: the byte 0xe4 is not UTF-8"),
  ],
)
def test_an_unfit_vocabulary_is_refused_by_line(tmp_path, content, said):
  with pytest.raises(ValueError, match=said):
    tokenization.FullTokenizer(write(tmp_path, content))


def test_a_missing_vocabulary_or_a_folder_is_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match="none.txt: there is no such"):
    tokenization.FullTokenizer(str(tmp_path / "none.txt"))
  with pytest.raises(ValueError, match="cannot be read as a vocabulary"):
    tokenization.FullTokenizer(str(tmp_path))


def test_a_token_that_is_not_in_the_vocabulary_is_named():
  with pytest.raises(KeyError, match="'cat' is not in the vocabulary of 1"):
    tokenization.convert_tokens_to_ids({"dog": 0}, ["dog", "cat"])


@pytest.mark.parametrize("text", [None, 3, ["a"]])
def test_what_is_no_text_is_refused(tokenizers, text):
  for call in (tokenizers[True].tokenize, tokenizers[True].ids):
    with pytest.raises(ValueError, match="a text must be str or bytes"):
      call(text)


# The seven folders that the original knows.
RELEASES = {
  "uncased_L-24_H-1024_A-16": True,
  "uncased_L-12_H-768_A-12": True,
  "multilingual_L-12_H-768_A-12": True,
  "chinese_L-12_H-768_A-12": True,
  "cased_L-12_H-768_A-12": False,
  "cased_L-24_H-1024_A-16": False,
  "multi_cased_L-12_H-768_A-12": False,
}


@pytest.mark.parametrize(("folder", "lower"), RELEASES.items())
def test_a_released_model_of_the_other_casing_is_refused(folder, lower):
  checkpoint = f"gs://models/{folder}/bert_model.ckpt"
  tokenization.validate_case_matches_checkpoint(lower, checkpoint)
  with pytest.raises(ValueError, match=f"give --do_lower_case={lower}"):
    tokenization.validate_case_matches_checkpoint(not lower, checkpoint)


@pytest.mark.parametrize(
  "path", [None, "", "mine/bert_model.ckpt", "cased_L-12_H-768_A-12/other.ckpt"]
)
def test_an_unknown_checkpoint_is_not_judged(path):
  for lower in (True, False):
    tokenization.validate_case_matches_checkpoint(lower, path)


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "<S>"]
WORDS = [f"word{number}" for number in range(2000)]
HAN = [chr(0x4E00 + number) for number in range(8000)]


@pytest.mark.parametrize(
  ("vocab", "wrong"),
  [
    (SPECIAL + WORDS, False),  # lower-cased, and large enough to tell
    (SPECIAL + [word.title() for word in WORDS[:50]] + WORDS, True),
    (SPECIAL + ["Word"] * 15 + WORDS, None),  # under 1%: neither
    (SPECIAL + WORDS[:900], None),  # small
    (SPECIAL + HAN + WORDS, None),  # mostly of a script without case
    (SPECIAL, None),
    ([], None),
  ],
)
def test_a_casing_that_the_vocabulary_contradicts_is_refused(vocab, wrong):
  for lower in (True, False):
    if lower == wrong:
      with pytest.raises(ValueError, match=f"give --do_lower_case={not lower}"):
        tokenization.validate_case_matches_vocab(lower, vocab)
    else:
      tokenization.validate_case_matches_vocab(lower, vocab)


def test_the_examples_of_the_docstrings_hold():
  tried = doctest.testmod(tokenization)
  assert tried.failed == 0
  assert tried.attempted > 20
