"""An allocation stays within its budget and comes near the best there is, which trying everything finds."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halve.errors import UnsupportedError
from halve.pipeline.allocate import Option, allocate

OPTIONS = st.lists(st.tuples(st.integers(1, 50), st.floats(0, 100, allow_nan=False)), min_size=1, max_size=4).map(
    lambda pairs: [Option(i, nbytes, loss) for i, (nbytes, loss) in enumerate(pairs)]
)
GROUPS = st.lists(OPTIONS, min_size=1, max_size=5).map(lambda groups: {f"g{i}": o for i, o in enumerate(groups)})


def best(groups, budget):
    """By trying everything."""
    combinations = (c for c in product(*groups.values()) if sum(o.nbytes for o in c) <= budget)
    return min((sum(o.loss for o in c) for c in combinations), default=None)


@given(groups=GROUPS, spare=st.integers(0, 150))
def test_within_one_step_of_the_best(groups, spare):
    smallest = sum(min(o.nbytes for o in options) for options in groups.values())
    found = allocate(groups, smallest + spare)
    assert found.nbytes <= smallest + spare
    assert found.options.keys() == groups.keys()
    assert all(option in groups[name] for name, option in found.options.items())
    largest_step = max(max(o.loss for o in options) - min(o.loss for o in options) for options in groups.values())
    assert found.loss <= best(groups, smallest + spare) + largest_step + 1e-9


@given(groups=GROUPS)
def test_a_budget_below_the_smallest_is_refused(groups):
    smallest = sum(min(o.nbytes for o in options) for options in groups.values())
    with pytest.raises(UnsupportedError, match="less than"):
        allocate(groups, smallest - 1)


@given(groups=GROUPS)
def test_a_large_budget_takes_the_best_of_each(groups):
    found = allocate(groups, sum(max(o.nbytes for o in options) for options in groups.values()))
    assert all(found.options[name].loss == min(o.loss for o in options) for name, options in groups.items())


@given(groups=GROUPS, budgets=st.tuples(st.integers(0, 150), st.integers(0, 150)))
def test_the_same_input_gives_the_same_choice(groups, budgets):
    smallest = sum(min(o.nbytes for o in options) for options in groups.values())
    assert allocate(groups, smallest + budgets[0]) == allocate(dict(groups), smallest + budgets[0])
