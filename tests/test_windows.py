"""Windows of long texts: cut, weighed, pooled, and all the way through."""

import contextlib
import csv
import io
import json
import re

from conftest import (
  ALONE,
  AS_BUILT,
  read_records,
  read_results,
  read_table,
)
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import (
  choices,
  device_choice,
  embeddings,
  evaluation,
  features,
  replicas,
  targets,
  windows,
)
from bert_classifier.errors import UserError
from bert_classifier.examples import InputExample
from bert_classifier.graph_tokenization import TextEncoder

# ---------------------------------------------------------------------------
# Cutting


def cut_as_squad(number, room, stride):
  """Returns (start, length) of each span, as run_squad.py's loop has them."""
  spans, start = [], 0
  while start < number:
    length = min(number - start, room)
    spans.append((start, length))
    if start + length == number:
      break
    start += min(length, stride)
  return spans


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


# ---------------------------------------------------------------------------
# All the way through

SIZE, STRIDE = 10, 5
LENGTHS = [3, 8, 9, 13, 12, 27, 40, 1]


@pytest.fixture(scope="module")
def texts(golden_task):
  """Returns texts of whole words of the vocabulary, one a token, and labels."""
  with open(f"{golden_task}/vocab.txt", encoding="utf-8") as file:
    words = [w for w in file.read().split() if re.fullmatch("[a-z]+", w)]
  random = np.random.RandomState(6)
  return [
    (random.choice(words, number).tolist(), "ab"[number % 2])
    for number in LENGTHS
  ]


@pytest.fixture(scope="module")
def calm_model(small_model, tmp_path_factory):
  """Returns the flags of the small model without dropout."""
  path = tmp_path_factory.mktemp("calm") / "bert_config.json"
  config = json.loads(small_model["bert_config_file"].read_text())
  for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
    config[name] = 0.0
  path.write_text(json.dumps(config))
  return {**small_model, "bert_config_file": path, "head_dropout": 0}


@pytest.fixture(scope="module")
def asked(calm_model, texts, tmp_path_factory):
  """Returns the flags of a training of one step, of rate 0."""
  folder = tmp_path_factory.mktemp("windows")
  path = folder / "texts.csv"
  with open(path, "w", encoding="utf-8", newline="") as file:
    rows = csv.writer(file)
    rows.writerow(["text", "label"])
    rows.writerows([" ".join(words), label] for words, label in texts)
  return dict(
    task_name="csv",
    data_dir=None,
    train_file=path,
    dev_file=path,
    test_file=path,
    cache_dir=folder / "cache",
    max_seq_length=SIZE,
    stride=STRIDE,
    do_train=True,
    train_batch_size=sum(map(len, cut_all(texts))),
    num_train_epochs=1,
    warmup_proportion=1,
    **calm_model,
  )


@pytest.fixture(scope="module")
def trained(classify, asked, tmp_path_factory):
  """Returns a folder that did everything with windows, and the log."""
  folder = tmp_path_factory.mktemp("trained")
  asked = {**asked, "output_dir": folder, "export_hf": folder / "hf"}
  more = ["eval", "predict", "embed", "export"]
  done = classify("--eval_report", *(f"--do_{one}" for one in more), **asked)
  assert done.status == 0, done.log
  return folder, done.log


def cut_all(texts):
  """Returns the windows of each text as texts of their own."""
  return [
    [
      " ".join(words[start : start + length])
      for start, length in cut_as_squad(len(words), SIZE - 2, STRIDE)
    ]
    for words, _ in texts
  ]


@pytest.fixture(scope="module")
def by_window(classify, trained, texts, tmp_path_factory):
  """Returns log p <float64>[windows, 2] of each text: each window by itself."""
  folder, _ = trained
  path = tmp_path_factory.mktemp("by_window") / "windows.txt"
  parts = cut_all(texts)
  path.write_text("".join(f"{part}\n" for one in parts for part in one))
  flags = {**ALONE, "stride": 0, "predict_file": path, "output_dir": folder}
  answers = answer(classify, "--resume", **flags)
  logs = np.log([list(one["probabilities"].values()) for one in answers])
  return np.split(logs, np.cumsum([len(one) for one in parts])[:-1])


def answer(classify, *arguments, **flags):
  """Returns the answers of a command, dictionaries."""

  printed = io.StringIO()
  with contextlib.redirect_stdout(printed):
    done = classify(*arguments, **flags)
  assert done.status == 0, done.log
  return list(map(json.loads, printed.getvalue().splitlines()))


def log_softmax(logits):
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def pool_logs(by_window, reduce=np.mean):
  """Returns log p <float64>[n, 2] of the texts by those of their windows."""
  return log_softmax(np.array([reduce(logs, axis=0) for logs in by_window]))


def read_training_loss(folder):
  """Returns the loss of a training's only step."""
  lines = map(json.loads, (folder / "history.jsonl").read_text().splitlines())
  (step,) = (line for line in lines if "learning_rate" in line)
  return step["loss"]


def mean_loss(by_window, texts, **weights):
  """Returns the mean over the texts of the mean loss of their windows.

  Weights of labels are brought to a mean of 1 over the texts.
  """
  by_text = [
    -logs[:, "ab".index(label)].mean()
    for logs, (_, label) in zip(by_window, texts)
  ]
  by_label = [weights.get(label, 1) for _, label in texts]
  return np.average(by_text, weights=by_label)


def test_the_loss_of_training_is_the_mean_over_the_texts(
  trained, by_window, texts
):
  folder, log = trained
  loss = mean_loss(by_window, texts)
  assert read_training_loss(folder) == pytest.approx(loss, rel=1e-4)
  number = sum(map(len, by_window))
  said = f"{len(texts)} examples in {number} windows"
  assert f"training on {said}: steps 1 to 1 of {number} window" in log
  assert f"predicting the {said} of test on" in log
  assert f"float32; {number} windows a training step" in log
  assert f"train: converted {len(texts)} examples, {number} windows in" in log


@pytest.mark.parametrize(
  ("more", "apart"),
  [
    (dict(gradient_accumulation_steps=2, pack_sequences=True), 1e-4),
    (dict(use_xla=True, precision="mixed_bfloat16"), 1e-2),
  ],
  ids=["packed, in parts", "compiled, in 16 bits"],
)
def test_the_loss_of_windows_computed_otherwise_is_the_same(
  classify, asked, by_window, texts, tmp_path, more, apart
):
  done = classify(**{**asked, **more, "output_dir": tmp_path})
  assert done.status == 0, done.log
  loss = mean_loss(by_window, texts)
  assert read_training_loss(tmp_path) == pytest.approx(loss, rel=apart)


def test_two_devices_train_on_weighed_windows_and_keep_the_best(
  classify, asked, by_window, texts, tmp_path, monkeypatch
):
  two = ["/cpu:0", "/cpu:1"]
  monkeypatch.setattr(
    device_choice,
    "make_placement",
    lambda options, *_: replicas.MirroredPlacement(options, two),
  )
  more = dict(class_weights="a=3,b=1", eval_every_steps=1, output_dir=tmp_path)
  done = classify("--do_eval", "--use_best", **{**asked, **more})
  assert done.status == 0, done.log
  number = sum(map(len, by_window))
  said = f"{number} windows a training step, {number // 2} on each device"
  assert said in done.log
  loss = mean_loss(by_window, texts, a=3, b=1)
  assert loss != pytest.approx(mean_loss(by_window, texts), rel=1e-2)
  assert read_training_loss(tmp_path) == pytest.approx(loss, rel=1e-4)
  results = read_results(tmp_path / "eval_results.txt")
  labels = ["ab".index(label) for _, label in texts]
  losses = -pool_logs(by_window)[np.arange(len(labels)), labels]
  assert results["eval_loss"] == pytest.approx(losses.mean(), rel=1e-4)
  assert f"{tmp_path}/best/model.ckpt-1, step 1" in done.log


def test_results_and_report_are_those_of_the_texts(trained, by_window, texts):
  folder, _ = trained
  labels = np.array(["ab".index(label) for _, label in texts])
  logs = pool_logs(by_window)
  results = read_results(folder / "eval_results.txt")
  losses = -logs[np.arange(len(labels)), labels]
  assert results["eval_loss"] == pytest.approx(losses.mean(), rel=1e-4)
  right = (logs.argmax(-1) == labels).mean()
  assert results["eval_accuracy"] == pytest.approx(right)
  report = json.loads((folder / "eval_report.json").read_text())
  assert report["examples"] == len(texts)
  assert sum(group["count"] for group in report["lengths"]) == len(texts)


def test_predictions_are_those_of_the_texts(trained, by_window, texts):
  folder, _ = trained
  found = np.float64(read_table(folder / "test_results.tsv"))
  np.testing.assert_allclose(found, np.exp(pool_logs(by_window)), atol=1e-5)
  _, *rows = read_table(folder / "test_predictions.tsv")
  assert [row[1] for row in rows] == [" ".join(words) for words, _ in texts]


def test_embeddings_and_the_card_are_of_texts(trained, texts):
  folder, _ = trained
  assert len(np.load(folder / "test_embeddings.npy")) == len(texts)
  card = (folder / "hf" / "README.md").read_text()
  assert f"each beginning {STRIDE} after the one before; the mean" in card


def test_the_text_signature_of_an_export_answers_whole_texts(
  trained, by_window, texts
):
  folder, _ = trained
  (path,) = (folder / "export").iterdir()
  with tf.Graph().as_default(), tf.Session() as session:
    loaded = tf.saved_model.load(session, ["serve"], str(path))
    signature = loaded.signature_def["text"]
    fetched = signature.outputs["probabilities"].name
    given = signature.inputs["text_a"].name
    whole = [" ".join(words) for words, _ in texts]
    found = session.run(fetched, {given: whole})
    nothing = session.run(fetched, {given: []})
  np.testing.assert_allclose(found, np.exp(pool_logs(by_window)), atol=1e-5)
  assert nothing.shape == (0, 2)


def test_answers_of_the_folder_are_in_windows_and_pooled_as_asked(
  classify, trained, by_window, texts, tmp_path
):
  folder, _ = trained
  path = tmp_path / "texts.txt"
  path.write_text("".join(" ".join(words) + "\n" for words, _ in texts))
  flags = {**ALONE, "predict_file": path, "output_dir": folder}
  found = answer(classify, **flags)
  greatest = answer(classify, "--resume", window_pooling="max", **flags)
  for answers, reduce in ((found, np.mean), (greatest, np.max)):
    odds = [list(one["probabilities"].values()) for one in answers]
    if reduce is np.mean:
      wanted = np.exp(pool_logs(by_window))
      np.testing.assert_allclose(odds, wanted, atol=1e-5)
  several = np.array([len(logs) > 1 for logs in by_window])
  changed = [one != other for one, other in zip(found, greatest)]
  assert not np.any(np.array(changed) & ~several)
  assert any(changed)


def test_a_dry_run_counts_windows(classify, trained, texts, tmp_path):
  folder, _ = trained
  path = tmp_path / "report.json"
  flags = {**ALONE, "output_dir": folder, "dry_run_file": path}
  done = classify("--do_predict", "--dry_run", **flags)
  assert done.status == 0, done.log
  found = json.loads(path.read_text())["splits"]["test"]
  assert found["examples"] == len(texts) and found["cut"] == 0
  several = [len(parts) for parts in cut_all(texts) if len(parts) > 1]
  assert found["in windows"] == len(several)
  assert found["windows"] == sum(several) + len(texts) - len(several)
  assert found["tokens"]["100%"] == max(LENGTHS) + 2
