"""A simulated world for the production planner and drafting policy: models, machines and links as numbers.

An `Acceptance` says how often a draft is right. At every prefix the draft ranks a few tokens, and the target picks one
of them, or none. Both are pure functions of the prefix, so every schedule and any number of backs meet the same text
(`lead.simulation.replay` has a recorded one). Costs are seconds of a forward pass by its rows.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from duo.engines.cost import CostCurve
from duo.prefix import mix
from lead.plan.limits import Limits
from lead.plan.planner import Planner

NOT_GUESSED = 9
"""The target's pick if no guess is right."""

DRAFT_MAX = 24
"""Guesses that a step may verify, and tokens that a back may be ahead, in all simulations."""

WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16, 17, 24, 32)
"""Widths at which the simulated lead has measured its target."""


class Acceptance(Protocol):
    """What the draft guesses after a prefix, and what the target picks there. `length`: tokens in the prefix."""

    def ranked(self, prefix_hash: int, length: int) -> list[tuple[int, float]]:
        """Tokens with the probability that each is right, falling."""
        ...

    def truth(self, prefix_hash: int, length: int) -> int:
        """The target's pick."""
        ...


Guesses = list[tuple[int, float]]


class Varying:
    """Confidence that varies by position, as on real pairs.

    The first guess is right with probability p, drawn from Beta(mean, total 2.2). The second is right with 0.3 (1 - p),
    the third with 0.15 (1 - p), and the fourth with 0.07 (1 - p).
    """

    OTHERS = (0.3, 0.15, 0.07)
    PLACES = 4096

    def __init__(self, mean: float, seed: int, total: float = 2.2) -> None:
        self._rng = np.random.default_rng(seed)
        self._ranked = self._places(mean, total)
        self._seed = seed
        self._dice = mix(seed + 1)

    def _places(self, mean: float, total: float) -> list[Guesses]:
        table = self._rng.beta(mean * total, (1 - mean) * total, self.PLACES)
        return [self._guesses(float(p)) for p in table]

    def _guesses(self, p: float) -> Guesses:
        guesses = [(1, p), *((i, share * (1 - p)) for i, share in enumerate(self.OTHERS, 2))]
        return sorted(guesses, key=lambda guess: -guess[1])

    def ranked(self, prefix_hash: int, length: int = 0) -> Guesses:
        return self._ranked[mix(prefix_hash + self._seed) % len(self._ranked)]

    def truth(self, prefix_hash: int, length: int = 0) -> int:
        left = mix(prefix_hash ^ self._dice) / 2.0**64
        for token, chance in self.ranked(prefix_hash, length):
            if left < chance:
                return token
            left -= chance
        return NOT_GUESSED


class Constant(Varying):
    """The same confidence at every position: independent, identically distributed acceptance."""

    def __init__(self, mean: float, seed: int) -> None:
        super().__init__(mean, seed)
        self._ranked = [self._guesses(mean)]


class Bursty(Varying):
    """Easy stretches and hard ones, in turns: a two-state Markov process along the text.

    A stretch, easy or hard, has `stretch` tokens on average. The two means are equally far from `mean`: `spread` of the
    way to where one of them would be 0 or 1. The state depends on the position alone. So wrong branches are as hard as
    the true one beside them, and the text is the same for every schedule.
    """

    LENGTH = 1 << 16
    """Positions after which the stretches repeat."""

    def __init__(self, mean: float, seed: int, stretch: float = 12.0, spread: float = 0.75, total: float = 2.2) -> None:
        super().__init__(mean, seed, total)
        far = spread * min(mean, 1 - mean)
        self._states = [self._places(mean + far, total), self._places(mean - far, total)]
        changes = self._rng.random(self.LENGTH) < 1 / stretch
        changes[0] = self._rng.random() < 0.5
        self.hard: list[int] = (np.cumsum(changes) % 2).tolist()
        """By position: 1 in a hard stretch, 0 in an easy one."""

    def ranked(self, prefix_hash: int, length: int = 0) -> Guesses:
        places: list[Guesses] = self._states[self.hard[length % self.LENGTH]]
        return places[mix(prefix_hash + self._seed) % len(places)]


@dataclass(frozen=True)
class Asked:
    """An answer to be given: its prompt, and how many tokens follow it."""

    prompt: Sequence[int]
    tokens: int


def asked(tokens: int, each: int = 0, prompt: int = 1) -> list[Asked]:
    """This many tokens in answers of `each` (0: in one). Every answer has its own prompt of `prompt` tokens."""
    each = each or tokens
    return [Asked([i] * prompt, min(each, tokens - start)) for i, start in enumerate(range(0, tokens, each), 0)]


@dataclass(frozen=True)
class Link:
    """Seconds from one side to the other: half the round trip, and up to `jitter` more. Messages stay in order."""

    round_trip: float
    jitter: float = 0.0

    def delay(self, rng: random.Random) -> float:
        return self.round_trip / 2 + rng.uniform(0, self.jitter)


@dataclass(frozen=True)
class Absences:
    """When a back is away, endlessly: there for `up` seconds on average, then away for `down` (both exponential)."""

    up: float
    down: float
    seed: int = 1

    def __iter__(self) -> Iterator[tuple[float, float]]:
        rng, now = random.Random(self.seed), 0.0
        while True:
            left = now + rng.expovariate(1 / self.up)
            now = left + rng.expovariate(1 / self.down)
            yield left, now


Cost = Callable[[int], float]
"""Seconds of a forward pass by rows."""


def curve(*points: tuple[int, float]) -> Cost:
    """A true cost: a table of (rows, seconds), linear in between and after. One point alone is the same for all rows.

    A width costs no more than a wider one: else its measurement was disturbed.
    """
    rows, taken = zip(*points, strict=True)
    seconds = np.minimum.accumulate(taken[::-1])[::-1]
    last = float(seconds[-1])
    slope = float(seconds[-1] - seconds[-2]) / (rows[-1] - rows[-2]) if len(rows) > 1 else 0.0
    table = [float(np.interp(k, rows, seconds)) for k in range(rows[-1] + 1)]
    return lambda k: table[k] if k < len(table) else last + (k - rows[-1]) * slope


TARGETS: dict[str, Cost] = {
    "flat": curve((1, 0.100), (16, 0.100), (17, 0.200), (32, 0.200)),
    "bf16": curve((1, 0.0648), (2, 0.0717), (4, 0.0907), (8, 0.132), (16, 0.181)),
    "Q8_0": curve((1, 0.0368), (2, 0.102), (4, 0.130), (8, 0.179), (16, 0.291), (32, 0.528)),
}
"""One that costs the same up to 16 tokens, and two that were measured (1B parameters, llama.cpp, one CPU thread)."""


def drafting(seconds: float) -> Cost:
    """A draft model with steps of this length. Each further node in the batch adds a tenth."""
    return lambda rows: seconds * (1 + 0.1 * (rows - 1))


def steep_drafting(seconds: float) -> Cost:
    """A draft model whose wide batches are dear: four rows cost twice as much as one. It was measured (130 layers,
    llama.cpp, one thread of an AMD EPYC)."""
    times = ((1, 1.0), (2, 1.35), (3, 1.8), (4, 2.2), (6, 2.9), (8, 3.6), (16, 6.0))
    return curve(*((rows, seconds * factor) for rows, factor in times))


DRAFTS: dict[str, Callable[[float], Cost]] = {"gentle": drafting, "steep": steep_drafting}
"""Cost curves of draft models by their names. Each takes the seconds of one row."""


def planner(target: Cost) -> Planner:
    """A production planner that has measured the target."""
    it = Planner(CostCurve({width: target(width) for width in WIDTHS}), Limits(draft_max=DRAFT_MAX))
    it.skipped(0.0)
    return it
