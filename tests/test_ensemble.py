"""The mean of the predictions of runs, against NumPy and SciPy."""

import numpy as np
import pytest
from scipy import special

from bert_classifier import ensemble, targets


def test_the_mean_is_that_of_numpy(tmp_path):
  numbers = np.random.RandomState(2).uniform(size=[3, 5, 4]).astype("f")
  paths = [str(tmp_path / f"{i}.tsv") for i in range(3)]
  for path, table in zip(paths, numbers):
    rows = ("\t".join(map(str, row)) for row in table)
    with open(path, "w", encoding="utf-8") as file:
      file.writelines(f"{row}\n" for row in rows)
  found = np.stack(list(ensemble.average(paths)))
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, np.float64(numbers).mean(0), rtol=1e-7)
  alone = np.stack(list(ensemble.average(paths[:1])))
  np.testing.assert_array_equal(alone, numbers[0])


@pytest.mark.parametrize(
  ("target", "squash"),
  [
    (targets.OneClass("abc"), special.softmax),
    (targets.SeveralClasses("abc"), special.expit),
  ],
)
@pytest.mark.parametrize("cells", [[0.2, 0.5, 0.3], [1, 0, 0]])
def test_logits_of_an_ensemble_give_its_probabilities(target, squash, cells):
  outputs = target.outputs_of(np.float32(cells))
  assert np.isfinite(outputs["logits"]).all()
  np.testing.assert_allclose(squash(outputs["logits"]), cells, atol=1e-6)
  assert target.result_cells(outputs) == [str(np.float32(c)) for c in cells]


def test_the_mean_of_numbers_is_a_number():
  outputs = targets.Number().outputs_of(np.float32([2.5]))
  assert targets.Number().prediction_cells(outputs) == ["2.5"]
  np.testing.assert_array_equal(outputs["logits"], np.float32([2.5]))
