"""Mistakes and mishaps become sentences, bugs keep their traceback."""

import logging
import threading

import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import errors


@pytest.mark.parametrize(
  ("error", "sentence"),
  [
    (errors.UserError("give another"), "give another"),
    (errors.MissingFileError("x: no such file"), "x: no such file"),
    (OSError(28, "No space left on device", "f"), "'f': make room there"),
    (
      RuntimeError("f; No space left on device\n\tFailed to flush 2 events"),
      "f; No space left on device: make room there",
    ),
    (
      tf.errors.PermissionDeniedError(None, None, "f; Permission denied"),
      "f; Permission denied: change its permissions",
    ),
    (OSError(30, "Read-only file system", "f"), "write to another folder"),
    (MemoryError(), "the memory is exhausted"),
    (tf.errors.ResourceExhaustedError(None, None, "f; no space"), "no space"),
    (
      tf.errors.DataLossError(None, None, "f: checksum does not match"),
      "match: the file is damaged; copy or download it again",
    ),
    (tf.errors.NotFoundError(None, None, "f: gone [[node]]"), "f: gone"),
    (
      tf.errors.FailedPreconditionError(None, None, "f is not a directory"),
      "f is not a directory",
    ),
    (
      tf.errors.UnimplementedError(
        None, None, "File system scheme 's3' not implemented"
      ),
      "scheme 's3'",
    ),
    (tf.errors.ResourceExhaustedError(None, None, "OOM when"), "smaller"),
  ],
)
def test_mistakes_and_mishaps_become_sentences(error, sentence):
  assert sentence in errors.describe(error)
  assert "[[" not in errors.describe(error)


@pytest.mark.parametrize(
  "error",
  [
    ValueError("3 is not in list"),
    KeyError("label"),
    RuntimeError("main thread is not in main loop"),
    tf.errors.InvalidArgumentError(None, None, "shapes"),
    tf.errors.FailedPreconditionError(None, None, "uninitialized value w"),
    tf.errors.FailedPreconditionError(None, None, "table not initialized"),
    tf.errors.NotFoundError(None, None, "Key w not found in checkpoint"),
    tf.errors.UnimplementedError(None, None, "Cast of int to string"),
  ],
)
def test_anything_else_is_a_bug(error):
  assert errors.describe(error) is None


def leave_with(error):
  """Returns the exit status of a block that an error leaves."""
  with (
    pytest.raises(SystemExit) as exit_,
    errors.exit_with_a_sentence(),
  ):
    raise error
  return exit_.value.code


def test_exit_statuses_tell_the_three_apart(capsys, caplog):
  caplog.set_level(logging.ERROR, "absl")
  assert leave_with(errors.UserError("give another")) == 1
  assert leave_with(KeyboardInterrupt()) == 130
  assert "Traceback" not in capsys.readouterr().err
  assert leave_with(ValueError("3 is not in list")) == 70
  assert "ValueError: 3 is not in list" in capsys.readouterr().err


def test_a_missing_file_is_both_a_mistake_and_a_missing_file():
  with pytest.raises(FileNotFoundError):
    raise errors.MissingFileError("x")


@pytest.mark.parametrize(
  ("name", "reason", "shown"),
  [
    ("EventLoggerThread", "f; No space left on device", False),
    ("EventLoggerThread", "shapes", True),
    ("another", "f; No space left on device", True),
  ],
)
def test_what_the_writer_of_events_hands_on_is_not_shown_twice(
  monkeypatch, name, reason, shown
):
  def fail():
    raise RuntimeError(reason)

  seen = []
  monkeypatch.setattr(threading, "excepthook", seen.append)
  with errors.exit_with_a_sentence():
    thread = threading.Thread(target=fail, name=name)
    thread.start()
    thread.join()
  assert len(seen) == shown
