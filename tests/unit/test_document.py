"""Files that are read whole are read up to a limit, and JSON only where it does not fill the memory."""

import os
import tracemalloc
from pathlib import Path

import pytest

from halve import document
from halve.checkpoint import hub, manifest
from halve.cli.main import cli
from halve.errors import CheckpointError, HalveError, OutputError
from halve.evaluate import text
from halve.models import families
from halve.pipeline import card, statistics, workspace
from halve.pipeline.journal import Journal
from halve.pipeline.statistics import Facts
from halve.plan import points
from halve.plan.subject import subject
from halve.runtime.text import json_file
from halve.silicon import liberty

DEEP = '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"
WIDE = '{"a": [' + "[]," * (1 << 20) + "[]]}"
FRESH = {"version": 1}


def sparse(path, nbytes=1 << 40):
    """A file of zeros that takes no disk."""
    path.touch()
    os.truncate(path, nbytes)
    return path


def test_a_file_at_the_limit_is_read(tmp_path):
    (tmp_path / "file").write_bytes(b"0123456789")
    assert document.read(tmp_path / "file", 10) == b"0123456789"
    with pytest.raises(CheckpointError, match="10 bytes, more than the 9 "):
        document.read(tmp_path / "file", 9)


def test_a_device_without_end_is_refused():
    with pytest.raises(CheckpointError, match="more than the 1000 "):
        document.read(Path("/dev/zero"), 1000)


def test_lines_end_as_python_reads_them(tmp_path):
    (tmp_path / "file").write_bytes("a\r\nb\rc\n\u00e9".encode())
    assert document.text(tmp_path / "file", 100) == (tmp_path / "file").read_text(encoding="utf-8")


READERS = {  # what reads a file of a name, in a folder
    "config.json": families.read_config,
    "plan/config.json": subject,
    "halve.json": lambda path: manifest.read(path.parent),
    "points.csv": lambda path: list(points.read(path)),
    "text.txt": text.read,
    "cells.lib": liberty.read,
}


@pytest.mark.parametrize("name", READERS)
def test_a_terabyte_is_refused_without_memory(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    sparse(path)
    tracemalloc.start()
    with pytest.raises(HalveError, match=r"1099511627776 bytes, more than the \d+ that such a file may have") as raised:
        READERS[name](path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert raised.value.hint
    assert peak < 8 << 20


@pytest.mark.parametrize("name", ["config.json", "plan/config.json", "halve.json"])
@pytest.mark.parametrize(("content", "why"), [(DEEP, "not valid JSON"), (WIDE, "lists and objects, more than")])
def test_deep_and_wide_json(tmp_path, name, content, why):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    with pytest.raises(CheckpointError, match=why):
        READERS[name](path)


@pytest.mark.parametrize("content", [DEEP, WIDE])
def test_deep_and_wide_files_of_a_checkpoint(content):
    with pytest.raises(CheckpointError, match="tokenizer_config.json"):
        json_file(Path("model"), {"tokenizer_config.json": content.encode()}, "tokenizer_config.json")
    with pytest.raises(CheckpointError, match="holds no statistics"):
        Facts.parse(Path("file"), {statistics.KIND: content})


def test_a_journal_of_a_terabyte(tmp_path):
    with pytest.raises(CheckpointError, match="more than the"):
        Journal(sparse(tmp_path / "journal"), lambda: None)


@pytest.mark.parametrize("line", [DEEP, WIDE])
def test_a_line_of_a_journal(tmp_path, line):
    good = '{"tensors": {"a": {}}, "entries": {"a": "0"}}'
    (tmp_path / "journal").write_text(f"{good}\n{line}\n{good}\n")
    journal = Journal(tmp_path / "journal", lambda: None)
    journal.close()
    assert [list(one.tensors) for one in journal.finished] == [["a"]]


@pytest.mark.parametrize("content", [DEEP, WIDE, "[]", "{"])
def test_the_description_of_a_job(tmp_path, content):
    (tmp_path / workspace.NAME).mkdir()
    (tmp_path / workspace.NAME / workspace.JOB).write_text(content)
    with pytest.raises(OutputError, match="is damaged"):
        workspace.Workspace(tmp_path, FRESH, resume=True)


def test_a_card_of_a_terabyte(tmp_path):
    sparse(tmp_path / "README.md")
    with pytest.raises(OutputError, match="cannot be added"):
        card.add_evaluation(tmp_path, None)


def test_a_reference_of_a_terabyte(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    refs = tmp_path / "models--a--b" / "refs"
    refs.mkdir(parents=True)
    sparse(refs / "main")
    assert hub.cached("a/b") is None


def test_numbers_of_a_terabyte(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["cast", str(sparse(tmp_path / "numbers")), "--to", "fp8_e4m3"])
    assert ended.value.code == 1
    assert "more than the" in capsys.readouterr().err
