"""variables.py: every name of a variable leads to the same one.

Oracle: the names and weights of Hugging Face's own models.
"""

from conftest import GOLDEN
import numpy as np
import pytest

from bert_classifier import variables

pytestmark = pytest.mark.quick


@pytest.fixture(scope="module")
def tiny():
  """Returns {name: array} of a small model of Hugging Face, with its head."""
  arrays = np.load(GOLDEN / "minilm.npz")
  start = "tiny/weights/"
  return {n[len(start) :]: arrays[n] for n in arrays.files if start in n}


def test_the_table_gives_hugging_faces_names_back(tiny):
  listed = variables.list_variables(num_hidden_layers=2)
  assert {variable.hugging_face for variable in listed} == set(tiny)
  sizes = dict(zip("VPYHFL", (50, 12, 2, 16, 24, 3)))
  for variable in listed:
    shape = tuple(sizes[axis] for axis in variable.axes)
    shape = shape[::-1] if variable.is_transposed else shape
    assert tiny[variable.hugging_face].shape == shape


def test_both_names_find_the_same_variable(tiny):
  for theirs in tiny:
    variable = variables.find_variable_by_their_name(theirs)
    assert variables.find_variable(variable.name) == variable
    assert variable.layer == (
      int(theirs.split(".")[3]) if ".layer." in theirs else None
    )
  for foreign in ("bert.encoder.layer.1.gate.weight", "classifier.scale"):
    assert variables.find_variable_by_their_name(foreign) is None
  assert variables.find_variable("bert/encoder/layer_1/gate/kernel") is None


@pytest.mark.parametrize(
  "scope", ["module.", "model.", "_orig_mod.", "module._orig_mod.model."]
)
def test_scopes_of_training_programs_are_looked_through(scope):
  name = "encoder.layer.11.output.dense.weight"
  find = variables.find_variable_by_their_name
  ours = "bert/encoder/layer_11/output/dense/kernel"
  for theirs in (name, f"bert.{name}", f"ernie.{name}"):
    assert find(scope + theirs).name == ours
  assert find(scope + "classifier.bias").name == "output_bias"
  slashes = scope.replace(".", "/")
  for tensorflows in (ours, ours[len("bert/") :]):
    assert variables.find_variable(slashes + tensorflows).name == ours
  assert variables.find_variable(slashes + "output_bias").name == "output_bias"


@pytest.mark.parametrize(
  "name", ["model.layers.0.attn.Wqkv.weight", "a.bert.pooler.dense.bias", ""]
)
def test_names_of_other_models_are_foreign(name):
  assert variables.find_variable_by_their_name(name) is None
  assert variables.find_variable(name.replace(".", "/")) is None
