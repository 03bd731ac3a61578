"""What a decode loop asks before each step: which guesses to verify, or how long to wait for some.

`lead.plan.planner.Planner` is the schedule that serves; `VerifyAll` is there for comparison.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from duo.engines.base import TREES, Rollback
from duo.engines.replay import NOTHING, Replay, Replayed
from lead.plan.arrivals import DraftOffer
from lead.plan.calibration import Calibration
from lead.plan.tree import GuessTree, Node, Place

MAX_CALIBRATED = 256
"""Backs whose calibration is kept after they have left: their names come from the network."""


@dataclass(frozen=True, slots=True)
class Limits:
    """llama-server's meaning: of each answer at most `draft_max` guesses are verified, none of less probability than
    `p_min`, and if fewer than `draft_min` are left, none at all."""

    draft_max: int = 16
    draft_min: int = 0
    p_min: float = 0.0
    rows: int = 32
    """Most rows of one forward pass, over all answers: what the runtime has room for."""
    rollback: Rollback = TREES
    """What the model's memory allows: trees of guesses, or one chain for each answer, and how many may be rejected."""

    @property
    def most(self) -> int:
        """Most guesses of one answer in a forward pass; 0: the model is served without guesses."""
        return min(self.draft_max, self.rollback.depth)

    def likeliest(self, tree: GuessTree, count: int) -> list[tuple[Node, float]]:
        """At most `count` guesses that may be verified, with their path probabilities, falling."""
        return (tree.best if self.rollback.trees else tree.chain)(count, self.p_min)


def without_guesses(limits: Limits, replay: Replay | None) -> str:
    """Why a model that is asked to verify guesses cannot, or never with a gain; empty where it can."""
    if not limits.draft_max:
        return ""
    if not limits.most:
        return "its memory does not go back over those that are wrong"
    if replay is not None and not replay.pays(limits.most):
        return "to be able to go back costs more here than guesses save, even if all were right"
    return ""


@dataclass(frozen=True, slots=True)
class Plan:
    """`wait` > 0: plan again when guesses have come, at the latest after so many seconds. `draft`: plan again when the
    lead's own draft model has expanded the likeliest leaves. Else: verify `nodes`, those of each answer, now. If there
    are fewer of these than answers, only the first ones take part."""

    nodes: Sequence[Sequence[Node]]
    wait: float = 0.0
    draft: bool = False


class Schedule:
    """What a decode loop asks before each step, and tells after it. Clock-free: it is told the time, in seconds.

    `Planner` learns from what it is told. This base class learns nothing, so `VerifyAll` only plans.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.calibration: defaultdict[str, Calibration] = defaultdict(Calibration)
        """What the claims of each back are worth."""

    def plan(
        self, trees: Sequence[GuessTree], now: float, offer: DraftOffer | None = None, room: int | None = None
    ) -> Plan:
        """What to do next, for all answers that share the forward pass. The first trees have waited longest.

        `offer`: what it takes to expand something by the draft model beside the target, if there is one. `room`: the
        same pass reads prompts, so there is room for this many guesses, and nobody waits.
        """
        raise NotImplementedError

    @property
    def backs(self) -> Sequence[str]:
        """Backs that divide the work of drafting, the quickest first."""
        return ()

    @property
    def resting(self) -> bool:
        """Whether the target is faster alone: the backs need not hear of what is committed."""
        return False

    @property
    def speculates(self) -> bool:
        """Whether the limits allow a guess. If not, nobody need make any."""
        return self.limits.most > 0

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
        """The draft model beside the target has found something, as a plan asked it to."""

    def finished(
        self,
        now: float,
        rows: int,
        seconds: float,
        tokens: float,
        answers: int = 1,
        read: bool = False,
        replayed: Replayed = NOTHING,
    ) -> None:
        """A forward pass has ended, and its tokens were committed at `now`.

        `rows`, `seconds`: its width, and how long it took with what followed. `tokens`: committed, of all `answers`.
        `read`: it read prompts as well, so its time says nothing. `replayed`: what going back took.
        """
