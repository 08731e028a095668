"""interactive.py: --predict_text, --predict_file."""

import collections
import json
import subprocess
import sys
from types import SimpleNamespace

from conftest import ALONE, ROOT, read_table, write_hugging_face
import numpy as np
import pytest

from bert_classifier import interactive, options, preparation, targets
from bert_classifier.errors import UserError


def ask_again(folder, path):
  """Writes the texts of the predictions in a folder as requests.

  Returns the predictions, without their header.
  """
  predictions = read_table(folder / "test_predictions.tsv")[1:]
  pairs = [{"text": row[1], "text_b": row[2]} for row in predictions]
  path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
  return predictions


def read_answers(capsys):
  return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def check_equal(answers, predictions):
  # id, text_a, text_b, gold, label, probability, probability of each label
  assert [(a["text"], a["text_b"], a["label"]) for a in answers] == [
    (row[1], row[2], row[4]) for row in predictions
  ]
  for answer, row in zip(answers, predictions):
    probabilities = list(answer["probabilities"].values())
    assert answer["probability"] == max(probabilities)
    np.testing.assert_allclose(
      probabilities, np.float64(row[6:]), rtol=0, atol=1e-6
    )


def test_a_trained_folder_is_enough_and_is_left_alone(
  trained, classify, tmp_path, capsys
):
  predictions = ask_again(trained, tmp_path / "texts.jsonl")
  before = {path: path.stat() for path in trained.rglob("*")}
  outcome = classify(
    output_dir=trained, predict_file=tmp_path / "texts.jsonl", **ALONE
  )
  assert outcome.status == 0, outcome.log
  check_equal(read_answers(capsys), predictions)
  after = {path: path.stat() for path in trained.rglob("*")}
  assert {p: s.st_mtime_ns for p, s in before.items()} == {
    p: s.st_mtime_ns for p, s in after.items()
  }


def test_weights_of_a_classifier_and_its_task_are_enough(
  golden_task, classify, tmp_path, capsys
):
  weights = write_hugging_face(golden_task, tmp_path / "weights")
  flags = {"init_checkpoint": weights, "output_dir": tmp_path / "output"}
  assert classify("--do_predict", **flags).status == 0
  predictions = ask_again(tmp_path / "output", tmp_path / "texts.jsonl")
  _, text, text_b = predictions[0][:3]
  flags = dict(ALONE, predict_text=text, predict_text_b=text_b)
  flags.update(task_name="mrpc", max_seq_length=24, init_checkpoint=weights)
  outcome = classify(**flags)
  assert outcome.status == 0, outcome.log
  check_equal(read_answers(capsys), predictions[:1])


def test_each_line_is_answered_before_the_next_and_the_end_is_clean(
  trained, tmp_path
):
  flags = [f"--output_dir={trained}", "--predict_file=-"]
  with subprocess.Popen(
    [sys.executable, "run_classifier.py", *flags],
    cwd=ROOT,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    bufsize=0,
  ) as partner:
    for text in ("one text", "zwei Wörter"):
      request = {"text": text, "text_b": "b"}
      partner.stdin.write(f"{json.dumps(request)}\n".encode())
      assert json.loads(partner.stdout.readline())["text"] == text
    partner.stdout.close()  # as `head -2` does
    partner.stdin.write(b'{"text": "c", "text_b": "d"}\n')
    log = partner.stderr.read().decode()
  assert partner.returncode == 0, log
  assert log.splitlines()[-1].endswith("nobody reads the answers any more")


# ---------------------------------------------------------------------------
# Requests


@pytest.fixture
def cola():
  return preparation.prepare_task(options.DataOptions(task_name="cola"), 24)


@pytest.fixture
def mrpc():
  return preparation.prepare_task(options.DataOptions(task_name="mrpc"), 24)


class Likely:
  """Predicts the first label of every text."""

  converter = SimpleNamespace(tally=collections.Counter(), max_seq_length=24)

  def predict(self, examples):
    return iter([{"probabilities": np.float32([0.75, 0.25])}] * len(examples))


def answer(tmp_path, lines, task):
  (tmp_path / "texts").write_bytes(lines)
  asked = options.RunOptions(predict_file=str(tmp_path / "texts"))
  interactive.answer(asked, task, Likely())


def test_every_line_has_an_answer_and_those_without_a_text_an_error(
  cola, tmp_path, capsys
):
  lines = (
    b'\xef\xbb\xbfa\r\n\n{"text": "\\u00fc", "n": 1}\n{"text": 3}\n{"t": 1}\n'
    b'{"text\n\xff\n{"text": "a", "text_b": "b"}\n{"text": "\\ud800"}\nlast'
  )
  with pytest.raises(UserError, match="7 of 10 lines .*line 2: the text is em"):
    answer(tmp_path, lines, cola)
  answers = read_answers(capsys)
  assert [one.get("text") for one in answers] == [
    "a", None, "ü", None, None, None, None, None, None, "last"
  ]  # fmt: skip
  assert answers[0] == {
    "text": "a",
    "label": "0",
    "probability": 0.75,
    "probabilities": {"0": 0.75, "1": 0.25},
  }
  said = "\n".join(one["error"] for one in answers if "error" in one)
  for words in (
    "line 2: the text is empty",
    "line 4: a text is 3 (int)",
    "line 5: the JSON object lacks \"text\"; it has 't'",
    "line 6: a line that begins with { must be a JSON object",
    "line 7: the byte 0xff is not UTF-8",
    "line 8: the examples of cola are single texts",
    "line 9: '\\ud800' has what is no UTF-8",
  ):
    assert words in said


def test_words_that_the_model_does_not_know_are_warned_of(
  cola, tmp_path, caplog, monkeypatch
):
  tally = collections.Counter({"tokens": 20, "unknown": 5})
  monkeypatch.setattr(Likely.converter, "tally", tally)
  answer(tmp_path, b"\xe9\x9b\xa8", cola)
  interactive.answer(options.RunOptions(predict_text="b"), cola, Likely())
  of_file, of_text = [
    r.message for r in caplog.records if r.levelname[0] == "W"
  ]
  assert of_file.startswith(f"--predict_file={tmp_path}/texts: 25.0% of the 20")
  assert of_text.startswith("--predict_text: 25.0% of the 20 tokens are [UNK]")


def test_a_pair_needs_its_second_text(mrpc, tmp_path, capsys):
  with pytest.raises(UserError, match="1 of 2 lines .*the second is missing"):
    answer(tmp_path, b'alone\n{"text": "a", "text_b": ""}\n', mrpc)
  assert read_answers(capsys)[1]["text_b"] == ""


@pytest.mark.parametrize(
  "flags, words",
  [
    ({"predict_text": " "}, "--predict_text: the text is empty"),
    ({"predict_text": "a"}, "give --predict_text_b"),
    ({"predict_file": "gone"}, "--predict_file=gone: no such file"),
  ],
)
def test_mistakes_in_flags_are_found_before_the_model_is_loaded(
  mrpc, flags, words
):
  with pytest.raises(UserError, match=words):
    interactive.check_request(options.RunOptions(**flags), mrpc)


def test_lines_are_given_as_soon_as_they_are_whole():
  chunks = iter([b"a\nb\nc", b"d", b"e\n", b"f", b""])
  read = interactive.read_lines(lambda: next(chunks))
  assert list(read) == [[b"a", b"b"], [b"cde"], [b"f"]]


def test_ctrl_c_says_how_many_lines_were_read(cola, tmp_path, monkeypatch):
  def interrupt(self, read):
    self.lines = 3
    raise KeyboardInterrupt

  monkeypatch.setattr(interactive.Answers, "answer_lines", interrupt)
  with pytest.raises(KeyboardInterrupt, match="3 lines had been read"):
    answer(tmp_path, b"a\n", cola)


def test_answers_of_several_labels_and_of_a_number():
  outputs = {"probabilities": np.float32([0.9, 0.1]), "value": np.float32(0.1)}
  assert targets.SeveralClasses(["a", "b"]).answer(outputs) == {
    "labels": ["a"],
    "probabilities": {"a": 0.9, "b": 0.1},
  }
  assert targets.Number().answer(outputs) == {"value": 0.1}
