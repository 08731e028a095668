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
  companions,
  embeddings,
  files,
  heads,
  hugging_face,
  output_dir,
  resources,
  sharing,
  tokenizer_files,
)
from bert_classifier.coverage import HEAD, Coverage, compute_shapes
from bert_classifier.errors import UserError
import modeling
import tokenization


class Model(NamedTuple):
  """What a run computes with.

  Attributes:
    config: `modeling.BertConfig`.
    config_file: its path.
    vocab_file: path of the vocabulary, a vocab.txt or a tokenizer.json.
    vocab_digest: SHA-256 of its bytes, of a tokenizer.json as a vocab.txt.
    tokenizer: `tokenization.FullTokenizer`.
    tokenizer_settings: its arguments beside the vocabulary, by name.
    weights: `checkpoints.Checkpoint` to begin with, or None.
    variables: dictionary from name to shape.
    head: `heads.Comparison` of the weights, or None.
  """

  config: modeling.BertConfig
  config_file: str
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
    resumed: path of the checkpoint in output_dir that comes before all others,
      or None where there is none.
    held: path under which `checkpoint` is read, where that is another.
  """

  coverage: Optional[Coverage]
  checkpoint: Optional[str] = None
  resumed: Optional[str] = None
  held: Optional[str] = None

  @property
  def to_read(self):
    """Returns the path to evaluate and to predict with, None for the newest."""
    return self.held or self.checkpoint

  @property
  def init_checkpoint(self):
    """Returns the `checkpoints.Checkpoint` to begin with, or None."""
    return self.coverage and self.coverage.checkpoint

  def log(self):
    """Writes to the log where the weights come from."""
    if self.resumed:
      step = output_dir.step_of(self.resumed)
      logging.info("weights: %s, step %d", self.resumed, step)
    elif self.coverage:
      self.coverage.log()
    else:
      logging.warning("training from random weights: no --init_checkpoint")


def open_model(
  options,
  folder,
  task,
  *,
  given=frozenset(),
  trained=None,
  is_training=True,
  frozen=None,
):
  """Reads configuration, vocabulary and the list of weights; compares sizes.

  Args:
    options: `options.ModelOptions`.
    folder: output_dir, which may hold copies of both files.
    task: `task_choice.Task`.
    given: names of the flags that were given.
    trained: the model settings that the checkpoint in output_dir was trained
      with; None or {} where there is none, or it is to be overwritten.
    is_training: whether it will be trained.
    frozen: how many of its lowest layers will not, and the embeddings with
      them; None where all will.

  Returns:
    `Model`.

  Raises:
    UserError: a file is missing or broken, or two of them do not belong
      together.
  """
  weights = None
  if options.init_checkpoint:
    weights = checkpoints.open_checkpoint(options.init_checkpoint)
  manifest = heads.read_manifest(weights)
  known = trained or manifest
  home = folder if trained else weights and os.path.dirname(weights.path)
  # The vocabulary of another architecture has another name: first that.
  config_file = _find_config(options, weights, folder)
  with _mistakes_in_files():
    config = _read_config(config_file, weights, known)
  companions.check_config_copy(known, home, config, config_file)
  resources.check_memory(
    config, config_file, task.target.width, is_training, frozen
  )
  vocab_file = _find(
    "vocab_file",
    options,
    weights and weights.vocab_file,
    os.path.join(folder, output_dir.VOCABULARY),
  )
  settings = choose_tokenizer_settings(
    options, given, vocab_file, weights, known, is_resumed=bool(trained)
  )
  with _mistakes_in_files():
    tokenizer, digest = _make_tokenizer(vocab_file, settings)
  companions.check_vocabulary_copy(known, home, digest, vocab_file)
  lower = settings["do_lower_case"]
  companions.check_casing(lower, tokenizer.vocab, vocab_file)
  if weights:
    with _mistakes_in_files():
      tokenization.validate_case_matches_checkpoint(lower, weights.path)
  if not trained:
    companions.check_manifest(
      manifest, weights, digest, vocab_file, config, config_file
    )
  if weights and not known:
    warn_of_others(options, weights, config, digest)
  check_sizes(config, config_file, tokenizer, vocab_file, task)
  check_length(options, given, config, config_file, known)
  return Model(
    config,
    config_file,
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
  if tokenizer_files.is_whole_vocabulary(vocab_file):
    tokenizer = tokenization.FullTokenizer(vocab_file, **settings)
    return tokenizer, files.hash_file(vocab_file)
  text = tokenizer_files.read_vocabulary(vocab_file)
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, output_dir.VOCABULARY)
    files.write_text(path, [text])
    return tokenization.FullTokenizer(path, **settings), files.hash_file(path)


def choose_tokenizer_settings(
  options, given, vocab_file, weights, known, is_resumed
):
  """Returns how text is prepared, as arguments of `FullTokenizer`.

  What the weights were trained with decides: the manifest of the checkpoint in
  output_dir, or of that given, or the tokenizer files of a Hugging Face folder;
  only then the default.

  Args:
    options: `options.ModelOptions`.
    given: names of the flags that were given.
    vocab_file: path of the vocabulary.
    weights: `checkpoints.Checkpoint`, or None.
    known: the model settings in the manifest of the weights, {} if there is
      none.
    is_resumed: whether that is the manifest of output_dir.

  Raises:
    UserError: --do_lower_case contradicts the weights given.
  """
  said, sources, added = known, {}, {}
  if known and not is_resumed:
    path = os.path.join(os.path.dirname(weights.path), output_dir.MANIFEST)
    sources = {"do_lower_case": path}
  elif not known:
    for beside in filter(None, (vocab_file, weights and weights.path)):
      folder = os.path.dirname(beside)
      found, paths = tokenizer_files.read_tokenizer_settings(folder)
      said, sources = {**said, **found}, {**sources, **paths}
      added.update(tokenizer_files.list_added_tokens(folder))
  flag = options.do_lower_case
  lower = said.get("do_lower_case", flag)
  if "do_lower_case" in given:
    if lower != flag and not is_resumed:
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
    # As JSON has it, for the manifest.
    "whole_tokens": said.get("whole_tokens")
    or [
      [token, declared.normalized, declared.single_word]
      for token, declared in sorted(added.items())
    ],
  }


def warn_of_others(options, weights, config, vocab_digest):
  """Warns where files that are given are not those beside the weights.

  Args:
    options: `options.ModelOptions`.
    weights: `checkpoints.Checkpoint` without a manifest.
    config: `modeling.BertConfig` that is used.
    vocab_digest: SHA-256 of the vocabulary that is used.
  """
  # One that is broken is no matter where another is given.
  with contextlib.suppress(FileNotFoundError, ValueError):
    if options.bert_config_file and weights.config_file:
      companions.compare_configs(
        config,
        options.bert_config_file,
        _read_config(weights.config_file, weights, {}),
        weights.config_file,
      )
  with contextlib.suppress(FileNotFoundError, ValueError):
    if options.vocab_file and weights.vocab_file:
      _, theirs = _make_tokenizer(weights.vocab_file, {})
      if theirs != vocab_digest:
        logging.warning(
          "--vocab_file=%s is another vocabulary than %s, which lies beside the"
          " weights: the one given is used. Leave it out, unless it is that one"
          " with words of yours in the place of unused ones",
          options.vocab_file,
          weights.vocab_file,
        )


@contextlib.contextmanager
def _mistakes_in_files(prefix=""):
  """Makes UserErrors of what the plain scripts raise about a user's file."""
  try:
    yield
  except (FileNotFoundError, ValueError) as error:
    raise UserError(f"{prefix}{error}") from error


def _find_config(options, weights, folder):
  """Returns the path of the configuration; see `_find`.

  Raises:
    UserError: there is none, or several of which it is unknown which belongs.
  """
  kept = os.path.join(folder, output_dir.CONFIG)
  if weights and not (options.bert_config_file or weights.config_file):
    several = checkpoints.list_configurations(weights.path)
    if several and not tf.io.gfile.exists(kept):
      raise UserError(
        f"--bert_config_file is needed: beside {weights.path} there are"
        f" {', '.join(several)}; give the one that belongs to it"
      )
  beside = weights and weights.config_file
  return _find("bert_config_file", options, beside, kept)


def _find(flag, options, beside, kept):
  """Returns a file: the flag's, that beside the weights, or output_dir's."""
  path = getattr(options, flag) or beside
  if path or tf.io.gfile.exists(kept):
    return path or kept
  weights = options.init_checkpoint
  folder = os.path.dirname(kept)
  if not weights and any(
    tf.io.gfile.exists(os.path.join(folder, name))
    for name in hugging_face.WEIGHTS
  ):
    raise UserError(
      f"--output_dir={folder} holds a model in Hugging Face's form, and nothing"
      f" that a run wrote: give it as --init_checkpoint={folder}, and another"
      " --output_dir"
    )
  raise UserError(
    f"--{flag} is needed: "
    + (
      f"there is none beside {weights}"
      if weights
      else "there is no --init_checkpoint to take it from"
    )
  )


def check_sizes(config, config_file, tokenizer, vocab_file, task):
  """Compares vocabulary, configuration and task.

  Raises:
    UserError: an id or a segment would have no embedding.
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
  if config.type_vocab_size < 2 and task.processor.has_pairs():
    raise UserError(
      f"{config_file} has a type_vocab_size of {config.type_vocab_size}, but"
      " pairs of texts need 2"
    )
  with _mistakes_in_files(f"{config_file}: "):
    config.check_heads()


def check_length(options, given, config, config_file, trained):
  """Makes sure that every position has an embedding.

  Args:
    options: `options.ModelOptions`.
    given: names of the flags that were given.
    config, config_file: `modeling.BertConfig` and its path.
    trained: settings that the weights were trained with, {} if unknown.

  Raises:
    UserError: one would have none; says which length to give.
  """
  length, longest = options.max_seq_length, config.max_position_embeddings
  if length <= longest:
    return
  flag = f"--max_seq_length={length}"
  if "max_seq_length" not in given:
    flag += ", its default,"
  fitting = trained.get("max_seq_length", longest)
  raise UserError(
    f"{flag} is more than the max_position_embeddings {longest} of"
    f" {config_file}: give --max_seq_length={fitting}"
    + (
      ", with which it was trained"
      if "max_seq_length" in trained
      else " or less"
    )
  )


def check_weights(options, model, found):
  """Makes sure that there are weights for what is asked for.

  Args:
    options: `options.Options`.
    model: `Model`.
    found: `output_dir.OutputDir`.

  Returns:
    `Weights`.

  Raises:
    UserError: weights do not fit the model, or results would be those of
      random ones.
  """
  run = options.run
  if found.checkpoint:
    trained = choose_trained(run, model, found)
    if trained.must_be_converted:
      raise UserError(
        f"{trained.path} has other names or types of variables than a run of"
        " this program writes, so it cannot be gone on with: give it as"
        " --init_checkpoint, and another --output_dir"
      )
    trained.compare_with(model.variables).accept(
      is_resumed=True, config_file=model.config_file
    )
    if run.do_train and f"{HEAD[0]}/adam_m" not in trained.shapes:
      raise UserError(
        f"{trained.path} has weights alone, without the moments of Adam that a"
        " training goes on with: give it as --init_checkpoint, and another"
        " --output_dir"
      )
    step = output_dir.step_of(trained.path)
    if not step and not run.do_train:
      raise UserError(
        f"{trained.path} is of step 0: training began there, but was stopped"
        " before it saved anything. Give the training command again, which goes"
        " on from there, or another --output_dir"
      )
    chosen = None if run.do_train else trained.path
    return Weights(None, chosen, resumed=trained.path)
  if model.weights is None:
    if not run.do_train:
      raise UserError(
        f"there are no trained weights: {run.output_dir} holds no"
        " checkpoint and --init_checkpoint is not given. Train first, or"
        " give --init_checkpoint"
      )
    return Weights(None)
  if run.uses_head:
    weights, reinit_head = _apply_head(options.model, run, model)
    needed = model.variables
  else:
    weights, reinit_head = model.weights, False
    needed = embeddings.select_variables(
      model.variables, options.inference.embed_pooling
    )
  coverage = weights.compare_with(needed).accept(
    allow_partial_init=options.model.allow_partial_init,
    reinit_head=reinit_head,
    trained_needed=not run.do_train,
    config_file=model.config_file,
  )
  return Weights(coverage)


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
  if run.use_best and os.path.dirname(path) == files.resolve_path(
    run.output_dir
  ):
    return newest  # of the folder that both flags name
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
