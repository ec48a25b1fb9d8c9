import json
import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

import halve
from halve.errors import FormatError, UnknownNameError
from halve.formats import FORMATS, get

FLOATS = ["fp16", "bf16", "fp8_e4m3", "fp8_e5m2", "fp6_e2m3", "fp6_e3m2", "fp4_e2m1", "int8", "nf4"]


def test_shapes_follow_the_input():
    assert halve.cast(0.1, "fp8_e4m3").codes.shape == ()
    result = halve.cast([[1, 2, 3], [4, 5, 6]], "fp4_e2m1")
    assert result.codes.shape == result.values.shape == result.error.shape == (2, 3)
    assert result.values.tolist() == [[1, 2, 3], [4, 4, 6]]
    assert result.error.tolist() == [[0, 0, 0], [0, -1, 0]]
    assert [number.value for number in result.numbers()] == [1, 2, 3, 4, 4, 6]
    assert halve.cast([], "fp16").codes.shape == (0,)


@pytest.mark.parametrize(
    "dtype",
    [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, np.int32, np.int64, np.bool_],
)
def test_dtypes_of_the_input(dtype):
    inputs = np.array([0, 1, 3], dtype)
    assert halve.cast(inputs, "fp4_e2m1").codes.tolist() == halve.cast(inputs.astype(float), "fp4_e2m1").codes.tolist()


@pytest.mark.parametrize("name", ["fp16", "fp8_e4m3", "fp8_e5m2"])
def test_codes_against_numpy_and_ml_dtypes(name):
    dtype = {"fp16": np.float16, "fp8_e4m3": ml_dtypes.float8_e4m3fn, "fp8_e5m2": ml_dtypes.float8_e5m2}[name]
    x = (np.random.default_rng(1).standard_normal(1000) * 10).astype(np.float32)
    result = halve.cast(x, name)
    np.testing.assert_array_equal(result.values, x.astype(dtype).astype(np.float32))
    np.testing.assert_array_equal(result.error, x.astype(dtype).astype(np.float64) - x)


@pytest.mark.parametrize("name", FLOATS)
def test_nearest_is_at_most_half_a_unit_away_and_between_neighbours(name):
    fmt = get(name)
    x = np.random.default_rng(2).uniform(float(fmt.min), float(fmt.max), 300)
    for number in halve.cast(x, fmt).numbers():
        assert abs(number.ulps) <= 0.5
        assert number.error == number.value - number.input
        below, above = number.neighbours
        assert below is None or below < number.input
        assert above is None or number.input < above


def test_an_ulp_is_that_of_the_binade_of_the_input():
    assert next(halve.cast(0.1, "fp8_e4m3").numbers()).ulps == pytest.approx(0.0015625 / 2.0**-7)
    just_below_one = next(halve.cast(1 - 2.0**-6, "fp8_e4m3").numbers())
    assert just_below_one.value == 1
    assert just_below_one.ulps == pytest.approx(2.0**-6 / 2.0**-4)
    beyond = next(halve.cast(1000, "fp8_e4m3").numbers())
    assert beyond.ulps == pytest.approx((448 - 1000) / 32)


def test_special_errors():
    result = halve.cast([np.inf, -np.inf, np.nan, 0.0, 1e9], "fp16", saturate=False)
    assert result.error.tolist()[:2] == [0, 0]
    assert math.isnan(result.error[2])
    assert result.error.tolist()[3:] == [0, np.inf]
    numbers = list(result.numbers())
    assert [n.relative_error for n in numbers[:2]] == [0, 0]
    assert numbers[4].ulps == np.inf
    assert math.isnan(numbers[2].ulps)
    zero = next(halve.cast(0, "e8m0").numbers())
    assert zero.value == 2.0**-127
    assert zero.relative_error == np.inf


def test_negative_zero():
    number = next(halve.cast(-0.0, "fp8_e4m3").numbers())
    assert number.code == 0x80
    assert number.error == 0
    assert number.fields == "1|0000|000"


@pytest.mark.parametrize("bad", ["0.1", ["a"], 1j, None, [1, [2]], {"a": 1}, np.array(["1"]), np.array([1 + 1j])])
def test_what_is_no_real_number(bad):
    with pytest.raises(FormatError, match="only real numbers"):
        halve.cast(bad, "fp16")


def test_integers_that_would_be_rounded_twice():
    with pytest.raises(FormatError, match="rounded twice"):
        halve.cast(2**53 + 1, "fp32")
    with pytest.raises(FormatError, match="only real numbers"):
        halve.cast(10**400, "fp32")
    assert halve.cast(2**60, "fp32").values == 2**60


def test_unknown_names():
    with pytest.raises(UnknownNameError, match="'fp9'"):
        halve.cast(1, "fp9")
    with pytest.raises(UnknownNameError, match="unknown rounding 'nearest'") as caught:
        halve.cast(1, "fp16", rounding="nearest")
    assert "nearest_even" in caught.value.hint


def test_stochastic_rounding_is_unbiased_and_repeatable():
    x = np.full(4000, 0.7)
    first = halve.cast(x, "fp4_e2m1", rounding="stochastic", seed=3)
    again = halve.cast(x, "fp4_e2m1", rounding="stochastic", seed=3)
    np.testing.assert_array_equal(first.codes, again.codes)
    assert float(first.values.mean()) == pytest.approx(0.7, abs=0.02)
    assert first.to_json()["seed"] == 3
    assert halve.cast(1, "fp16", seed=3).to_json()["seed"] is None


@pytest.mark.parametrize("name", FORMATS)
def test_json_of_every_format(name):
    result = halve.cast([0.3, 1, 100], name)
    found = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert found["format"] == name
    assert found["shape"] == [3]
    for number, value in zip(found["numbers"], result.values.tolist(), strict=True):
        assert number["value"] == value
        assert Fraction(number["exact"]) == Fraction(value)
        assert int(number["hex"], 16) == int(number["fields"].replace("|", ""), 2) == number["code"]


def test_the_result_is_frozen_and_shows_itself():
    result = halve.cast(np.arange(30), "fp8_e4m3")
    with pytest.raises(AttributeError):
        result.codes = None
    html = result._repr_html_()
    assert html.count("<tr>") == 21
    assert "and 10 more" in html
    assert "fp8_e4m3, nearest_even, saturating" in html
    assert all(len(row) == len(result.columns) for row in result.rows())
