"""Connections that send nothing, or a head byte by byte, end; whole requests are answered, one after the other."""

import socket
import threading
import time

import pytest

pytest.importorskip("uvicorn", reason="the extra serve installs it")
from halve.errors import UnsupportedError
from halve.serve.http import listen, server
from halve.serve.limits import Limits

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def application(scope, _receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture(scope="module")
def address():
    listener = listen("127.0.0.1", 0)
    running = server(application, Limits(receive_seconds=0.5))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    yield listener.getsockname()
    running.should_exit = True
    thread.join(10)
    assert not thread.is_alive()


def until_closed(connection):
    """What comes, and after how many seconds the connection ends."""
    began, received = time.monotonic(), b""
    while part := connection.recv(4096):
        received += part
    return received, time.monotonic() - began


def test_whole_requests_are_answered(address):
    with socket.create_connection(address, timeout=10) as connection:
        for _ in range(3):
            connection.sendall(REQUEST)
            answer = b""
            while not answer.endswith(b"ok"):
                answer += connection.recv(4096)
            assert answer.startswith(b"HTTP/1.1 200")
            time.sleep(0.3)  # more in all than a head may take


@pytest.mark.parametrize("first", [b"", REQUEST[:20]], ids=["nothing", "half a head"])
def test_silence_ends_the_connection(address, first):
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(first)
        received, seconds = until_closed(connection)
    assert received == b""
    assert seconds < 5


def drip(connection):
    for byte in b"GET / HTTP/1.1\r\nX: " + b"x" * 100:
        connection.sendall(bytes([byte]))
        time.sleep(0.05)


def test_a_head_byte_by_byte_ends_the_connection(address):
    with socket.create_connection(address, timeout=10) as connection:
        began = time.monotonic()
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            drip(connection)
        assert time.monotonic() - began < 5


def test_half_a_head_after_a_whole_request_ends_the_connection(address):
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(REQUEST)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        connection.sendall(REQUEST[:20])
        received, seconds = until_closed(connection)
    assert received in (b"", b"ok")
    assert seconds < 5


def test_a_port_that_is_taken(address):
    with pytest.raises(UnsupportedError, match="cannot be listened at") as error:
        listen(*address)
    assert "--port 0" in error.value.hint
