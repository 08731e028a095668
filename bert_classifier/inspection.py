"""Inspection: --dry_run, what a command would do, and with what data.

Everything is read and checked as for a run; a few steps are taken, and nothing
is written. The report is one screen of sentences on standard output, warnings
last; --dry_run_file has the same as JSON.
"""

import array
import collections
import hashlib
import heapq
import os
import random
import shutil
from typing import NamedTuple

from absl import logging
import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import (
  advice,
  checkpoints,
  feature_cache,
  files,
  inspection_page,
  locks,
  machine,
  memory,
  output_dir,
  process,
  progress,
  resources,
  selection,
  targets,
)
from bert_classifier.coverage import shorten_names
from bert_classifier.errors import UserError
from bert_classifier.features import Converter, commonest_unknown_words

_CUT_SHARE = 0.01  # of the length that is proposed
_DIGEST_BYTES = 8  # two of a million texts are alike once in 30 million files
_PERCENTS = 50, 90, 99, 100

# ---------------------------------------------------------------------------
# Reading


class Reading(NamedTuple):
  """What was read of a split of n examples.

  Attributes:
    split: its name.
    path: its file, None where a processor's own method gives the examples.
    lengths: <int32>[n], tokens with the special ones, before they are cut.
    texts: <uint64>[n], digests of the texts.
    labels: <uint64>[n], digests of the labels; None where there are none.
    converter: `features.Converter`, which has counted.
    blank: number of examples left out for want of a text.
    longest, sample: lists of `InputExample`s, the longest and some at random.
  """

  split: str
  path: str
  lengths: np.ndarray
  texts: np.ndarray
  labels: np.ndarray
  converter: Converter
  blank: int
  longest: list
  sample: list

  @property
  def features(self):
    """Returns the `feature_cache.Features` that would be made."""
    tokens = self.converter.tally["tokens"]
    records = self.converter.tally["records"]
    return feature_cache.Features(None, records, tokens, len(self.lengths))


def read_split(run, split, kept):
  """Returns the `Reading` of a split.

  Args:
    run: `preparation.Run`.
    split: one of those that it asks for.
    kept: number of examples to keep for trials.
  """
  model = run.options.model
  converter = Converter(
    run.task.target,
    model.max_seq_length,
    run.model.tokenizer,
    model.truncation,
    stride=model.stride,
  )
  tally, blank = converter.tally, collections.Counter()
  draw = random.Random(run.options.training.seed)
  lengths, texts, labels = array.array("i"), bytearray(), bytearray()
  longest, sample, before = [], [], 0
  counter = progress.Counter("read", run.count(split))
  examples = run.task.data.examples(split, blank)
  for number, example in enumerate(progress.count_examples(examples, counter)):
    converter.records(converter.inputs(example))
    after = tally["tokens"] - tally["repeated"] + tally["truncated_tokens"]
    length, before = after - before, after
    lengths.append(length)
    texts += _digest(f"{example.text_a}\0{example.text_b or ''}")
    if example.label is not None:
      labels += _digest(str(run.task.target.encode(example.label)))
    if len(longest) < kept:
      heapq.heappush(longest, (length, number, example))
    elif length > longest[0][0]:
      heapq.heapreplace(longest, (length, number, example))
    if len(sample) < kept * resources.TRIED_BATCHES:
      sample.append(example)
    elif (place := draw.randrange(number + 1)) < len(sample):
      sample[place] = example
  return Reading(
    split,
    run.task.data.path(split),
    np.array(lengths, np.int32),
    np.frombuffer(bytes(texts), np.uint64),
    np.frombuffer(bytes(labels), np.uint64) if labels else None,
    converter,
    blank["blank"],
    [example for _, _, example in sorted(longest, reverse=True)],
    sample,
  )


def _digest(text):
  data = text.encode("utf-8", "surrogatepass")
  return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()


# ---------------------------------------------------------------------------
# The data


def describe_split(reading):
  """Returns what there is to say of a split, a dictionary for JSON."""
  lengths, tally = reading.lengths, reading.converter.tally
  found = {
    "file": reading.path,
    "examples": len(lengths),
    "left out for want of a text": reading.blank,
    "tokens": {
      f"{percent}%": _length_for(lengths, percent / 100)
      for percent in _PERCENTS
    },
    "in windows": tally["windowed"],
    "windows": tally["records"],
    "cut": tally["truncated"],
    "tokens lost": tally["truncated_tokens"],
    "length that cuts 1%": _length_for(lengths, 1 - _CUT_SHARE),
    "share of [UNK]": tally["unknown"] / max(tally["tokens"], 1),
    "unknown words": commonest_unknown_words(tally),
    **find_repeated(reading.texts, reading.labels),
  }
  if reading.labels is not None:
    has_classes = reading.converter.target.has_classes
    found["labels" if has_classes else "numbers"] = count_labels(
      reading.converter
    )
  return found


def _length_for(lengths, share):
  """Returns the least length that cuts no more than the rest of a share."""
  return int(np.sort(lengths)[max(int(np.ceil(share * len(lengths))) - 1, 0)])


def count_labels(converter):
  """Returns how often each label holds, or the range of numbers.

  Args:
    converter: `features.Converter` that has seen all labels.
  """
  target, counts = converter.target, converter.label_values
  values = np.array(list(counts))
  times = np.array(list(counts.values()))
  if not target.has_classes:
    ordered = np.repeat(values, times)
    names = ("least", "quarter", "median", "three quarters", "greatest")
    return dict(zip(names, map(float, np.quantile(ordered, np.arange(5) / 4))))
  if values.ndim == 2:  # of several classes, which of them hold
    held = times @ values
  else:
    held = np.bincount(values, times, len(target.labels))
  found = {label: int(count) for label, count in zip(target.labels, held)}
  if values.ndim == 2 and (without := int(times[~values.any(axis=1)].sum())):
    found[targets.NO_LABEL] = without
  return found


def find_repeated(texts, labels):
  """Returns how many texts come again, and how many of them contradict.

  Args:
    texts: <uint64>[n] digests.
    labels: <uint64>[n] digests, or None.
  """
  order = np.argsort(texts, kind="stable")
  if labels is not None:
    order = np.lexsort((labels, texts))
  texts = texts[order]
  again = texts[1:] == texts[:-1]
  found = {
    "texts that come again": int(np.unique(texts[1:][again]).size),
    "examples too many": int(again.sum()),
  }
  if labels is None:
    return found
  differs = again & (labels[order][1:] != labels[order][:-1])
  found["texts with different labels"] = int(np.unique(texts[1:][differs]).size)
  if differs.any():
    first = np.flatnonzero(differs)[0]
    found["first of them"] = sorted(
      int(n) + 1 for n in order[first : first + 2]
    )
  return found


def find_shared(readings):
  """Returns which splits have texts in common, and of how many examples.

  Args:
    readings: list of `Reading`s.
  """
  found = []
  for number, later in enumerate(readings):
    for earlier in readings[:number]:
      is_there = np.isin(later.texts, earlier.texts)
      if is_there.any():
        found.append(
          {
            "split": later.split,
            "examples": int(is_there.sum()),
            "share": float(is_there.mean()),
            "are in": earlier.split,
            "first": int(np.flatnonzero(is_there)[0]) + 1,
          }
        )
  return found


# ---------------------------------------------------------------------------
# The run


def describe_model(run):
  """Returns the size of the model, and where its weights come from."""
  weights = run.weights
  if weights.resumed:
    step = output_dir.step_of(weights.resumed)
    source = [f"all variables are loaded from {weights.resumed}, step {step}"]
  elif weights.coverage:
    source = weights.coverage.describe()
  else:
    source = ["all variables start from random values: no --init_checkpoint"]
  return {
    "weights": resources.count_weights(run.model.config, run.task.target.width),
    "variables": len(run.model.variables),
    "source": source,
    "vocabulary": run.model.vocab_file,
  }


def describe_steps(run):
  """Returns the steps of the training, {} where there is none."""
  if run.schedule is None:
    return {}
  return {
    "first step": run.first_step + 1,
    "steps": run.schedule.steps,
    "warmup steps": run.schedule.warmup_steps,
    "batch": run.options.training.train_batch_size,
    "unit": run.options.model.unit,
    "left": 0 if run.is_finished else run.schedule.steps - run.first_step,
  }


def describe_memory(run, readings):
  """Returns the estimated bytes at the peak, by what they are for.

  Args:
    run: `preparation.Run`.
    readings: list of the `Reading`s of the splits that are computed.
  """
  longest = {one.split: np.sort(one.lengths)[::-1] for one in readings}
  most = max(longest, key=lambda one: sum(_estimate_memory(run, one, longest)))
  needed = _estimate_memory(run, most, longest)
  on_cpu = run.placement.on_cpu
  found = {
    **needed._asdict(),
    "total": needed.total(on_cpu),
    "free": machine.find_free_memory(),
    "gpu": None
    if on_cpu
    else {
      "name": run.placement.device,
      "total": needed.on_device(),
      "free": machine.find_free_gpu_memory(),
    },
  }

  def fits(smaller):
    needed = _estimate_memory(smaller, most, longest)
    tried = {**found, "total": needed.total(on_cpu)}
    if not on_cpu:
      tried["gpu"] = {**found["gpu"], "total": needed.on_device()}
    return not inspection_page.list_lacks(tried)

  found["advice"] = None if fits(run) else memory.suggest(run, most, fits)
  return found


def _estimate_memory(run, split, lengths):
  """Returns the `resources.Memory` of the longest examples of a split.

  Args:
    run: `preparation.Run`.
    split: one that is computed.
    lengths: by split <int32>[n], the tokens of the examples, falling.
  """
  size = memory.find_batch_size(run, split)
  longest = lengths[split][:size]
  if run.options.model.stride:  # at the worst all of them are full
    longest = np.full(size, longest[0])
  cut = np.minimum(longest, run.options.model.max_seq_length)
  return resources.estimate_memory(run, cut, split == "train")


def measure(run, make_model_fn, readings, steps):
  """Takes a few steps of each part of the run.

  Args:
    run, make_model_fn: see `report_dry_run`.
    readings: list of the `Reading`s of the splits that are computed.
    steps: what `describe_steps` gives.

  Returns:
    Dictionary from split to its seconds, and the bytes of this process at its
    peak, None where they are unknown.
  """
  placement = run.placement
  model_fn = make_model_fn(run, None, placement)
  parts, trials = {}, {}
  modes = tf.estimator.ModeKeys
  for reading in readings:
    split = reading.split
    is_training = split == "train"
    size = run.batch_size(split)
    if (is_training, size) not in trials:
      trials[is_training, size] = resources.try_steps(
        run,
        model_fn,
        modes.TRAIN if is_training else modes.PREDICT,
        reading.converter,
        reading.longest,
        reading.sample,
        size,
      )
    trial = trials[is_training, size]
    times = selection.count_evaluations(run) if split == "dev" else 1
    records = run.features[split].records
    batches = steps["left"] if is_training else records / size * times
    parts[split] = {
      "seconds to start": trial.start,
      "seconds a batch": trial.seconds,
      "batches measured": trial.steps,
      "batch": size,
      "times": times,
      "seconds": trial.seconds * batches,
    }
  peaks = [trial.peak for trial in trials.values() if trial.peak]
  return parts, max(peaks, default=None)


def describe_files(run):
  """Returns what would be written, replaced and removed, lists of paths."""
  folder, removed = run.options.run.output_dir, []
  if run.options.run.overwrite_output_dir:
    removed = output_dir.list_own_files(folder)
  manifest = os.path.join(folder, output_dir.MANIFEST)
  added_to = (
    manifest,
    output_dir.history_path(folder),
    output_dir.best_path(folder),
    output_dir.export_path(folder),
  )
  written = _list_written(run)
  return {
    "written": written,
    "replaced": [
      path
      for path in written
      if path not in (*removed, *added_to) and tf.io.gfile.exists(path)
    ],
    "removed": [path for path in removed if path != manifest],
    "features": {
      split: known.path if (known := run.cache.lookup(split)) else None
      for split in run.counts
    },
    "free disk": _free_disk(folder),
    "disk": estimate_disk(run),
  }


def _list_written(run):
  """Returns the paths that a run would write."""
  asked, folder = run.options.run, run.options.run.output_dir
  written = []
  if asked.do_train and not run.is_finished:
    written.append(os.path.join(folder, f"model.ckpt-{run.schedule.steps}"))
    written.append(os.path.join(folder, output_dir.MANIFEST))
    written.append(output_dir.history_path(folder))
    if selection.keeps_best(run):
      written.append(output_dir.best_path(folder))
  for split in run.splits("dev"):
    written.append(output_dir.results_path(folder, split))
    if run.options.inference.eval_report:
      written += output_dir.report_paths(folder, split).values()
  written += filter(None, [asked.export_hf, asked.export_onnx])
  if run.options.inference.calibrate:
    written.append(
      output_dir.calibration_path(output_dir.weights_folder(asked))
    )
  for split in run.splits("test"):
    if asked.do_embed:
      written += output_dir.embedding_paths(folder, split)
    if not asked.do_predict:
      continue
    written += output_dir.prediction_paths(folder, split)
    name = run.task.processor.submissions.get(split)
    if run.options.inference.glue_submission and name:
      written.append(output_dir.submission_path(folder, name))
  if asked.do_export:
    written.append(output_dir.export_path(folder))
  return written


def _free_disk(folder):
  """Returns the free bytes where a folder is or would be, None if unknown."""
  if files.is_remote(folder):
    return None
  at = os.path.abspath(folder)
  while not os.path.exists(at):
    at = os.path.dirname(at)
  return shutil.disk_usage(at).free


def estimate_disk(run):
  """Returns the bytes of the checkpoints that lie there at a time."""
  if run.schedule is None or run.is_finished:
    return 0
  model = run.model.config, run.task.target.width
  frozen = run.options.choice.freeze_layers
  training = run.options.training
  saved = -(-run.schedule.steps // training.save_checkpoints_steps)
  kept = min(training.keep_checkpoint_max or saved, saved) + 1
  needed = kept * resources.compute_checkpoint_size(*model, frozen)
  if selection.keeps_best(run):  # twice while one takes the other's place
    needed += 2 * resources.compute_weights_size(*model)
  return needed


# ---------------------------------------------------------------------------
# The report


def check_request(options):
  """Makes sure that the report can be written where it is asked for.

  Args:
    options: `run_options.RunOptions`.

  Raises:
    UserError: there is no such folder, or it is one itself.
  """
  path = options.dry_run_file
  if path is None or files.is_remote(path):
    return
  folder = os.path.dirname(path) or "."
  if not os.path.isdir(folder):
    raise UserError(f"--dry_run_file={path}: there is no folder {folder}")
  if os.path.isdir(path):
    raise UserError(f"--dry_run_file={path} is a folder: give a file in it")


def report_dry_run(run, make_model_fn, complete=None):
  """Inspects what a command asks for, and prints the report.

  Args:
    run: `preparation.Run`, without features.
    make_model_fn: function of run, init_checkpoint and placement that gives the
      model_fn.
    complete: function that adds to the report what is said of other runs.

  Raises:
    UserError: what training would refuse.
  """
  report = inspect(run, make_model_fn, complete)
  process.print_to_the_end(inspection_page.render(report))
  path = run.options.run.dry_run_file
  if path:
    files.write_json(path, report)
    logging.info("the same as JSON: %s", path)


def inspect(run, make_model_fn, complete=None):
  """Returns the report, a dictionary for JSON.

  Args and errors as of `report_dry_run`.
  """
  asked = run.options.run
  if asked.do_train:
    locks.check_unlocked(asked.output_dir)
  size = max(
    run.options.training.train_batch_size,
    run.eval_batch_size,
    run.predict_batch_size,
  )
  readings = [read_split(run, split, size) for split in run.counts]
  if readings:
    run = run.with_features({one.split: one.features for one in readings})
  steps = describe_steps(run)
  report = {
    "task": run.task.name,
    "problem_type": run.task.target.problem_type,
    "max_seq_length": run.options.model.max_seq_length,
    "longest possible": run.model.config.max_position_embeddings,
    "output_dir": asked.output_dir,
    "device": run.placement.describe(),
    "splits": {one.split: describe_split(one) for one in readings},
    "shared texts": find_shared(readings),
    "model": describe_model(run),
    "training": steps,
    "runs": {},
    "memory": {},
    "time": {},
    "peak memory measured": None,
    "files": describe_files(run) if asked.fills_folder else {},
    "answers": asked.answers,
    "doubts": list_doubts(run, readings),
  }
  computed = [
    one for one in readings if one.split != "train" or not run.is_finished
  ]
  if computed:
    needed = report["memory"] = describe_memory(run, computed)
    lacks_memory = inspection_page.list_lacks(needed)
    if run.placement.sees_every_step and not lacks_memory:
      report["time"], report["peak memory measured"] = measure(
        run, make_model_fn, computed, steps
      )
  if complete:
    complete(report)
  report["warnings"] = inspection_page.list_warnings(report)
  return report


def list_doubts(run, readings):
  """Returns sentences on the training as a whole."""
  doubts = []
  if run.options.run.do_train and run.is_finished:
    doubts.append(advice.explain_not_training(run))
  if run.weights.coverage is None and not run.weights.resumed:
    doubts.append("training would begin from random weights")
  doubts += _doubt_weights(run.weights)
  for reading in readings:
    if reading.split == "train":
      doubt = reading.converter.target.doubt(reading.converter.label_values)
      doubts += [doubt] if doubt else []
  return doubts


def _doubt_weights(weights):
  """Returns a list of the sentence that weights are not finite, or of none.

  Args:
    weights: `model_files.Weights`.
  """
  begun = weights.init_checkpoint
  if weights.resumed:
    begun = checkpoints.open_checkpoint(weights.resumed)
  names = begun.list_not_finite() if begun else []
  if not names:
    return []
  return [
    f"{begun.path} holds NaN or infinity in {shorten_names(names)}, so that the"
    " run would end with an error: take other weights"
  ]
