from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from halve import formats
from halve.codecs import reference
from halve.errors import FormatError, UnknownNameError
from halve.formats import FORMATS, Float
from halve.formats.info import describe, describe_all, exact, hex_float, json_number, short
from halve.formats.value import at_rank, fields, kind, neighbours, ranks, value

SMALL = [name for name, fmt in FORMATS.items() if fmt.bits <= 16]


@pytest.mark.parametrize("name", SMALL)
def test_values_are_those_of_the_reference_codec(name):
    fmt = FORMATS[name]
    ours = np.array([value(fmt, code) for code in range(1 << fmt.bits)], np.float32)
    theirs = reference.value_table(fmt)
    np.testing.assert_array_equal(ours, theirs)
    numbers = ~np.isnan(theirs)
    np.testing.assert_array_equal(np.signbit(ours[numbers]), np.signbit(theirs[numbers]))


@pytest.mark.parametrize("name", ["fp32", "tf32"])
def test_values_of_wide_formats(name):
    fmt = FORMATS[name]
    codes = np.random.default_rng(0).integers(0, 1 << fmt.bits, 2000).tolist()
    codes += [0, (1 << fmt.bits) - 1]
    ours = np.array([value(fmt, code) for code in codes], np.float32)
    theirs = (np.array(codes, np.uint64) << (32 - fmt.bits)).astype(np.uint32).view(np.float32)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", SMALL)
def test_kinds_fit_the_values(name):
    fmt = FORMATS[name]
    for code in range(1 << fmt.bits):
        x, sort = value(fmt, code), kind(fmt, code)
        assert (sort == "nan") == np.isnan(x)
        assert (sort == "inf") == np.isinf(x)
        assert (sort == "zero") == (x == 0)
        if isinstance(fmt, Float) and np.isfinite(x) and x:
            assert (sort == "subnormal") == (abs(x) < fmt.smallest_normal)


@pytest.mark.parametrize("name", SMALL)
def test_ranks_list_every_finite_value_in_order(name):
    fmt = FORMATS[name]
    listed = [at_rank(fmt, rank) for rank in ranks(fmt)]
    table = reference.value_table(fmt)
    assert listed == sorted({float(x) for x in table if np.isfinite(x)})
    assert describe(fmt).finite_values == len(listed)


@pytest.mark.parametrize("name", SMALL)
def test_neighbours_are_next_in_order(name):
    fmt = FORMATS[name]
    ordered = sorted({float(x) for x in reference.value_table(fmt) if not np.isnan(x)})
    place = {x: index for index, x in enumerate(ordered)}
    for code in range(0, 1 << fmt.bits, 1 if fmt.bits <= 8 else 37):
        x = value(fmt, code)
        if np.isnan(x):
            assert neighbours(fmt, code) == (None, None)
            continue
        at = place[x]
        below = ordered[at - 1] if at else None
        above = ordered[at + 1] if at + 1 < len(ordered) else None
        assert neighbours(fmt, code) == (below, above)


@pytest.mark.parametrize(
    ("name", "code", "expected"),
    [
        ("fp8_e4m3", 0x1D, "0|0011|101"),
        ("fp4_e2m1", 0xF, "1|11|1"),
        ("e8m0", 0x7F, "01111111"),
        ("ue4m3", 0x7E, "1111|110"),
        ("int4", 0xC, "1100"),
        ("tf32", 0, "0|00000000|0000000000"),
    ],
)
def test_fields(name, code, expected):
    assert fields(formats.get(name), code) == expected


def test_codes_outside_the_format():
    for code in (-1, 16):
        with pytest.raises(FormatError, match="does not fit in 4 bits"):
            value(formats.get("fp4_e2m1"), code)


@pytest.mark.parametrize("name", FORMATS)
def test_notes_are_true(name):
    info = describe(name)
    fmt = info.format
    expected = {
        "": None,
        "zero": 0.0,
        "negative zero": -0.0,
        "one": 1.0,
        "next after one": 1 + (info.epsilon or 0),
        "smallest normal": info.smallest_normal,
        "smallest subnormal": info.smallest_subnormal,
        "the only subnormal": info.smallest_subnormal,
        "largest subnormal": (info.smallest_normal or 0) - (info.smallest_subnormal or 0),
        "largest": fmt.max,
        "most negative": fmt.min,
        "infinity": np.inf,
        "NaN that encoding writes": np.nan,
    }
    for code in info.codes():
        if (value := expected[code.note]) is not None:
            np.testing.assert_array_equal(code.value, value)
            assert np.signbit(code.value) == np.signbit(value) or np.isnan(value)
    assert sum(code.note == "largest" for code in info.codes()) == 1


def test_describe():
    info = describe("fp8_e5m2")
    assert info.facts() == describe_all().to_json()[list(FORMATS).index("fp8_e5m2")]
    assert (info.family, info.has_inf, info.has_nan, info.signed) == ("float", True, True, True)
    assert describe("nf4").family == "codebook"
    assert describe("nf4").epsilon is None
    assert describe("uint4").signed is False
    assert describe("int8").family == "integer"
    assert describe("e8m0").smallest_subnormal is None
    assert len(list(describe("fp8_e5m2").rows())) == 256
    assert len(describe("nf4").to_json()["codes"]) == 16
    assert "57344" in info._repr_html_()
    with pytest.raises(UnknownNameError):
        describe("fp8")


@pytest.mark.parametrize(
    "x", [0.1, -448.0, 2.0**-149, 3.4028234663852886e38, 1e-5, 123456.75, 0.0, -0.0, 1e15, 2.0**-24]
)
def test_exact_text_is_exact(x):
    assert Fraction(Decimal(exact(x))) == Fraction(x)
    assert float(exact(x)) == x
    assert exact(x).startswith("-") == bool(np.signbit(x))
    assert float.fromhex(hex_float(x)) == x


def test_short_text():
    assert short(0.1015625) == "0.1015625"
    assert short(2.0**-127) == "2^-127"
    assert short(-(2.0**-149)) == "-2^-149"
    assert float(short(0.1)) == 0.1
    assert [exact(x) for x in (np.inf, -np.inf, np.nan)] == ["inf", "-inf", "nan"]
    assert [json_number(x) for x in (1.5, float("inf"), float("nan"))] == [1.5, "inf", "nan"]
    assert hex_float(float("-inf")) == "-inf"
    assert hex_float(0.0) == "0x0p+0"
