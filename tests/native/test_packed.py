"""Packed weights and their products: every block, mode, instruction set, odd shapes, numbers of threads, errors."""

import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from halve.errors import FormatError, UnsupportedError
from halve.runtime.packed import kernels, reference
from halve.runtime.packed.arena import Arena
from halve.runtime.packed.packing import packing
from halve.runtime.packed.product import Product
from halve.runtime.packed.weight import Weight
from halve.schemes import SCHEMES, Block
from halve.schemes import quantize as q
from halve.schemes.qtensor import QTensor
from native.inputs import block_name

PACKED_ISAS = ("avx512_bf16", "avx512", "avx2", "scalar")
BOUND = 1e-5
BLOCKS = [
    *{scheme.weight: None for scheme in SCHEMES.values()},
    Block(element="int4", scale="bf16", block_size=32),
    Block(element="int4", scale="fp32", block_size=64),
    Block(element="int3", scale="fp16", block_size=32),
    Block(element="uint2", scale="fp16", block_size=32, zero_point=True),
    Block(element="uint8", scale="fp16", block_size="row", zero_point=True),
    Block(element="fp4_e2m1", scale="fp32", block_size="tensor"),
    Block(element="fp8_e5m2", scale="e8m0", block_size=32),
    Block(element="int8", scale="bf16", block_size=(3, 5)),
    Block(element="fp8_e4m3", scale="fp32", block_size=48),
]
DTYPES = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}


@pytest.fixture(params=PACKED_ISAS)
def packed(request, monkeypatch):
    """The packed kernels of one instruction set, in use for the length of the test."""
    native = pytest.importorskip("halve._native", reason="halve was installed without its native module")
    if request.param not in native.packed_isas():
        pytest.skip(f"this machine has no {request.param}")
    chosen = native.packed_kernels(request.param)
    monkeypatch.setattr(kernels, "kernels", lambda: chosen)
    return chosen


@pytest.fixture
def pool():
    pytest.importorskip("halve._native", reason="halve was installed without its native module")
    return kernels.native.Pool(3)  # more than the smallest machine has cores: only speed suffers


def weight(block: Block, rows: int, columns: int, seed: int = 0) -> QTensor:
    rng = np.random.default_rng(seed)
    w = (rng.standard_t(5, (rows, columns)) * 0.05).astype(np.float32)
    w[rng.random(w.shape) < 0.05] = 0
    w[rng.random(w.shape) < 0.02] *= np.float32(1e-4)  # subnormals of FP8 and FP16
    if block.scale is not None:
        return q.quantize(block, w)
    dense = w.astype(DTYPES[block.element])
    return QTensor(block, dense.view(f"u{dense.itemsize}"), np.empty((rows, 0), np.float32))


def activations(columns: int, count: int = 1) -> np.ndarray:
    rng = np.random.default_rng(count)
    x = rng.standard_normal((count, columns), dtype=np.float32)
    x[:, : columns // 3] = np.abs(x[:, : columns // 3])  # rounding errors that add up
    x[rng.random(x.shape) < 0.01] *= 30
    return x


def shapes(block: Block) -> list[tuple[int, int]]:
    step = block.block_size if isinstance(block.block_size, int) else 1
    return [(1, step), (16, 3 * step), (37, -(-200 // step) * step + step), (130, -(-1000 // step) * step)]


@pytest.mark.parametrize("mode", kernels.MODES)
@pytest.mark.parametrize("block", BLOCKS, ids=block_name)
def test_products(packed, pool, block, mode):
    for shape in shapes(block):
        tensor, x = weight(block, *shape), activations(shape[1])
        (y,) = Product([Weight.of(tensor)], pool, mode)(x)
        expected, scale = reference.multiply(tensor, x, mode)
        assert np.max(np.abs(y - expected) - BOUND * scale) <= 0, shape


@pytest.mark.parametrize("mode", ["exact", "bf16"])
@pytest.mark.parametrize("block", BLOCKS, ids=block_name)
def test_products_with_many_vectors(packed, pool, block, mode):
    """Weights that bf16 does not hold exactly are rounded where it multiplies."""
    how = packing(block)
    scales = how.width is None or how.scale in ("ue4m3", "e8m0")
    in_bf16 = how.element in ("fp4", "fp8", "int8", "bf16") and scales and not how.offsets
    exactly = mode == "exact" or packed.isa != "avx512_bf16" or in_bf16
    for (rows, columns), count in zip(shapes(block), (2, 5, 31, 14), strict=True):
        tensor, x = weight(block, rows, columns), activations(columns, count)
        (y,) = Product([Weight.of(tensor)], pool, mode)(x)
        expected, scale = reference.multiply(tensor, x, mode)
        bound = BOUND if exactly else BOUND + 2.0**-8
        if tensor.zeros is not None or tensor.mins is not None:
            bound *= 4  # what is rounded is larger than the weight: an offset is taken off
        assert np.max(np.abs(y - expected) - bound * scale) <= 0, (rows, columns)


def test_threads_change_no_bit_of_many_vectors(packed):
    native = kernels.native
    x = activations(512, 29)
    packed_weight = Weight.of(weight(SCHEMES["nvfp4"].weight, 1000, 512))
    alone = Product([packed_weight], native.Pool(1))(x)[0]
    for threads in (2, 3, 7):
        np.testing.assert_array_equal(Product([packed_weight], native.Pool(threads))(x)[0], alone)


@pytest.mark.parametrize("mode", kernels.MODES)
def test_long_rows_of_one_sign(packed, pool, mode):
    """Where naive sums lose the most: 11008 columns, all products positive and alike."""
    for name in ("nvfp4", "fp8", "w8a8", "bf16", "fp32"):
        tensor = weight(SCHEMES[name].weight, 16, 11008)
        tensor.codes[:] = tensor.codes.dtype.type(0x35 if tensor.codes.itemsize == 1 else 0x3DCC)
        if tensor.block.element == "fp4_e2m1":
            tensor.codes[:] = 5
        if tensor.block.element == "fp32":
            tensor.codes[:] = np.float32(0.1).view(np.uint32)
        x = np.full((1, 11008), 0.1, np.float32)
        (y,) = Product([Weight.of(tensor)], pool, mode)(x)
        expected, scale = reference.multiply(tensor, x, mode)
        assert np.max(np.abs(y - expected) / scale) <= BOUND, name


@pytest.mark.parametrize("mode", kernels.MODES)
def test_any_number_of_threads_gives_the_same_bits(packed, mode):
    native = kernels.native
    x = activations(512)
    for name in ("nvfp4", "mxfp4", "w4a16_asym", "w8a8", "fp8", "bf16"):
        packed_weight = Weight.of(weight(SCHEMES[name].weight, 1000, 512))
        alone = Product([packed_weight], native.Pool(1), mode)(x)[0]
        for threads in (2, 3, 7):
            several = Product([packed_weight], native.Pool(threads), mode)
            for _ in range(5):
                np.testing.assert_array_equal(several(x)[0], alone)


@pytest.mark.parametrize("mode", kernels.MODES)
def test_weights_with_the_same_activations(packed, pool, mode):
    """Of different formats, in one call: each as if it were alone."""
    names = ("nvfp4", "fp8", "w4a16_asym", "bf16", "mxfp6_e2m3", "w8a8")
    weights = [Weight.of(weight(SCHEMES[n].weight, 40 + 30 * i, 384, seed=i)) for i, n in enumerate(names)]
    x = activations(384)
    together = Product(weights, pool, mode)(x)
    for one, y in zip(weights, together, strict=True):
        np.testing.assert_array_equal(Product([one], pool, mode)(x)[0], y)


@pytest.mark.parametrize("block", BLOCKS, ids=block_name)
def test_bands(packed, pool, block):
    """Filled band by band, a weight is what it is when filled at once."""
    columns = 384 if not isinstance(block.block_size, int) else -(-384 // block.block_size) * block.block_size
    whole = weight(block, 300, columns)
    if block.block_size == "tensor" or (isinstance(block.block_size, tuple) and block.block_size[0] != 128):
        pytest.skip("its bands have scales in common")
    height = block.block_size[0] if isinstance(block.block_size, tuple) else 1
    by_band = Weight(block, 300, columns, Arena(Weight.nbytes(block, 300, columns)))
    for start in (128, 0, 256):
        rows, blocks = slice(start, start + 128), slice(start // height, -(-min(start + 128, 300) // height))
        zeros = None if whole.zeros is None else whole.zeros[blocks]
        mins = None if whole.mins is None else whole.mins[blocks]
        by_band.fill(start, QTensor(block, whole.codes[rows], whole.scales[blocks], whole.tensor_scale, zeros, mins))
    x = activations(columns)
    np.testing.assert_array_equal(
        Product([by_band], pool, "exact")(x)[0], Product([Weight.of(whole)], pool, "exact")(x)[0]
    )


def test_nothing_of_the_schemes_falls_back_to_float32_where_it_need_not():
    """What is packed wider than it is stored is listed here."""
    wider = {
        name: packing(scheme.weight).element
        for name, scheme in SCHEMES.items()
        if Weight.nbytes(scheme.weight, 1024, 4096) > 1.15 * 1024 * 4096 * scheme.bpw / 8
    }
    assert wider == {
        "mxfp6_e2m3": "fp8",
        "mxfp6_e2m3a16": "fp8",
        "mxfp6_e3m2": "fp8",
        "mxfp6_e3m2a16": "fp8",
        "nf4": "coded",
    }


def test_no_activations_at_all(packed, pool):
    """Zeros give zero, also where a block's largest is divided by."""
    for mode in kernels.MODES:
        (y,) = Product([Weight.of(weight(SCHEMES["nvfp4"].weight, 20, 64))], pool, mode)(np.zeros((1, 64), np.float32))
        np.testing.assert_array_equal(y, np.zeros((1, 20), np.float32))


def test_misaligned_activations(packed, pool):
    x = activations(64)
    odd = np.frombuffer(b"." + x.tobytes(), np.float32, offset=1).reshape(x.shape)
    product = Product([Weight.of(weight(SCHEMES["nvfp4"].weight, 20, 64))], pool)
    np.testing.assert_array_equal(product(odd)[0], product(x)[0])


def test_errors(packed, pool):
    block = SCHEMES["nvfp4"].weight
    good = Weight.of(weight(block, 20, 64))
    with pytest.raises(FormatError, match="n, 64"):
        Product([good], pool)(activations(63))
    with pytest.raises(FormatError, match="n, 64"):
        Product([good], pool)(activations(64)[0])
    with pytest.raises(FormatError, match="n, 64"):
        Product([good], pool)(activations(64)[:0])
    with pytest.raises(FormatError, match="float64"):
        Product([good], pool)(activations(64).astype(np.float64))
    with pytest.raises(FormatError, match="no mode"):
        Product([good], pool, "int7")
    with pytest.raises(FormatError, match="no inputs in common"):
        Product([good, Weight.of(weight(block, 20, 32))], pool)
    with pytest.raises(FormatError, match="do not fit"):
        good.fill(8, weight(block, 16, 64))
    with pytest.raises(FormatError, match="do not fit"):
        good.fill(0, weight(block, 33, 64))
    with pytest.raises(FormatError, match="rows and columns"):
        Weight.of(QTensor(block, np.empty((0, 64), np.uint8), np.empty((0, 4), np.float32), 1.0))


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16", "fp8"])
def test_weights_that_are_not_numbers(packed, name):
    tensor = weight(SCHEMES[name].weight, 20, 64)
    tensor.codes[3, 5] = {"fp32": 0xFF800000, "bf16": 0x7FC0, "fp16": 0xFC00, "fp8": 0xFF}[name]
    with pytest.raises(FormatError, match="NaN or Inf"):
        Weight.of(tensor)


def test_a_forked_process_computes_alone(tmp_path):
    """Workers stay behind in the parent: nobody waits for them, not even at the end."""
    program = f"""
import os, sys
import numpy as np
from native.test_packed import SCHEMES, Product, Weight, activations, kernels, weight
product = Product([Weight.of(weight(SCHEMES["nvfp4"].weight, 500, 512))], kernels.native.Pool(3))
before = product(activations(512))[0]
child = os.fork()
if child == 0:
    np.save({str(tmp_path / "child.npy")!r}, product(activations(512))[0])
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
np.testing.assert_array_equal(np.load({str(tmp_path / "child.npy")!r}), before)
"""
    pytest.importorskip("halve._native", reason="halve was installed without its native module")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, env=environment)


def test_more_threads_than_cores():
    with pytest.raises(UnsupportedError, match="threads on"):
        kernels.pool(kernels.cores() + 1)
    with pytest.raises(UnsupportedError, match="threads on"):
        kernels.pool(0)


LINES = np.zeros(16 * 64 // 2 + 64, np.uint8)
LINES = LINES[-LINES.ctypes.data % 64 :][: 16 * 64 // 2]
NATIVE = {
    "element": "fp4",
    "scale": "ue4m3",
    "rows": 16,
    "columns": 64,
    "block": 16,
    "lines": LINES,
    "scales": np.zeros(64, np.uint8),
    "offsets": None,
    "table": None,
    "factor": 1.0,
}


@pytest.mark.parametrize(
    ("error", "changes"),
    [
        (ValueError, {"element": "fp5"}),
        (ValueError, {"scale": "fp64"}),
        (ValueError, {"element": "int4"}),
        (ValueError, {"rows": 0}),
        (ValueError, {"rows": 17}),
        (ValueError, {"rows": 1 << 31}),
        (ValueError, {"columns": 65}),
        (ValueError, {"block": 32}),
        (ValueError, {"block": 0, "scale": "fp32"}),
        (ValueError, {"lines": LINES[:-64]}),
        (ValueError, {"lines": np.zeros(513, np.uint8)[1:]}),
        (ValueError, {"scales": np.zeros(63, np.uint8)}),
        (ValueError, {"offsets": np.zeros(64, np.float32)}),
        (ValueError, {"table": np.zeros(256, np.float32)}),
        (ValueError, {"factor": np.nan}),
        (TypeError, {"lines": LINES.view(np.int8)}),
        (TypeError, {"lines": np.zeros(1024, np.uint8)[::2]}),
    ],
    ids=str,
)
def test_the_border_of_weights(error, changes):
    native = pytest.importorskip("halve._native", reason="halve was installed without its native module")
    native.PackedWeight(**NATIVE)
    with pytest.raises(error):
        native.PackedWeight(**NATIVE | changes)


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (ValueError, lambda k, p, w, x, y: k.multiply(p, [w], x[:, :63].copy(), [y], "exact")),
        (ValueError, lambda k, p, w, x, y: k.multiply(p, [w], x, [y[:, :15].copy()], "exact")),
        (ValueError, lambda k, p, w, x, y: k.multiply(p, [w], x[0], [y], "exact")),
        (ValueError, lambda k, p, w, x, y: k.multiply(p, [w], x, [], "exact")),
        (ValueError, lambda k, p, w, x, y: k.multiply(p, [], x, [], "exact")),
        (ValueError, lambda k, p, w, x, y: k.multiply(p, [w], x, [y], "fp7")),
        (TypeError, lambda k, p, w, x, y: k.multiply(p, [w], x.astype(np.float64), [y], "exact")),
        (TypeError, lambda k, p, w, x, y: k.multiply(p, [w], x, [np.zeros(32, np.float32)[::2]], "exact")),
        (ValueError, lambda k, p, w, x, y: k.read(p, np.zeros(100, np.uint8))),
        (ValueError, lambda k, p, w, x, y: k.interleave(LINES.reshape(8, 64), padded=64, bits=5, flip=0, lines=LINES)),
        (ValueError, lambda k, p, w, x, y: k.interleave(LINES.reshape(8, 64), padded=32, bits=4, flip=0, lines=LINES)),
        (ValueError, lambda k, p, w, x, y: k.interleave(LINES.reshape(8, 64), padded=64, bits=8, flip=0, lines=LINES)),
        (ValueError, lambda k, p, w, x, y: k.interleave(LINES.reshape(8, 64), padded=64, bits=16, flip=0, lines=LINES)),
    ],
)
def test_the_border_of_products(packed, pool, error, call):
    native = kernels.native
    arguments = native.PackedWeight(**NATIVE), np.zeros((1, 64), np.float32), np.zeros((1, 16), np.float32)
    packed.multiply(pool, [arguments[0]], arguments[1], [arguments[2]], "exact")
    with pytest.raises(error):
        call(packed, pool, *arguments)


@pytest.mark.parametrize("threads", [0, 1025])
def test_the_border_of_pools(threads):
    native = pytest.importorskip("halve._native", reason="halve was installed without its native module")
    with pytest.raises(ValueError, match="threads"):
        native.Pool(threads)


def test_without_the_native_module(monkeypatch):
    monkeypatch.setattr(kernels, "native", None)
    with pytest.raises(UnsupportedError, match="native module"):
        kernels.pool(1)
