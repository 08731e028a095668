"""export.py: --do_export, and what others make of it."""

import json
from pathlib import Path

from conftest import read_table, run_python
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

# Flags of `classify` that a trained folder needs not.
ALONE = dict.fromkeys(
  ["task_name", "data_dir", "cache_dir", "vocab_file", "init_checkpoint"]
)
ALONE["max_seq_length"] = None

# Answers requests, [signature, {input: values}], by TensorFlow alone: by its
# second version, and in a session of its first.
READER = """
import json, sys
import numpy as np
import tensorflow as tf

def tensor(values):
  if values and isinstance(values[0], str):
    return np.array([value.encode("latin-1") for value in values], object)
  return np.array(values, np.int32)

folder, asked, answered = sys.argv[1:]
requests = json.load(open(asked))
model = tf.saved_model.load(folder)
newer = [
  model.signatures[name](
    **{key: tf.constant(tensor(values)) if values
       else tf.constant([], model.signatures[name].structured_input_signature
                        [1][key].dtype, [0, 4][: 1 + (name[0] == "s")])
       for key, values in inputs.items()})
  for name, inputs in requests]
newer = [{key: value.numpy().tolist() for key, value in one.items()}
         for one in newer]
older = []
with tf.Graph().as_default(), tf.compat.v1.Session() as session:
  signatures = tf.compat.v1.saved_model.load(
    session, ["serve"], folder).signature_def
  for name, inputs in requests:
    feed = {signatures[name].inputs[key].name: tensor(values) if values
            else np.zeros([0, 4][: 1 + (name[0] == "s")], "O")
            for key, values in inputs.items()}
    fetch = {key: value.name for key, value in signatures[name].outputs.items()}
    older.append({key: value.tolist()
                  for key, value in session.run(fetch, feed).items()})
ours = [n for n in sys.modules if n.startswith(("bert_cl", "tokeniz", "model"))]
json.dump([newer, older, ours], open(answered, "w"))
"""


@pytest.fixture(scope="module")
def trained(classify, training, tmp_path_factory):
  """The folder of a training that has predicted its test set."""
  folder = tmp_path_factory.mktemp("trained")
  flags = dict(training, output_dir=folder, num_train_epochs=1)
  assert classify("--do_predict", **flags).status == 0
  return folder


@pytest.fixture(scope="module")
def exported(trained, classify):
  """An export of it: its folder, and the log."""
  outcome = classify("--do_export", output_dir=trained, **ALONE)
  assert outcome.status == 0, outcome.log
  (folder,) = (trained / "export").iterdir()
  return folder, outcome.log


@pytest.fixture(scope="module")
def records(classify):
  """The serialized examples of the test set."""
  cache = Path(classify.defaults["cache_dir"])
  (path,) = cache.glob("cached_test_24_mrpc_*.tf_record")
  return list(tf.python_io.tf_record_iterator(str(path)))


def read_features(records):
  """Returns {name: list of lists} of serialized examples."""
  parsed = [tf.train.Example.FromString(r).features.feature for r in records]
  names = ("input_ids", "input_mask", "segment_ids")
  return {n: [list(p[n].int64_list.value) for p in parsed] for n in names}


def as_latin(texts):
  return [text.encode().decode("latin-1") for text in texts]


def test_tensorflow_alone_predicts_what_the_run_predicted(
  trained, exported, records, tmp_path
):
  rows = read_table(trained / "test_predictions.tsv")[1:]
  texts = {
    "text_a": as_latin(row[1] for row in rows),
    "text_b": as_latin(row[2] for row in rows),
  }
  longest = {n: v * 64 for n, v in read_features(records[:1]).items()}
  everything = [
    ("text", texts),
    ("examples", {"examples": [r.decode("latin-1") for r in records]}),
    ("serving_default", read_features(records)),
  ]
  nothing = [(name, {key: [] for key in inputs}) for name, inputs in everything]
  one = [
    (name, {key: values[:1] for key, values in inputs.items()})
    for name, inputs in everything
  ]
  asked = [*everything, *nothing, *one, ("serving_default", longest)]
  (tmp_path / "asked").write_text(json.dumps(asked))
  paths = tmp_path / "asked", tmp_path / "answered"
  done = run_python("-c", READER, exported[0], *paths, folder=tmp_path)
  assert done.returncode == 0, done.stderr
  newer, older, ours = json.loads(paths[1].read_text())
  assert ours == []
  expected = np.float64([row[6:] for row in rows])
  for answers in (newer, older):
    for answer, number in zip(answers, [len(rows)] * 3 + [0] * 3 + [1] * 3):
      assert sorted(answer) == ["logits", "probabilities"]
      found = np.reshape(answer["probabilities"], [-1, 2])
      np.testing.assert_allclose(found, expected[:number], rtol=0, atol=1e-6)
    found = answers[-1]["probabilities"]
    np.testing.assert_allclose(
      found, expected[:1].repeat(64, 0), rtol=0, atol=1e-6
    )
