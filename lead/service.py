"""Answers questions: prompts in, pieces of text out, between the event loop and the decode loop.

Everything here runs in the event loop's thread but for the callbacks that the decoder is given, which hand over to it
at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from duo.engines import Engine
from duo.errors import BusyError, ContextError, DuoError, RequestError
from duo.planner import Schedule
from duo.protocol import MAX_BIASES, Identity, Ledger
from duo.session import Step
from duo.text import TextStream
from duo.trace import Trace
from lead.answers import BackCount, Piece, Question, Summary
from lead.backs import Backs
from lead.decoder import Decoder, Job
from lead.own import OwnDraft

QUEUE = 64
"""Most questions that wait for their turn."""

PACE = 0.04
"""Seconds between two handovers of text. Whoever reads it sees no difference, and each handover interrupts the decode
loop, with which the event loop shares the interpreter. Backs hear of every step at once, unless they rest."""


class Listener(Protocol):
    """Hears of every answer as it comes: the console."""

    def pieces(self, pieces: Sequence[Piece]) -> None: ...

    def finished(self, summary: Summary | None) -> None:
        """`summary` None: the answer was broken off."""
        ...


class _Answer:
    """An answer under way. See `lead.answers.Answer`."""

    def __init__(self, job: Job, engine: Engine, listener: Listener) -> None:
        self._job = job
        self._engine = engine
        self._listener = listener
        self._summary: Summary | None = None
        self.steps: asyncio.Queue[Sequence[Step] | DuoError | None] = asyncio.Queue()
        """Steps as they are handed over, then how it ended."""

    @property
    def prompt_tokens(self) -> int:
        return len(self._job.prompt)

    @property
    def summary(self) -> Summary:
        if self._summary is None:
            raise RuntimeError("the answer is not finished")
        return self._summary

    async def __aiter__(self) -> AsyncIterator[Sequence[Piece]]:
        begun = False
        try:
            async for pieces in self._pieces():
                begun = True
                self._listener.pieces(pieces)
                yield pieces
            self._summary = _summarise(self._job)
        finally:
            # One that is given up while it waits for its turn is not heard of, or it would end another's text.
            if begun:
                self._listener.finished(self._summary)

    async def _pieces(self) -> AsyncIterator[Sequence[Piece]]:
        stream = TextStream(self._engine.vocabulary.decode)
        while isinstance(steps := await self.steps.get(), Sequence):
            yield [piece for step in steps for piece in self._step(step, stream)]
        if isinstance(steps, DuoError):
            raise steps
        if rest := stream.flush():
            yield [Piece(rest)]

    def _step(self, step: Step, stream: TextStream) -> list[Piece]:
        pieces = [Piece(stream.push(c.token), c.backs) for c in step.committed]
        if step.rejected:
            last, wrong = pieces[-1], step.rejected[0].token
            pieces[-1] = Piece(last.text, last.backs, self._engine.vocabulary.decode([wrong]))
        return pieces

    def cancel(self) -> None:
        self._job.cancelled.set()


def _summarise(job: Job) -> Summary | None:
    session = job.session
    if session is None or session.finish_reason is None:
        return None  # cancelled
    return Summary(
        finish_reason=session.finish_reason,
        prompt_tokens=session.prompt_length,
        cached_tokens=job.cached_tokens,
        completion_tokens=len(session.completion),
        prompt_seconds=job.prompt_seconds,
        decode_seconds=job.decode_seconds,
        steps=session.steps,
        drafted=session.total.drafted,
        accepted=session.total.accepted,
        backs={name: BackCount(t.drafted, t.accepted) for name, t in session.by_back.items()},
    )


class Service:
    """The lead without its sockets: a loaded model, its decode loop and its backs."""

    def __init__(
        self,
        engine: Engine,
        listener: Listener,
        schedule: Schedule,
        exact: bool,
        trace: Trace,
        own: OwnDraft | None = None,
    ) -> None:
        """`own`: a draft model beside the target."""
        self._engine = engine
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        ledger = Ledger()
        vocabulary = engine.vocabulary
        self._decoder = Decoder(
            engine, ledger, lambda: self.from_decoder(self.backs.changed), schedule, exact, trace, own
        )
        self._schedule = schedule
        me = Identity("lead", engine.name, vocabulary.fingerprint, vocabulary.size)
        self.backs = Backs(me, ledger, self._decoder, trace)
        self.model = engine.name
        self.created = int(time.time())
        self._decoder.start()

    @property
    def resting(self) -> bool:
        """Whether the backs need not hear of every step. Called from both threads."""
        return self._schedule.resting

    async def stop(self) -> None:
        """Stop after the current forward pass; answers under way end unfinished."""
        await asyncio.to_thread(self._decoder.stop)
        await self.backs.stop()

    def ask(self, question: Question) -> _Answer:
        """See `lead.answers.Answerer.ask`."""
        vocabulary, context = self._engine.vocabulary, self._engine.context
        strange = [token for token in question.sampling.logit_bias if not 0 <= token < vocabulary.size]
        if strange:
            raise RequestError(f"logit_bias: no token {strange[0]} in a vocabulary of {vocabulary.size}", "logit_bias")
        if len(question.sampling.logit_bias) > MAX_BIASES:
            raise RequestError(f"logit_bias names {len(question.sampling.logit_bias)} tokens, at most {MAX_BIASES} are "
                               "taken", "logit_bias")  # fmt: skip
        if question.max_tokens is not None and question.max_tokens < 1:
            raise RequestError(f"max_tokens is {question.max_tokens}: it must be at least 1", "max_tokens")
        prompt = question.prompt
        if len(prompt) >= context:
            raise ContextError(
                f"the prompt has {len(prompt)} tokens and the context holds {context}: "
                "shorten the conversation or start the lead with a larger --ctx-size"
            )
        if self._decoder.waiting >= QUEUE:
            raise BusyError(f"{QUEUE} questions are waiting already: try again later")
        room = context - len(prompt)
        job = Job(
            prompt=prompt,
            sampling=question.sampling,
            max_tokens=room if question.max_tokens is None else min(question.max_tokens, room),
            ignore_eos=question.ignore_eos,
            on_step=lambda step: handover.step(step),
            on_end=lambda error: handover.end(error),
        )
        answer = _Answer(job, self._engine, self._listener)
        handover = _Handover(self, answer)
        self._decoder.submit(job)
        return answer

    def from_decoder(self, call: Callable[[], None]) -> None:
        """Run in the event loop, called from the decoder's thread."""
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:
            return  # the event loop is closed: the program ends

    def told(self, steps: Sequence[Step]) -> None:
        """Something became final; the backs hear of it, and what they did is booked."""
        if not self.resting:
            self.backs.changed()
        for step in steps:
            self.backs.count(step)


class _Handover:
    """Brings the steps of one answer from the decoder's thread into the event loop, not oftener than need be."""

    def __init__(self, service: Service, answer: _Answer) -> None:
        self._service = service
        self._answer = answer
        self._steps: list[Step] = []
        self._last = float("-inf")

    def step(self, step: Step) -> None:
        self._steps.append(step)
        now = time.monotonic()
        if now - self._last >= PACE:
            self._last = now
            self._hand_over()
        elif self._service.backs.any and not self._service.resting:
            self._service.from_decoder(self._service.backs.changed)

    def end(self, error: DuoError | None) -> None:
        self._hand_over()
        self._service.from_decoder(lambda: self._answer.steps.put_nowait(error))

    def _hand_over(self) -> None:
        steps, self._steps = self._steps, []
        if steps:
            self._service.from_decoder(lambda: self._take(steps))

    def _take(self, steps: Sequence[Step]) -> None:
        self._service.told(steps)
        self._answer.steps.put_nowait(steps)
