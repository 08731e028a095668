"""Flags: ranges, groups, the list in docs, paths."""

import dataclasses
import os
import re
import sys

from absl.testing import flagsaver
from conftest import ROOT, SCRIPTS
import pytest

from bert_classifier import flag_fields, options
from bert_classifier.errors import UserError
import run_classifier


@pytest.mark.parametrize("field", options.all_flags(), ids=lambda f: f.name)
def test_a_flag_of_the_command_line_has_default_and_help_of_its_field(field):
  flag = run_classifier.FLAGS[field.name]
  assert flag.default == field.default
  assert flag.help == field.metadata["help"]


def test_no_flag_is_defined_elsewhere():
  by_module = run_classifier.FLAGS.flags_by_module_dict()
  ours = [
    flag.name
    for module, flags in by_module.items()
    if module.partition(".")[0] in (*SCRIPTS, "bert_classifier")
    for flag in flags
  ]
  assert sorted(ours) == sorted(field.name for field in options.all_flags())


def test_no_other_room_reads_the_command_line():
  rooms = (ROOT / "bert_classifier").glob("*.py")
  reads = re.compile(r"\bFLAGS\b|from absl import .*\bflags\b")
  reading = [room.name for room in rooms if reads.search(room.read_text())]
  assert reading == ["options.py"]


def test_docs_list_the_flags_that_there_are():
  page = (ROOT / "docs" / "flags.md").read_text(encoding="utf-8")
  assert page == flag_fields.describe_in_markdown(options.GROUPS) + "\n"


def test_help_lists_every_flag_after_the_manual(capsys):
  with pytest.raises(SystemExit) as exit_:
    options.parse_flags(["run", "--help"], manual="The manual.")
  assert exit_.value.code == 0
  told = capsys.readouterr().out
  assert told.startswith("The manual.")
  for field in options.all_flags():
    assert f"\n  --{field.name}" in told


@pytest.mark.parametrize("word", ["--helpfull", "--helpshort", "-h"])
def test_every_kind_of_help_is_the_same(capsys, word):
  with pytest.raises(SystemExit):
    options.parse_flags(["run", "--seed=-1", word])
  assert "--train_batch_size=32" in capsys.readouterr().out


def parse(*words):
  """Returns the options of a command line."""
  with flagsaver.flagsaver():
    options.parse_flags(["run", *words])
    return options.read()


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_flagfile_is_read_where_it_stands(tmp_path, start, end):
  lines = ["--seed=7", "# --seed=8", "// a remark", "", "  --log_steps=5  "]
  lines += [f"--flagfile={tmp_path}/inner", "--data_dir", "ünd so", "--do_eval"]
  (tmp_path / "inner").write_text("--noskip_padding\n")
  content = (start + end.join(lines)).encode()
  (tmp_path / "outer").write_bytes(content)
  found = parse("--seed=1", f"--flagfile={tmp_path}/outer", "--log_steps=6")
  assert found.training.seed == 7 and found.training.log_steps == 6
  assert found.data.data_dir == "ünd so" and found.run.do_eval
  assert not found.device.skip_padding


@pytest.mark.parametrize(
  ("content", "words"),
  [
    (b"--do_eval\n--data_dir=\xff\n", "f:2: the byte 0xff of the flagfile is"),
    ("--do_eval".encode("utf-16"), "f:1: the byte 0xff of the flagfile is not"),
    (b"--flagfile=f", "the flagfile f includes itself"),
    (b"--flagfile=g", "the flagfile cannot be read: [Errno 2] No such file"),
    (b"do_eval", "'do_eval' belongs to no flag"),
  ],
)
def test_a_flagfile_that_cannot_be_read_is_named(
  tmp_path, monkeypatch, capsys, content, words
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "f").write_bytes(content)
  with pytest.raises(SystemExit):
    parse("--flagfile", "f")
  assert words in capsys.readouterr().err


@pytest.mark.parametrize(
  "kernel", [["-f", "/run/kernel-1.json"], ["--f=/run/kernel-1.json"]]
)
def test_the_kernel_of_a_notebook_is_no_flag(monkeypatch, kernel, capsys):
  with pytest.raises(SystemExit):
    parse("--seed=5", *kernel)
  assert "there is no flag --f" in capsys.readouterr().err
  monkeypatch.setitem(sys.modules, "ipykernel", options)
  assert parse("--seed=5", *kernel).training.seed == 5


def test_flags_that_nobody_read_are_a_mistake():
  with flagsaver.flagsaver():
    options.FLAGS.unparse_flags()
    with pytest.raises(UserError, match=r"call FLAGS\(\["):
      options.read()
    options.FLAGS.mark_as_parsed()


def test_a_flag_stands_in_one_group():
  names = [field.name for field in options.all_flags()]
  assert len(names) == len(set(names))


@pytest.mark.parametrize(
  ("name", "value", "allowed"),
  [
    ("train_batch_size", 0, "at least 1"),
    ("learning_rate", 0.0, "a finite number over 0"),
    ("learning_rate", float("nan"), "a finite number over 0"),
    ("num_train_epochs", float("inf"), "a finite number over 0"),
    ("warmup_proportion", 1.5, "from 0 to 1"),
    ("head_dropout", 1.0, "at least 0 and under 1"),
    ("head_dropout", -0.1, "at least 0 and under 1"),
    ("seed", 2**31, "from 0 to 2147483647"),
  ],
)
def test_a_value_out_of_its_range_is_named_with_it(name, value, allowed):
  with pytest.raises(UserError) as error:
    options.make_options(**{name: value})
  assert str(error.value) == f"--{name} is {value}, but must be {allowed}"


def test_the_ends_of_a_range_are_allowed():
  options.make_options(warmup_proportion=0.0, seed=2**31 - 1, max_seq_length=3)
  options.make_options(warmup_proportion=1.0, seed=0, shuffle_buffer_size=None)


def test_every_path_begins_at_home_where_it_says_so():
  paths = [f for f in options.all_flags() if f.metadata["is_path"]]
  assert {"data_dir", "vocab_file", "output_dir"} < {f.name for f in paths}
  values = options.make_options(**{f.name: "~/x" for f in paths})
  found = {
    getattr(group, f.name)
    for group in values[: len(options.GROUPS)]
    for f in dataclasses.fields(group)
    if f.metadata["is_path"]
  }
  assert found == {os.path.expanduser("~/x")}


def test_given_flags_are_told_from_defaults():
  assert options.make_options(eval_batch_size=8).given == {"eval_batch_size"}
  assert options.make_options().given == frozenset()


RECORDED = {
  "model": {"task_name": "xnli", "language": "de", "max_seq_length": 64},
  "training": {"learning_rate": 1e-4, "seed": 42, "num_train_epochs": "many"},
  "paths": {"data_dir": "/data"},
}


@pytest.mark.parametrize("do_train", [False, True])
def test_what_is_not_given_is_filled_in(do_train):
  phases = ["model", "paths", *["training"] * do_train]
  given = options.make_options(max_seq_length=32, do_eval=True)
  filled, found = given.fill_in(RECORDED, phases)
  assert found == {
    "task_name": "xnli",
    "data_dir": "/data",
    "xnli_language": "de",
    **({"learning_rate": 1e-4} if do_train else {}),
  }
  assert filled.data == options.DataOptions(
    task_name="xnli", data_dir="/data", xnli_language="de"
  )
  assert filled.model.max_seq_length == 32 and filled.run.do_eval
  assert filled.training.learning_rate == (1e-4 if do_train else 5e-5)
  assert filled.training.num_train_epochs == 3.0
  assert filled.given >= {"task_name", "xnli_language", "max_seq_length"}


def test_groups_are_frozen():
  with pytest.raises(dataclasses.FrozenInstanceError):
    options.make_options().training.seed = 1


def test_settings_of_training_are_the_flags_that_decide_it():
  values = options.make_options(seed=7).settings("training")
  assert values["seed"] == 7 and "log_steps" not in values
  assert set(options.make_options().settings("model")) == {
    "max_seq_length",
    "truncation",
    "stride",
    "window_pooling",
    "do_lower_case",
  }


def test_a_flag_that_there_is_not_is_a_mistake_of_the_program():
  with pytest.raises(TypeError, match="no flag sed"):
    options.make_options(sed=7)
