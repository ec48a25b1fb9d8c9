"""Schemes as rows of data, the canonical quantized tensor, and rounding to nearest."""

from halve.schemes.table import SCHEMES, Block, Scheme, find, get

__all__ = ["SCHEMES", "Block", "Scheme", "find", "get"]
