"""Several runs of one command: seeds, a sweep, an ensemble.

The flags of the group, and what they go with. docs/runs.md says when to use
which. Nothing of TensorFlow: flags are read before it is imported.
"""

import dataclasses
from typing import Optional

from bert_classifier.errors import UserError
from bert_classifier.flag_fields import Range, flag

# What is done with one model, which an ensemble is not.
OF_ONE_MODEL = (
  "do_embed",
  "do_export",
  "export_hf",
  "export_onnx",
  "predict_text",
  "predict_file",
)


@dataclasses.dataclass(frozen=True)
class SeveralOptions:
  """Several runs"""

  num_runs: int = flag(
    1,
    "Train as often, with --seed and the seeds after it, each in a folder of"
    " its own in output_dir/runs; mean and deviation are in runs.tsv and the"
    " report (Dodge et al. 2020, https://arxiv.org/abs/2002.06305).",
    Range(1),
  )
  sweep: Optional[str] = flag(
    None,
    "Train once for each combination of values of flags of training, as"
    " learning_rate=2e-5,3e-5,5e-5;num_train_epochs=2,3,4, and choose the best"
    " by the dev set (Devlin et al. 2019, appendix A.3,"
    " https://arxiv.org/abs/1810.04805). docs/runs.md lists the flags.",
  )
  ensemble: bool = flag(
    False,
    "Predict by the mean of the probabilities (or numbers) of all seeds of the"
    " best setting; needs --num_runs and --do_predict.",
  )

  @property
  def are_asked(self):
    """Returns whether a command has several runs, or one of a sweep."""
    return self.num_runs > 1 or self.sweep is not None

  def check(self, run, elsewhere=None):
    """Checks that the options go with what is asked for.

    Args:
      run: `run_options.RunOptions`.
      elsewhere: what names other devices than this process has, or None.

    Raises:
      UserError: they do not.
    """
    if self.ensemble and self.num_runs < 2:
      raise UserError(
        f"--ensemble is the mean of several seeds, but --num_runs is"
        f" {self.num_runs}: give --num_runs=5 or the like, or leave it out"
      )
    if not self.are_asked:
      return
    flags = " and ".join(self._name_flags())
    if elsewhere:
      raise UserError(
        f"{flags}: several runs are made one after the other by one process,"
        " on the CPU or the GPUs of this machine, and"
        f" {elsewhere} names others: leave one of the two out"
      )
    if not (run.do_train and run.do_eval):
      raise UserError(
        f"{flags}: several runs are trained and compared by the dev set: give"
        " --do_train and --do_eval. A run that is done is not done again"
      )
    if not self.ensemble:
      return
    if not run.do_predict:
      raise UserError(
        "--ensemble is about the predictions of the test set: add --do_predict,"
        " or leave it out"
      )
    for name in OF_ONE_MODEL:
      value = getattr(run, name)
      if value not in (None, False):
        raise UserError(
          f"--{name} is of one model, and --ensemble predicts with several:"
          " leave one out. Afterwards --output_dir=RUN with the folder of a run"
          f" and --{name} does it with the model of that run"
        )

  def _name_flags(self):
    if self.num_runs > 1:
      yield f"--num_runs={self.num_runs}"
    if self.sweep is not None:
      yield f"--sweep={self.sweep}"
