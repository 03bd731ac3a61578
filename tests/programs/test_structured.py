"""Answers and calls that follow a schema, over real processes: each is valid, and the same with a back and without."""

from __future__ import annotations

import concurrent.futures
import json
from typing import Any

import jsonschema
import openai
import pytest
from openai.types.chat import ChatCompletion

from bench.harness.processes import BackProcess, LeadProcess
from duo.models.corpus import questions

pytestmark = pytest.mark.slow

ANSWERS, CLIENTS = 200, 8
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z_.]{1,24}$"},
        "kind": {"enum": ["function", "class", "module"]},
        "arguments": {
            "type": "array",
            "items": {"type": "string", "minLength": 1, "maxLength": 12},
            "maxItems": 3,
        },
        "since": {"type": "integer", "minimum": 1, "maximum": 99},
    },
    "required": ["name", "kind", "arguments", "since"],
    "additionalProperties": False,
}


def all_answers(client: openai.OpenAI) -> list[str]:
    """One for each of so many questions, at temperature 1. Every other one is the arguments of a required call."""
    asked = questions(ANSWERS, seed=11)

    def one(number: int) -> str:
        form: dict[str, Any]
        if called := number % 2:
            tool = {"type": "function", "function": {"name": "thing", "parameters": SCHEMA}}
            form = {"tools": [tool], "tool_choice": "required"}
        else:
            schema = {"name": "thing", "strict": True, "schema": SCHEMA}
            form = {"response_format": {"type": "json_schema", "json_schema": schema}}
        completion: ChatCompletion = client.chat.completions.create(
            model="any",
            messages=[{"role": "user", "content": asked[number].text}],
            temperature=1.0,
            seed=number,
            **form,
        )
        (choice,) = completion.choices
        assert choice.finish_reason == ("tool_calls" if called else "stop")
        if not called:
            return choice.message.content or ""
        assert choice.message.tool_calls
        (call,) = choice.message.tool_calls
        assert call.type == "function"
        return call.function.arguments

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(one, range(ANSWERS)))


@pytest.mark.timeout(600)
def test_all_are_valid_and_the_same_with_a_back() -> None:
    with LeadProcess("--threads", "1", "--parallel", str(CLIENTS), "--print-mode", "none") as lead:
        client = openai.OpenAI(base_url=f"{lead.ready().url}/v1", api_key="none", timeout=120)
        alone = all_answers(client)
        for text in alone:
            jsonschema.validate(json.loads(text), SCHEMA)
        assert len(set(alone)) > ANSWERS // 2, "they are answers to different questions"
        with BackProcess(lead.back_port, "--engine", "llamacpp", "--threads", "1", "--parallel", str(CLIENTS)):
            lead.has_backs(1)
            assert all_answers(client) == alone
            assert lead.backs()[0]["accepted"] > ANSWERS // 4
