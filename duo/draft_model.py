"""A draft model at work: an engine with one slot, and what the drafts of its sessions ask of it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from duo.constraint import Constraint, Grammars
from duo.cost import CostCurve
from duo.drafting import Draft, Policy, Scale, Sharpness
from duo.engines import Engine
from duo.engines.base import InterruptedForwardError
from duo.errors import RequestError
from duo.prefix import common_length
from duo.sampling import SamplingParams
from duo.trace import Trace
from duo.tree import ALONE, Expansion, Turn

SLOT = 0

log = logging.getLogger(__name__)


class DraftModel:
    """Not thread-safe: one thread calls it. `lane`: where the trace shows what it does."""

    def __init__(self, engine: Engine, cost: CostCurve, n_ahead: int, policy: Policy, trace: Trace, lane: str) -> None:
        self.n_ahead = n_ahead
        self.cost = cost
        self._engine = engine
        self._policy = policy
        self._trace = trace
        self._lane = lane
        self._scale, self._sharpness = Scale(), Sharpness()
        self._cached: list[int] = []
        self._current: Draft | None = None
        self._under_way: Draft | None = None
        """Whose batch is being computed; the draft does not change meanwhile."""
        self._lock = threading.Lock()
        self._warned = False
        self._grammars: Grammars | None = None

    def open(self, session: int, params: SamplingParams, prompt_length: int, turn: Turn = ALONE) -> Draft:
        """The draft of a session that begins."""
        return Draft(
            session, params, prompt_length, self.n_ahead, self.cost, self._scale, self._sharpness, self._policy, turn,
            constraint=self._constraint(params.grammar),
        )  # fmt: skip

    def _constraint(self, grammar: str) -> Constraint | None:
        """What the grammar stands for; None if there is none, or it is of no use here: then guesses are only worse."""
        if not grammar:
            return None
        if self._grammars is None:
            self._grammars = Grammars(self._engine.vocabulary)
        try:
            return self._grammars.constraint(grammar)
        except RequestError as error:
            if not self._warned:
                self._warned = True
                log.warning("drafting without the grammar of an answer: %s", error)
            return None

    def holds(self, draft: Draft) -> bool:
        """Whether the slot is this draft's."""
        return self._current is draft

    def read(self, draft: Draft) -> int:
        """Make the slot, which is this draft's, agree with what is committed; returns how many tokens were read for it,
        in one forward pass.

        Raises ContextError if they do not fit, after which the draft is of no use.
        """
        if draft.settled:
            return 0
        started = time.perf_counter()
        kept = draft.settle(self._engine.batch)
        self._engine.keep(SLOT, kept.path, kept.rest)
        if kept.path:
            self._cached = draft.prefix.tokens[: kept.committed]
        if kept.missing:
            self._engine.extend(SLOT, kept.missing)
            self._cached = draft.prefix.tokens[: kept.committed + len(kept.missing)]
            self._trace.span(
                self._lane, "read", started, time.perf_counter(), tokens=len(kept.missing), behind=draft.behind
            )
        return len(kept.missing)

    def expand(self, draft: Draft, since: float | None = None) -> tuple[list[Expansion], int]:
        """One forward pass over the likeliest nodes, when nothing is `behind`: what it reveals, and of how many rows.
        Nothing, if it was given up. `since`: when the work on it began, if what was done before is a part of its cost.

        Raises ContextError as `read` does.
        """
        started = time.perf_counter()
        rows = draft.next_batch(SLOT)
        if not rows:
            return [], 0
        self._under_way = draft
        try:
            logits = self._engine.forward(rows)
        except InterruptedForwardError:
            logits = None
        finally:
            with self._lock:
                self._under_way = None
        forwarded = time.perf_counter()
        if logits is None:
            draft.abandon()
            self._trace.span(self._lane, "given up", started, forwarded, rows=len(rows))
            return [], 0
        found = draft.absorb(logits)
        done = time.perf_counter()
        self.cost.observe(len(rows), done - (started if since is None else since))
        if self._trace.on:
            depth = max((e.length for e in found), default=len(draft.prefix)) - len(draft.prefix)
            self._trace.span(self._lane, "draft", started, forwarded, rows=len(rows), depth=depth)
            self._trace.span(self._lane, "rank", forwarded, done)
        return found, len(rows)

    def committed(self, session: int, start: int, tokens: Sequence[int]) -> None:
        """Called from another thread: tokens of a session are final. What is being computed is given up if the answer
        goes elsewhere; the draft itself is told later."""
        with self._lock:
            draft = self._under_way
            if draft is not None and draft.session == session and draft.obsolete(start, tokens):
                self._engine.interrupt()

    def take(self, draft: Draft) -> None:
        """Give the slot to this draft; what it has in common with the one before is not read again."""
        shared = min(common_length(self._cached, draft.prefix.tokens), len(draft.prefix) - 1)
        self._engine.truncate(SLOT, shared)
        self._cached = self._cached[:shared]
        draft.cached(shared)
        self._current = draft

    def leave(self) -> None:
        """The slot is nobody's."""
        self._current = None

    def reset(self) -> None:
        """Nor is it known what it holds."""
        self._cached.clear()
        self._current = None
