"""The tasks that there are: files, columns and labels of each."""

import functools

from bert_classifier.own_data import OwnData
from bert_classifier.table_files import Table
from bert_classifier.tasks import DataProcessor


class ColaProcessor(DataProcessor):
  """CoLA (GLUE): is a sentence acceptable English?"""

  kind = "single_label"
  labels = ("0", "1")
  metric = "matthews_correlation"
  tables = {
    "train": Table("train.tsv", header=False, text_a=3, label=1),
    "dev": Table("dev.tsv", header=False, text_a=3, label=1),
    "test": Table("test.tsv", header=True, text_a="sentence", row_id="index"),
  }


# Tables of pairs, in whose texts a quote may stay open.
_pairs = functools.partial(Table, header=True, open_quotes=True)
_mrpc = functools.partial(_pairs, text_a="#1 String", text_b="#2 String")


class MrpcProcessor(DataProcessor):
  """MRPC (GLUE): do two sentences say the same?"""

  kind = "single_label"
  labels = ("0", "1")
  metric = "f1"
  tables = {
    "train": _mrpc("train.tsv", label="Quality"),
    "dev": _mrpc("dev.tsv", label="Quality"),
    "test": _mrpc("test.tsv", row_id="index", gold="Quality"),
  }


_sentences = functools.partial(_pairs, text_a="sentence1", text_b="sentence2")


def _mnli(file, name=None, label="gold_label"):
  return _sentences(
    file,
    label=label,
    guid=0,
    name=name,
    row_id="index",
    gold="gold_label" if label is None else None,
  )


class MnliProcessor(DataProcessor):
  """MultiNLI (GLUE): does the premise entail the hypothesis?"""

  kind = "single_label"
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

  kind = "single_label"
  labels = ("contradiction", "entailment", "neutral")
  synonyms = {"contradictory": "contradiction"}
  tables = {
    "train": Table(
      "multinli/multinli.train.{language}.tsv",
      header=True,
      text_a="premise",
      text_b="hypo",
      label="label",
      open_quotes=True,
    ),
    "dev": _sentences("xnli.dev.tsv", label="gold_label", language="language"),
    "test": _sentences(
      "xnli.test.tsv", language="language", row_id="pairID", gold="gold_label"
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

# The columns of these tasks never change: caches and folders do not name them.
_BUILT_IN = {
  kind: (dict(kind.tables), dict(kind.synonyms)) for kind in PROCESSORS.values()
}


def is_built_in(processor):
  """Returns True for a task of this module whose tables nobody changed."""
  ours = _BUILT_IN.get(type(processor))
  return ours == (processor.tables, processor.synonyms)


def describe_tables(processor):
  """Returns the setting of each table of a task that is not built in, by name.

  They decide which columns the weights were trained on. Of own data by flags
  none: each command may have files of other columns, and those of the training
  set are part of the digest of its examples.
  """
  if is_built_in(processor) or isinstance(processor, OwnData):
    return {}
  if not processor.tables:
    return {}
  settings = {
    f"table of {split}": table.describe()
    for split, table in processor.tables.items()
  }
  return {**settings, "synonyms": _describe_synonyms(processor)}


def describe_examples(data, split):
  """Returns what the examples of a split are made of, beside its file.

  Nothing for a built-in task, and where the processor's own method gives the
  examples: their digest is that of the source.

  Args:
    data: `tasks.TaskData`.

  Raises:
    UserError: what is wrong with the task's file.
  """
  processor = data.processor
  if is_built_in(processor) or data.has_own_method(split):
    return {}
  table = processor.tables.get(split)
  return {
    "table": table and table.describe(),
    "synonyms": _describe_synonyms(processor),
    "examples": data.examples_digest(split),
  }


def _describe_synonyms(processor):
  return {str(key): str(value) for key, value in processor.synonyms.items()}
