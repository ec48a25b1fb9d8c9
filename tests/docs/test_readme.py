"""The two READMEs say the same: equal commands, equal figures; and every command they name exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENGLISH = (ROOT / "README.md").read_text()
CHINESE = (ROOT / "README.zh.md").read_text()


def code_blocks(text):
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return ["\n".join(line.split("#")[0].rstrip() for line in block.splitlines()) for block in blocks]


def figures(text):
    """Rows of tables as their cells without letters of any language: numbers, units and signs."""
    rows = [line for line in text.splitlines() if line.startswith("|") and not set(line) <= set("|-: ")]
    return [re.findall(r"[\d.]+ ?%?", row) for row in rows]


def test_commands_are_equal():
    assert code_blocks(ENGLISH) == code_blocks(CHINESE)
    assert len(code_blocks(ENGLISH)) >= 3


def test_tables_hold_the_same_figures():
    assert figures(ENGLISH) == figures(CHINESE)


def test_inline_commands_are_equal():
    def pattern(text):
        return sorted(re.findall(r"`(halve [^`]+|pip install [^`]+|apt install [^`]+|nox [^`]+)`", text))

    assert pattern(ENGLISH) == pattern(CHINESE)


@pytest.mark.parametrize("command", sorted(set(re.findall(r"halve ([a-z]+)", "\n".join(code_blocks(ENGLISH))))))
def test_commands_exist(command):
    from halve.cli.main import cli

    assert command in cli.list_commands(None)


@pytest.mark.parametrize("text", [ENGLISH, CHINESE], ids=["en", "zh"])
def test_links_lead_somewhere(text):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (ROOT / target).exists(), target


def test_the_two_commands_are_there():
    assert "pip install '.[demo]' && halve demo" in ENGLISH
    assert "pip install '.[demo,test]' && pytest" in ENGLISH


@pytest.mark.parametrize("text", [ENGLISH, CHINESE], ids=["en", "zh"])
def test_no_placeholder_is_left(text):
    assert not re.findall(r"^[A-Z]{5,}$", text, re.MULTILINE)
