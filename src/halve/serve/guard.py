"""What stands before the application: the size and pace of bodies, the API key, the name that is called."""

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from halve.serve.limits import Limits
from halve.serve.openai import error_body

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_LOCAL = ("localhost", "127.0.0.1", "[::1]")


class Guard:
    """ASGI middleware that reads a request's whole body before the application sees it.

    ``local``: only names of this machine are answered to, so that a web page whose host name is made to point at the
    loopback address (DNS rebinding) reads nothing.
    """

    def __init__(self, app: App, *, limits: Limits, api_key: str | None, local: bool) -> None:
        self._app, self._limits, self._local = app, limits, local
        self._key = None if api_key is None else f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what must not pass; let the rest through with its whole body read."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        refusal = self._refusal(scope["path"], headers)
        if refusal is not None:
            await _answer(send, *refusal)
            return
        try:
            async with asyncio.timeout(self._limits.receive_seconds):
                body = await self._body(receive)
        except TimeoutError:
            await _answer(send, 408, "the body of the request did not arrive in time")
            return
        if body is None:
            await _answer(send, 413, f"the body is larger than {self._limits.body} bytes")
            return
        unread = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return unread.pop() if unread else await receive()

        async def paced(message: Message) -> None:
            async with asyncio.timeout(self._limits.send_seconds):
                await send(message)

        await self._app(scope, replay, paced)

    def _refusal(self, path: str, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self._local and (host if host.endswith("]") else host.rpartition(":")[0] or host) not in _LOCAL:
            return 421, "this server answers to localhost only; --host makes it answer to others"
        given = headers.get(b"authorization", b"")
        if self._key is not None and path.startswith(("/v1", "/api")) and not secrets.compare_digest(given, self._key):
            return 401, "the API key is missing or wrong"
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > self._limits.body:
            return 413, f"the body is larger than {self._limits.body} bytes"
        return None

    async def _body(self, receive: Receive) -> bytes | None:
        """The whole body; None where it is too large."""
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return b"".join(parts)
            part = message.get("body", b"")
            parts.append(part)
            size += len(part)
            if size > self._limits.body:
                return None
            if not message.get("more_body", False):
                return b"".join(parts)


async def _answer(send: Send, status: int, message: str) -> None:
    body = json.dumps(error_body(message, "invalid_request_error")).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
