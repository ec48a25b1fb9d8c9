"""Algorithms against independent statements of what they should find: brute force, and GPTQ as its paper has it."""

from dataclasses import replace
from itertools import product

import ml_dtypes
import numpy as np
import pytest

from halve import algorithms, schemes
from halve.algorithms import gptq
from halve.algorithms.kernels import best as best_scales
from halve.algorithms.kernels.candidates import Candidates, exact
from halve.algorithms.kernels.factor import factor
from halve.algorithms.kernels.feedback import feed_back
from halve.algorithms.kernels.rows import Rows
from halve.codecs import reference
from halve.errors import FormatError, UnknownNameError, UnsupportedError
from halve.schemes import Block
from halve.schemes import quantize as q
from halve.schemes.statistics import Statistics

NVFP4 = schemes.get("nvfp4a16").weight
MXFP4 = schemes.get("mxfp4a16").weight
Q4_1 = Block(element="uint4", scale="fp16", block_size=32, minimum=True)


def drawn(rows, columns, seed=0):
    """Heavy-tailed weights, and the Hessian of correlated inputs of very different sizes."""
    rng = np.random.default_rng(seed)
    w = (rng.standard_t(4, (rows, columns)) * 0.02).astype(np.float32)
    x = rng.standard_normal((4 * columns, columns)) @ (
        np.eye(columns) + 0.4 * rng.standard_normal((columns, columns)) / columns**0.5
    )
    x *= np.exp(rng.standard_normal(columns))
    return w, (x.T @ x / len(x)).astype(np.float32)


def statistics(hessian):
    diagonal = np.ascontiguousarray(hessian.diagonal())
    return Statistics(diagonal, np.abs(diagonal), hessian, 1000)


def made(name, block, w, hessian=None, **options):
    known = None if hessian is None else statistics(hessian)
    return algorithms.get(name).prepared(block, known).quantize(w, **options)


def cost(w, tensor, importance):
    """Weighted squared error of every block, in float64."""
    height, width = tensor.block.tile(*w.shape)
    assert height == 1
    error = (w.astype(np.float64) - q.dequantize(tensor)) ** 2 * importance
    return error.reshape(len(w), -1, width).sum(-1)


def output_error(w, tensor, hessian):
    """Mean square change of every output, in float64."""
    error = w.astype(np.float64) - q.dequantize(tensor)
    return np.einsum("oi,ij,oj->o", error, hessian.astype(np.float64), error)


def all_scales(block, w, importance, scale):
    """The least cost of every block over all scales that there are."""
    stored, element = block.scale_format, block.element_format
    values = reference.value_table(stored)
    values = values[np.isfinite(values) & (values > 0) & (values < 1e30)]
    _, width = block.tile(*w.shape)
    blocks = w.astype(np.float64).reshape(len(w), -1, width)
    weights = np.broadcast_to(importance, w.shape).reshape(blocks.shape)
    best = np.full(blocks.shape[:2], np.inf)
    for value in values:
        step = np.float64(value) * (1 if scale is None else scale)
        held = reference.decode(element, reference.encode(element, (blocks / step).astype(np.float32))) * step
        best = np.minimum(best, ((held - blocks) ** 2 * weights).sum(-1))
    return best


def test_names():
    assert {"rtn", "mse", "four_over_six", "hessian_diag", "gptq"} <= set(algorithms.algorithms())
    with pytest.raises(UnknownNameError) as error:
        algorithms.get("gtpq")
    assert "gptq" in error.value.hint


@pytest.mark.parametrize("name", algorithms.algorithms())
def test_each_says_what_it_is(name):
    algorithm = algorithms.get(name)
    assert algorithm.name == name
    assert algorithm.about
    assert algorithm.needs in ("nothing", "mean_square", "hessian")


@pytest.mark.parametrize("block", [NVFP4, MXFP4, schemes.get("mxfp6_e2m3a16").weight], ids=["nvfp4", "mxfp4", "mxfp6"])
def test_no_scale_of_all_is_better(block):
    w, _ = drawn(24, 256)
    scale = q.tensor_scale(block, q.absmax(w))
    found = cost(w, made("mse", block, w, tensor_scale=scale), 1)
    assert (found <= all_scales(block, w, np.ones(256), scale) * (1 + 1e-5)).all()


@pytest.mark.parametrize("block", [NVFP4, MXFP4, schemes.get("mxfp6_e2m3a16").weight], ids=["nvfp4", "mxfp4", "mxfp6"])
def test_hardly_any_scale_is_better_where_columns_differ(block):
    """Where one column is worth all others, clipping them without end may pay: not looked for beyond some codes."""
    w, hessian = drawn(24, 256)
    importance = hessian.diagonal().astype(np.float64)
    scale = q.tensor_scale(block, q.absmax(w))
    found = cost(w, made("hessian_diag", block, w, hessian, tensor_scale=scale), importance)
    least = all_scales(block, w, importance, scale)
    assert (found <= least * (1 + 1e-5)).mean() > 0.99
    assert found.sum() < least.sum() * 10**0.001


@pytest.mark.parametrize("name", ["w4a16", "w4a16_asym", "nf4", "int8_g32", "fp8"])
def test_a_fine_grid_of_scales_is_hardly_better(name):
    """Wide scales cannot all be tried: 200 of them find less than 0.15 dB more."""
    w, _ = drawn(16, 256)
    block = schemes.get(name).fitted([256]).weight
    found = cost(w, made("mse", block, w), 1).sum()
    element = block.element_format
    largest = -element.min if q.scale_rules(block)[0] == "signed" else element.max
    best = np.full((16, 256 // block.tile(1, 256)[1]), np.inf)
    for part in np.linspace(0.55, 1.2, 200):
        grid = Candidates(divisors=(float(largest / part),), zero_shifts=3 if block.zero_point else 0)
        tensor = best_scales.quantize(block, w, None, grid, rule=None, tensor_scale=None)
        best = np.minimum(best, cost(w, tensor, 1))
    assert found < best.sum() * 10**0.015


def test_four_over_six_takes_the_better_of_two():
    w, _ = drawn(32, 128)
    scale = q.tensor_scale(NVFP4, q.absmax(w))
    blocks = w.reshape(32, -1, 16)
    amax = np.abs(blocks).max(-1)
    found = made("four_over_six", NVFP4, w, tensor_scale=scale)
    costs = []
    for top in (6, 4):
        stored = reference.decode(NVFP4.scale_format, reference.encode(NVFP4.scale_format, amax / top / scale))
        step = (stored.astype(np.float64) * scale)[..., None]
        held = reference.decode(NVFP4.element_format, reference.encode(NVFP4.element_format, blocks / step)) * step
        costs.append(((held - blocks) ** 2).sum(-1))
    np.testing.assert_allclose(cost(w, found, 1), np.minimum(*costs), rtol=1e-5)
    assert 0.1 < (costs[1] < costs[0]).mean() < 0.9


@pytest.mark.parametrize("name", ["mse", "hessian_diag"])
def test_codes_are_chosen_after_the_scale_is_rounded(name):
    """Under one-column blocks nothing but the scale's own rounding is left to lose."""
    w, hessian = drawn(8, 24)
    block = Block(element="int4", scale="fp8_e4m3", block_size=1)
    tensor = made(name, block, w * 1000, hessian)
    steps = np.abs(tensor.scales)
    assert (np.abs(w * 1000 - q.dequantize(tensor)) <= steps / 2 * (1 + 1e-6)).all()


def test_a_block_that_no_input_reaches_counts_all_columns_alike():
    w, hessian = drawn(8, 64)
    hessian[16:32] = 0
    hessian[:, 16:32] = 0
    scale = q.tensor_scale(NVFP4, q.absmax(w))
    found, plain = (
        made("hessian_diag", NVFP4, w, hessian, tensor_scale=scale),
        made("mse", NVFP4, w, tensor_scale=scale),
    )
    np.testing.assert_array_equal(found.codes[:, 16:32], plain.codes[:, 16:32])
    assert (found.scales[:, [0, 2, 3]] != plain.scales[:, [0, 2, 3]]).any()


@pytest.mark.parametrize("name", ["hessian_diag", "gptq"])
def test_no_activations_at_all(name):
    """All inputs zero: the search of mse, and nothing for feedback to do."""
    w, _ = drawn(8, 64)
    found, plain = made(name, NVFP4, w, np.zeros((64, 64), np.float32)), made("mse", NVFP4, w)
    np.testing.assert_allclose(cost(w, found, 1), cost(w, plain, 1), rtol=1e-5)


@pytest.mark.parametrize("rank", [1, 5])
def test_a_singular_hessian(rank):
    w, _ = drawn(8, 64)
    x = np.random.default_rng(0).standard_normal((rank, 64))
    hessian = (x.T @ x / rank).astype(np.float32)
    better = output_error(w, made("gptq", NVFP4, w, hessian), hessian).sum()
    assert better < output_error(w, made("hessian_diag", NVFP4, w, hessian), hessian).sum() / 5


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda h: h.__setitem__((3, 4), np.nan), "not finite"),
        (lambda h: h.__setitem__((3, 3), -1), "negative numbers on its diagonal"),
        (lambda h: h.__iadd__(1e3 - 1e3 * np.eye(64)), "negative eigenvalues"),
    ],
    ids=["nan", "negative", "indefinite"],
)
def test_what_is_no_hessian(spoil, message):
    w, hessian = drawn(8, 64)
    spoil(hessian)
    with pytest.raises(FormatError, match=message):
        made("gptq", NVFP4, w, hessian)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_what_is_no_mean_square(bad):
    w, hessian = drawn(8, 64)
    hessian[5, 5] = bad
    with pytest.raises(FormatError, match="column 5"):
        made("hessian_diag", NVFP4, w, hessian)


def test_statistics_of_another_width():
    w, hessian = drawn(8, 64)
    with pytest.raises(FormatError, match="32"):
        made("hessian_diag", NVFP4, w, hessian[:32, :32])
    with pytest.raises(FormatError, match="32"):
        made("gptq", NVFP4, w, hessian[:32, :32])


@pytest.mark.parametrize(("name", "message"), [("hessian_diag", "needs statistics"), ("gptq", "needs the Hessian")])
def test_statistics_are_needed(name, message):
    with pytest.raises(UnsupportedError, match=message):
        made(name, NVFP4, drawn(8, 64)[0])


def test_mean_squares_alone_are_too_little_for_gptq():
    _, hessian = drawn(8, 64)
    known = replace(statistics(hessian), hessian=None)
    with pytest.raises(UnsupportedError, match="needs the Hessian"):
        algorithms.get("gptq").prepared(NVFP4, known)


@pytest.mark.parametrize("name", algorithms.algorithms())
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite(name, bad):
    w, hessian = drawn(8, 64)
    w[2, 7] = bad
    with pytest.raises(FormatError, match="not finite"):
        made(name, NVFP4, w, hessian, tensor_scale=1.0)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_narrow_weights_give_what_their_numbers_give(dtype):
    w, hessian = drawn(8, 64)
    narrow = w.astype(dtype)
    ours, wide = made("gptq", NVFP4, narrow, hessian), made("gptq", NVFP4, narrow.astype(np.float32), hessian)
    np.testing.assert_array_equal(ours.codes, wide.codes)
    np.testing.assert_array_equal(ours.scales, wide.scales)


@pytest.mark.parametrize("name", ["mse", "hessian_diag", "gptq"])
def test_plain_numbers_have_no_scales(name):
    w, hessian = drawn(8, 64)
    with pytest.raises(UnsupportedError, match="no scales"):
        made(name, Block(element="bf16", scale=None), w, hessian)


@pytest.mark.parametrize("block", [MXFP4, Block(element="int4"), Block(element="bf16", scale=None)])
def test_four_over_six_is_for_nvfp4(block):
    with pytest.raises(UnsupportedError, match="fp4_e2m1"):
        made("four_over_six", block, drawn(8, 64)[0])


@pytest.mark.parametrize("name", ["mse", "hessian_diag", "gptq"])
@pytest.mark.parametrize("w", [np.zeros((0, 64)), np.zeros(64), np.zeros((2, 65))], ids=["empty", "vector", "odd"])
def test_shapes(name, w):
    hessian = np.eye(64, dtype=np.float32)
    if w.size == 0:
        assert made(name, NVFP4, w.astype(np.float32), hessian).codes.shape == (0, 64)
        return
    with pytest.raises(FormatError, match="matrix|multiple"):
        made(name, NVFP4, w.astype(np.float32), hessian)


@pytest.mark.parametrize("rule", ["floor", "even", "rceil"])
def test_the_search_starts_from_the_rule(rule):
    w, _ = drawn(16, 128)
    start, found = q.quantize(MXFP4, w, rule=rule), made("mse", MXFP4, w, rule=rule)
    assert (cost(w, found, 1) <= cost(w, start, 1) * (1 + 1e-6)).all()
    with pytest.raises(UnsupportedError):
        made("mse", MXFP4, w, rule="max")


def test_blocks_with_a_minimum_keep_it():
    w, hessian = drawn(16, 128)
    start = q.quantize(Q4_1, w)
    before = (cost(w, start, 1), cost(w, start, hessian.diagonal()), output_error(w, start, hessian))
    for name, index in (("mse", 0), ("hessian_diag", 1), ("gptq", 2)):
        found = made(name, Q4_1, w, hessian)
        np.testing.assert_array_equal(found.mins, start.mins)
        after = (cost(w, found, 1), cost(w, found, hessian.diagonal()), output_error(w, found, hessian))
        assert after[index].sum() < before[index].sum()


def paper_gptq(w, steps, element, hessian, found):
    """Algorithm 1 of arXiv 2210.17323 in float64, column by column, for given steps [out, in]: the values in steps."""
    damped = hessian.astype(np.float64) + found.damping * np.eye(len(hessian))
    order = found.order
    upper = np.linalg.cholesky(np.linalg.inv(damped[np.ix_(order, order)])).T
    left, values = w.astype(np.float64)[:, order], np.zeros(w.shape)
    for j, column in enumerate(order):
        y = (left[:, j] / steps[:, column]).astype(np.float32)
        values[:, column] = reference.decode(element, reference.encode(element, y))
        error = (left[:, j] - values[:, column] * steps[:, column]) / upper[j, j]
        left[:, j:] -= error[:, None] * upper[j, j:]
    return values


@pytest.mark.parametrize("name", ["nvfp4a16", "mxfp4a16", "mxfp6_e3m2a16", "mxfp8a16", "w4a16", "w8a16", "fp8", "nf4"])
def test_feedback_is_that_of_the_paper(name):
    """Equal codes but for rounding: one in a thousand may lie on a threshold, and shifts a few after it."""
    w, hessian = drawn(64, 128, seed=3)
    block = schemes.get(name).fitted([128]).weight
    rows = Rows.of(q.quantize(block, w))
    found = factor(hessian, damping=0.01)
    steps = rows.spread(rows.steps).astype(np.float64)
    values = paper_gptq(w, steps, block.element_format, hessian, found)
    codes = feed_back(w, rows, found)
    ours = reference.decode(block.element_format, codes)
    per_row = (ours == values).mean(1)
    assert (per_row == 1).mean() > 0.9
    np.testing.assert_array_equal(found.order, np.argsort(-hessian.diagonal(), kind="stable"))


def test_the_factor_is_that_of_the_damped_matrix():
    _, hessian = drawn(1, 128)
    found = factor(hessian, damping=0.01)
    t = (found.feedback + np.eye(128)) * np.sqrt(found.importance.astype(np.float64))[:, None]
    damped = hessian.astype(np.float64) + found.damping * np.eye(128)
    assert found.damping == pytest.approx(0.01 * hessian.diagonal().mean())
    np.testing.assert_allclose(t.T @ t, damped[np.ix_(found.order, found.order)], rtol=1e-5, atol=1e-5)


def test_descent_ends_where_no_single_change_pays():
    w, hessian = drawn(6, 32, seed=4)
    block = Block(element="int3", scale="fp16", block_size=16)
    ready = gptq.Gptq(sweeps=100).prepared(block, statistics(hessian))
    tensor = ready.quantize(w)
    damped = ready.hessian + ready.factor.damping * np.eye(32)
    least = output_error(w, tensor, damped)
    for column, code in product(range(32), range(8)):
        codes = tensor.codes.copy()
        codes[:, column] = code
        other = output_error(w, q.QTensor(block, codes, tensor.scales), damped)
        assert (other >= least * (1 - 1e-4)).all()


def test_shrinkage_weakens_correlations_alike():
    _, hessian = drawn(1, 32)
    before, shrunk = hessian.copy(), gptq.shrunk(hessian, 0.25)
    np.testing.assert_array_equal(hessian, before)

    def correlations(h):
        sizes = np.sqrt(h.diagonal().astype(np.float64))
        return (h / sizes[:, None] / sizes)[np.triu_indices(32, 1)]

    np.testing.assert_allclose(correlations(shrunk), correlations(hessian) / 1.25, rtol=1e-6, atol=1e-9)


def test_sweeps_and_damping_have_an_effect():
    w, hessian = drawn(32, 128, seed=5)
    lost = {
        sweeps: output_error(w, gptq.Gptq(sweeps=sweeps).prepared(NVFP4, statistics(hessian)).quantize(w), hessian)
        for sweeps in (0, 1, 4)
    }
    assert lost[4].sum() < lost[1].sum() < lost[0].sum()
    stiff = gptq.Gptq(damping=1e6).prepared(NVFP4, statistics(hessian)).quantize(w)
    assert cost(w, stiff, 1).sum() < cost(w, gptq.ALGORITHM.prepared(NVFP4, statistics(hessian)).quantize(w), 1).sum()


def test_what_a_search_tries():
    assert exact(NVFP4).neighbours == (8, 6)
    assert exact(MXFP4).neighbours == (2, 2)
    for name in ("w4a16", "w4a16_asym", "nf4", "w8a16", "fp8"):
        tried = exact(schemes.get(name).weight)
        assert tried.neighbours == (0, 0)
        assert tried.refinements
        assert (1 + len(tried.divisors)) * (1 + 2 * tried.zero_shifts) <= 128
