"""Mutations: each damages or changes one file of a world.

A mutation is a function of a random generator and the file's path, which it
changes in place, and perhaps of the world; it returns what it did, as a phrase,
or None where it cannot be applied to this file. `MUTATIONS` lists them by kind
of file. The bytes are those of `random.Random`, so a mutation is the same in
every process.
"""

import shutil

from mutations_json import JSON
from mutations_tensors import (
  TENSORS,
  change_header,
  edit_state,
  swap_whole_checkpoint,
  swap_with_other_model,
)

# ---------------------------------------------------------------------------
# Any file


def flip_bits(rng, path, world):
  data = bytearray(path.read_bytes())
  if not data:
    return None
  places = [rng.randrange(len(data)) for _ in range(rng.choice([1, 1, 2, 8]))]
  for place in places:
    data[place] ^= 1 << rng.randrange(8)
  path.write_bytes(data)
  return f"bits flipped at {sorted(places)}"


def replace_bytes(rng, path, world):
  data = bytearray(path.read_bytes())
  if not data:
    return None
  place, size = rng.randrange(len(data)), rng.choice([1, 4, 16, 64])
  data[place : place + size] = rng.randbytes(size)
  path.write_bytes(data)
  return f"{size} random bytes at {place}"


def insert_bytes(rng, path, world):
  data = path.read_bytes()
  place, size = rng.randint(0, len(data)), rng.choice([1, 3, 8, 100])
  new = rng.choice([bytes(size), rng.randbytes(size), b"\xff" * size])
  path.write_bytes(data[:place] + new + data[place:])
  return f"{size} bytes {new[:4]!r}... inserted at {place}"


def truncate(rng, path, world):
  data = path.read_bytes()
  if not data:
    return None
  size = rng.randrange(len(data))
  path.write_bytes(data[:size])
  return f"cut to {size} of {len(data)} bytes"


def append_garbage(rng, path, world):
  new = rng.choice([b"\0" * 7, b"garbage", rng.randbytes(20), b"\n\n\n"])
  path.write_bytes(path.read_bytes() + new)
  return f"{new!r} appended"


def remove_bytes(rng, path, world):
  data = path.read_bytes()
  if not data:
    return None
  place, size = rng.randrange(len(data)), rng.choice([1, 2, 10])
  path.write_bytes(data[:place] + data[place + size :])
  return f"{size} bytes taken out at {place}"


def make_empty(rng, path, world):
  path.write_bytes(b"")
  return "emptied"


def remove(rng, path, world):
  path.unlink()
  return "removed"


def replace_by_folder(rng, path, world):
  path.unlink()
  path.mkdir()
  return "a folder in its place"


def replace_by_dangling_link(rng, path, world):
  path.unlink()
  path.symlink_to("nothing-there")
  return "a link to nothing in its place"


def replace_by_another(rng, path, world):
  others = sorted(
    other
    for other in world.rglob("*")
    if other.is_file() and other != path and "events" not in other.name
  )
  other = rng.choice(others)
  shutil.copyfile(other, path)
  return f"replaced by a copy of {other.relative_to(world)}"


ANY = [
  *[flip_bits, replace_bytes, insert_bytes, truncate, append_garbage],
  *[remove_bytes, make_empty, remove, replace_by_folder],
  *[replace_by_dangling_link, replace_by_another],
]

# ---------------------------------------------------------------------------
# Texts


def _read_lines(path):
  return path.read_bytes().decode("utf-8").split("\n")[:-1]


def _write_lines(path, lines):
  path.write_bytes("".join(line + "\n" for line in lines).encode("utf-8"))


def use_crlf(rng, path, world):
  path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
  return "CRLF"


def use_cr(rng, path, world):
  path.write_bytes(path.read_bytes().replace(b"\n", b"\r"))
  return "CR"


def add_bom(rng, path, world):
  path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
  return "a byte-order mark"


def drop_last_newline(rng, path, world):
  path.write_bytes(path.read_bytes().rstrip(b"\n"))
  return "without the last line end"


def add_blank_lines(rng, path, world):
  path.write_bytes(path.read_bytes() + b"\n" * rng.randint(1, 3))
  return "blank lines at the end"


def encode_otherwise(rng, path, world):
  encoding = rng.choice(["utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252"])
  text = path.read_bytes().decode("utf-8")
  path.write_bytes(text.encode(encoding, errors="replace"))
  return encoding


def drop_line(rng, path, world):
  lines = _read_lines(path)
  number = rng.randrange(len(lines))
  del lines[number]
  _write_lines(path, lines)
  return f"line {number + 1} dropped"


def double_line(rng, path, world):
  lines = _read_lines(path)
  number = rng.randrange(len(lines))
  lines.insert(rng.randint(0, len(lines)), lines[number])
  _write_lines(path, lines)
  return f"line {number + 1} doubled"


def swap_lines(rng, path, world):
  lines = _read_lines(path)
  a, b = rng.sample(range(len(lines)), 2)
  lines[a], lines[b] = lines[b], lines[a]
  _write_lines(path, lines)
  return f"lines {a + 1} and {b + 1} swapped"


def shuffle_lines(rng, path, world):
  lines = _read_lines(path)
  rng.shuffle(lines)
  _write_lines(path, lines)
  return "lines shuffled"


def insert_blank_line(rng, path, world):
  lines = _read_lines(path)
  lines.insert(rng.randint(0, len(lines)), rng.choice(["", "", " ", "\t"]))
  _write_lines(path, lines)
  return "a blank line inserted"


def insert_nul(rng, path, world):
  text = path.read_bytes().decode("utf-8")
  place = rng.randint(0, len(text))
  path.write_bytes((text[:place] + "\0" + text[place:]).encode())
  return f"a NUL at {place}"


def insert_odd_character(rng, path, world):
  text = path.read_bytes().decode("utf-8")
  place = rng.randint(0, len(text))
  char = rng.choice('\u200b\ufeff\xa0\u2028\x85\x1c\r"\U0001f600\u0301\x0b')
  path.write_bytes((text[:place] + char + text[place:]).encode("utf-8"))
  return f"{char!a} at {place}"


LINES = [
  *[use_crlf, use_cr, add_bom, drop_last_newline, add_blank_lines],
  *[encode_otherwise, drop_line, double_line, swap_lines, shuffle_lines],
  *[insert_blank_line, insert_nul, insert_odd_character],
]

# ---------------------------------------------------------------------------
# Tables


def _change_cell(change):
  """Returns a mutation: a change of one row's cells, after the header."""

  def mutate(rng, path, world):
    lines = _read_lines(path)
    number = rng.randrange(len(lines))
    cells = lines[number].split("\t")
    said = change(rng, cells)
    lines[number] = "\t".join(cells)
    _write_lines(path, lines)
    return f"line {number + 1}: {said}"

  mutate.__name__ = change.__name__
  return mutate


@_change_cell
def drop_cell(rng, cells):
  number = rng.randrange(len(cells))
  del cells[number]
  return f"cell {number} dropped"


@_change_cell
def add_cell(rng, cells):
  number = rng.randint(0, len(cells))
  cells.insert(number, rng.choice(["", "1", "new text"]))
  return f"cell {number} added"


@_change_cell
def swap_cells(rng, cells):
  a, b = rng.choices(range(len(cells)), k=2)
  cells[a], cells[b] = cells[b], cells[a]
  return f"cells {a} and {b} swapped"


@_change_cell
def empty_cell(rng, cells):
  number = rng.randrange(len(cells))
  cells[number] = rng.choice(["", "", " ", "  "])
  return f"cell {number} is blank"


@_change_cell
def change_label(rng, cells):
  number = rng.choice([0, 1, -1])
  number = min(number, len(cells) - 1)
  new = rng.choice(
    ["0", "1", "2", "1.0", " 1", "nan", "yes", "YES", "-1", "01"]
  )
  cells[number] = new
  return f"cell {number} is {new!r}"


@_change_cell
def change_words(rng, cells):
  words = cells[-1].split()
  rng.shuffle(words)
  cells[-1] = " ".join([*words, rng.choice(["dog", "queen", "zebra"])])
  return "other words"


@_change_cell
def quote_cell(rng, cells):
  number = rng.randrange(len(cells))
  cells[number] = rng.choice(['"{}"', '"{}', '{}"']).format(cells[number])
  return f"cell {number} in quotes"


@_change_cell
def use_strange_text(rng, cells):
  new = rng.choice(
    [
      "\u96e8\u5929",
      "x" * 201,
      "CAF\u00c9 Dog",
      "[SEP] [MASK]",
      "\u0301",
      "NaN",
    ]
    + ["- ' - '", "\U0001f600 dog", "a" * 3000, "dog " * 500, "I\u0307\u0130"]
  )
  cells[-1] = new
  return f"the text is {new[:12]!a}"


def drop_column(rng, path, world):
  rows = [line.split("\t") for line in _read_lines(path)]
  number = rng.randrange(len(rows[0]))
  rows = [row[:number] + row[number + 1 :] for row in rows]
  _write_lines(path, ["\t".join(row) for row in rows])
  return f"column {number} dropped"


def add_column(rng, path, world):
  rows = [line.split("\t") for line in _read_lines(path)]
  number = rng.randint(0, len(rows[0]))
  new = rng.choice(["", "new"])
  for row in rows:
    row.insert(number, new)
  _write_lines(path, ["\t".join(row) for row in rows])
  return f"column {number} added"


def separate_otherwise(rng, path, world):
  separator = rng.choice([b",", b";", b" ", b"  "])
  path.write_bytes(path.read_bytes().replace(b"\t", separator))
  return f"{separator!r} for tabs"


def keep_few_lines(rng, path, world):
  lines = _read_lines(path)
  number = rng.randint(1, 3)
  _write_lines(path, lines[:number])
  return f"only the first {number} lines"


def sort_lines(rng, path, world):
  lines = _read_lines(path)
  _write_lines(path, lines[:1] + sorted(lines[1:]))
  return "lines sorted after the first"


def repeat_lines(rng, path, world):
  lines = _read_lines(path)
  _write_lines(path, lines + lines[1:])
  return "every line but the first twice"


def one_label(rng, path, world):
  rows = [line.split("\t") for line in _read_lines(path)]
  label = rows[1][1]
  for row in rows[1:]:
    if len(row) == 4:
      row[1] = label
  _write_lines(path, ["\t".join(row) for row in rows])
  return "column 1 the same in all rows"


TABLES = [
  *[drop_cell, add_cell, swap_cells, empty_cell, change_label, change_label],
  *[change_words, change_words, quote_cell, use_strange_text, drop_column],
  *[add_column, separate_otherwise, keep_few_lines, sort_lines, repeat_lines],
  one_label,
]

# ---------------------------------------------------------------------------
# Vocabularies


def drop_special_token(rng, path, world):
  token = rng.choice(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
  lines = _read_lines(path)
  how = rng.choice(["dropped", "lower-cased", "empty"])
  new = {"dropped": [], "lower-cased": [token.lower()], "empty": [""]}[how]
  lines = [n for line in lines for n in (new if line == token else [line])]
  _write_lines(path, lines)
  return f"{token} {how}"


def append_token(rng, path, world):
  lines = _read_lines(path)
  new = rng.choice([lines[-1], "zebra", "Zebra", "[CLS]"])
  _write_lines(path, [*lines, new])
  return f"{new!r} at the end"


def use_upper_case(rng, path, world):
  path.write_bytes(path.read_bytes().decode().upper().encode())
  return "upper case"


def add_spaces(rng, path, world):
  space = rng.choice([" ", "\t", "\xa0", "\u3000"])
  _write_lines(path, [line + space for line in _read_lines(path)])
  return f"{space!a} after each token"


def add_counts(rng, path, world):
  lines = _read_lines(path)
  _write_lines(path, [f"{line}\t{n}" for n, line in enumerate(lines)])
  return "a number after each token"


VOCABULARIES = [
  *[drop_special_token, append_token, use_upper_case, add_spaces, add_counts],
]

# ---------------------------------------------------------------------------
# Flagfiles

_FLAGS = [
  *["--max_seq_length=24.0", "--max_seq_length=12", "--max_seq_length=4"],
  *["--max_seq_length=33", "--train_batch_size=5", "--train_batch_size=1000"],
  *["--learning_rate=nan", "--learning_rate=0", "--learning_rate=1e30"],
  *["--num_train_epochs=0.1", "--num_train_epochs=1e400", "--seed=-1"],
  *["--seed=8", "--warmup_proportion=2", "--warmup_proportion=0"],
  *["--eval_batch_size=3", "--do_eval=maybe", "--nodo_eval", "--do_predict=f"],
  *["--task_name=MRPC", "--task_name=cola", "--task_name=", "--data_dir="],
  *["--output_dir=", "--learning_rat=1", "--flagfile=mrpc.flags", "--num"],
  *["--init_checkpoint=", "--init_checkpoint=other", "--vocab_file=nothing"],
  *["--max_seq_length 20", "do_train", "--", "---do_eval", "# --do_eval"],
  *["--seed=0x10", "--seed=1_0", "--cache_dir=new cache", "--noseed"],
]


def add_flag(rng, path, world):
  lines = _read_lines(path)
  new = rng.choice(_FLAGS)
  place = rng.randint(0, len(lines))
  _write_lines(path, [*lines[:place], new, *lines[place:]])
  return f"{new!r} as line {place + 1}"


def change_flag(rng, path, world):
  lines = _read_lines(path)
  number = rng.choice([n for n, line in enumerate(lines) if line[:1] == "-"])
  line = lines[number]
  name, _, value = line.partition("=")
  lines[number] = rng.choice(
    [
      *[
        line[1:],
        line[2:],
        f"- {line}",
        f'{name}="{value}"',
        f"{name} {value}",
      ],
      *[f"{name} = {value}", line.upper(), f" {line} ", f"{line} # why"],
      *[f"{line}\\", name, f"{name}={value}{value}", f"{line} --do_eval"],
    ]
  )
  _write_lines(path, lines)
  return f"line {number + 1} is {lines[number]!r}"


# ---------------------------------------------------------------------------

MUTATIONS = {
  "data": [ANY, LINES, TABLES, TABLES],
  "vocabulary": [
    ANY,
    LINES,
    LINES,
    [*VOCABULARIES, swap_with_other_model],
  ],
  "configuration": [
    ANY,
    [add_bom, use_crlf, use_cr, encode_otherwise, insert_nul, add_blank_lines],
    JSON,
    JSON,
    [*JSON, swap_with_other_model],
  ],
  "flagfile": [ANY, LINES, [add_flag], [change_flag]],
  "safetensors": [
    ANY,
    TENSORS,
    TENSORS,
    [change_header, swap_with_other_model],
  ],
  "checkpoint": [
    ANY,
    TENSORS,
    [edit_state, swap_with_other_model, swap_whole_checkpoint],
  ],
  "manifest": [ANY, [add_bom, use_crlf, encode_otherwise], JSON, JSON, JSON],
  "cache": [ANY, ANY, JSON],
}


def mutate(rng, kind, path, world):
  """Mutates a file; returns the mutation's name and what it did.

  Tries mutations until one applies and changes something.

  Args:
    rng: `random.Random`.
    kind: key of `MUTATIONS`.
    path, world: `Path`s of the file and of the world, which is a copy.
  """
  before = path.read_bytes()
  while True:
    family = rng.choice(MUTATIONS[kind])
    if path.suffix not in (".json", ".flags", ".tsv", ".txt") and family in (
      JSON,
      LINES,
    ):
      continue
    mutation = rng.choice(family)
    try:
      said = mutation(rng, path, world)
    except (TypeError, ValueError, IndexError):
      said = None  # it does not apply to such a file
    changed = not path.is_file() or path.read_bytes() != before
    if said and changed:
      return mutation.__name__, said
    path.write_bytes(before)
