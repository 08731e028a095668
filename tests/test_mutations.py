"""benchmarks/mutations.py: its oracle and the program read damaged files alike.

The files need no session of TensorFlow here; the benchmark runs whole commands.
"""

import random

from conftest import read_checkpoint
import mutations_check
import mutations_files
import mutations_oracle
import mutations_reading
import mutations_world
import numpy as np
import pytest

from bert_classifier import errors, features, hugging_face
from bert_classifier.catalogue import ColaProcessor, MrpcProcessor
from bert_classifier.tasks import TaskData
import modeling
import tokenization

LENGTH = 16
PROCESSORS = dict(cola=ColaProcessor, mrpc=MrpcProcessor)


@pytest.fixture
def world(tmp_path, golden_task):
  """Returns a folder with the benchmark's data and a golden model."""
  mutations_world.write_data(tmp_path / "data", random.Random(1))
  weights = read_checkpoint(f"{golden_task}/checkpoint/bert_model.ckpt")
  config = modeling.BertConfig.from_json_file(
    f"{golden_task}/checkpoint/bert_config.json"
  )
  with open(f"{golden_task}/vocab.txt", encoding="utf-8") as lines:
    tokens = lines.read().split("\n")[:-1]
  mutations_world.write_hugging_face(
    tmp_path / "model", tokens, config.to_dict(), weights
  )
  return tmp_path


def read_with_program(world, task, split):
  """Returns (ids, segments, label) of each example, None where refused."""
  try:
    tokenizer = tokenization.FullTokenizer(str(world / "model" / "vocab.txt"))
    data = TaskData(PROCESSORS[task](), str(world / "data" / task))
    target = data.processor.get_target()
    convert = features.Converter(target, LENGTH, tokenizer)
    found = list(map(convert, data.examples(split)))
  except (OSError, ValueError) as error:
    assert str(world) in str(error)  # the sentence names the file
    return None
  return [
    (f.input_ids[: sum(f.input_mask)], f.segment_ids[: sum(f.input_mask)])
    + (f.label_id,)
    for f in found
  ]


def read_with_oracle(world, task, split):
  """Returns the same, by the benchmark's independent reading."""
  try:
    vocabulary = mutations_reading.read_vocabulary(
      world / "model" / "vocab.txt"
    )
    tokenizer = mutations_reading.Tokenizer(vocabulary)
    path = world / "data" / task / f"{split}.tsv"
    found = mutations_reading.read_examples(
      path, task, split, tokenizer, LENGTH
    )
  except mutations_reading.Refused:
    return None
  return [(list(e.ids), list(e.segments), e.label) for e in found]


@pytest.mark.parametrize("task", PROCESSORS)
@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_damaged_data_are_read_as_the_oracle_reads_them(world, task, split):
  path = world / "data" / task / f"{split}.tsv"
  whole = path.read_bytes()
  for seed in range(20):
    rng = random.Random(f"{task} {split} {seed}")
    did = mutations_files.mutate(rng, "data", path, world)
    found = read_with_program(world, task, split)
    assert found == read_with_oracle(world, task, split), (seed, did)
    restore(path, whole)


def test_a_damaged_vocabulary_is_read_as_the_oracle_reads_it(world):
  path = world / "model" / "vocab.txt"
  whole = path.read_bytes()
  for seed in range(30):
    did = mutations_files.mutate(random.Random(seed), "vocabulary", path, world)
    found = read_with_program(world, "mrpc", "train")
    assert found == read_with_oracle(world, "mrpc", "train"), (seed, did)
    restore(path, whole)


def test_damaged_safetensors_are_read_as_the_oracle_reads_them(world):
  path = world / "model" / "model.safetensors"
  whole = path.read_bytes()
  for seed in range(20):
    rng = random.Random(seed)
    did = mutations_files.mutate(rng, "safetensors", path, world)
    try:
      found = hugging_face.open_weights(str(path)).shapes
    except (OSError, errors.UserError) as error:
      assert str(path) in str(error) or path.is_dir()
      found = None
    try:
      right = mutations_reading.read_safetensors(path)
    except mutations_reading.Refused:
      right = None
    assert (found is None) >= (right is None), (seed, did)
    if found and right:
      sizes = sorted(value.shape for value in right.values())
      ours = sorted(
        shape[::-1] if name.endswith("/kernel") else shape
        for name, shape in found.items()
      )
      assert ours == sizes, (seed, did)
    restore(path, whole)


def restore(path, whole):
  """Puts a file back that may have become a folder or a link."""
  if path.is_dir() and not path.is_symlink():
    path.rmdir()
  else:
    path.unlink(missing_ok=True)
  path.write_bytes(whole)


def test_the_model_of_the_oracle_gives_the_golden_logits(
  golden, golden_checkpoint, golden_config
):
  weights = mutations_reading.read_checkpoint(golden_checkpoint)
  config = mutations_oracle.read_config(golden_config, "tensorflow")
  lengths = golden["input_mask"].sum(-1)
  found = [
    mutations_check.compute_logits(
      weights, config, ids[:length], segments[:length], np.float64
    )
    for ids, segments, length in zip(
      golden["input_ids"], golden["segment_ids"], lengths
    )
  ]
  np.testing.assert_allclose(found, golden["logits"], atol=1e-5)
