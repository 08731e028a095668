"""Preparation: from flags to a run that can only fail for want of resources.

All that a user can have got wrong is found here, before anything is computed
and, as far as that goes, before anything is written: `prepare` looks at flags,
task, model, output_dir, weights and every row of the data, in this order, and
raises a ValueError, FileNotFoundError or the like that says what to do.

Every function takes `options`, an object with a value for each flag.
"""

import os
from typing import NamedTuple, Optional

from absl import logging
import tensorflow.compat.v1 as tf

from bert_classifier import (
  checkpoints,
  devices,
  files,
  hugging_face,
  output_dir,
)
from bert_classifier.features import FeatureCache
from bert_classifier.tasks import PROCESSORS, DataProcessor, XnliProcessor
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


class Schedule(NamedTuple):
  """How long training takes, and in what order.

  Attributes:
    rows: rows an epoch.
    steps: steps in all.
    warmup_steps: steps of warmup.
    buffer_rows: rows among which the next one is drawn.
  """

  rows: int
  steps: int
  warmup_steps: int
  buffer_rows: int


NO_STEPS = Schedule(rows=0, steps=0, warmup_steps=0, buffer_rows=0)


class Run(NamedTuple):
  """All that a run needs, checked and ready.

  Attributes:
    options: an object with a value for each flag.
    processor: `tasks.DataProcessor`.
    model: `Model`.
    found: `output_dir.OutputDir`, as it was before, or will be once it has been
      overwritten.
    settings: see `prepare_settings`.
    coverage: see `prepare_weights`.
    schedule: `Schedule`, or None where nothing is trained.
    features: dictionary from split to `features.Features`.
    eval_rows, predict_rows: see `rows_at_a_time`.
    cluster: a TPUClusterResolver, or None.
  """

  options: object
  processor: DataProcessor
  model: Model
  found: output_dir.OutputDir
  settings: dict
  coverage: Optional[checkpoints.Coverage]
  schedule: Optional[Schedule]
  features: dict
  eval_rows: int
  predict_rows: int
  cluster: Optional[object]

  @property
  def first_step(self):
    """The step that training goes on from."""
    return self.found.step

  @property
  def is_finished(self):
    """Whether output_dir has all the steps that are asked for."""
    if not self.found.checkpoint:
      return False
    return self.first_step >= self.schedule.steps


def prepare(options):
  """The `Run` that the flags ask for.

  Raises:
    ValueError, FileNotFoundError, ...: all that a user can have got wrong.
  """
  check_flags(options)
  cluster = prepare_tpu(options) if options.use_tpu else None
  processor = prepare_task(options)
  model = prepare_model(options, processor)
  found = output_dir.inspect(options.output_dir)
  cache = prepare_cache(options, processor, model)
  settings = prepare_settings(options, processor, model, cache)
  if options.overwrite_output_dir:
    check_overwriting(options, model, found)
    found = found._replace(checkpoint=None, step=0, settings={})
  else:
    output_dir.check_state_file(found)
    if not options.resume:
      output_dir.check_settings(found, settings)
  coverage = prepare_weights(options, model, found)
  splits = wanted(options, processor)
  # Looks at every row of every file before anything is written.
  counts = {split: cache.count(split) for split in splits}
  schedule = None
  if options.do_train:
    schedule = prepare_schedule(options, counts["train"], found)
    settings["order"] = {"buffer_rows": schedule.buffer_rows}
  tf.io.gfile.makedirs(options.output_dir)
  features = {split: cache.features(split) for split in splits}
  return Run(
    options=options,
    processor=processor,
    model=model,
    found=found,
    settings=settings,
    coverage=coverage,
    schedule=schedule,
    features=features,
    eval_rows=rows_at_a_time(options, "eval_batch_size", features, "dev"),
    predict_rows=rows_at_a_time(
      options, "predict_batch_size", features, "test"
    ),
    cluster=cluster,
  )


def check_flags(options):
  """Holds the flags against their ranges and each other.

  Raises:
    ValueError: says flag, value and what is allowed.
  """
  if not (options.do_train or options.do_eval or options.do_predict):
    raise ValueError(
      "there is nothing to do: give at least one of --do_train, --do_eval,"
      " --do_predict"
    )
  needed = {
    "task_name": f"one of {', '.join(PROCESSORS)}",
    "data_dir": "the folder of the task's files",
    "output_dir": "the folder for checkpoints, results and predictions",
  }
  for name, meaning in needed.items():
    if not getattr(options, name):
      raise ValueError(f"--{name} is needed: {meaning}")
  for name, least in _LEAST.items():
    value = getattr(options, name)
    if value is not None and not value >= least:
      raise ValueError(f"--{name} is {value}, but must be at least {least}")
  if options.seed > _MAX_SEED:
    raise ValueError(
      f"--seed is {options.seed}, but must be at most {_MAX_SEED}"
    )
  for name in ("learning_rate", "num_train_epochs"):
    if not 0 < getattr(options, name) < float("inf"):
      raise ValueError(
        f"--{name} is {getattr(options, name)}, but must be a finite number"
        " over 0"
      )
  if not 0 <= options.warmup_proportion <= 1:
    raise ValueError(
      f"--warmup_proportion is {options.warmup_proportion}, but must be from 0"
      " to 1"
    )
  if options.overwrite_output_dir and (options.resume or not options.do_train):
    raise ValueError(
      "--overwrite_output_dir trains from the start: it needs --do_train and"
      " goes against --resume"
    )


_LEAST = {
  "train_batch_size": 1,
  "eval_batch_size": 1,
  "predict_batch_size": 1,
  "max_seq_length": 3,
  "save_checkpoints_steps": 1,
  "keep_checkpoint_max": 0,
  "log_steps": 1,
  "num_threads": 0,
  "seed": 0,
  "shuffle_buffer_size": 1,
  "iterations_per_loop": 1,
  "num_tpu_cores": 1,
}
_MAX_SEED = 2**31 - 1


def prepare_task(options):
  """The processor that the flags name.

  Raises:
    ValueError: there is no such task, its labels are not texts, or the length
      is too short for its texts.
  """
  processors = {name.lower(): PROCESSORS[name] for name in PROCESSORS}
  name = options.task_name.lower()
  if name not in processors:
    raise ValueError(
      f"--task_name={options.task_name} is not one of {', '.join(processors)}"
    )
  processor = processors[name]()
  if isinstance(processor, XnliProcessor):
    processor.language = options.xnli_language
  check_labels(processor)
  if processor.has_pairs() and options.max_seq_length < 5:
    raise ValueError(
      f"--max_seq_length={options.max_seq_length} leaves no room for the pairs"
      f" of texts of {name}: it must be at least 5"
    )
  return processor


def check_labels(processor):
  """Makes sure that a task's labels are what its files can hold.

  Raises:
    ValueError: they are no texts, one of them twice, or fewer than two.
  """
  labels = processor.get_labels()
  told = getattr(processor, "labels", ())
  if (
    isinstance(told, str)
    or not all(isinstance(label, str) for label in labels)
    or len(labels) < 2
    or len(set(labels)) < len(labels)
  ):
    raise ValueError(
      f"the labels of {type(processor).__name__} are {told or labels!r}, but"
      ' must be two or more different strings, such as ("0", "1")'
    )


def prepare_model(options, processor):
  """Reads configuration, vocabulary and the list of weights; compares sizes.

  Raises:
    FileNotFoundError, ValueError: a file is missing or broken, or two of them
      do not belong together.
  """
  weights = None
  if options.init_checkpoint:
    weights = checkpoints.open_checkpoint(options.init_checkpoint)
  config_file = _find(
    options,
    "bert_config_file",
    weights and weights.config_file,
    output_dir.CONFIG,
  )
  vocab_file = _find(
    options, "vocab_file", weights and weights.vocab_file, output_dir.VOCABULARY
  )
  config = modeling.BertConfig.from_json_file(config_file)
  if hugging_face.is_configuration(config, weights and weights.kind):
    hugging_face.adapt_configuration(config)
  tokenizer = tokenization.FullTokenizer(vocab_file, options.do_lower_case)
  tokenization.validate_case_matches_vocab(
    options.do_lower_case, tokenizer.vocab
  )
  if weights:
    tokenization.validate_case_matches_checkpoint(
      options.do_lower_case, weights.path
    )
  check_sizes(options, config, config_file, tokenizer, vocab_file, processor)
  num_labels = len(processor.get_labels())
  variables = checkpoints.compute_shapes(config, num_labels)
  digest = files.hash_file(vocab_file)
  return Model(config, vocab_file, digest, tokenizer, weights, variables)


def _find(options, flag, beside, kept):
  """The file that a flag names, or lies beside init_checkpoint, or was kept."""
  kept = os.path.join(options.output_dir, kept)
  path = getattr(options, flag) or beside
  if path or tf.io.gfile.exists(kept):
    return path or kept
  weights = options.init_checkpoint
  raise ValueError(
    f"--{flag} is needed: "
    + (
      f"there is none beside {weights}"
      if weights
      else "there is no --init_checkpoint to take it from"
    )
  )


def check_sizes(options, config, config_file, tokenizer, vocab_file, processor):
  """Compares vocabulary, configuration, length and task.

  Raises:
    ValueError: an id, a position or a segment would have no embedding.
  """
  size = max(tokenizer.vocab.values()) + 1
  if size > config.vocab_size:
    raise ValueError(
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
    raise ValueError(
      f"--max_seq_length={options.max_seq_length} is more than the"
      f" max_position_embeddings {config.max_position_embeddings} of"
      f" {config_file}"
    )
  if config.type_vocab_size < 2 and processor.has_pairs():
    raise ValueError(
      f"{config_file} has a type_vocab_size of {config.type_vocab_size}, but"
      " pairs of texts need 2"
    )
  try:
    config.check_heads()
  except ValueError as error:
    raise ValueError(f"{config_file}: {error}") from error


def prepare_settings(options, processor, model, cache):
  """The settings that decide what is trained, by phase."""
  settings = {
    "model": {
      "task_name": options.task_name.lower(),
      "language": processor.language,
      "labels": list(processor.get_labels()),
      "max_seq_length": options.max_seq_length,
      "do_lower_case": options.do_lower_case,
      "vocabulary (SHA-256)": model.vocab_digest,
      **model.config.architecture(),
    }
  }
  if options.do_train:
    weights = model.weights and files.resolve_path(model.weights.path)
    settings["training"] = {
      "init_checkpoint": weights,
      "training data (SHA-256)": cache.source_digest("train"),
      **{name: getattr(options, name) for name in _TRAINING_SETTINGS},
    }
  return settings


_TRAINING_SETTINGS = (
  "train_batch_size",
  "learning_rate",
  "num_train_epochs",
  "warmup_proportion",
  "seed",
  "shuffle_buffer_size",
)


def prepare_weights(options, model, found):
  """Makes sure that there are weights for what is asked for.

  Args:
    model: `Model`.
    found: `output_dir.OutputDir`.

  Returns:
    `checkpoints.Coverage` of init_checkpoint, or None where it is not used.

  Raises:
    ValueError: weights do not fit the model, or results would be those of
      random ones.
  """
  if found.checkpoint:
    trained = checkpoints.open_checkpoint(found.checkpoint)
    trained.compare_with(model.variables).accept(trained_needed=True)
    if not found.step and not options.do_train:
      raise ValueError(
        f"{trained.path} is of step 0: training began there, but was stopped"
        " before it saved anything. Give the training command again, which goes"
        " on from there, or another --output_dir"
      )
    logging.info("weights: %s, step %d", trained.path, found.step)
    return None
  if model.weights is None:
    if not options.do_train:
      raise ValueError(
        f"there are no trained weights: {options.output_dir} holds no"
        " checkpoint and --init_checkpoint is not given. Train first, or"
        " give --init_checkpoint"
      )
    logging.warning("training from random weights: no --init_checkpoint")
    return None
  return model.weights.compare_with(model.variables).accept(
    allow_partial_init=options.allow_partial_init,
    reinit_head=options.reinit_head,
    trained_needed=not options.do_train,
  )


def check_overwriting(options, model, found):
  """Makes sure that only what this program wrote, and may go, is removed.

  Raises:
    ValueError: the files are another program's, or init_checkpoint is one.
  """
  own = output_dir.list_own_files(options.output_dir)
  if own and not found.settings:
    raise ValueError(
      f"--overwrite_output_dir removes what this program wrote, but"
      f" {options.output_dir} has no {output_dir.MANIFEST}, so {own[0]} and"
      " others are not known to be that: give another --output_dir, or remove"
      " them"
    )
  weights = model.weights and files.resolve_path(f"{model.weights.path}.index")
  if weights in map(files.resolve_path, own):
    raise ValueError(
      f"--overwrite_output_dir would remove --init_checkpoint="
      f"{options.init_checkpoint}, which a run wrote into {options.output_dir}:"
      " give another --output_dir"
    )


def prepare_cache(options, processor, model):
  """The cache of features, in the first folder that can be written."""
  folder = options.cache_dir
  if not folder:
    usable = not options.use_tpu and files.is_writable(options.data_dir)
    folder = options.data_dir if usable else options.output_dir
  return FeatureCache(
    processor,
    options.task_name.lower(),
    data_dir=options.data_dir,
    cache_dir=folder,
    max_seq_length=options.max_seq_length,
    tokenizer_inputs={
      "vocabulary": model.vocab_digest,
      "do_lower_case": options.do_lower_case,
    },
    tokenizer=model.tokenizer,
    num_processes=min(_MOST_PROCESSES, devices.threads(options.num_threads)),
  )


_MOST_PROCESSES = 4  # what more would gain was not measured


def prepare_schedule(options, rows, found):
  """The steps that so many training rows make, and the room to shuffle them.

  A run that is taken up shuffles in the room that it began with: the order of
  the rows depends on it.

  Raises:
    ValueError: there are too few rows for a single step.
  """
  steps = int(rows / options.train_batch_size * options.num_train_epochs)
  if not steps:
    raise ValueError(
      f"{rows} training rows in batches of --train_batch_size="
      f"{options.train_batch_size} over --num_train_epochs="
      f"{options.num_train_epochs} make no step: a smaller batch or more"
      " epochs are needed"
    )
  buffer_rows = options.shuffle_buffer_size
  if not buffer_rows and found.checkpoint:
    buffer_rows = found.settings.get("order", {}).get("buffer_rows")
  return Schedule(
    rows,
    steps,
    int(steps * options.warmup_proportion),
    buffer_rows or shuffle_buffer_size(rows, options.max_seq_length),
  )


def shuffle_buffer_size(rows, max_seq_length):
  """Rows to shuffle among: all, or what a quarter of the free memory holds."""
  free = devices.free_memory()
  row_bytes = _BYTES_A_POSITION * max_seq_length + _BYTES_A_ROW
  if free is None or rows * row_bytes <= free / 4:
    return rows
  buffer_rows = max(1, int(free / 4 / row_bytes))
  logging.warning(
    "shuffling among %d of %d rows, which a quarter of the free memory holds;"
    " set --shuffle_buffer_size for another number",
    buffer_rows,
    rows,
  )
  return buffer_rows


# Of a serialized row: three features of up to three bytes each; names, a
# tensor and its slot in the buffer.
_BYTES_A_POSITION, _BYTES_A_ROW = 5, 400


def rows_at_a_time(options, flag, features, kind):
  """Rows that one step of evaluation or prediction computes.

  As many as the flag says where it is given, and on a TPU. Elsewhere the
  default of 2018 decides what `loss` is, and not how many are computed: a
  multiple of it, for few tokens at a time leave the processor waiting, and more
  than its cache holds make it wait as well.

  Args:
    flag: "eval_batch_size" or "predict_batch_size".
    features: dictionary from split to `features.Features`.
    kind: what the names of the splits begin with, "dev" or "test".
  """
  rows = getattr(options, flag)
  sets = [split for name, split in features.items() if name.startswith(kind)]
  if flag in options.given or options.use_tpu or not sets:
    return rows
  tokens = options.max_seq_length
  if options.skip_padding:
    tokens = sum(s.tokens for s in sets) / sum(s.records for s in sets)
  while rows < _MOST_ROWS and 2 * rows * tokens <= _MOST_TOKENS:
    rows *= 2
  return rows


# Of the 6-layer model on two cores: against 32 rows at a time one of CoLA (11
# tokens) takes 1.11 of the time in batches of 16 and 0.91 in those of 64 and of
# 128, one of MNLI (40) 1.08, 1.14, 1.11, one of MRPC (54) 1.05, 1.21, 1.08.
_MOST_ROWS, _MOST_TOKENS = 64, 2048


def prepare_tpu(options):
  """Finds the TPU, after a look at its batches and the paths it would read."""
  for name in ("train_batch_size", "eval_batch_size", "predict_batch_size"):
    if getattr(options, name) % options.num_tpu_cores:
      raise ValueError(
        f"--{name} is {getattr(options, name)}, but must be a multiple of"
        f" --num_tpu_cores={options.num_tpu_cores}: every core takes as many"
        " rows"
      )
  tpu_name = options.tpu_name or options.master
  paths = ("output_dir", "cache_dir", "init_checkpoint")
  devices.refuse_local_paths(
    tpu_name, {name: getattr(options, name) for name in paths}
  )
  return devices.tpu_cluster(tpu_name, options.tpu_zone, options.gcp_project)


def wanted(options, processor):
  """The splits that the flags ask for, second evaluation sets where there."""
  splits = [
    split
    for asked, split in (
      (options.do_train, "train"),
      (options.do_eval, "dev"),
      (options.do_predict, "test"),
    )
    if asked
  ]
  second = [f"{split}_mismatched" for split in splits]
  return splits + [
    split for split in second if processor.has_split(options.data_dir, split)
  ]
