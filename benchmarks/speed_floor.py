"""The floor of speed.py: the matrix products of the dense layers alone."""

import statistics


def operations(job, tokens, last_layer="whole"):
  """Floating-point operations of the dense layers on a batch, one pass.

  A layer has four products of H by H and two of H by F for each token.
  """
  width = job["model"]["hidden_size"]
  wide = job["model"]["intermediate_size"]
  layers = job["model"]["num_hidden_layers"]
  layer = 4 * width * width + 2 * width * wide
  if last_layer == "whole":
    work = layers * layer * tokens
  else:
    both = 2 * width * width  # key and value
    work = (layers - 1) * layer * tokens
    work += both * tokens + (layer - both) * job["batch"]
  return 2 * work * (3 if job["mode"] == "training" else 1)


def dense_products(product, rows, layers, training):
  """The products of the dense layers, chained as they are in the model.

  No two are equal, or TensorFlow would compute them once.

  Args:
    product: function of two matrices, and which of the two to transpose.
    rows: <float32>[T, H].
    layers: for each the kernels of query, key, value, output [H, H], and of
      the feed-forward layer [H, F], [F, H].
    training: whether to add the two products of each in the backward pass.

  Returns:
    List of results, which all must be computed.
  """
  inputs, results = [], []
  for q, k, v, o, up, down in layers:
    query, key, value = (product(rows, kernel) for kernel in (q, k, v))
    output = product(value, o)
    wide = product(output, up)
    inputs.append((rows, query, key, value, output, wide))
    rows = product(wide, down)
    results += query, key
  results.append(rows)
  if not training:
    return results
  for kernels, stored in zip(reversed(layers), reversed(inputs)):
    q, k, v, o, up, down = kernels
    before, query, key, value, output, wide = stored
    results.append(product(wide, rows, turn=0))
    rows = product(rows, down, turn=1)
    results.append(product(output, rows, turn=0))
    rows = product(rows, up, turn=1)
    results.append(product(value, rows, turn=0))
    rows = product(rows, o, turn=1)
    for kernel, upstream in ((q, query), (k, key), (v, rows)):
      results.append(product(before, upstream, turn=0))
      results.append(product(upstream, kernel, turn=1))
    rows = results[-1]
  return results


def random_layers(job):
  """Rows and kernels as NumPy arrays, of a size that keeps numbers near 1."""
  import numpy as np

  numbers = np.random.default_rng(0)
  width = job["model"]["hidden_size"]
  wide = job["model"]["intermediate_size"]
  shapes = [(width, width)] * 4 + [(width, wide), (wide, width)]

  def drawn(shape):
    drawn = numbers.normal(size=shape).astype("f")
    return drawn / np.float32(shape[0] ** 0.5)

  layers = range(job["model"]["num_hidden_layers"])
  rows = numbers.normal(size=(mean_tokens(job), width)).astype("f")
  return rows, [[drawn(shape) for shape in shapes] for _ in layers]


def mean_tokens(job):
  return round(statistics.mean(job[job["mode"]]["tokens"]))


def compute_by_tensorflow(job):
  """Returns the function that computes the products of a batch once."""
  import tensorflow.compat.v1 as tf

  from bert_classifier import devices, machine
  from bert_classifier.options import DeviceOptions

  tf.disable_eager_execution()

  def product(a, b, turn=None):
    return tf.matmul(a, b, transpose_a=turn == 0, transpose_b=turn == 1)

  machine.reuse_big_blocks()
  # Variables, because products of constants are computed beforehand.
  rows, layers = random_layers(job)
  rows = tf.Variable(rows)
  layers = [[tf.Variable(kernel) for kernel in layer] for layer in layers]
  results = dense_products(product, rows, layers, job["mode"] == "training")
  fetch = [result[0, 0] for result in results]
  session = tf.Session(
    config=devices.session_config(DeviceOptions(num_threads=job["threads"]))
  )
  session.run(tf.global_variables_initializer())
  return lambda index: session.run(fetch)


def compute_by_torch(job):
  """Returns the function that computes the products of a batch once."""
  import torch

  torch.set_num_threads(job["threads"])

  def product(a, b, turn=None):
    return (a.T if turn == 0 else a) @ (b.T if turn == 1 else b)

  rows, layers = random_layers(job)
  rows = torch.from_numpy(rows)
  layers = [list(map(torch.from_numpy, layer)) for layer in layers]
  training = job["mode"] == "training"

  def compute(index):
    del index
    with torch.inference_mode():
      dense_products(product, rows, layers, training)

  return compute
