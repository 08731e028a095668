"""Own data by flags: files and columns become a task.

`make_processor` gives a `tasks.DataProcessor` of the files that --train_file,
--dev_file and --test_file name, or of train, dev and test in --data_dir. Where
flags do not say which columns are text and label, their names do, and the log
says what was taken. A trained folder remembers labels, columns and the split.
"""

import contextlib
import dataclasses
import json
import os

from absl import logging
import tensorflow.compat.v1 as tf

from bert_classifier import (
  errors,
  files,
  label_texts,
  output_dir,
  plain_texts,
  progress,
  table_files,
  targets,
)
from bert_classifier.data_options import KIND_FLAGS
from bert_classifier.dev_split import Share
from bert_classifier.own_columns import Columns
from bert_classifier.table_files import FORMATS
from bert_classifier.tasks import DataProcessor

# The task's name in manifests and caches, whatever the format of its files.
NAME = "own_data"
_SPLITS = ("train", "dev", "test")
_FLAGS = tuple(f"{split}_file" for split in _SPLITS)
_MOST_LABELS = 10_000


def names_own_data(options, known):
  """Returns True where `data_options.DataOptions` ask for own data by flags.

  Args:
    known: names of the tasks that there are.

  Raises:
    UserError: files are given to another task, which has its own.
  """
  name = (options.task_name or "").lower()
  given = [flag for flag in _FLAGS if getattr(options, flag)]
  is_named = name in (NAME, *FORMATS) and name not in map(str.lower, known)
  is_own = is_named or (not name and bool(given))
  if name and not is_own and given:
    raise errors.UserError(
      f"--{given[0]} is for own data, but the task {options.task_name} reads"
      " the files in its --data_dir: leave out one of the two; --task_name=tsv,"
      " csv or jsonl stands for own data"
    )
  if name and not is_own and options.dev_fraction is not None:
    raise errors.UserError(
      f"--dev_fraction={options.dev_fraction} is for own data (--train_file),"
      f" but the task {options.task_name} has a dev set"
    )
  return is_own


def make_processor(options, trained):
  """Returns the `OwnData` that the flags describe.

  Args:
    options: `options.Options`, those not given as output_dir was trained with.
    trained: the manifest's settings of output_dir, by phase; {} where there is
      no checkpoint.

  Raises:
    UserError: a file is missing, empty or no text, or its columns are unclear.
  """
  data, run = options.data, options.run
  found = {split: _find_file(data, split) for split in _SPLITS}
  folder, known = _find_trained(options, trained)
  labels, source = _find_labels(options, folder, known)
  share = _find_share(options, found, trained)
  needs_labels = labels is None and run.uses_head
  wanted = {
    "train": run.do_train or (needs_labels and found["train"] is not None),
    "dev": run.do_eval and share is None,
    "test": run.do_predict or run.do_embed,
  }
  if run.do_eval and share is not None:
    wanted["train"] = True
  names = known.get("data", {}).get("columns")
  names = dict(names) if isinstance(names, dict) else {}
  kind = _find_kind(options, known)
  tables, flags = {}, {}
  for split in _SPLITS:
    if wanted[split]:
      columns = Columns(data, found[split], split, names, kind)
      tables[split] = columns.table
      names = {**columns.names, **names}
      flags = {**columns.flags, **flags}
  if share is not None and "train" in tables:
    _share(tables, share, run.do_eval)
  processor = OwnData(tables, labels, source, names, flags)
  if labels is None and not run.uses_head:
    processor.kind = "regression"  # which needs none, and nothing asks for it
  elif known is not trained:
    _take_over(processor, kind, options.given, folder, known)
  return processor


def _take_over(processor, kind, given, folder, known):
  """Sets kind and threshold, where no flag does, as init_checkpoint has them.

  Args:
    processor: `OwnData`.
    kind: what `_find_kind` gives.
    given: names of the flags that were given.
    folder, known: what `_find_trained` gives.
  """
  found = {}
  if kind != "single_label" and kind not in given:
    processor.kind, found[kind] = kind, "true"
  threshold = known.get("prediction", {}).get("threshold")
  if threshold is not None and "threshold" not in given:
    processor.threshold = found["threshold"] = threshold
  for name, value in found.items():
    logging.info("--%s=%s, with which %s was trained", name, value, folder)


def _find_trained(options, trained):
  """Returns the folder of a training, and its manifest's settings, {} of none.

  It is output_dir or, where that has none and nothing is trained, the folder
  that init_checkpoint names.

  Args:
    options: `options.Options`.
    trained: see `make_processor`.
  """
  weights = options.model.init_checkpoint
  if trained or options.run.do_train or not weights:
    return options.run.output_dir, trained
  if not tf.io.gfile.isdir(weights):
    return weights, {}
  return weights, output_dir.inspect(weights).settings


def _find_kind(options, known):
  """Returns the kind of the target, see `targets.KINDS`.

  Args:
    options: `options.Options`.
    known: the settings of a training, which count where no flag says it.
  """
  kind = options.data.kind
  if options.given.isdisjoint(KIND_FLAGS):
    kind = targets.find_kind(known.get("model", {}).get("problem_type"))
  return kind or "single_label"


def _share(tables, share, is_evaluated):
  """Divides the training file among the tables of train and dev."""
  whole = tables["train"]
  parts = ("train", "dev") if is_evaluated else ("train",)
  for part in parts:
    tables[part] = dataclasses.replace(whole, share=share._replace(part=part))
  logging.info(
    "dev: --dev_fraction=%g of %s, chosen by seed %d",
    share.dev_fraction,
    whole.file,
    share.seed,
  )


class OwnData(DataProcessor):
  """Own data by flags.

  Args:
    tables: `Table` by split, with the paths of the files.
    labels: list of the labels; None for those of the training set.
    source: what the labels are of, for errors.
    columns: names of the training set's columns by role, for the manifest.
    flags: what says them in other files, by the name of a flag that was given.
  """

  def __init__(self, tables, labels, source, columns, flags):
    self.tables = tables
    self.columns, self.flags = columns, flags
    self._labels, self._source = labels, source

  def expects_pairs(self):
    """Returns whether the training set has a second text; None if unknown."""
    return "text_b" in self.columns if self.columns else super().expects_pairs()

  def get_labels(self):
    """Returns the labels, read from the training set where nobody says them.

    Raises:
      UserError: there is none to read them from, a cell is empty or cannot be
        read, or they are too many to be labels.
    """
    if self._labels is None:
      self._labels = self._read_labels()
    return self._labels

  def check_target(self, target):
    """Checks the labels; one alone is warned of and trained on."""
    if len(target.labels) != 1:
      target.check("your data")
    elif self.kind != "multi_label":
      logging.warning(
        "THERE IS ONE LABEL ONLY, %r: nothing can be learned from that, and the"
        " model will always predict it. Is --label_column the right one?",
        target.labels[0],
      )

  def explain_labels(self):
    """Returns whose labels they are, for an error."""
    if self.kind == "regression":
      return ""
    more = ""
    if self._source == _OF_TRAINING:
      more = ", unless --label_list names more"
    return f" (the labels are those of {self._source}{more})"

  def _read_labels(self):
    """Returns the sorted list of the labels of the training set."""
    table = self.tables.get("train")
    if table is None:
      raise errors.UserError(
        "the labels of your data are not known: give them by --label_list=a,b,"
        " or the training set that has them by --train_file"
      )
    path = table.file.format()
    file = table_files.open_table(path, table)
    if isinstance(file.table.label, tuple):
      return file.label_names(file.table.label)
    read, found = file.label_reader(file.table.label), set()
    counter = progress.Counter("read the labels of")
    for line, number, cells in progress.count_examples(file.rows, counter):
      if not cells[file.table.text_a].strip():
        continue  # no example
      try:
        found.update(self._split_cell(read(cells)))
      except ValueError as error:
        raise table_files.wrong_label(file, line, number, error) from error
      if len(found) > _MOST_LABELS:
        raise errors.UserError(
          f"{path}:{line}: there are more than {_MOST_LABELS} different labels:"
          " is --label_column the right one? For numbers give --regression"
        )
    if not found:
      raise errors.UserError(f"{path}: there is no row with a text and a label")
    labels = _sort(found)
    _warn_of_twins(labels)
    logging.info(
      "%s: %d labels: %s", path, len(labels), plain_texts.show_labels(labels)
    )
    return labels

  def _split_cell(self, cell):
    """Returns the labels that a cell names.

    Raises:
      ValueError: it names none of one, or a list, or no list of several.
    """
    if self.kind == "multi_label":
      return label_texts.split_labels(cell)
    if not cell.strip():
      raise ValueError("the label is missing")
    if label_texts.is_list(cell):
      raise ValueError(
        f"the label {cell!r:.80} is a list, which --multi_label reads"
      )
    return [cell.strip(" ")]


def _sort(labels):
  """Returns the labels in their order: numbers by their size."""
  if all(map(label_texts.is_number, labels)):
    return sorted(labels, key=lambda label: (float(label), label))
  return sorted(labels)


def _warn_of_twins(labels):
  """Warns of labels that differ in case only, or are the same number."""
  seen = {}
  for label in labels:
    is_number = label_texts.is_number(label)
    plain = float(label) if is_number else label.casefold()
    other = seen.setdefault(plain, label)
    if other != label:
      logging.warning(
        "the labels %r and %r are taken for two classes, although they %s",
        other,
        label,
        "are the same number" if is_number else "differ in case only",
      )


# ---------------------------------------------------------------------------
# Labels, files, split

_OF_TRAINING = "the training set"


def _find_labels(options, folder, known):
  """Returns the list of the labels and whose they are; None for training's.

  Without --label_list and training they are those of an earlier training.

  Args:
    options: `options.Options`.
    folder, known: what `_find_trained` gives.
  """
  if options.data.label_list:
    return _parse_labels(options.data.label_list), "--label_list"
  labels = known.get("model", {}).get("labels")
  # A list that is empty where the label is a number.
  if options.run.do_train or not isinstance(labels, list):
    return None, _OF_TRAINING
  return labels, f"the training of {folder}"


def _parse_labels(text):
  """Returns the list of the labels in --label_list.

  Raises:
    UserError: it is empty, or a broken JSON list.
  """
  labels = None
  if text.strip().startswith("["):
    with contextlib.suppress(ValueError, RecursionError):
      labels = json.loads(text)
  else:
    labels = [label.strip() for label in text.split(",")]
  if not labels or not all(
    isinstance(label, str) and label for label in labels
  ):
    raise errors.UserError(
      f"--label_list={text} is no list of labels: separate them by commas, or"
      ' give a JSON list of texts, such as ["a", "b"]'
    )
  return labels


def _find_file(data, split):
  """Returns the path of a split's file, or None.

  Args:
    data: `data_options.DataOptions`.
  """
  path = getattr(data, f"{split}_file")
  if path:
    return path
  name = (data.task_name or NAME).lower()
  for ending, format_name in table_files.ENDINGS.items():
    if data.data_dir and name in (NAME, format_name):
      path = os.path.join(data.data_dir, f"{split}.{ending}")
      if tf.io.gfile.exists(path):
        return path
  return None


def _find_share(options, found, trained):
  """Returns the `Share` of --dev_fraction, None without one.

  Args:
    options: `options.Options`.
    found: path by split.
    trained: see `make_processor`.

  Raises:
    UserError: it contradicts a dev file, or is not the split of the training.
  """
  fraction = options.data.dev_fraction
  if fraction is None:
    return None
  if found["dev"] is not None:
    if not options.run.do_train:
      return None
    raise errors.UserError(
      f"--dev_fraction={fraction} takes a part of the training set, but there"
      f" is a dev set, {found['dev']}: take one of the two"
    )
  split = trained.get("data", {}).get("dev_split")
  seed = options.training.seed
  if isinstance(split, dict) and type(split.get("seed")) is int:
    seed = split["seed"]
  if trained and options.run.do_eval and not options.run.do_train:
    _check_split(options, split, fraction, found["train"], trained)
  return Share("train", fraction, seed)


def _check_split(options, split, fraction, train_file, trained):
  """Raises a UserError where a dev set would hold examples of the training."""
  folder = options.run.output_dir
  advice = "it knows examples that would be its dev set: give --dev_file"
  if not isinstance(split, dict) or split.get("dev_fraction") != fraction:
    before = split.get("dev_fraction") if isinstance(split, dict) else "none"
    raise errors.UserError(
      f"--dev_fraction={fraction}, but {folder} was trained with {before}, so"
      f" {advice}"
    )
  if train_file is None or not tf.io.gfile.exists(train_file):
    return  # told where it is opened
  recorded = trained.get("training", {}).get("training data (SHA-256)")
  if recorded not in (None, files.hash_file(train_file)):
    raise errors.UserError(
      f"{train_file} is not the file that {folder} was trained on, so its dev"
      " set is not the same: give the file as it was, or a --dev_file"
    )


# ---------------------------------------------------------------------------
# What a trained folder remembers


def describe_settings(options, processor):
  """Returns what the manifest keeps of own data, in its phase "data".

  Args:
    options: `data_options.DataOptions`.
    processor: `OwnData`.
  """
  settings = {"columns": processor.columns}
  for name in _REMEMBERED:
    value = processor.flags.get(name, getattr(options, name))
    if value is not None:
      settings[name] = value
  if "id_column" in processor.flags:
    del settings["id_column"]  # `columns` has it, and a file may lack it
  share = processor.tables["train"].share
  if share is not None:
    settings["dev_split"] = dict(
      dev_fraction=share.dev_fraction, seed=share.seed
    )
  return settings


_REMEMBERED = (
  "dev_fraction",
  "text_column",
  "text_b_column",
  "label_column",
  "id_column",
  "no_header",
  "label_list",
)


def describe_paths(options):
  """Returns the folder and the files that flags name, for the manifest."""
  return {
    flag: files.resolve_path(getattr(options, flag))
    for flag in ("data_dir", *_FLAGS)
    if getattr(options, flag)
  }


def forget_files(trained, options):
  """Returns a manifest's settings, less its files where others are asked for.

  That is where another folder is given, or a task that has its own.

  Args:
    trained: settings by phase.
    options: `options.Options`.
  """
  name = options.data.task_name if "task_name" in options.given else NAME
  is_own = name.lower() in (NAME, *FORMATS)
  if "paths" not in trained or (is_own and "data_dir" not in options.given):
    return trained
  paths = {k: v for k, v in trained["paths"].items() if k not in _FLAGS}
  data = trained.get("data", {}) if is_own else {}
  return {**trained, "paths": paths, "data": data}
