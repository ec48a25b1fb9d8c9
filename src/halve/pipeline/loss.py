"""What quantization has cost one weight."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TensorLoss:
    """The signal to quantization noise ratio of a weight; infinite where nothing was lost."""

    name: str
    sqnr_db: float
