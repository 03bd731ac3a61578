"""What stands before the app: keys, names of hosts, origins, and the size of bodies."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests
from starlette.testclient import TestClient

from lead.http.edge.auth import guarded
from lead.security.credentials import matches
from tests.support.edge import MAX_BODY, connect, echo, serving


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

    @pytest.mark.parametrize("path", ["/", "/health", "/v1/health", "/static/icon.svg"])
    def test_public(self, locked: str, path: str) -> None:
        assert requests.get(locked + path, timeout=30).status_code == 200

    def test_cors(self, locked: str) -> None:
        """A browser asks without a key and may read a refusal. Other origins may not."""
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
        """With and without Content-Length. The connection takes the next request after the rest of the body."""
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
