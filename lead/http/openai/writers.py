"""Streamed answers in the forms of OpenAI's two endpoints.

This runs for every batch of text, beside the decode loop. So the usual event is a constant string, the text, and
another constant string.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from duo.engines import Vocabulary
from lead.api import Answer, Piece, Summary
from lead.chat.parser import AnswerParser, PlainParser
from lead.chat.parts import Call, Part, Text
from lead.http.errors import UNEXPECTED, dump, error_of
from lead.http.openai.fields import AnswerFields
from lead.http.openai.logprobs import chat_logprobs, prompt_logprobs, text_logprobs
from lead.http.openai.tools import call_shape
from lead.http.openai.usage import figures, timings
from lead.http.stream import StreamStyle


class _Writer:
    """Writes one answer as the events of a stream. Each event is a text to its end; an empty text is no event."""

    def __init__(self, start: str, index: int, asked: AnswerFields, around: tuple[str, str]) -> None:
        """`start`: how every event begins. `around`: the JSON before and after the text in a choice."""
        # Where usage is asked for, OpenAI sends a null usage on all chunks but the last.
        no_usage = ',"usage":null' if asked.wants_usage else ""
        self._start, self._index, self._no_usage = start, index, no_usage
        self._before = f'{start},"choices":[{{"index":{index},{around[0]}'
        self._after = f'{around[1]},"logprobs":null,"finish_reason":null}}]{no_usage}}}\n\n'

    def _plain(self, text: str) -> str:
        """The event of a text with nothing beside it."""
        return self._before + dump(text) + self._after if text else ""

    def _event(self, text: Mapping[str, object], beside: Mapping[str, object], figures: str = "") -> str:
        """The event of a choice that is more than its text."""
        choice = {"index": self._index, **text, "logprobs": None, "finish_reason": None, **beside}
        return f'{self._start},"choices":[{dump(choice)}]{self._no_usage}{figures}}}\n\n'

    def _last(self, text: Mapping[str, object], finish_reason: str, summary: Summary) -> str:
        return self._event(text, {"finish_reason": finish_reason}, f',"timings":{dump(timings(summary))}')


class ChatWriter(_Writer):
    """`logprobs`: whether they are asked for."""

    def __init__(
        self,
        start: str,
        index: int,
        asked: AnswerFields,
        parser: AnswerParser,
        logprobs: bool,
        vocabulary: Vocabulary,
    ) -> None:
        super().__init__(start, index, asked, ('"delta":{"content":', "}"))
        self._parser, self._vocabulary = parser, vocabulary
        self._logprobs, self._accepted = logprobs, bool(asked.accepted)
        self._only_text = isinstance(parser, PlainParser) and not (logprobs or self._accepted)
        self._calls = 0
        self._pieces: list[Piece] = []
        """Pieces that no chunk has told yet."""

    def begin(self) -> str:
        return self._before + '"","role":"assistant"' + self._after

    def batch(self, pieces: Sequence[Piece]) -> str:
        text = "".join([piece.text for piece in pieces])
        if self._only_text:
            return self._plain(text)
        self._pieces += pieces
        parts = self._parser.push(text)
        return self._chunk(parts) if parts else ""

    def end(self, summary: Summary) -> str:
        reason = summary.finish_reason
        parts = self._parser.flush(reason)
        # Tokens without text have log probabilities too, for example one that ends the answer.
        rest = self._chunk(parts) if parts or (self._logprobs and self._pieces) else ""
        return rest + self._last({"delta": {}}, self._parser.finish_reason(reason), summary)

    def _chunk(self, parts: Sequence[Part]) -> str:
        text = "".join([part.text for part in parts if isinstance(part, Text)])
        calls = [part for part in parts if isinstance(part, Call)]
        delta: dict[str, object] = {"content": text} if text or not calls else {}
        if calls:
            delta["tool_calls"] = [{"index": self._calls + i, **call_shape(call)} for i, call in enumerate(calls)]
            self._calls += len(calls)
        beside: dict[str, object] = {}
        pieces, self._pieces = self._pieces, []
        if self._logprobs:
            beside["logprobs"] = {"content": chat_logprobs(pieces, self._vocabulary), "refusal": None}
        if self._accepted:
            beside["accepted"], later = accepted(pieces, text, len(self._parser.held))
            # Their log probabilities are told already; who guessed them is not.
            self._pieces = [Piece(piece.text, piece.backs) for piece in later]
        return self._event({"delta": delta}, beside)


class Echo(NamedTuple):
    """What stands before an answer, and the tokens it is made of.

    `scored`: report log probabilities. Then report the token that ends the answer too, because programs that score
    texts drop the last one.
    """

    text: str
    prompt: Sequence[int]
    scored: bool


class TextWriter(_Writer):
    """`logprobs`: whether they are asked for."""

    def __init__(
        self,
        start: str,
        index: int,
        asked: AnswerFields,
        echo: Echo,
        answer: Answer,
        logprobs: bool,
        vocabulary: Vocabulary,
    ) -> None:
        super().__init__(start, index, asked, ('"text":', ""))
        self._echo, self._answer, self._vocabulary = echo, answer, vocabulary
        self._logprobs, self._accepted = logprobs, bool(asked.accepted)
        self._echoed = not echo.scored
        self._offset = len(echo.text)

    def begin(self) -> str:
        return "" if self._echo.scored else self._plain(self._echo.text)

    def batch(self, pieces: Sequence[Piece]) -> str:
        if self._echoed:
            return self._chunk(pieces)
        # The log probabilities of the prompt are complete by now.
        self._echoed = True
        scores = prompt_logprobs(self._echo.prompt, self._answer.prompt_logprobs, self._vocabulary)
        return self._event({"text": self._echo.text}, {"logprobs": scores}) + self._chunk(pieces)

    def end(self, summary: Summary) -> str:
        return self._last({"text": ""}, summary.finish_reason, summary)

    def _chunk(self, pieces: Sequence[Piece]) -> str:
        if not pieces:
            return ""
        text = "".join([piece.text for piece in pieces])
        if not (self._logprobs or self._accepted):
            return self._plain(text)
        beside: dict[str, object] = {}
        if self._logprobs:
            beside["logprobs"] = text_logprobs(pieces, self._vocabulary, self._offset, self._echo.scored)
            self._offset += len(text)
        if self._accepted:
            beside["accepted"] = accepted(pieces, text, 0)[0]
        return self._event({"text": text}, beside) if text or self._logprobs else ""


def chunk_style(answers: Sequence[Answer], per_prompt: int, usage_start: str | None) -> StreamStyle:
    """How OpenAI's streams end. `usage_start`: how the chunk with the usage begins, if it is wanted."""

    def tail() -> str:
        done = "data: [DONE]\n\n"
        if usage_start is None:
            return done
        # llama-server's clients look for the timings where the usage is.
        last = dump({"choices": [], **figures([answer.summary for answer in answers], per_prompt)})
        return f"{usage_start},{last[1:]}\n\n{done}"

    return StreamStyle(lambda error: f"data: {dump(error_of(error) if error else UNEXPECTED)}\n\n", tail)


def accepted(pieces: Sequence[Piece], text: str, held: int) -> tuple[list[list[str]], list[Piece]]:
    """Who guessed the text of a chunk: `[[text, back or ""], ...]`, which join to `text`.

    `text` is the beginning of what the pieces say. The second result are the pieces of their last `held` characters,
    for a later chunk.
    """
    told: list[list[str]] = []
    left = len(text)
    for piece in pieces:
        shown, left = piece.text[:left], left - min(left, len(piece.text))
        if shown:
            told.append([shown, piece.backs[0] if piece.backs else ""])
    if "".join(shown for shown, _ in told) != text:
        told = [[text, ""]]  # a call was between
    later: list[Piece] = []
    for piece in reversed(pieces):
        if held > 0 and piece.text:
            later.append(Piece(piece.text[-held:], piece.backs))
            held -= len(piece.text)
    return told, later[::-1]
