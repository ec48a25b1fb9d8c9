"""Packing against arithmetic on one large integer: code i stands at bit i * width."""

import numpy as np
import pytest

from halve.codecs import dispatch, packing
from halve.errors import FormatError

WIDTHS = [1, 2, 3, 4, 5, 6, 7, 8]


def packed_by_hand(codes, bits):
    number = sum(int(code) << bits * i for i, code in enumerate(codes))
    return np.frombuffer(number.to_bytes(len(codes) * bits // 8, "little"), np.uint8)


@pytest.mark.parametrize("pack", [packing.pack, dispatch.pack])
@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("count", [8, 24, 136])
def test_pack_lays_codes_end_to_end(pack, bits, count):
    codes = np.random.default_rng(bits).integers(0, 1 << bits, count, dtype=np.uint8)
    np.testing.assert_array_equal(pack(codes, bits), packed_by_hand(codes, bits))


@pytest.mark.parametrize(("pack", "unpack"), [(packing.pack, packing.unpack), (dispatch.pack, dispatch.unpack)])
@pytest.mark.parametrize("bits", WIDTHS)
def test_unpack_is_the_inverse_along_the_last_axis(pack, unpack, bits):
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (3, 5, 16), dtype=np.uint8)
    packed = pack(codes, bits)
    assert packed.shape == (3, 5, packing.packed_bytes(16, bits))
    np.testing.assert_array_equal(packed[1, 2], packed_by_hand(codes[1, 2], bits))
    np.testing.assert_array_equal(unpack(packed, bits), codes)


def test_the_even_element_is_the_low_nibble():
    np.testing.assert_array_equal(packing.pack(np.array([1, 2, 3, 4], np.uint8), 4), [0x21, 0x43])


@pytest.mark.parametrize("pack", [packing.pack, dispatch.pack])
@pytest.mark.parametrize(("count", "bits"), [(3, 4), (6, 6), (1, 6), (7, 3)])
def test_a_row_must_end_on_a_byte(pack, count, bits):
    with pytest.raises(FormatError, match=f"{count} codes of {bits} bits do not end on a byte boundary"):
        pack(np.zeros((8, count), np.uint8), bits)


@pytest.mark.parametrize("unpack", [packing.unpack, dispatch.unpack])
@pytest.mark.parametrize(("count", "bits"), [(2, 6), (4, 3), (8, 6)])
def test_bytes_must_hold_whole_codes(unpack, count, bits):
    with pytest.raises(FormatError, match=f"{count} bytes do not hold a whole number of {bits}-bit codes"):
        unpack(np.zeros((3, count), np.uint8), bits)
