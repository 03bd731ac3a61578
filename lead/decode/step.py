"""One step of all answers: plan, forward, verify and commit, tell.

The answers share a forward pass: a row for each, and the guesses that are worth verifying. Chunks of prompts are read
in the same pass. The step takes the newest guesses at the last moment, and waits for more only where the speculation
expects to gain by it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from duo.engines import Chunk, Engine, Logits, Row
from duo.engines.replay import NOTHING, Replayed
from duo.errors import DeadEndError
from duo.guesses import Expansion
from duo.trace import Trace
from lead.decode.inbox import Inbox
from lead.decode.local_draft import LocalDraft
from lead.decode.prefill import Prefill
from lead.decode.request import Request
from lead.decode.roster import Roster
from lead.decode.session import Step
from lead.decode.sources import Sources, remembered
from lead.plan.speculation import Expand, Speculation, Verify, Wait
from lead.plan.tree import Node

HEARING_SHARE, MIN_HEARING = 0.1, 2e-3
"""Backs are heard before each forward pass and again after it, for at most this share of a step, or these seconds if
that is more. So nothing that they say holds up an answer."""

Chunks = dict[Request, Chunk]


class Part(NamedTuple):
    """What a forward pass does for one answer: the guesses to verify. `first`: id of the answer's first row."""

    request: Request
    nodes: Sequence[Node]
    first: int


@dataclass(slots=True)
class Pass:
    """A forward pass and what it led to. Times in seconds."""

    parts: Sequence[Part]
    chunks: Chunks
    rows: int = 0
    started: float = 0.0
    ended: float = 0.0
    steps: list[tuple[Request, Step]] = field(default_factory=list)
    replayed: Replayed = NOTHING


@dataclass(slots=True, eq=False)
class Stepper:
    """Runs steps. The decoder's thread uses it."""

    engine: Engine
    roster: Roster
    prefill: Prefill
    inbox: Inbox
    speculation: Speculation
    trace: Trace
    sources: Sources
    stepped: Callable[[], None] = lambda: None
    """Called when answers have new tokens."""

    def step(self, requests: Sequence[Request], chunks: Chunks) -> None:
        """One step of these answers, or of some of them. The same pass reads chunks of prompts, perhaps their last."""
        concerned = requests
        try:
            it = Pass(self._plan(requests, chunks), chunks)
            concerned = [part.request for part in it.parts]
            if (logits := self._forward(it)) is None:
                return
            # Before the roots move on: guesses that came meanwhile hang from them, and when they came is learned.
            self.hear()
            self._verify(it, logits)
            self._commit(it)
            self._account(it)
            self._tell(it.steps)
        except Exception as error:
            # Nothing is known any more of the answers whose rows the pass had.
            self.roster.fail([request for request in concerned if request.status != "ended"], error)

    # -- Plan: who takes part, and with which guesses ----------------------------------------------------------------

    def _plan(self, requests: Sequence[Request], chunks: Chunks) -> list[Part]:
        """Who takes part in the pass, and with which guesses, after such waits and drafts as are worth it."""
        read, longest = sum(len(chunk.tokens) for chunk in chunks.values()), 0
        if requests:
            longest = self.speculation.longest_run(len(requests))
        self.sources.remember([it.session for it in requests], read, longest)
        if not requests:
            return []
        self.sources.propose([it.session for it in requests], self.speculation.rate(len(requests)))
        requests = sorted(requests, key=lambda request: request.stepped)
        planned = zip(requests, self._guesses(requests, self._room(requests, chunks)), strict=False)
        parts, first = list[Part](), 0
        # By slot, which is the order in the runtime's memory.
        for request, nodes in sorted(planned, key=lambda it: it[0].slot.id):
            parts.append(Part(request, nodes, first))
            first += 1 + len(nodes)
        return parts

    def _room(self, requests: Sequence[Request], chunks: Chunks) -> int | None:
        """How many guesses fit beside the prompts that are read; None if none are."""
        if not chunks and not any(request.scores for request in self.roster.reading):
            return None
        return self.engine.batch - sum(len(chunk.tokens) for chunk in chunks.values()) - len(requests)

    def _guesses(self, requests: Sequence[Request], room: int | None) -> Sequence[Sequence[Node]]:
        """The guesses to verify of the first requests, or of all of them."""
        sessions = [request.session for request in requests]
        trees = [session.tree for session in sessions]
        while True:
            began = time.perf_counter()
            self.hear()
            offer = self.sources.offer(sessions) if room is None else None
            action = self.speculation.next(trees, time.perf_counter(), offer, room)
            planned = time.perf_counter()
            if self.trace.on:
                held, chosen = sum(map(len, trees)), sum(map(len, action.nodes))
                self.trace.span("decoder", "plan", began, planned, held=held, chosen=chosen)
            if self.roster.stopping:
                return action.nodes
            match action:
                case Verify(nodes):
                    return nodes
                case Wait(_, seconds):
                    self.inbox.wait(seconds)
                    ended, at_most = time.perf_counter(), round(seconds * 1000, 3)
                    self.trace.span("decoder", "wait", planned, ended, at_most_ms=at_most)
                case Expand():
                    self.speculation.drafted(self.sources.expand(sessions, began))

    def hear(self) -> None:
        """Put what has come from the backs into the trees, as far as a share of a step's time allows."""
        sessions = {request.session.id: request.session for request in self.roster.running}
        until = time.perf_counter() + max(MIN_HEARING, HEARING_SHARE * self.prefill.step_seconds)
        for back, came, guesses in self.inbox.take():
            heard = []
            for number, found in guesses:
                session = sessions.get(number)
                if session is None:
                    continue
                new = session.tree.learn(_in_time(found, until), back)
                heard += new
                self.sources.heard(session, new)
            if heard:
                self.speculation.heard(came, back, heard)
            if time.perf_counter() > until:
                break  # the rest may come too late, which only makes the answer slower

    # -- Forward, verify, commit -------------------------------------------------------------------------------------

    def _forward(self, it: Pass) -> Logits | None:
        """None if the pass failed with the prompts in it, which end: the answers try again without them."""
        rows: list[Row] = []
        for request, nodes, first in it.parts:
            rows += request.session.rows(nodes, first)
        it.rows, it.started = len(rows), time.perf_counter()
        if it.chunks:
            self.speculation.skipped(it.started)
        try:
            logits = self.engine.forward(rows, list(it.chunks.values()))
        except Exception as error:
            if not it.chunks:
                raise
            self.speculation.skipped(time.perf_counter())
            self.roster.fail(it.chunks, error)
            return None
        it.ended = time.perf_counter()
        for request, chunk in it.chunks.items():
            request.read_tokens += len(chunk.tokens)
        return logits

    def _verify(self, it: Pass, logits: Logits) -> None:
        """Find what the target picks, down the tree of each answer."""
        for request, nodes, first in it.parts:
            try:
                step = request.session.verify(nodes, logits[first : first + 1 + len(nodes)], first)
            except DeadEndError as error:  # its grammar, which concerns no other answer
                self.roster.fail([request], error)
            else:
                it.steps.append((request, step))

    def _commit(self, it: Pass) -> None:
        """Keep the accepted rows in the cache, and tell the draft model beside the target."""
        kept, going_back = list[int](), 0.0
        for request, step in it.steps:
            began = time.perf_counter()
            self.engine.commit(request.slot.id, step.path)
            if len(step.path) <= len(step.drafted):
                kept.append(len(step.path))
                going_back += time.perf_counter() - began
            self.sources.committed(request.session, [done.token for done in step.committed])
        it.replayed = Replayed(sum(bool(part.nodes) for part in it.parts), kept, going_back)

    # -- Tell: the speculation, the backs, those who asked -----------------------------------------------------------

    def _account(self, it: Pass) -> None:
        """Time and tokens of the step, for the speculation, the answers and the trace."""
        done, counted = time.perf_counter(), None
        seconds = done - it.started
        if it.chunks:
            self.prefill.have_read(it.chunks, it.started, done)
        else:
            self.prefill.step_seconds = seconds
        if it.steps:
            # What follows the forward pass grows with its rows as well, so it counts.
            tokens = sum(len(step.committed) for _, step in it.steps)
            unaided = sum(remembered(step) for _, step in it.steps)
            counted = self.speculation.finished(
                done, it.rows, seconds, tokens, len(it.parts), bool(it.chunks), it.replayed, unaided
            )
        else:
            self.speculation.skipped(done)
        self.roster.tell_rest()
        if self.trace.on:
            self._record(it, done)
        for request, step in it.steps:
            if counted is not None:
                took = done - max(request.stepped, request.answering)
                request.gain.step(took, len(step.committed) - remembered(step), counted)
            request.stepped, request.decode_seconds = done, done - request.answering

    def _record(self, it: Pass, done: float) -> None:
        read = sum(len(chunk.tokens) for chunk in it.chunks.values())
        rejected = sum(len(step.rejected) for _, step in it.steps)
        drafted = sum(len(step.drafted) for _, step in it.steps)
        self.trace.span(
            "decoder", "prefill" if read else "forward", it.started, it.ended, prompt=read, rows=it.rows,
            guesses=drafted, accepted=drafted - rejected, rejected=rejected,
            tokens=sum(len(step.committed) for _, step in it.steps), answers=len(it.steps),
        )  # fmt: skip
        if it.steps:
            self.trace.span("decoder", "verify", it.ended, done)
        for request, step in it.steps:
            self.trace.instant("decoder", "commit", done, tokens=len(step.committed), length=len(request.tokens))

    def _tell(self, steps: Sequence[tuple[Request, Step]]) -> None:
        for request, step in steps:
            request.on_step(step)
            if request.session.finish_reason is not None:
                self.roster.end(request, None)
        self.stepped()
        new = [it for it, _ in steps if it.session.steps == 1 and it.status == "answering"]
        if self.sources.draft is not None and new:
            self._draft_beside(self.sources.draft, new)

    def _draft_beside(self, local_draft: LocalDraft, requests: Sequence[Request]) -> None:
        """Tell the draft model beside the target of answers that have their first tokens.

        What it reads at once counts as reading their prompts.
        """
        alone = self.roster.one_alone
        with self.speculation.uncounted(time.perf_counter):
            for request in requests:
                started = time.perf_counter()
                local_draft.begin(request.session, alone)
                took = time.perf_counter() - started
                request.prompt_seconds += took
                request.answering += took
                request.stepped += took


def _in_time(expansions: Iterable[Expansion], until: float) -> Iterator[Expansion]:
    """The first expansion, and the others until it is so late."""
    for expansion in expansions:
        yield expansion
        if time.perf_counter() > until:
            return
