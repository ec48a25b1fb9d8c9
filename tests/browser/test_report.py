"""The report drawn in a real browser, offline: every chart is there, and nothing complains. Run by `nox -s browser`."""

import re
import shutil
import subprocess

import pytest

import halve
from halve.evaluate import report
from tiny import llama

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


@pytest.fixture(scope="module")
def browser():
    found = shutil.which("chromium")
    assert found, "apt install chromium"
    return found


def test_charts_are_drawn_without_a_complaint(browser, tmp_path):
    source = llama.write(tmp_path / "source")
    halve.quantize(source, tmp_path / "out", "nvfp4a16")
    page = tmp_path / "report.html"
    report.write(page, [halve.evaluate(tmp_path / "out", against=source, windows=2, prompt="Why?")])
    where = ["--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=10000"]
    done = subprocess.run(
        [browser, *FLAGS, *where, "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert len(re.findall(r'<svg class="main-svg"', done.stdout)) >= 3
    assert "CONSOLE" not in done.stderr, done.stderr
