"""The tasks that there are: files, columns and labels of each."""

from bert_classifier.tasks import DataProcessor, Table


class ColaProcessor(DataProcessor):
  """CoLA (GLUE): is a sentence acceptable English?"""

  labels = ("0", "1")
  metric = "matthews_correlation"
  tables = {
    "train": Table("train.tsv", header=False, text_a=3, label=1),
    "dev": Table("dev.tsv", header=False, text_a=3, label=1),
    "test": Table("test.tsv", header=True, text_a=1, row_id="index"),
  }


class MrpcProcessor(DataProcessor):
  """MRPC (GLUE): do two sentences say the same?"""

  labels = ("0", "1")
  metric = "f1"
  tables = {
    "train": Table("train.tsv", header=True, text_a=3, text_b=4, label=0),
    "dev": Table("dev.tsv", header=True, text_a=3, text_b=4, label=0),
    "test": Table(
      "test.tsv",
      header=True,
      text_a=3,
      text_b=4,
      row_id="index",
      gold="Quality",
    ),
  }


def _mnli(file, name=None, label=-1):
  return Table(
    file,
    header=True,
    text_a=8,
    text_b=9,
    label=label,
    guid=0,
    name=name,
    row_id="index",
    gold="gold_label" if label is None else None,
  )


class MnliProcessor(DataProcessor):
  """MultiNLI (GLUE): does the premise entail the hypothesis?"""

  labels = ("contradiction", "entailment", "neutral")
  tables = {
    "train": _mnli("train.tsv"),
    "dev": _mnli("dev_matched.tsv", "dev_matched"),
    "dev_mismatched": _mnli("dev_mismatched.tsv", "dev_mismatched"),
    "test": _mnli("test_matched.tsv", label=None),
    "test_mismatched": _mnli("test_mismatched.tsv", label=None),
  }


class XnliProcessor(DataProcessor):
  """XNLI: MultiNLI in other languages.

  Args:
    language: two letters, e.g. "zh": the translated training file and the rows
      of dev and test to take.
  """

  labels = ("contradiction", "entailment", "neutral")
  synonyms = {"contradictory": "contradiction"}
  tables = {
    "train": Table(
      "multinli/multinli.train.{language}.tsv",
      header=True,
      text_a=0,
      text_b=1,
      label=2,
    ),
    "dev": Table(
      "xnli.dev.tsv", header=True, text_a=6, text_b=7, label=1, language=0
    ),
    "test": Table(
      "xnli.test.tsv",
      header=True,
      text_a=6,
      text_b=7,
      language=0,
      row_id="pairID",
      gold="gold_label",
    ),
  }

  def __init__(self, language="zh"):
    self.language = language


PROCESSORS = dict(
  cola=ColaProcessor,
  mnli=MnliProcessor,
  mrpc=MrpcProcessor,
  xnli=XnliProcessor,
)
