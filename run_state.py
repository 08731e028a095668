"""What an output_dir holds: trained how, how far, and by whom.

Training writes `run_manifest.json` there: the settings that decide what is
trained. Another command on the same folder is held against it, so that no
model is trained on, evaluated or used under settings that are not its own.
"""

import os
import re
from typing import NamedTuple, Optional

import tensorflow.compat.v1 as tf

import files

_MANIFEST = "run_manifest.json"

_EVENTS = r"events\.out\.tfevents\..*"
# All that a run writes into its folder, by folder below it; the cache, which
# is still valid, excluded.
_OWN_FILES = {
  "": "|".join(
    [
      "checkpoint",
      r"model\.ckpt-\d+\.(index|meta|data-\d{5}-of-\d{5})",
      r"graph\.pbtxt",
      _EVENTS,
      r"eval_results(_mismatched)?\.txt",
      r"test_(results|predictions)(_mismatched)?\.tsv",
      re.escape(_MANIFEST),
    ]
  ),
  "converted_weights": r"converted\.ckpt.*",
  "eval": _EVENTS,
  "eval_mismatched": _EVENTS,
}


class OutputDir(NamedTuple):
  """What was found in a folder.

  Attributes:
    path: the folder.
    checkpoint: prefix of the newest checkpoint, or None; its files may be
      gone.
    step: its global step; 0 where there is none.
    settings: dictionary by phase ("model", "training") of the settings it was
      trained with, empty where no manifest is there.
  """

  path: str
  checkpoint: Optional[str]
  step: int
  settings: dict


def inspect(output_dir):
  """Looks at a folder, which need not exist."""
  # Not latest_checkpoint, to which a checkpoint whose files are gone is none.
  state = tf.train.get_checkpoint_state(output_dir)
  checkpoint = state.model_checkpoint_path if state else None
  step = re.search(r"-(\d+)$", checkpoint) if checkpoint else None
  manifest = files.read_json(os.path.join(output_dir, _MANIFEST)) or {}
  return OutputDir(
    output_dir,
    checkpoint,
    int(step.group(1)) if step else 0,
    manifest.get("settings", {}),
  )


def record(output_dir, settings):
  """Writes the manifest of a training run that begins or goes on."""
  path = os.path.join(output_dir, _MANIFEST)
  files.write_json(path, {"format_version": 1, "settings": settings})


def differences(before, now):
  """What differs between the settings of two runs, one sentence each.

  Args:
    before: dictionary by phase as recorded; what it lacks was not recorded and
      is no difference.
    now: the same of the phases that are asked for.
  """
  return [
    f"{name} was {old!r} and is {new!r}"
    for phase, settings in now.items()
    for name, new in settings.items()
    for old in [before.get(phase, {}).get(name, new)]
    if old != new and not _is_longer(name, old, new)
  ]


def _is_longer(name, old, new):
  """More epochs go on with the same training, they do not change it."""
  return name == "num_train_epochs" and new > old


def check_settings(found, now):
  """Stops a command whose settings are not those of the folder.

  Raises:
    ValueError: lists the settings that differ.
  """
  differing = differences(found.settings, now) if found.checkpoint else []
  if differing:
    raise ValueError(
      f"{found.path} was trained (up to step {found.step}) with other"
      f" settings: {'; '.join(differing)}. Give another --output_dir, or"
      " --resume to go on with the new values, or --overwrite_output_dir to"
      " train from the start"
    )


def remove_own_files(output_dir):
  """Removes what a run wrote into its folder, and nothing else.

  Returns:
    The number of files removed.
  """
  own = own_files(output_dir)
  for path in own:
    tf.io.gfile.remove(path)
  return len(own)


def own_files(output_dir):
  """Paths of what a run wrote into its folder."""
  return [
    path
    for folder, pattern in _OWN_FILES.items()
    for path in files.matching(os.path.join(output_dir, folder), pattern)
  ]
