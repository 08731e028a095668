"""docs/walk.md: its commands as printed, on a small model."""

from pathlib import Path
import runpy
import shlex
import shutil
import subprocess
import sys

from conftest import ROOT, blocks, lengthen, read_checkpoint, read_client
import mutations_check
import numpy as np
import pytest

import modeling
import tokenization

PAGE = (ROOT / "docs" / "walk.md").read_text(encoding="utf-8")
LABELS = ["negative", "positive"]


def read_commands():
  """Returns the printed commands, on a line each."""
  return [block.replace("\\\n", "") for block in blocks(PAGE, "sh")]


@pytest.fixture(scope="module")
def walked(classify, golden_task, small_model, tmp_path_factory):
  """Returns the folder in which both commands of the script were given."""
  folder = tmp_path_factory.mktemp("walk")
  (rows,) = blocks(PAGE, "csv")
  header, *rows = rows.splitlines()
  (folder / "reviews.csv").write_text("\n".join([header, *rows * 90]))
  weights = folder / "uncased_L-12_H-768_A-12"
  weights.mkdir()
  shutil.copy(f"{golden_task}/vocab.txt", weights)
  lengthen(small_model, weights, 128)
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    for command in read_commands()[:2]:
      program, script, *flags = shlex.split(command)
      assert (program, script) == ("python", "run_classifier.py")
      done = classify(*flags, **dict.fromkeys(classify.defaults))
      assert done.status == 0, done.log
      assert "my_output/best/model.ckpt-" in done.log
  return folder


@pytest.fixture
def answers(walked, monkeypatch, capsys):
  """Returns the lines that the client prints, as lists of cells."""
  monkeypatch.chdir(walked)
  Path("client.py").write_text(read_client("client"))
  command = read_commands()[2].replace("python client.py", "printf '%s\\n'")
  words = subprocess.run(
    ["bash", "-c", command], check=True, capture_output=True, text=True
  ).stdout.splitlines()
  monkeypatch.setattr(sys, "argv", ["client.py", *words])
  runpy.run_path("client.py")
  return [line.split("\t") for line in capsys.readouterr().out.splitlines()]


def test_the_client_answers_as_the_best_weights_do_in_numpy(walked, answers):
  best = walked / "my_output" / "best"
  weights = read_checkpoint(best)
  config = modeling.BertConfig.from_json_file(str(best / "bert_config.json"))
  tokenizer = tokenization.FullTokenizer(str(best / "vocab.txt"))
  assert len(answers) == 2
  for text, label, probability in answers:
    ids = tokenizer.convert_tokens_to_ids(
      ["[CLS]", *tokenizer.tokenize(text), "[SEP]"]
    )
    logits = mutations_check.compute_logits(
      weights, config.to_dict(), ids, [0] * len(ids), np.float64
    )
    odds = np.exp(logits) / np.exp(logits).sum()
    assert label == LABELS[np.argmax(odds)]
    assert float(probability) == pytest.approx(odds.max(), abs=1e-4)


def test_transformers_answers_as_the_client_does(walked, answers, capsys):
  pytest.importorskip("transformers")
  (code,) = blocks(PAGE, "python")
  exec(code, {})
  found = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
  for (label, score), (_, wanted, probability) in zip(found, answers):
    assert label == wanted
    assert float(score) == pytest.approx(float(probability), abs=2e-4)
