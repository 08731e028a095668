"""pickles.py: PyTorch's files, in all their shapes.

Oracle: files that PyTorch wrote, and what it read from them itself
(benchmarks/pickles_reference.py).
"""

import json
import os
import pickle
import shutil
import zipfile

from conftest import GOLDEN, read_checkpoint
import numpy as np
import pytest

from bert_classifier import checkpoints, pickles, variables
from bert_classifier.errors import UserError

pytestmark = pytest.mark.quick

FOLDER = GOLDEN / "pickles"
FILES = sorted(
  path.stem for path in FOLDER.glob("*.bin") if path.stem != "whole_module"
)
QUERY = "bert/encoder/layer_0/attention/self/query/kernel"


@pytest.fixture(scope="module")
def expected():
  """Returns {name of a file: {name: <float32>[...]}}."""
  found = {}
  with np.load(FOLDER / "expected.npz") as arrays:
    for name in arrays.files:
      file, _, key = name.partition("/")
      found.setdefault(file, {})[key] = arrays[name]
  return found


@pytest.mark.parametrize("file", FILES)
def test_every_shape_of_file_is_read_as_pytorch_reads_it(file, expected):
  path = FOLDER / f"{file}.bin"
  tensors = pickles.list_tensors(path)
  assert set(tensors) == set(expected[file])
  for name, tensor in tensors.items():
    value = pickles.read_tensor(path, tensor).astype(np.float32)
    np.testing.assert_array_equal(value, expected[file][name])


@pytest.mark.parametrize("file", FILES)
def test_a_pickle_is_weights_like_any_other(file, expected, tmp_path):
  checkpoint = checkpoints.open_checkpoint(FOLDER / f"{file}.bin")
  assert checkpoint.kind == "huggingface"
  here = read_checkpoint(checkpoint.convert_to_tensorflow(f"{tmp_path}/new"))
  assert len(here) == 3
  for name, value in expected[file].items():
    variable = variables.find_variable_by_their_name(name)
    if variable:
      value = value.T if variable.is_transposed else value
      np.testing.assert_array_equal(here[variable.name], value)


@pytest.fixture
def folder(tmp_path):
  """Returns a trainer's folder, whose name needs quoting."""
  folder = tmp_path / "it's a model"
  folder.mkdir()
  shutil.copy(FOLDER / "archive.bin", folder / "pytorch_model.bin")
  for name in ("training_args.bin", "optimizer.pt", "rng_state_0.pth"):
    (folder / name).write_bytes(pickle.dumps({"not": "weights"}))
  return folder


def test_of_a_trainers_folder_the_model_is_taken(folder):
  path = folder / "pytorch_model.bin"
  assert checkpoints.open_checkpoint(folder).path == str(path)
  path.rename(folder / "model.pt")
  found = checkpoints.open_checkpoint(folder)
  assert found.path == str(folder / "model.pt") and QUERY in found.shapes
  shutil.copy(found.path, folder / "other.pt")
  with pytest.raises(UserError, match="2 pickles of PyTorch; give one"):
    checkpoints.open_checkpoint(folder)


def test_a_model_in_several_pickles_is_read_from_its_index(folder, expected):
  (folder / "pytorch_model.bin").unlink()
  weight_map = {}
  for number, file in enumerate(["archive", "bfloat16"], start=1):
    part = f"pytorch_model-0000{number}-of-00002.bin"
    shutil.copy(FOLDER / f"{file}.bin", folder / part)
    weight_map[str(number)] = part
  index = folder / "pytorch_model.bin.index.json"
  index.write_text(json.dumps({"weight_map": weight_map}))
  with pytest.raises(UserError, match="twice"):  # both hold the same names
    checkpoints.open_checkpoint(folder)
  for path in (folder, folder / part):  # not to the folder, nor to the index
    index.rename(folder / "away")
    with pytest.raises(UserError, match=f"copy the file that .*: {index} is m"):
      checkpoints.open_checkpoint(path)
    (folder / "away").rename(index)
  with pytest.raises(UserError, match=f"one part of a model.*{index}"):
    checkpoints.open_checkpoint(folder / part)
  index.write_text(json.dumps({"weight_map": {"1": weight_map["1"]}}))
  assert QUERY in checkpoints.open_checkpoint(folder).shapes
  assert QUERY in checkpoints.open_checkpoint(index).shapes


class Harmful:
  """What is pickled as a call of os.mkdir."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (self.path,)


def test_no_code_in_a_pickle_is_executed(tmp_path):
  path, made = tmp_path / "model.bin", tmp_path / "made"
  with (
    zipfile.ZipFile(FOLDER / "archive.bin") as source,
    zipfile.ZipFile(path, "w") as archive,
  ):
    for name in source.namelist():
      content = source.read(name)
      if name.endswith("data.pkl"):
        content = pickle.dumps({"x": Harmful(str(made)), "y": {}}, protocol=2)
      archive.writestr(name, content)
  with pytest.raises(UserError, match="no weights of a BERT"):
    pickles.list_tensors(path)
  assert not made.exists()
  with zipfile.ZipFile(path) as archive:
    pickle.loads(archive.read("archive/data.pkl"))
  assert made.exists()  # pickle itself does execute it


def test_a_whole_module_is_refused():
  with pytest.raises(UserError, match="a Linear, whose code .*state_dict"):
    pickles.list_tensors(FOLDER / "whole_module.bin")


@pytest.mark.parametrize("file", ["archive", "sequence"])
def test_a_file_that_is_cut_off_anywhere_is_named(tmp_path, file):
  whole = (FOLDER / f"{file}.bin").read_bytes()
  path = tmp_path / "pytorch_model.bin"
  for length in range(0, len(whole), 13):
    path.write_bytes(whole[:length])
    with pytest.raises(UserError, match="pytorch_model.bin cannot be read"):
      checkpoints.open_checkpoint(path)


def test_damage_that_is_found_late_is_named_too(tmp_path):
  whole = bytearray((FOLDER / "archive.bin").read_bytes())
  with zipfile.ZipFile(FOLDER / "archive.bin") as archive:
    start = archive.getinfo("archive/data/0").header_offset
  whole[start + 200] ^= 1
  path = tmp_path / "pytorch_model.bin"
  path.write_bytes(whole)
  checkpoint = checkpoints.open_checkpoint(path)
  with pytest.raises(UserError, match="pytorch_model.bin cannot be read"):
    checkpoint.convert_to_tensorflow(f"{tmp_path}/new")
