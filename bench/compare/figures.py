"""What was measured, and its statistics. Pure.

An entrant is measured by its speed-up: its tokens per second over those of the target alone, on the same question in
the same round. So a machine that is slow for a while slows both. Two entrants are compared by their speed-ups on the
same question in the same round.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import geometric_mean, median, quantiles
from typing import TypeVar

from bench.compare.names import BASE, OURS, PEERS


@dataclass(frozen=True)
class Record:
    """One answer. Its fields are those of results.json.

    workload: the kind of text that was asked for. group: which entrants were loaded together. schedule: the entrant's
    name. round_trip: of its block in ms, even if the entrant uses no network. own: whether the text must be that of the
    target alone.
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
    """Whether the text is that of the target alone in the same round. None for the target alone."""
    own: bool = True
    workload: str = "questions"

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
        """None if there are no values."""
        known = sorted(values)
        if not known:
            return None
        if len(known) == 1:
            return cls(known[0], known[0], known[0], 1)
        low, middle, high = quantiles(known, n=4, method="inclusive")
        return cls(middle, low, high, len(known))


@dataclass(frozen=True)
class Row:
    """One entrant in one configuration. ours_over: the speed of ours over its speed."""

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
    """The speed-ups of each entrant in a configuration."""
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
    """The records of a configuration. Entrants without a network count for every round trip.

    The target alone has records for every round trip, and counts with this one alone.
    """
    return [
        r
        for r in records
        if r.temperature == temperature and (r.round_trip == round_trip or not (r.networked or r.schedule == BASE))
    ]


def rows(records: Sequence[Record], temperature: float, round_trip: float) -> list[Row]:
    """The entrants of one configuration, fastest first."""
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


@dataclass(frozen=True)
class ByWorkload:
    """Speed-ups of one configuration by workload. ours_over_best: the speed of ours over that of the peer that is the
    fastest there, with the peer's name; empty without peers."""

    workloads: Sequence[str]
    speed_ups: Mapping[str, Sequence[float]]
    ours_over_best: Sequence[tuple[str, float]]

    @property
    def means(self) -> dict[str, float]:
        """The geometric mean of each entrant."""
        return {name: geometric_mean(ups) for name, ups in self.speed_ups.items()}


def by_workload(records: Sequence[Record], temperature: float, round_trip: float) -> ByWorkload:
    """Entrants in all workloads of a configuration, the fastest first."""
    workloads = list(dict.fromkeys(r.workload for r in records))
    tables = [rows([r for r in records if r.workload == name], temperature, round_trip) for name in workloads]
    by_name = [{row.schedule: row for row in table} for table in tables]
    everywhere = [name for name in by_name[0] if all(name in table for table in by_name)]
    ups = {name: [table[name].speed_up.median for table in by_name] for name in everywhere}
    over: list[tuple[str, float]] = []
    for table in tables:
        peer = next((row for row in table if row.schedule in PEERS and row.ours_over is not None), None)
        if peer is not None and peer.ours_over is not None:
            over.append((peer.schedule, peer.ours_over.median))
    fastest = sorted(everywhere, key=lambda name: -geometric_mean(ups[name]))
    return ByWorkload(workloads, {name: ups[name] for name in fastest}, over if len(over) == len(tables) else [])


def configurations(records: Iterable[Record]) -> list[tuple[float, float]]:
    """All pairs of a temperature and a round trip, ascending."""
    return sorted({(r.temperature, r.round_trip) for r in records})


S = TypeVar("S", bound=tuple[float, ...])


def best(speeds: Mapping[S, Sequence[float]]) -> S:
    """The setting with the highest median speed. Of equal ones the smallest."""
    return max(sorted(speeds), key=lambda setting: median(speeds[setting]))


def different_texts(records: Iterable[Record]) -> list[str]:
    """The entrants that must give the text of the target alone and did not."""
    return sorted({r.schedule for r in records if r.own and r.same is False})
