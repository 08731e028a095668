"""The cache of features: what is reused, and what is made anew and why."""

import json
import os
from pathlib import Path
import shutil

from conftest import read_records
import pytest

from bert_classifier import feature_cache, files
from bert_classifier.catalogue import MrpcProcessor

SPLITS = [("train", "train"), ("dev", "eval"), ("test", "predict")]
PREVIOUS = Path(__file__).parent / "previous" / "features"


class Unusable:
  """A tokenizer for where nothing may be tokenized."""

  def convert_tokens_to_ids(self, tokens):
    return [0] * len(tokens)

  def tokenize(self, text):
    raise AssertionError("tokenized again")


@pytest.mark.quick
@pytest.mark.parametrize(("split", "name"), SPLITS)
def test_records_equal_the_originals(cache, golden_task, split, name):
  ours = read_records(cache().features(split).path)
  theirs = read_records(f"{golden_task}/{name}.tf_record")
  assert ours == theirs and len(ours) > 10


def test_the_first_five_examples_are_logged(cache, info):
  cache().features("dev")
  guids = [m for m in info.messages if m.startswith("guid: ")]
  assert guids == [f"guid: dev-{number}" for number in range(1, 6)]
  assert "label: 1 (id = 1)" in info.messages
  assert any(m.startswith("tokens: [CLS] p ##e ##x") for m in info.messages)


def test_a_second_run_does_not_tokenize_and_says_so(cache, info):
  first = cache().features("dev")
  again = cache(tokenizer=Unusable())
  assert again.count("dev") == 21 and again.features("dev") == first
  assert f"dev: 21 examples, converted before, in {first.path}" in info.messages


def test_the_manifest_says_what_the_records_were_made_of(cache, golden_task):
  path = Path(cache().features("dev").path)
  assert path.name.startswith("cached_dev_24_mrpc_")
  manifest = json.loads(path.with_suffix(".json").read_text())
  assert manifest["inputs"] == {
    "source": files.hash_file(f"{golden_task}/data/dev.tsv"),
    "vocabulary": "v",
    "do_lower_case": True,
    "max_seq_length": 24,
    "labels": ["0", "1"],
    "language": None,
    "task": "mrpc",
    "split": "dev",
    "format_version": feature_cache.FORMAT_VERSION,
  }
  lengths = [sum(row["input_mask"]) for row in read_records(str(path))]
  assert manifest["records"] == len(lengths) == 21
  assert manifest["truncated"] == 20 == lengths.count(24)
  assert manifest["truncated_tokens"] == 306 and manifest["blank"] == 0


class ThreeLabels(MrpcProcessor):
  labels = ("0", "1", "2")


@pytest.mark.parametrize(
  ("changed", "named"),
  [
    (dict(vocabulary="w"), "vocabulary"),
    (dict(do_lower_case=False), "do_lower_case"),
    (dict(processor=ThreeLabels()), "labels"),
    (dict(processor=ThreeLabels(), vocabulary="w"), "labels, vocabulary"),
  ],
)
def test_a_changed_input_makes_a_new_file_and_is_named(
  cache, info, changed, named
):
  old = cache().features("dev").path
  new = cache(**changed).features("dev").path
  assert new != old and os.path.exists(old)
  manifest = old.replace(".tf_record", ".json")
  reason = f"dev: not the features of {manifest}, for these differ: {named}"
  assert reason in info.messages


def test_a_file_is_read_for_its_digest_once(cache, monkeypatch):
  calls, digest = [], files.hash_file
  monkeypatch.setattr(
    files, "digest", lambda path: calls.append(path) or digest(path)
  )
  one = cache()
  one.lookup("dev"), one.count("dev"), one.features("dev")
  assert sum(path.endswith("dev.tsv") for path in calls) == 1


def test_another_length_or_source_makes_a_new_file(
  cache, golden_task, tmp_path, monkeypatch, info
):
  paths = {cache(length=n).features("dev").path for n in (24, 23)}
  shutil.copy(f"{golden_task}/data/dev.tsv", tmp_path)
  with open(tmp_path / "dev.tsv", "a") as file:
    file.write("1\t5\t6\tA.\tB.\n")
  paths.add(cache(folder=tmp_path).features("dev").path)
  monkeypatch.setattr(
    feature_cache, "FORMAT_VERSION", feature_cache.FORMAT_VERSION + 1
  )
  paths.add(cache().features("dev").path)
  assert len(paths) == 4 and "these differ: source" in info.text


def spoil(path, how):
  with open(path, "r+b") as file:
    if how == "cut off":
      file.truncate(os.path.getsize(path) - 1)
    else:  # one byte in the middle
      file.seek(os.path.getsize(path) // 2)
      file.write(b"\xff")


@pytest.mark.parametrize("how", ["cut off", "damaged"])
def test_a_spoilt_file_is_found_and_made_anew(cache, golden_task, info, how):
  path = cache().features("dev").path
  spoil(path, how)
  again = cache()
  assert again.count("dev") == 21 and again.features("dev").path == path
  assert read_records(path) == read_records(f"{golden_task}/eval.tf_record")
  warned = [m for m in info.messages if "damaged" in m]
  assert len(warned) == 1 and path in warned[0]


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"records": 21}'])
def test_a_spoilt_manifest_makes_the_records_anew(cache, content):
  manifest = Path(cache().features("dev").path).with_suffix(".json")
  manifest.unlink()
  if content is not None:
    manifest.write_text(content)
  assert cache().features("dev").records == 21
  assert json.loads(manifest.read_text())["records"] == 21


def test_an_error_while_converting_leaves_nothing(cache, tmp_path):
  with pytest.raises(AssertionError, match="tokenized again"):
    cache(tokenizer=Unusable()).features("dev")
  assert os.listdir(tmp_path) == []
