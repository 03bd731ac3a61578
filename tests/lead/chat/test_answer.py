"""Answers in their parts, and how many of their tokens were thinking."""

from __future__ import annotations

from lead.api import FinishReason, Piece
from lead.chat.answer import AnswerReader, whole
from lead.chat.conversation import Tool
from lead.chat.forms.table import HERMES
from lead.chat.parser import Finish, PlainParser, parser_for
from lead.chat.parts import Call, Part, Text, Thought

OPEN, CLOSE = "<think>", "</think>"


class Thinker:
    """A parser that knows thinking, whose marks are pieces of their own."""

    held = ""
    plain = False

    def __init__(self) -> None:
        self._thinks = False

    def push(self, text: str) -> list[Part]:
        if text in (OPEN, CLOSE):
            self._thinks = text == OPEN
            return []
        return [Thought(text)] if self._thinks else [Text(text)]

    def flush(self, reason: FinishReason = "stop") -> list[Part]:
        return []

    def finish_reason(self, reason: FinishReason) -> Finish:
        return reason


def pieces(*texts: str) -> list[Piece]:
    return [Piece(text, token=token) for token, text in enumerate(texts)]


def test_tokens_of_thinking_are_counted_the_same_in_every_batch() -> None:
    told = pieces(OPEN, "a", "", "b", CLOSE, "c", "d", OPEN, "e", CLOSE)
    answer = whole(Thinker(), told, "stop")
    assert answer.parts == [Thought("ab"), Text("cd"), Thought("e")]
    assert (answer.reasoning, answer.content, answer.calls) == ("abe", "cd", [])
    # A mark counts with what comes out after it. The last one comes out with nothing.
    assert answer.thinking_tokens == 6
    for size in (1, 2, 3, 7):
        reader = AnswerReader(Thinker())
        parts: list[Part] = []
        for start in range(0, len(told), size):
            parts += reader.push(told[start : start + size])
        parts += reader.end("stop")
        assert "".join(part.text for part in parts if isinstance(part, Thought)) == "abe"
        assert reader.thinking_tokens == 6


def test_text_alone_is_not_read_piece_by_piece() -> None:
    reader = AnswerReader(PlainParser())
    assert reader.plain and reader.push(pieces("a", "b")) == [Text("ab")]
    assert reader.end("length") == [] and reader.finish_reason("length") == "length"
    assert reader.thinking_tokens == 0


def test_calls_stay_apart() -> None:
    call = '<tool_call>{"name":"f","arguments":{}}</tool_call>'
    answer = whole(parser_for(HERMES, [Tool("f")]), pieces("x", call, call), "stop")
    assert [type(part) for part in answer.parts] == [Text, Call, Call]
    assert answer.content == "x" and [found.name for found in answer.calls] == ["f", "f"]
    assert answer.finish_reason == "tool_calls" and answer.thinking_tokens == 0
