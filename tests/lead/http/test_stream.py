"""Answers end when nobody listens any more, however the client goes away."""

from __future__ import annotations

import json
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from openai import OpenAI

from duo.errors import DuoError
from tests.support.api import CHAT, HI, post
from tests.support.http import PATIENCE, AnswerGate, ScriptedAnswerer


def test_an_answer_is_always_let_go(url: str, answerer: ScriptedAnswerer) -> None:
    for stream in (False, True):
        assert post(url, messages=HI, stream=stream).status_code == 200
        answer = answerer.next_asked()
        assert answer.cancelled.wait(PATIENCE) and answer.ended.wait(PATIENCE)


def test_one_of_several_breaks_off(url: str, answerer: ScriptedAnswerer) -> None:
    for stream in (False, True):
        answerer.scripts = [[("a",), AnswerGate()], [("b",), DuoError("the engine lost its context")]]
        assert "the engine lost its context" in post(url, CHAT, messages=HI, n=2, stream=stream).text
        for answer in (answerer.next_asked(), answerer.next_asked()):
            assert answer.cancelled.wait(PATIENCE) and answer.ended.wait(PATIENCE)


def connect(url: str) -> socket.socket:
    address = urlsplit(url)
    assert address.hostname and address.port
    return socket.create_connection((address.hostname, address.port), timeout=PATIENCE)


def request_bytes(path: str, **fields: Any) -> bytes:
    body = json.dumps(fields).encode()
    return b"POST %s HTTP/1.1\r\nHost: lead\r\nContent-Length: %d\r\n\r\n%s" % (path.encode(), len(body), body)


def read_until(connection: socket.socket, mark: bytes) -> bytes:
    received = b""
    while mark not in received:
        part = connection.recv(65536)
        assert part, f"closed before {mark!r} came: {received!r}"
        received += part
    return received


@pytest.mark.parametrize(
    ("path", "stream", "words"),
    [(CHAT, False, ()), (CHAT, False, ("Hel",)), ("/messages", None, ()), (CHAT, True, ()), (CHAT, True, ("Hel",))],
)
def test_a_client_that_goes_away_stops_its_answer(
    url: str, answerer: ScriptedAnswerer, path: str, stream: bool | None, words: tuple[str, ...]
) -> None:
    answerer.script = [words, AnswerGate()]
    with connect(url) as connection:
        connection.sendall(request_bytes(path, messages=HI, stream=stream))
        answer = answerer.next_asked()
        if stream:
            read_until(connection, words[0].encode() if words else b'"role"')
        assert not answer.cancelled.is_set()
        # Others are served meanwhile.
        assert requests.get(f"{url}/health", timeout=PATIENCE).status_code == 200
    assert answer.cancelled.wait(PATIENCE)
    # The iteration ends too, although this answer ignores its cancellation.
    assert answer.ended.wait(PATIENCE)


def test_a_client_that_goes_away_stops_all_its_answers(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    answerer.script = [("Hel",), AnswerGate()]
    with client.completions.create(model="any", prompt=["a", "b"], n=2, stream=True) as stream:
        next(stream)
        answers = [answerer.next_asked() for _ in range(4)]
    for answer in answers:
        assert answer.cancelled.wait(PATIENCE) and answer.ended.wait(PATIENCE)


def test_a_client_that_does_not_read_and_goes_away(url: str, answerer: ScriptedAnswerer) -> None:
    """The stream is busy sending, not generating, when the client goes away."""
    answerer.script = [("x" * 100_000,)] * 1000
    with connect(url) as connection:
        connection.sendall(request_bytes(CHAT, messages=HI, stream=True))
        read_until(connection, b"xxx")
        answer = answerer.next_asked()
    assert answer.cancelled.wait(PATIENCE) and answer.ended.wait(PATIENCE)


def test_closing_the_openai_stream_stops_the_answer(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    answerer.script = [("Hel",), AnswerGate()]
    with client.chat.completions.create(model="any", messages=HI, stream=True) as stream:
        next(stream)
        answer = answerer.next_asked()
    assert answer.cancelled.wait(PATIENCE) and answer.ended.wait(PATIENCE)


def test_a_client_that_goes_away_in_the_middle_of_its_body(
    url: str, answerer: ScriptedAnswerer, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(url) as connection:
        connection.sendall(request_bytes(CHAT, messages=HI)[:-5])
    assert post(url, messages=HI).status_code == 200
    assert answerer.next_asked() and answerer.asked.empty()
    assert not [record for record in caplog.records if record.exc_info]
