"""onnx_export.py: --export_onnx, and what ONNX Runtime makes of it.

Oracles: the predictions of the run, and those of the printed client. Where
tf2onnx and onnxruntime are not installed only the refusals are tested.
"""

import importlib.util
import json
import re
import runpy
import shutil
import sys

from conftest import (
  ALONE,
  read_checkpoint,
  read_client,
  read_features,
  read_table,
  write_checkpoint,
)
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import export, files, onnx_export
import tokenization

needs_packages = pytest.mark.skipif(
  not all(map(importlib.util.find_spec, ("tf2onnx", "onnxruntime"))),
  reason="tf2onnx or onnxruntime is not installed",
)


def open_model(folder):
  import onnxruntime

  return onnxruntime.InferenceSession(
    f"{folder}/model.onnx", providers=["CPUExecutionProvider"]
  )


@pytest.fixture(scope="module")
def plain(trained, records):
  """The test set's probabilities, as long as there is no temperature."""
  rows = read_table(trained / "test_predictions.tsv")[1:]
  return np.float64([row[6:] for row in rows])


@pytest.fixture(scope="module")
def exported(trained, plain, classify, tmp_path_factory):
  """An export of a trained folder, with a temperature, and the log."""
  folder = tmp_path_factory.mktemp("onnx") / "model"
  outcome = classify(
    *("--do_eval", "--calibrate"),
    output_dir=trained,
    export_onnx=folder,
    **{**ALONE, "cache_dir": folder.parent},
  )
  assert outcome.status == 0, outcome.log
  return folder, outcome.log


@pytest.fixture(scope="module")
def predicted(trained, exported, plain, records):
  """The test set's {input: <int32>[n, 24]}, and its probabilities."""
  features = read_features(records)
  inputs = {name: np.int32(values) for name, values in features.items()}
  kept = json.loads((trained / "calibration.json").read_text())
  assert abs(kept["temperature"] - 1) > 0.01
  odds = plain ** (1 / kept["temperature"])
  return inputs, odds / odds.sum(axis=-1, keepdims=True)


@needs_packages
def test_onnx_runtime_predicts_what_the_run_predicted(exported, predicted):
  model = open_model(exported[0])
  inputs, expected = predicted

  def probabilities(values):
    return model.run(["probabilities"], values)[0]

  everything = probabilities(inputs)
  np.testing.assert_allclose(everything, expected, rtol=0, atol=1e-5)
  for number, wanted in enumerate(expected):
    length = inputs["input_mask"][number].sum()
    one = {name: v[number : number + 1, :length] for name, v in inputs.items()}
    np.testing.assert_allclose(probabilities(one)[0], wanted, rtol=0, atol=1e-5)
  wider = {name: np.pad(v, [(0, 43), (0, 16)]) for name, v in inputs.items()}
  found = probabilities(wider)[: len(expected)]
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@needs_packages
def test_the_model_says_what_it_takes_and_gives(exported):
  model = open_model(exported[0])
  assert [(one.name, one.type, one.shape) for one in model.get_inputs()] == [
    (name, "tensor(int32)", ["batch", "length"]) for name in export.INPUTS
  ]
  outputs = {one.name: one.shape for one in model.get_outputs()}
  assert outputs == {"probabilities": ["batch", 2], "logits": ["batch", 2]}


@needs_packages
def test_a_folder_holds_what_a_client_needs(exported, trained):
  folder, log = exported
  assert sorted(path.name for path in folder.iterdir()) == [
    "labels.txt",
    "model.onnx",
    "settings.json",
    "tokenizer.json",
    "vocab.txt",
  ]
  settings = json.loads((folder / "settings.json").read_text())
  assert settings["labels"] == ["0", "1"] and settings["global_step"] == 4
  assert settings["max_seq_length"] == 24 and not settings["skip_padding"]
  assert re.search(
    rf"exported {trained}/model.ckpt-4, step 4, .* within \de-0[789] of .*:"
    rf" {folder}$",
    log.splitlines()[-1],
  )
  assert "tf2onnx" not in log and "deprecated" not in log


@needs_packages
@pytest.mark.parametrize(
  "flags, width, tolerance",
  [
    (["--regression"], 1, 1e-5),
    # The answers are of products in bfloat16, the export's in float32.
    (
      ["--multi_label", "--label_list=x,y,z", "--precision=mixed_bfloat16"],
      3,
      0.01,
    ),
  ],
)
def test_other_kinds_of_targets_have_their_outputs(
  flags, width, tolerance, classify, small_model, tmp_path, capsys
):
  weights = read_checkpoint(small_model["init_checkpoint"] / "bert_model.ckpt")
  weights["output_weights"] = np.linspace(-1, 1, 48 * width, dtype="f4")
  weights["output_weights"] = weights["output_weights"].reshape(width, 48)
  weights["output_bias"] = np.arange(width, dtype=np.float32)
  write_checkpoint(tmp_path / "bert_model.ckpt", weights)
  outcome = classify(
    *flags,
    task_name="csv",
    data_dir=None,
    cache_dir=None,
    bert_config_file=small_model["bert_config_file"],
    init_checkpoint=tmp_path,
    export_onnx=tmp_path / "onnx",
    predict_text="exfvf dh",
  )
  assert outcome.status == 0, outcome.log
  answer = json.loads(capsys.readouterr().out)
  tokenizer = tokenization.FullTokenizer(f"{tmp_path}/onnx/vocab.txt")
  tokens = ["[CLS]", *tokenizer.tokenize("exfvf dh"), "[SEP]"]
  ids = np.int32([tokenizer.convert_tokens_to_ids(tokens)])
  model = open_model(tmp_path / "onnx")
  values = ids, np.ones_like(ids), np.zeros_like(ids)
  found = model.run(None, dict(zip(export.INPUTS, values)))
  found = dict(zip((one.name for one in model.get_outputs()), found))
  assert found["logits"].shape == (1, width)
  if width == 1:
    wanted, name = [answer["value"]], "value"
  else:
    wanted, name = [list(answer["probabilities"].values())], "probabilities"
  np.testing.assert_allclose(found[name], wanted, rtol=0, atol=tolerance)
  if width > 1:
    settings = json.loads((tmp_path / "onnx/settings.json").read_text())
    assert settings["threshold"] == 0.5


@needs_packages
def test_a_conversion_that_computes_something_else_is_refused(
  trained, classify, tmp_path, monkeypatch
):
  import onnx
  import tf2onnx

  convert = tf2onnx.convert.from_graph_def

  def convert_wrongly(*arguments, **options):
    model, storage = convert(*arguments, **options)
    for tensor in model.graph.initializer:
      values = onnx.numpy_helper.to_array(tensor)
      if values.shape == (48, 2) or values.shape == (2, 48):
        changed = onnx.numpy_helper.from_array(values + 0.01, tensor.name)
        tensor.CopyFrom(changed)
        return model, storage
    raise AssertionError("there is no head")

  monkeypatch.setattr(tf2onnx.convert, "from_graph_def", convert_wrongly)
  folder = tmp_path / "onnx"
  outcome = classify(output_dir=trained, export_onnx=folder, **ALONE)
  assert outcome.status == 1
  assert re.search("nothing is exported: .* differs .* by 0.0", outcome.log)
  assert list(tmp_path.iterdir()) == []


@needs_packages
def test_a_failed_export_leaves_nothing(
  trained, classify, tmp_path, monkeypatch
):
  def fail(path, value):
    raise tf.errors.ResourceExhaustedError(None, None, f"{path}; no space")

  monkeypatch.setattr(files, "write_json", fail)
  folder = tmp_path / "onnx"
  outcome = classify(output_dir=trained, export_onnx=folder, **ALONE)
  assert outcome.status == 1 and "no space" in outcome.log
  assert list(tmp_path.iterdir()) == []


@needs_packages
def test_the_printed_client_answers_texts(hold_client, tmp_path):
  pytest.importorskip("tokenizers")
  texts = ["hfwltc jaj", "ga h, fnj?" * 20, "\u4e2d"]
  hold_client("onnx client", texts, "onnx", export_onnx=tmp_path / "onnx")


@needs_packages
def test_the_printed_client_does_not_cut_a_text_that_was_read_in_windows(
  exported, tmp_path, monkeypatch
):
  pytest.importorskip("tokenizers")
  folder = shutil.copytree(exported[0], tmp_path / "model")
  settings = json.loads((folder / "settings.json").read_text())
  settings["stride"] = 5
  (folder / "settings.json").write_text(json.dumps(settings))
  (tmp_path / "client.py").write_text(read_client("onnx client"))
  words = ["client.py", str(folder), "ga h", "ga h, fnj?" * 20]
  monkeypatch.setattr(sys, "argv", words)
  with pytest.raises(SystemExit, match="cut it into windows and pool"):
    runpy.run_path(str(tmp_path / "client.py"))


# ---------------------------------------------------------------------------
# Refusals, whatever is installed


def test_packages_that_are_missing_are_named(
  trained, classify, tmp_path, monkeypatch
):
  monkeypatch.setattr(
    onnx_export.importlib.util, "find_spec", lambda name: name == "tf2onnx"
  )
  folder = tmp_path / "onnx"
  outcome = classify(output_dir=trained, export_onnx=folder, **ALONE)
  assert outcome.status == 1
  assert (
    "--export_onnx needs onnxruntime, which this Python does not have: pip"
    " install tf2onnx onnxruntime" in outcome.log
  )
  assert not folder.exists()


def install(folder, monkeypatch, **packages):
  """Puts packages of these contents in the place of those that there are."""
  folder.mkdir()
  for name, content in packages.items():
    (folder / f"{name}.py").write_text(content)
    monkeypatch.setitem(sys.modules, name, None)  # so that it comes back
    del sys.modules[name]
  monkeypatch.syspath_prepend(folder)


def test_packages_that_cannot_be_imported_are_told_before_anything(
  trained, classify, tmp_path, monkeypatch
):
  broken = "raise TypeError('Descriptors cannot be created directly.')"
  install(tmp_path / "site", monkeypatch, tf2onnx="", onnxruntime=broken)
  flags = {**ALONE, "export_onnx": tmp_path / "onnx", "output_dir": trained}
  outcome = classify(**flags)
  assert outcome.status == 1
  assert (
    "--export_onnx needs onnxruntime, which cannot be imported beside"
    f" TensorFlow {tf.__version__} and NumPy {np.__version__}: Descriptors"
    " cannot be created directly. Install the packages in one line"
  ) in outcome.log
  assert not (tmp_path / "onnx").exists()


def test_a_folder_that_is_taken_is_refused(
  trained, classify, tmp_path, monkeypatch
):
  packages = tmp_path.parent / f"{tmp_path.name}_packages"
  install(packages, monkeypatch, tf2onnx="", onnxruntime="")
  (tmp_path / "notes.txt").write_text("mine")
  for folder, other, problem in (
    (tmp_path, None, "is not empty, but holds notes.txt"),
    (trained, None, "is output_dir"),
    (tmp_path / "one", tmp_path / "one", "is export_onnx"),
  ):
    outcome = classify(
      output_dir=trained, export_onnx=folder, export_hf=other, **ALONE
    )
    assert outcome.status == 1
    assert f"={folder} {problem}" in outcome.log
  assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
