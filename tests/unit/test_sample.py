"""Choosing the next token."""

import numpy as np
import pytest

from halve.errors import UnsupportedError
from halve.runtime.sample import Sampler, Sampling, candidates

LOGITS = np.array([1.0, 3.0, -2.0, 2.5, 3.0, 0.0], np.float32)


def softmax(x):
    weights = np.exp(x - x.max())
    return weights / weights.sum()


def draws(count=20_000, logits=LOGITS, **sampling):
    sampler = Sampler(Sampling(**sampling))
    return [sampler(logits) for _ in range(count)]


def test_temperature_zero_takes_the_likeliest_the_lower_token_first():
    assert set(draws(50, temperature=0, top_k=3, top_p=0.5, seed=3)) == {1}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_draws_follow_softmax(temperature):
    found = np.bincount(draws(temperature=temperature), minlength=6) / 20_000
    wanted = softmax(LOGITS.astype(np.float64) / temperature)
    assert np.abs(found - wanted).max() < 4 * 0.5 / np.sqrt(20_000)


def test_draws_of_a_large_vocabulary_follow_softmax():
    logits = np.random.default_rng(0).standard_normal(1000, dtype=np.float32) * 3
    found = np.bincount(draws(50_000, logits=logits, temperature=1.0), minlength=1000) / 50_000
    wanted = softmax(logits.astype(np.float64))
    deviation = np.sqrt(wanted * (1 - wanted) / 50_000)
    assert (np.abs(found - wanted) <= 5 * deviation + 1 / 50_000).all()


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        ({"top_k": 1}, [1]),
        ({"top_k": 2}, [1, 4]),
        ({"top_k": 3}, [1, 4, 3]),
        ({"top_k": 100}, [1, 4, 3, 0, 5, 2]),
        ({"top_p": 1e-9}, [1]),
        ({"top_p": 0.36}, [1, 4]),
        ({"top_p": 0.75}, [1, 4, 3]),
        ({"top_p": 1.0}, [1, 4, 3, 0, 5, 2]),
        ({"top_k": 2, "top_p": 0.49}, [1]),
        ({"temperature": 1e-30}, [1, 4]),
    ],
)
def test_what_may_be_drawn(sampling, kept):
    """Probabilities at temperature 1, from above: .355 .355 .215 .048 .018 .002."""
    tokens, probabilities = candidates(LOGITS, Sampling(**{"temperature": 1.0} | sampling))
    assert tokens.tolist() == kept
    wanted = softmax(LOGITS[kept].astype(np.float64) / sampling.get("temperature", 1.0))
    np.testing.assert_allclose(probabilities, wanted, rtol=1e-12)


def test_a_seed_gives_the_same_draws_and_another_others():
    assert draws(50, temperature=1, seed=1) == draws(50, temperature=1, seed=1)
    assert draws(50, temperature=1, seed=1) != draws(50, temperature=1, seed=2)


def test_only_what_may_be_drawn_is_drawn():
    assert set(draws(2000, temperature=5, top_k=2)) == {1, 4}
    assert set(draws(2000, temperature=1, top_p=0.75)) == {1, 3, 4}


@pytest.mark.parametrize(
    "sampling",
    [{"temperature": -0.1}, {"temperature": float("inf")}, {"temperature": float("nan")}, {"top_p": 0.0},
     {"top_p": 1.1}, {"top_k": -1}, {"seed": -1}],
)  # fmt: skip
def test_parameters_out_of_range(sampling):
    with pytest.raises(UnsupportedError, match=next(iter(sampling))) as raised:
        Sampling(**sampling)
    assert raised.value.hint
