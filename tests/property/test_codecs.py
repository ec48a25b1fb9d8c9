"""Encoding judged by rational arithmetic, number by number."""

import runpy
from bisect import bisect_left
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halve import formats
from halve.codecs import reference
from halve.formats import FORMATS, Float
from tiny.examples import examples

ORACLES = runpy.run_path(str(Path(__file__).parents[1] / "golden/make_formats.py"))["ORACLES"]
TABLED = [name for name, row in FORMATS.items() if row.bits <= 16]


@cache
def number_line(name):
    """The oracle's finite values as rationals in ascending order, without -0, and their codes."""
    with np.errstate(invalid="ignore"):
        values = ORACLES[name].values(np.arange(1 << FORMATS[name].bits, dtype=np.uint32)).tolist()
    codes = [code for code, value in enumerate(values) if np.isfinite(value) and (value != 0 or not np.signbit(value))]
    codes.sort(key=values.__getitem__)
    return [Fraction(values[code]) for code in codes], codes


def neighbours(name, x):
    """Index of the largest value <= x and of the smallest >= x, both within the ends."""
    values, _ = number_line(name)
    above = min(bisect_left(values, x), len(values) - 1)
    below = above if values[above] <= x or above == 0 else above - 1
    return below, above


def nearest_even(name, x):
    values, codes = number_line(name)
    below, above = neighbours(name, x)
    down, up = abs(x - values[below]), abs(values[above] - x)
    if down != up:
        return values[below if down < up else above]
    # E8M0 has no last significand bit: IEEE 754-2019 4.3.1 then takes the number of larger magnitude.
    return values[above if name == "e8m0" or codes[above] % 2 == 0 else below]


def toward_zero(name, x):
    below, above = neighbours(name, x)
    return number_line(name)[0][below if x > 0 else above]


def away_from_zero(name, x):
    below, above = neighbours(name, x)
    return number_line(name)[0][above if x > 0 else below]


def numbers(name):
    """Finite float64: any, within the format's range, and beside the middles of its neighbours."""
    values, _ = number_line(name)
    middles = st.integers(0, len(values) - 2).map(lambda i: float((values[i] + values[i + 1]) / 2))
    beside = st.tuples(middles, st.sampled_from([-np.inf, 0.0, np.inf])).map(
        lambda pair: float(np.nextafter(pair[0], pair[1])) if pair[1] else pair[0]
    )
    low = 0 if not FORMATS[name].min < 0 else -FORMATS[name].max
    lowest = 0.0 if isinstance(FORMATS[name], Float) and not FORMATS[name].signed else -1e300
    return st.one_of(st.floats(lowest, 1e300), st.floats(low, FORMATS[name].max), beside)


@pytest.mark.parametrize("rule", [nearest_even, toward_zero, away_from_zero], ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("name", TABLED)
def test_a_number_becomes_the_value_that_rational_arithmetic_chooses(name, rule):
    fmt = formats.get(name)

    @examples(100)
    @given(numbers(name))
    def judge(x):
        code = reference.encode(fmt, x, rounding=rule.__name__)
        assert Fraction(float(reference.decode(fmt, code))) == rule(name, Fraction(x))

    judge()


@pytest.mark.parametrize("name", TABLED)
def test_rounding_is_monotonic_and_odd(name):
    fmt = formats.get(name)

    @examples(50)
    @given(st.lists(numbers(name), min_size=2, max_size=20))
    def judge(xs):
        x = np.sort(xs)
        values = reference.decode(fmt, reference.encode(fmt, x))
        assert (values[1:] >= values[:-1]).all()
        if isinstance(fmt, Float) and fmt.signed:
            np.testing.assert_array_equal(reference.decode(fmt, reference.encode(fmt, -x)), -values)

    judge()
