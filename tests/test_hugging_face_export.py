"""hugging_face_export.py: --export_hf, and the way back.

Oracles: the weights and predictions that were exported, the `tokenizers`
package on the golden texts, and what `transformers` calls things.
"""

import json
from pathlib import Path
import re
import unicodedata

from conftest import (
  ALONE,
  GOLDEN,
  read_checkpoint,
  small_config,
  write_checkpoint,
)
import numpy as np
import pytest
import safetensors

from bert_classifier import (
  checkpoints,
  files,
  hugging_face_export,
  model_files,
  targets,
  tokenizer_files,
  truncation,
)
import tokenization


@pytest.fixture(scope="module")
def trained(classify, training, tmp_path_factory):
  """The folder of a training of one epoch, with results and an export."""
  folder = tmp_path_factory.mktemp("trained")
  outcome = classify(
    "--do_eval",
    "--do_predict",
    output_dir=folder,
    num_train_epochs=1,
    head_dropout=0.25,
    export_hf=folder / "hf",
    **training,
  )
  assert outcome.status == 0, outcome.log
  assert f"for Hugging Face: {folder}/hf" in outcome.log
  return folder


def read_json(path):
  return json.loads(path.read_text(encoding="utf-8"))


def test_the_weights_come_back_to_the_bit(trained, tmp_path):
  exported = checkpoints.open_checkpoint(trained / "hf")
  back = read_checkpoint(exported.convert_to_tensorflow(f"{tmp_path}/back"))
  before = read_checkpoint(trained)
  assert len(back) == 5 + 16 + 2 + 2
  for name, value in back.items():
    np.testing.assert_array_equal(value, before[name])


def test_predictions_of_the_export_are_those_of_the_training(
  trained, classify, golden_task, tmp_path
):
  outcome = classify(
    "--do_predict",
    output_dir=tmp_path,
    **{
      **ALONE,
      "task_name": "mrpc",
      "data_dir": f"{golden_task}/data",
      "cache_dir": tmp_path / "cache",
      "max_seq_length": 24,
      "init_checkpoint": trained / "hf",
    },
  )
  assert outcome.status == 0, outcome.log
  assert "unknown key" not in outcome.log
  for name in ("test_results.tsv", "test_predictions.tsv"):
    assert (tmp_path / name).read_bytes() == (trained / name).read_bytes()


def test_the_configuration_says_what_their_library_asks_for(trained):
  config = read_json(trained / "hf" / "config.json")
  expected = {
    "architectures": ["BertForSequenceClassification"],
    "model_type": "bert",
    "hidden_act": "gelu_new",  # as they call the tanh form
    "layer_norm_eps": 1e-12,
    "classifier_dropout": 0.25,
    "id2label": {"0": "0", "1": "1"},
    "label2id": {"0": 0, "1": 1},
    "problem_type": "single_label_classification",
    "num_hidden_layers": 1,
    "pad_token_id": 0,
  }
  assert {name: config[name] for name in expected} == expected
  path = str(trained / "hf" / "model.safetensors")
  with safetensors.safe_open(path, framework="np") as tensors:
    assert tensors.metadata() == {"format": "pt"}
    names = set(tensors.keys())
  modes = {path.stat().st_mode for path in (trained / "hf").iterdir()}
  assert len(modes) == 1  # who may read one file, may read all
  assert "bert.encoder.layer.0.attention.self.query.weight" in names


def test_a_trained_folder_is_enough(trained, classify, tmp_path):
  before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
  again = tmp_path / "new" / "hf"
  outcome = classify(output_dir=trained, export_hf=f"{again}/", **ALONE)
  assert outcome.status == 0, outcome.log
  names = sorted(path.name for path in again.iterdir())
  assert names == sorted(path.name for path in (trained / "hf").iterdir())
  for name in names:
    assert (again / name).read_bytes() == (trained / "hf" / name).read_bytes()
  assert before == {p: p.stat().st_mtime_ns for p in trained.rglob("*")}


def test_the_card_tells_task_results_and_settings(trained):
  card = (trained / "hf" / "README.md").read_text()
  assert card.startswith("---\nlibrary_name: transformers\n")
  assert "# BERT for mrpc" in card and "from pairs of texts" in card
  results = (trained / "eval_results.txt").read_text().splitlines()
  (accuracy,) = (line for line in results if "eval_accuracy" in line)
  name, value = accuracy.split(" = ")
  assert f"| dev | {name} | {value} |" in card
  step = (trained / "checkpoint").read_text().split('"')[1].split("-")[-1]
  assert f"## Weights\n\nThose of training step {step}.\n" in card
  settings = json.loads(re.findall(r"```json\n(.*?)\n```", card, re.S)[-1])
  assert settings["training"]["learning_rate"] == 1e-3
  assert settings["model"]["labels"] == ["0", "1"]
  assert settings["training"]["init_checkpoint"].count("/") == 1


def test_what_is_there_is_not_replaced(trained, classify, tmp_path):
  (tmp_path / "notes.txt").write_text("mine")
  for folder, problem in (
    (tmp_path, "is not empty, but holds notes.txt"),
    (trained / "hf", "is not empty"),
    (tmp_path / "notes.txt", "is a file"),
    (trained, "is output_dir"),
  ):
    outcome = classify(output_dir=trained, export_hf=folder, **ALONE)
    assert outcome.status == 1
    assert f"--export_hf={folder} " in outcome.log and problem in outcome.log
  assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_export_that_fails_leaves_nothing(tmp_path):
  class DiskFullError(Exception):
    pass

  with (
    pytest.raises(DiskFullError),
    files.atomic_folder(f"{tmp_path}/a/hf") as folder,
  ):
    files.write_text(f"{folder}/config.json", ["{}"])
    raise DiskFullError
  assert list((tmp_path / "a").iterdir()) == []


# ---------------------------------------------------------------------------
# Kinds of targets, of activations


@pytest.fixture
def model(tokenizer):
  """Makes a `model_files.Model` by what a test has different in its sizes."""

  def model(**changes):
    blank = dict.fromkeys(model_files.Model._fields)
    return model_files.Model(
      **{**blank, "config": small_config(**changes), "tokenizer": tokenizer}
    )

  return model


@pytest.mark.parametrize(
  "target, problem_type, id2label",
  [
    (
      targets.SeveralClasses(["joy", "Wut|ü"], 0.3),
      "multi_label_classification",
      {"0": "joy", "1": "Wut|ü"},
    ),
    (targets.Number(), "regression", {"0": "LABEL_0"}),
  ],
)
def test_other_targets_have_their_names_for_them(
  model, target, problem_type, id2label
):
  config = hugging_face_export.describe_config(model(), target, 0.1)
  assert config["problem_type"] == problem_type
  assert config["id2label"] == id2label


@pytest.mark.parametrize(
  "ours, theirs",
  [
    ("gelu", "gelu_new"),
    ("GELU_ERF", "gelu"),
    ("relu", "relu"),
    ("tanh", "tanh"),
    ("none", "linear"),
    (None, "linear"),
  ],
)
def test_activations_have_their_names_for_them(model, ours, theirs):
  described = hugging_face_export.describe_config(
    model(hidden_act=ours, layer_norm_eps=1e-5), targets.Number(), None
  )
  assert described["hidden_act"] == theirs
  assert described["layer_norm_eps"] == 1e-5


@pytest.mark.parametrize(
  "flags, width",
  [
    (["--multi_label", "--label_list=x,Y,y"], 3),
    (["--label_list=Wut,Freude"], 2),
    (["--regression"], 1),
  ],
)
def test_an_export_of_every_kind_is_exported_again_the_same(
  flags, width, classify, small_model, tmp_path
):
  weights = read_checkpoint(small_model["init_checkpoint"] / "bert_model.ckpt")
  weights["output_weights"] = np.arange(48 * width, dtype="f4").reshape(-1, 48)
  weights["output_bias"] = np.arange(width, dtype=np.float32)
  write_checkpoint(tmp_path / "bert_model.ckpt", weights)
  asked = dict(task_name="csv", data_dir=None, cache_dir=None)
  outcome = classify(
    *flags,
    **asked,
    bert_config_file=small_model["bert_config_file"],
    init_checkpoint=tmp_path,
    export_hf=tmp_path / "first",
  )
  assert outcome.status == 0, outcome.log
  outcome = classify(
    *flags,
    **{**asked, "vocab_file": None, "init_checkpoint": tmp_path / "first"},
    export_hf=tmp_path / "second",
  )
  assert outcome.status == 0, outcome.log
  for name in ("config.json", "model.safetensors", "tokenizer_config.json"):
    first, second = (tmp_path / n / name for n in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
  assert len(read_json(tmp_path / "first" / "config.json")["id2label"]) == width


# ---------------------------------------------------------------------------
# The tokenizer


@pytest.fixture
def cased(tmp_path):
  """Returns a tokenizer with whole tokens, and the folder of its files."""
  path = tmp_path / "vocab.txt"
  lines = "[UNK] [CLS] [SEP] a New York ##s B é [ ] cls <url> sep SEP CLS"
  path.write_text("\n".join([*lines.split(), "New York"]), encoding="utf-8")
  ours = tokenization.FullTokenizer(
    str(path),
    do_lower_case=False,
    strip_accents=False,
    tokenize_chinese_chars=False,
    whole_tokens=[["<url>", False, True], ["New York", True, False]],
  )
  return ours


def write_tokenizer(tokenizer, folder):
  folder.mkdir()
  for name, content in (
    ("tokenizer.json", tokenizer_files.describe_tokenizer(tokenizer)),
    (
      "tokenizer_config.json",
      tokenizer_files.describe_tokenizer_config(tokenizer, 16, "head"),
    ),
  ):
    (folder / name).write_text(json.dumps(content))


def test_the_settings_of_a_tokenizer_come_back(cased, tmp_path):
  write_tokenizer(cased, tmp_path / "hf")
  settings, _ = tokenizer_files.read_tokenizer_settings(tmp_path / "hf")
  assert settings == dict(
    do_lower_case=False, strip_accents=False, tokenize_chinese_chars=False
  )
  added = tokenizer_files.list_added_tokens(tmp_path / "hf")
  assert {
    (content, token.normalized, token.single_word)
    for content, token in added.items()
  } == {("<url>", False, True), ("New York", True, False)}
  text = tokenizer_files.read_vocabulary(str(tmp_path / "hf/tokenizer.json"))
  assert text.split("\n")[:-1] == list(cased.vocab)


def test_a_vocabulary_is_written_as_it_is_read(tmp_path):
  path = tmp_path / "vocab.txt"
  path.write_bytes(
    b"\xef\xbb\xbf[UNK]\r\n[CLS] \r\n[SEP]\r\n\r\na\r\na\r\n\xe3\x80\x80b"
  )
  vocab = tokenization.load_vocab(str(path))
  text = tokenizer_files.format_vocabulary(vocab)
  assert text == "[UNK]\n[CLS]\n[SEP]\n\n\na\nb\n"
  released = Path(GOLDEN, "end_to_end", "vocab.txt")
  vocab = tokenization.load_vocab(str(released))
  assert tokenizer_files.format_vocabulary(vocab) == released.read_text()


def list_golden_texts():
  path = GOLDEN / "unicode" / "tokenization.jsonl"
  with open(path, encoding="utf-8") as file:
    return [json.loads(line) for line in file]


# What their tokenizer makes otherwise of the golden texts: a sigma at the end
# of a word has a form of its own in lower case, which Python knows.
FINAL_SIGMA = {"\u03a3\u0391\u03a3"}
# And where it looks for special tokens in a text, which it does not with
# split_special_tokens in transformers 4.57 and 5.24.
WITH_SPECIAL = {"[CLS] [MASK]"}


@pytest.mark.parametrize(
  "splits_special, differing",
  [(True, FINAL_SIGMA), (False, FINAL_SIGMA | WITH_SPECIAL)],
)
def test_their_tokenizer_agrees_on_all_golden_texts_but_the_listed(
  splits_special, differing
):
  library = pytest.importorskip("tokenizers")
  theirs = {}
  for lower in (True, False):
    ours = tokenization.FullTokenizer(GOLDEN / "unicode" / "vocab.txt", lower)
    theirs[lower] = library.Tokenizer.from_str(
      json.dumps(tokenizer_files.describe_tokenizer(ours))
    )
    theirs[lower].encode_special_tokens = splits_special
  rows = list_golden_texts()
  found = {
    row["text"]
    for row in rows
    if theirs[row["do_lower_case"]]
    .encode(row["text"], add_special_tokens=False)
    .ids
    != row["ids"]
  }
  assert found == differing and len(rows) == 844


def test_their_tokenizer_leaves_four_marks_in_the_order_of_the_text(tmp_path):
  """Of all that lower-casing keeps, and of which their tables know."""
  library = pytest.importorskip("tokenizers")
  marks = [
    char
    for char in map(chr, range(0x110000))
    if unicodedata.combining(char) and unicodedata.category(char) != "Mn"
  ]
  marks.remove("\u1734")  # dropped there, as one of the 400
  lines = ["[UNK]", "[CLS]", "[SEP]", "a", *(f"##{mark}" for mark in marks)]
  path = tmp_path / "vocab.txt"
  path.write_text("\n".join(lines), encoding="utf-8")
  ours = tokenization.FullTokenizer(str(path))
  theirs = library.Tokenizer.from_str(
    json.dumps(tokenizer_files.describe_tokenizer(ours))
  )
  pairs = [(one, other) for one in marks for other in marks]
  differing = [
    pair
    for pair in pairs
    if theirs.encode("a" + "".join(pair), add_special_tokens=False).tokens
    != ours.tokenize("a" + "".join(pair))
  ]
  known = {"\u1715", "\U0001193d", "\U00016ff0", "\U00016ff1"}
  assert differing and all(known & set(pair) for pair in differing)


def test_their_tokenizer_puts_texts_and_pairs_together_as_ours(cased):
  library = pytest.importorskip("tokenizers")
  theirs = library.Tokenizer.from_str(
    json.dumps(tokenizer_files.describe_tokenizer(cased))
  )
  single = theirs.encode("New York s <url> <url>s")
  assert single.tokens == [
    *("[CLS]", "New York", "[UNK]", "<url>"),
    *cased.tokenize("<url>s"),
    "[SEP]",
  ]
  pair = theirs.encode("a", "B a")
  assert pair.tokens == ["[CLS]", "a", "[SEP]", "B", "a", "[SEP]"]
  assert pair.type_ids == [0, 0, 0, 1, 1, 1]
  # Of which docs/huggingface.md tells: here it is the form of a single text.
  assert theirs.encode("a", "").tokens == ["[CLS]", "a", "[SEP]", "[SEP]"]


@pytest.mark.parametrize(
  "first, second, theirs",  # docs/huggingface.md names what differs
  [(5, 3, (2, 1)), (3, 5, (1, 2)), (3, 3, (1, 2)), (1, 5, (1, 2))],
)
def test_a_cut_pair_differs_by_the_odd_token_at_most(
  cased, first, second, theirs
):
  library = pytest.importorskip("tokenizers")
  tokenizer = library.Tokenizer.from_str(
    json.dumps(tokenizer_files.describe_tokenizer(cased))
  )
  tokenizer.enable_truncation(6)
  tokens = tokenizer.encode("a " * first, "B " * second).tokens
  assert (tokens.count("a"), tokens.count("B")) == theirs
  ours = truncation.truncate(["a"] * first, ["B"] * second, 6)
  expected = theirs if first > second or first == 1 else theirs[::-1]
  assert tuple(map(len, ours)) == expected


@pytest.mark.parametrize("which, side", [("head", "right"), ("tail", "left")])
def test_their_tokenizer_is_told_which_end_is_cut(cased, which, side):
  config = tokenizer_files.describe_tokenizer_config(cased, 4, which)
  assert config["truncation_side"] == side
  library = pytest.importorskip("tokenizers")
  tokenizer = library.Tokenizer.from_str(
    json.dumps(tokenizer_files.describe_tokenizer(cased))
  )
  tokenizer.enable_truncation(config["model_max_length"], direction=side)
  tokens = tokenizer.encode("a B New York").tokens
  expected, _ = truncation.truncate(["a", "B", "New York"], [], 4, which)
  assert tokens == ["[CLS]", *expected, "[SEP]"]
