"""A simulated world for the production planner and drafting policy: models, machines and links as numbers.

How often a draft is right is an `Acceptance`: at every prefix the draft ranks a few tokens, and the target picks one
of them, or none. Both are pure functions of the prefix, so that every schedule, and any number of backs, meet the same
text. Costs are seconds for a forward pass by its rows. The closed loops at the end are the schedules to beat.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from duo.cost import CostCurve
from duo.planner import Limits, Planner
from duo.prefix import EMPTY, extend_hash, mix
from duo.tree import Expansion, GuessTree

NOT_GUESSED = 9
"""The token that the target picks where no guess is right."""

DRAFT_MAX = 24
"""Guesses that a step may verify, and tokens that a back may be ahead, in all simulations."""

WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16, 17, 24, 32)
"""Where the simulated lead has measured its target."""


class Acceptance(Protocol):
    """What the draft guesses after a prefix, and what the target picks there."""

    def ranked(self, prefix_hash: int) -> list[tuple[int, float]]:
        """Tokens with the probability that each is right, falling."""
        ...

    def truth(self, prefix_hash: int) -> int:
        """The target's pick."""
        ...


class Varying:
    """Confidence that varies by position, as on real pairs: the first guess is right with probability p, drawn from
    Beta(mean, total 2.2), the second with 0.3 (1 - p), the third with 0.15 (1 - p), the fourth with 0.07 (1 - p)."""

    OTHERS = (0.3, 0.15, 0.07)

    def __init__(self, mean: float, seed: int, total: float = 2.2) -> None:
        rng = np.random.default_rng(seed)
        table = rng.beta(mean * total, (1 - mean) * total, 4096)
        self._ranked = [self._guesses(float(p)) for p in table]
        self._seed = seed
        self._dice = mix(seed + 1)

    def _guesses(self, p: float) -> list[tuple[int, float]]:
        guesses = [(1, p), *((i, share * (1 - p)) for i, share in enumerate(self.OTHERS, 2))]
        return sorted(guesses, key=lambda guess: -guess[1])

    def ranked(self, prefix_hash: int) -> list[tuple[int, float]]:
        return self._ranked[mix(prefix_hash + self._seed) % len(self._ranked)]

    def truth(self, prefix_hash: int) -> int:
        left = mix(prefix_hash ^ self._dice) / 2.0**64
        for token, chance in self.ranked(prefix_hash):
            if left < chance:
                return token
            left -= chance
        return NOT_GUESSED


class Constant(Varying):
    """The same confidence at every position: independent, identically distributed acceptance."""

    def __init__(self, mean: float, seed: int) -> None:
        super().__init__(mean, seed)
        self._ranked = [self._guesses(mean)]


@dataclass(frozen=True)
class Link:
    """Seconds from one side to the other: half the round trip, and up to `jitter` more."""

    round_trip: float
    jitter: float = 0.0

    def delay(self, rng: random.Random) -> float:
        return self.round_trip / 2 + rng.uniform(0, self.jitter)


Cost = Callable[[int], float]
"""Seconds for a forward pass over so many rows."""


def curve(*points: tuple[int, float]) -> Cost:
    """A true cost: a table of (rows, seconds), linear in between and after."""
    rows, seconds = zip(*points, strict=True)
    slope = (seconds[-1] - seconds[-2]) / (rows[-1] - rows[-2])
    table = [float(np.interp(k, rows, seconds)) + max(0, k - rows[-1]) * slope for k in range(513)]
    return table.__getitem__


TARGETS: dict[str, Cost] = {
    "flat": curve((1, 0.100), (16, 0.100), (17, 0.200), (32, 0.200)),
    "bf16": curve((1, 0.0648), (2, 0.0717), (4, 0.0907), (8, 0.132), (16, 0.181)),
    "Q8_0": curve((1, 0.0368), (2, 0.102), (4, 0.130), (8, 0.179), (16, 0.291), (32, 0.528)),
}
"""One that costs the same up to 16 tokens, and two that were measured (1B parameters, llama.cpp, one CPU thread)."""


def drafting(seconds: float) -> Cost:
    """A draft model: a step takes so long, each further node in the batch a tenth of it more."""
    return lambda rows: seconds * (1 + 0.1 * (rows - 1))


def planner(target: Cost) -> Planner:
    """A production planner that has measured the target."""
    it = Planner(CostCurve({width: target(width) for width in WIDTHS}), Limits(draft_max=DRAFT_MAX))
    it.begun(0.0)
    return it


def no_back(target: Cost) -> float:
    """Tokens per second of the target alone."""
    return 1 / target(1)


def synchronous(
    target: Cost,
    draft: Cost,
    round_trip: float,
    world: Acceptance,
    tokens: int,
    lengths: Sequence[int] = (1, 2, 3, 4, 6, 8, 12, 16),
    floors: Sequence[float] = (0, 0.1, 0.2, 0.3, 0.5, 0.7),
) -> float:
    """Tokens per second of the best synchronous schedule: draft a chain, verify it, in turns.

    The draft stops at a length, or where its path is less likely than a floor; the best of all settings counts.
    """
    best = 0.0
    for length, floor in itertools.product(lengths, floors):
        state, done, time = EMPTY, 0, 0.0
        while done < tokens:
            chain: list[int] = []
            path, at = 1.0, state
            while len(chain) < length and path >= floor:
                token, chance = world.ranked(at)[0]
                chain.append(token)
                path *= chance
                at = extend_hash(at, token)
            time += round_trip + len(chain) * draft(1) + target(1 + len(chain))
            for guess in (*chain, None):
                true = world.truth(state)
                state = extend_hash(state, true)
                done += 1
                if true != guess:
                    break
        best = max(best, done / time)
    return best


def free(target: Cost, world: Acceptance, tokens: int) -> float:
    """Tokens per second of single chains that cost nothing and are there at once: the bound of all chains."""
    plan, now, state, done = planner(target), 0.0, EMPTY, 0
    while done < tokens:
        tree, at = GuessTree(done, state), state
        for length in range(done, done + DRAFT_MAX):
            token, chance = world.ranked(at)[0]
            tree.merge(Expansion(length, at, [token], [chance]), "free")
            at = extend_hash(at, token)
        nodes = plan.plan(tree, now).nodes
        begun = done
        for guess in (*(node.token for node in nodes), None):
            true = world.truth(state)
            state = extend_hash(state, true)
            done += 1
            if true != guess:
                break
        seconds = target(1 + len(nodes))
        now += seconds
        plan.finished(now, 1 + len(nodes), seconds, done - begun)
    return done / now
