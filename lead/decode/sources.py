"""What guesses in the lead itself. Guesses of all sources, and of all backs, meet in one tree for each answer.

docs/planning.md has the table of sources. Each one has a name, under which its claims are calibrated.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from lead.decode import heads, local_draft, memory
from lead.decode.heads import Heads
from lead.decode.local_draft import LocalDraft
from lead.decode.memory import Memory
from lead.decode.session import Session, Step
from lead.plan.arrivals import DraftOffer
from lead.plan.tree import Place

NAMES = frozenset({heads.NAME, local_draft.NAME, memory.NAME})
"""No back may have such a name."""
_WITHOUT_BACKS = frozenset({heads.NAME, memory.NAME})


def remembered(step: Step) -> int:
    """How many tokens of a step memory or heads had guessed, be it with others. They would have come without backs."""
    return sum(not _WITHOUT_BACKS.isdisjoint(done.backs) for done in step.committed)


@dataclass(frozen=True, slots=True)
class Sources:
    """The sources that this lead has. The decoder's thread uses them."""

    draft: LocalDraft | None = None
    memory: Memory | None = None
    heads: Heads | None = None

    def admitted(self, session: Session, owner: str) -> None:
        """A request has a slot, and its prompt will be read. `owner`: whose text it may be guessed from."""
        if self.memory is not None:
            self.memory.begin(session, owner)
        if self.heads is not None:
            self.heads.begin(session)

    def committed(self, session: Session, picked: Sequence[int]) -> None:
        """These tokens of the answer, the last ones, are final."""
        if self.memory is not None:
            self.memory.committed(session, picked)
        if self.heads is not None:
            self.heads.committed(session, picked)
        if self.draft is not None:
            self.draft.committed(session, len(session.prefix) - len(picked), picked)

    def heard(self, session: Session, places: Sequence[Place]) -> None:
        """Backs have guessed this."""
        if self.draft is not None and places:
            self.draft.merge(session, [place.guesses for place in places])

    def ended(self, session: Session) -> None:
        """The answer is over."""
        for source in (self.memory, self.heads, self.draft):
            if source is not None:
                source.end(session)

    def remember(self, sessions: Collection[Session], read: int, longest: int) -> None:
        """Put into the trees what costs nothing. `read`: tokens of prompts that the next forward pass reads.
        `longest`: how many tokens to guess ahead at most."""
        if self.memory is None:
            return
        found = self.memory.guesses(sessions, read, longest)
        for session in sessions:
            if not (new := found.get(session.id)):
                continue
            for expansion in new:
                session.tree.merge(expansion, memory.NAME, model=False)
            if self.draft is not None:
                self.draft.foresee(session, new)

    def propose(self, sessions: Collection[Session], rate: float) -> None:
        """Put the guesses of heads into the trees, for others to go on from. `rate`: tokens per second lately."""
        if self.heads is None:
            return
        found = self.heads.guesses(sessions, rate)
        for session in sessions:
            if places := session.tree.learn(found.get(session.id, ()), heads.NAME):
                self.heard(session, places)

    def offer(self, sessions: Iterable[Session]) -> DraftOffer | None:
        """What it takes to have more guesses; None if there is nothing to expand."""
        return self.draft.offer(sessions) if self.draft is not None else None

    def expand(self, sessions: Collection[Session], since: float) -> list[Place]:
        """Do what was offered. Returns the places that got guesses. `since`: when its planning began."""
        assert self.draft is not None, "it made the offer"
        found = self.draft.expand(sessions, since)
        return [
            place for it in sessions for place in it.tree.learn(found.get(it.id, ()), local_draft.NAME)
        ]  # fmt: skip
