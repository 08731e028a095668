"""The report of a dry run as sentences: one screen, warnings last."""

import textwrap

from bert_classifier import feature_cache, plain_texts, progress

_WIDTH = 79
_MOST_LABELS, _MOST_WORDS, _MOST_PATHS = 6, 6, 3
_GIBIBYTE = 1 << 30
_MANY_CUT = 0.1  # share of cut examples from which on a warning says so
_MEMORY = ("weights", "gradients", "slots", "activations", "examples")


def render(report):
  """Returns the text of a report.

  Args:
    report: what `inspection.inspect` gives.
  """
  paragraphs = [
    (
      "DRY RUN",
      f"of {report['task']} in {report['output_dir']}: nothing is written",
    )
  ]
  for split in report["splits"]:
    paragraphs.append((split, " ".join(_describe_split(report, split))))
  paragraphs.append(("model", _describe_model(report["model"])))
  if report["training"]:
    paragraphs.append(("steps", _describe_steps(report["training"])))
  if report["time"]:
    paragraphs.append(("time", _describe_time(report)))
  if report["memory"]:
    paragraphs.append(("memory", _describe_memory(report)))
  if report["files"]:
    paragraphs += _describe_files(report)
  if report["answers"]:
    paragraphs.append(
      ("answers", "to texts would come last, on standard output.")
    )
  paragraphs += [("WARNING", sentence) for sentence in report["warnings"]]
  return "\n".join(
    textwrap.fill(
      text,
      _WIDTH,
      initial_indent=f"{name:8} ",
      subsequent_indent=" " * 9,
      break_long_words=False,
      break_on_hyphens=False,
    )
    for name, text in paragraphs
  )


def _describe_split(report, split):
  """Yields the sentences on a split."""
  found = report["splits"][split]
  number = found["examples"]
  source = f" of {found['file']}" if found["file"] else ""
  yield f"{plain_texts.count(number)}{source}."
  if "labels" in found:
    yield _describe_labels(found["labels"], number, report["problem_type"])
  tokens = ", ".join(
    f"{name} have up to {length}" for name, length in found["tokens"].items()
  )
  length = report["max_seq_length"]
  yield f"Tokens: {tokens}."
  if found["cut"]:
    yield (
      f"{_share(found['cut'], number)} are cut at {length};"
      f" {found['length that cuts 1%']} would cut 1%."
    )
  else:
    yield (
      f"None is cut at {length}, and {found['length that cuts 1%']} would cut"
      " 1%."
    )
  if found["share of [UNK]"]:
    words = " ".join(found["unknown words"][:_MOST_WORDS])
    yield f"{found['share of [UNK]']:.2%} of the tokens are [UNK], as: {words}."
  else:
    yield "No token is [UNK]."
  if found["texts that come again"]:
    yield (
      f"{plain_texts.count(found['texts that come again'], 'text')} come more"
      f" than once, {plain_texts.count(found['examples too many'])} too many."
    )


def _share(count, number):
  return f"{count} ({count / number:.1%})"


def _describe_labels(labels, number, problem_type):
  if problem_type == "regression":
    return (
      "Numbers: " + ", ".join(f"{k} {v:g}" for k, v in labels.items()) + "."
    )
  ordered = sorted(labels.items(), key=lambda item: -item[1])
  shown = [f"{label} {_share(count, number)}" for label, count in ordered]
  if len(shown) > _MOST_LABELS:
    left_out = len(shown) - _MOST_LABELS
    shown[_MOST_LABELS - 1 : -1] = [f"{left_out} more"]
  return f"Labels: {', '.join(shown)}."


def _describe_model(model):
  return f"{model['weights']:,} weights. " + ". ".join(model["source"]) + "."


def _describe_steps(steps):
  if not steps["left"]:
    return f"none: all {steps['steps']} are done."
  return (
    f"{steps['first step']} to {steps['steps']} of"
    f" {plain_texts.count(steps['batch'])}, {steps['warmup steps']} of them"
    " warmup."
  )


def _describe_time(report):
  parts = [
    f"{split} {progress.format_duration(part['seconds'])}"
    f" ({1000 * part['seconds a batch']:.0f} ms a batch of {part['batch']}, the"
    f" mean of {part['batches measured']})"
    for split, part in report["time"].items()
  ]
  return f"about: {', '.join(parts)}, on {report['device']}."


def _describe_memory(report):
  memory, peak = report["memory"], report["peak memory measured"]
  parts = [
    f"{name} {_gibibytes(memory[name])}" for name in _MEMORY if memory[name]
  ]
  text = (
    f"about {_gibibytes(memory['total'])} GiB at the peak:"
    f" program {_gibibytes(memory['program'])}, {', '.join(parts)}"
  )
  if peak:
    text += f"; the steps of this dry run took {_gibibytes(peak)}"
  if memory["free"] is not None:
    text += f"; {_gibibytes(memory['free'])} are free"
  return f"{text}."


def _gibibytes(count):
  return f"{count / _GIBIBYTE:.2f}"


def _describe_files(report):
  found = report["files"]
  yield "files", f"written: {_list_paths(found['written'])}."
  made = [split for split, path in found["features"].items() if path is None]
  if made:
    yield "", f"Features of {', '.join(made)} would be made and kept."
  if found["disk"]:
    free = found["free disk"]
    yield (
      "",
      (
        f"Checkpoints: up to {_gibibytes(found['disk'])} GiB"
        + (f", {_gibibytes(free)} are free." if free is not None else ".")
      ),
    )
  if found["replaced"]:
    yield "", f"Replaced: {_list_paths(found['replaced'])}."
  if found["removed"]:
    yield "", f"Removed before: {_list_paths(found['removed'])}."


def _list_paths(paths):
  shown = ", ".join(paths[:_MOST_PATHS])
  more = len(paths) - _MOST_PATHS
  return f"{shown} and {more} more" if more > 0 else shown or "nothing"


# ---------------------------------------------------------------------------
# Warnings


def list_warnings(report):
  """Returns what should be looked at before the run, a list of sentences.

  Args:
    report: what `inspection.inspect` gives.
  """
  warnings = list(report["doubts"])
  for split, found in report["splits"].items():
    warnings += _warn_of_split(report, split, found)
  for shared in report["shared texts"]:
    warnings.append(
      f"{shared['share']:.1%} of the examples of {shared['split']}"
      f" ({shared['examples']}) have a text that is in {shared['are in']} too"
      f" (the first is number {shared['first']}): results on them say little"
      " about texts that the model has not seen"
    )
  memory, disk = report["memory"], report["files"]
  if memory and memory["free"] is not None:
    needed = memory["total"] - memory["program"]
    if needed > memory["free"]:
      warnings.append(
        f"about {_gibibytes(needed)} GiB of memory are needed and"
        f" {_gibibytes(memory['free'])} are free, so no step was tried: give a"
        " smaller --train_batch_size or --max_seq_length"
      )
  if (
    disk and disk["free disk"] is not None and disk["disk"] > disk["free disk"]
  ):
    warnings.append(
      f"checkpoints need {_gibibytes(disk['disk'])} GiB, and"
      f" {_gibibytes(disk['free disk'])} are free on the disk of"
      f" {report['output_dir']}"
    )
  return warnings


def _warn_of_split(report, split, found):
  """Yields the warnings of a split."""
  number = found["examples"]
  never = [
    label
    for label, count in found.get("labels", {}).items()
    if not count and report["problem_type"] != "regression"
  ]
  if never and split == "train":
    yield (
      f"train has no example of the labels {plain_texts.show_labels(never)}"
    )
  if found.get("texts with different labels"):
    first = " and ".join(map(str, found["first of them"]))
    yield (
      f"{split}: {found['texts with different labels']} texts come with"
      f" different labels (examples {first})"
    )
  if found["share of [UNK]"] >= feature_cache.MANY_UNKNOWN:
    yield (
      f"{split}: {found['share of [UNK]']:.1%} of the tokens are [UNK]: are"
      " --vocab_file and --do_lower_case those of a model of this language?"
    )
  if found["cut"] > _MANY_CUT * number:
    fitting = found["length that cuts 1%"]
    possible = report["longest possible"]
    yield (
      f"{split}: {_share(found['cut'], number)} examples are cut; give"
      f" --max_seq_length={min(fitting, possible)}"
      + f", the most that the model has, of {fitting} that would cut 1%"
      * (fitting > possible)
    )
