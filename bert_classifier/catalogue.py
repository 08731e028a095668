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
  submissions = {"test": "CoLA.tsv"}
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
  submissions = {"test": "MRPC.tsv"}
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
  submissions = {"test": "MNLI-m.tsv", "test_mismatched": "MNLI-mm.tsv"}
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


# ---------------------------------------------------------------------------
# The rest of GLUE


def _glue(split, label="label", *, text_b=None, **columns):
  """Returns the `Table` of a GLUE file with a header."""
  is_test = split == "test"
  return Table(
    f"{split}.tsv",
    header=True,
    text_b=text_b,
    open_quotes=True,
    **{"gold" if is_test else "label": label},
    **columns,
  )


def _glue_tables(*, row_id="index", label="label", **columns):
  """Returns the tables of train, dev and test of a task of GLUE."""
  return {
    "train": _glue("train", label, **columns),
    "dev": _glue("dev", label, **columns),
    "test": _glue("test", label, row_id=row_id, **columns),
  }


_SENTENCES = dict(text_a="sentence1", text_b="sentence2")


class Sst2Processor(DataProcessor):
  """SST-2 (GLUE): is a sentence of a film review positive?"""

  kind = "single_label"
  labels = ("0", "1")
  submissions = {"test": "SST-2.tsv"}
  tables = _glue_tables(text_a="sentence")


class QqpProcessor(DataProcessor):
  """QQP (GLUE): do two questions ask the same?"""

  kind = "single_label"
  labels = ("0", "1")
  metric = "f1"
  submissions = {"test": "QQP.tsv"}
  # Line ends within questions have broken some rows of train and dev.
  tables = {
    **{
      split: _glue(
        split,
        "is_duplicate",
        text_a="question1",
        text_b="question2",
        skip_short=True,
      )
      for split in ("train", "dev")
    },
    "test": _glue(
      "test",
      "is_duplicate",
      text_a="question1",
      text_b="question2",
      row_id="id",
    ),
  }


class QnliProcessor(DataProcessor):
  """QNLI (GLUE): does a sentence hold the answer to a question?"""

  kind = "single_label"
  labels = ("entailment", "not_entailment")
  submissions = {"test": "QNLI.tsv"}
  tables = _glue_tables(text_a="question", text_b="sentence")


class RteProcessor(DataProcessor):
  """RTE (GLUE): does a text entail a sentence?"""

  kind = "single_label"
  labels = ("entailment", "not_entailment")
  submissions = {"test": "RTE.tsv"}
  tables = _glue_tables(**_SENTENCES)


class WnliProcessor(DataProcessor):
  """WNLI (GLUE): is a pronoun rightly replaced?"""

  kind = "single_label"
  labels = ("0", "1")
  submissions = {"test": "WNLI.tsv"}
  tables = _glue_tables(**_SENTENCES)


class StsbProcessor(DataProcessor):
  """STS-B (GLUE): how much alike are two sentences, from 0 to 5?"""

  kind = "regression"
  metric = "pearson"
  number_range = (0, 5)
  submissions = {"test": "STS-B.tsv"}
  tables = _glue_tables(label="score", **_SENTENCES)


class AxProcessor(DataProcessor):
  """AX (GLUE's diagnostic set): predicted by a model that was trained on MNLI.

  GLUE keeps its labels; a file that has them is measured.
  """

  kind = "single_label"
  labels = MnliProcessor.labels
  metric = "matthews_correlation"
  trained_on = "mnli"
  submissions = {"test": "AX.tsv"}
  tables = {
    "test": Table(
      "diagnostic.tsv",
      header=True,
      row_id="index",
      gold="gold_label",
      open_quotes=True,
      **_SENTENCES,
    )
  }


class SnliProcessor(DataProcessor):
  """SNLI, the JSON lines of its authors: does a premise entail a hypothesis?

  Pairs on whose label its annotators did not agree are left out.
  """

  kind = "single_label"
  labels = MnliProcessor.labels
  tables = {
    **{
      split: Table(
        f"snli_1.0_{split}.jsonl",
        header=False,
        label="gold_label",
        no_label="-",
        format="jsonl",
        **_SENTENCES,
      )
      for split in ("train", "dev")
    },
    "test": Table(
      "snli_1.0_test.jsonl",
      header=False,
      row_id="pairID",
      gold="gold_label",
      format="jsonl",
      **_SENTENCES,
    ),
  }


# ---------------------------------------------------------------------------
# Chinese tasks


def _clue_tables(train="train.json", no_label=None, **columns):
  """Returns the tables of a task of CLUE, whose files are JSON lines."""
  jsonl = functools.partial(Table, header=False, format="jsonl", **columns)
  return {
    "train": jsonl(train, label="label", no_label=no_label),
    "dev": jsonl("dev.json", label="label", no_label=no_label),
    "test": jsonl("test.json", row_id="id", gold="label"),
  }


class TnewsProcessor(DataProcessor):
  """TNEWS (CLUE): of what kind is the title of a news item?"""

  kind = "single_label"
  labels = tuple(
    str(number) for number in range(100, 117) if number not in (105, 111)
  )
  tables = _clue_tables(text_a="sentence")


class IflytekProcessor(DataProcessor):
  """IFLYTEK (CLUE): of what kind is an app, by its description?"""

  kind = "single_label"
  labels = tuple(map(str, range(119)))
  tables = _clue_tables(text_a="sentence")


class AfqmcProcessor(DataProcessor):
  """AFQMC (CLUE): do two questions about a bank ask the same?"""

  kind = "single_label"
  labels = ("0", "1")
  tables = _clue_tables(**_SENTENCES)


class CmnliProcessor(DataProcessor):
  """CMNLI (CLUE): MultiNLI and XNLI in Chinese."""

  kind = "single_label"
  labels = MnliProcessor.labels
  tables = _clue_tables(no_label="-", **_SENTENCES)


class OcnliProcessor(DataProcessor):
  """OCNLI (CLUE): entailment, written in Chinese."""

  kind = "single_label"
  labels = MnliProcessor.labels
  tables = _clue_tables("train.50k.json", no_label="-", **_SENTENCES)


class CslProcessor(DataProcessor):
  """CSL (CLUE): are keywords those of an abstract?"""

  kind = "single_label"
  labels = ("0", "1")
  tables = _clue_tables(text_a="keyword", text_b="abst")


class ChnSentiCorpProcessor(DataProcessor):
  """ChnSentiCorp: is a review of a hotel, book or computer positive?"""

  kind = "single_label"
  labels = ("0", "1")
  tables = _glue_tables(text_a="text_a", row_id="qid")


class LcqmcProcessor(DataProcessor):
  """LCQMC: do two questions ask the same?"""

  kind = "single_label"
  labels = ("0", "1")
  tables = _glue_tables(text_a="text_a", text_b="text_b", row_id="qid")


PROCESSORS = dict(
  cola=ColaProcessor,
  mnli=MnliProcessor,
  mrpc=MrpcProcessor,
  xnli=XnliProcessor,
  qqp=QqpProcessor,
  qnli=QnliProcessor,
  rte=RteProcessor,
  wnli=WnliProcessor,
  ax=AxProcessor,
  snli=SnliProcessor,
  tnews=TnewsProcessor,
  iflytek=IflytekProcessor,
  afqmc=AfqmcProcessor,
  cmnli=CmnliProcessor,
  ocnli=OcnliProcessor,
  csl=CslProcessor,
  chnsenticorp=ChnSentiCorpProcessor,
  lcqmc=LcqmcProcessor,
)
PROCESSORS.update({"sst-2": Sst2Processor, "sts-b": StsbProcessor})

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
