"""Examples to features."""

import itertools
import random

from conftest import read_examples, read_records
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import fast_tokenization, features
from bert_classifier.catalogue import MrpcProcessor
from bert_classifier.errors import UserError
from bert_classifier.features import convert_single_example, truncate
from bert_classifier.tasks import InputExample, PaddingInputExample
import tokenization

SPLITS = [("train", "train"), ("dev", "eval"), ("test", "predict")]


def cut_in_turn(first, second, room):
  """Truncates by the 2018 rule, a token at a time."""
  first, second = list(first), list(second)
  while len(first) + len(second) > room:
    (first if len(first) > len(second) else second).pop()
  return first, second


def test_pairs_are_cut_as_token_by_token():
  source = random.Random(0)
  for _ in range(3000):
    first = list(range(source.randrange(30)))
    second = list(range(100, 100 + source.randrange(1, 30)))
    length = source.randrange(5, 40)
    expected = cut_in_turn(first, second, length - 3)
    assert truncate(first, second, length) == expected


def test_a_single_text_keeps_its_beginning(tokenizer):
  long = InputExample("g", "t " * 9)
  found = convert_single_example(9, long, [], 6, tokenizer)
  start, end, word = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", "t"])
  assert found.input_ids == [start, word, word, word, word, end]
  assert found.input_mask == [1] * 6 and found.segment_ids == [0] * 6


@pytest.mark.parametrize("text_b", [None, "", " \u200d", "\0"])
def test_a_second_text_without_tokens_is_none(tokenizer, text_b):
  example = InputExample("g", "t u", text_b, "b")
  found = convert_single_example(9, example, ["a", "b"], 8, tokenizer)
  assert found.input_mask == [1, 1, 1, 1, 0, 0, 0, 0]
  assert found.segment_ids == [0] * 8 and found.label_id == 1


def test_a_second_text_cut_to_nothing_leaves_the_single_form(tokenizer):
  pair = InputExample("g", "t", "t", None)
  found = convert_single_example(9, pair, [], 4, tokenizer)
  single = convert_single_example(9, InputExample("g", "t"), [], 4, tokenizer)
  assert found.as_dict() == single.as_dict()


def test_padding_is_zeros_of_no_weight(tokenizer):
  found = convert_single_example(9, PaddingInputExample(), ["a"], 3, tokenizer)
  assert set(itertools.chain(*found.as_dict().values())) == {0}


def test_an_unknown_label_is_named(tokenizer):
  example = InputExample("train-3", "t", None, "maybe")
  with pytest.raises(
    UserError, match="train-3: the label 'maybe' .* 'no', 'yes'"
  ):
    convert_single_example(9, example, ["no", "yes"], 8, tokenizer)


@pytest.mark.quick
@pytest.mark.parametrize(("split", "name"), SPLITS)
def test_lists_of_features_equal_the_originals_records(
  golden_task, tokenizer, tmp_path, split, name
):
  examples = read_examples(MrpcProcessor(), f"{golden_task}/data", split)
  arguments = (examples, ["0", "1"], 24, tokenizer)
  listed = features.convert_examples_to_features(*arguments)
  path = str(tmp_path / "made.tf_record")
  features.file_based_convert_examples_to_features(*arguments, path)
  theirs = read_records(f"{golden_task}/{name}.tf_record")
  assert [one.as_dict() for one in listed] == theirs == read_records(path)


class Refusing:
  """A target that this project does not have: what refuses a label."""

  encode = float


def test_a_label_that_the_target_refuses_names_its_example(tokenizer):
  convert = features.Converter(Refusing(), 8, tokenizer)
  with pytest.raises(UserError, match="dev-3: could not convert .* 'many'"):
    convert(InputExample("dev-3", "t", None, "many"))


def test_one_example_needs_no_memory_of_words(tokenizer, monkeypatch):
  monkeypatch.setattr(fast_tokenization, "WordCache", None)
  found = convert_single_example(9, InputExample("g", "t u"), [], 4, tokenizer)
  expected = tokenizer.convert_tokens_to_ids(["[CLS]", "t", "u", "[SEP]"])
  assert found.input_ids == expected


def test_padding_is_logged_without_tokens(tokenizer, info):
  del tokenizer.inv_vocab[0]
  example = InputExample("dev-7", "t", None, "a")
  for given in (example, PaddingInputExample()):
    convert_single_example(0, given, ["a"], 5, tokenizer)
  assert "tokens: [CLS] t [SEP]" in info.messages
  assert "tokens: " in info.messages and "guid: padding" in info.messages


class Letters:
  """A tokenizer of the two methods that conversion asks for."""

  def tokenize(self, text):
    return list(text)

  def convert_tokens_to_ids(self, tokens):
    return [101 if len(token) > 1 else ord(token) for token in tokens]


def test_a_tokenizer_without_tokens_of_ids_is_logged_without_them(info):
  convert_single_example(0, InputExample("dev-7", "t"), [], 4, Letters())
  assert "guid: dev-7" in info.messages
  assert "input_ids: 101 116 101 0" in info.messages
  assert not any(m.startswith("tokens") for m in info.messages)


class Reversing(tokenization.FullTokenizer):
  def tokenize(self, text):
    return super().tokenize(text)[::-1]


class Unknown(tokenization.FullTokenizer):
  def convert_tokens_to_ids(self, tokens):
    return [7] * len(tokens)


@pytest.mark.parametrize("kind", [Reversing, Unknown])
def test_a_subclass_has_its_way(golden_task, tokenizer, kind):
  own = kind(f"{golden_task}/vocab.txt")
  found = convert_single_example(9, InputExample("g", "t u"), [], 4, own)
  expected = own.convert_tokens_to_ids(own.tokenize("t u"))
  plain = convert_single_example(9, InputExample("g", "t u"), [], 4, tokenizer)
  assert found.input_ids[1:3] == expected != plain.input_ids[1:3]


def test_a_replaced_method_has_its_way(tokenizer):
  tokenizer.tokenize = lambda text: ["u"] * 2
  found = convert_single_example(9, InputExample("g", "t"), [], 4, tokenizer)
  assert found.input_ids[1:3] == tokenizer.convert_tokens_to_ids(["u", "u"])


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "of 2018"])
def test_files_are_read_example_by_example_in_order(cache, golden_task, ours):
  import run_classifier

  path = f"{golden_task}/eval.tf_record"
  build = run_classifier.file_based_input_fn_builder
  input_fn = build(
    cache().features("dev").path if ours else path, 24, False, False
  )
  with tf.Graph().as_default(), tf.Session() as session:
    batch = tf.data.make_one_shot_iterator(input_fn({"batch_size": 8}))
    batch = batch.get_next()
    batches = [session.run(batch) for _ in range(3)]
  for name in features.feature_spec(24):
    read = np.concatenate([b[name] for b in batches])
    expected = np.squeeze([one[name] for one in read_records(path)])
    assert read.dtype == np.int32 and (read == expected).all()
