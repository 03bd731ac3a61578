"""POST /v1/responses with OpenAI's own client."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Literal

import openai
import pytest
import requests
from openai import OpenAI
from pydantic import BaseModel

from duo.errors import BusyError, ContextError, StoppedError
from tests.support.api import error_of, post
from tests.support.http import PATIENCE, AnswerGate, ScriptedAnswerer, conversation

PATH = "/v1/responses"
READ: Any = {
    "type": "function",
    "name": "read",
    "strict": False,
    "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
}
CALL = '<tool_call>{"name": "read", "arguments": {"path": "a.txt"}}</tool_call>'


class Person(BaseModel):
    name: str
    kind: Literal["cat", "dog"]


def test_an_answer(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    response = client.responses.create(
        model="any", input="Hi", instructions="Be brief", metadata={"a": "b"}, max_output_tokens=30, temperature=0.5
    )
    assert (response.output_text, response.status, response.error) == ("Hello, world!", "completed", None)
    assert response.id.startswith("resp_") and response.model == "fake-13m" and response.object == "response"
    assert (response.instructions, response.metadata, response.max_output_tokens) == ("Be brief", {"a": "b"}, 30)
    assert (response.temperature, response.top_p, response.tool_choice, response.tools) == (0.5, 1.0, "auto", [])
    assert response.text is not None and response.text.format is not None and response.text.format.type == "text"
    usage = response.usage
    assert usage is not None and (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (11, 6, 17)
    assert usage.input_tokens_details.cached_tokens == 4 and usage.output_tokens_details.reasoning_tokens == 0
    assert [message["role"] for message in answerer.next_asked().messages] == ["system", "user"]


def test_a_stream(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    with client.responses.stream(model="any", input="Hi") as stream:
        events = list(stream)
        final = stream.get_final_response()
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert deltas == ["Hello,", " wor", "ld!"] and final.output_text == "Hello, world!"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    raw = client.responses.create(model="any", input="Hi", stream=True)
    assert [event.type for event in raw] == [event.type for event in events]


def test_a_stream_has_no_done(url: str, answerer: ScriptedAnswerer) -> None:
    text = post(url, PATH, input="Hi", stream=True).text
    assert "[DONE]" not in text and text.count("event: response.completed\n") == 1


def test_a_tool_and_its_result(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    answerer.scripts = [[("Let me see.", CALL)]]
    history: list[Any] = [{"role": "user", "content": "What is in a.txt?"}]
    response = client.responses.create(model="any", input=history, tools=[READ])
    message, call = response.output
    assert message.type == "message" and response.output_text == "Let me see."
    assert call.type == "function_call" and json.loads(call.arguments) == {"path": "a.txt"}
    answerer.next_asked()
    history += [item.model_dump() for item in response.output]
    history.append({"type": "function_call_output", "call_id": call.call_id, "output": "text"})
    assert client.responses.create(model="any", input=history, tools=[READ]).output_text == "Hello, world!"
    user, assistant, tool = answerer.next_asked().messages
    assert (user["role"], assistant["content"]) == ("user", "Let me see.")
    assert assistant["tool_calls"][0]["function"] == {"name": "read", "arguments": {"path": "a.txt"}}
    assert (tool["role"], tool["content"], tool["tool_call_id"]) == ("tool", "text", call.call_id)


def test_a_streamed_call(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    answerer.script = [(CALL[:20],), (CALL[20:],)]
    with client.responses.stream(model="any", input="Hi", tools=[READ]) as stream:
        kinds = [event.type for event in stream]
        (call,) = stream.get_final_response().output
    assert call.type == "function_call" and json.loads(call.arguments) == {"path": "a.txt"}
    assert "response.function_call_arguments.done" in kinds and "response.output_text.delta" not in kinds


def test_an_answer_of_a_type(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    answerer.script = [('{"name":"Mia",',), ('"kind":"cat"}',)]
    response = client.responses.parse(model="any", input="Who?", text_format=Person)
    assert response.output_parsed == Person(name="Mia", kind="cat")
    assert "cat" in answerer.next_asked().question.sampling.grammar
    with client.responses.stream(model="any", input="Who?", text_format=Person) as stream:
        assert stream.get_final_response().output_parsed == response.output_parsed


def test_what_the_lead_remembers(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    answerer.scripts = [[(CALL,)], [("It says ", "text.")]]
    first = client.responses.create(model="any", input="What is in a.txt?", instructions="Be brief", tools=[READ])
    (call,) = first.output
    assert call.type == "function_call"
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "text"}
    second = client.responses.create(model="any", input=[output], previous_response_id=first.id, tools=[READ])
    assert (second.output_text, second.previous_response_id) == ("It says text.", first.id)
    third = client.responses.create(model="any", input="Thanks", previous_response_id=second.id)
    for _ in range(2):
        answerer.next_asked()
    roles = [(message["role"], message["content"]) for message in answerer.next_asked().messages]
    assert roles == [
        ("user", "What is in a.txt?"),
        ("assistant", ""),
        ("tool", "text"),
        ("assistant", "It says text."),
        ("user", "Thanks"),
    ], "the instructions are of the first response alone"
    assert client.responses.retrieve(third.id) == third
    client.responses.delete(third.id)
    with pytest.raises(openai.NotFoundError, match="remembers no response"):
        client.responses.retrieve(third.id)
    # Another branch of the same conversation.
    client.responses.create(model="any", input="And b.txt?", previous_response_id=first.id)
    assert [message["role"] for message in answerer.next_asked().messages] == ["user", "assistant", "user"]


def test_a_streamed_response_is_remembered_too(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    with client.responses.stream(model="any", input="Hi") as stream:
        first = stream.get_final_response()
    assert client.responses.retrieve(first.id).output_text == "Hello, world!"
    answerer.next_asked()
    client.responses.create(model="any", input="Again", previous_response_id=first.id)
    assert [message["content"] for message in answerer.next_asked().messages] == ["Hi", "Hello, world!", "Again"]


def test_an_answer_that_a_limit_cut_goes_on(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    answerer.summary = replace(answerer.summary, finish_reason="length")
    cut = client.responses.create(model="any", input="Hi")
    assert cut.output[0].type == "message" and cut.output[0].status == "incomplete"
    answerer.next_asked()
    client.responses.create(model="any", input=[], previous_response_id=cut.id)
    assert answerer.next_asked().question.continues


def test_an_answer_whose_client_leaves_is_not_remembered(url: str, answerer: ScriptedAnswerer) -> None:
    """It ends where the client leaves. What nobody has read to its end, nobody goes on from."""
    gate = AnswerGate()
    answerer.script = [("Hel",), gate, ("lo",)]
    with requests.post(f"{url}{PATH}", json={"input": "Hi", "stream": True}, stream=True, timeout=PATIENCE) as left:
        lines = (line for line in left.iter_lines() if line.startswith(b"data: "))
        name = json.loads(next(lines).removeprefix(b"data: "))["response"]["id"]
    answer = answerer.next_asked()
    assert answer.cancelled.wait(PATIENCE) and answer.ended.wait(PATIENCE)
    assert error_of(requests.get(f"{url}{PATH}/{name}", timeout=PATIENCE), 404)["code"] == "not_found"


def test_what_is_not_stored_is_not_remembered(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    response = client.responses.create(model="any", input="Hi", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="any", input="Hi", previous_response_id=response.id)
    assert (refused.value.code, refused.value.param) == ("previous_response_not_found", "previous_response_id")


def test_references_to_items(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    first = client.responses.create(model="any", input="Hi")
    answerer.next_asked()
    items: Any = [{"role": "user", "content": "Hi"}, {"type": "item_reference", "id": first.output[0].id}]
    client.responses.create(model="any", input=[*items, {"role": "user", "content": "Again"}])
    assert [message["content"] for message in answerer.next_asked().messages] == ["Hi", "Hello, world!", "Again"]
    with pytest.raises(openai.NotFoundError, match="remembers no item 'msg_1'"):
        client.responses.create(model="any", input=[{"type": "item_reference", "id": "msg_1"}])
    with pytest.raises(openai.BadRequestError, match="is there twice"):
        client.responses.create(model="any", input=[*items, items[1]])
    with pytest.raises(openai.BadRequestError, match="is there twice"):
        client.responses.create(model="any", input=[items[1]], previous_response_id=first.id)


def test_how_many_tokens_a_prompt_has(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    few = client.responses.input_tokens.count(model="any", input="Hi")
    more = client.responses.input_tokens.count(model="any", input="Hi", tools=[READ], instructions="Be brief")
    client.responses.create(model="any", input="Hi", tools=[READ], instructions="Be brief")
    assert few.input_tokens < more.input_tokens == len(answerer.next_asked().question.prompt)


def test_answers_that_are_cut(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    answerer.summary = replace(answerer.summary, finish_reason="length")
    response = client.responses.create(model="any", input="Hi")
    assert response.status == "incomplete" and response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    last = list(client.responses.create(model="any", input="Hi", stream=True))[-1]
    assert last.type == "response.incomplete"


def test_errors_are_the_clients_exceptions(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="any", input=[{"type": "nothing"}])  # type: ignore[misc,list-item]
    assert refused.value.param == "input[0].type"
    answerer.refusal = ContextError("the prompt has 9 tokens, the context holds 8")
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="any", input="Hi")
    assert refused.value.code == "context_length_exceeded"
    answerer.refusal = BusyError("too many wait")
    with pytest.raises(openai.InternalServerError):
        client.responses.create(model="any", input="Hi")
    with pytest.raises(openai.NotFoundError, match="background"):
        client.responses.cancel("resp_1")


def test_an_answer_that_breaks_off(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    answerer.script = [("Hel",), StoppedError("the lead stops")]
    with pytest.raises(openai.InternalServerError, match="the lead stops"):
        client.responses.create(model="any", input="Hi")
    stream = client.responses.create(model="any", input="Hi", stream=True)
    kinds = [next(stream).type for _ in range(5)]
    assert kinds[-1] == "response.output_text.delta"
    with pytest.raises(openai.APIError, match="the lead stops"):
        next(stream)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_responses_that_are_not_there(url: str, method: str) -> None:
    response = requests.request(method, f"{url}{PATH}/resp_1", timeout=PATIENCE)
    assert "'resp_1'" in error_of(response, 404)["message"]


def test_a_response_is_not_streamed_again(url: str, answerer: ScriptedAnswerer) -> None:
    name = post(url, PATH, input="Hi").json()["id"]
    response = requests.get(f"{url}{PATH}/{name}", params={"stream": "true"}, timeout=PATIENCE)
    assert error_of(response, 400)["param"] == "stream"


def test_custom_tools_and_namespaces(client: OpenAI, answerer: ScriptedAnswerer) -> None:
    answerer.script = [
        ('<tool_call>{"name": "patch", "arguments": {"input": "*** Begin"}}</tool_call>',),
        ('<tool_call>{"name": "mcp__x__js", "arguments": {}}</tool_call>',),
    ]
    tools: Any = [
        {"type": "custom", "name": "patch"},
        {"type": "namespace", "name": "mcp__x", "description": "", "tools": [{"type": "function", "name": "js"}]},
    ]
    patch, js = client.responses.create(model="any", input="Hi", tools=tools).output
    assert patch.type == "custom_tool_call" and (patch.name, patch.input) == ("patch", "*** Begin")
    assert js.type == "function_call" and (js.name, js.namespace) == ("js", "mcp__x")
    answerer.next_asked()
    items: Any = [patch.model_dump(), js.model_dump()]
    client.responses.create(model="any", input=items, tools=tools)
    question = answerer.next_asked().question
    names = [call["function"]["name"] for call in conversation(question.prompt)["messages"][0]["tool_calls"]]
    assert names == ["patch", "mcp__x__js"]
