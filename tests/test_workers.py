"""Processes that train together, on this machine.

The tests that train start several processes, each of which imports TensorFlow
and prepares a graph: they are few, and take most of this file's minute.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading

from conftest import LOG_LINE, ROOT, read_checkpoint, read_results
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import history, selection, workers
from bert_classifier.clusters import Cluster
from bert_classifier.errors import GONE, UserError
from bert_classifier.loss_scale import LossScale

# ---------------------------------------------------------------------------
# A team, without a model


def find_ports(number):
  """Returns ports of this machine that nobody uses."""
  sockets = [socket.socket() for _ in range(number)]
  for each in sockets:
    each.bind(("127.0.0.1", 0))
  ports = [each.getsockname()[1] for each in sockets]
  for each in sockets:
    each.close()
  return ports


def make_addresses(number):
  return tuple(f"127.0.0.1:{port}" for port in find_ports(number))


@pytest.mark.parametrize("proxy", [None, "http://127.0.0.1:9"])
def test_all_get_what_the_chief_shares_once_all_are_there(monkeypatch, proxy):
  """Also where there is an HTTP proxy, which here is dead."""
  passed_by = "no_grpc_proxy"
  monkeypatch.setenv(passed_by, "")
  monkeypatch.setenv("no_proxy", "example.com")
  if proxy:
    monkeypatch.setenv("http_proxy", proxy)
  addresses, heard = make_addresses(3), {}

  def take_part(index):
    team = workers.Team(Cluster(addresses, index), tf.ConfigProto(), 30)
    heard[index] = [team.share([index, text]) for text in ("first", "second")]
    team.part()

  threads = [
    threading.Thread(target=take_part, args=(index,), daemon=True)
    for index in range(3)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(30)
  expected = [[0, "first"], [0, "second"]]
  assert heard == dict.fromkeys(range(3), expected)
  assert os.environ[passed_by].startswith("example.com,127.0.0.1")


def test_a_port_that_is_taken_is_named():
  with socket.socket() as other:
    other.bind(("0.0.0.0", 0))
    other.listen()
    addresses = (f"127.0.0.1:{other.getsockname()[1]}", "127.0.0.1:1")
    with pytest.raises(
      UserError, match=rf"port of {addresses[0]}.*same place under"
    ):
      workers.Team(Cluster(addresses, 0), tf.ConfigProto(), 30)


MEMBER = """
import sys
import tensorflow.compat.v1 as tf
from bert_classifier import clusters, progress, workers
*addresses, index = sys.argv[1:]
progress.set_up_logging()
cluster = clusters.Cluster(tuple(addresses), int(index))
# The last one is told by an error of its own that another one is gone.
is_last = cluster.index == cluster.size - 1
team = workers.Team(cluster, tf.ConfigProto(), 600 if is_last else 3)
team.share(None)
print("all are there", flush=True)
if cluster.is_chief: sys.stdin.read()  # stands for work without an end
if is_last and sys.stdin.read(): team.end_without_others()
team.share(None)
"""


@pytest.fixture
def members():
  """Returns three processes of a team, the chief first, after their start."""
  addresses = make_addresses(3)
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", MEMBER, *addresses, str(index)],
      env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in range(3)
  ]
  for each in processes:
    assert each.stdout.readline() == "all are there\n"
  yield processes
  for each in processes:
    each.kill()
    each.communicate()


def test_a_process_that_stands_still_or_is_killed_ends_the_others(members):
  chief, worker, last = members
  chief.send_signal(signal.SIGSTOP)
  _, said = worker.communicate(timeout=60)
  assert worker.returncode == GONE
  assert re.search(
    r"\[ERROR\] the chief, worker 0 \(127.0.0.1:\d+\) has given no sign of"
    r" life for 3 seconds: this process ends\..* again on every machine, goes",
    said,
  )
  _, said = last.communicate("an error", timeout=60)
  assert last.returncode == GONE
  assert re.search(
    r"the chief, worker 0 \(.*\) is gone: this process end", said
  )
  chief.send_signal(signal.SIGCONT)
  _, said = chief.communicate(timeout=60)
  assert chief.returncode == GONE
  assert re.search(r"\[ERROR\] worker [12] \(.*no sign of life", said)


# ---------------------------------------------------------------------------
# Trainings


@pytest.fixture(scope="module")
def flags(classify, small_model, tmp_path_factory):
  """Returns flags of a training without dropout."""
  folder = tmp_path_factory.mktemp("still")
  config = json.loads(small_model["bert_config_file"].read_text())
  config["hidden_dropout_prob"] = config["attention_probs_dropout_prob"] = 0.0
  (folder / "bert_config.json").write_text(json.dumps(config))
  return dict(
    classify.defaults,
    init_checkpoint=small_model["init_checkpoint"],
    bert_config_file=folder / "bert_config.json",
    head_dropout=0,
    do_train=True,
    train_batch_size=8,
    learning_rate=2e-4,
    log_steps=1,
  )


@pytest.fixture
def start():
  """Returns a function that starts the script, its log a pipe."""
  processes = []

  def start(flags):
    processes.append(_start(flags))
    return processes[-1]

  yield start
  for process in processes:
    process.terminate()
    process.stdout.close()
    process.stderr.close()
    process.wait()


def _start(flags):
  environment = {n: v for n, v in os.environ.items() if not n.startswith("TF_")}
  words = [f"--{name}={value}" for name, value in flags.items()]
  return subprocess.Popen(
    [sys.executable, "run_classifier.py", *words],
    cwd=ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def read_losses(folder):
  """Returns the loss of each step of a training, from its history."""
  entries = history.read(f"{folder}/history.jsonl")
  return [entry["loss"] for entry in entries if "split" not in entry]


def assert_same_training(folder, expected, steps):
  """Holds losses and variables against those of one process."""
  losses = [*map(read_losses, (folder, expected))]
  assert len(losses[1]) == steps
  np.testing.assert_allclose(*losses, rtol=0, atol=1e-5)
  found, variables = read_checkpoint(folder), read_checkpoint(expected)
  assert found.keys() == variables.keys()
  for name, value in variables.items():
    np.testing.assert_allclose(
      found[name], value, rtol=0, atol=1e-5, err_msg=name
    )


def test_four_processes_train_as_one(classify, flags, start, tmp_path):
  """They end together, where the chief's evaluations say so."""
  one, four = tmp_path / "one", tmp_path / "four"
  flags = dict(flags, num_train_epochs=6.7, do_eval=True)
  flags.update(eval_every_steps=6, early_stopping_patience=1)
  assert classify(output_dir=one, **flags).status == 0
  flags.update(gradient_accumulation_steps=2, gradient_checkpointing=True)
  process = start(dict(flags, output_dir=four, num_workers=4, do_predict=True))
  log = process.communicate(timeout=900)[1].splitlines()
  assert process.returncode == 0, log
  assert_same_training(four, one, steps=24)
  for folder in (one, four):
    record = selection.read(str(folder), "f1", 24)
    assert (record.best, record.steps) == (18, (6, 12, 18, 24))
  # The chief alone writes, into the log and into the folder.
  ours = [line for line in log if LOG_LINE.match(line)]
  assert (
    sum(": computes for the chief, worker 0 (" in line for line in ours) == 3
  )
  assert sum("step 24/30" in line for line in ours) == 1
  assert not list(four.glob("tmp_worker_*"))
  assert len(list(four.glob("events.out.tfevents.*"))) == 1
  assert (four / "test_results.tsv").read_text().count("\n") == 13
  found, expected = (
    read_results(folder / "eval_results.txt") for folder in (four, one)
  )
  assert found == pytest.approx(expected, abs=1e-5)


def test_two_processes_in_float16_train_as_one_and_their_chief_does_the_rest(
  classify, flags, start, tmp_path
):
  """Within the rounding of float16: 2^-11 of each of two products' sums.

  A loss is under 1.
  """
  one, two = tmp_path / "one", tmp_path / "two"
  flags = dict(flags, num_train_epochs=1, precision="mixed_float16")
  assert classify(output_dir=one, **flags).status == 0
  flags.update(dict.fromkeys(("deterministic", "do_embed", "do_export"), True))
  flags.update(do_eval=True, calibrate=True, predict_text="He said so .")
  flags.update(predict_text_b="She did .", output_dir=two, num_workers=2)
  said, log = start(flags).communicate(timeout=900)
  assert json.loads(said)["text_b"] == "She did .", log
  assert "temperature" in json.loads((two / "calibration.json").read_text())
  assert np.load(two / "test_embeddings.npy").shape[0] == 13
  assert len(list((two / "export").iterdir())) == 1
  losses, expected = map(read_losses, (two, one))
  assert len(expected) == 4
  np.testing.assert_allclose(losses, expected, rtol=0, atol=2 * 2.0**-11)
  found, variables = read_checkpoint(two), read_checkpoint(one)
  assert found.keys() == variables.keys()
  for name in LossScale.VARIABLES:
    assert found[name] == variables[name]


def child_pids(pid):
  """Returns the process ids of the children of a process, oldest first."""
  with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
    return [int(child) for child in file.read().split()]


@pytest.mark.skipif(sys.platform != "linux", reason="children are in /proc")
def test_a_training_whose_worker_and_chief_are_killed_ends_as_one_undisturbed(
  classify, flags, start, tmp_path
):
  one, two = tmp_path / "one", tmp_path / "two"
  flags = dict(flags, num_train_epochs=130, learning_rate=5e-6)
  flags.update(save_checkpoints_steps=50, skip_padding=False)
  flags.update(keep_checkpoint_max=0)
  assert classify(output_dir=one, **flags).status == 0
  shutil.copytree(one, two)  # what one has begun goes on in two
  (two / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-300"')
  flags.update(num_workers=2, worker_timeout=20)
  process = start(dict(flags, output_dir=two))
  log, victims = [], {" step 360/601": 1, " step 460/601": 0}
  for line in process.stderr:
    log.append(line)
    for step in [step for step in victims if step in line]:
      os.kill(child_pids(process.pid)[victims.pop(step)], signal.SIGKILL)
  assert process.wait(timeout=900) == 0, log
  said = "".join(log)
  for index in (1, 0):
    assert f"worker {index} was ended by SIGKILL: all workers start" in said
  first = re.findall(r"training on 37 examples: steps (\d+) to 601 ", said)
  assert first[0] == "301" and int(first[1]) in range(351, 602, 50)
  assert int(first[2]) in range(451, 602, 50)
  assert_same_training(two, one, steps=601)
