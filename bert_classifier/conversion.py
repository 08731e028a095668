"""Converts examples to records in several processes, in order.

This process reads and writes; forked worker processes convert what comes after
the first examples of a large set. The records are the same to the byte.
"""

import collections
from concurrent import futures
import contextlib
import gc
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings

from absl import logging

from bert_classifier import features

# Examples converted before worker processes start. Starting takes a tenth of a
# second: with two processes CoLA's 8 551 examples took 1.3 times as long as
# with one, 120 000 examples 0.7 times (benchmarks/conversion.py, two cores).
EXAMPLES_ALONE = 10000
# Examples sent to a worker process at a time.
CHUNK_EXAMPLES = 512


def make_records(examples, converter, num_processes):
  """Yields the records of each example, in order; the first five are logged.

  Args:
    examples: iterable of `examples.InputExample`.
    converter: `features.Converter`.
    num_processes: worker processes for a large set. With 1, and where the
      system is not Linux, this process converts everything.
  """
  if num_processes == 1 or sys.platform != "linux":
    yield from features.make_records(examples, converter)
    return
  examples = iter(examples)
  alone = features.LOGGED_EXAMPLES + EXAMPLES_ALONE
  first = itertools.islice(examples, alone)
  yield from features.make_records(first, converter)
  inputs = map(converter.inputs, examples)
  yield from _records_of_processes(inputs, converter, num_processes)


def _records_of_processes(inputs, converter, num_processes):
  """Yields the records of inputs in order, converted in worker processes.

  Few chunks are under way at a time, so that memory stays bounded although
  reading is faster than converting.
  """
  chunks = iter(lambda: list(itertools.islice(inputs, CHUNK_EXAMPLES)), [])
  first = next(chunks, None)
  if first is None:
    return
  try:
    pool = futures.ProcessPoolExecutor(
      num_processes,
      multiprocessing.get_context("fork"),
      _begin_chunks,
      (converter, os.getpid()),
    )
  except (ImportError, OSError) as error:  # no /dev/shm, for its locks
    logging.warning("converting in this process alone: %s", error)
    for chunk in itertools.chain([first], chunks):
      for one in chunk:
        yield from converter.records(one)
    return
  under_way = collections.deque()
  with _forked(pool, num_processes):
    for chunk in itertools.chain([first], chunks):
      under_way.append(pool.submit(_convert_chunk, chunk))
      if len(under_way) > 2 * num_processes:
        yield from _finished(under_way.popleft(), converter.tally)
    while under_way:
      yield from _finished(under_way.popleft(), converter.tally)


def _finished(future, tally):
  """Returns the records of a chunk, and adds its tally to `tally`."""
  records, counts = future.result()
  longest = max(tally["longest"], counts["longest"])
  tally.update(counts)
  tally["longest"] = longest
  return records


@contextlib.contextmanager
def _forked(pool, num_processes):
  """Forks the processes of a pool, and ends them.

  A forked process starts within milliseconds and has the words remembered so
  far; a new one would import TensorFlow first, for seconds. It lacks the
  threads of TensorFlow's runtime, so it must not call TensorFlow, and never
  does.
  """
  before = multiprocessing.active_children()
  try:
    with warnings.catch_warnings():
      # Python warns of forking a process with threads; see above.
      warnings.simplefilter("ignore", DeprecationWarning)
      gc.freeze()  # so that no child collects, and closes, a session of ours
      try:
        pool.submit(os.getpid).result()  # makes all of them
      finally:
        gc.unfreeze()
    logging.info("converting in %d more processes", num_processes)
    yield
  except BaseException:
    for process in set(multiprocessing.active_children()).difference(before):
      process.kill()
    raise
  finally:
    pool.shutdown(cancel_futures=True)


_converter = None  # of a worker process


def _begin_chunks(converter, parent):
  """Prepares a worker process.

  Args:
    converter: `features.Converter`.
    parent: process id of the parent.
  """
  global _converter
  _converter = converter
  # Ctrl-C reaches every process of the terminal, and `timeout` and others send
  # SIGTERM to all: the parent deals with it, and kills this one.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent):
  """Ends this process when its parent has ended, even if it was killed."""
  while os.getppid() == parent:
    time.sleep(0.5)
  os._exit(1)


def _convert_chunk(inputs):
  """Returns the records of a chunk and its own tally."""
  _converter.tally = collections.Counter()
  records = [record for one in inputs for record in _converter.records(one)]
  return records, _converter.tally
