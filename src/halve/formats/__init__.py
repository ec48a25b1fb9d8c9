"""Number formats as rows of data: :data:`FORMATS`, :func:`get`, and what follows from a row."""

from halve.formats.table import FORMATS, Codebook, Float, Format, Int, get

__all__ = ["FORMATS", "Codebook", "Float", "Format", "Int", "get"]
