"""What stands out in a report, in sentences.

Each `_find_...` is a function of the report's dictionary (see `report`) and
returns a sentence, or None where there is nothing to say.
"""

import itertools
import unicodedata

# A difference of confidence and accuracy that is worth a sentence.
_CALIBRATION_GAP = 0.02
_MOST_NAMES = 5

NAMES = {
  "accuracy": "accuracy",
  "balanced_accuracy": "balanced accuracy",
  "matthews_correlation": "Matthews correlation",
  "cohen_kappa": "Cohen's kappa",
  "hamming_loss": "Hamming loss",
  "f1": "F1",
  "roc_auc": "ROC AUC",
  "pearson": "Pearson correlation",
  "spearman": "Spearman correlation",
  "mse": "mean squared error",
  "rmse": "root mean squared error",
  "mae": "mean absolute error",
  "r2": "R²",
}


def name_metric(name):
  """Returns the words for a metric: "macro F1" for macro_f1."""
  return NAMES.get(name, name.replace("_", " ").replace(" f1", " F1"))


def name_metric_of(report, name):
  """Returns the words for a metric, with the class that it is that of."""
  if "labels_per_example" in report and name == "accuracy":
    return "accuracy (all labels right)"
  if name in ("f1", "precision", "recall"):
    return f"{name_metric(name)} of {report['classes'][1]['label']!r}"
  return name_metric(name)


def percent(share, digits=1):
  """Returns a share as per cent.

  >>> percent(0.1234), percent(1)
  ('12.3%', '100.0%')
  """
  return f"{100 * share:.{digits}f}%"


def shorten(text, width):
  """Returns a text on one line in at most so many columns, cut with "…".

  >>> shorten("a long name", 7), shorten("很好的", 5)
  ('a long…', '很好…')
  """
  text = " ".join(str(text).split())
  if count_columns(text) <= width:
    return text
  ends = itertools.accumulate(map(count_columns, text))
  kept = sum(1 for _ in itertools.takewhile(lambda end: end < width, ends))
  return text[:kept].rstrip() + "…"


def count_columns(text):
  """Returns how wide a terminal shows a text: wide letters take two columns."""
  return sum(
    2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text
  )


def find(report):
  """Returns the list of sentences."""
  found = [function(report) for function in _FINDERS]
  return [sentence for sentence in found if sentence]


def _find_baseline(report):
  headline = report["metrics"][0]
  if "baseline" not in headline:
    return None
  figure = headline["baseline"]
  ends = headline.get("interval") or [headline["value"]] * 2
  low, high = headline.get("difference") or (end - figure for end in ends)
  if not headline["higher_is_better"]:
    low, high = -high, -low
  what = f"predicting {headline['baseline_is']} ({figure:.3f})"
  if low > 0:
    return (
      f"The model is better than {what}, by {low:.3f} to {high:.3f} (95%"
      " interval)."
    )
  if high < 0:
    how = f"by {-high:.3f} to {-low:.3f} (95% interval)"
    return (
      f"The model is WORSE than {what}, {how}. It has not learned the task."
    )
  if low == high:
    return f"The model is no better than {what}."
  return (
    f"The model is not shown to be better than {what}: the 95% interval of the"
    f" difference is {low:.3f} to {high:.3f}."
  )


def _find_choice(report):
  evaluations = report.get("chosen_of", 0)
  if evaluations < 2:
    return None
  return (
    f"The weights are the best of {evaluations:,} evaluations of"
    f" {report['split']}, so its figures are optimistic: hold them against a"
    " test set with labels."
  )


def _find_confusion(report):
  commonest = report.get("confusion", {}).get("commonest")
  if not commonest:
    return None
  first = commonest[0]
  return (
    f"The commonest mistake: {first['label']!r} taken for"
    f" {first['predicted']!r}, {first['count']:,} of {first['of']:,} such"
    " examples."
  )


def _find_classes_never_predicted(report):
  never = [
    one["label"]
    for one in report.get("classes", ())
    if one["support"] and not one["predicted"]
  ]
  if not never:
    return None
  return f"Never predicted, though there are examples: {_join_names(never)}."


def _join_names(names):
  more = len(names) - _MOST_NAMES
  return ", ".join(map(repr, names[:_MOST_NAMES])) + (
    f" and {more} more" if more > 0 else ""
  )


def _find_classes_without_examples(report):
  never = [
    one["label"] for one in report.get("classes", ()) if not one["support"]
  ]
  return f"Without an example: {_join_names(never)}." if never else None


def _find_calibration(report):
  found = report.get("calibration")
  if not found or found["of"] != "predictions":
    return None
  sure, right = found["mean_confidence"], found["share_right"]
  said = f"{percent(sure)} sure on average, {percent(right)} right"
  if sure - right > _CALIBRATION_GAP:
    return f"The model is too sure of itself: {said}."
  if right - sure > _CALIBRATION_GAP:
    return f"The model is less sure than it could be: {said}."
  return f"The model is about as sure as it is right: {said}."


def _find_temperature(report):
  after = report.get("calibration", {})
  if "temperature" not in after:
    return None
  before = after["before"]
  return (
    f"Probabilities are of the temperature {after['temperature']:.4g}: the"
    f" expected calibration error was {percent(before['error'])} and is"
    f" {percent(after['error'])}, the loss was {before['loss']:.4f} and is"
    f" {after['loss']:.4f}."
  )


def _find_length(report):
  return _compare(report, report["lengths"], "texts of {} tokens")


def _find_unknown(report):
  return _compare(report, report["unknown"], "texts with {} [UNK]")


def _compare(report, groups, words):
  """Compares the first and the last group where their intervals are apart."""
  if len(groups) < 2:
    return None
  first, last = groups[0], groups[-1]
  if not (first["interval"] and last["interval"]):
    return None
  apart = (
    first["interval"][1] < last["interval"][0]
    or last["interval"][1] < first["interval"][0]
  )
  if not apart:
    return None
  show = percent if report["error"]["is_share"] else "{:.3g}".format
  of_first, of_last = (words.format(g["group"]) for g in (first, last))
  return (
    f"{report['error']['is'].capitalize()}: {show(first['error'])} of"
    f" {of_first}, {show(last['error'])} of {of_last}."
  )


_FINDERS = (
  _find_baseline,
  _find_choice,
  _find_confusion,
  _find_classes_never_predicted,
  _find_classes_without_examples,
  _find_calibration,
  _find_temperature,
  _find_length,
  _find_unknown,
)
