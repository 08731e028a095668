"""The comparison of several runs: mean and deviation of each setting, the best.

A setting is what a sweep varies; its runs differ in the seed alone. The figure
of a run is its headline metric on the dev set. Means are over all seeds of a
setting: where a run has no figure, for it is undefined there, the setting has
no mean and is not chosen.
"""

import math
from typing import NamedTuple, Optional

import numpy as np

from bert_classifier import files, metrics, plain_texts, sweep

_NO_FIGURE = "-"


class Finished(NamedTuple):
  """A run that was evaluated.

  Attributes:
    plan: `sweep.Plan`.
    results: {split: {name: text of a number}}, as its files of results have it.
  """

  plan: sweep.Plan
  results: dict

  def figure(self, metric):
    """Returns the value of a metric on the dev set; None where undefined.

    Args:
      metric: name in `metrics.METRICS`.
    """
    text = self.results["dev"].get(f"eval_{metric}")
    return None if text is None else float(text)


class Setting(NamedTuple):
  """The runs of a setting.

  Attributes:
    runs: list of `Finished`, in the order of their seeds.
    figures: list of the figure of each, None where it is undefined.
    mean: of the figures; None where one is undefined.
    deviation: sample standard deviation (n - 1) of the figures; None of one
      run, or where one is undefined.
  """

  runs: list
  figures: list
  mean: Optional[float]
  deviation: Optional[float]

  @property
  def name(self):
    """Returns what is swept as text, "" where nothing is."""
    return self.runs[0].plan.setting

  @property
  def known_figures(self):
    """Returns those of the figures that are defined."""
    return [figure for figure in self.figures if figure is not None]


class Comparison(NamedTuple):
  """All settings, and the best.

  Attributes:
    metric: name of the headline metric in `metrics.METRICS`.
    settings: list of `Setting`, in the order of the sweep.
    best: the `Setting` whose mean is best, of equal ones the first; None where
      none has a mean.
    best_run: the `Finished` of it whose figure is best, of equal ones that of
      the first seed.
  """

  metric: str
  settings: list
  best: Optional[Setting]
  best_run: Optional[Finished]


def compare(runs, metric):
  """Returns the `Comparison` of runs.

  Args:
    runs: list of `Finished`, in the order of the sweep.
    metric: name in `metrics.METRICS`.
  """
  groups = {}
  for run in runs:
    groups.setdefault(run.plan.setting, []).append(run)
  settings = [_summarize(group, metric) for group in groups.values()]
  means = {index: one.mean for index, one in enumerate(settings)}
  chosen = metrics.find_best(metric, means)
  if chosen is None:
    return Comparison(metric, settings, None, None)
  best = settings[chosen]
  best_run = metrics.find_best(metric, dict(enumerate(best.figures)))
  return Comparison(metric, settings, best, best.runs[best_run])


def _summarize(runs, metric):
  """Returns the `Setting` of its runs."""
  figures = [run.figure(metric) for run in runs]
  mean = deviation = None
  if None not in figures:
    # Exact, so that equal figures in another order have the same mean.
    mean = math.fsum(figures) / len(figures)
    if len(figures) > 1:
      deviation = float(np.std(figures, ddof=1))
  return Setting(runs, figures, mean, deviation)


# ---------------------------------------------------------------------------
# Words and files


def format_table(comparison):
  """Returns the lines of a table: a setting a line, in the order of the sweep.

  Args:
    comparison: `Comparison`.
  """
  settings, metric = comparison.settings, comparison.metric
  width = max(len("setting"), *(len(one.name or "all") for one in settings))
  number = sum(len(one.runs) for one in settings)
  lower = (
    "" if metrics.METRICS[metric].higher_is_better else ", lower is better"
  )
  lines = [
    f"{plain_texts.count(number, 'run')} by eval_{metric} of dev{lower}:",
    f"{'setting':{width}}  runs     mean  deviation   lowest  highest",
  ]
  for one in settings:
    known = one.known_figures
    figures = [one.mean, one.deviation]
    figures += [min(known, default=None), max(known, default=None)]
    cells = (
      f"{_show(figure):>{columns}}"
      for figure, columns in zip(figures, (7, 9, 7, 7))
    )
    lines.append(
      f"{one.name or 'all':{width}}  {len(one.runs):4}  {'  '.join(cells)}"
    )
  return lines


def _show(figure):
  return _NO_FIGURE if figure is None else f"{figure:.4f}"


def describe_choice(comparison):
  """Returns sentences on what is best, and how far that can be believed.

  Args:
    comparison: `Comparison`.
  """
  metric, best = comparison.metric, comparison.best
  if best is None:
    return [
      f"No setting is chosen: eval_{metric} is undefined for a run of each."
    ]
  number, runs = len(comparison.settings), len(best.runs)
  run = comparison.best_run
  sentences = []
  if number > 1:
    of_runs = f", the mean of {runs} runs" if runs > 1 else ""
    sentences.append(
      f"The best of {number} settings is"
      f" {best.name.replace(',', ', ')} with {_show(best.mean)}"
      f"{of_runs}."
    )
    near = _count_near(comparison)
    if near:
      others = "1 other is" if near == 1 else f"{near} others are"
      sentences.append(
        f"{others} within one standard deviation of it: seeds alone might"
        " order them otherwise."
      )
    equal = sum(one.mean == best.mean for one in comparison.settings) - 1
    if equal:
      others = "1 other has" if equal == 1 else f"{equal} others have"
      sentences.append(
        f"{others} the same figure; of equal ones the first of the sweep counts"
        " as the best."
      )
    if runs == 1:
      sentences.append(
        "There is one run a setting, so no deviation to hold the differences"
        " against: other seeds might order the settings otherwise (--num_runs)."
      )
  if runs > 1:
    sentences.append(
      f"Its best run is that of seed {run.plan.seed} with"
      f" {_show(run.figure(metric))}."
    )
  if number > 1 or runs > 1:
    sentences.append(
      "The choice is by the dev set, so what is chosen looks better there than"
      " it is: judge it by examples that had no part in the choice."
    )
  return sentences


def _warn_of_choice(comparison):
  """Returns a sentence for where the figure of the best run stands alone."""
  number = sum(len(one.runs) for one in comparison.settings)
  best = comparison.best
  sentence = (
    f"This run was chosen among {number} by these very examples, so its figure"
    " here is optimistic"
  )
  if len(best.runs) > 1:
    sentence += (
      f"; the mean of its setting is {_show(best.mean)}, with a standard"
      f" deviation of {_show(best.deviation)}"
    )
  return f"{sentence}."


def _count_near(comparison):
  """Returns how many settings are within one deviation of the best."""
  best = comparison.best
  return sum(
    abs(one.mean - best.mean) <= max(one.deviation, best.deviation)
    for one in comparison.settings
    if one is not best and None not in (one.deviation, best.deviation)
  )


def describe(comparison):
  """Returns the comparison as a dictionary for JSON.

  Args:
    comparison: `Comparison`, with a best setting.
  """
  metric = comparison.metric
  return {
    "metric": metric,
    "higher_is_better": metrics.METRICS[metric].higher_is_better,
    "repeats": len(comparison.best.runs) > 1,
    "swept": [name for name, _ in comparison.best.runs[0].plan.values],
    "settings": [
      {
        "setting": one.name,
        "values": [
          sweep.show_value(value) for _, value in one.runs[0].plan.values
        ],
        "seeds": [run.plan.seed for run in one.runs],
        "figures": one.figures,
        "mean": one.mean,
        "standard_deviation": one.deviation,
        "from": min(one.known_figures, default=None),
        "to": max(one.known_figures, default=None),
        "is_best": one is comparison.best,
      }
      for one in comparison.settings
    ],
    "best_run": comparison.best_run.plan.name,
    "sentences": describe_choice(comparison),
    "warning": _warn_of_choice(comparison),
  }


def write_table(path, runs, chosen=()):
  """Writes runs.tsv: a header, and a line for each run.

  Args:
    path: of the file.
    runs: list of `Finished`.
    chosen: those of them whose predictions are used.
  """
  swept = [name for name, _ in runs[0].plan.values]
  columns = list(
    dict.fromkeys(
      (split, name)
      for split in runs[0].results
      for run in runs
      for name in sorted(run.results[split])
      if split == "dev" or name != "global_step"
    )
  )
  with files.open_tsv(path) as write:
    write(
      ["run", *swept, "seed"]
      + [name + split.removeprefix("dev") for split, name in columns]
      + ["chosen"]
    )
    for run in runs:
      values = [sweep.show_value(value) for _, value in run.plan.values]
      results = [run.results[split].get(name, "") for split, name in columns]
      write(
        [run.plan.name, *values, run.plan.seed, *results]
        + ["yes" if run in chosen else ""]
      )
