"""run_settings.py: which settings may differ, and the ways out."""

import pytest

from bert_classifier.errors import UserError
from bert_classifier.output_dir import OutputDir
from bert_classifier.run_settings import (
  check_settings,
  compare_settings,
  keep_origin,
)

BEFORE = {
  "model": {
    "max_seq_length": 64,
    "labels": ["0", "1"],
    "problem_type": "regression",
  },
  "training": {"learning_rate": 1e-4, "num_train_epochs": 3.0},
}


@pytest.mark.parametrize(
  ("now", "found"),
  [
    (BEFORE, []),
    ({"model": BEFORE["model"]}, []),  # a phase that is not asked for
    ({"model": {"newer_setting": 1}}, []),  # that was not recorded
    ({"training": {"num_train_epochs": 4.0}}, []),  # goes on
    (
      {"training": {"num_train_epochs": 2.0}},
      ["num_train_epochs was 3.0 and is 2.0"],
    ),
    ({"model": {"max_seq_length": 9}}, ["max_seq_length was 64 and is 9"]),
    (
      {"model": {"labels": ["1"]}, "training": {"learning_rate": 1.0}},
      [
        "labels was ['0', '1'] and is ['1']",
        "learning_rate was 0.0001 and is 1.0",
      ],
    ),
  ],
)
def test_differences_are_those_of_the_phases_asked_for(now, found):
  assert list(map(str, compare_settings(BEFORE, now))) == found


def test_settings_that_differ_stop_with_the_ways_out():
  there = OutputDir("out", "out/model.ckpt-7", 7, BEFORE)
  with pytest.raises(UserError) as error:
    check_settings(there, {"model": {"max_seq_length": 9}, "training": {}})
  assert str(error.value) == (
    "out was trained (up to step 7) with other settings: max_seq_length was 64"
    " and is 9. Give another --output_dir, or --resume to go on with the new"
    " values, or --overwrite_output_dir to train from the start"
  )
  untrained = there._replace(checkpoint=None)
  check_settings(untrained, {"model": {"max_seq_length": 9}})


PATH, DIGEST = "init_checkpoint", "init_checkpoint (SHA-256)"


def test_a_command_that_goes_on_need_not_say_what_training_began_with():
  origin = {PATH: "/a", DIGEST: "1"}
  there = OutputDir("out", "out/model.ckpt-7", 7, {"training": origin})
  now = {"training": {PATH: None, DIGEST: None, "seed": 1}}
  keep_origin(there, now)
  assert now == {"training": {**origin, "seed": 1}}
  for found, changed in (
    (there, {PATH: "/b", DIGEST: "2"}),
    (there._replace(checkpoint=None), {PATH: None, DIGEST: None}),
  ):
    now = {"training": dict(changed)}
    keep_origin(found, now)
    assert now == {"training": changed}
  keep_origin(there, {"model": {}})


@pytest.mark.parametrize(
  ("before", "now", "found"),
  [
    ({PATH: "/a", DIGEST: "1"}, {PATH: "/b", DIGEST: "1"}, []),  # was moved
    ({PATH: "/a", DIGEST: "1"}, {PATH: None, DIGEST: None}, []),
    (
      {PATH: "/a", DIGEST: "1"},
      {PATH: "/a", DIGEST: "2"},
      ["init_checkpoint=/a is not the weights that it was trained from"],
    ),
    (  # a manifest that somebody changed
      {"num_train_epochs": "3"},
      {"num_train_epochs": 3.0},
      ["num_train_epochs was '3' and is 3.0"],
    ),
    # The version before recorded the path alone.
    ({PATH: "/a"}, {PATH: "/a", DIGEST: "1"}, []),
    (
      {PATH: "/a"},
      {PATH: "/b", DIGEST: "1"},
      ["init_checkpoint was '/a' and is '/b'"],
    ),
  ],
)
def test_weights_are_compared_by_what_they_are(before, now, found):
  differing = compare_settings({"training": before}, {"training": now})
  assert list(map(str, differing)) == found


FLAGS = {("training", name): name for name in BEFORE["training"]}


@pytest.mark.parametrize(
  ("now", "epochs_needed", "ways"),
  [
    (
      {"learning_rate": 1.0},
      None,
      "Give --learning_rate=0.0001 as before, which may be left out, or another"
      " --output_dir with --init_checkpoint=out to train on from these weights,"
      " or --resume to go on with the new values, or --overwrite",
    ),
    (
      {"num_train_epochs": 2.0},
      3.2,
      "Give another --output_dir with --init_checkpoint=out to train on from"
      " these weights, or --num_train_epochs=3.2 or more to go on, or --over",
    ),
    (
      {"num_train_epochs": 2.0},  # of a run that was stopped early
      None,
      "Give --num_train_epochs=3.0 as before, which may be left out, or ",
    ),
    (
      {"learning_rate": 1.0},
      3.2,
      "or --resume and --num_train_epochs=3.2 or more to go on with the new v",
    ),
  ],
)
def test_the_ways_out_are_those_that_work(now, epochs_needed, ways):
  there = OutputDir("out", "out/model.ckpt-7", 7, BEFORE)
  with pytest.raises(UserError) as error:
    check_settings(
      there, {"training": now}, flags=FLAGS, find_epochs=lambda: epochs_needed
    )
  assert ways in str(error.value)


def test_a_flag_that_was_not_given_before_is_to_be_left_out():
  before = {"training": {"seed": 1, "shuffle_buffer_size": None}}
  there = OutputDir("out", "out/model.ckpt-7", 7, before)
  now = {"training": {"seed": 2, "shuffle_buffer_size": 50}}
  flags = {("training", name): name for name in now["training"]}
  with pytest.raises(UserError) as error:
    check_settings(there, now, flags=flags)
  assert (
    "Give the command without --seed and --shuffle_buffer_size, as before, or"
    " another --output_dir" in str(error.value)
  )


@pytest.mark.parametrize(
  ("phases", "advice"),
  [
    (
      {},
      "get_labels: if they come from a set, whose order changes, sort them.",
    ),
    ({"data": {}}, "Leave out --label_list, and the folder decides. Give ano"),
  ],
)
def test_labels_are_mended_where_they_are_from(phases, advice):
  before = {"model": {"labels": ["a", "b"]}, **phases}
  there = OutputDir("out", "out/model.ckpt-7", 7, before)
  with pytest.raises(UserError) as error:
    check_settings(there, {"model": {"labels": ["b", "a"]}}, True)
  assert advice in str(error.value)


def test_no_flag_is_advised_to_have_no_value():
  there = OutputDir("out", "out/model.ckpt-7", 7, {"model": {"language": None}})
  flags = {("model", "language"): "xnli_language"}
  with pytest.raises(UserError, match="language. Give another --output_dir$"):
    check_settings(there, {"model": {"language": "de"}}, flags=flags)


def test_resuming_that_would_train_nothing_is_refused():
  there = OutputDir("out", "out/model.ckpt-7", 7, BEFORE)
  now = {"training": {"learning_rate": 1.0}}
  check_settings(there, now, True)
  with pytest.raises(UserError, match="no step beyond 7, so nothing would be"):
    check_settings(there, now, True, find_epochs=lambda: 3.2)
