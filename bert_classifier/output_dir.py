"""The output_dir of a run: the name of every file in it, and its manifest.

A run asks here for the paths that it writes; `list_own_files` knows them all.
Training writes `run_manifest.json`: the settings that decide what is trained;
see `run_settings` for what another command may change of them.
"""

import json
import os
import re
from typing import NamedTuple, Optional

import tensorflow.compat.v1 as tf

from bert_classifier import (
  checkpoints,
  errors,
  files,
  manifest,
  plain_texts,
  targets,
  tokenizer_files,
)
from bert_classifier.coverage import HEAD

# ---------------------------------------------------------------------------
# Names

MANIFEST = "run_manifest.json"
# Copies of what the model was trained with, named as in a released folder.
CONFIG, VOCABULARY = "bert_config.json", "vocab.txt"
# Where init_checkpoint was written in TensorFlow's form by the version before.
CONVERTED_WEIGHTS = "converted_weights"

_HISTORY, _CALIBRATION = "history.jsonl", "calibration.json"
# Of several runs: their table, and in each one's folder what of it is done.
_RUNS, _DONE = "runs.tsv", "run_done.json"
# Exports stay when the folder is trained anew: each is a model by itself, which
# a server may be reading.
_EXPORT = "export"
# The weights of the best evaluation, with copies of what a model needs, so that
# the folder is one by itself.
BEST = "best"

# Written for a split; `{}` stands for what follows dev or test in its name.
# Results of a test split are those by its true labels.
_RESULTS = {"dev": "eval_results{}.txt", "test": "test_results{}.txt"}
_REPORTS = {e: f"eval_report{{}}.{e}" for e in ("json", "txt", "html")}
_REPORTS["errors"] = "eval_errors{}.tsv"
_OF_TEST = "test_results{}.tsv", "test_predictions{}.tsv"
_EMBEDDINGS = "test_embeddings{}.npy", "test_embedding_ids{}.txt"
# Of --glue_submission, as gluebenchmark.com names them.
SUBMISSIONS = tuple(
  f"{task}.tsv"
  for task in (
    *("CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI-m", "MNLI-mm"),
    *("QNLI", "RTE", "WNLI", "AX"),
  )
)

_LONGEST_NAME = 255  # bytes of a file system's names

_EVENTS = r"events\.out\.tfevents\..*"
# Regular expression of the names of what it writes itself.
WRITTEN = "|".join(
  re.escape(name).replace(r"\{\}", "(_mismatched)?")
  for name in (
    MANIFEST,
    _HISTORY,
    _CALIBRATION,
    _RUNS,
    _DONE,
    *_RESULTS.values(),
    *_REPORTS.values(),
    *_OF_TEST,
    *_EMBEDDINGS,
    *SUBMISSIONS,
  )
)
_OF_RUN = "|".join(
  [
    "checkpoint",
    r"model\.ckpt-\d+\.(index|meta|data-\d{5}-of-\d{5})",
    r"graph\.pbtxt",
    _EVENTS,
    WRITTEN,
  ]
)
# Regular expressions of all that a run writes, by folder below output_dir. The
# cache is not among it: it is still valid when the folder is trained anew.
_OWN_FILES = {
  "": _OF_RUN,
  BEST: f"{_OF_RUN}|{re.escape(CONFIG)}|{re.escape(VOCABULARY)}",
  CONVERTED_WEIGHTS: r"converted\.ckpt.*",
  "eval": _EVENTS,
  "eval_mismatched": _EVENTS,
}


def results_path(output_dir, split):
  """Returns the path of the results of a dev or test split."""
  return _path_for(output_dir, _RESULTS[split.partition("_")[0]], split)


def report_paths(output_dir, split):
  """Returns the paths of the report of a dev split, by kind of file.

  The kinds are "json", "txt", "html" and "errors".
  """
  return {
    kind: _path_for(output_dir, name, split) for kind, name in _REPORTS.items()
  }


def history_path(output_dir):
  """Returns the path of the numbers of training and evaluations."""
  return os.path.join(output_dir, _HISTORY)


def calibration_path(output_dir):
  """Returns the path of the temperature that --calibrate fitted."""
  return os.path.join(output_dir, _CALIBRATION)


def runs_path(output_dir):
  """Returns the path of the table of several runs."""
  return os.path.join(output_dir, _RUNS)


def done_path(output_dir):
  """Returns the path of what is done of one of several runs."""
  return os.path.join(output_dir, _DONE)


def prediction_paths(output_dir, split):
  """Returns the paths of probabilities and predictions of a test split."""
  return tuple(_path_for(output_dir, name, split) for name in _OF_TEST)


def embedding_paths(output_dir, split):
  """Returns the paths of a test split's embeddings, and of their ids."""
  return tuple(_path_for(output_dir, name, split) for name in _EMBEDDINGS)


def export_path(output_dir):
  """Returns the path of the folder that holds the exports, by their numbers."""
  return os.path.join(output_dir, _EXPORT)


def best_path(output_dir):
  """Returns the path of the folder of the best evaluation's weights."""
  return os.path.join(output_dir, BEST)


def weights_folder(options):
  """Returns the folder of the weights to evaluate and to predict with.

  Args:
    options: `run_options.RunOptions`.
  """
  folder = options.output_dir
  return best_path(folder) if options.use_best else folder


def trained_folder(options):
  """Returns the folder of the checkpoint that a command begins with.

  Args:
    options: `run_options.RunOptions`. Training goes on from the newest one,
      never from the best.
  """
  return options.output_dir if options.do_train else weights_folder(options)


def submission_path(output_dir, name):
  """Returns the path of a file for GLUE, one of `SUBMISSIONS`."""
  return os.path.join(output_dir, name)


def evaluation_name(split):
  """Returns the Estimator's name of an evaluation: None, or "mismatched".

  TensorBoard's events of it are in eval/, or eval_mismatched/.
  """
  return split.partition("_")[2] or None


def _path_for(output_dir, name, split):
  _, separator, rest = split.partition("_")
  return os.path.join(output_dir, name.format(separator + rest))


def list_own_files(output_dir):
  """Returns the paths of what runs wrote into a folder to stay there."""
  own = dict(_OWN_FILES)
  if not is_of_runs(best_path(output_dir)):
    del own[BEST]
  return [
    path
    for folder, names in own.items()
    for path in files.list_matching(os.path.join(output_dir, folder), names)
  ]


def is_manifest(path):
  """Returns whether a path is that of a manifest."""
  return os.path.basename(path) == MANIFEST


def is_of_runs(folder):
  """Returns whether runs write a folder, and not its user."""
  return tf.io.gfile.exists(os.path.join(folder, MANIFEST))


def remove_own_files(output_dir):
  """Removes what a run wrote, but its manifest, and nothing else.

  The manifest says which files are a run's own until the next training replaces
  it, also where this removal or what follows is stopped in between.

  Returns:
    The number of files removed.
  """
  own = list_own_files(output_dir)
  own = [path for path in own if path != os.path.join(output_dir, MANIFEST)]
  own.sort(key=is_manifest)  # that of best/, which makes it ours, goes last
  for path in own:
    tf.io.gfile.remove(path)
  for name in filter(None, _OWN_FILES):
    folder = os.path.join(output_dir, name)
    if tf.io.gfile.isdir(folder) and not tf.io.gfile.listdir(folder):
      tf.io.gfile.rmtree(folder)
  return len(own)


# ---------------------------------------------------------------------------
# State


def check_place(path, flag="output_dir", *, is_read_only=False):
  """Makes sure that a folder is there or can be made, and can be written.

  Args:
    path: the folder.
    flag: the one that names it.
    is_read_only: whether what is there already may be enough.

  Raises:
    UserError: says what is in the way.
  """
  if flag == "output_dir":  # where TensorFlow looks for checkpoints
    files.refuse_pattern(path)
  if files.is_remote(path):
    return
  at = os.path.abspath(path)
  try:
    while not os.path.lexists(at):
      at = os.path.dirname(at)
    if os.path.islink(at) and not os.path.exists(at):
      problem = f"{at} is a link to {os.readlink(at)}, which is not there"
    elif not os.path.isdir(at):
      problem = f"{at} is a file"
    elif not (is_read_only or os.access(at, os.W_OK | os.X_OK)):
      problem = f"{at} cannot be written by this user"
    elif max(map(len, os.fsencode(path).split(b"/"))) > _LONGEST_NAME:
      problem = f"a name is longer than {_LONGEST_NAME} bytes"
    else:
      return
  except OSError as error:
    problem = error.strerror
  raise errors.UserError(
    f"--{flag}={path} is no folder to write into: {problem}. Give another"
  )


def check_new_folder(run_options, flag):
  """Makes sure that a folder to be exported to can be made.

  Args:
    run_options: `run_options.RunOptions`.
    flag: the one that names the folder.

  Raises:
    UserError: something is there already, or in the way.
  """
  folder = getattr(run_options, flag)
  check_place(folder, flag)
  others = {
    name: getattr(run_options, name)
    for name in ("output_dir", "export_hf", "export_onnx")
    if name != flag and getattr(run_options, name)
  }
  problem = ""
  for name, other in others.items():
    if files.resolve_path(folder) == files.resolve_path(other):
      problem = f"is {name}"
  if tf.io.gfile.isdir(folder) and (names := tf.io.gfile.listdir(folder)):
    problem = problem or f"is not empty, but holds {names[0]}"
  if problem:
    raise errors.UserError(
      f"--{flag}={folder} {problem}, and an export is a folder of its own:"
      " give another, or remove what is there"
    )


class OutputDir(NamedTuple):
  """The state of a folder.

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
  """Returns the `OutputDir` of a folder, which need not exist.

  Raises:
    UserError: its manifest is damaged.
  """
  # Not latest_checkpoint, to which a checkpoint whose files are gone is none.
  checkpoint = checkpoints.read_state(output_dir)
  step = step_of(checkpoint) if checkpoint else 0
  settings = _read_manifest(output_dir).get("settings", {})
  if "model" in settings:  # its first versions knew one class only
    settings["model"].setdefault("problem_type", targets.OneClass.problem_type)
  return OutputDir(output_dir, checkpoint, step, settings)


def step_of(checkpoint):
  """Returns the global step in the name of a checkpoint, 0 if it has none."""
  step = re.search(r"-(\d+)$", checkpoint)
  return int(step.group(1)) if step else 0


def check_trained(output_dir, steps):
  """Makes sure that training went on to its last step.

  Raises:
    UserError: the newest checkpoint is of an earlier one.
  """
  step = inspect(output_dir).step
  if step < steps:
    raise errors.UserError(
      f"training ended before step {steps}, and the newest checkpoint in"
      f" {output_dir} is of step {step}. TensorFlow takes some errors of a file"
      " system for the end of the data: is there room, and can the folder be"
      " written?"
    )


def check_no_release(found, is_begun_from_weights):
  """Makes sure that a folder does not hold a released model instead of a run.

  Args:
    found: `OutputDir`.
    is_begun_from_weights: whether a training will begin from weights that are
      given; it may put its files beside those of a release.

  Raises:
    UserError: it does.
  """
  prefix = found.checkpoint
  if prefix is None:
    indices = files.list_matching(found.path, r".*\.index")
    if found.settings or not indices:
      return
    prefix = indices[-1][: -len(".index")]
    if is_begun_from_weights and not step_of(prefix):
      return
  if found.settings or not tf.io.gfile.exists(f"{prefix}.index"):
    return
  if HEAD[0] in checkpoints.open_checkpoint(prefix).shapes:
    return  # of the 2018 script, which wrote no manifest
  raise errors.UserError(
    f"--output_dir={found.path} holds a released model,"
    f" {os.path.basename(prefix)}, which has no classifier, and nothing that a"
    f" run wrote: give another --output_dir, and --init_checkpoint={found.path}"
    " with --do_train to begin from these weights"
  )


def check_state_file(found):
  """Makes sure that the newest of the checkpoints in a folder is known.

  Args:
    found: `OutputDir`.

  Raises:
    UserError: the file that says which it is cannot be read, or names one that
      is not there.
  """
  named = found.checkpoint
  if named and tf.io.gfile.exists(f"{named}.index"):
    return
  problem = "is missing or damaged"
  if named:
    problem = f"names {os.path.basename(named)}, which is not there"
  indices = files.list_matching(found.path, r"model\.ckpt-\d+\.index")
  if indices:
    names = [os.path.basename(path)[: -len(".index")] for path in indices]
    newest = max(names, key=lambda name: int(name.rpartition("-")[2]))
    raise errors.UserError(
      f"{found.path} holds {newest}, but the file `checkpoint` there, which"
      f" says what is the newest, {problem}: write into it the line"
      f' model_checkpoint_path: "{newest}", or give another --output_dir'
    )
  if named:
    raise errors.UserError(
      f"{os.path.join(found.path, 'checkpoint')} {problem}, nor is any other"
      f" checkpoint: copy the files {os.path.basename(named)}.* there, remove"
      " the file `checkpoint` to train from the start, or give another"
      " --output_dir"
    )


# ---------------------------------------------------------------------------
# Manifest


def _read_manifest(output_dir):
  """Returns the manifest, {} where there is none.

  Raises:
    UserError: it is there, but cannot be read, or no run wrote it so.
  """
  path = os.path.join(output_dir, MANIFEST)
  if not tf.io.gfile.exists(path):
    return {}
  is_folder = tf.io.gfile.isdir(path)
  written = None if is_folder else files.read_json(path)
  settings = written.get("settings") if isinstance(written, dict) else None
  if not isinstance(settings, dict) or not all(
    isinstance(phase, dict) for phase in settings.values()
  ):
    raise errors.UserError(
      f"{path} is damaged, so it is unknown how the model beside it was"
      " trained: copy it again, use another folder, or remove the file if you"
      " know"
    )
  manifest.check(written, path)
  return written


def write_manifest(output_dir, settings, config, vocab_file):
  """Writes the manifest of a training run that begins or goes on.

  Copies of configuration and vocabulary are written beside it, so that the
  folder is a model by itself; files of that name that are the user's own are
  left alone.

  Args:
    output_dir: the folder, made if need be.
    settings: dictionary by phase.
    config: a `modeling.BertConfig`.
    vocab_file: path of the vocabulary, a vocab.txt or a tokenizer.json.
  """
  path = os.path.join(output_dir, MANIFEST)
  tf.io.gfile.makedirs(output_dir)
  copies = {
    CONFIG: json.dumps(config.architecture(), indent=2, sort_keys=True) + "\n",
    VOCABULARY: tokenizer_files.read_vocabulary(vocab_file),
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
  written = {"format_version": 1, "settings": settings, "copies": ours}
  files.write_json(path, written)


# Settings of training: where the weights to begin with were, and what they are.
WEIGHTS, WEIGHTS_DIGEST = "init_checkpoint", "init_checkpoint (SHA-256)"
# That of the model: which vocabulary it has.
VOCABULARY_DIGEST = "vocabulary (SHA-256)"


def shorten(value):
  """Returns a value as an error shows it; a digest by its beginning."""
  if isinstance(value, list):
    return f"[{plain_texts.show_labels(value)}]"
  text = repr(value)
  return re.sub(r"^'([0-9a-f]{12})[0-9a-f]{52}'$", r"'\1...'", text)


# ---------------------------------------------------------------------------
# Overwriting


def check_overwriting(found, weights):
  """Makes sure that only what this program wrote, and may go, is removed.

  Args:
    found: the `OutputDir`.
    weights: path of init_checkpoint's weights, or None.

  Raises:
    UserError: the files are another program's, or init_checkpoint is one.
  """
  own = list_own_files(found.path)
  if own and not found.settings:
    raise errors.UserError(
      "--overwrite_output_dir removes what this program wrote, but"
      f" {found.path} has no {MANIFEST}, so {own[0]} and others are not known"
      " to be that: give another --output_dir, or remove them"
    )
  index = weights and files.resolve_path(f"{weights}.index")
  if index in map(files.resolve_path, own):
    raise errors.UserError(
      f"--overwrite_output_dir would remove --init_checkpoint={weights}, which"
      f" a run wrote into {found.path}: give another --output_dir"
    )
