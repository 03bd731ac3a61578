"""Whether it pays to step later: what a step is worth with the guesses that are here, and with more that may come.

To wait, or to let a draft model beside the target work, compares like more guesses and fewer: the time is added to the
cost. The comparison looks at as many of the coming messages as pay.

A guess that the step does not wait for is not lost. It comes while the target works, and is verified one step later. So
the gain of waiting is reduced. It is reduced more where drafting is slow: by the share that drafting a guess takes of
the time that the guess saves.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lead.plan.arrivals import Coming

MAX_WORSE = 3
"""The comparison ends after so many messages in a row that make it worse to wait."""


class Terms(NamedTuple):
    """How a gain is judged. It must be `patience` times its cost in time. It is reduced by a power of the share that
    drafting takes, and is nothing at `max_share`."""

    patience: float
    max_share: float
    power: int


WAITING = Terms(1.15, 1.0, 1)
"""Forecasts are less certain than they claim."""
DRAFTING = Terms(1.0, 0.7, 3)
"""What a draft model beside the target takes, and when it ends, is known. `max_share` and `power` are the simulator's
best."""


Toll = Callable[[float, float, int], float]
"""Seconds that a guess costs because it may be wrong (`duo.engines.replay`). Takes the path probability above the
guess, its own, and its number in its chain, from 1."""


@dataclass(frozen=True, slots=True)
class Lookahead:
    """The choice before a step. Tokens stand for time too, at the long-run `rate` of tokens per second.

    `paths`: path probabilities of the guesses that are here, falling. `prices`: what forward passes with 0, 1, 2 ...
    guesses cost, up to the most that may be verified. `min_guesses`: fewer are not verified. `worths`: tokens that each
    guess adds, which is its path probability less its toll. `toll`: for guesses to come. `answers`: how many share the
    forward pass.
    """

    paths: Sequence[float]
    prices: Sequence[float]
    rate: float
    min_guesses: int
    worths: Sequence[float]
    toll: Toll | None = None
    answers: int = 1

    def choose(self, worths: Sequence[float]) -> tuple[int, float]:
        """How many guesses to verify, and what that is worth. `worths`: what each adds, the likeliest first."""
        chosen, best, expected = 0, 1.0 - self.prices[0], 1.0
        for count, (worth, price) in enumerate(zip(worths, self.prices[1:], strict=False), 1):
            expected += worth
            if expected - price > best and count >= self.min_guesses:
                chosen, best = count, expected - price
        return chosen, best

    def gain(
        self, value: float, coming: Iterable[Coming], every: float, terms: Terms, limit: float = float("inf")
    ) -> float:
        """The most that it brings to step later, when one or more of these messages are here; to step now is worth
        `value`.

        `every`: seconds between two expansions that come while the target works. `limit`: stop looking above this gain.
        Minus infinity if nothing comes.
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
