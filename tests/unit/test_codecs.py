"""Encoding into every format: exact arithmetic judges, and the casts of ml_dtypes and numpy are held beside it.

The judge compares inputs with the midpoints between neighbouring values. Both are exact in float64: a midpoint needs
one bit more than the values. `tests/property/test_codecs.py` judges by rational arithmetic.
"""

import runpy
from functools import cache
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from halve import formats
from halve.codecs import dispatch, reference
from halve.codecs.rounding import ROUNDINGS
from halve.errors import FormatError
from halve.formats import FORMATS, Float, Int

ORACLES = runpy.run_path(str(Path(__file__).parents[1] / "golden/make_formats.py"))["ORACLES"]
TABLED = [name for name, row in FORMATS.items() if row.bits <= 16]
INTS = [name for name, row in FORMATS.items() if isinstance(row, Int)]
CLAMPING = [name for name in TABLED if name not in INTS]
PEERS = [name for name in TABLED if isinstance(FORMATS[name], Float) and ORACLES[name].dtype]
NO_NAN = [name for name, row in FORMATS.items() if row.nan_code is None]
CODECS = [pytest.param(module, id=module.__name__.rsplit(".", 1)[-1]) for module in (reference, dispatch)]
INFINITY = np.float32(np.inf)
LARGEST = np.finfo(np.float32).max


def oracle_values(name, codes):
    """What the oracle decodes, in float64."""
    with np.errstate(invalid="ignore"):  # signalling NaN
        return ORACLES[name].values(codes.astype(np.uint32)).astype(np.float64)


@cache
def number_line(name):
    """The oracle's finite values in ascending order, with one zero, and their codes."""
    codes = np.arange(1 << FORMATS[name].bits)
    values = oracle_values(name, codes)
    keep = np.isfinite(values) & ~((values == 0) & np.signbit(values))
    order = np.argsort(values[keep])
    return values[keep][order], codes[keep][order]


def overflow_tie(name):
    """Half way to the number that would follow the largest one; every number of E8M0 is twice the one before."""
    values, _ = number_line(name)
    return values[-1] + (values[-1] - values[-2]) / (1 if name == "e8m0" else 2)


@cache
def stress(name):
    """Values, midpoints, the float32 neighbours of each, infinities, NaN, Gaussians and random float32 bit patterns."""
    values, _ = number_line(name)
    middles = np.append((values[1:] + values[:-1]) / 2, overflow_tie(name) * np.array([1, -1]))
    near = np.clip(middles, -LARGEST, LARGEST).astype(np.float32)
    rng = np.random.default_rng(sum(name.encode()))
    gaussian = rng.standard_normal(50_000).astype(np.float32).astype(np.float64)
    random = rng.integers(0, 1 << 32, 100_000, dtype=np.uint32).view(np.float32)
    parts = [values, -values, middles, near, np.nextafter(near, INFINITY), np.nextafter(near, -INFINITY)]
    parts += [gaussian, gaussian * (FORMATS[name].max / 3), random[~np.isnan(random)]]
    parts += [[0.0, -0.0, np.inf, -np.inf, 1e-45, -1e-45, LARGEST, -LARGEST]]
    parts += [] if name in NO_NAN else [[np.nan, -np.nan]]
    return np.concatenate([np.asarray(part, np.float64) for part in parts])


def expected(name, x, rounding="nearest_even", *, saturate=True):
    """The exact values that x becomes, NaN where it becomes NaN."""
    fmt = FORMATS[name]
    values, codes = number_line(name)
    inside = np.clip(x, values[0], values[-1])
    low = np.clip(np.searchsorted(values, inside, side="right") - 1, 0, len(values) - 2)
    below, above = values[low], values[low + 1]
    if rounding == "nearest_even":
        # E8M0 has no last significand bit. IEEE 754-2019 4.3.1 then takes the number of larger magnitude.
        middle, tie_up = (below + above) / 2, (name == "e8m0") | (codes[low] % 2 == 1)
        up = (inside > middle) | ((inside == middle) & tie_up)
        tie, tie_leaves = overflow_tie(name), name == "e8m0" or codes[-1] % 2 == 1
        beyond = (np.abs(x) > tie) | ((np.abs(x) == tie) & tie_leaves)
    else:
        up = (inside > 0) == (rounding == "away_from_zero")
        beyond = np.isinf(x) if rounding == "toward_zero" else np.abs(x) > values[-1]
    rounded = np.where((inside == above) | (up & (inside != below)), above, below)
    if isinstance(fmt, Float):
        if not saturate and fmt.inf_code is not None:
            rounded = np.where(beyond, np.copysign(np.inf, x), rounded)
        elif not saturate and fmt.nan_code is not None:
            rounded = np.where(beyond, np.nan, rounded)
        if not fmt.signed:
            rounded = np.where(x < 0, np.nan, rounded)
        if not fmt.has_zero:
            rounded = np.where(np.isinf(x) | ((x == 0) & (not saturate)), np.nan, rounded)
    return np.where(np.isnan(x), np.nan, rounded)


def assert_codes(name, codes, x, values):
    """Codes stand for `values`, keep the sign where the format has -0, and NaN becomes the one NaN code."""
    fmt = formats.get(name)
    assert codes.dtype == reference.code_dtype(fmt)
    decoded = oracle_values(name, codes)
    np.testing.assert_array_equal(decoded, values)
    assert set(codes[np.isnan(x)].tolist()) <= {fmt.nan_code}
    if isinstance(fmt, Float) and fmt.has_negative_zero:
        np.testing.assert_array_equal(np.signbit(decoded[~np.isnan(x)]), np.signbit(x[~np.isnan(x)]))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("name", TABLED)
def test_nearest_even_saturating(name, codec):
    x = stress(name)
    assert_codes(name, codec.encode(formats.get(name), x), x, expected(name, x))
    with np.errstate(over="ignore"):
        x = x.astype(np.float32)
    assert_codes(name, codec.encode(formats.get(name), x), x, expected(name, x.astype(np.float64)))


@pytest.mark.parametrize("name", CLAMPING)
def test_nearest_even_without_saturation(name):
    x = stress(name)
    assert_codes(name, reference.encode(formats.get(name), x, saturate=False), x, expected(name, x, saturate=False))


@pytest.mark.parametrize("saturate", [True, False])
@pytest.mark.parametrize("rounding", ["toward_zero", "away_from_zero"])
@pytest.mark.parametrize("name", CLAMPING)
def test_directed_rounding(name, rounding, saturate):
    x = stress(name)
    codes = reference.encode(formats.get(name), x, rounding=rounding, saturate=saturate)
    assert_codes(name, codes, x, expected(name, x, rounding, saturate=saturate))


@pytest.mark.parametrize(("rounding", "rounded"), [("nearest_even", np.rint), ("toward_zero", np.trunc)])
@pytest.mark.parametrize("name", INTS)
def test_integers_clip_or_wrap_like_numpys(name, rounding, rounded):
    fmt, x = formats.get(name), stress(name)
    x = x[np.abs(x) < 2**62]
    mask = (1 << fmt.bits) - 1
    clipped = np.clip(rounded(x), fmt.min, fmt.max).astype(np.int64)
    np.testing.assert_array_equal(reference.encode(fmt, x, rounding=rounding), clipped & mask)
    wrapped = reference.encode(fmt, x, rounding=rounding, saturate=False)
    np.testing.assert_array_equal(wrapped, rounded(x).astype(np.int64) & mask)


@pytest.mark.parametrize("name", INTS)
def test_integers_clamp_infinity_whether_they_wrap_or_not(name):
    fmt = formats.get(name)
    x = np.array([np.inf, -np.inf, fmt.max + 1], np.float32)
    np.testing.assert_array_equal(reference.decode(fmt, reference.encode(fmt, x)), [fmt.max, fmt.min, fmt.max])
    np.testing.assert_array_equal(
        reference.decode(fmt, reference.encode(fmt, x, saturate=False)), [fmt.max, fmt.min, fmt.min]
    )


@pytest.mark.parametrize("saturate", [True, False])
@pytest.mark.parametrize("name", PEERS)
def test_the_casts_of_ml_dtypes_and_numpy(name, saturate):
    """Casts of other people's code do not saturate; clipping first makes them. They keep the sign of a NaN."""
    fmt, oracle = formats.get(name), ORACLES[name]
    with np.errstate(over="ignore", invalid="ignore"):
        x = stress(name).astype(np.float32)
        clipped = np.clip(x, -np.float32(fmt.max), np.float32(fmt.max)) if saturate else x
        theirs = clipped.astype(oracle.dtype).view(f"u{np.dtype(oracle.dtype).itemsize}")
    ours = reference.encode(fmt, x, saturate=saturate)
    both_nan = np.isnan(oracle_values(name, ours)) & np.isnan(oracle_values(name, theirs))
    differ = (ours != theirs) & ~both_nan
    if name == "e8m0":
        # ml_dtypes 0.6 rounds all that lies between its two smallest numbers up; half of that is nearer to 2^-127.
        nearer_below = (x > 2.0**-127) & (x < 1.5 * 2.0**-127)
        # It has no saturating cast. Ours takes zero to the smallest number, and leaves Inf, which clipping hides, NaN.
        deviations = nearer_below | (saturate & ((x == 0) | np.isposinf(x)))
        np.testing.assert_array_equal(differ, deviations)
        differ &= ~deviations
    assert not differ.any()


def test_fp32_is_the_number_itself_rounded_once():
    fmt = formats.get("fp32")
    rng = np.random.default_rng(0)
    x = rng.integers(0, 1 << 32, 100_000, dtype=np.uint32).view(np.float32)
    x = x[~np.isnan(x)]
    np.testing.assert_array_equal(reference.encode(fmt, x, saturate=False), x.view(np.uint32))
    wide = rng.standard_normal(100_000) * 10.0 ** rng.integers(-46, 38, 100_000)
    np.testing.assert_array_equal(reference.encode(fmt, wide), wide.astype(np.float32).view(np.uint32))
    assert reference.encode(fmt, [np.nan, np.inf, 1e39]).tolist() == [0x7FC00000, 0x7F7FFFFF, 0x7F7FFFFF]
    assert reference.encode(fmt, [1e39, -1e39], saturate=False).tolist() == [0x7F800000, 0xFF800000]


def test_tf32_drops_13_bits_of_fp32_to_nearest_even():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 0x7F7FE000, 100_000, dtype=np.uint32)
    bits[:50_000:2] &= np.uint32(0xFFFFF000)  # ties, and numbers that need no rounding
    bits[::3] |= np.uint32(0x80000000)
    ours = reference.encode(formats.get("tf32"), bits.view(np.float32))
    np.testing.assert_array_equal(ours, (bits + np.uint32(0xFFF) + (bits >> 13 & np.uint32(1))) >> 13)
    toward_zero = reference.encode(formats.get("tf32"), bits.view(np.float32), rounding="toward_zero")
    np.testing.assert_array_equal(toward_zero, bits >> 13)


def test_float64_is_rounded_once_where_ml_dtypes_rounds_it_twice():
    """ml_dtypes goes through float32, where 0.75 - 2^-53 becomes the tie 0.75."""
    x = np.array([0.75 - 2.0**-53])
    assert float(x.astype(ml_dtypes.float4_e2m1fn)[0]) == 1.0
    assert float(reference.decode(formats.get("fp4_e2m1"), reference.encode(formats.get("fp4_e2m1"), x))[0]) == 0.5


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("name", FORMATS)
def test_representable_numbers_never_move(name, rounding):
    values = number_line(name)[0] if name in TABLED else oracle_values(name, np.arange(0x3F000000, 0x3F001000) >> 0)
    values = values[np.isfinite(values)]
    codes = reference.encode(formats.get(name), values, rounding=rounding, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(oracle_values(name, codes), values)


@pytest.mark.parametrize("name", TABLED)
def test_stochastic_rounding_takes_one_of_the_two_neighbours_and_is_repeatable(name):
    fmt, x = formats.get(name), stress(name)
    codes = reference.encode(fmt, x, rounding="stochastic", rng=np.random.default_rng(7))
    again = reference.encode(fmt, x, rounding="stochastic", rng=np.random.default_rng(7))
    np.testing.assert_array_equal(codes, again)
    decoded = oracle_values(name, codes)
    low, high = expected(name, x, "toward_zero"), expected(name, x, "away_from_zero")
    assert ((decoded == low) | (decoded == high) | np.isnan(low)).all()
    np.testing.assert_array_equal(np.isnan(decoded), np.isnan(low))
    other = reference.encode(fmt, x, rounding="stochastic", rng=np.random.default_rng(8))
    assert (other != codes).any()


@pytest.mark.parametrize("name", FORMATS)
def test_stochastic_rounding_is_unbiased(name):
    """The mean of n draws between neighbours a step apart strays by less than 5 step * sqrt(p (1 - p) / n)."""
    fmt, n = formats.get(name), 20_000
    rng = np.random.default_rng(1)
    low_code = 3 if fmt.bits > 2 else 1 if not getattr(fmt, "signed", True) else 0
    low, high = oracle_values(name, np.array([low_code, low_code + 1]))
    for x in low + np.array([0.1, 0.5, 0.9]) * (high - low):
        p = (x - low) / (high - low)
        decoded = oracle_values(name, reference.encode(fmt, np.full(n, x), rounding="stochastic", rng=rng))
        drawn = ((decoded - low) / (high - low)).mean()
        assert abs(drawn - p) < 5 * (p * (1 - p) / n) ** 0.5


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("name", NO_NAN)
def test_nan_is_refused_where_the_format_has_none(name, codec):
    x = np.zeros((3, 4), np.float32)
    x[1, 2] = x[2, 0] = np.nan
    with pytest.raises(
        FormatError, match=rf"{name} has no NaN, and the input has 2 \(first at index \[1, 2\]\)"
    ) as caught:
        codec.encode(formats.get(name), x)
    assert caught.value.hint


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("name", [name for name, row in FORMATS.items() if row.bits not in (8, 16, 32)])
def test_codes_outside_the_format_are_refused(name, codec):
    fmt = formats.get(name)
    beyond = np.array([0, 1 << fmt.bits], np.uint32)
    for codes in (beyond, beyond.astype(reference.code_dtype(fmt))):
        with pytest.raises(FormatError, match=f"{name}: code {1 << fmt.bits} does not fit in {fmt.bits} bits"):
            codec.decode(fmt, codes)


@pytest.mark.parametrize("name", FORMATS)
def test_negative_codes_are_refused(name):
    with pytest.raises(FormatError, match=f"{name}: code -1 does not fit"):
        reference.decode(formats.get(name), [0, -1])


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("name", FORMATS)
def test_scalars_and_empty_arrays_pass(name, codec):
    fmt = formats.get(name)
    code = codec.encode(fmt, np.float32(1.0))
    assert np.shape(code) == np.shape(codec.decode(fmt, code)) == ()
    assert float(codec.decode(fmt, code)) == 1.0
    empty = codec.encode(fmt, np.empty((0, 3), np.float32))
    assert empty.shape == codec.decode(fmt, empty).shape == (0, 3)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("codec", CODECS)
def test_equal_numbers_of_any_dtype_get_equal_codes(dtype, codec):
    x = np.arange(-64, 65) / 16
    for fmt in FORMATS.values():
        if fmt.min < 0:
            np.testing.assert_array_equal(codec.encode(fmt, x.astype(dtype)), reference.encode(fmt, x))
