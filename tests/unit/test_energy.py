"""Sums of squares."""

from math import inf

import numpy as np

from halve.evaluate.energy import energy


def test_energy_adds_to_a_total():
    x = np.arange(300, dtype=np.float32)
    assert energy(x, 7.0) == 7.0 + float((x.astype(np.float64) ** 2).sum())
    with np.errstate(all="raise"):
        assert energy(np.full(256, np.inf, np.float32)) == inf
        assert np.isnan(energy(np.full(256, np.nan, np.float32)))
