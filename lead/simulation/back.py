"""Simulated backs, the clock they live by, and the wires to their lead.

A `Back` is the shell that `back/drafter.py` is in reality, around the production drafting policy.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from duo.draft.batch import next_batch
from duo.draft.draft import Draft
from duo.draft.pacing import Pacing
from duo.draft.policy import Policy
from duo.guesses import Expansion, Share
from duo.prefix import common_length
from duo.sampling.params import SamplingParams
from lead.simulation import world
from lead.simulation.clock import Clock, Wire
from lead.simulation.world import Acceptance, Cost, Link

READ = 512
"""Most tokens of a prompt in one forward pass."""


class _Ranks:
    """Stands for the sampler of a back: the 'logits' of a row are the hash and the length of its prefix."""

    def __init__(self, acceptance: Acceptance) -> None:
        self._acceptance = acceptance

    def rank(self, logits: Any, completion: Any, count: int, scale: float, sharpness: float) -> list[tuple[int, float]]:
        return self._acceptance.ranked(*logits)[:count]


def drafting(
    session: int, prompt_length: int, n_ahead: int, cost: Cost, policy: Policy, acceptance: Acceptance
) -> Draft:
    """A draft model's side of a session, the model being an acceptance."""
    draft = Draft(session, SamplingParams(temperature=0.0), prompt_length, n_ahead, cost, policy=policy)
    draft.sampler = _Ranks(acceptance)  # type: ignore[assignment]
    return draft


def revealed(draft: Draft) -> list[Expansion]:
    """What the batch that has been run reveals."""
    return draft.absorb([(n.hash, n.length) if n else None for n in draft.batch])  # type: ignore[arg-type]


@dataclass(frozen=True)
class Machine:
    """A back: what its draft costs, how far it is from the lead, and when it is away, from and to (`world.Absences`).

    One that comes has nothing in its cache; of one that goes, all that is on its way is lost.
    """

    cost: Cost
    link: Link
    away: Iterable[tuple[float, float]] = ()


class News(NamedTuple):
    """What a lead tells a back: tokens from `start` on are final. `tokens` None: the session has ended."""

    session: int
    prompt_length: int
    start: int
    tokens: Sequence[int] | None


class Lead(Protocol):
    """The lead as a back sees it: `lead.simulation.lead` has it."""

    clock: Clock
    rng: random.Random
    acceptance: Acceptance
    order: Sequence[str]

    def welcome(self, back: Back) -> None: ...

    def left(self, back: str) -> None: ...

    def receive(self, back: str, session: int, found: Sequence[Expansion]) -> None: ...


class Back:
    """One back's loop: hear, settle, expand, tell."""

    def __init__(self, machine: Machine, name: str, lead: Lead, policy: Policy, n_ahead: int = world.DRAFT_MAX) -> None:
        self.machine = machine
        self.there = True
        self.name = name
        self._lead = lead
        self._policy = policy
        self._n_ahead = n_ahead
        self._life = 0
        self._busy, self._since, self._worked = False, 0.0, 0.0
        self._down = Wire(lead.clock, machine.link, lead.rng)
        self._up = Wire(lead.clock, machine.link, lead.rng)
        self._forget()
        self._absences = iter(machine.away)
        self._next_absence()

    def _forget(self) -> None:
        self._drafts: dict[int, Draft] = {}
        self._current: int | None = None
        self._cached: list[int] = []
        self._inbox: list[News] = []
        self._found: list[Expansion] = []
        self._pacing = Pacing()
        self._turn(False)
        self._batch = 0
        """How many batches have been given up."""

    def _turn(self, busy: bool) -> None:
        """It begins to compute, or ceases to."""
        now = self._lead.clock.now
        self._worked += now - self._since if self._busy else 0.0
        self._busy, self._since = busy, now

    @property
    def worked(self) -> float:
        """For how many seconds it has computed so far."""
        return self._worked + (self._lead.clock.now - self._since if self._busy else 0.0)

    def _next_absence(self) -> None:
        absence = next(self._absences, None)
        if absence is not None:
            self._lead.clock.at(absence[0], self._leave)
            self._lead.clock.at(absence[1], self._come)

    def _leave(self) -> None:
        if self.there:
            self._lead.left(self.name)
        self.there = False
        self._life += 1
        self._forget()

    def _come(self) -> None:
        self._up.send(lambda: self._lead.welcome(self))
        self._next_absence()

    def _alive(self, event: Callable[[], None]) -> Callable[[], None]:
        """The event, if the back has not gone by then."""
        life = self._life
        return lambda: event() if self._life == life else None

    def tell(self, news: News) -> None:
        """Called by the lead."""
        self._down.send(self._alive(lambda: self._hear(news)))

    def _hear(self, news: News) -> None:
        self._inbox.append(news)
        if self._busy and self._obsolete(news):
            self._batch += 1
            self._drafts[news.session].abandon()
            self._turn(False)
        if not self._busy:
            self._work()

    def _obsolete(self, news: News) -> bool:
        draft = self._drafts.get(news.session)
        return draft is not None and news.tokens is not None and draft.obsolete(news.start, news.tokens)

    def _take(self, news: News) -> None:
        if news.tokens is None:
            self._drafts.pop(news.session, None)
            if self._current == news.session:
                self._current = None  # what is in the cache is still known: the session may be told of again
            return
        draft = self._drafts.get(news.session)
        if draft is None:
            draft = self._drafts[news.session] = drafting(
                news.session, news.prompt_length, self._n_ahead, self.machine.cost, self._policy, self._lead.acceptance
            )
            if self.name in self._lead.order:
                draft.share = Share(self._lead.order.index(self.name), len(self._lead.order))
        draft.commit(news.start, news.tokens)
        self._pacing.committed(self._lead.clock.now, draft.unguessed)

    def _work(self) -> None:
        for news in self._inbox:
            self._take(news)
        self._inbox.clear()
        # The oldest session that has something to do.
        draft = next((d for d in self._drafts.values() if d.backlog or not d.idle), None)
        self._turn(draft is not None)
        if draft is None:
            return
        if self._current != draft.session:
            shared = min(common_length(self._cached, draft.prefix.tokens), len(draft.prefix) - 1)
            draft.change_slot(shared)
            draft.forget_guesses()
            self._found, self._current = [], draft.session
        missing = draft.update_cache(READ).missing
        self._cached = draft.prefix.tokens[: len(draft.prefix) - 1 - draft.backlog]
        # What is read is not given up, so it is done before the batch begins.
        rows = [] if missing or draft.backlog else next_batch(draft, 0)
        read = len(missing) or len(rows)
        seconds = self.machine.cost(read) if read else 0.0
        batch = self._batch
        self._lead.clock.after(seconds, self._alive(lambda: self._done(draft) if self._batch == batch else None))

    def _done(self, draft: Draft) -> None:
        self._found += revealed(draft)
        now = self._lead.clock.now
        if self._found and (draft.idle or self._pacing.due(now)):
            found, session = self._found, draft.session
            self._up.send(self._alive(lambda: self._lead.receive(self.name, session, found)))
            self._pacing.sent(now)
            self._found = []
        self._work()
