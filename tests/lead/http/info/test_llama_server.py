"""llama-server's endpoints about the server, with the shipped models' real tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from lead.api import SlotView
from lead.http.app import create_app
from lead.http.edge.auth import guarded
from lead.http.site import BODY_LIMIT, Options
from tests.support.http import TEMPLATE, ScriptedAnswerer, vocabulary

TEXT = "def grüß():\n    return '🎉'"


@pytest.fixture
def answerer() -> ScriptedAnswerer:
    return ScriptedAnswerer()


@pytest.fixture
def client(answerer: ScriptedAnswerer) -> Iterator[TestClient]:
    with TestClient(guarded(create_app(answerer), [], BODY_LIMIT)) as client:
        yield client


def refused(client: TestClient, path: str, body: dict[str, Any]) -> tuple[str, str | None]:
    """Message and param of the error."""
    answer = client.post(path, json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    return error["message"], error["param"]


def test_text_becomes_tokens_and_text_again(client: TestClient) -> None:
    tokens = client.post("/tokenize", json={"content": TEXT}).json()["tokens"]
    assert tokens == vocabulary().encode_rendered(TEXT)
    assert client.post("/detokenize", json={"tokens": tokens}).json() == {"content": TEXT}
    assert client.post("/tokenize", json={}).json() == {"tokens": []}
    assert client.post("/detokenize", json={}).json() == {"content": ""}


def test_null_is_the_default(client: TestClient) -> None:
    nothing = {"content": None, "add_special": None, "with_pieces": None}
    assert client.post("/tokenize", json=nothing).json() == {"tokens": []}
    tokens = client.post("/tokenize", json={**nothing, "content": TEXT}).json()["tokens"]
    assert tokens == vocabulary().encode_rendered(TEXT)
    assert client.post("/detokenize", json={"tokens": None}).json() == {"content": ""}


def test_add_special_makes_it_a_prompt(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    # The shipped models want no BOS, so the test changes their vocabulary.
    plain = vocabulary().encode_rendered
    monkeypatch.setattr(type(vocabulary()), "encode", lambda self, text: [1, *plain(text)])
    for content in (TEXT, [TEXT]):
        asked = {"content": content, "add_special": True}
        assert client.post("/tokenize", json=asked).json()["tokens"] == [1, *plain(TEXT)]
    assert client.post("/tokenize", json={"content": TEXT}).json()["tokens"] == plain(TEXT)


def test_a_list_mixes_texts_and_tokens(client: TestClient) -> None:
    tokens = client.post("/tokenize", json={"content": ["def", 7, " f"]}).json()["tokens"]
    plain = vocabulary().encode_rendered
    assert tokens == [*plain("def"), 7, *plain(" f")]


def test_pieces_make_up_the_text_though_characters_are_split(client: TestClient) -> None:
    content = "<|im_start|>" + TEXT
    pieces = client.post("/tokenize", json={"content": content, "with_pieces": True}).json()["tokens"]
    assert [piece["id"] for piece in pieces] == vocabulary().encode_rendered(content)
    assert pieces[0]["piece"] == ""  # a special token adds nothing to a text
    assert any(isinstance(piece["piece"], list) for piece in pieces)
    found = b"".join(
        bytes(piece["piece"]) if isinstance(piece["piece"], list) else piece["piece"].encode() for piece in pieces
    )
    assert found.decode() == TEXT


def test_what_is_no_token_is_refused(client: TestClient) -> None:
    size = vocabulary().size
    message, param = refused(client, "/detokenize", {"tokens": [1, size]})
    assert message == f"tokens: no token {size} in a vocabulary of {size}" and param == "tokens"
    assert refused(client, "/detokenize", {"tokens": [-1]})[1] == "tokens[0]"
    assert refused(client, "/detokenize", {"tokens": "1"})[1] == "tokens"
    assert refused(client, "/tokenize", {"content": ["a", size]})[1] == "content[1]"
    message = "content: 7 is neither a text nor a list of texts and tokens"
    assert refused(client, "/tokenize", {"content": 7}) == (message, "content")
    for strange in (True, -1, 1 << 31, None):
        message, param = refused(client, "/tokenize", {"content": ["a", strange]})
        assert message.endswith(" at 1 is neither a text nor a token") and param == "content"
    assert refused(client, "/tokenize", {"content": "a", "parse_special": False})[1] == "parse_special"


def test_a_body_that_is_none_is_refused(client: TestClient) -> None:
    for path in ("/tokenize", "/detokenize", "/apply-template"):
        assert client.post(path, content=b"{").status_code == 400
        assert client.post(path, content=b" " * (BODY_LIMIT + 1)).status_code == 413
        assert client.get(path).status_code == 405


def test_the_template_is_applied_as_to_a_chat(client: TestClient) -> None:
    tool = {"type": "function", "function": {"name": "now", "description": "", "parameters": {"type": "object"}}}
    body = {
        "messages": [{"role": "developer", "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "!"}]}],
        "tools": [tool],
    }
    prompt = client.post("/apply-template", json=body).json()["prompt"]
    assert prompt == vocabulary().render([{"role": "system", "content": "Be\n!"}], [tool])
    rejected = client.post("/apply-template", json={**body, "chat_template_kwargs": {"tokenize": True}})
    assert rejected.status_code == 400 and rejected.json()["error"]["param"] == "chat_template_kwargs"
    assert refused(client, "/apply-template", {"messages": []})[1] == "messages"


def test_props_say_what_front_ends_look_for(client: TestClient, answerer: ScriptedAnswerer) -> None:
    answerer.slot_views = [SlotView(0, "idle"), SlotView(1, "answering")]
    props = client.get("/props").json()
    assert props["total_slots"] == 2
    assert props["default_generation_settings"]["n_ctx"] == props["n_ctx"] == answerer.context
    assert props["chat_template"] == TEMPLATE
    assert props["model_alias"] == props["model_path"] == answerer.model
    named = TestClient(create_app(answerer, Options(alias="gpt"))).get("/props").json()
    assert named["model_alias"] == "gpt"


@pytest.mark.parametrize("speculates", [True, False])
def test_a_model_without_guesses_is_not_called_speculative(
    client: TestClient, answerer: ScriptedAnswerer, speculates: bool
) -> None:
    answerer.speculates = speculates
    assert client.get("/props").json()["default_generation_settings"]["speculative"] is speculates
    assert client.get("/slots").json()[0]["speculative"] is speculates


def test_slots_in_both_manners(client: TestClient, answerer: ScriptedAnswerer) -> None:
    answerer.slot_views = [
        SlotView(0, "reading", 100, 40),
        SlotView(1, "answering", 10, 10, 5, 12.5),
        SlotView(2, "idle"),
    ]
    slots = client.get("/slots").json()
    assert [slot["id"] for slot in slots] == [0, 1, 2]
    assert [slot["is_processing"] for slot in slots] == [True, True, False]
    assert [slot["state"] for slot in slots] == ["reading", "answering", "idle"]
    assert {slot["n_ctx"] for slot in slots} == {answerer.context}
    assert (slots[0]["prompt_tokens"], slots[0]["prompt_read"]) == (100, 40)
    assert (slots[1]["completion_tokens"], slots[1]["tokens_per_second"]) == (5, 12.5)


def test_a_health_check_sees_that_no_slot_is_idle(client: TestClient, answerer: ScriptedAnswerer) -> None:
    answerer.slot_views = [SlotView(0, "answering")]
    assert client.get("/slots").status_code == 200
    answer = client.get("/slots?fail_on_no_slot=1")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    answerer.slot_views = [SlotView(0, "answering"), SlotView(1, "idle")]
    assert client.get("/slots?fail_on_no_slot=1").status_code == 200


def test_slots_can_be_switched_off(answerer: ScriptedAnswerer) -> None:
    client = TestClient(create_app(answerer, Options(slots=False)))
    answer = client.get("/slots")
    assert answer.status_code == 501
    assert "--slots" in answer.json()["error"]["message"]
    assert client.get("/props").json()["endpoint_slots"] is False


def test_nothing_is_told_while_the_model_loads(client: TestClient, answerer: ScriptedAnswerer) -> None:
    answerer.ready = False
    for path in ("/props", "/slots"):
        assert client.get(path).status_code == 503
    assert client.post("/tokenize", json={"content": TEXT}).status_code == 503
    assert client.get("/docs").status_code == client.get("/openapi.json").status_code == 200
