"""Planning for models that verify chains, or go back by a checkpoint: the choice against brute force."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.sim import schedules
from duo.engines.base import UNBOUNDED, Rollback
from duo.engines.cost import CostCurve
from duo.engines.replay import Checkpoints, Replay, Replayed
from duo.guesses import Expansion
from duo.prefix import EMPTY, extend_hash
from lead.plan.arrivals import Coming
from lead.plan.limits import Limits, without_guesses
from lead.plan.lookahead import WAITING, Lookahead
from lead.plan.planner import Planner
from lead.plan.speculation import Speculation
from lead.plan.tree import GuessTree, Node
from lead.plan.verify_all import VerifyAll
from lead.simulation import world
from lead.simulation.lead import Machine, run
from lead.simulation.world import TARGETS, Link, Varying
from tests.support.planning import FLAT, guessed, line, waits

CHAIN = Rollback(trees=False, depth=UNBOUNDED)
REPLAY = Rollback(trees=False, depth=UNBOUNDED, replay=True)

chances = st.floats(0.01, 1.0)
lines = st.lists(chances, max_size=6)
curves = st.lists(st.floats(1.0, 3.0), min_size=8, max_size=8).map(
    lambda steps: {width + 1: seconds for width, seconds in enumerate(itertools.accumulate([1.0, *steps], max))}
)
"""Seconds of widths 1 to 9: never cheaper for more rows, anything else may be."""


def bushy(*expansions: Sequence[float]) -> GuessTree:
    """A tree whose places, in the order of their discovery, have children of these chances."""
    tree, places = GuessTree(0, EMPTY), [(0, EMPTY)]
    for (length, prefix_hash), found in zip(places, expansions, strict=False):
        tokens = list(range(len(found)))
        tree.merge(Expansion(length, prefix_hash, tokens, found), "one")
        places += [(length + 1, extend_hash(prefix_hash, token)) for token in tokens]
    return tree


def likeliest(tree: GuessTree) -> list[float]:
    """Path probabilities along the likeliest children, by a walk of the test's own."""
    paths, at, path = list[float](), tree.root, 1.0
    while at.children:
        at = max(at.children.values(), key=lambda child: child.chance)
        path *= at.chance
        paths.append(path)
    return paths


def is_chain(tree: GuessTree, nodes: Sequence[Node]) -> bool:
    above = [tree.root, *nodes]
    return all(
        node.parent is parent and node.chance == max(child.chance for child in parent.children.values())
        for parent, node in zip(above, nodes, strict=False)
    )


trees = st.lists(st.lists(chances, min_size=1, max_size=3), max_size=9).map(lambda found: bushy(*found))


@given(trees, curves, st.integers(1, 8), st.integers(0, 2))
def test_the_best_beginning_of_the_likeliest_chain_is_chosen(
    tree: GuessTree, curve: dict[int, float], depth: int, draft_min: int
) -> None:
    it = Planner(CostCurve(curve), Limits(8, draft_min, rollback=CHAIN._replace(depth=depth)))
    (nodes,) = it.next([tree], 0.0).nodes
    paths = likeliest(tree)[:depth]

    def value(count: int) -> float:
        return 1 + sum(paths[:count]) - it.sharing.rate(1) * it.sharing.curve(1)(1 + count)

    allowed = [0, *(count for count in range(1, len(paths) + 1) if count >= draft_min)]
    assert is_chain(tree, nodes) and len(nodes) in allowed
    assert value(len(nodes)) == pytest.approx(max(map(value, allowed)))


@given(st.lists(trees, min_size=2, max_size=3), curves)
def test_chains_of_several_answers_share_the_rows_as_is_best_for_all(
    of: list[GuessTree], curve: dict[int, float]
) -> None:
    answers = len(of)
    it = Planner(CostCurve(curve), Limits(3, rows=answers + 5, rollback=CHAIN))
    chosen = it.next(of, 0.0, room=5).nodes  # prompts are read, so they take no turns
    paths = [likeliest(tree)[:3] for tree in of]

    def value(counts: Sequence[int]) -> float:
        expected = sum(sum(path[:count]) for path, count in zip(paths, counts, strict=True))
        return expected - it.sharing.rate(answers) * it.sharing.curve(1)(answers + sum(counts))

    allowed = [it for it in itertools.product(*(range(len(path) + 1) for path in paths)) if sum(it) <= 5]
    assert all(is_chain(tree, nodes) for tree, nodes in zip(of, chosen, strict=True))
    assert value([len(nodes) for nodes in chosen]) == pytest.approx(max(map(value, allowed)))


@given(lines, curves, st.floats(0.0, 2.0), st.floats(-0.5, 2.0))
def test_with_replays_the_choice_is_that_of_the_greatest_expectation(
    found: list[float], curve: dict[int, float], save: float, restore: float
) -> None:
    tree, cost = line(*found), CostCurve(curve)
    it = Planner(cost, Limits(8, rollback=REPLAY), replay=Replay(Checkpoints(save, restore), cost))
    (nodes,) = it.next([tree], 0.0).nodes

    def value(count: int) -> float:
        """Over all places where it may end."""
        paths = [1.0, *likeliest(tree)[:count]]
        total = 0.0
        for right in range(count + 1):
            ends = paths[right] - (paths[right + 1] if right < count else 0.0)
            seconds = cost(1 + count) + (save if count else 0.0)
            if right < count:
                seconds += restore + cost(1 + right)
            total += ends * (1 + right - it.sharing.rate(1) * seconds)
        return total

    assert value(len(nodes)) == pytest.approx(max(map(value, range(len(found) + 1))))


def test_what_going_back_costs_is_paid_for_each_answer_and_not_by_those_without_guesses() -> None:
    """Passes are free but for the first row, so only checkpoints and replays are weighed."""
    cost = CostCurve(FLAT)

    def counts(save: float, *found: Sequence[float]) -> list[int]:
        it = Planner(cost, Limits(rollback=REPLAY), replay=Replay(Checkpoints(save, 0.0), cost))
        return [len(nodes) for nodes in it.next([line(*of) for of in found], 0.0, room=9).nodes]

    # Two answers make 20 tokens per second: a checkpoint of 0.02 s is 0.4 of one, going back is 2.
    assert counts(0.02, (0.95, 0.95), ()) == [2, 0]
    assert counts(0.02, (0.95, 0.95), (0.7,)) == [2, 0]
    assert counts(0.0, (0.95, 0.95), (0.7,)) == [2, 1]
    assert counts(0.2, (0.95, 0.95), (0.95, 0.95)) == [0, 0]


@given(st.lists(chances, min_size=1, max_size=6), st.floats(0.0, 0.1), st.floats(0.0, 0.1))
def test_to_wait_for_a_chain_to_grow_is_judged_as_if_it_were_there(
    found: list[float], save: float, restore: float
) -> None:
    """A message that takes no time, comes for sure and brings the end of a line is worth what the whole line is."""
    cost, rate = CostCurve({1: 0.1, 8: 0.2}), 10.0
    replay = Replay(Checkpoints(save, restore), cost)
    it = Planner(cost, Limits(8, rollback=REPLAY), replay=replay)

    def lookahead(*chances: float) -> Lookahead:
        return it.lookahead([line(*chances)], rate)

    *before, last = found
    short, whole = lookahead(*before), lookahead(*found)
    path = [1.0, *likeliest(line(*found))]
    value, then = (of.choose(of.worths)[1] for of in (short, whole))
    gain = short.gain(value, [Coming(0.0, 1.0, 1, [path[-1]], [path[-2]])], 0.0, WAITING)
    assert gain == pytest.approx(then - value, abs=1e-9) and last == pytest.approx(path[-1] / path[-2])


def test_nobody_waits_for_what_no_chain_has_room_for() -> None:
    def plan(rollback: Rollback, tree: GuessTree) -> float:
        it = Planner(CostCurve({1: 0.1, 16: 0.1}), Limits(rollback=rollback))
        it.skipped(0.0)
        for step in range(60):
            it.next([line()], step * 0.1)
            for message in (1, 2, 3):
                it.heard(step * 0.1 + 0.005 * message, "one", [guessed(0.95)])
            it.finished(step * 0.1 + 0.1, 1, 0.1, 1)
        it.next([line()], 6.0)
        it.heard(6.005, "one", [guessed(0.95)])
        return waits(it.next([tree], 6.0051))

    assert plan(CHAIN, line(0.9, 0.9)) > 0.0
    assert plan(CHAIN._replace(depth=2), line(0.9, 0.9)) == 0.0
    assert plan(CHAIN._replace(depth=0), line()) == 0.0


@pytest.mark.parametrize("kind", [Planner, VerifyAll])
def test_a_model_that_does_not_go_back_gets_no_guesses(kind: type) -> None:
    limits = Limits(rollback=Rollback(False, 0))
    it: Speculation = Planner(CostCurve(FLAT), limits) if kind is Planner else VerifyAll(limits)
    plan = it.next([line(0.99, 0.99), line(0.99)], 0.0)
    assert [list(nodes) for nodes in plan.nodes] == [[], []] and not waits(plan)
    assert not it.speculates and "does not go back" in without_guesses(limits, None)


@given(trees, st.integers(0, 5))
def test_everything_of_a_chain_is_its_beginning(tree: GuessTree, depth: int) -> None:
    (nodes,) = VerifyAll(Limits(rollback=CHAIN._replace(depth=depth))).next([tree], 0.0).nodes
    assert is_chain(tree, nodes) and len(nodes) == min(depth, len(likeliest(tree)))


class TestReplay:
    @pytest.mark.parametrize(
        ("curve", "save", "pays"),
        [
            ({1: 1.0, 8: 1.2}, 0.5, True),
            ({1: 1.0, 8: 1.2}, 3.0, True),  # with four guesses
            ({1: 1.0, 8: 1.2}, 7.0, False),
            ({1: 1.0, 2: 2.8, 4: 3.5, 8: 5.0}, 0.4, True),
            ({1: 1.0, 2: 2.0, 8: 8.0}, 0.0, False),
        ],
    )
    def test_whether_a_perfect_chain_pays(self, curve: dict[int, float], save: float, pays: bool) -> None:
        replay = Replay(Checkpoints(save, 0.0), CostCurve(curve))
        assert replay.pays(7) is pays
        reason = without_guesses(Limits(7, rollback=REPLAY), replay)
        assert (not reason) is pays
        assert not without_guesses(Limits(0, rollback=REPLAY), replay), "nobody asked for guesses"

    def test_it_follows_what_restores_take(self) -> None:
        cost = CostCurve({1: 1.0, 4: 1.3})
        replay = Replay(Checkpoints(0.2, 0.0), cost)
        rejected, back = Replayed(2, [1, 3], 1.0 + cost(1) + cost(3)), 1.0 + cost(1) + cost(3)
        for late in (False, True):
            for _ in range(60):
                told = rejected._replace(seconds=0.0 if late else back)
                left = replay.observe(4, cost(4) + 0.4 + told.seconds, told)
                assert left == pytest.approx(cost(4)), "what is left is the forward pass"
                assert replay.observe(2, cost(2) + back * late, Replayed()) is None, "rows may have run again in it"
            # Wrong for sure: a restore, and three rows once more.
            assert replay.toll(1.0, 0.0, 3) == pytest.approx(0.5 + cost(3), rel=0.05)

    def test_after_a_while_it_is_what_was_measured(self) -> None:
        cost = CostCurve({1: 1.0, 4: 1.3})
        replay = Replay(Checkpoints(0.0, 0.1), cost)
        for _ in range(20):
            replay.observe(2, 100.0, Replayed(1, [1], 90.0))
            replay.observe(2, None, Replayed())  # it read prompts
            assert replay.observe(1, 1.0, Replayed()) == 1.0
        assert replay.toll(1.0, 0.0, 1) == pytest.approx(1.1), "a pass that reads prompts says nothing"
        replay.observe(2, 100.0, Replayed(1, [1], 90.0))
        replay.observe(1, 10.0, Replayed())
        assert replay.toll(1.0, 0.0, 1) == pytest.approx(1.3), "a hiccup counts little"
        for _ in range(1000):
            replay.observe(1, 1.0, Replayed())
        assert replay.toll(1.0, 0.0, 1) == pytest.approx(1.1, rel=0.01)

    def test_the_curve_learns_nothing_of_replays(self) -> None:
        cost = CostCurve({1: 1.0, 4: 1.3})
        it = Planner(cost, Limits(rollback=REPLAY), replay=Replay(Checkpoints(0.5, 0.5), cost))
        it.skipped(0.0)
        now = 0.0
        for _ in range(100):
            for seconds, replayed in ((3.3, Replayed(1, [1], 1.5)), (1.3 + 0.5, Replayed(1))):
                now += seconds
                it.finished(now, 4, seconds, 2, replayed=replayed)
        assert it.sharing.curve(1)(4) == pytest.approx(1.3, rel=0.02)
        assert it.sharing.rate(1) == pytest.approx(4 / 5.1, rel=0.05), "but the rate is what is achieved"

    def test_rejections_that_prove_dear_end_the_guessing(self) -> None:
        """At first going back is said to cost nothing."""
        cost = CostCurve({1: 1.0, 8: 1.1})
        it = Planner(cost, Limits(rollback=REPLAY), replay=Replay(Checkpoints(0.0, -1.0), cost))
        it.skipped(0.0)
        now, chosen = 0.0, list[int]()
        for step in range(200):
            guesses = len(it.next([line(0.5, 0.5)], now).nodes[0])
            chosen.append(guesses)
            right = min(guesses, (0, 1, 0, 2)[step % 4])
            again = [1 + right] * (right < guesses)
            seconds, back = cost(1 + guesses), 4.0 * len(again)
            now += seconds + back
            it.finished(now, 1 + guesses, seconds + back, 1 + right, replayed=Replayed(guesses > 0, again, back))
        assert chosen[0] > 0 and sum(map(bool, chosen[100:])) < 10, "it is tried again now and then"


@pytest.mark.parametrize("target", ["flat", "bf16"])
def test_chains_are_planned_well(target: str) -> None:
    """In simulated time, against trees and against a chain of fixed length."""
    cost, text = TARGETS[target], Varying(0.7, 1)
    machines = [Machine(world.drafting(0.008), Link(0.005))]
    curve = {width: cost(width) for width in world.WIDTHS}

    def speed(rollback: Rollback) -> float:
        it = Planner(CostCurve(curve), Limits(world.DRAFT_MAX, rollback=rollback))
        it.skipped(0.0)
        return run(text, cost, machines, 600, planner=it)

    trees, chains = speed(Limits().rollback), speed(CHAIN)
    everything = run(text, cost, machines, 600, planner=VerifyAll(Limits(world.DRAFT_MAX, rollback=CHAIN)))
    assert chains > 0.85 * trees
    assert chains > 0.98 * everything
    assert speed(CHAIN._replace(depth=0)) == pytest.approx(schedules.no_back(cost), rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["flat", "bf16"])
@pytest.mark.parametrize("dear", [0.02, 0.3, 2.0])
@pytest.mark.parametrize("known", [True, False])
def test_guesses_are_verified_where_they_pay_for_going_back(target: str, dear: float, known: bool) -> None:
    """In simulated time, against the target alone and a planner that knows nothing of going back.

    `known`: what it costs was measured rightly at load, or as a tenth of it.
    """
    cost, text = TARGETS[target], Varying(0.7, 1)
    machines = [Machine(world.drafting(0.008), Link(0.005))]
    curve = {width: cost(width) for width in world.WIDTHS}
    takes = Checkpoints(0.2 * dear * cost(1), dear * cost(1))
    measured = takes if known else Checkpoints(takes.save / 10, takes.restore / 10)

    def speed(schedule: Callable[[CostCurve], Speculation]) -> float:
        it = schedule(CostCurve(curve))
        it.skipped(0.0)
        return run(text, cost, machines, 1500, planner=it, checkpoints=takes)

    limits = Limits(world.DRAFT_MAX, rollback=REPLAY)
    priced = speed(lambda curve: Planner(curve, limits, replay=Replay(measured, curve)))
    blind = speed(lambda curve: Planner(curve, limits))
    alone = schedules.no_back(cost)
    assert priced > 1.05 * alone and priced > 1.05 * blind
