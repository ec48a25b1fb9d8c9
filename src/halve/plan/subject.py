"""What is planned for: a published model by name, a config.json, or a checkpoint on this disk."""

from dataclasses import dataclass
from pathlib import Path

from halve.checkpoint import hub
from halve.checkpoint.source import open_checkpoint
from halve.errors import CheckpointError
from halve.models import catalog
from halve.models.config_shape import shape_of
from halve.models.families import read_config
from halve.models.shape import Shape
from halve.plan.memory import stored_bytes


@dataclass(frozen=True, slots=True)
class Subject:
    """A model; ``stored`` are the exact bytes of its tensors where it lies on this disk."""

    shape: Shape
    stored: int | None = None


def subject(model: str | Path) -> Subject:
    """The model that ``model`` names: a folder, GGUF file, config.json, ``org/name`` or a name of the catalogue.

    Nothing is downloaded: ``org/name`` is looked for in the local cache, then in the catalogue. Raises
    UnknownNameError, which lists near matches, CheckpointError and UnsupportedError.
    """
    text, path = str(model), Path(model)
    if path.suffix == ".json":
        return Subject(shape_of(read_config(path), name=path.resolve().parent.name, source=text))
    found = path if path.exists() else None
    if found is None and (parsed := hub.parse(text)) is not None:
        found = hub.cached(*parsed)
    if found is None:
        return Subject(catalog.find(text))
    try:
        checkpoint = open_checkpoint(found)
    except CheckpointError:  # a config without weights is enough, if there is one
        if not (found / "config.json").is_file():
            raise
        return Subject(shape_of(read_config(found / "config.json"), name=path.name, source=text))
    try:
        return Subject(shape_of(checkpoint.config, name=path.name, source=text), stored_bytes(checkpoint))
    finally:
        checkpoint.close()
