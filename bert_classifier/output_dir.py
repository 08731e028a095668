"""What an output_dir holds: how it was trained, and how far.

Training writes `run_manifest.json` there: the settings that decide what is
trained. Another command on the same folder is held against it, so that no
model is trained on, evaluated or used under settings that are not its own.
"""

import contextlib
import json
import os
import re
from typing import NamedTuple, Optional

import tensorflow.compat.v1 as tf

from bert_classifier import files

try:
  import fcntl
except ImportError:  # under Windows
  fcntl = None

_MANIFEST = "run_manifest.json"
# Copies of what the model was trained with, named as in a released folder.
CONFIG, VOCABULARY = "bert_config.json", "vocab.txt"

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
  settings = _read_manifest(output_dir).get("settings", {})
  return OutputDir(
    output_dir,
    checkpoint,
    int(step.group(1)) if step else 0,
    settings,
  )


def check_state_file(found):
  """Refuses to begin anew where there are checkpoints that cannot be told.

  Raises:
    ValueError: the file that says which of them is the newest cannot be read.
  """
  indices = files.list_matching(found.path, r"model\.ckpt-\d+\.index")
  if found.checkpoint or not indices:
    return
  names = [os.path.basename(path)[: -len(".index")] for path in indices]
  newest = max(names, key=lambda name: int(name.rpartition("-")[2]))
  raise ValueError(
    f"{found.path} holds {newest}, but the file `checkpoint` there, which says"
    " what is the newest, is missing or damaged: write into it the line"
    f' model_checkpoint_path: "{newest}", or give another --output_dir'
  )


def _read_manifest(output_dir):
  """The manifest, {} where there is none.

  Raises:
    ValueError: it is there, but cannot be read.
  """
  path = os.path.join(output_dir, _MANIFEST)
  if not tf.io.gfile.exists(path):
    return {}
  manifest = files.read_json(path)
  settings = manifest.get("settings") if isinstance(manifest, dict) else None
  if not isinstance(settings, dict):
    raise ValueError(
      f"{path} is damaged, so nobody can tell how the model beside it was"
      " trained: give another --output_dir, or remove the file if you know"
    )
  return manifest


@contextlib.contextmanager
def only_trainer(output_dir):
  """Keeps other processes of this machine from training in a folder meanwhile.

  The system lets go of the lock when the process is gone, however it ended.
  There is none under Windows, on gs:// and where a file system has no locks.

  Raises:
    BlockingIOError: another process trains there.
  """
  if fcntl is None or not os.path.isdir(output_dir):
    yield
    return
  folder = os.open(output_dir, os.O_RDONLY)
  try:
    _lock(folder, output_dir)
    yield
  finally:
    os.close(folder)


def _lock(folder, output_dir):
  """Locks an open folder until it is closed."""
  try:
    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    raise BlockingIOError(
      f"another command is training in {output_dir}: wait for its end, or give"
      " another --output_dir"
    ) from None
  except OSError:  # this file system has no locks
    return


def record(output_dir, settings, config, vocab_file):
  """Writes the manifest of a training run that begins or goes on.

  Configuration and vocabulary are put beside it, so that the folder is a model
  by itself; files of that name that are the user's own are left alone.

  Args:
    output_dir: the folder.
    settings: dictionary by phase, see `differences`.
    config: a `modeling.BertConfig`.
    vocab_file: path of the vocabulary.
  """
  path = os.path.join(output_dir, _MANIFEST)
  tf.io.gfile.makedirs(output_dir)
  copies = {
    CONFIG: json.dumps(config.architecture(), indent=2, sort_keys=True) + "\n",
    VOCABULARY: files.read_text(vocab_file),
  }
  ours_before = _read_manifest(output_dir).get("copies", [])
  ours = [
    name
    for name in copies
    if name in ours_before
    or not tf.io.gfile.exists(os.path.join(output_dir, name))
  ]
  for name in ours:
    files.write_text(os.path.join(output_dir, name), [copies[name]])
  manifest = {"format_version": 1, "settings": settings, "copies": ours}
  files.write_json(path, manifest)


def differences(before, now):
  """What differs between the settings of two runs, one sentence each.

  Args:
    before: dictionary by phase as recorded; what it lacks was not recorded and
      is no difference.
    now: the same of the phases that are asked for.
  """
  found = []
  for phase, settings in now.items():
    for name, new in settings.items():
      old = before.get(phase, {}).get(name, new)
      if old != new and not _may_change(name, old, new):
        found.append(f"{name} was {old!r} and is {new!r}")
  return found


def _may_change(name, old, new):
  """More epochs go on with the same training; the weights are in the folder."""
  if name == "init_checkpoint":
    return new is None
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
      " --resume to go on with the new values"
      + (
        ", or --overwrite_output_dir to train from the start"
        if "training" in now
        else ""
      )
    )


def remove_own_files(output_dir, folders=tuple(_OWN_FILES)):
  """Removes what a run wrote into its folder, and nothing else.

  Args:
    output_dir: the folder.
    folders: names of folders below it, "" for itself.

  Returns:
    The number of files removed.
  """
  own = own_files(output_dir, folders)
  for path in own:
    tf.io.gfile.remove(path)
  for name in filter(None, folders):
    folder = os.path.join(output_dir, name)
    if tf.io.gfile.isdir(folder) and not tf.io.gfile.listdir(folder):
      tf.io.gfile.rmtree(folder)
  return len(own)


def own_files(output_dir, folders=tuple(_OWN_FILES)):
  """Paths of what a run wrote into its folder, and into folders below it."""
  return [
    path
    for folder in folders
    for path in files.list_matching(
      os.path.join(output_dir, folder), _OWN_FILES[folder]
    )
  ]
