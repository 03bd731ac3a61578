"""A response is written: its items, its events, and what a client makes of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from duo.errors import StoppedError
from duo.sampling.params import SamplingParams
from lead.api import FinishReason, Piece, Question
from lead.chat.parser import AnswerParser, Finish
from lead.chat.parts import Call, Part, Text, Thought
from lead.http.responses.fields import ResponsesRequest
from lead.http.responses.items import unsealed
from lead.http.responses.tools import entries
from lead.http.responses.writer import ResponseWriter
from tests.support.api import pieces
from tests.support.http import SUMMARY, vocabulary

TOOLS: list[dict[str, Any]] = [
    {"type": "function", "name": "read"},
    {"type": "custom", "name": "patch"},
    {"type": "namespace", "name": "mcp__x", "tools": [{"type": "function", "name": "js"}]},
]


class GivenParts:
    """A parser whose text is the number of the parts to give."""

    held = ""
    plain = False

    def __init__(self, *batches: Sequence[Part], finish: Finish = "stop") -> None:
        self._batches, self._finish = batches, finish

    def push(self, text: str) -> list[Part]:
        return list(self._batches[int(text)]) if text.isdecimal() else [Text(text)]

    def flush(self, reason: FinishReason = "stop") -> list[Part]:
        return []

    def finish_reason(self, reason: FinishReason) -> Finish:
        return self._finish


class UpToBar(GivenParts):
    """A parser of thinking that ends with a bar."""

    _thinks = True

    def push(self, text: str) -> list[Part]:
        before, bar, after = text.partition("|")
        if not self._thinks:
            return [Text(text)]
        self._thinks = not bar
        return [*([Thought(before)] if before else []), *([Text(after)] if after else [])]


class Written:
    """A response of these parts, and its events."""

    def __init__(
        self, *batches: Sequence[Part], finish: Finish = "stop", parser: AnswerParser | None = None, **fields: Any
    ) -> None:
        asked = ResponsesRequest.model_validate({"input": "Hi", "tools": TOOLS, **fields})
        question = Question([1], SamplingParams(0.8))
        self.finished = 0
        parser = parser or GivenParts(*batches, finish=finish)
        tools = entries(TOOLS, "tools")
        self.writer = ResponseWriter(asked, question, parser, tools, "m", vocabulary(), self._hear)
        self._batches = batches

    def _hear(self, writer: ResponseWriter) -> None:
        self.finished += 1
        assert writer.body["status"] != "in_progress"

    def events(self) -> list[dict[str, Any]]:
        text = self.writer.begin()
        text += "".join(self.writer.batch([Piece(str(i))]) for i in range(len(self._batches)))
        return read(text + self.writer.end(SUMMARY))

    def output(self) -> list[dict[str, Any]]:
        self.events()
        return self.writer.output


def read(text: str) -> list[dict[str, Any]]:
    """The events, each of which says its name twice."""
    assert text.endswith("\n\n")
    found = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    return found


def names(events: Sequence[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def test_events_of_text() -> None:
    written = Written([Text("Hel")], [Text("lo")])
    events = written.events()
    assert names(events) == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert [event["sequence_number"] for event in events] == list(range(10))
    assert [event["delta"] for event in events if "delta" in event] == ["Hel", "lo"]
    (item,) = written.writer.output
    assert events[2]["item"] == {**item, "status": "in_progress", "content": []}
    assert events[3]["part"] == {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    assert events[6]["text"] == "Hello" and events[8]["item"] == item and item["status"] == "completed"
    assert {event["item_id"] for event in events[3:8]} == {item["id"]}
    assert events[9]["response"] == written.writer.body and written.finished == 1


def test_thinking_text_and_calls_are_items_in_their_order() -> None:
    output = Written(
        [Thought("Hm"), Thought("m"), Text("\n\n"), Text("Let me see")],
        [Text(".\n"), Call("c1", "read", '{"a":1}'), Text("\n"), Call("c2", "patch", '{"input":"*** x"}')],
        [Call("c3", "mcp__x__js", "{}"), Thought("more"), Text("Done")],
        finish="tool_calls",
    ).output()
    assert [item["type"] for item in output] == [
        "reasoning", "message", "function_call", "custom_tool_call", "function_call", "reasoning", "message",
    ]  # fmt: skip
    assert output[0]["content"] == [{"type": "reasoning_text", "text": "Hmm"}] and output[0]["summary"] == []
    assert output[1]["content"][0]["text"] == "\n\nLet me see.\n"
    assert (output[2]["name"], output[2]["call_id"], output[2]["arguments"]) == ("read", "c1", '{"a":1}')
    assert (output[3]["name"], output[3]["input"]) == ("patch", "*** x")
    assert (output[4]["name"], output[4]["namespace"]) == ("js", "mcp__x")
    assert output[6]["content"][0]["text"] == "Done"
    assert len({item["id"] for item in output}) == 7 and all(item["status"] == "completed" for item in output)


def test_events_of_thinking_and_of_calls() -> None:
    events = Written([Thought("Hm"), Call("c1", "read", '{"a":1}')], [Call("c2", "patch", '{"input":"x"}')]).events()
    assert names(events)[2:-1] == [
        "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done", "content_part.done",
        "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done",
        "output_item.added", "custom_tool_call_input.delta", "custom_tool_call_input.done", "output_item.done",
    ]  # fmt: skip
    assert "logprobs" not in events[4] and events[4]["delta"] == "Hm"
    added, delta, done, last = events[8:12]
    assert (added["item"]["arguments"], added["item"]["status"]) == ("", "in_progress")
    assert delta["delta"] == done["arguments"] == last["item"]["arguments"] == '{"a":1}'
    assert {event["output_index"] for event in events[8:12]} == {1}


def test_items_of_a_stream_are_those_of_the_response() -> None:
    events = Written([Thought("a")], [Text("b"), Call("c1", "read", "{}")], [Text("c")]).events()
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == events[-1]["response"]["output"]
    assert [event["output_index"] for event in events if event["type"] == "response.output_item.added"] == [0, 1, 2, 3]


def test_thinking_for_clients_that_keep_nothing_else() -> None:
    (item, _) = Written([Thought("Hm"), Text("a")], include=["reasoning.encrypted_content"]).output()
    assert unsealed(item["encrypted_content"]) == "Hm"


def test_thinking_that_the_client_does_not_want() -> None:
    for fields in ({"include_reasoning": False}, {"reasoning": {"exclude": True}}):
        (item,) = Written([Thought("Hm"), Text("a")], **fields).output()
        assert item["type"] == "message"


def test_an_answer_without_text_is_an_empty_message() -> None:
    for batches, text in (((), ""), (([Text(" \n")],), " \n")):
        (item,) = Written(*batches).output()
        assert item["type"] == "message" and item["content"][0]["text"] == text


def test_an_answer_that_is_cut() -> None:
    written = Written([Text("Hel")], finish="length")
    events = written.events()
    assert names(events)[-1] == "incomplete"
    assert written.writer.body["incomplete_details"] == {"reason": "max_output_tokens"}
    assert written.writer.body["status"] == written.writer.output[0]["status"] == "incomplete"


def test_a_call_that_is_cut() -> None:
    written = Written(
        [Call("c1", "read", '{"a', whole=False), Call("c2", "patch", '{"inp', whole=False)], finish="length"
    )
    read, patch = written.output()
    assert (read["arguments"], read["status"]) == ('{"a', "incomplete")
    assert (patch["input"], patch["status"]) == ('{"inp', "incomplete")


def test_an_answer_that_breaks_off() -> None:
    written = Written()
    text = written.writer.begin() + written.writer.batch([Piece("Hel")])
    events = read(text + written.writer.failed(StoppedError("the lead stops")))
    error, failed = events[-2:]
    assert (error["type"], error["message"], error["code"]) == ("error", "the lead stops", "server_error")
    assert error["error"]["message"] == "the lead stops"
    assert failed["type"] == "response.failed" and failed["response"]["status"] == "failed"
    assert failed["response"]["error"] == {"code": "server_error", "message": "the lead stops"}
    assert written.finished == 0 and [event["sequence_number"] for event in events] == list(range(len(events)))
    assert "its log says more" in read(written.writer.failed(None))[1]["response"]["error"]["message"]


def test_log_probabilities_are_of_the_message() -> None:
    parts = pieces("Hello world", top=2)
    written = Written(top_logprobs=2)
    events = read(written.writer.begin() + written.writer.batch(parts) + written.writer.end(SUMMARY))
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    told = [one for event in deltas for one in event["logprobs"]]
    assert "".join(one["token"] for one in told) == "Hello world" and all(len(one["top_logprobs"]) == 2 for one in told)
    assert written.writer.output[0]["content"][0]["logprobs"] == told


def test_tokens_of_thinking_have_no_log_probabilities() -> None:
    written = Written(top_logprobs=0, parser=UpToBar())
    written.writer.batch(pieces("Hello|world again"))
    written.writer.end(SUMMARY)
    thinking, message = written.writer.output
    (part,) = message["content"]
    assert (thinking["content"][0]["text"], part["text"]) == ("Hello", "world again")
    assert "".join(one["token"] for one in part["logprobs"]) == "world again"


def test_usage() -> None:
    written = Written(parser=UpToBar())
    written.writer.batch(pieces("Hello|world"))
    written.writer.end(SUMMARY)
    assert written.writer.body["usage"] == {
        "input_tokens": 11,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 7},
        "output_tokens": 6,
        "output_tokens_details": {"reasoning_tokens": 1},
        "total_tokens": 17,
    }
