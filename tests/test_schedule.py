"""Schedule: steps of epochs, the rate that they give, the shuffle's buffer."""

import dataclasses

import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import machine, options, schedule
from bert_classifier.errors import UserError
from bert_classifier.output_dir import OutputDir
import optimization


def test_a_buffer_is_what_a_quarter_of_the_free_memory_holds(monkeypatch):
  example = 5 * 128 + 400  # bytes
  monkeypatch.setattr(machine, "find_free_memory", lambda: 4 * 100 * example)
  assert schedule.fit_buffer_size(100, 128) == 100
  assert schedule.fit_buffer_size(101, 128) == 100


@pytest.mark.parametrize(
  ("asked", "begun", "reads_here", "expected"),
  [
    (None, {}, True, {"permutation": 1}),
    (None, {"permutation": 1}, True, {"permutation": 1}),
    (None, {"buffer_rows": 24}, True, {"buffer_rows": 24}),
    (7, {"buffer_rows": 24}, True, {"buffer_rows": 7}),
    (7, {}, True, {"buffer_rows": 7}),
    (None, {}, False, {"buffer_rows": 99}),  # a TPU on another host
    (7, {"permutation": 1}, False, {"buffer_rows": 7}),
  ],
)
def test_a_run_keeps_the_order_that_it_began_with(
  asked, begun, reads_here, expected, monkeypatch
):
  monkeypatch.setattr(machine, "find_free_memory", lambda: None)
  found = OutputDir("out", "out/model.ckpt-3", 3, {"order": begun})
  training = options.TrainingOptions(shuffle_buffer_size=asked)
  made = schedule.make_schedule(training, 128, 99, found, "linear", reads_here)
  assert made.describe_order() == expected


def test_an_order_that_cannot_be_kept_is_refused():
  begun = {"order": {"permutation": 1}}
  found = OutputDir("out", "out/model.ckpt-3", 3, begun)
  with pytest.raises(UserError, match="training in out shuffles the whole set"):
    schedule.make_schedule(
      options.TrainingOptions(), 128, 99, found, "linear", False
    )


@pytest.mark.parametrize("examples", [37, 3668, 8551])
@pytest.mark.parametrize("step", [13, 100, 343])
def test_the_epochs_needed_are_the_least_that_train_on(examples, step):
  few = options.TrainingOptions(train_batch_size=8, num_train_epochs=0.01)
  epochs = schedule.find_epochs_needed(few, examples, step)

  def count(epochs):
    return int(examples / 8 * epochs)

  assert count(epochs) > step >= count(epochs - 0.01)
  enough = dataclasses.replace(few, num_train_epochs=epochs)
  assert schedule.find_epochs_needed(enough, examples, step) is None


@pytest.mark.parametrize("warmup", [0, 4])
def test_the_share_of_the_peak_is_that_of_the_schedule(run, warmup):
  found = schedule.Schedule(99, 10, warmup, 99)
  step = tf.placeholder(tf.int64, [])
  rate = optimization.learning_rate_schedule(2.0, 10, warmup, step)
  for now in range(11):
    expected = run(rate, {step: now})
    assert 2 * found.share_of_peak(now) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
  ("was", "step", "is_said"),
  [
    (3.0, 13, True),
    (3.0, 1, True),  # the last step of warmup is done
    (3.0, 0, False),  # the rate climbs in any case
    (4.0, 13, False),
    (5.0, 13, False),  # resumed with fewer
    (3.0, 18, False),  # nothing is trained
    ("many", 13, False),
    (None, 13, False),
  ],
)
def test_a_rate_that_climbs_again_is_announced(info, was, step, is_said):
  before = {} if was is None else {"num_train_epochs": was}
  found = OutputDir("out", "out/model.ckpt", step, {"training": before})
  asked = options.TrainingOptions(num_train_epochs=4.0, learning_rate=1.0)
  schedule.announce_rate(asked, found, schedule.Schedule(37, 18, 1, 37))
  rate = f"the learning rate climbs to {1 - step / 18:.2e} at step {step + 1}"
  assert any(rate in message for message in info.messages) == is_said
