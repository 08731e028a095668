"""The graphs of a TPU with eight cores, built and checked where there is none.

What runs here is the command line with --use_tpu, up to where a session would
send the graph to the TPU. That the graph runs there is not shown; that it is
built, split over the cores, and made of what XLA compiles, is.
"""

import collections
import json
import re
import types

from conftest import read_checkpoint, simulate_tpu, write_checkpoint
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tensorflow.python.framework import kernels
from tensorflow.python.training import monitored_session

from bert_classifier import (
  catalogue,
  devices,
  fast_modeling,
  fast_optimization,
  options,
  packing,
  precision,
  targets,
)
from bert_classifier.table_files import Table
import modeling
import run_classifier

CORES = 8
BATCH = {"train": 16, "eval": 32, "predict": 24}  # over all cores
LENGTH = 24
VARIABLES = 57  # of the golden task's model
MODES = list(BATCH)


class GraphIsBuiltError(BaseException):
  """Ends the script where a session would begin."""


def graph_of(mode, classify, folder, **flags):
  """The GraphDef, with shapes, that the script makes for a mode."""
  built = []

  def stop(scaffold):
    del scaffold
    built.append(tf.get_default_graph().as_graph_def(add_shapes=True))
    raise GraphIsBuiltError

  checkpoint = f"{classify.defaults['init_checkpoint']}"
  with open(f"{checkpoint}/bert_config.json", encoding="utf-8") as reader:
    config = json.load(reader)
  config["hidden_dropout_prob"] = config["attention_probs_dropout_prob"] = 0.1
  (folder / "config.json").write_text(json.dumps(config))
  with pytest.MonkeyPatch.context() as patch, pytest.raises(GraphIsBuiltError):
    simulate_tpu(patch, CORES)
    patch.setattr(monitored_session.Scaffold, "finalize", stop)
    classify(
      *(f"--do_{mode}", "--use_tpu"),
      tpu_name="local",
      bert_config_file=folder / "config.json",
      output_dir=folder / "out",
      **{f"{name}_batch_size": size for name, size in BATCH.items()},
      **flags,
    )
  return built[0]


@pytest.fixture(scope="module")
def graphs(classify, tmp_path_factory):
  """{mode: GraphDef}."""
  return {
    mode: graph_of(mode, classify, tmp_path_factory.mktemp(mode))
    for mode in MODES
  }


def replicated(graph):
  """{name: node} of what the cores compute, nodes of functions as well.

  A function's nodes, and their edges, are named `<function>/<node>`, for its
  names may be those of other nodes outside.
  """
  library = {f.signature.name: f for f in graph.library.function}
  found, left = {}, [n for n in graph.node if "_tpu_replicate" in n.attr]
  while left:
    node = left.pop()
    found[node.name] = node
    for value in node.attr.values():
      for function in (value.func, *value.list.func):
        if function.name in library:
          left.extend(qualified_nodes(library.pop(function.name)))
  return found


def qualified_nodes(function):
  """Copies of a FunctionDef's nodes that are named for it as well."""
  for original in function.node_def:
    node = type(original)()
    node.CopyFrom(original)
    node.name = f"{function.signature.name}/{original.name}"
    node.input[:] = [
      re.sub(r"^\^?", rf"\g<0>{function.signature.name}/", edge)
      for edge in original.input
    ]
    yield node


def of_type(nodes, *types):
  return [node for node in nodes.values() if node.op in types]


def ancestors(node, nodes, through=None):
  """Returns the nodes before a node, past ops of types in `through` only."""
  found, left = {}, [node]
  while left:
    for edge in left.pop().input:
      name = edge.lstrip("^").partition(":")[0]
      if name in nodes and name not in found:
        found[name] = nodes[name]
        if through is None or nodes[name].op in through:
          left.append(nodes[name])
  return found


def values_of(nodes, op, attribute):
  """The attribute's list in the only node of that type."""
  (node,) = of_type(nodes, op)
  return node.attr[attribute].list


# ---------------------------------------------------------------------------
# All three graphs


@pytest.mark.parametrize("mode", MODES)
def test_each_core_is_fed_its_share_of_the_batch(graphs, mode):
  nodes = replicated(graphs[mode])
  infeed = values_of(nodes, "InfeedDequeueTuple", "shapes").shape
  shapes = sorted([dim.size for dim in shape.dim] for shape in infeed)
  share = BATCH[mode] // CORES
  # TPUEstimator.predict adds which examples only pad, and whether it ends.
  added = [[share], [share, 1]] if mode == "predict" else []
  assert shapes == sorted([[share]] * 2 + [[share, LENGTH]] * 3 + added)
  ops = [node.op for node in graphs[mode].node]
  library = graphs[mode].library.function
  ops += [node.op for function in library for node in function.node_def]
  assert ops.count("InfeedEnqueueTuple") == CORES


@pytest.mark.parametrize("mode", MODES)
def test_features_are_int32(graphs, mode):
  infeed = values_of(replicated(graphs[mode]), "InfeedDequeueTuple", "dtypes")
  found = collections.Counter(tf.as_dtype(number) for number in infeed.type)
  # TPUEstimator.predict adds which examples only pad, and whether it ends.
  added = {tf.int32: 1, tf.bool: 1} if mode == "predict" else {}
  assert found == collections.Counter({tf.int32: 5}) + collections.Counter(
    added
  )


def dynamic(nodes):
  """Names of nodes of which a shape is not static."""
  return [
    node.name
    for node in nodes.values()
    for shape in node.attr["_output_shapes"].list.shape
    if shape.unknown_rank or any(dim.size < 0 for dim in shape.dim)
  ]


@pytest.mark.parametrize("mode", MODES)
def test_every_shape_on_a_core_is_static(graphs, mode):
  assert not dynamic(replicated(graphs[mode]))


@pytest.fixture(scope="module")
def compiled_ops():
  """Types of the operations that XLA has a kernel for."""
  tf.function(lambda: tf.constant(1.0) + 1, jit_compile=True)()  # registers
  registered = kernels.get_all_registered_kernels().kernel
  return {k.op for k in registered if k.device_type == "XLA_CPU_JIT"}


# Only a TPU has these: queues between host and core, sums over the cores.
TPU_ONLY = {
  "CrossReplicaSum",
  "InfeedDequeueTuple",
  "OutfeedEnqueueTuple",
  "TPUReplicateMetadata",
}


@pytest.fixture(scope="module")
def unknown_ops(compiled_ops):
  """Returns the types, of those of nodes, that a TPU does not know."""

  def unknown_ops(nodes):
    return {node.op for node in nodes.values()} - compiled_ops - TPU_ONLY

  return unknown_ops


@pytest.mark.parametrize("mode", MODES)
def test_every_operation_on_a_core_has_an_xla_kernel(graphs, unknown_ops, mode):
  nodes = replicated(graphs[mode])
  assert len(nodes) > 400
  assert not unknown_ops(nodes)


def test_operations_without_an_xla_kernel_are_found(
  classify, unknown_ops, tmp_path, monkeypatch
):
  inside = tf.function(tf.strings.to_number)
  losses = targets.OneClass.per_example_loss

  def write_and_read(target, logits, features):
    return inside(tf.as_string(losses(target, logits, features)))

  monkeypatch.setattr(targets.OneClass, "per_example_loss", write_and_read)
  nodes = replicated(graph_of("eval", classify, tmp_path))
  assert unknown_ops(nodes) == {"AsString", "StringToNumber"}


def test_each_core_packs_its_share_in_what_xla_compiles(
  classify, unknown_ops, tmp_path
):
  graph = graph_of("train", classify, tmp_path, pack_sequences=True)
  nodes = replicated(graph)
  infeed = values_of(nodes, "InfeedDequeueTuple", "shapes").shape
  shapes = sorted([dim.size for dim in shape.dim] for shape in infeed)
  share = BATCH["train"] // CORES
  (rows,) = {shape[0] for shape in shapes if len(shape) == 2}
  assert 1 <= rows <= share
  assert shapes == sorted([[share]] * 2 + [[rows, LENGTH]] * 3)
  assert not dynamic(nodes)
  assert not unknown_ops(nodes)


@pytest.mark.parametrize(
  "mode, types",
  [
    ("train", [tf.float32, tf.float32, tf.int64]),  # loss, rate, step
    ("eval", [tf.float32, tf.float32, tf.int32, tf.int32]),
    ("predict", [tf.float32]),
  ],
)
def test_results_leave_every_core(graphs, mode, types):
  outfeed = values_of(replicated(graphs[mode]), "OutfeedEnqueueTuple", "dtypes")
  found = collections.Counter(tf.as_dtype(number) for number in outfeed.type)
  if mode == "predict":  # and the signal that the examples have ended
    assert not collections.Counter(types) - found
  else:
    assert found == collections.Counter(types)
  ops = [node.op for node in graphs[mode].node]
  assert ops.count("OutfeedDequeueTuple") == CORES


# ---------------------------------------------------------------------------
# Training


def test_variables_are_those_of_a_checkpoint_of_any_device(graphs, classify):
  nodes = of_type({n.name: n for n in graphs["train"].node}, "VarHandleOp")
  names = {node.attr["shared_name"].s.decode() for node in nodes}
  folder = classify.defaults["init_checkpoint"]
  released = set(read_checkpoint(f"{folder}/bert_model.ckpt"))
  slots = {f"{name}/adam_{slot}" for name in released for slot in "mv"}
  expected = released | slots | {"global_step"}
  assert len(released) == VARIABLES
  assert expected == names - {"tpu_estimator/iterations_per_loop"}


def test_loss_and_rate_are_summarized_on_the_host(graphs):
  nodes = {node.name: node for node in graphs["train"].node}
  assert len(of_type(nodes, "WriteScalarSummary")) == 2
  assert not of_type(replicated(graphs["train"]), "WriteScalarSummary")


def test_gradients_are_summed_over_the_cores_and_then_clipped(graphs):
  nodes = replicated(graphs["train"])
  sums = of_type(nodes, "CrossReplicaSum")
  norms = of_type(nodes, "L2Loss")
  assert len(sums) == len(norms) == VARIABLES
  for norm in norms:
    before = ancestors(norm, nodes, through=("Identity",))
    assert len(of_type(before, "CrossReplicaSum")) == 1
  for reduced in sums:
    assert not of_type(ancestors(reduced, nodes), "L2Loss")
  updates = of_type(nodes, "ResourceApplyAdam")
  assert len(updates) == VARIABLES
  for update in updates:
    assert len(of_type(ancestors(update, nodes), "L2Loss")) == VARIABLES


def test_dropout_differs_from_core_to_core(graphs):
  nodes = replicated(graphs["train"])
  drawn = [node for node in nodes.values() if "StatelessRandomUni" in node.op]
  assert len(drawn) > 3
  for node in drawn:
    assert of_type(ancestors(node, nodes), "XlaReplicaId")


def test_step_is_read_before_it_is_counted(graphs):
  nodes = replicated(graphs["train"])
  (count,) = of_type(nodes, "AssignAddVariableOp")
  before = ancestors(count, nodes)
  reads = [
    node
    for node in of_type(nodes, "ReadVariableOp")
    if node.input[0] == count.input[0]
  ]
  assert reads
  assert all(read.name in before for read in reads)


def test_packed_parts_recomputed_layers_and_bfloat16_are_for_a_tpu_together(
  classify, unknown_ops, tmp_path
):
  graph = graph_of(
    "train",
    classify,
    tmp_path,
    gradient_accumulation_steps=2,
    gradient_checkpointing=True,
    precision="mixed_bfloat16",
    pack_sequences=True,
  )
  nodes = replicated(graph)
  assert not dynamic(nodes)
  assert not unknown_ops(nodes)
  # Reduced once, after the last part.
  assert len(of_type(nodes, "CrossReplicaSum")) == VARIABLES
  assert len(of_type(nodes, "L2Loss")) == VARIABLES
  products = of_type(nodes, "MatMul", "BatchMatMulV2")
  kinds = {tf.as_dtype(node.attr["T"].type) for node in products}
  assert kinds == {tf.float32, tf.bfloat16}


# ---------------------------------------------------------------------------
# Examples


def test_evaluation_has_a_batch_for_every_core_in_every_step(
  classify, tmp_path, monkeypatch
):
  simulate_tpu(monkeypatch, CORES)
  given, places, find = [], [], devices.tpu_cluster
  monkeypatch.setattr(
    devices, "tpu_cluster", lambda *args: places.append(args) or find(*args)
  )

  def evaluate(estimator, input_fn, steps, hooks, checkpoint_path, name):
    del checkpoint_path, name
    assert estimator.config.tpu_config.iterations_per_loop == 7
    assert hooks == []  # all steps are one call of the session
    given.extend([input_fn, steps])
    raise GraphIsBuiltError

  monkeypatch.setattr(tf.estimator.tpu.TPUEstimator, "evaluate", evaluate)
  with pytest.raises(GraphIsBuiltError):
    classify(
      "--do_eval",
      "--use_tpu",
      tpu_name="local",
      tpu_zone="us-east1-d",
      gcp_project="texts",
      iterations_per_loop=7,
      output_dir=tmp_path / "out",
    )
  assert set(places) == {("local", "us-east1-d", "texts")}
  input_fn, steps = given
  context = types.SimpleNamespace(num_replicas=CORES)
  with tf.Graph().as_default(), tf.Session() as running:
    examples = input_fn({"batch_size": 1, "context": context})
    example = tf.data.make_one_shot_iterator(examples).get_next()
    weight = example["is_real_example"]
    real = [running.run(weight).item() for _ in range(steps * CORES)]
  assert steps == 3  # 21 examples in batches of 8
  assert real == [1] * 21 + [0] * 3


class Lengths(catalogue.DataProcessor):
  """Texts with labels, or with a number."""

  labels = ("1", "3")
  tables = {
    "dev": Table("dev.tsv", header=True, text_a="text", label="label"),
  }


@pytest.mark.parametrize(
  ("flag", "shape", "width"),
  [("multi_label", [2], 2), ("regression", [], 1)],
)
def test_kinds_of_floats_are_evaluated_on_every_core(
  classify, unknown_ops, tmp_path, monkeypatch, flag, shape, width
):
  monkeypatch.setitem(catalogue.PROCESSORS, "lengths", Lengths)
  lines = ["text\tlabel"] + ["a\t1", "b c d\t3"] * 16
  (tmp_path / "dev.tsv").write_text("\n".join(lines))
  checkpoint = classify.defaults["init_checkpoint"]
  variables = read_checkpoint(f"{checkpoint}/bert_model.ckpt")
  for name in ("output_weights", "output_bias"):
    variables[name] = variables[name][:width]
  write_checkpoint(tmp_path / "head.ckpt", variables)
  graph = graph_of(
    "eval",
    classify,
    tmp_path,
    task_name="lengths",
    data_dir=tmp_path,
    cache_dir=tmp_path,
    init_checkpoint=tmp_path / "head.ckpt",
    **{flag: True},
  )
  nodes = replicated(graph)
  share = BATCH["eval"] // CORES
  infeed = values_of(nodes, "InfeedDequeueTuple", "shapes").shape
  kinds = values_of(nodes, "InfeedDequeueTuple", "dtypes").type
  (label,) = [s for s, t in zip(infeed, kinds) if t == tf.float32]
  assert [dim.size for dim in label.dim] == [share, *shape]
  outfeed = values_of(nodes, "OutfeedEnqueueTuple", "dtypes").type
  assert sorted(outfeed) == [tf.float32] * 3 + [tf.int32]
  (sent,) = of_type(nodes, "OutfeedEnqueueTuple")
  sizes = []
  for edge in sent.input:
    name, *_, port = edge.split(":") if ":" in edge else (edge, 0)
    sent_shapes = nodes[name].attr["_output_shapes"].list.shape
    sizes.append([dim.size for dim in sent_shapes[int(port)].dim])
  assert sorted(sizes) == sorted(
    [[share], [share, width], [share, *shape], [share]]
  )
  assert not unknown_ops(nodes)


def test_the_cores_embed_in_what_xla_compiles(classify, unknown_ops, tmp_path):
  nodes = replicated(graph_of("embed", classify, tmp_path))
  assert not dynamic(nodes)
  assert not unknown_ops(nodes)
  assert of_type(nodes, "OutfeedEnqueueTuple")


def test_answers_and_exports_are_computed_on_the_cpu_of_a_tpus_host(
  classify, tmp_path, monkeypatch, capsys
):
  simulate_tpu(monkeypatch, CORES)
  done = classify(
    *("--use_tpu", "--do_export"),
    tpu_name="local",
    predict_text="He said so .",
    predict_text_b="She did .",
    output_dir=tmp_path / "out",
  )
  assert done.status == 0, done.log
  assert json.loads(capsys.readouterr().out)["text"] == "He said so ."
  (exported,) = (tmp_path / "out" / "export").iterdir()
  with tf.Graph().as_default(), tf.Session() as running:
    served = tf.saved_model.load(running, ["serve"], str(exported))
    assert "serving_default" in served.signature_def


def test_a_dry_run_of_a_tpu_describes_and_tries_nothing(
  classify, tmp_path, monkeypatch, capsys
):
  simulate_tpu(monkeypatch, 4)
  asked = ["--use_tpu", "--do_train", "--dry_run", "--train_batch_size=8"]
  asked.append("--num_tpu_cores=4")
  done = classify(*asked, tpu_name="local", output_dir=tmp_path / "none")
  assert done.status == 0, done.log
  page = " ".join(capsys.readouterr().out.split())
  assert "on TPU local, 4 cores: nothing is written" in page
  assert "steps 1 to 13 of 8 examples" in page and " time about" not in page
  assert "On a core of the TPU about 2 MiB at the peak." in page


def test_local_paths_are_refused_before_any_data_is_read(classify, tmp_path):
  outcome = classify(
    "--do_train",
    "--use_tpu",
    tpu_name="my-tpu",
    data_dir=tmp_path / "nowhere",
    output_dir=tmp_path / "out",
  )
  assert outcome.status == 1
  assert f"--output_dir={tmp_path}/out" in outcome.log
  assert "nowhere" not in outcome.log
  assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------
# The step under XLA


def losses(golden, config, checkpoint, *, compiled, packed=False, **step):
  """Losses of four steps in static shapes, from the golden weights."""
  names = ["input_ids", "input_mask", "segment_ids", "label_ids"]
  arrays = [golden[name] for name in names]
  step_options = options.StepOptions(**step)
  how = dict(
    on_cpu=devices.TpuPlacement.on_cpu,
    dtype=precision.DTYPES[step_options.precision],
  )
  forms = fast_modeling.forms(False, **how)
  if packed:
    forms = packing.forms(len(arrays[0]), **how)
    arrays[1] = (np.arange(17) < [[17], [10], [2], [16], [9], [2]]).astype("i4")
    arrays[:3] = packing.pack_arrays(*arrays[:3], 4)
  model_fn = run_classifier.model_fn_builder(
    config,
    3,
    None,
    1e-3,
    10,
    2,
    use_tpu=False,
    use_one_hot_embeddings=True,
    forms=forms,
    optimizer_class=fast_optimization.FusedAdamWeightDecayOptimizer,
    head_dropout=0,  # XLA draws other masks from the same key
    step_options=step_options,
  )

  def take_step(*columns):
    features = dict(zip(names, columns))
    spec = model_fn(features, None, tf.estimator.ModeKeys.TRAIN, {}, None)
    with tf.control_dependencies([spec.train_op]):
      return tf.identity(spec.loss)

  with tf.Graph().as_default(), tf.Session() as running:
    columns = [tf.constant(array) for array in arrays]
    if compiled:
      (loss,) = tf.xla.experimental.compile(take_step, columns)
    else:
      loss = take_step(*columns)
    running.run(tf.global_variables_initializer())
    tf.train.Saver(tf.trainable_variables()).restore(running, checkpoint)
    return [running.run(loss) for _ in range(4)]


@pytest.mark.parametrize(
  ("step", "tolerance"),
  [
    ({}, 1e-5),
    ({"gradient_accumulation_steps": 3}, 1e-5),
    # XLA rounds to bfloat16 at other places.
    ({"precision": "mixed_bfloat16", "packed": True}, 1e-2),
  ],
  ids=str,
)
def test_step_compiled_by_xla_trains_as_the_plain_one(
  golden, golden_config, golden_checkpoint, step, tolerance
):
  config = modeling.BertConfig.from_json_file(golden_config)
  config.num_hidden_layers = 1  # XLA compiles three in as many seconds more
  both = [
    losses(golden, config, golden_checkpoint, compiled=compiled, **step)
    for compiled in (True, False)
  ]
  np.testing.assert_allclose(*both, rtol=tolerance)
  assert len(set(both[0])) > 2
