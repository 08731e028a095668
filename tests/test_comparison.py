"""Several runs compared: figures against NumPy and SciPy, the choice, files."""

from conftest import read_table
import numpy as np
import pytest
from scipy import stats

from bert_classifier import comparison, sweep


def make_runs(metric="accuracy", **figures):
  """Returns runs of settings of label_smoothing; None for undefined."""
  runs = []
  for name, values in figures.items():
    setting = (("lr_schedule", name),)
    for seed, value in enumerate(values):
      results = {"eval_loss": "0.5", "global_step": "9"}
      if value is not None:
        results[f"eval_{metric}"] = str(np.float32(value))
      plan = sweep.Plan(f"out/runs/{name}{seed}", setting, seed)
      runs.append(comparison.Finished(plan, {"dev": results}))
  return runs


def test_mean_and_deviation_are_those_of_numpy_and_scipy():
  values = np.random.RandomState(1).uniform(size=[2, 7]).astype("f")
  compared = comparison.compare(
    make_runs(linear=values[0], cosine=values[1]), "accuracy"
  )
  for setting, expected in zip(compared.settings, np.float64(values)):
    assert setting.mean == pytest.approx(expected.mean(), abs=1e-7)
    assert setting.deviation == pytest.approx(stats.tstd(expected), abs=1e-7)
    assert setting.deviation == pytest.approx(expected.std(ddof=1), abs=1e-7)
  table = comparison.describe(compared)["settings"]
  assert [one["from"] for one in table] == pytest.approx(values.min(axis=1))
  assert [one["to"] for one in table] == pytest.approx(values.max(axis=1))


def test_the_best_setting_has_the_best_mean_and_not_the_best_run():
  runs = make_runs(linear=[0.9, 0.1], cosine=[0.6, 0.7])
  compared = comparison.compare(runs, "accuracy")
  assert compared.best.name == "lr_schedule=cosine"
  assert compared.best_run.plan.seed == 1


def test_of_an_error_the_lowest_is_best():
  runs = make_runs("mse", linear=[0.9, 0.8], cosine=[0.2, 0.3])
  compared = comparison.compare(runs, "mse")
  assert compared.best_run.plan.folder == "out/runs/cosine0"
  assert "lower is better" in comparison.format_table(compared)[0]


def test_of_equal_settings_the_first_is_best():
  runs = make_runs(linear=[0.1, 0.2, 0.3], cosine=[0.3, 0.1, 0.2])
  compared = comparison.compare(runs, "accuracy")
  assert compared.best.name == "lr_schedule=linear"


def test_a_setting_with_an_undefined_run_is_not_chosen():
  runs = make_runs("pearson", linear=[0.9, None], cosine=[0.2, 0.3])
  compared = comparison.compare(runs, "pearson")
  assert compared.best.name == "lr_schedule=cosine"
  assert "        -          -   0.9000   0.9000" in "\n".join(
    comparison.format_table(compared)
  )
  alone = comparison.compare(runs[:2], "pearson")
  assert alone.best is alone.best_run is None
  assert "No setting is chosen" in comparison.describe_choice(alone)[0]


def test_the_deviation_of_one_run_is_none():
  (setting,) = comparison.compare(make_runs(linear=[0.5]), "accuracy").settings
  assert setting.deviation is None


def test_settings_near_the_best_are_counted():
  runs = make_runs(
    linear=[0.80, 0.90], cosine=[0.81, 0.91], constant=[0.1, 0.2]
  )
  sentences = comparison.describe_choice(comparison.compare(runs, "accuracy"))
  assert "1 other is within one standard deviation" in " ".join(sentences)


def test_settings_that_are_equal_for_every_seed_are_near():
  runs = make_runs(linear=[0.7, 0.7], cosine=[0.7, 0.7])
  sentences = comparison.describe_choice(comparison.compare(runs, "accuracy"))
  assert "1 other is within one standard deviation" in " ".join(sentences)
  assert (
    "The choice is by the dev set, so what is chosen looks better"
    in (sentences[-1])
  )


@pytest.mark.parametrize(
  ("figures", "sentence"),
  [
    ((0.7, 0.7, 0.7), "2 others have the same figure; of equal ones the first"),
    ((0.7, 0.6, 0.7), "1 other has the same figure; of equal ones the first"),
    ((0.7, 0.6, 0.5), "There is one run a setting, so no deviation to hold"),
    ((0.7, 0.7, 0.7), "other seeds might order the settings otherwise"),
  ],
)
def test_of_one_run_a_setting_it_is_said_what_the_order_is_worth(
  figures, sentence
):
  names = "linear", "cosine", "constant"
  runs = make_runs(**{name: [one] for name, one in zip(names, figures)})
  compared = comparison.compare(runs, "accuracy")
  said = " ".join(comparison.describe_choice(compared))
  assert sentence in said
  assert "standard deviation" not in said
  assert ("the same figure" in said) == (figures.count(0.7) > 1)


def test_of_several_runs_a_setting_nothing_is_said_of_one():
  runs = make_runs(linear=[0.8, 0.9], cosine=[0.1, 0.2])
  said = " ".join(
    comparison.describe_choice(comparison.compare(runs, "accuracy"))
  )
  assert "one run a setting" not in said and "same figure" not in said


def test_the_table_has_a_line_for_each_run(tmp_path):
  runs = make_runs(linear=[0.5, None], cosine=[0.25, 0.75])
  comparison.write_table(str(tmp_path / "runs.tsv"), runs, runs[3:])
  assert read_table(tmp_path / "runs.tsv") == [
    [
      "run",
      "lr_schedule",
      "seed",
      "eval_accuracy",
      "eval_loss",
      "global_step",
      "chosen",
    ],
    ["linear0", "linear", "0", "0.5", "0.5", "9", ""],
    ["linear1", "linear", "1", "", "0.5", "9", ""],
    ["cosine0", "cosine", "0", "0.25", "0.5", "9", ""],
    ["cosine1", "cosine", "1", "0.75", "0.5", "9", "yes"],
  ]
