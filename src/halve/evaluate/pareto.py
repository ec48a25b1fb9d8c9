"""Which of several points are the best for their size."""

from collections.abc import Sequence


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (size, loss) that lose less than all of their size or smaller, the smallest first.

    >>> front([(3, 0.1), (1, 0.5), (2, 0.7), (3, 0.2)])
    [1, 0]
    """
    best: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: points[i]):
        if not best or points[index][1] < points[best[-1]][1]:
            best.append(index)
    return best
