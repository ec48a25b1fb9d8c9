"""Which precision each layer gets, so that the whole fits a budget and loses least. Knows losses, and no model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

from halve.errors import UnsupportedError

Choice = TypeVar("Choice")


@dataclass(frozen=True, slots=True)
class Option(Generic[Choice]):
    """One way to store a group of layers: what it is, how many bytes it takes, how much it loses (additive)."""

    choice: Choice
    nbytes: int
    loss: float


@dataclass(frozen=True, slots=True)
class Allocation(Generic[Choice]):
    """The option of every group."""

    options: Mapping[str, Option[Choice]]

    @property
    def nbytes(self) -> int:
        """Bytes of all groups."""
        return sum(option.nbytes for option in self.options.values())

    @property
    def loss(self) -> float:
        """Loss of all groups."""
        return sum(option.loss for option in self.options.values())


def allocate(groups: Mapping[str, Sequence[Option[Choice]]], budget: int) -> Allocation[Choice]:
    """The options, one for each of ``groups``, whose bytes stay within ``budget`` and whose losses add up to least.

    Starting from the smallest of each group, the step that saves most loss for its bytes is taken again and again
    (Fox 1966, on the lower convex hull of each group), then whatever single step still fits and helps. The result is
    within one group's largest step of the optimum.

    Raises UnsupportedError where even the smallest options do not fit.
    """
    hulls = {name: _hull(options) for name, options in groups.items()}
    place = dict.fromkeys(groups, 0)
    left = budget - sum(hull[0].nbytes for hull in hulls.values())
    if left < 0:
        raise UnsupportedError(
            f"a budget of {budget} bytes for these layers is less than the {budget - left} of the smallest choice",
            hint="allow a smaller scheme, or raise the budget",
        )
    steps = [(-_slope(hull, 0), name) for name, hull in hulls.items() if len(hull) > 1]
    heapify(steps)
    while steps:
        _, name = heappop(steps)
        hull, at = hulls[name], place[name]
        cost = hull[at + 1].nbytes - hull[at].nbytes
        if cost > left:
            continue
        left -= cost
        place[name] = at + 1
        if at + 2 < len(hull):
            heappush(steps, (-_slope(hull, at + 1), name))
    return Allocation(_fill({name: hulls[name][place[name]] for name in groups}, groups, left))


def _hull(options: Sequence[Option[Choice]]) -> list[Option[Choice]]:
    """The options on the lower convex hull of loss over bytes, the smallest first."""
    hull: list[Option[Choice]] = []
    for option in sorted(options, key=lambda o: (o.nbytes, o.loss)):
        if hull and option.loss >= hull[-1].loss:
            continue
        while len(hull) > 1 and _between(hull[-2], hull[-1]) <= _between(hull[-2], option):
            hull.pop()
        if hull and option.nbytes == hull[-1].nbytes:
            hull.pop()
        hull.append(option)
    return hull


def _between(one: Option[Choice], other: Option[Choice]) -> float:
    """Loss saved for every byte on the way from ``one`` to ``other``."""
    return (one.loss - other.loss) / max(other.nbytes - one.nbytes, 1)


def _slope(hull: Sequence[Option[Choice]], at: int) -> float:
    return _between(hull[at], hull[at + 1])


def _fill(
    chosen: dict[str, Option[Choice]], groups: Mapping[str, Sequence[Option[Choice]]], left: int
) -> dict[str, Option[Choice]]:
    """Spend what is ``left`` on the single steps that save most, hull or not."""
    while True:
        better = [
            (chosen[name].loss - option.loss, name, option)
            for name, options in groups.items()
            for option in options
            if option.nbytes - chosen[name].nbytes <= left and option.loss < chosen[name].loss
        ]
        if not better:
            return chosen
        _, name, option = max(better, key=lambda step: (step[0], step[1]))
        left -= option.nbytes - chosen[name].nbytes
        chosen[name] = option
