"""Pages of `halve web` in Debian's chromium: each test has one of its own, and fails where the console complains."""

import shutil
from importlib.resources import files

import pytest

SERIOUS = ("serious", "critical")


@pytest.fixture(scope="session")
def chromium():
    """The browser, without a window."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: nox -s browser")
    found = shutil.which("chromium")
    assert found, "apt install chromium"
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium):
    """``opened(url, ...)`` shows a page; options: language (en, zh), scheme (light, dark), width, and complaints to
    ``expect``, by a word of each.
    """
    complaints = []
    expected = []
    contexts = []

    def open_page(url, *, language="en", scheme="light", width=1200, expect=()):
        expected.extend(expect)
        locale = {"en": "en-GB", "zh": "zh-CN"}[language]
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, locale=locale, reduced_motion="reduce"
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda message: complaints.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url)
        page.locator("h1").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [text for text in complaints if not any(word in text for word in expected)] == []


@pytest.fixture(scope="session")
def axe():
    """``axe(page)``: what axe-core finds serious or critical, by rule and element."""
    pytest.importorskip("axe_playwright_python", reason="axe-core is not installed: nox -s browser")
    source = (files("axe_playwright_python") / "axe.min.js").read_text()

    def findings(page):
        page.evaluate(source)
        violations = page.evaluate("async () => (await axe.run()).violations")
        return [
            (found["id"], node["target"], node["failureSummary"])
            for found in violations
            if found["impact"] in SERIOUS
            for node in found["nodes"]
        ]

    return findings
