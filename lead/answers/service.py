"""Answers questions: prompts in, pieces of text out, between the event loop and the decode loop.

Everything here runs in the event loop's thread but for the callbacks that the decoder is given, which hand over to it
at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from itertools import count
from typing import Protocol

from duo.engines import Engine, Vocabulary
from duo.errors import BusyError, ContextError, DuoError, RequestError
from duo.sampling.grammar import of_json_object
from duo.trace import Trace
from duo.wire.lead_side import MAX_BIASES, Identity, Ledger
from lead.answers.text import Stops, TextStream
from lead.api import BackCount, FinishReason, Piece, Question, SlotView, Summary
from lead.backs.server import Backs
from lead.decode.local_draft import OwnDraft
from lead.decode.loop import Decoder, Job
from lead.decode.session import Logprobs, Step
from lead.plan.schedule import Schedule

QUEUE = 64
"""Most questions that wait for a slot, unless more are allowed."""

PACE = 0.04
"""Seconds between two handovers of text; more where there are several answers, each of which is slower then. Whoever
reads it sees no difference, and each handover interrupts the decode loop, with which the event loop shares the
interpreter. Backs hear of every step at once, unless they rest."""
UNREAD_PACE = 0.25
"""The same where nobody reads any of the answers as they come."""


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


class _Answer:
    """An answer under way. See `lead.api.Answer`."""

    def __init__(
        self,
        number: int,
        job: Job,
        question: Question,
        engine: Engine,
        listener: Listener,
        cancel: Callable[[], None],
    ) -> None:
        self._number = number
        self._job = job
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
        self._tokens = 0
        # A stop string is found in the event loop: the decode loop should not go on for long behind it.
        self.read = question.streamed or bool(question.stop) or listener.reads
        """Whether its steps are to be handed over soon."""
        self._finish_reason: FinishReason | None = None
        self._summary: Summary | None = None
        self.steps: asyncio.Queue[Sequence[Step] | DuoError | None] = asyncio.Queue()
        """Steps as they are handed over, then how it ended."""

    @property
    def prompt_tokens(self) -> int:
        return len(self._job.prompt)

    @property
    def prompt_logprobs(self) -> Sequence[Logprobs]:
        return self._job.prompt_logprobs or ()

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
            text = "" if done.token in self._job.stop_tokens else self._text.push(done.token)
            self._hold(Piece(text, done.backs, "", done.token, done.logprobs))
            self._tokens += 1
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
        job, session = self._job, self._job.session
        if session is None or (reason := self._finish_reason or session.finish_reason) is None:
            return None  # cancelled
        return Summary(
            finish_reason=reason,
            prompt_tokens=session.prompt_length,
            cached_tokens=job.cached_tokens,
            completion_tokens=self._tokens,
            prompt_seconds=job.prompt_seconds,
            decode_seconds=job.decode_seconds,
            steps=session.steps,
            drafted=session.total.drafted,
            accepted=session.total.accepted,
            queued_seconds=job.seated - job.submitted,
            backs={name: BackCount(t.drafted, t.accepted) for name, t in list(session.by_back.items())},
        )

    def cancel(self) -> None:
        self._cancel()


class Service:
    """The lead without its sockets: a loaded model, its decode loop and its backs."""

    def __init__(
        self,
        engine: Engine,
        listener: Listener,
        schedule: Schedule,
        exactness: str,
        trace: Trace,
        own: OwnDraft | None = None,
        queue: int = QUEUE,
    ) -> None:
        """`exactness`: a line for people. `own`: a draft model beside the target. `queue`: most questions that wait."""
        self._engine = engine
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        ledger = Ledger()
        vocabulary = engine.vocabulary
        self._decoder = Decoder(
            engine, ledger, lambda: self.from_decoder(self.backs.changed), self._stepped, schedule, trace, own
        )
        self._schedule = schedule
        self._queue = queue
        self._numbers = count(1)
        self._handover = _Handover(self)
        me = Identity("lead", engine.name, vocabulary.fingerprint, vocabulary.size, vocabulary.meanings)
        self.backs = Backs(me, ledger, self._decoder, trace)
        self.model = engine.name
        self.exactness = exactness
        self.speculates = schedule.speculates
        self.created = int(time.time())
        self._decoder.start()
        # The first grammar of a large vocabulary takes a second, which the event loop should not.
        self._warming = asyncio.ensure_future(asyncio.to_thread(self._decoder.grammars.check, of_json_object()))

    async def stop(self) -> None:
        """Stop after the current forward pass; answers under way end unfinished."""
        await asyncio.gather(self._warming, return_exceptions=True)
        await asyncio.to_thread(self._decoder.stop)
        await self.backs.stop()

    def ask(self, question: Question) -> _Answer:
        """See `lead.api.Answerer.ask`."""
        vocabulary, context = self._engine.vocabulary, self._engine.context
        strange = [token for token in question.sampling.logit_bias if not 0 <= token < vocabulary.size]
        if strange:
            raise RequestError(f"logit_bias: no token {strange[0]} in a vocabulary of {vocabulary.size}", "logit_bias")
        if len(question.sampling.logit_bias) > MAX_BIASES:
            raise RequestError(f"logit_bias names {len(question.sampling.logit_bias)} tokens, at most {MAX_BIASES} are "
                               "taken", "logit_bias")  # fmt: skip
        strange = [token for token in question.stop_tokens if not 0 <= token < vocabulary.size]
        if strange:
            raise RequestError(
                f"stop_token_ids: no token {strange[0]} in a vocabulary of {vocabulary.size}", "stop_token_ids"
            )
        if question.max_tokens is not None and question.max_tokens < 1:
            raise RequestError(f"max_tokens is {question.max_tokens}: it must be at least 1", "max_tokens")
        prompt = question.prompt
        if not prompt:
            raise RequestError("the prompt is empty: give at least one token")
        if not 0 <= min(prompt) <= max(prompt) < vocabulary.size:
            raise RequestError(f"prompt: a token is not in the vocabulary of {vocabulary.size}", "prompt")
        if len(prompt) >= context:
            raise ContextError(
                f"the prompt has {len(prompt)} tokens and the context holds {context}: "
                "shorten the conversation or start the lead with a larger --ctx-size"
            )
        if question.sampling.grammar:
            if question.ignore_eos:
                raise RequestError("ignore_eos: an answer that follows a form ends where the form does", "ignore_eos")
            self._decoder.grammars.check(question.sampling.grammar)
        if self._decoder.room <= -self._queue:
            raise BusyError(f"{self._queue} questions are waiting already: try again later")
        room = context - len(prompt)
        named = [token for token, name in question.stop_names.items() if name in question.stop]
        job = Job(
            prompt=prompt,
            sampling=question.sampling,
            max_tokens=room if question.max_tokens is None else min(question.max_tokens, room),
            ignore_eos=question.ignore_eos,
            stop_tokens=frozenset([*question.stop_tokens, *named]),
            on_step=lambda step: self._handover.step(answer, step),
            on_end=lambda error: self._handover.end(answer, error),
            top_logprobs=question.top_logprobs,
            prompt_logprobs=[] if question.prompt_logprobs else None,
        )
        answer = _Answer(
            next(self._numbers), job, question, self._engine, self._listener, lambda: self._decoder.cancel(job)
        )
        self._decoder.submit(job)
        return answer

    @property
    def runtime(self) -> str:
        return self._engine.runtime

    @property
    def context(self) -> int:
        return self._engine.context

    @property
    def vocabulary(self) -> Vocabulary:
        return self._engine.vocabulary

    @property
    def waiting(self) -> int:
        """Questions that wait for a slot."""
        return self._decoder.waiting

    @property
    def most(self) -> int:
        """Questions that it takes at once."""
        return self._engine.slots + self._queue

    def slots(self) -> Sequence[SlotView]:
        """What each slot is doing."""
        views = [SlotView(slot, "idle") for slot in range(self._engine.slots)]
        now = time.perf_counter()
        for slot, job in self._decoder.seated:
            tokens = len(job.session.completion) if job.session is not None else 0
            reading = job.state == "reading"
            views[slot] = SlotView(
                id=slot,
                state="reading" if reading else "answering",
                prompt_tokens=len(job.prompt),
                prompt_read=job.read_tokens if reading else len(job.prompt),
                completion_tokens=tokens,
                tokens_per_second=0.0 if reading else tokens / max(1e-9, now - job.answering),
            )
        return views

    def from_decoder(self, call: Callable[[], None]) -> None:
        """Run in the event loop, called from the decoder's thread."""
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:
            return  # the event loop is closed: the program ends

    def _stepped(self) -> None:
        """Called from the decoder's thread when tokens have become final: the backs are to hear of them."""
        self._handover.stepped()
        if self.backs.any and not self._schedule.resting:
            self.from_decoder(self.backs.changed)

    def count(self, steps: Sequence[Step]) -> None:
        """What the backs did is booked."""
        for step in steps:
            self.backs.count(step)


class _Handover:
    """Brings what becomes of answers from the decoder's thread into the event loop, all of it together and not oftener
    than need be: the event loop takes the interpreter from the decode loop each time."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._pending: dict[_Answer, list[Step]] = {}
        self._known: set[_Answer] = set()
        """Answers of which something has been handed over: a first word does not wait."""
        self._last = float("-inf")
        self._at_once = False

    def step(self, answer: _Answer, step: Step) -> None:
        """Called from the decoder's thread, as all that follows."""
        self._pending.setdefault(answer, []).append(step)
        if answer not in self._known:
            self._known.add(answer)
            self._at_once = True

    def stepped(self) -> None:
        """All answers have had their step."""
        now = time.monotonic()
        read = sum(answer.read for answer in self._known)
        if self._at_once or now - self._last >= (PACE * read**0.5 if read else UNREAD_PACE):
            self._last, self._at_once = now, False
            self._hand_over()

    def end(self, answer: _Answer, error: DuoError | None) -> None:
        self._known.discard(answer)
        steps = self._pending.pop(answer, [])
        self._service.from_decoder(lambda: self._take([(answer, steps)], [(answer, error)]))

    def _hand_over(self) -> None:
        pending, self._pending = list(self._pending.items()), {}
        if pending:
            self._service.from_decoder(lambda: self._take(pending, ()))

    def _take(
        self, pending: Sequence[tuple[_Answer, Sequence[Step]]], ended: Sequence[tuple[_Answer, DuoError | None]]
    ) -> None:
        for answer, steps in pending:
            if steps:
                self._service.count(steps)
                answer.steps.put_nowait(steps)
        for answer, error in ended:
            answer.steps.put_nowait(error)
