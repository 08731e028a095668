"""hugging_face.py: names, configurations, safetensors and their conversion.

Oracles: files laid out by hand as the safetensors format prescribes, and the
names and weights of Hugging Face's own models.
"""

import json
import struct
import sys
import types

from conftest import GOLDEN, read_checkpoint
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import checkpoints, hugging_face
from bert_classifier.coverage import compute_shapes
from bert_classifier.errors import MissingFileError, UserError
import modeling

pytestmark = pytest.mark.quick


def write_safetensors(path, tensors):
  """Lays out {name: array or (type, shape, bytes)} as the format has it."""
  header, body = {}, b""
  for name, tensor in tensors.items():
    if isinstance(tensor, np.ndarray):
      kind = {"float32": "F32", "float16": "F16", "int64": "I64"}
      tensor = kind[tensor.dtype.name], list(tensor.shape), tensor.tobytes()
    dtype, shape, data = tensor
    offsets = [len(body), len(body) + len(data)]
    header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
    body += data
  text = json.dumps(header).encode()
  with tf.io.gfile.GFile(str(path), "wb") as writer:
    writer.write(struct.pack("<Q", len(text)) + text + body)


@pytest.fixture(scope="module")
def tiny():
  """Returns {name: array} of a small model of Hugging Face, with its head."""
  arrays = np.load(GOLDEN / "minilm.npz")
  start = "tiny/weights/"
  return {n[len(start) :]: arrays[n] for n in arrays.files if start in n}


def test_a_classifier_of_hugging_face_is_covered_whole(tmp_path, tiny):
  write_safetensors(tmp_path / "model.safetensors", tiny)
  arrays = np.load(GOLDEN / "minilm.npz")
  (tmp_path / "config.json").write_text(str(arrays["tiny/config"]))
  checkpoint = checkpoints.open_checkpoint(tmp_path)
  assert checkpoint.kind == "huggingface"
  assert checkpoint.config_file == str(tmp_path / "config.json")
  config = json.loads(str(arrays["tiny/config"]))
  variables = compute_shapes(types.SimpleNamespace(**config), 3)
  coverage = checkpoint.compare_with(variables).accept(trained_needed=True)
  assert len(coverage.loaded) == len(tiny) and not coverage.unused


def test_kernels_are_transposed_and_nothing_else(tmp_path, tiny):
  write_safetensors(tmp_path / "model.safetensors", tiny)
  checkpoint = checkpoints.open_checkpoint(tmp_path / "model.safetensors")
  here = read_checkpoint(
    checkpoint.convert_to_tensorflow(str(tmp_path / "new"))
  )
  assert len(here) == len(tiny)
  layer = "bert/encoder/layer_1/", "bert.encoder.layer.1."
  for name, other, transposed in [
    (layer[0] + "output/dense/kernel", layer[1] + "output.dense.weight", True),
    (
      layer[0] + "attention/self/key/kernel",
      layer[1] + "attention.self.key.weight",
      True,
    ),
    ("bert/pooler/dense/kernel", "bert.pooler.dense.weight", True),
    ("output_weights", "classifier.weight", False),
    (
      "bert/embeddings/word_embeddings",
      "bert.embeddings.word_embeddings.weight",
      False,
    ),
    (
      layer[0] + "output/LayerNorm/gamma",
      layer[1] + "output.LayerNorm.weight",
      False,
    ),
  ]:
    expected = tiny[other].T if transposed else tiny[other]
    np.testing.assert_array_equal(here[name], expected)


def test_conversion_leaves_the_callers_graph_as_it_was(tmp_path, tiny):
  write_safetensors(tmp_path / "model.safetensors", tiny)
  with tf.Graph().as_default() as graph:
    checkpoints.open_checkpoint(tmp_path).convert_to_tensorflow(
      str(tmp_path / "new")
    )
  assert not graph.get_operations()


def test_old_names_and_names_without_prefix_are_known(tmp_path):
  ones = np.ones([4], np.float32)
  weights = {
    "embeddings.LayerNorm.gamma": ones,
    "embeddings.LayerNorm.beta": 2 * ones,
    "embeddings.position_ids": np.arange(4)[np.newaxis],
    "cls.seq_relationship.bias": ones[:2],
    "encoder.layer.11.output.dense.bias": 3 * ones,
  }
  write_safetensors(tmp_path / "model.safetensors", weights)
  checkpoint = checkpoints.open_checkpoint(tmp_path)
  assert set(checkpoint.shapes) - {
    "embeddings.position_ids",
    "cls.seq_relationship.bias",
  } == {
    "bert/embeddings/LayerNorm/gamma",
    "bert/embeddings/LayerNorm/beta",
    "bert/encoder/layer_11/output/dense/bias",
  }
  here = read_checkpoint(
    checkpoint.convert_to_tensorflow(str(tmp_path / "new"))
  )
  assert here["bert/embeddings/LayerNorm/beta"].tolist() == [2, 2, 2, 2]


def test_half_precision_becomes_float32(tmp_path):
  values = np.array([1.5, -0.25, 3.0, 96.0], np.float32)  # exact in 8 bits
  upper_half = (values.view(np.uint32) >> 16).astype(np.uint16)
  weights = {
    "pooler.dense.bias": values.astype(np.float16),
    "embeddings.LayerNorm.bias": ("BF16", [4], upper_half.tobytes()),
  }
  write_safetensors(tmp_path / "model.safetensors", weights)
  checkpoint = checkpoints.open_checkpoint(tmp_path)
  for array in read_checkpoint(
    checkpoint.convert_to_tensorflow(str(tmp_path / "new"))
  ).values():
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, values)


def test_a_model_in_several_files_is_read_from_its_index(tmp_path, tiny):
  names = sorted(tiny)
  weight_map = {
    name: f"part-{i % 2}.safetensors" for i, name in enumerate(names)
  }
  for part in set(weight_map.values()):
    inside = {n: tiny[n] for n in names if weight_map[n] == part}
    write_safetensors(tmp_path / part, inside)
  index = tmp_path / "model.safetensors.index.json"
  index.write_text(json.dumps({"weight_map": weight_map}))
  for path in (tmp_path, index):
    checkpoint = checkpoints.open_checkpoint(path)
    assert len(
      read_checkpoint(checkpoint.convert_to_tensorflow(str(tmp_path / "new")))
    ) == len(tiny)
    (tmp_path / "new.index").unlink()
  (tmp_path / "part-1.safetensors").unlink()
  with pytest.raises(MissingFileError, match="lists .*part-1.safetensors"):
    checkpoints.open_checkpoint(tmp_path)


def test_a_remote_file_is_read_as_a_local_one(tmp_path):
  remote = "ram://test_hugging_face/model.safetensors"
  write_safetensors(remote, {"pooler.dense.bias": np.arange(4, dtype="f")})
  prefix = str(tmp_path / "new")
  assert checkpoints.open_checkpoint(remote).convert_to_tensorflow(prefix) == (
    prefix
  )
  assert read_checkpoint(prefix)["bert/pooler/dense/bias"].tolist() == [
    0,
    1,
    2,
    3,
  ]


def test_an_index_of_something_else_is_refused(tmp_path):
  index = tmp_path / "model.safetensors.index.json"
  for text in (
    "{",
    "[]",
    '{"weight_map": 3}',
    '{"weight_map": {"a": 3}}',
    "[" * 200_000,
  ):
    index.write_text(text)
    with pytest.raises(UserError, match="must map names to files"):
      checkpoints.open_checkpoint(tmp_path)


# --- configurations ---------------------------------------------------------


@pytest.mark.parametrize(
  "theirs, ours",
  [
    ("gelu", "gelu_erf"),
    ("GELU", "gelu_erf"),
    ("gelu_new", "gelu_new"),
    ("relu", "relu"),
    ("tanh", "tanh"),
    (tf.nn.relu, tf.nn.relu),
  ],
)
def test_the_activation_is_read_as_they_mean_it(theirs, ours):
  config = modeling.BertConfig.from_dict(
    {"vocab_size": 9, "model_type": "bert", "hidden_act": theirs}
  )
  assert hugging_face.is_configuration(config)
  hugging_face.adapt_configuration(config)
  assert config.hidden_act == ours


def test_the_weights_decide_whose_configuration_it_is():
  config = modeling.BertConfig(vocab_size=9)
  assert not hugging_face.is_configuration(config)
  assert not hugging_face.is_configuration(config, "tensorflow")
  assert hugging_face.is_configuration(config, "huggingface")


# --- refusals ---------------------------------------------------------------


def test_a_damaged_safetensors_file_is_refused(tmp_path, tiny):
  path = tmp_path / "model.safetensors"
  write_safetensors(path, tiny)
  whole = path.read_bytes()
  for damaged in (whole[:-1], whole[:20], b"", b"version https://git-lfs"):
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="damaged, cut off or no safetensors"):
      checkpoints.open_checkpoint(tmp_path)


def test_quantized_weights_are_refused(tmp_path):
  weight = ("I8", [4], b"\0\1\2\3")
  write_safetensors(
    tmp_path / "model.safetensors", {"pooler.dense.bias": weight}
  )
  with pytest.raises(UserError, match="pooler.dense.bias is of the type I8"):
    checkpoints.open_checkpoint(tmp_path)


def test_a_missing_library_gives_the_pip_line(tmp_path, tiny, monkeypatch):
  write_safetensors(tmp_path / "model.safetensors", tiny)
  monkeypatch.setitem(sys.modules, "safetensors", None)
  with pytest.raises(UserError, match="pip install safetensors"):
    checkpoints.open_checkpoint(tmp_path)
