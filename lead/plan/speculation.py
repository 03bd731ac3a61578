"""What a decode loop asks before each step, and tells after it: the part of the loop that needs no clock.

    heard, skipped    guesses of a back have come; the time until now does not count
    next              verify these guesses, or wait for more, or expand some
    drafted           what expanding them found; then `next` again
    finished          what became of the step

The lead's loop, the simulator and the bounds of `bench compare` drive it alike. `lead.plan.planner.Planner` serves;
`lead.plan.verify_all.VerifyAll` is there for comparison.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from duo.engines.replay import NOTHING, Replayed
from lead.plan.arrivals import DraftOffer
from lead.plan.calibration import Calibration
from lead.plan.limits import Limits
from lead.plan.speedup import Benefit, Counted, Gain, Speedup
from lead.plan.tree import GuessTree, Node, Place

MAX_CALIBRATED = 256
"""Backs whose calibration is kept after they have left: their names come from the network."""


class Verify(NamedTuple):
    """Run the forward pass now, with these guesses of each answer. If there are fewer lists than answers, only the
    first answers take part."""

    nodes: Sequence[Sequence[Node]]


class Wait(NamedTuple):
    """Ask again when guesses have come, at the latest after so many seconds. `nodes`: what could be verified now."""

    nodes: Sequence[Sequence[Node]]
    seconds: float


class Expand(NamedTuple):
    """Ask again when the draft model beside the target has expanded the likeliest leaves. `nodes`: as in `Wait`."""

    nodes: Sequence[Sequence[Node]]


Action = Verify | Wait | Expand


class Speculation:
    """The clock-free half of a decode loop. It is told the time, in seconds.

    `Planner` learns from what it is told. This base class learns nothing, so `VerifyAll` only plans.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.speculates = limits.max_guesses > 0
        """Whether the limits allow a guess. If not, nobody need make any."""
        self.calibration: defaultdict[str, Calibration] = defaultdict(Calibration)
        """What the claims of each back are worth."""

    def next(
        self, trees: Sequence[GuessTree], now: float, offer: DraftOffer | None = None, room: int | None = None
    ) -> Action:
        """What to do next, for all answers that share the forward pass. The first trees have waited longest.

        `offer`: what it takes to expand something by the draft model beside the target, if there is one. `room`: the
        same pass reads prompts, so there is room for this many guesses, and nobody waits.
        """
        raise NotImplementedError

    def longest_run(self, answers: int) -> int:
        """How many tokens memory should guess ahead at most, for each of so many answers; 0 if no guess can pay."""
        return self.limits.max_guesses

    def rate(self, answers: int) -> float:
        """Tokens per second of this many answers together, lately; 0 if nobody counts."""
        return 0.0

    @property
    def backs(self) -> Sequence[str]:
        """Backs that divide the work of drafting, the quickest first."""
        return ()

    @property
    def resting(self) -> bool:
        """Whether the target is faster alone: the backs need not hear of what is committed."""
        return False

    @property
    def benefit(self) -> Benefit | None:
        """What backs bring; None while that is not known."""
        return None

    def speedup(self, gain: Gain) -> Speedup | None:
        """Of one answer; None while it is not known."""
        return None

    def joined(self, back: str) -> None:
        """A back has connected. Another thread may call this and `left`."""

    def left(self, back: str) -> None:
        """A back has gone."""
        if len(self.calibration) > MAX_CALIBRATED:
            self.calibration.pop(back, None)

    def skipped(self, now: float) -> None:
        """The time until now is not to be counted: nobody answered, or a prompt was read. Nor does it say when messages
        come, for a back may have been told long ago."""

    @contextmanager
    def uncounted(self, clock: Callable[[], float]) -> Iterator[None]:
        """What happens inside does not count as decoding."""
        try:
            yield
        finally:
            self.skipped(clock())

    def heard(self, now: float, back: str, found: Sequence[Place]) -> None:
        """New guesses of a back arrived at `now`."""

    def drafted(self, found: Sequence[Place]) -> None:
        """The draft model beside the target has found something, as it was asked to."""

    def finished(
        self,
        now: float,
        rows: int,
        seconds: float,
        tokens: float,
        answers: int = 1,
        read: bool = False,
        replayed: Replayed = NOTHING,
        unaided: int = 0,
    ) -> Counted | None:
        """A forward pass has ended, and its tokens were committed at `now`.

        `rows`, `seconds`: its width, and how long it took with what followed. `tokens`: committed, of all `answers`.
        `read`: it read prompts as well, so its time says nothing. `replayed`: what going back took.
        `unaided`: tokens that were guessed without a model. They are no merit of backs.

        Returns what the step says about backs, for the `Gain` of each answer in it; None if nothing.
        """
        return None
