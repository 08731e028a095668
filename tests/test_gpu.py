"""A GPU that is not there, why, and what leaves one that is."""

import contextlib
import json
import time

from conftest import ROOT, run_python
import crossings
import gpu as benchmark
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tensorflow.python.eager import context
from tensorflow.python.framework import config

from bert_classifier import device_choice, devices, errors, gpu, progress
from bert_classifier.options import DeviceOptions, make_options

# ---------------------------------------------------------------------------
# Why there is none


class Driver:
  """libcuda: the CUDA version that it knows, and what cuInit returns."""

  def __init__(self, version=12050, code=0):
    self._version, self._code = version, code

  def cuDriverGetVersion(self, place):
    place._obj.value = self._version
    return 0

  def cuInit(self, flags):
    assert flags == 0
    return self._code


@pytest.fixture
def cuda_build(monkeypatch):
  """Makes TensorFlow a build with CUDA 12.5 and cuDNN 9 that sees no GPU."""
  build = dict(
    cuda_version="12.5.1",
    cudnn_version="9",
    cuda_compute_capabilities=["sm_60", "compute_90"],
  )
  monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
  monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: True)
  monkeypatch.setattr(tf.sysconfig, "get_build_info", lambda: build)
  monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])


@pytest.fixture
def machine(cuda_build, monkeypatch):
  """Sets the machine's driver, and the libraries that it lacks."""

  def machine(driver=None, lacks=()):
    def open_library(name):
      if name in lacks:
        raise OSError(f"{name}: cannot open shared object file")
      return driver or Driver()

    monkeypatch.setattr(gpu, "open_library", open_library)

  return machine


CAUSES = {
  "no libcuda": (
    dict(lacks=["libcuda.so.1"]),
    "libcuda.so.1, a part of NVIDIA's driver, cannot be opened",
    "Install the driver, 525 or later",
  ),
  "no libnvidia-ml": (
    dict(lacks=["libnvidia-ml.so.1"]),
    "libnvidia-ml.so.1, a part of NVIDIA's driver, cannot be opened",
    "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
  ),
  "a library that cannot be opened": (
    dict(lacks=["libcudnn.so.9", "libcublas.so.12"]),
    "libraries of CUDA cannot be opened: libcublas.so.12 (libcublas.so.12:"
    " cannot open shared object file), libcudnn.so.9",
    "pip install -r requirements-gpu.txt",
  ),
  "an old driver": (
    dict(driver=Driver(version=11040, code=35)),
    "the driver knows CUDA up to 11.4, and this TensorFlow needs 12.0",
    "Install a driver of version 525 or later",
  ),
  "no device": (
    dict(driver=Driver(code=100)),
    "the driver finds none in this machine",
    "start it with --gpus all",
  ),
  "another driver is loaded": (
    dict(driver=Driver(code=803)),
    "the driver does not start (cuInit: 803)",
    "restart of the machine",
  ),
  "something else": (
    dict(),
    "nothing that this program knows of",
    "it computes on GPUs of sm_60 compute_90 or later",
  ),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_a_cuda_build_without_a_gpu_warns_of_the_likely_cause(
  machine, caplog, cause
):
  lacking, words, mend = CAUSES[cause]
  machine(**lacking)
  device_choice.check_request(make_options(do_train=True), None)
  (record,) = caplog.records
  assert record.levelname == "WARNING"
  assert "the CPU computes: TensorFlow sees no GPU" in record.getMessage()
  assert words in record.getMessage() and mend in record.getMessage()
  assert gpu.explain_missing() in record.getMessage()
  asked = make_options(do_train=True, num_gpus=1)
  with pytest.raises(errors.UserError, match="^--num_gpus is 1, but ") as said:
    device_choice.check_request(asked, None)
  assert str(said.value).endswith(gpu.explain_missing())


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_gpu_that_the_environment_hides_is_told_so(
  machine, monkeypatch, hidden
):
  machine()
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
  assert f"CUDA_VISIBLE_DEVICES={hidden!r} hides" in gpu.explain_missing()


def test_a_build_for_the_cpu_says_nothing(monkeypatch, caplog):
  monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: False)
  devices.Placement(DeviceOptions()).check()
  assert not caplog.records
  assert "requirements-gpu.txt" in gpu.explain_missing()


def test_a_gpu_that_is_there_is_not_warned_of(machine, monkeypatch, caplog):
  machine(lacks=["libcuda.so.1"])
  monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [None])
  devices.Placement(DeviceOptions()).check()
  assert not caplog.records


# ---------------------------------------------------------------------------
# What is taken of one that is there


@pytest.mark.parametrize(
  ("flags", "grows", "visible"),
  [
    ({}, True, "0,1,2"),
    ({"gpu_memory_growth": False}, False, "0,1,2"),
    ({"num_gpus": 2}, True, "0,1"),
    ({"num_gpus": 0}, False, ""),
  ],
)
def test_the_eager_context_of_an_estimator_takes_no_more_than_its_sessions(
  monkeypatch, flags, grows, visible
):
  """It is the first to ask for GPUs, and its choice is the process's."""
  three = [
    tf.config.PhysicalDevice(f"/physical_device:GPU:{number}", "GPU")
    for number in range(3)
  ]
  own = context.Context()
  own._initialize_physical_devices()
  own._physical_devices += three
  own._physical_device_to_index.update({d: i for i, d in enumerate(three)})
  own._visible_device_list += three
  own._memory_growth_map = dict.fromkeys(three)
  monkeypatch.setattr(context, "_context", own)
  devices.Placement(DeviceOptions(**flags)).prepare_process()
  found = own.config.gpu_options
  assert (found.allow_growth, found.visible_device_list) == (grows, visible)
  number = len(visible.split(",")) if visible else 0
  assert own.config.device_count["GPU"] == number  # and 0 means none


# ---------------------------------------------------------------------------
# What leaves it: the graph of a GPU, computed by the CPU


def train(steps, log_steps, losses):
  """Runs the hook over a session whose step n has the loss losses[n].

  Returns:
    What the caller got of the loss in each step.
  """
  step = tf.train.get_or_create_global_step()
  loss = tf.gather(tf.constant(losses, tf.float32), step.read_value())
  loss = tf.identity(loss, progress.ProgressHook.LOSS)
  with tf.control_dependencies([loss]):
    count = tf.assign_add(step, 1)
  shown = gpu.send_where_wanted(loss)
  hook = progress.ProgressHook(
    steps,
    batch_size=1,
    examples=steps,
    log_steps=log_steps,
    show=gpu.send_where_wanted,
  )
  with tf.train.MonitoredSession(hooks=[hook]) as session:
    return [session.run([count, shown])[1] for _ in range(steps)]


def test_a_loss_is_sent_in_the_steps_alone_that_are_logged(graph):
  got = train(300, 3, np.arange(1, 301))
  sent = {step + 1: value for step, value in enumerate(got) if value}
  assert sent.keys() == {1, *range(3, 301, 3)}
  assert all(value == step for step, value in sent.items())


def test_a_loss_that_is_not_finite_ends_the_run_at_the_next_logged_step(graph):
  losses = np.r_[np.ones(42), np.full(258, np.nan)]
  with pytest.raises(errors.NotFiniteError, match="loss of step 45 is nan"):
    train(300, 3, losses)


def test_a_number_is_sent_where_nobody_says_otherwise(graph, run):
  assert run(gpu.send_where_wanted(tf.constant(2.5))) == 2.5


def test_the_graph_of_a_gpu_trains_as_that_of_the_cpu(
  classify, training, tmp_path, monkeypatch
):
  losses = []
  for on_cpu in (True, False):
    monkeypatch.setattr(devices.Placement, "on_cpu", on_cpu)
    folder = tmp_path / str(on_cpu)
    assert classify(output_dir=folder, **training).status == 0
    lines = (folder / "history.jsonl").read_text().splitlines()
    losses.append([json.loads(line)["loss"] for line in lines])
    assert len(list(folder.glob("model.ckpt-13.data*"))) == 1
  assert len(losses[0]) == 13
  np.testing.assert_allclose(*losses, rtol=1e-5)


def test_a_deterministic_run_does_all_that_others_do_and_is_recorded(
  classify, training, tmp_path, monkeypatch
):
  asked = []
  experimental = tf.compat.v2.config.experimental
  enable = experimental.enable_op_determinism
  monkeypatch.setattr(
    experimental,
    "enable_op_determinism",
    lambda: asked.append(enable()),
  )
  flags = {**training, "output_dir": tmp_path, "num_train_epochs": 0.5}
  answer = {"predict_text": "He said so .", "predict_text_b": "She did ."}
  try:
    done = classify("--deterministic", "--do_export", **answer, **flags)
    described = classify("--dry_run", **{**flags, "output_dir": "none"})
    more = {"output_dir": tmp_path / "more", "cache_dir": tmp_path / "cache"}
    packed = classify("--pack_sequences", **{**flags, **more})
  finally:
    config.disable_op_determinism()
  for outcome in (done, described, packed):
    assert outcome.status == 0, outcome.log
  assert len(asked) == 1
  manifest = json.loads((tmp_path / "run_manifest.json").read_text())
  assert manifest["settings"]["training"]["deterministic"] is True
  refused = classify("--nodeterministic", **flags)
  assert refused.status == 1
  assert "deterministic was True and is False" in refused.log


# ---------------------------------------------------------------------------
# benchmarks/gpu.py, on the CPU


def test_the_benchmarks_batches_have_the_lengths_of_the_task():
  batches = benchmark.make_batches("MNLI", 64, benchmark.SIZES)
  lengths = np.concatenate([batch["input_mask"].sum(1) for batch in batches])
  deciles = np.percentile(lengths, range(0, 101, 10))
  np.testing.assert_allclose(deciles[:-1], benchmark.LENGTHS["MNLI"][:-1], 0.2)
  for batch in batches:
    assert not (batch["input_ids"] * (1 - batch["input_mask"])).any()


def test_the_benchmark_has_one_loss_for_both_forms(tmp_path):
  losses = [
    benchmark.compute_losses(form, "float32", False, benchmark.TINY)
    for form in benchmark.FORMS
  ]
  assert len(losses[0]) == benchmark.LOSSES and len(set(losses[0])) > 1
  np.testing.assert_allclose(*losses, rtol=1e-5)


def test_the_benchmark_measures_a_row_or_tells_its_error():
  row, *others = benchmark.list_rows(benchmark.TINY)
  answer = benchmark.measure_steps(**row, sizes=benchmark.TINY)
  assert 0 < answer["median"] < answer["first"] and answer["copies"] is None
  line = benchmark.format_row(row, answer)
  assert line.split()[:5] == ["real", "tokens", "CoLA", "4", "float32"]
  told = benchmark.format_row(others[-1], "OutOfMemory: too big")
  assert told.endswith("XLA OutOfMemory: too big")


def test_the_benchmark_counts_kernels_and_copies_once():
  """The profiler lists each by its stream, and once more with all others."""
  stats = tf.RunMetadata().step_stats
  for device, number in (
    ("/job:localhost/replica:0/task:0/device:GPU:0", 90),
    ("/job:localhost/replica:0/task:0/device:CPU:0", 80),
    ("/device:GPU:0/stream:13", 5),
    ("/device:GPU:0/stream:14", 2),
    ("/device:GPU:0/stream:all", 7),
    ("/device:GPU:0/stream:20<MemcpyH2D>", 3),
    ("/device:GPU:0/stream:21<MemcpyD2H>", 1),
    ("/device:GPU:0/memcpy", 4),
    ("/device:GPU:0/sync", 6),
  ):
    one = stats.dev_stats.add(device=device)
    for _ in range(number):
      one.node_stats.add()
  assert benchmark.sum_launches(stats) == (7, 4)
  assert benchmark.sum_launches(tf.RunMetadata().step_stats) == (None, None)


@pytest.mark.parametrize(
  ("ours", "is_good", "words"),
  [
    ([1.0, 2.00001], True, "5.0e-06 off the CPU's, of at most 1e-05"),
    ([1.0, 2.0001], False, "5.0e-05 off the CPU's"),
    ([1.0, float("nan")], False, ""),  # of which max would know nothing
    ("the process ended with status -9", False, "float32: the process ended"),
  ],
)
def test_the_benchmark_fails_where_losses_are_not_the_cpus(
  ours, is_good, words
):
  line, found = benchmark.judge_losses(
    "real tokens", "float32", ours, [1.0, 2.0]
  )
  assert found == is_good and words in line


def test_the_benchmark_ends_in_time_and_after_a_process_that_died(monkeypatch):
  process = benchmark.Process("cpu", ends=0)  # which is over
  assert process.do("losses") == "not measured: it did not end in time"
  process = benchmark.Process("cpu", ends=time.monotonic() + 60)
  monkeypatch.setattr(process, "_command", ["sh", "-c", "exit 7"])
  assert process.do("losses") == "the process ended with status 7"
  monkeypatch.setattr(process, "_command", ["sh", "-c", "read line; echo [1]"])
  assert process.do("losses") == [1]
  process.end()


# ---------------------------------------------------------------------------
# With the kernels of a CUDA build

needs_cuda_build = pytest.mark.skipif(
  not tf.test.is_built_with_cuda(),
  reason="no CUDA build of TensorFlow, whose kernels of a GPU are asked for",
)


@needs_cuda_build
@pytest.mark.parametrize("form", crossings.FORMS)
def test_a_step_sends_the_host_nothing_but_what_is_logged(form):
  steps = {layers: crossings.record(form, layers) for layers in (2, 3)}
  for kind, waits in (("training", 0), ("evaluation", 2), ("prediction", 0)):
    of_kind = {layers: one[kind] for layers, one in steps.items()}
    step, layer = crossings.count_by_layer(of_kind)
    assert (step.waits, layer.waits) == (waits, 0)
    assert step.results == 2 * (kind == "prediction")
    assert not crossings.find_without_kernel(of_kind[3])


@needs_cuda_build
def test_what_is_not_kept_on_the_host_is_found_with_its_line(monkeypatch):
  monkeypatch.setattr(
    devices.Placement, "on_host", lambda self: contextlib.nullcontext()
  )
  step = crossings.record("all positions", 1)["training"]
  lines = {
    crossings.find_line(one.tensor.op).partition(":")[0]
    for one in crossings.list_crossings(step)
    if one.to_host and one.reader and not one.conditional
  }
  assert {"modeling.py", "run_classifier.py"} <= lines


@needs_cuda_build
@pytest.mark.skipif(
  bool(tf.config.list_physical_devices("GPU")), reason="there is a GPU"
)
def test_without_a_gpu_the_log_says_why_and_tensorflow_is_heard(tmp_path):
  flags = crossings.write_task(tmp_path, 1)
  done = run_python("run_classifier.py", *flags, folder=ROOT)
  assert done.returncode == 0, done.stderr
  assert "[WARN ] the CPU computes: TensorFlow sees no GPU" in done.stderr
  assert "cuInit" in done.stderr or "cuda drivers" in done.stderr
