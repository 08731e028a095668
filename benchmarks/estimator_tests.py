"""Runs Estimator's own unit tests on a TensorFlow with the bridge.

  git clone https://github.com/tensorflow/estimator
  git -C estimator checkout 359acd5       # the commit of its 2.15.0 release
  python benchmarks/estimator_tests.py estimator \\
    --python .venv/bin/python --native .venv-tf215/bin/python

Each test file runs in a process of its own with estimator_bridge imported
before it, by --python. Files in which something failed run again as they stand
by --native, a Python that has TensorFlow 2.15. Both import the installed
tensorflow-estimator 2.15.0; from the checkout come the tests alone. They hand
Keras objects of version 2 to Estimator, so --python has tf_keras as well:

  pip install --no-deps tf_keras==2.21.*

What a file gave is kept in --kept after it ran, so the same command goes on
where it was stopped; --redo runs afresh the files whose names hold one of the
given texts. The end is a count of what passed and the names of what failed,
with what it raised, apart from what fails natively too. Some two hours of
processor time. Standard library only.
"""

import argparse
import collections
import json
import os
from pathlib import Path
import re
import subprocess
import sys
import tempfile
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
TEST_FILE = re.compile(r"_test(_fc)?(_v\d)*\.py$")
# The tests are scripts: each defines its cases and calls tf.test.main().
CHILD = """
import runpy, sys
if {bridged}:
  import estimator_bridge
  estimator_bridge.use_keras_2()  # the tests hand Keras objects to Estimator
report, path = sys.argv[1:]
sys.argv = [path, "--xml_output_file=" + report]
runpy.run_path(path, run_name="__main__")
"""


def run_file(python, path, bridged, limit):
  """Runs one test file and returns its outcomes.

  Args:
    python: path of the interpreter.
    path: `Path` of the test file.
    bridged: whether estimator_bridge is imported before.
    limit: seconds after which it is stopped.

  Returns:
    `dict` from "Class.test" to "passed", "skipped" or what was raised. A file
    that gave no report has the one entry "(file)" with its last line.
  """
  with tempfile.TemporaryDirectory() as folder:
    report = Path(folder, "report.xml")
    env = {
      **os.environ,
      "PYTHONPATH": str(ROOT) if bridged else "",
      "TEST_TMPDIR": folder,
      "TMPDIR": folder,
      "TF_CPP_MIN_LOG_LEVEL": "2",
      "CUDA_VISIBLE_DEVICES": "-1",
    }
    code = CHILD.format(bridged=bridged)
    command = [python, "-c", code, str(report), str(path)]
    try:
      done = subprocess.run(
        command,
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=limit,
      )
      log = done.stdout.decode(errors="replace").strip().splitlines()
      failure = f"{done.returncode}: {log[-1][:300] if log else 'no output'}"
    except subprocess.TimeoutExpired:
      failure = f"not done after {limit} s"
    if not report.exists():
      return {"(file)": failure}
    return read_report(report)


def read_report(path):
  """Returns the outcomes in a JUnit report, as run_file does."""
  outcomes = {}
  for case in ElementTree.parse(path).iter("testcase"):
    name = f"{case.get('classname').rpartition('.')[2]}.{case.get('name')}"
    wrong = [*case.iter("failure"), *case.iter("error")]
    if wrong:
      outcomes[name] = wrong[0].get("message", "").strip()[:300] or "failed"
    elif case.find("skipped") is not None or case.get("status") == "notrun":
      outcomes[name] = "skipped"
    else:
      outcomes[name] = "passed"
  return outcomes


def failures(outcomes):
  """Returns what failed: `dict` from "file Class.test" to what was raised."""
  return {
    f"{file} {name}": outcome
    for file, found in outcomes.items()
    for name, outcome in found.items()
    if outcome not in ("passed", "skipped")
  }


def print_summary(kept):
  """Prints the counts of both kinds and the failures of the bridge alone."""
  for kind, outcomes in kept.items():
    counts = collections.Counter(
      outcome if outcome in ("passed", "skipped") else "failed"
      for found in outcomes.values()
      for outcome in found.values()
    )
    print(f"{kind}: {len(outcomes)} files, {dict(counts)}")
  bridged, native = (failures(kept.get(k, {})) for k in ("bridged", "native"))
  both = bridged.keys() & native.keys()
  print(f"failed natively too: {len(both)}")
  for name in sorted(both):
    print(f"  {name}")
  print(f"failed with the bridge only: {len(bridged) - len(both)}")
  for name in sorted(bridged.keys() - both):
    print(f"  {name}: {bridged[name].splitlines()[0][:200]}")


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("checkout", type=Path)
  parser.add_argument("--python", help="Python with the TensorFlow to bridge")
  parser.add_argument("--native", help="Python with TensorFlow 2.15")
  parser.add_argument("--kept", type=Path, default=Path("estimator_tests.json"))
  parser.add_argument("--redo", nargs="*", default=[], metavar="TEXT")
  parser.add_argument("--limit", type=int, default=1800, help="s for a file")
  args = parser.parse_args()

  folder = args.checkout / "tensorflow_estimator"
  files = sorted(
    path for path in folder.rglob("*.py") if TEST_FILE.search(path.name)
  )
  if not files:
    sys.exit(f"{folder} holds no tests")
  kept = json.loads(args.kept.read_text()) if args.kept.exists() else {}
  for kind, python in (("bridged", args.python), ("native", args.native)):
    outcomes = kept.setdefault(kind, {})
    for path in files if python else ():
      name = path.relative_to(folder).as_posix()
      if kind == "native" and not failures(
        {name: kept["bridged"].get(name, {})}
      ):
        continue
      if name in outcomes and not any(text in name for text in args.redo):
        continue
      outcomes[name] = run_file(
        os.path.abspath(python), path.resolve(), kind == "bridged", args.limit
      )
      failed = len(failures({name: outcomes[name]}))
      print(
        f"{kind} {name}: {len(outcomes[name])} tests, {failed} failed",
        file=sys.stderr,
        flush=True,
      )
      unfinished = args.kept.with_suffix(".tmp")
      unfinished.write_text(json.dumps(kept, indent=1, sort_keys=True))
      unfinished.replace(args.kept)
  print_summary(kept)


if __name__ == "__main__":
  main()
