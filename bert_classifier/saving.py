"""Saving: checkpoints of a training are whole, finite and on the disk.

TensorFlow's own saver writes whatever the variables hold, syncs nothing, and
its errors end a training as if the data had ended, or begin it again: to
TensorFlow an OutOfRangeError is the end of the data and an AbortedError a
worker that was taken away, but a file system says both.
"""

import contextlib
import os
import re

from absl import logging
import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow.python.training import monitored_session

from bert_classifier import errors, files, tensorflow_weights
from bert_classifier.loss_scale import LossScale
import estimator_bridge  # noqa: F401 - tensorflow_estimator

STATE = "checkpoint"  # the file that names the newest checkpoint
# What the name of a checkpoint is followed by in the names of its files.
PARTS = r"\.(index|meta|data-\d{5}-of-\d{5})"
# TensorFlow's folder for data that are not whole yet, and its file for a graph.
UNFINISHED = r"_temp|\.meta\.tmp[0-9a-f]{32}"
_MOST_NAMES = 3  # of variables in a sentence


class Saver(tf.train.Saver):
  """Saves the checkpoints of a training, and keeps the newest ones.

  A checkpoint is named in the state file when its files are on the disk, and
  what it replaces is removed after that. One that is there already, from which
  training goes on, is not written again. One that was saved without a loss
  scale is restored as well, and the scale begins anew.

  Args:
    keep: number of checkpoints to keep, None for all.
  """

  def __init__(self, keep=None):
    super().__init__(
      sharded=True, max_to_keep=keep, defer_build=True, save_relative_paths=True
    )
    self._keep = keep
    self._variables = []
    self._norms = None
    self._without_scale = self._new_scale = None

  def build(self):
    super().build()
    tf.add_to_collection(tf.GraphKeys.SAVERS, self)  # for `make_hooks`
    scale = [
      v for v in tf.global_variables() if v.op.name in LossScale.VARIABLES
    ]
    if scale:
      names = {v.name for v in scale}
      self._new_scale = tf.variables_initializer(scale)
      self._without_scale = tf.train.Saver(
        [v for v in tf.global_variables() if v.name not in names], sharded=True
      )
    self._variables = [
      v for v in tf.global_variables() if v.dtype.base_dtype.is_floating
    ]
    # The cheapest sum that NaN and infinity spoil: 40 ms for BERT-base and its
    # slots, where `is_finite` takes 190. It may overflow: see _check_finite.
    norms = [tf.nn.l2_loss(v) for v in self._variables]
    self._norms = tf.stack([tf.cast(norm, tf.float32) for norm in norms])

  def restore(self, sess, save_path):
    """Restores the variables; args as of `tf.train.Saver.restore`."""
    saver = super()
    if self._new_scale is not None:
      saved = tf.train.load_checkpoint(save_path).get_variable_to_shape_map()
      if not saved.keys() >= set(LossScale.VARIABLES):
        sess.run(self._new_scale)
        saver = self._without_scale
    saver.restore(sess, save_path)

  def save(self, sess, save_path, global_step, **kwargs):
    """Saves a checkpoint and names it as the newest; returns its path.

    Args:
      sess: the session.
      save_path: path of checkpoints, without the step.
      global_step: whole number.
      kwargs: as of `tf.train.Saver.save`.

    Raises:
      NotFiniteError: a variable holds NaN or infinity; nothing is written.
      UserError: the files cannot be written.
    """
    path = f"{save_path}-{global_step}"
    self._check_finite(sess, global_step)
    if path in self.last_checkpoints:
      return path
    try:
      super().save(sess, save_path, global_step, write_state=False, **kwargs)
      _sync(path)
      self._name_as_newest(path)
    except (OSError, ValueError, tf.errors.OpError) as error:
      self._remove_failed(path)
      raise self._explain(path, error) from error
    return path

  def _check_finite(self, sess, global_step):
    """Raises a NotFiniteError where a variable is not finite."""
    suspects = np.flatnonzero(~np.isfinite(sess.run(self._norms)))
    names = [
      self._variables[i].op.name
      for i in suspects
      if not np.isfinite(np.float32(sess.run(self._variables[i]))).all()
    ]
    if not names:
      return
    shown = ", ".join(names[:_MOST_NAMES])
    more = len(names) - _MOST_NAMES
    raise errors.NotFiniteError(
      f"after step {global_step} these variables hold NaN or infinity: {shown}"
      + (f" and {more} more" if more > 0 else "")
      + f", so no checkpoint is written; {self._describe_newest()}",
      updates=int(global_step),
    )

  def _name_as_newest(self, path):
    """Writes the state file; removes the checkpoints that are too many."""
    kept = [*self.last_checkpoints, path]
    # Those to be removed are still listed, so that the next run removes them
    # where this one is killed in between.
    write_state(kept)
    excess = kept[: -self._keep] if self._keep else []
    for old in excess:
      _remove_checkpoint(old)
    if excess:
      write_state(kept[len(excess) :])
    self.set_last_checkpoints(kept[len(excess) :])

  def _remove_failed(self, path):
    """Removes what there is of a checkpoint that could not be saved."""
    with contextlib.suppress(OSError, tf.errors.OpError):
      if path not in self.last_checkpoints:
        for part in list_parts(path, f"{PARTS}|{UNFINISHED}"):
          files.remove(part)

  def _explain(self, path, error):
    """Returns the UserError of a save that failed, or `error` if it is a bug.

    Args:
      error: what TensorFlow or the file system raised.
    """
    folder, name = os.path.split(path)
    reason = errors.describe(error)
    if not tf.io.gfile.isdir(folder):
      reason = f"the folder {folder} is gone"
    if reason is None:
      return error
    return errors.UserError(
      f"training ends, because {name} cannot be saved: {reason}"
      f" ({self._describe_newest()})"
    )

  def _describe_newest(self):
    if not self.last_checkpoints:
      return "no other one is there"
    return f"the newest one stays {self.last_checkpoints[-1]}"


def make_hooks(run):
  """Returns the hooks that save a training, to come after the others.

  The Estimator's own would come before them: a kill while a checkpoint is
  evaluated would then take away what they write of its step.

  Args:
    run: `preparation.Run`.
  """
  placement, training = run.placement, run.options.training
  if not (placement.sees_every_step and placement.is_chief):
    return []
  return [
    tf.train.CheckpointSaverHook(
      run.options.run.output_dir, save_steps=training.save_checkpoints_steps
    )
  ]


def list_parts(prefix, endings=PARTS):
  """Returns the paths of a checkpoint's files.

  Args:
    prefix: path of the checkpoint.
    endings: regular expression of what follows it.
  """
  folder, name = os.path.split(prefix)
  return files.list_matching(folder or ".", f"{re.escape(name)}({endings})")


def write_state(checkpoints):
  """Writes the state file that names checkpoints of one folder.

  Args:
    checkpoints: list of paths, the newest last.
  """
  names = [os.path.basename(path) for path in checkpoints]
  lines = [f'model_checkpoint_path: "{names[-1]}"\n']
  lines += [f'all_model_checkpoint_paths: "{name}"\n' for name in names]
  files.write_text(os.path.join(os.path.dirname(checkpoints[-1]), STATE), lines)


def keep_weights(source, names, folder):
  """Makes a folder hold some variables of a checkpoint, and no other one.

  It is named in the folder's state file when it is on the disk, in the place of
  an earlier one, which is removed after that.

  Args:
    source: path of the checkpoint; it keeps its name.
    names: of the variables.
    folder: is made if need be.

  Returns:
    The path of what is kept.
  """
  tf.io.gfile.makedirs(folder)
  path = os.path.join(folder, os.path.basename(source))
  # An earlier end may have left parts that no state file names.
  with files.temporary_folder(path) as temporary:
    prefix = os.path.join(temporary, os.path.basename(source))
    tensorflow_weights.copy_variables(source, names, prefix)
    for part in list_parts(prefix):  # the index last
      files.sync(part)
      kept = os.path.join(folder, os.path.basename(part))
      tf.io.gfile.rename(part, kept, overwrite=True)
  files.sync_folder(folder)
  write_state([path])
  remove_others(path)
  return path


def remove_others(path):
  """Removes all checkpoints of a folder but one."""
  parts = rf"model\.ckpt-\d+{PARTS}"
  own = list_parts(path)
  for part in files.list_matching(os.path.dirname(path), parts):
    if part not in own:
      tf.io.gfile.remove(part)


def _sync(prefix):
  """Returns when the files of a checkpoint are on the disk."""
  for path in list_parts(prefix):
    files.sync(path)
  files.sync_folder(os.path.dirname(prefix))


def _remove_checkpoint(prefix):
  """Removes a checkpoint, or warns that it stays."""
  try:
    for path in list_parts(prefix):
      tf.io.gfile.remove(path)
  except tf.errors.OpError as error:
    logging.warning("%s stays: %s", prefix, error.message)


@contextlib.contextmanager
def sessions_end_at_errors():
  """Keeps TensorFlow from making a session again after an error.

  It does so after errors that a preempted worker causes, and passes over them.
  Those of a file system have the same types, and they do not pass: it would try
  for ever. Also the data of a new session would begin where those of the first
  one did.
  """
  # Which can be imported after estimator_bridge.
  from tensorflow_estimator.python.estimator.tpu import error_handling

  tables = (
    (monitored_session, "_PREEMPTION_ERRORS"),
    (error_handling, "_IGNORED_ERRORS"),
  )
  before = [getattr(module, name) for module, name in tables]
  for module, name in tables:
    setattr(module, name, ())
  try:
    yield
  finally:
    for (module, name), value in zip(tables, before):
      setattr(module, name, value)
