"""Steps of the input pipeline: order, the last batch, parsing, prefetching."""

import os

import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import record_index, shuffled_epochs
from bert_classifier.features import feature_spec

AHEAD = 4  # batches, and as many are parsed at a time


def prefetch(batches):
  """Returns the `tf.data.Dataset`, made ready while steps are computed.

  Autotuning is off: its thread now and then misses the end of the data set, and
  a session that closes waits up to a minute for it.
  """
  options = tf.data.Options()
  options.autotune.enabled = False
  return batches.prefetch(AHEAD).with_options(options)


def read_shuffled(
  path, index, batch_size, *, seed, start=0, end=None, input_context=None
):
  """Reads a file's records, epoch after epoch, each in an order of its own.

  The order is that of `shuffled_epochs`; only the batches that are made ready
  are in memory.

  Args:
    path: TFRecord file.
    index: its index, see `record_index`.
    batch_size: B.
    seed: whole number; None for orders that never come again.
    start: examples to pass over, over all epochs.
    end: those after which none is read; None to read for ever.
    input_context: as of `take_share`.

  Returns:
    `tf.data.Dataset` of serialized examples <string>[B].
  """
  reader = record_index.RecordReader(path, index)
  epochs = shuffled_epochs.ShuffledEpochs(
    _draw_seed() if seed is None else seed, reader.num_records
  )

  def read(number):
    first = start + int(number) * batch_size
    return reader.read(epochs.indices(first, batch_size))

  def read_batch(number):
    records = tf.numpy_function(read, [number], tf.string)
    return tf.ensure_shape(records, [batch_size])

  most = np.iinfo(np.int64).max if end is None else (end - start) // batch_size
  numbers = tf.data.Dataset.range(most)  # of batches
  numbers = take_share(numbers, input_context)
  return numbers.map(read_batch, num_parallel_calls=AHEAD)


def make_batches(
  examples, params, *, is_training, drop_remainder, padding, **order
):
  """Returns the batches of examples, in the order that they are computed in.

  Args:
    examples: `tf.data.Dataset` of one epoch.
    params: what the input_fn was given; its "batch_size" is B.
    is_training: whether to shuffle and repeat.
    drop_remainder: whether every batch must be whole; outside training the last
      one is then filled up.
    padding: an example of weight 0.
    order: as of `shuffle_and_repeat`.

  Returns:
    `tf.data.Dataset` of what `examples` holds, B at a time.
  """
  if is_training:
    examples = shuffle_and_repeat(examples, **order)
  elif drop_remainder:
    examples = fill_up(examples, padding, params)
  return examples.batch(params["batch_size"], drop_remainder=drop_remainder)


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
    seed = _draw_seed()
  if buffer_size and num_examples:
    # TensorFlow takes memory for all of them before the first is read.
    buffer_size = min(buffer_size, num_examples)

  def shuffle(epoch):
    return examples.shuffle(
      buffer_size or tf.data.UNKNOWN_CARDINALITY,
      seed=epoch + (seed << 32),
      reshuffle_each_iteration=False,
    )

  epochs = tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max)
  return epochs.flat_map(shuffle).skip(passed)


def _draw_seed():
  """Returns a random seed."""
  return int.from_bytes(os.urandom(3), "little")


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


def take_part(features, number, parts):
  """Returns the features of one of the equal parts of a batch.

  Args:
    features: dictionary of tensors <any>[B, ...].
    number: of the part, an int or <int32>[].
    parts: into how many the batch is divided, of which B is a multiple.

  Returns:
    Dictionary of tensors <any>[B / parts, ...]; the batch itself for 1 part.
  """
  if parts == 1:
    return features

  def take(values):
    size = values.shape.as_list()[0]
    size = -1 if size is None else size // parts
    return tf.reshape(values, [parts, size, *values.shape[1:]])[number]

  return {name: take(values) for name, values in features.items()}


def take_share(batches, input_context):
  """Returns the batches that this machine computes of those of all.

  Batch i is that of machine i, and so on in turn: a step of all machines
  together computes the examples that one would.

  Args:
    batches: `tf.data.Dataset`, the same on every machine.
    input_context: `tf.distribute.InputContext`, or None for one machine.
  """
  if input_context is None:
    return batches
  return batches.shard(
    input_context.num_input_pipelines, input_context.input_pipeline_id
  )


def parse(records, spec, make_ahead=None):
  """Parses batches of records.

  A file has int64, but a TPU computes int32 faster.

  Args:
    records: `tf.data.Dataset` of serialized examples <string>[B].
    spec: see `features.feature_spec`.
    make_ahead: function from a dictionary of features to one with more, made
      while other batches are computed; None for none.

  Returns:
    `tf.data.Dataset` of dictionaries of features, int32 or float32.
  """

  # As it is: tf.data would rewrite it, and all that it calls, for loops.
  @tf.autograph.experimental.do_not_convert
  def parse_batch(batch):
    parsed = tf.io.parse_example(batch, spec)
    features = {
      name: tf.cast(value, tf.int32) if value.dtype == tf.int64 else value
      for name, value in parsed.items()
    }
    return make_ahead(features) if make_ahead else features

  return records.map(parse_batch, num_parallel_calls=AHEAD)


def stack(features, seq_length, *, in_windows=False):
  """Returns the features of n examples as arrays, by name.

  Args:
    features: list of n `features.InputFeatures` of one target.
    seq_length, in_windows: as of `features.feature_spec`.

  Returns:
    Dictionary: `input_ids`, `input_mask`, `segment_ids` <int32>[n, S],
    `is_real_example` <int32>[n] and the target's features.
  """
  spec = feature_spec(seq_length, features[0].target, in_windows=in_windows)
  examples = [example.as_dict() for example in features]
  return {
    name: np.reshape(
      [example.get(name, [feature.default_value]) for example in examples],
      [-1, *feature.shape],
    ).astype(np.int32 if feature.dtype == tf.int64 else np.float32)
    for name, feature in spec.items()
  }
