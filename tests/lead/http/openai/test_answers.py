"""Answers in every form that is asked for: completions, several at a time, tools, structure, log probabilities."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import openai
import pytest
import requests
from openai import OpenAI

from duo.errors import BusyError, DeadEndError, DuoError
from duo.sampling.grammar import Grammars
from lead.api import Answer, Piece, Question, Summary
from lead.decode.session import Logprobs
from lead.http.info.metrics import Metrics
from lead.http.openai.tool_calls import Call, CallParser
from lead.http.options import Options
from tests.support.http import PATIENCE, SUMMARY, AnswerGate, ScriptedAnswerer, conversation, serving, vocabulary

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
HI: list[Any] = [{"role": "user", "content": "Hi"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"$ref": "#/$defs/city"}},
            "required": ["city"],
            "$defs": {"city": {"type": "string"}},
        },
    },
}
TIME: Any = {"type": "function", "function": {"name": "time"}}
CALL = '{"name": "weather", "arguments": {"city": "Köln"}}'
MARK_INSIDE = r'{"name": "weather", "arguments": {"city": "a \"</tool_call>\\"}}'


@pytest.fixture
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=PATIENCE) as client:
        yield client


def post(url: str, path: str, **fields: Any) -> requests.Response:
    return requests.post(url + path, json=fields, timeout=PATIENCE)


def chunks(url: str, path: str, **fields: Any) -> list[dict[str, Any]]:
    response = post(url, path, stream=True, **fields)
    assert response.status_code == 200, response.text
    *events, done = [block.removeprefix("data: ") for block in response.text.removesuffix("\n\n").split("\n\n")]
    assert done == "[DONE]"
    return [json.loads(event) for event in events]


def pieces(text: str, top: int = 0) -> tuple[Piece, ...]:
    """A text as the tokens that it is made of, each with log probabilities."""
    tokens = vocabulary().encode_rendered(text)
    likeliest = [(token, -float(i)) for i, token in enumerate(tokens[:top])]
    return tuple(
        Piece(vocabulary().decode([token]), token=token, logprobs=Logprobs(-0.5, likeliest)) for token in tokens
    )


# -- Completions ---------------------------------------------------------------------------------------------------


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
        ({"prompt": "a", "suffix": "b"}, "suffix", "gaps"),
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


# -- Several answers -----------------------------------------------------------------------------------------------


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


def test_one_of_several_breaks_off(url: str, answerer: ScriptedAnswerer) -> None:
    for stream in (False, True):
        answerer.scripts = [[("a",), AnswerGate()], [("b",), DuoError("the engine lost its context")]]
        assert "the engine lost its context" in post(url, CHAT, messages=HI, n=2, stream=stream).text
        for answer in (answerer.next_asked(), answerer.next_asked()):
            assert answer.cancelled.wait(PATIENCE) and answer.ended.wait(PATIENCE)


def test_a_client_that_goes_away_stops_all_its_answers(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    answerer.script = [("Hel",), AnswerGate()]
    with client.completions.create(model="any", prompt=["a", "b"], n=2, stream=True) as stream:
        next(stream)
        answers = [answerer.next_asked() for _ in range(4)]
    for answer in answers:
        assert answer.cancelled.wait(PATIENCE) and answer.ended.wait(PATIENCE)


# -- Log probabilities ---------------------------------------------------------------------------------------------


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
    """What a program asks for that scores texts: it cuts the list at the number of the prompt's tokens."""
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
    """So that the prompt is computed, for the questions that begin with it."""
    body = post(url, TEXT, prompt="Once upon", max_tokens=0).json()
    (choice,) = body["choices"]
    assert (choice["text"], choice["finish_reason"], body["usage"]["completion_tokens"]) == ("", "length", 0)


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


# -- Structure -----------------------------------------------------------------------------------------------------


def grammar_of(url: str, answerer: ScriptedAnswerer, path: str = CHAT, **fields: Any) -> str:
    given = {"messages": HI} if path == CHAT else {"prompt": "a"}
    response = post(url, path, **given, **fields)
    assert response.status_code == 200, response.text
    return answerer.next_asked().question.sampling.grammar


def test_structured_output(client: OpenAI, url: str, answerer: ScriptedAnswerer) -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    answerer.script = [('{"a"', ":1}")]
    parsed = client.chat.completions.create(
        model="any",
        messages=HI,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}},
    )
    assert json.loads(parsed.choices[0].message.content or "") == {"a": 1}
    grammar = answerer.next_asked().question.sampling.grammar
    assert '"integer"' in grammar
    assert grammar_of(url, answerer, json_schema=schema) == grammar
    assert grammar_of(url, answerer, response_format={"type": "json_object", "schema": schema}) == grammar
    assert grammar_of(url, answerer, TEXT, json_schema=schema) == grammar
    assert '"object"' in grammar_of(url, answerer, response_format={"type": "json_object"})
    assert grammar_of(url, answerer, response_format={"type": "text"}) == ""


# -- Tools ---------------------------------------------------------------------------------------------------------


def test_tools_with_the_openai_client(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    answerer.script = [("Let me ", "see.\n<tool"), (f"_call>\n{CALL}\n</tool_",), ("call>\n",)]
    completion = client.chat.completions.create(model="any", messages=HI, tools=[WEATHER, TIME])
    (choice,) = completion.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me see.\n")
    (call,) = choice.message.tool_calls or []
    assert call.type == "function" and call.function.name == "weather"
    assert re.fullmatch("[a-zA-Z0-9]{9}", call.id), "what Mistral's templates take"
    assert json.loads(call.function.arguments) == {"city": "Köln"}
    question = answerer.next_asked().question
    given = conversation(question.prompt)
    assert [tool["function"]["name"] for tool in given["tools"]] == ["weather", "time"]
    assert question.sampling.grammar == ""
    # And its result.
    turns: list[Any] = [*HI, choice.message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    client.chat.completions.create(model="any", messages=turns, tools=[WEATHER])
    messages = answerer.next_asked().messages
    assert messages[1]["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Köln"}}
    assert messages[2] == {"role": "tool", "content": "rain", "tool_call_id": call.id}


def test_streamed_tools_with_the_openai_client(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    answerer.script = [("Let ",), ("me", f"<tool_call>{CALL}</tool_call>"), (f"<tool_call>{CALL}", "</tool_call>")]
    with client.chat.completions.stream(model="any", messages=HI, tools=[WEATHER]) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta" and event.delta]
        final = stream.get_final_completion()
    assert deltas == ["Let ", "me"]
    message = final.choices[0].message
    assert final.choices[0].finish_reason == "tool_calls"
    assert [json.loads(call.function.arguments) for call in message.tool_calls or []] == [{"city": "Köln"}] * 2
    assert len({call.id for call in message.tool_calls or []}) == 2


def test_a_choice_of_tools(url: str, answerer: ScriptedAnswerer) -> None:
    tools = [WEATHER, TIME]
    required = grammar_of(url, answerer, tools=tools, tool_choice="required")
    assert "weather" in required and "time" in required and "start: call0 | call1" in required
    for name, arguments, whole in (
        ("weather", '{"city":"Köln"}', True),
        ("weather", "{}", False),
        ("time", "{}", True),
    ):
        text = vocabulary().encode_rendered(f'{{"name":"{name}","arguments":{arguments}}}')
        constraint = Grammars(vocabulary()).constraint(required)
        if whole:
            assert set(constraint.allowed(text)) == vocabulary().eos
        else:
            with pytest.raises(DeadEndError):
                constraint.allowed(text)
    named = {"type": "function", "function": {"name": "time"}}
    only = grammar_of(url, answerer, tools=tools, tool_choice=named)
    assert "weather" not in only and "time" in only
    both = grammar_of(url, answerer, tools=tools, response_format={"type": "json_object"})
    assert "start: answer | call0 | call1" in both
    answerer.script = [(CALL.replace(" ", ""),)]
    body = post(url, CHAT, messages=HI, tools=tools, tool_choice="required").json()
    answerer.next_asked()
    assert body["choices"][0]["message"]["content"] is None
    assert body["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "weather"
    # With none of them, what looks like a call is text.
    body = post(url, CHAT, messages=HI, tools=tools, tool_choice="none").json()
    assert body["choices"][0]["message"]["content"] == CALL.replace(" ", "")
    assert not conversation(answerer.next_asked().question.prompt)["tools"]


@pytest.mark.parametrize(
    ("parameters", "argument"),
    [
        *[({"parameters": schema}, False) for schema in (None, {}, {"type": "object", "properties": {}})],
        ({}, False),
        ({"parameters": {"title": "nowArguments", "properties": {}, "required": []}}, False),
        ({"parameters": {"type": "object"}}, True),
        ({"parameters": {"properties": {}, "additionalProperties": True}}, True),
        ({"parameters": {"type": ["object", "null"]}}, True),
        ({"parameters": {"type": None}}, True),
        ({"parameters": {"minProperties": 0}}, True),
    ],
)
def test_a_call_without_parameters_has_no_arguments(
    url: str, answerer: ScriptedAnswerer, parameters: dict[str, Any], argument: bool
) -> None:
    tools = [{"type": "function", "function": {"name": "time", **parameters}}]
    grammar = grammar_of(url, answerer, tools=tools, tool_choice="required")

    def follows(arguments: str) -> bool:
        text = vocabulary().encode_rendered(f'{{"name":"time","arguments":{arguments}}}')
        try:
            return set(Grammars(vocabulary()).constraint(grammar).allowed(text)) == vocabulary().eos
        except DeadEndError:
            return False

    assert [follows(arguments) for arguments in ("{}", '{" Execution":null}', "7")] == [True, argument, False]


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("text", "content", "names"),
    [
        (f"<tool_call>\n{CALL}\n</tool_call>", "", ["weather"]),
        (f"So: <tool_call>{CALL}</tool_call>\n<tool_call>{CALL}</tool_call>", "So: ", ["weather"] * 2),
        (f"<tool_call>{CALL}", "", ["weather"]),  # cut off after its end
        (CALL, "", ["weather"]),
        (f"\n[{CALL}, {CALL}]", "", ["weather"] * 2),
        ('{"name": "weather", "parameters": {"city": "a"}}', "", ["weather"]),
        ('{"type": "function", "function": {"name": "time", "arguments": "{}"}}', "", ["time"]),
        (f"[TOOL_CALLS][{CALL}]", "", ["weather"]),
        ('[TOOL_CALLS]weather[ARGS]{"city": "a"}[TOOL_CALLS]time[ARGS]{}', "", ["weather", "time"]),
        (f"<|python_tag|>{CALL}; {CALL}", "", ["weather"] * 2),
        # Of a model that has the marks as special tokens, which are no text.
        ('weather{"city": "a"}time{}', "", ["weather", "time"]),
        ("time[ARGS]{}", "", ["time"]),
        # The mark within an argument.
        (f"<tool_call>{MARK_INSIDE}</tool_call>!", "!", ["weather"]),
        (f"<tool_call>{MARK_INSIDE}</tool_call><tool_call>{CALL}</tool_call>", "", ["weather"] * 2),
        (f"<tool_call>{MARK_INSIDE}", "", ["weather"]),
        (f"[TOOL_CALLS][{MARK_INSIDE}, {CALL}]", "", ["weather"] * 2),
        # No calls.
        ("a < b <tool and 1 [TOOL", "a < b <tool and 1 [TOOL", []),
        ('{"name": "other", "arguments": {}}', '{"name": "other", "arguments": {}}', []),
        ('{"name": "weather", "argum', '{"name": "weather", "argum', []),
        ('<tool_call>{"name": ["x"], "arguments": {}}</tool_call>',) * 2 + ([],),
        ('{"function": {"name": {"a": 1}}}', '{"function": {"name": {"a": 1}}}', []),
        ("weather in Köln", "weather in Köln", []),
        ("weather{so}", "weather{so}", []),
        ("other{}", "other{}", []),
        ('{"answer": 42}', '{"answer": 42}', []),
        ("<tool_call>nonsense</tool_call>!", "<tool_call>nonsense</tool_call>!", []),
        ('<tool_call>{"x</tool_call>!', '<tool_call>{"x</tool_call>!', []),
        (f'<tool_call>{{"x</tool_call>\n<tool_call>{CALL}</tool_call>', '<tool_call>{"x</tool_call>', ["weather"]),
        ('<tool_call>{"name": "time", "arguments": []}</tool_call>',) * 2 + ([],),
        ("  \n", "  \n", []),
    ],
)
def test_calls_in_a_text(text: str, content: str, names: list[str], size: int) -> None:
    parser = CallParser(["weather", "time"])
    told, calls = "", list[Call]()
    for at in range(0, len(text), size):
        shown, found = parser.push(text[at : at + size])
        told, calls = told + shown, calls + found
    shown, found = parser.flush()
    assert (told + shown, [call.name for call in calls + found], parser.held) == (content, names, "")


@pytest.mark.parametrize("arguments", ["null", '""', '"null"', "{}", '"{}"'])
def test_a_call_without_arguments(arguments: str) -> None:
    text = f'<tool_call>{{"name": "time", "arguments": {arguments}}}</tool_call>'
    _, (call,) = CallParser(["time"]).push(text)
    assert (call.name, call.arguments) == ("time", "{}")


@pytest.mark.parametrize(
    ("mark", "head", "arguments", "tail"),
    [
        ("<tool_call>", '\n{"name": "weather", "arguments": ', '{"city": "a </tool_call> b", "n": [1]}', "}"),
        ("<tool_call>", '{"function": {"name": "weather", "parameters": ', r'{"city": "\"arguments\": {"}', "}}"),
        ("<tool_call>", '{"function": "weather", "arguments": ', '{"city": "<"}', "}"),
        ("[TOOL_CALLS]", '[{"name": "weather", "arguments": ', "{}", "}"),
        ("[TOOL_CALLS]", "weather[ARGS]", '{"city": "Köln"}', ""),
        ("<|python_tag|>", '{"type": "function", "name": "weather", "parameters": ', '{"city": "Köln"}', "}"),
        ("", '{"name":"weather","arguments":', '{"city":"Köln"}', "}"),  # where it must be one
    ],
)
@pytest.mark.parametrize("size", [1, 1000])
def test_a_call_that_is_cut_anywhere(mark: str, head: str, arguments: str, tail: str, size: int) -> None:
    text = mark + head + arguments + tail + ("</tool_call>" if mark == "<tool_call>" else "")
    named = len(mark) + (head.index('weather"') + len('weather"') if '"' in head else len(head))
    given, whole = len(mark + head), len(mark + head + arguments + tail)
    for length in range(len(mark), len(text) + 1):
        parser = CallParser(["weather", "weather_tomorrow"], must_call=not mark)
        parts = [parser.push(text[at : min(at + size, length)]) for at in range(0, length, size)]
        parts.append(parser.flush("length"))
        assert "".join(shown for shown, _ in parts) == parser.held == ""
        calls = [(call.name, call.arguments) for _, found in parts for call in found]
        if length < whole:
            assert calls == ([("weather", arguments[: max(0, length - given)])] if length >= named else [])
            assert parser.finish_reason("length") == parser.finish_reason("stop") == "length"
        else:
            assert calls == [("weather", json.dumps(json.loads(arguments), ensure_ascii=False))]
            assert parser.finish_reason("length") == "tool_calls"


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize(
    ("text", "content", "calls", "reason"),
    [
        (
            f"So: <tool_call>{CALL}</tool_call>\n<tool_call>{CALL[:-3]}",
            "So: ",
            ['{"city": "Köln"}', '{"city": "Köln'],
            "length",
        ),
        (f'<tool_call>{CALL}</tool_call><tool_call>{{"name": "wea', "", ['{"city": "Köln"}'], "length"),
        (f"<tool_call>{CALL}</tool_call>\n<tool_c", "\n<tool_c", ['{"city": "Köln"}'], "tool_calls"),
        (f"[TOOL_CALLS][{CALL}, {CALL[:20]}", "", ['{"city": "Köln"}', ""], "length"),
        ('weather[ARGS]{"city": "a"}[TOOL_CALLS]wea', "", ['{"city": "a"}'], "length"),
        ('[TOOL_CALLS]weather[ARGS]{"city": "a"}[TOOL', "", ['{"city": "a"}'], "tool_calls"),
        (r'<tool_call>{"name": "weather", "arguments": "{\"city\": \"K', "", ['{"city": "K'], "length"),
        ('<tool_call>{"name": "weather", "arguments": nul', "", [""], "length"),
        (CALL[:-1], "", ['{"city": "Köln"}'], "length"),
        # Not known to be one, or none.
        (CALL[:10], CALL[:10], [], "length"),
        ("weather", "weather", [], "length"),
        ("<tool_call>nonsense", "<tool_call>nonsense", [], "length"),
        ('<tool_call>{"name": "other", "arg', '<tool_call>{"name": "other", "arg', [], "length"),
        ('<tool_call>{"name": "weather", arg', '<tool_call>{"name": "weather", arg', [], "length"),
        ('<tool_call>{"name": "weather", "x": "\n', '<tool_call>{"name": "weather", "x": "\n', [], "length"),
        ('{"name": "weather", "steps": ["loo', '{"name": "weather", "steps": ["loo', [], "length"),
        ("<tool", "<tool", [], "length"),
    ],
)
def test_an_answer_that_is_cut(
    url: str, answerer: ScriptedAnswerer, text: str, content: str, calls: list[str], reason: str, size: int
) -> None:
    answerer.script = [(text[at : at + size],) for at in range(0, len(text), size)]
    answerer.summary = replace(SUMMARY, finish_reason="length")
    (choice,) = post(url, CHAT, messages=HI, tools=[WEATHER]).json()["choices"]
    assert (choice["message"]["content"] or "", choice["finish_reason"]) == (content, reason)
    assert [call["function"]["arguments"] for call in choice["message"].get("tool_calls", [])] == calls
    streamed = [chunk["choices"][0] for chunk in chunks(url, CHAT, messages=HI, tools=[WEATHER])]
    assert "".join(one["delta"].get("content", "") for one in streamed) == content
    assert streamed[-1]["finish_reason"] == reason
    told = [call for one in streamed for call in one["delta"].get("tool_calls", [])]
    assert [(call["index"], call["function"]["arguments"]) for call in told] == list(enumerate(calls))


@pytest.mark.parametrize(("text", "calls"), [("", 0), ('{"name":"wea', 0), ('{"name":"weather","arguments":{"ci', 1)])
@pytest.mark.parametrize("cut", [{"finish_reason": "length"}, {"finish_reason": "stop"}])
def test_a_call_that_must_be_is_never_content(
    url: str, answerer: ScriptedAnswerer, text: str, calls: int, cut: dict[str, Any]
) -> None:
    """Cut at the limit, or at a stop string."""
    answerer.script, answerer.summary = [(text,)], replace(SUMMARY, **cut)
    asked: dict[str, Any] = {"messages": HI, "tools": [WEATHER], "tool_choice": "required"}
    (choice,) = post(url, CHAT, **asked).json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (None if calls else "", "length")
    assert len(choice["message"].get("tool_calls", [])) == calls
    streamed = [chunk["choices"][0] for chunk in chunks(url, CHAT, **asked)]
    assert not any(one["delta"].get("content") for one in streamed) and streamed[-1]["finish_reason"] == "length"
    assert sum(len(one["delta"].get("tool_calls", [])) for one in streamed) == calls


def test_what_the_model_ended_itself_is_not_cut(url: str, answerer: ScriptedAnswerer) -> None:
    answerer.script = [("That is written <tool_call>",)]
    (choice,) = post(url, CHAT, messages=HI, tools=[WEATHER], stop=["x"]).json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("That is written <tool_call>", "stop")


def test_only_the_first_of_calls_that_are_cut() -> None:
    parser = CallParser(["weather"], parallel=False)
    assert len(parser.push(f"<tool_call>{CALL}</tool_call><tool_call>{CALL[:-3]}")[1]) == 1
    assert parser.flush("length") == ("", []) and parser.finish_reason("length") == "tool_calls"


def test_text_that_is_no_call_is_not_held_back() -> None:
    parser = CallParser(["python"])
    shown = "".join(parser.push(message)[0] for message in "python{x for x in y} and more")
    assert shown.startswith("python{x for x in y}")


def test_one_call_at_a_time(url: str, answerer: ScriptedAnswerer) -> None:
    answerer.script = [(f"<tool_call>{CALL}</tool_call>",)] * 2
    body = post(url, CHAT, messages=HI, tools=[WEATHER], parallel_tool_calls=False).json()
    assert len(body["choices"][0]["message"]["tool_calls"]) == 1


# -- Who guessed it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_who_guessed_a_piece(url: str, answerer: ScriptedAnswerer, path: str) -> None:
    answerer.script = [(Piece("On"), Piece("ce", ("attic", "cellar"))), (Piece(""), Piece(" more", ("cellar",)))]
    given = {"messages": HI} if path == CHAT else {"prompt": "a"}
    told = [chunk["choices"][0].get("accepted") for chunk in chunks(url, path, accepted=True, **given)]
    assert [entry for entry in told if entry] == [[["On", ""], ["ce", "attic"]], [[" more", "cellar"]]]


def test_who_guessed_a_piece_beside_tools(url: str, answerer: ScriptedAnswerer) -> None:
    answerer.script = [(Piece("a <", ("attic",)),), (Piece(" b", ("cellar",)),), (f"<tool_call>{CALL}</tool_call>",)]
    told = [
        chunk["choices"][0]["accepted"]
        for chunk in chunks(url, CHAT, messages=HI, tools=[WEATHER], accepted=True, logprobs=True)
        if chunk["choices"][0].get("accepted")
    ]
    assert told == [[["a ", "attic"]], [["<", "attic"], [" b", "cellar"]]]


# -- What is around it ---------------------------------------------------------------------------------------------


class Noted(Metrics):
    def __init__(self, answerer: ScriptedAnswerer) -> None:
        super().__init__(answerer)
        self.heard: list[Any] = []

    def began(self, answer: int) -> None:
        self.heard.append("began")

    def first_text(self, answer: int, seconds: float) -> None:
        assert seconds >= 0
        self.heard.append("first")

    def finished(self, answer: int, summary: Summary) -> None:
        self.heard.append(summary)

    def refused(self, status: int) -> None:
        self.heard.append(status)


class ThirdIsOneTooMany(ScriptedAnswerer):
    def ask(self, question: Question) -> Answer:
        if self.asked.qsize() == 2:
            raise BusyError("2 wait already")
        return super().ask(question)


def test_the_observer_and_the_alias() -> None:
    answerer = ThirdIsOneTooMany()
    noted = Noted(answerer)
    answerer.observers = [noted]

    def heard(then: Sequence[Any]) -> None:
        assert noted.heard == list(then)
        noted.heard.clear()

    with serving(answerer, Options(alias="gpt"), noted) as url:
        assert requests.get(f"{url}/models", timeout=PATIENCE).json()["data"][0]["id"] == "gpt"
        assert requests.get(f"{url}/v1/health", timeout=PATIENCE).status_code == 200
        assert post(url, CHAT, messages=HI).json()["model"] == "gpt"
        heard(["began", "first", SUMMARY])
        answerer.script = [DuoError("no more")]
        assert post(url, TEXT, prompt="a").status_code == 500
        heard(["began", 500])
        answerer.next_asked(), answerer.next_asked()
        # All or none.
        assert post(url, CHAT, messages=HI, n=3).status_code == 503
        assert all(answerer.next_asked().cancelled.is_set() for _ in range(2))
        heard(["began", "began", 499, 499, 503])


def test_openai_client_sees_a_grammar_that_cannot_be(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="any",
            messages=HI,
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}},
        )
    assert caught.value.param == "response_format"


def test_more_answers_than_there_can_be_are_refused_for_good(url: str, answerer: ScriptedAnswerer) -> None:
    answerer.most = 3
    response = requests.post(f"{url}/v1/chat/completions", json={"messages": HI, "n": 4}, timeout=10)
    assert response.status_code == 400
    assert "at once" in response.json()["error"]["message"]


def test_the_model_by_its_name_and_heads(url: str) -> None:
    assert requests.get(f"{url}/v1/models/fake-13m", timeout=10).json()["id"] == "fake-13m"
    unknown = requests.get(f"{url}/v1/models/other/one", timeout=10)
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    assert requests.head(f"{url}/health", timeout=10).status_code == 200
    assert requests.head(f"{url}/", timeout=10).status_code == 200
