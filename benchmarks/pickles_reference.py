"""Writes tests/golden/pickles/: PyTorch's pickles in all their shapes.

Not part of the tests, which read only its output. In an environment of its own:

  pip install torch numpy
  python benchmarks/pickles_reference.py

Each .bin file holds the same few weights of a BERT, saved in another way. What
PyTorch itself reads from it, in float32, is in expected.npz, under FILE/NAME.
"""

import argparse
import collections
import pathlib

import numpy as np
import torch

WORDS = "bert.embeddings.word_embeddings.weight"
QUERY = "bert.encoder.layer.0.attention.self.query.weight"
BIAS = "bert.pooler.dense.bias"


def make_weights(dtype=torch.float32):
  """Returns weights, the matrices not contiguous nor at a storage's start."""
  numbers = torch.Generator().manual_seed(1)
  shared = torch.randn(100, generator=numbers).to(dtype)
  return collections.OrderedDict(
    {
      WORDS: shared[3:23].view(4, 5).t(),
      QUERY: shared[30:62].view(4, 8)[:, ::2],
      BIAS: torch.nn.Parameter(shared[90:94]),
    }
  )


def make_contents():
  """Returns {name of a file: (what is saved, arguments of torch.save)}."""
  weights = make_weights()
  old = {"_use_new_zipfile_serialization": False}
  tied = {**weights, "cls.predictions.decoder.weight": weights[WORDS]}
  lightning = {
    "state_dict": {f"model.{name}": value for name, value in weights.items()},
    "hyper_parameters": argparse.Namespace(rate=1e-4),
    "optimizer_states": [{"state": {0: {"exp_avg": weights[BIAS]}}}],
    "best": np.float64(0.5),
  }
  contents = {
    "archive": (weights, {}),
    "sequence": (weights, old),
    "tied": (tied, {}),
    "tied_sequence": (tied, old),
    "lightning": (lightning, {}),
    "lightning_sequence": (lightning, old),
    "module": ({f"module.{n}": v for n, v in weights.items()}, {}),
  }
  for dtype in (torch.float16, torch.bfloat16, torch.float64):
    name = str(dtype).partition(".")[2]
    contents[name] = (make_weights(dtype), {})
    contents[f"{name}_sequence"] = (make_weights(dtype), old)
  return contents


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  root = pathlib.Path(__file__).resolve().parent.parent
  parser.add_argument(
    "--folder", type=pathlib.Path, default=root / "tests/golden/pickles"
  )
  folder = parser.parse_args().folder
  folder.mkdir(parents=True, exist_ok=True)
  expected = {}
  for name, (content, arguments) in make_contents().items():
    path = folder / f"{name}.bin"
    torch.save(content, path, **arguments)
    loaded = torch.load(path, weights_only=False)
    loaded = loaded.get("state_dict", loaded)
    for key, value in loaded.items():
      expected[f"{name}/{key}"] = value.detach().float().numpy()
  model = torch.nn.Linear(2, 2)
  torch.save(model, folder / "whole_module.bin")
  np.savez_compressed(folder / "expected.npz", **expected)
  print(f"{folder}: {len(expected)} arrays")


if __name__ == "__main__":
  main()
