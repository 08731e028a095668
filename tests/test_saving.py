"""saving.py: checkpoints are whole, finite, on the disk, or the run ends."""

import errno
import os
import re
import resource
import shutil
import subprocess
import sys

from conftest import read_checkpoint, run_python
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import errors, output_dir, saving


class Training:
  """A session with a variable `w` of 4096 numbers and a Saver, in a folder."""

  def __init__(self, folder, keep=1):
    self.folder = folder
    w = tf.get_variable("w", 4096, initializer=tf.ones_initializer())
    self._value = tf.placeholder(tf.float32, [4096])
    self._assign = w.assign(self._value)
    tf.train.get_or_create_global_step()
    self._saver = saving.Saver(keep)
    self._saver.build()
    self._session = tf.Session()
    self._session.run(tf.global_variables_initializer())

  def save(self, step, *numbers):
    """Saves the variable, which begins with some numbers."""
    value = np.float32([*numbers, *np.ones(4096 - len(numbers))])
    self._session.run(self._assign, {self._value: value})
    path = os.path.join(self.folder, "model.ckpt")
    self._saver.save(self._session, path, np.int64(step))

  def steps(self):
    """Steps in the state file, and those of which a file is in the folder."""
    state = tf.train.get_checkpoint_state(str(self.folder))
    paths = state.all_model_checkpoint_paths if state else []
    found = re.findall(r"model\.ckpt-(\d+)", " ".join(os.listdir(self.folder)))
    return [output_dir.step_of(p) for p in paths], sorted(set(map(int, found)))


@pytest.fixture
def training(graph, tmp_path):
  return Training(str(tmp_path))


@pytest.mark.parametrize(
  "keep, kept", [(1, [3]), (2, [2, 3]), (None, [1, 2, 3])]
)
def test_the_newest_are_kept(graph, tmp_path, keep, kept):
  training = Training(str(tmp_path), keep)
  for step in (1, 2, 3):
    training.save(step, step)
  assert training.steps() == (kept, kept)
  assert read_checkpoint(tmp_path)["w"][:2].tolist() == [3, 1]
  assert saving.list_parts(f"{tmp_path}/model.ckpt-3") == [
    f"{tmp_path}/model.ckpt-3.{part}"
    for part in ("data-00000-of-00001", "index", "meta")
  ]


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_saved(training, number):
  training.save(1)
  with pytest.raises(
    errors.NotFiniteError, match="after step 2 .*: w,"
  ) as error:
    training.save(2, number)
  assert error.value.updates == 2
  assert f"stays {training.folder}/model.ckpt-1" in str(error.value)
  assert training.steps() == ([1], [1])


def test_numbers_whose_squares_are_not_finite_are_saved(training):
  training.save(1, 1e38, -1e38)
  assert training.steps() == ([1], [1])


FAILURES = [
  tf.errors.OutOfRangeError,  # what TensorFlow makes of EFBIG
  tf.errors.AbortedError,  # ESTALE
  tf.errors.UnavailableError,  # EAGAIN
  tf.errors.UnknownError,  # EIO
  tf.errors.InvalidArgumentError,  # ENAMETOOLONG
]


@pytest.mark.parametrize("failure", FAILURES)
def test_a_save_that_fails_is_a_sentence_and_leaves_nothing(
  training, monkeypatch, failure
):
  training.save(1)

  def fail(saver, session, path, step, **_):
    (half := os.path.join(training.folder, "model.ckpt-2_temp"), os.mkdir(half))
    open(os.path.join(half, "part"), "w").close()
    raise failure(None, None, "part; File too large")

  monkeypatch.setattr(tf.train.Saver, "save", fail)
  with pytest.raises(errors.UserError, match="ckpt-2 cannot be saved: part; F"):
    training.save(2)
  assert training.steps() == ([1], [1])


def test_a_bug_while_saving_is_no_sentence(training, monkeypatch):
  def fail(*_, **__):
    raise tf.errors.InvalidArgumentError(None, None, "shapes differ")

  monkeypatch.setattr(tf.train.Saver, "save", fail)
  with pytest.raises(tf.errors.InvalidArgumentError):
    training.save(1)


def test_a_file_that_may_not_grow_is_a_sentence(training):
  training.save(1)
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (9000, limits[1]))
  try:
    with pytest.raises(
      errors.UserError, match="; File too large \\(the newest"
    ):
      training.save(2)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert training.steps() == ([1], [1])
  training.save(2)
  assert training.steps() == ([2], [2])


def test_a_folder_that_is_gone_is_a_sentence(training):
  shutil.rmtree(training.folder)
  with pytest.raises(errors.UserError, match="is gone"):
    training.save(2)


def test_a_checkpoint_is_on_the_disk_before_it_is_named_and_others_go(
  training, monkeypatch
):
  """The order that a power cut at any moment leaves whole."""
  training.save(1)
  done = []
  fsync, rename, remove = os.fsync, tf.io.gfile.rename, tf.io.gfile.remove

  def record_fsync(descriptor):
    path = os.readlink(f"/proc/self/fd/{descriptor}")
    done.append(("sync", os.path.basename(path)))
    fsync(descriptor)

  def record_rename(source, target, overwrite=False):
    done.append(("rename", os.path.basename(target)))
    rename(source, target, overwrite)

  def record_remove(path):
    done.append(("remove", os.path.basename(path)))
    remove(path)

  monkeypatch.setattr(os, "fsync", record_fsync)
  monkeypatch.setattr(tf.io.gfile, "rename", record_rename)
  monkeypatch.setattr(tf.io.gfile, "remove", record_remove)
  training.save(2)
  named = done.index(("rename", "checkpoint"))
  folder = ("sync", os.path.basename(training.folder))
  before = done[:named]
  for part in ("data-00000-of-00001", "index", "meta"):
    assert ("sync", f"model.ckpt-2.{part}") in before
    removal = done.index(("remove", f"model.ckpt-1.{part}"))
    assert folder in done[named:removal]
  last_part = max(i for i, (_, name) in enumerate(before) if "ckpt-2" in name)
  assert folder in before[last_part:]


def test_what_a_killed_process_did_not_remove_goes_with_the_next_save(
  training, monkeypatch
):
  training.save(1)

  def die(_):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(tf.io.gfile, "remove", die)
    training.save(2)
  assert training.steps() == ([1, 2], [1, 2])
  with tf.Graph().as_default():
    again = Training(training.folder)
    paths = tf.train.get_checkpoint_state(training.folder)
    again._saver.recover_last_checkpoints(paths.all_model_checkpoint_paths)
    again.save(3)
    assert again.steps() == ([3], [3])


# ---------------------------------------------------------------------------
# Faults of a file system: what is written to a path fails

FAULT = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

size_t fwrite(const void *data, size_t size, size_t count, FILE *stream) {
  static size_t (*next)(const void *, size_t, size_t, FILE *);
  char link[64], path[4096] = "";
  const char *part = getenv("FAULT_PATH");
  if (!next) next = dlsym(RTLD_NEXT, "fwrite");
  snprintf(link, sizeof link, "/proc/self/fd/%d", fileno(stream));
  if (!part || readlink(link, path, sizeof path - 1) < 0 || !strstr(path, part))
    return next(data, size, count, stream);
  errno = atoi(getenv("FAULT_ERRNO"));
  return 0;
}
"""
TRAIN_WITH_FAULTS = """if True:
  import os, sys
  from absl import app
  from absl.testing import flagsaver
  import run_classifier
  def run(argv):
    for number, fault in enumerate(os.environ["FAULTS"].split()):
      os.environ["FAULT_PATH"], os.environ["FAULT_ERRNO"] = fault.split(":")
      with flagsaver.flagsaver(output_dir=f"{argv[1]}/{number}"):
        try:
          run_classifier.main(argv[:1])
          sys.exit(0)
        except SystemExit as end:
          print("exit status", end.code, flush=True)
  app.run(run)
"""


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
  """Returns a library that lets writing fail, where it can be compiled."""
  compiler = shutil.which("cc") or shutil.which("gcc")
  if sys.platform != "linux" or not compiler:
    pytest.skip("there is no compiler, or LD_PRELOAD")
  folder = tmp_path_factory.mktemp("faults")
  (folder / "fault.c").write_text(FAULT)
  library = folder / "fault.so"
  subprocess.run(
    [compiler, "-shared", "-fPIC", "-o", library, folder / "fault.c", "-ldl"],
    check=True,
  )
  return str(library)


def test_a_fault_of_the_file_system_ends_training_with_a_sentence(
  faults, classify, small_model, tmp_path
):
  sayings = {
    f"ckpt-4:{errno.EFBIG}": "model.ckpt-4 cannot be saved: .*File too large",
    f"ckpt-4:{errno.ESTALE}": "model.ckpt-4 cannot be saved: .*Stale file han",
    f"ckpt-4:{errno.EIO}": "model.ckpt-4 cannot be saved: .*Input/output err",
    f"graph.pbtxt:{errno.ESTALE}": "graph.pbtxt.*; Stale file handle",
  }
  flags = dict(classify.defaults, **small_model, train_batch_size=8)
  flags.update(do_train=True, save_checkpoints_steps=4, num_train_epochs=1.5)
  done = run_python(
    *["-c", TRAIN_WITH_FAULTS, *[f"--{n}={v}" for n, v in flags.items()]],
    str(tmp_path),
    FAULTS=" ".join(sayings),
    LD_PRELOAD=faults,
  )
  assert done.stdout.split("\n")[:-1] == ["exit status 1"] * len(sayings)
  assert "Traceback" not in done.stderr
  said = [line for line in done.stderr.splitlines() if "[ERROR]" in line]
  assert len(said) == len(sayings)
  for number, (line, saying) in enumerate(zip(said, sayings.values())):
    assert re.search(saying, line)
    if saying.startswith("model"):
      found = output_dir.inspect(str(tmp_path / str(number)))
      assert found.step == 0 and f"stays {found.checkpoint}" in line
