"""The files of a model: configuration, vocabulary and weights.

They are found, read and compared with each other and with the task, before
anything is computed.
"""

import contextlib
import os
from typing import NamedTuple, Optional

from absl import logging
import tensorflow.compat.v1 as tf

from bert_classifier import checkpoints, files, hugging_face, output_dir
from bert_classifier.errors import UserError
import modeling
import tokenization


class Model(NamedTuple):
  """What a run computes with.

  Attributes:
    config: `modeling.BertConfig`.
    vocab_file: path of the vocabulary.
    vocab_digest: SHA-256 of its bytes.
    tokenizer: `tokenization.FullTokenizer`.
    weights: `checkpoints.Checkpoint` to begin with, or None.
    variables: dictionary from name to shape.
  """

  config: modeling.BertConfig
  vocab_file: str
  vocab_digest: str
  tokenizer: tokenization.FullTokenizer
  weights: Optional[checkpoints.Checkpoint]
  variables: dict


class Weights(NamedTuple):
  """The weights to compute with.

  Attributes:
    coverage: `checkpoints.Coverage` of init_checkpoint, or None where it is not
      used.
    checkpoint: path of the checkpoint in output_dir to evaluate and to predict
      with, or None for the newest.
  """

  coverage: Optional[checkpoints.Coverage]
  checkpoint: Optional[str]

  @property
  def init_checkpoint(self):
    """Returns the `checkpoints.Checkpoint` to begin with, or None."""
    return self.coverage and self.coverage.checkpoint


def open_model(options, folder, task):
  """Reads configuration, vocabulary and the list of weights; compares sizes.

  Args:
    options: `options.ModelOptions`.
    folder: output_dir, which may hold copies of both files.
    task: `preparation.Task`.

  Returns:
    `Model`.

  Raises:
    UserError: a file is missing or broken, or two of them do not belong
      together.
  """
  weights = None
  if options.init_checkpoint:
    weights = checkpoints.open_checkpoint(options.init_checkpoint)
  config_file = _find(
    "bert_config_file",
    options,
    weights and weights.config_file,
    os.path.join(folder, output_dir.CONFIG),
  )
  vocab_file = _find(
    "vocab_file",
    options,
    weights and weights.vocab_file,
    os.path.join(folder, output_dir.VOCABULARY),
  )
  with _mistakes_in_files():
    config = modeling.BertConfig.from_json_file(config_file)
    tokenizer = tokenization.FullTokenizer(vocab_file, options.do_lower_case)
    tokenization.validate_case_matches_vocab(
      options.do_lower_case, tokenizer.vocab
    )
    if weights:
      tokenization.validate_case_matches_checkpoint(
        options.do_lower_case, weights.path
      )
  if hugging_face.is_configuration(config, weights and weights.kind):
    hugging_face.adapt_configuration(config)
  check_sizes(options, config, config_file, tokenizer, vocab_file, task)
  return Model(
    config,
    vocab_file,
    files.hash_file(vocab_file),
    tokenizer,
    weights,
    checkpoints.compute_shapes(config, task.target.width),
  )


@contextlib.contextmanager
def _mistakes_in_files(prefix=""):
  """Makes UserErrors of what the plain scripts raise about a user's file."""
  try:
    yield
  except (FileNotFoundError, ValueError) as error:
    raise UserError(f"{prefix}{error}") from error


def _find(flag, options, beside, kept):
  """Returns a file: the flag's, that beside the weights, or output_dir's."""
  path = getattr(options, flag) or beside
  if path or tf.io.gfile.exists(kept):
    return path or kept
  weights = options.init_checkpoint
  raise UserError(
    f"--{flag} is needed: "
    + (
      f"there is none beside {weights}"
      if weights
      else "there is no --init_checkpoint to take it from"
    )
  )


def check_sizes(options, config, config_file, tokenizer, vocab_file, task):
  """Compares vocabulary, configuration, length and task.

  Raises:
    UserError: an id, a position or a segment would have no embedding.
  """
  size = max(tokenizer.vocab.values()) + 1
  if size > config.vocab_size:
    raise UserError(
      f"{vocab_file} has {size} lines, but {config_file} has a vocab_size of"
      f" {config.vocab_size}: the two do not belong together"
    )
  if size < config.vocab_size:
    logging.warning(
      "%s has %d lines, fewer than the vocab_size %d of %s: do the two belong"
      " together?",
      vocab_file,
      size,
      config.vocab_size,
      config_file,
    )
  if options.max_seq_length > config.max_position_embeddings:
    raise UserError(
      f"--max_seq_length={options.max_seq_length} is more than the"
      f" max_position_embeddings {config.max_position_embeddings} of"
      f" {config_file}"
    )
  if config.type_vocab_size < 2 and task.processor.has_pairs():
    raise UserError(
      f"{config_file} has a type_vocab_size of {config.type_vocab_size}, but"
      " pairs of texts need 2"
    )
  with _mistakes_in_files(f"{config_file}: "):
    config.check_heads()


def check_weights(options, run, model, found):
  """Makes sure that there are weights for what is asked for.

  Args:
    options: `options.ModelOptions`.
    run: `options.RunOptions`.
    model: `Model`.
    found: `output_dir.OutputDir`.

  Returns:
    `Weights`.

  Raises:
    UserError: weights do not fit the model, or results would be those of
      random ones.
  """
  if found.checkpoint:
    trained = choose_trained(run, model, found)
    trained.compare_with(model.variables).accept(is_resumed=True)
    step = output_dir.step_of(trained.path)
    if not step and not run.do_train:
      raise UserError(
        f"{trained.path} is of step 0: training began there, but was stopped"
        " before it saved anything. Give the training command again, which goes"
        " on from there, or another --output_dir"
      )
    logging.info("weights: %s, step %d", trained.path, step)
    return Weights(None, None if run.do_train else trained.path)
  if model.weights is None:
    if not run.do_train:
      raise UserError(
        f"there are no trained weights: {run.output_dir} holds no"
        " checkpoint and --init_checkpoint is not given. Train first, or"
        " give --init_checkpoint"
      )
    logging.warning("training from random weights: no --init_checkpoint")
    return Weights(None, None)
  coverage = model.weights.compare_with(model.variables).accept(
    allow_partial_init=options.allow_partial_init,
    reinit_head=options.reinit_head,
    trained_needed=not run.do_train,
  )
  coverage.log()
  return Weights(coverage, None)


def choose_trained(run, model, found):
  """Returns the `checkpoints.Checkpoint` of an output_dir that was trained.

  The newest one, unless nothing is trained and init_checkpoint names another
  one there. Weights without a trained head, and those that the training began
  with, give way to it, as in 2018.

  Raises:
    UserError: init_checkpoint is a trained classifier from elsewhere.
  """
  newest = checkpoints.open_checkpoint(found.checkpoint)
  named = model.weights
  if run.do_train or named is None:
    return newest
  if named.compare_with(model.variables).fresh:
    return newest
  path = files.resolve_path(named.path)
  began_with = found.settings.get("training", {}).get("init_checkpoint")
  if path in (began_with, files.resolve_path(newest.path)):
    return newest
  folder = files.resolve_path(found.path)
  if named.kind == "tensorflow" and os.path.dirname(path) == folder:
    return named
  raise UserError(
    f"--init_checkpoint={named.path} is a trained classifier, and"
    f" {found.path} holds another one, {newest.path}: leave out"
    " --init_checkpoint to use that of --output_dir, or give another"
    " --output_dir to use the one that --init_checkpoint names"
  )
