"""output_dir.py: names, state, manifest, folders of older versions."""

import dataclasses
import json
import os
import pathlib
import shutil

from conftest import read_results, read_table, write_checkpoint
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import (
  catalogue,
  options,
  output_dir,
  run_settings,
  sharing,
)
from bert_classifier.catalogue import MrpcProcessor
from bert_classifier.errors import UserError
from bert_classifier.output_dir import OutputDir
import modeling

# Written by the version of commit 7e350c3, and nothing but the events, graph
# and meta files taken out.
PREVIOUS = pathlib.Path(__file__).parent / "previous" / "output_dir"
RECORDED = {
  "model": {"max_seq_length": 64, "problem_type": "regression"},
  "training": {"learning_rate": 1e-4},
}


@pytest.mark.parametrize("is_resumed", [False, True])
def test_a_folder_of_another_kind_is_refused(previous, is_resumed):
  found = output_dir.inspect(str(previous))
  labels = {"labels": found.settings["model"]["labels"]}
  now = {"model": {**labels, "problem_type": "multi_label_classification"}}
  with pytest.raises(UserError, match="was 'single_label_.* is 'multi_label_"):
    run_settings.check_settings(found, now, is_resumed)


def test_settings_are_found_as_they_were_recorded(tmp_path):
  vocabulary = tmp_path / "words"
  vocabulary.write_text("[UNK]\n")
  folder = tmp_path / "out"
  config = modeling.BertConfig(vocab_size=1)
  output_dir.write_manifest(str(folder), RECORDED, config, str(vocabulary))
  assert output_dir.inspect(str(folder)) == OutputDir(
    str(folder), None, 0, RECORDED
  )
  kept = modeling.BertConfig.from_json_file(str(folder / "bert_config.json"))
  assert kept.architecture() == config.architecture()
  assert (folder / "vocab.txt").read_text() == "[UNK]\n"


def test_files_of_the_user_in_the_folder_are_left_alone(tmp_path):
  (tmp_path / "vocab.txt").write_text("mine")
  (tmp_path / "words").write_text("[UNK]\n")
  for _ in range(2):  # also by a second run
    config = modeling.BertConfig(vocab_size=1)
    output_dir.write_manifest(
      str(tmp_path), RECORDED, config, str(tmp_path / "words")
    )
  assert (tmp_path / "vocab.txt").read_text() == "mine"
  assert (tmp_path / "bert_config.json").exists()


def test_a_folder_that_is_not_there_holds_nothing(tmp_path):
  path = str(tmp_path / "missing")
  assert output_dir.inspect(path) == OutputDir(path, None, 0, {})


@pytest.mark.parametrize(
  "content", ["", "[]", '{"settings": 3}', '{"settings": {"model": null}}']
)
def test_a_damaged_manifest_is_refused(tmp_path, content):
  (tmp_path / "run_manifest.json").write_text(content)
  with pytest.raises(UserError, match="run_manifest.json is damaged"):
    output_dir.inspect(str(tmp_path))


@pytest.mark.parametrize("content", [None, "", "model_checkpoint_pa"])
def test_checkpoints_without_a_whole_state_file_are_refused(tmp_path, content):
  if content is not None:
    (tmp_path / "checkpoint").write_text(content)
  for step in (9, 10):
    (tmp_path / f"model.ckpt-{step}.index").write_text("")
  with pytest.raises(UserError, match='path: "model.ckpt-10"'):
    output_dir.check_state_file(output_dir.inspect(str(tmp_path)))


@pytest.mark.parametrize(
  ("there", "advice"),
  [
    ([9, 10], 'write into it the line model_checkpoint_path: "model.ckpt-10"'),
    ([], "remove the file `checkpoint` to train from the start"),
  ],
)
def test_a_state_file_that_names_what_is_not_there_is_told(
  tmp_path, there, advice
):
  state = tmp_path / "checkpoint"
  state.write_text('model_checkpoint_path: "model.ckpt-12"')
  for step in there:
    (tmp_path / f"model.ckpt-{step}.index").write_text("")
  with pytest.raises(UserError, match="names model.ckpt-12, which") as error:
    output_dir.check_state_file(output_dir.inspect(str(tmp_path)))
  assert advice in str(error.value)
  (tmp_path / "model.ckpt-12.index").write_text("")
  output_dir.check_state_file(output_dir.inspect(str(tmp_path)))


@pytest.mark.parametrize("name", ["bert_model.ckpt", "model.ckpt-1000000"])
@pytest.mark.parametrize("has_state", [False, True])
def test_a_released_model_is_no_output_dir(tmp_path, name, has_state):
  bias = {"bert/pooler/dense/bias": np.zeros(4, np.float32)}
  write_checkpoint(tmp_path / name, bias)
  if has_state:
    (tmp_path / "checkpoint").write_text(f'model_checkpoint_path: "{name}"')
  found = output_dir.inspect(str(tmp_path))
  with pytest.raises(UserError) as error:
    output_dir.check_no_release(found, False)
  assert str(error.value) == (
    f"--output_dir={tmp_path} holds a released model, {name}, which has no"
    " classifier, and nothing that a run wrote: give another --output_dir, and"
    f" --init_checkpoint={tmp_path} with --do_train to begin from these weights"
  )
  head = {"output_weights": np.zeros([2, 4], np.float32)}
  write_checkpoint(tmp_path / name, {**bias, **head})  # of the 2018 script
  output_dir.check_no_release(found, False)


def test_training_may_put_its_files_beside_a_release(tmp_path):
  bias = {"bert/pooler/dense/bias": np.zeros(4, np.float32)}
  write_checkpoint(tmp_path / "bert_model.ckpt", bias)
  found = output_dir.inspect(str(tmp_path))
  output_dir.check_no_release(found, True)


@pytest.mark.parametrize("suffix", ["", "_mismatched"])
def test_paths_have_the_names_of_2018_and_are_known_as_own(tmp_path, suffix):
  folder = str(tmp_path)
  paths = [
    output_dir.results_path(folder, f"dev{suffix}"),
    *output_dir.prediction_paths(folder, f"test{suffix}"),
  ]
  assert paths == [
    f"{folder}/eval_results{suffix}.txt",
    f"{folder}/test_results{suffix}.tsv",
    f"{folder}/test_predictions{suffix}.tsv",
  ]
  for path in paths:
    pathlib.Path(path).write_text("")
  assert sorted(output_dir.list_own_files(folder)) == sorted(paths)


def test_an_output_dir_that_cannot_be_one_is_refused_at_once(tmp_path):
  (tmp_path / "file").write_text("")
  (tmp_path / "link").symlink_to(tmp_path / "nowhere")
  sayings = {
    "file": "file is a file",
    "file/out": "file is a file",
    "link": "link is a link to .*nowhere, which is not there",
    "n" * 256: "a name is longer than 255 bytes",
    "runs[1]/out": r"has \[ in it",
  }
  for name, saying in sayings.items():
    with pytest.raises(UserError, match=saying):
      output_dir.check_place(str(tmp_path / name))
  for name in ("", "a/b/c"):
    output_dir.check_place(str(tmp_path / name))
  output_dir.check_place("gs://bucket/a")


def test_a_cache_dir_that_cannot_be_one_is_refused_at_once(tmp_path):
  def check(path):
    output_dir.check_place(str(path), "cache_dir", is_read_only=True)

  (tmp_path / "file").write_text("")
  (tmp_path / "link").symlink_to("nowhere")
  for name, words in (("file", "is a file"), ("link", "which is not there")):
    with pytest.raises(UserError, match=f"--cache_dir=.*{name}.*{words}. Give"):
      check(tmp_path / name)
  for name in ("[1]", "new/folder"):
    check(tmp_path / name)


def test_an_output_dir_of_another_user_is_refused_at_once(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(os, "access", lambda *_: False)  # as it is not for root
  with pytest.raises(UserError, match=f"{tmp_path} cannot be written by"):
    output_dir.check_place(str(tmp_path / "out"))


def test_a_training_that_ended_early_is_no_training(tmp_path):
  (tmp_path / "checkpoint").write_text('model_checkpoint_path: "m-12"')
  output_dir.check_trained(str(tmp_path), 12)
  with pytest.raises(UserError, match="before step 13, and the newest .* 12"):
    output_dir.check_trained(str(tmp_path), 13)


def train_anew(folder, vocab_file, *, interrupted=False):
  """Does what a training with --overwrite_output_dir does to a folder."""
  asked = options.RunOptions(
    output_dir=folder, do_train=True, overwrite_output_dir=True
  )
  found = output_dir.inspect(folder)
  output_dir.check_overwriting(found, None)
  with sharing.claim(asked, found):
    if not interrupted:
      config = modeling.BertConfig(vocab_size=2)
      output_dir.write_manifest(folder, RECORDED, config, str(vocab_file))


@pytest.mark.parametrize("interrupted", [False, True])
def test_overwriting_replaces_the_copies_of_the_model_before(
  tmp_path, interrupted
):
  folder = str(tmp_path / "out")
  old, new = tmp_path / "old", tmp_path / "new"
  old.write_text("[UNK]\na\n")
  new.write_text("[UNK]\nb\n")
  train_anew(folder, old)
  (tmp_path / "out" / "model.ckpt-9.index").write_text("")
  if interrupted:
    train_anew(folder, new, interrupted=True)
  train_anew(folder, new)
  assert (tmp_path / "out" / "vocab.txt").read_text() == "[UNK]\nb\n"
  assert not (tmp_path / "out" / "model.ckpt-9.index").exists()


@pytest.mark.parametrize("removed", [0, 1, 2])
def test_overwriting_that_was_stopped_can_be_done_again(
  tmp_path, monkeypatch, removed
):
  folder, words = str(tmp_path / "out"), tmp_path / "words"
  words.write_text("[UNK]\n")
  train_anew(folder, words)
  for name in ("checkpoint", "eval_results.txt", "test_results.tsv"):
    (tmp_path / "out" / name).write_text('model_checkpoint_path: "a-9"')
  remove, gone = tf.io.gfile.remove, []

  def stop(path):
    if len(gone) == removed:
      raise KeyboardInterrupt
    remove(path)
    gone.append(path)

  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(tf.io.gfile, "remove", stop)
    train_anew(folder, words)
  train_anew(folder, words)
  assert not (tmp_path / "out" / "test_results.tsv").exists()


def test_only_what_a_run_wrote_is_removed(tmp_path):
  folder = tmp_path / "runs[1]"  # a pattern, to a glob
  ours = "checkpoint graph.pbtxt run_manifest.json eval_results.txt"
  ours += " model.ckpt-12.index model.ckpt-12.meta test_results_mismatched.tsv"
  ours += " model.ckpt-12.data-00000-of-00001 eval/events.out.tfevents.1.me"
  ours += " history.jsonl eval_report.html eval_report_mismatched.json"
  ours += " eval_report.txt eval_errors.tsv eval_errors_mismatched.tsv"
  ours += " converted_weights/converted.ckpt.index"  # of the version before
  theirs = "model.ckpt-12.txt model.ckpt-best.index notes.txt eval/notes.txt"
  theirs += " cached_dev_24_mrpc_0123456789ab.tf_record vocab.txt"
  for name in ("eval", "converted_weights"):
    (folder / name).mkdir(parents=True)
  for name in (ours + " " + theirs).split():
    (folder / name).write_text("")
  assert output_dir.remove_own_files(str(folder)) == len(ours.split()) - 1
  left = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
  assert left == {"run_manifest.json", *theirs.split()}  # until a new one


@pytest.fixture
def previous(tmp_path):
  """Returns a copy of a folder of the version before the rooms."""
  return shutil.copytree(PREVIOUS, tmp_path / "out")


def test_a_folder_of_the_version_before_is_read(previous):
  found = output_dir.inspect(str(previous))
  assert found.checkpoint == str(previous / "model.ckpt-9")
  assert found.step == 9
  written = json.loads((previous / "run_manifest.json").read_text())
  one_class = {"problem_type": "single_label_classification"}
  written["settings"]["model"].update(one_class)  # it knew no other kind
  assert found.settings == written["settings"]
  assert found.settings["training"]["train_batch_size"] == 8
  config = modeling.BertConfig.from_json_file(
    str(previous / "bert_config.json")
  )
  settings = found.settings["model"]
  assert [
    (name, value)
    for name, value in config.architecture().items()
    if name not in settings or settings[name] != value
  ] == [("layer_norm_eps", 1e-12)]  # not recorded then
  other = {"model": {**settings, "layer_norm_eps": 1e-5}}
  (difference,) = run_settings.compare_settings(found.settings, other)
  assert str(difference) == "layer_norm_eps was 1e-12 and is 1e-05"
  other = {"training": {"head_dropout": 0.0}}
  (difference,) = run_settings.compare_settings(found.settings, other)
  assert str(difference) == "head_dropout was 0.1 and is 0.0"


def test_every_file_of_the_version_before_is_known_as_own(previous):
  names = {path.name for path in previous.iterdir()}
  own = output_dir.list_own_files(str(previous))
  assert {pathlib.Path(path).name for path in own} == names - {
    "bert_config.json",
    "vocab.txt",
  }


# The task and its length, and of each phase what was given.
ALONE = dict(init_checkpoint=None, vocab_file=None, max_seq_length=24)
TRAINING = dict(train_batch_size=8, learning_rate=1e-3, num_train_epochs=2)


def test_a_folder_of_the_version_before_gives_the_same_results(
  classify, previous
):
  for name in ("eval_results.txt", "test_results.tsv"):
    (previous / name).unlink()
  outcome = classify("--do_eval", "--do_predict", output_dir=previous, **ALONE)
  assert outcome.status == 0, outcome.log
  before, now = (
    read_results(folder / "eval_results.txt") for folder in (PREVIOUS, previous)
  )
  assert {key: now[key] for key in before} == pytest.approx(before, abs=1e-6)
  before, now = (
    np.float32(read_table(folder / "test_results.tsv"))
    for folder in (PREVIOUS, previous)
  )
  np.testing.assert_allclose(now, before, atol=1e-6)


def test_training_in_a_folder_of_the_version_before_goes_on(classify, previous):
  longer = {**TRAINING, "num_train_epochs": 3}
  outcome = classify("--do_train", output_dir=previous, **ALONE, **longer)
  assert outcome.status == 0, outcome.log
  assert "steps 10 to 13" in outcome.log
  assert output_dir.inspect(str(previous)).step == 13


def test_other_settings_than_the_version_before_recorded_are_refused(
  classify, previous
):
  other = {**TRAINING, "learning_rate": 1e-4}
  outcome = classify("--do_train", output_dir=previous, **ALONE, **other)
  assert outcome.status == 1
  assert "learning_rate was 0.001 and is 0.0001" in outcome.log


class Sides(MrpcProcessor):
  """MRPC's files, of which a folder is trained on the pairs."""


class Swapped(MrpcProcessor):
  tables = {
    split: dataclasses.replace(table, text_a="#2 String", text_b="#1 String")
    for split, table in MrpcProcessor.tables.items()
  }


def test_other_columns_than_those_trained_on_are_refused_or_resumed(
  classify, small_model, tmp_path, monkeypatch
):
  monkeypatch.setitem(catalogue.PROCESSORS, "sides", Sides)
  flags = dict(small_model, task_name="sides", output_dir=tmp_path / "out")
  flags |= dict(num_train_epochs=1, cache_dir=tmp_path)
  assert classify("--do_train", **flags).status == 0
  settings = output_dir.inspect(str(tmp_path / "out")).settings
  assert settings["model"]["table of dev"]["text_a"] == "#1 String"
  assert len(settings["training"]["training examples"]) == 64
  assert classify("--do_eval", **flags).status == 0
  monkeypatch.setitem(catalogue.PROCESSORS, "sides", Swapped)
  refused = classify("--do_eval", **flags)
  assert (
    refused.status == 1 and "table of dev was {'label': 'Qual" in refused.log
  )
  assert classify("--do_eval", "--resume", **flags).status == 0
