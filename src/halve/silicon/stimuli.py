"""One operation after another on real numbers, for counting what switches."""

from math import sqrt

import numpy as np

from halve.codecs import reference
from halve.formats import Int
from halve.silicon.netlist import Codes
from halve.silicon.quality import Quantized, plain, quantize
from halve.silicon.samples import Samples
from halve.silicon.unit import FP32, Unit

_PAIRS, _TILES = 1025, 257  # operations: one before the first that counts
_WIDE_RANGE = 4096.0  # formats that reach further are used without scales
_DEPTH = 64  # operations that an accumulator has behind it


def stimuli(unit: Unit, samples: Samples) -> dict[str, Codes]:
    """Inputs by port: operands are ``samples`` as the unit's format holds them, the accumulator a sum of such products.

    Formats of little range are scaled to fill it; where a result has to fit the same format (multiplier, adder),
    so that the largest product fits. Formats of wide range take numbers of unit variance as they are.
    """
    count = _TILES if unit.kind == "dot" else _PAIRS
    found = _operands(unit, samples)
    half = len(found.codes) // 2
    sides = {
        side: _series(unit, found, rows, count)
        for side, rows in (("a", slice(0, max(half, 1))), ("b", slice(half, None)))
    }
    inputs: dict[str, Codes] = {}
    numbers = []
    for side, (codes, scales, values) in sides.items():
        for i in range(unit.products):
            inputs[f"{side}{i}" if unit.kind == "dot" else side] = codes[:, i].astype(np.uint64)
        for group in range(scales.shape[1] if unit.scale else 0):
            inputs[f"s{side}{group}"] = scales[:, group].astype(np.uint64)
        numbers.append(values)
    if len(unit.ports) > 2:
        inputs["c"] = _accumulators(unit, float((numbers[0] * numbers[1]).sum(axis=1).std()), count)
    return {port.name: inputs[port.name] for port in unit.ports}


def _operands(unit: Unit, samples: Samples) -> Quantized:
    fmt = unit.element
    if isinstance(fmt, Int):
        return quantize(unit, samples)
    if fmt.max > _WIDE_RANGE and unit.scale is None:
        return plain(unit, samples)
    return quantize(unit, samples, top=sqrt(fmt.max) if unit.kind in ("multiplier", "adder") else None)


def _series(
    unit: Unit, found: Quantized, rows: slice, count: int
) -> tuple[Codes, Codes, np.ndarray[tuple[int, int], np.dtype[np.float64]]]:
    """Codes, scales and values of ``count`` consecutive vectors, [count, products] or groups."""
    length = unit.products
    codes = np.resize(found.codes[rows], (count, length)).astype(np.uint64)
    numbers = np.resize(found.numbers[rows], (count, length))
    if found.scales is None:
        return codes, np.zeros((count, 0), np.uint64), numbers
    groups = length // unit.group
    first = np.arange(count)[:, None] * length + np.arange(groups) * unit.group
    flat = found.scales[rows].reshape(-1)
    scales = flat[first // found.block % len(flat)].astype(np.uint64)
    step = reference.decode(unit.scale_format, scales.astype(np.int64)).astype(np.float64)
    return codes, scales, numbers * np.repeat(step, unit.group, axis=1)


def _accumulators(unit: Unit, deviation: float, count: int) -> Codes:
    rng = np.random.default_rng(0)
    sums = rng.standard_normal(count) * deviation * sqrt(_DEPTH)
    if unit.exact_accumulator:
        whole = np.rint(np.ldexp(sums, unit.fraction_bits)).astype(np.int64)
        return (whole & ((1 << unit.accumulator_bits) - 1)).astype(np.uint64)
    return reference.encode(FP32, sums).astype(np.uint64)
