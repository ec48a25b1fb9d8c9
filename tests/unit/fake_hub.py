"""A hub on loopback: the part of the Hugging Face API that downloading a repository takes."""

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tiny import llama

REPOSITORY = "org/tiny-llama"
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
        gets = (FILE.fullmatch(path) for method, path, _ in self.log if method == "GET")
        return sorted(match["name"] for match in gets if match)


class Handler(BaseHTTPRequestHandler):
    """Answers one client; ``server.hub`` says what."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        hub = self.server.hub
        hub.log.append((self.command, self.path, self.headers.get("Range", "")))
        match = API.fullmatch(self.path) or FILE.fullmatch(self.path)
        if match is None:
            self.refuse(404)
        elif hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            self.refuse(401)
        elif match["repository"] not in hub.repositories:
            self.refuse(404, "RepoNotFound")
        elif match["revision"] not in (None, *hub.revisions):
            self.refuse(404, "RevisionNotFound")
        elif match.re is API:
            self.api(match["repository"], match["what"])
        elif hub.gated:
            self.refuse(403, "GatedRepo")
        elif match["name"] not in hub.repositories[match["repository"]]:
            self.refuse(404, "EntryNotFound")
        else:
            self.file(match["name"], hub.repositories[match["repository"]][match["name"]])

    def api(self, repository, what):
        files = self.server.hub.repositories[repository]
        reply = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
        if what == "tree":
            hashes = {name: hashlib.sha1(content).hexdigest() for name, content in files.items()}
            reply = [{"type": "file", "path": n, "size": len(c), "oid": hashes[n]} for n, c in files.items()]
        self.send(200, json.dumps(reply).encode(), {"Content-Type": "application/json"})

    def file(self, name, content):
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        status, first, end = 200, 0, len(content)
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            status, first, end = 206, int(match[1]), int(match[2] or end - 1) + 1
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(content)}"
        cut = self.server.hub.break_after.pop(name, None) if self.command == "GET" else None
        self.send(status, content[first:end], headers, cut)

    def refuse(self, status, code=""):
        self.send(status, b"", {"X-Error-Code": code} if code else {})

    def send(self, status, content, headers, cut=None):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[:cut])
            self.close_connection = cut is not None


@contextmanager
def fake_hub(**behaviour):
    """A hub that is served while the context lasts."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.hub = Hub(**behaviour, url=f"http://127.0.0.1:{server.server_port}")
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.hub
        finally:
            server.shutdown()
            thread.join()


def store(cache, revision="main", commit=COMMIT):
    """Put a repository into the cache folder ``cache``, as the library does; its snapshot."""
    folder = cache / "models--org--tiny-llama"
    llama.write(folder / "snapshots" / commit)
    (folder / "refs" / revision).parent.mkdir(parents=True)
    (folder / "refs" / revision).write_text(commit)
    return folder / "snapshots" / commit
