"""Several processes in one output_dir: a claim, held weights, leftovers.

One process trains in a folder at a time. Others may evaluate and predict beside
it, and keep the checkpoint that they read. What processes left that were killed
is removed by the next one.
"""

import contextlib
import os
import re
import tempfile

from absl import logging
import tensorflow.compat.v1 as tf

from bert_classifier import (
  checkpoints,
  errors,
  files,
  locks,
  output_dir,
  saving,
)

# init_checkpoint in TensorFlow's form: prefix, in a temporary folder beside a
# path of the name that was the folder's own once.
_CONVERTED_PREFIX = "converted.ckpt"
# Links to a checkpoint that is read, which a training may remove meanwhile.
_HELD = "held_checkpoint"

# ---------------------------------------------------------------------------
# Claim


@contextlib.contextmanager
def claim(options, found):
  """Keeps a second training out of a folder; removes a run where asked to.

  Also what killed processes left there is removed, see `remove_abandoned`.

  Args:
    options: `run_options.RunOptions`.
    found: the `output_dir.OutputDir` as it was when everything was checked.

  Raises:
    UserError: another command trains there, or has since it was looked at.
  """
  folder = options.output_dir
  if not options.do_train:
    remove_abandoned(folder, is_locked=False)
    yield
    return
  with locks.lock_for_training(folder) as is_locked:
    remove_abandoned(folder, is_locked)
    if options.overwrite_output_dir:
      removed = output_dir.remove_own_files(folder)
      # Else a second run of this process goes on writing a file that is gone.
      tf.summary.FileWriterCache.clear()
      logging.info("removed %d files from %s", removed, folder)
    elif output_dir.inspect(folder) != found:
      raise errors.UserError(
        f"another command has trained in {folder} meanwhile: the same command"
        " again goes on from there"
      )
    yield


# ---------------------------------------------------------------------------
# Weights that are read


@contextlib.contextmanager
def claim_weights(run):
  """Claims output_dir; yields the run and the prefix of weights to begin with.

  Of several machines the chief does, and the others get its prefix.

  Both stay as they are, whatever is trained beside it. Where only texts are
  answered, output_dir is left alone.

  Args:
    run: `preparation.Run`.

  Raises:
    UserError: as of `claim` and `hold_checkpoint`.
  """
  if not run.placement.is_chief:
    yield run, run.placement.share(None)
    return
  with _claim_for_all(run) as (held, prefix):
    yield held, run.placement.share(prefix)


@contextlib.contextmanager
def _claim_for_all(run):
  """Claims output_dir as the one process that writes there."""
  asked, weights = run.options.run, run.weights.init_checkpoint
  if not asked.writes:
    with (
      tempfile.TemporaryDirectory() as folder,
      convert_weights(folder, weights, must_hold=False) as prefix,
    ):
      yield run, prefix
    return
  with (
    claim(asked, run.found),
    convert_weights(asked.output_dir, weights) as prefix,
    hold_weights(run) as held,
  ):
    yield held, prefix


@contextlib.contextmanager
def convert_weights(folder, checkpoint, *, must_hold=True):
  """Yields the prefix of a TensorFlow checkpoint with the given weights.

  What is converted lies in output_dir, where a TPU can read it too, and is
  removed in the end. Several processes may do so in one folder.

  Args:
    folder: output_dir.
    checkpoint: `checkpoints.Checkpoint`, or None, which yields None.
    must_hold: whether it must stay until the end, and not only be read once.
  """
  if checkpoint is None:
    yield None
    return
  path = os.path.join(folder, output_dir.CONVERTED_WEIGHTS)
  if not checkpoint.must_be_converted:
    beside = os.path.join(os.path.dirname(checkpoint.path), saving.STATE)
    if not (must_hold and tf.io.gfile.exists(beside)):
      yield checkpoint.path
      return
    # It is in a run's folder, where training may still go on.
    with (
      hold_checkpoint(folder, checkpoint.path, newest=False) as (_, held),
      _named_as(checkpoint.path, held),
    ):
      yield held
    return
  with files.temporary_folder(path) as temporary:
    prefix = os.path.join(temporary, _CONVERTED_PREFIX)
    yield checkpoint.convert_to_tensorflow(prefix)


_MOST_TRIES = 100  # each time a newer checkpoint was there


def find_weights_in_use(run):
  """Returns the weights that are evaluated or predict: path, and their step.

  Args:
    run: `preparation.Run`, which may have trained.
  """
  newest = run.weights.checkpoint
  newest = newest or checkpoints.read_state(run.options.run.output_dir)
  if newest:
    return newest, output_dir.step_of(newest)
  return run.model.weights.path, 0


def load_newest(run, load):
  """Returns what a function makes of the weights in output_dir, or its best/.

  Args:
    run: `preparation.Run`, which may have trained.
    load: function of the path of a checkpoint, None for weights from elsewhere,
      that reads it whole. Where it was replaced meanwhile, it is called again.
  """
  asked, chosen = run.options.run, run.weights.to_read
  if asked.do_train:
    chosen = checkpoints.read_state(output_dir.weights_folder(asked))
  if chosen is None:
    return load(None)

  def try_to_load(checkpoint):
    try:
      return load(checkpoint)
    except (ValueError, tf.errors.NotFoundError) as error:
      # TensorFlow's saver says with a ValueError that there is no index.
      if isinstance(error, ValueError) and tf.io.gfile.exists(
        f"{checkpoint}.index"
      ):
        raise
      raise errors.MissingFileError(f"{checkpoint} is gone: {error}") from error

  return _try_newest(os.path.dirname(chosen), chosen, try_to_load)


def open_newest(found):
  """Returns the `checkpoints.Checkpoint` of a folder's newest checkpoint.

  Args:
    found: `output_dir.OutputDir`. Where its checkpoint was replaced meanwhile,
      it is the one that came after it.

  Raises:
    UserError: it is not there, or damaged.
  """
  return _try_newest(found.path, found.checkpoint, checkpoints.open_checkpoint)


@contextlib.contextmanager
def hold_weights(run):
  """Yields the run with weights that stay, whatever is trained beside it.

  Args:
    run: `preparation.Run`.
  """
  chosen, named = run.weights.checkpoint, run.model.weights
  if chosen is None:
    yield run
    return
  with hold_checkpoint(
    run.options.run.output_dir,
    chosen,
    newest=not (
      named and files.resolve_path(named.path) == files.resolve_path(chosen)
    ),
  ) as (checkpoint, held):
    weights = run.weights._replace(checkpoint=checkpoint, held=held)
    with _named_as(checkpoint, held):
      yield run._replace(weights=weights)


@contextlib.contextmanager
def _named_as(checkpoint, held):
  """Lets errors name a checkpoint by its own path, not that which is held.

  Raises:
    UserError: what TensorFlow raised about it.
  """
  try:
    yield
  except tf.errors.OpError as error:
    sentence = errors.describe(error)
    if sentence is None or held not in sentence:
      raise
    raise errors.UserError(sentence.replace(held, checkpoint)) from error


@contextlib.contextmanager
def hold_checkpoint(folder, checkpoint, *, newest):
  """Yields the path of a checkpoint, and one where its files stay.

  They stay as hard links, or as copies where there are none. Those of a remote
  folder are not held.

  Args:
    folder: where to hold it.
    checkpoint: path of the checkpoint.
    newest: whether the newest one is asked for, so that it may be a later one.

  Raises:
    UserError: it is no longer there.
  """
  if files.is_remote(checkpoint):
    yield checkpoint, checkpoint
    return
  with files.temporary_folder(os.path.join(folder, _HELD)) as temporary:

    def hold(path):
      _link_parts(path, temporary)
      held = os.path.join(temporary, os.path.basename(path))
      try:
        return path, checkpoints.open_checkpoint(held).path
      except errors.MissingFileError as error:
        raise errors.MissingFileError(
          f"{path} is gone: another command has replaced it meanwhile"
        ) from error

    if newest:
      yield _try_newest(os.path.dirname(checkpoint), checkpoint, hold)
    else:
      yield hold(checkpoint)


def _try_newest(folder, checkpoint, read):
  """Returns what a function makes of the newest checkpoint of a folder.

  Args:
    folder: path.
    checkpoint: what was the newest one.
    read: function of a path that raises a MissingFileError where files of that
      checkpoint are gone.
  """
  for _ in range(_MOST_TRIES):
    try:
      return read(checkpoint)
    except errors.MissingFileError:
      newest = checkpoints.read_state(folder)
      if newest in (None, checkpoint):
        raise
      logging.info("%s was replaced by %s, which is used", checkpoint, newest)
      checkpoint = newest
  return read(checkpoint)


def _link_parts(checkpoint, folder):
  """Makes the files of a checkpoint appear in a folder, as many as are left."""
  os.makedirs(folder, exist_ok=True)
  for path in saving.list_parts(checkpoint):
    link = os.path.join(folder, os.path.basename(path))
    try:
      os.link(path, link)
    except FileNotFoundError:
      return
    except OSError:  # another file system, or one without links
      with contextlib.suppress(tf.errors.NotFoundError):
        tf.io.gfile.copy(path, link)


# ---------------------------------------------------------------------------
# Leftovers

# What TensorFlow writes while it saves, and leaves where it is killed.
_UNFINISHED = (
  rf"(graph\.pbtxt|checkpoint)\.tmp[0-9a-f]{{32}}"
  rf"|model\.ckpt-\d+({saving.UNFINISHED})"
)


def remove_abandoned(folder, is_locked):
  """Removes what killed processes left half written in a folder.

  Args:
    folder: output_dir.
    is_locked: whether this process alone trains there; else what TensorFlow
      left is removed where it is a day old, for another one may be writing it.
  """
  before = re.escape(output_dir.CONVERTED_WEIGHTS)
  copies = f"{re.escape(output_dir.CONFIG)}|{re.escape(output_dir.VOCABULARY)}"
  ours = f"{before}|{_HELD}|{saving.STATE}|{copies}|{output_dir.WRITTEN}"
  files.remove_abandoned(folder, f"{ours}|{output_dir.BEST}")
  best = output_dir.best_path(folder)
  files.remove_abandoned(best, rf"{ours}|model\.ckpt-\d+")
  unfinished = files.list_matching(folder, _UNFINISHED)
  for path in unfinished + files.list_matching(folder, before):
    with contextlib.suppress(tf.errors.OpError):
      if (is_locked and path in unfinished) or files.is_a_day_old(path):
        files.remove(path)
