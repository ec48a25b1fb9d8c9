"""The frame of `halve web`: files, headers, texts, and what hostile clients try."""

import base64
import hashlib
import json
import re
from importlib.resources import files

import pytest

pytest.importorskip("fastapi", reason="the extra `web` is not installed")
pytest.importorskip("prometheus_client", reason="the extra `web` is not installed")
pytest.importorskip("uvicorn", reason="the extra `web` is not installed")

from tiny.server import serving

STATIC = files("halve.web") / "static"
VENDOR = STATIC / "vendor"
TEXTS = sorted(file.name for file in (STATIC / "text/en").iterdir())


@pytest.fixture(scope="module")
def client():
    with serving({}, pages=True) as client:
        yield client


def test_the_page_and_everything_that_it_names(client):
    status, page = client.request("GET", "/")
    assert status == 200
    for path in re.findall(r'(?:href|src)="(static/[^"]+)"', page):
        assert client.request("GET", f"/{path}")[0] == 200, path
    for module in STATIC.glob("**/*.js"):
        for named in re.findall(r'from "(\.[^"]+)"', module.read_text()):
            assert (module.parent / named).is_file(), f"{module.name} imports {named}"


def test_nothing_comes_from_elsewhere_and_no_page_frames_it(client):
    for path in ("/", "/static/main.js", "/api/formats"):
        headers = client.headers(path)
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers
    for file in (file for kind in ("js", "css", "html") for file in STATIC.rglob(f"*.{kind}")):
        if file.parent == VENDOR:
            continue
        assert not re.findall(r"https?://(?!www\.w3\.org/)", file.read_text()), file
        assert "innerHTML" not in file.read_text(), file


def test_the_policy_admits_the_style_of_the_chart_library(client):
    library = (VENDOR / "plot.min.js").read_text()
    name = re.search(r'"(plot-[0-9a-f]{6})"', library)[1]
    style = re.search(r'append\("style"\)\.text\(`(:where\(\.\$\{c\}\).*?)`', library)[1]
    style = style.replace("${c}", name).replace("\\n", "\n")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in client.headers("/")["content-security-policy"]


def test_files_of_others_are_as_they_were_published():
    listed = re.findall(r"^\| (\S+\.js) \|.*\| ([0-9a-f]{64}) \|$", (VENDOR / "README.md").read_text(), re.MULTILINE)
    assert sorted(name for name, _ in listed) == sorted(file.name for file in VENDOR.glob("*.js"))
    for name, digest in listed:
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest
        assert (VENDOR / name.replace(".min.js", ".LICENSE")).is_file()


@pytest.mark.parametrize("name", TEXTS)
def test_both_languages_say_the_same(name):
    english, chinese = (json.loads((STATIC / "text" / language / name).read_text()) for language in ("en", "zh"))
    assert list(english) == list(chinese)
    for key, text in english.items():
        assert text, key
        assert sorted(re.findall(r"\{(\w+)\}", text)) == sorted(re.findall(r"\{(\w+)\}", chinese[key])), key


@pytest.mark.parametrize(
    "path",
    ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2f..%2fapp.py", "/static//etc/passwd", "/api/none"],
)
def test_no_file_but_the_packaged_ones(client, path):
    status, body = client.request("GET", path)
    assert status == 404
    assert "import" not in body


def test_the_key_of_the_server_is_that_of_the_data(client):
    with serving({}, pages=True, api_key="secret") as locked:
        assert locked.request("GET", "/")[0] == 200
        assert locked.request("GET", "/api/formats")[0] == 401
        assert locked.request("GET", "/api/formats", authorization="Bearer secret")[0] == 200
    assert client.request("GET", "/api/formats", host="evil.example")[0] == 421


def test_a_fault_of_ours_is_said_in_words(client, monkeypatch):
    def broken():
        raise ZeroDivisionError

    monkeypatch.setattr("halve.formats.info.describe_all", broken)
    status, body = client.request("GET", "/api/formats")
    assert status == 500
    assert json.loads(body)["error"]["message"] == "internal error: ZeroDivisionError"
    monkeypatch.undo()
    assert client.request("GET", "/api/formats")[0] == 200
