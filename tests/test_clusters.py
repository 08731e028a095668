"""TF_CONFIG, as Kubernetes, Vertex and SageMaker set it."""

import json
import os
import re
import shutil
import subprocess
import textwrap
from types import SimpleNamespace

from conftest import ROOT
import pytest
import yaml

from bert_classifier import clusters, preparation
from bert_classifier.errors import GONE, UserError
from bert_classifier.options import RunOptions, make_options

CHIEF = '"task": {"type": "chief", "index": 0}, "environment": "cloud"}'


@pytest.mark.parametrize(
  "text",
  [
    None,
    "",
    " ",
    "{}",
    '{"cluster": {}}',
    '{"cluster": null, "task": null, "environment": "cloud"}',
    '{"cluster": {"chief": ["a:1"]}, ' + CHIEF,
    '{"cluster": {"master": ["a:1"]}, "task": {"type": "master"}}',
    '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker"}}',
    '{"cluster": {"worker": {"0": "a:1"}}, ' + CHIEF,
    '{"cluster": {"chief": ["a:1"], "evaluator": ["b:1"]}, ' + CHIEF,
  ],
)
def test_a_cluster_of_one_machine_is_an_ordinary_run(text):
  assert clusters.read(text) is None
  assert not clusters.is_evaluator(text)


KUBERNETES = {"chief": ["c:1"], "worker": ["w:1", "w:2"], "evaluator": ["e:1"]}
SAGEMAKER = {"worker": ["algo-1:8890", "algo-2:8890"]}
VERTEX = {"chief": ["pool0:2222"], "worker": ["pool1:2222"]}


@pytest.mark.parametrize(
  ("cluster", "task", "addresses", "index"),
  [
    (KUBERNETES, ("chief", 0), "c:1 w:1 w:2", 0),
    (KUBERNETES, ("worker", "1"), "c:1 w:1 w:2", 2),
    (SAGEMAKER, ("worker", 0), "algo-1:8890 algo-2:8890", 0),
    (SAGEMAKER, ("worker", 1), "algo-1:8890 algo-2:8890", 1),
    (VERTEX, ("worker", 0), "pool0:2222 pool1:2222", 1),
    ({"worker": ["w:1"], "master": ["m:1"]}, ("worker", 0), "m:1 w:1", 1),
    ({"worker": {"10": "y:1", "9": "x:1"}}, ("worker", 9), "x:1 y:1", 0),
  ],
)
def test_the_chief_is_the_first_of_the_machines(
  cluster, task, addresses, index
):
  task = dict(zip(("type", "index"), task))
  text = json.dumps({"cluster": cluster, "task": task, "environment": "cloud"})
  expected = tuple(addresses.split()), index
  assert clusters.read(text) == expected
  assert clusters.read(text).is_chief == (index == 0)


def test_a_dry_run_is_of_one_machine():
  cluster = clusters.Cluster(("a:1", "b:1"), 0)
  with pytest.raises(UserError, match="unset .*TF_CONFIG, which names 2"):
    preparation.leave_log_to_chief(cluster, RunOptions(dry_run=True))


def test_machines_that_see_other_things_than_the_chief_are_told():
  told = {}
  run = SimpleNamespace(
    placement=SimpleNamespace(share=lambda _: [told, None], replicas=4),
    found=SimpleNamespace(step=7, path="out"),
    counts={"train": 5},
    schedule=None,
    settings={
      "model": {"labels": ("0", "1")},
      "training": {"init_checkpoint": "here", "learning_rate": 5e-5, "data": 1},
    },
    options=make_options(output_dir="out"),
  )
  ours = json.loads(json.dumps(preparation.list_agreed(run)))
  told.update(ours)
  assert preparation.agree_with_chief(run) is run
  for name, value, words in (
    ("devices of all machines", 2, ": 4 on this machine, 2 on the chief"),
    ("newest checkpoint", 0, " of out is of step 7 as .* of step 0 as the chi"),
    (
      "examples",
      {"train": 6},
      ": .* TensorFlow, GPUs, data and --output_dir=out",
    ),
    ("TensorFlow", "1.15.5", ": '2.+' on this machine, '1.15.5' on the chief"),
    ("--learning_rate", 0.1, ": 5e-05 on this machine, 0.1 on the chief"),
    ("--precision", "mixed_float16", ": 'float32' on this machine"),
    ("labels", ["0"], ": .*'0', '1'.* on this machine"),
    ("--of_another_version", 1, ": None on this machine, .* same program"),
    ("data", 2, ": 1 on this machine, 2 on the chief"),
  ):
    told.update(ours, **{name: value})
    with pytest.raises(UserError, match=f"^(the )?{name}{words}"):
      preparation.agree_with_chief(run)
  # It explains flags that differ, too, which are taken from that folder.
  told.update(ours, **{"newest checkpoint": 0, "--train_batch_size": 4})
  with pytest.raises(UserError, match="^the newest checkpoint of out is of"):
    preparation.agree_with_chief(run)


def test_what_a_machine_has_for_itself_is_not_compared():
  one, other = (
    make_options(output_dir=folder, num_threads=n, num_gpus=n, worker_timeout=n)
    for folder, n in (("a", 1), ("b", 2))
  )
  assert one.shared_values() == other.shared_values()
  assert {"seed", "head_dropout", "skip_padding"} <= set(one.shared_values())


def test_an_evaluator_is_no_member_of_the_cluster():
  task = {"type": "evaluator", "index": 0}
  for cluster in (KUBERNETES, VERTEX, {"chief": ["a:1"]}, {}):
    assert clusters.is_evaluator(json.dumps({"cluster": cluster, "task": task}))


def test_a_machine_alone_trains_and_an_evaluator_does_nothing(
  classify, training, tmp_path, monkeypatch
):
  """The Estimator would wait for others, whom TF_CONFIG seems to name."""
  flags = {**training, "num_train_epochs": 0.3, "output_dir": tmp_path / "out"}
  task = '"task": {"type": "%s", "index": 0}}'
  monkeypatch.setenv(
    "TF_CONFIG",
    '{"cluster": {"chief": ["a:1"], "worker": ["b:1"]}, ' + task % "evaluator",
  )
  done = classify(**flags)
  assert done.status == 0 and "this evaluator has nothing to do" in done.log
  assert not (tmp_path / "out").exists()
  monkeypatch.setenv(
    "TF_CONFIG", '{"cluster": {"worker": ["a:1"]}, ' + task % "worker"
  )
  done = classify("--do_eval", **flags)
  assert done.status == 0, done.log
  assert (tmp_path / "out" / "eval_results.txt").exists()


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ('{"cluster": {"chief": ["a:1"], "ps": ["b:1"]}}', "of the kind ps, which"),
    (
      '{"cluster": {"worker": ["a:1", "b:1"], "chief": ["c:1"]}}',
      "not say which machine this is, and .* has chief 0, worker 0, worker 1:",
    ),
    (
      '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker",'
      ' "index": 2}}',
      "is worker 2, but the cluster has worker 0, worker 1",
    ),
    ('{"cluster": {"worker": ["a:1", "a:1"]}, ', "in JSON"),
    ('{"cluster": {"chief": ["a:1"], "worker": ["a:1"]}, ' + CHIEF, "twice"),
    ('{"cluster": {"chief": ["a:1"], "worker": ["b"]}, ' + CHIEF, "host:port"),
    ('{"cluster": {"chief": ["a:0", "b:1"]}, ' + CHIEF, "a port from 1 to 655"),
    ('{"cluster": {"chief": ["a:1", "b:65536"]}, ' + CHIEF, "'b:65536', but"),
    ('{"cluster": {"chief": ["a:1", "http://b:1"]}, ' + CHIEF, "//b:1', but"),
    ('{"cluster": ', "does not name the machines of a cluster in JSON"),
    ("null", "it is no JSON object"),
    ("[]", "it is no JSON object"),
    ('{"cluster": ["a:1"]}', "does not name the machines"),
    ('{"cluster": {"chief": "a:1"}}', "'a:1' is no list of machines"),
    ('{"cluster": {}, "task": "chief"}', "does not name the machines"),
    ('{"cluster": {}, "task": {"index": "x"}}', "does not name the machines"),
  ],
)
def test_a_mistake_in_tf_config_is_a_sentence(text, words):
  with pytest.raises(UserError, match=words) as error:
    clusters.read(text)
  assert "TF_CONFIG=" in str(error.value)


# ---------------------------------------------------------------------------
# The files of docs/devices.md, without Slurm and Kubernetes


PYTHON = """#!/bin/bash
echo $TF_CONFIG >> "$PLACES"
[ "$(wc -l < "$PLACES")" -le "$FAILS" ] && exit "$STATUS"
exit 0
"""
SCONTROL = """#!/bin/bash
printf 'node1\\nnode2\\n'
"""
SRUN = """#!/bin/bash
for SLURM_PROCID in 0 1; do
  export SLURM_PROCID
  "${@:2}" || exit
done
"""


def read_block(language, after):
  """Returns the first block of code of docs/devices.md after a heading."""
  text = (ROOT / "docs" / "devices.md").read_text()
  text = text[text.index(f"### {after}") :]
  return re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)[1]


@pytest.fixture
def run_bash(tmp_path):
  """Returns a function that runs a script among stand-ins.

  It gives the exit status, and what TF_CONFIG each start of Python had.
  """
  if not shutil.which("bash"):
    pytest.skip("there is no bash")
  for path, text in (
    (".venv/bin/python", PYTHON),
    ("bin/python", PYTHON),
    ("bin/scontrol", SCONTROL),
    ("bin/srun", SRUN),
  ):
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(text)
    (tmp_path / path).chmod(0o755)

  def run_bash(script, **environment):
    places = tmp_path / "places"
    places.write_text("")
    environment = {"FAILS": "0", "STATUS": "0", **environment}
    done = subprocess.run(
      ["bash", "-c", script],
      cwd=tmp_path,
      env={
        **os.environ,
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "PLACES": str(places),
        **environment,
      },
    )
    texts = places.read_text().splitlines()
    return done.returncode, list(map(clusters.read, texts))

  return run_bash


def test_slurm_starts_each_node_with_its_place(run_bash):
  slurm = {"SLURM_JOB_ID": "123", "SLURM_JOB_NODELIST": "node[1-2]"}
  script = read_block("sh", "Slurm")
  status, found = run_bash(script, **slurm)
  addresses = ("node1:20123", "node2:20123")
  assert (status, found) == (0, [(addresses, 0), (addresses, 1)])
  # A machine that is lost starts all again; a mistake does not.
  status, found = run_bash(script, **slurm, FAILS="1", STATUS="75")
  assert (status, len(found)) == (0, 3)
  status, found = run_bash(script, **slurm, FAILS="1", STATUS="1")
  assert (status, len(found)) == (1, 1)


def test_kubernetes_starts_each_pod_with_its_place(run_bash):
  manifest = read_block("yaml", "Kubernetes")
  command = manifest[manifest.index("- |\n") + 4 :]
  script = textwrap.dedent(command[: command.index("ports:")])
  for index in (0, 3):
    status, found = run_bash(script, JOB_COMPLETION_INDEX=str(index))
    addresses = tuple(f"bert-{number}.bert:2222" for number in range(4))
    assert (status, found) == (0, [(addresses, index)])


def list_flags(script):
  """Returns the words of run_classifier.py's call in a script of a shell."""
  joined = script.replace("\\\n", " ")
  (call,) = re.findall(r"run_classifier\.py ([^'\n]*)", joined)
  return call.split()


def test_the_files_are_well_formed(tmp_path):
  slurm = read_block("sh", "Slurm")
  service, job = yaml.safe_load_all(read_block("yaml", "Kubernetes"))
  (container,) = job["spec"]["template"]["spec"]["containers"]
  command = container["command"]
  assert command[:2] == ["bash", "-c"] and len(command) == 3
  for script in (slurm, command[2]):
    (tmp_path / "script").write_text(script)
    subprocess.run(["bash", "-n", tmp_path / "script"], check=True)
    flags = dict(word.lstrip("-").split("=") for word in list_flags(script))
    assert flags.pop("flagfile").endswith(".flags")
    assert make_options(**flags).run.output_dir
  asked = dict(re.findall(r"#SBATCH --([\w-]+)=(\S+)", slurm))
  assert asked["ntasks-per-node"] == "1"  # for a port of each node is named
  assert int(asked["nodes"]) > 1


def test_the_names_in_the_files_of_kubernetes_belong_together():
  service, job = yaml.safe_load_all(read_block("yaml", "Kubernetes"))
  assert (service["kind"], job["kind"]) == ("Service", "Job")
  assert (service["apiVersion"], job["apiVersion"]) == ("v1", "batch/v1")
  name, spec = job["metadata"]["name"], job["spec"]
  pod = spec["template"]["spec"]
  (container,) = pod["containers"]
  # The Service has the pods of the Job, which are found by its name.
  assert service["spec"]["selector"] == {"job-name": name}
  assert service["spec"]["clusterIP"] == "None"
  assert pod["subdomain"] == service["metadata"]["name"]
  (numbers,) = re.findall(r"for i in ([\d ]+);", container["command"][2])
  workers = list(map(int, numbers.split()))
  assert workers == list(range(len(workers)))
  assert spec["completions"] == spec["parallelism"] == len(workers)
  assert spec["completionMode"] == "Indexed"
  ((host, port),) = re.findall(r'"(\S+):(\d+)\\"', container["command"][2])
  assert host.lstrip("\\").lstrip('"') == f"{name}-$i.{pod['subdomain']}"
  assert service["spec"]["ports"] == [{"port": int(port)}]
  assert container["ports"] == [{"containerPort": int(port)}]
  # A policy on failures needs pods that are not started again in place.
  assert pod["restartPolicy"] == "Never"
  (rule,) = spec["podFailurePolicy"]["rules"]
  assert rule["action"] == "FailJob" and rule["onExitCodes"]["values"] == [
    1,
    70,
  ]
  assert GONE not in rule["onExitCodes"]["values"]
  mounted = {mount["name"] for mount in container["volumeMounts"]}
  assert mounted == {volume["name"] for volume in pod["volumes"]}
