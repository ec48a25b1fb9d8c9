"""LongRoPE in packed models: what a text grows to chooses the rotation of all of it, as in the reference."""

import numpy as np
import pytest

from halve.runtime.load import load as load_reference
from halve.runtime.packed.load import load
from native.test_packed_model import CLOSE, as_halves, assert_close, checkpoint, isa
from tiny import llama

__all__ = ["checkpoint", "isa"]  # fixtures

SHORT = 16  # phi3_long's short context


@pytest.mark.parametrize("sizes", [[1] * 40, [SHORT, 1, 23], [7, 33], [39, 1]], ids=str)
def test_texts_that_grow_long(checkpoint, sizes):
    path = checkpoint("phi3_long")
    model, twin = load(path, mode="exact", threads=1), load_reference(path)
    tokens, cache, other = llama.decoder_tokens(model.config), model.new_cache(), twin.new_cache(as_halves)
    for part in np.split(tokens, np.cumsum(sizes)[:-1]):
        assert_close(model.logits(part, cache), twin.logits(part, other))
        assert cache.tokens == other.tokens
    assert_close(model.logits(tokens[-1:], cache), twin.logits(tokens[-1:], other))


def test_a_text_that_becomes_short_again(checkpoint):
    model = load(checkpoint("phi3_long"), mode="exact", threads=1)
    tokens, cache = llama.decoder_tokens(model.config), model.new_cache()
    model.logits(tokens, cache)
    cache.keep(tokens[:5])
    assert_close(model.logits(tokens[5:9], cache), model.logits(tokens[:9])[5:])


def test_sequences_that_grow_long_side_by_side(checkpoint):
    """One is long already, one becomes so, one stays short."""
    model = load(checkpoint("phi3_long"), mode="exact", threads=2)
    tokens = llama.decoder_tokens(model.config)
    caches, texts = [model.new_cache() for _ in range(3)], [tokens[:length] for length in (SHORT + 4, SHORT - 1, 3)]
    for text, cache in zip(texts, caches, strict=True):
        model.logits(text, cache)
    for step in range(4):
        following = tokens[step : step + 3].tolist()
        texts = [np.append(text, token) for text, token in zip(texts, following, strict=True)]
        logits = model.next_logits(following, caches)
        for text, ours in zip(texts, logits, strict=True):
            np.testing.assert_allclose(ours, model.logits(text)[-1], rtol=0, atol=CLOSE)
    assert [cache.long for cache in caches] == [True, True, False]
