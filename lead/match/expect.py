"""The speed-up to expect of a target and a draft model, by simulating the lead's own planner on a record. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import stdev

from duo.engines.replay import Checkpoints
from lead.plan.speculation import Speculation
from lead.simulation import world
from lead.simulation.back import Machine
from lead.simulation.lead import Answered, answers, speed
from lead.simulation.replay import Recorded, Replayed
from lead.simulation.world import Cost, Link

STEP_SECONDS = 0.0003
"""Of a step of the lead beside its forward pass."""
MESSAGE_SECONDS = 0.0004
"""That a step takes longer while a back sends messages to the lead, and is sent some."""
AHEAD = 16
"""How far ahead a back is, if nobody says otherwise."""
HELPS = 1.03
"""Backs that give less than this are no help: a lead lets them rest."""


@dataclass(frozen=True)
class Measured:
    """A target: seconds of its forward passes by rows, and what going back takes."""

    seconds: Mapping[int, float]
    checkpoints: Checkpoints | None = None


@dataclass(frozen=True)
class Expected:
    """times: the speed with a back over that of the target alone. error: its standard error, from answer to answer.

    alone: tokens per second of the target alone. beside: times if the lead runs the draft model too. acceptance: how
    often the draft's first guess is right.
    """

    times: float
    error: float
    alone: float
    beside: float
    acceptance: float

    @property
    def best(self) -> float:
        """The speed of the better way to use the draft model."""
        return max(self.times, self.beside)

    @property
    def helps(self) -> bool:
        return self.best >= HELPS


def expected(
    target: Measured, draft: Mapping[int, float], ranking: float, record: Sequence[Recorded], round_trip: float,
    plan: Callable[[], Speculation],
) -> Expected:  # fmt: skip
    """What to expect. Times in seconds.

    ranking: of the draft model, to rank the guesses of a row. plan: a planner that has learned nothing yet.
    """
    passes, own = world.curve(*sorted(target.seconds.items())), world.curve(*sorted(draft.items()))

    def drafting(rows: int) -> float:
        """Nothing is ranked in a prompt."""
        return own(rows) + (rows * ranking if rows <= max(draft) else 0.0)

    def simulated(machines: Sequence[Machine], beside: Cost | None) -> list[Answered]:
        text = Replayed(record)
        asked = text.asked(sum(len(answer.tokens) for answer in record))
        return answers(
            text, passes, machines, asked, planner=plan(), n_ahead=AHEAD, overhead=STEP_SECONDS, local_draft=beside,
            checkpoints=target.checkpoints, messages=MESSAGE_SECONDS,
        )  # fmt: skip

    alone = 1 / (passes(1) + STEP_SECONDS)
    back = [Machine(drafting, Link(round_trip))]
    found, both = simulated(back, None), simulated(back, drafting)
    each = [it.tokens / it.decoding / alone for it in found]
    error = stdev(each) / math.sqrt(len(each)) if len(each) > 1 else math.inf
    return Expected(speed(found) / alone, error, alone, speed(both) / alone, Replayed(record).mean)
