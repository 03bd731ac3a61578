"""Streamed answers in the forms of OpenAI's two endpoints.

This runs for every batch of text, beside the decode loop. So the usual event is a constant string, the text, and
another constant string.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from duo.engines import Vocabulary
from lead.api import Answer, Piece, Summary
from lead.chat.answer import AnswerReader
from lead.chat.parser import AnswerParser
from lead.http.errors import dump, error_of
from lead.http.openai.deltas import Delta, Deltas, ThinkingStyle
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
    """`logprobs`: whether they are asked for. `style`: where thinking is told."""

    def __init__(
        self,
        start: str,
        index: int,
        asked: AnswerFields,
        parser: AnswerParser,
        logprobs: bool,
        vocabulary: Vocabulary,
        style: ThinkingStyle,
    ) -> None:
        super().__init__(start, index, asked, ('"delta":{"content":', "}"))
        self._before_thought = self._before.replace('"content":', '"reasoning_content":')
        self._reader, self._deltas, self._vocabulary = AnswerReader(parser), Deltas(style), vocabulary
        self._logprobs, self._accepted = logprobs, bool(asked.accepted)
        self._told = logprobs or self._accepted
        """Whether chunks tell of their pieces."""
        self._simple = not self._told and style.marks is None
        self._only_text = False
        """Whether all that follows is text, and chunks tell no more."""
        self._calls = 0
        self._pieces: list[Piece] = []
        """Pieces that no chunk has told yet."""

    @property
    def thinking_tokens(self) -> int:
        return self._reader.thinking_tokens

    def begin(self) -> str:
        return self._before + '"","role":"assistant"' + self._after

    def batch(self, pieces: Sequence[Piece]) -> str:
        if self._only_text:
            return self._plain("".join([piece.text for piece in pieces]))
        if self._told:
            self._pieces += pieces
        deltas = self._deltas.of(self._reader.push(pieces))
        self._only_text = self._reader.plain and self._simple
        return self._chunks(deltas)

    def end(self, summary: Summary) -> str:
        reason = summary.finish_reason
        deltas = self._deltas.of(self._reader.end(reason))
        if rest := self._deltas.end():
            deltas.append(Delta("", rest))
        # Tokens without text have log probabilities too, for example one that ends the answer.
        if self._logprobs and self._pieces and not deltas:
            deltas.append(Delta())
        return self._chunks(deltas) + self._last({"delta": {}}, self._reader.finish_reason(reason), summary)

    def _chunks(self, deltas: Sequence[Delta]) -> str:
        if not self._told:
            return "".join([self._chunk(delta) for delta in deltas])
        if not deltas:
            return ""
        pieces, self._pieces = self._pieces, []
        beside: list[dict[str, object]] = [{} for _ in deltas]
        if self._logprobs:
            for other in beside:
                other["logprobs"] = {"content": [], "refusal": None}
            beside[-1]["logprobs"] = {"content": chat_logprobs(pieces, self._vocabulary), "refusal": None}
        if self._accepted:
            texts = [delta.reasoning or delta.content for delta in deltas]
            told, later = accepted(pieces, texts, len(self._reader.held))
            for other, guessed in zip(beside, told, strict=True):
                other["accepted"] = guessed
            # Their log probabilities are told already; who guessed them is not.
            self._pieces = [Piece(piece.text, piece.backs) for piece in later]
        return "".join([self._chunk(delta, other) for delta, other in zip(deltas, beside, strict=True)])

    def _chunk(self, delta: Delta, beside: Mapping[str, object] | None = None) -> str:
        reasoning, text, calls = delta
        if not (calls or beside):
            if not reasoning:
                return self._plain(text)
            if not text:
                return self._before_thought + dump(reasoning) + self._after
        shape: dict[str, object] = {"reasoning_content": reasoning} if reasoning else {}
        if text or not (calls or reasoning):
            shape["content"] = text
        if calls:
            shape["tool_calls"] = [{"index": self._calls + i, **call_shape(call)} for i, call in enumerate(calls)]
            self._calls += len(calls)
        return self._event({"delta": shape}, beside or {})


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
            beside["accepted"] = accepted(pieces, [text], 0)[0][0]
        return self._event({"text": text}, beside) if text or self._logprobs else ""


def no_thinking() -> int:
    return 0


def chunk_style(
    answers: Sequence[Answer], per_prompt: int, usage_start: str | None, thinking: Callable[[], int] = no_thinking
) -> StreamStyle:
    """How OpenAI's streams end. `usage_start`: how the chunk with the usage begins, if it is wanted. `thinking`: tokens
    of thinking in all answers."""

    def tail() -> str:
        done = "data: [DONE]\n\n"
        if usage_start is None:
            return done
        # llama-server's clients look for the timings where the usage is.
        last = dump({"choices": [], **figures([answer.summary for answer in answers], per_prompt, thinking())})
        return f"{usage_start},{last[1:]}\n\n{done}"

    return StreamStyle(lambda error: f"data: {dump(error_of(error))}\n\n", tail)


def accepted(pieces: Sequence[Piece], texts: Sequence[str], held: int) -> tuple[list[list[list[str]]], list[Piece]]:
    """Who guessed each text: `[[text, back or ""], ...]`, which join to it.

    `texts` are parts of what the pieces say, in their order. The second result are the pieces of their last `held`
    characters, for a later chunk.
    """
    said, at, told = "".join([piece.text for piece in pieces]), 0, list[list[list[str]]]()
    for text in texts:
        if not text or (found := said.find(text, at)) < 0:  # a mark or a call was between
            told.append([[text, ""]] if text else [])
            continue
        at = found + len(text)
        told.append(_guessed(pieces, found, at))
    later: list[Piece] = []
    for piece in reversed(pieces):
        if held > 0 and piece.text:
            later.append(Piece(piece.text[-held:], piece.backs))
            held -= len(piece.text)
    return told, later[::-1]


def _guessed(pieces: Sequence[Piece], start: int, stop: int) -> list[list[str]]:
    """Who guessed the characters from `start` to `stop`."""
    told: list[list[str]] = []
    for piece in pieces:
        if shown := piece.text[max(0, start) : max(0, stop)]:
            told.append([shown, piece.backs[0] if piece.backs else ""])
        start -= len(piece.text)
        stop -= len(piece.text)
    return told
