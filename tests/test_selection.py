"""selection.py: the best checkpoint, early stopping, and both after kill -9."""

import contextlib
import io
import json
from pathlib import Path
import re
import resource
import shutil
from typing import NamedTuple

from conftest import (
  ALONE,
  assert_equal_variables,
  list_lines,
  list_names,
  read_checkpoint,
  read_examples,
  read_results,
  write_checkpoint,
)
from kills import run_killed
import mutations_check
import numpy as np
import pytest
from safetensors.numpy import load_file
from sklearn.metrics import f1_score
import tensorflow.compat.v1 as tf

from bert_classifier import (
  calibration,
  devices,
  features,
  history,
  options,
  output_dir,
  preparation,
  saving,
  selection,
)
from bert_classifier.catalogue import MrpcProcessor
from bert_classifier.errors import UserError
from bert_classifier.variables import list_variables
import modeling
import tokenization


@pytest.fixture(scope="module")
def flags(training):
  """Flags of a training of 27 steps: at 8 it is best, and at 12 it ends."""
  return dict(
    training,
    learning_rate=5e-3,
    seed=2,
    num_train_epochs=6,
    do_eval=True,
    eval_every_steps=4,
    early_stopping_patience=1,
    save_checkpoints_steps=None,
  )


@pytest.fixture(scope="module")
def alone(classify):
  """Returns the flags that a trained folder needs not, as none."""
  return dict(ALONE, cache_dir=classify.defaults["cache_dir"])


@pytest.fixture(scope="module")
def chosen(classify, flags, tmp_path_factory):
  """The folder of that training, which keeps all of its checkpoints."""
  folder = tmp_path_factory.mktemp("chosen") / "out"
  outcome = classify(output_dir=folder, keep_checkpoint_max=0, **flags)
  assert outcome.status == 0
  assert (
    f"trained up to step 12 of 27, where 1 evaluation in a row had been no"
    f" better than the best: {folder}; best: step 8, eval_f1 0.55172414:"
    f" {folder}/best/model.ckpt-8"
  ) in outcome.log
  return folder


def list_evaluations(folder):
  """Returns {step: line} of the evaluations in a history."""
  entries = history.read(str(folder / "history.jsonl"))
  return {e["step"]: e for e in entries if e.get("split") == "dev"}


# ---------------------------------------------------------------------------
# The record of evaluations


def write_evaluations(folder, metric, values, kept):
  """Writes lines {step: value} of a history, and names of checkpoints."""
  for step, value in values.items():
    results = {"global_step": step, "eval_loss": 0.5}
    if value is not None:
      results[f"eval_{metric}"] = value
    history.add_evaluation(str(folder / "history.jsonl"), "dev", results)
  for step in kept:
    (folder / f"model.ckpt-{step}.index").write_text("")


@pytest.mark.parametrize(
  ("metric", "values", "best"),
  [
    ("accuracy", [0.5, 0.7, 0.6, 0.7], 8),  # of equal ones the earlier
    ("accuracy", [0.0, -0.1, 0.0, -0.2], 4),
    ("rmse", [0.5, 0.7, 0.4, 0.4], 12),  # the lower, the better
    ("pearson", [None, 0.1, None, 0.2], 16),  # undefined
    ("pearson", [None, None, None, None], None),
    ("pearson", ["0.9", 0.1, [1], 0.2], 16),  # in a file that was changed
  ],
)
def test_the_best_is_the_first_that_none_is_better_than(
  tmp_path, metric, values, best
):
  steps = [4, 8, 12, 16]
  write_evaluations(tmp_path, metric, dict(zip(steps, values)), steps)
  found = selection.read(str(tmp_path), metric, 16)
  assert (found.best, found.gone) == (best, None)
  assert found.value == (best and values[best // 4 - 1])
  assert found.since == (0 if best is None else (16 - best) // 4)


def test_of_weights_that_are_gone_none_are_the_best(tmp_path):
  values = {4: 0.9, 8: 0.7, 12: 0.6}
  write_evaluations(tmp_path, "accuracy", values, [8, 12])
  found = selection.read(str(tmp_path), "accuracy", 12)
  assert (found.best, found.gone) == (8, (4, 0.9))
  best = tmp_path / "best"
  best.mkdir()
  (best / "model.ckpt-4.index").write_text("")
  (best / "run_manifest.json").write_text("{}")
  assert selection.read(str(tmp_path), "accuracy", 12).best == 8  # not named
  saving.write_state([str(best / "model.ckpt-4")])
  assert selection.read(str(tmp_path), "accuracy", 12).best == 4


def test_training_is_over_when_patience_is_and_the_newest_was_evaluated(
  tmp_path,
):
  values = {4: 0.5, 8: 0.9, 12: 0.9, 16: 0.1, 20: 1.0}
  write_evaluations(tmp_path, "accuracy", values, values)
  is_over = {
    step: [
      selection.read(str(tmp_path), "accuracy", step).is_over(patience)
      for patience in (None, 1, 2)
    ]
    for step in (4, 8, 12, 14, 16, 20)
  }
  assert is_over == {
    4: [False, False, False],
    8: [False, False, False],
    12: [False, True, False],
    14: [False, False, False],
    16: [False, True, True],
    20: [False, False, False],
  }


@pytest.mark.parametrize(
  ("given", "words"),
  [
    (dict(early_stopping_patience=2), "counts the evaluations of --eval_every"),
    (dict(eval_every_steps=4), "=4 evaluates the dev set: add --do_eval"),
    (
      dict(eval_every_steps=4, do_eval=True, save_checkpoints_steps=1000),
      "=1000 goes against --eval_every_steps=4: .* out --save_checkpoints_st",
    ),
    (dict(use_best=True), "--use_best needs .*--eval_every_steps=N"),
  ],
)
def test_flags_that_do_not_go_together_are_refused(tmp_path, given, words):
  asked = options.make_options(do_train=True, output_dir=str(tmp_path), **given)
  with pytest.raises(UserError, match=words):
    selection.check_request(asked, devices.Placement())


def test_what_is_evaluated_is_saved_and_a_tpu_is_refused(tmp_path):
  flags = dict(do_train=True, do_eval=True, output_dir=str(tmp_path))
  asked = options.make_options(eval_every_steps=7, **flags)
  taken = selection.check_request(asked, devices.Placement())
  assert taken.training.save_checkpoints_steps == 7
  with pytest.raises(UserError, match="not possible on a TPU"):
    selection.check_request(asked, devices.TpuPlacement())
  flags["do_train"] = False  # what training alone looks at may stay
  asked = options.make_options(early_stopping_patience=1, **flags)
  assert selection.check_request(asked, devices.TpuPlacement()) == asked


def test_a_folder_of_the_users_own_named_best_is_left_alone(tmp_path):
  model = tmp_path / "best" / "vocab.txt"
  model.parent.mkdir()
  model.write_text("[PAD]")
  asked = options.make_options(
    do_train=True, do_eval=True, eval_every_steps=7, output_dir=str(tmp_path)
  )
  with pytest.raises(UserError, match="holds vocab.txt, which no run wrote"):
    selection.check_request(asked, devices.Placement())
  assert output_dir.list_own_files(str(tmp_path)) == []


# ---------------------------------------------------------------------------
# What is kept


def test_whenever_it_is_stopped_the_folder_holds_one_whole_checkpoint(
  monkeypatch, tmp_path
):
  """As it is found before every renaming and removal of a file."""
  values = {}
  for step in (4, 8):
    values[step] = {"w": np.float32([step]), "global_step": np.int64(step)}
    slots = {"w/adam_m": np.float32([0])}
    write_checkpoint(tmp_path / f"model.ckpt-{step}", {**values[step], **slots})
  best, names = tmp_path / "best", ["w", "global_step"]
  saving.keep_weights(str(tmp_path / "model.ckpt-4"), names, str(best))
  found, undisturbed = [], {}

  def look(name):
    done = getattr(tf.io.gfile, name)

    def call(*arguments, **named):
      found.append(shutil.copytree(best, tmp_path / f"found_{len(found)}"))
      return done(*arguments, **named)

    monkeypatch.setattr(tf.io.gfile, name, call)

  with monkeypatch.context():
    look("rename")
    look("remove")
    saving.keep_weights(str(tmp_path / "model.ckpt-8"), names, str(best))
  monkeypatch.undo()
  assert len(found) == 5  # data, index, state file; data, index
  undisturbed = list_names(best)
  steps = []
  for folder in found:
    kept = read_checkpoint(folder)
    steps.append(int(kept["global_step"]))
    assert kept == values[steps[-1]]
    # What goes on from there ends as what was not stopped.
    saving.keep_weights(str(tmp_path / "model.ckpt-8"), names, str(folder))
    assert list_names(folder) == undisturbed
  assert steps == [4, 4, 4, 8, 8]


def test_best_holds_the_weights_of_its_step_and_nothing_else(chosen):
  best, step = read_checkpoint(chosen / "best"), chosen / "model.ckpt-8"
  trained = read_checkpoint(step)
  assert best.keys() == {n for n in trained if "adam" not in n}
  for name, value in best.items():
    np.testing.assert_array_equal(value, trained[name], err_msg=name)
  data = "model.ckpt-8.data-00000-of-00001"
  whole = (chosen / data).stat().st_size
  assert (chosen / "best" / data).stat().st_size < 0.35 * whole
  assert list_names(chosen / "best") == sorted(
    [data, "model.ckpt-8.index", "checkpoint", "run_manifest.json"]
    + ["bert_config.json", "vocab.txt"]
  )


def test_the_best_is_that_of_an_independent_evaluation(chosen, golden_task):
  """BERT in NumPy and scikit-learn's F1, of every checkpoint."""
  config = modeling.BertConfig.from_json_file(str(chosen / "bert_config.json"))
  tokenizer = tokenization.FullTokenizer(f"{golden_task}/vocab.txt")
  processor = MrpcProcessor()
  convert = features.Converter(processor.get_target(), 24, tokenizer)
  examples = [
    convert(example)
    for example in read_examples(processor, f"{golden_task}/data", "dev")
  ]
  labels = [example.label_id for example in examples]
  found = {}
  for step in (4, 8, 12):
    weights = read_checkpoint(chosen / f"model.ckpt-{step}")
    decided = []
    for example in examples:
      length = sum(example.input_mask)
      logits = mutations_check.compute_logits(
        weights,
        config.to_dict(),
        example.input_ids[:length],
        example.segment_ids[:length],
        np.float64,
      )
      decided.append(np.argmax(logits))
    found[step] = np.float32(f1_score(labels, decided, zero_division=0))
  evaluated = list_evaluations(chosen)
  assert found == {s: np.float32(e["eval_f1"]) for s, e in evaluated.items()}
  assert max(found, key=found.get) == 8


# ---------------------------------------------------------------------------
# What it is used for


class Used(NamedTuple):
  """What a command with --use_best gave: its folder, log and answer."""

  folder: Path
  log: str
  answer: str


@pytest.fixture(scope="module")
def used(classify, chosen, alone, tmp_path_factory):
  """Everything that --use_best is for, in one command."""
  folder = shutil.copytree(chosen, tmp_path_factory.mktemp("used") / "out")
  with contextlib.redirect_stdout(io.StringIO()) as answer:
    outcome = classify(
      *("--use_best", "--do_eval", "--calibrate", "--do_predict"),
      *("--do_export", f"--export_hf={folder}/hf"),
      output_dir=folder,
      **alone,
      **ANSWERED,
    )
  assert outcome.status == 0
  return Used(folder, outcome.log, answer.getvalue())


ANSWERED = dict(predict_text="a", predict_text_b="b")


def test_use_best_names_its_weights_and_evaluates_as_training_did(chosen, used):
  best = f"{used.folder}/best/model.ckpt-8"
  for said in (
    f"weights: {best}, step 8",
    f"results of dev with {best}, in",
    f"exported {best}, step 8",
    f"exported step 8 of {best} for Hugging Face",
  ):
    assert said in used.log
  assert list_evaluations(used.folder) == list_evaluations(chosen)
  results = read_results(used.folder / "eval_results.txt")
  assert results.pop("global_step") == 8
  assert results.items() <= list_evaluations(chosen)[8].items()


def test_the_best_is_what_is_exported(used):
  (settings,) = used.folder.glob("export/*/assets.extra/settings.json")
  assert json.loads(settings.read_text())["global_step"] == 8
  kept = json.loads((used.folder / "best" / "calibration.json").read_text())
  with tf.Graph().as_default(), tf.Session() as session:
    loaded = tf.saved_model.load(
      session, ["serve"], str(settings.parent.parent)
    )
    text = loaded.signature_def["text"]
    names = {name: one.name for name, one in text.outputs.items()}
    given = {
      text.inputs["text_a"].name: ["a"],
      text.inputs["text_b"].name: ["b"],
    }
    found = session.run(names, given)
  odds = np.exp(np.float64(found["logits"]) / kept["temperature"])
  np.testing.assert_allclose(
    found["probabilities"], odds / odds.sum(), rtol=0, atol=1e-6
  )
  assert abs(kept["temperature"] - 1) > 0.01
  weights = read_checkpoint(used.folder / "best")
  exported = load_file(used.folder / "hf" / "model.safetensors")
  for variable in list_variables(1):
    value = exported[variable.hugging_face]
    value = value.T if variable.is_transposed else value
    np.testing.assert_array_equal(value, weights[variable.name])


def test_best_is_a_model_by_itself_with_its_temperature(
  classify, used, tmp_path
):
  with contextlib.redirect_stdout(io.StringIO()) as answer:
    outcome = classify(
      "--do_predict",
      output_dir=tmp_path,
      init_checkpoint=used.folder / "best",
      max_seq_length=None,
      **ANSWERED,
    )
  assert outcome.status == 0, outcome.log
  assert answer.getvalue() == used.answer
  for name in ("test_results.tsv", "test_predictions.tsv"):
    assert (tmp_path / name).read_text() == (used.folder / name).read_text()


def test_a_temperature_of_the_best_is_not_that_of_the_last(classify, used):
  kept = json.loads((used.folder / "best" / "calibration.json").read_text())
  assert kept["weights"] == "model.ckpt-8"
  cache_dir = str(classify.defaults["cache_dir"])
  for use_best, temperature in ((False, 1.0), (True, kept["temperature"])):
    run = preparation.prepare(
      options.make_options(
        output_dir=str(used.folder),
        cache_dir=cache_dir,
        do_predict=True,
        use_best=use_best,
      )
    )
    assert run.task.target.temperature == temperature


def test_best_weights_that_a_training_leaves_keep_their_temperature(
  classify, used, flags
):
  kept = json.loads((used.folder / "best" / "calibration.json").read_text())
  given = {**classify.defaults, **flags, "output_dir": used.folder}
  given.update(early_stopping_patience=2, use_best=True)
  given = {
    name: str(value) if isinstance(value, Path) else value
    for name, value in given.items()
    if value is not None
  }
  run = preparation.prepare(options.make_options(**given))
  assert not run.is_finished and run.task.target.temperature == 1.0
  run = calibration.apply(selection.choose_weights(run))
  assert run.task.target.temperature == kept["temperature"]


def test_the_card_says_that_dev_chose_the_weights_and_names_the_temperature(
  used,
):
  card = (used.folder / "hf" / "README.md").read_text()
  assert (
    "Those of training step 8. They were chosen by the dev set, so its figures"
    " are optimistic."
  ) in card
  kept = json.loads((used.folder / "best" / "calibration.json").read_text())
  assert f"those of the temperature {kept['temperature']:g}," in card


def test_without_best_weights_use_best_is_refused(classify, alone, tmp_path):
  outcome = classify("--use_best", "--do_eval", output_dir=tmp_path, **alone)
  assert outcome.status == 1
  assert f"--use_best: {tmp_path}/best holds no weights" in outcome.log


def test_best_cannot_be_trained_on_nor_lost(classify, chosen, flags, tmp_path):
  folder = shutil.copytree(chosen, tmp_path / "out")
  outcome = classify(**dict(flags, output_dir=folder / "best"))
  assert "has weights alone, without the moments of Adam" in outcome.log
  for path in [*folder.glob("model.ckpt-*"), folder / "checkpoint"]:
    path.unlink()
  outcome = classify(**dict(flags, output_dir=folder))
  assert outcome.status == 1
  assert "the best of an earlier training, but no checkpoint" in outcome.log
  assert output_dir.remove_own_files(str(folder)) > 0
  assert not (folder / "best").exists()


def test_a_training_that_goes_on_keeps_the_best(
  classify, chosen, flags, tmp_path
):
  """Also without the flag, where best/ is there."""
  folder = shutil.copytree(chosen, tmp_path / "out")
  plain = dict(flags, eval_every_steps=None, early_stopping_patience=None)
  plain.update(output_dir=folder, learning_rate=1e-3)
  outcome = classify("--resume", **plain)
  assert outcome.status == 0
  record = selection.read(str(folder), "f1", 27)
  assert record.steps == (4, 8, 12, 27)
  values = {s: e["eval_f1"] for s, e in list_evaluations(folder).items()}
  assert record.best == max(values, key=values.get)
  assert f"best: {record.describe()}" in outcome.log


def test_weights_that_cannot_be_kept_end_the_run_and_are_kept_by_the_next(
  classify, chosen, flags, tmp_path
):
  folder = shutil.copytree(chosen, tmp_path / "out")
  shutil.rmtree(folder / "best")
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
  try:
    outcome = classify(output_dir=folder, **flags)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert outcome.status == 1
  assert re.search(
    f"the weights of step 8 cannot be copied to {folder}/best: .*File too large"
    r".* The same command goes on from here",
    outcome.log,
  )
  assert list_names(folder) == [
    name for name in list_names(chosen) if not name.startswith("best/")
  ]
  assert classify(output_dir=folder, **flags).status == 0
  assert_equal_variables(folder / "best", chosen / "best")


def test_of_several_runs_each_has_its_best(classify, chosen, flags, tmp_path):
  """One of them lost its last evaluation, and ends by it all the same."""
  for seed in (2, 3):
    folder = tmp_path / "runs" / f"seed={seed}"
    shutil.copytree(chosen, folder)
    history.drop_after(str(folder / "history.jsonl"), 11)
  (folder / "run_manifest.json").write_text(
    (folder / "run_manifest.json").read_text().replace('"seed": 2', '"seed": 3')
  )
  several = dict(flags, output_dir=tmp_path, num_runs=2, use_best=True)
  outcome = classify(**several)
  assert outcome.status == 0, outcome.log
  assert outcome.log.count("step 12 is still to be evaluated") == 2
  assert outcome.log.count("the last step, 12, is made up for") == 2
  assert "training on" not in outcome.log and "NOT TRAIN" not in outcome.log
  for seed in (2, 3):
    folder = tmp_path / "runs" / f"seed={seed}"
    assert read_results(folder / "eval_results.txt")["global_step"] == 8
    assert list_evaluations(folder) == list_evaluations(chosen)
  outcome = classify(**dict(several, use_best=False))
  assert read_results(folder / "eval_results.txt")["global_step"] == 12


# ---------------------------------------------------------------------------
# After a kill

WAYS = """
# In training, after the checkpoint of step 4.
(history, "append", lambda number, path, entry: entry["step"] == 6),
# In the evaluation of step 8.
(evaluation.Collector, "add", lambda number, *_: number == 1),
# While the weights of step 8 take the place of those of step 4.
(saving, "write_state", lambda number, paths: "/best/" in paths[0]),
# After the evaluation of step 12, at which training ends.
(history, "add_evaluation", lambda *_: True),
"""


def test_a_training_killed_again_and_again_ends_as_one_undisturbed(
  classify, flags, chosen, tmp_path
):
  out = tmp_path / "out"
  run_killed(WAYS, dict(classify.defaults, **flags, output_dir=out))
  outcome = classify(output_dir=out, **flags)
  assert "step 12 is still to be evaluated" in outcome.log
  assert "NOT TRAINING" not in outcome.log  # it was asked for, and is done
  assert (
    "trained up to step 12 of 27, where 1 evaluation in a row had been no"
    f" better than the best: {out}"
  ) in outcome.log
  assert_equal_variables(out / "model.ckpt-12", chosen / "model.ckpt-12")
  assert_equal_variables(out / "best", chosen / "best")
  assert list_lines(out) == list_lines(chosen)
  assert (out / "eval_results.txt").read_text() == (
    chosen / "eval_results.txt"
  ).read_text()
  kept = [n for n in list_names(chosen) if not re.search(r"^m.*-(0|4|8)\.", n)]
  assert list_names(out) == kept
