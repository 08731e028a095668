"""batches.py and the input_fns: which examples come, in which order."""

import functools
import os

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import batches, errors, record_index, shuffled_epochs
import run_classifier


@pytest.mark.parametrize("buffer_size", [10, 3])
def test_examples_go_on_where_a_run_stopped(graph, buffer_size):
  def examples(start, count):
    data = batches.shuffle_and_repeat(
      tf.data.Dataset.range(10),
      seed=5,
      buffer_size=buffer_size,
      num_examples=10,
      start=start,
    )
    example = tf.data.make_one_shot_iterator(data).get_next()
    with tf.Session() as session:
      return [session.run(example) for _ in range(count)]

  whole = examples(0, 40)
  for start in (1, 10, 27):
    assert examples(start, 10) == whole[start : start + 10]
  epochs = [whole[i : i + 10] for i in range(0, 40, 10)]
  assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
  assert len(set(map(tuple, epochs))) == 4
  for epoch in epochs:  # a place is no further on than the buffer reaches
    assert all(n < place + buffer_size for place, n in enumerate(epoch))


def test_a_buffer_for_more_than_the_set_takes_no_more_memory(graph):
  """It would be 24 TB. The order is TensorFlow's with any large one."""
  examples = tf.data.Dataset.range(10)
  ours = batches.shuffle_and_repeat(
    examples, seed=5, buffer_size=10**12, num_examples=10
  )
  theirs = examples.shuffle(99, 5 << 32, reshuffle_each_iteration=False)
  pair = tf.data.make_one_shot_iterator(
    tf.data.Dataset.zip((ours, theirs)).batch(10)
  ).get_next()
  with tf.Session() as session:
    found, expected = session.run(pair)
  assert found.tolist() == expected.tolist() != [*range(10)]


@pytest.mark.parametrize("start", [0, 1, 35, 100])
def test_indexed_examples_go_on_where_a_run_stopped(graph, cache, start):
  path, *_, index = cache().indexed("dev")
  build = functools.partial(
    run_classifier.file_based_input_fn_builder, path, 24, True, True, seed=3
  )
  data = build(index=index, num_examples=21, start=start)({"batch_size": 8})
  batch = tf.data.make_one_shot_iterator(data).get_next()
  assert batch["input_ids"].shape == [8, 24]
  in_order = build(num_examples=21, shuffle_buffer_size=1)({"batch_size": 21})
  set_ = tf.data.make_one_shot_iterator(in_order).get_next()
  with tf.Session() as session:
    found = [session.run(batch)["input_ids"] for _ in range(8)]
    examples = session.run(set_)["input_ids"]
  order = shuffled_epochs.ShuffledEpochs(3, 21).indices(start, 64)
  np.testing.assert_array_equal(np.concatenate(found), examples[order])


def test_a_run_that_goes_on_reads_nothing_of_what_came_before(
  graph, cache, monkeypatch
):
  read, numbers = record_index.RecordReader.read, []
  monkeypatch.setattr(
    record_index.RecordReader,
    "read",
    lambda reader, asked: numbers.append(asked) or read(reader, asked),
  )
  path, *_, index = cache().indexed("dev")
  start = 21_000_005
  data = batches.read_shuffled(path, index, 8, seed=3, start=start)
  batch = tf.data.make_one_shot_iterator(data).get_next()
  with tf.Session() as session:
    session.run(batch)
  order = shuffled_epochs.ShuffledEpochs(3, 21)
  next_ones = order.indices(start, 8 * 3 * batches.AHEAD).reshape(-1, 8)
  assert set(map(tuple, numbers)) <= set(map(tuple, next_ones))


def test_records_that_are_gone_end_with_a_sentence(graph, tmp_path, cache):
  path, *_, index = cache().indexed("dev")
  data = batches.read_shuffled(path, index, 8, seed=1)
  batch = tf.data.make_one_shot_iterator(data).get_next()
  os.truncate(path, 100)
  with tf.Session() as session, pytest.raises(tf.errors.OpError) as raised:
    session.run(batch)
  said = errors.describe(raised.value)
  assert said == f"{path} changed while it was in use"


def test_batches_that_must_be_whole_lose_no_example(graph, golden_task):
  path = f"{golden_task}/eval.tf_record"
  build = run_classifier.file_based_input_fn_builder
  data = build(path, 24, False, drop_remainder=True)({"batch_size": 8})
  batch = tf.data.make_one_shot_iterator(data).get_next()
  assert batch["input_ids"].shape == [8, 24]
  with tf.Session() as session:
    weights = [session.run(batch)["is_real_example"] for _ in range(3)]
    with pytest.raises(tf.errors.OutOfRangeError):
      session.run(batch)
  assert np.concatenate(weights).tolist() == [1] * 21 + [0] * 3


def test_input_has_no_tuning_thread_that_a_session_would_wait_for(golden_task):
  build = run_classifier.file_based_input_fn_builder
  example = run_classifier.InputFeatures([2, 3], [1, 1], [0, 0], 1)
  for training in (True, False):
    for input_fn in (
      build(f"{golden_task}/eval.tf_record", 24, training, training),
      run_classifier.input_fn_builder([example], 2, training, training),
    ):
      assert input_fn({"batch_size": 1}).options().autotune.enabled is False


def test_input_known_to_be_empty_is_refused():
  with pytest.raises(ValueError, match="empty"):
    run_classifier.input_fn_builder([], 8, True, True)
  with pytest.raises(ValueError, match="f.tf_record has no examples"):
    run_classifier.file_based_input_fn_builder(
      "f.tf_record", 8, True, True, num_examples=0
    )
