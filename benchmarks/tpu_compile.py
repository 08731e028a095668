"""Compiles the training step by the compiler of a TPU, without a TPU.

In the project's environment (TensorFlow 2.21):

  python benchmarks/tpu_compile.py --tpu_python=.venv-tpu/bin/python \\
    --work=tpu_work

where .venv-tpu is an environment of its own, with `pip install jax libtpu`.
The step is what `run_classifier.py --use_tpu` hands to each core of one host:
model, dropout, gradients, their sum over the cores, clipping, AdamW, with all
variables and slots as arguments that are updated in place. Each case is a
generation of TPU, a size of BERT, a number of positions and the examples of a
core. A compilation takes one to some fifteen minutes of processor time, and
some gigabytes.

What a case gave is a JSON file in --work, and is not computed again. When all
of them are there, or with --table at any time, they are printed as a table:

  arguments    GiB on each core: variables, slots and the batch
  temporaries  GiB on each core: activations, gradients and what else is held
  compiled in  minutes of processor time

A case that does not fit says how much it wants, and how much there is. What it
takes to be fed, to take several steps a call and to send results is not in it.
"""

import argparse
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# The topology of one host, and its cores. The two of a v4 chip are one.
_HOSTS = {
  "v2": (dict(topology_name="v2:2x2x1"), 8),
  "v3": (dict(topology_name="v3:2x2x1"), 8),
  "v4": (dict(topology_name="v4:2x2x1", chip_config_name="megacore"), 4),
}
# Arguments of BertConfig: of the released uncased models.
_SIZES = {
  "base": dict(vocab_size=30522, type_vocab_size=2),
  "large": dict(
    vocab_size=30522,
    hidden_size=1024,
    num_hidden_layers=24,
    num_attention_heads=16,
    intermediate_size=4096,
    type_vocab_size=2,
  ),
}
_GIBIBYTE = 1 << 30


class Case(NamedTuple):
  """What is compiled.

  Attributes:
    size: a name in `_SIZES`.
    length: positions of an example.
    examples: of a core.
    generation: a name in `_HOSTS`.
  """

  size: str
  length: int
  examples: int
  generation: str

  def __str__(self):
    return "-".join(map(str, self))

  @property
  def cores(self):
    return _HOSTS[self.generation][1]

  @property
  def program(self):
    """Returns the name of its program, which generations share."""
    sizes = self.size, self.length, self.examples, self.cores
    return "-".join(map(str, sizes)) + "-cores.mlir"


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--tpu_python", help="Python that has jax and libtpu")
  parser.add_argument("--work", type=pathlib.Path, help="folder of results")
  parser.add_argument("--sizes", default="base,large")
  parser.add_argument("--lengths", default="128,512")
  parser.add_argument("--examples", default="32", help="of a core")
  parser.add_argument("--generations", default="v2,v3,v4")
  parser.add_argument("--table", action="store_true", help="compile nothing")
  parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.child:
    case, path = arguments.child
    child(Case(*json.loads(case)), pathlib.Path(path))
    return
  if not arguments.table:
    compile_all(arguments)
  print_table(arguments.work)


def compile_all(arguments):
  """Compiles what is asked for and not there, a process at a time."""
  arguments.work.mkdir(parents=True, exist_ok=True)
  cases = itertools.product(
    arguments.sizes.split(","),
    map(int, arguments.lengths.split(",")),
    map(int, arguments.examples.split(",")),
    arguments.generations.split(","),
  )
  for case in itertools.starmap(Case, cases):
    result = arguments.work / f"{case}.json"
    if result.exists():
      continue
    print(case, end=": ", flush=True)
    program = arguments.work / case.program
    if not program.exists():
      run_child(sys.executable, case, program)
    run_child(arguments.tpu_python, case, result)
    print(json.loads(result.read_text()), flush=True)


def run_child(python, case, path):
  """Runs this script again, to write a file; ends it where that fails."""
  done = subprocess.run(
    [python, __file__, "--child", json.dumps(case), str(path)],
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode:
    sys.exit(f"{path}: {done.stderr[-3000:]}")


def child(case, path):
  """Writes the program of a case, or what its compiler makes of it."""
  if path.suffix == ".mlir":
    content = make_program(case)
  else:
    program = path.with_name(case.program).read_text(encoding="utf-8")
    content = json.dumps(compile_program(case, program))
  temporary = path.with_suffix(".tmp")
  temporary.write_text(content, encoding="utf-8")
  temporary.replace(path)


# ---------------------------------------------------------------------------
# In the project's environment: the program


def make_program(case):
  """Returns a training step in StableHLO, as text."""
  import tensorflow as tf
  from tensorflow.python.tpu import tpu_function

  import estimator_bridge  # noqa: F401 - tf.estimator

  tf.compat.v1.enable_resource_variables()
  tf.compat.v1.tpu.cross_replica_sum = sum_over(case.cores)
  specification = describe_batch(case)
  model_fn = make_model_fn(case)

  def step(*columns):
    features = dict(zip(specification, columns))
    with tpu_function.tpu_shard_context(case.cores):
      spec = model_fn(features, None, "train", {}, None)
    with tf.control_dependencies([spec.train_op]):
      return tf.identity(spec.loss)

  built = tf.compat.v1.wrap_function(step, list(specification.values()))
  compiled = tf.function(lambda *batch: built(*batch), jit_compile=True)
  batch = [tf.zeros(spec.shape, spec.dtype) for spec in specification.values()]
  text = compiled.experimental_get_compiler_ir(*batch)(stage="stablehlo")
  # A copy is an operation of XLA that StableHLO does not have.
  return re.sub(r"\bmhlo\.copy (%\S+) :", r"stablehlo.convert \1 :", text)


def describe_batch(case):
  """Returns {feature: its `tf.TensorSpec`} of a core's batch."""
  import tensorflow as tf

  from bert_classifier import features

  return {
    name: tf.TensorSpec([case.examples, *feature.shape], tf.int32)
    for name, feature in features.feature_spec(case.length).items()
  }


def make_model_fn(case):
  """Returns the model_fn, with what `run_classifier.make_model_fn` gives it."""

  from bert_classifier import (
    devices,
    fast_modeling,
    fast_optimization,
    options,
  )
  import modeling
  import run_classifier

  placement = devices.TpuPlacement(
    options.DeviceOptions(
      use_tpu=True, tpu_name="local", num_tpu_cores=case.cores
    )
  )
  return run_classifier.model_fn_builder(
    modeling.BertConfig(**_SIZES[case.size]),
    2,
    None,
    2e-5,
    10_000,
    1_000,
    placement.use_tpu,
    placement.use_one_hot_embeddings,
    placement=placement,
    forms=fast_modeling.forms(
      placement.skip_padding, placement.on_cpu, on_host=placement.on_host
    ),
    optimizer_class=fast_optimization.FusedAdamWeightDecayOptimizer,
  )


def sum_over(cores):
  """Returns `cross_replica_sum` by the operation that can be had on a CPU.

  Its own is one of TPUs alone; both become the same operation of XLA.
  """
  import tensorflow as tf
  from tensorflow.compiler.tf2xla.ops import gen_xla_ops

  def cross_replica_sum(value):
    everyone = tf.constant([list(range(cores))])
    return gen_xla_ops.xla_all_reduce(value, everyone, "Add", "CrossReplica")

  return cross_replica_sum


# ---------------------------------------------------------------------------
# In the environment of jax and libtpu: the compiler


def compile_program(case, program):
  """Returns what the compiler says of a program, a dictionary for JSON."""
  os.environ.update(  # or libtpu asks the network which machine this is
    TPU_SKIP_MDS_QUERY="1",
    TPU_WORKER_HOSTNAMES="localhost",
    TPU_ACCELERATOR_TYPE="v2-8",
    JAX_PLATFORMS="cpu",
  )
  import importlib.metadata

  import jax
  from jax._src import compiler
  from jax._src.interpreters import mlir
  from jax._src.lib import xla_client
  from jax._src.lib.mlir import ir
  from jax.experimental import topologies

  host, cores = _HOSTS[case.generation]
  devices = topologies.get_topology_desc(platform="tpu", **host).devices
  if len(devices) != cores:
    raise ValueError(f"{host} has {len(devices)} cores, not {cores}")
  with mlir.make_ir_context():
    module = ir.Module.parse(program)
  settings = compiler.get_compile_options(num_replicas=cores, num_partitions=1)
  result = {
    **case._asdict(),
    "versions": {
      name: importlib.metadata.version(name) for name in ("jax", "libtpu")
    },
  }
  started, began = time.process_time(), time.monotonic()
  try:
    executable = devices[0].client.compile(
      module, xla_client.DeviceList(tuple(devices)), settings
    )
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    result["exhausted"] = str(error)
  else:
    found = executable.get_compiled_memory_stats()
    result.update(
      arguments=found.argument_size_in_bytes,
      temporaries=found.temp_size_in_bytes,
      outputs=found.output_size_in_bytes - found.alias_size_in_bytes,
      code=found.generated_code_size_in_bytes,
    )
  result["processor"] = time.process_time() - started
  result["wall"] = time.monotonic() - began
  return result


# ---------------------------------------------------------------------------
# The table


def print_table(work):
  """Prints all results of a folder as a table of Markdown."""
  results = [json.loads(path.read_text()) for path in work.glob("*.json")]
  results.sort(key=lambda one: [one[name] for name in Case._fields])
  print(
    "| model | positions | examples a core | TPU | arguments | temporaries"
    " | compiled in |"
  )
  print("| --- " * 7 + "|")
  for one in results:
    cells = [f"BERT-{one['size']}", one["length"], one["examples"]]
    cells += [one["generation"], *describe_memory(one)]
    cells.append(f"{one['processor'] / 60:.1f} min")
    print("|", " | ".join(map(str, cells)), "|")
  print({str(one["versions"]) for one in results})


def describe_memory(one):
  """Returns the two cells of memory."""
  if "exhausted" in one:
    sizes = re.findall(r"\(([\d.]+[GM])\)", one["exhausted"])
    return "does not fit", " of ".join(sizes[:2]) or one["exhausted"]
  return [f"{one[n] / _GIBIBYTE:.2f}" for n in ("arguments", "temporaries")]


if __name__ == "__main__":
  main()
