"""Hugging Face's tokenizer files: settings, vocabulary, added tokens.

They say how texts were prepared for a model:

  settings, sources = read_tokenizer_settings("bert-base-uncased")
  settings["do_lower_case"]                          # True

What they say goes to `tokenization.FullTokenizer`. `describe_tokenizer` and
`describe_tokenizer_config` say the same of one, for an export.
"""

import os
from typing import NamedTuple, Optional

import tensorflow.compat.v1 as tf

from bert_classifier import errors, files
from bert_classifier.choice_options import TAIL
import tokenization

# Names of the files in a model's folder.
TOKENIZER = "tokenizer.json"  # with the vocabulary
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS_MAP = "special_tokens_map.json"
ADDED_TOKENS = "added_tokens.json"


def read_tokenizer_settings(folder):
  """Returns how a folder's tokenizer files say that text is prepared.

  Of two files tokenizer_config.json decides, as it does in their library.

  Returns:
    Dictionary with those of `do_lower_case`, `strip_accents` and
    `tokenize_chinese_chars` that are said, as `tokenization.FullTokenizer`
    takes them; and a dictionary from their names to the path that says so.

  Raises:
    UserError: a file is no JSON of a tokenizer, or a value is not true, false
      or, of strip_accents, null.
  """
  settings, sources = {}, {}
  for name, read in (
    (TOKENIZER, _read_normalizer),
    (TOKENIZER_CONFIG, _select_settings),
  ):
    path = os.path.join(folder, name)
    if tf.io.gfile.exists(path):
      found = read(_read_object(path))
      _check_settings(found, path)
      settings.update(found)
      sources.update(dict.fromkeys(found, path))
  return settings, sources


_NORMALIZER_KEYS = {
  "do_lower_case": "lowercase",
  "strip_accents": "strip_accents",
  "tokenize_chinese_chars": "handle_chinese_chars",
}


def _select_settings(values):
  return {name: values[name] for name in _NORMALIZER_KEYS if name in values}


def _read_normalizer(values):
  """Returns the settings in the BertNormalizer of a tokenizer.json."""
  normalizer = values.get("normalizer")
  parts = [normalizer]
  if isinstance(normalizer, dict):
    parts = normalizer.get("normalizers", parts)
  for part in parts:
    if isinstance(part, dict) and part.get("type") == "BertNormalizer":
      return {
        name: part[key] for name, key in _NORMALIZER_KEYS.items() if key in part
      }
  return {}


def _check_settings(settings, path):
  for name, value in settings.items():
    if not (isinstance(value, bool) or name == "strip_accents" and not value):
      raise errors.UserError(
        f"{path}: {name} is {value!r:.80}, but must be true or false"
      )


def _read_object(path):
  values = files.read_json(path)
  if not isinstance(values, dict):
    raise errors.UserError(
      f"{path} is damaged: it is no JSON object; copy or download it again"
    )
  return values


class AddedToken(NamedTuple):
  """A token that is looked for before a text is split.

  Attributes:
    number: its id; None where the vocabulary decides.
    normalized, single_word: as of `tokenization.WholeToken`.
  """

  number: Optional[int]
  normalized: bool
  single_word: bool


# Declared wherever a tokenizer file is, unless it calls them otherwise.
_SPECIAL = {
  "unk_token": "[UNK]",
  "sep_token": "[SEP]",
  "pad_token": "[PAD]",
  "cls_token": "[CLS]",
  "mask_token": "[MASK]",
}
_MORE_SPECIAL = ("additional_special_tokens", "extra_special_tokens")
_SPLIT_SPECIAL = "split_special_tokens"


def list_added_tokens(folder):
  """Returns {token: `AddedToken`} that a folder's tokenizer files declare.

  {} where there is none of them, as in a released folder of 2018. Without the
  special ones where tokenizer_config.json says that they are split in a text as
  any other word.

  Raises:
    UserError: one of them is no JSON of a tokenizer.
  """
  names = (SPECIAL_TOKENS_MAP, ADDED_TOKENS, TOKENIZER_CONFIG, TOKENIZER)
  paths = (os.path.join(folder, name) for name in names)
  there = [path for path in paths if tf.io.gfile.exists(path)]
  values = {os.path.basename(path): _read_object(path) for path in there}
  if not values:
    return {}
  try:
    return _collect_added_tokens(*(values.get(name, {}) for name in names))
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise errors.UserError(
      f"the added tokens in {', '.join(there)} cannot be read: {error!r:.80};"
      " copy or download the files again"
    ) from error


def _collect_added_tokens(special_map, added, config, tokenizer):
  """Returns {token: `AddedToken`} of four files; what comes later decides."""
  found, special = {}, set()

  def add(token, number=None, normalized=False, is_special=False):
    token = token if isinstance(token, dict) else {"content": str(token)}
    content = token["content"]
    found[content] = AddedToken(
      None if number is None else int(number),
      bool(token.get("normalized", normalized)),
      bool(token.get("single_word", False)),
    )
    if is_special or token.get("special"):
      special.add(content)

  for key, default in _SPECIAL.items():
    token = special_map.get(key) or config.get(key) or default
    add(token, is_special=True)
  for key in _MORE_SPECIAL:
    more = special_map.get(key) or config.get(key) or ()
    for token in more.values() if isinstance(more, dict) else more:
      add(token, is_special=True)
  for content, number in added.items():
    add(content, number, normalized=content not in found)
  for number, token in (config.get("added_tokens_decoder") or {}).items():
    add(token, number)
  for token in tokenizer.get("added_tokens") or ():
    add(token, token["id"])
  if config.get(_SPLIT_SPECIAL):
    return {name: found[name] for name in found if name not in special}
  return found


def read_vocabulary(path):
  """Returns the text of a vocabulary, one token a line.

  Tokens that the files beside it add to it have lines of their own; a number
  that has no token is a blank line.

  Args:
    path: a vocab.txt, whose text is returned as it is where nothing is added,
      or a tokenizer.json.

  Raises:
    UserError: a tokenizer.json is damaged or its tokens are not WordPiece's.
  """
  if is_whole_vocabulary(path):
    return files.read_text(path)
  tokens, added = _list_tokens(path)
  by_number = {n: token for token, n in tokens.items() if token not in added}
  by_number.update({number: token for token, number in added.items()})
  size = max(by_number) + 1
  return "".join(f"{by_number.get(n, '')}\n" for n in range(size))


def is_whole_vocabulary(path):
  """Returns True for a vocab.txt to which the files beside it add nothing."""
  if path.endswith(".json"):
    return False
  tokens, added = _list_tokens(path)
  return all(tokens.get(token) == number for token, number in added.items())


def _list_tokens(path):
  """Returns {token: number} of a vocabulary, and of the tokens added to it.

  Raises:
    UserError: they are not there, or have numbers that cannot be.
  """
  folder = os.path.dirname(path)
  added = {
    token: declared.number
    for token, declared in list_added_tokens(folder).items()
    if declared.number is not None
  }
  if not path.endswith(".json"):
    tokens = tokenization.load_vocab(path)
    _check_numbers(added, len(tokens), f"the files beside {path}")
    return tokens, added
  try:
    values = _read_object(path)
    tokens = _list_wordpieces(values)
    own = {t["content"]: t["id"] for t in values.get("added_tokens") or ()}
    added = {**added, **own}
    _check_numbers({**tokens, **added}, len(tokens), path)
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise errors.UserError(
      f"{path} holds no vocabulary of BERT's: its model must be of the type"
      " WordPiece, with tokens and their numbers, from 0 on, under vocab"
      f" ({error})"
    ) from error
  return tokens, added


def _list_wordpieces(values):
  """Returns {token: number} of a tokenizer.json's model.

  Raises:
    AttributeError, KeyError, TypeError, ValueError: they are not there.
  """
  model = values["model"]
  if model.get("type", "WordPiece") != "WordPiece":
    raise ValueError(f"the type is {model['type']!r:.80}")
  tokens = model["vocab"]
  missing = [t for t in tokenization.REQUIRED_TOKENS if t not in tokens]
  if missing:
    raise ValueError(f"{', '.join(missing)} is missing")
  return tokens


def _check_numbers(tokens, size, where):
  """Raises a UserError where a number cannot be that of a token."""
  for token, number in tokens.items():
    # A repeated line of a vocab.txt leaves a gap; larger ones are a mistake.
    if not 0 <= number < 2 * size + 1000 or "\n" in token:
      raise errors.UserError(
        f"{where}: the number of the token {token!r:.80} is {number}, where"
        f" there are {size} tokens"
      )


# ---------------------------------------------------------------------------
# Of a tokenizer


def format_vocabulary(vocab):
  """Returns the text of a vocab.txt: each token on the line of its number.

  Their library takes spaces and byte-order marks for parts of a token, which
  ours does not: the lines have none.

  Args:
    vocab: {token: number}.
  """
  by_number = {number: token for token, number in vocab.items()}
  size = max(by_number) + 1
  return "".join(f"{by_number.get(number, '')}\n" for number in range(size))


def find_padding_token(vocab):
  """Returns the token to pad with, one that the vocabulary has.

  No attention goes to it, so that it may be any.
  """
  usual = _SPECIAL["pad_token"]
  return usual if usual in vocab else tokenization.UNKNOWN


def describe_tokenizer(tokenizer):
  """Returns the content of a tokenizer.json, a dictionary.

  Args:
    tokenizer: `tokenization.FullTokenizer`.
  """
  vocab, basic = tokenizer.vocab, tokenizer.basic_tokenizer
  first, last = "[CLS]", "[SEP]"
  pair = [(first, 0), ("A", 0), (last, 0), ("B", 1), (last, 1)]
  return {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [
      {"id": number, **token} for number, token in _list_declared(tokenizer)
    ],
    "normalizer": {
      "type": "BertNormalizer",
      "clean_text": True,
      "handle_chinese_chars": basic.tokenize_chinese_chars,
      "strip_accents": basic.strip_accents,
      "lowercase": basic.do_lower_case,
    },
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": {
      "type": "TemplateProcessing",
      "single": [_describe_part(*part) for part in pair[:3]],
      "pair": [_describe_part(*part) for part in pair],
      "special_tokens": {
        token: {"id": token, "ids": [vocab[token]], "tokens": [token]}
        for token in (first, last)
      },
    },
    "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
    "model": {
      "type": "WordPiece",
      "unk_token": tokenization.UNKNOWN,
      "continuing_subword_prefix": "##",
      "max_input_chars_per_word": (
        tokenizer.wordpiece_tokenizer.max_input_chars_per_word
      ),
      "vocab": {token: number for token, number in vocab.items() if token},
    },
  }


def describe_tokenizer_config(tokenizer, max_seq_length, truncation):
  """Returns the content of a tokenizer_config.json, a dictionary.

  Args:
    tokenizer: `tokenization.FullTokenizer`.
    max_seq_length: S, at which texts are cut.
    truncation: see `features.truncate`. Of "head_tail", which their library
      does not have, the head is kept.
  """
  basic = tokenizer.basic_tokenizer
  special = _find_special(tokenizer.vocab)
  return {
    "tokenizer_class": "BertTokenizer",
    "do_lower_case": basic.do_lower_case,
    "strip_accents": basic.strip_accents,
    "tokenize_chinese_chars": basic.tokenize_chinese_chars,
    "model_max_length": max_seq_length,
    "truncation_side": "left" if truncation == TAIL else "right",
    "added_tokens_decoder": {
      str(number): token for number, token in _list_declared(tokenizer)
    },
    # As in 2018, "[SEP]" in a text is text.
    _SPLIT_SPECIAL: not {t.content for t in tokenizer.whole_tokens}
    & set(special.values()),
    **special,
  }


def _describe_part(name, segment):
  """Returns a part of an input as their template has it."""
  kind = "Sequence" if len(name) == 1 else "SpecialToken"
  return {kind: {"id": name, "type_id": segment}}


def _find_special(vocab):
  """Returns {their name of a special token: a token of the vocabulary}."""
  return {
    key: token if token in vocab else find_padding_token(vocab)
    for key, token in _SPECIAL.items()
  }


def _list_declared(tokenizer):
  """Returns (number, description) of the special and the whole tokens."""
  special = set(_find_special(tokenizer.vocab).values())
  known = {token.content: token for token in tokenizer.whole_tokens}
  for content in special:
    known.setdefault(content, tokenization.WholeToken(content))
  declared = [
    (
      tokenizer.vocab[token.content],
      {
        "content": token.content,
        "lstrip": False,
        "rstrip": False,
        "normalized": token.normalized,
        "single_word": token.single_word,
        "special": token.content in special,
      },
    )
    for token in known.values()
  ]
  return sorted(declared, key=lambda pair: pair[0])
