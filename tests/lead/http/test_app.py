"""The HTTP side: the shapes that OpenAI's and llama_duo's clients rely on, every error, and clients that go away.

The app is the real one, under a real uvicorn on a real socket; only the answers are scripted (see http_server).
"""

from __future__ import annotations

import dataclasses
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
import requests
from openai import OpenAI

import lead
from duo.errors import BusyError, ContextError, DuoError, RequestError
from duo.sampling.params import SamplingParams
from lead.api import BackView, Question
from lead.http.openai.chat import ChatRequest
from lead.http.options import BODY_LIMIT
from tests.support.http import PATIENCE, SUMMARY, AnswerGate, ScriptedAnswerer, conversation, vocabulary

CHAT = "/v1/chat/completions"
HI: list[Any] = [{"role": "user", "content": "Hi"}]

TIMINGS = {
    "cache_n": 4,
    "prompt_n": 7,
    "prompt_ms": 500.0,
    "prompt_per_token_ms": pytest.approx(500 / 7),
    "prompt_per_second": 14.0,
    "predicted_n": 6,
    "predicted_ms": 2000.0,
    "predicted_per_token_ms": pytest.approx(2000 / 6),
    "predicted_per_second": 3.0,
    "draft_n": 5,
    "draft_n_accepted": 3,
}
USAGE = {
    "prompt_tokens": 11,
    "completion_tokens": 6,
    "total_tokens": 17,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"accepted_prediction_tokens": 3, "rejected_prediction_tokens": 2},
}


@pytest.fixture
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=PATIENCE) as client:
        yield client


def post(url: str, path: str = CHAT, *, raw: bytes | None = None, **fields: Any) -> requests.Response:
    body = json.dumps(fields).encode() if raw is None else raw
    return requests.post(url + path, data=body, timeout=PATIENCE)


def error_of(response: requests.Response, status: int) -> dict[str, Any]:
    """The error object, whose shape is the same everywhere."""
    assert response.status_code == status, response.text
    body = response.json()
    assert body.keys() == {"error"}
    error: dict[str, Any] = body["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"] and "\n" not in error["message"]
    assert error["type"] == ("invalid_request_error" if status < 500 else "server_error")
    return error


def events(response: requests.Response) -> list[str]:
    """The data of server-sent events, to the end of the stream."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.endswith("\n\n")
    blocks = response.text.removesuffix("\n\n").split("\n\n")
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    return [block.removeprefix("data: ") for block in blocks]


# -- What can be looked at -----------------------------------------------------------------------------------------


def test_health_and_everything_else_while_loading(url: str, answerer: ScriptedAnswerer) -> None:
    answerer.ready = False
    health = requests.get(f"{url}/health", timeout=PATIENCE)
    assert (health.status_code, health.json()) == (503, {"status": "loading model"})
    for response in (
        requests.get(f"{url}/v1/models", timeout=PATIENCE),
        requests.get(f"{url}/backs", timeout=PATIENCE),
        post(url, messages=HI),
        post(url, "/messages", messages=HI),
    ):
        error = error_of(response, 503)
        assert error["code"] == "model_loading" and "loading" in error["message"]
        assert response.headers["retry-after"] == "1"
    answerer.ready = True
    health = requests.get(f"{url}/health", timeout=PATIENCE)
    assert (health.status_code, health.json()) == (200, {"status": "ok"})


def test_openai_client_comes_again_after_loading(url: str, answerer: ScriptedAnswerer) -> None:
    """The error and its header are of the kind that the client retries by itself."""
    answerer.refusal = BusyError("the queue is full")
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=1, timeout=PATIENCE) as client:
        pauses: list[float] = []

        def instead_of_sleeping(*, retries_taken: int, max_retries: int, options: Any, response: Any) -> None:
            pauses.append(float(response.headers["retry-after"]))
            answerer.refusal = None

        client._sleep_for_retry = instead_of_sleeping  # type: ignore[method-assign]
        completion = client.chat.completions.create(model="any", messages=HI)
    assert pauses == [1.0]
    assert completion.choices[0].message.content == "Hello, world!"


def test_models(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    listed = client.models.list()
    assert listed.object == "list"
    (model,) = listed.data
    assert (model.id, model.object, model.created, model.owned_by) == ("fake-13m", "model", 1_700_000_000, "duo")


def test_backs(url: str, answerer: ScriptedAnswerer) -> None:
    assert requests.get(f"{url}/backs", timeout=PATIENCE).json() == {"data": []}
    answerer.views = [BackView("attic", "tiny-1m", "drafting", 1.25, 40, 31), BackView("é", "m", "waiting", None, 0, 0)]
    assert requests.get(f"{url}/backs", timeout=PATIENCE).json() == {
        "data": [
            {
                "name": "attic",
                "model": "tiny-1m",
                "state": "drafting",
                "round_trip_ms": 1.25,
                "drafted": 40,
                "accepted": 31,
            },
            {"name": "é", "model": "m", "state": "waiting", "round_trip_ms": None, "drafted": 0, "accepted": 0},
        ]
    }


# -- Chat completions ----------------------------------------------------------------------------------------------


def test_whole_answer_with_the_openai_client(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    completion = client.chat.completions.create(model="whatever", messages=HI)
    assert completion.object == "chat.completion" and completion.model == "fake-13m"
    assert completion.id.startswith("chatcmpl-") and completion.created > 1_700_000_000
    (choice,) = completion.choices
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "stop", None)
    assert (choice.message.role, choice.message.content) == ("assistant", "Hello, world!")
    assert completion.usage is not None and completion.usage.model_dump(exclude_none=True) == USAGE
    assert completion.model_extra is not None and completion.model_extra["timings"] == TIMINGS


def test_streamed_answer_with_the_openai_client(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    answerer.summary = dataclasses.replace(SUMMARY, finish_reason="length")
    chunks = list(
        client.chat.completions.create(
            model="whatever", messages=HI, stream=True, stream_options={"include_usage": True}
        )
    )
    assert {(chunk.object, chunk.model, chunk.id) for chunk in chunks} == {
        ("chat.completion.chunk", "fake-13m", chunks[0].id)
    }
    first, *texts, last, usage = chunks
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    # One chunk per batch.
    assert [chunk.choices[0].delta.content for chunk in texts] == ["Hello,", " wor", "ld!"]
    assert {chunk.choices[0].finish_reason for chunk in (first, *texts)} == {None}
    assert {chunk.usage for chunk in (first, *texts, last)} == {None}
    assert (last.choices[0].finish_reason, last.choices[0].delta.content) == ("length", None)
    assert last.model_extra is not None and last.model_extra["timings"] == TIMINGS
    assert usage.choices == [] and usage.usage is not None
    assert usage.usage.model_dump(exclude_none=True) == USAGE
    # Where programs made for llama-server look for them.
    assert usage.model_extra is not None and usage.model_extra["timings"] == TIMINGS


def test_stream_on_the_wire(url: str, answerer: ScriptedAnswerer) -> None:
    """Batches without text make no chunk, any text survives, usage comes only where it is asked for."""
    odd = 'ë "\\ \u2028\n\n\r data: 🎉\x00'
    answerer.script = [(), ("",), (odd,)]
    response = post(url, messages=HI, stream=True)
    *chunks, done = events(response)
    assert done == "[DONE]"
    parsed = [json.loads(chunk) for chunk in chunks]
    assert [chunk["choices"][0]["delta"] for chunk in parsed] == [
        {"role": "assistant", "content": ""},
        {"content": odd},
        {},
    ]
    assert not any("usage" in chunk for chunk in parsed)
    assert ["timings" in chunk for chunk in parsed] == [False, False, True]
    assert response.headers["cache-control"] == "no-cache"


def test_chunks_come_as_the_pieces_do(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    gate = AnswerGate()
    answerer.script = [("first",), gate, ("second",)]
    chunks = iter(client.chat.completions.create(model="any", messages=HI, stream=True))
    assert [next(chunks).choices[0].delta.content for _ in range(2)] == ["", "first"]
    gate.open()
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["second", None]


def test_rates_of_no_time_are_zero(url: str, answerer: ScriptedAnswerer) -> None:
    answerer.script = []
    answerer.summary = dataclasses.replace(
        SUMMARY, cached_tokens=11, completion_tokens=0, prompt_seconds=0.0, decode_seconds=0.0, drafted=0, accepted=0
    )
    body = post(url, messages=HI).json()
    assert body["choices"][0]["message"]["content"] == ""
    assert body["timings"].pop("cache_n") == 11
    assert set(body["timings"].values()) == {0}


def test_an_answer_is_always_let_go(url: str, answerer: ScriptedAnswerer) -> None:
    for stream in (False, True):
        assert post(url, messages=HI, stream=stream).status_code == 200
        answer = answerer.next_asked()
        assert answer.cancelled.wait(PATIENCE) and answer.ended.wait(PATIENCE)


# -- Parameters ----------------------------------------------------------------------------------------------------


def asked(url: str, answerer: ScriptedAnswerer, path: str = CHAT, **fields: Any) -> Question:
    response = post(url, path, **{"messages": HI, **fields})
    assert response.status_code == 200, response.text
    return answerer.next_asked().question


def test_every_parameter_arrives(url: str, answerer: ScriptedAnswerer) -> None:
    question = asked(
        url,
        answerer,
        temperature=1,
        top_p=0.9,
        top_k=40,
        min_p=0.05,
        seed=(1 << 64) - 1,
        max_tokens=99,
        presence_penalty=0.1,
        frequency_penalty=-0.2,
        repetition_penalty=1.1,
        logit_bias={"17": -100, "3": 1.5},
        ignore_eos=True,
        stop=["\n", "é"],
        stop_token_ids=[7, 9],
        logprobs=True,
        top_logprobs=5,
    )
    assert question == Question(
        prompt=vocabulary().chat(HI),
        sampling=SamplingParams(1.0, 40, 0.9, 0.05, 1.1, 0.1, -0.2, {17: -100.0, 3: 1.5}, (1 << 64) - 1),
        max_tokens=99,
        ignore_eos=True,
        stop=("\n", "é"),
        stop_tokens=(7, 9),
        top_logprobs=5,
    )


def test_defaults_and_null(url: str, answerer: ScriptedAnswerer) -> None:
    nulls = dict.fromkeys((*ChatRequest.model_fields.keys() - {"messages"}, "repeat_penalty"))
    givens: list[dict[str, Any]] = [{}, nulls, {"top_k": -1, "max_tokens": -1}]
    for fields in givens:
        question = asked(url, answerer, **fields)
        expected = SamplingParams(temperature=0.8, seed=question.sampling.seed)
        assert question == Question(prompt=vocabulary().chat(HI), sampling=expected)


def test_without_a_seed_each_answer_has_its_own(url: str, answerer: ScriptedAnswerer) -> None:
    fields: list[dict[str, Any]] = [{}, {}, {"seed": -1}, {"seed": -1}, {"seed": None}]
    seeds = {asked(url, answerer, **given).sampling.seed for given in fields}
    assert len(seeds) == len(fields) and all(0 <= seed < 1 << 63 for seed in seeds)


def test_other_spellings(url: str, answerer: ScriptedAnswerer) -> None:
    assert asked(url, answerer, repeat_penalty=1.3).sampling.repetition_penalty == 1.3
    assert asked(url, answerer, repetition_penalty=None, repeat_penalty=1.3).sampling.repetition_penalty == 1.3
    assert asked(url, answerer, top_p=0, typical_p=1.0, dry_multiplier=0.0, mirostat=0).sampling.top_p == 0
    assert asked(url, answerer, max_completion_tokens=5).max_tokens == 5
    assert asked(url, answerer, max_completion_tokens=5, max_tokens=9).max_tokens == 5
    assert asked(url, answerer, n_predict=3, max_completion_tokens=5, max_tokens=9).max_tokens == 3
    assert asked(url, answerer, n_predict=None, max_tokens=9).max_tokens == 9


def test_numbers_of_clients_that_know_no_integers(url: str, answerer: ScriptedAnswerer) -> None:
    question = asked(url, answerer, max_tokens=9.0, top_k=40.0, seed=7.0, n=1.0, logprobs=True, top_logprobs=2.0)
    assert (question.max_tokens, question.sampling.top_k, question.sampling.seed) == (9, 40, 7)
    assert question.top_logprobs == 2
    for wrong in (2.5, True, "3", 1e300):
        assert post(url, messages=HI, max_tokens=wrong).status_code == 400
    schema = ChatRequest.model_json_schema()["properties"]["max_tokens"]["anyOf"][0]
    assert schema == {"type": "integer", "minimum": -1, "exclusiveMaximum": 1 << 31}


def test_variables_of_the_template(url: str, answerer: ScriptedAnswerer) -> None:
    """As Qwen's enable_thinking; but no template of the client's own."""
    asked(url, answerer, chat_template_kwargs={"enable_thinking": False})
    refused = post(url, messages=HI, chat_template_kwargs={"chat_template": "{{ 1 }}"})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "chat_template_kwargs"


def test_messages_as_parts_and_roles(url: str, answerer: ScriptedAnswerer) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    question = asked(
        url,
        answerer,
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": parts, "name": "ann"},
            {"role": "assistant", "content": "", "tool_calls": None, "refusal": None},
            {"role": "user", "content": "日本\n語"},
        ],
    )
    assert conversation(question.prompt)["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one\ntwo"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "日本\n語"},
    ]


@pytest.mark.parametrize(
    ("turn", "content"),
    [
        ({"refusal": "I cannot."}, "I cannot."),
        ({"content": None, "refusal": "I cannot."}, "I cannot."),
        ({"content": "", "refusal": "I cannot."}, "I cannot."),
        ({"content": "Well.", "refusal": "I cannot."}, "Well."),
        ({"content": [{"type": "refusal", "refusal": "I cannot."}]}, "I cannot."),
        ({"content": [{"type": "text", "text": "Well."}, {"type": "refusal", "refusal": "No."}]}, "Well.\nNo."),
    ],
)
def test_a_refusal_is_what_the_assistant_said(
    url: str, answerer: ScriptedAnswerer, turn: dict[str, Any], content: str
) -> None:
    question = asked(url, answerer, messages=[*HI, {"role": "assistant", **turn}, *HI])
    assert conversation(question.prompt)["messages"][1] == {"role": "assistant", "content": content}


def test_fields_that_change_nothing_are_taken(url: str, answerer: ScriptedAnswerer) -> None:
    asked(
        url,
        answerer,
        model={"not": "even a string"},
        user="ann",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        parallel_tool_calls=True,
        n=1,
        stop="",
        logprobs=False,
        top_logprobs=0,
        tools=[],
        tool_choice="auto",
        response_format={"type": "text"},
        modalities=["text"],
        something_unheard_of=[1, 2, 3],
    )


# -- Errors of the request -----------------------------------------------------------------------------------------

IMAGE = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "data:"}}]

CALL: dict[str, Any] = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}


WRONG: list[tuple[dict[str, Any], str, str]] = [
    # What the lead cannot do.
    ({"functions": [{}]}, "functions", "use tools"),
    ({"function_call": {"name": "f"}}, "function_call", "use tools"),
    ({"modalities": ["text", "audio"]}, "modalities", "text"),
    ({"add_generation_prompt": False}, "add_generation_prompt", "where the answer begins"),
    ({"continue_final_message": True}, "continue_final_message", "/v1/completions"),
    ({"audio": {"voice": "alloy"}}, "audio", "text"),
    ({"grammar": "root ::= x"}, "grammar", "response_format"),
    ({"guided_regex": "a+"}, "guided_regex", "response_format"),
    ({"messages": [{"role": "user", "content": IMAGE}]}, "messages[0].content", "image_url"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content", "not a text part"),
    ({"messages": [{"role": "user", "content": [7]}]}, "messages[0].content", "7"),
    (
        {"messages": [{"role": "user", "content": [{"type": "refusal", "refusal": "No."}]}]},
        "messages[0].content",
        "ref",
    ),
    ({"messages": [{"role": "user", "refusal": "No."}]}, "messages[0]", "content is missing"),
    ({"messages": [{"role": "assistant", "refusal": 7}]}, "messages[0].refusal", "7"),
    ({"messages": [*HI, {"role": "tool", "content": "4"}]}, "messages[1]", "tool_call_id is missing"),
    ({"messages": [{"role": "user", "tool_calls": [CALL]}]}, "messages[0]", "assistant's"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]},
        "messages[0].tool_calls[0].function",
        "missing",
    ),
    # Tools.
    ({"tools": [{"type": "function"}]}, "tools[0].function", "missing"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", "web_search"),
    ({"tools": [tool("two words")]}, "tools[0].function.name", "two words"),
    ({"tools": [tool("a"), tool("a")]}, "tools", "two have the name"),
    *[
        (
            {"tools": [tool("a"), {"function": {"name": "b", "parameters": {"type": kind}}}]},
            "tools[1].function.parameters",
            f'tool "b" are of type {json.dumps(kind)}: parameters must be of type object',
        )
        for kind in ("string", ["string", "null"], 7)
    ],
    ({"tool_choice": "required"}, "tool_choice", "no tools"),
    ({"tools": [tool("a")], "tool_choice": "perhaps"}, "tool_choice", "perhaps"),
    ({"tools": [tool("a")], "tool_choice": {"name": "a"}}, "tool_choice", "neither"),
    ({"tools": [tool("a")], "tool_choice": {"type": "function", "function": {"name": "b"}}}, "tool_choice", "no tool"),
    # Structure.
    ({"response_format": {"type": "xml"}}, "response_format.type", "xml"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema", "missing"),
    ({"response_format": {"type": "json_object"}, "json_schema": {"type": "object"}}, "json_schema", "one of them"),
    ({"json_schema": {"type": "nothing"}}, "response_format", "nothing"),
    # How many, and where to end.
    ({"n": 0}, "n", "n is 0"),
    ({"n": 129}, "n", "128"),
    ({"n": "2"}, "n", '"2"'),
    ({"stop": 5}, "stop", "5"),
    ({"stop": ["a", ""]}, "stop[1]", '""'),
    ({"stop": ["a"] * 33}, "stop", "32"),
    ({"stop": "a" * 257}, "stop[0]", "256"),
    ({"stop_token_ids": 7}, "stop_token_ids", "7"),
    ({"stop_token_ids": ["7"]}, "stop_token_ids[0]", '"7"'),
    ({"stop_token_ids": [-1]}, "stop_token_ids[0]", "-1"),
    ({"stop_token_ids": [1 << 31]}, "stop_token_ids[0]", "2147483648"),
    ({"stop_token_ids": [1] * 33}, "stop_token_ids", "32"),
    ({"top_logprobs": 3}, "top_logprobs", "logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "20"),
    ({"logprobs": 1}, "logprobs", "1"),
    # Wrong types.
    ({"messages": "Hi"}, "messages", "list"),
    ({"messages": ["Hi"]}, "messages[0]", "Hi"),
    ({"messages": [{"role": "user"}]}, "messages[0]", "content is missing"),
    ({"messages": [{"content": "Hi"}]}, "messages[0].role", "missing"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0]", "content is missing"),
    ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages[0].role", "robot"),
    ({"messages": []}, "messages", "at least 1"),
    ({"messages": None}, "messages", "list"),
    ({"temperature": "hot"}, "temperature", "hot"),
    ({"temperature": True}, "temperature", "true"),
    ({"top_k": 2.5}, "top_k", "2.5"),
    ({"seed": "7"}, "seed", '"7"'),
    ({"max_tokens": [1]}, "max_tokens", "[1]"),
    ({"stream": "yes"}, "stream", "yes"),
    ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage", "1"),
    ({"ignore_eos": 0}, "ignore_eos", "0"),
    ({"logit_bias": [1]}, "logit_bias", "[1]"),
    ({"logit_bias": {"1": "x"}}, "logit_bias.1", "x"),
    ({"logit_bias": {"one": 1}}, "logit_bias", "one"),
    ({"logit_bias": {"-1": 1}}, "logit_bias", "-1"),
    ({"logit_bias": {"٣": 1}}, "logit_bias", "٣"),
    ({"logit_bias": {"9" * 5000: 1}}, "logit_bias", "not a token id"),
    # Out of range.
    ({"temperature": -0.1}, "temperature", "-0.1"),
    ({"top_p": -0.1}, "top_p", "top_p is -0.1"),
    ({"top_p": 1.5}, "top_p", "1.5"),
    ({"top_k": -2}, "top_k", "-2"),
    ({"min_p": 2}, "min_p", "2"),
    ({"repeat_penalty": 0}, "repeat_penalty", "0"),
    ({"presence_penalty": 1e9}, "presence_penalty", "1000000000"),
    ({"seed": 1 << 64}, "seed", str(1 << 64)),
    ({"max_tokens": 0}, "max_tokens", "at least 1"),
    ({"max_completion_tokens": 0}, "max_completion_tokens", "at least 1"),
    ({"max_tokens": -2}, "max_tokens", "-2"),
    ({"max_tokens": 1 << 31}, "max_tokens", str(1 << 31)),
]


@pytest.mark.parametrize(("fields", "param", "fragment"), WRONG)
def test_wrong_requests(
    url: str, answerer: ScriptedAnswerer, fields: dict[str, Any], param: str, fragment: str
) -> None:
    error = error_of(post(url, **{"messages": HI, **fields}), 400)
    assert error["param"] == param
    assert fragment in error["message"] and len(error["message"]) < 250
    assert answerer.asked.empty()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"hello",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"messages":[{"role":"user","content":"\\ud800"}]}',
        b'{"messages":[{"role":"user","content":"a"}],"temperature":NaN}',
        b'{"messages":[{"role":"user","content":"a"}],"seed":' + b"9" * 5000 + b"}",
    ],
)
def test_bodies_that_are_no_json_object(url: str, answerer: ScriptedAnswerer, raw: bytes) -> None:
    assert "JSON" in error_of(post(url, raw=raw), 400)["message"]


def test_a_long_value_makes_a_short_message(url: str, answerer: ScriptedAnswerer) -> None:
    assert len(error_of(post(url, messages=HI, temperature="x" * 100_000), 400)["message"]) < 250


def test_openai_client_sees_its_own_exceptions(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="any", messages=HI, n=300)
    assert caught.value.param == "n" and "128" in caught.value.message
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="any", input="text")
    answerer.ready = False
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="any", messages=HI)


def test_too_large(url: str, answerer: ScriptedAnswerer) -> None:
    def body(size: int) -> bytes:
        frame = b'{"messages":[{"role":"user","content":"Hi"}]%s}'
        return frame % (b" " * (size - len(frame) + 2))

    assert len(body(BODY_LIMIT)) == BODY_LIMIT
    assert post(url, raw=body(BODY_LIMIT)).status_code == 200
    assert str(BODY_LIMIT) in error_of(post(url, raw=body(BODY_LIMIT + 1)), 413)["message"]

    def endless() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * (BODY_LIMIT // 10)

    chunked = requests.post(url + CHAT, data=endless(), timeout=PATIENCE)
    error_of(chunked, 413)


def test_paths_and_methods_that_are_not_there(url: str, answerer: ScriptedAnswerer) -> None:
    error = error_of(requests.get(f"{url}/v1/nothing", timeout=PATIENCE), 404)
    assert error["message"] == "GET /v1/nothing: not found"
    response = requests.get(url + CHAT, timeout=PATIENCE)
    assert error_of(response, 405)["message"] == f"GET {CHAT}: method not allowed, use POST"
    assert response.headers["allow"] == "POST"


# -- Errors of the lead --------------------------------------------------------------------------------------------


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


# -- llama_duo's request -------------------------------------------------------------------------------------------


def test_messages(url: str, answerer: ScriptedAnswerer) -> None:
    response = post(url, "/messages", system="Be brief.", max_tokens=2048, messages=HI)
    assert (response.status_code, response.json()) == (200, {"content": {"text": "Hello, world!"}})
    question = answerer.next_asked().question
    assert conversation(question.prompt)["messages"] == [{"role": "system", "content": "Be brief."}, *HI]
    assert (question.sampling.temperature, question.max_tokens) == (0.0, 2048)


def test_messages_samples_only_when_asked_to(url: str, answerer: ScriptedAnswerer) -> None:
    assert asked(url, answerer, "/messages").sampling.temperature == 0.0
    assert asked(url, answerer, "/messages", temperature=0.5).sampling.temperature == 0.5
    sampling = asked(url, answerer, "/messages", seed=7).sampling
    assert (sampling.temperature, sampling.seed) == (0.8, 7)
    assert asked(url, answerer, "/messages", system=None).prompt == vocabulary().chat(HI)


def test_messages_errors(url: str, answerer: ScriptedAnswerer) -> None:
    assert error_of(post(url, "/messages", messages=[]), 400)["param"] == "messages"
    assert error_of(post(url, "/messages", messages=HI, system=5), 400)["param"] == "system"
    assert error_of(post(url, "/messages", messages=HI, stream=True), 400)["param"] == "stream"
    assert error_of(post(url, "/messages", messages=HI, stop_sequences=["a"]), 400)["param"] == "stop_sequences"


# -- Clients that go away ------------------------------------------------------------------------------------------


def connect(url: str) -> socket.socket:
    address = urlsplit(url)
    assert address.hostname and address.port
    return socket.create_connection((address.hostname, address.port), timeout=PATIENCE)


def request_bytes(path: str, **fields: Any) -> bytes:
    body = json.dumps(fields).encode()
    return b"POST %s HTTP/1.1\r\nHost: lead\r\nContent-Length: %d\r\n\r\n%s" % (path.encode(), len(body), body)


def read_until(connection: socket.socket, mark: bytes) -> bytes:
    received = b""
    while mark not in received:
        part = connection.recv(65536)
        assert part, f"closed before {mark!r} came: {received!r}"
        received += part
    return received


@pytest.mark.parametrize(
    ("path", "stream", "words"),
    [(CHAT, False, ()), (CHAT, False, ("Hel",)), ("/messages", None, ()), (CHAT, True, ()), (CHAT, True, ("Hel",))],
)
def test_a_client_that_goes_away_stops_its_answer(
    url: str, answerer: ScriptedAnswerer, path: str, stream: bool | None, words: tuple[str, ...]
) -> None:
    answerer.script = [words, AnswerGate()]
    with connect(url) as connection:
        connection.sendall(request_bytes(path, messages=HI, stream=stream))
        answer = answerer.next_asked()
        if stream:
            read_until(connection, words[0].encode() if words else b'"role"')
        assert not answer.cancelled.is_set()
        # Others are served meanwhile.
        assert requests.get(f"{url}/health", timeout=PATIENCE).status_code == 200
    assert answer.cancelled.wait(PATIENCE)
    # The iteration ends too, though this answer takes no notice of being cancelled.
    assert answer.ended.wait(PATIENCE)


def test_a_client_that_does_not_read_and_goes_away(url: str, answerer: ScriptedAnswerer) -> None:
    """The stream waits in the middle of sending, not of generating, when the client goes."""
    answerer.script = [("x" * 100_000,)] * 1000
    with connect(url) as connection:
        connection.sendall(request_bytes(CHAT, messages=HI, stream=True))
        read_until(connection, b"xxx")
        answer = answerer.next_asked()
    assert answer.cancelled.wait(PATIENCE) and answer.ended.wait(PATIENCE)


def test_closing_the_openai_stream_stops_the_answer(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    answerer.script = [("Hel",), AnswerGate()]
    with client.chat.completions.create(model="any", messages=HI, stream=True) as stream:
        next(stream)
        answer = answerer.next_asked()
    assert answer.cancelled.wait(PATIENCE) and answer.ended.wait(PATIENCE)


def test_a_client_that_goes_away_in_the_middle_of_its_body(
    url: str, answerer: ScriptedAnswerer, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(url) as connection:
        connection.sendall(request_bytes(CHAT, messages=HI)[:-5])
    assert post(url, messages=HI).status_code == 200
    assert answerer.next_asked() and answerer.asked.empty()
    assert not [record for record in caplog.records if record.exc_info]


# -- The example ---------------------------------------------------------------------------------------------------


def test_openai_example(url: str, answerer: ScriptedAnswerer) -> None:
    script = Path(lead.__file__).parents[1] / "examples" / "openai_client.py"
    command = [sys.executable, str(script), f"{url}/v1"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    figures = "(11 prompt tokens, 6 completion tokens, 3 guesses accepted, 2 rejected)"
    assert run.stdout.count(f"Hello, world!\n{figures}\n") == 2
