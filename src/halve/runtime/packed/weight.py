"""A linear layer's weight, packed."""

from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from halve import formats
from halve.codecs import dispatch
from halve.codecs.reference import code_dtype
from halve.errors import FormatError
from halve.runtime.packed import kernels
from halve.runtime.packed.arena import Arena, aligned
from halve.runtime.packed.packing import BITS, GROUP, Packing, band, packing, table
from halve.schemes.qtensor import QTensor
from halve.schemes.table import Block

if TYPE_CHECKING:
    from halve._native import PackedWeight

Number = TypeVar("Number", np.uint8, np.float32)


class Weight:
    """Memory for a weight [rows, columns] stored as ``block``; `fill` puts rows into it.

    Lines and scales lie in ``arena``, of which this takes `nbytes`.
    """

    def __init__(self, block: Block, rows: int, columns: int, arena: Arena) -> None:
        if rows < 1 or columns < 1:
            raise FormatError(f"a weight has rows and columns; this one has shape {[rows, columns]}")
        self.block, self.rows, self.columns = block, rows, columns
        self._packing: Packing = packing(block)
        lines, scales, offsets = self._packing.nbytes(rows, columns)
        self._lines = arena.take(lines)
        self._scales = arena.take(scales)
        self._offsets = arena.take(offsets).view(np.float32) if offsets else None
        self._factor = 1.0

    @property
    def size(self) -> int:
        """Bytes that it takes of its arena."""
        return self.nbytes(self.block, self.rows, self.columns)

    @staticmethod
    def nbytes(block: Block, rows: int, columns: int) -> int:
        """Bytes that a weight takes of its arena."""
        return sum(aligned(part) for part in packing(block).nbytes(rows, columns))

    @classmethod
    def of(cls, q: QTensor) -> "Weight":
        """``q``, packed, in memory of its own."""
        weight = cls(q.block, *q.shape, Arena(cls.nbytes(q.block, *q.shape)))
        weight.fill(0, q)
        return weight

    def fill(self, start: int, q: QTensor) -> None:
        """Put rows ``start`` and on; ``start`` is a multiple of 16. Raises FormatError where they hold NaN or Inf."""
        rows = band(q)
        count, columns = rows.codes.shape
        if start % GROUP or start + count > self.rows or columns != self.columns or q.block != self.block:
            raise FormatError(
                f"rows {start} to {start + count} of {columns} columns do not fit into a weight of shape "
                f"{[self.rows, self.columns]}, or are stored in another way"
            )
        first, stop = start // GROUP, -(-(start + count) // GROUP)
        packed, bits = self._packing, BITS[self._packing.element]
        padded = packed.padded(columns)
        group_bytes = GROUP * padded * bits // 8
        kernels.kernels().interleave(
            dispatch.plain(rows.codes),
            padded=padded,
            bits=bits,
            flip=rows.flip,
            lines=self._lines[first * group_bytes : stop * group_bytes],
        )
        scale_bits = code_dtype(formats.get(packed.scale))
        self._interleave(self._scales.view(scale_bits), first, rows.scales)
        if self._offsets is not None and rows.offsets is not None:
            self._interleave(self._offsets, first, rows.offsets)
        self._factor = 1.0 if q.tensor_scale is None else q.tensor_scale

    def native(self, start: int = 0, stop: int | None = None) -> "PackedWeight":
        """What native code multiplies; it keeps the memory alive. Of rows ``start..stop``, ``start`` a multiple of 16.

        Raises UnsupportedError where there is no native module.
        """
        kernels.require()
        packed = self._packing
        stop = self.rows if stop is None else stop
        first, last, groups = start // GROUP, -(-stop // GROUP), -(-self.rows // GROUP)

        def part(array: NDArray[Number]) -> NDArray[Number]:
            return array.reshape(groups, -1)[first:last].reshape(-1)

        return kernels.native.PackedWeight(
            element=packed.element,
            scale=packed.scale,
            rows=stop - start,
            columns=self.columns,
            block=packed.block_columns(self.columns),
            lines=part(self._lines),
            scales=part(self._scales),
            offsets=None if self._offsets is None else part(self._offsets),
            table=table(self.block) if packed.element == "coded" else None,
            factor=self._factor,
        )

    def _interleave(self, into: NDArray[np.generic], first: int, numbers: NDArray[np.generic]) -> None:
        """Numbers [rows, blocks] into [group][block][16], from group ``first`` on."""
        padded, width = self._packing.padded(self.columns), self._packing.block_columns(self.columns)
        grouped = into.reshape(-1, padded // width, GROUP)
        rows, blocks = numbers.shape
        whole = rows // GROUP
        grouped[first : first + whole, :blocks] = numbers[: whole * GROUP].reshape(whole, GROUP, blocks).swapaxes(1, 2)
        if rest := rows % GROUP:
            grouped[first + whole, :blocks, :rest] = numbers[whole * GROUP :].T
