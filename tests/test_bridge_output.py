"""What estimator_bridge lets a process print, and what it keeps from it."""

import os
import signal
import subprocess
import sys

from conftest import run_code
import pytest
import tensorflow.compat.v1 as tf

import estimator_bridge


@pytest.fixture(scope="module")
def heard():
  """Returns what a quieted process prints before it warns, and then."""
  before, _, after = run_code("""
    import sys
    import warnings
    import estimator_bridge
    import tensorflow.compat.v1 as tf
    estimator_bridge.quiet()
    with tf.Graph().as_default(), tf.Session() as session:
      session.run(tf.constant(1.0) + 2.0)
    print("it warns", file=sys.stderr, flush=True)
    warnings.warn("mine")
  """).stderr.partition("it warns\n")
  return before, after


@pytest.mark.skipif(
  tf.__version__.startswith("2.18."), reason="no way is known: README.md"
)
def test_a_session_starts_in_silence_where_warnings_alone_are_asked_for(heard):
  assert not heard[0]


def test_a_warning_of_the_users_own_still_shows(heard):
  assert "UserWarning: mine" in heard[1]


def test_a_tensorflow_that_is_not_known_ends_the_script_with_a_sentence():
  run = run_code(
    """
    import runpy, sys
    import tensorflow  # what it says on this CPU is its own
    print("imported", file=sys.stderr)
    tensorflow.__version__ = "2.99.0"
    sys.argv[1:] = ["--do_eval", "--task_name=mrpc", "--output_dir=none"]
    runpy.run_module("run_classifier", run_name="__main__")
    """,
    check=False,
  )
  assert run.returncode == 1
  said = run.stderr.partition("imported\n")[2]
  assert (
    "] estimator_bridge found TensorFlow 2.99.0 " in said.partition("\n")[0]
  )
  assert len(said.splitlines()) == 1


# What TensorFlow 2.21 prints on a CPU with AVX-512, and what it might print.
BANNER = """\
WARNING: All log messages before absl::InitializeLog() is called are written to
I0000 00:00:1.2    34 port.cc:153] oneDNN custom operations are on. You may see
"""
OTHERS = """\
W0000 00:00:1.2    34 port.cc:160] oneDNN custom operations are not known
mine: oneDNN custom operations are on. \xff
no line"""


@pytest.mark.parametrize("ending", ["", "os.abort()"])
@pytest.mark.parametrize("level", ["1", None])
def test_the_import_drops_two_lines_and_no_other(tmp_path, level, ending):
  said = (BANNER + OTHERS).encode("latin-1")
  (tmp_path / "tensorflow.py").write_text(
    f"import os\nos.write(2, {said!r})\n{ending}\nraise SystemExit(3)"
  )
  run = subprocess.run(
    [sys.executable, "-c", "import estimator_bridge"],
    cwd=tmp_path,
    env={
      **{k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"},
      "PYTHONPATH": os.path.dirname(estimator_bridge.__file__),
      **({"TF_CPP_MIN_LOG_LEVEL": level} if level else {}),
    },
    capture_output=True,
  )
  assert run.returncode == (-signal.SIGABRT if ending else 3)
  heard = OTHERS if level else BANNER + OTHERS
  assert run.stderr == heard.encode("latin-1")
