"""The simulator: its parts are what they say, and the production policy does in it what it is for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from bench.sim import cells, schedules
from duo.prefix import EMPTY, Prefix, extend_hash
from lead.decode.memory import Memory
from lead.simulation import world
from lead.simulation.lead import Machine, answers, chain, run, speed
from lead.simulation.replay import Recorded, Replayed
from lead.simulation.world import TARGETS, Absences, Acceptance, Bursty, Constant, Link, Varying

TOKENS = 400


@pytest.mark.parametrize("mean", [0.55, 0.8])
@pytest.mark.parametrize("kind", [Varying, Constant, Bursty])
def test_guesses_are_right_as_often_as_they_say(kind: type[Varying], mean: float) -> None:
    acceptance, state, count = kind(mean, seed=3), EMPTY, 12_000
    claimed, right, likeliest = np.zeros(4), np.zeros(4), 0
    for length in range(count):
        ranked, truth = acceptance.ranked(state, length), acceptance.truth(state, length)
        claimed += [chance for _, chance in ranked]
        right += [token == truth for token, _ in ranked]
        likeliest += truth == 1
        state = extend_hash(state, truth)
    assert claimed / count == pytest.approx(right / count, abs=0.02)
    assert likeliest / count == pytest.approx(mean, abs=0.03)
    assert sum(claimed) / count <= 1


def test_bursts() -> None:
    """Easy and hard stretches are as long as asked for, and neighbours are more alike than strangers."""
    acceptance = Bursty(0.7, 1, stretch=20)
    changes = sum(a != b for a, b in zip(acceptance.hard, acceptance.hard[1:], strict=False))
    assert changes / len(acceptance.hard) == pytest.approx(1 / 20, rel=0.1)
    truths: list[bool] = []
    state = EMPTY
    for length in range(12_000):
        truth = acceptance.truth(state, length)
        truths.append(truth == acceptance.ranked(state, length)[0][0])
        state = extend_hash(state, truth)
    right = np.array(truths, dtype=float)
    assert np.corrcoef(right[:-3], right[3:])[0, 1] > 0.1


def test_the_target_alone() -> None:
    """With no back a lead is as fast as its target."""
    for target in TARGETS.values():
        assert run(Varying(0.7, 1), target, [], TOKENS) == pytest.approx(schedules.no_back(target), rel=0.01)


def machine(draft_ms: float = 8, round_trip_ms: float = 5) -> Machine:
    return Machine(world.drafting(draft_ms / 1000), Link(round_trip_ms / 1000))


def test_a_simulation_repeats_itself() -> None:
    shaky = Machine(world.drafting(0.008), Link(0.001, jitter=0.05), Absences(3, 1))
    once, again = (
        answers(Bursty(0.7, 1), TARGETS["bf16"], [shaky, machine()], world.asked(TOKENS, 80, 50)) for _ in range(2)
    )
    assert once == again


@pytest.mark.parametrize("name", TARGETS)
def test_never_slower_than_the_other_schedules(name: str) -> None:
    for draft_ms, mean in ((8, 0.55), (30, 0.9)):
        acceptance = Varying(mean, 1)
        it = cells.speeds(TARGETS[name], [machine(draft_ms)], acceptance, world.asked(300))
        assert it.ours >= 0.97 * it.best
        assert it.ours >= 0.99 * it.none


def test_where_two_rows_cost_three_a_chain_loses_and_we_do_not() -> None:
    near, target = machine(8, 1), TARGETS["Q8_0"]
    alone = schedules.no_back(target)
    assert chain(Varying(0.55, 1), target, near, TOKENS, ahead=(7,)) < 0.8 * alone
    assert run(Varying(0.55, 1), target, [near], TOKENS) > 0.99 * alone


def test_a_slow_link_costs_less_than_it_costs_a_synchronous_schedule() -> None:
    acceptance, target, draft = Varying(0.8, 1), TARGETS["bf16"], world.drafting(0.008)
    near, far = (run(acceptance, target, [Machine(draft, Link(rtt))], TOKENS) for rtt in (0.0005, 0.04))
    near_sync, far_sync = (schedules.synchronous(target, draft, rtt, acceptance, TOKENS) for rtt in (0.0005, 0.04))
    assert far / near > far_sync / near_sync


@pytest.mark.parametrize("mean", [0.5, 0.8])
def test_free_chains_are_what_can_be_worked_out(mean: float) -> None:
    """Where 16 tokens cost what one does, 15 guesses are verified: 1 + p + ... + p^15 tokens for each forward pass."""
    tokens = 4000
    expected = (1 - mean**16) / (1 - mean) / TARGETS["flat"](1)
    assert schedules.free(TARGETS["flat"], Constant(mean, 1), tokens) == pytest.approx(expected, rel=0.05)


def test_free_guesses_are_a_bound() -> None:
    for target in TARGETS.values():
        acceptance = Varying(0.8, 1)
        bound = schedules.free(target, acceptance, TOKENS)
        assert bound > chain(acceptance, target, machine(2, 0.5), TOKENS, ahead=(7,))
        assert schedules.free(target, acceptance, TOKENS, children=4) >= 0.97 * bound


class TestBacksThatComeAndGo:
    def test_one_that_is_away_is_as_good_as_none(self) -> None:
        gone = replace(machine(2), away=[(0.0, 1e9)])
        for name, target in TARGETS.items():
            speed = run(Varying(0.8, 1), target, [gone], TOKENS)
            assert speed == pytest.approx(schedules.no_back(target), rel=0.01), name

    def test_one_that_is_there_half_of_the_time_helps_half_of_the_time(self) -> None:
        acceptance, target = Varying(0.8, 1), TARGETS["bf16"]
        always = run(acceptance, target, [machine()], 800)
        half = run(acceptance, target, [replace(machine(), away=Absences(4, 4))], 800)
        assert schedules.no_back(target) * 1.1 < half < always * 0.95

    def test_one_that_comes_in_the_middle_reads_all_that_was_said(self) -> None:
        late = replace(machine(), away=[(0.0, 10.0)])
        acceptance, target = Varying(0.8, 1), TARGETS["bf16"]
        speed = 600 / (10 + (600 - 10 * schedules.no_back(target)) / run(acceptance, target, [machine()], 600))
        assert run(acceptance, target, [late], 600) == pytest.approx(speed, rel=0.05)

    def test_absences_begin_anew_each_time(self) -> None:
        away = Absences(5, 2)
        once, again = (list(islice(away, 50)) for _ in range(2))
        assert once == again
        assert all(left < came for left, came in once)
        assert sum(came - left for left, came in once) == pytest.approx(50 * 2, rel=0.4)


class TestAnswers:
    def test_several_are_given_one_after_the_other(self) -> None:
        found = answers(Varying(0.8, 1), TARGETS["bf16"], [machine()], world.asked(250, 100, 40))
        assert [it.tokens for it in found] == [100, 100, 50]
        assert all(it.reading > 0 and it.decoding > 0 for it in found)

    def test_a_back_that_has_to_read_for_long_is_late(self) -> None:
        """A prompt is read by both at the same time; where the back is the slower one the answer begins without it."""

        def slow(rows: int) -> float:
            return 0.005 if rows <= 8 else 0.02 * rows

        acceptance, asked = Varying(0.8, 1), world.asked(200, 50, 300)
        target = TARGETS["bf16"]
        quick, late = (run(acceptance, target, [Machine(cost, Link(0.001))], asked) for cost in (lambda n: 0.005, slow))
        assert late < 0.95 * quick


class TestReplay:
    RECORDED = (
        Recorded([5, 6], [11, 12, 13], [[(11, 0.9), (7, 0.05)], [(8, 0.5), (12, 0.3)], [(9, 0.4)]]),
        Recorded([5, 6], [14, 15], [[(14, 0.8)], [(15, 0.7)]]),
    )

    def test_what_was_recorded_comes_again(self) -> None:
        replayed = Replayed(self.RECORDED)
        for asked, recorded in zip(replayed.asked(5), self.RECORDED, strict=True):
            assert asked.tokens == len(recorded.tokens)
            state = Prefix(asked.prompt).hash
            for token, guesses in zip(recorded.tokens, recorded.guesses, strict=True):
                assert replayed.ranked(state) == guesses
                assert replayed.truth(state) == token
                state = extend_hash(state, token)

    def test_as_one_text(self) -> None:
        replayed, state = Replayed(self.RECORDED), EMPTY
        said = []
        for _ in range(10):
            said.append(replayed.truth(state))
            state = extend_hash(state, said[-1])
        assert said == [11, 12, 13, 14, 15] * 2

    def test_wrong_branches_look_like_the_rest(self) -> None:
        replayed = Replayed(self.RECORDED)
        known = [guesses for answer in self.RECORDED for guesses in answer.guesses]
        wrong = [replayed.ranked(extend_hash(EMPTY, 100 + i)) for i in range(200)]
        assert all(guesses in known for guesses in wrong)
        assert all(guesses in wrong for guesses in known)

    def test_the_rank_of_each_pick(self) -> None:
        assert [place for _, place in self.RECORDED[0].picked()] == [0, 1, None]
        assert Replayed(self.RECORDED).mean == pytest.approx(3 / 5)

    @pytest.mark.parametrize("make", [lambda r: Replayed(r), lambda r: Varying(0.6, 1)])
    def test_a_simulation_of_it(self, make: Callable[[object], Acceptance]) -> None:
        acceptance = make(self.RECORDED)
        assert run(acceptance, TARGETS["flat"], [machine(2)], 200) > 1.3 * schedules.no_back(TARGETS["flat"])


class TestMemory:
    """A fifth of the text was said before."""

    @staticmethod
    def text(acceptance: float = 0.7, count: int = 16, fresh: int = 48, known: int = 12) -> Replayed:
        rng, made = np.random.default_rng(1), []
        for number in range(count):
            tokens = [1000 * (number + 1) + 10 * place for place in range(fresh)] + list(range(0, 10 * known, 10))
            guesses = [[(token + int(rng.random() >= acceptance), acceptance), (token + 2, 0.05)] for token in tokens]
            made.append(Recorded([number + 1, 3], tokens, guesses))
        return Replayed(made)

    def speed_of(self, machines: Sequence[Machine], memory: Memory | None) -> tuple[float, float]:
        """Tokens per second, and what the planner says that its backs bring."""
        text, target = self.text(), TARGETS["bf16"]
        plan = world.planner(target)
        found = answers(text, target, machines, text.asked(16 * 60), planner=plan, memory=memory)
        return speed(found), plan.benefit.times if plan.benefit is not None else 1.0

    def test_a_text_that_was_said_before_is_guessed(self) -> None:
        alone, remembering = (self.speed_of([], memory)[0] for memory in (None, Memory()))
        assert 1.05 * alone < remembering < 1.25 * alone

    def test_the_speed_up_that_is_named_is_that_over_a_lead_that_remembers_too(self) -> None:
        (alone, _), (both, named) = (self.speed_of(machines, Memory()) for machines in ([], [machine(2, 1)]))
        assert both > 1.2 * alone
        assert named == pytest.approx(both / alone, rel=0.02)


def test_a_back_on_the_same_machine_slows_the_target_down() -> None:
    def shared(rows: int) -> float:
        return 1.5 * TARGETS["flat"](rows)

    acceptance, asked = Varying(0.8, 1), world.asked(TOKENS)
    slow = machine(40, 0)  # it computes all the time
    quick = machine(1, 0)  # it soon has all that it may guess
    apart, together = (speed(answers(acceptance, TARGETS["flat"], [slow], asked, shared=it)) for it in (None, shared))
    assert 0.6 * apart < together < 0.9 * apart
    apart, together = (speed(answers(acceptance, TARGETS["flat"], [quick], asked, shared=it)) for it in (None, shared))
    assert together > 0.8 * apart
