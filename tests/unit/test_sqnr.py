"""The SQNR of a tensor: near to float64, and the same however the tensor is cut."""

from concurrent.futures import ThreadPoolExecutor
from math import inf, log10

import ml_dtypes
import numpy as np
import pytest

from halve.evaluate.sqnr import Sqnr
from halve.schemes import get
from halve.schemes.quantize import dequantize, quantize

DTYPES = [np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]


def exact(reference, quantized):
    """Signal and noise in float64."""
    x, y = reference.astype(np.float64), quantized.astype(np.float64)
    return float((x * x).sum()), float(((x - y) ** 2).sum())


def pair(shape, dtype=np.float32, *, scale=0.02, noise=0.05, seed=0):
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(shape) * scale).astype(dtype)
    return x, (x.astype(np.float64) * (1 + noise * rng.standard_normal(shape))).astype(np.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (128, 128), (257, 576), (64, 8192), (1000,), (2, 3, 70)])
@pytest.mark.parametrize("noise", [1e-6, 0.05, 3.0])
def test_equals_float64(shape, dtype, noise):
    x, y = pair(shape, dtype, noise=noise)
    found = Sqnr()
    found.add(x, y)
    signal, error = exact(x, y)
    assert found.signal == pytest.approx(signal, rel=1e-6)
    assert found.noise == pytest.approx(error, rel=1e-6)
    assert found.db == pytest.approx(10 * log10(signal / error), abs=1e-5)


@pytest.mark.parametrize("scheme", ["nvfp4a16", "mxfp4a16", "fp8_dynamic", "w8a8"])
def test_of_quantized_weights(scheme):
    w = pair((512, 1024), ml_dtypes.bfloat16)[0]
    q = dequantize(quantize(get(scheme).weight, w))
    found = Sqnr()
    found.add(w, q)
    signal, error = exact(w, q)
    assert found.db == pytest.approx(10 * log10(signal / error), abs=1e-5)


@pytest.mark.parametrize("columns", [1, 33, 576, 2048])
def test_bands_do_not_matter(columns):
    x, y = pair((700, columns), ml_dtypes.bfloat16)
    whole = Sqnr()
    whole.add(x, y)
    for rows in (128, 256, 384):
        cut = Sqnr()
        for start in range(0, len(x), rows):
            cut.add(x[start : start + rows], y[start : start + rows])
        assert (cut.signal, cut.noise) == (whole.signal, whole.noise)


def test_more_than_one_piece():
    x, y = pair((1 << 21) + 12_345)
    found = Sqnr()
    found.add(x, y)
    cut = Sqnr()
    cut.add(x[: 1 << 20], y[: 1 << 20])
    cut.add(x[1 << 20 :], y[1 << 20 :])
    assert (cut.signal, cut.noise) == (found.signal, found.noise)
    assert found.noise == pytest.approx(exact(x, y)[1], rel=1e-6)


def test_threads_do_not_matter():
    x, y = pair((512, 2048), ml_dtypes.bfloat16)

    def one(_):
        found = Sqnr()
        found.add(x, y)
        return found.signal, found.noise

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(one, range(16)))) == 1


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e-15, 1e15, 1e25, 1e35])
def test_numbers_whose_squares_float32_does_not_hold(scale):
    x, y = pair((130, 64), scale=scale)
    found = Sqnr()
    found.add(x, y)
    signal, error = exact(x, y)
    assert found.db == pytest.approx(10 * log10(signal / error), abs=1e-5)


def test_a_small_error_of_large_numbers_is_seen():
    x = np.full((128, 128), 1e-3, np.float32)
    y = x.copy()
    y[5, 7] = np.nextafter(y[5, 7], np.float32(1))
    found = Sqnr()
    found.add(x, y)
    assert found.noise == exact(x, y)[1] > 0


def test_limits():
    zeros, ones = np.zeros((4, 32), np.float32), np.ones((4, 32), np.float32)
    empty = Sqnr()
    empty.add(zeros[:0], zeros[:0])
    assert empty.db == inf
    lossless, lost = Sqnr(), Sqnr()
    lossless.add(ones, ones)
    lost.add(zeros, ones)
    assert (lossless.db, lost.db) == (inf, -inf)
    assert lossless.signal == 128.0


def test_the_reference_is_left_alone():
    x, y = pair((8, 128))
    before = x.copy()
    Sqnr().add(x, y)
    np.testing.assert_array_equal(x, before)
