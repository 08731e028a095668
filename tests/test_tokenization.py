"""Tokens and ids, against the figures of the 2018 scripts."""

import collections
import doctest
import json
import pickle
import unicodedata

from conftest import GOLDEN
import pytest

import tokenization

pytestmark = pytest.mark.quick

VOCAB = str(GOLDEN / "unicode" / "vocab.txt")


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
  """Returns the rows whose characters this Python's Unicode tables know."""
  path = GOLDEN / "unicode" / "tokenization.jsonl"
  with open(path, encoding="utf-8") as file:
    rows = [json.loads(line) for line in file]
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


def test_words_under_every_setting_equal_those_of_hugging_face():
  # tokenizers 0.23.3: BertNormalizer, then BertPreTokenizer.
  path = GOLDEN / "unicode" / "tokenizer_settings.jsonl"
  with open(path, encoding="utf-8") as file:
    rows = [json.loads(line) for line in file]
  for row in rows:
    text, words = row.pop("text"), row.pop("words")
    assert tokenization.BasicTokenizer(**row).tokenize(text) == words
  assert len(rows) == 144


def test_a_tokenizer_can_be_sent_to_another_process(golden, tokenizers):
  sent = pickle.loads(pickle.dumps(tokenizers))
  for row in golden[::20]:
    tokenizer = sent[row["do_lower_case"]]
    assert tokenizer.tokenize(row["text"]) == row["tokens"]
    assert tokenizer.convert_tokens_to_ids(row["tokens"]) == row["ids"]


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
  with pytest.raises(ValueError, match="is a folder, not a vocabulary file"):
    tokenization.FullTokenizer(str(tmp_path))


def test_a_token_that_is_not_in_the_vocabulary_is_named():
  with pytest.raises(KeyError, match="'cat' is not in the vocabulary of 1"):
    tokenization.convert_tokens_to_ids({"dog": 0}, ["dog", "cat"])


@pytest.mark.parametrize("text", [None, 3, ["a"]])
def test_what_is_no_text_is_refused(tokenizers, text):
  with pytest.raises(ValueError, match="a text must be str or bytes"):
    tokenizers[True].tokenize(text)


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


# ---------------------------------------------------------------------------
# Parts that other programs replace

PARTS = {
  "_clean_text": (lambda text: text.replace("_", " "), "a_b", ["a", "b"]),
  "_tokenize_chinese_chars": (
    lambda text: text,
    "\u732b\u72ac",
    ["\u732b\u72ac"],
  ),
  "_is_chinese_char": (lambda cp: cp == ord("x"), "axb", ["a", "x", "b"]),
  "_run_strip_accents": (lambda text: text, "\u00c9", ["\u00e9"]),
  "_run_split_on_punc": (lambda text: [text], "a-b", ["a-b"]),
}


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("where", ["object", "subclass"])
def test_a_part_that_is_replaced_has_its_way(name, where):
  part, text, expected = PARTS[name]
  kind = tokenization.BasicTokenizer
  assert kind().tokenize(text) != expected
  if where == "subclass":
    own = type("Own", (kind,), {name: staticmethod(part)})()
  else:
    own = kind()
    setattr(own, name, part)
  assert own.tokenize(text) == expected


def test_parts_can_be_called_by_themselves():
  basic = tokenization.BasicTokenizer()
  assert basic._clean_text("a\0b\u00a0\ufffdc\r\x7f") == "ab c "
  assert basic._tokenize_chinese_chars("a\u4e2d\u3042") == "a \u4e2d \u3042"
  assert [basic._is_chinese_char(cp) for cp in (0x4E00, 0x9FFF, 0x3042)] == [
    True,
    True,
    False,
  ]
  assert basic._run_strip_accents("\u00c9t\u00e9") == "Ete"
  assert basic._run_split_on_punc("(a b)c!?") == [
    "(",
    "a b",
    ")",
    "c",
    "!",
    "?",
  ]
  assert basic._run_split_on_punc("") == []


def test_the_examples_of_the_docstrings_hold():
  tried = doctest.testmod(tokenization)
  assert tried.failed == 0
  assert tried.attempted > 20
