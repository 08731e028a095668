"""Input: examples to batches, their order, the last batch, parsing."""

import os

import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier.features import (
  ONE_CLASS,
  feature_spec,
  padding_features,
  serialize,
)

AHEAD = 4  # batches, and as many are parsed at a time


def prefetch(batches):
  """Returns the `tf.data.Dataset`, made ready while steps are computed.

  Autotuning is off: its thread now and then misses the end of the data set, and
  a session that closes waits up to a minute for it.
  """
  options = tf.data.Options()
  options.autotune.enabled = False
  return batches.prefetch(AHEAD).with_options(options)


def shuffle_and_repeat(
  examples, *, seed, buffer_size, num_examples=None, start=0
):
  """Repeats a dataset for ever, each epoch in an order of its own.

  Args:
    examples: `tf.data.Dataset` of one epoch.
    seed: whole number; None for orders that never come again.
    buffer_size: examples among which the next one is drawn; None for all.
    num_examples: number of examples, needed for a `start`.
    start: examples to pass over, over all epochs.
  """
  first_epoch, passed = divmod(start, num_examples) if start else (0, 0)
  if seed is None:
    seed = int.from_bytes(os.urandom(3), "little")

  def shuffle(epoch):
    return examples.shuffle(
      buffer_size or tf.data.UNKNOWN_CARDINALITY,
      seed=epoch + (seed << 32),
      reshuffle_each_iteration=False,
    )

  epochs = tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max)
  return epochs.flat_map(shuffle).skip(passed)


def fill_up(examples, padding, params):
  """Adds examples of weight 0, after which every step is whole.

  `batch(drop_remainder=True)` then drops nothing but such examples. The cores
  of a TPU take their batches in turn, all of them in a step.

  Args:
    examples: `tf.data.Dataset`.
    padding: such an example.
    params: what the input_fn was given.
  """
  cores = params["context"].num_replicas if "context" in params else 1
  step_examples = params["batch_size"] * cores
  filling = tf.data.Dataset.from_tensors(padding).repeat(step_examples - 1)
  return examples.concatenate(filling)


def parse(records, spec):
  """Parses batches of records.

  A file has int64, but a TPU computes int32 faster.

  Args:
    records: `tf.data.Dataset` of serialized examples <string>[B].
    spec: see `features.feature_spec`.

  Returns:
    `tf.data.Dataset` of dictionaries of features, int32 or float32.
  """

  def parse_batch(batch):
    parsed = tf.io.parse_example(batch, spec)
    return {
      name: tf.cast(value, tf.int32) if value.dtype == tf.int64 else value
      for name, value in parsed.items()
    }

  return records.map(parse_batch, num_parallel_calls=AHEAD)


def file_based_input_fn_builder(
  input_file,
  seq_length,
  is_training,
  drop_remainder,
  *,
  target=ONE_CLASS,
  seed=None,
  shuffle_buffer_size=None,
  num_examples=None,
  start=0,
):
  """Returns an input_fn over a TFRecord file of features.

  Training goes through the file again and again, each epoch in an order that
  is a function of seed and epoch, so that a resumed run sees the examples that
  one never stopped would have seen.

  Args:
    input_file: TFRecord file, or a list of them, read one after the other.
    seq_length: S.
    is_training: whether to shuffle and repeat.
    drop_remainder: whether every batch must be whole. In training the last
      incomplete one is dropped; otherwise it is filled with examples of weight
      0.
    target: what is predicted, see `targets`.
    seed: whole number that decides the order; where not given the order is a
      new one every time.
    shuffle_buffer_size: examples among which the next one is drawn; the whole
      file where not given.
    num_examples: examples in the file, needed for a `start`.
    start: examples that were trained on before, over all epochs.

  Returns:
    A function of `params`, whose "batch_size" is B, giving a `tf.data.Dataset`
    of dictionaries: `input_ids`, `input_mask`, `segment_ids` <int32>[B, S],
    `is_real_example` <int32>[B] and the target's features.

  Raises:
    ValueError: `num_examples` is 0, or not given with a `start`.
  """
  spec = feature_spec(seq_length, target)
  if start and not num_examples:
    raise ValueError("start needs num_examples, the number of examples")
  if num_examples == 0:
    raise ValueError(f"{input_file} has no examples")

  def input_fn(params):
    records = tf.data.TFRecordDataset(input_file)
    if is_training:
      records = shuffle_and_repeat(
        records,
        seed=seed,
        buffer_size=shuffle_buffer_size or num_examples,
        num_examples=num_examples,
        start=start,
      )
    elif drop_remainder:
      padding = serialize(padding_features(seq_length, target))
      records = fill_up(records, padding, params)
    records = records.batch(params["batch_size"], drop_remainder=drop_remainder)
    return prefetch(parse(records, spec))

  return input_fn


def input_fn_builder(
  features, seq_length, is_training, drop_remainder, *, seed=None
):
  """Returns an input_fn over a list of `InputFeatures` in memory.

  Args and result as of `file_based_input_fn_builder`.

  Raises:
    ValueError: the list is empty.
  """
  if not features:
    raise ValueError("there are no features: the list is empty")
  spec = feature_spec(seq_length, features[0].target)
  examples = [example.as_dict() for example in features]
  columns = {
    name: np.reshape(
      [example[name] for example in examples], [-1, *feature.shape]
    ).astype(np.int32 if feature.dtype == tf.int64 else np.float32)
    for name, feature in spec.items()
  }

  def input_fn(params):
    examples = tf.data.Dataset.from_tensor_slices(columns)
    if is_training:
      examples = shuffle_and_repeat(
        examples, seed=seed, buffer_size=len(features)
      )
    elif drop_remainder:
      padding = {
        name: np.zeros_like(column[0]) for name, column in columns.items()
      }
      examples = fill_up(examples, padding, params)
    return prefetch(
      examples.batch(params["batch_size"], drop_remainder=drop_remainder)
    )

  return input_fn
