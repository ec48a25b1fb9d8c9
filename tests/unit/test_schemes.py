"""The table of schemes: names, formats, sizes computed by hand, and what a block size does to a shape."""

import numpy as np
import pytest

from halve import schemes
from halve.errors import FormatError, UnknownNameError
from halve.formats import FORMATS
from halve.schemes import SCHEMES, Block
from halve.schemes.quantize import quantize

# Bits a weight in the limit of a large tensor, added up by hand: element + (scale + zero point + minimum) / block.
BPW = {
    "fp32": 32,
    "bf16": 16,
    "fp16": 16,
    "fp8": 8,
    "fp8_dynamic": 8,
    "fp8_static": 8,
    "fp8_block": 8 + 32 / 16384,
    "mxfp8": 8.25,
    "mxfp8a16": 8.25,
    "mxfp6_e2m3": 6.25,
    "mxfp6_e2m3a16": 6.25,
    "mxfp6_e3m2": 6.25,
    "mxfp6_e3m2a16": 6.25,
    "mxfp4": 4.25,
    "mxfp4a16": 4.25,
    "nvfp4": 4.5,
    "nvfp4a16": 4.5,
    "w8a8": 8,
    "w8a16": 8,
    "w4a16": 4.125,
    "w4a16_asym": 4.15625,
    "int4_g32": 4.5,
    "int4_min_g32": 5,
    "int8_g32": 8.5,
    "nf4": 4.5,
}

# Bits of Llama-3.1-8B's down_proj, 4096 x 14336 = 58,720,256 weights, block by block.
WEIGHTS = 4096 * 14336
STORED_BITS = {
    "fp32": WEIGHTS * 32,
    "bf16": WEIGHTS * 16,
    "fp16": WEIGHTS * 16,
    **dict.fromkeys(("fp8", "fp8_dynamic", "fp8_static", "w8a8", "w8a16"), WEIGHTS * 8 + 4096 * 32),
    "fp8_block": WEIGHTS * 8 + 32 * 112 * 32,
    **dict.fromkeys(("mxfp8", "mxfp8a16"), WEIGHTS * 8 + 4096 * 448 * 8),
    **dict.fromkeys(("mxfp6_e2m3", "mxfp6_e2m3a16", "mxfp6_e3m2", "mxfp6_e3m2a16"), WEIGHTS * 6 + 4096 * 448 * 8),
    **dict.fromkeys(("mxfp4", "mxfp4a16"), WEIGHTS * 4 + 4096 * 448 * 8),
    **dict.fromkeys(("nvfp4", "nvfp4a16"), WEIGHTS * 4 + 4096 * 896 * 8 + 32),
    "w4a16": WEIGHTS * 4 + 4096 * 112 * 16,
    "w4a16_asym": WEIGHTS * 4 + 4096 * 112 * (16 + 4),
    "int4_g32": WEIGHTS * 4 + 4096 * 448 * 16,
    "int4_min_g32": WEIGHTS * 4 + 4096 * 448 * (16 + 16),
    "int8_g32": WEIGHTS * 8 + 4096 * 448 * 16,
    "nf4": WEIGHTS * 4 + 4096 * 224 * 32,
}


def bits_stored(block, rows, columns):
    """Bits of codes, scales, minima, zero points and tensor scale of a [rows, columns] weight."""
    bits = rows * columns * block.element_format.storage_bits
    down, across = block.scale_shape(rows, columns)
    if block.scale_format is not None:
        bits += down * across * block.scale_format.storage_bits * (1 + block.minimum)
    if block.zero_point:
        bits += down * across * block.element_format.storage_bits
    return bits + 32 * block.tensor_scale


def test_every_scheme_has_hand_computed_sizes():
    assert set(BPW) == set(STORED_BITS) == set(SCHEMES)


@pytest.mark.parametrize("name", SCHEMES)
def test_bits_per_weight_are_the_hand_computed_ones(name):
    scheme = SCHEMES[name]
    assert scheme.bpw == scheme.weight.bpw == BPW[name]
    assert bits_stored(scheme.weight, 4096, 14336) == STORED_BITS[name]
    # What the limit leaves out is one scale a row, or one a tensor.
    assert BPW[name] <= STORED_BITS[name] / WEIGHTS < BPW[name] + 0.01


@pytest.mark.parametrize("name", SCHEMES)
def test_a_quantized_tensor_holds_as_many_numbers_as_the_sizes_say(name):
    block = SCHEMES[name].weight
    w = np.random.default_rng(0).standard_normal((6, 256), dtype=np.float32)
    q = quantize(block, w)
    bits = q.codes.size * block.element_format.storage_bits
    bits += q.scales.size * (block.scale_format.storage_bits if block.scale_format else 0)
    bits += 0 if q.zeros is None else q.zeros.size * block.element_format.storage_bits
    bits += 0 if q.mins is None else q.mins.size * block.scale_format.storage_bits
    bits += 0 if q.tensor_scale is None else 32
    assert bits == bits_stored(block, 6, 256)


def test_names_are_unique_and_the_keys():
    assert [row.name for row in schemes.table._ROWS] == list(SCHEMES)
    assert len(set(SCHEMES)) == len(schemes.table._ROWS)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_row_names_known_formats_and_says_what_it_is(name):
    scheme = SCHEMES[name]
    for block in filter(None, (scheme.weight, scheme.activation)):
        assert block.element in FORMATS
        assert block.scale is None or block.scale in FORMATS
    assert scheme.about
    assert scheme.floor_db > 0
    assert scheme.dense == (scheme.weight.scale is None)
    assert scheme.needs_calibration == (name in {"nvfp4", "fp8_static"})
    assert not scheme.activation_static or scheme.activation is not None


def test_the_a16_forms_have_the_same_weights_and_no_activation():
    for name, scheme in SCHEMES.items():
        base = SCHEMES.get(name.removesuffix("a16"))
        if base is not None and base is not scheme:
            assert scheme.weight == base.weight
            assert scheme.activation is None
            assert base.activation is not None


@pytest.mark.parametrize(
    ("block_size", "tile", "scales"),
    [
        ("row", (1, 576), (1536, 1)),
        ("tensor", (1536, 576), (1, 1)),
        (32, (1, 32), (1536, 18)),
        ((128, 128), (128, 128), (12, 5)),
        ((1000, 500), (1000, 500), (2, 2)),
    ],
)
def test_tiles_and_scales_of_smollm2s_gate_projection(block_size, tile, scales):
    block = Block(element="fp8_e4m3", block_size=block_size)
    assert block.tile(1536, 576) == tile
    assert block.scale_shape(1536, 576) == scales


def test_columns_that_the_block_size_does_not_divide_are_refused():
    block = schemes.get("w4a16").weight
    for ask in (block.tile, block.scale_shape):
        with pytest.raises(FormatError, match="576 columns is not a multiple of the block size 128"):
            ask(1536, 576)


@pytest.mark.parametrize(
    ("columns", "size", "bpw"), [((4096, 14336), 128, 4.125), ((576, 1536), 64, 4.25), ((96, 4096), 32, 4.5)]
)
def test_the_largest_block_size_that_divides_all_columns_is_taken(columns, size, bpw):
    scheme = schemes.get("w4a16").fitted(columns)
    assert (scheme.weight.block_size, scheme.bpw) == (size, bpw)
    assert scheme.name == "w4a16"


def test_a_scheme_stays_as_it_is_where_no_block_size_fits_or_there_is_no_choice():
    assert schemes.get("w4a16").fitted([100]) == schemes.get("w4a16")
    assert schemes.get("nvfp4").fitted([100]) == schemes.get("nvfp4")


def test_plain_numbers_have_no_scales():
    block = schemes.get("bf16").weight
    assert block.scale_format is None
    assert block.scale_shape(3, 5) == (3, 0)


def test_an_unknown_scheme_lists_near_matches():
    with pytest.raises(UnknownNameError, match="unknown scheme 'nvfp5'") as caught:
        schemes.get("nvfp5")
    assert "nvfp4" in caught.value.hint
