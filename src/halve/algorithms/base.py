"""What an algorithm is: weights and what is known of their inputs in, codes out. No files, no model."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, Protocol

from halve.schemes import Block
from halve.schemes.qtensor import QTensor
from halve.schemes.quantize import ScaleRule, Weights
from halve.schemes.statistics import Statistics

Needs = Literal["nothing", "mean_square", "hessian"]


class Prepared(Protocol):
    """An algorithm that has seen a layer's statistics. Rows are independent: bands give what the whole gives."""

    def quantize(self, w: Weights, *, rule: ScaleRule | None = None, tensor_scale: float | None = None) -> QTensor:
        """Quantize a band of rows [out, in] under the tensor scale of its fused group.

        Raises FormatError for NaN or Inf in ``w`` and for columns that the block size does not divide.
        """
        ...


class Algorithm(ABC):
    """One way to choose codes and scales. A file in this package holds one, as ``ALGORITHM``."""

    name: ClassVar[str]
    about: ClassVar[str]
    needs: ClassVar[Needs]

    @abstractmethod
    def prepared(self, block: Block, statistics: Statistics | None) -> Prepared:
        """Ready for layers with these inputs: what all rows share (a factorised Hessian) is computed here, once.

        ``statistics`` may be None where ``needs`` is "nothing".
        """
