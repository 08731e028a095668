"""Embeddings: a vector for each text of the test set, by the encoder alone.

--do_embed writes test_embeddings.npy, <float32>[n, H], and
test_embedding_ids.txt, the ids of its rows, a line each:

  vectors = numpy.load("output/test_embeddings.npy")

No head is needed, so a released model will do, and no labels.

Axis letters: n examples, B batch, S sequence, H hidden.
"""

import collections
import contextlib
import itertools

from absl import logging
import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import (
  checkpoints,
  errors,
  files,
  layouts,
  output_dir,
  predictions,
  progress,
  windows,
)
from bert_classifier.coverage import HEAD
from bert_classifier.options import POOLED
import modeling

_OUTPUT = "embeddings"
_POOLER = "bert/pooler/"
_LEAST_LENGTH = 1e-6  # as TensorFlow's l2_normalize has it


def select_variables(shapes, pooling):
  """Returns those of a classifier's variables that embeddings depend on.

  Args:
    shapes: {name: shape} of all of them.
    pooling: `options.MEAN` or `POOLED`.
  """
  return {
    name: shape
    for name, shape in shapes.items()
    if name not in HEAD and (pooling == POOLED or not name.startswith(_POOLER))
  }


def model_fn_builder(run, init_checkpoint):
  """Returns the model_fn that embeds, for TPUEstimator.

  Args:
    run: `preparation.Run`.
    init_checkpoint: as of `run_classifier.model_fn_builder`.
  """
  placement, asked = run.placement, run.options.inference

  def model_fn(features, labels, mode, params, config=None):
    del labels, params, config
    embedded = embed(
      run.model.config,
      features,
      asked.embed_pooling,
      asked.embed_normalize,
      use_one_hot_embeddings=placement.use_one_hot_embeddings,
      forms=layouts.choose_forms(run, placement)[0],
    )
    return tf.estimator.tpu.TPUEstimatorSpec(
      mode=mode,
      predictions=windows.keep_number(features, {_OUTPUT: embedded}),
      scaffold_fn=checkpoints.scaffold_fn_builder(init_checkpoint, ()),
    )

  return model_fn


def embed(
  config,
  features,
  pooling,
  normalize,
  *,
  forms,
  use_one_hot_embeddings=False,
):
  """Adds the encoder to the graph; returns a vector a text: <float32>[B, H].

  Args:
    config: `modeling.BertConfig`.
    features: dictionary of `input_ids`, `input_mask`, `segment_ids`
      <int32>[B, S].
    pooling: `options.MEAN`, of the last layer over the unpadded tokens, [CLS]
      and [SEP] among them (Reimers and Gurevych 2019,
      https://arxiv.org/abs/1908.10084); or `POOLED`, what a classifier's head
      reads.
    normalize: whether to divide each vector by its Euclidean length.
    forms, use_one_hot_embeddings: as of `modeling.BertModel`.
  """
  mask = features["input_mask"]
  model = modeling.BertModel(
    config,
    is_training=False,
    input_ids=features["input_ids"],
    input_mask=mask,
    token_type_ids=features["segment_ids"],
    scope="bert",
    use_one_hot_embeddings=use_one_hot_embeddings,
    forms=forms.with_features(features),
    only_pooled=pooling == POOLED,
  )
  if pooling == POOLED:
    vectors = model.get_pooled_output()
  else:
    weights = tf.cast(mask, tf.float32)[:, :, tf.newaxis]  # [B, S, 1]
    total = tf.reduce_sum(model.get_sequence_output() * weights, 1)  # [B, H]
    vectors = total / tf.maximum(tf.reduce_sum(weights, 1), 1.0)
  return tf.math.l2_normalize(vectors, -1) if normalize else vectors


def announce(run, splits):
  """Logs what will be embedded, and which files that replaces.

  Args:
    run: `preparation.Run`.
    splits: "test", or several test sets.
  """
  for split in splits:
    files.announce_replacement(
      output_dir.embedding_paths(run.options.run.output_dir, split)
    )
  progress.announce("embedding", run, *splits)


def write_of_run(run, splits, batches, weights, step):
  """Writes the embeddings of test sets, each whole or not at all.

  Args:
    run: `preparation.Run`.
    splits: the test sets, in the order of their embeddings.
    batches: iterable of what the Estimator predicts, a dictionary a batch.
    weights: path of the weights, for the error.
    step: of their training; embeddings do not say it.

  Returns:
    List of a line for each pair of files written.

  Raises:
    UserError: a number is not finite, or the texts are not those that were
      converted.
  """
  del step
  counter = progress.Counter(
    "embedded", run.count_records(*splits), run.options.model.unit
  )
  outputs = predictions.split_batches(batches, weights, counter)
  if run.options.model.stride:
    outputs = pool_windows(outputs, run.options.inference.embed_normalize)
  lines = []
  for split in splits:
    paths = output_dir.embedding_paths(run.options.run.output_dir, split)
    write_embeddings(
      paths,
      run.cache.converted_examples(split),
      (output[_OUTPUT] for output in outputs),
      (run.count(split), run.model.config.hidden_size),
    )
    lines.append(f"{split}: embeddings: {' '.join(paths)}")
  collections.deque(outputs, maxlen=0)  # lets the session end properly
  logging.info("%s", counter)
  return lines


def pool_windows(outputs, normalize):
  """Yields the mean of the vectors of each text's windows.

  Args:
    outputs: iterable of what is computed of each window.
    normalize: see `embed`; of the vectors of the windows, and of their mean.
  """
  for group in windows.group_by_text(outputs):
    vector = windows.pool_one([output[_OUTPUT] for output in group])
    if normalize and len(group) > 1:
      vector /= max(np.linalg.norm(vector), _LEAST_LENGTH)
    yield {_OUTPUT: vector}


def write_embeddings(paths, examples, vectors, shape):
  """Writes vectors to a .npy file, and the ids of their examples beside it.

  A row at a time; where it fails, both files stay as they were.

  Args:
    paths: of the vectors, and of the ids.
    examples: iterator of `examples.InputExample`.
    vectors: iterator of <float32>[H]; those of other sets may follow.
    shape: (n, H).

  Raises:
    UserError: there are not n examples.
  """
  header = {"descr": "<f4", "fortran_order": False, "shape": shape}
  with contextlib.ExitStack() as stack:
    writers = [
      stack.enter_context(
        tf.io.gfile.GFile(stack.enter_context(files.atomic_write(path)), mode)
      )
      for path, mode in zip(paths, ("wb", "w"))
    ]
    vector_writer, id_writer = writers
    np.lib.format.write_array_header_1_0(vector_writer, header)
    count = 0
    # The vectors first, whose end takes no example away.
    for vector, example in zip(itertools.islice(vectors, shape[0]), examples):
      vector_writer.write(np.asarray(vector, "<f4").tobytes())
      id_writer.write(f"{files.clean_cell(predictions.find_id(example))}\n")
      count += 1
    if count != shape[0] or next(examples, None) is not None:
      raise errors.UserError(
        f"the test set has other examples than the {shape[0]} that were"
        " embedded. Did its file change meanwhile? Give the same command again"
      )
