"""The settings of a run, and those of two runs in one folder, compared.

No model is trained on, evaluated or used under settings that are not its own: a
command whose settings differ from the manifest's is refused, with the ways out.
"""

import dataclasses
from typing import NamedTuple

from bert_classifier import choice_options, errors, files, own_data
from bert_classifier.catalogue import describe_examples, describe_tables
from bert_classifier.output_dir import (
  VOCABULARY_DIGEST,
  WEIGHTS,
  WEIGHTS_DIGEST,
  shorten,
)
import modeling

# Values of settings in manifests from before there was another.
_BEFORE_RECORDED = {
  "layer_norm_eps": modeling.LAYER_NORM_EPSILON,
  "head_dropout": modeling.BertForSequenceClassification.HEAD_DROPOUT,
  "truncation": choice_options.HEAD,
  "stride": 0,
  "window_pooling": choice_options.MEAN_LOGITS,
  **dataclasses.asdict(choice_options.ChoiceOptions()),
}


def make_settings(options, task, model):
  """Returns the settings that decide what is trained, by phase.

  Raises:
    UserError: what is wrong with the training set.
  """
  settings = {
    "model": {
      "task_name": task.trained_name,
      "language": task.processor.language,
      "problem_type": task.target.problem_type,
      **task.target.settings(),
      **describe_tables(task.processor),
      **options.settings("model"),
      **model.tokenizer_settings,
      VOCABULARY_DIGEST: model.vocab_digest,
      **model.config.architecture(),
    }
  }
  if options.run.do_train:
    weights = model.weights and files.resolve_path(model.weights.path)
    made_of = describe_examples(task.data, "train")
    settings["training"] = {
      WEIGHTS: weights,
      WEIGHTS_DIGEST: model.weights and model.weights.hash(),
      "training data (SHA-256)": task.data.source_digest("train"),
      **(
        {"training examples": made_of["examples"]}
        if "examples" in made_of
        else {}
      ),
      **options.settings("training"),
    }
  return settings


def describe_training(data_options, task, schedule):
  """Returns the settings, by phase, that later commands read of a training.

  Args:
    data_options: `data_options.DataOptions`.
    task: `task_choice.Task`.
    schedule: `schedule.Schedule`.
  """
  settings = {
    "order": schedule.describe_order(),
    "paths": own_data.describe_paths(data_options),
  }
  if isinstance(task.processor, own_data.OwnData):
    settings["data"] = own_data.describe_settings(data_options, task.processor)
  prediction = task.target.prediction_settings()
  if prediction:
    settings["prediction"] = prediction
  return settings


class Difference(NamedTuple):
  """A setting that differs between two runs.

  Attributes:
    phase, name: its place in the manifest.
    old, new: its values; for the digest of weights, their paths.
  """

  phase: str
  name: str
  old: object
  new: object

  def __str__(self):
    if self.name == WEIGHTS_DIGEST:
      return f"{WEIGHTS}={self.new} is not the weights that it was trained from"
    return f"{self.name} was {shorten(self.old)} and is {shorten(self.new)}"


def compare_settings(before, now):
  """Returns the list of the `Difference`s between the settings of two runs.

  Args:
    before: dictionary by phase as the manifest has it; a setting that it lacks
      is no difference.
    now: the same of the phases that are asked for.
  """
  found = []
  for phase, settings in now.items():
    recorded = before.get(phase, {})
    if recorded:
      recorded = {**_BEFORE_RECORDED, **recorded}
    for name, new in settings.items():
      old = recorded.get(name, new)
      if old != new and not _may_change(name, old, new, recorded):
        if name == WEIGHTS_DIGEST:
          old, new = recorded.get(WEIGHTS), settings.get(WEIGHTS)
        found.append(Difference(phase, name, old, new))
  return found


def keep_origin(found, now):
  """Adds what a folder's training began with, where a command leaves it out.

  Args:
    found: `OutputDir`.
    now: see `compare_settings`; changed in place.
  """
  training = now.get("training", {})
  if found.checkpoint and training and training[WEIGHTS] is None:
    before = found.settings.get("training", {})
    for name in (WEIGHTS, WEIGHTS_DIGEST):
      training[name] = before.get(name)


def _may_change(name, old, new, recorded):
  """Returns True for a value that may differ from that of the run before.

  Args:
    recorded: the settings of its phase before.
  """
  # The weights are in the folder, and what they began with may be moved.
  if name == WEIGHTS:
    return new is None or recorded.get(WEIGHTS_DIGEST) is not None
  if name == WEIGHTS_DIGEST:
    return new is None
  # More epochs go on with the same training.
  is_number = isinstance(old, (int, float))
  return name == "num_train_epochs" and is_number and new > old


def check_settings(
  found, now, is_resumed=False, *, flags=None, find_epochs=None
):
  """Makes sure that a command's settings are those of the folder.

  Args:
    found: `output_dir.OutputDir`.
    now: see `compare_settings`.
    is_resumed: whether --resume lets other settings pass; what the weights mean
      never changes.
    flags: dictionary from (phase, name) of a setting to its flag.
    find_epochs: function that is called where settings differ; it returns the
      least --num_train_epochs that would train on, None where those asked for
      do. None where nothing is to be trained.

  Raises:
    UserError: lists the settings that differ.
  """
  if not found.checkpoint:
    return
  differing = compare_settings(found.settings, now)
  if not differing:
    return
  epochs_needed = find_epochs() if find_epochs else None
  fixed = [
    difference.name
    for difference in differing
    if difference.phase == "model" and not may_resume(difference.name)
  ]
  in_training = any(one.phase == "training" for one in differing)
  is_futile = epochs_needed is not None and in_training
  if is_resumed and not fixed and not is_futile:
    return
  ways = _list_ways(found, differing, fixed, flags or {}, epochs_needed)
  if "training" in now:
    ways.append("--overwrite_output_dir to train from the start")
  reason = _explain_fixed(fixed, is_own_data="data" in found.settings)
  if is_futile and not fixed:
    reason = (
      f"--num_train_epochs asks for no step beyond {found.step}, so nothing"
      " would be trained. "
    )
  raise errors.UserError(
    f"{found.path} was trained (up to step {found.step}) with other settings:"
    f" {'; '.join(map(str, differing))}. {reason}Give {', or '.join(ways)}"
  )


def _list_ways(found, differing, fixed, flags, epochs_needed):
  """Returns a phrase for each way out of settings that differ.

  Args:
    fixed: names of those that --resume does not let pass.
    found, flags: see `check_settings`.
    epochs_needed: what its find_epochs gives.
  """
  ways = []
  given = [flags.get((one.phase, one.name)) for one in differing]
  only_epochs = given == ["num_train_epochs"]
  # None that a training recorded is that of a flag which was not given.
  may_give = all(given) and all(
    one.old is not None or one.phase == "training" for one in differing
  )
  if may_give and not (only_epochs and epochs_needed):
    ways.append(_describe_as_before(given, [one.old for one in differing]))
  elsewhere = "another --output_dir"
  if not fixed and any(one.phase == "training" for one in differing):
    elsewhere += (
      f" with --init_checkpoint={found.path} to train on from these weights"
    )
  ways.append(elsewhere)
  if not fixed:
    more = epochs_needed and f"--num_train_epochs={epochs_needed} or more"
    if only_epochs and more:
      ways.append(f"{more} to go on")
    else:
      with_more = f" and {more}" if more else ""
      ways.append(f"--resume{with_more} to go on with the new values")
  return ways


def _describe_as_before(names, values):
  """Returns a phrase for the command that leaves settings as they were.

  Args:
    names: of flags.
    values: those that they had.
  """
  if None in values:  # that no flag takes
    return f"the command without --{' and --'.join(names)}, as before"
  as_before = " ".join(
    f"--{name}={_format_value(value)}" for name, value in zip(names, values)
  )
  return f"{as_before} as before, which may be left out"


def _format_value(value):
  """Returns a setting's value as its flag takes it."""
  return str(value).lower() if isinstance(value, bool) else value


# Of the model's settings, those under which the weights mean the same.
_MODEL_SETTINGS_TO_RESUME = (
  "max_seq_length",
  "truncation",
  "stride",
  "window_pooling",
  "hidden_dropout_prob",
  "attention_probs_dropout_prob",
)


def may_resume(name):
  """Returns True for a setting of the model that --resume lets pass."""
  # Files may change their columns.
  is_of_table = name == "synonyms" or name.startswith("table of ")
  return is_of_table or name in _MODEL_SETTINGS_TO_RESUME


def _explain_fixed(fixed, is_own_data):
  """Returns why the settings named cannot change, and what can be done.

  Args:
    fixed: names.
    is_own_data: whether the data are a user's own, named by flags.
  """
  if not fixed:
    return ""
  if "problem_type" in fixed:
    return (
      "What the weights mean depends on it: leave out --multi_label and"
      " --regression, and the folder decides. "
    )
  advice = ""
  if "labels" in fixed:
    advice = (
      "Leave out --label_list, and the folder decides. "
      if is_own_data
      else "The labels are those of the task's get_labels: if they come from a"
      " set, whose order changes, sort them. "
    )
  return f"What the weights mean depends on {', '.join(fixed)}. {advice}"
