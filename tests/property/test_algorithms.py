"""What holds of every algorithm, every scheme and every finite weight, whatever the inputs were like."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halve import algorithms
from halve.algorithms import gptq
from halve.algorithms.kernels import native
from halve.codecs import reference
from halve.schemes import SCHEMES, Block
from halve.schemes import quantize as q
from halve.schemes.statistics import Statistics
from tiny.examples import examples

BLOCKS = {row.weight: row.name for row in reversed(SCHEMES.values()) if row.weight.scale is not None}
ONE_COLUMN = Block(element="fp4_e2m1", scale="ue4m3", block_size=1, tensor_scale=True)
BLOCKS |= {ONE_COLUMN: "one_column", Block(element="uint4", scale="bf16", block_size=1, zero_point=True): "one_asym"}
each_block = pytest.mark.parametrize("block", [pytest.param(block, id=name) for block, name in BLOCKS.items()])
calibrated = pytest.mark.parametrize("name", ["mse", "hessian_diag", "gptq"])
ROWS, COLUMNS = 3, 128
BAND = COLUMNS // 8
HUGE = float(np.float32(3e38))


@st.composite
def weights(draw, *, extreme):
    """[3, 128] float32 of eight bands: Gaussian of any magnitude, constant, zero, single numbers."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    w = np.zeros((ROWS, COLUMNS), np.float32)
    largest, exponents = (HUGE, st.integers(-38, 36)) if extreme else (1e4, st.integers(-4, 3))
    number = st.floats(-largest, largest, width=32, allow_subnormal=extreme)
    for first in range(0, COLUMNS, BAND):
        part = w[:, first : first + BAND]
        match draw(st.sampled_from(["gaussian", "constant", "zero", "few"])):
            case "gaussian":
                part[:] = rng.standard_normal(part.shape) * 10.0 ** draw(exponents)
            case "constant":
                part[:] = draw(number)
            case "few":
                for _ in range(draw(st.integers(1, 4))):
                    part[draw(st.integers(0, ROWS - 1)), draw(st.integers(0, BAND - 1))] = draw(number)
    return w if extreme else np.where(np.abs(w) < 1e-8, np.float32(0), w)


@st.composite
def inputs(draw):
    """Statistics of inputs: correlated or not, of one size or of many, some or all never used, fewer than columns."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.sampled_from([1, 20, 300]))
    x = rng.standard_normal((count, COLUMNS))
    if draw(st.booleans()):
        x += 2 * rng.standard_normal((count, 1))
    x *= np.exp(draw(st.sampled_from([0, 1, 3])) * rng.standard_normal(COLUMNS))
    x[:, rng.random(COLUMNS) < draw(st.sampled_from([0, 0.3, 1]))] = 0
    hessian = (x.T @ x / count).astype(np.float32)
    return Statistics(np.ascontiguousarray(hessian.diagonal()), np.abs(x).max(0).astype(np.float32), hessian, count)


def given_case(judge, *, extreme, count):
    return examples(count)(given(weights(extreme=extreme), inputs())(judge))


def cost(w, tensor, hessian):
    """Half the change of the layer's outputs, a row, in float64."""
    error = w.astype(np.float64) - q.dequantize(tensor)
    return np.einsum("oi,ij,oj->o", error, hessian, error)


@each_block
@calibrated
def test_whatever_is_finite_becomes_something_finite_and_stored(block, name):
    """Scales are numbers of their format and not zero, codes and zero points fit, the tensor scale is the given one."""

    def judge(w, known):
        scale = q.tensor_scale(block, q.absmax(w))
        t = algorithms.get(name).prepared(block, known).quantize(w, tensor_scale=scale)
        assert (t.block, t.tensor_scale) == (block, scale)
        assert t.codes.shape == w.shape
        assert t.scales.shape == block.scale_shape(*w.shape)
        stored = reference.decode(block.scale_format, reference.encode(block.scale_format, t.scales))
        np.testing.assert_array_equal(stored, t.scales)
        assert t.scales.all()
        largest = (1 << block.element_format.bits) - 1
        assert int(t.codes.max()) <= largest
        assert (t.zeros is None) == (not block.zero_point)
        assert t.zeros is None or int(t.zeros.max()) <= largest
        assert (t.mins is None) == (not block.minimum)
        assert np.isfinite(q.dequantize(t)).all()

    given_case(judge, extreme=True, count=10)()


@each_block
def test_no_algorithm_costs_more_than_where_it_starts(block):
    """Each by its own measure: rtn -> mse, rtn -> hessian_diag, and hessian_diag -> gptq row by row."""

    def judge(w, known):
        scale = q.tensor_scale(block, q.absmax(w))
        made = {
            name: algorithms.get(name).prepared(block, known).quantize(w, tensor_scale=scale)
            for name in ("rtn", "mse", "hessian_diag", "gptq")
        }
        ready = gptq.ALGORITHM.prepared(block, known)
        ready = getattr(ready, "inner", ready)
        plain, diagonal = np.eye(COLUMNS), np.diag(known.mean_square.astype(np.float64))
        damped = ready.hessian + ready.factor.damping * plain
        # float32 sums, and what a weight loses where it is divided by its step
        slack = 1e-6 * cost(w, made["rtn"], plain).sum() + 1e-9 * float((w.astype(np.float64) ** 2).sum())
        for start, end, measure in (
            ("rtn", "mse", plain),
            ("rtn", "hessian_diag", diagonal),
            ("hessian_diag", "gptq", damped),
        ):
            before, after = cost(w, made[start], measure), cost(w, made[end], measure)
            allowed = before * (1 + 1e-4) + slack * np.abs(measure).sum(1).max()
            assert (after <= allowed).all() if end == "gptq" else after.sum() <= allowed.sum(), (start, end)

    given_case(judge, extreme=False, count=10)()


@each_block
@pytest.mark.parametrize("name", ["mse", "hessian_diag"])
def test_codes_are_the_nearest_under_the_stored_scale(block, name):
    """The scale is rounded to its format first, and the codes chosen under what it then is."""

    def judge(w, known):
        scale = q.tensor_scale(block, q.absmax(w))
        t = algorithms.get(name).prepared(block, known).quantize(w, tensor_scale=scale)
        values = q.dequantize(t).astype(np.float64)
        distance = np.abs(w - values)
        for code in range(1 << min(block.element_format.bits, 4)):  # of the wider, some
            other = q.dequantize(q.QTensor(block, np.full_like(t.codes, code), t.scales, scale, t.zeros, t.mins))
            closer = np.isfinite(other) & (np.abs(w - other.astype(np.float64)) < distance * (1 - 1e-6))
            assert not (closer & (distance > 1e-6 * np.abs(w))).any()

    given_case(judge, extreme=False, count=5)()


@each_block
@calibrated
def test_native_and_reference_agree_on_every_bit(block, name):
    def judge(w, known):
        scale = q.tensor_scale(block, q.absmax(w))
        ours = algorithms.get(name).prepared(block, known).quantize(w, tensor_scale=scale)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(native, "available", lambda _: False)
            patch.setattr(native, "loaded", lambda: False)
            theirs = algorithms.get(name).prepared(block, known).quantize(w, tensor_scale=scale)
        for part in ("codes", "scales", "zeros", "mins"):
            np.testing.assert_array_equal(getattr(ours, part), getattr(theirs, part))

    given_case(judge, extreme=True, count=2 if name == "gptq" else 5)()


@pytest.mark.parametrize(
    "block", [pytest.param(b, id=name) for b, name in BLOCKS.items() if b.tile(ROWS, COLUMNS)[0] == 1]
)
@pytest.mark.parametrize("name", ["hessian_diag", "gptq"])
def test_any_band_of_rows_is_quantized_as_in_the_whole(block, name):
    def judge(w, known):
        scale = q.tensor_scale(block, q.absmax(w))
        ready = algorithms.get(name).prepared(block, known)
        whole, band = (ready.quantize(rows, tensor_scale=scale) for rows in (w, w[1:2]))
        np.testing.assert_array_equal(band.codes, whole.codes[1:2])
        np.testing.assert_array_equal(band.scales, whole.scales[1:2])

    given_case(judge, extreme=True, count=5)()
