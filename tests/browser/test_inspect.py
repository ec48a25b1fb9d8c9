"""The page of `halve inspect` in a real browser, offline: every picture is there. Run by `nox -s browser`."""

import re
import shutil
import subprocess

import pytest

import halve
from halve.evaluate import inspection_page
from halve.pipeline.inspect import inspect
from tiny import llama

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


@pytest.mark.parametrize(("scheme", "pictures"), [("nvfp4a16", 6), ("bf16", 2)])
def test_pictures_are_drawn_without_a_complaint(tmp_path, scheme, pictures):
    browser = shutil.which("chromium")
    assert browser, "apt install chromium"
    halve.quantize(llama.write(tmp_path / "source"), tmp_path / "out", scheme)
    page = tmp_path / "page.html"
    inspection_page.write(page, inspect(tmp_path / "out", values=True))
    where = ["--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=10000"]
    done = subprocess.run(
        [browser, *FLAGS, *where, "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    drawn = re.findall(r'<div id="(\w+)" class="plotly-graph-div[^>]*>(?=<div class="plot-container)', done.stdout)
    assert len(drawn) == pictures, drawn
    assert "CONSOLE" not in done.stderr, done.stderr
