"""Tutorials, typed literally in an empty folder: each command ends well and says what the page has of it."""

import re
import subprocess
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"


def steps(page):
    """Commands, of several lines where a quote is open, and what follows them."""
    for block in re.findall(r"```console\n(.*?)```", (TUTORIALS / page).read_text(), re.DOTALL):
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = step.partition("\n")
            if command.count('"') % 2:
                rest, _, output = output.partition('\n"\n')
                command = f'{command}\n{rest}\n"'
            yield command, output


@pytest.mark.parametrize(("page", "least"), [("first-4-bit-model.md", 8), ("onnx-to-rk3588.md", 7)])
def test_a_tutorial(tmp_path, page, least):
    found = list(steps(page))
    assert len(found) >= least
    for command, expected in found:
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert done.returncode == 0, (command, done.stdout)
        same = OutputChecker().check_output(f"{expected}\n...", f"{done.stdout}\n.", ELLIPSIS | NORMALIZE_WHITESPACE)
        assert same, f"$ {command}\n{done.stdout}\n--- is not\n{expected}"
