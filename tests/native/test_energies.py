"""Energies of weights and of errors: native equals the numpy reference, bit for bit, on every instruction set."""

import numpy as np
import pytest

from halve.evaluate.sqnr import Sqnr, add_reference
from native.inputs import DTYPES


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0, 4), (1, 1), (3, 5), (128, 33), (257, 576), (7, 16), (5000,)])
def test_equals_the_reference(kernels, dtype, shape):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(shape) * 0.02).astype(DTYPES[dtype])
    y = (x.astype(np.float32) * (1 + 0.05 * rng.standard_normal(shape))).astype(np.float32)
    found = Sqnr()
    for _ in range(2):
        found.add(x, y)
    expected = np.zeros((2, 16))
    for _ in range(2):
        add_reference(expected, x, y)
    np.testing.assert_array_equal(found.sums, expected)


def test_extreme_numbers(kernels):
    bits = np.arange(0, 1 << 32, 65537, dtype=np.uint64).astype(np.uint32)
    x, y = bits.view(np.float32), bits[::-1].copy().view(np.float32)
    finite = np.isfinite(x) & np.isfinite(y)
    found, expected = Sqnr(), np.zeros((2, 16))
    found.add(x[finite], y[finite])
    add_reference(expected, x[finite], y[finite])
    np.testing.assert_array_equal(found.sums, expected)


def test_views_and_other_dtypes(kernels):
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((64, 64)), rng.standard_normal((64, 64)).astype(np.float32)
    found, expected = Sqnr(), np.zeros((2, 16))
    found.add(x.T, y.T)
    add_reference(expected, x.T, y.T)
    np.testing.assert_array_equal(found.sums, expected)
