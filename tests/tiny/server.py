"""A server on a free port of this machine, in a thread of its own."""

import http.client
import json
import threading
import time
import urllib.request
from contextlib import contextmanager

import uvicorn

from halve.serve.app import Server
from halve.web.app import add_pages


class Client:
    """Requests to ``port``; `server` is what answers them."""

    def __init__(self, server, port):
        self.server, self.port = server, port

    def request(self, method, path, body=None, **headers):
        """Status, and the body as text."""
        connection = http.client.HTTPConnection("localhost", self.port, timeout=30)
        try:
            data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, data, {"content-type": "application/json"} | named)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def headers(self, path):
        """Those of an answer, by their names in small letters."""
        with urllib.request.urlopen(f"http://localhost:{self.port}{path}", timeout=30) as response:
            return {name.lower(): value for name, value in response.headers.items()}

    def post(self, path, body, **headers):
        """Status and the JSON answer."""
        status, text = self.request("POST", path, body, **headers)
        return status, json.loads(text)

    def stream(self, path, body):
        """The JSON objects of an event stream."""
        status, text = self.request("POST", path, body | {"stream": True})
        assert status == 200, text
        events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
        assert events.pop() == "[DONE]"
        return [json.loads(event) for event in events]

    def idle(self, seconds=20):
        """Wait until nothing is under way; whether that came about."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            text = self.server.metrics.text().decode()
            if "halve_kv_tokens 0.0" in text and "halve_queued_requests 0.0" in text:
                return True
            time.sleep(0.01)
        return False


@contextmanager
def serving(models, *, pages=False, watched=(), **options):
    """Serve ``models`` by name; ``pages``: and those of `halve web`, ``watched`` logs among them."""
    server = Server(models, **options)
    if pages:
        add_pages(server, watched=watched)
    running = uvicorn.Server(uvicorn.Config(server.app, port=0, log_level="critical", ws="none", lifespan="off"))
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        while not running.started:
            time.sleep(0.005)
        yield Client(server, running.servers[0].sockets[0].getsockname()[1])
    finally:
        running.should_exit = True
        thread.join()
        server.close()
