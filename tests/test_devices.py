"""Devices: threads, memory, their words in the log, a TPU's paths."""

import os
import platform
import re

from conftest import run_python, simulate_tpu
import pytest

from bert_classifier import devices
from bert_classifier.errors import UserError
from bert_classifier.options import DeviceOptions


@pytest.fixture(autouse=True)
def _ask_the_driver_anew():
  """Forgets what nvidia-smi printed, before each test and after it."""
  devices.query_nvidia_smi.cache_clear()
  yield
  devices.query_nvidia_smi.cache_clear()


CHIEF = '"task": {"type": "chief", "index": 0}, "environment": "cloud"}'


@pytest.mark.parametrize(
  "text",
  [
    None,
    "",
    " ",
    "{}",
    '{"cluster": {}}',
    '{"cluster": null, "task": null, "environment": "cloud"}',
    '{"cluster": {"chief": ["a:1"]}, ' + CHIEF,
    '{"cluster": {"master": ["a:1"]}, "task": {"type": "master"}}',
    '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker"}}',
    '{"cluster": {"worker": {"0": "a:1"}}, ' + CHIEF,
  ],
)
def test_a_cluster_of_one_machine_is_an_ordinary_run(text):
  devices.check_cluster(text)


@pytest.mark.parametrize(
  ("text", "words"),
  [
    (
      '{"cluster": {"worker": ["a:1", "b:1"], "chief": ["c:1"]}, ' + CHIEF,
      r"several machines \(1 chief, 2 worker; this one is chief\), but this",
    ),
    (
      '{"cluster": {"chief": ["a:1"]}, "task": {"type": "evaluator"}}',
      "this one is evaluator",
    ),
    ('{"cluster": {"chief": ["a:1"], "ps": ["b:1"]}}', "this one is None"),
    ('{"cluster": ', "does not name the machines of a cluster in JSON"),
    ("null", "it is no JSON object"),
    ("[]", "it is no JSON object"),
    ('{"cluster": ["a:1"]}', "does not name the machines"),
    ('{"cluster": {"chief": "a:1"}}', "'a:1' is no list of machines"),
    ('{"cluster": {}, "task": "chief"}', "does not name the machines"),
  ],
)
def test_several_machines_are_refused_in_a_sentence(text, words):
  with pytest.raises(UserError, match=words):
    devices.check_cluster(text)


def test_session_uses_the_threads_that_were_asked_for():
  config = devices.session_config(3)
  assert config.intra_op_parallelism_threads == 3
  assert config.inter_op_parallelism_threads == 3
  assert config.gpu_options.allow_growth


FAULTS = """
import resource
import numpy as np
from bert_classifier import devices
devices.reuse_big_blocks()
for _ in range(2):
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  np.ones(1 << 24, np.float32)
  print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
  platform.libc_ver()[0] != "glibc", reason="the call is glibc's"
)
def test_a_big_block_that_was_freed_comes_without_page_faults():
  first, second = map(int, run_python("-c", FAULTS).stdout.split())
  assert second < first / 4


def test_machine_without_a_gpu_is_described_as_a_cpu():
  assert re.match(r"CPU, 1 thread, [\d.]+ GiB of memory", devices.describe(1))
  assert devices.describe(4).startswith("CPU, 4 threads")
  cores = len(os.sched_getaffinity(0))
  assert re.match(rf"CPU, {cores} threads?,", devices.describe(0))


def test_gpu_is_named_with_its_model(monkeypatch):
  class Gpu:
    name = "/physical_device:GPU:0"

  config = devices.tf.config
  monkeypatch.setattr(config, "list_physical_devices", lambda kind: [Gpu()])
  details = {"device_name": "Fast One"}
  monkeypatch.setattr(
    config.experimental, "get_device_details", lambda gpu: details
  )
  words = devices.describe(1)
  assert "GPU:0" in words
  assert "Fast One" in words
  assert "CPU" not in words


def test_gpu_is_named_with_its_memory_where_the_driver_tells_it(
  monkeypatch, tmp_path
):
  tool = tmp_path / "nvidia-smi"
  tool.write_text("#!/bin/sh\necho 'A100, 40960 MiB, 40000 MiB'\n")
  tool.chmod(0o755)
  monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
  monkeypatch.setattr(
    devices.tf.config, "list_physical_devices", lambda kind: [None]
  )
  expected = "GPU:0 (A100, 40000 MiB of 40960 MiB of memory free at the start)"
  assert devices.describe(1) == expected
  assert devices.free_gpu_memory() == 40000 << 20
  # Two lines for one visible GPU: the other is hidden, and may be either.
  tool.write_text("#!/bin/sh\necho 'A100, 4 MiB, 4 MiB\nT4, 2 MiB, 1 MiB'\n")
  assert devices.describe(1) == expected  # the tool is run once
  devices.query_nvidia_smi.cache_clear()
  monkeypatch.setattr(
    devices.tf.config.experimental, "get_device_details", lambda gpu: {}
  )
  assert devices.describe(1) == "GPU:0 (unnamed)"
  assert devices.free_gpu_memory() is None


def test_free_memory_is_at_most_what_the_machine_has():
  machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  assert 0 <= devices.free_memory() <= machine


def test_free_memory_is_the_smaller_of_machine_and_container(monkeypatch):
  monkeypatch.setattr(devices, "free_in_machine", lambda: 5 << 30)
  for left, expected in (
    (3 << 30, 3 << 30),
    (9 << 30, 5 << 30),
    (None, 5 << 30),
  ):
    monkeypatch.setattr(devices, "free_in_container", lambda left=left: left)
    assert devices.free_memory() == expected


def test_files_that_a_container_has_read_count_as_free(tmp_path):
  assert devices.free_in_container(tmp_path) is None
  (tmp_path / "memory.max").write_text("1000\n")
  (tmp_path / "memory.current").write_text("700\n")
  (tmp_path / "memory.stat").write_text("anon 200\ninactive_file 450\n")
  assert devices.free_in_container(tmp_path) == 750
  (tmp_path / "memory.max").write_text("max\n")
  assert devices.free_in_container(tmp_path) is None


def test_local_paths_are_refused_by_flag_name():
  paths = {
    "output_dir": "out",
    "cache_dir": None,
    "init_checkpoint": "gs://b/c",
  }
  with pytest.raises(ValueError, match="--output_dir=out") as error:
    devices.refuse_local_paths("my-tpu", paths)
  assert "init_checkpoint" not in str(error.value)
  assert "cache_dir" not in str(error.value)
  assert "gs://" in str(error.value)
  assert "--tpu_name=local" in str(error.value)


@pytest.mark.parametrize(
  "name, path", [("local", "out"), ("my-tpu", "gs://bucket/out")]
)
def test_paths_that_the_tpu_can_read_are_accepted(name, path):
  assert devices.refuse_local_paths(name, {"output_dir": path}) is None


@pytest.mark.parametrize("name", [None, ""])
def test_tpu_needs_a_name(name):
  with pytest.raises(ValueError, match="--tpu_name"):
    devices.refuse_local_paths(name, {})


def test_local_tpu_that_is_not_there_is_said_to_be_missing():
  with pytest.raises(ValueError, match="no TPU 'local'.*--tpu_name"):
    devices.tpu_cluster("local", None, None)


def test_local_tpu_is_in_this_process(monkeypatch):
  simulate_tpu(monkeypatch, cores=8)
  cluster = devices.tpu_cluster("local", None, None)
  assert cluster.master() == ""


def test_a_tpu_on_another_host_trains_and_predicts_but_does_not_evaluate(
  monkeypatch,
):
  monkeypatch.setattr(devices, "tpu_cluster", lambda *_: None)
  for flags in ({"tpu_name": "my-tpu"}, {"master": "grpc://10.0.0.2:8470"}):
    asked = DeviceOptions(use_tpu=True, **flags)
    placement = devices.make_placement(asked)
    placement.check({}, do_eval=False)
    with pytest.raises(UserError, match="--do_eval.*without --use_tpu"):
      placement.check({}, do_eval=True)
  local = DeviceOptions(use_tpu=True, tpu_name="local")
  devices.make_placement(local).check({}, do_eval=True)
