"""Every flag, once: name, type, default, help, range and group.

A group of flags is a frozen dataclass, here or in `data_options`,
`run_options`, `choice_options`, `several_options`, `step_options` or
`device_options`; a flag is a field of it. From them come the absl flags,
--help, docs/flags.md and the settings of the run manifest. `read` is the only
place that reads absl's FLAGS; it gives the groups, of which every function
takes those that it needs.

  python -m bert_classifier.options > docs/flags.md
"""

import dataclasses
import difflib
import os
import re
import sys
from typing import NamedTuple, Optional

from absl import flags

from bert_classifier import flagfiles, process
from bert_classifier.choice_options import (
  HEAD,
  HEAD_TAIL,
  MAX_LOGITS,
  MEAN_LOGITS,
  TAIL,
  ChoiceOptions,
)
from bert_classifier.data_options import DataOptions
from bert_classifier.device_options import OF_ONE_MACHINE, DeviceOptions
from bert_classifier.errors import UserError
from bert_classifier.flag_fields import (
  TYPES_IN_WORDS,
  Choice,
  Range,
  describe_flags,
  describe_in_markdown,
  flag,
  kind_of,
)
from bert_classifier.run_options import RunOptions
from bert_classifier.several_options import SeveralOptions
from bert_classifier.step_options import StepOptions

FLAGS = flags.FLAGS
MEAN, POOLED = "mean", "pooled"
# Flags that decide what is read of a text that is too long.
CUTTING = "max_seq_length", "truncation", "stride", "window_pooling"


@dataclasses.dataclass(frozen=True)
class ModelOptions:
  """The model"""

  init_checkpoint: Optional[str] = flag(
    None,
    "Weights to begin with: a TensorFlow checkpoint (prefix, folder or any of"
    " its files), a Hugging Face BERT folder, a model.safetensors or a"
    " pytorch_model.bin.",
    is_path=True,
  )
  bert_config_file: Optional[str] = flag(
    None,
    "JSON file with the sizes of the model. Default: the one beside"
    " init_checkpoint.",
    is_path=True,
  )
  vocab_file: Optional[str] = flag(
    None,
    "WordPiece vocabulary, one token a line, or a tokenizer.json. Default: the"
    " one beside init_checkpoint.",
    is_path=True,
  )
  do_lower_case: bool = flag(
    True,
    "Lower-case the texts and drop accents: true for uncased models. Where it"
    " is not given, what the files beside the weights say holds.",
    setting="model",
  )
  max_seq_length: int = flag(
    128,
    "Positions of an example: longer texts are cut, shorter ones padded. Pairs"
    " of texts need 5.",
    Range(3),
    setting="model",
  )
  truncation: str = flag(
    HEAD,
    "Which tokens of a text that is too long stay: the first, the last, or the"
    " first quarter and the rest from its end (Sun et al. 2019,"
    " https://arxiv.org/abs/1905.05583). A trained folder remembers it.",
    Choice((HEAD, TAIL, HEAD_TAIL)),
    setting="model",
  )
  stride: int = flag(
    0,
    "Cut a text that is too long into windows of max_seq_length positions, each"
    " beginning this many tokens after the one before, and predict from all of"
    " them (Pappagari et al. 2019, https://arxiv.org/abs/1910.10781); 0 cuts"
    " off what is too long. A trained folder remembers it.",
    Range(0),
    setting="model",
  )
  window_pooling: str = flag(
    MEAN_LOGITS,
    "What the logits of a text are of those of its windows: for each label the"
    " mean, or the greatest (Sun et al. 2019,"
    " https://arxiv.org/abs/1905.05583). A trained folder remembers it.",
    Choice((MEAN_LOGITS, MAX_LOGITS)),
    setting="model",
  )
  allow_partial_init: bool = flag(
    False,
    "Let encoder variables that init_checkpoint lacks start from random"
    " values.",
  )
  reinit_head: bool = flag(
    False,
    "Start the classifier's head from random values, whatever head"
    " init_checkpoint has.",
  )

  def cutting(self):
    """Returns {name: value} of the flags that decide what is read of a text."""
    return {name: getattr(self, name) for name in CUTTING}

  @property
  def unit(self):
    """Returns what a record of features is of: an example, or its window."""
    return "window" if self.stride else "example"


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
  """Training"""

  train_batch_size: int = flag(
    32, "Examples a training step.", Range(1), setting="training"
  )
  learning_rate: float = flag(
    5e-5,
    "Peak learning rate of AdamW.",
    Range(0, is_open=True),
    setting="training",
  )
  num_train_epochs: float = flag(
    3.0,
    "Passes over the training set; may be a fraction.",
    Range(0, is_open=True),
    setting="training",
  )
  warmup_proportion: float = flag(
    0.1,
    "Share of the steps in which the rate climbs to its peak.",
    Range(0, 1),
    setting="training",
  )
  head_dropout: float = flag(
    0.1,
    "Dropout before the classifier's head. That of the layers is the"
    " configuration's: hidden_dropout_prob, attention_probs_dropout_prob.",
    Range(0, 1, has_high=False),
    setting="training",
  )
  seed: int = flag(
    42,
    "Decides the order of the examples, dropout and new weights. Runs of one"
    " seed agree to the bit with --num_threads=1.",
    Range(0, 2**31 - 1),
    setting="training",
  )
  shuffle_buffer_size: Optional[int] = flag(
    None,
    "Examples among which the next one is drawn, and that are held in memory."
    " Default: the whole training set, none of it in memory.",
    Range(1),
    setting="training",
  )
  save_checkpoints_steps: int = flag(
    1000, "Steps between two checkpoints.", Range(1)
  )
  keep_checkpoint_max: int = flag(
    1, "Newest checkpoints to keep; 0 keeps all.", Range(0)
  )
  log_steps: int = flag(100, "Steps between two lines of progress.", Range(1))
  eval_every_steps: Optional[int] = flag(
    None,
    "Save a checkpoint and evaluate the dev set every so many steps, and keep"
    " the weights of the best evaluation in output_dir/best"
    " (docs/choosing.md). Needs do_eval.",
    Range(1),
  )
  early_stopping_patience: Optional[int] = flag(
    None,
    "End training after so many evaluations of eval_every_steps in a row of"
    " which none was better than the best before (Prechelt 1998,"
    " https://doi.org/10.1007/3-540-49430-8_3).",
    Range(1),
  )


@dataclasses.dataclass(frozen=True)
class InferenceOptions:
  """Evaluation and prediction"""

  eval_batch_size: int = flag(
    8,
    "Examples a batch of evaluation; decides what `loss` is the mean of. Where"
    " it is not given, more are computed at a time, and `loss` is the same.",
    Range(1),
  )
  eval_report: bool = flag(
    True,
    "Write a report after an evaluation: eval_report.html, .txt and .json, and"
    " eval_errors.tsv, the mistakes.",
  )
  predict_batch_size: int = flag(
    8,
    "Examples a batch of prediction. Where it is not given, more are computed"
    " at a time.",
    Range(1),
  )
  calibrate: bool = flag(
    False,
    "Fit to the dev set a temperature for the probabilities, and keep it with"
    " the model (Guo et al. 2017, https://arxiv.org/abs/1706.04599).",
  )
  glue_submission: bool = flag(
    False,
    "Write the predictions of a task of GLUE in its own form, too: CoLA.tsv,"
    " MNLI-m.tsv ... in output_dir.",
  )
  metrics: Optional[str] = flag(
    None,
    "Metrics beside those of the task, separated by commas (docs/output.md).",
  )
  embed_pooling: str = flag(
    MEAN,
    "Vector of a text with --do_embed: the mean of the last layer over its"
    " tokens, or the pooled output, which a head reads.",
    Choice((MEAN, POOLED)),
  )
  embed_normalize: bool = flag(
    False, "Give these vectors the Euclidean length 1."
  )
  threshold: float = flag(
    0.5,
    "Probability from which on one of several labels holds (--multi_label). A"
    " trained folder remembers it.",
    Range(0, 1),
    recorded_as=("prediction", "threshold"),
  )

  def list_metrics(self):
    """Returns the names in `metrics`."""
    names = (self.metrics or "").split(",")
    return tuple(name.strip() for name in names if name.strip())


class Options(NamedTuple):
  """All flags, by group, and the names of those that were given."""

  data: DataOptions
  model: ModelOptions
  run: RunOptions
  training: TrainingOptions
  choice: ChoiceOptions
  several: SeveralOptions
  inference: InferenceOptions
  step: StepOptions
  device: DeviceOptions
  given: frozenset

  def settings(self, phase):
    """Returns {name: value} of the flags that decide a phase's results."""
    return {
      field.name: getattr(group, field.name)
      for group in self[: len(GROUPS)]
      for field in dataclasses.fields(group)
      if field.metadata["setting"] == phase
    }

  def fill_in(self, recorded, phases):
    """Returns the options, those not given as a trained folder has them.

    What is filled in counts as given. What the folder does not say, or says in
    another type, keeps its default.

    Args:
      recorded: dictionary by phase, as the run manifest has it.
      phases: those of it to take values from.

    Returns:
      `Options`, and {name: value} of what is not the default now.
    """
    values, found = self.given_values(), {}
    for field in all_flags():
      phase, name = recorded_place(field)
      value = recorded.get(phase, {}).get(name) if phase in phases else None
      kind = kind_of(field)
      if field.name in values or type(value) is not kind:
        continue
      values[field.name] = value
      if value != field.default:
        found[field.name] = value
    return make_options(**values), found

  def shared_values(self):
    """Returns {name: value} of the flags that machines need alike.

    All but paths and those of a single machine.
    """
    return {
      field.name: getattr(group, field.name)
      for group in self[: len(GROUPS)]
      for field in dataclasses.fields(group)
      if not field.metadata["is_path"] and field.name not in OF_ONE_MACHINE
    }

  def given_values(self):
    """Returns {name: value} of the flags that were given."""
    return {
      name: getattr(group, name)
      for group in self[: len(GROUPS)]
      for name in self.given.intersection(vars(group))
    }


GROUPS = (
  DataOptions,
  ModelOptions,
  RunOptions,
  TrainingOptions,
  ChoiceOptions,
  SeveralOptions,
  InferenceOptions,
  StepOptions,
  DeviceOptions,
)


def all_flags():
  """Returns the fields of all groups."""
  return [field for group in GROUPS for field in dataclasses.fields(group)]


def recorded_place(field):
  """Returns the phase and the name under which the manifest has a flag."""
  place = field.metadata["recorded_as"]
  return place or (field.metadata["setting"], field.name)


def make_options(**values):
  """Returns the `Options` of some flags; the others have their defaults.

  Args:
    values: values by the flags' names; all of them count as given.

  Raises:
    UserError: values out of their ranges; names flag, value and range of each.
    TypeError: there is no flag of that name.
  """
  unknown = values.keys() - {field.name for field in all_flags()}
  if unknown:
    raise TypeError(f"there is no flag {', '.join(sorted(unknown))}")
  mistakes = []
  for field in all_flags():
    value, metadata = values.get(field.name), field.metadata
    if value is None:
      continue
    if metadata["allowed"] is not None and value not in metadata["allowed"]:
      mistakes.append(
        f"--{field.name} is {value or repr(value)}, but must be"
        f" {metadata['allowed']}"
      )
    if metadata["is_path"]:
      values[field.name] = os.path.expanduser(value)
  if mistakes:
    raise UserError("; ".join(mistakes))
  groups = [
    group(
      **{
        field.name: values[field.name]
        for field in dataclasses.fields(group)
        if field.name in values
      }
    )
    for group in GROUPS
  ]
  return Options(*groups, given=frozenset(values))


# ---------------------------------------------------------------------------
# The command line

_DEFINE = {
  str: flags.DEFINE_string,
  int: flags.DEFINE_integer,
  float: flags.DEFINE_float,
  bool: flags.DEFINE_bool,
}


def _define_flags():
  for field in all_flags():
    _DEFINE[kind_of(field)](field.name, field.default, field.metadata["help"])


_define_flags()


def read():
  """Returns the `Options` of the command line.

  Raises:
    UserError: as `make_options`, or there was no command line.
  """
  if not FLAGS.is_parsed():
    raise UserError(
      "no flags were read: call FLAGS(['run_classifier', '--flag=value', ...])"
      " before main"
    )
  names = (field.name for field in all_flags())
  given = {
    name: FLAGS[name].value
    for name in names
    if not FLAGS[name].using_default_value
  }
  return make_options(**given)


def is_verbosity_set():
  """Returns whether a program or its command line sets absl's --verbosity."""
  return not FLAGS["verbosity"].using_default_value


def is_verbosity_asked_for():
  """Returns whether the command line has absl's --verbosity."""
  return bool(FLAGS["verbosity"].present)


_HELP = {"--help", "-help", "-h", "--helpshort", "--helpfull"}


def parse_flags(argv, manual=""):
  """Reads the command line; a mistake ends the program with a sentence.

  Args:
    argv: the words of the command, the program's first.
    manual: what --help prints before the flags.

  Returns:
    The words that belong to no flag.
  """
  if _HELP & set(argv):
    process.print_to_the_end(manual + describe_flags(GROUPS))
    sys.exit(0)
  try:
    words = FLAGS(flagfiles.expand(flagfiles.leave_out_kernel(argv)))
    refuse_stray_words(words)
    read()
    return words
  except flags.UnrecognizedFlagError as error:
    message = _explain_unknown(error.flagname)
  except UserError as error:
    message = str(error)
  except flags.Error as error:
    message = _explain_value(str(error))
  end = "" if message.endswith("?") else "."
  sys.stderr.write(
    process.format_line(f"{message}{end} --help lists all flags") + "\n"
  )
  sys.exit(1)


def _explain_unknown(name):
  """Returns that there is no flag of a name, and those that may be meant."""
  names = [field.name for field in all_flags()] + ["flagfile", "help"]
  longer = [other for other in names if name and other.startswith(name)]
  nearest = longer or difflib.get_close_matches(name, names, n=1)
  meant = f"; did you mean --{', --'.join(nearest)}?" if nearest else ""
  return f"there is no flag --{name}{meant}"


def _explain_value(message):
  """Returns absl's sentence about a value, in words of the flag's type."""
  found = re.match(r"(?s)flag --(\w+)=(.*?): ", message)
  kinds = {field.name: kind_of(field) for field in all_flags()}
  if not found or kinds.get(found[1]) not in TYPES_IN_WORDS:
    return message
  return f"--{found[1]}={found[2]}: must be {TYPES_IN_WORDS[kinds[found[1]]]}"


def refuse_stray_words(argv):
  """Raises a UserError that names the first word that belongs to no flag."""
  if len(argv) > 1:
    raise UserError(
      f"{argv[1]!r} belongs to no flag: values are given as --flag=value,"
      " switches as --flag, --noflag or --flag=false"
    )


if __name__ == "__main__":
  print(describe_in_markdown(GROUPS))
