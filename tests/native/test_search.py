"""The native search for scales equals the numpy reference, bit for bit, on every instruction set."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest

from halve.algorithms.kernels import native
from halve.algorithms.kernels.candidates import Candidates, exact
from halve.algorithms.kernels.codes import assign_reference
from halve.algorithms.kernels.importance import weighted
from halve.algorithms.kernels.scales import search, search_reference
from halve.codecs import dispatch
from halve.errors import FormatError
from halve.schemes import Block
from halve.schemes import quantize as q
from native.inputs import BLOCKS as ALL_BLOCKS
from native.inputs import CASES as ALL_CASES
from native.inputs import DTYPES, block_name, shapes, weights

CASES = [(block, rule) for block, rule in ALL_CASES if not block.minimum]
BLOCKS = [block for block in ALL_BLOCKS if not block.minimum]  # see halve.algorithms.kernels.minimum
each_case = pytest.mark.parametrize(
    ("block", "rule"), CASES, ids=[f"{block_name(block)}-{rule}" for block, rule in CASES]
)
each_block = pytest.mark.parametrize("block", BLOCKS, ids=block_name)


def importance(block, columns):
    """Very different columns, some without any importance."""
    rng = np.random.default_rng(columns)
    weight = np.exp(3 * rng.standard_normal(columns)).astype(np.float32)
    weight[rng.random(columns) < 0.1] = 0
    weight[: columns // 5] = 0
    return weighted(block, columns, weight)


def case(block, shape, dtype):
    w = weights(shape, dtype)
    return w, importance(block, shape[1]), q.tensor_scale(block, q.absmax(w))


@cache
def reference(block, rule, shape, dtype):
    w, weight, scale = case(block, shape, dtype)
    scales, zeros = search_reference(block, w, weight, exact(block), rule=rule, tensor_scale=scale)
    return scales, zeros, assign_reference(block, w, scales, zeros, tensor_scale=scale)


@each_case
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_the_reference(kernels, block, rule, dtype):
    assert native.available(block)
    for shape in [*shapes(block), (19, shapes(block)[1][1])]:
        if shape[0] * shape[1] > 9000:
            continue
        w, weight, scale = case(block, shape, dtype)
        expected, expected_zeros, expected_codes = reference(block, rule, shape, dtype)
        scales, zeros = native.search(block, w, weight, exact(block), rule=rule, tensor_scale=scale)
        np.testing.assert_array_equal(scales.view(np.uint32), expected.view(np.uint32))
        assert (zeros is None) == (expected_zeros is None)
        if zeros is not None:
            np.testing.assert_array_equal(zeros, expected_zeros)
        np.testing.assert_array_equal(native.assign(block, w, scales, zeros, scale), expected_codes)


@each_case
def test_without_candidates_it_is_rounding_to_nearest(kernels, block, rule):
    shape = shapes(block)[1]
    w, weight, scale = case(block, shape, "bfloat16")
    scales, zeros = native.search(block, w, weight, Candidates(), rule=rule, tensor_scale=scale)
    nearest = q.quantize(block, w, rule=rule, tensor_scale=scale)
    np.testing.assert_array_equal(scales, nearest.scales)
    np.testing.assert_array_equal(native.assign(block, w, scales, zeros, scale), nearest.codes)


def test_a_scale_for_a_maximum_of_four_equals_the_reference(kernels):
    """Divisors under a tensor scale: what four_over_six tries."""
    for dtype in DTYPES:
        w, weight, scale = case(BLOCK, (19, 320), dtype)
        tried = Candidates(divisors=(4,))
        ours, _ = native.search(BLOCK, w, weight, tried, rule="max", tensor_scale=scale)
        expected, _ = search_reference(BLOCK, w, weight, tried, rule="max", tensor_scale=scale)
        np.testing.assert_array_equal(ours.view(np.uint32), expected.view(np.uint32))


@each_block
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_nonfinite_weights_are_refused(kernels, block, bad):
    rows, columns = shapes(block)[1]
    w = weights((rows, columns), "float32")
    w[rows // 2, columns - 1] = bad
    with pytest.raises(FormatError, match="not finite"):
        search(block, w, importance(block, columns), exact(block), rule=q.scale_rules(block)[0], tensor_scale=1.0)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.block_size != "tensor"], ids=block_name)
def test_the_rows_of_a_band_are_those_of_the_whole(kernels, block):
    height, _ = block.tile(*shapes(block)[1])
    shape = (37 * height, shapes(block)[1][1])
    w, weight, scale = case(block, shape, "float32")
    rule = q.scale_rules(block)[0]
    whole, _ = native.search(block, w, weight, exact(block), rule=rule, tensor_scale=scale)
    for first, last in ((0, 1), (5, 21), (20, 37)):
        band = w[first * height : last * height]
        scales, _ = native.search(block, band, weight, exact(block), rule=rule, tensor_scale=scale)
        np.testing.assert_array_equal(scales, whole[first:last])


def test_several_at_once(kernels):
    """The kernels release the GIL and hold no state."""
    jobs = [(block, *case(block, shapes(block)[1], "float32")) for block in BLOCKS] * 2

    def found(job):
        block, w, weight, scale = job
        return native.search(block, w, weight, exact(block), rule=q.scale_rules(block)[0], tensor_scale=scale)[0]

    alone = [found(job) for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        for ours, expected in zip(pool.map(found, jobs), alone, strict=True):
            np.testing.assert_array_equal(ours, expected)


def arguments(**changes):
    """Arguments of the native search that it accepts, and changes to them."""
    element, scale = (dispatch.codec(fmt) for fmt in (BLOCK.element_format, BLOCK.scale_format))
    given = {
        "element": element,
        "scale": scale,
        "tile": (1, 16),
        "rule": "max",
        "tensor_scale": 1.0,
        "importance": np.ones(32, np.float32),
        "neighbours": (1, 1),
        "divisors": np.empty(0, np.float32),
        "zero_shifts": 0,
        "refinements": 0,
        "scales": np.empty((4, 2), np.float32),
        "zeros": None,
    }
    return given | changes


BLOCK = Block(element="fp4_e2m1", scale="ue4m3", block_size=16, tensor_scale=True)
FP32 = Block(element="fp8_e4m3")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"importance": np.ones(31, np.float32)}, "importance holds 31"),
        ({"scales": np.empty((4, 1), np.float32)}, "scales holds 4"),
        ({"neighbours": (-1, 1)}, "not negative"),
        ({"neighbours": (100, 100)}, "too many candidates"),
        ({"zero_shifts": 1}, "no zero points"),
        ({"divisors": np.ones(128, np.float32)}, "too many candidates"),
        ({"scale": dispatch.codec(FP32.scale_format) if dispatch.native else None}, "at most 8 bits"),
        ({"element": dispatch.codec(BLOCK.scale_format) if dispatch.native else None}, "a sign and a zero"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_the_border_refuses(kernels, changes, message):
    w = np.zeros((4, 32), np.float32)
    assert kernels.search_scales(w, **arguments())
    with pytest.raises(ValueError, match=message):
        kernels.search_scales(w, **arguments(**changes))
