"""OpenAI's client against a real lead, alone and with a back: forms are followed, calls valid, and nothing depends on
the back but speed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import requests
from openai import OpenAI

from bench.harness.models import RUNTIMES
from bench.harness.processes import BackProcess, LeadProcess

pytestmark = pytest.mark.slow

ANSWERS = 10
"""Under each schema, alone and with a back."""

QUESTION: list[Any] = [{"role": "user", "content": "What does shutil.copytree do?"}]
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"$ref": "#/$defs/kind"},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "c"]}, "maxItems": 3},
    },
    "required": ["name", "age", "kind", "tags"],
    "additionalProperties": False,
    "$defs": {"kind": {"enum": ["cat", "dog"]}},
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "person", "parameters": PERSON}},
    {"type": "function", "function": {"name": "nothing", "parameters": {"type": "object", "maxProperties": 0}}},
]


@pytest.fixture(scope="module", params=RUNTIMES)
def lead(request: pytest.FixtureRequest) -> Iterator[LeadProcess]:
    # These forms lead the model where it is at a loss, and every token is a near tie: there llama.cpp has to compute
    # the same bits with guesses and without, and what other slots hold moves them as well.
    exact = ("--exact", "--parallel", "1") if request.param == "llamacpp" else ()
    with LeadProcess("--engine", request.param, "--threads", "1", "--print-mode", "none", *exact) as lead:
        yield lead.ready()


@pytest.fixture
def client(lead: LeadProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{lead.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


def people(client: OpenAI) -> list[str]:
    form: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    found = []
    for seed in range(ANSWERS):
        (choice,) = client.chat.completions.create(
            model="any", messages=QUESTION, response_format=form, temperature=1, seed=seed
        ).choices
        assert choice.finish_reason == "stop"
        found.append(choice.message.content or "")
    return found


def calls(client: OpenAI) -> list[tuple[str, str]]:
    found = []
    for seed in range(ANSWERS):
        stream = client.chat.completions.create(
            model="any", messages=QUESTION, tools=TOOLS, tool_choice="required", temperature=1, seed=seed, stream=True
        )
        chunks = [chunk.choices[0] for chunk in stream]
        assert chunks[-1].finish_reason == "tool_calls"
        assert not any(chunk.delta.content for chunk in chunks)
        (call,) = [call for chunk in chunks for call in chunk.delta.tool_calls or []]
        assert call.function is not None
        found.append((call.function.name or "", call.function.arguments or ""))
    return found


def test_forms_and_calls(lead: LeadProcess, client: OpenAI) -> None:
    alone = people(client), calls(client)
    for text in alone[0]:
        jsonschema.validate(json.loads(text), PERSON)
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}
    for name, arguments in alone[1]:
        jsonschema.validate(json.loads(arguments), schemas[name])
    assert len(set(alone[0])) > 1
    with BackProcess(lead.back_port, "--engine", "llamacpp", "--threads", "1"):
        lead.has_backs(1)
        assert (people(client), calls(client)) == alone


@pytest.mark.parametrize(("most", "begun"), [(1, False), (24, True)])
def test_a_call_that_is_cut(client: OpenAI, most: int, begun: bool) -> None:
    asked: dict[str, Any] = {"model": "any", "messages": QUESTION, "temperature": 0, "max_tokens": most}
    asked |= {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "person"}}}
    (whole,) = client.chat.completions.create(**asked).choices
    streamed = [chunk.choices[0] for chunk in client.chat.completions.create(**asked, stream=True)]
    assert whole.finish_reason == streamed[-1].finish_reason == "length"
    assert not whole.message.content and not any(chunk.delta.content for chunk in streamed)
    calls = [(call.function.name, call.function.arguments) for call in whole.message.tool_calls or []]
    told = [call.function for chunk in streamed for call in chunk.delta.tool_calls or []]
    assert [(function.name, function.arguments) for function in told] == calls
    assert [name for name, _ in calls] == ["person"] * begun
    assert all('{"name":'.startswith(arguments[:8]) for _, arguments in calls)


def test_several_answers_are_those_of_their_seeds(client: OpenAI) -> None:
    def ask(**fields: Any) -> list[str]:
        made = client.chat.completions.create(model="any", messages=QUESTION, max_tokens=16, temperature=1, **fields)
        return [choice.message.content or "" for choice in made.choices]

    assert ask(seed=7, n=3) == [*ask(seed=7), *ask(seed=8), *ask(seed=9)]


def test_log_probabilities_are_of_the_text(client: OpenAI) -> None:
    (choice,) = client.chat.completions.create(
        model="any", messages=QUESTION, max_tokens=24, temperature=0, logprobs=True, top_logprobs=3
    ).choices
    assert choice.logprobs is not None and choice.logprobs.content is not None
    assert "".join(one.token for one in choice.logprobs.content) == choice.message.content
    for one in choice.logprobs.content:
        # Greedy: the likeliest is the one that was picked.
        assert one.top_logprobs[0].token == one.token and len(one.top_logprobs) == 3
        assert sum(math.exp(top.logprob) for top in one.top_logprobs) <= 1 + 1e-6


def test_a_text_is_as_likely_as_when_it_was_written(lead: LeadProcess, client: OpenAI) -> None:
    """Written greedily token by token, and then read as a prompt."""
    text = "The function returns a list of"
    told = client.completions.create(model="any", prompt=text, temperature=0, max_tokens=40, logprobs=1).choices[0]
    assert told.logprobs is not None and told.logprobs.token_logprobs and told.logprobs.tokens
    before = requests.post(f"{lead.url}/tokenize", json={"content": text, "add_special": True}, timeout=30).json()
    after = requests.post(f"{lead.url}/tokenize", json={"content": told.text, "add_special": False}, timeout=30).json()
    prompt = before["tokens"] + after["tokens"]
    read: Any = client.completions.create(
        model="any", prompt=prompt, temperature=0, max_tokens=1, logprobs=1, echo=True
    ).choices[0]
    assert read.text.startswith(text + told.text)
    assert len(read.logprobs.tokens) == len(prompt) + 1 and read.logprobs.token_logprobs[0] is None
    count = len(before["tokens"])
    assert read.logprobs.tokens[count:-1] == told.logprobs.tokens
    # llama.cpp's logits move by some 0.1 with the width of a forward pass (docs/exactness.md).
    likely = read.logprobs.token_logprobs[count:-1]
    assert likely == pytest.approx(told.logprobs.token_logprobs, abs=0.2)
    for chance, tops in zip(likely, read.logprobs.top_logprobs[count:-1], strict=True):
        assert max(tops.values()) == pytest.approx(chance, abs=0.2), "written greedily, each was the likeliest"


def test_prompts_as_text_and_as_tokens(lead: LeadProcess, client: OpenAI) -> None:
    text = "The function returns "
    tokens = requests.post(f"{lead.url}/tokenize", json={"content": text, "add_special": True}, timeout=30).json()
    answers = client.completions.create(
        model="any", prompt=[text, text], temperature=0, max_tokens=12, echo=True, stop=["\n\n"]
    )
    (by_token,) = client.completions.create(
        model="any", prompt=tokens["tokens"], temperature=0, max_tokens=12, echo=True, stop=["\n\n"]
    ).choices
    assert [choice.text for choice in answers.choices] == [by_token.text] * 2
    assert by_token.text.startswith(text) and len(by_token.text) > len(text)
