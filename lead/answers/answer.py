"""One answer on its way out: from steps of the decode loop to pieces of text."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Protocol

from duo.engines import Engine
from duo.errors import DuoError
from lead.answers.text import Stops, TextStream
from lead.api import BackCount, FinishReason, Piece, Question, Summary
from lead.decode.request import Request
from lead.decode.session import Logprobs, Step


class Listener(Protocol):
    """Hears of every answer as it comes, in the event loop: the console."""

    @property
    def reads(self) -> bool:
        """Whether it wants the pieces as soon as there are some."""
        ...

    def began(self, answer: int, prompt_tokens: int) -> None:
        """An answer, named by a number, has its first text."""
        ...

    def pieces(self, answer: int, pieces: Sequence[Piece]) -> None: ...

    def finished(self, answer: int, summary: Summary | None) -> None:
        """`summary` None: the answer was broken off."""
        ...


class RunningAnswer:
    """An answer under way. See `lead.api.Answer`."""

    def __init__(
        self,
        number: int,
        request: Request,
        question: Question,
        engine: Engine,
        listener: Listener,
        cancel: Callable[[], None],
    ) -> None:
        self._number = number
        self._request = request
        self._engine = engine
        self._listener = listener
        self._cancel = cancel
        self._text = TextStream(engine.vocabulary.decode, question.prompt if question.continues else ())
        self._stops = Stops(question.stop)
        self._names = question.stop_names
        self._held: deque[tuple[Piece, int]] = deque()
        """Tokens that may be the beginning of a stop string, and how many characters they are of what is searched."""
        self._clear = 0
        """Characters of theirs that may be shown."""
        self.tokens = 0
        """Tokens of the answer so far."""
        # A stop string is found in the event loop: the decode loop should not go on for long behind it.
        self.read = question.streamed or bool(question.stop) or listener.reads
        """Whether its steps are to be handed over soon."""
        self._finish_reason: FinishReason | None = None
        self._summary: Summary | None = None
        self.steps: asyncio.Queue[Sequence[Step] | DuoError | None] = asyncio.Queue()
        """Steps as they are handed over, then how it ended."""

    @property
    def prompt_tokens(self) -> int:
        return len(self._request.prompt)

    @property
    def prompt_logprobs(self) -> Sequence[Logprobs]:
        return self._request.prompt_logprobs or ()

    @property
    def summary(self) -> Summary:
        if self._summary is None:
            raise RuntimeError("the answer is not finished")
        return self._summary

    async def __aiter__(self) -> AsyncIterator[Sequence[Piece]]:
        begun = False
        try:
            async for pieces in self._pieces():
                if not begun:
                    begun = True
                    self._listener.began(self._number, self.prompt_tokens)
                self._listener.pieces(self._number, pieces)
                yield pieces
            self._summary = self._summarised()
        finally:
            # One that is given up while it waits for its turn is not heard of.
            if begun:
                self._listener.finished(self._number, self._summary)

    async def _pieces(self) -> AsyncIterator[Sequence[Piece]]:
        while isinstance(steps := await self.steps.get(), Sequence):
            pieces: list[Piece] = []
            for step in steps:
                pieces += self._step(step)
            yield pieces
            if self._finish_reason is not None:
                self._cancel()  # at a stop string: the decode loop knows nothing of it
                return
        if isinstance(steps, DuoError):
            raise steps
        if rest := self._text.flush():
            self._hold(Piece(rest))
        self._clear += len(self._stops.flush())
        if pieces := self._cleared():
            yield pieces

    def _step(self, step: Step) -> list[Piece]:
        pieces: list[Piece] = []
        for done in step.committed:
            if self._finish_reason is not None:
                return pieces
            # A token that ends the answer is no part of its text, be it special or not.
            text = "" if done.token in self._request.stop_tokens else self._text.push(done.token)
            self._hold(Piece(text, done.backs, "", done.token, done.logprobs))
            self.tokens += 1
            pieces += self._cleared()
        if step.rejected and pieces:
            wrong = self._engine.vocabulary.decode([step.rejected[0].token])
            pieces[-1] = replace(pieces[-1], rejected=wrong)
        return pieces

    def _hold(self, piece: Piece) -> None:
        """Keep it until it is clear that it may be shown."""
        searched = piece.text + self._names.get(-1 if piece.token is None else piece.token, "")
        self._held.append((piece, len(searched)))
        text, stopped = self._stops.push(searched)
        self._clear += len(text)
        if stopped:
            self._finish_reason = "stop"

    def _cleared(self) -> list[Piece]:
        """What may be shown by now. At a stop string that is all there is to come; what begins it is cut in two, and
        then is no token any more."""
        pieces: list[Piece] = []
        stopped = self._finish_reason == "stop"
        while self._held and self._held[0][1] <= self._clear and not (stopped and not self._clear):
            piece, length = self._held.popleft()
            self._clear -= length
            pieces.append(piece)
        if stopped and self._clear:
            cut = self._held[0][0]
            pieces.append(Piece(cut.text[: self._clear], cut.backs))
        return pieces

    def _summarised(self) -> Summary | None:
        request = self._request
        if request.status == "waiting" or not (reason := self._finish_reason or request.session.finish_reason):
            return None  # cancelled
        session = request.session
        return Summary(
            finish_reason=reason,
            prompt_tokens=session.prompt_length,
            cached_tokens=request.cached_tokens,
            completion_tokens=self.tokens,
            prompt_seconds=request.prompt_seconds,
            decode_seconds=request.decode_seconds,
            steps=session.steps,
            drafted=session.total.drafted,
            accepted=session.total.accepted,
            queued_seconds=request.admitted - request.submitted,
            backs={name: BackCount(t.drafted, t.accepted) for name, t in list(session.by_back.items())},
        )

    def cancel(self) -> None:
        self._cancel()
