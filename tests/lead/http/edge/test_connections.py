"""Connections that are slow, talk garbage or are too many."""

from __future__ import annotations

import json
import logging
import socket
from pathlib import Path

import pytest
import requests

from lead.http.edge import connections
from lead.http.edge.connections import Limits
from lead.security import certs
from tests.support.edge import SHORT, connect, read_all, serving


class TestSlow:
    """A connection does not stay open for a request that never ends."""

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
        """More bytes do not move the deadline."""
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
        """A part of it came with the first request, then nothing."""
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
        """A TLS connection that says nothing is closed. On a second server, TLS works."""
        monkeypatch.setattr(connections, "TLS_HANDSHAKE_SECONDS", SHORT)
        assert certs.main([str(tmp_path)]) == 0
        with serving(cert=str(tmp_path / "lead.pem"), key=str(tmp_path / "lead-key.pem")) as port:
            with connect(port) as connection:
                assert read_all(connection) == b""
            monkeypatch.undo()
        with serving(cert=str(tmp_path / "lead.pem"), key=str(tmp_path / "lead-key.pem")) as port:
            url = f"https://127.0.0.1:{port}/"
            assert requests.post(url, b"x", verify=str(tmp_path / "ca.pem"), timeout=30).text == "x"

    def test_a_patient_request(self) -> None:
        """A client that has sent all may wait for its answer, and ask again."""
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
    """In one part or in two, it is refused or answered, and the lead logs no error."""
    with serving(keys) as port:
        for garbage in GARBAGE:
            head, _, tail = garbage.partition(b"\r\n\r\n")
            with connect(port) as connection:
                try:
                    connection.sendall(head + b"\r\n\r\n" if pause else garbage)
                    # The guard waits for the body of a request that it lets in.
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
        """The fourth gets a 503. It gets in after one of the first has gone."""
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
