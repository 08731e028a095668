"""Every flag, once: name, type, default, help, range and group.

A group of flags is a frozen dataclass, a flag one of its fields. From them come
the absl flags, --help, docs/flags.md and the settings of the run manifest.
`read` is the only place that reads absl's FLAGS; it gives the groups, of which
every function takes those that it needs.

  python -m bert_classifier.options > docs/flags.md
"""

import dataclasses
import difflib
import math
import os
import re
import sys
import textwrap
from typing import NamedTuple, Optional

from absl import flags

from bert_classifier import flagfiles, process
from bert_classifier.errors import UserError

FLAGS = flags.FLAGS


class Range(NamedTuple):
  """The numbers from `low` to `high`, both among them unless `is_open`.

  An open range lacks its ends: finite numbers over `low`.
  """

  low: float
  high: float = math.inf
  is_open: bool = False

  def __contains__(self, number):
    if self.is_open:
      return self.low < number < self.high
    return self.low <= number <= self.high

  def __str__(self):
    if self.is_open:
      return f"a finite number over {self.low}"
    if self.high == math.inf:
      return f"at least {self.low}"
    return f"from {self.low} to {self.high}"


def flag(
  default,
  text,
  allowed=None,
  *,
  is_path=False,
  setting=None,
  recorded_as=None,
):
  """Returns the dataclass field of a flag.

  Args:
    default: its value where it is not given.
    text: its help.
    allowed: a `Range`, or None.
    is_path: whether `~` at its beginning stands for the home folder.
    setting: the phase, "model" or "training", whose results it decides: it is
      recorded in the run manifest, and a later command must agree with it.
    recorded_as: (phase, name) under which the manifest has it where the program
      works out what is recorded; see `Options.fill_in`.
  """
  if allowed is not None:
    text = f"{text} {str(allowed).capitalize()}."
  metadata = dict(help=text, allowed=allowed, is_path=is_path, setting=setting)
  metadata["recorded_as"] = recorded_as
  return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class DataOptions:
  """The task and its files"""

  task_name: Optional[str] = flag(
    None,
    "Task, in any case: a built-in one (docs/data.md) or one of your own.",
    recorded_as=("model", "task_name"),
  )
  data_dir: Optional[str] = flag(
    None,
    "Folder of the task's files.",
    is_path=True,
    recorded_as=("paths", "data_dir"),
  )
  xnli_language: str = flag(
    "zh",
    "Language of the XNLI examples, two letters.",
    recorded_as=("model", "language"),
  )
  multi_label: bool = flag(
    False,
    "An example of a task of your own has any number of labels, separated by |"
    " or comma or in a JSON list; an empty cell has none. A trained folder"
    " remembers it.",
  )
  regression: bool = flag(
    False,
    "The label of a task of your own is a number. A trained folder remembers"
    " it.",
  )
  cache_dir: Optional[str] = flag(
    None,
    "Folder of the converted features (TFRecord). Default: data_dir, or"
    " output_dir where that cannot be written or --use_tpu is on.",
    is_path=True,
  )


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


@dataclasses.dataclass(frozen=True)
class RunOptions:
  """What to do, and where to"""

  output_dir: Optional[str] = flag(
    None, "Folder of checkpoints, results and predictions.", is_path=True
  )
  do_train: bool = flag(False, "Train on the training set.")
  do_eval: bool = flag(False, "Evaluate on the dev set.")
  do_predict: bool = flag(False, "Predict the test set.")
  predict_text: Optional[str] = flag(
    None,
    "Predict this text; the answer is a line of JSON on standard output"
    " (docs/output.md).",
  )
  predict_text_b: Optional[str] = flag(
    None, "The second text where predict_text is one of a pair."
  )
  predict_file: Optional[str] = flag(
    None,
    "Predict each line of this file, - for standard input: a text, or a JSON"
    " object with text and text_b. Each answer is a line of JSON on standard"
    " output.",
    is_path=True,
  )
  dry_run: bool = flag(
    False,
    "Read everything, take a few steps and report on data, weights, time and"
    " memory of what the other flags ask for; write nothing.",
  )
  dry_run_file: Optional[str] = flag(
    None, "File for the report of dry_run as JSON.", is_path=True
  )
  resume: bool = flag(
    False, "Go on from output_dir's checkpoint although settings differ."
  )
  overwrite_output_dir: bool = flag(
    False,
    "Train from the start: remove from output_dir the files that an earlier"
    " run wrote.",
  )

  @property
  def reads_data(self):
    """Returns whether a split of the task is asked for."""
    return self.do_train or self.do_eval or self.do_predict

  @property
  def answers(self):
    """Returns whether texts that are in no split are to be predicted."""
    return self.predict_text is not None or self.predict_file is not None

  @property
  def writes(self):
    """Returns whether output_dir is written."""
    return self.reads_data and not self.dry_run


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
  seed: int = flag(
    42,
    "Decides the order of the examples, dropout and new weights. Runs of one"
    " seed agree to the bit with --num_threads=1.",
    Range(0, 2**31 - 1),
    setting="training",
  )
  shuffle_buffer_size: Optional[int] = flag(
    None,
    "Examples among which the next one is drawn. Default: the whole training"
    " set, or what a quarter of the free memory holds.",
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
  metrics: Optional[str] = flag(
    None,
    "Metrics beside those of the task, separated by commas (docs/output.md).",
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


@dataclasses.dataclass(frozen=True)
class DeviceOptions:
  """Devices"""

  num_threads: int = flag(0, "Threads to compute with; 0: all cores.", Range(0))
  skip_padding: bool = flag(
    True,
    "Compute real tokens only; false computes all max_seq_length positions, as"
    " a TPU always does. Evaluation and prediction are the same within"
    " rounding; in training dropout falls on other elements.",
  )
  use_tpu: bool = flag(False, "Compute on a TPU.")
  tpu_name: Optional[str] = flag(
    None, "Name of the TPU; local for the one in this machine."
  )
  tpu_zone: Optional[str] = flag(
    None, "Google Cloud zone of the TPU, if not this machine's."
  )
  gcp_project: Optional[str] = flag(
    None, "Google Cloud project of the TPU, if not this machine's."
  )
  master: Optional[str] = flag(None, "Address of a TensorFlow master.")
  num_tpu_cores: int = flag(8, "Cores of the TPU.", Range(1))
  iterations_per_loop: int = flag(
    1000,
    "Training steps that a TPU takes between two reports to the host.",
    Range(1),
  )


class Options(NamedTuple):
  """All flags, by group, and the names of those that were given."""

  data: DataOptions
  model: ModelOptions
  run: RunOptions
  training: TrainingOptions
  inference: InferenceOptions
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
  InferenceOptions,
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
        f"--{field.name} is {value}, but must be {metadata['allowed']}"
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


def kind_of(field):
  """Returns the type of a flag's values: str, int, float or bool."""
  return getattr(field.type, "__args__", (field.type,))[0]  # of Optional


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
    process.print_to_the_end(manual + describe_flags())
    sys.exit(0)
  try:
    words = FLAGS(flagfiles.expand(flagfiles.leave_out_kernel(argv)))
    refuse_stray_words(words)
    read()
    return words
  except flags.UnrecognizedFlagError as error:
    names = [field.name for field in all_flags()] + ["flagfile", "help"]
    nearest = difflib.get_close_matches(error.flagname, names, n=1, cutoff=0.0)
    message = (
      f"there is no flag --{error.flagname}; the nearest is --{nearest[0]}"
    )
  except UserError as error:
    message = str(error)
  except flags.Error as error:
    message = _explain_value(str(error))
  sys.stderr.write(
    process.format_error(f"{message}. --help lists all flags") + "\n"
  )
  sys.exit(1)


_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


def _explain_value(message):
  """Returns absl's sentence about a value, in words of the flag's type."""
  found = re.match(r"(?s)flag --(\w+)=(.*?): ", message)
  kinds = {field.name: kind_of(field) for field in all_flags()}
  if not found or kinds.get(found[1]) not in _KINDS:
    return message
  return f"--{found[1]}={found[2]}: must be {_KINDS[kinds[found[1]]]}"


def refuse_stray_words(argv):
  """Raises a UserError that names the first word that belongs to no flag."""
  if len(argv) > 1:
    raise UserError(
      f"{argv[1]!r} belongs to no flag: values are given as --flag=value,"
      " switches as --flag, --noflag or --flag=false"
    )


def _default(field):
  if field.default is None:
    return ""
  return (
    str(field.default).lower() if field.type is bool else str(field.default)
  )


def describe_flags():
  """Returns every flag with default and help, by group, for a terminal."""
  lines = []
  indent = dict(initial_indent=" " * 6, subsequent_indent=" " * 6)
  for group in GROUPS:
    lines.append(f"\n{group.__doc__}:")
    for field in dataclasses.fields(group):
      default = _default(field)
      lines.append(f"  --{field.name}{default and f'={default}'}")
      lines.append(textwrap.fill(field.metadata["help"], 78, **indent))
  lines.append("\n--flagfile=FILE reads flags from a file, one a line.")
  return "\n".join(lines)


def describe_flags_in_markdown():
  """Returns the text of docs/flags.md."""
  lines = [
    "# Flags",
    "",
    "This page is made by `python -m bert_classifier.options > docs/flags.md`;"
    " `--help` prints the same. `--flagfile=FILE` reads flags from a file, one"
    " a line. The 25 of the original keep their names and defaults. `~` at the"
    " beginning of a path is the home folder.",
  ]
  for group in GROUPS:
    lines += ["", f"## {group.__doc__}", "", "| flag | default | |"]
    lines.append("| --- | --- | --- |")
    for field in dataclasses.fields(group):
      default = _default(field)
      cells = f"`--{field.name}`", default and f"`{default}`"
      lines.append(f"| {' | '.join(cells)} | {field.metadata['help']} |")
  return "\n".join(lines)


if __name__ == "__main__":
  print(describe_flags_in_markdown())
