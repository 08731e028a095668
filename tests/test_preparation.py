"""Weights and files that a run begins with, through the command line."""

import json
import os
import shutil

from conftest import (
  read_checkpoint,
  read_results,
  write_checkpoint,
  write_hugging_face,
)
import numpy as np
import pytest

from bert_classifier import (
  batches,
  device_choice,
  devices,
  files,
  options,
  preparation,
  trained_settings,
)
from bert_classifier.errors import UserError
from bert_classifier.feature_cache import Features


@pytest.fixture
def hugging_face(golden_task, tmp_path):
  """Returns the golden task's model as a Hugging Face folder."""
  return write_hugging_face(golden_task, tmp_path / "hf")


@pytest.fixture
def small_hugging_face(small_model, golden_task, tmp_path):
  """Returns the small model as a Hugging Face folder."""
  source = small_model["init_checkpoint"]
  return write_hugging_face(golden_task, tmp_path / "hf", source=source)


def test_hugging_face_weights_give_the_golden_results(
  classify, golden_task, hugging_face, tmp_path
):
  out = tmp_path / "out"
  outcome = classify(
    "--do_eval",
    init_checkpoint=hugging_face,
    vocab_file=None,
    output_dir=out,
  )
  assert outcome.status == 0
  golden = read_results(f"{golden_task}/eval_results.txt")
  found = read_results(out / "eval_results.txt")
  assert {key: found[key] for key in golden} == pytest.approx(golden, abs=1e-5)
  assert not (out / "converted_weights").exists()


def test_a_trained_folder_needs_no_other_files(
  classify, small_hugging_face, tmp_path
):
  out = tmp_path / "out"
  flags = dict(vocab_file=None, output_dir=out, train_batch_size=8)
  trained = classify(
    "--do_train", "--do_eval", init_checkpoint=small_hugging_face, **flags
  )
  assert trained.status == 0
  before = read_results(out / "eval_results.txt")
  shutil.rmtree(small_hugging_face)
  again = classify("--do_eval", "--do_predict", init_checkpoint=None, **flags)
  assert again.status == 0
  after = read_results(out / "eval_results.txt")
  assert after == pytest.approx(before, abs=1e-6)


def test_a_head_of_another_shape_is_left_out_when_asked_to(
  classify, small_model, tmp_path
):
  # Of three classes, for a task of two.
  source = small_model["init_checkpoint"] / "bert_model.ckpt"
  variables = read_checkpoint(source)
  variables["output_weights"] = np.zeros([3, 48], np.float32)
  variables["output_bias"] = np.zeros([3], np.float32)
  write_checkpoint(tmp_path / "three", variables)
  flags = dict(
    small_model,
    init_checkpoint=tmp_path / "three",
    output_dir=tmp_path / "out",
    train_batch_size=16,
    num_train_epochs=1,
  )
  refused = classify("--do_train", **flags)
  assert refused.status == 1 and "--reinit_head" in refused.log
  assert classify("--do_train", "--reinit_head", **flags).status == 0
  trained = read_checkpoint(tmp_path / "out")
  assert trained["output_weights"].shape == (2, 48)


def test_an_encoder_that_lacks_a_layer_is_completed_when_asked_to(
  classify, small_model, tmp_path
):
  config = json.loads(small_model["bert_config_file"].read_text())
  config["num_hidden_layers"] += 1
  (tmp_path / "deeper.json").write_text(json.dumps(config))
  flags = dict(
    small_model,
    bert_config_file=tmp_path / "deeper.json",
    output_dir=tmp_path / "out",
    train_batch_size=16,
    num_train_epochs=1,
  )
  refused = classify("--do_train", **flags)
  assert refused.status == 1 and "--allow_partial_init" in refused.log
  done = classify("--do_train", "--allow_partial_init", **flags)
  assert done.status == 0 and "start fresh" in done.log


def test_a_run_of_a_version_before_goes_on_in_the_buffer_that_it_began_with(
  classify, small_model, tmp_path, monkeypatch
):
  folder = tmp_path / "out"
  flags = dict(small_model, output_dir=folder, train_batch_size=8)
  orders, buffers = [], []
  shuffled = batches.shuffle_and_repeat

  def shuffle(examples, buffer_size, **arguments):
    buffers.append(buffer_size)
    return shuffled(examples, buffer_size=buffer_size, **arguments)

  monkeypatch.setattr(batches, "shuffle_and_repeat", shuffle)
  for epochs in (1, 2):
    done = classify("--do_train", num_train_epochs=epochs, **flags)
    assert done.status == 0, done.log
    manifest = json.loads((folder / "run_manifest.json").read_text())
    orders.append(manifest["settings"]["order"])
    manifest["settings"]["order"] = {"buffer_rows": 3}
    (folder / "run_manifest.json").write_text(json.dumps(manifest))
  assert orders == [{"permutation": 1}, {"buffer_rows": 3}]
  assert buffers == [3]


def test_a_data_dir_that_cannot_be_written_leaves_the_cache_to_output_dir(
  classify, small_model, golden_task, tmp_path, monkeypatch
):
  monkeypatch.setattr(files, "is_writable", lambda folder: False)
  out = tmp_path / "out"
  flags = dict(small_model, cache_dir=None, output_dir=out)
  assert classify("--do_eval", **flags).status == 0
  assert list(out.glob("cached_dev_24_mrpc_*.tf_record"))
  assert not any("cached" in name for name in os.listdir(f"{golden_task}/data"))


def test_features_in_a_data_dir_that_became_read_only_are_used(
  small_model, golden_task, tmp_path, monkeypatch, classify
):
  data = tmp_path / "data"
  shutil.copytree(f"{golden_task}/data", data)
  flags = dict(small_model, data_dir=data, cache_dir=None)
  assert classify("--do_eval", output_dir=tmp_path / "a", **flags).status == 0
  monkeypatch.setattr(files, "is_writable", lambda folder: False)
  out = tmp_path / "b"
  outcome = classify("--do_eval", output_dir=out, **flags)
  assert outcome.status == 0 and "converted before, in" in outcome.log
  assert not list(out.glob("cached_*"))


def test_a_trained_folder_remembers_its_threshold(tmp_path):
  values = options.make_options(output_dir=str(tmp_path), do_predict=True)
  recorded = {"prediction": {"threshold": 0.4}}
  found = trained_settings.fill_in(values, recorded)
  assert found.inference.threshold == 0.4
  assert "threshold" in found.given


@pytest.mark.parametrize(
  ("tokens", "flags", "examples"),
  [
    (11, {}, 64),
    (54, {}, 32),
    (128, {}, 16),
    (11, {"skip_padding": False}, 16),
    (11, {"eval_batch_size": 8}, 8),
    (11, {"use_tpu": True}, 8),
  ],
)
def test_the_examples_of_a_batch_are_chosen_by_their_tokens(
  tokens, flags, examples
):
  sets = {"dev": Features("path", 10, 10 * tokens, 10), "test": None}
  values = options.make_options(**flags)
  placement = device_choice.make_placement(values.device)
  found = preparation.choose_batch_size(
    "eval_batch_size", values, placement, sets, "dev"
  )
  assert found == examples


def test_an_evaluation_by_a_tpu_on_another_host_is_refused_before_training(
  classify, tmp_path
):
  outcome = classify(
    "--do_train",
    "--do_eval",
    "--use_tpu",
    tpu_name="my-tpu",
    data_dir=tmp_path / "nowhere",
    output_dir="gs://bucket/out",
    cache_dir="gs://bucket/cache",
    init_checkpoint="gs://bucket/bert",
  )
  assert outcome.status == 1
  assert "'my-tpu' is on another host" in outcome.log


def test_a_prediction_leaves_no_converted_weights(
  classify, hugging_face, tmp_path
):
  flags = dict(init_checkpoint=hugging_face, vocab_file=None)
  out = tmp_path / "out"
  assert classify("--do_predict", output_dir=out, **flags).status == 0
  names = {path.name for path in out.iterdir() if not path.is_dir()}
  assert names == {
    *["test_results.tsv", "test_predictions.tsv", "test_results.txt"]
  }
  assert not list(out.glob("converted_weights*"))


@pytest.fixture
def trained_weights(tmp_path):
  """Returns a run's checkpoint whose manifest says length 24."""
  path = tmp_path / "before" / "model.ckpt-7"
  path.parent.mkdir()
  write_checkpoint(path, {"output_bias": np.zeros(2, np.float32)})
  settings = {"model": {"max_seq_length": 24}, "training": {}}
  settings["training"]["train_batch_size"] = 12
  manifest = path.parent / "run_manifest.json"
  manifest.write_text(json.dumps({"settings": settings}))
  return path


def test_weights_that_are_given_bring_the_length_they_were_trained_with(
  trained_weights, info
):
  named = str(trained_weights)
  asked = options.make_options(init_checkpoint=named)
  taken = trained_settings.fill_in_cutting(asked)
  assert taken.model.max_seq_length == 24
  assert info.messages == [
    f"--max_seq_length=24, with which {named} was trained"
  ]
  other = options.make_options(init_checkpoint=named, max_seq_length=20)
  assert trained_settings.fill_in_cutting(other) == other


def test_a_batch_size_that_was_recorded_is_held_against_the_cores(
  trained_weights, monkeypatch
):
  monkeypatch.setattr(devices, "tpu_cluster", lambda *_: None)
  folder = trained_weights.parent
  (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-7"')
  asked = options.make_options(
    output_dir=str(folder), do_train=True, use_tpu=True, tpu_name="local"
  )
  with pytest.raises(UserError, match="train_batch_size is 12, but must be a"):
    preparation.prepare(asked)
