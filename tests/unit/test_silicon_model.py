"""The model that netlists are held to, and the vectors they are tried on: neither needs PyRTL or Yosys."""

import numpy as np
import pytest

from halve.errors import VerifyError
from halve.silicon import liberty
from halve.silicon.model import expected, values
from halve.silicon.netlist import from_json
from halve.silicon.unit import FP32, UNITS, unit
from halve.silicon.vectors import EXHAUSTIVE_BITS, WIDE, vectors
from halve.silicon.verify import require, verify


def codes(*numbers):
    return np.array(numbers, np.uint64)


def test_the_model_multiplies_like_the_definition():
    e4m3 = unit("multiplier", "fp8_e4m3")
    one, top, nan = 0x38, 0x7E, 0x7F
    found = expected(e4m3, {"a": codes(one, top, nan, 0x80), "b": codes(0xB8, top, 0, one)})
    assert found.codes.tolist() == [0xB8, nan, nan, 0x80]
    assert found.nan.tolist() == [False, True, True, False]


def test_without_subnormals_rounding_comes_before_flushing():
    half = unit("multiplier", "fp16", subnormals=False)
    smallest, below_one = 0x0400, 0x3BFF  # 2^-14 * (1 - 2^-11) rounds to 11 bits below 2^-14: flushed
    found = expected(half, {"a": codes(smallest, 0x0401, 0x03FF), "b": codes(below_one, below_one, 0x3C00)})
    assert found.codes.tolist() == [0, 0x0400, 0]


def test_fixed_point_loses_nothing():
    design = unit("fixed_mac", "fp4_e2m1")
    a, b = (side.ravel().astype(np.uint64) for side in np.meshgrid(*[np.arange(16)] * 2))
    found = expected(design, {"a": a, "b": b, "c": np.zeros(256, np.uint64)}).codes
    signed = found.astype(np.int64) - (found >> np.uint64(31)).astype(np.int64) * (1 << 32)
    fmt = design.element
    assert (signed * 2.0**-design.fraction_bits == values(fmt, a) * values(fmt, b)).all()


@pytest.mark.parametrize("fmt", ["fp32", "fp16", "bf16", "fp8_e4m3", "fp8_e5m2", "fp4_e2m1", "e3m4"])
def test_a_tile_is_near_the_exact_dot_product(fmt):
    """Each term loses less than the last bit of a window that begins at the largest."""
    design = unit("dot16", fmt)
    inputs = {name: c[:4000] for name, c in vectors(design).items()}
    sides = np.array([[values(design.element, inputs[f"{side}{i}"]) for i in range(16)] for side in "ab"])
    c, found = values(FP32, inputs["c"]), values(FP32, expected(design, inputs).codes)
    finite = np.isfinite(sides).all(axis=(0, 1)) & np.isfinite(c) & np.isfinite(found)
    assert finite.mean() > 0.4
    (a, b), c, found = sides[:, :, finite], c[finite], found[finite]
    # Subnormal operands are aligned like the smallest normal one, sums in fixed point by their width.
    least = design.element.smallest_normal
    sizes = np.where(a * b == 0, 0, np.maximum(np.abs(a), least) * np.maximum(np.abs(b), least))
    if design.fixed_point:
        sizes = np.full_like(sizes, 2.0 ** (design.sum_bits - design.fraction_bits))
    largest = np.maximum(sizes.max(axis=0), np.abs(c))
    exact = (a * b).sum(axis=0) + c
    bound = 17 * largest * 2.0 ** (2 - design.window) + np.abs(exact) * 2.0**-24 + FP32.smallest
    assert (np.abs(found - exact) <= bound).all()


def test_integer_tiles_are_exact():
    design = unit("dot16", "int8")
    inputs = {name: c[:1000] for name, c in vectors(design).items()}
    signed = {n: c.astype(np.uint8).view(np.int8).astype(np.int64) for n, c in inputs.items() if n != "c"}
    total = sum(signed[f"a{i}"] * signed[f"b{i}"] for i in range(16)) + inputs["c"].astype(np.int64)
    assert (expected(design, inputs).codes.astype(np.int64) == total % (1 << 32)).all()


@pytest.mark.parametrize("name", UNITS)
def test_vectors_are_enough_and_fit_the_ports(name):
    design = unit(name, "fp4_e2m1")
    inputs = vectors(design)
    assert set(inputs) == {port.name for port in design.ports}
    for port in design.ports:
        assert inputs[port.name].max() < 1 << port.bits
    count = len(inputs[design.ports[0].name])
    pairs = 1 << 2 * design.element.bits
    assert design.element.bits <= EXHAUSTIVE_BITS
    assert count >= (WIDE if len(design.ports) > 2 else pairs)
    if design.kind != "dot":
        assert len(np.unique(inputs["a"] << np.uint64(4) | inputs["b"])) == pairs


def test_wide_vectors_reach_the_corners():
    inputs = vectors(unit("multiplier", "fp16"))
    found = expected(unit("multiplier", "fp16"), inputs)
    magnitude = found.codes & np.uint64(0x7FFF)
    assert len(magnitude) == WIDE
    for least, corner in ((0.02, magnitude == 0), (0.02, magnitude == 0x7C00), (0.02, found.nan)):
        assert corner.mean() > least
    assert ((magnitude > 0) & (magnitude < 0x400)).mean() > 0.02  # subnormal


def test_a_wrong_netlist_is_found_and_never_measured():
    design = unit("multiplier", "int2")
    module = {
        "ports": {
            "a": {"direction": "input", "bits": [2, 3]},
            "b": {"direction": "input", "bits": [4, 5]},
            "o": {"direction": "output", "bits": [6, "0", "0", "0"]},
        },
        "cells": {"x": {"type": "AND2", "connections": {"A": [2], "B": [4], "Y": [6]}}},
    }
    verdict = verify(design, from_json(module, liberty.own()))
    assert verdict.vectors == 16
    assert 0 < verdict.mismatches < 16
    assert "the gates give" in verdict.first
    with pytest.raises(VerifyError, match="vectors are wrong"):
        require(design, verdict)
