"""The border between Python and the kernels: arguments, the choice of instruction set, the float environment."""

import ctypes
import os
import platform
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from halve import formats
from halve.codecs import dispatch, reference
from halve.errors import UnsupportedError
from halve.schemes import SCHEMES
from halve.schemes import quantize as q
from native.inputs import ISAS, weights

U8 = np.zeros(64, np.uint8)
F32 = np.zeros(64, np.float32)


def codec(name):
    return dispatch.codec(formats.get(name))


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (TypeError, lambda k: k.encode(codec("fp4_e2m1"), F32.astype(np.float64), U8)),
        (TypeError, lambda k: k.encode(codec("fp4_e2m1"), F32, U8.view(np.int8))),
        (TypeError, lambda k: k.encode(codec("fp4_e2m1"), F32[::2], U8[:32])),
        (TypeError, lambda k: k.encode(codec("fp4_e2m1"), F32, U8.tobytes())),
        (TypeError, lambda k: k.encode(formats.get("fp4_e2m1"), F32, U8)),
        (ValueError, lambda k: k.encode(codec("fp4_e2m1"), F32, U8[:63])),
        (ValueError, lambda k: k.encode(codec("bf16"), F32, U8)),
        (ValueError, lambda k: k.decode(codec("bf16"), U8, F32)),
        (ValueError, lambda k: k.decode(codec("fp4_e2m1"), U8, F32[:1])),
        (TypeError, lambda k: k.decode(codec("fp4_e2m1"), U8[::-1], F32)),
        (TypeError, lambda k: k.decode(codec("fp4_e2m1"), U8, F32[::-1])),
        (ValueError, lambda k: k.pack(5, U8, U8)),
        (ValueError, lambda k: k.pack(4, U8, U8[:31])),
        (ValueError, lambda k: k.pack(4, U8[:3], U8[:1])),
        (ValueError, lambda k: k.pack(6, U8[:6], U8[:4])),
        (ValueError, lambda k: k.unpack(6, U8[:3], U8[:5])),
        (TypeError, lambda k: k.absmax(F32.astype(np.float64))),
        (TypeError, lambda k: k.absmax(F32[::2])),
    ],
)
def test_wrong_arguments(kernels, error, call):
    with pytest.raises(error):
        call(kernels)


def read_only(array):
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def test_outputs_must_be_writable_and_inputs_need_not(kernels):
    assert kernels.encode(codec("fp4_e2m1"), read_only(F32), U8.copy()) is None
    with pytest.raises(TypeError):
        kernels.encode(codec("fp4_e2m1"), F32, read_only(U8))


def misaligned(array):
    """The same numbers, one byte into a buffer, as in a file whose header has an odd length."""
    return np.frombuffer(b"." + array.tobytes(), array.dtype, offset=1).reshape(array.shape)


def test_misaligned_arrays(kernels):
    block = SCHEMES["w4a16"].weight
    w = weights((3, 256), "bfloat16")
    ours = q.quantize(block, misaligned(w))
    expected = q.quantize(block, w)
    np.testing.assert_array_equal(ours.codes, expected.codes)
    x = w.astype(np.float32)
    assert dispatch.absmax(misaligned(x)) == np.abs(x).max()
    int4 = formats.get("int4")
    np.testing.assert_array_equal(dispatch.encode(int4, misaligned(x)), dispatch.encode(int4, x))
    odd = replace(expected, scales=misaligned(expected.scales), mins=misaligned(expected.scales))
    np.testing.assert_array_equal(q.dequantize(odd), q.dequantize_reference(odd))
    with pytest.raises(ValueError, match="not aligned"):
        kernels.absmax(misaligned(x))


MATRIX = F32.reshape(2, 32)
GOOD = {
    "element": "fp4_e2m1",
    "scale": "ue4m3",
    "tile": (1, 16),
    "rule": "max",
    "tensor_scale": None,
    "codes": U8,
    "scales": F32[:4],
    "zeros": None,
}


@pytest.mark.parametrize(
    ("error", "changes"),
    [
        (TypeError, {"weights": MATRIX.astype(np.float64)}),
        (TypeError, {"weights": np.zeros((2, 32), np.int16)}),
        (TypeError, {"weights": MATRIX.T}),
        (ValueError, {"weights": F32}),
        (ValueError, {"weights": MATRIX[:0]}),
        (ValueError, {"tile": (1, 0)}),
        (ValueError, {"tile": (0, 16)}),
        (TypeError, {"tile": (-1, 16)}),
        (ValueError, {"tile": (1, 8)}),
        (ValueError, {"rule": "best"}),
        (ValueError, {"rule": "even", "element": "int4"}),
        (ValueError, {"scale": "e8m0"}),
        (ValueError, {"scale": "int8"}),
        (ValueError, {"element": "fp16"}),
        (ValueError, {"codes": U8[:63]}),
        (TypeError, {"codes": F32}),
        (ValueError, {"scales": F32[:3]}),
        (TypeError, {"scales": F32[:4].astype(np.float64)}),
        (ValueError, {"zeros": U8[:4]}),
        (ValueError, {"zeros": U8[:5], "element": "uint4"}),
    ],
    ids=str,
)
def test_wrong_arguments_of_quantize(kernels, error, changes):
    arguments = {"weights": MATRIX} | GOOD
    assert kernels.quantize(**_with_codecs(arguments))
    with pytest.raises(error):
        kernels.quantize(**_with_codecs(arguments | changes))


def _with_codecs(arguments):
    return arguments | {key: codec(arguments[key]) for key in ("element", "scale")}


@pytest.mark.parametrize(
    ("error", "changes"),
    [
        (TypeError, {"codes": F32.reshape(2, 32)}),
        (ValueError, {"codes": U8}),
        (ValueError, {"tile": (1, 0)}),
        (ValueError, {"element": "bf16"}),
        (ValueError, {"scales": F32[:5]}),
        (ValueError, {"zeros": U8[:5]}),
        (ValueError, {"mins": F32[:5]}),
        (ValueError, {"values": F32[:1]}),
    ],
    ids=str,
)
def test_wrong_arguments_of_dequantize(kernels, error, changes):
    arguments = {
        "codes": U8.reshape(2, 32),
        "element": "int4",
        "tile": (1, 16),
        "scales": F32[:4],
        "tensor_scale": None,
        "zeros": None,
        "mins": None,
        "values": F32.copy(),
    }
    assert kernels.dequantize(**arguments | {"element": codec("int4")})
    arguments |= changes
    with pytest.raises(error):
        kernels.dequantize(**arguments | {"element": codec(arguments["element"])})


def chosen(isa):
    """The instruction set that a new process takes under HALVE_ISA, or its error."""
    program = (
        "from halve.codecs import dispatch; from halve.errors import HalveError\n"
        "try: print(dispatch.isa())\n"
        "except HalveError as error: print(error, '|', error.hint)"
    )
    env = os.environ | {"HALVE_ISA": isa, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("isa", ISAS)
def test_the_environment_chooses_the_instruction_set(isa):
    native = pytest.importorskip("halve._native", reason="halve was installed without its native module")
    if isa in native.isas():
        assert chosen(isa).strip() == isa
    else:
        assert f"HALVE_ISA: this machine cannot run the {isa} kernels" in chosen(isa)


def test_the_best_instruction_set_is_the_default():
    native = pytest.importorskip("halve._native", reason="halve was installed without its native module")
    assert native.isas()[-1] == "scalar"
    assert chosen("").strip() == native.isas()[0]


def test_an_unknown_instruction_set_is_an_error():
    pytest.importorskip("halve._native", reason="halve was installed without its native module")
    assert chosen("sse9").startswith("HALVE_ISA: unknown instruction set 'sse9' (known: avx512, avx2, scalar) | unset")


def test_without_the_native_module(monkeypatch):
    monkeypatch.setattr(dispatch, "native", None)
    dispatch.kernels.cache_clear()
    try:
        assert dispatch.kernels() is None
        assert dispatch.isa() == "python"
        x = np.float32([0.1, -3, 0])
        np.testing.assert_array_equal(dispatch.encode(formats.get("int4"), x), [0, 13, 0])
        np.testing.assert_array_equal(dispatch.decode(formats.get("int4"), np.uint8([13])), [-3])
        np.testing.assert_array_equal(dispatch.unpack(dispatch.pack(np.uint8([1, 2]), 4), 4), [1, 2])
        assert dispatch.absmax(x) == 3
        w = weights((4, 32), "bfloat16")
        block = SCHEMES["nvfp4a16"].weight
        ours = q.quantize(block, w)
        np.testing.assert_array_equal(q.dequantize(ours), q.dequantize_reference(ours))
    finally:
        monkeypatch.undo()
        dispatch.kernels.cache_clear()


def test_an_unusable_isa_is_our_error(monkeypatch):
    pytest.importorskip("halve._native", reason="halve was installed without its native module")
    monkeypatch.setenv("HALVE_ISA", "sse9")
    dispatch.kernels.cache_clear()
    try:
        with pytest.raises(UnsupportedError, match="unknown instruction set 'sse9'"):
            dispatch.encode(formats.get("int4"), F32)
    finally:
        monkeypatch.undo()
        dispatch.kernels.cache_clear()


X86_64 = platform.machine() in ("x86_64", "AMD64")
MXCSR = 28  # offset in x86-64's fenv_t


@pytest.mark.skipif(not X86_64, reason="the fields of fenv_t are written down for x86-64 only")
@pytest.mark.parametrize("bits", [0x8040, 0x4000, 0x2000], ids=["subnormals flushed", "round up", "round down"])
def test_bits_do_not_depend_on_the_callers_float_environment(kernels, bits):
    """Libraries built with -ffast-math switch subnormals off for every thread that loads them."""
    block = SCHEMES["nvfp4a16"].weight
    w = weights((2, 320), "float32") * np.float32(1e-40)
    x = np.float32([1e-40, -1e-44, 6e-39, 1.3]) * np.float32(3)
    scale = np.float32(2.0**-120)
    expected = q.quantize_reference(block, w, rule="max", tensor_scale=float(scale))
    values = q.dequantize_reference(expected)
    e8m0 = reference.encode(formats.get("e8m0"), np.abs(x))
    libm = ctypes.CDLL(None)
    callers, changed = (ctypes.create_string_buffer(64) for _ in range(2))
    libm.fegetenv(callers)
    libm.fegetenv(changed)
    word = int.from_bytes(changed[MXCSR : MXCSR + 4], "little") | bits
    changed[MXCSR : MXCSR + 4] = word.to_bytes(4, "little")
    libm.fesetenv(changed)
    try:
        ours = q.native.quantize(block, w, "max", float(scale))
        back = q.native.dequantize(ours)
        codes = dispatch.encode(formats.get("e8m0"), np.abs(x))
        libm.fegetenv(changed)
    finally:
        libm.fesetenv(callers)
    assert int.from_bytes(changed[MXCSR : MXCSR + 4], "little") & bits == bits  # the caller's setting survived
    np.testing.assert_array_equal(codes, e8m0)
    np.testing.assert_array_equal(ours.codes, expected.codes)
    np.testing.assert_array_equal(ours.scales, expected.scales)
    np.testing.assert_array_equal(back, values)
