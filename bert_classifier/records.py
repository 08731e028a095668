"""Records: the bytes of tf.train.Example, written without it.

A record is a protocol buffer: fields within fields, each a number, a length and
a content (https://protobuf.dev/programming-guides/encoding).
"""

import numbers
import struct

from bert_classifier.fast_tokenization import Memory

# The feature that says of a window how many its text has; 1 where it lacks.
NUM_WINDOWS = "num_windows"
_MAX_ENTRIES = 1 << 18  # more than a vocabulary has


def serialize(features):
  """Returns the bytes of the `tf.train.Example` of `features.InputFeatures`.

  A list of whole numbers becomes an int64 list, any other a float list.
  """
  return _delimited(1, _features(features.as_dict()))


def _features(lists):
  """Returns the entries of tf.train.Features of lists of numbers by name."""
  return b"".join(_feature(name, *_packed(lists[name])) for name in lists)


def _packed(values):
  """Returns the number of a list's field in tf.train.Feature, and its bytes."""
  kinds = set(map(type, values))
  if all(issubclass(kind, numbers.Integral) for kind in kinds):
    return 3, b"".join(map(_varint, values))
  return 2, struct.pack(f"<{len(values)}f", *values)


class RecordEncoder:
  """Encodes records from parts that repeat, to the bytes of `serialize`.

  Apart from ids and label, a record depends on two small numbers and S alone:
  it is joined from slices of the same zeros and ones, and the bytes of ids and
  labels are remembered. Going through tf.train.Example took as long as all the
  rest of a conversion.

  Args:
    seq_length: S.
    target: see `targets`; says what the label's features are.
  """

  def __init__(self, seq_length, target):
    self.seq_length, self.target = seq_length, target
    self.zeros = bytes(seq_length)
    self.ones_and_zeros = b"\1" * seq_length + self.zeros
    self.bytes_of_id = Memory(_varint, _MAX_ENTRIES)
    self.head_of_size = Memory(self._head, _MAX_ENTRIES)
    self.end_of_value = Memory(self._end, _MAX_ENTRIES)
    self.end_of_number = Memory(_number_of_windows, _MAX_ENTRIES)
    self.mask_head = self._before_values("input_mask")
    self.segments_head = self._before_values("segment_ids")

  def __call__(self, ids, in_first, value, num_windows=1):
    """Returns the record of ids, the first `in_first` of them of segment 0.

    Args:
      ids: list of up to S numbers.
      in_first: number of them.
      value: what the target makes of the label.
      num_windows: see `windows`; 1 is left out.
    """
    values = b"".join(map(self.bytes_of_id.__getitem__, ids))
    blank = self.seq_length - len(ids)
    mask = self.ones_and_zeros[blank : blank + self.seq_length]
    end = self.end_of_value[value]
    if num_windows > 1:
      end += self.end_of_number[num_windows]
    return b"".join(
      (
        self.head_of_size[len(values) + blank, len(end)],
        values,
        self.zeros[:blank],
        self.mask_head,
        mask,
        self.segments_head,
        self.zeros[:in_first],
        mask[in_first:],
        end,
      )
    )

  def _head(self, sizes):
    """Returns the bytes before the ids' values.

    Args:
      sizes: number of bytes of these values, and of the features of `_end`.
    """
    size, end = sizes
    rest = 2 * self.seq_length + len(self.mask_head + self.segments_head) + end
    whole = _delimited(1, _feature("input_ids", 3, bytes(size)) + bytes(rest))
    return whole[: len(whole) - size - rest]

  def _before_values(self, name):
    """Returns the bytes before the values of S numbers of one byte each."""
    return _feature(name, 3, self.zeros)[: -self.seq_length]

  def _end(self, value):
    """Returns the bytes of the features behind those of S numbers."""
    return _features({**self.target.features(value), "is_real_example": [1]})


def _number_of_windows(number):
  """Returns the bytes of the feature that is there of several windows alone."""
  return _features({NUM_WINDOWS: [number]})


def _feature(name, kind, values):
  """Returns an entry of tf.train.Features.

  Args:
    name: of the feature.
    kind: number of the list's field in tf.train.Feature: 2 for floats of 4
      bytes, 3 for varints.
    values: bytes of the list's values.
  """
  packed = _delimited(kind, _delimited(1, values))
  return _delimited(1, _delimited(1, name.encode()) + _delimited(2, packed))


def _delimited(number, content):
  """Returns a field of a protocol buffer: its number, length and content."""
  return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(number):
  """Returns a whole number in groups of 7 bits, the lowest first.

  >>> _varint(5), _varint(300)
  (b'\\x05', b'\\xac\\x02')
  """
  number = int(number)
  if number < 0:  # counts from 2**64
    number += 1 << 64
  groups = []
  while number > 127:
    groups.append(number & 127 | 128)
    number >>= 7
  groups.append(number)
  return bytes(groups)
