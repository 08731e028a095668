"""The order of a training set's examples: a function of (seed, epoch) alone.

The order of an epoch is a permutation that is computed place by place, so that
it needs no memory and begins anywhere at once: a set of any size is shuffled as
a whole, and a run that is resumed reads nothing of what came before.

It is a Feistel network over two digits, the first of a values and the second of
b, with a * b >= n; places beyond the n examples are passed through it again
until they fall among them (cycle walking). Black and Rogaway, "Ciphers with
arbitrary finite domains", 2002; for two digits of different sizes Bellare et
al., "Format-preserving encryption", 2009. The numbers that the rounds add are
SplitMix64's (Steele et al., "Fast splittable pseudorandom number generators",
2014). Nothing depends on a library's generator, so that the order stays.
"""

import functools
import math

import numpy as np

# Of the definition of the order. Raise it when the same seed gives another.
PERMUTATION_VERSION = 1
# Even, for the digits change places in each. With 8 the orders of few examples
# are not equally frequent; with 16 no difference was found.
_ROUNDS = 16
_BLOCK_EXAMPLES = 1024  # computed at a time; fewer cost more for each


class ShuffledEpochs:
  """The examples of epoch after epoch, each in an order of its own.

  Args:
    seed: whole number, at least 0.
    num_examples: n, examples an epoch.
  """

  def __init__(self, seed, num_examples):
    self._seed, self._num_examples = seed, num_examples
    self._block = functools.lru_cache(maxsize=8)(self._compute_block)

  def indices(self, start, count):
    """Returns which examples of the set come: <int64>[count].

    Args:
      start: number of the first one, counted over all epochs.
      count: how many follow, at least 1.
    """
    first, skipped = divmod(start, _BLOCK_EXAMPLES)
    last = (start + count - 1) // _BLOCK_EXAMPLES
    blocks = [self._block(number) for number in range(first, last + 1)]
    return np.concatenate(blocks)[skipped : skipped + count]

  def _compute_block(self, number):
    start = number * _BLOCK_EXAMPLES
    numbers = np.arange(start, start + _BLOCK_EXAMPLES, dtype=np.uint64)
    epochs, places = np.divmod(numbers, np.uint64(self._num_examples))
    return permute(places, epochs, self._seed, self._num_examples)


def permute(places, epochs, seed, num_examples):
  """Returns the example at each place of an epoch's order: <int64>[m].

  Args:
    places: <uint64>[m], each under `num_examples`.
    epochs: <uint64>[m].
    seed: whole number, at least 0.
    num_examples: n.
  """
  keys = draw(draw(np.uint64(0), np.array([seed], np.uint64)), epochs)
  examples = _pass_through(places, keys, num_examples)
  while (beyond := np.flatnonzero(examples >= num_examples)).size:
    examples[beyond] = _pass_through(
      examples[beyond], keys[beyond], num_examples
    )
  return examples.astype(np.int64)


def _pass_through(numbers, keys, num_examples):
  """Returns the numbers that the rounds make of a * b numbers: <uint64>[m].

  Args:
    numbers, keys: <uint64>[m].
    num_examples: n.
  """
  size = np.uint64(math.isqrt(num_examples - 1) + 1)  # a, of the first digit
  next_size = np.uint64(-(-num_examples // int(size)))  # b
  first, second = np.divmod(numbers, next_size)
  for number in range(_ROUNDS):
    added = draw(keys, second * np.uint64(_ROUNDS) + np.uint64(number))
    first, second = second, (first + added % size) % size
    size, next_size = next_size, size
  return first * next_size + second


def draw(seeds, numbers):
  """Returns the outputs of SplitMix64 with these numbers: <uint64>[m].

  Args:
    seeds: <uint64>[m] or [], of the generators.
    numbers: <uint64>[m], counted from 0.
  """
  with np.errstate(over="ignore"):
    state = seeds + (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ state >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ state >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
  return state ^ state >> np.uint64(31)
