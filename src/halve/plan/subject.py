"""What is planned for: a published model by name, a config.json, or a checkpoint on this disk."""

from dataclasses import dataclass
from typing import Any

from halve.checkpoint import hub
from halve.checkpoint.place import Place, content, place
from halve.checkpoint.source import open_checkpoint
from halve.checkpoint.url import Url
from halve.document import CONFIG_LIMIT, json_object
from halve.errors import CheckpointError
from halve.models import catalog
from halve.models.config_shape import shape_of
from halve.models.shape import Shape
from halve.plan.memory import stored_bytes


@dataclass(frozen=True, slots=True)
class Subject:
    """A model; ``stored`` are the exact bytes of its tensors where it lies at hand."""

    shape: Shape
    stored: int | None = None


def subject(model: str | Place) -> Subject:
    """The model that ``model`` names: a folder, GGUF file, config.json, ``org/name`` or a name of the catalogue.

    A folder or file may be a URL, of which the headers are read. Nothing is downloaded: ``org/name`` is looked for in
    the local cache, then in the catalogue. Raises UnknownNameError, which lists near matches, CheckpointError and
    UnsupportedError.
    """
    text, path = str(model), place(model)
    if path.suffix == ".json":
        return Subject(shape_of(_config(path), name=path.resolve().parent.name, source=text))
    found = path if isinstance(path, Url) or path.exists() else None
    if found is None and (parsed := hub.parse(text)) is not None:
        found = hub.cached(*parsed)
    if found is None:
        return Subject(catalog.find(text))
    try:
        checkpoint = open_checkpoint(found)
    except CheckpointError:  # a config without weights is enough, if there is one
        if not (found / "config.json").is_file():
            raise
        return Subject(shape_of(_config(found / "config.json"), name=path.name, source=text))
    try:
        return Subject(shape_of(checkpoint.config, name=path.name, source=text), stored_bytes(checkpoint))
    finally:
        checkpoint.close()


def _config(file: Place) -> dict[str, Any]:
    return json_object(content(file, CONFIG_LIMIT), file, hint="give a model's config.json")
