"""Long runs of memory: how many of them are verified, at which rate, and where none would pay."""

from __future__ import annotations

import pytest

from duo.engines.base import Rollback
from duo.guesses import Expansion
from duo.prefix import EMPTY, extend_hash
from lead.plan.limits import Limits
from lead.plan.planner import Planner
from lead.plan.tree import GuessTree
from lead.plan.verify_all import VerifyAll
from tests.support.planning import STEEP, line, nothing, settled

WIDE = {1: 0.1, 65: 0.11}
LIMITS = Limits(draft_max=16, memory_max=64, rows=70)


def run(count: int, chance: float = 0.99, models: int = 0) -> GuessTree:
    """A tree with a run of memory, and more guesses of a model at its end."""
    tree, at = GuessTree(0, EMPTY), EMPTY
    for length in range(count + models):
        assert tree.merge(Expansion(length, at, [7], [chance]), "memory", model=length >= count)
        at = extend_hash(at, 7)
    return tree


def verified(it: Planner | VerifyAll, *trees: GuessTree) -> list[int]:
    return [len(nodes) for nodes in it.next(trees, 100.0).nodes]


def test_a_run_of_memory_may_be_longer_than_a_draft() -> None:
    assert verified(settled(WIDE, 10, LIMITS), run(64)) == [64]
    assert verified(settled(WIDE, 10, LIMITS), line(*[0.99] * 40)) == [16]
    assert verified(settled(WIDE, 10, LIMITS), run(30, models=30)) == [46]
    assert verified(VerifyAll(LIMITS), run(30, models=30)) == [46]


def test_the_same_for_chains_as_far_as_the_model_goes_back() -> None:
    chains = Limits(draft_max=16, memory_max=64, rows=70, rollback=Rollback(trees=False, depth=40))
    assert verified(settled(WIDE, 10, chains), run(64)) == [40]
    assert verified(settled(WIDE, 10, chains), run(10, models=30)) == [26]


def test_no_guess_is_verified_if_there_may_be_none() -> None:
    none = Limits(draft_max=0, memory_max=64, rows=70)
    assert not settled(WIDE, 10, none).speculates
    assert verified(settled(WIDE, 10, none), run(20)) == [0]


def test_several_answers_share_the_rows() -> None:
    assert sum(verified(settled(WIDE, 10, LIMITS), run(64), run(64))) == 68


def test_a_run_ends_where_a_further_token_costs_more_than_it_brings() -> None:
    it = settled({1: 1.0, 65: 33.0}, 1.0, LIMITS)
    (count,) = verified(it, run(64, 0.9))
    assert 0.9 ** (count + 1) < 0.5 <= 0.9**count


def test_steps_that_copy_have_a_rate_of_their_own() -> None:
    """Their many tokens do not make time dear for a guess where nothing is copied."""
    curve, unsure = {1: 1.0, 2: 1.2, 65: 2.0}, line(0.5)
    it = settled(curve, 1.0, LIMITS)
    assert verified(it, unsure) == [1]
    for step in range(1, 20):
        assert verified(it, run(40)) == [40]
        it.finished(100 + 2.0 * step, 41, 2.0, 41)
    assert verified(it, unsure) == [1]
    assert it.sharing.rate(1, copying=True) > 10 * it.sharing.rate(1)


@pytest.mark.parametrize(
    ("curve", "longest"), [(WIDE, 64), (STEEP, 64), ({1: 1.0, 2: 2.0, 65: 65.0}, 0), ({1: 1.0, 2: 3.0, 65: 190.0}, 0)]
)
def test_memory_guesses_nothing_where_not_even_a_sure_run_pays(curve: dict[int, float], longest: int) -> None:
    it = settled(curve, 1 / curve[1], LIMITS)
    assert (it.longest_run(1) > 0) == (longest > 0)
    assert it.longest_run(1) <= longest


def test_a_cost_that_falls_is_noticed() -> None:
    it = settled({1: 1.0, 2: 2.0, 65: 65.0}, 1.0, LIMITS)
    assert not it.longest_run(1)
    for step in range(1, 200):
        it.next(nothing(), 100.0 + step)
        it.finished(100.0 + step, 33, 4.0, 1)
    assert it.longest_run(1)
