"""The report of an evaluation: as JSON, text and page, and a list of mistakes.

  eval_report.json   every number of the report
  eval_report.txt    the same in short, for a terminal
  eval_report.html   a page that needs nothing but itself
  eval_errors.tsv    the mistakes, the most confident first

`describe` computes everything, as values for JSON; text, pictures and page are
made from that alone.
"""

from collections.abc import Iterable
import contextlib
import os
import platform
from typing import Any, NamedTuple

from absl import logging
import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import (
  errors,
  files,
  history,
  metrics,
  output_dir,
  report_findings,
  report_kinds,
  windows,
)
from bert_classifier import report_statistics as statistics

SHOWN_MISTAKES = 20
# Replicates of a metric that is computed anew for each.
_FEW_REPLICATES = 200
# What a report is made with: modules, and the packages that bring them.
_PACKAGES = {
  "sklearn": "scikit-learn",
  "matplotlib": "matplotlib",
  "jinja2": "jinja2",
}


def check_request(options):
  """Makes sure that a report can be made of the evaluation asked for.

  Args:
    options: `options.Options`.

  Raises:
    UserError: a package is not installed.
  """
  if options.run.do_eval and options.inference.eval_report:
    errors.require_packages(
      "the report of an evaluation",
      _PACKAGES,
      otherwise=", or give --eval_report=false",
    )


class Evaluation(NamedTuple):
  """What a report is made of, n examples in the order of their file.

  Attributes:
    split: "dev", or another set that was evaluated.
    target: see `targets`.
    metric: name of the headline metric.
    results: dictionary of numbers as they are written to eval_results.txt.
    losses: <float32>[n].
    logits: <float32>[n, width of the target].
    labels: the target's label feature, [n] or [n, ...].
    examples: iterable of n `examples.InputExample`; raises a UserError where
      they are not those that were evaluated.
    tokens: <int32>[n] unpadded tokens, special ones included.
    unknown: <int32>[n] those of them that are [UNK].
    history: list of dictionaries, see `history`.
    settings: dictionary by phase as in the run manifest.
    checkpoint: path of the weights.
    facts: what else is said of the evaluation, text by name; None is left out.
  """

  split: str
  target: Any
  metric: str
  results: dict
  losses: np.ndarray
  logits: np.ndarray
  labels: np.ndarray
  examples: Iterable
  tokens: np.ndarray
  unknown: np.ndarray
  history: list
  settings: dict
  checkpoint: str
  facts: dict


def write_of_run(run, split, results, evaluated, checkpoint):
  """Writes the report of a split after its last evaluation.

  Args:
    run: `preparation.Run`.
    split: what was evaluated.
    results: dictionary of its results.
    evaluated: `evaluation.Evaluated`.
    checkpoint: path of the weights.

  Returns:
    The path of the page.
  """
  task, folder = run.task, run.options.run.output_dir
  tokens, unknown = run.cache.count_tokens(split)
  settings = {**run.found.settings, **run.settings}
  evaluation = Evaluation(
    split=split,
    target=task.target,
    metric=task.headline,
    results=results,
    losses=evaluated.losses,
    logits=evaluated.logits,
    labels=evaluated.labels,
    examples=run.cache.converted_examples(split),
    tokens=tokens,
    unknown=unknown,
    history=history.read(output_dir.history_path(folder)),
    settings=settings,
    checkpoint=checkpoint,
    facts=_state_facts(run, split, settings),
  )
  return write(folder, evaluation)


# What of the settings is seen without a click.
_STATED = {
  "training": (
    "num_train_epochs",
    "train_batch_size",
    "learning_rate",
    "warmup_proportion",
    "seed",
  ),
  "model": ("max_seq_length",),
}


def _state_facts(run, split, settings):
  """Returns what was evaluated, trained on what and how: text by name.

  Args:
    run, split: see `write_of_run`.
    settings: dictionary by phase.
  """
  data, paths = run.task.data, settings.get("paths", {})
  trained_on = paths.get("train_file") or paths.get("data_dir")
  if run.schedule:
    examples = run.describe_count("train")
    trained_on = f"{data.path('train') or run.task.name}, {examples}"
  begun_with = None
  if "training" in settings:
    weights = settings["training"].get(output_dir.WEIGHTS)
    begun_with = weights or "random weights"
  stated = {
    name: settings.get(phase, {}).get(name)
    for phase, names in _STATED.items()
    for name in names
  }
  return {
    "task": run.task.name.replace("_", " "),
    "evaluated": data.path(split) or run.options.data.data_dir,
    "trained on": trained_on,
    "begun with": begun_with,
    **{name: str(fact) for name, fact in stated.items() if fact is not None},
    **windows.describe(run.options.model),
    "features": run.features[split].path,
    "device": run.placement.describe(),
    "Python": platform.python_version(),
    "TensorFlow": tf.__version__,
    "NumPy": np.__version__,
  }


def write(folder, evaluation):
  """Writes the report of a split.

  Where the texts cannot be read again, it is without mistakes, which a warning
  says, and no list of them stays.

  Args:
    folder: output_dir.
    evaluation: `Evaluation`.

  Returns:
    The path of the page.
  """
  paths = output_dir.report_paths(folder, evaluation.split)
  kind = report_kinds.kind_of(evaluation)
  report = {
    **describe(evaluation, kind),
    "mistakes": _report_mistakes(evaluation, kind, paths["errors"]),
  }
  return _write_files(paths, report)


def write_with_runs(source, folder, split, runs):
  """Writes the report of one of several runs again, with all of them in it.

  Args:
    source: output_dir of the run.
    folder: where the report goes.
    split: what was evaluated.
    runs: what `comparison.describe` gives.

  Returns:
    The path of the page.
  """
  own = output_dir.report_paths(source, split)
  paths = output_dir.report_paths(folder, split)
  files.copy_or_remove(own["errors"], paths["errors"])
  report = files.read_json(own["json"])
  findings = [runs["warning"], *report["findings"]]
  return _write_files(paths, {**report, "findings": findings, "runs": runs})


def _write_files(paths, report):
  """Writes a report as JSON, text and page; returns the path of the page."""
  from bert_classifier import report_page  # loads what draws

  files.write_json(paths["json"], report)
  files.write_text(paths["txt"], [report_page.format_text(report)])
  files.write_text(paths["html"], [report_page.format_page(report)])
  return paths["html"]


# ---------------------------------------------------------------------------
# Figures


def describe(evaluation, kind):
  """Returns all of a report but its texts: a dictionary for JSON.

  Args:
    evaluation: `Evaluation`.
    kind: its `report_kinds.kind_of`.
  """
  shares = evaluation.unknown / np.maximum(evaluation.tokens, 1)
  report = {
    "format_version": 1,
    "split": evaluation.split,
    "problem_type": evaluation.target.problem_type,
    "examples": len(evaluation.losses),
    "checkpoint": evaluation.checkpoint,
    **_describe_choice(evaluation),
    "facts": {
      name: fact for name, fact in evaluation.facts.items() if fact is not None
    },
    "metrics": _describe_metrics(evaluation, kind),
    "results": {
      name: float(str(value)) for name, value in evaluation.results.items()
    },
    **kind.sections(),
    "error": {
      "is": kind.error_is,
      "is_share": kind.errors_are_shares,
      "worst_are": kind.worst_are,
      "mean": float(kind.errors.mean()),
    },
    "lengths": _describe_groups(
      kind, statistics.group_by_size(evaluation.tokens)
    ),
    "unknown": _describe_groups(kind, statistics.group_by_share(shares)),
    "unknown_share": float(
      evaluation.unknown.sum() / max(1, evaluation.tokens.sum())
    ),
    "history": evaluation.history,
    "settings": evaluation.settings,
  }
  return {**report, "findings": report_findings.find(report)}


def _describe_choice(evaluation):
  """Returns how many evaluations of the set the weights are the best of."""
  folder = os.path.basename(os.path.dirname(evaluation.checkpoint))
  if folder != output_dir.BEST or evaluation.split != "dev":
    return {}
  splits = [entry.get("split") for entry in evaluation.history]
  return {"chosen_of": splits.count("dev")}


def _describe_groups(kind, groups):
  return statistics.describe_groups(groups, kind.errors, kind.errors_are_shares)


def _describe_metrics(evaluation, kind):
  """Returns a dictionary for each metric, the headline first.

  An undefined one has the reason instead of a value, or, where it counts as 0,
  beside it.
  """
  names = [evaluation.metric] + [
    name
    for name in metrics.METRICS
    if f"eval_{name}" in evaluation.results and name != evaluation.metric
  ]
  return [
    _describe_metric(name, kind, is_headline=name == evaluation.metric)
    for name in names
  ]


def _describe_metric(name, kind, is_headline):
  """Returns value, 95% interval and the figure of one answer for all.

  Of the headline also `difference`, the 95% interval of how far both are apart
  in the same samples.
  """
  described = {
    "name": name,
    "higher_is_better": metrics.METRICS[name].higher_is_better,
  }
  arrays = kind.labels, kind.decided, kind.scores
  try:
    described["value"] = metrics.measure(name, *arrays)
  except metrics.UndefinedError as error:
    described["undefined"] = str(error)
    return described
  reason = metrics.METRICS[name].explain_zero(kind.labels, kind.decided)
  if reason:
    described["zero_because"] = reason
  resampled = kind.resample(name)
  if resampled is None and is_headline:
    resampled = _resample_examples(name, *arrays)
  if resampled is not None:
    described.update(
      _describe_interval(name, described["value"], resampled, len(kind.labels))
    )
  described.update(_describe_baseline(name, kind))
  of_baseline = None
  if is_headline and "baseline" in described:
    of_baseline = kind.resample_baseline(name)
  if resampled is not None and of_baseline is not None:
    difference = statistics.take_interval(resampled - of_baseline)
    if difference:
      described["difference"] = difference
  return described


def _describe_baseline(name, kind):
  """Returns the figure of one answer for all, or why there is none."""
  baseline = kind.baseline(name)
  if baseline is None:
    return {}
  decided, scores, words = baseline
  try:
    figure = metrics.measure(name, kind.labels, decided, scores)
  except metrics.UndefinedError as error:
    return {"baseline_is": words, "baseline_undefined": str(error)}
  return {"baseline_is": words, "baseline": figure}


def _describe_interval(name, value, resampled, examples):
  """Returns the 95% interval of a metric, or why there is none.

  Where the samples give the same, as where everything is right, the bootstrap
  says nothing of how far the figure would move. Of an accuracy, which is a
  share, there is Wilson's interval then.

  Args:
    name, value: of the metric.
    resampled: <float64>[R], NaN where it is undefined.
    examples: their number.
  """
  interval = statistics.take_interval(resampled)
  if interval and np.ptp(interval) > 1e-12:
    replicates = int(np.isfinite(resampled).sum())
    return {"interval": interval, "replicates": replicates}
  if name == "accuracy":
    right = round(value * examples)
    return {"interval": statistics.estimate_share(right, examples)}
  return {"no_interval": "the samples of the bootstrap give the same"}


def _resample_examples(name, labels, decided, scores):
  """Returns a metric that is no function of counts, NaN where undefined."""
  generator = np.random.default_rng(statistics.SEED)
  values = np.full(_FEW_REPLICATES, np.nan)
  for i in range(_FEW_REPLICATES):
    drawn = generator.integers(len(labels), size=len(labels))
    with contextlib.suppress(metrics.UndefinedError):
      values[i] = metrics.measure(
        name, labels[drawn], decided[drawn], scores[drawn]
      )
  return values


# ---------------------------------------------------------------------------
# Mistakes


def _report_mistakes(evaluation, kind, path):
  """Writes the list of all mistakes; returns the worst of them, for JSON.

  Args:
    path: of the list.
  """
  order = kind.mistakes()
  report = {"count": len(order), "file": os.path.basename(path), "shown": []}
  try:
    texts = _read_texts(evaluation.examples, order)
  except Exception as error:
    sentence = errors.describe(error)
    if sentence is None:
      raise
    logging.warning("the report is without the mistakes' texts: %s", sentence)
    if tf.io.gfile.exists(path):
      tf.io.gfile.remove(path)
    return {"count": len(order), "shown": [], "missing": sentence}

  def describe_mistake(number):
    return {
      **texts[number],
      **kind.mistake(number),
      "tokens": int(evaluation.tokens[number]),
      "unknown_tokens": int(evaluation.unknown[number]),
    }

  header = [*_TEXTS, *kind.columns, "tokens", "unknown_tokens"]
  with files.open_tsv(path) as write_cells:
    write_cells(header)
    for number in order:
      mistake = describe_mistake(number)
      write_cells(mistake[name] for name in header)
  report["shown"] = [describe_mistake(i) for i in order[:SHOWN_MISTAKES]]
  return report


_TEXTS = ("id", "text_a", "text_b")


def _read_texts(examples, numbers):
  """Returns {number: dictionary of `_TEXTS`} of some of the examples.

  Raises:
    UserError: the examples are not those that were evaluated.
  """
  wanted = set(numbers.tolist())
  return {
    i: {
      "id": example.guid if example.row_id is None else example.row_id,
      "text_a": example.text_a,
      "text_b": example.text_b or "",
    }
    for i, example in enumerate(examples)
    if i in wanted
  }
