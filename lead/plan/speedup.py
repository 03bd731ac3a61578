"""What backs bring, in one figure: the speed with them over the speed of the target alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["none", "with", "trial", "measuring", "resting"]
"""What the governor lets the backs do. none: no back is connected."""


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


def mean(speedups: Sequence[Speedup | None]) -> Speedup | None:
    """Of several answers; None if one of them is not known.

    They are compared with the same measurement of the target alone, so their errors do not cancel out.
    """
    known = [each for each in speedups if each is not None]
    if not known or len(known) < len(speedups):
        return None
    return Speedup(sum(it.times for it in known) / len(known), sum(it.error for it in known) / len(known))
