"""Lists what crosses between host and GPU in a step, without a GPU.

  python benchmarks/crossings.py               both forms, at 2 and 3 layers
  python benchmarks/crossings.py --every       each crossing, not sums by line
  python benchmarks/crossings.py -- --precision=mixed_float16
                                               with more flags of the program

Needs a CUDA build of TensorFlow (the package `tensorflow` under Linux; without
CUDA's libraries will do), which registers the kernels of a GPU on any machine:
which operations have one, and which of their arguments it wants in the memory
of the host. The script trains, evaluates and predicts a small task with
`run_classifier.main`, which is told that there is a GPU, keeps the graph and
the fetches of each kind of step, and places the operations as TensorFlow's
placer would. An edge from the GPU's memory to the host's makes the host wait
for the GPU; the other way it is a copy that nobody waits for. Each is listed
with the line of our code that made its operation.

What is not simulated: grappler, but for what depends on constants alone, which
it folds.
"""

import argparse
import collections
import contextlib
import functools
import json
import os
from pathlib import Path
import re
import sys
import tempfile
from typing import NamedTuple
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl.testing import flagsaver
import tensorflow.compat.v1 as tf
from tensorflow.python.client import session
from tensorflow.python.framework import kernels, op_def_registry

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

HOST, GPU = "host", "GPU"
# Types that TensorFlow never puts into a GPU's memory.
_ON_HOST = {tf.string, tf.resource, tf.variant}
# Fold to a constant, but are no function of their inputs alone.
_NOT_FOLDED = re.compile(
  "Placeholder|Variable|VarHandleOp|Random|Iterator|PyFunc|NoOp|Assert"
)


# ---------------------------------------------------------------------------
# Kernels


def is_cuda_build():
  """Returns whether this TensorFlow was built with CUDA."""
  return tf.test.is_built_with_cuda()


@functools.cache
def _kernels(op_type):
  return kernels.get_registered_kernels_for_op(op_type).kernel


def find_kernel(op, kind):
  """Returns the KernelDef of an operation on "CPU" or "GPU", None for none.

  One that is registered for any device serves where the kind has none.
  """
  for device in (kind, "DEFAULT"):
    for kernel in _kernels(op.type):
      if kernel.device_type == device and all(
        _allows(op, constraint) for constraint in kernel.constraint
      ):
        return kernel
  return None


def _allows(op, constraint):
  """Returns whether an operation's attribute is one that a kernel takes."""
  value = op.get_attr(constraint.name)
  values = value if isinstance(value, list) else [value]
  allowed = constraint.allowed_values.list.type
  return all(tf.as_dtype(v).as_datatype_enum in allowed for v in values)


def host_arguments(op, kernel):
  """Returns which inputs and outputs of a kernel are in the host's memory.

  Args:
    kernel: a GPU's KernelDef.

  Returns:
    Two lists of bool.
  """
  definition = op_def_registry.get(op.type)
  sides = []
  for arguments, tensors in (
    (definition.input_arg, op.inputs),
    (definition.output_arg, op.outputs),
  ):
    names = [a.name for a in arguments for _ in range(_length(op, a))]
    sides.append(
      [
        name in kernel.host_memory_arg or tensor.dtype.base_dtype in _ON_HOST
        for name, tensor in zip(names, tensors)
      ]
    )
  return sides


def _length(op, argument):
  """Returns how many tensors an argument of an OpDef stands for."""
  if argument.number_attr:
    return op.get_attr(argument.number_attr)
  if argument.type_list_attr:
    return len(op.get_attr(argument.type_list_attr))
  return 1


# ---------------------------------------------------------------------------
# A step


class Step(NamedTuple):
  """A call of the session.

  Attributes:
    kind: "training", "evaluation" or "prediction".
    operations: those that run, each after what it waits for.
    fetches: set of the tensors that the caller gets.
  """

  kind: str
  operations: list
  fetches: set


def make_step(graph, fetches, feeds):
  """Returns the `Step` of the arguments of a call of the session."""
  elements = [
    graph.as_graph_element(one, allow_operation=True)
    for one in tf.nest.flatten(_as_structure(fetches))
    if one is not None
  ]
  tensors = {one for one in elements if isinstance(one, tf.Tensor)}
  fed = {graph.as_graph_element(tensor).op for tensor in feeds or {}}
  left = [getattr(one, "op", one) for one in elements]
  needed = set(left)
  while left:
    op = left.pop()
    before = [] if op in fed else [t.op for t in op.inputs]
    before += [] if op in fed else op.control_inputs
    left += [one for one in before if one not in needed]
    needed.update(before)
  ordered = [op for op in graph.get_operations() if op in needed]
  return Step(_find_kind(fetches["caller"], ordered), ordered, tensors)


def _find_kind(wanted, operations):
  """Returns what an Estimator wants of a call of the session, a phrase."""
  if any("ApplyAdam" in op.type for op in operations):
    return "training"
  return "prediction" if isinstance(wanted, dict) else "evaluation"


def _as_structure(fetches):
  """Returns fetches without hooks' SessionRunArgs and what they add."""
  if isinstance(fetches, dict):
    return [_as_structure(one) for one in fetches.values()]
  if isinstance(fetches, (list, tuple)):
    return [_as_structure(one) for one in fetches]
  return fetches


def record_steps(flags):
  """Runs the program on this machine's CPU as if it had a GPU.

  Returns:
    The last `Step` of each kind, by kind.
  """
  import run_classifier

  found = {}
  run = session.BaseSession.run

  def record(self, fetches, feed_dict=None, *args, **kwargs):
    if isinstance(fetches, dict) and "caller" in fetches:
      step = make_step(self.graph, fetches, feed_dict)
      found[step.kind] = step
    return run(self, fetches, feed_dict, *args, **kwargs)

  recording = mock.patch.object(session.BaseSession, "run", record)
  with pretend_gpu(), flagsaver.flagsaver(), recording:
    run_classifier.main(run_classifier.FLAGS(["run", *flags]))
  return found


@contextlib.contextmanager
def pretend_gpu():
  """Lets TensorFlow list a GPU; its sessions compute the graph as it is."""
  from bert_classifier import gpu

  lists, start = tf.config.list_physical_devices, session.BaseSession.__init__
  device = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")

  def list_devices(kind=None):
    return [device] if kind == "GPU" else lists(kind)

  def start_unoptimized(self, target="", graph=None, config=None):
    config = config or tf.ConfigProto()
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    start(self, target, graph, config)

  with (
    mock.patch.object(tf.config, "list_physical_devices", list_devices),
    mock.patch.object(
      tf.config.experimental, "get_device_details", lambda _: {}
    ),
    mock.patch.object(gpu, "choose_for_process"),  # there is none to choose
    mock.patch.object(session.BaseSession, "__init__", start_unoptimized),
  ):
    yield


# ---------------------------------------------------------------------------
# Placement


def place(operations):
  """Returns the device of each operation: {operation: HOST or GPU}.

  As TensorFlow's placer does with one GPU: what is not said to be elsewhere is
  on the GPU where it has a kernel there; operations of one resource are
  together; what has no input is where all its readers are, and what asks for a
  shape where its input is.
  """
  devices = {}
  for group in _colocated(operations):
    asked = {_asked_device(op) for op in group} - {None}
    able = all(_prefers_gpu(op) for op in group)
    device = HOST if HOST in asked or not able else GPU
    devices.update(dict.fromkeys(group, device))
  for op in operations:
    if _asked_device(op) is None and op.type in ("Shape", "Size", "Rank"):
      devices[op] = devices[op.inputs[0].op]
  for op in operations:
    if op.inputs or len(op.outputs) != 1 or _asked_device(op):
      continue
    readers = {
      devices[reader]
      for reader in (*op.outputs[0].consumers(), *op._control_outputs)
      if reader in devices
    }
    if len(readers) == 1 and op.outputs[0].dtype not in _ON_HOST:
      devices[op] = readers.pop()
  return devices


def _asked_device(op):
  """Returns the device that the graph says, None where it says none."""
  kind = tf.DeviceSpec.from_string(op.device).device_type
  return {"CPU": HOST, "GPU": GPU}.get(kind)


def _prefers_gpu(op):
  """Returns whether the placer takes a GPU where the graph says nothing."""
  on_gpu, on_cpu = (find_kernel(op, kind) for kind in ("GPU", "CPU"))
  return bool(on_gpu) and not (on_cpu and on_cpu.priority > on_gpu.priority)


def _colocated(operations):
  """Yields lists of operations that must be on one device."""
  parent = {op: op for op in operations}

  def root(op):
    while parent[op] is not op:
      op = parent[op]
    return op

  for op in operations:
    for tensor in op.inputs:
      if tensor.dtype == tf.resource and tensor.op in parent:
        parent[root(op)] = root(tensor.op)
    for name in op.colocation_groups():
      with contextlib.suppress(KeyError):
        other = op.graph.get_operation_by_name(name.decode()[len("loc:@") :])
        if other in parent:
          parent[root(op)] = root(other)
  groups = collections.defaultdict(list)
  for op in operations:
    groups[root(op)].append(op)
  return groups.values()


def find_constants(operations):
  """Returns the set of operations that depend on nothing but constants."""
  constants = set()
  for op in operations:
    folds = op.type == "Const" or (
      op.inputs
      and not _NOT_FOLDED.search(op.type)
      and all(tensor.op in constants for tensor in op.inputs)
    )
    if folds:
      constants.add(op)
  return constants


# ---------------------------------------------------------------------------
# Crossings


class Crossing(NamedTuple):
  """A tensor that a step moves between host and GPU.

  Attributes:
    to_host: whether it goes from the GPU to the host.
    tensor: what moves.
    reader: the first operation that wants it there, None for the caller.
    conditional: whether it moves only where a condition holds.
  """

  to_host: bool
  tensor: tf.Tensor
  reader: object
  conditional: bool


def list_crossings(step):
  """Returns the `Crossing`s of a `Step`, one for each tensor and direction."""
  devices, constants = place(step.operations), find_constants(step.operations)
  memory = {op: _memory(op, devices[op]) for op in step.operations}
  found = {}
  for reader in step.operations:
    if reader in constants:
      continue
    for tensor, to in zip(reader.inputs, memory[reader][0]):
      if tensor.op not in memory:  # a fed tensor's
        continue
      side = memory[tensor.op][1][tensor.value_index]
      if tensor.op not in constants and side != to:
        found.setdefault((tensor, to), reader)
  for tensor in step.fetches:
    if memory[tensor.op][1][tensor.value_index] == GPU:
      found.setdefault((tensor, HOST), None)
  return [
    Crossing(to == HOST, tensor, reader, tensor.op.type == "Switch")
    for (tensor, to), reader in found.items()
  ]


def _memory(op, device):
  """Returns where an operation's inputs and outputs are, two lists."""
  if device == HOST:
    return [HOST] * len(op.inputs), [HOST] * len(op.outputs)
  return [
    [HOST if on_host else GPU for on_host in side]
    for side in host_arguments(op, find_kernel(op, "GPU"))
  ]


def find_without_kernel(step):
  """Returns the operations that are on the host for want of a GPU's kernel.

  But for what brings the data and what computes on purpose in Python.
  """
  devices = place(step.operations)
  return [
    op
    for op in step.operations
    if devices[op] == HOST
    and _asked_device(op) is None
    and op.type != "PyFunc"
    and not find_kernel(op, "GPU")
    and not _is_with_resource_of_host(op)
  ]


def _is_with_resource_of_host(op):
  """Returns whether an operation's resource, an iterator say, is the host's."""
  return any(
    tensor.dtype == tf.resource and _asked_device(tensor.op) == HOST
    for tensor in op.inputs
  )


def find_line(op):
  """Returns `file:line` of the innermost of our frames that made an operation.

  Of a gradient it is the line of the operation that it is the gradient of.
  """
  for candidate in (op, getattr(op, "_original_op", None)):
    frames = candidate.traceback if candidate is not None else ()
    for frame in reversed(list(frames)):
      path = Path(frame.filename)
      if path.parent in (ROOT, ROOT / "bert_classifier"):
        return f"{path.relative_to(ROOT)}:{frame.lineno}"
  return "tensorflow"


# ---------------------------------------------------------------------------
# The table


def write_task(folder, layers):
  """Writes a small task and the configuration of a model of so many layers.

  Returns:
    The flags that train it for a few steps, evaluate it and predict with it.
  """
  for split, rows in (("train", 24), ("dev", 16), ("test", 16)):
    lines = (ROOT / "sample/data" / f"{split}.tsv").read_text().splitlines()
    (folder / f"{split}.tsv").write_text("\n".join(lines[:rows]) + "\n")
  config = dict(
    vocab_size=len((ROOT / "sample/vocab.txt").read_text().splitlines()),
    hidden_size=16,
    num_hidden_layers=layers,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=16,
    type_vocab_size=2,
  )
  (folder / "bert_config.json").write_text(json.dumps(config))
  return [
    "--task_name=cola",
    f"--data_dir={folder}",
    f"--vocab_file={ROOT / 'sample/vocab.txt'}",
    f"--bert_config_file={folder / 'bert_config.json'}",
    f"--output_dir={folder / 'output'}",
    "--max_seq_length=16",
    "--train_batch_size=8",
    "--eval_batch_size=8",
    "--predict_batch_size=8",
    "--num_train_epochs=1",
    "--eval_report=false",
    "--do_train",
    "--do_eval",
    "--do_predict",
  ]


FORMS = {"real tokens": True, "all positions": False}


def record(form, layers, more_flags=()):
  """Returns {kind: Step} of a form of a model of so many layers."""
  with tempfile.TemporaryDirectory() as folder:
    flags = write_task(Path(folder), layers)
    return record_steps([*flags, f"--skip_padding={FORMS[form]}", *more_flags])


class Counts(NamedTuple):
  """How many tensors a step moves between host and GPU.

  Attributes:
    waits: to the host, in every step.
    results: to the host, for the caller.
    logged: to the host, where the step is logged.
    copies: to the GPU.
  """

  waits: int
  results: int
  logged: int
  copies: int


def count(step):
  """Returns the `Counts` of a `Step`."""
  crossings = list_crossings(step)
  to_host = [one for one in crossings if one.to_host]
  logged = sum(one.conditional for one in to_host)
  results = sum(one.reader is None for one in to_host)
  waits = len(to_host) - logged - results
  return Counts(waits, results, logged, len(crossings) - len(to_host))


def count_by_layer(steps):
  """Returns the `Counts` of a step without layers, and of a layer.

  Args:
    steps: {number of layers: `Step`}, two.
  """
  (few, first), (many, second) = sorted(
    (number, count(step)) for number, step in steps.items()
  )
  layer = [(m - n) // (many - few) for n, m in zip(first, second)]
  step = [n - few * one for n, one in zip(first, layer)]
  return Counts(*step), Counts(*layer)


def describe(steps, every):
  """Yields the lines on the steps of one form.

  Args:
    steps: {number of layers: {kind: Step}}.
    every: whether to list each crossing instead of sums by line.
  """
  most = steps[max(steps)]
  for kind in most:
    step, layer = count_by_layer({n: of[kind] for n, of in steps.items()})
    yield (
      f"  {kind}: to the host {step.waits} a step and {layer.waits} a layer,"
      f" {step.results} results, {step.logged} more where it is logged; to the"
      f" GPU {step.copies} and {layer.copies}"
    )
    yield from _list_by_line(most[kind], every)
    for op in find_without_kernel(most[kind]):
      yield f"    no kernel of a GPU: {op.type} {op.name}, {find_line(op)}"


def _list_by_line(step, every):
  """Yields lines on the crossings of a step, first those to the host."""
  sums = collections.Counter()
  for one in list_crossings(step):
    reader = one.reader.type if one.reader else "the caller"
    where = "to the host" if one.to_host else "to the GPU"
    where += ", where logged" * one.conditional
    made = f"{one.tensor.op.type} of {find_line(one.tensor.op)}"
    read = f", read by {reader}"
    read += f" of {find_line(one.reader)}" * bool(one.reader)
    name = f" ({one.tensor.name})" if every else ""
    sums[(not one.to_host, f"{where}: {made}{read}{name}")] += 1
  for (_, line), number in sorted(sums.items()):
    yield f"    {number:3} {line}"


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--every", action="store_true", help="no sums by line")
  parser.add_argument("flags", nargs="*", help="of the program")
  arguments = parser.parse_args()
  if not is_cuda_build():
    sys.exit(
      "this TensorFlow knows no kernels of a GPU; in an environment of its own:"
      " pip install 'tensorflow==2.21.*' and the rest of requirements-gpu.txt"
    )
  for form in FORMS:
    print(form)
    steps = {number: record(form, number, arguments.flags) for number in (2, 3)}
    for line in describe(steps, arguments.every):
      print(line)


if __name__ == "__main__":
  main()
