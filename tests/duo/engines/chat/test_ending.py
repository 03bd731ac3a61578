"""Prompts that end within the last message."""

from __future__ import annotations

from typing import Any

import pytest

from duo.errors import RequestError
from tests.support.histories import CALL, RESULT, TOOL
from tests.support.templates import TEMPLATES, TemplateVocabulary, of_llamacpp, of_transformers

ASK: dict[str, Any] = {"role": "user", "content": "ask1"}
CALLS: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": [CALL]}


def said(text: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


@pytest.mark.parametrize("name", sorted(TEMPLATES))
@pytest.mark.parametrize("of", [of_llamacpp, of_transformers])
def test_nothing_stands_behind_the_text(name: str, of: Any) -> None:
    for before in ([ASK], [ASK, said("say1"), ASK], [ASK, CALLS, RESULT]):
        prompt = of(name).render([*before, said("Once upon ")], [TOOL], continues=True)
        assert prompt.endswith("Once upon ") and "ask1" in prompt
        assert prompt.count("Once") == 1


def test_what_a_template_writes_before_the_text_is_there() -> None:
    assert of_llamacpp("chatml").render([ASK, said("Once")], continues=True).endswith("<|im_start|>assistant\nOnce")
    assert of_llamacpp("qwen3").render([ASK, said("Once")], continues=True).endswith("<think>\n\n</think>\n\nOnce")
    assert of_llamacpp("gpt-oss").render([ASK, said("Once")], continues=True).endswith("|>final<|message|>Once")


@pytest.mark.parametrize("content", ["", None])
def test_thinking_goes_on_too(content: str | None) -> None:
    turns = [ASK, said(content, reasoning_content="Well, ")]
    assert of_llamacpp("qwen3").render(turns, continues=True).endswith("assistant\n<think>\nWell, ")
    assert of_llamacpp("gpt-oss").render(turns, continues=True).endswith("<|channel|>analysis<|message|>Well, ")
    assert of_llamacpp("deepseek").render(turns, continues=True).endswith("<think>\nWell, "), "it opens answers so"
    assert of_llamacpp("chatml").render(turns, continues=True).endswith("assistant\n<think>\nWell, ")


def test_thinking_before_the_text_stays() -> None:
    turns = [ASK, said("Once", reasoning_content="Well.")]
    assert of_llamacpp("qwen3").render(turns, continues=True).endswith("<think>\nWell.\n</think>\n\nOnce")


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_an_empty_message_is_an_answer_from_its_beginning(name: str) -> None:
    vocabulary = of_llamacpp(name)
    assert vocabulary.render([ASK, said(None)], continues=True) == vocabulary.render([ASK])


def test_a_template_that_changes_what_was_said() -> None:
    """The text then stands where an answer begins."""
    shouts = "{% for m in messages %}[{{ m.role }}]{{ m.content | upper }}{% endfor %}[assistant]"
    assert TemplateVocabulary(shouts).render([ASK, said("Once")], continues=True) == "[user]ASK1[assistant]Once"


def test_a_message_that_names_the_mark_is_no_end() -> None:
    vocabulary = of_llamacpp("chatml")
    whole = vocabulary.render([ASK, said("q8x1f0continues0f1x8q and")], continues=True)
    assert whole.endswith("assistant\nq8x1f0continues0f1x8q and")


def test_what_cannot_be_continued() -> None:
    for turns, message in (
        ([ASK], "only a last message of the assistant can be continued"),
        ([], "only a last message of the assistant can be continued"),
        ([ASK, CALLS], r"messages\[1\] calls tools and cannot be continued: send their results"),
    ):
        with pytest.raises(RequestError, match=message):
            of_llamacpp("chatml").render(turns, continues=True)
