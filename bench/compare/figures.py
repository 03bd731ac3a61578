"""What was measured, and the statistics of it. Pure.

The measure of a schedule is its speed-up: its tokens per second over those of the target alone, on the same question
in the same round, so that what slows the machine down for a while slows both. Two schedules are compared by their
speed-ups on the same question in the same round.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import TypeVar

from bench.compare.names import BASE, OURS


@dataclass(frozen=True)
class Record:
    """One answer. `round_trip`: that of the block in which it was given, in ms, whether it matters to it or not.

    `group`: those in one were loaded at the same time.
    """

    group: int
    schedule: str
    networked: bool
    temperature: float
    round_trip: float
    round: int
    question: int
    tokens: int
    seconds: float
    drafted: int
    accepted: int
    setting: str = ""
    same: bool | None = None
    """Whether its text is that of the target alone in the same round; None for that one itself."""
    own: bool = True
    """Whether it has to be."""

    @property
    def speed(self) -> float:
        return self.tokens / self.seconds


@dataclass(frozen=True)
class Spread:
    """A median with its quartiles."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """None of nothing."""
        known = sorted(values)
        if not known:
            return None
        if len(known) == 1:
            return cls(known[0], known[0], known[0], 1)
        low, middle, high = quantiles(known, n=4, method="inclusive")
        return cls(middle, low, high, len(known))


@dataclass(frozen=True)
class Row:
    """One schedule in one configuration. `ours_over`: how much faster ours is."""

    schedule: str
    speed: Spread
    speed_up: Spread
    ours_over: Spread | None
    drafted: int
    accepted: int
    answers: int
    same: int | None
    setting: str


Key = tuple[int, int, int]
"""Group, round and question."""


def speed_ups(records: Sequence[Record], temperature: float, round_trip: float) -> dict[str, dict[Key, float]]:
    """By schedule, of all that count for a configuration: those that the network concerns at this round trip alone."""
    alone = {
        (r.round_trip, r.group, r.round, r.question): r.speed
        for r in records
        if r.schedule == BASE and r.temperature == temperature
    }
    found: dict[str, dict[Key, float]] = {}
    for r in _counting(records, temperature, round_trip):
        key = (r.group, r.round, r.question)
        if base := alone.get((r.round_trip, *key)):
            found.setdefault(r.schedule, {})[key] = r.speed / base
    return found


def _counting(records: Iterable[Record], temperature: float, round_trip: float) -> list[Record]:
    """The target alone is in every block: of it, too, those of this round trip count."""
    return [
        r
        for r in records
        if r.temperature == temperature and (r.round_trip == round_trip or not (r.networked or r.schedule == BASE))
    ]


def rows(records: Sequence[Record], temperature: float, round_trip: float) -> list[Row]:
    """One configuration, fastest first."""
    ups = speed_ups(records, temperature, round_trip)
    ours = ups.get(OURS, {})
    made: list[Row] = []
    for schedule, ratios in ups.items():
        of = [r for r in _counting(records, temperature, round_trip) if r.schedule == schedule]
        speed, speed_up = Spread.of(r.speed for r in of), Spread.of(ratios.values())
        assert speed is not None and speed_up is not None
        over = Spread.of(ours[key] / ratio for key, ratio in ratios.items() if key in ours)
        judged = [r.same for r in of if r.same is not None]
        made.append(
            Row(
                schedule,
                speed,
                speed_up,
                over if schedule != OURS else None,
                sum(r.drafted for r in of),
                sum(r.accepted for r in of),
                len(judged),
                sum(judged) if judged else None,
                of[0].setting,
            )
        )
    return sorted(made, key=lambda row: -row.speed_up.median)


def configurations(records: Iterable[Record]) -> list[tuple[float, float]]:
    """Temperatures and round trips, ascending."""
    return sorted({(r.temperature, r.round_trip) for r in records})


S = TypeVar("S", bound=tuple[float, ...])


def best(speeds: Mapping[S, Sequence[float]]) -> S:
    """Of the settings tried, the one of the highest median speed; of equal ones the smallest."""
    return max(sorted(speeds), key=lambda setting: median(speeds[setting]))


def different_texts(records: Iterable[Record]) -> list[str]:
    """Of our own schedules those that gave another text than the target alone."""
    return sorted({r.schedule for r in records if r.own and r.same is False})
