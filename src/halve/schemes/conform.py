"""The arithmetic of other tools, operation by operation, so that a user can prove that halve chose the same bytes.

halve rounds once, from float32 (`schemes.quantize`). Other tools round also in between, in the dtype D of the weights,
and order their divisions otherwise; that changes a code in a million in FP32 and many more in BF16. With r(x) for
"rounded to D", everything else in float32, and amax of a block (of the fused group for G and g):

                      compressed-tensors        ModelOpt                    torchao
    NVFP4 tensor      G = r(r(1 / amax) 2688)   g = amax / 2688             g = amax / 2688, never shared
          scale       G r(amax / 6)             amax / (6 g)                amax / 6 / g
          range       .. 448; 0 becomes 1/8     2^-9 .. 448; 0 becomes 1    2^-6 .. 448
          code of     w / (scale / G)           w / (scale g)               w ((1 / g) / scale)
    MX    scale       even, to E2M1's mantissa  ceil(log2(amax / max))      the same, or floor, or even
          code of     r(w / scale)              w / scale                   w / scale; w where the scale is 2^-127
    FP8   scale       r(amax / 448)             amax / 448                  r(amax / 448)
          code of     r(w / scale)              w / scale (row), r() of it  w / scale
                                                for one scale a tensor
    INT   scale       r(amax / (max + 1/2))     amax / max                  r(amax / (max + 1/2)), INT8 >= 2^-23
          code of     r(w / scale)              w / scale                   r(w r(1 / scale)), INT8 w (1 / scale)

All round codes to nearest even, but for ModelOpt's MXFP4, which rounds ties toward zero. Read in llm-compressor 0.14
with compressed-tensors 0.19, in the Hugging Face export of ModelOpt 0.47 and in torchao 0.18, and compared with them by
`benchmarks/conform.py`. Where a tool stores NaN or stops with an error (an all-zero tensor in NVFP4, an all-zero row in
FP8, both but for compressed-tensors) there is nothing to equal, and the scale is 1 as elsewhere in halve.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from halve import formats
from halve.codecs import dispatch, reference
from halve.errors import UnknownNameError, UnsupportedError
from halve.formats import Float
from halve.schemes.qtensor import QTensor
from halve.schemes.quantize import ScaleRule, Weights, absmax, nonfinite_error
from halve.schemes.table import Block

Array = NDArray[np.float32]
Kind = Literal["NVFP4", "MX", "FP8", "INT", "UINT"]

_ONE = np.float32(1)


def kind_of(block: Block) -> Kind | None:
    """Which rows of the table above hold for ``block``; None where none does."""
    scale = "float" if block.scale in ("fp32", "bf16", "fp16") else block.scale
    match block.element, scale, block.block_size:
        case "fp4_e2m1", "ue4m3", 16 if block.tensor_scale:
            return "NVFP4"
        case "fp4_e2m1" | "fp8_e4m3", "e8m0", 32:
            return "MX"
        case "fp8_e4m3", "float", "row" | "tensor":
            return "FP8"
        case "int4" | "int8", "float", "row" | int():
            return "INT"
        case "uint4", "float", "row" | int() if block.zero_point:
            return "UINT"
    return None


@dataclass(frozen=True, slots=True)
class Blocks:
    """Weights in blocks [block row, block column, weight], and the dtype that they came in."""

    x: Array
    dtype: np.dtype[np.floating]

    @property
    def amax(self) -> Array:
        """Largest magnitude of each block."""
        largest: Array = np.abs(self.x).max(-1, initial=0)
        return largest

    def r(self, numbers: NDArray[np.floating] | np.floating) -> Array:
        """``numbers`` rounded to the dtype of the weights."""
        with np.errstate(over="ignore"):  # FP16 overflows, and so it does there
            return np.asarray(numbers, np.float32).astype(self.dtype).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Chosen:
    """Scales as stored, and what each weight's code is the nearest of."""

    scales: Array
    quotients: Array
    zeros: Array | None = None


class Tool(ABC):
    """One tool's way from weights to codes."""

    name: ClassVar[str]
    about: ClassVar[str]
    fuses: ClassVar[bool] = True  # whether q/k/v and gate/up share a tensor scale

    def refusal(self, block: Block) -> str:
        """Why the tool cannot be followed for ``block``; empty where it can."""
        if kind_of(block) in (None, "UINT"):
            return f"{self.name} was not compared with halve on {block.element} with {block.scale} scales"
        return ""

    def rules(self, block: Block) -> tuple[ScaleRule, ...]:
        """Rules for power-of-two scales that the tool has, its default first; none for other scales."""
        return ("rceil",) if block.scale == "e8m0" else ()

    def tensor_scale(self, block: Block, amax: float, dtype: np.dtype[np.floating]) -> float | None:
        """The tensor scale for weights of ``dtype`` with this largest magnitude; None where ``block`` has none.

        In float64, because compressed-tensors stores the reciprocal: ``float32(1 / tensor_scale)`` is its number.
        """
        if not block.tensor_scale:
            return None
        return self._tensor_scale(amax, dtype) if amax > 0 else 1.0

    def quantize(
        self, block: Block, w: Weights, *, rule: ScaleRule | None = None, tensor_scale: float | None = None
    ) -> QTensor:
        """Quantize ``w`` [out, in], whose dtype counts, as the tool does; ``tensor_scale`` as of :meth:`tensor_scale`.

        Raises FormatError for NaN or Inf in ``w`` and for columns that the block size does not divide,
        UnsupportedError for blocks and scale rules that the tool does not have.
        """
        if why := self.refusal(block):
            raise UnsupportedError(why, hint="leave out --conform, or choose another scheme")
        rules = self.rules(block)
        if rule is not None and rule not in rules:
            raise UnsupportedError(
                f"{self.name} has no scale rule {rule!r} for {block.element} with {block.scale} scales",
                hint=f"use {' or '.join(rules)}" if rules else "leave out the rule: its arithmetic is its own",
            )
        rows, columns = w.shape
        shape = block.scale_shape(rows, columns)
        x = w.astype(np.float32)
        if not np.isfinite(x).all():
            raise nonfinite_error(w)
        if block.tensor_scale and tensor_scale is None:
            tensor_scale = self.tensor_scale(block, absmax(w), w.dtype)
        blocks = Blocks(x.reshape(*shape, -1), w.dtype)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
            match kind_of(block):
                case "NVFP4":
                    chosen = self._nvfp4(blocks, tensor_scale or 1.0)
                case "MX":
                    chosen = self._mx(blocks, block, rule or rules[0])
                case "UINT":
                    chosen = self._above_zero_point(blocks)
                case _:
                    chosen = self._scaled(blocks, block)
        codes = self._encode(block, chosen.quotients).reshape(w.shape)
        zeros = None if chosen.zeros is None else chosen.zeros.astype(np.uint8)
        return QTensor(block, codes, _rounded(block.scale or "", chosen.scales), tensor_scale, zeros)

    def _encode(self, block: Block, quotients: Array) -> NDArray[np.unsignedinteger]:
        return dispatch.encode(block.element_format, quotients)

    @abstractmethod
    def _tensor_scale(self, amax: float, dtype: np.dtype[np.floating]) -> float: ...

    @abstractmethod
    def _nvfp4(self, blocks: Blocks, tensor_scale: float) -> Chosen: ...

    @abstractmethod
    def _mx(self, blocks: Blocks, block: Block, rule: ScaleRule) -> Chosen: ...

    @abstractmethod
    def _scaled(self, blocks: Blocks, block: Block) -> Chosen: ...

    def _above_zero_point(self, blocks: Blocks) -> Chosen:
        raise NotImplementedError


class CompressedTensors(Tool):
    """llm-compressor's round to nearest: scales, and quotients by them, are in the dtype of the weights."""

    name: ClassVar[str] = "compressed-tensors"
    about: ClassVar[str] = "llm-compressor 0.14 (model_free_ptq) with compressed-tensors 0.19"

    def refusal(self, block: Block) -> str:
        """As elsewhere; of the integers with a zero point, those of 4 bits."""
        return "" if kind_of(block) == "UINT" and block.element == "uint4" else super().refusal(block)

    def rules(self, block: Block) -> tuple[ScaleRule, ...]:
        """``even``; for FP8 its name is not quite right, because amax is rounded as for FP4."""
        return ("even",) if block.scale == "e8m0" else ()

    def _tensor_scale(self, amax: float, dtype: np.dtype[np.floating]) -> float:
        r = Blocks(np.empty(0, np.float32), dtype).r
        with np.errstate(over="ignore"):
            divisor = r(r(_ONE / np.maximum(np.float32(amax), _smallest_normal(dtype))) * np.float32(2688))
        return 1 / float(divisor) if np.isfinite(divisor) else 1.0

    def _nvfp4(self, blocks: Blocks, tensor_scale: float) -> Chosen:
        divisor = np.float32(1 / tensor_scale)
        scales = _rounded("ue4m3", divisor * blocks.r(blocks.amax / 6))
        scales = np.where(scales == 0, np.float32(0.125), scales)
        return Chosen(scales, blocks.x / (scales / divisor)[..., None])

    def _mx(self, blocks: Blocks, block: Block, rule: ScaleRule) -> Chosen:
        del rule
        info = _finfo(blocks.dtype)
        unsigned = np.dtype(f"u{blocks.dtype.itemsize}")
        field = blocks.amax.astype(blocks.dtype).view(unsigned).astype(np.int64)
        field = field + (1 << info.nmant - 2) >> info.nmant  # whatever the element, as FP4 wants it
        exponent = field + info.minexp - 1 - _top_exponent(block)
        scales = blocks.r(_power_of_two(np.where(field == 0, -127, np.clip(exponent, -127, 127))))
        scales = np.where(scales == 0, _ONE, scales)
        return Chosen(scales, blocks.r(blocks.x / scales[..., None]))

    def _scaled(self, blocks: Blocks, block: Block) -> Chosen:
        scales = self._nonzero(blocks, blocks.r(blocks.amax / _half_range(block)))
        return Chosen(scales, blocks.r(blocks.x / scales[..., None]))

    def _above_zero_point(self, blocks: Blocks) -> Chosen:
        eight = np.float32(8)
        low, high = blocks.x.min(-1, initial=0), blocks.x.max(-1, initial=0)
        scales = blocks.r(blocks.r(high - low) / np.float32(15))
        zeros = np.clip(blocks.r(-eight - blocks.r(low / scales)), -8, 7)
        zeros = np.rint(np.nan_to_num(zeros))  # 0 / 0 in a block of zeros
        scales = self._nonzero(blocks, scales)
        quotients = blocks.r(blocks.r(blocks.x / scales[..., None]) + zeros[..., None])
        return Chosen(scales, np.rint(quotients) + eight, zeros + eight)

    def _nonzero(self, blocks: Blocks, scales: Array) -> Array:
        return np.where(scales == 0, np.float32(_finfo(blocks.dtype).eps), scales)

    def _encode(self, block: Block, quotients: Array) -> NDArray[np.unsignedinteger]:
        # A quotient of zero loses its sign, one that rounds to zero keeps it.
        return super()._encode(block, quotients + np.float32(0) if block.element == "fp4_e2m1" else quotients)


class ModelOpt(Tool):
    """The Hugging Face export of NVIDIA ModelOpt: float32 throughout, but for one FP8 scale a tensor."""

    name: ClassVar[str] = "modelopt"
    about: ClassVar[str] = "the Hugging Face export of NVIDIA ModelOpt 0.47"

    def _tensor_scale(self, amax: float, dtype: np.dtype[np.floating]) -> float:
        del dtype
        return float(np.float32(amax) / np.float32(2688))

    def _nvfp4(self, blocks: Blocks, tensor_scale: float) -> Chosen:
        factor = np.float32(tensor_scale)
        wanted = blocks.amax / (6 * factor)
        wanted = np.where(wanted == 0, _ONE, wanted)
        scales = _rounded("ue4m3", np.maximum(wanted, np.float32(2**-9)))
        return Chosen(scales, blocks.x / (scales * factor)[..., None])

    def _mx(self, blocks: Blocks, block: Block, rule: ScaleRule) -> Chosen:
        del rule
        scales = _power_of_two(_ceil_log2(blocks.amax / np.float32(block.element_format.max)))
        return Chosen(scales, blocks.x / scales[..., None])

    def _scaled(self, blocks: Blocks, block: Block) -> Chosen:
        amax, size = blocks.amax, block.block_size
        scales: Array
        if size != "tensor":  # what it exports is a normal number, in the type in which it kept the maximum
            kept = blocks.dtype if size == "row" else np.dtype(np.float32)
            amax = np.where(amax > 0, np.maximum(amax, _smallest_normal(kept)), amax)
        scales = np.where(amax == 0, _ONE, amax / np.float32(block.element_format.max))
        quotients = blocks.x / scales[..., None]
        return Chosen(scales, blocks.r(quotients) if size == "tensor" else quotients)

    def _encode(self, block: Block, quotients: Array) -> NDArray[np.unsignedinteger]:
        if block.element != "fp4_e2m1":
            return super()._encode(block, quotients)
        if block.tensor_scale:
            return super()._encode(block, quotients + np.float32(0))
        # MXFP4: ties go toward zero, and a zero is a negative one.
        magnitudes = reference.value_table(block.element_format)[:8]
        middles = (magnitudes[:-1] + magnitudes[1:]) / 2
        codes = np.searchsorted(middles, np.abs(quotients)).astype(np.uint8)
        return codes | np.where(quotients > 0, np.uint8(0), np.uint8(8))


class TorchAO(Tool):
    """torchao's `quantize_`: multiplies by reciprocals where others divide."""

    name: ClassVar[str] = "torchao"
    about: ClassVar[str] = "torchao 0.18 (quantize_)"
    fuses: ClassVar[bool] = False

    def rules(self, block: Block) -> tuple[ScaleRule, ...]:
        """The rule of its configs; ``floor`` is the default of its `MXTensor`."""
        return ("rceil", "floor", "even") if block.scale == "e8m0" else ()

    def _tensor_scale(self, amax: float, dtype: np.dtype[np.floating]) -> float:
        del dtype
        return float(np.float32(amax) / np.float32(2688))

    def _nvfp4(self, blocks: Blocks, tensor_scale: float) -> Chosen:
        factor = np.float32(tensor_scale)
        wanted = blocks.amax / np.float32(6) / factor
        scales = _rounded("ue4m3", np.maximum(wanted, np.float32(2**-6)))
        return Chosen(scales, blocks.x * (_ONE / factor / scales)[..., None])

    def _mx(self, blocks: Blocks, block: Block, rule: ScaleRule) -> Chosen:
        if rule == "rceil":
            exponent = np.minimum(_ceil_log2(blocks.amax / np.float32(block.element_format.max)), 127)
            factors = _power_of_two(np.where(exponent == -127, 0, -exponent))
            return Chosen(_power_of_two(exponent), blocks.x * factors[..., None])
        assert isinstance(block.element_format, Float)  # noqa: S101 - kind_of has looked
        half_unit = 1 << (22 - block.element_format.mantissa) if rule == "even" else 0
        exponent = (blocks.amax.view(np.int32) + half_unit >> 23) - 127 - _top_exponent(block)
        exponent = np.clip(exponent, -127, 127)
        return Chosen(_power_of_two(exponent), blocks.x / _power_of_two(np.maximum(exponent, -126))[..., None])

    def _scaled(self, blocks: Blocks, block: Block) -> Chosen:
        scales = blocks.r(blocks.amax / _half_range(block))
        if block.element == "fp8_e4m3":
            scales = np.where(scales == 0, _ONE, scales)
            return Chosen(scales, blocks.x / scales[..., None])
        if block.element == "int8":
            scales = np.maximum(scales, np.float32(2**-23))
            return Chosen(scales, blocks.x * (_ONE / scales)[..., None])
        scales = np.maximum(scales, _smallest_normal(blocks.dtype))
        return Chosen(scales, blocks.r(blocks.x * blocks.r(_ONE / scales)[..., None]))


TOOLS: dict[str, Tool] = {tool.name: tool for tool in (CompressedTensors(), ModelOpt(), TorchAO())}


def get(name: str) -> Tool:
    """The tool called ``name``. Raises UnknownNameError, which lists near matches."""
    try:
        return TOOLS[name]
    except KeyError:
        raise UnknownNameError("tool to conform to", name, list(TOOLS)) from None


def _finfo(dtype: np.dtype[np.floating]) -> np.finfo[np.floating]:
    found: np.finfo[np.floating] = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    return found


def _smallest_normal(dtype: np.dtype[np.floating]) -> np.float32:
    return np.float32(_finfo(dtype).smallest_normal)


def _rounded(scale: str, numbers: Array) -> Array:
    """``numbers`` as a scale format holds them."""
    fmt = formats.get(scale)
    return dispatch.decode(fmt, dispatch.encode(fmt, numbers))


def _half_range(block: Block) -> np.float32:
    """Half the distance from the element's lowest number to its highest."""
    return np.float32((block.element_format.max - block.element_format.min) / 2)


def _top_exponent(block: Block) -> int:
    """The exponent of the element's largest number."""
    return int(np.frexp(block.element_format.max)[1]) - 1


def _power_of_two(exponent: NDArray[np.integer]) -> Array:
    power: Array = np.ldexp(_ONE, exponent)
    return power


def _ceil_log2(numbers: Array) -> NDArray[np.int32]:
    """``ceil(log2)`` as float32 has it: what is above a power of two by an ulp or two counts as that power."""
    logarithms = np.log2(numbers.astype(np.float64)).astype(np.float32)
    return np.ceil(np.maximum(logarithms, np.float32(-127))).astype(np.int32)
