"""When backs are waited for."""

from __future__ import annotations

import pytest

from duo.engines.cost import CostCurve
from lead.plan.limits import Limits
from lead.plan.planner import Planner
from tests.support.planning import FLAT, STEEP, guessed, line, nothing, regular, settled, waits


class TestWaiting:
    def test_a_guess_that_is_about_to_come_is_waited_for(self) -> None:
        plan = regular(0.005).next(nothing(), 14.001)
        assert 0.003 < waits(plan) < 0.02

    def test_what_was_heard_late_does_not_say_when_messages_come(self) -> None:
        it = regular(0.005)
        it.next(nothing(), 14.0005)
        for _ in range(20):
            it.heard(13.9, "one", [guessed(0.8, 0.1)])
        assert 0.003 < waits(it.next(nothing(), 14.001)) < 0.02

    def test_one_that_takes_too_long_is_not(self) -> None:
        assert waits(regular(0.09).next(nothing(), 14.001)) == 0.0

    def test_nobody_is_waited_for_who_was_never_heard(self) -> None:
        assert waits(settled(FLAT, 10).next(nothing(), 100.0)) == 0.0

    def test_an_overdue_one_is_not_waited_for(self) -> None:
        assert waits(regular(0.005).next(nothing(), 14.5)) == 0.0

    def together(self, *, early: bool) -> Planner:
        """Two answers. At each commit one has no guesses, and a back says something of it 5 ms later.

        early: the back also says something of the other answer, 1 ms after the commit.
        """
        it = Planner(CostCurve(FLAT), Limits())
        it.skipped(0.0)
        for step in range(1, 140):
            it.finished(step * 0.1, 2, 0.1, 2, answers=2)
            it.next([line(0.9), *nothing()], step * 0.1)
            if early:
                it.heard(step * 0.1 + 0.001, "one", [guessed(0.8, path=0.9)])
            it.heard(step * 0.1 + 0.005, "one", [guessed(0.8, 0.1)])
        it.finished(14.0, 2, 0.1, 2, answers=2)
        return it

    @pytest.mark.parametrize("early", [False, True])
    def test_several_answers_wait_for_what_one_of_them_lacks(self, early: bool) -> None:
        """What comes sooner and is of another answer is not what is waited for."""
        plan = self.together(early=early).next([line(0.9), *nothing()], 14.0005)
        assert 0.004 < waits(plan) < 0.01

    def test_several_answers_that_all_have_guesses_wait_for_nobody(self) -> None:
        it = self.together(early=False)
        plan = it.next([line(*[0.5] * 6), line(*[0.5] * 6)], 14.0005)
        assert waits(plan) == 0.0
        assert [len(nodes) for nodes in plan.nodes] == [6, 6]

    def test_where_guesses_cannot_pay_nobody_waits(self) -> None:
        assert waits(regular(0.005, STEEP).next(nothing(), 140 * STEEP[1] + 0.001)) == 0.0

    def test_a_back_that_always_says_a_little_more_cannot_hold_up_an_answer(self) -> None:
        it, now = regular(0.005), 14.0
        while wait := waits(it.next(nothing(), now)):
            now += wait
            it.heard(now, "one", [guessed(0.9)])
        assert now <= 14.0 + FLAT[1]

    def test_the_quickest_back_is_named_first_and_those_not_heard_of_last(self) -> None:
        it = Planner(CostCurve(FLAT), Limits())
        for name in ("slow", "unknown", "quick"):
            it.joined(name)
        assert list(it.backs) == ["slow", "unknown", "quick"]
        it.skipped(0.0)
        for step in range(1, 20):
            it.finished(step * 0.1, 1, 0.1, 1)
            it.next(nothing(), step * 0.1)
            for name, gap in (("slow", 0.02), ("quick", 0.005)):
                for message in (1, 2, 3):
                    it.heard(step * 0.1 + message * gap, name, [guessed(0.8)])
        assert list(it.backs) == ["quick", "slow", "unknown"]
        it.left("quick")
        assert list(it.backs) == ["slow", "unknown"]

    def test_forecasts_that_fail_are_no_longer_trusted(self) -> None:
        """A back that has fallen silent costs a few short waits and no more."""
        it, now, waited = regular(0.005), 14.0, 0.0
        for _ in range(40):
            now += 0.1
            it.finished(now, 1, 0.1, 1)
            while wait := waits(it.next(nothing(), now)):
                now += wait
                waited += wait
        assert waited < 0.3
        assert waits(it.next(nothing(), now)) == 0.0
