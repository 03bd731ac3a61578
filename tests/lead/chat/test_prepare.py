"""From a conversation to a prompt, a grammar, and how the answer is read."""

from __future__ import annotations

import gc
import weakref

import pytest

from duo.engines.transformers.vocabulary import HFVocabulary
from duo.errors import RequestError
from duo.sampling.grammar import Grammars
from duo.sampling.thinking import ThinkingConstraint
from lead.api import Piece, ThinkingMarks
from lead.chat.answer import whole
from lead.chat.conversation import ChatSettings, Choice, Conversation, Thinking, Tool
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
        "turns": (),
    }


def test_a_base_model_ends_its_answer_where_it_would_speak_for_the_user() -> None:
    """It went on with a dialogue that nobody asked for, to the end of the context."""
    prepared = prepare(Conversation(HI), vocabulary(""), ChatSettings())
    assert vocabulary().decode(prepared.prompt) == "user: Hi\nassistant:"
    turns = prepared.fields()["turns"]
    assert "\nuser:" in turns and "\nassistant:" in turns


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


def harmony(budget: int, choice: Choice, answer: str) -> list[str]:
    """What may follow an answer of gpt-oss, whose marks are special tokens. Empty if anything may."""
    marks = ["<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>"]
    model = ByteVocabulary(marks)
    asked = Conversation([{"role": "user", "content": "Hi"}], [TOOL], choice, thinking=Thinking(budget=budget))
    prepared = prepare(asked, model, ChatSettings("gpt-oss"))
    assert prepared.thinking is not None
    inner = Grammars(model).constraint(prepared.grammar) if prepared.grammar else None
    constraint = ThinkingConstraint(prepared.thinking, model.token_bytes, inner)
    allowed = constraint.allowed(model.encode_rendered(answer))
    return [] if allowed is None else [model.named([int(token)]) for token in allowed]


def test_gpt_oss_may_call_after_its_budget_for_thinking_is_used_up() -> None:
    thought = "<|channel|>analysis<|message|>Hm."
    assert harmony(3, "auto", thought[:-1]) == []
    assert harmony(3, "auto", thought) == ["<|end|>"]
    ended = f"{thought}<|end|><|start|>assistant<|channel|>"
    assert harmony(3, "auto", f"{thought}<|end|><|start|>assistant") == ["<|channel|>"]
    assert harmony(3, "auto", ended) == ["c", "f"], "commentary or final, and not analysis"
    assert harmony(3, "auto", f"{ended}c") == harmony(3, "auto", f"{ended}final<|message|>So.") == []
    assert harmony(3, "required", ended) == ["c"]


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
