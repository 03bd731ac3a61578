"""An answer in its parts, whole or as it comes, and how many of its tokens were thinking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from lead.api import FinishReason, Piece
from lead.chat.parser import AnswerParser, Finish
from lead.chat.parts import Call, Part, Text, Thought


class AnswerReader:
    """Takes one answer apart as its pieces come."""

    def __init__(self, parser: AnswerParser) -> None:
        self._parser = parser
        self._plain = False
        self.thinking_tokens = 0
        """Tokens of thinking so far. A mark belongs to what comes out after it."""
        self._pending = 0
        """Tokens since the last part came out."""

    @property
    def plain(self) -> bool:
        """Whether all that follows is text. Then further pieces need no reader."""
        self._plain = self._plain or self._parser.plain
        return self._plain

    @property
    def held(self) -> str:
        """The text that came out in no part yet."""
        return self._parser.held

    def push(self, pieces: Sequence[Piece]) -> list[Part]:
        """The parts that are certain by now, in their order. Neighbours of one kind are one part."""
        if self.plain:
            # The usual case, for every token of an answer. The parser has nothing to say to it.
            text = "".join([piece.text for piece in pieces])
            return [Text(text)] if text else []
        parts: list[Part] = []
        for piece in pieces:
            self._pending += piece.token is not None
            if piece.text:
                parts += self._counted(self._parser.push(piece.text))
        return _joined(parts)

    def end(self, reason: FinishReason) -> list[Part]:
        """The rest. `reason`: why the text ended."""
        return _joined(self._counted(self._parser.flush(reason)))

    def finish_reason(self, reason: FinishReason) -> Finish:
        """Why the answer ended, in OpenAI's words. Only with 'tool_calls' are the calls safe to carry out."""
        return self._parser.finish_reason(reason)

    def _counted(self, parts: list[Part]) -> list[Part]:
        if parts:
            if isinstance(parts[-1], Thought):
                self.thinking_tokens += self._pending
            self._pending = 0
        return parts


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """A finished answer. `parts` are in the order in which the model wrote them."""

    parts: Sequence[Part]
    finish_reason: Finish
    thinking_tokens: int

    @property
    def content(self) -> str:
        return "".join([part.text for part in self.parts if isinstance(part, Text)])

    @property
    def reasoning(self) -> str:
        return "".join([part.text for part in self.parts if isinstance(part, Thought)])

    @property
    def calls(self) -> list[Call]:
        return [part for part in self.parts if isinstance(part, Call)]


def whole(parser: AnswerParser, pieces: Sequence[Piece], reason: FinishReason) -> WholeAnswer:
    """The answer that these pieces make. `parser`: a new one. `reason`: why the text ended."""
    reader = AnswerReader(parser)
    parts = _joined([*reader.push(pieces), *reader.end(reason)])
    return WholeAnswer(parts, reader.finish_reason(reason), reader.thinking_tokens)


def _joined(parts: Sequence[Part]) -> list[Part]:
    """The same parts, with neighbours of one kind in one."""
    if len(parts) == 1:
        return [*parts]  # the usual case, for every token of an answer
    joined: list[Part] = []
    for kind, group in groupby(parts, type):
        if kind is Call:
            joined += group
        else:
            text = "".join([part.text for part in group if not isinstance(part, Call)])
            joined.append(Thought(text) if kind is Thought else Text(text))
    return joined
