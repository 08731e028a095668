"""The pictures of a report, drawn by matplotlib; see `drawing`."""

from typing import NamedTuple
import warnings

from matplotlib import rc_context
from matplotlib.ticker import FuncFormatter, MaxNLocator
import numpy as np

from bert_classifier.drawing import (
  ACCENT,
  INK,
  LINE,
  NARROW,
  SOFT,
  STYLE,
  WARM,
  WIDE,
  fill_cells,
  make_figure,
  render,
)
from bert_classifier.report_findings import name_metric_of, percent, shorten

_SHADE = 0.6  # of the darkest cell, on which text can be read
_POINT, _LARGEST_POINT = 14, 280  # areas in a scatter, in square points
_MOST_SETTINGS = 20  # of several runs
_SMOOTHED = 10  # points of a learning curve that a mean leaves of many
# Classes of a confusion matrix that is narrow, has numbers, has names.
_MOST_NARROW, MOST_COUNTED, _MOST_NAMED = 6, 20, 40


_PERCENT = FuncFormatter(lambda share, _: f"{100 * share:g}")


class Picture(NamedTuple):
  """A picture and its words.

  Attributes:
    title: heading.
    svg: the picture.
    alt: what it shows, for who does not see it.
    caption: how to read it.
    is_wide: whether it is wider than a telephone.
    has_numbers: whether its classes are numbers of the table of classes.
  """

  title: str
  svg: str
  alt: str
  caption: str
  is_wide: bool = False
  has_numbers: bool = False


def draw(report):
  """Returns the `Picture`s of a report by name, those that it has data for."""
  pictures = {}
  with rc_context(STYLE), warnings.catch_warnings():
    # Of letters that the font has not: the reader's has them.
    warnings.filterwarnings("ignore", message="Glyph .* missing from")
    for name, function in _PICTURES.items():
      picture = function(report)
      if picture is not None:
        svg = render(picture.svg, f"{name}-", picture.alt)
        pictures[name] = picture._replace(svg=svg)
  return pictures


# ---------------------------------------------------------------------------
# Classes


def _draw_confusion(report):
  if "confusion" not in report:
    return None
  labels = report["confusion"]["labels"]
  counts = np.array(report["confusion"]["counts"])
  many, number = len(labels) > _MOST_NARROW, len(labels)
  width = WIDE if many else NARROW
  figure = make_figure(width * 0.85, width)
  axes = figure.subplots()
  axes.grid(False)
  shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
  darkest = _SHADE if number <= MOST_COUNTED else 1.0
  alphas = np.where(counts, darkest * (0.1 + 0.9 * shares), 0)
  edges = np.arange(number + 1) - 0.5
  diagonal = np.eye(number, dtype=bool)
  fill_cells(axes, edges, edges, np.where(diagonal, alphas, 0), ACCENT)
  fill_cells(axes, edges, edges, np.where(diagonal, 0, alphas), WARM)
  if number <= MOST_COUNTED:
    size = 11 if not many else 9
    for row, column in np.ndindex(counts.shape):
      if counts[row, column] or not many:
        axes.text(
          column,
          row,
          f"{counts[row, column]:,}",
          ha="center",
          va="center",
          fontsize=size,
        )
  axes.set(
    xlim=(-0.5, number - 0.5),
    ylim=(number - 0.5, -0.5),
    aspect="equal",
    xlabel="predicted class",
    ylabel="true class",
  )
  has_names = _label_classes(axes, labels)
  right = int(np.diagonal(counts).sum())
  return Picture(
    "Confusion matrix",
    figure,
    f"Confusion matrix of {number} classes: {right} of {counts.sum()} examples"
    " are on the diagonal. Its numbers are in the table below it.",
    "Each row holds the examples of a true class. The stronger the colour of a"
    " cell, the larger its share of the row; the diagonal is right.",
    is_wide=many,
    has_numbers=not has_names,
  )


def _label_classes(axes, labels):
  """Writes the names of the classes beside rows and columns.

  Numbers, where there are many classes, or names that begin alike and are cut.

  Returns:
    Whether they are names.
  """
  number = len(labels)
  names = [shorten(label, 14) for label in labels]
  if number > _MOST_NAMED or len(set(names)) < number:
    for axis in (axes.xaxis, axes.yaxis):
      axis.set_major_locator(MaxNLocator(min(number, 30), integer=True))
    axes.set(
      xlabel="predicted class (number in the table of classes)",
      ylabel="true class (number in the table)",
    )
    return False
  size = 9 if number <= MOST_COUNTED else 7
  turned = number > 4 or max(map(len, names)) * number > 28
  axes.set_xticks(
    range(number),
    names,
    rotation=45 if turned else 0,
    ha="right" if turned else "center",
    rotation_mode="anchor" if turned else None,
    fontsize=size,
  )
  axes.set_yticks(range(number), names, fontsize=size)
  return True


def _draw_calibration(report):
  found = report.get("calibration")
  if found is None:
    return None
  figure = make_figure(270)
  upper, lower = figure.subplots(
    2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 1]}
  )
  of_labels = found["of"] == "labels"
  what = "share of labels that hold" if of_labels else "share right"
  style = dict(alpha=0.75, edgecolor=LINE, linewidth=0.6)
  _draw_bins(upper, found["bins"], "right", color=ACCENT, label=what, **style)
  upper.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (4, 3)))
  upper.plot(
    [b["confidence"] for b in found["bins"]],
    [b["right"] for b in found["bins"]],
    "o",
    color=INK,
    markersize=3,
    clip_on=False,
  )
  upper.set(xlim=(0, 1), ylim=(0, 1), ylabel=f"{what} (%)")
  _draw_bins(lower, found["bins"], "count", color=SOFT, alpha=0.6)
  things = "labels" if of_labels else "examples"
  confidence = "probability of a label" if of_labels else "confidence"
  lower.set(ylabel=things, xlabel=f"{confidence} (%)")
  lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
  for axis in (upper.xaxis, upper.yaxis):
    axis.set_major_formatter(_PERCENT)
  worst = max(
    found["bins"], key=lambda b: b["count"] * abs(b["confidence"] - b["right"])
  )
  return Picture(
    "Reliability diagram",
    figure,
    f"Reliability diagram in {len(found['bins'])} bins that are not empty. The"
    f" bin that weighs most, {percent(worst['from'], 0)} to"
    f" {percent(worst['to'], 0)}, has {worst['count']} {things} with a mean"
    f" {confidence} of {percent(worst['confidence'])}, of which"
    f" {percent(worst['right'])} are right.",
    "Bars that end on the dashed line are right as often as the model is sure;"
    " below it the model is too sure.",
  )


def _draw_bins(axes, bins, key, **style):
  """Draws a bar for each bin of confidence, as high as its value of `key`."""
  axes.bar(
    [b["from"] for b in bins],
    [b[key] for b in bins],
    [b["to"] - b["from"] for b in bins],
    align="edge",
    **style,
  )


# ---------------------------------------------------------------------------
# Numbers


def _draw_scatter(report):
  found = report.get("scatter")
  if found is None:
    return None
  figure = make_figure(270)
  axes = figure.subplots()
  if "points" in found:
    points, counts = np.unique(found["points"], axis=0, return_counts=True)
    x, y = points.T
    axes.scatter(
      x,
      y,
      min(_POINT, _LARGEST_POINT / counts.max()) * counts,
      color=ACCENT,
      alpha=0.45,
      linewidths=0,
      clip_on=False,
    )
    how = "Each point is an example"
    if counts.max() > 1:
      how = "The larger a point, the more examples it has"
  else:
    x, y = (np.array(found[n]) for n in ("label_edges", "predicted_edges"))
    counts = np.array(found["counts"])
    alphas = np.where(counts, 0.12 + 0.88 * np.sqrt(counts / counts.max()), 0)
    fill_cells(axes, x, y, alphas.T, ACCENT)
    how = "The darker a cell, the more examples it has"
  low, high = min(x.min(), y.min()), max(x.max(), y.max())
  margin = 0.04 * (high - low) or 1.0
  ends = low - margin, high + margin
  axes.plot(ends, ends, color=INK, linewidth=1, linestyle=(0, (4, 3)))
  axes.set(
    xlim=ends,
    ylim=ends,
    xlabel="label (its own unit)",
    ylabel="predicted number (unit of the label)",
  )
  return Picture(
    "Predicted against true numbers",
    figure,
    f"Predictions from {y.min():.3g} to {y.max():.3g} against labels from"
    f" {x.min():.3g} to {x.max():.3g}, {report['examples']} examples.",
    f"{how}; on the dashed line the prediction is right.",
  )


def _draw_residuals(report):
  found = report.get("residuals")
  if found is None:
    return None
  figure = make_figure(210)
  axes = figure.subplots()
  edges = np.array(found["edges"])
  axes.bar(
    edges[:-1],
    found["counts"],
    np.diff(edges),
    align="edge",
    color=ACCENT,
    alpha=0.75,
    edgecolor=LINE,
    linewidth=0.6,
  )
  axes.axvline(0, color=INK, linewidth=1, linestyle=(0, (4, 3)))
  axes.set(xlabel="predicted − true (unit of the label)", ylabel="examples")
  axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
  spread = found["standard_deviation"]
  return Picture(
    "Residuals",
    figure,
    f"Histogram of predicted less true numbers: mean {found['mean']:.3g},"
    f" standard deviation {spread:.3g}.",
    f"On average predictions are off by {found['mean']:+.3g}, with a standard"
    f" deviation of {spread:.3g}. Right of 0 they are too high.",
  )


# ---------------------------------------------------------------------------
# Texts


def _draw_groups(report, groups, title, label, caption):
  """Returns the picture of the mean error of groups of examples."""
  if len(groups) < 2:
    return None
  figure = make_figure(210)
  axes = figure.subplots()
  places = range(len(groups))
  heights = [g["error"] for g in groups]
  axes.bar(places, heights, 0.7, color=WARM, alpha=0.7)
  for place, group in zip(places, groups):
    if group["interval"]:
      axes.plot([place, place], group["interval"], color=INK, linewidth=1.2)
  turned = len(groups) > 5
  names = [f"{g['group']}\n({g['count']:,})" for g in groups]
  axes.set_xticks(
    places,
    names if not turned else [g["group"] for g in groups],
    rotation=45 if turned else 0,
    ha="right" if turned else "center",
    rotation_mode="anchor" if turned else None,
  )
  is_share = report["error"]["is_share"]
  if is_share:
    axes.yaxis.set_major_formatter(_PERCENT)
  unit = {True: "(%)", False: ""}[is_share]
  axes.set(
    ylim=(0, None),
    xlabel=label,
    ylabel=f"{report['error']['is']} {unit}".strip(),
  )
  axes.grid(axis="x", visible=False)
  show = percent if is_share else "{:.3g}".format
  values = ", ".join(f"{g['group']}: {show(g['error'])}" for g in groups)
  return Picture(
    title, figure, f"{report['error']['is']} by {label}: {values}.", caption
  )


def _draw_lengths(report):
  return _draw_groups(
    report,
    report["lengths"],
    "Error by length",
    "length (tokens)",
    "Groups of about equal size; the lines are 95% intervals.",
  )


def _draw_unknown(report):
  return _draw_groups(
    report,
    report["unknown"],
    "Error by unknown words",
    "share of [UNK] in a text (number of texts)",
    "How often texts fail whose words the vocabulary lacks; the lines are 95%"
    " intervals.",
  )


# ---------------------------------------------------------------------------
# Training


def _draw_learning_curve(report):
  training = [e for e in report["history"] if "split" not in e and "loss" in e]
  evaluated = [
    e
    for e in report["history"]
    if e.get("split") == report["split"] and "eval_loss" in e
  ]
  if len(training) < 2:
    return None
  figure = make_figure(210)
  axes = figure.subplots()
  steps, losses = ([e[name] for e in training] for name in ("step", "loss"))
  width = len(losses) // _SMOOTHED if len(losses) > 2 * _SMOOTHED else 1
  if width > 1:
    axes.plot(steps, losses, color=ACCENT, linewidth=0.8, alpha=0.4)
  axes.plot(
    _smooth(steps, width),
    _smooth(losses, width),
    color=ACCENT,
    linewidth=1.4,
    label=f"training, mean of {width}" if width > 1 else "training",
  )
  if evaluated:
    axes.plot(
      [e["step"] for e in evaluated],
      [e["eval_loss"] for e in evaluated],
      "o-",
      color=WARM,
      linewidth=1,
      markersize=4,
      label=report["split"],
    )
    axes.legend(loc="upper right")
  axes.set(ylim=(0, None), xlabel="step", ylabel="loss (mean a batch)")
  last = ""
  if evaluated:
    last = f", {report['split']} {evaluated[-1]['eval_loss']:.3f}"
  return Picture(
    "Learning curve",
    figure,
    f"Training loss from {losses[0]:.3f} at step {steps[0]} to {losses[-1]:.3f}"
    f" at step {steps[-1]}{last}.",
    "The loss of single training batches"
    + (f", with the running mean of {width} of them" if width > 1 else "")
    + (f", and of all of {report['split']}." if evaluated else "."),
  )


def _smooth(values, width):
  """Returns the means of each `width` neighbours, <float64>[n + 1 - width]."""
  return np.convolve(values, np.full(width, 1 / width), mode="valid")


def _draw_rate(report):
  pairs = [
    (e["step"], e["learning_rate"])
    for e in report["history"]
    if "learning_rate" in e
  ]
  if len(pairs) < 2:
    return None
  steps, rates = zip(*pairs)
  figure = make_figure(210)
  axes = figure.subplots()
  axes.plot(steps, rates, color=ACCENT, linewidth=1.4)
  axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
  axes.set(ylim=(0, None), xlabel="step", ylabel="learning rate")
  return Picture(
    "Learning rate",
    figure,
    f"Learning rate over {steps[-1]} steps; the highest logged is"
    f" {max(rates):.3g}.",
    "It climbs while the training warms up, then falls to 0.",
  )


# ---------------------------------------------------------------------------
# Several runs


def _draw_runs(report):
  found = report.get("runs")
  if found is None:
    return None
  known = [s for s in found["settings"] if s["mean"] is not None]
  sign = -1 if found["higher_is_better"] else 1
  best = sorted(known, key=lambda s: sign * s["mean"])[:_MOST_SETTINGS]
  shown = [s for s in known if s in best]
  figure = make_figure(70 + 22 * len(shown))
  axes = figure.subplots()
  for place, setting in enumerate(shown):
    figures = setting["figures"]
    stands_out = setting["is_best"] and len(known) > 1
    axes.plot(
      figures,
      [place] * len(figures),
      "o",
      color=WARM if stands_out else ACCENT,
      alpha=0.6,
      markersize=6,
      markeredgewidth=0,
    )
    if len(figures) > 1:
      axes.plot([setting["mean"]] * 2, [place - 0.35, place + 0.35], color=INK)
  names = [", ".join(s["values"]) or "all runs" for s in shown]
  axes.set_yticks(range(len(shown)), [shorten(name, 18) for name in names])
  words = name_metric_of(report, found["metric"])
  axes.set(ylim=(len(shown) - 0.4, -0.6), xlabel=words)
  axes.xaxis.set_major_locator(MaxNLocator(5))
  axes.grid(axis="y", visible=False)
  means = "; ".join(f"{n}: {s['mean']:.4f}" for n, s in zip(names, shown))
  left_out = len(found["settings"]) - len(shown)
  return Picture(
    "Runs by setting",
    figure,
    f"{words} of {report['split']}, mean by setting: {means}.",
    "Each point is a run"
    + (", each line the mean of a setting" if found["repeats"] else "")
    + (
      f"; settings are {', '.join(found['swept'])}." if found["swept"] else "."
    )
    + (f" {left_out} more are in the table." if left_out else ""),
  )


_PICTURES = {
  "runs": _draw_runs,
  "confusion": _draw_confusion,
  "calibration": _draw_calibration,
  "scatter": _draw_scatter,
  "residuals": _draw_residuals,
  "lengths": _draw_lengths,
  "unknown": _draw_unknown,
  "curve": _draw_learning_curve,
  "rate": _draw_rate,
}
