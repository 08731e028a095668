"""The choice of the task: its processor, kind, metrics and data, by the flags.

What flags and task say must agree. Where the flags leave it open, what a
trained folder remembers decides.
"""

from typing import NamedTuple

from absl import logging

from bert_classifier import output_dir, plain_texts, targets
from bert_classifier.catalogue import PROCESSORS, XnliProcessor
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
  def headline(self):
    """Returns the name of the metric that counts."""
    return self.processor.metric or self.target.headline


def check_task_flags(options):
  """Checks that `options.DataOptions` name a task, a folder and one kind.

  Raises:
    UserError: a flag is needed, or contradicts another.
  """
  for name, value, meaning in (
    ("task_name", options.task_name, f"one of {', '.join(PROCESSORS)}"),
    ("data_dir", options.data_dir, "the folder of the task's files"),
  ):
    if not value:
      raise UserError(f"--{name} is needed: {meaning}")
  if options.multi_label and options.regression:
    raise UserError(
      "--multi_label and --regression contradict each other: an example has"
      " several labels, or a number"
    )


def prepare_task(
  options,
  max_seq_length,
  given=frozenset(),
  *,
  inference=InferenceOptions(),  # noqa: B008 - it is frozen
  trained=None,
):
  """Returns the `Task` that `options.DataOptions` name.

  Args:
    max_seq_length: S.
    given: names of the flags that were given.
    inference: `options.InferenceOptions`.
    trained: the model settings that the checkpoint in output_dir was trained
      with; None or {} where there is none.

  Raises:
    UserError: there is no such task, its kind, its labels or its metrics make
      no sense, or the length is too short for its texts.
  """
  processors = {name.lower(): PROCESSORS[name] for name in PROCESSORS}
  name = options.task_name.lower()
  if name not in processors:
    raise UserError(
      f"--task_name={options.task_name} is not one of {', '.join(processors)}"
      f"{plain_texts.suggest(name, processors)}"
    )
  processor = processors[name]()
  if isinstance(processor, XnliProcessor) and "xnli_language" in given:
    processor.language = options.xnli_language
  choose_kind(processor, name, options, given, trained or {})
  if "threshold" in given:
    processor.threshold = inference.threshold
  target = processor.get_target()
  if (
    "threshold" in given
    and not isinstance(target, targets.SeveralClasses)
    and not trained  # where another kind is refused for what it is
  ):
    raise UserError(
      f"--threshold={inference.threshold} decides which of several labels hold,"
      f" but an example of {name} has one label or a number: leave it out, or"
      " give --multi_label"
    )
  owner = type(processor).__name__
  target.check(owner)
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
  data = TaskData(processor, options.data_dir)
  return Task(name, processor, target, metrics, data)


def choose_kind(processor, name, options, given, trained):
  """Lets the flags, or what a model was trained with, say a task's kind.

  Args:
    processor: `tasks.DataProcessor`; its `kind` is set where it is None.
    name: of the task.
    options: `options.DataOptions`.
    given, trained: see `prepare_task`.

  Raises:
    UserError: a flag contradicts the task.
  """
  flags = [kind for kind in ("multi_label", "regression") if kind in given]
  for kind in flags:
    if getattr(options, kind):
      if processor.kind not in (None, kind):
        raise UserError(
          f"--{kind} contradicts the task {name}, which is of the kind"
          f" {processor.kind!r}: leave the flag out"
        )
      processor.kind = kind
  kind = targets.find_kind(trained.get("problem_type"))
  if processor.kind is None and not flags and kind:
    processor.kind = kind
    if kind != "single_label":
      logging.info(
        "--%s, as the %s of output_dir says", kind, output_dir.MANIFEST
      )
