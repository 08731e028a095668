"""export.py: --do_export, and what others make of it."""

from concurrent import futures
import json
import os
from pathlib import Path
import re
import runpy
import shutil
import socket

from conftest import (
  ALONE,
  ROOT,
  read_checkpoint,
  read_features,
  read_table,
  run_python,
  write_checkpoint,
)
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import export

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
names = ["bert_classifier", "tokenization", "modeling", "run_classifier"]
ours = [name for name in names if name in sys.modules]
json.dump([newer, older, ours], open(answered, "w"))
"""


@pytest.fixture(scope="module")
def exported(trained, classify):
  """An export of it: its folder, and the log."""
  outcome = classify("--do_export", output_dir=trained, **ALONE)
  assert outcome.status == 0, outcome.log
  (folder,) = (trained / "export").iterdir()
  return folder, outcome.log


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


def load(session, folder):
  """Returns the signatures of an export that is loaded into a session."""
  found = tf.saved_model.load(session, ["serve"], str(folder))
  return found.signature_def


def predict(session, signature, **inputs):
  feed = {signature.inputs[k].name: value for k, value in inputs.items()}
  outputs = {k: value.name for k, value in signature.outputs.items()}
  return session.run(outputs, feed)


def test_every_position_is_exported_where_the_flag_says_so(
  trained, exported, records, classify
):
  outcome = classify(
    "--do_export", "--noskip_padding", output_dir=trained, **ALONE
  )
  assert outcome.status == 0, outcome.log
  numbers = sorted(int(path.name) for path in (trained / "export").iterdir())
  assert numbers.index(int(exported[0].name)) == len(numbers) - 2
  rows = read_table(trained / "test_predictions.tsv")[1:]
  with tf.Graph().as_default(), tf.Session() as session:
    signatures = load(session, trained / "export" / str(numbers[-1]))
    found = predict(session, signatures["examples"], examples=records)
    expected = np.float64([row[6:] for row in rows])
    np.testing.assert_allclose(
      found["probabilities"], expected, rtol=0, atol=1e-5
    )
    default = signatures["serving_default"]
    ids = dict.fromkeys(("input_ids", "input_mask", "segment_ids"))
    longest = {name: np.ones([2, 40], np.int32) for name in ids}
    assert predict(session, default, **longest)["logits"].shape == (2, 2)
    longer = {name: np.ones([2, 41], np.int32) for name in ids}
    with pytest.raises(
      tf.errors.InvalidArgumentError, match="at most 40 positions"
    ):
      predict(session, default, **longer)
    with pytest.raises(tf.errors.InvalidArgumentError, match="input_ids"):
      predict(session, signatures["examples"], examples=[b""])
    for name in ("input_mask", "segment_ids"):
      fewer = {**longest, name: longest[name][:1]}
      with pytest.raises(
        tf.errors.InvalidArgumentError, match=f"{name} and input_ids must have"
      ):
        predict(session, default, **fewer)


def test_an_export_says_what_it_is_of(trained, exported, golden_task):
  folder, log = exported
  checkpoint = trained / "model.ckpt-4"
  assert log.splitlines()[-1] == f"exported {checkpoint}, step 4: {folder}"
  extra = folder / "assets.extra"
  vocabulary = Path(golden_task, "vocab.txt").read_bytes()
  assert (extra / "vocab.txt").read_bytes() == vocabulary
  assert (extra / "labels.txt").read_text() == "0\n1\n"
  settings = json.loads((extra / "settings.json").read_text())
  assert settings["labels"] == ["0", "1"]
  assert settings["task_name"] == "mrpc"
  assert settings["max_seq_length"] == 24
  assert settings["do_lower_case"] and settings["global_step"] == 4
  assert settings["checkpoint"] == "model.ckpt-4"


def test_a_failed_export_leaves_nothing(
  trained, exported, classify, monkeypatch
):
  before = sorted((trained / "export").iterdir())
  # As a kill -9 leaves it, in a process of before.
  left = f"1700000000.tmp-{socket.gethostname()}-999999999-0a1b2c3d"
  (trained / "export" / left / "variables").mkdir(parents=True)
  for path in (
    trained / "export" / left / "variables",
    trained / "export" / left,
  ):
    os.utime(path, (1700000000, 1700000000))

  def fail(path, value):
    assert "settings.json" in path
    raise tf.errors.ResourceExhaustedError(None, None, f"{path}; no space")

  monkeypatch.setattr(export.files, "write_json", fail)
  outcome = classify("--do_export", output_dir=trained, **ALONE)
  assert outcome.status == 1
  assert sorted((trained / "export").iterdir()) == before


@pytest.fixture
def scores(small_model, tmp_path):
  """Flags of a model of sts-b, whose head has one row."""
  folder = tmp_path / "scores"
  shutil.copytree(small_model["init_checkpoint"], folder)
  prefix = folder / "bert_model.ckpt"
  variables = read_checkpoint(prefix)
  for name in ("output_weights", "output_bias"):
    variables[name] = variables[name][:1]
  write_checkpoint(prefix, variables)
  return dict(ALONE, task_name="sts-b", init_checkpoint=folder)


def test_weights_from_elsewhere_are_exported_and_a_number_is_a_value(
  scores, golden_task, classify, tmp_path, capsys
):
  vocabulary = f"{golden_task}/vocab.txt"
  outcome = classify(
    "--do_export",
    **dict(scores, vocab_file=vocabulary, max_seq_length=24),
    output_dir=tmp_path / "output",
    predict_text="exfvf dh",
    predict_text_b="jaw \u4e2d",
  )
  assert outcome.status == 0, outcome.log
  answer = json.loads(capsys.readouterr().out)
  (folder,) = (tmp_path / "output" / "export").iterdir()
  assert not (folder / "assets.extra" / "labels.txt").exists()
  with tf.Graph().as_default(), tf.Session() as session:
    found = predict(
      session,
      load(session, folder)["text"],
      text_a=["exfvf dh"],
      text_b=["jaw \u4e2d".encode()],
    )
  np.testing.assert_allclose(found["value"], [answer["value"]], atol=1e-6)
  assert found["logits"].shape == (1, 1)


def test_weights_that_are_not_finite_are_not_exported(
  scores, golden_task, classify, tmp_path
):
  prefix = scores["init_checkpoint"] / "bert_model.ckpt"
  variables = read_checkpoint(prefix)
  variables["output_bias"][0] = np.nan
  write_checkpoint(prefix, variables)
  vocabulary = f"{golden_task}/vocab.txt"
  outcome = classify(
    "--do_export",
    **dict(scores, vocab_file=vocabulary, max_seq_length=24),
    output_dir=tmp_path / "output",
  )
  assert outcome.status == 1
  assert "not finite" in outcome.log
  assert not (tmp_path / "output" / "export").exists()


def test_the_printed_client_answers_texts(hold_client):
  texts = ["hfwltc jaj", "ga h, fnj?", "\u4e2d"]
  client = hold_client("client", texts, "output/export/*", "--do_export")
  assert client.count("\n") == 10


def test_the_printed_lines_of_grpc_speak_the_messages_of_tensorflow_serving(
  exported, tmp_path, capsys
):
  """Of its messages alone: the servicer that answers is not its server."""
  pytest.importorskip("tensorflow_serving.apis")
  import grpc
  from tensorflow_serving.apis import predict_pb2
  from tensorflow_serving.apis import prediction_service_pb2_grpc as service

  page = (ROOT / "docs" / "serving.md").read_text()
  lines = re.search(r"```python\n(import grpc\n.*?)```", page, re.S)[1]
  session = tf.Session(graph=tf.Graph())
  with session.graph.as_default():
    signatures = load(session, exported[0])

  class Servicer(service.PredictionServiceServicer):
    def Predict(self, request, context):
      assert request.model_spec.name == "my_model"
      signature = signatures[request.model_spec.signature_name]
      (texts,) = map(tf.make_ndarray, request.inputs.values())
      found = predict(session, signature, text_a=texts, text_b=[""] * 2)
      answer = predict_pb2.PredictResponse()
      for name, values in found.items():
        answer.outputs[name].CopyFrom(tf.make_tensor_proto(values))
      return answer

  server = grpc.server(futures.ThreadPoolExecutor(1))
  service.add_PredictionServiceServicer_to_server(Servicer(), server)
  address = f"localhost:{server.add_insecure_port('localhost:0')}"
  server.start()
  lines = lines.replace("localhost:8500", address).replace("10.0", "300.0")
  (tmp_path / "client.py").write_text(lines)
  runpy.run_path(str(tmp_path / "client.py"))
  server.stop(None)
  texts = {"text_a": ["a fine film", "dull"], "text_b": ["", ""]}
  expected = predict(session, signatures["text"], **texts)
  session.close()
  assert capsys.readouterr().out == f"{expected['probabilities']}\n"
