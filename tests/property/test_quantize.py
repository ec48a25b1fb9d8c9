"""What holds of every scheme and every finite weight, from subnormal numbers to 3e38."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halve.codecs import reference
from halve.formats import Float
from halve.schemes import SCHEMES, native
from halve.schemes import quantize as q
from tiny.examples import examples

BLOCKS = {row.weight: row.name for row in reversed(SCHEMES.values()) if row.weight.scale is not None}
RULES = [
    pytest.param(block, rule, id=f"{name}-{rule}") for block, name in BLOCKS.items() for rule in q.scale_rules(block)
]
BY_ROWS = [rule for rule in RULES if not isinstance(rule.values[0].block_size, tuple)]  # the others: test_layouts.py
ROWS, COLUMNS = 3, 256
HUGE = float(np.float32(3e38))
BAND = COLUMNS // 8


@st.composite
def weights(draw):
    """[3, 256] float32 made of eight bands: Gaussian of any magnitude, constant, zero, or single drawn numbers."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    w = np.zeros((ROWS, COLUMNS), np.float32)
    number = st.floats(-HUGE, HUGE, width=32)
    for band in range(0, COLUMNS, BAND):
        part = w[:, band : band + BAND]
        match draw(st.sampled_from(["gaussian", "constant", "zero", "few", "tiny"])):
            case "gaussian":
                part[:] = rng.standard_normal(part.shape) * 10.0 ** draw(st.integers(-38, 36))
            case "constant":
                part[:] = draw(number)
            case "few":
                for _ in range(draw(st.integers(1, 4))):
                    part[draw(st.integers(0, ROWS - 1)), draw(st.integers(0, BAND - 1))] = draw(number)
            case "tiny":
                part[:] = rng.integers(-40, 41, part.shape) * 2.0**-149
    return w


def given_weights(judge):
    return examples(25)(given(weights())(judge))


@pytest.mark.parametrize(("block", "rule"), RULES)
def test_whatever_is_finite_becomes_something_finite_and_stored(block, rule):
    """Scales are numbers of their format and not zero, codes fit, and no sign is turned."""

    @given_weights
    def judge(w):
        t = q.quantize(block, w, rule=rule)
        stored = reference.decode(block.scale_format, reference.encode(block.scale_format, t.scales))
        np.testing.assert_array_equal(stored, t.scales)
        assert t.scales.all()
        assert int(t.codes.max()) < 1 << block.element_format.bits
        values = q.dequantize(t)
        assert np.isfinite(values).all()
        if t.zeros is None and t.mins is None:
            assert ((np.sign(values) == np.sign(w)) | (values == 0)).all()

    judge()


@pytest.mark.parametrize(("block", "rule"), RULES)
def test_native_and_reference_agree_on_every_bit(block, rule):
    if not native.quantizes(block):
        pytest.skip("no native kernel for this block: `quantize` is the reference")

    @given_weights
    def judge(w):
        scale = q.tensor_scale(block, q.absmax(w))
        ours = q.quantize(block, w, rule=rule, tensor_scale=scale)
        theirs = q.quantize_reference(block, w, rule=rule, tensor_scale=scale)
        for part in ("codes", "scales", "zeros"):
            np.testing.assert_array_equal(getattr(ours, part), getattr(theirs, part))
        values = q.dequantize_reference(theirs)
        np.testing.assert_array_equal(q.dequantize(ours).view(np.uint32), values.view(np.uint32))

    judge()


@pytest.mark.parametrize(("block", "rule"), RULES)
def test_powers_of_two_and_signs_pass_through(block, rule):
    """Halving the weights halves the result; negating them negates it where the elements are floats."""

    @given_weights
    def judge(w):
        w = np.where(np.abs(w) < 1e-6, 0, np.clip(w, -1e3, 1e3)).astype(np.float32)
        values = q.dequantize(q.quantize(block, w, rule=rule))
        if block.scale != "fp16":  # whose range 1e-6 to 1e3 may leave
            np.testing.assert_array_equal(q.dequantize(q.quantize(block, w / 2, rule=rule)), values / 2)
        if isinstance(block.element_format, Float):
            np.testing.assert_array_equal(q.dequantize(q.quantize(block, -w, rule=rule)), -values)

    judge()


@pytest.mark.parametrize(("block", "rule"), BY_ROWS)
def test_any_band_of_rows_is_quantized_as_in_the_whole(block, rule):
    @given_weights
    def judge(w):
        scale = q.tensor_scale(block, q.absmax(w))
        whole = q.quantize(block, w, rule=rule, tensor_scale=scale)
        band = q.quantize(block, w[1:2], rule=rule, tensor_scale=scale)
        np.testing.assert_array_equal(band.codes, whole.codes[1:2])
        np.testing.assert_array_equal(band.scales, whole.scales[1:2])

    judge()
