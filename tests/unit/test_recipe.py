"""A recipe reproduces what it was written from, and one that makes no sense says why."""

import json

import pytest
from click.testing import CliRunner

import halve
from halve.cli.main import cli
from halve.errors import RecipeError
from halve.schemes.recipe import Recipe, parse, read
from tiny import llama


def test_there_and_back():
    recipe = Recipe(
        scheme="nvfp4a16", layout="compressed-tensors", ignore=("re:.*up",), overrides=(("a", "fp8"), ("re:b", "mxfp8"))
    )
    assert parse("x", json.loads(json.dumps(recipe.to_json()))) == recipe


def test_overrides_as_a_mapping(tmp_path):
    (tmp_path / "r.yaml").write_text("scheme: mxfp4a16\noverrides:\n  're:.*down_proj': mxfp8a16\n")
    found = read(tmp_path / "r.yaml")
    assert found.overrides == (("re:.*down_proj", "mxfp8a16"),)
    assert found.scheme_of("model.layers.0.mlp.down_proj.weight") == "mxfp8a16"
    assert found.scheme_of("model.layers.0.mlp.up_proj.weight") == "mxfp4a16"


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", "scheme: 4", "scheme: fp8\nnonsense: 1", "scheme: fp8\nignore: x", "scheme: fp8\noverrides: [a]",
     "scheme: fp8\noverrides: 3", "scheme: fp8\nlayout: 3", "scheme: fp8\non_nonfinite: maybe",
     "scheme: fp8\nignore: ['re:(']",
     "a: &a [*a]"],
)  # fmt: skip
def test_what_is_no_recipe(tmp_path, content):
    (tmp_path / "r.yaml").write_text(content)
    with pytest.raises(RecipeError) as raised:
        read(tmp_path / "r.yaml")
    assert raised.value.hint


def test_a_missing_file(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read"):
        read(tmp_path / "none.yaml")


def test_halve_json_is_a_recipe(tmp_path):
    source = llama.write(tmp_path / "source")
    halve.quantize(
        source, tmp_path / "a", "mxfp4a16", overrides=[("re:.*down_proj", "mxfp8a16")], ignore=["re:.*o_proj"]
    )
    run = CliRunner().invoke(
        cli, ["quantize", str(source), str(tmp_path / "b"), "--recipe", str(tmp_path / "a" / "halve.json")]
    )
    assert run.exit_code == 0, run.stderr
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_something_must_be_said(tmp_path):
    run = CliRunner().invoke(cli, ["quantize", "x", str(tmp_path / "b")])
    assert run.exit_code == 2
    assert "--scheme" in run.stderr
