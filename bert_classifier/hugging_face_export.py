"""Export: a trained classifier as a folder of Hugging Face's library.

  config.json            sizes, activation, labels, kind of problem
  model.safetensors      the weights under their names
  vocab.txt, tokenizer.json, tokenizer_config.json
  README.md              the model card, see `model_card`

Their library opens the folder, and so does --init_checkpoint, to the bit.
"""

import contextlib
import json
import os
import shutil
import tempfile

import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import (
  errors,
  evaluation,
  files,
  hugging_face,
  model_card,
  output_dir,
  sharing,
  tokenizer_files,
  variables,
)
import modeling

# Their names of our activations.
_ACTIVATIONS = {
  "gelu": "gelu_new",
  "gelu_new": "gelu_new",
  "gelu_erf": "gelu",
  "relu": "relu",
  "tanh": "tanh",
  "linear": "linear",
  "none": "linear",
}
_NUMBER = "LABEL_0"  # as their library calls an output that has no name


def check_request(options):
  """Makes sure that a folder to be exported to can be made.

  Args:
    options: `run_options.RunOptions`.

  Raises:
    UserError: something is there already, or in the way.
  """
  if options.export_hf:
    output_dir.check_new_folder(options, "export_hf")


def export_of_run(run, init_checkpoint):
  """Exports the newest weights of a run; returns a line on what was written.

  Args:
    run: `preparation.Run`.
    init_checkpoint: prefix of the weights where output_dir has none.

  Raises:
    UserError: a weight is not finite.
  """

  def read(checkpoint):
    return checkpoint, read_weights(checkpoint or init_checkpoint, run.model)

  checkpoint, tensors = sharing.load_newest(run, read)
  folder = run.options.run.export_hf
  path = run.weights.checkpoint or checkpoint or run.model.weights.path
  if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
    raise errors.UserError(
      f"nothing is exported: {evaluation.explain_no_use(path)}"
    )
  settings = _find_settings(run)
  step = output_dir.step_of(path) if checkpoint else 0
  texts = {
    output_dir.VOCABULARY: tokenizer_files.format_vocabulary(
      run.model.tokenizer.vocab
    ),
    hugging_face.CONFIG: _format_json(
      describe_config(
        run.model, run.task.target, _find_head_dropout(run, settings)
      )
    ),
    tokenizer_files.TOKENIZER: _format_json(
      tokenizer_files.describe_tokenizer(run.model.tokenizer)
    ),
    tokenizer_files.TOKENIZER_CONFIG: _format_json(
      tokenizer_files.describe_tokenizer_config(
        run.model.tokenizer,
        run.options.model.max_seq_length,
        run.options.model.truncation,
      )
    ),
    model_card.NAME: model_card.format_card(
      run, settings, step if checkpoint or run.options.run.do_eval else None
    ),
  }
  write(folder, tensors, texts)
  return f"exported step {step} of {path} for Hugging Face: {folder}"


def read_weights(prefix, model):
  """Returns the weights of a classifier as Hugging Face's library has them.

  Args:
    prefix: of a TensorFlow checkpoint that holds all of them.
    model: `model_files.Model`.

  Returns:
    Dictionary from their names to <float32>[...], kernels transposed.
  """
  reader = tf.train.load_checkpoint(prefix)
  tensors = {}
  for variable in variables.list_variables(model.config.num_hidden_layers):
    value = reader.get_tensor(variable.name)
    value = value.T if variable.is_transposed else value
    # Of another view the library would write the memory, in the wrong order.
    tensors[variable.hugging_face] = np.ascontiguousarray(value, np.float32)
  return tensors


def describe_config(model, target, head_dropout):
  """Returns the configuration of a classifier, a dictionary for JSON.

  Args:
    model: `model_files.Model`.
    target: see `targets`.
    head_dropout: dropout before the head; None for that of the layers.
  """
  labels, vocab = list(target.labels) or [_NUMBER], model.tokenizer.vocab
  sizes = model.config.architecture()
  activation = (sizes["hidden_act"] or "none").lower()
  return {
    **sizes,
    "architectures": ["BertForSequenceClassification"],
    "model_type": "bert",
    "hidden_act": _ACTIVATIONS[activation],
    "classifier_dropout": head_dropout,
    "pad_token_id": vocab[tokenizer_files.find_padding_token(vocab)],
    "problem_type": target.problem_type,
    "id2label": {str(number): label for number, label in enumerate(labels)},
    "label2id": {label: number for number, label in enumerate(labels)},
  }


def write(folder, tensors, texts):
  """Writes a model's folder, whole or not at all.

  Args:
    folder: its path; nothing may be there but an empty folder.
    tensors: {name: array} of the weights.
    texts: {name of a file: its text}.
  """
  from safetensors.numpy import save_file

  with files.atomic_folder(folder) as temporary:
    for name, text in texts.items():
      files.write_text(os.path.join(temporary, name), [text])
    path = os.path.join(temporary, hugging_face.SAFETENSORS)
    with _local_place(path) as local:
      # Without the format their library refuses the file.
      save_file(tensors, local, metadata={"format": "pt"})
    if not files.is_remote(path):  # which the library lets only its owner read
      shutil.copymode(os.path.join(temporary, hugging_face.CONFIG), path)


def _format_json(value):
  return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


@contextlib.contextmanager
def _local_place(path):
  """Yields a path on this machine; what is written there comes to `path`."""
  if not files.is_remote(path):
    yield path
    return
  with tempfile.TemporaryDirectory() as folder:
    local = os.path.join(folder, os.path.basename(path))
    yield local
    tf.io.gfile.copy(local, path)


def _find_settings(run):
  """Returns the settings that the weights were trained with, by phase.

  Args:
    run: `preparation.Run`.
  """
  if run.options.run.do_train:
    return run.settings
  if run.found.checkpoint:
    return run.found.settings
  return {"model": run.settings["model"]}


def _find_head_dropout(run, settings):
  """Returns the dropout before the head that weights were trained with."""
  if "training" in settings:
    usual = modeling.BertForSequenceClassification.HEAD_DROPOUT
    return settings["training"].get("head_dropout", usual)
  return getattr(run.model.config, "classifier_dropout", None)
