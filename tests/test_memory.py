"""Memory that is short, or exhausted: what is said, and what to try next."""

import dataclasses
import re

from conftest import small_config
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import (
  gpu,
  machine,
  memory,
  preparation,
  progress,
  replicas,
  resources,
)
from bert_classifier.clusters import Cluster
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
      name: value if isinstance(value, (bool, int, float)) else str(value)
      for name, value in given.items()
    }
    return preparation.prepare(make_options(**values, do_train=True))

  return prepare


def test_each_setting_to_try_next_needs_less_memory(prepare):
  flags, seen = {"train_batch_size": 12}, []
  while True:
    run = prepare(**flags)
    seen.append((flags, memory.estimate_split(run, "train").activations))
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
    monkeypatch.undo()
    advised = re.findall(r"--\w+(?:=\w+)?", said[said.index("Next, try") :])
    done = classify(
      *advised, output_dir=tmp_path, **{**training, "num_train_epochs": 0.3}
    )
    assert done.status == 0 and "step 1/1" in done.log, done.log


def test_exhausted_memory_of_a_gpu_is_told_with_its_name(prepare, monkeypatch):
  monkeypatch.setattr(gpu, "list_gpus", lambda: [None])
  rows = [("T4", "16 MiB", "15 MiB")]
  monkeypatch.setattr(machine, "query_nvidia_smi", lambda: rows)
  run = prepare(gradient_accumulation_steps=2, gradient_checkpointing=True)
  with (
    pytest.raises(
      UserError, match=r"memory of GPU:0 \(T4, .*\) is exh"
    ) as said,
    memory.explain_exhaustion(run, "train"),
  ):
    raise OOM
  words = str(said.value)
  assert ": 16 examples of train at a time, of up to 24 positions, and" in words
  for part in ("weights", "gradients", "slots", "activations"):
    assert re.search(rf"\d [KM]iB for {part}", words)
  assert "Next, try --gradient_accumulation_steps=4: the same update" in words


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


@pytest.fixture
def warn(monkeypatch, caplog):
  """Returns a function that gives the warning, where so much is free."""
  monkeypatch.setattr(resources, "read_resident_memory", lambda: 500 << 20)

  def warn(run, split, free):
    caplog.clear()
    monkeypatch.setattr(machine, "find_free_memory", lambda: free)
    memory.warn_if_short(run, split)
    return caplog.text

  return warn


def test_a_training_that_is_too_large_is_said_beforehand(prepare, warn):
  run = prepare(train_batch_size=16)
  needed = memory.estimate_need(run, "train")
  assert not warn(run, "train", needed) and not warn(run, "train", None)
  assert "training needs about" in warn(run, "train", needed - 1)
  assert "Next, try a smaller --max_seq_length" in warn(run, "train", 1)


def test_the_parts_that_are_named_are_what_is_needed(prepare, warn):
  said = warn(prepare(train_batch_size=16), "train", 1)
  needed, *parts = [int(n) for n in re.findall(r"(\d+) MiB (?:of|for)", said)]
  assert len(parts) == 6 and parts[-1] > 0
  assert abs(sum(parts) - needed) <= 4  # of rounding


def test_the_setting_to_try_next_fits_into_what_is_free(
  classify, prepare, warn
):
  three_layers = classify.defaults["init_checkpoint"]
  flags = dict(
    train_batch_size=512,
    num_train_epochs=40.0,
    init_checkpoint=three_layers,
    bert_config_file=f"{three_layers}/bert_config.json",
  )
  run = prepare(**flags)
  steps = dict(gradient_accumulation_steps=8)
  needed = memory.estimate_need(prepare(**flags, **steps), "train")
  said = warn(run, "train", needed)
  assert "steps=8: the same update, by 64 examples at a time." in said
  least = dict(gradient_accumulation_steps=512, gradient_checkpointing=True)
  needed = memory.estimate_need(prepare(**flags, **least), "train")
  assert (
    "steps=512 --gradient_checkpointing: the same update, by 1 example at a"
    " time, in a third more time." in warn(run, "train", needed)
  )


def test_an_evaluation_that_is_too_large_is_said_beforehand(prepare, warn):
  run = prepare(do_eval=True, eval_batch_size=64)
  alone = run._replace(
    options=run.options._replace(
      run=dataclasses.replace(run.options.run, do_train=False)
    )
  )
  free = memory.estimate_need(alone._replace(eval_batch_size=16), "dev")
  said = warn(alone, "dev", free)
  assert "computing dev needs about" in said and "_batch_size=16." in said
  assert not warn(run, "dev", free)  # training was told


def test_processes_of_one_machine_need_it_as_often(prepare, warn):
  run = prepare(train_batch_size=16)
  needed = memory.estimate_need(run, "train")
  addresses = ("a:1", "b:1", "b:2", "b:3")
  several = replicas.WorkersPlacement(
    run.options.device, Cluster(addresses, 2), gpus=0
  )
  assert several.processes_here == 3
  assert 2 * needed < memory.estimate_need(
    run._replace(placement=several), "train"
  )


def test_frozen_layers_keep_nothing_for_gradients(prepare):
  run, frozen = prepare(), prepare(freeze_layers=1)
  ours, theirs = (
    memory.estimate_split(each, "train") for each in (frozen, run)
  )
  assert ours.weights == theirs.weights
  assert ours.slots == 2 * ours.gradients < theirs.slots / 2
  config, lengths = small_config(num_hidden_layers=4), np.full(4, 6)
  kept = [
    resources.count_activations(config, lengths, True, frozen=n)
    for n in (None, 0, 1, 2)
  ]
  assert kept[0] == kept[1] and kept[0] * 2 == pytest.approx(kept[3] * 4)
  assert kept[2] == pytest.approx(kept[0] * 3 / 4)


def test_packed_rows_are_computed_whole(prepare):
  """Measured with 32 examples in 18 rows of 512: 2947 for a peak of 2762 MiB.

  Of the tokens alone, 2091 were estimated.
  """
  flags = dict(pack_sequences=True, train_batch_size=12)
  run = prepare(**flags)
  rows = np.full(run.packed.rows, 24)
  numbers = resources.count_activations(run.model.config, rows, True)
  assert memory.estimate_split(run, "train").activations == int(4 * numbers)
  smaller = prepare(**flags, gradient_accumulation_steps=2)
  halved = run._replace(options=smaller.options)
  assert (
    memory.estimate_split(smaller, "train").activations
    == memory.estimate_split(halved, "train").activations
    < memory.estimate_split(run, "train").activations
  )


def test_of_layers_that_are_built_again_the_memory_is_one_layers():
  lengths = np.full(4, 6)

  def count(layers, recomputes):
    config = small_config(num_hidden_layers=layers)
    return resources.count_activations(config, lengths, True, recomputes)

  kept = count(12, True) - count(6, True)
  assert kept == 6 * 4 * 6 * 8  # what six layers read
  assert count(12, True) < count(12, False) / 4
