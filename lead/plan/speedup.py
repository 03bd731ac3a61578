"""What backs bring, in one figure: the speed with them over the speed of the target alone.

Nobody can measure both at once. So each step with backs is compared with what its tokens would have taken alone, in the
same conditions. A forward pass without guesses was measured at load. All passes with backs tell how much longer they
take by now, because the context has grown or the machine is busy. They cannot tell what backs take
from the target by being there, nor what the loop adds to a pass. That is learned when the backs rest and the target is
measured alone (`Correction`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from lead.plan.ratio import Ratio

State = Literal["none", "with", "trial", "measuring", "resting"]
"""What the governor lets the backs do. none: no back is connected."""

MEMORY_STEPS = 64
"""Steps alone over which a correction is averaged."""
MIN_CORRECTED_STEPS = 4
"""Steps alone before a correction says anything."""
MAX_STRAY = 2.0
"""A step alone counts as at most this many times as slow as expected: something else took the time."""
LATELY_SECONDS = 120.0
"""Seconds of decoding over which `Lately` averages."""
MIN_KNOWN_SHARE = 0.5
"""The figure of an answer must cover at least this share of its time."""


@dataclass(frozen=True, slots=True)
class Speedup:
    """`times` as fast as the target alone. `error`: the standard error of that."""

    times: float
    error: float


@dataclass(frozen=True, slots=True)
class Benefit:
    """What backs brought over the last minutes.

    with_backs, alone: tokens per second of one answer.
    trial_in_tokens: so many tokens until backs that rest get another trial; None if they do not rest.
    """

    times: float
    error: float
    with_backs: float
    alone: float
    state: State
    trial_in_tokens: int | None = None

    @property
    def says(self) -> str:
        """One line for people."""
        if self.state == "resting":
            later = f"; next trial in {self.trial_in_tokens} tokens" if self.trial_in_tokens is not None else ""
            return f"resting: {self.alone:.1f} tokens/s without backs, {self.with_backs:.1f} with them{later}"
        return f"{self.times:.2f} x: {self.with_backs:.1f} tokens/s with backs, {self.alone:.1f} without them"


class Counted(NamedTuple):
    """What a step says about backs.

    expected: seconds that one token of an answer takes alone, not corrected yet. several: whether answers shared the
    forward passes. backs: whether backs were there. resting: whether they rested, or none was there.
    """

    expected: float
    several: bool
    backs: bool
    resting: bool


class Correction:
    """How many times the expected seconds a token really takes alone."""

    def __init__(self) -> None:
        self._ratio = Ratio()
        self._expected = 0.0

    def with_backs(self, expected: float) -> None:
        """A step with backs. `expected`: seconds that a token takes alone, as such steps tell."""
        self._expected = expected

    def alone(self, seconds: float, tokens: float) -> None:
        """A step right after those: the backs have come to rest."""
        if self._expected > 0.0 and tokens > 0.0:
            expected = self._expected * tokens
            self._ratio.step(min(seconds, MAX_STRAY * expected), expected, 1 - 1 / MEMORY_STEPS)

    def forget(self) -> None:
        """Other backs are there: what was measured counts half."""
        self._ratio.forget()

    @property
    def known(self) -> bool:
        return self._ratio.steps >= MIN_CORRECTED_STEPS

    @property
    def steps(self) -> int:
        """How many steps alone it knows."""
        return self._ratio.steps

    @property
    def value(self) -> float:
        return self._ratio.value

    @property
    def error(self) -> float:
        """As a share of the value."""
        return self._ratio.error


class Gain:
    """What one answer gained by its backs, from step to step."""

    __slots__ = ("_backs", "_one", "_rested", "_several")

    def __init__(self) -> None:
        self._one, self._several = Ratio(), Ratio()
        """Steps with backs, of this answer alone and beside others: seconds expected alone over seconds taken."""
        self._rested = 0.0
        """Seconds without backs, or while they rested."""
        self._backs = False

    def step(self, seconds: float, tokens: int, it: Counted) -> None:
        self._backs |= it.backs
        if it.resting:
            self._rested += seconds
        else:
            (self._several if it.several else self._one).step(it.expected * tokens, seconds)

    def speedup(self, one: Correction, several: Correction) -> Speedup | None:
        """None if no back was there, or if too little is known of the target alone."""
        if not self._backs:
            return None
        pairs = [(self._one, one), (self._several, several)]
        parts = [(ratio, correction) for ratio, correction in pairs if ratio.steps]
        known = [(ratio, correction) for ratio, correction in parts if correction.known]
        seconds = self._rested + sum(ratio.below for ratio, _ in known)
        if seconds <= 0.0 or seconds < MIN_KNOWN_SHARE * (self._rested + sum(ratio.below for ratio, _ in parts)):
            return None
        times = (self._rested + sum(correction.value * ratio.above for ratio, correction in known)) / seconds
        errors = [
            correction.value * ratio.above / seconds * math.hypot(ratio.error, correction.error)
            for ratio, correction in known
        ]
        return Speedup(times, math.hypot(*errors))


class Lately:
    """Steps with backs over the last minutes, of all answers."""

    def __init__(self) -> None:
        self._ratio = Ratio()
        self._tokens = 0.0

    def step(self, seconds: float, tokens: float, expected: float) -> None:
        """`tokens`: per answer. `expected`: seconds that one token takes alone, not corrected."""
        fade = math.exp(-seconds / LATELY_SECONDS)
        self._ratio.step(expected * tokens, seconds, fade)
        self._tokens = self._tokens * fade + tokens

    def benefit(self, correction: Correction, state: State, alone: float, trial_in: int | None) -> Benefit | None:
        """`alone`: tokens per second while backs rest, which then counts as measured. None if too little is known."""
        if not correction.known or not self._ratio.below:
            return None
        times = correction.value * self._ratio.value
        error = times * math.hypot(self._ratio.error, correction.error)
        with_backs = self._tokens / self._ratio.below
        if state == "resting" and alone > 0.0:
            return Benefit(times, error, times * alone, alone, state, trial_in)
        return Benefit(times, error, with_backs, with_backs / times, state)


class Verdict:
    """Notices when backs are laid to rest, also after another trial, and when they work again."""

    def __init__(self) -> None:
        self._last: State = "none"
        self._rested = False
        """Whether a rest is the last that was told."""

    def news(self, benefit: Benefit | None) -> str | None:
        """One line for people; None if nothing has changed."""
        if benefit is None or benefit.state == self._last:
            return None
        self._last = benefit.state
        if benefit.state == "resting":
            self._rested = True
            return benefit.says
        if benefit.state == "with" and self._rested:
            self._rested = False
            return f"at work again: {benefit.says}"
        return None


def mean(speedups: Sequence[Speedup | None]) -> Speedup | None:
    """Of several answers; None if one of them is not known.

    They are compared with the same measurement of the target alone, so their errors do not cancel out.
    """
    known = [each for each in speedups if each is not None]
    if not known or len(known) < len(speedups):
        return None
    return Speedup(sum(it.times for it in known) / len(known), sum(it.error for it in known) / len(known))
