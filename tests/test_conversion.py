"""Conversion in several processes, and what is left when one dies."""

from multiprocessing import synchronize
import os
from pathlib import Path
import signal
import subprocess
import sys
import textwrap
import time

from conftest import ROOT, read_records
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import conversion, files
from bert_classifier.catalogue import MrpcProcessor
from bert_classifier.errors import UserError
from bert_classifier.tasks import InputExample
import tokenization

forks = pytest.mark.skipif(
  sys.platform != "linux", reason="forks on Linux only"
)


@pytest.fixture
def small_chunks(monkeypatch):
  """Lets several processes at work on a set of 21 examples."""
  monkeypatch.setattr(conversion, "EXAMPLES_ALONE", 0)
  monkeypatch.setattr(conversion, "CHUNK_EXAMPLES", 3)


@forks
def test_processes_cut_the_same_windows(cache, small_chunks):
  alone = cache(length=16, stride=5).features("train")
  manifest = f"{alone.path[:-9]}json"
  written = files.hash_file(alone.path), files.read_json(manifest)
  os.remove(manifest)
  several = cache(length=16, stride=5, processes=2).features("train")
  assert several == alone and alone.records > alone.examples
  assert (files.hash_file(alone.path), files.read_json(manifest)) == written


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_change_no_byte(cache, golden_task, small_chunks, processes):
  alone = cache().features("train")
  written, manifest = files.hash_file(alone.path), alone.path[:-9] + "json"
  counts = files.read_json(manifest)
  os.remove(manifest)
  several = cache(processes=processes).features("train")
  assert several == alone and files.hash_file(alone.path) == written
  assert files.read_json(manifest) == counts
  assert read_records(alone.path) == read_records(
    f"{golden_task}/train.tf_record"
  )


@forks
def test_without_locks_one_process_converts(
  cache, golden_task, small_chunks, monkeypatch, caplog
):
  def refuse(*_, **__):
    raise PermissionError(13, "Permission denied", "/dev/shm")

  monkeypatch.setattr(synchronize.SemLock, "__init__", refuse)
  made = cache(processes=2).features("train")
  assert "converting in this process alone: [Errno 13] Permis" in caplog.text
  assert read_records(made.path) == read_records(
    f"{golden_task}/train.tf_record"
  )


class Counted(InputExample):
  alive = most = 0

  def __init__(self, *arguments, **keywords):
    super().__init__(*arguments, **keywords)
    Counted.alive += 1
    Counted.most = max(Counted.most, Counted.alive)

  def __del__(self):
    Counted.alive -= 1


class Endless(MrpcProcessor):
  """10 000 examples in turn, of which it knows how many were asked for."""

  read = 0

  def get_train_examples(self, data_dir):
    for self.read in range(1, 10001):
      yield Counted(f"g-{self.read}", "t u", None, "0")


@pytest.mark.parametrize("processes", [1, 2])
def test_few_examples_are_alive_at_a_time(cache, small_chunks, processes):
  Counted.most = 0
  found = cache(Endless(), processes=processes).features("train")
  assert found.records == 10000 and Counted.most < 10


@pytest.mark.parametrize("processes", [1, 2])
def test_few_examples_are_read_that_are_not_written(
  cache, small_chunks, processes, monkeypatch
):
  processor, ahead = Endless(), []
  write = tf.io.TFRecordWriter.write
  monkeypatch.setattr(
    tf.io.TFRecordWriter,
    "write",
    lambda *args: ahead.append(processor.read - len(ahead)) or write(*args),
  )
  found = cache(processor, processes=processes).features("train")
  assert found.records == len(ahead) == 10000
  assert max(ahead) < 30


def test_an_error_among_processes_names_file_and_line(
  cache, golden_task, small_chunks, tmp_path
):
  lines = Path(f"{golden_task}/data/dev.tsv").read_text().splitlines()
  lines[15] = "maybe" + lines[15][1:]
  bad = tmp_path / "dev.tsv"
  bad.write_text("\n".join(lines))
  with pytest.raises(UserError, match=r"dev\.tsv:16: .* the label 'maybe'"):
    cache(processes=2, folder=tmp_path).features("dev")
  assert os.listdir(tmp_path) == ["dev.tsv"]


class Failing(tokenization.FullTokenizer):
  """Fails in another process than its own, in one way or another."""

  def __init__(self, vocab_file, fail):
    super().__init__(vocab_file)
    self.fail, self.home = fail, os.getpid()

  def tokenize(self, text):
    if os.getpid() != self.home:
      self.fail()
    return super().tokenize(text)


def refuse():
  raise ValueError("no such text")


@forks
@pytest.mark.parametrize(
  ("fail", "error"),
  [(refuse, "no such text"), (lambda: os._exit(9), "terminated abruptly")],
)
def test_a_failing_process_is_an_error(
  cache, golden_task, small_chunks, tmp_path, fail, error
):
  tokenizer = Failing(f"{golden_task}/vocab.txt", fail)
  with pytest.raises((ValueError, RuntimeError), match=error):
    cache(tokenizer=tokenizer, processes=2).features("dev")
  assert os.listdir(tmp_path) == []


# Converts the golden task's dev set; `at(n)` is called before the nth text of
# each process.
CONVERSION = """
import os, signal, sys, time
# Ctrl-C works here even if the tests run where it is ignored, as behind nohup.
signal.signal(signal.SIGINT, signal.default_int_handler)
from bert_classifier import catalogue, conversion, feature_cache, tasks
import tokenization
task, folder, name = sys.argv[1:]
conversion.EXAMPLES_ALONE, conversion.CHUNK_EXAMPLES = 0, 3
class Tokenizer(tokenization.FullTokenizer):
  texts = 0
  def tokenize(self, text):
    Tokenizer.texts += 1
    at(Tokenizer.texts)
    return super().tokenize(text)
def cache():
  data = tasks.TaskData(catalogue.MrpcProcessor(), task + "/data")
  return feature_cache.FeatureCache(
    data, "mrpc", cache_dir=folder, max_seq_length=24,
    tokenizer_inputs={"vocabulary": "v", "do_lower_case": True},
    tokenizer=Tokenizer(task + "/vocab.txt"),
    num_processes=2 if name == "several" else 1)
"""


CONVERT = """
from bert_classifier import errors, process
with errors.exit_with_a_sentence(), process.signals_as_exceptions():
  cache().features("dev")
"""


def start(at, task, folder, name):
  """Starts a conversion, in two more processes if its name is "several"."""
  code = CONVERSION + textwrap.dedent(at) + CONVERT
  return subprocess.Popen(
    [sys.executable, "-c", code, task, str(folder), name],
    cwd=ROOT,
    stderr=subprocess.DEVNULL,
  )


def test_a_killed_conversion_leaves_nothing_under_the_real_name(
  cache, golden_task, tmp_path
):
  kill = """
    def at(text):
      if text == 30:
        os.kill(os.getpid(), 9)
  """
  assert start(kill, golden_task, tmp_path, "alone").wait(timeout=120) == -9
  (left,) = os.listdir(tmp_path)
  assert ".tf_record.tmp-" in left
  os.utime(tmp_path / left, (0, 0))  # one that is younger than a day stays
  path = cache().features("dev").path
  assert len(os.listdir(tmp_path)) == 2  # and what was left is gone
  assert read_records(path) == read_records(f"{golden_task}/eval.tf_record")


def test_two_conversions_at_once_leave_one_whole_file(
  cache, tokenizer, golden_task, tmp_path
):
  wait = """
    def at(text):
      if text == 20:  # both are in the middle of it
        open(os.path.join(folder, "there"), "w").close()
        began = time.time()
        while not os.path.exists(os.path.join(folder, "here")):
          assert time.time() - began < 100
          time.sleep(0.01)
  """
  plain = tokenizer.tokenize

  def tokenize(text):
    (tmp_path / "here").touch()
    wait_for(lambda: (tmp_path / "there").exists())
    return plain(text)

  other = start(wait, golden_task, tmp_path, "alone")
  tokenizer.tokenize = tokenize
  path = cache().features("dev").path
  assert other.wait(timeout=120) == 0
  made = {os.path.basename(path), f"{Path(path).stem}.json"}
  assert set(os.listdir(tmp_path)) == {"here", "there"} | made
  assert read_records(path) == read_records(f"{golden_task}/eval.tf_record")


def wait_for(condition):
  """Waits until `condition()` is true, and gives what it is then."""
  began = time.monotonic()
  while not (value := condition()):
    assert time.monotonic() - began < 60
    time.sleep(0.05)
  return value


def is_running(pid):
  try:
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
  except (FileNotFoundError, ProcessLookupError):
    return False
  return state != "Z"


SIGNALS = [signal.SIGKILL, signal.SIGINT, signal.SIGTERM]


@pytest.fixture(scope="module")
def under_way(golden_task, tmp_path_factory):
  """Yields {signal: process and folder} of conversions, started at one time."""
  wait = """
    home = os.getpid()
    def at(text):
      if os.getpid() != home:
        open(os.path.join(folder, f"{os.getpid()}.pid"), "w").close()
        time.sleep(3)
  """
  folders = {
    number: tmp_path_factory.mktemp("conversion") for number in SIGNALS
  }
  runs = {
    number: (start(wait, golden_task, folder, "several"), folder)
    for number, folder in folders.items()
  }
  yield runs
  for run, _ in runs.values():
    run.kill()


@forks
@pytest.mark.parametrize("number", SIGNALS)
def test_no_process_outlives_its_parent(under_way, number):
  run, folder = under_way[number]
  pids = wait_for(lambda: [p.stem for p in folder.glob("*.pid")])
  if number == signal.SIGTERM:  # as `timeout` sends it to all of a job
    for pid in map(int, pids):
      os.kill(pid, number)
  run.send_signal(number)
  status = {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}
  assert run.wait(timeout=60) == status[number]
  wait_for(lambda: not any(map(is_running, pids)))
  left = [name for name in os.listdir(folder) if not name.endswith(".pid")]
  assert not any(name.endswith(".tf_record") for name in left)
  assert number == signal.SIGKILL or left == []
