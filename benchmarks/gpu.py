"""Checks a GPU against the CPU, and measures training steps on it.

  python benchmarks/gpu.py                 all of it, under ten minutes
  python benchmarks/gpu.py --device=cpu    tiny: does the script itself work?

Prints what is there (GPU, driver, versions), then

  losses  of five training steps without dropout, on the GPU and on the CPU:
          their largest relative difference, without TF32 (at most 1e-5) and
          with it (at most 1e-3), with real tokens and with all positions
  steps   of both forms, of batches with the lengths of CoLA, MNLI and MRPC, in
          float32, TF32, float16 (--precision=mixed_float16) and compiled by
          XLA (all positions alone, for each new shape is compiled
          anew), by batch size: the median, the first step, the peak of the
          GPU's memory, and kernels and copies of a step as the profiler counts
          them; beside `transformers` where PyTorch sees the GPU

as one table, and PASS, or what failed. What --seconds leave no time for is said
to be not measured. Weights are random, the model has 6 layers of 384.
"""

import argparse
import functools
import itertools
import json
import os
from pathlib import Path
import select
import statistics
import subprocess
import sys
import time

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# Deciles of the tokens of 1,500 training examples, uncased, at most 128.
LENGTHS = {
  "CoLA": [5, 8, 9, 10, 11, 12, 13, 14, 17, 20, 33],
  "MNLI": [7, 19, 25, 29, 34, 38, 42, 47, 54, 64, 128],
  "MRPC": [19, 36, 41, 45, 50, 54, 58, 61, 65, 70, 103],
}
FORMS = {"real tokens": True, "all positions": False}
PRECISIONS = "float32", "TF32", "float16", "XLA"
FLAGS = {"float16": "mixed_float16"}  # --precision, where it is not float32
BOUNDS = {"float32": 1e-5, "TF32": 1e-3}  # of the losses' relative difference
MODEL = dict(
  vocab_size=30522,
  hidden_size=384,
  num_hidden_layers=6,
  num_attention_heads=12,
  intermediate_size=1536,
  type_vocab_size=2,
)
SIZES = dict(length=128, batches=(32, 64), steps=30, model=MODEL)
TINY = dict(
  length=16,
  batches=(4,),
  steps=3,
  model=dict(
    MODEL, vocab_size=50, hidden_size=16, num_hidden_layers=1,
    num_attention_heads=2, intermediate_size=32,
  ),
)  # fmt: skip
TOO_LATE = "not measured: the time is over"
_SPARE_SECONDS = 90  # for the row that is under way when the time is over
LOSSES = 5  # steps whose losses are compared
_BATCHES = 8  # that the steps take in turn
_ROW = "{:14} {:5} {:>5} {:14} {:>8} {:>9} {:>9} {:>8} {:>7}"


# ---------------------------------------------------------------------------
# The work


def make_batches(task, size, sizes):
  """Returns `_BATCHES` batches, each the features of a step, NumPy arrays.

  Args:
    task: whose lengths they have.
    size: examples of a batch.
    sizes: `SIZES` or `TINY`.
  """
  import numpy as np

  random = np.random.default_rng(7)
  length, shape = sizes["length"], (_BATCHES * size, sizes["length"])
  shares = random.random(shape[0])
  longest = np.interp(shares, np.linspace(0, 1, 11), LENGTHS[task])
  longest = np.clip(np.round(longest), 2, length)[:, np.newaxis]
  mask = (np.arange(length) < longest).astype(np.int32)
  ids = random.integers(1, sizes["model"]["vocab_size"], shape)
  columns = dict(
    input_ids=(ids * mask).astype(np.int32),
    input_mask=mask,
    segment_ids=(np.arange(length) > longest // 2).astype(np.int32) * mask,
    label_ids=random.integers(0, 2, shape[0]).astype(np.int32),
  )
  return [
    {name: values[start : start + size] for name, values in columns.items()}
    for start in range(0, len(ids), size)
  ]


def build_step(batches, options, precision, sizes, dropout):
  """Adds a training step to the graph; returns its spec.

  Args:
    batches: see `make_batches`.
    options: `options.DeviceOptions`.
    precision: of `PRECISIONS`.
    sizes: `SIZES` or `TINY`.
    dropout: of layers, attention and head alike.
  """
  import tensorflow.compat.v1 as tf

  from bert_classifier import (
    device_choice,
    fast_modeling,
    fast_optimization,
    real_tokens,
  )
  from bert_classifier import precision as precisions
  from bert_classifier.options import StepOptions
  import modeling
  import run_classifier

  placement = device_choice.make_placement(options)
  step_options = StepOptions(precision=FLAGS.get(precision, "float32"))
  heads = sizes["model"]["num_attention_heads"]
  dataset = tf.data.Dataset.from_generator(
    lambda: itertools.cycle(batches),
    output_signature={
      name: tf.TensorSpec(value.shape, value.dtype)
      for name, value in batches[0].items()
    },
  )
  if placement.skip_padding:
    add = functools.partial(real_tokens.add_to, num_heads=heads)
    dataset = dataset.map(tf.autograph.experimental.do_not_convert(add))
  with tf.device("/device:CPU:0"):
    features = tf.data.make_one_shot_iterator(dataset.prefetch(4)).get_next()
  config = modeling.BertConfig(
    **sizes["model"],
    hidden_dropout_prob=dropout,
    attention_probs_dropout_prob=dropout,
  )
  model_fn = run_classifier.model_fn_builder(
    config,
    2,
    None,
    5e-5,
    1000,
    10,
    False,
    False,
    seed=3,
    head_dropout=dropout,
    placement=placement,
    forms=fast_modeling.forms(
      placement.skip_padding,
      placement.on_cpu,
      precisions.DTYPES[step_options.precision],
      on_host=placement.on_host,
    ),
    optimizer_class=fast_optimization.FusedAdamWeightDecayOptimizer,
    step_options=step_options,
  )
  return model_fn(features, None, tf.estimator.ModeKeys.TRAIN, {})


def open_session(options, precision, on_gpu):
  """Returns a session that computes in a precision."""
  import tensorflow.compat.v1 as tf

  from bert_classifier import devices

  config = devices.session_config(options)
  if not on_gpu:
    config.device_count["GPU"] = 0
  tf.compat.v2.config.experimental.enable_tensor_float_32_execution(
    precision == "TF32"
  )
  return tf.Session(config=config)


def choose_options(form, precision):
  """Returns the `options.DeviceOptions` of a row of the table."""
  from bert_classifier.options import DeviceOptions

  return DeviceOptions(skip_padding=FORMS[form], use_xla=precision == "XLA")


def compute_losses(form, precision, on_gpu, sizes):
  """Returns the losses of the first steps, without dropout."""
  import tensorflow.compat.v1 as tf

  options = choose_options(form, precision)
  batches = make_batches("MRPC", sizes["batches"][0], sizes)
  with tf.Graph().as_default():
    tf.set_random_seed(5)
    spec = build_step(batches, options, precision, sizes, dropout=0.0)
    with open_session(options, precision, on_gpu) as session:
      session.run(tf.global_variables_initializer())
      return [
        float(session.run([spec.train_op, spec.loss])[1]) for _ in range(LOSSES)
      ]


def measure_steps(form, task, batch, precision, sizes):
  """Returns the figures of the training steps of one row of the table."""
  import tensorflow.compat.v1 as tf

  from bert_classifier import gpu

  options, on_gpu = choose_options(form, precision), bool(gpu.list_gpus())
  forget_peak(on_gpu)
  with tf.Graph().as_default():
    batches = make_batches(task, batch, sizes)
    spec = build_step(batches, options, precision, sizes, dropout=0.1)
    wanted = gpu.find_wanted()
    feed = {} if wanted is None else {wanted: False}
    with open_session(options, precision, on_gpu) as session:
      session.run(tf.global_variables_initializer())
      times = []
      for _ in range(2 + sizes["steps"]):
        began = time.perf_counter()
        session.run([spec.train_op, spec.loss], feed)
        times.append(1000 * (time.perf_counter() - began))
      peak = read_peak(on_gpu)
      kernels, copies = count_launches(session, spec.train_op, feed)
  return dict(
    median=statistics.median(times[2:]),
    first=times[0],
    peak=peak,
    kernels=kernels,
    copies=copies,
  )


def forget_peak(on_gpu):
  """Begins anew to watch the GPU's memory."""
  import tensorflow.compat.v1 as tf

  if on_gpu:
    tf.compat.v2.config.experimental.reset_memory_stats("GPU:0")


def read_peak(on_gpu):
  """Returns the most bytes of the GPU that were taken, None without one."""
  import tensorflow.compat.v1 as tf

  if not on_gpu:
    return None
  info = tf.compat.v2.config.experimental.get_memory_info("GPU:0")
  return info["peak"]


def count_launches(session, op, feed):
  """Returns how many kernels and copies the profiler counts in a step.

  None for both where it sees no GPU.
  """
  import tensorflow.compat.v1 as tf

  collected = tf.RunMetadata()
  options = tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE)
  session.run(op, feed, options=options, run_metadata=collected)
  return sum_launches(collected.step_stats)


def sum_launches(step_stats):
  """Returns the kernels and the copies of a StepStats; None, None without.

  TensorFlow lists what a GPU did by streams, and once more all kernels and all
  copies: the device "/device:GPU:0/stream:all", and "/device:GPU:0/memcpy".
  """
  sizes = {one.device: len(one.node_stats) for one in step_stats.dev_stats}
  kernels, copies = (
    sum(size for device, size in sizes.items() if device.endswith(ending))
    for ending in ("/stream:all", "/memcpy")
  )
  return (kernels, copies) if kernels else (None, None)


def measure_transformers(task, batch, precision, sizes):
  """Returns the median of `transformers`' training steps, each batch cut."""
  import torch
  import transformers

  torch.backends.cuda.matmul.allow_tf32 = precision == "TF32"
  device = "cuda" if torch.cuda.is_available() else "cpu"
  config = transformers.BertConfig(
    **sizes["model"], hidden_act="gelu_pytorch_tanh", num_labels=2
  )
  model = transformers.BertForSequenceClassification(config).to(device).train()
  optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, fused=True)
  scaler = torch.amp.GradScaler(device, enabled=precision == "float16")
  batches, times = make_batches(task, batch, sizes), []
  for index in range(2 + sizes["steps"]):
    columns = batches[index % len(batches)]
    longest = int(columns["input_mask"].sum(1).max())
    ids, mask, segments, labels = (
      torch.from_numpy(values[:, :longest] if values.ndim == 2 else values)
      .long()
      .to(device)
      for values in columns.values()
    )
    began = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(device, torch.float16, precision == "float16"):
      loss = model(ids, mask, segments, labels=labels).loss
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
    if device == "cuda":
      torch.cuda.synchronize()
    times.append(1000 * (time.perf_counter() - began))
  return dict(median=statistics.median(times[2:]), first=times[0])


# ---------------------------------------------------------------------------
# Processes: each of them its own, for what one leaves on the GPU


def serve(sizes):
  """Answers each line of standard input, a job, with a line of JSON."""
  jobs = dict(losses=compute_losses, steps=measure_steps)
  jobs["transformers"] = measure_transformers
  answers = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)  # what libraries print goes elsewhere
  for line in sys.stdin:
    name, arguments = json.loads(line)
    try:
      if name != "transformers":
        import estimator_bridge

        estimator_bridge.quiet()
        estimator_bridge.tf.compat.v1.enable_resource_variables()
      answer = jobs[name](**arguments, sizes=sizes)
    except Exception as error:  # of one row, which the table tells
      answer = f"{type(error).__name__}: {str(error).splitlines()[0]:.100}"
    print(json.dumps(answer), file=answers, flush=True)


class Process:
  """A process that does jobs, started when there is one.

  Args:
    device: "gpu" or "cpu", the parent's flag.
    ends: time.monotonic at which it is given up.
    hide: whether the GPU is hidden from it.
  """

  def __init__(self, device, ends, hide=False):
    self._command = [
      *(sys.executable, __file__, "--serve"),
      f"--device={device}",
    ]
    self._ends, self._process = ends, None
    self._environment = {**os.environ, "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    if hide:  # of which TensorFlow need not warn
      self._environment["CUDA_VISIBLE_DEVICES"] = "-1"
      self._environment["TF_CPP_MIN_LOG_LEVEL"] = "3"

  def do(self, name, **arguments):
    """Returns the answer to a job, a sentence where there is none."""
    if self._process is None:
      self._process = subprocess.Popen(
        self._command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=self._environment,
      )
    left = max(0, self._ends - time.monotonic())
    try:
      print(json.dumps([name, arguments]), file=self._process.stdin, flush=True)
      if select.select([self._process.stdout], [], [], left)[0]:
        return json.loads(self._process.stdout.readline())
      answer = "not measured: it did not end in time"
    except (OSError, ValueError):
      answer = f"the process ended with status {self._process.wait()}"
    self.end()
    return answer

  def end(self):
    """Ends the process; another job starts another one."""
    if self._process is not None:
      self._process.kill()
      self._process.communicate()
      self._process = None


# ---------------------------------------------------------------------------
# The report


def describe_machine():
  """Yields lines on GPU, driver and versions."""
  import tensorflow as tf

  from bert_classifier import gpu, machine

  build = tf.sysconfig.get_build_info()
  found = machine.query_nvidia_smi()
  yield f"GPU: {', '.join(' '.join(row) for row in found) or 'none'}"
  query = ["nvidia-smi", "--query-gpu=driver_version,compute_cap"]
  try:
    driver = subprocess.run(
      [*query, "--format=csv,noheader"],
      capture_output=True,
      text=True,
      timeout=10,
      check=True,
    ).stdout.strip()
  except (OSError, subprocess.SubprocessError):
    driver = "none"
  yield f"driver, compute capability: {driver}"
  yield (
    f"Python {sys.version.split()[0]}, TensorFlow {tf.__version__}, CUDA"
    f" {build.get('cuda_version', 'none')}, cuDNN"
    f" {build.get('cudnn_version', 'none')}, made for"
    f" {' '.join(build.get('cuda_compute_capabilities', ['CPU']))}"
  )
  if not gpu.list_gpus():
    yield gpu.explain_missing()


def compare_losses(device, ends):
  """Yields lines on the losses, and whether each is within its bound.

  Args:
    ends: as of `Process`.
  """
  reference = Process(device, ends, hide=True)
  plain = {
    form: reference.do("losses", form=form, precision="float32", on_gpu=False)
    for form in FORMS
  }
  reference.end()
  for precision in BOUNDS:
    # Each its own: what was chosen for products may outlast a precision.
    tested = Process(device, ends)
    for form in FORMS:
      ours = tested.do(
        "losses", form=form, precision=precision, on_gpu=device == "gpu"
      )
      yield judge_losses(form, precision, ours, plain[form])
    tested.end()


def judge_losses(form, precision, ours, plain):
  """Returns a line on losses, and whether they are within their bound.

  Args:
    ours, plain: the GPU's and the CPU's, lists, or sentences.
  """
  name, bound = f"losses, {form}, {precision}", BOUNDS[precision]
  if isinstance(ours, str) or isinstance(plain, str):
    said = [words for words in (ours, plain) if isinstance(words, str)]
    return f"{name}: {'; '.join(said)}", False
  off = [abs(a - b) / abs(b) for a, b in zip(ours, plain)]
  return (
    f"{name}: {max(off):.1e} off the CPU's, of at most {bound:.0e}",
    all(one <= bound for one in off),  # which NaN is not
  )


def list_rows(sizes):
  """Yields the rows of the table: form, task, batch and precision."""
  for precision, batch, task in itertools.product(
    PRECISIONS, sizes["batches"], LENGTHS
  ):
    for form in FORMS:
      if precision != "XLA" or not FORMS[form]:
        yield dict(form=form, task=task, batch=batch, precision=precision)
    if precision != "XLA":
      yield dict(
        form="transformers", task=task, batch=batch, precision=precision
      )


def format_row(row, answer):
  """Returns a line of the table.

  Args:
    row: see `list_rows`.
    answer: dictionary of figures, or a sentence.
  """
  name = row["form"], row["task"], row["batch"], row["precision"]
  if isinstance(answer, str):
    return f"{_ROW.format(*name, '', '', '', '', '').rstrip()} {answer}"

  def show(key, scale=1.0):
    value = answer.get(key)
    return "" if value is None else f"{value * scale:.0f}"

  figures = f"{answer['median']:.1f}", show("first"), show("peak", 2**-20)
  return _ROW.format(*name, *figures, show("kernels"), show("copies")).rstrip()


def measure_rows(device, sizes, ends):
  """Yields a row, and its figures or a sentence, until the time is over.

  Args:
    ends: time.monotonic at which no other row is begun.
  """
  has_torch = device == "cpu" or sees_gpu_with_torch()
  for _, rows in itertools.groupby(
    list_rows(sizes), lambda row: row["precision"]
  ):
    ours, beside = (Process(device, ends + _SPARE_SECONDS) for _ in range(2))
    for row in rows:
      of_transformers = row["form"] == "transformers"
      if of_transformers and not has_torch:
        continue
      if time.monotonic() > ends:
        yield row, TOO_LATE
      elif of_transformers:
        arguments = {key: row[key] for key in ("task", "batch", "precision")}
        yield row, beside.do("transformers", **arguments)
      else:
        yield row, ours.do("steps", **row)
    ours.end()
    beside.end()


def sees_gpu_with_torch():
  """Returns whether PyTorch, with transformers beside it, sees a GPU."""
  code = (
    "import torch, transformers;"
    " raise SystemExit(not torch.cuda.is_available())"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True)
  return done.returncode == 0


def report(device, seconds):
  """Prints the whole.

  Returns:
    What failed, a list of lines, and the number of rows not measured.
  """
  sizes = SIZES if device == "gpu" else TINY
  ends, failed, left_out = time.monotonic() + seconds, [], 0
  for line in describe_machine():
    print(line, flush=True)
  for line, is_good in compare_losses(device, ends + _SPARE_SECONDS):
    print(line, flush=True)
    if not is_good:
      failed.append(line)
  head = "", "task", "batch", "precision", "ms", "first ms", "peak MiB"
  print(_ROW.format(*head, "kernels", "copies"))
  uncounted = 0
  for row, answer in measure_rows(device, sizes, ends):
    line = format_row(row, answer)
    print(line, flush=True)
    if answer == TOO_LATE:
      left_out += 1
    elif row["form"] == "transformers":
      continue
    elif isinstance(answer, str):
      failed.append(line)
    elif device == "gpu" and answer["kernels"] is None:
      uncounted += 1
  if uncounted:
    failed.append(
      f"the profiler counted nothing in {uncounted} rows: it needs CUPTI"
      " (requirements-gpu.txt) and, on some machines, an administrator's rights"
    )
  return failed, left_out


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
  parser.add_argument("--seconds", type=float, default=480)
  parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
  if arguments.serve:
    serve(SIZES if arguments.device == "gpu" else TINY)
    return
  import estimator_bridge

  estimator_bridge.quiet()
  if arguments.device == "gpu":
    from bert_classifier import gpu

    if not gpu.list_gpus():
      sys.exit(gpu.explain_missing())
  failed, left_out = report(arguments.device, arguments.seconds)
  if left_out:
    print(f"{left_out} rows were not measured: give more --seconds")
  print("PASS" if not failed else "FAILED:\n" + "\n".join(failed))
  sys.exit(bool(failed))


if __name__ == "__main__":
  main()
