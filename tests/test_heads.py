"""heads.py: what the head of given weights means, by the files beside it."""

import json
import re
import shutil

from conftest import GOLDEN, read_checkpoint, write_checkpoint
import numpy as np
import pytest
from safetensors.numpy import save_file

from bert_classifier import catalogue, checkpoints, heads, output_dir, targets
from bert_classifier.errors import UserError
from bert_classifier.task_choice import Task
import modeling

pytestmark = pytest.mark.quick

ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)


def a_task(name):
  processor = catalogue.PROCESSORS[name]()
  return Task(name, processor, processor.get_target(), (), None)


def compare(folder, task="mnli", rows=3, make=a_task, **config):
  """Returns the comparison of a Hugging Face folder whose head has `rows`."""
  head = {
    "classifier.weight": ROWS[:rows],
    "classifier.bias": ROWS[:rows, 0].copy(),
  }
  save_file(head, str(folder / "model.safetensors"))
  (folder / "config.json").write_text(json.dumps(config))
  checkpoint = checkpoints.open_checkpoint(folder)
  return heads.compare_head(checkpoint, {}, make(task))


def labels(*names):
  return {str(number): name for number, name in enumerate(names)}


def test_labels_that_match_but_for_case_give_the_order_of_the_rows(tmp_path):
  theirs = labels("ENTAILMENT", "Neutral", "contradiction")
  found = compare(tmp_path, id2label=theirs)
  assert found == heads.Comparison(order=(2, 0, 1))
  checkpoint = checkpoints.open_checkpoint(tmp_path).reorder_head(found.order)
  here = read_checkpoint(checkpoint.convert_to_tensorflow(f"{tmp_path}/new"))
  np.testing.assert_array_equal(here["output_weights"], ROWS[[2, 0, 1]])
  assert here["output_bias"].tolist() == [8, 0, 4]


@pytest.mark.parametrize(
  "config",
  [
    {},
    {"id2label": labels("contradiction", "entailment", "neutral")},
    {"id2label": labels("LABEL_0", "LABEL_1", "LABEL_2")},
    {"architectures": ["BertForSequenceClassification"]},
    {"problem_type": "single_label_classification", "architectures": None},
  ],
)
def test_a_head_that_says_nothing_else_is_taken_as_it_is(tmp_path, config):
  assert compare(tmp_path, **config) == heads.Comparison()


@pytest.mark.parametrize(
  "config, reason",
  [
    ({"architectures": ["BertForTokenClassification"]}, "architectures"),
    ({"problem_type": "multi_label_classification"}, "multi_label"),
    ({"id2label": labels("negative", "positive")}, "'negative', 'positive'"),
    ({"label2id": {"positive": 1, "negative": 0}}, "'negative', 'positive'"),
    ({"id2label": labels("0", "1", "2")}, "'0', '1', '2'"),
  ],
)
def test_a_head_of_something_else_is_told_from_the_tasks(
  tmp_path, config, reason
):
  found = compare(tmp_path, "cola", 2, **config)
  assert reason in found.contradiction and "config.json" in found.contradiction
  assert "--do_train" in found.explain_refusal()


def test_labels_may_mean_the_same_only_where_they_are_as_many(tmp_path):
  same = "if these labels mean the same"
  found = compare(tmp_path, id2label=labels("yes", "no", "maybe"))
  assert same in found.explain_refusal()
  for task in ("cola", "sts-b"):
    found = compare(tmp_path, task, id2label=labels("yes", "no", "maybe"))
    assert found.contradiction and same not in found.explain_refusal()


def test_a_pretrained_encoder_has_no_head_to_compare(tmp_path):
  weights = {"bert.pooler.dense.bias": np.ones(4, np.float32)}
  save_file(weights, str(tmp_path / "model.safetensors"))
  config = {"architectures": ["BertForMaskedLM"]}
  (tmp_path / "config.json").write_text(json.dumps(config))
  checkpoint = checkpoints.open_checkpoint(tmp_path)
  found = heads.compare_head(checkpoint, {}, a_task("cola"))
  assert found == heads.Comparison()


@pytest.mark.parametrize(
  "theirs", [{"a": "b"}, {"1": "x"}, ["x"], labels("x", "X", "y")]
)
def test_labels_that_cannot_be_read_are_named(tmp_path, theirs):
  with pytest.raises(UserError, match=r"config.json: id2label"):
    compare(tmp_path, id2label=theirs)


def test_of_many_labels_the_first_are_shown(tmp_path):
  theirs = labels(*(f"label of class {number}" for number in range(10_000)))
  found = compare(tmp_path, id2label=theirs)
  assert "and 9990 more (10000 in all)" in found.contradiction
  assert len(found.contradiction) < 700


@pytest.mark.parametrize("kinds", [3, "BertForTokenClassification", {"a": 1}])
def test_architectures_that_are_no_list_are_refused(tmp_path, kinds):
  with pytest.raises(UserError, match="config.json: architectures is .*list"):
    compare(tmp_path, architectures=kinds)


def compare_own(
  folder, name="model.ckpt-7", task="mrpc", make=a_task, **settings
):
  """Returns the comparison of a run's checkpoint, of MRPC, with a task."""
  write_checkpoint(folder / name, {"output_bias": np.zeros(2, np.float32)})
  trained = {"task_name": "mrpc", "labels": ["0", "1"], **settings}
  config = modeling.BertConfig(vocab_size=9)
  vocab_file = str(GOLDEN / "end_to_end/vocab.txt")
  output_dir.write_manifest(str(folder), {"model": trained}, config, vocab_file)
  checkpoint = checkpoints.open_checkpoint(folder / name)
  manifest = heads.read_manifest(checkpoint)
  return heads.compare_head(checkpoint, manifest, make(task))


def test_a_manifest_tells_tasks_with_the_same_labels_apart(tmp_path):
  assert compare_own(tmp_path) == heads.Comparison()
  found = compare_own(tmp_path, task="cola")
  assert "task_name 'mrpc', not 'cola'" in found.contradiction


def test_a_manifest_tells_the_order_of_labels(tmp_path):
  found = compare_own(tmp_path, labels=["1", "0"])
  assert "labels ['1', '0'], not ['0', '1']" in found.contradiction


def several(name):
  processor = catalogue.PROCESSORS[name]()
  target = targets.SeveralClasses(processor.get_labels())
  return Task(name, processor, target, (), None)


def number(name):
  processor = catalogue.PROCESSORS[name]()
  return Task(name, processor, targets.Number(), (), None)


@pytest.mark.parametrize(
  ("trained", "task", "remedy"),
  [
    ({"problem_type": "multi_label_classification"}, a_task, "--multi_label"),
    ({"problem_type": "regression", "labels": []}, a_task, "--regression"),
    ({}, several, "leave out --multi_label"),  # an old one is of one class
    ({"labels": []}, number, "leave out --multi_label and --regression"),
  ],
)
def test_a_manifest_tells_kinds_with_the_same_labels_apart(
  tmp_path, trained, task, remedy
):
  found = compare_own(tmp_path, make=task, **trained)
  kind = trained.get("problem_type", "single_label_classification")
  assert f"problem_type '{kind}', not" in found.contradiction
  assert remedy in found.explain_refusal()


@pytest.mark.parametrize(
  ("make", "config", "said"),
  [
    (several, {"problem_type": "multi_label_classification"}, None),
    (
      several,
      {"problem_type": "regression"},
      "if the task .* give --regression",
    ),
    (number, {"problem_type": "regression"}, None),
    (number, {"id2label": {"0": "score"}}, None),
    (number, {"id2label": {"0": "LABEL_0"}, "problem_type": None}, None),
    (
      number,
      {"id2label": {"0": "a", "1": "b"}},
      "are 'a', 'b' .* those of the task cola a number",
    ),
  ],
)
def test_a_config_tells_kinds_apart(tmp_path, make, config, said):
  found = compare(tmp_path, "cola", 1, make=make, **config)
  if said is None:
    assert found == heads.Comparison()
  else:
    assert re.search(said, found.explain_refusal())


def test_rows_of_several_classes_are_ordered_by_their_names(tmp_path):
  theirs = labels("ENTAILMENT", "Neutral", "contradiction")
  found = compare(tmp_path, id2label=theirs, make=several)
  assert found == heads.Comparison(order=(2, 0, 1))


def test_a_manifest_is_of_the_checkpoints_that_a_run_wrote(tmp_path):
  assert compare_own(tmp_path, "bert_model.ckpt", "cola") == heads.Comparison()
  shutil.rmtree(tmp_path)
  tmp_path.mkdir()
  assert heads.read_manifest(None) == {}
