"""Numbers in blocks under their scales, one by one: what a scheme makes of a few weights."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halve import formats
from halve.codecs import dispatch
from halve.errors import FormatError
from halve.evaluate.sqnr import Sqnr
from halve.formats import Format
from halve.formats.info import exact, json_number
from halve.formats.value import fields
from halve.schemes import SCHEMES, Scheme
from halve.schemes.qtensor import QTensor
from halve.schemes.quantize import ScaleRule, check_rule, dequantize, quantize, scale_rules, tensor_scale

_LARGEST_BLOCK = 64  # a page shows no more numbers
NUMBERS = 64
_LEVELS = 16


def schemes() -> Iterator[Scheme]:
    """The schemes whose blocks are short enough to look at; of those that differ in activations only, the first."""
    seen = []
    for scheme in SCHEMES.values():
        block = scheme.weight
        if isinstance(block.block_size, int) and block.block_size <= _LARGEST_BLOCK and block not in seen:
            seen.append(block)
            yield scheme


def draw(seed: int, count: int) -> list[float]:
    """Numbers of a normal distribution, to three decimals: they can be read and typed."""
    return [round(float(x), 3) for x in np.random.default_rng(seed).normal(size=count)]


@dataclass(frozen=True, slots=True)
class BlockView:
    """``numbers`` quantized; the last block is filled up with zeros."""

    scheme: Scheme
    rule: ScaleRule
    numbers: tuple[float, ...]
    quantized: QTensor
    values: NDArray[np.float32]

    @property
    def sqnr(self) -> Sqnr:
        """Of the numbers, without what fills up."""
        sums = Sqnr()
        count = len(self.numbers)
        sums.add(np.array([self.numbers], np.float32), np.ascontiguousarray(self.values[:, :count]))
        return sums

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready values."""
        block, q = self.scheme.weight, self.quantized
        assert block.scale_format is not None  # noqa: S101 - `schemes` yields none without
        return {
            "scheme": self.scheme.name,
            "about": self.scheme.about,
            "element": block.element,
            "scale_format": block.scale,
            "block_size": block.block_size,
            "bpw": block.bpw,
            "rule": self.rule,
            "rules": scale_rules(block),
            "tensor_scale": q.tensor_scale,
            "scales": [_number(block.scale_format, scale) for scale in q.scales[0]],
            "minima": None if q.mins is None else [_number(block.scale_format, low) for low in q.mins[0]],
            "elements": list(self._elements()),
            "levels": self._levels(),
            "sqnr_db": json_number(self.sqnr.db),
        }

    def _elements(self) -> Iterator[dict[str, Any]]:
        element = self.scheme.weight.element_format
        codes = self.quantized.codes[0]
        held = dispatch.decode(element, codes)
        for number, code, plain, value in zip(self.numbers, codes, held, self.values[0], strict=False):
            yield {
                "input": number,
                "code": int(code),
                "fields": fields(element, int(code)),
                "element": float(plain),
                "value": float(value),
                "exact": exact(float(value)),
                "error": float(value) - number,
            }

    def _levels(self) -> list[list[float]] | None:
        """What each block can hold, ascending; None where that is too much to draw."""
        block, q = self.scheme.weight, self.quantized
        count = 1 << block.element_format.bits
        if count > _LEVELS:
            return None
        codes = np.arange(count, dtype=q.codes.dtype)[:, None].repeat(q.shape[1], 1)  # a row for each code
        mins = None if q.mins is None else q.mins.repeat(count, 0)
        every = dequantize(replace(q, codes=codes, scales=q.scales.repeat(count, 0), mins=mins))
        return [sorted({float(x) for x in column}) for column in every[:, :: q.shape[1] // q.scales.shape[1]].T]


def _number(fmt: Format, value: np.float32) -> dict[str, Any]:
    code = int(dispatch.encode(fmt, value))
    return {"code": code, "fields": fields(fmt, code), "value": float(value), "exact": exact(float(value))}


def view(
    scheme: Scheme, numbers: Sequence[float], *, rule: ScaleRule | None = None, largest: float | None = None
) -> BlockView:
    """Quantize ``numbers``. ``largest``: the largest magnitude of the tensor that they are from; it sets its scale.

    Raises FormatError for no numbers or more than `NUMBERS`, and for what is not a finite float32; UnsupportedError for
    a scale rule that the scheme does not admit.
    """
    block = scheme.weight
    if not 0 < len(numbers) <= NUMBERS:
        raise FormatError(f"{len(numbers)} numbers", hint=f"give 1 to {NUMBERS}")
    limit = formats.get("fp32").max
    wrong = next((x for x in (*numbers, largest or 0.0) if not (isfinite(x) and abs(x) <= limit)), None)
    if wrong is not None:
        raise FormatError(f"{wrong:g} is no finite FP32 number", hint=f"give numbers up to {limit:g}")
    assert isinstance(block.block_size, int)  # noqa: S101 - `schemes` yields no others
    weights = np.zeros((1, -(-len(numbers) // block.block_size) * block.block_size), np.float32)
    weights[0, : len(numbers)] = numbers
    factor = tensor_scale(block, abs(largest)) if block.tensor_scale and largest else None
    q = quantize(block, weights, rule=rule, tensor_scale=factor)
    return BlockView(scheme, check_rule(block, rule), tuple(numbers), q, dequantize(q))
