"""A back's drafting with an engine that checks every call, and a lead that records what it is sent.

There is no thread: tests call each step themselves, so they can try every order of events.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from back.drafting import Drafting, Found
from duo.draft.draft import Draft
from duo.draft.model import DraftModel
from duo.draft.policy import TREE, Policy, row_capacity
from duo.engines import Engine, Logits, Row
from duo.engines.base import TREES, Chunk, InterruptedForwardError, Rollback
from duo.engines.cost import CostCurve
from duo.guesses import Expansion
from duo.program.trace_file import of_lead
from duo.sampling.params import SamplingParams
from duo.sampling.sampler import Sampler
from duo.wire.messages import Begun, CommittedTokens, Ended
from tests.support.fakes import FakeModel, hash_of
from tests.support.slotted import EOS, SlottedEngine

FLAT = {1: 1.0, 8: 1.7}
"""A cost curve where a further row costs a tenth of the first."""


class DraftEngine(SlottedEngine):
    """The engine of a draft model, whose forward passes can be interrupted."""

    def __init__(
        self, model: FakeModel, slots: int, rollback: Rollback = TREES, spacing: int = 0, rows: int | None = None
    ) -> None:
        """`rows`: its capacity, if it is less than the usual one."""
        super().__init__(model, slots, rollback, spacing)
        self._rows = row_capacity(slots) if rows is None else rows
        self.meanwhile: Callable[[], None] = lambda: None
        """Happens while a forward pass is under way."""
        self.passes: list[Sequence[Row]] = []
        self._interrupted = False

    def forward(self, rows: Sequence[Row], chunks: Sequence[Chunk] = ()) -> Logits:
        assert not chunks, "a draft model reads apart"
        live = sum(len(part.rows) for part in self.parts)
        assert live + len(rows) <= self.capacity, "there is room for no more rows"
        for row in rows:
            assert row.parent >= 0 or self.length(row.slot) < self.context
        self._interrupted = False
        self.meanwhile()
        if self._interrupted:
            raise InterruptedForwardError
        self.passes.append(rows)
        return super().forward(rows)

    @property
    def capacity(self) -> int:
        return self._rows

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        assert self.length(slot) + len(tokens) <= self.context
        super().extend(slot, tokens)

    def interrupt(self) -> None:
        self._interrupted = True


@dataclass
class Asked:
    """An answer under way, on the lead's side."""

    id: int
    params: SamplingParams
    prompt: list[int]
    tokens: list[int]

    def picks(self, count: int) -> list[int]:
        """The target's next tokens."""
        model, sampler, path = FakeModel(), Sampler(self.params, self.prompt), list(self.tokens)
        for _ in range(count):
            path.append(sampler.pick(model.logits(path), path[len(self.prompt) :]))
        return path[len(self.tokens) :]


class Desk:
    """The drafting of a back, with its lead."""

    def __init__(
        self,
        slots: int = 4,
        model: FakeModel | None = None,
        n_ahead: int = 16,
        cost: dict[int, float] | None = None,
        policy: Policy = TREE,
        real: Engine | None = None,
        engine: DraftEngine | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`engine`: a checking engine of another kind. `real`: an engine that drafts instead of the checking one."""
        self.engine = engine or DraftEngine(model or FakeModel(0.4), slots)
        self.asked: dict[int, Asked] = {}
        self.heard: dict[int, list[Expansion]] = {}
        """The guesses for each session, in order."""
        with of_lead(None) as trace:
            curve = CostCurve(cost or FLAT)
            curve.observe = lambda rows, seconds: None  # type: ignore[method-assign]  # it takes what time it takes
            self.model = DraftModel(real or cast(Engine, self.engine), curve, n_ahead, policy, trace, "drafter")
            self.drafting = Drafting(self.model, self.receive, trace, clock)

    def receive(self, found: Found) -> None:
        for session, expansions in found.items():
            self.heard[session] += expansions

    def begin(self, session: int, prompt: Sequence[int], params: SamplingParams | None = None) -> Asked:
        it = Asked(session, params or SamplingParams(temperature=0.0), list(prompt), [])
        self.asked[session], self.heard[session] = it, []
        self.drafting.hear(Begun(session, it.params, len(prompt), ends=(EOS,)))
        self.commit(session, prompt)
        return it

    def commit(self, session: int, tokens: Sequence[int]) -> None:
        it = self.asked[session]
        self.drafting.hear(CommittedTokens(session, len(it.tokens), tokens, False))
        it.tokens += tokens

    def end(self, session: int) -> None:
        self.drafting.hear(Ended(session))
        del self.asked[session]

    def draft(self, session: int) -> Draft:
        return self.drafting.sessions[session].draft

    def seated(self) -> set[int]:
        """Sessions that have a slot."""
        return {id for id, it in self.drafting.sessions.items() if self.model.slots.of(it.draft) is not None}

    def work(self, most: int = 10_000) -> int:
        """Up to `most` forward passes, until there is nothing to do. Returns how many there were."""
        for count in range(most):
            if not self.drafting.work():
                return count
        return most

    def guessed(self, session: int) -> bool:
        """Whether there is a guess for the next token of an answer."""
        tokens = self.asked[session].tokens
        return any((e.length, e.hash) == (len(tokens), hash_of(tokens)) for e in self.heard[session])


SURE, UNSURE = 1, 2
"""First tokens of prompts. They decide whether a `Moody` model is sure of itself."""


STEEP = {1: 1.0, 2: 2.8, 8: 11.2}


LONG = [SURE, *(5 + i % 7 for i in range(199))]


@dataclass(frozen=True)
class Moody(FakeModel):
    """Sure of one session and unsure of another."""

    def logits(self, path: Sequence[int]) -> NDArray[np.float32]:
        logits = super().logits(path)
        # No token of an answer ends it.
        logits[EOS] = -10 * self.sharpness
        return logits * np.float32(20.0 if path[0] == SURE else 0.1)
