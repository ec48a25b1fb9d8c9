"""Plan, Report, Silicon and Progress in a real browser: main paths, links, errors in words, keys, looks."""

import itertools
import json
import re
import shlex

import pytest
from click.testing import CliRunner

pytest.importorskip("fastapi", reason="the extra `web` is not installed")
pytest.importorskip("prometheus_client", reason="the extra `web` is not installed")
pytest.importorskip("uvicorn", reason="the extra `web` is not installed")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed: nox -s browser")

from playwright.sync_api import expect

import halve
from halve.cli.main import cli
from halve.pipeline.inspect import inspect
from tiny import llama
from tiny.server import serving

PAGES = ["plan", "report", "silicon", "progress"]
LOOKS = [
    {"language": language, "scheme": scheme, "width": width}
    for language, scheme, width in itertools.product(["en", "zh"], ["light", "dark"], [390, 1200])
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results, a log, and files that are none."""
    folder = tmp_path_factory.mktemp("pages")
    source = llama.write(folder / "source")
    found = []
    for scheme in ("nvfp4a16", "w8a16"):
        halve.quantize(source, folder / scheme, scheme, log=folder / "job.log")
        found.append(halve.evaluate(folder / scheme, against=source, windows=2, window=16).to_json())
    plan = halve.plan("Llama-3.1-8B", hardware=["H100", "L4"]).to_json()
    looked = inspect(folder / "nvfp4a16", values=True).to_json()
    for name, content in {"eval": found, "inspect": looked, "plan": plan, "strange": {"a": 1}}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "cut.json").write_text('{"losses": [')
    return folder


@pytest.fixture(scope="module")
def address(folder):
    with serving({}, pages=True, watched=[folder / "job.log"]) as client:
        yield f"http://localhost:{client.port}/"


def looks_right(page, axe):
    page.wait_for_load_state("networkidle")
    expect(page.locator(".canvas:empty")).to_have_count(0)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "wider than the screen"
    spoken = " ".join(page.locator("h1, h2, h3, dt, legend, label[for], summary, strong, .label").all_text_contents())
    assert not re.search(r"\b[a-z]+_[a-z]+_[a-z_]+\b|\{\w+\}", spoken), "a key that no dictionary has"
    assert axe(page) == []


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("look", LOOKS, ids=lambda look: "-".join(map(str, look.values())))
def test_every_page_in_every_look(opened, axe, address, folder, name, look):  # noqa: PLR0917 - fixtures
    page = opened(f"{address}#/{name}", **look)
    if name == "report":
        page.set_input_files("input[type=file]", [folder / f"{one}.json" for one in ("eval", "inspect", "plan")])
        page.locator(".options").wait_for()
    if name == "progress":
        page.locator("progress").wait_for()
    looks_right(page, axe)


def test_a_plan_and_the_command_that_says_the_same(opened, address):
    page = opened(f"{address}#/plan")
    page.locator(".options > li").first.wait_for()
    page.get_by_label("Model").fill("Qwen3-8B")
    page.get_by_label("Hardware").select_option("L4")
    page.get_by_label("Precision").select_option("fp8_dynamic")
    page.get_by_label("Context, tokens").select_option("16384")
    page.get_by_label("Requests at once").fill("4")
    page.get_by_label("Each token within, ms").fill("200")
    command = page.locator(".copyable code").first
    expect(command).to_have_text(
        "halve plan Qwen3-8B --hardware L4 --scheme fp8_dynamic --context 16k --batch 4 --tpot 0.2s"
    )
    printed = CliRunner().invoke(cli, [*shlex.split(command.text_content())[1:], "--json"], catch_exceptions=False)
    (option,) = json.loads(printed.stdout)["options"]
    shown = page.locator(".options > li")
    expect(shown).to_have_count(1)
    used, capacity = (option[name] for name in ("memory_bytes", "device_bytes"))
    expect(shown).to_contain_text(f"{used['total'] / 1e9:.3g} of {capacity / 1e9:.3g} GB")
    expect(shown.locator(".figure").nth(1)).to_have_text(f"{option['tokens_per_second_per_device']:.3g}")


def test_a_link_reproduces_a_plan(opened, address):
    page = opened(f"{address}#/plan?model=Qwen3-8B&hardware=L4,H100-SXM&scheme=w4a16&context=4096&batch=2&tpot=0.05")
    link = page.locator(".copyable code").nth(1).text_content()
    other = opened(link)
    expect(other.locator(".copyable code").first).to_have_text(page.locator(".copyable code").first.text_content())
    assert other.get_by_label("Each token within, ms").input_value() == "50"
    assert other.get_by_role("button", name="Remove L4").count() == 1
    expect(other.locator(".options > li")).to_have_count(2)
    other.get_by_role("button", name="Remove L4").press("Enter")
    expect(other.locator(".options > li")).to_have_count(1)
    expect(other.get_by_role("combobox", name="Hardware")).to_be_focused()
    expect(other).to_have_url(re.compile(r"hardware=H100-SXM&"))


def test_a_plan_that_cannot_be_is_said_to_be_none(opened, address):
    page = opened(f"{address}#/plan?hardware=RK3588", expect=["400", "404"])
    page.locator(".options").wait_for()
    page.get_by_label("Model").fill("Llama-3.1-405B")
    page.get_by_role("alert").get_by_text("fits nowhere").wait_for()
    page.get_by_label("Model").fill("Lama-3.1-8B")
    page.get_by_role("alert").get_by_text("Llama-3.1-8B").first.wait_for()


def test_what_machines_support(opened, address):
    page = opened(f"{address}#/plan?hardware=B200,L4")
    card = page.locator("[aria-labelledby=matrix]")
    expect(card.locator("tbody tr")).to_have_count(2)
    card.get_by_label("What machines support").select_option("schemes")
    row = card.locator("tbody tr", has_text="B200")
    assert (
        row.locator(".level.native").count() > card.locator("tbody tr", has_text="L4").locator(".level.native").count()
    )
    assert "support=schemes" in page.url


def test_results_are_opened_drawn_and_closed(opened, address, folder):
    page = opened(f"{address}#/report")
    page.set_input_files("input[type=file]", [folder / "eval.json", folder / "inspect.json"])
    cloud = page.locator("[aria-labelledby=cost]")
    cloud.locator("svg").wait_for()
    expect(cloud.locator("[aria-label='All measured numbers'] tbody tr")).to_have_count(2)
    page.get_by_label("Loss").select_option("ppl")
    expect(page).to_have_url(re.compile("loss=ppl"))
    expect(page.locator("[aria-labelledby=layers] figure")).to_have_count(2)
    page.get_by_text("Codes of fp4_e2m1").first.wait_for()
    page.get_by_role("button", name="Close eval.json").click()
    expect(cloud).to_have_count(0)
    page.set_input_files("input[type=file]", folder / "plan.json")
    expect(page.locator(".options h3").first).to_be_visible()


def test_files_are_dropped(opened, address, folder):
    page = opened(f"{address}#/report")
    text = (folder / "eval.json").read_text()
    data = page.evaluate_handle(
        "text => { const d = new DataTransfer(); d.items.add(new File([text], 'dropped.json')); return d; }", text
    )
    page.locator(".drop").dispatch_event("drop", {"dataTransfer": data})
    page.get_by_text("dropped.json").wait_for()
    page.locator("[aria-labelledby=cost] svg").wait_for()


def test_other_files_are_refused_in_words(opened, axe, address, folder):
    page = opened(f"{address}#/report", expect=["400"])
    page.set_input_files("input[type=file]", [folder / "strange.json", folder / "cut.json", folder / "plan.json"])
    page.get_by_role("alert").get_by_text("strange.json is JSON, but no result").wait_for()
    page.get_by_role("alert").get_by_text("cut.json is not JSON, or was cut off").wait_for()
    expect(page.locator(".options").first).to_be_visible()
    assert axe(page) == []


def test_silicon_is_looked_at_from_all_sides(opened, address):
    page = opened(f"{address}#/silicon")
    page.locator("figure svg").wait_for()
    page.get_by_label("Circuit").select_option("mac")
    page.get_by_label("Cost").select_option("energy")
    page.get_by_label("Data").select_option("heavy")
    expect(page).to_have_url(re.compile("circuit=mac&cost=energy&data=heavy"))
    page.locator("figure summary").click()
    row = page.locator("figure tbody tr", has=page.get_by_role("rowheader", name="int8", exact=True))
    expect(row.first).to_contain_text("mac")
    printed = CliRunner().invoke(cli, ["silicon", "table", "--unit", "mac", "--json"], catch_exceptions=False)
    (energy,) = (one["energy"] for one in json.loads(printed.stdout) if one["format"] == "int8")
    expect(row.first).to_contain_text(f"{float(f'{energy:.4g}'):,g}")


def test_a_job_is_watched_while_it_grows(opened, axe, address, folder):
    log = folder / "growing.log"
    lines = (folder / "job.log").read_text().splitlines(keepends=True)
    lines = lines[: next(i for i, line in enumerate(lines) if '"event": "end"' in line) + 1]
    begun = [line for line in lines[:-1] if '"finish"' not in line and '"event": "stage"' not in line]
    read = [line for line in begun if '"event": "progress"' in line]
    log.write_text("".join(line for line in begun if line not in read) + read[0])
    log.rename(folder / "begun.log")
    page = opened(f"{address}#/progress", expect=["400"])
    page.get_by_label("Log file").fill(str(log))
    page.get_by_role("button", name="Watch").click()
    page.get_by_role("alert").get_by_text("No such file").wait_for()
    (folder / "begun.log").rename(log)
    page.get_by_role("heading", name="Quantizing to nvfp4a16").wait_for()
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.locator(".stages li.open")).to_have_count(1)
    assert axe(page) == []
    log.write_text("".join(lines))
    page.get_by_role("heading", name="Quantized to nvfp4a16").wait_for()
    expect(page.locator(".share")).to_have_text("100%")
    expect(page.locator(".stages li.done")).to_have_count(2)


def test_no_log_is_said_to_be_none(opened, address, folder):
    page = opened(f"{address}#/progress?path={folder / 'eval.json'}", expect=["400"])
    page.get_by_role("alert").get_by_text("is not the log of a job").wait_for()
    page.get_by_label("Log file").fill("nowhere.log")
    page.get_by_label("Log file").press("Enter")
    page.get_by_role("alert").get_by_text("No such file").wait_for()
