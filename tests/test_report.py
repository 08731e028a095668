"""The report: figures against scikit-learn and NumPy, the page in a browser."""

import html
import importlib.util
import itertools
import json
from pathlib import Path
import re
import shutil
import subprocess

from conftest import read_table
import numpy as np
import pytest
from report_speed import make_evaluation
from scipy import stats
from sklearn import metrics as sklearn_metrics

from bert_classifier import metrics, report, report_kinds, targets
from bert_classifier import report_statistics as statistics
from bert_classifier.errors import UserError
from bert_classifier.options import make_options
from bert_classifier.report_findings import count_columns, shorten
from bert_classifier.tasks import InputExample

TWO = targets.OneClass(["no", "yes"])
FIVE = targets.OneClass(["a", "b", "c", "d", "e"])
SEVERAL = targets.SeveralClasses(["toxic", "insult", "威胁"])
NUMBER = targets.Number()
SCRIPT = "<script>document.title = 'run'</script> & <img src=x onerror=y>"


@pytest.fixture
def write(tmp_path):
  """Writes the report of an evaluation; returns its four files by kind."""

  def write(evaluation, folder=tmp_path):
    page = Path(report.write(str(folder), evaluation))
    return {
      "html": page.read_text("utf-8"),
      "json": json.loads(page.with_suffix(".json").read_text("utf-8")),
      "txt": page.with_suffix(".txt").read_text("utf-8"),
      "errors": page.with_name("eval_errors.tsv"),
    }

  return write


# ---------------------------------------------------------------------------
# Figures


def fitting(target):
  return [
    name for name in metrics.METRICS if metrics.METRICS[name].fits(target)
  ]


@pytest.mark.parametrize("target", [TWO, FIVE, SEVERAL])
@pytest.mark.parametrize("n", [1, 3, 200])
def test_metrics_of_counts_equal_scikit_learn(target, n):
  kind = report_kinds.kind_of(make_evaluation(target, n, sureness=0.5))
  ones = np.ones([1, n])
  counts = (
    statistics.count_labels(kind.labels, kind.decided, ones)
    if target is SEVERAL
    else statistics.count_classes(
      sklearn_metrics.confusion_matrix(
        kind.labels, kind.decided, labels=range(target.width)
      )
    )
  )
  compared = 0
  for name in set(fitting(target)) & set(statistics.OF_CLASSES):
    try:
      arrays = kind.labels, kind.decided, kind.scores
      expected = metrics.measure(name, *arrays)
    except metrics.UndefinedError:
      continue
    found = statistics.OF_CLASSES[name](counts)
    assert found == pytest.approx(expected, abs=1e-9), name
    compared += 1
  assert compared >= 7


@pytest.mark.parametrize("name", fitting(NUMBER))
@pytest.mark.parametrize("distinct", [4, 1000])
@pytest.mark.parametrize("unit", [1, 1e-7])
def test_a_resampled_metric_is_that_of_the_drawn_examples(name, distinct, unit):
  generator = np.random.default_rng(1)
  labels = generator.integers(distinct, size=60) / 7
  values = unit * np.round(labels + generator.normal(size=60), 1)
  labels = unit * labels
  weights = next(statistics.draw_weights(60, replicates=5))
  found = statistics.OF_NUMBERS[name](weights, labels, values)
  for value, counts in zip(found, weights.astype(int)):
    drawn = np.repeat(labels, counts), np.repeat(values, counts)
    expected = metrics.measure(name, *drawn, drawn[1])
    assert value == pytest.approx(expected, abs=1e-9)


def test_resampled_labels_are_those_of_the_drawn_examples():
  kind = report_kinds.kind_of(make_evaluation(SEVERAL, 50))
  weights = next(statistics.draw_weights(50, replicates=4))
  counts = statistics.count_labels(kind.labels, kind.decided, weights)
  found = statistics.OF_CLASSES["macro_f1"](counts)
  for value, number in zip(found, weights.astype(int)):
    drawn = (
      np.repeat(part, number, axis=0) for part in (kind.labels, kind.decided)
    )
    assert value == pytest.approx(
      sklearn_metrics.f1_score(*drawn, average="macro", zero_division=0)
    )


@pytest.mark.parametrize("target", [TWO, SEVERAL, NUMBER])
def test_interval_has_the_spread_of_resampled_examples(target):
  evaluation = make_evaluation(target, 400, sureness=1.0)
  kind = report_kinds.kind_of(evaluation)
  name = "rmse" if target is NUMBER else "accuracy"
  low, high = statistics.take_interval(kind.resample(name))
  generator = np.random.default_rng(3)
  drawn = [generator.integers(400, size=400) for _ in range(600)]
  values = [
    metrics.measure(name, kind.labels[d], kind.decided[d], kind.scores[d])
    for d in drawn
  ]
  expected = np.quantile(values, [0.025, 0.975])
  assert [low, high] == pytest.approx(expected, abs=0.15 * np.ptp(expected))


@pytest.mark.parametrize("target", [TWO, SEVERAL])
def test_where_all_is_right_an_accuracy_has_wilsons_interval(write, target):
  found = write(make_evaluation(target, 30, sureness=60.0))["json"]["metrics"]
  of = {metric["name"]: metric for metric in found}
  expected = stats.binomtest(30, 30).proportion_ci(method="wilson")
  assert of["accuracy"]["interval"] == pytest.approx(expected)
  assert "replicates" not in of["accuracy"]
  for name in set(of) - {"accuracy"}:
    assert "interval" not in of[name] and of[name]["no_interval"]


@pytest.mark.parametrize(
  "name, best", [("micro_f1", max), ("accuracy", max), ("hamming_loss", min)]
)
def test_no_one_answer_for_several_labels_is_better_than_the_baseline(
  name, best
):
  kind = report_kinds.kind_of(make_evaluation(SEVERAL, 40))
  answers = itertools.product([0, 1], repeat=3)
  decided, scores, _ = kind.baseline(name)
  assert metrics.measure(name, kind.labels, decided, scores) == best(
    metrics.measure(name, kind.labels, np.tile(answer, (40, 1)), scores)
    for answer in answers
  )


@pytest.mark.parametrize("target", [TWO, SEVERAL, NUMBER])
def test_the_baseline_is_resampled_with_the_same_examples(target):
  kind = report_kinds.kind_of(make_evaluation(target, 300, sureness=1.0))
  name = "rmse" if target is NUMBER else "accuracy"
  answer, scores, _ = kind.baseline(name)
  found = kind.resample(name) - kind.resample_baseline(name)
  generator = np.random.default_rng(3)
  expected = []
  for _ in range(600):
    d = generator.integers(300, size=300)
    model, baseline = (
      metrics.measure(name, kind.labels[d], decided[d], scores[d])
      for decided in (kind.decided, answer)
    )
    expected.append(model - baseline)
  ends = np.quantile(expected, [0.025, 0.975])
  assert np.quantile(found, [0.025, 0.975]) == pytest.approx(
    ends, abs=0.15 * np.ptp(ends)
  )


@pytest.mark.parametrize("name", ["accuracy", "f1", "matthews_correlation"])
def test_counts_of_one_answer_are_those_of_its_confusion_matrix(name):
  labels = np.array([0, 1, 1, 0, 1])
  counts = statistics.count_classes(
    sklearn_metrics.confusion_matrix(labels, [0, 0, 1, 1, 1])
  )
  always = statistics.answer_always(counts, 1)
  expected = metrics.measure(name, labels, np.ones(5, int), np.ones([5, 2]))
  assert statistics.OF_CLASSES[name](always) == pytest.approx(expected)


@pytest.mark.parametrize(
  "right, words",
  [
    (55, "The model is better than predicting always"),
    (32, "The model is not shown to be better than predicting always"),
    (5, "The model is WORSE than predicting always"),
  ],
)
def test_a_finding_says_what_the_difference_to_the_baseline_shows(
  write, right, words
):
  labels = np.arange(60) % 2
  decided = np.where(np.arange(60) < right, labels, 1 - labels)
  logits = np.float32(2 * np.eye(2)[decided])
  found = write(make_evaluation(TWO, 60, labels=labels, logits=logits))["json"]
  low, high = found["metrics"][0]["difference"]
  assert found["findings"][0].startswith(words)
  assert {55: low > 0, 32: low < 0 < high, 5: high < 0}[right]


@pytest.mark.parametrize(
  "folder, evaluations, is_said",
  [("out/best", 3, True), ("out/best", 1, False), ("out", 3, False)],
)
def test_a_finding_says_that_the_weights_were_chosen_by_this_set(
  write, folder, evaluations, is_said
):
  history = [{"step": n, "split": "dev"} for n in range(evaluations)]
  found = write(
    make_evaluation(
      TWO,
      60,
      checkpoint=f"{folder}/model.ckpt-8",
      history=[{"step": 1, "loss": 0.7}, *history],
    )
  )["json"]
  said = "The weights are the best of 3 evaluations of dev, so its figures are"
  assert any(one.startswith(said) for one in found["findings"]) == is_said


def test_calibration_error_of_a_case_computed_by_hand():
  # Of ten bins: 0.95, 0.85 -> (0.8, 0.9] and (0.9, 1]; 0.6 is the end of its.
  found = statistics.calibrate([0.95, 0.91, 0.85, 0.6], [1, 0, 1, 0], bins=10)
  # |0.93 - 0.5| * 2/4 + |0.85 - 1| * 1/4 + |0.6 - 0| * 1/4
  assert found["error"] == pytest.approx(0.215 + 0.0375 + 0.15)
  assert [(b["from"], b["to"], b["count"]) for b in found["bins"]] == [
    (0.5, 0.6, 1),
    (0.8, 0.9, 1),
    (0.9, 1.0, 2),
  ]


def test_calibration_error_equals_its_definition():
  generator = np.random.default_rng(5)
  confidences = generator.random(1000)
  right = generator.random(1000) < confidences**2
  error = 0.0
  for number in range(15):
    inside = (confidences > number / 15) & (confidences <= (number + 1) / 15)
    gap = abs(confidences[inside].mean() - right[inside].mean())
    error += inside.sum() / 1000 * gap
  found = statistics.calibrate(confidences, right)
  assert found["error"] == pytest.approx(error, abs=1e-12)


def test_classes_and_confusion_equal_scikit_learn(write):
  evaluation = make_evaluation(FIVE, 300)
  found = write(evaluation)["json"]
  decided = FIVE.decide(evaluation.logits)
  expected = sklearn_metrics.precision_recall_fscore_support(
    evaluation.labels, decided, labels=range(5), zero_division=0
  )
  for part, values in zip(("precision", "recall", "f1", "support"), expected):
    shown = [one[part] for one in found["classes"]]
    assert shown == pytest.approx(list(values)), part
  confusion = sklearn_metrics.confusion_matrix(evaluation.labels, decided)
  assert found["confusion"]["counts"] == confusion.tolist()


def test_intervals_of_groups_equal_scipy():
  errors = np.random.default_rng(2).exponential(size=9)
  low, high = stats.t.interval(0.95, 8, errors.mean(), stats.sem(errors))
  assert statistics.estimate_mean(errors) == pytest.approx([max(0, low), high])
  assert statistics.estimate_mean(errors[:1]) is None
  for right, number in ((0, 4), (3, 9), (9, 9)):
    expected = stats.binomtest(right, number).proportion_ci(method="wilson")
    found = statistics.estimate_share(right, number)
    assert found == pytest.approx(list(expected))


@pytest.mark.parametrize("sizes", [[5] * 9, [3, 3, 4, 9, 9, 9], range(1000)])
def test_groups_hold_every_example_once(sizes):
  groups = statistics.group_by_size(np.array(sizes))
  assert 1 <= len(groups) <= 8
  assert (sum(inside.astype(int) for _, inside in groups) == 1).all()
  shares = np.array(sizes) / 999
  groups = statistics.group_by_share(shares)
  assert (sum(inside.astype(int) for _, inside in groups) == 1).all()


def test_errors_by_length_are_those_of_the_group(write):
  evaluation = make_evaluation(TWO, 4, sureness=50.0)._replace(
    tokens=np.int32([5, 9, 5, 9]), labels=np.array([1, 0, 1, 1])
  )
  evaluation.logits[:] = [[0, 9], [0, 9], [0, 9], [9, 0]]
  found = write(evaluation)["json"]["lengths"]
  assert [(g["group"], g["count"], g["error"]) for g in found] == [
    ("5", 2, 0.0),
    ("9", 2, 1.0),
  ]


# ---------------------------------------------------------------------------
# Files


def test_every_mistake_is_listed_the_most_confident_first(write):
  evaluation = make_evaluation(FIVE, 200)
  header, *rows = read_table(write(evaluation)["errors"])
  wrong = np.flatnonzero(FIVE.decide(evaluation.logits) != evaluation.labels)
  ids = [row[header.index("id")] for row in rows]
  assert sorted(ids) == sorted(f"dev-{i}" for i in wrong)
  sureness = [float(row[header.index("probability")]) for row in rows]
  assert sureness == sorted(sureness, reverse=True)
  first = int(ids[0].partition("-")[2])
  cells = dict(zip(header, rows[0]))
  assert cells["label"] == FIVE.labels[evaluation.labels[first]]
  assert cells["text_a"] == evaluation.examples[first].text_a
  assert int(cells["tokens"]) == evaluation.tokens[first]


def test_without_mistakes_the_list_has_its_header(write):
  found = write(make_evaluation(TWO, 30, sureness=60.0))
  assert len(read_table(found["errors"])) == 1
  assert found["json"]["mistakes"] == {
    "count": 0,
    "file": "eval_errors.tsv",
    "shown": [],
  }


def test_texts_that_changed_leave_a_report_without_them(write, caplog):
  def changed():
    yield InputExample("dev-0", "x")
    raise UserError("dev.tsv changed")

  write(make_evaluation(TWO, 50))
  found = write(make_evaluation(TWO, 50, examples=changed()))
  assert not found["errors"].exists()
  assert "dev.tsv changed" in found["html"] and "dev.tsv changed" in caplog.text
  assert found["json"]["mistakes"]["shown"] == []


def test_files_of_a_second_set_bear_its_name(write, tmp_path):
  report.write(str(tmp_path), make_evaluation(TWO, 9, split="dev_mismatched"))
  assert {path.name for path in tmp_path.iterdir()} == {
    "eval_report_mismatched.html",
    "eval_report_mismatched.json",
    "eval_report_mismatched.txt",
    "eval_errors_mismatched.tsv",
  }


EXTREMES = {
  "one example": make_evaluation(TWO, 1, history=[]),
  "no mistakes": make_evaluation(TWO, 30, sureness=60.0),
  "one class": make_evaluation(
    TWO, 40, labels=np.zeros(40, int), metric="matthews_correlation"
  ),
  "many classes": make_evaluation(
    targets.OneClass([f"类别 {i}" for i in range(119)]), 2000
  ),
  "metric of scores": make_evaluation(FIVE, 90, metric="roc_auc"),
  "several": make_evaluation(SEVERAL, 60),
  "numbers": make_evaluation(NUMBER, 60),
  "many numbers": make_evaluation(NUMBER, 2000),
  "undefined": make_evaluation(NUMBER, 9, logits=np.ones([9, 1], np.float32)),
}


@pytest.mark.parametrize("name", EXTREMES)
def test_page_is_whole_small_and_needs_no_network(write, name):
  found = write(EXTREMES[name])
  page = found["html"]
  assert len(page.encode()) < 1_000_000
  assert "<script" not in page and "nan" not in page.lower().split()
  loaded = re.findall(r'(?:src|href|url)\s*[=(]\s*"?([^")\s>]+)', page)
  ids = re.findall(r'\bid="([^"]+)"', page)
  assert len(ids) == len(set(ids))
  links = {f"#{name}" for name in ids}
  outside = set(loaded) - links - {"data:,"}
  assert outside <= {"https://arxiv.org/abs/1706.04599"}
  pictures = re.findall(r'<svg [^>]*role="img" aria-label="([^"]+)"', page)
  assert len(pictures) == page.count("<svg ") >= 1 and all(pictures)
  json.dumps(found["json"], allow_nan=False)
  lines = found["txt"].splitlines()
  assert len(lines) <= 40 and max(map(len, lines)) <= 80


def test_page_shows_what_the_json_holds(write):
  found = write(make_evaluation(FIVE, 120, metric="macro_f1"))
  held, page = found["json"], found["html"]
  headline = held["metrics"][0]
  assert headline["name"] == "macro_f1"
  for value in (headline["value"], *headline["interval"]):
    assert f"{value:.4f}" in page and f"{value:.4f}" in found["txt"]
  assert f"{headline['baseline']:.4f}" in page
  for one in held["classes"]:
    assert f"<td>{one['precision']:.3f}</td>" in page
  for mistake in held["mistakes"]["shown"]:
    assert mistake["id"] in page
  for sentence in held["findings"]:
    assert html.escape(sentence).replace("&#x27;", "&#39;") in page


def test_page_says_what_predicting_the_majority_gives(write):
  found = write(make_evaluation(FIVE, 120))["json"]["metrics"][0]
  labels = make_evaluation(FIVE, 120).labels
  majority = np.bincount(labels).argmax()
  assert found["baseline_is"] == f"always {FIVE.labels[majority]!r}"
  assert found["baseline"] == pytest.approx(np.mean(labels == majority))


def test_what_is_undefined_says_why_and_has_no_number(write):
  found = write(EXTREMES["undefined"])
  assert found["json"]["metrics"][0] == {
    "name": "pearson",
    "higher_is_better": True,
    "undefined": "all predictions are 1",
  }
  assert "all predictions are 1" in found["html"]


def test_a_metric_that_is_undefined_and_counts_as_0_says_why(write):
  found = write(EXTREMES["one class"])
  reason = "all labels are of one class"
  headline = found["json"]["metrics"][0]
  assert headline["value"] == 0 and headline["zero_because"] == reason
  assert found["html"].count(reason) == 2 and reason in found["txt"]


def test_names_of_classes_that_begin_alike_are_numbers_in_the_matrix(write):
  names = [f"a class whose name is long, {i}" for i in range(3)]
  page = write(make_evaluation(targets.OneClass(names), 60))["html"]
  matrix = re.compile('aria-label="Confusion matrix.*?</svg>', re.DOTALL)
  picture = matrix.search(page)[0]
  shown = re.findall(">([^<>]+)</text>", picture)
  assert {"0", "1", "2"} <= set(shown)
  assert not any(text.startswith("a class") for text in shown)
  for i, name in enumerate(names):
    assert f'<span class="soft">{i}</span> {name}</th>' in page


def test_short_forms_are_those_of_cutting_letter_by_letter():
  for text in ("", "a long name", "很好的 text", "a  b\nc", "很" * 7):
    for width in range(1, 12):
      expected = " ".join(text.split())
      if count_columns(expected) > width:
        while count_columns(expected) >= width:
          expected = expected[:-1]
        expected = expected.rstrip() + "…"
      assert shorten(text, width) == expected
  assert shorten("x" * 1_000_000, 5) == "xxxx…"  # in no time


def test_equal_input_gives_equal_files(write, tmp_path):
  contents = []
  for name in ("a", "b"):
    folder = tmp_path / name
    folder.mkdir()
    write(make_evaluation(FIVE, 80), folder)
    contents.append({p.name: p.read_bytes() for p in folder.iterdir()})
  assert contents[0] == contents[1] and len(contents[0]) == 4


def test_texts_and_names_are_escaped_and_long_ones_can_be_read_on(write):
  names = targets.OneClass([f"{SCRIPT} $x^2$", "b\tc"])
  long = "word " * 100 + "the end"
  examples = [InputExample(f"dev-{i}", SCRIPT, long) for i in range(40)]
  found = write(make_evaluation(names, 40, sureness=0.1, examples=examples))
  page = found["html"]
  assert "<script" not in page and "<img" not in page
  assert html.escape(SCRIPT).replace("&#x27;", "&#39;") in page
  assert "the end" in page and "<details><summary>" in page
  header, *rows = read_table(found["errors"])
  assert {len(row) for row in rows} == {len(header)}


# ---------------------------------------------------------------------------
# In a browser

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
# Shows a page in frames as wide as a telephone and a desktop, and writes down
# what is seen of it.
FRAMES = """<body><script>
window.seen = [];
addEventListener("load", () => {
  document.body.textContent = JSON.stringify(seen);
});
</script>%s</body>"""
LOOK = """<script>parent.seen.push({
  overflow: document.documentElement.scrollWidth - innerWidth,
  title: document.title,
  text: document.body.innerText,
  pictures: [...document.querySelectorAll("svg")].map(
    svg => svg.getBoundingClientRect().width),
  broken: [...document.images].filter(image => !image.naturalWidth).length,
})</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
def test_a_browser_shows_the_page_and_runs_nothing_of_the_texts(
  write, tmp_path
):
  examples = [InputExample(f"dev-{i}", SCRIPT) for i in range(90)]
  page = write(make_evaluation(FIVE, 90, sureness=0.2, examples=examples))
  title = re.search("<title>(.*)</title>", page["html"])[1]
  source = html.escape(page["html"].replace("</body>", LOOK))
  frames = (
    f'<iframe width="{width}" height="900" srcdoc="{source}"></iframe>'
    for width in (360, 1280)
  )
  frames_page = tmp_path / "frames.html"
  frames_page.write_text(FRAMES % "".join(frames), "utf-8")
  done = subprocess.run(
    [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    + ["--enable-logging=stderr", f"--user-data-dir={tmp_path}/profile"]
    + [f"file://{frames_page}"],
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert "CONSOLE" not in done.stderr
  body = re.search(r"<body>(.*)</body>", done.stdout, re.DOTALL)[1]
  both = json.loads(html.unescape(body))
  assert len(both) == 2
  for seen in both:
    assert seen["title"] == title and seen["broken"] == 0
    assert SCRIPT in seen["text"]
    assert len(seen["pictures"]) == 6 and min(seen["pictures"]) > 200
    assert seen["overflow"] <= 0


def test_a_package_that_is_missing_is_named_before_anything_is_computed(
  monkeypatch,
):
  asked = make_options(do_eval=True, output_dir="out")
  report.check_request(asked)
  there = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    "find_spec",
    lambda name: None if name in ("sklearn", "jinja2") else there(name),
  )
  with pytest.raises(UserError, match="pip install scikit-learn jinja2, or"):
    report.check_request(asked)
  for others in ({"eval_report": False}, {"do_eval": False, "do_train": True}):
    report.check_request(make_options(**{**asked.given_values(), **others}))
