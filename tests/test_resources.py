"""resources.py: the size of a model, and whether a machine could hold it.

What a dry run makes of it is in test_inspection.py.
"""

import numpy as np
import pytest

from bert_classifier import choices, coverage, machine, resources
from bert_classifier.choice_options import ChoiceOptions
from bert_classifier.errors import UserError
import modeling

GIBIBYTE = 1 << 30


@pytest.mark.parametrize(
  "sizes",
  [
    dict(vocab_size=211, hidden_size=48, intermediate_size=96),
    dict(vocab_size=30522, num_hidden_layers=0),
    dict(vocab_size=9, hidden_size=8, num_attention_heads=2, type_vocab_size=1),
  ],
)
@pytest.mark.parametrize("num_labels", [1, 3])
def test_weights_are_counted_as_their_shapes_have_them(sizes, num_labels):
  config = modeling.BertConfig(**sizes)
  shapes = coverage.compute_shapes(config, num_labels)
  expected = sum(int(np.prod(shape)) for shape in shapes.values())
  assert resources.count_weights(config, num_labels) == expected


@pytest.mark.parametrize("frozen", [0, 1, 3])
def test_frozen_weights_are_counted_as_the_training_leaves_them(frozen):
  config = modeling.BertConfig(
    99, hidden_size=48, num_hidden_layers=3, intermediate_size=96
  )
  asked = ChoiceOptions(freeze_layers=frozen)
  trained = sum(
    int(np.prod(shape))
    for name, shape in coverage.compute_shapes(config, 2).items()
    if choices.find_rate_factor(name, 3, asked)
  )
  assert resources.count_weights(config, 2, frozen) == trained
  weights = resources.count_weights(config, 2)
  assert resources.compute_checkpoint_size(config, 2, frozen) == 4 * (
    weights + 2 * trained
  )


@pytest.mark.parametrize(
  "sizes",
  [
    dict(num_hidden_layers=10**7),
    dict(vocab_size=2 * 10**9),
    dict(intermediate_size=10**9),
    dict(hidden_size=10**8),
    dict(max_position_embeddings=10**9),
    dict(type_vocab_size=10**9),
  ],
)
def test_a_model_that_no_memory_holds_is_refused_at_once(sizes):
  config = modeling.BertConfig(**{"vocab_size": 30522, **sizes})
  ((key, value),) = sizes.items()
  for is_training in (False, True):
    with pytest.raises(UserError, match=f"^a.json: .*{key} {value}.* GiB"):
      resources.check_memory(config, "a.json", 2, is_training)


def test_training_needs_four_times_the_weights(monkeypatch):
  config = modeling.BertConfig(30522)  # BERT-base: 0.41 GiB of weights
  monkeypatch.setattr(machine, "find_total_memory", lambda: GIBIBYTE)
  resources.check_memory(config, "a.json", 2, is_training=False)
  with pytest.raises(UserError, match="gradients and the optimizer's slots"):
    resources.check_memory(config, "a.json", 2, is_training=True)
  # Only pooler and head are trained.
  resources.check_memory(config, "a.json", 2, is_training=True, frozen=12)
  monkeypatch.setattr(machine, "find_total_memory", lambda: 2 * GIBIBYTE)
  resources.check_memory(config, "a.json", 2, is_training=True)
