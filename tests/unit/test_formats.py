"""Every row of the format table against somebody else's: ml_dtypes, numpy, rational arithmetic, a written-out list."""

import json
import runpy
from pathlib import Path
from statistics import NormalDist

import ml_dtypes
import numpy as np
import pytest

from halve import formats
from halve.codecs import reference
from halve.errors import UnknownNameError
from halve.formats import FORMATS, Codebook, Float, Int

GOLDEN = Path(__file__).parents[1] / "golden"
MAKE = runpy.run_path(str(GOLDEN / "make_formats.py"))
ORACLES = MAKE["ORACLES"]
FLOATS = [name for name, row in FORMATS.items() if isinstance(row, Float)]
INTS = [name for name, row in FORMATS.items() if isinstance(row, Int)]
ROWS = json.loads((GOLDEN / "formats.json").read_text())


def test_every_format_has_an_oracle_and_a_golden_row():
    assert list(ORACLES) == list(ROWS) == list(FORMATS)
    assert all(name == row.name and row.spec for name, row in FORMATS.items())


def test_the_golden_file_is_what_its_script_writes():
    assert MAKE["build"]() == ROWS


@pytest.mark.parametrize("name", FORMATS)
def test_every_code_decodes_to_the_oracles_value(name):
    codes = MAKE["codes"](ORACLES[name])
    values = reference.decode(formats.get(name), codes)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values.view(np.uint32) >> 31, signs(ORACLES[name].values(codes), values))
    assert MAKE["digest"](values) == ROWS[name]["sha256"]
    if "values" in ROWS[name]:
        np.testing.assert_array_equal(values, np.array([float.fromhex(v) for v in ROWS[name]["values"]], np.float32))


def signs(oracle, values):
    """Sign bits of the oracle's values; the sign of a NaN is its own."""
    return np.where(np.isnan(oracle), values.view(np.uint32), oracle.view(np.uint32)) >> 31


@pytest.mark.parametrize("name", FORMATS)
def test_limits_follow_from_the_row(name):
    fmt, row = FORMATS[name], ROWS[name]
    assert fmt.bits == row["bits"]
    assert fmt.max == float.fromhex(row["max"])
    assert fmt.min == float.fromhex(row["min"])
    if isinstance(fmt, Float):
        assert fmt.smallest == float.fromhex(row["smallest"])


@pytest.mark.parametrize("name", [name for name in FLOATS if ORACLES[name].dtype])
def test_float_limits_agree_with_finfo(name):
    fmt, info = FORMATS[name], ml_dtypes.finfo(ORACLES[name].dtype)
    assert fmt.max == float(info.max)
    assert fmt.smallest_normal == float(info.smallest_normal)
    assert fmt.smallest == float(info.smallest_subnormal)
    assert fmt.mantissa == info.nmant
    assert fmt.bits == info.bits if fmt.bits % 8 == 0 else fmt.bits <= 8


def test_float_limits_that_no_finfo_knows():
    limits = {name: FORMATS[name].smallest_normal for name in FLOATS if not ORACLES[name].dtype}
    assert limits == {"tf32": 2.0**-126, "ue4m3": 2.0**-6}


@pytest.mark.parametrize("name", [name for name in INTS if ORACLES[name].dtype])
def test_integer_limits_agree_with_iinfo(name):
    fmt, info = FORMATS[name], ml_dtypes.iinfo(ORACLES[name].dtype)
    assert (fmt.min, fmt.max, fmt.bits) == (int(info.min), int(info.max), info.bits)


def test_integer_limits_that_no_iinfo_knows():
    limits = {name: (FORMATS[name].min, FORMATS[name].max) for name in INTS if not ORACLES[name].dtype}
    assert limits == {"int6": (-32, 31), "uint6": (0, 63), "int3": (-4, 3), "uint3": (0, 7)}


@pytest.mark.parametrize("name", FLOATS)
def test_special_codes_are_the_ones_the_oracle_names(name):
    fmt = FORMATS[name]
    codes = MAKE["codes"](ORACLES[name])
    values = ORACLES[name].values(codes)
    assert fmt.has_zero == bool((values == 0).any())
    assert fmt.has_negative_zero == bool(((values == 0) & np.signbit(values)).any())
    infinities = codes[np.isposinf(values)]
    assert ([] if fmt.inf_code is None else [fmt.inf_code]) == infinities.tolist()
    if fmt.nan_code is None:
        assert not np.isnan(values).any()
    else:
        assert np.isnan(ORACLES[name].values(np.array([fmt.nan_code], np.uint32))).all()
    assert float(ORACLES[name].values(np.array([fmt.max_code], np.uint32))[0]) == fmt.max


def test_the_widest_exponent_range_of_tf32_is_that_of_fp32_and_its_precision_that_of_fp16():
    tf32, fp32, fp16 = (formats.get(name) for name in ("tf32", "fp32", "fp16"))
    assert (tf32.exponent, tf32.bias, tf32.mantissa) == (fp32.exponent, fp32.bias, fp16.mantissa)
    assert (tf32.bits, tf32.storage_bits) == (19, 32)


def test_storage_is_the_width_of_the_format_or_of_its_container():
    containers = {name: row.storage_bits for name, row in FORMATS.items() if row.storage_bits != row.bits}
    assert containers == {"tf32": 32, "ue4m3": 8}


def test_nf4_values_are_normalised_quantiles_of_the_normal_distribution():
    """QLoRA (arXiv 2305.14314), section 3 and its code: 8 negative and 9 positive quantiles, shared zero."""
    offset = (1 - 1 / (2 * 15) + 1 - 1 / (2 * 16)) / 2
    quantile = NormalDist().inv_cdf
    positive = [quantile(offset + (0.5 - offset) * i / 8) for i in range(8)]
    negative = [-quantile(offset + (0.5 - offset) * i / 7) for i in range(7)]
    expected = sorted([*positive, 0.0, *negative])
    nf4 = formats.get("nf4")
    assert isinstance(nf4, Codebook)
    np.testing.assert_allclose(nf4.values, np.array(expected) / max(positive), atol=1e-6)
    assert list(nf4.values) == sorted(nf4.values)


def test_an_unknown_format_lists_near_matches():
    with pytest.raises(UnknownNameError, match="unknown format 'fp8_e4m4'") as caught:
        formats.get("fp8_e4m4")
    assert "fp8_e4m3" in caught.value.hint


def test_an_unknown_format_that_resembles_none_lists_all():
    with pytest.raises(UnknownNameError) as caught:
        formats.get("zzz")
    assert all(name in caught.value.hint for name in FORMATS)
