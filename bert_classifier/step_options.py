"""How a step is computed: in which precision, in how many parts, what is kept.

The flags of the group, and which of them go with each other and with a device.
Nothing of TensorFlow: flags are read before it is imported.
"""

import dataclasses

from bert_classifier.errors import UserError
from bert_classifier.flag_fields import Range, flag


@dataclasses.dataclass(frozen=True)
class StepOptions:
  """Memory and precision of a step"""

  gradient_accumulation_steps: int = flag(
    1,
    "Equal parts of train_batch_size that a training step computes one after"
    " the other, for the memory of one part (docs/memory.md). The update is"
    " that of the whole batch; dropout falls on other elements.",
    Range(1),
  )

  def check(self, train_batch_size, replicas=1):
    """Checks that a batch can be computed so.

    Args:
      train_batch_size: examples of an update.
      replicas: devices that share them.

    Raises:
      UserError: the batch cannot be divided.
    """
    parts = self.gradient_accumulation_steps
    if train_batch_size % (parts * replicas):
      among = f" times {replicas} devices" * (replicas > 1)
      raise UserError(
        f"--train_batch_size is {train_batch_size}, but must be a multiple of"
        f" --gradient_accumulation_steps={parts}{among}: the parts of a step"
        " are of one size"
      )
