"""The small world that mutations.py damages: models, data, trained folders.

A world is a folder; every command runs in it and names its files relatively:

  bert/          a model as released in 2018, without a head
  hugging_face/  a trained MRPC classifier in Hugging Face's form
  other/         another model of the same sizes, in both forms
  data/          cola/, mrpc/ and own/, the latter for own_task.py
  mrpc.flags     a flagfile
  cola_out/, own_out/   trained by the program itself
  cache/         the features of all these sets

All is a function of the code and of `SEED`.
"""

import json
from pathlib import Path
import random
from typing import NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf

from bert_classifier import variables

SEED = 13
ROOT = Path(__file__).resolve().parent.parent
SIZES = dict(
  vocab_size=0,  # filled in
  hidden_size=16,
  num_hidden_layers=1,
  num_attention_heads=2,
  intermediate_size=32,
  hidden_act="gelu",
  hidden_dropout_prob=0.1,
  attention_probs_dropout_prob=0.1,
  max_position_embeddings=32,
  type_vocab_size=2,
  initializer_range=0.02,
)
_TEXT = (
  "the a no some every this dog cat bird horse king queen tree house river see"
  " sees saw love loves loved find finds found old young red small quick big"
  " not and or very often never here there now then with under over caf\u00e9"
  " \u96e8 \u5929 was is are runs sleeps ##s ##ed ##ing ##er un ##happy ' , . ?"
  ' ! " - ( ) 1 2 3'
)
_WORDS = _TEXT.split()
LETTERS = "abcdefghijklmnopqrstuvwxyz"

OWN_TASK = '''"""A task of its own, as README.md describes it."""

from absl import app
from run_classifier import PROCESSORS, DataProcessor, Table, main, parse_flags

COLUMNS = dict(header=True, text_a="premise", text_b="hypothesis")


class Own(DataProcessor):
  labels = ("no", "maybe", "yes")
  tables = {
    "train": Table("train.tsv", label="answer", **COLUMNS),
    "dev": Table("dev.tsv", label="answer", **COLUMNS),
    "test": Table("test.tsv", row_id="id", gold="answer", **COLUMNS),
  }


PROCESSORS["own"] = Own
app.run(main, flags_parser=parse_flags)
'''


class Scenario(NamedTuple):
  """A command, and the files it reads.

  Attributes:
    program: "run_classifier.py" or "own_task.py".
    arguments: list of words.
    files: dictionary from kind to patterns of files below the world.
  """

  program: str
  arguments: list
  files: dict


_SHORT = [
  "--cache_dir=cache",
  "--max_seq_length=16",
  "--train_batch_size=8",
  "--learning_rate=1e-3",
  "--num_threads=1",
]
_COLA = ["--task_name=cola", "--data_dir=data/cola", *_SHORT]
_OWN = ["--task_name=own", "--data_dir=data/own", *_SHORT]
_EVAL, _PREDICT = ["--do_eval"], ["--do_predict"]
_TRAIN = ["--do_train", "--num_train_epochs=2"]

_BERT = {
  "vocabulary": ["bert/vocab.txt"],
  "configuration": ["bert/bert_config.json"],
  "checkpoint": ["bert/bert_model.ckpt.*"],
}
_HUGGING_FACE = {
  "vocabulary": ["hugging_face/vocab.txt"],
  "configuration": [
    "hugging_face/config.json",
    "hugging_face/tokenizer_config.json",
  ],
  "safetensors": ["hugging_face/model.safetensors"],
}


def _trained(folder):
  return {
    "vocabulary": [f"{folder}/vocab.txt"],
    "configuration": [f"{folder}/bert_config.json"],
    "checkpoint": [f"{folder}/model.ckpt-*", f"{folder}/checkpoint"],
    "manifest": [f"{folder}/run_manifest.json"],
  }


def _sets(task, *splits):
  return {
    "data": [f"data/{task}/{split}.tsv" for split in splits],
    "cache": [f"cache/cached_{split}_*_{task}_*" for split in splits],
  }


def _command(task, *arguments):
  return [*task, *(word for part in arguments for word in part)]


SCENARIOS = {
  # The two that make the trained folders.
  "cola": Scenario(
    "run_classifier.py",
    _command(
      _COLA, ["--init_checkpoint=bert", "--output_dir=cola_out"], _TRAIN
    ),
    {**_BERT, **_sets("cola", "train")},
  ),
  "own": Scenario(
    "own_task.py",
    _command(_OWN, ["--init_checkpoint=bert", "--output_dir=own_out"], _TRAIN),
    {**_BERT, **_sets("own", "train")},
  ),
  "scratch": Scenario(
    "run_classifier.py",
    _command(
      _COLA,
      ["--bert_config_file=bert/bert_config.json"],
      ["--vocab_file=bert/vocab.txt", "--output_dir=out"],
      _TRAIN,
    ),
    {k: _BERT[k] for k in ("vocabulary", "configuration")},
  ),
  "eval": Scenario(
    "run_classifier.py",
    _command(_COLA, ["--output_dir=cola_out"], _EVAL),
    {**_trained("cola_out"), **_sets("cola", "dev")},
  ),
  "predict": Scenario(
    "run_classifier.py",
    _command(_COLA, ["--output_dir=cola_out"], _PREDICT),
    {**_trained("cola_out"), **_sets("cola", "test")},
  ),
  "resume": Scenario(
    "run_classifier.py",
    _command(
      _COLA,
      ["--init_checkpoint=bert", "--output_dir=cola_out"],
      ["--do_train", "--num_train_epochs=3"],
    ),
    {
      **_sets("cola", "train"),
      **{
        kind: _BERT.get(kind, []) + patterns
        for kind, patterns in _trained("cola_out").items()
      },
    },
  ),
  "mrpc": Scenario(
    "run_classifier.py",
    ["--flagfile=mrpc.flags"],
    {**_HUGGING_FACE, **_sets("mrpc", "train"), "flagfile": ["mrpc.flags"]},
  ),
  "hugging_face": Scenario(
    "run_classifier.py",
    [
      *["--flagfile=mrpc.flags", "--nodo_train", "--nodo_eval"],
      "--init_checkpoint=hugging_face/model.safetensors",
    ],
    {**_HUGGING_FACE, **_sets("mrpc", "test"), "flagfile": ["mrpc.flags"]},
  ),
  "hugging_face_eval": Scenario(
    "run_classifier.py",
    ["--flagfile=mrpc.flags", "--nodo_train", "--nodo_predict"],
    {**_HUGGING_FACE, **_sets("mrpc", "dev"), "flagfile": ["mrpc.flags"]},
  ),
  "own_predict": Scenario(
    "own_task.py",
    _command(_OWN, ["--output_dir=own_out"], _PREDICT),
    {**_trained("own_out"), **_sets("own", "test")},
  ),
  "own_eval": Scenario(
    "own_task.py",
    _command(_OWN, ["--output_dir=own_out"], _EVAL),
    {"data": ["data/own/dev.tsv"], "cache": ["cache/cached_dev_*_own_*"]},
  ),
  "from_trained": Scenario(
    "run_classifier.py",
    _command(
      _COLA,
      ["--init_checkpoint=cola_out", "--output_dir=out"],
      _PREDICT,
    ),
    {**_trained("cola_out"), **_sets("cola", "test")},
  ),
}
# Those that make the trained folders, and the features of all sets.
FIRST = ("cola", "own", "eval", "predict", "own_eval", "own_predict", "mrpc")

MRPC_FLAGS = """# MRPC from Hugging Face weights
--task_name=mrpc
--data_dir=data/mrpc
--cache_dir=cache
--init_checkpoint=hugging_face
--output_dir=out

--do_train
--do_eval
--do_predict
--max_seq_length=24
--train_batch_size=8
--num_train_epochs=2
--learning_rate=1e-3
--warmup_proportion=0.2
--eval_batch_size=4
--num_threads=1
--seed=7
"""


def build(world):
  """Writes the world's files, without what the program itself makes of them.

  Args:
    world: `Path` of a folder that is made.
  """
  rng = random.Random(SEED)
  world.mkdir(parents=True)
  tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS]
  tokens += [f"##{letter}" for letter in LETTERS] + _WORDS
  config = {**SIZES, "vocab_size": len(tokens)}
  bert = draw_weights(config, seed=1)
  for name in ("output_weights", "output_bias"):
    del bert[name]
  write_released(world / "bert", tokens, config, bert)
  write_hugging_face(
    world / "hugging_face", tokens, config, draw_weights(config, seed=2)
  )
  others = tokens[:5] + rng.sample(tokens[5:], len(tokens) - 5)
  config = {**config, "num_attention_heads": 4, "hidden_act": "relu"}
  weights = draw_weights(config, seed=3)
  write_released(world / "other", others, config, weights)
  write_hugging_face(world / "other", others, config, weights)
  write_data(world / "data", rng)
  (world / "mrpc.flags").write_text(MRPC_FLAGS)
  (world / "own_task.py").write_text(OWN_TASK)


def draw_weights(config, seed):
  """Returns {name: <float32>[...]}, large enough to make predictions differ."""
  axes = dict(
    V="vocab_size",
    P="max_position_embeddings",
    Y="type_vocab_size",
    H="hidden_size",
    F="intermediate_size",
  )
  sizes = {axis: config[key] for axis, key in axes.items()}
  sizes["L"] = 2
  draw = np.random.RandomState(seed).normal
  weights = {}
  for variable in variables.list_variables(config["num_hidden_layers"]):
    value = draw(0, 0.3, [sizes[axis] for axis in variable.axes])
    value += variable.name.endswith("gamma")
    weights[variable.name] = value.astype(np.float32)
  return weights


def write_released(folder, tokens, config, weights):
  """Writes a model in the form of 2018."""
  folder.mkdir(exist_ok=True)
  (folder / "vocab.txt").write_text("".join(f"{t}\n" for t in tokens))
  (folder / "bert_config.json").write_text(json.dumps(config, indent=2))
  write_checkpoint(folder / "bert_model.ckpt", weights)


def write_checkpoint(prefix, values):
  """Writes {name: array} as a checkpoint of TensorFlow."""
  with tf.Graph().as_default(), tf.Session() as session:
    session.run(
      tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=[tf.constant(value) for value in values.values()],
      )
    )


def write_hugging_face(folder, tokens, config, weights):
  """Writes a trained MRPC classifier in Hugging Face's form."""
  from safetensors.numpy import save_file

  folder.mkdir(exist_ok=True)
  (folder / "vocab.txt").write_text("".join(f"{t}\n" for t in tokens))
  theirs = {
    variable.hugging_face: np.ascontiguousarray(
      weights[variable.name].T
      if variable.is_transposed
      else weights[variable.name]
    )
    for variable in variables.list_variables(config["num_hidden_layers"])
  }
  save_file(theirs, str(folder / "model.safetensors"))
  values = {
    **config,
    "architectures": ["BertForSequenceClassification"],
    "model_type": "bert",
    "layer_norm_eps": 1e-12,
    "id2label": {"0": "0", "1": "1"},
    "label2id": {"0": 0, "1": 1},
  }
  (folder / "config.json").write_text(json.dumps(values, indent=2))
  settings = {"do_lower_case": True, "tokenize_chinese_chars": True}
  (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_data(folder, rng):
  """Writes the sets of the three tasks."""

  def text():
    words = rng.choices(_WORDS[:52], k=rng.randint(2, 14))
    return " ".join(words).replace(" ##", "") + rng.choice([" .", " ?", ""])

  def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(row) + "\n" for row in rows))

  for split, number in (("train", 24), ("dev", 14), ("test", 11)):
    labels = [str(i % 2) for i in range(number)]
    rng.shuffle(labels)
    cola = [["src", label, "*" * (label == "0"), text()] for label in labels]
    mrpc = [["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"]]
    for i, label in enumerate(labels):
      second = f'"{text()}' if i % 5 == 0 else text()
      mrpc.append([label, str(100 + i), str(200 + i), text(), second])
    own = [["id", "premise", "hypothesis", "answer"]]
    for i in range(number):
      own.append([f"q{i}", text(), text(), ("no", "maybe", "yes")[i % 3]])
    if split == "test":
      cola = [["index", "sentence"]]
      cola += [[str(i), text()] for i in range(number)]
      mrpc = [
        [name.replace("Quality", "index"), *rest] for name, *rest in mrpc[:1]
      ] + [[str(i), *row[1:]] for i, row in enumerate(mrpc[1:])]
    for task, rows in (("cola", cola), ("mrpc", mrpc), ("own", own)):
      write(folder / task / f"{split}.tsv", rows)
