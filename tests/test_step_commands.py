"""Whole commands with the flags of a step: resumed, evaluated, compiled."""

from conftest import read_checkpoint, read_results, read_table
import numpy as np
import pytest

from bert_classifier import history, progress

STEP = ["--gradient_accumulation_steps=2", "--gradient_checkpointing"]


def test_a_training_in_parts_ends_the_same_where_it_was_interrupted(
  classify, training, tmp_path, monkeypatch
):
  whole = classify(*STEP, output_dir=tmp_path / "whole", **training)
  assert whole.status == 0, whole.log
  seen = []

  def interrupt(hook, run_context, run_values):
    seen.append(hook)
    if len(seen) == 6:
      raise KeyboardInterrupt
    return after_run(hook, run_context, run_values)

  after_run = progress.ProgressHook.after_run
  with monkeypatch.context() as patch:
    patch.setattr(progress.ProgressHook, "after_run", interrupt)
    assert (
      classify(*STEP, output_dir=tmp_path / "two", **training).status == 130
    )
  again = classify(*STEP, output_dir=tmp_path / "two", **training)
  assert again.status == 0 and "step 5/13" in again.log, again.log
  ours, theirs = (read_checkpoint(tmp_path / name) for name in ("two", "whole"))
  for name, value in theirs.items():
    np.testing.assert_array_equal(ours[name], value, err_msg=name)
  losses = [
    {
      e["step"]: e["loss"]
      for e in history.read(f"{tmp_path}/{n}/history.jsonl")
    }
    for n in ("two", "whole")
  ]
  assert losses[0] == losses[1] and len(losses[0]) == 13


@pytest.mark.parametrize("flags", [{}, {"gradient_accumulation_steps": 3}])
def test_a_batch_that_cannot_be_divided_is_refused_before_anything_else(
  classify, tmp_path, flags
):
  flags = {"train_batch_size": 8, "data_dir": tmp_path / "nowhere", **flags}
  done = classify("--do_train", output_dir=tmp_path / "out", **flags)
  assert done.status == 1
  divides = "gradient_accumulation_steps" not in flags
  assert ("is 8, but must be a multiple of" in done.log) != divides
  assert ("nowhere" in done.log) == divides


def test_xla_computes_what_is_computed_without_it(
  classify, small_model, golden_task, tmp_path
):
  asked = dict(
    small_model,
    do_eval=True,
    do_predict=True,
    eval_batch_size=8,  # of 21 examples
    predict_batch_size=8,
    init_checkpoint=classify.defaults["init_checkpoint"],
    bert_config_file=None,
  )
  results = []
  for use_xla in (False, True):
    out = tmp_path / str(use_xla)
    done = classify(output_dir=out, use_xla=use_xla, **asked)
    assert done.status == 0, done.log
    assert ("takes about a minute" in done.log) == use_xla
    results.append(
      [
        read_results(out / "eval_results.txt"),
        np.float32(read_table(out / "test_results.tsv")),
      ]
    )
  (plain, plain_rows), (compiled, compiled_rows) = results
  assert list(compiled) == list(plain)
  assert list(compiled.values()) == pytest.approx(
    list(plain.values()), abs=1e-5
  )
  np.testing.assert_allclose(compiled_rows, plain_rows, rtol=0, atol=1e-5)
  refused = classify(
    "--use_xla", "--skip_padding", output_dir=tmp_path, **asked
  )
  assert refused.status == 1
  assert "leave out --skip_padding or --use_xla" in refused.log
