"""--stride: windows of long texts through training, results and exports."""

import contextlib
import csv
import io
import json
import re

from conftest import (
  ALONE,
  cut_as_squad,
  read_results,
  read_table,
)
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import (
  device_choice,
  replicas,
)

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
