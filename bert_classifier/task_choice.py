"""The choice of the task: its processor, kind, metrics and data, by the flags.

What flags and task say must agree. Where the flags leave it open, what a
trained folder remembers decides.
"""

from typing import NamedTuple

from absl import logging

from bert_classifier import output_dir, own_data, plain_texts, targets
from bert_classifier.catalogue import PROCESSORS, XnliProcessor
from bert_classifier.data_options import KIND_FLAGS
from bert_classifier.errors import UserError
from bert_classifier.metrics import check_metric
from bert_classifier.options import InferenceOptions
from bert_classifier.tasks import DataProcessor, TaskData


class Task(NamedTuple):
  """What a run is about.

  Attributes:
    name: as in --task_name, in lower case.
    processor: `tasks.DataProcessor`.
    target: what is predicted, see `targets`.
    metrics: names in `metrics.METRICS` beside those of the target.
    data: `tasks.TaskData`.
  """

  name: str
  processor: DataProcessor
  target: object
  metrics: tuple
  data: TaskData

  @property
  def trained_name(self):
    """Returns the name of the task that its models are trained on."""
    return self.processor.trained_on or self.name

  @property
  def expects_pairs(self):
    """Returns whether examples have a second text; None where some may."""
    if any(map(self.data.has_own_method, ("train", "dev", "test"))):
      return None
    return self.processor.expects_pairs()

  @property
  def headline(self):
    """Returns the name of the metric that counts."""
    return self.processor.metric or self.target.headline


def check_task_flags(options, *, is_own_data=False, reads_data=True):
  """Checks that `data_options.DataOptions` name a task, a folder and one kind.

  Args:
    options: `data_options.DataOptions`.
    is_own_data: whether files are given instead.
    reads_data: whether a folder or files are needed.

  Raises:
    UserError: a flag is needed, or contradicts another.
  """
  for name, value, meaning in (
    (
      "task_name",
      options.task_name,
      f"one of {', '.join(PROCESSORS)}, or --train_file for data of your own",
    ),
    ("data_dir", options.data_dir, "the folder of the task's files"),
  ):
    if name == "data_dir" and not reads_data:
      continue
    if not value and not is_own_data:
      raise UserError(f"--{name} is needed: {meaning}")
  if options.multi_label and options.regression:
    raise UserError(
      "--multi_label and --regression contradict each other: an example has"
      " several labels, or a number"
    )
  if options.regression and options.label_list:
    raise UserError(
      f"--label_list={options.label_list} names classes, but with --regression"
      " the label is a number: leave out one of the two"
    )


def prepare_task(
  options,
  max_seq_length,
  given=frozenset(),
  *,
  inference=InferenceOptions(),  # noqa: B008 - it is frozen
  trained=None,
  own=None,
  max_train_examples=None,
):
  """Returns the `Task` that `data_options.DataOptions` name.

  Args:
    max_seq_length: S.
    given: names of the flags that were given.
    inference: `options.InferenceOptions`.
    trained: the model settings that the checkpoint in output_dir was trained
      with; None or {} where there is none.
    own: `own_data.OwnData` where the flags name files, else None.
    max_train_examples: see `tasks.TaskData`.

  Raises:
    UserError: there is no such task, its kind, its labels or its metrics make
      no sense, or the length is too short for its texts.
  """
  name, processor = own_data.NAME, own
  if own is None:
    name = find_task(options.task_name)
    processor = PROCESSORS[name]()
    name = name.lower()
  if isinstance(processor, XnliProcessor) and "xnli_language" in given:
    processor.language = options.xnli_language
  choose_kind(processor, name, options, given, trained or {})
  if "threshold" in given:
    processor.threshold = inference.threshold
  target = processor.get_target()
  if (
    "threshold" in given
    and "threshold" not in target.prediction_settings()
    and not trained  # where another kind is refused for what it is
  ):
    raise UserError(
      f"--threshold={inference.threshold} decides which of several labels hold,"
      f" but an example of {name} has one label or a number: leave it out, or"
      " give --multi_label"
    )
  owner = type(processor).__name__
  processor.check_target(target)
  if inference.glue_submission and not processor.submissions:
    raise UserError(
      f"--glue_submission is for the tasks of GLUE, but {name} is none: leave"
      " it out; test_predictions.tsv has the predictions"
    )
  metrics = () if processor.metric is None else (processor.metric,)
  for metric in (*target.metrics, *metrics):
    check_metric(metric, target, owner)
  for metric in inference.list_metrics():
    check_metric(metric, target, "--metrics")
  metrics += inference.list_metrics()
  if processor.has_pairs() and max_seq_length < 5:
    raise UserError(
      f"--max_seq_length={max_seq_length} leaves no room for the pairs of texts"
      f" of {name}: it must be at least 5"
    )
  folder = options.data_dir if own is None else ""
  data = TaskData(processor, folder, max_train_examples)
  return Task(name, processor, target, metrics, data)


def find_task(task_name):
  """Returns the key of `PROCESSORS` that a name stands for.

  Case does not matter, and hyphens and underscores may be left out.

  Raises:
    UserError: there is no such task.
  """
  by_name = {}
  for spell in (_without_hyphens, str.lower):
    by_name.update({spell(name): name for name in PROCESSORS})
  for name in (task_name.lower(), _without_hyphens(task_name)):
    if name in by_name:
      return by_name[name]
  known = [name.lower() for name in PROCESSORS]
  raise UserError(
    f"--task_name={task_name} is not one of {', '.join(known)}"
    f"{plain_texts.suggest(task_name.lower(), known)}; for data of your own"
    " give tsv, csv or jsonl, or --train_file alone"
  )


def _without_hyphens(name):
  return name.lower().replace("-", "").replace("_", "")


def choose_kind(processor, name, options, given, trained):
  """Lets the flags, or what a model was trained with, say a task's kind.

  Args:
    processor: `tasks.DataProcessor`; its `kind` is set where it is None.
    name: of the task.
    options: `data_options.DataOptions`.
    given, trained: see `prepare_task`.

  Raises:
    UserError: a flag contradicts the task.
  """
  asked = options.kind
  if asked:
    if processor.kind not in (None, asked):
      raise UserError(
        f"--{asked} contradicts the task {name}, which is of the kind"
        f" {processor.kind!r}: leave the flag out"
      )
    processor.kind = asked
  kind = targets.find_kind(trained.get("problem_type"))
  if processor.kind is None and given.isdisjoint(KIND_FLAGS) and kind:
    processor.kind = kind
    if kind != "single_label":
      logging.info(
        "--%s, as the %s of output_dir says", kind, output_dir.MANIFEST
      )
