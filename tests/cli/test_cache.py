import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from halve.cli.main import cli
from halve.errors import OutputError
from halve.pipeline import cache


def run(*args, **options):
    return CliRunner().invoke(cli, ["cache", *args], **options)


@pytest.fixture
def folder(monkeypatch, tmp_path):
    path = tmp_path / "cache"
    monkeypatch.setenv("HALVE_CACHE", str(path))
    return path


@pytest.fixture
def filled(folder):
    cache.cache_dir()
    (folder / "model.gguf").write_bytes(bytes(1500))
    (folder / "hub" / "deep").mkdir(parents=True)
    (folder / "hub" / "deep" / "a").write_bytes(bytes(10))
    (folder / "hub" / "b").write_bytes(bytes(5))
    return folder


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("HALVE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.cache_path() == tmp_path / ".cache" / "halve"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache.cache_path() == Path("/x/halve")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert cache.cache_path() == tmp_path / ".cache" / "halve"
    monkeypatch.setenv("HALVE_CACHE", "~/mine")
    assert cache.cache_path() == tmp_path / "mine"


def test_an_empty_cache(folder):
    assert run().stdout == f"nothing in {folder}\n"
    assert json.loads(run("--json").stdout) == {"path": str(folder), "bytes": 0, "entries": []}
    assert run("--clear").exit_code == 0
    assert not folder.exists()


def test_listing(filled):
    text = run().stdout
    assert text.splitlines()[0] == f"1.5 kB in {filled}"
    assert json.loads(run("--json").stdout) == {
        "path": str(filled),
        "bytes": 1515,
        "entries": [{"name": "hub/", "files": 2, "bytes": 15}, {"name": "model.gguf", "files": 1, "bytes": 1500}],
    }


def test_clear_asks(filled):
    result = run("--clear", input="n\n")
    assert result.exit_code == 1
    assert "Delete 1.5 kB" in result.stderr
    assert (filled / "model.gguf").exists()
    result = run("--clear", input="")
    assert result.exit_code == 1
    assert "hint: where nobody can answer, say --yes" in result.stderr
    assert (filled / "model.gguf").exists()
    assert run("--clear", input="y\n").exit_code == 0
    assert [item.name for item in filled.iterdir()] == [cache.TAG]


def test_clear_without_asking(filled):
    outside = filled.parent / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    (filled / "link").symlink_to(outside)
    result = run("--clear", "--yes", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["entries"][-1]["name"] == "model.gguf"
    assert "deleted 1." in result.stderr
    assert [item.name for item in filled.iterdir()] == [cache.TAG]
    assert (outside / "precious").exists()


def test_a_folder_that_halve_did_not_make_is_never_emptied(folder):
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    cache.cache_dir()
    result = run("--clear", "--yes")
    assert result.exit_code == 1
    assert "was not made by halve" in result.stderr
    assert (folder / "thesis.tex").exists()


def test_a_cache_that_cannot_be_made(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HALVE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OutputError, match="cannot be used") as caught:
        cache.cache_dir()
    assert "HALVE_CACHE" in caught.value.hint
    monkeypatch.setenv("HALVE_CACHE", str(tmp_path / "file"))
    result = run()
    assert result.exit_code == 1
    assert "cannot be read" in result.stderr
