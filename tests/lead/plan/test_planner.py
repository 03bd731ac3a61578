"""The planner, the cost curve and the trust in backs: pure functions of what they have been told."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duo.draft.scaling import Scale, Sharpness
from duo.engines.cost import CostCurve
from duo.guesses import Expansion
from duo.prefix import EMPTY, extend_hash
from duo.sampling.params import SamplingParams
from duo.sampling.sampler import Sampler
from lead.plan.arrivals import DraftOffer, offer_of
from lead.plan.calibration import Calibration
from lead.plan.limits import Limits
from lead.plan.planner import Planner
from lead.plan.speculation import Expand, Speculation
from lead.plan.tree import GuessTree
from lead.plan.verify_all import VerifyAll
from tests.support.planning import FLAT, guessed, limited, line, waits

STEEP = {1: 0.0368, 2: 0.102, 4: 0.130, 8: 0.179, 16: 0.291}
"""llama.cpp's Q8_0 on a CPU: two rows cost nearly three times one."""


def nothing() -> list[GuessTree]:
    """One answer, of which nothing has been guessed."""
    return [GuessTree(0, EMPTY)]


def settled(curve: dict[int, float], rate: float, limits: Limits | None = None) -> Planner:
    """A planner that has seen `rate` tokens per second for a while, one row a step."""
    it = Planner(CostCurve(curve), limits or Limits())
    it.skipped(0.0)
    for step in range(1, 100):
        it.finished(step * 1.0, 1, curve[1], rate)
    return it


class TestCostCurve:
    def test_measured_widths_are_as_measured_and_others_between(self) -> None:
        cost = CostCurve(STEEP)
        for width, seconds in STEEP.items():
            assert cost(width) == pytest.approx(seconds)
        assert cost(3) == pytest.approx((0.102 + 0.130) / 2)
        assert cost(12) == pytest.approx((0.179 + 0.291) / 2)
        assert cost(32) == pytest.approx(0.291 + 16 * (0.291 - 0.179) / 8)

    def test_one_width_is_enough(self) -> None:
        assert CostCurve({1: 0.5})(9) == 0.5

    @pytest.mark.parametrize("bad", [{}, {2: 1.0}, {1: 0.0}, {0: 1.0, 1: 1.0}])
    def test_bad_input(self, bad: dict[int, float]) -> None:
        with pytest.raises(ValueError, match="cost curve"):
            CostCurve(bad)

    def test_it_follows_a_machine_that_gets_busy(self) -> None:
        """All widths become twice as slow; the ones not seen again follow."""
        cost = CostCurve(STEEP)
        for _ in range(40):
            cost.observe(1, 2 * STEEP[1])
            cost.observe(2, 2 * STEEP[2])
        assert cost(1) == pytest.approx(2 * STEEP[1], rel=0.05)
        assert cost(2) == pytest.approx(2 * STEEP[2], rel=0.05)
        assert cost(8) > 1.3 * STEEP[8]

    def test_one_width_may_differ_from_what_was_measured(self) -> None:
        cost = CostCurve(FLAT)
        for _ in range(300):
            cost.observe(1, 0.1)
            cost.observe(5, 0.3)
        assert cost(1) == pytest.approx(0.1, rel=0.1)
        assert cost(5) == pytest.approx(0.3, rel=0.1)

    def test_a_wide_pass_that_was_fast_says_so_of_narrower_ones(self) -> None:
        """The machine was busy while they were measured."""
        cost = CostCurve({1: 0.1, 2: 0.3, 8: 0.13, 16: 0.2})
        assert cost(2) == pytest.approx(0.13)
        for _ in range(100):
            cost.observe(16, 0.12)
            cost.observe(1, 0.1)
        assert cost(4) < 1.25 * cost(1)

    def test_a_width_that_was_slow_once_is_tried_again(self) -> None:
        """A busy machine while wide steps were run; then it is quiet, and only one row is run."""
        cost = CostCurve(FLAT)
        for _ in range(40):
            cost.observe(8, 0.22)
        for _ in range(600):
            cost.observe(1, 0.1)
        assert cost(8) < 1.2 * cost(1)

    @given(st.lists(st.tuples(st.integers(1, 64), st.floats(1e-9, 1e9)), max_size=50))
    def test_always_a_time(self, seen: list[tuple[int, float]]) -> None:
        cost = CostCurve(STEEP)
        for width, seconds in seen:
            cost.observe(width, seconds)
        assert all(0 < cost(width) < float("inf") for width in range(1, 65))


class TestPlan:
    def test_nothing_to_verify(self) -> None:
        assert list(settled(FLAT, 10).next(nothing(), 100.0).nodes[0]) == []

    def test_what_costs_nothing_is_verified(self) -> None:
        assert len(settled(FLAT, 10).next([line(0.9, 0.5, 0.1, 0.1)], 100.0).nodes[0]) == 4

    def test_where_two_rows_cost_three_one_is_verified(self) -> None:
        """A sure guess does not pay for the step; six sure ones do."""
        it = settled(STEEP, 27)
        assert len(it.next([line(0.95)], 100.0).nodes[0]) == 0
        assert len(it.next([line(*[0.99] * 6)], 100.0).nodes[0]) == 6

    def test_the_best_count_may_lie_beyond_a_bad_one(self) -> None:
        """The curve is not smooth: one guess is a loss, three are a gain."""
        it = settled({1: 0.1, 2: 0.25, 3: 0.25, 4: 0.25}, 10)
        assert len(it.next([line(0.9)], 100.0).nodes[0]) == 0
        assert len(it.next([line(0.9, 0.9, 0.9)], 100.0).nodes[0]) == 3

    def test_time_costs_more_at_a_higher_rate(self) -> None:
        curve = {1: 0.1, 2: 0.11, 4: 0.13}
        tree = line(0.4)
        assert len(settled(curve, 10).next([tree], 100.0).nodes[0]) == 1
        assert len(settled(curve, 60).next([tree], 100.0).nodes[0]) == 0

    def test_limits(self) -> None:
        tree = line(0.9, 0.9, 0.9, 0.9)
        assert len(settled(FLAT, 10, Limits(draft_max=2)).next([tree], 100.0).nodes[0]) == 2
        assert len(settled(FLAT, 10, Limits(p_min=0.75)).next([tree], 100.0).nodes[0]) == 2
        assert len(settled(FLAT, 10, Limits(draft_min=5)).next([tree], 100.0).nodes[0]) == 0
        assert len(settled(FLAT, 10).next([limited(tree, 3)], 100.0).nodes[0]) == 2

    def test_chain(self) -> None:
        tree = line(0.5, 0.5)
        assert tree.merge(Expansion(0, EMPTY, [8], [0.3]), "one") == 1
        assert [node.token for node, _ in tree.best(9)] == [7, 8, 7]
        assert [(node.token, path) for node, path in tree.chain(9)] == [(7, 0.5), (7, 0.25)]
        assert [node.token for node, _ in tree.chain(1)] == [7]
        assert [node.token for node, _ in tree.chain(9, floor=0.3)] == [7]
        assert not limited(tree, 1).chain(9)

    @given(st.data())
    def test_closed_under_parents(self, data: st.DataObject) -> None:
        rng = random.Random(data.draw(st.integers(0, 2**32)))
        tree, places = GuessTree(0, EMPTY), [(0, EMPTY)]
        for _ in range(40):
            length, prefix_hash = rng.choice(places)
            tokens = rng.sample(range(9), 3)
            if tree.merge(Expansion(length, prefix_hash, tokens, [rng.random() for _ in tokens]), "one"):
                places += [(length + 1, extend_hash(prefix_hash, token)) for token in tokens]
        seen = {id(tree.root)}
        for node in settled(FLAT, 10).next([tree], 100.0).nodes[0]:
            assert id(node.parent) in seen
            seen.add(id(node))


class TestSeveralAnswers:
    """One forward pass for all: the likeliest guesses over all trees, while they are worth their rows."""

    def of(self, curve: dict[int, float], *trees: GuessTree, limits: Limits | None = None) -> list[int]:
        it = Planner(CostCurve(curve), limits or Limits())
        return [len(nodes) for nodes in it.next(trees, 0.0).nodes]

    def test_rows_that_cost_nothing_are_all_taken(self) -> None:
        assert self.of(FLAT, line(0.9, 0.5), line(), line(0.1)) == [2, 0, 1]

    def test_where_a_row_costs_what_an_answer_gains_only_sure_guesses_are(self) -> None:
        # Twice the rows, twice the time: a guess must be certain, or nearly.
        assert self.of({1: 1.0, 16: 16.0}, line(0.9), line(0.8)) == [0, 0]
        # From two rows on each further one costs little.
        assert self.of({1: 1.0, 2: 1.5, 16: 2.9}, line(0.9, 0.9), line(0.1)) == [2, 0]

    def test_the_likelier_guess_goes_first_whosever_it_is(self) -> None:
        assert self.of(FLAT, line(0.5, 0.5), line(0.9, 0.9), limits=Limits(rows=4)) == [0, 2]

    def test_there_are_never_more_rows_than_there_is_room_for(self) -> None:
        trees = [line(*[0.99] * 12) for _ in range(4)]
        assert sum(self.of(FLAT, *trees, limits=Limits(rows=20))) == 16
        assert sum(len(n) for n in VerifyAll(Limits(rows=20)).next(trees, 0.0).nodes) == 16

    @given(st.lists(st.lists(st.floats(0.01, 1), max_size=6), min_size=1, max_size=5), st.integers(6, 40))
    def test_what_is_chosen_is_closed_under_parents(self, chances: list[list[float]], rows: int) -> None:
        it = Planner(CostCurve({1: 1.0, 40: 3.0}), Limits(rows=rows))
        trees = [line(*of) for of in chances]
        for tree, nodes in zip(trees, it.next(trees, 0.0).nodes, strict=True):
            seen = {id(tree.root)}
            for node in nodes:
                assert id(node.parent) in seen
                seen.add(id(node))

    def test_the_rate_is_that_of_as_many_answers(self) -> None:
        it = Planner(CostCurve({1: 1.0, 8: 2.0}), Limits())
        it.skipped(0.0)
        for step in range(1, 50):
            it.finished(step * 0.5, 4, 0.5, 12, answers=4)
        assert it.sharing.rate(1) == pytest.approx(1 / it.sharing.curve(1)(1))
        it.finished(30.0, 1, 1.0, 1)
        assert it.sharing.rate(1) < 1.0

    @pytest.mark.parametrize(
        ("answers", "alone", "beside"), [(1, (1, 1.0, 1), (6, 7.0, 6)), (8, (8, 4.0, 8), (16, 7.9, 15))]
    )
    def test_backs_that_slow_every_pass_down_are_left_at_rest(
        self, answers: int, alone: tuple[int, float, int], beside: tuple[int, float, int]
    ) -> None:
        """However much slower passes are by then said to be. Rows, seconds and tokens of a step at rest, and else."""
        it = Planner(CostCurve({1: 1.0, 8: 4.0, 16: 6.0}), Limits())
        it.joined("one")
        it.skipped(0.0)
        now, rested = 0.0, 0
        for _ in range(3000):
            it.next([line() for _ in range(answers)], now)
            rows, seconds, tokens = alone if it.resting else beside
            now += seconds
            it.finished(now, rows, seconds, tokens, answers=answers)
            rested += it.resting
        assert rested > 2500

    def test_sixty_four_guesses_fit_one_pass(self) -> None:
        trees = [line(*[0.9] * 8) for _ in range(8)]
        assert sum(self.of(FLAT, *trees, limits=Limits(rows=72))) == 64


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


class TestEverything:
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


class TestWaiting:
    def regular(self, gap: float, curve: dict[int, float] | None = None) -> Planner:
        """A target alone, and a back whose first guess comes `gap` seconds after each commit, and the next as often.

        The last commit is at 140 times the target's step.
        """
        step = (curve or FLAT)[1]
        it = settled(curve or FLAT, 1 / step)
        for number in range(100, 140):
            it.finished(number * step, 1, step, 1)
            it.next(nothing(), number * step)
            for message in (1, 2, 3):
                it.heard(number * step + message * gap, "one", [guessed(0.8, 0.1)])
        it.finished(140 * step, 1, step, 1)
        return it

    def test_a_guess_that_is_about_to_come_is_waited_for(self) -> None:
        plan = self.regular(0.005).next(nothing(), 14.001)
        assert 0.003 < waits(plan) < 0.02

    def test_what_was_heard_late_does_not_say_when_messages_come(self) -> None:
        it = self.regular(0.005)
        it.next(nothing(), 14.0005)
        for _ in range(20):
            it.heard(13.9, "one", [guessed(0.8, 0.1)])
        assert 0.003 < waits(it.next(nothing(), 14.001)) < 0.02

    def test_one_that_takes_too_long_is_not(self) -> None:
        assert waits(self.regular(0.09).next(nothing(), 14.001)) == 0.0

    def test_nobody_is_waited_for_who_was_never_heard(self) -> None:
        assert waits(settled(FLAT, 10).next(nothing(), 100.0)) == 0.0

    def test_an_overdue_one_is_not_waited_for(self) -> None:
        assert waits(self.regular(0.005).next(nothing(), 14.5)) == 0.0

    def together(self, *, early: bool) -> Planner:
        """Two answers, of one of which nothing is guessed at each commit, and a back that says something of it 5 ms
        later; `early`: 1 ms after the commit it says something of the other."""
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
        assert waits(self.regular(0.005, STEEP).next(nothing(), 140 * STEEP[1] + 0.001)) == 0.0

    def test_a_back_that_always_says_a_little_more_cannot_hold_up_an_answer(self) -> None:
        it, now = self.regular(0.005), 14.0
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
        it, now, waited = self.regular(0.005), 14.0, 0.0
        for _ in range(40):
            now += 0.1
            it.finished(now, 1, 0.1, 1)
            while wait := waits(it.next(nothing(), now)):
                now += wait
                waited += wait
        assert waited < 0.3
        assert waits(it.next(nothing(), now)) == 0.0


def test_a_pass_that_reads_prompts_teaches_no_speed() -> None:
    it = Planner(CostCurve({1: 1.0, 8: 1.7}), Limits())
    it.finished(1.0, 1, 1.0, 1)
    it.finished(2.0, 1, 1.0, 1)
    known = it.sharing.rate(1), it.sharing.curve(1)(1), it.sharing.curve(1)(8)
    it.joined("back")
    for now in range(3, 60):
        it.finished(float(now), 4, 3.0, 1, answers=2, read=True)
    assert (it.sharing.rate(1), it.sharing.curve(1)(1), it.sharing.curve(1)(8)) == known
    it.finished(60.0, 1, 1.0, 1)
    assert it.sharing.rate(1) == known[0]


def test_what_several_answers_cost_says_nothing_of_one() -> None:
    it = Planner(CostCurve({1: 1.0, 8: 1.7}), Limits())
    for now in range(50):
        it.finished(float(now), 8, 9.0, 8, answers=8)
    assert (it.sharing.curve(1)(1), it.sharing.curve(1)(8)) == (1.0, 1.7)


class TestTrust:
    def test_a_new_back_is_believed(self) -> None:
        assert Calibration().chance(0.7) == 0.7

    @pytest.mark.parametrize("claim", [0.0, 5e-324])
    def test_a_claim_of_nothing_is_no_more_than_that(self, claim: float) -> None:
        """Whatever comes from the network."""
        calibration = Calibration()
        calibration.outcome(claim, hit=False)
        assert 0.0 <= calibration.chance(claim) <= claim
        calibration.outcome(claim, hit=True)
        assert 0.0 <= calibration.chance(claim) <= 1.0

    @pytest.mark.parametrize(("claim", "real"), [(0.9, 0.3), (0.3, 0.6), (1.0, 0.0)])
    def test_outcomes_count_more_than_claims(self, claim: float, real: float) -> None:
        calibration, rng = Calibration(), random.Random(0)
        for _ in range(400):
            calibration.outcome(claim, rng.random() < real)
        assert calibration.chance(claim) == pytest.approx(real, abs=0.1)

    def test_bands_are_separate(self) -> None:
        calibration = Calibration()
        for _ in range(100):
            calibration.outcome(0.99, False)
        assert calibration.chance(0.99) < 0.2
        assert calibration.chance(0.4) == 0.4

    def test_who_lies_is_soon_left_out(self) -> None:
        """In a tree: a liar claims all and is never right, an honest back is right as often as it says."""
        rng = random.Random(1)
        tree, prefix_hash = GuessTree(0, EMPTY), EMPTY
        for length in range(300):
            tree.merge(Expansion(length, prefix_hash, [1], [0.6]), "honest")
            tree.merge(Expansion(length, prefix_hash, [2], [1.0]), "liar")
            if length == 299:
                assert [node.token for node, _ in tree.best(1)] == [1]
            token = 1 if rng.random() < 0.6 else 3
            prefix_hash = extend_hash(prefix_hash, token)
            tree.advance(token, prefix_hash)


class TestScale:
    @pytest.mark.parametrize(("said", "real", "higher"), [(0.9, 0.6, True), (0.6, 0.9, False)])
    def test_it_learns_whether_the_model_is_too_sure(self, said: float, real: float, higher: bool) -> None:
        scale, rng = Scale(), random.Random(0)
        for _ in range(60):
            scale.outcome([said, 1 - said], 0 if rng.random() < real else 1)
        assert (scale.value > 1.05) is higher
        assert (scale.value < 0.95) is not higher

    def test_a_calibrated_model_is_believed(self) -> None:
        scale, rng = Scale(), random.Random(0)
        for _ in range(2000):
            chance = rng.uniform(0.2, 0.95)
            scale.outcome([chance, 1 - chance], 0 if rng.random() < chance else 1)
        assert scale.value == pytest.approx(1.0, abs=0.15)

    @pytest.mark.parametrize("true", [0.6, 1.0, 1.8])
    def test_it_finds_the_scale(self, true: float) -> None:
        """A model of 40 tokens, much of its probability outside the four guesses, that is too sure or not enough."""
        scale, rng = Scale(), random.Random(0)
        for _ in range(3000):
            scores = sorted((rng.gauss(0, 1.5) for _ in range(40)), reverse=True)
            said = [math.exp(score / scale.value) for score in scores]
            real = [math.exp(score / true) for score in scores]
            picked = rng.choices(range(40), real)[0]
            scale.outcome([p / sum(said) for p in said[:4]], picked if picked < 4 else None)
        assert scale.value == pytest.approx(true, rel=0.25)

    @given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=300))
    def test_bounded(self, outcomes: list[tuple[float, bool]]) -> None:
        scale = Scale()
        for chance, hit in outcomes:
            scale.outcome([chance], 0 if hit else None)
        assert Scale.BOUNDS[0] <= scale.value <= Scale.BOUNDS[1]


class TestSharpness:
    @pytest.mark.parametrize("best", range(4))
    def test_it_takes_the_candidate_that_is_right_most_often(self, best: int) -> None:
        sharpness, rng = Sharpness(), random.Random(best)
        for _ in range(400):
            picks = [1 if rng.random() < (0.8 if i == best else 0.6) else 2 for i in range(4)]
            sharpness.outcome(picks, 1)
        assert sharpness.value == Sharpness.CANDIDATES[best]

    def test_a_draft_that_is_too_flat_agrees_more_often_when_sharpened(self) -> None:
        """The target is the draft with all logits trebled; the same noise on both sides."""
        rng, params = np.random.default_rng(0), SamplingParams(temperature=1.0, seed=5)
        sampler, sharpness = Sampler(params, []), Sharpness()
        agreed = {1.0: 0, 2.6: 0}
        for place in range(300):
            logits = rng.normal(0, 1, 200)
            truth = sampler.pick(3 * logits, [0] * place)
            for candidate in agreed:
                agreed[candidate] += sampler.rank(logits, [0] * place, 1, 1.0, candidate)[0][0] == truth
            sharpness.outcome(sampler.picks(logits, [0] * place, Sharpness.CANDIDATES), truth)
        assert agreed[2.6] > 1.3 * agreed[1.0]
        assert sharpness.value == 2.6


class TestOwnDraft:
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
        it._idle = 0.0
        assert not isinstance(it.next(nothing(), 99.0, offer=DraftOffer(0.005, 0.005)), Expand)

    def test_a_guess_of_a_back_that_comes_sooner_is_preferred(self) -> None:
        it = TestWaiting().regular(0.002)
        it._idle = 0.0
        plan = it.next(nothing(), 14.0, offer=DraftOffer(0.03, 0.03))
        assert waits(plan) and not isinstance(plan, Expand)

    def test_what_is_in_arrears_is_read_once_enough_was_missed_for_want_of_it(self) -> None:
        it = settled(FLAT, 20)
        it._idle = 0.0
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

    def test_without_the_planner_it_is_never_asked(self) -> None:
        it: Speculation = VerifyAll(Limits())
        it.drafted([guessed(0.9)])
        assert not isinstance(it.next(nothing(), 1.0, offer=DraftOffer(0.001, 0.001)), Expand)

    def test_a_back_that_has_fallen_silent_does_not_keep_it_from_drafting(self) -> None:
        it, now, drafted = TestWaiting().regular(0.004), 14.0, 0
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
