"""The simulator: its parts are what they say, and the production policy does in it what it is for."""

from __future__ import annotations

import numpy as np
import pytest

from bench import world
from bench.simulate import Machine, cell, chain, run
from bench.world import TARGETS, Constant, Link, Varying
from duo.prefix import EMPTY, extend_hash

TOKENS = 600


@pytest.mark.parametrize("mean", [0.55, 0.8])
@pytest.mark.parametrize("kind", [Varying, Constant])
def test_guesses_are_right_as_often_as_they_say(kind: type[Varying], mean: float) -> None:
    acceptance, state = kind(mean, seed=3), EMPTY
    claimed, right = np.zeros(4), np.zeros(4)
    for _ in range(20_000):
        ranked, truth = acceptance.ranked(state), acceptance.truth(state)
        claimed += [chance for _, chance in ranked]
        right += [token == truth for token, _ in ranked]
        state = extend_hash(state, truth)
    assert claimed / 20_000 == pytest.approx(right / 20_000, abs=0.015)
    assert sum(claimed) / 20_000 <= 1


def test_the_target_alone() -> None:
    """With no back a lead is as fast as its target."""
    for target in TARGETS.values():
        assert run(Varying(0.7, 1), target, [], TOKENS) == pytest.approx(world.no_back(target), rel=0.01)


def test_a_simulation_repeats_itself() -> None:
    machine = Machine(world.drafting(0.008), Link(0.001, jitter=0.002))
    once, again = (run(Varying(0.7, 1), TARGETS["bf16"], [machine], TOKENS) for _ in range(2))
    assert once == again


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("draft_ms", [8, 30])
def test_never_slower_than_the_other_schedules(name: str, draft_ms: float) -> None:
    for mean in (0.55, 0.9):
        it = cell(TARGETS[name], draft_ms, 5, Varying(mean, 1), TOKENS)
        assert it.ours >= 0.97 * it.best
        assert it.ours >= 0.99 * it.none


def test_where_two_rows_cost_three_a_chain_loses_and_we_do_not() -> None:
    machine, target = Machine(world.drafting(0.008), Link(0.001)), TARGETS["Q8_0"]
    alone = world.no_back(target)
    assert chain(Varying(0.7, 1), target, machine, TOKENS) < 0.8 * alone
    assert run(Varying(0.7, 1), target, [machine], TOKENS) > 0.99 * alone


def test_a_slow_link_costs_less_than_it_costs_a_synchronous_schedule() -> None:
    acceptance, target, draft = Varying(0.8, 1), TARGETS["bf16"], world.drafting(0.008)
    near, far = (run(acceptance, target, [Machine(draft, Link(rtt))], TOKENS) for rtt in (0.0005, 0.04))
    near_sync, far_sync = (world.synchronous(target, draft, rtt, acceptance, TOKENS) for rtt in (0.0005, 0.04))
    assert far / near > far_sync / near_sync


def test_free_guesses_are_a_bound_for_chains() -> None:
    for target in TARGETS.values():
        acceptance = Varying(0.8, 1)
        machine = Machine(world.drafting(0.002), Link(0.0005))
        assert world.free(target, acceptance, TOKENS) > chain(acceptance, target, machine, TOKENS)
