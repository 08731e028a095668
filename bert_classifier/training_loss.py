"""The loss of training where --class_weights or --label_smoothing change it.

Evaluation and prediction know nothing of it: their loss is the target's own.

Axis letters: B batch, L labels.
"""

import tensorflow.compat.v1 as tf


def choose_loss(target, smoothing=0.0, weights=None):
  """Returns the function of logits and features that gives training's losses.

  That of the target itself where there is nothing to change, so that the graph
  is the same.

  Args:
    target: see `targets`.
    smoothing: share of a label's probability that all labels have in common
      (https://arxiv.org/abs/1512.00567, section 7), from 0 up to under 1.
    weights: what `class_weights.make_weights` gives, or None.

  Returns:
    A function of logits <float32>[B, L] and the dictionary of features that
    gives <float32>[B].
  """
  if not smoothing and weights is None:
    return target.per_example_loss
  compute = _LOSSES[target.problem_type]

  def per_example_loss(logits, features):
    labels = features[target.label_feature]
    return compute(logits, labels, smoothing, weights)

  return per_example_loss


def _one_class(logits, labels, smoothing, weights):
  """Returns w_y (-sum_k q_k log p_k), q = (1 - smoothing) y + smoothing / L.

  Args:
    logits: <float32>[B, L].
    labels: <int32>[B].
    smoothing, weights: as of `choose_loss`, weights <float32>[L].
  """
  if smoothing:
    width = logits.shape.as_list()[-1]
    losses = tf.nn.softmax_cross_entropy_with_logits_v2(
      labels=tf.one_hot(
        labels, width, 1 - smoothing + smoothing / width, smoothing / width
      ),
      logits=logits,
    )
  else:
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
      labels=labels, logits=logits
    )
  return losses if weights is None else losses * tf.gather(weights, labels)


def _several_classes(logits, labels, smoothing, weights):
  """Returns the mean over the labels of their weighted cross-entropies.

  A label that holds has the probability 1 - smoothing / 2, another smoothing /
  2: it is a choice between two.

  Args:
    logits, labels: <float32>[B, L].
    smoothing, weights: as of `choose_loss`, weights <float32>[L, 2].
  """
  by_label = tf.nn.sigmoid_cross_entropy_with_logits(
    labels=labels * (1 - smoothing) + smoothing / 2 if smoothing else labels,
    logits=logits,
  )
  if weights is not None:
    off, on = weights.T
    by_label *= off + (on - off) * labels
  return tf.reduce_mean(by_label, axis=-1)


_LOSSES = {
  "single_label_classification": _one_class,
  "multi_label_classification": _several_classes,
}
