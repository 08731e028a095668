"""Files that are no UTF-8 text: what they are, and how to make text of them."""

import codecs
import re

import tensorflow.compat.v1 as tf

from bert_classifier import errors

_SAVE_AS = "open it in the spreadsheet program and save it as CSV UTF-8"
_UNPACK = "unpack it"
# What the first bytes of a file say that it is, and what to do with it.
_KINDS = (
  (b"PK\x03\x04", "a zip archive, as .xlsx and .ods files are", _SAVE_AS),
  (b"\xd0\xcf\x11\xe0", "a file of an old Excel (.xls)", _SAVE_AS),
  (b"\x1f\x8b", "compressed by gzip", f"{_UNPACK}, as by gunzip"),
  (b"BZh", "compressed by bzip2", f"{_UNPACK}, as by bunzip2"),
  (b"\xfd7zXZ\0", "compressed by xz", f"{_UNPACK}, as by unxz"),
  (b"\x28\xb5\x2f\xfd", "compressed by zstd", f"{_UNPACK}, as by unzstd"),
  (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
  (b"Rar!", "a RAR archive", _UNPACK),
  (
    b"PAR1",
    "a Parquet file",
    "write it as CSV, as by pandas.read_parquet(old).to_csv(new, index=False)",
  ),
  (b"ARROW1", "an Arrow file", "write it as CSV"),
  (b"SQLite format 3", "an SQLite database", "write its table as CSV"),
  (b"%PDF", "a PDF file", "give the texts as CSV"),
)
_BEGINNING = 4096  # bytes that are looked at
_HALF_NUL = 0.25  # share of NUL bytes from which on a text is UTF-16


def refuse(path):
  """Raises a UserError where a file's first bytes are not those of UTF-8 text.

  A NUL now and then is text; see `files.read_lines` for bytes further on.
  """
  with tf.io.gfile.GFile(path, "rb") as reader:
    beginning = reader.read(_BEGINNING)
  for magic, kind, advice in _KINDS:
    if beginning.startswith(magic):
      raise errors.UserError(f"{path} is {kind}, not text: {advice}")
  encoding = _find_utf_16(beginning)
  if encoding:
    raise errors.UserError(
      f"{path} is in the encoding {encoding}, but must be UTF-8:"
      f" {_convert(encoding)}"
    )


def _find_utf_16(beginning):
  """Returns the name of the encoding of UTF-16 or UTF-32, "" of others."""
  for mark, name in (
    (codecs.BOM_UTF32_LE, "UTF-32"),  # before that of UTF-16, its beginning
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
  ):
    if beginning.startswith(mark):
      return name
  even, odd = beginning[::2].count(0), beginning[1::2].count(0)
  if even + odd <= _HALF_NUL * len(beginning):
    return ""
  return "UTF-16LE" if odd > even else "UTF-16BE"


def suggest_encoding(data):
  """Returns a hint at the encoding of bytes that are not UTF-8.

  >>> suggest_encoding("café".encode("cp1252"))
  'it may be Windows-1252: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW'
  """
  high = len(re.findall(rb"[\x80-\xff]", data))
  in_pairs = 2 * len(re.findall(rb"[\x81-\xfe][\x80-\xfe]", data))
  # In Chinese text most high bytes come in pairs, in European text they do not.
  encoding = "GB18030" if in_pairs > 0.7 * high else "Windows-1252"
  return f"it may be {encoding}: {_convert(encoding)}"


def _convert(encoding):
  return f"iconv -f {encoding.upper()} -t UTF-8 OLD > NEW"
