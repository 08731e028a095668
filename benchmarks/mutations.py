"""Damages files of all kinds and judges what the program makes of it.

  nice -n 10 python benchmarks/mutations.py --work=mutations_work

makes a small world (mutations_world.py), runs the commands in it once for the
reference, and then makes --count mutations: number N chooses a command, one of
the files it reads and what is done to the file (mutations_files.py), all by
--seed and N alone, and the command runs on the mutated world. It takes some 3
seconds a mutation. The same command again goes on where it was stopped, as each
mutation is a line of results_SEED.jsonl in --work; at the end it prints the
report. After a change of the program give another --work, or --again.

  --only=data,cache    only these kinds of files: data, vocabulary,
                       configuration, flagfile, safetensors, checkpoint,
                       manifest, cache
  --seed=2             other mutations
  --replay=17          makes mutation 17 again: prints command, log and verdict,
                       and keeps the mutated world in --work/replay/world
  --again=fault        makes those mutations again whose verdict was this one,
                       or `all`, and replaces their verdicts
  --report             only prints the report of what is done

What is right is said by an independent reading of the files
(mutations_oracle.py) and a BERT in NumPy (mutations_check.py). The verdicts:

  same            the file still means the same, and so do the results, to the
                  bit
  as changed      the file means something else, and the results are those of
                  what it says now
  refused         exit 1 with a sentence that names the file or what is in it;
                  no earlier result or checkpoint was lost
  strict          refused likewise, although the file means the same
  cannot be told  the results are those of what the file says now, which is
                  damage that nothing in the world could show: no checksum, or
                  no record of what belonged together. Not counted as passed
  fault           all else: `silent` (other results, or results where there is
                  nothing sensible to compute), `traceback`, `crash` (another
                  exit status), `hang`, `misleading` (the message does not name
                  the file), `lost`, `left behind` (a temporary file),
                  `disagrees` (see below)

A command runs in a process forked from this one, which has imported the program
but has no thread and has computed nothing, so that the fork is sound: this is
checked each time. One mutation in --real is run through the real command line
too, and the two must agree in exit status, last line and results.
"""

import collections
import contextlib
import functools
import hashlib
import importlib
import itertools
import json
import os
from pathlib import Path
import pickle
import random
import re
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import time
import traceback

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
  os.environ[name] = "1"  # their threads would start at the import
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from absl import flags  # noqa: E402
import mutations_check  # noqa: E402
import mutations_files  # noqa: E402
import mutations_judge  # noqa: E402
import mutations_oracle  # noqa: E402
import mutations_reading  # noqa: E402
import mutations_world  # noqa: E402

# Not absl's FLAGS, which are those of the program.
OURS = flags.FlagValues()


def _define(define, name, default, text):
  define(name, default, text, flag_values=OURS)


_define(flags.DEFINE_string, "work", "mutations_work", "Folder of all files.")
_define(flags.DEFINE_integer, "seed", 1, "Decides the mutations.")
_define(flags.DEFINE_integer, "count", 500, "Mutations.")
_define(flags.DEFINE_list, "only", [], "Kinds of files; all where empty.")
_define(flags.DEFINE_integer, "replay", None, "Number of a mutation to repeat.")
_define(flags.DEFINE_string, "again", None, "Verdict whose mutations to redo.")
_define(flags.DEFINE_bool, "report", False, "Only print the report.")
_define(flags.DEFINE_integer, "real", 33, "One in so many: real command line.")
_define(flags.DEFINE_integer, "processes", 2, "Commands at a time.")
_define(flags.DEFINE_integer, "seconds", 120, "What is longer is a hang.")

KINDS = tuple(mutations_files.MUTATIONS)
PASSED = ("same", "as changed", "refused", "strict")
MOST_MEMORY = 10 << 30  # of a command, in bytes of address space

# ---------------------------------------------------------------------------
# Processes


def fork(function, *arguments, new_session=True):
  """Starts a function in a process forked from this one; returns its id.

  The process ends with the function, by its SystemExit if there is one. `wait`
  can end it if it has a session of its own.
  """
  threads = len(os.listdir("/proc/self/task"))
  if threads > 1:
    raise RuntimeError(f"a fork beside {threads - 1} threads is not sound")
  sys.stdout.flush()
  sys.stderr.flush()
  pid = os.fork()
  if pid:
    return pid
  status = 1
  try:
    if new_session:
      os.setsid()
    function(*arguments)
    status = 0
  except SystemExit as end:
    if isinstance(end.code, str):
      print(end.code, file=sys.stderr)
    status = int(end.code or 0) if not isinstance(end.code, str) else 1
  except BaseException:
    traceback.print_exc(limit=-3, chain=False)
  finally:
    with contextlib.suppress(Exception):
      sys.stdout.flush()
      sys.stderr.flush()
    os._exit(status)


def wait(pid, seconds):
  """Returns the exit status of a forked process, None where it hangs."""
  end = time.monotonic() + seconds
  try:
    while time.monotonic() < end:
      done, status = os.waitpid(pid, os.WNOHANG)
      if done:
        pid = None
        return os.waitstatus_to_exitcode(status)
      time.sleep(0.02)
    return None
  finally:  # after Ctrl-C too
    if pid:
      os.killpg(pid, signal.SIGKILL)
      os.waitpid(pid, 0)


def run_forked(world, scenario, log):
  """Runs a command in a forked process; returns its exit status, or None."""
  return wait(fork(run_program, world, scenario, log), OURS.seconds)


def silence(log):
  """Sends all that this process prints to a file."""
  with open(log, "wb") as file:
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)


def run_program(world, scenario, log):
  """Becomes the command: never returns."""
  resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
  silence(log)
  os.chdir(world)
  sys.argv = [scenario.program, *scenario.arguments]
  path = world / scenario.program
  if not path.exists():
    path = ROOT / scenario.program
  runpy.run_path(str(path), run_name="__main__")


def run_really(world, scenario, log):
  """Runs a command as a shell does; returns its exit status, or None."""
  path = world / scenario.program
  if not path.exists():
    path = ROOT / scenario.program
  with open(log, "wb") as file:
    process = subprocess.Popen(
      [sys.executable, path, *scenario.arguments],
      cwd=world,
      env={**os.environ, "PYTHONPATH": str(ROOT)},
      stdout=file,
      stderr=file,
      start_new_session=True,
    )
    try:
      return process.wait(OURS.seconds + 60)
    except subprocess.TimeoutExpired:
      os.killpg(process.pid, signal.SIGKILL)
      process.wait()
      return None


# ---------------------------------------------------------------------------
# The world and its reference


class Place:
  """A folder for one command at a time.

  A manifest names absolute paths: so a world is made in the folder in which it
  is used, `world`, and kept beside it as `pristine`.
  """

  def __init__(self, folder):
    self.folder = folder
    self.world, self.pristine = folder / "world", folder / "pristine"
    self.log = folder / "log"

  def make(self):
    """Makes the world unless it is there, made by the present program."""
    if self._is_made():
      return
    if wait(fork(mutations_world.build, self.world), 300) != 0:
      raise RuntimeError("the world cannot be made")
    for name in mutations_world.FIRST:
      if run_forked(self.world, mutations_world.SCENARIOS[name], self.log) != 0:
        raise RuntimeError(self.log.read_text(errors="replace"))
    shutil.rmtree(self.world / "out")
    self.world.rename(self.pristine)
    (self.folder / "made_by").write_text(hash_program())

  def copy(self, other):
    """Makes the world a copy of another place's, at home in this one."""
    if self._is_made():
      return
    shutil.copytree(other.pristine, self.pristine, symlinks=True)
    for path in self.pristine.glob("*/run_manifest.json"):
      there = json.dumps(str(other.world))[1:-1]
      here = json.dumps(str(self.world))[1:-1]
      path.write_text(path.read_text().replace(there, here))
    (self.folder / "made_by").write_text(hash_program())

  def _is_made(self):
    """Returns True where the world is there; clears the folder if not."""
    mark = self.folder / "made_by"
    if mark.exists() and mark.read_text() == hash_program():
      return True
    remove_tree(self.folder)
    self.folder.mkdir(parents=True)
    return False

  def restore(self, name):
    """Makes the world what it is before the command of a scenario."""
    remove_tree(self.world)
    shutil.copytree(self.pristine, self.world, symlinks=True)
    if name in ("cola", "own"):  # which make this folder
      shutil.rmtree(self.world / f"{name}_out")

  def reference(self, name):
    """Returns meaning and results of a scenario in the pristine world."""
    path = self.folder.parent / f"reference_{hash_program(True)}_{name}"
    if not path.exists():
      scenario = mutations_world.SCENARIOS[name]
      self.restore(name)
      reading = mutations_oracle.read(self.world, scenario.arguments)
      status = run_forked(self.world, scenario, self.log)
      log = self.log.read_text(errors="replace")
      if status != 0:
        raise RuntimeError(log)
      mutations_check.check(self.world, reading, log)
      out = self.world / reading.flags["output_dir"]
      found = reading.meaning(), mutations_check.collect_results(out)
      whole = self.folder / "reference"
      whole.write_bytes(pickle.dumps(found))
      whole.rename(path)
    return pickle.loads(path.read_bytes())


def remove_tree(folder):
  shutil.rmtree(folder, ignore_errors=True)
  if folder.exists():
    subprocess.run(["rm", "-rf", folder], check=True)


@functools.lru_cache(maxsize=2)
def hash_program(with_oracle=False):
  """Returns a digest of the code that makes a world what it is."""
  paths = [Path(mutations_world.__file__), *sorted(ROOT.glob("*.py"))]
  paths += sorted(ROOT.glob("bert_classifier/*.py"))
  if with_oracle:
    paths += sorted(Path(__file__).parent.glob("mutations*.py"))
  sha256 = hashlib.sha256()
  for path in paths:
    sha256.update(path.read_bytes())
  return sha256.hexdigest()[:12]


# ---------------------------------------------------------------------------
# One mutation


def begin(number):
  """Returns the generator of a mutation, and the kind that it chose."""
  rng = random.Random(f"{OURS.seed} {number}")
  return rng, rng.choice(KINDS)


def choose_file(rng, kind, pristine):
  """Returns the name of a scenario, and a file it reads, below the world."""
  names = [
    name
    for name, scenario in mutations_world.SCENARIOS.items()
    if kind in scenario.files
  ]
  name = rng.choice(names)
  patterns = mutations_world.SCENARIOS[name].files[kind]
  paths = sorted(
    path for pattern in patterns for path in pristine.glob(pattern)
  )
  paths = [path for path in paths if path.is_file()]
  # A cache's name has a digest, so it is chosen by its place.
  return name, rng.choice(paths).relative_to(pristine)


def mutate(place, name, rng, kind, file):
  """Makes the mutated world; returns the mutation's name and what it did."""
  place.restore(name)
  result = place.folder / "mutation"

  def write():
    silence(place.log)
    path = place.world / file
    said = mutations_files.mutate(rng, kind, path, place.world)
    result.write_text(json.dumps(said))

  if wait(fork(write), 100) != 0:
    raise RuntimeError(f"the mutation of {file} failed")
  return json.loads(result.read_text())


def run_mutation(place, number):
  """Makes a mutation, runs its command and judges it; returns the line."""
  rng, kind = begin(number)
  name, file = choose_file(rng, kind, place.pristine)
  scenario = mutations_world.SCENARIOS[name]
  meaning, results = place.reference(name)
  state = rng.getstate()
  mutation, said = mutate(place, name, rng, kind, file)
  reading = read_world(place.world, scenario)
  before = mutations_judge.hash_files(place.world)
  began, cpu_before = time.monotonic(), cpu_seconds()
  status = run_forked(place.world, scenario, place.log)
  seconds, cpu = time.monotonic() - began, cpu_seconds() - cpu_before
  log = place.log.read_text(errors="replace")
  verdict, why = mutations_judge.judge(
    mutations_judge.Case(
      place.pristine, place.world, scenario, kind, file, before
    ),
    (status, log),
    reading,
    (meaning, results),
  )
  if number % OURS.real == 0 and OURS.replay is None:
    found = result_of(place.world, reading, status, log)
    rng.setstate(state)
    mutate(place, name, rng, kind, file)
    status = run_really(place.world, scenario, place.log)
    log_there = place.log.read_text(errors="replace")
    really = result_of(place.world, reading, status, log_there)
    if really != found and not verdict.startswith("fault"):
      verdict, why = "fault: disagrees", f"{found!r:.300} is {really!r:.300}"
  return dict(
    number=number,
    kind=kind,
    file=str(file),
    mutation=mutation,
    did=said,
    scenario=name,
    status=status,
    verdict=verdict,
    why=why,
    said=mutations_judge.last_line(log),
    warned=bool(re.search(rf"\[WARN \].*{re.escape(file.name)}", log)),
    seconds=round(seconds, 1),
    cpu_seconds=round(cpu, 1),
    code=hash_program(),
    command=" ".join([scenario.program, *scenario.arguments]),
  )


def cpu_seconds():
  """Returns the processor time of the processes that were waited for."""
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  return used.ru_utime + used.ru_stime


def read_world(world, scenario):
  """Returns the `Reading` of a command, or the `Refused` why there is none."""
  try:
    return mutations_oracle.read(world, scenario.arguments)
  except mutations_reading.Refused as refusal:
    return refusal


def result_of(world, reading, status, log):
  """Returns what two runs of one command must agree in."""
  results = {}
  if isinstance(reading, mutations_oracle.Reading) and status == 0:
    out = world / reading.flags["output_dir"]
    results = mutations_check.collect_results(out)
  return (
    status,
    re.sub(r"\d+\.\d s|\.tmp-\S+", "", mutations_judge.last_line(log)),
    results,
  )


# ---------------------------------------------------------------------------
# All of them


def read_lines(path):
  """Returns {number: newest line} of a file of results."""
  if not path.exists():
    return {}
  lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
  return {line["number"]: line for line in map(json.loads, lines)}


def work_through(numbers, work, path):
  """Makes mutations, --processes at a time, and appends their lines.

  Returns:
    The number of mutations that the harness itself failed at.
  """
  free = [Place(work / f"place_{i}") for i in range(OURS.processes)]
  free[0].make()
  for place in free[1:]:
    place.copy(free[0])
  running, queue, failures = {}, list(numbers), 0
  while queue or running:
    while queue and free:
      place, number = free.pop(), queue.pop(0)
      job = fork(write_line, place, number, new_session=False)
      running[job] = place, number
    pid, status = os.wait()
    place, number = running.pop(pid)
    free.append(place)
    line_path = place.folder / "line"
    if status or not line_path.exists():
      print(f"{number}: the harness itself failed", file=sys.stderr)
      failures += 1
      continue
    line = json.loads(line_path.read_text())
    line_path.unlink()
    with open(path, "a", encoding="utf-8") as writer:
      writer.write(json.dumps(line) + "\n")
    print(f"{number} {line['verdict']}: {line['file']}: {line['did']:.80}")
  return failures


def write_line(place, number):
  line = run_mutation(place, number)
  (place.folder / "line").write_text(json.dumps(line))


def print_report(lines):
  """Prints verdicts by kind, and every fault."""
  verdicts = [*PASSED, "cannot be told"]
  verdicts += sorted({line["verdict"] for line in lines} - set(verdicts))
  table = collections.Counter((li["kind"], li["verdict"]) for li in lines)
  print(f"| kind | {' | '.join(verdicts)} | all |")
  print("| --- |" + " --- |" * (len(verdicts) + 1))
  for kind in KINDS:
    counts = [table[kind, verdict] for verdict in verdicts]
    print(f"| {kind} | {' | '.join(map(str, counts))} | {sum(counts)} |")
  counts = [sum(table[k, verdict] for k in KINDS) for verdict in verdicts]
  shares = [f"{c} ({100 * c / max(len(lines), 1):.1f}%)" for c in counts]
  print(f"| all | {' | '.join(shares)} | {len(lines)} |")
  warned = [li["warned"] for li in lines if li["verdict"] == "cannot be told"]
  print(f"\n{sum(warned)} of {len(warned)} `cannot be told` had a warning")
  codes = collections.Counter(line["code"] for line in lines)
  print(f"\nof the program {codes.most_common()}\n")
  for line in sorted(lines, key=lambda li: (li["verdict"], li["kind"])):
    if line["verdict"].startswith("fault"):
      print(describe(line))


def describe(line):
  """Returns a mutation and its verdict as a few lines."""
  return (
    f"{line['number']} {line['verdict']}: {line['why']}\n"
    f"  {line['file']}: {line['mutation']}: {line['did']}\n"
    f"  {line['scenario']}: {line['command']}\n"
    f"  exit {line['status']}: {line['said'][:400]}\n"
  )


def main(argv):
  OURS(argv)
  work = Path(OURS.work).resolve()
  work.mkdir(parents=True, exist_ok=True)
  path = work / f"results_{OURS.seed}.jsonl"
  failures = 0
  if not OURS.report:
    for with_oracle in (False, True):  # kept for the forks, as the imports are
      hash_program(with_oracle)
    for module in ("run_classifier", "sklearn.metrics", "safetensors.numpy"):
      importlib.import_module(module)
  if OURS.replay is not None:
    replay(work)
    return
  if not OURS.report:
    failures = work_through(choose_numbers(read_lines(path)), work, path)
  print_report(list(read_lines(path).values()))
  sys.exit(1 if failures else 0)


def replay(work):
  """Makes one mutation again and prints all of it."""
  first, place = Place(work / "place_0"), Place(work / "replay")
  first.make()
  place.copy(first)
  line = run_mutation(place, OURS.replay)
  print(place.log.read_text(errors="replace"))
  print(describe(line))


def choose_numbers(done):
  """Returns the list of the mutations to make.

  Args:
    done: {number: line} of those that are made.
  """
  if OURS.again:
    return [
      number
      for number, line in sorted(done.items())
      if OURS.again == "all" or line["verdict"].startswith(OURS.again)
    ]
  wanted = (n for n in itertools.count() if begin(n)[1] in (OURS.only or KINDS))
  first = itertools.islice(wanted, OURS.count)
  return [number for number in first if number not in done]


if __name__ == "__main__":
  main(sys.argv)
