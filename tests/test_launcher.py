"""--num_workers: what is started, and started again; without TensorFlow."""

import json
import os
import signal
import sys

from conftest import LOG_LINE, ROOT, run_script
import pytest

from bert_classifier import launcher, locks, machine
from bert_classifier.errors import GONE, UserError
from bert_classifier.options import make_options

# Appends what it was given to a file, and then does what the test says.
SCRIPT = """
import json, os, pathlib, signal, sys, time
here = pathlib.Path(__file__).parent
place = json.loads(os.environ["TF_CONFIG"])
index = place["task"]["index"]
with (here / "started").open("a") as file:
  gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
  file.write(json.dumps([index, place["cluster"], gpus, sys.argv[1:]]) + "\\n")
lines = "\\n" + (here / "started").read_text()
starts = lines.count(f"\\n[{index}, ")
def save(step):
  (here / "checkpoint").write_text(f"{step}")
exec((here / "does").read_text())
"""


@pytest.fixture
def launch(tmp_path, monkeypatch, capfd):
  """Returns a function that starts a script twice, and what came of it."""
  monkeypatch.delenv("TF_CONFIG", raising=False)
  monkeypatch.delenv(machine.VISIBLE_GPUS, raising=False)
  monkeypatch.setattr(machine, "query_nvidia_smi", list)
  monkeypatch.setattr(launcher, "_GRACE_SECONDS", 1)
  (tmp_path / "script.py").write_text(SCRIPT)

  def launch(does, **flags):
    (tmp_path / "does").write_text(does)
    given = {"num_workers": 2, "output_dir": str(tmp_path), **flags}
    words = [f"--{name}={value}" for name, value in given.items()]
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "script.py"), *words])
    status = launcher.run_workers(make_options(do_train=True, **given))
    lines = (tmp_path / "started").read_text().splitlines()
    started = sorted(map(json.loads, lines), key=lambda line: line[0])
    return status, started, capfd.readouterr().err

  return launch


def test_each_process_gets_its_place_and_its_share_of_the_threads(
  launch, monkeypatch
):
  monkeypatch.setattr(machine, "count_threads", lambda number: 5)
  status, (first, second), log = launch("")
  assert (status, log) == (0, "")
  assert first[0] == 0 and second[0] == 1 and first[1] == second[1]
  addresses = first[1]["worker"]
  assert len(set(addresses)) == 2 and addresses[0].startswith("127.0.0.1:")
  assert first[3][-2:] == ["--num_workers=1", "--num_threads=2"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere they are free")
def test_ports_are_kept_for_the_workers_until_they_listen(launch):
  status, _, _ = launch(
    "import socket\n"
    "ports = [name.split(':')[1] for name in place['cluster']['worker']]\n"
    "own, other = socket.socket(), socket.socket()\n"
    "if not other.connect_ex(('127.0.0.1', int(ports[index]))): sys.exit(2)\n"
    "try: other.bind(('', int(ports[index])))\n"
    "except OSError: pass\n"
    "else: sys.exit(3)\n"
    "own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
    "own.bind(('', int(ports[index])))\n"
    "own.listen()\n"
  )
  assert status == 0


def test_gpus_are_divided(launch, monkeypatch):
  monkeypatch.setenv(machine.VISIBLE_GPUS, "0,2,5")
  _, started, _ = launch("")
  assert [gpus for _, _, gpus, _ in started] == ["0", "2"]
  with pytest.raises(UserError, match="=4 is more than the 3 GPUs"):
    launch("", num_workers=4)
  assert launch("", num_gpus=0)[0] == 0


@pytest.mark.parametrize("hidden", ["", "-1", "-1,0", "NoDevFiles"])
def test_gpus_that_are_hidden_are_not_divided(launch, monkeypatch, hidden):
  monkeypatch.setenv(machine.VISIBLE_GPUS, hidden)
  status, started, _ = launch("")
  assert status == 0 and [gpus for _, _, gpus, _ in started] == [hidden] * 2


def test_all_start_again_when_one_is_killed(launch):
  status, started, log = launch(
    "save(starts)\n"
    "say = lambda *_: sys.exit(bool(os.write(2, b'terminated')))\n"
    "signal.signal(signal.SIGTERM, say)\n"
    "ready = here / f'ready{starts}'\n"
    "if not index: ready.touch()\n"
    "while not ready.exists(): time.sleep(0.01)\n"
    "if index and starts < 3: os.kill(os.getpid(), signal.SIGKILL)\n"
    "if not index and starts < 3: time.sleep(60)\n"
  )
  assert status == 0 and "terminated" not in log
  assert [index for index, *_ in started].count(0) == 3
  assert (
    log.count("worker 1 was ended by SIGKILL: all workers start again") == 2
  )


def test_a_training_that_starts_again_does_not_remove_its_own(launch, tmp_path):
  """It removes what was there before, also where it is killed before that."""
  (tmp_path / "checkpoint").write_text("7")
  status, started, _ = launch(
    "while (here / 'started').read_text().count('\\n') < 2 * starts:\n"
    "  time.sleep(0.05)\n"
    "if index: time.sleep(60 * (starts < 4))\n"
    "elif starts < 4:\n"
    "  if starts == 2: (here / 'checkpoint').unlink()\n"
    "  if starts == 3: save(7)\n"
    "  os.kill(os.getpid(), signal.SIGKILL)\n",
    overwrite_output_dir=True,
  )
  keeps = ["--overwrite_output_dir=false" in s[3] for s in started if not s[0]]
  assert status == 0 and keeps == [False, False, False, True]


def test_one_that_stands_still_is_ended_by_force(launch):
  status, started, log = launch(
    "save(starts)\n"
    "if starts == 1 and index: os.kill(os.getpid(), signal.SIGSTOP)\n"
    "while starts == 1 and (here / 'started').read_text().count('\\n') < 2:\n"
    "  time.sleep(0.05)\n"
    f"if starts == 1: sys.exit({GONE})\n"
  )
  assert (status, len(started)) == (0, 4)
  assert "worker 0 missed another one: all workers start again" in log


@pytest.mark.parametrize(
  ("index", "starts", "words"),
  [
    (0, 2, "worker 0 stood still at the end: all workers start again"),
    (1, 1, ""),  # what the chief has ended is done
  ],
)
def test_one_that_stands_still_at_the_end_is_ended_by_force(
  launch, index, starts, words
):
  status, started, log = launch(
    "while (here / 'started').read_text().count('\\n') < 2 * starts:\n"
    "  time.sleep(0.05)\n"
    f"if (index, starts) == ({index}, 1): os.kill(os.getpid(), signal.SIGSTOP)",
    worker_timeout=2.0,
  )
  assert (status, len(started)) == (0, 2 * starts)
  assert f"[WARN ] worker {index} stands still, 2 seconds after another" in log
  assert words in log


def test_starts_that_come_to_nothing_end(launch):
  status, started, log = launch("os.kill(os.getpid(), signal.SIGKILL)")
  assert status == 128 + signal.SIGKILL
  assert 3 <= len(started) <= 6
  assert "[ERROR]" in log and "3 starts in a row came to no new check" in log


def test_a_folder_in_which_another_command_trains_is_refused(launch, tmp_path):
  with (
    locks.lock_for_training(str(tmp_path)),
    pytest.raises(UserError, match="another command is training in /"),
  ):
    launch("")
  assert not (tmp_path / "started").exists()
  assert launch("")[0] == 0


@pytest.mark.parametrize("status", [1, 70])
def test_a_mistake_of_the_user_ends_all(launch, status):
  found, started, log = launch(
    f"sys.exit({status}) if index == 0 else time.sleep(60)"
  )
  assert (found, log) == (status, "")
  assert 1 <= len(started) <= 2  # and not again


MISTAKES = """
sys.path.insert(0, {root!r})
from absl import logging
from bert_classifier import errors, process
logging.use_absl_handler()
(here / f"came{{index}}").touch()
while len(list(here.glob("came*"))) < 2: time.sleep(0.01)
with errors.exit_with_a_sentence(), process.signals_as_exceptions():
  {does}
"""


@pytest.mark.parametrize(
  ("does", "status", "words"),
  [
    ("raise errors.UserError('no such thing')", 1, "no such thing"),
    ("time.sleep(60) if index else sys.exit(open('none'))", 1, "No such file"),
  ],
)
def test_what_ends_all_is_said_by_one(launch, does, status, words):
  found, _, log = launch(MISTAKES.format(root=str(ROOT), does=does))
  assert found == status and log.count(words) == 1
  assert "Traceback" not in log and "terminated" not in log


def test_what_a_worker_starts_says_what_ends_it_too(launch, tmp_path):
  (tmp_path / "mistaken.py").write_text(
    f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    "from bert_classifier import errors\n"
    "with errors.exit_with_a_sentence(): raise errors.UserError('mistaken')"
  )
  does = "import subprocess as s; s.run([sys.executable, here / 'mistaken.py'])"
  _, _, log = launch(MISTAKES.format(root=str(ROOT), does=does))
  assert log.count("mistaken") == 2 and "Traceback" not in log


def test_a_bug_is_shown_whoever_spoke_before(launch):
  does = (
    "if index == 0:\n"
    "    process.takes_last_word()\n"
    "    (here / 'spoke').touch()\n"
    "    time.sleep(60)\n"
    "  while not (here / 'spoke').exists(): time.sleep(0.01)\n"
    "  raise ZeroDivisionError"
  )
  found, _, log = launch(MISTAKES.format(root=str(ROOT), does=does))
  assert found == 70 and log.count("this is a bug") == 1
  assert "ZeroDivisionError" in log and "terminated" not in log


def test_the_signal_that_ends_a_job_reaches_all(launch):
  status, _, log = launch(
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
    "if index: os.kill(os.getppid(), signal.SIGTERM)\n"
    "time.sleep(60)\n"
  )
  assert status == 143
  assert "start again" not in log


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    (
      {"train_batch_size": 9},
      "is 9, but must be a multiple of 2: it is divided among 2 workers",
    ),
    (
      {"train_batch_size": 8, "gradient_accumulation_steps": 8},
      "is 8, but must be a multiple of .*=8 times 2 devices",
    ),
    ({"use_tpu": True}, "--use_tpu and --num_workers=2 name diff"),
    ({"use_xla": True}, "--use_xla is for one device, and 2 workers would"),
    ({"pack_sequences": True}, "--pack_sequences is for one device, and 2 wor"),
  ],
)
def test_what_cannot_be_divided_is_refused_before_any_starts(
  launch, tmp_path, flags, words
):
  with pytest.raises(UserError, match=words):
    launch("", **flags)
  assert not (tmp_path / "started").exists()
  asked = make_options(do_train=True, dry_run=True, num_workers=2, **flags)
  with pytest.raises(UserError, match=words):
    launcher.take_over(asked)  # a dry run says what its training would


def test_a_batch_that_cannot_be_divided_is_a_line_of_the_log():
  done = run_script("--do_train", "--num_workers=3", "--output_dir=none")
  assert done.returncode == 1 and done.stderr.count("\n") == 1
  assert LOG_LINE.match(done.stderr) and "[ERROR] --train_b" in done.stderr


def test_machines_that_are_named_are_not_started_here(launch, monkeypatch):
  task = {"type": "worker", "index": 0}
  named = {"cluster": {"worker": ["a:1", "b:1"]}, "task": task}
  monkeypatch.setenv("TF_CONFIG", json.dumps(named))
  with pytest.raises(UserError, match="TF_CONFIG names several: leave one out"):
    launch("")
  # A cluster of this machine alone is as good as none.
  os.environ["TF_CONFIG"] = '{"cluster": {"worker": ["a:1"]}}'
  assert launch("")[0] == 0


@pytest.mark.parametrize(
  ("flags", "asked"),
  [
    ({"do_train": True, "num_workers": 2}, True),
    ({"do_train": True}, False),
    ({"do_eval": True, "num_workers": 2}, False),
    ({"do_train": True, "num_workers": 2, "dry_run": True}, False),
  ],
)
def test_only_a_training_is_started_several_times(flags, asked):
  assert launcher.is_asked(make_options(**flags)) == asked
