"""What the sides of speed.py that leave an optimization out compute instead.

Forms of `fast_modeling` put together from operations, and 2018's dropout. A
test holds them and the fast forms equal.
"""

FORMS = (
  "nothing",
  "padding",
  "big_blocks",
  "optimizer",
  "embedding_lookup",
  "first_token",
  "groups",
  "attention",
  "heads",
  "dropout",
  "normalize",
  "gelu",
)


def changes(name):
  """Returns what a side patches, and the forms and optimizer it is built of."""
  from bert_classifier import (
    fast_modeling,
    fast_optimization,
    machine,
    real_tokens,
  )
  import modeling
  import optimization

  def every_position(*args, only_pooled, **kwargs):
    return whole_model(*args, **kwargs)

  whole_model = modeling.BertModel
  parts = dict(
    forms=fast_modeling.forms(skip_padding=name != "padding"),
    optimizer_class=fast_optimization.FusedAdamWeightDecayOptimizer,
  )
  composed = {
    "attention": attention,
    "split_heads": split_heads,
    "merge_heads": merge_heads,
    "keep_mask": keep_mask,
    "normalize": modeling.PLAIN.normalize,
    "gelu": modeling.gelu,
  }

  def without(*forms):
    return [(fast_modeling, form, composed[form]) for form in forms]

  patches = {
    "big_blocks": [(machine, "reuse_big_blocks", lambda: None)],
    "embedding_lookup": [
      (fast_modeling.RealTokens, "lookup", modeling.Forms.lookup)
    ],
    "first_token": [(modeling, "BertModel", every_position)],
    "groups": [(real_tokens, "_division", lambda lengths, batch: batch)],
    "attention": without("attention"),
    "heads": without("split_heads", "merge_heads"),
    "dropout": without("keep_mask"),
    "normalize": without("normalize"),
    "gelu": without("gelu"),
  }
  plain_optimizer = optimization.AdamWeightDecayOptimizer
  if name == "optimizer":
    return [], dict(parts, optimizer_class=plain_optimizer)
  if name == "original":
    return (
      [
        *patches["big_blocks"],
        *patches["first_token"],
        # 2018's variables were read without the copy.
        (modeling.Forms, "lookup", fast_modeling.RealTokens.lookup),
        (modeling, "Dropout", DropoutOf2018),
      ],
      dict(forms=modeling.PLAIN, optimizer_class=plain_optimizer),
    )
  return patches.get(name, []), parts


def attention(query, key, value, mask, kept=None, scale=None):
  """<float32>[B, N, Q, D] from products, softmax and a product with `kept`."""
  import tensorflow.compat.v1 as tf

  scores = tf.matmul(query, key, transpose_b=True)  # [B, N, Q, K]
  if scale is not None:
    scores = scores * scale
  weights = tf.nn.softmax(scores + mask)
  if kept is not None:
    weights = weights * kept
  return tf.matmul(weights, value)


def split_heads(rows, to_heads, from_heads):
  """Pads by a gather of tokens; then reshape and transpose."""
  import tensorflow.compat.v1 as tf

  del from_heads
  groups = []
  for index in to_heads:
    heads = index.shape[1]
    width = rows.shape[-1] // heads
    padded = tf.gather(rows, index[:, 0] // heads)  # [B, Q, H]
    shape = [*tf.unstack(tf.shape(padded)[:2]), heads, width]
    groups.append(tf.transpose(tf.reshape(padded, shape), [0, 2, 1, 3]))
  return groups


def merge_heads(groups, to_heads, from_heads):
  """Transpose and reshape; then each token is put where it belongs."""
  import tensorflow.compat.v1 as tf

  count = tf.shape(from_heads)[0]  # M
  merged = []
  for group, index in zip(groups, to_heads):
    heads = index.shape[1]
    token = index[:, 0] // heads  # [B, Q]; M where there is only padding
    apart = tf.transpose(group, [0, 2, 1, 3])  # [B, Q, N, D]
    leading = tf.unstack(tf.shape(apart)[:2])
    rows = tf.reshape(apart, [*leading, heads * group.shape[-1]])
    place = tf.where_v2(token < count, token, -1)  # -1 is left out
    merged.append(tf.math.unsorted_segment_sum(rows, place, count))
  return tf.add_n(merged)  # [M, H]


def keep_mask(shape, seed, dropout_prob):
  """<float32>[shape] of 1 and 0 from a uniform number an element."""
  import tensorflow.compat.v1 as tf

  drawn = tf.random.stateless_uniform(shape, seed)
  return tf.cast(drawn >= dropout_prob, tf.float32)


class DropoutOf2018:
  """In place of `modeling.Dropout`: `tf.nn.dropout`, new in every step."""

  def __init__(self, key=None):
    del key

  def __call__(self, input_tensor, dropout_prob):
    import tensorflow.compat.v1 as tf

    if not dropout_prob:
      return input_tensor
    return tf.nn.dropout(input_tensor, rate=dropout_prob)
