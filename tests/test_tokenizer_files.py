"""tokenizer_files.py: settings, vocabulary, added tokens.

Oracle: what Hugging Face's BertTokenizerFast makes of the same files.
"""

import json

from conftest import GOLDEN
import pytest

from bert_classifier import fast_tokenization, tokenizer_files
from bert_classifier.errors import UserError
import tokenization

pytestmark = pytest.mark.quick


def write_json(path, values):
  path.write_text(json.dumps(values))


def test_the_config_of_a_tokenizer_goes_before_its_normalizer(tmp_path):
  assert tokenizer_files.read_tokenizer_settings(tmp_path) == ({}, {})
  normalizer = {
    "type": "BertNormalizer",
    "lowercase": False,
    "strip_accents": True,
    "handle_chinese_chars": False,
  }
  write_json(tmp_path / "tokenizer.json", {"normalizer": normalizer})
  said, _ = tokenizer_files.read_tokenizer_settings(tmp_path)
  assert said == {
    "do_lower_case": False,
    "strip_accents": True,
    "tokenize_chinese_chars": False,
  }
  theirs = {"do_lower_case": True, "strip_accents": None, "model_max_length": 9}
  write_json(tmp_path / "tokenizer_config.json", theirs)
  said, sources = tokenizer_files.read_tokenizer_settings(tmp_path)
  assert said["do_lower_case"] and said["strip_accents"] is None
  assert sources["do_lower_case"].endswith("tokenizer_config.json")
  assert sources["tokenize_chinese_chars"].endswith("tokenizer.json")


def test_a_normalizer_is_found_in_a_sequence(tmp_path):
  parts = [{"type": "NFC"}, {"type": "BertNormalizer", "lowercase": False}]
  sequence = {"type": "Sequence", "normalizers": parts}
  write_json(tmp_path / "tokenizer.json", {"normalizer": sequence})
  said, _ = tokenizer_files.read_tokenizer_settings(tmp_path)
  assert said == {"do_lower_case": False}


@pytest.mark.parametrize("text", ["{", "[]", '{"do_lower_case": "no"}'])
def test_a_damaged_config_of_a_tokenizer_is_refused(tmp_path, text):
  (tmp_path / "tokenizer_config.json").write_text(text)
  with pytest.raises(UserError, match="tokenizer_config.json"):
    tokenizer_files.read_tokenizer_settings(tmp_path)


def test_the_vocabulary_of_a_tokenizer_json_is_that_of_a_vocab_txt(tmp_path):
  vocab = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 4, "##b": 3, "c": 6}
  values = {
    "model": {"type": "WordPiece", "vocab": vocab},
    "added_tokens": [
      {"content": "[CLS]", "id": 1, "special": True},
      {"content": "[NEW]", "id": 7, "special": False},
    ],
  }
  write_json(tmp_path / "tokenizer.json", values)
  text = tokenizer_files.read_vocabulary(str(tmp_path / "tokenizer.json"))
  assert text == "[UNK]\n[CLS]\n[SEP]\n##b\na\n\nc\n[NEW]\n"
  (tmp_path / "other").mkdir()
  (tmp_path / "other" / "vocab.txt").write_bytes(b"[UNK]\r\na")
  text = tokenizer_files.read_vocabulary(str(tmp_path / "other" / "vocab.txt"))
  assert text == "[UNK]\r\na"


SPECIAL = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2}


@pytest.mark.parametrize(
  "values",
  [
    {},
    {"model": {"type": "BPE", "vocab": SPECIAL}},
    {"model": {"type": "WordPiece", "vocab": ["a"]}},
    {"model": {"type": "WordPiece", "vocab": {"a": 0}}},
    {"model": {"type": "WordPiece", "vocab": {**SPECIAL, "a": 10**12}}},
    {"model": {"type": "WordPiece", "vocab": {**SPECIAL, "a": -1}}},
    {"model": {"type": "WordPiece", "vocab": {**SPECIAL, "a": "3"}}},
    {"model": {"vocab": SPECIAL}, "added_tokens": [3]},
  ],
)
def test_a_tokenizer_of_another_kind_is_refused(tmp_path, values):
  write_json(tmp_path / "tokenizer.json", values)
  reasons = "holds no vocabulary of BERT's|tokenizer.json: the number of|added"
  with pytest.raises(UserError, match=reasons):
    tokenizer_files.read_vocabulary(str(tmp_path / "tokenizer.json"))


# --- added tokens -----------------------------------------------------------

CASES = json.loads((GOLDEN / "added_tokens.json").read_text("utf-8"))


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_added_tokens_stay_whole_as_in_bert_tokenizer_fast(tmp_path, case):
  for name, text in case["files"].items():
    (tmp_path / name).write_text(text, encoding="utf-8")
  given = "tokenizer.json" if "tokenizer.json" in case["files"] else "vocab.txt"
  text = tokenizer_files.read_vocabulary(str(tmp_path / given))
  (tmp_path / "copy").mkdir()
  (tmp_path / "copy" / "vocab.txt").write_text(text, encoding="utf-8")
  settings, _ = tokenizer_files.read_tokenizer_settings(tmp_path)
  added = tokenizer_files.list_added_tokens(tmp_path)
  tokenizer = tokenization.FullTokenizer(
    str(tmp_path / "copy" / "vocab.txt"),
    **settings,
    whole_tokens=[(token, *rest) for token, (_, *rest) in added.items()],
  )
  words = fast_tokenization.WordCache(tokenizer)
  for text, ids in zip(case["texts"], case["ids"]):
    tokens = tokenizer.tokenize(text)
    assert tokenizer.convert_tokens_to_ids(tokens) == ids, text
    assert words.ids(text) == ids


def test_without_tokenizer_files_there_are_no_added_tokens(tmp_path):
  (tmp_path / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\n[MASK]\n[\n]\n")
  path = str(tmp_path / "vocab.txt")
  assert tokenizer_files.list_added_tokens(tmp_path) == {}
  assert tokenizer_files.is_whole_vocabulary(path)
  tokens = tokenization.FullTokenizer(path).tokenize("[MASK]")
  assert tokens == ["[", "[UNK]", "]"]


@pytest.mark.parametrize(
  "name, text",
  [
    ("added_tokens.json", '{"<url>": "x"}'),
    ("added_tokens.json", '{"<url>": 1000000000000}'),
    ("special_tokens_map.json", '{"additional_special_tokens": 3}'),
    ("tokenizer_config.json", '{"added_tokens_decoder": [1]}'),
    ("special_tokens_map.json", "{"),
  ],
)
def test_damaged_files_of_added_tokens_are_named(tmp_path, name, text):
  (tmp_path / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\n")
  (tmp_path / name).write_text(text)
  with pytest.raises(UserError, match=f"{name}|vocab.txt"):
    tokenizer_files.read_vocabulary(str(tmp_path / "vocab.txt"))
