"""From --num_runs and --sweep to runs: settings, folders, what is refused."""

import dataclasses

import pytest

from bert_classifier import launcher, options, runs, sweep
from bert_classifier.errors import UserError
from bert_classifier.flag_fields import kind_of

ALL = dict(output_dir="out", do_train=True, do_eval=True)


def plan(**flags):
  return sweep.plan_runs(options.make_options(**{**ALL, **flags}))


def list_names(**flags):
  return [one.name for one in plan(**flags)]


def test_every_setting_is_run_with_every_seed():
  names = list_names(
    sweep="learning_rate=2e-5,3e-5;num_train_epochs=2,3", num_runs=2, seed=7
  )
  assert names == [
    f"learning_rate={rate},num_train_epochs={epochs},seed={seed}"
    for rate in ("2e-05", "3e-05")
    for epochs in (2, 3)
    for seed in (7, 8)
  ]


def test_a_run_is_an_ordinary_command_in_a_folder_of_its_own():
  asked = options.make_options(
    **ALL,
    sweep="learning_rate=2e-5;bias_correction=true;freeze_layers=none",
    learning_rate=1e-3,
    freeze_layers=2,
    train_batch_size=16,
  )
  (one,) = sweep.plan_runs(asked)
  assert one.apply(asked) == options.make_options(
    do_train=True,
    do_eval=True,
    train_batch_size=16,
    learning_rate=2e-5,
    bias_correction=True,
    seed=42,
    output_dir=f"out/runs/{one.name}",
  )
  assert one.name == (
    "learning_rate=2e-05,bias_correction=true,freeze_layers=none,seed=42"
  )


def test_to_be_compared_a_run_does_nothing_but_train_and_evaluate():
  group = options.RunOptions
  everything = {
    field.name: True if kind_of(field) is bool else "text"
    for field in dataclasses.fields(group)
  }
  asked = options.make_options(**everything, num_runs=2)
  one = sweep.Plan("out", (), 7).apply(asked, **runs.TRAIN)
  set_ = {n for n, v in vars(one.run).items() if v != getattr(group, n)}
  assert set_ == {
    *("do_train", "do_eval", "output_dir", "use_best", "resume"),
    *("overwrite_output_dir", "dry_run", "dry_run_file"),
  }


def test_one_run_without_a_sweep_is_no_run_of_several():
  assert plan() == plan(num_runs=1) == []


def test_names_of_folders_hold_no_separator():
  (name,) = list_names(sweep="class_weights=a/b=2")
  assert name == "class_weights=a%2Fb=2,seed=42"


@pytest.mark.parametrize(
  ("text", "sentence"),
  [
    ("learning_rate=2e-5,-1", "learning_rate is -1, but must be a finite"),
    ("learning_rate=nan", "learning_rate is nan, but must be a finite"),
    ("warmup_proportion=1.5", "is 1.5, but must be from 0 to 1"),
    ("lr_schedule=linear,flat", "flat, but must be one of linear, cosine"),
    ("train_batch_size=16,x", "is x, but must be a whole number"),
    ("train_batch_size=16.5", "is 16.5, but must be a whole number"),
    ("bias_correction=1", "is 1, but must be true or false"),
    ("learning_rate=none", "is none, but must be a number"),
    ("learning_rate=1e-5,,2e-5", "a value of learning_rate is empty"),
    ("learning_rate=", "a value of learning_rate is empty"),
    ("learning_rate=2e-5,0.00002", "has the value 2e-05 twice"),
    ("seed=1,2", "seed cannot be swept: --num_runs=N takes the N seeds"),
    ("learning_rate=1e-5;learning_rate=2e-5", "learning_rate comes twice"),
    ("learning_rate=1e-5;", "'' is not of the form FLAG=VALUE,VALUE"),
    ("", "'' is not of the form FLAG=VALUE,VALUE"),
    ("learning_rates=1e-5", "did you mean 'learning_rate'?; what can be swept"),
    ("max_seq_length=64,128", "cannot be swept, for all runs have the same"),
    ("max_train_examples=10", "all runs have the same training examples"),
    ("precision=float32", "cannot be swept, for all runs have the same"),
  ],
)
def test_a_sweep_that_makes_no_sense_is_a_sentence(text, sentence):
  with pytest.raises(UserError) as raised:
    plan(sweep=text)
  assert f"--sweep={text}: " in str(raised.value)
  assert sentence in str(raised.value)


@pytest.mark.parametrize(
  ("flags", "sentence"),
  [
    (dict(num_runs=2, do_eval=False), "give --do_train and --do_eval"),
    (dict(num_runs=2, do_train=False), "give --do_train and --do_eval"),
    (dict(num_runs=2, output_dir=None), "--output_dir is needed"),
    (dict(ensemble=True, do_predict=True), "give --num_runs=5 or the like"),
    (dict(num_runs=2, ensemble=True), "add --do_predict"),
    (
      dict(num_runs=2, ensemble=True, do_predict=True, do_export=True),
      "--do_export is of one model",
    ),
    (dict(num_runs=2, seed=2**31 - 1), "--seed is 2147483648, but must be"),
  ],
)
def test_flags_that_do_not_go_with_several_runs_are_a_sentence(flags, sentence):
  with pytest.raises(UserError, match=sentence):
    plan(**flags)


def test_several_machines_are_refused(monkeypatch):
  cluster = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker",'
  monkeypatch.setenv("TF_CONFIG", f'{cluster} "index": 0}}}}')
  with pytest.raises(UserError, match="by one process.*TF_CONFIG names others"):
    plan(num_runs=2)


def test_several_processes_and_a_tpu_are_refused():
  asked = options.make_options(**ALL, num_runs=2, num_workers=2)
  with pytest.raises(UserError, match="--num_workers=2 names others"):
    launcher.run_workers(asked)
  with pytest.raises(UserError, match="--use_tpu names others"):
    plan(num_runs=2, use_tpu=True)


def test_the_docs_list_the_flags_that_can_be_swept(pytestconfig):
  page = (pytestconfig.rootpath / "docs" / "runs.md").read_text()
  assert all(f"`{name}`" in page for name in sweep.list_swept())
