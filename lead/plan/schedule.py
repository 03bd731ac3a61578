"""What a decode loop asks before each step: which guesses to verify, or how long to wait for some.

`lead.plan.planner.Planner` is the schedule that serves; `VerifyAll` is there for comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from duo.engines.base import TREES, Rollback
from duo.engines.replay import NOTHING, Replay, Replayed
from lead.plan.arrivals import DraftOffer
from lead.plan.tree import GuessTree, Node, Place


@dataclass(frozen=True, slots=True)
class Limits:
    """llama-server's meaning: of each answer at most `draft_max` guesses are verified, none of less probability than
    `p_min`, and if fewer than `draft_min` are left, none at all."""

    draft_max: int = 16
    draft_min: int = 0
    p_min: float = 0.0
    rows: int = 32
    """Most rows of one forward pass, over all answers: what the runtime has room for."""
    rollback: Rollback = TREES
    """What the model's memory allows: trees of guesses, or one chain for each answer, and how many may be rejected."""

    @property
    def most(self) -> int:
        """Most guesses of one answer in a forward pass; 0: the model is served without guesses."""
        return min(self.draft_max, self.rollback.depth)


def without_guesses(limits: Limits, replay: Replay | None) -> str:
    """Why a model that is asked to verify guesses cannot, or never with a gain; empty where it can."""
    if not limits.draft_max:
        return ""
    if not limits.most:
        return "its memory does not go back over those that are wrong"
    if replay is not None and not replay.pays(limits.most):
        return "to be able to go back costs more here than guesses save, even if all were right"
    return ""


class Growing(NamedTuple):
    """An answer under way: its guesses, of which those of `length_below` tokens or more are of no use."""

    tree: GuessTree
    length_below: int | None = None

    def likeliest(self, most: int, limits: Limits) -> list[tuple[Node, float]]:
        """So many guesses at most that may be verified, with their path probabilities, falling."""
        choose = self.tree.best if limits.rollback.trees else self.tree.chain
        return choose(most, limits.p_min, self.length_below)


@dataclass(frozen=True, slots=True)
class Plan:
    """`wait` > 0: plan again when guesses have come, at the latest after so many seconds. `draft`: plan again when the
    lead's own draft model has expanded the likeliest leaves. Else: verify `nodes`, those of each answer, now. If there
    are fewer of these than answers, only the first ones take part."""

    nodes: Sequence[Sequence[Node]]
    wait: float = 0.0
    draft: bool = False


class Schedule(Protocol):
    """What a decode loop asks before each step, and tells after it: `Planner`, or `VerifyAll` for comparison."""

    @property
    def backs(self) -> Sequence[str]: ...

    @property
    def resting(self) -> bool: ...

    @property
    def speculates(self) -> bool:
        """Whether guesses are ever verified. If not, nobody need make any."""
        ...

    def joined(self, back: str) -> None: ...

    def left(self, back: str) -> None: ...

    def begun(self, now: float) -> None: ...

    def heard(self, now: float, back: str, found: Sequence[Place]) -> None: ...

    def drafted(self, found: Sequence[Place]) -> None: ...

    def finished(
        self,
        now: float,
        rows: int,
        seconds: float,
        tokens: int,
        answers: int = 1,
        read: bool = False,
        replayed: Replayed = NOTHING,
    ) -> None: ...

    def plan(
        self, trees: Sequence[Growing], now: float, offer: DraftOffer | None = None, room: int | None = None
    ) -> Plan: ...
