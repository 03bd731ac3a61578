"""Checks of answers against an OpenAPI document, for requests that schemathesis makes of it."""

from __future__ import annotations

import json
from typing import Any

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

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
SETTINGS = settings(
    max_examples=15, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
SECOND_NAMES = "^/(chat/completions|responses|models|v1/health)$"
"""Paths of endpoints that have another path too."""
CONVERSATIONS = "^/(v1/chat/completions|v1/responses|messages|v1/messages|v1/messages/count_tokens)$"

_RULED = ("tools", "tool_choice", "json_schema", "output_config", "output_format", "system", "chat_template_kwargs")
"""Fields with rules that no schema can say."""


def check(case: Case[Any], document: Any, **asked: Any) -> None:
    """Ask, and check the answer. `asked`: where and how, for `call_and_validate`."""
    answer = case.call_and_validate(checks=CHECKS, **asked)
    if "text/event-stream" in answer.headers.get("content-type", [""])[0]:
        check_events(document, case.path, answer.text)


def made_simple(case: Case[Any]) -> None:
    """Let a request be one that is answered, however its answer is sampled.

    Templates and grammars have rules that no schema can say. Most generated requests would break them.
    """
    if isinstance(case.body, dict):
        kept = {name: value for name, value in case.body.items() if name not in _RULED}
        case.body = {**kept, "messages": [{"role": "user", "content": "Hi"}], "response_format": None}
        if case.path == "/v1/responses":
            case.body = {**kept, "input": "Hi", "text": None, "previous_response_id": None}


def check_events(document: Any, path: str, text: str) -> int:
    """Checks the JSON of every event, which schemathesis does not. Returns the number of events."""
    content = document["paths"][path]["post"]["responses"]["200"]["content"]["text/event-stream"]
    data = content["schema"]["properties"]["data"]
    announced = (data["anyOf"][1] if "anyOf" in data else data)["contentSchema"]
    validator = Draft202012Validator({**announced, "components": document["components"]})
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
