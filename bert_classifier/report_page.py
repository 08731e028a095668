"""A report's dictionary as a page, and in short as text.

The page is one file: pictures and style are in it, and nothing is loaded.
"""

import pathlib

import jinja2
from markupsafe import Markup

from bert_classifier.report_findings import name_metric_of, percent
from bert_classifier.report_pictures import draw, shorten, shorten_line

# Letters of a text on the page: those that are seen at once, and all of them.
_SEEN, _MOST_LETTERS = 240, 3000
_MOST_CELLS = 30  # classes of a confusion matrix that is shown as a table
_WIDTH, _MOST_ROWS, _MOST_TOLD = 80, 8, 3  # of the text


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
  if "value" not in metric or not metric.get("interval"):
    return None
  figures = {"value": metric["value"], "baseline": metric.get("baseline")}
  figures["low"], figures["high"] = metric["interval"]
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
  """Returns a report in short, 80 columns wide, for a terminal."""
  task = report["facts"].get("task", "evaluation")
  lines = [
    f"{task}, {report['split']}: {report['examples']:,} examples",
    f"weights: {report['checkpoint']}",
    "",
    *(_format_metric(report, metric) for metric in report["metrics"]),
    *_format_classes(report),
    *_format_mistakes(report),
  ]
  if report["findings"]:
    lines.append("")
    lines += (f"- {sentence}" for sentence in report["findings"])
  return "".join(f"{shorten_line(line, _WIDTH)}\n" for line in lines)


def _format_metric(report, metric):
  words = name_metric_of(report, metric["name"])
  if "undefined" in metric:
    return f"{words:<24} undefined: {metric['undefined']}"
  line = f"{words:<24} {metric['value']:.4f}"
  if metric.get("interval"):
    low, high = metric["interval"]
    line += f"  95%: {low:.4f} to {high:.4f}"
  if "baseline" in metric:
    line += f"  {metric['baseline_is']}: {metric['baseline']:.4f}"
  return line


def _format_classes(report):
  classes = report.get("classes", ())
  if not classes:
    return
  yield ""
  yield f"{'class':<32} precision   recall       F1  examples"
  shown = sorted(classes, key=lambda one: -one["support"])[:_MOST_ROWS]
  for one in classes:
    if one in shown:
      yield (
        f"{shorten(one['label'], 30):<32}"
        f" {one['precision']:9.4f}{one['recall']:9.4f}{one['f1']:9.4f}"
        f" {one['support']:9,}"
      )
  if len(classes) > len(shown):
    yield f"and {len(classes) - len(shown)} classes with fewer examples"


def _format_mistakes(report):
  mistakes = report["mistakes"]
  if not mistakes["shown"]:
    return
  yield ""
  yield f"the worst of {mistakes['count']:,} mistakes:"
  for mistake in mistakes["shown"][:_MOST_TOLD]:
    label = f"{mistake['label']} -> {mistake['predicted']}: " * (
      "label" in mistake
    )
    texts = f"{mistake['text_a']} {mistake['text_b']}"
    yield f"  {label}{' '.join(texts.split())}"
