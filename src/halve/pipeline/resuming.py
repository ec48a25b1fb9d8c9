"""Whether a job is the one that was begun, and what to say where it has been finished already."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import halve
from halve.checkpoint import manifest
from halve.checkpoint.base import Checkpoint
from halve.checkpoint.place import Place, sha256, stamp
from halve.errors import CheckpointError, OutputError
from halve.pipeline import workspace
from halve.pipeline.experts import seen
from halve.pipeline.plan import plan
from halve.pipeline.quantizing import QuantizeResult
from halve.schemes.recipe import parse


def described(checkpoint: Checkpoint, options: Mapping[str, Any], texts: Iterable[str]) -> dict[str, Any]:
    """What must be the same for a job to go on: halve, the files of the source, options and texts. JSON-ready."""
    source = [stamp(file) for file in checkpoint.files]
    calibrate = [sha256(p, p.stat().st_size) if (p := Path(t)).is_file() else t for t in texts]
    return {"version of halve": halve.__version__, "source": source, "calibrate": calibrate, **options}


def finished(checkpoint: Checkpoint, out: Place, options: Mapping[str, Any]) -> QuantizeResult | None:
    """The result of a job that was finished at ``out``; None where there is none. Reads no weights.

    Raises OutputError where it was done with other ``options``.
    """
    if (out / workspace.NAME).exists() or not (out / manifest.NAME).exists():
        return None
    try:
        found = manifest.read(out)
    except CheckpointError:
        found = None
    if found is None:
        raise OutputError(f"{out / manifest.NAME} is damaged", hint="remove the folder and quantize again")
    done = parse(str(out / manifest.NAME), found.recipe)
    searched = {"algorithm": "auto", "overrides": ()}  # what a job may find by itself
    if other := [
        name
        for name, asked in options.items()
        if asked not in (None, (), searched.get(name)) and getattr(done, name) != asked
    ]:
        raise OutputError(
            f"{out} holds a finished checkpoint with another {' and another '.join(other)}",
            hint="choose another folder, or remove it first",
        )
    job = plan(seen(checkpoint, done), done)
    return QuantizeResult(
        path=out,
        plan=job,
        bytes=job.file_bytes(),
        source_bytes=sum(t.source.nbytes for t in job.tensors),
        seconds=0.0,
        losses=(),
        warnings=("it was finished before: nothing was done; `halve verify` proves it",),
    )
