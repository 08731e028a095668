"""Several devices as one, on two logical CPUs: losses, variables, norms."""

import json
import shutil
from unittest import mock

from conftest import (
  read_checkpoint,
  read_results,
  read_table,
  small_config,
)
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tensorflow.python.framework import config

from bert_classifier import (
  checkpoints,
  device_choice,
  devices,
  fast_modeling,
  fast_optimization,
  gpu,
  history,
  loss_scale,
  machine,
  options,
  precision,
  process,
  replicas,
  selection,
  workers,
)
from bert_classifier.clusters import Cluster
from bert_classifier.errors import UserError
from bert_classifier.options import DeviceOptions
import estimator_bridge
import modeling
import optimization
import run_classifier

TWO = ["/cpu:0", "/cpu:1"]


@pytest.fixture
def on_two(monkeypatch):
  """Lets the script compute on two logical CPUs."""
  monkeypatch.setattr(
    device_choice,
    "make_placement",
    lambda options, *_: replicas.MirroredPlacement(options, TWO),
  )


@pytest.fixture(scope="module")
def still(training, tmp_path_factory):
  """Returns the flags of a training of 13 steps without dropout."""
  folder = tmp_path_factory.mktemp("still")
  config = json.loads(training["bert_config_file"].read_text())
  config["hidden_dropout_prob"] = config["attention_probs_dropout_prob"] = 0.0
  (folder / "bert_config.json").write_text(json.dumps(config))
  return dict(
    training,
    bert_config_file=folder / "bert_config.json",
    head_dropout=0,
    keep_checkpoint_max=0,
  )


FORMS = {"real tokens": True, "all positions": False}


@pytest.fixture(scope="module")
def on_one(classify, still, tmp_path_factory):
  """Returns the folder of a training on one device, by form; each once."""
  folders = {}
  for form, skip_padding in FORMS.items():
    folders[form] = tmp_path_factory.mktemp("one")
    outcome = classify(
      "--do_eval",
      "--do_predict",
      output_dir=folders[form],
      skip_padding=skip_padding,
      **still,
    )
    assert outcome.status == 0, outcome.log
  return folders


def read_steps(folder, name):
  """Returns a number of each step of a training, from its history."""
  entries = history.read(f"{folder}/history.jsonl")
  return [entry[name] for entry in entries if "split" not in entry]


def assert_same_training(folder, expected):
  """Holds losses, norms and variables of all steps against another folder's."""
  for name in ("loss", "gradient_norm", "learning_rate"):
    found = read_steps(folder, name)
    assert len(found) == 13
    np.testing.assert_allclose(
      found, read_steps(expected, name), rtol=1e-5, atol=1e-5, err_msg=name
    )
  found, variables = read_checkpoint(folder), read_checkpoint(expected)
  assert found.keys() == variables.keys()
  for name, value in variables.items():
    np.testing.assert_allclose(
      found[name], value, rtol=0, atol=1e-5, err_msg=name
    )


@pytest.fixture
def _determinism_ends():
  """Ends what --deterministic begins, which holds for the process."""
  yield
  config.disable_op_determinism()


@pytest.mark.usefixtures("_determinism_ends")
@pytest.mark.parametrize("form", FORMS)
def test_two_devices_train_as_one(
  classify, still, on_one, on_two, tmp_path, form
):
  outcome = classify(
    *["--deterministic"] * (form == "all positions"),
    "--do_eval",
    "--do_predict",
    output_dir=tmp_path,
    skip_padding=FORMS[form],
    **still,
  )
  assert outcome.status == 0, outcome.log
  assert "using CPU:0 and CPU:1 by MirroredStrategy" in outcome.log
  assert "8 examples a training step, 4 on each device" in outcome.log
  assert_same_training(tmp_path, on_one[form])
  found, expected = (
    read_results(folder / "eval_results.txt")
    for folder in (tmp_path, on_one[form])
  )
  assert found == pytest.approx(expected, abs=1e-5)
  found, expected = (
    np.float32(read_table(folder / "test_results.tsv"))
    for folder in (tmp_path, on_one[form])
  )
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def assert_exports_are_trained(folder, hugging_face):
  """Holds the weights of both exports against the newest checkpoint."""
  (saved,) = (folder / "export").iterdir()
  exported = checkpoints.open_checkpoint(str(hugging_face))
  back = exported.convert_to_tensorflow(f"{hugging_face}/back")
  trained = read_checkpoint(folder)
  for found in (
    read_checkpoint(str(saved / "variables" / "variables")),
    read_checkpoint(back),
  ):
    weights = {name for name in trained if "bert/" in name} & found.keys()
    assert len(weights) > 20 and "output_weights" in found
    for name in {"output_weights", "output_bias", *weights} - {"global_step"}:
      np.testing.assert_array_equal(found[name], trained[name], err_msg=name)


def test_a_checkpoint_of_one_device_goes_on_on_two(
  classify, still, on_one, on_two, tmp_path
):
  before, after = on_one["real tokens"], tmp_path / "after"
  shutil.copytree(before, after)
  (after / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-4"')
  flags = dict(still, output_dir=after, do_eval=True, eval_every_steps=4)
  outcome = classify("--do_export", **flags, export_hf=tmp_path / "hf")
  assert outcome.status == 0, outcome.log
  assert "steps 5 to 13" in outcome.log
  assert_same_training(after, before)
  record = selection.read(str(after), "f1", 13)
  assert record.steps == (4, 8, 12, 13)
  best = read_checkpoint(after / "best")
  trained = read_checkpoint(after / f"model.ckpt-{record.best}")
  assert best.keys() == {name for name in trained if "adam" not in name}
  for name, value in best.items():
    np.testing.assert_array_equal(value, trained[name], err_msg=name)
  assert_exports_are_trained(after, tmp_path / "hf")


def test_two_devices_end_where_evaluations_are_no_better(
  classify, still, on_two, tmp_path
):
  flags = dict(still, learning_rate=1e-9, save_checkpoints_steps=None)
  flags.update(do_eval=True, eval_every_steps=2, early_stopping_patience=1)
  outcome = classify(output_dir=tmp_path, **flags)
  assert outcome.status == 0, outcome.log
  assert selection.read(str(tmp_path), "f1", 4).steps == (2, 4)
  assert read_checkpoint(tmp_path)["global_step"] == 4


def test_what_is_not_training_is_done_by_one_of_two_devices(
  classify, still, on_one, on_two, tmp_path, capsys
):
  folder = tmp_path / "trained"
  shutil.copytree(on_one["real tokens"], folder)
  texts = {"predict_text": "He said so .", "predict_text_b": "She did ."}
  asked = ["--do_eval", "--calibrate", "--do_embed"]
  outcome = classify(*asked, output_dir=folder, **texts, **still)
  assert outcome.status == 0, outcome.log
  assert "temperature" in json.loads((folder / "calibration.json").read_text())
  assert np.load(folder / "test_embeddings.npy").shape[0] == 13
  assert json.loads(capsys.readouterr().out)["text_b"] == "She did ."


def test_a_dry_run_of_two_devices_is_that_of_one(
  classify, still, on_two, tmp_path, capsys
):
  outcome = classify("--dry_run", output_dir=tmp_path / "out", **still)
  assert outcome.status == 0, outcome.log
  assert "steps    1 to 13 of 8 examples" in capsys.readouterr().out
  still = dict(still, num_workers=3, output_dir=tmp_path / "out")
  refused = classify("--dry_run", **still)
  assert "is 8, but must be a multiple of 3: it is divided" in refused.log
  assert refused.status == 1 and not (tmp_path / "out").exists()


def test_masks_of_two_devices_differ(graph):
  placement = replicas.MirroredPlacement(DeviceOptions(), TWO)

  def replica():
    key = modeling.dropout_key(1, tf.constant(3), placement.replica_id())
    return modeling.Dropout(key)(tf.ones([100]), 0.5)

  strategy = tf.distribute.MirroredStrategy(TWO)
  with (
    strategy.scope(),
    tf.Session(config=placement.session_config()) as session,
  ):
    first, second = session.run(
      strategy.experimental_local_results(
        strategy.extended.call_for_each_replica(replica)
      )
    )
  assert 0 < (first == second).mean() < 1


def train_table(folder, names):
  """Trains a looked-up table by the plain optimizer on some devices.

  Returns the norm of the first gradient, and the variables after 3 steps.
  """
  norms = []

  def model_fn(features, mode):
    table = tf.get_variable("table", initializer=np.eye(4, 2, dtype="f"))
    rows = tf.gather(table, features)
    loss = tf.reduce_mean(tf.reduce_sum(rows * [3.0, 4.0], axis=1))
    train_op = optimization.create_optimizer(loss, 0.1, 5, 0, use_tpu=False)
    return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=train_op)

  def input_fn():
    ids = tf.data.Dataset.from_tensor_slices([1, 3, 3, 3]).repeat()
    return ids.batch(4 // len(names), drop_remainder=True)

  class Norm(tf.train.SessionRunHook):
    def before_run(self, run_context):
      return tf.train.SessionRunArgs(f"{optimization.GRADIENT_NORM}:0")

    def after_run(self, run_context, run_values):
      norms.append(run_values.results)

  config = tf.ConfigProto(device_count={"CPU": 2})
  with tf.Graph().as_default():
    strategy = tf.distribute.MirroredStrategy(names)
  run_config = tf.estimator.RunConfig(
    train_distribute=strategy if len(names) > 1 else None,
    session_config=config,
  )
  estimator = tf.estimator.Estimator(model_fn, str(folder), run_config)
  train = tf.autograph.experimental.do_not_convert(estimator.train)
  train(input_fn, max_steps=3, hooks=[Norm()])
  return norms[0], read_checkpoint(folder)


def test_rows_of_a_gradient_enter_the_norm_of_two_devices_unsummed(tmp_path):
  estimator_bridge.quiet()
  norm, one = train_table(tmp_path / "one", TWO[:1])
  norm_of_two, two = train_table(tmp_path / "two", TWO)
  # Four rows of (3, 4) / 4; summed by word they would have 3.95.
  assert norm == pytest.approx(2.5)
  assert norm_of_two == pytest.approx(2.5)
  assert one.keys() == two.keys() >= {"table", "table/adam_m"}
  for name, value in one.items():
    np.testing.assert_allclose(two[name], value, rtol=1e-6, err_msg=name)


# ---------------------------------------------------------------------------
# What goes with several devices (docs/devices.md)


def make_features():
  """Returns a batch of 8 short examples."""
  numbers, lengths = np.random.RandomState(0), [6, 2, 5, 4, 3, 6, 2, 5]
  mask = (np.arange(6) < np.array(lengths)[:, np.newaxis]).astype(np.int32)
  return {
    "input_ids": numbers.randint(1, 9, [8, 6]).astype(np.int32) * mask,
    "input_mask": mask,
    "segment_ids": np.zeros_like(mask),
    "label_ids": numbers.randint(0, 3, 8).astype(np.int32),
  }


class Losses(tf.train.SessionRunHook):
  """Keeps the loss of each step, as hooks see it."""

  def __init__(self):
    self.seen = []

  def before_run(self, run_context):
    return tf.train.SessionRunArgs("training_loss:0")

  def after_run(self, run_context, run_values):
    self.seen.append(run_values.results)


def train_small(placement, folder, skip_padding=True, hooks=(), **step):
  """Trains a small model for 3 steps; returns losses and variables."""
  asked = options.StepOptions(**step)
  model_fn = run_classifier.model_fn_builder(
    small_config(
      hidden_dropout_prob=0.0,
      attention_probs_dropout_prob=0.0,
      initializer_range=0.2,
    ),
    3, None, 1e-2, 10, 1, False, False,
    head_dropout=0.0,
    placement=placement,
    forms=fast_modeling.forms(
      skip_padding,
      dtype=precision.DTYPES[asked.precision],
      recomputes=asked.gradient_checkpointing,
    ),
    optimizer_class=fast_optimization.FusedAdamWeightDecayOptimizer,
    step_options=asked,
  )  # fmt: skip

  def input_fn(params):
    examples = tf.data.Dataset.from_tensor_slices(make_features()).repeat()
    return examples.batch(params["batch_size"], drop_remainder=True)

  estimator = tf.estimator.tpu.TPUEstimator(
    model_fn,
    use_tpu=False,
    config=placement.run_config(str(folder), options.TrainingOptions()),
    params={},
    train_batch_size=placement.replica_batch_size(8),
  )
  losses = Losses()
  train = tf.autograph.experimental.do_not_convert(estimator.train)
  train(input_fn, max_steps=3, hooks=[losses, *hooks])
  return losses.seen, read_checkpoint(folder)


COMBINATIONS = [
  (dict(gradient_accumulation_steps=2, gradient_checkpointing=True), 1e-5),
  (dict(precision="mixed_bfloat16", skip_padding=False), 5e-3),
  (
    dict(
      precision="mixed_float16",
      gradient_accumulation_steps=2,
      gradient_checkpointing=True,
    ),
    1e-3,
  ),
]


@pytest.mark.parametrize(("asked", "tolerance"), COMBINATIONS, ids=str)
def test_a_step_of_two_devices_is_that_of_one(tmp_path, asked, tolerance):
  estimator_bridge.quiet()
  tf.enable_resource_variables()
  one = devices.Placement()
  two = replicas.MirroredPlacement(DeviceOptions(), TWO)
  (found, after), (expected, variables) = (
    train_small(placement, tmp_path / str(placement.replicas), **asked)
    for placement in (two, one)
  )
  assert len(expected) == 3
  np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
  assert after.keys() == variables.keys()
  if tolerance <= 1e-5:
    for name, value in variables.items():
      np.testing.assert_allclose(
        after[name], value, rtol=0, atol=1e-5, err_msg=name
      )


class Copies(tf.train.SessionRunHook):
  """Reads in the end the second device's copy of each variable, and the first.

  `seen` has a pair of arrays by name.
  """

  def end(self, session):
    names = [
      node.name
      for node in session.graph.get_operations()
      if node.type == "VarHandleOp"
    ]
    read = "{}/Read/ReadVariableOp:0".format
    self.seen = {
      name: session.run([read(name), read(f"{name}/replica_1")])
      for name in names
      if f"{name}/replica_1" in names
    }


def test_a_gradient_that_is_not_finite_on_one_device_is_skipped_by_all(
  tmp_path, monkeypatch
):
  def multiply(scale, loss):
    """Makes the second step's loss infinite for a part of the batch."""
    context = tf.distribute.get_replica_context()
    is_last = tf.equal(
      context.replica_id_in_sync_group, context.num_replicas_in_sync - 1
    )
    is_bad = is_last & tf.equal(tf.train.get_global_step(), 1)
    return before(scale, loss) * tf.where(is_bad, np.inf, 1.0)

  before = loss_scale.LossScale.multiply
  monkeypatch.setattr(loss_scale.LossScale, "multiply", multiply)
  estimator_bridge.quiet()
  tf.enable_resource_variables()
  copies = Copies()
  asked = dict(precision="mixed_float16")
  expected, variables = train_small(
    devices.Placement(), tmp_path / "one", **asked
  )
  two = replicas.MirroredPlacement(DeviceOptions(), TWO)
  found, after = train_small(two, tmp_path / "two", hooks=[copies], **asked)
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
  for name, value in zip(loss_scale.LossScale.VARIABLES, (2**14, 1, 1)):
    assert after[name] == variables[name] == value
  assert len(copies.seen) > 20
  for name, (first, second) in copies.seen.items():
    assert np.isfinite(first).all(), name
    np.testing.assert_array_equal(second, first, err_msg=name)


@pytest.mark.parametrize("flag", ["use_xla", "pack_sequences"])
def test_xla_and_packing_are_for_one_device(flag):
  asked = DeviceOptions(**{flag: True})
  cluster = Cluster(("a:1", "b:1"), 0)
  for placement, name, advice in (
    (replicas.MirroredPlacement(asked, TWO), "CPU:0 and CPU:1", "num_gpus=1"),
    (replicas.WorkersPlacement(asked, cluster, 0), "2 workers", "TF_CONFIG"),
  ):
    with pytest.raises(UserError, match=f"{name} would compute: .*{advice}"):
      placement.check_batches({"train_batch_size": 8}, is_training=True)


# ---------------------------------------------------------------------------
# The choice


@pytest.fixture
def see(monkeypatch):
  """Returns a function that lets TensorFlow see a number of GPUs."""

  def see(number):
    monkeypatch.setattr(gpu, "list_gpus", lambda: [None] * number)
    rows = [("T4", "16 MiB", "15 MiB")] * number
    monkeypatch.setattr(machine, "query_nvidia_smi", lambda: rows)

  return see


@pytest.mark.parametrize(
  ("seen", "asked", "batch_size", "used"),
  [
    (0, None, 32, 0),
    (4, None, 32, 4),
    (4, None, 30, 3),
    (4, None, 7, 1),
    (4, None, None, 1),
    (4, 2, 32, 2),
    (4, 2, None, 1),
    (4, 0, 32, 0),
  ],
)
def test_gpus_that_divide_the_batch_are_used(
  see, seen, asked, batch_size, used
):
  see(seen)
  given = DeviceOptions(num_gpus=asked)
  assert device_choice.count_gpus(given, batch_size) == used
  placement = device_choice.make_placement(given, None, batch_size)
  assert placement.replicas == max(1, used)
  assert placement.on_cpu == (not used)


def test_a_number_of_gpus_that_cannot_be_had_is_refused(see):
  see(2)
  with pytest.raises(UserError, match="--num_gpus is 3, but .* sees 2 GPUs"):
    device_choice.make_placement(DeviceOptions(num_gpus=3), None, 30)
  placement = device_choice.make_placement(DeviceOptions(num_gpus=2), None, 9)
  with pytest.raises(UserError, match="is 9, .* multiple of 2: .* GPU:0 and"):
    placement.check_batches({"train_batch_size": 9}, is_training=True)
  placement.check_batches({"train_batch_size": 9}, is_training=False)


def test_a_cpu_that_is_asked_for_computes_beside_a_gpu(see):
  see(1)
  asked = DeviceOptions(num_gpus=0)
  placement = device_choice.make_placement(asked, None, 8)
  assert placement.session_config().device_count["GPU"] == 0
  assert "; using the CPU, float32; 8 examples a" in placement.report(
    8, "float32"
  )
  assert placement.describe().startswith("CPU, ")


def test_memory_of_a_gpu_grows_unless_all_of_it_is_asked_for(see):
  see(3)
  for growth in (True, False):
    asked = DeviceOptions(num_gpus=2, gpu_memory_growth=growth)
    gpu_options = devices.session_config(asked).gpu_options
    assert gpu_options.allow_growth == growth
    assert gpu_options.visible_device_list == "0,1"


def test_gpus_of_several_machines_divide_the_part_of_one(see):
  see(2)
  cluster = Cluster(("a:1", "b:1"), 1)
  placement = device_choice.make_placement(DeviceOptions(), cluster, 32)
  assert placement.replicas == 4
  assert placement.replica_batch_size(32) == 8
  assert not placement.is_chief
  assert "2 workers with 2 GPUs each by MultiWorker" in placement.report(
    32, "float32"
  )


def test_a_tpu_is_not_mixed_with_other_devices(see):
  see(1)
  cluster = Cluster(("a:1", "b:1"), 0)
  for flags, others, words in (
    ({"num_gpus": 1}, None, "--num_gpus=1"),
    ({}, cluster, "TF_CONFIG"),
  ):
    with pytest.raises(UserError, match=f"--use_tpu and {words} name diff"):
      asked = options.make_options(use_tpu=True, tpu_name="local", **flags)
      device_choice.check_request(asked, others)


def test_a_process_that_has_joined_others_ends_without_waiting_for_them(
  monkeypatch,
):
  """Its cleanup would wait for a step that they wait in for this process."""
  done = []
  monkeypatch.setattr(workers, "Team", lambda *given: done.append(given[-1]))
  monkeypatch.setattr(process, "skip_cleanup", lambda: done.append("skips"))
  cluster = Cluster(("a:1", "b:1"), 1)
  asked = DeviceOptions(worker_timeout=7.0)
  placement = replicas.WorkersPlacement(asked, cluster, 0)
  monkeypatch.setattr(placement, "session_config", tf.ConfigProto)
  placement.join()
  assert done == [7.0, "skips"]


def test_an_error_of_a_step_is_laid_to_another_process_that_is_gone(
  monkeypatch,
):
  team = mock.Mock()
  monkeypatch.setattr(workers, "Team", lambda *_: team)
  monkeypatch.setattr(process, "skip_cleanup", lambda: None)
  cluster = Cluster(("a:1", "b:1"), 1)
  placement = replicas.WorkersPlacement(DeviceOptions(), cluster, 0)
  monkeypatch.setattr(placement, "session_config", tf.ConfigProto)
  placement.join()
  with pytest.raises(tf.errors.UnavailableError), placement.together():
    raise tf.errors.UnavailableError(None, None, "Connection reset by peer")
  team.end_without_others.assert_called_once()
  team.part.assert_not_called()
