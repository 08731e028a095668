"""graph_tokenization.py, against the figures of 2018 and the plain stages."""

import collections
import json
import random
import unicodedata

from conftest import AS_BUILT, GOLDEN, read_records
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import targets, tokenizer_files
from bert_classifier.features import Converter
from bert_classifier.graph_tokenization import GraphTokenizer, TextEncoder
from bert_classifier.tasks import InputExample
import tokenization

VOCAB = str(GOLDEN / "unicode" / "vocab.txt")
# Marks that lower-casing keeps, whose order is that of their classes.
MARKS = [
  char
  for char in map(chr, range(0x110000))
  if unicodedata.combining(char) and unicodedata.category(char) != "Mn"
]


def graph_ids(tokenizer, texts):
  """Returns the list of ids of each text, bytes or str."""
  with tf.Graph().as_default(), tf.Session(config=AS_BUILT) as session:
    ids, rows = session.run(
      GraphTokenizer(tokenizer).tokenize(tf.constant(texts, tf.string))
    )
  lists = collections.defaultdict(list)
  for number, row in zip(ids.tolist(), rows.tolist()):
    lists[row].append(number)
  return [lists[row] for row in range(len(texts))]


def differing(tokenizer, texts):
  """Returns the texts whose ids are not those of the three stages."""
  return [
    ascii(text)
    for text, ids in zip(texts, graph_ids(tokenizer, texts))
    if ids != tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))
  ]


def tokenizer_that_knows(folder, texts, *settings, longer=()):
  """Returns a tokenizer with pieces for most characters of texts."""
  basic = tokenization.BasicTokenizer(*settings)
  words = {word for text in texts for word in basic.tokenize(text)}
  pieces = sorted({char for word in words for char in word})
  del pieces[::20]
  pieces += sorted({word[:2] for word in words if len(word) > 2})[::3]
  tokens = [*tokenization.REQUIRED_TOKENS, *pieces, *("##" + p for p in pieces)]
  path = folder / "vocab.txt"
  path.write_bytes("\n".join([*tokens, *longer]).encode())
  return tokenization.FullTokenizer(str(path), *settings)


@pytest.mark.parametrize("lower", [True, False])
def test_ids_equal_the_original_on_every_golden_text(lower):
  path = GOLDEN / "unicode" / "tokenization.jsonl"
  with open(path, encoding="utf-8") as file:
    rows = list(map(json.loads, file))
  rows = [
    row
    for row in rows
    if row["do_lower_case"] == lower
    # What later versions of Unicode have assigned is dropped or split there.
    and all(unicodedata.category(c) not in ("Cn", "Cs") for c in row["text"])
  ]
  assert len(rows) > 400
  tokenizer = tokenization.FullTokenizer(VOCAB, lower)
  found = graph_ids(tokenizer, [row["text"] for row in rows])
  assert found == [row["ids"] for row in rows]


def random_text(rng):
  """Returns characters of a few kinds, of Unicode's assigned ones."""
  pools = (
    lambda: chr(rng.randrange(128)),
    lambda: chr(rng.randrange(0x3000)),
    lambda: chr(rng.randrange(0x110000)),
    lambda: rng.choice("aeinost \u4e2d\u6587AEINOST\u03a3\u03c3"),
    lambda: rng.choice(MARKS + ["\u0301", "\u0323", "\u0488", "\xad"]),
    lambda: rng.choice("\0\x1c\x85\xa0\u2028\u2029\u3000\ufeff\ufffd'.,$"),
  )
  chosen = rng.sample(pools, rng.randint(1, len(pools)))
  text = "".join(rng.choice(chosen)() for _ in range(rng.randrange(40)))
  return "".join(c for c in text if unicodedata.category(c) not in "CnCs")


@pytest.mark.parametrize(
  "settings", [(True,), (False,), (True, False, False), (False, True)]
)
def test_ids_equal_the_plain_stages_on_random_unicode(tmp_path, settings):
  rng = random.Random(44)
  texts = [random_text(rng) for _ in range(700)]
  # A sigma's form, and the order of marks, with a character between.
  codes = [rng.choice(texts)[:1] for _ in range(200)]
  codes += map(chr, [*range(0xA0, 0x100), *range(0x345, 0x350)])
  texts += [f"a{char}\u03a3 \u03a3{char}\u03a3{char}b" for char in codes]
  texts += [f"a\u302f{char}\u302e b\U0001d16d{char}\u302e" for char in codes]
  tokenizer = tokenizer_that_knows(tmp_path, texts, *settings)
  assert differing(tokenizer, texts) == []


def test_all_marks_that_are_kept_are_put_in_order(tmp_path):
  assert len(MARKS) > 20
  texts = [f"a{one}{other}b" for one in MARKS for other in MARKS]
  texts.append("".join(reversed(MARKS)))
  tokenizer = tokenizer_that_knows(tmp_path, texts)
  assert differing(tokenizer, texts) == []


def test_bytes_that_are_no_utf8_are_dropped(tmp_path):
  rng = random.Random(45)
  kinds = [
    range(256),
    range(0xC0, 0x100),
    range(0x80, 0xC0),
    b"\xed\xa0\xf4aB ",
  ]
  texts = [
    bytes(rng.choice(rng.choice(kinds)) for _ in range(rng.randrange(12)))
    for _ in range(3000)
  ]
  decoded = [text.decode("utf-8", "ignore") for text in texts]
  tokenizer = tokenizer_that_knows(tmp_path, decoded, False)
  assert differing(tokenizer, texts) == []


def test_long_words_and_odd_vocabularies(tmp_path):
  longer = [
    "x" * 200,
    "x" * 201,
    "a b",
    "",
    "##",
    "\u00e9 \u00e9",
    "yes",
    "yes",
  ]
  tokenizer = tokenizer_that_knows(tmp_path, ["x y e s ab"], longer=longer)
  texts = [
    *("x" * 200, "x" * 201, "y" * 200, "y" * 201, "yx" * 120, "X" * 201 + " x"),
    *("a b", "ab", "##", "# #y", "", " ", "\t\n", "yes", "yesyes", "e" * 5000),
  ]
  assert differing(tokenizer, texts) == []
  assert graph_ids(tokenizer, []) == []
  bare = tmp_path / "bare.txt"
  bare.write_text("[UNK]\n[CLS]\n[SEP]\na")
  assert graph_ids(tokenization.FullTokenizer(str(bare)), ["a aa b"]) == [
    [3, 0, 0]
  ]


CASES = json.loads((GOLDEN / "added_tokens.json").read_text("utf-8"))


@pytest.mark.parametrize("case", CASES[:3], ids=lambda case: case["name"])
def test_added_tokens_stay_whole_as_in_bert_tokenizer_fast(tmp_path, case):
  for name, text in case["files"].items():
    (tmp_path / name).write_text(text, encoding="utf-8")
  given = "tokenizer.json" if "tokenizer.json" in case["files"] else "vocab.txt"
  text = tokenizer_files.read_vocabulary(str(tmp_path / given))
  (tmp_path / "lines.txt").write_text(text, encoding="utf-8")
  settings, _ = tokenizer_files.read_tokenizer_settings(tmp_path)
  added = tokenizer_files.list_added_tokens(tmp_path)
  tokenizer = tokenization.FullTokenizer(
    str(tmp_path / "lines.txt"),
    **settings,
    whole_tokens=[(token, *rest) for token, (_, *rest) in added.items()],
  )
  assert graph_ids(tokenizer, case["texts"]) == case["ids"]


# ---------------------------------------------------------------------------
# Features


def encode(encoder, text_a, text_b=None):
  """Returns the features of texts as lists of an example's three."""
  with tf.Graph().as_default(), tf.Session(config=AS_BUILT) as session:
    texts = [
      tf.constant(t, tf.string) for t in (text_a, text_b) if t is not None
    ]
    found = session.run(encoder(*texts))
  names = ("input_ids", "input_mask", "segment_ids")
  return list(zip(*(found[name].tolist() for name in names)))


def check_features(tokenizer, length, pairs):
  """Holds the features of pairs, or of single texts, against the converter's.

  Args:
    pairs: list of (text_a, text_b), all of them pairs or none.
  """
  text_a, text_b = zip(*pairs)
  if not any(text_b):
    text_b = None
  found = encode(TextEncoder(tokenizer, length), text_a, text_b)
  wide = len(found[0][0])
  assert wide <= length
  converter = Converter(targets.OneClass("01"), length, tokenizer)
  for (a, b), features in zip(pairs, found):
    expected = converter(InputExample("", a, b))
    assert [list(part) for part in features] == [
      expected.input_ids[:wide],
      expected.input_mask[:wide],
      expected.segment_ids[:wide],
    ], (length, a, b)
    assert not any(expected.input_mask[wide:])


def test_texts_of_every_length_are_cut_as_by_the_converter(tokenizer):
  rng = random.Random(46)
  words = ["", "the", "of", "company", "\u200b", "unaffable", "[SEP]", "."]
  pairs = [
    [" ".join(rng.choices(words, k=rng.randrange(12))) for _ in range(2)]
    for _ in range(150)
  ]
  for length in (3, 5, 8, 13, 24, 64):
    check_features(tokenizer, length, pairs)
  check_features(tokenizer, 8, [(text_a, None) for text_a, _ in pairs])


def test_features_equal_the_files_of_2018(golden_task, tokenizer):
  with open(f"{golden_task}/data/dev.tsv", encoding="utf-8") as file:
    rows = [line.rstrip("\n").split("\t") for line in file][1:]
  theirs = read_records(f"{golden_task}/eval.tf_record")
  found = encode(
    TextEncoder(tokenizer, 24),
    [row[3] for row in rows],
    [row[4] for row in rows],
  )
  wide = len(found[0][0])
  for ours, record in zip(found, theirs):
    for part, name in zip(ours, ("input_ids", "input_mask", "segment_ids")):
      assert part == record[name][:wide]
  assert len(found) == len(rows) <= len(theirs)
