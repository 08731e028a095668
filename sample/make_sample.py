"""Writes the sample task: English sentences, acceptable or broken.

  python sample/make_sample.py [--folder=sample] [--seed=2018]

From the grammar in this file it writes, always the same bytes for one seed:

  data/train.tsv, data/dev.tsv   CoLA's four columns, without a header: the
                                 rule that is at stake, 1 acceptable or 0
                                 broken, `*` where broken, the sentence
  data/test.tsv                  a header, then index and sentence
  vocab.txt                      every word of the grammar, and letters from
                                 which any other English word can be spelled

A sentence is about one of the eight rules below, and keeps it or breaks it;
nothing else is wrong with it. Both come from the same draw, so that half of the
examples are broken, and the words alone say little: what counts is their order,
and which of them belong together. No sentence occurs twice, in one file or in
two. Standard library only.

To add a rule, write a function `(rng, kept) -> sentence` and name it in RULES.
"""

import argparse
import os
from pathlib import Path
import random
import string
from typing import NamedTuple

SEED = 2018
# Examples of each split for each rule; even, so that half of them are broken.
EXAMPLES_OF_A_RULE = {"train": 750, "dev": 100, "test": 50}

# ---------------------------------------------------------------------------
# Words


class Noun(NamedTuple):
  """A noun's forms by number, and the reflexive pronoun of the singular."""

  singular: str
  plural: str
  reflexive: str = "itself"


class Verb(NamedTuple):
  """A verb's forms; of these verbs the past is also the participle."""

  base: str
  third: str
  past: str


def _table(kind, text):
  """Returns a list of one `kind` for each line of words."""
  return [kind(*line.split()) for line in text.strip().splitlines()]


PEOPLE = _table(
  Noun,
  """
  boy boys himself
  king kings himself
  prince princes himself
  girl girls herself
  queen queens herself
  woman women herself
  """,
)

THINGS = _table(
  Noun,
  """
  ball balls
  basket baskets
  letter letters
  picture pictures
  """,
)

# Never with an object.
INTRANSITIVE = _table(
  Verb,
  """
  laugh laughs laughed
  sleep sleeps slept
  smile smiles smiled
  sneeze sneezes sneezed
  """,
)

# Never without one, nor a verb of its own with "in" or "at" (as "take in").
TRANSITIVE = _table(
  Verb,
  """
  admire admires admired
  find finds found
  praise praises praised
  rescue rescues rescued
  """,
)

# (singular, plural) throughout.
DETERMINERS = (("this", "every"), ("these", "many"))
BE, HAVE, DO = ("is", "are"), ("has", "have"), ("does", "do")
REFLEXIVE_PLURAL = "themselves"

# (as subject, elsewhere)
PRONOUNS = (
  ("I", "me"),
  ("he", "him"),
  ("she", "her"),
  ("we", "us"),
  ("they", "them"),
)

MODALS = ("can", "must", "will")
ADJECTIVES = ("clever", "proud", "tall", "young")
PREPOSITIONS = ("behind", "near", "with")
ADVERBIALS = ("at noon", "in town")
OTHERS = ("the", "no", "not", "ever", "did", "what", "who", REFLEXIVE_PLURAL)

# ---------------------------------------------------------------------------
# Phrases: lists of words; `number` is 0 for singular and 1 for plural


def _chance(rng, probability):
  return rng.random() < probability


def _number(rng):
  """Returns 0 or 1, more often 1.

  If they were equally frequent, no single word would hint at the rules of
  number, and a small model that starts from random weights finds some of them
  late or never.
  """
  return int(_chance(rng, 0.7))


def _noun_phrase(rng, nouns, number, *, determiner=None):
  """Returns determiner and noun; half of the determiners show the number."""
  if determiner is None:
    marked = _chance(rng, 0.5)
    determiner = rng.choice(DETERMINERS[number]) if marked else "the"
  return [determiner, rng.choice(nouns)[number]]


def _object(rng):
  return _noun_phrase(rng, rng.choice((PEOPLE, THINGS)), _number(rng))


def _modifier(rng, phrase=None):
  """Returns words between a noun and its verb, which may mislead about it."""
  phrase = phrase or _noun_phrase(rng, PEOPLE, _number(rng))
  if _chance(rng, 0.3):
    return ["who", rng.choice(TRANSITIVE).past, *phrase]
  return [rng.choice(PREPOSITIONS), *phrase]


def _subject(rng, number):
  """Returns a noun phrase, modified half of the time."""
  modifier = _modifier(rng) if _chance(rng, 0.5) else []
  return [*_noun_phrase(rng, PEOPLE, number), *modifier]


def _past_predicate(rng):
  """Returns a verb that agrees with any subject, and its object if any."""
  if _chance(rng, 0.5):
    return [rng.choice(INTRANSITIVE).past]
  return [rng.choice(TRANSITIVE).past, *_object(rng)]


def _sentence(rng, words, end="."):
  """Returns the text of words, sometimes with an adverbial at the end."""
  text = " ".join(words)
  if _chance(rng, 0.25):
    text = f"{text} {rng.choice(ADVERBIALS)}"
  return text[0].upper() + text[1:] + end


# ---------------------------------------------------------------------------
# Rules


def agreement(rng, kept):
  """The verb has the number of its subject, not of the noun beside it.

  The boys near the girl sleep. * The boys near the girl sleeps.
  """
  number = _number(rng)
  shown = number if kept else 1 - number
  kind = rng.randrange(3)
  if kind == 0:
    verb = rng.choice(INTRANSITIVE)
    predicate = [verb.base if shown else verb.third]
  elif kind == 1:
    predicate = [BE[shown], rng.choice(ADJECTIVES)]
  else:
    predicate = [DO[shown], "not", rng.choice(INTRANSITIVE).base]
  return _sentence(rng, [*_subject(rng, number), *predicate])


def determiner(rng, kept):
  """A determiner has the number of its noun.

  These kings slept. * These king slept.
  """
  number = _number(rng)
  word = rng.choice(DETERMINERS[number if kept else 1 - number])
  if _chance(rng, 0.5):
    phrase = _noun_phrase(rng, PEOPLE, number, determiner=word)
    return _sentence(rng, [*phrase, *_past_predicate(rng)])
  nouns = rng.choice((PEOPLE, THINGS))
  phrase = _noun_phrase(rng, nouns, number, determiner=word)
  subject = _noun_phrase(rng, PEOPLE, _number(rng))
  return _sentence(rng, [*subject, rng.choice(TRANSITIVE).past, *phrase])


def reflexive(rng, kept):
  """A reflexive has number and gender of the subject, not of another noun.

  The king near the girls praised himself. * ... praised themselves.
  """

  def draw():
    noun, number = rng.choice(PEOPLE), _number(rng)
    return noun, number, REFLEXIVE_PLURAL if number else noun.reflexive

  subject, number, right = draw()
  other, other_number, wrong = draw()
  while wrong == right:
    other, other_number, wrong = draw()
  return _sentence(
    rng,
    [
      *_noun_phrase(rng, [subject], number),
      *_modifier(rng, _noun_phrase(rng, [other], other_number)),
      rng.choice(TRANSITIVE).past,
      right if kept else wrong,
    ],
  )


def order(rng, kept):
  """Determiner, noun; preposition, phrase; subject, verb, object.

  These boys found the ball. * Boys these found the ball. * Found these boys ...
  """
  subject = _noun_phrase(rng, PEOPLE, _number(rng))
  place = rng.choice(PREPOSITIONS)
  beside = _noun_phrase(rng, PEOPLE, _number(rng))
  verb, thing = rng.choice(TRANSITIVE).past, _object(rng)
  # The verb is never put last: that would read as an object put in front.
  kind, phrase = rng.randrange(3), rng.choice((subject, beside, thing))
  if kept:
    words = [*subject, place, *beside, verb, *thing]
  elif kind == 0:
    phrase[-1], phrase[-2] = phrase[-2], phrase[-1]
    words = [*subject, place, *beside, verb, *thing]
  elif kind == 1:
    words = [*subject, *beside, place, verb, *thing]
  else:
    words = [verb, *subject, place, *beside, *thing]
  return _sentence(rng, words)


def objects(rng, kept):
  """Some verbs must have an object, the others cannot have one.

  The boy found me. The boy slept. * The boy found. * The boy slept me.
  """
  has_object = _chance(rng, 0.5)
  takes_object = has_object if kept else not has_object
  verb = rng.choice(TRANSITIVE if takes_object else INTRANSITIVE)
  words = [*_subject(rng, _number(rng)), verb.past]
  return _sentence(rng, [*words, *(_object(rng) if has_object else [])])


def polarity(rng, kept):
  """`Ever` needs a negation that governs it, not one inside a modifier.

  No boy near the king has ever slept. * The boy near no king has ever slept.
  """
  number = _number(rng)
  first, second = ("no", "the") if kept else ("the", "no")
  beside = _noun_phrase(rng, PEOPLE, _number(rng), determiner=second)
  subject = _noun_phrase(rng, PEOPLE, number, determiner=first)
  verb = rng.choice(INTRANSITIVE).past
  return _sentence(
    rng, [*subject, *_modifier(rng, beside), HAVE[number], "ever", verb]
  )


def question(rng, kept):
  """`What` stands for an object, which is then missing; else it is there.

  What did the boy find? Did the boy find the ball? * Did the boy find?
  """
  has_object = _chance(rng, 0.5)
  asks_what = has_object != kept
  words = [
    *(["what"] if asks_what else []),
    rng.choice(("did", *MODALS)),
    *_subject(rng, _number(rng)),
    rng.choice(TRANSITIVE).base,
    *(_object(rng) if has_object else []),
  ]
  return _sentence(rng, words, "?")


def case(rng, kept):
  """A pronoun has one form as subject and another one elsewhere.

  The boy near me slept. * The boy near I slept. She slept. * Her slept.
  """
  pronoun = rng.choice(PRONOUNS)
  if _chance(rng, 0.5):
    words = [pronoun[not kept], *_past_predicate(rng)]
  elif _chance(rng, 0.5):
    verb = rng.choice(TRANSITIVE).past
    words = [*_subject(rng, _number(rng)), verb, pronoun[kept]]
  else:
    subject = _noun_phrase(rng, PEOPLE, _number(rng))
    words = [*subject, *_modifier(rng, [pronoun[kept]]), *_past_predicate(rng)]
  return _sentence(rng, words)


RULES = (
  agreement,
  determiner,
  reflexive,
  order,
  objects,
  polarity,
  question,
  case,
)

# ---------------------------------------------------------------------------
# Files


def _pair(rng, rule):
  """Returns the two sentences of one draw: (broken, kept)."""
  draw = rng.getrandbits(32)
  return tuple(rule(random.Random(draw), kept) for kept in (False, True))


def make_splits(seed=SEED):
  """Returns the examples: {split: [(name of the rule, label, sentence)]}."""
  rng = random.Random(seed)
  seen = set()
  splits = {}
  for split, examples_of_a_rule in EXAMPLES_OF_A_RULE.items():
    examples = []
    for rule in RULES:
      for _ in range(examples_of_a_rule // 2):
        broken, kept = _pair(rng, rule)
        while broken in seen or kept in seen:
          broken, kept = _pair(rng, rule)
        seen.update((broken, kept))
        examples.append((rule.__name__, 0, broken))
        examples.append((rule.__name__, 1, kept))
    rng.shuffle(examples)
    splits[split] = examples
  return splits


def make_vocabulary():
  """Returns the list of the tokens, in the order of their ids."""
  letters = string.ascii_lowercase + string.digits
  groups = [
    *(PEOPLE + THINGS + INTRANSITIVE + TRANSITIVE),
    *(DETERMINERS + PRONOUNS),
    *(BE, HAVE, DO, MODALS, ADJECTIVES, PREPOSITIONS, OTHERS),
    *(adverbial.split() for adverbial in ADVERBIALS),
  ]
  words = {word.lower() for group in groups for word in group}
  return [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *string.punctuation,
    *letters,
    *(f"##{letter}" for letter in letters),
    *sorted(words - set(letters)),
  ]


def _write(path, lines):
  """Writes lines atomically, with the same line ends on every system."""
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(path.name + ".partial")
  partial.write_bytes("".join(f"{line}\n" for line in lines).encode())
  os.replace(partial, path)


def write_sample(folder, seed=SEED):
  """Writes the data and the vocabulary below `folder`."""
  folder = Path(folder)
  splits = make_splits(seed)
  for split in ("train", "dev"):
    lines = [
      f"{rule}\t{label}\t{'' if label else '*'}\t{sentence}"
      for rule, label, sentence in splits[split]
    ]
    _write(folder / "data" / f"{split}.tsv", lines)
  test = [
    f"{index}\t{sentence}"
    for index, (_, _, sentence) in enumerate(splits["test"])
  ]
  _write(folder / "data" / "test.tsv", ["index\tsentence", *test])
  _write(folder / "vocab.txt", make_vocabulary())


if __name__ == "__main__":
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--folder", default=Path(__file__).parent)
  parser.add_argument("--seed", type=int, default=SEED)
  arguments = parser.parse_args()
  write_sample(arguments.folder, arguments.seed)
