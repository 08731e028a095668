"""Training choices: each against NumPy, all together, and off."""

import collections
import json
import os
import shutil

from conftest import read_checkpoint, read_records, small_config, write_text
import numpy as np
import pytest
from sklearn.utils.class_weight import (
  compute_class_weight,
  compute_sample_weight,
)
import tensorflow.compat.v1 as tf

from bert_classifier import (
  choices,
  class_weights,
  device_choice,
  fast_optimization,
  features,
  history,
  run_settings,
  targets,
  tasks,
  training_loss,
  training_step,
  truncation,
)
from bert_classifier.catalogue import MrpcProcessor
from bert_classifier.choice_options import ChoiceOptions
from bert_classifier.coverage import Coverage, compute_shapes
from bert_classifier.errors import UserError
from bert_classifier.examples import InputExample
from bert_classifier.graph_tokenization import TextEncoder
from bert_classifier.options import DeviceOptions
import modeling
import optimization

# ---------------------------------------------------------------------------
# The optimizer

# Heights above the embeddings in a model of two layers, and whether it decays.
VARIABLES = {
  "bert/embeddings/word_embeddings": (0, True),
  "bert/encoder/layer_0/output/dense/kernel": (1, True),
  "bert/encoder/layer_1/output/LayerNorm/gamma": (2, False),
  "bert/pooler/dense/kernel": (3, True),
  "output_bias": (3, False),
}
RATE, STEPS = 0.1, 4


def adamw(value, gradients, rate, decay, epsilon):
  """Returns what Adam with the correction of Kingma and Ba makes of a value.

  By their last formula of section 2, and decay as of Loshchilov and Hutter.
  """
  m = v = np.zeros_like(value)
  for t, gradient in enumerate(gradients, 1):
    m = 0.9 * m + 0.1 * gradient
    v = 0.999 * v + 0.001 * gradient**2
    alpha = rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    value = value - alpha * m / (np.sqrt(v) + epsilon) - rate * decay * value
  return value


@pytest.mark.parametrize(
  "optimizer_class",
  [
    optimization.AdamWeightDecayOptimizer,
    fast_optimization.FusedAdamWeightDecayOptimizer,
  ],
)
def test_rates_decay_epsilon_and_correction_equal_numpy(graph, optimizer_class):
  tf.enable_resource_variables()
  options = ChoiceOptions(
    freeze_layers=0,
    layerwise_lr_decay=0.5,
    bias_correction=True,
    weight_decay=0.2,
    adam_epsilon=0.03,
  )
  numbers = np.random.RandomState(4)
  starts = numbers.normal(size=[len(VARIABLES), 3])
  gradients = numbers.normal(size=[STEPS, len(VARIABLES), 3])
  variables = [
    tf.get_variable(name, initializer=tf.constant(start, tf.float32))
    for name, start in zip(VARIABLES, starts)
  ]
  step, given = tf.placeholder(tf.int64, []), tf.placeholder(tf.float32)
  changes = choices.Choices(options).optimizer_changes(2, lambda: step)
  optimizer = optimization.make_optimizer(RATE, optimizer_class, **changes)
  loss = sum(
    tf.reduce_sum(variable * given[i]) for i, variable in enumerate(variables)
  )
  update = optimizer.apply_gradients(optimizer.compute_gradients(loss))
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    for number, gradient in enumerate(gradients):
      session.run(update, {step: number, given: gradient})
    found = session.run({v.name[:-2]: v for v in tf.global_variables()})
  for i, (name, (height, decays)) in enumerate(VARIABLES.items()):
    rate = 0 if height == 0 else RATE * 0.5 ** (3 - height)
    expected = adamw(
      starts[i], gradients[:, i], rate, 0.2 if decays else 0, 0.03
    )
    np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-5)
    assert (f"{name}/adam_m" in found) == (height > 0)


def test_the_default_choices_change_nothing_of_the_optimizer():
  default = choices.Choices()
  assert default.optimizer_changes(12, None) == {}
  target = targets.OneClass(["a", "b"])
  assert default.loss(target) == target.per_example_loss


@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize("shape", ["cosine", "constant"])
def test_rate_after_warmup_equals_numpy(run, shape, warmup):
  steps = np.arange(12)
  rate = optimization.learning_rate_schedule(2.0, 10, warmup, steps, shape)
  share = np.clip((steps - warmup) / (10 - warmup), 0, 1)
  down = 1 + np.cos(np.pi * share) if shape == "cosine" else 2 + 0 * share
  expected = np.where(steps < warmup, 2 * steps / max(warmup, 1), down)
  np.testing.assert_allclose(run(rate), expected, rtol=0, atol=1e-6)


# ---------------------------------------------------------------------------
# The loss


def softmax(logits):
  return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


@pytest.mark.parametrize("weights", [None, [0.5, 3.0, 1.0]])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_loss_of_one_class_equals_numpy(run, smoothing, weights):
  logits = np.random.RandomState(1).normal(size=[5, 3]).astype("f")
  labels = np.array([0, 1, 2, 1, 1])
  found = training_loss.choose_loss(
    targets.OneClass("abc"), smoothing, weights and np.float32(weights)
  )(tf.constant(logits), {"label_ids": tf.constant(labels)})
  wanted = (1 - smoothing) * np.eye(3)[labels] + smoothing / 3
  expected = -(wanted * np.log(softmax(np.float64(logits)))).sum(-1)
  expected *= np.array(weights or [1, 1, 1])[labels]
  np.testing.assert_allclose(run(found), expected, rtol=1e-5)


@pytest.mark.parametrize("weights", [None, [[0.5, 3.0], [1.0, 2.0]]])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_loss_of_several_classes_equals_numpy(run, smoothing, weights):
  logits = np.random.RandomState(1).normal(size=[4, 2]).astype("f")
  labels = np.array([[0, 1], [1, 1], [0, 0], [1, 0]])
  found = training_loss.choose_loss(
    targets.SeveralClasses("ab"), smoothing, weights and np.float32(weights)
  )(tf.constant(logits), {"label_vector": tf.constant(labels, tf.float32)})
  holds = 1 / (1 + np.exp(-np.float64(logits)))
  wanted = labels * (1 - smoothing) + smoothing / 2
  losses = -(wanted * np.log(holds) + (1 - wanted) * np.log(1 - holds))
  by_place = np.array(weights or [[1, 1], [1, 1]])
  losses *= [[by_place[i, label[i]] for i in (0, 1)] for label in labels]
  np.testing.assert_allclose(run(found), losses.mean(-1), rtol=1e-5)


def test_weighted_losses_of_the_parts_have_the_mean_of_the_whole(graph):
  config = small_config(
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
  )
  model = modeling.BertForSequenceClassification(config, 2, head_dropout=0.0)
  batch = {
    "input_ids": tf.constant([[1, 2], [3, 4], [5, 6], [7, 8]]),
    "input_mask": tf.ones([4, 2], tf.int32),
    "segment_ids": tf.zeros([4, 2], tf.int32),
    "label_ids": tf.constant([0, 0, 0, 1]),
  }
  loss = training_loss.choose_loss(
    targets.OneClass("ab"), 0.1, np.float32([0.2, 5.0])
  )

  key = modeling.dropout_key(0, tf.constant(0, tf.int64), 0)
  placement = device_choice.make_placement(DeviceOptions())

  def compute(number, parts):
    with tf.variable_scope("", reuse=tf.AUTO_REUSE):
      return training_step.compute_loss(
        model, loss, placement, batch, key, number, parts
      )

  losses = [compute(0, 1), compute(0, 2), compute(1, 2)]
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    whole, *parts = session.run(losses)
  assert whole == pytest.approx(np.mean(parts), rel=1e-5)
  assert parts[0] != pytest.approx(parts[1], rel=0.1)


def examples_with(*labels):
  return [
    InputExample(f"train-{n}", "a", None, x) for n, x in enumerate(labels)
  ]


def test_balanced_weights_equal_those_of_scikit_learn():
  labels = np.array(list("aaaaabbccc"))
  found = class_weights.make_weights(
    "balanced", targets.OneClass("abc"), examples_with(*labels)
  )
  expected = compute_class_weight(
    "balanced", classes=np.array(list("abc")), y=labels
  )
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_balanced_weights_of_several_labels_are_those_of_each_alone():
  given = ["a|b", "a", "a", "b|c", "a", "", "c", "a"]
  found = class_weights.make_weights(
    "balanced", targets.SeveralClasses("abc"), examples_with(*given)
  )
  for label, weights in zip("abc", found):
    expected = compute_class_weight(
      "balanced",
      classes=np.array([False, True]),
      y=np.array([label in one for one in given]),
    )
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


@pytest.mark.parametrize("text", ["b=6,a=2", '{"a": 2, "b": 6}', " a=1, b=3"])
def test_given_weights_keep_their_proportions_and_have_the_mean_1(text):
  labels = list("aaab")
  target = targets.OneClass("abc")
  found = class_weights.make_weights(text, target, examples_with(*labels))
  assert found[1] / found[0] == pytest.approx(3)
  assert np.mean([found["abc".index(x)] for x in labels]) == pytest.approx(1)


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("d=1", "'d' is none of the labels 'a', 'b'"),
    ("a=-1", "the weight '-1' of 'a' is not a finite number over 0"),
    ("a=nan", "is not a finite number"),
    ('{"a": "many"}', "the weight 'many' of 'a'"),
    ("{", "no JSON object"),
    ("balance", "'balance' is no LABEL=WEIGHT"),
    ("a=1,", "'' is no LABEL=WEIGHT"),
  ],
)
def test_weights_that_cannot_be_read_are_refused(text, words):
  with pytest.raises(UserError, match="Give balanced, or weights") as error:
    class_weights.parse(text, ["a", "b"])
  assert words in str(error.value)


# ---------------------------------------------------------------------------
# Layers


def test_reinit_layers_leaves_out_pooler_and_top_layers():
  names = compute_shapes(small_config(num_hidden_layers=3), 2)
  coverage = Coverage(None, tuple(names), (), (), ())
  fresh = choices.list_fresh(names, 3, ChoiceOptions(reinit_layers=1))
  left = coverage.leave_out(fresh)
  top = {name for name in names if "/layer_2/" in name}
  pooler = {"bert/pooler/dense/kernel", "bert/pooler/dense/bias"}
  assert len(top) == 16 and set(left.fresh) == top | pooler
  assert set(left.loaded) == set(names) - top - pooler
  alone = choices.list_fresh(names, 3, ChoiceOptions(reinit_layers=0))
  assert set(alone) == pooler
  assert choices.list_fresh(names, 3, ChoiceOptions()) == []


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    ({"freeze_layers": 4}, "--freeze_layers=4, but the model has 3 layers"),
    ({"reinit_layers": 4}, "--reinit_layers=4, but the model has 3 layers"),
    ({"freeze_layers": 2, "reinit_layers": 2}, "have layers in common"),
  ],
)
def test_layers_that_the_model_lacks_are_refused(flags, words):
  with pytest.raises(UserError, match=words):
    ChoiceOptions(**flags).check_layers(3, "bert_config.json")


def test_frozen_layers_must_be_trained_and_stay_frozen():
  with pytest.raises(UserError, match="but these are random"):
    ChoiceOptions(freeze_layers=1).check_weights(are_random=True)
  with pytest.raises(UserError, match="no moments of Adam"):
    ChoiceOptions().check_resumed({"freeze_layers": 1}, "out")
  ChoiceOptions(freeze_layers=2).check_resumed({"freeze_layers": 1}, "out")
  ChoiceOptions(freeze_layers=2).check_resumed({}, "out")


def test_a_choice_differs_from_a_training_that_knew_none():
  before = {"training": {"seed": 42}, "model": {"max_seq_length": 8}}
  now = {"training": {"label_smoothing": 0.1}, "model": {"truncation": "tail"}}
  found = run_settings.compare_settings(before, now)
  assert [(one.name, one.old) for one in found] == [
    ("label_smoothing", 0.0),
    ("truncation", "head"),
  ]
  default = {"training": {"label_smoothing": 0.0}}
  assert not run_settings.compare_settings(before, default)


# ---------------------------------------------------------------------------
# Examples


@pytest.mark.parametrize("second", [[], [21, 22], list(range(20, 30))])
@pytest.mark.parametrize("length", [5, 6, 9, 14])
def test_truncation_keeps_as_many_tokens_at_other_ends(second, length):
  first = list(range(1, 12))
  head = truncation.truncate(first, second, length)
  tail = truncation.truncate(first, second, length, "tail")
  both = truncation.truncate(first, second, length, "head_tail")
  for whole, start, end, mixed in zip((first, second), head, tail, both):
    kept = len(start)
    assert start == whole[:kept]
    assert end == whole[::-1][:kept][::-1]
    of_head = kept if kept == len(whole) else kept * 128 // 510
    assert mixed == whole[:of_head] + whole[len(whole) - kept + of_head :]


def test_an_exported_graph_cuts_texts_as_the_converter_does(tokenizer, graph):
  words = ["fb", "alk", "bb", "dvf", "ch", "ev", "bla"]
  texts = [" ".join(words[:n]) for n in range(8)]
  pairs = [(a, b) for a in texts[1:] for b in texts]
  first, second = map(tf.constant, zip(*pairs))
  found, expected = [], []
  for kept in ("tail", "head_tail"):
    encoder = TextEncoder(tokenizer, 9, kept)
    found.append(encoder(first, second))
    converter = features.Converter(features.ONE_CLASS, 9, tokenizer, kept)
    expected.append(
      [converter(InputExample("", a, b, None)).as_dict() for a, b in pairs]
    )
  with tf.Session(graph=graph) as session:
    found = session.run(found)
  for made, wanted in zip(found, expected):
    for name, values in made.items():
      np.testing.assert_array_equal(values, [one[name] for one in wanted])


def test_head_tail_is_that_of_the_paper_at_512_positions():
  kept, _ = truncation.truncate(list(range(1000)), [], 512, "head_tail")
  assert kept == [*range(128), *range(1000 - 382, 1000)]


def test_examples_are_drawn_at_random_and_fewer_are_among_more():
  few, more = tasks.draw(1000, 100), tasks.draw(1000, 300)
  assert len(few) == 100 and len(more) == 300 and few < more
  tenths = collections.Counter(number // 100 for number in few)
  assert max(tenths.values()) < 25 and len(tenths) == 10
  assert tasks.draw(5, 10) == set(range(5))


def test_drawn_examples_are_those_that_are_converted(golden_task):
  folder = f"{golden_task}/data"
  every = list(tasks.TaskData(MrpcProcessor(), folder).examples("train"))
  data = tasks.TaskData(MrpcProcessor(), folder, max_train_examples=9)
  drawn = [example.guid for example in data.examples("train")]
  assert data.count("train") == len(drawn) == 9
  numbers = tasks.draw(len(every), 9)
  assert drawn == [every[number].guid for number in sorted(numbers)]
  assert data.count("dev") == len(list(data.examples("dev"))) > 9


# ---------------------------------------------------------------------------
# The whole script


def test_the_loss_of_a_training_has_weights_and_smoothing_by_numpy(
  classify, small_model, tmp_path
):
  """Of one batch of all examples, by the probabilities that it begins with."""
  labels = [0, 0, 0, 1, 0, 0, 0, 0, 1, 0]
  rows = [f"{'abcdefghij'[i]} b,{'xy'[y]}" for i, y in enumerate(labels)]
  path = write_text(tmp_path / "own.csv", "\n".join(["text,label", *rows]))
  folder = small_model["init_checkpoint"]
  config = json.loads((folder / "bert_config.json").read_text())
  config["hidden_dropout_prob"] = config["attention_probs_dropout_prob"] = 0.0
  flags = dict(
    task_name=None,
    data_dir=None,
    bert_config_file=write_text(tmp_path / "c.json", json.dumps(config)),
    init_checkpoint=folder,
    train_file=path,
    test_file=path,
    head_dropout=0,
    train_batch_size=len(rows),
    num_train_epochs=1,
    learning_rate=1e-20,
    label_smoothing=0.3,
    class_weights="balanced",
    cache_dir=tmp_path,
    output_dir=tmp_path / "out",
  )
  done = classify("--do_train", "--do_predict", **flags)
  assert done.status == 0, done.log
  (first,) = history.read(str(tmp_path / "out" / "history.jsonl"))
  shown = np.loadtxt(tmp_path / "out" / "test_results.tsv")
  wanted = 0.7 * np.eye(2)[labels] + 0.3 / 2
  losses = -(wanted * np.log(shown)).sum(-1)
  weighted = losses * compute_sample_weight("balanced", labels)
  assert first["loss"] == pytest.approx(weighted.mean(), rel=1e-5)
  assert abs(weighted.mean() / losses.mean() - 1) > 1e-3


CHOICES = dict(
  class_weights="balanced",
  label_smoothing=0.1,
  freeze_layers=0,
  layerwise_lr_decay=0.5,
  bias_correction=True,
  reinit_layers=0,
  weight_decay=0.1,
  adam_epsilon=1e-5,
  lr_schedule="cosine",
  truncation="head_tail",
  max_train_examples=24,
  gradient_accumulation_steps=2,
)


@pytest.fixture(scope="module")
def trained(classify, training, tmp_path_factory):
  """Returns the folder of a training with every choice, and its flags."""
  folder = tmp_path_factory.mktemp("choices") / "whole"
  flags = {**training, **CHOICES, "max_seq_length": 12}
  flags["save_checkpoints_steps"] = 1
  done = classify(**flags, output_dir=folder, keep_checkpoint_max=0)
  assert done.status == 0, done.log
  return folder, flags, done.log


def test_every_choice_together_trains_what_it_says(
  trained, small_model, classify
):
  folder, _, log = trained
  assert "--max_train_examples=24: 24 of" in log
  before = read_checkpoint(small_model["init_checkpoint"] / "bert_model.ckpt")
  after = read_checkpoint(folder)
  for name in before.keys() & after.keys():
    is_frozen = "/embeddings/" in name
    assert (f"{name}/adam_m" in after) != is_frozen, name
    moved = np.abs(after[name] - before[name]).max()
    # 9 steps of 1e-3 at most, less far down; the pooler began elsewhere.
    if name == "bert/pooler/dense/kernel":
      assert moved > 0.1
    elif is_frozen:
      assert moved == 0, name
    else:
      assert 0 < moved < 0.03, name
  (records,) = classify.defaults["cache_dir"].glob("cached_train_12_*record")
  assert len(read_records(str(records))) == 24


def read_step(folder, step):
  """Returns the variables after a step, in float64."""
  found = read_checkpoint(folder / f"model.ckpt-{step}")
  return {name: np.float64(value) for name, value in found.items()}


def test_each_step_of_the_whole_script_equals_numpy(trained):
  """The gradients are those that the moments tell of."""
  folder, _, _ = trained
  rates = {
    one["step"]: one["learning_rate"]
    for one in history.read(str(folder / "history.jsonl"))
  }
  before = read_step(folder, 1)
  for step in range(2, 10):
    after = read_step(folder, step)
    rate = 1e-3 * (1 + np.cos(np.pi * (step - 1) / 9)) / 2
    assert rates[step] == pytest.approx(rate, rel=1e-5)
    alpha = rate * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
    for name in before:
      if f"{name}/adam_m" not in before:
        continue
      m, v = (after[f"{name}/adam_{slot}"] for slot in "mv")
      gradient = (m - 0.9 * before[f"{name}/adam_m"]) / 0.1
      expected = 0.999 * before[f"{name}/adam_v"] + 0.001 * gradient**2
      np.testing.assert_allclose(v, expected, rtol=1e-3, atol=1e-12)
      factor = 0.5 if "/layer_0/" in name else 1
      decay = 0 if "LayerNorm" in name or "bias" in name else 0.1
      move = alpha * m / (np.sqrt(v) + 1e-5) + rate * decay * before[name]
      np.testing.assert_allclose(
        after[name], before[name] - factor * move, rtol=2e-7, atol=2e-9
      )
    before = after


def test_a_resumed_training_with_every_choice_is_the_same(
  trained, classify, tmp_path
):
  folder, flags, _ = trained
  for path in folder.iterdir():
    if path.is_file() and "ckpt-9" not in path.name:
      shutil.copy(path, tmp_path)
  (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-4"')
  # The flags that are not given are those of the manifest.
  given = {name: flags[name] for name in flags if name not in CHOICES}
  done = classify(
    **{**given, "max_seq_length": None},
    gradient_accumulation_steps=2,
    output_dir=tmp_path,
  )
  assert done.status == 0, done.log
  assert "--truncation=head_tail" in done.log
  whole, resumed = read_checkpoint(folder), read_checkpoint(tmp_path)
  assert whole.keys() == resumed.keys() and whole["global_step"] == 9
  for name, value in whole.items():
    np.testing.assert_array_equal(resumed[name], value, err_msg=name)


def test_weights_from_elsewhere_bring_their_truncation(
  trained, classify, tmp_path
):
  folder, _, _ = trained
  done = classify(
    max_seq_length=None,
    vocab_file=None,
    init_checkpoint=folder,
    do_predict=True,
    output_dir=tmp_path,
  )
  assert done.status == 0, done.log
  assert "--truncation=head_tail, with which" in done.log
  assert os.path.exists(tmp_path / "test_results.tsv")


@pytest.mark.parametrize("flag", ["class_weights", "label_smoothing"])
def test_choices_for_classes_are_refused_of_a_number(flag):
  options = ChoiceOptions(**{flag: 0.5})
  with pytest.raises(UserError, match=f"--{flag}=0.5 is for labels that are"):
    options.check_target(False, "sts-b")
  options.check_target(True, "cola")
