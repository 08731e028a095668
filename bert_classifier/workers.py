"""Processes that train together: TensorFlow's server, signs of life, news.

Each process runs a server, over which the gradients are reduced. Over the same
servers the processes watch each other, because TensorFlow waits for ever for
one that is gone, and the chief tells the others what it has found.
"""

import json
import os
import threading
import time

from absl import logging
import tensorflow.compat.v1 as tf

from bert_classifier.errors import GONE, UserError

JOB = "worker"  # all machines are workers here, the first is the chief
_START_SECONDS = 1800  # machines of a cluster may start that much later
_WORDS_SECONDS = 30  # between two lines about one that is waited for
_POLL_SECONDS = 0.2
_BLAME_SECONDS = 3  # after an error, in which another process may be found gone
_MOST_PING_SECONDS = 5
_GET_STATUS = "/tensorflow.WorkerService/GetStatus"
_NO_PROXY = "no_grpc_proxy", "no_proxy"  # gRPC reads the first that is set


class Team:
  """The processes of a training, of which this is one.

  Made when all are there. When one is gone, this process ends, with status 75:
  its first thread may be inside a call that never returns.

  Args:
    cluster: `clusters.Cluster`.
    session_config: `tf.ConfigProto` of the server.
    seconds: without a sign of life after which a worker counts as gone.

  Raises:
    UserError: the port is taken, or others do not start.
  """

  def __init__(self, cluster, session_config, seconds):
    self._cluster, self._seconds = cluster, seconds
    name = cluster.name(cluster.index)
    own = cluster.addresses[cluster.index]
    _pass_by_proxy(cluster)
    try:
      self._server = tf.train.Server(
        tf.train.ClusterSpec({JOB: list(cluster.addresses)}),
        job_name=JOB,
        task_index=cluster.index,
        config=session_config,
      )
    except tf.errors.OpError as error:
      raise UserError(
        f"{name} cannot wait for the others on the port"
        f" of {own}: {error.message}. Another process has it: one with the"
        ' same place under "task" of its TF_CONFIG, or another training, beside'
        " which this one needs another port"
      ) from error
    self.target = self._server.target
    self._peers = [
      _Peer(cluster.name(index), address)
      for index, address in enumerate(cluster.addresses)
      if index != cluster.index
    ]
    self._wait_for_all()
    self._is_over = threading.Event()
    threading.Thread(target=self._watch, daemon=True).start()

  def part(self):
    """Lets the other processes end."""
    self._is_over.set()

  def _wait_for_all(self):
    """Returns when every other process answers.

    Raises:
      UserError: one did not in half an hour.
    """
    began = said = time.monotonic()
    while missing := [p for p in self._peers if not p.answers(1)]:
      now = time.monotonic()
      names = ", ".join(peer.name for peer in missing)
      if now - began > _START_SECONDS:
        raise UserError(
          f"{names} did not start within {_START_SECONDS // 60} minutes: start"
          " the same command on every machine, with its own TF_CONFIG"
        )
      if now - said > _WORDS_SECONDS:
        said = now
        logging.info("waiting for %s", names)
      time.sleep(_POLL_SECONDS)

  def _watch(self):
    """Ends this process when another one is gone."""
    period = min(_MOST_PING_SECONDS, self._seconds / 3)
    failing = {}  # time of the first ping that failed, by peer
    while not self._is_over.wait(period):
      began = time.monotonic()
      for peer in self._peers:
        if peer.answers(period):
          failing.pop(peer, None)
          continue
        silent = time.monotonic() - failing.setdefault(peer, began)
        if silent + period > self._seconds and not self._is_over.is_set():
          words = f"has given no sign of life for {self._seconds:g} seconds"
          self._end(peer.name, words)

  def end_without_others(self):
    """Ends this process where another one is gone, else returns.

    For after an error that the loss of another one can have caused.
    """
    last = time.monotonic() + _BLAME_SECONDS
    while time.monotonic() < last:
      for peer in self._peers:
        if not peer.answers(_BLAME_SECONDS):
          self._end(peer.name, "is gone")
      time.sleep(_POLL_SECONDS)

  def _end(self, name, words):
    """Ends this process, because another one has done something."""
    logging.error(
      "%s %s: this process ends. Its own log may say why; the same command,"
      " started again on every machine, goes on from the newest checkpoint",
      name,
      words,
    )
    logging.flush()
    os._exit(GONE)

  def share(self, value):
    """Waits for all processes to come here; returns the chief's value on each.

    Args:
      value: what JSON can hold; that of others is not used.
    """
    try:
      return self._share(value)
    except tf.errors.OpError as error:
      # The chief's end comes to light here before its silence does.
      self._end(self._cluster.name(0), f"has ended ({error.message})")

  def _share(self, value):
    chief = f"grpc://{self._cluster.addresses[0]}"
    with tf.Graph().as_default(), _open_session(chief) as session:
      arrivals = tf.FIFOQueue(
        self._cluster.size, tf.int32, shapes=[()], shared_name="arrivals"
      )
      news = [
        tf.FIFOQueue(1, tf.string, shapes=[()], shared_name=f"news_{index}")
        for index in range(1, self._cluster.size)
      ]
      if not self._cluster.is_chief:
        own = news[self._cluster.index - 1]
        session.run(arrivals.enqueue(self._cluster.index))
        _wait_for(session, own.size(), 1)
        return json.loads(session.run(own.dequeue()))
      _wait_for(session, arrivals.size(), len(news))
      session.run(arrivals.dequeue_many(len(news)))
      session.run([queue.enqueue(json.dumps(value)) for queue in news])
      _wait_for(session, tf.add_n([queue.size() for queue in news]), 0)
      return value


def _pass_by_proxy(cluster):
  """Lets TensorFlow reach the others directly where there is an HTTP proxy.

  It would ask the proxy of `http_proxy` for them, and wait for ever.
  """
  kept = next(filter(None, map(os.environ.get, _NO_PROXY)), None)
  names = dict.fromkeys(host.strip("[]") for host in cluster.hosts)
  os.environ[_NO_PROXY[0]] = ",".join(filter(None, [kept, *names]))


def _open_session(target):
  """Returns a session of the chief's that needs no other process."""
  config = tf.ConfigProto(device_filters=[f"/job:{JOB}/task:0"])
  return tf.Session(target, config=config)


def _wait_for(session, tensor, value):
  """Returns when a tensor has a value.

  By asking again and again: Python heeds no signal inside of a call that waits.
  """
  while session.run(tensor) != value:
    time.sleep(_POLL_SECONDS)


class _Peer:
  """Another process of the training, as it is seen from here.

  Args:
    name: the words for it.
    address: host:port.
  """

  def __init__(self, name, address):
    import grpc  # which comes with TensorFlow, and only a cluster needs

    self.name = name
    self._known = None
    self._error = grpc.RpcError
    channel = grpc.insecure_channel(
      address,
      options=[
        ("grpc.enable_http_proxy", 0),
        ("grpc.max_reconnect_backoff_ms", 1000),
      ],
    )
    # Its answer lists the devices with numbers drawn when the server started.
    self._get_status = channel.unary_unary(
      _GET_STATUS,
      request_serializer=lambda request: request,
      response_deserializer=lambda response: response,
    )

  def answers(self, seconds):
    """Returns whether it is alive, and the process that it was before."""
    try:
      status = self._get_status(b"", timeout=seconds)
    except self._error:
      return False
    self._known = self._known or status
    return status == self._known
