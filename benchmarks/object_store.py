"""An S3-like server on this machine, moto's, which can be told to fail: `nox -s storage` installs what it needs.

python benchmarks/object_store.py        # prints what clients need in their environment, and serves
"""

import json
import logging
import os
import re
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self

from moto.s3.models import s3_backends
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

ACCOUNT, BUCKET = "123456789012", "bucket"
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class _Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept, as those of S3 are

    def log(self, *_: object) -> None:
        """Say nothing."""


class ObjectStore:
    """The server; a context.

    ``faults`` are what becomes of the next requests for data, one each: ``busy`` answers 503, ``drop`` breaks the
    connection in the middle of the answer, ``stall`` waits for `release` before it takes what is sent, None is sound.
    """

    def __init__(self) -> None:
        self.faults: deque[str | None] = deque()
        self.stalled, self.release = Event(), Event()
        self.requests: list[tuple[str, str, tuple[int, int] | None]] = []  # method, key, bytes
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = Thread(target=self._server.serve_forever, daemon=True)

    @property
    def environment(self) -> dict[str, str]:
        """What clients of it need in theirs."""
        return os.environ | self.access

    @property
    def access(self) -> dict[str, str]:
        """Where it is, and credentials."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def __enter__(self) -> Self:
        self._thread.start()
        self._backend.create_bucket(BUCKET, "us-east-1")
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def _backend(self) -> Any:
        return s3_backends[ACCOUNT]["aws"]

    def put(self, folder: Path, prefix: str) -> str:
        """Put the files of ``folder`` under ``prefix``; its URL."""
        for path in folder.iterdir():
            self._backend.put_object(BUCKET, f"{prefix}/{path.name}", path.read_bytes())
        return f"s3://{BUCKET}/{prefix}"

    def keys(self, prefix: str) -> list[str]:
        """Names under ``prefix``: of objects that are whole."""
        keys = self._backend.buckets[BUCKET].keys
        return sorted(key.removeprefix(f"{prefix}/") for key in keys if key.startswith(f"{prefix}/"))

    def get(self, prefix: str) -> dict[str, bytes]:
        """Name -> content of what is under ``prefix``."""
        return {name: self._backend.get_object(BUCKET, f"{prefix}/{name}").value for name in self.keys(prefix)}

    @property
    def uploads(self) -> int:
        """Multipart uploads that are not finished."""
        return len(self._backend.buckets[BUCKET].multiparts)

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, key = environ["REQUEST_METHOD"], environ["PATH_INFO"].removeprefix(f"/{BUCKET}/")
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", environ.get("HTTP_RANGE", ""))
        span = (int(asked[1]), int(asked[2]) + 1) if asked else None
        self.requests.append((method, key, span))
        fault = self.faults.popleft() if self.faults and (span or method == "PUT") else None
        if fault == "busy":
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start("503 Slow Down", [("Content-Type", "application/xml"), ("Content-Length", str(len(SLOW_DOWN)))])
            return [SLOW_DOWN]
        if fault == "stall":
            self.stalled.set()
            self.release.wait()
        if span and method == "GET" and (found := self._backend.get_object(BUCKET, key)) is not None:
            return self._range(found, span, environ, start, drop=fault == "drop")
        if fault == "drop":
            _break(environ)
        answer: Iterable[bytes] = self._moto(environ, start)
        return answer

    def _range(
        self, found: Any, span: tuple[int, int], environ: dict[str, Any], start: Callable[..., Any], *, drop: bool
    ) -> Iterable[bytes]:
        """The bytes ``span`` of an object. moto itself copies the whole object for each range."""
        begin, end = span
        with found.lock:
            found._value_buffer.seek(begin)  # noqa: SLF001
            content = found._value_buffer.read(end - begin)  # noqa: SLF001
        facts = {
            "Content-Length": str(len(content)),
            "Content-Range": f"bytes {begin}-{begin + len(content) - 1}/{found.size}",
            "ETag": found.etag,
            "Last-Modified": found.last_modified_RFC1123,
        }
        start(f"206 {HTTPStatus(206).phrase}", list(facts.items()))
        if not drop:
            return [content]
        return _broken(content, environ)


def _broken(content: bytes, environ: dict[str, Any]) -> Iterator[bytes]:
    yield content[: len(content) // 2]
    _break(environ)


def _break(environ: dict[str, Any]) -> None:
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    logging.disable()
    with ObjectStore() as store:
        print(json.dumps(store.access), flush=True)
        while True:
            time.sleep(3600)
