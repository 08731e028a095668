"""Files for the leaderboards of GLUE and CLUE."""

import json
import re
import subprocess
import sys

from conftest import ROOT, read_table, write_rows
import pytest

from bert_classifier.catalogue import PROCESSORS
from bert_classifier.submissions import write_submission


@pytest.mark.parametrize(
  ("task", "split", "rows", "file", "expected"),
  [
    (
      "rte",
      "test",
      ["id\ttext_a\ttext_b\tlabel\tp", "5\ta\tb\tnot_entailment\t1.0"],
      "RTE.tsv",
      [["5", "not_entailment"]],
    ),
    (
      "mrpc",
      "test",
      ["id\ttext_a\ttext_b\tgold\tlabel\tp", *["test-1\ta\tb\t0\t1\t1.0"] * 2],
      "MRPC.tsv",
      [["0", "1"], ["1", "1"]],
    ),
    (
      "mnli",
      "test_mismatched",
      ["id\ttext_a\ttext_b\tlabel\tp", "0\ta\tb\tneutral\t1.0"],
      "MNLI-mm.tsv",
      [["0", "neutral"]],
    ),
    (
      "sts-b",
      "test",
      ["id\ttext_a\ttext_b\tvalue"]
      + [f"{n}\ta\tb\t{v}" for n, v in enumerate(["-0.2", "5.1", "2.3456"])],
      "STS-B.tsv",
      [["0", "0.000"], ["1", "5.000"], ["2", "2.346"]],
    ),
  ],
)
def test_predictions_are_written_as_glue_takes_them(
  tmp_path, task, split, rows, file, expected
):
  name = "test_predictions" + split.removeprefix("test")
  write_rows(tmp_path / f"{name}.tsv", *rows)
  path = write_submission(str(tmp_path), split, PROCESSORS[task]())
  assert path == str(tmp_path / file)
  assert read_table(path) == [["index", "prediction"], *expected]


def test_the_command_for_clue_writes_a_line_of_json_for_each_example(tmp_path):
  text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
  (command,) = re.findall(r"```sh\n(python -c '.*?)```", text, re.DOTALL)
  rows = ["id\ttext_a\ttext_b\tlabel\tp", '0\t"a\t\t107\t1.0', "1\tb\t\t100\t1"]
  write_rows(tmp_path / "tnews_output" / "test_predictions.tsv", *rows)
  command = command.replace("python", sys.executable, 1)
  subprocess.run(command, shell=True, cwd=tmp_path, check=True)
  lines = (tmp_path / "tnews_predict.json").read_text().splitlines()
  assert [*map(json.loads, lines)] == [
    {"id": 0, "label": "107"},
    {"id": 1, "label": "100"},
  ]
