"""containers.py: what a container leaves, by files as Linux writes them."""

import pytest

from bert_classifier import containers

V1_DOCKER = """
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 /docker/4f /sys/fs/cgroup/cpu,cpuacct ro - cgroup - rw,cpu,cpuacct
35 31 0:32 /docker/4f /sys/fs/cgroup/memory ro master:11 - cgroup - rw,memory
"""
V1_SLURM = V1_DOCKER.replace("/docker/4f", "/")
V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
V2_HYBRID = V1_SLURM + V2.replace("/cgroup rw", "/cgroup/unified rw")
NO_LIMIT = 9223372036854771712  # as version 1 has it


@pytest.fixture
def machine(tmp_path):
  """Returns a function that writes the files of a machine, and its root."""

  def write(mounts, own, **groups):
    files = {
      "proc/self/mountinfo": mounts,
      "proc/self/cgroup": own,
      **groups,
    }
    for name, text in files.items():
      path = tmp_path / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(f"{str(text).strip()}\n")
    return tmp_path

  return write


def old_memory(folder, limit, used, cached=0):
  """Returns the files of a group of version 1."""
  folder = f"sys/fs/cgroup/memory/{folder}".rstrip("/")
  return {
    f"{folder}/memory.limit_in_bytes": limit,
    f"{folder}/memory.usage_in_bytes": used,
    f"{folder}/memory.stat": f"inactive_file 9\ntotal_inactive_file {cached}",
  }


def new_memory(folder, limit, used, cached=0):
  """Returns the files of a group of version 2."""
  folder = f"sys/fs/cgroup/{folder}".rstrip("/")
  return {
    f"{folder}/memory.max": limit,
    f"{folder}/memory.current": used,
    f"{folder}/memory.stat": f"anon 200\ninactive_file {cached}",
  }


def test_no_groups_are_no_limit(tmp_path, machine):
  assert containers.find_memory_limit(tmp_path) is None
  assert containers.find_free_memory(tmp_path) is None
  assert containers.count_cores(tmp_path) is None
  root = machine(V2, "0::/", **new_memory("", "max", 700))
  assert containers.find_memory_limit(root) is None
  assert containers.find_free_memory(root) is None
  root = machine(V1_SLURM, "4:memory:/", **old_memory("", NO_LIMIT, 700))
  assert containers.find_memory_limit(root) is None


@pytest.mark.parametrize(
  ("mounts", "own", "files"),
  [
    # Docker and Kubernetes: the group of the container is all that is seen.
    (V1_DOCKER, "4:memory:/docker/4f\n1:cpu,cpuacct:/docker/4f", old_memory),
    (V1_DOCKER, "4:memory:/", old_memory),
    (V2, "0::/", new_memory),
    (V2, "0::/elsewhere/4f", new_memory),
    (V2_HYBRID, "4:memory:/\n0::/", old_memory),
  ],
)
def test_a_container_leaves_its_limit_less_what_is_used(
  machine, mounts, own, files
):
  root = machine(mounts, own, **files("", 1000, 700, cached=450))
  assert containers.find_memory_limit(root) == 1000
  # What was read of files makes room.
  assert containers.find_free_memory(root) == 750


@pytest.mark.parametrize(
  ("mounts", "own", "files"),
  [
    (V1_SLURM, "5:cpu:/x\n4:memory:/slurm/job_7/step_0", old_memory),
    (V2, "0::/slurm/job_7/step_0", new_memory),
  ],
)
def test_limits_of_the_groups_around_hold_as_well(machine, mounts, own, files):
  """A job of Slurm is limited, its steps are not, or the other way round."""
  root = machine(
    mounts,
    own,
    **files("slurm", 9000, 1500),
    **files("slurm/job_7", 5000, 4500, cached=100),
    **files("slurm/job_7/step_0", 3000, 100),
    **files("slurm/job_8", 10, 10),
  )
  assert containers.find_memory_limit(root) == 3000
  assert containers.find_free_memory(root) == 600


def test_more_than_the_limit_leaves_nothing(machine):
  root = machine(V2, "0::/", **new_memory("", 1000, 1200))
  assert containers.find_free_memory(root) == 0


@pytest.mark.parametrize(
  ("quota", "expected"),
  [("200000", 2), ("250000", 3), ("50000", 1), ("-1", None)],
)
def test_time_of_the_processor_is_for_so_many_cores(machine, quota, expected):
  """Kubernetes and Docker limit it so; the cores that are seen stay all."""
  folder = "sys/fs/cgroup/cpu,cpuacct"
  root = machine(
    V1_DOCKER,
    "3:cpu,cpuacct:/docker/4f",
    **{f"{folder}/cpu.cfs_quota_us": quota},
    **{f"{folder}/cpu.cfs_period_us": "100000"},
  )
  assert containers.count_cores(root) == expected
  quota = "max" if expected is None else quota
  new = {"sys/fs/cgroup/cpu.max": f"{quota} 100000"}
  assert containers.count_cores(machine(V2, "0::/", **new)) == expected
