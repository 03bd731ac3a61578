"""Log probabilities of answers and prompts."""

from __future__ import annotations

from typing import Any

import pytest
from openai import OpenAI

from duo.sampling.logprobs import Logprobs
from lead.api import Piece
from tests.support.api import HI, TEXT, pieces, post
from tests.support.http import ScriptedAnswerer, vocabulary


def test_log_probabilities_of_a_chat(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    end = Piece("", token=min(vocabulary().eos), logprobs=Logprobs(-0.1, []))
    never = Piece("", token=7, logprobs=Logprobs(float("-inf"), []))
    answerer.script = [pieces("Köln 日", 2)[:1], (*pieces("Köln 日", 2)[1:], never, end)]
    completion = client.chat.completions.create(model="any", messages=HI, logprobs=True, top_logprobs=2)
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    *told, last = logprobs.content
    assert b"".join(bytes(entry.bytes or []) for entry in told).decode() == "Köln 日"
    assert {entry.logprob for entry in told} == {-0.5} and last.logprob == -9999.0
    assert [top.logprob for top in told[0].top_logprobs] == [0.0, -1.0]
    streamed = [
        entry.model_dump()
        for chunk in client.chat.completions.create(
            model="any", messages=HI, logprobs=True, top_logprobs=2, stream=True
        )
        for choice in chunk.choices
        if choice.logprobs
        for entry in choice.logprobs.content or []
    ]
    assert streamed == [entry.model_dump() for entry in logprobs.content]


def test_log_probabilities_of_a_completion(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    answerer.script = [pieces("Once upon", 1), pieces(" a time", 1)]
    completion = client.completions.create(model="any", prompt="a", logprobs=1)
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None and logprobs.tokens and logprobs.text_offset and logprobs.top_logprobs
    text = completion.choices[0].text
    assert "".join(logprobs.tokens) == text == "Once upon a time"
    for token, offset in zip(logprobs.tokens, logprobs.text_offset, strict=True):
        assert text[offset:].startswith(token)
    assert set(logprobs.token_logprobs or []) == {-0.5} and list(logprobs.top_logprobs[0].values()) == [0.0]
    offsets = [
        offset
        for chunk in client.completions.create(model="any", prompt="a", logprobs=1, stream=True)
        if chunk.choices[0].logprobs
        for offset in chunk.choices[0].logprobs.text_offset or []
    ]
    assert offsets == logprobs.text_offset


@pytest.mark.parametrize("prompt", ["Once upon a Köln", [0, 41, 42, 43]])
def test_log_probabilities_of_a_prompt(client: OpenAI, answerer: ScriptedAnswerer, prompt: Any) -> None:
    """Programs that score texts ask this way. They cut the lists at the number of the prompt's tokens."""
    end = Piece("", token=min(vocabulary().eos), logprobs=Logprobs(-0.1, []))
    answerer.script = [(*pieces(" a time", 1), end)]
    asked: Any = {"model": "any", "prompt": prompt, "echo": True, "logprobs": 1}
    completion = client.completions.create(**asked)
    question = answerer.next_asked().question
    assert question.prompt_logprobs and question.top_logprobs == 1
    logprobs: Any = completion.choices[0].logprobs
    text, count = completion.choices[0].text, len(question.prompt)
    assert text.endswith(" a time") and len(logprobs.tokens) == count + len(pieces(" a time")) + 1
    assert logprobs.token_logprobs[0] is None and logprobs.top_logprobs[0] is None
    assert set(logprobs.token_logprobs[1:count]) == {-0.25} and logprobs.token_logprobs[-1] == -0.1
    assert [list(top.values()) for top in logprobs.top_logprobs[1:count]] == [[-0.25]] * (count - 1)
    for token, offset in zip(logprobs.tokens, logprobs.text_offset, strict=True):
        assert text[offset:].startswith(token) or token.startswith("bytes:")
    streamed: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    told = ""
    for chunk in client.completions.create(**asked, stream=True):
        told += chunk.choices[0].text
        if chunk.choices[0].logprobs:
            for name, values in chunk.choices[0].logprobs.model_dump().items():
                streamed[name] += values
    assert told == text and streamed == logprobs.model_dump()


def test_tokens_that_are_written_out_in_a_prompt_belong_to_its_text(url: str, answerer: ScriptedAnswerer) -> None:
    (special,) = vocabulary().eos
    body = post(url, TEXT, prompt=[*vocabulary().encode("ab "), special, 41, 42], echo=True, logprobs=1).json()
    choice = body["choices"][0]
    for token, offset in zip(choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"], strict=True):
        assert choice["text"][offset:].startswith(token)


def test_of_tokens_that_are_spelled_alike_the_likeliest_counts(url: str, answerer: ScriptedAnswerer) -> None:
    (special,) = vocabulary().eos
    answerer.script = [(Piece("a", token=41, logprobs=Logprobs(-3.0, [(special, -0.1), (0, -6.0), (50, -7.0)])),)]
    (top,) = post(url, TEXT, prompt="a", logprobs=3).json()["choices"][0]["logprobs"]["top_logprobs"]
    assert top[""] == -0.1 and len(top) == 2


def test_a_prompt_is_not_scored_unasked(url: str, answerer: ScriptedAnswerer) -> None:
    for fields in ({"echo": True}, {"logprobs": 1}, {}):
        assert post(url, TEXT, prompt="Hi", **fields).ok
        assert not answerer.next_asked().question.prompt_logprobs
