"""How many of several answers share the next forward pass, and what such passes cost and yield.

Where two rows cost more than twice one (llama.cpp's Q8_0 on a CPU), two answers are better served in turns. The choice
is the planner's usual one: expected tokens less time at the long-run rate.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable

from duo.engines.cost import CostCurve

MEMORY_STEPS = 40
"""Steps over which the rate is averaged."""
MIN_GAIN = 0.05
"""Tokens by which a pass for some of the answers must beat one for all."""
TRIAL_PASSES, TRIAL_RATIO = 128, 2.0
"""Once in so many passes, try the other way, to keep its cost known. Not if it differs by more than this ratio."""


class _Rate:
    """Tokens and seconds, both fading over `MEMORY_STEPS` steps."""

    __slots__ = ("seconds", "tokens")

    def __init__(self) -> None:
        self.tokens = self.seconds = 0.0

    def step(self, seconds: float, tokens: float) -> None:
        fade = 1 - 1 / MEMORY_STEPS
        self.tokens = self.tokens * fade + tokens
        self.seconds = self.seconds * fade + seconds


class Sharing:
    """Costs and rates by the number of answers that share a step."""

    def __init__(self, cost: CostCurve) -> None:
        self._one = cost
        self._several = copy.deepcopy(cost)
        """Each of several answers attends over keys and values of its own, so their passes are dearer."""
        self._rates: defaultdict[tuple[int, bool], _Rate] = defaultdict(_Rate)
        self._last = 1
        """Answers that shared the last step."""
        self._passes = 0
        """Passes for several answers since the last trial."""

    def curve(self, answers: int) -> CostCurve:
        """The cost curve where this many answers share the passes."""
        return self._one if answers == 1 else self._several

    def rate(self, answers: int, copying: bool = False) -> float:
        """Tokens per second lately, with this many answers; those of the target alone while nothing is known.

        `copying`: of steps that memory had long runs for. Where a text repeats itself for a while, time is worth more
        tokens. It would be too dear for all other guesses if both were one rate.
        """
        rate = self._rates[answers, copying]
        if copying and not rate.seconds:
            rate = self._rates[answers, False]
        return rate.tokens / rate.seconds if rate.seconds else 1 / self._per_answer(answers)

    def step(self, answers: int, seconds: float | None, tokens: float, copying: bool = False) -> None:
        """This many answers shared a step. `seconds`: from commit to commit; None if that says nothing."""
        self._last = answers
        if seconds is not None:
            self._rates[answers, copying].step(seconds, tokens)

    def choose(self, answers: int, value: Callable[[int, float], float]) -> int:
        """How many of the answers, the first ones, should share the next forward pass.

        `value`: what a pass for so many of them is worth, in tokens, at such a rate.
        """
        fewer = min(range(1, answers + 1), key=self._per_answer)
        self._passes += 1
        if self._passes > TRIAL_PASSES:
            self._passes = 0
            if 1 / TRIAL_RATIO < self._per_answer(1) / self._per_answer(answers) < TRIAL_RATIO:
                return 1 if self._last == answers else answers
        if fewer == answers:
            return answers
        # By the rate of the way taken last: the rate of the other may be old.
        rate = self.rate(fewer if self._last == fewer else answers)
        return fewer if value(fewer, rate) > value(answers, rate) + MIN_GAIN else answers

    def _per_answer(self, answers: int) -> float:
        """Seconds of a forward pass without guesses, for each of this many answers."""
        return self.curve(answers)(answers) / answers
