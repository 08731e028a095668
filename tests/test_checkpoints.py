"""checkpoints.py: what is found, what it covers, what is refused.

Oracle: a checkpoint that the 2018 scripts wrote.
"""

import json
import os
import pathlib
import pickle
import re
import shutil
import subprocess
import sys
import types
import zipfile

from conftest import GOLDEN, write_checkpoint
import numpy as np
import pytest
from safetensors.numpy import save_file
import tensorflow.compat.v1 as tf

from bert_classifier import checkpoints
from bert_classifier.coverage import HEAD, compute_shapes
from bert_classifier.errors import MissingFileError, UserError

pytestmark = pytest.mark.quick

PREFIX = "bert_model.ckpt"
DATA = PREFIX + ".data-00000-of-00001"


def a_config(**changes):
  """Returns the golden checkpoint's configuration, with changes."""
  values = json.loads((GOLDEN / "checkpoint/bert_config.json").read_text())
  return types.SimpleNamespace(**{**values, **changes})


def coverage_of(path, num_labels=3, **changes):
  variables = compute_shapes(a_config(**changes), num_labels)
  return checkpoints.open_checkpoint(path).compare_with(variables)


@pytest.fixture
def folder(tmp_path):
  """Returns a copy of the golden checkpoint's folder."""
  return pathlib.Path(shutil.copytree(GOLDEN / "checkpoint", tmp_path / "bert"))


# --- coverage ---------------------------------------------------------------


def test_a_checkpoint_of_the_2018_scripts_is_covered_whole(folder):
  coverage = coverage_of(folder)
  assert set(coverage.loaded) == set(coverage.checkpoint.shapes)
  assert len(coverage.loaded) == 57
  assert not coverage.fresh and not coverage.unused
  assert coverage.accept(trained_needed=True) is coverage
  assert coverage.describe() == [
    f"57 of 57 variables are loaded from {folder / PREFIX}"
  ]


def test_loaded_names_give_every_variable_its_value_in_the_checkpoint(folder):
  coverage = coverage_of(folder)
  with tf.Graph().as_default(), tf.Session() as session:
    variables = {
      name: tf.get_variable(name, coverage.checkpoint.shapes[name])
      for name in coverage.loaded
    }
    tf.train.init_from_checkpoint(
      coverage.checkpoint.convert_to_tensorflow("no"),
      {name: name for name in coverage.loaded},
    )
    session.run(tf.global_variables_initializer())
    here = session.run(variables)
  there = tf.train.load_checkpoint(str(folder / PREFIX))
  assert len(here) == 57
  for name, value in here.items():
    np.testing.assert_array_equal(value, there.get_tensor(name))


def test_a_head_of_another_shape_needs_reinit_head(folder):
  coverage = coverage_of(folder, num_labels=2)
  assert coverage.encoder_complete and not coverage.head_complete
  assert ("output_weights", (3, 48), (2, 48)) in coverage.mismatched
  with pytest.raises(UserError, match=r"\[3, 48\].*\[2, 48\].*--reinit_head"):
    coverage.accept()
  accepted = coverage.accept(reinit_head=True)
  assert len(accepted.loaded) == 55 and accepted.fresh == HEAD
  assert accepted.describe()[1] == (
    "start fresh: output_weights, output_bias (left out)"
  )


def test_reinit_head_leaves_out_a_head_that_would_fit_too(folder):
  accepted = coverage_of(folder).accept(reinit_head=True)
  assert accepted.left_out == HEAD
  with pytest.raises(UserError, match="random numbers in output_weights"):
    coverage_of(folder).accept(reinit_head=True, trained_needed=True)


@pytest.mark.parametrize("goes_first", [".index", ".data-00000-of-00001"])
def test_a_checkpoint_that_goes_while_it_is_opened_is_missing(
  goes_first, tmp_path, monkeypatch
):
  prefix = str(tmp_path / "model.ckpt-3")
  write_checkpoint(prefix, {"w": np.float32([1])})
  read = checkpoints.tensorflow_weights.open_weights

  def replace_meanwhile(prefix):
    os.remove(prefix + goes_first)
    return read(prefix)

  monkeypatch.setattr(
    checkpoints.tensorflow_weights, "open_weights", replace_meanwhile
  )
  with pytest.raises(MissingFileError, match=r"model\.ckpt-3"):
    checkpoints.open_checkpoint(prefix)


@pytest.mark.parametrize(
  "key, value, shape",
  [
    ("vocab_size", 210, r"word_embeddings is \[211, 48\] there"),
    ("max_position_embeddings", 50, r"position_embeddings is \[40, 48\]"),
    ("type_vocab_size", 16, r"token_type_embeddings is \[2, 48\]"),
    ("intermediate_size", 64, r"intermediate/dense/kernel is \[48, 96\]"),
    ("hidden_size", 64, r"word_embeddings is \[211, 48\]"),
    ("num_hidden_layers", 4, "it has 3 encoder layers"),
    ("num_hidden_layers", 2, "it has 3 encoder layers"),
  ],
)
def test_another_size_is_named_with_its_config_key(folder, key, value, shape):
  coverage = coverage_of(folder, **{key: value})
  with pytest.raises(UserError, match=f"{shape}.*but {key} is {value}") as e:
    coverage.accept()
  beside = str(folder / "bert_config.json")
  assert f"--bert_config_file={beside}" in str(e.value)
  with pytest.raises(UserError, match="lies beside it, but does not belong"):
    coverage.accept(config_file=beside)


def test_partial_init_lets_another_vocabulary_pass(folder):
  coverage = coverage_of(folder, vocab_size=300)
  accepted = coverage.accept(allow_partial_init=True)
  assert accepted.fresh == ("bert/embeddings/word_embeddings",)
  assert accepted.describe()[1] == (
    "start fresh: bert/embeddings/word_embeddings [211, 48] in it, [300, 48]"
    " in the model (of another shape)"
  )


def test_a_pretrained_encoder_may_be_trained_but_not_evaluated(tmp_path):
  variables = compute_shapes(a_config(), num_labels=2)
  weights = {n: np.zeros(s, np.float32) for n, s in variables.items()}
  for name in HEAD:
    del weights[name]
  write_checkpoint(tmp_path / "a", weights)
  coverage = coverage_of(tmp_path / "a", num_labels=2)
  assert coverage.accept() is coverage and coverage.missing == HEAD
  with pytest.raises(UserError, match="random numbers in.*--do_train"):
    coverage.accept(trained_needed=True)


def test_no_flag_is_advised_that_has_no_effect(folder):
  coverage = coverage_of(folder, vocab_size=300)
  for needed in ({"trained_needed": True}, {"is_resumed": True}):
    with pytest.raises(UserError, match="vocab_size is 300") as error:
      coverage.accept(**needed)
    assert "--allow_partial_init" not in str(error.value)
    assert "--bert_config_file=" in str(error.value)


def test_a_checkpoint_of_output_dir_must_be_of_the_task(folder):
  with pytest.raises(UserError, match=r"\[3, 48\] in it.*--output_dir") as e:
    coverage_of(folder, num_labels=2).accept(is_resumed=True)
  for flag in ("--init_checkpoint", "--do_train", "--reinit_head"):
    assert flag not in str(e.value)
  whole = coverage_of(folder)
  assert whole.accept(is_resumed=True) is whole


def test_a_hole_in_the_encoder_needs_partial_init(tmp_path):
  variables = compute_shapes(a_config(), num_labels=3)
  weights = {n: np.zeros(s, np.float32) for n, s in variables.items()}
  del weights["bert/pooler/dense/bias"]
  write_checkpoint(tmp_path / "a", weights)
  coverage = coverage_of(tmp_path / "a")
  with pytest.raises(
    UserError, match="lacks bert/pooler/dense/bias.*--allow_partial_init"
  ):
    coverage.accept()
  assert coverage.accept(allow_partial_init=True).head_complete


ADAPTER = "bert/encoder/layer_0/output/adapter/dense/kernel"


def test_an_encoder_with_variables_that_bert_has_not_is_refused(tmp_path):
  variables = compute_shapes(a_config(), num_labels=3)
  weights = {n: np.zeros(s, np.float32) for n, s in variables.items()}
  weights[ADAPTER] = np.zeros([48, 8], np.float32)
  weights[f"{ADAPTER}/adam_m"] = np.zeros([48, 8], np.float32)
  write_checkpoint(tmp_path / "a", weights)
  coverage = coverage_of(tmp_path / "a")
  for needed in (False, True):
    with pytest.raises(UserError, match=f"BERT's has not: {ADAPTER}. It is"):
      coverage.accept(trained_needed=needed)
  accepted = coverage.accept(allow_partial_init=True)
  assert not accepted.fresh
  assert accepted.describe()[1] == f"not used: {ADAPTER}, optimizer slots (1)"


def test_a_checkpoint_of_another_model_is_refused_whatever_the_flags(tmp_path):
  write_checkpoint(tmp_path / "a", {"resnet/conv/kernel": np.zeros([3, 3])})
  with pytest.raises(UserError, match="no variable that.*resnet/conv/kernel"):
    coverage_of(tmp_path / "a").accept(
      allow_partial_init=True, reinit_head=True
    )


def test_slots_and_foreign_scopes_are_reported_in_one_short_line(tmp_path):
  variables = compute_shapes(a_config(), num_labels=3)
  weights = {n: np.zeros(s, np.float32) for n, s in variables.items()}
  slots = {f"{n}/adam_{s}": w for n, w in weights.items() for s in "mv"}
  others = {f"cls/{letter}": np.zeros(1) for letter in "abcdefg"}
  step = {"global_step": np.int64(7), "beta1_power": np.float32(0.9)}
  write_checkpoint(tmp_path / "a", {**weights, **slots, **others, **step})
  coverage = coverage_of(tmp_path / "a").accept(trained_needed=True)
  assert coverage.describe()[1:] == [
    "not used: cls/* (7), optimizer slots (116)"
  ]


# --- every form of path -----------------------------------------------------


@pytest.mark.parametrize("name", ["", PREFIX, PREFIX + ".index", DATA])
def test_prefix_folder_and_every_file_mean_the_checkpoint(folder, name):
  checkpoint = checkpoints.open_checkpoint(folder / name)
  assert checkpoint.path == str(folder / PREFIX)
  assert checkpoint.kind == "tensorflow"
  assert checkpoint.config_file == str(folder / "bert_config.json")
  assert checkpoint.vocab_file is None


def test_the_meta_file_and_the_vocabulary_are_found(folder):
  (folder / "vocab.txt").touch()
  (folder / (PREFIX + ".meta")).touch()
  checkpoint = checkpoints.open_checkpoint(folder / (PREFIX + ".meta"))
  assert checkpoint.path == str(folder / PREFIX)
  assert checkpoint.vocab_file == str(folder / "vocab.txt")


def test_home_and_the_current_folder_are_understood(folder, monkeypatch):
  monkeypatch.setenv("HOME", str(folder))
  monkeypatch.chdir(folder)
  home = checkpoints.open_checkpoint(f"~/{PREFIX}")
  assert home.path == str(folder / PREFIX)
  assert checkpoints.open_checkpoint(PREFIX).path == PREFIX


def test_the_state_file_decides_among_several(folder):
  for suffix in (".index", ".data-00000-of-00001"):
    shutil.copy(folder / (PREFIX + suffix), folder / ("old" + suffix))
  with pytest.raises(UserError, match="2 checkpoints.*bert_model.ckpt.*old"):
    checkpoints.open_checkpoint(folder)
  state = 'model_checkpoint_path: "/moved/from/here/old"\n'
  (folder / "checkpoint").write_text(state)
  for path in (folder, folder / "checkpoint"):
    assert checkpoints.open_checkpoint(path).path == str(folder / "old")


def test_a_state_file_that_names_nothing_there_is_an_error(folder):
  (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-9"')
  with pytest.raises(MissingFileError, match=r"names model.ckpt-9.*bert_model"):
    checkpoints.open_checkpoint(folder)


def test_a_state_file_that_may_not_be_read_is_not_passed_over(
  folder, monkeypatch
):
  class Unreadable:
    def __init__(self, path, mode):
      raise tf.errors.PermissionDeniedError(None, None, f"{path}; no")

  assert checkpoints.read_state(str(folder)) is None
  monkeypatch.setattr(tf.io.gfile, "GFile", Unreadable)
  with pytest.raises(tf.errors.PermissionDeniedError, match="/checkpoint; no"):
    checkpoints.read_state(str(folder))


def test_an_empty_state_file_is_passed_over(folder):
  (folder / "checkpoint").write_text("")
  assert checkpoints.open_checkpoint(folder).path == str(folder / PREFIX)


def test_remote_folders_work_as_local_ones(folder):
  remote = "ram://test_checkpoints/bert"
  tf.io.gfile.makedirs(remote)
  for name in os.listdir(folder):
    tf.io.gfile.copy(str(folder / name), f"{remote}/{name}", overwrite=True)
  assert coverage_of(remote).accept(trained_needed=True)


def copy_to_ram(path, name, length=None):
  """Writes the first bytes of a file to a remote one and returns its path."""
  remote = f"ram://test_checkpoints/{name}"
  with tf.io.gfile.GFile(remote, "wb") as writer:
    writer.write(path.read_bytes()[:length])
  return remote


def test_copies_of_remote_weights_last_no_longer_than_they_are_read(
  tmp_path, monkeypatch
):
  weights = np.arange(1 << 16, dtype=np.float32)
  save_file({"bert.pooler.dense.bias": weights}, str(tmp_path / "weights"))
  remote = copy_to_ram(tmp_path / "weights", "model.safetensors")
  (tmp_path / "copies").mkdir()
  monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "copies"))
  checkpoint = checkpoints.open_checkpoint(remote)
  assert checkpoint.shapes == {"bert/pooler/dense/bias": (1 << 16,)}
  assert not os.listdir(tmp_path / "copies")
  prefix = checkpoint.convert_to_tensorflow(str(tmp_path / "new"))
  read = tf.train.load_variable(prefix, "bert/pooler/dense/bias")
  np.testing.assert_array_equal(read, weights)
  assert not os.listdir(tmp_path / "copies")


# --- refusals ---------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 5, 40, -1])
def test_remote_weights_that_are_cut_off_are_refused(tmp_path, length):
  weights = {"bert.pooler.dense.bias": np.ones(9, np.float32)}
  save_file(weights, str(tmp_path / "weights"))
  remote = copy_to_ram(tmp_path / "weights", f"{length}.safetensors", length)
  with pytest.raises(UserError, match=f"{remote} is damaged, cut off"):
    checkpoints.open_checkpoint(remote)


def test_a_missing_path_says_what_is_near_it(folder):
  with pytest.raises(MissingFileError, match="no checkpoint at.*has bert_mod"):
    checkpoints.open_checkpoint(folder / "bert_modle.ckpt")
  with pytest.raises(MissingFileError, match="no such file or folder"):
    checkpoints.open_checkpoint(folder / "nowhere" / PREFIX)


def test_an_empty_folder_says_what_a_checkpoint_is(tmp_path):
  with pytest.raises(MissingFileError, match="it has no files"):
    checkpoints.open_checkpoint(tmp_path)


@pytest.mark.parametrize("lost", [PREFIX + ".index", DATA])
def test_half_a_checkpoint_is_refused(folder, lost):
  (folder / lost).unlink()
  left = PREFIX + ".index" if lost == DATA else DATA
  with pytest.raises(MissingFileError, match="half a checkpoint"):
    checkpoints.open_checkpoint(folder / left)


@pytest.mark.parametrize("start", [r"a[1]", "a*", "a?", "a\\b"])
def test_a_path_that_is_a_pattern_is_refused(folder, start):
  place = folder.rename(folder.parent / start)
  with pytest.raises(UserError, match="takes for a pattern"):
    checkpoints.open_checkpoint(place)


@pytest.mark.parametrize(
  "error",
  [
    RuntimeError("m.index; Permission denied"),
    tf.errors.PermissionDeniedError(None, None, "m.index; Permission denied"),
  ],
)
def test_what_may_not_be_read_is_not_called_damaged(folder, monkeypatch, error):
  def refuse(_):
    raise error

  monkeypatch.setattr(tf.train, "NewCheckpointReader", refuse)
  with pytest.raises(UserError, match="cannot be read: .*Permission") as told:
    checkpoints.open_checkpoint(folder)
  assert "damaged" not in str(told.value)


@pytest.mark.parametrize("ending", [".index", ".data-00000-of-00001"])
def test_a_folder_in_the_place_of_a_checkpoints_file_is_named(folder, ending):
  path = folder / (PREFIX + ending)
  path.unlink()
  path.mkdir()
  with pytest.raises(UserError, match=f"{path} is a folder, where a file"):
    checkpoints.open_checkpoint(folder)


@pytest.mark.parametrize("ending", [".index", ".data-00000-of-00001"])
def test_a_link_to_nothing_in_a_checkpoint_is_named(folder, ending):
  path = folder / (PREFIX + ending)
  path.unlink()
  path.symlink_to("nowhere")
  with pytest.raises(MissingFileError, match=f"{path} is gone, or a link to"):
    checkpoints.open_checkpoint(folder)


def test_a_folder_in_the_place_of_safetensors_is_named(tmp_path):
  path = tmp_path / "model.safetensors"
  path.mkdir()
  with pytest.raises(UserError, match=f"{path} is a folder, where a file"):
    checkpoints.open_checkpoint(tmp_path)


@pytest.mark.parametrize("start", [-29, -16])
def test_an_index_that_lacks_bytes_is_refused(folder, start):
  # It then points behind its own end, which is an IndexError to TensorFlow.
  index = folder / (PREFIX + ".index")
  content = index.read_bytes()
  index.write_bytes(content[:start] + content[start + 6 :])
  with pytest.raises(IndexError):
    tf.train.NewCheckpointReader(str(folder / PREFIX))
  with pytest.raises(UserError, match="index is damaged or cut off"):
    checkpoints.open_checkpoint(folder)


@pytest.mark.parametrize("kept", [0, 100, 2000, 2251])
def test_an_index_that_is_cut_off_is_refused(folder, kept):
  index = folder / (PREFIX + ".index")
  index.write_bytes(index.read_bytes()[:kept])
  with pytest.raises(UserError, match="index is damaged or cut off"):
    checkpoints.open_checkpoint(folder)


def test_data_that_are_cut_off_are_refused(folder):
  (folder / DATA).write_bytes((folder / DATA).read_bytes()[:-1])
  with pytest.raises(UserError, match="hold 286475 bytes.*286476"):
    checkpoints.open_checkpoint(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "a.pt", "a.ckpt"])
def test_a_pickle_of_something_else_is_refused(tmp_path, name):
  (tmp_path / name).write_bytes(pickle.dumps({"a": 1}))
  with pytest.raises(UserError, match=f"{name} cannot be read as a pickle of"):
    checkpoints.open_checkpoint(tmp_path / name)


def test_a_folder_with_nothing_but_a_keras_file_says_so(tmp_path):
  (tmp_path / "tf_model.h5").touch()
  with pytest.raises(UserError, match="tf_model.h5 is a Keras file"):
    checkpoints.open_checkpoint(tmp_path)


@pytest.mark.parametrize("folder", ["my models", "it's", "plain"])
def test_an_archive_is_to_be_unpacked_as_the_advice_says(
  tmp_path, folder, monkeypatch
):
  (tmp_path / folder).mkdir()
  path = tmp_path / folder / "uncased_L-2.zip"
  with zipfile.ZipFile(path, "w") as archive:
    for part in (GOLDEN / "checkpoint").iterdir():
      archive.write(part, f"uncased_L-2/{part.name}")
  for given in (path, path.parent):
    with pytest.raises(UserError, match="is an archive: unpack it") as error:
      checkpoints.open_checkpoint(given)
  command = re.search(r"\((python .*)\), and give", str(error.value)).group(1)
  monkeypatch.setenv("PATH", os.path.dirname(sys.executable), prepend=":")
  subprocess.run(command, shell=True, check=True)
  model = path.with_suffix("") / "uncased_L-2"
  assert coverage_of(model).accept(trained_needed=True)


# --- what is beside it ------------------------------------------------------


def test_the_only_configuration_beside_weights_is_theirs(folder):
  named = folder / "bert_config_large.json"
  (folder / "bert_config.json").rename(named)
  (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
  assert checkpoints.open_checkpoint(folder).config_file == str(named)
  shutil.copy(named, folder / "other.json")
  assert checkpoints.open_checkpoint(folder).config_file is None
  listed = checkpoints.list_configurations(str(folder / PREFIX))
  assert listed == [str(named), str(folder / "other.json")]


@pytest.mark.parametrize("name", ["config.json", "bert_config.json"])
def test_a_configuration_of_either_name_is_found_beside_any_weights(
  folder, tmp_path, name
):
  (folder / "bert_config.json").rename(folder / name)
  assert checkpoints.open_checkpoint(folder).config_file == str(folder / name)
  weights = {"bert.pooler.dense.bias": np.ones(4, np.float32)}
  save_file(weights, str(tmp_path / "model.safetensors"))
  shutil.copy(folder / name, tmp_path)
  found = checkpoints.open_checkpoint(tmp_path)
  assert found.config_file == str(tmp_path / name)


def test_a_file_of_another_kind_is_refused(folder):
  with pytest.raises(UserError, match="bert_config.json is no checkpoint"):
    checkpoints.open_checkpoint(folder / "bert_config.json")


def test_weights_that_are_not_finite_are_found(tmp_path):
  bad = np.float32([1, np.nan])
  values = {
    "bert/pooler/dense/bias": bad.astype(np.float16),
    "output_bias": np.ones(2, np.float32),
    "global_step": np.int64(3),
    "output_bias/adam_m": np.float32([np.inf]),
  }
  write_checkpoint(tmp_path / "x", values)
  found = checkpoints.open_checkpoint(tmp_path / "x").list_not_finite()
  assert found == ["bert/pooler/dense/bias", "output_bias/adam_m"]
  theirs = {"bert.pooler.dense.bias": bad, "classifier.bias": np.ones(2, "f")}
  save_file(theirs, str(tmp_path / "model.safetensors"))
  found = checkpoints.open_checkpoint(tmp_path / "model.safetensors")
  assert found.list_not_finite() == ["bert/pooler/dense/bias"]
