"""The real model that oracle tests compare on."""

from pathlib import Path

import pytest

from halve.pipeline.smollm2 import fetch


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct in GGUF, from the cache or downloaded into it (93 MB), its hash verified."""
    return fetch()
