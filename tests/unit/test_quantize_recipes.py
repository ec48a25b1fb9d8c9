"""Block quantization against recipes of a few lines of numpy and ml_dtypes, scheme by scheme and rule by rule.

`benchmarks/conformance.py` compares with the tools themselves, on a tensor of 45 million weights.
"""

import ml_dtypes
import numpy as np
import pytest

from halve import schemes
from halve.schemes import quantize as q


def by_reference(block, w, *, rule=None, tensor_scale=None):
    rule = q.check_rule(block, rule)
    given = tensor_scale if tensor_scale is not None else q.tensor_scale(block, q.absmax(w))
    return q.quantize_reference(block, w, rule=rule, tensor_scale=given)


@pytest.fixture(params=[q.quantize, by_reference], ids=["dispatched", "reference"])
def quantize(request):
    return request.param


def gaussian(rows=24, columns=512, seed=0):
    """N(0, 1) with one weight in 1000 twenty times as large, as in the recipe of benchmarks/conformance.py."""
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((rows, columns), dtype=np.float32)
    w[rng.random(w.shape) < 1e-3] *= np.float32(20)
    return w


def blocks(w, size):
    return w.reshape(len(w), -1, size)


def cast_codes(x, dtype, limit):
    """Codes of ml_dtypes' cast, saturating."""
    return np.clip(x, -limit, limit).astype(dtype).view(np.uint8)


def nvfp4_recipe(w):
    divisor = np.float32(1) / (np.abs(w).max() / np.float32(2688))
    tensor_scale = np.float32(1) / divisor
    b = blocks(w, 16)
    wanted = np.abs(b).max(-1) / np.float32(6) / tensor_scale
    scales = wanted.astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    step = scales / (np.float32(1) / tensor_scale)
    codes = cast_codes(b / step[..., None], ml_dtypes.float4_e2m1fn, 6) & 15
    return codes.reshape(w.shape), scales, tensor_scale


def mxfp4_recipe(w, exponents):
    b = blocks(w, 32)
    scales = np.exp2(exponents(np.abs(b).max(-1).astype(np.float64))).astype(np.float32)
    codes = cast_codes(b / scales[..., None], ml_dtypes.float4_e2m1fn, 6) & 15
    return codes.reshape(w.shape), scales, None


def floor_exponents(amax):
    return np.floor(np.log2(amax)) - 2


def even_exponents(amax):
    """E2M1 keeps 2 bits of significand: from 1.75 times a power of two, amax rounds up to the next one."""
    fraction, exponent = np.frexp(amax)
    return np.where(fraction >= 1.75 / 2, exponent, exponent - 1) - 2


def rceil_exponents(amax):
    return np.ceil(np.log2(amax / 6))


def fp8_recipe(w):
    scales = np.abs(w).max(1, keepdims=True) / np.float32(448)
    return cast_codes(w / scales, ml_dtypes.float8_e4m3fn, 448), scales, None


def int4_recipe(w, divisor):
    b = blocks(w, 128)
    scales = (np.abs(b).max(-1) / np.float32(divisor)).astype(ml_dtypes.bfloat16).astype(np.float32)
    codes = np.clip(np.rint(b / scales[..., None]), -8, 7).astype(np.int8).view(np.uint8) & 15
    return codes.reshape(w.shape), scales, None


def int4_signed_recipe(w):
    b = blocks(w, 128)
    extreme = np.take_along_axis(b, np.abs(b).argmax(-1)[..., None], -1)[..., 0]
    scales = (extreme / np.float32(-8)).astype(ml_dtypes.bfloat16).astype(np.float32)
    codes = np.clip(np.rint(b / scales[..., None]), -8, 7).astype(np.int8).view(np.uint8) & 15
    return codes.reshape(w.shape), scales, None


def int8_recipe(w):
    scales = np.abs(w).max(1, keepdims=True) / np.float32(127)
    return np.clip(np.rint(w / scales), -128, 127).astype(np.int8).view(np.uint8), scales, None


RECIPES = {
    ("nvfp4", "max"): nvfp4_recipe,
    ("mxfp4", "floor"): lambda w: mxfp4_recipe(w, floor_exponents),
    ("mxfp4", "even"): lambda w: mxfp4_recipe(w, even_exponents),
    ("mxfp4", "rceil"): lambda w: mxfp4_recipe(w, rceil_exponents),
    ("fp8", "max"): fp8_recipe,
    ("w8a8", "max"): int8_recipe,
    ("w4a16", "max"): lambda w: int4_recipe(w, 7),
    ("w4a16", "range"): lambda w: int4_recipe(w, 7.5),
    ("w4a16", "signed"): int4_signed_recipe,
}


@pytest.mark.parametrize(("scheme", "rule"), RECIPES, ids=["-".join(pair) for pair in RECIPES])
def test_codes_and_scales_of_the_written_out_recipe(quantize, scheme, rule):
    w = gaussian()
    codes, scales, tensor_scale = RECIPES[scheme, rule](w)
    ours = quantize(schemes.get(scheme).weight, w, rule=rule)
    np.testing.assert_array_equal(ours.scales, scales)
    np.testing.assert_array_equal(ours.codes, codes)
    assert ours.tensor_scale == tensor_scale
