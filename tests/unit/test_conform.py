"""Conform modes against hashes of what the tools gave: `python benchmarks/conform.py --golden` made them."""

import json
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from golden.conform import weights
from golden.conform.formats import FORMATS, Tensor, ours
from halve.errors import FormatError, UnknownNameError, UnsupportedError
from halve.schemes import Block, conform
from halve.schemes.quantize import dequantize, quantize

GOLDEN = Path(__file__).parents[1] / "golden" / "conform"
HASHES = {tool: json.loads((GOLDEN / f"{tool}.json").read_text()) for tool in conform.TOOLS}
CASES = [(tool, fmt) for tool, formats in HASHES.items() for fmt in formats]
NVFP4 = FORMATS["nvfp4"][0]
TOOLS = list(conform.TOOLS)


@pytest.fixture(scope="module")
def drawn():
    return weights.drawn()


def normal(shape=(8, 256), dtype=np.float32):
    return (np.random.default_rng(0).standard_normal(shape) * 0.02).astype(dtype)


def test_goldens_hold_what_the_issue_asks_for():
    for formats in HASHES.values():
        assert {"nvfp4", "mxfp4", "fp8_row", "fp8_tensor", "int4"} <= formats.keys()
        for hashes in formats.values():
            assert {"normal.fp32", "normal.bf16", "zeros.bf16", "subnormal.fp32"} <= hashes.keys()


@pytest.mark.parametrize(("tool", "fmt"), CASES)
def test_codes_and_scales_are_the_tools(drawn, tool, fmt):
    for name, expected in HASHES[tool][fmt].items():
        if expected is None:
            continue
        scale, digest = expected.rsplit(" ", 1)
        assert ours(conform.get(tool), fmt, drawn[name], scale).digest() == digest, name


@pytest.mark.parametrize(("tool", "fmt"), CASES)
def test_what_a_tool_leaves_undefined_is_defined_here(drawn, tool, fmt):
    for name in [name for name, expected in HASHES[tool][fmt].items() if expected is None]:
        q = ours(conform.get(tool), fmt, drawn[name], "fp32")
        assert np.isfinite(q.scales).all(), name
        assert (q.scales > 0).all(), name
        assert q.tensor is None or q.tensor > 0, name


@pytest.mark.parametrize(
    ("tool", "fmt"), [("compressed-tensors", "int4"), ("modelopt", "mxfp4"), ("torchao", "int4"), ("torchao", "nvfp4")]
)
def test_ordinary_arithmetic_gives_other_codes(drawn, tool, fmt):
    """Else the hashes would show nothing."""
    scale, digest = HASHES[tool][fmt]["heavy.bf16"].rsplit(" ", 1)
    block = replace(FORMATS[fmt][0], scale=scale or FORMATS[fmt][0].scale)
    rule = {"int4": "range", "mxfp4": "rceil", "nvfp4": "max"}[fmt]
    q = quantize(block, drawn["heavy.bf16"], rule=rule)
    number = None if q.tensor_scale is None else np.float32(q.tensor_scale)
    assert Tensor(q.codes, q.scales, tensor=number).digest() != digest


@pytest.mark.parametrize("fmt", ["nvfp4", "mxfp4", "fp8_row", "int4"])
@pytest.mark.parametrize("tool", TOOLS)
def test_bands_give_what_the_whole_gives(tool, fmt):
    mode, block, w = conform.get(tool), FORMATS[fmt][0], normal(dtype=ml_dtypes.bfloat16)
    factor = mode.tensor_scale(block, float(np.abs(w).max()), w.dtype)
    whole = mode.quantize(block, w, tensor_scale=factor)
    bands = [mode.quantize(block, w[start : start + 3], tensor_scale=factor) for start in (0, 3, 6)]
    assert np.array_equal(whole.codes, np.concatenate([q.codes for q in bands]))
    assert np.array_equal(whole.scales, np.concatenate([q.scales for q in bands]))
    assert whole.tensor_scale == factor


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("fmt", list(FORMATS))
@pytest.mark.parametrize("tool", TOOLS)
def test_values_are_near_the_weights(tool, fmt, dtype):
    mode, (block, rule) = conform.get(tool), FORMATS[fmt]
    if mode.refusal(block) or (rule and rule not in mode.rules(block)):
        with pytest.raises(UnsupportedError):
            mode.quantize(block, normal(dtype=dtype), rule=rule)
        return
    w = normal(dtype=dtype)
    x = w.astype(np.float64)
    values = dequantize(mode.quantize(block, w, rule=rule))
    error = ((values - x) ** 2).sum() / (x**2).sum()
    assert error < 0.05


def test_small_fp16_weights_overflow_as_in_compressed_tensors():
    """2688 / amax is above 65504: the tool goes on with a tensor scale of 1, and scales are subnormal or 1/8."""
    q = conform.get("compressed-tensors").quantize(NVFP4, (normal() / 4).astype(np.float16))
    assert q.tensor_scale == 1
    assert set(np.unique(q.scales)) <= {2.0**-9, 2.0**-8, 0.125}


def test_the_stored_divisor_is_exact():
    """2688 / amax in FP32 need not be the reciprocal of an FP32 number; the tensor scale of float64 keeps it."""
    tool = conform.get("compressed-tensors")
    for amax in (np.arange(1, 2000, dtype=np.float32) * np.float32(1e-3)).tolist():
        divisor = (np.float32(1) / np.float32(amax)) * np.float32(2688)
        assert np.float32(1 / tool.tensor_scale(NVFP4, amax, np.dtype(np.float32))) == divisor


def test_torchao_shares_no_tensor_scale():
    assert [tool.name for tool in conform.TOOLS.values() if not tool.fuses] == ["torchao"]


def test_unknown_tools_are_refused():
    with pytest.raises(UnknownNameError, match="tool to conform to 'modelopts'") as error:
        conform.get("modelopts")
    assert "modelopt" in error.value.hint


@pytest.mark.parametrize(
    "block",
    [
        Block(element="fp8_e4m3", block_size=(128, 128)),
        Block(element="nf4", block_size=64),
        Block(element="fp6_e2m3", scale="e8m0", block_size=32),
        Block(element="uint8", block_size=128, zero_point=True),
    ],
)
@pytest.mark.parametrize("tool", TOOLS)
def test_blocks_without_a_comparison_are_refused(tool, block):
    with pytest.raises(UnsupportedError, match=f"{tool} was not compared with halve") as error:
        conform.get(tool).quantize(block, normal())
    assert "--conform" in error.value.hint


def test_rules_that_the_tool_does_not_have_are_refused():
    with pytest.raises(UnsupportedError, match="modelopt has no scale rule 'even'") as error:
        conform.get("modelopt").quantize(FORMATS["mxfp4"][0], normal(), rule="even")
    assert error.value.hint == "use rceil"
    with pytest.raises(UnsupportedError, match="no scale rule 'max'") as error:
        conform.get("torchao").quantize(FORMATS["int4"][0], normal(), rule="max")
    assert "leave out the rule" in error.value.hint


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("tool", TOOLS)
def test_weights_that_are_not_finite_are_refused(tool, bad):
    w = normal()
    w[2, 5] = bad
    with pytest.raises(FormatError, match=r"at \[2, 5\]"):
        conform.get(tool).quantize(NVFP4, w)


def test_columns_that_no_block_divides_are_refused():
    with pytest.raises(FormatError, match="100 columns is not a multiple of the block size 16"):
        conform.get("torchao").quantize(NVFP4, normal((4, 100)))
