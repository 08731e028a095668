"""Files that are no UTF-8 text are told for what they are."""

import bz2
import gzip
import lzma
import zipfile

import pytest

from bert_classifier import files, foreign_files
from bert_classifier.errors import UserError

TEXT = "text,label\n" + "a text, that is plain,1\n" * 20


def archive(path):
  with zipfile.ZipFile(path, "w") as writer:
    writer.writestr("xl/workbook.xml", TEXT)


@pytest.mark.parametrize(
  ("content", "said"),
  [
    (archive, "a zip archive, as .xlsx and .ods files are, not text: open it"),
    (gzip.compress(TEXT.encode(), mtime=0), "compressed by gzip, .* gunzip"),
    (bz2.compress(TEXT.encode()), "compressed by bzip2, .* bunzip2"),
    (lzma.compress(TEXT.encode()), "compressed by xz, .* unxz"),
    (TEXT.encode("utf-16"), "encoding UTF-16, but must .* -f UTF-16 -t UTF-8"),
    (TEXT.encode("utf-16-le"), "encoding UTF-16LE, but must be UTF-8"),
    (TEXT.encode("utf-16-be"), "encoding UTF-16BE, but must be UTF-8"),
    (TEXT.encode("utf-32"), "encoding UTF-32, but must be UTF-8"),
  ],
  ids=["zip", "gzip", "bzip2", "xz", "utf-16", "le", "be", "utf-32"],
)
def test_a_file_that_is_no_text_is_told(tmp_path, content, said):
  path = tmp_path / "data.csv"
  if callable(content):
    content(path)
  else:
    path.write_bytes(content)
  with pytest.raises(UserError, match=f"data.csv is (in the )?{said}"):
    foreign_files.refuse(str(path))


@pytest.mark.parametrize("text", ["", "a\0b and more", TEXT, "\ufeff" + TEXT])
def test_text_is_no_foreign_file(tmp_path, text):
  (tmp_path / "a.csv").write_bytes(text.encode())
  foreign_files.refuse(str(tmp_path / "a.csv"))


@pytest.mark.parametrize(
  ("encoding", "text", "name"),
  [
    ("latin-1", "Das Café hat größere Türen.", "WINDOWS-1252"),
    ("cp1252", "“Señor” – él está aquí", "WINDOWS-1252"),
    ("gb18030", "这个宾馆比较陈旧了，特价的房间也很一般。", "GB18030"),
  ],
)
def test_the_encoding_of_other_bytes_is_guessed(tmp_path, encoding, text, name):
  (tmp_path / "a.csv").write_bytes(f"text\n{text}\n".encode(encoding))
  said = f"a.csv:2: the byte 0x.. is not UTF-8; .*iconv -f {name} -t UTF-8"
  with pytest.raises(UserError, match=said):
    list(files.read_lines(str(tmp_path / "a.csv")))
