"""The export: a trained model as a SavedModel, for programs without ours.

`output_dir/export/<number>/` is what TensorFlow Serving and `tf.saved_model`
load, with nothing but TensorFlow. Its signatures are three ways in to one
model:

  serving_default  input_ids, input_mask, segment_ids <int32>[B, S], any S up to
                   the model's positions
  examples         examples <string>[B]: serialized tf.train.Example, as in a
                   file of features
  text             text_a, and where the task has pairs text_b, <string>[B]

The outputs of each are those of a prediction; see `targets`. No example gives
none. assets.extra/ holds vocab.txt, labels.txt (but for a number) and
settings.json. An export appears whole or not at all; of several the one with
the highest number is the newest, which a server takes.

Axis letters: B batch, S sequence.
"""

import os
import time
import unicodedata

import tensorflow.compat.v1 as tf

from bert_classifier import (
  devices,
  features,
  files,
  output_dir,
  predictions,
  tokenizer_files,
  windows,
)
from bert_classifier.graph_tokenization import TextEncoder

LABELS, SETTINGS = "labels.txt", "settings.json"
INPUTS = ("input_ids", "input_mask", "segment_ids")
_EXTRA = "assets.extra"  # as the Estimator names it


def write(run, model_fn, checkpoint):
  """Writes the model of a run; returns a line that says where.

  Args:
    run: `preparation.Run`.
    model_fn: see `run_classifier.model_fn_builder`.
    checkpoint: path of weights to restore; None where model_fn knows them.

  Raises:
    UserError: a number that the model computes is not finite.
  """
  weights = name_weights(run, checkpoint)
  with tf.Graph().as_default():
    signatures, scaffold = _build(run, model_fn)
    with open_session(run, scaffold, checkpoint) as session:
      _try_out(session, signatures["text"], weights)
      folder = output_dir.export_path(run.options.run.output_dir)
      files.remove_abandoned(folder, r"\d+")
      path = os.path.join(folder, str(_choose_number(folder)))
      with files.atomic_folder(path) as temporary:
        _save(session, signatures, scaffold.saver, temporary)
        write_extra(run, weights, os.path.join(temporary, _EXTRA))
  return f"exported {weights}, step {output_dir.step_of(weights)}: {path}"


def name_weights(run, checkpoint):
  """Returns the path of weights as the user knows it.

  Args:
    run: `preparation.Run`.
    checkpoint: as of `write`.
  """
  if run.weights.held and checkpoint == run.weights.held:
    return run.weights.checkpoint
  return checkpoint or run.weights.init_checkpoint.path


def open_session(run, scaffold, checkpoint):
  """Returns a `tf.Session` of the graph, its variables restored.

  Args:
    run: `preparation.Run`.
    scaffold: `tf.train.Scaffold`.
    checkpoint: as of `write`.
  """
  creator = tf.train.ChiefSessionCreator(
    scaffold,
    config=devices.session_config(run.options.device),
    checkpoint_filename_with_path=checkpoint,
  )
  return creator.create_session()


# ---------------------------------------------------------------------------
# The graph


def _build(run, model_fn):
  """Builds the graph of all signatures, which share the variables.

  Returns:
    {name: (inputs, outputs)}, each a dictionary of tensors, and the Scaffold.
  """
  longest = run.model.config.max_position_embeddings
  specs, signatures = [], {}
  for name, (inputs, given) in _make_inputs(run).items():
    texts = given.pop(windows.TEXT_OF_WINDOW, None)
    with tf.variable_scope(tf.get_variable_scope(), reuse=tf.AUTO_REUSE):
      number = tf.shape(given["input_ids"])[0]
      given = _make_computable(given, number, longest)
      specs.append(model_fn(given, None, tf.estimator.ModeKeys.PREDICT, {}))
    outputs = {
      key: value[:number] for key, value in specs[-1].predictions.items()
    }
    if texts is not None:
      number = tf.size(inputs["text_a"])
      pooling = run.options.model.window_pooling
      logits = windows.pool_in_graph(outputs["logits"], texts, number, pooling)
      outputs = run.task.target.outputs(logits)
    signatures[name] = (
      inputs,
      {key: tf.identity(outputs[key], f"{name}_{key}") for key in outputs},
    )
  return signatures, specs[-1].scaffold_fn()


def _make_inputs(run):
  """Returns {signature: (inputs, features)}, both dictionaries of tensors."""
  length = run.options.model.max_seq_length
  default = tf.saved_model.signature_constants.DEFAULT_SERVING_SIGNATURE_DEF_KEY
  ids = {name: tf.placeholder(tf.int32, [None, None], name) for name in INPUTS}
  names = ["text_a", "text_b", "examples"]
  if run.task.expects_pairs is False:
    names.remove("text_b")
  *texts, examples = (tf.placeholder(tf.string, [None], name) for name in names)
  encode = TextEncoder(
    run.model.tokenizer,
    length,
    run.options.model.truncation,
    run.options.model.stride,
  )
  spec = features.feature_spec(length)
  parsed = tf.io.parse_example(examples, {name: spec[name] for name in INPUTS})
  return {
    default: (ids, ids),
    "examples": (
      {"examples": examples},
      {name: tf.cast(value, tf.int32) for name, value in parsed.items()},
    ),
    "text": (
      dict(zip(names, texts)),
      encode(*texts),
    ),
  }


def _make_computable(given, number, longest):
  """Returns features with an example where there is none.

  Their shapes are checked: on a GPU a position that has no embedding would be
  computed, wrongly, and a mask for fewer examples would be taken for theirs.

  Args:
    given: dictionary of <int32>[B, S].
    number: B, <int32>[].
    longest: the model's positions.
  """
  shape = tf.shape(given["input_ids"])
  checks = [
    tf.debugging.assert_less_equal(
      shape[1],
      longest,
      message=f"examples have at most {longest} positions, the model's number",
    )
  ]
  for name in INPUTS[1:]:
    message = f"{name} and input_ids must have one shape"
    checks.append(
      tf.debugging.assert_equal(tf.shape(given[name]), shape, message=message)
    )
  missing = tf.cast(tf.equal(number, 0), tf.int32)
  with tf.control_dependencies(checks):
    return {
      name: tf.pad(value, [[0, missing], [0, 0]])
      for name, value in given.items()
    }


def _try_out(session, signature, weights):
  """Predicts a text in a session.

  Args:
    session: `tf.Session`.
    signature: (inputs, outputs), dictionaries of tensors.
    weights: path of the weights, for the error.

  Raises:
    UserError: a number is not finite.
  """
  inputs, outputs = signature
  texts = {placeholder: ["a"] for placeholder in inputs.values()}
  list(predictions.split_outputs(session.run(outputs, texts), weights))


# ---------------------------------------------------------------------------
# The files


def _choose_number(folder):
  """Returns the number of a new export: the time, or one after the newest."""
  newest = max(
    (int(os.path.basename(p)) for p in files.list_matching(folder, r"\d+")),
    default=0,
  )
  return max(int(time.time()), newest + 1)


def _save(session, signatures, saver, folder):
  """Writes graph and variables as a SavedModel into an empty folder."""
  builder = tf.saved_model.Builder(folder)
  builder.add_meta_graph_and_variables(
    session,
    [tf.saved_model.tag_constants.SERVING],
    signature_def_map={
      name: tf.saved_model.predict_signature_def(*tensors)
      for name, tensors in signatures.items()
    },
    saver=saver,
    strip_default_attrs=True,  # for TensorFlow's other versions
  )
  builder.save()


def write_extra(run, weights, folder):
  """Writes the vocabulary, the labels and the settings into a folder.

  Args:
    run: `preparation.Run`.
    weights: path of the weights.
    folder: is made where it is not there.
  """
  tf.io.gfile.makedirs(folder)
  files.write_text(
    os.path.join(folder, output_dir.VOCABULARY),
    [tokenizer_files.read_vocabulary(run.model.vocab_file)],
  )
  target = run.task.target
  if target.labels:
    with files.open_tsv(os.path.join(folder, LABELS)) as write_line:
      for label in target.labels:
        write_line([label])
  files.write_json(
    os.path.join(folder, SETTINGS),
    {
      **run.settings["model"],
      **target.prediction_settings(),
      "temperature": getattr(target, "temperature", 1.0),
      "checkpoint": os.path.basename(weights),
      "global_step": output_dir.step_of(weights),
      "skip_padding": run.options.device.skip_padding,
      "tensorflow": tf.__version__,
      "unicode": unicodedata.unidata_version,
    },
  )
