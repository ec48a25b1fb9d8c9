"""Take the pictures of `docs/how-to/web.md` from a running `halve web bf16 fp8 nvfp4a16` of the demo's model.

    python docs/web_pictures.py http://127.0.0.1:8000 docs/pictures

In the folder where it runs are the eval.json and inspect.json of that page. The picture of a job is taken while one
runs whose --log the server watches; without one it is left out.

Needs what `nox -s browser` needs.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

PICTURES: dict[str, tuple[str, dict[str, Any]]] = {  # name -> page, how it is looked at
    "web-formats": ("formats", {"height": 1500}),
    "web-block": ("formats?scheme=mxfp4", {"height": 1130, "card": "block"}),
    "web-talk": ("talk", {"height": 1330, "button": "Ask"}),
    "web-plan": ("plan?model=Llama-3.1-8B&hardware=H100-SXM,L4,B200&context=32768&tpot=0.05", {"height": 1130}),
    "web-report": ("report", {"height": 1490, "files": ["eval.json", "inspect.json"], "card": "cost"}),
    "web-silicon": ("silicon", {"height": 1120}),
    "web-progress": ("progress", {"height": 900, "job": True}),
    "web-phone": (
        "formats?format=fp16&code=11878",
        {"width": 390, "height": 844, "dark": True, "chinese": True, "card": "bits"},
    ),
}


def take(browser: Browser, address: str, page: str, look: dict[str, Any], file: Path) -> None:
    """One picture."""
    context = browser.new_context(
        viewport={"width": look.get("width", 1200), "height": look["height"]},
        color_scheme="dark" if look.get("dark") else "light",
        locale="zh-CN" if look.get("chinese") else "en-GB",
        reduced_motion="reduce",
    )
    shown = context.new_page()
    shown.goto(f"{address}/#/{page}", wait_until="networkidle")
    if "button" in look:
        _press(shown, look["button"])
    if "files" in look:
        shown.set_input_files("input[type=file]", look["files"])
        shown.locator("figure svg").first.wait_for()
    if look.get("job") and not shown.locator("progress").count():
        context.close()
        return
    if "card" in look:
        shown.locator(f"[aria-labelledby={look['card']}]").evaluate("card => card.scrollIntoView()")
    shown.wait_for_timeout(500)
    shown.screenshot(path=file)
    context.close()


def _press(page: Page, button: str) -> None:
    page.get_by_role("button", name=button).click()
    page.locator(f"button:has-text('{button}'):enabled").wait_for()


def main(address: str, folder: str) -> None:
    """All of them."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, (page, look) in PICTURES.items():
            take(browser, address.rstrip("/"), page, look, Path(folder) / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
