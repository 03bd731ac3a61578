"""The speed-up to expect of a target and a draft model, by simulating the lead's own planner on a record. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import stdev

from duo.engines.replay import Checkpoints
from lead.decode.memory import Memory
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
class Together:
    """How many times as long forward passes take, by rows, while target and draft model compute on one machine."""

    target: Mapping[int, float]
    draft: Mapping[int, float]


def slowed(seconds: Mapping[int, float], times: Mapping[int, float]) -> dict[int, float]:
    """Seconds of forward passes, each so many times as long. Rows without a factor have that of the next fewer rows."""
    return {rows: taken * times[max(it for it in times if it <= rows)] for rows, taken in seconds.items()}


@dataclass(frozen=True)
class Expected:
    """times: the speed with a back over that of the target alone. error: its standard error, from answer to answer.

    alone: tokens per second of the target alone. beside: times if the lead runs the draft model too. acceptance: how
    often the draft's first guess is right. memory: times without any draft model, with what memory guesses.
    together: how much the models slow each other down, if they run on one machine.
    """

    times: float
    error: float
    alone: float
    beside: float
    acceptance: float
    memory: float = 1.0
    together: Together | None = None

    @property
    def best(self) -> float:
        """The speed of the better way to use the draft model."""
        return max(self.times, self.beside)

    @property
    def helps(self) -> bool:
        """Whether the draft model adds to what the lead has without it."""
        return self.best >= HELPS * max(1.0, self.memory)


def expected(
    target: Measured, draft: Mapping[int, float], ranking: float, record: Sequence[Recorded], round_trip: float,
    plan: Callable[[], Speculation], together: Together | None = None,
) -> Expected:  # fmt: skip
    """What to expect. Times in seconds.

    ranking: of the draft model, to rank the guesses of a row. plan: a planner that has learned nothing yet. together:
    both models run on one machine.
    """
    passes = _curve(target.seconds)
    shared = _curve(slowed(target.seconds, together.target)) if together is not None else None

    def drafting(seconds: Mapping[int, float]) -> Cost:
        own = _curve(seconds)
        # Nothing is ranked in a prompt.
        return lambda rows: own(rows) + (rows * ranking if rows <= max(seconds) else 0.0)

    def simulated(machines: Sequence[Machine], beside: Cost | None) -> list[Answered]:
        text = Replayed(record)
        asked = text.asked(sum(len(answer.tokens) for answer in record))
        return answers(
            text, passes, machines, asked, planner=plan(), n_ahead=AHEAD, overhead=STEP_SECONDS, local_draft=beside,
            checkpoints=target.checkpoints, messages=MESSAGE_SECONDS, memory=Memory(), shared=shared,
        )  # fmt: skip

    alone = 1 / (passes(1) + STEP_SECONDS)
    own = drafting(draft)
    away = drafting(slowed(draft, together.draft)) if together is not None else own
    back = [Machine(away, Link(round_trip))]
    found, both, none = simulated(back, None), simulated(back, own), simulated([], None)
    each = [it.tokens / it.decoding / alone for it in found]
    error = stdev(each) / math.sqrt(len(each)) if len(each) > 1 else math.inf
    times, beside, memory = (speed(it) / alone for it in (found, both, none))
    return Expected(times, error, alone, beside, Replayed(record).mean, memory, together)


def _curve(seconds: Mapping[int, float]) -> Cost:
    return world.curve(*sorted(seconds.items()))
