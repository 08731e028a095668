"""Precision, parts, recomputation and XLA: a step is that of none of them."""

import collections
import functools
import itertools

from conftest import AS_BUILT, small_config
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import (
  device_choice,
  devices,
  fast_modeling,
  fast_optimization,
  options,
  precision,
)
from bert_classifier.errors import UserError
from bert_classifier.loss_scale import LossScale
import modeling
import optimization
import run_classifier

XLA_SESSION = options.DeviceOptions(num_threads=1, use_xla=True)
BATCH, LENGTH, STEPS = 8, 6, 4
LENGTHS = [6, 2, 5, 4, 3, 6, 2, 5]
# By precision, of losses of the first steps against those of float32.
TOLERANCES = {"float32": 1e-5, "mixed_bfloat16": 5e-3, "mixed_float16": 1e-3}


def features():
  numbers = np.random.RandomState(0)
  mask = (np.arange(LENGTH) < np.array(LENGTHS)[:, np.newaxis]).astype(np.int32)
  return {
    "input_ids": numbers.randint(1, 9, [BATCH, LENGTH]).astype(np.int32) * mask,
    "input_mask": mask,
    "segment_ids": np.zeros_like(mask),
    "label_ids": numbers.randint(0, 3, BATCH).astype(np.int32),
  }


class Trained(
  collections.namedtuple("Trained", "losses variables dtypes narrow")
):
  """Losses of some steps, the variables after, dtypes of products by name.

  And the types of the operations that take or give 16 bits.
  """


@functools.cache
def train(
  skip_padding=True,
  dropout=0.0,
  use_xla=False,
  use_resource=True,
  plain=False,
  layers=2,
  **step,
):
  """Trains a small model for some steps; returns what is `Trained`."""
  step = options.StepOptions(**step)
  config = small_config(
    hidden_dropout_prob=dropout,
    attention_probs_dropout_prob=dropout,
    num_hidden_layers=layers,
    initializer_range=0.2,
  )
  dtype = precision.DTYPES[step.precision]
  forms = fast_modeling.forms(
    skip_padding, dtype=dtype, recomputes=step.gradient_checkpointing
  )
  with tf.Graph().as_default() as graph:
    tf.set_random_seed(3)
    inputs = tf.data.Dataset.from_tensors(features()).repeat()
    with tf.variable_scope("", use_resource=use_resource):
      model_fn = run_classifier.model_fn_builder(
        config, 3, None, 1e-2, 10, 2, False, False,
        seed=5,
        head_dropout=dropout,
        forms=modeling.Forms(dtype) if plain else forms,
        optimizer_class=fast_optimization.FusedAdamWeightDecayOptimizer
        if use_resource
        else optimization.AdamWeightDecayOptimizer,
        step_options=step,
      )  # fmt: skip
      spec = model_fn(
        tf.data.make_one_shot_iterator(inputs).get_next(), None, "train", {}
      )
    session_config = (
      devices.session_config(XLA_SESSION) if use_xla else AS_BUILT
    )
    with tf.Session(config=session_config) as session:
      session.run(tf.global_variables_initializer())
      fetches = ["training_loss:0", f"{optimization.GRADIENT_NORM}:0"]
      numbers = [session.run([fetches, spec.train_op])[0] for _ in range(STEPS)]
      variables = session.run({v.name: v for v in tf.global_variables()})
    dtypes = collections.Counter(
      op.inputs[0].dtype.base_dtype.name
      for op in graph.get_operations()
      if op.type in ("MatMul", "BatchMatMulV2")
    )
    narrow = {
      op.type
      for op in graph.get_operations()
      for tensor in (*op.inputs, *op.outputs)
      if tensor.dtype.base_dtype in (tf.bfloat16, tf.float16)
    }
  return Trained(np.array(numbers), variables, dtypes, narrow)


PARTS = dict(gradient_accumulation_steps=4)
AGAIN = dict(gradient_checkpointing=True)
BFLOAT16 = dict(precision="mixed_bfloat16")
FLOAT16 = dict(precision="mixed_float16")
# Of one layer, for XLA compiles two in twice the time.
XLA = dict(use_xla=True, skip_padding=False, layers=1)
PAIRS = [
  {**one, **other}
  for one, other in itertools.combinations(
    [PARTS, AGAIN, BFLOAT16, FLOAT16, XLA], 2
  )
  if (one, other) != (BFLOAT16, FLOAT16)  # of one flag
]
ALONE = [
  PARTS,
  AGAIN,
  BFLOAT16,
  FLOAT16,
  {**PARTS, "skip_padding": False},
  {**AGAIN, "skip_padding": False},
  {**AGAIN, "use_resource": False},
]


@pytest.mark.parametrize("asked", ALONE + PAIRS, ids=str)
def test_a_step_is_that_of_the_whole_batch_in_float32(asked):
  same = ("use_resource", "layers")
  whole = train(**{name: asked[name] for name in same if name in asked})
  found = train(**asked)
  tolerance = TOLERANCES[asked.get("precision", "float32")]
  np.testing.assert_allclose(found.losses, whole.losses, tolerance, tolerance)
  scale = set(LossScale.VARIABLES)
  names = {name.partition(":")[0] for name in found.variables}
  assert names - scale == {name.partition(":")[0] for name in whole.variables}
  assert found.variables["global_step:0"] == STEPS
  assert all(v.dtype != np.float16 for v in found.variables.values())
  if tolerance == 1e-5:
    for name, value in whole.variables.items():
      np.testing.assert_allclose(
        found.variables[name], value, rtol=0, atol=1e-5, err_msg=name
      )


# What computes nothing: it converts, moves or fills.
MOVING = {
  *("Cast", "Reshape", "Transpose", "GatherV2", "ConcatV2", "Pad"),
  *("Identity", "IdentityN", "Shape", "ZerosLike"),
}


@pytest.mark.parametrize("asked", [BFLOAT16, FLOAT16])
@pytest.mark.parametrize("form", [{}, {"skip_padding": False}, {"plain": True}])
def test_products_of_layers_and_pooler_are_of_the_precision(form, asked):
  dtype = asked["precision"].replace("mixed_", "")
  ours, theirs = train(**form, **asked), train(**form)
  # Of two layers six kernels each, and the pooler's: a product and two of its
  # gradient; of the attention of a group of sequences two, and four.
  groups = 2 if form == {} else 1
  assert ours.dtypes[dtype] == 3 * 13 + 6 * 2 * groups
  assert sum(ours.dtypes.values()) == sum(theirs.dtypes.values())
  # Sums, softmax, normalization, activations and the loss are float32.
  assert ours.narrow - MOVING == {"MatMul", "BatchMatMulV2"}
  assert not theirs.narrow
  assert (ours.losses[0] != theirs.losses[0]).all()


def test_a_layer_that_is_built_again_has_the_same_masks():
  once, again = train(dropout=0.3), train(dropout=0.3, **AGAIN)
  np.testing.assert_allclose(again.losses, once.losses, rtol=1e-5)
  assert np.abs(once.losses - train().losses).min() > 1e-3
  for name, value in once.variables.items():
    np.testing.assert_allclose(
      again.variables[name], value, rtol=0, atol=1e-5, err_msg=name
    )


def test_parts_have_masks_of_their_own(graph):
  key = modeling.dropout_key(2**31 - 1, tf.constant(7), 3)
  keys = [key, modeling.dropout_key_of_part(key, 0)]
  keys += [
    modeling.dropout_key_of_part(key, tf.constant(n)) for n in (0, 1, 2, 32767)
  ]
  with tf.Session() as session:
    found = [tuple(value) for value in session.run(keys)]
  assert found[0] == found[1] == found[2] and len(set(found)) == 4
  # No seed and no site comes near the next part.
  assert found[3][0] - found[0][0] == 2**48 > found[0][0] + 65536


def test_xla_compiles_one_graph_once():
  """All that is computed of a step is one cluster, of static shapes."""
  with tf.Graph().as_default():
    model_fn = run_classifier.model_fn_builder(
      small_config(), 3, None, 1e-2, 10, 2, False, False,
      forms=fast_modeling.forms(False),
      optimizer_class=fast_optimization.FusedAdamWeightDecayOptimizer,
    )  # fmt: skip
    inputs = tf.data.Dataset.from_tensors(features()).repeat()
    batch = tf.data.make_one_shot_iterator(inputs).get_next()
    spec = model_fn(batch, None, "train", {})
    asked, told = tf.RunOptions(output_partition_graphs=True), tf.RunMetadata()
    with tf.Session(config=devices.session_config(XLA_SESSION)) as session:
      session.run(tf.global_variables_initializer())
      session.run(spec.train_op, options=asked, run_metadata=told)
  kinds = [node.op for part in told.partition_graphs for node in part.node]
  assert kinds.count("_XlaCompile") == 1
  assert not {"MatMul", "BatchMatMulV2", "L2Loss"} & set(kinds)
  assert batch["input_ids"].shape.is_fully_defined()


@pytest.mark.parametrize(
  ("given", "words"),
  [
    ({"gradient_accumulation_steps": 5}, "is 32, but .* multiple of .*=5: the"),
    (
      {"use_tpu": True, "gradient_accumulation_steps": 8},
      "multiple of .*=8 times 8 devices",
    ),
    (
      {"use_tpu": True, "precision": "mixed_float16"},
      "a TPU, .* give --precision=mixed_bfloat16",
    ),
    ({"use_tpu": True, "use_xla": True}, "a TPU compiles all .* leave it out"),
    ({"precision": "float64"}, "one of float32, mixed_bfloat16, mixed_float16"),
    ({"gradient_accumulation_steps": 0}, "is 0, but must be at least 1"),
  ],
)
def test_what_does_not_go_together_is_refused(given, words):
  with pytest.raises(UserError, match=words):
    asked = options.make_options(**given)
    asked.step.check_device(asked.device)
    placement = device_choice.make_placement(asked.device)
    asked.step.check_division(
      asked.training.train_batch_size, placement.replicas
    )
