"""A server that speaks the Hugging Face hub's protocol, as far as downloads need it, with faults on request.

Small files are kept in "git": they are answered at once, and their checksum is git's. Files with weights are kept
"apart": the hub sends clients to another host for them, where no token may arrive, and their checksum is SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from duo.program.hub.choice import Source
from duo.program.hub.download import Hub

COMMIT = "a" * 40
APART = (".gguf", ".safetensors", ".bin")


@dataclass
class Asked:
    """One request that came."""

    method: str
    path: str
    range: str | None
    token: str | None


@dataclass
class FakeHub:
    """Repositories by name, each with its files.

    breaks: files whose next answers end after so many bytes, one number for each answer. held: files whose connection
    then stays open, without a byte more, until `released`. wrong: what is sent instead of a file's content. endless:
    files that are sent again and again without a length. refuses: statuses of a file's next answers. gated:
    repositories that need `token`. down: every request gets this status; 0: none does.
    """

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    breaks: dict[str, list[int]] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    released: threading.Event = field(default_factory=threading.Event)
    wrong: dict[str, bytes] = field(default_factory=dict)
    endless: set[str] = field(default_factory=set)
    refuses: dict[str, list[int]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    token: str = "hf_right"
    down: int = 0
    commit: str = COMMIT
    asked: list[Asked] = field(default_factory=list)
    url: str = ""

    def add(self, repository: str, folder: Path) -> None:
        """Publish the files of a folder."""
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        self.repositories[repository] = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    def downloads(self, name: str) -> list[str | None]:
        """The ranges that were asked for of a file with weights, one for each try."""
        found = [asked for asked in self.asked if asked.method == "GET" and asked.path.startswith("/apart/")]
        return [asked.range for asked in found if asked.path.endswith(f"/{name}")]


def checksum(name: str, content: bytes) -> str:
    if name.endswith(APART):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """The tests look at `FakeHub.asked`."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path, hub = unquote(urlsplit(self.path).path), self.hub
        token = self.headers.get("Authorization")
        hub.asked.append(Asked(self.command, path, self.headers.get("Range"), token))
        if hub.down:
            return self._send(hub.down)
        if match := re.fullmatch(r"/apart/([\w.-]+/[\w.-]+)/(.+)", path):
            return self._content(match[1], match[2], hub.repositories[match[1]][match[2]], {})
        if match := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+?)(?:/revision/\w+)?", path):
            if match[1] not in hub.repositories:
                return self._missing()
            siblings = [{"rfilename": name} for name in sorted(hub.repositories[match[1]])]
            about = {"id": match[1], "modelId": match[1], "sha": hub.commit, "siblings": siblings}
            return self._send(200, {"Content-Type": "application/json"}, json.dumps(about).encode())
        if match := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/\w+/(.+)", path):
            return self._resolve(match[1], match[2], token)
        return self._send(404)

    def _resolve(self, repository: str, name: str, token: str | None) -> None:
        files = self.hub.repositories.get(repository)
        if files is None:
            return self._missing()
        if repository in self.hub.gated and token != f"Bearer {self.hub.token}":
            words = {"X-Error-Code": "GatedRepo", "X-Error-Message": f"Access to model {repository} is restricted."}
            return self._send(403 if token else 401, words)
        if name not in files:
            return self._send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": self.hub.commit})
        tag = f'"{checksum(name, files[name])}"'
        headers = {"X-Repo-Commit": self.hub.commit, "ETag": tag}
        if not name.endswith(APART):
            return self._content(repository, name, files[name], headers)
        elsewhere = self.hub.url.replace("127.0.0.1", "localhost")
        headers |= {"X-Linked-Etag": tag, "X-Linked-Size": str(len(files[name]))}
        return self._send(302, {**headers, "Location": f"{elsewhere}/apart/{repository}/{name}"})

    def _content(self, repository: str, name: str, content: bytes, headers: Mapping[str, str]) -> None:
        if self.command == "HEAD":
            self._send(200, {**headers, "Content-Length": str(len(content))})
            return
        if refusals := self.hub.refuses.get(name):
            self._send(refusals.pop(0))
            return
        if name in self.hub.endless:
            self._endless(content)
            return
        content = self.hub.wrong.get(name, content)
        begin = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        status, headers = 200, {**headers, "Accept-Ranges": "bytes", "Content-Length": str(len(content))}
        if begin:
            rest = content[int(begin[1]) :]
            headers |= {
                "Content-Range": f"bytes {begin[1]}-{len(content) - 1}/{len(content)}",
                "Content-Length": str(len(rest)),
            }
            status, content = 206, rest
        breaks = self.hub.breaks.get(name)
        if breaks:
            content = content[: breaks.pop(0)]
            self.close_connection = True
        self._send(status, headers, content)
        if self.close_connection and name in self.hub.held:
            self.hub.released.wait()

    def _endless(self, content: bytes) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        with suppress(ConnectionError):
            while True:
                self.wfile.write(content)

    def _missing(self) -> None:
        return self._send(401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})

    def _send(self, status: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def serving_hub() -> Iterator[FakeHub]:
    """A hub without repositories, on a free port."""
    hub = FakeHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            hub.released.set()
            server.shutdown()
            thread.join()


@contextmanager
def instead_of_the_hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[FakeHub]:
    """The same as the hub of this process. The library reads its variables when it is imported, which is too early."""
    make = Hub.__init__

    def pointed(self: Hub, source: Source) -> None:
        make(self, source._replace(endpoint=hub.url, cache=cache))

    with serving_hub() as hub:
        monkeypatch.setattr(Hub, "__init__", pointed)
        yield hub
