"""Truncation: which tokens of a text that is too long stay.

--truncation says which; how many is the same for all of its values.
"""

from bert_classifier import choice_options


def truncate(first, second, max_seq_length, truncation=choice_options.HEAD):
  """Cuts a pair, or a single text, to fit between the special tokens.

  A single text keeps its first S - 2 tokens. Of a pair the longer loses its
  last token, the second on a tie, until both fit in S - 3. A second text that
  loses everything leaves the single form.

    >>> truncate([1, 2, 3, 4], [5, 6], 7)
    ([1, 2], [5, 6])
    >>> truncate([1, 2, 3, 4], [], 5)
    ([1, 2, 3], [])
    >>> truncate([1, 2, 3, 4], [], 5, "tail")
    ([2, 3, 4], [])
    >>> truncate([1, 2, 3, 4, 5], [], 6, "head_tail")
    ([1, 3, 4, 5], [])

  Args:
    first, second: lists of tokens.
    max_seq_length: S.
    truncation: which tokens of a text stay, as many as said above: "head" the
      first, "tail" the last, "head_tail" 128 of each 510, rounded down, from
      its beginning and the others from its end.

  Returns:
    The two lists.
  """
  of_first, of_second = _count_kept(len(first), len(second), max_seq_length)
  return (
    keep(first, of_first, truncation),
    keep(second, of_second, truncation),
  )


# Of 512 positions, as the paper of --truncation has it.
_HEAD_TOKENS, _ALL_TOKENS = 128, 510


def count_head(number, truncation):
  """Returns how many of the tokens that stay are from a text's beginning.

  Args:
    number: of tokens that stay of a text that is cut, an int or <int32>[...].
    truncation: see `truncate`.
  """
  return {
    choice_options.HEAD: number,
    choice_options.TAIL: number * 0,
    choice_options.HEAD_TAIL: number * _HEAD_TOKENS // _ALL_TOKENS,
  }[truncation]


def keep(tokens, number, truncation):
  """Returns so many of a text's tokens; see `truncate`."""
  if number >= len(tokens):
    return tokens
  of_head = count_head(number, truncation)
  return tokens[:of_head] + tokens[len(tokens) - number + of_head :]


def _count_kept(first, second, max_seq_length):
  """Returns how many tokens of a pair stay; see `truncate`.

  Args:
    first, second: how many there are.
    max_seq_length: S.
  """
  if not second:
    return min(first, max_seq_length - 2), 0
  excess = first + second - (max_seq_length - 3)
  if excess <= 0:
    return first, second
  # Even out the two, then take from both in turn, the second first.
  uneven = first - second
  from_longer = min(excess, abs(uneven))
  from_first, from_second = (from_longer, 0) if uneven > 0 else (0, from_longer)
  rest = excess - from_longer
  from_second += (rest + 1) // 2
  from_first += rest // 2
  return first - from_first, second - from_second
