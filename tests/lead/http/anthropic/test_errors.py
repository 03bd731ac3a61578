"""Every error of Anthropic's paths as Anthropic's object, and what its client makes of it."""

from __future__ import annotations

from collections.abc import Iterator

import anthropic
import pytest
import requests
from anthropic import Anthropic

from duo.errors import BusyError, ContextError, RequestError
from lead.http.app import create_app
from lead.http.edge.auth import guarded
from tests.support.anthropic import COUNT, HI, MESSAGES, fault, say
from tests.support.http import PATIENCE, ScriptedAnswerer, served

MAX_BODY = 2000


@pytest.fixture
def locked(answerer: ScriptedAnswerer) -> Iterator[str]:
    """An address that needs a key."""
    with served(guarded(create_app(answerer), ["right"], MAX_BODY)) as url:
        yield url


def ask(client: Anthropic) -> None:
    client.messages.create(model="any", max_tokens=5, messages=HI)


def test_the_client_sees_its_own_exceptions(claude: Anthropic, answerer: ScriptedAnswerer) -> None:
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        claude.messages.create(model="any", max_tokens=-5, messages=HI)
    answerer.refusal = BusyError("8 requests wait already")
    with pytest.raises(anthropic.InternalServerError) as caught:
        ask(claude)
    assert caught.value.status_code == 503 and caught.value.response.headers["retry-after"] == "1"
    assert caught.value.request_id is not None and caught.value.request_id.startswith("req_")
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.batches.list()


def test_keys_and_bodies(locked: str) -> None:
    stranger = Anthropic(base_url=locked, api_key="wrong", max_retries=0)
    with stranger, pytest.raises(anthropic.AuthenticationError, match="is wrong"):
        ask(stranger)
    with Anthropic(base_url=locked, api_key="right", max_retries=0) as friend:
        ask(friend)
        with pytest.raises(anthropic.APIStatusError, match="too large") as caught:
            friend.messages.create(model="any", max_tokens=5, messages=[{"role": "user", "content": "x" * MAX_BODY}])
    assert caught.value.status_code == 413
    headers = {"X-Api-Key": "right"}
    large = requests.post(locked + MESSAGES, b"x" * (MAX_BODY + 1), headers=headers, timeout=PATIENCE)
    assert str(MAX_BODY) in fault(large, 413, "request_too_large")
    assert "needs an API key" in fault(requests.post(locked + COUNT, timeout=PATIENCE), 401, "authentication_error")
    assert requests.post(f"{locked}/v1/completions", timeout=PATIENCE).json()["error"]["code"] == "invalid_api_key"


def test_pages_of_others(answerer: ScriptedAnswerer) -> None:
    with served(guarded(create_app(answerer), [], MAX_BODY, [], [])) as url:
        answer = requests.post(url + MESSAGES, headers={"Origin": "http://evil.example"}, timeout=PATIENCE)
    assert "evil.example" in fault(answer, 403, "permission_error")


def test_paths_and_methods_that_are_not_there(url: str, answerer: ScriptedAnswerer) -> None:
    missing = requests.get(f"{url}{MESSAGES}/nothing", timeout=PATIENCE)
    assert fault(missing, 404, "not_found_error") == f"GET {MESSAGES}/nothing: not found"
    wrong = requests.get(url + MESSAGES, timeout=PATIENCE)
    assert fault(wrong, 405, "invalid_request_error") == f"GET {MESSAGES}: method not allowed, use POST"
    assert wrong.headers["allow"] == "POST"
    assert "error" in requests.get(f"{url}/v1/messagesx", timeout=PATIENCE).json()


def test_while_the_model_loads(url: str, answerer: ScriptedAnswerer) -> None:
    answerer.ready = False
    for path in (MESSAGES, COUNT):
        response = say(url, path)
        assert "loading" in fault(response, 503, "overloaded_error")
        assert response.headers["retry-after"] == "1"


def test_the_unexpected_is_not_told(url: str, answerer: ScriptedAnswerer) -> None:
    answerer.refusal = ZeroDivisionError("a secret of the lead")
    assert "secret" not in fault(say(url), 500, "api_error")
    answerer.refusal, answerer.script = None, [("Hel",), ZeroDivisionError("a secret of the lead")]
    assert "secret" not in say(url, stream=True).text


def test_errors_of_the_core(url: str, answerer: ScriptedAnswerer) -> None:
    """Agents know the first words of the first, and shorten the conversation."""
    answerer.refusal = ContextError("the prompt has 5000 tokens, the context holds 4096")
    assert fault(say(url), 400, "invalid_request_error").startswith("prompt is too long: the prompt has 5000")
    answerer.refusal = RequestError("the JSON schema has 5000 parts", "response_format")
    form = {"type": "json_schema", "schema": {}}
    for fields, place in (
        ({"output_config": {"format": form}}, "output_config.format"),
        ({"output_format": form}, "output_format"),
        ({}, "tools"),
    ):
        message = fault(say(url, **fields), 400, "invalid_request_error")
        assert message == f"{place}: the JSON schema has 5000 parts"


def test_conversations_that_the_lead_is_to_hold(url: str, answerer: ScriptedAnswerer) -> None:
    """The vendor's client reads the details and then sends all messages."""
    for thread in ({"type": "create"}, {"type": "continue", "previous_message_id": "msg_1"}, 5):
        for path in (MESSAGES, COUNT):
            response = say(url, path, thread=thread)
            error = response.json()["error"]
            assert (response.status_code, error["type"]) == (400, "invalid_request_error")
            assert error["message"].startswith("thread: ")
            assert error["details"] == {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    assert answerer.asked.empty()
    assert say(url, thread=None).status_code == 200


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b'"text"', b"null"])
def test_bodies_that_are_no_object(url: str, answerer: ScriptedAnswerer, body: bytes) -> None:
    assert "body" in fault(requests.post(url + MESSAGES, body, timeout=PATIENCE), 400, "invalid_request_error")
