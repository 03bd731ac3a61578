"""OpenAI's Responses API against a real lead: nothing depends on a back but speed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from openai import OpenAI

from bench.harness.processes import BackProcess, LeadProcess

pytestmark = pytest.mark.slow

QUESTION = "What does shutil.copytree do?"
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER: Any = {"type": "function", "name": "weather", "parameters": CITY, "strict": True}


@pytest.fixture(scope="module")
def lead() -> Iterator[LeadProcess]:
    with LeadProcess("--threads", "1", "--print-mode", "none") as lead:
        yield lead.ready()


@pytest.fixture
def client(lead: LeadProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{lead.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


def conversation(client: OpenAI, seed: int) -> list[str]:
    """A question, a call that has to come, and an answer after its output. All of it is remembered, or streamed."""
    sampling: dict[str, Any] = {"temperature": 1, "extra_body": {"seed": seed}, "max_output_tokens": 48}
    first = client.responses.create(model="any", input=QUESTION, instructions="Be brief", **sampling)
    with client.responses.stream(
        model="any", input="Where?", previous_response_id=first.id, tools=[WEATHER], tool_choice="required",
        temperature=1, extra_body={"seed": seed},
    ) as stream:  # fmt: skip
        second = stream.get_final_response()
    (call,) = [item for item in second.output if item.type == "function_call"]
    jsonschema.validate(json.loads(call.arguments), CITY)
    output: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "rain"}]
    third = client.responses.create(
        model="any", input=output, previous_response_id=second.id, tools=[WEATHER], **sampling
    )
    return [first.output_text, call.arguments, third.output_text]


def test_the_same_with_a_back_and_without(lead: LeadProcess, client: OpenAI) -> None:
    alone = [conversation(client, seed) for seed in range(4)]
    assert len({arguments for _, arguments, _ in alone}) > 1
    with BackProcess(lead.back_port, "--engine", "llamacpp", "--threads", "1"):
        lead.has_backs(1)
        assert [conversation(client, seed) for seed in range(4)] == alone
        assert lead.backs()[0]["accepted"] > 0


def test_a_conversation_finds_its_cache_again(client: OpenAI) -> None:
    first = client.responses.create(model="any", input=QUESTION, temperature=0, max_output_tokens=40)
    second = client.responses.create(
        model="any", input="And shutil.move?", previous_response_id=first.id, temperature=0, max_output_tokens=8
    )
    assert first.usage is not None and second.usage is not None
    assert second.usage.input_tokens_details.cached_tokens > first.usage.input_tokens
    assert second.status == "incomplete"
