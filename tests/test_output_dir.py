"""What an output_dir holds, and what may be done with it."""

import pytest

from bert_classifier import output_dir
from bert_classifier.output_dir import OutputDir, check_settings, differences
import modeling

BEFORE = {
  "model": {"max_seq_length": 64, "labels": ["0", "1"]},
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
  assert differences(BEFORE, now) == found


def test_settings_that_differ_stop_with_the_ways_out():
  there = OutputDir("out", "out/model.ckpt-7", 7, BEFORE)
  with pytest.raises(ValueError) as error:
    check_settings(there, {"model": {"max_seq_length": 9}, "training": {}})
  assert str(error.value) == (
    "out was trained (up to step 7) with other settings: max_seq_length was 64"
    " and is 9. Give another --output_dir, or --resume to go on with the new"
    " values, or --overwrite_output_dir to train from the start"
  )
  untrained = there._replace(checkpoint=None)
  check_settings(untrained, {"model": {"max_seq_length": 9}})


def test_settings_are_found_as_they_were_recorded(tmp_path):
  vocabulary = tmp_path / "words"
  vocabulary.write_text("[UNK]\n")
  folder = tmp_path / "out"
  config = modeling.BertConfig(vocab_size=1)
  output_dir.record(str(folder), BEFORE, config, str(vocabulary))
  assert output_dir.inspect(str(folder)) == OutputDir(
    str(folder), None, 0, BEFORE
  )
  kept = modeling.BertConfig.from_json_file(str(folder / "bert_config.json"))
  assert kept.architecture() == config.architecture()
  assert (folder / "vocab.txt").read_text() == "[UNK]\n"


def test_files_of_the_user_in_the_folder_are_left_alone(tmp_path):
  (tmp_path / "vocab.txt").write_text("mine")
  (tmp_path / "words").write_text("[UNK]\n")
  for _ in range(2):  # also by a second run
    config = modeling.BertConfig(vocab_size=1)
    output_dir.record(str(tmp_path), BEFORE, config, str(tmp_path / "words"))
  assert (tmp_path / "vocab.txt").read_text() == "mine"
  assert (tmp_path / "bert_config.json").exists()


def test_a_folder_that_is_not_there_holds_nothing(tmp_path):
  path = str(tmp_path / "missing")
  assert output_dir.inspect(path) == OutputDir(path, None, 0, {})


def test_only_what_a_run_wrote_is_removed(tmp_path):
  folder = tmp_path / "runs[1]"  # a pattern, to a glob
  ours = "checkpoint graph.pbtxt run_manifest.json eval_results.txt"
  ours += " model.ckpt-12.index model.ckpt-12.meta test_results_mismatched.tsv"
  ours += " model.ckpt-12.data-00000-of-00001 eval/events.out.tfevents.1.me"
  theirs = "model.ckpt-12.txt model.ckpt-best.index notes.txt eval/notes.txt"
  theirs += " cached_dev_24_mrpc_0123456789ab.tf_record vocab.txt"
  (folder / "eval").mkdir(parents=True)
  for name in (ours + " " + theirs).split():
    (folder / name).write_text("")
  assert output_dir.remove_own_files(str(folder)) == len(ours.split())
  left = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
  assert left == set(theirs.split())
