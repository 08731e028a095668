"""How a run lays out its tokens: real ones only, all positions, or packed.

The layout is a choice of two things that belong together: the forms that the
model is computed by, and what the input pipeline adds to a batch for them.
"""

import functools

from bert_classifier import fast_modeling, packing, precision, real_tokens


def choose_forms(run, placement):
  """Returns the `modeling.Forms` of a run, and those of its training or None.

  Args:
    run: `preparation.Run`.
    placement: see `devices`.
  """
  how = dict(
    on_cpu=placement.on_cpu,
    dtype=precision.DTYPES[run.options.step.precision],
    recomputes=run.options.step.gradient_checkpointing,
    on_host=placement.on_host,
  )
  packed = run.packed and packing.forms(run.packed.examples, **how)
  return fast_modeling.forms(placement.skip_padding, **how), packed


def choose_addition(run, is_training):
  """Returns what packs a batch or adds the layout of its real tokens, or None.

  A batch that is computed in parts has no layout, but each part its own.

  Args:
    run: `preparation.Run`.
    is_training: whether the batch is one of training.
  """
  if is_training and run.packed:
    return functools.partial(packing.add_to, packing=run.packed)
  parts = run.options.step.gradient_accumulation_steps if is_training else 1
  if not run.placement.skip_padding or parts > 1:
    return None
  heads = run.model.config.num_attention_heads
  return functools.partial(real_tokens.add_to, num_heads=heads)
