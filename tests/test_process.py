"""Streams that are closed and signals, in every phase of the script."""

import os
import signal
import subprocess
import sys
import time

from conftest import LOG_LINE, ROOT, run_python
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import process
import run_classifier

# A TensorFlow whose import says that it began, and does not end.
SLOW_IMPORT = """
import pathlib, time
pathlib.Path(__file__).with_name("began").touch()
time.sleep(60)
"""


def shell(command, **environment):
  """Runs a command as bash does; $S is the script, whose import is quick."""
  return subprocess.run(
    ["bash", "-c", f'S="{sys.executable} run_classifier.py"; {command}'],
    cwd=ROOT,
    env={**os.environ, **environment},
    capture_output=True,
    text=True,
    timeout=100,
  )


# In the script itself Python ends the process; of another one's import, the
# signal does, which a shell calls 130.
@pytest.mark.parametrize(
  ("script", "number", "status", "word"),
  [
    ("run_classifier.py", signal.SIGINT, 130, "interrupted"),
    ("run_classifier.py", signal.SIGTERM, 143, "terminated"),
    ("my_task.py", signal.SIGINT, -signal.SIGINT, "interrupted"),
    ("my_task.py", signal.SIGTERM, 143, "terminated"),
  ],
)
def test_a_signal_during_the_import_ends_with_a_sentence(
  tmp_path, script, number, status, word
):
  (tmp_path / "my_task.py").write_text("from run_classifier import main")
  script = (ROOT if (ROOT / script).exists() else tmp_path) / script
  folder = tmp_path / "tensorflow"
  folder.mkdir()
  (folder / "__init__.py").write_text(SLOW_IMPORT)
  run = subprocess.Popen(
    [sys.executable, script, "--do_eval", "--output_dir=x"],
    cwd=ROOT,
    env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    stderr=subprocess.PIPE,
    text=True,
    # Where the tests run behind nohup or &, Ctrl-C is ignored.
    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
  )
  began = time.monotonic()
  while not (folder / "began").exists():
    assert time.monotonic() - began < 60 and run.poll() is None
    time.sleep(0.05)
  run.send_signal(number)
  _, log = run.communicate(timeout=60)
  assert run.returncode == status
  assert LOG_LINE.match(log) and log.count("\n") == 1
  assert log.endswith(f"[ERROR] {word}; the same command begins again\n")


def test_an_interruption_after_the_import_keeps_its_traceback():
  done = run_python("-c", "import run_classifier; raise KeyboardInterrupt")
  assert "Traceback" in done.stderr and "begins again" not in done.stderr
  ended = "import run_classifier, os, signal; os.kill(os.getpid(), signal.{})"
  done = run_python("-c", ended.format("SIGTERM"))
  assert done.returncode == -signal.SIGTERM and done.stderr == ""


def test_signals_are_exceptions_inside_and_what_they_were_outside():
  before = signal.getsignal(signal.SIGTERM)
  with pytest.raises(process.Terminated), process.signals_as_exceptions():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)
  assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_while_tensorflow_makes_an_error_is_no_bug(monkeypatch, graph):
  def terminate(*_):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)

  monkeypatch.setattr(tf.errors.InvalidArgumentError, "__init__", terminate)
  is_true = tf.placeholder_with_default(False, [])
  failing = tf.raw_ops.Assert(condition=is_true, data=["it is not"])
  with (
    pytest.raises(process.Terminated),
    process.signals_as_exceptions(),
    process.signals_in_sight(),
    tf.Session() as session,
  ):
    session.run(failing)


def test_a_signal_that_is_ignored_stays_so():
  before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
  try:
    with process.signals_as_exceptions():
      os.kill(os.getpid(), signal.SIGTERM)
  finally:
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
  "place", ["read", "make_estimator", "train_on", "evaluate", "predict"]
)
def test_sigterm_ends_each_phase_as_ctrl_c_does(
  classify, small_model, tmp_path, monkeypatch, place
):
  def terminate(*_):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)

  # What comes before the place need not be computed.
  monkeypatch.setattr(run_classifier, "train_on", lambda _, run: (run, {}, []))
  monkeypatch.setattr(run_classifier, "evaluate", lambda *_: ("", {}))
  at = run_classifier.options if place == "read" else run_classifier
  monkeypatch.setattr(at, place, terminate)
  phases = dict(do_train=True, do_eval=place != "predict", do_predict=True)
  outcome = classify(output_dir=tmp_path / "out", **small_model, **phases)
  assert outcome.status == 143
  last = outcome.log.splitlines()[-1]
  assert last == "terminated; the same command begins again"


@pytest.mark.parametrize("error", ["UserError('no')", "KeyboardInterrupt"])
def test_a_member_of_a_team_ends_without_cleanup(error):
  code = (
    "import atexit, time; from bert_classifier import errors, process\n"
    "atexit.register(time.sleep, 600)\n"  # as TensorFlow, for the others
    "process.skip_cleanup()\n"
    f"with errors.exit_with_a_sentence(): raise errors.{error}\n"
  ).replace("errors.Key", "Key")
  done = run_python("-c", code)
  assert done.returncode == (130 if error == "KeyboardInterrupt" else 1)
  assert ("no" if done.returncode == 1 else "interrupted; ") in done.stderr


def test_help_may_be_read_in_part():
  done = shell("set -o pipefail; $S --help | head -1")
  assert (done.returncode, done.stderr) == (0, "")
  assert done.stdout.startswith("Fine-tunes BERT")


@pytest.mark.parametrize("closed", ["2>&-", "<&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_mistake(closed):
  assert shell(f"$S --help {closed}").returncode == 0
  done = shell(f"$S --seed=-1 {closed}; echo $?")
  assert done.stdout == "1\n"


def test_files_do_not_get_the_number_of_a_closed_stream(tmp_path):
  code = (
    "from bert_classifier import process; import os, sys\n"
    "process.open_standard_streams()\n"
    f"file = open({str(tmp_path / 'file')!r}, 'w')\n"
    "os.write(2, b'an error'); print('a line')\n"
    "assert file.fileno() > 2 and sys.stderr.fileno() == 2"
  )
  done = shell(f'{sys.executable} -c "{code}" <&- >&- 2>&-; echo $?')
  assert done.stdout == "0\n"
  assert (tmp_path / "file").read_text() == ""


def test_main_shows_its_log_where_nobody_has_set_one_up():
  code = (
    "import run_classifier\n"
    "run_classifier.FLAGS(['x', '--do_eval', '--output_dir=out'])\n"
    "run_classifier.logging.info('not yet')\n"
    "run_classifier.main(['x'])\n"
  )
  done = run_python("-c", code)
  assert done.returncode == 1
  (line,) = done.stderr.splitlines()[-1:]
  assert LOG_LINE.match(line) and "there are no trained weights" in line
