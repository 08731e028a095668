"""What a trained model is used for beside its task's splits.

Everywhere `run` is a `preparation.Run`, `init_checkpoint` the prefix of a
TensorFlow checkpoint, or None, and `make_model_fn` a function of run,
init_checkpoint and placement.
"""

import contextlib
import functools

from bert_classifier import (
  export,
  hugging_face_export,
  interactive,
  onnx_export,
  sharing,
)


def write_exports(run, init_checkpoint, make_model_fn):
  """Writes the exports that are asked for; returns a line on each."""
  asked, lines = run.options.run, []
  if asked.do_export:
    lines.append(_use_newest(run, init_checkpoint, make_model_fn, export.write))
  if asked.export_hf:
    lines.append(hugging_face_export.export_of_run(run, init_checkpoint))
  if asked.export_onnx:
    run = onnx_export.compute_every_position(run)
    lines.append(
      _use_newest(run, init_checkpoint, make_model_fn, onnx_export.write)
    )
  return lines


def answer(run, init_checkpoint, make_model_fn):
  """Predicts texts that are in no split, on standard output."""
  predictor = _use_newest(
    run, init_checkpoint, make_model_fn, interactive.Predictor
  )
  with contextlib.closing(predictor):
    interactive.answer(run.options.run, run.task, predictor)


def _use_newest(run, init_checkpoint, make_model_fn, use):
  """Returns what a function of run, model_fn and path of weights gives."""
  placement = run.placement.of_this_machine()
  model_fn = make_model_fn(run, init_checkpoint, placement)
  return sharing.load_newest(run, functools.partial(use, run, model_fn))
