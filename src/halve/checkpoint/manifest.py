"""``halve.json``: what a checkpoint was made from, how, and the hash of every byte in it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import halve
from halve.checkpoint.base import TensorInfo
from halve.checkpoint.place import Place, content
from halve.document import TEXT_LIMIT, json_object
from halve.errors import CheckpointError
from halve.schemes import Scheme
from halve.schemes.recipe import Recipe

NAME = "halve.json"
_AGAIN = "quantize the checkpoint again"


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of ``halve.json``.

    A weight file is hashed in parts, its header and every tensor, so that several workers hash at once and damage is
    found by tensor.
    """

    source: dict[str, Any]  # name and content hash
    recipe: dict[str, Any]
    scheme: dict[str, Any]  # as bound: block size and scale type resolved
    files: dict[str, dict[str, Any]]  # name -> bytes, sha256 (of a weight file: of its header)
    tensors: dict[str, dict[str, Any]]  # name -> file, sha256
    not_finite: list[str] = field(default_factory=list)  # tensors kept because they hold NaN or Inf
    halve: str = halve.__version__

    def serialised(self) -> bytes:
        """The bytes of ``halve.json``: the fields, and a hash of them."""
        fields = asdict(self)
        digest = hashlib.sha256(json.dumps(fields).encode()).hexdigest()
        return (json.dumps(fields | {"sha256": digest}, indent=1) + "\n").encode()


def read(folder: Place) -> Manifest | None:
    """The manifest of ``folder``; None where there is none. Raises CheckpointError for a damaged one."""
    path = folder / NAME
    if not path.exists():
        return None
    try:
        raw = content(path, TEXT_LIMIT)
        fields = json_object(raw, path, hint=_AGAIN)
        fields.pop("sha256")
        manifest = Manifest(**fields)
        intact = manifest.serialised() == raw
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a halve manifest: {error}", hint=_AGAIN) from None
    if not intact:
        raise CheckpointError(f"{path} has been changed since it was written", hint=_AGAIN)
    return manifest


def content_hash(tensors: Mapping[str, TensorInfo], hashes: Mapping[str, str]) -> str:
    """Hash of a model's weights that does not depend on how they are spread over files."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        info = tensors[name]
        digest.update(f"{name}\0{info.dtype}\0{list(info.shape)}\0{hashes[name]}\n".encode())
    return digest.hexdigest()


def scheme_json(scheme: Scheme) -> dict[str, Any]:
    """``scheme`` as JSON-ready values."""
    return {"name": scheme.name, "weight": asdict(scheme.weight), "bpw": scheme.bpw}


def recipe_json(recipe: Recipe) -> dict[str, Any]:
    """``recipe`` as JSON-ready values."""
    return json.loads(json.dumps(recipe.to_json()))  # type: ignore[no-any-return]
