"""The command line, read before TensorFlow's import.

That takes seconds, which a mistake in a flag, --help and Ctrl-C need not wait
for.
"""

import os
import sys

from bert_classifier import process


def begin(module, manual):
  """Reads the command line of a script and imports estimator_bridge.

  The command line is read only where the script is run, not imported. Where
  several processes are to carry the command out, this one starts them, waits
  and ends.

  Args:
    module: `__name__` of the script.
    manual: its docstring, which --help shows.

  Returns:
    The list of the words that are no flags, and the function to call when the
    script is imported.
  """
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # no banner at the import
  process.open_standard_streams()
  if module != "__main__":
    done = process.explain_interrupted_import(module)
    import estimator_bridge  # first of all, for it checks the versions

    return [], done
  process.end_at_signals()
  words = _read_command_line(manual)
  try:
    import estimator_bridge  # noqa: F401 - and keeps TensorFlow's banner away
  except ImportError as error:
    sys.exit(process.format_line(str(error)))
  return words, lambda: None


def _read_command_line(manual):
  from absl import app, logging

  from bert_classifier import errors, flag_checks, launcher, options

  app.define_help_flags()
  words = options.parse_flags(sys.argv, manual)
  logging.use_absl_handler()
  logging.get_absl_handler().setFormatter(process.LogFormatter())
  with errors.exit_with_a_sentence():
    asked = options.read()
    flag_checks.check(asked)
    launcher.take_over(asked)
  return words
