"""`halve web` as people use it: every page's main path, links, errors, keys, languages, colours, widths."""

import itertools
import re

import pytest

pytest.importorskip("fastapi", reason="the extra `web` is not installed")
pytest.importorskip("prometheus_client", reason="the extra `web` is not installed")
pytest.importorskip("uvicorn", reason="the extra `web` is not installed")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed: nox -s browser")

from playwright.sync_api import expect

from halve.runtime.load import load
from tiny import llama, speaker
from tiny.server import serving

PAGES = ["formats", "talk"]
LOOKS = list(itertools.product(["en", "zh"], ["light", "dark"], [390, 1200]))  # language, scheme, width


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    said = {"wide": "Hi, you", "narrow": "Hi, men"}
    return {name: load(llama.write_talker(folder / name, says, template=llama.TEMPLATE)) for name, says in said.items()}


@pytest.fixture(scope="module")
def address(models):
    with serving(models, pages=True) as client:
        yield f"http://localhost:{client.port}/"


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("look", LOOKS, ids=lambda look: "-".join(map(str, look)))
def test_every_page_in_every_look(opened, axe, address, name, look):
    language, scheme, width = look
    page = opened(f"{address}#/{name}", language=language, scheme=scheme, width=width)
    page.wait_for_load_state("networkidle")
    expect(page.locator(".canvas:empty")).to_have_count(0)
    assert page.locator("html").get_attribute("lang").startswith(language)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "wider than the screen"
    spoken = " ".join(page.locator("h1, h2, legend, label[for], summary, strong").all_text_contents())
    assert not re.search(r"\b[a-z]+_[a-z_]+\b", spoken), "a key that no dictionary has"
    assert axe(page) == []


def test_a_number_becomes_others(opened, address):
    page = opened(address, expect=["400"])
    row = page.locator("[aria-labelledby=becomes] tr", has=page.get_by_text("fp8_e4m3", exact=True))
    row.get_by_text("0.1015625").wait_for()
    page.get_by_label("Number", exact=True).fill("0.3")
    row.get_by_text("0.3125").wait_for()
    assert "x=0.3" in page.url
    page.get_by_label("Number", exact=True).fill("three")
    page.get_by_role("alert").get_by_text("'three' is not a number").wait_for()
    page.get_by_label("Number", exact=True).fill("nan")
    page.locator("[aria-labelledby=becomes] tr", has=page.get_by_text("fp4_e2m1")).get_by_text("NaN").wait_for()


def test_bits_are_flipped_by_click_and_by_keyboard(opened, address):
    page = opened(f"{address}#/formats?format=fp4_e2m1&code=1")
    card = page.locator("[aria-labelledby=bits]")
    card.get_by_text("0.5", exact=True).first.wait_for()
    card.get_by_role("button", name="sign, bit 0").click()
    card.get_by_text("-0.5", exact=True).first.wait_for()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    card.get_by_text("-3", exact=True).first.wait_for()
    assert "code=13" in page.url
    assert card.get_by_role("button", name="exponent, bit 1").get_attribute("aria-pressed") == "true"
    card.get_by_label("Format").select_option("fp32")
    assert card.locator(".bit").count() == 32
    card.get_by_role("button", name="sign, bit 0").click()
    expect(page).to_have_url(re.compile("code=2147483648"))


def test_formats_are_compared(opened, address):
    page = opened(f"{address}#/formats?compare=fp4_e2m1,int4&axis=linear&low=-6&high=6", expect=["400"])
    card = page.locator("[aria-labelledby=lines]")
    figures = card.locator("figure")
    figures.first.locator("svg").wait_for()
    assert figures.count() == 3
    first = figures.first
    first.locator("summary").click()
    cells = first.locator("tbody tr").first.locator("td").all_text_contents()
    assert cells == ["15", "-6  -4  -3  -2  -1.5  -1  -0.5  0  0.5  1  1.5  2  3  4  6"]
    card.get_by_label("fp6_e3m2").check()
    figures.nth(1).locator("tbody tr").nth(2).wait_for(state="attached")
    card.get_by_role("textbox", name="From").fill("7")
    card.get_by_role("alert").get_by_text("no interval").wait_for()


def test_a_block_and_its_scale(opened, address):
    page = opened(f"{address}#/formats?scheme=nvfp4&numbers=1,-2,3&largest=2688", expect=["400"])
    card = page.locator("[aria-labelledby=block]")
    card.get_by_text("Tensor scale", exact=True).wait_for()
    card.locator("figure summary").click()
    assert card.locator("figure tbody tr").count() == 3
    card.get_by_label("Scheme").select_option("mxfp4")
    card.get_by_label("Rule for the scale").select_option("floor")
    expect(page).to_have_url(re.compile("rule=floor"))
    card.get_by_label("Numbers of your own").fill("1, two")
    card.get_by_role("alert").get_by_text("'two' is not a number").wait_for()


def test_a_link_reproduces_what_is_seen(opened, address):
    page = opened(f"{address}#/formats?x=7&rounding=toward_zero&format=fp6_e3m2&code=12&scheme=nf4&seed=5")
    assert page.get_by_label("Number", exact=True).input_value() == "7"
    assert page.get_by_label("Rounding").input_value() == "toward_zero"
    assert page.locator("[aria-labelledby=bits]").get_by_label("Format").input_value() == "fp6_e3m2"
    assert page.get_by_label("Scheme").input_value() == "nf4"
    assert page.get_by_label("Seed").input_value() == "5"


def test_two_models_answer_and_the_first_other_word_is_marked(opened, axe, address):
    page = opened(f"{address}#/talk?prompt=Who%3F")
    assert page.get_by_label("Prompt").input_value() == "Who?"
    page.get_by_role("button", name="Ask").click()
    page.get_by_text("Leaves wide at word 2.", exact=True).wait_for()
    assert page.locator(".reply").all_text_contents() == ["Hi, you", "Hi, men"]
    assert page.locator("mark").all_text_contents() == ["you", "men"]
    assert page.locator(".status").all_text_contents() == ["complete", "complete"]
    assert re.search(r"\d tokens/s", page.locator(".panel").first.text_content())
    assert axe(page) == []


def test_errors_are_shown_in_words(opened, address):
    page = opened(f"{address}#/talk?tokens=0", expect=["400"])
    page.get_by_role("button", name="Ask").click()
    page.get_by_role("alert").get_by_text("max_tokens").wait_for()
    page.get_by_label("Most tokens").fill("5")
    page.get_by_label("Prompt").fill("x" * 100)  # more than the context
    page.get_by_role("button", name="Ask").click()
    page.get_by_role("alert").get_by_text("more than the context of 64").wait_for()


def test_a_server_that_is_gone_is_said_to_be(opened, models):
    with serving(models, pages=True) as client:
        page = opened(f"http://localhost:{client.port}/#/talk", expect=["ERR_CONNECTION"])
        page.get_by_role("button", name="Ask").wait_for()
    page.get_by_role("button", name="Ask").click()
    page.get_by_role("alert").get_by_text("The server does not answer.").wait_for()


def test_an_answer_is_stopped(opened, tmp_path):
    model = load(speaker.write(tmp_path / "speaker", max_position_embeddings=4096, num_hidden_layers=32))
    with serving({"speaker": model}, pages=True) as client:
        page = opened(f"http://localhost:{client.port}/#/talk?prompt=Hi&tokens=2000")
        page.get_by_role("button", name="Ask").click()
        expect(page.locator(".reply")).to_have_text(re.compile(r".{10}", re.DOTALL))
        page.get_by_role("button", name="Stop").click()
        page.locator(".status").get_by_text("stopped").wait_for()
        assert client.idle()
        assert page.get_by_role("button", name="Ask").is_enabled()


def test_without_a_model_the_page_says_how_to_load_one(opened, axe):
    with serving({}, pages=True) as client:
        page = opened(f"http://localhost:{client.port}/#/talk")
        page.get_by_text("halve web halve-demo/bf16 halve-demo/nvfp4a16").wait_for()
        assert axe(page) == []


def test_the_servers_key_is_asked_for(opened):
    with serving({}, pages=True, api_key="secret") as client:
        page = opened(f"http://localhost:{client.port}/", expect=["401"])
        page.get_by_role("textbox", name="This server wants its API key").fill("secret")
        page.keyboard.press("Enter")
        page.get_by_text("0.1015625").first.wait_for()
        page.wait_for_load_state("networkidle")


def test_language_and_colours_are_chosen_and_kept(opened, address):
    page = opened(f"{address}#/formats?x=0.7")
    page.get_by_role("button", name="中文").click()
    page.get_by_role("heading", name="数值格式").wait_for()
    assert page.get_by_label("数", exact=True).input_value() == "0.7"
    page.locator("#theme").click()
    page.locator("#theme").click()
    assert page.locator("html").get_attribute("data-theme") == "dark"
    page.reload()
    page.get_by_role("heading", name="数值格式").wait_for()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 21, 25)"


def test_a_keyboard_is_enough(opened, address):
    page = opened(address)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('section').getAttribute('aria-labelledby')") == "becomes"
