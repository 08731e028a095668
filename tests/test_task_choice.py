"""The task that flags, processor and trained folder make together."""

import pytest

from bert_classifier import catalogue, options, task_choice
from bert_classifier.errors import UserError


class German(catalogue.XnliProcessor):
  def __init__(self):
    super().__init__("de")


@pytest.mark.parametrize(
  ("name", "given", "language"),
  [
    ("xnli", True, "fr"),
    ("xnli", False, "zh"),
    ("german", True, "fr"),
    ("german", False, "de"),
    ("mrpc", True, None),
  ],
)
def test_the_language_flag_is_for_xnli_alone(
  monkeypatch, name, given, language
):
  monkeypatch.setitem(catalogue.PROCESSORS, "german", German)
  flags = {"xnli_language": "fr"} if given else {}
  values = options.make_options(task_name=name, **flags)
  task = task_choice.prepare_task(values.data, 8, values.given)
  assert task.processor.language == language


class Own(catalogue.DataProcessor):
  labels = ("a", "b", "c")


def prepare(monkeypatch, kind=None, trained=None, task="own", **flags):
  """Returns the task that flags make of one whose `kind` is as given."""
  monkeypatch.setitem(catalogue.PROCESSORS, "own", Own)
  monkeypatch.setattr(Own, "kind", kind)
  values = options.make_options(task_name=task, data_dir="x", **flags)
  trained = trained and {"problem_type": trained}
  return task_choice.prepare_task(
    values.data, 8, values.given, inference=values.inference, trained=trained
  )


MULTI, NUMBER = "multi_label_classification", "regression"


@pytest.mark.parametrize(
  ("kind", "trained", "flags", "problem_type"),
  [
    (None, None, {}, "single_label_classification"),
    (None, None, {"multi_label": True}, MULTI),
    (None, None, {"regression": True}, NUMBER),
    ("multi_label", None, {}, MULTI),
    ("regression", None, {"regression": True}, NUMBER),
    (None, MULTI, {}, MULTI),
    (None, MULTI, {"multi_label": False}, "single_label_classification"),
    (None, MULTI, {"regression": True}, NUMBER),
    ("single_label", MULTI, {}, "single_label_classification"),
    (None, "magnitude", {}, "single_label_classification"),
  ],
)
def test_the_kind_of_a_task_is_that_of_flag_task_or_folder(
  monkeypatch, kind, trained, flags, problem_type
):
  task = prepare(monkeypatch, kind, trained, **flags)
  assert task.target.problem_type == problem_type
  assert task.data.processor.get_target().problem_type == problem_type


def test_flags_of_several_classes_and_metrics_reach_the_task(monkeypatch):
  task = prepare(
    monkeypatch,
    multi_label=True,
    threshold=0.3,
    metrics="hamming_loss, roc_auc,",
  )
  assert task.target.threshold == 0.3
  assert task.metrics == ("hamming_loss", "roc_auc")
  assert task.headline == "micro_f1"
  monkeypatch.setattr(Own, "metric", "macro_f1")
  task = prepare(monkeypatch, metrics="cohen_kappa")
  assert task.metrics == ("macro_f1", "cohen_kappa")
  assert task.headline == "macro_f1"


@pytest.mark.parametrize(
  ("kind", "flags", "said"),
  [
    (None, {"threshold": 0.3}, "threshold=0.3 decides which of several labels"),
    (
      "regression",
      {"multi_label": True},
      "own, which is of the kind 'regressi",
    ),
    (
      None,
      {"task": "mrpc", "regression": True},
      "the kind 'single_label': lea",
    ),
    (None, {"metrics": "pearson"}, "--metrics names 'pearson', which is for a"),
    (None, {"metrics": "f1"}, "second of two classes, but there are 3: give"),
    (
      None,
      {"regression": True, "metrics": "f2"},
      "one of pearson, spearman, m",
    ),
  ],
)
def test_flags_that_do_not_fit_the_task_are_refused(
  monkeypatch, kind, flags, said
):
  with pytest.raises(UserError, match=said):
    prepare(monkeypatch, kind, **flags)


def test_a_metric_of_an_own_task_must_fit_its_kind(monkeypatch):
  monkeypatch.setattr(Own, "metric", "f1")
  with pytest.raises(
    UserError, match="Own names 'f1', .* there are 3: give one"
  ):
    prepare(monkeypatch)


def test_several_labels_and_a_number_contradict_each_other():
  values = options.make_options(
    multi_label=True, regression=True, task_name="own", data_dir="x"
  )
  with pytest.raises(UserError, match="--multi_label and --regression contr"):
    task_choice.check_task_flags(values.data)


@pytest.mark.parametrize("labels", [("a",), ("a", "a"), "good"])
def test_labels_that_are_not_two_different_ones_are_refused(labels):
  class Own(catalogue.MrpcProcessor):
    pass

  Own.labels = labels
  with pytest.raises(UserError, match="the labels of Own are '"):
    Own().get_target().check("Own")
