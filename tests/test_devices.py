"""Devices: threads, their words in the log, a TPU's paths."""

import os
import re

from conftest import simulate_tpu
import pytest
import tensorflow.compat.v1 as tf
from tensorflow.python.client import session

from bert_classifier import device_options, devices, machine
from bert_classifier.errors import UserError
from bert_classifier.options import DeviceOptions


def describe(num_threads):
  """Returns the words for the devices of this machine."""
  return devices.describe(DeviceOptions(num_threads=num_threads))


@pytest.fixture(autouse=True)
def _ask_the_driver_anew():
  """Forgets what nvidia-smi printed, before each test and after it."""
  machine.query_nvidia_smi.cache_clear()
  yield
  machine.query_nvidia_smi.cache_clear()


def test_session_uses_the_threads_that_were_asked_for():
  config = devices.session_config(DeviceOptions(num_threads=3))
  assert config.intra_op_parallelism_threads == 3
  assert config.inter_op_parallelism_threads == 3
  assert config.gpu_options.allow_growth


def test_xla_is_given_one_shape_of_whole_batches_and_all_positions():
  compiled = devices.Placement(DeviceOptions(use_xla=True))
  assert compiled.needs_whole_batches and not compiled.skip_padding
  plain = devices.Placement(DeviceOptions())
  assert plain.skip_padding and not plain.needs_whole_batches


def test_machine_without_a_gpu_is_described_as_a_cpu():
  assert re.match(r"CPU, 1 thread, [\d.]+ GiB of memory", describe(1))
  assert describe(4).startswith("CPU, 4 threads")
  cores = len(os.sched_getaffinity(0))
  assert re.match(rf"CPU, {cores} threads?,", describe(0))


def test_gpu_is_named_with_its_model(monkeypatch):
  class Gpu:
    name = "/physical_device:GPU:0"

  config = devices.tf.config
  monkeypatch.setattr(config, "list_physical_devices", lambda kind: [Gpu()])
  details = {"device_name": "Fast One"}
  monkeypatch.setattr(
    config.experimental, "get_device_details", lambda gpu: details
  )
  words = describe(1)
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
  assert describe(1) == expected
  assert machine.find_free_gpu_memory() == 40000 << 20
  # Two lines for one visible GPU: the other is hidden, and may be either.
  tool.write_text("#!/bin/sh\necho 'A100, 4 MiB, 4 MiB\nT4, 2 MiB, 1 MiB'\n")
  assert describe(1) == expected  # the tool is run once
  machine.query_nvidia_smi.cache_clear()
  monkeypatch.setattr(
    devices.tf.config.experimental, "get_device_details", lambda gpu: {}
  )
  assert describe(1) == "GPU:0 (unnamed)"
  assert machine.find_free_gpu_memory() is None


def test_local_paths_are_refused_by_flag_name():
  paths = {
    "output_dir": "out",
    "cache_dir": None,
    "init_checkpoint": "gs://b/c",
  }
  with pytest.raises(ValueError, match="--output_dir=out") as error:
    device_options.refuse_local_paths("my-tpu", paths)
  assert "init_checkpoint" not in str(error.value)
  assert "cache_dir" not in str(error.value)
  assert "gs://" in str(error.value)
  assert "--tpu_name=local" in str(error.value)


@pytest.mark.parametrize(
  "name, path", [("local", "out"), ("my-tpu", "gs://bucket/out")]
)
def test_paths_that_the_tpu_can_read_are_accepted(name, path):
  assert device_options.refuse_local_paths(name, {"output_dir": path}) is None


@pytest.mark.parametrize("name", [None, ""])
def test_tpu_needs_a_name(name):
  with pytest.raises(ValueError, match="--tpu_name"):
    device_options.refuse_local_paths(name, {})


def test_local_tpu_that_is_not_there_is_said_to_be_missing():
  with pytest.raises(ValueError, match="no TPU 'local'.*--tpu_name"):
    devices.tpu_cluster("local", None, None)


def test_local_tpu_is_in_this_process(monkeypatch):
  simulate_tpu(monkeypatch, cores=8)
  cluster = devices.tpu_cluster("local", None, None)
  assert cluster.master() == ""


def test_a_tpu_on_another_host_trains_and_predicts_but_does_not_evaluate():
  for flags in ({"tpu_name": "my-tpu"}, {"master": "grpc://10.0.0.2:8470"}):
    asked = DeviceOptions(use_tpu=True, **flags)
    asked.check_tpu(None, {}, do_eval=False)
    with pytest.raises(UserError, match="--do_eval.*without --use_tpu"):
      asked.check_tpu(None, {}, do_eval=True)
  local = DeviceOptions(use_tpu=True, tpu_name="local")
  local.check_tpu(None, {}, do_eval=True)


def test_master_and_memory_growth_reach_the_session_that_predicts(
  classify, small_model, tmp_path, monkeypatch
):
  server = tf.distribute.Server.create_local_server()
  seen, begin = [], session.BaseSession.__init__

  def look(self, target="", graph=None, config=None):
    seen.append((target, bool(config and config.gpu_options.allow_growth)))
    begin(self, target, graph, config)

  monkeypatch.setattr(session.BaseSession, "__init__", look)
  done = classify(
    *("--do_predict", "--gpu_memory_growth", f"--master={server.target}"),
    output_dir=tmp_path,
    **small_model,
  )
  assert done.status == 0, done.log
  assert (server.target, True) in seen
  assert len((tmp_path / "test_results.tsv").read_text().splitlines()) == 13
