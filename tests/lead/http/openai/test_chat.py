"""Chat completions, whole and streamed, as OpenAI's client reads them."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from typing import Any

import pytest
from openai import OpenAI

from tests.support.api import HI, events, post
from tests.support.http import SUMMARY, AnswerGate, ScriptedAnswerer

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
    "speedup": {"times": 2.1, "error": 0.1},
}
USAGE = {
    "prompt_tokens": 11,
    "completion_tokens": 6,
    "total_tokens": 17,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {
        "accepted_prediction_tokens": 3,
        "rejected_prediction_tokens": 2,
        "reasoning_tokens": 0,
    },
}


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
    # Programs for llama-server look for them here.
    assert usage.model_extra is not None and usage.model_extra["timings"] == TIMINGS


def test_stream_on_the_wire(url: str, answerer: ScriptedAnswerer) -> None:
    """Batches without text make no chunk. Any text survives. Usage comes only on request."""
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


def test_several_answers_in_a_stream(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    gate = AnswerGate()
    answerer.scripts = [[("a",), gate, ("b",)], [("c",), ("d",)]]
    stream = client.chat.completions.create(
        model="any", messages=HI, n=2, seed=(1 << 64) - 1, stream=True, stream_options={"include_usage": True}
    )
    texts: defaultdict[int, str] = defaultdict(str)
    reasons: dict[int, Any] = {}
    usage = None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
                if choice.index == 1:
                    gate.open()  # the second ends while the first waits
    assert texts == {0: "ab", 1: "cd"} and reasons == {0: "stop", 1: "stop"}
    assert usage is not None and (usage.prompt_tokens, usage.completion_tokens) == (11, 12)
    assert [answerer.next_asked().question.sampling.seed for _ in range(2)] == [(1 << 64) - 1, 0]
