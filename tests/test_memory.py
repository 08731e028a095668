"""Memory that is short, or exhausted: what is said, and what to try next."""

import re

from conftest import small_config
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import machine, memory, preparation, progress, resources
from bert_classifier.errors import UserError
from bert_classifier.options import make_options
import run_classifier

OOM = tf.errors.ResourceExhaustedError(
  None,
  None,
  "Graph execution error:\n\nDetected at node 'add'\nOOM when allocating"
  " tensor with shape[32,12,128,128]\nmore",
)


@pytest.fixture(scope="module")
def prepare(classify, small_model, tmp_path_factory):
  """Returns the `Run` of some flags; the features are made once."""

  def prepare(**flags):
    given = {**classify.defaults, **small_model, **flags}
    given["output_dir"] = tmp_path_factory.mktemp("out")
    values = {
      name: value if isinstance(value, (bool, int)) else str(value)
      for name, value in given.items()
    }
    return preparation.prepare(make_options(**values, do_train=True))

  return prepare


def test_each_setting_to_try_next_needs_less_memory(prepare):
  flags, seen = {"train_batch_size": 12}, []
  while True:
    run = prepare(**flags)
    seen.append((flags, memory.estimate(run, "train").activations))
    asked = re.findall(r"--(\w+)(?:=(\d+))?", memory.suggest(run, "train"))
    if "max_seq_length" in dict(asked):
      break
    flags = {**flags, **{n: int(v) if v else True for n, v in asked}}
  assert [tuple(flags.values())[1:] for flags, _ in seen] == [
    (), (2,), (4,), (12,), (12, True)
  ]  # fmt: skip
  needed = [activations for _, activations in seen]
  # The model has one layer, of which all is kept again.
  assert (
    needed[:4] == sorted(needed[:4], reverse=True) and needed[0] > needed[3]
  )


@pytest.mark.parametrize(
  "error",
  [
    OOM,
    MemoryError(),
    tf.errors.InternalError(
      None, None, "failed to allocate: CUDA_ERROR_OUT_OF_MEMORY"
    ),
  ],
)
def test_exhausted_memory_ends_training_in_a_sentence(
  classify, training, tmp_path, monkeypatch, error
):
  def fail(*_):
    raise error

  monkeypatch.setattr(run_classifier, "run_training", fail)
  done = classify(output_dir=tmp_path, **training)
  assert done.status == 1 and "Traceback" not in done.log
  said = done.log.splitlines()[-1]
  assert "the memory of CPU" in said and "exhausted: 8 examples of" in said
  assert re.search(r"up to 24 positions, .* of 0\.\d million weights", said)
  assert re.search(r"KiB|MiB for weights, .* for activations", said)
  assert "Next, try --gradient_accumulation_steps=2: the same" in said
  if error is OOM:
    assert said.endswith(
      "(OOM when allocating tensor with shape[32,12,128,128])"
    )


@pytest.mark.parametrize(
  ("flags", "function", "words"),
  [
    ({"do_eval": True}, "evaluate", "try --eval_batch_size=4"),
    ({"do_predict": True}, "predict", "try --predict_batch_size=2"),
    ({"do_eval": True, "eval_batch_size": 1}, "evaluate", "smaller --max_seq"),
  ],
)
def test_exhausted_memory_ends_evaluation_and_prediction_too(
  classify, tmp_path, monkeypatch, flags, function, words
):
  def fail(*_, **__):
    raise OOM
    yield  # as predict does

  def fail_at_once(*_, **__):
    raise OOM

  estimator = tf.estimator.tpu.TPUEstimator
  monkeypatch.setattr(
    estimator, function, fail if function == "predict" else fail_at_once
  )
  sizes = {"eval_batch_size": 8, "predict_batch_size": 4}
  done = classify(output_dir=tmp_path / "out", **{**sizes, **flags})
  assert done.status == 1, done.log
  assert words in done.log.splitlines()[-1]


def test_an_evaluation_on_the_way_is_told_from_training(prepare):
  run = prepare(do_eval=True, eval_batch_size=8)
  hook = progress.training_hook(run)
  (evaluating,) = progress.evaluation_hooks(run, "dev", hook)
  evaluating.begin()
  with (
    pytest.raises(UserError, match="8 examples of dev .* --eval_batch_size=4"),
    memory.explain_exhaustion(run, "train", hook),
  ):
    raise OOM


def test_another_error_stays_what_it_is(prepare):
  run = prepare()
  bug = tf.errors.InvalidArgumentError(None, None, "shapes do not match")
  explained = memory.explain_exhaustion(run, "train")
  with pytest.raises(tf.errors.InvalidArgumentError), explained:
    raise bug


def test_a_training_that_is_too_large_is_said_beforehand(
  prepare, monkeypatch, caplog
):
  run = prepare(train_batch_size=16)
  needed = memory.estimate(run, "train")
  enough = needed.total() - needed.program
  for free, warns in ((enough, False), (enough - 1, True), (None, False)):
    caplog.clear()
    monkeypatch.setattr(machine, "free_memory", lambda free=free: free)
    memory.warn_if_short(run)
    assert bool(caplog.text) == warns
    if warns:
      assert "are free: " in caplog.text and "steps=2" in caplog.text


def test_frozen_layers_keep_nothing_for_gradients(prepare):
  run, frozen = prepare(), prepare(freeze_layers=1)
  ours, theirs = (memory.estimate(each, "train") for each in (frozen, run))
  assert ours.weights == theirs.weights
  assert ours.slots == 2 * ours.gradients < theirs.slots / 2
  config, lengths = small_config(num_hidden_layers=4), np.full(4, 6)
  kept = [
    resources.count_activations(config, lengths, True, frozen=n)
    for n in (None, 0, 1, 2)
  ]
  assert kept[0] == kept[1] and kept[0] * 2 == pytest.approx(kept[3] * 4)
  assert kept[2] == pytest.approx(kept[0] * 3 / 4)


def test_of_layers_that_are_built_again_the_memory_is_one_layers():
  lengths = np.full(4, 6)

  def count(layers, recomputes):
    config = small_config(num_hidden_layers=layers)
    return resources.count_activations(config, lengths, True, recomputes)

  kept = count(12, True) - count(6, True)
  assert kept == 6 * 4 * 6 * 8  # what six layers read
  assert count(12, True) < count(12, False) / 4
