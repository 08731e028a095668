"""Times answers to texts: the first, one at a time, and all at once.

  python benchmarks/answers.py texts.txt --output_dir=mrpc_output

texts.txt has a text or a JSON object a line, as --predict_file takes it. Flags
are those of run_classifier.py.
"""

from pathlib import Path
import subprocess
import sys
import time

_SCRIPT = Path(__file__).resolve().parent.parent / "run_classifier.py"
_ONE_BY_ONE = 500  # lines at most


def start(flags):
  """Returns the process that answers standard input."""
  return subprocess.Popen(
    [sys.executable, str(_SCRIPT), *flags, "--predict_file=-"],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    bufsize=0,
  )


def time_one_by_one(flags, lines):
  """Returns the seconds to the first answer, and answers a second after it."""
  with start(flags) as process:
    began = time.monotonic()
    for number, line in enumerate(lines):
      process.stdin.write(line)
      process.stdout.readline()
      if number == 0:
        first = time.monotonic() - began
    rest = time.monotonic() - began - first
    process.stdin.close()
  return first, (len(lines) - 1) / rest


def main():
  """Prints the three figures."""
  path, *flags = sys.argv[1:]
  lines = Path(path).read_bytes().splitlines(keepends=True)
  first, speed = time_one_by_one(flags, lines[:_ONE_BY_ONE])
  print(f"first answer after {first:.1f} s, one by one {speed:.0f}/s")
  began = time.monotonic()
  with start(flags) as process:
    process.communicate(b"".join(lines))
  seconds = time.monotonic() - began - first
  print(f"all {len(lines)} at once {(len(lines) - 1) / seconds:.0f}/s")


if __name__ == "__main__":
  main()
