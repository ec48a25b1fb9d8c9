"""The page of `halve plan --html` in a real browser, offline: every picture is there. Run by `nox -s browser`."""

import re
import shutil
import subprocess
from html import escape

import pytest

import halve
from halve.evaluate import plan_page

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


@pytest.mark.parametrize(("hardware", "pictures"), [("all", ["cost", "frontier"]), (["RK3588"], ["frontier"])])
def test_pictures_are_drawn_without_a_complaint(tmp_path, hardware, pictures):
    browser = shutil.which("chromium")
    assert browser, "apt install chromium"
    model = "Llama-3.1-8B" if hardware == "all" else "Qwen3-0.6B"
    plan = halve.plan(model, hardware=hardware, context=4096)
    page = tmp_path / "page.html"
    plan_page.write(page, plan)
    where = ["--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=10000"]
    done = subprocess.run(
        [browser, *FLAGS, *where, "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    drawn = re.findall(r'<div id="(\w+)" class="plotly-graph-div[^>]*>(?=<div class="plot-container)', done.stdout)
    assert drawn == pictures
    assert plan.options[0].machine.name in done.stdout
    assert escape(plan.command, quote=False) in done.stdout
    assert "CONSOLE" not in done.stderr, done.stderr
