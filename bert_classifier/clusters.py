"""Clusters: the machines that TF_CONFIG names, and which of them this one is.

TF_CONFIG is the environment variable by which Kubernetes' training operators,
Vertex, SageMaker and `launcher` tell each process of a training about all:

  {"cluster": {"chief": ["a:2222"], "worker": ["b:2222", "c:2222"]},
   "task": {"type": "worker", "index": 0}}
"""

import json
from typing import NamedTuple

from bert_classifier.errors import UserError

VARIABLE = "TF_CONFIG"
# Jobs whose machines train. The first one that is there leads with its first
# machine; "master" is what the chief was called before.
_TRAINING = ("chief", "master", "worker")
_EVALUATOR = "evaluator"


class Cluster(NamedTuple):
  """The machines that train together.

  Attributes:
    addresses: tuple of host:port, the chief's first.
    index: which of them this one is.
  """

  addresses: tuple
  index: int

  @property
  def size(self):
    return len(self.addresses)

  @property
  def is_chief(self):
    return self.index == 0

  @property
  def hosts(self):
    """Returns the list of the addresses without their ports."""
    return [address.rpartition(":")[0] for address in self.addresses]

  def count_on_host(self):
    """Returns how many of the processes have the host of this one."""
    return self.hosts.count(self.hosts[self.index])

  def name(self, index):
    """Returns the words for a worker: "worker 1 (10.0.0.2:2222)"."""
    chief = "the chief, " if index == 0 else ""
    return f"{chief}worker {index} ({self.addresses[index]})"


def is_evaluator(text):
  """Returns whether this machine is one that only evaluates.

  Args:
    text: value of TF_CONFIG; None where it is not set.

  Raises:
    UserError: it cannot be read.
  """
  _, (kind, _) = _parse(text)
  return kind == _EVALUATOR


def read(text):
  """Returns the `Cluster` that TF_CONFIG names; None for one machine alone.

  Args:
    text: value of TF_CONFIG; None where it is not set.

  Raises:
    UserError: it cannot be read, or names what takes no part in a training.
  """
  jobs, (kind, index) = _parse(text)
  others = sorted(set(jobs) - {*_TRAINING, _EVALUATOR})
  size = sum(len(jobs.get(job, {})) for job in _TRAINING)
  if size + sum(len(jobs[job]) for job in others) < 2:
    return None
  if others:
    raise _mistake(
      text,
      f"has machines of the kind {', '.join(others)}, which have no part in"
      " this training: name those that compute, as chief and worker, alone",
    )
  places = [
    (job, number, address)
    for job in _TRAINING
    for number, address in sorted(jobs.get(job, {}).items())
  ]
  tasks = [(job, number) for job, number, _ in places]
  if (kind, index) not in tasks:
    names = ", ".join(f"{job} {number}" for job, number in tasks)
    own = f"says that this machine is {kind} {index}, but"
    if kind is None:
      own = "does not say which machine this is, and"
    raise _mistake(
      text,
      f"{own} the cluster has {names}: each machine's own place stands under"
      ' "task", as {"type": "worker", "index": 0}',
    )
  addresses = tuple(address for _, _, address in places)
  for address in addresses:
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not _is_port(port):
      raise _mistake(
        text,
        f"has the address {address!r}, but must be host:port, with a port from"
        " 1 to 65535",
      )
    if addresses.count(address) > 1:
      raise _mistake(text, f"has the address {address!r} twice")
  return Cluster(addresses, tasks.index((kind, index)))


def _parse(text):
  """Returns {job: {number: address}}, and this machine's job and number."""
  if not (text or "").strip():
    return {}, (None, None)
  try:
    config = json.loads(text)
    if not isinstance(config, dict):
      raise TypeError("it is no JSON object")
    task = config.get("task") or {}
    place = task.get("type"), int(task.get("index") or 0)
    jobs = {
      job: _number_machines(hosts)
      for job, hosts in (config.get("cluster") or {}).items()
    }
  except (AttributeError, RecursionError, TypeError, ValueError) as error:
    raise _mistake(
      text,
      f"does not name the machines of a cluster in JSON ({error}): mend it, or"
      " unset it to compute on one machine",
    ) from error
  return {job: hosts for job, hosts in jobs.items() if hosts}, place


def _number_machines(hosts):
  """Returns {number: address} of a job: a list of machines, or some of them."""
  if isinstance(hosts, list):
    hosts = dict(enumerate(hosts))
  if not isinstance(hosts, dict):
    raise TypeError(f"{hosts!r:.80} is no list of machines")
  return {int(number): str(address) for number, address in hosts.items()}


def _is_port(text):
  """Returns whether a text is the number of a port, in digits."""
  return text.isascii() and text.isdecimal() and 0 < int(text[:9]) < 65536


def _mistake(text, words):
  """Returns the UserError on a TF_CONFIG."""
  return UserError(f"the environment variable {VARIABLE}={text:.200} {words}")
