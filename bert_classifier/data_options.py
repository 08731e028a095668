"""The flags of the task and its files."""

import dataclasses
from typing import Optional

from bert_classifier.flag_fields import Range, flag

# Flags that say a kind of target other than one class; see `targets.KINDS`.
KIND_FLAGS = "multi_label", "regression"


@dataclasses.dataclass(frozen=True)
class DataOptions:
  """The task and its files"""

  task_name: Optional[str] = flag(
    None,
    "Task, in any case: a built-in one (docs/data.md), one of your own, or the"
    " format of own data: tsv, csv or jsonl; if it is left out, the endings of"
    " the files say the format.",
    recorded_as=("model", "task_name"),
  )
  data_dir: Optional[str] = flag(
    None,
    "Folder of the task's files.",
    is_path=True,
    recorded_as=("paths", "data_dir"),
  )
  train_file: Optional[str] = flag(
    None,
    "File of own data to train on: TSV, CSV or JSON lines. Default: train.csv,"
    " .tsv or .jsonl in data_dir; likewise dev and test.",
    is_path=True,
    recorded_as=("paths", "train_file"),
  )
  dev_file: Optional[str] = flag(
    None,
    "File of own data to evaluate on.",
    is_path=True,
    recorded_as=("paths", "dev_file"),
  )
  test_file: Optional[str] = flag(
    None,
    "File of own data to predict.",
    is_path=True,
    recorded_as=("paths", "test_file"),
  )
  dev_fraction: Optional[float] = flag(
    None,
    "Share of train_file that is the dev set, chosen by --seed with the same"
    " shares of the labels, where there is no dev_file.",
    Range(0, 1, is_open=True),
    recorded_as=("data", "dev_fraction"),
  )
  text_column: Optional[str] = flag(
    None,
    "Column of the text in own data: name in the header, number from 0, or path"
    " of keys joined by dots. Default: text, sentence, review or the like.",
    recorded_as=("data", "text_column"),
  )
  text_b_column: Optional[str] = flag(
    None,
    "Column of the second text. Default: that of sentence1 and sentence2 or the"
    " like.",
    recorded_as=("data", "text_b_column"),
  )
  label_column: Optional[str] = flag(
    None,
    "Column of the label; for --multi_label also several, such as a,b,c, of 0"
    " and 1 each. Default: label, class, target, sentiment or the like.",
    recorded_as=("data", "label_column"),
  )
  id_column: Optional[str] = flag(
    None,
    "Column of the id, for the predictions. Default: id, index or guid.",
    recorded_as=("data", "id_column"),
  )
  no_header: bool = flag(
    False,
    "The first row of own data is an example; columns are numbers from 0.",
    recorded_as=("data", "no_header"),
  )
  label_list: Optional[str] = flag(
    None,
    "Labels of own data in their order, separated by commas, or a JSON list."
    " Default: those of the training set, sorted.",
    recorded_as=("data", "label_list"),
  )
  xnli_language: str = flag(
    "zh",
    "Language of the XNLI examples, two letters.",
    recorded_as=("model", "language"),
  )
  multi_label: bool = flag(
    False,
    "An example of a task of your own has any number of labels, separated by |"
    " or comma or in a JSON list; an empty cell has none. A trained folder"
    " remembers it.",
  )
  regression: bool = flag(
    False,
    "The label of a task of your own is a number. A trained folder remembers"
    " it.",
  )
  cache_dir: Optional[str] = flag(
    None,
    "Folder of the converted features (TFRecord). Default: data_dir, or"
    " output_dir where there is none, it cannot be written or --use_tpu is on.",
    is_path=True,
  )

  @property
  def kind(self):
    """Returns the kind of target that a flag asks for, None where none does."""
    asked = (kind for kind in KIND_FLAGS if getattr(self, kind))
    return next(asked, None)
