"""Where each layer runs: on the NPU, on the CPU beside it, or nowhere, and why.

From the vendor's public lists, RKNNToolKit2_OP_Support: the limits of 1.4.0 and the operators of v2.1.0, in the folder
doc of https://github.com/rockchip-linux/rknn-toolkit2 and https://github.com/airockchip/rknn-toolkit2.
Two traps are of its compiler's verbose tables: large Transpose and LayerNormalization run on the CPU.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal

from halve.edge import operators
from halve.edge.layers import Dtype, Layer
from halve.edge.targets import Target

Unit = Literal["NPU", "CPU", "none"]
_CHANNELS = 8192
_SIZES = (("channels", _CHANNELS), ("height", 8192), ("width", 8176))
_TRANSPOSED = 1 << 16  # elements: smaller ones the NPU moves itself


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a layer runs, in what type, and why if not on the NPU in the type asked for. ``none``: it is refused."""

    unit: Unit
    dtype: Dtype
    reason: str = ""

    @property
    def text(self) -> str:
        """As tables show it."""
        return {"NPU": f"NPU {self.dtype}", "CPU": "CPU", "none": "refused"}[self.unit]


def place(layer: Layer, target: Target, dtype: Dtype) -> Placement:
    """Where ``layer`` runs on ``target`` in a model that is to run in ``dtype``."""
    wanted = layer.dtype or dtype
    if layer.op not in operators.NPU | operators.CPU:
        return Placement("none", wanted, f"{layer.op} is not in the toolkit's list of operators")
    if layer.op in operators.CPU:
        return Placement("CPU", wanted, f"{layer.op} has no NPU kernel")
    if (why := next(_beyond(layer, target), "")) != "":
        return Placement("CPU", wanted, why)
    reason = "" if wanted == dtype else f"stored in {wanted}"
    return Placement("NPU", wanted, reason)


def _beyond(layer: Layer, target: Target) -> Iterator[str]:
    """Which limits of the NPU ``layer`` breaks."""
    limits = _LIMITS.get(layer.op)
    if limits is not None:
        yield from limits(layer)
    if layer.op == "MatMul" and not layer.weights and target.name == "RK3568":
        yield "a product of two activations, which this NPU lacks"
    if layer.op in operators.BOUNDED and len(layer.output) == 4:
        for (name, limit), size in zip(_SIZES, layer.output[1:], strict=True):
            if size > limit:
                yield f"{name} {size}, more than {limit}"


def _window(kernel: int, strides: tuple[int, ...], pads: int) -> Callable[[Layer], Iterator[str]]:
    """Limits of what slides over an image."""

    def limits(layer: Layer) -> Iterator[str]:
        if max(layer.kernel, default=1) > kernel:
            yield f"kernel {max(layer.kernel)}, more than {kernel}"
        if any(stride not in strides for stride in layer.stride):
            yield f"stride {max(layer.stride)}, not one of {strides[0]} to {strides[-1]}"
        if max(layer.pads, default=0) > pads:
            yield f"padding {max(layer.pads)}, more than {pads}"

    return limits


def _transpose(layer: Layer) -> Iterator[str]:
    if prod(layer.output) > _TRANSPOSED:
        yield f"Transpose of {prod(layer.output)} elements, more than {_TRANSPOSED}"


def _softmax(layer: Layer) -> Iterator[str]:
    if layer.inputs[0][0] > 1:
        yield f"batch {layer.inputs[0][0]}, not 1"
    if layer.output[-1] > _CHANNELS:
        yield f"{layer.output[-1]} channels, more than {_CHANNELS}"


def _resize(layer: Layer) -> Iterator[str]:
    if "cubic" in layer.detail:
        yield f"{layer.detail}, not nearest or linear"
    if len(layer.output) == 4 and max(new / old for new, old in zip(layer.output, layer.inputs[0], strict=True)) > 8:
        yield "scaled by more than 8"


def _pad(layer: Layer) -> Iterator[str]:
    if layer.detail not in ("", "mode constant"):
        yield f"{layer.detail}, not constant"


_POOL = _window(343, tuple(range(1, 9)), 7)
_LIMITS: dict[str, Callable[[Layer], Iterator[str]]] = {
    "Conv": _window(31, tuple(range(1, 8)), 15),
    "ConvTranspose": _window(31, (1, 2, 4, 8), 15),
    "MaxPool": _POOL,
    "AveragePool": _POOL,
    "Transpose": _transpose,
    "Softmax": _softmax,
    "Resize": _resize,
    "Pad": _pad,
}
