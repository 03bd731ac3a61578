"""The schedule of a plain asynchronous chain: verify all that is there, and never wait."""

from __future__ import annotations

from collections.abc import Sequence

from duo.engines.replay import NOTHING, Replayed
from lead.plan.arrivals import DraftOffer
from lead.plan.schedule import Growing, Limits, Plan
from lead.plan.tree import Place


class VerifyAll:
    """Verifies all that is there and never waits, as the plain asynchronous chain (llama_duo's schedule) does."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def plan(
        self, trees: Sequence[Growing], now: float, offer: DraftOffer | None = None, room: int | None = None
    ) -> Plan:
        """As `Planner.plan`, whatever it costs: as many of each answer as there is room for. A draft model beside the
        target is left alone."""
        limits, answers = self._limits, len(trees)
        most = min(limits.most, min(limits.rows - answers, limits.rows if room is None else room) // answers)
        best = [it.likeliest(most, limits) for it in trees]
        return Plan([[node for node, _ in of] if len(of) >= limits.draft_min else [] for of in best])

    @property
    def backs(self) -> Sequence[str]:
        """They do not divide the work."""
        return ()

    @property
    def resting(self) -> bool:
        """Never."""
        return False

    @property
    def speculates(self) -> bool:
        """Whether the limits allow a guess."""
        return self._limits.most > 0

    def joined(self, back: str) -> None:
        """Nothing is learned from it."""

    def left(self, back: str) -> None:
        """Nothing is learned from it."""

    def begun(self, now: float) -> None:
        """Nothing is learned from it."""

    def heard(self, now: float, back: str, found: Sequence[Place]) -> None:
        """Nothing is learned from it."""

    def drafted(self, found: Sequence[Place]) -> None:
        """It never is asked to."""

    def finished(
        self,
        now: float,
        rows: int,
        seconds: float,
        tokens: int,
        answers: int = 1,
        read: bool = False,
        replayed: Replayed = NOTHING,
    ) -> None:
        """Nothing is learned from it."""
