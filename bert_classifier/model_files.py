"""The files of a model: configuration, vocabulary and weights.

They are found, read and compared with each other and with the task, before
anything is computed.
"""

import contextlib
import os
import tempfile
from typing import NamedTuple, Optional

from absl import logging
import tensorflow.compat.v1 as tf

from bert_classifier import (
  checkpoints,
  files,
  heads,
  hugging_face,
  output_dir,
  sharing,
)
from bert_classifier.coverage import Coverage, compute_shapes
from bert_classifier.errors import UserError
import modeling
import tokenization


class Model(NamedTuple):
  """What a run computes with.

  Attributes:
    config: `modeling.BertConfig`.
    vocab_file: path of the vocabulary, a vocab.txt or a tokenizer.json.
    vocab_digest: SHA-256 of its bytes, of a tokenizer.json as a vocab.txt.
    tokenizer: `tokenization.FullTokenizer`.
    tokenizer_settings: its arguments beside the vocabulary, by name.
    weights: `checkpoints.Checkpoint` to begin with, or None.
    variables: dictionary from name to shape.
    head: `heads.Comparison` of the weights, or None.
  """

  config: modeling.BertConfig
  vocab_file: str
  vocab_digest: str
  tokenizer: tokenization.FullTokenizer
  tokenizer_settings: dict
  weights: Optional[checkpoints.Checkpoint]
  variables: dict
  head: Optional[heads.Comparison]


class Weights(NamedTuple):
  """The weights to compute with.

  Attributes:
    coverage: `coverage.Coverage` of init_checkpoint, or None where it is not
      used.
    checkpoint: path of the checkpoint in output_dir to evaluate and to predict
      with, or None for the newest.
    held: path under which it is read, where that is another.
  """

  coverage: Optional[Coverage]
  checkpoint: Optional[str]
  held: Optional[str] = None

  @property
  def to_read(self):
    """Returns the path to evaluate and to predict with, None for the newest."""
    return self.held or self.checkpoint

  @property
  def init_checkpoint(self):
    """Returns the `checkpoints.Checkpoint` to begin with, or None."""
    return self.coverage and self.coverage.checkpoint


def open_model(options, folder, task, *, given=frozenset(), trained=None):
  """Reads configuration, vocabulary and the list of weights; compares sizes.

  Args:
    options: `options.ModelOptions`.
    folder: output_dir, which may hold copies of both files.
    task: `preparation.Task`.
    given: names of the flags that were given.
    trained: the model settings that the checkpoint in output_dir was trained
      with; None or {} where there is none, or it is to be overwritten.

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
  manifest = heads.read_manifest(weights)
  settings = choose_tokenizer_settings(
    options, given, vocab_file, weights, trained or {}
  )
  with _mistakes_in_files():
    config = _read_config(config_file, weights, trained or manifest)
    tokenizer, digest = _make_tokenizer(vocab_file, settings)
    lower = settings["do_lower_case"]
    tokenization.validate_case_matches_vocab(lower, tokenizer.vocab)
    if weights:
      tokenization.validate_case_matches_checkpoint(lower, weights.path)
  if not trained:
    check_manifest(manifest, weights, digest, vocab_file, config, config_file)
  check_sizes(options, config, config_file, tokenizer, vocab_file, task)
  return Model(
    config,
    vocab_file,
    digest,
    tokenizer,
    settings,
    weights,
    compute_shapes(config, task.target.width),
    heads.compare_head(weights, manifest, task) if weights else None,
  )


def _read_config(path, weights, manifest):
  """Returns a configuration, its activation as the weights mean it."""
  config = modeling.BertConfig.from_json_file(path)
  kind = weights and weights.kind
  if manifest.get("hidden_act") == "gelu_erf":
    kind = None  # trained from their weights: their configuration still holds
  if hugging_face.is_configuration(config, kind):
    hugging_face.adapt_configuration(config)
  return config


def _make_tokenizer(vocab_file, settings):
  """Returns the tokenizer, and the SHA-256 of its vocabulary as a vocab.txt."""
  if not vocab_file.endswith(".json"):
    tokenizer = tokenization.FullTokenizer(vocab_file, **settings)
    return tokenizer, files.hash_file(vocab_file)
  text = hugging_face.read_vocabulary(vocab_file)
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, output_dir.VOCABULARY)
    files.write_text(path, [text])
    return tokenization.FullTokenizer(path, **settings), files.hash_file(path)


def choose_tokenizer_settings(options, given, vocab_file, weights, trained):
  """Returns how text is prepared, as arguments of `FullTokenizer`.

  What the weights were trained with decides: the manifest of the checkpoint in
  output_dir, or of that given, or the tokenizer files of a Hugging Face folder;
  only then the default.

  Args:
    options: `options.ModelOptions`.
    given: names of the flags that were given.
    vocab_file: path of the vocabulary.
    weights: `checkpoints.Checkpoint`, or None.
    trained: see `open_model`.

  Raises:
    UserError: --do_lower_case contradicts the weights given.
  """
  said, sources = trained, {}
  if not trained and (said := heads.read_manifest(weights)):
    path = os.path.join(os.path.dirname(weights.path), output_dir.MANIFEST)
    sources = {"do_lower_case": path}
  elif not trained:
    for beside in filter(None, (vocab_file, weights and weights.path)):
      folder = os.path.dirname(beside)
      found, paths = hugging_face.read_tokenizer_settings(folder)
      said, sources = {**said, **found}, {**sources, **paths}
  flag = options.do_lower_case
  lower = said.get("do_lower_case", flag)
  if "do_lower_case" in given:
    if lower != flag and not trained:
      raise UserError(
        f"--do_lower_case={flag} contradicts {sources['do_lower_case']}, where"
        f" do_lower_case is {lower}: leave the flag out, or mend that file if"
        " it is wrong"
      )
    lower = flag  # that it differs is found when all settings are compared
  elif lower != flag:
    logging.info(
      "do_lower_case is %s, as %s says",
      lower,
      sources.get("do_lower_case", f"the {output_dir.MANIFEST} of output_dir"),
    )
  return {
    "do_lower_case": lower,
    "strip_accents": said.get("strip_accents"),
    "tokenize_chinese_chars": said.get("tokenize_chinese_chars", True),
  }


def check_manifest(
  manifest, weights, vocab_digest, vocab_file, config, config_file
):
  """Compares what no shape shows with the manifest of the weights given.

  Args:
    manifest: see `heads.read_manifest`.
    weights: `checkpoints.Checkpoint`, or None.
    vocab_digest, vocab_file: SHA-256 and path of the vocabulary.
    config, config_file: `modeling.BertConfig` and its path.

  Raises:
    UserError: they were trained with other ones.
  """
  digest = manifest.get("vocabulary (SHA-256)", vocab_digest)
  if digest != vocab_digest:
    raise UserError(
      f"{weights.path} was trained with another vocabulary than {vocab_file}:"
      f" its SHA-256 is {digest:.16}..., that of the file {vocab_digest:.16}..."
      " Give as --vocab_file the one it was trained with, a copy of which is"
      f" beside it as {output_dir.VOCABULARY}"
    )
  values = config.architecture()
  for key in ("hidden_act", "num_attention_heads"):
    if manifest.get(key, values[key]) != values[key]:
      raise UserError(
        f"{weights.path} was trained with {key} {manifest[key]!r}, but"
        f" {config_file} has {values[key]!r}: give as --bert_config_file the"
        " one it was trained with, a copy of which is beside it as"
        f" {output_dir.CONFIG}"
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
  weights, reinit_head = _apply_head(options, run, model)
  coverage = weights.compare_with(model.variables).accept(
    allow_partial_init=options.allow_partial_init,
    reinit_head=reinit_head,
    trained_needed=not run.do_train,
  )
  coverage.log()
  return Weights(coverage, None)


def _apply_head(options, run, model):
  """Returns the weights, their head in the task's order, and if it goes.

  Raises:
    UserError: the head is of another task, and nothing will be trained.
  """
  weights, head = model.weights, model.head
  if options.reinit_head:
    return weights, True
  if head.contradiction:
    if not run.do_train:
      raise UserError(head.explain_refusal())
    logging.warning("%s: a fresh head is trained", head.contradiction)
    return weights, True
  if head.order:
    logging.info(
      "the rows of the head of %s are put in the order of the task's labels,"
      " by the names in %s: %s",
      weights.path,
      weights.config_file,
      ", ".join(map(str, head.order)),
    )
    weights = weights.reorder_head(head.order)
  return weights, False


def choose_trained(run, model, found):
  """Returns the `checkpoints.Checkpoint` of an output_dir that was trained.

  The newest one, unless nothing is trained and init_checkpoint names another
  one there. Weights without a trained head, and those that the training began
  with, give way to it, as in 2018.

  Raises:
    UserError: init_checkpoint is a trained classifier from elsewhere.
  """
  newest = sharing.open_newest(found)
  named = model.weights
  if run.do_train or named is None:
    return newest
  if named.compare_with(model.variables).fresh:
    return newest
  path = files.resolve_path(named.path)
  training = found.settings.get("training", {})
  if path == training.get(output_dir.WEIGHTS) or named.hash() in (
    newest.hash(),
    training.get(output_dir.WEIGHTS_DIGEST),
  ):
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
