"""The export for ONNX Runtime: a trained classifier without TensorFlow.

`--export_onnx` writes a folder:

  model.onnx       input_ids, input_mask, segment_ids <int32>[batch, length],
                   of any length up to the model's positions, to the outputs of
                   a prediction, see `targets`
  tokenizer.json   for the package `tokenizers`
  vocab.txt, labels.txt, settings.json
                   as an export by `export` has them

All positions are computed, in float32: of the unpadded form tf2onnx makes a
file that ONNX Runtime does not load. Before the folder appears, what ONNX
Runtime computes is held against TensorFlow. tf2onnx and onnxruntime are
imported here alone, and only when they are asked for.
"""

import dataclasses
import importlib
import logging
import os

import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow.python.util import deprecation

from bert_classifier import (
  devices,
  export,
  files,
  output_dir,
  predictions,
  step_options,
  tokenizer_files,
)
from bert_classifier.errors import UserError, require_packages

MODEL = "model.onnx"
_PACKAGES = "tf2onnx", "onnxruntime"
_AXES = "batch", "length"
# Batches that are tried: examples and positions.
_TRIED = (1, 3), (5, 24)
# Beyond rounding, which is some 1e-6 of the largest number.
_TOLERANCE = 1e-4


def check_request(options):
  """Makes sure that an export can be made, and its folder.

  Args:
    options: `run_options.RunOptions`.

  Raises:
    UserError: a package is not installed or cannot be imported, or a folder is
      in the way.
  """
  if not options.export_onnx:
    return
  named_alike = {name: name for name in _PACKAGES}
  require_packages("--export_onnx", named_alike, install=_PACKAGES)
  for name in _PACKAGES:
    try:
      importlib.import_module(name)
    except Exception as error:  # of any kind, where versions do not go together
      raise UserError(
        f"--export_onnx needs {name}, which cannot be imported beside"
        f" TensorFlow {tf.__version__} and NumPy {np.__version__}:"
        f" {str(error)[:300].rstrip('.')}. Install the packages in one line"
        " with TensorFlow, so that their versions go together: pip install"
        f" tensorflow=={tf.__version__} {' '.join(_PACKAGES)}, or"
        " tensorflow-cpu, if that is yours"
      ) from error
  output_dir.check_new_folder(options, "export_onnx")


def compute_every_position(run):
  """Returns a run whose model is made of what can be converted.

  Args:
    run: `preparation.Run`.
  """
  device = dataclasses.replace(
    run.options.device, skip_padding=False, use_xla=False, num_gpus=0
  )
  step = dataclasses.replace(run.options.step, precision=step_options.FLOAT32)
  return run._replace(
    options=run.options._replace(device=device, step=step),
    placement=devices.Placement(device),
  )


def write(run, model_fn, checkpoint):
  """Writes the model of a run; returns a line that says where.

  Args:
    run: `preparation.Run`, as `compute_every_position` gives it.
    model_fn: see `run_classifier.model_fn_builder`.
    checkpoint: path of weights to restore; None where model_fn knows them.

  Raises:
    UserError: a number that the model computes is not finite, or the converted
      model computes others.
  """
  weights = export.name_weights(run, checkpoint)
  batches = [_make_batch(run.model.config, *sizes) for sizes in _TRIED]
  with deprecation.silence():  # there is no other form for a session's graph
    graph, expected = _freeze(run, model_fn, checkpoint, batches)
    model = _convert(graph, list(expected[0]))
  for outputs in expected:
    predictions.split_outputs(outputs, weights)
  apart = _compare(model, batches, expected)
  folder = run.options.run.export_onnx
  with files.atomic_folder(folder) as temporary:
    with tf.io.gfile.GFile(os.path.join(temporary, MODEL), "wb") as file:
      file.write(model)
    files.write_json(
      os.path.join(temporary, tokenizer_files.TOKENIZER),
      tokenizer_files.describe_tokenizer(run.model.tokenizer),
    )
    export.write_extra(run, weights, temporary)
  return (
    f"exported {weights}, step {output_dir.step_of(weights)}, for ONNX Runtime,"
    f" whose outputs are within {apart:.0e} of TensorFlow's: {folder}"
  )


def _make_batch(config, examples, positions):
  """Returns a batch of random ids, some of them padding: {input: array}.

  Args:
    config: `modeling.BertConfig`.
    examples, positions: its sizes.
  """
  positions = min(positions, config.max_position_embeddings)
  random = np.random.default_rng(examples)
  shape = examples, positions
  mask = np.arange(positions) < random.integers(1, positions + 1, (examples, 1))
  numbers = (
    random.integers(config.vocab_size, size=shape),
    np.ones(shape),
    random.integers(min(2, config.type_vocab_size), size=shape),
  )
  return {
    name: (values * mask).astype(np.int32)
    for name, values in zip(export.INPUTS, numbers)
  }


def _freeze(run, model_fn, checkpoint, batches):
  """Returns the `tf.GraphDef` of a prediction, without variables.

  Args:
    run, model_fn, checkpoint: as of `write`.
    batches: list of {input: array}.

  Returns:
    The graph, and what it computes of the batches, a list of {output: array}.
  """
  with tf.Graph().as_default():
    inputs = {
      name: tf.placeholder(tf.int32, [None, None], name)
      for name in export.INPUTS
    }
    spec = model_fn(inputs, None, tf.estimator.ModeKeys.PREDICT, {})
    outputs = {
      name: tf.identity(value, name) for name, value in spec.predictions.items()
    }
    with export.open_session(run, spec.scaffold_fn(), checkpoint) as session:
      expected = [
        session.run(outputs, {inputs[name]: batch[name] for name in inputs})
        for batch in batches
      ]
      graph = tf.graph_util.convert_variables_to_constants(
        session, session.graph.as_graph_def(), list(outputs)
      )
  return graph, expected


def _convert(graph, outputs):
  """Returns the bytes of an ONNX model.

  Args:
    graph: `tf.GraphDef` without variables.
    outputs: list of names.
  """
  import tf2onnx

  logging.getLogger("tf2onnx").setLevel(logging.WARNING)
  model, _ = tf2onnx.convert.from_graph_def(
    graph,
    name="bert_classifier",
    input_names=[f"{name}:0" for name in export.INPUTS],
    output_names=[f"{name}:0" for name in outputs],
    tensors_to_rename={
      f"{name}:0": name for name in [*export.INPUTS, *outputs]
    },
  )
  for tensor in model.graph.input:
    for axis, name in zip(tensor.type.tensor_type.shape.dim, _AXES):
      axis.dim_param = name
  for tensor in model.graph.output:
    tensor.type.tensor_type.shape.dim[0].dim_param = _AXES[0]
  return model.SerializeToString()


def _compare(model, batches, expected):
  """Returns the largest difference between ONNX Runtime and TensorFlow.

  Args:
    model: bytes of an ONNX model.
    batches: list of {input: array}.
    expected: list of {output: array}, by TensorFlow.

  Raises:
    UserError: they differ by more than rounding.
  """
  import onnxruntime
  import tf2onnx

  session = onnxruntime.InferenceSession(
    model, providers=["CPUExecutionProvider"]
  )
  largest = 0.0
  for batch, wanted in zip(batches, expected):
    found = session.run(list(wanted), batch)
    for name, values in zip(wanted, found):
      apart = np.abs(values - wanted[name]).max()
      if not apart <= _TOLERANCE * max(1, np.abs(wanted[name]).max()):
        raise UserError(
          f"nothing is exported: {name} of ONNX Runtime"
          f" {onnxruntime.__version__} differs from TensorFlow's by {apart:.2g}"
          f" after the conversion by tf2onnx {tf2onnx.__version__}: try other"
          " versions of the two"
        )
      largest = max(largest, apart)
  return largest
