"""Weights and files that a run begins with, through the command line."""

import json
import os
import shutil

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import checkpoints


def results(folder):
  lines = (folder / "eval_results.txt").read_text().splitlines()
  return {k: float(v) for k, v in (line.split(" = ") for line in lines)}


@pytest.fixture
def hugging_face(golden_task, tmp_path):
  """The golden task's model as a Hugging Face folder."""
  from safetensors.numpy import save_file

  source = os.path.join(golden_task, "checkpoint")
  reader = tf.train.load_checkpoint(os.path.join(source, "bert_model.ckpt"))
  with open(os.path.join(source, "bert_config.json")) as file:
    config = json.load(file)
  weights = {}
  for row in checkpoints.variable_table(config["num_hidden_layers"]):
    value = reader.get_tensor(row.name)
    value = value.T if row.is_transposed else value
    weights[row.hugging_face] = np.ascontiguousarray(value)
  folder = tmp_path / "hf"
  folder.mkdir()
  save_file(weights, str(folder / "model.safetensors"))
  config.update(model_type="bert", hidden_act="gelu_new")
  (folder / "config.json").write_text(json.dumps(config))
  shutil.copy(os.path.join(golden_task, "vocab.txt"), folder / "vocab.txt")
  return folder


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
  with open(os.path.join(golden_task, "eval_results.txt")) as lines:
    golden = dict(line.split(" = ") for line in lines)
  for key, value in golden.items():
    np.testing.assert_allclose(results(out)[key], float(value), atol=1e-5)
  assert not (out / "converted_weights").exists()


def test_a_trained_folder_needs_no_other_files(
  classify, hugging_face, tmp_path
):
  out = tmp_path / "out"
  flags = dict(vocab_file=None, output_dir=out, train_batch_size=8)
  trained = classify(
    "--do_train", "--do_eval", init_checkpoint=hugging_face, **flags
  )
  assert trained.status == 0
  before = results(out)
  shutil.rmtree(hugging_face)
  again = classify("--do_eval", "--do_predict", init_checkpoint=None, **flags)
  assert again.status == 0
  assert results(out) == pytest.approx(before, abs=1e-6)


def test_a_head_of_another_shape_is_left_out_when_asked_to(
  classify, golden_task, tmp_path
):
  # The golden model of three classes, for the task of two.
  config = os.path.join(golden_task, "checkpoint", "bert_config.json")
  flags = dict(
    init_checkpoint=os.path.join(golden_task, "..", "checkpoint"),
    bert_config_file=config,
    output_dir=tmp_path / "out",
    train_batch_size=16,
    num_train_epochs=1,
  )
  refused = classify("--do_train", **flags)
  assert refused.status == 1 and "--reinit_head" in refused.log
  assert classify("--do_train", "--reinit_head", **flags).status == 0
  head = tf.train.load_variable(str(tmp_path / "out"), "output_weights")
  assert head.shape == (2, 48)


def test_an_encoder_that_lacks_a_layer_is_completed_when_asked_to(
  classify, golden_task, tmp_path
):
  with open(
    os.path.join(golden_task, "checkpoint", "bert_config.json")
  ) as file:
    config = json.load(file)
  config["num_hidden_layers"] += 1
  (tmp_path / "deeper.json").write_text(json.dumps(config))
  flags = dict(
    bert_config_file=tmp_path / "deeper.json",
    output_dir=tmp_path / "out",
    train_batch_size=16,
    num_train_epochs=1,
  )
  refused = classify("--do_train", **flags)
  assert refused.status == 1 and "--allow_partial_init" in refused.log
  done = classify("--do_train", "--allow_partial_init", **flags)
  assert done.status == 0 and "start fresh" in done.log
