"""Examples to features, their TFRecord files, and the cache of these."""

import itertools
import json
import logging
import os
from pathlib import Path
import random
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from bert_classifier import features, files
from bert_classifier.features import (
  FeatureCache,
  convert_single_example,
  truncate,
)
from bert_classifier.tasks import (
  InputExample,
  MrpcProcessor,
  PaddingInputExample,
)
import tokenization

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SPLITS = [("train", "train"), ("dev", "eval"), ("test", "predict")]
forks = pytest.mark.skipif(
  sys.platform != "linux", reason="forks on Linux only"
)


@pytest.fixture
def info(caplog):
  """The log of a test, information included."""
  caplog.set_level(logging.INFO, "absl")
  return caplog


@pytest.fixture
def tokenizer(golden_task):
  return tokenization.FullTokenizer(f"{golden_task}/vocab.txt")


@pytest.fixture
def cache(golden_task, tokenizer, tmp_path):
  """Makes the cache of the golden task, with what a test has different."""

  def make(
    processor=None, length=24, tokenizer=tokenizer, processes=1, **inputs
  ):
    return FeatureCache(
      processor or MrpcProcessor(),
      "mrpc",
      data_dir=f"{golden_task}/data",
      cache_dir=str(tmp_path),
      max_seq_length=length,
      tokenizer_inputs={"vocabulary": "v", "do_lower_case": True, **inputs},
      tokenizer=tokenizer,
      num_processes=processes,
    )

  return make


@pytest.fixture
def small_chunks(monkeypatch):
  """Lets several processes at work on a set of 21 rows."""
  monkeypatch.setattr(features, "ROWS_ALONE", 2)
  monkeypatch.setattr(features, "CHUNK_ROWS", 3)


class Unusable:
  """A tokenizer for where nothing may be tokenized."""

  def convert_tokens_to_ids(self, tokens):
    return [0] * len(tokens)

  def tokenize(self, text):
    raise AssertionError("tokenized again")


def records(path):
  """Parsed rows of a TFRecord file: dictionaries of lists."""
  rows = []
  for record in tf.python_io.tf_record_iterator(path):
    by_name = tf.train.Example.FromString(record).features.feature
    rows.append({k: list(v.int64_list.value) for k, v in by_name.items()})
  return rows


def cut_in_turn(first, second, room):
  """The 2018 rule, a token at a time."""
  first, second = list(first), list(second)
  while len(first) + len(second) > room:
    (first if len(first) > len(second) else second).pop()
  return first, second


def test_pairs_are_cut_as_token_by_token():
  source = random.Random(0)
  for _ in range(3000):
    first = list(range(source.randrange(30)))
    second = list(range(100, 100 + source.randrange(1, 30)))
    length = source.randrange(5, 40)
    expected = cut_in_turn(first, second, length - 3)
    assert truncate(first, second, length) == expected


def test_a_single_text_keeps_its_beginning(tokenizer):
  row = convert_single_example(9, InputExample("g", "t " * 9), [], 6, tokenizer)
  start, end, word = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", "t"])
  assert row.input_ids == [start, word, word, word, word, end]
  assert row.input_mask == [1] * 6 and row.segment_ids == [0] * 6


@pytest.mark.parametrize("text_b", [None, "", " \u200d", "\0"])
def test_a_second_text_without_tokens_is_none(tokenizer, text_b):
  example = InputExample("g", "t u", text_b, "b")
  row = convert_single_example(9, example, ["a", "b"], 8, tokenizer)
  assert row.input_mask == [1, 1, 1, 1, 0, 0, 0, 0]
  assert row.segment_ids == [0] * 8 and row.label_id == 1


def test_a_second_text_cut_to_nothing_leaves_the_single_form(tokenizer):
  pair = InputExample("g", "t", "t", None)
  row = convert_single_example(9, pair, [], 4, tokenizer)
  single = convert_single_example(9, InputExample("g", "t"), [], 4, tokenizer)
  assert row.as_dict() == single.as_dict()


def test_padding_is_zeros_of_no_weight(tokenizer):
  row = convert_single_example(9, PaddingInputExample(), ["a"], 3, tokenizer)
  assert set(itertools.chain(*row.as_dict().values())) == {0}


def test_an_unknown_label_is_named(tokenizer):
  example = InputExample("train-3", "t", None, "maybe")
  with pytest.raises(ValueError, match="train-3: the label 'maybe' .* no, yes"):
    convert_single_example(9, example, ["no", "yes"], 8, tokenizer)


@pytest.mark.quick
@pytest.mark.parametrize(("split", "name"), SPLITS)
def test_records_equal_the_originals(cache, golden_task, split, name):
  ours = records(cache().features(split).path)
  theirs = records(f"{golden_task}/{name}.tf_record")
  assert ours == theirs and len(ours) > 10


@pytest.mark.quick
@pytest.mark.parametrize(("split", "name"), SPLITS)
def test_lists_of_features_equal_the_originals_records(
  golden_task, tokenizer, tmp_path, split, name
):
  examples = list(MrpcProcessor().examples(f"{golden_task}/data", split))
  arguments = (examples, ["0", "1"], 24, tokenizer)
  listed = features.convert_examples_to_features(*arguments)
  path = str(tmp_path / "made.tf_record")
  features.file_based_convert_examples_to_features(*arguments, path)
  theirs = records(f"{golden_task}/{name}.tf_record")
  assert [row.as_dict() for row in listed] == theirs == records(path)


def of_tensorflow(values):
  """The tf.train.Example of a dictionary of lists."""
  example = tf.train.Example()
  for name, numbers in values.items():
    example.features.feature[name].int64_list.value.extend(numbers)
  return example


def test_serialized_is_what_tensorflow_parses():
  numbers = [0, 1, 127, 128, 2**14, 2**31, 2**63 - 1, -1, -(2**63)]
  row = features.InputFeatures(numbers, [1, 0, 1], [], 300, False)
  parsed = tf.train.Example.FromString(features.serialize(row))
  assert parsed == of_tensorflow(row.as_dict())


class Numbers:
  """A tokenizer of texts that are ids."""

  def convert_tokens_to_ids(self, tokens):
    return [{"[CLS]": 101, "[SEP]": 102}.get(t) or int(t) for t in tokens]

  def tokenize(self, text):
    return text.split()


@pytest.mark.parametrize("length", [5, 24, 128, 300])
def test_a_record_is_what_tensorflow_parses(length):
  source = random.Random(length)
  convert = features.Converter(range(300), length, Numbers())

  def text(shortest):
    ids = [
      source.randrange(2 ** source.randrange(1, 21)) for _ in range(length)
    ]
    return " ".join(map(str, ids[: source.randrange(shortest, length)]))

  for _ in range(300):
    label = source.randrange(300)
    example = InputExample("g", text(0), text(0), label)
    parsed = tf.train.Example.FromString(convert.record(convert.row(example)))
    assert parsed == of_tensorflow(convert(example).as_dict())


class Reversing(tokenization.FullTokenizer):
  def tokenize(self, text):
    return super().tokenize(text)[::-1]


class Unknown(tokenization.FullTokenizer):
  def convert_tokens_to_ids(self, tokens):
    return [7] * len(tokens)


@pytest.mark.parametrize("kind", [Reversing, Unknown])
def test_a_subclass_has_its_way(golden_task, kind):
  own = kind(f"{golden_task}/vocab.txt")
  row = convert_single_example(9, InputExample("g", "t u"), [], 4, own)
  expected = own.convert_tokens_to_ids(own.tokenize("t u"))
  plain = tokenization.FullTokenizer(f"{golden_task}/vocab.txt")
  others = plain.convert_tokens_to_ids(plain.tokenize("t u"))
  assert row.input_ids[1:3] == expected != others


def test_a_replaced_method_has_its_way(tokenizer):
  tokenizer.tokenize = lambda text: ["u"] * 2
  row = convert_single_example(9, InputExample("g", "t"), [], 4, tokenizer)
  assert row.input_ids[1:3] == tokenizer.convert_tokens_to_ids(["u", "u"])


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "of 2018"])
def test_files_are_read_row_by_row_in_order(cache, golden_task, ours):
  import run_classifier

  path = f"{golden_task}/eval.tf_record"
  build = run_classifier.file_based_input_fn_builder
  input_fn = build(
    cache().features("dev").path if ours else path, 24, False, False
  )
  with tf.Graph().as_default(), tf.Session() as session:
    batch = tf.data.make_one_shot_iterator(input_fn({"batch_size": 8}))
    batch = batch.get_next()
    batches = [session.run(batch) for _ in range(3)]
  for name in features.feature_spec(24):
    read = np.concatenate([b[name] for b in batches])
    expected = np.squeeze([row[name] for row in records(path)])
    assert read.dtype == np.int32 and (read == expected).all()


def test_the_first_five_examples_are_logged(cache, info):
  cache().features("dev")
  guids = [m for m in info.messages if m.startswith("guid: ")]
  assert guids == [f"guid: dev-{number}" for number in range(1, 6)]
  assert "label: 1 (id = 1)" in info.messages
  assert any(m.startswith("tokens: [CLS] p ##e ##x") for m in info.messages)


def test_a_second_run_does_not_tokenize_and_says_so(cache, info):
  first = cache().features("dev")
  again = cache(tokenizer=Unusable())
  assert again.count("dev") == 21 and again.features("dev") == first
  assert f"dev: 21 rows, converted before, in {first.path}" in info.messages


def test_the_manifest_says_what_the_rows_were_made_of(cache, golden_task):
  path = Path(cache().features("dev").path)
  assert path.name.startswith("cached_dev_24_mrpc_")
  manifest = json.loads(path.with_suffix(".json").read_text())
  assert manifest["inputs"] == {
    "source": files.digest(f"{golden_task}/data/dev.tsv"),
    "vocabulary": "v",
    "do_lower_case": True,
    "max_seq_length": 24,
    "labels": ["0", "1"],
    "language": None,
    "task": "mrpc",
    "split": "dev",
    "format_version": features.FORMAT_VERSION,
  }
  lengths = [sum(row["input_mask"]) for row in records(str(path))]
  assert manifest["records"] == len(lengths) == 21
  assert manifest["truncated"] == 20 == lengths.count(24)
  assert manifest["truncated_tokens"] == 306 and manifest["blank"] == 0


class ThreeLabels(MrpcProcessor):
  labels = ("0", "1", "2")


@pytest.mark.parametrize(
  ("changed", "named"),
  [
    (dict(vocabulary="w"), "vocabulary"),
    (dict(do_lower_case=False), "do_lower_case"),
    (dict(processor=ThreeLabels()), "labels"),
    (dict(processor=ThreeLabels(), vocabulary="w"), "labels, vocabulary"),
  ],
)
def test_a_changed_input_makes_a_new_file_and_is_named(
  cache, info, changed, named
):
  old = cache().features("dev").path
  new = cache(**changed).features("dev").path
  assert new != old and os.path.exists(old)
  manifest = old.replace(".tf_record", ".json")
  reason = f"dev: not the rows of {manifest}, for these differ: {named}"
  assert reason in info.messages


def test_a_file_is_read_for_its_digest_once(cache, monkeypatch):
  calls, digest = [], MrpcProcessor.source_digest
  monkeypatch.setattr(
    MrpcProcessor,
    "source_digest",
    lambda *args: calls.append(args) or digest(*args),
  )
  one = cache()
  one.source_digest("dev"), one.count("dev"), one.features("dev")
  assert len(calls) == 1


def test_another_length_or_source_makes_a_new_file(cache, monkeypatch, info):
  paths = {cache(length=n).features("dev").path for n in (24, 23)}
  monkeypatch.setattr(MrpcProcessor, "source_digest", lambda *_: "other")
  paths.add(cache().features("dev").path)
  monkeypatch.setattr(features, "FORMAT_VERSION", features.FORMAT_VERSION + 1)
  paths.add(cache().features("dev").path)
  assert len(paths) == 4 and "these differ: source" in info.text


def spoil(path, how):
  with open(path, "r+b") as file:
    if how == "cut off":
      file.truncate(os.path.getsize(path) - 1)
    else:  # one byte in the middle
      file.seek(os.path.getsize(path) // 2)
      file.write(b"\xff")


@pytest.mark.parametrize("how", ["cut off", "damaged"])
def test_a_spoilt_file_is_found_and_made_anew(cache, golden_task, info, how):
  path = cache().features("dev").path
  spoil(path, how)
  again = cache()
  assert again.count("dev") == 21 and again.features("dev").path == path
  assert records(path) == records(f"{golden_task}/eval.tf_record")
  warned = [m for m in info.messages if "damaged" in m]
  assert len(warned) == 1 and path in warned[0]


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"records": 21}'])
def test_a_spoilt_manifest_makes_the_rows_anew(cache, content):
  manifest = Path(cache().features("dev").path).with_suffix(".json")
  manifest.unlink()
  if content is not None:
    manifest.write_text(content)
  assert cache().features("dev").records == 21
  assert json.loads(manifest.read_text())["records"] == 21


def test_an_error_while_converting_leaves_nothing(cache, tmp_path):
  with pytest.raises(AssertionError, match="tokenized again"):
    cache(tokenizer=Unusable()).features("dev")
  assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_change_no_byte(cache, golden_task, small_chunks, processes):
  alone = cache().features("train")
  written, manifest = files.digest(alone.path), alone.path[:-9] + "json"
  counts = files.read_json(manifest)
  os.remove(manifest)
  several = cache(processes=processes).features("train")
  assert several == alone and files.digest(alone.path) == written
  assert files.read_json(manifest) == counts
  assert records(alone.path) == records(f"{golden_task}/train.tf_record")


class Counted(InputExample):
  alive = most = 0

  def __init__(self, *arguments, **keywords):
    super().__init__(*arguments, **keywords)
    Counted.alive += 1
    Counted.most = max(Counted.most, Counted.alive)

  def __del__(self):
    Counted.alive -= 1


class Endless(MrpcProcessor):
  """10 000 rows in sequence, of which it knows how many were asked for."""

  read = 0

  def source_digest(self, data_dir, split):
    return "endless"

  def examples(self, data_dir, split, tally=None):
    for self.read in range(1, 10001):
      yield Counted(f"g-{self.read}", "t u", None, "0")


@pytest.mark.parametrize("processes", [1, 2])
def test_few_examples_are_alive_at_a_time(cache, small_chunks, processes):
  Counted.most = 0
  found = cache(Endless(), processes=processes).features("train")
  assert found.records == 10000 and Counted.most < 10


@pytest.mark.parametrize("processes", [1, 2])
def test_few_rows_are_read_that_are_not_written(
  cache, small_chunks, processes, monkeypatch
):
  rows, ahead = Endless(), []
  write = features.tf.io.TFRecordWriter.write
  monkeypatch.setattr(
    features.tf.io.TFRecordWriter,
    "write",
    lambda *args: ahead.append(rows.read - len(ahead)) or write(*args),
  )
  found = cache(rows, processes=processes).features("train")
  assert found.records == len(ahead) == 10000
  assert max(ahead) < 30


def test_an_error_among_processes_names_file_and_line(
  cache, golden_task, small_chunks, monkeypatch, tmp_path
):
  lines = Path(f"{golden_task}/data/dev.tsv").read_text().splitlines()
  lines[15] = "maybe" + lines[15][1:]
  bad = tmp_path / "bad.tsv"
  bad.write_text("\n".join(lines))
  monkeypatch.setattr(MrpcProcessor, "path", lambda *_: str(bad))
  with pytest.raises(ValueError, match=r"bad\.tsv:16: the label 'maybe'"):
    cache(processes=2).features("dev")
  assert os.listdir(tmp_path) == ["bad.tsv"]


class Failing(tokenization.FullTokenizer):
  """Fails in another process than its own, in one way or another."""

  def __init__(self, vocab_file, fail):
    super().__init__(vocab_file)
    self.fail, self.home = fail, os.getpid()

  def tokenize(self, text):
    if os.getpid() != self.home:
      self.fail()
    return super().tokenize(text)


def refuse():
  raise ValueError("no such text")


@forks
@pytest.mark.parametrize(
  ("fail", "error"),
  [(refuse, "no such text"), (lambda: os._exit(9), "terminated abruptly")],
)
def test_a_failing_process_is_an_error(
  cache, golden_task, small_chunks, tmp_path, fail, error
):
  tokenizer = Failing(f"{golden_task}/vocab.txt", fail)
  with pytest.raises((ValueError, RuntimeError), match=error):
    cache(tokenizer=tokenizer, processes=2).features("dev")
  assert os.listdir(tmp_path) == []


# Converts the golden task's dev set; `at(n)` is called before the nth text of
# each process.
CONVERSION = """
import os, signal, sys, time
# Ctrl-C works here even if the tests run where it is ignored, as behind nohup.
signal.signal(signal.SIGINT, signal.default_int_handler)
from bert_classifier import features, tasks
import tokenization
task, folder, me = sys.argv[1:]
features.ROWS_ALONE, features.CHUNK_ROWS = 2, 3
class Tokenizer(tokenization.FullTokenizer):
  texts = 0
  def tokenize(self, text):
    Tokenizer.texts += 1
    at(Tokenizer.texts)
    return super().tokenize(text)
def cache():
  return features.FeatureCache(
    tasks.MrpcProcessor(), "mrpc", data_dir=task + "/data", cache_dir=folder,
    max_seq_length=24, tokenizer_inputs={"vocabulary": "v", "do_lower_case": 1},
    tokenizer=Tokenizer(task + "/vocab.txt"),
    num_processes=2 if me == "several" else 1)
"""


def start(at, task, folder, name):
  """Starts a conversion, in two more processes if its name is "several"."""
  code = CONVERSION + textwrap.dedent(at) + "\ncache().features('dev')\n"
  return subprocess.Popen(
    [sys.executable, "-c", code, task, str(folder), name],
    cwd=ROOT,
    stderr=subprocess.DEVNULL,
  )


def convert(at, task, folder, *names):
  """Runs a conversion in a process for each of `names`; their exit codes."""
  runs = [start(at, task, folder, name) for name in names]
  return [run.wait(timeout=120) for run in runs]


def test_a_killed_conversion_leaves_nothing_under_the_real_name(
  golden_task, tmp_path
):
  kill = """
    def at(text):
      if text == 30:
        os.kill(os.getpid(), 9)
  """
  assert convert(kill, golden_task, tmp_path, "me") == [-9]
  (left,) = os.listdir(tmp_path)
  assert ".tf_record.tmp-" in left
  go_on = "def at(text): pass"
  assert convert(go_on, golden_task, tmp_path, "me") == [0]
  (path,) = tmp_path.glob("*.tf_record")
  assert len(os.listdir(tmp_path)) == 2  # and what was left is gone
  assert records(str(path)) == records(f"{golden_task}/eval.tf_record")


def test_two_conversions_at_once_leave_one_whole_file(golden_task, tmp_path):
  wait = """
    def at(text):
      if text == 20:  # both are in the middle of it
        open(os.path.join(folder, me), "w").close()
        began = time.time()
        while not all(os.path.exists(os.path.join(folder, n)) for n in "ab"):
          assert time.time() - began < 100
          time.sleep(0.01)
  """
  assert convert(wait, golden_task, tmp_path, "a", "b") == [0, 0]
  names = sorted(os.listdir(tmp_path))
  assert [os.path.splitext(n)[1] for n in names if n not in "ab"] == [
    ".json",
    ".tf_record",
  ]
  path = str(tmp_path / names[-1])
  assert records(path) == records(f"{golden_task}/eval.tf_record")


def wait_for(condition):
  """Waits until `condition()` is true, and gives what it is then."""
  began = time.monotonic()
  while not (value := condition()):
    assert time.monotonic() - began < 60
    time.sleep(0.05)
  return value


def is_running(pid):
  try:
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
  except (FileNotFoundError, ProcessLookupError):
    return False
  return state != "Z"


@forks
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_its_parent(golden_task, tmp_path, number):
  wait = """
    home = os.getpid()
    def at(text):
      if os.getpid() != home:
        open(os.path.join(folder, f"{os.getpid()}.pid"), "w").close()
        time.sleep(3)
  """
  run = start(wait, golden_task, tmp_path, "several")
  pids = wait_for(lambda: [p.stem for p in tmp_path.glob("*.pid")])
  run.send_signal(number)
  assert run.wait(timeout=60) != 0
  wait_for(lambda: not any(map(is_running, pids)))
  left = [name for name in os.listdir(tmp_path) if not name.endswith(".pid")]
  assert not any(name.endswith(".tf_record") for name in left)
  assert number == signal.SIGKILL or left == []
