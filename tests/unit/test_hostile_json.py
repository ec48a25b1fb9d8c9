"""Text files that were made to take memory, time, or the program down."""

import json
import tracemalloc
from time import monotonic

import pytest

from halve.checkpoint.hf import INDEX, HfCheckpoint
from halve.errors import CheckpointError, RecipeError
from halve.models import families
from halve.models.config_shape import shape_of
from halve.runtime.text import Tokenizer
from halve.schemes import recipe
from tiny.families import config_of


@pytest.fixture
def indexed(tmp_path):
    def write(content):
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / INDEX).write_text(content)
        return tmp_path

    return write


def test_an_index_of_lists_is_not_parsed(indexed):
    content = '{"weight_map": [' + "[]," * (2 << 20) + "[]]}"
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="lists and objects, more than"):
        HfCheckpoint(indexed(content))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * len(content)


def test_the_last_of_many_keys_twice(indexed):
    keys = [f'"k{i}":"model-1.safetensors"' for i in range(100_000)]
    folder = indexed('{"weight_map": {' + ",".join([*keys, keys[-1]]) + "}}")
    began = monotonic()
    with pytest.raises(CheckpointError, match="'k99999' appears twice"):
        HfCheckpoint(folder)
    assert monotonic() - began < 10  # key by key, counting anew, it took minutes


@pytest.mark.parametrize(
    "changes",
    [
        {"head_dim": 1 << 60},
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": 10**400},
        {"rope_theta": 1e308},
        {"rope_theta": 10**400},
        {"layer_types": [[]] * 3},
    ],
    ids=str,
)
def test_sizes_beyond_all_models(changes):
    with pytest.raises(CheckpointError, match=f"config.json says {next(iter(changes))}"):
        families.decoder(config_of("gemma3") | changes, name="x")


@pytest.mark.parametrize(
    "changes", [{"num_hidden_layers": 10**9}, {"layer_types": "../x"}, {"layer_types": [[]] * 3}], ids=str
)
def test_shapes_beyond_all_models(changes):
    with pytest.raises(CheckpointError, match=f"config.json says {next(iter(changes))}"):
        shape_of(config_of("gemma3") | changes, name="x")


def test_a_tokenizer_that_panics(tmp_path):
    content = json.dumps({"model": {"vocab": {"a": 1, "b": 3, "\b": 0}, "merges": [["a", "b"]]}})
    with pytest.raises(CheckpointError, match="tokenizer.json cannot be read"):
        Tokenizer(tmp_path, {"tokenizer.json": content.encode()})


def test_aliases_are_not_spelled_out(tmp_path):
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    path = tmp_path / "recipe.yaml"
    path.write_text("\n".join([*lines, "recipe: {scheme: fp8, overrides: [*i]}"]))
    with pytest.raises(RecipeError, match="a list is no pair") as raised:
        recipe.read(path)
    assert len(str(raised.value)) < 500


def test_a_recipe_too_large_for_yaml(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("# " + "x" * (1 << 20) + "\n{scheme: fp8}")
    with pytest.raises(RecipeError, match="more than the 1048576 bytes"):
        recipe.read(path)
