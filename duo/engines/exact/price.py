"""What the same bits cost, by the measured cost curve: filled-up passes, and chains of guesses instead of trees.

Drafts are taken to be as sure as those of a real pair (docs/performance.md): the first guess of a place is right with a
probability drawn from a Beta distribution, the second and third share what is left. Chains and trees of such guesses
are then sized as the planner does it, and their tokens per second compared.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from heapq import heappop, heappush
from itertools import accumulate
from operator import mul
from typing import NamedTuple

from duo.engines.cost import CostCurve
from duo.engines.exact.widths import Widths

MEANS, TOTAL = (0.7, 0.9), 2.2
"""Of the Beta distribution of the first guess's probability: an ordinary draft, and a good one."""
SECOND, THIRD = 0.3, 0.15
"""Shares of the other two guesses in what the first one leaves."""
TREES, ROUNDS = 200, 6
"""Random trees that are looked at, and rounds in which the rate is found that their sizes depend on."""
AFFORDABLE = 0.97
"""Of the tokens per second that are had without it, so many must be had with the same bits."""

CHAINS = 0.955
"""Tokens per second with a back in chains, as a share of those in trees, on the two pairs of models tried: 4 to 5 %
less. The estimate above leaves out what a tree's side branches save a back, so it counts as no better than this."""
PAYS = 1.03
"""So many times as fast as the target alone guesses must make it to count."""

READ = 512
"""Tokens of a prompt in one pass where nobody needs the same bits."""

Cost = Callable[[int], float]


SEVERAL = 8
"""Rows from which on the factor for several rows holds."""


class Speed(NamedTuple):
    """Tokens per second of one answer, without guesses and with; and of as many answers as there may be at once,
    without."""

    plain: float
    guessing: float
    crowd: float


def speed(cost: Cost, guesses: int, trees: bool, mean: float, crowd: float) -> Speed:
    """How fast answers are with passes of such a cost, where at most so many guesses are verified at once.

    mean: how sure the draft is of its first guesses, on average. crowd: tokens per second of many answers.
    """
    plain = 1.0 / cost(1)
    prices = [cost(1 + count) for count in range(guesses + 1)]
    rate = plain
    for _ in range(ROUNDS):
        tokens = seconds = 0.0
        for chances in _drafts(guesses, trees, mean):
            best, expected, value = (1.0, prices[0]), 1.0, 1.0 - rate * prices[0]
            for chance, price in zip(chances, prices[1:], strict=False):
                expected += chance
                if expected - rate * price > value:
                    best, value = (expected, price), expected - rate * price
            tokens, seconds = tokens + best[0], seconds + best[1]
        rate = tokens / seconds
    return Speed(plain, rate, crowd)


def within(cost: Cost, widths: Widths) -> Cost:
    """The cost of so many rows, where passes keep to a class."""

    def filled(rows: int) -> float:
        whole, rest = divmod(rows, widths.most)
        return whole * cost(widths.filled(widths.most)) + (cost(widths.filled(rest)) if rest else 0.0)

    return filled


def crowd(cost: Cost, widths: Widths, answers: int) -> float:
    """Seconds for one token of each of so many answers, all of them in passes of a class."""
    each = widths.filled(1)
    whole, rest = divmod(answers, max(1, widths.most // each))
    return whole * cost(each * max(1, widths.most // each)) + (cost(each * rest) if rest else 0.0)


def without(cost: Cost, slower: tuple[float, float]) -> Cost:
    """The cost where nobody needs the same bits. `slower`: the factor for one row, and for several, where they do."""
    one, several = slower
    return lambda rows: cost(rows) / (one + (several - one) * min(1.0, (rows - 1) / (SEVERAL - 1)))


def pays(measured: Mapping[int, float], guesses: int, trees: bool) -> bool:
    """Whether those of a good draft make answers faster."""
    found = speed(CostCurve(measured), guesses, trees, MEANS[-1], 0.0)
    return found.guessing > PAYS * found.plain


def cautious(shares: Speed, pays: bool, trees: bool) -> Speed:
    """The shares, with chains counted as no better than they were found to be.

    pays: whether guesses make answers faster here at all. trees: whether trees would be verified without.
    """
    return shares._replace(guessing=min(shares.guessing, CHAINS)) if pays and trees else shares


def affordable(shares: Speed, reading: float) -> bool:
    """Whether the same bits cost so little, for answers and for prompts, that nobody need ask for them."""
    return min(*shares, reading) >= AFFORDABLE


def compare(
    measured: Mapping[int, float],
    widths: Widths,
    guesses: int,
    trees: bool = True,
    answers: int = 1,
    slower: tuple[float, float] = (1.0, 1.0),
) -> Speed:
    """The tokens per second with the same bits, as shares of those without: with the draft where that is least.

    trees: what is verified without. answers: how many there may be at once. slower: see `without`.
    """
    cost, shares = CostCurve(measured), list[Speed]()
    free = without(cost, slower)
    crowds = answers / free(answers), answers / crowd(cost, widths, answers)
    for mean in MEANS:
        off = speed(free, guesses, trees, mean, crowds[0])
        on = speed(within(cost, widths), min(guesses, widths.most - 1), False, mean, crowds[1])
        shares.append(Speed(*(mine / other for mine, other in zip(on, off, strict=True))))
    return min(shares, key=lambda share: share.guessing)


def reading(measured: Mapping[int, float], widths: Widths) -> float:
    """The speed of reading prompts with the same bits, as a share of that without.

    The curve ends before a pass of `READ` tokens, and is taken to go on as it ends. Where prompts are a class of their
    own, an answer is read once more as a part of the next prompt. That counts against its decoding.
    """
    cost, chunk = CostCurve(measured), widths.chunk
    each = cost(chunk) / chunk
    again = 1.0 if widths.alike else cost(1) / (cost(1) + each)
    return min(cost(READ) / READ / each, again)


def worth(measured: Mapping[int, float], widths: Widths) -> float:
    """A figure to choose between classes: the greater, the cheaper."""
    shares = compare(measured, widths, max(measured) - 1)
    return shares.plain * shares.guessing


@cache
def _drafts(guesses: int, trees: bool, mean: float) -> Sequence[Sequence[float]]:
    """Path probabilities of the guesses of random trees, falling: of the whole tree, or of its likeliest line."""
    draw = random.Random(0)
    found = []
    for _ in range(TREES):
        line = [_sure(draw, mean) for _ in range(guesses + 1)]
        whole = list(_tree(line, draw, guesses, mean))  # in any case: the next tree is to be the same
        found.append(whole if trees else list(accumulate(line[:guesses], mul)))
    return found


def _tree(line: Sequence[float], draw: random.Random, count: int, mean: float) -> Iterator[float]:
    """`line`: how sure the first guesses are along the likeliest path."""
    heap = [(-1.0, 0)]  # path probabilities, and depths on the line or -1
    yielded = -1
    while yielded < count:
        negative, depth = heappop(heap)
        yielded += 1
        if yielded:
            yield -negative
        first = line[depth] if depth >= 0 else _sure(draw, mean)
        heappush(heap, (negative * first, depth + 1 if depth >= 0 else -1))
        for share in (SECOND, THIRD):
            heappush(heap, (negative * share * (1 - first), -1))


def _sure(draw: random.Random, mean: float) -> float:
    return draw.betavariate(mean * TOTAL, (1 - mean) * TOTAL)
