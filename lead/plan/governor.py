"""Whether the backs are worth having, judged by the tokens per second achieved with and without them.

The planner decides by forecasts what to verify. It cannot foresee what backs cost by being there: their messages take
time from the lead, and on the lead's own machine they take memory bandwidth. So now and then the lead falls silent for
a few steps, the backs come to rest, and the target is measured alone. If it is faster alone, the backs stay at rest.
Their next trials come later and later.

Alone, the target makes one token a step. If these steps take equally long, a few are enough; else it is measured until
the difference is certain. With a draft model beside the target, the first question is whether its forward passes are
faster while the backs rest. Only then are the tokens counted.
"""

from __future__ import annotations

import math
from typing import Literal

SETTLE_STEPS, SETTLE_SECONDS = 3, 0.1
"""After a change, this many steps do not count. Alone, these must also last that long, because the backs first draft to
the end of what they know."""
MIN_ALONE_STEPS, MAX_ALONE_STEPS = 8, 48
"""Steps of the target alone: the fewest, if they tell enough, and the most. Those that settle are among them."""
MAX_HARMLESS_SLOWDOWN = 1.01
"""Backs count as harmless while they slow the target's forward pass by no more than this factor."""
MIN_STANDARD_ERRORS = 1.0
"""A difference is certain if it is larger than this many standard errors."""
FIRST_STEPS, STEPS_AFTER_CLOSE, STEPS_AFTER_CLEAR = 24, 80, 600
"""Steps with backs before the target is measured alone: the first time, after a close result or one of few steps, and
after a clear one."""
CLEAR_GAIN = 1.15
"""A result with backs is clear if it is this many times the target alone."""
MIN_GAIN = 1.03
"""Backs must be this many times faster than the target alone to stay at work."""
MIN_EARLY_GAIN = 0.92
"""The same before `MEMORY_STEPS` steps with backs: they may have met a hard stretch of text, and a rest is long."""
SURE_GAIN = 1.5
"""Backs that are this many times faster than the target alone are kept without measuring it again."""
TRIAL_STEPS = 24
"""Steps with backs after a rest, before they are judged."""
FIRST_REST_STEPS, MAX_REST_STEPS = 48, 6144
REST_FACTOR = 4
"""Each rest is this many times as long as the one before."""
EARLY_TRIAL_STEPS, PLAIN_FAILURE = 8, 0.9
"""A trial ends after this many steps if it reaches less than this share of the target alone."""
MEMORY_STEPS = 64
"""Steps over which the rates are averaged."""

State = Literal["with", "trial", "measuring", "resting"]


class _Rate:
    """Tokens per second, averaged over steps."""

    def __init__(self) -> None:
        self._tokens = self._seconds = self._weight = self._weights = 0.0
        self._products = [0.0, 0.0, 0.0]
        """Faded sums of tokens squared, tokens times seconds, and seconds squared."""
        self.steps = 0

    def step(self, seconds: float, tokens: float) -> None:
        fade = 1 - 1 / MEMORY_STEPS
        self.steps += 1
        self._tokens = self._tokens * fade + tokens
        self._seconds = self._seconds * fade + seconds
        products = (tokens * tokens, tokens * seconds, seconds * seconds)
        self._products = [of * fade + more for of, more in zip(self._products, products, strict=True)]
        self._weight = self._weight * fade + 1
        self._weights = self._weights * fade * fade + 1

    def forget(self) -> None:
        """Halve the weight of all steps so far."""
        self._tokens, self._seconds = self._tokens / 2, self._seconds / 2
        self._products = [of / 2 for of in self._products]
        self._weight, self._weights = self._weight / 2, self._weights / 4

    @property
    def value(self) -> float:
        return self._tokens / self._seconds if self._seconds else 0.0

    @property
    def error(self) -> float:
        """Standard error as a share of the value, from how tokens and seconds vary over the steps."""
        if not self._tokens:
            return math.inf
        tokens, both, seconds = self._products
        made, taken = self._tokens / self._weight, self._seconds / self._weight
        variance = (tokens / made**2 - 2 * both / (made * taken) + seconds / taken**2) / self._weight
        return math.sqrt(max(0.0, variance) * self._weights) / self._weight


class Governor:
    """Hears of every step, and says whether the backs should rest. Clock-free."""

    def __init__(self) -> None:
        self._state: State = "with"
        self._steps, self._silent = 0, 0.0
        """In this state: the steps that count towards its end, and the seconds of all steps."""
        self._until = FIRST_STEPS
        self._rest = FIRST_REST_STEPS
        self._with, self._alone, self._trial = _Rate(), _Rate(), _Rate()
        self._slower = 1.0

    @property
    def resting(self) -> bool:
        """Whether the backs should hear nothing."""
        return self._state in ("measuring", "resting")

    def newcomer(self) -> None:
        """A back has joined. It gets a trial at once, and the record of the others is forgotten."""
        self._rest = FIRST_REST_STEPS
        self._with = _Rate()
        if self.resting:
            self._enter("trial", TRIAL_STEPS)

    def step(self, seconds: float | None, tokens: float, alone: float | None, slower: float = 1.0) -> None:
        """A step has ended. `seconds`: from commit to commit, None if it read prompts. `tokens`: per answer.

        `alone`: tokens per second of the target alone, as measured at load; None if a draft model is beside it.
        `slower`: seconds of the target's forward passes lately, over those measured at load.
        """
        if self._steps < SETTLE_STEPS or seconds is None or not self.resting or self._silent >= SETTLE_SECONDS:
            self._steps += 1
        self._silent += seconds or 0.0
        if not self.resting:
            self._slower = slower
        counted = seconds if self._steps > SETTLE_STEPS else None
        if counted is not None:
            (self._alone if self.resting else self._with).step(counted, tokens)
            self._trial.step(counted, tokens)
        fails = self._steps >= EARLY_TRIAL_STEPS and self._trial.value < PLAIN_FAILURE * self._alone.value
        if counted is not None and self._state == "trial" and fails:
            self._put_to_rest()
        elif self._steps >= self._until:
            self._over(alone, slower)

    def _over(self, alone: float | None, slower: float) -> None:
        """The state has lasted its time: choose the next one."""
        if self._state == "resting":
            self._enter("trial", TRIAL_STEPS)
        elif self._state == "measuring":
            if alone is None and self._slower < MAX_HARMLESS_SLOWDOWN * slower:
                self._enter("with", STEPS_AFTER_CLEAR if self._known else STEPS_AFTER_CLOSE)
            elif self._steps >= MAX_ALONE_STEPS or self._certain:
                self._judge()
        elif self._state == "with":
            if alone is not None and self._alone.steps and self._with.value > SURE_GAIN * max(alone, self._alone.value):
                self._enter("with", STEPS_AFTER_CLEAR if self._known else STEPS_AFTER_CLOSE)
            else:
                if alone is not None:
                    self._alone.forget()  # contexts may have grown since
                self._enter("measuring", MIN_ALONE_STEPS)
        else:
            self._judge()

    @property
    def _known(self) -> bool:
        """Whether there were enough steps with backs. The first ones have short contexts."""
        return self._with.steps >= MEMORY_STEPS

    @property
    def _certain(self) -> bool:
        """Whether it is clear which is faster."""
        known = math.hypot(self._with.error, self._alone.error)
        return abs(self._with.value - self._alone.value) > MIN_STANDARD_ERRORS * known * self._with.value

    def _judge(self) -> None:
        if self._state == "trial" and self._trial.value > CLEAR_GAIN * self._alone.value:
            self._with = self._trial  # they have become useful
        if self._with.value >= (MIN_GAIN if self._known else MIN_EARLY_GAIN) * self._alone.value:
            self._rest = FIRST_REST_STEPS
            clear = self._known and self._with.value > CLEAR_GAIN * self._alone.value
            self._enter("with", STEPS_AFTER_CLEAR if clear else STEPS_AFTER_CLOSE)
        else:
            self._put_to_rest()

    def _put_to_rest(self) -> None:
        self._enter("resting", self._rest)
        self._rest = min(MAX_REST_STEPS, REST_FACTOR * self._rest)

    def _enter(self, state: State, steps: int) -> None:
        self._state, self._until, self._trial = state, steps, _Rate()
        self._steps, self._silent = 0, 0.0
