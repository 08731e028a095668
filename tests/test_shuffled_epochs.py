"""The order of the examples in each epoch."""

import collections
import itertools

import numpy as np
import pytest

from bert_classifier import shuffled_epochs
from bert_classifier.shuffled_epochs import ShuffledEpochs


@pytest.mark.parametrize("count", [1, 2, 3, 10, 37, 1023, 8551])
def test_every_epoch_has_every_example_once(count):
  epochs = ShuffledEpochs(42, count).indices(0, 3 * count).reshape(3, count)
  assert all(sorted(epoch) == [*range(count)] for epoch in epochs)
  if count > 9:
    assert len({tuple(epoch) for epoch in epochs}) == 3


@pytest.mark.parametrize(
  ("start", "count"), [(0, 40), (1, 1), (1000, 1100), (8550, 3), (30000, 32)]
)
def test_the_order_goes_on_from_anywhere(start, count):
  whole = ShuffledEpochs(7, 8551).indices(0, 40000)
  part = ShuffledEpochs(7, 8551).indices(start, count)
  assert part.tolist() == whole[start : start + count].tolist()


def test_the_order_is_that_of_the_version_that_manifests_name():
  assert shuffled_epochs.PERMUTATION_VERSION == 1
  first = ShuffledEpochs(42, 10).indices(0, 20).reshape(2, 10)
  assert first.tolist() == [
    [0, 7, 5, 8, 9, 6, 4, 2, 3, 1],
    [3, 0, 7, 8, 9, 5, 2, 6, 1, 4],
  ]
  last = ShuffledEpochs(2**31 - 1, 20_000_000).indices(39_999_998, 3)
  assert last.tolist() == [18871189, 1905143, 16776895]


def test_the_numbers_are_those_of_splitmix64():
  # As https://prng.di.unimi.it/splitmix64.c prints them from 1234567.
  expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
  seeds = np.array([1234567], np.uint64)
  found = shuffled_epochs.draw(seeds, np.arange(3, dtype=np.uint64))
  assert found.tolist() == expected


@pytest.mark.parametrize("count", [3, 4, 5])
def test_every_order_is_as_frequent(count):
  drawn = ShuffledEpochs(1, count).indices(0, 20000 * count)
  orders = collections.Counter(map(tuple, drawn.reshape(-1, count).tolist()))
  expected = 20000 / len([*itertools.permutations(range(count))])
  found = [orders[p] for p in itertools.permutations(range(count))]
  squares = sum((n - expected) ** 2 / expected for n in found)
  freedom = len(found) - 1
  assert squares < freedom + 4 * (2 * freedom) ** 0.5


def test_neighbours_are_strangers():
  order = ShuffledEpochs(42, 100_000).indices(0, 200_000)
  first, second = order[:100_000], order[100_000:]
  for one, other in (
    (first, np.arange(100_000)),
    (first[1:], first[:-1]),
    (first, second),
    (first, ShuffledEpochs(43, 100_000).indices(0, 100_000)),
  ):
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.015  # 4.7 deviations
