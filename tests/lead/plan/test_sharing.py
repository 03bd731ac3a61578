"""How many answers share a forward pass."""

from __future__ import annotations

import pytest

from duo.engines.cost import CostCurve
from lead.plan.arrivals import DraftOffer
from lead.plan.limits import Limits
from lead.plan.planner import Planner
from lead.plan.tree import GuessTree
from tests.support.planning import FLAT, STEEP, line


class TestTurns:
    """Where two rows cost nearly three times one."""

    @staticmethod
    def taking_part(*trees: GuessTree, curve: dict[int, float] = STEEP, it: Planner | None = None) -> int:
        plan = (it or Planner(CostCurve(curve), Limits())).next(trees, 0.0)
        return len(plan.nodes)

    def test_two_answers_go_in_turns_and_four_together(self) -> None:
        assert [self.taking_part(*[line()] * count) for count in (1, 2, 4, 8)] == [1, 1, 4, 8]

    def test_where_rows_are_cheap_all_go_together(self) -> None:
        assert self.taking_part(line(), line(), curve=FLAT) == 2

    def test_with_guesses_that_are_almost_certain_two_are_better_together(self) -> None:
        sure = [line(*[0.98] * 6) for _ in range(2)]
        assert self.taking_part(*sure) == 2

    def test_it_is_judged_by_the_rate_that_is_achieved_in_turns(self) -> None:
        it = Planner(CostCurve(STEEP), Limits())
        it.skipped(0.0)
        counts = []
        for step in range(1, 200):
            it.finished(step * STEEP[1], 1, STEEP[1], 1)
            counts.append(self.taking_part(line(), line(), it=it))
        assert counts.count(1) >= 198, "but for one trial"

    def test_if_passes_for_two_turn_out_cheap_both_go_together(self) -> None:
        it = Planner(CostCurve(STEEP), Limits())
        it.skipped(0.0)
        for step in range(1, 60):
            it.finished(step * 0.04, 2, 0.04, 2, answers=2)
        assert self.taking_part(line(), line(), it=it) == 2

    @pytest.mark.parametrize(("two", "wrong"), [(2.8, {1: 1.9, 2: 2.8}), (1.6, {1: 1.0, 2: 3.0})])
    def test_the_way_that_is_not_taken_is_tried_now_and_then(self, two: float, wrong: dict[int, float]) -> None:
        """Nothing would be learned of it otherwise: here what was measured at first is wrong."""
        it = Planner(CostCurve(wrong), Limits())
        it.skipped(0.0)
        now, late = 0.0, list[int]()
        for step in range(4000):
            count = self.taking_part(line(), line(), it=it)
            seconds = 1.0 if count == 1 else two
            now += seconds
            it.finished(now, count, seconds, count, answers=count)
            if step > 3000:
                late.append(count)
        best = 1 if two > 2.0 else 2
        assert late.count(best) > 0.98 * len(late)

    def test_backs_that_make_turns_needless_are_kept(self) -> None:
        """In a hard stretch answers take turns without them, in an easy one they go together with their guesses."""
        it = Planner(CostCurve({1: 1.0, 2: 2.2, 4: 2.8, 8: 4.0, 16: 7.0}), Limits())
        it.joined("one")
        it.skipped(0.0)
        now, rested = 0.0, 0
        for step in range(2000):
            easy = step // 20 % 2
            trees = [line(*[0.95 if easy else 0.2] * 3) for _ in range(2)] if not it.resting else [line(), line()]
            plan = it.next(trees, now)
            answers, guesses = len(plan.nodes), sum(map(len, plan.nodes))
            seconds = it.sharing.curve(answers)(answers + guesses)
            now += seconds
            it.finished(now, answers + guesses, seconds, answers + (guesses if easy else 0), answers=answers)
            rested += it.resting
        assert rested < 200

    def test_never_while_prompts_are_read_nor_with_a_local_draft(self) -> None:
        two = [line(), line()]
        assert len(Planner(CostCurve(STEEP), Limits()).next(two, 0.0, room=8).nodes) == 2
        assert len(Planner(CostCurve(STEEP), Limits()).next(two, 0.0, DraftOffer(1.0, 1.0)).nodes) == 2
