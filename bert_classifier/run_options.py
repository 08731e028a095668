"""The flags of what to do and where to, and what follows from them.

Nothing of TensorFlow: flags are read before it is imported.
"""

import dataclasses
from typing import Optional

from bert_classifier.flag_fields import flag


@dataclasses.dataclass(frozen=True)
class RunOptions:
  """What to do, and where to"""

  output_dir: Optional[str] = flag(
    None, "Folder of checkpoints, results and predictions.", is_path=True
  )
  do_train: bool = flag(False, "Train on the training set.")
  do_eval: bool = flag(False, "Evaluate on the dev set.")
  do_predict: bool = flag(False, "Predict the test set.")
  do_embed: bool = flag(
    False,
    "Write a vector for each text of the test set, by the encoder: no head and"
    " no labels are needed (docs/huggingface.md).",
  )
  do_export: bool = flag(
    False,
    "Write the model as a SavedModel into output_dir/export (docs/serving.md).",
  )
  predict_text: Optional[str] = flag(
    None,
    "Predict this text; the answer is a line of JSON on standard output"
    " (docs/output.md).",
  )
  predict_text_b: Optional[str] = flag(
    None, "The second text where predict_text is one of a pair."
  )
  predict_file: Optional[str] = flag(
    None,
    "Predict each line of this file, - for standard input: a text, or a JSON"
    " object with text and text_b. Each answer is a line of JSON on standard"
    " output.",
    is_path=True,
  )
  export_hf: Optional[str] = flag(
    None,
    "Folder to be made: the trained classifier in the form of Hugging Face's"
    " library (docs/huggingface.md).",
    is_path=True,
  )
  export_onnx: Optional[str] = flag(
    None,
    "Folder to be made: the trained classifier for ONNX Runtime"
    " (docs/serving.md). Needs the packages tf2onnx and onnxruntime.",
    is_path=True,
  )
  dry_run: bool = flag(
    False,
    "Read everything, take a few steps and report on data, weights, time and"
    " memory of what the other flags ask for; write nothing.",
  )
  dry_run_file: Optional[str] = flag(
    None, "File for the report of dry_run as JSON.", is_path=True
  )
  use_best: bool = flag(
    False,
    "Evaluate, predict, embed, export and answer with the weights in"
    " output_dir/best, those of the best evaluation (eval_every_steps), instead"
    " of the last.",
  )
  resume: bool = flag(
    False, "Go on from output_dir's checkpoint although settings differ."
  )
  overwrite_output_dir: bool = flag(
    False,
    "Train from the start: remove from output_dir the files that an earlier"
    " run wrote.",
  )

  @property
  def reads_data(self):
    """Returns whether a split of the task is asked for."""
    return self.uses_labels or self.do_embed

  @property
  def uses_labels(self):
    """Returns whether a split is asked for whose labels or answers count."""
    return self.do_train or self.do_eval or self.do_predict

  @property
  def uses_head(self):
    """Returns whether anything needs more than the encoder."""
    return (
      self.uses_labels
      or self.answers
      or self.do_export
      or bool(self.export_hf or self.export_onnx)
    )

  @property
  def answers(self):
    """Returns whether texts that are in no split are to be predicted."""
    return self.predict_text is not None or self.predict_file is not None

  @property
  def fills_folder(self):
    """Returns whether something is asked for that output_dir is to hold."""
    return self.reads_data or self.do_export

  @property
  def writes(self):
    """Returns whether output_dir is written."""
    return self.fills_folder and not self.dry_run
