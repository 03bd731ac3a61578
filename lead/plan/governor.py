"""Whether the backs are worth having, judged by the tokens per second achieved with and without them.

The planner decides by forecasts what to verify. It cannot foresee what backs cost by being there: their messages take
time from the lead, and on the lead's own machine they take memory bandwidth. So now and then the lead falls silent for
a few steps, the backs come to rest, and the target is measured alone. If it is faster alone, the backs stay at rest.
Their next trials come later and later.

Alone, the target makes one token a step. What memory guesses is counted on neither side, even if a back guesses it too.
If these steps take equally long, a few are enough; else it is measured until the difference is certain. With a draft
model beside the target, the first question is whether its forward passes are faster while the backs rest. Only then are
the tokens counted.
"""

from __future__ import annotations

import math

from lead.plan.ratio import Ratio
from lead.plan.speedup import Correction, State

SETTLE_STEPS, SETTLE_SECONDS = 3, 0.1
"""After a change, this many steps do not count. Alone, these must also last that long, because the backs first draft to
the end of what they know."""
MIN_ALONE_STEPS, MAX_ALONE_STEPS = 8, 48
"""Steps of the target alone: the fewest, if they tell enough, and the most. Those that settle are among them."""
MAX_HARMLESS_SLOWDOWN = 1.01
"""Backs count as harmless while they slow the target's forward pass by no more than this factor."""
MIN_STANDARD_ERRORS, USELESS_ERRORS = 1.0, 2.0
"""A difference is certain if it is larger than this many standard errors. To give backs up early takes the second."""
FIRST_STEPS, STEPS_AFTER_CLOSE, STEPS_AFTER_CLEAR = 24, 80, 600
"""Steps with backs before the target is measured alone: as long as there were few and nothing is clear, after a close
result, and after a clear one."""
CLEAR_GAIN = 1.15
"""A result with backs is clear if it is this many times the target alone."""
MIN_GAIN = 1.03
"""Backs must be this many times faster than the target alone to stay at work."""
MIN_KNOWN_STEPS, MIN_EARLY_GAIN = 60, 0.92
"""Before so many steps with backs they only have to be this fast, unless it is certain that they are not worth it: they
may have met a hard stretch of text, and a rest is long."""
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

FADE = 1 - 1 / MEMORY_STEPS


class Governor:
    """Hears of every step, and says whether the backs should rest. Clock-free."""

    def __init__(self) -> None:
        self._state: State = "with"
        self._steps, self._silent = 0, 0.0
        """In this state: the steps that count towards its end, and the seconds of all steps."""
        self._until = FIRST_STEPS
        self._rest = FIRST_REST_STEPS
        self._with, self._alone, self._trial = Ratio(), Ratio(), Ratio()
        """Tokens per second."""
        self._slower = 1.0
        self._measured = False
        """Whether the target was measured alone since the last back joined."""
        self.correction = Correction()

    @property
    def state(self) -> State:
        return self._state

    @property
    def alone(self) -> float:
        """Tokens per second without backs, as measured."""
        return self._alone.value

    @property
    def trial_in(self) -> int | None:
        """Tokens until backs that rest get another trial. A draft model beside the target makes several in a step."""
        if self._state != "resting":
            return None
        return max(1, math.ceil((self._until - self._steps) * max(1.0, self._alone.mean)))

    @property
    def resting(self) -> bool:
        """Whether the backs should hear nothing."""
        return self._state in ("measuring", "resting")

    def newcomer(self) -> None:
        """A back has joined. It gets a trial at once, and the record of the others is forgotten."""
        self._rest = FIRST_REST_STEPS
        self._with, self._measured = Ratio(), False
        self.correction.forget()
        if self.resting:
            self._enter("trial", TRIAL_STEPS)
        else:
            self._until = min(self._until, self._steps + FIRST_STEPS)

    def step(
        self, seconds: float | None, tokens: float, alone: float | None, slower: float = 1.0, expected: float = 0.0
    ) -> None:
        """A step has ended. `seconds`: from commit to commit, None if it read prompts. `tokens`: per answer.

        `alone`: tokens per second of the target alone, as measured at load; None if a draft model is beside it.
        `slower`: seconds of the target's forward passes lately, over those measured at load. `expected`: seconds that a
        token takes alone, as passes with backs tell; scaled like `seconds`.
        """
        if self._steps < SETTLE_STEPS or seconds is None or not self.resting or self._silent >= SETTLE_SECONDS:
            self._steps += 1
        self._silent += seconds or 0.0
        if not self.resting:
            self._slower = slower
        counted = seconds if self._steps > SETTLE_STEPS else None
        if counted is not None:
            (self._alone if self.resting else self._with).step(tokens, counted, FADE)
            self._trial.step(tokens, counted, FADE)
            if not self.resting:
                self.correction.with_backs(expected)
            elif self._steps <= MAX_ALONE_STEPS:
                self.correction.alone(counted, tokens)
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
                self._measured = True
                self._enter("with", STEPS_AFTER_CLEAR if self._known else STEPS_AFTER_CLOSE)
            elif self._steps >= (MAX_ALONE_STEPS if self._known else FIRST_STEPS) or self._certain:
                self._measured = True
                self._judge(alone is not None)
        elif self._state == "with":
            best_alone = max(alone or 0.0, self._alone.value)
            if alone is not None and self._measured and self._with.value > SURE_GAIN * best_alone:
                self._enter("with", STEPS_AFTER_CLEAR if self._known else STEPS_AFTER_CLOSE)
            else:
                if alone is not None:
                    self._alone.forget()  # contexts may have grown since
                self._enter("measuring", MIN_ALONE_STEPS)
        else:
            self._judge(alone is not None)

    @property
    def _known(self) -> bool:
        """Whether there were enough steps with backs. The first ones have short contexts."""
        return self._with.steps >= MIN_KNOWN_STEPS

    @property
    def _certain(self) -> bool:
        """Whether it is clear which is faster."""
        return abs(self._with.value - self._alone.value) > MIN_STANDARD_ERRORS * self._doubt

    @property
    def _doubt(self) -> float:
        """Standard error of the difference, in tokens per second."""
        return math.hypot(self._with.error, self._alone.error) * self._with.value

    @property
    def _useless(self) -> bool:
        """Whether few steps are enough to tell that backs are not worth having."""
        return self._with.value + USELESS_ERRORS * self._doubt < MIN_GAIN * self._alone.value

    def _judge(self, bare: bool) -> None:
        """`bare`: no draft model is beside the target."""
        if self._state == "trial" and self._trial.value > CLEAR_GAIN * self._alone.value:
            self._with = self._trial  # they have become useful
        early = not self._known and not self._useless
        # No forward pass is faster for their being there. So they bring no more than their steps yield.
        yields = not bare or self._with.mean >= MIN_GAIN * self._alone.mean
        if yields and self._with.value >= (MIN_EARLY_GAIN if early else MIN_GAIN) * self._alone.value:
            self._rest = FIRST_REST_STEPS
            clear = self._with.value > CLEAR_GAIN * self._alone.value
            close = STEPS_AFTER_CLOSE if self._known or clear else FIRST_STEPS
            self._enter("with", STEPS_AFTER_CLEAR if self._known and clear else close)
        else:
            self._put_to_rest()

    def _put_to_rest(self) -> None:
        self._enter("resting", self._rest)
        self._rest = min(MAX_REST_STEPS, REST_FACTOR * self._rest)

    def _enter(self, state: State, steps: int) -> None:
        self._state, self._until, self._trial = state, steps, Ratio()
        self._steps, self._silent = 0, 0.0
