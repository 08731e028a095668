"""This machine: big blocks of memory, and what of it is free."""

import os
import platform

from conftest import run_python
import pytest

from bert_classifier import containers, machine

FAULTS = """
import resource
import numpy as np
from bert_classifier import machine
machine.reuse_big_blocks()
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


def test_free_memory_is_at_most_what_the_machine_has():
  total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  assert 0 <= machine.find_free_memory() <= total


def test_free_memory_is_the_smaller_of_machine_and_container(monkeypatch):
  monkeypatch.setattr(machine, "read_available_memory", lambda: 5 << 30)
  for left, expected in (
    (3 << 30, 3 << 30),
    (9 << 30, 5 << 30),
    (None, 5 << 30),
  ):
    monkeypatch.setattr(containers, "find_free_memory", lambda left=left: left)
    assert machine.find_free_memory() == expected


def test_threads_are_as_many_as_a_container_has_time_for(monkeypatch):
  monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64), False)
  for cores, expected in ((None, 64), (2, 2), (80, 64)):
    monkeypatch.setattr(containers, "count_cores", lambda cores=cores: cores)
    assert machine.count_threads(0) == expected
  assert machine.count_threads(3) == 3
