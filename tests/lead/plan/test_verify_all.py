"""The schedule of a plain asynchronous chain."""

from __future__ import annotations

from lead.plan.arrivals import DraftOffer
from lead.plan.limits import Limits
from lead.plan.speculation import Expand, Speculation
from lead.plan.verify_all import VerifyAll
from tests.support.planning import guessed, limited, line, nothing, waits


class TestVerifyAll:
    """The plain asynchronous chain's planner."""

    def test_it_verifies_all_that_is_there_whatever_it_costs(self) -> None:
        assert len(VerifyAll(Limits()).next([line(0.9, 0.1, 0.01)], 0.0).nodes[0]) == 3
        assert len(VerifyAll(Limits()).next([line(*[0.9] * 40)], 0.0).nodes[0]) == Limits().draft_max

    def test_limits(self) -> None:
        tree = line(0.9, 0.9, 0.9, 0.9)
        assert len(VerifyAll(Limits(draft_max=2)).next([tree], 0.0).nodes[0]) == 2
        assert len(VerifyAll(Limits(draft_max=0)).next([tree], 0.0).nodes[0]) == 0
        assert len(VerifyAll(Limits(p_min=0.75)).next([tree], 0.0).nodes[0]) == 2
        assert len(VerifyAll(Limits(draft_min=5)).next([tree], 0.0).nodes[0]) == 0
        assert len(VerifyAll(Limits(draft_min=4)).next([tree], 0.0).nodes[0]) == 4
        assert len(VerifyAll(Limits()).next([limited(tree, 3)], 0.0).nodes[0]) == 2

    def test_it_never_waits(self) -> None:
        """Told what makes a `Planner` wait."""
        it: Speculation = VerifyAll(Limits())
        it.skipped(0.0)
        for step in range(1, 50):
            it.finished(step * 0.1, 1, 0.1, 1)
            it.heard(step * 0.1 + 0.005, "one", [guessed(0.9)])
        assert waits(it.next(nothing(), 5.001)) == 0.0

    def test_without_the_planner_it_is_never_asked(self) -> None:
        it: Speculation = VerifyAll(Limits())
        it.drafted([guessed(0.9)])
        assert not isinstance(it.next(nothing(), 1.0, offer=DraftOffer(0.001, 0.001)), Expand)
