"""Containers: what Linux's control groups leave to this process.

A container, a pod of Kubernetes, a job of Slurm and a service of systemd are
such groups, and each lies in others, whose limits hold as well. Both versions
of groups are read; with none, as on another system, there is no limit.

Nothing here imports TensorFlow.
"""

import math
import pathlib
import re
from typing import NamedTuple

ROOT = pathlib.Path("/")
_NO_LIMIT = 1 << 62  # bytes; version 1 has about 2^63 for none


def find_memory_limit(root=ROOT):
  """Returns the bytes that this process may ever use, None for any.

  Args:
    root: pathlib.Path of the file system's root.
  """
  return min((limit for limit, _ in _read_memory(root)), default=None)


def find_free_memory(root=ROOT):
  """Returns the bytes that are left to this process, None for any.

  Args:
    root: pathlib.Path of the file system's root.
  """
  free = (max(0, limit - used) for limit, used in _read_memory(root))
  return min(free, default=None)


def count_cores(root=ROOT):
  """Returns for how many cores there is time, at least 1; None for all.

  Args:
    root: pathlib.Path of the file system's root.
  """
  times = (_read_time(group) for group in _find_groups(root, "cpu"))
  return min(filter(None, times), default=None)


class _Group(NamedTuple):
  """A control group that this process is in.

  Attributes:
    folder: pathlib.Path.
    is_new: whether its files are those of version 2.
  """

  folder: pathlib.Path
  is_new: bool

  def read(self, name):
    """Returns the text of a file, "" where there is none."""
    try:
      return (self.folder / name).read_text()
    except OSError:
      return ""

  def read_number(self, new_name, old_name):
    """Returns the number in a file, None where there is none."""
    text = self.read(new_name if self.is_new else old_name).strip()
    return int(text) if text.isdigit() else None  # else "max", or -1


def _read_memory(root):
  """Yields limit and used bytes of each group with a limit."""
  for group in _find_groups(root, "memory"):
    limit = group.read_number("memory.max", "memory.limit_in_bytes")
    used = group.read_number("memory.current", "memory.usage_in_bytes")
    if limit is None or used is None or limit > _NO_LIMIT:
      continue
    statistics = group.read("memory.stat")
    # What was read of files counts as used, but makes room for who needs it.
    name = "inactive_file" if group.is_new else "total_inactive_file"
    cached = re.search(rf"^{name} (\d+)$", statistics, re.MULTILINE)
    yield limit, used - (int(cached[1]) if cached else 0)


def _read_time(group):
  """Returns for how many cores a group has time, None for all."""
  if group.is_new:
    quota, _, period = group.read("cpu.max").partition(" ")
  else:
    quota = group.read("cpu.cfs_quota_us").strip()
    period = group.read("cpu.cfs_period_us").strip()
  if not (quota.isdigit() and period.strip().isdigit()):
    return None
  return max(1, math.ceil(int(quota) / int(period)))


def _find_groups(root, controller):
  """Yields the `_Group`s that this process is in, the innermost first.

  Args:
    root: pathlib.Path of the file system's root.
    controller: "memory" or "cpu".
  """
  try:
    mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    places = (root / "proc/self/cgroup").read_text().splitlines()
  except OSError:
    return
  own = {}  # path of the group, by the type of the file system
  for place in places:
    _, controllers, path = place.split(":", 2)
    if not controllers:
      own["cgroup2"] = path
    elif controller in controllers.split(","):
      own["cgroup"] = path
  for mount in mounts:
    before, _, after = mount.partition(" - ")
    _, _, _, mounted, folder, *_ = before.split()
    kind, _, settings = after.split()[:3]
    is_new = kind == "cgroup2"
    if kind in own and (is_new or controller in settings.split(",")):
      top = root / folder.lstrip("/")
      for group in _climb(top, mounted, own[kind]):
        yield _Group(group, is_new)


def _climb(top, mounted, own):
  """Yields the folders of a group and of those around it.

  Args:
    top: pathlib.Path where a group is mounted.
    mounted: the path of that group, and
    own: of this process' group, in the tree of all. In a container the tree may
      be another one: then its own group is the one that is mounted.
  """
  try:
    below = pathlib.PurePosixPath(own).relative_to(mounted)
  except ValueError:
    below = pathlib.PurePosixPath()
  group = top / below
  while group != top:
    if group.is_dir():
      yield group
    group = group.parent
  yield top
