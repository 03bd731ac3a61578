"""The decode loop, in a thread of its own: plan, forward, pick, commit, tell.

It takes the newest guesses at the last moment before each forward pass, and waits for some only where the planner
expects to gain by it. What comes in (jobs, guesses) is put into queues by the event loop; what goes out is one call
into the event loop per step.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from duo import planner, protocol
from duo.engines import Engine
from duo.errors import DuoError, StoppedError
from duo.planner import Schedule
from duo.prefix import Prefix, common_length
from duo.protocol import Entry, Ledger
from duo.sampling import SamplingParams
from duo.session import Session, Step
from duo.trace import Trace
from duo.tree import Expansion, Node, Place
from duo.trust import Trust
from lead.mailbox import Mailbox
from lead.own import NAME, OwnDraft

log = logging.getLogger("lead")


@dataclass(slots=True, eq=False)
class Job:
    """One answer to generate. The decoder calls `on_step` and `on_end` from its own thread."""

    prompt: Sequence[int]
    sampling: SamplingParams
    max_tokens: int
    ignore_eos: bool
    on_step: Callable[[Step], None]
    on_end: Callable[[DuoError | None], None]
    cancelled: threading.Event = field(default_factory=threading.Event)
    session: Session | None = None
    cached_tokens: int = 0
    prompt_seconds: float = 0.0
    decode_seconds: float = 0.0


class Decoder:
    """Owns the engine. One job at a time, in the order in which they came."""

    SLOT = 0

    def __init__(
        self,
        engine: Engine,
        ledger: Ledger,
        changed: Callable[[], None],
        schedule: Schedule,
        exact: bool,
        trace: Trace,
        own: OwnDraft | None = None,
    ) -> None:
        """`changed` is called, from the decoder's thread, when the ledger has something new for the backs.

        own: a draft model beside the target.

        exact: verify chains only, and no row alone, so that llama.cpp computes the same bits with guesses and without:
        every token then has its keys and values in the same place, and every row the same arithmetic.
        """
        self._engine = engine
        self._ledger = ledger
        self._changed = changed
        self._exact = exact
        self._own = own
        self._cached: list[int] = []
        self._jobs: deque[Job] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._planner = schedule
        self._trace = trace
        self._trust: defaultdict[str, Trust] = defaultdict(Trust)
        self.mailbox = Mailbox()
        self._thread = threading.Thread(target=self._run, name="decoder", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End after the current forward pass; jobs not finished get a StoppedError."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, job: Job) -> None:
        with self._wake:
            self._jobs.append(job)
            self._wake.notify()

    def joined(self, back: str) -> None:
        """A back is there. Called from another thread."""
        self._planner.joined(back)

    def left(self, back: str) -> None:
        """One is gone. Called from another thread."""
        self._planner.left(back)

    @property
    def waiting(self) -> int:
        """Jobs that have not begun."""
        return len(self._jobs)

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._jobs or self._stopping)
                if self._stopping:
                    break
                job = self._jobs.popleft()
            error: DuoError | None = None
            try:
                self._answer(job)
            except DuoError as e:
                error = e
            except Exception as e:
                log.exception("an answer failed")
                error = DuoError(f"the answer failed: {e}")
            if error is not None:
                # What the cache holds is not known any more.
                self._cached.clear()
            job.on_end(error)
        for job in self._jobs:
            job.on_end(StoppedError("the lead is stopping"))

    def _answer(self, job: Job) -> None:
        if job.cancelled.is_set():
            return
        prefix = Prefix(job.prompt)
        session = job.session = Session(
            id=secrets.randbits(64),
            prompt_length=len(prefix),
            params=job.sampling,
            prefix=prefix,
            eos=() if job.ignore_eos else self._engine.vocabulary.eos,
            limit=len(prefix) + job.max_tokens,
            trust=self._trust,
            slot=self.SLOT,
        )
        # The backs hear of the prompt first, so that they read it while the target does.
        self._ledger[session.id] = Entry(session.id, job.sampling, session.prompt_length, prefix, self._planner.backs)
        self._changed()
        started = time.perf_counter()
        try:
            self._prefill(job, session)
            prefilled = time.perf_counter()
            read = len(prefix) - 1 - job.cached_tokens
            self._trace.span("decoder", "prefill", started, prefilled, tokens=read, cached=job.cached_tokens)
            job.prompt_seconds = prefilled - started
            self._planner.begun(prefilled)
            while session.finish_reason is None and not job.cancelled.is_set() and not self._stopping:
                step = self._step(session)
                job.decode_seconds = time.perf_counter() - prefilled
                job.on_step(step)
            if self._stopping and session.finish_reason is None:
                raise StoppedError("the lead is stopping")
        finally:
            self._cached = session.prefix.tokens[: self._engine.length(self.SLOT)]
            if self._own is not None:
                self._own.end(session)
            del self._ledger[session.id]
            self._changed()
            self._trace.span(
                "answers", "answer", started, time.perf_counter(), session=f"{session.id:016x}",
                prompt=session.prompt_length, tokens=len(session.completion), steps=session.steps,
                guesses=session.total.drafted, accepted=session.total.accepted, ended=session.finish_reason,
            )  # fmt: skip

    def _prefill(self, job: Job, session: Session) -> None:
        """Read all of the prompt but its last token, in batches; what the cache already holds is not read again."""
        tokens = session.prefix.tokens
        # Exact: at least two tokens are read, because a lone one is computed in another way.
        unread = 3 if self._exact else 1
        job.cached_tokens = max(0, min(common_length(self._cached, tokens), len(tokens) - unread))
        self._engine.truncate(self.SLOT, job.cached_tokens)
        for start in range(job.cached_tokens, len(tokens) - 1, self._engine.batch):
            if job.cancelled.is_set() or self._stopping:
                return
            self._engine.extend(self.SLOT, tokens[start : min(start + self._engine.batch, len(tokens) - 1)])
        if self._own is not None:
            self._own.begin(session, alone=True)

    def _step(self, session: Session) -> Step:
        nodes = self._plan(session)
        rows = session.rows(nodes, at_least=2 if self._exact else 1)
        started = time.perf_counter()
        logits = self._engine.forward(rows)
        ended = time.perf_counter()
        # Before the root moves on: what came meanwhile belongs to it, and the planner learns when messages come.
        self._take_guesses(session)
        start = len(session.prefix)
        step = session.verify(nodes, logits)
        self._engine.keep(self.SLOT, step.path)
        if self._own is not None:
            self._own.committed(session, start, [done.token for done in step.committed])
        done = time.perf_counter()
        # What follows the forward pass grows with its rows as well.
        self._planner.finished(done, len(rows), done - started, len(step.committed))
        if self._planner.resting != self._ledger.resting:
            self._ledger.resting = self._planner.resting
            self._changed()
        if self._trace.on:
            self._record(session, step, len(rows), started, ended, done)
        return step

    def _record(self, session: Session, step: Step, rows: int, started: float, ended: float, done: float) -> None:
        drafted, rejected, tokens = len(step.drafted), len(step.rejected), len(step.committed)
        self._trace.span(
            "decoder", "forward", started, ended,
            rows=rows, guesses=drafted, accepted=drafted - rejected, rejected=rejected, tokens=tokens,
        )  # fmt: skip
        self._trace.span("decoder", "verify", ended, done)
        self._trace.instant("decoder", "commit", done, tokens=tokens, length=len(session.prefix))

    def _plan(self, session: Session) -> Sequence[Node]:
        """The guesses to verify now, after such waits as are worth it."""
        while True:
            began = time.perf_counter()
            self._take_guesses(session)
            offer = self._own.offer(session) if self._own is not None else None
            plan = self._planner.plan(session.tree, time.perf_counter(), session.limit, offer)
            planned = time.perf_counter()
            self._trace.span("decoder", "plan", began, planned, held=len(session.tree), chosen=len(plan.nodes))
            if plan.draft and self._own is not None and not self._stopping:
                self._draft(session, self._own, began)
                continue
            if not plan.wait or self._stopping:
                return planner.chain(session.tree, plan.nodes) if self._exact else plan.nodes
            self.mailbox.wait(plan.wait)
            self._trace.span("decoder", "wait", planned, time.perf_counter(), at_most_ms=round(plan.wait * 1000, 3))

    def _take_guesses(self, session: Session) -> None:
        for back, came, guesses in self.mailbox.take():
            if guesses.session != session.id:
                continue
            useful = self._merge(session, protocol.expansions(guesses), back)
            if useful:
                self._planner.heard(came, back, useful)
            if self._own is not None:
                self._own.merge(session, [place.guesses for place in useful])

    def _draft(self, session: Session, own: OwnDraft, began: float) -> None:
        """Let the lead's own draft model expand the likeliest leaves."""
        useful = self._merge(session, own.expand(session, began), NAME)
        self._planner.drafted(useful)

    def _merge(self, session: Session, found: Iterable[Expansion], who: str) -> list[Place]:
        """Put guesses into the tree; returns those that are new there, with what they are worth."""
        tree, new = session.tree, list[Place]()
        for expansion in found:
            known = tree.guessed(expansion.hash)
            if tree.merge(expansion, who) and not known and (place := tree.place(expansion.hash)) is not None:
                new.append(place)
        return new
