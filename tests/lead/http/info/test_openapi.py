"""The OpenAPI document against the server: schemathesis sends requests that it allows and requests that it forbids."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

import pytest
import schemathesis
from fastapi.openapi.utils import get_openapi
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, settings
from jsonschema import Draft202012Validator
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from duo.errors import StoppedError
from duo.sampling.logprobs import Logprobs
from lead.api import Piece
from lead.http.app import create_app
from lead.http.endpoints import description
from lead.http.site import Options
from tests.support.fim import Filler
from tests.support.http import vocabulary

APP = create_app(Filler(), Options(metrics=True, slot_files=True))
DOCUMENT: Any = description()
# Without second names of the same endpoints.
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", APP).exclude(
    path_regex="^/(chat/completions|responses|models|v1/health)$"
)
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


pytestmark = pytest.mark.slow

SETTINGS = settings(
    max_examples=15, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(autouse=True, scope="module")
def loaded() -> None:
    """The first time takes seconds, which no request should wait for."""
    vocabulary()


_RULED = ("tools", "tool_choice", "json_schema", "output_config", "output_format", "system", "chat_template_kwargs")
"""Fields with rules that no schema can say."""


def check(case: Case[Any]) -> None:
    answer = case.call_and_validate(checks=CHECKS)
    if "text/event-stream" in answer.headers.get("content-type", [""])[0]:
        check_events(case.path, answer.text)


@SCHEMA.parametrize()
@SETTINGS
def test_answers_are_what_the_document_says(case: Case[Any]) -> None:
    check(case)


@SCHEMA.include(
    path_regex="^/(v1/chat/completions|v1/responses|messages|v1/messages|v1/messages/count_tokens)$"
).parametrize()
@SETTINGS
def test_conversations_are_answered_however_they_are_sampled(case: Case[Any]) -> None:
    # Templates and grammars have rules that no schema can say. Most generated requests would break them.
    if isinstance(case.body, dict):
        kept = {name: value for name, value in case.body.items() if name not in _RULED}
        case.body = {**kept, "messages": [{"role": "user", "content": "Hi"}], "response_format": None}
        if case.path == "/v1/responses":
            case.body = {**kept, "input": "Hi", "text": None, "previous_response_id": None}
    check(case)


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/chat/completions", {}),
        ("/v1/chat/completions", {"n": 2, "logprobs": True, "top_logprobs": 1, "accepted": True}),
        ("/v1/chat/completions", {"tools": [{"function": {"name": "now"}}], "stream_options": {"include_usage": True}}),
        ("/v1/completions", {"logprobs": 1, "echo": True}),
        ("/infill", {"input_prefix": "a", "input_suffix": "b"}),
        ("/v1/completions", {"n": 2, "logprobs": 1, "accepted": True, "stream_options": {"include_usage": True}}),
        ("/v1/responses", {"top_logprobs": 1}),
        ("/v1/responses", {"tools": [{"type": "function", "name": "now"}]}),
        ("/v1/responses", {"tools": [{"type": "custom", "name": "now"}]}),
        ("/v1/messages", {"max_tokens": 5}),
        ("/v1/messages", {"max_tokens": 5, "tools": [{"name": "now", "input_schema": {"type": "object"}}]}),
    ],
)
def test_events_are_what_the_document_says(path: str, asked: dict[str, Any]) -> None:
    answerer = Filler()
    call = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'
    answerer.script = [(Piece("Hi", ("mac",), "", 41, Logprobs(-0.5, [(41, -0.5), (42, -1.5)])),), (call,)]
    hi = (
        {"input": "Hi"} if path == "/v1/responses" else {"messages": [{"role": "user", "content": "Hi"}], "prompt": "a"}
    )
    body = {**hi, "stream": True, **asked}
    client = TestClient(create_app(answerer))
    assert check_events(path, client.post(path, json=body).text) > 2
    answerer.script = [("Hi",), StoppedError("the lead is stopping")]
    assert check_events(path, client.post(path, json=body).text) >= 2


def check_events(path: str, text: str) -> int:
    """Checks the JSON of every event, which schemathesis does not. Returns the number of events."""
    content = DOCUMENT["paths"][path]["post"]["responses"]["200"]["content"]["text/event-stream"]
    data = content["schema"]["properties"]["data"]
    announced = (data["anyOf"][1] if "anyOf" in data else data)["contentSchema"]
    validator = Draft202012Validator({**announced, "components": DOCUMENT["components"]})
    *events, rest = text.split("\n\n")
    assert rest == ""
    for event in events:
        name, _, data = event.rpartition("data: ")
        assert "event" in content["schema"]["properties"] or not name
        if data != "[DONE]":
            told = json.loads(data)
            validator.validate(told)
            assert not name or name == f"event: {told['type']}\n"
    return len(events)


def test_every_route_is_described() -> None:
    # FastAPI's own document says nothing of bodies, but knows the routes.
    routes = get_openapi(title="routes", version="", routes=APP.routes)["paths"]
    described = DOCUMENT["paths"]
    assert {path: set(methods) for path, methods in described.items()} == {
        path: set(methods) for path, methods in routes.items()
    }


def test_the_page_shows_all_of_it_and_loads_nothing() -> None:
    answer = TestClient(APP).get("/docs")
    page = Page()
    page.feed(answer.text)
    assert set(DOCUMENT["paths"]) <= page.code
    assert set(DOCUMENT["components"]["schemas"]) <= page.ids
    assert {link for link in page.links if not link.startswith("#")} == {"openapi.json"}
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.ids
    assert not page.tags & {"script", "link", "img", "iframe"} and "url(" not in answer.text
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")


class Page(HTMLParser):
    """What a page holds. Every element ends, and no id comes twice."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.code: set[str] = set()
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in ("meta", "br"):
            self._open.append(tag)
        for name, value in attrs:
            if name == "id" and value is not None:
                assert value not in self.ids
                self.ids.add(value)
            if name in ("href", "src") and value is not None:
                self.links.add(value)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "code":
            self.code.add(data)
