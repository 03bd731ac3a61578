"""A streamed answer as Anthropic's events.

This runs for every batch of text, beside the decode loop. So the usual event is a constant string, the text, and
another constant string.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lead.api import Piece, Summary
from lead.chat.answer import AnswerReader
from lead.chat.parts import Call, Part, Text, Thought
from lead.http.anthropic.shapes import SIGNATURE, call_head, stopped, usage, usage_of
from lead.http.errors import ANTHROPIC, dump, error_of
from lead.http.stream import StreamStyle


def event(kind: str, **fields: object) -> str:
    """An event of this type."""
    return f"event: {kind}\ndata: {dump({'type': kind, **fields})}\n\n"


PING = event("ping")
STYLE = StreamStyle(
    failed=lambda error: f"event: error\ndata: {dump(error_of(error, ANTHROPIC))}\n\n", tail=lambda: "", waiting=PING
)


class MessageWriter:
    """Writes one answer. Neighbouring parts of one kind are one block."""

    def __init__(
        self,
        head: Mapping[str, object],
        prompt_tokens: int,
        limit: int | None,
        reader: AnswerReader,
        shows_thinking: bool,
    ) -> None:
        """`head`: how the message begins. `limit`: most tokens that the request allows."""
        self._head, self._prompt_tokens, self._limit = head, prompt_tokens, limit
        self._reader, self._shows_thinking = reader, shows_thinking
        self._index = -1
        """Of the newest block."""
        self._open: type[Part] | None = None
        """What the newest block holds, if it has not ended."""
        self._before = self._after = ""
        """What stands around the text in an event of this block."""

    def begin(self) -> str:
        figures = usage(self._prompt_tokens, 0, 0, 0)
        message = {**self._head, "content": [], "stop_reason": None, "stop_sequence": None, "usage": figures}
        return event("message_start", message=message) + PING

    def batch(self, pieces: Sequence[Piece]) -> str:
        return "".join([self._part(part) for part in self._reader.push(pieces)])

    def end(self, summary: Summary) -> str:
        rest = "".join([self._part(part) for part in self._reader.end(summary.finish_reason)])
        why = stopped(self._reader.finish_reason(summary.finish_reason), summary, self._limit)
        figures = usage_of(summary, self._reader.thinking_tokens)
        return rest + self._close() + event("message_delta", delta=why, usage=figures) + event("message_stop")

    def _part(self, part: Part) -> str:
        if isinstance(part, Call):
            begin = self._begin(Call, call_head(part))
            delta = {"type": "input_json_delta", "partial_json": part.arguments}
            return begin + event("content_block_delta", index=self._index, delta=delta) + self._close()
        if isinstance(part, Text):
            begin = "" if self._open is Text else self._begin(Text, {"type": "text", "text": ""})
        else:
            block = {"type": "thinking", "thinking": "", "signature": ""}
            begin = "" if self._open is Thought else self._begin(Thought, block)
            if not self._shows_thinking:
                return begin
        return begin + self._before + dump(part.text) + self._after

    def _begin(self, kind: type[Part], block: Mapping[str, object]) -> str:
        close = self._close()
        self._index += 1
        self._open = kind
        key = "text" if kind is Text else "thinking"
        self._before = (
            'event: content_block_delta\ndata: {"type":"content_block_delta",'
            f'"index":{self._index},"delta":{{"type":"{key}_delta","{key}":'
        )
        self._after = "}}\n\n"
        return close + event("content_block_start", index=self._index, content_block=block)

    def _close(self) -> str:
        """The end of the newest block."""
        if self._open is None:
            return ""
        signed = ""
        if self._open is Thought:
            delta = {"type": "signature_delta", "signature": SIGNATURE}
            signed = event("content_block_delta", index=self._index, delta=delta)
        self._open = None
        return signed + event("content_block_stop", index=self._index)
