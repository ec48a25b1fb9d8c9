"""The pages: static files, and the data that they show, on the application of a server."""

from collections.abc import Iterable
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from halve.errors import HalveError
from halve.serve.app import Server
from halve.serve.guard import Message, Receive, Scope, Send
from halve.web import formats, plan, progress, report, silicon, talk
from halve.web.failure import body, failure

_STATIC = Path(__file__).parent / "static"
# Nothing but this server's own files: no inline script, no other host. The hash is that of the one style element that
# Observable Plot writes into each chart.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'sha256-jSYQUrW7J0b3jPqhZP9C2Xh1PyJKHKXd4s0fpGGKrww='; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
_CACHING = (b"cache-control", b"no-cache")  # ask again: a newer halve has newer files


def add_pages(server: Server, *, watched: Iterable[Path] = ()) -> None:
    """Let ``server`` show the pages at ``/``, and answer their questions at ``/api``.

    ``watched`` are logs of jobs that the page Progress offers.
    """
    data = FastAPI(title="halve web", docs_url=None, redoc_url=None)
    data.state.server, data.state.watched = server, tuple(watched)
    for page in (formats, talk, plan, report, silicon, progress):
        data.include_router(page.router)
    data.exception_handler(HalveError)(lambda _, error: failure(error))
    data.exception_handler(RequestValidationError)(lambda _, error: _invalid(error))
    data.exception_handler(HTTPException)(lambda _, error: _refused(error))
    data.exception_handler(Exception)(lambda _, error: _broken(error))
    server.api.mount("/api", _Headed(data))
    server.api.mount("/static", _Headed(StaticFiles(directory=_STATIC), _CACHING))
    server.api.get("/", include_in_schema=False)(_index)


class _Headed:
    """ASGI middleware that adds the headers of every page."""

    def __init__(self, app: FastAPI | StaticFiles, *more: tuple[bytes, bytes]) -> None:
        self._app, self._more = app, more

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, with the headers."""

        async def headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS, *self._more]
            await send(message)

        await self._app(scope, receive, headed)


async def _index(request: Request) -> Response:
    del request
    headers = {name.decode(): value.decode() for name, value in [*_HEADERS, _CACHING]}
    return FileResponse(_STATIC / "index.html", headers=headers)


def _invalid(error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:]) or "body"
    return JSONResponse(body(f"{where}: {first['msg']}"[:1000]), 400)


def _refused(error: HTTPException) -> JSONResponse:
    return JSONResponse(body(str(error.detail)), error.status_code)


def _broken(error: Exception) -> JSONResponse:
    """A fault of halve; the server's log has the traceback."""
    kind, hint = type(error).__name__, "this is a fault of halve: please report what its terminal says"
    return JSONResponse(body(f"internal error: {kind}", hint=hint, kind=kind), 500)
