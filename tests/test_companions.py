"""Companions: the casing that a vocabulary is of."""

import pytest

from bert_classifier import companions
from bert_classifier.errors import UserError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "<S>"]
WORDS = [f"word{number}" for number in range(2000)]
HAN = [chr(0x4E00 + number) for number in range(8000)]


@pytest.mark.parametrize(
  ("vocab", "wrong"),
  [
    (SPECIAL + WORDS, False),  # lower-cased, and large enough to tell
    (SPECIAL + [word.title() for word in WORDS[:50]] + WORDS, True),
    (SPECIAL + ["Word"] * 15 + WORDS, None),  # under 1%: neither
    (SPECIAL + WORDS[:900], None),  # small
    (SPECIAL + HAN + WORDS, None),  # mostly of a script without case
    (SPECIAL, None),
    ([], None),
  ],
)
def test_a_casing_that_the_vocabulary_contradicts_is_refused(vocab, wrong):
  for lower in (True, False):
    if lower == wrong:
      with pytest.raises(UserError, match=f"give --do_lower_case={not lower}"):
        companions.check_casing(lower, vocab, "vocab.txt")
    else:
      companions.check_casing(lower, vocab, "vocab.txt")
