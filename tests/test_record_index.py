"""The index of a TFRecord file, and reading by it."""

from concurrent import futures
import hashlib
import pathlib
import shutil
from unittest import mock

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import record_index
from bert_classifier.errors import UserError


@pytest.fixture
def records():
  """Records of many lengths, one of them empty and one long."""
  numbers = np.random.default_rng(0)
  sizes = [0, 100_000, *numbers.integers(1, 3000, 200)]
  return [numbers.bytes(size) for size in sizes]


@pytest.fixture
def path(records, tmp_path):
  """A TFRecord file of them."""
  return write(records, f"{tmp_path}/records")


def write(records, path):
  with tf.io.TFRecordWriter(path) as writer:
    for record in records:
      writer.write(record)
  return path


def index(path, records, *others):
  with tf.io.gfile.GFile(path, "rb") as reader:
    digest = hashlib.sha256(reader.read()).hexdigest()
  paths = [*others, f"{path}.index"]
  return record_index.find_or_make(
    paths,
    record_index.OFFSETS,
    digest,
    len(records) + 1,
    lambda: record_index.scan_offsets(path),
  )


@pytest.mark.parametrize("chunk", [1 << 24, 1000])
@pytest.mark.parametrize("has_pread", [True, False])
def test_records_are_read_by_their_numbers(
  path, records, chunk, has_pread, monkeypatch
):
  monkeypatch.setattr(record_index, "_CHUNK_BYTES", chunk)
  if not has_pread:
    monkeypatch.delattr("os.pread")
  made = index(path, records)
  assert tf.io.gfile.stat(made).length == 8 * (len(records) + 1) + 80
  reader = record_index.RecordReader(path, made)
  assert reader.num_records == len(records)
  order = np.random.default_rng(1).permutation(len(records))
  with futures.ThreadPoolExecutor(4) as pool:
    for part in pool.map(reader.read, np.array_split(order, 20)):
      assert part.dtype == object
      np.testing.assert_array_equal(
        part, [records[i] for i in order[: len(part)]]
      )
      order = order[len(part) :]


def test_remote_records_are_copied_and_read(records, monkeypatch):
  remote = write(records, "ram://test_record_index/records")
  reader = record_index.RecordReader(remote, index(remote, records))
  assert list(reader.read(np.array([5, 1, 0]))) == [
    records[5],
    records[1],
    records[0],
  ]
  monkeypatch.setattr(shutil, "disk_usage", lambda folder: mock.Mock(free=9))
  with pytest.raises(UserError, match="has 9 left: set TMPDIR"):
    record_index.RecordReader(remote, index(remote, records))


def test_an_index_is_made_once_and_again_where_it_is_not_right(
  path, records, tmp_path
):
  made = pathlib.Path(index(path, records))
  right = made.read_bytes()
  with mock.patch.object(record_index, "scan_offsets") as scan:
    assert index(path, records, f"{tmp_path}/none") == str(made)
    assert not scan.called
  for damaged in (right[:-1], right[:-81] + b"\1" + right[-80:], b""):
    made.write_bytes(damaged)
    index(path, records)
    assert made.read_bytes() == right
  write(records[::-1], path)  # a file of the same size
  index(path, records)
  reader = record_index.RecordReader(path, str(made))
  assert reader.read(np.array([0]))[0] == records[-1]


def test_records_that_are_gone_are_an_error(path, records):
  reader = record_index.RecordReader(path, index(path, records))
  with open(path, "r+b") as file:
    file.truncate(1000)
  with pytest.raises(OSError, match="records changed while it was in use"):
    reader.read(np.array([100]))
