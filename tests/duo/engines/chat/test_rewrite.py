"""Histories that clients send, and the templates of today's models."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duo.engines.chat.rewrite import rewritten
from duo.engines.chat.template import ChatVocabulary
from duo.errors import RequestError
from tests.support.histories import CALL, RESULT, TOOL, History, histories
from tests.support.templates import CHATML, TEMPLATES, TemplateVocabulary, of_llamacpp, of_transformers

ASK, MORE = {"role": "user", "content": "ask1"}, {"role": "user", "content": "more2"}
CALLS: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [CALL]}


@settings(deadline=None, max_examples=300)
@given(history=histories(), name=st.sampled_from(sorted(TEMPLATES)), tools=st.booleans())
def test_no_history_is_refused_and_nothing_is_lost(history: History, name: str, tools: bool) -> None:
    prompt = of_llamacpp(name).render(history.messages, [TOOL] if tools else [])
    at = 0
    for word in history.words:
        assert word in prompt, f"{name} loses {word}"
        assert prompt.find(word, at) >= 0, f"{name} moves {word}"
        at = prompt.find(word, at)
    for word in history.free:
        assert word in prompt, f"{name} loses {word}"


def test_a_call_in_the_first_turn_is_not_lost_for_the_tools() -> None:
    """Llama's templates write tools into the first turn, which they take for the user's."""
    for name in TEMPLATES:
        for turns in ([CALLS, RESULT, MORE], [{"role": "system", "content": "rule0"}, CALLS, RESULT]):
            prompt = of_llamacpp(name).render(turns, [TOOL])
            assert "Oslo" in prompt and "rain" in prompt, name
            assert "tool_response>" not in prompt or name not in ("llama3", "mistral"), f"{name} writes them itself"


@pytest.mark.parametrize("name", sorted(TEMPLATES))
@pytest.mark.parametrize("of", [of_llamacpp, of_transformers])
@pytest.mark.parametrize("tools", [[TOOL], []])
def test_a_call_its_result_and_a_question(name: str, of: Any, tools: list[Any]) -> None:
    vocabulary: ChatVocabulary = of(name)
    rule = {"role": "system", "content": "rule0"}
    histories: list[list[Any]] = [
        [ASK, CALLS, RESULT, MORE],
        [rule, ASK, CALLS, RESULT, MORE],
        [rule, ASK, CALLS, RESULT],
    ]
    for turns in histories:
        prompt = vocabulary.render(turns, tools)
        words = ["ask1", "Oslo", "rain", *(["more2"] if turns[-1] is MORE else [])]
        places = [prompt.rindex(word) for word in words]
        assert places == sorted(places), prompt
        assert "weather" in prompt and ("rule0" in prompt or turns[0] is ASK)
    assert "weather" in vocabulary.render([ASK], tools) or not tools


def shapes(name: str, turns: Any, tools: Any = ()) -> list[tuple[str, Any]]:
    """Role and content of each turn that the template gets."""
    return [(turn["role"], turn.get("content")) for turn in rewritten(turns, tools, of_llamacpp(name).traits)[0]]


def test_turns_that_a_template_does_not_take_are_merged_or_moved() -> None:
    turns: list[dict[str, Any]] = [
        {"role": "system", "content": "rule0"}, {"role": "system", "content": "rule1"}, ASK, MORE,
        {"role": "assistant", "content": "say3"}, {"role": "assistant", "content": None},
        {"role": "assistant", "content": "say4"}, {"role": "system", "content": "rule2"},
    ]  # fmt: skip
    assert shapes("chatml", turns) == [(turn["role"], turn["content"] or "") for turn in turns], "it takes anything"
    merged = [("assistant", "say3\n\nsay4"), ("user", "rule2")]
    assert shapes("llama2", turns) == [("system", "rule0\n\nrule1"), ("user", "ask1\n\nmore2"), *merged]
    assert shapes("gemma", turns) == [("user", "rule0\n\nrule1\n\nask1\n\nmore2"), *merged]
    assert shapes("gemma", turns[4:5]) == [("user", ""), ("assistant", "say3")]
    assert shapes("qwen35", turns[:2]) == [("user", "rule0\n\nrule1")], "it wants a question"
    assert shapes("strict", [ASK, {"role": "assistant", "content": ""}, MORE]) == [("user", "ask1\n\nmore2")]
    assert shapes("vision", turns[2:3]) == [("user", [{"type": "text", "text": "ask1"}])]


def test_what_was_said_before_a_call_is_not_lost_with_it() -> None:
    says = {"role": "assistant", "content": "say3"}
    for name in TEMPLATES:
        assert "say3" in of_llamacpp(name).render([ASK, says, CALLS, RESULT], [TOOL]), name
    assert shapes("mistral", [ASK, says, CALLS, RESULT], [TOOL]) == shapes(
        "mistral", [ASK, {**CALLS, "content": "say3"}, RESULT], [TOOL]
    )


def test_calls_come_as_the_template_wants_them() -> None:
    talks = {**CALLS, "content": "say3"}
    assert shapes("qwen3", [ASK, talks, RESULT], [TOOL]) == [("user", "ask1"), ("assistant", "say3"), ("tool", "rain")]
    assert shapes("llama3", [ASK, talks, RESULT], [TOOL])[1:3] == [("assistant", "say3"), ("assistant", "")]
    assert shapes("mistral", [ASK, talks, RESULT, MORE], [TOOL])[1:] == [
        ("assistant", "say3"), ("user", ""), ("assistant", ""), ("tool", "rain"), ("assistant", ""), ("user", "more2"),
    ]  # fmt: skip
    assert shapes("deepseek", [ASK, talks, RESULT], [TOOL])[1:3] == [("assistant", "say3"), ("assistant", None)]
    both: Any = {**CALLS, "tool_calls": [CALL, {**CALL, "id": "other"}]}
    results = [{**RESULT, "tool_call_id": "other", "content": "snow"}, RESULT]
    turns = rewritten([ASK, both, *results], [TOOL], of_llamacpp("llama3").traits)[0]
    assert [len(turn.get("tool_calls", ())) or turn["content"] for turn in turns[1:]] == [1, "rain", 1, "snow"]


def test_results_stand_in_the_turn_of_their_calls_where_the_template_wants_it() -> None:
    says = {"role": "assistant", "content": "say3"}
    both: Any = {**CALLS, "tool_calls": [CALL, CALL]}
    prompt = of_llamacpp("gemma4").render([ASK, CALLS, RESULT, both, RESULT, RESULT, says, MORE], [TOOL])
    call = '<|tool_call>call:weather{city:<|"|>Oslo<|"|>}<tool_call|>'
    result = '<|tool_response>response:weather{value:<|"|>rain<|"|>}<tool_response|>'
    assert f"<|turn>model\n{call}{result}{call}{call}{result}{result}say3<turn|>" in prompt
    assert of_llamacpp("gemma4").render([ASK, CALLS, RESULT], [TOOL]).endswith(call + result), "its turn goes on"


@pytest.mark.parametrize(
    ("name", "of_call"), [("mistral", "[a-zA-Z0-9]{9}"), ("kimi", "functions.weather:0"), ("glm", CALL["id"])]
)
def test_ids_have_the_form_that_the_template_wants(name: str, of_call: str) -> None:
    traits = of_llamacpp(name).traits
    turns = rewritten([ASK, CALLS, RESULT], [TOOL], traits)[0]
    (call,) = turns[1]["tool_calls"]
    assert re.fullmatch(of_call, call["id"]) and turns[2]["tool_call_id"] == call["id"]
    again = rewritten([ASK, CALLS, RESULT, CALLS, RESULT, MORE], [TOOL], traits)[0]
    ids = [turn["tool_calls"][0]["id"] for turn in again if turn.get("tool_calls")]
    assert ids[0] == call["id"] and ids[1] != ids[0], "the prompt's beginning stays, and no id is there twice"
    assert [turn["tool_call_id"] for turn in again if turn["role"] == "tool"] == ids


@pytest.mark.parametrize(("name", "key"), [("qwen3", "reasoning_content"), ("gpt-oss", "thinking"), ("chatml", "")])
def test_thinking_has_the_name_that_the_template_reads(name: str, key: str) -> None:
    vocabulary = of_llamacpp(name)
    turns = [ASK, {**CALLS, "reasoning_content": "think9"}, RESULT]
    assert ("think9" in vocabulary.render(turns, [TOOL])) is bool(key)
    shaped = rewritten(turns, [TOOL], vocabulary.traits)[0][1]
    assert [name for name in ("reasoning_content", "thinking") if name in shaped] == ([key] if key else [])


def test_thinking_and_text_beside_a_call_where_the_template_refuses_both() -> None:
    talks = {**CALLS, "content": "say3", "reasoning_content": "think9"}
    assert "<|message|>think9\n\nsay3<|end|>" in of_llamacpp("gpt-oss").render([ASK, talks, RESULT], [TOOL])


def test_the_plainest_shape_is_the_last_one_tried() -> None:
    """This template looks at things that no probe looks at."""
    refuses = CHATML.replace(
        "{{ m.content }}",
        "{% if m.role != 'user' and loop.index0 % 2 == 0 and 'rule7' in m.content %}"
        "{{ raise_exception('not here: ' + m.role) }}{% endif %}{{ m.content }}",
    )
    vocabulary = TemplateVocabulary(refuses)
    turns = [{"role": "system", "content": "rule7"}, ASK, MORE]
    assert vocabulary.traits.system == "anywhere"
    assert "user\nrule7\n\nask1\n\nmore2<" in vocabulary.render(turns)
    never = CHATML.replace("{% for", "{{ raise_exception('no more') }}{% for")
    with pytest.raises(RequestError, match=r"^the model's chat template refuses: no more$") as caught:
        TemplateVocabulary(never).render([ASK])
    assert caught.value.param == "messages"


def test_a_long_conversation_is_rendered_once() -> None:
    vocabulary = TemplateVocabulary(TEMPLATES["qwen3"])
    assert vocabulary.traits.tools
    before = vocabulary.rendered
    prompt = vocabulary.render([ASK, CALLS, RESULT, {"role": "assistant", "content": "say"}] * 500, [TOOL])
    assert prompt.count("rain") == 500 and vocabulary.rendered == before + 1
