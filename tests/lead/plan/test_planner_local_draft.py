"""When the planner has the draft model beside the target expand something."""

from __future__ import annotations

from duo.engines.cost import CostCurve
from duo.prefix import EMPTY
from lead.plan.arrivals import DraftOffer, offer_of
from lead.plan.limits import Limits
from lead.plan.planner import Planner
from lead.plan.speculation import Expand
from lead.plan.tree import GuessTree
from tests.support.planning import FLAT, STEEP, expands_now, guessed, limited, line, nothing, regular, settled, waits


class TestLocalDraft:
    """A draft model beside the target."""

    def test_it_drafts_until_what_it_may_find_is_not_worth_the_time(self) -> None:
        it = settled(FLAT, 20)
        it.drafted([guessed(0.8, 0.1, 0.05)] * 200)
        assert isinstance(it.next(nothing(), 99.0, offer=DraftOffer(0.005, 0.005)), Expand)
        assert isinstance(it.next([line(0.9, 0.9)], 99.0, offer=DraftOffer(0.005, 0.005)), Expand)
        unlikely = it.next([line(0.9, 0.1, 0.1)], 99.0, offer=DraftOffer(0.005, 0.005))
        assert not isinstance(unlikely, Expand) and unlikely.nodes[0] and not waits(unlikely)
        assert not isinstance(it.next(nothing(), 99.0, offer=DraftOffer(0.06, 0.06)), Expand)

    def test_where_guesses_cannot_pay_it_is_left_alone(self) -> None:
        it = settled(STEEP, 1 / STEEP[1])
        expands_now(it)
        assert not isinstance(it.next(nothing(), 99.0, offer=DraftOffer(0.005, 0.005)), Expand)

    def test_a_guess_of_a_back_that_comes_sooner_is_preferred(self) -> None:
        it = regular(0.002)
        expands_now(it)
        plan = it.next(nothing(), 14.0, offer=DraftOffer(0.03, 0.03))
        assert waits(plan) and not isinstance(plan, Expand)

    def test_what_is_in_arrears_is_read_once_enough_was_missed_for_want_of_it(self) -> None:
        it = settled(FLAT, 20)
        expands_now(it)
        steps = 0
        offer = offer_of([(1000, 1)], 8, lambda rows: 0.005 + 0.0005 * rows)
        while not isinstance(it.next(nothing(), 99.0, offer), Expand):
            steps += 1
        assert 5 < steps < 100  # 0.5 seconds are 10 tokens; less than one is missed in a step
        assert offer_of([(3, 1)], 8, lambda rows: 2.0 + rows) == DraftOffer(6.0, 3.0)

    def test_it_gets_a_little_time_in_any_case_or_nothing_would_be_learned_of_it(self) -> None:
        it, asked = settled(FLAT, 10), 0
        it.drafted([guessed(0.0)] * 500)
        for step in range(1000):
            now = 100.0 + step * 0.1
            it.finished(now, 1, 0.1, 1)
            asked += isinstance(it.next(nothing(), now, offer=DraftOffer(0.01, 0.01)), Expand)
        assert 0.001 < asked * 0.01 / 100.0 < 0.01

    def test_places_where_the_answer_will_not_come_say_little(self) -> None:
        it = settled(FLAT, 20)
        it.drafted([guessed(0.8)] * 300 + [guessed(0.1, path=0.01)] * 300)
        assert isinstance(it.next(nothing(), 99.0, offer=DraftOffer(0.02, 0.02)), Expand)

    def test_a_back_that_has_fallen_silent_does_not_keep_it_from_drafting(self) -> None:
        it, now, drafted = regular(0.004), 14.0, 0
        it.drafted([guessed(0.8)] * 200)
        for _ in range(80):
            now += 0.1
            it.finished(now, 1, 0.1, 1)
            drafted += isinstance(it.next(nothing(), now, offer=DraftOffer(0.008, 0.008)), Expand)
        assert drafted > 60

    def test_it_drafts_for_several_answers_at_once(self) -> None:
        it = Planner(CostCurve(FLAT), Limits())
        it.skipped(0.0)
        for step in range(1, 40):
            it.finished(step * 0.1, 3, 0.1, 3, answers=3)
        three = [*nothing(), *nothing(), line(0.9, 0.9)]
        assert isinstance(it.next(three, 4.0, offer=DraftOffer(0.01, 0.01, expansions=2)), Expand)
        assert not isinstance(it.next(three, 4.0, offer=DraftOffer(0.06, 0.06, expansions=2)), Expand)

    def test_what_several_answers_have_to_read_rides_along_or_is_in_arrears(self) -> None:
        assert offer_of([(2, 1), (3, 2)], 8, float) == DraftOffer(8.0, 2.0, 0.0, 2)
        assert offer_of([(2, 1), (30, 2), (9, 1)], 8, float) == DraftOffer(6.0, 3.0, 39.0, 3)

    def test_nothing_is_drafted_where_no_guess_could_be_used(self) -> None:
        it = settled(FLAT, 20)
        it.drafted([guessed(0.9)] * 200)
        assert isinstance(it.next([GuessTree(5, EMPTY, limit=7)], 99.0, DraftOffer(0.001, 0.001)), Expand)
        plan = it.next([GuessTree(5, EMPTY, limit=6)], 99.0, DraftOffer(0.001, 0.001))
        assert not isinstance(plan, Expand) and not plan.nodes[0] and not waits(plan)
        tree = line(0.9)
        assert isinstance(it.next([limited(tree, 3)], 99.0, DraftOffer(0.001, 0.001)), Expand)
        assert not isinstance(it.next([limited(tree, 2)], 99.0, DraftOffer(0.001, 0.001)), Expand)

    def test_a_back_that_comes_again_is_there_once(self) -> None:
        it = Planner(CostCurve(FLAT), Limits())
        it.joined("one")
        it.joined("one")
        assert list(it.backs) == ["one"]
        it.left("one")
        assert not it.backs
