"""Targets: one class of L, and a kind that only this test knows."""

import collections
import json
import re

from conftest import read_results, read_table
import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as skm
import tensorflow.compat.v1 as tf

from bert_classifier import catalogue, metrics, targets
from bert_classifier.errors import UserError
from bert_classifier.table_files import Table

LABELS = ("no", "yes", "perhaps")


def test_one_class_is_encoded_by_its_place():
  target = targets.OneClass(LABELS)
  assert target.width == 3
  assert [target.encode(label) for label in LABELS] == [0, 1, 2]
  assert target.encode(None) == 0
  with pytest.raises(ValueError, match="'maybe' is not one of 'no', 'yes', 'p"):
    target.encode("maybe")


def test_classes_are_counted_by_their_names():
  target = targets.OneClass(LABELS)
  counts = target.count_classes(np.array([2, 0, 2, 2]))
  assert counts == {"no": 1, "perhaps": 3}
  probabilities = np.float32([0.1, 0.7, 0.2])
  assert target.predicted_label({"probabilities": probabilities}) == "yes"


@pytest.mark.parametrize(
  "labels", [("a", "a"), ("a", "b", "a"), ("a",), (), ("a", None), (0.5, 1)]
)
def test_labels_are_two_or_more_different_strings(labels):
  with pytest.raises(UserError, match="labels of Mine .* different strings"):
    targets.OneClass(labels).check("Mine")
  targets.OneClass(("a", "b")).check("Mine")


@pytest.mark.parametrize(
  "labels", [(0, 1), np.array([0, 1]), np.array(["0", "1"]), [b"0", b"1"]]
)
def test_labels_that_plainly_are_text_are_taken_for_it(labels):
  target = targets.OneClass(labels)
  target.check("Mine")
  assert target.settings() == {"labels": ["0", "1"]}
  assert [type(label) for label in target.labels] == [str, str]
  assert [target.encode(label) for label in labels] == [0, 1]
  with pytest.raises(
    ValueError, match=r"label 1.0 \(float\) is not one of '0'"
  ):
    target.encode(1.0)
  with pytest.raises(ValueError, match=r"label \['0'\] \(list\) is not one"):
    target.encode(["0"])


@pytest.mark.parametrize(
  "label", ["1\n", "1\r\n", "\ufeff1", "1\xa0", "1\u200b", "\t1"]
)
def test_an_invisible_end_of_a_label_is_shown(label):
  with pytest.raises(UserError) as error:
    targets.OneClass(["0", label]).check("Mine")
  assert f"the label {label!r} of Mine begins or ends with" in str(error.value)
  with pytest.raises(ValueError) as error:
    targets.OneClass(["0", "1"]).encode(label)
  assert str(error.value) == f"the label {label!r} is not one of '0', '1'"


def test_of_many_labels_an_error_shows_ten():
  target = targets.OneClass(range(10000))
  with pytest.raises(ValueError) as error:
    target.encode("no")
  assert str(error.value).endswith("'9' and 9990 more (10000 in all)")


def test_the_loss_of_one_class_is_the_cross_entropy(run):
  logits = np.random.default_rng(3).normal(size=[5, 3])
  labels = np.array([0, 2, 1, 1, 0])
  target = targets.OneClass(LABELS)
  found, probabilities = run(
    [
      target.per_example_loss(
        tf.constant(logits), {"label_ids": tf.constant(labels)}
      ),
      target.outputs(tf.constant(logits))["probabilities"],
    ]
  )
  exponents = np.exp(logits)
  expected = exponents / exponents.sum(axis=1, keepdims=True)
  np.testing.assert_allclose(probabilities, expected, rtol=1e-12)
  expected = -np.log(expected[np.arange(5), labels])
  np.testing.assert_allclose(found, expected, rtol=1e-12)
  np.testing.assert_allclose(target.losses(logits, labels), expected, rtol=1e-6)
  np.testing.assert_array_equal(target.decide(logits), logits.argmax(axis=1))


@pytest.mark.parametrize(
  ("text", "holds"),
  [
    ("joy", [1, 0, 0]),
    (" joy | fear,anger ", [1, 0, 1]),
    ("love,joy", [1, 1, 0]),
    ("love|", [0, 1, 0]),
    ("joy|joy", [1, 0, 0]),
    (" fear,anger", [0, 0, 1]),
    ('["fear,anger", "joy"]', [1, 0, 1]),
    ("[]", [0, 0, 0]),
    ("", [0, 0, 0]),
    (" ", [0, 0, 0]),
    (None, [0, 0, 0]),
    (["love"], [0, 1, 0]),
    (("joy", "love"), [1, 1, 0]),
  ],
)
def test_several_classes_are_encoded_by_which_hold(text, holds):
  target = targets.SeveralClasses(("joy", "love", "fear,anger"))
  value = target.encode(text)
  assert value == tuple(holds)
  assert target.features(value) == {"label_vector": holds}
  # Predictions are written as they are read.
  assert target.encode(target.show_label(text)) == value


def test_labels_of_a_json_list_may_be_whole_numbers():
  assert targets.SeveralClasses("012").encode("[0, 2]") == (1, 0, 1)


def test_labels_with_a_bar_are_shown_as_a_json_list():
  target = targets.SeveralClasses(("a|b", "é"))
  assert target.show_label('["a|b", "é"]') == '["a|b", "é"]'
  assert target.encode("a|b") == (1, 0)
  assert target.show_label("unknown") == "unknown"


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("joy|hate", "'hate' is not one of 'joy', 'love'"),
    ("[joy, love]", "begins as a JSON list, but is none: Expecting value"),
    ("['joy']", "is none: Expecting .*; names in it must be in double quotes"),
    ('["joy", null]', "the list of labels has None, but must have na"),
    ("[[0]]", r"has \[0\] \(list\), but must"),
    ("[" * 100000, "begins as a JSON list, but is none"),
    (3.5, r"label is 3.5 \(float\), but must be text or a"),
  ],
)
def test_labels_that_are_no_list_of_names_are_told(text, said):
  with pytest.raises(ValueError, match=said):
    targets.SeveralClasses(("joy", "love")).encode(text)


@pytest.mark.parametrize(
  ("labels", "said"),
  [
    (("a", "a"), "labels of Mine are 'a', 'a', but must be two or more"),
    (("a",), "two or more different"),
    ((), "two or more different"),
    (("a", 0.5), "two or more different"),
    (("a", ""), "the label '' of Mine is empty, or has space"),
    (("a", " b"), "the label ' b' of Mine is empty, or has space"),
    (("a", "b\n"), "a character that nobody sees"),
  ],
)
def test_several_classes_are_two_or_more_names(labels, said):
  with pytest.raises(UserError, match=said):
    targets.SeveralClasses(labels).check("Mine")
  targets.SeveralClasses(("a", "b,c")).check("Mine")


def test_a_number_is_encoded_as_it_is():
  target = targets.Number()
  assert [target.encode(text) for text in ("2.5", " -3 ", "1e-3", 4, None)] == [
    *[2.5, -3.0, 0.001, 4.0, 0.0]
  ]
  assert target.features(2.5) == {"label_value": [2.5]}


@pytest.mark.parametrize(
  ("label", "said"),
  [
    ("positive", "'positive' is not a number, such as 2.5"),
    ("", "the label is missing"),
    ("2,5", "'2,5' is not a number.*; if its comma is a decimal one, write a"),
    ("1.000,5", "'1.000,5' is not a number.*; if its comma"),
    ([1], "is not a number"),
    ("nan", "'nan' is not a finite number"),
    ("-inf", "'-inf' is not a finite number"),
    ("1e39", "'1e39' is not a finite number of 32 bits"),
    (float("nan"), "nan is not a finite number"),
  ],
)
def test_a_label_that_is_no_number_is_told(label, said):
  with pytest.raises(ValueError, match=said):
    targets.Number().encode(label)


@pytest.mark.parametrize(
  ("labels", "label", "said"),
  [
    (("joy", "love"), "joy|love", "it names several, which --multi_label"),
    (("joy", "love"), '["joy", "love"]', "--multi_label reads"),
    (("joy", "love"), ["joy"], "--multi_label reads"),
    (("1", "2"), "1.5", "to predict a number give --regression"),
  ],
)
def test_a_label_of_another_kind_names_the_flag(labels, label, said):
  with pytest.raises(ValueError, match=f"is not one of .*{said}"):
    targets.OneClass(labels).encode(label)


@pytest.mark.parametrize(
  ("labels", "said"),
  [
    (("joy", "joy|love", "love"), "label 'joy.love' of Own looks like several"),
    (('["joy"]', '["joy", "love"]'), "looks like several labels"),
    (("0.5", "1.25", "3"), "all 3 labels of Own are numbers, such as 0.5"),
    (("0.0", "1.0"), None),
    (("politics, sports", "weather"), None),
  ],
)
def test_classes_that_look_like_another_kind_are_warned_of(info, labels, said):
  targets.OneClass(labels).check("Own")
  assert len(info.messages) == bool(said)
  assert not said or re.search(said, info.messages[0])


def test_another_separator_of_several_labels_is_warned_of(info):
  targets.SeveralClasses(["joy", "joy;love", "no;yes"]).check("Own")
  (said,) = info.messages
  assert "the label 'joy;love' of Own looks like several labels" in said


@pytest.mark.parametrize(
  ("target", "labels", "said"),
  [
    (
      targets.OneClass("ab"),
      "bbb",
      "all 3 training examples have the label 'b'",
    ),
    (targets.OneClass("ab"), "ab", None),
    (
      targets.SeveralClasses("ab"),
      "aab",
      "exactly one label: .* leave out --mu",
    ),
    (
      targets.SeveralClasses("abcd"),
      ["a,b", ""],
      "of the labels c, d there is",
    ),
    (targets.SeveralClasses("ab"), ["a,b", ""], None),
    (
      targets.Number(),
      ["2", "2.0"],
      "all 2 training examples have the number 2:",
    ),
    (targets.Number(), ["2", "3000"], "reach 3000, .* divide them"),
    (targets.Number(), ["2", "3"], None),
  ],
)
def test_a_training_set_is_doubted(target, labels, said):
  values = collections.Counter(map(target.encode, labels))
  found = target.doubt(values)
  assert (found is None) if said is None else re.search(said, found)


def test_the_loss_of_several_classes_is_that_of_the_golden_formula(run):
  logits = np.random.default_rng(3).normal(size=[5, 3]) * 3
  labels = np.float64(np.random.default_rng(4).random([5, 3]) < 0.5)
  target = targets.SeveralClasses(LABELS)
  features = {"label_vector": tf.constant(labels)}
  found, probabilities = run(
    [
      target.per_example_loss(tf.constant(logits), features),
      target.outputs(tf.constant(logits))["probabilities"],
    ]
  )
  holds = 1 / (1 + np.exp(-logits))
  expected = -np.log(np.where(labels, holds, 1 - holds)).mean(axis=1)
  np.testing.assert_allclose(found, expected, rtol=1e-12)
  np.testing.assert_allclose(target.losses(logits, labels), expected, rtol=1e-6)
  np.testing.assert_allclose(probabilities, holds, rtol=1e-12)
  np.testing.assert_allclose(target.scores(logits), holds, rtol=1e-6)


def test_the_loss_of_a_number_is_the_squared_error(run):
  logits = np.array([[1.5], [-2.0]])
  labels = np.array([1.0, 1.0])
  target = targets.Number()
  features = {"label_value": tf.constant(labels)}
  found = run(target.per_example_loss(tf.constant(logits), features))
  np.testing.assert_allclose(found, [0.25, 9])
  np.testing.assert_allclose(target.losses(logits, labels), [0.25, 9])


def test_losses_and_scores_of_large_logits_are_finite():
  logits = np.float32([[3e4, -3e4, 0]])
  one, several = targets.OneClass(LABELS), targets.SeveralClasses(LABELS)
  assert one.scores(logits).tolist() == [[1, 0, 0]]
  assert one.losses(logits, np.array([1])).tolist() == [6e4]
  assert several.scores(logits).tolist() == [[1, 0, 0.5]]
  assert several.decide(logits).tolist() == [[1, 0, 1]]
  assert several.losses(logits, np.ones([1, 3])) == pytest.approx(
    (3e4 + np.log(2)) / 3
  )


def test_combinations_of_classes_are_counted():
  target = targets.SeveralClasses(LABELS)
  vectors = np.float32([[1, 1, 0], [0, 0, 0], [1, 1, 0]])
  assert target.count_classes(vectors) == {"no|yes": 2, "(no label)": 1}
  assert target.judge(vectors, vectors * 0) == (
    "accuracy 0.3333 of 3 examples; to predict 'no|yes' for all of them gives"
    " 0.6667"
  )


def test_a_number_is_judged_by_the_mean():
  labels, decided = np.float32([1, 2, 6]), np.float32([1, 2, 3])
  assert targets.Number().judge(labels, decided) == (
    "mean squared error 3.0000 of 3 examples; to predict their mean, 3.0000,"
    " for all of them gives 4.6667"
  )


def test_a_kind_that_there_is_not_is_told():
  class Own(catalogue.DataProcessor):
    kind = "multilabel"

  with pytest.raises(UserError, match="of Own is 'multilabel', .* multi_label"):
    Own().get_target()


class Magnitude(targets.Number):
  """The power of ten of a number, with the absolute error."""

  metrics = ("negated_error",)
  label_feature = "label_powers"
  problem_type = "magnitude"

  def feature_spec(self):
    return {"label_powers": tf.FixedLenFeature([], tf.float32)}

  def encode(self, label):
    return 0.0 if label is None else float(np.log10(float(label)))

  def features(self, value):
    return {"label_powers": [value]}

  def per_example_loss(self, logits, features):
    return tf.abs(logits[:, 0] - features["label_powers"])

  def losses(self, logits, labels):
    return np.abs(logits[:, 0] - labels)


@pytest.mark.parametrize("kind", [Magnitude, targets.SeveralClasses])
def test_a_kind_is_added_by_an_entry(monkeypatch, kind):
  monkeypatch.setitem(targets.KINDS, "mine", kind)

  class Own(catalogue.DataProcessor):
    labels = ("no", "yes")
    threshold = 0.3

  Own.kind = "mine"
  target = Own().get_target()
  assert type(target) is kind
  assert target.labels == (Own.labels if kind.has_classes else ())
  assert getattr(target, "threshold", 0.3) == 0.3


class OwnTask(catalogue.DataProcessor):
  """Texts with a label."""

  tables = {
    split: Table(f"{split}.tsv", header=True, text_a="text", label="label")
    for split in ("train", "dev")
  }
  tables["test"] = Table("test.tsv", header=True, text_a="text", gold="label")


class Powers(OwnTask):
  def get_target(self):
    return Magnitude()


WORDS = ("caa", "ikm", "pex")


@pytest.fixture
def learn(classify, small_model, tmp_path, monkeypatch):
  """Runs the script on three words with labels, told apart within seconds."""

  def learn(kind, labels, *flags, gold=None, **more):
    monkeypatch.setitem(catalogue.PROCESSORS, "own", kind)
    for split in ("train", "dev", "test"):
      ends = gold if gold and split == "test" else labels
      lines = [f"{w}\t{e}\n" for w, e in zip(WORDS, ends)] * 16
      (tmp_path / f"{split}.tsv").write_text("text\tlabel\n" + "".join(lines))
    return classify(
      *flags,
      **{
        **small_model,
        "task_name": "own",
        "data_dir": tmp_path,
        "cache_dir": tmp_path / "cache",
        "output_dir": tmp_path / "out",
        "train_batch_size": 8,
        "num_train_epochs": 20,
        "learning_rate": 1e-3,
        **more,
      },
    )

  learn.output = tmp_path / "out"
  return learn


ALL = ("--do_train", "--do_eval", "--do_predict", "--reinit_head")


def test_a_target_of_another_kind_is_trained_evaluated_and_predicted(
  learn, monkeypatch
):
  def negated_error(labels, decided, scores):
    return -np.mean(np.abs(labels - decided))

  own = metrics.Metric(negated_error, (Magnitude.problem_type,))
  monkeypatch.setitem(metrics.METRICS, "negated_error", own)
  outcome = learn(Powers, ("0.1", "1", "100"), *ALL)
  assert outcome.status == 0, outcome.log
  header, *cells = read_table(learn.output / "test_predictions.tsv")
  assert header == ["id", "text_a", "text_b", "gold", "value"]
  truth, predicted = (np.float32([c[i] for c in cells]) for i in (3, 4))
  assert np.corrcoef(np.log10(truth), predicted)[0, 1] > 0.9
  plain = (learn.output / "test_results.tsv").read_text().split()
  assert plain == [c[4] for c in cells]
  found = read_results(learn.output / "eval_results.txt")
  assert set(found) == {
    *["eval_loss", "eval_negated_error", "global_step", "loss"]
  }
  # The dev set is the test set.
  error = np.mean(np.abs(np.log10(truth) - predicted))
  assert found["eval_loss"] == pytest.approx(error, rel=1e-3)
  assert found["eval_negated_error"] == pytest.approx(-error, rel=1e-3)
  told = read_results(learn.output / "test_results.txt")
  assert told == pytest.approx(
    {key.replace("eval", "test"): found[key] for key in found}, rel=1e-3
  )


def test_a_number_is_trained_evaluated_and_predicted(learn):
  outcome = learn(OwnTask, ("-1.5", "0.25", "2"), "--regression", *ALL)
  assert outcome.status == 0, outcome.log
  header, *cells = read_table(learn.output / "test_predictions.tsv")
  assert header == ["id", "text_a", "text_b", "gold", "value"]
  truth, predicted = (np.float64([c[i] for c in cells]) for i in (3, 4))
  errors = truth - predicted
  expected = {
    "eval_pearson": stats.pearsonr(truth, predicted)[0],
    "eval_spearman": stats.spearmanr(truth, predicted)[0],
    "eval_rmse": np.sqrt(np.mean(errors**2)),
    "eval_mae": np.mean(np.abs(errors)),
    "eval_loss": np.mean(errors**2),
    "loss": np.mean(np.mean(errors.reshape(-1, 8) ** 2, axis=1)),
    "global_step": 120,
  }
  assert expected["eval_pearson"] > 0.9
  found = read_results(learn.output / "eval_results.txt")
  assert found == pytest.approx(expected, rel=1e-3)
  told = read_results(learn.output / "test_results.txt")
  assert told == pytest.approx(
    {key.replace("eval", "test"): found[key] for key in found}, rel=1e-3
  )
  # The folder knows its kind; equal labels have no correlation.
  again = learn(
    OwnTask, ("2", "2", "2"), "--do_eval", "--do_predict", init_checkpoint=None
  )
  assert again.status == 0, again.log
  assert "--regression, as the run_manifest.json of output_dir" in again.log
  assert "pearson is undefined and left out: all labels are 2" in again.log
  assert "nan" not in (learn.output / "eval_results.txt").read_text()
  for split in ("eval", "test"):
    found = read_results(learn.output / f"{split}_results.txt")
    assert set(found) == {
      *["global_step", "loss"],
      *(f"{split}_{name}" for name in ("loss", "rmse", "mae")),
    }


class Moods(OwnTask):
  labels = ("joy", "love", "fear")


def test_several_classes_are_trained_evaluated_and_predicted(learn):
  labels = ("joy|love", '["love"]', "")
  outcome = learn(Moods, labels, "--multi_label", *ALL, threshold=0.4)
  assert outcome.status == 0, outcome.log
  assert "of the labels fear there is no training example" in outcome.log
  header, *cells = read_table(learn.output / "test_predictions.tsv")
  assert header == [
    *["id", "text_a", "text_b", "gold", "labels"],
    *["probability_joy", "probability_love", "probability_fear"],
  ]
  assert [c[3] for c in cells[:3]] == ["joy|love", "love", ""]
  truth = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]] * 16)
  predicted = np.float64([c[5:] for c in cells])
  decided = np.int64(predicted >= 0.4)
  names = np.array(Moods.labels)
  assert [c[4] for c in cells] == ["|".join(names[row == 1]) for row in decided]
  losses = -np.log(np.where(truth, predicted, 1 - predicted)).mean(axis=1)
  expected = {
    "eval_accuracy": np.mean((truth == decided).all(axis=1)),
    "eval_micro_f1": skm.f1_score(truth, decided, average="micro"),
    "eval_macro_f1": skm.f1_score(
      truth, decided, average="macro", zero_division=0
    ),
    "eval_loss": np.mean(losses),
    "loss": np.mean(losses.reshape(-1, 8).mean(axis=1)),
    "global_step": 120,
  }
  assert expected["eval_accuracy"] > 0.9
  found = read_results(learn.output / "eval_results.txt")
  assert found == pytest.approx(expected, rel=1e-3)
  told = read_results(learn.output / "test_results.txt")
  assert told == pytest.approx(
    {key.replace("eval", "test"): found[key] for key in found}, rel=1e-3
  )
  manifest = json.loads((learn.output / "run_manifest.json").read_text())
  assert manifest["settings"]["prediction"] == {"threshold": 0.4}
  again = learn(
    Moods,
    labels,
    "--do_predict",
    gold=("joy", "-", "love"),
    init_checkpoint=None,
    threshold=1.0,
    metrics="hamming_loss, micro_recall",
  )
  assert again.status == 0, again.log
  assert "16 of 48 true labels of the test set are none of the" in again.log
  told = read_results(learn.output / "test_results.txt")
  assert told["test_hamming_loss"] == pytest.approx(1 / 3)
  assert told["test_micro_recall"] == 0
  (last,) = {
    c[4] for c in read_table(learn.output / "test_predictions.tsv")[1:]
  }
  assert last == ""
