"""Which weights are used where several are named, and what they mean."""

import json
from pathlib import Path
import shutil

from conftest import read_results, write_hugging_face
import pytest

from bert_classifier import catalogue


@pytest.fixture(scope="module")
def flags(small_model):
  return dict(
    small_model,
    train_batch_size=8,
    save_checkpoints_steps=4,
    learning_rate=1e-2,
  )


@pytest.fixture(scope="module")
def trained(classify, flags, tmp_path_factory):
  """A folder with all checkpoints of a training: steps 0, 4, 8, 12, 13."""
  out = tmp_path_factory.mktemp("trained") / "out"
  done = classify("--do_train", output_dir=out, keep_checkpoint_max=0, **flags)
  assert done.status == 0, done.log
  return out


@pytest.fixture
def out(trained, tmp_path):
  """A copy of that folder."""
  return Path(shutil.copytree(trained, tmp_path / "out"))


def evaluate(classify, flags, out, init_checkpoint):
  """Outcome and results of an evaluation with weights that are named."""
  flags = {**flags, "init_checkpoint": init_checkpoint}
  outcome = classify("--do_eval", output_dir=out, **flags)
  path = out / "eval_results.txt"
  return outcome, read_results(path) if path.exists() else None


def test_a_checkpoint_named_in_output_dir_is_the_one_that_is_used(
  classify, flags, out
):
  losses = set()
  for step in (4, 8, 13):
    path = out / f"model.ckpt-{step}"
    outcome, results = evaluate(classify, flags, out, path)
    assert outcome.status == 0, outcome.log
    assert f"weights: {path}, step {step}" in outcome.log
    assert results["global_step"] == step
    losses.add(results["eval_loss"])
  assert len(losses) == 3
  _, newest = evaluate(classify, flags, out, None)
  assert newest["global_step"] == 13 and newest["eval_loss"] in losses


def test_predictions_are_of_the_checkpoint_that_is_named(classify, flags, out):
  found = set()
  for step in (4, 13):
    named = {**flags, "init_checkpoint": out / f"model.ckpt-{step}"}
    assert classify("--do_predict", output_dir=out, **named).status == 0
    found.add((out / "test_results.tsv").read_text())
  assert len(found) == 2


def test_weights_that_training_began_with_give_way_to_trained_ones(
  classify, flags, out
):
  # They have a head of the task's size, so their shapes tell nothing.
  outcome, results = evaluate(classify, flags, out, flags["init_checkpoint"])
  assert outcome.status == 0 and results["global_step"] == 13


def test_a_trained_classifier_from_elsewhere_is_not_passed_over(
  classify, flags, out, trained
):
  named = trained / "model.ckpt-4"
  outcome, results = evaluate(classify, flags, out, named)
  assert outcome.status == 1 and results is None
  assert f"--init_checkpoint={named} is a trained classifier" in outcome.log
  assert "leave out --init_checkpoint to use that of" in outcome.log


def test_what_weights_mean_is_never_resumed_with_other_values(
  classify, flags, out, monkeypatch
):
  class Swapped(catalogue.MrpcProcessor):
    labels = ("1", "0")

  monkeypatch.setitem(catalogue.PROCESSORS, "mrpc", Swapped)
  for resume in ([], ["--resume"]):
    outcome = classify("--do_eval", *resume, output_dir=out, **flags)
    assert outcome.status == 1
    last = outcome.log.splitlines()[-1]
    assert "labels was ['0', '1'] and is ['1', '0']" in last
    assert "sort them" in last and "--resume" not in last


def test_another_length_can_be_resumed(classify, flags, out):
  longer = {**flags, "max_seq_length": 30}
  refused = classify("--do_eval", output_dir=out, **longer)
  assert refused.status == 1 and "or --resume to go on with" in refused.log
  assert classify("--do_eval", "--resume", output_dir=out, **longer).status == 0


# --- what a head means ------------------------------------------------------


def check_golden_results(golden_task, out):
  golden = read_results(f"{golden_task}/eval_results.txt")
  found = read_results(out / "eval_results.txt")
  assert {key: found[key] for key in golden} == pytest.approx(golden, abs=1e-5)


def test_a_head_in_another_order_gives_the_golden_results(
  classify, golden_task, tmp_path
):
  theirs = {"0": "1", "1": "0"}
  folder = write_hugging_face(golden_task, tmp_path / "hf", rows=(1, 0))
  config = json.loads((folder / "config.json").read_text())
  (folder / "config.json").write_text(
    json.dumps({**config, "id2label": theirs})
  )
  flags = dict(init_checkpoint=folder, vocab_file=None)
  done = classify("--do_eval", output_dir=tmp_path / "out", **flags)
  assert done.status == 0 and "in the order of the task's labels" in done.log
  check_golden_results(golden_task, tmp_path / "out")


def test_a_head_of_another_meaning_is_trained_afresh_or_refused(
  classify, golden_task, tmp_path
):
  theirs = {"0": "negative", "1": "positive"}
  folder = write_hugging_face(golden_task, tmp_path / "hf", id2label=theirs)
  flags = dict(init_checkpoint=folder, vocab_file=None, train_batch_size=32)
  out = tmp_path / "out"
  refused = classify("--do_eval", output_dir=out, **flags)
  assert refused.status == 1 and not out.exists()
  assert "are negative, positive (id2label in" in refused.log
  trained = classify("--do_train", output_dir=out, **flags)
  assert trained.status == 0
  assert "a fresh head is trained" in trained.log
  assert "start fresh: output_weights, output_bias (left out)" in trained.log
  assert classify("--do_eval", output_dir=out, **flags).status == 0


def refuse(classify, flags, weights, folder, **changes):
  """The last line of an evaluation in a new folder, which must fail."""
  flags = {**flags, "init_checkpoint": weights, **changes}
  outcome = classify("--do_eval", output_dir=folder, **flags)
  assert outcome.status == 1 and not folder.exists()
  return outcome.log.splitlines()[-1]


def test_own_weights_are_used_as_they_were_trained(
  classify, flags, trained, golden_task, tmp_path, monkeypatch
):
  new, weights = tmp_path / "new", trained / "model.ckpt-13"
  line = refuse(classify, flags, weights, new, do_lower_case=False)
  assert "run_manifest.json, where do_lower_case is True" in line
  tokens = Path(golden_task, "vocab.txt").read_text().splitlines()
  (tmp_path / "vocab.txt").write_text(
    "\n".join([*tokens[:-2], *tokens[:-3:-1]])
  )
  other = tmp_path / "vocab.txt"
  line = refuse(classify, flags, weights, new, vocab_file=other)
  assert "was trained with another vocabulary" in line
  config = json.loads(flags["bert_config_file"].read_text())
  config["num_attention_heads"] //= 2
  (tmp_path / "config.json").write_text(json.dumps(config))
  other = tmp_path / "config.json"
  line = refuse(classify, flags, weights, new, bert_config_file=other)
  assert "was trained with num_attention_heads" in line

  class Swapped(catalogue.MrpcProcessor):
    labels = ("1", "0")

  monkeypatch.setitem(catalogue.PROCESSORS, "mrpc", Swapped)
  line = refuse(classify, flags, weights, new)
  assert "labels ['0', '1'], not ['1', '0']" in line and "--do_train" in line


def test_own_weights_take_another_length(classify, flags, trained, tmp_path):
  longer = {**flags, "max_seq_length": 30}
  outcome, results = evaluate(
    classify, longer, tmp_path / "new", trained / "model.ckpt-13"
  )
  assert outcome.status == 0 and 0 <= results["eval_accuracy"] <= 1


def test_a_config_of_theirs_means_what_the_weights_were_trained_with(
  classify, golden_task, tmp_path
):
  folder = write_hugging_face(golden_task, tmp_path / "hf", hidden_act="gelu")
  flags = dict(vocab_file=None, train_batch_size=32)
  out, new = tmp_path / "out", tmp_path / "new"
  done = classify(
    "--do_train", "--do_eval", output_dir=out, init_checkpoint=folder, **flags
  )
  assert done.status == 0
  flags.update(init_checkpoint=out, bert_config_file=folder / "config.json")
  assert classify("--do_eval", output_dir=new, **flags).status == 0
  before = read_results(out / "eval_results.txt")["eval_loss"]
  after = read_results(new / "eval_results.txt")["eval_loss"]
  assert after == pytest.approx(before, abs=1e-6)


# --- tokenizer files --------------------------------------------------------


def test_a_folder_with_tokenizer_json_alone_gives_the_golden_results(
  classify, golden_task, tmp_path
):
  folder = write_hugging_face(golden_task, tmp_path / "hf")
  tokens = (folder / "vocab.txt").read_text().splitlines()
  (folder / "vocab.txt").unlink()
  vocab = {token: number for number, token in enumerate(tokens)}
  values = {"model": {"type": "WordPiece", "vocab": vocab}}
  (folder / "tokenizer.json").write_text(json.dumps(values))
  flags = dict(init_checkpoint=folder, vocab_file=None)
  done = classify("--do_eval", output_dir=tmp_path / "out", **flags)
  assert done.status == 0, done.log
  check_golden_results(golden_task, tmp_path / "out")


def test_tokenizer_settings_of_the_folder_stay_those_of_the_model(
  classify, golden_task, tmp_path
):
  folder = write_hugging_face(golden_task, tmp_path / "hf")
  settings = {"do_lower_case": False, "strip_accents": True}
  (folder / "tokenizer_config.json").write_text(json.dumps(settings))
  flags = dict(init_checkpoint=folder, vocab_file=None, train_batch_size=32)
  out = tmp_path / "out"
  refused = classify(
    "--do_train", "--do_lower_case=True", output_dir=out, **flags
  )
  assert refused.status == 1
  assert "tokenizer_config.json, where do_lower_case is False" in refused.log
  assert classify("--do_train", output_dir=out, **flags).status == 0
  manifest = json.loads((out / "run_manifest.json").read_text())
  model = manifest["settings"]["model"]
  assert not model["do_lower_case"] and model["strip_accents"] is True
  flags["init_checkpoint"] = None
  assert classify("--do_eval", output_dir=out, **flags).status == 0
  refused = classify(
    "--do_eval", "--do_lower_case=True", output_dir=out, **flags
  )
  assert "do_lower_case was False and is True" in refused.log
