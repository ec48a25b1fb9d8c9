"""Native codecs equal the reference, bit for bit, on every instruction set."""

from functools import cache

import numpy as np
import pytest

from halve import formats
from halve.codecs import dispatch, packing, reference
from halve.errors import FormatError
from native.inputs import DTYPES, SMALL_FORMATS, numbers, without_nan

each_format = pytest.mark.parametrize("fmt", SMALL_FORMATS, ids=lambda fmt: fmt.name)


@cache
def encoded(fmt):
    """Inputs and the codes that the reference gives them."""
    x = numbers(fmt)
    if fmt.nan_code is None:
        x = without_nan(x)
    with np.errstate(invalid="ignore"):  # widening a signalling NaN
        return x, reference.encode(fmt, x)


@each_format
def test_encode_equals_the_reference(kernels, fmt):
    x, expected = encoded(fmt)
    codes = dispatch.encode(fmt, x)
    assert codes.dtype == np.uint8
    np.testing.assert_array_equal(codes, expected)


@each_format
def test_decode_equals_the_reference(kernels, fmt):
    codes = np.tile(np.arange(1 << fmt.bits, dtype=np.uint8), 5)
    values = dispatch.decode(fmt, codes)
    np.testing.assert_array_equal(values.view(np.uint32), reference.decode(fmt, codes).view(np.uint32))


@each_format
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (2, 3, 5)])
def test_shapes_are_kept(kernels, fmt, shape):
    codes = dispatch.encode(fmt, np.ones(shape, np.float32))
    assert codes.shape == shape
    assert dispatch.decode(fmt, codes).shape == shape
    np.testing.assert_array_equal(codes, reference.encode(fmt, np.ones(shape, np.float32)))


@each_format
def test_strided_input(kernels, fmt):
    x = without_nan(numbers(fmt, 1000))
    x = x[: x.size // 6 * 6].reshape(-1, 6)
    np.testing.assert_array_equal(dispatch.encode(fmt, x.T[::2]), reference.encode(fmt, x.T[::2]))
    codes = dispatch.encode(fmt, x)
    np.testing.assert_array_equal(dispatch.decode(fmt, codes[:, ::-1]), reference.decode(fmt, codes[:, ::-1]))


@pytest.mark.parametrize("fmt", [f for f in SMALL_FORMATS if f.nan_code is None], ids=lambda fmt: fmt.name)
@pytest.mark.parametrize("position", [0, 4095, 4096, 9999])
def test_nan_is_refused_where_the_format_has_none(kernels, fmt, position):
    x = np.ones(10_000, np.float32)
    x[position:] = -np.nan
    with pytest.raises(FormatError, match=rf"has no NaN.*has {10_000 - position} \(first at index \[{position}\]\)"):
        dispatch.encode(fmt, x)
    assert kernels.encode(dispatch.codec(fmt), x, np.empty(x.size, np.uint8)) == position


@pytest.mark.parametrize("fmt", [f for f in SMALL_FORMATS if f.bits < 8], ids=lambda fmt: fmt.name)
def test_a_code_outside_the_format_is_refused(kernels, fmt):
    codes = np.zeros(5000, np.uint8)
    codes[4321] = 1 << fmt.bits
    with pytest.raises(FormatError, match=f"code {1 << fmt.bits} does not fit in {fmt.bits} bits"):
        dispatch.decode(fmt, codes)


@pytest.mark.parametrize("options", [{"rounding": "toward_zero"}, {"saturate": False}])
def test_what_is_not_native_takes_the_reference(kernels, options):
    fmt = formats.get("fp8_e4m3")
    x = np.array([0.3, -1000, 0.0, 5.1], np.float32)
    np.testing.assert_array_equal(dispatch.encode(fmt, x, **options), reference.encode(fmt, x, **options))
    assert (dispatch.encode(fmt, x, **options) != dispatch.encode(fmt, x)).any()


def test_float64_is_rounded_once(kernels):
    just_below = 0.75 - 2.0**-53  # float32 would make it the tie 0.75, which goes up
    assert dispatch.encode(formats.get("fp4_e2m1"), np.float64(just_below)) == 1
    assert dispatch.encode(formats.get("fp4_e2m1"), np.float32(just_below)) == 2


@pytest.mark.parametrize("bits", [4, 6])
@pytest.mark.parametrize("shape", [(4,), (3, 8), (2, 5, 4), (0, 4), (7, 1028)])
def test_packing_equals_the_reference(kernels, bits, shape):
    codes = np.random.default_rng(bits).integers(0, 1 << bits, shape, dtype=np.uint8)
    packed = dispatch.pack(codes, bits)
    np.testing.assert_array_equal(packed, packing.pack(codes, bits))
    np.testing.assert_array_equal(dispatch.unpack(packed, bits), codes)
    np.testing.assert_array_equal(dispatch.pack(codes | 0xC0, bits), packing.pack(codes | 0xC0, bits))


def test_packing_takes_strided_codes(kernels):
    codes = np.random.default_rng(0).integers(0, 16, (8, 6), dtype=np.uint8)
    np.testing.assert_array_equal(dispatch.pack(codes.T, 4), packing.pack(codes.T, 4))
    packed = packing.pack(codes, 4)
    np.testing.assert_array_equal(dispatch.unpack(packed.T, 4), packing.unpack(packed.T, 4))


@pytest.mark.parametrize("dtype", DTYPES)
def test_absmax(kernels, dtype):
    w = (np.random.default_rng(0).standard_normal((37, 41)) * 1e-3).astype(DTYPES[dtype])
    w[20, 3] = -7
    assert dispatch.absmax(w) == 7
    assert dispatch.absmax(w[:20]) == np.abs(w[:20].astype(np.float32)).max()
    assert dispatch.absmax(w.T[::2]) == np.abs(w.T[::2].astype(np.float32)).max()
    assert dispatch.absmax(w * w.dtype.type(0)) == 0
    assert dispatch.absmax(w[:0]) == 0
    w[30, 1] = -np.inf
    assert dispatch.absmax(w) == np.inf
    w[0, 0] = np.nan
    assert np.isnan(dispatch.absmax(w))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_absmax_of_every_bit_pattern(kernels, dtype):
    every = np.arange(1 << 16, dtype=np.uint16).view(DTYPES[dtype])
    with np.errstate(invalid="ignore"):  # widening a signalling NaN
        expected = np.abs(every.astype(np.float32))
    found = np.array([dispatch.absmax(every[i : i + 1]) for i in range(every.size)], np.float32)
    np.testing.assert_array_equal(found, expected)
