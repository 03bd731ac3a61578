"""The planner: which guesses it verifies, alone and over several answers."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duo.engines.cost import CostCurve
from duo.guesses import Expansion
from duo.prefix import EMPTY, extend_hash
from lead.plan.limits import Limits
from lead.plan.planner import Planner
from lead.plan.tree import GuessTree
from lead.plan.verify_all import VerifyAll
from tests.support.planning import FLAT, STEEP, limited, line, nothing, settled


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
