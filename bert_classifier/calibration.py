"""Calibration: --calibrate, a temperature by which probabilities are honest.

The logits of a trained model are divided by a number, the temperature, before
they become probabilities: the one that makes the loss of the dev set least (Guo
et al. 2017, https://arxiv.org/abs/1706.04599, section 4.2). The likeliest class
stays what it was, and so do the logits. It is kept beside the model, in
calibration.json, with a digest of the weights that it was fitted to, and with
the flags that cut the texts: for others it is not used.
"""

import math
import os

from absl import logging
import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import (
  checkpoints,
  evaluation,
  files,
  output_dir,
  plain_texts,
)
from bert_classifier.errors import UserError

LOWEST, HIGHEST = 0.05, 20.0
_TEMPERATURE, _WEIGHTS = "temperature", "weights (SHA-256)"
_CUT = "texts cut by"


def check_request(inference, run, task):
  """Makes sure that there is something to calibrate.

  Args:
    inference: `options.InferenceOptions`.
    run: `run_options.RunOptions`.
    task: `task_choice.Task`.

  Raises:
    UserError: no dev set is evaluated, or there are no probabilities.
  """
  if not inference.calibrate:
    return
  if not run.do_eval:
    raise UserError(
      "--calibrate fits a temperature to the dev set: add --do_eval"
    )
  if not hasattr(task.target, "calibrated"):
    raise UserError(
      f"--calibrate is about the probabilities of classes, and {task.name} has"
      " none: leave it out"
    )


def fit_temperature(target, logits, labels):
  """Returns the temperature that makes the mean loss least.

  The loss is a convex function of its inverse, so the one minimum is found.

  Args:
    target: see `targets`; one of classes.
    logits: <float32>[n, L].
    labels: the target's label feature, [n] or [n, L].

  Returns:
    A number from `LOWEST` to `HIGHEST`, one of these ends where the minimum is
    beyond it, as where everything is right.
  """
  from scipy import optimize

  logits = np.float64(logits)

  def measure(logarithm):
    losses = target.losses(logits / math.exp(logarithm), labels)
    return np.mean(losses, dtype=np.float64)

  found = optimize.minimize_scalar(
    measure,
    bounds=(math.log(LOWEST), math.log(HIGHEST)),
    method="bounded",
    options={"xatol": 1e-5},
  )
  return math.exp(found.x)


def calibrate(run, collector, weights, results):
  """Fits the temperature to what was evaluated, keeps it, and what it changes.

  Args:
    run: `preparation.Run`.
    collector: `evaluation.Collector` of the dev set; it goes on with the
      temperature.
    weights: path of the weights that were evaluated.
    results: dictionary of their results.

  Returns:
    The run with the temperature, and the results with it: a threshold other
    than 0.5 decides otherwise, and some metrics are of the probabilities.
  """
  evaluated = collector.join_batches()
  plain = run.task.target.calibrated(1.0)
  temperature = fit_temperature(plain, evaluated.logits, evaluated.labels)
  temperature = float(f"{temperature:.6g}")
  target = plain.calibrated(temperature)
  before, after = (
    float(np.mean(plain.losses(logits, evaluated.labels), dtype=np.float64))
    for logits in (evaluated.logits, evaluated.logits / temperature)
  )
  path = output_dir.calibration_path(output_dir.weights_folder(run.options.run))
  read = checkpoints.open_checkpoint(run.weights.to_read or weights)
  files.write_json(
    path,
    {
      "format_version": 1,
      _TEMPERATURE: temperature,
      "weights": os.path.basename(weights),
      _WEIGHTS: read.hash(),
      _CUT: run.options.model.cutting(),
      "split": "dev",
      "examples": len(evaluated.losses),
      "loss before": before,
      "loss after": after,
    },
  )
  logging.info(
    "temperature %.4f, fitted to %s of dev; loss %.4f before, %.4f after: %s",
    temperature,
    plain_texts.count(len(evaluated.losses)),
    before,
    after,
    path,
  )
  if not LOWEST * 1.01 < temperature < HIGHEST / 1.01:
    logging.warning(
      "the temperature %.4g is at the end of what is tried, %g to %g: the dev"
      " set says little of how sure the model may be, as where it is small and"
      " all right or at random",
      temperature,
      LOWEST,
      HIGHEST,
    )
  calibrated = {**results, **collector.change_target(target)}
  if calibrated != results:
    folder = run.options.run.output_dir
    evaluation.write_results(folder, "dev", calibrated, weights)
  return _with_target(run, target), calibrated


def apply(run):
  """Returns the run with the temperature that its weights were calibrated by.

  That of `calibration.json` in output_dir or beside the weights. A run that
  trains, or calibrates anew, begins without one. The best weights may be those
  of before a training, so they are asked about when they are chosen.

  Args:
    run: `preparation.Run`.

  Raises:
    UserError: the file is damaged.
  """
  asked = run.options
  if asked.inference.calibrate:
    return run
  if asked.run.do_train and not (
    run.weights.checkpoint if asked.run.use_best else run.is_finished
  ):
    return run
  path = run.weights.checkpoint or run.weights.resumed
  if path is None and run.weights.init_checkpoint is None:
    return run
  weights = None if path else run.weights.init_checkpoint
  path = path or weights.path
  digest = None
  folders = os.path.dirname(path), asked.run.output_dir
  for folder in dict.fromkeys(folders):
    file = output_dir.calibration_path(folder)
    found = _read(file)
    if found is None:
      continue
    # Opened only here: a training may be replacing it.
    weights = weights or checkpoints.open_checkpoint(path)
    digest = digest or weights.hash()
    if found[_WEIGHTS] != digest or not hasattr(run.task.target, "calibrated"):
      logging.info(
        "%s was fitted to other weights than %s, and is not used: --do_eval"
        " --calibrate fits it anew",
        file,
        path,
      )
      continue
    other = _list_other_cutting(found, run.options.model)
    if other:
      logging.warning(
        "the temperature of %s was fitted to texts that were cut by %s. It is"
        " not used, and probabilities are those of the model itself:"
        " --do_eval --calibrate fits it anew",
        file,
        ", ".join(other),
      )
      continue
    temperature = found[_TEMPERATURE]
    logging.info(
      "probabilities are those of the temperature %g of %s", temperature, file
    )
    return _with_target(run, run.task.target.calibrated(temperature))
  return run


def _list_other_cutting(found, options):
  """Returns the flags that cut texts otherwise when a temperature was fitted.

  Args:
    found: what `_read` gives. A file of an earlier version has no such flags.
    options: `options.ModelOptions` of now.

  Returns:
    List of texts, such as "--stride=64, now 0".
  """
  return [
    f"--{name}={found[_CUT][name]}, now {value}"
    for name, value in options.cutting().items()
    if found.get(_CUT, {}).get(name, value) != value
  ]


def without(run):
  """Returns the run without a temperature, as others begin."""
  target = run.task.target
  if not hasattr(target, "calibrated"):
    return run
  return _with_target(run, target.calibrated(1.0))


def _with_target(run, target):
  return run._replace(task=run.task._replace(target=target))


def _read(path):
  """Returns what a calibration.json holds, None where there is none.

  Raises:
    UserError: it is damaged.
  """
  found = files.read_json(path)
  if found is None and not tf.io.gfile.exists(path):
    return None
  temperature = found.get(_TEMPERATURE) if isinstance(found, dict) else None
  if (
    isinstance(temperature, (int, float))
    and LOWEST <= temperature <= HIGHEST
    and isinstance(found.get(_WEIGHTS), str)
    and isinstance(found.get(_CUT, {}), dict)
  ):
    return found
  raise UserError(
    f"{path} is damaged: its {_TEMPERATURE} is {temperature!r:.80}, but must be"
    f" a number from {LOWEST} to {HIGHEST}. Copy it again, or remove it, and"
    " give --do_eval --calibrate to fit it anew"
  )
