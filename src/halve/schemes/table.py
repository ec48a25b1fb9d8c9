"""The one table of schemes: element format + block + scale format (+ tensor scale), for weights and for activations.

Names are the field's (vLLM's, llama.cpp's block types). To add a scheme, add one row to ``_ROWS``. This module imports
no numpy, so that ``halve --help`` and shell completion stay instant.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

from halve import formats
from halve.errors import FormatError, UnknownNameError
from halve.formats import Format

BlockSize = int | Literal["row", "tensor"] | tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """How one operand is stored: codes of ``element``, and one ``scale`` for every block of them.

    ``block_size`` is a number of consecutive columns, a whole ``row``, the whole ``tensor``, or a tile (rows, columns)
    whose last row and column may be partial. ``scale=None`` means plain numbers without scales. ``tensor_scale`` adds
    one FP32 factor for the tensor, ``zero_point`` one element-wide integer a block, ``minimum`` one number of the
    scale's format a block, which is added.
    """

    element: str
    scale: str | None = "fp32"
    block_size: BlockSize = "row"
    tensor_scale: bool = False
    zero_point: bool = False
    minimum: bool = False

    @property
    def element_format(self) -> Format:
        """The row of the element format."""
        return formats.get(self.element)

    @property
    def scale_format(self) -> Format | None:
        """The row of the scale format; None where there are no scales."""
        return None if self.scale is None else formats.get(self.scale)

    @property
    def bpw(self) -> float:
        """Bits per weight, block scales included, in the limit of a large tensor."""
        bits: float = self.element_format.storage_bits
        if self.scale_format is None or isinstance(self.block_size, str):
            return bits
        weights = self.block_size if isinstance(self.block_size, int) else self.block_size[0] * self.block_size[1]
        overhead = self.scale_format.storage_bits * (2 if self.minimum else 1)
        overhead += self.element_format.storage_bits if self.zero_point else 0
        return bits + overhead / weights

    def tile(self, rows: int, columns: int) -> tuple[int, int]:
        """Rows and columns of one block in a ``[rows, columns]`` tensor.

        Raises FormatError where the columns are not a multiple of the block size (tiles may be partial).
        """
        match self.block_size:
            case "row":
                return 1, columns
            case "tensor":
                return rows, columns
            case int(size):
                if columns % size:
                    raise FormatError(f"{columns} columns is not a multiple of the block size {size}")
                return 1, size
            case (height, width):
                return height, width

    def scale_shape(self, rows: int, columns: int) -> tuple[int, int]:
        """Shape of the scales of a ``[rows, columns]`` tensor. Raises FormatError like :meth:`tile`."""
        if self.scale is None:
            return rows, 0
        height, width = self.tile(rows, columns)
        return -(-rows // max(height, 1)), -(-columns // max(width, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """What a checkpoint's weights become, and what an engine does with activations.

    ``activation=None`` leaves activations in 16 bits. ``activation_static`` means that their (tensor) scale is stored
    in the checkpoint and must be calibrated. ``block_sizes``, where given, are tried from the left: the first that
    divides every selected tensor is used. ``floor_db`` is the lowest weight SQNR in dB that a healthy tensor has;
    `halve verify --against` fails below it.
    """

    name: str
    weight: Block
    activation: Block | None = None
    activation_static: bool = False
    block_sizes: tuple[int, ...] = ()
    floor_db: float
    about: str

    @property
    def bpw(self) -> float:
        """Bits per quantized weight, scales included."""
        return self.weight.bpw

    @property
    def dense(self) -> bool:
        """Whether this is a plain cast of every floating-point tensor."""
        return self.weight.scale is None

    @property
    def needs_calibration(self) -> bool:
        """Whether the checkpoint carries activation scales that only data can give."""
        return self.activation_static

    def fitted(self, columns: Collection[int]) -> "Scheme":
        """This scheme with the first of its ``block_sizes`` that divides all ``columns``; unchanged where none does."""
        for size in self.block_sizes:
            if all(n % size == 0 for n in columns):
                return replace(self, weight=replace(self.weight, block_size=size))
        return self


def _mx(element: str) -> Block:
    return Block(element=element, scale="e8m0", block_size=32)


_NVFP4 = Block(element="fp4_e2m1", scale="ue4m3", block_size=16, tensor_scale=True)
_FP8_ROW = Block(element="fp8_e4m3")
_INT8_ROW = Block(element="int8")

_ROWS: tuple[Scheme, ...] = (
    Scheme(name="fp32", weight=Block(element="fp32", scale=None), floor_db=140, about="every tensor in FP32"),
    Scheme(name="bf16", weight=Block(element="bf16", scale=None), floor_db=50, about="every tensor in BF16"),
    Scheme(name="fp16", weight=Block(element="fp16", scale=None), floor_db=50, about="every tensor in FP16"),
    Scheme(name="fp8", weight=_FP8_ROW, floor_db=25, about="FP8 weights, a scale a row; 16-bit activations"),
    Scheme(
        name="fp8_dynamic",
        weight=_FP8_ROW,
        activation=Block(element="fp8_e4m3"),
        floor_db=25,
        about="FP8 weights, a scale a row; FP8 activations scaled per token as they come",
    ),
    Scheme(
        name="fp8_static",
        weight=_FP8_ROW,
        activation=Block(element="fp8_e4m3", block_size="tensor"),
        activation_static=True,
        floor_db=25,
        about="FP8 weights, a scale a row; FP8 activations with one calibrated scale",
    ),
    Scheme(
        name="fp8_block",
        weight=Block(element="fp8_e4m3", block_size=(128, 128)),
        activation=Block(element="fp8_e4m3", block_size=128),
        floor_db=25,
        about="DeepSeek-V3's FP8: weights in 128x128 tiles, activations in 1x128 blocks",
    ),
    *(
        Scheme(
            name=f"mx{short}{suffix}",
            weight=_mx(element),
            activation=None if suffix else _mx(element),
            floor_db=floor,
            about=f"OCP MX: {element} in blocks of 32 under a power of two; "
            + ("16-bit activations" if suffix else "the same for activations"),
        )
        for short, element, floor in (
            ("fp8", "fp8_e4m3", 25),
            ("fp6_e2m3", "fp6_e2m3", 24),
            ("fp6_e3m2", "fp6_e3m2", 20),
            ("fp4", "fp4_e2m1", 13),
        )
        for suffix in ("", "a16")
    ),
    Scheme(
        name="nvfp4",
        weight=_NVFP4,
        activation=_NVFP4,
        activation_static=True,
        floor_db=15,
        about="FP4 in blocks of 16 under FP8 scales and a tensor scale; the same for activations",
    ),
    Scheme(name="nvfp4a16", weight=_NVFP4, floor_db=15, about="nvfp4 weights; 16-bit activations"),
    Scheme(
        name="w8a8",
        weight=_INT8_ROW,
        activation=Block(element="int8"),
        floor_db=20,
        about="INT8 weights, a scale a row; INT8 activations scaled per token as they come",
    ),
    Scheme(name="w8a16", weight=_INT8_ROW, floor_db=20, about="INT8 weights, a scale a row; 16-bit activations"),
    Scheme(
        name="w4a16",
        weight=Block(element="int4", scale="bf16", block_size=128),
        block_sizes=(128, 64, 32),
        floor_db=10,
        about="INT4 in blocks of 128 (or 64, 32: the largest that divides); 16-bit activations",
    ),
    Scheme(
        name="w4a16_asym",
        weight=Block(element="uint4", scale="bf16", block_size=128, zero_point=True),
        block_sizes=(128, 64, 32),
        floor_db=10,
        about="w4a16 with a zero point a block",
    ),
    Scheme(
        name="int4_g32",
        weight=Block(element="int4", scale="fp16", block_size=32),
        floor_db=13,
        about="llama.cpp's Q4_0: INT4 in blocks of 32",
    ),
    Scheme(
        name="int4_min_g32",
        weight=Block(element="uint4", scale="fp16", block_size=32, minimum=True),
        floor_db=13,
        about="llama.cpp's Q4_1: INT4 in blocks of 32 with a minimum a block",
    ),
    Scheme(
        name="int8_g32",
        weight=Block(element="int8", scale="fp16", block_size=32),
        floor_db=35,
        about="llama.cpp's Q8_0: INT8 in blocks of 32",
    ),
    Scheme(
        name="nf4",
        weight=Block(element="nf4", block_size=64),
        floor_db=13,
        about="QLoRA's NormalFloat: a 16-value codebook in blocks of 64",
    ),
)
SCHEMES: dict[str, Scheme] = {row.name: row for row in _ROWS}


def get(name: str) -> Scheme:
    """Return the scheme called ``name``. Raises UnknownNameError, which lists near matches."""
    try:
        return SCHEMES[name]
    except KeyError:
        raise UnknownNameError("scheme", name, list(SCHEMES)) from None


def find(weight: Block, activation: Block | None = None, *, static: bool = False) -> Scheme:
    """The scheme of the table that these blocks are, holding these blocks; one without a name where there is none.

    Floating-point scales of another type, and block sizes of a scheme that admits several, are no other scheme.
    """
    for same in (_exactly, _loosely):
        for row in _ROWS:
            if row.activation_static == static and same(row, weight) and _loosely_activation(row, activation):
                return replace(row, weight=weight, activation=activation)
    return Scheme(
        name="", weight=weight, activation=activation, activation_static=static, floor_db=0, about="not in the table"
    )


def _exactly(row: Scheme, weight: Block) -> bool:
    return row.weight == weight


def _loosely(row: Scheme, weight: Block) -> bool:
    size = weight.block_size if row.block_sizes and isinstance(weight.block_size, int) else row.weight.block_size
    return _float_scales(replace(row.weight, block_size=size)) == _float_scales(weight)


def _loosely_activation(row: Scheme, activation: Block | None) -> bool:
    if row.activation is None or activation is None:
        return row.activation is activation
    return _float_scales(row.activation) == _float_scales(activation)


def _float_scales(block: Block) -> Block:
    return replace(block, scale="fp32") if block.scale in ("bf16", "fp16") else block
