"""Tutorials and guides, typed literally into a shell: each command ends well and says what the page has of it."""

import re
import shlex
import subprocess
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from pathlib import Path
from uuid import uuid4

import pytest

DOCS = Path(__file__).parents[2] / "docs"
FOLDERS = {  # pages that are typed in one folder, in this order
    "language": [
        "tutorials/first-4-bit-model.md",
        "how-to/recipes.md",
        "how-to/large-models.md",
        "how-to/resume.md",
        "how-to/cluster.md",
        "how-to/engines.md",
        "how-to/server.md",
        "how-to/web.md",
    ],
    "board": ["tutorials/onnx-to-rk3588.md", "how-to/edge.md", "how-to/edge-check.md"],
}


def steps(page):
    """Commands, of several lines where a quote is open, and what follows them."""
    for block in re.findall(r"```console\n(.*?)```", (DOCS / page).read_text(), re.DOTALL):
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = step.splitlines(keepends=True)
            count = next(n for n in range(1, len(lines) + 1) if _closed("".join(lines[:n])))
            yield "".join(lines[:count]).rstrip("\n"), "".join(lines[count:])


def _closed(command):
    """Whether no quote is open at its end."""
    try:
        shlex.split(command)
    except ValueError:
        return False
    return True


class Shell:
    """A bash that stays open, as a person's: with its folder, its variables and its jobs."""

    def __init__(self, folder):
        self.process = subprocess.Popen(
            ["bash"], cwd=folder, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def type(self, command):
        """What the command printed, and its exit code."""
        mark = uuid4().hex
        self.process.stdin.write(f"{command}\necho {mark} $?\n")
        self.process.stdin.flush()
        output = ""
        for line in self.process.stdout:
            before, found, code = line.partition(mark)
            output += before
            if found:
                return output, int(code)
        raise AssertionError(f"the shell ended with $ {command}\n{output}")


@pytest.fixture(scope="module")
def shells(tmp_path_factory):
    opened = {name: Shell(tmp_path_factory.mktemp(name)) for name in FOLDERS}
    yield opened
    for shell in opened.values():
        shell.process.communicate(timeout=30)


@pytest.mark.parametrize(("folder", "page"), [(name, page) for name, pages in FOLDERS.items() for page in pages])
def test_a_page(shells, folder, page):
    found = list(steps(page))
    assert found
    for command, expected in found:
        output, code = shells[folder].type(command)
        assert code == 0, f"$ {command}\n{output}"
        same = OutputChecker().check_output(f"{expected}\n...", f"{output}\n.", ELLIPSIS | NORMALIZE_WHITESPACE)
        assert same, f"$ {command}\n{output}\n--- is not\n{expected}"
