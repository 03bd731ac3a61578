"""Anthropic's client against a real lead, alone and with a back: nothing depends on the back but speed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from anthropic import Anthropic

from bench.harness.processes import BackProcess, LeadProcess

pytestmark = pytest.mark.slow

QUESTIONS = ("What does shutil.copytree do?", "How do I read a file line by line?")
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "days": {"type": "integer", "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [{"name": "weather", "input_schema": CITY}]
GREEDY = {"temperature": 0}
"""The vendor's newest client has no argument for it."""
ANSWERS = 6
"""Calls, alone and with a back."""


@pytest.fixture(scope="module")
def lead() -> Iterator[LeadProcess]:
    with LeadProcess("--engine", "transformers", "--threads", "1", "--print-mode", "none") as lead:
        yield lead.ready()


@pytest.fixture
def claude(lead: LeadProcess) -> Iterator[Anthropic]:
    with Anthropic(base_url=lead.url, api_key="none", max_retries=0, timeout=120) as client:
        yield client


def texts(claude: Anthropic) -> list[str]:
    """Of whole and of streamed answers, with a system prompt and with a beginning of the answer."""
    found = []
    for question in QUESTIONS:
        asked: dict[str, Any] = {"model": "any", "max_tokens": 40, "system": "Be brief.", "extra_body": GREEDY}
        asked["messages"] = [{"role": "user", "content": question}]
        whole = claude.messages.create(**asked)
        with claude.messages.stream(**asked) as stream:
            streamed = "".join(stream.text_stream)
            assert stream.get_final_message().usage.output_tokens == whole.usage.output_tokens
        found.append("".join([block.text for block in whole.content if block.type == "text"]))
        assert streamed == found[-1]
    return found


def calls(claude: Anthropic) -> list[dict[str, Any]]:
    found = []
    for seed in range(ANSWERS):
        message = claude.messages.create(
            model="any",
            max_tokens=200,
            messages=[{"role": "user", "content": QUESTIONS[0]}],
            tools=TOOLS,
            tool_choice={"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
            extra_body={"seed": seed, "temperature": 1},
        )
        (call,) = message.content
        assert call.type == "tool_use" and message.stop_reason == "tool_use"
        jsonschema.validate(call.input, CITY)
        found.append(dict(call.input))
    return found


def test_texts_and_calls(lead: LeadProcess, claude: Anthropic) -> None:
    alone = texts(claude), calls(claude)
    with BackProcess(lead.back_port, "--engine", "llamacpp", "--threads", "1"):
        lead.has_backs(1)
        assert (texts(claude), calls(claude)) == alone
        assert lead.backs()[0]["accepted"] > 0


def test_a_stop_sequence_and_the_figures(claude: Anthropic) -> None:
    asked: dict[str, Any] = {"model": "any", "max_tokens": 40, "extra_body": GREEDY}
    asked["messages"] = [{"role": "user", "content": QUESTIONS[0]}]
    whole = claude.messages.create(**asked)
    (block,) = whole.content
    assert block.type == "text"
    middle = block.text[len(block.text) // 2 :][:6]
    cut = claude.messages.create(**asked, stop_sequences=["\x00", middle])
    assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", middle)
    assert [part.text for part in cut.content if part.type == "text"] == [block.text.partition(middle)[0]]
    count = claude.messages.count_tokens(model="any", messages=asked["messages"]).input_tokens
    assert count == cut.usage.input_tokens + (cut.usage.cache_read_input_tokens or 0)
    assert cut.usage.cache_read_input_tokens
