"""Hugging Face's form of BERT: configurations, tokenizers, weights.

A file's header gives names and shapes before a weight is read:

  weights = open_weights("bert-base-uncased/model.safetensors")
  weights.shapes["bert/pooler/dense/kernel"]        # (768, 768)
  write_tensorflow_checkpoint(weights.sources, "converted.ckpt")
"""

import contextlib
import functools
import os
import tempfile
from typing import Callable, NamedTuple, Optional

import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import errors, files, pickles, progress, variables
import tokenization

# Names of the files in a model's folder.
CONFIG = "config.json"
SAFETENSORS = "model.safetensors"
# In the order in which they are looked for; an index lists several files.
WEIGHTS = (
  SAFETENSORS,
  f"{SAFETENSORS}.index.json",
  "pytorch_model.bin",
  "pytorch_model.bin.index.json",
)
TOKENIZER = "tokenizer.json"  # with the vocabulary
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS_MAP, ADDED_TOKENS = (
  "special_tokens_map.json",
  "added_tokens.json",
)


# ---------------------------------------------------------------------------
# Configurations


def is_configuration(config, kind=None):
  """Returns True where a configuration's values mean what theirs mean.

  Args:
    config: `modeling.BertConfig`.
    kind: `checkpoints.Checkpoint.kind` of the weights it belongs to, which
      decides; None where there are none.
  """
  if kind is None:
    return hasattr(config, "model_type")
  return kind == "huggingface"


def adapt_configuration(config):
  """Changes the values of one of their configurations to what we call them.

  Their "gelu" is the exact form; ours is the tanh approximation.

  Args:
    config: `modeling.BertConfig`.
  """
  if isinstance(config.hidden_act, str) and config.hidden_act.lower() == "gelu":
    config.hidden_act = "gelu_erf"


def list_labels(config, path):
  """Returns the names of a head's labels in the order of its rows, or None.

  Args:
    config: dictionary of one of their configurations.
    path: of its file, for the error.

  Raises:
    UserError: id2label, or label2id in its absence, is not of labels by number.
  """
  labels = config.get("id2label")
  try:
    if labels is None and config.get("label2id"):
      labels = {row: label for label, row in config["label2id"].items()}
    if not labels:
      return None
    labels = {int(row): str(label) for row, label in labels.items()}
    return [labels[row] for row in range(len(labels))]
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise errors.UserError(
      f"{path}: id2label must map the numbers from 0 on to the names of the"
      f' labels, such as {{"0": "no", "1": "yes"}}, but is {labels!r:.80}'
    ) from error


# ---------------------------------------------------------------------------
# Tokenizers


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


def list_added_tokens(folder):
  """Returns {token: `AddedToken`} that a folder's tokenizer files declare.

  {} where there is none of them, as in a released folder of 2018.

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
  found = {}

  def add(token, number=None, normalized=False):
    token = token if isinstance(token, dict) else {"content": str(token)}
    found[token["content"]] = AddedToken(
      None if number is None else int(number),
      bool(token.get("normalized", normalized)),
      bool(token.get("single_word", False)),
    )

  for key, default in _SPECIAL.items():
    add(special_map.get(key) or config.get(key) or default)
  for key in _MORE_SPECIAL:
    more = special_map.get(key) or config.get(key) or ()
    for token in more.values() if isinstance(more, dict) else more:
      add(token)
  for content, number in added.items():
    add(content, number, normalized=content not in found)
  for number, token in (config.get("added_tokens_decoder") or {}).items():
    add(token, number)
  for token in tokenizer.get("added_tokens") or ():
    add(token, token["id"])
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
# Weights in safetensors files, and in PyTorch's pickles

_FLOATS = ("F64", "F32", "F16", "BF16")


class Source(NamedTuple):
  """Where the weight of a variable is.

  Attributes:
    path: a safetensors file or a pickle, which may be remote.
    name: the tensor's name in it.
    is_transposed: True where its axes are in the opposite order.
    load: function from a local path of the file to the tensor's values.
    order: numbers of its rows in the order in which they are wanted; None where
      that is the order in the file.
  """

  path: str
  name: str
  is_transposed: bool
  load: Callable
  order: Optional[tuple] = None


class Weights(NamedTuple):
  """The tensors of a model, their values not read yet.

  Attributes:
    shapes: {name: shape}, under TensorFlow's name and in its order of axes;
      under its own name what is no variable of this model.
    sources: {name: `Source`} of the variables of this model.
  """

  shapes: dict
  sources: dict


def open_weights(path):
  """Returns the `Weights` of a model.

  Args:
    path: a safetensors file or a pickle, or the index of a model in several;
      may be remote.

  Raises:
    MissingFileError: the index lists a file that is not there.
    UserError: a file is damaged, weights are quantized, or the library
      safetensors is not installed.
  """
  shapes, sources = {}, {}
  for shard in _list_shards(path):
    for name, shape, dtype, load in _list_tensors(shard):
      variable = variables.find_variable_by_their_name(name)
      if variable is None:
        shapes[name] = shape
        continue
      if variable.name in sources:
        raise errors.UserError(
          variables.explain_two_of_one(
            path, variable, sources[variable.name].name, name
          )
        )
      if dtype not in (*_FLOATS, *pickles.FLOATS):
        allowed = ", ".join(_FLOATS)
        raise errors.UserError(
          f"{shard}: {name} is of the type {dtype}; weights must be one of"
          f" {allowed}: take the model as it was before quantization"
        )
      is_transposed = variable.is_transposed
      shapes[variable.name] = shape[::-1] if is_transposed else shape
      sources[variable.name] = Source(shard, name, is_transposed, load)
  return Weights(shapes, sources)


def _list_tensors(path):
  """Returns (name, shape, type, load) of each tensor; see `Source`."""
  if path.endswith(".safetensors"):
    return _read_header(path)
  with _local_copy(path) as local:
    tensors = pickles.list_tensors(local)
  return [
    (
      name,
      tensor.shape,
      tensor.dtype,
      functools.partial(pickles.read_tensor, tensor=tensor),
    )
    for name, tensor in tensors.items()
  ]


def write_tensorflow_checkpoint(sources, prefix):
  """Writes weights as float32 to a TensorFlow checkpoint.

  Memory holds the weights once; remote files are copied to this machine
  meanwhile.

  Args:
    sources: {name: `Source`}.
    prefix: of the checkpoint; its folder is made if need be.

  Raises:
    UserError: the values in a file are damaged.
  """
  tf.io.gfile.makedirs(os.path.dirname(prefix) or ".")
  # Read inside the graph: as constants the weights could not pass 2 GB, and
  # fed they would be held twice. A GPU would be claimed for nothing.
  on_cpu = tf.ConfigProto(device_count={"GPU": 0})
  with (
    contextlib.ExitStack() as copies,
    tf.Graph().as_default(),
    tf.Session(config=on_cpu) as session,
  ):
    local = {
      path: copies.enter_context(_local_copy(path))
      for path in {source.path for source in sources.values()}
    }
    mistakes = []
    counter = progress.Counter("converted", len(sources), unit="weight")
    readers = [
      functools.partial(
        _read_weight, source, local[source.path], mistakes, counter
      )
      for source in sources.values()
    ]
    tensors = [tf.numpy_function(read, [], tf.float32) for read in readers]
    save = tf.raw_ops.SaveV2(
      prefix=prefix,
      tensor_names=list(sources),
      shape_and_slices=[""] * len(tensors),
      tensors=tensors,
    )
    try:
      session.run(save)
    except tf.errors.OpError as error:
      # TensorFlow makes another error of one that a function raises.
      raise mistakes[0] if mistakes else error from None
    finally:
      progress.STATUS.clear()


def list_not_finite(sources):
  """Returns the names of the weights that hold NaN or infinity; reads them all.

  Args:
    sources: {name: `Source`}.
  """
  with contextlib.ExitStack() as copies:
    local = {
      path: copies.enter_context(_local_copy(path))
      for path in {source.path for source in sources.values()}
    }
    return [
      name
      for name, source in sources.items()
      if not np.isfinite(np.float32(source.load(local[source.path]))).all()
    ]


def _import_safetensors():
  try:
    import safetensors
  except ImportError as error:
    raise errors.UserError(
      "reading a .safetensors file needs the library safetensors: pip install"
      " safetensors"
    ) from error
  return safetensors


def _list_shards(path):
  """Returns the safetensors files: the path itself, or those it lists."""
  if not path.endswith(".json"):
    return [path]
  try:
    listed = sorted(set(files.read_json(path)["weight_map"].values()))
    shards = [os.path.join(os.path.dirname(path), name) for name in listed]
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise errors.UserError(
      f"{path} is not the index of a model in several files: its"
      " JSON must map names to files under weight_map"
    ) from error
  for shard in shards:
    if not tf.io.gfile.exists(shard):
      raise errors.MissingFileError(
        f"half a checkpoint: {path} lists {shard}, which is not there"
      )
  return shards


@contextlib.contextmanager
def _local_copy(path, *, header_only=False):
  """Yields a path that the library can open, of a copy where need be.

  Args:
    path: a safetensors file.
    header_only: the copy needs no weights, only the length that they give it.
  """
  if not files.is_remote(path):
    yield path
    return
  with tempfile.TemporaryDirectory() as folder:
    copy = os.path.join(folder, os.path.basename(path))
    if header_only:
      _copy_header(path, copy)
    else:
      tf.io.gfile.copy(path, copy)
    yield copy


def _copy_header(path, copy):
  """Copies the header of a remote file; a hole takes the place of the rest."""
  length = tf.io.gfile.stat(path).length
  with tf.io.gfile.GFile(path, "rb") as reader, open(copy, "wb") as writer:
    start = reader.read(8)  # the length of the header
    writer.write(start)
    wanted = int.from_bytes(start, "little")
    writer.write(reader.read(min(wanted, length - len(start))))
    writer.truncate(length)


def _read_header(path):
  """Returns (name, shape, type, load) of each tensor of a safetensors file."""
  library = _import_safetensors()
  try:
    with (
      _local_copy(path, header_only=True) as local,
      library.safe_open(local, framework="np") as tensors,
    ):
      names = tensors.keys()
      slices = [(name, tensors.get_slice(name)) for name in names]
      return [
        (
          name,
          tuple(part.get_shape()),
          part.get_dtype(),
          functools.partial(_load_tensor, name=name),
        )
        for name, part in slices
      ]
  except library.SafetensorError as error:
    raise errors.UserError(
      f"{path} is damaged, cut off or no safetensors file; copy or download it"
      f" again ({error})"
    ) from error
  except OSError as error:  # of the library, which does not name the file
    raise errors.UserError(f"{path} cannot be read: {error}") from error


def _load_tensor(path, name):
  """Returns the values of a tensor in a safetensors file."""
  with _import_safetensors().safe_open(path, framework="np") as tensors:
    return tensors.get_tensor(name)


def _read_weight(source, path, mistakes, counter):
  """Returns <float32>[...], one tensor, its axes in TensorFlow's order.

  Args:
    source: `Source`.
    path: of its file on this machine.
    mistakes: list to which a UserError is added before it is raised.
    counter: `progress.Counter`.
  """
  try:
    weight = source.load(path)
    counter.add(1)
  except errors.UserError as error:
    mistakes.append(error)
    raise
  weight = weight.T if source.is_transposed else weight
  if source.order is not None:
    weight = weight[list(source.order)]
  return np.ascontiguousarray(weight, np.float32)
