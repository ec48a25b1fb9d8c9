"""What a quantizer may know of a layer's inputs: statistics, seen through the transforms of a job."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from halve.checkpoint.base import TensorInfo
from halve.evaluate.operands import static_scale
from halve.layouts.base import module
from halve.pipeline.statistics import StatisticsFile
from halve.schemes import Scheme
from halve.schemes.statistics import Statistics
from halve.transforms.folding import Folding


@dataclass(frozen=True, slots=True)
class Calibration:
    """Statistics of a model that ``folding`` has rewritten; nothing is known without a ``file``."""

    file: StatisticsFile | None = None
    folding: Folding = field(default_factory=Folding)

    def of(self, weight: TensorInfo) -> Statistics | None:
        """What the layer with ``weight`` [out, in] is fed; None where the texts never reached it."""
        if self.file is None:
            return None
        found = self.folding.statistics(weight.name, self.file.of(weight.name, weight.columns))
        return found if found is not None and found.amax.any() else None

    def gradient_square(self, weight: TensorInfo) -> NDArray[np.float32] | None:
        """How much each output of the layer with ``weight`` matters to the model's loss; None where nobody knows."""
        return None if self.file is None else self.file.gradient_square(weight.name, weight.rows)

    def input_scale(self, weight: TensorInfo, scheme: Scheme) -> float | None:
        """The scale of the static activations of ``scheme``; None where there are none.

        A layer that the texts never reached, an expert for example, gets the scale of the largest inputs that layers
        of its name have had.
        """
        if not scheme.activation_static or scheme.activation is None or self.file is None:
            return None
        known = self.of(weight)
        amax = float(known.amax.max()) if known else self.file.largest(module(weight.name).rpartition(".")[2])
        return static_scale(scheme.activation, amax)
