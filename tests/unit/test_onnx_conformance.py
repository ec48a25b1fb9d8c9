"""The Cast, CastLike, QuantizeLinear and DequantizeLinear cases of the ONNX standard, bit for bit.

`onnx.backend.test.case.node` makes them; every runtime that claims conformance runs them. A case is a model of one
node, its inputs and its outputs.
"""

import warnings
from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from halve import formats
from halve.codecs import dispatch, reference
from halve.errors import FormatError

FORMATS = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.FLOAT8E4M3FN: "fp8_e4m3",
    TensorProto.FLOAT8E4M3FNUZ: "fp8_e4m3fnuz",
    TensorProto.FLOAT8E5M2: "fp8_e5m2",
    TensorProto.FLOAT8E5M2FNUZ: "fp8_e5m2fnuz",
    TensorProto.FLOAT8E8M0: "e8m0",
    TensorProto.FLOAT4E2M1: "fp4_e2m1",
    **{getattr(TensorProto, f"INT{bits}"): f"int{bits}" for bits in (2, 4, 8, 16)},
    **{getattr(TensorProto, f"UINT{bits}"): f"uint{bits}" for bits in (2, 4, 8, 16)},
}
ROUND_MODES = {"up": "away_from_zero", "down": "toward_zero", "nearest": "nearest_even"}
SATURATE_APPLIES = {"fp8_e4m3", "fp8_e4m3fnuz", "fp8_e5m2", "fp8_e5m2fnuz", "e8m0", "fp4_e2m1"}
OPERATORS = ("Cast", "CastLike", "QuantizeLinear", "DequantizeLinear")

# The whole list of onnx 1.23; a release that adds cases changes these numbers and must be looked at.
EXECUTED = {"Cast": 108, "CastLike": 52, "QuantizeLinear": 13, "DequantizeLinear": 14}
NO_FLOAT64 = "halve has no 64-bit format"
NOT_APPLICABLE = {
    f"test_{operator}_{pair}{suffix}": NO_FLOAT64
    for pair in ("FLOAT_to_DOUBLE", "FLOAT16_to_DOUBLE", "DOUBLE_to_FLOAT", "DOUBLE_to_FLOAT16")
    for operator, suffix in (("cast", ""), ("castlike", ""), ("castlike", "_expanded"))
}
# FP4 has no NaN. The standard leaves the result open and its cases expect -0, what ml_dtypes happens to give; halve
# refuses the NaN and agrees on everything else.
NAN_INTO_FP4 = {
    f"test_{operator}_{source}_to_FLOAT4E2M1{suffix}"
    for source in ("FLOAT", "FLOAT16")
    for operator, suffix in (("cast", ""), ("castlike", ""), ("castlike", "_expanded"))
}


@pytest.fixture(scope="module")
def cases():
    """Cases of the four operators by name. Making the standard's cases divides by zero here and there, on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        from onnx.backend.test.case.node import collect_testcases

        made = collect_testcases(None)
    chosen = {}
    for case in made:
        nodes = case.model.graph.node
        if len(nodes) == 1 and nodes[0].op_type in OPERATORS:
            chosen[case.name] = case
    return chosen


def tensor(value, info):
    """Format and codes of one input or output, which is a TensorProto or a numpy array."""
    fmt = formats.get(FORMATS[info.type.tensor_type.elem_type])
    array = numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)
    array = np.atleast_1d(array)
    codes = array.view(f"u{array.dtype.itemsize}")
    return fmt, codes & codes.dtype.type((1 << fmt.bits) - 1)


def attributes(case):
    node = case.model.graph.node[0]
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def cast(case, source, codes, target):
    """The codes in `target` of the numbers that `codes` are in `source`."""
    given = attributes(case)
    x = dispatch.decode(source, codes)
    rounding = "nearest_even"
    if target.name == "e8m0":
        rounding = ROUND_MODES[given["round_mode"].decode()]
    elif "int" in target.name:
        rounding = "toward_zero"
    saturate = bool(given.get("saturate", 1)) and target.name in SATURATE_APPLIES
    if case.name in NAN_INTO_FP4:
        assert np.isnan(x).any()
        with pytest.raises(FormatError, match="fp4_e2m1 has no NaN"):
            dispatch.encode(target, x, rounding=rounding, saturate=saturate)
        x = np.where(np.isnan(x), np.float32(-0.0), x)
    return dispatch.encode(target, x, rounding=rounding, saturate=saturate)


def elementwise(parameter, shape, axis, block_size):
    """Scales or zero points spread over the elements: one, one a slice of `axis`, or one a block along it."""
    if parameter.size == 1:
        return parameter.reshape(())
    if block_size:
        return parameter.repeat(block_size, axis)
    return parameter.reshape([-1 if i == axis else 1 for i in range(len(shape))])


def linear(case, arrays, shape):
    """Scale and zero point, elementwise, as values."""
    given = attributes(case)
    spread = [elementwise(a, shape, given.get("axis", 1), given.get("block_size", 0)) for a in arrays]
    return spread[0], spread[1] if len(spread) > 1 else np.float32(0)


def quantize_linear(case, inputs, target):
    (_, x), *parameters = [(fmt, dispatch.decode(fmt, codes)) for fmt, codes in inputs]
    scale, zero = linear(case, [values for _, values in parameters], x.shape)
    quotient = np.rint(x / scale) if "int" in target.name else x / scale
    return dispatch.encode(target, quotient + zero)  # the zero point of a float format is 0, and makes +0 of -0


def dequantize_linear(case, inputs, target):
    x, *parameters = [dispatch.decode(fmt, codes) for fmt, codes in inputs]
    scale, zero = linear(case, parameters, x.shape)
    return dispatch.encode(target, (x - zero) * scale)


def quiet(fmt, codes):
    """In 16 and 32 bits, codes with the NaN that halve writes: ml_dtypes reads 0x80, FNUZ's NaN, as a negative one."""
    wide = fmt.bits >= 16 and fmt.nan_code is not None
    return np.where(np.isnan(reference.decode(fmt, codes)), fmt.nan_code, codes) if wide else codes


def execute(case):
    """The format of the output, what halve makes of the inputs, and what the case expects."""
    graph = case.model.graph
    given, wanted = case.data_sets[0]
    inputs = [tensor(value, info) for value, info in zip(given, graph.input, strict=True)]
    target, expected = tensor(wanted[0], graph.output[0])
    match graph.node[0].op_type:
        case "Cast" | "CastLike":
            return target, cast(case, *inputs[0], target), expected
        case "QuantizeLinear":
            return target, quantize_linear(case, inputs, target), expected
        case "DequantizeLinear":
            return target, dequantize_linear(case, inputs, target), expected


def test_every_applicable_case_gives_the_standards_bits(cases):
    assert set(NOT_APPLICABLE) | NAN_INTO_FP4 <= set(cases)
    executed, wrong = Counter(), {}
    for name, case in cases.items():
        if name in NOT_APPLICABLE:
            continue
        target, ours, expected = execute(case)
        executed[case.model.graph.node[0].op_type] += 1
        if not np.array_equal(ours, quiet(target, expected)):
            wrong[name] = (ours.tolist(), expected.tolist())
    assert wrong == {}
    assert executed == EXECUTED


@pytest.mark.parametrize("saturate", [True, False])
@pytest.mark.parametrize("mode", ROUND_MODES)
def test_e8m0_round_modes(mode, saturate):
    """The function that makes the E8M0 cases, on all powers of two and what lies between them.

    It reads the exponent field alone: what is not a normal positive number is left out here. It knows no sign, rounds
    half of what lies below 2^-126 to the wrong side, and takes zero to 2^-127 in both modes of saturation.
    """
    exponents = np.arange(1, 255, dtype=np.uint32) << np.uint32(23)
    fractions = np.array([0, 1, 0x200000, 0x3FFFFF, 0x400000, 0x400001, 0x7FFFFF], np.uint32)
    x = np.append((exponents[:, None] | fractions).view(np.float32).ravel(), np.float32([np.inf, np.nan]))
    theirs = numpy_helper.to_float8e8m0(x, saturate=saturate, round_mode=mode).view(np.uint8)
    ours = reference.encode(formats.get("e8m0"), x, rounding=ROUND_MODES[mode], saturate=saturate)
    np.testing.assert_array_equal(ours, theirs)


def test_onnx_names_no_number_type_that_is_neither_known_nor_ruled_out():
    ruled_out = {
        *("UNDEFINED", "STRING", "BOOL", "COMPLEX64", "COMPLEX128", "DOUBLE"),
        *("INT32", "INT64", "UINT32", "UINT64"),
        *("FLOAT6E2M3", "FLOAT6E3M2"),  # named by onnx 1.23, without a case
    }
    known = {TensorProto.DataType.Name(number) for number in FORMATS}
    assert set(onnx.TensorProto.DataType.keys()) <= known | ruled_out
