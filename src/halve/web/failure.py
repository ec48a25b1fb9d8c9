"""Errors as the pages show them: what went wrong, and what to do about it."""

from typing import Any

from fastapi.responses import JSONResponse

from halve.errors import BusyError, ExpiredError, HalveError, UnknownNameError


def failure(error: HalveError) -> JSONResponse:
    """The answer to a request that has failed: always the request's fault, which asked for the work and its inputs."""
    match error:
        case UnknownNameError():
            status = 404
        case BusyError():
            status = 429
        case ExpiredError():
            status = 408
        case _:
            status = 400
    return JSONResponse({"error": said(error)}, status)


def said(error: HalveError) -> dict[str, str]:
    """``error`` as JSON-ready values."""
    return {"message": str(error), "hint": error.hint, "kind": type(error).__name__}


def body(message: str, *, hint: str = "", kind: str = "RequestError") -> dict[str, Any]:
    """The body of an answer to what was no request at all, or of another ``kind``."""
    return {"error": {"message": message, "hint": hint, "kind": kind}}
