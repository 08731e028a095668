"""Which weights are used where several are named, and what they mean."""

import json
from pathlib import Path
import shutil
import types

from conftest import (
  read_checkpoint,
  read_results,
  write_checkpoint,
  write_hugging_face,
)
import numpy as np
import pytest

from bert_classifier import (
  catalogue,
  checkpoints,
  companions,
  files,
  model_files,
  options,
  task_choice,
)
from bert_classifier.errors import UserError
import modeling


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
  """Returns a folder with all checkpoints of a training: 0, 4, 8, 12, 13."""
  out = tmp_path_factory.mktemp("trained") / "out"
  done = classify("--do_train", output_dir=out, keep_checkpoint_max=0, **flags)
  assert done.status == 0, done.log
  return out


@pytest.fixture
def out(trained, tmp_path):
  """Returns a copy of that folder."""
  return Path(shutil.copytree(trained, tmp_path / "out"))


def evaluate(classify, flags, out, init_checkpoint):
  """Returns outcome and results of an evaluation with the weights named."""
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
  assert "are 'negative', 'positive' (id2label in" in refused.log
  trained = classify("--do_train", output_dir=out, **flags)
  assert trained.status == 0
  assert "a fresh head is trained" in trained.log
  assert "start fresh: output_weights, output_bias (left out)" in trained.log
  assert classify("--do_eval", output_dir=out, **flags).status == 0


def refuse(classify, flags, weights, folder, **changes):
  """Returns the last line of an evaluation in a new folder, which must fail."""
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


# --- lengths, names ---------------------------------------------------------


@pytest.mark.parametrize(
  "given, trained, sentence",
  [
    ({"max_seq_length"}, {}, "--max_seq_length=128 is more than the max_posi"),
    ((), {}, "128, its default, is more.*give --max_seq_length=40 or less"),
    ((), {"max_seq_length": 24}, "give --max_seq_length=24, with which it was"),
  ],
)
def test_a_length_over_the_positions_names_one_that_fits(
  given, trained, sentence
):
  config = modeling.BertConfig(9, max_position_embeddings=40)
  asked = options.ModelOptions(max_seq_length=128)
  with pytest.raises(UserError, match=sentence):
    model_files.check_length(asked, given, config, "a.json", trained)


@pytest.fixture
def model(golden_task, tmp_path):
  """Returns a copy of golden model, configuration and vocabulary, to spoil."""
  folder = shutil.copytree(f"{golden_task}/checkpoint", tmp_path / "model")
  shutil.copy(f"{golden_task}/vocab.txt", folder)
  return Path(folder)


def refuse_model(folder, **flags):
  """Returns why the model in a folder is not opened."""
  asked = options.ModelOptions(
    **{"init_checkpoint": str(folder), "max_seq_length": 24, **flags}
  )
  processor = catalogue.MrpcProcessor()
  task = task_choice.Task("mrpc", processor, processor.get_target(), (), None)
  with pytest.raises(UserError) as error:
    model_files.open_model(asked, str(folder / "none"), task)
  return str(error.value)


def test_of_several_configurations_the_user_says_which(model):
  config = model / "bert_config.json"
  for name in ("bert_config_large.json", "bert_config_base.json"):
    shutil.copy(config, model / name)
  config.unlink()
  said = refuse_model(model)
  assert "--bert_config_file is needed: beside" in said
  assert "bert_config_base.json, " in said and "bert_config_large.json" in said


def test_another_architecture_is_named_before_its_vocabulary_is_missed(model):
  (model / "vocab.txt").unlink()
  change_config(model, model_type="roberta")
  assert "model_type is 'roberta'" in refuse_model(model)


@pytest.mark.parametrize("flag", ["vocab_file", "bert_config_file"])
def test_a_folder_in_the_place_of_a_file_is_called_so(model, flag):
  said = refuse_model(model, **{flag: str(model)})
  assert str(model) in said and "a folder" in said


@pytest.fixture
def own_model(model):
  """Returns the same as a run leaves it: checkpoint of step 7 and manifest."""
  for path in model.glob("bert_model.ckpt.*"):
    path.rename(model / path.name.replace("bert_model.ckpt", "model.ckpt-7"))
  path = model / "checkpoint"
  path.write_text('model_checkpoint_path: "model.ckpt-7"')
  config = modeling.BertConfig.from_json_file(str(model / "bert_config.json"))
  settings = {
    "vocabulary (SHA-256)": files.hash_file(str(model / "vocab.txt")),
    **config.architecture(),
  }
  written = {"settings": {"model": settings}}
  (model / "run_manifest.json").write_text(json.dumps(written))
  return model


@pytest.mark.parametrize("end", [b"\r\n", b"Dog\nCat\nTree\nHouse\nRiver\n"])
def test_a_vocabulary_that_was_changed_after_training_is_named(own_model, end):
  path = own_model / "vocab.txt"
  path.write_bytes(path.read_bytes() + end)
  said = refuse_model(own_model)
  assert said.startswith(f"{path} is not the vocabulary that the model in ")
  assert "Restore it, or give the right one as --vocab_file" in said


def test_a_configuration_that_was_changed_after_training_is_named(own_model):
  layers = change_config(own_model, num_hidden_layers=12)
  said = refuse_model(own_model)
  assert said.startswith(f"{own_model}/bert_config.json has num_hidden_layers")
  assert f"12, but the model in {own_model} was trained with {layers}" in said


def test_a_changed_copy_is_no_matter_where_the_right_file_is_given(own_model):
  config = shutil.copy(own_model / "bert_config.json", own_model.parent)
  change_config(own_model, num_hidden_layers=12)
  asked = options.ModelOptions(
    init_checkpoint=str(own_model),
    bert_config_file=str(config),
    max_seq_length=24,
  )
  processor = catalogue.MrpcProcessor()
  task = task_choice.Task("mrpc", processor, processor.get_target(), (), None)
  opened = model_files.open_model(asked, str(own_model / "none"), task)
  assert opened.config_file == str(config)


def test_a_model_of_hugging_face_is_no_output_dir(tmp_path):
  (tmp_path / "model.safetensors").write_text("")
  processor = catalogue.MrpcProcessor()
  task = task_choice.Task("mrpc", processor, processor.get_target(), (), None)
  with pytest.raises(UserError) as error:
    model_files.open_model(options.ModelOptions(), str(tmp_path), task)
  assert f"--init_checkpoint={tmp_path}, and another" in str(error.value)


def test_a_vocabulary_of_the_other_casing_is_named(model):
  path = model / "vocab.txt"
  path.write_text(path.read_text() + "Dog\nCat\nTree\nHouse\nRiver\n")
  change_config(model, vocab_size=300)
  assert refuse_model(model).startswith(f"{path}: the vocabulary is cased")


def change_config(model, **changes):
  path = model / "bert_config.json"
  before = json.loads(path.read_text())
  path.write_text(json.dumps({**before, **changes}))
  return before.get(next(iter(changes)))


def test_other_files_than_those_beside_the_weights_are_warned_of(
  model, tmp_path, caplog
):
  weights = checkpoints.open_checkpoint(model)
  beside = model / "bert_config.json", model / "vocab.txt"
  given = tmp_path / "config.json", tmp_path / "words"
  for source, copy in zip(beside, given):
    shutil.copy(source, copy)

  def warn(**changes):
    values = {**json.loads(beside[0].read_text()), **changes}
    digest = files.hash_file(str(given[1]))
    asked = options.ModelOptions(
      bert_config_file=str(given[0]), vocab_file=str(given[1])
    )
    model_files.warn_of_others(
      asked, weights, modeling.BertConfig.from_dict(values), digest
    )
    return [record.getMessage() for record in caplog.records]

  assert warn(hidden_dropout_prob=0.5) == []
  lines = given[1].read_text().splitlines()
  given[1].write_text("\n".join([*lines[:-2], lines[-1], lines[-2]]))
  of_config, of_vocabulary = warn(num_attention_heads=1)
  heads = modeling.BertConfig.from_json_file(str(beside[0])).num_attention_heads
  assert f"{given[0]} is another configuration than {beside[0]}" in of_config
  assert f"num_attention_heads 1 where that has {heads}." in of_config
  assert f"{given[1]} is another vocabulary than {beside[1]}" in of_vocabulary


def test_a_trained_model_keeps_its_layer_norm_eps(model):
  vocab = str(model / "vocab.txt")
  config = modeling.BertConfig(211, layer_norm_eps=1e-5)
  weights = types.SimpleNamespace(path="model.ckpt-7")
  other = {"layer_norm_eps": 1e-12}
  with pytest.raises(UserError, match="with layer_norm_eps 1e-12, but"):
    companions.check_manifest(other, weights, "", vocab, config, "a.json")
  same = config.architecture()
  companions.check_manifest(same, weights, "", vocab, config, "a.json")


def test_a_folder_with_weights_in_half_precision_is_not_gone_on_with(
  classify, model, tmp_path
):
  path = model / "bert_model.ckpt"
  halves = {n: v.astype(np.float16) for n, v in read_checkpoint(path).items()}
  for file in model.glob("bert_model*"):
    file.unlink()
  write_checkpoint(model / "model.ckpt-0", halves)
  (model / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-0"')
  flags = dict(output_dir=model, init_checkpoint=None)
  refused = classify("--do_eval", **flags)
  assert refused.status == 1 and "give it as --init_checkpoint" in refused.log
  flags = dict(output_dir=tmp_path / "out", init_checkpoint=model)
  assert classify("--do_eval", **flags).status == 0
