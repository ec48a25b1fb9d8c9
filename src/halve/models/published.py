"""Geometry of published models, one row each. Sources: config.json in the named repository on huggingface.co."""

from pathlib import Path

from halve.errors import UnknownNameError
from halve.models.families import read_geometry
from halve.models.geometry import Geometry

_ROWS: tuple[Geometry, ...] = (
    Geometry(
        name="Llama-2-7B",
        hidden=4096,
        intermediate=11008,
        layers=32,
        heads=32,
        kv_heads=32,
        head_dim=128,
        vocab=32000,
        source="meta-llama/Llama-2-7b-hf",
    ),
    Geometry(
        name="Llama-3.1-8B",
        hidden=4096,
        intermediate=14336,
        layers=32,
        heads=32,
        kv_heads=8,
        head_dim=128,
        vocab=128256,
        source="meta-llama/Llama-3.1-8B",
    ),
    Geometry(
        name="Qwen3-8B",
        hidden=4096,
        intermediate=12288,
        layers=36,
        heads=32,
        kv_heads=8,
        head_dim=128,
        vocab=151936,
        qk_norm=True,
        source="Qwen/Qwen3-8B",
    ),
    Geometry(
        name="Qwen2.5-7B",
        hidden=3584,
        intermediate=18944,
        layers=28,
        heads=28,
        kv_heads=4,
        head_dim=128,
        vocab=152064,
        qkv_bias=True,
        source="Qwen/Qwen2.5-7B",
    ),
    Geometry(
        name="Llama-3.1-70B",
        hidden=8192,
        intermediate=28672,
        layers=80,
        heads=64,
        kv_heads=8,
        head_dim=128,
        vocab=128256,
        source="meta-llama/Llama-3.1-70B",
    ),
    Geometry(
        name="SmolLM2-135M",
        hidden=576,
        intermediate=1536,
        layers=30,
        heads=9,
        kv_heads=3,
        head_dim=64,
        vocab=49152,
        tied=True,
        source="HuggingFaceTB/SmolLM2-135M",
    ),
)
PUBLISHED: dict[str, Geometry] = {row.name: row for row in _ROWS}

# What people call a size -> the nominal number of weights, and the models that go by it.
SIZES: dict[str, tuple[int, tuple[str, ...]]] = {"7b": (7_000_000_000, ("Llama-2-7B", "Llama-3.1-8B", "Qwen3-8B"))}


def models() -> list[str]:
    """Every size and name that `find` knows."""
    return [*SIZES, *PUBLISHED]


def find(model: str) -> tuple[int, tuple[Geometry, ...]]:
    """The nominal number of weights, and the geometries that ``model`` stands for.

    ``model`` is a size (``7b``), the name of a published model in any case, or the path of a config.json or of a folder
    with one. For a single model the nominal number is its true one.

    Raises UnknownNameError, and what `read_geometry` raises.
    """
    if model.lower() in SIZES:
        nominal, names = SIZES[model.lower()]
        return nominal, tuple(PUBLISHED[name] for name in names)
    by_lower = {name.lower(): geometry for name, geometry in PUBLISHED.items()}
    geometry = by_lower.get(model.lower())
    if geometry is None:
        path = Path(model)
        if not path.exists() and path.suffix != ".json":
            raise UnknownNameError("model", model, models())
        geometry = read_geometry(path)
    return geometry.count, (geometry,)
