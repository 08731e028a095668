"""A report's dictionary as a page, and in short as text.

The page is one file: pictures and style are in it, and nothing is loaded.
"""

import pathlib
import textwrap

import jinja2
from markupsafe import Markup

from bert_classifier.report_findings import (
  count_columns,
  name_metric_of,
  percent,
  shorten,
)
from bert_classifier.report_pictures import draw

# Letters of a text on the page: those that are seen at once, and all of them.
_SEEN, _MOST_LETTERS = 240, 3000
_MOST_CELLS = 30  # classes of a confusion matrix that is shown as a table
# Of the text: columns, of which those of a table; classes; mistakes.
_WIDTH, _FIRST, _COLUMNS = 80, 36, (11, 11, 11, 11)
_MOST_ROWS, _MOST_TOLD = 8, 3


def format_page(report):
  """Returns the HTML of a report.

  Args:
    report: the dictionary of `report.describe`, with `mistakes`.
  """
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters["percent"] = percent
  environment.filters["number"] = format_number
  environment.filters["label"] = format_label
  environment.filters["split_text"] = split_text
  pictures = {
    name: picture._replace(svg=Markup(picture.svg))
    for name, picture in draw(report).items()
  }
  return environment.get_template("report_page.html").render(
    report=report,
    task=report["facts"].get("task", "evaluation"),
    metrics=[
      {**metric, "words": name_metric_of(report, metric["name"])}
      for metric in report["metrics"]
    ],
    runs_by="runs" in report
    and name_metric_of(report, report["runs"]["metric"]),
    ruler=_lay_out_ruler(report["metrics"][0]),
    pictures=pictures,
    settings=_flatten(report["settings"]),
    shows_cells=len(report.get("classes", ())) <= _MOST_CELLS,
  )


def format_number(value):
  """Returns a number in four digits, as text.

  >>> format_number(0.86274), format_number(1234.5), format_number(12)
  ('0.8627', '1234', '12')
  """
  return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def format_label(label):
  """Returns a label, or a predicted number, as text.

  >>> format_label("neutral"), format_label(""), format_label(1.23456)
  ('neutral', '(none)', '1.235')
  """
  if isinstance(label, str):
    return label or "(none)"
  return format_number(label)


def split_text(text):
  """Returns the beginning of a text, the rest, and how much of it is left out.

  >>> split_text("short")
  ('short', '', 0)
  """
  if len(text) <= _SEEN * 1.25:
    return text, "", 0
  end = text.rfind(" ", _SEEN // 2, _SEEN)
  end = end if end > 0 else _SEEN
  return text[:end], text[end:_MOST_LETTERS], max(0, len(text) - _MOST_LETTERS)


def _lay_out_ruler(metric):
  """Returns the places of a metric's figures on a line, in per cent, or None.

  The line is from 0 to 1 where they are.
  """
  if "value" not in metric:
    return None
  figures = {"value": metric["value"], "baseline": metric.get("baseline")}
  figures["low"], figures["high"] = metric.get("interval") or (None, None)
  figures = {name: f for name, f in figures.items() if f is not None}
  start, end = min(0, *figures.values()), max(1, *figures.values())
  if not metric["higher_is_better"]:
    end = 1.1 * max(figures.values()) or 1
  if start < 0:
    start = -1 if start >= -1 else start
  places = {
    name: 100 * (f - start) / (end - start) for name, f in figures.items()
  }
  return {"start": start, "end": end, **places}


def _flatten(settings):
  """Returns the settings as pairs of name and text, by phase."""
  return {
    phase: [
      (name, str(value))
      for name, value in values.items()
      if value is not None and value != {}
    ]
    for phase, values in settings.items()
  }


# ---------------------------------------------------------------------------
# Text


def format_text(report):
  """Returns a report in short: a screen of a terminal of 80 columns."""
  task = report["facts"].get("task", "evaluation")
  lines = [
    f"{task}, {report['split']}: {report['examples']:,} examples",
    shorten(f"weights: {report['checkpoint']}", _WIDTH),
    "",
    *_format_metrics(report),
    *_format_classes(report),
    *_format_mistakes(report),
    *_format_runs(report),
  ]
  if report["findings"]:
    lines.append("")
  for sentence in report["findings"]:
    lines += _wrap(sentence)
  return "".join(f"{line}\n" for line in lines)


def _wrap(sentence):
  """Returns the lines of a sentence in a list."""
  return textwrap.wrap(
    f"- {sentence}", _WIDTH, subsequent_indent="  ", break_on_hyphens=False
  )


def _align(first, *cells):
  """Returns a line of cells: the first to the left, the others to the right."""
  first = shorten(first, _FIRST)
  return (
    first
    + " " * (_FIRST - count_columns(first))
    + "".join(f"{cell:>{width}}" for width, cell in zip(_COLUMNS, cells))
  )


def _format_metrics(report):
  yield _align("metric", "value", "95% from", "to", "one answer")
  for metric in report["metrics"]:
    words = name_metric_of(report, metric["name"])
    if "undefined" in metric:
      yield shorten(f"{words}: undefined: {metric['undefined']}", _WIDTH)
      continue
    low, high = metric.get("interval") or ("", "")
    figures = metric["value"], low, high, metric.get("baseline", "")
    yield _align(words, *(f"{f:.4f}" if f != "" else "" for f in figures))
    if "zero_because" in metric:
      yield f"  undefined, and counts as 0: {metric['zero_because']}"


def _format_classes(report):
  classes = report.get("classes", ())
  if not classes:
    return
  yield ""
  yield _align("class", "precision", "recall", "F1", "examples")
  most = sorted(one["support"] for one in classes)[-_MOST_ROWS:]
  shown = [one for one in classes if one["support"] >= most[0]][:_MOST_ROWS]
  for one in shown:
    figures = (f"{one[part]:.4f}" for part in ("precision", "recall", "f1"))
    yield _align(one["label"], *figures, f"{one['support']:,}")
  if len(classes) > len(shown):
    yield f"and {len(classes) - len(shown)} more classes"


def _format_runs(report):
  runs = report.get("runs")
  if runs is None:
    return
  yield ""
  words = name_metric_of(report, runs["metric"])
  yield _align(f"runs by {words}", "mean", "deviation", "lowest", "highest")
  for one in runs["settings"]:
    figures = (one[n] for n in ("mean", "standard_deviation", "from", "to"))
    cells = ("-" if f is None else f"{f:.4f}" for f in figures)
    yield _align(", ".join(one["values"]) or "all", *cells)
  if runs["swept"]:
    yield shorten(f"a line: {', '.join(runs['swept'])}", _WIDTH)
  for sentence in runs["sentences"]:
    yield from _wrap(sentence)


def _format_mistakes(report):
  mistakes = report["mistakes"]
  if not mistakes["shown"]:
    return
  yield ""
  yield f"the worst of {mistakes['count']:,} mistakes:"
  for mistake in mistakes["shown"][:_MOST_TOLD]:
    label = ""
    if "label" in mistake:
      label, predicted = (
        shorten(format_label(mistake[name]), 20)
        for name in ("label", "predicted")
      )
      label = f"{label} -> {predicted}: "
    texts = f"{mistake['text_a']} {mistake['text_b']}"
    yield f"  {shorten(label + texts, _WIDTH - 2)}"
