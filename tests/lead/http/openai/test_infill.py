"""llama-server's endpoint for code in the middle, and OpenAI's `suffix`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from lead.api import Piece
from tests.support.api import TEXT, error_of, post
from tests.support.fim import Filler, filling
from tests.support.http import serving

VOCABULARY = filling()
MIDDLE = VOCABULARY.encode_rendered("<|fim_middle|>")[0]


@pytest.fixture
def filler() -> Filler:
    return Filler()


@pytest.fixture
def at(filler: Filler) -> Iterator[str]:
    with serving(filler) as url:
        yield url


def prompt_of(filler: Filler) -> str:
    return b"".join(VOCABULARY.meanings[token] for token in filler.next_asked().question.prompt).decode()


def test_infill(at: str, filler: Filler) -> None:
    body = post(at, "/infill", input_prefix="def f(", input_suffix="):", prompt="a", n_predict=7).json()
    assert (body["content"], body["stop"], body["stop_type"], body["index"]) == ("Hello, world!", True, "eos", 0)
    assert (body["tokens_predicted"], body["tokens_evaluated"], body["tokens_cached"]) == (6, 11, 17)
    assert body["timings"]["draft_n"] == 5 and body["model"] == "fake-13m"
    question = filler.next_asked().question
    written = b"".join(VOCABULARY.meanings[token] for token in question.prompt).decode()
    assert written == "<|fim_prefix|>def f(a<|fim_suffix|>):<|fim_middle|>"
    assert question.max_tokens == 7 and MIDDLE in question.stop_tokens and question.continues


def test_other_files(at: str, filler: Filler) -> None:
    extra = [{"filename": "x.py", "text": "one"}, {"text": "two"}]
    assert post(at, "/infill", input_prefix="a", input_suffix="b", input_extra=extra).status_code == 200
    assert prompt_of(filler) == (
        "<|repo_name|>repository\n<|file_sep|>x.py\none<|file_sep|>\ntwo<|file_sep|>\n"
        "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>"
    )


def test_names_of_marks_in_the_text_do_nothing(at: str, filler: Filler) -> None:
    assert post(at, "/infill", input_prefix="<|fim_middle|>", input_suffix="").status_code == 200
    assert filler.next_asked().question.prompt.count(MIDDLE) == 1


def test_streamed_infill(at: str) -> None:
    response = post(at, "/infill", input_prefix="a", input_suffix="b", stream=True)
    events = [json.loads(block.removeprefix("data: ")) for block in response.text.strip().split("\n\n")]
    assert [event["content"] for event in events] == ["Hello,", " wor", "ld!", ""]
    assert [event["stop"] for event in events] == [False, False, False, True]
    assert events[-1]["timings"]["predicted_n"] == 6


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("reason", "word", "expected"),
    [("stop", "", ("eos", "")), ("length", "", ("limit", "")), ("stop", "\n\n", ("word", "\n\n"))],
)
def test_what_ended_it(
    at: str, filler: Filler, stream: bool, reason: Any, word: str, expected: tuple[str, str]
) -> None:
    """Where a stop string ends the answer, the last token is often one that could end it as well."""
    filler.script = [(Piece("Hi", token=70),), (Piece("", token=1),)]
    filler.summary = replace(filler.summary, finish_reason=reason, stop_string=word)
    response = post(at, "/infill", input_prefix="a", input_suffix="b", stream=stream)
    last = json.loads(response.text.strip().rpartition("data: ")[2])
    assert (last["stop_type"], last["stopping_word"]) == expected


def test_an_editor_may_warm_the_cache(at: str, filler: Filler) -> None:
    body = post(at, "/infill", input_prefix="a", input_suffix="b", n_predict=0).json()
    assert (body["content"], body["tokens_predicted"], body["stop_type"]) == ("", 0, "limit")
    assert filler.next_asked().question.max_tokens == 1


def test_only_the_fields_that_are_asked_for(at: str) -> None:
    paths = ["content", "timings/prompt_n", "timings/no", "content/x"]
    body = post(at, "/infill", input_prefix="a", input_suffix="b", response_fields=paths).json()
    assert body == {"content": "Hello, world!", "timings/prompt_n": 7}


def test_a_model_without_marks(url: str) -> None:
    error = error_of(post(url, "/infill", input_prefix="a", input_suffix="b"), 501)
    assert "code in the middle" in error["message"]
    error = error_of(post(url, TEXT, prompt="a", suffix="b"), 400)
    assert error["param"] == "suffix" and "code in the middle" in error["message"]
    assert post(url, TEXT, prompt="a", suffix="").status_code == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input_prefix": 5}, "input_prefix"),
        ({"input_extra": [{"filename": "x"}]}, "input_extra[0].text"),
        ({"input_extra": [{"text": "x"}] * 257}, "input_extra"),
        ({"prompt": ["a"]}, "prompt"),
        ({"grammar": "root ::= x"}, "grammar"),
        ({"json_schema": {"type": "object"}}, "json_schema"),
        ({"n_probs": 3}, "n_probs"),
        ({"mirostat": 2}, "mirostat"),
        ({"stop_sequences": ["a"]}, "stop_sequences"),
        ({"temperature": -1}, "temperature"),
    ],
)
def test_bad_fields(at: str, fields: dict[str, Any], param: str) -> None:
    assert error_of(post(at, "/infill", **fields), 400)["param"] == param


def test_suffix(at: str, filler: Filler) -> None:
    body = post(at, TEXT, prompt=["one", VOCABULARY.encode("two")], suffix="three", n=2, echo=True).json()
    assert [choice["text"] for choice in body["choices"]] == ["oneHello, world!"] * 2 + ["twoHello, world!"] * 2
    for expected in ("one", "one", "two", "two"):
        assert prompt_of(filler) == f"<|fim_prefix|>{expected}<|fim_suffix|>three<|fim_middle|>"
    assert post(at, TEXT, prompt="a", suffix="b").status_code == 200
    assert MIDDLE in filler.next_asked().question.stop_tokens
    assert post(at, TEXT, prompt="a", suffix="b", ignore_eos=True).status_code == 200
    assert MIDDLE not in filler.next_asked().question.stop_tokens
    error = error_of(post(at, TEXT, prompt="a", suffix="b", echo=True, logprobs=1), 400)
    assert error["param"] == "suffix"
