"""Algorithms on native kernels give the bits of the numpy reference, on every instruction set."""

from functools import cache

import numpy as np
import pytest

from halve import algorithms, schemes
from halve.algorithms.kernels import factor, native
from halve.schemes.quantize import absmax, tensor_scale
from halve.schemes.statistics import Statistics

SCHEMES = ("nvfp4a16", "mxfp4a16", "mxfp6_e3m2a16", "mxfp8a16", "w4a16", "w4a16_asym", "w8a16", "fp8", "fp8_block")
SHAPE = (9, 160)


def problem(scheme, dead):
    rng = np.random.default_rng(7)
    columns = SHAPE[1]
    block = schemes.get(scheme).fitted([columns]).weight
    w = (rng.standard_t(4, size=SHAPE) * np.exp(rng.normal(size=(1, columns)))).astype(np.float32)
    x = (rng.normal(size=(400, columns)) * np.exp(rng.normal(size=columns))).astype(np.float32)
    x[:, : dead * 32] = 0
    x[:, 40] = x[:, 50]
    hessian = (x.T @ x / len(x)).astype(np.float32)
    return block, w, Statistics(np.ascontiguousarray(hessian.diagonal()), np.abs(x).max(0), hessian, len(x))


def made(name, scheme, dead):
    block, w, statistics = problem(scheme, dead)
    return algorithms.get(name).prepared(block, statistics).quantize(w, tensor_scale=tensor_scale(block, absmax(w)))


@cache
def reference(name, scheme, dead):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "available", lambda _: False)
        patch.setattr(native, "loaded", lambda: False)
        return made(name, scheme, dead)


@pytest.mark.parametrize("dead", [0, 2])
@pytest.mark.parametrize(
    ("scheme", "name"),
    [("nvfp4a16", "four_over_six"), *((s, name) for s in SCHEMES for name in ("mse", "hessian_diag", "gptq"))],
)
def test_equals_the_reference(kernels, scheme, name, dead):
    ours, theirs = made(name, scheme, dead), reference(name, scheme, dead)
    np.testing.assert_array_equal(ours.codes, theirs.codes)
    np.testing.assert_array_equal(ours.scales.view(np.uint32), theirs.scales.view(np.uint32))
    assert (ours.zeros is None) == (theirs.zeros is None)
    if ours.zeros is not None:
        np.testing.assert_array_equal(ours.zeros, theirs.zeros)


def test_the_factor_is_that_of_the_matrix(kernels):
    hessian = problem("nvfp4a16", 0)[2].hessian
    found = factor.factor(hessian, damping=0.01)
    lower = found.feedback + np.eye(len(hessian), dtype=np.float32)
    t = lower * np.sqrt(found.importance)[:, None]
    damped = hessian.astype(np.float64) + found.damping * np.eye(len(hessian))
    np.testing.assert_allclose(t.T @ t, damped[np.ix_(found.order, found.order)], rtol=2e-4, atol=2e-4)
