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
from duo.protocol import MAX_BIASES, Identity, Ledger
from duo.session import Step
from duo.text import TextStream
from lead.answers import BackCount, Piece, Question, Summary
from lead.backs import Backs
from lead.decoder import Decoder, Job

QUEUE = 64
"""Most questions that wait for their turn."""


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
        self.steps: asyncio.Queue[Step | DuoError | None] = asyncio.Queue()

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
        decode = self._engine.vocabulary.decode
        stream = TextStream(decode)
        while isinstance(step := await self.steps.get(), Step):
            pieces = [Piece(stream.push(c.token), c.backs) for c in step.committed]
            if step.rejected:
                last = pieces[-1]
                pieces[-1] = Piece(last.text, last.backs, decode([n.token for n in step.rejected[:1]]))
            yield pieces
        if isinstance(step, DuoError):
            raise step
        if rest := stream.flush():
            yield [Piece(rest)]

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

    def __init__(self, engine: Engine, listener: Listener, draft_max: int, exact: bool) -> None:
        self._engine = engine
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        ledger = Ledger()
        vocabulary = engine.vocabulary
        self._decoder = Decoder(engine, ledger, lambda: self._from_decoder(self.backs.changed), draft_max, exact)
        me = Identity("lead", engine.name, vocabulary.fingerprint, vocabulary.size)
        self.backs = Backs(me, ledger, self._decoder)
        self.model = engine.name
        self.created = int(time.time())
        self._decoder.start()

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
        prompt = vocabulary.chat(question.messages)
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
            on_step=lambda step: self._from_decoder(lambda: self._told(answer, step)),
            on_end=lambda error: self._from_decoder(lambda: answer.steps.put_nowait(error)),
        )
        answer = _Answer(job, self._engine, self._listener)
        self._decoder.submit(job)
        return answer

    def _from_decoder(self, call: Callable[[], None]) -> None:
        """Run in the event loop, called from the decoder's thread."""
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:
            return  # the event loop is closed: the program ends

    def _told(self, answer: _Answer, step: Step) -> None:
        self.backs.changed()
        self.backs.count(step)
        answer.steps.put_nowait(step)
