"""windows.py: windows of long texts are cut, weighed and pooled."""

import re

from conftest import (
  AS_BUILT,
  cut_as_squad,
  read_records,
)
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import (
  choices,
  embeddings,
  evaluation,
  features,
  targets,
  windows,
)
from bert_classifier.errors import UserError
from bert_classifier.examples import InputExample
from bert_classifier.graph_tokenization import TextEncoder

# ---------------------------------------------------------------------------
# Cutting


@pytest.mark.parametrize("stride", [1, 3, 6])
@pytest.mark.parametrize("number", [1, 6, 7, 9, 12, 13, 30])
def test_a_text_is_cut_as_run_squad_cuts_documents(number, stride):
  tokens = list(range(number))
  expected = [
    (tokens[start : start + length], [])
    for start, length in cut_as_squad(number, 6, stride)
  ]
  assert windows.cut(tokens, [], 8, stride) == expected


@pytest.mark.parametrize("stride", [1, 4, 10])
def test_of_a_pair_the_longer_is_cut_and_every_token_of_it_is_seen(stride):
  size = 14
  for first in range(20):
    for second in range(1, 20):
      one, two = list(range(first)), list(range(100, 100 + second))
      parts = windows.cut(one, two, size, stride)
      if first + second + 3 <= size:
        assert parts == [(one, two)]
        continue
      longer, other = (0, 1) if first > second else (1, 0)
      seen = [number for part in parts for number in part[longer]]
      assert sorted(set(seen)) == (one, two)[longer]
      beside = (one, two)[other][: max(size - 3 - stride, 0)]
      assert all(part[other] == beside for part in parts)
      assert all(len(a) + len(b) + 3 <= size for a, b in parts)
      starts = [part[longer][0] for part in parts]
      assert set(np.diff(starts)) <= {stride}
      lost = windows.count_lost(one, two, parts)
      assert lost == len((one, two)[other]) - len(beside)


def test_truncation_says_what_stays_beside_the_windows():
  parts = windows.cut([1, 2, 3, 4], [5, 6, 7, 8, 9], 8, 3, "tail")
  assert parts == [([3, 4], [5, 6, 7]), ([3, 4], [8, 9])]


class Options:
  max_seq_length, window_pooling, truncation, stride = 8, "mean", "head", 0


class Task:
  def __init__(self, expects_pairs):
    self.expects_pairs = expects_pairs


@pytest.mark.parametrize(
  ("changes", "pairs", "words"),
  [
    ({"stride": 7}, False, "room for 6 tokens of a text"),
    ({"stride": 5}, True, "room for 4 tokens of the longer text of a pair"),
    ({"window_pooling": "max"}, False, "nothing without --stride"),
    (
      {"stride": 3, "truncation": "tail"},
      False,
      "give --truncation=head, or --stride=0",
    ),
  ],
)
def test_windows_that_make_no_sense_are_refused(changes, pairs, words):
  asked = type("Asked", (Options,), changes)
  with pytest.raises(UserError, match=re.escape(words)):
    windows.check_request(asked, Task(pairs))


@pytest.mark.parametrize(
  ("stride", "pairs"), [(6, False), (4, True), (0, True)]
)
def test_windows_that_make_sense_are_not(stride, pairs):
  asked = type("Asked", (Options,), {"stride": stride})
  windows.check_request(asked, Task(pairs))


# ---------------------------------------------------------------------------
# Records

WORDS = ["fb", "alk", "bb", "dvf", "ch", "ev", "bla"]
LONG, SHORT = " ".join(2 * WORDS), " ".join(WORDS[:3])


def convert(tokenizer, stride, text_a, text_b=None, length=8):
  target = targets.OneClass("01")
  converter = features.Converter(target, length, tokenizer, stride=stride)
  example = InputExample("g", text_a, text_b, "1")
  return converter, converter.records(converter.inputs(example))


def test_a_text_that_fits_has_the_record_that_it_has_without_windows(tokenizer):
  for length in (12, 40):
    _, whole = convert(tokenizer, 0, SHORT, "fb", length)
    assert convert(tokenizer, 3, SHORT, "fb", length)[1] == whole


def test_a_window_is_the_record_of_its_own_text_but_for_their_number(tokenizer):
  tokens = tokenizer.tokenize(LONG)
  converter, found = convert(tokenizer, 4, LONG)
  parts = [
    tokens[start : start + size]
    for start, size in cut_as_squad(len(tokens), 6, 4)
  ]
  assert len(parts) == len(found) > 2
  for part, record in zip(parts, found):
    ids = tokenizer.convert_tokens_to_ids(["[CLS]", *part, "[SEP]"])
    feature = tf.train.Example.FromString(record).features.feature
    number = feature.pop("num_windows").int64_list.value
    assert list(number) == [len(parts)]
    assert list(feature["input_ids"].int64_list.value)[: len(ids)] == ids
    assert sum(feature["input_mask"].int64_list.value) == len(ids)
    assert list(feature["label_ids"].int64_list.value) == [1]
  tally = converter.tally
  assert tally["tokens"] - tally["repeated"] == len(tokens) + 2
  assert (tally["records"], tally["added"]) == (len(parts), len(parts) - 1)
  assert tally["truncated"] == 0


def test_a_cache_counts_examples_and_windows(cache, info):
  kept = cache(length=16, stride=5)
  number, counted = kept.count("dev"), kept.count_records("dev")
  found = kept.features("dev")
  assert (found.examples, found.records) == (number, counted)
  assert counted > number == len(list(kept.converted_examples("dev")))
  records = read_records(found.path)
  numbers = [record.get("num_windows", [1])[0] for record in records]
  assert sum(1 / n for n in numbers) == pytest.approx(number)
  lengths = [sum(record["input_mask"]) for record in records]
  assert kept.lengths("dev").tolist() == lengths
  tokens, _ = kept.count_tokens("dev")
  assert len(tokens) == number and sum(tokens) == sum(lengths)
  assert cache(length=16, stride=5).features("dev") == found
  assert f"dev: {number} examples, {counted} windows, conv" in info.text
  assert cache(length=16).features("dev").path != found.path


@pytest.mark.parametrize(("length", "stride"), [(8, 1), (9, 3), (14, 4)])
def test_an_exported_graph_cuts_windows_as_the_converter_does(
  tokenizer, graph, length, stride
):
  texts = [" ".join(WORDS[:n]) for n in range(8)]
  pairs = [(a, b) for a in texts for b in texts]
  encoder = TextEncoder(tokenizer, length, "head_tail", stride)
  found = encoder(*map(tf.constant, zip(*pairs)))
  with tf.Session(graph=graph, config=AS_BUILT) as session:
    found = session.run(found)
  converter = features.Converter(
    features.ONE_CLASS, length, tokenizer, "head_tail", stride=stride
  )
  expected = [converter.windows(InputExample("", a, b)) for a, b in pairs]
  of_text = np.repeat(np.arange(len(pairs)), [len(one) for one in expected])
  np.testing.assert_array_equal(found[windows.TEXT_OF_WINDOW], of_text)
  flat = [one.as_dict() for several in expected for one in several]
  wide = found["input_ids"].shape[1]
  for name in ("input_ids", "input_mask", "segment_ids"):
    wanted = np.array([one[name] for one in flat])
    np.testing.assert_array_equal(found[name], wanted[:, :wide])
    assert not wanted[:, wide:].any()


# ---------------------------------------------------------------------------
# Training


def test_loss_and_gradient_of_a_batch_equal_those_weighed_by_hand(graph):
  """Three texts, of 1, 2 and 4 windows, and of 7 windows 7 / 3 a text."""
  target = targets.OneClass("ab")
  numbers = np.int32([1, 4, 2, 4, 2, 4, 4])
  labels = np.int32([0, 1, 1, 1, 1, 1, 1])
  values = np.random.RandomState(2).normal(size=[7, 2]).astype("f")
  logits = tf.constant(values)
  chosen = choices.Choices(windows_per_text=7 / 3)
  losses = chosen.loss(target)(
    logits,
    {"label_ids": tf.constant(labels), "num_windows": tf.constant(numbers)},
  )
  loss = tf.reduce_mean(losses)
  (gradient,) = tf.gradients(loss, logits)
  with tf.Session(graph=graph) as session:
    loss, gradient = session.run([loss, gradient])
  odds = np.exp(np.float64(values))
  odds /= odds.sum(-1, keepdims=True)
  plain = -np.log(odds[np.arange(7), labels])
  by_text = [plain[numbers == number].mean() for number in (1, 2, 4)]
  assert loss == pytest.approx(np.mean(by_text), rel=1e-6)
  shares = 1 / (3 * numbers)  # of a window in the mean over the texts
  wanted = (odds - np.eye(2)[labels]) * shares[:, np.newaxis]
  np.testing.assert_allclose(gradient, wanted, rtol=1e-5, atol=1e-7)


# ---------------------------------------------------------------------------
# Pooling

NUMBERS = np.int32([1, 3, 3, 3, 2, 2, 1])
GROUPS = [[0], [1, 2, 3], [4, 5], [6]]
REDUCE = {"mean": np.mean, "max": np.max}
TARGETS = {
  "one class": (targets.OneClass("abc"), [2, 0, 1, 1]),
  "several": (targets.SeveralClasses("abc"), np.float32(np.eye(4, 3))),
  "number": (targets.Number(), np.float32([1.5, -2, 0, 3])),
}


def make_logits(target):
  random = np.random.RandomState(3)
  return random.normal(size=[len(NUMBERS), target.width]).astype("f")


@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize("kind", TARGETS)
def test_an_evaluation_is_of_texts_in_any_batches(kind, pooling):
  target, labels = TARGETS[kind]
  labels = np.array(labels)[[0, 1, 1, 1, 2, 2, 3]]
  logits = make_logits(target)
  losses = target.losses(logits, labels)
  collector = evaluation.Collector(target, (), 3, pooling)
  for start, end in ((0, 2), (2, 6), (6, 7)):
    part = slice(start, end)
    real = np.ones(end - start, np.int32)
    arrays = losses, logits, labels
    collector.add(*(a[part] for a in arrays), real, NUMBERS[part])
  found = collector.join_batches()
  pooled = np.float32([REDUCE[pooling](logits[g], axis=0) for g in GROUPS])
  np.testing.assert_allclose(found.logits, pooled, rtol=1e-6)
  of_texts = labels[[group[0] for group in GROUPS]]
  np.testing.assert_array_equal(found.labels, of_texts)
  np.testing.assert_allclose(
    found.losses, target.losses(pooled, of_texts), rtol=1e-5
  )
  mean, mean_of_batches = collector.compute()[0], collector.compute()[-1]
  assert mean == pytest.approx(found.losses.mean(), rel=1e-6)
  batches = [found.losses[:3].mean(), found.losses[3:].mean()]
  assert mean_of_batches == pytest.approx(np.mean(batches), rel=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize("kind", TARGETS)
def test_a_prediction_is_that_of_the_pooled_logits(graph, kind, pooling):
  target, _ = TARGETS[kind]
  if target.has_classes:
    target = target.calibrated(1.7)
  logits = make_logits(target)
  pooled = np.float32([REDUCE[pooling](logits[g], axis=0) for g in GROUPS])
  with tf.Session(graph=graph) as session:
    by_window, wanted = session.run(
      [target.outputs(tf.constant(logits)), target.outputs(tf.constant(pooled))]
    )
    texts = np.repeat(np.arange(len(GROUPS)), [len(g) for g in GROUPS])
    in_graph = session.run(
      windows.pool_in_graph(tf.constant(logits), texts, len(GROUPS), pooling)
    )
  np.testing.assert_allclose(in_graph, pooled, rtol=1e-6)
  by_window["num_windows"] = NUMBERS
  outputs = [
    {name: values[i] for name, values in by_window.items()}
    for i in range(len(NUMBERS))
  ]
  found = list(windows.pool_outputs(outputs, target, pooling))
  assert len(found) == len(GROUPS)
  for name, values in wanted.items():
    got = [one[name] for one in found]
    np.testing.assert_allclose(got, values, rtol=1e-5, atol=1e-7)


def test_the_vector_of_a_text_is_the_mean_of_its_windows(graph):
  vectors = np.random.RandomState(5).normal(size=[7, 4]).astype("f")
  vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
  outputs = [
    {"embeddings": vector, "num_windows": number}
    for vector, number in zip(vectors, NUMBERS)
  ]
  means = np.array([vectors[group].mean(0) for group in GROUPS])
  found = [one["embeddings"] for one in embeddings.pool_windows(outputs, False)]
  np.testing.assert_allclose(found, means, rtol=1e-5)
  found = [one["embeddings"] for one in embeddings.pool_windows(outputs, True)]
  lengths = np.linalg.norm(means, axis=-1, keepdims=True)
  np.testing.assert_allclose(found, means / lengths, rtol=1e-5)


def test_an_input_function_gives_the_number_of_windows(
  tokenizer, graph, tmp_path
):
  import run_classifier

  _, several = convert(tokenizer, 4, LONG)
  _, one = convert(tokenizer, 4, "fb")
  path = str(tmp_path / "features")
  features.write_records((r for r in (*several, *one)), path)
  input_fn = run_classifier.file_based_input_fn_builder(
    path, 8, False, True, in_windows=True
  )
  batch = tf.data.make_one_shot_iterator(input_fn({"batch_size": 16}))
  with tf.Session(graph=graph) as session:
    found = session.run(batch.get_next())
  number = len(several)
  filled = [1] * (16 - number - 1)
  assert found["num_windows"].tolist() == [number] * number + [1] + filled
  assert found["is_real_example"].sum() == number + 1
