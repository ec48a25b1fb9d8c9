"""Native block quantization equals the numpy reference, bit for bit, on every instruction set."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from halve.codecs import reference as codecs
from halve.errors import FormatError
from halve.schemes import Block, native
from halve.schemes import quantize as q
from halve.schemes.qtensor import QTensor
from native.inputs import BLOCKS, CASE_IDS, CASES, DTYPES, block_name, shapes, weights

each_case = pytest.mark.parametrize(("block", "rule"), CASES, ids=CASE_IDS)
each_block = pytest.mark.parametrize("block", BLOCKS, ids=block_name)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


@cache
def reference(block, rule, shape, dtype, scale) -> tuple[QTensor, np.ndarray]:
    quantized = q.quantize_reference(block, weights(shape, dtype), rule=rule, tensor_scale=scale)
    return quantized, q.dequantize_reference(quantized)


def assert_same_bits(ours, theirs):
    assert (ours is None) == (theirs is None)
    if ours is not None:
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        np.testing.assert_array_equal(ours.view(f"u{ours.itemsize}"), theirs.view(f"u{theirs.itemsize}"))


def assert_same_tensor(ours, theirs):
    assert (ours.block, ours.tensor_scale) == (theirs.block, theirs.tensor_scale)
    for part in ("scales", "zeros", "codes", "mins"):
        assert_same_bits(getattr(ours, part), getattr(theirs, part))


@each_case
@each_dtype
def test_equals_the_reference(kernels, block, rule, dtype):
    assert native.quantizes(block)
    for shape in shapes(block):
        w = weights(shape, dtype)
        for scale in {q.tensor_scale(block, q.absmax(w)), 0.37 if block.tensor_scale else None}:
            expected, values = reference(block, rule, shape, dtype, scale)
            ours = q.quantize(block, w, rule=rule, tensor_scale=scale)
            assert_same_tensor(ours, expected)
            assert_same_bits(q.dequantize(ours), values)


@each_case
def test_one_number_a_block_and_one_outlier(kernels, block, rule):
    """Blocks of zeros, of a single smallest or largest number, and the steps between powers of two."""
    height, width = (1, 32) if isinstance(block.block_size, str) else block.tile(64, 5760)
    rng = np.random.default_rng(3)
    w = np.zeros((height, 40 * width), np.float32)
    bits = rng.integers(0, 0x7F800000, 40, dtype=np.uint32)
    bits[:6] = 0, 1, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0x3F800000
    magnitudes = bits.view(np.float32)
    w[0, ::width] = np.where(rng.random(40) < 0.5, -magnitudes, magnitudes)
    ours = q.quantize(block, w, rule=rule)
    assert_same_tensor(ours, q.quantize_reference(block, w, rule=rule, tensor_scale=ours.tensor_scale))


def test_scales_are_divided_in_the_reference_order(kernels):
    """Block maxima around every middle between two scales, where amax / M / ts and amax / (M * ts) part."""
    block, ts = Block(element="fp4_e2m1", scale="ue4m3", block_size=16, tensor_scale=True), np.float32(0.37)
    scales = codecs.value_table(block.scale_format)[:-1]
    middles = (scales[:-1] + scales[1:]) / 2 * np.float32(6) * ts
    amax = np.concatenate([(middles.view(np.int32) + ulps).view(np.float32) for ulps in range(-3, 4)])
    w = np.zeros((1, amax.size * 16), np.float32)
    w[0, 5::16] = amax
    ours = q.quantize(block, w, tensor_scale=float(ts))
    assert_same_tensor(ours, q.quantize_reference(block, w, rule="max", tensor_scale=float(ts)))
    otherwise = codecs.encode(block.scale_format, amax / (np.float32(6) * ts))
    assert (codecs.decode(block.scale_format, otherwise) != ours.scales[0]).any()


@each_block
@each_dtype
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_nonfinite_weights_are_refused(kernels, block, dtype, bad):
    for shape in shapes(block):
        w = np.zeros(shape, DTYPES[dtype])
        row, column = shape[0] // 2, shape[1] - 1
        w[row, column] = bad
        with pytest.raises(FormatError, match=rf"1 values are not finite.*at \[{row}, {column}\]"):
            q.quantize(block, w, tensor_scale=1.0)


@each_block
def test_strided_float64_and_empty_weights(kernels, block):
    rule = q.scale_rules(block)[0]
    rows, columns = shapes(block)[1]
    w = weights((columns, rows), "float32").T
    scale = q.tensor_scale(block, q.absmax(w))
    expected = q.quantize_reference(block, w, rule=rule, tensor_scale=scale)
    assert_same_tensor(q.quantize(block, w), expected)
    assert_same_tensor(q.quantize(block, w.astype(np.float64)), expected)
    empty = q.quantize(block, np.zeros((0, columns), np.float32))
    assert empty.codes.shape == q.dequantize(empty).shape == (0, columns)
    assert empty.scales.size == 0


@each_dtype
def test_mins_are_added(kernels, dtype):
    block = Block(element="uint4", scale="fp16", block_size=32)
    rng = np.random.default_rng(0)
    tensor = QTensor(
        block,
        rng.integers(0, 16, (6, 96), dtype=np.uint8),
        rng.standard_normal((6, 3)).astype(np.float32),
        mins=rng.standard_normal((6, 3)).astype(np.float32),
    )
    assert native.quantizes(block)
    assert_same_bits(native.dequantize(tensor), q.dequantize_reference(tensor))
    zeros = replace(tensor, zeros=rng.integers(0, 16, (6, 3), dtype=np.uint8), tensor_scale=0.1)
    assert_same_bits(native.dequantize(zeros), q.dequantize_reference(zeros))


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.element_format.bits < 8], ids=block_name)
def test_a_code_outside_the_format_is_refused(kernels, block):
    shape = shapes(block)[1]
    tensor = q.quantize(block, weights(shape, "bfloat16"))
    tensor.codes[shape[0] - 1, shape[1] // 2] = 255
    with pytest.raises(FormatError, match=f"code 255 does not fit in {block.element_format.bits} bits"):
        q.dequantize(tensor)


def test_blocks_that_take_the_reference(kernels):
    for block in (
        Block(element="bf16", scale=None),
        Block(element="int16"),
        Block(element="int4", scale="ue4m3", block_size=16),  # the signed rule needs negative scales
        Block(element="int8", scale="e8m0", block_size=32),
        Block(element="int4", scale="fp16", block_size=16, zero_point=True),
    ):
        assert not native.quantizes(block)


def test_several_at_once(kernels):
    """The kernels release the GIL and hold no state."""
    jobs = [(block, weights(shapes(block)[2], dtype)) for block in BLOCKS for dtype in DTYPES] * 2
    alone = [q.quantize(block, w) for block, w in jobs]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda job: q.quantize(*job), jobs))
    for ours, expected in zip(together, alone, strict=True):
        assert_same_tensor(ours, expected)
