"""The report of a dry run as sentences: one screen, warnings last."""

import textwrap

from bert_classifier import feature_manifest, plain_texts, progress
from bert_classifier.plain_texts import show_bytes

_WIDTH = 79
_MOST_LABELS, _MOST_WORDS, _MOST_PATHS = 6, 6, 3
_MANY_CUT = 0.1  # share of cut examples from which on a warning says so
_ON_DEVICE = "weights", "gradients", "slots", "copies", "activations"
_ON_HOST = "program", "copies", "examples"
_MEMORY = "program", *_ON_DEVICE, "examples"
_LITTLE_MEMORY = 10 << 20  # not worth a word


def render(report):
  """Returns the text of a report.

  Args:
    report: what `inspection.inspect` gives.
  """
  paragraphs = [
    (
      "DRY RUN",
      f"of {report['task']} in {report['output_dir']}, on {report['device']}:"
      " nothing is written",
    )
  ]
  for split in report["splits"]:
    paragraphs.append((split, " ".join(_describe_split(report, split))))
  paragraphs.append(("model", _describe_model(report["model"])))
  if report["training"]:
    paragraphs.append(("steps", _describe_steps(report["training"])))
  if report["runs"]:
    paragraphs.append(("runs", _describe_runs(report["runs"])))
  if report["time"]:
    paragraphs.append(("time", _describe_time(report["time"])))
  if report["memory"]:
    words = _describe_memory(report["memory"], report["peak memory measured"])
    paragraphs.append(("memory", words))
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
    yield _describe_labels(found["labels"], number)
  if "numbers" in found:
    numbers = found["numbers"].items()
    yield f"Numbers: {', '.join(f'{name} {n:g}' for name, n in numbers)}."
  tokens = ", ".join(
    f"{name} have up to {length}".replace("100% have", "all have")
    for name, length in found["tokens"].items()
  )
  length = report["max_seq_length"]
  yield f"Tokens: {tokens}."
  if found["in windows"]:
    yield (
      f"{_share(found['in windows'], number)} are cut into windows of {length},"
      f" which makes {plain_texts.count(found['windows'], 'window')} of"
      f" {plain_texts.count(number, 'text')}."
    )
  if found["cut"]:
    yield (
      f"{_share(found['cut'], number)} are cut at {length};"
      f" {found['length that cuts 1%']} would cut 1%."
    )
  elif not found["in windows"]:
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


def _describe_labels(labels, number):
  ordered = sorted(labels.items(), key=lambda item: -item[1])
  shown = [f"{label} {_share(count, number)}" for label, count in ordered]
  if len(shown) > _MOST_LABELS:
    left_out = len(shown) - _MOST_LABELS
    shown[_MOST_LABELS - 1 : -1] = [f"{left_out} more"]
  return f"Labels: {', '.join(shown)}."


def _describe_model(model):
  source = [sentence[0].upper() + sentence[1:] for sentence in model["source"]]
  return f"{model['weights']:,} weights. " + ". ".join(source) + "."


def _describe_steps(steps):
  if not steps["left"]:
    done = min(steps["first step"] - 1, steps["steps"])
    return f"none: {done} of {steps['steps']} are done."
  return (
    f"{steps['first step']} to {steps['steps']} of"
    f" {plain_texts.count(steps['batch'], steps['unit'])},"
    f" {steps['warmup steps']} of them warmup."
  )


def _describe_runs(runs):
  """Returns sentences on several runs, of which one is described."""
  text = (
    f"{runs['runs']}, {plain_texts.count(runs['settings'], 'setting')} of"
    f" {plain_texts.count(runs['seeds'], 'seed')}, {runs['trained']} of them"
    f" trained before, in {runs['folder']}"
  )
  if runs["seconds"] is not None:
    duration = progress.format_duration(runs["seconds"])
    text += f"; together, with the start of each, they take about {duration}"
  return f"{text}. Steps, time, memory and files are those of {runs['shown']}."


def _describe_time(times):
  parts = [
    f"{split} {progress.format_duration(part['seconds'])}"
    f" ({1000 * part['seconds a batch']:.0f} ms a batch of {part['batch']}, the"
    f" mean of {part['batches measured']}"
    + (f"; {part['times']} times)" if part["times"] > 1 else ")")
    for split, part in times.items()
  ]
  total = sum(part["seconds"] for part in times.values())
  return f"about {progress.format_duration(total)}: {', '.join(parts)}."


def _describe_memory(memory, peak):
  gpu = memory["gpu"]

  def sum_up(total, names):
    parts = [
      f"{name} {show_bytes(memory[name])}"
      for name in names
      if memory[name] > _LITTLE_MEMORY
    ]
    listed = f": {', '.join(parts)}" if parts else ""
    return f"about {show_bytes(total)} at the peak{listed}"

  text = sum_up(memory["total"], _ON_HOST if gpu else _MEMORY)
  if peak:
    text += f"; the steps of this dry run took {show_bytes(peak)}"
  if gpu:
    text += f". On {gpu['name']} {sum_up(gpu['total'], _ON_DEVICE)}"
  return f"{text}."


def list_lacks(memory):
  """Returns (needed bytes, free bytes, where) of memory that does not suffice.

  Args:
    memory: what `inspection.describe_memory` gives.
  """
  needs = [(memory["total"] - memory["program"], memory["free"], "")]
  if gpu := memory["gpu"]:
    needs.append((gpu["total"], gpu["free"], f" on {gpu['name']}"))
  return [
    (needed, free, where)
    for needed, free, where in needs
    if free is not None and needed > free
  ]


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
        f"Checkpoints: up to {show_bytes(found['disk'])}"
        + (f", {show_bytes(free)} are free." if free is not None else ".")
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
    warnings += _warn_of_split(split, found)
  warnings += _warn_of_cuts(report)
  for shared in report["shared texts"]:
    warnings.append(
      f"{shared['share']:.1%} of the examples of {shared['split']}"
      f" ({shared['examples']}) have a text that is in {shared['are in']} too"
      f" (the first is number {shared['first']}): results on them say little"
      " about texts that the model has not seen"
    )
  memory, disk = report["memory"], report["files"]
  for needed, free, where in list_lacks(memory) if memory else ():
    warnings.append(
      f"about {show_bytes(needed)} of memory{where} are needed and"
      f" {show_bytes(free)} are free, so no step was tried."
      f" {memory['advice'].rstrip('.')}"
    )
  if (
    disk and disk["free disk"] is not None and disk["disk"] > disk["free disk"]
  ):
    warnings.append(
      f"checkpoints need {show_bytes(disk['disk'])}, and"
      f" {show_bytes(disk['free disk'])} are free on the disk of"
      f" {report['output_dir']}"
    )
  return warnings


def _warn_of_split(split, found):
  """Yields the warnings of a split."""
  never = [label for label, n in found.get("labels", {}).items() if not n]
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
  if found["share of [UNK]"] >= feature_manifest.MANY_UNKNOWN:
    yield (
      f"{split}: {found['share of [UNK]']:.1%} of the tokens are [UNK]: are"
      " --vocab_file and --do_lower_case those of a model of this language?"
    )


def _warn_of_cuts(report):
  """Yields a warning where many examples of a split are cut."""
  splits = report["splits"].values()
  if not any(one["cut"] > _MANY_CUT * one["examples"] for one in splits):
    return
  shares = ", ".join(
    f"{one['cut'] / one['examples']:.1%} of {split}"
    for split, one in report["splits"].items()
  )
  fitting = max(one["length that cuts 1%"] for one in splits)
  possible = report["longest possible"]
  yield (
    f"{shares} are cut at {report['max_seq_length']}:"
    f" --max_seq_length={min(fitting, possible)}"
    + (
      f" is the most that this model has ({fitting} would cut 1%)"
      if fitting > possible
      else " would cut 1%"
    )
  )
