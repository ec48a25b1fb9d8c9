"""The first tutorial, typed literally in an empty folder: each command ends well and says what the page has of it."""

import re
import subprocess
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from pathlib import Path

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorials" / "first-4-bit-model.md"


def steps():
    """Commands and what follows them."""
    for block in re.findall(r"```console\n(.*?)```", TUTORIAL.read_text(), re.DOTALL):
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = step.partition("\n")
            yield command, output


def test_the_first_tutorial(tmp_path):
    found = list(steps())
    assert len(found) >= 8
    for command, expected in found:
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert done.returncode == 0, (command, done.stdout)
        same = OutputChecker().check_output(f"{expected}\n...", f"{done.stdout}\n.", ELLIPSIS | NORMALIZE_WHITESPACE)
        assert same, f"$ {command}\n{done.stdout}\n--- is not\n{expected}"
