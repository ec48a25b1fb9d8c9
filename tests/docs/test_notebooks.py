"""Notebooks are the pages on theory, word for word."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples"))
import notebooks  # noqa: E402

PAGES = notebooks.pages()


def test_there_is_one_for_each_page():
    assert len(PAGES) >= 8
    assert {page.stem for page in PAGES} == {path.stem for path in (ROOT / "examples").glob("*.ipynb")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_notebook_is_its_page(page):
    path = ROOT / "examples" / f"{page.stem}.ipynb"
    assert path.read_text(encoding="utf-8") == notebooks.written(page), "run python examples/notebooks.py"
    cells = notebooks.notebook(page)["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert code
    for source in code:
        if not source.startswith("%%bash"):
            ast.parse(source)
    assert all("exec=" not in "".join(cell["source"]) for cell in cells)
