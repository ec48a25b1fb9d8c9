"""Quantized blocks against the `gguf` package of llama.cpp. The byte order of a block is undone here, in the test.

Block layouts (ggml-common.h): Q8_0 d:f16 q:i8[32]; Q4_0 d:f16 q:u8[16]; Q4_1 d:f16 m:f16 q:u8[16]; MXFP4 e:e8m0
q:u8[16]; NVFP4, 64 weights, d:ue4m3[4] q:u8[4][8]. In 4 bits, the first half of a block lies in the low nibbles, the
second in the high ones.
"""

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf import quants

from halve import formats, schemes
from halve.codecs import reference
from halve.schemes import Block
from halve.schemes.qtensor import QTensor
from halve.schemes.quantize import dequantize, quantize

ROWS, COLUMNS = 64, 256
UINT4_MIN = Block(element="uint4", scale="fp16", block_size=32)


def weights(seed=0, kind="gaussian"):
    """[64, 256] float32: Gaussian, with outliers, on a grid full of ties, or with blocks of zeros."""
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((ROWS, COLUMNS), dtype=np.float32)
    match kind:
        case "outliers":
            w[rng.random(w.shape) < 0.01] *= 50
        case "ties":
            w = rng.integers(-24, 25, w.shape).astype(np.float32) / 4
            w[:, ::32] = -8.0
        case "zero blocks":
            w[:, 32:96] = 0.0
    return w


KINDS = ("gaussian", "outliers", "ties", "zero blocks")


def halves(packed):
    """Nibbles [..., n] -> codes [..., 2n]: low ones first, then high ones."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def joined(codes):
    """Inverse of `halves`."""
    low, high = np.split(codes, 2, axis=-1)
    return low | high << 4


def blocks(data, size):
    """The bytes of each block."""
    return data.reshape(ROWS, -1, size)


def f16(data):
    return data.copy().view(np.float16)[..., 0].astype(np.float32)


def read_q8_0(data):
    b = blocks(data, 34)
    return QTensor(schemes.get("int8_g32").weight, b[..., 2:].reshape(ROWS, COLUMNS), f16(b[..., :2]))


def read_q4_0(data):
    b = blocks(data, 18)
    codes = (halves(b[..., 2:]) ^ 8).reshape(ROWS, COLUMNS)  # q + 8 -> two's complement
    return QTensor(schemes.get("int4_g32").weight, codes, f16(b[..., :2]))


def read_q4_1(data):
    b = blocks(data, 20)
    return QTensor(UINT4_MIN, halves(b[..., 4:]).reshape(ROWS, COLUMNS), f16(b[..., :2]), mins=f16(b[..., 2:4]))


def read_mxfp4(data):
    b = blocks(data, 17)
    scales = reference.decode(formats.get("e8m0"), b[..., 0])
    return QTensor(schemes.get("mxfp4").weight, halves(b[..., 1:]).reshape(ROWS, COLUMNS), scales)


def read_nvfp4(data):
    b = blocks(data, 36)
    scales = reference.decode(formats.get("ue4m3"), b[..., :4]).reshape(ROWS, -1)
    codes = halves(b[..., 4:].reshape(ROWS, -1, 4, 8)).reshape(ROWS, COLUMNS)
    return QTensor(schemes.get("nvfp4").weight, codes, scales, 1.0)


def write_nvfp4(q):
    """No function of `gguf` 0.19 does: its encoder of UE4M3 turns 256..416 into 448."""
    scales = reference.encode(formats.get("ue4m3"), q.scales).reshape(ROWS, -1, 4)
    codes = joined(q.codes.reshape(ROWS, -1, 4, 16)).reshape(ROWS, -1, 32)
    return np.concatenate([scales, codes], axis=-1).reshape(ROWS, -1)


READERS = {Type.Q8_0: read_q8_0, Type.Q4_0: read_q4_0, Type.Q4_1: read_q4_1, Type.MXFP4: read_mxfp4}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("qtype", READERS, ids=lambda t: t.name)
def test_their_blocks_mean_the_same_numbers_to_both(qtype, kind):
    data = quants.quantize(weights(kind=kind), qtype)
    np.testing.assert_array_equal(dequantize(READERS[qtype](data)), quants.dequantize(data, qtype))


def test_nvfp4_blocks_mean_the_same_numbers_to_both():
    """Every scale code but NaN, every code; then what halve quantizes, written in their bytes."""
    rng = np.random.default_rng(0)
    scales, codes = (rng.integers(0, n, (ROWS, 4, m), dtype=np.uint8) for n, m in ((127, 4), (256, 32)))
    data = np.concatenate([scales, codes], axis=-1).reshape(ROWS, -1)
    np.testing.assert_array_equal(dequantize(read_nvfp4(data)), quants.dequantize(data, Type.NVFP4))
    q = quantize(schemes.get("nvfp4").weight, weights())
    theirs = quants.dequantize(write_nvfp4(q), Type.NVFP4)
    np.testing.assert_allclose(dequantize(q), theirs * np.float32(q.tensor_scale), rtol=2**-22)


def errors(q, w):
    """Distance of each weight to its quantized value; products of at most 24 + 8 bits are exact in float64."""
    values = reference.decode(q.block.element_format, q.codes).astype(np.float64)
    return np.abs(values * q.scales.astype(np.float64).repeat(32, 1) - w)


def both(qtype, rule, kind):
    """Weights, halve's blocks and gguf's. A block of zeros has scale 1 here and 0 there; both mean zeros."""
    w = weights(kind=kind)
    theirs = READERS[qtype](quants.quantize(w, qtype))
    ours = quantize(theirs.block, w, rule=rule)
    empty = (w.reshape(ROWS, -1, 32) == 0).all(-1)
    assert (ours.scales[empty] == 1).all()
    assert not dequantize(ours).reshape(ROWS, -1, 32)[empty].any()
    assert not dequantize(theirs).reshape(ROWS, -1, 32)[empty].any()
    theirs.scales[empty] = 1
    return w, ours, theirs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("qtype", "rule"), [(Type.Q8_0, "max"), (Type.Q4_0, "signed")], ids=["Q8_0", "Q4_0"])
def test_q8_0_and_q4_0_have_our_scales_and_codes_that_are_never_nearer(qtype, rule, kind):
    """gguf divides by the scale as it was before FP16 rounded it, and takes ties away from zero or up.

    So fewer than 1 code in 100 differs, by one step, and ours is at least as near.
    """
    w, ours, theirs = both(qtype, rule, kind)
    np.testing.assert_array_equal(ours.scales, theirs.scales)
    assert (errors(ours, w) <= errors(theirs, w)).all()
    element = ours.block.element_format
    steps = np.abs(reference.decode(element, ours.codes) - reference.decode(element, theirs.codes))
    assert steps.max() <= 1
    assert kind == "ties" or (steps != 0).mean() < 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_mxfp4_is_the_floor_rule_with_other_ties(kind):
    """gguf takes the first of two equally near values, so ties go toward zero, and gives -0 the code of +0."""
    w, ours, theirs = both(Type.MXFP4, "floor", kind)
    np.testing.assert_array_equal(ours.scales, theirs.scales)
    np.testing.assert_array_equal(errors(ours, w), errors(theirs, w))
    mine, other = dequantize(ours), dequantize(theirs)
    moved = mine != other
    assert (np.abs(other[moved]) < np.abs(mine[moved])).all()
    assert moved.any() == (kind == "ties")
    assert not np.signbit(other[other == 0]).any()
    np.testing.assert_array_equal(np.signbit(mine[w != 0]), np.signbit(w[w != 0]))


def test_where_both_ends_are_equally_large_gguf_keeps_the_first_and_halve_the_negative_one():
    w = np.zeros((ROWS, COLUMNS), np.float32)
    w[:, 0::32], w[:, 1::32] = 8.0, -8.0
    theirs = read_q4_0(quants.quantize(w, Type.Q4_0))
    ours = quantize(theirs.block, w, rule="signed")
    assert (theirs.scales == -1).all()
    assert (ours.scales == 1).all()
    assert dequantize(theirs)[0, :2].tolist() == [8, -7]
    assert dequantize(ours)[0, :2].tolist() == [7, -8]
