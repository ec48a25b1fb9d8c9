"""A hub on loopback: the part of the Hugging Face API that downloading a repository takes."""

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
API = re.compile(r"/api/models/(?P<repository>[^/]+/[^/]+)(?:/(?P<what>revision|tree)/(?P<revision>[^?]+))?(?:\?.*)?")
FILE = re.compile(r"/(?P<repository>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)")


@dataclass
class Hub:
    """What the hub holds and how it behaves; ``log`` tells what it was asked for."""

    repositories: dict = field(default_factory=dict)  # org/name -> {file name: content}
    revisions: tuple = ("main", "v2", COMMIT)
    gated: bool = False
    token: str = ""  # that every request needs
    break_after: dict = field(default_factory=dict)  # file name -> bytes after which the next transfer breaks
    log: list = field(default_factory=list)  # method, path, Range
    url: str = ""

    def downloads(self):
        """Names of the files whose content was asked for."""
        return sorted(
            match["name"] for method, path, _ in self.log if method == "GET" and (match := FILE.fullmatch(path))
        )


@contextmanager
def fake_hub(**behaviour):
    hub = Hub(**behaviour)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, *, body):
            hub.log.append((self.command, self.path, self.headers.get("Range", "")))
            if match := API.fullmatch(self.path):
                self.api(**match.groupdict())
            elif match := FILE.fullmatch(self.path):
                self.file(**match.groupdict(), body=body)
            else:
                self.fail(404, "EntryNotFound")

        def allowed(self, repository, revision):
            if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self.fail(401, "")
            if repository not in hub.repositories:
                return self.fail(404, "RepoNotFound")
            if revision not in (None, *hub.revisions):
                return self.fail(404, "RevisionNotFound")
            return True

        def api(self, repository, what, revision):
            if not self.allowed(repository, revision):
                return
            files = hub.repositories[repository]
            if what == "tree":
                reply = [
                    {"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                    for n, c in files.items()
                ]
            else:
                reply = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
            self.send(200, json.dumps(reply).encode(), {"Content-Type": "application/json"})

        def file(self, repository, revision, name, *, body):
            if not self.allowed(repository, revision):
                return
            if hub.gated:
                self.fail(403, "GatedRepo")
                return
            content = hub.repositories[repository].get(name)
            if content is None:
                self.fail(404, "EntryNotFound")
                return
            headers = {
                "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
                "X-Repo-Commit": COMMIT,
                "Accept-Ranges": "bytes",
            }
            status, first = 200, 0
            if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
                status, first = 206, int(match[1])
                headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            cut = hub.break_after.pop(name, None) if body else None
            self.send(status, content[first:] if body else b"", headers, length=len(content) - first, cut=cut)

        def fail(self, status, code):
            self.send(status, b"", {"X-Error-Code": code, "X-Error-Message": code} if code else {})
            return False

        def send(self, status, content, headers, length=None, cut=None):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content) if length is None else length))
            self.end_headers()
            self.wfile.write(content[:cut])
            if cut is not None:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
