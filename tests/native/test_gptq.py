"""Native GPTQ and coordinate descent equal the numpy reference, bit for bit, on every instruction set."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from halve.algorithms.kernels import descent, native
from halve.algorithms.kernels.best import quantize as searched
from halve.algorithms.kernels.candidates import exact
from halve.algorithms.kernels.factor import Factor, factor, factor_reference
from halve.algorithms.kernels.feedback import feed_back, feed_back_reference
from halve.algorithms.kernels.rows import Rows
from halve.codecs import dispatch
from halve.schemes import Block
from halve.schemes import quantize as q
from native.inputs import BLOCKS as ALL_BLOCKS
from native.inputs import block_name, shapes, weights

BLOCKS = [block for block in ALL_BLOCKS if not block.minimum]  # see halve.algorithms.kernels.minimum
each_block = pytest.mark.parametrize("block", BLOCKS, ids=block_name)
SWEEPS = 2


@cache
def hessian(columns, *, full=True):
    """Of correlated inputs of very different sizes; otherwise of half as many inputs, a fifth of them never used."""
    rng = np.random.default_rng(columns)
    count = 2 * columns if full else max(columns // 2, 2)
    x = rng.standard_normal((count, columns)) @ (
        np.eye(columns) + 0.3 * rng.standard_normal((columns, columns)) / columns**0.5
    )
    x *= np.exp(rng.standard_normal(columns))
    if not full:
        x[:, ::5] = 0
    return (x.T @ x / count).astype(np.float32)


@cache
def factored(columns, *, full):
    matrix = hessian(columns, full=full)
    order = np.argsort(-matrix.diagonal(), kind="stable").astype(np.uint32)
    damping = 0.01 * float(matrix.diagonal().mean()) or 1.0
    return Factor(order, *factor_reference(matrix, order, damping), damping)


@cache
def reference(block, shape, dtype, full):
    """Where the kernels start, and where the reference arrives."""
    w, matrix = weights(shape, dtype), hessian(shape[1], full=full)
    start = Rows.of(searched(block, w, matrix.diagonal(), exact(block), rule=None, tensor_scale=None))
    found = factored(shape[1], full=full)
    fed = feed_back_reference(w, start, found)
    descended = descent.descend_reference(w, replace(start, codes=fed), matrix, damping=found.damping, sweeps=SWEEPS)
    return w, start, fed, descended


def assert_same_bits(ours, theirs):
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    np.testing.assert_array_equal(ours.view(f"u{ours.itemsize}"), theirs.view(f"u{theirs.itemsize}"))


def small(block):
    """Shapes of one row, of a few, and of more than sixteen."""
    found = [shape for shape in shapes(block)[:2] if shape[1] <= 700]
    return [*found, (19, found[-1][1])]


@each_block
@pytest.mark.parametrize("full", [True, False], ids=["full", "singular"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_equals_the_reference(kernels, block, full, dtype):
    assert native.available(block)
    for shape in small(block):
        w, start, fed, (codes, scales) = reference(block, shape, dtype, full)
        found = factored(shape[1], full=full)
        assert_same_bits(feed_back(w, start, found), fed)
        ours = descent.descend(
            w, replace(start, codes=fed), hessian(shape[1], full=full), damping=found.damping, sweeps=SWEEPS
        )
        assert_same_bits(ours[0], codes)
        assert_same_bits(ours[1], scales)


@pytest.mark.parametrize("columns", [1, 2, 7, 31, 32, 33, 64, 100, 257])
@pytest.mark.parametrize("full", [True, False], ids=["full", "singular"])
def test_the_factor_equals_the_reference(kernels, columns, full):
    expected = factored(columns, full=full)
    ours = native.factor(hessian(columns, full=full), expected.order, expected.damping)
    assert_same_bits(ours[0], expected.feedback)
    assert_same_bits(ours[1], expected.importance)


@pytest.mark.parametrize("spoil", [lambda h: h - 100 * np.eye(len(h)), lambda h: h * np.inf], ids=["negative", "inf"])
def test_what_has_no_factor(kernels, spoil):
    with np.errstate(invalid="ignore"):
        matrix = spoil(hessian(40)).astype(np.float32)
        order = np.arange(40, dtype=np.uint32)
        assert native.factor(matrix, order, 0.0) is None
        assert factor_reference(matrix, order, 0.0) is None


def test_numbers_that_overflow_leave_the_start(kernels):
    """Costs that are not finite are no better than others."""
    block = Block(element="int4", scale="fp32", block_size=16)
    w = (weights((5, 64), "float32") * np.float32(1e30)).clip(-1e38, 1e38)
    matrix = (hessian(64) * 1e30).astype(np.float32)
    start = Rows.of(q.quantize(block, w))
    found = factor(matrix, damping=0.01)
    assert_same_bits(feed_back(w, start, found), feed_back_reference(w, start, found))
    ours = descent.descend(w, start, matrix, damping=found.damping, sweeps=1)
    theirs = descent.descend_reference(w, start, matrix, damping=found.damping, sweeps=1)
    assert_same_bits(ours[0], theirs[0])
    assert_same_bits(ours[1], theirs[1])


def test_several_at_once(kernels):
    """Bands of one weight under one factor, on several threads."""
    block = Block(element="fp4_e2m1", scale="ue4m3", block_size=16, tensor_scale=True)
    w, matrix = weights((200, 64), "float32"), hessian(64)
    found, start = factor(matrix, damping=0.01), Rows.of(q.quantize(block, w, tensor_scale=0.37))

    def band(first):
        rows = slice(first, first + 25)
        part = replace(start, scales=start.scales[rows], codes=start.codes[rows])
        part = replace(part, codes=feed_back(w[rows], part, found))
        return descent.descend(w[rows], part, matrix, damping=found.damping, sweeps=3)

    with ThreadPoolExecutor(8) as pool:
        bands = list(pool.map(band, range(0, 200, 25)))
    codes, scales = descent.descend(
        w, replace(start, codes=feed_back(w, start, found)), matrix, damping=found.damping, sweeps=3
    )
    assert_same_bits(np.concatenate([band[0] for band in bands]), codes)
    assert_same_bits(np.concatenate([band[1] for band in bands]), scales)


BLOCK = Block(element="int4", scale="fp16", block_size=16)


def rows_arguments(**changes):
    element = dispatch.codec(BLOCK.element_format)
    given = {"element": element, "width": 16, "zeros": None, "codes": np.zeros((4, 32), np.uint8)}
    return given | changes


def feedback_arguments(**changes):
    given = {
        "steps": np.ones((4, 2), np.float32),
        "order": np.arange(32, dtype=np.uint32),
        "feedback": np.zeros((32, 32), np.float32),
        "importance": np.ones(32, np.float32),
    }
    return rows_arguments(**given) | changes


def descent_arguments(**changes):
    given = {
        "scale": dispatch.codec(BLOCK.scale_format),
        "tensor_scale": None,
        "scales": np.ones((4, 2), np.float32),
        "hessian": np.eye(32, dtype=np.float32),
        "damping": 0.0,
        "sweeps": 1,
    }
    return rows_arguments(**given) | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": np.full(32, 32, np.uint32)}, "a column that is not there"),
        ({"order": np.arange(31, dtype=np.uint32)}, "order holds 31"),
        ({"feedback": np.zeros((31, 32), np.float32)}, "feedback is not"),
        ({"steps": np.ones((4, 1), np.float32)}, "steps holds 4"),
        ({"importance": np.ones(31, np.float32)}, "importance holds 31"),
        ({"codes": np.zeros((4, 31), np.uint8)}, "codes holds 124"),
        ({"zeros": np.zeros((4, 1), np.uint8)}, "zeros holds 4"),
        ({"width": 0}, "no columns"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_the_border_of_feedback_refuses(kernels, changes, message):
    w = np.zeros((4, 32), np.float32)
    kernels.feed_back(w, **feedback_arguments())
    with pytest.raises(ValueError, match=message):
        kernels.feed_back(w, **feedback_arguments(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hessian": np.eye(31, dtype=np.float32)}, "hessian is not"),
        ({"scales": np.ones((4, 1), np.float32)}, "scales holds 4"),
        ({"sweeps": -1}, "not negative"),
        ({"damping": float("nan")}, "finite"),
        ({"width": 129, "scales": np.ones((4, 1), np.float32)}, "too wide"),
        ({"codes": np.zeros((4, 31), np.uint8)}, "codes holds 124"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_the_border_of_descent_refuses(kernels, changes, message):
    w = np.zeros((4, 32), np.float32)
    kernels.descend(w, **descent_arguments())
    with pytest.raises(ValueError, match=message):
        kernels.descend(w, **descent_arguments(**changes))


def test_the_border_of_the_factor_refuses(kernels):
    given = {
        "order": np.arange(32, dtype=np.uint32),
        "damping": 0.1,
        "work": np.empty(32 * kernels.factor_stride(32)),
        "feedback": np.empty((32, 32), np.float32),
        "importance": np.empty(32, np.float32),
    }
    matrix = np.eye(32, dtype=np.float32)
    assert kernels.factor(matrix, **given)
    for name, value, message in (
        ("work", np.empty(32 * 32), "work holds 1024"),
        ("order", np.full(32, 99, np.uint32), "a column that is not there"),
        ("damping", np.inf, "finite"),
        ("feedback", np.empty((32, 31), np.float32), "feedback holds 992"),
    ):
        with pytest.raises(ValueError, match=message):
            kernels.factor(matrix, **(given | {name: value}))
