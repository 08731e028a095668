"""tensorflow_weights.py: checkpoints whose names or types are not the model's.

Oracles: NumPy's casts, and TensorFlow's own writers of checkpoints.
"""

import json

from conftest import GOLDEN, read_checkpoint, write_checkpoint
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import checkpoints
from bert_classifier.coverage import compute_shapes
from bert_classifier.errors import UserError
import modeling

pytestmark = pytest.mark.quick

BIAS = "bert/pooler/dense/bias"
VALUES = np.array([1.5, -0.25, 3.0, 96.0], np.float32)  # exact in 8 bits


@pytest.fixture(scope="module")
def golden():
  return read_checkpoint(GOLDEN / "checkpoint/bert_model.ckpt")


def open_and_convert(path, folder):
  checkpoint = checkpoints.open_checkpoint(path)
  return read_checkpoint(checkpoint.convert_to_tensorflow(f"{folder}/new"))


@pytest.mark.parametrize(
  "dtype", [np.float16, tf.bfloat16.as_numpy_dtype, np.float64]
)
def test_other_floating_types_become_float32(tmp_path, dtype):
  write_checkpoint(tmp_path / "a", {BIAS: VALUES.astype(dtype)})
  (value,) = open_and_convert(tmp_path / "a", tmp_path).values()
  assert value.dtype == np.float32
  np.testing.assert_array_equal(value, VALUES)


def test_names_and_types_of_the_model_are_read_as_they_are(tmp_path):
  others = {"cls/x": np.float64(1), "global_step": np.int64(3), "s": "text"}
  write_checkpoint(tmp_path / "a", {BIAS: VALUES, **others})
  checkpoint = checkpoints.open_checkpoint(tmp_path / "a")
  assert not checkpoint.must_be_converted
  prefix = str(tmp_path / "a")
  assert checkpoint.convert_to_tensorflow("unused") == prefix


@pytest.mark.parametrize(
  "value", [VALUES.astype(np.int32), VALUES > 0, np.array(["a", "b"])]
)
def test_what_is_no_floating_number_is_refused(tmp_path, value):
  write_checkpoint(tmp_path / "a", {BIAS: value})
  with pytest.raises(UserError, match=f"{BIAS} is of the type .*float32"):
    checkpoints.open_checkpoint(tmp_path / "a")


@pytest.mark.parametrize("scope", ["module/", "model/", "_orig_mod/module/"])
def test_a_scope_before_the_names_is_taken_away(tmp_path, golden, scope):
  scoped = {scope + name: value for name, value in golden.items()}
  slots = {f"{name}/adam_m": value for name, value in scoped.items()}
  write_checkpoint(tmp_path / "a", {**scoped, **slots})
  checkpoint = checkpoints.open_checkpoint(tmp_path / "a")
  config = json.loads((GOLDEN / "checkpoint/bert_config.json").read_text())
  config = modeling.BertConfig.from_dict(config)
  coverage = checkpoint.compare_with(compute_shapes(config, num_labels=3))
  assert coverage.accept(trained_needed=True).describe()[1:] == [
    f"not used: optimizer slots ({len(golden)})"
  ]
  here = open_and_convert(tmp_path / "a", tmp_path)
  assert set(here) == set(golden)
  for name, value in golden.items():
    np.testing.assert_array_equal(here[name], value)


def test_one_variable_under_two_names_is_refused(tmp_path):
  write_checkpoint(tmp_path / "a", {BIAS: VALUES, f"model/{BIAS}": VALUES})
  with pytest.raises(UserError, match=f"{BIAS} twice, as {BIAS} and as model"):
    checkpoints.open_checkpoint(tmp_path / "a")


# --- TensorFlow 2 -----------------------------------------------------------


def write_objects(prefix, values):
  """Writes {attribute: (variable's name, array)} as TensorFlow 2 does."""
  with tf.Graph().as_default(), tf.Session() as session:
    made = {
      attribute: tf.get_variable(name, initializer=value, use_resource=True)
      for attribute, (name, value) in values.items()
    }
    session.run(tf.global_variables_initializer())
    tf.train.Checkpoint(**made).save(str(prefix), session=session)
  return f"{prefix}-1"


def test_objects_whose_variables_are_named_as_in_2018_are_read(tmp_path):
  path = write_objects(tmp_path / "a", {"pooled": (BIAS, VALUES)})
  assert "_CHECKPOINTABLE_OBJECT_GRAPH" in read_checkpoint(path)
  here = open_and_convert(path, tmp_path)
  np.testing.assert_array_equal(here.pop(BIAS), VALUES)
  assert not here


def test_other_objects_of_tensorflow_2_are_called_so(tmp_path):
  path = write_objects(tmp_path / "a", {"layer": ("dense/kernel", VALUES)})
  with pytest.raises(UserError, match="TensorFlow 2's.*Take the same model"):
    checkpoints.open_checkpoint(path)
