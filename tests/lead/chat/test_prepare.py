"""From a conversation to a prompt, a grammar, and how the answer is read."""

from __future__ import annotations

import gc
import weakref

import pytest

from duo.engines.transformers.vocabulary import HFVocabulary
from duo.errors import RequestError
from lead.api import Piece, ThinkingMarks
from lead.chat.answer import whole
from lead.chat.conversation import ChatSettings, Conversation, Thinking, Tool
from lead.chat.parts import Call, Text, Thought
from lead.chat.prepare import form_for, prepare, rendered
from tests.support.bytes_vocabulary import ByteVocabulary
from tests.support.http import vocabulary
from tests.support.tiny_transformers import make_tokenizer

HI = [{"role": "user", "content": "Hi"}]
PLAIN = "{% for message in messages %}{{ message.content }}{% endfor %}"
THINKS = PLAIN + "{% if enable_thinking is false %}<think></think>{% else %}<think>\n{% endif %}"
TOOL = Tool("f", "Does it.", {"type": "object", "properties": {}})


def test_a_plain_conversation() -> None:
    prepared = prepare(Conversation(HI), vocabulary(PLAIN), ChatSettings())
    assert vocabulary().decode(prepared.prompt) == "Hi"
    assert (prepared.grammar, prepared.begun, prepared.thinking) == ("", False, None)
    question = prepared.fields()
    assert question == {
        "prompt": prepared.prompt,
        "marks": prepared.marks,
        "thinking": None,
        "thinking_marks": ThinkingMarks(["<think>"], ["</think>"], begun=False, anywhere=False),
        "continues": False,
    }


def test_thinking_that_the_prompt_opens() -> None:
    asked = Conversation(HI, thinking=Thinking(budget=7))
    prepared = prepare(asked, vocabulary(THINKS), ChatSettings())
    assert prepared.begun and prepared.thinking_marks == ("<think>", "</think>")
    limit = prepared.thinking
    assert limit is not None and (limit.budget, limit.begun) == (7, True)
    answer = whole(prepared.parser(), [Piece("a</think>b", token=1)], "stop")
    assert answer.parts == [Thought("a"), Text("b")]


@pytest.mark.parametrize(
    ("asked", "budget", "prompt", "limit"),
    [
        (Thinking(), None, "Hi<think>\n", None),
        (Thinking(), 5, "Hi<think>\n", 5),
        (Thinking(), 0, "Hi<think></think>", 0),
        (Thinking(False), None, "Hi<think></think>", 0),
        (Thinking(True), 0, "Hi<think>\n", None),
    ],
)
def test_the_lead_decides_what_the_request_leaves_open(
    asked: Thinking, budget: int | None, prompt: str, limit: int | None
) -> None:
    model, settings = vocabulary(THINKS), ChatSettings(reasoning_budget=budget)
    conversation = Conversation(HI, thinking=asked)
    prepared = prepare(conversation, model, settings)
    assert rendered(conversation, model, settings) == model.decode(prepared.prompt) == prompt
    assert (prepared.thinking.budget if prepared.thinking else None) == limit


def test_a_model_that_does_not_think_has_no_limit() -> None:
    asked = Conversation(HI, thinking=Thinking(budget=7))
    assert prepare(asked, vocabulary(PLAIN), ChatSettings()).thinking is None


def test_the_form_of_calls() -> None:
    model = vocabulary(PLAIN)
    assert form_for(model, ChatSettings()) is form_for(model, ChatSettings()), "it is found once"
    assert form_for(model, ChatSettings("glm")).name == "glm"
    prepared = prepare(Conversation(HI, [TOOL]), model, ChatSettings())
    text = '<tool_call>{"name":"f","arguments":{}}</tool_call>'
    (call,) = whole(prepared.parser(), [Piece(text, token=1)], "stop").parts
    assert isinstance(call, Call) and call.name == "f"
    # Without tools, or where none may be called, the same is text.
    for asked in (Conversation(HI), Conversation(HI, [TOOL], "none")):
        prepared = prepare(asked, model, ChatSettings())
        assert whole(prepared.parser(), [Piece(text, token=1)], "stop").content == text


def test_nothing_keeps_a_vocabulary_alive() -> None:
    tokenizer = make_tokenizer(template=THINKS)
    model = HFVocabulary(tokenizer, len(tokenizer), frozenset([tokenizer.eos_token_id]))
    prepare(Conversation(HI, thinking=Thinking(True, "low", 5)), model, ChatSettings())
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        (Conversation(HI, [TOOL, TOOL]), "tools"),
        (Conversation(HI, choice="required"), "tool_choice"),
        (Conversation(HI, [TOOL], "required", "g"), "tool_choice"),
    ],
)
def test_tools_that_contradict_each_other(asked: Conversation, param: str) -> None:
    with pytest.raises(RequestError) as refused:
        prepare(asked, vocabulary(PLAIN), ChatSettings())
    assert refused.value.param == param


def test_marks_of_calls_are_a_part_of_the_text_only_beside_tools() -> None:
    model = ByteVocabulary(["<think>", "</think>", "<tool_call>", "</tool_call>"])
    thinking = {"<think>", "</think>"}
    for asked in (Conversation(HI), Conversation(HI, [TOOL], choice="none")):
        assert set(prepare(asked, model, ChatSettings()).marks.values()) == thinking
    offered = prepare(Conversation(HI, [TOOL]), model, ChatSettings())
    assert set(offered.marks.values()) == {*thinking, "<tool_call>", "</tool_call>"}
