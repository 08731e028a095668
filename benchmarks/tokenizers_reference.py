"""Writes tests/golden/added_tokens.json: what BertTokenizerFast makes of texts.

Not part of the tests, which read only its output. In environments of their own:

  pip install "transformers<5" && python benchmarks/tokenizers_reference.py
  pip install "transformers>=5" && python benchmarks/tokenizers_reference.py

Version 5 takes additional special tokens of old folders for ordinary added ones
and finds [E1] in "[e1]"; of those folders version 4, which wrote them, decides.

The file is a list of cases, each with `files` {name: text} of a tokenizer's
folder and, for each of `texts`, the `ids` that Hugging Face's library gives for
that folder, without [CLS] and [SEP].
"""

import argparse
import json
import pathlib
import tempfile

import transformers

VOCABULARY = " ".join(
  [
    "[PAD] [UNK] [CLS] [SEP] [MASK] [unused1] a b see the url new york foo bar",
    "mask cafe café Café New York [ ] < > _ . , ! ##s ##bar ##foo ##url 我 ##y",
    "sep é x ##x ##n ##e ##w cls unk # e 1 ##1 ärger arger",
  ]
).split()
TEXTS = [
  "see [MASK] , see[MASK]foo",
  "see [mask] and [ MASK ]",
  "[CLS] a [SEP] b [PAD][PAD] [UNK]",
  "see <url>!<url><urls> <URL> < url >",
  "new york New York newyork",
  "foo xfoo foox foo_ (foo) foo1",
  "CAFÉ café Café cafe",
  "我[E1]我 [e1]e1",
  "ÄRGER ärger arger a\u0308rger",
  "[unused1] [UNUSED1]",
  "  [MASK]  \t [MASK]\u00a0 a",
  "",
  "[E1][E12][E1",
]


def write(folder, name, value):
  text = value if isinstance(value, str) else json.dumps(value)
  (folder / name).write_text(text, encoding="utf-8")


def make_2018(folder, **config):
  """Makes a folder as it was before tokenizer.json."""
  write(folder, "vocab.txt", "\n".join(VOCABULARY) + "\n")
  write(folder, "tokenizer_config.json", config)


def make_old(folder):
  """Makes one to which old versions of the library added tokens."""
  make_2018(folder, do_lower_case=True)
  size = len(VOCABULARY)
  added = {"<url>": size, "new york": size + 1, "[E1]": size + 2}
  write(folder, "added_tokens.json", added)
  special = {"additional_special_tokens": ["[E1]"], "mask_token": "[MASK]"}
  write(folder, "special_tokens_map.json", special)


def make_new(folder, **config):
  """Makes one that the library saves now, with tokens of every kind."""
  make_2018(folder, **config)
  tokenizer = transformers.BertTokenizerFast.from_pretrained(folder)
  token = transformers.AddedToken
  tokenizer.add_tokens(
    [
      "<url>",
      token("New York", normalized=True),
      token("foo", single_word=True),
      token("Ärger", normalized=True, single_word=True),
      token("café", normalized=False),
    ]
  )
  tokenizer.add_special_tokens(
    {"additional_special_tokens": ["[E1]", "[E12]", "[unused1]"]}
  )
  tokenizer.save_pretrained(folder)


CASES = {
  "plain": lambda folder: make_2018(folder, do_lower_case=True),
  "plain cased": lambda folder: make_2018(folder, do_lower_case=False),
  "old": make_old,
  "new": lambda folder: make_new(folder, do_lower_case=True),
  "new cased": lambda folder: make_new(folder, do_lower_case=False),
  "new, accents kept": lambda folder: make_new(
    folder, do_lower_case=True, strip_accents=False
  ),
}


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  golden = pathlib.Path(__file__).resolve().parent.parent / "tests/golden"
  parser.add_argument("--output", default=golden / "added_tokens.json")
  output = pathlib.Path(parser.parse_args().output)
  version = f"transformers {transformers.__version__.partition('.')[0]}"
  known = json.loads(output.read_text("utf-8")) if output.exists() else []
  cases = [case for case in known if not case["name"].startswith(version)]
  for name, make in CASES.items():
    if name == "old" and not version.endswith(" 4"):
      continue
    with tempfile.TemporaryDirectory() as temporary:
      folder = pathlib.Path(temporary)
      make(folder)
      tokenizer = transformers.BertTokenizerFast.from_pretrained(folder)
      ids = [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]
      files = {path.name: path.read_text("utf-8") for path in folder.iterdir()}
    name = f"{version}: {name}"
    cases.append({"name": name, "files": files, "texts": TEXTS, "ids": ids})
  cases.sort(key=lambda case: case["name"])
  output.write_text(json.dumps(cases, indent=1, sort_keys=True) + "\n")
  print(f"{output}: {len(cases)} cases")


if __name__ == "__main__":
  main()
