"""Flags that meet, all the way through: targets, windows, the best, runs."""

import json

from conftest import ALONE, read_results, read_table, write_text
import numpy as np
import pytest
from sklearn.metrics import f1_score, mean_squared_error

from bert_classifier import ensemble, history

LABELS = {
  "multi_label": ("x", "y", "x|y", ""),
  "regression": ("0.5", "1", "3", "-2"),
}
COMPARED_BY = {"multi_label": "micro_f1", "regression": "pearson"}
FILES = "train_file", "dev_file", "test_file"


def make_rows(labels, number=16):
  """Returns lines "text,label", texts of 1 to 20 tokens."""
  random = np.random.RandomState(1)
  for i in range(number):
    words = random.choice(list("abcdefghijklmnop"), random.randint(1, 21))
    yield f"{' '.join(words)},{labels[i % len(labels)]}\n"


def score(kind, folder):
  """Returns a metric of test_predictions.tsv by scikit-learn, and its name."""
  header, *rows = read_table(folder / "test_predictions.tsv")
  cells = [dict(zip(header, row)) for row in rows]
  if kind == "regression":
    gold, found = (
      [float(one[name]) for one in cells] for name in ("gold", "value")
    )
    return "rmse", mean_squared_error(gold, found) ** 0.5
  gold, found = (
    [[label in one[name].split("|") for label in "xy"] for one in cells]
    for name in ("gold", "labels")
  )
  return "micro_f1", f1_score(gold, found, average="micro", zero_division=0)


@pytest.fixture(scope="module", params=LABELS)
def met(request, classify, training, tmp_path_factory):
  """Returns kind, flags and output_dir of a run with nearly everything."""
  kind = request.param
  folder = tmp_path_factory.mktemp(kind)
  rows = "".join(make_rows(LABELS[kind]))
  path = write_text(folder / "own.csv", f"text,label\n{rows}")
  flags = {
    **training,
    **dict.fromkeys(FILES, path),
    kind: True,
    "task_name": None,
    "data_dir": None,
    "reinit_head": True,
    "cache_dir": folder / "cache",
    "save_checkpoints_steps": None,
    "max_seq_length": 12,
    "stride": 5,
    "window_pooling": "max",
    "eval_every_steps": 2,
    "num_train_epochs": 1,
    "freeze_layers": 0,
    "layerwise_lr_decay": 0.9,
    "gradient_accumulation_steps": 2,
    "threshold": 0.45 if kind == "multi_label" else None,
  }
  done = classify(
    *("--do_eval", "--do_predict", "--use_best", "--pack_sequences"),
    *["--calibrate"] * (kind == "multi_label"),
    output_dir=folder / "out",
    export_hf=folder / "hf",
    **flags,
  )
  assert done.status == 0, done.log
  return kind, flags, folder


def test_the_best_of_windows_is_what_predicts_and_is_scored_by_texts(met):
  kind, _, folder = met
  entries = history.read(str(folder / "out" / "history.jsonl"))
  values = {
    entry["step"]: entry.get(f"eval_{COMPARED_BY[kind]}", -2)
    for entry in entries
    if "split" in entry
  }
  assert len(values) > 1
  dev, test = (
    read_results(folder / "out" / f"{name}_results.txt")
    for name in ("eval", "test")
  )
  first = min(values, key=lambda step: (-values[step], step))
  assert dev["global_step"] == first
  name, value = score(kind, folder / "out")  # the test file is the dev file
  assert test[f"test_{name}"] == pytest.approx(value, rel=1e-5)
  assert dev[f"eval_{name}"] == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("weights", ["out/best", "hf"])
def test_the_best_predicts_elsewhere_as_it_did(
  met, classify, tmp_path, weights
):
  """It remembers kind, columns, threshold, windows and temperature."""
  kind, flags, folder = met
  more = {}
  if weights == "hf":  # their files have no columns and no windows
    names = "max_seq_length", "stride", "window_pooling", kind
    more = {name: flags[name] for name in names}
    more["label_list"] = "x,y" if kind == "multi_label" else None
  more["init_checkpoint"] = folder / weights
  flags = {**ALONE, "test_file": flags["test_file"], **more}
  done = classify("--do_predict", output_dir=tmp_path, **flags)
  assert done.status == 0, done.log
  found, expected = (
    np.loadtxt(place / "test_results.tsv")
    for place in (tmp_path, folder / "out")
  )
  if weights == "hf" and kind == "multi_label":
    kept = json.loads((folder / "out/best/calibration.json").read_text())
    found = 1 / (1 + (1 / found - 1) ** (1 / kept["temperature"]))
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
  if weights == "out/best":
    name = "test_predictions.tsv"
    assert (tmp_path / name).read_text() == (folder / "out" / name).read_text()


@pytest.mark.parametrize("met", ["regression"], indirect=True)
def test_an_ensemble_of_the_best_is_the_mean(
  met, classify, tmp_path, monkeypatch
):
  kind, flags, _ = met
  given, write_mean = [], ensemble.write_mean
  monkeypatch.setattr(
    ensemble,
    "write_mean",
    lambda *args: given.append(args) or write_mean(*args),
  )
  done = classify(
    *("--do_eval", "--do_predict", "--ensemble", "--use_best"),
    output_dir=tmp_path,
    num_runs=2,
    **flags,
  )
  assert done.status == 0, done.log
  runs = sorted((tmp_path / "runs").iterdir())
  assert [run.name for run in runs] == ["seed=42", "seed=43"]
  every = [np.loadtxt(run / "test_results.tsv") for run in runs]
  found = np.loadtxt(tmp_path / "test_results.tsv")
  np.testing.assert_allclose(found, np.mean(every, axis=0), rtol=1e-5)
  name, value = score(kind, tmp_path)
  results = read_results(tmp_path / "test_results.txt")
  assert results[f"test_{name}"] == pytest.approx(value, rel=1e-5)
  steps = [read_results(r / "eval_results.txt")["global_step"] for r in runs]
  assert steps == given[0][2] == [3, 3] and results["global_step"] == 3
  write_mean(*given[0][:2], [2, 3])
  del results["global_step"]  # for it is of no one step
  assert read_results(tmp_path / "test_results.txt") == results
  assert sorted(run.name for run in runs) == [
    row[0] for row in read_table(tmp_path / "runs.tsv")[1:] if row[-1] == "yes"
  ]


def test_a_file_without_header_and_a_submission(
  classify, small_model, tmp_path
):
  rows = "pos,a b,c d\nneg,e f,g h\n"
  flags = dict(
    task_name=None,
    data_dir=None,
    no_header=True,
    label_column="0",
    text_column="1",
    text_b_column="2",
    label_list="neg,pos",
    dev_file=write_text(tmp_path / "dev.csv", rows),
    cache_dir=tmp_path,
    output_dir=tmp_path / "own",
    **small_model,
  )
  done = classify("--do_eval", **flags)
  assert done.status == 0, done.log
  done = classify(
    *("--do_predict", "--glue_submission"),
    output_dir=tmp_path / "mrpc",
    **small_model,
  )
  assert done.status == 0, done.log
  header, *sent = read_table(tmp_path / "mrpc" / "MRPC.tsv")
  names, *rows = read_table(tmp_path / "mrpc" / "test_predictions.tsv")
  assert header == ["index", "prediction"]
  labels = [row[names.index("label")] for row in rows]
  assert sent == [[str(i), label] for i, label in enumerate(labels)]


def test_a_language_of_xnli_chooses_file_and_rows(classify, training, tmp_path):
  train = "premise\thypo\tlabel\n" + "a b\tc d\tneutral\n" * 8
  write_text(tmp_path / "multinli/multinli.train.de.tsv", train)
  rows = ["language\tgold_label\tsentence1\tsentence2\tpairID"]
  rows += [f"{name}\tneutral\ta b\tc\t{name}" for name in ("de", "zh", "de")]
  for split in ("dev", "test"):
    write_text(tmp_path / f"xnli.{split}.tsv", "\n".join(rows) + "\n")
  done = classify(
    *("--do_predict", "--reinit_head"),
    **{**training, "num_train_epochs": 1, "task_name": "xnli"},
    xnli_language="de",
    shuffle_buffer_size=4,
    data_dir=tmp_path,
    cache_dir=tmp_path / "cache",
    output_dir=tmp_path / "out",
  )
  assert done.status == 0, done.log
  _, *predicted = read_table(tmp_path / "out" / "test_predictions.tsv")
  assert [row[0] for row in predicted] == ["de", "de"]
