"""The site as it was built: whole, and readable from a disk without a network."""

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

SITE = Path(__file__).parents[2] / "build" / "site"
pytestmark = pytest.mark.skipif(not SITE.is_dir(), reason="nox -s docs builds it")


class References(HTMLParser):
    """What a page loads, where it leads, and the places in it that have a name."""

    def __init__(self, page):
        super().__init__()
        self.loaded, self.links, self.places = [], [], {"", "__skip"}
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.places |= {found[key] for key in ("id", "name") if found.get(key)}
        if tag in ("script", "img", "iframe", "source"):
            self.loaded.append(found.get("src"))
        elif tag == "link" and found.get("rel") in ("stylesheet", "icon"):
            self.loaded.append(found["href"])
        elif tag == "a" and found.get("href"):
            self.links.append(found["href"])


@pytest.fixture(scope="module")
def pages():
    return {page: References(page) for page in sorted(SITE.rglob("*.html")) if page.name != "404.html"}


def test_both_languages_are_there(pages):
    names = {str(page.relative_to(SITE)) for page in pages}
    assert len(names) > 60
    assert {f"zh/{name}" for name in names if not name.startswith("zh/")} == {n for n in names if n.startswith("zh/")}


def test_nothing_is_loaded_from_elsewhere(pages):
    for page, found in pages.items():
        for target in filter(None, found.loaded):
            assert not urlsplit(target).scheme, (page, target)
            assert (page.parent / unquote(urlsplit(target).path)).is_file(), (page, target)


def test_links_lead_to_a_page_and_a_place_in_it(pages):
    for page, found in pages.items():
        for target in found.links:
            parts = urlsplit(target)
            if not parts.scheme and not parts.netloc:
                other = (page.parent / unquote(parts.path)).resolve() if parts.path else page
                assert other.is_file(), (page, target)
                if other in pages:
                    assert unquote(parts.fragment) in pages[other].places, (page, target)


def test_every_block_gave_an_output(pages):
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert "Traceback (most recent call last)" not in text, page
        assert "Execution of" not in text, page
