"""Every error as OpenAI's object, and what OpenAI's client makes of it."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
import requests
from openai import OpenAI

from duo.errors import BusyError, ContextError, DuoError, RequestError
from tests.support.api import CHAT, HI, error_of, events, post
from tests.support.http import PATIENCE, ScriptedAnswerer


def test_openai_client_comes_again_after_loading(
    url: str, answerer: ScriptedAnswerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client retries this error with this header by itself."""
    answerer.refusal = BusyError("the queue is full")
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=1, timeout=PATIENCE) as client:
        pauses: list[float] = []

        def instead_of_sleeping(*, retries_taken: int, max_retries: int, options: Any, response: Any) -> None:
            pauses.append(float(response.headers["retry-after"]))
            answerer.refusal = None

        monkeypatch.setattr(client, "_sleep_for_retry", instead_of_sleeping)
        completion = client.chat.completions.create(model="any", messages=HI)
    assert pauses == [1.0]
    assert completion.choices[0].message.content == "Hello, world!"


def test_openai_client_sees_its_own_exceptions(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="any", messages=HI, n=300)
    assert caught.value.param == "n" and "128" in caught.value.message
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="any", input="text")
    answerer.ready = False
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="any", messages=HI)


def test_paths_and_methods_that_are_not_there(url: str, answerer: ScriptedAnswerer) -> None:
    error = error_of(requests.get(f"{url}/v1/nothing", timeout=PATIENCE), 404)
    assert error["message"] == "GET /v1/nothing: not found"
    response = requests.get(url + CHAT, timeout=PATIENCE)
    assert error_of(response, 405)["message"] == f"GET {CHAT}: method not allowed, use POST"
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("stream", [False, True])
def test_refused_at_once(url: str, answerer: ScriptedAnswerer, stream: bool) -> None:
    answerer.refusal = RequestError("logit_bias: 5000 is no token", "logit_bias")
    error = error_of(post(url, messages=HI, stream=stream), 400)
    assert (error["message"], error["param"]) == ("logit_bias: 5000 is no token", "logit_bias")
    answerer.refusal = ContextError("the prompt has 5000 tokens, the context holds 4096")
    assert error_of(post(url, messages=HI, stream=stream), 400)["code"] == "context_length_exceeded"
    answerer.refusal = BusyError("8 requests wait already")
    response = post(url, messages=HI, stream=stream)
    assert error_of(response, 503)["code"] == "busy"
    assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize("path", [CHAT, "/messages"])
def test_broken_off(url: str, answerer: ScriptedAnswerer, path: str) -> None:
    answerer.script = [("Hel",), DuoError("the engine lost its context")]
    assert error_of(post(url, path, messages=HI), 500)["message"] == "the engine lost its context"
    assert answerer.next_asked().cancelled.is_set()


def test_broken_off_in_the_middle_of_a_stream(url: str, client: OpenAI, answerer: ScriptedAnswerer) -> None:
    answerer.script = [("Hel",), DuoError("the engine lost its context")]
    *_, text, last = (json.loads(event) for event in events(post(url, messages=HI, stream=True)))
    assert text["choices"][0]["delta"] == {"content": "Hel"}
    assert last["error"]["message"] == "the engine lost its context"
    assert answerer.next_asked().cancelled.wait(PATIENCE)
    with pytest.raises(openai.APIError, match="the engine lost its context"):
        list(client.chat.completions.create(model="any", messages=HI, stream=True))


@pytest.mark.parametrize("where", ["ask", "whole", "stream"])
def test_the_unexpected_is_logged_and_not_told(
    url: str, answerer: ScriptedAnswerer, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    fault = ZeroDivisionError("a secret of the lead")
    if where == "ask":
        answerer.refusal = fault
    else:
        answerer.script = [("Hel",), fault]
    response = post(url, messages=HI, stream=where == "stream")
    error = json.loads(events(response)[-1])["error"] if where == "stream" else error_of(response, 500)
    assert error["type"] == "server_error" and "secret" not in response.text
    assert post(url, "/messages").status_code == 400  # it goes on
    logged = [record for record in caplog.records if record.exc_info and record.exc_info[1] is fault]
    assert len(logged) == 1 and logged[0].levelname == "ERROR"
