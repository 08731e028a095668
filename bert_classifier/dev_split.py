"""A dev set that is part of the training file: by seed, and stratified.

Which examples it has is a function of the file, the share and the seed. The
file is read in its order and nothing is kept but the count of each label:
selection sampling, Knuth, The Art of Computer Programming 2, section 3.4.2,
algorithm S.
"""

import collections
import math
import random
from typing import NamedTuple

from bert_classifier.errors import UserError


class Share(NamedTuple):
  """A part of a file's examples.

  Attributes:
    part: "train" or "dev".
    dev_fraction: share of the examples that are the dev set.
    seed: decides which.
  """

  part: str
  dev_fraction: float
  seed: int

  def chooser(self, counts):
    """Returns a function that says of each example whether it is of the part.

    It is to be called with the stratum of each example, in the file's order.

    Args:
      counts: `collections.Counter` of the strata of all examples: their labels,
        of several labels the combinations, of numbers None for all.

    Raises:
      UserError: the fraction leaves one of the two without an example.
    """
    wanted = allocate(counts, self.dev_fraction)
    left = collections.Counter(counts)  # 0 of what a changed file has more
    draw = random.Random(self.seed).random
    takes_dev = self.part == "dev"

    def is_of_part(stratum):
      is_dev = draw() * left[stratum] < wanted[stratum]
      left[stratum] -= 1
      wanted[stratum] -= is_dev
      return is_dev == takes_dev

    return is_of_part


def allocate(counts, dev_fraction):
  """Returns how many examples of each stratum the dev set has.

  Together they are the fraction of all, rounded up, or fewer where strata of
  one example stay in training. Each stratum has its share, rounded down or up,
  the largest remainders up first, and leaves at least one example to training.

  Args:
    counts: `collections.Counter` of the strata.
    dev_fraction: between 0 and 1.

  Returns:
    `collections.Counter` of those of the dev set.

  Raises:
    UserError: there would be none, or none to train on.
  """
  total = sum(counts.values())
  dev = math.ceil(dev_fraction * total - 1e-9)
  if total < 2 or dev >= total:
    raise UserError(
      f"--dev_fraction={dev_fraction} of {total} training examples leaves"
      " nothing to train on: give more examples, or a --dev_file"
    )
  exact = {
    stratum: count * (total - dev) / total for stratum, count in counts.items()
  }
  train = {s: max(math.floor(share), 1) for s, share in exact.items()}
  missing = total - dev - sum(train.values())
  by_remainder = sorted(exact, key=lambda s: train[s] - exact[s])
  for stratum in by_remainder[: max(missing, 0)]:
    train[stratum] += 1
  wanted = {s: count - train[s] for s, count in counts.items()}
  if not any(wanted.values()):
    raise UserError(
      f"--dev_fraction={dev_fraction} of {total} training examples leaves no"
      " dev set, for each label keeps an example to train on: give more"
      " examples, or a --dev_file"
    )
  return collections.Counter(wanted)
