"""The schedule of a plain asynchronous chain (llama_duo's): verify all that is there, and never wait."""

from __future__ import annotations

from collections.abc import Sequence

from lead.plan.arrivals import DraftOffer
from lead.plan.speculation import Action, Speculation, Verify
from lead.plan.tree import GuessTree


class VerifyAll(Speculation):
    """Verifies as many guesses of each answer as there is room for. A draft model beside the target is left alone."""

    def next(
        self, trees: Sequence[GuessTree], now: float, offer: DraftOffer | None = None, room: int | None = None
    ) -> Action:
        limits, answers = self.limits, len(trees)
        most = min(limits.max_guesses, min(limits.rows - answers, limits.rows if room is None else room) // answers)
        best = [limits.likeliest(tree, most) for tree in trees]
        return Verify([[node for node, _ in of] if len(of) >= limits.draft_min else [] for of in best])
