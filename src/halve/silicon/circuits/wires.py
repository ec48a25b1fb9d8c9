"""Parts that circuits are made of: shifters, a normaliser, sums in carry-save form."""

from collections.abc import Callable, Sequence
from functools import reduce
from operator import or_

import pyrtl
from pyrtl import Const, WireVector, concat, select
from pyrtl.rtllib.adders import fast_group_adder, wallace_reducer


def constant(value: int, width: int) -> WireVector:
    """``value`` modulo ``2**width``."""
    return Const(value % (1 << width), bitwidth=width)


def any_bit(x: WireVector) -> WireVector:
    """Whether a bit of ``x`` is one."""
    return pyrtl.or_all_bits(x)


def all_bits(x: WireVector) -> WireVector:
    """Whether every bit of ``x`` is one."""
    return pyrtl.and_all_bits(x)


def any_of(bits: Sequence[WireVector]) -> WireVector:
    """Whether one of ``bits`` is one."""
    return reduce(or_, bits)


def unsigned(x: WireVector, width: int) -> WireVector:
    """``x`` in ``width`` bits, with zeros above or its upper bits cut."""
    return x.zero_extended(width) if len(x) < width else x[:width]


def signed(x: WireVector, width: int) -> WireVector:
    """``x`` in ``width`` bits, with copies of its sign above or its upper bits cut."""
    return x.sign_extended(width) if len(x) < width else x[:width]


def padded_below(x: WireVector, width: int) -> WireVector:
    """``x`` with zeros below it, ``width`` bits."""
    return x if len(x) == width else concat(x, constant(0, width - len(x)))


def conditional_invert(x: WireVector, invert: WireVector) -> WireVector:
    """``x``, or each of its bits inverted; with ``invert`` added, the negative of ``x``."""
    return x ^ invert.sign_extended(len(x))


def magnitude(x: WireVector) -> tuple[WireVector, WireVector]:
    """Sign and absolute value of a two's complement number; the value is one bit narrower."""
    negative = x[-1]
    return negative, select(negative, (~x + 1)[: len(x)], x)[: len(x) - 1]


def carry_propagate(a: WireVector, b: WireVector, *_: WireVector) -> WireVector:
    """A plain sum, for the synthesis tool to choose an adder for; tree reducers pass it a carry, too."""
    return a + b


def carry_save_sum(terms: Sequence[WireVector], width: int) -> WireVector:
    """Sum modulo ``2**width`` of ``width``-bit terms: a Wallace tree and one adder."""
    if len(terms) == 1:
        return terms[0]
    if len(terms) == 2:
        return (terms[0] + terms[1])[:width]
    return fast_group_adder(list(terms), reducer=wallace_reducer, final_adder=carry_propagate)[:width]


def signed_sum(magnitudes: Sequence[WireVector], signs: Sequence[WireVector], width: int) -> WireVector:
    """Sum of sign-magnitude numbers in two's complement, ``width`` bits: inverted, and the ones added in the tree."""
    inverted = [conditional_invert(unsigned(x, width), sign) for x, sign in zip(magnitudes, signs, strict=True)]
    return carry_save_sum([*inverted, *(unsigned(sign, width) for sign in signs)], width)


def largest(numbers: Sequence[WireVector]) -> WireVector:
    """The largest of unsigned numbers of one width, by a tree."""

    def larger(a: WireVector, b: WireVector) -> WireVector:
        return select(a > b, a, b)

    return tree(larger, numbers)


def tree(combine: Callable[[WireVector, WireVector], WireVector], items: Sequence[WireVector]) -> WireVector:
    """``items`` combined in pairs, pairs of pairs and so on."""
    level = list(items)
    while len(level) > 1:
        pairs = [combine(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = pairs + level[len(level) - len(level) % 2 :]
    return level[0]


def normalise(x: WireVector) -> tuple[WireVector, WireVector]:
    """``x`` shifted left until its top bit is one (zero stays zero), and by how many bits."""
    width, counts = len(x), []
    for power in reversed(range((width - 1).bit_length())):
        step = 1 << power
        if step >= width:
            continue
        empty = ~any_bit(x[width - step :])
        counts.append(empty)
        x = select(empty, concat(x[: width - step], constant(0, step)), x)
    return x, concat(*counts)


def shift_right(x: WireVector, amount: WireVector) -> WireVector:
    """``x`` shifted right by an ``amount`` of any size; what falls out is lost."""
    width = len(x)
    stages = width.bit_length()
    for power in range(min(stages, len(amount))):
        step = 1 << power
        shifted = concat(constant(0, step), x[step:]) if step < width else constant(0, width)
        x = select(amount[power], shifted, x)
    return select(any_bit(amount[stages:]), constant(0, width), x) if len(amount) > stages else x


def shift_right_sticky(x: WireVector, amount: WireVector) -> tuple[WireVector, WireVector]:
    """``x`` shifted right by an ``amount`` of any size, and whether a one fell out."""
    width, sticky = len(x), constant(0, 1)
    stages = width.bit_length()
    for power in range(min(stages, len(amount))):
        step = min(1 << power, width)
        sticky = sticky | (any_bit(x[:step]) & amount[power])
        shifted = concat(constant(0, step), x[step:]) if step < width else constant(0, width)
        x = select(amount[power], shifted, x)
    if len(amount) > stages:
        beyond = any_bit(amount[stages:])
        sticky = sticky | (beyond & any_bit(x))
        x = select(beyond, constant(0, width), x)
    return x, sticky


def shift_left(x: WireVector, amount: WireVector, width: int) -> WireVector:
    """``x`` shifted left in ``width`` bits; what falls out is lost."""
    x = unsigned(x, width)
    for power in range(len(amount)):
        step = 1 << power
        shifted = concat(x[: width - step], constant(0, step)) if step < width else constant(0, width)
        x = select(amount[power], shifted, x)
    return x
