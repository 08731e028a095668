"""--num_workers: processes of one command on this machine that train together.

Each gets a TF_CONFIG that names them all. When one is killed, or stands still,
all are started again and go on from the newest checkpoint; a mistake of the
user ends all.

Nothing here imports TensorFlow: this process only waits.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time

from bert_classifier import clusters, flag_checks, locks, machine, process
from bert_classifier.errors import GONE, UserError

_GRACE_SECONDS = 10  # from the request to end to the end by force
_POLL_SECONDS = 0.2
_MOST_FAILURES = 3  # starts in a row that came to no new checkpoint
_KEEP = "--overwrite_output_dir=false"
_LOG_LEVEL, _ERRORS = "TF_CPP_MIN_LOG_LEVEL", "2"
_PR_SET_PDEATHSIG = 1  # prctl.h


def is_asked(options):
  """Returns whether a command is to be started several times.

  Args:
    options: `options.Options`.
  """
  run = options.run
  return options.device.num_workers > 1 and run.do_train and not run.dry_run


def take_over(options):
  """Ends this process with the status of several, if they are asked for.

  Args:
    options: `options.Options`.

  Raises:
    UserError: as `run_workers`, and of a dry run as its training would.
  """
  if is_asked(options):
    sys.exit(run_workers(options))
  if options.device.num_workers > 1 and options.run.do_train:
    check(options)


def run_workers(options):
  """Runs this command in several processes; returns their exit status.

  Args:
    options: `options.Options`, of the command line in `sys.argv`.

  Raises:
    UserError: they cannot train together, or another command trains there.
  """
  check(options)
  shares = _divide_machine(options)
  folder, failures = options.run.output_dir or "", 0
  locks.check_unlocked(folder)  # the chief locks it
  first = newest = _read_state(folder)
  with process.signals_as_exceptions():
    while True:
      with _hold_ports(len(shares)) as ports:
        status, cause = _run_once(shares, ports, options.device.worker_timeout)
      if cause is None:
        return status
      before, newest = newest, _read_state(folder)
      failures = 0 if newest != before else failures + 1
      if failures == _MOST_FAILURES:
        _log(
          "ERROR",
          f"{cause}: {failures} starts in a row came to no new checkpoint, so"
          " the workers are not started again",
        )
        return status
      _log("WARNING", f"{cause}: all workers start again")
      if newest not in (None, first):
        # What is there now is this training's own.
        shares = [([*flags, _KEEP], others) for flags, others in shares]


def check(options):
  """Makes sure that the work can be divided among workers on this machine.

  Args:
    options: `options.Options`.

  Raises:
    UserError: it cannot.
  """
  options.several.check(
    options.run, f"--num_workers={options.device.num_workers}"
  )
  cluster = clusters.read(os.environ.get(clusters.VARIABLE))
  flag_checks.check_devices(options, cluster)
  flag_checks.check_division(options, cluster)
  if not os.path.isfile(sys.argv[0]):
    raise UserError(
      "--num_workers starts the command of a script again, and this is none:"
      " leave it out, or run the script from a shell"
    )


def _divide_machine(options):
  """Returns flags and environment of each worker.

  Raises:
    UserError: there are fewer GPUs than workers.
  """
  device, number = options.device, options.device.num_workers
  threads = device.num_threads or max(1, machine.count_threads(0) // number)
  flags = ["--num_workers=1", f"--num_threads={threads}"]
  gpus = [] if device.num_gpus == 0 else machine.list_gpus()
  if 0 < len(gpus) < number:
    raise UserError(
      f"--num_workers={number} is more than the {len(gpus)} GPUs of this"
      " machine: give fewer, or --num_gpus=0 to compute on the CPU"
    )
  each = len(gpus) // number
  parts = [gpus[i * each : (i + 1) * each] for i in range(number)]
  return [
    (
      flags,
      {
        **({machine.VISIBLE_GPUS: ",".join(part)} if part else {}),
        # TensorFlow's warnings are alike in all: those of the chief are told.
        **({_LOG_LEVEL: _ERRORS} if index else {}),
      },
    )
    for index, part in enumerate(parts)
  ]


def _run_once(shares, ports, seconds):
  """Starts the workers and waits until all have ended.

  Args:
    shares: see `_divide_machine`.
    ports: of the workers.
    seconds: that the others have when one has ended.

  Returns:
    Exit status; and the words for what ended them where they are worth another
    start, else None.
  """
  workers = _start(shares, ports)
  try:
    statuses = _wait(workers, seconds)
  except KeyboardInterrupt as interruption:
    # Ctrl-C has reached them all; what ends this process alone has not.
    status, _ = process.describe_end(interruption)
    _end(workers, isinstance(interruption, process.Terminated))
    return status, None
  status, cause = _judge(statuses)
  if cause:
    # They start again at once, which is nothing that they could know or say.
    for worker in workers:
      worker.kill()
  _end(workers, True)
  return status, cause


def _judge(statuses):
  """Returns exit status and cause of another start as `_run_once` does.

  Args:
    statuses: see `_wait`.
  """
  failed = [(i, status) for i, status in enumerate(statuses) if status]
  # Those that miss another one are not what went wrong.
  failed.sort(key=lambda pair: (pair[1] == GONE, pair[1] > 0))
  if not failed and statuses[0] is None:
    return GONE, "worker 0 stood still at the end"
  if not failed:
    return 0, None
  index, status = failed[0]
  if status < 0:
    name = signal.Signals(-status).name
    return 128 - status, f"worker {index} was ended by {name}"
  if status == GONE:
    return status, f"worker {index} missed another one"
  return status, None


def _wait(workers, seconds):
  """Returns the exit statuses when the workers, or one by mistake, have ended.

  They end together. None is that of one that still runs so many seconds after
  another has ended well, for it stands still.
  """
  last = None
  while True:
    statuses = [worker.poll() for worker in workers]
    running = [i for i, status in enumerate(statuses) if status is None]
    if not running or any(statuses):
      return statuses
    if last is None and 0 in statuses:
      last = time.monotonic() + seconds
    if last is not None and time.monotonic() > last:
      names = " and ".join(f"worker {index}" for index in running)
      _log(
        "WARNING",
        f"{names} stands still, {seconds:g} seconds after another one has"
        " ended (--worker_timeout), and is ended by force",
      )
      return statuses
    time.sleep(_POLL_SECONDS)


def _start(shares, ports):
  """Returns the processes of the workers, each with its TF_CONFIG."""
  addresses = [f"127.0.0.1:{port}" for port in ports]
  with _open_last_word() as last_word:
    return [
      subprocess.Popen(
        [sys.executable, *sys.argv, *flags],
        env={
          **os.environ,
          **environment,
          process.LAST_WORD: str(last_word.fileno()),
          clusters.VARIABLE: _describe_place(addresses, index),
        },
        stdin=subprocess.DEVNULL,
        pass_fds=[last_word.fileno()],
        preexec_fn=_end_with_parent,
      )
      for index, (flags, environment) in enumerate(shares)
    ]


def _describe_place(addresses, index):
  """Returns the TF_CONFIG of a worker."""
  task = {"type": "worker", "index": index}
  return json.dumps({"cluster": {"worker": addresses}, "task": task})


def _open_last_word():
  """Returns the file for `process.takes_last_word`: a pipe's end, one byte."""
  reading, writing = os.pipe()
  os.write(writing, b"!")
  os.close(writing)  # so that whoever comes second reads that there is no more
  return open(reading, "rb", buffering=0)


def _end_with_parent():
  """Lets Linux end this process when the one that started it is killed."""
  with contextlib.suppress(AttributeError, OSError):
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@contextlib.contextmanager
def _hold_ports(number):
  """Yields ports of this machine that nobody uses, and keeps others off them.

  Half a minute may pass until the workers listen on them. Under Linux a socket
  that is bound, and does not listen, leaves its port only to those that set
  SO_REUSEADDR, as gRPC does.
  """
  with contextlib.ExitStack() as stack:
    sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
    for each in sockets:
      each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    if sys.platform != "linux":
      stack.close()
    yield ports


def _end(workers, asks):
  """Ends the workers that still run, by force those that do not end.

  Args:
    asks: whether to send them SIGTERM first.
  """
  for worker in workers:
    if asks and worker.poll() is None:
      worker.terminate()
  last = time.monotonic() + _GRACE_SECONDS
  for worker in workers:
    try:
      worker.wait(max(0, last - time.monotonic()))
    except subprocess.TimeoutExpired:
      worker.kill()
      worker.wait()


def _read_state(folder):
  """Returns what names the newest checkpoint in a folder, None without one.

  With the time when it was written, for two trainings have the same names.
  """
  try:
    with open(os.path.join(folder, "checkpoint"), "rb") as file:
      return file.read(), os.fstat(file.fileno()).st_mtime_ns
  except OSError:
    return None


def _log(level, sentence):
  sys.stderr.write(process.format_line(sentence, level) + "\n")
