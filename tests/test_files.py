"""Files: atomic writes, reading line by line, digests."""

import errno
import hashlib
import json
import os
from pathlib import Path
import socket
import stat
import subprocess
import sys
import time

from conftest import ROOT
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import files
from bert_classifier.errors import UserError


def test_what_is_written_appears_whole(tmp_path):
  path = tmp_path / "made.txt"

  def lines():
    yield "a\n"
    assert not path.exists()
    yield "é\n"

  files.write_text(str(path), lines())
  assert path.read_text("utf-8") == "a\né\n"
  assert os.listdir(tmp_path) == ["made.txt"]


def test_no_lines_make_an_empty_file(tmp_path):
  path = tmp_path / "made.txt"
  files.write_text(str(path), [])
  assert path.read_bytes() == b""


def test_an_error_while_writing_keeps_the_old_file_and_no_other(tmp_path):
  path = tmp_path / "made.txt"
  files.write_text(str(path), ["old"])
  with (
    pytest.raises(KeyboardInterrupt),
    files.atomic_write(str(path)) as new,
  ):
    Path(new).write_text("half")
    raise KeyboardInterrupt
  assert path.read_text() == "old" and os.listdir(tmp_path) == ["made.txt"]


DEAD = f"tmp-{socket.gethostname()}-999999999"  # a number of no process


def grow_old(path, hours=25):
  """Makes a file or folder look as if it was written hours ago."""
  written = time.time() - hours * 3600
  os.utime(path, (written, written))


@pytest.mark.parametrize("folder", ["", "./", "{}/", "{}//"])
def test_only_what_dead_processes_of_this_machine_left_is_removed(
  tmp_path, monkeypatch, folder
):
  path = folder.format(tmp_path) + "a[1].txt"
  name = f"a[1].txt.tmp-{socket.gethostname()}"
  kept = {"a[1].txt", f"{name}-{os.getppid()}", "a[1].txt.tmp-elsewhere-99"}
  kept |= {f"{name}-{os.getppid()}-0a1b2c3d", f"{name}-note"}
  kept |= {f"b{name}-999999999"}
  for left in kept | {f"{name}-999999999", f"{name}-999999999-0a1b2c3d"}:
    (tmp_path / left).write_text("")
    grow_old(tmp_path / left)
  monkeypatch.chdir(tmp_path)
  files.write_text(path, ["x"])
  assert set(os.listdir(tmp_path)) == kept


def test_what_was_written_within_a_day_may_be_anothers_of_this_name(tmp_path):
  left = tmp_path / f"made.txt.{DEAD}-0a1b2c3d"
  left.write_text("")
  grow_old(left, hours=23)
  files.write_text(str(tmp_path / "made.txt"), ["x"])
  assert left.exists()


def test_what_cannot_be_removed_keeps_nobody_from_writing(
  tmp_path, monkeypatch
):
  left = tmp_path / f"made.txt.{DEAD}-0a1b2c3d"
  left.write_text("")
  grow_old(left)

  def refuse(path):
    raise tf.errors.PermissionDeniedError(None, None, path)

  monkeypatch.setattr(tf.io.gfile, "remove", refuse)
  files.write_text(str(tmp_path / "made.txt"), ["x"])
  assert (tmp_path / "made.txt").read_text() == "x" and left.exists()


def test_a_temporary_folder_goes_and_so_does_that_of_a_dead_process(tmp_path):
  path = str(tmp_path / "made")
  for name, hours in (("0a", 25), ("0b", 23), ("0c", 25)):
    left = tmp_path / f"made.{DEAD}-{name}"
    left.mkdir()
    (left / "file").write_text("")
    grow_old(left / "file", hours)
    grow_old(left)
  (tmp_path / f"made.{DEAD}-0c" / "new").write_text("")
  with files.temporary_folder(path) as first:
    with files.temporary_folder(path) as second:
      Path(second, "file").write_text("")
    assert os.path.isdir(first) and not os.path.exists(second)
  left = {f"made.{DEAD}-0b", f"made.{DEAD}-0c"}
  assert set(os.listdir(tmp_path)) == left


WRITE_UNTIL_KILLED = """if True:
  import os, signal, sys
  from bert_classifier import files
  with files.atomic_write(sys.argv[1]), files.temporary_folder(sys.argv[1]):
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_is_removed_and_a_live_ones_is_not(tmp_path):
  path = str(tmp_path / "made")
  killed = subprocess.Popen(
    [sys.executable, "-c", WRITE_UNTIL_KILLED, path],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    cwd=ROOT,
  )
  with killed, files.atomic_write(path), files.temporary_folder(path):
    assert killed.stdout.readline() == b"ready\n"
    files.remove_abandoned(str(tmp_path), "made")
    assert len(os.listdir(tmp_path)) == 4
    killed.kill()
    killed.wait()
    files.remove_abandoned(str(tmp_path), "other")
    assert len(os.listdir(tmp_path)) == 4
    # In another container, which may have any name, the numbers are others.
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(socket, "gethostname", lambda: "elsewhere")
      files.remove_abandoned(str(tmp_path), "made")
    left = os.listdir(tmp_path)
    assert len(left) == 2
    assert all(f"-{os.getpid()}-" in name for name in left)
  assert os.listdir(tmp_path) == ["made"]


def test_without_locks_what_may_be_anothers_is_kept_for_a_day(
  tmp_path, monkeypatch
):
  def refuse(*_):
    raise OSError(errno.ENOLCK, "no locks")

  monkeypatch.setattr(files.fcntl, "flock", refuse)
  with files.temporary_folder(str(tmp_path / "made")) as folder:
    name = os.path.basename(folder)
  (tmp_path / name).mkdir()
  files.remove_abandoned(str(tmp_path), "made")
  assert os.listdir(tmp_path) == [name]


def test_names_of_remote_folders_have_no_slash_at_their_end():
  tf.io.gfile.makedirs("ram://test_list/eval")
  assert files.list_matching("ram://test_list", "eval") == [
    "ram://test_list/eval"
  ]


def test_two_writers_of_one_name_and_process_id_do_not_meet(tmp_path):
  path = str(tmp_path / "made.txt")
  with files.atomic_write(path) as first, files.atomic_write(path) as second:
    Path(first).write_text("first")
    Path(second).write_text("second")
  assert Path(path).read_text() == "first"  # which ended last
  assert os.listdir(tmp_path) == ["made.txt"]


@pytest.fixture
def calls(monkeypatch):
  """Returns the list of ("sync", inode) and ("rename", inode), in order."""
  made, fsync, rename = [], os.fsync, tf.io.gfile.rename

  def record_sync(descriptor):
    made.append(("sync", os.fstat(descriptor).st_ino))
    fsync(descriptor)

  def record_rename(source, target, overwrite=False):
    if "://" not in source:
      made.append(("rename", os.stat(source).st_ino))
    rename(source, target, overwrite)

  monkeypatch.setattr(os, "fsync", record_sync)
  monkeypatch.setattr(tf.io.gfile, "rename", record_rename)
  return made


def test_a_file_is_synced_then_renamed_then_its_folder_is_synced(
  tmp_path, calls
):
  path = tmp_path / "made.txt"
  files.write_text(str(path), ["x"])
  file = path.stat().st_ino
  folder = tmp_path.stat().st_ino
  assert calls == [("sync", file), ("rename", file), ("sync", folder)]


def test_a_remote_file_is_written_without_syncing(calls):
  path = "ram://test_files/made.txt"
  files.write_text(path, ["x"])
  assert files.read_text(path) == "x" and not calls


def test_a_sync_that_fails_keeps_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / "made.txt"
  files.write_text(str(path), ["old"])

  def fail(descriptor):
    raise OSError(errno.EIO, "Input/output error")

  monkeypatch.setattr(os, "fsync", fail)
  with pytest.raises(OSError, match="Input/output"):
    files.write_text(str(path), ["new"])
  assert path.read_text() == "old" and os.listdir(tmp_path) == ["made.txt"]


def test_a_file_system_that_syncs_no_folders_is_written_to(
  tmp_path, monkeypatch
):
  fsync = os.fsync

  def sync_files_only(descriptor):
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
      raise OSError(errno.EINVAL, "Invalid argument")
    fsync(descriptor)

  monkeypatch.setattr(os, "fsync", sync_files_only)
  files.write_text(str(tmp_path / "made.txt"), ["x"])
  assert (tmp_path / "made.txt").read_text() == "x"


@pytest.mark.parametrize(
  ("content", "lines"),
  [
    (b"", []),
    (b"\xef\xbb\xbf", []),
    (b"a\nb", [(1, "a"), (2, "b")]),
    (b"\n\r\na\r\n\nb\n", [(3, "a"), (5, "b")]),
    (b"a\rb\r\rc", [(1, "a"), (2, "b"), (4, "c")]),
    (b"a\rb\n", [(1, "a\rb")]),
    (b"x" * (1 << 20) + b"\ry\nz", [(1, "x" * (1 << 20) + "\ry"), (2, "z")]),
    (
      b"\r" + b"x" * (1 << 20) + b"\nz",
      [(1, "\r" + "x" * (1 << 20)), (2, "z")],
    ),
    (b"x" * (1 << 20) + b"\ry", [(1, "x" * (1 << 20)), (2, "y")]),
  ],
  ids=[*map(str, range(6)), "return behind", "return ahead", "returns behind"],
)
def test_lines_end_in_lf_or_crlf_or_where_there_is_neither_in_cr(
  tmp_path, content, lines
):
  (tmp_path / "file").write_bytes(content)
  sha256 = hashlib.sha256()
  assert list(files.read_lines(str(tmp_path / "file"), sha256)) == lines
  assert sha256.digest() == hashlib.sha256(content).digest()


@pytest.mark.parametrize("line", [1, 2, 5000])
def test_what_is_not_utf8_is_named_with_its_line(tmp_path, line):
  content = b"\xc3\xa9" + b"x" * 400 + b"\n"
  (tmp_path / "file").write_bytes(content * (line - 1) + b"a\xe9b\n")
  with pytest.raises(UserError, match=rf"file:{line}: the byte 0xe9 is not"):
    list(files.read_lines(str(tmp_path / "file")))


def test_a_character_may_stand_across_two_blocks(tmp_path):
  text = "é" * (1 << 20) + "\n" + "x" + "é" * (1 << 20)
  (tmp_path / "file").write_text(text, encoding="utf-8")
  lines = [line for _, line in files.read_lines(str(tmp_path / "file"))]
  assert lines == text.split("\n")


def test_digest_is_that_of_hashlib(tmp_path):
  content = bytes(range(256)) * 9000
  (tmp_path / "file").write_bytes(content)
  expected = hashlib.sha256(content).hexdigest()
  assert files.hash_file(str(tmp_path / "file")) == expected


@pytest.mark.parametrize(
  "content", [None, "", "{", '{"a": "\udce9"}', "[" * 200_000]
)
def test_json_that_is_missing_or_broken_is_none(tmp_path, content):
  path = tmp_path / "file.json"
  if content is not None:
    path.write_bytes(content.encode(errors="surrogateescape"))
  assert files.read_json(str(path)) is None


def test_json_that_cannot_be_read_is_not_taken_for_missing(tmp_path):
  with pytest.raises(tf.errors.OpError, match="directory"):
    files.read_json(str(tmp_path))


def test_json_may_begin_with_a_byte_order_mark(tmp_path):
  path = tmp_path / "file.json"
  path.write_text('{"a": 1}', "utf-8-sig")
  assert files.read_json(str(path)) == {"a": 1}


def test_json_is_read_as_it_was_written(tmp_path):
  path, value = tmp_path / "file.json", {"b": [1, None], "a": "é"}
  files.write_json(str(path), value)
  assert files.read_json(str(path)) == json.loads(path.read_text()) == value


def test_a_folder_is_writable_where_a_file_can_be_made(tmp_path):
  (tmp_path / "file").write_text("")
  assert files.is_writable(str(tmp_path))
  assert not files.is_writable(str(tmp_path / "missing"))
  assert not files.is_writable(str(tmp_path / "file"))
  assert os.listdir(tmp_path) == ["file"]


def test_two_processes_that_try_a_folder_do_not_meet(tmp_path, monkeypatch):
  remove = tf.io.gfile.remove

  def remove_after_another(path):
    monkeypatch.setattr(tf.io.gfile, "remove", remove)
    assert files.is_writable(str(tmp_path))
    remove(path)

  monkeypatch.setattr(tf.io.gfile, "remove", remove_after_another)
  assert files.is_writable(str(tmp_path))
