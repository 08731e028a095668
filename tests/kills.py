"""Commands that are killed at chosen moments."""

from conftest import run_python

_KILLED = """if True:
  import os, signal, sys
  import run_classifier
  from bert_classifier import comparison, evaluation, history, runs, saving

  def die_at(owner, name, is_time):
    function, calls = getattr(owner, name), []
    def call(*arguments, **named):
      calls.append(arguments)
      if is_time(len(calls), *arguments):
        os.kill(os.getpid(), signal.SIGKILL)
      return function(*arguments, **named)
    setattr(owner, name, call)

  for way in [WAYS]:
    child = os.fork()
    if not child:
      die_at(*way)
      run_classifier.main(run_classifier.FLAGS(sys.argv))
      os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def run_killed(ways, flags):
  """Runs a command once for each way to die by kill -9, and makes sure it does.

  Each in a process of its own, which has TensorFlow's import from the first.

  Args:
    ways: Python source of tuples: module or class, name of a function, and a
      function of how often that was called and of its arguments, which says
      whether to die before it.
    flags: {name: value}; None leaves one out.
  """
  words = [f"--{n}={v}" for n, v in flags.items() if v is not None]
  done = run_python("-c", _KILLED.replace("WAYS", ways), *words)
  assert set(done.stdout.split()) == {"-9"}, done.stderr
