"""Perplexity and divergence token by token, against extended precision and against what can be computed by hand."""

from math import exp, inf, log, sqrt

import numpy as np
import pytest

from halve.evaluate.estimate import Estimate, finite
from halve.evaluate.scores import score


def oracle(logits, targets, base):
    """The definitions, in extended precision."""

    def log_softmax(z):
        z = z.astype(np.longdouble)
        z = z - z.max(1, keepdims=True)
        return z - np.log(np.exp(z).sum(1, keepdims=True))

    mine, theirs = log_softmax(logits), log_softmax(base)
    tokens = np.arange(len(targets))
    return -mine[tokens, targets], -theirs[tokens, targets], (np.exp(theirs) * (theirs - mine)).sum(1)


@pytest.mark.parametrize("count", [1, 4, 7, 33])
@pytest.mark.parametrize("spread", [1e-4, 0.3, 20])
def test_equals_extended_precision(count, spread):
    rng = np.random.default_rng(count)
    base = rng.normal(0, 5, (count, 311)).astype(np.float32)
    logits = base + rng.normal(0, spread, base.shape).astype(np.float32)
    targets = rng.integers(0, 311, count)
    nll, base_nll, kld = oracle(logits, targets, base)
    found = score(logits, targets, base)
    np.testing.assert_allclose(found.nll, nll.astype(float), rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(found.base.nll, base_nll.astype(float), rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(found.base.kld, kld.astype(float), rtol=1e-7, atol=1e-14)
    np.testing.assert_array_equal(found.base.same_top, logits.argmax(1) == base.argmax(1))
    np.testing.assert_array_equal(score(logits, targets).nll, found.nll)


def test_by_hand():
    base = np.log(np.array([[0.5, 0.25, 0.25]], np.float32))
    logits = np.log(np.array([[0.25, 0.25, 0.5]], np.float32))
    found = score(logits, np.array([2]), base)
    assert found.nll[0] == pytest.approx(log(2), rel=1e-6)
    assert found.base.nll[0] == pytest.approx(log(4), rel=1e-6)
    assert found.base.kld[0] == pytest.approx(0.5 * log(2) - 0.25 * log(2), rel=1e-6)
    assert not found.base.same_top[0]


def test_equal_logits_diverge_by_exactly_nothing():
    logits = np.random.default_rng(0).normal(0, 30, (50, 1000)).astype(np.float32)
    found = score(logits, np.zeros(50, np.int64), logits.copy())
    assert not found.base.kld.any()
    assert found.base.same_top.all()


@pytest.mark.parametrize("offset", [3e38, -3e38, 1e30])
def test_logits_as_large_as_float32_holds(offset):
    logits = np.full((2, 5), offset, np.float32)
    logits[:, 1] = 0
    found = score(logits, np.array([0, 0]), logits[:, ::-1])
    assert np.isfinite(found.nll).all()
    assert not np.isnan(found.base.kld).any()


def test_estimates():
    found = Estimate.of([1.0, 2.0, 3.0])
    assert found == Estimate(2.0, 1 / sqrt(3))
    assert found.exp().mean == exp(2.0)
    assert found.exp().error == pytest.approx(exp(2.0) / sqrt(3))
    assert found.text(2) == "2.00 ± 0.58"
    assert found.to_json("ppl") == {"ppl": 2.0, "ppl_error": 1 / sqrt(3)}
    assert Estimate.of([1.5]) == Estimate(1.5, None)
    assert Estimate.of([1.5]).text(1) == "1.5"


def test_a_broken_model_has_an_infinite_perplexity_and_json_a_null():
    found = Estimate.of([1e4, 2e4]).exp()
    assert found.mean == inf
    assert found.to_json("ppl") == {"ppl": None, "ppl_error": None}
    assert finite(None) is None
