"""Holds an export against Hugging Face's library, on real texts.

In the project's environment, on a folder that was trained on single texts, for
one class, several labels or a number:

  python benchmarks/hugging_face_export.py --output_dir=cola_output \\
    --texts=glue/CoLA/test.tsv --hf_python=.venv-hf/bin/python

where .venv-hf is an environment of its own, with `pip install torch
transformers sentence-transformers` (the last may be missing). --hf_python may
be given several times, for several versions. It exports the folder, tokenizes
the last column of the file and the golden Unicode texts here and there,
computes the first of them (--computed), and prints

  kind          what transformers takes it for, and its labels
  ids           texts whose tokens are others there
  logits        the largest difference of the texts whose tokens are the same
  pipeline      the largest difference of the probabilities, or of the number,
                that transformers.pipeline gives
  cross encoder what CrossEncoder of sentence-transformers gives, if it opens
  back          whether --init_checkpoint of the export has the same weights
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
_MOST_PAIRS = 10


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--output_dir", help="a trained folder")
  parser.add_argument("--texts", help="TSV file, its last column the text")
  parser.add_argument("--count", type=int, default=200, help="of these texts")
  parser.add_argument("--computed", type=int, default=300, help="of them all")
  parser.add_argument(
    "--hf_python", action="append", help="Python that has transformers"
  )
  parser.add_argument("--child", help="folder of an export; texts on stdin")
  arguments = parser.parse_args()
  if arguments.child:
    texts = json.load(sys.stdin)
    json.dump(
      compute_there(arguments.child, texts, arguments.computed), sys.stdout
    )
    return
  with open(arguments.texts, encoding="utf-8") as file:
    lines = file.read().splitlines()[1 : arguments.count + 1]
  texts = [line.split("\t")[-1] for line in lines]
  golden = ROOT / "tests" / "golden" / "unicode" / "tokenization.jsonl"
  with open(golden, encoding="utf-8") as file:
    texts += [json.loads(line)["text"] for line in file]
  texts = [text for text in texts if text.strip()]
  with tempfile.TemporaryDirectory() as temporary:
    folder = os.path.join(temporary, "hf")
    here = compute_here(arguments.output_dir, folder, texts, arguments.computed)
    print("back:", compare_weights(arguments.output_dir, folder, temporary))
    for python in arguments.hf_python:
      command = [python, __file__, f"--child={folder}"]
      done = subprocess.run(
        [*command, f"--computed={arguments.computed}"],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=False,
      )
      if done.returncode:
        sys.exit(done.stderr)
      report(texts, here, json.loads(done.stdout))


def compute_here(output_dir, folder, texts, computed):
  """Exports a trained folder; returns ids, logits and scores, in lists.

  The scores are probabilities, or a number alone.
  """
  from bert_classifier import interactive, options, sharing
  import run_classifier

  run_classifier.main(
    run_classifier.FLAGS(
      ["", f"--output_dir={output_dir}", f"--export_hf={folder}"]
    )
  )
  run = run_classifier.preparation.prepare(
    options.make_options(output_dir=output_dir, predict_file="-")
  )
  model_fn = run_classifier.make_model_fn(run, None, run.placement)
  predictor = sharing.load_newest(
    run, lambda path: interactive.Predictor(run, model_fn, path)
  )
  examples = [interactive.make_example(t, None, run.task) for t in texts]
  outputs = list(predictor.predict(examples[:computed]))
  features = map(predictor.converter, examples)
  return {
    "ids": [f.input_ids[: sum(f.input_mask)] for f in features],
    "logits": [one["logits"].tolist() for one in outputs],
    "scores": [
      one["probabilities"].tolist()
      if "probabilities" in one
      else [one["value"].item()]
      for one in outputs
    ],
  }


def compare_weights(output_dir, folder, temporary):
  """Returns how many weights come back from an export to the bit."""
  import tensorflow.compat.v1 as tf

  from bert_classifier import checkpoints

  prefix = checkpoints.open_checkpoint(folder).convert_to_tensorflow(
    os.path.join(temporary, "back.ckpt")
  )
  before, after = map(tf.train.load_checkpoint, (output_dir, prefix))
  names = list(after.get_variable_to_shape_map())
  same = sum(
    before.get_tensor(name).tobytes() == after.get_tensor(name).tobytes()
    for name in names
  )
  return f"{same} of {len(names)} weights are the same to the bit"


def compute_there(folder, texts, computed):
  """Returns what their libraries make of texts, in lists."""
  import torch
  import transformers

  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  model = transformers.AutoModelForSequenceClassification.from_pretrained(
    folder
  ).eval()
  logits, ids = [], []
  for text in texts:
    inputs = tokenizer(text, truncation=True, return_tensors="pt")
    ids.append(inputs["input_ids"][0].tolist())
    if len(ids) > computed:
      continue
    with torch.inference_mode():
      logits.append(model(**inputs).logits[0].tolist())
  classify = transformers.pipeline("text-classification", model=folder)
  is_number = model.config.problem_type == "regression"
  how = {"function_to_apply": "none"} if is_number else {}
  answers = classify(texts[:computed], truncation=True, top_k=None, **how)
  order = model.config.label2id
  return {
    "versions": {
      library.__name__: library.__version__ for library in (transformers, torch)
    },
    "kind": [model.config.problem_type, order],
    "ids": ids,
    "logits": logits,
    "pipeline": [
      [a["score"] for a in sorted(one, key=lambda a: order[a["label"]])]
      for one in answers
    ],
    "cross_encoder": compute_pairs(folder, texts[:_MOST_PAIRS]),
  }


def compute_pairs(folder, texts):
  """Returns what a CrossEncoder gives for texts, each with an empty one."""
  try:
    import sentence_transformers
  except ImportError:  # it, or what it needs
    return ["is not installed: nothing"]

  encoder = sentence_transformers.CrossEncoder(folder, device="cpu")
  return encoder.predict([(text, "") for text in texts]).tolist()


def report(texts, here, there):
  import numpy as np

  print(there["versions"])
  print("kind:", *there["kind"])
  same = [a == b for a, b in zip(here["ids"], there["ids"])]
  print(f"ids: {len(same) - sum(same)} of {len(same)} texts have others there")
  for text, is_same, a, b in zip(texts, same, here["ids"], there["ids"]):
    if not is_same:
      print(f"  {ascii(text)[:60]}: {len(a)} here, {len(b)} there")
  for name, ours in (("logits", "logits"), ("pipeline", "scores")):
    differences = np.abs(np.array(here[ours]) - np.array(there[name]))
    compared = differences[same[: len(differences)]]
    print(f"{name} of {len(compared)}: at most {compared.max():.2e} apart")
  print(f"cross encoder: {there['cross_encoder'][0]} of the first text")


if __name__ == "__main__":
  main()
