"""The decode loop, in a thread of its own: seat, plan, forward, pick, commit, tell.

All answers under way share each forward pass: a row for each, and the guesses that are worth verifying. Prompts are
read in the same passes, in pieces, so that a long one does not hold up answers in progress. The loop takes the newest
guesses at the last moment, and waits for some only where the planner expects to gain by it. What comes in (jobs,
guesses) is put into queues by the event loop; what goes out is one call per answer and step.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from duo.engines import ROOT, Chunk, Engine, Row
from duo.engines.replay import Replayed
from duo.errors import DeadEndError, DuoError, StoppedError
from duo.guesses import Expansion
from duo.prefix import Prefix, common_length
from duo.sampling.grammar import Grammars
from duo.sampling.logprobs import logprobs
from duo.trace import Trace
from duo.wire.ledger import Entry, Ledger
from duo.wire.messages import MAX_ENDS
from lead.decode.inbox import Inbox
from lead.decode.local_draft import NAME, LocalDraft
from lead.decode.request import Job, Run
from lead.decode.session import Session, Step
from lead.decode.slots import Slots
from lead.plan.calibration import Calibration
from lead.plan.schedule import Growing, Schedule
from lead.plan.tree import Node, Place

log = logging.getLogger("lead")

CHUNK = 64
"""Tokens of a prompt that are read at a time at least, and at first, while others decode."""
SCORED_CHUNK = 32
"""Tokens of a prompt that are read at a time where it is asked how likely they are: so many rows there is room for."""
STALL = 3.0
"""As long as so many decode steps one may take that reads a piece of a prompt besides, if it is more than `CHUNK`."""

HEARING, LEAST_HEARING = 0.1, 2e-3
"""Share of a step's time that what backs say may take before a forward pass, and again after it, and seconds that it
may take in any case: no number of backs, and nothing that they say, is to hold up an answer."""

MOST_TRUSTED = 256
"""Backs whose claims are remembered after they have left: names come from the network."""


class Decoder:
    """Owns the engine. Jobs get slots in the order in which they came."""

    def __init__(
        self,
        engine: Engine,
        ledger: Ledger,
        changed: Callable[[], None],
        stepped: Callable[[], None],
        schedule: Schedule,
        trace: Trace,
        local_draft: LocalDraft | None = None,
    ) -> None:
        """`changed` is called, from the decoder's thread, when the ledger has sessions more or less for the backs, and
        `stepped` when some have more tokens.

        own: a draft model beside the target.
        """
        self._engine = engine
        self._ledger = ledger
        self._changed = changed
        self._stepped = stepped
        self._apart = not engine.mixes
        """Whether prompts are read in forward passes of their own."""
        self._local_draft = local_draft
        self.grammars = Grammars(engine.vocabulary, threading.Lock())
        self._jobs: deque[Job] = deque()
        self._slots = Slots(engine)
        self._reading: deque[Run] = deque()
        self._answering: list[Run] = []
        self._wake = threading.Condition()
        self._stopping = False
        self._planner = schedule
        self._trace = trace
        self._calibration: defaultdict[str, Calibration] = defaultdict(Calibration)
        self._per_token = 0.0
        """Seconds of a forward pass per token of a prompt that it reads, lately; 0: not known."""
        self._per_step = 0.0
        """Seconds that one takes which reads none."""
        self.inbox = Inbox()
        self._thread = threading.Thread(target=self._loop, name="decoder", daemon=True)

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
            if not self._stopping:
                self._jobs.append(job)
                self._wake.notify()
                return
        job.on_end(StoppedError("the lead is stopping"))

    def cancel(self, job: Job) -> None:
        """Nobody wants the answer any more: its slot, or its place in the queue, is free after the current step."""
        job.cancelled.set()
        with self._wake:
            if job in self._jobs:
                self._jobs.remove(job)

    def joined(self, back: str) -> None:
        """A back is there. Called from another thread."""
        self._planner.joined(back)

    def left(self, back: str) -> None:
        """One is gone. Called from another thread."""
        self._planner.left(back)
        if len(self._calibration) > MOST_TRUSTED:
            self._calibration.pop(back, None)

    @property
    def waiting(self) -> int:
        """Jobs without a slot."""
        return len(self._jobs)

    @property
    def room(self) -> int:
        """Free slots for which nobody waits; below 0: so many wait that there is no slot for."""
        return self._slots.free - len(self._jobs)

    @property
    def running(self) -> Sequence[tuple[int, Job]]:
        """Jobs that have a slot, with it. Called from another thread, for people to see."""
        return [(run.slot.id, run.job) for run in [*self._reading, *self._answering]]

    def _loop(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._jobs or self._reading or self._answering or self._stopping)
                if self._stopping:
                    break
            self.turn()
        for run in [*self._reading, *self._answering]:
            self._end(run, StoppedError("the lead is stopping"))
        with self._wake:
            waiting = list(self._jobs)
            self._jobs.clear()
        for job in waiting:
            job.on_end(StoppedError("the lead is stopping"))

    def turn(self) -> None:
        """Once round the loop: what the thread does over and over while there is something to do."""
        self._admit()
        if scored := next((run for run in self._reading if run.scores), None):
            self._try(lambda: self._score(scored), lambda: [scored])
        chunks = self._chunks()
        if self._apart and chunks:
            self._try(lambda: self._pass([], chunks), list)
            chunks = {}
        last = [run for run, chunk in chunks.items() if len(chunk.tokens) == run.unread]
        runs = [*self._answering, *last]
        if runs or chunks:
            # After a forward pass that failed nothing is known of those whose rows it had.
            self._try(lambda: self._pass(runs, chunks), lambda: [run for run in runs if run.job.state != "ended"])

    # -- Seat: who answers -------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Give up what nobody wants any more, and free slots to those who wait."""
        for run in [*self._reading, *self._answering]:
            if run.job.cancelled.is_set():
                self._end(run, None)
        while self._jobs and self._slots.free:
            with self._wake:
                if not self._jobs:
                    return
                job = self._jobs.popleft()
            if not job.cancelled.is_set():
                self._begin(job)

    def _begin(self, job: Job) -> None:
        prefix = Prefix(job.prompt)
        # What is to be read anew in any case takes no conversation's cache.
        slot = self._slots.take(prefix.tokens if job.prompt_logprobs is None else [])
        assert slot is not None
        ends = {*job.stop_tokens, *(() if job.ignore_eos else self._engine.vocabulary.eos)}
        session = job.session = Session(
            id=secrets.randbits(64),
            prompt_length=len(prefix),
            params=job.sampling,
            prefix=prefix,
            eos=ends,
            limit=len(prefix) + job.max_tokens,
            calibration=self._calibration,
            slot=slot.id,
            constraint=self.grammars.constraint(job.sampling.grammar) if job.sampling.grammar else None,
            top_logprobs=job.top_logprobs,
        )
        job.state, job.admitted = "reading", time.perf_counter()
        self._reading.append(Run(job, session, slot, job.admitted))
        if job.max_tokens > 1 and self._planner.speculates:
            # The backs hear of the prompt first, so that they read it while the target does.
            entry = Entry(
                session.id, job.sampling, session.prompt_length, prefix, self._planner.backs, sorted(ends)[:MAX_ENDS]
            )
            self._ledger[session.id] = entry
            self._changed()

    def _end(self, run: Run, error: DuoError | None) -> None:
        """The answer is over, or is to be."""
        job, session = run.job, run.session
        if run in self._reading:
            self._reading.remove(run)
        else:
            self._answering.remove(run)
        self._slots.leave(run.slot)
        if self._local_draft is not None:
            self._local_draft.end(session)
        self._ledger.pop(session.id, None)
        self._changed()
        self._trace.span(
            "answers" if not run.slot.id else f"answers {run.slot.id}", "answer", job.admitted, time.perf_counter(),
            session=f"{session.id:016x}", prompt=session.prompt_length, tokens=len(session.completion),
            steps=session.steps, guesses=session.total.drafted, accepted=session.total.accepted,
            ended=session.finish_reason,
        )  # fmt: skip
        job.state = "ended"
        job.on_end(error)

    def _try(self, do: Callable[[], None], concerned: Callable[[], Sequence[Run]]) -> None:
        """If it goes wrong in the middle, the answers that it concerns end: what the cache holds of them is not
        known."""
        try:
            do()
        except Exception as error:
            self._fail(concerned(), error)

    def _fail(self, runs: Iterable[Run], error: Exception) -> None:
        if not isinstance(error, DuoError):
            log.error("a forward pass failed", exc_info=error)
            error = DuoError(f"the answer failed: {error!r}")
        for run in list(runs):
            self._slots.forget(run.slot)
            self._end(run, error)

    # -- Read: prompts -----------------------------------------------------------------------------------------------

    def _chunks(self) -> dict[Run, Chunk]:
        """So much of the prompts that are not read to their ends, the oldest first, as the next forward pass is to
        read."""
        chunks: dict[Run, Chunk] = {}
        left = self._most()
        for run in list(self._reading):
            if run.scores:
                continue
            cacheable = run.job.prompt_logprobs is None
            # What a prompt has in common with one that is being read now is taken from there afterwards.
            if cacheable and (left <= 0 or self._alike(run, chunks) > self._slots.known(run.prompt)):
                break
            try:
                self._settle(run)
            except Exception as error:
                self._fail([run], error)
                continue
            count = max(0, min(run.unread, left))
            begin = run.job.read_tokens
            if count:
                chunks[run] = Chunk(run.slot.id, run.prompt[begin : begin + count])
                left -= count
            else:  # the cache holds it all
                now = time.perf_counter()
                self._planner.begun(now)
                self._answer(run, now)
        return chunks

    def _alike(self, run: Run, reading: Iterable[Run]) -> int:
        """Tokens of a prompt that could be had, once they are read, from one that is being read. A recurrent state can
        be had from its checkpoints and from the end of the other prompt."""
        most = 0
        for other in reading:
            alike = common_length(run.prompt, other.prompt)
            if alike < other.session.prompt_length - 1:
                alike -= alike % self._engine.spacing
            if alike > other.job.read_tokens:
                most = max(most, alike)
        return most

    def _settle(self, run: Run) -> None:
        if run.slot.held is not run.prompt:
            most = len(run.prompt) - 1 if run.job.prompt_logprobs is None else 0
            run.job.cached_tokens = run.job.read_tokens = self._slots.settle(run.slot, run.prompt, most)

    def _score(self, run: Run) -> None:
        """Read some of a prompt as rows, whose logits say how likely the tokens are. A forward pass of its own."""
        self._settle(run)
        job, prompt, begin = run.job, run.prompt, run.job.read_tokens
        assert job.prompt_logprobs is not None
        count = min(run.unread, SCORED_CHUNK, self._most(), self._engine.room)
        end = begin + count
        rows = [Row(i, run.slot.id, token, i - 1 if i else ROOT) for i, token in enumerate(prompt[begin:end])]
        started = time.perf_counter()
        logits = self._engine.forward(rows)
        self._trace.span("decoder", "prefill", started, time.perf_counter(), prompt=count, rows=count)
        job.prompt_logprobs += [
            logprobs(row, token, job.top_logprobs or 0)
            for row, token in zip(logits, prompt[begin + 1 : end + 1], strict=True)
        ]
        self._engine.commit(run.slot.id, range(count))
        job.read_tokens = end
        self._planner.begun(time.perf_counter())

    def _most(self) -> int:
        """Most tokens of prompts to read at once. Every answer has a row in the same pass."""
        most = max(1, self._engine.batch - len(self._answering) - len(self._reading))
        if not self._answering:
            return most
        if not self._per_token:
            return min(CHUNK, most)
        return max(min(CHUNK, most), min(most, int(STALL * self._per_step / self._per_token)))

    def _have_read(self, runs: Iterable[Run], count: int, started: float, done: float) -> None:
        """A forward pass that read so many tokens of their prompts has come to its end, with all that follows."""
        if count >= CHUNK:
            self._per_token = (done - started) / count
        for run in runs:
            if not run.unread:
                self._answer(run, max(started, done - self._per_step) if run.session.steps else done)

    def _answer(self, run: Run, now: float) -> None:
        """Its prompt was read at `now`."""
        self._reading.remove(run)
        self._answering.append(run)
        run.job.prompt_seconds, run.job.answering, run.job.state = now - run.job.admitted, now, "answering"

    # -- Step: all answers -------------------------------------------------------------------------------------------

    def _pass(self, runs: list[Run], chunks: Mapping[Run, Chunk]) -> None:
        """One forward pass: a step of these answers, and pieces of prompts, perhaps the last ones of some of the same.
        Answers that have no part in it are taken from `runs`."""
        read = sum(len(chunk.tokens) for chunk in chunks.values())
        reading = chunks or any(run.scores for run in self._reading)
        chosen = self._plan(runs, self._engine.batch - read - len(runs) if reading else None)
        rows: list[Row] = []
        firsts: list[int] = []
        for run, nodes in zip(runs, chosen, strict=True):
            firsts.append(len(rows))
            rows += run.session.rows(nodes, len(rows))
        started = time.perf_counter()
        if chunks:
            # What came before is not to be counted, nor is this.
            self._planner.begun(started)
        try:
            logits = self._engine.forward(rows, list(chunks.values()))
        except Exception as error:
            if not chunks:
                raise
            # A prompt that cannot be read concerns nobody else: the others try again without it.
            self._planner.begun(time.perf_counter())
            self._fail(chunks, error)
            return
        ended = time.perf_counter()
        for run, chunk in chunks.items():
            run.job.read_tokens += len(chunk.tokens)
        # Before the roots move on: what came meanwhile belongs to them, and the planner learns when messages come.
        self._take_guesses()
        steps: list[Step] = []
        again, going_back = list[int](), 0.0
        for run, nodes, first in zip(list(runs), chosen, firsts, strict=True):
            session, start = run.session, len(run.session.prefix)
            try:
                step = session.verify(nodes, logits[first : first + 1 + len(nodes)], first)
            except DeadEndError as error:  # its grammar: the others know nothing of that
                runs.remove(run)
                self._fail([run], error)
                continue
            keeping = time.perf_counter()
            self._engine.commit(run.slot.id, step.path)
            if len(step.path) <= len(nodes):
                again.append(len(step.path))
                going_back += time.perf_counter() - keeping
            if self._local_draft is not None:
                self._local_draft.committed(session, start, [done.token for done in step.committed])
            steps.append(step)
        done = time.perf_counter()
        if chunks:
            self._have_read([run for run in chunks if run.job.state == "reading"], read, started, done)
        else:
            self._per_step = done - started
        if runs:
            # What follows the forward pass grows with its rows as well.
            committed = sum(len(step.committed) for step in steps)
            replayed = Replayed(sum(map(bool, chosen)), again, going_back)
            self._planner.finished(done, len(rows), done - started, committed, len(firsts), bool(chunks), replayed)
        else:
            self._planner.begun(done)
        if self._planner.resting != self._ledger.resting:
            self._ledger.resting = self._planner.resting
            self._changed()
        if self._trace.on:
            self._record(runs, steps, len(rows), read, started, ended, done)
        for run, step in zip(runs, steps, strict=True):
            run.stepped, run.job.decode_seconds = done, done - run.job.answering
            run.job.on_step(step)
            if run.session.finish_reason is not None:
                self._end(run, None)
        self._stepped()
        new = [run for run in runs if run.session.steps == 1 and run.job.state == "answering"]
        if self._local_draft is not None and new:
            self._draft_beside(self._local_draft, new)

    def _draft_beside(self, local_draft: LocalDraft, runs: Sequence[Run]) -> None:
        """The draft model beside the target hears of answers that have their first tokens. What it reads at once
        belongs to the time of their prompts."""
        alone = len(self._answering) == 1 and not self._reading and not (self._jobs and self._slots.free)
        for run in runs:
            started = time.perf_counter()
            local_draft.begin(run.session, alone)
            took = time.perf_counter() - started
            run.job.prompt_seconds += took
            run.job.answering += took
        self._planner.begun(time.perf_counter())

    def _record(
        self,
        runs: Sequence[Run],
        steps: Sequence[Step],
        rows: int,
        read: int,
        started: float,
        ended: float,
        done: float,
    ) -> None:
        drafted = sum(len(step.drafted) for step in steps)
        rejected = sum(len(step.rejected) for step in steps)
        self._trace.span(
            "decoder", "prefill" if read else "forward", started, ended, prompt=read, rows=rows, guesses=drafted,
            accepted=drafted - rejected, rejected=rejected, tokens=sum(len(step.committed) for step in steps),
            answers=len(runs),
        )  # fmt: skip
        if runs:
            self._trace.span("decoder", "verify", ended, done)
        for run, step in zip(runs, steps, strict=True):
            self._trace.instant(
                "decoder", "commit", done, tokens=len(step.committed), length=len(run.session.prefix)
            )  # fmt: skip

    def _plan(self, runs: list[Run], room: int | None) -> Sequence[Sequence[Node]]:
        """The guesses to verify now, for each answer, after such waits as are worth it; without any if a `room` is
        given, because the same forward pass reads prompts. Leaves of `runs` those that take part."""
        if not runs:
            return []
        runs.sort(key=lambda run: run.stepped)
        sessions = {run.session.id: run.session for run in runs}
        local_draft = self._local_draft if room is None else None
        while True:
            began = time.perf_counter()
            self._take_guesses()
            offer = local_draft.offer(sessions.values()) if local_draft is not None else None
            growing = [Growing(run.session.tree, run.session.limit) for run in runs]
            plan = self._planner.plan(growing, time.perf_counter(), offer, room)
            planned = time.perf_counter()
            if self._trace.on:
                held, chosen = sum(len(it.tree) for it in growing), sum(map(len, plan.nodes))
                self._trace.span("decoder", "plan", began, planned, held=held, chosen=chosen)
            if plan.draft and local_draft is not None and not self._stopping:
                for number, found in local_draft.expand(sessions.values(), began).items():
                    self._planner.drafted(self._merge(sessions[number], found, NAME))
                continue
            if not plan.wait or self._stopping:
                break
            self.inbox.wait(plan.wait)
            self._trace.span("decoder", "wait", planned, time.perf_counter(), at_most_ms=round(plan.wait * 1000, 3))
        # In the order of their slots: so they lie in the runtime's memory.
        taking_part = sorted(zip(runs, plan.nodes, strict=False), key=lambda it: it[0].slot.id)
        runs[:] = [run for run, _ in taking_part]
        return [nodes for _, nodes in taking_part]

    def _take_guesses(self) -> None:
        """Put what has come from the backs into the trees, as far as a share of a step's time allows."""
        sessions = {run.session.id: run.session for run in [*self._answering, *self._reading]}
        until = time.perf_counter() + max(LEAST_HEARING, HEARING * self._per_step)
        for back, came, guesses in self.inbox.take():
            heard: list[Place] = []
            for number, found in guesses:
                session = sessions.get(number)
                if session is None:
                    continue
                useful = self._merge(session, found, back, until)
                heard += useful
                if useful and self._local_draft is not None:
                    self._local_draft.merge(session, [place.guesses for place in useful])
            if heard:
                self._planner.heard(came, back, heard)
            if time.perf_counter() > until:
                break  # the rest may come too late, which only makes the answer slower

    def _merge(
        self, session: Session, found: Iterable[Expansion], who: str, until: float = float("inf")
    ) -> list[Place]:
        """Put guesses into the tree, at least one and until it is so late; returns those that are new there, with what
        they are worth."""
        tree, new = session.tree, list[Place]()
        for expansion in found:
            known = tree.guessed(expansion.hash)
            if tree.merge(expansion, who) and not known and (place := tree.place(expansion.hash)) is not None:
                new.append(place)
            if time.perf_counter() > until:
                break
        return new
