"""The figure that says what backs bring, against a world where it is known."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from duo.engines.cost import CostCurve
from duo.prefix import EMPTY
from lead.plan.limits import Limits
from lead.plan.planner import Planner
from lead.plan.speedup import Benefit, Correction, Counted, Gain, Lately, Speedup, Verdict, mean
from lead.plan.tree import GuessTree

AT_LOAD = {1: 0.05, 2: 0.055, 4: 0.065, 8: 0.08, 16: 0.12}
OVERHEAD = 0.002
"""Seconds that the loop adds to each forward pass."""


@dataclass
class World:
    """A target whose passes take what the curve says, times what the machine and the backs add."""

    yields: Callable[[random.Random], int]
    """Tokens of a step with backs."""
    rows: int = 4
    disturbed: float = 1.0
    """Times as long a pass takes while backs work."""
    machine: Callable[[int], float] = lambda step: 1.0
    """Times as long every pass takes, by the number of the step."""
    scatter: float = 0.05
    seed: int = 0
    planner: Planner = field(default_factory=lambda: Planner(CostCurve(AT_LOAD), Limits()))
    now: float = 0.0
    steps: int = 0
    taken: float = 0.0
    """Seconds of decoding, and what the same tokens would have taken alone."""
    alone: float = 0.0

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        self._tree = GuessTree(1, EMPTY)
        self.planner.skipped(self.now)

    def run(self, tokens: int) -> Gain:
        """One answer."""
        gain, cost, made = Gain(), CostCurve(AT_LOAD), 0
        while made < tokens:
            self.planner.next([self._tree], self.now)
            works = bool(self.planner.backs) and not self.planner.resting
            got, rows = (self.yields(self._rng), self.rows) if works else (1, 1)
            drift = self.machine(self.steps) * self._rng.uniform(1 - self.scatter, 1 + self.scatter)
            seconds = cost(rows) * drift * (self.disturbed if works else 1.0)
            self.now += seconds + OVERHEAD
            self.taken += seconds + OVERHEAD
            self.alone += got * (cost(1) * self.machine(self.steps) + OVERHEAD)
            counted = self.planner.finished(self.now, rows, seconds, got)
            if counted is not None:
                gain.step(seconds + OVERHEAD, got, counted)
            made += got
            self.steps += 1
        return gain

    def answers(self, count: int, tokens: int) -> tuple[float, float]:
        """The figures of so many answers together, and the truth."""
        self.taken = self.alone = 0.0
        named = 0.0
        for _ in range(count):
            before = self.taken
            speedup = self.planner.speedup(self.run(tokens))
            assert speedup is not None
            named += speedup.times * (self.taken - before)
        return named / self.taken, self.alone / self.taken


def useful(rng: random.Random) -> int:
    return rng.choice((1, 2, 4, 5))


def useless(rng: random.Random) -> int:
    return 1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("disturbed", [1.0, 1.3])
@pytest.mark.parametrize("drift", [lambda step: 1.0, lambda step: 1.0 + step / 2000, lambda step: 0.6])
def test_it_is_what_the_target_alone_would_have_taken(
    seed: int, disturbed: float, drift: Callable[[int], float]
) -> None:
    """Whatever backs take from the target, a longer context or a slower machine adds, and the machine was at load."""
    world = World(useful, disturbed=disturbed, machine=drift, seed=seed)
    world.planner.joined("back")
    world.run(100)
    named, true = world.answers(5, 150)
    assert named == pytest.approx(true, rel=0.06)
    benefit = world.planner.benefit
    assert benefit is not None and benefit.state == "with" and benefit.trial_in_tokens is None
    assert benefit.times == pytest.approx(true, rel=0.1)
    assert benefit.with_backs / benefit.alone == pytest.approx(benefit.times)


def test_the_standard_error_says_how_far_it_may_be_off() -> None:
    off = 0
    for seed in range(40):
        world = World(useful, seed=seed, disturbed=1.1)
        world.planner.joined("back")
        world.run(200)
        true = 3.0 * (0.05 + OVERHEAD) / (0.065 * 1.1 + OVERHEAD)
        speedup = world.planner.speedup(world.run(200))
        assert speedup is not None
        off += abs(speedup.times - true) > 2 * speedup.error
    assert off <= 6


@pytest.mark.parametrize("scatter", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("rows", [1, 4])
def test_a_useless_back_rests_within_a_hundred_tokens(seed: int, scatter: float, rows: int) -> None:
    """Whether its guesses are verified or left alone, and however much the passes vary."""
    world = World(useless, rows=rows, scatter=scatter, seed=seed)
    world.planner.joined("back")
    tokens, benefit = 0, world.planner.benefit
    while benefit is None or benefit.state != "resting":
        world.run(1)
        tokens, benefit = tokens + 1, world.planner.benefit
    assert tokens <= 100
    assert benefit.trial_in_tokens == 48
    assert benefit.says.startswith(f"resting: {benefit.alone:.1f} tokens/s without backs, ")
    assert benefit.says.endswith(" with them; next trial in 48 tokens")
    speedup = world.planner.speedup(world.run(1000))
    assert speedup is not None and speedup.times == pytest.approx(1.0, abs=0.1)


def test_nothing_is_said_without_a_back_and_before_the_target_was_measured() -> None:
    world = World(useful)
    assert world.planner.speedup(world.run(200)) is None
    assert world.planner.benefit is None
    world.planner.joined("back")
    assert world.planner.speedup(world.run(10)) is None, "the target was not measured alone"
    world.run(300)
    assert world.planner.benefit is not None
    world.planner.left("back")
    assert world.planner.speedup(world.run(50)) is None, "the back was gone before it began"
    assert world.planner.benefit is not None and world.planner.benefit.state == "none"


def assert_is(it: Speedup | None, times: float, error: float = 0.0) -> None:
    assert it is not None
    assert it.times == pytest.approx(times)
    assert it.error == pytest.approx(error, abs=1e-6)


def correction(seconds: float = 1.0, steps: int = 8) -> Correction:
    """A target that takes so many times what the curve says alone."""
    it = Correction()
    it.with_backs(1.0)
    for _ in range(steps):
        it.alone(seconds, 1)
    return it


ONE, SEVERAL = Counted(1.0, False, True, False), Counted(2.0, True, True, False)
RESTING = Counted(1.0, False, True, True)


def test_an_answer_is_compared_alone_and_beside_others_apart() -> None:
    gain = Gain()
    for _ in range(4):
        gain.step(1.0, 2, ONE)
        gain.step(3.0, 3, SEVERAL)
    assert_is(gain.speedup(correction(1.1), correction(0.9)), (8.8 + 21.6) / 16)
    assert gain.speedup(correction(), Correction()) is None, "of most of its time too little is known"
    assert_is(gain.speedup(Correction(), correction()), 2.0)


def test_at_rest_an_answer_is_as_fast_as_alone() -> None:
    gain = Gain()
    gain.step(1.0, 1, RESTING)
    assert gain.speedup(Correction(), Correction()) == Speedup(1.0, 0.0)
    gain.step(1.0, 3, ONE)
    assert_is(gain.speedup(correction(), Correction()), 2.0)


def test_a_stray_step_alone_does_not_spoil_the_figure() -> None:
    it = correction(steps=20)
    it.alone(100.0, 1)
    assert it.value < 1.1


def test_lately() -> None:
    lately = Lately()
    assert lately.benefit(correction(), "with", 0.0, None) is None
    for _ in range(100):
        lately.step(0.1, 2, 0.1)
    benefit = lately.benefit(correction(), "with", 0.0, None)
    assert benefit is not None
    assert benefit.says == "2.00 x: 20.0 tokens/s with backs, 10.0 without them"
    assert lately.benefit(Correction(), "with", 0.0, None) is None
    for _ in range(6000):
        lately.step(0.1, 1, 0.1)
    benefit = lately.benefit(correction(), "resting", 9.0, 180)
    assert benefit is not None and benefit.times == pytest.approx(1.0, abs=0.05)
    assert benefit.says.startswith("resting: 9.0 tokens/s without backs, ")
    assert benefit.says.endswith(" with them; next trial in 180 tokens")


def test_what_is_news() -> None:
    verdict = Verdict()

    def news(state: str) -> str | None:
        return verdict.news(Benefit(0.9, 0.1, 9.0, 10.0, state, 48))  # type: ignore[arg-type]

    assert [news(state) for state in ("with", "measuring", "with")] == [None] * 3
    assert news("resting") == "resting: 10.0 tokens/s without backs, 9.0 with them; next trial in 48 tokens"
    assert news("resting") is news("trial") is None
    assert news("resting") is not None, "the trial has failed, and the next one is later"
    assert [news("trial"), news("with")] == [None, "at work again: 0.90 x: 9.0 tokens/s with backs, 10.0 without them"]
    assert [news("measuring"), news("with"), verdict.news(None)] == [None] * 3


def test_the_mean_of_several_answers() -> None:
    assert_is(mean([Speedup(2.0, 0.1), Speedup(3.0, 0.3)]), 2.5, 0.2)
    assert mean([Speedup(2.0, 0.1), None]) is None
    assert mean([]) is None
