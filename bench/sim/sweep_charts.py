"""Charts of a sweep: speed-up over round trip, and how we do against the best other schedule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.show import charts
from bench.show.charts import Line, Panel
from bench.sim.cells import Cells, Place, Speeds

SCHEDULES: dict[str, Callable[[Speeds], float]] = {
    "ours": lambda it: it.ours,
    "ours, no draft model beside the target": lambda it: it.apart,
    "plain asynchronous chain": lambda it: it.chain,
    "synchronous, remote": lambda it: it.remote,
    "synchronous, local": lambda it: it.local,
    "bound: free chains": lambda it: it.bound,
    "bound: free trees": lambda it: it.tree_bound,
}


def draw(out: Path, conditions: str, cells: Cells) -> None:
    """speedup-TARGET-DRAFTms.svg and ratio-TARGET.svg."""
    for target in dict.fromkeys(place.target for place in cells):
        of = {place: it for place, it in cells.items() if place.target == target}
        for draft in dict.fromkeys(place.draft_ms for place in of):
            title = f"Speed-up over the target alone: {target}, draft {draft:g} ms, {conditions}"
            beside = [panel(of, draft, acceptance) for acceptance in dict.fromkeys(p.acceptance for p in of)]
            charts.lines(out / f"speedup-{target}-{draft:g}ms.svg", title, "round trip, ms", "speed-up", beside)
        heat(out / f"ratio-{target}.svg", f"Ours over the best other schedule: {target}, {conditions}", of)


def panel(cells: Cells, draft_ms: float, acceptance: str) -> Panel:
    """A line for each schedule over the round trips."""
    there = {p.round_trip_ms: it for p, it in cells.items() if (p.draft_ms, p.acceptance) == (draft_ms, acceptance)}
    x = sorted(there)
    made: list[Line] = []
    for name, of in SCHEDULES.items():
        y = [of(there[at]) / there[at].none for at in x]
        made.append(Line(name, x, y, y, y, strong=name == "ours", dashed=name.startswith("bound")))
    if all(it.more is not None for it in there.values()):
        y = [(there[at].more or 0.0) / there[at].none for at in x]
        made.append(Line("ours, more backs", x, y, y, y))
    return Panel(f"acceptance {acceptance}", lines=made)


def heat(path: Path, title: str, cells: Cells) -> None:
    def row(place: Place) -> tuple[str, float]:
        return place.acceptance, place.draft_ms

    x = sorted({place.round_trip_ms for place in cells})
    y = sorted({row(place) for place in cells})
    values = {(*row(place), place.round_trip_ms): it.ratio for place, it in cells.items()}
    charts.heat(
        path, title, "round trip, ms", "acceptance, draft", [f"{at:g}" for at in x],
        [f"{acceptance}, {draft:g} ms" for acceptance, draft in y], [[values[(*r, at)] for at in x] for r in y],
    )  # fmt: skip
