"""The dev set that --dev_fraction takes out of the training file."""

import collections
import random

import numpy as np
import pytest
from sklearn.model_selection import StratifiedShuffleSplit

from bert_classifier.dev_split import Share, allocate
from bert_classifier.errors import UserError


def split(strata, fraction, seed=42):
  """Returns the numbers of the examples of train and dev."""
  counts = collections.Counter(strata)
  parts = []
  for part in ("train", "dev"):
    choose = Share(part, fraction, seed).chooser(counts)
    parts.append([i for i, stratum in enumerate(strata) if choose(stratum)])
  return parts


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.37, 0.5, 0.9])
@pytest.mark.parametrize("sizes", [(700, 301), (53, 17, 211, 5), (40, 40, 41)])
def test_each_label_has_the_share_of_scikit_learn(sizes, fraction):
  strata = [label for label, size in enumerate(sizes) for _ in range(size)]
  random.Random(0).shuffle(strata)
  train, dev = split(strata, fraction)
  assert sorted(train + dev) == list(range(len(strata)))
  theirs = StratifiedShuffleSplit(1, test_size=fraction, random_state=0)
  (_, expected), *_ = theirs.split(strata, strata)
  ours = np.bincount(np.array(strata)[dev], minlength=len(sizes))
  expected = np.bincount(np.array(strata)[expected], minlength=len(sizes))
  assert ours.sum() == expected.sum()
  # Of equal remainders scikit-learn draws which is rounded up, and it may leave
  # a label without a training example.
  has_ties = len(set(sizes)) < len(sizes) or (expected == sizes).any()
  assert abs(ours - expected).max() <= has_ties


def test_the_examples_are_a_function_of_the_seed():
  strata = [i % 3 for i in range(500)]
  assert split(strata, 0.2) == split(strata, 0.2)
  assert split(strata, 0.2)[1] != split(strata, 0.2, seed=43)[1]


def test_every_example_is_as_likely_to_be_of_the_dev_set():
  strata = [0] * 20 + [1] * 10
  chosen = np.zeros(30)
  for seed in range(2000):
    chosen[split(strata, 0.2, seed)[1]] += 1
  assert chosen / 2000 == pytest.approx(np.full(30, 0.2), abs=0.035)


def test_a_rare_label_stays_in_training():
  counts = collections.Counter({"a": 10, "b": 1})
  assert allocate(counts, 0.5) == {"a": 6, "b": 0}


@pytest.mark.parametrize(
  ("counts", "fraction", "said"),
  [
    ({"a": 1}, 0.5, "leaves nothing to train on"),
    ({"a": 3}, 0.9, "leaves nothing to train on"),
    ({"a": 1, "b": 1, "c": 1}, 0.3, "leaves no dev set, for each label keeps"),
  ],
)
def test_too_few_examples_to_divide_are_told(counts, fraction, said):
  with pytest.raises(UserError, match=said):
    allocate(collections.Counter(counts), fraction)
