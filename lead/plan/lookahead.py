"""Whether it pays to go later: what a step is worth with the guesses that are there, and with more that may come.

To wait, or to let a draft model beside the target work, is the same comparison as that between more guesses and fewer.
The time is added to the cost. It looks ahead to as many of the messages to come as pays.

A guess that is not waited for is not lost: it comes while the target is at work and is verified one step later. Where
drafting is slow that is worth nearly as much, where it is fast nearly nothing, so the gain is counted less by the share
that a guess's drafting takes of the time that it saves, less what verifying it costs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lead.plan.arrivals import Coming

MAX_WORSE = 3
"""Messages in a row that make it worse to wait, after which no further ones are looked at."""


class Terms(NamedTuple):
    """By what a gain is judged: it must be `patience` times what it costs in time. It is counted less by a power of the
    share that drafting takes, and not at all where that is `most`."""

    patience: float
    max_share: float
    power: int


WAITING = Terms(1.15, 1.0, 1)
"""The forecast knows less than it says."""
DRAFTING = Terms(1.0, 0.7, 3)
"""What a draft model beside the target takes is known, and when it is done. By the simulator: what backs find meanwhile
is worth less than it is to those who wait for it, where drafting is fast, and more where it is slow."""


Toll = Callable[[float, float, int], float]
"""What a guess costs by the chance that it is wrong: of the path probability above it, its own, and its number in its
chain, from 1 (`duo.engines.replay`)."""


@dataclass(frozen=True, slots=True)
class Lookahead:
    """Before a step. `paths`: path probabilities of the guesses that are there, falling. `prices`: what forward passes
    with 0, 1, 2 ... guesses cost, in tokens at the long-run `rate` per second; as many as may be verified. Fewer than
    `min_guesses` guesses are not verified.

    worths: what each guess adds in tokens: its path probability, less its toll where there is one. toll: for guesses to
    come, in seconds. answers: how many share the forward pass.
    """

    paths: Sequence[float]
    prices: Sequence[float]
    rate: float
    min_guesses: int
    worths: Sequence[float]
    toll: Toll | None = None
    answers: int = 1

    def choose(self, worths: Sequence[float]) -> tuple[int, float]:
        """Of guesses that add so much each, likeliest first: how many to verify, and what that is worth in tokens."""
        chosen, best, expected = 0, 1.0 - self.prices[0], 1.0
        for count, (worth, price) in enumerate(zip(worths, self.prices[1:], strict=False), 1):
            expected += worth
            if expected - price > best and count >= self.min_guesses:
                chosen, best = count, expected - price
        return chosen, best

    def gain(
        self, value: float, coming: Iterable[Coming], every: float, terms: Terms, limit: float = float("inf")
    ) -> float:
        """The most that it brings, in tokens, to go only when some of these messages are there, one at least; to go now
        is worth `value`.

        `every`: seconds from one expansion to the next, if they come while the target is at work. `limit`: more than
        that need not be known. Minus infinity where nothing comes.
        """
        paths, worths = [-path for path in self.paths], list(self.worths)
        most = before = float("-inf")
        worse, kept = 0, -1.0
        for message in coming:
            for path, above in zip(message.paths, message.above, strict=True):
                at = bisect_right(paths, -path)
                # Where several answers share a pass, how long the chain is by then is known only on average.
                toll = self.rate * self.toll(above, path, 1 + len(paths) // self.answers) if self.toll else 0.0
                paths.insert(at, -path)
                worths.insert(at, path - toll)
            _, then = self.choose(worths)
            if kept < 0.0:
                share = self.rate * every * message.expansions / max(1e-9, then - value)
                kept = 1.0 - min(1.0, share / terms.max_share) ** terms.power
            gain = (then - value) * message.sure * kept - terms.patience * self.rate * message.seconds
            most = max(most, gain)
            worse = worse + 1 if gain < before else 0
            if most > limit or worse == MAX_WORSE:
                break
            before = gain
        return most
