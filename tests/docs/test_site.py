"""The site is complete: every page is in its menu, every table row on a page, every command that it shows exists."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import click
import pytest
import yaml

from halve import hardware, layouts
from halve.cli.main import cli
from halve.errors import HalveError
from halve.formats import FORMATS
from halve.schemes import SCHEMES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md"))
CHINESE = [page for page in PAGES if page.name.endswith(".zh.md")]
ENGLISH = set(PAGES) - set(CHINESE)
DECISIONS = set((DOCS / "decisions").glob("*.md"))  # of their day, in English
sys.path.insert(0, str(ROOT / "tests" / "slow"))
from test_first_hour import FOLDERS  # noqa: E402

TYPED = {page for pages in FOLDERS.values() for page in pages}


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("tables", DOCS / "tables.py")
    sys.modules["tables"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def leaves(nav):
    for entry in nav.values() if isinstance(nav, dict) else nav:
        if isinstance(entry, str):
            yield entry
        else:
            yield from leaves(entry)


def test_every_page_is_in_the_menu():
    nav = list(leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert sorted(nav) == sorted(str(page.relative_to(DOCS)) for page in PAGES if not page.name.endswith(".zh.md"))


def commands():
    """Lines of shell in all pages that begin with halve: page, words."""
    for page in PAGES:
        for kind, block in re.findall(r"```(sh|bash|console)[^\n]*\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                text = line.removeprefix("$ ") if kind == "console" else line
                if text.startswith("halve ") and (kind != "console" or line.startswith("$ ")):
                    yield pytest.param(shlex.split(text.split("|")[0], comments=True)[1:], id=f"{page.stem}: {text}")


@pytest.mark.parametrize("words", list(commands()))
def test_commands_and_options_exist(words):
    command = cli
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command), words[0])
        assert found is not None, words[0]
        command, words = found, words[1:]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        if re.match(r"--?[a-z]", word):
            assert word.split("=")[0] in known, word


def blocks(page):
    """Fenced blocks of a page: the first line, what is in it, and the section up to the next heading."""
    for section in re.split(r"^#+ ", page.read_text(), flags=re.MULTILINE):
        for head, body in re.findall(r"^ *```(\w+[^\n]*)\n(.*?)^ *```$", section, re.DOTALL | re.MULTILINE):
            yield head, body, section


@pytest.mark.parametrize("page", sorted(ENGLISH - DECISIONS), ids=lambda page: str(page.relative_to(DOCS)))
def test_every_block_was_run(page):
    """When the site is built, by a shell that types the page, or on a day that the page names."""
    for head, body, section in blocks(page):
        if 'exec="' in head or head == "text" or "--8 < --" in body:
            continue  # text is what the block before it printed
        if head == "console":
            assert str(page.relative_to(DOCS)) in TYPED
        elif not all(line.startswith(("pip install ", "apt ")) for line in body.splitlines()):
            assert re.search(r"\b20\d\d-\d\d-\d\d\b", section), body


def test_every_row_has_a_place(tables):
    assert all(f"## halve {name}\n" in tables.commands() for name in cli.list_commands(None))
    assert all(f"| {name} |" in tables.formats_table() for name in FORMATS)
    assert all(f"## {name}" in tables.schemes_in_full() for name in SCHEMES)
    assert all(f"`{name}`" in tables.layouts_table() for name in layouts.layouts())
    assert all(f"## {name}" in tables.machines_in_full() for name in hardware.machines())
    assert all(f"`{error.__name__}`" in tables.errors_table() for error in tables.subclasses(HalveError))


def test_environment_variables(tables):
    sources = [*(ROOT / "src").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    used = {name for path in sources for name in re.findall(r"[\"'](HALVE_[A-Z_]+)[\"']", path.read_text())}
    assert used >= {"HALVE_CACHE", "HALVE_ISA", "HALVE_REQUIRE_NATIVE"}
    assert used == tables.ENVIRONMENT.keys()


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text()):
            assert (page.parent / target).exists(), (page, target)


def test_every_page_is_in_both_languages():
    assert {page.with_name(page.name.replace(".zh.md", ".md")) for page in CHINESE} == ENGLISH - DECISIONS


@pytest.mark.parametrize("page", CHINESE, ids=lambda page: str(page.relative_to(DOCS)))
def test_chinese_pages_have_the_code_and_links_of_the_english_ones(page):
    def parts(path):
        text = path.read_text()
        code = re.findall(r"```.*?```", text, re.DOTALL)
        typed = [re.findall(r"^\$ .*", one, re.MULTILINE) if one.startswith("```console") else one for one in code]
        return typed, sorted(re.findall(r"\]\(([^)#]+)", text))

    english, chinese = parts(page.with_name(page.name.replace(".zh.md", ".md"))), parts(page)
    assert chinese[0] == english[0]
    if page.name != "index.zh.md":
        assert set(chinese[1]) <= set(english[1])
