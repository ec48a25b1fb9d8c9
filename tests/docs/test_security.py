"""Every line of docs/security.md names a test that is there."""

import re
from pathlib import Path

TESTS = Path(__file__).parent.parent
PAGE = (TESTS.parent / "docs" / "security.md").read_text(encoding="utf-8")


def test_every_named_test_is_there():
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 20
    for row in rows:
        file, name = re.search(r"\| `([\w/]+\.py)::(\w+)` \|$", row).groups()
        assert f"\ndef {name}(" in (TESTS / file).read_text(encoding="utf-8"), row
