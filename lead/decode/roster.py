"""All requests of the decode loop: who waits, who has a slot, and what beginning and ending an answer takes."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from duo.engines import Engine
from duo.errors import DuoError
from duo.prefix import Prefix
from duo.sampling.grammar import Grammars
from duo.sampling.params import Constraint
from duo.sampling.thinking import ThinkingConstraint
from duo.trace import Trace
from duo.wire.ledger import Entry, Ledger
from duo.wire.messages import MAX_ENDS
from lead.decode.request import Request
from lead.decode.session import Session
from lead.decode.slots import Slots
from lead.decode.sources import Sources
from lead.plan.speculation import Speculation
from lead.plan.speedup import Verdict

log = logging.getLogger("lead")


@dataclass(slots=True, eq=False)
class Roster:
    """Requests by status. The decoder's thread uses it, but for `queue`, which has the decoder's lock."""

    engine: Engine
    ledger: Ledger
    speculation: Speculation
    trace: Trace
    sources: Sources
    cache_bytes: int = 0
    """Most bytes of prompts that left their slots."""
    changed: Callable[[], None] = lambda: None
    """Called when the ledger has other sessions for the backs."""
    queue: deque[Request] = field(default_factory=deque)
    stopping: bool = False
    verdict: Verdict = field(default_factory=Verdict)
    """What backs and log heard last of what backs bring."""
    grammars: Grammars = field(init=False)
    slots: Slots = field(init=False)
    reading: list[Request] = field(default_factory=list)
    """Requests whose prompts are being read, the oldest first."""
    answering: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.grammars = Grammars(self.engine.vocabulary, threading.Lock())
        self.slots = Slots(self.engine, self.cache_bytes)

    @property
    def running(self) -> list[Request]:
        """Requests that have a slot. May be called from another thread."""
        return [*self.reading, *self.answering]

    @property
    def one_alone(self) -> bool:
        """Whether one answer is under way, and nobody could be admitted beside it."""
        return len(self.answering) == 1 and not self.reading and not (self.queue and self.slots.free)

    def admit(self, request: Request) -> None:
        """Give it a free slot, and tell the backs. They read the prompt while the target does."""
        prefix = Prefix(request.prompt)
        # A prompt that must be read again in any case takes no conversation's cache.
        slot = self.slots.take(prefix.tokens if request.prompt_logprobs is None else [])
        ends = {*request.stop_tokens, *(() if request.ignore_eos else self.engine.vocabulary.eos)}
        session = Session(
            id=secrets.randbits(64),
            prompt_length=len(prefix),
            params=request.sampling,
            prefix=prefix,
            eos=ends,
            limit=len(prefix) + request.max_tokens,
            calibration=self.speculation.calibration,
            slot=slot.id,
            constraint=self._constraint(request),
            top_logprobs=request.top_logprobs,
        )
        request.session, request.slot, request.status = session, slot, "reading"
        request.admitted = request.stepped = time.perf_counter()
        self.reading.append(request)
        if request.max_tokens > 1 and self.speculation.speculates:
            self.sources.admitted(session, request.owner)
            backs = self.speculation.backs
            self.ledger[session.id] = Entry(
                session.id, request.sampling, session.prompt_length, prefix, backs, sorted(ends)[:MAX_ENDS]
            )
            self.changed()

    def _constraint(self, request: Request) -> Constraint | None:
        """What the answer must follow: its grammar, and the limit on thinking."""
        grammar = request.sampling.grammar
        follow = self.grammars.constraint(grammar) if grammar else None
        if request.thinking is None:
            return follow
        return ThinkingConstraint(request.thinking, self.engine.vocabulary.token_bytes, follow)

    def answer(self, request: Request, now: float) -> None:
        """Its prompt was read at `now`."""
        self.reading.remove(request)
        self.answering.append(request)
        request.prompt_seconds, request.answering, request.status = now - request.admitted, now, "answering"

    def end(self, request: Request, error: DuoError | None) -> None:
        """The answer is over. Its slot is free, and keeps the cache."""
        session, slot = request.session, request.slot
        (self.reading if request.status == "reading" else self.answering).remove(request)
        self.slots.leave(slot)
        self.sources.ended(session)
        self.ledger.pop(session.id, None)
        self.changed()
        self.trace.span(
            "answers" if not slot.id else f"answers {slot.id}", "answer", request.admitted, time.perf_counter(),
            session=f"{session.id:016x}", prompt=session.prompt_length, tokens=len(session.completion),
            steps=session.steps, guesses=session.total.drafted, accepted=session.total.accepted,
            ended=session.finish_reason,
        )  # fmt: skip
        request.status = "ended"
        request.on_end(error)

    def tell_rest(self) -> None:
        """Have the backs rest, or draft again, as the speculation says."""
        if self.speculation.resting != self.ledger.resting:
            self.ledger.resting = self.speculation.resting
            self.changed()
        if (says := self.verdict.news(self.speculation.benefit)) is not None:
            log.info("backs: %s", says)
            self.ledger.says = says
            self.changed()

    def fail(self, requests: Iterable[Request], error: Exception) -> None:
        """Something went wrong in the middle: these answers end, and what the cache holds of them is unknown."""
        if not isinstance(error, DuoError):
            log.error("a forward pass failed", exc_info=error)
            error = DuoError(f"the answer failed: {error!r}")
        for request in list(requests):
            self.slots.forget(request.slot)
            self.end(request, error)
