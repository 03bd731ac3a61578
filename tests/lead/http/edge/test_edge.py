"""What stands before the HTTP side, under a real uvicorn: keys, bodies that are too large or too slow, connections."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
import uvicorn
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from lead.http.edge import connections
from lead.http.edge.auth import guarded
from lead.http.edge.connections import Limits, Server
from lead.security import certs
from lead.security.credentials import matches

MAX_BODY = 1000
SHORT = 0.3
"""Seconds of a deadline that is let pass."""


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the body."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def serving(
    keys: Sequence[str] = (), origins: Sequence[str] = (), limits: Limits | None = None, cert: str = "", key: str = ""
) -> Iterator[int]:
    """The echo behind the guard; its port."""
    config = uvicorn.Config(
        guarded(echo, keys, MAX_BODY, origins),
        http=(limits or Limits()).protocol(),
        log_config=None,
        lifespan="off",
        ssl_certfile=cert or None,
        ssl_keyfile=key or None,
        timeout_graceful_shutdown=1,
    )
    server = Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield int(listening.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def read_all(connection: socket.socket) -> bytes:
    """Until the other side closes."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


@pytest.fixture(scope="module")
def locked() -> Iterator[str]:
    """An address that needs a key."""
    with serving(["right", "also-right"], ["http://friend"]) as port:
        yield f"http://127.0.0.1:{port}"


class TestKeys:
    @pytest.mark.parametrize(
        "headers",
        [
            {"Authorization": "Bearer right"},
            {"Authorization": "bearer  also-right"},
            {"X-Api-Key": "right"},
            {"Authorization": "Basic eDp5", "X-Api-Key": "right"},
        ],
    )
    def test_right(self, locked: str, headers: dict[str, str]) -> None:
        answer = requests.post(f"{locked}/v1/completions", data="x" * MAX_BODY, headers=headers, timeout=30)
        assert (answer.status_code, answer.text) == (200, "x" * MAX_BODY)

    @pytest.mark.parametrize(
        ("headers", "words"),
        [
            ({}, "needs an API key"),
            ({"Authorization": "Bearer"}, "needs an API key"),
            ({"Authorization": "Bearer wrong"}, "is wrong"),
            ({"Authorization": "Bearer righ"}, "is wrong"),
            ({"Authorization": "Basic right"}, "needs an API key"),
            ({"X-Api-Key": b"\xff\xfe"}, "is wrong"),
            ({"Authorization": "Bearer wrong", "X-Api-Key": "right"}, "is wrong"),
        ],
    )
    @pytest.mark.parametrize("path", ["/v1/models", "/docs/", "/slots", "/health/", "/static", "//", "/nowhere"])
    def test_wrong(self, locked: str, path: str, headers: dict[str, str | bytes], words: str) -> None:
        answer = requests.get(locked + path, headers=headers, timeout=30)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        error = answer.json()["error"]
        assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
        assert words in error["message"]

    @pytest.mark.parametrize("path", ["/", "/health", "/v1/health", "/static/page.js"])
    def test_public(self, locked: str, path: str) -> None:
        assert requests.get(locked + path, timeout=30).status_code == 200

    def test_cors(self, locked: str) -> None:
        """A browser asks without a key, and may read a refusal; other origins may not."""
        asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        for origin, allowed in (("http://friend", "http://friend"), ("http://stranger", None)):
            asked = requests.options(f"{locked}/v1/models", headers={"Origin": origin, **asks}, timeout=30)
            refused = requests.get(f"{locked}/v1/models", headers={"Origin": origin}, timeout=30)
            assert asked.headers.get("Access-Control-Allow-Origin") == allowed
            assert refused.headers.get("Access-Control-Allow-Origin") == allowed
            assert refused.status_code == 401

    def test_matches(self) -> None:
        assert matches("b", ["a", "b"])
        assert not matches("", ["a", "b"])
        assert not matches("ab", ["a", "b"])
        assert not matches("ä", ["a"])
        assert not matches("a", [])


def test_without_keys_and_origins() -> None:
    with serving() as port:
        answer = requests.post(f"http://127.0.0.1:{port}/v1/models", b"x", headers={"Origin": "http://a"}, timeout=30)
        assert (answer.status_code, answer.text) == (200, "x")
        assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:5555"}, 200),
        ({"Host": "127.0.0.1:5555", "Origin": "http://127.0.0.1:5555"}, 200),
        ({"Host": "[::1]:5555"}, 200),
        ({"Host": "lead.lan"}, 200),
        ({"Host": "127.0.0.1", "Origin": "http://ours.example"}, 200),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1", "Origin": "http://evil.example"}, 403),
        ({"Host": "127.0.0.1", "Origin": "null"}, 403),
        ({"Host": "[nonsense"}, 403),
    ],
)
def test_without_a_key_no_page_of_others_may_ask(headers: dict[str, str], status: int) -> None:
    app = guarded(echo, [], MAX_BODY, ["http://ours.example"], ["lead.lan"])
    client = TestClient(app, base_url="http://127.0.0.1")
    assert client.get("/anything", headers=headers).status_code == status


def test_with_a_key_names_do_not_matter_and_public_paths_take_no_bodies() -> None:
    client = TestClient(guarded(echo, ["secret"], MAX_BODY, [], []), base_url="http://evil.example")
    assert client.get("/anything", headers={"X-Api-Key": "secret"}).status_code == 200
    assert client.get("/health").status_code == 200
    assert client.post("/health", content=b"x").status_code == 401
    assert client.post("/static/a", content=b"x").status_code == 401


class TestBodies:
    @pytest.mark.parametrize("chunked", [False, True])
    def test_too_large(self, chunked: bool) -> None:
        """With its length told or not; and the connection is good for the next request if the rest is sent."""
        body = b"x" * (MAX_BODY + 1)
        with serving() as port, requests.Session() as session:
            for _ in range(2):
                answer = session.post(
                    f"http://127.0.0.1:{port}/", iter([body[:600], body[600:]]) if chunked else body, timeout=30
                )
                assert answer.status_code == 413
                assert str(MAX_BODY) in answer.json()["error"]["message"]
                assert session.post(f"http://127.0.0.1:{port}/", b"x" * MAX_BODY, timeout=30).status_code == 200

    def test_pieces_are_one_body(self) -> None:
        with serving() as port:
            answer = requests.post(f"http://127.0.0.1:{port}/", iter([b"a"] * 50), timeout=30)
            assert answer.text == "a" * 50

    def test_a_lie_about_the_length(self) -> None:
        with serving() as port, connect(port) as connection:
            connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n")
            assert b" 413 " in connection.recv(65536)
            assert requests.get(f"http://127.0.0.1:{port}/", timeout=30).status_code == 200


class TestSlow:
    """A connection does not stay open for a request that never gets whole."""

    @pytest.mark.parametrize(
        "begun",
        [
            b"",
            b"GET /",
            b"GET / HTTP/1.1\r\nHost: x\r\nX-A: b\r\n",
            pytest.param(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b", marks=pytest.mark.slow),
        ],
    )
    def test_head(self, begun: bytes) -> None:
        with serving(limits=Limits(head_seconds=SHORT)) as port, connect(port) as connection:
            connection.sendall(begun)
            said = read_all(connection)
            if b"\r\n\r\n" in begun:
                assert said.startswith(b"HTTP/1.1 200 ")  # the first of two
            else:
                head, _, body = said.partition(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 408 ")
                assert json.loads(body)["error"]["type"] == "invalid_request_error"

    def test_one_byte_after_the_other(self) -> None:
        """Bytes do not put the deadline off."""
        with serving(limits=Limits(head_seconds=SHORT)) as port, connect(port) as connection:
            connection.settimeout(SHORT / 10)
            said = b""
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
            while not said:
                try:
                    connection.sendall(b"x")
                    said = connection.recv(65536)
                except TimeoutError:
                    continue
                except ConnectionError:
                    return
            assert b" 408 " in said

    def test_body(self) -> None:
        with serving(limits=Limits(body_seconds=SHORT)) as port, connect(port) as connection:
            connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n" + b"x" * 10)
            assert read_all(connection).startswith(b"HTTP/1.1 408 ")

    def test_body_of_a_second_request(self) -> None:
        """Of which a part came with the first, and then nothing."""
        with serving(limits=Limits(body_seconds=SHORT)) as port, connect(port) as connection:
            second = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nxx"
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + second)
            said = read_all(connection)
            assert said.startswith(b"HTTP/1.1 200 ")
            assert b"HTTP/1.1 408 " in said

    def test_body_that_goes_on_after_the_answer(self) -> None:
        """One answer, a refusal, then the end."""
        with serving(limits=Limits(body_seconds=SHORT)) as port, connect(port) as connection:
            connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\nx")
            said = read_all(connection)
            assert said.startswith(b"HTTP/1.1 413 ")
            assert said.count(b"HTTP/1.1 ") == 1

    def test_handshake(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A connection that is to be TLS and says nothing ends; with a second server, that TLS works."""
        monkeypatch.setattr(connections, "HANDSHAKE_SECONDS", SHORT)
        assert certs.main([str(tmp_path)]) == 0
        with serving(cert=str(tmp_path / "lead.pem"), key=str(tmp_path / "lead-key.pem")) as port:
            with connect(port) as connection:
                assert read_all(connection) == b""
            monkeypatch.undo()
        with serving(cert=str(tmp_path / "lead.pem"), key=str(tmp_path / "lead-key.pem")) as port:
            url = f"https://127.0.0.1:{port}/"
            assert requests.post(url, b"x", verify=str(tmp_path / "ca.pem"), timeout=30).text == "x"

    def test_a_patient_request(self) -> None:
        """Deadlines are for the client: one that has said all may wait for its answer, and ask again."""
        with serving(limits=Limits(head_seconds=30)) as port, requests.Session() as session:
            for _ in range(3):
                assert session.post(f"http://127.0.0.1:{port}/", b"x", timeout=30).text == "x"


GARBAGE = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),  # TLS
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",  # no Host
    b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    b"GET /" + b"a" * 100_000,
    b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 20_000,
    b"POST /asked HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /asked HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"POST /asked HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZZZ\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nZZZZ\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n\xff\xff\xff\r\n\r\n",
    b"GET http://[::1 HTTP/1.1\r\nHost: \xe4\r\nAuthorization: Bearer \xff\r\n\r\n",
]


@pytest.mark.parametrize("pause", [False, True])
@pytest.mark.parametrize("keys", [[], ["k"]])
def test_garbage(caplog: pytest.LogCaptureFixture, keys: list[str], pause: bool) -> None:
    """It is refused or answered, in one piece or in two, and no error of the program's own comes of it."""
    with serving(keys) as port:
        for garbage in GARBAGE:
            head, _, tail = garbage.partition(b"\r\n\r\n")
            with connect(port) as connection:
                try:
                    connection.sendall(head + b"\r\n\r\n" if pause else garbage)
                    # A body is waited for where it is let in.
                    answered = pause and not garbage.startswith(b"POST / " if keys else b"POST ")
                    said = connection.recv(65536) if answered else b""
                    connection.sendall(tail if pause else b"")
                    connection.shutdown(socket.SHUT_WR)
                    said += read_all(connection)
                except ConnectionError:
                    continue
                except TimeoutError:
                    pytest.fail(f"neither an answer nor an end: {garbage[:100]!r}")
                assert not said or said.startswith(b"HTTP/1.1 "), said
        assert requests.get(f"http://127.0.0.1:{port}/health", timeout=30).status_code == 200
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


class TestConnections:
    @pytest.mark.parametrize("limits", [Limits(connections=3), Limits(per_address=3)])
    def test_too_many(self, limits: Limits) -> None:
        """The fourth is told so; when one of the first has gone, there is room again."""
        with serving(limits=limits) as port:
            open_ones = [connect(port) for _ in range(3)]
            try:
                for connection in open_ones:  # answered, so that they are counted
                    connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                    assert connection.recv(65536)
                with connect(port) as fourth:
                    said = read_all(fourth)
                assert said.startswith(b"HTTP/1.1 503 ")
                assert b"Retry-After: " in said
                open_ones.pop().close()
                while b" 503 " in said:  # the lead hears of it a moment later
                    with connect(port) as fourth:
                        fourth.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                        said = read_all(fourth)
                assert said.startswith(b"HTTP/1.1 200 ")
            finally:
                for connection in open_ones:
                    connection.close()
        assert not limits.open
