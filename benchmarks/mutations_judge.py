"""The verdict on a command that ran in a mutated world; see mutations.py."""

import hashlib
from pathlib import Path
import re
from typing import NamedTuple

import mutations_check
import mutations_oracle
import mutations_reading
import mutations_world


class Case(NamedTuple):
  """A mutation that was run.

  Attributes:
    pristine, world: the worlds before and after.
    scenario: the command.
    kind, file: of the mutated file, its path below the world.
    before: digests of all files before the command ran.
  """

  pristine: Path
  world: Path
  scenario: mutations_world.Scenario
  kind: str
  file: Path
  before: dict

  def is_same_vocabulary(self):
    """Returns True where only bytes changed, which a digest shows as well."""
    read = mutations_reading.read_vocabulary
    try:
      return self.kind == "vocabulary" and read(self.world / self.file) == read(
        self.pristine / self.file
      )
    except mutations_reading.Refused:
      return False


# What a message may say instead of the file's name.
_WORDS = {
  "data": "training examples|training data",
  "vocabulary": "vocabulary \\(SHA|--vocab_file",
  "configuration": "_config|config\\.json|do_lower_case",
  "flagfile": "--\\w+|belongs to no flag|flagfile",
  "safetensors": "hugging_face|--\\w+_file",
  "checkpoint": "model\\.ckpt|state file|`checkpoint`|checkpoint (in|at)",
  "manifest": "run_manifest|was trained",
  "cache": "cached_",
}


def judge(case, ran, reading, reference):
  """Returns the verdict of a run and the reason.

  Args:
    case: `Case`.
    ran: exit status, or None, and log.
    reading: `Reading` or `Refused`, of before the run.
    reference: meaning and results of the run on the pristine world.
  """
  status, log = ran
  is_sensible = isinstance(reading, mutations_oracle.Reading)
  is_same = is_sensible and reading.meaning() == reference[0]
  if status is None:
    return "fault: hang", "the command was ended after --seconds"
  if status == 70 or "Traceback (most recent" in log:
    errors = re.findall(r"^[\w.]+(?:Error|Exception)\b.*", log, re.MULTILINE)
    return "fault: traceback", (errors or [last_line(log)])[-1][:300]
  if status not in (0, 1):
    return "fault: crash", f"exit status {status}"
  left = list(case.world.rglob("*.tmp-*"))
  if left:
    return "fault: left behind", str(left[0].relative_to(case.world))
  if status == 0:
    return judge_success(case, log, reading, is_same, reference[1])
  lost = find_lost(case, log)
  if lost:
    return "fault: lost", lost
  line = last_line(log)
  words = f"{re.escape(case.file.name)}|{_WORDS[case.kind]}"
  if case.kind == "flagfile" and (case.world / case.file).is_file():
    text = (case.world / case.file).read_text(errors="replace")
    values = filter(None, re.findall(r"=(.*)", text))
    words = "|".join([words, *map(re.escape, values)])
  if not re.search(words, line):
    return "fault: misleading", "the message does not name the file"
  if len(line) >= 1500:
    return "fault: misleading", "a message of over 1500 characters"
  if is_same or case.is_same_vocabulary():
    return "strict", ""
  return "refused", "" if is_sensible else str(reading)


def judge_success(case, log, reading, is_same, results):
  """Returns verdict and reason of a run that ended with 0."""
  if isinstance(reading, mutations_reading.Refused):
    return "fault: silent", f"nothing sensible to compute: {reading}"
  try:
    mutations_check.check(case.world, reading, log)
  except mutations_check.Wrong as error:
    return "fault: silent", str(error)
  except mutations_reading.Refused as refusal:
    return "fault: silent", f"nothing sensible to compute: {refusal}"
  except mutations_check.Shaky as error:
    return "cannot be told", f"{case.kind}: {error}"
  if is_same:
    out = case.world / reading.flags["output_dir"]
    found = mutations_check.collect_results(out)
    differing = [k for k in results if found.get(k) != results[k]]
    if differing:
      return "fault: silent", f"not the same bits: {', '.join(differing)}"
    return "same", ""
  from_scratch = case.scenario is mutations_world.SCENARIOS["scratch"]
  if from_scratch or case.kind in ("data", "flagfile"):
    return "as changed", ""
  return "cannot be told", _UNTOLD[case.kind]


_UNTOLD = {
  "vocabulary": "nothing beside it records which vocabulary belongs to it",
  "configuration": "a value that no shape of a weight shows",
  "safetensors": "the format has no checksum",
  "checkpoint": "a whole checkpoint with its checksums, of other weights",
  "manifest": "the manifest is the only record, and has no digest",
  "cache": "",
}


def find_lost(case, log):
  """Returns what a command that failed took from its world, or None."""
  began = " training on " in log
  after = hash_files(case.world)
  for path, digest in case.before.items():
    name = Path(path).name
    may_change = began and re.match(
      r"model\.ckpt-|checkpoint$|run_manifest|graph|events|.*\.json|vocab", name
    )
    if after.get(path) != digest and not may_change:
      return path
  for state in case.world.glob("*/checkpoint") if began else ():
    prefix = mutations_reading.newest_checkpoint(state.parent)
    mutations_reading.read_checkpoint(prefix)
  return None


def last_line(log):
  """Returns the last line of a log, without its time."""
  lines = [line for line in log.splitlines() if line.strip()]
  return re.sub(r"^\S+ \S+ (?=\[)", "", lines[-1])[:1500] if lines else ""


def hash_files(world):
  """Returns {path below the world: digest} of all files."""
  return {
    str(path.relative_to(world)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in world.rglob("*")
    if path.is_file()
  }
