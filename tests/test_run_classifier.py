"""The script: golden results, runs that go on, the order of the examples."""

from pathlib import Path
import re
import shutil
import signal
from types import SimpleNamespace

from conftest import (
  GOLDEN,
  foreign_lines,
  read_checkpoint,
  read_results,
  read_table,
  run_python,
  run_script,
  write_checkpoint,
)
import numpy as np
import pytest
from sklearn.metrics import f1_score
import tensorflow.compat.v1 as tf

from bert_classifier import (
  devices,
  fast_modeling,
  history,
  model_files,
  options,
  targets,
)
from bert_classifier.locks import lock_for_training
from bert_classifier.tasks import InputExample
import run_classifier

STEPS = 13  # int(37 examples / 8 * 3 epochs)


@pytest.fixture(scope="session")
def trained(classify, training, tmp_path_factory):
  """Folder and outcome of a whole run that was never stopped."""
  folder = tmp_path_factory.mktemp("run") / "out"
  outcome = classify(
    output_dir=folder, do_eval=True, do_predict=True, **training
  )
  assert outcome.status == 0, outcome.log
  return folder, outcome


@pytest.fixture
def output_dir(trained, tmp_path):
  """A copy of that run's folder for a test to change."""
  return Path(shutil.copytree(trained[0], tmp_path / "out"))


def differing(folder, other):
  """Names of the variables that are not equal to the bit."""
  ours, theirs = read_checkpoint(folder), read_checkpoint(other)
  assert ours.keys() == theirs.keys()
  return [n for n in ours if ours[n].tobytes() != theirs[n].tobytes()]


def training_losses(folder):
  """Pairs of step and loss in a folder's history."""
  entries = history.read(str(folder / "history.jsonl"))
  return [(e["step"], e["loss"]) for e in entries if "split" not in e]


# ---------------------------------------------------------------------------
# Equal to the 2018 script


@pytest.mark.quick
def test_the_golden_command_gives_the_golden_results(golden_task, tmp_path):
  flags = tmp_path / "run.flags"
  flags.write_text(
    f"--task_name=MRPC\n--data_dir={golden_task}/data\n"
    f"--vocab_file={golden_task}/vocab.txt\n"
    f"--bert_config_file={golden_task}/checkpoint/bert_config.json\n"
    f"--init_checkpoint={golden_task}/checkpoint/bert_model.ckpt\n"
    "--max_seq_length=24\n"
  )
  out = tmp_path / "out"
  arguments = [f"--flagfile={flags}", f"--output_dir={out}", "--do_eval=true"]
  done = run_script(*arguments, "--do_predict", f"--cache_dir={tmp_path}/cache")
  assert done.returncode == 0, done.stderr
  ours, theirs = (
    read_results(f"{d}/eval_results.txt") for d in (out, golden_task)
  )
  ours.pop("eval_f1")
  assert list(ours) == list(theirs)
  assert list(ours.values()) == pytest.approx(list(theirs.values()), abs=1e-5)
  ours, theirs = (
    read_table(f"{d}/test_results.tsv") for d in (out, golden_task)
  )
  np.testing.assert_allclose(
    np.float32(ours), np.float32(theirs), rtol=0, atol=1e-5
  )
  assert "Traceback" not in done.stderr
  assert not foreign_lines(done)


def test_f1_is_that_of_the_dev_sets_predictions(
  classify, golden_task, output_dir, small_model, tmp_path
):
  data = tmp_path / "data"
  shutil.copytree(f"{golden_task}/data", data)
  shutil.copy(data / "dev.tsv", data / "test.tsv")
  flags = dict(small_model, output_dir=output_dir, data_dir=data)
  outcome = classify("--do_eval", "--do_predict", **flags)
  assert outcome.status == 0, outcome.log
  predicted = np.float32(read_table(output_dir / "test_results.tsv")).argmax(1)
  labels = [int(row[0]) for row in read_table(data / "dev.tsv")[1:]]
  found = read_results(output_dir / "eval_results.txt")["eval_f1"]
  assert found == pytest.approx(f1_score(labels, predicted), abs=1e-6)


def test_numbers_are_printed_as_numpy_prints_a_float32(trained):
  for line in read_table(trained[0] / "test_results.tsv"):
    assert line == [str(np.float32(cell)) for cell in line]


def test_the_steps_and_their_rates_are_those_of_the_formula(trained):
  log = trained[1].log
  told = re.findall(r"step (\d+)/13, .* learning rate ([^\s,]+)", log)
  warmup = int(STEPS * 0.1)
  formula = [
    1e-3 * (i / warmup if i < warmup else 1 - i / STEPS) for i in range(STEPS)
  ]
  assert [int(step) for step, _ in told] == list(range(1, STEPS + 1))
  rates = [float(rate) for _, rate in told]
  assert rates == pytest.approx(formula, rel=1e-2, abs=1e-9)


# ---------------------------------------------------------------------------
# Runs that are taken up


@pytest.fixture(scope="session")
def others(classify, training, tmp_path_factory):
  """Folders of the same training: of the same seed and of another."""
  folder = tmp_path_factory.mktemp("others")
  for seed, keep in ((42, 2), (7, 0)):
    flags = dict(training, seed=seed, keep_checkpoint_max=keep)
    outcome = classify(output_dir=folder / str(seed), **flags)
    assert outcome.status == 0, outcome.log
  return folder


def test_a_killed_run_ends_as_one_that_was_not(
  trained, training, classify, golden_task, tmp_path
):
  out = tmp_path / "out"
  kill_at_step_6 = """if True:
    import logging, os
    from absl import app
    import run_classifier
    def kill(record):
      if record.getMessage().startswith("step 6/"):
        os.kill(os.getpid(), 9)
      return True
    logging.getLogger("absl").addFilter(kill)
    app.run(run_classifier.main)
  """
  command = dict(classify.defaults, output_dir=out, **training)
  flags = [f"--{name}={value}" for name, value in command.items()]
  killed = run_python("-c", kill_at_step_6, *flags)
  assert killed.returncode == -signal.SIGKILL, killed.stderr
  assert not foreign_lines(killed)
  assert tf.train.latest_checkpoint(str(out)).endswith("model.ckpt-4")
  again = classify(output_dir=out, **training)
  assert again.status == 0 and "step 5/13" in again.log
  assert "step 4/13" not in again.log
  assert differing(out, trained[0]) == []
  assert training_losses(out) == training_losses(trained[0])


def test_runs_of_a_seed_agree_to_the_bit_and_of_another_do_not(trained, others):
  assert differing(others / "42", trained[0]) == []
  moved = differing(others / "7", trained[0])
  assert len(moved) == 3 * 25  # every variable and both of its slots


def test_training_with_evaluation_gives_results_and_predictions(trained):
  folder, outcome = trained
  assert read_results(folder / "eval_results.txt")["global_step"] == STEPS
  last = [line for line in outcome.log.splitlines() if line][-4:]
  assert last[0] == f"trained up to step 13: {folder}"
  assert last[1].startswith("dev: eval_accuracy 0.")
  assert last[1].endswith(f": {folder}/eval_results.txt")
  assert last[2].startswith("test: predictions: ")
  assert last[3].startswith("test: global_step 13, loss 0.")


def test_predictions_say_what_was_predicted_of_what(trained, golden_task):
  header, *predicted = read_table(trained[0] / "test_predictions.tsv")
  given = read_table(f"{golden_task}/data/test.tsv")[1:]
  plain = read_table(trained[0] / "test_results.tsv")
  assert header == [
    *["id", "text_a", "text_b", "gold", "label", "probability"],
    *["probability_0", "probability_1"],
  ]
  assert [[r[3], r[1], r[2]] for r in predicted] == [
    [g[0], g[3], g[4]] for g in given
  ]
  assert [r[-2:] for r in predicted] == plain
  assert all(r[4] == str(np.argmax(np.float32(r[-2:]))) for r in predicted)
  assert all(r[5] == r[6 + int(r[4])] for r in predicted)


def test_history_has_every_logged_step_and_the_evaluation(trained):
  entries = history.read(str(trained[0] / "history.jsonl"))
  evaluated = [e for e in entries if "split" in e]
  training = [e for e in entries if "split" not in e]
  assert [entry["step"] for entry in training] == list(range(1, STEPS + 1))
  assert all(entry["gradient_norm"] > 0 for entry in training)
  expected = read_results(trained[0] / "eval_results.txt")
  expected["step"] = expected.pop("global_step")
  assert evaluated[-1].pop("split") == "dev"
  assert evaluated[-1] == pytest.approx(expected)


def test_tensorboard_shows_of_an_evaluation_what_users_know(trained):
  (path,) = (trained[0] / "eval").glob("events.out.tfevents.*")
  shown = {
    value.tag
    for event in tf.train.summary_iterator(str(path))
    for value in event.summary.value
    if value.HasField("simple_value")
  }
  assert shown == {"eval_accuracy", "eval_f1", "eval_loss", "loss"}


def test_checkpoints_are_kept_as_many_as_asked_for(trained, others):
  def steps(folder):
    found = [re.search(r"-(\d+)\.index", p.name) for p in folder.iterdir()]
    return sorted(int(match.group(1)) for match in found if match)

  assert steps(trained[0]) == [STEPS]
  assert steps(others / "42") == [12, 13]
  assert steps(others / "7") == [0, 4, 8, 12, 13]


def test_a_finished_output_dir_says_so_at_once_and_at_the_end(
  output_dir, trained, training, classify
):
  again = classify(output_dir=output_dir, do_eval=True, **training)
  assert again.status == 0
  lines = [line for line in again.log.splitlines() if line]
  said = [i for i, line in enumerate(lines) if line.startswith("NOT TRAINING")]
  sentence = (
    f"NOT TRAINING: {output_dir} holds a checkpoint of step 13, and 13 steps"
    " are asked for. Give another --output_dir, --num_train_epochs=3.03 or more"
    " to go on, or --overwrite_output_dir to train from the start"
  )
  assert [lines[i] for i in said] == [sentence] * 2
  assert said[1] == len(lines) - 2
  assert differing(output_dir, trained[0]) == []


def test_more_epochs_go_on(output_dir, training, classify):
  longer = dict(training, num_train_epochs=4)
  outcome = classify(output_dir=output_dir, **longer)
  assert outcome.status == 0 and "step 14/18" in outcome.log
  # 1e-3 * (1 - 13 / 18)
  assert "the learning rate climbs to 2.78e-04 at step 14" in outcome.log
  assert read_checkpoint(output_dir)["global_step"] == 18


def test_settings_that_differ_stop_and_resume_goes_on(
  output_dir, trained, training, classify
):
  changed = dict(training, learning_rate=2e-3, num_train_epochs=4)
  stopped = classify(output_dir=output_dir, **changed)
  assert stopped.status == 1
  assert "learning_rate was 0.001 and is 0.002. Give --learni" in stopped.log
  assert differing(output_dir, trained[0]) == []
  resumed = classify("--resume", output_dir=output_dir, **changed)
  assert resumed.status == 0 and "step 14/18" in resumed.log
  again = classify(output_dir=output_dir, **changed)
  assert again.status == 0 and "NOT TRAINING" in again.log


NO_FLAGS = dict.fromkeys(
  ["task_name", "data_dir", "max_seq_length", "vocab_file", "init_checkpoint"]
)


def test_a_trained_folder_needs_no_flag_but_its_own(
  output_dir, classify, golden_task
):
  paths = [output_dir / "test_results.tsv", output_dir / "eval_results.txt"]
  before = [path.read_text() for path in paths]
  outcome = classify(
    "--do_predict", "--do_eval", output_dir=output_dir, **NO_FLAGS
  )
  assert outcome.status == 0, outcome.log
  assert (
    f"flags that are not given are as in {output_dir}/run_manifest.json:"
    f" --task_name=mrpc --data_dir={golden_task}/data --max_seq_length=24"
  ) in outcome.log
  assert f"{paths[0]} of an earlier command, written at 2" in outcome.log
  assert [path.read_text() for path in paths] == before


def test_training_goes_on_with_the_settings_that_it_had(
  output_dir, trained, classify
):
  flags = dict(NO_FLAGS, output_dir=output_dir)
  again = classify("--do_train", **flags)
  assert again.status == 0 and "NOT TRAINING" in again.log
  longer = classify("--do_train", num_train_epochs=3.03, **flags)
  assert longer.status == 0 and "step 14/14" in longer.log


def test_a_trained_folder_may_be_copied_with_its_weights(
  output_dir, training, classify, tmp_path
):
  copy = shutil.copytree(training["init_checkpoint"], tmp_path / "model")
  moved = dict(training, init_checkpoint=copy, output_dir=output_dir)
  outcome = classify(**moved)
  assert outcome.status == 0 and "NOT TRAINING" in outcome.log
  variables = read_checkpoint(copy / "bert_model.ckpt")
  variables["output_bias"] = variables["output_bias"] + 1
  write_checkpoint(copy / "bert_model.ckpt", variables)
  outcome = classify(**moved)
  assert outcome.status == 1
  assert re.search("init_checkpoint=.* is not the weights that", outcome.log)


def test_overwriting_trains_from_the_start_and_leaves_foreign_files(
  output_dir, trained, training, classify
):
  (output_dir / "notes.txt").write_text("mine")
  flags = dict(training, output_dir=output_dir)
  outcome = classify("--overwrite_output_dir", **flags)
  assert outcome.status == 0 and "step 1/13" in outcome.log
  assert differing(output_dir, trained[0]) == []
  assert (output_dir / "notes.txt").read_text() == "mine"
  assert not (output_dir / "test_results.tsv").exists()


def test_overwriting_does_not_remove_the_weights_to_begin_with(
  output_dir, trained, training, classify
):
  flags = dict(training, init_checkpoint=output_dir, output_dir=output_dir)
  outcome = classify("--overwrite_output_dir", **flags)
  assert outcome.status == 1
  assert "--overwrite_output_dir would remove --init_check" in outcome.log
  assert differing(output_dir, trained[0]) == []


def test_predicting_alone_needs_no_training_flags(
  output_dir, classify, small_model
):
  before = (output_dir / "test_results.tsv").read_text()
  for name in ("test_results.tsv", "test_predictions.tsv"):
    (output_dir / name).unlink()
  flags = dict(small_model, output_dir=output_dir, init_checkpoint=None)
  outcome = classify(do_predict=True, **flags)
  assert outcome.status == 0, outcome.log
  after = np.float32(read_table(output_dir / "test_results.tsv"))
  rows = [line.split("\t") for line in before.splitlines()]
  np.testing.assert_allclose(after, np.float32(rows), atol=1e-6)


def test_mnli_evaluates_and_predicts_both_of_its_sets(classify, tmp_path):
  header = [*"ipg12345", "sentence1", "sentence2", "label1", "gold_label"]
  row = ["9", *"abcdefg", "pex caa", "ikm u", "neutral", "neutral"]
  other = ["7", *"abcdefg", "ikm u u ikm", "caa", "neutral", "neutral"]
  rows_of = {"matched": [row], "mismatched": [other, row]}
  for suffix, rows in rows_of.items():
    labelled = "\n".join(map("\t".join, [header, *rows]))
    plain = [["index", *header[1:10]], *(cells[:10] for cells in rows)]
    (tmp_path / f"dev_{suffix}.tsv").write_text(labelled)
    plain = "\n".join(map("\t".join, plain))
    (tmp_path / f"test_{suffix}.tsv").write_text(plain)
  out = tmp_path / "out"
  flags = dict(task_name="mnli", data_dir=tmp_path, max_seq_length=12)
  flags["init_checkpoint"] = GOLDEN / "checkpoint"
  outcome = classify("--do_eval", "--do_predict", output_dir=out, **flags)
  assert outcome.status == 0, outcome.log
  assert (
    outcome.log.count("predicting the 3 examples of test and test_mism") == 1
  )
  found = {}
  for suffix, ids in (("", ["9"]), ("_mismatched", ["7", "9"])):
    assert "eval_accuracy" in read_results(out / f"eval_results{suffix}.txt")
    found[suffix] = read_table(out / f"test_results{suffix}.tsv")
    head, *predicted = read_table(out / f"test_predictions{suffix}.tsv")
    assert head[:4] == ["id", "text_a", "text_b", "label"]
    assert [cells[0] for cells in predicted] == ids
    assert [cells[-3:] for cells in predicted] == found[suffix]
  (alone,), (others, again) = found[""], found["_mismatched"]
  np.testing.assert_allclose(np.float32(again), np.float32(alone), atol=1e-6)
  assert np.abs(np.float32(others) - np.float32(alone)).max() > 1e-5


def test_examples_that_fill_up_a_batch_are_not_written(tmp_path, monkeypatch):
  rows = np.float32([[0.25, 0.75], [0.5, 0.5], [0, 1], [0, 1]])
  examples = [InputExample("g-1", "a"), InputExample("g-2", "b")]
  run = SimpleNamespace(
    options=options.make_options(output_dir=str(tmp_path)),
    placement=devices.Placement(),
    count=lambda *_: 2,
    count_records=lambda *_: 2,
    describe_count=lambda *_: "2 examples",
    cache=SimpleNamespace(converted_examples=lambda _: examples),
    weights=model_files.Weights(None, "model.ckpt-1"),
    task=SimpleNamespace(target=targets.OneClass(["no", "yes"]), metrics=()),
  )
  monkeypatch.setattr(run_classifier, "input_fn_for", lambda *_: None)
  monkeypatch.setattr(run_classifier.memory, "warn_if_short", lambda *_: None)
  left = iter([{"probabilities": rows[:3]}, {"probabilities": rows[3:]}])
  estimator = SimpleNamespace(predict=lambda *_, **__: left)
  run_classifier.predict(estimator, run, ["test"])
  assert read_table(tmp_path / "test_results.tsv") == [
    ["0.25", "0.75"],
    ["0.5"] * 2,
  ]
  assert next(left, None) is None


def test_a_file_spoilt_before_training_is_found_and_made_anew(
  output_dir, classify, small_model, tmp_path
):
  flags = dict(small_model, output_dir=output_dir, do_eval=True)
  flags["cache_dir"] = tmp_path / "cache"
  assert classify(**flags).status == 0
  before = read_results(output_dir / "eval_results.txt")
  (path,) = (tmp_path / "cache").glob("*.tf_record")
  path.write_bytes(path.read_bytes()[:-9])
  again = classify(**flags)
  assert again.status == 0 and "is damaged" in again.log
  assert read_results(output_dir / "eval_results.txt") == before


def test_the_cache_is_made_in_data_dir_by_default(
  golden_task, classify, small_model, tmp_path
):
  data = Path(shutil.copytree(f"{golden_task}/data", tmp_path / "data"))
  flags = dict(data_dir=data, cache_dir=None, output_dir=tmp_path / "out")
  assert classify(do_eval=True, **small_model, **flags).status == 0
  assert len(list(data.glob("cached_dev_24_mrpc_*"))) == 2


def test_a_checkpoint_whose_files_are_gone_is_not_passed_over(
  output_dir, training, classify, small_model
):
  for path in output_dir.glob("model.ckpt-13.index"):
    path.unlink()
  predicting = dict(do_predict=True, **small_model)
  for flags in (training, predicting):
    outcome = classify(output_dir=output_dir, **flags)
    assert outcome.status == 1
    assert "copy the files model.ckpt-13.* there" in outcome.log


def test_padding_is_skipped_unless_it_is_asked_for(
  output_dir, classify, small_model, monkeypatch
):
  made, forms = [], fast_modeling.forms
  monkeypatch.setattr(
    fast_modeling,
    "forms",
    lambda skip, **how: made.append(skip) or forms(skip, **how),
  )
  flags = dict(output_dir=output_dir, **small_model)
  losses = []
  for given in ([], ["--noskip_padding"]):
    assert classify("--do_eval", *given, **flags).status == 0
    losses.append(read_results(output_dir / "eval_results.txt")["eval_loss"])
  assert made == [True, False]
  assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_checkpoints_of_which_none_is_known_to_be_the_newest_are_kept(
  output_dir, training, classify
):
  (output_dir / "checkpoint").write_bytes(b"\0")
  outcome = classify(output_dir=output_dir, **training)
  assert outcome.status == 1
  assert 'the line model_checkpoint_path: "model.ckpt-13"' in outcome.log
  line = 'model_checkpoint_path: "model.ckpt-13"'
  (output_dir / "checkpoint").write_text(line)
  assert classify(output_dir=output_dir, **training).status == 0


def test_a_folder_takes_one_training_at_a_time(output_dir, training, classify):
  with lock_for_training(str(output_dir)):
    outcome = classify(output_dir=output_dir, **training)
  assert outcome.status == 1
  assert f"another command is training in {output_dir}" in outcome.log
  assert classify(output_dir=output_dir, **training).status == 0


def test_a_damaged_checkpoint_is_named_without_a_traceback(
  output_dir, classify, small_model
):
  (path,) = output_dir.glob("model.ckpt-13.data*")
  content = bytearray(path.read_bytes())
  content[5000:5100] = b"\xff" * 100
  path.write_bytes(content)
  flags = dict(output_dir=output_dir, **small_model)
  outcome = classify("--do_predict", **flags)
  assert outcome.status == 1 and "most recent call" not in outcome.log
  assert f"{output_dir}/model.ckpt-13" in outcome.log.splitlines()[-1]


def test_the_session_prepares_one_graph_for_all_steps(
  training, classify, tmp_path, monkeypatch
):
  fetched = []
  plain = tf.Session.run

  def run(self, fetches, *args, **kwargs):
    if isinstance(fetches, dict) and "caller" in fetches:
      fetched.append(str(fetches))
    return plain(self, fetches, *args, **kwargs)

  monkeypatch.setattr(tf.Session, "run", run)
  flags = {**training, "log_steps": 5}
  assert classify(output_dir=tmp_path / "out", **flags).status == 0
  assert len(fetched) == STEPS and len(set(fetched)) == 1


def test_a_run_that_overwrites_another_keeps_its_own_vocabulary(
  training, classify, golden_task, tmp_path
):
  *first, last, end = Path(golden_task, "vocab.txt").read_text().splitlines()
  flags = {**training, "num_train_epochs": 0.3, "output_dir": tmp_path / "out"}
  for name, lines in (("a", [last, end]), ("b", [end, last])):
    (tmp_path / name).write_text("\n".join([*first, *lines, ""]))
    outcome = classify(
      "--overwrite_output_dir", vocab_file=tmp_path / name, **flags
    )
    assert outcome.status == 0, outcome.log
    kept = (tmp_path / "out" / "vocab.txt").read_text()
    assert kept == (tmp_path / name).read_text()


def test_a_checkpoint_of_another_task_gets_no_advice_that_does_nothing(
  training, classify, golden_checkpoint, golden_config, tmp_path
):
  for suffix in (".index", ".data-00000-of-00001"):  # as the 2018 script left
    shutil.copy(golden_checkpoint + suffix, tmp_path / f"model.ckpt-0{suffix}")
  state = 'model_checkpoint_path: "model.ckpt-0"'
  (tmp_path / "checkpoint").write_text(state)
  flags = {**training, "bert_config_file": golden_config}
  outcome = classify(output_dir=tmp_path, **flags)
  assert outcome.status == 1
  assert "was trained for another task or model" in outcome.log
  assert "--init_checkpoint" not in outcome.log.splitlines()[-1]
