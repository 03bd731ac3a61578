"""Streams of Anthropic's events, beside text and calls: thinking, and signs of life."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from lead.api import FinishReason, Piece
from lead.chat.answer import AnswerReader, whole
from lead.chat.parser import Finish
from lead.chat.parts import Call, Part, Text, Thought
from lead.http import stream
from lead.http.anthropic.shapes import SIGNATURE, content
from lead.http.anthropic.writer import MessageWriter
from tests.support.anthropic import HI, MESSAGES
from tests.support.http import PATIENCE, SUMMARY, AnswerGate, ScriptedAnswerer


class Scripted:
    """A parser that finds these parts: one in each piece, whose text is a number."""

    held = ""
    plain = False

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts

    def push(self, text: str) -> list[Part]:
        return [self._parts[int(text)]]

    def flush(self, reason: FinishReason = "stop") -> list[Part]:
        return []

    def finish_reason(self, reason: FinishReason) -> Finish:
        return "tool_calls" if any(isinstance(part, Call) for part in self._parts) else reason


def events(parts: Sequence[Part], batches: Sequence[int], shows_thinking: bool = True) -> Iterator[dict[str, Any]]:
    """The events of an answer. `batches`: after how many parts each batch ends."""
    pieces = [Piece(str(i), token=i) for i in range(len(parts))]
    writer = MessageWriter({"id": "msg_1"}, 5, None, AnswerReader(Scripted(parts)), shows_thinking)
    cuts = [0, *sorted(min(cut, len(pieces)) for cut in batches), len(pieces)]
    told = [writer.batch(pieces[a:b]) for a, b in pairwise(cuts)]
    text = "".join([writer.begin(), *told, writer.end(SUMMARY)])
    for block in text.removesuffix("\n\n").split("\n\n"):
        yield json.loads(block.split("\ndata: ")[1])


def joined(events: Iterator[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The blocks, as clients join them, and the event of the end. Blocks follow each other and each one ends."""
    blocks: list[dict[str, Any]] = []
    inputs: list[str] = []
    is_open, last = False, {}
    for event in events:
        kind = event["type"]
        assert is_open == (kind in ("content_block_delta", "content_block_stop"))
        if kind == "content_block_start":
            is_open = True
            blocks.append(event["content_block"])
            inputs.append("")
        elif kind == "content_block_stop":
            is_open = False
            if blocks[-1]["type"] == "tool_use":
                blocks[-1]["input"] = json.loads(inputs[-1])
        elif kind == "content_block_delta":
            name, value = list(event["delta"].items())[1]
            if name == "partial_json":
                inputs[-1] += value
            else:
                blocks[-1][name] += value
        elif kind == "message_delta":
            last = event
        if "index" in event:
            assert event["index"] == len(blocks) - 1
    assert not is_open
    return blocks, last


def test_thinking_has_a_block_and_a_signature() -> None:
    parts: list[Part] = [
        Thought("Hm"),
        Thought("."),
        Text("\n"),
        Call("abc", "f", '{"a": 1}'),
        Thought("So"),
        Text("b"),
    ]
    blocks, last = joined(events(parts, [1, 3]))
    assert blocks == [
        {"type": "thinking", "thinking": "Hm.", "signature": SIGNATURE},
        {"type": "text", "text": "\n"},
        {"type": "tool_use", "id": "toolu_abc", "name": "f", "input": {"a": 1}},
        {"type": "thinking", "thinking": "So", "signature": SIGNATURE},
        {"type": "text", "text": "b"},
    ]
    assert last["delta"]["stop_reason"] == "tool_use"
    assert last["usage"]["output_tokens_details"] == {"thinking_tokens": 3}


def test_thinking_that_is_left_out() -> None:
    blocks, last = joined(events([Thought("Hm."), Text("b")], [], shows_thinking=False))
    assert blocks[0] == {"type": "thinking", "thinking": "", "signature": SIGNATURE}
    assert last["usage"]["output_tokens_details"] == {"thinking_tokens": 1}


TEXTS = st.text(min_size=1, max_size=6)
ARGUMENTS = st.dictionaries(TEXTS, TEXTS | st.integers() | st.lists(TEXTS, max_size=2), max_size=2).map(json.dumps)
PARTS = st.lists(
    st.builds(Text, TEXTS) | st.builds(Thought, TEXTS) | st.builds(Call, TEXTS, TEXTS, ARGUMENTS), max_size=8
)


@given(PARTS, st.lists(st.integers(0, 8), max_size=4), st.booleans())
def test_a_stream_is_the_whole_answer_however_it_is_cut(parts: list[Part], batches: list[int], shows: bool) -> None:
    pieces = [Piece(str(i), token=i) for i in range(len(parts))]
    blocks, _ = joined(events(parts, batches, shows))
    assert blocks == content(whole(Scripted(parts), pieces, "stop").parts, shows)


def test_a_long_prompt_gives_signs_of_life(
    url: str, answerer: ScriptedAnswerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "WAITING_SECONDS", 0.01)
    gate = AnswerGate()
    answerer.script = [gate, ("Hi",)]
    body = {"messages": HI, "max_tokens": 5, "stream": True}
    with requests.post(url + MESSAGES, json=body, stream=True, timeout=PATIENCE) as response:
        lines = response.iter_lines()
        assert next(lines) == b"event: message_start"
        pings = 0
        while pings < 4:
            pings += next(lines) == b"event: ping"
        gate.open()
        rest = b"\n".join(lines)
    assert b'"text":"Hi"' in rest and rest.rstrip().endswith(b'{"type":"message_stop"}')


def test_who_goes_away_while_the_prompt_is_read_ends_the_answer(url: str, answerer: ScriptedAnswerer) -> None:
    answerer.script = [AnswerGate()]
    body = {"messages": HI, "max_tokens": 5, "stream": True}
    with requests.post(url + MESSAGES, json=body, stream=True, timeout=PATIENCE) as response:
        assert next(response.iter_lines()) == b"event: message_start"
    answer = answerer.next_asked()
    assert answer.cancelled.wait(PATIENCE) and answer.ended.wait(PATIENCE)
