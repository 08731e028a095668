"""How a step is computed: in which precision, in how many parts, what is kept.

The flags of the group, and which of them go with each other and with a device.
Nothing of TensorFlow: flags are read before it is imported.
"""

import dataclasses

from bert_classifier.errors import UserError
from bert_classifier.flag_fields import Choice, Range, flag

FLOAT32, BFLOAT16, FLOAT16 = "float32", "mixed_bfloat16", "mixed_float16"


@dataclasses.dataclass(frozen=True)
class StepOptions:
  """Precision and memory of a step"""

  precision: str = flag(
    FLOAT32,
    "Of the matrix products; weights, sums, LayerNorm, softmax and loss are"
    " float32 always (docs/precision.md). mixed_float16 scales the loss.",
    Choice((FLOAT32, BFLOAT16, FLOAT16)),
  )
  gradient_accumulation_steps: int = flag(
    1,
    "Equal parts of train_batch_size that a training step computes one after"
    " the other, for the memory of one part (docs/memory.md). The update is"
    " that of the whole batch; dropout falls on other elements.",
    Range(1),
  )
  gradient_checkpointing: bool = flag(
    False,
    "Keep of each layer only what it reads, and compute the rest again for its"
    " gradient: less memory, a third more time, the same results.",
  )

  @property
  def scales_loss(self):
    """Returns whether gradients would become 0 without a loss scale."""
    return self.precision == FLOAT16

  def check_division(self, size, replicas=1):
    """Checks that a training batch can be computed in so many parts.

    Args:
      size: examples of the batch.
      replicas: devices that share it.

    Raises:
      UserError: it cannot.
    """
    parts = self.gradient_accumulation_steps
    if size % (parts * replicas):
      among = f" times {replicas} devices" * (replicas > 1)
      raise UserError(
        f"--train_batch_size is {size}, but must be a multiple of"
        f" --gradient_accumulation_steps={parts}{among}: the parts of a step"
        " are of one size"
      )

  def check_device(self, device):
    """Checks that the options go with the device.

    Args:
      device: `device_options.DeviceOptions`.

    Raises:
      UserError: they do not.
    """
    if device.use_tpu and self.precision == FLOAT16:
      raise UserError(
        f"--precision={FLOAT16} cannot be had on a TPU, which computes in"
        f" bfloat16: give --precision={BFLOAT16}"
      )
    if device.use_tpu and device.use_xla:
      raise UserError(
        "--use_xla is for CPU and GPU, and a TPU compiles all it computes:"
        " leave it out"
      )
