"""How many examples a property test tries: the same few each time or, with HALVE_FUZZ=N, N times as many others."""

import os

from hypothesis import settings

TIMES = int(os.environ.get("HALVE_FUZZ", "0"))


def examples(count):
    """Settings of a property test; apply it above ``@given``."""
    return settings(derandomize=not TIMES, deadline=None, max_examples=count * max(TIMES, 1))
