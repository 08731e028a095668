"""Functions of the 2018 script that others import, unused by this program.

They are imported from run_classifier, as its other names are.
"""

import tensorflow.compat.v1 as tf

from bert_classifier import batches
from bert_classifier.features import padding_features
import modeling


def input_fn_builder(
  features, seq_length, is_training, drop_remainder, *, seed=None
):
  """Returns an input_fn over a list of `InputFeatures` in memory.

  Args and result as of `run_classifier.file_based_input_fn_builder`.

  Raises:
    ValueError: the list is empty.
  """
  if not features:
    raise ValueError("there are no features: the list is empty")
  columns = batches.stack(features, seq_length)
  padding = batches.stack(
    [padding_features(seq_length, features[0].target)], seq_length
  )

  def input_fn(params, input_context=None):
    examples = batches.make_batches(
      tf.data.Dataset.from_tensor_slices(columns),
      params,
      is_training=is_training,
      drop_remainder=drop_remainder,
      padding={name: value[0] for name, value in padding.items()},
      seed=seed,
      buffer_size=len(features),
    )
    return batches.prefetch(batches.take_share(examples, input_context))

  return input_fn


def create_model(
  bert_config,
  is_training,
  input_ids,
  input_mask,
  segment_ids,
  labels,
  num_labels,
  use_one_hot_embeddings,
):
  """Adds the classifier to the graph.

  Args:
    bert_config: `modeling.BertConfig`.
    is_training: whether dropout is applied.
    input_ids, input_mask, segment_ids: <int32>[B, S].
    labels: <int32>[B].
    num_labels: L.
    use_one_hot_embeddings: look words up by a product with a one-hot matrix.

  Returns:
    loss <float32>[], per_example_loss <float32>[B], logits and probabilities
    <float32>[B, L].
  """
  model = modeling.BertForSequenceClassification(
    bert_config, num_labels, use_one_hot_embeddings=use_one_hot_embeddings
  )
  outputs = model(
    {
      "input_ids": input_ids,
      "input_mask": input_mask,
      "segment_ids": segment_ids,
      "label_ids": labels,
    },
    is_training=is_training,
  )
  names = ("loss", "per_example_loss", "logits", "probabilities")
  return tuple(outputs[name] for name in names)
