"""Fixtures, processes and readers that several test files use."""

import contextlib
import io
import json
import logging
import os
from pathlib import Path
import re
import runpy
import shutil
import subprocess
import sys
import textwrap
from typing import NamedTuple

# Before the first import of TensorFlow: its start-up banners are no warnings.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# TensorFlow reads it once a process: sessions that ask for XLA get it on a CPU.
os.environ.setdefault("TF_XLA_FLAGS", "--tf_xla_cpu_global_jit")

from absl import logging as absl_logging
from absl.testing import flagsaver
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tensorflow.python.client import session
from tensorflow.python.tpu import tpu_system_metadata

from bert_classifier import (
  feature_cache,
  history,
  options,
  own_data,
  task_choice,
)
from bert_classifier.catalogue import MrpcProcessor
from bert_classifier.tasks import TaskData
import modeling
import tokenization

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"  # measured on the 2018 scripts
# Named one by one: a user's own my_task.py may lie beside them.
SCRIPTS = [
  "run_classifier",
  "modeling",
  "optimization",
  "tokenization",
  "estimator_bridge",
]


@pytest.fixture(scope="session")
def golden():
  """Arrays measured on the 2018 model: inputs, outputs, training."""
  with np.load(GOLDEN / "model.npz") as arrays:
    return dict(arrays)


@pytest.fixture(scope="session")
def golden_checkpoint():
  """Returns the prefix of the checkpoint that the arrays were measured with."""
  return str(GOLDEN / "checkpoint" / "bert_model.ckpt")


@pytest.fixture(scope="session")
def golden_config():
  """Returns the path of the configuration that belongs to it."""
  return str(GOLDEN / "checkpoint" / "bert_config.json")


@pytest.fixture
def graph():
  """Yields a graph of its own for one test."""
  with tf.Graph().as_default() as graph:
    yield graph


# Grappler, which rewrites a graph before it runs, takes longer than a graph
# that runs a few times only.
AS_BUILT = tf.ConfigProto()
AS_BUILT.graph_options.rewrite_options.disable_meta_optimizer = True


@pytest.fixture
def run(graph):
  """Runs fetches, a new session each time, variables initialized."""

  def run(fetches, feed_dict=None):
    with tf.Session(graph=graph, config=AS_BUILT) as session:
      session.run(tf.global_variables_initializer())
      session.run(tf.local_variables_initializer())
      return session.run(fetches, feed_dict)

  return run


# ---------------------------------------------------------------------------
# Processes of their own: three seconds for TensorFlow's import alone


def run_python(*arguments, folder=ROOT, **environment):
  """Runs Python as a user's shell does; returns the CompletedProcess.

  No variable of TensorFlow's is set but those of `environment`.
  """
  others = {n: v for n, v in os.environ.items() if not n.startswith("TF_")}
  return subprocess.run(
    [sys.executable, *map(str, arguments)],
    cwd=folder,
    env={**others, "PYTHONPATH": str(ROOT), **environment},
    capture_output=True,
    text=True,
    timeout=900,
  )


def run_code(code, *arguments, check=True):
  """Runs code in a process of its own, in which TensorFlow warns only."""
  code = textwrap.dedent(code)
  done = run_python("-c", code, *arguments, TF_CPP_MIN_LOG_LEVEL="1")
  if check:
    done.check_returncode()
  return done


def run_script(*flags):
  """Runs run_classifier.py, by default without a report.

  Returns the CompletedProcess.
  """
  return run_python("run_classifier.py", "--eval_report=false", *flags)


NOISY = tf.__version__.startswith(("2.16.", "2.18."))  # docs/versions.md
LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d [\d:,]{12} \[[A-Z ]{5}\] ")


def foreign_lines(process):
  """Returns what it printed that is no line of this project's log.

  Nothing of TensorFlow 2.16 and 2.18, which cannot be kept silent.
  """
  lines = process.stdout.splitlines() + process.stderr.splitlines()
  return [line for line in lines if not (NOISY or LOG_LINE.match(line))]


def blocks(page, language):
  """Returns the code blocks of a language, in order."""
  return re.findall(rf"^```{language}\n(.*?)^```$", page, re.M | re.S)


def read_client(name):
  """Returns the client that docs/serving.md prints under a name."""
  page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
  return re.search(rf"<!-- {name} -->\n```python\n(.*?)```", page, re.S)[1]


def read_results(path):
  """Returns {key: number} of a file of `key = value` lines."""
  lines = Path(path).read_text().splitlines()
  return {k: float(v) for k, v in (line.split(" = ") for line in lines)}


def read_table(path):
  """Returns the cells of each line of a file of columns."""
  with open(path, encoding="utf-8") as file:
    return [line.rstrip("\n").split("\t") for line in file]


# ---------------------------------------------------------------------------
# The script itself, run in this process


@pytest.fixture(scope="session")
def golden_task():
  """Returns the folder of the small task that the 2018 script was run on."""
  return str(GOLDEN / "end_to_end")


class Outcome(NamedTuple):
  """Exit status and log of a run of the script."""

  status: int
  log: str


@pytest.fixture(scope="session")
def classify(golden_task, tmp_path_factory):
  """Runs `run_classifier.main` by flags, over those of the golden task."""
  import run_classifier

  defaults = dict(
    task_name="mrpc",
    data_dir=f"{golden_task}/data",
    cache_dir=tmp_path_factory.mktemp("cache"),
    vocab_file=f"{golden_task}/vocab.txt",
    init_checkpoint=f"{golden_task}/checkpoint",
    max_seq_length=24,
    num_threads=1,
    eval_report=False,  # its tests switch it on
  )

  def classify(*arguments, **flags):
    flags = {**defaults, **flags}
    given = [f"--{n}={v}" for n, v in flags.items() if v is not None]
    log, status = io.StringIO(), 0
    handler = logging.StreamHandler(log)
    logging.getLogger().addHandler(handler)
    verbosity = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.INFO)
    try:
      with flagsaver.flagsaver():
        run_classifier.main(run_classifier.FLAGS(["run", *given, *arguments]))
    except SystemExit as exit_:
      status = exit_.code
    finally:
      absl_logging.set_verbosity(verbosity)
      logging.getLogger().removeHandler(handler)
    return Outcome(status, log.getvalue())

  classify.defaults = defaults
  return classify


# Flags of `classify` that a trained folder needs not.
ALONE = dict.fromkeys(
  ["task_name", "data_dir", "cache_dir", "vocab_file", "init_checkpoint"]
)
ALONE["max_seq_length"] = None


@pytest.fixture(scope="session")
def small_model(golden_task, tmp_path_factory):
  """Flags of the golden task's model, cut to one layer, with dropout.

  TensorFlow prepares its graphs in half the time.
  """
  folder = tmp_path_factory.mktemp("small_model")
  golden = Path(golden_task, "checkpoint")
  config = json.loads((golden / "bert_config.json").read_text())
  config["num_hidden_layers"] = 1
  config["hidden_dropout_prob"] = config["attention_probs_dropout_prob"] = 0.1
  (folder / "bert_config.json").write_text(json.dumps(config))
  kept = {
    name: value
    for name, value in read_checkpoint(golden / "bert_model.ckpt").items()
    if not re.search("layer_[12]/", name)
  }
  write_checkpoint(folder / "bert_model.ckpt", kept)
  return dict(
    bert_config_file=folder / "bert_config.json", init_checkpoint=folder
  )


@pytest.fixture(scope="session")
def training(small_model):
  """Returns the flags of a short training of the golden task: 13 steps."""
  return dict(
    do_train=True,
    train_batch_size=8,
    learning_rate=1e-3,
    save_checkpoints_steps=4,
    log_steps=1,
    **small_model,
  )


@pytest.fixture(scope="module")
def trained(classify, training, tmp_path_factory):
  """The folder of a training that has predicted its test set."""
  folder = tmp_path_factory.mktemp("trained")
  flags = dict(training, output_dir=folder, num_train_epochs=1)
  assert classify("--do_predict", **flags).status == 0
  return folder


@pytest.fixture(scope="module")
def records(trained, classify, tmp_path_factory):
  """The serialized examples of the test set of `trained`."""
  cache = tmp_path_factory.mktemp("records")  # others hold features of others
  flags = {**ALONE, "cache_dir": cache}
  assert classify("--do_predict", output_dir=trained, **flags).status == 0
  (path,) = cache.glob("cached_test_24_mrpc_*.tf_record")
  return list(tf.python_io.tf_record_iterator(str(path)))


def read_features(records):
  """Returns {name: list of lists} of serialized examples."""
  parsed = [tf.train.Example.FromString(r).features.feature for r in records]
  names = ("input_ids", "input_mask", "segment_ids")
  return {n: [list(p[n].int64_list.value) for p in parsed] for n in names}


@pytest.fixture
def hold_client(classify, training, tmp_path, capsys, monkeypatch):
  """Returns a function that holds a client of docs/serving.md against us.

  It trains on texts, exports, and compares the answers of the client, run as
  it is printed, with those of --predict_file. It returns the client.
  """

  def hold(name, texts, folder, *more, **export):
    rows = [f"{text}\t{label}" for text, label in zip(texts * 4, "ab" * 6)]
    (tmp_path / "train.tsv").write_text("\n".join(["text\tlabel", *rows]))
    flags = dict(training, data_dir=tmp_path, output_dir=tmp_path / "output")
    flags.update(task_name="tsv", num_train_epochs=1)
    asked = tmp_path / "texts"
    asked.write_text("\n".join(texts), encoding="utf-8")
    client = read_client(name)
    (tmp_path / "client.py").write_text(client)
    outcome = classify(*more, predict_file=asked, **flags, **export)
    assert outcome.status == 0, outcome.log
    expected = map(json.loads, capsys.readouterr().out.splitlines())
    (exported,) = tmp_path.glob(folder)
    monkeypatch.setattr(sys, "argv", ["client.py", str(exported), *texts])
    runpy.run_path(str(tmp_path / "client.py"))
    assert capsys.readouterr().out.splitlines() == [
      f"{one['text']}\t{one['label']}\t{one['probability']:.4f}"
      for one in expected
    ]
    monkeypatch.setattr(sys, "argv", ["client.py", str(exported)])
    with contextlib.suppress(SystemExit):
      runpy.run_path(str(tmp_path / "client.py"))
    assert not capsys.readouterr().out  # no text, no answer
    return client

  return hold


def read_checkpoint(path):
  """Returns {name: array} of a prefix or an output_dir, slots included."""
  reader = tf.train.load_checkpoint(str(path))
  return {n: reader.get_tensor(n) for n in reader.get_variable_to_shape_map()}


def write_checkpoint(prefix, variables):
  """Writes {name: array} as a checkpoint of TensorFlow."""
  with tf.Graph().as_default(), tf.Session() as running:
    save = tf.raw_ops.SaveV2(
      prefix=str(prefix),
      tensor_names=list(variables),
      shape_and_slices=[""] * len(variables),
      tensors=[tf.constant(value) for value in variables.values()],
    )
    running.run(save)


def lengthen(model, folder, positions):
  """Writes the small model with more positions."""
  config = json.loads(model["bert_config_file"].read_text())
  config["max_position_embeddings"] = positions
  (folder / "bert_config.json").write_text(json.dumps(config))
  variables = read_checkpoint(model["init_checkpoint"] / "bert_model.ckpt")
  name = "bert/embeddings/position_embeddings"
  width = variables[name].shape[1]
  variables[name] = np.resize(variables[name], (positions, width))
  write_checkpoint(folder / "bert_model.ckpt", variables)


def write_hugging_face(
  golden_task, folder, *, source=None, rows=(0, 1), **config
):
  """Writes a model as a Hugging Face folder, which is returned.

  Args:
    source: folder of its TensorFlow form; None for the golden task's.
    rows: of its head, in the order in which they are written.
    config: what is written into the configuration beside the sizes.
  """
  from safetensors.numpy import save_file

  from bert_classifier.variables import list_variables

  source = source or Path(golden_task, "checkpoint")
  variables = read_checkpoint(source / "bert_model.ckpt")
  for name in ("output_weights", "output_bias"):
    variables[name] = variables[name][list(rows)]
  values = json.loads((source / "bert_config.json").read_text())
  weights = {}
  for variable in list_variables(values["num_hidden_layers"]):
    value = variables[variable.name]
    value = value.T if variable.is_transposed else value
    weights[variable.hugging_face] = np.ascontiguousarray(value)
  folder.mkdir()
  save_file(weights, str(folder / "model.safetensors"))
  values.update({"model_type": "bert", "hidden_act": "gelu_new", **config})
  (folder / "config.json").write_text(json.dumps(values))
  shutil.copy(Path(golden_task, "vocab.txt"), folder / "vocab.txt")
  return folder


def form_config(vocab_size):
  """Returns the `BertConfig` of the model that forms are compared on."""
  return modeling.BertConfig(
    vocab_size,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=32,
    max_position_embeddings=16,
    type_vocab_size=2,
    initializer_range=0.2,
  )


def small_config(**changes):
  """Returns the `BertConfig` of a model of one small layer, with changes."""
  sizes = dict(
    vocab_size=9,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=8,
    max_position_embeddings=6,
    type_vocab_size=2,
  )
  return modeling.BertConfig(**{**sizes, **changes})


def simulate_tpu(monkeypatch, cores):
  """Lets TensorFlow see a TPU with so many cores in this machine."""
  devices = tuple(
    session._DeviceAttributes(f"/device:TPU:{core}", "TPU", 0, 0)
    for core in range(cores)
  )
  system = tpu_system_metadata.TPUSystemMetadata(cores, 1, cores, None, devices)
  monkeypatch.setattr(
    tpu_system_metadata, "_query_tpu_system_metadata", lambda *_, **__: system
  )


def list_lines(folder):
  """Returns the lines of a history, without times."""
  times = "time", "examples_per_second"
  return [
    {name: value for name, value in entry.items() if name not in times}
    for entry in history.read(str(folder / "history.jsonl"))
  ]


def list_names(folder):
  """Returns the names of a folder's files, those of TensorBoard left out."""
  return sorted(
    path.relative_to(folder).as_posix()
    for path in folder.rglob("*")
    if path.is_file() and "tfevents" not in path.name
  )


def assert_equal_variables(found, expected):
  found, expected = read_checkpoint(found), read_checkpoint(expected)
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_array_equal(found[name], value, err_msg=name)


# ---------------------------------------------------------------------------
# Tasks, features and their cache


def write_rows(path, *rows, end="\n", start=b""):
  """Writes rows, each a list of cells or a string; returns the folder."""
  lines = (row if isinstance(row, str) else "\t".join(row) for row in rows)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(start + "".join(line + end for line in lines).encode())
  return str(path.parent)


def read_examples(processor, folder, split="train"):
  """Returns the list of a split's examples."""
  return list(TaskData(processor, str(folder)).examples(split))


def prepare_own_data(trained=None, **flags):
  """Returns the `Task` of own data that flags make."""
  asked = options.make_options(**{"output_dir": "out", **flags})
  trained = trained or {}
  own = own_data.make_processor(asked, trained)
  return task_choice.prepare_task(
    asked.data,
    8,
    asked.given,
    inference=asked.inference,
    trained=trained.get("model"),
    own=own,
  )


def write_text(path, text):
  """Writes a file; returns its path as str."""
  path.parent.mkdir(exist_ok=True)
  path.write_text(text, encoding="utf-8")
  return str(path)


def list_texts(task, split="train"):
  """Returns (text_a, text_b, label) of each example of a `Task`."""
  return [(e.text_a, e.text_b, e.label) for e in task.data.examples(split)]


def read_records(path):
  """Returns what a TFRecord file holds, a dictionary of lists an example."""
  parsed = []
  for record in tf.python_io.tf_record_iterator(path):
    by_name = tf.train.Example.FromString(record).features.feature
    parsed.append(
      {
        name: list(getattr(value, value.WhichOneof("kind")).value)
        for name, value in by_name.items()
      }
    )
  return parsed


def cut_as_squad(number, room, stride):
  """Returns (start, length) of each span, as run_squad.py's loop has them."""
  spans, start = [], 0
  while start < number:
    length = min(number - start, room)
    spans.append((start, length))
    if start + length == number:
      break
    start += min(length, stride)
  return spans


@pytest.fixture
def info(caplog):
  """Returns the log of a test, information included."""
  caplog.set_level(logging.INFO, "absl")
  return caplog


@pytest.fixture
def tokenizer(golden_task):
  return tokenization.FullTokenizer(f"{golden_task}/vocab.txt")


@pytest.fixture
def cache(golden_task, tokenizer, tmp_path):
  """Makes the cache of the golden task, with what a test has different."""

  def cache(
    processor=None,
    length=24,
    tokenizer=tokenizer,
    processes=1,
    stride=0,
    task="mrpc",
    folder=f"{golden_task}/data",
    cache_dir=tmp_path,
    **inputs,
  ):
    return feature_cache.FeatureCache(
      TaskData(processor or MrpcProcessor(), str(folder)),
      task,
      cache_dir=str(cache_dir),
      max_seq_length=length,
      tokenizer_inputs={"vocabulary": "v", "do_lower_case": True, **inputs},
      tokenizer=tokenizer,
      num_processes=processes,
      stride=stride,
    )

  return cache
