"""HTTP/1.1 on a socket, by uvicorn, which here waits only so long for the head of a request."""

import asyncio
import socket

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from halve.errors import UnsupportedError
from halve.serve.guard import App
from halve.serve.limits import Limits

_KEEP_ALIVE = 30  # seconds between two requests


def listen(host: str, port: int) -> socket.socket:
    """A socket at which clients may knock before the server is there. Raises UnsupportedError."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UnsupportedError(
            f"{host}:{port} cannot be listened at: {error.strerror}", hint="--port 0 takes any free port"
        ) from None


def address(listener: socket.socket) -> str:
    """Where a client finds what listens there."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def server(app: App, limits: Limits) -> uvicorn.Server:
    """What serves ``app``, by its ``run(sockets=[...])``; `Guard` sees to what comes after the head."""

    class InTime(H11Protocol):
        """A connection that ends where a request's first line and headers are not whole after a while."""

        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._stop()

        def _wait(self) -> None:
            if self.conn.their_state is not h11.IDLE:
                self._stop()
            elif self._late is None:
                self._late = self.loop.call_later(limits.receive_seconds, self.transport.close)

        def _stop(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

    return uvicorn.Server(
        uvicorn.Config(app, http=InTime, log_level="warning", timeout_keep_alive=_KEEP_ALIVE, server_header=False)
    )
