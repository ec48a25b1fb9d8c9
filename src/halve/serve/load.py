"""Models by the names that clients call them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from halve.errors import UnsupportedError
from halve.runtime.language_model import LanguageModel
from halve.runtime.packed import kernels
from halve.runtime.packed.kernels import Mode
from halve.runtime.packed.load import load_quickest
from halve.runtime.packed.model import PackedModel


def load_all(paths: Sequence[str], *, mode: Mode = "bf16", threads: int | None = None) -> dict[str, LanguageModel[Any]]:
    """Load each of ``paths``, packed where native code knows the model; all packed ones share the threads of one pool.

    Raises UnsupportedError for two of one name, and what `load_quickest` raises.
    """
    names = [Path(path).resolve().name if Path(path).exists() else path for path in paths]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UnsupportedError(f"two models are called {twice}", hint="rename a folder, or serve them apart")
    models: dict[str, LanguageModel[Any]] = {
        name: load_quickest(path, mode=mode, threads=threads) for name, path in zip(names, paths, strict=True)
    }
    packed = [model for model in models.values() if isinstance(model, PackedModel)]
    if len(packed) > 1:
        shared = kernels.pool(threads)
        for model in packed:
            model.use(shared)
    return models
