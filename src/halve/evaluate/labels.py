"""Where the label of each point of a scatter plot goes, so that labels cover neither points nor each other."""

from collections.abc import Sequence
from dataclasses import dataclass

# A panel of a report on a screen, in pixels; a label is text of 12 pixels beside a point of 10.
_WIDTH, _HEIGHT = 470, 320
_LETTER, _LINE, _POINT = 7.5, 15, 12
_SIDES = ("middle right", "middle left", "top center", "bottom center")  # plotly's words, the best first

_Box = tuple[float, float, float, float]  # left, bottom, right, top


@dataclass(frozen=True, slots=True)
class Point:
    """A point between (0, 0), lower left, and (1, 1), and its label."""

    x: float
    y: float
    label: str


def sides(points: Sequence[Point], everything: Sequence[Point] = ()) -> list[str]:
    """A side for the label of each of ``points``, the first that is free; the first of all where none is.

    ``everything`` are all points that are drawn, where these are more.
    """
    taken = [_around(point) for point in (*points, *everything)]
    found = []
    for point in points:
        boxes = {side: _box(point, side) for side in _SIDES}
        free = [side for side, box in boxes.items() if _inside(box) and not any(_overlap(box, t) for t in taken)]
        found.append((free or _SIDES)[0])
        taken.append(boxes[found[-1]])
    return found


def _around(point: Point) -> _Box:
    x, y, half = point.x * _WIDTH, point.y * _HEIGHT, _POINT / 2
    return x - half, y - half, x + half, y + half


def _box(point: Point, side: str) -> _Box:
    left, bottom, right, top = _around(point)
    length, x, y = len(point.label) * _LETTER, point.x * _WIDTH, point.y * _HEIGHT
    match side:
        case "middle right":
            return right, y - _LINE / 2, right + length, y + _LINE / 2
        case "middle left":
            return left - length, y - _LINE / 2, left, y + _LINE / 2
        case "top center":
            return x - length / 2, top, x + length / 2, top + _LINE
        case _:
            return x - length / 2, bottom - _LINE, x + length / 2, bottom


def _inside(box: _Box) -> bool:
    return box[0] >= 0 and box[1] >= 0 and box[2] <= _WIDTH and box[3] <= _HEIGHT


def _overlap(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
