"""The OpenAPI document against the server: schemathesis sends requests that it allows and requests that it forbids."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest
import schemathesis
from fastapi.openapi.utils import get_openapi
from fastapi.testclient import TestClient
from schemathesis import Case

from duo.errors import StoppedError
from duo.sampling.logprobs import Logprobs
from lead.api import Piece
from lead.http.app import create_app
from lead.http.endpoints import description
from lead.http.site import Options
from tests.support.fim import Filler
from tests.support.http import vocabulary
from tests.support.openapi import CONVERSATIONS, SECOND_NAMES, SETTINGS, check, check_events, made_simple

APP = create_app(Filler(), Options(metrics=True, slot_files=True))
DOCUMENT: Any = description()
# Without second names of the same endpoints.
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", APP).exclude(path_regex=SECOND_NAMES)
ALLOWED = schemathesis.openapi.from_asgi("/openapi.json", APP).include(path_regex=CONVERSATIONS)
# What the document forbids is refused in the same way whatever the conversation.
ALLOWED.config.phases.coverage.generation.update(modes=[schemathesis.GenerationMode.POSITIVE])
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True, scope="module")
def loaded() -> None:
    """The first time takes seconds, which no request should wait for."""
    vocabulary()


@SCHEMA.parametrize()
@SETTINGS
def test_answers_are_what_the_document_says(case: Case[Any]) -> None:
    check(case, DOCUMENT)


@ALLOWED.parametrize()
@SETTINGS
def test_conversations_are_answered_however_they_are_sampled(case: Case[Any]) -> None:
    made_simple(case)
    check(case, DOCUMENT)


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
    assert check_events(DOCUMENT, path, client.post(path, json=body).text) > 2
    answerer.script = [("Hi",), StoppedError("the lead is stopping")]
    assert check_events(DOCUMENT, path, client.post(path, json=body).text) >= 2


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
