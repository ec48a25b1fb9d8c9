"""Data of the page Progress: jobs, as their logs tell of them."""

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from halve.errors import UnsupportedError
from halve.pipeline import job_state

router = APIRouter(prefix="/progress")


@router.get("")
def watched(request: Request) -> list[str]:
    """The files that ``halve web --watch`` names."""
    return [str(path) for path in request.app.state.watched]


@router.get("/job")
def job(request: Request, path: Annotated[str, Query(min_length=1, max_length=4096)]) -> dict[str, Any]:
    """The last job of a log. Only this machine's own pages may name a file; others see what is watched."""
    named = Path(path)
    if named not in request.app.state.watched and not request.app.state.server.local:
        raise UnsupportedError(f"{path} is not watched", hint="start the server with `halve web --watch FILE`")
    try:
        return job_state.read(named.expanduser()).to_json()
    except (ValueError, RuntimeError):  # a name that no file can have; no home
        raise UnsupportedError(f"{path!r} is no file name", hint="type the path of the log") from None
