"""Measures training and inference: this project, 2018's way, PyTorch, floor.

  pip install torch transformers    # where --hf_python is; may be left out
  python benchmarks/speed.py --data=glue --vocab=uncased/vocab.txt \\
      --tasks=CoLA,MNLI,MRPC --model=small --hf_python=hf/bin/python

`--data` holds a folder a task with its train and dev files: training is on the
rows of the one, inference on those of the other. Rows are real, weights are
random. Each side is a process of its own; they take turns, none at work while
another is:

  ours           this project as it is
  original       every optimization off: all positions of all layers, plain
                 forms and optimizer, tf.nn.dropout, as in 2018
  transformers   BertForSequenceClassification in PyTorch, each batch padded to
                 its longest, fused AdamW, sdpa; left out without --hf_python
  products       the dense layers' matrix products alone, of as many rows as a
                 batch has real tokens, in TensorFlow
  torch_products the same in PyTorch

For each task and mode it prints examples/s and peak memory (resident) of a
side, ratios, and the share of the floor: the operations of the dense layers on
real tokens (training: three times the forward pass), at the rate that the
products of these shapes were computed with in the same round, over the time of
a side. `whole` counts all layers; `needed` counts of the last layer key and
value, and the rest for the first tokens only, as the pooler reads no more.
Numbers are medians over the rounds, with the range; every round has the same
batches. Wall time holds the work of others on the machine; `cpu` is the ratio
by processor time, which holds less. `transformers` is given its batches, where
the TensorFlow sides read and parse theirs.

  --model  small (6 layers, 384 wide), base, or a bert_config.json, of which the
           sizes count. base keeps one side in memory at a time and starts it
           every round.
  --forms  instead: one optimization off at a time; the ratio of the step
           without it to the step as it is. `nothing` turns nothing off, and
           shows what two processes of the same work differ by.

What input, hooks and logging cost is measured by whole_script.py, and text to
features by conversion.py.
"""

import contextlib
import functools
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from unittest import mock

import speed_floor
import speed_forms

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODELS = {
  "small": dict(
    hidden_size=384,
    num_hidden_layers=6,
    num_attention_heads=12,
    intermediate_size=1536,
  ),
  "base": dict(
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=3072,
  ),
}
SIZES = (
  "vocab_size",
  "type_vocab_size",
  "max_position_embeddings",
  "hidden_size",
  "num_hidden_layers",
  "num_attention_heads",
  "intermediate_size",
)
SEED = 1  # of the order of the rows
TASKS = ["CoLA", "MRPC", "MNLI"]
TORCH_SIDES = ("transformers", "torch_products")
WARM_UP = 2  # steps before the clock starts, every round
COLUMNS = ("input_ids", "input_mask", "segment_ids", "label_ids")


PRODUCTS = {
  "products": speed_floor.compute_by_tensorflow,
  "torch_products": speed_floor.compute_by_torch,
}


def define_flags():
  # Here, because the Python of the other library need not have absl.
  from absl import flags

  flags.DEFINE_string("data", None, "Folder of the tasks.", required=True)
  flags.DEFINE_string("vocab", None, "Uncased.", required=True)
  flags.DEFINE_list("tasks", TASKS, "Which of them.")
  flags.DEFINE_list("modes", ["training", "inference"], "Which of them.")
  flags.DEFINE_string("model", "small", "small, base or a configuration.")
  flags.DEFINE_integer("rounds", 5, "Turns of each side.")
  flags.DEFINE_integer("steps", None, "A turn's steps; 10, of base 3.")
  flags.DEFINE_integer("batch", 32, "Examples a step.")
  flags.DEFINE_integer("length", 128, "Positions, S.")
  flags.DEFINE_integer("threads", 0, "0: one a core.")


def main(argv):
  del argv
  from absl import flags, logging

  logging.set_verbosity(logging.ERROR)
  options = flags.FLAGS
  if not (options.hf_python or options.forms):
    print("transformers is left out: --hf_python is not given")
  with tempfile.TemporaryDirectory() as folder:
    for task in options.tasks:
      job = prepare(options, task, folder)
      for mode in options.modes:
        one = {**job, "mode": mode}
        if options.forms:
          measure_forms(options, one)
        else:
          measure_sides(options, one)


# ---------------------------------------------------------------------------
# The work


def prepare(options, task, folder):
  """What a side needs to know of a task; writes records and batches."""
  from bert_classifier import files, machine
  from bert_classifier.catalogue import PROCESSORS
  from bert_classifier.feature_cache import FeatureCache
  from bert_classifier.tasks import TaskData
  import modeling
  import tokenization

  data_dir = os.path.join(options.data, task)
  processor = PROCESSORS[task.lower()]()
  cache = FeatureCache(
    TaskData(processor, data_dir),
    task.lower(),
    cache_dir=folder,
    max_seq_length=options.length,
    tokenizer_inputs={
      "vocabulary": files.hash_file(options.vocab),
      "do_lower_case": True,
    },
    tokenizer=tokenization.FullTokenizer(options.vocab),
  )
  model = MODELS.get(options.model)
  if model is None:
    model = json.loads(pathlib.Path(options.model).read_text())
  model = {"vocab_size": 30522, "type_vocab_size": 2, **model}
  config = modeling.BertConfig.from_dict(model)
  job = dict(
    task=task,
    model={size: getattr(config, size) for size in SIZES},
    labels=len(processor.get_labels()),
    batch=options.batch,
    length=options.length,
    threads=machine.count_threads(options.threads),
    steps=options.steps or (3 if options.model == "base" else 10),
  )
  for mode, split in (("training", "train"), ("inference", "dev")):
    features = cache.features(split)
    job[mode] = dict(records=features.path, rows=features.records)
    job[mode].update(write_batches({**job, "mode": mode}, folder))
  return job


def write_batches(job, folder):
  """Writes the batches of a turn for PyTorch; their sizes."""
  import numpy as np
  import tensorflow.compat.v1 as tf

  count, rows = WARM_UP + job["steps"], job[job["mode"]]["rows"]
  if rows < count * job["batch"] and job["mode"] == "inference":
    sys.exit(f"{job['task']} has {rows} rows, fewer than {count} batches")
  with tf.Graph().as_default(), tf.Session() as session:
    following = batches(job).make_one_shot_iterator().get_next()
    read = [session.run(following) for _ in range(count)]
  path = os.path.join(folder, f"{job['task']}_{job['mode']}.npz")
  np.savez(path, **{c: np.stack([b[c] for b in read]) for c in COLUMNS})
  lengths = np.stack([b["input_mask"].sum(1) for b in read[WARM_UP:]])
  return dict(
    path=path,
    tokens=[int(n) for n in lengths.sum(1)],
    longest=float(np.median(lengths.max(1))),
  )


def batches(job, make_ahead=None):
  """`tf.data.Dataset` of a turn's batches, the same in every one."""
  import run_classifier

  rows, training = job[job["mode"]], job["mode"] == "training"
  input_fn = run_classifier.file_based_input_fn_builder(
    rows["records"],
    job["length"],
    is_training=training,
    drop_remainder=training,
    seed=SEED,
    num_examples=rows["rows"],
    make_ahead=make_ahead,
  )
  return input_fn({"batch_size": job["batch"]})


def batches_in_memory(job):
  """The same, read and parsed beforehand."""
  import numpy as np
  import tensorflow.compat.v1 as tf

  from bert_classifier.batches import prefetch

  with np.load(job[job["mode"]]["path"]) as arrays:
    columns = {column: arrays[column] for column in COLUMNS}
  rows = tf.data.Dataset.from_tensor_slices(columns).repeat()
  return prefetch(rows)


# ---------------------------------------------------------------------------
# Sides


class Side:
  """A process that computes a turn's steps when it is told to."""

  def __init__(self, name, job, python, script=__file__):
    self._process = subprocess.Popen(
      [python, script, "--side", name],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    self._say(job)

  def turn(self):
    """What `repeated` gives, and the peak of memory so far in bytes."""
    self._say("turn")
    line = self._process.stdout.readline()
    if not line:
      sys.exit("a side ended before its time; its last words are above")
    return json.loads(line)

  def stop(self):
    self._process.stdin.close()
    self._process.wait()

  def _say(self, words):
    print(json.dumps(words), file=self._process.stdin, flush=True)


def take_turns(names, job, options):
  """What the rounds gave: a list for each side.

  Rounds go forward and back, each two from another side on, so that none has a
  place or a neighbour of its own.
  """
  one_live = options.model == "base"
  live, rounds = {}, {name: [] for name in names}
  for number in range(options.rounds):
    first = number // 2 % len(names)
    order = names[first:] + names[:first]
    for name in order[::-1] if number % 2 else order:
      if name not in live:
        torch = name in TORCH_SIDES
        python = options.hf_python if torch else sys.executable
        live[name] = Side(name, job, python)
      rounds[name].append(live[name].turn())
      if one_live:
        live.pop(name).stop()
  for side in live.values():
    side.stop()
  return rounds


def serve(name):
  """A side's process: answers every line but the first with a turn."""
  results = os.dup(1)  # what libraries print goes elsewhere
  os.dup2(2, 1)
  with os.fdopen(results, "w") as answers:
    job = json.loads(sys.stdin.readline())
    if name in PRODUCTS:
      turn = repeated(PRODUCTS[name](job), job)
    elif name == "transformers":
      turn = transformers_turn(job)
    else:
      turn = tensorflow_turn(job, name)
    for _ in sys.stdin:
      answer = json.dumps(dict(turn(), peak=peak_memory()))
      print(answer, file=answers, flush=True)


def repeated(compute, job, before=None):
  """A turn: `before`, then `compute` of each of the job's batches, by number.

  It returns seconds, seconds of processor time, and the seconds of each step.
  """

  def turn():
    if before:
      before()
    for index in range(WARM_UP):
      compute(index)
    each, used = [], time.process_time()
    for index in range(WARM_UP, WARM_UP + job["steps"]):
      began = time.perf_counter()
      compute(index)
      each.append(time.perf_counter() - began)
    processor = time.process_time() - used
    return dict(seconds=sum(each), processor=processor, each=each)

  return turn


def peak_memory():
  """The most bytes that this process has had resident."""
  status = pathlib.Path("/proc/self/status").read_text()
  return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def tensorflow_turn(job, name):
  """The function that computes a turn of `ours` or of what differs from it.

  That is `original`, a form to go without, or `memory`: rows from memory.
  """
  import tensorflow.compat.v1 as tf

  from bert_classifier import devices, machine, real_tokens
  from bert_classifier.options import DeviceOptions

  tf.disable_eager_execution()
  tf.get_logger().setLevel("ERROR")
  patches, parts = speed_forms.changes(name)
  with contextlib.ExitStack() as stack:
    for target, attribute, form in patches:
      stack.enter_context(mock.patch.object(target, attribute, form))
    machine.reuse_big_blocks()
    # As the script does; sides that compute all positions need no layout.
    lay_out = functools.partial(
      real_tokens.add_to, num_heads=job["model"]["num_attention_heads"]
    )
    rows = (
      batches_in_memory(job)
      if name == "memory"
      else batches(job, None if name in ("original", "padding") else lay_out)
    )
    iterator = tf.data.make_initializable_iterator(rows)
    fetch = step_of(job, iterator.get_next(), **parts)
  session = tf.Session(
    config=devices.session_config(DeviceOptions(num_threads=job["threads"]))
  )
  session.run(tf.global_variables_initializer())
  tf.get_default_graph().finalize()

  return repeated(
    lambda index: session.run(fetch),
    job,
    before=lambda: session.run(iterator.initializer),
  )


def step_of(job, features, forms, optimizer_class):
  """Returns what a step of training or inference fetches."""
  import tensorflow.compat.v1 as tf

  import modeling
  import run_classifier

  model_fn = run_classifier.model_fn_builder(
    modeling.BertConfig(**job["model"]),
    job["labels"],
    None,
    5e-5,
    10_000,
    1_000,
    False,
    False,
    forms=forms,
    optimizer_class=optimizer_class,
  )
  keys = tf.estimator.ModeKeys
  training = job["mode"] == "training"
  mode = keys.TRAIN if training else keys.PREDICT
  spec = model_fn(features, None, mode, {}, tf.estimator.RunConfig())
  return spec.train_op if training else spec.predictions["probabilities"]


def transformers_turn(job):
  """The function that computes a turn of `transformers`."""
  import numpy as np
  import torch
  import transformers

  torch.set_num_threads(job["threads"])
  config = transformers.BertConfig(
    **job["model"],
    hidden_act="gelu_pytorch_tanh",
    num_labels=job["labels"],
    attn_implementation="sdpa",
  )
  model = transformers.BertForSequenceClassification(config)
  training = job["mode"] == "training"
  model.train(training)
  optimizer = torch.optim.AdamW(
    decay_groups(model), lr=5e-5, eps=1e-6, fused=True
  )
  with np.load(job[job["mode"]]["path"]) as arrays:
    rows = {column: arrays[column] for column in COLUMNS}

  def step(index):
    longest = rows["input_mask"][index].sum(-1).max()
    ids, mask, segments = (
      torch.from_numpy(rows[column][index, :, :longest].astype(np.int64))
      for column in COLUMNS[:3]
    )
    if not training:
      with torch.inference_mode():
        return model(ids, mask, segments).logits.softmax(-1).numpy()
    labels = torch.from_numpy(rows["label_ids"][index].astype(np.int64))
    optimizer.zero_grad(set_to_none=True)
    model(ids, mask, segments, labels=labels).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return None

  return repeated(step, job)


def decay_groups(model):
  """Parameters with and without weight decay."""
  named = list(model.named_parameters())

  def chosen(decays):
    return [
      parameter
      for name, parameter in named
      if bool(re.search("LayerNorm|bias", name)) != decays
    ]

  return [
    {"params": chosen(True), "weight_decay": 0.01},
    {"params": chosen(False), "weight_decay": 0.0},
  ]


# ---------------------------------------------------------------------------
# What is measured


def measure_sides(options, job):
  """Runs the rounds of a task in a mode, and prints what they gave."""
  names = ["ours", "original", "products"]
  if options.hf_python:
    names.extend(TORCH_SIDES)
  rounds = take_turns(names, job, options)
  sizes, tokens = job[job["mode"]], speed_floor.mean_tokens(job)
  print(
    f"{options.model} {job['task']} {job['mode']}: {tokens} real"
    f" tokens a batch of {job['batch']}, the longest {sizes['longest']:.0f}"
  )
  examples = job["batch"] * job["steps"]
  for side in ("ours", "original", "transformers"):
    if side in rounds:
      print(
        f"  {side}: {spread(examples / t['seconds'] for t in rounds[side])}"
        f" examples/s, peak {rounds[side][-1]['peak'] / 2**20:.0f} MiB"
      )
  for other in ("original", "transformers"):
    if other in rounds:
      print(f"  ours against {other}: {against(rounds, 'ours', other)}")
  report_floor(job, rounds, "products", ("ours", "original"))
  if options.hf_python:
    report_floor(job, rounds, "torch_products", ("transformers",))
  sys.stdout.flush()


def report_floor(job, rounds, products, sides):
  """Prints the rate of the products, and the sides' share of the floor."""
  sizes = job[job["mode"]]["tokens"]
  whole, needed = (
    sum(speed_floor.operations(job, tokens, last) for tokens in sizes)
    for last in ("whole", "needed")
  )
  measured = (
    speed_floor.operations(job, speed_floor.mean_tokens(job)) * job["steps"]
  )
  rates = [measured / turn["seconds"] for turn in rounds[products]]
  print(f"  {products}: {spread(rate / 1e9 for rate in rates)} GFLOP/s")
  for side in sides:
    shares = [
      spread(
        100 * work / rate / turn["seconds"]
        for rate, turn in zip(rates, rounds[side])
      )
      for work in (whole, needed)
    ]
    print(f"  {side}: % of the floor, whole {shares[0]}, needed {shares[1]}")


def against(rounds, side, other):
  """How many times as fast a side is, by both clocks."""
  ratios = {
    clock: spread(
      (theirs[clock] / own[clock])
      for own, theirs in zip(rounds[side], rounds[other])
    )
    for clock in ("seconds", "processor")
  }
  return f"{ratios['seconds']}, cpu {ratios['processor']}"


def spread(values):
  """Median and range."""
  values = sorted(values)
  middle, *ends = (
    f"{value:.3g}" if value < 1000 else f"{value:.0f}"
    for value in (statistics.median(values), values[0], values[-1])
  )
  return f"{middle} ({ends[0]} to {ends[1]})"


def measure_forms(options, job):
  """Prints for each form the ratio of the step without it to the step.

  Of single steps, each against the same batch's in the same round: many small
  ratios, whose quartiles the machine's other work moves little.
  """
  for form in options.off or speed_forms.FORMS:
    rounds = take_turns(["ours", form], job, options)
    ratios = [
      without / step
      for own, other in zip(rounds["ours"], rounds[form])
      for step, without in zip(own["each"], other["each"])
    ]
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(
      f"{options.model} {job['task']} {job['mode']} without {form}:"
      f" {middle:.3f} times the step (quartiles {low:.3f} to {high:.3f},"
      f" {len(ratios)} steps)",
      flush=True,
    )


if __name__ == "__main__":
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  side = sys.argv[2] if sys.argv[1:2] == ["--side"] else None
  sys.path.insert(0, str(ROOT))
  if side:
    serve(side)
  else:
    from absl import app, flags

    define_flags()
    flags.DEFINE_string("hf_python", None, "A Python with transformers.")
    flags.DEFINE_bool("forms", False, "One optimization off at a time.")
    flags.DEFINE_list("off", None, "Of --forms, which; all where not given.")
    app.run(main)
