"""Packed batches: their layout, and the model on them against the plain one."""

import json
from pathlib import Path
import re

from conftest import form_config
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import history, packing, schedule, shuffled_epochs
from bert_classifier.errors import UserError
import modeling

LENGTH, VOCABULARY = 12, 40
LENGTHS = {
  "several": [3, 12, 7, 1, 5, 5, 2],
  "one": [5],
  "whole rows": [12, 12],
  "one of no token": [4, 0, 3],
  "many": np.random.default_rng(4).integers(1, 13, 32),
}


def features(lengths):
  """Inputs of random words, and labels."""
  numbers = np.random.default_rng(len(lengths))
  mask = (np.arange(LENGTH) < np.array(lengths)[:, np.newaxis]).astype(np.int32)
  shape = mask.shape
  return {
    "input_ids": numbers.integers(1, VOCABULARY, shape).astype(np.int32) * mask,
    "input_mask": mask,
    "segment_ids": numbers.integers(0, 2, shape).astype(np.int32) * mask,
    "label_ids": numbers.integers(0, 3, shape[0]).astype(np.int32),
  }


def packed(inputs, rows):
  """The same, packed."""
  names = ("input_ids", "input_mask", "segment_ids")
  arrays = packing.pack_arrays(*(inputs[name] for name in names), rows)
  return {**inputs, **dict(zip(names, arrays))}


def rows_of(lengths):
  rows, _ = packing.lay_out(np.array([lengths]), LENGTH)
  return rows.max() + 1


@pytest.mark.parametrize("batch_size", [1, 8, 32])
def test_examples_lie_in_rows_without_touching(batch_size):
  numbers = np.random.default_rng(batch_size)
  lengths = numbers.integers(1, 129, (50, batch_size))
  rows, starts = packing.lay_out(lengths, 128)
  taken = np.zeros((50, batch_size, 128), int)
  for batch, example in np.ndindex(lengths.shape):
    start = starts[batch, example]
    end = start + lengths[batch, example]
    assert end <= 128
    taken[batch, rows[batch, example], start:end] += 1
  assert taken.max() == 1
  # First fit, longest first, needs at most 11/9 of the best, and 6/9 of a row
  # more (Dosa, 2007); the best needs no fewer than all tokens fill.
  need = rows.max(1) + 1
  if batch_size == 1:
    assert need.tolist() == [1] * 50
  full = np.maximum(np.ceil(lengths.sum(1) / 128), (lengths > 64).sum(1))
  assert (need >= full).all() and need.mean() < 1.05 * full.mean() + 1


def test_rows_are_those_of_the_worst_batch_of_the_training():
  lengths = np.random.default_rng(0).integers(2, 129, 101)
  order = shuffled_epochs.ShuffledEpochs(5, 101).indices(0, 40 * 8)
  batches = lengths[order].reshape(40, 8)
  needed = [packing.lay_out(batch[np.newaxis], 128)[0] for batch in batches]
  rows = packing.count_rows(lengths, 128, 8, 40 * 8, 5)
  assert rows == 1 + max(map(np.max, needed))
  assert rows > 1 + min(map(np.max, needed))


@pytest.mark.parametrize("name", LENGTHS)
def test_packed_arrays_hold_the_tokens_of_every_example(name):
  inputs, rows = features(LENGTHS[name]), rows_of(LENGTHS[name])
  found = packed(inputs, rows)
  assert found["input_ids"].shape == (rows, LENGTH)
  assert found["input_ids"].dtype == np.int32
  for example, length in enumerate(LENGTHS[name]):
    places = np.nonzero(found["input_mask"] == example + 1)
    for field in ("input_ids", "segment_ids"):
      expected = inputs[field][example, : length or LENGTH]
      assert found[field][places].tolist() == expected.tolist()
  for field in ("input_ids", "segment_ids"):
    assert not found[field][found["input_mask"] == 0].any()


def train(inputs, forms, use_xla=False):
  """Logits, losses, norm of the gradients, and each of them, by name."""
  model = modeling.BertForSequenceClassification(
    form_config(VOCABULARY), 3, forms=forms
  )
  names = sorted(inputs)

  def step(*arrays):
    outputs = model(dict(zip(names, arrays)))
    variables = tf.trainable_variables()
    gradients = tf.gradients(outputs["loss"], variables)
    norm = tf.linalg.global_norm(gradients)
    dense = map(tf.convert_to_tensor, gradients)
    fields = ("logits", "per_example_loss", "loss")
    return [*(outputs[field] for field in fields), norm, *dense]

  with tf.Graph().as_default(), tf.Session() as session:
    arrays = [tf.constant(inputs[name]) for name in names]
    with tf.variable_scope("", use_resource=True):
      fetches = (
        tf.xla.experimental.compile(step, arrays) if use_xla else step(*arrays)
      )
    numbers = np.random.default_rng(3)
    session.run(tf.global_variables_initializer())
    for variable in tf.trainable_variables():
      value = numbers.normal(scale=0.2, size=variable.shape)
      variable.load(value + ("gamma" in variable.name), session)
    return session.run(fetches)


BOUNDS = {tf.float32: 1e-5, tf.bfloat16: 1e-2, tf.float16: 1e-3}


@pytest.mark.parametrize(
  ("name", "spare_rows", "use_xla", "dtype"),
  [
    *((name, 0, False, tf.float32) for name in LENGTHS),
    ("many", 3, True, tf.float32),
    ("several", 0, False, tf.bfloat16),
    ("several", 0, False, tf.float16),
  ],
)
def test_losses_and_gradients_are_those_of_the_plain_form(
  name, spare_rows, use_xla, dtype
):
  inputs = features(LENGTHS[name])
  theirs = train(inputs, modeling.Forms(dtype))
  rows = rows_of(LENGTHS[name]) + spare_rows
  forms = packing.forms(len(LENGTHS[name]), dtype=dtype)
  ours = train(packed(inputs, rows), forms, use_xla)
  assert len(ours) == len(theirs)
  # All scores of an example without a token lie next to -10000 in the plain
  # form, where float32 keeps three decimals.
  bound = 1e-3 if 0 in LENGTHS[name] else BOUNDS[dtype]
  for found, expected in zip(ours, theirs):
    size = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound * size)


def test_a_command_packed_has_the_losses_of_one_that_is_not(
  classify, training, tmp_path, monkeypatch
):
  packed, pack_arrays = [], packing.pack_arrays
  monkeypatch.setattr(
    packing,
    "pack_arrays",
    lambda *given: packed.append(given) or pack_arrays(*given),
  )
  config = json.loads(
    Path(
      training["bert_config_file"],
    ).read_text()
  )
  config["hidden_dropout_prob"] = config["attention_probs_dropout_prob"] = 0.0
  without_dropout = tmp_path / "bert_config.json"
  without_dropout.write_text(json.dumps(config))
  flags = {**training, "bert_config_file": without_dropout, "head_dropout": 0}
  flags.update(num_train_epochs=1, class_weights="balanced")
  losses = []
  for name, pack, parts in (("a", True, 1), ("b", True, 2), ("c", False, 1)):
    done = classify(
      output_dir=tmp_path / name,
      pack_sequences=pack,
      gradient_accumulation_steps=parts,
      gradient_checkpointing=parts == 2,
      **flags,
    )
    assert done.status == 0, done.log
    # What comes after the last step may need more rows.
    assert len(packed) == 4 * parts * pack
    packed.clear()
    said = re.search(r"every (\d) examples are packed into (\d) row", done.log)
    assert bool(said) == pack
    if said:
      assert int(said[1]) == 8 // parts and int(said[2]) <= 8 // parts
    entries = history.read(str(tmp_path / name / "history.jsonl"))
    losses.append([entry["loss"] for entry in entries if "loss" in entry])
  assert len(losses[0]) > 3
  for found in losses[:2]:
    np.testing.assert_allclose(found, losses[2], rtol=0, atol=1e-5)


def test_packing_that_cannot_be_is_refused(classify, tmp_path):
  refused = classify("--do_eval", "--pack_sequences", output_dir=tmp_path)
  assert refused.status == 1 and "add --do_train, or leave it" in refused.log
  drawn = schedule.NO_STEPS._replace(buffer_size=9)
  with pytest.raises(UserError, match="the next one from a buffer of 9: leave"):
    packing.check_schedule(drawn)
