"""Mistakes of a user: one sentence, exit status 1, nothing written."""

import json
from pathlib import Path
import shutil

from absl.testing import flagsaver
from conftest import LOG_LINE, read_checkpoint, run_python, write_checkpoint
import numpy as np
import pytest

from bert_classifier import options

TRAIN = dict(do_train=True)


@pytest.fixture
def refused(classify, tmp_path):
  """Runs the script, which must refuse; returns the sentence at its end."""

  def refused(*arguments, **flags):
    there = set(tmp_path.rglob("*"))
    flags = {**TRAIN, "output_dir": tmp_path / "out", **flags}
    flags["cache_dir"] = tmp_path / "cache"
    outcome = classify(*arguments, **flags)
    assert outcome.status == 1, outcome.log
    assert "Traceback" not in outcome.log
    assert set(tmp_path.rglob("*")) == there
    return outcome.log.splitlines()[-1]

  return refused


@pytest.fixture
def data(golden_task, tmp_path):
  """Returns a copy of the golden task's data to spoil."""
  return Path(shutil.copytree(f"{golden_task}/data", tmp_path / "data"))


@pytest.fixture
def model(golden_task, tmp_path):
  """Returns a copy of golden model, configuration and vocabulary, to spoil."""
  folder = shutil.copytree(f"{golden_task}/checkpoint", tmp_path / "model")
  shutil.copy(f"{golden_task}/vocab.txt", folder)
  return Path(folder)


@pytest.mark.parametrize(
  ("flags", "sentence"),
  [
    (dict(train_batch_size=0), "--train_batch_size is 0, but must be at least"),
    (dict(eval_batch_size=-1), "--eval_batch_size is -1, but"),
    (dict(predict_batch_size=0), "--predict_batch_size is 0, but"),
    (dict(max_seq_length=2), "--max_seq_length is 2, but must be at least 3"),
    (dict(max_seq_length=4), "pairs of texts of mrpc: it must be at least 5"),
    (dict(max_seq_length=41), "more than the max_position_embeddings 40 of"),
    (dict(learning_rate=0), "--learning_rate is 0.0, but must be a finite"),
    (dict(learning_rate="nan"), "--learning_rate is nan, but"),
    (dict(learning_rate="inf"), "--learning_rate is inf, but"),
    (dict(num_train_epochs=-1), "--num_train_epochs is -1.0, but"),
    (dict(warmup_proportion=1.1), "--warmup_proportion is 1.1, but"),
    (dict(warmup_proportion="nan"), "--warmup_proportion is nan, but"),
    (dict(save_checkpoints_steps=0), "--save_checkpoints_steps is 0, but"),
    (dict(keep_checkpoint_max=-1), "--keep_checkpoint_max is -1, but"),
    (dict(log_steps=0), "--log_steps is 0, but"),
    (dict(num_threads=-1), "--num_threads is -1, but"),
    (dict(shuffle_buffer_size=0), "--shuffle_buffer_size is 0, but"),
    (dict(iterations_per_loop=0), "--iterations_per_loop is 0, but"),
    (dict(num_tpu_cores=0), "--num_tpu_cores is 0, but"),
    (dict(seed=-1), "--seed is -1, but must be from 0 to 2147483647"),
    (dict(seed=2**31), "--seed is 2147483648, but must be from 0 to"),
    (dict(do_train=False), "nothing to do: give at least one of --do_train"),
    (dict(task_name="sst5"), "--task_name=sst5 is not one of cola, mnli, mrpc"),
    (dict(task_name="MRCP"), "sts-b; did you mean 'mrpc'?"),
    (dict(seed=-1, log_steps=0), "to 2147483647; --log_steps is 0, but must"),
    (dict(task_name=None), "--task_name is needed: one of cola"),
    (dict(data_dir=None), "--data_dir is needed: the folder"),
    (dict(output_dir=None), "--output_dir is needed: the folder"),
    (dict(vocab_file=None), "--vocab_file is needed: there is none beside"),
    (
      dict(init_checkpoint=None),
      "--bert_config_file is needed: there is no --init_checkpoint to take it",
    ),
    (dict(resume=True, overwrite_output_dir=True), "goes against --resume"),
    (
      dict(do_train=False, do_eval=True, overwrite_output_dir=True),
      "--overwrite_output_dir trains from the start: it needs --do_train",
    ),
    (dict(use_tpu=True, tpu_name="t"), "cannot read --output_dir="),
    (dict(use_tpu=True), "--use_tpu needs --tpu_name"),
    (
      dict(use_tpu=True, tpu_name="local", train_batch_size=12),
      "--train_batch_size is 12, but must be a multiple of --num_tpu_cores=8",
    ),
    (
      dict(train_batch_size=99, num_train_epochs=1),
      "37 training examples in batch",
    ),
    (
      dict(data_dir="missing"),
      "missing/train.tsv: no such file; it should hold the train set of the"
      " task. --data_dir=missing is not there: there is no such folder",
    ),
    (
      dict(data_dir=__file__),
      f"--data_dir={__file__} is a file: give the fold",
    ),
    (dict(vocab_file="missing"), "missing: there is no such vocabulary file"),
    (dict(bert_config_file="missing"), "no BERT configuration at missing"),
    (dict(init_checkpoint="missing"), "there is no checkpoint at missing"),
  ],
  ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_a_flag_out_of_its_range_is_named(refused, flags, sentence):
  assert sentence in refused(**flags)


def test_a_word_that_belongs_to_no_flag_is_named(refused):
  assert refused("True").startswith("'True' belongs to no flag: values are")


@pytest.mark.parametrize(
  ("file", "line", "row", "sentence"),
  [
    (
      "train",
      5,
      "1\ta\tb",
      "{}:5: 3 columns separated by tabs, but at least 5",
    ),
    (
      "train",
      38,
      "2\ta\tb\tc\td",
      "{}:38: in column 'Quality', the label '2' is not one",
    ),
    ("train", 2, "1\ta\tb\tc\t\udce9", "{}:2: the byte 0xe9 is not UTF-8"),
    ("dev", 22, "1", "{}:22: 1 column separated by tabs, but"),
    ("test", 14, "1\ta\tb\tc", "{}:14: 4 columns separated by tabs, but"),
  ],
)
def test_a_bad_row_is_named_before_anything_is_written(
  refused, data, file, line, row, sentence
):
  path = data / f"{file}.tsv"
  lines = path.read_text("utf-8").splitlines()
  lines[line - 1] = row
  path.write_bytes("\n".join(lines).encode(errors="surrogateescape"))
  said = refused("--do_eval", "--do_predict", data_dir=data)
  assert said.startswith(sentence.format(path))


def test_a_missing_file_of_a_later_phase_is_named_first(refused, data):
  (data / "test.tsv").unlink()
  said = refused("--do_predict", data_dir=data)
  assert said.startswith(f"{data}/test.tsv: no such file")


def test_what_several_machines_cannot_do_is_found_before_they_meet(
  refused, monkeypatch
):
  cluster = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"index": 1'
  monkeypatch.setenv("TF_CONFIG", cluster + "}}")
  assert "does not say which machine this is" in refused(data_dir="missing")
  monkeypatch.setenv("TF_CONFIG", cluster + ', "type": "worker"}}')
  assert (
    "--train_batch_size is 9, but must be a multiple of 2: it is divided among"
    " 2 workers"
  ) in refused("--do_train", train_batch_size=9, data_dir="missing")


def test_a_csv_file_named_tsv_is_recognized(refused, data):
  rows = (data / "train.tsv").read_text("utf-8")
  (data / "train.tsv").write_text(rows.replace("\t", ","), "utf-8")
  said = refused(data_dir=data)
  assert "no column '#1 String'" in said
  assert (
    "is the file separated by commas or semicolons? --task_name=csv with"
    in said
  )


@pytest.mark.parametrize("phase", ["do_eval", "do_predict"])
def test_there_are_no_results_of_random_weights(
  refused, model, golden_task, phase
):
  config = f"{golden_task}/checkpoint/bert_config.json"
  flags = {"do_train": False, phase: True}
  without = dict(flags, init_checkpoint=None, bert_config_file=config)
  assert refused(**without).startswith("there are no trained weights: ")
  keep_variables(model, "bert/")
  said = refused(init_checkpoint=model, **flags)
  assert "does not hold a trained classifier for this task" in said
  assert "random numbers in output_weights, output_bias" in said


def keep_variables(model, prefix, **others):
  """Writes the checkpoint again with those of its variables, and others."""
  path = model / "bert_model.ckpt"
  variables = read_checkpoint(path)
  kept = {n: v for n, v in variables.items() if n.startswith(prefix)}
  write_checkpoint(path, {**kept, **others})


@pytest.mark.parametrize(
  ("prefix", "sentence"),
  [
    ("output", "has no variable that fits the model's encoder"),
    ("bert/embeddings", "does not cover the whole encoder: it lacks"),
    ("bert/encoder/layer_0", "it has 1 encoder layers, but num_hidden_layers"),
  ],
)
def test_weights_that_cover_too_little_are_refused(
  refused, model, prefix, sentence
):
  keep_variables(model, prefix)
  assert sentence in refused(init_checkpoint=model)


def test_a_head_for_other_labels_is_refused(refused, model):
  head = dict(output_weights=np.zeros([5, 48]), output_bias=np.zeros([5]))
  keep_variables(model, "bert/", **head)
  said = refused(init_checkpoint=model)
  assert "output_weights [5, 48]" in said and "--reinit_head" in said


def spoil_config(model, **changes):
  path = model / "bert_config.json"
  path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
  ("changes", "sentence"),
  [
    (dict(vocab_size=210), "has 211 lines, but"),
    (dict(hidden_size=50), "hidden_size 50 is not a multiple of num_attention"),
    (dict(hidden_size=44), "[211, 48] there, but hidden_size is 44"),
    (dict(num_hidden_layers=2), "3 encoder layers, but num_hidden_layers is 2"),
    (dict(type_vocab_size=1), "pairs of texts need 2"),
    (dict(hidden_size="48"), "hidden_size"),
    (dict(hidden_act="swish"), "swish"),
    (dict(hidden_dropout_prob=1.5), "1.5"),
  ],
)
def test_sizes_that_do_not_belong_together_are_named(
  refused, model, changes, sentence
):
  spoil_config(model, **changes)
  flags = dict(init_checkpoint=model, vocab_file=model / "vocab.txt")
  assert sentence in refused(**flags)


def test_broken_files_of_the_model_are_named(refused, model):
  (model / "bert_config.json").write_text('{"vocab_size": 211,')
  assert f"{model}/bert_config.json" in refused(init_checkpoint=model)
  (model / "bert_model.ckpt.index").write_bytes(b"half")
  assert "bert_model.ckpt.index is damaged" in refused(init_checkpoint=model)


def test_a_vocabulary_of_another_kind_is_named(refused, tmp_path):
  path = tmp_path / "vocab.txt"
  path.write_text("a\nb\n")
  assert f"{path}:2: the vocabulary ends without" in refused(vocab_file=path)
  path.write_text("[UNK]\n[CLS]\n[SEP]\nDog\nCat\n")
  assert "--do_lower_case" in refused(vocab_file=path)


@pytest.mark.parametrize("name", ["out", "data"])
def test_a_file_in_the_place_of_a_folder_is_named(refused, tmp_path, name):
  (tmp_path / name).write_text("mine")
  said = refused(
    **{dict(out="output_dir", data="data_dir")[name]: tmp_path / name}
  )
  assert str(tmp_path / name) in said


@pytest.mark.parametrize(
  ("flag", "words"),
  [
    ("--train_batch_size=ab", "--train_batch_size=ab: must be a whole number"),
    ("--learning_rate=fast", "--learning_rate=fast: must be a number"),
    ("--do_train=ja", "--do_train=ja: must be true or false"),
    (
      "--num=1",
      "there is no flag --num; did you mean --num_train_epochs, --num_runs,"
      " --num_threads, --num_gpus, --num_workers, --num_tpu_cores? --help",
    ),
    ("--qqq=1", "there is no flag --qqq. --help lists all flags"),
    ("--flagfile=nowhere", "the flagfile cannot be read: "),
  ],
)
def test_a_value_of_another_type_says_what_it_must_be(flag, words, capsys):
  with pytest.raises(SystemExit) as exit_, flagsaver.flagsaver():
    options.parse_flags(["run", flag])
  assert exit_.value.code == 1
  line = capsys.readouterr().err
  assert LOG_LINE.match(line) and f"[ERROR] {words}" in line


def test_a_mistake_in_a_flag_does_not_wait_for_tensorflow(tmp_path):
  (tmp_path / "tensorflow.py").write_text("raise SystemError")
  for flag, words in (
    (
      "--learning_rat=1",
      "there is no flag --learning_rat; did you mean --le",
    ),
    ("--seed=-1", "--seed is -1, but must be from 0 to 2147483647"),
    ("True", "'True' belongs to no flag"),
  ):
    done = run_python("run_classifier.py", flag, PYTHONPATH=str(tmp_path))
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and LOG_LINE.match(line) and words in line
