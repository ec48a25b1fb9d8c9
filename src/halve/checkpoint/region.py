"""Which bytes of a tensor in the making have been written."""

from bisect import bisect_left
from dataclasses import dataclass, field


@dataclass(slots=True)
class Region:
    """Where a tensor lies in the file, and which of its bytes have been written: spans, sorted and never adjacent."""

    begin: int
    nbytes: int
    written: list[tuple[int, int]] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether all bytes have been written."""
        return not self.nbytes or self.written == [(0, self.nbytes)]

    def claim(self, start: int, stop: int) -> bool:
        """Mark bytes ``start..stop``; False where they lie outside or some have been marked before."""
        if start == stop:
            return 0 <= start <= self.nbytes
        spans = self.written
        at = bisect_left(spans, (start, stop))
        floor = spans[at - 1][1] if at else 0
        ceiling = spans[at][0] if at < len(spans) else self.nbytes
        if start < floor or stop > ceiling:
            return False
        low, high = at, at
        if at and floor == start:
            low, start = at - 1, spans[at - 1][0]
        if at < len(spans) and ceiling == stop:
            high, stop = at + 1, spans[at][1]
        spans[low:high] = [(start, stop)]
        return True
