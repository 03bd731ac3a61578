"""One answer on its way out: from steps of the decode loop to pieces of text."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

from duo.engines import Engine
from duo.errors import DuoError
from duo.sampling.logprobs import Logprobs
from lead.answers.text import Stops, TextStream
from lead.answers.thoughts import Thoughts
from lead.api import CLIENT_GONE, FinishReason, Observer, Piece, Question, Speedup, Summary
from lead.decode.request import Request
from lead.decode.session import Step


class Report:
    """Tells observers of one answer, and of exactly one end. A context manager around the reading of its pieces."""

    def __init__(self, answer: int, observers: Sequence[Observer]) -> None:
        self._answer = answer
        self._observers = observers
        self._asked = time.perf_counter()
        self._begun = self._ended = False
        for observer in observers:
            observer.began(answer)

    def pieces(self, pieces: Sequence[Piece]) -> None:
        if self._ended:
            return
        for observer in self._observers:
            if not self._begun:
                observer.first_text(self._answer, time.perf_counter() - self._asked)
            observer.pieces(self._answer, pieces)
        self._begun = True

    def finished(self, summary: Summary) -> None:
        if not self._ended:
            self._ended = True
            for observer in self._observers:
                observer.finished(self._answer, summary)

    def failed(self, status: int) -> None:
        if not self._ended:
            self._ended = True
            for observer in self._observers:
                observer.failed(self._answer, status)

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            self.failed(error.status if isinstance(error, DuoError) else 500)
        else:
            self.failed(CLIENT_GONE)  # unless it has its end: cancelled, or its reader stopped


class RunningAnswer:
    """An answer under way. See `lead.api.Answer`."""

    def __init__(
        self,
        number: int,
        request: Request,
        question: Question,
        engine: Engine,
        observers: Sequence[Observer],
        cancel: Callable[[], None],
        speedup: Callable[[], Speedup | None],
    ) -> None:
        """`speedup`: over the target alone, of what is there by now."""
        self._speedup = speedup
        self._report = Report(number, observers)
        self._request = request
        self._engine = engine
        self._cancel = cancel
        before = question.prompt if question.continues else ()
        self._text = TextStream(engine.vocabulary.decode, before, question.marks)
        turns = () if question.ignore_eos else question.turns
        self._asked_stops = question.stop
        self._stops = Stops((*question.stop, *turns))
        self._names = {token: name for token, name in question.stop_names.items() if token not in question.marks}
        """Of special tokens that stop strings may hold and the text does not."""
        ends = engine.vocabulary.eos if question.marks and not question.ignore_eos else ()
        self._silent = {*request.stop_tokens, *(token for token in ends if token in question.marks)}
        """Tokens that add nothing to the text."""
        self._held: deque[tuple[Piece, int]] = deque()
        """Tokens that may be the beginning of a stop string, and how many characters they are of what is searched."""
        self._clear = 0
        """Characters of theirs that may be shown."""
        self.tokens = 0
        """Tokens of the answer so far."""
        # A stop string is found in the event loop: the decode loop should not go on for long behind it.
        watched = any(observer.reads for observer in observers)
        self._thoughts = Thoughts(question.thinking_marks) if watched else None
        self.read = question.streamed or bool(question.stop or turns) or watched
        """Whether its steps are to be handed over soon."""
        self._finish_reason: FinishReason | None = None
        self._summary: Summary | None = None
        self.steps: asyncio.Queue[Sequence[Step] | DuoError | None] = asyncio.Queue()
        """Steps as they are handed over, then how it ended."""

    @property
    def prompt_logprobs(self) -> Sequence[Logprobs]:
        return self._request.prompt_logprobs or ()

    @property
    def summary(self) -> Summary:
        if self._summary is None:
            raise RuntimeError("the answer is not finished")
        return self._summary

    async def __aiter__(self) -> AsyncIterator[Sequence[Piece]]:
        with self._report:
            async for pieces in self._pieces():
                self._report.pieces(pieces)
                yield pieces
            self._summary = self._summarised()
            if self._summary is not None:
                self._report.finished(self._summary)

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
            text = "" if done.token in self._silent else self._text.push(done.token)
            self._hold(Piece(text, done.backs, "", done.token, done.logprobs))
            self.tokens += 1
            pieces += self._cleared()
        if step.rejected and pieces:
            wrong = self._engine.vocabulary.decode([step.rejected[0].token])
            pieces[-1] = replace(pieces[-1], rejected=wrong)
        return pieces

    def _hold(self, piece: Piece) -> None:
        """Keep it until it is clear that it may be shown."""
        if self._thoughts is not None and self._thoughts.take(piece.text):
            piece = replace(piece, thought=True)
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
            pieces.append(Piece(cut.text[: self._clear], cut.backs, thought=cut.thought))
        return pieces

    @property
    def stop_string(self) -> str:
        """The string of the client's that has ended the answer; empty if none has."""
        return self._stops.found if self._stops.found in self._asked_stops else ""

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
            backs={name: replace(tally) for name, tally in list(session.by_back.items())},
            stop_string=self.stop_string,
            speedup=self._speedup(),
        )

    def cancel(self) -> None:
        self._cancel()
        self._report.failed(CLIENT_GONE)
