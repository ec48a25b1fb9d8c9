"""Write the pages on theory as notebooks beside this file: python examples/notebooks.py.

The pages are the source: text becomes cells of Markdown, code that runs when the site is built becomes cells of code.
"""

import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PAGES = HERE.parent / "docs" / "theory"
_CODE = re.compile(r'^```(python|bash) exec="on"[^\n]*\n(.*?)^```$', re.DOTALL | re.MULTILINE)
_PICTURE = re.compile(r"python examples/figures\.py (\w+)\n")
_FOLDED = re.compile(r"^\?\?\? [^\n]*\n(?:\n|    [^\n]*\n?)*", re.MULTILINE)


def pages() -> list[Path]:
    """The English pages, each of which becomes a notebook of its name."""
    return sorted(page for page in PAGES.glob("*.md") if not page.name.endswith(".zh.md"))


def notebook(page: Path) -> dict[str, Any]:
    """The notebook of a page, in version 4.5 of the format, without outputs."""
    cells: list[dict[str, Any]] = []

    def add(kind: str, source: str) -> None:
        if source.strip():
            code = {"execution_count": None, "outputs": []} if kind == "code" else {}
            number = f"{page.stem}-{len(cells)}"
            cells.append(
                {
                    "cell_type": kind,
                    "id": number,
                    "metadata": {},
                    "source": source.strip("\n").splitlines(keepends=True),
                }
                | code
            )

    text = _FOLDED.sub("[training.py](training.py)\n", page.read_text(encoding="utf-8"))
    end = 0
    for found in _CODE.finditer(text):
        add("markdown", _linked(text[end : found.start()]))
        add("code", _cell(*found.groups()))
        end = found.end()
    add("markdown", _linked(text[end:]))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def written(page: Path) -> str:
    """The notebook's file."""
    return json.dumps(notebook(page), indent=1, ensure_ascii=False) + "\n"


def _cell(language: str, code: str) -> str:
    """A block as a cell: Python, a picture, or what a shell types in the folder of the notebooks."""
    if language == "python":
        return code
    if drawn := _PICTURE.fullmatch(code):
        return f"import figures\n\nfigures.{drawn[1]}()"
    return f"%%bash\n{code.replace('examples/', '')}"


def _linked(text: str) -> str:
    """Links to pages, as they are reached from here."""
    return re.sub(r"\]\((?!https?:|training\.py)([^)]+)\)", r"](../docs/theory/\1)", text)


def main() -> None:
    """Write all."""
    for page in pages():
        (HERE / f"{page.stem}.ipynb").write_text(written(page), encoding="utf-8")


if __name__ == "__main__":
    main()
