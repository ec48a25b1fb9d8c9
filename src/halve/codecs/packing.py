"""Bits <-> bytes: codes of ``bits`` bits laid end to end, least significant bit first."""

import numpy as np
from numpy.typing import NDArray

from halve.errors import FormatError


def packed_bytes(columns: int, bits: int) -> int:
    """Bytes that a row of ``columns`` codes takes. Raises FormatError unless the row ends on a byte."""
    if columns * bits % 8:
        raise FormatError(f"{columns} codes of {bits} bits do not end on a byte boundary")
    return columns * bits // 8


def pack(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Pack codes ``[..., n]`` (each below ``2**bits``) into bytes ``[..., n * bits / 8]``.

    Element 0 occupies the lowest bits of byte 0: for 4 bits the even element is the low nibble.
    """
    width = packed_bytes(codes.shape[-1], bits)
    if bits == 8:
        return codes
    planes = np.unpackbits(codes[..., None], axis=-1, count=bits, bitorder="little")
    return np.packbits(planes.reshape(*codes.shape[:-1], width * 8), axis=-1, bitorder="little")


def unpack(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Inverse of :func:`pack`: bytes ``[..., m]`` to codes ``[..., m * 8 / bits]``."""
    if bits == 8:
        return packed
    if packed.shape[-1] * 8 % bits:
        raise FormatError(f"{packed.shape[-1]} bytes do not hold a whole number of {bits}-bit codes")
    planes = np.unpackbits(packed, axis=-1, bitorder="little")
    return np.packbits(planes.reshape(*packed.shape[:-1], -1, bits), axis=-1, bitorder="little")[..., 0]
