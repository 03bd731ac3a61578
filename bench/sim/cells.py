"""All schedules in one cell (two models, a link and a text), and what a sweep over many cells says. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from bench.sim import schedules
from duo.draft.policy import MAX_BATCH_ROWS, TREE
from lead.simulation.lead import Machine, chain, run
from lead.simulation.world import Acceptance, Asked, Cost

CHILDREN = 4
"""Guesses at each place that the bound of trees has: as many as a back sends."""

WIDE = replace(TREE, batch=MAX_BATCH_ROWS)
"""Expands as much at once as a batch holds."""


@dataclass(frozen=True)
class Speeds:
    """Tokens per second of every schedule. `apart`: ours without a draft model beside the target. `more`: ours with
    several backs. `wide`: ours with one back whose wide batches take no longer than narrow ones. That bounds any number
    of equal backs, because these can only draft more side by side."""

    none: float
    local: float
    remote: float
    chain: float
    apart: float
    ours: float
    bound: float
    tree_bound: float
    more: float | None = None
    wide: float | None = None

    @property
    def best(self) -> float:
        return max(self.none, self.local, self.remote, self.chain)

    @property
    def ratio(self) -> float:
        return self.ours / self.best


def speeds(
    target: Cost,
    machines: Sequence[Machine],
    acceptance: Acceptance,
    asked: Sequence[Asked],
    more: Sequence[Machine] = (),
) -> Speeds:
    """A schedule for one back gets the best of `machines`. Ours gets all of them, or `more`.

    A draft model beside the target costs as much as on the first back, for us and for the synchronous schedule.
    """
    beside = machines[0].cost
    tokens = sum(it.tokens for it in asked)
    turns = [(it, m.link) for m in machines for it in schedules.all_turns(target, m.cost, acceptance, tokens)]
    return Speeds(
        none=schedules.no_back(target),
        local=max(it.speed(0.0) for it, _ in turns),
        remote=max(it.speed(link.round_trip + link.jitter) for it, link in turns),
        chain=max(chain(acceptance, target, machine, asked) for machine in machines),
        apart=run(acceptance, target, machines, asked),
        ours=run(acceptance, target, machines, asked, local_draft=beside),
        bound=schedules.free(target, acceptance, tokens),
        tree_bound=schedules.free(target, acceptance, tokens, CHILDREN),
        more=run(acceptance, target, more, asked, local_draft=beside) if more else None,
        wide=run(acceptance, target, [_wide(machines[0])], asked, WIDE, local_draft=beside) if more else None,
    )


def _wide(machine: Machine) -> Machine:
    return replace(machine, cost=lambda rows: machine.cost(1))


@dataclass(frozen=True)
class Place:
    """Where a cell is in a sweep."""

    target: str
    draft_ms: float
    round_trip_ms: float
    acceptance: str

    def __str__(self) -> str:
        return (
            f"{self.target}, draft {self.draft_ms:g} ms, round trip {self.round_trip_ms:g} ms, "
            f"acceptance {self.acceptance}"
        )


Cells = dict[Place, Speeds]

LEAST, LEAST_IID = 0.99, 0.97
"""Share of the best other schedule that ours must reach in every cell, and under i.i.d. acceptance."""
MEANS = {"flat": 1.18, "bf16": 1.10, "Q8_0": 1.04}
"""The same for the geometric mean, by target."""
SECOND, SLOW_DRAFTS_MS = 1.08, (15, 30)
"""Gain of a second back that the geometric mean must reach, and the draft token times where it must."""
WORST = 5


def mean(values: Iterable[float]) -> float:
    """Geometric."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def verdict(cells: Cells, independent: bool, backs: int = 1, gentle: bool = True) -> list[str]:
    """Lines for people: each target against what it must reach, the worst cells, the gain of more backs.

    `gentle`: wide batches of the draft are cheap. The means that are wanted hold for such drafts.
    """
    least = LEAST_IID if independent else LEAST
    lines: list[str] = []
    for target in dict.fromkeys(place.target for place in cells):
        ratios = [it.ratio for place, it in cells.items() if place.target == target]
        wanted = MEANS.get(target) if gentle and not independent else None
        line = f"{target}: geometric mean {mean(ratios):.3f}"
        line += f" (wanted {wanted:.2f}: {_kept(mean(ratios) >= wanted)})" if wanted else ""
        under = sum(ratio < least for ratio in ratios)
        line += f", worst cell {min(ratios):.3f} (wanted {least:.2f}: {_kept(not under)})"
        lines.append(f"{line}, {under} of {len(ratios)} cells under {least:.2f}")
    lines.append("worst cells:")
    for place, it in sorted(cells.items(), key=lambda cell: cell[1].ratio)[:WORST]:
        lines.append(f"  {it.ratio:.3f}  {place}: ours {it.ours:.1f}, best other {it.best:.1f} tokens/s")
    slow = [it for place, it in cells.items() if place.draft_ms in SLOW_DRAFTS_MS]
    gains = [it.more / it.ours for it in slow if it.more is not None]
    if gains:
        line = f"{backs} equal backs over one, draft {' and '.join(map(str, SLOW_DRAFTS_MS))} ms: "
        line += f"geometric mean {mean(gains):.3f}"
        line += f" (wanted {SECOND:.2f}: {_kept(mean(gains) >= SECOND)})" if backs == 2 and not independent else ""
        lines.append(f"{line}, worst cell {min(gains):.3f}")
    if wide := [it.wide / it.ours for it in slow if it.wide is not None]:
        lines.append(f"one back whose batches take no longer for being wide, a bound for that: {mean(wide):.3f}")
    return lines


def _kept(kept: bool) -> str:
    return "reached" if kept else "MISSED"


HEAD = (
    "target", "draft, ms", "round trip, ms", "acceptance", "no back", "sync local", "sync remote", "chain", "back only",
    "ours", "free chain", "free tree", "ours/best",
)  # fmt: skip


def rows(cells: Cells, backs: int = 1) -> list[tuple[str, ...]]:
    """The table, its heading first."""
    made = [(*HEAD, *((f"{backs} backs", f"{backs} backs/one") if backs > 1 else ()))]
    for place, it in cells.items():
        figures = (it.none, it.local, it.remote, it.chain, it.apart, it.ours, it.bound, it.tree_bound)
        row: tuple[str, ...] = (place.target, f"{place.draft_ms:g}", f"{place.round_trip_ms:g}", place.acceptance)
        row += (*(f"{figure:.1f}" for figure in figures), f"{it.ratio:.3f}")
        made.append((*row, *((f"{it.more:.1f}", f"{it.more / it.ours:.3f}") if it.more is not None else ())))
    return made
