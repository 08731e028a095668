"""The loss scale of float16: steps that are skipped, and what is saved."""

import json

from conftest import AS_BUILT, read_checkpoint, write_checkpoint
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import (
  errors,
  fast_optimization,
  machine,
  precision,
  progress,
  saving,
)
from bert_classifier.loss_scale import LossScale
import optimization

OPTIMIZERS = [
  optimization.AdamWeightDecayOptimizer,
  fast_optimization.FusedAdamWeightDecayOptimizer,
]


def train(optimizer_class, factors, scaled=True, patience=2000):
  """Takes a step for each factor of the gradients; returns variables by step.

  The loss has a table that is looked up and a kernel; beside them come the
  scale of the step and the steps skipped before it.
  """
  with tf.Graph().as_default(), tf.Session(config=AS_BUILT) as session:
    table = tf.get_variable("table", initializer=np.ones([4, 2], np.float32))
    kernel = tf.get_variable("kernel", initializer=np.ones([2, 2], np.float32))
    factor = tf.placeholder(tf.float32, [])
    rows = tf.matmul(tf.gather(table, [1, 3, 3]), kernel)
    step = tf.train.get_or_create_global_step()
    optimizer = optimization.make_optimizer(tf.constant(0.1), optimizer_class)
    scale = LossScale() if scaled else None
    if scaled:
      scale.PATIENCE = patience
    _, pairs = optimization.compute_gradients(
      lambda number: factor * tf.reduce_sum(rows), optimizer, loss_scale=scale
    )
    train_op = optimization.update_step(
      pairs, optimizer, step, loss_scale=scale
    )
    session.run(tf.global_variables_initializer())
    seen = []
    for value in factors:
      session.run(train_op, {factor: value})
      seen.append(session.run({v.op.name: v for v in tf.global_variables()}))
  return seen


@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_step_that_is_not_finite_changes_the_scale_alone(
  optimizer_class, bad
):
  first, skipped, after = train(optimizer_class, [1.0, bad, 2.0])
  for name in set(first) - {"global_step", *LossScale.VARIABLES}:
    np.testing.assert_array_equal(skipped[name], first[name], err_msg=name)
    assert np.abs(after[name] - first[name]).max() > 0
  assert [s["global_step"] for s in (first, skipped, after)] == [1, 2, 3]
  scales = [s["current_loss_scale"] for s in (first, skipped, after)]
  assert scales == [2**15, 2**14, 2**14]
  assert [s["skipped_steps"] for s in (first, skipped, after)] == [0, 1, 1]
  assert [s["good_steps"] for s in (first, skipped, after)] == [1, 0, 1]


@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
def test_the_scale_is_not_in_the_update(optimizer_class):
  factors = [1.0, -0.5, 2.0]
  scaled = train(optimizer_class, factors)[-1]
  plain = train(optimizer_class, factors, scaled=False)[-1]
  assert set(scaled) - set(plain) == set(LossScale.VARIABLES)
  for name, value in plain.items():
    # 1 - 0.999 is off by 5e-5 in float32, and so is the second moment.
    tolerance = 1e-4 if name.endswith("adam_v") else 1e-5
    np.testing.assert_allclose(scaled[name], value, tolerance, err_msg=name)


def test_the_scale_doubles_after_good_steps_and_never_falls_under_one():
  seen = train(OPTIMIZERS[0], [1.0] * 4, patience=2)
  assert [s["current_loss_scale"] for s in seen] == [
    2**15, 2**16, 2**16, 2**17
  ]  # fmt: skip
  assert train(OPTIMIZERS[0], [np.inf] * 17)[-1]["current_loss_scale"] == 1


class Training:
  """A session with a variable, a step and, where asked for, a loss scale."""

  def __init__(self, scaled):
    with tf.Graph().as_default() as graph:
      self.weight = tf.get_variable("w", [2])
      tf.train.get_or_create_global_step()
      self.scale = LossScale() if scaled else None
      self.saver = saving.Saver()
      self.saver.build()
      self.fill = tf.group(
        self.weight.assign([3.0, 4.0]),
        *([self.scale.scale.assign(8.0)] if scaled else []),
      )
      self.start = tf.global_variables_initializer()
    self.session = tf.Session(graph=graph)

  def save(self, folder):
    self.session.run(self.start)
    self.session.run(self.fill)
    with self.session.graph.as_default():
      path = f"{folder}/model.ckpt"
      return self.saver.save(self.session, path, np.int64(7))

  def restore(self, path):
    with self.session.graph.as_default():
      self.saver.restore(self.session, path)


@pytest.mark.parametrize("scaled", [False, True])
def test_a_checkpoint_is_restored_with_and_without_a_scale(tmp_path, scaled):
  path = Training(scaled).save(tmp_path)
  names = set(LossScale.VARIABLES)
  assert (names <= read_checkpoint(path).keys()) == scaled
  for again in (Training(True), Training(False)):
    again.restore(path)
    assert list(again.session.run(again.weight)) == [3, 4]
    if again.scale:
      found = again.session.run(again.scale.scale)
      assert found == (8 if scaled else 2**15)


@pytest.mark.parametrize(
  ("numbers", "words"),
  [
    ({"loss": np.nan}, "^the loss of step 1 is nan$"),
    ({"loss": np.nan, "loss_scale": 2.0}, None),
    ({"gradient_norm": np.inf}, None),  # as ever: clipping makes it NaN
    (
      {"gradient_norm": np.inf, "loss_scale": 1.0},
      "gradient norm of step 1 is inf, and the loss scale .*=mixed_bfloat16",
    ),
  ],
)
def test_training_ends_where_the_scale_cannot_fall(numbers, words):
  hook = progress.ProgressHook(3, batch_size=4, examples=10, log_steps=9)
  with tf.Graph().as_default():
    tf.train.get_or_create_global_step()
    for name, tensor in [
      ("loss", hook.LOSS),
      ("gradient_norm", optimization.GRADIENT_NORM),
      ("loss_scale", LossScale.SCALE),
    ]:
      if name in numbers:
        tf.constant(numbers[name], tf.float32, name=tensor)
    with tf.train.MonitoredSession(hooks=[hook]) as session:
      if words is None:
        session.run([])
        return
      with pytest.raises(errors.NotFiniteError, match=words):
        session.run([])


def test_a_folder_goes_on_in_float16_and_counts_what_it_skips(
  classify, training, tmp_path, monkeypatch
):
  out = tmp_path / "out"
  flags = dict(training, output_dir=out, save_checkpoints_steps=100)
  done = classify(**flags, num_train_epochs=1)
  assert done.status == 0, done.log
  names = set(LossScale.VARIABLES)
  assert not names & read_checkpoint(out).keys()
  monkeypatch.setattr(LossScale, "FIRST", 2.0**60)
  monkeypatch.setattr(precision, "read_cpu_flags", lambda: {"avx2"})
  monkeypatch.setattr(machine, "find_free_memory", lambda: 1)
  float16 = ["--precision=mixed_float16", "--gradient_accumulation_steps=2"]
  done = classify(*float16, **flags, num_train_epochs=2, do_eval=True)
  assert done.status == 0, done.log
  assert "skipped for the range of float16" in done.log
  assert "--precision=mixed_float16 will be slower" in done.log
  assert "training needs about" in done.log and "0 MiB are free" in done.log
  found = read_checkpoint(out)
  assert 0 < found["skipped_steps"] <= 5
  assert found["current_loss_scale"] == 2.0 ** (60 - found["skipped_steps"])
  lines = map(json.loads, (out / "history.jsonl").read_text().splitlines())
  steps = [line for line in lines if "split" not in line]
  assert [step["step"] for step in steps] == list(range(1, 10))
  assert "loss_scale" not in steps[3]
  assert steps[4]["loss_scale"] == pytest.approx(2.0**60, rel=1e-6)
  assert steps[4]["skipped_steps"] == 0 < steps[-1]["skipped_steps"]


def test_weights_that_no_step_has_changed_are_what_is_not_finite(
  classify, training, tmp_path
):
  """Not the learning rate, although so many steps were skipped before."""
  weights = read_checkpoint(training["init_checkpoint"] / "bert_model.ckpt")
  for name in ("query", "key"):  # 1e38 is finite, but no product of it
    weights[f"bert/encoder/layer_0/attention/self/{name}/kernel"][0] = 1e38
  write_checkpoint(tmp_path / "bert_model.ckpt", weights)
  flags = dict(training, output_dir=tmp_path / "out", init_checkpoint=tmp_path)
  failed = classify("--precision=mixed_float16", num_train_epochs=5, **flags)
  assert failed.status == 1 and "the loss of step 16 is nan" in failed.log
  assert f"Nothing was trained yet: that is what the weights of {tmp_path}" in (
    failed.log
  )
