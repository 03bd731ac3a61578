"""OpenAI's completions: prompts in every form, and prompts without an answer."""

from __future__ import annotations

from typing import Any

import pytest
from openai import OpenAI

from tests.support.api import TEXT, chunks, pieces, post
from tests.support.http import ScriptedAnswerer, vocabulary


def test_completion_with_the_openai_client(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    completion = client.completions.create(model="any", prompt="Once", max_tokens=9, stop=["\n"], echo=True)
    assert completion.object == "text_completion" and completion.id.startswith("cmpl-")
    (choice,) = completion.choices
    assert (choice.index, choice.text, choice.finish_reason, choice.logprobs) == (0, "OnceHello, world!", "stop", None)
    assert completion.usage is not None and completion.usage.total_tokens == 17
    question = answerer.next_asked().question
    assert question.prompt == vocabulary().encode("Once")
    assert (question.max_tokens, question.stop) == (9, ("\n",))


def test_streamed_completion_with_the_openai_client(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    told = list(
        client.completions.create(
            model="any", prompt="Once", stream=True, echo=True, stream_options={"include_usage": True}
        )
    )
    *texts, last, usage = told
    assert [chunk.choices[0].text for chunk in texts] == ["Once", "Hello,", " wor", "ld!"]
    assert (last.choices[0].finish_reason, last.choices[0].text) == ("stop", "")
    assert usage.choices == [] and usage.usage is not None and usage.usage.prompt_tokens == 11


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Hi", ["Hi"]),
        (["Hi", "Yes"], ["Hi", "Yes"]),
        ([5, 6], [[5, 6]]),
        ([[5, 6], [7]], [[5, 6], [7]]),
    ],
)
def test_prompts_of_all_forms(url: str, answerer: ScriptedAnswerer, prompt: Any, expected: list[Any]) -> None:
    body = post(url, TEXT, prompt=prompt, n=2, seed=40).json()
    assert [choice["index"] for choice in body["choices"]] == list(range(2 * len(expected)))
    for given in expected:
        tokens = vocabulary().encode(given) if isinstance(given, str) else given
        for seed in (40, 41):
            question = answerer.next_asked().question
            assert (question.prompt, question.sampling.seed) == (tokens, seed)
    # A prompt counts once, an answer each time.
    assert body["usage"]["prompt_tokens"] == 11 * len(expected)
    assert body["usage"]["completion_tokens"] == 6 * 2 * len(expected)


@pytest.mark.parametrize(
    ("fields", "param", "fragment"),
    [
        ({}, "prompt", "missing"),
        ({"prompt": []}, "prompt", "neither"),
        ({"prompt": [1, "a"]}, "prompt", "1 at 0"),
        ({"prompt": [[-1]]}, "prompt", "no token"),
        ({"prompt": [10**8]}, "prompt", "vocabulary"),
        ({"prompt": True}, "prompt", "true"),
        ({"prompt": "a", "n": 2, "best_of": 3}, "best_of", "same as n"),
        ({"prompt": ["a"] * 100, "n": 2}, "n", "128"),
        ({"prompt": "a", "logprobs": True}, "logprobs", "true"),
        ({"prompt": "a", "logprobs": 1, "echo": True, "n": 2}, "n", "one answer"),
        ({"prompt": [[5] * 7000], "logprobs": 20, "echo": True}, "logprobs", "147000"),
    ],
)
def test_wrong_completions(
    url: str, answerer: ScriptedAnswerer, fields: dict[str, Any], param: str, fragment: str
) -> None:
    response = post(url, TEXT, **fields)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param and fragment in error["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_alone(url: str, answerer: ScriptedAnswerer, stream: bool) -> None:
    """Older programs that score texts ask for no tokens at all."""
    answerer.script = [pieces("Yes")]
    fields: dict[str, Any] = {"prompt": "Once upon", "echo": True, "logprobs": 0, "max_tokens": 0}
    if stream:
        first, last, usage = chunks(url, TEXT, **fields, stream_options={"include_usage": True})
        (choice,) = first["choices"]
        assert last["choices"][0]["finish_reason"] == "length" and not last["choices"][0]["text"]
        assert usage["usage"]["completion_tokens"] == 0
    else:
        body = post(url, TEXT, **fields).json()
        (choice,) = body["choices"]
        assert body["usage"]["completion_tokens"] == 0 and choice["finish_reason"] == "length"
    question = answerer.next_asked().question
    assert question.max_tokens == 1 and choice["text"] == "Once upon"
    assert len(choice["logprobs"]["tokens"]) == len(question.prompt)


def test_nothing_at_all(url: str, answerer: ScriptedAnswerer) -> None:
    """A request that only fills the cache with a prompt."""
    body = post(url, TEXT, prompt="Once upon", max_tokens=0).json()
    (choice,) = body["choices"]
    assert (choice["text"], choice["finish_reason"], body["usage"]["completion_tokens"]) == ("", "length", 0)
