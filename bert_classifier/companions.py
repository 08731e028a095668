"""Companions: the configuration and the vocabulary that go with weights.

Shapes do not say which they are. The manifest beside the weights of a run does,
and beside those of a release there are the files themselves.
"""

import os

from absl import logging

from bert_classifier import files, output_dir, run_settings
from bert_classifier.errors import UserError

# Settings of a configuration that decide what is computed, but no shape.
_WITHOUT_SHAPE = "hidden_act", "num_attention_heads", "layer_norm_eps"


def compare_configs(config, path, theirs, their_path):
  """Warns where a configuration computes otherwise than that of the weights.

  Args:
    config, path: `modeling.BertConfig` that is given and used.
    theirs, their_path: the one beside the weights.
  """
  ours, theirs = config.architecture(), theirs.architecture()
  differing = [
    f"{key} {ours[key]!r} where that has {theirs[key]!r}"
    for key in _WITHOUT_SHAPE
    if ours[key] != theirs[key]
  ]
  if differing:
    logging.warning(
      "--bert_config_file=%s is another configuration than %s, which lies"
      " beside the weights: %s. The one given is used. Leave it out, unless the"
      " weights were trained so",
      path,
      their_path,
      ", ".join(differing),
    )


def check_config_copy(known, home, config, config_file):
  """Makes sure that the configuration kept beside trained weights is theirs.

  Args:
    known: the model settings in the manifest of the weights, {} if there is
      none.
    home: folder of the manifest.
    config, config_file: `modeling.BertConfig` and its path.

  Raises:
    UserError: it has another value; names the file.
  """
  if not known or not _is_in(config_file, home):
    return
  for key, value in config.architecture().items():
    if known.get(key, value) != value and not run_settings.may_resume(key):
      raise UserError(
        f"{config_file} has {key} {value!r}, but the model in {home} was"
        f" trained with {known[key]!r}, as {output_dir.MANIFEST} there says:"
        " the file was changed, or is another model's. Restore it, or give the"
        " right one as --bert_config_file"
      )


def check_vocabulary_copy(known, home, digest, vocab_file):
  """Makes sure that the vocabulary kept beside trained weights is theirs.

  Args:
    known, home: see `check_config_copy`.
    digest, vocab_file: SHA-256 and path of the vocabulary.

  Raises:
    UserError: it is another one; names the file.
  """
  expected = known.get(output_dir.VOCABULARY_DIGEST, digest)
  if expected != digest and _is_in(vocab_file, home):
    raise UserError(
      f"{vocab_file} is not the vocabulary that the model in {home} was trained"
      f" with: its SHA-256 is {digest:.16}..., and {output_dir.MANIFEST} there"
      f" says {expected:.16}... The file was changed (line ends, a byte-order"
      " mark and spaces count), or is another model's. Restore it, or give the"
      " right one as --vocab_file"
    )


def _is_in(path, folder):
  """Returns True for the path of a file in a folder."""
  return files.resolve_path(os.path.dirname(path)) == files.resolve_path(folder)


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
  digest = manifest.get(output_dir.VOCABULARY_DIGEST, vocab_digest)
  if digest != vocab_digest:
    raise UserError(
      f"{weights.path} was trained with another vocabulary than {vocab_file}:"
      f" its SHA-256 is {digest:.16}..., that of the file {vocab_digest:.16}..."
      " Give as --vocab_file the one it was trained with, a copy of which is"
      f" beside it as {output_dir.VOCABULARY}"
    )
  values = config.architecture()
  for key in _WITHOUT_SHAPE:
    if manifest.get(key, values[key]) != values[key]:
      raise UserError(
        f"{weights.path} was trained with {key} {manifest[key]!r}, but"
        f" {config_file} has {values[key]!r}: give as --bert_config_file the"
        " one it was trained with, a copy of which is beside it as"
        f" {output_dir.CONFIG}"
      )


def check_casing(do_lower_case, vocab, vocab_file):
  """Refuses a casing that a vocabulary's own tokens contradict.

  A vocabulary is taken for cased where over 1% of its tokens have an upper-case
  letter (29% of the released cased one); for lower-cased where none has and
  most of a thousand tokens or more have a letter that has two cases (91% of the
  released uncased one, but 18% of the Chinese one, which is not judged, as no
  small one is). Tokens in brackets, such as [CLS] and <s>, do not count.

  Args:
    do_lower_case: whether text will be lower-cased.
    vocab: tokens, or a dictionary from token to id.
    vocab_file: its path.

  Raises:
    UserError: the casing is the other one.
  """
  brackets = ("[", "]"), ("<", ">")
  tokens = [t for t in vocab if t and (t[0], t[-1]) not in brackets]
  upper = [token for token in tokens if token != token.lower()]
  if do_lower_case and len(upper) > 0.01 * len(tokens):
    raise UserError(
      f"{vocab_file}: the vocabulary is cased ({len(upper)} of {len(tokens)}"
      f" tokens have upper-case letters, for example {upper[0]!r}), but"
      " --do_lower_case is on, so they would never be found; give"
      " --do_lower_case=False, or the vocabulary of an uncased model"
    )
  if do_lower_case or upper:
    return
  two_cased = sum(token.lower() != token.upper() for token in tokens)
  if two_cased >= max(1000, 0.5 * len(tokens)):
    raise UserError(
      f"{vocab_file}: the vocabulary is lower-cased (none of its {len(tokens)}"
      " tokens has an upper-case letter), but --do_lower_case is off, so words"
      " with one would be unknown; give --do_lower_case=True, or the vocabulary"
      " of a cased model"
    )
