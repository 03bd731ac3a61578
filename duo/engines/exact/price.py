"""What the same bits cost, by the measured cost curve: passes with padding rows, and chains of guesses for trees.

Drafts are taken to be as sure as those of a real pair (docs/performance.md). The first guess of a place is right with
a probability drawn from a Beta distribution; the second and third share what is left. Random chains and trees of such
guesses are sized as the planner sizes them, and their tokens per second are compared.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from heapq import heappop, heappush
from itertools import accumulate
from operator import mul
from typing import NamedTuple

import numpy as np

from duo.engines.cost import CostCurve
from duo.engines.exact.widths import WidthClass

DRAFT_MEANS, BETA_TOTAL = (0.7, 0.9), 2.2
"""Beta distribution of the first guess's probability: its mean for an ordinary and for a good draft, and alpha + beta.
"""
SECOND_SHARE, THIRD_SHARE = 0.3, 0.15
"""What the second and the third guess take of the probability that the first one leaves."""
RANDOM_TREES, RATE_ROUNDS = 200, 6
"""Random trees to average over, and rounds to find the rate that their sizes depend on."""
MIN_SPEED_SHARE = 0.97
"""`auto` turns the same bits on if at least this share of the tokens per second remains."""

CHAIN_SPEED = 0.955
"""Tokens per second with a back in chains, as a share of those in trees.

Two pairs of models lost 4 to 5 %. The estimate here leaves out what a tree's side branches save a back, so it never
counts as better than this.
"""
MIN_GUESS_GAIN = 1.03
"""Guesses count as useful if they make answers this many times as fast as the target alone."""

PROMPT_PASS = 512
"""Tokens of a prompt per pass where nobody needs the same bits."""
SEVERAL = 8
"""From this many rows on, the slowdown for several rows holds."""

NARROW = 1.25
"""In passes of the class, a token of a prompt may take this many times as long as in wide passes. Beyond that, prompts
are a class of their own, although an answer is then read again as a part of the next prompt."""
Cost = Callable[[int], float]
"""Seconds of a forward pass by its rows."""


class Speed(NamedTuple):
    """Tokens per second. plain, guessing: of one answer, without guesses and with. crowd: of as many answers as there
    may be at once, without guesses."""

    plain: float
    guessing: float
    crowd: float


def speed(cost: Cost, guesses: int, trees: bool, mean: float, crowd: float) -> Speed:
    """How fast answers are if a pass costs `cost` and verifies at most `guesses` guesses.

    mean: how sure the draft is of its first guesses, on average. crowd: tokens per second of many answers.
    """
    plain = 1.0 / cost(1)
    prices = np.array([cost(1 + count) for count in range(guesses + 1)])
    drafts = _drafts(guesses, mean)
    tokens = drafts.trees if trees else drafts.chains
    rate = plain
    for _ in range(RATE_ROUNDS):
        best = np.argmax(tokens - rate * prices, axis=1)
        rate = float(tokens[np.arange(len(tokens)), best].sum() / prices[best].sum())
    return Speed(plain, rate, crowd)


def cost_in_class(cost: Cost, widths: WidthClass) -> Cost:
    """The cost of a number of rows if all passes keep to the class."""

    def padded(rows: int) -> float:
        whole, rest = divmod(rows, widths.widest)
        return whole * cost(widths.round_up(widths.widest)) + (cost(widths.round_up(rest)) if rest else 0.0)

    return padded


def seconds_for_all(cost: Cost, widths: WidthClass, answers: int) -> float:
    """Seconds for one token of each of `answers` answers, in passes of the class."""
    each = widths.round_up(1)
    whole, rest = divmod(answers, max(1, widths.widest // each))
    return whole * cost(each * max(1, widths.widest // each)) + (cost(each * rest) if rest else 0.0)


def cost_without(cost: Cost, slower: tuple[float, float]) -> Cost:
    """The cost where nobody needs the same bits. slower: as in `SearchResult`."""
    one, several = slower
    return lambda rows: cost(rows) / (one + (several - one) * min(1.0, (rows - 1) / (SEVERAL - 1)))


def guesses_pay(measured: Mapping[int, float], guesses: int, trees: bool) -> bool:
    """Whether the guesses of a good draft make answers faster. measured: seconds of a pass by its rows."""
    found = speed(CostCurve(measured), guesses, trees, DRAFT_MEANS[-1], 0.0)
    return found.guessing > MIN_GUESS_GAIN * found.plain


def cautious(shares: Speed, pays: bool, trees: bool) -> Speed:
    """The shares, with chains counted as no better than `CHAIN_SPEED`.

    pays: guesses make answers faster on this machine. trees: without the same bits, guesses are verified as trees.
    """
    return shares._replace(guessing=min(shares.guessing, CHAIN_SPEED)) if pays and trees else shares


def affordable(shares: Speed, reading: float) -> bool:
    """Whether the same bits cost so little, for answers and for prompts, that `auto` turns them on."""
    return min(*shares, reading) >= MIN_SPEED_SHARE


def compare(
    measured: Mapping[int, float],
    widths: WidthClass,
    guesses: int,
    trees: bool = True,
    answers: int = 1,
    slower: tuple[float, float] = (1.0, 1.0),
) -> Speed:
    """The tokens per second with the same bits, as shares of those without; for the draft that loses most.

    trees: without the same bits, guesses are verified as trees. answers: how many there may be at once. slower: see
    `cost_without`.
    """
    cost, shares = CostCurve(measured), list[Speed]()
    free = cost_without(cost, slower)
    crowds = answers / free(answers), answers / seconds_for_all(cost, widths, answers)
    for mean in DRAFT_MEANS:
        off = speed(free, guesses, trees, mean, crowds[0])
        on = speed(cost_in_class(cost, widths), min(guesses, widths.widest - 1), False, mean, crowds[1])
        shares.append(Speed(*(mine / other for mine, other in zip(on, off, strict=True))))
    return min(shares, key=lambda share: share.guessing)


def prompt_speed(measured: Mapping[int, float], widths: WidthClass) -> float:
    """The speed of reading prompts with the same bits, as a share of that without.

    The curve ends before a pass of `PROMPT_PASS` tokens; its last slope is continued. Where prompts are a class of
    their own, each answer is read once more as a part of the next prompt. That counts against its decoding.
    """
    cost, chunk = CostCurve(measured), widths.chunk
    each = cost(chunk) / chunk
    again = 1.0 if widths.covers_prompts else cost(1) / (cost(1) + each)
    return min(cost(PROMPT_PASS) / PROMPT_PASS / each, again)


def is_narrow(measured: Mapping[int, float], widths: WidthClass) -> bool:
    """Whether prompts are read much faster in wide passes than in passes of the class."""
    cost, chunk, widest = CostCurve(measured), widths.round_up(widths.widest - widths.step + 1), max(measured)
    return cost(chunk) / chunk > NARROW * cost(widest) / widest


def score(measured: Mapping[int, float], widths: WidthClass) -> float:
    """A number to choose between classes: the higher, the cheaper."""
    shares = compare(measured, widths, max(measured) - 1)
    return shares.plain * shares.guessing


class _Drafts(NamedTuple):
    """Random trees and their likeliest lines. A row has the tokens to expect with no guess, with one, two and so on."""

    trees: np.ndarray[tuple[int, int], np.dtype[np.float64]]
    chains: np.ndarray[tuple[int, int], np.dtype[np.float64]]


@cache
def _drafts(guesses: int, mean: float) -> _Drafts:
    draw = random.Random(0)
    trees, chains = np.ones((2, RANDOM_TREES, guesses + 1))
    for tree, chain in zip(trees, chains, strict=True):
        line = [_first_probability(draw, mean) for _ in range(guesses + 1)]
        tree[1:] = list(_tree(line, draw, guesses, mean))
        chain[1:] = list(accumulate(line[:guesses], mul))
    return _Drafts(np.cumsum(trees, axis=1), np.cumsum(chains, axis=1))


def _tree(line: Sequence[float], draw: random.Random, count: int, mean: float) -> Iterator[float]:
    """Path probabilities of a random tree, falling. line: how sure the first guesses are along the likeliest path."""
    heap = [(-1.0, 0)]  # path probabilities, and depths on the line or -1
    yielded = -1
    while yielded < count:
        negative, depth = heappop(heap)
        yielded += 1
        if yielded:
            yield -negative
        first = line[depth] if depth >= 0 else _first_probability(draw, mean)
        heappush(heap, (negative * first, depth + 1 if depth >= 0 else -1))
        for share in (SECOND_SHARE, THIRD_SHARE):
            heappush(heap, (negative * share * (1 - first), -1))


def _first_probability(draw: random.Random, mean: float) -> float:
    return draw.betavariate(mean * BETA_TOTAL, (1 - mean) * BETA_TOTAL)
