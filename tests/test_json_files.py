"""JSON lines against Python's json module, paths of keys, and broken lines."""

import json

import pytest

from bert_classifier import json_files
from bert_classifier.errors import UserError


def write(path, *lines):
  path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
  return str(path)


def test_rows_are_those_of_the_json_module(tmp_path):
  values = [
    {"text": 'a "b"\n\\u4e2d\t中', "n": [1, {"x": None}], "": True},
    {"é": 1e-9, "big": 10**30},
  ]
  lines = [json.dumps(values[0]), "", json.dumps(values[1], ensure_ascii=False)]
  path = write(tmp_path / "a.jsonl", *lines)
  assert list(json_files.read_objects(path)) == [(1, values[0]), (3, values[1])]


@pytest.mark.parametrize(
  ("lines", "said"),
  [
    (['{"a": 1}', '{"a": '], r":2: the line is no JSON object: .* at char"),
    (['[{"a": 1}]'], r":1: each line must be .* a list begins\. .* jq -c"),
    (["[", '{"a": 1},'], r":1: each line must be .* a list begins\. .* jq -c"),
    (["{", '"a": 1}'], r":1: the line is no .* in one line of its own"),
    (['"text"'], r":1: each line must be .* but this is 'text' \(str\)"),
    (["null"], r":1: each line must be .* but this is None"),
    (["[" * 100_000], r":1: each line must be .* a list begins"),
    (['{"a":' * 100_000], r":1: the line is no JSON object: "),
  ],
)
def test_what_is_no_line_of_json_is_told(tmp_path, lines, said):
  path = write(tmp_path / "a.jsonl", *lines)
  with pytest.raises(UserError, match=f"a.jsonl{said}"):
    list(json_files.read_objects(path))


ROW = {
  "text": "half \ud83d of 😀",
  "a": {"b": {"c": 7}, "b.c": True},
  "a.b": 1.5,
  "none": None,
  "nan": float("nan"),
  "words": ["one", "two"],
  "mixed": ["one", 2],
}


@pytest.mark.parametrize(
  ("column", "is_text", "cell"),
  [
    ("text", True, "half \ufffd of 😀"),
    ("a.b.c", False, "true"),
    ("a.b", False, "1.5"),
    ("none", True, ""),
    ("nan", False, ""),
    ("words", True, "one two"),
    ("words", False, '["one", "two"]'),
    ("mixed", False, '["one", 2]'),
    ("a.x", True, None),
    ("text.x", True, None),
  ],
)
def test_a_cell_is_found_by_its_path_of_keys(column, is_text, cell):
  assert json_files.read_cell(ROW, column, is_text) == cell


def test_a_key_that_holds_no_text_is_told():
  with pytest.raises(ValueError, match="one of its keys: a.b.c, a.b.c$"):
    json_files.read_cell(ROW, "a", True)
  with pytest.raises(ValueError, match="is a list, but not one of texts"):
    json_files.read_cell(ROW, "mixed", True)
